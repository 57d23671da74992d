/*
 * What verifying catches before a container gets its name: mistakes of a codec, which
 * the coders find by decoding each span, whatever a medium does not give back as it
 * was written, and an index that leads elsewhere than to what was packed.
 */
#include "source_files.h"

#include <stdatomic.h>

#include "frame.h"
#include "modelfs_pack.h"
#include "packer.h"
#include "sanitized.h"

/* Each mistake takes a container of its own, and sanitizers much of the time that a test
 * has: one of so many is made then. As it has no divisor in common with the kinds of
 * mistakes, every kind is still made, in places that lie all over. */
#define MISTAKE_STEP (SANITIZED ? 5 : 1)

/* ---- an encoder that makes one mistake ---- */

static atomic_int spans_coded;
static int wrong_span = -1; /* the number of the span that it makes it in */
static bool too_short;	    /* the frame lacks its end, or has a wrong byte */

static int encode_wrongly(mfs_encoder *encoder, const mfs_layout *layout, uint32_t blocks,
			  const uint8_t *in, const mfs_coding_rules *rules,
			  const mfs_tables *const tables[MFS_SLOTS], uint8_t *const out[MFS_SLOTS],
			  mfs_frame_info info[MFS_SLOTS])
{
	int error = mfs_span_encode(encoder, layout, blocks, in, rules, tables, out, info);
	unsigned slot = info[1].stored ? 1 : 0;

	if (atomic_fetch_add(&spans_coded, 1) != wrong_span)
		return error;
	assert_true(info[slot].stored > 0);
	if (too_short)
		info[slot].stored--;
	else
		out[slot][info[slot].stored / 2] ^= 0xff;
	return error;
}

#define mfs_span_encode encode_wrongly
#include "../../libmodelfs/pack/coder.c"
#undef mfs_span_encode

/* ---- a medium that gets one byte wrong ---- */

struct medium {
	int writes;
	int wrong_write; /* -1: none */
	int place;	 /* 0: its first byte, 1: one in the middle, 2: the last */
	bool no_padding; /* the nearest byte before that place that is not zero */
	off_t wrong;	 /* offset of the byte; 0: not yet */
	bool mended;	 /* what was written later covers it */
};

static off_t wrong_place(const struct medium *m, const uint8_t *bytes, size_t length)
{
	off_t at = m->place == 2 ? (off_t)length - 1 : (off_t)length / 2 * m->place;

	while (m->no_padding && at && !bytes[at])
		at--;
	return at;
}

static ssize_t write_wrongly(const mfs_output *output, const void *bytes, size_t length,
			     off_t offset)
{
	struct medium *m = output->user;
	ssize_t put = pwrite(output->fd, bytes, length, offset);
	off_t at = wrong_place(m, bytes, length);
	uint8_t byte = ((const uint8_t *)bytes)[at] ^ 0x40;

	if (m->wrong && offset <= m->wrong && m->wrong < offset + (off_t)length)
		m->mended = true;
	if (m->writes++ != m->wrong_write)
		return put;
	m->wrong = offset + at;
	assert_int_equal(pwrite(output->fd, &byte, 1, m->wrong), 1);
	return put;
}

static int sync_file(const mfs_output *output)
{
	return fsync(output->fd);
}

static const mfs_output_table wrong_medium = {write_wrongly, sync_file};

/* ---- a planner that makes one mistake ---- */

struct planner {
	mfs_plan *plan;
	int mistake;
	bool done;
};

static mfs_root_extent *extent_of(mfs_plan *plan, const char *tensor)
{
	for (uint32_t i = 0; i < plan->extent_count; i++) {
		const mfs_root_tensor *t = &plan->tensors[plan->extents[i].tensor].record;

		if (t->name_length == 1 && t->name[0] == tensor[0])
			return &plan->extents[i];
	}
	fail();
	return NULL;
}

enum { SWAPPED, TWICE, ELSEWHERE, MISTAKES };

/* The first write comes when all is coded, and before the index. */
static ssize_t write_after_mistake(const mfs_output *output, const void *bytes, size_t length,
				   off_t offset)
{
	struct planner *p = output->user;
	mfs_root_extent *b, *e;
	uint32_t number;

	if (p->done)
		return pwrite(output->fd, bytes, length, offset);
	p->done = true;
	b = extent_of(p->plan, "b");
	e = extent_of(p->plan, "e");
	number = b->tensor;
	if (p->mistake == SWAPPED) {
		b->tensor = e->tensor;
		e->tensor = number;
	} else if (p->mistake == TWICE) {
		e->tensor = number;
	} else if (p->mistake == ELSEWHERE) {
		p->plan->tensors[number].record.file_offset -= 32;
	}
	return pwrite(output->fd, bytes, length, offset);
}

static const mfs_output_table after_mistake = {write_after_mistake, sync_file};

/* ---- packing ---- */

static const char *write_model(const char *name, uint64_t rows)
{
	const sf_tensor tensors[] = {{"a", SF_Q4_K, 2, {256, rows}, rows * 144},
				     {"b", SF_F16, 2, {512, rows}, rows * 1024},
				     {"c", SF_Q8_0, 2, {1024, rows}, rows * 1088},
				     {"d", SF_F32, 1, {100}, 400}};

	return sf_write_gguf(name, tensors, 4, 0);
}

