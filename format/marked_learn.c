/*
 * Learning marked buckets from a sample. The groups of each bucket are divided by what
 * they cost there, then each goes where it costs least, again and again: first in a part
 * of the sample, with groups of several sizes, then in more of it with the best size.
 * Buckets that gain less than their tree takes are merged.
 */
#include "frame_private.h"

#include <string.h>

#include "mfs_endian.h"

/* Units of a cost: so many to the bit. */
#define COST_UNITS 16
#define COST_SHIFT (MFS_LOG_BITS - 4)
#define COST_MAX   (24 * COST_UNITS)

/* Which size of groups is best, part of the sample will tell; of more, buckets are
 * learned. Both lie evenly over it, in pieces. */
#define FEW_BYTES     ((size_t)16 << 10)
#define LEARNED_BYTES ((size_t)128 << 10)
#define LEARNED_SHARE 4 /* of the stream, one byte in so many: packing takes time too */
#define PIECE_BYTES   1024

/* Times that the groups of the part go where they cost least; more hardly gain. */
#define ROUNDS 4

/* Groups are of whole cells, whose costs are added up. */
#define CELL_BYTES 16
#define CELLS_MAX  (FEW_BYTES / CELL_BYTES)

/* ---- histograms ---- */

static void count_group(uint32_t histogram[256], const uint8_t *in, uint32_t bytes)
{
	for (uint32_t i = 0; i < bytes; i += 8) {
		uint64_t eight = load_le64(in + i);

		for (unsigned k = 0; k < 8; k++, eight >>= 8)
			histogram[eight & 255]++;
	}
}

/* What is in each bucket. */
static void count_buckets(struct mfs_marked *marked, const struct mfs_groups *groups,
			  const uint8_t *in)
{
	memset(marked->histogram, 0, sizeof(marked->histogram));
	for (uint32_t g = 0; g < groups->count; g++, in += groups->bytes)
		count_group(marked->histogram[groups->bucket[g]], in, groups->bytes);
	memcpy(marked->groups, groups->size, sizeof(marked->groups));
}

/* Costs by the histogram's logarithms; values that do not occur count as half of one. */
static void costs_by(struct mfs_costs *costs, uint32_t bucket, const uint32_t histogram[256])
{
	uint32_t total = 256, log_total;

	for (unsigned k = 0; k < 256; k++)
		total += 2 * histogram[k];
	log_total = mfs_log2_fixed(total);
	for (unsigned k = 0; k < 256; k++) {
		uint32_t cost = (log_total - mfs_log2_fixed(2 * histogram[k] + 1)) >> COST_SHIFT;

		mfs_costs_set(costs, bucket, k, cost < COST_MAX ? cost : COST_MAX);
	}
}

/* ---- the first division ---- */

/* The cells of part of a sample, and what each costs with one tree for all. */
struct cells {
	const uint8_t *in;
	uint32_t count;
	uint16_t cost[CELLS_MAX];
};

static void cells_make(struct cells *cells, const uint32_t histogram[256], const uint8_t *in,
		       size_t size)
{
	struct mfs_costs costs = {0};

	costs_by(&costs, 0, histogram);
	cells->in = in;
	cells->count = (uint32_t)(size / CELL_BYTES);
	for (uint32_t c = 0; c < cells->count; c++, in += CELL_BYTES)
		cells->cost[c] = (uint16_t)mfs_costs_sum(&costs, in, CELL_BYTES);
}

/* Divides the groups of each of `buckets` buckets in two by the mean of their costs. */
static void divide(struct mfs_groups *groups, uint32_t buckets, const uint32_t *cost)
{
	uint64_t sum[MFS_MARKED_MAX] = {0};
	uint32_t size[MFS_MARKED_MAX];

	for (uint32_t g = 0; g < groups->count; g++)
		sum[groups->bucket[g]] += cost[g];
	memcpy(size, groups->size, sizeof(size));
	for (uint32_t g = 0; g < groups->count; g++) {
		uint8_t *bucket = &groups->bucket[g];

		if ((uint64_t)cost[g] * size[*bucket] > sum[*bucket]) {
			groups->size[*bucket]--;
			*bucket = (uint8_t)(*bucket + buckets);
			groups->size[*bucket]++;
		}
	}
}

