/* Merged views against MERGE-1 written out weight by weight. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <cmocka.h>

#include "generated_weights.h"
#include "half.h"
#include "merge.h"
#include "mfs_endian.h"
#include "modelfs_error.h"

#define ADAPTERS 3

/* A tensor, adapters for it, and what merging needs. */
struct world {
	uint64_t rows, columns;
	uint8_t *base; /* blocks of `type` */
	const mfs_dequant *type;
	float *decoded;
	mfs_merge_adapter adapter[ADAPTERS];
	float *a[ADAPTERS], *b[ADAPTERS], *gain[ADAPTERS], *panels[ADAPTERS];
};

static void *allocate(uint64_t size)
{
	void *memory = malloc(size ? size : 1);

	assert_non_null(memory);
	return memory;
}

static float *floats(uint64_t count, uint64_t seed)
{
	float *values = allocate(count * sizeof(float));

	generated_weights(values, count, seed);
	return values;
}

static void add_adapter(struct world *w, int i, uint32_t rank, float scale, int gains)
{
	mfs_merge_adapter *adapter = &w->adapter[i];

	w->a[i] = floats(rank * w->columns, 100 + (uint64_t)i);
	w->b[i] = floats(rank * w->rows, 200 + (uint64_t)i);
	w->panels[i] = allocate(mfs_merge_panel_floats(rank, w->columns) * sizeof(float));
	mfs_merge_pack(w->a[i], w->columns, 1, rank, w->columns, w->panels[i]);
	*adapter = (mfs_merge_adapter){.panels = w->panels[i],
				       .b = w->b[i],
				       .row_step = rank,
				       .rank_step = 1,
				       .rank = rank,
				       .scale = scale};
	if (!gains)
		return;
	w->gain[i] = floats(w->rows, 300 + (uint64_t)i);
	for (uint64_t r = 0; r < w->rows; r++)
		w->gain[i][r] = 1 + w->gain[i][r];
	adapter->gain = w->gain[i];
}

static struct world world_make(uint32_t type, uint64_t rows, uint64_t columns)
{
	struct world w = {.rows = rows, .columns = columns, .type = mfs_dequant_ggml(type)};
	const uint64_t blocks = rows * columns / w.type->block_weights;

	w.base = allocate(blocks * w.type->block_bytes);
	w.decoded = floats(rows * columns, 42);
	if (mfs_store_ggml(type)) {
		mfs_store_floats(mfs_store_ggml(type), MFS_SIMD_PORTABLE, w.decoded, blocks,
				 w.base);
	} else {
		generated_bytes(w.base, blocks * w.type->block_bytes, 7);
		/* Scales of ordinary size: the exponent of every half that may be one. */
		for (uint64_t i = 1; i < blocks * w.type->block_bytes; i += 2)
			w.base[i] &= 0xaf;
	}
	mfs_dequantize(w.type, MFS_SIMD_PORTABLE, w.base, blocks, w.decoded);
	return w;
}

static void world_free(struct world *w)
{
	free(w->base);
	free(w->decoded);
	for (int i = 0; i < ADAPTERS; i++) {
		free(w->a[i]);
		free(w->b[i]);
		free(w->gain[i]);
		free(w->panels[i]);
	}
}

/* Step by step, each result stored as a float before it is used. */
static float merge_one(const struct world *w, uint32_t adapters, uint64_t row, uint64_t column)
{
	volatile float f = w->decoded[row * w->columns + column];

	for (uint32_t i = 0; i < adapters; i++) {
		const uint32_t rank = w->adapter[i].rank;
		volatile float t = 0, product;

		for (uint32_t k = 0; k < rank; k++) {
			product = w->a[i][k * w->columns + column] * w->b[i][row * rank + k];
			t = t + product;
		}
		product = t * w->adapter[i].scale;
		f = product + f;
		if (w->gain[i])
			f = f * w->gain[i][row];
	}
	return f;
}

/* The whole tensor, stored one block at a time by the portable code, which
 * test_store.c compares with the definitions. */
