/* The reader over an engine in memory: exact requests, single decoding, faults. */
#include "fixture.h"

#include <pthread.h>
#include <sys/uio.h>
#include <time.h>

#include "check.h"
#include "container.h"
#include "memory_io.h"
#include "quiet.h"
#include "reader.h"

#define KIB	  1024u
#define MIB	  (1024u * KIB)
#define FILE_SIZE (12 * MIB)
#define FRAME	  (128 * KIB)

/* One opaque file that nothing is gained on (its frames lie raw, 128 KiB each)
 * and one with weights and constants. */
static struct {
	fixture f;
	uint8_t *noise;
	uint8_t *gguf;
	size_t gguf_size;
} packed;

static int pack(void **state)
{
	mfs_pack_options options = MFS_PACK_OPTIONS_INIT;

	(void)state;
	packed.noise = malloc(FILE_SIZE);
	fixture_noise(packed.noise, FILE_SIZE, 1);
	packed.gguf_size = fixture_q8_0(&packed.gguf, 2000, 2);
	fixture_begin(&packed.f, &options);
	fixture_add(&packed.f, "noise.bin", packed.noise, FILE_SIZE);
	fixture_add(&packed.f, "weights.gguf", packed.gguf, packed.gguf_size);
	fixture_end(&packed.f);
	return 0;
}

static int unpack(void **state)
{
	(void)state;
	free(packed.noise);
	free(packed.gguf);
	fixture_free(&packed.f);
	return 0;
}

/* An open container over memory; the index is loaded, the record empty. */
struct opened {
	mfs_container *c;
	memory_io *io;
	uint32_t noise, gguf;
	uint64_t first; /* offset of the first chunk of noise.bin */
};

static void forget_requests(memory_io *io)
{
	pthread_mutex_lock(&io->lock);
	io->records = io->first = io->last = 0;
	pthread_mutex_unlock(&io->lock);
}

static struct opened open_memory(const uint8_t *bytes, const mfs_open_options *options)
{
	struct opened o = {.io = memory_io_new(bytes, packed.f.size)};
	mfs_chunk_info chunk = {.size = sizeof(chunk)};
	mfs_file_info file = {.size = sizeof(file)};
	mfs_problem why = {0};

	if (mfs_open_io(&o.c, &o.io->head, "memory", options, &why))
		fail_msg("%s", why.text);
	o.noise = (uint32_t)mfs_file_find(o.c, "noise.bin");
	o.gguf = (uint32_t)mfs_file_find(o.c, "weights.gguf");
	for (uint32_t i = 0; i < 2; i++)
		assert_int_equal(mfs_file_get(o.c, i, &file), 0);
	for (uint32_t i = 0;; i++) {
		assert_int_equal(mfs_chunk_get(o.c, i, &chunk), 0);
		if (chunk.stored_bytes > 3 * MIB && !strcmp(chunk.cls, "metadata"))
			break;
	}
	o.first = chunk.offset;
	forget_requests(o.io);
	return o;
}

static void read_noise(struct opened *o, uint64_t offset, size_t length)
{
	uint8_t *buffer = malloc(length);

	assert_int_equal(mfs_read(o->c, o->noise, offset, buffer, length), length);
	assert_memory_equal(buffer, packed.noise + offset, length);
	free(buffer);
}

static void note_done(void *user, int64_t result, const struct iovec *pieces, int count)
{
	(void)pieces;
	(void)count;
	*(int64_t *)user = result;
}

static void assert_request(const struct opened *o, unsigned i, uint64_t offset, uint32_t length)
{
	if (i >= o->io->records)
		fail_msg("request %u was not made", i);
	assert_int_equal(o->io->record[i].offset - o->first, offset);
	assert_int_equal(o->io->record[i].length, length);
}

