/*
 * The root of the index: hashed lists of layouts, files, extents, tensors,
 * tables, segments and names. mfs_root_open() validates all of it once; after
 * that the getters decode single records and cannot fail. Nothing is copied:
 * the root refers to the caller's bytes, which must outlive it.
 */
#ifndef MFS_ROOT_H
#define MFS_ROOT_H

#include "layout.h"
#include "mfs_disk.h"

typedef struct {
	const uint8_t *bytes;
	uint32_t size;
	uint64_t container_size;
	uint64_t generation;
	uint64_t frames;
	uint64_t chunks;
	uint32_t count[MFS_SECTIONS];
	uint32_t offset[MFS_SECTIONS];
} mfs_root;

typedef struct {
	const char *name; /* name_length bytes, not terminated */
	uint16_t name_length;
	uint16_t format;
	uint64_t size;
	uint64_t first_extent, extent_count;
	int64_t mtime_seconds;
	uint32_t mtime_nanoseconds;
	uint16_t kind;
	uint16_t flags;
	uint8_t hash[16];
	uint32_t base; /* MFS_NO_FILE: none */
	const char *note;
	uint16_t note_length;
} mfs_root_file;

typedef struct {
	uint64_t file_offset, length, source_offset;
	uint32_t tensor;
	uint16_t kind;
} mfs_root_extent;

/* The run of frames that one slot of a tensor has: one for each span. */
typedef struct {
	uint64_t first;
	uint64_t base;
	uint32_t tables;
} mfs_root_frames;

typedef struct {
	const char *name;
	uint16_t name_length;
	uint8_t cls;
	uint8_t flags;
	uint32_t layout;
	uint32_t file;
	uint32_t first_dim, dim_count;
	uint64_t file_offset;
	uint64_t size;
	uint64_t slice_blocks;
	uint32_t span_blocks;
	uint32_t base; /* MFS_NO_TENSOR: none */
	uint8_t hash[16];
	mfs_root_frames slot[MFS_SLOTS];
} mfs_root_tensor;

typedef struct {
	uint32_t tensor;
	uint16_t kind;
	uint16_t flags;
	uint32_t operand[MFS_TERM_OPERANDS];
	float scale;
	uint32_t rank;
} mfs_root_term;

typedef struct {
	uint64_t offset;
	uint32_t size;
	uint64_t hash;
} mfs_root_tables;

typedef struct {
	uint64_t offset[2];
	uint32_t size;
	uint16_t kind;
	uint8_t hash[16];
} mfs_root_segment;

/* Checks every record and every reference between records. 0, or a negative
 * mfs_error with the reason (a constant string) in *reason. */
int mfs_root_open(mfs_root *out, const uint8_t *bytes, uint32_t size, uint64_t container_size,
		  uint64_t generation, const char **reason);

void mfs_root_get_layout(const mfs_root *root, uint32_t i, mfs_layout *out);
void mfs_root_get_file(const mfs_root *root, uint32_t i, mfs_root_file *out);
void mfs_root_get_extent(const mfs_root *root, uint64_t i, mfs_root_extent *out);
void mfs_root_get_tensor(const mfs_root *root, uint32_t i, mfs_root_tensor *out);
uint64_t mfs_root_get_dim(const mfs_root *root, uint32_t i);
void mfs_root_get_term(const mfs_root *root, uint32_t i, mfs_root_term *out);
/* The terms of a derived tensor: their number, and the first one in *first. */
uint32_t mfs_root_terms(const mfs_root *root, uint32_t tensor, uint32_t *first);
void mfs_root_get_tables(const mfs_root *root, uint32_t i, mfs_root_tables *out);
void mfs_root_get_segment(const mfs_root *root, uint32_t i, mfs_root_segment *out);

/* ---- a tensor's spans ---- */

/* Where span i lies and how many blocks it has. */
typedef struct {
	uint64_t index;
	uint64_t offset; /* in the tensor */
	uint32_t blocks;
	uint32_t bytes;
} mfs_span;

