/* Matrices of adapters while views are read: how much memory they take, and that reads of
 * tensors which cannot have theirs at the same time come to an end. */
#include "source_files.h"

#include <pthread.h>

#include "container.h"
#include "modelfs_pack.h"
#include "reader.h"

#define COLUMNS	    4096u
#define ROWS	    32u
#define TENSORS	    5u
#define MIB	    (UINT64_C(1) << 20)
#define THREADS	    4
#define SMALL	    200u /* a rank: the matrices of two tensors fit */
#define LARGE	    600u /* those of one do not */
#define BYTES	    (ROWS * COLUMNS * (uint64_t)sizeof(float)) /* of a tensor of the view */
#define TENSOR_NAME 64

/* All weights are 1. */
static void make_model(uint32_t tensors)
{
	uint64_t dims[2] = {COLUMNS, ROWS};
	struct gw w = {0};
	char name[TENSOR_NAME];

	gw_head(&w, 3, tensors, 1);
	gw_kv_string(&w, "general.architecture", "llama");
	for (uint32_t i = 0; i < tensors; i++) {
		snprintf(name, sizeof(name), "blk.%u.ffn_up.weight", i);
		gw_tensor(&w, name, 2, dims, 1, i * 2ull * COLUMNS * ROWS);
	}
	gw_align(&w, 32, 0);
	for (size_t i = 0; i < (size_t)tensors * COLUMNS * ROWS; i++)
		gw_int(&w, 0x3c00, 2);
	sf_write("model.gguf", w.bytes, w.size);
	gw_free(&w);
}

/* Only the first row of A and the first column of B are not zero. */
static float a_of(uint32_t column)
{
	return (float)(column % 7);
}

static void put_tensor(struct gw *w, uint32_t rank)
{
	for (uint32_t j = 0; j < COLUMNS; j++)
		gw_f32(w, a_of(j));
	gw_fill(w, 0, (rank - 1) * (size_t)COLUMNS * sizeof(float));
	for (uint32_t i = 0; i < ROWS; i++) {
		gw_f32(w, (float)(i + 1));
		gw_fill(w, 0, (rank - 1) * sizeof(float));
	}
}

static void make_adapter(uint32_t tensors, uint32_t rank)
{
	uint64_t a[2] = {COLUMNS, rank}, b[2] = {rank, ROWS}, at = 0;
	struct gw w = {0};
	char name[TENSOR_NAME];

	gw_head(&w, 3, 2 * tensors, 3);
	gw_kv_string(&w, "general.architecture", "llama");
	gw_kv_string(&w, "general.type", "adapter");
	gw_kv_string(&w, "adapter.type", "lora");
	for (uint32_t i = 0; i < tensors; i++) {
		snprintf(name, sizeof(name), "blk.%u.ffn_up.weight.lora_a", i);
		gw_tensor(&w, name, 2, a, 0, at);
		at += 4ull * COLUMNS * rank;
		snprintf(name, sizeof(name), "blk.%u.ffn_up.weight.lora_b", i);
		gw_tensor(&w, name, 2, b, 0, at);
		at += 4ull * ROWS * rank;
	}
	gw_align(&w, 32, 0);
	for (uint32_t i = 0; i < tensors; i++)
		put_tensor(&w, rank);
	sf_write("adapter.gguf", w.bytes, w.size);
	gw_free(&w);
}

static void make_container(uint32_t tensors, uint32_t rank)
{
	mfs_pack_options options = MFS_PACK_OPTIONS_INIT;
	mfs_packer *p = NULL;
	mfs_problem why;
	int error;

	make_model(tensors);
	make_adapter(tensors, rank);
	options.force = options.no_verify = 1;
	error = mfs_packer_new(&p, &options, &why);
	if (!error)
		error = mfs_packer_add(p, sf_path("model.gguf"), NULL, &why);
	if (!error)
		error = mfs_packer_add_adapter(p, sf_path("adapter.gguf"), "x", NULL, &why);
	if (!error)
		error = mfs_packer_write(p, sf_path("c.mfs"), NULL, NULL, NULL, &why);
	if (error)
		fail_msg("%s", why.text);
	/* Who packs it is told what small machines need. */
	assert_true((rank == LARGE) == (mfs_packer_remark(p, 0) != NULL));
	if (rank == LARGE)
		assert_non_null(strstr(mfs_packer_remark(p, 0), "mount with -o matrices=19M"));
	mfs_packer_free(p);
}

struct view {
	mfs_container *c;
	uint32_t file;
	uint64_t data; /* where the tensors begin */
	uint32_t tensors;
};

static struct view open_view(uint32_t tensors, uint64_t matrices_bytes)
{
	mfs_open_options options = MFS_OPEN_OPTIONS_INIT;
	mfs_file_info info = {.size = sizeof(info)};
	struct view v = {.tensors = tensors};
	mfs_problem why;
	int64_t file;