static void sequential_reads_fetch_whole_requests_ahead(void **state)
{
	struct opened o = open_memory(packed.f.container, NULL);
	uint64_t at = 0;

	(void)state;
	for (uint64_t offset = 0; offset < FILE_SIZE; offset += FRAME) {
		read_noise(&o, offset, FRAME);
		wait_until_quiet(o.c, o.io);
		if (offset == 0) {
			/* what was asked for, then a whole request ahead of it */
			assert_int_equal(o.io->records, 2);
			assert_request(&o, 0, 0, FRAME);
			assert_request(&o, 1, FRAME, MIB);
		}
		if (offset == FRAME)
			assert_int_equal(o.io->records, 2); /* 512 KiB ahead is there */
		if (offset == 2 * FRAME) {
			assert_int_equal(o.io->records, 3); /* 1 MiB ahead is not */
			assert_request(&o, 2, FRAME + MIB, MIB);
		}
	}
	/* Every byte once, in the order of the medium, cut at the ends of chunks. */
	for (unsigned i = 0; i < o.io->records; i++) {
		assert_request(&o, i, at, o.io->record[i].length);
		assert_true(o.io->record[i].length == MIB || i == 0 ||
			    (at + o.io->record[i].length) % (4 * MIB) == 0);
		at += o.io->record[i].length;
	}
	assert_int_equal(at, FILE_SIZE);
	/* Prefetch keeps to the depth of profile sd; one more was asked for. */
	assert_in_range(o.io->most_in_flight, 2, 3);
	mfs_close(o.c);
}

static void depth_of_the_profile_bounds_what_is_in_flight(void **state)
{
	mfs_open_options options = MFS_OPEN_OPTIONS_INIT;
	struct opened o;

	(void)state;
	options.profile = MFS_PROFILE_SATA; /* 512 KiB at depth 8 */
	o = open_memory(packed.f.container, &options);
	for (uint64_t offset = 0; offset < 4 * MIB; offset += FRAME)
		read_noise(&o, offset, FRAME);
	wait_until_quiet(o.c, o.io);
	/* Now that the window is wide open, let nothing complete. */
	memory_hold(o.io, true);
	o.io->most_in_flight = 0;
	mfs_prefetch(o.c, o.gguf, 0, packed.gguf_size);
	mfs_prefetch(o.c, o.noise, 0, FILE_SIZE);
	for (int i = 0; i < 50; i++) {
		struct timespec ms = {0, 1000000};

		nanosleep(&ms, NULL);
	}
	assert_in_range(o.io->in_flight, 1, 8);
	for (unsigned i = 0; i < o.io->records; i++)
		assert_true(o.io->record[i].length <= 512 * KIB);
	memory_hold(o.io, false);
	mfs_close(o.c);
}

static void two_streams_are_both_kept_ahead(void **state)
{
	struct opened o = open_memory(packed.f.container, NULL);
	uint64_t second = 8 * MIB;

	(void)state;
	for (uint64_t step = 0; step < 2 * MIB; step += FRAME) {
		read_noise(&o, step, FRAME);
		wait_until_quiet(o.c, o.io);
		read_noise(&o, second + step, FRAME);
		wait_until_quiet(o.c, o.io);
	}
	assert_request(&o, 0, 0, FRAME);
	assert_request(&o, 1, FRAME, MIB);
	assert_request(&o, 2, second, FRAME);
	assert_request(&o, 3, second + FRAME, MIB);
	assert_request(&o, 4, FRAME + MIB, MIB);
	assert_request(&o, 5, second + FRAME + MIB, MIB);
	mfs_close(o.c);
}

static void a_broken_pattern_stops_the_prefetch(void **state)
{
	struct opened o = open_memory(packed.f.container, NULL);
	unsigned before;

	(void)state;
	for (uint64_t offset = 0; offset < MIB; offset += FRAME)
		read_noise(&o, offset, FRAME);
	wait_until_quiet(o.c, o.io);
	before = o.io->records;
	/* Elsewhere, 4 KiB at a time: just the frames that are touched. */
	for (int i = 0; i < 8; i++) {
		read_noise(&o, 12 * MIB - (uint64_t)(i + 1) * 200 * KIB, 4 * KIB);
		wait_until_quiet(o.c, o.io);
	}
	for (unsigned i = before; i < o.io->records; i++)
		assert_true(o.io->record[i].length <= FRAME);
	assert_int_equal(o.io->records - before, 8);
	mfs_close(o.c);
}

static void scattered_reads_fetch_only_their_frames(void **state)
{
	static const unsigned frames[] = {90, 3, 41, 66, 17, 80, 29, 55};
	struct opened o = open_memory(packed.f.container, NULL);

	(void)state;
	for (unsigned i = 0; i < 8; i++) {
		read_noise(&o, (uint64_t)frames[i] * FRAME + 512, 4 * KIB);
		wait_until_quiet(o.c, o.io);
		assert_int_equal(o.io->records, i + 1);
		assert_request(&o, i, (uint64_t)frames[i] * FRAME, FRAME);
	}
	mfs_close(o.c);
}

