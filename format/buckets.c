#include "frame_private.h"

#include <string.h>

#include "context.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

#define COUNTERS 8

void mfs_groups_find(struct mfs_groups *groups, const mfs_layout *layout, uint32_t blocks,
		     const uint8_t *in, const struct mfs_shared *shared)
{
	uint32_t size[COUNTERS][MFS_BUCKETS_MAX] = {0};
	const uint32_t count = blocks * mfs_context_groups(layout);
	uint8_t *bucket = groups->bucket;
	uint8_t of[256]; /* nothing that is written may lie in it */

	memcpy(of, shared->bucket, sizeof(of));
	groups->count = count;
	groups->bytes = mfs_context_group_bytes(layout);
	mfs_context_values(layout, blocks, shared->window, in, bucket);
	/* Counters of their own for neighbours: one would wait for the other. */
#pragma GCC unroll 8
	for (uint32_t i = 0; i < count; i++) {
		bucket[i] = of[bucket[i]];
		size[i % COUNTERS][bucket[i]]++;
	}
	for (int b = 0; b < MFS_BUCKETS_MAX; b++) {
		groups->size[b] = 0;
		for (int c = 0; c < COUNTERS; c++)
			groups->size[b] += size[c][b];
	}
}

/* Where each bucket's symbols begin. */
static void bucket_offsets(const struct mfs_groups *groups, size_t offset[MFS_BUCKETS_MAX])
{
	size_t at = 0;

	for (int b = 0; b < MFS_BUCKETS_MAX; b++) {
		offset[b] = at;
		at += (size_t)groups->size[b] * groups->bytes;
	}
}

ALWAYS_INLINE void sort_sized(const struct mfs_groups *groups, const uint8_t *in, uint8_t *out,
			      size_t bytes)
{
	size_t offset[MFS_BUCKETS_MAX];

	bucket_offsets(groups, offset);
	for (uint32_t i = 0; i < groups->count; i++) {
		size_t *at = &offset[groups->bucket[i]];

		memcpy(out + *at, in + i * bytes, bytes);
		*at += bytes;
	}
}

ALWAYS_INLINE void scatter_sized(const struct mfs_groups *groups, const uint8_t *in, uint8_t *out,
				 size_t bytes)
{
	const uint8_t *bucket = groups->bucket;
	const uint32_t count = groups->count;
	size_t offset[MFS_BUCKETS_MAX];

	bucket_offsets(groups, offset);
	for (uint32_t i = 0; i < count; i++) {
		size_t *at = &offset[bucket[i]];

		memcpy(out + i * bytes, in + *at, bytes);
		*at += bytes;
	}
}

/* Copies of a size that the compiler knows are a move or two. */
void mfs_groups_sort(const struct mfs_groups *groups, const uint8_t *in, uint8_t *out)
{
	if (groups->bytes == 4)
		sort_sized(groups, in, out, 4);
	else if (groups->bytes == 16)
		sort_sized(groups, in, out, 16);
	else if (groups->bytes == 32)
		sort_sized(groups, in, out, 32);
	else
		sort_sized(groups, in, out, groups->bytes);
}

void mfs_groups_scatter(const struct mfs_groups *groups, const uint8_t *in, uint8_t *out)
{
	if (groups->bytes == 4)
		scatter_sized(groups, in, out, 4);
	else if (groups->bytes == 16)
		scatter_sized(groups, in, out, 16);
	else if (groups->bytes == 32)
		scatter_sized(groups, in, out, 32);
	else
		scatter_sized(groups, in, out, groups->bytes);
}

/* Where the bucket's tree lacks a code, the frame brings a tree of its own. */
static size_t encode_bucket(const mfs_codes *codes, const uint8_t *in, size_t size, uint8_t *out)
{
	size_t coded = mfs_codes_encode(codes, in, size, out);

	return coded ? coded : mfs_literals_encode(NULL, in, size, out);
}

size_t mfs_buckets_encode(const uint8_t *sorted, const struct mfs_shared *shared,
			  const struct mfs_groups *groups, uint8_t *out)
{
	size_t at = 0;

	for (uint32_t b = 0; b < shared->buckets; b++) {
		size_t size = (size_t)groups->size[b] * groups->bytes;

		if (size == 0)
			continue;
		at += encode_bucket(&shared->encoding[b], sorted, size, out + at);
		sorted += size;
	}
	return at;
}
