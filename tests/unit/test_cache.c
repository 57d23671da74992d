/* The cache: its policy by itself, and what the reader then asks of the medium. */
#include "fixture.h"

#include <pthread.h>
#include <time.h>

#include "cache.h"
#include "container.h"
#include "memory_io.h"
#include "quiet.h"
#include "reader.h"

#define KIB  1024u
#define MIB  (1024u * KIB)
#define SLOT CACHE_SLOT_BYTES
#define UNIT (4 * KIB)

/* ---- by itself ---- */

static mfs_cache alone;

static void open_cache(unsigned slots)
{
	assert_int_equal(mfs_cache_open(&alone, (uint64_t)slots * (SLOT + 128), UNIT, 4), 0);
	assert_int_equal(alone.slots, slots);
}

/* What is kept of [from, to), each byte its own place in 1 KiB steps. */
static void put(uint64_t from, uint64_t to, enum cache_rank rank)
{
	mfs_cache_piece piece;
	uint64_t next;

	for (uint64_t at = from; at < to; at = next) {
		if (!mfs_cache_reserve(&alone, at, to, rank, &piece, &next))
			continue;
		for (uint64_t i = 0; i < piece.length; i++)
			((uint8_t *)piece.bytes)[i] = (uint8_t)((piece.offset + i) / KIB * 7);
		mfs_cache_commit(&alone, &piece);
	}
}

static bool has(uint64_t from, uint64_t to)
{
	return mfs_cache_end(&alone, from, to) == to;
}

static void use(uint64_t offset)
{
	mfs_cache_piece piece;

	if (mfs_cache_take(&alone, offset, offset + UNIT, &piece))
		mfs_cache_give(&alone, &piece, false);
}

static void any_mixture_of_pieces_is_found_again(void **state)
{
	bool kept[16 * SLOT / UNIT] = {false};
	const unsigned units = sizeof(kept);
	uint64_t seed = 7, r[2];

	(void)state;
	open_cache(16);
	for (int round = 0; round < 400; round++) {
		unsigned from, to, end;
		mfs_cache_piece piece;

		fixture_noise((uint8_t *)r, sizeof(r), seed += 3);
		from = (unsigned)(r[0] % units);
		to = from + 1 + (unsigned)(r[1] % 40);
		to = to < units ? to : units;
		if (round % 8 == 7 &&
		    mfs_cache_take(&alone, (uint64_t)from * UNIT, (uint64_t)to * UNIT, &piece)) {
			/* bad bytes: their slots go, whole */
			end = (unsigned)((piece.offset + piece.length - 1) / SLOT);
			for (unsigned i = from / (SLOT / UNIT) * (SLOT / UNIT);
			     i < (end + 1) * (SLOT / UNIT); i++)
				kept[i] = false;
			mfs_cache_give(&alone, &piece, true);
		} else if (round % 4 == 0) {
			put((uint64_t)from * UNIT, (uint64_t)to * UNIT, round % 3 == 0);
			for (unsigned i = from; i < to; i++)
				kept[i] = true;
		}
		for (end = from; end < to && kept[end];)
			end++;
		assert_int_equal(mfs_cache_end(&alone, (uint64_t)from * UNIT, (uint64_t)to * UNIT),
				 (uint64_t)end * UNIT);
		for (end = from; end < to && !kept[end];)
			end++;
		assert_int_equal(mfs_cache_next(&alone, (uint64_t)from * UNIT, (uint64_t)to * UNIT),
				 (uint64_t)end * UNIT);
		if (!mfs_cache_take(&alone, (uint64_t)from * UNIT, (uint64_t)to * UNIT, &piece)) {
			assert_false(kept[from]);
			continue;
		}
		for (uint64_t i = 0; i < piece.length; i += KIB)
			assert_int_equal(piece.bytes[i], (uint8_t)((piece.offset + i) / KIB * 7));
		mfs_cache_give(&alone, &piece, false);
	}
	mfs_cache_close(&alone);
}

