/*
 * Reading the header of a GGUF file, of either byte order, once from front to back: numbers
 * and names, through a window. Whatever does not lie inside the file, or makes the header
 * larger than any is, is refused by its place; then numbers are 0.
 */
#ifndef MFS_GGUF_READER_H
#define MFS_GGUF_READER_H

#include "import.h"

#define MFS_GGUF_WINDOW (64u << 10)

typedef struct {
	mfs_source *source;
	mfs_problem *why;
	bool swap; /* the file is big-endian */
	uint64_t position;
	uint64_t window_start;
	size_t window_size;
	uint8_t window[MFS_GGUF_WINDOW];
} mfs_gguf_reader;

#define gguf_refuse(r, error, offset, ...)                                                         \
	mfs_import_refuse((r)->why, (r)->source, (error), (offset), __VA_ARGS__)

int mfs_gguf_no_memory(mfs_gguf_reader *r);

/* The next `length` <= MFS_GGUF_WINDOW bytes; they stay until the next call. NULL after
 * an error, which is in *error. */
const uint8_t *mfs_gguf_get(mfs_gguf_reader *r, size_t length, int *error);
int mfs_gguf_get_u16(mfs_gguf_reader *r, uint16_t *out);
int mfs_gguf_get_u32(mfs_gguf_reader *r, uint32_t *out);
int mfs_gguf_get_u64(mfs_gguf_reader *r, uint64_t *out);
/* A string that names something, copied into the memory of `keeper`; `what` is
 * "key" or "tensor name". */
int mfs_gguf_get_name(mfs_gguf_reader *r, mfs_import *keeper, const char *what, uint32_t max,
		      mfs_import_name *out);
int mfs_gguf_skip(mfs_gguf_reader *r, uint64_t length);
int mfs_gguf_skip_string(mfs_gguf_reader *r);

#endif
