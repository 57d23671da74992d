/*
 * Cutting a view into extents and derived tensors: what those of all formats share.
 * view_gguf.c and view_safetensors.c say which bytes come from where, in the order
 * of the view; each call here adds the next ones.
 */
#ifndef MFS_VIEW_BUILD_H
#define MFS_VIEW_BUILD_H

#include "view.h"

typedef struct {
	mfs_plan *plan;
	mfs_problem *why;
	uint32_t file, base; /* numbers of the files */
	mfs_view *view;
	mfs_import_index index; /* of the base */
	uint32_t *numbers;	/* of the base's tensors in the plan */
	/* Those of the other files of the base's model, by file; NULL: not looked up yet. */
	uint32_t **shard_numbers, shard_count;
	uint32_t **part_numbers, **gain_numbers;
	uint64_t position; /* in the view */
} mfs_view_builder;

static inline const mfs_import *mfs_view_base(const mfs_view_builder *b)
{
	return &b->plan->files[b->base].import;
}

/* The next `length` bytes are those of the base from `offset` on. */
int mfs_view_add_range(mfs_view_builder *b, uint64_t offset, uint64_t length);
/* They are the view's own: its source has them. */
int mfs_view_add_literal(mfs_view_builder *b, uint64_t length);
/* Zeros up to a multiple of `alignment`. */
int mfs_view_pad(mfs_view_builder *b, uint64_t alignment);
/* `size` bytes that are computed from tensor `number` of the base and what the view's
 * adapters add to it. What cannot be computed is refused: MFS_E_UNSUPPORTED. */
int mfs_view_add_derived(mfs_view_builder *b, uint32_t number, const mfs_layout *layout,
			 uint64_t size);

/* Whether an adapter of the view changes tensor `number` of the base. */
bool mfs_view_merges(const mfs_view_builder *b, uint32_t number);

/* One for each format. */
int mfs_view_build_gguf(mfs_view_builder *b);
int mfs_view_build_safetensors(mfs_view_builder *b);

#endif
