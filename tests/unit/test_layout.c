/* Layouts: what is refused, and the fast paths against the reference. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "layout.h"
#include "layout_ggml.h"
#include "processor.h"
#include "modelfs_error.h"

/* A repeatable source of bytes. */
static uint64_t random_state = 1;

static uint32_t random_next(void)
{
	random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(random_state >> 32);
}

static uint8_t *random_bytes(size_t size)
{
	uint8_t *bytes = malloc(size);

	assert_non_null(bytes);
	for (size_t i = 0; i < size; i++)
		bytes[i] = (uint8_t)random_next();
	return bytes;
}

static void add_field(mfs_layout *layout, uint8_t cls, uint8_t transform, uint8_t width,
		      uint32_t size)
{
	layout->field[layout->field_count++] = (mfs_field){.name = "f",
							   .name_length = 1,
							   .cls = cls,
							   .transform = transform,
							   .width = width,
							   .bits = 8,
							   .offset = layout->block_bytes,
							   .size = size};
	layout->block_bytes += size;
}

/* Two bytes of constants, then four words of four bytes. */
static mfs_layout good_layout(void)
{
	mfs_layout layout = {.name = "good", .name_length = 4, .block_weights = 4};

	add_field(&layout, MFS_DISK_CONSTANTS, MFS_TRANSFORM_BYTES, 1, 2);
	add_field(&layout, MFS_DISK_WEIGHTS, MFS_TRANSFORM_ROTATE, 4, 16);
	return layout;
}

static void finish_numbers_streams_by_field_and_plane(void **state)
{
	mfs_layout layout = good_layout();

	(void)state;
	assert_int_equal(mfs_layout_finish(&layout), 0);
	assert_int_equal(layout.stream_count, 5);
	assert_int_equal(layout.slot_streams[0], 4);
	assert_int_equal(layout.slot_streams[1], 1);
	assert_int_equal(layout.slot_bytes[0], 16);
	assert_int_equal(layout.slot_bytes[1], 2);
	assert_int_equal(layout.stream[0].slot, 1);
	assert_int_equal(layout.stream[0].per_block, 2);
	for (int s = 1; s < 5; s++) {
		assert_int_equal(layout.stream[s].slot, 0);
		assert_int_equal(layout.stream[s].field, 1);
		assert_int_equal(layout.stream[s].plane, s - 1);
		assert_int_equal(layout.stream[s].per_block, 4);
	}
}

static void finish_twice_changes_nothing(void **state)
{
	mfs_layout layout = good_layout();
	mfs_layout again;

	(void)state;
	assert_int_equal(mfs_layout_finish(&layout), 0);
	memcpy(&again, &layout, sizeof(again));
	assert_int_equal(mfs_layout_finish(&again), 0);
	assert_memory_equal(&again, &layout, sizeof(again));
}

static void finish_accepts_the_largest_block_and_the_most_streams(void **state)
{
	mfs_layout layout = {.name = "large", .name_length = 5};

	(void)state;
	for (int i = 0; i < 4; i++)
		add_field(&layout, MFS_DISK_WEIGHTS, MFS_TRANSFORM_PLANES, 8, MFS_BLOCK_MAX / 4);
	assert_int_equal(layout.block_bytes, MFS_BLOCK_MAX);
	assert_int_equal(mfs_layout_finish(&layout), 0);
	assert_int_equal(layout.stream_count, MFS_STREAMS_MAX);
}

#define REFUSED(change)                                                                            \
	do {                                                                                       \
		mfs_layout layout = good_layout();                                                 \
		mfs_field *first = &layout.field[0], *second = &layout.field[1];                   \
                                                                                                   \
		change;                                                                            \
		(void)first;                                                                       \
		(void)second;                                                                      \
		assert_int_equal(mfs_layout_finish(&layout), MFS_E_CORRUPT);                       \
	} while (0)

static void finish_refuses_fields_that_do_not_tile_the_block(void **state)
{
	(void)state;
	REFUSED(layout.field_count = 0);
	REFUSED(layout.field_count = 1);
	REFUSED(layout.field_count = MFS_STREAMS_MAX + 1);
	REFUSED(layout.field_count = UINT32_MAX);
	REFUSED(layout.block_bytes = 0);
	REFUSED(layout.block_bytes = 17);
	REFUSED(layout.block_bytes = 19);
	REFUSED(layout.block_bytes = UINT32_MAX);
	REFUSED(first->offset = 1);
	REFUSED(second->offset = 1);
	REFUSED(second->offset = 3);
	REFUSED(second->offset = UINT32_MAX);
	REFUSED(first->size = 0);
	REFUSED(second->size = 0);
	REFUSED(second->size = 12);
	REFUSED(second->size = 20);
	REFUSED(second->size = UINT32_MAX - 3);
	REFUSED(first->size = UINT32_MAX);
	REFUSED(first->offset = 16; second->offset = 0);
}

