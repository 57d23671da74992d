/*
 * What the weights of one tensor lose by being changed, each counted once, however
 * often and in whatever order they are computed. The sums do not depend on that
 * order: ranges are added in the order of the tensor, those that come early wait.
 * Safe from any thread.
 */
#ifndef MFS_LOSS_METER_H
#define MFS_LOSS_METER_H

#include <pthread.h>
#include <stdbool.h>

#include "../../format/quantizers.h"

typedef struct {
	mfs_quantize_error error;
	uint64_t zeros;		/* of the weights as they are now */
	uint64_t blocks, equal; /* compared with those of a base; equal to them */
} mfs_loss_sum;

struct mfs_loss_range;

typedef struct {
	pthread_mutex_t lock; /* guards the rest */
	bool running;
	uint64_t measured; /* weights that `sum` counts: the first ones */
	mfs_loss_sum sum;
	struct mfs_loss_range *early; /* ranges behind those, sorted */
	size_t early_count, early_room;
} mfs_loss_meter;

void mfs_loss_meter_open(mfs_loss_meter *meter);
void mfs_loss_meter_close(mfs_loss_meter *meter);

/* Until then nothing is counted: parts that are read to choose a codec are read
 * again. From then on the ranges that are added together tile the tensor, once or
 * several times. */
void mfs_loss_meter_start(mfs_loss_meter *meter);
/* Whether the weights first .. first + count - 1 are still to be counted. */
bool mfs_loss_meter_wants(mfs_loss_meter *meter, uint64_t first, uint64_t count);
/* 0, or MFS_E_MEMORY where an early range cannot be kept. */
int mfs_loss_meter_add(mfs_loss_meter *meter, uint64_t first, uint64_t count,
		       const mfs_loss_sum *sum);
/* Adds the weights that were `was` and are `now` to a sum. */
void mfs_loss_sum_add(mfs_loss_sum *sum, const float *was, const float *now, size_t count);
void mfs_loss_sum_up(mfs_loss_sum *sum, const mfs_loss_sum *more);

#endif
