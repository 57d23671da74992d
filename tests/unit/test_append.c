/* Appending to containers, removing from them, compacting them. */
#include "source_files.h"

#include "container.h"
#include "modelfs_pack.h"
#include "reader.h"

#define CONTAINER "c.mfs"

/* ---- sources ---- */

#define SF_Q4_0 2
#define ROWS	40

static const sf_tensor model[] = {
    {"token_embd.weight", SF_Q4_0, 2, {4096, ROWS}, ROWS * 2304},
    {"blk.0.attn_norm.weight", 0, 1, {4096}, 16384},
    {"blk.0.ffn_up.weight", SF_Q4_0, 2, {4096, ROWS}, ROWS * 2304},
};

/* A model whose weights follow from `seed`, but for the norm. */
static void make_model(const char *name, uint64_t seed)
{
	struct gw w = sf_gguf(model, 3, 0);
	size_t data = w.size - 2 * ROWS * 2304 - 16384;

	sf_weights(w.bytes + data, w.size - data, seed);
	sf_weights(w.bytes + data + ROWS * 2304, 16384, 7);
	sf_write(name, w.bytes, w.size);
	free(w.bytes);
}

/* One tensor of `rows` rows; those of shorter ones are its first. */
static void make_rows(const char *name, uint64_t rows)
{
	const sf_tensor t = {"token_embd.weight", SF_Q4_0, 2, {4096, rows}, rows * 2304};
	struct gw w = sf_gguf(&t, 1, 0);

	sf_write(name, w.bytes, w.size);
	free(w.bytes);
}

static void make_noise(const char *name, size_t size, uint64_t seed)
{
	uint8_t *bytes = malloc(size);

	assert_non_null(bytes);
	sf_weights(bytes, size, seed);
	for (size_t i = 0; i < size; i++)
		bytes[i] ^= (uint8_t)(bytes[i] * 37 + (i >> 3) * seed);
	sf_write(name, bytes, size);
	free(bytes);
}

/* ---- packing and changing ---- */

typedef struct {
	mfs_pack_options options;
	mfs_pack_summary summary;
	mfs_pack_progress *progress;
	const char *remove;
	mfs_problem why;
} job;

#define JOB                                                                                        \
	{                                                                                          \
		.options = MFS_PACK_OPTIONS_INIT, .summary = {.size = sizeof(mfs_pack_summary) }   \
	}

static int run(job *j, bool change, const char *const sources[])
{
	const char *container = sf_path(CONTAINER);
	mfs_packer *p = NULL;
	int error = change ? mfs_packer_open(&p, container, &j->options, &j->why)
			   : mfs_packer_new(&p, &j->options, &j->why);

	if (!error && j->remove)
		error = mfs_packer_remove(p, j->remove, &j->why);
	for (int i = 0; !error && sources && sources[i]; i++)
		error = mfs_packer_add(p, sf_path(sources[i]), NULL, &j->why);
	if (!error)
		error = mfs_packer_write(p, container, j->progress, NULL, &j->summary, &j->why);
	mfs_packer_free(p);
	return error;
}

static void pack_ok(job *j, const char *const sources[])
{
	j->options.force = 1;
	if (run(j, false, sources) < 0)
		fail_msg("%s", j->why.text);
	j->options.force = 0;
}

static void change_ok(job *j, const char *const sources[])
{
	if (run(j, true, sources) < 0)
		fail_msg("%s", j->why.text);
}

static uint8_t *container_bytes(size_t *size)
{
	return sf_read(sf_path(CONTAINER), size);
}

static mfs_container *open_ok(void)
{
	mfs_container *c;
	mfs_problem why;

	if (mfs_open(&c, sf_path(CONTAINER), NULL, &why) < 0)
		fail_msg("%s", why.text);
	return c;
}

static int report(void *user, const mfs_problem *why)
{
	(void)user;
	print_message("%s\n", why->text);
	return 0;
}

static void check_file(mfs_container *c, const char *name)
{
	int64_t file = mfs_file_find(c, name);
	size_t size;
	uint8_t *want = sf_read(sf_path(name), &size), *have = malloc(size + 1);

	assert_true(file >= 0);
	assert_int_equal(mfs_read(c, (uint32_t)file, 0, have, size + 1), size);
	assert_memory_equal(have, want, size);
	free(want);
	free(have);
}