static void a_full_cache_keeps_what_it_has(void **state)
{
	(void)state;
	open_cache(4);
	mfs_cache_note_file(&alone, 0, 100 * SLOT);
	for (int pass = 0; pass < 5; pass++) {
		for (unsigned i = 0; i < 100; i++) {
			mfs_cache_note_file(&alone, 0, 100 * SLOT);
			mfs_cache_tick(&alone, SLOT);
			use((uint64_t)i * SLOT);
			put((uint64_t)i * SLOT, (uint64_t)(i + 1) * SLOT, CACHE_WEIGHTS);
		}
		assert_true(has(0, 4 * SLOT));
		assert_int_equal(alone.held[CACHE_WEIGHTS], 4 * SLOT);
	}
	assert_false(mfs_cache_admits(&alone, CACHE_WEIGHTS));
	assert_true(mfs_cache_admits(&alone, CACHE_CONSTANTS));
	mfs_cache_close(&alone);
}

static void constants_displace_the_weights_that_came_last(void **state)
{
	(void)state;
	open_cache(4);
	mfs_cache_note_file(&alone, 0, 100 * SLOT);
	put(0, 4 * SLOT, CACHE_WEIGHTS);
	put(50 * SLOT, 52 * SLOT, CACHE_CONSTANTS);
	assert_true(has(50 * SLOT, 52 * SLOT));
	assert_true(has(0, 2 * SLOT));
	put(20 * SLOT, 30 * SLOT, CACHE_WEIGHTS);
	assert_true(has(50 * SLOT, 52 * SLOT));
	put(60 * SLOT, 70 * SLOT, CACHE_CONSTANTS);
	assert_true(has(50 * SLOT, 52 * SLOT));
	assert_true(has(60 * SLOT, 62 * SLOT));
	assert_int_equal(alone.held[CACHE_CONSTANTS], 4 * SLOT);
	assert_false(mfs_cache_admits(&alone, CACHE_CONSTANTS));
	mfs_cache_close(&alone);
}

static void what_is_not_used_for_a_cycle_and_a_half_makes_room(void **state)
{
	(void)state;
	open_cache(4);
	mfs_cache_note_file(&alone, 0, 10 * SLOT);
	put(0, 4 * SLOT, CACHE_CONSTANTS);
	mfs_cache_tick(&alone, 15 * SLOT);
	mfs_cache_note_file(&alone, 0, 10 * SLOT);
	assert_false(mfs_cache_admits(&alone, CACHE_WEIGHTS));
	use(0); /* this one stays young */
	mfs_cache_tick(&alone, 1);
	put(20 * SLOT, 28 * SLOT, CACHE_WEIGHTS);
	assert_true(has(0, SLOT));
	assert_true(has(20 * SLOT, 23 * SLOT));
	assert_int_equal(alone.held[CACHE_CONSTANTS], SLOT);
	mfs_cache_close(&alone);
}

static void files_read_in_turn_make_one_cycle(void **state)
{
	(void)state;
	open_cache(2);
	for (int pass = 0; pass < 3; pass++) {
		for (uint32_t file = 0; file < 3; file++) {
			for (unsigned i = 0; i < 10 * (file + 1); i++) {
				mfs_cache_note_file(&alone, file, 10 * (file + 1) * SLOT);
				mfs_cache_tick(&alone, SLOT);
			}
		}
		assert_int_equal(mfs_cache_files_bytes(&alone), 60 * SLOT);
	}
	/* Only the first from now on: the others are left behind. */
	for (unsigned i = 0; i < 200; i++) {
		mfs_cache_note_file(&alone, 0, 10 * SLOT);
		mfs_cache_tick(&alone, SLOT);
	}
	assert_int_equal(mfs_cache_files_bytes(&alone), 10 * SLOT);
	mfs_cache_close(&alone);
}

