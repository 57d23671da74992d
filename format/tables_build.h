/*
 * What the sources that build tables share. Nothing is coded to find out what it would
 * come to: what a tree makes of bytes follows from how often each value occurs. To
 * choose, the entropy will do, as whole bits add about as much to every choice; trees
 * are made for what is chosen.
 *
 * tables_sample.c counts, tables_merge.c finds buckets of contexts, marked_learn.c those
 * that are marked, tables_build.c chooses and writes.
 */
#ifndef MFS_TABLES_BUILD_H
#define MFS_TABLES_BUILD_H

#include "frame_private.h"

/* Stored bytes of a stream's frame that are neither codes nor tree: headers, and
 * what the ends of four streams leave of their bytes. */
#define MFS_FRAME_OVERHEAD 24

/* Of a bucket's tree, about. */
#define MFS_TREE_BYTES 80

/* ---- tables_sample.c ---- */

#define MFS_WINDOWS_MAX 2 /* of contexts, that are compared */

/* Neighbouring values of a context, in bins of about equal size. */
#define MFS_BINS_MAX 24

/* The symbols of the sample by the value of their context. */
struct mfs_values {
	uint32_t window; /* blocks */
	uint8_t *value;	 /* of each group of the sample */
	uint8_t *next;	 /* of the groups to be counted next */
	uint32_t bins;
	uint8_t bin[256];	     /* of each value */
	uint8_t first[MFS_BINS_MAX]; /* value of each bin */
	uint32_t histogram[MFS_BINS_MAX][256];
};

/* What the sample says about one stream. */
struct mfs_stream_counts {
	uint32_t histogram[256];
	uint64_t alone; /* bytes that come of them if each frame has a tree of its own */
	/* So far apart are bytes that differ by one above the number in their low bits; 0
	 * where a byte is one number. */
	unsigned upper_step;
	/* The bytes, where buckets may be marked, but for those of each span that fill no
	 * group; else NULL. */
	uint8_t *bytes;
	size_t size;
};

/* No larger groups are tried. */
#define MFS_GROUP_LARGEST 128

struct mfs_counts {
	mfs_encoder *encoder;
	const mfs_sample *sample;
	uint32_t symbols; /* number of the stream of symbols in its slot */
	uint64_t spans;
	uint32_t windows;
	struct mfs_values values[MFS_WINDOWS_MAX];
	struct mfs_stream_counts stream[MFS_STREAMS_MAX]; /* of the slot */
};

/* Counts the sample's streams of one slot. 0, or MFS_E_MEMORY; the caller frees *out. */
int mfs_counts_make(struct mfs_counts **out, mfs_encoder *encoder, const mfs_sample *sample,
		    unsigned slot, const mfs_coding_rules *rules);
void mfs_counts_free(struct mfs_counts *counts); /* NULL is fine */

/* Bytes that a tree takes for so many values, about. */
uint32_t mfs_tree_bytes(const uint32_t histogram[256]);

/* ---- tables_merge.c ---- */

struct mfs_bin {
	uint32_t first; /* value of the context */
	uint64_t cost;	/* bits << MFS_LOG_BITS */
	uint64_t loss;	/* of sharing a tree with the next bin */
	uint32_t histogram[256];
};

/* Neighbouring values of a context, and what they come to with a tree for each bin. */
struct mfs_bucketing {
	uint32_t window;
	uint32_t bins;
	uint64_t bits; /* that the sample would take */
	struct mfs_bin bin[MFS_BINS_MAX];
};

/* Leaves in `best` the buckets that make the smallest sample, if smaller than what is
 * there (bits), by a tree for each in `frames` frames; `work` is overwritten. */
void mfs_bucketing_find(const struct mfs_values *values, uint64_t spans, uint64_t frames,
			struct mfs_bucketing *work, struct mfs_bucketing *best);
/* The bits of all bins, without trees. */
uint64_t mfs_bucketing_bits(const struct mfs_bucketing *at);

#endif
