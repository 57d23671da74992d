#include "frame_private.h"

#include <stdlib.h>
#include <string.h>

#include "context.h"
#include "mfs_endian.h"
#include "modelfs_error.h"

#define HEADER_BYTES 4 /* of each stream of a coded frame */
#define LENGTH_BITS  28
#define LENGTH_MASK  ((1u << LENGTH_BITS) - 1)

const char *mfs_coding_name(unsigned coding)
{
	static const char *const name[MFS_CODINGS] = {
	    "raw", "zero", "zstd", "literals", "shared", "buckets", "sparse", "packed", "marked"};

	return coding < MFS_CODINGS ? name[coding] : "unknown";
}

static size_t align_stream(size_t size)
{
	return (size + MFS_STREAM_ALIGN - 1) & ~(size_t)(MFS_STREAM_ALIGN - 1);
}

/* Room for the streams of a span. */
static size_t split_bound(size_t max_span)
{
	return align_stream(max_span + (size_t)MFS_STREAMS_MAX * MFS_STREAM_ALIGN);
}

/* Room for the bucket of each group: a group is four bytes at the least. */
static size_t groups_bound(size_t max_span)
{
	return max_span / 4 + 1;
}

size_t mfs_coded_bound(size_t size)
{
	size_t codes = mfs_codes_bound(size) + (size_t)MFS_BUCKETS_MAX * 128;
	size_t zstd = ZSTD_compressBound(size);

	return codes > zstd ? codes : zstd;
}

/* True if a span of so many blocks fits. */
static int span_ok(const mfs_layout *layout, uint32_t blocks, size_t max_span)
{
	return blocks > 0 && blocks <= max_span / layout->block_bytes;
}

/* One stream of bytes: the span is the stream. */
static int is_one_stream(const mfs_layout *layout)
{
	return layout->stream_count == 1 && layout->field[0].transform == MFS_TRANSFORM_BYTES;
}

/* ---- encoding ---- */

mfs_encoder *mfs_encoder_new(size_t max_span)
{
	mfs_encoder *encoder;

	if (max_span == 0 || max_span > MFS_FRAME_MAX)
		return NULL;
	encoder = calloc(1, sizeof(*encoder));
	if (!encoder)
		return NULL;
	encoder->max_span = max_span;
	encoder->matches = ZSTD_createCCtx();
	encoder->split = aligned_alloc(MFS_STREAM_ALIGN, split_bound(max_span));
	/* Coded streams are kept only if smaller than the stream, so all but the
	 * last together are no larger than the span. */
	encoder->coded = malloc(max_span + 2 * mfs_coded_bound(max_span));
	encoder->sorted = malloc(split_bound(max_span));
	encoder->buckets = malloc(groups_bound(max_span));
	encoder->packed = malloc(split_bound(max_span));
	encoder->marks = malloc(2 * groups_bound(max_span));
	if (!encoder->matches || !encoder->split || !encoder->coded || !encoder->sorted ||
	    !encoder->buckets || !encoder->packed || !encoder->marks) {
		mfs_encoder_free(encoder);
		return NULL;
	}
	return encoder;
}

void mfs_encoder_free(mfs_encoder *encoder)
{
	if (!encoder)
		return;
	ZSTD_freeCCtx(encoder->matches);
	free(encoder->split);
	free(encoder->coded);
	free(encoder->sorted);
	free(encoder->buckets);
	free(encoder->packed);
	free(encoder->marks);
	free(encoder);
}

void mfs_encoder_split(mfs_encoder *encoder, const mfs_layout *layout, uint32_t blocks,
		       const uint8_t *in, const uint8_t *stream[])
{
	uint8_t *to[MFS_STREAMS_MAX];
	uint8_t *at = encoder->split;

	if (is_one_stream(layout)) {
		stream[0] = in;
		return;
	}
	for (uint32_t s = 0; s < layout->stream_count; s++) {
		to[s] = at;
		stream[s] = at;
		at += align_stream((size_t)blocks * layout->stream[s].per_block);
	}
	mfs_layout_split(layout, blocks, in, to);
}

/* A stream, and what is stored of it. */
struct coded {
	const uint8_t *bytes;
	const uint8_t *stored;
	uint32_t size;
	uint32_t stored_size;
	enum mfs_coding coding;
	uint32_t zeros;	   /* bytes that are zero, at most */
	int symbols;	   /* the stream that contexts tell something about */
	int may_be_marked; /* the buckets of its groups may be */
};

/* The span at hand. */
struct span {
	const mfs_layout *layout;
	uint32_t blocks;
	const uint8_t *in;
	const mfs_coding_rules *rules;
};

static void keep(struct coded *stream, enum mfs_coding coding, const uint8_t *stored, size_t size)
{
	stream->coding = coding;
	stream->stored = stored;
	stream->stored_size = (uint32_t)size;
}