static void both_classes_of_a_span_are_submitted_together(void **state)
{
	struct opened o = open_memory(packed.f.container, NULL);
	uint8_t buffer[16];

	(void)state;
	/* The tensor's tables are loaded once, with its first span. */
	assert_int_equal(mfs_read(o.c, o.gguf, 4096, buffer, 16), 16);
	wait_until_quiet(o.c, o.io);
	forget_requests(o.io);
	assert_int_equal(mfs_read(o.c, o.gguf, packed.gguf_size - MIB, buffer, 16), 16);
	assert_memory_equal(buffer, packed.gguf + packed.gguf_size - MIB, 16);
	assert_int_equal(o.io->records, 2);
	assert_int_equal(o.io->record[1].in_flight, 2);
	/* constants first: they lie before the weights */
	assert_true(o.io->record[0].offset < o.io->record[1].offset);
	mfs_close(o.c);
}

/* Pages of 4 KiB around the frames, not of the 16 KiB that profile sd has. */
static void scattered_reads_leave_out_what_is_not_theirs_of_edge_pages(void **state)
{
	struct opened o = open_memory(packed.f.container, NULL);
	mfs_frame_place frame[2];
	mfs_root_tensor t = {0};
	mfs_span place;
	uint32_t tensor;
	uint8_t byte;

	(void)state;
	for (tensor = 0; !t.name_length; tensor++)
		mfs_root_get_tensor(&o.c->root, tensor, &t);
	tensor--;
	for (uint64_t at = 4 * FRAME; at < t.size; at += 3 * FRAME) {
		assert_int_equal(mfs_read(o.c, o.gguf, t.file_offset + at, &byte, 1), 1);
		wait_until_quiet(o.c, o.io);
		mfs_tensor_span_at(&t, o.c->layouts[t.layout].block_bytes, at, &place);
		for (unsigned s = 0; s < 2; s++)
			assert_true(span_frame_place(o.c->reader, tensor, &place, s, &frame[s]));
		assert_true(o.io->records >= 2);
		for (unsigned s = 0; s < 2; s++) {
			uint64_t from = round_down(frame[1 - s].offset, 4096);
			uint64_t to = round_up(frame[1 - s].offset + frame[1 - s].size, 4096);

			/* Tables come along with the first of them. */
			assert_int_equal(o.io->record[s].offset, from);
			assert_int_equal(o.io->record[s].length, to - from);
		}
		forget_requests(o.io);
	}
	mfs_close(o.c);
}

/* Where the tables of the weights lie. */
static mfs_root_tables weights_tables(const struct opened *o)
{
	mfs_root_tensor t = {0};
	mfs_root_tables tables;

	for (uint32_t i = 0; !t.name_length || t.slot[0].tables == MFS_NO_TABLES; i++) {
		assert_true(i < o->c->root.count[MFS_SEC_TENSORS]);
		mfs_root_get_tensor(&o->c->root, i, &t);
	}
	mfs_root_get_tables(&o->c->root, t.slot[0].tables, &tables);
	return tables;
}

static void tables_come_with_the_frames_of_a_stream(void **state)
{
	struct opened o = open_memory(packed.f.container, NULL);
	uint64_t tables = weights_tables(&o).offset;
	uint8_t *buffer = malloc(FRAME);
	unsigned found = 0;

	(void)state;
	memory_hold(o.io, true);
	mfs_prefetch(o.c, o.gguf, 0, packed.gguf_size);
	memory_hold(o.io, false);
	wait_until_quiet(o.c, o.io);
	for (unsigned i = 0; i < o.io->records; i++) {
		if (tables - o.io->record[i].offset >= o.io->record[i].length)
			continue;
		assert_true(o.io->record[i].length > 16 * KIB);
		found++;
	}
	assert_int_equal(found, 1);
	assert_int_equal(mfs_read(o.c, o.gguf, FRAME, buffer, FRAME), FRAME);
	assert_memory_equal(buffer, packed.gguf + FRAME, FRAME);
	free(buffer);
	mfs_close(o.c);
}

