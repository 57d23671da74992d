/*
 * Coders: threads that turn spans into frames. The owner takes free jobs, fills
 * them in storage order and submits them; finished jobs come back in the order
 * of their submission, whichever thread coded them, so the output does not
 * depend on the number of threads. One thread means none: the owner codes while
 * it collects, which is the reference for the others.
 *
 * All functions are for the one thread that owns the coders.
 */
#ifndef MFS_CODER_H
#define MFS_CODER_H

#include "plan.h"

typedef struct {
	/* Filled in by the owner. */
	const mfs_plan_tensor *tensor;
	const mfs_tables *tables[MFS_SLOTS]; /* open until the job is released */
	uint32_t tensor_number;
	mfs_span span;
	uint8_t *in; /* room for span_max bytes */

	/* The result. */
	int error;
	bool unproven; /* the error: its frames do not decode to the span */
	const uint8_t *stored[MFS_SLOTS];
	mfs_frame_info info[MFS_SLOTS];
	uint64_t hash[MFS_SLOTS];
	/* The member that points to where the frames are, `in` or `out`: who wants to keep
	 * them may put as much memory in its place. NULL: they are elsewhere. */
	uint8_t **room;

	/* The coders' own. */
	uint8_t *out;
	int state;
} mfs_coder_job;

typedef struct mfs_coders mfs_coders;

/* Bytes of the memory that `in` and `out` point to: it starts on a cache line, so that two
 * threads never write to the same one. */
static inline size_t mfs_coder_room(size_t span_max)
{
	return (span_max + 63) / 64 * 64;
}

/* `jobs` jobs of up to span_max bytes on `threads` threads. With `prove` each span is
 * decoded again from the frames it came to, while they are in the processor's cache, and
 * compared with what it was made of; the tables are open for both ways then. 0 or
 * MFS_E_MEMORY. */
int mfs_coders_new(mfs_coders **out, unsigned threads, unsigned jobs, size_t span_max, bool prove);
/* Waits for jobs under way. NULL is fine. */
void mfs_coders_free(mfs_coders *coders);

/* The next free job, or NULL while all are in use. */
mfs_coder_job *mfs_coders_take(mfs_coders *coders);
void mfs_coders_submit(mfs_coders *coders);
/* Waits for the oldest submitted job; NULL if there is none. The same one until it is
 * released. */
mfs_coder_job *mfs_coders_collect(mfs_coders *coders);
/* Gives the collected job back. */
void mfs_coders_release(mfs_coders *coders);

#endif
