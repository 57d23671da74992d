/* Imports any bytes: no crash, and what comes out is sound. */
#ifndef CHECK_IMPORT_H
#define CHECK_IMPORT_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "import.h"

static inline void require(int condition)
{
	if (!condition)
		abort();
}

static inline void check_tensor(const mfs_import_tensor *t, uint64_t from, uint64_t to)
{
	mfs_layout layout = *t->layout;

	require(t->size > 0 && t->offset >= from && t->offset <= to);
	require(t->size <= to - t->offset);
	require(t->name_length > 0 && strlen(t->name) == t->name_length);
	require(t->dim_count <= MFS_DIMS_MAX);
	require(t->row_bytes > 0 && t->slice_bytes > 0);
	require(t->size % t->slice_bytes == 0 && t->slice_bytes % t->row_bytes == 0);
	require(t->slice_bytes % layout.block_bytes == 0);
	require(mfs_layout_finish(&layout) == 0);
}

/* The bytes as a file called `name`; where the format asks for it (`gapless`),
 * the tensors lie back to back up to the end. */
static inline void check_import(const char *name, const uint8_t *data, size_t size, int gapless)
{
	mfs_problem why = {0};
	mfs_source source;
	mfs_import import;
	uint64_t end = 0;
	int error;

	mfs_source_memory(&source, name, data, size);
	error = mfs_import_source(&import, &source, &why);
	if (error) {
		require(error < 0 && why.error == error && why.text[0]);
		require(why.offset <= size && !import.memory);
		return;
	}
	for (uint32_t i = 0; i < import.tensor_count; i++) {
		check_tensor(&import.tensors[i], end, size);
		require(!gapless || !i || import.tensors[i].offset == end);
		end = import.tensors[i].offset + import.tensors[i].size;
	}
	require(!gapless || !import.tensor_count || end == size);
	mfs_import_free(&import);
}

#endif