/* Three reads at a time: what is asked for before the medium has answered. */
static void reads_in_a_stream_make_long_requests(void **state)
{
	struct opened o = open_memory(packed.f.container, NULL);
	int64_t got[3] = {0};

	(void)state;
	read_noise(&o, 0, FRAME);
	read_noise(&o, FRAME, FRAME);
	wait_until_quiet(o.c, o.io);
	forget_requests(o.io);
	memory_hold(o.io, true);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(mfs_read_async(o.c, o.noise, (2 + 8 * (uint64_t)i) * FRAME, MIB,
						note_done, &got[i]),
				 0);
	memory_hold(o.io, false);
	wait_until_quiet(o.c, o.io);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(got[i], MIB);
	for (unsigned i = 0; i < o.io->records; i++)
		assert_true(
		    o.io->record[i].length == MIB ||
		    (o.io->record[i].offset + o.io->record[i].length - o.first) % (4 * MIB) == 0);
	mfs_close(o.c);
}

static void prefetch_can_be_switched_off(void **state)
{
	mfs_open_options options = MFS_OPEN_OPTIONS_INIT;
	struct opened o;

	(void)state;
	options.no_prefetch = 1;
	o = open_memory(packed.f.container, &options);
	for (uint64_t offset = 0; offset < MIB; offset += FRAME)
		read_noise(&o, offset, FRAME);
	wait_until_quiet(o.c, o.io);
	assert_int_equal(o.io->records, MIB / FRAME);
	mfs_close(o.c);
}

/* ---- one decode, however many readers ---- */

struct many {
	struct opened *o;
	int wrong;
};

static void *read_same(void *argument)
{
	struct many *many = argument;
	uint8_t buffer[4 * KIB];

	if (mfs_read(many->o->c, many->o->gguf, 600 * KIB, buffer, sizeof(buffer)) !=
		sizeof(buffer) ||
	    memcmp(buffer, packed.gguf + 600 * KIB, sizeof(buffer)))
		many->wrong = 1;
	return NULL;
}

static void many_readers_of_a_span_decode_it_once(void **state)
{
	struct opened o = open_memory(packed.f.container, NULL);
	mfs_stats stats = {.size = sizeof(stats)};
	struct many many = {&o, 0};
	pthread_t threads[8];

	(void)state;
	memory_hold(o.io, true);
	for (int i = 0; i < 8; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, read_same, &many), 0);
	while (stats.reads < 8)
		assert_int_equal(mfs_stats_get(o.c, &stats), 0);
	memory_hold(o.io, false);
	for (int i = 0; i < 8; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(many.wrong, 0);
	assert_int_equal(mfs_stats_get(o.c, &stats), 0);
	assert_int_equal(stats.decoded_spans, 1);
	assert_int_equal(stats.span_misses, 1);
	assert_int_equal(stats.span_hits, 7);
	mfs_close(o.c);
}

/* ---- cached reads do not wait for the medium ---- */

static void cached_bytes_are_served_while_the_medium_stalls(void **state)
{
	struct opened o = open_memory(packed.f.container, NULL);
	int64_t stalled = 0, cached = 0;

	(void)state;
	read_noise(&o, 0, FRAME);
	wait_until_quiet(o.c, o.io);
	memory_hold(o.io, true);
	assert_int_equal(mfs_read_async(o.c, o.noise, 9 * MIB, 4096, note_done, &stalled), 0);
	assert_int_equal(mfs_read_async(o.c, o.noise, 4096, 4096, note_done, &cached), 0);
	assert_int_equal(cached, 4096); /* in the caller's own thread, at once */
	assert_int_equal(stalled, 0);
	memory_hold(o.io, false);
	mfs_close(o.c); /* waits for it */
	assert_int_equal(stalled, 4096);
}

/* ---- faults ---- */

static void a_failed_request_is_tried_once_more(void **state)
{
	struct opened o = open_memory(packed.f.container, NULL);

	(void)state;
	o.io->fail_at = 1;
	o.io->fail_count = 1;
	read_noise(&o, 5 * MIB, 4096);
	mfs_close(o.c);
}

static void a_lasting_fault_is_an_error_that_names_its_place(void **state)
{
	struct opened o = open_memory(packed.f.container, NULL);
	mfs_problem why;
	uint8_t buffer[4096];

	(void)state;
	o.io->bad_from = o.first + 2 * FRAME + 70 * KIB;
	o.io->bad_to = o.io->bad_from + 1;
	assert_int_equal(mfs_read(o.c, o.noise, 2 * FRAME, buffer, sizeof(buffer)), MFS_E_IO);
	mfs_last_problem(o.c, &why);
	assert_non_null(strstr(why.text, "noise.bin"));
	assert_int_equal(why.offset, o.first + 2 * FRAME);
	mfs_close(o.c);
}

