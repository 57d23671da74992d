/* Models that are quantized and pruned while they are read. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../gen/gguf_writer.h"
#include "dequant.h"
#include "generated_weights.h"
#include "prune.h"
#include "quantizers.h"
#include "requantize.h"
#include "store.h"

#define COLUMNS 512u
#define ROWS	100u
#define WEIGHTS (COLUMNS * ROWS)
#define VECTOR	40u

static float weights[WEIGHTS];

struct model {
	struct gw file;
	mfs_source source;
	mfs_import import;
	mfs_requantized *q;
	uint8_t *bytes; /* of the changed file */
	mfs_problem why;
};

/* A matrix, a norm and a matrix of narrow rows, of F32 or of F16; the weights of
 * the first are `weights`. The descriptions are in another order than the names. */
static struct gw make_file(uint32_t type, uint64_t columns, bool with_keys)
{
	const mfs_store *store = mfs_store_ggml(type);
	uint64_t dims[2] = {columns, WEIGHTS / columns}, vector[1] = {VECTOR}, small[2] = {8, 5};
	uint64_t matrix_bytes = (uint64_t)WEIGHTS * store->block_bytes;
	struct gw w = {0};
	size_t data, at;

	generated_weights(weights, WEIGHTS, 7);
	gw_head(&w, 3, 3, with_keys ? 4 : 1);
	gw_kv_string(&w, "general.architecture", "llama");
	if (with_keys) {
		gw_kv_u32(&w, "general.file_type", 1);
		gw_kv_u32(&w, "general.alignment", 64);
		gw_kv_u32(&w, "general.quantization_version", 9);
	}
	gw_tensor(&w, "blk.0.attn_q.weight", 2, dims, type, 0);
	gw_tensor(&w, "blk.0.attn_norm.weight", 1, vector, 0, matrix_bytes);
	gw_tensor(&w, "a.small.weight", 2, small, type, matrix_bytes + 192);
	gw_align(&w, with_keys ? 64 : 32, 0);
	data = w.size;
	gw_fill(&w, 0, matrix_bytes);
	mfs_store_floats(store, MFS_SIMD_PORTABLE, weights, WEIGHTS, w.bytes + data);
	at = w.size;
	gw_fill(&w, 0, 192 + 40 * store->block_bytes);
	generated_bytes(w.bytes + at, 4 * VECTOR, 3);
	mfs_store_floats(store, MFS_SIMD_PORTABLE, weights, 40, w.bytes + at + 192);
	return w;
}

static int change_with(struct model *m, const char *quantize, const char *prune)
{
	mfs_recipe recipe;

	assert_int_equal(mfs_recipe_parse(&recipe, quantize, prune, &m->why), 0);
	mfs_source_memory(&m->source, "model.gguf", m->file.bytes, m->file.size);
	assert_int_equal(mfs_import_source(&m->import, &m->source, &m->why), 0);
	return mfs_requantize(&m->q, &m->source, &m->import, &recipe, &m->why);
}

static void open_with(struct model *m, uint32_t type, bool keys, const char *quantize,
		      const char *prune)
{
	memset(m, 0, sizeof(*m));
	m->file = make_file(type, COLUMNS, keys);
	if (change_with(m, quantize, prune))
		fail_msg("%s", m->why.text);
	mfs_requantized_measure(m->q);
	assert_int_equal(mfs_import_source(&m->import, &m->source, &m->why), 0);
	m->bytes = malloc(m->source.size);
	assert_non_null(m->bytes);
	assert_int_equal(m->source.read_at(&m->source, 0, m->bytes, m->source.size), 0);
}

static void close_model(struct model *m)
{
	free(m->bytes);
	mfs_import_free(&m->import);
	mfs_requantized_free(m->q);
	gw_free(&m->file);
}

static const mfs_import_tensor *tensor(const struct model *m, const char *name)
{
	for (uint32_t i = 0; i < m->import.tensor_count; i++)
		if (!strcmp(m->import.tensors[i].name, name))
			return &m->import.tensors[i];
	fail_msg("no tensor %s", name);
	return NULL;
}

