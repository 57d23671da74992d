/* Coding: zstd frames with matches, and where these are worth looking for. */
#include <string.h>

#include "stream_encode.h"

size_t mfs_matches_encode(ZSTD_CCtx *context, int level, const uint8_t *in, size_t size,
			  uint8_t *out)
{
	size_t coded;

	ZSTD_CCtx_reset(context, ZSTD_reset_session_only);
	if (ZSTD_isError(ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, level)) ||
	    ZSTD_isError(ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0)))
		return 0;
	coded = ZSTD_compress2(context, out, mfs_coded_bound(size), in, size);
	return ZSTD_isError(coded) ? 0 : coded;
}

/* Rows that are compared with the one before, and bytes of each. */
#define ROWS_COMPARED 64
#define ROW_BYTES     32

int mfs_rows_repeat(const struct mfs_span *span)
{
	const uint8_t zeros[ROW_BYTES] = {0};
	size_t row_bytes = (size_t)span->rules->row_blocks * span->layout->block_bytes;
	size_t rows, step;

	if (row_bytes < ROW_BYTES)
		return 0;
	rows = (size_t)span->blocks * span->layout->block_bytes / row_bytes;
	step = rows / ROWS_COMPARED + 1;
	for (size_t i = 1; i < rows; i += step) {
		const uint8_t *row = span->in + i * row_bytes;

		if (!memcmp(row, row - row_bytes, ROW_BYTES) && memcmp(row, zeros, ROW_BYTES) != 0)
			return 1;
	}
	return 0;
}

/* Bytes of each stream that are searched, quickly: among weights nothing is found. */
#define SEARCHED     (16u << 10)
#define SEARCH_LEVEL 1
/* What matches have to save of what single bytes come to. */
#define SEARCH_GAIN 64

int mfs_sample_repeats(mfs_encoder *encoder, const mfs_sample *sample)
{
	const mfs_layout *layout = sample->layout;
	const uint32_t blocks =
	    sample->blocks < sample->span_blocks ? sample->blocks : sample->span_blocks;
	const uint8_t *stream[MFS_STREAMS_MAX];
	size_t bytes = 0, saved = 0;

	mfs_encoder_split(encoder, layout, blocks,
			  sample->bytes + (size_t)(sample->blocks - blocks) * layout->block_bytes,
			  stream);
	for (uint32_t s = 0; s < layout->stream_count; s++) {
		size_t size = (size_t)blocks * layout->stream[s].per_block, bound, coded;
		uint32_t histogram[256] = {0};

		if (size > SEARCHED)
			size = SEARCHED;
		mfs_histogram_add(histogram, stream[s], size);
		bound = mfs_histogram_bound(histogram);
		coded = mfs_matches_encode(encoder->matches, SEARCH_LEVEL, stream[s], size,
					   encoder->coded);
		bytes += bound;
		if (coded && coded < bound)
			saved += bound - coded;
	}
	return saved && saved >= bytes / SEARCH_GAIN;
}
