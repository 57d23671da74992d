/*
 * Pruning: the weights of least magnitude become 0, in place. Equal magnitudes
 * are told apart by their place, so the result depends on nothing else. Pure
 * functions; safe from any thread.
 */
#ifndef MFS_PRUNE_H
#define MFS_PRUNE_H

#include <stddef.h>
#include <stdint.h>

#define MFS_PRUNE_BINS 65536

/*
 * A share of a whole tensor, in three passes over its weights, in pieces of any
 * size: count all, narrow, count all again, settle; then apply to all, in order.
 * The histogram is the caller's, MFS_PRUNE_BINS numbers.
 */
typedef struct {
	uint64_t *histogram;
	uint64_t target; /* weights that become 0 */
	uint64_t below;	 /* of those, weights below the bin that is being looked into */
	uint64_t ties;	 /* weights of magnitude `threshold` that still become 0 */
	uint32_t bin;
	uint32_t threshold; /* bits of an F32 */
	int narrowed;
} mfs_prune;

/* `target` of the weights that will be counted are to become 0. */
void mfs_prune_start(mfs_prune *prune, uint64_t *histogram, uint64_t target);
void mfs_prune_count(mfs_prune *prune, const float *weights, size_t count);
void mfs_prune_narrow(mfs_prune *prune); /* after the first pass */
void mfs_prune_settle(mfs_prune *prune); /* after the second */
void mfs_prune_apply(mfs_prune *prune, float *weights, size_t count);

/* 2:4: of each four weights the two of least magnitude, the later ones first. What
 * is left over at the end is kept. */
void mfs_prune_2_of_4(float *weights, size_t count);

#endif
