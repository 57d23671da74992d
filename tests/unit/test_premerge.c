/* Models into which adapters are merged before they are quantized. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../gen/gguf_writer.h"
#include "dequant.h"
#include "generated_weights.h"
#include "premerge.h"
#include "store.h"

#define COLUMNS 512u
#define ROWS	90u
#define WEIGHTS (COLUMNS * ROWS)
#define RANK	3u
#define SCALE	0.25f
#define THREADS 4

/* What the matrix that is changed and the one that stays have at first. */
static float weights[WEIGHTS], others[WEIGHTS];
static float a[RANK * COLUMNS], b[ROWS * RANK];

static void put_floats(struct gw *w, const float *from, size_t count, uint32_t type)
{
	const mfs_store *store = mfs_store_ggml(type);
	size_t at = w->size;

	gw_fill(w, 0, count / store->block_weights * store->block_bytes);
	mfs_store_floats(store, MFS_SIMD_PORTABLE, from, count / store->block_weights,
			 w->bytes + at);
}

static struct gw make_model(uint32_t type, const char *architecture, uint64_t rows)
{
	const mfs_store *store = mfs_store_ggml(type);
	uint64_t dims[2] = {COLUMNS, rows};
	uint64_t bytes = COLUMNS * rows / store->block_weights * store->block_bytes;
	struct gw w = {0};

	gw_head(&w, 3, 2, 1);
	gw_kv_string(&w, "general.architecture", architecture);
	gw_tensor(&w, "blk.0.attn_k.weight", 2, dims, type, 0);
	gw_tensor(&w, "blk.0.attn_q.weight", 2, dims, type, bytes);
	gw_align(&w, 32, 0);
	put_floats(&w, others, COLUMNS * rows, type);
	put_floats(&w, weights, COLUMNS * rows, type);
	return w;
}

static struct gw make_adapter(void)
{
	uint64_t dims_a[2] = {COLUMNS, RANK}, dims_b[2] = {RANK, ROWS};
	struct gw w = {0};

	gw_head(&w, 3, 2, 3);
	gw_kv_string(&w, "general.architecture", "llama");
	gw_kv_string(&w, "general.type", "adapter");
	gw_kv_string(&w, "adapter.type", "lora");
	gw_tensor(&w, "blk.0.attn_q.weight.lora_a", 2, dims_a, MFS_GGML_F32, 0);
	gw_tensor(&w, "blk.0.attn_q.weight.lora_b", 2, dims_b, MFS_GGML_F32, sizeof(a));
	gw_align(&w, 32, 0);
	put_floats(&w, a, RANK * COLUMNS, MFS_GGML_F32);
	put_floats(&w, b, ROWS * RANK, MFS_GGML_F32);
	return w;
}

struct merged {
	struct gw base, source, adapter;
	mfs_premerge_file base_file;
	mfs_premerge_part part;
	mfs_adapter *pairs;
	mfs_source computed; /* the unquantized model's until it is computed */
	mfs_import import;
	mfs_premerged *p;
	mfs_problem why;
};

static void open_file(mfs_premerge_file *out, const char *name, const struct gw *bytes)
{
	mfs_problem why = {0};

	out->name = name;
	mfs_source_memory(&out->source, name, bytes->bytes, bytes->size);
	if (mfs_import_source(&out->import, &out->source, &why))
		fail_msg("%s", why.text);
}

static void setup(struct merged *m)
{
	memset(m, 0, sizeof(*m));
	generated_weights(weights, WEIGHTS, 1);
	generated_weights(others, WEIGHTS, 2);
	generated_weights(a, RANK * COLUMNS, 3);
	generated_weights(b, ROWS * RANK, 4);
	m->base = make_model(MFS_GGML_Q8_0, "llama", ROWS);
	m->adapter = make_adapter();
	open_file(&m->base_file, "base.gguf", &m->base);
	open_file(&m->part.file, "adapter.gguf", &m->adapter);
	if (mfs_adapter_new(&m->pairs, "adapter.gguf", &m->part.file.import, false, "base.gguf",
			    &m->base_file.import, &m->why))
		fail_msg("%s", m->why.text);
	m->part.adapter = m->pairs;
	m->part.scale = SCALE;
}

static int premerge(struct merged *m, struct gw source)
{
	const mfs_premerge_request request = {
	    .base = m->base_file, .parts = &m->part, .part_count = 1, .mixture = "fr@0.25"};
	mfs_premerge_file file;

	m->source = source;
	open_file(&file, "source.gguf", &m->source);
	m->computed = file.source;
	m->import = file.import;
	return mfs_premerge(&m->p, &m->computed, &m->import, &request, &m->why);
}

static void teardown(struct merged *m)
{
	mfs_premerged_free(m->p);
	mfs_adapter_free(m->pairs);
	mfs_import_free(&m->import);
	mfs_import_free(&m->base_file.import);
	mfs_import_free(&m->part.file.import);
	gw_free(&m->base);
	gw_free(&m->source);
	gw_free(&m->adapter);
}

static uint8_t *read_all(struct merged *m)
{
	uint8_t *bytes = malloc(m->computed.size);

	assert_non_null(bytes);
	assert_int_equal(m->computed.read_at(&m->computed, 0, bytes, m->computed.size), 0);
	return bytes;
}

/* The base with the second matrix merged by MERGE-1, from the definition. */
static struct gw make_expected(void)
{
	for (uint32_t i = 0; i < ROWS; i++)
		for (uint32_t j = 0; j < COLUMNS; j++) {
			volatile float sum = 0, product;

			for (uint32_t k = 0; k < RANK; k++) {
				product = a[k * COLUMNS + j] * b[i * RANK + k];
				sum = sum + product;
			}
			product = sum * SCALE;
			weights[i * COLUMNS + j] = product + weights[i * COLUMNS + j];
		}
	return make_model(MFS_GGML_Q8_0, "llama", ROWS);
}

