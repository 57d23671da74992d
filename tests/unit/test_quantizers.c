/* Quantizers against ggml's quantize_row_*_ref() (commit d99724f2 of ggml, compiled
 * with -ffp-contract=off) on the same generated weights: hashes of its blocks, and
 * the root mean squared error of reading them again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <cmocka.h>

#include <xxhash.h>

#include "dequant.h"
#include "generated_weights.h"
#include "modelfs_error.h"
#include "quantizers.h"

#define WEIGHTS 262144

static const struct {
	uint32_t type;
	uint64_t seed, hash;
	double rmse;
} from_ggml[] = {
    {MFS_GGML_Q4_0, 1, UINT64_C(0x5c8a714166b30496), 2.308815583e-03},
    {MFS_GGML_Q8_0, 1, UINT64_C(0x5e3e7daab9ecf1b0), 1.496553100e-04},
    {MFS_GGML_Q4_K, 1, 0, 1.415916619e-03},
    {MFS_GGML_Q6_K, 1, 0, 4.212414070e-04},
    {MFS_GGML_Q4_0, 2, UINT64_C(0x3eee6374584908e8), 2.231175069e-03},
    {MFS_GGML_Q8_0, 2, UINT64_C(0xcfcf3e049a91d5e1), 1.452315445e-04},
    {MFS_GGML_Q4_K, 2, 0, 1.376744570e-03},
    {MFS_GGML_Q6_K, 2, 0, 4.073331677e-04},
    {MFS_GGML_Q4_0, 3, UINT64_C(0x7cebe473834125dc), 2.266748605e-03},
    {MFS_GGML_Q8_0, 3, UINT64_C(0xad737842bf6f48db), 1.477084206e-04},
    {MFS_GGML_Q4_K, 3, 0, 1.396024418e-03},
    {MFS_GGML_Q6_K, 3, 0, 4.151441704e-04},
};

struct buffers {
	float *weights, *again;
	uint8_t *blocks, *other;
};

static int set_up(void **state)
{
	struct buffers *b = calloc(1, sizeof(*b));

	if (!b)
		return -1;
	b->weights = malloc(WEIGHTS * sizeof(float));
	b->again = malloc(WEIGHTS * sizeof(float));
	b->blocks = malloc(WEIGHTS * 2);
	b->other = malloc(WEIGHTS * 2);
	*state = b;
	return b->weights && b->again && b->blocks && b->other ? 0 : -1;
}

static int tear_down(void **state)
{
	struct buffers *b = *state;

	free(b->weights);
	free(b->again);
	free(b->blocks);
	free(b->other);
	free(b);
	return 0;
}

static size_t bytes_of(const mfs_quantizer *type)
{
	return (size_t)WEIGHTS / type->block_weights * type->block_bytes;
}

static double rmse_of(const struct buffers *b, const mfs_quantizer *type)
{
	const mfs_dequant *back = mfs_dequant_ggml(type->ggml_type);
	mfs_quantize_error error = {0};

	mfs_dequantize(back, MFS_SIMD_PORTABLE, b->blocks, WEIGHTS / type->block_weights, b->again);
	mfs_quantize_error_add(&error, b->weights, b->again, WEIGHTS);
	return mfs_quantize_error_rmse(&error);
}

static void blocks_equal_those_of_ggml_or_err_less(void **state)
{
	struct buffers *b = *state;

	for (size_t i = 0; i < sizeof(from_ggml) / sizeof(*from_ggml); i++) {
		const mfs_quantizer *type = mfs_quantizer_ggml(from_ggml[i].type);
		double rmse;

		generated_weights(b->weights, WEIGHTS, from_ggml[i].seed);
		assert_int_equal(mfs_quantize(type, mfs_simd_best(), b->weights,
					      WEIGHTS / type->block_weights, b->blocks),
				 0);
		if (from_ggml[i].hash)
			assert_int_equal(XXH3_64bits(b->blocks, bytes_of(type)), from_ggml[i].hash);
		rmse = rmse_of(b, type);
		print_message("%s: RMSE %.6e, ggml's %.6e\n", type->name, rmse, from_ggml[i].rmse);
		assert_true(rmse <= from_ggml[i].rmse * (1 + 1e-9));
	}
}

static void simd_makes_the_same_blocks(void **state)
{
	static const uint32_t types[] = {MFS_GGML_Q4_0, MFS_GGML_Q8_0, MFS_GGML_Q4_K,
					 MFS_GGML_Q6_K};
	struct buffers *b = *state;
	const size_t weights = 16384;

	generated_weights(b->weights, weights, 4);
	for (size_t i = 0; i < 4; i++) {
		const mfs_quantizer *type = mfs_quantizer_ggml(types[i]);
		const size_t blocks = weights / type->block_weights;

		mfs_quantize(type, MFS_SIMD_PORTABLE, b->weights, blocks, b->blocks);
		mfs_quantize(type, mfs_simd_best(), b->weights, blocks, b->other);
		assert_memory_equal(b->blocks, b->other, blocks * type->block_bytes);
	}
}

/* Scales that a half cannot hold, or whose inverse a float cannot. */
static void extreme_weights_give_valid_blocks(void **state)
{
	static const float scales[] = {0,	 0x1p-149f, 0x1p-130f, 0x1p-120f,
				       0x1p-40f, 0x1p10f,   0x1p20f};
	static const uint32_t types[] = {MFS_GGML_Q4_0, MFS_GGML_Q8_0, MFS_GGML_Q4_K,
					 MFS_GGML_Q6_K};
	struct buffers *b = *state;

	for (size_t s = 0; s < sizeof(scales) / sizeof(*scales); s++) {
		generated_weights(b->weights, 256, 5);
		for (int i = 0; i < 256; i++)
			b->weights[i] *= scales[s];
		for (size_t i = 0; i < 4; i++) {
			const mfs_quantizer *type = mfs_quantizer_ggml(types[i]);
			const size_t blocks = 256 / type->block_weights;
			mfs_quantize_error error = {0};

			assert_int_equal(
			    mfs_quantize(type, mfs_simd_best(), b->weights, blocks, b->blocks), 0);
			mfs_dequantize(mfs_dequant_ggml(types[i]), MFS_SIMD_PORTABLE, b->blocks,
				       blocks, b->again);
			mfs_quantize_error_add(&error, b->weights, b->again, 256);
			assert_true(error.squares <= error.energy);
		}
	}
}

