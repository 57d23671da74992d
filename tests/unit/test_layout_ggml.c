/*
 * The layout rows of ggml's types against an independent splitter: C structs
 * with the members that ggml names, taken apart member by member. The splitter
 * does not look at the rows.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "layout.h"
#include "layout_ggml.h"

#define BLOCKS 37

typedef uint16_t half;

/* clang-format off */
struct f32 { uint32_t values; };
struct f16 { half values; };
struct f64 { uint64_t values; };
struct bf16 { uint16_t values; };
struct i8 { uint8_t values; };
struct i16 { uint16_t values; };
struct i32 { uint32_t values; };
struct i64 { uint64_t values; };
struct q4_0 { half d; uint8_t qs[16]; };
struct q4_1 { half d, m; uint8_t qs[16]; };
struct q5_0 { half d; uint8_t qh[4], qs[16]; };
struct q5_1 { half d, m; uint8_t qh[4], qs[16]; };
struct q8_0 { half d; int8_t qs[32]; };
struct q8_1 { half d, s; int8_t qs[32]; };
struct q2_k { uint8_t scales[16], qs[64]; half d, dmin; };
struct q3_k { uint8_t hmask[32], qs[64], scales[12]; half d; };
/* Twelve bytes of scales: four scales, four minimums, the low nibbles of the
 * other four pairs. */
struct q4_k { half d, dmin; uint8_t scales[12], qs[128]; };
struct q5_k { half d, dmin; uint8_t scales[12], qh[32], qs[128]; };
struct q6_k { uint8_t ql[128], qh[64]; int8_t scales[16]; half d; };
struct q8_k { float d; int8_t qs[256]; int16_t bsums[16]; };
struct iq2_xxs { half d; uint16_t qs[32]; };
struct iq2_xs { half d; uint16_t qs[32]; uint8_t scales[8]; };
struct iq2_s { half d; uint8_t qs[64], qh[8], scales[8]; }; /* qs: 32 indices, 32 signs */
struct iq3_xxs { half d; uint8_t qs[96]; }; /* 64 indices, 8 words */
struct iq3_s { half d; uint8_t qs[64], qh[8], signs[32], scales[4]; };
struct iq1_s { half d; uint8_t qs[32]; uint16_t qh[8]; };
struct iq1_m { uint8_t qs[32], qh[16], scales[8]; };
struct iq4_nl { half d; uint8_t qs[16]; };
struct iq4_xs { half d; uint16_t scales_h; uint8_t scales_l[4], qs[128]; };
struct tq1_0 { uint8_t qs[48], qh[4]; half d; };
struct tq2_0 { uint8_t qs[64]; half d; };
struct mxfp4 { uint8_t e, qs[16]; };
struct nvfp4 { uint8_t d[4], qs[32]; };
struct q1_0 { half d; uint8_t qs[16]; };
struct q2_0 { half d; uint8_t qs[16]; };
/* clang-format on */

/* Streams that the splitter writes, in order. */
struct sink {
	uint32_t count;
	struct {
		const char *field;
		int constants;
		size_t size;
		uint8_t *bytes;
	} stream[MFS_STREAMS_MAX];
};

static uint8_t *sink_stream(struct sink *sink, const char *field, int constants, size_t size)
{
	uint8_t *bytes = malloc(size);

	assert_non_null(bytes);
	assert_true(sink->count < MFS_STREAMS_MAX);
	sink->stream[sink->count].field = field;
	sink->stream[sink->count].constants = constants;
	sink->stream[sink->count].size = size;
	sink->stream[sink->count++].bytes = bytes;
	return bytes;
}

#define WEIGHTS	  0
#define CONSTANTS 1

/* A run of bytes of each block, as it is. */
#define TAKE_PART(type, member, from, bytes, name, cls)                                            \
	do {                                                                                       \
		uint8_t *to = sink_stream(sink, name, cls, BLOCKS * (bytes));                      \
                                                                                                   \
		for (int b = 0; b < BLOCKS; b++)                                                   \
			memcpy(to + b * (bytes), (const uint8_t *)&block[b].member + (from),       \
			       bytes);                                                             \
	} while (0)
