/* Frames and tables: round trips, what is chosen, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <zstd.h>

#include "mfs_endian.h"
#include "frame.h"
#include "layout_ggml.h"
#include "modelfs_error.h"
#include "processor.h"

#define SPAN (64u << 10)

enum { Q8_0 = 8, Q4_K = 12, BF16 = 30, Q4_0 = 2, F32 = 0, I32 = 26 };

static uint64_t random_state = 1;

static uint32_t random_next(void)
{
	random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(random_state >> 32);
}

/* Roughly a bell around 128 with the given number of summands; 1 is flat. */
static uint8_t bell(int summands)
{
	uint32_t sum = 0;

	for (int i = 0; i < summands; i++)
		sum += random_next() & 255;
	return (uint8_t)(sum / (uint32_t)summands);
}

/* ---- a codec and the frames of one span ---- */

struct codec {
	mfs_encoder *encoder;
	mfs_decoder *decoder;
	uint8_t *in, *out;
	uint8_t *stored[MFS_SLOTS];
	mfs_frame_info info[MFS_SLOTS];
	const mfs_tables *tables[MFS_SLOTS];
	mfs_coding_rules rules;
};

static int codec_new(void **state)
{
	struct codec *c = calloc(1, sizeof(*c));

	assert_non_null(c);
	c->encoder = mfs_encoder_new(SPAN);
	c->decoder = mfs_decoder_new(SPAN);
	c->in = calloc(1, SPAN);
	c->out = malloc(SPAN);
	c->stored[0] = malloc(SPAN);
	c->stored[1] = malloc(SPAN);
	assert_non_null(c->encoder);
	assert_non_null(c->decoder);
	assert_true(c->in && c->out && c->stored[0] && c->stored[1]);
	*state = c;
	return 0;
}

static int codec_free(void **state)
{
	struct codec *c = *state;

	mfs_encoder_free(c->encoder);
	mfs_decoder_free(c->decoder);
	free(c->in);
	free(c->out);
	free(c->stored[0]);
	free(c->stored[1]);
	free(c);
	return 0;
}

static void fill(struct codec *c, int summands)
{
	for (size_t i = 0; i < SPAN; i++)
		c->in[i] = bell(summands);
}

static void encode(struct codec *c, const mfs_layout *layout, uint32_t blocks)
{
	uint8_t *const out[MFS_SLOTS] = {c->stored[0], c->stored[1]};

	assert_int_equal(
	    mfs_span_encode(c->encoder, layout, blocks, c->in, &c->rules, c->tables, out, c->info),
	    0);
}

/* Decodes frames that lie in memory of exactly their size. */
static int decode_frames(struct codec *c, const mfs_layout *layout, uint32_t blocks,
			 const size_t size[MFS_SLOTS])
{
	mfs_frame frame[MFS_SLOTS];
	uint8_t *exact[MFS_SLOTS];
	int err;

	for (int slot = 0; slot < MFS_SLOTS; slot++) {
		exact[slot] = malloc(size[slot] + !size[slot]);
		assert_non_null(exact[slot]);
		memcpy(exact[slot], c->stored[slot], size[slot]);
		frame[slot] = (mfs_frame){exact[slot], size[slot], c->tables[slot]};
	}
	err = mfs_span_decode(c->decoder, layout, blocks, frame, c->out);
	free(exact[0]);
	free(exact[1]);
	return err;
}

static int decode(struct codec *c, const mfs_layout *layout, uint32_t blocks)
{
	const size_t size[MFS_SLOTS] = {c->info[0].stored, c->info[1].stored};

	return decode_frames(c, layout, blocks, size);
}

static void round_trip(struct codec *c, const mfs_layout *layout, uint32_t blocks)
{
	encode(c, layout, blocks);
	for (int slot = 0; slot < MFS_SLOTS; slot++) {
		uint32_t sum = 0;

		assert_true(c->info[slot].stored <= blocks * layout->slot_bytes[slot]);
		for (int coding = 0; coding < MFS_CODINGS; coding++)
			sum += c->info[slot].by_coding[coding];
		assert_int_equal(sum, blocks * layout->slot_bytes[slot]);
	}
	/* With what this processor offers, and without. */
	for (unsigned hidden = 0; hidden < 2; hidden++) {
		memset(c->out, 0xa5, SPAN);
		mfs_processor_hide(hidden ? ~0u : 0);
		assert_int_equal(decode(c, layout, blocks), 0);
		mfs_processor_hide(0);
		assert_memory_equal(c->out, c->in, (size_t)blocks * layout->block_bytes);
	}
}

static uint32_t span_blocks(const mfs_layout *layout)
{
	return SPAN / layout->block_bytes;
}

/* ---- round trips and choices ---- */

static void every_row_comes_back_from_its_frames(void **state)
{
	struct codec *c = *state;

	for (int summands = 1; summands <= 16; summands *= 4) {
		fill(c, summands);
		for (uint32_t row = 0; row < mfs_layout_ggml_count(); row++) {
			const mfs_layout *layout = mfs_layout_ggml_row(row);

			round_trip(c, layout, 1);
			round_trip(c, layout, 2);
			round_trip(c, layout, 111);
			round_trip(c, layout, span_blocks(layout));
		}
		round_trip(c, mfs_layout_bytes(), 1);
		round_trip(c, mfs_layout_bytes(), SPAN);
	}
}

static void zeros_store_nothing(void **state)
{
	struct codec *c = *state;
	const mfs_layout *layout = mfs_layout_ggml(Q4_K);

	round_trip(c, layout, 100);
	assert_int_equal(c->info[0].stored, 0);
	assert_int_equal(c->info[1].stored, 0);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_ZERO], 100 * 128);
	round_trip(c, mfs_layout_bytes(), 1000);
	assert_int_equal(c->info[0].stored, 0);
}

static void an_empty_frame_needs_no_pointer(void **state)
{
	struct codec *c = *state;
	const mfs_frame frame[MFS_SLOTS] = {{NULL, 0, NULL}, {NULL, 0, NULL}};

	memset(c->out, 0xa5, SPAN);
	assert_int_equal(mfs_span_decode(c->decoder, mfs_layout_ggml(Q4_K), 100, frame, c->out), 0);
	assert_memory_equal(c->out, c->in, 100 * 144);
	memset(c->out, 0xa5, SPAN);
	assert_int_equal(mfs_span_decode(c->decoder, mfs_layout_bytes(), SPAN, frame, c->out), 0);
	assert_memory_equal(c->out, c->in, SPAN);
}

static void zero_planes_store_four_bytes_each(void **state)
{
	struct codec *c = *state;

	/* I32 values below 256. */
	for (size_t i = 0; i < SPAN; i += 4)
		c->in[i] = (uint8_t)random_next();
	round_trip(c, mfs_layout_ggml(26), SPAN / 4);
	assert_int_equal(c->info[0].stored, SPAN / 4 + 16);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_ZERO], SPAN / 4 * 3);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_RAW], SPAN / 4);
}

static void noise_is_stored_as_it_is(void **state)
{
	struct codec *c = *state;
	const mfs_layout *layout = mfs_layout_ggml(Q8_0);

	fill(c, 1);
	round_trip(c, layout, 1000);
	assert_int_equal(c->info[0].stored, 32000);
	assert_int_equal(c->info[1].stored, 2000);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_RAW], 32000);
	round_trip(c, mfs_layout_bytes(), SPAN);
	assert_int_equal(c->info[0].stored, SPAN);
	assert_memory_equal(c->stored[0], c->in, SPAN);
}

