/* Building tables: what pays for each stream. */
#include "tables_build.h"

#include <stdlib.h>
#include <string.h>

#include "mfs_endian.h"
#include "modelfs_error.h"

/* One tree for all must save more than a share like this: so exact are estimates. */
#define ESTIMATE_ERROR 3072

#define PART_MAX                                                                                   \
	(sizeof(struct mfs_disk_buckets) + MFS_BUCKETS_MAX + MFS_BUCKETS_MAX * MFS_TREE_MAX)

/* A stream's part of the tables. */
struct stream_part {
	size_t size; /* 0: none */
	unsigned kind;
	uint8_t bytes[PART_MAX];
};

/* Other frames may hold values that the sample lacks. Those next to values that
 * occur, above, below or in the upper bits (the other weight of a byte, what shares a
 * byte with a scale), are given a code: it takes little from the rest, and a frame
 * whose values all have codes needs no tree. */
static void add_plausible(uint32_t histogram[256], unsigned upper_step)
{
	uint32_t seen[256];

	memcpy(seen, histogram, sizeof(seen));
	for (unsigned k = 0; k < 256; k++) {
		unsigned neighbours = 0;

		neighbours += k > 0 && seen[k - 1];
		neighbours += k < 255 && seen[k + 1];
		neighbours += upper_step && k >= upper_step && seen[k - upper_step];
		neighbours += upper_step && k + upper_step < 256 && seen[k + upper_step];
		if (!seen[k] && neighbours)
			histogram[k] = 1;
	}
}

/* Writes the best tree; returns its size, or 0 if there is none. */
static size_t make_tree(const uint32_t histogram[256], uint8_t *out)
{
	mfs_tree tree;

	if (!mfs_tree_make(&tree, histogram))
		return 0;
	memcpy(out, tree.bytes, tree.size);
	return tree.size;
}

/* True if the frames will be packed: a tree would not serve them. */
static int packs(const uint32_t histogram[256], const mfs_coding_rules *rules)
{
	struct mfs_packed plan;
	size_t size = 0, packed;

	for (int k = 0; k < 256; k++)
		size += histogram[k];
	packed = mfs_packed_plan(&plan, histogram, size);
	return packed && !(rules->refused >> MFS_CODING_PACKED & 1) &&
	       packed <= mfs_packed_enough(mfs_histogram_bound(histogram));
}

/* What all frames save by a part of `size` bytes with which the sample comes to
 * `stored`, less that size, going by the spans of the sample. */
static double saved(const struct mfs_counts *counts, const struct mfs_stream_counts *stream,
		    uint64_t stored, uint64_t size)
{
	if (stored >= stream->alone)
		return 0;
	return (double)(stream->alone - stored) * (double)counts->sample->frames /
		   (double)counts->spans -
	       (double)size;
}

/* What one tree for all saves. The stream's counts become those that it is made of. */
static double saved_shared(const struct mfs_counts *counts, struct mfs_stream_counts *stream,
			   const mfs_coding_rules *rules)
{
	uint64_t stored;

	if (rules->refused >> MFS_CODING_SHARED & 1 || packs(stream->histogram, rules))
		return 0;
	stored = counts->spans * MFS_FRAME_OVERHEAD + mfs_histogram_bound(stream->histogram);
	stored += stored / ESTIMATE_ERROR;
	add_plausible(stream->histogram, stream->upper_step);
	return saved(counts, stream, stored, mfs_tree_bytes(stream->histogram));
}

static void make_shared(const struct mfs_stream_counts *stream, struct stream_part *out)
{
	out->kind = MFS_CODING_SHARED;
	out->size = make_tree(stream->histogram, out->bytes);
}

/* The best buckets of all windows; returns what they save. */
static double find_buckets(const struct mfs_counts *counts, const struct mfs_stream_counts *stream,
			   struct mfs_bucketing work[2])
{
	uint64_t stored, size;

	work[1].bits = UINT64_MAX;
	for (uint32_t w = 0; w < counts->windows; w++)
		mfs_bucketing_find(&counts->values[w], counts->spans, counts->sample->frames,
				   &work[0], &work[1]);
	if (work[1].bits == UINT64_MAX)
		return 0;
	stored =
	    counts->spans * work[1].bins * MFS_FRAME_OVERHEAD + mfs_bucketing_bits(&work[1]) / 8;
	size = sizeof(struct mfs_disk_buckets) + work[1].bins * MFS_TREE_BYTES;
	return saved(counts, stream, stored, size);
}

/* The tree of a bucket, or what stands for none. */
static size_t put_tree(const uint32_t histogram[256], uint8_t *out)
{
	size_t size = make_tree(histogram, out);

	if (size)
		return size;
	*out = MFS_NO_TREE;
	return 1;
}

