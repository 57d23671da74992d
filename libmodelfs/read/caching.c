/*
 * The reader's side of the cache: which bytes go into it, and how large it may
 * be.
 *
 * Bytes are offered once jobs have used them and their hashes were right, when
 * nobody holds their run any more. One thread at a time copies, slot by slot,
 * with the lock dropped. When the cache is full of what is being read nothing is
 * offered, so a steady state costs nothing.
 *
 * One thread, the keeper, looks at the memory that the machine or the cgroup has
 * left and lets the cache grow or shrink: it must never be what drives a small
 * board out of memory. A share stays free: 4 % if the user named a size, 15 % if
 * the cache is to find its own, for the kernel's page cache and for what the
 * client takes later. In a scan of more bytes than fit in memory the page cache
 * finds nothing again whatever its size, and the same bytes hold more of the
 * model compressed than decoded: so the cache gets the rest.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "memory.h"
#include "reader.h"

#define KEEPER_MS     500
#define RESERVE_ASKED 4 /* percent of all memory */
#define RESERVE_AUTO  15
#define ARENA_SHARE   12 /* of all memory: where there is little, the cache needs it more */
#define ARENA_LEAST   (16u << 20) /* enough for the prefetch of an SD card */
#define KEEPER_BATCH  64	  /* slots given back while the lock is held */
#define GROWTH_MIN    32	  /* the cache grows by this fraction of the memory or not at all */
#define FITS_PERCENT  85	  /* of the memory: files that fit there need no cache */
#define FITS_AGAIN    70	  /* and less, once there is one */

/* ---- filling ---- */

/* About what so many bytes of files take in the container. */
static uint64_t stored_bytes(const struct reader *r, uint64_t bytes)
{
	uint64_t all = 0;
	mfs_root_file f;

	for (uint32_t i = 0; i < r->c->root.count[MFS_SEC_FILES]; i++) {
		mfs_root_get_file(&r->c->root, i, &f);
		all += f.size;
	}
	if (!all)
		return bytes;
	return (uint64_t)((double)bytes * (double)r->c->sb.container_size / (double)all);
}

void caching_note_file(struct reader *r, uint32_t file)
{
	mfs_root_file f;

	if (!r->cache.memory)
		return;
	mfs_root_get_file(&r->c->root, file, &f);
	if (r->cache.files[file].listed) {
		mfs_cache_note_file(&r->cache, file, f.size);
		return;
	}
	mfs_cache_note_file(&r->cache, file, f.size);
	mfs_cache_expect(&r->cache, stored_bytes(r, mfs_cache_files_bytes(&r->cache)));
	pthread_cond_signal(&r->keep);
}

static void widen(struct run *run, enum cache_rank rank, uint32_t from, uint32_t to)
{
	if (!run->good[rank].to || from < run->good[rank].from)
		run->good[rank].from = from;
	if (to > run->good[rank].to)
		run->good[rank].to = to;
}

void caching_note_use(struct reader *r, struct run *run, const struct job *job, unsigned which,
		      uint64_t from, uint64_t to)
{
	bool constants = job->kind == JOB_TABLES || which % MFS_SLOTS == 1;

	/* Segments stay loaded: they are not read again. */
	if (!r->cache.memory || job->kind == JOB_SEGMENT)
		return;
	mfs_cache_tick(&r->cache, to - from);
	if (run->cached) {
		r->stats.cache_hit_bytes += to - from;
		return;
	}
	r->stats.cache_miss_bytes += to - from;
	widen(run, constants ? CACHE_CONSTANTS : CACHE_WEIGHTS, (uint32_t)(from - run->offset),
	      (uint32_t)(to - run->offset));
}

bool caching_wants(struct reader *r, struct run *run)
{
	bool wants = false;

	if (!r->cache.memory || r->stopping || !run->indexed || run->state != RUN_DONE)
		return false;
	for (int rank = 0; rank < CACHE_RANKS; rank++)
		wants = wants || (run->good[rank].to && mfs_cache_admits(&r->cache, rank));
	if (!wants)
		return false;
	run->users = 1;
	TAILQ_INSERT_TAIL(&r->to_cache, run, lru);
	return true;
}

/* Whole units around what is good: the rest of the edge pages was read with it,
 * and every frame is checked again when it is decoded. */
static void fill_from(struct reader *r, struct run *run, enum cache_rank rank)
{
	uint64_t at = run->offset + round_down(run->good[rank].from, r->unit);
	uint64_t end = run->offset + round_up(run->good[rank].to, r->unit);
	mfs_cache_piece piece;
	uint64_t next;

	run->good[rank].from = run->good[rank].to = 0;
	for (; at < end; at = next) {
		if (!mfs_cache_reserve(&r->cache, at, end, rank, &piece, &next))
			continue;
		pthread_mutex_unlock(&r->lock);
		memcpy((uint8_t *)piece.bytes, run->data + (piece.offset - run->offset),
		       piece.length);
		pthread_mutex_lock(&r->lock);
		mfs_cache_commit(&r->cache, &piece);
	}
}