static void only_what_an_adapter_changes_differs(void **state)
{
	struct merged m;
	struct gw expected;
	uint8_t *bytes;

	(void)state;
	setup(&m);
	assert_int_equal(premerge(&m, make_model(MFS_GGML_F32, "llama", ROWS)), 0);
	assert_string_equal(mfs_premerged_type(m.p), "q8_0");
	expected = make_expected();
	assert_int_equal(m.computed.size, expected.size);
	bytes = read_all(&m);
	assert_memory_equal(bytes, expected.bytes, expected.size);
	assert_memory_not_equal(bytes, m.base.bytes, m.base.size);
	free(bytes);
	gw_free(&expected);
	teardown(&m);
}

static void any_part_reads_like_the_whole(void **state)
{
	struct merged m;
	uint64_t seed = 5;
	uint8_t *bytes, part[5000];

	(void)state;
	setup(&m);
	assert_int_equal(premerge(&m, make_model(MFS_GGML_F16, "llama", ROWS)), 0);
	bytes = read_all(&m);
	for (int i = 0; i < 300; i++) {
		uint64_t at = generated_bits(&seed) % m.computed.size;
		size_t n = generated_bits(&seed) % sizeof(part);

		if (n > m.computed.size - at)
			n = (size_t)(m.computed.size - at);
		assert_int_equal(m.computed.read_at(&m.computed, at, part, n), 0);
		assert_memory_equal(part, bytes + at, n);
	}
	assert_int_equal(m.computed.read_at(&m.computed, m.computed.size, part, 1),
			 MFS_E_TRUNCATED);
	free(bytes);
	teardown(&m);
}

static void *read_whole(void *arg)
{
	return read_all(arg);
}

static void threads_read_the_same_and_lose_the_same(void **state)
{
	pthread_t thread[THREADS];
	struct merged m;
	mfs_loss loss, again;
	uint8_t *bytes;

	(void)state;
	setup(&m);
	assert_int_equal(premerge(&m, make_model(MFS_GGML_F32, "llama", ROWS)), 0);
	bytes = read_all(&m);
	assert_true(mfs_premerged_loss(m.p, 0, &loss));
	assert_int_equal(loss.weights, 0);
	mfs_premerged_measure(m.p);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, read_whole, &m), 0);
	for (int i = 0; i < THREADS; i++) {
		void *other;

		pthread_join(thread[i], &other);
		assert_memory_equal(other, bytes, m.computed.size);
		free(other);
	}
	assert_true(mfs_premerged_loss(m.p, 0, &loss));
	assert_int_equal(loss.weights, WEIGHTS);
	assert_int_equal(loss.sum.error.count, WEIGHTS);
	assert_int_equal(loss.sum.blocks, WEIGHTS / 32);
	assert_true(loss.sum.equal < loss.sum.blocks);
	assert_true(loss.sum.error.squares > 0);
	free(read_all(&m));
	assert_true(mfs_premerged_loss(m.p, 0, &again));
	assert_memory_equal(&again.sum, &loss.sum, sizeof(loss.sum));
	assert_false(mfs_premerged_loss(m.p, 1, &again));
	assert_non_null(strstr(mfs_premerged_note(m.p), "fr@0.25 rmse="));
	free(bytes);
	teardown(&m);
}

static void the_sample_knows_who_quantized_the_base(void **state)
{
	uint64_t blocks, equal;
	struct merged m;

	(void)state;
	setup(&m);
	assert_int_equal(premerge(&m, make_model(MFS_GGML_F32, "llama", ROWS)), 0);
	mfs_premerged_sample(m.p, &blocks, &equal);
	assert_true(blocks > 0);
	assert_int_equal(blocks, equal);
	teardown(&m);
}

static void refused(struct gw source, const char *reason)
{
	struct merged m;

	setup(&m);
	assert_true(premerge(&m, source) < 0);
	if (!strstr(m.why.text, reason))
		fail_msg("'%s', not '%s'", m.why.text, reason);
	/* It is the caller's still. */
	assert_true(m.import.tensor_count > 0);
	teardown(&m);
}

static void what_does_not_fit_is_refused_by_name(void **state)
{
	struct merged m;

	(void)state;
	setup(&m); /* for the weights */
	refused(make_model(MFS_GGML_F32, "qwen2", ROWS), "its architecture is 'qwen2'");
	refused(make_model(MFS_GGML_F32, "llama", ROWS - 2),
		"'blk.0.attn_k.weight' is 88 x 512, that of base.gguf 90 x 512");
	refused(make_model(MFS_GGML_Q8_0, "llama", ROWS), "of type Q8_0: F32, F16 or BF16");
	for (size_t i = 0; i < WEIGHTS; i++)
		weights[i] = -weights[i];
	refused(make_model(MFS_GGML_F32, "llama", ROWS), "not the model that this was quantized");
	generated_weights(weights, WEIGHTS, 1);
	weights[7] = NAN;
	refused(make_model(MFS_GGML_F32, "llama", ROWS), "'blk.0.attn_q.weight' has weights that");
	teardown(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(only_what_an_adapter_changes_differs),
	    cmocka_unit_test(any_part_reads_like_the_whole),
	    cmocka_unit_test(threads_read_the_same_and_lose_the_same),
	    cmocka_unit_test(the_sample_knows_who_quantized_the_base),
	    cmocka_unit_test(what_does_not_fit_is_refused_by_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