static uint8_t *expected_of(const struct world *w, const mfs_store *type, uint32_t adapters,
			    size_t *size)
{
	const uint64_t weights = w->rows * w->columns;
	float *merged = allocate(weights * sizeof(float));
	uint8_t *out;

	*size = (size_t)(weights / type->block_weights * type->block_bytes);
	out = allocate(*size);
	for (uint64_t i = 0; i < weights; i++)
		merged[i] = merge_one(w, adapters, i / w->columns, i % w->columns);
	for (uint64_t i = 0; i < weights / type->block_weights; i++)
		mfs_store_floats(type, MFS_SIMD_PORTABLE, merged + i * type->block_weights, 1,
				 out + i * type->block_bytes);
	free(merged);
	return out;
}

/* In spans of `step` weights, the last one shorter. */
static void check_spans(const struct world *w, const mfs_merge *merge, uint64_t step,
			const uint8_t *expected)
{
	const uint64_t weights = w->rows * w->columns;
	const mfs_store *type = merge->type;

	for (uint64_t at = 0; at < weights; at += step) {
		const uint64_t count = weights - at < step ? weights - at : step;
		const size_t size = (size_t)(count / type->block_weights * type->block_bytes);
		const mfs_merge_base base = {.type = w->type,
					     .blocks = w->base + at / w->type->block_weights *
								     w->type->block_bytes};
		uint8_t *out = allocate(size + 1);

		out[size] = 0x5a;
		assert_int_equal(mfs_merge_span(merge, &base, at, (size_t)count, out), 0);
		assert_memory_equal(out, expected + at / type->block_weights * type->block_bytes,
				    size);
		assert_int_equal(out[size], 0x5a);
		free(out);
	}
}

static void check_world(const struct world *w, uint32_t adapters, uint32_t to, uint64_t step)
{
	mfs_merge merge = {.columns = w->columns,
			   .type = mfs_store_ggml(to),
			   .adapter = w->adapter,
			   .adapters = adapters};
	size_t size;
	uint8_t *expected = expected_of(w, merge.type, adapters, &size);

	for (merge.simd = MFS_SIMD_PORTABLE; merge.simd <= mfs_simd_best(); merge.simd++)
		check_spans(w, &merge, step ? step : w->rows * w->columns, expected);
	free(expected);
}

static void every_pair_of_types_follows_merge_1(void **state)
{
	static const uint32_t to[] = {MFS_GGML_F32, MFS_GGML_F16, MFS_GGML_BF16, MFS_GGML_Q8_0};

	(void)state;
	for (uint32_t i = 0; i < mfs_dequant_count(); i++) {
		struct world w = world_make(mfs_dequant_row(i)->ggml_type, 7, 512);

		add_adapter(&w, 0, 5, 1.7f, 0);
		for (size_t t = 0; t < 4; t++)
			check_world(&w, 1, to[t], 0);
		world_free(&w);
	}
}

static void odd_shapes_and_ranks_follow_merge_1(void **state)
{
	static const uint64_t shapes[][2] = {{1, 1},   {3, 15},	 {5, 17},
					     {2, 255}, {9, 257}, {4, 1000}};
	static const uint32_t ranks[] = {1, 2, 16, 33};

	(void)state;
	for (size_t s = 0; s < sizeof(shapes) / sizeof(*shapes); s++)
		for (size_t r = 0; r < sizeof(ranks) / sizeof(*ranks); r++) {
			struct world w = world_make(MFS_GGML_F16, shapes[s][0], shapes[s][1]);

			add_adapter(&w, 0, ranks[r], -0.3f, 0);
			check_world(&w, 1, MFS_GGML_BF16, 0);
			check_world(&w, 1, MFS_GGML_F32, 0);
			world_free(&w);
		}
}

