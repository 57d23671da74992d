#include "gguf_reader.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "../../format/check.h"
#include "../../format/mfs_endian.h"

/* Far above what models have; it bounds time for hostile files. */
#define HEADER_MAX (256u << 20)

int mfs_gguf_no_memory(mfs_gguf_reader *r)
{
	return gguf_refuse(r, MFS_E_MEMORY, UINT64_MAX, "out of memory");
}

/* May `length` more bytes of the header be read or skipped? */
static int reader_check(mfs_gguf_reader *r, uint64_t length)
{
	if (length > r->source->size - r->position)
		return gguf_refuse(r, MFS_E_TRUNCATED, r->position,
				   "the header goes %" PRIu64 " bytes past the end of the file",
				   length - (r->source->size - r->position));
	if (!range_ok(r->position, length, HEADER_MAX))
		return gguf_refuse(r, MFS_E_LIMIT, r->position, "the header is larger than %u MiB",
				   HEADER_MAX >> 20);
	return 0;
}

/* Puts the window over the reader's position. */
static int reader_fill(mfs_gguf_reader *r)
{
	uint64_t left = r->source->size - r->position;
	size_t length = left < MFS_GGUF_WINDOW ? (size_t)left : MFS_GGUF_WINDOW;
	int error = r->source->read_at(r->source, r->position, r->window, length);

	if (error) {
		r->window_size = 0;
		return gguf_refuse(r, error, r->position, "cannot be read: %s",
				   error == MFS_E_IO ? strerror(errno) : "the file became shorter");
	}
	r->window_start = r->position;
	r->window_size = length;
	return 0;
}

const uint8_t *mfs_gguf_get(mfs_gguf_reader *r, size_t length, int *error)
{
	uint64_t in_window = r->position - r->window_start;

	*error = reader_check(r, length);
	if (*error)
		return NULL;
	if (r->position < r->window_start || !range_ok(in_window, length, r->window_size)) {
		*error = reader_fill(r);
		if (*error)
			return NULL;
		in_window = 0;
	}
	r->position += length;
	return r->window + in_window;
}

int mfs_gguf_skip(mfs_gguf_reader *r, uint64_t length)
{
	int error = reader_check(r, length);

	if (!error)
		r->position += length;
	return error;
}

int mfs_gguf_get_u16(mfs_gguf_reader *r, uint16_t *out)
{
	int error;
	const uint8_t *p = mfs_gguf_get(r, 2, &error);

	*out = 0;
	if (!p)
		return error;
	*out = r->swap ? __builtin_bswap16(load_le16(p)) : load_le16(p);
	return 0;
}

int mfs_gguf_get_u32(mfs_gguf_reader *r, uint32_t *out)
{
	int error;
	const uint8_t *p = mfs_gguf_get(r, 4, &error);

	*out = 0;
	if (!p)
		return error;
	*out = r->swap ? __builtin_bswap32(load_le32(p)) : load_le32(p);
	return 0;
}

int mfs_gguf_get_u64(mfs_gguf_reader *r, uint64_t *out)
{
	int error;
	const uint8_t *p = mfs_gguf_get(r, 8, &error);

	*out = 0;
	if (!p)
		return error;
	*out = r->swap ? __builtin_bswap64(load_le64(p)) : load_le64(p);
	return 0;
}

int mfs_gguf_get_name(mfs_gguf_reader *r, mfs_import *keeper, const char *what, uint32_t max,
		      mfs_import_name *out)
{
	uint64_t length;
	const uint8_t *bytes;
	char *copy;
	int error;

	out->offset = r->position;
	error = mfs_gguf_get_u64(r, &length);
	if (error)
		return error;
	/* Checked before that many bytes are asked for, and again with them. */
	if (length == 0 || length > max)
		return mfs_import_check_name(r->why, r->source, what, "", length, max, out->offset);
	bytes = mfs_gguf_get(r, (size_t)length, &error);
	if (!bytes)
		return error;
	error = mfs_import_check_name(r->why, r->source, what, (const char *)bytes, length, max,
				      out->offset);
	if (error)
		return error;
	copy = mfs_import_alloc(keeper, (size_t)length + 1);
	if (!copy)
		return mfs_gguf_no_memory(r);
	memcpy(copy, bytes, (size_t)length);
	out->text = copy;
	out->length = (uint32_t)length;
	return 0;
}

int mfs_gguf_skip_string(mfs_gguf_reader *r)
{
	uint64_t length, at = r->position;
	int error = mfs_gguf_get_u64(r, &length);

	if (error)
		return error;
	if (length > r->source->size - r->position)
		return gguf_refuse(r, MFS_E_TRUNCATED, at,
				   "a string of %" PRIu64 " bytes goes past the end of the file",
				   length);
	return mfs_gguf_skip(r, length);
}