static void blocks_are_the_quantizers(void **state)
{
	static const struct {
		const char *name;
		uint32_t type;
	} cases[] = {{"q8_0", MFS_GGML_Q8_0},
		     {"Q4_0", MFS_GGML_Q4_0},
		     {"q4_k", MFS_GGML_Q4_K},
		     {"q6_k", MFS_GGML_Q6_K}};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		const mfs_quantizer *to = mfs_quantizer_ggml(cases[i].type);
		size_t blocks = WEIGHTS / to->block_weights, size = blocks * to->block_bytes;
		uint8_t *expected = malloc(size);
		const mfs_import_tensor *t;
		struct model m;

		assert_non_null(expected);
		open_with(&m, MFS_GGML_F32, i % 2, cases[i].name, NULL);
		mfs_quantize(to, MFS_SIMD_PORTABLE, weights, blocks, expected);
		t = tensor(&m, "blk.0.attn_q.weight");
		assert_int_equal(t->layout->type_id, cases[i].type);
		assert_int_equal(t->size, size);
		assert_memory_equal(m.bytes + t->offset, expected, size);
		close_model(&m);
		free(expected);
	}
}

static void what_is_no_weight_or_does_not_fit_stays(void **state)
{
	const mfs_import_tensor *t;
	uint8_t vector[4 * VECTOR];
	struct model m;

	(void)state;
	open_with(&m, MFS_GGML_F16, true, "q4_0", NULL);
	generated_bytes(vector, sizeof(vector), 3);
	t = tensor(&m, "blk.0.attn_norm.weight");
	assert_int_equal(t->layout->type_id, MFS_GGML_F32);
	assert_memory_equal(m.bytes + t->offset, vector, sizeof(vector));
	t = tensor(&m, "a.small.weight");
	assert_int_equal(t->layout->type_id, MFS_GGML_F16);
	assert_memory_equal(m.bytes + t->offset, m.file.bytes + m.file.size - 80, 80);
	close_model(&m);
}

/* The value of a uint32 key, wherever it stands. */
static uint32_t key_value(const struct model *m, const char *key)
{
	const uint8_t *at = memmem(m->bytes, 512, key, strlen(key));

	assert_non_null(at);
	return load_le32(at + strlen(key) + 4);
}

static void the_header_says_what_the_file_is_now(void **state)
{
	struct model m;

	(void)state;
	for (int keys = 0; keys < 2; keys++) {
		open_with(&m, MFS_GGML_F32, keys, "q6_k", NULL);
		assert_int_equal(key_value(&m, "general.file_type"), 18);
		assert_int_equal(key_value(&m, "general.quantization_version"), 2);
		assert_int_equal(tensor(&m, "a.small.weight")->offset % (keys ? 64 : 32), 0);
		close_model(&m);
	}
}

static void pruning_alone_changes_nothing_else(void **state)
{
	struct model m;

	(void)state;
	open_with(&m, MFS_GGML_F32, true, NULL, "0.5");
	assert_int_equal(m.import.tensor_count, 3);
	assert_int_equal(key_value(&m, "general.quantization_version"), 9);
	/* The original has no padding at its end. */
	assert_true(m.source.size >= m.file.size && m.source.size - m.file.size < 64);
	for (size_t i = 0; i + 4 <= m.file.size; i += 4)
		if (memcmp(m.bytes + i, m.file.bytes + i, 4) != 0)
			assert_int_equal(load_le32(m.bytes + i), 0);
	close_model(&m);
}

static void a_share_is_pruned_as_the_whole_tensor_would_be(void **state)
{
	static uint64_t histogram[MFS_PRUNE_BINS];
	const mfs_import_tensor *t;
	struct model m;
	mfs_prune p;

	(void)state;
	/* One run in 23 is zeros and one a constant: the threshold has ties. */
	open_with(&m, MFS_GGML_F32, false, NULL, "0.93");
	mfs_prune_start(&p, histogram, (uint64_t)(WEIGHTS * 0.93));
	mfs_prune_count(&p, weights, WEIGHTS);
	mfs_prune_narrow(&p);
	mfs_prune_count(&p, weights, WEIGHTS);
	mfs_prune_settle(&p);
	assert_true(p.ties > 0);
	mfs_prune_apply(&p, weights, WEIGHTS);
	t = tensor(&m, "blk.0.attn_q.weight");
	for (size_t i = 0; i < WEIGHTS; i++) {
		float now;

		memcpy(&now, m.bytes + t->offset + 4 * i, 4);
		assert_true(now == weights[i]);
	}
	close_model(&m);
}