static void skewed_weights_are_coded_and_flat_ones_are_not(void **state)
{
	struct codec *c = *state;

	/* BF16: flat mantissas below narrow exponents. */
	for (size_t i = 0; i < SPAN; i += 2) {
		c->in[i] = (uint8_t)random_next();
		c->in[i + 1] = (uint8_t)(random_next() & 0x80) | (uint8_t)(58 + bell(8) % 4);
	}
	round_trip(c, mfs_layout_ggml(BF16), SPAN / 2);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_LITERALS], SPAN / 2);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_PACKED], SPAN / 2);
	assert_true(c->info[0].stored < SPAN / 4 * 3);
}

/* Half of the weights lie near 0, the other half are noise: one tree for both takes
 * six bits for each at least. */
static void parts_of_a_stream_get_trees_of_their_own(void **state)
{
	struct codec *c = *state;

	for (size_t i = 0; i < SPAN / 2; i++)
		c->in[i] = (uint8_t)(bell(1) & 3);
	for (size_t i = SPAN / 2; i < SPAN; i++)
		c->in[i] = bell(1);
	round_trip(c, mfs_layout_bytes(), SPAN);
	assert_int_equal(SPAN, c->info[0].by_coding[MFS_CODING_LITERALS]);
	assert_in_range(c->info[0].stored, SPAN * 5 / 8, SPAN * 5 / 8 + 256);
}

static void small_gains_are_kept(void **state)
{
	struct codec *c = *state;
	const mfs_layout *bytes = mfs_layout_bytes();

	/* Noise, but every 24th byte is the same: between 1/128 and 1/64 to gain. */
	fill(c, 1);
	for (size_t i = 0; i < SPAN; i += 24)
		c->in[i] = 7;
	round_trip(c, bytes, SPAN);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_LITERALS], SPAN);
	assert_in_range(c->info[0].stored, SPAN - SPAN / 64, SPAN - SPAN / 128);
}

static void gains_below_the_rule_are_not_coded(void **state)
{
	struct codec *c = *state;
	const mfs_layout *bytes = mfs_layout_bytes();
	uint32_t gain;

	fill(c, 4);
	round_trip(c, bytes, SPAN);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_LITERALS], SPAN);
	/* Four bytes of each frame go to the stream's length. */
	gain = (SPAN - (c->info[0].stored - 4)) * 1024u / SPAN;
	assert_true(gain > 20);

	c->rules.min_gain = gain;
	round_trip(c, bytes, SPAN);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_LITERALS], SPAN);
	c->rules.min_gain = gain + 1;
	round_trip(c, bytes, SPAN);
	assert_int_equal(c->info[0].stored, SPAN);
	c->rules.min_gain = UINT32_MAX;
	round_trip(c, bytes, SPAN);
	assert_int_equal(c->info[0].stored, SPAN);
}

static void matches_are_looked_for_only_if_asked(void **state)
{
	struct codec *c = *state;
	const mfs_layout *bytes = mfs_layout_bytes();

	fill(c, 1);
	memcpy(c->in + SPAN / 2, c->in, SPAN / 2);
	round_trip(c, bytes, SPAN);
	assert_int_equal(c->info[0].stored, SPAN);
	c->rules.match_level = 3;
	round_trip(c, bytes, SPAN);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_ZSTD], SPAN);
	assert_true(c->info[0].stored < SPAN / 2 + 200);
}

static void spans_whose_rows_repeat_get_matches_unasked(void **state)
{
	struct codec *c = *state;
	const mfs_layout *bytes = mfs_layout_bytes();
	const uint32_t row = 512;

	fill(c, 4);
	c->rules.row_blocks = row;
	round_trip(c, bytes, SPAN);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_ZSTD], 0);
	for (uint32_t i = SPAN / 2; i < SPAN; i += row)
		memcpy(c->in + i, c->in + SPAN / 2 - row, row);
	round_trip(c, bytes, SPAN);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_ZSTD], SPAN);
	c->rules.row_blocks = 0;
	round_trip(c, bytes, SPAN);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_ZSTD], 0);
}

static int repeats(struct codec *c, const mfs_layout *layout)
{
	const uint32_t blocks = span_blocks(layout);
	const mfs_sample sample = {layout, c->in, blocks, blocks, 1, NULL};

	return mfs_sample_repeats(c->encoder, &sample);
}

static void tables_of_positions_repeat_and_weights_do_not(void **state)
{
	struct codec *c = *state;
	const mfs_layout *layout = mfs_layout_ggml(I32);

	for (uint32_t i = 0; i < SPAN / 4; i++)
		store_le32(c->in + 4 * (size_t)i, i);
	assert_true(repeats(c, layout));
	memset(c->in, 7, SPAN);
	assert_false(repeats(c, layout)); /* one value alone has next to no entropy */
	for (int summands = 1; summands <= 16; summands *= 2) {
		fill(c, summands);
		assert_false(repeats(c, layout));
		assert_false(repeats(c, mfs_layout_ggml(Q4_0)));
		assert_false(repeats(c, mfs_layout_bytes()));
	}
}

static void literals_are_kept_where_matches_are_no_better(void **state)
{
	struct codec *c = *state;

	fill(c, 16);
	encode(c, mfs_layout_bytes(), SPAN);
	c->rules.match_level = 3;
	round_trip(c, mfs_layout_bytes(), SPAN);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_LITERALS], SPAN);
}

static void a_used_encoder_codes_as_a_new_one(void **state)
{
	struct codec *c = *state;
	const mfs_layout *layout = mfs_layout_ggml(Q4_0);
	mfs_encoder *other = mfs_encoder_new(SPAN);
	uint8_t *again[MFS_SLOTS] = {malloc(SPAN), malloc(SPAN)};
	mfs_frame_info info[MFS_SLOTS];

	c->rules.match_level = 3;
	for (int i = 1; i <= 8; i++) {
		fill(c, i);
		encode(c, layout, span_blocks(layout) / (uint32_t)i);
	}
	assert_non_null(other);
	assert_int_equal(mfs_span_encode(other, layout, span_blocks(layout) / 8, c->in, &c->rules,
					 c->tables, again, info),
			 0);
	for (int slot = 0; slot < MFS_SLOTS; slot++) {
		assert_int_equal(info[slot].stored, c->info[slot].stored);
		assert_memory_equal(again[slot], c->stored[slot], info[slot].stored);
		free(again[slot]);
	}
	mfs_encoder_free(other);
}

static void spans_that_do_not_fit_are_refused(void **state)
{
	struct codec *c = *state;
	const mfs_layout *layout = mfs_layout_ggml(Q8_0);
	const mfs_frame frame[MFS_SLOTS] = {{c->stored[0], 0, NULL}, {c->stored[1], 0, NULL}};
	static const uint32_t blocks[] = {0, SPAN / 34 + 1, UINT32_MAX};

	for (size_t i = 0; i < 3; i++) {
		assert_int_equal(mfs_span_encode(c->encoder, layout, blocks[i], c->in, &c->rules,
						 c->tables, c->stored, c->info),
				 MFS_E_ARGUMENT);
		assert_int_equal(mfs_span_decode(c->decoder, layout, blocks[i], frame, c->out),
				 MFS_E_ARGUMENT);
	}
	assert_null(mfs_encoder_new(0));
	assert_null(mfs_decoder_new(0));
	assert_null(mfs_encoder_new((size_t)MFS_FRAME_MAX + 1));
	assert_null(mfs_decoder_new((size_t)MFS_FRAME_MAX + 1));
}

