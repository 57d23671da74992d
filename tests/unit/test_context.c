/* Contexts: integers that must come out alike on every processor. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "context.h"
#include "layout_ggml.h"
#include "processor.h"

enum { Q4_0 = 2, Q4_1 = 3, Q2_K = 10, IQ4_XS = 23, Q4_K = 12, Q6_K = 14, MXFP4 = 39 };

#define HALF_ONE      0x3c00
#define HALF_INFINITY 0x7c00

static double half_value(unsigned half)
{
	int exponent = half >> 10 & 31, mantissa = half & 1023;

	return exponent ? ldexp(mantissa + 1024, exponent - 25) : ldexp(mantissa, -24);
}

static void logarithms_of_halves_are_right_to_a_unit(void **state)
{
	int one = mfs_context_log_half(HALF_ONE);

	(void)state;
	assert_int_equal(mfs_context_log_half(0), 0);
	assert_int_equal(mfs_context_log_half(0x8000), 0);
	for (unsigned half = 1; half < HALF_INFINITY; half++) {
		double exact = one + 32 * log2(half_value(half));

		assert_true(fabs(mfs_context_log_half((uint16_t)half) - exact) < 2.5);
		assert_int_equal(mfs_context_log_half((uint16_t)half),
				 mfs_context_log_half((uint16_t)(half | 0x8000)));
		assert_true(mfs_context_log_half((uint16_t)half) >=
			    mfs_context_log_half((uint16_t)(half - 1)));
	}
	/* Infinity and NaN are numbers with the next exponent. */
	assert_int_equal(mfs_context_log_half(HALF_INFINITY), one + 16 * 32);
	assert_int_equal(mfs_context_log_half(0x7fff), one + 16 * 32 + 31);
}

static void logarithms_of_integers_are_right_to_a_unit(void **state)
{
	(void)state;
	assert_int_equal(mfs_context_log_integer(0), 0);
	assert_int_equal(mfs_context_log_integer(1), 1);
	assert_int_equal(mfs_context_log_integer(UINT32_MAX), 31 * 32 + 32);
	for (unsigned v = 1; v < 100000; v++)
		assert_true(fabs(mfs_context_log_integer(v) - 32 * log2(v)) < 2);
}

/* ---- Q4_K: the ratio of minimum and scale ---- */

static void set_k(uint8_t block[144], uint16_t d, uint16_t dmin, const uint8_t scale[8],
		  const uint8_t minimum[8])
{
	memset(block, 0xa5, 144);
	store_le16(block, d);
	store_le16(block + 2, dmin);
	for (int g = 0; g < 4; g++) {
		block[4 + g] = (uint8_t)(scale[g] | scale[g + 4] >> 4 << 6);
		block[8 + g] = (uint8_t)(minimum[g] | minimum[g + 4] >> 4 << 6);
		block[12 + g] = (uint8_t)((scale[g + 4] & 15) | minimum[g + 4] << 4);
	}
}

static void ratios_grow_with_the_minimum_and_fall_with_the_scale(void **state)
{
	const uint8_t scale[8] = {1, 2, 4, 8, 16, 32, 63, 17},
		      minimum[8] = {8, 8, 8, 8, 8, 8, 63, 0};
	uint8_t block[144], value[8];

	(void)state;
	set_k(block, HALF_ONE, HALF_ONE, scale, minimum);
	mfs_context_values(mfs_layout_ggml(Q4_K), 1, 0, block, value);
	for (int g = 0; g < 6; g++)
		assert_int_equal(value[g], 32 + 32 * (3 - g) < 0 ? 0 : 32 + 32 * (3 - g));
	assert_int_equal(value[6], 32);
	assert_int_equal(value[7], 0);
	set_k(block, HALF_ONE, HALF_ONE + 2 * 1024, scale, minimum); /* four times */
	mfs_context_values(mfs_layout_ggml(Q4_K), 1, 0, block, value);
	assert_int_equal(value[0], 32 + 32 * 5);
	assert_int_equal(value[6], 32 + 64);
}