static void two_of_each_four_are_pruned_before_quantizing(void **state)
{
	const mfs_quantizer *to = mfs_quantizer_ggml(MFS_GGML_Q8_0);
	size_t size = WEIGHTS / 32 * to->block_bytes;
	uint8_t *expected = malloc(size);
	struct model m;

	(void)state;
	assert_non_null(expected);
	open_with(&m, MFS_GGML_F32, false, "q8_0", "2:4");
	mfs_prune_2_of_4(weights, WEIGHTS);
	mfs_quantize(to, MFS_SIMD_PORTABLE, weights, WEIGHTS / 32, expected);
	assert_memory_equal(m.bytes + tensor(&m, "blk.0.attn_q.weight")->offset, expected, size);
	close_model(&m);
	free(expected);
}

static void any_part_reads_as_the_whole_does(void **state)
{
	static const char *const recipes[][2] = {{"q4_0", NULL},  {NULL, "0.93"}, {NULL, "2:4"},
						 {"q4_k", "0.6"}, {"nf4", NULL},  {"nf4", "0.5"}};
	uint64_t seed = 11;

	(void)state;
	for (size_t r = 0; r < sizeof(recipes) / sizeof(*recipes); r++) {
		uint8_t part[5000];
		struct model m;

		open_with(&m, r % 2 ? MFS_GGML_F16 : MFS_GGML_F32, r % 2, recipes[r][0],
			  recipes[r][1]);
		for (int i = 0; i < 200; i++) {
			uint64_t at = generated_bits(&seed) % m.source.size;
			size_t n = generated_bits(&seed) % sizeof(part);

			if (n > m.source.size - at)
				n = (size_t)(m.source.size - at);
			assert_int_equal(m.source.read_at(&m.source, at, part, n), 0);
			assert_memory_equal(part, m.bytes + at, n);
		}
		assert_int_equal(m.source.read_at(&m.source, m.source.size, part, 0), 0);
		assert_int_equal(m.source.read_at(&m.source, m.source.size, part, 1),
				 MFS_E_TRUNCATED);
		close_model(&m);
	}
}

static void errors_are_counted_once(void **state)
{
	const mfs_dequant *from = mfs_dequant_ggml(MFS_GGML_Q4_0);
	float *now = malloc(sizeof(weights));
	const mfs_import_tensor *t;
	double squares = 0, most = 0;
	char note[128], expected[128];
	struct model m;
	mfs_loss loss;

	(void)state;
	assert_non_null(now);
	open_with(&m, MFS_GGML_F32, false, "q4_0", NULL);
	t = tensor(&m, "blk.0.attn_q.weight");
	mfs_dequantize(from, MFS_SIMD_PORTABLE, m.bytes + t->offset, WEIGHTS / 32, now);
	for (size_t i = 0; i < WEIGHTS; i++) {
		double off = fabs((double)now[i] - (double)weights[i]);

		squares += off * off;
		most = off > most ? off : most;
	}
	/* Once more does not count. */
	assert_int_equal(m.source.read_at(&m.source, 0, m.bytes, m.source.size), 0);
	assert_true(mfs_requantized_loss(m.q, 0, &loss));
	assert_string_equal(loss.name, "blk.0.attn_q.weight");
	assert_string_equal(loss.to, "Q4_0");
	assert_int_equal(loss.weights, WEIGHTS);
	assert_true(fabs(mfs_quantize_error_rmse(&loss.sum.error) - sqrt(squares / WEIGHTS)) <
		    1e-12);
	assert_true(loss.sum.error.most == most);
	assert_false(mfs_requantized_loss(m.q, 1, &loss));
	snprintf(expected, sizeof(expected), "q4_0 rmse=%.3e max=%.3e", sqrt(squares / WEIGHTS),
		 most);
	snprintf(note, sizeof(note), "%s", mfs_requantized_note(m.q));
	assert_string_equal(note, expected);
	close_model(&m);
	free(now);
}

static void the_note_keeps_its_length(void **state)
{
	struct model m = {.file = make_file(MFS_GGML_F16, COLUMNS, true)};
	uint8_t *bytes;
	size_t length;

	(void)state;
	assert_int_equal(change_with(&m, "q8_0", "2:4"), 0);
	length = strlen(mfs_requantized_note(m.q));
	bytes = malloc(m.source.size);
	assert_non_null(bytes);
	assert_int_equal(m.source.read_at(&m.source, 0, bytes, m.source.size), 0);
	assert_int_equal(strlen(mfs_requantized_note(m.q)), length);
	free(bytes);
	close_model(&m);
}