static void add_cells(const struct cells *cells, const struct mfs_groups *groups, uint32_t *cost)
{
	const uint32_t each = groups->bytes / CELL_BYTES;

	for (uint32_t g = 0; g < groups->count; g++) {
		cost[g] = 0;
		for (uint32_t c = 0; c < each; c++)
			cost[g] += cells->cost[g * each + c];
	}
}

/* ---- learning ---- */

/* Each group goes where it costs least, by what is in the buckets now. `cost`, or NULL,
 * becomes what each group costs there. */
static void improve(struct mfs_marked *marked, struct mfs_groups *groups, const uint8_t *in,
		    uint32_t *cost)
{
	struct mfs_costs costs = {0};

	for (uint32_t b = 0; b < marked->buckets; b++)
		costs_by(&costs, b, marked->histogram[b]);
	mfs_groups_choose(groups, &costs, marked->buckets, in, cost);
}

/* Once more, with these bytes. */
static void learn(struct mfs_marked *marked, struct mfs_groups *groups, const uint8_t *in,
		  size_t size)
{
	groups->count = (uint32_t)(size / groups->bytes);
	improve(marked, groups, in, NULL);
	count_buckets(marked, groups, in);
}

/* ---- fewer buckets ---- */

/* n log2(n), << MFS_LOG_BITS */
static uint64_t n_log(uint32_t n)
{
	return n ? (uint64_t)n * mfs_log2_fixed(n) : 0;
}

/* Bytes that the marks come to. */
static int64_t marks_bound(const struct mfs_marked *marked)
{
	uint64_t bits = 0;
	uint32_t total = 0;

	for (uint32_t b = 0; b < marked->buckets; b++) {
		bits += n_log(marked->groups[b]);
		total += marked->groups[b];
	}
	return (int64_t)((n_log(total) - bits) >> (MFS_LOG_BITS + 3));
}

static int64_t bound_of_two(const struct mfs_marked *marked, uint32_t a, uint32_t b)
{
	uint32_t sum[256];

	for (unsigned k = 0; k < 256; k++)
		sum[k] = marked->histogram[a][k] + marked->histogram[b][k];
	return (int64_t)mfs_histogram_bound(sum);
}

/* Two of the buckets, and what they lose if they are one, but for its tree. */
struct pair {
	uint32_t a, b;
	int64_t together; /* bytes that they come to */
	int64_t loss;
};

static struct pair nearest_pair(const struct mfs_marked *marked, const int64_t own[])
{
	struct pair best = {.loss = INT64_MAX};

	for (uint32_t a = 0; a + 1 < marked->buckets; a++)
		for (uint32_t b = a + 1; b < marked->buckets; b++) {
			const uint32_t *n = marked->groups;
			uint64_t marks = n_log(n[a] + n[b]) - n_log(n[a]) - n_log(n[b]);
			int64_t together = bound_of_two(marked, a, b);
			int64_t loss =
			    together - own[a] - own[b] - (int64_t)(marks >> (MFS_LOG_BITS + 3));

			if (loss < best.loss)
				best = (struct pair){a, b, together, loss};
		}
	return best;
}

/* The last bucket takes the place of the second. */
static void merge_two(struct mfs_marked *marked, int64_t own[], const struct pair *pair)
{
	const uint32_t a = pair->a, b = pair->b, last = --marked->buckets;

	own[a] = pair->together;
	marked->groups[a] += marked->groups[b];
	for (unsigned k = 0; k < 256; k++)
		marked->histogram[a][k] += marked->histogram[b][k];
	own[b] = own[last];
	marked->groups[b] = marked->groups[last];
	memcpy(marked->histogram[b], marked->histogram[last], sizeof(marked->histogram[b]));
}

/* Merges buckets as long as that loses less than a tree, of which these bytes bear `tree`
 * bytes. Sets the bound. */
static void merge(struct mfs_marked *marked, size_t tree)
{
	int64_t own[MFS_MARKED_MAX], bound;

	for (uint32_t b = 0; b < marked->buckets; b++)
		own[b] = (int64_t)mfs_histogram_bound(marked->histogram[b]);
	while (marked->buckets > 2) {
		struct pair pair = nearest_pair(marked, own);

		if (pair.loss >= (int64_t)tree)
			break;
		merge_two(marked, own, &pair);
	}
	bound = marks_bound(marked);
	for (uint32_t b = 0; b < marked->buckets; b++)
		bound += own[b];
	marked->bound = (size_t)bound;
}