static void a_piece_that_is_held_outlives_its_slot(void **state)
{
	mfs_cache_piece piece;

	(void)state;
	open_cache(4);
	put(0, 4 * SLOT, CACHE_WEIGHTS);
	assert_true(mfs_cache_take(&alone, SLOT, 2 * SLOT, &piece));
	assert_true(mfs_cache_resize(&alone, 0, 100));
	assert_int_equal(alone.used_slots, 1); /* the one that is held */
	assert_int_equal(piece.bytes[KIB], (uint8_t)((SLOT / KIB + 1) * 7));
	mfs_cache_give(&alone, &piece, false);
	assert_true(mfs_cache_resize(&alone, 0, 100));
	assert_int_equal(alone.used_slots, 0);
	assert_int_equal(alone.held[CACHE_WEIGHTS], 0);
	put(0, SLOT, CACHE_WEIGHTS);
	assert_int_equal(alone.used_slots, 0);
	assert_true(mfs_cache_resize(&alone, 8 * SLOT, 100));
	put(0, 9 * SLOT, CACHE_WEIGHTS);
	assert_true(has(0, 4 * SLOT));
	assert_int_equal(alone.used_slots, 4);
	mfs_cache_close(&alone);
}

static void weights_are_given_back_before_constants(void **state)
{
	(void)state;
	open_cache(8);
	put(0, 4 * SLOT, CACHE_CONSTANTS);
	put(10 * SLOT, 14 * SLOT, CACHE_WEIGHTS);
	assert_false(mfs_cache_resize(&alone, 2 * SLOT, 3)); /* in steps */
	assert_int_equal(alone.used_slots, 5);
	assert_int_equal(alone.held[CACHE_CONSTANTS], 4 * SLOT);
	assert_true(mfs_cache_resize(&alone, 2 * SLOT, 3));
	assert_int_equal(alone.held[CACHE_CONSTANTS], 2 * SLOT);
	assert_int_equal(alone.held[CACHE_WEIGHTS], 0);
	mfs_cache_close(&alone);
}

/* ---- in the reader ---- */

#define MODEL_ROWS 20000 /* 21 MiB: more than the least arena keeps */

static struct {
	fixture f;
	uint8_t *model[2];
	size_t size[2];
	uint64_t constants; /* stored, of the first */
} packed;

static int pack(void **state)
{
	mfs_pack_options options = MFS_PACK_OPTIONS_INIT;

	(void)state;
	for (unsigned i = 0; i < 2; i++)
		packed.size[i] = fixture_q8_0(&packed.model[i], MODEL_ROWS, 2 + i);
	fixture_begin(&packed.f, &options);
	fixture_add(&packed.f, "a.gguf", packed.model[0], packed.size[0]);
	fixture_add(&packed.f, "b.gguf", packed.model[1], packed.size[1]);
	fixture_end(&packed.f);
	return 0;
}

static int unpack(void **state)
{
	(void)state;
	free(packed.model[0]);
	free(packed.model[1]);
	fixture_free(&packed.f);
	return 0;
}

struct opened {
	mfs_container *c;
	memory_io *io;
};

static struct opened open_with(const uint8_t *bytes, uint64_t cache_bytes)
{
	struct opened o = {.io = memory_io_new(bytes, packed.f.size)};
	mfs_open_options options = MFS_OPEN_OPTIONS_INIT;
	mfs_tensor_info tensor = {.size = sizeof(tensor)};
	mfs_problem why = {0};

	options.arena_bytes = 1; /* the least that works */
	options.cache_bytes = cache_bytes;
	if (mfs_open_io(&o.c, &o.io->head, "memory", &options, &why))
		fail_msg("%s", why.text);
	assert_int_equal(mfs_tensor_get(o.c, 0, &tensor), 0);
	packed.constants = tensor.constants_stored_bytes;
	return o;
}

static void read_right(struct opened *o, uint32_t file, uint64_t at, size_t length)
{
	uint8_t *buffer = malloc(length);

	if (at + length > packed.size[file])
		length = packed.size[file] - at;
	assert_int_equal(mfs_read(o->c, file, at, buffer, length), length);
	assert_memory_equal(buffer, packed.model[file] + at, length);
	free(buffer);
}

