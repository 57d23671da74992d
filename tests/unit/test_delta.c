/* Differences to a base: exact both ways, and what the specification says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "delta.h"
#include "layout_ggml.h"

#define BLOCKS 37

static uint64_t next_number(uint64_t *state)
{
	*state = *state * UINT64_C(6364136223846793005) + 1442695040888963407;
	return *state >> 33;
}

static void fill(uint8_t *bytes, size_t size, uint64_t seed)
{
	for (size_t i = 0; i < size; i++)
		bytes[i] = (uint8_t)next_number(&seed);
}

/* The definition, number by number. */
static uint64_t word_difference(const uint8_t *base, const uint8_t *bytes, unsigned width)
{
	uint64_t a = 0, b = 0, n, mask = width == 8 ? UINT64_MAX : (UINT64_C(1) << 8 * width) - 1;

	for (unsigned i = width; i-- > 0;) {
		a = a << 8 | bytes[i];
		b = b << 8 | base[i];
	}
	n = (a - b) & mask;
	if (width == 1)
		return n;
	return (n > mask / 2 ? 2 * (mask - n) + 1 : 2 * n) & mask;
}

static uint8_t lane_difference(uint8_t base, uint8_t byte, unsigned bits)
{
	unsigned mask = (1u << bits) - 1, out = 0;

	for (unsigned shift = 0; shift < 8; shift += bits)
		out |= (((byte >> shift & mask) - (base >> shift & mask)) & mask) << shift;
	return (uint8_t)out;
}

static void expect_field(const mfs_field *f, const uint8_t *base, const uint8_t *bytes,
			 const uint8_t *got)
{
	bool words = f->transform == MFS_TRANSFORM_PLANES || f->transform == MFS_TRANSFORM_ROTATE ||
		     f->transform == MFS_TRANSFORM_FLOAT;

	for (uint32_t i = 0; i < f->size; i += words ? f->width : 1) {
		if (words) {
			uint64_t n = word_difference(base + i, bytes + i, f->width);

			for (unsigned k = 0; k < f->width; k++)
				assert_int_equal(got[i + k], (uint8_t)(n >> 8 * k));
		} else if (f->bits == 8 || f->bits == 4 || f->bits == 2) {
			assert_int_equal(got[i], lane_difference(base[i], bytes[i], f->bits));
		} else {
			assert_int_equal(got[i], base[i] ^ bytes[i]);
		}
	}
}

static void check_layout(const mfs_layout *layout)
{
	size_t size = (size_t)BLOCKS * layout->block_bytes;
	size_t same = (size_t)BLOCKS / 3 * layout->block_bytes;
	uint8_t *base = malloc(size), *bytes = malloc(size), *work = malloc(size);

	assert_true(base && bytes && work);
	fill(base, size, layout->block_bytes);
	fill(bytes, size, 1);
	memcpy(bytes, base, same); /* equal ones too */
	for (int integer = 0; integer < 2; integer++) {
		memcpy(work, bytes, size);
		mfs_delta_encode(layout, BLOCKS, integer, base, work);
		for (size_t i = 0; i < same; i++)
			assert_int_equal(work[i], 0);
		for (size_t i = 0; i < size && !integer; i++)
			assert_int_equal(work[i], base[i] ^ bytes[i]);
		for (uint32_t b = 0; b < BLOCKS && integer; b++)
			for (uint32_t f = 0; f < layout->field_count; f++) {
				size_t at =
				    (size_t)b * layout->block_bytes + layout->field[f].offset;

				expect_field(&layout->field[f], base + at, bytes + at, work + at);
			}
		mfs_delta_decode(layout, BLOCKS, integer, base, work);
		assert_memory_equal(work, bytes, size);
	}
	free(base);
	free(bytes);
	free(work);
}

static void every_layout_comes_back_from_its_differences(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < mfs_layout_ggml_count(); i++)
		check_layout(mfs_layout_ggml_row(i));
	check_layout(mfs_layout_bytes());
}

static void a_small_step_is_a_small_number(void **state)
{
	static const uint16_t from[4] = {0x3f80, 0x3f80, 0xbf80, 0x0100};
	static const uint16_t to[4] = {0x3f81, 0x3f7f, 0xbf82, 0x0100};
	static const uint16_t wanted[4] = {2, 1, 4, 0};
	uint8_t base[8], bytes[8];

	(void)state;
	for (int i = 0; i < 4; i++) {
		store_le16(base + 2 * i, from[i]);
		store_le16(bytes + 2 * i, to[i]);
	}
	mfs_delta_encode(mfs_layout_ggml(30), 4, true, base, bytes);
	for (int i = 0; i < 4; i++)
		assert_int_equal(load_le16(bytes + 2 * i), wanted[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_layout_comes_back_from_its_differences),
	    cmocka_unit_test(a_small_step_is_a_small_number),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
