/*
 * Views of GGUF models: the header is the base's but for the types and offsets of
 * the tensors.
 */
#include "view_build.h"

#include <string.h>

#include "../../format/check.h"
#include "../../format/dequant.h"
#include "../../format/layout_ggml.h"
#include "../../format/layout_nf4.h"
#include "gguf_header.h"
#include "gguf_roles.h"
#include "problem.h"

#define refuse(b, error, ...) mfs_problem_set((b)->why, (error), UINT64_MAX, __VA_ARGS__)

/* ---- which type a tensor has in a view ---- */

/* Numbers that are no weights, or more than an F32 holds. */
static bool is_number_type(const mfs_layout *layout)
{
	static const char *const names[] = {"I8", "I16", "I32", "I64", "F64"};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (strlen(names[i]) == layout->name_length &&
		    !memcmp(names[i], layout->name, layout->name_length))
			return true;
	return false;
}

static bool is_type(const mfs_layout *layout, uint32_t ggml_type)
{
	const mfs_dequant *d = mfs_dequant_of(layout);

	return d && d->ggml_type == ggml_type;
}

/* The layout that a tensor of the base has in a view. Vectors stay as they are;
 * Q8_0 wants rows of whole blocks. */
static const mfs_layout *layout_in_view(const mfs_import_tensor *t, uint32_t ggml_type)
{
	bool matrix = mfs_import_dim(t, 1) * mfs_import_dim(t, 2) * mfs_import_dim(t, 3) > 1;

	if (!matrix || is_number_type(t->layout) ||
	    (is_type(t->layout, MFS_GGML_F32) && mfs_gguf_stays_float(t->name)))
		return t->layout;
	if (ggml_type == MFS_GGML_Q8_0 && mfs_import_dim(t, 0) % 32)
		ggml_type = MFS_GGML_F16;
	return mfs_layout_ggml(ggml_type);
}

/* ---- building ---- */

static bool is_nf4(const mfs_import_tensor *t)
{
	return t->layout == mfs_layout_nf4();
}

static uint64_t size_in_view(const mfs_import_tensor *t, const mfs_layout *layout)
{
	/* The base's import has proved that there are less than 2^63 weights. */
	uint64_t weights = t->size / t->layout->block_bytes * t->layout->block_weights;

	/* The last byte of codes may hold one weight. */
	if (is_nf4(t) && mfs_import_dim(t, 0) % 2 && mfs_import_dim(t, 1) % 2 &&
	    mfs_import_dim(t, 2) % 2 && mfs_import_dim(t, 3) % 2)
		weights--;
	return weights / layout->block_weights * layout->block_bytes;
}

/* Types and offsets as the view has them. Tensors follow each other in the order
 * of their descriptions, each padded, as llama.cpp wants them. */
static int describe(mfs_view_builder *b)
{
	mfs_view *v = b->view;
	uint64_t offset = 0;
	mfs_gguf_info info;

	for (size_t at = 0; mfs_gguf_info_next(v->infos, v->infos_size, &at, &info);) {
		uint32_t i = mfs_import_find(&b->index, info.name, info.name_length);

		store_le64(v->infos + info.offset_at, offset);
		if (i == UINT32_MAX)
			continue; /* it has no bytes */
		store_le32(v->infos + info.type_at,
			   layout_in_view(&mfs_view_base(b)->tensors[i], v->ggml_type)->type_id);
		offset += size_in_view(&mfs_view_base(b)->tensors[i],
				       layout_in_view(&mfs_view_base(b)->tensors[i], v->ggml_type));
		offset = round_up(offset, mfs_view_base(b)->gguf.alignment);
		if (offset > MFS_FILE_MAX / 2)
			return refuse(b, MFS_E_LIMIT, "%s: would be too large",
				      b->plan->files[b->file].name);
	}
	return 0;
}

static int add_head(mfs_view_builder *b)
{
	const mfs_gguf_facts *facts = &mfs_view_base(b)->gguf;
	mfs_view *v = b->view;
	int error = 0;

	v->infos_at = facts->infos;
	v->file_type_at = facts->file_type;
	store_le32(v->file_type, mfs_gguf_file_type(v->ggml_type));
	if (facts->file_type) {
		error = mfs_view_add_range(b, 0, facts->file_type);
		if (!error)
			error = mfs_view_add_literal(b, sizeof(v->file_type));
	}
	if (!error)
		error = mfs_view_add_range(b, b->position, facts->infos - b->position);
	if (!error && v->infos_size)
		error = mfs_view_add_literal(b, v->infos_size);
	return error ? error : mfs_view_pad(b, facts->alignment);
}

static int add_tensors(mfs_view_builder *b)
{
	const mfs_import *base = mfs_view_base(b);
	mfs_gguf_info info;
	int error = 0;

	for (size_t at = 0;
	     !error && mfs_gguf_info_next(b->view->infos, b->view->infos_size, &at, &info);) {
		uint32_t i = mfs_import_find(&b->index, info.name, info.name_length);
		const mfs_import_tensor *t = i == UINT32_MAX ? NULL : &base->tensors[i];
		const mfs_layout *layout = t ? layout_in_view(t, b->view->ggml_type) : NULL;

		if (!t)
			continue;
		if (layout == t->layout && !mfs_view_merges(b, i))
			error = mfs_view_add_range(b, t->offset, t->size);
		else
			error = mfs_view_add_derived(b, i, layout, size_in_view(t, layout));
		if (!error)
			error = mfs_view_pad(b, base->gguf.alignment);
	}
	return error;
}

int mfs_view_build_gguf(mfs_view_builder *b)
{
	mfs_plan_file *base = &b->plan->files[b->base];
	int error = mfs_gguf_infos_read(&base->import, &base->source, &b->view->infos,
					&b->view->infos_size, b->why);

	if (!error)
		error = describe(b);
	if (!error)
		error = add_head(b);
	return error ? error : add_tensors(b);
}
