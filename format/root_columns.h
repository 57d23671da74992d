/*
 * A root as columns: how large roots are stored. Records of a section resemble
 * each other, and the records of a view those of its base; so byte k of all records
 * lies together, of their 32-bit words' differences to the record before, and what
 * comes out is one zstd frame behind the header of the root. The root that is
 * decoded is the same, byte for byte. See "Roots in columns" in the specification.
 *
 * Pure functions; any thread.
 */
#ifndef MFS_ROOT_COLUMNS_H
#define MFS_ROOT_COLUMNS_H

#include <stddef.h>
#include <stdint.h>

/* Room that mfs_columns_encode() needs for a root of `size` bytes. */
size_t mfs_columns_bound(uint32_t size);

/* Encodes the `size` bytes at `root`, laid out by mfs_root_layout(). Bytes at `out`,
 * or 0 if there is no memory. */
uint32_t mfs_columns_encode(const uint8_t *root, uint32_t size, uint8_t *out, size_t room);

/* Bytes of the root that the `stored_size` bytes at `stored` (any bytes) decode to:
 * MFS_ROOT_MAX at the most. MFS_E_CORRUPT: with the reason, a constant string, in
 * *reason. */
int mfs_columns_root_size(const uint8_t *stored, uint32_t stored_size, uint32_t *size,
			  const char **reason);

/* Decodes them to `out`, which has that many bytes, all of them 0. 0, MFS_E_CORRUPT
 * with the reason, or MFS_E_MEMORY. The root is not checked: mfs_root_open() does. */
int mfs_columns_decode(uint8_t *out, const uint8_t *stored, uint32_t stored_size,
		       const char **reason);

#endif