static void the_largest_span_comes_back(void **state)
{
	mfs_encoder *encoder = mfs_encoder_new(MFS_FRAME_MAX);
	mfs_decoder *decoder = mfs_decoder_new(MFS_FRAME_MAX);
	uint8_t *in = malloc(MFS_FRAME_MAX), *stored = malloc(MFS_FRAME_MAX);
	uint8_t *const to[MFS_SLOTS] = {stored, NULL};
	const mfs_tables *const tables[MFS_SLOTS] = {NULL, NULL};
	const mfs_coding_rules rules = {0};
	mfs_frame_info info[MFS_SLOTS];
	mfs_frame frame[MFS_SLOTS] = {{stored, 0, NULL}, {NULL, 0, NULL}};
	uint8_t *out = malloc(MFS_FRAME_MAX);

	(void)state;
	assert_true(encoder && decoder && in && stored && out);
	for (size_t i = 0; i < MFS_FRAME_MAX; i++)
		in[i] = bell(8);
	assert_int_equal(mfs_span_encode(encoder, mfs_layout_bytes(), MFS_FRAME_MAX, in, &rules,
					 tables, to, info),
			 0);
	assert_int_equal(info[0].by_coding[MFS_CODING_LITERALS], MFS_FRAME_MAX);
	frame[0].size = info[0].stored;
	assert_int_equal(mfs_span_decode(decoder, mfs_layout_bytes(), MFS_FRAME_MAX, frame, out),
			 0);
	assert_memory_equal(in, out, MFS_FRAME_MAX);
	mfs_encoder_free(encoder);
	mfs_decoder_free(decoder);
	free(in);
	free(stored);
	free(out);
}

static void codings_have_names(void **state)
{
	(void)state;
	assert_string_equal(mfs_coding_name(MFS_CODING_RAW), "raw");
	assert_string_equal(mfs_coding_name(MFS_CODING_ZERO), "zero");
	assert_string_equal(mfs_coding_name(MFS_CODING_ZSTD), "zstd");
	assert_string_equal(mfs_coding_name(MFS_CODING_LITERALS), "literals");
	assert_string_equal(mfs_coding_name(MFS_CODING_SHARED), "shared");
	assert_string_equal(mfs_coding_name(MFS_CODING_BUCKETS), "buckets");
	assert_string_equal(mfs_coding_name(MFS_CODING_MARKED), "marked");
	assert_string_equal(mfs_coding_name(MFS_CODING_SPARSE), "sparse");
	assert_string_equal(mfs_coding_name(MFS_CODING_PACKED), "packed");
	assert_string_equal(mfs_coding_name(MFS_CODINGS), "unknown");
}

/* ---- tables ---- */

/* Q8_0 blocks of which `kept` of the quants' values occur. */
static void fill_q8_0(struct codec *c, uint32_t blocks, int kept)
{
	for (uint32_t b = 0; b < blocks; b++) {
		uint8_t *block = c->in + (size_t)b * 34;

		block[0] = (uint8_t)random_next();
		block[1] = (uint8_t)(0x14 + bell(4) % 8);
		for (int i = 2; i < 34; i++)
			block[i] = (uint8_t)(bell(8) % kept);
	}
}

static int64_t build(struct codec *c, unsigned slot, uint64_t frames, uint8_t *stored)
{
	const mfs_sample sample = {mfs_layout_ggml(Q8_0), c->in, 1500, 100, frames, NULL};
	mfs_coding_rules rules = {.refused = 1u << MFS_CODING_BUCKETS};

	return mfs_tables_build(c->encoder, &sample, slot, &rules, stored, 4096);
}

static void open_tables(struct codec *c, unsigned slot, mfs_tables **tables)
{
	uint8_t stored[4096];
	int64_t size = build(c, slot, 1000, stored);
	uint32_t streams = mfs_layout_ggml(Q8_0)->slot_streams[slot];

	assert_true(size > 4 * (int64_t)streams && size < 400);
	assert_int_equal(mfs_tables_open(tables, stored, (size_t)size, streams, 1), 0);
	c->tables[slot] = *tables;
}

static void tables_save_what_each_frame_would_carry(void **state)
{
	struct codec *c = *state;
	const mfs_layout *layout = mfs_layout_ggml(Q8_0);
	mfs_tables *tables[MFS_SLOTS];
	uint32_t alone[MFS_SLOTS];

	fill_q8_0(c, 1900, 256);
	encode(c, layout, 100);
	alone[0] = c->info[0].stored;
	alone[1] = c->info[1].stored;
	open_tables(c, 0, &tables[0]);
	open_tables(c, 1, &tables[1]);
	round_trip(c, layout, 100);
	assert_true(c->info[0].stored + 30 < alone[0]);
	assert_true(c->info[1].stored < alone[1]);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_SHARED], 3200);
	assert_int_equal(c->info[1].by_coding[MFS_CODING_SHARED], 100);

	/* Weights: a le32, then a zstd frame with a 6-byte header, one compressed
	 * block, and in it literals without a tree of their own. */
	assert_int_equal(c->stored[0][4 + 6] >> 1 & 3, 2);
	assert_int_equal(c->stored[0][4 + 6 + 3] & 3, 3);
	mfs_tables_free(tables[0]);
	mfs_tables_free(tables[1]);
}

static void values_that_the_sample_lacks_still_come_back(void **state)
{
	struct codec *c = *state;
	const mfs_layout *layout = mfs_layout_ggml(Q8_0);
	mfs_tables *tables;

	fill_q8_0(c, 1900, 100);
	open_tables(c, 0, &tables);
	for (int i = 0; i < 100; i++)
		c->in[34 * i + 5] = (uint8_t)(200 + i % 50);
	round_trip(c, layout, 100);
	/* The tensor's tree has no codes for them; this frame brings its own. */
	assert_int_equal(c->info[0].by_coding[MFS_CODING_LITERALS], 3200);
	mfs_tables_free(tables);
}

/* Q4_K blocks: six bits of scales in a bell below two bits, the same in all. */
static void fill_six_bits(struct codec *c, uint32_t blocks, uint8_t upper)
{
	for (uint32_t b = 0; b < blocks; b++) {
		uint8_t *block = c->in + (size_t)b * 144;

		for (int i = 0; i < 144; i++)
			block[i] = (uint8_t)random_next();
		for (int i = 4; i < 8; i++)
			block[i] = upper | bell(6) >> 2;
	}
}

static void values_with_other_upper_bits_have_codes(void **state)
{
	struct codec *c = *state;
	const mfs_layout *layout = mfs_layout_ggml(Q4_K);
	const mfs_sample sample = {layout, c->in, 400, 200, 1000, NULL};
	uint8_t stored[4096];
	mfs_tables *tables;
	int64_t size;

	fill_six_bits(c, 400, 0x40);
	size = mfs_tables_build(c->encoder, &sample, 1, &c->rules, stored, sizeof(stored));
	assert_true(size > 0);
	assert_int_equal(mfs_tables_open(&tables, stored, (size_t)size, layout->slot_streams[1], 1),
			 0);
	c->tables[1] = tables;
	for (int i = 0; i < 10; i++)
		c->in[144 * i + 4] = 0x80 | 32;
	round_trip(c, layout, 200);
	assert_int_equal(c->info[1].by_coding[MFS_CODING_SHARED], 200 * 4);
	mfs_tables_free(tables);
}

static void shared_frames_need_their_tables(void **state)
{
	struct codec *c = *state;
	const mfs_layout *layout = mfs_layout_ggml(Q8_0);
	mfs_tables *tables;

	fill_q8_0(c, 1900, 256);
	open_tables(c, 0, &tables);
	round_trip(c, layout, 100);
	c->tables[0] = NULL;
	assert_int_equal(decode(c, layout, 100), MFS_E_CORRUPT);
	mfs_tables_free(tables);
}