static void finish_refuses_blocks_that_are_too_large(void **state)
{
	mfs_layout layout = {.name = "large", .name_length = 5};

	(void)state;
	add_field(&layout, MFS_DISK_WEIGHTS, MFS_TRANSFORM_BYTES, 1, MFS_BLOCK_MAX + 1);
	assert_int_equal(mfs_layout_finish(&layout), MFS_E_CORRUPT);
}

static void finish_refuses_transforms_that_do_not_fit(void **state)
{
	(void)state;
	REFUSED(second->width = 0);
	REFUSED(second->width = 3);
	REFUSED(second->width = 16);
	REFUSED(second->width = 255);
	REFUSED(first->width = 2);
	REFUSED(first->transform = MFS_TRANSFORM_PLANES; first->width = 4);
	REFUSED(second->transform = MFS_TRANSFORMS);
	REFUSED(second->transform = 255);
	REFUSED(second->cls = MFS_DISK_ADAPTER);
	REFUSED(second->cls = MFS_DISK_PLAIN);
	REFUSED(second->cls = 255);
}

static void finish_refuses_more_streams_than_there_may_be(void **state)
{
	mfs_layout layout = {.name = "many", .name_length = 4};

	(void)state;
	for (int i = 0; i < 4; i++)
		add_field(&layout, MFS_DISK_WEIGHTS, MFS_TRANSFORM_PLANES, 8, 8);
	add_field(&layout, MFS_DISK_CONSTANTS, MFS_TRANSFORM_BYTES, 1, 1);
	assert_int_equal(mfs_layout_finish(&layout), MFS_E_CORRUPT);
}

/* -1.0 and 1.5 as bfloat16: sign 1, exponent 127, mantissa 0; sign 0, exponent 127,
 * mantissa 0x40. */
static void two_numbers_become(uint8_t transform, const uint8_t low[2], const uint8_t high[2])
{
	const uint8_t in[4] = {0x80, 0xbf, 0xc0, 0x3f};
	mfs_layout layout = {.name = "bf16", .name_length = 4};
	uint8_t plane[2][2];
	uint8_t *const stream[2] = {plane[0], plane[1]};

	add_field(&layout, MFS_DISK_WEIGHTS, transform, 2, 2);
	assert_int_equal(mfs_layout_finish(&layout), 0);
	mfs_layout_split(&layout, 2, in, stream);
	assert_memory_equal(plane[0], low, 2);
	assert_memory_equal(plane[1], high, 2);
}

static void rotation_moves_the_sign_behind_the_mantissa(void **state)
{
	(void)state;
	two_numbers_become(MFS_TRANSFORM_ROTATE, (const uint8_t[]){0x01, 0x80},
			   (const uint8_t[]){127, 127});
}

/* Mantissa, sign, and the same two bits for both; six bits of exponent above two of
 * mantissa. */
static void floats_end_with_two_bits_that_do_not_vary(void **state)
{
	(void)state;
	two_numbers_become(MFS_TRANSFORM_FLOAT, (const uint8_t[]){0x02, 0x06},
			   (const uint8_t[]){0x7c, 0x7e});
}

static void zero_stays_zero_as_a_float(void **state)
{
	(void)state;
	for (uint8_t width = 1; width <= 8; width *= 2) {
		mfs_layout layout = {.name = "float", .name_length = 5};
		uint8_t in[8] = {0}, plane[8];
		uint8_t *stream[8];

		for (int k = 0; k < 8; k++)
			stream[k] = &plane[k];
		memset(plane, 1, sizeof(plane));
		add_field(&layout, MFS_DISK_WEIGHTS, MFS_TRANSFORM_FLOAT, width, width);
		assert_int_equal(mfs_layout_finish(&layout), 0);
		mfs_layout_split(&layout, 1, in, stream);
		assert_memory_equal(plane, in, width);
	}
}

