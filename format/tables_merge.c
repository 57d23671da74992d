/*
 * Building tables: which neighbouring values of a context share a tree. Of the bins the
 * two neighbours that lose least by it are merged, again and again, and the best of the
 * numbers of buckets on the way is taken.
 */
#include "tables_build.h"

#include <string.h>

static uint64_t histogram_cost(const uint32_t histogram[256])
{
	uint64_t cost = 0;
	uint32_t total = 0;

	for (int k = 0; k < 256; k++) {
		total += histogram[k];
		if (histogram[k])
			cost += (uint64_t)histogram[k] * mfs_log2_fixed(histogram[k]);
	}
	return total ? (uint64_t)total * mfs_log2_fixed(total) - cost : 0;
}

static void find_loss(struct mfs_bin *bin)
{
	uint64_t apart = bin[0].cost + bin[1].cost, together;
	uint32_t sum[256];

	for (int k = 0; k < 256; k++)
		sum[k] = bin[0].histogram[k] + bin[1].histogram[k];
	together = histogram_cost(sum);
	/* Logarithms are rounded. */
	bin->loss = together > apart ? together - apart : 0;
}

static void copy_bins(const struct mfs_values *values, struct mfs_bucketing *out)
{
	out->window = values->window;
	out->bins = values->bins;
	for (uint32_t b = 0; b < out->bins; b++) {
		out->bin[b].first = values->first[b];
		memcpy(out->bin[b].histogram, values->histogram[b], sizeof(values->histogram[b]));
		out->bin[b].cost = histogram_cost(values->histogram[b]);
	}
	for (uint32_t b = 0; b + 1 < out->bins; b++)
		find_loss(&out->bin[b]);
}

/* Merges the neighbours that lose least. */
static void merge_two(struct mfs_bucketing *at)
{
	struct mfs_bin *bin = at->bin;
	uint32_t best = 0;

	for (uint32_t b = 1; b + 1 < at->bins; b++)
		if (bin[b].loss < bin[best].loss)
			best = b;
	bin[best].cost += bin[best + 1].cost + bin[best].loss;
	for (int k = 0; k < 256; k++)
		bin[best].histogram[k] += bin[best + 1].histogram[k];
	at->bins--;
	memmove(&bin[best + 1], &bin[best + 2], (at->bins - best - 1) * sizeof(*bin));
	if (best > 0)
		find_loss(&bin[best - 1]);
	if (best + 1 < at->bins)
		find_loss(&bin[best]);
}

uint64_t mfs_bucketing_bits(const struct mfs_bucketing *at)
{
	uint64_t bits = 0;

	for (uint32_t b = 0; b < at->bins; b++)
		bits += at->bin[b].cost >> MFS_LOG_BITS;
	return bits;
}

/* Leaves in `best` the bins that make the smallest sample, if smaller than what
 * is there; trees count for what `spans` spans of `frames` frames would carry of
 * them. */
static void merge_bins(struct mfs_bucketing *at, struct mfs_bucketing *best, uint64_t spans,
		       uint64_t frames)
{
	for (; at->bins >= 2; merge_two(at)) {
		uint64_t each = 8 * (MFS_FRAME_OVERHEAD * spans + MFS_TREE_BYTES * spans / frames);

		at->bits = mfs_bucketing_bits(at) + at->bins * each;
		if (at->bins <= MFS_BUCKETS_MAX && at->bits < best->bits)
			*best = *at;
	}
}

void mfs_bucketing_find(const struct mfs_values *values, uint64_t spans, uint64_t frames,
			struct mfs_bucketing *work, struct mfs_bucketing *best)
{
	copy_bins(values, work);
	merge_bins(work, best, spans, frames);
}