static void tables_of_other_streams_are_refused(void **state)
{
	struct codec *c = *state;
	const mfs_layout *layout = mfs_layout_ggml(Q4_K);
	mfs_tables *tables;

	fill_q8_0(c, 1900, 256);
	open_tables(c, 1, &tables); /* two streams; Q4_K has seven */
	assert_int_equal(mfs_span_encode(c->encoder, layout, 10, c->in, &c->rules, c->tables,
					 c->stored, c->info),
			 MFS_E_ARGUMENT);
	mfs_tables_free(tables);
}

static void tables_are_not_built_where_they_do_not_pay(void **state)
{
	struct codec *c = *state;
	uint8_t stored[4096];

	fill_q8_0(c, 1900, 256);
	assert_true(build(c, 0, 100, stored) > 0);
	assert_int_equal(build(c, 0, 1, stored), 0);
	fill(c, 1); /* noise */
	assert_int_equal(build(c, 0, 1000, stored), 0);
	memset(c->in, 0, SPAN);
	assert_int_equal(build(c, 0, 1000, stored), 0);
	assert_int_equal(build(c, 1, 1000, stored), 0);
	memset(c->in, 9, SPAN); /* one value: zstd needs no tree */
	assert_int_equal(build(c, 0, 1000, stored), 0);
	/* BF16 has no constants. */
	const mfs_sample bf16 = {mfs_layout_ggml(BF16), c->in, 100, 100, 1000, NULL};

	assert_int_equal(mfs_tables_build(c->encoder, &bf16, 1, &c->rules, stored, sizeof(stored)),
			 0);
}

static void tables_build_refuses_wrong_arguments(void **state)
{
	struct codec *c = *state;
	const mfs_layout *layout = mfs_layout_ggml(Q8_0);
	uint8_t out[4096];
	const mfs_sample good = {layout, c->in, 1500, 100, 1000, NULL};
	mfs_sample bad = good;

	fill_q8_0(c, 1900, 256);
	bad.blocks = 0;
	assert_int_equal(mfs_tables_build(c->encoder, &bad, 0, &c->rules, out, 4096),
			 MFS_E_ARGUMENT);
	bad = good;
	bad.span_blocks = 0;
	assert_int_equal(mfs_tables_build(c->encoder, &bad, 0, &c->rules, out, 4096),
			 MFS_E_ARGUMENT);
	bad.span_blocks = SPAN / 34 + 1;
	assert_int_equal(mfs_tables_build(c->encoder, &bad, 0, &c->rules, out, 4096),
			 MFS_E_ARGUMENT);
	bad = good;
	bad.frames = 0;
	assert_int_equal(mfs_tables_build(c->encoder, &bad, 0, &c->rules, out, 4096),
			 MFS_E_ARGUMENT);
	assert_int_equal(mfs_tables_build(c->encoder, &good, 2, &c->rules, out, 4096),
			 MFS_E_ARGUMENT);
	assert_int_equal(mfs_tables_build(c->encoder, &good, 0, &c->rules, out, 3), MFS_E_ARGUMENT);
	assert_int_equal(mfs_tables_build(c->encoder, &good, 0, &c->rules, out, 40),
			 MFS_E_ARGUMENT);
}

static void tables_open_counts_its_memory(void **state)
{
	struct codec *c = *state;
	uint8_t stored[4096];
	mfs_tables *reading, *writing;
	int64_t size;

	fill_q8_0(c, 1900, 256);
	size = build(c, 0, 1000, stored);
	assert_int_equal(mfs_tables_open(&reading, stored, (size_t)size, 1, 0), 0);
	assert_int_equal(mfs_tables_open(&writing, stored, (size_t)size, 1, 1), 0);
	assert_in_range(mfs_tables_memory(reading), 4096, 65536);
	assert_true(mfs_tables_memory(writing) > mfs_tables_memory(reading));
	mfs_tables_free(reading);
	mfs_tables_free(writing);
	mfs_tables_free(NULL);
}

static int open_exact(const uint8_t *stored, size_t size, uint32_t streams)
{
	mfs_tables *tables = NULL;
	uint8_t *exact = malloc(size + !size);
	int err;

	assert_non_null(exact);
	memcpy(exact, stored, size);
	err = mfs_tables_open(&tables, exact, size, streams, 1);
	free(exact);
	if (err)
		assert_null(tables);
	mfs_tables_free(tables);
	return err;
}

static void tables_open_refuses_lengths_that_do_not_add_up(void **state)
{
	struct codec *c = *state;
	static uint8_t large[MFS_TABLES_MAX + 1];
	uint8_t stored[4096];
	uint32_t length;
	size_t size;

	fill_q8_0(c, 1900, 256);
	size = (size_t)build(c, 1, 1000, stored); /* two streams */
	assert_int_equal(open_exact(stored, size, 2), 0);
	for (size_t n = 0; n < size; n++)
		assert_int_equal(open_exact(stored, n, 2), MFS_E_CORRUPT);
	assert_int_equal(open_exact(stored, size + 1, 2), MFS_E_CORRUPT);
	assert_int_equal(open_exact(stored, size, 1), MFS_E_CORRUPT);
	assert_int_equal(open_exact(stored, size, 3), MFS_E_CORRUPT);
	length = load_le32(stored + 4);
	store_le32(stored + 4, UINT32_MAX);
	assert_int_equal(open_exact(stored, size, 2), MFS_E_CORRUPT);
	store_le32(stored + 4, length + 1);
	assert_int_equal(open_exact(stored, size, 2), MFS_E_CORRUPT);
	store_le32(large, MFS_TABLES_MAX - 3);
	assert_int_equal(open_exact(large, sizeof(large), 1), MFS_E_CORRUPT);
	assert_int_equal(open_exact(stored, size, 0), MFS_E_ARGUMENT);
	assert_int_equal(open_exact(stored, size, MFS_STREAMS_MAX + 1), MFS_E_ARGUMENT);
}

static void tables_open_refuses_what_is_no_dictionary(void **state)
{
	struct codec *c = *state;
	uint8_t stored[4096];
	size_t size;

	fill_q8_0(c, 1900, 256);
	size = (size_t)build(c, 0, 1000, stored);
	stored[4] ^= 1; /* magic */
	assert_int_equal(open_exact(stored, size, 1), MFS_E_CORRUPT);
	stored[4] ^= 1;
	memset(stored + 12, 0xff, 20); /* Huffman tree */
	assert_int_equal(open_exact(stored, size, 1), MFS_E_CORRUPT);
	memset(stored, 0, sizeof(stored));
	store_le32(stored, 1);
	assert_int_equal(open_exact(stored, 5, 1), MFS_E_CORRUPT);
}

/* ---- buckets ---- */

/* Q4_K blocks whose quants lie lower the larger minimum / scale is. */
static void fill_q4_k(struct codec *c, uint32_t blocks)
{
	for (uint32_t b = 0; b < blocks; b++) {
		uint8_t *block = c->in + (size_t)b * 144;

		store_le16(block, 0x2000);
		store_le16(block + 2, 0x2400);
		for (int i = 0; i < 4; i++) { /* all scales are 32 */
			block[4 + i] = 0x80 | 32;
			block[8 + i] = (uint8_t)random_next();
			block[12 + i] = (uint8_t)(random_next() & 0xf0);
		}
		for (int i = 0; i < 128; i++) {
			int g = i / 32 * 2; /* two groups to a byte; both follow the first */
			int minimum =
			    g < 4 ? block[8 + g] & 63 : block[8 + g] >> 4 | block[4 + g] >> 6 << 4;
			int low = bell(3) * minimum / 1024, high = bell(3) * minimum / 1024;

			block[16 + i] = (uint8_t)((low & 15) | (high & 15) << 4);
		}
	}
}

