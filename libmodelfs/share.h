/*
 * Sharing: tensors with the same bytes are stored once.
 *
 * Not single frames, though two records of the frame table may name one place: equal
 * spans have equal frames only where both tensors were coded with the same tables, and
 * tests/bench/shared_spans finds such spans beyond equal tensors and deltas in one kind
 * of pair alone, models whose vocabulary was extended (the embeddings, 13 % of an 8B
 * model, 30 % of small ones); in fine-tunes and types of one model there are none.
 */
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