/* The largest coded size that is worth storing in place of `size` bytes. */
static size_t worth_storing(size_t size, uint32_t min_gain)
{
	uint64_t gain = ((uint64_t)size * min_gain + 1023) / 1024;

	if (gain == 0)
		gain = 1;
	return gain < size ? size - (size_t)gain : 0;
}

static int allowed(const struct span *span, enum mfs_coding coding)
{
	return !(span->rules->refused >> coding & 1);
}

static void try_buckets(mfs_encoder *encoder, const struct span *span,
			const struct mfs_shared *shared, struct coded *stream, size_t limit,
			uint8_t *out)
{
	struct mfs_groups groups = {.bucket = encoder->buckets};
	size_t size;

	mfs_groups_find(&groups, span->layout, span->blocks, span->in, shared);
	mfs_groups_sort(&groups, stream->bytes, encoder->sorted);
	size = mfs_buckets_encode(encoder->sorted, shared, &groups, out);
	if (size && size <= limit)
		keep(stream, MFS_CODING_BUCKETS, out, size);
}

/* What tells the buckets, behind its size; returns the bytes of both. */
static size_t code_marks(const mfs_encoder *encoder, const struct mfs_groups *groups,
			 uint32_t buckets, uint8_t *out)
{
	const size_t size = mfs_marks_size(groups->count, buckets);
	uint8_t *packed = encoder->marks + groups->count;
	size_t coded;

	mfs_marks_pack(groups, buckets, packed);
	coded = mfs_literals_encode(NULL, packed, size, out + HEADER_BYTES);
	if (coded >= size) {
		memcpy(out + HEADER_BYTES, packed, size);
		coded = size;
	}
	store_le32(out, (uint32_t)coded);
	return HEADER_BYTES + coded;
}

static void try_marked(mfs_encoder *encoder, const struct mfs_shared *shared, struct coded *stream,
		       size_t limit, uint8_t *out)
{
	struct mfs_groups groups = {.count = stream->size / shared->group,
				    .bytes = shared->group,
				    .bucket = encoder->marks};
	const size_t grouped = (size_t)groups.count * groups.bytes, rest = stream->size - grouped;
	size_t size;

	/* Another writer's tables may have more buckets than this one chooses from. */
	if (groups.count == 0 || shared->buckets > MFS_MARKED_MAX)
		return;
	mfs_groups_choose(&groups, shared, stream->bytes);
	mfs_groups_sort(&groups, stream->bytes, encoder->sorted);
	size = code_marks(encoder, &groups, shared->buckets, out);
	size += mfs_buckets_encode(encoder->sorted, shared, &groups, out + size);
	if (size + rest > limit)
		return;
	memcpy(out + size, stream->bytes + grouped, rest);
	keep(stream, MFS_CODING_MARKED, out, size + rest);
}

/* A tree of its own is made only where the histogram says that it may save more
 * than that tree takes, of what the tensor's tree needs. */
#define TREE_LEAST 48

/* Bytes, less the headers, that the stream comes to with the tensor's tree. */
static size_t shared_size(const struct span *span, const struct mfs_shared *shared,
			  const uint32_t histogram[256])
{
	uint64_t bits;

	if (!shared || shared->count != 1 || shared->buckets || !allowed(span, MFS_CODING_SHARED))
		return SIZE_MAX;
	bits = mfs_codes_bits(shared->encoding, histogram);
	return bits == UINT64_MAX ? SIZE_MAX : bits / 8;
}