static void open_buckets(struct codec *c, mfs_tables **tables, uint32_t blocks)
{
	const mfs_sample sample = {mfs_layout_ggml(Q4_K), c->in, blocks, 200, 1000, NULL};
	static uint8_t stored[8192];
	int64_t size = mfs_tables_build(c->encoder, &sample, 0, &c->rules, stored, sizeof(stored));

	assert_true(size > 0);
	assert_int_equal(load_le32(stored) >> 28, MFS_CODING_BUCKETS);
	assert_int_equal(mfs_tables_open(tables, stored, (size_t)size, 1, 1), 0);
	c->tables[0] = *tables;
}

static void buckets_beat_one_tree(void **state)
{
	struct codec *c = *state;
	const mfs_layout *layout = mfs_layout_ggml(Q4_K);
	mfs_tables *tables;
	uint32_t plain;

	fill_q4_k(c, 400);
	encode(c, layout, 200);
	plain = c->info[0].stored;
	open_buckets(c, &tables, 400);
	round_trip(c, layout, 200);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_BUCKETS], 200 * 128);
	assert_true(c->info[0].stored < plain * 49 / 50);
	round_trip(c, layout, 1);
	round_trip(c, layout, 400);

	/* Without them where the rules refuse. */
	c->rules.refused = 1u << MFS_CODING_BUCKETS;
	round_trip(c, layout, 200);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_BUCKETS], 0);
	mfs_tables_free(tables);
}

static void buckets_take_any_constants(void **state)
{
	struct codec *c = *state;
	const mfs_layout *layout = mfs_layout_ggml(Q4_K);
	static const uint16_t special[] = {0, 0x8000, 1, 0x7c00, 0xfc00, 0x7e01, 0x3c00, 0xbc00};
	mfs_tables *tables;

	fill_q4_k(c, 400);
	open_buckets(c, &tables, 400);
	for (uint32_t b = 0; b < 400; b++) {
		store_le16(c->in + 144 * b, special[b % 8]);
		store_le16(c->in + 144 * b + 2, special[b / 8 % 8]);
	}
	round_trip(c, layout, 400);
	fill(c, 2);
	round_trip(c, layout, 400);
	mfs_tables_free(tables);
}

static void buckets_that_lie_are_refused(void **state)
{
	struct codec *c = *state;
	const mfs_layout *layout = mfs_layout_ggml(Q4_K);
	mfs_tables *tables;
	uint32_t size;
	int refused = 0;

	fill_q4_k(c, 400);
	open_buckets(c, &tables, 400);
	round_trip(c, layout, 300);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_BUCKETS], 300 * 128);
	size = c->info[0].stored;

	store_le32(c->stored[0], (uint32_t)MFS_CODING_SHARED << 28 | (size - 4));
	assert_int_equal(decode(c, layout, 300), MFS_E_CORRUPT);
	store_le32(c->stored[0], (uint32_t)MFS_CODING_LITERALS << 28 | (size - 4));
	assert_int_equal(decode(c, layout, 300), MFS_E_CORRUPT);
	store_le32(c->stored[0], (uint32_t)MFS_CODING_BUCKETS << 28 | (size - 4));
	assert_int_equal(decode(c, layout, 300), 0);
	assert_int_equal(decode(c, layout, 299), MFS_E_CORRUPT);
	for (uint32_t i = 4; i < size; i++) {
		c->stored[0][i] ^= (uint8_t)(1u << i % 8);
		refused += decode(c, layout, 300) != 0;
		c->stored[0][i] ^= (uint8_t)(1u << i % 8);
	}
	assert_true(refused > 0);
	for (uint32_t n = 5; n < size; n += 7) {
		const size_t sizes[MFS_SLOTS] = {n, c->info[1].stored};

		store_le32(c->stored[0], (uint32_t)MFS_CODING_BUCKETS << 28 | (n - 4));
		assert_int_equal(decode_frames(c, layout, 300, sizes), MFS_E_CORRUPT);
	}

	/* Nor without tables, or for a stream without contexts. */
	store_le32(c->stored[0], (uint32_t)MFS_CODING_BUCKETS << 28 | (size - 4));
	c->tables[0] = NULL;
	assert_int_equal(decode(c, layout, 300), MFS_E_CORRUPT);
	mfs_tables_free(tables);
}

static void tables_open_refuses_buckets_that_do_not_fit(void **state)
{
	struct codec *c = *state;
	const mfs_sample sample = {mfs_layout_ggml(Q4_K), c->in, 400, 200, 1000, NULL};
	static uint8_t good[8192], bad[8192];
	size_t size;

	fill_q4_k(c, 400);
	size = (size_t)mfs_tables_build(c->encoder, &sample, 0, &c->rules, good, sizeof(good));
	assert_int_equal(open_exact(good, size, 1), 0);
	for (size_t n = 0; n < size; n++)
		assert_int_equal(open_exact(good, n, 1), MFS_E_CORRUPT);
#define BAD(at, value)                                                                             \
	do {                                                                                       \
		memcpy(bad, good, size);                                                           \
		bad[at] = (uint8_t)(value);                                                        \
		assert_int_equal(open_exact(bad, size, 1), MFS_E_CORRUPT);                         \
	} while (0)
	BAD(3, MFS_CODING_SHARED << 4);
	BAD(3, MFS_CODING_LITERALS << 4);
	BAD(3, 0xf0);
	BAD(4, 0);
	BAD(4, 1);
	BAD(4, MFS_BUCKETS_MAX + 1);
	BAD(4, 255);
	BAD(5, 1);
	BAD(8, 0);
	BAD(8, 255);
	BAD(9, good[8]);
	for (int i = 0; i < 2000; i++) {
		memcpy(bad, good, size);
		bad[random_next() % size] ^= (uint8_t)(1u << random_next() % 8);
		open_exact(bad, size, 1);
	}
}

/* ---- marked buckets ---- */

/* Runs of 32 bytes that are distributed in one way or in the other. */
static void fill_two_kinds(struct codec *c)
{
	for (size_t i = 0; i < SPAN; i += 32) {
		const int summands = random_next() % 3 ? 2 : 16;

		for (size_t k = 0; k < 32; k++)
			c->in[i + k] = bell(summands);
	}
}

static void open_marked(struct codec *c, mfs_tables **tables)
{
	const mfs_sample sample = {mfs_layout_bytes(), c->in, SPAN, SPAN / 2, 1000, NULL};
	static uint8_t stored[8192];
	int64_t size = mfs_tables_build(c->encoder, &sample, 0, &c->rules, stored, sizeof(stored));

	assert_true(size > 0);
	assert_int_equal(load_le32(stored) >> 28, MFS_CODING_MARKED);
	assert_true(mfs_tables_have_marks(stored, sizeof(stored), 1));
	assert_false(mfs_tables_have_marks(stored, 3, 1)); /* a damaged record is so short */
	assert_int_equal(mfs_tables_open(tables, stored, (size_t)size, 1, MFS_TABLES_BOTH), 0);
	c->tables[0] = *tables;
}

static void marked_buckets_beat_one_tree(void **state)
{
	struct codec *c = *state;
	const mfs_layout *layout = mfs_layout_bytes();
	mfs_tables *tables;
	uint32_t plain;

	fill_two_kinds(c);
	encode(c, layout, SPAN / 2);
	plain = c->info[0].stored;
	open_marked(c, &tables);
	round_trip(c, layout, SPAN / 2);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_MARKED], SPAN / 2);
	assert_true(c->info[0].stored < plain * 49 / 50);
	/* Bytes that fill no group, and too few for one. */
	for (uint32_t n = 1; n < 140; n++)
		round_trip(c, layout, n);
	for (uint32_t n = SPAN - 40; n <= SPAN; n++)
		round_trip(c, layout, n);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_MARKED], SPAN);

	c->rules.refused = 1u << MFS_CODING_MARKED;
	round_trip(c, layout, SPAN / 2);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_MARKED], 0);
	mfs_tables_free(tables);
}

