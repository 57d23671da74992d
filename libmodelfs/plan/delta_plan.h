/* Deltas: tensors of a fine-tune that may be stored as their difference to those
 * of its base. */
#ifndef MFS_DELTA_PLAN_H
#define MFS_DELTA_PLAN_H

#include "plan.h"

/* Finds for the tensors of every file with a `delta_of` the tensor of the base
 * with the same name, type and shape, and cuts both alike: `delta_base` is set.
 * After twins are found (share.h), before samples are taken, which decide. */
int mfs_plan_match_deltas(mfs_plan *plan, mfs_problem *why);

#endif