static void a_bad_page_spoils_only_its_frame(void **state)
{
	struct opened o = open_memory(packed.f.container, NULL);
	uint8_t *buffer = malloc(FRAME);

	(void)state;
	/* In the middle of what will be one prefetched request. */
	o.io->bad_from = o.first + 5 * FRAME + 1;
	o.io->bad_to = o.io->bad_from + 1;
	for (unsigned i = 0; i < FILE_SIZE / FRAME; i++) {
		int64_t got = mfs_read(o.c, o.noise, (uint64_t)i * FRAME, buffer, FRAME);

		if (i == 5) {
			assert_int_equal(got, MFS_E_IO);
			continue;
		}
		assert_int_equal(got, FRAME);
		assert_memory_equal(buffer, packed.noise + (uint64_t)i * FRAME, FRAME);
	}
	free(buffer);
	mfs_close(o.c);
}

static void every_single_failure_leaves_right_bytes_or_an_error(void **state)
{
	uint8_t *buffer = malloc(packed.gguf_size);
	unsigned requests, fine = 0;

	(void)state;
	for (unsigned lasting = 0; lasting < 2; lasting++) {
		requests = 2;
		for (unsigned n = 1; n <= requests; n++) {
			struct opened o = open_memory(packed.f.container, NULL);
			int64_t got;

			if (lasting) {
				o.io->fail_at = n;
				o.io->fail_count = 1000000;
			} else {
				o.io->short_at = n;
			}
			got = mfs_read(o.c, o.gguf, 0, buffer, packed.gguf_size);
			if (got >= 0) {
				assert_int_equal(got, packed.gguf_size);
				assert_memory_equal(buffer, packed.gguf, packed.gguf_size);
				fine++;
			} else {
				assert_int_equal(got, MFS_E_IO);
			}
			wait_until_quiet(o.c, o.io); /* what was read ahead counts as well */
			requests = o.io->records;
			mfs_close(o.c);
		}
	}
	assert_true(fine > 0);
	free(buffer);
}

static void a_flipped_bit_is_never_served(void **state)
{
	uint8_t *copy = malloc(packed.f.size), *buffer = malloc(FRAME);
	struct opened o = open_memory(packed.f.container, NULL);
	uint64_t first = o.first;

	(void)state;
	mfs_close(o.c);
	memcpy(copy, packed.f.container, packed.f.size);
	copy[first + 7 * FRAME + 1234] ^= 0x10;
	o = open_memory(copy, NULL);
	assert_int_equal(mfs_read(o.c, o.noise, 7 * FRAME, buffer, FRAME), MFS_E_CORRUPT);
	assert_int_equal(mfs_read(o.c, o.noise, 8 * FRAME, buffer, FRAME), FRAME);
	assert_memory_equal(buffer, packed.noise + 8 * FRAME, FRAME);
	mfs_close(o.c);
	free(copy);
	free(buffer);
}

struct named {
	uint64_t at; /* where the last damage was */
	unsigned count;
};

static int note_damage(void *user, const mfs_problem *why)
{
	struct named *named = user;

	assert_non_null(strstr(why->text, "noise.bin"));
	assert_true(why->offset > named->at);
	named->at = why->offset;
	named->count++;
	return 0;
}

/* Also while others fail that are being fetched ahead. */
static void a_check_names_each_damaged_frame_once(void **state)
{
	uint8_t *copy = malloc(packed.f.size);
	struct opened o = open_memory(packed.f.container, NULL);
	struct named named = {0};
	uint64_t first = o.first;

	(void)state;
	mfs_close(o.c);
	memcpy(copy, packed.f.container, packed.f.size);
	for (uint64_t at = 0; at < FILE_SIZE; at += FRAME)
		copy[first + at + 99] ^= 1;
	o = open_memory(copy, NULL);
	assert_int_equal(mfs_check(o.c, note_damage, NULL, &named), FILE_SIZE / FRAME);
	assert_int_equal(named.count, FILE_SIZE / FRAME);
	mfs_close(o.c);
	free(copy);
}

