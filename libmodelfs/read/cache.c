#include "cache.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "check.h"
#include "modelfs_error.h"

#define CACHE_NONE UINT32_MAX
#define GRANULES   64
/* How many slots that are in use are passed over in search of one that is not. */
#define SEARCH_MAX 64
/* Groups that are kept or left out together while filling. */
#define GROUP_BYTES (1u << 20)

/* ---- opening ---- */

static int tables_new(mfs_cache *cache, uint32_t files)
{
	while ((UINT32_C(1) << cache->chain_bits) < cache->slots && cache->chain_bits < 31)
		cache->chain_bits++;
	cache->slot = calloc(cache->slots, sizeof(*cache->slot));
	cache->chain = malloc(sizeof(*cache->chain) << cache->chain_bits);
	cache->files = calloc((size_t)files + 1, sizeof(*cache->files));
	if (!cache->slot || !cache->chain || !cache->files)
		return MFS_E_MEMORY;
	memset(cache->chain, 0xff, sizeof(*cache->chain) << cache->chain_bits);
	return 0;
}

int mfs_cache_open(mfs_cache *cache, uint64_t bytes, uint32_t unit, uint32_t files)
{
	uint64_t slots;
	void *memory;
	int err;

	memset(cache, 0, sizeof(*cache));
	for (int i = 0; i < CACHE_RANKS; i++)
		TAILQ_INIT(&cache->lru[i]);
	TAILQ_INIT(&cache->recent);
	cache->slot_bytes = unit > CACHE_SLOT_BYTES ? unit : CACHE_SLOT_BYTES;
	/* No granule is larger than a unit, so that every piece is whole granules. */
	if (cache->slot_bytes > (size_t)unit * GRANULES)
		cache->slot_bytes = (size_t)unit * GRANULES;
	cache->granule = cache->slot_bytes / GRANULES;
	/* The hash has two heads for a slot at the most. */
	slots = bytes / (cache->slot_bytes + sizeof(struct cache_slot) + 2 * sizeof(uint32_t));
	if (!slots)
		slots = 1;
	if (slots > UINT32_C(1) << 31)
		slots = UINT32_C(1) << 31;
	if (slots > SIZE_MAX / cache->slot_bytes)
		return MFS_E_MEMORY;
	cache->slots = cache->limit = (uint32_t)slots;
	cache->free = CACHE_NONE;
	err = tables_new(cache, files);
	memory = err ? MAP_FAILED
		     : mmap(NULL, slots * cache->slot_bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED) {
		mfs_cache_close(cache);
		return MFS_E_MEMORY;
	}
	cache->memory = memory;
	return 0;
}

void mfs_cache_close(mfs_cache *cache)
{
	if (cache->memory)
		munmap(cache->memory, cache->slots * cache->slot_bytes);
	free(cache->slot);
	free(cache->chain);
	free(cache->files);
	memset(cache, 0, sizeof(*cache));
}

/* ---- slots ---- */

static uint32_t slot_index(const mfs_cache *cache, const struct cache_slot *slot)
{
	return (uint32_t)(slot - cache->slot);
}

static uint8_t *slot_memory(const mfs_cache *cache, const struct cache_slot *slot)
{
	return cache->memory + slot_index(cache, slot) * cache->slot_bytes;
}

static uint32_t *chain_of(const mfs_cache *cache, uint64_t region)
{
	uint64_t hash = region * UINT64_C(0x9e3779b97f4a7c15);

	return &cache->chain[hash >> 32 & ((UINT64_C(1) << cache->chain_bits) - 1)];
}

static struct cache_slot *slot_find(const mfs_cache *cache, uint64_t region)
{
	uint32_t i;

	if (!cache->used_slots)
		return NULL;
	for (i = *chain_of(cache, region); i != CACHE_NONE; i = cache->slot[i].next)
		if (cache->slot[i].region == region)
			return &cache->slot[i];
	return NULL;
}

static uint64_t present_bytes(const mfs_cache *cache, const struct cache_slot *slot)
{
	return (uint64_t)__builtin_popcountll(slot->present) * cache->granule;
}

/* Out of hash and list: nobody finds it any more. */
static void slot_forget(mfs_cache *cache, struct cache_slot *slot)
{
	uint32_t *at = chain_of(cache, slot->region);

	while (&cache->slot[*at] != slot)
		at = &cache->slot[*at].next;
	*at = slot->next;
	TAILQ_REMOVE(&cache->lru[slot->rank], slot, lru);
	cache->held[slot->rank] -= present_bytes(cache, slot);
	slot->present = 0;
	slot->used = false;
}

