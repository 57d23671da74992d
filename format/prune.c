#include "prune.h"

#include <string.h>

#include "half.h"

/* Magnitudes are ordered as their bits are: 16 bits choose the bin, 15 are left. */
#define REST 15

static uint32_t magnitude_of(float weight)
{
	return mfs_float_bits(weight) & 0x7fffffff;
}

void mfs_prune_start(mfs_prune *prune, uint64_t *histogram, uint64_t target)
{
	*prune = (mfs_prune){.histogram = histogram, .target = target};
	memset(histogram, 0, MFS_PRUNE_BINS * sizeof(*histogram));
}

void mfs_prune_count(mfs_prune *prune, const float *weights, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		const uint32_t magnitude = magnitude_of(weights[i]);

		if (!prune->narrowed)
			prune->histogram[magnitude >> REST]++;
		else if (magnitude >> REST == prune->bin)
			prune->histogram[magnitude & ((1u << REST) - 1)]++;
	}
}

/* The bin in which the target is reached; `below` is what lies in lower ones. */
static uint32_t find_bin(mfs_prune *prune)
{
	uint32_t bin = 0;

	while (bin + 1 < MFS_PRUNE_BINS && prune->histogram[bin] < prune->target - prune->below)
		prune->below += prune->histogram[bin++];
	return bin;
}

void mfs_prune_narrow(mfs_prune *prune)
{
	prune->bin = find_bin(prune);
	prune->narrowed = 1;
	memset(prune->histogram, 0, MFS_PRUNE_BINS * sizeof(*prune->histogram));
}

void mfs_prune_settle(mfs_prune *prune)
{
	prune->threshold = prune->bin << REST | find_bin(prune);
	prune->ties = prune->target - prune->below;
}

void mfs_prune_apply(mfs_prune *prune, float *weights, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		const uint32_t magnitude = magnitude_of(weights[i]);

		if (magnitude < prune->threshold) {
			weights[i] = 0;
		} else if (magnitude == prune->threshold && prune->ties) {
			weights[i] = 0;
			prune->ties--;
		}
	}
}

/* How many of the four come before weight i: are larger, or equal and earlier. */
static int rank_of(const float *four, int i)
{
	int rank = 0;

	for (int j = 0; j < 4; j++) {
		const uint32_t a = magnitude_of(four[j]), b = magnitude_of(four[i]);

		rank += a > b || (a == b && j < i);
	}
	return rank;
}

void mfs_prune_2_of_4(float *weights, size_t count)
{
	for (; count >= 4; count -= 4, weights += 4) {
		int rank[4];

		for (int i = 0; i < 4; i++)
			rank[i] = rank_of(weights, i);
		for (int i = 0; i < 4; i++)
			if (rank[i] >= 2)
				weights[i] = 0;
	}
}
