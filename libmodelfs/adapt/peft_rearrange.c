/*
 * The bytes of one matrix of a converted adapter: rows permuted or turned, numbers scaled,
 * gains computed from magnitudes. The one that was asked for last is kept.
 */
#include <stdlib.h>
#include <string.h>

#include "../../format/dequant.h"
#include "../../format/mfs_endian.h"
#include "peft_matrices.h"

/* Row p of the result: halves of a head become pairs, as GGUF's rotary embedding
 * has them. */
static uint64_t permuted_from(uint64_t row, uint64_t rows, uint32_t heads)
{
	uint64_t head = rows / heads, at = row % head;

	return row - at + at % 2 * (head / 2) + at / 2;
}

static void permute(const struct matrix *m, const uint8_t *in, uint8_t *out)
{
	uint64_t rows = m->from->dims[0], bytes = m->from->size / rows;

	for (uint64_t i = 0; i < rows; i++)
		memcpy(out + i * bytes, in + permuted_from(i, rows, m->heads) * bytes, bytes);
}

static void transpose(const struct matrix *m, const uint8_t *in, uint8_t *out)
{
	uint64_t rows = m->from->dims[0], columns = m->from->dims[1];
	size_t unit = m->from->layout->block_bytes;

	for (uint64_t i = 0; i < rows; i++)
		for (uint64_t j = 0; j < columns; j++)
			memcpy(out + (j * rows + i) * unit, in + (i * columns + j) * unit, unit);
}

/* The numbers with the factor; the caller frees them. */
static float *scale(const struct matrix *m, const uint8_t *in)
{
	const mfs_dequant *type = mfs_dequant_of(m->from->layout);
	uint64_t count = m->from->size / m->from->layout->block_bytes;
	float *out = calloc(count, sizeof(float));

	if (!out)
		return NULL;
	mfs_dequantize(type, mfs_simd_best(), in, count, out);
	for (uint64_t i = 0; i < count && m->factor != 1; i++)
		out[i] *= m->factor;
	return out;
}

/* Bytes of the matrix with its rows as the GGUF file has them, in its own type; the
 * caller frees *out. */
static int move_rows(const mfs_peft *p, const struct matrix *m, uint8_t **out)
{
	uint8_t *raw = malloc(m->from->size), *moved = malloc(m->from->size);
	mfs_source file = p->file;
	int error =
	    raw && moved ? file.read_at(&file, m->from->offset, raw, m->from->size) : MFS_E_MEMORY;

	*out = NULL;
	if (!error && m->change == CHANGE_PERMUTE)
		permute(m, raw, moved);
	else if (!error && m->change == CHANGE_TRANSPOSE)
		transpose(m, raw, moved);
	else if (!error)
		memcpy(moved, raw, m->from->size);
	free(raw);
	*out = moved;
	return error;
}

static int load_floats(const mfs_peft *p, const struct matrix *m, float **out)
{
	uint8_t *moved;
	int error = move_rows(p, m, &moved);

	*out = error ? NULL : scale(m, moved);
	free(moved);
	return error ? error : *out ? 0 : MFS_E_MEMORY;
}

/* Panels of A. */
static int load_panels(const mfs_peft *p, const struct matrix *a, float **out)
{
	uint32_t rank = (uint32_t)a->from->dims[0];
	uint64_t columns = a->from->dims[1];
	float *plain;
	int error = load_floats(p, a, &plain);

	*out = error ? NULL : calloc(mfs_merge_panel_floats(rank, columns), sizeof(float));
	if (*out)
		mfs_merge_pack(plain, columns, 1, rank, columns, *out);
	free(plain);
	return error ? error : *out ? 0 : MFS_E_MEMORY;
}

/* As a view with this adapter alone and scale 1 merges it into tensor `target` of the
 * model. */
static int compute_gains(const mfs_peft *p, const struct matrix *m, const mfs_base_model *model,
			 uint32_t target, float *out)
{
	uint64_t rows = m->from->dims[0], columns = m->a->from->dims[1];
	uint32_t rank = (uint32_t)m->a->from->dims[0];
	float *panels = NULL, *b = NULL, *magnitudes = NULL;
	int error = load_panels(p, m->a, &panels);

	if (!error)
		error = load_floats(p, m->b, &b);
	if (!error)
		error = load_floats(p, m, &magnitudes);
	if (!error) {
		const mfs_merge_adapter adapter = {
		    .panels = panels,
		    .b = b,
		    .row_step = rank,
		    .rank_step = 1,
		    .rank = rank,
		    .scale =
			(float)mfs_peft_wanted_alpha(&p->config, p->config.rank, p->config.alpha) /
			(float)rank};

		error = mfs_base_gains(model, 0, target, rows, columns, &adapter, magnitudes, out);
	}
	free(panels);
	free(b);
	free(magnitudes);
	return error;
}

int mfs_peft_gains(const mfs_peft *p, const char *name, const mfs_base_model *model,
		   uint32_t target, float *out)
{
	for (uint32_t i = 0; i < p->count; i++)
		if (p->matrices[i].matrix == 'm' && !strcmp(p->matrices[i].name, name))
			return compute_gains(p, &p->matrices[i], model, target, out);
	return MFS_E_NOT_FOUND;
}

/* The gains on the base; the caller frees *out. */
static int load_gains(const mfs_peft *p, const struct matrix *m, float **out)
{
	*out = calloc(m->from->dims[0], sizeof(float));
	return *out ? compute_gains(p, m, &p->base, m->target, *out) : MFS_E_MEMORY;
}

/* Bytes of the matrix as the GGUF file has them; the caller frees *out. */
static int rearrange(mfs_peft *p, const struct matrix *m, uint8_t **out)
{
	uint64_t count = m->size / sizeof(float);
	float *floats;
	int error;

	*out = NULL;
	if (m->matrix != 'm' && m->factor == 1)
		return move_rows(p, m, out);
	error = m->matrix == 'm' ? load_gains(p, m, &floats) : load_floats(p, m, &floats);
	if (!error)
		*out = malloc(m->size);
	if (!error && !*out)
		error = MFS_E_MEMORY;
	for (uint64_t i = 0; i < count && !error; i++) {
		uint32_t bits;

		memcpy(&bits, &floats[i], sizeof(bits));
		store_le32(*out + i * sizeof(bits), bits);
	}
	free(floats);
	return error;
}

static int read_rearranged(mfs_peft *p, const struct matrix *m, uint64_t at, uint8_t *out,
			   size_t length)
{
	int error = 0;

	pthread_mutex_lock(&p->lock);
	if (p->held != m) {
		free(p->bytes);
		p->bytes = NULL;
		p->held = NULL;
		error = rearrange(p, m, &p->bytes);
		if (error) {
			free(p->bytes);
			p->bytes = NULL;
		} else {
			p->held = m;
		}
	}
	if (!error)
		memcpy(out, p->bytes + at, length);
	pthread_mutex_unlock(&p->lock);
	return error;
}

int mfs_peft_read_matrix(mfs_peft *p, const struct matrix *m, uint64_t at, uint8_t *out,
			 size_t length)
{
	if (m->change == CHANGE_NONE && m->factor == 1 && m->matrix != 'm')
		return p->file.read_at(&p->file, m->from->offset + at, out, length);
	return read_rearranged(p, m, at, out, length);
}