/* Spans that begin and end anywhere in a row, or hold parts of several rows. */
static void spans_of_any_length_give_the_same_bytes(void **state)
{
	static const uint64_t steps[] = {1, 7, 16, 100, 256, 299, 300, 301, 1000};
	struct world w = world_make(MFS_GGML_F32, 11, 300);

	(void)state;
	add_adapter(&w, 0, 6, 0.9f, 1);
	for (size_t s = 0; s < sizeof(steps) / sizeof(*steps); s++)
		check_world(&w, 1, MFS_GGML_F16, steps[s]);
	world_free(&w);
	w = world_make(MFS_GGML_Q8_0, 5, 320);
	add_adapter(&w, 0, 6, 0.9f, 0);
	check_world(&w, 1, MFS_GGML_Q8_0, 96);
	world_free(&w);
}

static void several_adapters_and_gains_are_applied_in_order(void **state)
{
	struct world w = world_make(MFS_GGML_BF16, 6, 96);

	(void)state;
	add_adapter(&w, 0, 8, 0.7f, 1);
	add_adapter(&w, 1, 4, 0.3f, 0);
	add_adapter(&w, 2, 3, -1.1f, 1);
	for (uint32_t adapters = 0; adapters <= 3; adapters++)
		check_world(&w, adapters, MFS_GGML_F32, 50);
	world_free(&w);
}

/* An embedding's matrices come the other way round: packing and steps turn them. */
static void transposed_matrices_give_the_same_bytes(void **state)
{
	struct world w = world_make(MFS_GGML_F32, 5, 40);
	float *a = allocate(40 * 4 * sizeof(float)), *b = allocate(4 * 5 * sizeof(float));

	(void)state;
	add_adapter(&w, 0, 4, 2, 0);
	for (int k = 0; k < 4; k++) {
		for (int j = 0; j < 40; j++)
			a[j * 4 + k] = w.a[0][k * 40 + j];
		for (int i = 0; i < 5; i++)
			b[k * 5 + i] = w.b[0][i * 4 + k];
	}
	mfs_merge_pack(a, 1, 4, 4, 40, w.panels[0]);
	w.adapter[0].b = b;
	w.adapter[0].row_step = 1;
	w.adapter[0].rank_step = 5;
	check_world(&w, 1, MFS_GGML_F16, 0);
	free(a);
	free(b);
	world_free(&w);
}

/* Only the rows of a span need be at hand. */
/* One A for each of four experts: as if each were a tensor of its own. */
static void experts_have_matrices_of_their_own(void **state)
{
	static const uint64_t steps[] = {1, 100, 299, 300, 901, 3600};
	const uint64_t experts = 4, rank = 5;
	struct world w = world_make(MFS_GGML_F16, 12, 300);
	const uint64_t slice = w.rows / experts, each = mfs_merge_panel_floats(5, w.columns);
	float *a = floats(experts * rank * w.columns, 9);
	float *panels = allocate(experts * each * sizeof(float));
	uint8_t *expected = allocate(w.rows * w.columns * sizeof(float));
	mfs_merge merge = {.columns = w.columns,
			   .type = mfs_store_ggml(MFS_GGML_F32),
			   .adapter = w.adapter,
			   .adapters = 2};

	(void)state;
	add_adapter(&w, 0, rank, 0.9f, 1);
	add_adapter(&w, 1, 2, -0.3f, 0); /* the same A for all */
	for (uint64_t e = 0; e < experts; e++)
		mfs_merge_pack(a + e * rank * w.columns, w.columns, 1, rank, w.columns,
			       panels + e * each);
	for (uint64_t e = 0; e < experts; e++) {
		const uint64_t at = e * slice * w.columns;
		const mfs_merge_base base = {.type = w.type, .blocks = w.base + 2 * at};

		w.adapter[0].panels = panels + e * each;
		assert_int_equal(
		    mfs_merge_span(&merge, &base, at, slice * w.columns, expected + 4 * at), 0);
	}
	w.adapter[0].panels = panels;
	w.adapter[0].slice_step = each;
	merge.slice_rows = slice;
	for (merge.simd = MFS_SIMD_PORTABLE; merge.simd <= mfs_simd_best(); merge.simd++)
		for (size_t s = 0; s < sizeof(steps) / sizeof(*steps); s++)
			check_spans(&w, &merge, steps[s], expected);
	free(a);
	free(panels);
	free(expected);
	world_free(&w);
}

