/*
 * Coding "marked": where nothing tells the bucket of a group of bytes, the encoder
 * chooses it and says so, in a bit or two. Blocks that hold an outlier, rows with a
 * scale of their own: their bytes are distributed differently, and a tree for each kind
 * saves more than the marks take.
 */
#include "frame_private.h"

#include <stdlib.h>
#include <string.h>

#include "modelfs_error.h"

/* ---- marks as they are stored ---- */

static unsigned mark_bits(uint32_t buckets)
{
	return buckets <= 2 ? 1 : buckets <= 4 ? 2 : 4;
}

size_t mfs_marks_size(uint32_t groups, uint32_t buckets)
{
	return ((size_t)groups * mark_bits(buckets) + 7) / 8;
}

void mfs_marks_pack(const struct mfs_groups *groups, uint32_t buckets, uint8_t *out)
{
	const unsigned bits = mark_bits(buckets), each = 8 / bits;

	memset(out, 0, mfs_marks_size(groups->count, buckets));
	for (uint32_t i = 0; i < groups->count; i++)
		out[i / each] |= (uint8_t)(groups->bucket[i] << i % each * bits);
}

int mfs_marks_unpack(struct mfs_groups *groups, uint32_t buckets, const uint8_t *in)
{
	const unsigned bits = mark_bits(buckets), each = 8 / bits, mask = (1u << bits) - 1;

	for (uint32_t i = 0; i < groups->count; i++)
		groups->bucket[i] = (uint8_t)(in[i / each] >> i % each * bits & mask);
	memset(groups->size, 0, sizeof(groups->size));
	for (uint32_t i = 0; i < groups->count; i++)
		groups->size[groups->bucket[i]]++;
	for (uint32_t b = buckets; b < MFS_BUCKETS_MAX; b++)
		if (groups->size[b])
			return MFS_E_CORRUPT;
	return 0;
}

/* ---- choosing ----
 *
 * What a byte takes in each bucket stands side by side in one word: four lanes of 16
 * bits, which no group fills. */

#define LANE_BITS 16

struct costs {
	uint64_t of[256];
};

static void costs_set(struct costs *costs, uint32_t bucket, unsigned byte, unsigned cost)
{
	costs->of[byte] |= (uint64_t)cost << LANE_BITS * bucket;
}

static uint8_t least_lane(uint64_t sums, uint32_t buckets)
{
	uint8_t best = 0;

	for (uint8_t b = 1; b < buckets; b++)
		if ((sums >> LANE_BITS * b & 0xffff) < (sums >> LANE_BITS * best & 0xffff))
			best = b;
	return best;
}

/* The cheapest bucket of each group; counts them. */
static void choose(const struct costs *costs, uint32_t buckets, const uint8_t *in,
		   struct mfs_groups *groups)
{
	memset(groups->size, 0, sizeof(groups->size));
	for (uint32_t g = 0; g < groups->count; g++, in += groups->bytes) {
		uint64_t sums = 0;

		for (uint32_t i = 0; i < groups->bytes; i++)
			sums += costs->of[in[i]];
		groups->bucket[g] = least_lane(sums, buckets);
		groups->size[groups->bucket[g]]++;
	}
}

/* What a byte without a code counts as: more than any code, and with it a frame brings
 * a tree of its own. */
#define NO_CODE_BITS 64

void mfs_groups_choose(struct mfs_groups *groups, const struct mfs_shared *shared,
		       const uint8_t *in)
{
	struct costs costs = {0};

	for (uint32_t b = 0; b < shared->buckets; b++)
		for (unsigned k = 0; k < 256; k++) {
			uint32_t code = shared->encoding[b].code[k];

			costs_set(&costs, b, k,
				  code & MFS_CODE_MISSING ? NO_CODE_BITS : code >> 16 & 255);
		}
	choose(&costs, shared->buckets, in, groups);
}

/* ---- learning buckets from a sample ----
 *
 * Groups are divided by what they cost with one tree for all, then each goes where it
 * costs least, again and again. */

#define ROUNDS 4
/* Units of a cost: so many to the bit. */
#define COST_UNITS 16
#define COST_SHIFT (MFS_LOG_BITS - 4)
#define COST_MAX   (24 * COST_UNITS)

/* What is in each bucket. */
static void count_buckets(struct mfs_marked *marked, const struct mfs_groups *groups,
			  const uint8_t *in)
{
	memset(marked->histogram, 0, sizeof(marked->histogram));
	for (uint32_t g = 0; g < groups->count; g++, in += groups->bytes) {
		uint32_t *to = marked->histogram[groups->bucket[g]];

		for (uint32_t i = 0; i < groups->bytes; i++)
			to[in[i]]++;
	}
}

