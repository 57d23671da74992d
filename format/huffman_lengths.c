/* The lengths of the best codes: from counts to a Huffman tree, or, where that is
 * too deep, to the best one that is not. */
#include "huffman.h"

#include <string.h>

/* A byte value that occurs: its count above its number. */
typedef uint64_t leaf;

static uint64_t count_of(leaf l)
{
	return l >> 8;
}

/* One digit of eight bits after the other. */
static void sort_by_digits(leaf *leaves, unsigned n, uint32_t most)
{
	leaf room[256], *from = leaves, *to = room;

	for (unsigned shift = 8; most; shift += 8, most >>= 8) {
		unsigned at[257] = {0};
		leaf *swap = from;

		for (unsigned i = 0; i < n; i++)
			at[(from[i] >> shift & 255) + 1]++;
		for (unsigned k = 0; k < 255; k++)
			at[k + 1] += at[k];
		for (unsigned i = 0; i < n; i++)
			to[at[from[i] >> shift & 255]++] = from[i];
		from = to;
		to = swap;
	}
	if (from != leaves)
		memcpy(leaves, from, n * sizeof(*leaves));
}

static void sort_few(leaf *leaves, unsigned n)
{
	for (unsigned i = 1; i < n; i++) {
		leaf next = leaves[i];
		unsigned k = i;

		for (; k && leaves[k - 1] > next; k--)
			leaves[k] = leaves[k - 1];
		leaves[k] = next;
	}
}

/* The leaves in rising order; returns their number. */
static unsigned sorted_leaves(const uint32_t histogram[256], leaf out[256])
{
	uint32_t most = 0;
	unsigned n = 0;

	for (unsigned k = 0; k < 256; k++) {
		out[n] = (leaf)histogram[k] << 8 | k;
		n += histogram[k] > 0;
		most |= histogram[k];
	}
	if (n <= 40)
		sort_few(out, n);
	else
		sort_by_digits(out, n, most);
	return n;
}

/* Joins the two smallest again and again: both the leaves and what comes of the
 * joining rise, so the smallest is the next of one or the other. Returns the depth
 * of the deepest leaf, and the number of leaves at each depth. */
static unsigned tree_depths(const leaf *leaves, unsigned n, unsigned number[256])
{
	uint64_t sum[256];
	uint16_t parent[256], depth[256];
	unsigned next_leaf = 0, next = 0, made, deepest = 0;
	uint16_t of_leaf[256];

	for (made = 0; made + 1 < n; made++) {
		sum[made] = 0;
		for (int side = 0; side < 2; side++) {
			if (next == made ||
			    (next_leaf < n && count_of(leaves[next_leaf]) <= sum[next])) {
				of_leaf[next_leaf] = (uint16_t)made;
				sum[made] += count_of(leaves[next_leaf++]);
			} else {
				parent[next] = (uint16_t)made;
				sum[made] += sum[next++];
			}
		}
	}
	depth[made - 1] = 0;
	for (unsigned i = made - 1; i-- > 0;)
		depth[i] = depth[parent[i]] + 1;
	memset(number, 0, 256 * sizeof(*number));
	for (unsigned i = 0; i < n; i++) {
		unsigned d = depth[of_leaf[i]] + 1u;

		number[d]++;
		deepest = d > deepest ? d : deepest;
	}
	return deepest;
}

/* ---- codes of limited length ----
 *
 * Package-merge (Larmore and Hirschberg, 1990): the first list is that of the
 * leaves; each next one holds the leaves and the pairs of neighbours of the list
 * before, in rising order. The first 2 n - 2 items of the last list are chosen;
 * pairs among them choose, in the list before, the items that they are made of. A
 * leaf's length is the number of lists in which it is chosen. */

#define ITEMS_MAX 511

struct list {
	unsigned count;
	uint8_t is_pair[ITEMS_MAX];
};

/* Merges the leaves and the pairs of `before`, whose `count` sums are given. */
static unsigned merge(const leaf *leaves, unsigned n, const uint64_t *before, unsigned count,
		      uint64_t *sums, struct list *out)
{
	unsigned l = 0, p = 0, i = 0;

	for (; l < n || p + 1 < count; i++) {
		uint64_t pair = p + 1 < count ? before[p] + before[p + 1] : UINT64_MAX;
		int is_pair = l == n || pair < count_of(leaves[l]);

		sums[i] = is_pair ? pair : count_of(leaves[l]);
		out->is_pair[i] = (uint8_t)is_pair;
		p += is_pair ? 2 : 0;
		l += !is_pair;
	}
	out->count = i;
	return i;
}

static void limited_depths(const leaf *leaves, unsigned n, unsigned limit, unsigned number[256])
{
	struct list list[MFS_CODE_BITS_MAX];
	uint64_t sums[2][ITEMS_MAX];
	unsigned count = 0, chosen = 2 * n - 2, before = n;

	for (unsigned k = 0; k < limit; k++)
		count = merge(leaves, n, sums[k % 2], count, sums[(k + 1) % 2], &list[k]);
	memset(number, 0, 256 * sizeof(*number));
	/* The leaves chosen in a list are its first ones, and fewer from list to list. */
	for (unsigned k = limit; k-- > 0;) {
		unsigned pairs = 0;

		for (unsigned i = 0; i < chosen; i++)
			pairs += list[k].is_pair[i];
		number[limit - 1 - k] = before - (chosen - pairs);
		before = chosen - pairs;
		chosen = 2 * pairs;
	}
	number[limit] = before;
}

unsigned mfs_code_lengths(const uint32_t histogram[256], unsigned limit, uint8_t length[256])
{
	leaf leaves[256];
	unsigned number[256], n = sorted_leaves(histogram, leaves), deepest;

	memset(length, 0, 256);
	if (n < 2 || n > 1u << limit)
		return 0;
	deepest = tree_depths(leaves, n, number);
	if (deepest > limit) {
		limited_depths(leaves, n, limit, number);
		for (deepest = limit; number[deepest] == 0;)
			deepest--;
	}
	/* The rarer the longer. */
	for (unsigned d = deepest, i = 0; d > 0; d--)
		for (unsigned k = 0; k < number[d]; k++)
			length[leaves[i++] & 255] = (uint8_t)d;
	return deepest;
}