static size_t smaller(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* Packs the stream if that comes to `limit` bytes or fewer; true if it did. */
static int try_packed(const mfs_encoder *encoder, const struct span *span, struct coded *stream,
		      size_t limit, uint8_t *out)
{
	struct mfs_packed plan;
	size_t size = mfs_packed_plan(&plan, encoder->histogram[0], stream->size);

	if (size == 0 || size > limit || !allowed(span, MFS_CODING_PACKED))
		return 0;
	keep(stream, MFS_CODING_PACKED, out,
	     mfs_packed_encode(&plan, stream->bytes, stream->size, out));
	return 1;
}

static size_t own_size(const struct span *span, const uint32_t histogram[256], size_t bound,
		       size_t limit, mfs_tree *tree)
{
	tree->size = 0;
	if (bound + TREE_LEAST > limit || !allowed(span, MFS_CODING_LITERALS))
		return SIZE_MAX;
	/* One value alone has no tree, and comes to next to nothing. */
	if (!mfs_tree_make(tree, histogram))
		return bound;
	return mfs_codes_bits(&tree->codes, histogram) / 8 + tree->size;
}

/* With trees for parts of it, where the bytes change on the way; true if that comes
 * to `limit` bytes or fewer. */
static int try_parts(const struct span *span, struct coded *stream, size_t limit, uint8_t *out)
{
	size_t size;

	if (!allowed(span, MFS_CODING_LITERALS) ||
	    !mfs_literals_change(stream->bytes, stream->size))
		return 0;
	size = mfs_literals_encode(NULL, stream->bytes, stream->size, out);
	if (!size || size > limit)
		return 0;
	keep(stream, MFS_CODING_LITERALS, out, size);
	return 1;
}

/* The coding with the tensor's tree or with trees of its own, whichever the
 * histogram says is smaller. */
static void try_literals(mfs_encoder *encoder, const struct span *span,
			 const struct mfs_shared *shared, struct coded *stream, size_t limit,
			 uint8_t *out)
{
	uint32_t *histogram = encoder->histogram[0];
	size_t bound, with_shared, with_own, best, size;
	enum mfs_coding coding;
	mfs_tree tree;

	memset(histogram, 0, sizeof(encoder->histogram[0]));
	mfs_histogram_add(histogram, stream->bytes, stream->size);
	stream->zeros = histogram[0];
	bound = mfs_histogram_bound(histogram);
	/* What comes so near to the entropy is decoded faster than any tree. */
	if (bound > limit ||
	    try_packed(encoder, span, stream, smaller(limit, mfs_packed_enough(bound)), out))
		return;
	with_shared = shared_size(span, shared, histogram);
	with_own = own_size(span, histogram, bound, smaller(with_shared, limit), &tree);
	best = smaller(smaller(with_shared, with_own), limit);
	if (try_parts(span, stream, best, out))
		return;
	coding = with_shared <= with_own ? MFS_CODING_SHARED : MFS_CODING_LITERALS;
	if (smaller(with_shared, with_own) <= limit) {
		size = coding == MFS_CODING_SHARED
			   ? mfs_codes_encode(shared->encoding, stream->bytes, stream->size, out)
			   : mfs_literals_encode(&tree, stream->bytes, stream->size, out);
		if (size && size <= limit) {
			keep(stream, coding, out, size);
			limit = size - 1;
		}
	}
	try_packed(encoder, span, stream, limit, out);
}

static size_t matches_encode(ZSTD_CCtx *context, int level, const uint8_t *in, size_t size,
			     uint8_t *out)
{
	size_t coded;

	ZSTD_CCtx_reset(context, ZSTD_reset_session_only);
	if (ZSTD_isError(ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, level)) ||
	    ZSTD_isError(ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0)))
		return 0;
	coded = ZSTD_compress2(context, out, mfs_coded_bound(size), in, size);
	return ZSTD_isError(coded) ? 0 : coded;
}

/* Bytes that matches have to save: literals are decoded faster. */
#define MATCHES_MIN 24

/* Matches must beat the literals at `out`, if these were kept; what is better
 * ends there. */
static void try_matches(mfs_encoder *encoder, int level, struct coded *stream, size_t limit,
			uint8_t *out)
{
	size_t literals = stream->stored == out ? stream->stored_size : 0;
	size_t size =
	    matches_encode(encoder->matches, level, stream->bytes, stream->size, out + literals);

	if (size == 0 || size > limit || size + MATCHES_MIN > stream->stored_size)
		return;
	memmove(out, out + literals, size);
	keep(stream, MFS_CODING_ZSTD, out, size);
}

static int all_zero(const uint8_t *bytes, size_t size)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0;
}

/* Marked buckets were chosen by what entropy says of a sample; rare values, whose codes
 * are limited in length, may make trees for all bytes of this stream smaller. What is
 * better ends at `out`, where the stream stands. */
static void try_unmarked(mfs_encoder *encoder, const struct span *span, struct coded *stream,
			 uint8_t *out)
{
	uint8_t *behind = out + stream->stored_size;

	try_literals(encoder, span, NULL, stream, stream->stored_size - 1, behind);
	if (stream->stored != behind)
		return;
	memmove(out, behind, stream->stored_size);
	stream->stored = out;
}

/* Chooses the coding of one stream. Returns the bytes of `out` that it takes. */
static size_t code_stream(mfs_encoder *encoder, const struct span *span,
			  const struct mfs_shared *shared, struct coded *stream, uint8_t *out)
{
	size_t limit = worth_storing(stream->size, span->rules->min_gain);
	int level = span->rules->match_level;

	keep(stream, MFS_CODING_RAW, stream->bytes, stream->size);
	stream->zeros = stream->size;
	if (all_zero(stream->bytes, stream->size)) {
		keep(stream, MFS_CODING_ZERO, NULL, 0);
		return 0;
	}
	if (shared && shared->group && stream->may_be_marked && allowed(span, MFS_CODING_MARKED))
		try_marked(encoder, shared, stream, limit, out);
	else if (shared && shared->buckets && !shared->group && stream->symbols &&
		 allowed(span, MFS_CODING_BUCKETS))
		try_buckets(encoder, span, shared, stream, limit, out);
	if (stream->coding == MFS_CODING_RAW)
		try_literals(encoder, span, shared, stream, limit, out);
	else if (stream->coding == MFS_CODING_MARKED)
		try_unmarked(encoder, span, stream, out);
	if (level > 0 && allowed(span, MFS_CODING_ZSTD))
		try_matches(encoder, level, stream, limit, out);
	return stream->stored == out ? stream->stored_size : 0;
}

