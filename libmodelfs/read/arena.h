/*
 * A capped, preallocated arena: every buffer that reading needs comes from one
 * block of memory, taken at the start. Not locked: the reader's lock guards it.
 */
#ifndef MFS_ARENA_H
#define MFS_ARENA_H

#include <stddef.h>
#include <stdint.h>

/* Buffers are multiples of this and aligned to it: what O_DIRECT can ask for. */
#define MFS_ARENA_UNIT 4096u

typedef struct {
	uint8_t *memory;
	size_t bytes;
	uint64_t *used; /* a bit for each unit */
	size_t units;
	size_t used_units;
	size_t touched_units; /* none behind these was ever used, so they take no memory yet */
	size_t hint;	      /* where the next search begins */
} mfs_arena;

/* 0 or MFS_E_MEMORY. The memory is touched only when it is used. */
int mfs_arena_open(mfs_arena *arena, size_t bytes);
void mfs_arena_close(mfs_arena *arena);

/* `bytes` (> 0) in one piece, or NULL if there is no such room. */
void *mfs_arena_take(mfs_arena *arena, size_t bytes);
/* Gives back what was taken with the same `bytes`. */
void mfs_arena_give(mfs_arena *arena, void *memory, size_t bytes);

static inline size_t mfs_arena_used_bytes(const mfs_arena *arena)
{
	return arena->used_units * MFS_ARENA_UNIT;
}

#endif
