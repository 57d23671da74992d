/* The probe: what it reads, what it leaves behind, and that it gives up. */
#include "fixture.h"

#include <pthread.h>
#include <time.h>

#include "container.h"
#include "memory_io.h"
#include "reader.h"

#define KIB	  1024u
#define MIB	  (1024u * KIB)
#define FILE_SIZE (8 * MIB)

static struct {
	fixture f;
	uint8_t *noise;
} packed;

static int pack(void **state)
{
	mfs_pack_options options = MFS_PACK_OPTIONS_INIT;

	(void)state;
	packed.noise = malloc(FILE_SIZE);
	fixture_noise(packed.noise, FILE_SIZE, 1);
	fixture_begin(&packed.f, &options);
	fixture_add(&packed.f, "noise.bin", packed.noise, FILE_SIZE);
	fixture_end(&packed.f);
	return 0;
}

static int unpack(void **state)
{
	(void)state;
	free(packed.noise);
	fixture_free(&packed.f);
	return 0;
}

struct opened {
	mfs_container *c;
	memory_io *io;
	mfs_medium medium;
};

static struct opened open_memory(const mfs_open_options *options)
{
	struct opened o = {.io = memory_io_new(packed.f.container, packed.f.size),
			   .medium.size = sizeof(mfs_medium)};
	mfs_problem why = {0};

	if (mfs_open_io(&o.c, &o.io->head, "memory", options, &why))
		fail_msg("%s", why.text);
	return o;
}

static void start(struct opened *o)
{
	mfs_problem why = {0};

	assert_int_equal(mfs_start(o->c, &why), 0);
	assert_int_equal(mfs_medium_get(o->c, &o->medium), 0);
}

/* With time enough for any machine. */
static void probe(struct opened *o)
{
	int err;

	reader_probe(container_reader(o->c, &err), 60000);
	assert_int_equal(mfs_medium_get(o->c, &o->medium), 0);
}

static void assert_readable(struct opened *o)
{
	uint8_t *buffer = malloc(FILE_SIZE);

	assert_int_equal(mfs_read(o->c, 0, 0, buffer, FILE_SIZE), FILE_SIZE);
	assert_memory_equal(buffer, packed.noise, FILE_SIZE);
	free(buffer);
}

static unsigned small_reads(const memory_io *io)
{
	unsigned count = 0;

	while (count < io->records && io->record[count].length == 4096)
		count++;
	return count;
}

static unsigned large_reads(const memory_io *io)
{
	unsigned count = 0;

	for (unsigned i = 0; i < io->records; i++)
		count += io->record[i].length >= 512 * KIB;
	return count;
}

static void a_probe_reads_little_and_large_ones_where_a_reader_begins(void **state)
{
	struct opened o = open_memory(NULL);
	unsigned small;

	(void)state;
	probe(&o);
	assert_true(o.medium.latency_us > 0);
	assert_in_range(o.medium.channels, 1, 4);
	assert_true(o.medium.bytes_per_second > 0);
	small = small_reads(o.io);
	assert_in_range(small, 2 + 2 * 4, 6 + 6 * 4);
	assert_in_range(large_reads(o.io), 2, 16); /* of a file of 8 MiB */
	assert_int_equal(large_reads(o.io), o.io->records - small);
	for (unsigned i = small + 1; i < o.io->records; i++)
		assert_int_equal(o.io->record[i].offset, o.io->record[i - 1].offset + 512 * KIB);
	assert_in_range(o.io->most_in_flight, 1, 4);
	mfs_close(o.c);
}

static void what_a_probe_has_read_is_not_read_again(void **state)
{
	struct opened o = open_memory(NULL);
	mfs_stats stats = {.size = sizeof(stats)};
	uint64_t first, behind;
	unsigned probed;

	(void)state;
	probe(&o);
	first = o.io->record[small_reads(o.io)].offset;
	behind = first + large_reads(o.io) * 512 * KIB;
	probed = o.io->records;
	assert_readable(&o);
	for (unsigned i = probed; i < o.io->records; i++)
		assert_true(o.io->record[i].offset + o.io->record[i].length <= first ||
			    o.io->record[i].offset >= behind);
	assert_int_equal(mfs_stats_get(o.c, &stats), 0);
	assert_int_equal(stats.prefetch_wasted_bytes, 0);
	mfs_close(o.c);
}

static void a_stalled_medium_is_given_up_and_served_when_it_comes_back(void **state)
{
	struct opened o = open_memory(NULL);

	(void)state;
	memory_hold(o.io, true);
	start(&o); /* ends */
	assert_string_equal(o.medium.source, "profile");
	assert_string_equal(o.medium.queue, "sd");
	assert_int_equal(o.medium.latency_us, 0);
	assert_int_equal(o.medium.depth, 2);
	memory_hold(o.io, false);
	assert_readable(&o);
	mfs_close(o.c);
}

static void a_container_on_a_stalled_medium_can_be_closed(void **state)
{
	struct opened o = open_memory(NULL);

	(void)state;
	memory_hold(o.io, true);
	start(&o);
	memory_hold(o.io, false);
	mfs_close(o.c);
}

