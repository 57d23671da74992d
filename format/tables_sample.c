/* Building tables: what a sample says about its streams. */
#include "tables_build.h"

#include <stdlib.h>
#include <string.h>

#include "context.h"
#include "mfs_endian.h"
#include "modelfs_error.h"

/* Blocks of the sample's span that begins at block `first`. */
static uint32_t span_blocks_at(const mfs_sample *sample, uint32_t first)
{
	uint32_t left = sample->blocks - first;

	return left < sample->span_blocks ? left : sample->span_blocks;
}

uint32_t mfs_tree_bytes(const uint32_t histogram[256])
{
	uint32_t values = 0;

	for (int k = 0; k < 256; k++)
		values += histogram[k] > 0;
	return 3 + values * 5 / 16;
}

static uint64_t with_own_tree(const uint32_t histogram[256], size_t size)
{
	uint64_t coded =
	    MFS_FRAME_OVERHEAD + mfs_histogram_bound(histogram) + mfs_tree_bytes(histogram);

	return coded < size ? coded : size;
}

/* A tree for each part of a block's bytes. */
static uint64_t with_trees_for_parts(const uint8_t *in, const uint32_t part[], uint32_t count)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < count; in += part[i++]) {
		uint32_t own[256] = {0};

		mfs_histogram_add(own, in, part[i]);
		sum += with_own_tree(own, part[i]);
	}
	return sum;
}

/* A frame of its own has a tree for all of the stream, or several where the bytes
 * change on the way. */
static void count_stream(struct mfs_stream_counts *to, const uint8_t *bytes, size_t size)
{
	uint32_t histogram[256] = {0}, part[MFS_CUT_MAX];
	uint64_t whole, parts = 0;
	size_t n;

	for (size_t at = 0; at < size; at += n) {
		uint32_t block[256] = {0}, count;

		n = size - at < ZSTD_BLOCKSIZE_MAX ? size - at : ZSTD_BLOCKSIZE_MAX;
		count = mfs_blocks_cut(bytes + at, n, part, block);
		parts += count == 1 ? with_own_tree(block, n)
				    : with_trees_for_parts(bytes + at, part, count);
		for (int k = 0; k < 256; k++)
			histogram[k] += block[k];
	}
	whole = with_own_tree(histogram, size);
	to->alone += parts < whole ? parts : whole;
	for (int k = 0; k < 256; k++)
		to->histogram[k] += histogram[k];
}

/* Cuts the values into bins, each of which holds about as many of the `groups` groups
 * of `bytes` bytes. */
static void make_bins(struct mfs_values *to, uint32_t groups, uint32_t bytes)
{
	const uint64_t enough = (uint64_t)groups * bytes / MFS_BINS_MAX;
	uint32_t number[256] = {0};
	uint64_t in_bin = 0;

	mfs_histogram_add(number, to->value, groups);
	for (uint32_t value = 0; value < 256; value++) {
		if (to->bins == 0 ||
		    (in_bin >= enough && number[value] && to->bins < MFS_BINS_MAX)) {
			to->first[to->bins++] = (uint8_t)value;
			in_bin = 0;
		}
		to->bin[value] = (uint8_t)(to->bins - 1);
		in_bin += (uint64_t)number[value] * bytes;
	}
}

/* Values are found before symbols are counted: only bins of them need counters, which
 * stay in the processor's first cache. */
static int find_values(const struct mfs_counts *counts, struct mfs_values *to)
{
	const mfs_sample *sample = counts->sample;
	const mfs_layout *layout = sample->layout;
	const uint32_t groups = mfs_context_groups(layout);
	uint32_t blocks;

	to->value = to->next = malloc((size_t)sample->blocks * groups);
	if (!to->value)
		return MFS_E_MEMORY;
	for (uint32_t first = 0; first < sample->blocks; first += blocks) {
		blocks = span_blocks_at(sample, first);
		mfs_context_values(layout, blocks, to->window,
				   sample->bytes + (size_t)first * layout->block_bytes,
				   to->value + (size_t)first * groups);
	}
	make_bins(to, sample->blocks * groups, mfs_context_group_bytes(layout));
	return 0;
}

static void count_values(struct mfs_values *to, uint32_t groups, uint32_t bytes,
			 const uint8_t *symbols)
{
	for (uint32_t g = 0; g < groups; g++) {
		uint32_t *histogram = to->histogram[to->bin[to->next[g]]];

		uint32_t i = 0;

		for (; i + 4 <= bytes; i += 4) {
			uint32_t four = load_le32(symbols + i);

			histogram[four & 255]++;
			histogram[four >> 8 & 255]++;
			histogram[four >> 16 & 255]++;
			histogram[four >> 24]++;
		}
		for (; i < bytes; i++)
			histogram[symbols[i]]++;
		symbols += bytes;
	}
	to->next += groups;
}

static void keep_bytes(struct mfs_stream_counts *to, const uint8_t *bytes, size_t size)
{
	size -= size % MFS_GROUP_LARGEST;
	memcpy(to->bytes + to->size, bytes, size);
	to->size += size;
}

