/* The gains of a DoRA's rows, against a plain computation. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base_weights.h"
#include "layout_ggml.h"
#include "layout_nf4.h"
#include "layout_safetensors.h"

#define ROWS	600
#define COLUMNS 480 /* so that rows begin in the middle of blocks of NF4 */
#define RANK	3

static float a[RANK * COLUMNS], b[ROWS * RANK], magnitude[ROWS], panels[RANK * COLUMNS];

static float number(uint64_t *state)
{
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return (float)(int32_t)(*state >> 33) / (float)(1u << 30) - 1;
}

static mfs_merge_adapter make_adapter(uint64_t seed)
{
	for (int i = 0; i < RANK * COLUMNS; i++)
		a[i] = number(&seed);
	for (int i = 0; i < ROWS * RANK; i++)
		b[i] = number(&seed);
	for (int i = 0; i < ROWS; i++)
		magnitude[i] = number(&seed) + 2;
	mfs_merge_pack(a, COLUMNS, 1, RANK, COLUMNS, panels);
	return (mfs_merge_adapter){.panels = panels,
				   .b = b,
				   .row_step = RANK,
				   .rank_step = 1,
				   .rank = RANK,
				   .scale = 0.75f};
}

/* The gain of row i with weights `w`, one operation after the other. */
static float plain_gain(const float *w, int i)
{
	double squares = 0;

	for (int j = 0; j < COLUMNS; j++) {
		volatile float t = 0, product, f;

		for (int k = 0; k < RANK; k++) {
			product = a[k * COLUMNS + j] * b[i * RANK + k];
			t = t + product;
		}
		product = t * 0.75f;
		f = product + w[j];
		squares += (double)f * (double)f;
	}
	return (float)((double)magnitude[i] / sqrt(squares));
}

static void check(const mfs_base_model *model, const float *weights,
		  const mfs_merge_adapter *adapter)
{
	float *gain = calloc(ROWS, sizeof(*gain));

	assert_non_null(gain);
	assert_int_equal(mfs_base_gains(model, 0, 0, ROWS, COLUMNS, adapter, magnitude, gain), 0);
	for (int i = 0; i < ROWS; i++)
		if (gain[i] != plain_gain(weights + (size_t)i * COLUMNS, i))
			fail_msg("gain %d is %g", i, (double)gain[i]);
	free(gain);
}

static mfs_base_model model_of(const uint8_t *bytes, size_t size, mfs_import_tensor *tensors,
			       uint32_t count)
{
	mfs_base_model model = {.name = "m", .import = {.tensors = tensors, .tensor_count = count}};

	mfs_source_memory(&model.source, "m", bytes, size);
	return model;
}

static void gains_of_f32_are_magnitude_by_norm(void **state)
{
	const mfs_merge_adapter adapter = make_adapter(1);
	mfs_import_tensor t = {.layout = mfs_layout_ggml(MFS_GGML_F32),
			       .size = sizeof(float) * ROWS * COLUMNS};
	float *weights = malloc(t.size);
	mfs_base_model model;
	uint64_t seed = 2;

	(void)state;
	assert_non_null(weights);
	for (int i = 0; i < ROWS * COLUMNS; i++)
		weights[i] = number(&seed);
	model = model_of((const uint8_t *)weights, t.size, &t, 1);
	check(&model, weights, &adapter);
	free(weights);
}

static void gains_of_codes_are_those_of_the_weights(void **state)
{
	enum { WEIGHTS = ROWS * COLUMNS, BLOCKS = WEIGHTS / MFS_NF4_BLOCK };
	const mfs_merge_adapter adapter = make_adapter(3);
	const size_t size = WEIGHTS / 2 + BLOCKS + 4 * (BLOCKS / 256 + 1) + 1024;
	uint8_t *bytes = malloc(size), *at = bytes;
	float *weights = malloc(sizeof(float) * WEIGHTS), *scales = malloc(sizeof(float) * BLOCKS);
	const float offset[] = {0.125f, 0, 0, 0};
	mfs_import_tensor t[4] = {
	    {.layout = mfs_layout_nf4(), .size = WEIGHTS / 2},
	    {.layout = mfs_layout_safetensors("U8", true), .size = BLOCKS},
	    {.layout = mfs_layout_safetensors("F32", true), .size = 4 * (BLOCKS / 256 + 1)},
	    {.layout = mfs_layout_safetensors("F32", true), .size = 1024}};
	mfs_base_model model = model_of(bytes, size, t, 4);
	uint64_t seed = 4;
	mfs_nf4 nf4;

	(void)state;
	assert_true(bytes && weights && scales);
	mfs_nf4_init(&nf4);
	nf4.offset = offset[0];
	for (int i = 0; i < WEIGHTS / 2 + BLOCKS; i++)
		*at++ = (uint8_t)(number(&seed) * 128);
	for (int i = 0; i < BLOCKS / 256 + 1; i++, at += 4) {
		float nested = number(&seed);

		memcpy(at, &nested, 4);
	}
	memcpy(at, nf4.nested_map, 1024);
	for (int i = 1; i < 4; i++)
		t[i].offset = t[i - 1].offset + t[i - 1].size;
	mfs_nf4_scales(&nf4, bytes + t[1].offset, bytes + t[2].offset, 0, BLOCKS, scales);
	mfs_nf4_decode(&nf4, MFS_SIMD_PORTABLE, bytes, scales, 0, WEIGHTS, weights);
	model.nested_offsets = offset;
	check(&model, weights, &adapter);
	/* Without the offset nothing can be decoded. */
	model.nested_offsets = NULL;
	assert_int_equal(mfs_base_gains(&model, 0, 0, ROWS, COLUMNS, &adapter, magnitude, scales),
			 MFS_E_UNSUPPORTED);
	free(scales);
	free(weights);
	free(bytes);
}

static void what_is_no_number_or_no_weight_is_refused(void **state)
{
	const mfs_merge_adapter adapter = make_adapter(5);
	mfs_import_tensor t = {.layout = mfs_layout_ggml(MFS_GGML_F32),
			       .size = sizeof(float) * COLUMNS};
	float weights[COLUMNS] = {NAN}, gain;
	mfs_base_model model = model_of((const uint8_t *)weights, t.size, &t, 1);

	(void)state;
	assert_int_equal(mfs_base_gains(&model, 0, 0, 1, COLUMNS, &adapter, magnitude, &gain),
			 MFS_E_INVALID);
	/* More rows than the tensor has. */
	weights[0] = 1;
	assert_int_equal(mfs_base_gains(&model, 0, 0, 1, COLUMNS, &adapter, magnitude, &gain), 0);
	t.size = 4;
	assert_int_equal(mfs_base_gains(&model, 0, 0, 1, COLUMNS, &adapter, magnitude, &gain),
			 MFS_E_INVALID);
	t.size = sizeof(weights);
	t.layout = mfs_layout_safetensors("I32", false);
	assert_int_equal(mfs_base_gains(&model, 0, 0, 1, COLUMNS, &adapter, magnitude, &gain),
			 MFS_E_UNSUPPORTED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(gains_of_f32_are_magnitude_by_norm),
	    cmocka_unit_test(gains_of_codes_are_those_of_the_weights),
	    cmocka_unit_test(what_is_no_number_or_no_weight_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