/* The container holds these files and nothing else, and is whole. */
static void check_holds(const char *const names[])
{
	mfs_container *c = open_ok();
	uint32_t n = 0;

	for (; names[n]; n++)
		check_file(c, names[n]);
	assert_int_equal(mfs_file_count(c), n);
	assert_int_equal(mfs_check(c, report, NULL, NULL), 0);
	mfs_close(c);
}

#define NAMES(...) ((const char *const[]){__VA_ARGS__, NULL})

/* ---- appending ---- */

static void what_is_appended_reads_back_beside_what_was_there(void **state)
{
	job j = JOB;
	size_t before, after;
	uint8_t *old, *new;

	(void)state;
	make_model("m.gguf", 1);
	make_noise("noise", 300000, 2);
	make_noise("a-first", 5000, 3);
	pack_ok(&j, NAMES("m.gguf"));
	old = container_bytes(&before);
	change_ok(&j, NAMES("noise", "a-first"));
	new = container_bytes(&after);
	check_holds(NAMES("a-first", "m.gguf", "noise"));
	assert_int_equal(j.summary.generation, 2);
	assert_int_equal(j.summary.files_added, 2);
	assert_int_equal(j.summary.stored_bytes, after);
	assert_int_equal(j.summary.written_bytes, after - before);
	/* All that lay there lies there still, but for the slots. */
	assert_memory_equal(old + 4096, new + 4096, 61440);
	assert_memory_equal(old + 69632, new + 69632, before - 69632);
	free(old);
	free(new);
}

/* 1.1 times what is stored, and 1 MiB. */
static void an_append_writes_little_more_than_it_stores(void **state)
{
	job j = JOB;

	(void)state;
	make_noise("base", 20 << 20, 1);
	make_noise("small", 2 << 20, 2);
	pack_ok(&j, NAMES("base"));
	change_ok(&j, NAMES("small"));
	assert_true(j.summary.written_bytes + 2 * 4096 <= (2 << 20) / 10 * 11 + (1 << 20));
	check_holds(NAMES("base", "small"));
}

static void many_appends_follow_each_other(void **state)
{
	job j = JOB;
	const char *names[12] = {"f00"};
	mfs_container *c;

	(void)state;
	make_noise("f00", 70000, 1);
	pack_ok(&j, NAMES("f00"));
	for (int i = 1; i < 11; i++) {
		char name[16];

		snprintf(name, sizeof(name), "f%02d", i);
		names[i] = strdup(name);
		make_noise(name, 10000 + 999 * (size_t)i, (uint64_t)i);
		change_ok(&j, NAMES(names[i]));
	}
	check_holds(names);
	c = open_ok();
	assert_int_equal(c->sb.generation, 11);
	mfs_close(c);
	for (int i = 1; i < 11; i++)
		free((char *)names[i]);
}

/* The tensors of the root by name, with their frames. */
static mfs_root_tensor find_tensor(mfs_container *c, const char *file, const char *name)
{
	mfs_root_tensor t;

	for (uint32_t i = 0; i < c->root.count[MFS_SEC_TENSORS]; i++) {
		mfs_root_get_tensor(&c->root, i, &t);
		if (!strcmp(c->file_names[t.file], file) && t.name_length == strlen(name) &&
		    !memcmp(t.name, name, t.name_length))
			return t;
	}
	fail_msg("no tensor %s", name);
	return t;
}

static void equal_tensors_share_what_is_stored_already(void **state)
{
	job j = JOB;
	mfs_container *c;
	mfs_root_tensor old, new;

	(void)state;
	make_model("m.gguf", 1);
	make_model("a.gguf", 1);
	make_model("tuned.gguf", 2);
	pack_ok(&j, NAMES("m.gguf"));
	change_ok(&j, NAMES("a.gguf"));
	assert_int_equal(j.summary.frame_bytes, 0);
	change_ok(&j, NAMES("tuned.gguf"));
	check_holds(NAMES("a.gguf", "m.gguf", "tuned.gguf"));
	c = open_ok();
	old = find_tensor(c, "m.gguf", "blk.0.attn_norm.weight");
	new = find_tensor(c, "tuned.gguf", "blk.0.attn_norm.weight");
	assert_memory_equal(old.slot, new.slot, sizeof(old.slot));
	old = find_tensor(c, "m.gguf", "blk.0.ffn_up.weight");
	new = find_tensor(c, "tuned.gguf", "blk.0.ffn_up.weight");
	assert_int_not_equal(old.slot[0].first, new.slot[0].first);
	mfs_close(c);
}

