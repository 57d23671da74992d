/* What the sources of frames, codings, tables and root_columns.c share. */
#ifndef MFS_FRAME_PRIVATE_H
#define MFS_FRAME_PRIVATE_H

#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

#include "frame.h"
#include "huffman.h"

/* A word of a frame's header, or of tables: coding << MFS_LENGTH_BITS | length. */
#define MFS_STREAM_HEADER 4 /* its bytes */
#define MFS_LENGTH_BITS	  28
#define MFS_LENGTH_MASK	  ((1u << MFS_LENGTH_BITS) - 1)

/* Streams start at multiples of this in scratch memory. */
#define MFS_STREAM_ALIGN 64

static inline size_t mfs_stream_align(size_t size)
{
	return (size + MFS_STREAM_ALIGN - 1) & ~(size_t)(MFS_STREAM_ALIGN - 1);
}

/* Groups sorted into buckets. */
struct mfs_groups {
	uint32_t count;			    /* groups */
	uint32_t bytes;			    /* of a group */
	uint32_t size[MFS_BUCKETS_MAX + 1]; /* groups of each bucket */
	uint8_t *bucket;		    /* of each group */
	uint32_t uncoded; /* a bit for each bucket known to have a byte without a code */
};

struct mfs_encoder {
	size_t max_span;
	ZSTD_CCtx *matches;
	uint8_t *split;	  /* streams of the span at hand */
	uint8_t *coded;	  /* their coded forms */
	uint8_t *sorted;  /* symbols by bucket */
	uint8_t *buckets; /* of each group; the mask of a sparse frame */
	uint8_t *packed;  /* its planes without zeros */
	uint8_t *marks;	  /* of each group, and behind them as they are stored */
	uint32_t histogram[MFS_STREAMS_MAX][256];
};

/* In tables: stands for the tree of a bucket whose symbols are noise, or too few to tell. */
#define MFS_NO_TREE 0

/* What the tables hold for one stream. */
struct mfs_shared {
	uint32_t count;	     /* trees; 0: nothing */
	uint32_t buckets;    /* as count, or 0 where there is one tree for all */
	uint32_t window;     /* blocks */
	uint32_t group;	     /* bytes of a group where buckets are marked, else 0 */
	uint8_t bucket[256]; /* of each value of the context */
	ZSTD_DDict *decoding[MFS_BUCKETS_MAX];
	/* Of each tree whose codes are long, else NULL: zstd finds two short codes
	 * at once. */
	mfs_lookup *lookup[MFS_BUCKETS_MAX];
	mfs_codes *encoding; /* of each tree, or NULL */
};

struct mfs_tables {
	uint32_t streams;
	size_t memory;
	struct mfs_shared shared[];
};

/* ---- frame.c ---- */

/* Room for the coded form of `size` bytes. */
size_t mfs_coded_bound(size_t size);
/* Room for the streams of a span. */
size_t mfs_split_bound(size_t max_span);
/* Room for the bucket of each group: a group is four bytes at the least. */
size_t mfs_groups_bound(size_t max_span);
/* True if a span of so many blocks fits. */
int mfs_span_ok(const mfs_layout *layout, uint32_t blocks, size_t max_span);
/* One stream of bytes: the span is the stream. */
int mfs_layout_is_one_stream(const mfs_layout *layout);

/* ---- frame_decode.c ---- */

/* Decodes one zstd frame, which is the `size` bytes at `in`, to exactly out_size
 * bytes. No skippable or legacy frame: libzstd would take any number of them. A
 * frame is decoded in one piece, so whatever window it declares, no memory is
 * allocated for it. 0 or MFS_E_CORRUPT. */
int mfs_zstd_decode(ZSTD_DCtx *zstd, const ZSTD_DDict *dictionary, const uint8_t *in, size_t size,
		    uint8_t *out, size_t out_size);

/* ---- frame_encode.c ---- */

/* Cuts the span into the encoder's scratch memory and points `stream` there. */
void mfs_encoder_split(mfs_encoder *encoder, const mfs_layout *layout, uint32_t blocks,
		       const uint8_t *in, const uint8_t *stream[]);

/* ---- buckets.c ---- */

/* Finds the bucket of each group of the blocks at `in`. groups->bucket has room. */
void mfs_groups_find(struct mfs_groups *groups, const mfs_layout *layout, uint32_t blocks,
		     const uint8_t *in, const struct mfs_shared *shared);
/* Symbols in the order of the blocks to the order of the buckets. */
void mfs_groups_sort(const struct mfs_groups *groups, const uint8_t *in, uint8_t *out);
/* The way back, to rows of `row` groups each that begin `stride` bytes apart. */
void mfs_groups_scatter(const struct mfs_groups *groups, const uint8_t *in, uint32_t row,
			uint8_t *out, size_t stride);

/* Codes symbols in the order of the buckets; returns the size. */
size_t mfs_buckets_encode(const uint8_t *sorted, const struct mfs_shared *shared,
			  const struct mfs_groups *groups, uint8_t *out);

/* ---- marked.c ---- */

/* Most buckets that are learned from a sample. */
#define MFS_MARKED_MAX 4

/* Bytes that tell the buckets of so many groups. */
size_t mfs_marks_size(uint32_t groups, uint32_t buckets);
void mfs_marks_pack(const struct mfs_groups *groups, uint32_t buckets, uint8_t *out);
/* Sets bucket and size of `groups`, whose count is known. 0, or MFS_E_CORRUPT. */
int mfs_marks_unpack(struct mfs_groups *groups, uint32_t buckets, const uint8_t *in);