static void rows_of_b_may_begin_where_the_span_does(void **state)
{
	struct world w = world_make(MFS_GGML_F16, 6, 64);
	mfs_merge merge = {.columns = 64,
			   .type = mfs_store_ggml(MFS_GGML_F16),
			   .adapter = w.adapter,
			   .adapters = 1,
			   .simd = mfs_simd_best()};
	const mfs_merge_base base = {.type = w.type, .blocks = w.base + 2 * 3 * 64};
	uint8_t *expected, out[2 * 64 * 2];
	size_t size;

	(void)state;
	add_adapter(&w, 0, 2, 1, 0);
	expected = expected_of(&w, merge.type, 1, &size);
	merge.first_row = 3;
	w.adapter[0].b += 3 * 2;
	assert_int_equal(mfs_merge_span(&merge, &base, 3 * 64, 128, out), 0);
	assert_memory_equal(out, expected + 2 * 3 * 64, sizeof(out));
	assert_int_equal(mfs_merge_span(&merge, &base, 2 * 64, 64, out), MFS_E_ARGUMENT);
	free(expected);
	world_free(&w);
}

static void nans_are_written_as_one_value(void **state)
{
	static const uint32_t nans[] = {0x7f800001, 0xffc12345, 0x7fffffff};
	struct world w = world_make(MFS_GGML_F32, 1, 32);
	mfs_merge merge = {.columns = 32, .adapter = w.adapter, .adapters = 1};
	const mfs_merge_base base = {.type = w.type, .blocks = w.base};
	uint8_t out[128];

	(void)state;
	add_adapter(&w, 0, 1, 1, 0);
	for (uint32_t i = 0; i < 3; i++)
		store_le32(w.base + 4 * i, nans[i]);
	store_le32(w.base + 12, 0xff800000);
	w.panels[0][3] = INFINITY; /* infinity less infinity */
	w.b[0][0] = 1;
	for (merge.simd = MFS_SIMD_PORTABLE; merge.simd <= mfs_simd_best(); merge.simd++) {
		merge.type = mfs_store_ggml(MFS_GGML_F32);
		assert_int_equal(mfs_merge_span(&merge, &base, 0, 32, out), 0);
		for (int i = 0; i < 4; i++)
			assert_int_equal(load_le32(out + 4 * i), 0x7fc00000);
		merge.type = mfs_store_ggml(MFS_GGML_F16);
		assert_int_equal(mfs_merge_span(&merge, &base, 0, 32, out), 0);
		for (int i = 0; i < 4; i++)
			assert_int_equal(load_le16(out + 2 * i), 0x7e00);
	}
	world_free(&w);
}

static void nf4_bases_are_decoded_by_their_blocks(void **state)
{
	/* Rows of 100 weights: blocks of 64 run across them. */
	struct world w = world_make(MFS_GGML_F32, 8, 100);
	mfs_merge merge = {.columns = 100,
			   .type = mfs_store_ggml(MFS_GGML_BF16),
			   .adapter = w.adapter,
			   .adapters = 1};
	uint8_t codes[400], *expected;
	float absmax[13];
	mfs_nf4 nf4;
	size_t size;

	(void)state;
	add_adapter(&w, 0, 3, 0.5f, 0);
	mfs_nf4_init(&nf4);
	assert_int_equal(mfs_nf4_absmax(&nf4, w.decoded, 800, absmax), 0);
	mfs_nf4_codes(&nf4, w.decoded, absmax, 800, codes);
	mfs_nf4_decode(&nf4, MFS_SIMD_PORTABLE, codes, absmax, 0, 800, w.decoded);
	expected = expected_of(&w, merge.type, 1, &size);
	for (merge.simd = MFS_SIMD_PORTABLE; merge.simd <= mfs_simd_best(); merge.simd++)
		for (uint64_t at = 0; at < 800; at += 50) {
			const mfs_merge_base base = {.nf4 = &nf4,
						     .codes = codes + at / 64 * 32,
						     .scales = absmax + at / 64,
						     .skip = at % 64};
			uint8_t out[100];

			assert_int_equal(mfs_merge_span(&merge, &base, at, 50, out), 0);
			assert_memory_equal(out, expected + 2 * at, 100);
		}
	free(expected);
	world_free(&w);
}

