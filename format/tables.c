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

/* What stands for the tree of a bucket whose symbols are noise. */
#define NO_TREE 0

/* A stream's part, read from its first byte to its last. */
struct part {
	const uint8_t *bytes;
	size_t left;
};

/* What decoding wants of a tree, which is `size` bytes. */
static int open_decoding(mfs_tables *tables, struct mfs_shared *shared, uint32_t number,
			 const mfs_codes *codes, const uint8_t *tree, size_t size)
{
	shared->decoding[number] = open_dictionary(tree, size);
	if (!shared->decoding[number])
		return MFS_E_CORRUPT; /* or no memory: zstd does not tell */
	tables->memory += ZSTD_sizeof_DDict(shared->decoding[number]);
	if (mfs_codes_mean(codes) <= MFS_LONG_CODES)
		return 0;
	shared->lookup[number] = malloc(sizeof(mfs_lookup));
	if (!shared->lookup[number])
		return MFS_E_MEMORY;
	mfs_lookup_make(shared->lookup[number], codes);
	tables->memory += sizeof(mfs_lookup);
	return 0;
}

static int open_tree(mfs_tables *tables, struct mfs_shared *shared, struct part *part,
		     enum mfs_tables_use use)
{
	uint32_t number = shared->count;
	mfs_codes codes;
	size_t size;

