/* The descriptions of tensors in the header of a GGUF file that was imported. */
#ifndef MFS_GGUF_HEADER_H
#define MFS_GGUF_HEADER_H

#include "import.h"

typedef struct {
	const char *name; /* name_length bytes, not terminated */
	size_t name_length;
	size_t type_at, offset_at; /* in the descriptions */
} mfs_gguf_info;

/* Reads the descriptions of the import's source: *out is *size bytes that the
 * caller frees. 0, MFS_E_MEMORY, or what reading gives, with `why`. */
int mfs_gguf_infos_read(const mfs_import *import, mfs_source *source, uint8_t **out, size_t *size,
			mfs_problem *why);

/* The description at *at, and *at behind it. False at the end, or where a source
 * that changed has none. */
bool mfs_gguf_info_next(const uint8_t *infos, size_t size, size_t *at, mfs_gguf_info *out);

/* What general.file_type says of a model whose matrices are of ggml's type: of
 * F32, F16, BF16 and Q8_0. */
uint32_t mfs_gguf_file_type(uint32_t ggml_type);

#endif