static uint64_t shared_bytes(void)
{
	mfs_container_info info = {.size = sizeof(info)};
	mfs_container *c = open_ok();

	assert_int_equal(mfs_info(c, &info), 0);
	mfs_close(c);
	return info.shared_bytes;
}

/* A file of literal bytes that was continued, and a vocabulary that was extended. */
static void equal_spans_share_what_is_stored_already(void **state)
{
	job j = JOB;
	mfs_container *c;
	mfs_root_tensor old, new;

	(void)state;
	make_rows("m.gguf", 300);
	make_rows("longer.gguf", 400);
	make_rows("longest.gguf", 500);
	make_noise("log", 2000000, 1);
	make_noise("log.1", 2200000, 1);
	pack_ok(&j, NAMES("m.gguf", "log"));
	change_ok(&j, NAMES("longer.gguf"));
	assert_true(j.summary.frame_bytes < 150 * 2304);
	assert_true(shared_bytes() > 200 * 2304);
	change_ok(&j, NAMES("longest.gguf"));
	assert_true(j.summary.frame_bytes < 150 * 2304);
	change_ok(&j, NAMES("log.1"));
	assert_true(j.summary.frame_bytes < 400000);
	check_holds(NAMES("log", "log.1", "longer.gguf", "longest.gguf", "m.gguf"));
	c = open_ok();
	old = find_tensor(c, "m.gguf", "token_embd.weight");
	new = find_tensor(c, "longest.gguf", "token_embd.weight");
	for (int s = 0; s < MFS_SLOTS; s++) {
		assert_int_equal(old.slot[s].tables, new.slot[s].tables);
		assert_int_equal(old.slot[s].base, new.slot[s].base);
		assert_int_not_equal(old.slot[s].first, new.slot[s].first);
	}
	mfs_close(c);
}

/* The same codes would decode to the same bytes, but plain bytes were asked for. */
static void what_is_asked_for_goes_before_sharing(void **state)
{
	job j = JOB;

	(void)state;
	make_rows("m.gguf", 300);
	make_rows("longer.gguf", 400);
	pack_ok(&j, NAMES("m.gguf"));
	j.options.codec = "plain";
	change_ok(&j, NAMES("longer.gguf"));
	assert_true(j.summary.frame_bytes >= 400 * 2304);
	check_holds(NAMES("longer.gguf", "m.gguf"));
}

/* Frames of 4 KiB: full segments stay where they lie, the last one is written anew. */
static void full_segments_are_referred_to_where_they_lie(void **state)
{
	job j = JOB;
	mfs_root_segment before[3], after;
	mfs_container *c;

	(void)state;
	make_noise("big", (2 * 4096 + 100) * 4096, 1);
	make_noise("more", 5000 * 4096, 2);
	j.options.frame_bytes = 4096;
	pack_ok(&j, NAMES("big"));
	c = open_ok();
	for (uint32_t i = 0; i < 3; i++)
		mfs_root_get_segment(&c->root, i, &before[i]);
	mfs_close(c);
	j.options.frame_bytes = 0; /* the container's */
	change_ok(&j, NAMES("more"));
	c = open_ok();
	assert_true(c->root.frames >= 2 * 4096 + 5100);
	for (uint32_t i = 0; i < 2; i++) {
		mfs_root_get_segment(&c->root, i, &after);
		assert_memory_equal(before[i].offset, after.offset, sizeof(after.offset));
		assert_memory_equal(before[i].hash, after.hash, sizeof(after.hash));
	}
	mfs_root_get_segment(&c->root, 2, &after);
	assert_int_not_equal(before[2].offset[0], after.offset[0]);
	mfs_close(c);
	check_holds(NAMES("big", "more"));
}