/* Costs by the histogram's logarithms; values that do not occur count as half of one. */
static void costs_by(struct costs *costs, uint32_t bucket, const uint32_t histogram[256])
{
	uint32_t total = 0;

	for (unsigned k = 0; k < 256; k++)
		total += 2 * histogram[k] + 1;
	for (unsigned k = 0; k < 256; k++) {
		uint32_t cost =
		    (mfs_log2_fixed(total) - mfs_log2_fixed(2 * histogram[k] + 1)) >> COST_SHIFT;

		costs_set(costs, bucket, k, cost < COST_MAX ? cost : COST_MAX);
	}
}

/* Divides the groups of each bucket in two: those that cost more than their mean become
 * a bucket of their own. */
static void divide(struct mfs_marked *marked, struct mfs_groups *groups, const uint8_t *in)
{
	struct costs costs = {0};
	uint64_t sum[MFS_MARKED_MAX] = {0};

	for (uint32_t b = 0; b < marked->buckets; b++)
		costs_by(&costs, b, marked->histogram[b]);
	for (unsigned pass = 0; pass < 2; pass++) {
		const uint8_t *from = in;

		for (uint32_t g = 0; g < groups->count; g++, from += groups->bytes) {
			uint8_t *bucket = &groups->bucket[g];
			uint64_t cost = 0;

			for (uint32_t i = 0; i < groups->bytes; i++)
				cost += costs.of[from[i]] >> LANE_BITS * *bucket & 0xffff;
			if (pass == 0)
				sum[*bucket] += cost;
			else if (cost * groups->size[*bucket] > sum[*bucket])
				*bucket = (uint8_t)(*bucket + marked->buckets);
		}
	}
	marked->buckets *= 2;
}

static void learn(struct mfs_marked *marked, struct mfs_groups *groups, const uint8_t *in)
{
	for (unsigned round = 0; round < ROUNDS; round++) {
		struct costs costs = {0};

		count_buckets(marked, groups, in);
		for (uint32_t b = 0; b < marked->buckets; b++)
			costs_by(&costs, b, marked->histogram[b]);
		choose(&costs, marked->buckets, in, groups);
	}
	count_buckets(marked, groups, in);
}

/* Bytes that the groups and their marks come to, without trees. */
static size_t bound_of(const struct mfs_marked *marked, const struct mfs_groups *groups)
{
	uint32_t marks[256] = {0};
	size_t bound = 0;

	for (uint32_t b = 0; b < marked->buckets; b++) {
		marks[b] = groups->size[b];
		bound += mfs_histogram_bound(marked->histogram[b]);
	}
	return bound + mfs_histogram_bound(marks);
}

/* Replaces *best by what is smaller; `tree` is the part of a tree's bytes that these
 * bytes bear. */
static void find_with(uint32_t group, const uint8_t *in, size_t size, size_t tree, uint8_t *bucket,
		      struct mfs_marked *best)
{
	struct mfs_groups groups = {
	    .count = (uint32_t)(size / group), .bytes = group, .bucket = bucket};
	struct mfs_marked at = {.buckets = 1, .group = group};

	memset(bucket, 0, groups.count);
	groups.size[0] = groups.count;
	count_buckets(&at, &groups, in);
	while (at.buckets < MFS_MARKED_MAX) {
		divide(&at, &groups, in);
		learn(&at, &groups, in);
		at.bound = bound_of(&at, &groups) + (at.buckets - 1) * tree;
		if (at.bound < best->bound)
			*best = at;
	}
}

/* Sizes of groups: the last two are tried where one of the first two gains. Blocks of
 * 64 weights in 4 bits have 32 bytes; of rows all bytes are alike. */
static const uint8_t group_sizes[] = {32, 128, 16, 64};
#define GROUPS_FIRST 2
/* Which size is best, part of the sample will tell: learning takes longer than coding. */
#define FEW_BYTES (16u << 10)

int mfs_marked_find(struct mfs_marked *out, const uint8_t *in, size_t size, uint64_t whole_size,
		    uint8_t *bucket)
{
	const size_t few = size < FEW_BYTES ? size : FEW_BYTES;
	const size_t tree = (size_t)(MFS_MARKED_TREE * (uint64_t)few / whole_size);
	uint32_t whole[256] = {0};

	mfs_histogram_add(whole, in, few);
	memset(out, 0, sizeof(*out));
	out->bound = mfs_histogram_bound(whole);
	out->bound -= out->bound / MFS_MARKED_GAIN;
	for (size_t i = 0; i < sizeof(group_sizes) && (i < GROUPS_FIRST || out->buckets); i++)
		find_with(group_sizes[i], in, few, tree, bucket, out);
	if (!out->buckets)
		return 0;
	out->bound = SIZE_MAX;
	find_with(out->group, in, size, 0, bucket, out);
	return 1;
}
