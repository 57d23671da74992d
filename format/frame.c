#include "frame_private.h"

#include <stdlib.h>
#include <string.h>

#include "mfs_endian.h"
#include "modelfs_error.h"

#define HEADER_BYTES 4 /* of each stream of a coded frame */
#define LENGTH_BITS  28
#define LENGTH_MASK  ((1u << LENGTH_BITS) - 1)

const char *mfs_coding_name(unsigned coding)
{
	static const char *const name[MFS_CODINGS] = {"raw", "zero", "zstd", "literals", "shared"};

	return coding < MFS_CODINGS ? name[coding] : "unknown";
}

static size_t align_stream(size_t size)
{
	return (size + MFS_STREAM_ALIGN - 1) & ~(size_t)(MFS_STREAM_ALIGN - 1);
}

/* Room for the streams of a span. */
static size_t split_bound(size_t max_span)
{
	return max_span + (size_t)MFS_STREAMS_MAX * MFS_STREAM_ALIGN;
}

size_t mfs_coded_bound(size_t size)
{
	return ZSTD_compressBound(size);
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
	size_t room = max_span < MFS_TYPICAL_ROOM ? MFS_TYPICAL_ROOM : max_span;
	mfs_encoder *encoder;

	if (max_span == 0 || max_span > MFS_FRAME_MAX)
		return NULL;
	encoder = calloc(1, sizeof(*encoder));
	if (!encoder)
		return NULL;
	encoder->max_span = max_span;
	encoder->literals = mfs_literals_context();
	encoder->matches = ZSTD_createCCtx();
	encoder->split = aligned_alloc(MFS_STREAM_ALIGN, align_stream(split_bound(room)));
	/* Coded streams are kept only if smaller than the stream, so all but the
	 * last together are no larger than the span. */
	encoder->coded = malloc(room + mfs_coded_bound(room));
	if (!encoder->literals || !encoder->matches || !encoder->split || !encoder->coded) {
		mfs_encoder_free(encoder);
		return NULL;
	}
	return encoder;
}

