/*
 * Coding "marked": where nothing tells the bucket of a group of bytes, the encoder
 * chooses it and says so, in a bit or two. Blocks that hold an outlier, rows with a
 * scale of their own: their bytes are distributed differently, and a tree for each kind
 * saves more than the marks take.
 */
#include "frame_private.h"

#include <string.h>

#include "mfs_endian.h"
#include "modelfs_error.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

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

/* ---- choosing ---- */

/* What a byte without a code counts as: more than all codes of a group, as a bucket with
 * such a byte needs a tree of its own in the frame. (With more than 28 in a group a lane
 * overflows; then no bucket is a good one.) */
#define NO_CODE_BITS (1u << 11)
/* Bytes that no tree has should meet in one bucket, so that one tree is made. */
#define ELSEWHERE_BITS (NO_CODE_BITS + (1u << 8))

static uint32_t codes_of(const mfs_codes *codes)
{
	uint32_t count = 0;

	for (unsigned k = 0; k < 256; k++)
		count += !(codes->code[k] & MFS_CODE_MISSING);
	return count;
}

void mfs_costs_of_trees(struct mfs_costs *costs, const struct mfs_shared *shared)
{
	uint32_t widest = 0, most = 0;

	for (uint32_t b = 0; b < shared->buckets; b++) {
		uint32_t count = codes_of(&shared->encoding[b]);

		if (count > most) {
			most = count;
			widest = b;
		}
	}
	memset(costs, 0, sizeof(*costs));
	for (uint32_t b = 0; b < shared->buckets; b++)
		for (unsigned k = 0; k < 256; k++) {
			uint32_t code = shared->encoding[b].code[k];
			uint32_t missing = b == widest ? NO_CODE_BITS : ELSEWHERE_BITS;

			mfs_costs_set(costs, b, k,
				      code & MFS_CODE_MISSING ? missing : code >> 16 & 255);
		}
}

ALWAYS_INLINE uint64_t sum_of(const struct mfs_costs *costs, const uint8_t *in, uint32_t bytes)
{
	uint64_t sums[2] = {0};
	uint32_t i = 0;

	for (; i + 8 <= bytes; i += 8) {
		uint64_t eight = load_le64(in + i);

		for (unsigned k = 0; k < 8; k++, eight >>= 8)
			sums[k % 2] += costs->of[eight & 255];
	}
	for (; i < bytes; i++)
		sums[0] += costs->of[in[i]];
	return sums[0] + sums[1];
}

uint64_t mfs_costs_sum(const struct mfs_costs *costs, const uint8_t *in, uint32_t bytes)
{
	return sum_of(costs, in, bytes);
}

/* A lane that no bucket has is never the least. */
static uint64_t lanes_unused(uint32_t buckets)
{
	return buckets < MFS_MARKED_MAX ? UINT64_MAX << MFS_LANE_BITS * buckets : 0;
}

static uint8_t least_lane(uint64_t sums, uint32_t *cost)
{
	uint32_t a = sums & 0xffff, b = sums >> 16 & 0xffff, c = sums >> 32 & 0xffff,
		 d = (uint32_t)(sums >> 48);
	uint32_t ab = b < a ? b : a, cd = d < c ? d : c;
	uint8_t first = b < a, second = d < c ? 3 : 2;

	*cost = cd < ab ? cd : ab;
	return cd < ab ? second : first;
}

ALWAYS_INLINE void choose_sized(struct mfs_groups *groups, const struct mfs_costs *costs,
				uint64_t unused, const uint8_t *in, uint32_t bytes, uint32_t *cost)
{
	for (uint32_t g = 0; g < groups->count; g++, in += bytes) {
		uint32_t least;
		uint8_t bucket = least_lane(sum_of(costs, in, bytes) | unused, &least);

		groups->bucket[g] = bucket;
		groups->size[bucket]++;
		groups->uncoded |= (least >= NO_CODE_BITS) << bucket;
		if (cost)
			cost[g] = least;
	}
}

void mfs_groups_choose(struct mfs_groups *groups, const struct mfs_costs *costs, uint32_t buckets,
		       const uint8_t *in, uint32_t *cost)
{
	const uint64_t unused = lanes_unused(buckets);

	memset(groups->size, 0, sizeof(groups->size));
	groups->uncoded = 0;
	if (groups->bytes == 16)
		choose_sized(groups, costs, unused, in, 16, cost);
	else if (groups->bytes == 32)
		choose_sized(groups, costs, unused, in, 32, cost);
	else
		choose_sized(groups, costs, unused, in, groups->bytes, cost);
}
