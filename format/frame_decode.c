/* Decoding: frames to spans. */
#include "frame_private.h"

#include <stdlib.h>
#include <string.h>

#include "context.h"
#include "mfs_endian.h"
#include "modelfs_error.h"
#include "symbols.h"

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
	decoder->streams = aligned_alloc(MFS_STREAM_ALIGN, mfs_split_bound(max_span));
	decoder->sorted = malloc(mfs_split_bound(max_span));
	decoder->buckets = malloc(mfs_groups_bound(max_span));
	decoder->marks = malloc(mfs_groups_bound(max_span));
	decoder->mask = malloc(mfs_groups_bound(max_span));
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

/* The span that is being put together. Streams wait in the decoder's queue, so that all
 * of a span's can take turns; but where constants tell the buckets of the weights, they
 * are put back first. */
struct target {
	mfs_decoder *decoder;
	const mfs_layout *layout;
	uint32_t blocks;
	uint8_t *out;
	const uint8_t *bytes[MFS_STREAMS_MAX]; /* of each stream */
	uint8_t *room;			       /* for those of the next */
	unsigned waiting;		       /* slots that are to be put back, a bit each */
	int in_place; /* the only field of the slot stands where it belongs */
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

/* Decodes what waits, and puts the fields of slots that were taken apart in their places. */
static int put_back(struct target *to)
{
	if (run_queue(to->decoder))
		return MFS_E_CORRUPT;
	for (unsigned slot = 0; slot < MFS_SLOTS; slot++)
		if (to->waiting >> slot & 1)
			mfs_layout_join_slot(to->layout, slot, to->blocks, to->bytes, to->out);
	to->waiting = 0;
	return 0;
}

/* One zstd frame after the other, each of a bucket, to decoder->sorted; behind the last lie
 * `rest` bytes. */
static int decode_groups(mfs_decoder *decoder, const struct mfs_shared *shared,
			 const struct mfs_groups *groups, const uint8_t *in, size_t left,
			 size_t rest)
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
	return left != rest || run_queue(decoder) ? MFS_E_CORRUPT : 0;
}

/* Symbols that are a field as they stand, and the only one, go to the blocks at once. */
static void scatter_symbols(struct target *to, const struct mfs_groups *groups)
{
	const mfs_layout *layout = to->layout;
	const uint8_t *sorted = to->decoder->sorted;
	const size_t offset = layout->field[layout->symbols.low].offset;

	to->in_place = layout->slot_streams[0] == 1 && mfs_symbols_are_field(layout);
	if (to->in_place)
		mfs_groups_scatter(groups, sorted, mfs_context_groups(layout), to->out + offset,
				   layout->block_bytes);
	else
		mfs_groups_scatter(groups, sorted, 1, to->room, groups->bytes);
}

static int decode_buckets(struct target *to, const struct stored *stream)
{
	struct mfs_groups groups = {.bucket = to->decoder->buckets};
	const struct mfs_shared *shared = stream->shared;

	if (!stream->symbols || !shared || !shared->buckets || shared->group ||
	    to->layout->context == MFS_CONTEXT_NONE || put_back(to))
		return MFS_E_CORRUPT;
	mfs_groups_find(&groups, to->layout, to->blocks, to->out, shared);
	if (decode_groups(to->decoder, shared, &groups, stream->bytes, stream->size, 0))
		return MFS_E_CORRUPT;
	scatter_symbols(to, &groups);
	return 0;
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

	if (!group || stream->raw_size < group || left < MFS_STREAM_HEADER)
		return MFS_E_CORRUPT;
	groups.count = (uint32_t)(stream->raw_size / group);
	grouped = (size_t)groups.count * group;
	left -= MFS_STREAM_HEADER;
	size = load_le32(stream->bytes);
	if (size > left ||
	    decode_side(decoder, stream->bytes + MFS_STREAM_HEADER, size, decoder->marks,
			mfs_marks_size(groups.count, shared->buckets)) ||
	    mfs_marks_unpack(&groups, shared->buckets, decoder->marks) ||
	    decode_groups(decoder, shared, &groups, stream->bytes + MFS_STREAM_HEADER + size,
			  left - size, stream->raw_size - grouped))
		return MFS_E_CORRUPT;
	mfs_groups_scatter(&groups, decoder->sorted, 1, room, group);
	memcpy(room + grouped, stream->bytes + stream->size - (stream->raw_size - grouped),
	       stream->raw_size - grouped);
	return 0;
}

/* Points *bytes to the stream's bytes, which are decoded to the target's room if they
 * are not at hand anywhere else. */