bool caching_fill(struct reader *r)
{
	struct run *run = TAILQ_FIRST(&r->to_cache);

	if (!run || r->caching)
		return false;
	TAILQ_REMOVE(&r->to_cache, run, lru);
	r->caching = true;
	for (int rank = CACHE_RANKS - 1; rank >= 0; rank--)
		if (run->good[rank].to)
			fill_from(r, run, rank);
	r->caching = false;
	/* Nobody will look for it here any more. */
	if (mfs_cache_end(&r->cache, run->offset, run->offset + run->length) ==
	    run->offset + run->length)
		run->consumed = run->length;
	run_release(r, run);
	reader_pump(r);
	return true;
}

/* ---- the size ---- */

static uint64_t percent(uint64_t bytes, unsigned share)
{
	return bytes / 100 * share;
}

static bool automatic(const struct reader *r)
{
	return r->c->options.cache_bytes == MFS_CACHE_AUTO;
}

/* Memory that the arenas may still come to take. */
static uint64_t arenas_to_come(const struct reader *r)
{
	size_t touched = r->run_arena.touched_units + r->span_arena.touched_units;

	return r->run_arena.bytes + r->span_arena.bytes - touched * MFS_ARENA_UNIT;
}

/* Files being read that fit in memory decoded are best left to the page cache. */
static bool files_fit(struct reader *r, uint64_t memory)
{
	bool on = r->cache.limit != 0;

	return mfs_cache_files_bytes(&r->cache) <= percent(memory, on ? FITS_AGAIN : FITS_PERCENT);
}

/* How many bytes the cache may have, given what the rest of the memory does. */
static uint64_t wanted_bytes(struct reader *r, const mfs_memory *memory)
{
	uint64_t all = (uint64_t)r->cache.slots * r->cache.slot_bytes;
	uint64_t room = memory->available_bytes + mfs_cache_used_bytes(&r->cache);
	uint64_t reserve =
	    percent(memory->total_bytes, automatic(r) ? RESERVE_AUTO : RESERVE_ASKED) +
	    arenas_to_come(r);

	if (automatic(r) && files_fit(r, room))
		return 0;
	room = room > reserve ? room - reserve : 0;
	return room < all ? room : all;
}

/* Takes and drops the lock, often. */
static void keep_size(struct reader *r)
{
	mfs_memory memory;
	uint64_t wanted, before, limit;
	bool done = false;

	if (!mfs_memory_get("", &memory))
		return;
	while (!done) {
		pthread_mutex_lock(&r->lock);
		before = mfs_cache_used_bytes(&r->cache);
		limit = mfs_cache_limit_bytes(&r->cache);
		if (before <= limit)
			wanted = wanted_bytes(r, &memory);
		else
			wanted = limit; /* go on with what was begun */
		if (wanted < limit || wanted >= limit + memory.total_bytes / GROWTH_MIN ||
		    before > limit)
			done = mfs_cache_resize(&r->cache, wanted, KEEPER_BATCH);
		else
			done = true;
		r->stats.cache_returned_bytes += before - mfs_cache_used_bytes(&r->cache);
		pthread_mutex_unlock(&r->lock);
	}
}

static void *keeper(void *argument)
{
	struct reader *r = argument;
	struct timespec until;

	pthread_mutex_lock(&r->lock);
	while (!r->stopping) {
		pthread_mutex_unlock(&r->lock);
		keep_size(r);
		pthread_mutex_lock(&r->lock);
		if (r->stopping)
			break;
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += KEEPER_MS * 1000000L;
		until.tv_sec += until.tv_nsec / 1000000000L;
		until.tv_nsec %= 1000000000L;
		pthread_cond_timedwait(&r->keep, &r->lock, &until);
	}
	pthread_mutex_unlock(&r->lock);
	return NULL;
}

/* ---- beginning and end ---- */

uint64_t caching_arena_bytes(const mfs_container *c)
{
	mfs_memory memory;
	uint64_t share;

	if (!c->options.cache_bytes || !mfs_memory_get("", &memory))
		return MFS_ARENA_DEFAULT;
	share = memory.total_bytes / ARENA_SHARE;
	if (share < ARENA_LEAST)
		return ARENA_LEAST;
	return share < MFS_ARENA_DEFAULT ? share : MFS_ARENA_DEFAULT;
}

int caching_open(struct reader *r)
{
	/* More than the whole container would stay empty. */
	uint64_t bytes = r->c->sb.container_size + r->c->sb.container_size / 256 + (1u << 20);
	mfs_memory memory;
	int err;

	if (!r->c->options.cache_bytes)
		return 0;
	if (automatic(r) && mfs_memory_get("", &memory) && bytes > memory.total_bytes)
		bytes = memory.total_bytes;
	if (bytes > r->c->options.cache_bytes)
		bytes = r->c->options.cache_bytes;
	err = mfs_cache_open(&r->cache, bytes, r->unit, r->c->root.count[MFS_SEC_FILES]);
	if (!err && automatic(r))
		mfs_cache_resize(&r->cache, 0, 0);
	return err;
}

int caching_start(struct reader *r)
{
	if (!r->cache.memory)
		return 0;
	errno = pthread_create(&r->keeper, NULL, keeper, r);
	if (errno)
		return MFS_E_SYSTEM;
	r->keeper_running = true;
	return 0;
}

void caching_stop(struct reader *r)
{
	if (r->keeper_running)
		pthread_join(r->keeper, NULL);
}

void caching_close(struct reader *r)
{
	mfs_cache_close(&r->cache);
}
