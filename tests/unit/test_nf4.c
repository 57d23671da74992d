/* NF4 with double quantization. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <math.h>
#include <cmocka.h>

#include "generated_weights.h"
#include "half.h"
#include "mfs_endian.h"
#include "modelfs_error.h"
#include "nf4.h"

#define WEIGHTS (64 * 256 * 2 + 64 * 3 + 11)
#define BLOCKS	(256 * 2 + 4)

static float weights[WEIGHTS], absmax[BLOCKS], scales[BLOCKS], out[WEIGHTS + 1];
static uint8_t codes[WEIGHTS / 2 + 1], absmax8[BLOCKS];

/* Values as recent versions of bitsandbytes make them, chosen where float arithmetic
 * in another order rounds differently. */
static void the_dynamic_map_is_that_of_bitsandbytes(void **state)
{
	static const struct {
		int index;
		float value;
	} known[] = {
	    {0, -0.992968738079071f},
	    {20, -0.711718738079071f},
	    {34, -0.514843761920929f},
	    {63, -0.10703125596046448f},
	    {75, -0.0676562488079071f},
	    {126, -5.499999815583578e-07f},
	    {127, 0},
	    {128, 5.499999815583578e-07f},
	    {129, 3.2499999633728294e-06f},
	    {131, 2.1249999917927198e-05f},
	    {138, 0.000493750034365803f},
	    {142, 0.0009437499684281647f},
	    {143, 0.0012812500353902578f},
	    {157, 0.009156250394880772f},
	    {159, 0.011406250298023224f},
	    {177, 0.06203124672174454f},
	    {189, 0.09578125178813934f},
	    {191, 0.10703125596046448f},
	    {208, 0.3460937738418579f},
	    {218, 0.4867187738418579f},
	    {224, 0.571093738079071f},
	    {229, 0.641406238079071f},
	    {254, 0.992968738079071f},
	    {255, 1},
	};
	mfs_nf4 nf4;

	(void)state;
	mfs_nf4_init(&nf4);
	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
		if (nf4.nested_map[known[i].index] != known[i].value)
			fail_msg("%d: %.9g is not %.9g", known[i].index,
				 (double)nf4.nested_map[known[i].index], (double)known[i].value);
	for (int i = 0; i < 255; i++)
		assert_true(nf4.nested_map[i] < nf4.nested_map[i + 1]);
}

static void the_map_is_nf4(void **state)
{
	mfs_nf4 nf4;

	(void)state;
	mfs_nf4_init(&nf4);
	assert_true(nf4.map[0] == -1 && nf4.map[7] == 0 && nf4.map[15] == 1);
	assert_true(nf4.map[1] == -0.6961928009986877f && nf4.map[14] == 0.7229568362236023f);
	assert_int_equal(nf4.block, 64);
	assert_int_equal(nf4.nested_block, 256);
}

/* The first of the least distances, as argmin finds it. */
static unsigned argmin(const float *map, unsigned values, float x)
{
	unsigned best = 0;

	for (unsigned i = 1; i < values; i++) {
		volatile float here = fabsf(x - map[i]), least = fabsf(x - map[best]);

		best = here < least ? i : best;
	}
	return best;
}

static unsigned code_at(size_t i)
{
	return codes[i / 2] >> (i % 2 ? 0 : 4) & 15;
}

static float mean(const float *numbers, size_t count)
{
	double sum = 0;

	for (size_t i = 0; i < count; i++)
		sum += numbers[i];
	return (float)(sum / (double)count);
}

static void make(mfs_nf4 *nf4, float nested[3])
{
	mfs_nf4_init(nf4);
	generated_weights(weights, WEIGHTS, 11);
	assert_int_equal(mfs_nf4_blocks(nf4, WEIGHTS), BLOCKS);
	assert_int_equal(mfs_nf4_absmax(nf4, weights, WEIGHTS, absmax), 0);
	mfs_nf4_codes(nf4, weights, absmax, WEIGHTS, codes);
	nf4->offset = mean(absmax, BLOCKS);
	mfs_nf4_nest(nf4, absmax, BLOCKS, absmax8, nested);
}

static void codes_are_the_nearest_of_the_map(void **state)
{
	float nested[3];
	mfs_nf4 nf4;

	(void)state;
	make(&nf4, nested);
	for (size_t i = 0; i < WEIGHTS; i++) {
		const float most = absmax[i / 64];
		volatile float inverse = 1 / most, scaled = weights[i] * inverse;

		if (most == 0) {
			assert_int_equal(code_at(i), 7);
			continue;
		}
		scaled = scaled > 1 ? 1 : scaled < -1 ? -1 : scaled;
		assert_int_equal(code_at(i), argmin(nf4.map, 16, scaled));
	}
	assert_int_equal(code_at(WEIGHTS), 7);
}

