/* The header of a GGUF file whose tensors get other types. */
#ifndef MFS_GGUF_REWRITE_H
#define MFS_GGUF_REWRITE_H

#include "import.h"

/* What a tensor becomes. */
typedef struct {
	uint32_t type;	 /* ggml's */
	uint64_t size;	 /* bytes */
	uint64_t offset; /* set by the rewriting: in the new file */
} mfs_gguf_tensor;

#define MFS_GGUF_KEEP UINT32_MAX

/* Stands for NF4 in the header of a container's own files: no type of ggml's. */
#define MFS_GGUF_NF4 0x34464eu /* "NF4" */

/*
 * Makes the header of the file in `source`, which `import` describes: tensor i of
 * the import becomes tensors[i]; tensors keep their order and follow each other at
 * the file's alignment. Where file_type is not MFS_GGUF_KEEP, general.file_type and
 * general.quantization_version are set or added. *out is *size bytes that the caller
 * frees, padded to where the data begins; *end is the size of the whole file.
 * MFS_E_UNSUPPORTED (big-endian), MFS_E_INVALID (the file changed), MFS_E_LIMIT,
 * MFS_E_MEMORY or what reading gives, with `why`.
 */
int mfs_gguf_rewrite(mfs_source *source, const mfs_import *import, mfs_gguf_tensor *tensors,
		     uint32_t file_type, uint8_t **out, size_t *size, uint64_t *end,
		     mfs_problem *why);

#endif
