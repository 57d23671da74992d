/*
 * Decoding frames. The input is
 *   u8 layout row · le16 blocks · le16 size of tables, slot 0 · the same, slot 1 ·
 *   le24 size of the frame in slot 0 · tables · tables · frame · frame (the rest)
 * Nothing that decodes may read outside its frame or write outside its span,
 * and whatever comes out must survive being coded and decoded again, with these
 * tables and without.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "mfs_endian.h"
#include "frame.h"
#include "layout_ggml.h"

#define SPAN	     (64u << 10)
#define HEADER_BYTES 10

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A piece of the input in memory of its own, so that reading past it shows. */
struct piece {
	uint8_t *bytes;
	size_t size;
};

static struct piece take(const uint8_t **data, size_t *left, size_t size)
{
	struct piece piece = {NULL, size < *left ? size : *left};

	piece.bytes = malloc(piece.size + !piece.size);
	if (!piece.bytes)
		abort();
	memcpy(piece.bytes, *data, piece.size);
	*data += piece.size;
	*left -= piece.size;
	return piece;
}

static void round_trip(mfs_decoder *decoder, const mfs_layout *layout, uint32_t blocks,
		       const uint8_t *in, const mfs_tables *const tables[MFS_SLOTS])
{
	static mfs_encoder *encoder;
	static uint8_t stored[MFS_SLOTS][SPAN], out[SPAN];
	uint8_t *const to[MFS_SLOTS] = {stored[0], stored[1]};
	const mfs_coding_rules rules = {.match_level = 1};
	mfs_frame frame[MFS_SLOTS];
	mfs_frame_info info[MFS_SLOTS];

	if (!encoder)
		encoder = mfs_encoder_new(SPAN);
	if (mfs_span_encode(encoder, layout, blocks, in, &rules, tables, to, info))
		abort();
	for (int slot = 0; slot < MFS_SLOTS; slot++)
		frame[slot] = (mfs_frame){stored[slot], info[slot].stored, tables[slot]};
	if (mfs_span_decode(decoder, layout, blocks, frame, out) ||
	    memcmp(in, out, (size_t)blocks * layout->block_bytes))
		abort();
}

static const mfs_layout *choose_layout(uint8_t row)
{
	row %= mfs_layout_ggml_count() + 1;
	return row ? mfs_layout_ggml_row(row - 1u) : mfs_layout_bytes();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static mfs_decoder *decoder;
	const mfs_layout *layout;
	mfs_tables *tables[MFS_SLOTS] = {NULL, NULL};
	struct piece stored[MFS_SLOTS], piece[MFS_SLOTS];
	mfs_frame frame[MFS_SLOTS];
	const uint8_t *header = data;
	uint32_t blocks;
	uint8_t *out;

	if (size < HEADER_BYTES)
		return 0;
	if (!decoder)
		decoder = mfs_decoder_new(SPAN);
	layout = choose_layout(header[0]);
	blocks = 1 + load_le16(header + 1) % (SPAN / layout->block_bytes);
	data += HEADER_BYTES;
	size -= HEADER_BYTES;
	stored[0] = take(&data, &size, load_le16(header + 3));
	stored[1] = take(&data, &size, load_le16(header + 5));
	piece[0] = take(&data, &size, load_le16(header + 7) | (size_t)header[9] << 16);
	piece[1] = take(&data, &size, size);

	for (int slot = 0; slot < MFS_SLOTS; slot++) {
		if (stored[slot].size && layout->slot_streams[slot])
			mfs_tables_open(&tables[slot], stored[slot].bytes, stored[slot].size,
					layout->slot_streams[slot], 1);
		frame[slot] = (mfs_frame){piece[slot].bytes, piece[slot].size, tables[slot]};
	}
	out = malloc((size_t)blocks * layout->block_bytes);
	if (!out || !decoder)
		abort();
	if (mfs_span_decode(decoder, layout, blocks, frame, out) == 0) {
		const mfs_tables *const without[MFS_SLOTS] = {NULL, NULL};
		const mfs_tables *const with[MFS_SLOTS] = {tables[0], tables[1]};

		round_trip(decoder, layout, blocks, out, without);
		round_trip(decoder, layout, blocks, out, with);
	}

	for (int slot = 0; slot < MFS_SLOTS; slot++) {
		mfs_tables_free(tables[slot]);
		free(stored[slot].bytes);
		free(piece[slot].bytes);
	}
	free(out);
	return 0;
}
