/* Filling in the one line that explains a failure. */
#ifndef MFS_PROBLEM_H
#define MFS_PROBLEM_H

#include "modelfs_error.h"

/* Sets `why` (NULL is fine) and returns `error`, so that a failing check is one
 * line. `offset` is a place in the file that the text names, or UINT64_MAX. A
 * text that does not fit is cut; control characters in it (from hostile names)
 * become '?'. */
int mfs_problem_set(mfs_problem *why, int error, uint64_t offset, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* The same about the file or the tensor `name`, at no place in particular: the text is
 * "NAME: " and what follows. */
int mfs_problem_about(const char *name, mfs_problem *why, int error, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* The same for memory that ran out, nowhere in particular: MFS_E_MEMORY. */
int mfs_problem_no_memory(mfs_problem *why);

#endif
