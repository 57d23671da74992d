#include "frame_private.h"

#include <string.h>

#include "mfs_endian.h"

#define BLOCK_BYTES ZSTD_BLOCKSIZE_MAX
#define BLOCKS_MAX  (MFS_FRAME_MAX / BLOCK_BYTES * MFS_CUT_MAX)

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
	uint32_t part[MFS_CUT_MAX];
	size_t blocks = 0;

	if (size == 0 || size > MFS_FRAME_MAX)
		return 0;
	for (size_t at = 0; at < size; at += BLOCK_BYTES) {
		size_t left = size - at;
		uint32_t parts =
		    mfs_blocks_cut(in + at, left < BLOCK_BYTES ? left : BLOCK_BYTES, part);

		for (uint32_t i = 0; i < parts; i++)
			block[blocks++].litLength = part[i];
	}
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
