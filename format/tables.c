#include "frame_private.h"

#include <stdlib.h>
#include <string.h>

#include "mfs_endian.h"
#include "modelfs_error.h"

#define LENGTH_BYTES 4 /* of each stream, before the dictionaries */

/* ---- opening ---- */

static int open_dictionary(mfs_tables *tables, uint32_t stream, const uint8_t *stored, size_t size,
			   int encode)
{
	tables->decoding[stream] = ZSTD_createDDict_advanced(stored, size, ZSTD_dlm_byCopy,
							     ZSTD_dct_fullDict, ZSTD_defaultCMem);
	if (!tables->decoding[stream])
		return MFS_E_CORRUPT; /* or no memory: zstd does not tell */
	tables->memory += ZSTD_sizeof_DDict(tables->decoding[stream]);
	if (!encode)
		return 0;
	tables->encoding[stream] = mfs_literals_dictionary(stored, size);
	if (!tables->encoding[stream])
		return MFS_E_CORRUPT;
	tables->memory += ZSTD_sizeof_CDict(tables->encoding[stream]);
	return 0;
}

static int open_dictionaries(mfs_tables *tables, const uint8_t *stored, size_t size, int encode)
{
	size_t at = (size_t)tables->streams * LENGTH_BYTES;

	for (uint32_t s = 0; s < tables->streams; s++) {
		uint32_t length = load_le32(stored + (size_t)s * LENGTH_BYTES);
		int err;

		if (length > size - at)
			return MFS_E_CORRUPT;
		err = length ? open_dictionary(tables, s, stored + at, length, encode) : 0;
		if (err)
			return err;
		at += length;
	}
	return at == size ? 0 : MFS_E_CORRUPT;
}

int mfs_tables_open(mfs_tables **out, const uint8_t *stored, size_t size, uint32_t streams,
		    int encode)
{
	mfs_tables *tables;
	int err;

	if (streams == 0 || streams > MFS_STREAMS_MAX)
		return MFS_E_ARGUMENT;
	if (size < (size_t)streams * LENGTH_BYTES || size > MFS_TABLES_MAX)
		return MFS_E_CORRUPT;
	tables = calloc(1, sizeof(*tables));
	if (!tables)
		return MFS_E_MEMORY;
	tables->streams = streams;
	tables->memory = sizeof(*tables);
	err = open_dictionaries(tables, stored, size, encode);
	if (err) {
		mfs_tables_free(tables);
		return err;
	}
	*out = tables;
	return 0;
}

void mfs_tables_free(mfs_tables *tables)
{
	if (!tables)
		return;
	for (uint32_t s = 0; s < tables->streams; s++) {
		ZSTD_freeDDict(tables->decoding[s]);
		ZSTD_freeCDict(tables->encoding[s]);
	}
	free(tables);
}

size_t mfs_tables_memory(const mfs_tables *tables)
{
	return tables->memory;
}

/* ---- building ---- */

/* Not 0, and in the range that nobody needs to register. */
#define DICTIONARY_ID 32768u

/* What follows the Huffman tree in a standard dictionary. No frame of ours has
 * sequences, so the tables for offsets, match lengths and literal lengths are
 * the shortest there are (32 states: 31 for code 0 and 1 for code 1), the
 * offsets to repeat are zstd's first ones, and the content is the shortest that
 * these may point into. */
static const uint8_t dictionary_tail[] = {
    0xe0, 0x0f, 0xe0, 0x0f, 0xe0, 0x0f,			  /* three tables */
    1,	  0,	0,    0,    4,	  0,	0, 0, 8, 0, 0, 0, /* three offsets */
    0,	  0,	0,    0,    0,	  0,	0, 0,		  /* content */
};

#define DICTIONARY_MAX (8 + MFS_TREE_MAX + sizeof(dictionary_tail))

/* The dictionary that holds the tree of the histogram. Returns its size, or 0. */
static size_t make_dictionary(mfs_encoder *encoder, const uint32_t histogram[256],
			      uint8_t out[DICTIONARY_MAX])
{
	size_t tree = mfs_literals_tree(encoder, histogram, out + 8);

	if (tree == 0)
		return 0;
	store_le32(out, ZSTD_MAGIC_DICTIONARY);
	store_le32(out + 4, DICTIONARY_ID);
	memcpy(out + 8 + tree, dictionary_tail, sizeof(dictionary_tail));
	return 8 + tree + sizeof(dictionary_tail);
}

/* The sample, cut into spans as the tensor is. */
struct sample {
	mfs_encoder *encoder;
	const mfs_layout *layout;
	unsigned slot;
	const uint8_t *bytes;
	uint32_t blocks;
	uint32_t span_blocks;
};

/* Calls `visit` for each stream of the slot, of each span of the sample.
 * Returns the number of spans. */
typedef void visit_stream(void *user, mfs_encoder *encoder, uint32_t stream, const uint8_t *bytes,
			  size_t size);