static void a_weight_that_is_no_number_is_refused(void **state)
{
	struct buffers *b = *state;

	generated_weights(b->weights, 256, 6);
	b->weights[255] = NAN;
	b->blocks[0] = 0x5a;
	assert_int_equal(mfs_quantize(mfs_quantizer_ggml(MFS_GGML_Q4_0), mfs_simd_best(),
				      b->weights, 8, b->blocks),
			 MFS_E_INVALID);
	b->weights[255] = -INFINITY;
	assert_int_equal(mfs_quantize(mfs_quantizer_ggml(MFS_GGML_Q4_K), mfs_simd_best(),
				      b->weights, 1, b->blocks),
			 MFS_E_INVALID);
	assert_int_equal(b->blocks[0], 0x5a);
	assert_null(mfs_quantizer_ggml(MFS_GGML_F16));
}

static void errors_are_measured_over_all_pieces(void **state)
{
	const float was[3] = {1, -2, 3}, now[3] = {1, -1, 1};
	mfs_quantize_error error = {0};

	(void)state;
	assert_true(mfs_quantize_error_rmse(&error) == 0);
	mfs_quantize_error_add(&error, was, now, 2);
	mfs_quantize_error_add(&error, was + 2, now + 2, 1);
	assert_int_equal(error.count, 3);
	assert_true(error.most == 2);
	assert_true(error.squares == 5);
	assert_true(error.energy == 14);
	assert_true(mfs_quantize_error_rmse(&error) == sqrt(5.0 / 3));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(blocks_equal_those_of_ggml_or_err_less),
	    cmocka_unit_test(simd_makes_the_same_blocks),
	    cmocka_unit_test(extreme_weights_give_valid_blocks),
	    cmocka_unit_test(a_weight_that_is_no_number_is_refused),
	    cmocka_unit_test(errors_are_measured_over_all_pieces),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
