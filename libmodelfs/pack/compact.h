/*
 * Compacting: the frames that files still refer to, as they are stored, for a new
 * container. Nothing is decoded; hashes are made anew, as they are bound to the
 * numbers of the frames.
 *
 * Used by one thread.
 */
#ifndef MFS_COMPACT_H
#define MFS_COMPACT_H

#include "carried.h"
#include "coder.h"

typedef struct mfs_compactor mfs_compactor;

/* Turns a built plan of nothing but carried files into that of a new container:
 * tensors with the same frames become twins, spans with the same frames are stored once
 * again, and tables are loaded. */
int mfs_compactor_new(mfs_compactor **out, mfs_plan *plan, mfs_problem *why);
void mfs_compactor_free(mfs_compactor *compactor); /* NULL is fine */

/* Fills in `job`, as a coder would, with span i of a numbered tensor; the bytes are
 * valid until the next call. Damage is an error that names the tensor. */
int mfs_compactor_span(mfs_compactor *compactor, uint32_t tensor, uint64_t i, mfs_coder_job *job,
		       mfs_problem *why);

/* ---- inside ---- */

/* Finds out which tensors and spans of the plan lie in the same places: sets their
 * `twin`, `leader` and `owners` (compact_shared.c). */
int mfs_compact_find_shared(mfs_plan *plan, mfs_problem *why);
/* Says that the tensor is damaged at `offset`; returns `error`. */
int mfs_compact_damaged(const mfs_plan *plan, uint32_t tensor, int error, uint64_t offset,
			mfs_problem *why);

#endif
