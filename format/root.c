#include "root.h"

#include <string.h>

#include "check.h"
#include "mfs_xxhash.h"
#include "modelfs_error.h"
#include "root_records.h"

const uint32_t mfs_root_record_size[MFS_SECTIONS] = {
    [MFS_SEC_LAYOUTS] = sizeof(struct mfs_disk_layout),
    [MFS_SEC_FIELDS] = sizeof(struct mfs_disk_field),
    [MFS_SEC_FILES] = sizeof(struct mfs_disk_file),
    [MFS_SEC_EXTENTS] = sizeof(struct mfs_disk_extent),
    [MFS_SEC_TENSORS] = sizeof(struct mfs_disk_tensor),
    [MFS_SEC_DIMS] = sizeof(le64),
    [MFS_SEC_TERMS] = sizeof(struct mfs_disk_term),
    [MFS_SEC_TABLES] = sizeof(struct mfs_disk_tables),
    [MFS_SEC_SEGMENTS] = sizeof(struct mfs_disk_segment),
    [MFS_SEC_NAMES] = 1,
};

/* The caller's own bytes, when writing. */
static void *slot(const mfs_root *root, uint8_t *bytes, enum mfs_root_section section, uint64_t i)
{
	return bytes + root->offset[section] + i * mfs_root_record_size[section];
}

/* ---- getters ---- */

static void get_field(const mfs_root *root, uint32_t i, mfs_field *out)
{
	const struct mfs_disk_field *d = record(root, MFS_SEC_FIELDS, i);

	out->name = name_at(root, load_le32(&d->name_offset));
	out->name_length = load_le16(&d->name_length);
	out->cls = d->cls;
	out->transform = d->transform;
	out->width = d->width;
	out->bits = d->bits;
	out->run = load_le16(&d->run);
	out->offset = load_le32(&d->offset);
	out->size = load_le32(&d->size);
}

void mfs_root_get_layout(const mfs_root *root, uint32_t i, mfs_layout *out)
{
	const struct mfs_disk_layout *d = record(root, MFS_SEC_LAYOUTS, i);

	memset(out, 0, sizeof(*out));
	out->name = name_at(root, load_le32(&d->name_offset));
	out->name_length = load_le16(&d->name_length);
	out->type_id = load_le32(&d->type_id);
	out->block_bytes = load_le32(&d->block_bytes);
	out->block_weights = load_le32(&d->block_weights);
	out->field_count = load_le16(&d->field_count);
	out->context = d->context;
	for (int k = 0; k < MFS_CONTEXT_OFFSETS; k++)
		out->context_offset[k] = load_le16(&d->context_offset[k]);
	for (uint32_t f = 0; f < out->field_count; f++)
		get_field(root, load_le32(&d->first_field) + f, &out->field[f]);
	mfs_layout_finish(out);
}

void mfs_root_get_file(const mfs_root *root, uint32_t i, mfs_root_file *out)
{
	const struct mfs_disk_file *d = record(root, MFS_SEC_FILES, i);

	out->name = name_at(root, load_le32(&d->name_offset));
	out->name_length = load_le16(&d->name_length);
	out->format = load_le16(&d->format);
	out->size = load_le64(&d->size);
	out->first_extent = load_le64(&d->first_extent);
	out->extent_count = load_le64(&d->extent_count);
	out->mtime_seconds = (int64_t)load_le64(&d->mtime_seconds);
	out->mtime_nanoseconds = load_le32(&d->mtime_nanoseconds);
	out->kind = load_le16(&d->kind);
	out->flags = load_le16(&d->flags);
	memcpy(out->hash, d->hash, sizeof(out->hash));
	out->base = load_le32(&d->base);
	out->note = name_at(root, load_le32(&d->note_offset));
	out->note_length = load_le16(&d->note_length);
}

void mfs_root_get_extent(const mfs_root *root, uint64_t i, mfs_root_extent *out)
{
	const struct mfs_disk_extent *d = record(root, MFS_SEC_EXTENTS, i);

	out->file_offset = load_le64(&d->file_offset);
	out->length = load_le64(&d->length);
	out->source_offset = load_le64(&d->source_offset);
	out->tensor = load_le32(&d->tensor);
	out->kind = load_le16(&d->kind);
}

