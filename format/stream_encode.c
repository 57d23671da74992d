/* Encoding: the coding of one stream, chosen by what its bytes come to. */
#include "stream_encode.h"

#include <string.h>

#include "mfs_endian.h"

/* The largest coded size that is worth storing in place of `size` bytes. */
static size_t worth_storing(size_t size, uint32_t min_gain)
{
	uint64_t gain = ((uint64_t)size * min_gain + 1023) / 1024;

	if (gain == 0)
		gain = 1;
	return gain < size ? size - (size_t)gain : 0;
}

static void try_buckets(mfs_encoder *encoder, const struct mfs_span *span,
			const struct mfs_shared *shared, struct mfs_coded *stream, size_t limit,
			uint8_t *out)
{
	struct mfs_groups groups = {.bucket = encoder->buckets};
	size_t size;

	mfs_groups_find(&groups, span->layout, span->blocks, span->in, shared);
	mfs_groups_sort(&groups, stream->bytes, encoder->sorted);
	size = mfs_buckets_encode(encoder->sorted, shared, &groups, out);
	if (size && size <= limit)
		mfs_coded_keep(stream, MFS_CODING_BUCKETS, out, size);
}

/* What tells the buckets, behind its size; returns the bytes of both. */
static size_t code_marks(const mfs_encoder *encoder, const struct mfs_groups *groups,
			 uint32_t buckets, uint8_t *out)
{
	const size_t size = mfs_marks_size(groups->count, buckets);
	uint8_t *packed = encoder->marks + groups->count;
	size_t coded;

	mfs_marks_pack(groups, buckets, packed);
	coded = mfs_literals_encode(NULL, packed, size, out + MFS_STREAM_HEADER);
	if (coded >= size) {
		memcpy(out + MFS_STREAM_HEADER, packed, size);
		coded = size;
	}
	store_le32(out, (uint32_t)coded);
	return MFS_STREAM_HEADER + coded;
}

static void try_marked(mfs_encoder *encoder, const struct mfs_shared *shared,
		       struct mfs_coded *stream, size_t limit, uint8_t *out)
{
	struct mfs_groups groups = {.count = stream->size / shared->group,
				    .bytes = shared->group,
				    .bucket = encoder->marks};
	struct mfs_costs costs;
	const size_t grouped = (size_t)groups.count * groups.bytes, rest = stream->size - grouped;
	size_t size;

	/* Another writer's tables may have more buckets than this one chooses from. */
	if (groups.count == 0 || shared->buckets > MFS_MARKED_MAX)
		return;
	mfs_costs_of_trees(&costs, shared);
	mfs_groups_choose(&groups, &costs, shared->buckets, stream->bytes, NULL);
	mfs_groups_sort(&groups, stream->bytes, encoder->sorted);
	size = code_marks(encoder, &groups, shared->buckets, out);
	size += mfs_buckets_encode(encoder->sorted, shared, &groups, out + size);
	if (size + rest > limit)
		return;
	memcpy(out + size, stream->bytes + grouped, rest);
	mfs_coded_keep(stream, MFS_CODING_MARKED, out, size + rest);
}

/* A tree of its own is made only where the histogram says that it may save more
 * than that tree takes, of what the tensor's tree needs. */
#define TREE_LEAST 48

/* Bytes, less the headers, that the stream comes to with the tensor's tree. */
static size_t shared_size(const struct mfs_span *span, const struct mfs_shared *shared,
			  const uint32_t histogram[256])
{
	uint64_t bits;

	if (!shared || shared->count != 1 || shared->buckets ||
	    !mfs_coding_allowed(span, MFS_CODING_SHARED))
		return SIZE_MAX;
	bits = mfs_codes_bits(shared->encoding, histogram);
	return bits == UINT64_MAX ? SIZE_MAX : bits / 8;
}