	options.decoders = 2;
	options.matrices_bytes = matrices_bytes;
	if (mfs_open(&v.c, sf_path("c.mfs"), &options, &why) < 0)
		fail_msg("%s", why.text);
	file = mfs_file_find(v.c, "merged/x.f32.gguf");
	assert_true(file >= 0);
	v.file = (uint32_t)file;
	assert_int_equal(mfs_file_get(v.c, v.file, &info), 0);
	v.data = info.file_bytes - tensors * BYTES;
	return v;
}

static uint64_t peak_of(const struct view *v)
{
	int err = 0;

	return container_reader(v->c, &err)->operand_peak;
}

/* Whether bytes offset .. offset + length - 1 of the tensors read as they should. */
static bool reads_right(const struct view *v, uint64_t offset, size_t length)
{
	float *got = malloc(length);
	bool ok = got && mfs_read(v->c, v->file, v->data + offset, got, length) == (int64_t)length;

	for (size_t k = 0; ok && k < length / sizeof(float); k++) {
		uint64_t at = (offset / sizeof(float) + k) % (ROWS * COLUMNS);

		ok = got[k] == 1 + a_of((uint32_t)(at % COLUMNS)) * (float)(at / COLUMNS + 1);
	}
	free(got);
	return ok;
}

static void matrices_stay_within_their_memory(void **state)
{
	struct view v;

	(void)state;
	make_container(TENSORS, SMALL);
	v = open_view(TENSORS, 0);
	for (uint64_t at = 0; at < TENSORS * BYTES; at += 96 << 10) {
		uint64_t left = TENSORS * BYTES - at;

		assert_true(reads_right(&v, at, left < 96 << 10 ? left : 96 << 10));
	}
	assert_true(peak_of(&v) > 8 * MIB);
	assert_true(peak_of(&v) <= 16 * MIB);
	mfs_close(v.c);
}

static void matrices_of_one_tensor_may_have_more_for_themselves(void **state)
{
	struct view v;

	(void)state;
	make_container(3, LARGE);
	v = open_view(3, 32 * MIB);
	/* One read of all three: they cannot have their matrices together. */
	assert_true(reads_right(&v, 0, 3 * BYTES));
	assert_true(reads_right(&v, BYTES - 8192, 16384));
	assert_true(peak_of(&v) > 16 * MIB);
	assert_true(peak_of(&v) <= 20 * MIB);
	mfs_close(v.c);
}

struct walker {
	const struct view *view;
	uint64_t start;
	bool ok;
};

/* Goes over all tensors, each thread in another order. */
static void *walk(void *user)
{
	struct walker *w = user;
	const uint64_t all = w->view->tensors * BYTES, step = BYTES / 2 - 4096;

	w->ok = true;
	for (int i = 0; i < 12 && w->ok; i++) {
		uint64_t at = (w->start + (uint64_t)i * 5 * step) % (all - 65536);

		w->ok = reads_right(w->view, at / 4 * 4, 65536);
	}
	return NULL;
}

static void readers_of_different_tensors_take_turns(void **state)
{
	struct walker walker[THREADS];
	pthread_t thread[THREADS];
	struct view v = open_view(3, 32 * MIB);

	(void)state;
	for (unsigned i = 0; i < THREADS; i++) {
		walker[i] = (struct walker){.view = &v, .start = i * BYTES / 2};
		assert_int_equal(pthread_create(&thread[i], NULL, walk, &walker[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(thread[i], NULL);
		assert_true(walker[i].ok);
	}
	assert_true(peak_of(&v) <= 20 * MIB);
	mfs_close(v.c);
}

static void what_never_fits_is_refused(void **state)
{
	struct view v = open_view(3, 18 * MIB);
	mfs_problem why;
	char byte;

	(void)state;
	assert_int_equal(mfs_read(v.c, v.file, v.data, &byte, 1), MFS_E_LIMIT);
	mfs_last_problem(v.c, &why);
	assert_non_null(strstr(why.text, "tensor 'blk.0.ffn_up.weight' of 'merged/x.f32.gguf' "
					 "needs"));
	/* What needs no matrices is there. */
	assert_int_equal(mfs_read(v.c, v.file, 0, &byte, 1), 1);
	assert_int_equal(peak_of(&v), 0);
	mfs_close(v.c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(matrices_stay_within_their_memory),
	    cmocka_unit_test(matrices_of_one_tensor_may_have_more_for_themselves),
	    cmocka_unit_test(readers_of_different_tensors_take_turns),
	    cmocka_unit_test(what_never_fits_is_refused),
	};

	return cmocka_run_group_tests(tests, sf_setup, sf_teardown);
}