/* ---- sizes of groups ---- */

/* Replaces *best by buckets of such groups, if these make the part smaller. */
static void find_with(uint32_t group, const struct cells *cells, size_t tree, uint8_t *bucket,
		      struct mfs_marked *best)
{
	const uint32_t count = cells->count * CELL_BYTES / group;
	struct mfs_groups groups = {
	    .count = count, .bytes = group, .size = {count}, .bucket = bucket};
	struct mfs_marked at = {.group = group};
	uint32_t cost[CELLS_MAX];

	memset(bucket, 0, count);
	add_cells(cells, &groups, cost);
	for (at.buckets = 1; at.buckets < MFS_MARKED_MAX;) {
		divide(&groups, at.buckets, cost);
		at.buckets *= 2;
		count_buckets(&at, &groups, cells->in);
		improve(&at, &groups, cells->in, cost);
	}
	count_buckets(&at, &groups, cells->in);
	merge(&at, tree);
	if (at.bound + at.buckets * tree < best->bound + best->buckets * tree)
		*best = at;
}

/* Sizes of groups: the last two are tried where one of the first two gains. Blocks of
 * 64 weights in 4 bits have 32 bytes; of rows all bytes are alike. */
static const uint8_t group_sizes[] = {32, 128, 16, 64};
#define GROUPS_FIRST 2

/* Copies at most `most` bytes, in pieces that lie evenly over the sample; returns how
 * many. */
static size_t gather(const uint8_t *in, size_t size, size_t most, uint8_t *out)
{
	const size_t pieces = size / PIECE_BYTES, wanted = most / PIECE_BYTES;

	if (size <= most || !wanted) {
		size = size < most ? size : most;
		memcpy(out, in, size);
		return size;
	}
	for (size_t i = 0; i < wanted; i++)
		memcpy(out + i * PIECE_BYTES, in + pieces * i / wanted * PIECE_BYTES, PIECE_BYTES);
	return wanted * PIECE_BYTES;
}

static size_t smaller(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* What part of the stream bears of a tree's bytes. */
static size_t tree_share(size_t part, uint64_t whole_size)
{
	return (size_t)(MFS_MARKED_TREE * (uint64_t)part / whole_size);
}

/* The best size, and buckets of such groups; *out is left without buckets if none gain. */
static void find_size(struct mfs_marked *out, const uint8_t *in, size_t size, size_t tree,
		      uint8_t *bucket)
{
	uint32_t whole[256] = {0};
	struct cells cells;

	mfs_histogram_add(whole, in, size);
	cells_make(&cells, whole, in, size);
	out->buckets = 0;
	out->bound = mfs_histogram_bound(whole);
	out->bound -= out->bound / MFS_MARKED_GAIN;
	for (size_t i = 0; i < sizeof(group_sizes) && (i < GROUPS_FIRST || out->buckets); i++)
		find_with(group_sizes[i], &cells, tree, bucket, out);
}

int mfs_marked_find(mfs_encoder *encoder, struct mfs_marked *out, const uint8_t *in, size_t size,
		    uint64_t whole_size)
{
	uint8_t *work = encoder->sorted;
	struct mfs_groups groups = {.bucket = encoder->buckets};
	size_t part = gather(in, size, smaller(FEW_BYTES, encoder->max_span), work);
	size_t more = smaller(LEARNED_BYTES, encoder->max_span);

	find_size(out, work, part, tree_share(part, whole_size), groups.bucket);
	if (!out->buckets)
		return 0;
	groups.bytes = out->group;
	for (unsigned round = 0; round < ROUNDS; round++)
		learn(out, &groups, work, part);
	if (more > whole_size / LEARNED_SHARE)
		more = (size_t)(whole_size / LEARNED_SHARE);
	if (more > part)
		part = gather(in, size, more, work);
	learn(out, &groups, work, part);
	merge(out, tree_share(part, whole_size));
	out->size = part;
	return 1;
}
