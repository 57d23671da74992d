/* The superblock: bytes <-> struct. Pure functions. */
#ifndef MFS_SUPERBLOCK_H
#define MFS_SUPERBLOCK_H

#include "mfs_disk.h"

typedef struct {
	uint64_t own_offset;
	uint16_t version;
	uint16_t profile;
	uint32_t page_size;
	uint32_t feature_compat;
	uint32_t feature_incompat;
	uint64_t generation;
	uint64_t container_size;
	uint64_t root_offset[2];
	uint32_t root_size;
	uint32_t frame_size;
	uint8_t root_hash[16];
	uint8_t uuid[16];
} mfs_superblock;

/* Decodes the superblock that was read from `offset` of the container. 0, or
 * MFS_E_MAGIC, MFS_E_CORRUPT, MFS_E_UNSUPPORTED; *out is set on success only. */
int mfs_superblock_decode(mfs_superblock *out, const uint8_t buf[MFS_SB_SIZE], uint64_t offset);

/* The reverse; own_offset comes from `sb`. */
void mfs_superblock_encode(const mfs_superblock *sb, uint8_t buf[MFS_SB_SIZE]);

#endif
