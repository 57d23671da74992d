/* Removing files from a container: which may go, and what goes with them. */
#ifndef MFS_REMOVE_H
#define MFS_REMOVE_H

#include "carried.h"

/* Marks for removal the file called `name`, or the adapter of that name, or what is in
 * the directory. */
int mfs_carried_remove(mfs_carried *carried, const char *name, mfs_problem *why);

/* Marks the views that use nothing but removed adapters, and refuses, naming a file,
 * if one that stays depends on one that goes. */
int mfs_carried_check_removed(mfs_carried *carried, mfs_problem *why);

/* Drops what is marked from a plan that is not built yet; returns how many files. */
uint32_t mfs_carried_drop_removed(mfs_plan *plan);

#endif
