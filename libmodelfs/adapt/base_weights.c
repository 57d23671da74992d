#include "base_weights.h"

#include <stdlib.h>

#include "../../format/check.h"
#include "../../format/layout_nf4.h"

#define PIECE (1u << 18) /* weights at a time, or one row */

struct rows {
	const mfs_base_model *files; /* of the model */
	const mfs_base_model *model; /* the one that the rows are in */
	const mfs_import_tensor *t;
	uint64_t columns;
	const mfs_dequant *type; /* NULL: NF4 */
	/* Of NF4; `nested` is NULL where the scales are numbers of their own. */
	mfs_nf4 nf4;
	uint8_t *absmax, *nested;
	mfs_merge merge;
};

static int read_whole(const mfs_base_model *model, uint32_t number, uint8_t **out)
{
	const mfs_import_tensor *t = &model->import.tensors[number];
	mfs_source source = model->source;
	uint8_t *bytes = malloc(t->size);
	int error = bytes ? source.read_at(&source, t->offset, bytes, t->size) : MFS_E_MEMORY;

	if (error) {
		free(bytes);
		return error;
	}
	*out = bytes;
	return 0;
}

static int read_map(struct rows *r, mfs_bnb_part map)
{
	uint8_t *bytes;
	int error = read_whole(&r->files[map.file], map.tensor, &bytes);

	if (error)
		return error;
	mfs_dequantize(mfs_dequant_ggml(MFS_GGML_F32), MFS_SIMD_PORTABLE, bytes, 256,
		       r->nf4.nested_map);
	free(bytes);
	return 0;
}

/* The constants of the codes in tensor `target`. */
static int open_nf4(struct rows *r, uint32_t target)
{
	const mfs_base_model *model = r->model;
	const mfs_bnb_matrix *m = mfs_bnb_find(model->bnb, target);
	const uint32_t own = (uint32_t)(model - r->files);
	/* Where --quantize puts them. */
	mfs_bnb_part absmax = {own, target + 1}, nested = {own, target + 2};
	mfs_bnb_part map = {own, model->import.tensor_count - 1};
	int error;

	if (m) {
		absmax = m->absmax;
		nested = m->nested;
		map = m->nested_map;
	}
	mfs_nf4_init(&r->nf4);
	error = read_whole(&r->files[absmax.file], absmax.tensor, &r->absmax);
	if (error || nested.tensor == UINT32_MAX)
		return error;
	error = read_whole(&r->files[nested.file], nested.tensor, &r->nested);
	if (!error)
		error = read_map(r, map);
	/* What --quantize computes is known once constants were read. */
	if (m)
		r->nf4.offset = m->offset;
	else if (model->requantized)
		r->nf4.offset = mfs_requantized_nested_offset(model->requantized, r->t->offset);
	else if (model->nested_offsets && model->nested_offsets[target] >= 0)
		r->nf4.offset = model->nested_offsets[target];
	else
		return MFS_E_UNSUPPORTED;
	return error;
}

static int rows_open(struct rows *r, const mfs_base_model *files, uint32_t number, uint32_t target,
		     uint64_t columns, const mfs_merge_adapter *adapter)
{
	const mfs_base_model *model = &files[number];
	const mfs_layout *layout = model->import.tensors[target].layout;

	*r = (struct rows){.files = files,
			   .model = model,
			   .t = &model->import.tensors[target],
			   .columns = columns,
			   .merge = {.columns = columns,
				     .type = mfs_store_ggml(MFS_GGML_F32),
				     .adapter = adapter,
				     .adapters = 1,
				     .simd = mfs_simd_best()}};
	if (layout == mfs_layout_nf4() || mfs_bnb_find(model->bnb, target))
		return open_nf4(r, target);
	r->type = mfs_dequant_of(layout);
	return r->type && columns % r->type->block_weights == 0 ? 0 : MFS_E_UNSUPPORTED;
}

static void rows_close(struct rows *r)
{
	free(r->absmax);
	free(r->nested);
}

/* ---- pieces ---- */

