/*
 * Makes the hashes of a damaged container fit again, so that what lies behind
 * them is reached. Takes any bytes: what does not lie inside the container is
 * left as it is. The container is described by the superblock in slot 0 and by
 * copy 1 of the root.
 */
#ifndef CONTAINER_REPAIR_H
#define CONTAINER_REPAIR_H

#include <stddef.h>
#include <string.h>
#include <xxhash.h>

#include "check.h"
#include "mfs_disk.h"

#define REPAIR_FRAMES_MAX 4096 /* frames that are looked at, whatever the counts say */

enum repair_what {
	REPAIR_SUPERBLOCKS = 1, /* also makes slot 1 and the tail equal to slot 0 */
	REPAIR_ROOT = 2,	/* also makes copy 2 equal to copy 1 */
	REPAIR_SEGMENTS = 4,
	REPAIR_FRAMES = 8, /* and tables */
	REPAIR_ALL = 15
};

static inline void repair_hash128(const uint8_t *bytes, size_t size, uint8_t out[16])
{
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, size));
	memcpy(out, canonical.digest, 16);
}

/* The place of superblock slot 1. */
static inline uint64_t repair_slot1(const uint8_t *bytes)
{
	const struct mfs_disk_superblock *sb = (const void *)bytes;

	return load_le16(&sb->profile) == 6 ? MFS_SB_SLOT1_NOR : MFS_SB_SLOT1;
}

/* The root's bytes, if they lie in the container; else NULL. */
static inline uint8_t *repair_root_at(uint8_t *bytes, size_t size, int copy)
{
	const struct mfs_disk_superblock *sb = (const void *)bytes;
	uint64_t offset = load_le64(&sb->root_offset[copy]);
	uint32_t root_size = load_le32(&sb->root_size);

	if (root_size < sizeof(struct mfs_disk_root) || !range_ok(offset, root_size, size))
		return NULL;
	return bytes + offset;
}

/* The records of a section, or NULL (and no records). */
static inline uint8_t *repair_section(uint8_t *bytes, size_t size, enum mfs_root_section section,
				      size_t record, uint32_t *count)
{
	const struct mfs_disk_superblock *sb = (const void *)bytes;
	uint8_t *root = repair_root_at(bytes, size, 0);
	uint32_t offset;

	*count = 0;
	if (!root)
		return NULL;
	offset = load_le32(root + 32 + 8 * section);
	if (!range_ok(offset, (uint64_t)load_le32(root + 36 + 8 * section) * record,
		      load_le32(&sb->root_size)))
		return NULL;
	*count = load_le32(root + 36 + 8 * section);
	return root + offset;
}

/* The entry of a frame in copy 1 of the frame table, or NULL. */
static inline uint8_t *repair_frame_entry(uint8_t *bytes, size_t size, uint64_t number)
{
	uint64_t at = number % MFS_SEGMENT_FRAME_COUNT * sizeof(struct mfs_disk_frame);
	const struct mfs_disk_segment *segments, *segment;
	uint32_t count;

	segments =
	    (const void *)repair_section(bytes, size, MFS_SEC_SEGMENTS, sizeof(*segments), &count);
	if (number / MFS_SEGMENT_FRAME_COUNT >= count)
		return NULL;
	segment = &segments[number / MFS_SEGMENT_FRAME_COUNT];
	if (!range_ok(at, sizeof(struct mfs_disk_frame), load_le32(&segment->size)) ||
	    !range_ok(load_le64(&segment->offset[0]), load_le32(&segment->size), size))
		return NULL;
	return bytes + load_le64(&segment->offset[0]) + at;
}

static inline void repair_frame(uint8_t *bytes, size_t size, uint64_t base, uint64_t number)
{
	uint8_t *entry = repair_frame_entry(bytes, size, number);
	uint64_t place = entry ? load_le64(entry) : 0;
	uint64_t offset = base + place % (UINT64_C(1) << MFS_FRAME_OFFSET_BITS);
	uint64_t stored = place >> MFS_FRAME_OFFSET_BITS;

	if (entry && range_ok(base, 0, MFS_FILE_MAX) && range_ok(offset, stored, size))
		store_le64(entry + 8, XXH3_64bits_withSeed(bytes + offset, stored, number));
}