static void pack_raw(const struct coded stream[], uint32_t count, uint8_t *out,
		     mfs_frame_info *info)
{
	for (uint32_t s = 0; s < count; s++) {
		memcpy(out + info->stored, stream[s].bytes, stream[s].size);
		info->stored += stream[s].size;
	}
	info->by_coding[MFS_CODING_RAW] = info->stored;
}

static void pack_coded(const struct coded stream[], uint32_t count, uint8_t *out,
		       mfs_frame_info *info)
{
	info->stored = count * HEADER_BYTES;
	for (uint32_t s = 0; s < count; s++) {
		uint32_t size = stream[s].stored_size;

		store_le32(out + (size_t)s * HEADER_BYTES,
			   (uint32_t)stream[s].coding << LENGTH_BITS | size);
		if (size)
			memcpy(out + info->stored, stream[s].stored, size);
		info->stored += size;
		info->by_coding[stream[s].coding] += stream[s].size;
	}
}

/* Stores the streams of one slot: coded, as they are, or not at all. */
static void pack_frame(const struct coded stream[], uint32_t count, uint8_t *out,
		       mfs_frame_info *info)
{
	uint32_t raw = 0, coded = count * HEADER_BYTES;
	int zero = 1;

	for (uint32_t s = 0; s < count; s++) {
		raw += stream[s].size;
		coded += stream[s].stored_size;
		zero = zero && stream[s].coding == MFS_CODING_ZERO;
	}
	if (zero)
		info->by_coding[MFS_CODING_ZERO] = raw;
	else if (coded < raw)
		pack_coded(stream, count, out, info);
	else
		pack_raw(stream, count, out, info);
}

/* The streams of one slot, and the codings chosen for them. */
static size_t code_slot(mfs_encoder *encoder, const struct span *span, unsigned slot,
			const mfs_tables *tables, const uint8_t *const split[], size_t words,
			struct coded stream[], uint8_t *room)
{
	const mfs_layout *layout = span->layout;
	uint8_t *begin = room;
	uint32_t number = 0;

	for (uint32_t s = 0; s < layout->stream_count; s++) {
		struct coded *to = &stream[number];

		if (layout->stream[s].slot != slot)
			continue;
		to->bytes = split[s];
		to->size = (uint32_t)(words ? words : span->blocks * layout->stream[s].per_block);
		to->symbols = layout->symbols.weights && layout->symbols.stream == s;
		to->may_be_marked = mfs_marked_fits(layout, s);
		room +=
		    code_stream(encoder, span, tables ? &tables->shared[number] : NULL, to, room);
		number++;
	}
	return (size_t)(room - begin);
}

/* One in so many words must be zero for a mask to be tried. */
#define ZEROS_SHARE 8

/* Whether there may be so many zeros: a word is zero only where all its bytes are. */
static int zeros_enough(const struct coded stream[], uint32_t count)
{
	for (uint32_t s = 0; s < count; s++)
		if (stream[s].zeros < stream[s].size / ZEROS_SHARE)
			return 0;
	return 1;
}

/* The mask as it is stored. */
static void code_mask(const uint8_t *mask, size_t size, struct coded *out, uint8_t *room)
{
	size_t coded = mfs_literals_encode(NULL, mask, size, room);

	out->size = (uint32_t)size;
	keep(out, MFS_CODING_SPARSE, mask, size);
	if (coded < size)
		keep(out, MFS_CODING_SPARSE, room, coded);
}

/* Codes the frame as mask and values, and stores it if that is smaller than what
 * stands in out[0]. */