static void marked_buckets_take_any_bytes(void **state)
{
	struct codec *c = *state;
	mfs_tables *tables;

	fill_two_kinds(c);
	open_marked(c, &tables);
	for (int summands = 1; summands < 30; summands += 4) {
		fill(c, summands);
		round_trip(c, mfs_layout_bytes(), SPAN - 5);
	}
	mfs_tables_free(tables);
}

/* Values that the tables were learned without, in groups of every kind. */
static void bytes_without_a_code_meet_in_one_bucket(void **state)
{
	struct codec *c = *state;
	const uint8_t rare = 255;
	mfs_tables *tables;
	uint32_t without;

	fill_two_kinds(c);
	for (size_t i = 0; i < SPAN; i++)
		c->in[i] /= 2;
	open_marked(c, &tables);
	encode(c, mfs_layout_bytes(), SPAN);
	without = c->info[0].stored;
	for (size_t i = 0; i < 12; i++)
		c->in[i * 32] = rare;
	round_trip(c, mfs_layout_bytes(), SPAN);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_MARKED], SPAN);
	assert_true(c->info[0].stored < without + 150); /* one tree */
	mfs_tables_free(tables);
}

static void marks_that_lie_are_refused(void **state)
{
	struct codec *c = *state;
	const mfs_layout *layout = mfs_layout_bytes();
	const uint32_t n = 2005;
	mfs_tables *tables;
	uint32_t size, marks;

	fill_two_kinds(c);
	open_marked(c, &tables);
	round_trip(c, layout, n);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_MARKED], n);
	size = c->info[0].stored;
	marks = load_le32(c->stored[0] + 4);
	for (uint32_t coding = 0; coding < 16; coding++) {
		store_le32(c->stored[0], coding << 28 | (size - 4));
		assert_int_equal(decode(c, layout, n),
				 coding == MFS_CODING_MARKED ? 0 : MFS_E_CORRUPT);
	}
	store_le32(c->stored[0], (uint32_t)MFS_CODING_MARKED << 28 | (size - 4));
	for (uint32_t wrong = 0; wrong < 2 * size; wrong++) {
		store_le32(c->stored[0] + 4, wrong);
		assert_int_equal(decode(c, layout, n), wrong == marks ? 0 : MFS_E_CORRUPT);
	}
	store_le32(c->stored[0] + 4, marks);
	for (uint32_t i = 4; i < size; i++) {
		c->stored[0][i] ^= (uint8_t)(1u << i % 8);
		decode(c, layout, n); /* or not: the frame's hash tells */
		c->stored[0][i] ^= (uint8_t)(1u << i % 8);
	}
	for (uint32_t cut = 4; cut < size; cut += 3) {
		const size_t sizes[MFS_SLOTS] = {cut, 0};

		store_le32(c->stored[0], (uint32_t)MFS_CODING_MARKED << 28 | (cut - 4));
		assert_int_equal(decode_frames(c, layout, n, sizes), MFS_E_CORRUPT);
	}
	store_le32(c->stored[0], (uint32_t)MFS_CODING_MARKED << 28 | (size - 4));
	c->tables[0] = NULL;
	assert_int_equal(decode(c, layout, n), MFS_E_CORRUPT);
	mfs_tables_free(tables);
}

static void tables_open_refuses_marked_buckets_that_do_not_fit(void **state)
{
	struct codec *c = *state;
	const mfs_sample sample = {mfs_layout_bytes(), c->in, SPAN, SPAN / 2, 1000, NULL};
	static uint8_t good[8192], bad[8192];
	size_t size;

	fill_two_kinds(c);
	size = (size_t)mfs_tables_build(c->encoder, &sample, 0, &c->rules, good, sizeof(good));
	assert_int_equal(open_exact(good, size, 1), 0);
	for (size_t n = 0; n < size; n++)
		assert_int_equal(open_exact(good, n, 1), MFS_E_CORRUPT);
	BAD(3, MFS_CODING_SHARED << 4);
	BAD(3, MFS_CODING_SPARSE << 4);
	BAD(4, 1);
	BAD(4, good[4] + 1);
	BAD(4, MFS_BUCKETS_MAX + 1);
	BAD(5, 3);
	BAD(5, 129);
	BAD(6, 1);
	BAD(7, 1);
}

/* A stream whose bytes are all distributed alike, with tables for two kinds. */
static void streams_of_one_kind_are_not_marked(void **state)
{
	struct codec *c = *state;
	mfs_tables *tables;

	fill_two_kinds(c);
	open_marked(c, &tables);
	for (size_t i = 0; i < SPAN; i++)
		c->in[i] = random_next() % 64 ? 128 : (uint8_t)random_next();
	round_trip(c, mfs_layout_bytes(), SPAN);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_LITERALS], SPAN);
	mfs_tables_free(tables);
}

static void estimates_without_tables_are_near(void **state)
{
	struct codec *c = *state;
	uint64_t alone = 7;
	const mfs_sample sample = {mfs_layout_bytes(), c->in, SPAN, SPAN / 2, 1000, &alone};
	uint8_t stored[8192];
	uint32_t coded;

	for (int summands = 1; summands < 12; summands += 5) {
		alone = 7;
		fill(c, summands);
		assert_true(mfs_tables_build(c->encoder, &sample, 0, &c->rules, stored,
					     sizeof(stored)) >= 0);
		encode(c, mfs_layout_bytes(), SPAN / 2);
		coded = 2 * c->info[0].stored;
		assert_in_range(alone - 7, coded - coded / 64, coded + coded / 64);
	}
}

static void estimates_tell_each_coding(void **state)
{
	struct codec *c = *state;
	const mfs_sample sample = {mfs_layout_ggml(Q4_K), c->in, 400, 200, 1000, NULL};
	uint64_t stored[MFS_CODINGS];
	mfs_tables *tables;

	fill_q4_k(c, 400);
	open_buckets(c, &tables, 400);
	assert_int_equal(mfs_sample_estimate(c->encoder, &sample, &c->rules, c->tables, stored), 0);
	/* Half of the bytes of the two fp16 numbers are zeros, which nothing stores. */
	assert_in_range(stored[MFS_CODING_RAW], 400 * 142, 400 * 144);
	assert_true(stored[MFS_CODING_LITERALS] < stored[MFS_CODING_RAW]);
	assert_true(stored[MFS_CODING_ZERO] < stored[MFS_CODING_BUCKETS]);
	assert_true(stored[MFS_CODING_ZERO] < stored[MFS_CODING_LITERALS]);
	mfs_tables_free(tables);
}

/* BF16 numbers, of which one in `rare` has an exponent far from the others. */
static void fill_bf16(struct codec *c, uint32_t rare)
{
	for (size_t i = 0; i < SPAN; i += 2) {
		unsigned exponent = 120u - (unsigned)__builtin_ctz(random_next() | 1u << 20);

		if (random_next() % rare == 0)
			exponent = random_next() & 255;
		store_le16(c->in + i, (uint16_t)((random_next() & 0x807f) | exponent << 7));
	}
}

/* ---- sparse frames ---- */

