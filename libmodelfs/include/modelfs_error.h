/* Errors of modelfs: zero or a count is success, a negative mfs_error is
 * failure. Three kinds stay apart: the medium failed, the file is wrong, the
 * caller is wrong. */
#ifndef MODELFS_ERROR_H
#define MODELFS_ERROR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define MFS_API __attribute__((visibility("default")))
#else
#define MFS_API
#endif

typedef enum {
	/* the medium or the system */
	MFS_E_IO = -1,	   /* the medium failed */
	MFS_E_MEMORY = -2, /* out of memory */
	MFS_E_SYSTEM = -3, /* another call to the system failed; errno tells */
	/* the file */
	MFS_E_MAGIC = -10,	 /* not a container, or not the format that was expected */
	MFS_E_CORRUPT = -11,	 /* damaged: a checksum or a field is wrong */
	MFS_E_TRUNCATED = -12,	 /* shorter than it says */
	MFS_E_UNSUPPORTED = -13, /* made by a newer modelfs */
	MFS_E_INVALID = -14,	 /* a source file that breaks the rules of its format */
	MFS_E_LIMIT = -15,	 /* valid, but past a limit of the format */
	/* the caller */
	MFS_E_ARGUMENT = -20,
	MFS_E_NOT_FOUND = -21,
	MFS_E_EXISTS = -22,
	MFS_E_CANCELLED = -23,
	MFS_E_BUSY = -24 /* another writer has it */
} mfs_error;

/* One line about a failure, for people: the file, the place and the reason. */
typedef struct {
	int error;	 /* mfs_error, 0 if nothing went wrong */
	uint64_t offset; /* in the file that is named, or UINT64_MAX */
	char text[512];	 /* terminated, no newline */
} mfs_problem;

/* A few words for an error. Never NULL. */
MFS_API const char *mfs_error_text(int error);

#ifdef __cplusplus
}
#endif
#endif