/* Reads a file from end to end; returns the bytes that the medium was asked for. */
static uint64_t scan(struct opened *o, uint32_t file)
{
	uint64_t sum = 0;

	wait_until_quiet(o->c, o->io);
	pthread_mutex_lock(&o->io->lock);
	o->io->records = o->io->first = o->io->last = 0;
	pthread_mutex_unlock(&o->io->lock);
	for (uint64_t at = 0; at < packed.size[file]; at += 128 * KIB)
		read_right(o, file, at, 128 * KIB);
	wait_until_quiet(o->c, o->io);
	for (unsigned i = 0; i < o->io->records; i++)
		sum += o->io->record[i].length;
	return sum;
}

static mfs_stats stats_of(struct opened *o)
{
	mfs_stats stats = {.size = sizeof(stats)};

	assert_int_equal(mfs_stats_get(o->c, &stats), 0);
	return stats;
}

/* Stored bytes of a file; what the arenas keep from pass to pass is still less. */
static uint64_t scan_bytes(uint32_t file)
{
	struct opened o = open_with(packed.f.container, 0);
	mfs_file_info info = {.size = sizeof(info)};

	assert_int_equal(mfs_file_get(o.c, file, &info), 0);
	mfs_close(o.c);
	return info.stored_bytes;
}

static bool within_bound(uint64_t bytes, uint64_t stored, uint64_t cache)
{
	uint64_t rest = stored > cache ? stored - cache : 0;

	return bytes <= rest + rest / 20;
}

static void assert_bound(uint64_t bytes, uint64_t stored, uint64_t cache)
{
	if (!within_bound(bytes, stored, cache))
		fail_msg("%llu bytes were read of %llu stored with a cache of %llu",
			 (unsigned long long)bytes, (unsigned long long)stored,
			 (unsigned long long)cache);
}

static void a_cyclic_scan_reads_what_the_cache_does_not_hold(void **state)
{
	static const unsigned eighths[] = {1, 2, 4, 6, 9};
	uint64_t stored = scan_bytes(0);

	(void)state;
	assert_true(stored > 8 * MIB);
	for (unsigned i = 0; i < sizeof(eighths) / sizeof(eighths[0]); i++) {
		uint64_t cache = stored * eighths[i] / 8;
		struct opened o = open_with(packed.f.container, cache);
		mfs_stats stats;

		scan(&o, 0);
		for (int pass = 0; pass < 3; pass++)
			assert_bound(scan(&o, 0), stored, cache);
		stats = stats_of(&o);
		assert_true(stats.cache_bytes <= cache);
		assert_true(stats.cache_used_bytes <= stats.cache_bytes);
		assert_true(stats.cache_hit_bytes > 0);
		mfs_close(o.c);
	}
}

static void scattered_reads_fill_it_too(void **state)
{
	uint64_t stored = scan_bytes(0), cache = stored / 2, seed = 9, r;
	struct opened o = open_with(packed.f.container, cache);

	(void)state;
	for (int i = 0; i < 150; i++) {
		fixture_noise((uint8_t *)&r, sizeof(r), seed++);
		read_right(&o, 0, r % packed.size[0], 4 * KIB);
	}
	assert_true(stats_of(&o).cache_used_bytes > MIB);
	scan(&o, 0);
	scan(&o, 0);
	/* What came in pieces saves its share as well, but for what is cut off at their ends. */
	assert_true(scan(&o, 0) <= stored - cache * 3 / 4);
	mfs_close(o.c);
}

