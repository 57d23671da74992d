#include "frame_private.h"

#include <stdlib.h>
#include <string.h>

#include "context.h"
#include "mfs_endian.h"
#include "modelfs_error.h"

#define WORD_BYTES  4 /* of each stream, before the parts */
#define LENGTH_BITS 28
#define LENGTH_MASK ((1u << LENGTH_BITS) - 1)

/* ---- dictionaries ----
 *
 * zstd takes a tree only inside a dictionary. The rest of it is always the same
 * and therefore not stored. */

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

static ZSTD_DDict *open_dictionary(const uint8_t *tree, size_t size)
{
	uint8_t bytes[DICTIONARY_MAX];

	store_le32(bytes, ZSTD_MAGIC_DICTIONARY);
	store_le32(bytes + 4, DICTIONARY_ID);
	memcpy(bytes + 8, tree, size);
	memcpy(bytes + 8 + size, dictionary_tail, sizeof(dictionary_tail));
	return ZSTD_createDDict_advanced(bytes, 8 + size + sizeof(dictionary_tail), ZSTD_dlm_byCopy,
					 ZSTD_dct_fullDict, ZSTD_defaultCMem);
}

/* ---- opening ---- */

/* Mean length of codes, in 1/256 bits, from which on one is looked up at a time. */
#define LONG_CODES (11 * 256 / 2)

/* What stands for the tree of a bucket whose symbols are noise. */
#define NO_TREE 0

/* A stream's part, read from its first byte to its last. */
struct part {
	const uint8_t *bytes;
	size_t left;
};

static int open_tree(mfs_tables *tables, struct mfs_shared *shared, struct part *part, int encode)
{
	uint32_t number = shared->count;
	mfs_codes codes;
	size_t size;

	if (shared->buckets && part->left && part->bytes[0] == NO_TREE) {
		if (encode)
			for (int k = 0; k < 256; k++)
				shared->encoding[number].code[k] = MFS_CODE_MISSING;
		shared->count++;
		part->bytes++;
		part->left--;
		return 0;
	}
	size = mfs_codes_read(&codes, part->bytes, part->left);
	if (size == 0)
		return MFS_E_CORRUPT;
	shared->decoding[number] = open_dictionary(part->bytes, size);
	if (!shared->decoding[number])
		return MFS_E_CORRUPT; /* or no memory: zstd does not tell */
	shared->count++;
	tables->memory += ZSTD_sizeof_DDict(shared->decoding[number]);
	if (mfs_codes_mean(&codes) > LONG_CODES) {
		shared->lookup[number] = malloc(sizeof(mfs_lookup));
		if (!shared->lookup[number])
			return MFS_E_MEMORY;
		mfs_lookup_make(shared->lookup[number], &codes);
		tables->memory += sizeof(mfs_lookup);
	}
	if (encode)
		shared->encoding[number] = codes;
	part->bytes += size;
	part->left -= size;
	return 0;
}

static int open_trees(mfs_tables *tables, struct mfs_shared *shared, uint32_t count,
		      struct part *part, int encode)
{
	if (encode) {
		shared->encoding = calloc(count, sizeof(*shared->encoding));
		if (!shared->encoding)
			return MFS_E_MEMORY;
		tables->memory += count * sizeof(*shared->encoding);
	}
	while (shared->count < count) {
		int err = open_tree(tables, shared, part, encode);

		if (err)
			return err;
	}
	return part->left ? MFS_E_CORRUPT : 0;
}

/* The header of a bucketed stream: bounds that grow from bucket to bucket. */
static int open_buckets(struct mfs_shared *shared, struct part *part)
{
	const struct mfs_disk_buckets *d = (const void *)part->bytes;
	const uint8_t *bound = part->bytes + sizeof(*d);
	uint32_t bucket = 0;

	if (part->left < sizeof(*d) || d->count < 2 || d->count > MFS_BUCKETS_MAX || d->reserved ||
	    part->left < sizeof(*d) + d->count - 1u)
		return MFS_E_CORRUPT;
	for (uint32_t b = 0; b + 1 < d->count; b++)
		if (bound[b] <= (b ? bound[b - 1] : 0))
			return MFS_E_CORRUPT;
	for (uint32_t value = 0; value < 256; value++) {
		while (bucket + 1 < d->count && value >= bound[bucket])
			bucket++;
		shared->bucket[value] = (uint8_t)bucket;
	}
	shared->buckets = d->count;
	shared->window = load_le16(&d->window);
	part->bytes += sizeof(*d) + d->count - 1u;
	part->left -= sizeof(*d) + d->count - 1u;
	return 0;
}

