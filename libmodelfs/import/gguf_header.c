#include "gguf_header.h"

#include <stdlib.h>

#include "../../format/check.h"
#include "../../format/dequant.h"
#include "../../format/mfs_endian.h"
#include "problem.h"

int mfs_gguf_infos_read(const mfs_import *import, mfs_source *source, uint8_t **out, size_t *size,
			mfs_problem *why)
{
	const mfs_gguf_facts *facts = &import->gguf;
	uint8_t *bytes;
	int error;

	*size = (size_t)(facts->infos_end - facts->infos);
	bytes = malloc(*size + 1);
	if (!bytes)
		return mfs_problem_no_memory(why);
	error = source->read_at(source, facts->infos, bytes, *size);
	if (error) {
		free(bytes);
		return mfs_problem_set(why, error, facts->infos,
				       "%s: cannot read at offset 0x%llx: %s", source->name,
				       (unsigned long long)facts->infos, mfs_error_text(error));
	}
	*out = bytes;
	return 0;
}

/* Length and name, number of dimensions, dimensions, type, offset. */
bool mfs_gguf_info_next(const uint8_t *infos, size_t size, size_t *at, mfs_gguf_info *out)
{
	size_t position = *at, dims;
	uint64_t length;

	if (!range_ok(position, 8, size))
		return false;
	length = load_le64(infos + position);
	position += 8;
	if (length > size || !range_ok(position, length + 4, size))
		return false;
	out->name = (const char *)infos + position;
	out->name_length = (size_t)length;
	position += length;
	dims = load_le32(infos + position);
	position += 4;
	if (dims > MFS_DIMS_MAX || !range_ok(position, 8 * dims + 12, size))
		return false;
	out->type_at = position + 8 * dims;
	out->offset_at = out->type_at + 4;
	*at = out->offset_at + 8;
	return true;
}

uint32_t mfs_gguf_file_type(uint32_t ggml_type)
{
	switch (ggml_type) {
	case MFS_GGML_F16:
		return 1;
	case MFS_GGML_Q8_0:
		return 7;
	case MFS_GGML_BF16:
		return 32;
	}
	return 0;
}
