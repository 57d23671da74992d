#include "frame_private.h"

#include <string.h>

#include "mfs_endian.h"

#define BLOCK_BYTES ZSTD_BLOCKSIZE_MAX
/* A block may end behind each piece. */
#define PIECE_BYTES  (8u << 10)
#define BLOCK_PIECES (BLOCK_BYTES / PIECE_BYTES)
#define BLOCKS_MAX   (MFS_FRAME_MAX / PIECE_BYTES)

/* btultra2 keeps literals that gain 0.4 %, where lower strategies want 1.6 %.
 * Nothing searches for matches, so all search tables have their least size. */
#define WINDOW_LOG 17 /* a block is no larger than the window */

static const ZSTD_compressionParameters parameters = {
    .windowLog = WINDOW_LOG,
    .chainLog = ZSTD_CHAINLOG_MIN,
    .hashLog = ZSTD_HASHLOG_MIN,
    .searchLog = ZSTD_SEARCHLOG_MIN,
    .minMatch = ZSTD_MINMATCH_MAX,
    .targetLength = 0,
    .strategy = ZSTD_btultra2,
};

static int set_parameters(ZSTD_CCtx *context)
{
	const struct {
		ZSTD_cParameter name;
		int value;
	} list[] = {
	    {ZSTD_c_windowLog, (int)parameters.windowLog},
	    {ZSTD_c_chainLog, (int)parameters.chainLog},
	    {ZSTD_c_hashLog, (int)parameters.hashLog},
	    {ZSTD_c_searchLog, (int)parameters.searchLog},
	    {ZSTD_c_minMatch, (int)parameters.minMatch},
	    {ZSTD_c_strategy, (int)parameters.strategy},
	    {ZSTD_c_contentSizeFlag, 0}, /* the layout tells */
	    {ZSTD_c_dictIDFlag, 0},
	    {ZSTD_c_literalCompressionMode, ZSTD_ps_enable},
	    {ZSTD_c_blockDelimiters, ZSTD_sf_explicitBlockDelimiters},
	};

	for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++)
		if (ZSTD_isError(ZSTD_CCtx_setParameter(context, list[i].name, list[i].value)))
			return -1;
	return 0;
}

ZSTD_CCtx *mfs_literals_context(void)
{
	ZSTD_CCtx *context = ZSTD_createCCtx();

	if (context && set_parameters(context)) {
		ZSTD_freeCCtx(context);
		return NULL;
	}
	return context;
}

/* ---- where blocks end ----
 *
 * A tensor is not the same everywhere: rows may differ, or parts of a network have
 * been put together. Each block of a frame may have a tree of its own, so a block
 * ends where a tree for what follows saves more than it takes. */

#define BLOCK_COST (88u * 8 << MFS_LOG_BITS) /* of a tree and headers, about */
/* What the pieces seem to save together, as each of them fits its few bytes best. */
#define CHANCE_COST (40u * 8 << MFS_LOG_BITS)

/* Neighbouring pieces that share a block. */
struct part {
	unsigned bytes;
	uint64_t cost; /* bits << MFS_LOG_BITS */
	uint32_t histogram[256];
};

/* As mfs_log2_fixed(), but fast, with what that finds for the leading 8 bits. */
struct logs {
	uint16_t of[256];
};

static void logs_make(struct logs *logs)
{
	for (unsigned k = 0; k < 256; k++)
		logs->of[k] = (uint16_t)(mfs_log2_fixed(256 + k) - (8u << MFS_LOG_BITS));
}

static uint32_t log_of(const struct logs *logs, uint32_t v)
{
	uint32_t exponent = 31 - (uint32_t)__builtin_clz(v);

	return (exponent << MFS_LOG_BITS) + logs->of[(uint64_t)v << 8 >> exponent & 255];
}

/* Bits of two parts' bytes with one tree, << MFS_LOG_BITS; `b` may be NULL. */
static uint64_t cost_of(const struct logs *logs, const struct part *a, const struct part *b)
{
	uint32_t total = a->bytes + (b ? b->bytes : 0);
	uint64_t cost = (uint64_t)total * log_of(logs, total);

	for (int k = 0; k < 256; k++) {
		uint32_t n = a->histogram[k] + (b ? b->histogram[k] : 0);

		if (n)
			cost -= (uint64_t)n * log_of(logs, n);
	}
	return cost;
}

