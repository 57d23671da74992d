/*
 * The container, over any bytes. An input is short:
 *
 *   1 byte     control: bits 0 to 3: what NOT to repair (container_repair.h);
 *              bit 4: container_size as it is, else that of the container made
 *              here; bit 5: both slots are blanked, so that the tail serves;
 *              bit 6: copy 1 of the root is spoiled, so that copy 2 serves; bit 7:
 *              the root, which is there as it is read, is stored in columns
 *   104 bytes  the fields of the superblock
 *   the rest   what lies behind slot 1 of a container of profile nor
 *
 * Superblocks and their padding are put in here, and hashes are made to fit, so
 * that an input reaches what lies behind them. Container bytes that no mutation
 * could do anything with are left out.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "container.h"
#include "root_columns.h"
#define MEMORY_IO_RECORDS 1024
#include "../unit/memory_io.h"
#include "../unit/exercise.h"
#include "../gen/container_repair.h"

#define SB_FIELDS 104
#define BODY	  (MFS_SB_SLOT1_NOR + MFS_SB_SIZE)
#define BODY_MAX  (256u << 10)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum control { KEEP_SIZE = 16, BLANK_SLOTS = 32, SPOIL_ROOT = 64, COLUMNS = 128 };

/* Puts the columns of the root in its place, if they are no larger. */
static void store_in_columns(uint8_t *bytes, size_t size)
{
	struct mfs_disk_superblock *sb = (void *)bytes;
	uint32_t root_size = load_le32(&sb->root_size), stored;
	uint8_t *root = repair_root_at(bytes, size, 0), *columns;

	if (!root || root < bytes + BODY)
		return;
	columns = malloc(mfs_columns_bound(root_size));
	if (!columns)
		abort();
	stored = mfs_columns_encode(root, root_size, columns, mfs_columns_bound(root_size));
	if (stored && stored <= root_size) {
		memcpy(root, columns, stored);
		store_le32(&sb->root_size, stored);
		store_le32(&sb->feature_incompat, MFS_INCOMPAT_COLUMNS);
	}
	free(columns);
}

static uint8_t *build(const uint8_t *data, size_t size, size_t *container_size)
{
	uint8_t control = data[0];
	unsigned repair = ~control & REPAIR_ALL;
	size_t body = size - 1 - SB_FIELDS;
	uint8_t *bytes, *root;

	*container_size = round_up(BODY + body + MFS_SB_SIZE, MFS_SB_SIZE);
	bytes = calloc(1, *container_size);
	if (!bytes)
		abort();
	memcpy(bytes, data + 1, SB_FIELDS);
	memcpy(bytes + BODY, data + 1 + SB_FIELDS, body);
	if (!(control & KEEP_SIZE))
		store_le64(&((struct mfs_disk_superblock *)bytes)->container_size, *container_size);
	if (control & COLUMNS) {
		container_repair(bytes, *container_size,
				 repair & (REPAIR_FRAMES | REPAIR_SEGMENTS));
		store_in_columns(bytes, *container_size);
		repair &= REPAIR_ROOT | REPAIR_SUPERBLOCKS;
	}
	container_repair(bytes, *container_size, repair);
	root = repair_root_at(bytes, *container_size, 0);
	if (control & SPOIL_ROOT && root && root >= bytes + BODY)
		root[0] ^= 1;
	if (control & BLANK_SLOTS)
		memset(bytes, 0, BODY);
	return bytes;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	mfs_open_options options = MFS_OPEN_OPTIONS_INIT;
	mfs_problem why = {0};
	mfs_container *c;
	size_t container_size;
	uint8_t *bytes;

	if (size < 1 + SB_FIELDS || size > BODY_MAX)
		return 0;
	bytes = build(data, size, &container_size);
	options.decoders = 1;
	options.arena_bytes = 8u << 20;
	options.no_prefetch = 1;
	if (mfs_open_io(&c, &memory_io_new(bytes, container_size)->head, "input", &options, &why)) {
		EXERCISE_REQUIRE(!c && why.error < 0 && why.text[0]);
	} else {
		exercise_container(c);
		mfs_close(c);
	}
	free(bytes);
	return 0;
}

/* ---- mutations that know where the root lies ---- */

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

static uint64_t next_number(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static uint64_t new_value(uint64_t old, size_t size, uint64_t *state)
{
	static const uint64_t edges[] = {0,	     1,		 8,	    255,
					 512,	     4096,	 65535,	    65536,
					 1u << 20,   4u << 20,	 INT32_MAX, UINT32_MAX,
					 1ull << 40, 1ull << 62, INT64_MAX, UINT64_MAX};

	switch (next_number(state) % 4) {
	case 0:
		return edges[next_number(state) % (sizeof(edges) / sizeof(edges[0]))];
	case 1:
		return old + next_number(state) % 9 - 4;
	case 2:
		return next_number(state) % (size + 1);
	default:
		return next_number(state) >> next_number(state) % 64;
	}
}

/* A field of one record (or of none) gets another value. */
static void change_field(uint8_t *data, size_t size, size_t from, size_t length, uint64_t *state)
{
	size_t width = (size_t)1 << next_number(state) % 4;
	uint8_t *at = data + from + next_number(state) % (length / width) * width;
	uint64_t value = 0;

	for (size_t i = 0; i < width; i++)
		value |= (uint64_t)at[i] << 8 * i;
	value = new_value(value, size, state);
	for (size_t i = 0; i < width; i++)
		at[i] = (uint8_t)(value >> 8 * i);
}

/* Three in four inputs keep their shape, so that they still open: a field of the
 * root changes, or some bytes of tables and frames. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
	uint64_t state = seed;
	const struct mfs_disk_superblock *sb = (const void *)(data + 1);
	size_t fields = 1 + SB_FIELDS, at, length;
	uint64_t root, root_size;

	if (size < fields + 16 || next_number(&state) % 4 == 0)
		return LLVMFuzzerMutate(data, size, max_size);
	root = load_le64(&sb->root_offset[0]) - BODY;
	root_size = load_le32(&sb->root_size);
	if (next_number(&state) % 8)
		data[0] = next_number(&state) % 2 ? COLUMNS : 0;
	if (next_number(&state) % 2 && root_size >= 8 && range_ok(root, root_size, size - fields)) {
		change_field(data, size, fields + root, root_size, &state);
		return size;
	}
	at = fields + next_number(&state) % (size - fields);
	length = next_number(&state) % 64 + 1;
	if (length > size - at)
		length = size - at;
	LLVMFuzzerMutate(data + at, length, length);
	return size;
}
#endif
