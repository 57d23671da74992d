/*
 * One stream of a span, and the coding it is stored with: the smallest that the rules
 * allow. frame_encode.c asks for each stream of a slot and packs what comes of them.
 */
#ifndef MFS_STREAM_ENCODE_H
#define MFS_STREAM_ENCODE_H

#include "frame_private.h"

/* A stream, and what is stored of it. */
struct mfs_coded {
	const uint8_t *bytes;
	const uint8_t *stored;
	uint32_t size;
	uint32_t stored_size;
	enum mfs_coding coding;
	uint32_t zeros;	   /* bytes that are zero, at most */
	int symbols;	   /* the stream that contexts tell something about */
	int may_be_marked; /* the buckets of its groups may be */
};

/* The span at hand. */
struct mfs_span {
	const mfs_layout *layout;
	uint32_t blocks;
	const uint8_t *in;
	const mfs_coding_rules *rules;
};

static inline void mfs_coded_keep(struct mfs_coded *stream, enum mfs_coding coding,
				  const uint8_t *stored, size_t size)
{
	stream->coding = coding;
	stream->stored = stored;
	stream->stored_size = (uint32_t)size;
}

static inline int mfs_coding_allowed(const struct mfs_span *span, enum mfs_coding coding)
{
	return !(span->rules->refused >> coding & 1);
}

/* Chooses the coding of one stream, whose bytes, size, symbols and may_be_marked are
 * set; `shared` (or NULL) is what the tables hold for it. Returns the bytes of `out`
 * that it takes, which has room for twice mfs_coded_bound() of the size. */
size_t mfs_stream_encode(mfs_encoder *encoder, const struct mfs_span *span,
			 const struct mfs_shared *shared, struct mfs_coded *stream, uint8_t *out);

/* ---- matches.c ---- */

/* A zstd frame of the bytes, with matches. Returns its size, 0 where there is none; `out`
 * has room for mfs_coded_bound() of the size. */
size_t mfs_matches_encode(ZSTD_CCtx *context, int level, const uint8_t *in, size_t size,
			  uint8_t *out);
/* Whether a row of the span begins like the one before, as in padded embeddings. */
int mfs_rows_repeat(const struct mfs_span *span);

#endif