static void constants_come_first(void **state)
{
	uint64_t cache;
	struct opened o = open_with(packed.f.container, 0);
	mfs_stats stats;

	(void)state;
	mfs_close(o.c);
	cache = packed.constants + 2 * MIB;
	o = open_with(packed.f.container, cache);
	scan(&o, 0);
	stats = stats_of(&o);
	assert_true(stats.cache_constants_bytes >= packed.constants);
	assert_true(stats.cache_weights_bytes > MIB);
	mfs_close(o.c);
	/* More constants than there is room: nothing else is kept. */
	cache = packed.constants / 2;
	o = open_with(packed.f.container, cache);
	scan(&o, 0);
	stats = stats_of(&o);
	assert_true(stats.cache_constants_bytes >= stats.cache_bytes - 2 * SLOT);
	assert_true(stats.cache_weights_bytes < 2 * SLOT);
	assert_bound(scan(&o, 0), scan_bytes(0), cache);
	mfs_close(o.c);
}

static void another_model_takes_over(void **state)
{
	uint64_t stored = scan_bytes(1), cache = stored / 2;
	struct opened o = open_with(packed.f.container, cache);
	unsigned passes = 0, within = 0;

	(void)state;
	for (int i = 0; i < 3; i++)
		scan(&o, 0);
	/* A single pass over another file changes next to nothing ... */
	scan(&o, 1);
	assert_bound(scan(&o, 0), stored, cache);
	/* ... but when only that is read, the cache becomes its own. Until then a pass may
	 * be within the bound, and the next one, which finds other pieces gone, not. */
	for (; within < 2; passes++) {
		within = within_bound(scan(&o, 1), stored, cache) ? within + 1 : 0;
		if (passes > 10)
			fail_msg("the cache still holds the model that nobody reads");
	}
	assert_true(passes > 2);
	mfs_close(o.c);
}

static void two_models_read_in_turn_share_it(void **state)
{
	uint64_t stored = scan_bytes(0) + scan_bytes(1), cache = stored / 2;
	struct opened o = open_with(packed.f.container, cache);

	(void)state;
	for (int pass = 0; pass < 4; pass++) {
		uint64_t bytes = scan(&o, 0);

		bytes += scan(&o, 1);
		if (pass)
			assert_bound(bytes, stored, cache);
	}
	mfs_close(o.c);
}

/* ---- damage ---- */

static void flip_everything(struct opened *o)
{
	struct reader *r = o->c->reader;

	pthread_mutex_lock(&r->lock);
	for (size_t i = 0; i < r->cache.next_fresh * r->cache.slot_bytes; i += 4 * KIB)
		r->cache.memory[i + i / KIB % KIB] ^= 4;
	pthread_mutex_unlock(&r->lock);
}

static void flipped_bits_in_memory_are_read_again(void **state)
{
	uint64_t stored = scan_bytes(0), cache = stored / 2, bytes;
	struct opened o = open_with(packed.f.container, cache);

	(void)state;
	scan(&o, 0);
	flip_everything(&o);
	/* Every byte is right all the same, at the price of reading most of them. */
	assert_true(scan(&o, 0) >= stored - stored / 3);
	assert_int_equal(stats_of(&o).errors_corrupt, 0);
	/* It fills again, though not in the order that it was filled in at first. */
	bytes = scan(&o, 0);
	for (int pass = 0; pass < 6 && !within_bound(bytes, stored, cache); pass++)
		bytes = scan(&o, 0);
	assert_bound(bytes, stored, cache);
	mfs_close(o.c);
}

static void flipped_bits_on_the_medium_are_never_served(void **state)
{
	uint8_t *copy = malloc(packed.f.size), *buffer = malloc(128 * KIB);
	struct opened o;
	unsigned wrong = 0, refused;

	(void)state;
	memcpy(copy, packed.f.container, packed.f.size);
	for (size_t at = 2 * MIB + 77; at + MIB < packed.f.size; at += MIB)
		copy[at] ^= 0x20;
	o = open_with(copy, 8 * MIB);
	for (int pass = 0; pass < 3; pass++) {
		refused = 0;
		for (uint64_t at = 0; at + 128 * KIB < packed.size[0]; at += 128 * KIB) {
			int64_t got = mfs_read(o.c, 0, at, buffer, 128 * KIB);

			if (got == MFS_E_CORRUPT)
				refused++;
			else if (got != 128 * KIB ||
				 memcmp(buffer, packed.model[0] + at, 128 * KIB))
				wrong++;
		}
		assert_int_equal(wrong, 0);
		assert_in_range(refused, 5, 100);
	}
	mfs_close(o.c);
	free(copy);
	free(buffer);
}

