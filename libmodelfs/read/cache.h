/*
 * The cache: stored (compressed) bytes kept in memory, for models larger than it.
 *
 * It holds *slots*: aligned regions of the container, of which any granules may
 * be present. Its policy is fill and hold: what is admitted stays, and a full
 * cache admits nothing new, so a cyclic scan of C bytes finds as many of them as
 * fit in each pass, where replacing the oldest would find none. Two exceptions:
 *
 * - Constants displace weights, never the reverse. The weights used last go
 *   first: in a scan these lie where filling has come to, so that what is held
 *   stays in one piece.
 * - A slot that was not used while more bytes were taken than a cycle can have
 *   is free to be replaced. `clock` counts the stored bytes that were taken; a
 *   cycle is what the files that are being read have (mfs_cache_note_file), half
 *   as much again for bytes that are taken twice. So a slot that a cyclic scan
 *   uses is never replaced, and a model no longer read makes room for the next.
 *
 * While the first cycle fills it, weights are taken in groups spread evenly over
 * what is read (mfs_cache_expect): a scan then never comes through so much that
 * is held that the medium has nothing to do meanwhile. After that cycle whatever
 * comes fills the slots that are left.
 *
 * Memory is taken from the kernel as slots are filled. Bytes in use are held
 * (mfs_cache_take), filling happens in three steps so that the copy needs no
 * lock (mfs_cache_reserve, memcpy, mfs_cache_commit). Not locked: the reader's
 * lock guards it.
 */
#ifndef MFS_CACHE_H
#define MFS_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

/* What may displace what: a higher rank a lower one. */
enum cache_rank { CACHE_WEIGHTS, CACHE_CONSTANTS, CACHE_RANKS };

#define CACHE_SLOT_BYTES (64u << 10)

struct cache_slot {
	uint64_t region;   /* container offset / slot bytes */
	uint64_t present;  /* a bit for each granule */
	uint64_t last_use; /* clock */
	uint32_t next;	   /* in its hash chain, or of the free slots; CACHE_NONE ends both */
	uint32_t users;	   /* pieces held, and being filled */
	uint8_t rank;
	bool used;    /* in the hash and in a list */
	bool dropped; /* to be freed when its last user is gone */
	TAILQ_ENTRY(cache_slot) lru;
};
TAILQ_HEAD(cache_list, cache_slot);

/* A file that was read, in `recent`: the last one first. */
struct cache_file {
	uint64_t bytes;
	uint64_t last_read; /* clock */
	bool listed;
	TAILQ_ENTRY(cache_file) link;
};
TAILQ_HEAD(cache_file_list, cache_file);

typedef struct {
	uint8_t *memory; /* NULL: no cache */
	size_t slot_bytes, granule;
	uint32_t slots; /* that there is address space for */
	uint32_t limit; /* that may be used; see mfs_cache_resize */
	uint32_t used_slots;
	uint32_t next_fresh; /* slots from here on were never used */
	uint32_t free;	     /* chain of slots used before */
	struct cache_slot *slot;
	uint32_t *chain; /* hash heads */
	unsigned chain_bits;
	struct cache_list lru[CACHE_RANKS]; /* first: oldest */
	uint64_t clock;
	struct cache_file *files;
	struct cache_file_list recent;
	uint64_t cycle, cycle_clock; /* see cycle_bytes() */
	uint64_t held[CACHE_RANKS];  /* bytes present */
	uint64_t expected;	     /* stored bytes of the cycle */
	uint64_t spread_until;	     /* clock */
} mfs_cache;

/* Bytes held in one piece. */
typedef struct {
	const uint8_t *bytes;
	uint64_t offset; /* in the container */
	uint64_t length;
	uint32_t first, count; /* slots */
} mfs_cache_piece;

/* `bytes` (> 0) is all that it may ever take, its own tables included; `unit`
 * (a power of two) divides all offsets and lengths. `files` is the number of
 * virtual files. 0 or MFS_E_MEMORY. */
int mfs_cache_open(mfs_cache *cache, uint64_t bytes, uint32_t unit, uint32_t files);
void mfs_cache_close(mfs_cache *cache);

/* ---- looking up ---- */

/* The end of the bytes that are present from `offset` on, at most `limit`;
 * `offset` itself if it is not present. */
uint64_t mfs_cache_end(const mfs_cache *cache, uint64_t offset, uint64_t limit);
/* Where the next present byte lies at or behind `offset`, at most `limit`. */
uint64_t mfs_cache_next(const mfs_cache *cache, uint64_t offset, uint64_t limit);
/* Holds what is present from `offset` on as far as it lies together in memory,
 * at most to `limit`. False if `offset` is not present. */
bool mfs_cache_take(mfs_cache *cache, uint64_t offset, uint64_t limit, mfs_cache_piece *out);
/* Lets go. `bad`: the bytes were wrong, and nobody shall find them again. */
void mfs_cache_give(mfs_cache *cache, const mfs_cache_piece *piece, bool bad);

/* ---- filling ---- */

/* Room for the bytes from `offset` to the end of their slot, at most to `limit`;
 * the caller fills it, without the lock, and commits. False if they are not to
 * be kept; *next is then where to go on. */
bool mfs_cache_reserve(mfs_cache *cache, uint64_t offset, uint64_t limit, enum cache_rank rank,
		       mfs_cache_piece *out, uint64_t *next);
void mfs_cache_commit(mfs_cache *cache, const mfs_cache_piece *piece);
/* False if nothing of this rank would find room now. */
bool mfs_cache_admits(mfs_cache *cache, enum cache_rank rank);

/* ---- policy ---- */

/* Stored bytes were taken, from the cache or from the medium. */
void mfs_cache_tick(mfs_cache *cache, uint64_t bytes);
/* The file, of so many bytes, was read. */
void mfs_cache_note_file(mfs_cache *cache, uint32_t file, uint64_t bytes);
/* The files being read have about so many stored bytes: how far to spread. */
void mfs_cache_expect(mfs_cache *cache, uint64_t bytes);
/* Bytes of the files that are being read, one after the other or at once. */
uint64_t mfs_cache_files_bytes(mfs_cache *cache);

/* ---- size ---- */

/* What may be used from now on. Slots above it are dropped, weights first, the
 * oldest first, and their memory given back to the kernel, at most `most` of
 * them in one call. True if there is nothing left to drop. */
bool mfs_cache_resize(mfs_cache *cache, uint64_t bytes, uint32_t most);

static inline uint64_t mfs_cache_limit_bytes(const mfs_cache *cache)
{
	return (uint64_t)cache->limit * cache->slot_bytes;
}

static inline uint64_t mfs_cache_used_bytes(const mfs_cache *cache)
{
	return (uint64_t)cache->used_slots * cache->slot_bytes;
}

#endif