static void make_buckets(struct mfs_bucketing *from, unsigned upper_step, struct stream_part *out)
{
	struct mfs_disk_buckets *d = (void *)out->bytes;
	size_t at = sizeof(*d);

	d->count = (uint8_t)from->bins;
	d->reserved = 0;
	store_le16(&d->window, (uint16_t)from->window);
	for (uint32_t b = 1; b < from->bins; b++)
		out->bytes[at++] = (uint8_t)from->bin[b].first;
	for (uint32_t b = 0; b < from->bins; b++) {
		add_plausible(from->bin[b].histogram, upper_step);
		at += put_tree(from->bin[b].histogram, out->bytes + at);
	}
	out->kind = MFS_CODING_BUCKETS;
	out->size = at;
}

/* The best marked buckets; returns what they save. */
static double find_marked(const struct mfs_counts *counts, const struct mfs_stream_counts *stream,
			  struct mfs_marked *out)
{
	uint64_t stored;

	if (!stream->bytes || stream->size < MFS_GROUP_LARGEST ||
	    !mfs_marked_find(counts->encoder, out, stream->bytes, stream->size,
			     stream->size * counts->sample->frames / counts->spans))
		return 0;
	stored = out->bound * stream->size / out->size;
	stored += counts->spans * (out->buckets + 1) * MFS_FRAME_OVERHEAD;
	return saved(counts, stream, stored,
		     sizeof(struct mfs_disk_marked) + (uint64_t)out->buckets * MFS_MARKED_TREE);
}

static void make_marked(struct mfs_marked *from, struct stream_part *out)
{
	struct mfs_disk_marked *d = (void *)out->bytes;

	d->count = (uint8_t)from->buckets;
	d->group = (uint8_t)from->group;
	store_le16(&d->reserved, 0);
	out->size = sizeof(*d);
	for (uint32_t b = 0; b < from->buckets; b++) {
		add_plausible(from->histogram[b], 0);
		out->size += put_tree(from->histogram[b], out->bytes + out->size);
	}
	out->kind = MFS_CODING_MARKED;
}

/* Finds what pays for one stream: out->size is 0 if nothing does. */
static int choose_part(struct mfs_counts *counts, uint32_t number, const mfs_coding_rules *rules,
		       struct stream_part *out)
{
	struct mfs_stream_counts *stream = &counts->stream[number];
	double by_tree = saved_shared(counts, stream, rules), by_buckets = 0, by_marks;
	struct mfs_bucketing *work = NULL;
	struct mfs_marked marked;

	out->size = 0;
	if (number == counts->symbols && counts->windows) {
		work = calloc(2, sizeof(*work));
		if (!work)
			return MFS_E_MEMORY;
		by_buckets = find_buckets(counts, stream, work);
	}
	by_marks = find_marked(counts, stream, &marked);
	if (by_marks > 0 && by_marks > by_tree && by_marks > by_buckets)
		make_marked(&marked, out);
	else if (by_buckets > 0 && by_buckets >= by_tree)
		make_buckets(&work[1], stream->upper_step, out);
	else if (by_tree > 0)
		make_shared(stream, out);
	free(work);
	return 0;
}

static int64_t store_tables(struct mfs_counts *counts, uint32_t streams,
			    const mfs_coding_rules *rules, uint8_t *out, size_t capacity)
{
	size_t at = (size_t)streams * MFS_STREAM_HEADER;
	struct stream_part best;
	int any = 0;

	if (capacity < at)
		return MFS_E_ARGUMENT;
	memset(out, 0, at);
	for (uint32_t s = 0; s < streams; s++) {
		int err = choose_part(counts, s, rules, &best);

		if (err)
			return err;
		if (best.size == 0)
			continue;
		if (best.size > capacity - at)
			return MFS_E_ARGUMENT;
		store_le32(out + (size_t)s * MFS_STREAM_HEADER,
			   best.kind << MFS_LENGTH_BITS | (uint32_t)best.size);
		memcpy(out + at, best.bytes, best.size);
		at += best.size;
		any = 1;
	}
	return any ? (int64_t)at : 0;
}

int64_t mfs_tables_build(mfs_encoder *encoder, const mfs_sample *sample, unsigned slot,
			 const mfs_coding_rules *rules, uint8_t *out, size_t capacity)
{
	uint32_t streams = slot < MFS_SLOTS ? sample->layout->slot_streams[slot] : 0;
	struct mfs_counts *counts;
	int64_t size;
	int err;

	if (sample->blocks == 0 || sample->span_blocks == 0 || sample->frames == 0 ||
	    slot >= MFS_SLOTS ||
	    sample->span_blocks > encoder->max_span / sample->layout->block_bytes)
		return MFS_E_ARGUMENT;
	if (streams == 0)
		return 0;
	err = mfs_counts_make(&counts, encoder, sample, slot, rules);
	if (err)
		return err;
	for (uint32_t s = 0; s < streams && sample->alone; s++)
		*sample->alone += counts->stream[s].alone;
	size = store_tables(counts, streams, rules, out, capacity);
	mfs_counts_free(counts);
	return size;
}