static int open_part(mfs_tables *tables, struct mfs_shared *shared, unsigned kind, struct part part,
		     int encode)
{
	if (kind == MFS_CODING_SHARED)
		return open_trees(tables, shared, 1, &part, encode);
	if (kind != MFS_CODING_BUCKETS || open_buckets(shared, &part))
		return MFS_E_CORRUPT;
	return open_trees(tables, shared, shared->buckets, &part, encode);
}

static int open_parts(mfs_tables *tables, const uint8_t *stored, size_t size, int encode)
{
	size_t at = (size_t)tables->streams * WORD_BYTES;

	for (uint32_t s = 0; s < tables->streams; s++) {
		uint32_t word = load_le32(stored + (size_t)s * WORD_BYTES);
		struct part part = {stored + at, word & LENGTH_MASK};
		int err;

		if (word == 0)
			continue;
		if (part.left > size - at)
			return MFS_E_CORRUPT;
		err = open_part(tables, &tables->shared[s], word >> LENGTH_BITS, part, encode);
		if (err)
			return err;
		at += word & LENGTH_MASK;
	}
	return at == size ? 0 : MFS_E_CORRUPT;
}

int mfs_tables_open(mfs_tables **out, const uint8_t *stored, size_t size, uint32_t streams,
		    int encode)
{
	size_t memory = sizeof(mfs_tables) + streams * sizeof(struct mfs_shared);
	mfs_tables *tables;
	int err;

	if (streams == 0 || streams > MFS_STREAMS_MAX)
		return MFS_E_ARGUMENT;
	if (size < (size_t)streams * WORD_BYTES || size > MFS_TABLES_MAX)
		return MFS_E_CORRUPT;
	tables = calloc(1, memory);
	if (!tables)
		return MFS_E_MEMORY;
	tables->streams = streams;
	tables->memory = memory;
	err = open_parts(tables, stored, size, encode);
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
		for (uint32_t t = 0; t < tables->shared[s].count; t++) {
			ZSTD_freeDDict(tables->shared[s].decoding[t]);
			free(tables->shared[s].lookup[t]);
		}
		free(tables->shared[s].encoding);
	}
	free(tables);
}

size_t mfs_tables_memory(const mfs_tables *tables)
{
	return tables->memory;
}

/* ---- building: the sample ---- */

/* One stream of one span of the sample. */
struct piece {
	const uint8_t *span; /* blocks as they are */
	const uint8_t *stream;
	uint32_t blocks;
	size_t size;
};

typedef void visit_piece(void *user, uint32_t number, const struct piece *piece);

/* Calls `visit` for each stream of the slot, of each span of the sample. Returns
 * the number of spans. */
static uint64_t visit_sample(mfs_encoder *encoder, const mfs_sample *sample, unsigned slot,
			     visit_piece *visit, void *user)
{
	const mfs_layout *layout = sample->layout;
	const uint8_t *split[MFS_STREAMS_MAX];
	struct piece piece = {0};
	uint64_t spans = 0;

	for (uint32_t first = 0; first < sample->blocks; first += piece.blocks, spans++) {
		uint32_t number = 0;

		piece.span = sample->bytes + (size_t)first * layout->block_bytes;
		piece.blocks = sample->blocks - first;
		if (piece.blocks > sample->span_blocks)
			piece.blocks = sample->span_blocks;
		mfs_encoder_split(encoder, layout, piece.blocks, piece.span, split);
		for (uint32_t s = 0; s < layout->stream_count; s++) {
			if (layout->stream[s].slot != slot)
				continue;
			piece.stream = split[s];
			piece.size = (size_t)piece.blocks * layout->stream[s].per_block;
			visit(user, number++, &piece);
		}
	}
	return spans;
}

