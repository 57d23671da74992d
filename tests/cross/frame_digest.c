/* frame_digest: for each tensor type a hash of the tables and frames that made-up
 * blocks are coded to. Decodes them too. What it prints is the same on every
 * processor, and with "portable" as argument, which hides the processor's features. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "frame.h"
#include "layout_ggml.h"
#include "processor.h"

#define SPAN_BYTES (64u << 10)
#define SPANS	   4

static uint8_t bytes[SPANS * SPAN_BYTES], back[SPAN_BYTES], room[MFS_SLOTS][SPAN_BYTES];
static uint8_t stored_tables[MFS_SLOTS][MFS_TABLES_MAX];

/* Sums of two nibbles: some bytes are frequent, and what is frequent moves. */
static void fill(void)
{
	uint64_t state = 1;

	for (size_t i = 0; i < sizeof(bytes); i++) {
		state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		bytes[i] = (uint8_t)((state >> 33 & 15) * (state >> 40 & 15) + (i >> 15));
	}
}

static int digest(mfs_encoder *encoder, mfs_decoder *decoder, const mfs_layout *layout,
		  XXH3_state_t *hash)
{
	const mfs_coding_rules rules = {.min_gain = 2};
	const uint32_t blocks = SPAN_BYTES / layout->block_bytes;
	const mfs_sample sample = {layout, bytes, SPANS * blocks, blocks, SPANS, NULL};
	mfs_tables *tables[MFS_SLOTS] = {NULL};
	uint8_t *const out[MFS_SLOTS] = {room[0], room[1]};
	int err = 0;

	for (unsigned slot = 0; slot < MFS_SLOTS && !err; slot++) {
		int64_t size = mfs_tables_build(encoder, &sample, slot, &rules, stored_tables[slot],
						MFS_TABLES_MAX);

		err = size < 0 ? (int)size : 0;
		if (size <= 0)
			continue;
		XXH3_64bits_update(hash, stored_tables[slot], (size_t)size);
		err = mfs_tables_open(&tables[slot], stored_tables[slot], (size_t)size,
				      layout->slot_streams[slot], 1);
	}
	for (uint32_t s = 0; s < SPANS && !err; s++) {
		const uint8_t *in = bytes + (size_t)s * blocks * layout->block_bytes;
		const mfs_tables *const with[MFS_SLOTS] = {tables[0], tables[1]};
		mfs_frame_info info[MFS_SLOTS];
		mfs_frame frame[MFS_SLOTS];

		err = mfs_span_encode(encoder, layout, blocks, in, &rules, with, out, info);
		for (unsigned slot = 0; slot < MFS_SLOTS && !err; slot++) {
			XXH3_64bits_update(hash, room[slot], info[slot].stored);
			frame[slot] = (mfs_frame){room[slot], info[slot].stored, tables[slot]};
		}
		err = err ? err : mfs_span_decode(decoder, layout, blocks, frame, back);
		if (!err && memcmp(back, in, (size_t)blocks * layout->block_bytes) != 0)
			err = -1;
	}
	for (unsigned slot = 0; slot < MFS_SLOTS; slot++)
		mfs_tables_free(tables[slot]);
	return err;
}

int main(int argc, char **argv)
{
	mfs_encoder *encoder = mfs_encoder_new(SPAN_BYTES);
	mfs_decoder *decoder = mfs_decoder_new(SPAN_BYTES);
	int failed = !encoder || !decoder;

	if (argc > 1 && strcmp(argv[1], "portable") == 0)
		mfs_processor_hide(~0u);
	fill();
	for (uint32_t row = 0; row < mfs_layout_ggml_count() && !failed; row++) {
		const mfs_layout *layout = mfs_layout_ggml_row(row);
		XXH3_state_t hash;
		int err;

		XXH3_64bits_reset(&hash);
		err = digest(encoder, decoder, layout, &hash);
		printf("%s %016" PRIx64 "\n", layout->name, (uint64_t)XXH3_64bits_digest(&hash));
		if (err)
			fprintf(stderr, "frame_digest: %s: error %d\n", layout->name, err);
		failed = err != 0;
	}
	mfs_encoder_free(encoder);
	mfs_decoder_free(decoder);
	return failed;
}