	if (shared->buckets && part->left && part->bytes[0] == NO_TREE) {
		if (use != MFS_TABLES_DECODE)
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
	shared->count++;
	if (use != MFS_TABLES_DECODE)
		shared->encoding[number] = codes;
	if (use != MFS_TABLES_ENCODE) {
		int err = open_decoding(tables, shared, number, &codes, part->bytes, size);

		if (err)
			return err;
	}
	part->bytes += size;
	part->left -= size;
	return 0;
}

static int open_trees(mfs_tables *tables, struct mfs_shared *shared, uint32_t count,
		      struct part *part, enum mfs_tables_use use)
{
	if (use != MFS_TABLES_DECODE) {
		shared->encoding = calloc(count, sizeof(*shared->encoding));
		if (!shared->encoding)
			return MFS_E_MEMORY;
		tables->memory += count * sizeof(*shared->encoding);
	}
	while (shared->count < count) {
		int err = open_tree(tables, shared, part, use);

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

/* The header of a stream whose buckets are marked. */
static int open_marked(struct mfs_shared *shared, struct part *part)
{
	const struct mfs_disk_marked *d = (const void *)part->bytes;

	if (part->left < sizeof(*d) || d->count < 2 || d->count > MFS_BUCKETS_MAX ||
	    d->group < MFS_GROUP_MIN || d->group > MFS_GROUP_MAX || load_le16(&d->reserved))
		return MFS_E_CORRUPT;
	shared->buckets = d->count;
	shared->group = d->group;
	part->bytes += sizeof(*d);
	part->left -= sizeof(*d);
	return 0;
}

static int open_part(mfs_tables *tables, struct mfs_shared *shared, unsigned kind, struct part part,
		     enum mfs_tables_use use)
{
	if (kind == MFS_CODING_SHARED)
		return open_trees(tables, shared, 1, &part, use);
	if (kind == MFS_CODING_BUCKETS ? open_buckets(shared, &part)
				       : kind != MFS_CODING_MARKED || open_marked(shared, &part))
		return MFS_E_CORRUPT;
	return open_trees(tables, shared, shared->buckets, &part, use);
}

static int open_parts(mfs_tables *tables, const uint8_t *stored, size_t size,
		      enum mfs_tables_use use)
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
		err = open_part(tables, &tables->shared[s], word >> LENGTH_BITS, part, use);
		if (err)
			return err;
		at += word & LENGTH_MASK;
	}
	return at == size ? 0 : MFS_E_CORRUPT;
}

int mfs_tables_open(mfs_tables **out, const uint8_t *stored, size_t size, uint32_t streams,
		    enum mfs_tables_use use)
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
	err = open_parts(tables, stored, size, use);
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

int mfs_tables_have_marks(const uint8_t *stored, size_t size, uint32_t streams)
{
	for (uint32_t s = 0; s < streams && size / WORD_BYTES > s; s++)
		if (load_le32(stored + (size_t)s * WORD_BYTES) >> LENGTH_BITS == MFS_CODING_MARKED)
			return 1;
	return 0;
}

size_t mfs_tables_memory(const mfs_tables *tables)
{
	return tables->memory;
}

/* ---- building: the sample ----
 *
 * Nothing is coded to find out what it would come to: what a tree makes of bytes
 * follows from how often each value occurs. To choose, the entropy will do, as whole
 * bits add about as much to every choice; trees are made for what is chosen. */

/* Stored bytes of a stream's frame that are neither codes nor tree: headers, and
 * what the ends of four streams leave of their bytes. */
#define FRAME_OVERHEAD 24

#define WINDOWS_MAX 2 /* of contexts, that are compared */

/* Neighbouring values of a context, in bins of about equal size. */
#define BINS_MAX 24

/* The symbols of the sample by the value of their context. */
struct values {
	uint32_t window; /* blocks */
	uint8_t *value;	 /* of each group of the sample */
	uint8_t *next;	 /* of the groups to be counted next */
	uint32_t bins;
	uint8_t bin[256];	 /* of each value */
	uint8_t first[BINS_MAX]; /* value of each bin */
	uint32_t histogram[BINS_MAX][256];
};

/* What the sample says about one stream. */
struct stream_counts {
	uint32_t histogram[256];
	uint64_t alone; /* bytes that come of them if each frame has a tree of its own */
	/* The bytes, where buckets may be marked, but for those of each span that fill no
	 * group; else NULL. */
	uint8_t *bytes;
	size_t size;
};

struct counts {
	mfs_encoder *encoder;
	const mfs_sample *sample;
	uint32_t symbols; /* number of the stream of symbols in its slot */
	uint64_t spans;
	uint32_t windows;
	struct values values[WINDOWS_MAX];
	struct stream_counts stream[MFS_STREAMS_MAX];
};

/* Blocks of the sample's span that begins at block `first`. */
static uint32_t span_blocks_at(const mfs_sample *sample, uint32_t first)
{
	uint32_t left = sample->blocks - first;

	return left < sample->span_blocks ? left : sample->span_blocks;
}

/* No larger groups are tried. */
#define GROUP_LARGEST 128

/* One tree for all must save more than a share like this: so exact are estimates. */
#define ESTIMATE_ERROR 3072

/* Bytes that a tree takes for so many values, about. */
static uint32_t tree_bytes(const uint32_t histogram[256])
{
	uint32_t values = 0;

	for (int k = 0; k < 256; k++)
		values += histogram[k] > 0;
	return 3 + values * 5 / 16;
}

static uint64_t with_own_tree(const uint32_t histogram[256], size_t size)
{
	uint64_t coded = FRAME_OVERHEAD + mfs_histogram_bound(histogram) + tree_bytes(histogram);

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
static void count_stream(struct stream_counts *to, const uint8_t *bytes, size_t size)
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
static void make_bins(struct values *to, uint32_t groups, uint32_t bytes)
{
	const uint64_t enough = (uint64_t)groups * bytes / BINS_MAX;
	uint32_t number[256] = {0};
	uint64_t in_bin = 0;

	mfs_histogram_add(number, to->value, groups);
	for (uint32_t value = 0; value < 256; value++) {
		if (to->bins == 0 || (in_bin >= enough && number[value] && to->bins < BINS_MAX)) {
			to->first[to->bins++] = (uint8_t)value;
			in_bin = 0;
		}
		to->bin[value] = (uint8_t)(to->bins - 1);
		in_bin += (uint64_t)number[value] * bytes;
	}
}

/* Values are found before symbols are counted: only bins of them need counters, which
 * stay in the processor's first cache. */
static int find_values(const struct counts *counts, struct values *to)
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

static void count_values(struct values *to, uint32_t groups, uint32_t bytes, const uint8_t *symbols)
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

static void keep_bytes(struct stream_counts *to, const uint8_t *bytes, size_t size)
{
	size -= size % GROUP_LARGEST;
	memcpy(to->bytes + to->size, bytes, size);
	to->size += size;
}

static void count_span(struct counts *counts, unsigned slot, uint32_t blocks, const uint8_t *span)
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

static void count_sample(struct counts *counts, unsigned slot)
{
	const mfs_sample *sample = counts->sample;
	uint32_t blocks;

	for (uint32_t first = 0; first < sample->blocks; first += blocks, counts->spans++) {
		blocks = span_blocks_at(sample, first);
		count_span(counts, slot, blocks,
			   sample->bytes + (size_t)first * sample->layout->block_bytes);
	}
}

/* ---- building: buckets ----
 *
 * Of the bins the two neighbours that lose least by sharing a tree are merged, again
 * and again, and the best of the numbers of buckets on the way is taken. */

#define TREE_BYTES 80 /* about */

struct bin {
	uint32_t first; /* value of the context */
	uint64_t cost;	/* bits << MFS_LOG_BITS */
	uint64_t loss;	/* of sharing a tree with the next bin */
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
			cost += (uint64_t)histogram[k] * mfs_log2_fixed(histogram[k]);
	}
	return total ? (uint64_t)total * mfs_log2_fixed(total) - cost : 0;
}

static void find_loss(struct bin *bin)
{
	uint64_t apart = bin[0].cost + bin[1].cost, together;
	uint32_t sum[256];

	for (int k = 0; k < 256; k++)
		sum[k] = bin[0].histogram[k] + bin[1].histogram[k];
	together = histogram_cost(sum);
	/* Logarithms are rounded. */
	bin->loss = together > apart ? together - apart : 0;
}

static void copy_bins(const struct values *values, struct bucketing *out)
{
	out->window = values->window;
	out->bins = values->bins;
	for (uint32_t b = 0; b < out->bins; b++) {
		out->bin[b].first = values->first[b];
		memcpy(out->bin[b].histogram, values->histogram[b], sizeof(values->histogram[b]));
		out->bin[b].cost = histogram_cost(values->histogram[b]);
	}
	for (uint32_t b = 0; b + 1 < out->bins; b++)
		find_loss(&out->bin[b]);
}

/* Merges the neighbours that lose least. */
static void merge_two(struct bucketing *at)
{
	struct bin *bin = at->bin;
	uint32_t best = 0;

	for (uint32_t b = 1; b + 1 < at->bins; b++)
		if (bin[b].loss < bin[best].loss)
			best = b;
	bin[best].cost += bin[best + 1].cost + bin[best].loss;
	for (int k = 0; k < 256; k++)
		bin[best].histogram[k] += bin[best + 1].histogram[k];
	at->bins--;
	memmove(&bin[best + 1], &bin[best + 2], (at->bins - best - 1) * sizeof(*bin));
	if (best > 0)
		find_loss(&bin[best - 1]);
	if (best + 1 < at->bins)
		find_loss(&bin[best]);
}

static uint64_t bins_bits(const struct bucketing *at)
{
	uint64_t bits = 0;

	for (uint32_t b = 0; b < at->bins; b++)
		bits += at->bin[b].cost >> MFS_LOG_BITS;
	return bits;
}

/* Leaves in `best` the bins that make the smallest sample, if smaller than what
 * is there; trees count for what `spans` spans of `frames` frames would carry of
 * them. */
static void merge_bins(struct bucketing *at, struct bucketing *best, uint64_t spans,
		       uint64_t frames)
{
	for (; at->bins >= 2; merge_two(at)) {
		uint64_t each = 8 * (FRAME_OVERHEAD * spans + TREE_BYTES * spans / frames);

		at->bits = bins_bits(at) + at->bins * each;
		if (at->bins <= MFS_BUCKETS_MAX && at->bits < best->bits)
			*best = *at;
	}
}

/* ---- building: candidates ---- */

#define PART_MAX                                                                                   \
	(sizeof(struct mfs_disk_buckets) + MFS_BUCKETS_MAX + MFS_BUCKETS_MAX * MFS_TREE_MAX)

/* A stream's part of the tables. */
struct stream_part {
	size_t size; /* 0: none */
	unsigned kind;
	uint8_t bytes[PART_MAX];
};

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

/* Writes the best tree; returns its size, or 0 if there is none. */
static size_t make_tree(const uint32_t histogram[256], uint8_t *out)
{
	mfs_tree tree;

	if (!mfs_tree_make(&tree, histogram))
		return 0;
	memcpy(out, tree.bytes, tree.size);
	return tree.size;
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

/* What all frames save by a part of `size` bytes with which the sample comes to
 * `stored`, less that size, going by the spans of the sample. */
static double saved(const struct counts *counts, const struct stream_counts *stream,
		    uint64_t stored, uint64_t size)
{
	if (stored >= stream->alone)
		return 0;
	return (double)(stream->alone - stored) * (double)counts->sample->frames /
		   (double)counts->spans -
	       (double)size;
}

/* What one tree for all saves. The stream's counts become those that it is made of. */
static double saved_shared(const struct counts *counts, struct stream_counts *stream,
			   const mfs_coding_rules *rules)
{
	uint64_t stored;

	if (rules->refused >> MFS_CODING_SHARED & 1 || packs(stream->histogram, rules))
		return 0;
	stored = counts->spans * FRAME_OVERHEAD + mfs_histogram_bound(stream->histogram);
	stored += stored / ESTIMATE_ERROR;
	add_plausible(stream->histogram, 0);
	return saved(counts, stream, stored, tree_bytes(stream->histogram));
}

static void make_shared(const struct stream_counts *stream, struct stream_part *out)
{
	out->kind = MFS_CODING_SHARED;
	out->size = make_tree(stream->histogram, out->bytes);
}

/* The best buckets of all windows; returns what they save. */
static double find_buckets(const struct counts *counts, const struct stream_counts *stream,
			   struct bucketing work[2])
{
	uint64_t stored, size;

	work[1].bits = UINT64_MAX;
	for (uint32_t w = 0; w < counts->windows; w++) {
		copy_bins(&counts->values[w], &work[0]);
		merge_bins(&work[0], &work[1], counts->spans, counts->sample->frames);
	}
	if (work[1].bits == UINT64_MAX)
		return 0;
	stored = counts->spans * work[1].bins * FRAME_OVERHEAD + bins_bits(&work[1]) / 8;
	size = sizeof(struct mfs_disk_buckets) + work[1].bins * TREE_BYTES;
	return saved(counts, stream, stored, size);
}

/* The tree of a bucket, or what stands for none. */
static size_t put_tree(const uint32_t histogram[256], uint8_t *out)
{
	size_t size = make_tree(histogram, out);

	if (size)
		return size;
	*out = NO_TREE;
	return 1;
}

static void make_buckets(struct bucketing *from, unsigned half, struct stream_part *out)
{
	struct mfs_disk_buckets *d = (void *)out->bytes;
	size_t at = sizeof(*d);

	d->count = (uint8_t)from->bins;
	d->reserved = 0;
	store_le16(&d->window, (uint16_t)from->window);
	for (uint32_t b = 1; b < from->bins; b++)
		out->bytes[at++] = (uint8_t)from->bin[b].first;
	for (uint32_t b = 0; b < from->bins; b++) {
		add_plausible(from->bin[b].histogram, half);
		at += put_tree(from->bin[b].histogram, out->bytes + at);
	}
	out->kind = MFS_CODING_BUCKETS;
	out->size = at;
}

/* Of larger samples so many bytes are learned from. */
#define LEARNED_BYTES ((size_t)64 << 10)

/* The best marked buckets; returns what they save. */
static double find_marked(const struct counts *counts, const struct stream_counts *stream,
			  struct mfs_marked *out)
{
	const size_t most = counts->encoder->max_span * (MFS_MARKED_ROOM / 4);
	const size_t enough = most < LEARNED_BYTES ? most : LEARNED_BYTES;
	const size_t size = stream->size < enough ? stream->size : enough;
	uint64_t stored;

	if (!stream->bytes || size < GROUP_LARGEST ||
	    !mfs_marked_find(out, stream->bytes, size,
			     stream->size * counts->sample->frames / counts->spans,
			     counts->encoder->buckets))
		return 0;
	stored = out->bound * stream->size / size;
	stored += counts->spans * (out->buckets + 1) * FRAME_OVERHEAD;
	return saved(counts, stream, stored,
		     sizeof(struct mfs_disk_marked) + (uint64_t)out->buckets * MFS_MARKED_TREE);
}

static void make_marked(struct mfs_marked *from, struct stream_part *out)
{
	struct mfs_disk_marked *d = (void *)out->bytes;

	d->count = (uint8_t)from->buckets;
	d->group = (uint8_t)from->group;
	store_le16(&d->reserved, 0);
	out->size = sizeof(*d);
	for (uint32_t b = 0; b < from->buckets; b++) {
		add_plausible(from->histogram[b], 0);
		out->size += put_tree(from->histogram[b], out->bytes + out->size);
	}
	out->kind = MFS_CODING_MARKED;
}

/* Finds what pays for one stream: out->size is 0 if nothing does. */
static int choose_part(struct counts *counts, uint32_t number, const mfs_coding_rules *rules,
		       struct stream_part *out)
{
	struct stream_counts *stream = &counts->stream[number];
	double by_tree = saved_shared(counts, stream, rules), by_buckets = 0, by_marks;
	struct bucketing *work = NULL;
	struct mfs_marked marked;

	out->size = 0;
	if (number == counts->symbols && counts->windows) {
		work = calloc(2, sizeof(*work));
		if (!work)
			return MFS_E_MEMORY;
		by_buckets = find_buckets(counts, stream, work);
	}
	by_marks = find_marked(counts, stream, &marked);
	if (by_marks > 0 && by_marks > by_tree && by_marks > by_buckets)
		make_marked(&marked, out);
	else if (by_buckets > 0 && by_buckets >= by_tree)
		make_buckets(&work[1], counts->sample->layout->symbols.pack == 2 ? 16 : 0, out);
	else if (by_tree > 0)
		make_shared(stream, out);
	free(work);
	return 0;
}

static int64_t store_tables(struct counts *counts, uint32_t streams, const mfs_coding_rules *rules,
			    uint8_t *out, size_t capacity)
{
	size_t at = (size_t)streams * WORD_BYTES;
	struct stream_part best;
	int any = 0;

	if (capacity < at)
		return MFS_E_ARGUMENT;
	memset(out, 0, at);
	for (uint32_t s = 0; s < streams; s++) {
		int err = choose_part(counts, s, rules, &best);

		if (err)
			return err;
		if (best.size == 0)
			continue;
		if (best.size > capacity - at)
			return MFS_E_ARGUMENT;
		store_le32(out + (size_t)s * WORD_BYTES,
			   best.kind << LENGTH_BITS | (uint32_t)best.size);
		memcpy(out + at, best.bytes, best.size);
		at += best.size;
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

/* Windows to compare: the whole span, and a row if there are several in a span. */
static int open_windows(struct counts *counts, const mfs_coding_rules *rules)
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
static int open_bytes(struct counts *counts, unsigned slot, const mfs_coding_rules *rules)
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

static void free_counts(struct counts *counts)
{
	for (uint32_t s = 0; counts && s < MFS_STREAMS_MAX; s++)
		free(counts->stream[s].bytes);
	for (uint32_t w = 0; counts && w < WINDOWS_MAX; w++)
		free(counts->values[w].value);
	free(counts);
}

int64_t mfs_tables_build(mfs_encoder *encoder, const mfs_sample *sample, unsigned slot,
			 const mfs_coding_rules *rules, uint8_t *out, size_t capacity)
{
	uint32_t streams = slot < MFS_SLOTS ? sample->layout->slot_streams[slot] : 0;
	struct counts *counts;
	int64_t size;

	if (sample->blocks == 0 || sample->span_blocks == 0 || sample->frames == 0 ||
	    slot >= MFS_SLOTS ||
	    sample->span_blocks > encoder->max_span / sample->layout->block_bytes)
		return MFS_E_ARGUMENT;
	if (streams == 0)
		return 0;
	counts = calloc(1, sizeof(*counts));
	if (!counts)
		return MFS_E_MEMORY;
	counts->encoder = encoder;
	counts->sample = sample;
	counts->symbols = symbols_number(sample->layout, slot);
	size = open_windows(counts, rules);
	if (!size)
		size = open_bytes(counts, slot, rules);
	if (!size) {
		count_sample(counts, slot);
		size = store_tables(counts, streams, rules, out, capacity);
	}
	free_counts(counts);
	return size;
}