static void try_sparse(mfs_encoder *encoder, const struct span *span, const mfs_tables *tables,
		       const uint8_t *const split[], uint8_t *out, mfs_frame_info *info)
{
	const mfs_layout *layout = span->layout;
	uint32_t streams = layout->slot_streams[0];
	size_t words = (size_t)span->blocks * layout->stream[0].per_block;
	uint8_t *mask = encoder->buckets, *packed = encoder->packed;
	const uint8_t *values[MFS_STREAMS_MAX];
	struct coded stream[MFS_STREAMS_MAX + 1];
	mfs_frame_info sparse = {0};
	size_t count = mfs_sparse_mask(split, streams, words, mask), room, total;

	if (count == 0 || words - count < words / ZEROS_SHARE)
		return;
	for (uint32_t s = 0; s < streams; s++) {
		values[s] = packed;
		mfs_sparse_pack(mask, words, split[s], packed);
		packed += align_stream(count + 1);
	}
	room = code_slot(encoder, span, 0, tables, values, count, stream + 1, encoder->coded);
	code_mask(mask, (words + 7) / 8, &stream[0], encoder->coded + room);
	total = (streams + 1) * HEADER_BYTES;
	for (uint32_t s = 0; s <= streams; s++)
		total += stream[s].stored_size;
	if (total >= info->stored)
		return;
	pack_coded(stream, streams + 1, out, &sparse);
	info->stored = sparse.stored;
	memset(info->by_coding, 0, sizeof(info->by_coding));
	info->by_coding[MFS_CODING_SPARSE] = span->blocks * layout->slot_bytes[0];
}

int mfs_span_encode(mfs_encoder *encoder, const mfs_layout *layout, uint32_t blocks,
		    const uint8_t *in, const mfs_coding_rules *rules,
		    const mfs_tables *const tables[MFS_SLOTS], uint8_t *const out[MFS_SLOTS],
		    mfs_frame_info info[MFS_SLOTS])
{
	const struct span span = {layout, blocks, in, rules};
	const uint8_t *split[MFS_STREAMS_MAX];
	struct coded stream[MFS_STREAMS_MAX];
	int zeros = 0; /* enough, in slot 0 */

	if (!span_ok(layout, blocks, encoder->max_span))
		return MFS_E_ARGUMENT;
	for (int slot = 0; slot < MFS_SLOTS; slot++)
		if (tables[slot] && tables[slot]->streams != layout->slot_streams[slot])
			return MFS_E_ARGUMENT;

	mfs_encoder_split(encoder, layout, blocks, in, split);
	memset(info, 0, MFS_SLOTS * sizeof(*info));
	for (unsigned slot = 0; slot < MFS_SLOTS; slot++) {
		if (!layout->slot_streams[slot])
			continue;
		code_slot(encoder, &span, slot, tables[slot], split, 0, stream, encoder->coded);
		pack_frame(stream, layout->slot_streams[slot], out[slot], &info[slot]);
		zeros = slot == 0 ? zeros_enough(stream, layout->slot_streams[0]) : zeros;
	}
	if (zeros && mfs_sparse_fits(layout) && info[0].stored && allowed(&span, MFS_CODING_SPARSE))
		try_sparse(encoder, &span, tables[0], split, out[0], &info[0]);
	return 0;
}

static int estimate(mfs_encoder *encoder, const mfs_sample *sample, const mfs_coding_rules *rules,
		    const mfs_tables *const tables[MFS_SLOTS], uint8_t *const out[MFS_SLOTS],
		    uint64_t *stored)
{
	const mfs_layout *layout = sample->layout;
	mfs_frame_info info[MFS_SLOTS];
	uint32_t blocks;

	*stored = 0;
	for (uint32_t first = 0; first < sample->blocks; first += blocks) {
		int err;

		blocks = sample->blocks - first;
		if (blocks > sample->span_blocks)
			blocks = sample->span_blocks;
		err = mfs_span_encode(encoder, layout, blocks,
				      sample->bytes + (size_t)first * layout->block_bytes, rules,
				      tables, out, info);
		if (err)
			return err;
		*stored += (uint64_t)info[0].stored + info[1].stored;
	}
	return 0;
}

int mfs_sample_estimate(mfs_encoder *encoder, const mfs_sample *sample,
			const mfs_coding_rules *rules, const mfs_tables *const tables[MFS_SLOTS],
			uint64_t stored[MFS_CODINGS])
{
	uint8_t *out[MFS_SLOTS] = {malloc(encoder->max_span), malloc(encoder->max_span)};
	const uint32_t always = 1u << MFS_CODING_RAW | 1u << MFS_CODING_ZERO;
	int err = out[0] && out[1] ? 0 : MFS_E_MEMORY;

	for (uint32_t c = 0; c < MFS_CODINGS && !err; c++) {
		mfs_coding_rules alone = *rules;

		if (c != MFS_CODING_ZERO)
			alone.refused = ~(always | 1u << c);
		err = estimate(encoder, sample, &alone, tables, out, &stored[c]);
	}
	free(out[0]);
	free(out[1]);
	return err;
}

/* ---- decoding ---- */

struct mfs_decoder {
	size_t max_span;
	ZSTD_DCtx *zstd;
	uint8_t *streams; /* decoded streams of the span at hand */
	uint8_t *sorted;  /* symbols by bucket */
	uint8_t *buckets; /* of each group */
	uint8_t *marks;	  /* that tell the bucket of each group */
	uint8_t *mask;	  /* of a sparse frame */
	uint8_t *joined;  /* its words that are not zero */
	mfs_literals_queue queue;
	uint8_t *zeros; /* never written: what streams of zeros are read from */
};