static size_t smaller(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* Packs the stream if that comes to `limit` bytes or fewer; true if it did. */
static int try_packed(const mfs_encoder *encoder, const struct mfs_span *span,
		      struct mfs_coded *stream, size_t limit, uint8_t *out)
{
	struct mfs_packed plan;
	size_t size = mfs_packed_plan(&plan, encoder->histogram[0], stream->size);

	if (size == 0 || size > limit || !mfs_coding_allowed(span, MFS_CODING_PACKED))
		return 0;
	mfs_coded_keep(stream, MFS_CODING_PACKED, out,
		       mfs_packed_encode(&plan, stream->bytes, stream->size, out));
	return 1;
}

static size_t own_size(const struct mfs_span *span, const uint32_t histogram[256], size_t bound,
		       size_t limit, mfs_tree *tree)
{
	tree->size = 0;
	if (bound + TREE_LEAST > limit || !mfs_coding_allowed(span, MFS_CODING_LITERALS))
		return SIZE_MAX;
	/* One value alone has no tree, and comes to next to nothing. */
	if (!mfs_tree_make(tree, histogram))
		return bound;
	return mfs_codes_bits(&tree->codes, histogram) / 8 + tree->size;
}

/* Counts the bytes; true if it was seen on the way that they change. */
static int count_bytes(const struct mfs_coded *stream, uint32_t histogram[256])
{
	uint32_t part[MFS_CUT_MAX];

	if (stream->size <= ZSTD_BLOCKSIZE_MAX)
		return mfs_blocks_cut(stream->bytes, stream->size, part, histogram) > 1;
	memset(histogram, 0, 256 * sizeof(*histogram));
	mfs_histogram_add(histogram, stream->bytes, stream->size);
	return 0;
}

/* With trees for parts of it, where the bytes change on the way (`change`, if there is one
 * block); true if that comes to `limit` bytes or fewer. */
static int try_parts(const struct mfs_span *span, struct mfs_coded *stream, int change,
		     size_t limit, uint8_t *out)
{
	size_t size;

	if (stream->size > ZSTD_BLOCKSIZE_MAX)
		change = mfs_literals_change(stream->bytes, stream->size);
	if (!change || !mfs_coding_allowed(span, MFS_CODING_LITERALS))
		return 0;
	size = mfs_literals_encode(NULL, stream->bytes, stream->size, out);
	if (!size || size > limit)
		return 0;
	mfs_coded_keep(stream, MFS_CODING_LITERALS, out, size);
	return 1;
}

/* The coding with the tensor's tree or with trees of its own, whichever the
 * histogram says is smaller. */
static void try_literals(mfs_encoder *encoder, const struct mfs_span *span,
			 const struct mfs_shared *shared, struct mfs_coded *stream, size_t limit,
			 uint8_t *out)
{
	uint32_t *histogram = encoder->histogram[0];
	size_t bound, with_shared, with_own, best, size;
	enum mfs_coding coding;
	mfs_tree tree;
	int change;

	change = count_bytes(stream, histogram);
	stream->zeros = histogram[0];
	bound = mfs_histogram_bound(histogram);
	/* What comes so near to the entropy is decoded faster than any tree. */
	if (bound > limit ||
	    try_packed(encoder, span, stream, smaller(limit, mfs_packed_enough(bound)), out))
		return;
	with_shared = shared_size(span, shared, histogram);
	with_own = own_size(span, histogram, bound, smaller(with_shared, limit), &tree);
	best = smaller(smaller(with_shared, with_own), limit);
	if (try_parts(span, stream, change, best, out))
		return;
	coding = with_shared <= with_own ? MFS_CODING_SHARED : MFS_CODING_LITERALS;
	if (smaller(with_shared, with_own) <= limit) {
		size = coding == MFS_CODING_SHARED
			   ? mfs_codes_encode(shared->encoding, stream->bytes, stream->size,
					      stream->size, out)
			   : mfs_literals_encode(&tree, stream->bytes, stream->size, out);
		if (size && size <= limit) {
			mfs_coded_keep(stream, coding, out, size);
			limit = size - 1;
		}
	}
	try_packed(encoder, span, stream, limit, out);
}

/* Bytes that matches have to save: literals are decoded faster. */
#define MATCHES_MIN 24

/* Up to this level time counts, and bytes that no tree shortens are searched quickly
 * before: of noise, or what is compressed already, zstd's quickest level says soon that
 * nothing repeats. */
#define HASTY_LEVEL 9
#define QUICK_LEVEL 1

/* Matches must beat the literals at `out`, if these were kept; what is better
 * ends there. */
static void try_matches(mfs_encoder *encoder, int level, struct mfs_coded *stream, size_t limit,
			uint8_t *out)
{
	size_t literals = stream->stored == out ? stream->stored_size : 0;
	size_t size;

	if (stream->coding == MFS_CODING_RAW && level <= HASTY_LEVEL) {
		size = mfs_matches_encode(encoder->matches, QUICK_LEVEL, stream->bytes,
					  stream->size, out);
		if (size == 0 || size > limit)
			return;
	}
	size = mfs_matches_encode(encoder->matches, level, stream->bytes, stream->size,
				  out + literals);
	if (size == 0 || size > limit || size + MATCHES_MIN > stream->stored_size)
		return;
	memmove(out, out + literals, size);
	mfs_coded_keep(stream, MFS_CODING_ZSTD, out, size);
}

static int all_zero(const uint8_t *bytes, size_t size)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0;
}