static int decode_stream(struct target *to, const struct stored *stream, const uint8_t **bytes)
{
	uint8_t *room = to->room;

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
		return decode_buckets(to, stream);
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
	size_t header = (size_t)streams * MFS_STREAM_HEADER;

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
		word = load_le32(at->header + (size_t)number * MFS_STREAM_HEADER);
		stream->coding = word >> MFS_LENGTH_BITS;
		stream->size = word & MFS_LENGTH_MASK;
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
	size_t size = word & MFS_LENGTH_MASK, raw = (*words + 7) / 8;
	uint8_t *mask = to->decoder->mask;

	if (at->left < MFS_STREAM_HEADER)
		return MFS_E_CORRUPT;
	at->header += MFS_STREAM_HEADER; /* that of the streams lies one word behind */
	at->bytes += MFS_STREAM_HEADER;
	at->left -= MFS_STREAM_HEADER;
	if (size > at->left || decode_side(to->decoder, at->bytes, size, mask, raw))
		return MFS_E_CORRUPT;
	at->bytes += size;
	at->left -= size;
	*words = mfs_sparse_count(mask, *words);
	return 0;
}

/* Puts the words that are not zero together, then the zeros between them. */
static int join_sparse(struct target *to, size_t words, size_t values)
{
	uint8_t *joined = to->decoder->joined;

	if (run_queue(to->decoder))
		return MFS_E_CORRUPT;
	mfs_layout_join_words(to->layout, values, to->bytes, joined);
	mfs_sparse_expand(to->decoder->mask, words, to->layout->field[0].width, joined, to->out);
	return 0;
}

static int decode_streams(struct target *to, unsigned slot, struct cursor *at,
			  const mfs_tables *tables, const size_t *values)
{
	const mfs_layout *layout = to->layout;

	for (uint32_t s = 0; s < layout->stream_count; s++) {
		const mfs_stream *about = &layout->stream[s];
		struct stored stream = {
		    .raw_size = values ? *values : (size_t)to->blocks * about->per_block,
		    .symbols = layout->symbols.weights && layout->symbols.stream == s};

		if (about->slot != slot)
			continue;
		if (frame_next(at, &stream, tables) || decode_stream(to, &stream, &to->bytes[s]))
			return MFS_E_CORRUPT;
		if (to->bytes[s] == to->room)
			to->room += mfs_stream_align(stream.raw_size);
	}
	return at->left ? MFS_E_CORRUPT : 0;
}

/* Finds the streams of one slot; those that are coded may wait to be decoded. */
static int decode_slot(struct target *to, unsigned slot, const mfs_frame *frame)
{
	const mfs_layout *layout = to->layout;
	size_t words = (size_t)to->blocks * layout->stream[0].per_block, values = words;
	struct cursor at;
	int sparse;

	to->decoder->queue.floor = frame->stored;
	if (frame_begin(&at, frame, layout->slot_streams[slot],
			(size_t)to->blocks * layout->slot_bytes[slot]))
		return MFS_E_CORRUPT;
	sparse = at.header && load_le32(at.header) >> MFS_LENGTH_BITS == MFS_CODING_SPARSE;
	if (sparse && (!mfs_sparse_fits(layout) || slot != 0 || decode_mask(to, &at, &values)))
		return MFS_E_CORRUPT;
	if (decode_streams(to, slot, &at, frame->tables, sparse ? &values : NULL))
		return MFS_E_CORRUPT;
	if (sparse)
		return join_sparse(to, words, values);
	if (!to->in_place)
		to->waiting |= 1u << slot;
	return 0;
}

/* The one stream is the span, and is decoded there. */
static int decode_whole(struct target *to, const mfs_frame frame[MFS_SLOTS])
{
	const unsigned slot = to->layout->stream[0].slot;

	to->room = to->out;
	if (decode_slot(to, slot, &frame[slot]) || run_queue(to->decoder))
		return MFS_E_CORRUPT;
	if (to->bytes[0] != to->out)
		memcpy(to->out, to->bytes[0], (size_t)to->blocks * to->layout->block_bytes);
	return 0;
}

int mfs_span_decode(mfs_decoder *decoder, const mfs_layout *layout, uint32_t blocks,
		    const mfs_frame frame[MFS_SLOTS], uint8_t *out)
{
	struct target to = {.decoder = decoder,
			    .layout = layout,
			    .blocks = blocks,
			    .out = out,
			    .room = decoder->streams};
	int err = 0;

	if (!mfs_span_ok(layout, blocks, decoder->max_span))
		return MFS_E_ARGUMENT;
	decoder->queue.count = decoder->queue.lookup_count = 0;
	if (mfs_layout_is_one_stream(layout))
		return decode_whole(&to, frame);
	for (int slot = MFS_SLOTS - 1; slot >= 0 && !err; slot--)
		if (layout->slot_streams[slot])
			err = decode_slot(&to, (unsigned)slot, &frame[slot]);
	return err ? err : put_back(&to);
}