static void a_container_keeps_its_profile(void **state)
{
	job j = JOB;
	mfs_container *c;

	(void)state;
	make_noise("one", 50000, 1);
	make_noise("two", 50000, 2);
	j.options.profile = MFS_PROFILE_NOR;
	j.options.page_bytes = 512;
	pack_ok(&j, NAMES("one"));
	j = (job)JOB;
	change_ok(&j, NAMES("two"));
	c = open_ok();
	assert_int_equal(c->sb.profile, MFS_PROFILE_NOR);
	assert_int_equal(c->sb.page_size, 512);
	assert_int_equal(c->sb.frame_size, 8192);
	mfs_close(c);
	check_holds(NAMES("one", "two"));
}

static void a_container_that_is_open_reads_as_before(void **state)
{
	job j = JOB;
	mfs_container *c;

	(void)state;
	make_model("m.gguf", 1);
	make_noise("noise", 300000, 2);
	pack_ok(&j, NAMES("m.gguf", "noise"));
	c = open_ok();
	check_file(c, "noise");
	make_model("n.gguf", 3);
	change_ok(&j, NAMES("n.gguf"));
	check_file(c, "m.gguf");
	j.remove = "m.gguf";
	change_ok(&j, NULL);
	j.remove = NULL;
	j.options.compact = 1;
	change_ok(&j, NULL);
	check_file(c, "m.gguf");
	assert_int_equal(mfs_file_count(c), 2);
	mfs_close(c);
	check_holds(NAMES("n.gguf", "noise"));
}

/* ---- refusals ---- */

static void assert_refused(job *j, int error, const char *const sources[], const char *text)
{
	size_t before, after;
	uint8_t *old = container_bytes(&before), *new;

	assert_int_equal(run(j, true, sources), error);
	if (!strstr(j->why.text, text))
		fail_msg("'%s' does not say '%s'", j->why.text, text);
	new = container_bytes(&after);
	assert_int_equal(before, after);
	assert_memory_equal(old, new, before);
	free(old);
	free(new);
}

static void a_second_writer_is_refused(void **state)
{
	job j = JOB;
	mfs_packer *first;
	mfs_problem why;

	(void)state;
	make_noise("one", 5000, 1);
	make_noise("two", 5000, 2);
	pack_ok(&j, NAMES("one"));
	assert_int_equal(mfs_packer_open(&first, sf_path(CONTAINER), NULL, &why), 0);
	assert_refused(&j, MFS_E_BUSY, NAMES("two"), "another mkmodelfs");
	mfs_packer_free(first);
	change_ok(&j, NAMES("two"));
}

static void names_that_are_taken_are_refused(void **state)
{
	job j = JOB;

	(void)state;
	make_noise("one", 5000, 1);
	pack_ok(&j, NAMES("one"));
	assert_refused(&j, MFS_E_EXISTS, NAMES("one"), "'one' is taken");
	assert_refused(&j, MFS_E_ARGUMENT, NULL, "nothing to append");
	j.remove = "two";
	assert_refused(&j, MFS_E_NOT_FOUND, NULL, "no file, adapter or directory 'two'");
	j.remove = "one";
	assert_refused(&j, MFS_E_ARGUMENT, NULL, "nothing would be left");
	/* Replaced in one step. */
	make_noise("one", 7000, 2);
	change_ok(&j, NAMES("one"));
	check_holds(NAMES("one"));
}

static int stop_writing(void *user, mfs_pack_stage stage, uint64_t original, uint64_t total,
			uint64_t stored)
{
	(void)user;
	(void)original;
	(void)total;
	(void)stored;
	return stage == MFS_PACK_WRITE;
}

static int stop_verifying(void *user, mfs_pack_stage stage, uint64_t original, uint64_t total,
			  uint64_t stored)
{
	(void)user;
	(void)original;
	(void)total;
	(void)stored;
	return stage == MFS_PACK_VERIFY;
}

static void a_cancelled_append_leaves_nothing(void **state)
{
	job j = JOB;

	(void)state;
	make_noise("one", 5000, 1);
	make_noise("two", 500000, 2);
	pack_ok(&j, NAMES("one"));
	j.progress = stop_writing;
	assert_refused(&j, MFS_E_CANCELLED, NAMES("two"), "cancelled");
	j.progress = stop_verifying;
	assert_refused(&j, MFS_E_CANCELLED, NAMES("two"), "cancelled");
}