/* Spans of a tensor, 0 where its numbers make no sense. */
static inline uint64_t repair_spans(uint8_t *bytes, size_t size, const struct mfs_disk_tensor *t)
{
	uint64_t slice = load_le64(&t->slice_blocks), span = load_le32(&t->span_blocks), block;
	uint32_t count, number = load_le32(&t->layout);
	const struct mfs_disk_layout *layouts =
	    (const void *)repair_section(bytes, size, MFS_SEC_LAYOUTS, sizeof(*layouts), &count);

	block = number < count ? load_le32(&layouts[number].block_bytes) : 0;
	if (!block || !slice || !span)
		return 0;
	return load_le64(&t->size) / block / slice * div_up(slice, span);
}

static inline void repair_frames(uint8_t *bytes, size_t size)
{
	uint32_t count, frames = 0;
	struct mfs_disk_tensor *tensors =
	    (void *)repair_section(bytes, size, MFS_SEC_TENSORS, sizeof(*tensors), &count);

	for (uint32_t i = 0; i < count; i++) {
		uint64_t spans = repair_spans(bytes, size, &tensors[i]);

		for (int s = 0; s < MFS_SLOTS; s++) {
			const struct mfs_disk_frames *run = &tensors[i].slot[s];
			/* A slot that the tensor has not got counts from 0. */
			uint64_t base = load_le64(&run->base);

			for (uint64_t f = 0; base && f < spans && frames++ < REPAIR_FRAMES_MAX; f++)
				repair_frame(bytes, size, base, load_le64(&run->first) + f);
		}
	}
}

static inline void repair_tables(uint8_t *bytes, size_t size)
{
	uint32_t count;
	struct mfs_disk_tables *tables = (void *)repair_section(
	    bytes, size, MFS_SEC_TABLES, sizeof(struct mfs_disk_tables), &count);

	for (uint32_t i = 0; i < count && i < 64; i++) {
		uint64_t offset = load_le64(&tables[i].offset);
		uint32_t stored = load_le32(&tables[i].size);

		if (range_ok(offset, stored, size))
			store_le64(&tables[i].hash, XXH3_64bits(bytes + offset, stored));
	}
}

static inline void repair_segments(uint8_t *bytes, size_t size)
{
	uint32_t count;
	struct mfs_disk_segment *segments = (void *)repair_section(
	    bytes, size, MFS_SEC_SEGMENTS, sizeof(struct mfs_disk_segment), &count);

	for (uint32_t i = 0; i < count && i < 64; i++) {
		uint64_t offset = load_le64(&segments[i].offset[0]);
		uint32_t stored = load_le32(&segments[i].size);

		if (range_ok(offset, stored, size))
			repair_hash128(bytes + offset, stored, segments[i].hash);
	}
}

static inline void repair_root(uint8_t *bytes, size_t size)
{
	struct mfs_disk_superblock *sb = (void *)bytes;
	uint32_t root_size = load_le32(&sb->root_size);
	uint8_t *root = repair_root_at(bytes, size, 0), *second = repair_root_at(bytes, size, 1);

	if (!root)
		return;
	repair_hash128(root, root_size, sb->root_hash);
	if (second && (second >= root + root_size || root >= second + root_size))
		memcpy(second, root, root_size);
}

static inline void repair_superblock(uint8_t *bytes, size_t size, uint64_t offset)
{
	struct mfs_disk_superblock *sb = (void *)(bytes + offset);

	if (!range_ok(offset, MFS_SB_SIZE, size))
		return;
	if (offset) {
		memcpy(sb, bytes, MFS_SB_SIZE);
		store_le64(&sb->own_offset, offset);
	}
	store_le64(&sb->hash, XXH3_64bits(sb, MFS_SB_HASHED));
}

/* `size` is that of the container, MFS_SB_SIZE at least. */
static inline void container_repair(uint8_t *bytes, size_t size, unsigned what)
{
	if (what & REPAIR_FRAMES) {
		repair_tables(bytes, size);
		repair_frames(bytes, size);
	}
	if (what & REPAIR_SEGMENTS)
		repair_segments(bytes, size);
	if (what & REPAIR_ROOT)
		repair_root(bytes, size);
	if (what & REPAIR_SUPERBLOCKS) {
		repair_superblock(bytes, size, repair_slot1(bytes));
		repair_superblock(bytes, size, round_down(size, MFS_SB_SIZE) - MFS_SB_SIZE);
		repair_superblock(bytes, size, 0);
	}
}

#endif