static void what_is_cached_is_served_while_the_medium_stalls(void **state)
{
	struct opened o = open_with(packed.f.container, packed.f.size);

	(void)state;
	scan(&o, 0);
	memory_hold(o.io, true);
	for (uint64_t at = 0; at < packed.size[0]; at += 128 * KIB)
		read_right(&o, 0, at, 128 * KIB);
	memory_hold(o.io, false);
	mfs_close(o.c);
}

/* ---- threads ---- */

struct many {
	struct opened *o;
	unsigned number;
	int wrong;
};

static void *read_many(void *argument)
{
	struct many *many = argument;
	uint8_t *buffer = malloc(256 * KIB);
	uint64_t at = (uint64_t)many->number * MIB, r;

	for (unsigned i = 0; i < 200; i++) {
		uint32_t file = many->number & 1;
		size_t length = 128 * KIB;

		fixture_noise((uint8_t *)&r, sizeof(r), many->number * 1000 + i);
		if (many->number >= 4) {
			at = r % packed.size[file];
			length = 1 + r / 7 % (200 * KIB);
		}
		if (at >= packed.size[file])
			at = 0;
		if (length > packed.size[file] - at)
			length = packed.size[file] - at;
		if (mfs_read(many->o->c, file, at, buffer, length) != (int64_t)length ||
		    memcmp(buffer, packed.model[file] + at, length))
			many->wrong = 1;
		at += length;
	}
	free(buffer);
	return NULL;
}

static void many_threads_and_a_changing_size_do_no_harm(void **state)
{
	struct opened o = open_with(packed.f.container, 16 * MIB);
	struct many many[8];
	pthread_t threads[8];

	(void)state;
	for (unsigned i = 0; i < 8; i++) {
		many[i] = (struct many){.o = &o, .number = i};
		assert_int_equal(pthread_create(&threads[i], NULL, read_many, &many[i]), 0);
	}
	for (unsigned i = 0; i < 40; i++) {
		struct timespec ms = {0, 3000000};

		nanosleep(&ms, NULL);
		pthread_mutex_lock(&o.c->reader->lock);
		mfs_cache_resize(&o.c->reader->cache, (i * 5 % 16) * MIB, 40);
		pthread_mutex_unlock(&o.c->reader->lock);
	}
	for (unsigned i = 0; i < 8; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(many[i].wrong, 0);
	}
	mfs_close(o.c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(any_mixture_of_pieces_is_found_again),
	    cmocka_unit_test(a_full_cache_keeps_what_it_has),
	    cmocka_unit_test(constants_displace_the_weights_that_came_last),
	    cmocka_unit_test(what_is_not_used_for_a_cycle_and_a_half_makes_room),
	    cmocka_unit_test(files_read_in_turn_make_one_cycle),
	    cmocka_unit_test(a_piece_that_is_held_outlives_its_slot),
	    cmocka_unit_test(weights_are_given_back_before_constants),
	    cmocka_unit_test(a_cyclic_scan_reads_what_the_cache_does_not_hold),
	    cmocka_unit_test(scattered_reads_fill_it_too),
	    cmocka_unit_test(constants_come_first),
	    cmocka_unit_test(another_model_takes_over),
	    cmocka_unit_test(two_models_read_in_turn_share_it),
	    cmocka_unit_test(flipped_bits_in_memory_are_read_again),
	    cmocka_unit_test(flipped_bits_on_the_medium_are_never_served),
	    cmocka_unit_test(what_is_cached_is_served_while_the_medium_stalls),
	    cmocka_unit_test(many_threads_and_a_changing_size_do_no_harm),
	};

	return cmocka_run_group_tests(tests, pack, unpack);
}