static void a_medium_that_fails_keeps_the_profile(void **state)
{
	struct opened o = open_memory(NULL);

	(void)state;
	o.io->fail_at = 1;
	o.io->fail_count = 3;
	probe(&o);
	assert_string_equal(o.medium.source, "profile");
	assert_int_equal(o.medium.latency_us, 0);
	assert_int_equal(o.io->records, 1); /* one failure is enough */
	o.io->fail_count = 0;
	assert_readable(&o);
	mfs_close(o.c);
}

static void a_profile_that_was_asked_for_is_not_questioned(void **state)
{
	mfs_open_options options = MFS_OPEN_OPTIONS_INIT;
	struct opened o;

	(void)state;
	options.profile = MFS_PROFILE_NAND;
	o = open_memory(&options);
	start(&o);
	assert_string_equal(o.medium.source, "option");
	assert_string_equal(o.medium.queue, "nand");
	assert_int_equal(o.medium.request_bytes, 128 * KIB);
	assert_int_equal(o.medium.depth, 1);
	assert_int_equal(o.io->records, 0);
	mfs_close(o.c);
}

static void a_container_that_is_being_read_is_not_probed(void **state)
{
	struct opened o = open_memory(NULL);
	uint8_t byte;

	(void)state;
	assert_int_equal(mfs_medium_get(o.c, &o.medium), 0);
	assert_string_equal(o.medium.source, "profile");
	assert_int_equal(mfs_read(o.c, 0, 0, &byte, 1), 1);
	assert_int_equal(byte, packed.noise[0]);
	assert_int_equal(mfs_medium_get(o.c, &o.medium), 0);
	assert_int_equal(o.medium.latency_us, 0);
	mfs_close(o.c);
}

static void an_older_caller_gets_the_part_of_the_medium_that_it_knows(void **state)
{
	struct opened o = open_memory(NULL);

	(void)state;
	memset(&o.medium, 0x55, sizeof(o.medium));
	o.medium.size = offsetof(mfs_medium, name);
	assert_int_equal(mfs_medium_get(o.c, &o.medium), 0);
	assert_int_equal(o.medium.size, offsetof(mfs_medium, name));
	assert_string_equal(o.medium.kind, "unknown");
	assert_int_equal(o.medium.name[0], 0x55);
	o.medium.size = 0;
	assert_int_equal(mfs_medium_get(o.c, &o.medium), MFS_E_ARGUMENT);
	mfs_close(o.c);
}

/* ---- what was touched ---- */

static void read_at(struct opened *o, uint64_t offset, size_t length)
{
	uint8_t *buffer = malloc(length);

	assert_true(mfs_read(o->c, 0, offset, buffer, length) >= 0);
	free(buffer);
}

/* A read is counted just after it was handed out. */
static void assert_touched(struct opened *o, uint64_t bytes)
{
	struct timespec ms = {0, 1000000};

	for (int i = 0; i < 5000 && mfs_touched_bytes(o->c, 0) != bytes; i++)
		nanosleep(&ms, NULL);
	assert_int_equal(mfs_touched_bytes(o->c, 0), bytes);
}

static void touched_bytes_are_counted_once(void **state)
{
	struct opened o = open_memory(NULL);

	(void)state;
	assert_touched(&o, 0);
	read_at(&o, 5, 1);
	assert_touched(&o, 64 * KIB);
	read_at(&o, 0, 64 * KIB);
	assert_touched(&o, 64 * KIB);
	read_at(&o, 64 * KIB - 1, 2);
	assert_touched(&o, 128 * KIB);
	read_at(&o, FILE_SIZE - 1, 100);
	assert_touched(&o, 192 * KIB);
	read_at(&o, FILE_SIZE, 1);
	assert_touched(&o, 192 * KIB);
	read_at(&o, 0, FILE_SIZE);
	assert_touched(&o, FILE_SIZE);
	assert_int_equal(mfs_touched_bytes(o.c, 1), 0);
	mfs_close(o.c);
}

static void a_failed_read_touches_nothing(void **state)
{
	struct opened o = open_memory(NULL);
	uint8_t byte;

	(void)state;
	read_at(&o, 0, 1);
	o.io->bad_from = packed.f.size / 2;
	o.io->bad_to = packed.f.size;
	assert_true(mfs_read(o.c, 0, FILE_SIZE - MIB, &byte, 1) < 0);
	assert_touched(&o, 64 * KIB);
	mfs_close(o.c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_probe_reads_little_and_large_ones_where_a_reader_begins),
	    cmocka_unit_test(what_a_probe_has_read_is_not_read_again),
	    cmocka_unit_test(a_stalled_medium_is_given_up_and_served_when_it_comes_back),
	    cmocka_unit_test(a_container_on_a_stalled_medium_can_be_closed),
	    cmocka_unit_test(a_medium_that_fails_keeps_the_profile),
	    cmocka_unit_test(a_profile_that_was_asked_for_is_not_questioned),
	    cmocka_unit_test(a_container_that_is_being_read_is_not_probed),
	    cmocka_unit_test(an_older_caller_gets_the_part_of_the_medium_that_it_knows),
	    cmocka_unit_test(touched_bytes_are_counted_once),
	    cmocka_unit_test(a_failed_read_touches_nothing),
	};

	return cmocka_run_group_tests(tests, pack, unpack);
}