static void slot_free(mfs_cache *cache, struct cache_slot *slot)
{
	madvise(slot_memory(cache, slot), cache->slot_bytes, MADV_DONTNEED);
	slot->dropped = false;
	slot->next = cache->free;
	cache->free = slot_index(cache, slot);
	cache->used_slots--;
}

static void slot_drop(mfs_cache *cache, struct cache_slot *slot)
{
	slot_forget(cache, slot);
	if (slot->users)
		slot->dropped = true;
	else
		slot_free(cache, slot);
}

static void slot_release(mfs_cache *cache, struct cache_slot *slot)
{
	if (!--slot->users && slot->dropped)
		slot_free(cache, slot);
}

static void slot_touch(mfs_cache *cache, struct cache_slot *slot)
{
	slot->last_use = cache->clock;
	TAILQ_REMOVE(&cache->lru[slot->rank], slot, lru);
	TAILQ_INSERT_TAIL(&cache->lru[slot->rank], slot, lru);
}

static void slot_promote(mfs_cache *cache, struct cache_slot *slot, enum cache_rank rank)
{
	if (rank <= slot->rank)
		return;
	TAILQ_REMOVE(&cache->lru[slot->rank], slot, lru);
	cache->held[slot->rank] -= present_bytes(cache, slot);
	slot->rank = (uint8_t)rank;
	cache->held[slot->rank] += present_bytes(cache, slot);
	TAILQ_INSERT_TAIL(&cache->lru[slot->rank], slot, lru);
}

/* ---- looking up ---- */

/* Granules from `granule` on that are (or are not) present, in one run. */
static unsigned granules_from(uint64_t present, unsigned granule)
{
	uint64_t missing = ~present >> granule;

	return missing ? (unsigned)__builtin_ctzll(missing) : GRANULES - granule;
}

static uint64_t min64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* As far as one slot knows, at most to its end. */
static uint64_t run_end(const mfs_cache *cache, const struct cache_slot *slot, uint64_t offset,
			bool present)
{
	uint64_t start = offset / cache->slot_bytes * cache->slot_bytes;
	unsigned granule = (unsigned)((offset - start) / cache->granule);
	uint64_t bits = !slot ? 0 : slot->present;
	unsigned count = granules_from(present ? bits : ~bits, granule);

	return count ? start + (uint64_t)(granule + count) * cache->granule : offset;
}

uint64_t mfs_cache_end(const mfs_cache *cache, uint64_t offset, uint64_t limit)
{
	while (cache->used_slots && offset < limit) {
		struct cache_slot *slot = slot_find(cache, offset / cache->slot_bytes);
		uint64_t end = slot ? run_end(cache, slot, offset, true) : offset;

		if (end == offset)
			break;
		offset = end;
	}
	return min64(offset, limit);
}

uint64_t mfs_cache_next(const mfs_cache *cache, uint64_t offset, uint64_t limit)
{
	if (!cache->used_slots)
		return limit;
	while (offset < limit) {
		struct cache_slot *slot = slot_find(cache, offset / cache->slot_bytes);
		uint64_t end = run_end(cache, slot, offset, false);

		if (end == offset || end % cache->slot_bytes)
			return min64(end, limit);
		offset = end;
	}
	return limit;
}

bool mfs_cache_take(mfs_cache *cache, uint64_t offset, uint64_t limit, mfs_cache_piece *out)
{
	struct cache_slot *slot =
	    cache->memory ? slot_find(cache, offset / cache->slot_bytes) : NULL;
	uint64_t end = slot ? min64(run_end(cache, slot, offset, true), limit) : offset;

	if (end == offset)
		return false;
	*out = (mfs_cache_piece){.bytes = slot_memory(cache, slot) + offset % cache->slot_bytes,
				 .offset = offset,
				 .first = slot_index(cache, slot),
				 .count = 1};
	slot->users++;
	slot_touch(cache, slot);
	while (end < limit && end % cache->slot_bytes == 0) {
		uint32_t i = out->first + out->count;

		slot = slot_find(cache, end / cache->slot_bytes);
		if (!slot || slot_index(cache, slot) != i || !(slot->present & 1))
			break;
		end = min64(run_end(cache, slot, end, true), limit);
		out->count++;
		slot->users++;
		slot_touch(cache, slot);
	}
	out->length = end - offset;
	return true;
}

