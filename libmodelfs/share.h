/* Sharing: tensors with the same bytes are stored once. */
#ifndef MFS_SHARE_H
#define MFS_SHARE_H

#include <stdatomic.h>

#include "plan.h"

/* Sets `twin` of every new tensor of a built plan that repeats a stored or an
 * earlier one. Only
 * tensors cut alike are compared, and only those that look the same in a few
 * places are read whole. */
int mfs_plan_share(mfs_plan *plan, const atomic_int *cancel, mfs_problem *why);

#endif