/* What each value of a byte costs in each bucket: four lanes of 16 bits, which no group
 * fills, so that the sums of a group's bytes stand side by side in one word. */
#define MFS_LANE_BITS 16

struct mfs_costs {
	uint64_t of[256];
};

/* In a lane that is zero. */
static inline void mfs_costs_set(struct mfs_costs *costs, uint32_t bucket, unsigned byte,
				 unsigned cost)
{
	costs->of[byte] |= (uint64_t)cost << MFS_LANE_BITS * bucket;
}

/* The bits that trees take, of MFS_MARKED_MAX at the most. */
void mfs_costs_of_trees(struct mfs_costs *costs, const struct mfs_shared *shared);
/* The sums of these bytes, in lanes. */
uint64_t mfs_costs_sum(const struct mfs_costs *costs, const uint8_t *in, uint32_t bytes);

/* The bucket of each group of these bytes that costs least; count and bytes of `groups`
 * are known. `cost`, or NULL, becomes what each group costs there. */
void mfs_groups_choose(struct mfs_groups *groups, const struct mfs_costs *costs, uint32_t buckets,
		       const uint8_t *in, uint32_t *cost);

/* ---- marked_learn.c ---- */

/* Buckets that serve a sample. */
struct mfs_marked {
	uint32_t buckets;
	uint32_t group;			 /* bytes */
	size_t size;			 /* bytes of the sample that were learned from */
	size_t bound;			 /* that they come to, without trees */
	uint32_t groups[MFS_MARKED_MAX]; /* in each bucket */
	uint32_t histogram[MFS_MARKED_MAX][256];
};

#define MFS_MARKED_TREE 80  /* bytes of a tree, about */
#define MFS_MARKED_GAIN 512 /* one byte of so many has to be saved */

/* True if there are such buckets for a stream of `whole_size` bytes, of which the sample
 * has `size`. Works in the encoder's scratch memory. */
int mfs_marked_find(mfs_encoder *encoder, struct mfs_marked *out, const uint8_t *in, size_t size,
		    uint64_t whole_size);

/* True if the stream may have marked buckets: layouts of blocks have contexts that
 * tell them, or numbers that are to be decoded fast. */
static inline int mfs_marked_fits(const mfs_layout *layout, uint32_t stream)
{
	return !layout->symbols.weights &&
	       (layout->stream_count == 1 || !layout->slot_streams[0]) &&
	       layout->stream[stream].per_block == 1;
}

/* ---- packed.c ---- */

/* Which bits of a stream's bytes vary, and the value of the others. */
struct mfs_packed {
	uint8_t mask;
	uint8_t value;
	uint32_t exceptions; /* bytes that have another value there */
};

/* Finds them for bytes distributed like the histogram; returns the coded size, 0 if
 * such bytes cannot be packed. */
size_t mfs_packed_plan(struct mfs_packed *plan, const uint32_t histogram[256], size_t size);
/* The size up to which nothing else need be tried, for bytes of that entropy. */
static inline size_t mfs_packed_enough(size_t bound)
{
	return bound + bound / 256 + 8;
}

/* Writes as many bytes as the plan says. */
size_t mfs_packed_encode(const struct mfs_packed *plan, const uint8_t *in, size_t size,
			 uint8_t *out);
/* 0, or MFS_E_CORRUPT. */
int mfs_packed_decode(const uint8_t *in, size_t in_size, uint8_t *out, size_t size);

/* ---- sparse.c ---- */

/* True if frames of slot 0 may be sparse. */
int mfs_sparse_fits(const mfs_layout *layout);
/* Writes the mask of `words` words, whose planes are given, and returns how many
 * are not zero. */
size_t mfs_sparse_mask(const uint8_t *const plane[], unsigned width, size_t words, uint8_t *mask);
size_t mfs_sparse_count(const uint8_t *mask, size_t words);
/* One plane without the words that are zero. */
void mfs_sparse_pack(const uint8_t *mask, size_t words, const uint8_t *in, uint8_t *out);
/* Words of 2, 4 or 8 bytes that are not zero, and between them those that are. May read
 * MFS_SPARSE_BEHIND bytes behind the last. */
#define MFS_SPARSE_BEHIND 16
void mfs_sparse_expand(const uint8_t *mask, size_t words, unsigned width, const uint8_t *in,
		       uint8_t *out);

/* ---- blocks.c ---- */

/* Cuts a block's bytes, at most 128 KiB, into blocks that serve them better: writes
 * their sizes, returns their number. `histogram`, or NULL, becomes that of them all. */
#define MFS_CUT_MAX 16
uint32_t mfs_blocks_cut(const uint8_t *in, size_t size, uint32_t bytes[MFS_CUT_MAX],
			uint32_t histogram[256]);

/* ---- histogram.c ---- */

/* Adds the bytes to the histogram. */
void mfs_histogram_add(uint32_t histogram[256], const uint8_t *in, size_t size);

/* A size in bytes that no coding of single bytes goes below, but for rounding. */
size_t mfs_histogram_bound(const uint32_t histogram[256]);

/* log2(v) with MFS_LOG_BITS fractional bits, rounded down; v > 0. */
#define MFS_LOG_BITS 8
extern const uint8_t mfs_log2_fraction[256];

/* Integers only: what is worth coding must not depend on a C library's log2(). */
static inline uint32_t mfs_log2_fixed(uint32_t v)
{
	uint32_t exponent = 31 - (uint32_t)__builtin_clz(v);

	return (exponent << MFS_LOG_BITS) + mfs_log2_fraction[(uint64_t)v << 8 >> exponent & 255];
}

#endif