void mfs_cache_give(mfs_cache *cache, const mfs_cache_piece *piece, bool bad)
{
	for (uint32_t i = piece->first; i < piece->first + piece->count; i++) {
		struct cache_slot *slot = &cache->slot[i];

		if (bad && slot->used)
			slot_drop(cache, slot);
		slot_release(cache, slot);
	}
}

/* ---- policy ---- */

void mfs_cache_tick(mfs_cache *cache, uint64_t bytes)
{
	cache->clock += bytes;
}

void mfs_cache_note_file(mfs_cache *cache, uint32_t file, uint64_t bytes)
{
	struct cache_file *f = &cache->files[file];

	if (f->listed)
		TAILQ_REMOVE(&cache->recent, f, link);
	else
		cache->cycle_clock = 0;
	*f = (struct cache_file){.bytes = bytes, .last_read = cache->clock, .listed = true};
	TAILQ_INSERT_HEAD(&cache->recent, f, link);
}

/* What is taken before a cycle over `bytes` comes round again. */
static uint64_t patience(uint64_t bytes)
{
	return bytes + bytes / 2;
}

/* Files read one after the other in a cycle: when the turn comes to one, no more
 * was taken since its last than the others have. So going from the last one
 * read, the first that was left alone for longer than that, and all before it,
 * are no longer part of the cycle. */
static uint64_t sum_files(mfs_cache *cache)
{
	uint64_t sum = 0;
	struct cache_file *f, *next;

	for (f = TAILQ_FIRST(&cache->recent); f; f = TAILQ_NEXT(f, link)) {
		if (cache->clock - f->last_read > patience(sum + f->bytes))
			break;
		sum += f->bytes;
	}
	for (; f; f = next) {
		next = TAILQ_NEXT(f, link);
		TAILQ_REMOVE(&cache->recent, f, link);
		f->listed = false;
	}
	return sum;
}

uint64_t mfs_cache_files_bytes(mfs_cache *cache)
{
	if (!cache->cycle_clock || cache->clock - cache->cycle_clock > cache->cycle / 32) {
		cache->cycle = sum_files(cache);
		cache->cycle_clock = cache->clock + !cache->clock;
	}
	return cache->cycle;
}

static bool slot_stale(mfs_cache *cache, const struct cache_slot *slot)
{
	return cache->clock - slot->last_use > patience(mfs_cache_files_bytes(cache));
}

/* The oldest slot of the list that nobody uses and that is stale. */
static struct cache_slot *find_stale(mfs_cache *cache, struct cache_list *list)
{
	struct cache_slot *slot;
	unsigned passed = 0;

	TAILQ_FOREACH(slot, list, lru)
	{
		if (passed++ == SEARCH_MAX || !slot_stale(cache, slot))
			break;
		if (!slot->users)
			return slot;
	}
	return NULL;
}

static struct cache_slot *find_displaced(mfs_cache *cache, enum cache_rank rank)
{
	struct cache_slot *slot;
	unsigned passed = 0;

	for (int lower = 0; lower < (int)rank; lower++) {
		TAILQ_FOREACH_REVERSE(slot, &cache->lru[lower], cache_list, lru)
		{
			if (passed++ == SEARCH_MAX)
				break;
			if (!slot->users)
				return slot;
		}
	}
	return NULL;
}

static struct cache_slot *find_victim(mfs_cache *cache, enum cache_rank rank)
{
	struct cache_slot *slot = NULL;

	for (int i = 0; i < CACHE_RANKS && !slot; i++)
		slot = find_stale(cache, &cache->lru[i]);
	return slot ? slot : find_displaced(cache, rank);
}

bool mfs_cache_admits(mfs_cache *cache, enum cache_rank rank)
{
	if (!cache->memory)
		return false;
	return cache->used_slots < cache->limit ||
	       (cache->used_slots == cache->limit && find_victim(cache, rank));
}

/* ---- filling ---- */

void mfs_cache_expect(mfs_cache *cache, uint64_t bytes)
{
	cache->expected = bytes;
	cache->spread_until = cache->clock + bytes;
}

