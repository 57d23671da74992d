/*
 * Importers: what a source file consists of. An importer only says which byte
 * ranges are which tensors; it never changes bytes, and what it does not name
 * travels as literal bytes.
 */
#ifndef MFS_IMPORT_H
#define MFS_IMPORT_H

#include <stdbool.h>

#include "../../format/layout.h"
#include "modelfs.h"

/* Where an importer reads from: a file, a file of an open container, or memory in
 * tests and fuzzing. read_at fills all of `length` or returns a negative mfs_error. */
typedef struct mfs_source mfs_source;
struct mfs_source {
	const char *name; /* for messages */
	uint64_t size;
	int (*read_at)(mfs_source *source, uint64_t offset, void *buffer, size_t length);
	union {
		int fd; /* -1: of neither kind */
		const uint8_t *memory;
		struct {
			mfs_container *container;
			uint32_t file;
		} packed;
	} u;
	void *context; /* of sources that are computed */
};

/* Opens a regular file or block device for import. `path` becomes the source's
 * name: the caller keeps it. MFS_E_NOT_FOUND, MFS_E_ARGUMENT (neither file nor
 * block device) or MFS_E_SYSTEM. */
int mfs_source_open(mfs_source *out, const char *path, mfs_problem *why);
void mfs_source_close(mfs_source *source);
/* A source over a file of a container that the caller keeps open. */
void mfs_source_packed(mfs_source *out, const char *name, mfs_container *container, uint32_t file);
/* For a computed source that has parts: reads by calling `read` with its context, which
 * returns how many bytes of the part that holds `offset` it has read, at least one and
 * at most `length`, or a negative mfs_error. */
int mfs_source_read_parts(const mfs_source *source, uint64_t offset, uint8_t *out, size_t length,
			  int64_t (*read)(void *context, uint64_t offset, uint8_t *out,
					  size_t length));
/* A source over `size` bytes that the caller keeps. */
void mfs_source_memory(mfs_source *out, const char *name, const uint8_t *bytes, size_t size);

typedef struct {
	const char *name; /* name_length bytes, terminated too; in the import's memory */
	uint16_t name_length;
	/* Where the type is not known or big-endian: an opaque layout that carries
	 * the type's name ("type 99", "Q4_K (big-endian)"), in the import's memory. */
	const mfs_layout *layout;
	uint32_t dim_count;
	/* In the order of the source: GGUF has the fastest one first, safetensors
	 * has it last. */
	uint64_t dims[MFS_DIMS_MAX];
	/* Bytes of one row, which is a run of the fastest dimension; 1 where the type
	 * is not known. */
	uint64_t row_bytes;
	/* Bytes of one slice of the outermost dimension if there are 3 or more and
	 * a slice has MFS_SLICE_MIN bytes at least, else = size. Whole rows. */
	uint64_t slice_bytes;
	uint64_t offset; /* in the source */
	uint64_t size;	 /* > 0 */
} mfs_import_tensor;

/* Smaller slices (those of convolution kernels) are not kept apart: each would
 * cost a frame of its own. */
#define MFS_SLICE_MIN (16u << 10)

/* Limits of an import, so that memory stays bounded whatever the file says. */
#define MFS_IMPORT_TENSORS_MAX	    (1u << 17)
#define MFS_IMPORT_OPAQUE_TYPES_MAX 64

/* A key or a tensor's name. */
typedef struct {
	const char *text; /* terminated */
	uint32_t length;
	uint64_t offset; /* where the source says it */
} mfs_import_name;

/* What the header of a GGUF file says beside its tensors. */
typedef struct {
	bool swapped;		   /* big-endian */
	uint32_t alignment;	   /* of the tensors' data */
	uint64_t file_type;	   /* where the value of general.file_type lies; 0: not there */
	uint64_t infos, infos_end; /* where the tensors are described */
	uint64_t data;		   /* where the tensors' offsets count from */
	/* Values of general.architecture, general.type, adapter.type, in the import's
	 * memory; NULL: not there, or no text of ordinary length. */
	const char *architecture, *type, *adapter_type;
	float alpha;	   /* adapter.lora.alpha, or 0 as llama.cpp has it */
	bool activated;	   /* an adapter that works only behind certain tokens (aLoRA) */
	bool split;	   /* one of several files */
	const char *empty; /* a tensor of size 0, or NULL */
	/* Of attention, where each layer has as many; 0: not there. */
	uint32_t heads, heads_kv;
} mfs_gguf_facts;

