/*
 * Spans of sources that are computed while they are read (quantized, merged), read
 * ahead by several threads: the packer takes them in their order, as if it had read
 * them itself. Functions are for the one thread that owns it.
 */
#ifndef MFS_AHEAD_H
#define MFS_AHEAD_H

#include "plan.h"

typedef struct mfs_ahead mfs_ahead;

/* Consecutive spans of one tensor, and (or NULL) those of the tensor that it is stored
 * as a difference to. Both lie at `record.file_offset` of their sources, which must be
 * safe to read from any thread. */
typedef struct {
	const mfs_plan_tensor *tensor, *base;
	mfs_source *source, *base_source;
	uint64_t first, count;
} mfs_ahead_run;

/* For spans of up to span_max bytes. 0 or MFS_E_MEMORY. */
int mfs_ahead_new(mfs_ahead **out, unsigned threads, size_t span_max);
/* Waits for reads under way. NULL is fine. */
void mfs_ahead_free(mfs_ahead *ahead);

/* Begins to read; all spans of the run before must have been taken. */
void mfs_ahead_start(mfs_ahead *ahead, const mfs_ahead_run *run);
/* True while there are spans to take. */
bool mfs_ahead_has(const mfs_ahead *ahead);
/* Waits for the next span: copies it to `bytes`, and that of the base to `base_bytes`,
 * if there is one. On failure the error of the read with its errno, and *base_failed
 * tells whose. */
int mfs_ahead_take(mfs_ahead *ahead, uint8_t *bytes, uint8_t *base_bytes, bool *base_failed);

#endif