/* Makes words of `width` bytes zero: two of each four, or `of` in 64 at random. */
static void prune(struct codec *c, size_t width, uint32_t of)
{
	for (size_t i = 0; i < SPAN / width; i++)
		if (of ? random_next() % 64 < of : (i ^ i / 4) & 2)
			memset(c->in + i * width, 0, width);
}

static void pruned_weights_are_mask_and_values(void **state)
{
	static const struct {
		uint32_t type, width;
	} types[] = {{BF16, 2}, {F32, 4}, {1, 2}, {25, 2}, {28, 8}};
	struct codec *c = *state;

	for (size_t t = 0; t < sizeof(types) / sizeof(*types); t++)
		for (uint32_t of = 0; of <= 64; of += 16) {
			const mfs_layout *layout = mfs_layout_ggml(types[t].type);
			uint32_t words = SPAN / types[t].width;

			fill_bf16(c, 1000);
			prune(c, types[t].width, of);
			for (uint32_t n = words; n > words - 18; n--)
				round_trip(c, layout, n);
			round_trip(c, layout, 1);
			round_trip(c, layout, 9);
			if (of < 64 && types[t].type == BF16) {
				round_trip(c, layout, words);
				assert_int_equal(c->info[0].by_coding[MFS_CODING_SPARSE], SPAN);
			}
		}
	fill_bf16(c, 1000);
	prune(c, 2, 32);
	round_trip(c, mfs_layout_ggml(BF16), SPAN / 2);
	assert_true(c->info[0].stored < SPAN * 7 / 16);
	c->rules.refused = 1u << MFS_CODING_SPARSE;
	round_trip(c, mfs_layout_ggml(BF16), SPAN / 2);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_SPARSE], 0);
}

static void a_negative_zero_is_a_value(void **state)
{
	struct codec *c = *state;

	fill_bf16(c, 1000);
	prune(c, 2, 32);
	for (size_t i = 1; i < SPAN; i += 94)
		c->in[i] |= 0x80;
	round_trip(c, mfs_layout_ggml(BF16), SPAN / 2);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_SPARSE], SPAN);
}

static void sparse_frames_that_lie_are_refused(void **state)
{
	struct codec *c = *state;
	const mfs_layout *layout = mfs_layout_ggml(BF16);
	const uint32_t words = 2001;
	uint32_t mask, size;
	int refused = 0;

	fill_bf16(c, 1000);
	prune(c, 2, 32);
	round_trip(c, layout, words);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_SPARSE], words * 2);
	mask = load_le32(c->stored[0]);
	assert_int_equal(mask >> 28, MFS_CODING_SPARSE);
	size = c->info[0].stored;
	for (uint32_t n = 1; n < size; n++) {
		const size_t sizes[MFS_SLOTS] = {n, 0};

		assert_int_equal(decode_frames(c, layout, words, sizes), MFS_E_CORRUPT);
	}
	for (uint32_t lie = 0; lie < 28; lie++) {
		store_le32(c->stored[0], mask ^ 1u << lie);
		assert_int_equal(decode(c, layout, words), MFS_E_CORRUPT);
	}
	store_le32(c->stored[0], mask);
	for (uint32_t i = 0; i < size; i++) {
		c->stored[0][i] ^= (uint8_t)(1u << i % 8);
		refused += decode(c, layout, words) != 0;
		c->stored[0][i] ^= (uint8_t)(1u << i % 8);
	}
	assert_true(refused > 0);
	/* No other layout's frames are sparse. */
	store_le32(c->stored[0], (uint32_t)MFS_CODING_SPARSE << 28);
	for (uint32_t row = 0; row < mfs_layout_ggml_count(); row++) {
		const mfs_layout *other = mfs_layout_ggml_row(row);
		const size_t sizes[MFS_SLOTS] = {other->slot_bytes[0] * 5u - 1, 0};

		if (other->field_count > 1)
			assert_int_equal(decode_frames(c, other, 5, sizes), MFS_E_CORRUPT);
	}
}

/* ---- hostile frames ---- */

/* Three streams in two slots: Q4_0, whose scales and quants all compress. */
#define HOSTILE_BLOCKS 300

static const mfs_layout *hostile_frame(struct codec *c)
{
	const mfs_layout *layout = mfs_layout_ggml(Q4_0);

	for (size_t i = 0; i < SPAN; i++)
		c->in[i] = bell(12) / 4;
	round_trip(c, layout, HOSTILE_BLOCKS);
	assert_int_equal(c->info[0].by_coding[MFS_CODING_LITERALS], HOSTILE_BLOCKS * 16);
	assert_int_equal(c->info[1].by_coding[MFS_CODING_LITERALS], HOSTILE_BLOCKS * 2);
	return layout;
}

static void frames_of_any_other_length_are_refused(void **state)
{
	struct codec *c = *state;
	const mfs_layout *layout = hostile_frame(c);
	size_t size[MFS_SLOTS];

	for (int slot = 0; slot < MFS_SLOTS; slot++) {
		size_t raw = (size_t)HOSTILE_BLOCKS * layout->slot_bytes[slot];

		size[!slot] = c->info[!slot].stored;
		for (size_t n = 1; n < raw; n++) {
			size[slot] = n;
			if (n != c->info[slot].stored)
				assert_int_equal(decode_frames(c, layout, HOSTILE_BLOCKS, size),
						 MFS_E_CORRUPT);
		}
		size[slot] = raw + 1;
		assert_int_equal(decode_frames(c, layout, HOSTILE_BLOCKS, size), MFS_E_CORRUPT);
		/* Nothing at all is a frame of zeros, all bytes a raw one. */
		size[slot] = 0;
		assert_int_equal(decode_frames(c, layout, HOSTILE_BLOCKS, size), 0);
		size[slot] = raw;
		assert_int_equal(decode_frames(c, layout, HOSTILE_BLOCKS, size), 0);
	}
}

static void flipped_bits_do_no_harm(void **state)
{
	struct codec *c = *state;
	const mfs_layout *layout = hostile_frame(c);
	int refused = 0;

	for (int slot = 0; slot < MFS_SLOTS; slot++)
		for (uint32_t i = 0; i < c->info[slot].stored; i++) {
			c->stored[slot][i] ^= (uint8_t)(1u << random_next() % 8);
			if (decode(c, layout, HOSTILE_BLOCKS))
				refused++;
		}
	assert_true(refused > 0);
}

/* Puts `coding` and `length` into the header of the first stream of slot 1. */
static int decode_as(struct codec *c, const mfs_layout *layout, uint32_t coding, uint32_t length)
{
	store_le32(c->stored[1], coding << 28 | length);
	return decode(c, layout, HOSTILE_BLOCKS);
}

static void headers_that_lie_are_refused(void **state)
{
	struct codec *c = *state;
	const mfs_layout *layout = hostile_frame(c);
	uint32_t word = load_le32(c->stored[1]);
	uint32_t length = word & 0xfffffff;

	assert_int_equal(word >> 28, MFS_CODING_LITERALS);
	assert_int_equal(decode_as(c, layout, MFS_CODING_LITERALS, length), 0);
	assert_int_equal(decode_as(c, layout, MFS_CODING_ZSTD, length), 0);
	assert_int_equal(decode_as(c, layout, MFS_CODING_RAW, length), MFS_E_CORRUPT);
	assert_int_equal(decode_as(c, layout, MFS_CODING_ZERO, length), MFS_E_CORRUPT);
	assert_int_equal(decode_as(c, layout, MFS_CODING_SHARED, length), MFS_E_CORRUPT);
	for (uint32_t coding = MFS_CODINGS; coding < 16; coding++)
		assert_int_equal(decode_as(c, layout, coding, length), MFS_E_CORRUPT);
	assert_int_equal(decode_as(c, layout, MFS_CODING_LITERALS, length - 1), MFS_E_CORRUPT);
	assert_int_equal(decode_as(c, layout, MFS_CODING_LITERALS, length + 1), MFS_E_CORRUPT);
	assert_int_equal(decode_as(c, layout, MFS_CODING_LITERALS, 0xfffffff), MFS_E_CORRUPT);
	assert_int_equal(decode_as(c, layout, MFS_CODING_LITERALS, 0), MFS_E_CORRUPT);
}