static int pack(const char *source, unsigned threads, struct medium *medium, bool appending,
		mfs_problem *why)
{
	mfs_pack_options options = MFS_PACK_OPTIONS_INIT;
	mfs_packer *p;
	int error;

	*why = (mfs_problem){0};
	options.threads = threads;
	error = appending ? mfs_packer_open(&p, sf_path("c.mfs"), &options, why)
			  : mfs_packer_new(&p, &options, why);
	assert_int_equal(error, 0);
	assert_int_equal(mfs_packer_add(p, source, NULL, why), 0);
	if (medium)
		mfs_packer_set_output(p, &wrong_medium, medium);
	error = mfs_packer_write(p, sf_path("c.mfs"), NULL, NULL, NULL, why);
	mfs_packer_free(p);
	return error;
}

static void a_wrong_encoder_is_caught_in_any_span(void **state)
{
	const char *model = write_model("m.gguf", 300);
	unsigned files = sf_count();
	mfs_problem why;
	int spans;

	(void)state;
	atomic_store(&spans_coded, 0);
	assert_int_equal(pack(model, 2, NULL, false, &why), 0);
	unlink(sf_path("c.mfs"));
	spans = atomic_load(&spans_coded);
	assert_true(spans > 5);
	for (int i = 0; i < 2 * spans; i += MISTAKE_STEP) {
		wrong_span = i / 2;
		too_short = i % 2;
		atomic_store(&spans_coded, 0);
		assert_int_equal(pack(model, 1 + (unsigned)i / 2 % 2, NULL, false, &why),
				 MFS_E_CORRUPT);
		assert_non_null(strstr(why.text, "do not decode"));
		assert_int_equal(sf_count(), files);
	}
	wrong_span = -1;
}

/* Either the byte was wrong and there is no trace of the container that was to be, or
 * it was put right and there is one. */
static void assert_caught(int error, const struct medium *medium, const mfs_problem *why,
			  const uint8_t *before, size_t size)
{
	size_t now;
	uint8_t *after;

	if (medium->mended) {
		assert_int_equal(error, 0);
		return;
	}
	assert_int_equal(error, MFS_E_IO);
	assert_non_null(strstr(why->text, "does not read back as written"));
	if (!before) {
		assert_int_equal(access(sf_path("c.mfs"), F_OK), -1);
		return;
	}
	after = sf_read(sf_path("c.mfs"), &now);
	assert_int_equal(now, size);
	assert_memory_equal(after, before, size);
	free(after);
}

/* Makes each write wrong in turn, except the `sealing` last ones. Padding of an append
 * is nobody's and not looked at. */
static void assert_wrong_writes_are_caught(const char *source, bool appending, int sealing)
{
	struct medium medium = {.wrong_write = -1};
	uint8_t *before = NULL;
	mfs_problem why;
	size_t size = 0;
	int writes, made = 0, caught = 0;

	if (appending)
		before = sf_read(sf_path("c.mfs"), &size);
	assert_int_equal(pack(source, 2, &medium, appending, &why), 0);
	writes = medium.writes - sealing;
	for (int i = 0; i < 3 * writes; i += MISTAKE_STEP) {
		int error;

		if (before)
			sf_write("c.mfs", before, size);
		else
			unlink(sf_path("c.mfs"));
		medium =
		    (struct medium){.wrong_write = i / 3, .place = i % 3, .no_padding = appending};
		error = pack(source, 2, &medium, appending, &why);
		assert_caught(error, &medium, &why, before, size);
		caught += error != 0;
		made++;
	}
	assert_true(made >= 3 && 3 * caught >= 2 * made);
	free(before);
	unlink(sf_path("c.mfs"));
}

static void a_wrong_write_is_caught_in_any_place(void **state)
{
	(void)state;
	assert_wrong_writes_are_caught(write_model("m.gguf", 300), false, 0);
}

/* The superblocks of an append come after it was verified. */
static void a_wrong_write_is_caught_when_appending(void **state)
{
	mfs_problem why;

	(void)state;
	assert_int_equal(pack(write_model("m.gguf", 300), 2, NULL, false, &why), 0);
	assert_wrong_writes_are_caught(write_model("n.gguf", 210), true, 3);
}

static void a_wrong_extent_is_caught(void **state)
{
	const sf_tensor tensors[] = {{"a", SF_Q4_K, 2, {256, 64}, 64 * 144},
				     {"b", SF_F16, 2, {512, 64}, 64 * 1024},
				     {"e", SF_F16, 2, {512, 64}, 64 * 1024}};
	const char *model = sf_write_gguf("extents.gguf", tensors, 3, 0);

	(void)state;
	for (int mistake = 0; mistake <= MISTAKES; mistake++) {
		mfs_pack_options options = MFS_PACK_OPTIONS_INIT;
		struct planner planner = {.mistake = mistake};
		mfs_problem why = {0};
		mfs_packer *p;
		int error;

		assert_int_equal(mfs_packer_new(&p, &options, &why), 0);
		assert_int_equal(mfs_packer_add(p, model, NULL, &why), 0);
		planner.plan = &p->plan;
		mfs_packer_set_output(p, &after_mistake, &planner);
		error = mfs_packer_write(p, sf_path("e.mfs"), NULL, NULL, NULL, &why);
		mfs_packer_free(p);
		assert_true(planner.done);
		assert_int_equal(error, mistake < MISTAKES ? MFS_E_CORRUPT : 0);
		assert_int_equal(access(sf_path("e.mfs"), F_OK), mistake < MISTAKES ? -1 : 0);
		if (mistake < MISTAKES)
			assert_non_null(strstr(why.text, "index does not lead to"));
	}
	unlink(sf_path("e.mfs"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_wrong_encoder_is_caught_in_any_span),
	    cmocka_unit_test(a_wrong_write_is_caught_in_any_place),
	    cmocka_unit_test(a_wrong_write_is_caught_when_appending),
	    cmocka_unit_test(a_wrong_extent_is_caught),
	};

	return cmocka_run_group_tests(tests, sf_setup, sf_teardown);
}