/* ---- building: buckets ----
 *
 * Values of the context are cut into bins of about equal size; then the two
 * neighbours that lose least by sharing a tree are merged, again and again, and
 * the best of the numbers of buckets on the way is taken. */

#define BINS_MAX       24
#define FRAME_OVERHEAD 24 /* bytes of a bucket's zstd frame that are no literals */
#define TREE_BYTES     80 /* about */

struct bin {
	uint32_t first; /* value of the context */
	uint64_t cost;	/* bits << MFS_LOG_BITS */
	uint32_t histogram[256];
};

struct bucketing {
	uint32_t window;
	uint32_t bins;
	uint64_t bits; /* that the sample would take */
	struct bin bin[BINS_MAX];
};

static uint64_t histogram_cost(const uint32_t histogram[256])
{
	uint64_t cost = 0;
	uint32_t total = 0;

	for (int k = 0; k < 256; k++) {
		total += histogram[k];
		if (histogram[k])
			cost -= (uint64_t)histogram[k] * mfs_log2_fixed(histogram[k]);
	}
	return total ? cost + (uint64_t)total * mfs_log2_fixed(total) : 0;
}

/* What a sample says about each value of the context. */
struct values {
	mfs_encoder *encoder;
	const mfs_layout *layout;
	uint32_t number; /* of the stream of symbols in its slot */
	uint32_t window;
	uint64_t total; /* bytes */
	uint32_t (*histogram)[256];
};

static void add_values(void *user, uint32_t number, const struct piece *piece)
{
	struct values *values = user;
	uint32_t bytes = mfs_context_group_bytes(values->layout);
	uint8_t *value = values->encoder->buckets;

	if (number != values->number)
		return;
	mfs_context_values(values->layout, piece->blocks, values->window, piece->span, value);
	for (size_t i = 0; i < piece->size; i++)
		values->histogram[value[i / bytes]][piece->stream[i]]++;
	values->total += piece->size;
}

static void make_bins(const struct values *values, struct bucketing *out)
{
	struct bin *bin = out->bin - 1;
	uint64_t in_bin = 0;

	memset(out->bin, 0, sizeof(out->bin));
	out->bins = 0;
	for (uint32_t value = 0; value < 256; value++) {
		uint64_t total = 0;

		for (int k = 0; k < 256; k++)
			total += values->histogram[value][k];
		if (out->bins == 0 ||
		    (in_bin >= values->total / BINS_MAX && total && out->bins < BINS_MAX)) {
			bin++;
			bin->first = value;
			out->bins++;
			in_bin = 0;
		}
		for (int k = 0; k < 256; k++)
			bin->histogram[k] += values->histogram[value][k];
		in_bin += total;
	}
	for (uint32_t b = 0; b < out->bins; b++)
		out->bin[b].cost = histogram_cost(out->bin[b].histogram);
}

static uint64_t merged_cost(const struct bin *a, const struct bin *b)
{
	uint32_t sum[256];

	for (int k = 0; k < 256; k++)
		sum[k] = a->histogram[k] + b->histogram[k];
	return histogram_cost(sum);
}

/* Merges the neighbours that lose least. */
static void merge_two(struct bucketing *at)
{
	uint64_t least = UINT64_MAX;
	uint32_t best = 0;

	for (uint32_t b = 0; b + 1 < at->bins; b++) {
		uint64_t loss = merged_cost(&at->bin[b], &at->bin[b + 1]) - at->bin[b].cost -
				at->bin[b + 1].cost;

		if (loss < least) {
			least = loss;
			best = b;
		}
	}
	at->bin[best].cost += at->bin[best + 1].cost + least;
	for (int k = 0; k < 256; k++)
		at->bin[best].histogram[k] += at->bin[best + 1].histogram[k];
	at->bins--;
	memmove(&at->bin[best + 1], &at->bin[best + 2], (at->bins - best - 1) * sizeof(at->bin[0]));
}