static void get_frames(const struct mfs_disk_frames *d, mfs_root_frames *out)
{
	out->first = load_le64(&d->first);
	out->base = load_le64(&d->base);
	out->tables = load_le32(&d->tables);
}

void mfs_root_get_tensor(const mfs_root *root, uint32_t i, mfs_root_tensor *out)
{
	const struct mfs_disk_tensor *d = record(root, MFS_SEC_TENSORS, i);

	out->name = name_at(root, load_le32(&d->name_offset));
	out->name_length = load_le16(&d->name_length);
	out->cls = d->cls;
	out->flags = d->flags;
	out->layout = load_le32(&d->layout);
	out->file = load_le32(&d->file);
	out->first_dim = load_le32(&d->first_dim);
	out->dim_count = load_le32(&d->dim_count);
	out->file_offset = load_le64(&d->file_offset);
	out->size = load_le64(&d->size);
	out->slice_blocks = load_le64(&d->slice_blocks);
	out->span_blocks = load_le32(&d->span_blocks);
	out->base = load_le32(&d->base);
	memcpy(out->hash, d->hash, sizeof(out->hash));
	for (int s = 0; s < MFS_SLOTS; s++)
		get_frames(&d->slot[s], &out->slot[s]);
}

uint64_t mfs_root_get_dim(const mfs_root *root, uint32_t i)
{
	return load_le64(record(root, MFS_SEC_DIMS, i));
}

static float float_of_bits(uint32_t bits)
{
	float value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

void mfs_root_get_term(const mfs_root *root, uint32_t i, mfs_root_term *out)
{
	const struct mfs_disk_term *d = record(root, MFS_SEC_TERMS, i);

	out->tensor = load_le32(&d->tensor);
	out->kind = load_le16(&d->kind);
	out->flags = load_le16(&d->flags);
	for (int k = 0; k < MFS_TERM_OPERANDS; k++)
		out->operand[k] = load_le32(&d->operand[k]);
	out->scale = float_of_bits(load_le32(&d->scale));
	out->rank = load_le32(&d->rank);
}

uint32_t mfs_root_terms(const mfs_root *root, uint32_t tensor, uint32_t *first)
{
	uint32_t low = 0, high = root->count[MFS_SEC_TERMS], end;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (term_tensor(root, middle) < tensor)
			low = middle + 1;
		else
			high = middle;
	}
	*first = end = low;
	while (end < root->count[MFS_SEC_TERMS] && term_tensor(root, end) == tensor)
		end++;
	return end - low;
}

void mfs_root_get_tables(const mfs_root *root, uint32_t i, mfs_root_tables *out)
{
	const struct mfs_disk_tables *d = record(root, MFS_SEC_TABLES, i);

	out->offset = load_le64(&d->offset);
	out->size = load_le32(&d->size);
	out->hash = load_le64(&d->hash);
}

void mfs_root_get_segment(const mfs_root *root, uint32_t i, mfs_root_segment *out)
{
	const struct mfs_disk_segment *d = record(root, MFS_SEC_SEGMENTS, i);

	out->offset[0] = load_le64(&d->offset[0]);
	out->offset[1] = load_le64(&d->offset[1]);
	out->size = load_le32(&d->size);
	out->kind = load_le16(&d->kind);
	memcpy(out->hash, d->hash, sizeof(out->hash));
}

/* ---- spans ---- */

int mfs_tensor_has_slot(const mfs_root_tensor *tensor, const mfs_layout *layout, unsigned which)
{
	if (tensor->flags & MFS_TENSOR_DERIVED)
		return 0;
	if (which == 0)
		return tensor->cls == MFS_DISK_PLAIN || layout->slot_streams[0] > 0;
	return tensor->cls != MFS_DISK_PLAIN && layout->slot_streams[1] > 0;
}

