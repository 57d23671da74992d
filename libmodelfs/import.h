/*
 * Importers: what a source file consists of. An importer only says which byte
 * ranges are which tensors; it never changes bytes, and what it does not name
 * travels as literal bytes.
 */
#ifndef MFS_IMPORT_H
#define MFS_IMPORT_H

#include "../format/layout.h"
#include "modelfs.h"

/* Where an importer reads from: a file, or memory in tests and fuzzing. read_at
 * fills all of `length` or returns a negative mfs_error. */
typedef struct mfs_source mfs_source;
struct mfs_source {
	const char *name; /* for messages */
	uint64_t size;
	int (*read_at)(mfs_source *source, uint64_t offset, void *buffer, size_t length);
	union {
		int fd;
		const uint8_t *memory;
	} u;
};

/* Opens a regular file or block device for import. */
int mfs_source_open(mfs_source *out, const char *path, mfs_problem *why);
void mfs_source_close(mfs_source *source);
/* A source over `size` bytes that the caller keeps. */
void mfs_source_memory(mfs_source *out, const char *name, const uint8_t *bytes, size_t size);

typedef struct {
	const char *name; /* name_length bytes, terminated too; in the import's memory */
	uint16_t name_length;
	const mfs_layout *layout; /* mfs_layout_bytes() for types that are not known */
	uint32_t dim_count;
	uint64_t dims[MFS_DIMS_MAX]; /* fastest first */
	uint64_t row_bytes; /* bytes of one row (dims[0] elements) */
	uint64_t slice_bytes; /* bytes of one slice of the outermost dimension if there are 3 or more, else = size */
	uint64_t offset; /* in the source */
	uint64_t size;	 /* > 0 */
} mfs_import_tensor;

typedef struct {
	enum mfs_disk_format format;
	uint32_t tensor_count;	    /* tensors of size 0 are left out */
	mfs_import_tensor *tensors; /* sorted by offset, not overlapping */
	void *memory;		    /* names and tensors, freed by mfs_import_free() */
} mfs_import;

/* Recognises the source by its magic and imports it; what no importer knows is
 * opaque (no tensors). A known magic that fails validation: MFS_E_INVALID or
 * MFS_E_LIMIT with `why` naming file, offset and reason. */
int mfs_import_source(mfs_import *out, mfs_source *source, mfs_problem *why);
void mfs_import_free(mfs_import *import);

/* One importer each; MFS_E_MAGIC (and no text) if the source is not theirs. */
int mfs_import_gguf(mfs_import *out, mfs_source *source, mfs_problem *why);

#endif
