/*
 * Power cuts while a container is appended to. A recorder writes down what the
 * packer writes and syncs; a cut replays the beginning of it onto the container as it
 * was: what was synced is there, of the rest some writes or 512-byte sectors are and
 * some are not. The container must open, without searching, at the old or the new
 * generation, and every file must read back.
 */
#include "source_files.h"
#include "vectors.h"

#include "modelfs_pack.h"
#include "packer.h"

#define SECTOR	   512
#define EVENTS_MAX 4096
#define FILES_MAX  64

static uint64_t random_state;

/* splitmix64 */
static uint64_t random64(void)
{
	uint64_t z = (random_state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static void seed_from_environment(void)
{
	const char *text = getenv("MFS_SEED");

	random_state = text ? strtoull(text, NULL, 10) : 1;
	print_message("MFS_SEED=%llu\n", (unsigned long long)random_state);
}

/* ---- the recorder ---- */

struct event {
	bool sync;
	uint64_t offset;
	size_t length;
	uint8_t *bytes;
};

struct record {
	struct event events[EVENTS_MAX];
	unsigned count, syncs;
	int left_out; /* a sync that this writer does not do; -1: none */
};

static ssize_t record_write(const mfs_output *output, const void *bytes, size_t length,
			    off_t offset)
{
	struct record *r = output->user;
	struct event *e = &r->events[r->count++];

	assert_true(r->count < EVENTS_MAX);
	*e = (struct event){.offset = (uint64_t)offset, .length = length};
	e->bytes = malloc(length);
	assert_non_null(e->bytes);
	memcpy(e->bytes, bytes, length);
	return pwrite(output->fd, bytes, length, offset);
}

static int record_sync(const mfs_output *output)
{
	struct record *r = output->user;

	if ((int)r->syncs++ != r->left_out)
		r->events[r->count++] = (struct event){.sync = true};
	return 0;
}

static const mfs_output_table recorder = {record_write, record_sync};

static void record_free(struct record *r)
{
	for (unsigned i = 0; i < r->count; i++)
		free(r->events[i].bytes);
	memset(r, 0, sizeof(*r));
}

/* ---- what the container should hold ---- */

struct state {
	char name[FILES_MAX][32];
	unsigned count;
	uint64_t generation;
};

static void state_add(struct state *s, const char *name)
{
	assert_true(s->count < FILES_MAX);
	strcpy(s->name[s->count++], name);
}

static void state_remove(struct state *s, unsigned i)
{
	memmove(s->name[i], s->name[i + 1], (--s->count - i) * sizeof(s->name[0]));
}

/* A source of its own bytes: half of it is noise, so that frames are stored as they
 * are and coded. */
static void make_source(const char *name, uint64_t seed)
{
	static uint8_t bytes[60000];

	memset(bytes, (int)seed, sizeof(bytes));
	sf_weights(bytes, sizeof(bytes) / 2, seed);
	sf_write(name, bytes, sizeof(bytes) - seed % 1000);
}

static bool file_reads_back(mfs_container *c, const char *name)
{
	int64_t file = mfs_file_find(c, name), got;
	size_t size;
	uint8_t *want = sf_read(sf_path(name), &size), *have = malloc(size + 1);
	bool same;

	assert_non_null(have);
	got = file < 0 ? file : mfs_read(c, (uint32_t)file, 0, have, size + 1);
	same = got == (int64_t)size && !memcmp(have, want, size);
	free(want);
	free(have);
	return same;
}

static bool holds(mfs_container *c, const struct state *s)
{
	if (mfs_file_count(c) != s->count)
		return false;
	for (unsigned i = 0; i < s->count; i++)
		if (!file_reads_back(c, s->name[i]))
			return false;
	return true;
}

/* Both slots lead to the newest generation. */
static bool slots_are_new(const vector *v, uint64_t generation, bool nor)
{
	const uint64_t slots[] = {0, nor ? MFS_SB_SLOT1_NOR : MFS_SB_SLOT1};

	for (int i = 0; i < 2; i++) {
		mfs_superblock sb;

		if (mfs_superblock_decode(&sb, v->bytes + slots[i], slots[i]) < 0 ||
		    sb.generation != generation)
			return false;
	}
	return true;
}

/* What is wrong with a container after a cut, or NULL; the generation that it opened
 * at in *now. */
static const char *judge(const vector *v, const struct state *before, const struct state *after,
			 bool reported, bool nor, const struct state **now)
{
	mfs_container *c;
	mfs_problem why;
	const char *wrong = NULL;

	if (vector_open(&c, v, &why) < 0)
		return "does not open";
	*now = c->sb.generation == after->generation ? after : before;
	if (c->sb_copy == 2)
		wrong = "no slot serves";
	else if (c->sb.generation != (*now)->generation)
		wrong = "opens at a generation that never was";
	else if (reported && *now != after)
		wrong = "success was reported, but the new generation is lost";
	else if (reported && !slots_are_new(v, after->generation, nor))
		wrong = "success was reported, but one slot is not on the medium";
	else if (!holds(c, *now))
		wrong = "a file does not read back";
	mfs_close(c);
	return wrong;
}

/* ---- cuts ---- */

#define LARGE_ROOT 50 /* files whose root is stored in columns */

enum { LOSE_ALL, LOSE_WRITES, LOSE_SECTORS, TEAR_LAST, MODES };

static void put(vector *v, uint64_t offset, const uint8_t *bytes, size_t length)
{
	memcpy(v->bytes + offset, bytes, length);
	if (offset + length > v->size)
		v->size = offset + length;
}

/* A write that was not synced: all of it, parts of it, or nothing. */
static void put_some(vector *v, const struct event *e, int mode, bool last)
{
	bool keep = mode == TEAR_LAST || (mode == LOSE_WRITES && random64() % 2);

	if (mode == LOSE_ALL)
		return;
	if (keep && !(mode == TEAR_LAST && last)) {
		put(v, e->offset, e->bytes, e->length);
		return;
	}
	if (mode == LOSE_WRITES)
		return;
	for (uint64_t at = e->offset; at < e->offset + e->length;) {
		uint64_t end = (at / SECTOR + 1) * SECTOR;

		if (end > e->offset + e->length)
			end = e->offset + e->length;
		if (random64() % 2)
			put(v, at, e->bytes + (at - e->offset), end - at);
		at = end;
	}
}

/* The medium after a cut behind `count` events. `old_bytes` is the size of the
 * generation before: whether what lay behind it had been cut off, and how long the
 * file is, is up to the file system. */
static vector cut(const vector *before, uint64_t old_bytes, const struct record *r, unsigned count)
{
	int mode = (int)(random64() % MODES);
	uint64_t length = before->size;
	unsigned synced = 0;
	vector v;

	for (unsigned i = 0; i < r->count; i++) {
		const struct event *e = &r->events[i];

		if (e->sync && i < count)
			synced = i;
		if (e->offset + e->length > length)
			length = e->offset + e->length;
	}
	v.bytes = calloc(1, length);
	assert_non_null(v.bytes);
	v.size = synced || random64() % 2 ? old_bytes : before->size;
	memcpy(v.bytes, before->bytes, v.size);
	for (unsigned i = 0; i < count; i++)
		if (r->events[i].sync)
			continue;
		else if (i < synced)
			put(&v, r->events[i].offset, r->events[i].bytes, r->events[i].length);
		else
			put_some(&v, &r->events[i], mode, i + 1 == count);
	/* The file was extended before the first sync. */
	if (synced || random64() % 2)
		v.size = length;
	return v;
}

/* ---- appending ---- */

/* Appends `name`, or removes it. */
static void change(const char *container, const char *name, bool removing, struct record *r)
{
	mfs_pack_options options = MFS_PACK_OPTIONS_INIT;
	mfs_problem why = {0};
	mfs_packer *packer = NULL;
	int err;

	options.threads = 1;
	options.no_verify = 1;
	err = mfs_packer_open(&packer, container, &options, &why);
	if (!err)
		err = removing ? mfs_packer_remove(packer, name, &why)
			       : mfs_packer_add(packer, sf_path(name), NULL, &why);
	if (!err) {
		mfs_packer_set_output(packer, &recorder, r);
		err = mfs_packer_write(packer, container, NULL, NULL, NULL, &why);
	}
	mfs_packer_free(packer);
	if (err)
		fail_msg("%s", why.text);
}

/* One file of some bytes, and so many empty ones. */
static vector first_container(struct state *s, mfs_profile_id profile, unsigned empty)
{
	mfs_pack_options options = MFS_PACK_OPTIONS_INIT;
	mfs_problem why = {0};
	mfs_packer *packer;
	vector v;

	options.profile = profile;
	options.force = 1;
	make_source("first", 1);
	*s = (struct state){.generation = 1};
	state_add(s, "first");
	assert_int_equal(mfs_packer_new(&packer, &options, &why), 0);
	assert_int_equal(mfs_packer_add(packer, sf_path("first"), NULL, &why), 0);
	for (unsigned i = 0; i < empty; i++) {
		char name[32];

		snprintf(name, sizeof(name), "empty-%u", i);
		sf_write(name, "", 0);
		state_add(s, name);
		assert_int_equal(mfs_packer_add(packer, sf_path(name), NULL, &why), 0);
	}
	if (mfs_packer_write(packer, sf_path("c.mfs"), NULL, NULL, NULL, &why))
		fail_msg("%s", why.text);
	mfs_packer_free(packer);
	v.bytes = sf_read(sf_path("c.mfs"), &v.size);
	return v;
}

static uint64_t generation_bytes(const vector *v)
{
	mfs_container *c;
	mfs_problem why;
	uint64_t bytes;

	if (vector_open(&c, v, &why) < 0)
		fail_msg("%s", why.text);
	bytes = c->sb.container_size;
	mfs_close(c);
	return bytes;
}

/* One change of the container in `v`, recorded; *after is what it should hold then. */
static void next_change(const vector *v, const struct state *before, struct state *after,
			struct record *r)
{
	static unsigned number;
	char name[32];

	sf_write("c.mfs", v->bytes, v->size);
	*after = *before;
	after->generation++;
	if (before->count > 3 && random64() % 3 == 0) {
		unsigned victim = (unsigned)(random64() % before->count);

		state_remove(after, victim);
		change(sf_path("c.mfs"), before->name[victim], true, r);
		return;
	}
	snprintf(name, sizeof(name), "file-%u", ++number % FILES_MAX);
	for (unsigned i = 0; i < before->count; i++)
		if (!strcmp(before->name[i], name))
			fail_msg("%s is there already", name);
	make_source(name, random64());
	state_add(after, name);
	change(sf_path("c.mfs"), name, false, r);
}

/* `changes` in a row, each cut `cuts` times; the next one begins with what one of the
 * cuts left. */
static void walk(mfs_profile_id profile, unsigned empty, unsigned changes, unsigned cuts)
{
	static struct record r;
	struct state before, after;
	vector v = first_container(&before, profile, empty);

	assert_int_equal(load_le32(&vector_superblock(&v)->feature_incompat),
			 empty ? MFS_INCOMPAT_COLUMNS : 0);
	for (unsigned i = 0; i < changes; i++) {
		uint64_t old_bytes = generation_bytes(&v);
		unsigned keep = (unsigned)(random64() % cuts);
		vector kept = {0};
		struct state state = before;

		r.left_out = -1;
		next_change(&v, &before, &after, &r);
		for (unsigned k = 0; k < cuts; k++) {
			unsigned count = k ? (unsigned)(random64() % (r.count + 1)) : r.count;
			vector w = cut(&v, old_bytes, &r, count);
			const struct state *now = &before;
			const char *wrong = judge(&w, &before, &after, count == r.count,
						  profile == MFS_PROFILE_NOR, &now);

			if (wrong)
				fail_msg("change %u, cut behind %u of %u events: %s", i, count,
					 r.count, wrong);
			if (k != keep) {
				vector_free(&w);
				continue;
			}
			kept = w;
			state = *now;
		}
		record_free(&r);
		vector_free(&v);
		v = kept;
		before = state;
	}
	vector_free(&v);
}

static void a_thousand_power_cuts_leave_the_old_or_the_new_generation(void **state)
{
	(void)state;
	seed_from_environment();
	walk(MFS_PROFILE_SD, 0, 7, 50);
	walk(MFS_PROFILE_SD, LARGE_ROOT, 7, 50);
	walk(MFS_PROFILE_NOR, 0, 8, 50);
}

/* True if some cut harms a container whose writer leaves out a sync. */
static bool some_cut_harms(int left_out)
{
	static struct record r;
	struct state before, after;
	vector v = first_container(&before, MFS_PROFILE_SD, 0);
	uint64_t old_bytes = generation_bytes(&v);
	bool harmed = false;

	r.left_out = left_out;
	next_change(&v, &before, &after, &r);
	for (unsigned k = 0; k < 2000 && !harmed; k++) {
		unsigned count = k ? (unsigned)(random64() % (r.count + 1)) : r.count;
		vector w = cut(&v, old_bytes, &r, count);
		const struct state *now = &before;
		const char *wrong = judge(&w, &before, &after, count == r.count, false, &now);

		harmed = wrong != NULL;
		if (wrong)
			print_message("without sync %d: %s\n", left_out, wrong);
		vector_free(&w);
	}
	record_free(&r);
	vector_free(&v);
	return harmed;
}

static void a_writer_that_leaves_out_a_sync_is_caught(void **state)
{
	(void)state;
	seed_from_environment();
	assert_false(some_cut_harms(-1));
	for (int i = 0; i < 3; i++)
		assert_true(some_cut_harms(i));
}

/* Three syncs, and nothing before the end of the old generation but the slots. */
static void nothing_but_the_slots_is_overwritten(void **state)
{
	static struct record r;
	struct state before, after;
	vector v = first_container(&before, MFS_PROFILE_SD, 0);
	unsigned slots = 0;

	(void)state;
	r.left_out = -1;
	next_change(&v, &before, &after, &r);
	assert_int_equal(r.syncs, 3);
	assert_true(r.events[r.count - 1].sync);
	for (unsigned i = 0; i < r.count; i++) {
		const struct event *e = &r.events[i];

		if (e->sync || e->offset >= v.size)
			continue;
		assert_true(e->offset == 0 || e->offset == MFS_SB_SLOT1);
		assert_int_equal(e->length, MFS_SB_SIZE);
		slots++;
	}
	assert_int_equal(slots, 2);
	record_free(&r);
	vector_free(&v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(nothing_but_the_slots_is_overwritten),
	    cmocka_unit_test(a_writer_that_leaves_out_a_sync_is_caught),
	    cmocka_unit_test(a_thousand_power_cuts_leave_the_old_or_the_new_generation),
	};

	return cmocka_run_group_tests(tests, sf_setup, sf_teardown);
}