static void planes_are_numbered_from_the_least_significant_byte(void **state)
{
	const uint8_t in[8] = {1, 2, 3, 4, 5, 6, 7, 8};
	const mfs_layout *layout = mfs_layout_ggml(26); /* I32 */
	uint8_t plane[4][2];
	uint8_t *const stream[4] = {plane[0], plane[1], plane[2], plane[3]};

	(void)state;
	mfs_layout_split(layout, 2, in, stream);
	for (uint8_t k = 0; k < 4; k++) {
		assert_int_equal(plane[k][0], k + 1);
		assert_int_equal(plane[k][1], k + 5);
	}
}

static void opaque_bytes_are_one_stream(void **state)
{
	const mfs_layout *bytes = mfs_layout_bytes();
	mfs_layout finished = *bytes;

	(void)state;
	assert_int_equal(mfs_layout_finish(&finished), 0);
	assert_memory_equal(&finished, bytes, sizeof(finished));
	assert_int_equal(bytes->block_bytes, 1);
	assert_int_equal(bytes->stream_count, 1);
	assert_int_equal(bytes->slot_streams[1], 0);
}

/* The streams of a span, each in memory of exactly its size. */
struct streams {
	uint8_t *bytes[MFS_STREAMS_MAX];
};

static struct streams streams_new(const mfs_layout *layout, uint32_t blocks)
{
	struct streams streams = {0};

	for (uint32_t s = 0; s < layout->stream_count; s++) {
		streams.bytes[s] = malloc((size_t)blocks * layout->stream[s].per_block);
		assert_non_null(streams.bytes[s]);
	}
	return streams;
}

static void streams_free(const mfs_layout *layout, struct streams *streams)
{
	for (uint32_t s = 0; s < layout->stream_count; s++)
		free(streams->bytes[s]);
}

static void compare_with_reference(const mfs_layout *layout, uint32_t blocks)
{
	size_t size = (size_t)blocks * layout->block_bytes;
	uint8_t *in = random_bytes(size);
	uint8_t *fast_out = malloc(size), *reference_out = malloc(size);
	struct streams fast = streams_new(layout, blocks);
	struct streams reference = streams_new(layout, blocks);

	assert_non_null(fast_out);
	assert_non_null(reference_out);
	mfs_layout_split_reference(layout, blocks, in, reference.bytes);
	for (int hidden = 1; hidden >= 0; hidden--) {
		mfs_processor_hide(hidden ? ~0u : 0);
		mfs_layout_split(layout, blocks, in, fast.bytes);
		for (uint32_t s = 0; s < layout->stream_count; s++)
			assert_memory_equal(fast.bytes[s], reference.bytes[s],
					    (size_t)blocks * layout->stream[s].per_block);
	}

	mfs_layout_join(layout, blocks, (const uint8_t *const *)fast.bytes, fast_out);
	assert_memory_equal(fast_out, in, size);
	mfs_processor_hide(~0u);
	memset(fast_out, 0x5a, size);
	mfs_layout_join(layout, blocks, (const uint8_t *const *)fast.bytes, fast_out);
	mfs_processor_hide(0);
	mfs_layout_join_reference(layout, blocks, (const uint8_t *const *)reference.bytes,
				  reference_out);
	assert_memory_equal(fast_out, in, size);
	assert_memory_equal(reference_out, in, size);

	streams_free(layout, &fast);
	streams_free(layout, &reference);
	free(in);
	free(fast_out);
	free(reference_out);
}

static const uint32_t block_counts[] = {1, 2, 3, 7, 16, 33, 64, 129, 1000, 8193};

static void fast_paths_equal_the_reference_for_every_row(void **state)
{
	(void)state;
	for (uint32_t row = 0; row < mfs_layout_ggml_count(); row++)
		for (size_t i = 0; i < sizeof(block_counts) / sizeof(*block_counts); i++)
			compare_with_reference(mfs_layout_ggml_row(row), block_counts[i]);
	compare_with_reference(mfs_layout_bytes(), 4097);
}

/* Any field sizes and transforms, not only those of known types. */
static mfs_layout random_layout(void)
{
	mfs_layout layout = {.name = "random", .name_length = 6};
	uint32_t fields = 1 + random_next() % 4;

	for (uint32_t i = 0; i < fields; i++) {
		static const uint8_t transforms[] = {MFS_TRANSFORM_BYTES, MFS_TRANSFORM_PLANES,
						     MFS_TRANSFORM_ROTATE, MFS_TRANSFORM_FLOAT};
		uint8_t transform = transforms[random_next() % 4];
		uint8_t width = (uint8_t)(1u << random_next() % 4);
		uint32_t words = 1 + random_next() % 40;

		if (transform == MFS_TRANSFORM_BYTES)
			width = 1;
		add_field(&layout, (uint8_t)(random_next() % 2), transform, width, words * width);
	}
	assert_int_equal(mfs_layout_finish(&layout), 0);
	return layout;
}

