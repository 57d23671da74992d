/* Encoding: spans to frames. */
#include <stdlib.h>
#include <string.h>

#include "mfs_endian.h"
#include "modelfs_error.h"
#include "stream_encode.h"

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
	encoder->split = aligned_alloc(MFS_STREAM_ALIGN, mfs_split_bound(max_span));
	/* Coded streams are kept only if smaller than the stream, so all but the
	 * last together are no larger than the span. */
	encoder->coded = malloc(max_span + 2 * mfs_coded_bound(max_span));
	encoder->sorted = malloc(mfs_split_bound(max_span));
	encoder->buckets = malloc(mfs_groups_bound(max_span));
	encoder->packed = malloc(mfs_split_bound(max_span));
	encoder->marks = malloc(2 * mfs_groups_bound(max_span));
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

	if (mfs_layout_is_one_stream(layout)) {
		stream[0] = in;
		return;
	}
	for (uint32_t s = 0; s < layout->stream_count; s++) {
		to[s] = at;
		stream[s] = at;
		at += mfs_stream_align((size_t)blocks * layout->stream[s].per_block);
	}
	mfs_layout_split(layout, blocks, in, to);
}

static void pack_raw(const struct mfs_coded stream[], uint32_t count, uint8_t *out,
		     mfs_frame_info *info)
{
	for (uint32_t s = 0; s < count; s++) {
		memcpy(out + info->stored, stream[s].bytes, stream[s].size);
		info->stored += stream[s].size;
	}
	info->by_coding[MFS_CODING_RAW] = info->stored;
}

static void pack_coded(const struct mfs_coded stream[], uint32_t count, uint8_t *out,
		       mfs_frame_info *info)
{
	info->stored = count * MFS_STREAM_HEADER;
	for (uint32_t s = 0; s < count; s++) {
		uint32_t size = stream[s].stored_size;

		store_le32(out + (size_t)s * MFS_STREAM_HEADER,
			   (uint32_t)stream[s].coding << MFS_LENGTH_BITS | size);
		if (size)
			memcpy(out + info->stored, stream[s].stored, size);
		info->stored += size;
		info->by_coding[stream[s].coding] += stream[s].size;
	}
}