/* A frame of opaque bytes that holds `size` bytes as its one stream. */
static int decode_stream(struct codec *c, const uint8_t *stream, size_t size, uint32_t raw)
{
	const size_t sizes[MFS_SLOTS] = {size + 4, 0};

	store_le32(c->stored[0], (uint32_t)MFS_CODING_ZSTD << 28 | (uint32_t)size);
	memcpy(c->stored[0] + 4, stream, size);
	return decode_frames(c, mfs_layout_bytes(), raw, sizes);
}

static void zstd_frames_must_decode_to_the_streams_size(void **state)
{
	struct codec *c = *state;
	uint8_t coded[2000] = {0};
	size_t size;

	memset(c->in, 'x', SPAN);
	size = ZSTD_compress(coded, sizeof(coded), c->in, 5000, 3);
	assert_false(ZSTD_isError(size));
	assert_int_equal(decode_stream(c, coded, size, 5000), 0);
	assert_memory_equal(c->out, c->in, 5000);
	assert_int_equal(decode_stream(c, coded, size, 4999), MFS_E_CORRUPT);
	assert_int_equal(decode_stream(c, coded, size, 5001), MFS_E_CORRUPT);
	assert_int_equal(decode_stream(c, coded, size + 1, 5000), MFS_E_CORRUPT);
	assert_int_equal(decode_stream(c, coded, size - 1, 5000), MFS_E_CORRUPT);
}

static void zstd_streams_are_one_frame_and_nothing_else(void **state)
{
	struct codec *c = *state;
	static const uint8_t skippable[12] = {0x50, 0x2a, 0x4d, 0x18, 4};
	uint8_t coded[2000];
	size_t size;

	memset(c->in, 'x', SPAN);
	size = ZSTD_compress(coded, sizeof(coded), c->in, 2500, 3);
	memcpy(coded + size, coded, size);
	assert_int_equal(decode_stream(c, coded, 2 * size, 5000), MFS_E_CORRUPT);
	memcpy(coded + size, skippable, sizeof(skippable));
	assert_int_equal(decode_stream(c, coded, size + sizeof(skippable), 2500), MFS_E_CORRUPT);
	memcpy(coded, skippable, sizeof(skippable));
	size = ZSTD_compress(coded + 12, sizeof(coded) - 12, c->in, 2500, 3);
	assert_int_equal(decode_stream(c, coded, size + 12, 2500), MFS_E_CORRUPT);
}

static void coded_streams_must_be_smaller_than_raw_ones(void **state)
{
	struct codec *c = *state;
	const mfs_layout *layout = mfs_layout_ggml(26); /* I32: four planes of 40 bytes */
	const size_t sizes[MFS_SLOTS] = {16 + 49, 0};
	uint8_t *at = c->stored[0];
	size_t size;

	fill(c, 1);
	size = ZSTD_compress(at + 16, 60, c->in, 40, 3);
	assert_int_equal(size, 49);
	store_le32(at, (uint32_t)MFS_CODING_ZSTD << 28 | 49);
	for (int k = 1; k < 4; k++)
		store_le32(at + 4 * k, (uint32_t)MFS_CODING_ZERO << 28);
	assert_int_equal(decode_frames(c, layout, 40, sizes), MFS_E_CORRUPT);
}

static void bombs_are_refused(void **state)
{
	struct codec *c = *state;
	/* A window of 2^41 bytes and 400 blocks of 128 KiB of one byte each. */
	uint8_t bomb[6 + 400 * 4] = {0x28, 0xb5, 0x2f, 0xfd, 0x00, 31 << 3};
	uint32_t block = 131072u << 3 | 1 << 1;

	for (int i = 0; i < 400; i++) {
		store_le32(bomb + 6 + 4 * i, block | (i == 399));
		bomb[6 + 4 * i + 3] = 0x55;
	}
	assert_int_equal(decode_stream(c, bomb, sizeof(bomb), SPAN), MFS_E_CORRUPT);
	/* The same size, told in the header. */
	memcpy(bomb, "\x28\xb5\x2f\xfd\xa0\x00\x00\x00\x40", 9);
	assert_int_equal(decode_stream(c, bomb, sizeof(bomb), SPAN), MFS_E_CORRUPT);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, codec_new, codec_free)
	const struct CMUnitTest tests[] = {
	    TEST(every_row_comes_back_from_its_frames),
	    TEST(zeros_store_nothing),
	    TEST(an_empty_frame_needs_no_pointer),
	    TEST(zero_planes_store_four_bytes_each),
	    TEST(noise_is_stored_as_it_is),
	    TEST(skewed_weights_are_coded_and_flat_ones_are_not),
	    TEST(parts_of_a_stream_get_trees_of_their_own),
	    TEST(small_gains_are_kept),
	    TEST(gains_below_the_rule_are_not_coded),
	    TEST(matches_are_looked_for_only_if_asked),
	    TEST(spans_whose_rows_repeat_get_matches_unasked),
	    TEST(tables_of_positions_repeat_and_weights_do_not),
	    TEST(literals_are_kept_where_matches_are_no_better),
	    TEST(a_used_encoder_codes_as_a_new_one),
	    TEST(spans_that_do_not_fit_are_refused),
	    TEST(the_largest_span_comes_back),
	    TEST(codings_have_names),
	    TEST(tables_save_what_each_frame_would_carry),
	    TEST(values_that_the_sample_lacks_still_come_back),
	    TEST(values_with_other_upper_bits_have_codes),
	    TEST(shared_frames_need_their_tables),
	    TEST(tables_of_other_streams_are_refused),
	    TEST(tables_are_not_built_where_they_do_not_pay),
	    TEST(tables_build_refuses_wrong_arguments),
	    TEST(tables_open_counts_its_memory),
	    TEST(tables_open_refuses_lengths_that_do_not_add_up),
	    TEST(tables_open_refuses_what_is_no_dictionary),
	    TEST(buckets_beat_one_tree),
	    TEST(buckets_take_any_constants),
	    TEST(buckets_that_lie_are_refused),
	    TEST(tables_open_refuses_buckets_that_do_not_fit),
	    TEST(marked_buckets_beat_one_tree),
	    TEST(marked_buckets_take_any_bytes),
	    TEST(streams_of_one_kind_are_not_marked),
	    TEST(estimates_without_tables_are_near),
	    TEST(bytes_without_a_code_meet_in_one_bucket),
	    TEST(marks_that_lie_are_refused),
	    TEST(tables_open_refuses_marked_buckets_that_do_not_fit),
	    TEST(estimates_tell_each_coding),
	    TEST(pruned_weights_are_mask_and_values),
	    TEST(a_negative_zero_is_a_value),
	    TEST(sparse_frames_that_lie_are_refused),
	    TEST(frames_of_any_other_length_are_refused),
	    TEST(flipped_bits_do_no_harm),
	    TEST(headers_that_lie_are_refused),
	    TEST(zstd_frames_must_decode_to_the_streams_size),
	    TEST(zstd_streams_are_one_frame_and_nothing_else),
	    TEST(coded_streams_must_be_smaller_than_raw_ones),
	    TEST(bombs_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
