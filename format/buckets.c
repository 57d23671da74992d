#include "frame_private.h"

#include <string.h>

#include "context.h"
#include "processor.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Values looked at together: few enough that a byte counts them. */
#define CHUNK 192

/* The least value of each bucket but the first; returns their number. */
static uint32_t bucket_bounds(const uint8_t bucket[256], uint8_t bound[MFS_BUCKETS_MAX])
{
	uint32_t count = 0;

	for (uint32_t value = 1; value < 256; value++)
		if (bucket[value] != bucket[value - 1])
			bound[count++] = (uint8_t)value;
	return count;
}

/* A value's bucket is the number of bounds that it reaches: comparing is faster
 * than looking up. Values become buckets; reached[b] counts those that reach
 * bound[b]. */
ALWAYS_INLINE void find_chunk(uint8_t value[CHUNK], const uint8_t bound[], uint32_t bounds,
			      uint32_t reached[])
{
	uint8_t bucket[CHUNK] = {0};

	for (uint32_t b = 0; b < bounds; b++) {
		const uint8_t least = bound[b];
		uint8_t count = 0;

		for (unsigned i = 0; i < CHUNK; i++) {
			uint8_t reaches = value[i] >= least;

			bucket[i] = (uint8_t)(bucket[i] + reaches);
			count = (uint8_t)(count + reaches);
		}
		reached[b] += count;
	}
	memcpy(value, bucket, CHUNK);
}

typedef void finder(uint8_t value[CHUNK], const uint8_t bound[], uint32_t bounds,
		    uint32_t reached[]);

static void find_buckets(uint8_t value[CHUNK], const uint8_t bound[], uint32_t bounds,
			 uint32_t reached[])
{
	find_chunk(value, bound, bounds, reached);
}

#if defined(__x86_64__)
/* The same loop in vectors twice as long. */
__attribute__((target("avx2"))) static void
find_buckets_avx2(uint8_t value[CHUNK], const uint8_t bound[], uint32_t bounds, uint32_t reached[])
{
	find_chunk(value, bound, bounds, reached);
}
#endif

static finder *best_finder(void)
{
#if defined(__x86_64__)
	if (mfs_processor() & MFS_PROCESSOR_AVX2)
		return find_buckets_avx2;
#endif
	return find_buckets;
}

void mfs_groups_find(struct mfs_groups *groups, const mfs_layout *layout, uint32_t blocks,
		     const uint8_t *in, const struct mfs_shared *shared)
{
	const uint32_t count = blocks * mfs_context_groups(layout);
	uint32_t reached[MFS_BUCKETS_MAX] = {0};
	uint8_t bound[MFS_BUCKETS_MAX], value[CHUNK];
	uint32_t bounds = bucket_bounds(shared->bucket, bound), above = count, first = 0;
	finder *find = best_finder();

	groups->count = count;
	groups->bytes = mfs_context_group_bytes(layout);
	mfs_context_values(layout, blocks, shared->window, in, groups->bucket);
	for (; first + CHUNK <= count; first += CHUNK)
		find(groups->bucket + first, bound, bounds, reached);
	if (first < count) {
		memset(value, 0, CHUNK); /* what is too much reaches no bound */
		memcpy(value, groups->bucket + first, count - first);
		find(value, bound, bounds, reached);
		memcpy(groups->bucket + first, value, count - first);
	}
	memset(groups->size, 0, sizeof(groups->size));
	for (uint32_t b = 0; b < bounds; b++) {
		groups->size[b] = above - reached[b];
		above = reached[b];
	}
	groups->size[bounds] = above;
}

/* Where each bucket's symbols begin and end. Loops go from both ends: neighbours of one
 * bucket wait for each other. */
struct sorted {
	size_t first[MFS_BUCKETS_MAX], end[MFS_BUCKETS_MAX];
};

static struct sorted sorted_of(const struct mfs_groups *groups)
{
	struct sorted to;
	size_t at = 0;

	for (int b = 0; b < MFS_BUCKETS_MAX; b++) {
		to.first[b] = at;
		at += (size_t)groups->size[b] * groups->bytes;
		to.end[b] = at;
	}
	return to;
}