static uint64_t slice_spans(const mfs_root_tensor *tensor)
{
	return div_up(tensor->slice_blocks, tensor->span_blocks);
}

uint64_t mfs_tensor_spans(const mfs_root_tensor *tensor, uint32_t block_bytes)
{
	uint64_t slices = tensor->size / block_bytes / tensor->slice_blocks;

	return slices * slice_spans(tensor);
}

void mfs_tensor_span(const mfs_root_tensor *tensor, uint32_t block_bytes, uint64_t i, mfs_span *out)
{
	uint64_t per_slice = slice_spans(tensor);
	uint64_t in_slice = i % per_slice * tensor->span_blocks;
	uint64_t left = tensor->slice_blocks - in_slice;

	out->index = i;
	out->offset = (i / per_slice * tensor->slice_blocks + in_slice) * block_bytes;
	out->blocks = left < tensor->span_blocks ? (uint32_t)left : tensor->span_blocks;
	out->bytes = out->blocks * block_bytes;
}

void mfs_tensor_span_at(const mfs_root_tensor *tensor, uint32_t block_bytes, uint64_t offset,
			mfs_span *out)
{
	uint64_t block = offset / block_bytes;
	uint64_t slice = block / tensor->slice_blocks;
	uint64_t in_slice = block % tensor->slice_blocks / tensor->span_blocks;

	mfs_tensor_span(tensor, block_bytes, slice * slice_spans(tensor) + in_slice, out);
}

uint32_t mfs_slot_bytes(const mfs_root_tensor *tensor, const mfs_layout *layout, unsigned which,
			uint32_t blocks)
{
	if (tensor->cls == MFS_DISK_PLAIN)
		return which == 0 ? blocks * layout->block_bytes : 0;
	return blocks * layout->slot_bytes[which];
}

/* ---- frames and chunks ---- */

int mfs_frame_place_decode(mfs_frame_place *out, const uint8_t *bytes, uint64_t base, uint32_t raw,
			   uint64_t container_size)
{
	const struct mfs_disk_frame *d = (const void *)bytes;
	uint64_t place = load_le64(&d->place);
	uint64_t offset = place & ((UINT64_C(1) << MFS_FRAME_OFFSET_BITS) - 1);
	uint32_t size = (uint32_t)(place >> MFS_FRAME_OFFSET_BITS);

	/* base is at most container_size (below 2^62), offset below 2^40. */
	if (size > raw || !range_ok(base + offset, size, container_size))
		return MFS_E_CORRUPT;
	out->offset = base + offset;
	out->size = size;
	out->hash = load_le64(&d->hash);
	return 0;
}

void mfs_frame_place_encode(const mfs_frame_place *place, uint64_t base, uint8_t *bytes)
{
	struct mfs_disk_frame *d = (void *)bytes;

	store_le64(&d->place,
		   (place->offset - base) | (uint64_t)place->size << MFS_FRAME_OFFSET_BITS);
	store_le64(&d->hash, place->hash);
}

uint64_t mfs_frame_hash(const uint8_t *stored, size_t size, uint64_t number)
{
	return XXH3_64bits_withSeed(stored, size, number);
}

int mfs_chunk_decode(mfs_chunk *out, const uint8_t *bytes, uint32_t page_size,
		     uint64_t container_size)
{
	const struct mfs_disk_chunk *d = (const void *)bytes;
	mfs_chunk c = {.offset = load_le64(&d->offset),
		       .decoded_size = load_le64(&d->decoded_size),
		       .stored_size = load_le32(&d->stored_size),
		       .frames = load_le32(&d->frames),
		       .cls = d->cls,
		       .codec = d->codec};

	if (c.offset % page_size || c.cls >= MFS_DISK_CLASSES || load_le16(&d->reserved) ||
	    load_le32(&d->reserved2) || !range_ok(c.offset, c.stored_size, container_size))
		return MFS_E_CORRUPT;
	*out = c;
	return 0;
}