static uint64_t visit_sample(const struct sample *sample, visit_stream *visit, void *user)
{
	const mfs_layout *layout = sample->layout;
	const uint8_t *split[MFS_STREAMS_MAX];
	uint64_t spans = 0;
	uint32_t blocks;

	for (uint32_t first = 0; first < sample->blocks; first += blocks, spans++) {
		uint32_t number = 0;

		blocks = sample->blocks - first;
		if (blocks > sample->span_blocks)
			blocks = sample->span_blocks;
		mfs_encoder_split(sample->encoder, layout, blocks,
				  sample->bytes + (size_t)first * layout->block_bytes, split);
		for (uint32_t s = 0; s < layout->stream_count; s++)
			if (layout->stream[s].slot == sample->slot)
				visit(user, sample->encoder, number++, split[s],
				      (size_t)blocks * layout->stream[s].per_block);
	}
	return spans;
}

struct candidate {
	size_t size; /* 0: none */
	uint8_t bytes[DICTIONARY_MAX];
	ZSTD_CDict *opened;
	uint64_t alone, shared; /* what the sample comes to without and with it */
};

static void add_histogram(void *user, mfs_encoder *encoder, uint32_t stream, const uint8_t *bytes,
			  size_t size)
{
	(void)user;
	mfs_histogram_add(encoder->histogram[stream], bytes, size);
}

/* What storing the stream takes, as coded or as it is. */
static size_t stored_size(mfs_encoder *encoder, const ZSTD_CDict *dictionary, const uint8_t *bytes,
			  size_t size)
{
	size_t coded =
	    mfs_literals_encode(encoder->literals, dictionary, bytes, size, encoder->coded);

	return coded && coded < size ? coded : size;
}

static void compare_sizes(void *user, mfs_encoder *encoder, uint32_t stream, const uint8_t *bytes,
			  size_t size)
{
	struct candidate *candidate = (struct candidate *)user + stream;

	if (!candidate->opened)
		return;
	candidate->alone += stored_size(encoder, NULL, bytes, size);
	candidate->shared += stored_size(encoder, candidate->opened, bytes, size);
}

static void make_candidates(const struct sample *sample, struct candidate candidate[])
{
	mfs_encoder *encoder = sample->encoder;

	memset(encoder->histogram, 0, sizeof(encoder->histogram));
	visit_sample(sample, add_histogram, NULL);
	for (uint32_t s = 0; s < sample->layout->slot_streams[sample->slot]; s++) {
		candidate[s].size =
		    make_dictionary(encoder, encoder->histogram[s], candidate[s].bytes);
		if (candidate[s].size)
			candidate[s].opened =
			    mfs_literals_dictionary(candidate[s].bytes, candidate[s].size);
	}
}

/* True if `frames` frames save more than the dictionary takes, going by the
 * `spans` frames of the sample. */
static int pays(const struct candidate *candidate, uint64_t spans, uint64_t frames)
{
	double saved;

	if (!candidate->opened || candidate->alone <= candidate->shared)
		return 0;
	saved = (double)(candidate->alone - candidate->shared) * (double)frames / (double)spans;
	return saved > (double)candidate->size;
}

static int64_t store_tables(const struct candidate candidate[], uint32_t streams, uint64_t spans,
			    uint64_t frames, uint8_t *out, size_t capacity)
{
	size_t at = (size_t)streams * LENGTH_BYTES;
	int any = 0;

	if (capacity < at)
		return MFS_E_ARGUMENT;
	for (uint32_t s = 0; s < streams; s++) {
		size_t size = pays(&candidate[s], spans, frames) ? candidate[s].size : 0;

		if (size > capacity - at)
			return MFS_E_ARGUMENT;
		store_le32(out + (size_t)s * LENGTH_BYTES, (uint32_t)size);
		memcpy(out + at, candidate[s].bytes, size);
		at += size;
		any = any || size;
	}
	return any ? (int64_t)at : 0;
}

int64_t mfs_tables_build(mfs_encoder *encoder, const mfs_layout *layout, unsigned slot,
			 uint32_t blocks, const uint8_t *sample, uint32_t span_blocks,
			 uint64_t frames, uint8_t *out, size_t capacity)
{
	const struct sample what = {encoder, layout, slot, sample, blocks, span_blocks};
	uint32_t streams = slot < MFS_SLOTS ? layout->slot_streams[slot] : 0;
	struct candidate *candidate;
	uint64_t spans;
	int64_t size;

	if (blocks == 0 || span_blocks == 0 || slot >= MFS_SLOTS ||
	    span_blocks > encoder->max_span / layout->block_bytes)
		return MFS_E_ARGUMENT;
	if (streams == 0)
		return 0;
	candidate = calloc(streams, sizeof(*candidate));
	if (!candidate)
		return MFS_E_MEMORY;
	make_candidates(&what, candidate);
	spans = visit_sample(&what, compare_sizes, candidate);
	size = store_tables(candidate, streams, spans, frames, out, capacity);
	for (uint32_t s = 0; s < streams; s++)
		ZSTD_freeCDict(candidate[s].opened);
	free(candidate);
	return size;
}
