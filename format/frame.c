/* What encoding and decoding frames share. */
#include "frame_private.h"

const char *mfs_coding_name(unsigned coding)
{
	static const char *const name[MFS_CODINGS] = {
	    "raw", "zero", "zstd", "literals", "shared", "buckets", "sparse", "packed", "marked"};

	return coding < MFS_CODINGS ? name[coding] : "unknown";
}

size_t mfs_split_bound(size_t max_span)
{
	return mfs_stream_align(max_span + (size_t)MFS_STREAMS_MAX * MFS_STREAM_ALIGN);
}

size_t mfs_groups_bound(size_t max_span)
{
	return max_span / 4 + 1;
}

size_t mfs_coded_bound(size_t size)
{
	size_t codes = mfs_codes_bound(size) + (size_t)MFS_BUCKETS_MAX * 128;
	size_t zstd = ZSTD_compressBound(size);

	return codes > zstd ? codes : zstd;
}

int mfs_span_ok(const mfs_layout *layout, uint32_t blocks, size_t max_span)
{
	return blocks > 0 && blocks <= max_span / layout->block_bytes;
}

int mfs_layout_is_one_stream(const mfs_layout *layout)
{
	return layout->stream_count == 1 && layout->field[0].transform == MFS_TRANSFORM_BYTES;
}