void mfs_chunk_encode(const mfs_chunk *chunk, uint8_t *bytes)
{
	struct mfs_disk_chunk *d = (void *)bytes;

	memset(d, 0, sizeof(*d));
	store_le64(&d->offset, chunk->offset);
	store_le64(&d->decoded_size, chunk->decoded_size);
	store_le32(&d->stored_size, chunk->stored_size);
	store_le32(&d->frames, chunk->frames);
	d->cls = chunk->cls;
	d->codec = chunk->codec;
}

/* ---- writing ---- */

uint32_t mfs_root_layout(mfs_root *root, const uint32_t count[MFS_SECTIONS])
{
	uint64_t end = sizeof(struct mfs_disk_root);

	memset(root, 0, sizeof(*root));
	for (int s = 0; s < MFS_SECTIONS; s++) {
		end = round_up(end, 8);
		if (end > MFS_ROOT_MAX)
			return 0;
		root->offset[s] = (uint32_t)end;
		root->count[s] = count[s];
		end += (uint64_t)count[s] * mfs_root_record_size[s];
	}
	if (end > MFS_ROOT_MAX)
		return 0;
	root->size = (uint32_t)end;
	return root->size;
}

void mfs_root_put_header(const mfs_root *root, uint8_t *bytes)
{
	struct mfs_disk_root *d = (void *)bytes;

	store_le32(&d->magic, MFS_ROOT_MAGIC);
	store_le64(&d->generation, root->generation);
	store_le64(&d->frames, root->frames);
	store_le64(&d->chunks, root->chunks);
	for (int s = 0; s < MFS_SECTIONS; s++) {
		store_le32(&d->section[s].offset, root->offset[s]);
		store_le32(&d->section[s].count, root->count[s]);
	}
}

void mfs_root_put_layout(const mfs_root *root, uint8_t *bytes, uint32_t i, const mfs_layout *layout,
			 uint32_t name_offset, uint32_t first_field,
			 const uint32_t field_name_offset[])
{
	struct mfs_disk_layout *d = slot(root, bytes, MFS_SEC_LAYOUTS, i);

	store_le32(&d->name_offset, name_offset);
	store_le16(&d->name_length, layout->name_length);
	store_le16(&d->field_count, (uint16_t)layout->field_count);
	store_le32(&d->first_field, first_field);
	store_le32(&d->block_bytes, layout->block_bytes);
	store_le32(&d->block_weights, layout->block_weights);
	store_le32(&d->type_id, layout->type_id);
	d->context = layout->context;
	for (int k = 0; k < MFS_CONTEXT_OFFSETS; k++)
		store_le16(&d->context_offset[k], layout->context_offset[k]);
	for (uint32_t f = 0; f < layout->field_count; f++) {
		const mfs_field *field = &layout->field[f];
		struct mfs_disk_field *df = slot(root, bytes, MFS_SEC_FIELDS, first_field + f);

		store_le32(&df->name_offset, field_name_offset[f]);
		store_le16(&df->name_length, field->name_length);
		df->cls = field->cls;
		df->transform = field->transform;
		df->width = field->width;
		df->bits = field->bits;
		store_le16(&df->run, field->run);
		store_le32(&df->offset, field->offset);
		store_le32(&df->size, field->size);
	}
}

void mfs_root_put_file(const mfs_root *root, uint8_t *bytes, uint32_t i, const mfs_root_file *file,
		       uint32_t name_offset, uint32_t note_offset)
{
	struct mfs_disk_file *d = slot(root, bytes, MFS_SEC_FILES, i);

	store_le32(&d->name_offset, name_offset);
	store_le16(&d->name_length, file->name_length);
	store_le16(&d->format, file->format);
	store_le64(&d->size, file->size);
	store_le64(&d->first_extent, file->first_extent);
	store_le64(&d->extent_count, file->extent_count);
	store_le64(&d->mtime_seconds, (uint64_t)file->mtime_seconds);
	store_le32(&d->mtime_nanoseconds, file->mtime_nanoseconds);
	store_le16(&d->kind, file->kind);
	store_le16(&d->flags, file->flags);
	memcpy(d->hash, file->hash, sizeof(d->hash));
	store_le32(&d->base, file->base);
	store_le32(&d->note_offset, note_offset);
	store_le16(&d->note_length, file->note_length);
}