ALWAYS_INLINE void sort_sized(const struct mfs_groups *groups, const uint8_t *in, uint8_t *out,
			      size_t bytes)
{
	const uint8_t *bucket = groups->bucket;
	struct sorted at = sorted_of(groups);

	for (uint32_t i = 0, k = groups->count; i < k; i++) {
		size_t *to = &at.first[bucket[i]];

		memcpy(out + *to, in + i * bytes, bytes);
		*to += bytes;
		to = &at.end[bucket[--k]];
		*to -= bytes;
		memcpy(out + *to, in + k * bytes, bytes);
	}
}

/* In rows of `row` groups, which begin `stride` bytes apart. A row in the middle is both the
 * last from the front and the last from the back. */
ALWAYS_INLINE void scatter_sized(const struct mfs_groups *groups, const uint8_t *in, uint32_t row,
				 uint8_t *out, size_t stride, size_t bytes)
{
	const uint32_t rows = groups->count / row;
	const uint8_t *bucket = groups->bucket, *last = bucket + groups->count;
	struct sorted at = sorted_of(groups);

	for (uint32_t r = 0; r < rows - r; r++, bucket += row) {
		uint8_t *front = out + r * stride, *back = out + (rows - 1 - r) * stride;

		last -= row;
		for (uint32_t i = 0, k = row; i < row; i++) {
			size_t *from = &at.first[bucket[i]];

			memcpy(front + i * bytes, in + *from, bytes);
			*from += bytes;
			from = &at.end[last[--k]];
			*from -= bytes;
			memcpy(back + k * bytes, in + *from, bytes);
		}
	}
}

/* One group to a row is the most common case. */
ALWAYS_INLINE void scatter_rows(const struct mfs_groups *groups, const uint8_t *in, uint32_t row,
				uint8_t *out, size_t stride, size_t bytes)
{
	if (row == 1)
		scatter_sized(groups, in, 1, out, stride, bytes);
	else
		scatter_sized(groups, in, row, out, stride, bytes);
}

/* Copies of a size that the compiler knows are a move or two. */
void mfs_groups_sort(const struct mfs_groups *groups, const uint8_t *in, uint8_t *out)
{
	if (groups->bytes == 4)
		sort_sized(groups, in, out, 4);
	else if (groups->bytes == 8)
		sort_sized(groups, in, out, 8);
	else if (groups->bytes == 16)
		sort_sized(groups, in, out, 16);
	else if (groups->bytes == 32)
		sort_sized(groups, in, out, 32);
	else if (groups->bytes == 64)
		sort_sized(groups, in, out, 64);
	else
		sort_sized(groups, in, out, groups->bytes);
}

void mfs_groups_scatter(const struct mfs_groups *groups, const uint8_t *in, uint32_t row,
			uint8_t *out, size_t stride)
{
	if (groups->bytes == 4)
		scatter_rows(groups, in, row, out, stride, 4);
	else if (groups->bytes == 8)
		scatter_rows(groups, in, row, out, stride, 8);
	else if (groups->bytes == 16)
		scatter_rows(groups, in, row, out, stride, 16);
	else if (groups->bytes == 32)
		scatter_rows(groups, in, row, out, stride, 32);
	else if (groups->bytes == 64)
		scatter_rows(groups, in, row, out, stride, 64);
	else
		scatter_rows(groups, in, row, out, stride, groups->bytes);
}

/* Where the bucket's tree lacks a code, the frame brings a tree of its own. */
static size_t encode_bucket(const mfs_codes *codes, int uncoded, const uint8_t *in, size_t size,
			    size_t all, uint8_t *out)
{
	size_t coded = uncoded ? 0 : mfs_codes_encode(codes, in, size, all, out);

	return coded ? coded : mfs_literals_encode(NULL, in, size, out);
}

size_t mfs_buckets_encode(const uint8_t *sorted, const struct mfs_shared *shared,
			  const struct mfs_groups *groups, uint8_t *out)
{
	const size_t all = (size_t)groups->count * groups->bytes;
	size_t at = 0;

	for (uint32_t b = 0; b < shared->buckets; b++) {
		size_t size = (size_t)groups->size[b] * groups->bytes;

		if (size == 0)
			continue;
		at += encode_bucket(&shared->encoding[b], groups->uncoded >> b & 1, sorted, size,
				    all, out + at);
		sorted += size;
	}
	return at;
}