/* Each middle of two values, and the floats next to it. */
static void middles_go_to_the_lower_code(void **state)
{
	mfs_nf4 nf4;

	(void)state;
	mfs_nf4_init(&nf4);
	for (int i = 0; i < 15; i++) {
		const float middle = (float)(((double)nf4.map[i] + (double)nf4.map[i + 1]) / 2);
		const float x[4] = {1, nextafterf(middle, -2), middle, nextafterf(middle, 2)};
		const float most = 1;

		mfs_nf4_codes(&nf4, x, &most, 4, codes);
		for (size_t j = 0; j < 4; j++)
			assert_int_equal(code_at(j), argmin(nf4.map, 16, x[j]));
	}
}

static void scales_are_quantized_to_the_nearest(void **state)
{
	float nested[3];
	double sum = 0;
	mfs_nf4 nf4;

	(void)state;
	make(&nf4, nested);
	for (int i = 0; i < BLOCKS; i++)
		sum += absmax[i];
	assert_true(nf4.offset == (float)(sum / BLOCKS));
	for (int i = 0; i < BLOCKS; i++) {
		volatile float off = absmax[i] - nf4.offset, inverse = 1 / nested[i / 256];
		volatile float scaled = off * inverse;

		assert_true(fabsf(off) <= nested[i / 256]);
		scaled = scaled > 1 ? 1 : scaled < -1 ? -1 : scaled;
		assert_int_equal(absmax8[i], argmin(nf4.nested_map, 256, scaled));
	}
}

static void decoding_follows_the_definition(void **state)
{
	uint8_t bytes[12];
	float nested[3];
	mfs_nf4 nf4;

	(void)state;
	make(&nf4, nested);
	for (int i = 0; i < 3; i++)
		store_le32(bytes + 4 * i, mfs_float_bits(nested[i]));
	/* Two calls: the second begins inside a nested block. */
	mfs_nf4_scales(&nf4, absmax8, bytes, 0, 300, scales);
	mfs_nf4_scales(&nf4, absmax8 + 300, bytes, 300, BLOCKS - 300, scales + 300);
	for (int i = 0; i < BLOCKS; i++) {
		volatile float product = nf4.nested_map[absmax8[i]] * nested[i / 256];

		product = product + nf4.offset;
		assert_true(scales[i] == product);
	}
	for (mfs_simd simd = MFS_SIMD_PORTABLE; simd <= mfs_simd_best(); simd++) {
		mfs_nf4_decode(&nf4, simd, codes, scales, 0, WEIGHTS, out);
		for (size_t i = 0; i < WEIGHTS; i++) {
			volatile float value = nf4.map[code_at(i)] * scales[i / 64];

			assert_true(out[i] == value);
		}
	}
}

static void any_range_decodes_alike(void **state)
{
	float nested[3], all[512];
	mfs_nf4 nf4;

	(void)state;
	make(&nf4, nested);
	mfs_nf4_decode(&nf4, MFS_SIMD_PORTABLE, codes, absmax, 0, 512, all);
	for (mfs_simd simd = MFS_SIMD_PORTABLE; simd <= mfs_simd_best(); simd++)
		for (size_t first = 0; first < 150; first++)
			for (size_t count = 0; count < 200; count += 1 + count / 20) {
				out[count] = 12345;
				mfs_nf4_decode(&nf4, simd, codes, absmax, first, count, out);
				assert_memory_equal(out, all + first, count * sizeof(float));
				assert_true(out[count] == 12345);
			}
}

static void zeros_stay_zeros(void **state)
{
	float nested, most;
	mfs_nf4 nf4;

	(void)state;
	mfs_nf4_init(&nf4);
	memset(weights, 0, 64 * sizeof(float));
	weights[3] = -0.0f;
	assert_int_equal(mfs_nf4_absmax(&nf4, weights, 64, &most), 0);
	mfs_nf4_codes(&nf4, weights, &most, 64, codes);
	nf4.offset = most;
	mfs_nf4_nest(&nf4, &most, 1, absmax8, &nested);
	assert_true(most == 0 && nested == 0 && nf4.offset == 0);
	assert_int_equal(absmax8[0], 127);
	for (size_t i = 0; i < 64; i++)
		assert_int_equal(code_at(i), 7);
}

static void weights_that_are_no_numbers_are_refused(void **state)
{
	mfs_nf4 nf4;

	(void)state;
	mfs_nf4_init(&nf4);
	generated_weights(weights, 100, 1);
	weights[99] = NAN;
	assert_int_equal(mfs_nf4_absmax(&nf4, weights, 100, absmax), MFS_E_INVALID);
	weights[99] = -INFINITY;
	assert_int_equal(mfs_nf4_absmax(&nf4, weights, 100, absmax), MFS_E_INVALID);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_dynamic_map_is_that_of_bitsandbytes),
	    cmocka_unit_test(the_map_is_nf4),
	    cmocka_unit_test(codes_are_the_nearest_of_the_map),
	    cmocka_unit_test(middles_go_to_the_lower_code),
	    cmocka_unit_test(scales_are_quantized_to_the_nearest),
	    cmocka_unit_test(decoding_follows_the_definition),
	    cmocka_unit_test(any_range_decodes_alike),
	    cmocka_unit_test(zeros_stay_zeros),
	    cmocka_unit_test(weights_that_are_no_numbers_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