/* True if the tensor has frames in this slot. Those of plain tensors and of
 * layouts without constants are all in slot 0; a derived tensor has none. */
int mfs_tensor_has_slot(const mfs_root_tensor *tensor, const mfs_layout *layout, unsigned slot);
uint64_t mfs_tensor_spans(const mfs_root_tensor *tensor, uint32_t block_bytes);
/* The span that holds byte `offset` (< size) of the tensor. */
void mfs_tensor_span_at(const mfs_root_tensor *tensor, uint32_t block_bytes, uint64_t offset,
			mfs_span *out);
/* Span number i. */
void mfs_tensor_span(const mfs_root_tensor *tensor, uint32_t block_bytes, uint64_t i,
		     mfs_span *out);
/* Bytes of `slot`'s streams of `blocks` blocks: what its frame decodes to. */
uint32_t mfs_slot_bytes(const mfs_root_tensor *tensor, const mfs_layout *layout, unsigned slot,
			uint32_t blocks);

/* ---- frame and chunk tables ---- */

typedef struct {
	uint64_t offset; /* in the container */
	uint32_t size;	 /* stored bytes */
	uint64_t hash;
} mfs_frame_place;

/* Decodes the entry at `bytes`; MFS_E_CORRUPT if it lies outside the container
 * or is larger than the `raw` bytes it decodes to. */
int mfs_frame_place_decode(mfs_frame_place *out, const uint8_t *bytes, uint64_t base, uint32_t raw,
			   uint64_t container_size);
void mfs_frame_place_encode(const mfs_frame_place *place, uint64_t base, uint8_t *bytes);
/* The hash of a frame's stored bytes, bound to its number. */
uint64_t mfs_frame_hash(const uint8_t *stored, size_t size, uint64_t number);

typedef struct {
	uint64_t offset;
	uint64_t decoded_size;
	uint32_t stored_size;
	uint32_t frames;
	uint8_t cls;
	uint8_t codec;
} mfs_chunk;

int mfs_chunk_decode(mfs_chunk *out, const uint8_t *bytes, uint32_t page_size,
		     uint64_t container_size);
void mfs_chunk_encode(const mfs_chunk *chunk, uint8_t *bytes);

/* ---- writing ---- */

/* Bytes of a root with these counts (count[MFS_SEC_NAMES] in bytes). 0 if it
 * would be larger than MFS_ROOT_MAX. */
uint32_t mfs_root_layout(mfs_root *root, const uint32_t count[MFS_SECTIONS]);
/* Writes the header for counts laid out by mfs_root_layout(); `bytes` is zeroed
 * memory of that size. */
void mfs_root_put_header(const mfs_root *root, uint8_t *bytes);
void mfs_root_put_layout(const mfs_root *root, uint8_t *bytes, uint32_t i, const mfs_layout *layout,
			 uint32_t name_offset, uint32_t first_field,
			 const uint32_t field_name_offset[]);
void mfs_root_put_file(const mfs_root *root, uint8_t *bytes, uint32_t i, const mfs_root_file *file,
		       uint32_t name_offset, uint32_t note_offset);
void mfs_root_put_extent(const mfs_root *root, uint8_t *bytes, uint64_t i,
			 const mfs_root_extent *extent);
void mfs_root_put_tensor(const mfs_root *root, uint8_t *bytes, uint32_t i,
			 const mfs_root_tensor *tensor, uint32_t name_offset);
void mfs_root_put_dim(const mfs_root *root, uint8_t *bytes, uint32_t i, uint64_t dim);
void mfs_root_put_term(const mfs_root *root, uint8_t *bytes, uint32_t i, const mfs_root_term *term);
void mfs_root_put_tables(const mfs_root *root, uint8_t *bytes, uint32_t i,
			 const mfs_root_tables *tables);
void mfs_root_put_segment(const mfs_root *root, uint8_t *bytes, uint32_t i,
			  const mfs_root_segment *segment);
void mfs_root_put_name(const mfs_root *root, uint8_t *bytes, uint32_t offset, const char *name,
		       size_t length);

#endif
