/*
 * Spans <-> frames. A span's blocks are split into streams; each class's
 * streams are coded and packed into one frame.
 *
 * A frame's stored bytes are, by their number:
 *   0                        every stream is all zeros
 *   the streams' bytes       the streams as they are, back to back
 *   anything less            a le32 for each stream (coding << 28 | stored length),
 *                            then the coded streams back to back; a sparse frame
 *                            has a le32 and the mask more, before the streams'
 * so no coding makes a frame larger than its raw bytes.
 *
 * A codec holds contexts and scratch memory: one for each thread, reused from
 * frame to frame, nothing is allocated per frame.
 */
#ifndef MFS_FRAME_H
#define MFS_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "layout.h"

enum mfs_coding {
	MFS_CODING_RAW = 0,
	MFS_CODING_ZERO = 1,	 /* all zeros: no bytes stored */
	MFS_CODING_ZSTD = 2,	 /* a zstd frame, matches allowed */
	MFS_CODING_LITERALS = 3, /* a zstd frame that holds literals only */
	MFS_CODING_SHARED = 4,	 /* as LITERALS, with the tensor's tree for this stream */
	/* Groups of symbols sorted by their context into the tensor's buckets, in
	 * each bucket in the order of the blocks; of each bucket that is not empty a
	 * zstd frame of literals with the bucket's tree. */
	MFS_CODING_BUCKETS = 5,
	/* Only in place of a frame's first stream, for frames of one field of PLANES,
	 * ROTATE or FLOAT: a mask with a bit for each word, the first in the lowest bit,
	 * set where the word is not zero; raw, or a zstd frame. The streams follow as
	 * in any frame, without the words that are zero. */
	MFS_CODING_SPARSE = 6,
	/* The bits that vary, where the other bits of all bytes have one value: mask of
	 * the first, value of the others, a le16 number of exceptions, a le32 for each
	 * (place | byte << 24), then the bits, packed (packed.c). */
	MFS_CODING_PACKED = 7,
	/* Groups of bytes sorted into the tensor's buckets as for BUCKETS, by marks: a le32
	 * and so many bytes that tell the bucket of each group (raw, or a zstd frame), of each
	 * bucket that is not empty a zstd frame of literals, then the bytes that fill no
	 * group. */
	MFS_CODING_MARKED = 8,
	MFS_CODINGS
};

/* Name of a coding, as in modelfs-stat: "raw", "zero", "zstd", "literals",
 * "shared", "buckets", "sparse", "packed", "marked". */
const char *mfs_coding_name(unsigned coding);

/* ---- tables: Huffman trees that the frames of one tensor and class share ---- */

/* Once open they do not change: any number of threads may use them. */
typedef struct mfs_tables mfs_tables;

enum mfs_tables_use { MFS_TABLES_DECODE = 0, MFS_TABLES_BOTH = 1, MFS_TABLES_ENCODE = 2 };

/* Opens stored tables of `streams` streams. Copies what it needs. 0, or a negative mfs_error; *out
 * is set on success only. */
int mfs_tables_open(mfs_tables **out, const uint8_t *stored, size_t size, uint32_t streams,
		    enum mfs_tables_use use);
void mfs_tables_free(mfs_tables *tables); /* NULL is fine */
/* Whether stored tables have marked buckets, as far as they are there. */
int mfs_tables_have_marks(const uint8_t *stored, size_t size, uint32_t streams);
size_t mfs_tables_memory(const mfs_tables *tables);

/* ---- encoding ---- */

typedef struct mfs_encoder mfs_encoder;

typedef struct {
	/* A stream is coded only if that saves at least this share of it, in 1/1024. */
	uint32_t min_gain;
	/* zstd level for streams where matches may help (class metadata, opaque
	 * bytes); 0: literals only, but for spans whose rows repeat. */
	int match_level;
	/* Bit c: coding c is not to be used. Raw and zero always may. */
	uint32_t refused;
	/* Blocks of a row of the tensor, which one neighbourhood of scales may be; 0
	 * where rows are not whole blocks. */
	uint32_t row_blocks;
} mfs_coding_rules;

/* What a frame came to, for statistics. */
typedef struct {
	uint32_t stored;		 /* bytes */
	uint32_t by_coding[MFS_CODINGS]; /* original bytes that each coding took */
} mfs_frame_info;

/* An encoder for spans of at most max_span original bytes (1 .. MFS_FRAME_MAX);
 * NULL without memory. One thread at a time. */
mfs_encoder *mfs_encoder_new(size_t max_span);
void mfs_encoder_free(mfs_encoder *encoder);

/* Codes the span's streams of both slots. out[slot] has room for
 * blocks * slot_bytes[slot] bytes (a slot without streams: may be NULL);
 * tables[slot] may be NULL. 0, or a negative mfs_error. */
int mfs_span_encode(mfs_encoder *encoder, const mfs_layout *layout, uint32_t blocks,
		    const uint8_t *in, const mfs_coding_rules *rules,
		    const mfs_tables *const tables[MFS_SLOTS], uint8_t *const out[MFS_SLOTS],
		    mfs_frame_info info[MFS_SLOTS]);

/* A sample of a tensor: `blocks` blocks, cut into spans of `span_blocks`, of the
 * `frames` that the tensor has. */
typedef struct {
	const mfs_layout *layout;
	const uint8_t *bytes;
	uint32_t blocks;
	uint32_t span_blocks;
	uint64_t frames;
	/* Or NULL: mfs_tables_build() adds what the sample's frames of the slot come to
	 * without tables, about; entropy tells. */
	uint64_t *alone;
} mfs_sample;

/* Builds the tables that would serve a tensor: per stream of the slot the entropy
 * table of the sample, or one for each bucket of its contexts, or one for each
 * marked bucket, or nothing where none would pay. Returns the stored size (0: no stream gains), or
 * a negative mfs_error; out has room for `capacity` bytes. */
int64_t mfs_tables_build(mfs_encoder *encoder, const mfs_sample *sample, unsigned slot,
			 const mfs_coding_rules *rules, uint8_t *out, size_t capacity);

/* Whether matches may help: a quick search of a part of the sample finds more than the
 * entropy of single bytes tells. */
int mfs_sample_repeats(mfs_encoder *encoder, const mfs_sample *sample);

/* What the sample comes to, stored with each coding alone (and raw where that is
 * smaller, or zero): bytes of all its frames, without tables. With MFS_CODING_ZERO all codings that
 * the rules allow compete. 0, or a negative mfs_error. */
int mfs_sample_estimate(mfs_encoder *encoder, const mfs_sample *sample,
			const mfs_coding_rules *rules, const mfs_tables *const tables[MFS_SLOTS],
			uint64_t stored[MFS_CODINGS]);

/* ---- decoding ---- */

typedef struct mfs_decoder mfs_decoder;

/* As mfs_encoder_new(). */
mfs_decoder *mfs_decoder_new(size_t max_span);
void mfs_decoder_free(mfs_decoder *decoder);

/* One slot's stored frame. */
typedef struct {
	const uint8_t *stored;
	size_t size;
	const mfs_tables *tables; /* or NULL */
} mfs_frame;

/* Puts a span back together from the frames of its slots (hashes already
 * checked): writes blocks * block_bytes bytes to out, which is no larger than
 * the decoder's max_span. 0 or MFS_E_CORRUPT; out is undefined on failure.
 * frame[1] is ignored where the layout has no constants. */
int mfs_span_decode(mfs_decoder *decoder, const mfs_layout *layout, uint32_t blocks,
		    const mfs_frame frame[MFS_SLOTS], uint8_t *out);

#endif