static int read_at(const struct rows *r, uint64_t offset, uint8_t *out, uint64_t length)
{
	mfs_source source = r->model->source;

	if (!range_ok(offset, length, r->t->size))
		return MFS_E_INVALID;
	return source.read_at(&source, r->t->offset + offset, out, (size_t)length);
}

static void take_scales(const struct rows *r, uint64_t block, size_t count, float *out)
{
	if (r->nested)
		mfs_nf4_scales(&r->nf4, r->absmax + block, r->nested, block, count, out);
	else
		mfs_dequantize(mfs_dequant_ggml(MFS_GGML_F32), MFS_SIMD_PORTABLE,
			       r->absmax + 4 * block, count, out);
}

static int merge_codes(const struct rows *r, uint64_t first, size_t count, uint8_t *raw,
		       uint8_t *merged)
{
	uint64_t block = first / MFS_NF4_BLOCK, skip = first % MFS_NF4_BLOCK;
	size_t blocks = (size_t)div_up(skip + count, MFS_NF4_BLOCK);
	float *scales = calloc(blocks, sizeof(*scales));
	mfs_merge_base base = {.nf4 = &r->nf4, .codes = raw, .scales = scales, .skip = skip};
	int error = scales ? read_at(r, block * MFS_NF4_BLOCK / 2, raw, div_up(skip + count, 2))
			   : MFS_E_MEMORY;

	if (!error) {
		take_scales(r, block, blocks, scales);
		error = mfs_merge_span(&r->merge, &base, first, count, merged);
	}
	free(scales);
	return error;
}

/* Rows `row` .. row + count - 1 with the adapter, as F32. */
static int merge_rows(const struct rows *r, uint64_t row, uint64_t count, uint8_t *raw,
		      uint8_t *merged)
{
	uint64_t first = row * r->columns, weights = count * r->columns;
	mfs_merge_base base = {.type = r->type, .blocks = raw};
	int error;

	if (!r->type)
		return merge_codes(r, first, (size_t)weights, raw, merged);
	error = read_at(r, first / r->type->block_weights * r->type->block_bytes, raw,
			weights / r->type->block_weights * r->type->block_bytes);
	if (error)
		return error;
	return mfs_merge_span(&r->merge, &base, first, (size_t)weights, merged);
}

/* `merged` are `count` rows as the file of an F32 view would have them. */
static int row_gains(const struct rows *r, uint64_t count, const uint8_t *merged, float *row,
		     const float *magnitude, float *gain)
{
	int error = 0;

	for (uint64_t i = 0; i < count && !error; i++) {
		mfs_dequantize(mfs_dequant_ggml(MFS_GGML_F32), r->merge.simd,
			       merged + i * r->columns * sizeof(float), (size_t)r->columns, row);
		error = mfs_merge_gain(row, r->columns, magnitude[i], &gain[i]);
	}
	return error;
}

int mfs_base_gains(const mfs_base_model *files, uint32_t number, uint32_t target, uint64_t rows,
		   uint64_t columns, const mfs_merge_adapter *adapter, const float *magnitude,
		   float *gain)
{
	uint64_t step = columns < PIECE ? PIECE / columns : 1;
	/* No block takes more than its floats; codes may begin in the middle of one. */
	uint8_t *raw = malloc(step * columns * sizeof(float) + MFS_NF4_BLOCK);
	uint8_t *merged = malloc(step * columns * sizeof(float));
	float *row = malloc(columns * sizeof(float));
	struct rows r = {0};
	int error = raw && merged && row ? rows_open(&r, files, number, target, columns, adapter)
					 : MFS_E_MEMORY;

	for (uint64_t at = 0; at < rows && !error; at += step) {
		uint64_t count = rows - at < step ? rows - at : step;

		error = merge_rows(&r, at, count, raw, merged);
		if (!error)
			error = row_gains(&r, count, merged, row, magnitude + at, gain + at);
	}
	rows_close(&r);
	free(row);
	free(merged);
	free(raw);
	return error;
}