static void special_numbers_have_their_values(void **state)
{
	static const uint16_t halves[] = {0,	    0x8000, 1,	    0x03ff,	   0x8001,
					  HALF_ONE, 0xbc00, 0x7bff, HALF_INFINITY, 0xfc00,
					  0x7e00,   0xffff};
	const uint8_t scale[8] = {0, 0, 1, 1, 63, 63, 0, 5},
		      minimum[8] = {0, 1, 0, 1, 63, 0, 63, 5};
	uint8_t block[144], value[8];

	(void)state;
	for (size_t i = 0; i < 12; i++)
		for (size_t k = 0; k < 12; k++) {
			int d = halves[i] & 0x7fff, m = halves[k] & 0x7fff;

			set_k(block, halves[i], halves[k], scale, minimum);
			mfs_context_values(mfs_layout_ggml(Q4_K), 1, 0, block, value);
			for (int g = 0; g < 8; g++) {
				if (!m || !minimum[g])
					assert_int_equal(value[g], 0);
				else if (!d || !scale[g])
					assert_int_equal(value[g], 255);
			}
			if (d && d == m) {
				assert_int_equal(value[3], 32);
				assert_int_equal(value[4], 32);
				assert_int_equal(value[7], 32);
			}
		}
}

static void ratios_of_nibbles_and_of_halves_are_ratios(void **state)
{
	uint8_t block[84] = {0}, value[16];

	(void)state;
	for (unsigned g = 0; g < 16; g++)
		block[g] = (uint8_t)(g | (15 - g) << 4);
	store_le16(block + 80, HALF_ONE);
	store_le16(block + 82, HALF_ONE + 1024); /* twice */
	mfs_context_values(mfs_layout_ggml(Q2_K), 1, 0, block, value);
	assert_int_equal(value[0], 255); /* no scale */
	assert_int_equal(value[15], 0);	 /* no minimum */
	assert_int_equal(value[5], 32 + 32 + 32);
	for (unsigned g = 1; g < 15; g++) {
		double exact = fmax(0, 64 + 32 * log2((15.0 - g) / g));

		assert_true(fabs(value[g] - exact) < 2.5);
	}
	store_le16(block, HALF_ONE + 1024);
	store_le16(block + 2, 0x8000 | HALF_ONE); /* the sign does not count */
	mfs_context_values(mfs_layout_ggml(Q4_1), 1, 0, block, value);
	assert_int_equal(value[0], 0);
	store_le16(block, HALF_ONE - 1024);
	mfs_context_values(mfs_layout_ggml(Q4_1), 1, 0, block, value);
	assert_int_equal(value[0], 64);
	store_le16(block, 0);
	mfs_context_values(mfs_layout_ggml(Q4_1), 1, 0, block, value);
	assert_int_equal(value[0], 255);
	store_le16(block + 2, 0);
	mfs_context_values(mfs_layout_ggml(Q4_1), 1, 0, block, value);
	assert_int_equal(value[0], 0);
}

/* ---- scales ---- */

static void scales_are_compared_with_their_window(void **state)
{
	const mfs_layout *layout = mfs_layout_ggml(Q4_0);
	uint8_t in[6 * 18] = {0}, value[6];

	(void)state;
	for (int b = 0; b < 6; b++)
		store_le16(in + 18 * b, (uint16_t)(HALF_ONE + (b < 3 ? 0 : 1024)));
	mfs_context_values(layout, 6, 0, in, value);
	assert_int_equal(value[0], 128 - 16);
	assert_int_equal(value[5], 128 + 16);
	mfs_context_values(layout, 6, 3, in, value);
	for (int b = 0; b < 6; b++)
		assert_int_equal(value[b], 128);
	mfs_context_values(layout, 6, 4, in, value); /* the last window is shorter */
	assert_int_equal(value[0], 128 - 8);
	assert_int_equal(value[3], 128 + 24);
	assert_int_equal(value[5], 128);
	mfs_context_values(layout, 6, 65535, in, value);
	assert_int_equal(value[0], 128 - 16);
}

static void groups_scales_count_with_their_blocks(void **state)
{
	uint8_t block[210] = {0}, value[16];

	(void)state;
	store_le16(block + 208, HALF_ONE);
	memset(block + 192, 1, 16);
	block[192] = 4;
	block[193] = (uint8_t)-4;
	block[194] = (uint8_t)-128;
	block[195] = 0;
	mfs_context_values(mfs_layout_ggml(Q6_K), 1, 0, block, value);
	assert_int_equal(value[0], value[1]);
	assert_int_equal(value[0] - value[4], 64);
	assert_int_equal(value[2] - value[4], 7 * 32 > 255 - value[4] ? 255 - value[4] : 7 * 32);
	assert_int_equal(value[4] - value[3], 1);
}