static void flip(uint64_t offset)
{
	FILE *f = fopen(sf_path(CONTAINER), "r+b");
	int byte;

	assert_non_null(f);
	assert_int_equal(fseek(f, (long)offset, SEEK_SET), 0);
	byte = fgetc(f);
	assert_int_equal(fseek(f, (long)offset, SEEK_SET), 0);
	fputc(byte ^ 1, f);
	assert_int_equal(fclose(f), 0);
}

static void a_damaged_newest_generation_is_not_overwritten(void **state)
{
	job j = JOB;
	mfs_container *c;
	uint64_t root[2];

	(void)state;
	make_noise("one", 5000, 1);
	make_noise("two", 5000, 2);
	make_noise("three", 5000, 3);
	pack_ok(&j, NAMES("one"));
	change_ok(&j, NAMES("two"));
	c = open_ok();
	memcpy(root, c->sb.root_offset, sizeof(root));
	mfs_close(c);
	flip(root[0]);
	flip(root[1]);
	c = open_ok(); /* the first generation, by its tail */
	assert_int_equal(c->sb.generation, 1);
	mfs_close(c);
	assert_refused(&j, MFS_E_CORRUPT, NAMES("three"), "generation 2 is damaged");
}

/* One slot lost: the other leads to the newest generation all the same. */
static void the_loss_of_a_slot_loses_no_generation(void **state)
{
	static const uint64_t slots[] = {0, 65536};
	job j = JOB;

	(void)state;
	make_noise("one", 5000, 1);
	make_noise("two", 5000, 2);
	make_noise("three", 5000, 3);
	for (int i = 0; i < 2; i++) {
		mfs_container *c;

		pack_ok(&j, NAMES("one"));
		change_ok(&j, NAMES("two"));
		flip(slots[i] + 40);
		c = open_ok();
		assert_int_equal(c->sb.generation, 2);
		check_file(c, "two");
		mfs_close(c);
		/* And an append makes it good. */
		change_ok(&j, NAMES("three"));
		check_holds(NAMES("one", "three", "two"));
	}
}

/* ---- removing and compacting ---- */

static uint64_t unused_bytes(void)
{
	mfs_container_info info = {.size = sizeof(info)};
	mfs_container *c = open_ok();

	assert_int_equal(mfs_info(c, &info), 0);
	assert_int_equal(info.frame_bytes_stored + info.tables_bytes + info.superblock_bytes +
			     info.index_bytes + info.padding_bytes,
			 info.container_bytes);
	mfs_close(c);
	return info.unused_bytes;
}

static void a_removed_file_is_gone_and_the_rest_stays(void **state)
{
	job j = JOB;

	(void)state;
	make_model("m.gguf", 1);
	make_model("n.gguf", 2);
	make_noise("noise", 300000, 3);
	pack_ok(&j, NAMES("m.gguf", "n.gguf", "noise"));
	j.remove = "m.gguf";
	change_ok(&j, NULL);
	assert_int_equal(j.summary.files_removed, 1);
	assert_int_equal(j.summary.frame_bytes, 0);
	check_holds(NAMES("n.gguf", "noise"));
	assert_true(unused_bytes() > ROWS * 2304);
	j.remove = "noise";
	make_noise("new", 3000, 4);
	change_ok(&j, NAMES("new"));
	check_holds(NAMES("n.gguf", "new"));
}

static void compacting_gives_what_packing_would(void **state)
{
	job j = JOB;
	size_t packed_size, compact_size;
	uint8_t *packed, *compact;

	(void)state;
	make_model("m.gguf", 1);
	make_model("n.gguf", 2);
	make_noise("noise", 3000000, 3);
	make_noise("other", 2000000, 4);
	pack_ok(&j, NAMES("m.gguf", "n.gguf", "noise"));
	packed = container_bytes(&packed_size);
	j.options.compact = 1;
	change_ok(&j, NULL);
	compact = container_bytes(&compact_size);
	assert_int_equal(packed_size, compact_size);
	assert_memory_equal(packed, compact, packed_size);
	free(compact);
	/* The same after an append and its removal. */
	j.options.compact = 0;
	change_ok(&j, NAMES("other"));
	j.remove = "other";
	change_ok(&j, NULL);
	j.remove = NULL;
	j.options.compact = 1;
	change_ok(&j, NULL);
	compact = container_bytes(&compact_size);
	assert_int_equal(packed_size, compact_size);
	assert_memory_equal(packed, compact, packed_size);
	assert_int_equal(j.summary.generation, 1);
	free(packed);
	free(compact);
}

