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
 *   FLOAT   as PLANES, for numbers with eight bits of exponent: 8 is taken from the
 *           highest byte of each little-endian word (16 from the exponent), its
 *           upper five bits are inverted (so that 0 stays 0), and the word is
 *           rotated left by three bits. Then six bits of exponent and two of mantissa
 *           fill the highest plane, and the two lowest bits of the lowest plane are
 *           the same for all magnitudes from 2^-47 to 2^17
 *   SYMBOLS the field holds some bits (1, 2, 4 or 8) of each weight, packed in
 *           runs: weight j lies in byte j / (run * n) * run + j % run, shifted by
 *           bits * (j / run % n), where n = 8 / bits. One stream of the same size:
 *           groups of `width` weights, one after the other; byte i of a group of
 *           G bytes holds weights i, i + G, i + 2 G ... of the group, the first in
 *           its lowest bits
 *   EXTEND  packed likewise, these bits lie above those of the layout's one
 *           SYMBOLS field. Of the two together, the stream of SYMBOLS takes the
 *           upper bits, as many as its field has; the rest, which is nearly
 *           noise, is the stream of EXTEND, packed as the field is
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
	MFS_TRANSFORM_SYMBOLS = 3,
	MFS_TRANSFORM_EXTEND = 4,
	MFS_TRANSFORM_FLOAT = 5,
	MFS_TRANSFORMS
};

/* What FLOAT does to the highest byte of a word. */
static inline uint8_t mfs_float_top(uint8_t top)
{
	return (uint8_t)(top - 8) ^ 0xf8;
}

static inline uint8_t mfs_float_top_back(uint8_t top)
{
	return (uint8_t)((top ^ 0xf8) + 8);
}

/* What is known of a group of symbols once the constants are decoded: a value
 * from 0 to 255 that depends on these bytes of the block (context.h). */
enum mfs_context {
	MFS_CONTEXT_NONE = 0,
	/* fp16 scale and minimum of the block, 12 bytes with 6 bits of each for eight
	 * groups as in ggml's Q4_K: the group's minimum in units of its scale. */
	MFS_CONTEXT_RATIO = 1,
	/* The group's scale in units of its neighbourhood's: fp16 scale of the block; */
	MFS_CONTEXT_HALF = 2,
	/* a byte that is the scale's exponent; */
	MFS_CONTEXT_EXPONENT = 3,
	/* fp16 scale of the block, then a signed byte for each group. */
	MFS_CONTEXT_HALF_BYTES = 4,
	/* fp16 scale of the block, then 32 more than each group's scale in six bits, as
	 * in ggml's IQ4_XS: the lower four, two groups to a byte, and the upper two,
	 * four groups to a byte. */
	MFS_CONTEXT_HALF_SIX = 5,
	/* As RATIO, with a byte for each group: its scale in the lower four bits, its
	 * minimum in the upper four. */
	MFS_CONTEXT_RATIO_NIBBLES = 6,
	/* As RATIO, with no more than fp16 scale and minimum of the block. */
	MFS_CONTEXT_RATIO_HALVES = 7,
	MFS_CONTEXTS
};
#define MFS_CONTEXT_OFFSETS 3

typedef struct {
	const char *name; /* not terminated; name_length bytes */
	uint16_t name_length;
	uint8_t cls; /* MFS_DISK_WEIGHTS or MFS_DISK_CONSTANTS */
	uint8_t transform;
	uint8_t width; /* bytes of a word; weights of a group, for SYMBOLS; else 1 */
	uint8_t bits;
	uint16_t run; /* for SYMBOLS and EXTEND; else 0 */
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

/* The fields of symbols. */
typedef struct {
	uint32_t weights; /* of a block; 0: the layout has no SYMBOLS */
	uint8_t group;	  /* weights */
	uint8_t pack;	  /* weights to a byte of the stream of SYMBOLS */
	uint8_t low;	  /* field numbers */
	uint8_t high;	  /* as `low` where nothing extends */
	uint8_t stream;	  /* number of the stream of SYMBOLS */
} mfs_symbols;

typedef struct {
	const char *name;
	uint16_t name_length;
	uint32_t type_id;
	uint32_t block_bytes;
	uint32_t block_weights;
	uint8_t context;
	uint16_t context_offset[MFS_CONTEXT_OFFSETS];
	uint32_t field_count;
	mfs_field field[MFS_STREAMS_MAX];
	/* Derived by mfs_layout_finish(). */
	uint32_t stream_count;
	uint32_t slot_streams[MFS_SLOTS]; /* streams of each slot */
	uint32_t slot_bytes[MFS_SLOTS];	  /* bytes of a block in each slot */
	mfs_stream stream[MFS_STREAMS_MAX];
	mfs_symbols symbols;
} mfs_layout;

/* Checks that the fields tile the block, that transforms, widths and the context
 * fit, and fills in the streams. 0, or a negative mfs_error. */
int mfs_layout_finish(mfs_layout *layout);

/* Cuts `blocks` blocks at `in` into streams; stream[s] has room for
 * blocks * layout->stream[s].per_block bytes. */
void mfs_layout_split(const mfs_layout *layout, uint32_t blocks, const uint8_t *in,
		      uint8_t *const stream[]);

/* The reverse: writes blocks * block_bytes bytes to `out`. */
void mfs_layout_join(const mfs_layout *layout, uint32_t blocks, const uint8_t *const stream[],
		     uint8_t *out);

/* As mfs_layout_join(), but only the fields of `slot`. */
void mfs_layout_join_slot(const mfs_layout *layout, unsigned slot, uint32_t blocks,
			  const uint8_t *const stream[], uint8_t *out);

/* The first `words` words of a layout whose block is one field of PLANES, ROTATE or
 * FLOAT. */
void mfs_layout_join_words(const mfs_layout *layout, size_t words, const uint8_t *const stream[],
			   uint8_t *out);

/* The generic path, byte by byte, that the two above are tested against. */
void mfs_layout_split_reference(const mfs_layout *layout, uint32_t blocks, const uint8_t *in,
				uint8_t *const stream[]);
void mfs_layout_join_reference(const mfs_layout *layout, uint32_t blocks,
			       const uint8_t *const stream[], uint8_t *out);

/* The layout of opaque bytes: blocks of one byte, one stream. */
const mfs_layout *mfs_layout_bytes(void);

#endif