/* Of a stream so many pieces are looked at, which together are a quarter of it. */
#define PIECES	    32
#define SAMPLED_MIN (32u << 10) /* in smaller ones at all bytes */
#define SAMPLE_ERR  512		/* what they tell amiss, of the size */

/* Whether a tree for all bytes might make the stream smaller than it is stored now, by
 * what a part of it comes to. */
static int may_shrink(const struct mfs_coded *stream)
{
	const size_t piece = stream->size / (4 * PIECES);
	uint32_t histogram[256] = {0};
	uint8_t length[256];
	uint64_t bits = 0;

	for (size_t i = 0; i < PIECES; i++)
		mfs_histogram_add(histogram, stream->bytes + i * 4 * piece, piece);
	if (!mfs_code_lengths(histogram, MFS_CODE_BITS_MAX, length))
		return 1;
	for (unsigned k = 0; k < 256; k++)
		bits += (uint64_t)histogram[k] * length[k];
	return bits / 8 * stream->size / (piece * PIECES) <
	       stream->stored_size + stream->stored_size / SAMPLE_ERR;
}

/* Marked buckets were chosen by what entropy says of a sample; rare values, whose codes
 * are limited in length, may make trees for all bytes of this stream smaller. What is
 * better ends at `out`, where the stream stands. */
static void try_unmarked(mfs_encoder *encoder, const struct mfs_span *span,
			 struct mfs_coded *stream, uint8_t *out)
{
	uint8_t *behind = out + stream->stored_size;

	if (stream->size >= SAMPLED_MIN && !may_shrink(stream))
		return;
	try_literals(encoder, span, NULL, stream, stream->stored_size - 1, behind);
	if (stream->stored != behind)
		return;
	memmove(out, behind, stream->stored_size);
	stream->stored = out;
}

size_t mfs_stream_encode(mfs_encoder *encoder, const struct mfs_span *span,
			 const struct mfs_shared *shared, struct mfs_coded *stream, uint8_t *out)
{
	size_t limit = worth_storing(stream->size, span->rules->min_gain);
	int level = span->rules->match_level;

	mfs_coded_keep(stream, MFS_CODING_RAW, stream->bytes, stream->size);
	stream->zeros = stream->size;
	if (all_zero(stream->bytes, stream->size)) {
		mfs_coded_keep(stream, MFS_CODING_ZERO, NULL, 0);
		return 0;
	}
	if (shared && shared->group && stream->may_be_marked &&
	    mfs_coding_allowed(span, MFS_CODING_MARKED))
		try_marked(encoder, shared, stream, limit, out);
	else if (shared && shared->buckets && !shared->group && stream->symbols &&
		 mfs_coding_allowed(span, MFS_CODING_BUCKETS))
		try_buckets(encoder, span, shared, stream, limit, out);
	if (stream->coding == MFS_CODING_RAW)
		try_literals(encoder, span, shared, stream, limit, out);
	else if (stream->coding == MFS_CODING_MARKED)
		try_unmarked(encoder, span, stream, out);
	if (level > 0 && mfs_coding_allowed(span, MFS_CODING_ZSTD))
		try_matches(encoder, level, stream, limit, out);
	return stream->stored == out ? stream->stored_size : 0;
}