mfs_decoder *mfs_decoder_new(size_t max_span)
{
	mfs_decoder *decoder;

	if (max_span == 0 || max_span > MFS_FRAME_MAX)
		return NULL;
	decoder = calloc(1, sizeof(*decoder));
	if (!decoder)
		return NULL;
	decoder->max_span = max_span;
	decoder->zstd = ZSTD_createDCtx();
	decoder->streams = aligned_alloc(MFS_STREAM_ALIGN, split_bound(max_span));
	decoder->sorted = malloc(split_bound(max_span));
	decoder->buckets = malloc(groups_bound(max_span));
	decoder->marks = malloc(groups_bound(max_span));
	decoder->mask = malloc(groups_bound(max_span));
	decoder->joined = malloc(max_span + MFS_SPARSE_BEHIND);
	decoder->zeros = calloc(1, max_span);
	if (!decoder->mask || !decoder->joined || !decoder->zstd || !decoder->streams ||
	    !decoder->sorted || !decoder->buckets || !decoder->marks || !decoder->zeros) {
		mfs_decoder_free(decoder);
		return NULL;
	}
	return decoder;
}

void mfs_decoder_free(mfs_decoder *decoder)
{
	if (!decoder)
		return;
	ZSTD_freeDCtx(decoder->zstd);
	free(decoder->streams);
	free(decoder->sorted);
	free(decoder->buckets);
	free(decoder->marks);
	free(decoder->mask);
	free(decoder->joined);
	free(decoder->zeros);
	free(decoder);
}

/* A stream as a frame tells it. */
struct stored {
	unsigned coding;
	const uint8_t *bytes;
	size_t size;	 /* stored */
	size_t raw_size; /* that it must decode to */
	const struct mfs_shared *shared;
	int symbols;
};

/* The span that is being put together; its constants stand before its weights
 * are decoded. */
struct target {
	mfs_decoder *decoder;
	const mfs_layout *layout;
	uint32_t blocks;
	uint8_t *out;
};

int mfs_zstd_decode(ZSTD_DCtx *zstd, const ZSTD_DDict *dictionary, const uint8_t *in, size_t size,
		    uint8_t *out, size_t out_size)
{
	if (size < 4 || load_le32(in) != ZSTD_MAGICNUMBER ||
	    ZSTD_findFrameCompressedSize(in, size) != size)
		return MFS_E_CORRUPT;
	return ZSTD_decompress_usingDDict(zstd, out, out_size, in, size, dictionary) == out_size
		   ? 0
		   : MFS_E_CORRUPT;
}

/* The same for a frame of literals: what our encoder writes waits in the queue,
 * anything else is decoded by zstd. `shared` may be NULL: no tree is known. */
static int decode_literals(mfs_decoder *decoder, const struct mfs_shared *shared, uint32_t number,
			   const uint8_t *in, size_t size, uint8_t *out, size_t out_size)
{
	const mfs_lookup *lookup = shared ? shared->lookup[number] : NULL;

	if (mfs_literals_parse(lookup, in, size, out, out_size, &decoder->queue))
		return 0;
	return mfs_zstd_decode(decoder->zstd, shared ? shared->decoding[number] : NULL, in, size,
			       out, out_size);
}

static int run_queue(mfs_decoder *decoder)
{
	return mfs_literals_run(&decoder->queue) ? 0 : MFS_E_CORRUPT;
}

/* One zstd frame after the other, each of a bucket; behind the last lie `rest` bytes. The
 * groups to `room`. */
static int decode_groups(mfs_decoder *decoder, const struct mfs_shared *shared,
			 const struct mfs_groups *groups, const uint8_t *in, size_t left,
			 size_t rest, uint8_t *room)
{
	uint8_t *sorted = decoder->sorted;

	for (uint32_t b = 0; b < shared->buckets; b++) {
		size_t size = (size_t)groups->size[b] * groups->bytes;
		size_t coded = size ? ZSTD_findFrameCompressedSize(in, left) : 0;

		if (size == 0)
			continue;
		if (ZSTD_isError(coded) ||
		    decode_literals(decoder, shared, b, in, coded, sorted, size))
			return MFS_E_CORRUPT;
		sorted += size;
		in += coded;
		left -= coded;
	}
	if (left != rest || run_queue(decoder))
		return MFS_E_CORRUPT;
	mfs_groups_scatter(groups, decoder->sorted, room);
	return 0;
}

