/*
 * From the bytes of an operand's tensors, as they are stored, to what is computed with:
 * low-rank matrices as floats, A as panels; constants of NF4 codes.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "merge.h"
#include "operands.h"

#define NESTED_VALUES 256  /* of a nested map */
#define PACK_WEIGHTS  2048 /* decoded at a time: whole blocks of every type */

float *operand_floats(uint64_t count)
{
	return count && count < SIZE_MAX / sizeof(float) ? calloc(count, sizeof(float)) : NULL;
}

/* Numbers first .. first + count - 1 of A, as it is stored, to where the panels have
 * them: number (k, j) of an expert is a * columns + j, or turned j * rank + k. */
static void scatter(const mfs_operand_shape *shape, const mfs_root_term *term, const float *from,
		    uint64_t first, size_t count, float *panels)
{
	const bool turned = term->flags & MFS_TERM_TRANSPOSED;
	const uint64_t inner = turned ? term->rank : shape->columns;
	const uint64_t outer = turned ? shape->columns : term->rank;
	const uint64_t each = mfs_merge_panel_floats(term->rank, shape->columns);

	for (size_t i = 0, n; i < count; i += n) {
		const uint64_t line = (first + i) / inner, at = (first + i) % inner;
		float *slice = panels + line / outer * each;

		n = count - i < inner - at ? count - i : (size_t)(inner - at);
		for (uint64_t m = at; m < at + n; m++) {
			const uint64_t k = turned ? m : line % outer, j = turned ? line % outer : m;

			slice[(j / MFS_MERGE_PANEL * term->rank + k) * MFS_MERGE_PANEL +
			      j % MFS_MERGE_PANEL] = from[i + (m - at)];
		}
	}
}

/* A as panels, piece by piece: as numbers of its own it would take as much again. */
static int pack_a(struct operand *op, const mfs_root_tensor *t, const mfs_root_term *term)
{
	const struct reader *r = op->reader;
	const mfs_operand_shape shape = operand_shape(r, term);
	const mfs_layout *layout = &r->c->layouts[t->layout];
	const mfs_dequant *type = mfs_dequant_of(layout);
	uint64_t each = mfs_merge_panel_floats(term->rank, shape.columns), floats;
	uint64_t blocks = t->size / layout->block_bytes, n;
	float piece[PACK_WEIGHTS];

	if (!type || type->block_weights > PACK_WEIGHTS)
		return MFS_E_UNSUPPORTED;
	op->panels =
	    __builtin_mul_overflow(each, shape.experts, &floats) ? NULL : operand_floats(floats);
	if (!op->panels)
		return MFS_E_MEMORY;
	for (uint64_t at = 0; at < blocks; at += n) {
		n = PACK_WEIGHTS / type->block_weights;
		n = n < blocks - at ? n : blocks - at;
		mfs_dequantize(type, r->simd, op->raw + at * layout->block_bytes, (size_t)n, piece);
		scatter(&shape, term, piece, at * type->block_weights,
			(size_t)n * type->block_weights, op->panels);
	}
	return 0;
}

int operand_convert(struct operand *op, const mfs_root_tensor *t)
{
	const struct reader *r = op->reader;
	const mfs_layout *layout = &r->c->layouts[t->layout];
	const mfs_dequant *type = mfs_dequant_of(layout);
	mfs_root_term term;
	float *floats;

	mfs_root_get_term(&r->c->root, op->term, &term);
	if (term.kind == MFS_TERM_LORA && op->next == 0)
		return pack_a(op, t, &term);
	if (mfs_operand_stays(&term, op->next)) {
		op->kept[op->next] = op->raw;
		op->raw = NULL;
		return 0;
	}
	floats = type ? operand_floats(tensor_weights(r, t)) : NULL;
	if (!floats)
		return type ? MFS_E_MEMORY : MFS_E_UNSUPPORTED;
	mfs_dequantize(type, r->simd, op->raw, t->size / layout->block_bytes, floats);
	op->loaded[op->next] = floats;
	return 0;
}

static void finish_lora(struct operand *op)
{
	op->b = op->loaded[1];
	op->gain = op->loaded[2];
	memset(op->loaded, 0, sizeof(op->loaded));
}

static bool is_named(const mfs_layout *layout, const char *name)
{
	return strlen(name) == layout->name_length &&
	       !memcmp(name, layout->name, layout->name_length);
}

/* Whether the operand is at least `count` numbers of the type, which has `bytes`. */
static bool has_numbers(const struct reader *r, uint32_t tensor, uint64_t count, uint32_t bytes)
{
	const mfs_layout *layout;
	mfs_root_tensor t;

	mfs_root_get_tensor(&r->c->root, tensor, &t);
	layout = &r->c->layouts[t.layout];
	return layout->block_bytes == bytes && (bytes == 1 || is_named(layout, "F32")) &&
	       t.size / bytes >= count;
}

/* Scales, or the bytes and constants that they are computed from span by span. */
static int finish_nf4(struct operand *op, const mfs_root_term *term)
{
	const struct reader *r = op->reader;
	uint64_t blocks = div_up(operand_weights(r, term->tensor), MFS_NF4_BLOCK);
	uint64_t nested = div_up(blocks, MFS_NF4_NESTED_BLOCK);

	mfs_nf4_init(&op->nf4);
	op->nf4.offset = term->scale;
	if (term->operand[1] == MFS_NO_TENSOR) {
		if (!has_numbers(r, term->operand[0], blocks, 4))
			return MFS_E_CORRUPT;
		op->scales = op->loaded[0];
		op->loaded[0] = NULL;
		return 0;
	}
	if (!has_numbers(r, term->operand[0], blocks, 1) ||
	    !has_numbers(r, term->operand[1], nested, 4) ||
	    !has_numbers(r, term->operand[2], NESTED_VALUES, 4))
		return MFS_E_CORRUPT;
	memcpy(op->nf4.nested_map, op->loaded[2], sizeof(op->nf4.nested_map));
	free(op->loaded[2]);
	op->absmax = op->kept[0];
	op->nested = op->kept[1];
	op->loaded[2] = NULL;
	op->kept[0] = op->kept[1] = NULL;
	return 0;
}

int operand_finish(struct operand *op)
{
	mfs_root_term term;

	mfs_root_get_term(&op->reader->c->root, op->term, &term);
	if (term.kind == MFS_TERM_NF4)
		return finish_nf4(op, &term);
	finish_lora(op);
	return 0;
}