static void merge_next(struct part *parts, unsigned at, unsigned count, uint64_t cost)
{
	struct part *part = &parts[at];

	for (int k = 0; k < 256; k++)
		part->histogram[k] += part[1].histogram[k];
	part->bytes += part[1].bytes;
	part->cost = cost;
	memmove(part + 1, part + 2, (count - at - 2) * sizeof(*part));
}

/* Merges the neighbours that save most by it, until none do. Returns how many are
 * left. */
static unsigned merge_parts(const struct logs *logs, struct part *parts, unsigned count)
{
	uint64_t together[BLOCK_PIECES];

	for (unsigned i = 0; i + 1 < count; i++)
		together[i] = cost_of(logs, &parts[i], &parts[i + 1]);
	while (count > 1) {
		uint64_t least = BLOCK_COST;
		unsigned best = count;

		for (unsigned i = 0; i + 1 < count; i++) {
			uint64_t apart = parts[i].cost + parts[i + 1].cost;
			uint64_t loss = together[i] > apart ? together[i] - apart : 0;

			if (loss < least) {
				least = loss;
				best = i;
			}
		}
		if (best == count)
			break;
		merge_next(parts, best, count, together[best]);
		count--;
		memmove(together + best, together + best + 1, (count - best) * sizeof(*together));
		if (best > 0)
			together[best - 1] = cost_of(logs, &parts[best - 1], &parts[best]);
		if (best + 1 < count)
			together[best] = cost_of(logs, &parts[best], &parts[best + 1]);
	}
	return count;
}

/* Cuts at most BLOCK_BYTES into blocks; returns how many. */
static size_t cut_block(const uint8_t *in, size_t size, ZSTD_Sequence *block)
{
	struct part parts[BLOCK_PIECES], whole = {0};
	struct logs logs;
	unsigned count = 0;
	uint64_t apart = 0;

	logs_make(&logs);
	for (size_t at = 0; at < size; at += parts[count++].bytes) {
		struct part *part = &parts[count];

		memset(part, 0, sizeof(*part));
		part->bytes = (unsigned)(size - at < PIECE_BYTES ? size - at : PIECE_BYTES);
		mfs_histogram_add(part->histogram, in + at, part->bytes);
		part->cost = cost_of(&logs, part, NULL);
		apart += part->cost;
		whole.bytes += part->bytes;
		for (int k = 0; k < 256; k++)
			whole.histogram[k] += part->histogram[k];
	}
	block[0].litLength = (unsigned)size;
	if (count == 1 ||
	    cost_of(&logs, &whole, NULL) < apart + BLOCK_COST + (uint64_t)count * CHANCE_COST)
		return 1;
	count = merge_parts(&logs, parts, count);
	for (unsigned i = 0; i < count; i++)
		block[i].litLength = parts[i].bytes;
	return count;
}

/* A sequence without a match ends a block. */
static size_t encode_blocks(ZSTD_CCtx *context, const ZSTD_Sequence *block, size_t blocks,
			    const uint8_t *in, size_t size, uint8_t *out)
{
	size_t coded;

	ZSTD_CCtx_reset(context, ZSTD_reset_session_only);
	coded =
	    ZSTD_compressSequences(context, out, mfs_coded_bound(size), block, blocks, in, size);
	return ZSTD_isError(coded) ? 0 : coded;
}

size_t mfs_literals_encode(ZSTD_CCtx *context, const uint8_t *in, size_t size, uint8_t *out)
{
	ZSTD_Sequence block[BLOCKS_MAX] = {0};
	size_t blocks = 0;

	if (size == 0 || size > MFS_FRAME_MAX)
		return 0;
	for (size_t at = 0; at < size; at += BLOCK_BYTES)
		blocks += cut_block(in + at, size - at < BLOCK_BYTES ? size - at : BLOCK_BYTES,
				    block + blocks);
	return encode_blocks(context, block, blocks, in, size, out);
}

/* ---- histograms ---- */