static uint64_t bins_bits(const struct bucketing *at)
{
	uint64_t bits = 0;

	for (uint32_t b = 0; b < at->bins; b++)
		bits += at->bin[b].cost >> MFS_LOG_BITS;
	return bits;
}

/* Leaves in `at` the bins that make the smallest sample; trees count for what
 * `spans` spans of `frames` frames would carry of them. */
static void merge_bins(struct bucketing *at, struct bucketing *best, uint64_t spans,
		       uint64_t frames)
{
	uint64_t least = UINT64_MAX;

	for (; at->bins >= 2; merge_two(at)) {
		uint64_t each = 8 * (FRAME_OVERHEAD * spans + TREE_BYTES * spans / frames);
		uint64_t bits = bins_bits(at) + at->bins * each;

		if (at->bins <= MFS_BUCKETS_MAX && bits < least) {
			least = bits;
			*best = *at;
			best->bits = bits;
		}
	}
}

/* Finds the best buckets with windows of `window` blocks, if better than *best. */
static void try_window(mfs_encoder *encoder, const mfs_sample *sample, struct values *values,
		       uint32_t window, struct bucketing scratch[2], struct bucketing *best)
{
	uint64_t spans;

	memset(values->histogram, 0, 256 * sizeof(*values->histogram));
	values->total = 0;
	values->window = window;
	spans = visit_sample(encoder, sample, 0, add_values, values);
	make_bins(values, &scratch[0]);
	if (scratch[0].bins < 2)
		return;
	scratch[1].bits = UINT64_MAX;
	merge_bins(&scratch[0], &scratch[1], spans, sample->frames);
	scratch[1].window = window;
	if (scratch[1].bits < best->bits)
		*best = scratch[1];
}

/* ---- building: candidates ---- */

#define PART_MAX                                                                                   \
	(sizeof(struct mfs_disk_buckets) + MFS_BUCKETS_MAX + MFS_BUCKETS_MAX * MFS_TREE_MAX)

/* What a stream's part of the tables may be. */
struct candidate {
	size_t size; /* 0: none */
	unsigned kind;
	uint64_t stored; /* what the sample comes to with it */
	uint8_t bytes[PART_MAX];
	mfs_tables *opened; /* with this part for one stream alone */
};

struct stream_candidates {
	uint64_t alone; /* what the sample comes to without tables */
	struct candidate shared, buckets;
};

struct builder {
	mfs_encoder *encoder;
	const mfs_sample *sample;
	uint32_t symbols; /* number of the stream of symbols in the slot */
	struct stream_candidates *stream;
};

static void add_histogram(void *user, uint32_t number, const struct piece *piece)
{
	struct builder *builder = user;

	mfs_histogram_add(builder->encoder->histogram[number], piece->stream, piece->size);
}

/* Other frames may hold values that the sample lacks. Those next to values that
 * occur, above, below or in the other weight of a byte, are given a code: it takes
 * little from the rest, and a frame whose values all have codes needs no tree. */
static void add_plausible(uint32_t histogram[256], unsigned half)
{
	uint32_t seen[256];

	memcpy(seen, histogram, sizeof(seen));
	for (unsigned k = 0; k < 256; k++) {
		unsigned neighbours = 0;

		neighbours += k > 0 && seen[k - 1];
		neighbours += k < 255 && seen[k + 1];
		neighbours += half && k >= half && seen[k - half];
		neighbours += half && k + half < 256 && seen[k + half];
		if (!seen[k] && neighbours)
			histogram[k] = 1;
	}
}

/* Opens a candidate as tables of one stream. */
static void open_candidate(struct candidate *candidate)
{
	uint8_t stored[WORD_BYTES + PART_MAX];

	if (!candidate->size)
		return;
	store_le32(stored, candidate->kind << LENGTH_BITS | (uint32_t)candidate->size);
	memcpy(stored + WORD_BYTES, candidate->bytes, candidate->size);
	if (mfs_tables_open(&candidate->opened, stored, WORD_BYTES + candidate->size, 1, 1))
		candidate->size = 0;
}