static void must_refuse(struct model *m, const char *quantize, const char *prune, int error,
			const char *reason)
{
	int got = change_with(m, quantize, prune);

	if (got != error || !strstr(m->why.text, reason))
		fail_msg("expected %d (%s), got %d: %s", error, reason, got, m->why.text);
	assert_null(m->q);
	mfs_source_close(&m->source);
	close_model(m);
}

static void quantized_models_are_refused(void **state)
{
	struct model first, m = {0};

	(void)state;
	open_with(&first, MFS_GGML_F32, true, "q8_0", NULL);
	gw_bytes(&m.file, first.bytes, first.source.size);
	close_model(&first);
	must_refuse(&m, "q4_0", NULL, MFS_E_UNSUPPORTED, "'blk.0.attn_q.weight' is of type Q8_0");
}

static void models_without_fitting_rows_are_refused(void **state)
{
	struct model m = {.file = make_file(MFS_GGML_F32, 32, false)};

	(void)state;
	must_refuse(&m, "q4_k", NULL, MFS_E_INVALID, "no weights to change");
	m = (struct model){.file = make_file(MFS_GGML_F32, 32, false)};
	must_refuse(&m, "q4_k", "0.5", MFS_E_INVALID, "no weights to change");
}

static void a_weight_that_is_no_number_is_named(void **state)
{
	struct model m = {.file = make_file(MFS_GGML_F32, COLUMNS, false)};
	mfs_problem why = {0};
	uint8_t *bytes;

	(void)state;
	store_le32(m.file.bytes + 4096, 0x7f800000);
	assert_int_equal(change_with(&m, "q8_0", NULL), 0);
	assert_int_equal(mfs_requantized_problem(m.q, &why), 0);
	bytes = malloc(m.source.size);
	assert_non_null(bytes);
	assert_int_equal(m.source.read_at(&m.source, 0, bytes, m.source.size), MFS_E_INVALID);
	assert_int_equal(mfs_requantized_problem(m.q, &why), MFS_E_INVALID);
	assert_non_null(strstr(why.text, "'blk.0.attn_q.weight' has weights that are no finite"));
	free(bytes);
	close_model(&m);
}

static void recipes_that_make_no_sense_are_refused(void **state)
{
	static const char *const shares[] = {"0",      "1", "1.5", "-0.5", "0.5x", "nan",
					     "0x1p-1", "",  ".",   "2:3",  "50%"};
	mfs_recipe recipe;
	mfs_problem why;

	(void)state;
	for (size_t i = 0; i < sizeof(shares) / sizeof(*shares); i++)
		assert_int_equal(mfs_recipe_parse(&recipe, NULL, shares[i], &why), MFS_E_ARGUMENT);
	assert_int_equal(mfs_recipe_parse(&recipe, "q5_k", NULL, &why), MFS_E_ARGUMENT);
	assert_int_equal(mfs_recipe_parse(&recipe, "", NULL, &why), MFS_E_ARGUMENT);
	assert_int_equal(mfs_recipe_parse(&recipe, NULL, NULL, &why), 0);
	assert_false(mfs_recipe_any(&recipe));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(blocks_are_the_quantizers),
	    cmocka_unit_test(what_is_no_weight_or_does_not_fit_stays),
	    cmocka_unit_test(the_header_says_what_the_file_is_now),
	    cmocka_unit_test(pruning_alone_changes_nothing_else),
	    cmocka_unit_test(a_share_is_pruned_as_the_whole_tensor_would_be),
	    cmocka_unit_test(two_of_each_four_are_pruned_before_quantizing),
	    cmocka_unit_test(any_part_reads_as_the_whole_does),
	    cmocka_unit_test(errors_are_counted_once),
	    cmocka_unit_test(the_note_keeps_its_length),
	    cmocka_unit_test(quantized_models_are_refused),
	    cmocka_unit_test(models_without_fitting_rows_are_refused),
	    cmocka_unit_test(a_weight_that_is_no_number_is_named),
	    cmocka_unit_test(recipes_that_make_no_sense_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
