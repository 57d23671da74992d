#include "layout_ggml.h"

#include <assert.h>
#include <pthread.h>
#include <string.h>

/*
 * Which transform serves which field (measured on trained weights):
 *   F32, BF16       FLOAT: a code for exponent and two bits of mantissa together is
 *                   nearer to their entropy than one for the exponent, and the flat
 *                   bits are stored as they are
 *   F64             ROTATE: eight bits of its exponent fill a plane
 *   F16             PLANES: its exponent shares a byte either way, and where the
 *                   values came from bfloat16 this is faster
 *   integers        PLANES: the high bytes are nearly constant
 *   fp16 scales     PLANES: their sign is mostly constant; whole, they gain half
 *   packed bits     SYMBOLS where bits of a weight lie in two fields (each field
 *                   alone gains next to nothing), or where the constants tell
 *                   something about the quants; else BYTES
 * The 12 bytes of Q4_K's and Q5_K's packed scales are three fields: four scales,
 * four minimums (each below two bits of another) and eight nibbles are
 * distributed differently, and apart they take 4 % less.
 * A field whose words hold bits of both classes belongs to the class of most of
 * its bits.
 */
/* clang-format off */
#define FIELD(field, cls_, transform_, width_, bits_, size_) \
	{.name = #field, .cls = MFS_DISK_##cls_, .transform = MFS_TRANSFORM_##transform_, .width = width_, .bits = bits_, .size = size_}
#define FLOATS(size)                   FIELD(values, WEIGHTS, FLOAT, size, 8 * size, size)
#define INTEGERS(size)                 FIELD(values, WEIGHTS, PLANES, size, 8 * size, size)
#define QUANTS(field, size, bits)      FIELD(field, WEIGHTS, BYTES, 1, bits, size)
#define QUANT_WORDS(field, size, word) FIELD(field, WEIGHTS, PLANES, word, 8 * word, size)
#define SYMBOLS(field, size_, bits_, run_, group) \
	{.name = #field, .cls = MFS_DISK_WEIGHTS, .transform = MFS_TRANSFORM_SYMBOLS, .width = group, .bits = bits_, .size = size_, .run = run_}
#define EXTEND(field, size_, bits_, run_) \
	{.name = #field, .cls = MFS_DISK_WEIGHTS, .transform = MFS_TRANSFORM_EXTEND, .width = 1, .bits = bits_, .size = size_, .run = run_}
#define SCALES(field, size, bits)      FIELD(field, CONSTANTS, BYTES, 1, bits, size)
#define SCALE_WORDS(field, size)       FIELD(field, CONSTANTS, PLANES, 2, 16, size)
#define HALF(field)                    FIELD(field, CONSTANTS, PLANES, 2, 16, 2)
#define FLOAT(field)                   FIELD(field, CONSTANTS, FLOAT, 4, 32, 4)
#define RATIO(scale, minimum, packed)  .context = MFS_CONTEXT_RATIO, .context_offset = {scale, minimum, packed}
#define SCALE_HALF(scale)              .context = MFS_CONTEXT_HALF, .context_offset = {scale}
#define SCALE_EXPONENT(scale)          .context = MFS_CONTEXT_EXPONENT, .context_offset = {scale}
#define SCALE_HALF_BYTES(scale, bytes) .context = MFS_CONTEXT_HALF_BYTES, .context_offset = {scale, bytes}
#define SCALE_HALF_SIX(scale, low, high) .context = MFS_CONTEXT_HALF_SIX, .context_offset = {scale, low, high}
#define RATIO_NIBBLES(scale, minimum, groups) .context = MFS_CONTEXT_RATIO_NIBBLES, .context_offset = {scale, minimum, groups}
#define RATIO_HALVES(scale, minimum)   .context = MFS_CONTEXT_RATIO_HALVES, .context_offset = {scale, minimum}
#define K_SCALES SCALES(scales_d, 4, 6), SCALES(scales_m, 4, 6), SCALES(scales_l, 4, 4)
/* clang-format on */

#define ROW_FIELDS 7

struct row_field {
	const char *name;
	uint8_t cls;
	uint8_t transform;
	uint8_t width;
	uint8_t bits;
	uint16_t size;
	uint16_t run;
};

struct row {
	const char *name;
	uint16_t type;
	uint16_t block_bytes;
	uint16_t block_weights;
	struct row_field field[ROW_FIELDS]; /* up to the first without a name */
	uint8_t context;
	uint16_t context_offset[MFS_CONTEXT_OFFSETS];
};

/* clang-format off */
static const struct row rows[] = {
	{"F32", 0, 4, 1, .field = {FLOATS(4)}},
	{"F16", 1, 2, 1, .field = {FIELD(values, WEIGHTS, PLANES, 2, 16, 2)}},
	{"Q4_0", 2, 18, 32, .field = {HALF(d), SYMBOLS(qs, 16, 4, 16, 32)}, SCALE_HALF(0)},
	{"Q4_1", 3, 20, 32, .field = {HALF(d), HALF(m), SYMBOLS(qs, 16, 4, 16, 32)}, RATIO_HALVES(0, 2)},
	{"Q5_0", 6, 22, 32, .field = {HALF(d), EXTEND(qh, 4, 1, 1), SYMBOLS(qs, 16, 4, 16, 32)}, SCALE_HALF(0)},
	{"Q5_1", 7, 24, 32, .field = {HALF(d), HALF(m), EXTEND(qh, 4, 1, 1), SYMBOLS(qs, 16, 4, 16, 32)}, RATIO_HALVES(0, 2)},
	{"Q8_0", 8, 34, 32, .field = {HALF(d), SYMBOLS(qs, 32, 8, 32, 32)}, SCALE_HALF(0)},
	{"Q8_1", 9, 36, 32, .field = {HALF(d), HALF(s), QUANTS(qs, 32, 8)}},
	{"Q2_K", 10, 84, 256, .field = {SCALES(scales, 16, 4), SYMBOLS(qs, 64, 2, 32, 16), HALF(d), HALF(dmin)}, RATIO_NIBBLES(80, 82, 0)},
	{"Q3_K", 11, 110, 256, .field = {EXTEND(hmask, 32, 1, 32), SYMBOLS(qs, 64, 2, 32, 32), SCALES(scales, 12, 6), HALF(d)}},
	{"Q4_K", 12, 144, 256, .field = {HALF(d), HALF(dmin), K_SCALES, SYMBOLS(qs, 128, 4, 32, 32)}, RATIO(0, 2, 4)},
	{"Q5_K", 13, 176, 256, .field = {HALF(d), HALF(dmin), K_SCALES, EXTEND(qh, 32, 1, 32), SYMBOLS(qs, 128, 4, 32, 32)}, RATIO(0, 2, 4)},
	{"Q6_K", 14, 210, 256, .field = {SYMBOLS(ql, 128, 4, 64, 16), EXTEND(qh, 64, 2, 32), SCALES(scales, 16, 8), HALF(d)}, SCALE_HALF_BYTES(208, 192)},
	{"Q8_K", 15, 292, 256, .field = {FLOAT(d), QUANTS(qs, 256, 8), SCALE_WORDS(bsums, 32)}},
	/* Words of four indices into a grid, then 28 sign bits and a 4-bit scale in
	 * the top byte: planes keep the indices apart from the signs, which are
	 * noise, and from the byte that holds the scale. */
	{"IQ2_XXS", 16, 66, 256, .field = {HALF(d), QUANT_WORDS(qs, 64, 8)}},
	/* A 9-bit index below 7 sign bits. */
	{"IQ2_XS", 17, 74, 256, .field = {HALF(d), QUANT_WORDS(qs, 64, 2), SCALES(scales, 8, 4)}},
	/* As IQ2_XXS, with the words of signs and scale behind all indices. */
	{"IQ3_XXS", 18, 98, 256, .field = {HALF(d), QUANTS(qs, 64, 8), QUANT_WORDS(scales_and_signs, 32, 4)}},
	/* 12 bits of indices, 3 of scale, 1 of shift. */
	{"IQ1_S", 19, 50, 256, .field = {HALF(d), QUANTS(qs, 32, 8), QUANT_WORDS(qh, 16, 2)}},
	{"IQ4_NL", 20, 18, 32, .field = {HALF(d), SYMBOLS(qs, 16, 4, 16, 32)}, SCALE_HALF(0)},
	{"IQ3_S", 21, 110, 256, .field = {HALF(d), QUANTS(qs, 64, 8), QUANTS(qh, 8, 1), QUANTS(signs, 32, 1), SCALES(scales, 4, 4)}},
	{"IQ2_S", 22, 82, 256, .field = {HALF(d), QUANTS(qs, 32, 8), QUANTS(signs, 32, 1), QUANTS(qh, 8, 2), SCALES(scales, 8, 4)}},
	{"IQ4_XS", 23, 136, 256, .field = {HALF(d), SCALES(scales_h, 2, 2), SCALES(scales_l, 4, 4), SYMBOLS(qs, 128, 4, 16, 32)}, SCALE_HALF_SIX(0, 4, 2)},
	{"I8", 24, 1, 1, .field = {QUANTS(values, 1, 8)}},
	{"I16", 25, 2, 1, .field = {INTEGERS(2)}},
	{"I32", 26, 4, 1, .field = {INTEGERS(4)}},
	{"I64", 27, 8, 1, .field = {INTEGERS(8)}},
	{"F64", 28, 8, 1, .field = {FIELD(values, WEIGHTS, ROTATE, 8, 64, 8)}},
	/* The block's fp16 scale is spread over the top four bits of the four words
	 * of scales. */
	{"IQ1_M", 29, 56, 256, .field = {QUANTS(qs, 32, 8), QUANTS(qh, 16, 4), SCALE_WORDS(scales, 8)}},
	{"BF16", 30, 2, 1, .field = {FLOATS(2)}},
	{"TQ1_0", 34, 54, 256, .field = {QUANTS(qs, 48, 8), QUANTS(qh, 4, 8), HALF(d)}},
	{"TQ2_0", 35, 66, 256, .field = {QUANTS(qs, 64, 2), HALF(d)}},
	{"MXFP4", 39, 17, 32, .field = {SCALES(e, 1, 8), SYMBOLS(qs, 16, 4, 16, 32)}, SCALE_EXPONENT(0)},
	{"NVFP4", 40, 36, 64, .field = {SCALES(d, 4, 8), QUANTS(qs, 32, 4)}},
	{"Q1_0", 41, 18, 128, .field = {HALF(d), QUANTS(qs, 16, 1)}},
	{"Q2_0", 42, 18, 64, .field = {HALF(d), QUANTS(qs, 16, 2)}},
};
/* clang-format on */

#define ROW_COUNT (sizeof(rows) / sizeof(*rows))

static mfs_layout layouts[ROW_COUNT];
static pthread_once_t layouts_once = PTHREAD_ONCE_INIT;

static void layout_build(mfs_layout *layout, const struct row *row)
{
	uint32_t offset = 0;

	layout->name = row->name;
	layout->name_length = (uint16_t)strlen(row->name);
	layout->type_id = row->type;
	layout->block_bytes = row->block_bytes;
	layout->block_weights = row->block_weights;
	layout->context = row->context;
	memcpy(layout->context_offset, row->context_offset, sizeof(layout->context_offset));
	for (int i = 0; i < ROW_FIELDS && row->field[i].name; i++) {
		const struct row_field *from = &row->field[i];

		layout->field[i] = (mfs_field){.name = from->name,
					       .name_length = (uint16_t)strlen(from->name),
					       .cls = from->cls,
					       .transform = from->transform,
					       .width = from->width,
					       .bits = from->bits,
					       .run = from->run,
					       .offset = offset,
					       .size = from->size};
		offset += from->size;
		layout->field_count++;
	}
}

static void layouts_build(void)
{
	for (size_t i = 0; i < ROW_COUNT; i++) {
		int err;

		layout_build(&layouts[i], &rows[i]);
		err = mfs_layout_finish(&layouts[i]);
		assert(!err);
		(void)err;
	}
}

uint32_t mfs_layout_ggml_count(void)
{
	return ROW_COUNT;
}

const mfs_layout *mfs_layout_ggml_row(uint32_t row)
{
	pthread_once(&layouts_once, layouts_build);
	return row < ROW_COUNT ? &layouts[row] : NULL;
}

const mfs_layout *mfs_layout_ggml(uint32_t ggml_type)
{
	for (uint32_t i = 0; i < ROW_COUNT; i++)
		if (rows[i].type == ggml_type)
			return mfs_layout_ggml_row(i);
	return NULL;
}