static void damaged_tables_fail_the_spans_that_need_them(void **state)
{
	uint8_t *copy = malloc(packed.f.size), buffer[4096];
	struct opened o = open_memory(packed.f.container, NULL);
	uint64_t at = weights_tables(&o).offset;
	mfs_problem why;

	(void)state;
	mfs_close(o.c);
	memcpy(copy, packed.f.container, packed.f.size);
	copy[at + 9] ^= 1;
	o = open_memory(copy, NULL);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(mfs_read(o.c, o.gguf, MIB, buffer, sizeof(buffer)), MFS_E_CORRUPT);
		mfs_last_problem(o.c, &why);
		assert_non_null(strstr(why.text, "weights.gguf: tensor "));
		assert_non_null(strstr(why.text, "tables"));
		assert_int_equal(why.offset, at);
	}
	read_noise(&o, 0, FRAME);
	mfs_close(o.c);
	free(copy);
}

/* A model of many times the memory, whose first reads fail once each: what waits
 * for tables must not keep the memory that these need. */
static void failing_tables_get_memory_all_the_same(void **state)
{
	mfs_open_options options = MFS_OPEN_OPTIONS_INIT;
	uint8_t *model, *buffer = malloc(MIB);
	size_t size = fixture_q8_0(&model, 20000, 5);
	mfs_pack_options how = MFS_PACK_OPTIONS_INIT;
	mfs_problem why = {0};
	fixture f;

	(void)state;
	fixture_begin(&f, &how);
	fixture_add(&f, "model.gguf", model, size);
	fixture_end(&f);
	options.arena_bytes = 1; /* the least that works */
	for (unsigned n = 1; n <= 12; n++) {
		memory_io *io = memory_io_new(f.container, f.size);
		mfs_container *c;

		io->fail_at = n;
		io->fail_count = 1;
		assert_int_equal(mfs_open_io(&c, &io->head, "memory", &options, &why), 0);
		for (uint64_t at = 0; at < size; at += MIB) {
			size_t length = size - at < MIB ? size - at : MIB;

			assert_int_equal(mfs_read(c, 0, at, buffer, MIB), length);
			assert_memory_equal(buffer, model + at, length);
		}
		mfs_close(c);
	}
	fixture_free(&f);
	free(buffer);
	free(model);
}

/* An engine that has been started cannot be started again: who tries once more hears
 * the same, and a check says it once instead of finding every file damaged. */
static void what_could_not_start_reading_never_does(void **state)
{
	memory_io *io = memory_io_new(packed.f.container, packed.f.size);
	struct named named = {0};
	mfs_problem why = {0};
	mfs_container *c;
	uint8_t byte;

	(void)state;
	assert_int_equal(mfs_open_io(&c, &io->head, "memory", NULL, &why), 0);
	io->start_error = MFS_E_MEMORY;
	assert_int_equal(mfs_read(c, 0, 0, &byte, 1), MFS_E_MEMORY);
	mfs_last_problem(c, &why);
	assert_string_equal(why.text, "memory: cannot start reading: out of memory");
	assert_int_equal(mfs_start(c, NULL), MFS_E_MEMORY);
	assert_int_equal(mfs_check(c, note_damage, NULL, &named), MFS_E_MEMORY);
	assert_int_equal(named.count, 0);
	assert_int_equal(io->starts, 1);
	mfs_close(c);
}

/* ---- edges ---- */

static void read_past_end_returns_zero(void **state)
{
	struct opened o = open_memory(packed.f.container, NULL);
	uint8_t buffer[8];

	(void)state;
	assert_int_equal(mfs_read(o.c, o.noise, FILE_SIZE, buffer, 8), 0);
	assert_int_equal(mfs_read(o.c, o.noise, UINT64_MAX, buffer, 8), 0);
	assert_int_equal(mfs_read(o.c, o.noise, FILE_SIZE - 3, buffer, 8), 3);
	assert_memory_equal(buffer, packed.noise + FILE_SIZE - 3, 3);
	assert_int_equal(mfs_read(o.c, 99, 0, buffer, 8), MFS_E_ARGUMENT);
	mfs_close(o.c);
}

static void random_reads_of_any_size_are_right(void **state)
{
	mfs_open_options options = MFS_OPEN_OPTIONS_INIT;
	uint8_t *buffer = malloc(packed.gguf_size);
	struct opened o;
	uint64_t seed = 42;

	(void)state;
	options.arena_bytes = 1; /* the least that works */
	o = open_memory(packed.f.container, &options);
	for (int i = 0; i < 300; i++) {
		uint64_t r[3];
		size_t length, offset;

		fixture_noise((uint8_t *)r, sizeof(r), seed += 77);
		length = r[0] % (i % 10 ? 200 * KIB : packed.gguf_size);
		offset = r[1] % (packed.gguf_size - length);
		assert_int_equal(mfs_read(o.c, o.gguf, offset, buffer, length), length);
		assert_memory_equal(buffer, packed.gguf + offset, length);
	}
	free(buffer);
	mfs_close(o.c);
}