/* Multiples of the golden ratio fall evenly into any part of [0, 1). The share is
 * taken a little too large, so that an error of the estimate leaves nothing empty. */
static bool in_spread(const mfs_cache *cache, uint64_t region)
{
	uint64_t group = region * cache->slot_bytes / GROUP_BYTES;
	uint64_t place = group * UINT64_C(0x9e3779b97f4a7c15) >> 48;
	uint64_t bytes = mfs_cache_limit_bytes(cache);

	return cache->clock >= cache->spread_until ||
	       place * (cache->expected >> 16) <= bytes + bytes / 8;
}

/* An empty slot, or NULL if all must stay. */
static struct cache_slot *slot_new(mfs_cache *cache, enum cache_rank rank)
{
	struct cache_slot *slot;

	if (cache->used_slots >= cache->limit) {
		slot = cache->used_slots == cache->limit ? find_victim(cache, rank) : NULL;
		if (slot)
			slot_forget(cache, slot);
		return slot;
	}
	cache->used_slots++;
	if (cache->free == CACHE_NONE)
		return &cache->slot[cache->next_fresh++];
	slot = &cache->slot[cache->free];
	cache->free = slot->next;
	return slot;
}

static void slot_enter(mfs_cache *cache, struct cache_slot *slot, uint64_t region,
		       enum cache_rank rank)
{
	uint32_t *chain = chain_of(cache, region);

	*slot = (struct cache_slot){
	    .region = region, .next = *chain, .rank = (uint8_t)rank, .used = true};
	slot->last_use = cache->clock;
	*chain = slot_index(cache, slot);
	TAILQ_INSERT_TAIL(&cache->lru[rank], slot, lru);
}

bool mfs_cache_reserve(mfs_cache *cache, uint64_t offset, uint64_t limit, enum cache_rank rank,
		       mfs_cache_piece *out, uint64_t *next)
{
	uint64_t region = offset / cache->slot_bytes;
	uint64_t slot_end = min64((region + 1) * cache->slot_bytes, limit);
	uint64_t from = round_up(offset, cache->granule), to;
	struct cache_slot *slot = slot_find(cache, region);

	if (slot)
		from = mfs_cache_end(cache, from, slot_end);
	to = round_down(min64(run_end(cache, slot, from, false), slot_end), cache->granule);
	*next = slot_end;
	if (from >= to)
		return false;
	if (!slot) {
		if (rank == CACHE_WEIGHTS && !in_spread(cache, region))
			return false;
		slot = slot_new(cache, rank);
		if (!slot)
			return false;
		slot_enter(cache, slot, region, rank);
	}
	slot_promote(cache, slot, rank);
	slot->users++;
	*out = (mfs_cache_piece){.bytes = slot_memory(cache, slot) + from % cache->slot_bytes,
				 .offset = from,
				 .length = to - from,
				 .first = slot_index(cache, slot),
				 .count = 1};
	*next = to;
	return true;
}

void mfs_cache_commit(mfs_cache *cache, const mfs_cache_piece *piece)
{
	struct cache_slot *slot = &cache->slot[piece->first];
	unsigned first = (unsigned)(piece->offset % cache->slot_bytes / cache->granule);
	unsigned count = (unsigned)(piece->length / cache->granule);
	uint64_t bits = count == GRANULES ? UINT64_MAX : (UINT64_C(1) << count) - 1;

	if (slot->used) {
		slot->present |= bits << first;
		cache->held[slot->rank] += piece->length;
		slot_touch(cache, slot);
	}
	slot_release(cache, slot);
}

/* ---- size ---- */

static struct cache_slot *find_oldest(mfs_cache *cache)
{
	struct cache_slot *slot;

	for (int i = 0; i < CACHE_RANKS; i++) {
		TAILQ_FOREACH(slot, &cache->lru[i], lru)
		if (!slot->users)
			return slot;
	}
	return NULL;
}

bool mfs_cache_resize(mfs_cache *cache, uint64_t bytes, uint32_t most)
{
	uint64_t slots = bytes / cache->slot_bytes;
	struct cache_slot *slot;

	cache->limit = slots < cache->slots ? (uint32_t)slots : cache->slots;
	while (cache->used_slots > cache->limit && most--) {
		slot = find_oldest(cache);
		if (!slot)
			return true; /* readers hold the rest: the next call sees them */
		slot_drop(cache, slot);
	}
	return cache->used_slots <= cache->limit;
}