static void make_buckets(mfs_encoder *encoder, struct bucketing *from, unsigned half,
			 struct candidate *out)
{
	struct mfs_disk_buckets *d = (void *)out->bytes;
	size_t at = sizeof(*d);

	d->count = (uint8_t)from->bins;
	d->reserved = 0;
	store_le16(&d->window, (uint16_t)from->window);
	for (uint32_t b = 1; b < from->bins; b++)
		out->bytes[at++] = (uint8_t)from->bin[b].first;
	for (uint32_t b = 0; b < from->bins; b++) {
		size_t tree;

		add_plausible(from->bin[b].histogram, half);
		tree = mfs_literals_tree(encoder, from->bin[b].histogram, out->bytes + at);
		if (tree == 0) {
			out->bytes[at] = NO_TREE;
			tree = 1;
		}
		at += tree;
	}
	out->kind = MFS_CODING_BUCKETS;
	out->size = at;
}

/* Windows to compare: the whole span, and a row if there are several in a span. */
static int build_buckets(struct builder *builder, uint32_t row_blocks, struct candidate *out)
{
	struct bucketing *work = calloc(3, sizeof(*work));
	struct values values = {.encoder = builder->encoder,
				.layout = builder->sample->layout,
				.number = builder->symbols,
				.histogram = calloc(256, sizeof(*values.histogram))};
	int err = work && values.histogram ? 0 : MFS_E_MEMORY;

	if (!err) {
		work[2].bits = UINT64_MAX;
		try_window(builder->encoder, builder->sample, &values, 0, work, &work[2]);
		if (mfs_context_has_window(values.layout) && row_blocks &&
		    row_blocks < builder->sample->span_blocks && row_blocks <= UINT16_MAX)
			try_window(builder->encoder, builder->sample, &values, row_blocks, work,
				   &work[2]);
		if (work[2].bits != UINT64_MAX)
			make_buckets(builder->encoder, &work[2],
				     values.layout->symbols.pack == 2 ? 16 : 0, out);
	}
	free(work);
	free(values.histogram);
	return err;
}

/* True if the frames will be packed: a tree would not serve them. */
static int packs(const uint32_t histogram[256], const mfs_coding_rules *rules)
{
	struct mfs_packed plan;
	size_t size = 0, packed;

	for (int k = 0; k < 256; k++)
		size += histogram[k];
	packed = mfs_packed_plan(&plan, histogram, size);
	return packed && !(rules->refused >> MFS_CODING_PACKED & 1) &&
	       packed <= mfs_packed_enough(mfs_histogram_bound(histogram));
}

static int make_candidates(struct builder *builder, unsigned slot, const mfs_coding_rules *rules)
{
	const mfs_layout *layout = builder->sample->layout;
	mfs_encoder *encoder = builder->encoder;
	int err = 0;

	memset(encoder->histogram, 0, sizeof(encoder->histogram));
	visit_sample(encoder, builder->sample, slot, add_histogram, builder);
	for (uint32_t s = 0; s < layout->slot_streams[slot]; s++) {
		struct candidate *shared = &builder->stream[s].shared;

		if (rules->refused >> MFS_CODING_SHARED & 1)
			break;
		if (packs(encoder->histogram[s], rules))
			continue;
		shared->kind = MFS_CODING_SHARED;
		add_plausible(encoder->histogram[s], 0);
		shared->size = mfs_literals_tree(encoder, encoder->histogram[s], shared->bytes);
		open_candidate(shared);
	}
	if (builder->symbols != UINT32_MAX && !(rules->refused >> MFS_CODING_BUCKETS & 1)) {
		struct candidate *buckets = &builder->stream[builder->symbols].buckets;

		err = build_buckets(builder, rules->row_blocks, buckets);
		open_candidate(buckets);
	}
	return err;
}

static size_t smaller(size_t coded, size_t raw)
{
	return coded && coded < raw ? coded : raw;
}

static size_t bucketed_size(const struct builder *builder, const struct mfs_shared *shared,
			    const struct piece *piece)
{
	mfs_encoder *encoder = builder->encoder;
	struct mfs_groups groups = {.bucket = encoder->buckets};

	mfs_groups_find(&groups, builder->sample->layout, piece->blocks, piece->span, shared);
	mfs_groups_sort(&groups, piece->stream, encoder->sorted);
	return mfs_buckets_encode(encoder, shared, &groups, encoder->coded);
}

