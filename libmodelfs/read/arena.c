#include "arena.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "check.h"
#include "modelfs_error.h"

/* Large memory pages, where the kernel has them: a request into one is a single
 * segment for the device, which many devices take in requests twice as long. Not for
 * small arenas, where clearing a page of this size takes longer than what is read. */
#define LARGE_PAGE	 ((size_t)2 << 20)
#define LARGE_PAGES_FROM ((size_t)16 << 20)

/* Begins where a large memory page may; NULL if there is no memory. */
static void *map_memory(size_t bytes)
{
	size_t mapped = bytes + LARGE_PAGE, head;
	uint8_t *memory =
	    mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return NULL;
	head = -(uintptr_t)memory % LARGE_PAGE;
	if (head)
		munmap(memory, head);
	munmap(memory + head + bytes, LARGE_PAGE - head);
	if (bytes >= LARGE_PAGES_FROM)
		madvise(memory + head, bytes, MADV_HUGEPAGE);
	return memory + head;
}

int mfs_arena_open(mfs_arena *arena, size_t bytes)
{
	void *memory;

	memset(arena, 0, sizeof(*arena));
	arena->units = div_up(bytes, MFS_ARENA_UNIT);
	arena->bytes = arena->units * MFS_ARENA_UNIT;
	if (arena->bytes > SIZE_MAX - LARGE_PAGE || !(memory = map_memory(arena->bytes)))
		return MFS_E_MEMORY;
	arena->used = calloc(div_up(arena->units, 64), sizeof(uint64_t));
	if (!arena->used) {
		munmap(memory, arena->bytes);
		return MFS_E_MEMORY;
	}
	arena->memory = memory;
	return 0;
}

void mfs_arena_close(mfs_arena *arena)
{
	if (arena->memory)
		munmap(arena->memory, arena->bytes);
	free(arena->used);
	memset(arena, 0, sizeof(*arena));
}

static void mark(mfs_arena *arena, size_t first, size_t count, bool used)
{
	size_t end = first + count;

	for (size_t i = first; i < end; i += 64 - i % 64) {
		uint64_t bits = UINT64_MAX << i % 64;

		if (end - i / 64 * 64 < 64)
			bits &= (UINT64_C(1) << end % 64) - 1;
		if (used)
			arena->used[i / 64] |= bits;
		else
			arena->used[i / 64] &= ~bits;
	}
	if (used)
		arena->used_units += count;
	else
		arena->used_units -= count;
}

/* The first unit in [from, to) that is in use, or that is free; `to` if there is
 * none. A word of the map at a time. */
static size_t next_unit(const mfs_arena *arena, size_t from, size_t to, bool used)
{
	while (from < to) {
		uint64_t word = used ? arena->used[from / 64] : ~arena->used[from / 64];

		word >>= from % 64;
		if (word) {
			from += (size_t)__builtin_ctzll(word);
			return from < to ? from : to;
		}
		from += 64 - from % 64;
	}
	return to;
}

/* First run of `count` free units in [from, to), or `to`. */
static size_t find_free(const mfs_arena *arena, size_t count, size_t from, size_t to)
{
	while (from < to) {
		size_t start = next_unit(arena, from, to, false);

		if (to - start < count)
			return to;
		from = next_unit(arena, start, start + count, true);
		if (from == start + count)
			return start;
	}
	return to;
}

/* Next fit: buffers that were taken one after the other lie so, too, and are
 * given back in about that order, which keeps large holes together. */
void *mfs_arena_take(mfs_arena *arena, size_t bytes)
{
	size_t count = div_up(bytes, MFS_ARENA_UNIT);
	size_t at;

	if (count > arena->units - arena->used_units)
		return NULL;
	at = find_free(arena, count, arena->hint, arena->units);
	if (at == arena->units) {
		at = find_free(arena, count, 0, arena->units);
		if (at == arena->units)
			return NULL;
	}
	mark(arena, at, count, true);
	arena->hint = at + count;
	if (arena->touched_units < at + count)
		arena->touched_units = at + count;
	return arena->memory + at * MFS_ARENA_UNIT;
}

void mfs_arena_give(mfs_arena *arena, void *memory, size_t bytes)
{
	size_t at = (size_t)((uint8_t *)memory - arena->memory) / MFS_ARENA_UNIT;

	mark(arena, at, div_up(bytes, MFS_ARENA_UNIT), false);
}
