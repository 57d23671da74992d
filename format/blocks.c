/* Where the blocks of a frame of literals end. A tensor is not the same everywhere:
 * rows differ, and parts of a network may have been put together. Each block may
 * have a tree of its own, so a block ends where a tree for what follows saves more
 * than it takes. */
#include "frame_private.h"

#include <string.h>

/* A block may end behind each piece. */
#define PIECE_BYTES (ZSTD_BLOCKSIZE_MAX / MFS_CUT_MAX)

#define BLOCK_COST (88u * 8 << MFS_LOG_BITS) /* of a tree and headers, about */
/* What the pieces seem to save together, as each of them fits its few bytes best. */
#define CHANCE_COST (40u * 8 << MFS_LOG_BITS)

/* Neighbouring pieces that share a block. */
struct part {
	uint32_t bytes;
	uint64_t cost; /* bits << MFS_LOG_BITS */
	uint32_t histogram[256];
};

/* Bits of two parts' bytes with one tree, << MFS_LOG_BITS; `b` may be NULL. */
static uint64_t cost_of(const struct part *a, const struct part *b)
{
	uint32_t total = a->bytes + (b ? b->bytes : 0);
	uint64_t cost = (uint64_t)total * mfs_log2_fixed(total);

	for (int k = 0; k < 256; k++) {
		uint32_t n = a->histogram[k] + (b ? b->histogram[k] : 0);

		if (n)
			cost -= (uint64_t)n * mfs_log2_fixed(n);
	}
	return cost;
}

static void merge_next(struct part *parts, uint32_t at, uint32_t count, uint64_t cost)
{
	struct part *part = &parts[at];

	for (int k = 0; k < 256; k++)
		part->histogram[k] += part[1].histogram[k];
	part->bytes += part[1].bytes;
	part->cost = cost;
	memmove(part + 1, part + 2, (count - at - 2) * sizeof(*part));
}

/* Merges the neighbours that save most by it, until none do. Returns how many are
 * left. */
static uint32_t merge_parts(struct part *parts, uint32_t count)
{
	uint64_t together[MFS_CUT_MAX];

	for (uint32_t i = 0; i + 1 < count; i++)
		together[i] = cost_of(&parts[i], &parts[i + 1]);
	while (count > 1) {
		uint64_t least = BLOCK_COST;
		uint32_t best = count;

		for (uint32_t i = 0; i + 1 < count; i++) {
			uint64_t apart = parts[i].cost + parts[i + 1].cost;
			uint64_t loss = together[i] > apart ? together[i] - apart : 0;

			if (loss < least) {
				least = loss;
				best = i;
			}
		}
		if (best == count)
			break;
		merge_next(parts, best, count, together[best]);
		count--;
		memmove(together + best, together + best + 1, (count - best) * sizeof(*together));
		if (best > 0)
			together[best - 1] = cost_of(&parts[best - 1], &parts[best]);
		if (best + 1 < count)
			together[best] = cost_of(&parts[best], &parts[best + 1]);
	}
	return count;
}

uint32_t mfs_blocks_cut(const uint8_t *in, size_t size, uint32_t bytes[MFS_CUT_MAX],
			uint32_t histogram[256])
{
	struct part parts[MFS_CUT_MAX], whole = {0};
	uint32_t count = 0;
	uint64_t apart = 0;

	for (size_t at = 0; at < size; at += parts[count++].bytes) {
		struct part *part = &parts[count];

		memset(part, 0, sizeof(*part));
		part->bytes = (uint32_t)(size - at < PIECE_BYTES ? size - at : PIECE_BYTES);
		mfs_histogram_add(part->histogram, in + at, part->bytes);
		part->cost = cost_of(part, NULL);
		apart += part->cost;
		whole.bytes += part->bytes;
		for (int k = 0; k < 256; k++)
			whole.histogram[k] += part->histogram[k];
	}
	if (histogram)
		memcpy(histogram, whole.histogram, sizeof(whole.histogram));
	bytes[0] = (uint32_t)size;
	if (count == 1 ||
	    cost_of(&whole, NULL) < apart + BLOCK_COST + (uint64_t)count * CHANCE_COST)
		return 1;
	count = merge_parts(parts, count);
	for (uint32_t i = 0; i < count; i++)
		bytes[i] = parts[i].bytes;
	return count;
}