static void compacting_keeps_what_is_shared(void **state)
{
	job j = JOB;

	(void)state;
	make_model("a.gguf", 1);
	make_model("b.gguf", 1);
	make_noise("noise", 100000, 3);
	pack_ok(&j, NAMES("a.gguf", "noise"));
	change_ok(&j, NAMES("b.gguf"));
	j.options.compact = 1;
	j.remove = "a.gguf";
	change_ok(&j, NULL);
	check_holds(NAMES("b.gguf", "noise"));
	assert_int_equal(unused_bytes(), 0);
}

static void compacting_keeps_equal_spans_together(void **state)
{
	job j = JOB;
	size_t packed_size, compact_size;
	uint8_t *packed, *compact;

	(void)state;
	make_rows("a.gguf", 300);
	make_rows("b.gguf", 400);
	make_rows("c.gguf", 500);
	make_noise("noise", 20000000, 3); /* no tensor is cut small */
	pack_ok(&j, NAMES("a.gguf", "b.gguf", "c.gguf", "noise"));
	packed = container_bytes(&packed_size);
	pack_ok(&j, NAMES("b.gguf", "noise"));
	change_ok(&j, NAMES("c.gguf"));
	change_ok(&j, NAMES("a.gguf"));
	j.options.compact = 1;
	change_ok(&j, NULL);
	compact = container_bytes(&compact_size);
	check_holds(NAMES("a.gguf", "b.gguf", "c.gguf", "noise"));
	assert_true(compact_size <= packed_size + 65536);
	free(packed);
	free(compact);
	/* Those that used the frames of a removed file keep them, once. */
	j.remove = "b.gguf";
	change_ok(&j, NULL);
	check_holds(NAMES("a.gguf", "c.gguf", "noise"));
	assert_int_equal(unused_bytes(), 0);
	assert_true(shared_bytes() > 200 * 2304);
}

static void damage_stops_compacting(void **state)
{
	job j = JOB;
	mfs_container *c;
	uint64_t base;

	(void)state;
	make_model("m.gguf", 1);
	pack_ok(&j, NAMES("m.gguf"));
	c = open_ok();
	base = find_tensor(c, "m.gguf", "blk.0.ffn_up.weight").slot[0].base;
	mfs_close(c);
	flip(base + 10);
	j.options.compact = 1;
	assert_refused(&j, MFS_E_CORRUPT, NULL, "tensor blk.0.ffn_up.weight");
	assert_int_equal(sf_count(), 1 + 1); /* no temporary file */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, sf_setup, sf_teardown)
	    TEST(what_is_appended_reads_back_beside_what_was_there),
	    TEST(an_append_writes_little_more_than_it_stores),
	    TEST(many_appends_follow_each_other),
	    TEST(equal_tensors_share_what_is_stored_already),
	    TEST(equal_spans_share_what_is_stored_already),
	    TEST(what_is_asked_for_goes_before_sharing),
	    TEST(full_segments_are_referred_to_where_they_lie),
	    TEST(a_container_keeps_its_profile),
	    TEST(a_container_that_is_open_reads_as_before),
	    TEST(a_second_writer_is_refused),
	    TEST(names_that_are_taken_are_refused),
	    TEST(a_cancelled_append_leaves_nothing),
	    TEST(a_damaged_newest_generation_is_not_overwritten),
	    TEST(the_loss_of_a_slot_loses_no_generation),
	    TEST(a_removed_file_is_gone_and_the_rest_stays),
	    TEST(compacting_gives_what_packing_would),
	    TEST(compacting_keeps_what_is_shared),
	    TEST(compacting_keeps_equal_spans_together),
	    TEST(damage_stops_compacting),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