void mfs_root_put_extent(const mfs_root *root, uint8_t *bytes, uint64_t i,
			 const mfs_root_extent *extent)
{
	struct mfs_disk_extent *d = slot(root, bytes, MFS_SEC_EXTENTS, i);

	store_le64(&d->file_offset, extent->file_offset);
	store_le64(&d->length, extent->length);
	store_le64(&d->source_offset, extent->source_offset);
	store_le32(&d->tensor, extent->tensor);
	store_le16(&d->kind, extent->kind);
}

void mfs_root_put_tensor(const mfs_root *root, uint8_t *bytes, uint32_t i,
			 const mfs_root_tensor *tensor, uint32_t name_offset)
{
	struct mfs_disk_tensor *d = slot(root, bytes, MFS_SEC_TENSORS, i);

	store_le32(&d->name_offset, name_offset);
	store_le16(&d->name_length, tensor->name_length);
	d->cls = tensor->cls;
	d->flags = tensor->flags;
	store_le32(&d->layout, tensor->layout);
	store_le32(&d->file, tensor->file);
	store_le32(&d->first_dim, tensor->first_dim);
	store_le32(&d->dim_count, tensor->dim_count);
	store_le64(&d->file_offset, tensor->file_offset);
	store_le64(&d->size, tensor->size);
	store_le64(&d->slice_blocks, tensor->slice_blocks);
	store_le32(&d->span_blocks, tensor->span_blocks);
	store_le32(&d->base, tensor->base);
	memcpy(d->hash, tensor->hash, sizeof(d->hash));
	for (int s = 0; s < MFS_SLOTS; s++) {
		store_le64(&d->slot[s].first, tensor->slot[s].first);
		store_le64(&d->slot[s].base, tensor->slot[s].base);
		store_le32(&d->slot[s].tables, tensor->slot[s].tables);
	}
}

void mfs_root_put_dim(const mfs_root *root, uint8_t *bytes, uint32_t i, uint64_t dim)
{
	store_le64(slot(root, bytes, MFS_SEC_DIMS, i), dim);
}

void mfs_root_put_term(const mfs_root *root, uint8_t *bytes, uint32_t i, const mfs_root_term *term)
{
	struct mfs_disk_term *d = slot(root, bytes, MFS_SEC_TERMS, i);
	uint32_t scale;

	memcpy(&scale, &term->scale, sizeof(scale));
	store_le32(&d->tensor, term->tensor);
	store_le16(&d->kind, term->kind);
	store_le16(&d->flags, term->flags);
	for (int k = 0; k < MFS_TERM_OPERANDS; k++)
		store_le32(&d->operand[k], term->operand[k]);
	store_le32(&d->scale, scale);
	store_le32(&d->rank, term->rank);
}

void mfs_root_put_tables(const mfs_root *root, uint8_t *bytes, uint32_t i,
			 const mfs_root_tables *tables)
{
	struct mfs_disk_tables *d = slot(root, bytes, MFS_SEC_TABLES, i);

	store_le64(&d->offset, tables->offset);
	store_le32(&d->size, tables->size);
	store_le64(&d->hash, tables->hash);
}

void mfs_root_put_segment(const mfs_root *root, uint8_t *bytes, uint32_t i,
			  const mfs_root_segment *segment)
{
	struct mfs_disk_segment *d = slot(root, bytes, MFS_SEC_SEGMENTS, i);

	store_le64(&d->offset[0], segment->offset[0]);
	store_le64(&d->offset[1], segment->offset[1]);
	store_le32(&d->size, segment->size);
	store_le16(&d->kind, segment->kind);
	memcpy(d->hash, segment->hash, sizeof(d->hash));
}

void mfs_root_put_name(const mfs_root *root, uint8_t *bytes, uint32_t offset, const char *name,
		       size_t length)
{
	memcpy(bytes + root->offset[MFS_SEC_NAMES] + offset, name, length);
}