static void fast_paths_equal_the_reference_for_random_layouts(void **state)
{
	(void)state;
	for (int i = 0; i < 300; i++) {
		mfs_layout layout = random_layout();

		compare_with_reference(&layout, 1 + random_next() % 200);
	}
}

/* Weights in one or two fields, packed in any run, in groups of any size. */
static mfs_layout random_symbols(void)
{
	static const uint8_t widths[] = {1, 2, 4, 8};
	mfs_layout layout = {.name = "symbols", .name_length = 7};
	uint32_t low = widths[random_next() % 4], high = widths[random_next() % 3];
	uint32_t runs[] = {1, 2, 4, 8, 16, 32, 64};
	uint32_t weights = 512;
	int extended = low + high <= 8 && random_next() % 2;
	int first = (int)(random_next() % 2);

	for (int i = 0; i < 2; i++) {
		if (i != first) {
			add_field(&layout, MFS_DISK_WEIGHTS, MFS_TRANSFORM_SYMBOLS,
				  (uint8_t)(8u << random_next() % 4), weights * low / 8);
			layout.field[layout.field_count - 1].bits = (uint8_t)low;
		} else if (extended) {
			add_field(&layout, MFS_DISK_WEIGHTS, MFS_TRANSFORM_EXTEND, 1,
				  weights * high / 8);
			layout.field[layout.field_count - 1].bits = (uint8_t)high;
		} else {
			continue;
		}
		layout.field[layout.field_count - 1].run = (uint16_t)runs[random_next() % 7];
		add_field(&layout, (uint8_t)(random_next() % 2), MFS_TRANSFORM_BYTES, 1,
			  1 + random_next() % 9);
	}
	assert_int_equal(mfs_layout_finish(&layout), 0);
	assert_int_equal(layout.symbols.weights, weights);
	return layout;
}

static void fast_paths_equal_the_reference_for_random_symbols(void **state)
{
	(void)state;
	for (int i = 0; i < 500; i++) {
		mfs_layout layout = random_symbols();

		compare_with_reference(&layout, 1 + random_next() % 70);
	}
}

/* Two bytes of scale, then 32 weights of 4 and 1 bits, as in Q5_0. */
static mfs_layout symbols_layout(void)
{
	mfs_layout layout = {.name = "good", .name_length = 4, .block_weights = 32};

	add_field(&layout, MFS_DISK_CONSTANTS, MFS_TRANSFORM_BYTES, 1, 2);
	add_field(&layout, MFS_DISK_WEIGHTS, MFS_TRANSFORM_EXTEND, 1, 4);
	add_field(&layout, MFS_DISK_WEIGHTS, MFS_TRANSFORM_SYMBOLS, 32, 16);
	layout.field[1].bits = 1;
	layout.field[1].run = 1;
	layout.field[2].bits = 4;
	layout.field[2].run = 16;
	layout.context = MFS_CONTEXT_HALF;
	return layout;
}

#define SYMBOLS_REFUSED(change)                                                                    \
	do {                                                                                       \
		mfs_layout layout = symbols_layout();                                              \
		mfs_field *extend = &layout.field[1], *symbols = &layout.field[2];                 \
                                                                                                   \
		change;                                                                            \
		(void)extend;                                                                      \
		(void)symbols;                                                                     \
		assert_int_equal(mfs_layout_finish(&layout), MFS_E_CORRUPT);                       \
	} while (0)

static void finish_refuses_symbols_that_do_not_fit(void **state)
{
	mfs_layout good = symbols_layout();

	(void)state;
	assert_int_equal(mfs_layout_finish(&good), 0);
	SYMBOLS_REFUSED(symbols->bits = 0);
	SYMBOLS_REFUSED(symbols->bits = 3);
	SYMBOLS_REFUSED(symbols->bits = 16);
	SYMBOLS_REFUSED(symbols->bits = 8);
	SYMBOLS_REFUSED(symbols->run = 0);
	SYMBOLS_REFUSED(symbols->run = 5);
	SYMBOLS_REFUSED(symbols->run = 32);
	SYMBOLS_REFUSED(symbols->width = 0);
	SYMBOLS_REFUSED(symbols->width = 7);
	SYMBOLS_REFUSED(symbols->width = 1);
	SYMBOLS_REFUSED(symbols->width = 64);
	SYMBOLS_REFUSED(symbols->cls = MFS_DISK_CONSTANTS);
	SYMBOLS_REFUSED(symbols->transform = MFS_TRANSFORM_EXTEND);
	SYMBOLS_REFUSED(symbols->transform = MFS_TRANSFORM_BYTES);
	SYMBOLS_REFUSED(extend->bits = 2);
	SYMBOLS_REFUSED(extend->run = 3);
	SYMBOLS_REFUSED(extend->width = 2);
	SYMBOLS_REFUSED(extend->transform = MFS_TRANSFORM_SYMBOLS);
	SYMBOLS_REFUSED(layout.field[0].run = 1);
}