static void count_span(struct mfs_counts *counts, unsigned slot, uint32_t blocks,
		       const uint8_t *span)
{
	const mfs_layout *layout = counts->sample->layout;
	const uint8_t *split[MFS_STREAMS_MAX];
	uint32_t number = 0;

	mfs_encoder_split(counts->encoder, layout, blocks, span, split);
	for (uint32_t s = 0; s < layout->stream_count; s++) {
		if (layout->stream[s].slot != slot)
			continue;
		for (uint32_t w = 0; w < counts->windows && number == counts->symbols; w++)
			count_values(&counts->values[w], blocks * mfs_context_groups(layout),
				     mfs_context_group_bytes(layout), split[s]);
		count_stream(&counts->stream[number++], split[s],
			     (size_t)blocks * layout->stream[s].per_block);
		if (counts->stream[number - 1].bytes)
			keep_bytes(&counts->stream[number - 1], split[s],
				   (size_t)blocks * layout->stream[s].per_block);
	}
}

static void count_sample(struct mfs_counts *counts, unsigned slot)
{
	const mfs_sample *sample = counts->sample;
	uint32_t blocks;

	for (uint32_t first = 0; first < sample->blocks; first += blocks, counts->spans++) {
		blocks = span_blocks_at(sample, first);
		count_span(counts, slot, blocks,
			   sample->bytes + (size_t)first * sample->layout->block_bytes);
	}
}

/* The number of the stream of symbols among those of slot 0. */
static uint32_t symbols_number(const mfs_layout *layout, unsigned slot)
{
	uint32_t number = 0;

	if (slot != 0 || layout->context == MFS_CONTEXT_NONE)
		return UINT32_MAX;
	for (uint32_t s = 0; s < layout->symbols.stream; s++)
		number += layout->stream[s].slot == 0;
	return number;
}

static unsigned upper_step(const mfs_layout *layout, uint32_t stream)
{
	const mfs_field *field = &layout->field[layout->stream[stream].field];

	if (layout->symbols.weights && layout->symbols.stream == stream)
		return layout->symbols.pack == 2 ? 16 : 0;
	return field->transform == MFS_TRANSFORM_BYTES && field->bits >= 4 && field->bits < 8
		   ? 1u << field->bits
		   : 0;
}

/* What of a value that the sample lacks is likely enough to be given a code. */
static void set_steps(struct mfs_counts *counts, unsigned slot)
{
	const mfs_layout *layout = counts->sample->layout;
	uint32_t number = 0;

	for (uint32_t s = 0; s < layout->stream_count; s++)
		if (layout->stream[s].slot == slot)
			counts->stream[number++].upper_step = upper_step(layout, s);
}

/* Windows to compare: the whole span, and a row if there are several in a span. */
static int open_windows(struct mfs_counts *counts, const mfs_coding_rules *rules)
{
	const mfs_sample *sample = counts->sample;
	uint32_t row = rules->row_blocks;

	if (counts->symbols == UINT32_MAX || rules->refused >> MFS_CODING_BUCKETS & 1)
		return 0;
	counts->windows = 1;
	if (mfs_context_has_window(sample->layout) && row && row < sample->span_blocks &&
	    row <= UINT16_MAX)
		counts->values[counts->windows++].window = row;
	for (uint32_t w = 0; w < counts->windows; w++) {
		int err = find_values(counts, &counts->values[w]);

		if (err)
			return err;
	}
	return 0;
}

/* Memory for the streams that may have marked buckets. */
static int open_bytes(struct mfs_counts *counts, unsigned slot, const mfs_coding_rules *rules)
{
	const mfs_layout *layout = counts->sample->layout;
	uint32_t number = 0;

	if (rules->refused >> MFS_CODING_MARKED & 1)
		return 0;
	for (uint32_t s = 0; s < layout->stream_count; s++) {
		if (layout->stream[s].slot != slot)
			continue;
		if (mfs_marked_fits(layout, s)) {
			counts->stream[number].bytes =
			    malloc((size_t)counts->sample->blocks * layout->stream[s].per_block);
			if (!counts->stream[number].bytes)
				return MFS_E_MEMORY;
		}
		number++;
	}
	return 0;
}

void mfs_counts_free(struct mfs_counts *counts)
{
	if (!counts)
		return;
	for (uint32_t s = 0; s < MFS_STREAMS_MAX; s++)
		free(counts->stream[s].bytes);
	for (uint32_t w = 0; w < MFS_WINDOWS_MAX; w++)
		free(counts->values[w].value);
	free(counts);
}

int mfs_counts_make(struct mfs_counts **out, mfs_encoder *encoder, const mfs_sample *sample,
		    unsigned slot, const mfs_coding_rules *rules)
{
	struct mfs_counts *counts = calloc(1, sizeof(*counts));
	int err;

	if (!counts)
		return MFS_E_MEMORY;
	counts->encoder = encoder;
	counts->sample = sample;
	counts->symbols = symbols_number(sample->layout, slot);
	err = open_windows(counts, rules);
	if (!err)
		err = open_bytes(counts, slot, rules);
	if (err) {
		mfs_counts_free(counts);
		return err;
	}
	set_steps(counts, slot);
	count_sample(counts, slot);
	*out = counts;
	return 0;
}