typedef struct {
	enum mfs_disk_format format;
	mfs_gguf_facts gguf;	    /* of that format; else zeros */
	uint32_t tensor_count;	    /* tensors of size 0 are left out */
	mfs_import_tensor *tensors; /* sorted by offset, not overlapping */
	/* Of safetensors: the names of all tensors, sorted, those of size 0 too. */
	uint32_t name_count;
	mfs_import_name *names;
	/* Of safetensors: those of size 0, and where the object __metadata__ lies; its
	 * length is 0 if there is none. */
	uint32_t empty_count;
	mfs_import_tensor *empty;
	uint64_t metadata, metadata_length;
	void *memory; /* names and tensors, freed by mfs_import_free() */
} mfs_import;

/* Recognises the source by its magic (safetensors, which have none, by their
 * header or the end of their name) and imports it; what no importer knows is
 * opaque (no tensors). A known magic that fails validation: MFS_E_INVALID,
 * MFS_E_LIMIT, MFS_E_TRUNCATED (shorter than it says) or MFS_E_UNSUPPORTED with
 * `why` naming file, offset and reason; the same file may still be packed as
 * opaque bytes. Where reading or memory fails: the errors of read_at(),
 * MFS_E_MEMORY. On failure *out is empty. `why` may be NULL. */
int mfs_import_source(mfs_import *out, mfs_source *source, mfs_problem *why);
void mfs_import_free(mfs_import *import); /* NULL is fine */

/* One importer each; MFS_E_MAGIC (and no text) if the source is not theirs. */
int mfs_import_gguf(mfs_import *out, mfs_source *source, mfs_problem *why);
int mfs_import_safetensors(mfs_import *out, mfs_source *source, mfs_problem *why);

/* ---- tensors by name ---- */

/* Tensors of an import sorted by name, which lives as long as the import. */
typedef struct {
	const mfs_import *import;
	uint32_t *sorted;
} mfs_import_index;

/* 0 or MFS_E_MEMORY. */
int mfs_import_index_open(mfs_import_index *out, const mfs_import *import);
void mfs_import_index_close(mfs_import_index *index);
/* The number of the tensor with this name of `length` bytes, or UINT32_MAX. */
uint32_t mfs_import_find(const mfs_import_index *index, const char *name, size_t length);
/* Dimension `i`, counted from the fastest one of a GGUF tensor; 1 past the last. */
uint64_t mfs_import_dim(const mfs_import_tensor *tensor, uint32_t i);

/* ---- for importers ---- */

/* `bytes` zeroed bytes that live as long as the import, aligned for any type;
 * NULL without memory. */
void *mfs_import_alloc(mfs_import *import, size_t bytes);

/* A layout named `name` whose blocks are single bytes; NULL without memory. */
const mfs_layout *mfs_import_opaque_layout(mfs_import *import, const char *name, uint32_t type_id);

/* A name must be 1 to `max` bytes of valid UTF-8 without control characters.
 * `what` is "key" or "tensor name". 0, or MFS_E_INVALID with `why`. */
int mfs_import_check_name(mfs_problem *why, const mfs_source *source, const char *what,
			  const char *text, uint64_t length, uint32_t max, uint64_t offset);

/* Sorts the names; MFS_E_INVALID with `why` for the second of two equal ones. */
int mfs_import_check_duplicates(mfs_problem *why, const mfs_source *source, mfs_import_name *names,
				uint32_t count, const char *what);

/* Fills `why` (if not NULL) with "SOURCE: offset 0x...: reason" and returns `error`. */
int mfs_import_refuse(mfs_problem *why, const mfs_source *source, int error, uint64_t offset,
		      const char *format, ...) __attribute__((format(printf, 5, 6)));

#endif