static int decode_buckets(struct target *to, const struct stored *stream, uint8_t *room)
{
	struct mfs_groups groups = {.bucket = to->decoder->buckets};
	const struct mfs_shared *shared = stream->shared;

	if (!stream->symbols || !shared || !shared->buckets || shared->group ||
	    to->layout->context == MFS_CONTEXT_NONE)
		return MFS_E_CORRUPT;
	mfs_groups_find(&groups, to->layout, to->blocks, to->out, shared);
	return decode_groups(to->decoder, shared, &groups, stream->bytes, stream->size, 0, room);
}

/* `raw` bytes, stored as they are or, in fewer than these, as a zstd frame. */
static int decode_side(mfs_decoder *decoder, const uint8_t *in, size_t size, uint8_t *out,
		       size_t raw)
{
	if (size > raw)
		return MFS_E_CORRUPT;
	if (size < raw)
		return decode_literals(decoder, NULL, 0, in, size, out, raw) || run_queue(decoder)
			   ? MFS_E_CORRUPT
			   : 0;
	memcpy(out, in, raw);
	return 0;
}

static int decode_marked(mfs_decoder *decoder, const struct stored *stream, uint8_t *room)
{
	const struct mfs_shared *shared = stream->shared;
	const uint32_t group = shared ? shared->group : 0;
	struct mfs_groups groups = {.bytes = group, .bucket = decoder->buckets};
	size_t size, grouped, left = stream->size;

	if (!group || stream->raw_size < group || left < HEADER_BYTES)
		return MFS_E_CORRUPT;
	groups.count = (uint32_t)(stream->raw_size / group);
	grouped = (size_t)groups.count * group;
	left -= HEADER_BYTES;
	size = load_le32(stream->bytes);
	if (size > left ||
	    decode_side(decoder, stream->bytes + HEADER_BYTES, size, decoder->marks,
			mfs_marks_size(groups.count, shared->buckets)) ||
	    mfs_marks_unpack(&groups, shared->buckets, decoder->marks) ||
	    decode_groups(decoder, shared, &groups, stream->bytes + HEADER_BYTES + size,
			  left - size, stream->raw_size - grouped, room))
		return MFS_E_CORRUPT;
	memcpy(room + grouped, stream->bytes + stream->size - (stream->raw_size - grouped),
	       stream->raw_size - grouped);
	return 0;
}

/* Points *bytes to the stream's bytes, which are decoded to `room` if they are
 * not at hand anywhere else. */
static int decode_stream(struct target *to, const struct stored *stream, uint8_t *room,
			 const uint8_t **bytes)
{
	*bytes = room;
	if (stream->coding != MFS_CODING_RAW && stream->size >= stream->raw_size)
		return MFS_E_CORRUPT;
	switch (stream->coding) {
	case MFS_CODING_RAW:
		*bytes = stream->bytes;
		return stream->size == stream->raw_size ? 0 : MFS_E_CORRUPT;
	case MFS_CODING_ZERO:
		*bytes = to->decoder->zeros;
		return stream->size == 0 ? 0 : MFS_E_CORRUPT;
	case MFS_CODING_BUCKETS:
		return decode_buckets(to, stream, room);
	case MFS_CODING_MARKED:
		return decode_marked(to->decoder, stream, room);
	case MFS_CODING_SHARED:
		if (!stream->shared || !stream->shared->count || stream->shared->buckets)
			return MFS_E_CORRUPT;
		return decode_literals(to->decoder, stream->shared, 0, stream->bytes, stream->size,
				       room, stream->raw_size);
	case MFS_CODING_PACKED:
		return mfs_packed_decode(stream->bytes, stream->size, room, stream->raw_size);
	case MFS_CODING_LITERALS:
		return decode_literals(to->decoder, NULL, 0, stream->bytes, stream->size, room,
				       stream->raw_size);
	case MFS_CODING_ZSTD:
		return mfs_zstd_decode(to->decoder->zstd, NULL, stream->bytes, stream->size, room,
				       stream->raw_size);
	default:
		return MFS_E_CORRUPT;
	}
}

/* The streams of a frame, read from its first byte to its last. */
struct cursor {
	const uint8_t *header; /* NULL: streams are stored as they are, or are zeros */
	const uint8_t *bytes;
	size_t left;
	unsigned coding; /* without header */
	uint32_t number;
};

static int frame_begin(struct cursor *at, const mfs_frame *frame, uint32_t streams, size_t raw_size)
{
	static const uint8_t nothing[1];
	size_t header = (size_t)streams * HEADER_BYTES;

	/* An empty frame may come without a pointer. */
	*at = (struct cursor){.bytes = frame->size ? frame->stored : nothing, .left = frame->size};
	at->coding = frame->size ? MFS_CODING_RAW : MFS_CODING_ZERO;
	if (frame->size == 0 || frame->size == raw_size)
		return 0;
	if (frame->size > raw_size || frame->size < header)
		return MFS_E_CORRUPT;
	at->header = frame->stored;
	at->bytes += header;
	at->left -= header;
	return 0;
}

