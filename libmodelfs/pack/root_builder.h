/*
 * The root of the index as it is stored: what the plan tells, put into records, and
 * into columns where there are many of them. Tables and segments come from whoever
 * writes the index.
 *
 * Used by one thread.
 */
#ifndef MFS_ROOT_BUILDER_H
#define MFS_ROOT_BUILDER_H

#include "plan.h"

/* A root of up to this many bytes is stored as it is: columns would save no page, and
 * older readers can open it. */
#define MFS_ROOT_PLAIN_MAX 4096u

typedef struct {
	const mfs_plan *plan;
	mfs_root root;
	uint8_t *bytes;
	/* From mfs_root_builder_store(): NULL, it is stored as it is, or its columns. */
	uint8_t *stored;
	uint32_t stored_size;
	uint32_t names, fields, dims; /* used so far */
	struct {
		uint32_t name, first_dim;
	} * own; /* of each tensor that is not derived */
} mfs_root_builder;

/* Lays out the root of a numbered plan with so many chunks, and segments of both kinds.
 * 0, MFS_E_LIMIT or MFS_E_MEMORY; to be closed in any case. */
int mfs_root_builder_open(mfs_root_builder *out, const mfs_plan *plan, uint64_t chunks,
			  uint32_t segments, mfs_problem *why);
void mfs_root_builder_close(mfs_root_builder *builder);

/* Puts everything but new tables and the segments. */
void mfs_root_builder_put_plan(mfs_root_builder *builder);

/* Decides how the root is stored, once all of it is put. Once. 0 or MFS_E_MEMORY. */
int mfs_root_builder_store(mfs_root_builder *builder, mfs_problem *why);

/* Instead of that, when only the plan is put: the room in which the root will most
 * likely find place. How large columns become depends on what stands in them, and hashes
 * and places are still to come: hashes are counted in full, of each place the word that
 * differs from the one before. What is stored as it is always has room. 0 or MFS_E_MEMORY. */
int mfs_root_builder_forecast(mfs_root_builder *builder, uint64_t *room, mfs_problem *why);

#endif
