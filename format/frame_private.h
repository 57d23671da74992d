/* What frame.c, tables.c and literals.c share. Nobody else includes this. */
#ifndef MFS_FRAME_PRIVATE_H
#define MFS_FRAME_PRIVATE_H

#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

#include "frame.h"

/* Streams start at multiples of this in scratch memory. */
#define MFS_STREAM_ALIGN 64
/* An encoder's scratch memory holds at least the bytes that a tree is made from. */
#define MFS_TYPICAL_ROOM (64u << 10)

struct mfs_encoder {
	size_t max_span;
	ZSTD_CCtx *literals;
	ZSTD_CCtx *matches;
	uint8_t *split; /* streams of the span at hand */
	uint8_t *coded; /* their coded forms */
	uint32_t histogram[MFS_STREAMS_MAX][256];
};

struct mfs_tables {
	uint32_t streams;
	size_t memory;
	ZSTD_DDict *decoding[MFS_STREAMS_MAX]; /* NULL where a stream has none */
	ZSTD_CDict *encoding[MFS_STREAMS_MAX];
};

/* Room for the coded form of `size` bytes. */
size_t mfs_coded_bound(size_t size);

/* Cuts the span into the encoder's scratch memory and points `stream` there. */
void mfs_encoder_split(mfs_encoder *encoder, const mfs_layout *layout, uint32_t blocks,
		       const uint8_t *in, const uint8_t *stream[]);

/* ---- literals.c: standard zstd frames that hold literals only ---- */

/* A context for mfs_literals_encode(), or NULL. */
ZSTD_CCtx *mfs_literals_context(void);
/* A dictionary that it takes, or NULL if zstd refuses the bytes. */
ZSTD_CDict *mfs_literals_dictionary(const uint8_t *stored, size_t size);

/* Codes at most MFS_FRAME_MAX bytes, with or without a dictionary; `out` has
 * room for mfs_coded_bound(size). Returns the coded size, 0 if zstd failed. */
size_t mfs_literals_encode(ZSTD_CCtx *context, const ZSTD_CDict *dictionary, const uint8_t *in,
			   size_t size, uint8_t *out);

/* Adds the bytes to the histogram. */
void mfs_histogram_add(uint32_t histogram[256], const uint8_t *in, size_t size);

/* A size in bytes that no coding of single bytes goes below, but for rounding. */
size_t mfs_histogram_bound(const uint32_t histogram[256]);

#define MFS_TREE_MAX 129 /* bytes of a stored Huffman tree */

/* The Huffman tree, as zstd stores it, of bytes distributed like the histogram.
 * Returns its size; 0 if such bytes would not be coded with a tree. */
size_t mfs_literals_tree(mfs_encoder *encoder, const uint32_t histogram[256],
			 uint8_t tree[MFS_TREE_MAX]);

#endif
