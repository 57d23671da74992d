/* The order of tensors and extents: that of their files. */
#ifndef MFS_PLAN_SORT_H
#define MFS_PLAN_SORT_H

#include "plan.h"

/* Puts tensors and extents into the order of their files, whatever the order in
 * which they were added, and corrects what refers to them. Those of one file keep
 * theirs. 0 or MFS_E_MEMORY. */
int mfs_plan_sort(mfs_plan *plan);

#endif
