/*
 * Layouts: how the blocks of a tensor type are cut into fields, and fields into
 * streams. Pure functions; no memory is allocated; safe from any thread.
 *
 * A field lies at the same place of every block. Its transform says which
 * streams it becomes:
 *   BYTES   one stream: the field of block 0, of block 1, ...
 *   PLANES  the field is words of `width` bytes: stream k holds byte k of every
 *           word (0 = least significant)
 *   ROTATE  as PLANES, after rotating each little-endian word left by one bit,
 *           which puts the sign of an IEEE or bfloat16 number behind its
 *           mantissa and lets 8-bit exponents fill a byte of their own
 * Streams are numbered in field order, then plane order; those of one class
 * keep that order inside a frame.
 */
#ifndef MFS_LAYOUT_H
#define MFS_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include "mfs_disk.h"

enum mfs_transform {
	MFS_TRANSFORM_BYTES = 0,
	MFS_TRANSFORM_PLANES = 1,
	MFS_TRANSFORM_ROTATE = 2,
	MFS_TRANSFORMS
};

typedef struct {
	const char *name; /* not terminated; name_length bytes */
	uint16_t name_length;
	uint8_t cls; /* MFS_DISK_WEIGHTS or MFS_DISK_CONSTANTS */
	uint8_t transform;
	uint8_t width;
	uint8_t bits;
	uint32_t offset;
	uint32_t size;
} mfs_field;

/* A stream: `per_block` bytes of each block. */
typedef struct {
	uint32_t per_block;
	uint8_t slot; /* 0 weights, 1 constants */
	uint8_t field;
	uint8_t plane;
} mfs_stream;

typedef struct {
	const char *name;
	uint16_t name_length;
	uint32_t type_id;
	uint32_t block_bytes;
	uint32_t block_weights;
	uint32_t field_count;
	mfs_field field[MFS_STREAMS_MAX];
	/* Derived by mfs_layout_finish(). */
	uint32_t stream_count;
	uint32_t slot_streams[MFS_SLOTS]; /* streams of each slot */
	uint32_t slot_bytes[MFS_SLOTS];	  /* bytes of a block in each slot */
	mfs_stream stream[MFS_STREAMS_MAX];
} mfs_layout;

/* Checks that the fields tile the block, that transforms and widths fit, and
 * fills in the streams. 0, or a negative mfs_error. */
int mfs_layout_finish(mfs_layout *layout);

/* Cuts `blocks` blocks at `in` into streams; stream[s] has room for
 * blocks * layout->stream[s].per_block bytes. */
void mfs_layout_split(const mfs_layout *layout, uint32_t blocks, const uint8_t *in,
		      uint8_t *const stream[]);

/* The reverse: writes blocks * block_bytes bytes to `out`. */
void mfs_layout_join(const mfs_layout *layout, uint32_t blocks, const uint8_t *const stream[],
		     uint8_t *out);

/* The generic path, byte by byte, that the two above are tested against. */
void mfs_layout_split_reference(const mfs_layout *layout, uint32_t blocks, const uint8_t *in,
				uint8_t *const stream[]);
void mfs_layout_join_reference(const mfs_layout *layout, uint32_t blocks,
			       const uint8_t *const stream[], uint8_t *out);

/* The layout of opaque bytes: blocks of one byte, one stream. */
const mfs_layout *mfs_layout_bytes(void);

#endif
