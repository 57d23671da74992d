/* Writing F32 as the types of views. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <cmocka.h>

#include "dequant.h"
#include "generated_weights.h"
#include "half.h"
#include "mfs_endian.h"
#include "store.h"

static const uint32_t all_types[] = {MFS_GGML_F32, MFS_GGML_F16, MFS_GGML_BF16, MFS_GGML_Q8_0};

/* A block of Q8_0 by its definition, with the C library's rounding. */
static void q8_0_by_definition(const float *in, uint8_t *out)
{
	float most = 0;
	volatile float scale, inverse, product;

	for (int i = 0; i < 32; i++)
		most = fmaxf(most, fabsf(in[i]));
	scale = most / 127;
	inverse = scale != 0 ? 1 / scale : 0;
	store_le16(out, mfs_half_from_float(scale));
	for (int i = 0; i < 32; i++) {
		product = in[i] * inverse;
		out[2 + i] = (uint8_t)(int8_t)(isfinite(inverse) ? roundf(product) : 0);
	}
}

/* Any bits, and bits near those of ordinary weights. */
static void any_floats(float *out, size_t count, uint64_t seed)
{
	generated_weights(out, count, seed);
	for (size_t i = 0; i < count; i += 3) {
		uint32_t bits = (uint32_t)generated_bits(&seed);

		out[i] = mfs_float_of(bits);
	}
}

static void simd_writes_the_same_bytes(void **state)
{
	float *in = malloc(70000 * sizeof(float));
	uint8_t *expected = malloc(280001), *got = malloc(280001);

	(void)state;
	assert_true(in && expected && got);
	for (size_t t = 0; t < 4; t++) {
		const mfs_store *type = mfs_store_ggml(all_types[t]);

		any_floats(in, 70000, 1 + t);
		for (size_t blocks = 0; blocks <= 2000;
		     blocks = blocks < 40 ? blocks + 1 : blocks * 7) {
			const size_t size = blocks * type->block_bytes;

			got[size + 1] = expected[size] = 0x5a;
			mfs_store_floats(type, MFS_SIMD_PORTABLE, in, blocks, expected);
			mfs_store_floats(type, mfs_simd_best(), in, blocks, got + 1);
			assert_memory_equal(got + 1, expected, size + 1);
		}
	}
	free(in);
	free(expected);
	free(got);
}

static void q8_0_follows_its_definition(void **state)
{
	float in[32];
	uint8_t expected[34], got[34];

	(void)state;
	for (uint64_t seed = 0; seed < 20000; seed++) {
		generated_weights(in, 32, seed);
		/* Halves of a step, which are rounded away from zero. */
		if (seed % 3 == 0)
			for (int i = 0; i < 32; i++)
				in[i] = (float)(i * 8 - 127 + (i == 0 ? 0 : 1)) / 2 +
					(i == 31 ? 63.5f - 61 : 0);
		if (seed % 3 == 1)
			for (int i = 0; i < 32; i++)
				in[i] *= mfs_float_of((uint32_t)(seed % 254) << 23);
		q8_0_by_definition(in, expected);
		for (mfs_simd simd = MFS_SIMD_PORTABLE; simd <= mfs_simd_best(); simd++) {
			int finite = 1;

			for (int i = 0; i < 32; i++)
				finite &= isfinite(in[i]);
			if (!finite)
				continue;
			mfs_store_floats(mfs_store_ggml(MFS_GGML_Q8_0), simd, in, 1, got);
			assert_memory_equal(got, expected, 34);
		}
	}
}

static void q8_0_blocks_with_no_number_say_so(void **state)
{
	static const uint8_t zeros[32];
	float in[32];
	uint8_t out[34];

	(void)state;
	for (mfs_simd simd = MFS_SIMD_PORTABLE; simd <= mfs_simd_best(); simd++) {
		generated_weights(in, 32, 9);
		in[31] = -INFINITY;
		mfs_store_floats(mfs_store_ggml(MFS_GGML_Q8_0), simd, in, 1, out);
		assert_int_equal(load_le16(out), 0x7c00);
		assert_memory_equal(out + 2, zeros, 32);
		in[5] = -NAN;
		mfs_store_floats(mfs_store_ggml(MFS_GGML_Q8_0), simd, in, 1, out);
		assert_int_equal(load_le16(out), 0x7e00);
		assert_memory_equal(out + 2, zeros, 32);
	}
}

static void what_is_written_is_read_again(void **state)
{
	float in[64], back[64];
	uint8_t out[256];

	(void)state;
	generated_weights(in, 64, 3);
	for (size_t t = 0; t < 3; t++) {
		const mfs_store *type = mfs_store_ggml(all_types[t]);

		mfs_store_floats(type, mfs_simd_best(), in, 64, out);
		mfs_dequantize(mfs_dequant_ggml(all_types[t]), mfs_simd_best(), out, 64, back);
		mfs_store_floats(type, mfs_simd_best(), back, 64, out + 0);
		mfs_dequantize(mfs_dequant_ggml(all_types[t]), mfs_simd_best(), out, 64, in);
		assert_memory_equal(in, back, sizeof(in));
	}
}

static void other_types_are_not_written(void **state)
{
	(void)state;
	assert_null(mfs_store_ggml(MFS_GGML_Q4_0));
	assert_null(mfs_store_ggml(MFS_GGML_Q4_K));
	assert_null(mfs_store_ggml(UINT32_MAX));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(simd_writes_the_same_bytes),
	    cmocka_unit_test(q8_0_follows_its_definition),
	    cmocka_unit_test(q8_0_blocks_with_no_number_say_so),
	    cmocka_unit_test(what_is_written_is_read_again),
	    cmocka_unit_test(other_types_are_not_written),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