static void six_bits_of_scale_lie_in_two_places(void **state)
{
	static const uint8_t code[8] = {32, 33, 34, 36, 28, 48, 0, 63};
	uint8_t block[136] = {0}, value[8];

	(void)state;
	store_le16(block, HALF_ONE);
	for (unsigned g = 0; g < 8; g++) {
		block[4 + g / 2] |= (uint8_t)((code[g] & 15) << 4 * (g % 2));
		block[2 + g / 4] |= (uint8_t)(code[g] >> 4 << 2 * (g % 4));
	}
	mfs_context_values(mfs_layout_ggml(IQ4_XS), 1, 0, block, value);
	assert_int_equal(value[1] - value[0], 1);
	assert_int_equal(value[2] - value[1], 32);
	assert_int_equal(value[3] - value[1], 64);
	assert_int_equal(value[4], value[3]);
	assert_int_equal(value[5] - value[1], 128);
	assert_int_equal(value[6] - value[1], 160);
	assert_in_range(value[7], value[6] - 3, value[6]);
}

static void exponents_are_logarithms(void **state)
{
	uint8_t in[4 * 17] = {0}, value[4];

	(void)state;
	in[17] = 1;
	in[34] = 2;
	in[51] = 255;
	mfs_context_values(mfs_layout_ggml(MXFP4), 3, 0, in, value);
	assert_int_equal(value[0], 96);
	assert_int_equal(value[1], 128);
	assert_int_equal(value[2], 160);
	mfs_context_values(mfs_layout_ggml(MXFP4), 4, 0, in, value);
	assert_int_equal(value[0], 0);
	assert_int_equal(value[3], 255);
}

/* Every byte of a block at random, its halves also 0, subnormal or infinite. */
static void random_blocks(const mfs_layout *layout, uint32_t blocks, uint8_t *out)
{
	static const uint16_t special[] = {0, 0x8000, 1, 0x8001, 0x03ff, HALF_INFINITY, 0x7fff};
	uint64_t state = blocks;

	for (uint32_t b = 0; b < blocks; b++, out += layout->block_bytes) {
		for (uint32_t i = 0; i < layout->block_bytes; i++) {
			state = state * UINT64_C(6364136223846793005) + 1442695040888963407;
			out[i] = (uint8_t)(state >> 40);
		}
		if (b % 3 == 1)
			store_le16(out + layout->context_offset[0], special[b % 7]);
		if (b % 4 == 1)
			store_le16(out + layout->context_offset[1], special[b % 5]);
	}
}

static void values_are_alike_on_every_processor(void **state)
{
	static const unsigned types[] = {Q2_K, Q4_K, Q4_1, Q4_0, Q6_K, IQ4_XS, MXFP4};
	static const uint32_t counts[] = {1, 2, 63, 64, 65, 1000, 4097};
	static uint8_t in[4097 * 256], fast[4097 * 32], plain[4097 * 32];

	(void)state;
	for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++)
		for (size_t k = 0; k < sizeof(counts) / sizeof(*counts); k++) {
			const mfs_layout *layout = mfs_layout_ggml(types[i]);
			size_t size = (size_t)counts[k] * mfs_context_groups(layout);

			random_blocks(layout, counts[k], in);
			mfs_context_values(layout, counts[k], 0, in, fast);
			mfs_processor_hide(~0u);
			mfs_context_values(layout, counts[k], 0, in, plain);
			mfs_processor_hide(0);
			assert_memory_equal(fast, plain, size);
		}
}

static void every_half_has_its_logarithm_on_every_processor(void **state)
{
	static uint8_t in[65536 * 20], fast[65536], plain[65536];
	const mfs_layout *layout = mfs_layout_ggml(Q4_1);

	(void)state;
	for (unsigned half = 0; half < 65536; half++) {
		/* The other is near, so that neither end of the values is reached. */
		store_le16(in + half * 20, (uint16_t)(half ^ half * 7 % 1024));
		store_le16(in + half * 20 + 2, (uint16_t)half);
	}
	mfs_context_values(layout, 65536, 0, in, fast);
	mfs_processor_hide(~0u);
	mfs_context_values(layout, 65536, 0, in, plain);
	mfs_processor_hide(0);
	assert_memory_equal(fast, plain, sizeof(plain));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(logarithms_of_halves_are_right_to_a_unit),
	    cmocka_unit_test(logarithms_of_integers_are_right_to_a_unit),
	    cmocka_unit_test(ratios_grow_with_the_minimum_and_fall_with_the_scale),
	    cmocka_unit_test(special_numbers_have_their_values),
	    cmocka_unit_test(ratios_of_nibbles_and_of_halves_are_ratios),
	    cmocka_unit_test(six_bits_of_scale_lie_in_two_places),
	    cmocka_unit_test(scales_are_compared_with_their_window),
	    cmocka_unit_test(groups_scales_count_with_their_blocks),
	    cmocka_unit_test(exponents_are_logarithms),
	    cmocka_unit_test(values_are_alike_on_every_processor),
	    cmocka_unit_test(every_half_has_its_logarithm_on_every_processor),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