/* Stores the streams of one slot: coded, as they are, or not at all. */
static void pack_frame(const struct mfs_coded stream[], uint32_t count, uint8_t *out,
		       mfs_frame_info *info)
{
	uint32_t raw = 0, coded = count * MFS_STREAM_HEADER;
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
static size_t code_slot(mfs_encoder *encoder, const struct mfs_span *span, unsigned slot,
			const mfs_tables *tables, const uint8_t *const split[], size_t words,
			struct mfs_coded stream[], uint8_t *room)
{
	const mfs_layout *layout = span->layout;
	uint8_t *begin = room;
	uint32_t number = 0;

	for (uint32_t s = 0; s < layout->stream_count; s++) {
		struct mfs_coded *to = &stream[number];

		if (layout->stream[s].slot != slot)
			continue;
		to->bytes = split[s];
		to->size = (uint32_t)(words ? words : span->blocks * layout->stream[s].per_block);
		to->symbols = layout->symbols.weights && layout->symbols.stream == s;
		to->may_be_marked = mfs_marked_fits(layout, s);
		room += mfs_stream_encode(encoder, span, tables ? &tables->shared[number] : NULL,
					  to, room);
		number++;
	}
	return (size_t)(room - begin);
}

/* One in so many words must be zero for a mask to be tried. */
#define ZEROS_SHARE 8

/* Whether there may be so many zeros: a word is zero only where all its bytes are. */
static int zeros_enough(const struct mfs_coded stream[], uint32_t count)
{
	for (uint32_t s = 0; s < count; s++)
		if (stream[s].zeros < stream[s].size / ZEROS_SHARE)
			return 0;
	return 1;
}

/* The mask as it is stored. */
static void code_mask(const uint8_t *mask, size_t size, struct mfs_coded *out, uint8_t *room)
{
	size_t coded = mfs_literals_encode(NULL, mask, size, room);

	out->size = (uint32_t)size;
	mfs_coded_keep(out, MFS_CODING_SPARSE, mask, size);
	if (coded < size)
		mfs_coded_keep(out, MFS_CODING_SPARSE, room, coded);
}

/* Codes the frame as mask and values, and stores it if that is smaller than what
 * stands in out[0]. */
static void try_sparse(mfs_encoder *encoder, const struct mfs_span *span, const mfs_tables *tables,
		       const uint8_t *const split[], uint8_t *out, mfs_frame_info *info)
{
	const mfs_layout *layout = span->layout;
	uint32_t streams = layout->slot_streams[0];
	size_t words = (size_t)span->blocks * layout->stream[0].per_block;
	uint8_t *mask = encoder->buckets, *packed = encoder->packed;
	const uint8_t *values[MFS_STREAMS_MAX];
	struct mfs_coded stream[MFS_STREAMS_MAX + 1];
	mfs_frame_info sparse = {0};
	size_t count = mfs_sparse_mask(split, streams, words, mask), room, total;

	if (count == 0 || words - count < words / ZEROS_SHARE)
		return;
	for (uint32_t s = 0; s < streams; s++) {
		values[s] = packed;
		mfs_sparse_pack(mask, words, split[s], packed);
		packed += mfs_stream_align(count + 1);
	}
	room = code_slot(encoder, span, 0, tables, values, count, stream + 1, encoder->coded);
	code_mask(mask, (words + 7) / 8, &stream[0], encoder->coded + room);
	total = (streams + 1) * MFS_STREAM_HEADER;
	for (uint32_t s = 0; s <= streams; s++)
		total += stream[s].stored_size;
	if (total >= info->stored)
		return;
	pack_coded(stream, streams + 1, out, &sparse);
	info->stored = sparse.stored;
	memset(info->by_coding, 0, sizeof(info->by_coding));
	info->by_coding[MFS_CODING_SPARSE] = span->blocks * layout->slot_bytes[0];
}

/* zstd level for spans whose rows repeat. */
#define REPEATED_ROWS_LEVEL 3

int mfs_span_encode(mfs_encoder *encoder, const mfs_layout *layout, uint32_t blocks,
		    const uint8_t *in, const mfs_coding_rules *rules,
		    const mfs_tables *const tables[MFS_SLOTS], uint8_t *const out[MFS_SLOTS],
		    mfs_frame_info info[MFS_SLOTS])
{
	mfs_coding_rules here = *rules;
	const struct mfs_span span = {layout, blocks, in, &here};
	const uint8_t *split[MFS_STREAMS_MAX];
	struct mfs_coded stream[MFS_STREAMS_MAX];
	int zeros = 0; /* enough, in slot 0 */

	if (!mfs_span_ok(layout, blocks, encoder->max_span))
		return MFS_E_ARGUMENT;
	for (int slot = 0; slot < MFS_SLOTS; slot++)
		if (tables[slot] && tables[slot]->streams != layout->slot_streams[slot])
			return MFS_E_ARGUMENT;

	if (!here.match_level && mfs_rows_repeat(&span))
		here.match_level = REPEATED_ROWS_LEVEL;
	mfs_encoder_split(encoder, layout, blocks, in, split);
	memset(info, 0, MFS_SLOTS * sizeof(*info));
	for (unsigned slot = 0; slot < MFS_SLOTS; slot++) {
		if (!layout->slot_streams[slot])
			continue;
		code_slot(encoder, &span, slot, tables[slot], split, 0, stream, encoder->coded);
		pack_frame(stream, layout->slot_streams[slot], out[slot], &info[slot]);
		zeros = slot == 0 ? zeros_enough(stream, layout->slot_streams[0]) : zeros;
	}
	if (zeros && mfs_sparse_fits(layout) && info[0].stored &&
	    mfs_coding_allowed(&span, MFS_CODING_SPARSE))
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
