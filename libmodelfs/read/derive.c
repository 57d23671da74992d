/* Derived tensors: spans that are computed from the blocks of a base and operands. */
#include <stdlib.h>

#include "merge.h"
#include "operands.h"

bool tensor_is_derived(const struct reader *r, uint32_t tensor)
{
	mfs_root_tensor t;

	mfs_root_get_tensor(&r->c->root, tensor, &t);
	return t.flags & MFS_TENSOR_DERIVED;
}

static const mfs_store *store_of(const mfs_layout *layout)
{
	const mfs_dequant *d = mfs_dequant_of(layout);

	return d ? mfs_store_ggml(d->ggml_type) : NULL;
}

static mfs_merge_adapter adapter_of(const struct operand *op, const mfs_root_term *term,
				    const mfs_operand_shape *shape)
{
	bool turned = term->flags & MFS_TERM_B_TRANSPOSED;
	uint64_t each = mfs_merge_panel_floats(term->rank, shape->columns);

	return (mfs_merge_adapter){.panels = op->panels,
				   .slice_step = shape->experts > 1 ? each : 0,
				   .b = op->b,
				   .row_step = turned ? 1 : term->rank,
				   .rank_step = turned ? shape->rows : 1,
				   .gain = op->gain,
				   .rank = term->rank,
				   .scale = term->scale};
}

/* The adapters of a tensor; returns their number and sets the shape of a row, which
 * all of them share. */
static uint32_t find_adapters(const struct reader *r, uint32_t tensor, mfs_merge *merge,
			      mfs_merge_adapter out[MFS_TERMS_MAX])
{
	uint32_t first, n = mfs_root_terms(&r->c->root, tensor, &first), count = 0;

	for (uint32_t i = first; i < first + n; i++) {
		mfs_operand_shape shape;
		mfs_root_term term;

		mfs_root_get_term(&r->c->root, i, &term);
		if (term.kind != MFS_TERM_LORA)
			continue;
		shape = operand_shape(r, &term);
		merge->columns = shape.columns;
		merge->slice_rows = shape.experts > 1 ? shape.rows / shape.experts : 0;
		out[count++] = adapter_of(&r->operands[i], &term, &shape);
	}
	return count;
}

/* The constants of the tensor's codes, or NULL where its base has none. */
static const struct operand *find_nf4(const struct reader *r, uint32_t tensor)
{
	uint32_t first, n = mfs_root_terms(&r->c->root, tensor, &first);
	mfs_root_term term;

	if (!n)
		return NULL;
	mfs_root_get_term(&r->c->root, first, &term);
	return term.kind == MFS_TERM_NF4 ? &r->operands[first] : NULL;
}

/* Codes of weights first .. first + count - 1 lie at `blocks`: `first` begins a
 * block. *made is freed by the caller. */
static int use_codes(const struct operand *op, const uint8_t *blocks, uint64_t first, size_t count,
		     mfs_merge_base *base, float **made)
{
	uint64_t block = first / MFS_NF4_BLOCK;
	size_t n = count / MFS_NF4_BLOCK + (count % MFS_NF4_BLOCK != 0);

	if (first % MFS_NF4_BLOCK)
		return MFS_E_UNSUPPORTED;
	base->nf4 = &op->nf4;
	base->codes = blocks;
	if (op->scales) {
		base->scales = op->scales + block;
		return 0;
	}
	*made = operand_floats(n);
	if (!*made)
		return MFS_E_MEMORY;
	mfs_nf4_scales(&op->nf4, op->absmax + block, op->nested, block, n, *made);
	base->scales = *made;
	return 0;
}

int span_derive(struct reader *r, const struct span *span, const uint8_t *blocks)
{
	const struct operand *nf4 = find_nf4(r, span->tensor);
	mfs_merge_adapter adapter[MFS_TERMS_MAX];
	mfs_merge merge = {.adapter = adapter, .simd = r->simd};
	mfs_merge_base base = {.blocks = blocks};
	const mfs_layout *layout;
	float *scales = NULL;
	mfs_root_tensor t;
	uint64_t first;
	size_t count;
	int error = 0;

	mfs_root_get_tensor(&r->c->root, span->tensor, &t);
	layout = &r->c->layouts[t.layout];
	merge.type = store_of(layout);
	/* Without adapters rows do not matter: all weights are one. */
	merge.columns = tensor_weights(r, &t);
	merge.adapters = find_adapters(r, span->tensor, &merge, adapter);
	first = span->place.offset / layout->block_bytes * layout->block_weights;
	count = (size_t)span->place.blocks * layout->block_weights;
	if (nf4)
		error = use_codes(nf4, blocks, first, count, &base, &scales);
	else
		base.type = mfs_dequant_of(span->source[0].layout);
	if (!merge.type || (!nf4 && !base.type))
		error = MFS_E_UNSUPPORTED;
	if (!error)
		error = mfs_merge_span(&merge, &base, first, count, span->buffer);
	free(scales);
	return error;
}