/* Four counters a byte value: equal neighbours would wait for each other. */
void mfs_histogram_add(uint32_t histogram[256], const uint8_t *in, size_t size)
{
	uint32_t part[4][256] = {0};
	size_t i = 0;

	for (; i + 8 <= size; i += 8) {
		uint64_t v = load_le64(in + i);

		part[0][v & 255]++;
		part[1][v >> 8 & 255]++;
		part[2][v >> 16 & 255]++;
		part[3][v >> 24 & 255]++;
		part[0][v >> 32 & 255]++;
		part[1][v >> 40 & 255]++;
		part[2][v >> 48 & 255]++;
		part[3][v >> 56]++;
	}
	for (; i < size; i++)
		part[0][in[i]]++;
	for (int k = 0; k < 256; k++)
		histogram[k] += part[0][k] + part[1][k] + part[2][k] + part[3][k];
}

/* Integers only: what is worth coding must not depend on a C library's log2(). */
uint32_t mfs_log2_fixed(uint32_t v)
{
	uint32_t log = 31 - (uint32_t)__builtin_clz(v);
	uint64_t m = (uint64_t)v << (31 - log); /* 1.31 fixed point */

	for (int bit = 0; bit < MFS_LOG_BITS; bit++) {
		m = m * m >> 31;
		log <<= 1;
		if (m >> 32) {
			m >>= 1;
			log |= 1;
		}
	}
	return log;
}

size_t mfs_histogram_bound(const uint32_t histogram[256])
{
	uint64_t bits = 0;
	uint32_t total = 0;
	uint32_t log_total;

	for (int k = 0; k < 256; k++)
		total += histogram[k];
	if (total == 0)
		return 0;
	log_total = mfs_log2_fixed(total);
	for (int k = 0; k < 256; k++)
		if (histogram[k])
			bits += (uint64_t)histogram[k] * (log_total - mfs_log2_fixed(histogram[k]));
	return bits >> (MFS_LOG_BITS + 3);
}

/* ---- trees ---- */

/* Enough that eleven-bit codes come out right, and one block. */
#define TYPICAL_BYTES (MFS_TYPICAL_ROOM - 256)

/* Bytes in the histogram's proportions; each value that occurs does. */
static size_t typical_bytes(uint8_t *out, const uint32_t histogram[256])
{
	uint64_t total = 0;
	size_t size = 0;

	for (int k = 0; k < 256; k++)
		total += histogram[k];
	for (int k = 0; k < 256; k++) {
		uint64_t n = histogram[k] ? (uint64_t)histogram[k] * TYPICAL_BYTES / total : 0;

		if (n == 0 && histogram[k])
			n = 1;
		memset(out + size, k, n);
		size += n;
	}
	return size;
}

/* Where the tree of a frame's first block starts: behind the frame header (no
 * content size, no dictionary: 6 bytes), the block header and the header of
 * the literals. 0 if there is no tree. */
static size_t tree_offset(const uint8_t *frame, size_t size)
{
	static const uint8_t literals_header[4] = {3, 3, 4, 5};
	const uint8_t *block = frame + 6;

	if (size < 6 + 3 + 5 || frame[4] != 0)
		return 0;
	if ((block[0] >> 1 & 3) != 2 || (block[3] & 3) != 2)
		return 0;
	return 6 + 3 + literals_header[block[3] >> 2 & 3];
}

/* The first byte tells the size: below 128 it is that of the compressed code
 * lengths, else their number is the byte less 127, two to a byte. */
static size_t tree_size(uint8_t first)
{
	return 1 + (first < 128 ? first : (first - 127u + 1) / 2);
}

size_t mfs_literals_tree(mfs_encoder *encoder, const uint32_t histogram[256],
			 uint8_t tree[MFS_TREE_MAX])
{
	uint8_t *typical = encoder->split;
	size_t size = typical_bytes(typical, histogram);
	/* They are sorted: whole, or each part would fit its own values. */
	const ZSTD_Sequence block = {.litLength = (unsigned)size};
	size_t coded = encode_blocks(encoder->literals, &block, 1, typical, size, encoder->coded);
	size_t at = tree_offset(encoder->coded, coded);
	size_t length;

	if (at == 0)
		return 0;
	length = tree_size(encoder->coded[at]);
	if (length > MFS_TREE_MAX || length > coded - at)
		return 0;
	memcpy(tree, encoder->coded + at, length);
	return length;
}