static void finish_refuses_contexts_that_do_not_fit(void **state)
{
	(void)state;
	SYMBOLS_REFUSED(layout.context = MFS_CONTEXTS);
	SYMBOLS_REFUSED(layout.context = 255);
	SYMBOLS_REFUSED(layout.context_offset[0] = 1); /* reads a weight */
	SYMBOLS_REFUSED(layout.context_offset[0] = 21);
	SYMBOLS_REFUSED(layout.context_offset[0] = 22);
	SYMBOLS_REFUSED(layout.context_offset[0] = UINT16_MAX);
	SYMBOLS_REFUSED(layout.context_offset[1] = 1);
	SYMBOLS_REFUSED(layout.context = MFS_CONTEXT_NONE; layout.context_offset[2] = 1);
	SYMBOLS_REFUSED(layout.context = MFS_CONTEXT_RATIO);
	SYMBOLS_REFUSED(layout.context = MFS_CONTEXT_HALF_BYTES; layout.context_offset[1] = 2);
	SYMBOLS_REFUSED(symbols->width = 4);			/* groups of two bytes */
	SYMBOLS_REFUSED(layout.context = MFS_CONTEXT_HALF_SIX); /* one group */
	SYMBOLS_REFUSED(layout.context = MFS_CONTEXT_HALF_SIX; symbols->width = 8;
			layout.context_offset[2] = 2); /* reads a weight */
	SYMBOLS_REFUSED(layout.context = MFS_CONTEXT_RATIO_HALVES; layout.context_offset[1] = 1);
	SYMBOLS_REFUSED(layout.context = MFS_CONTEXT_RATIO_HALVES; layout.context_offset[2] = 1);
	SYMBOLS_REFUSED(layout.context = MFS_CONTEXT_RATIO_NIBBLES; layout.context_offset[2] = 2);
}

static void fast_paths_handle_blocks_larger_than_a_tile(void **state)
{
	mfs_layout layout = {.name = "large", .name_length = 5};

	(void)state;
	add_field(&layout, MFS_DISK_CONSTANTS, MFS_TRANSFORM_PLANES, 2, 2);
	add_field(&layout, MFS_DISK_WEIGHTS, MFS_TRANSFORM_BYTES, 1, MFS_BLOCK_MAX - 2);
	assert_int_equal(mfs_layout_finish(&layout), 0);
	compare_with_reference(&layout, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(finish_numbers_streams_by_field_and_plane),
	    cmocka_unit_test(finish_twice_changes_nothing),
	    cmocka_unit_test(finish_accepts_the_largest_block_and_the_most_streams),
	    cmocka_unit_test(finish_refuses_fields_that_do_not_tile_the_block),
	    cmocka_unit_test(finish_refuses_blocks_that_are_too_large),
	    cmocka_unit_test(finish_refuses_transforms_that_do_not_fit),
	    cmocka_unit_test(finish_refuses_more_streams_than_there_may_be),
	    cmocka_unit_test(rotation_moves_the_sign_behind_the_mantissa),
	    cmocka_unit_test(floats_end_with_two_bits_that_do_not_vary),
	    cmocka_unit_test(zero_stays_zero_as_a_float),
	    cmocka_unit_test(planes_are_numbered_from_the_least_significant_byte),
	    cmocka_unit_test(opaque_bytes_are_one_stream),
	    cmocka_unit_test(fast_paths_equal_the_reference_for_every_row),
	    cmocka_unit_test(fast_paths_equal_the_reference_for_random_layouts),
	    cmocka_unit_test(fast_paths_equal_the_reference_for_random_symbols),
	    cmocka_unit_test(finish_refuses_symbols_that_do_not_fit),
	    cmocka_unit_test(finish_refuses_contexts_that_do_not_fit),
	    cmocka_unit_test(fast_paths_handle_blocks_larger_than_a_tile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