static void parts_of_blocks_are_refused(void **state)
{
	struct world w = world_make(MFS_GGML_Q8_0, 2, 64);
	mfs_merge merge = {.columns = 64, .type = mfs_store_ggml(MFS_GGML_F32)};
	const mfs_merge_base base = {.type = w.type, .blocks = w.base};
	const mfs_merge_base plain = {.type = mfs_dequant_ggml(MFS_GGML_F16), .blocks = w.base};
	uint8_t out[512];

	(void)state;
	assert_int_equal(mfs_merge_span(&merge, &base, 0, 32, out), 0);
	assert_int_equal(mfs_merge_span(&merge, &base, 0, 0, out), 0);
	assert_int_equal(mfs_merge_span(&merge, &base, 0, 31, out), MFS_E_ARGUMENT);
	assert_int_equal(mfs_merge_span(&merge, &base, 1, 32, out), MFS_E_ARGUMENT);
	assert_int_equal(mfs_merge_span(&merge, &base, UINT64_MAX - 31, 64, out), MFS_E_ARGUMENT);
	merge.type = mfs_store_ggml(MFS_GGML_Q8_0);
	assert_int_equal(mfs_merge_span(&merge, &plain, 16, 32, out), MFS_E_ARGUMENT);
	merge.columns = 48;
	assert_int_equal(mfs_merge_span(&merge, &plain, 0, 32, out), MFS_E_ARGUMENT);
	merge.columns = 0;
	assert_int_equal(mfs_merge_span(&merge, &plain, 0, 32, out), MFS_E_ARGUMENT);
	world_free(&w);
}

static void sizes_of_panels_do_not_overflow(void **state)
{
	(void)state;
	assert_int_equal(mfs_merge_panel_floats(3, 17), 96);
	assert_int_equal(mfs_merge_panel_floats(3, 16), 48);
	assert_int_equal(mfs_merge_panel_floats(0, 5), 0);
	assert_int_equal(mfs_merge_panel_floats(2, UINT64_MAX), UINT64_MAX);
	assert_int_equal(mfs_merge_panel_floats(UINT32_MAX, UINT64_C(1) << 40), UINT64_MAX);
}

static void gains_are_magnitudes_by_norms(void **state)
{
	const float row[3] = {3, 0, -4}, zeros[2] = {0, 0}, huge[1] = {INFINITY},
		    tiny[1] = {0x1p-149f};
	float gain;

	(void)state;
	assert_int_equal(mfs_merge_gain(row, 3, 10, &gain), 0);
	assert_true(gain == 2);
	assert_int_equal(mfs_merge_gain(zeros, 2, 1, &gain), 0);
	assert_true(gain == 0);
	assert_int_equal(mfs_merge_gain(huge, 1, 1, &gain), MFS_E_INVALID);
	assert_int_equal(mfs_merge_gain(tiny, 1, 1, &gain), MFS_E_INVALID);
	assert_int_equal(mfs_merge_gain(row, 3, NAN, &gain), MFS_E_INVALID);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_pair_of_types_follows_merge_1),
	    cmocka_unit_test(odd_shapes_and_ranks_follow_merge_1),
	    cmocka_unit_test(spans_of_any_length_give_the_same_bytes),
	    cmocka_unit_test(several_adapters_and_gains_are_applied_in_order),
	    cmocka_unit_test(transposed_matrices_give_the_same_bytes),
	    cmocka_unit_test(experts_have_matrices_of_their_own),
	    cmocka_unit_test(rows_of_b_may_begin_where_the_span_does),
	    cmocka_unit_test(nans_are_written_as_one_value),
	    cmocka_unit_test(nf4_bases_are_decoded_by_their_blocks),
	    cmocka_unit_test(parts_of_blocks_are_refused),
	    cmocka_unit_test(sizes_of_panels_do_not_overflow),
	    cmocka_unit_test(gains_are_magnitudes_by_norms),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