#define TAKE(type, member, cls)                                                                    \
	TAKE_PART(type, member, 0, sizeof(((struct type *)0)->member), #member, cls)

#define AS_FLOAT 3

/* The words of a part of each block, one stream for each byte of a word, after
 * rotating left by `rotate`. */
#define TAKE_WORDS_PART(type, member, from, bytes, word, rotate, name, cls)                        \
	do {                                                                                       \
		for (unsigned k = 0; k < sizeof(word); k++) {                                      \
			uint8_t *to =                                                              \
			    sink_stream(sink, name, cls, BLOCKS * (bytes) / sizeof(word));         \
                                                                                                   \
			for (int b = 0; b < BLOCKS; b++) {                                         \
				for (size_t i = 0; i < (bytes); i += sizeof(word)) {               \
					word w;                                                    \
                                                                                                   \
					memcpy(&w, (const uint8_t *)&block[b].member + (from) + i, \
					       sizeof(w));                                         \
					if ((rotate) == AS_FLOAT) {                                \
						w -= (word)8 << (8 * sizeof(w) - 8);               \
						w ^= (word)0xf8 << (8 * sizeof(w) - 8);            \
					}                                                          \
					if (rotate)                                                \
						w = (word)(w << (rotate) |                         \
							   w >> (8 * sizeof(w) - (rotate)) %       \
								    (8 * sizeof(w)));              \
					*to++ = (uint8_t)(w >> 8 * k);                             \
				}                                                                  \
			}                                                                          \
		}                                                                                  \
	} while (0)
#define TAKE_WORDS(type, member, word, rotate, cls)                                                \
	TAKE_WORDS_PART(type, member, 0, sizeof(((struct type *)0)->member), word, rotate,         \
			#member, cls)
#define HALF(type, member) TAKE_WORDS(type, member, uint16_t, 0, CONSTANTS)

/* Weights, as ggml's loops over a block find them: `get` yields weight j of a
 * block. The stream of `upper` bits has groups of `group` weights, the first half
 * of a group in the low nibbles; the rest goes where `put` says. */
typedef unsigned get_weight(const void *block, unsigned j);

static void take_nibbles(const uint8_t *block, size_t stride, uint8_t *to, get_weight *get,
			 unsigned weights, unsigned group, unsigned shift)
{
	for (int b = 0; b < BLOCKS; b++)
		for (unsigned g = 0; g < weights; g += group)
			for (unsigned i = 0; i < group / 2; i++) {
				unsigned low = get(block + b * stride, g + i) >> shift;
				unsigned high = get(block + b * stride, g + i + group / 2) >> shift;

				*to++ = (uint8_t)(low | high << 4);
			}
}

static unsigned q4_k_weight(const void *block, unsigned j)
{
	const struct q4_k *q = block;
	uint8_t byte = q->qs[j / 64 * 32 + j % 32];

	return j % 64 < 32 ? byte & 15 : byte >> 4;
}

static unsigned q5_k_weight(const void *block, unsigned j)
{
	const struct q5_k *q = block;
	uint8_t byte = q->qs[j / 64 * 32 + j % 32];

	return (j % 64 < 32 ? byte & 15u : byte >> 4) + (q->qh[j % 32] >> j / 32 & 1) * 16u;
}

static unsigned q6_k_weight(const void *block, unsigned j)
{
	const struct q6_k *q = block;
	const uint8_t *ql = q->ql + j / 128 * 64, *qh = q->qh + j / 128 * 32;
	unsigned k = j % 128 / 32, l = j % 32;
	uint8_t byte = k % 2 ? ql[l + 32] : ql[l];

	return (k < 2 ? byte & 15u : byte >> 4) | (qh[l] >> 2 * k & 3u) << 4;
}

static unsigned q5_bits(const uint8_t *qh, const uint8_t *qs, unsigned j)
{
	uint32_t bits;

	memcpy(&bits, qh, 4);
	return (j < 16 ? qs[j] & 15u : qs[j - 16] >> 4) | (bits >> j & 1) << 4;
}

static unsigned q5_0_weight(const void *block, unsigned j)
{
	return q5_bits(((const struct q5_0 *)block)->qh, ((const struct q5_0 *)block)->qs, j);
}

static unsigned q5_1_weight(const void *block, unsigned j)
{
	return q5_bits(((const struct q5_1 *)block)->qh, ((const struct q5_1 *)block)->qs, j);
}

static unsigned q3_k_weight(const void *block, unsigned j)
{
	const struct q3_k *q = block;

	return (q->qs[j / 128 * 32 + j % 32] >> 2 * (j % 128 / 32) & 3u) |
	       (q->hmask[j % 32] >> j / 32 & 1u) << 2;
}

#define TAKE_NIBBLES(type, weights, group, shift)                                                  \
	take_nibbles(                                                                              \
	    in, sizeof(struct type),                                                               \
	    sink_stream(sink, (shift) == 2 ? "ql" : "qs", WEIGHTS, BLOCKS * (weights) / 2),        \
	    type##_weight, weights, group, shift)

/* The lowest bits, packed as the field of the highest is. */
#define TAKE_REST(type, member, weights, bits, byte, position)                                     \
	do {                                                                                       \
		uint8_t *to =                                                                      \
		    sink_stream(sink, #member, WEIGHTS, BLOCKS * (weights) * (bits) / 8);          \
                                                                                                   \
		memset(to, 0, BLOCKS *(weights) * (bits) / 8);                                     \
		for (int b = 0; b < BLOCKS; b++)                                                   \
			for (unsigned j = 0; j < (weights); j++)                                   \
				to[b * (weights) * (bits) / 8 + (byte)] |=                         \
				    (uint8_t)((type##_weight(block + b, j) & ((1u << (bits)) - 1)) \
					      << (position));                                      \
	} while (0)

static unsigned q3_k_upper(const void *block, unsigned j)
{
	return q3_k_weight(block, j) >> 1;
}

static unsigned q2_k_weight(const void *block, unsigned j)
{
	return ((const struct q2_k *)block)->qs[j / 128 * 32 + j % 32] >> 2 * (j % 128 / 32) & 3u;
}

/* Four weights to a byte: those of a group that lie a quarter of it apart. */
static void take_quarters(const uint8_t *block, size_t stride, get_weight *get, unsigned group,
			  uint8_t *to)
{
	for (int b = 0; b < BLOCKS; b++, block += stride)
		for (unsigned g = 0; g < 256; g += group)
			for (unsigned i = 0; i < group / 4; i++) {
				unsigned byte = 0;

				for (unsigned q = 0; q < 4; q++)
					byte |= get(block, g + i + group / 4 * q) << 2 * q;
				*to++ = (uint8_t)byte;
			}
}

#define SPLITTER(type, body)                                                                       \
	static void split_##type(const void *in, struct sink *sink)                                \
	{                                                                                          \
		const struct type *block = in;                                                     \
                                                                                                   \
		body                                                                               \
	}

/* clang-format off */
SPLITTER(f32, TAKE_WORDS(f32, values, uint32_t, AS_FLOAT, WEIGHTS);)
SPLITTER(f16, TAKE_WORDS(f16, values, uint16_t, 0, WEIGHTS);)
SPLITTER(f64, TAKE_WORDS(f64, values, uint64_t, 1, WEIGHTS);)
SPLITTER(bf16, TAKE_WORDS(bf16, values, uint16_t, AS_FLOAT, WEIGHTS);)
SPLITTER(i8, TAKE(i8, values, WEIGHTS);)
SPLITTER(i16, TAKE_WORDS(i16, values, uint16_t, 0, WEIGHTS);)
SPLITTER(i32, TAKE_WORDS(i32, values, uint32_t, 0, WEIGHTS);)
SPLITTER(i64, TAKE_WORDS(i64, values, uint64_t, 0, WEIGHTS);)
SPLITTER(q4_0, HALF(q4_0, d); TAKE(q4_0, qs, WEIGHTS);)
SPLITTER(q4_1, HALF(q4_1, d); HALF(q4_1, m); TAKE(q4_1, qs, WEIGHTS);)
SPLITTER(q5_0, HALF(q5_0, d); TAKE_REST(q5_0, qh, 32, 1, j / 8, j % 8);
	 TAKE_NIBBLES(q5_0, 32, 32, 1);)
SPLITTER(q5_1, HALF(q5_1, d); HALF(q5_1, m); TAKE_REST(q5_1, qh, 32, 1, j / 8, j % 8);
	 TAKE_NIBBLES(q5_1, 32, 32, 1);)
SPLITTER(q8_0, HALF(q8_0, d); TAKE(q8_0, qs, WEIGHTS);)
SPLITTER(q8_1, HALF(q8_1, d); HALF(q8_1, s); TAKE(q8_1, qs, WEIGHTS);)
SPLITTER(q2_k, TAKE(q2_k, scales, CONSTANTS);
	 take_quarters(in, sizeof(struct q2_k), q2_k_weight, 16, sink_stream(sink, "qs", WEIGHTS, BLOCKS * 64));
	 HALF(q2_k, d);
	 HALF(q2_k, dmin);)
SPLITTER(q3_k, TAKE_REST(q3_k, hmask, 256, 1, j % 32, j / 32);
	 take_quarters(in, sizeof(struct q3_k), q3_k_upper, 32, sink_stream(sink, "qs", WEIGHTS, BLOCKS * 64));
	 TAKE(q3_k, scales, CONSTANTS);
	 HALF(q3_k, d);)
SPLITTER(q4_k, HALF(q4_k, d); HALF(q4_k, dmin);
	 TAKE_PART(q4_k, scales, 0, 4, "scales_d", CONSTANTS);
	 TAKE_PART(q4_k, scales, 4, 4, "scales_m", CONSTANTS);
	 TAKE_PART(q4_k, scales, 8, 4, "scales_l", CONSTANTS); TAKE_NIBBLES(q4_k, 256, 32, 0);)
SPLITTER(q5_k, HALF(q5_k, d); HALF(q5_k, dmin);
	 TAKE_PART(q5_k, scales, 0, 4, "scales_d", CONSTANTS);
	 TAKE_PART(q5_k, scales, 4, 4, "scales_m", CONSTANTS);
	 TAKE_PART(q5_k, scales, 8, 4, "scales_l", CONSTANTS);
	 TAKE_REST(q5_k, qh, 256, 1, j % 32, j / 32); TAKE_NIBBLES(q5_k, 256, 32, 1);)
SPLITTER(q6_k, TAKE_NIBBLES(q6_k, 256, 16, 2);
	 TAKE_REST(q6_k, qh, 256, 2, j / 128 * 32 + j % 32, 2 * (j / 32 % 4)); TAKE(q6_k, scales, CONSTANTS);
	 HALF(q6_k, d);)
SPLITTER(q8_k, TAKE_WORDS(q8_k, d, uint32_t, AS_FLOAT, CONSTANTS); TAKE(q8_k, qs, WEIGHTS);
	 TAKE_WORDS(q8_k, bsums, uint16_t, 0, CONSTANTS);)
SPLITTER(iq2_xxs, HALF(iq2_xxs, d); TAKE_WORDS(iq2_xxs, qs, uint64_t, 0, WEIGHTS);)
SPLITTER(iq2_xs, HALF(iq2_xs, d); TAKE_WORDS(iq2_xs, qs, uint16_t, 0, WEIGHTS);
	 TAKE(iq2_xs, scales, CONSTANTS);)
SPLITTER(iq2_s, HALF(iq2_s, d); TAKE_PART(iq2_s, qs, 0, 32, "qs", WEIGHTS);
	 TAKE_PART(iq2_s, qs, 32, 32, "signs", WEIGHTS); TAKE(iq2_s, qh, WEIGHTS);
	 TAKE(iq2_s, scales, CONSTANTS);)
SPLITTER(iq3_xxs, HALF(iq3_xxs, d); TAKE_PART(iq3_xxs, qs, 0, 64, "qs", WEIGHTS);
	 TAKE_WORDS_PART(iq3_xxs, qs, 64, 32, uint32_t, 0, "scales_and_signs", WEIGHTS);)
SPLITTER(iq3_s, HALF(iq3_s, d); TAKE(iq3_s, qs, WEIGHTS); TAKE(iq3_s, qh, WEIGHTS);
	 TAKE(iq3_s, signs, WEIGHTS); TAKE(iq3_s, scales, CONSTANTS);)
SPLITTER(iq1_s, HALF(iq1_s, d); TAKE(iq1_s, qs, WEIGHTS);
	 TAKE_WORDS(iq1_s, qh, uint16_t, 0, WEIGHTS);)
SPLITTER(iq1_m, TAKE(iq1_m, qs, WEIGHTS); TAKE(iq1_m, qh, WEIGHTS);
	 TAKE_WORDS(iq1_m, scales, uint16_t, 0, CONSTANTS);)
SPLITTER(iq4_nl, HALF(iq4_nl, d); TAKE(iq4_nl, qs, WEIGHTS);)
SPLITTER(iq4_xs, HALF(iq4_xs, d); TAKE(iq4_xs, scales_h, CONSTANTS);
	 TAKE(iq4_xs, scales_l, CONSTANTS); TAKE(iq4_xs, qs, WEIGHTS);)
SPLITTER(tq1_0, TAKE(tq1_0, qs, WEIGHTS); TAKE(tq1_0, qh, WEIGHTS); HALF(tq1_0, d);)
SPLITTER(tq2_0, TAKE(tq2_0, qs, WEIGHTS); HALF(tq2_0, d);)
SPLITTER(mxfp4, TAKE(mxfp4, e, CONSTANTS); TAKE(mxfp4, qs, WEIGHTS);)
SPLITTER(nvfp4, TAKE(nvfp4, d, CONSTANTS); TAKE(nvfp4, qs, WEIGHTS);)
SPLITTER(q1_0, HALF(q1_0, d); TAKE(q1_0, qs, WEIGHTS);)
SPLITTER(q2_0, HALF(q2_0, d); TAKE(q2_0, qs, WEIGHTS);)

/* Type number, name, bytes and weights of a block, bytes of constants. */
#define TYPE(number, name, type, bytes, weights, constants) \
	{number, name, sizeof(struct type), bytes, weights, constants, split_##type}
static const struct {
	uint32_t number;
	const char *name;
	size_t struct_bytes;
	uint32_t block_bytes;
	uint32_t weights;
	uint32_t constants;
	void (*split)(const void *in, struct sink *sink);
} types[] = {
	TYPE(0, "F32", f32, 4, 1, 0),
	TYPE(1, "F16", f16, 2, 1, 0),
	TYPE(2, "Q4_0", q4_0, 18, 32, 2),
	TYPE(3, "Q4_1", q4_1, 20, 32, 4),
	TYPE(6, "Q5_0", q5_0, 22, 32, 2),
	TYPE(7, "Q5_1", q5_1, 24, 32, 4),
	TYPE(8, "Q8_0", q8_0, 34, 32, 2),
	TYPE(9, "Q8_1", q8_1, 36, 32, 4),
	TYPE(10, "Q2_K", q2_k, 84, 256, 20),
	TYPE(11, "Q3_K", q3_k, 110, 256, 14),
	TYPE(12, "Q4_K", q4_k, 144, 256, 16),
	TYPE(13, "Q5_K", q5_k, 176, 256, 16),
	TYPE(14, "Q6_K", q6_k, 210, 256, 18),
	TYPE(15, "Q8_K", q8_k, 292, 256, 36),
	TYPE(16, "IQ2_XXS", iq2_xxs, 66, 256, 2),
	TYPE(17, "IQ2_XS", iq2_xs, 74, 256, 10),
	TYPE(18, "IQ3_XXS", iq3_xxs, 98, 256, 2),
	TYPE(19, "IQ1_S", iq1_s, 50, 256, 2),
	TYPE(20, "IQ4_NL", iq4_nl, 18, 32, 2),
	TYPE(21, "IQ3_S", iq3_s, 110, 256, 6),
	TYPE(22, "IQ2_S", iq2_s, 82, 256, 10),
	TYPE(23, "IQ4_XS", iq4_xs, 136, 256, 8),
	TYPE(24, "I8", i8, 1, 1, 0),
	TYPE(25, "I16", i16, 2, 1, 0),
	TYPE(26, "I32", i32, 4, 1, 0),
	TYPE(27, "I64", i64, 8, 1, 0),
	TYPE(28, "F64", f64, 8, 1, 0),
	TYPE(29, "IQ1_M", iq1_m, 56, 256, 8),
	TYPE(30, "BF16", bf16, 2, 1, 0),
	TYPE(34, "TQ1_0", tq1_0, 54, 256, 2),
	TYPE(35, "TQ2_0", tq2_0, 66, 256, 2),
	TYPE(39, "MXFP4", mxfp4, 17, 32, 1),
	TYPE(40, "NVFP4", nvfp4, 36, 64, 4),
	TYPE(41, "Q1_0", q1_0, 18, 128, 2),
	TYPE(42, "Q2_0", q2_0, 18, 64, 2),
};
/* clang-format on */

#define TYPES (sizeof(types) / sizeof(*types))

static void text_equal(const char *text, size_t length, const char *expected)
{
	assert_int_equal(length, strlen(expected));
	assert_memory_equal(text, expected, length);
}

static void every_row_has_the_name_and_sizes_of_its_type(void **state)
{
	(void)state;
	for (size_t i = 0; i < TYPES; i++) {
		const mfs_layout *layout = mfs_layout_ggml(types[i].number);

		assert_non_null(layout);
		text_equal(layout->name, layout->name_length, types[i].name);
		assert_int_equal(layout->type_id, types[i].number);
		assert_int_equal(layout->block_bytes, types[i].block_bytes);
		assert_int_equal(layout->block_bytes, types[i].struct_bytes);
		assert_int_equal(layout->block_weights, types[i].weights);
		assert_int_equal(layout->slot_bytes[1], types[i].constants);
		assert_int_equal(layout->slot_bytes[0], types[i].block_bytes - types[i].constants);
	}
}

static void there_is_no_row_that_is_not_tested(void **state)
{
	(void)state;
	assert_int_equal(mfs_layout_ggml_count(), TYPES);
	for (uint32_t row = 0; row < TYPES; row++) {
		const mfs_layout *layout = mfs_layout_ggml_row(row);

		assert_ptr_equal(layout, mfs_layout_ggml(layout->type_id));
		assert_int_equal(layout->type_id, types[row].number);
	}
	assert_null(mfs_layout_ggml_row(TYPES));
	assert_null(mfs_layout_ggml_row(UINT32_MAX));
}

static void numbers_without_a_type_have_no_row(void **state)
{
	static const uint32_t none[] = {4,  5,	31, 32,	 33,  36,   37,
					38, 43, 99, 255, 256, 4096, UINT32_MAX};

	(void)state;
	for (size_t i = 0; i < sizeof(none) / sizeof(*none); i++)
		assert_null(mfs_layout_ggml(none[i]));
}

static void fill(uint8_t *bytes, size_t size, uint32_t seed)
{
	for (size_t i = 0; i < size; i++) {
		seed = seed * 1664525 + 1013904223;
		bytes[i] = (uint8_t)(seed >> 24);
	}
}

static void compare_streams(const mfs_layout *layout, const struct sink *sink,
			    uint8_t *const stream[])
{
	assert_int_equal(sink->count, layout->stream_count);
	for (uint32_t s = 0; s < sink->count; s++) {
		const mfs_field *field = &layout->field[layout->stream[s].field];

		text_equal(field->name, field->name_length, sink->stream[s].field);
		assert_int_equal(layout->stream[s].slot, sink->stream[s].constants);
		assert_int_equal(BLOCKS * layout->stream[s].per_block, sink->stream[s].size);
		assert_memory_equal(stream[s], sink->stream[s].bytes, sink->stream[s].size);
	}
}

static void every_row_splits_as_the_block_structs_say(void **state)
{
	uint8_t *stream[MFS_STREAMS_MAX];

	(void)state;
	for (size_t i = 0; i < TYPES; i++) {
		const mfs_layout *layout = mfs_layout_ggml(types[i].number);
		size_t size = (size_t)BLOCKS * layout->block_bytes;
		uint8_t *in = malloc(size), *out = malloc(size);
		struct sink sink = {0};

		assert_non_null(in);
		assert_non_null(out);
		fill(in, size, (uint32_t)i);
		types[i].split(in, &sink);
		for (uint32_t s = 0; s < layout->stream_count; s++) {
			stream[s] = malloc((size_t)BLOCKS * layout->stream[s].per_block);
			assert_non_null(stream[s]);
		}
		mfs_layout_split(layout, BLOCKS, in, stream);
		compare_streams(layout, &sink, stream);

		/* Back from the splitter's streams, not from our own. */
		for (uint32_t s = 0; s < sink.count; s++)
			memcpy(stream[s], sink.stream[s].bytes, sink.stream[s].size);
		mfs_layout_join(layout, BLOCKS, (const uint8_t *const *)stream, out);
		assert_memory_equal(out, in, size);

		for (uint32_t s = 0; s < sink.count; s++) {
			free(sink.stream[s].bytes);
			free(stream[s]);
		}
		free(in);
		free(out);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_row_has_the_name_and_sizes_of_its_type),
	    cmocka_unit_test(there_is_no_row_that_is_not_tested),
	    cmocka_unit_test(numbers_without_a_type_have_no_row),
	    cmocka_unit_test(every_row_splits_as_the_block_structs_say),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