/* A model whose tensors are stored as they are, and the container it is in. */
struct plain {
	uint8_t *model;
	size_t size;
	fixture f;
};

static struct plain pack_plain(void)
{
	mfs_pack_options how = MFS_PACK_OPTIONS_INIT;
	struct plain p;

	p.size = fixture_q8_0(&p.model, 20000, 5);
	how.codec = "plain";
	fixture_begin(&p.f, &how);
	fixture_add(&p.f, "plain.gguf", p.model, p.size);
	fixture_end(&p.f);
	return p;
}

static void free_plain(struct plain *p)
{
	fixture_free(&p->f);
	free(p->model);
}

static void read_all_plain(const struct plain *p, const mfs_open_options *options)
{
	uint8_t *buffer = malloc(MIB);
	mfs_problem why = {0};
	mfs_container *c;

	assert_int_equal(mfs_open_io(&c, &memory_io_new(p->f.container, p->f.size)->head, "memory",
				     options, &why),
			 0);
	for (uint64_t at = 0; at < p->size; at += MIB) {
		size_t length = p->size - at < MIB ? p->size - at : MIB;

		assert_int_equal(mfs_read(c, 0, at, buffer, MIB), length);
		assert_memory_equal(buffer, p->model + at, length);
	}
	mfs_close(c);
	free(buffer);
}

static void plain_tensors_larger_than_the_arena_are_read(void **state)
{
	mfs_open_options options = MFS_OPEN_OPTIONS_INIT;
	struct plain p = pack_plain();

	(void)state;
	options.arena_bytes = 1; /* the least that works */
	read_all_plain(&p, &options);
	free_plain(&p);
}

/* Of 64 KiB to 2 MiB: a span lies in one request, in two, or in more. */
static void plain_spans_are_right_whatever_the_length_of_requests(void **state)
{
	mfs_open_options options = MFS_OPEN_OPTIONS_INIT;
	struct plain p = pack_plain();

	(void)state;
	for (int id = 0; id < MFS_PROFILES; id++) {
		options.profile = id;
		read_all_plain(&p, &options);
	}
	free_plain(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(sequential_reads_fetch_whole_requests_ahead),
	    cmocka_unit_test(depth_of_the_profile_bounds_what_is_in_flight),
	    cmocka_unit_test(two_streams_are_both_kept_ahead),
	    cmocka_unit_test(a_broken_pattern_stops_the_prefetch),
	    cmocka_unit_test(scattered_reads_fetch_only_their_frames),
	    cmocka_unit_test(both_classes_of_a_span_are_submitted_together),
	    cmocka_unit_test(scattered_reads_leave_out_what_is_not_theirs_of_edge_pages),
	    cmocka_unit_test(tables_come_with_the_frames_of_a_stream),
	    cmocka_unit_test(reads_in_a_stream_make_long_requests),
	    cmocka_unit_test(prefetch_can_be_switched_off),
	    cmocka_unit_test(many_readers_of_a_span_decode_it_once),
	    cmocka_unit_test(cached_bytes_are_served_while_the_medium_stalls),
	    cmocka_unit_test(a_failed_request_is_tried_once_more),
	    cmocka_unit_test(a_lasting_fault_is_an_error_that_names_its_place),
	    cmocka_unit_test(a_bad_page_spoils_only_its_frame),
	    cmocka_unit_test(every_single_failure_leaves_right_bytes_or_an_error),
	    cmocka_unit_test(a_flipped_bit_is_never_served),
	    cmocka_unit_test(a_check_names_each_damaged_frame_once),
	    cmocka_unit_test(damaged_tables_fail_the_spans_that_need_them),
	    cmocka_unit_test(failing_tables_get_memory_all_the_same),
	    cmocka_unit_test(what_could_not_start_reading_never_does),
	    cmocka_unit_test(read_past_end_returns_zero),
	    cmocka_unit_test(random_reads_of_any_size_are_right),
	    cmocka_unit_test(plain_tensors_larger_than_the_arena_are_read),
	    cmocka_unit_test(plain_spans_are_right_whatever_the_length_of_requests),
	};

	return cmocka_run_group_tests(tests, pack, unpack);
}