static int frame_next(struct cursor *at, struct stored *stream, const mfs_tables *tables)
{
	uint32_t number = at->number++;
	uint32_t word;

	stream->coding = at->coding;
	stream->size = at->coding == MFS_CODING_ZERO ? 0 : stream->raw_size;
	stream->shared = tables && number < tables->streams ? &tables->shared[number] : NULL;
	if (at->header) {
		word = load_le32(at->header + (size_t)number * HEADER_BYTES);
		stream->coding = word >> LENGTH_BITS;
		stream->size = word & LENGTH_MASK;
	}
	if (stream->size > at->left)
		return MFS_E_CORRUPT;
	stream->bytes = at->bytes;
	at->bytes += stream->size;
	at->left -= stream->size;
	return 0;
}

/* The mask of a sparse frame, read before its streams. *words becomes the number
 * of those that are not zero. */
static int decode_mask(struct target *to, struct cursor *at, size_t *words)
{
	uint32_t word = load_le32(at->header);
	size_t size = word & LENGTH_MASK, raw = (*words + 7) / 8;
	uint8_t *mask = to->decoder->mask;

	if (at->left < HEADER_BYTES)
		return MFS_E_CORRUPT;
	at->header += HEADER_BYTES; /* that of the streams lies one word behind */
	at->bytes += HEADER_BYTES;
	at->left -= HEADER_BYTES;
	if (size > at->left || decode_side(to->decoder, at->bytes, size, mask, raw))
		return MFS_E_CORRUPT;
	at->bytes += size;
	at->left -= size;
	*words = mfs_sparse_count(mask, *words);
	return 0;
}

/* Puts the words that are not zero together, then the zeros between them. */
static void join_sparse(struct target *to, size_t words, size_t values,
			const uint8_t *const bytes[])
{
	uint8_t *joined = to->decoder->joined;

	mfs_layout_join_words(to->layout, values, bytes, joined);
	mfs_sparse_expand(to->decoder->mask, words, to->layout->field[0].width, joined, to->out);
}

/* Finds or decodes the streams of one slot, and puts its fields back. Without
 * `joined`, the one stream is the span and is decoded there. */
static int decode_slot(struct target *to, unsigned slot, const mfs_frame *frame, int joined)
{
	const mfs_layout *layout = to->layout;
	const uint8_t *bytes[MFS_STREAMS_MAX];
	uint8_t *room = joined ? to->decoder->streams : to->out;
	struct cursor at;
	size_t words = (size_t)to->blocks * layout->stream[0].per_block, values = words;
	int sparse;

	to->decoder->queue.count = to->decoder->queue.lookup_count = 0;
	to->decoder->queue.floor = frame->stored;
	if (frame_begin(&at, frame, layout->slot_streams[slot],
			(size_t)to->blocks * layout->slot_bytes[slot]))
		return MFS_E_CORRUPT;
	sparse = at.header && load_le32(at.header) >> LENGTH_BITS == MFS_CODING_SPARSE;
	if (sparse && (!mfs_sparse_fits(layout) || slot != 0 || decode_mask(to, &at, &values)))
		return MFS_E_CORRUPT;
	for (uint32_t s = 0; s < layout->stream_count; s++) {
		const mfs_stream *about = &layout->stream[s];
		struct stored stream = {
		    .raw_size = sparse ? values : (size_t)to->blocks * about->per_block,
		    .symbols = layout->symbols.weights && layout->symbols.stream == s};

		if (about->slot != slot)
			continue;
		if (frame_next(&at, &stream, frame->tables) ||
		    decode_stream(to, &stream, room, &bytes[s]))
			return MFS_E_CORRUPT;
		if (bytes[s] == room)
			room += align_stream(stream.raw_size);
	}
	if (at.left || run_queue(to->decoder))
		return MFS_E_CORRUPT;
	if (sparse)
		join_sparse(to, words, values, bytes);
	else if (joined)
		mfs_layout_join_slot(layout, slot, to->blocks, bytes, to->out);
	else if (bytes[0] != to->out)
		memcpy(to->out, bytes[0], (size_t)to->blocks * layout->block_bytes);
	return 0;
}

int mfs_span_decode(mfs_decoder *decoder, const mfs_layout *layout, uint32_t blocks,
		    const mfs_frame frame[MFS_SLOTS], uint8_t *out)
{
	struct target to = {decoder, layout, blocks, out};
	int err = 0;

	if (!span_ok(layout, blocks, decoder->max_span))
		return MFS_E_ARGUMENT;
	/* Constants first: they tell the contexts of the weights. */
	for (int slot = MFS_SLOTS - 1; slot >= 0 && !err; slot--)
		if (layout->slot_streams[slot])
			err =
			    decode_slot(&to, (unsigned)slot, &frame[slot], !is_one_stream(layout));
	return err;
}