static void compare_sizes(void *user, uint32_t number, const struct piece *piece)
{
	struct builder *builder = user;
	mfs_encoder *encoder = builder->encoder;
	struct stream_candidates *stream = &builder->stream[number];
	size_t raw = piece->size;

	if (!stream->shared.size && !stream->buckets.size)
		return;
	stream->alone += smaller(
	    mfs_literals_encode(encoder->literals, piece->stream, piece->size, encoder->coded),
	    raw);
	if (stream->shared.size)
		stream->shared.stored +=
		    smaller(mfs_codes_encode(stream->shared.opened->shared[0].encoding,
					     piece->stream, piece->size, encoder->coded),
			    raw);
	if (stream->buckets.size)
		stream->buckets.stored +=
		    smaller(bucketed_size(builder, &stream->buckets.opened->shared[0], piece), raw);
}

/* What all frames save by a candidate, less its size, going by the `spans` frames
 * of the sample. */
static double saved(const struct stream_candidates *stream, const struct candidate *candidate,
		    uint64_t spans, uint64_t frames)
{
	if (!candidate->size || candidate->stored >= stream->alone)
		return 0;
	return (double)(stream->alone - candidate->stored) * (double)frames / (double)spans -
	       (double)candidate->size;
}

static const struct candidate *best_of(const struct stream_candidates *stream, uint64_t spans,
				       uint64_t frames)
{
	double shared = saved(stream, &stream->shared, spans, frames);
	double buckets = saved(stream, &stream->buckets, spans, frames);

	if (buckets > 0 && buckets >= shared)
		return &stream->buckets;
	return shared > 0 ? &stream->shared : NULL;
}

static int64_t store_tables(const struct builder *builder, uint32_t streams, uint64_t spans,
			    uint8_t *out, size_t capacity)
{
	size_t at = (size_t)streams * WORD_BYTES;
	int any = 0;

	if (capacity < at)
		return MFS_E_ARGUMENT;
	memset(out, 0, at);
	for (uint32_t s = 0; s < streams; s++) {
		const struct candidate *best =
		    best_of(&builder->stream[s], spans, builder->sample->frames);

		if (!best)
			continue;
		if (best->size > capacity - at)
			return MFS_E_ARGUMENT;
		store_le32(out + (size_t)s * WORD_BYTES,
			   best->kind << LENGTH_BITS | (uint32_t)best->size);
		memcpy(out + at, best->bytes, best->size);
		at += best->size;
		any = 1;
	}
	return any ? (int64_t)at : 0;
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

int64_t mfs_tables_build(mfs_encoder *encoder, const mfs_sample *sample, unsigned slot,
			 const mfs_coding_rules *rules, uint8_t *out, size_t capacity)
{
	struct builder builder = {.encoder = encoder, .sample = sample};
	uint32_t streams = slot < MFS_SLOTS ? sample->layout->slot_streams[slot] : 0;
	int64_t size;

	if (sample->blocks == 0 || sample->span_blocks == 0 || sample->frames == 0 ||
	    slot >= MFS_SLOTS ||
	    sample->span_blocks > encoder->max_span / sample->layout->block_bytes)
		return MFS_E_ARGUMENT;
	if (streams == 0)
		return 0;
	builder.symbols = symbols_number(sample->layout, slot);
	builder.stream = calloc(streams, sizeof(*builder.stream));
	if (!builder.stream)
		return MFS_E_MEMORY;
	size = make_candidates(&builder, slot, rules);
	if (!size) {
		uint64_t spans = visit_sample(encoder, sample, slot, compare_sizes, &builder);

		size = store_tables(&builder, streams, spans, out, capacity);
	}
	for (uint32_t s = 0; s < streams; s++) {
		mfs_tables_free(builder.stream[s].shared.opened);
		mfs_tables_free(builder.stream[s].buckets.opened);
	}
	free(builder.stream);
	return size;
}