void mfs_encoder_free(mfs_encoder *encoder)
{
	if (!encoder)
		return;
	ZSTD_freeCCtx(encoder->literals);
	ZSTD_freeCCtx(encoder->matches);
	free(encoder->split);
	free(encoder->coded);
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
	const uint8_t *raw;
	const uint8_t *stored;
	uint32_t raw_size;
	uint32_t stored_size;
	enum mfs_coding coding;
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

static void try_literals(mfs_encoder *encoder, const ZSTD_CDict *dictionary, struct coded *stream,
			 size_t limit, uint8_t *out)
{
	uint32_t *histogram = encoder->histogram[0];
	size_t size;

	memset(histogram, 0, sizeof(encoder->histogram[0]));
	mfs_histogram_add(histogram, stream->raw, stream->raw_size);
	if (histogram[0] == stream->raw_size) {
		keep(stream, MFS_CODING_ZERO, NULL, 0);
		return;
	}
	if (mfs_histogram_bound(histogram) > limit)
		return;
	size =
	    mfs_literals_encode(encoder->literals, dictionary, stream->raw, stream->raw_size, out);
	if (size && size <= limit)
		keep(stream, dictionary ? MFS_CODING_SHARED : MFS_CODING_LITERALS, out, size);
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

/* Matches must beat the literals at `out`, if these were kept; what is better
 * ends there. */
static void try_matches(mfs_encoder *encoder, int level, struct coded *stream, size_t limit,
			uint8_t *out)
{
	size_t literals = stream->stored == out ? stream->stored_size : 0;
	size_t size =
	    matches_encode(encoder->matches, level, stream->raw, stream->raw_size, out + literals);

	if (size == 0 || size > limit || size >= stream->stored_size)
		return;
	memmove(out, out + literals, size);
	keep(stream, MFS_CODING_ZSTD, out, size);
}

/* Chooses the coding of one stream. Returns the bytes of `out` that it takes. */
static size_t code_stream(mfs_encoder *encoder, const mfs_coding_rules *rules,
			  const ZSTD_CDict *dictionary, struct coded *stream, uint8_t *out)
{
	size_t limit = worth_storing(stream->raw_size, rules->min_gain);

	keep(stream, MFS_CODING_RAW, stream->raw, stream->raw_size);
	try_literals(encoder, dictionary, stream, limit, out);
	if (rules->match_level > 0 && stream->coding != MFS_CODING_ZERO)
		try_matches(encoder, rules->match_level, stream, limit, out);
	return stream->stored == out ? stream->stored_size : 0;
}

static void pack_raw(const struct coded stream[], uint32_t count, uint8_t *out,
		     mfs_frame_info *info)
{
	for (uint32_t s = 0; s < count; s++) {
		memcpy(out + info->stored, stream[s].raw, stream[s].raw_size);
		info->stored += stream[s].raw_size;
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
		info->by_coding[stream[s].coding] += stream[s].raw_size;
	}
}

/* Stores the streams of one slot: coded, as they are, or not at all. */
static void pack_frame(const struct coded stream[], uint32_t count, uint8_t *out,
		       mfs_frame_info *info)
{
	uint32_t raw = 0, coded = count * HEADER_BYTES;
	int zero = 1;

	for (uint32_t s = 0; s < count; s++) {
		raw += stream[s].raw_size;
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

int mfs_span_encode(mfs_encoder *encoder, const mfs_layout *layout, uint32_t blocks,
		    const uint8_t *in, const mfs_coding_rules *rules,
		    const mfs_tables *const tables[MFS_SLOTS], uint8_t *const out[MFS_SLOTS],
		    mfs_frame_info info[MFS_SLOTS])
{
	const uint8_t *split[MFS_STREAMS_MAX];
	struct coded stream[MFS_SLOTS][MFS_STREAMS_MAX];
	uint32_t count[MFS_SLOTS] = {0};
	uint8_t *room = encoder->coded;

	if (!span_ok(layout, blocks, encoder->max_span))
		return MFS_E_ARGUMENT;
	for (int slot = 0; slot < MFS_SLOTS; slot++)
		if (tables[slot] && tables[slot]->streams != layout->slot_streams[slot])
			return MFS_E_ARGUMENT;

	mfs_encoder_split(encoder, layout, blocks, in, split);
	for (uint32_t s = 0; s < layout->stream_count; s++) {
		unsigned slot = layout->stream[s].slot;
		uint32_t number = count[slot]++;
		struct coded *to = &stream[slot][number];

		to->raw = split[s];
		to->raw_size = blocks * layout->stream[s].per_block;
		room += code_stream(encoder, rules,
				    tables[slot] ? tables[slot]->encoding[number] : NULL, to, room);
	}
	memset(info, 0, MFS_SLOTS * sizeof(*info));
	for (int slot = 0; slot < MFS_SLOTS; slot++)
		if (count[slot])
			pack_frame(stream[slot], count[slot], out[slot], &info[slot]);
	return 0;
}

/* ---- decoding ---- */

struct mfs_decoder {
	size_t max_span;
	ZSTD_DCtx *zstd;
	uint8_t *streams; /* decoded streams of the span at hand */
	uint8_t *zeros;	  /* never written: what streams of zeros are read from */
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
	decoder->streams = aligned_alloc(MFS_STREAM_ALIGN, align_stream(split_bound(max_span)));
	decoder->zeros = calloc(1, max_span);
	if (!decoder->zstd || !decoder->streams || !decoder->zeros) {
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
	free(decoder->zeros);
	free(decoder);
}

/* A stream as a frame tells it. */
struct stored {
	unsigned coding;
	const uint8_t *bytes;
	size_t size;	 /* stored */
	size_t raw_size; /* that it must decode to */
	const ZSTD_DDict *dictionary;
};

/* Decodes one zstd frame to exactly raw_size bytes. Nothing behind it and no
 * skippable or legacy frame: libzstd would take any number of them. A frame is
 * decoded in one piece, so whatever window it declares, no memory is allocated
 * for it. */
static int decode_zstd(ZSTD_DCtx *zstd, const struct stored *stream, uint8_t *out)
{
	size_t size;

	if (stream->size >= stream->raw_size || stream->size < 4)
		return MFS_E_CORRUPT;
	if (load_le32(stream->bytes) != ZSTD_MAGICNUMBER ||
	    ZSTD_findFrameCompressedSize(stream->bytes, stream->size) != stream->size)
		return MFS_E_CORRUPT;
	size = ZSTD_decompress_usingDDict(zstd, out, stream->raw_size, stream->bytes, stream->size,
					  stream->dictionary);
	return size == stream->raw_size ? 0 : MFS_E_CORRUPT;
}

/* Points *bytes to the stream's bytes, which are decoded to `room` if they are
 * not at hand anywhere else. */
static int decode_stream(mfs_decoder *decoder, const struct stored *stream, uint8_t *room,
			 const uint8_t **bytes)
{
	*bytes = room;
	switch (stream->coding) {
	case MFS_CODING_RAW:
		*bytes = stream->bytes;
		return stream->size == stream->raw_size ? 0 : MFS_E_CORRUPT;
	case MFS_CODING_ZERO:
		*bytes = decoder->zeros;
		return stream->size == 0 ? 0 : MFS_E_CORRUPT;
	case MFS_CODING_ZSTD:
	case MFS_CODING_LITERALS:
		return decode_zstd(decoder->zstd, stream, room);
	case MFS_CODING_SHARED:
		return stream->dictionary ? decode_zstd(decoder->zstd, stream, room)
					  : MFS_E_CORRUPT;
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
	stream->dictionary = NULL;
	if (at->header) {
		word = load_le32(at->header + (size_t)number * HEADER_BYTES);
		stream->coding = word >> LENGTH_BITS;
		stream->size = word & LENGTH_MASK;
		if (stream->coding == MFS_CODING_SHARED && tables && number < tables->streams)
			stream->dictionary = tables->decoding[number];
	}
	if (stream->size > at->left)
		return MFS_E_CORRUPT;
	stream->bytes = at->bytes;
	at->bytes += stream->size;
	at->left -= stream->size;
	return 0;
}

/* Finds or decodes all streams of the span. With `direct`, streams are decoded
 * there and not to scratch memory. */
static int decode_streams(mfs_decoder *decoder, const mfs_layout *layout, uint32_t blocks,
			  const mfs_frame frame[MFS_SLOTS], uint8_t *direct, const uint8_t *bytes[])
{
	uint8_t *room = direct ? direct : decoder->streams;
	struct cursor at[MFS_SLOTS];

	for (int slot = 0; slot < MFS_SLOTS; slot++)
		if (layout->slot_streams[slot] &&
		    frame_begin(&at[slot], &frame[slot], layout->slot_streams[slot],
				(size_t)blocks * layout->slot_bytes[slot]))
			return MFS_E_CORRUPT;
	for (uint32_t s = 0; s < layout->stream_count; s++) {
		unsigned slot = layout->stream[s].slot;
		struct stored stream = {.raw_size = (size_t)blocks * layout->stream[s].per_block};

		if (frame_next(&at[slot], &stream, frame[slot].tables) ||
		    decode_stream(decoder, &stream, room, &bytes[s]))
			return MFS_E_CORRUPT;
		if (bytes[s] == room)
			room += align_stream(stream.raw_size);
	}
	for (int slot = 0; slot < MFS_SLOTS; slot++)
		if (layout->slot_streams[slot] && at[slot].left)
			return MFS_E_CORRUPT;
	return 0;
}

int mfs_span_decode(mfs_decoder *decoder, const mfs_layout *layout, uint32_t blocks,
		    const mfs_frame frame[MFS_SLOTS], uint8_t *out)
{
	const uint8_t *bytes[MFS_STREAMS_MAX];
	int direct = is_one_stream(layout);
	int err;

	if (!span_ok(layout, blocks, decoder->max_span))
		return MFS_E_ARGUMENT;
	err = decode_streams(decoder, layout, blocks, frame, direct ? out : NULL, bytes);
	if (err)
		return err;
	if (!direct)
		mfs_layout_join(layout, blocks, bytes, out);
	else if (bytes[0] != out)
		memcpy(out, bytes[0], (size_t)blocks * layout->block_bytes);
	return 0;
}
