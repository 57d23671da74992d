/* Looking inside: what the public headers tell about files, tensors, chunks. */
#include <string.h>

#include "check.h"
#include "reader.h"

const char *class_name(unsigned cls)
{
	static const char *const names[MFS_DISK_CLASSES] = {"weights", "constants", "adapter",
							    "plain", "metadata"};

	return cls < MFS_DISK_CLASSES ? names[cls] : "?";
}

/* Copies what the caller's struct has room for, and keeps its size field. */
static int give(void *out, const void *from, size_t from_size)
{
	size_t size;

	memcpy(&size, out, sizeof(size));
	if (size < sizeof(size))
		return MFS_E_ARGUMENT;
	if (size > from_size)
		size = from_size;
	memcpy((uint8_t *)out + sizeof(size), (const uint8_t *)from + sizeof(size),
	       size - sizeof(size));
	return 0;
}

/* ---- stored bytes ---- */

struct stored {
	uint64_t slot[MFS_SLOTS];
	uint64_t tables;
};

static int frames_stored(struct reader *r, const mfs_root_tensor *t, const mfs_layout *layout,
			 unsigned s, uint64_t *out)
{
	uint64_t spans = mfs_tensor_spans(t, layout->block_bytes);
	mfs_frame_place place;
	mfs_span span;
	int err = 0;

	for (uint64_t i = 0; i < spans && !err; i++) {
		uint64_t number = t->slot[s].first + i;
		struct part *segment = frame_segment(r, number);

		if (!i || number % MFS_SEGMENT_FRAME_COUNT == 0)
			err = reader_wait_part(r, segment);
		if (err)
			break;
		mfs_tensor_span(t, layout->block_bytes, i, &span);
		err = mfs_frame_place_decode(&place,
					     segment->bytes + number % MFS_SEGMENT_FRAME_COUNT *
								  sizeof(struct mfs_disk_frame),
					     t->slot[s].base,
					     mfs_slot_bytes(t, layout, s, span.blocks),
					     r->c->sb.container_size);
		if (!err)
			*out += place.size;
	}
	return err;
}

static int tensor_stored(mfs_container *c, uint32_t tensor, struct stored *out)
{
	const mfs_layout *layout;
	mfs_root_tensor t;
	mfs_root_tables tables;
	struct reader *r;
	int err;

	memset(out, 0, sizeof(*out));
	r = container_reader(c, &err);
	if (!r)
		return err;
	mfs_root_get_tensor(&c->root, tensor, &t);
	layout = &c->layouts[t.layout];
	for (unsigned s = 0; s < MFS_SLOTS && !err; s++) {
		if (!mfs_tensor_has_slot(&t, layout, s))
			continue;
		err = frames_stored(r, &t, layout, s, &out->slot[s]);
		if (t.slot[s].tables == MFS_NO_TABLES)
			continue;
		mfs_root_get_tables(&c->root, t.slot[s].tables, &tables);
		out->tables += tables.size;
	}
	return err;
}

/* ---- tensors ---- */

uint32_t mfs_tensor_count(const mfs_container *c)
{
	return c->listed_count;
}

static uint32_t adapters_of(const mfs_container *c, uint32_t tensor)
{
	uint32_t first, n = mfs_root_terms(&c->root, tensor, &first), adapters = 0;
	mfs_root_term term;

	for (uint32_t i = 0; i < n; i++) {
		mfs_root_get_term(&c->root, first + i, &term);
		adapters += term.kind == MFS_TERM_LORA;
	}
	return adapters;
}

int mfs_tensor_get(mfs_container *c, uint32_t tensor, mfs_tensor_info *out)
{
	mfs_tensor_info info = {0};
	const mfs_layout *layout;
	struct stored stored;
	mfs_root_tensor t;
	int err;

	if (tensor >= c->listed_count)
		return MFS_E_NOT_FOUND;
	mfs_root_get_tensor(&c->root, c->listed[tensor], &t);
	layout = &c->layouts[t.layout];
	err = tensor_stored(c, c->listed[tensor], &stored);
	if (err)
		return err;
	info.name = c->tensor_names[tensor];
	info.type = c->layout_names[t.layout];
	/* A tensor of constants only has no frames of class weights. */
	info.cls =
	    class_name(mfs_tensor_has_slot(&t, layout, 0) ? t.cls : (unsigned)MFS_DISK_CONSTANTS);
	info.file = t.file;
	info.dim_count = t.dim_count;
	for (uint32_t i = 0; i < t.dim_count; i++)
		info.dims[i] = mfs_root_get_dim(&c->root, t.first_dim + i);
	info.file_offset = t.file_offset;
	info.tensor_bytes = t.size;
	info.stored_bytes = stored.slot[0] + stored.slot[1] + stored.tables;
	if (!(t.flags & MFS_TENSOR_DERIVED))
		info.constants_bytes = t.size / layout->block_bytes * layout->slot_bytes[1];
	info.constants_stored_bytes = stored.slot[1];
	info.tables_bytes = stored.tables;
	info.spans = mfs_tensor_spans(&t, layout->block_bytes);
	info.span_bytes = t.span_blocks * layout->block_bytes;
	memcpy(info.hash, t.hash, sizeof(info.hash));
	info.derived = (t.flags & MFS_TENSOR_DERIVED) != 0;
	info.adapters = adapters_of(c, c->listed[tensor]);
	return give(out, &info, sizeof(info));
}

/* ---- files ---- */

uint32_t mfs_file_count(const mfs_container *c)
{
	return c->root.count[MFS_SEC_FILES];
}

static const char *format_name(unsigned format)
{
	static const char *const names[] = {
	    [MFS_FORMAT_OPAQUE] = "opaque",
	    [MFS_FORMAT_GGUF] = "gguf",
	    [MFS_FORMAT_SAFETENSORS] = "safetensors",
	};

	/* A number from a newer packer tells nothing more than that. */
	return names[format < sizeof(names) / sizeof(names[0]) ? format : MFS_FORMAT_OPAQUE];
}

static const char *kind_name(unsigned kind)
{
	static const char *const names[MFS_FILE_KINDS] = {"packed", "adapter", "view"};

	return names[kind];
}

static uint64_t derived_bytes(const mfs_container *c, const mfs_root_file *f)
{
	uint64_t bytes = 0;
	mfs_root_extent e;
	mfs_root_tensor t;

	for (uint64_t i = 0; f->kind == MFS_FILE_VIEW && i < f->extent_count; i++) {
		mfs_root_get_extent(&c->root, f->first_extent + i, &e);
		if (e.kind != MFS_EXTENT_TENSOR)
			continue;
		mfs_root_get_tensor(&c->root, e.tensor, &t);
		if (t.flags & MFS_TENSOR_DERIVED)
			bytes += e.length;
	}
	return bytes;
}

static int file_info(const mfs_container *c, uint32_t file, mfs_file_info *out)
{
	mfs_root_file f;

	if (file >= mfs_file_count(c))
		return MFS_E_NOT_FOUND;
	mfs_root_get_file(&c->root, file, &f);
	memset(out, 0, sizeof(*out));
	out->name = c->file_names[file];
	out->format = format_name(f.format);
	out->file_bytes = f.size;
	out->mtime_seconds = f.mtime_seconds;
	out->mtime_nanoseconds = f.mtime_nanoseconds;
	out->first_tensor = c->first_listed[file];
	out->tensors = c->first_listed[file + 1] - c->first_listed[file];
	memcpy(out->hash, f.hash, sizeof(out->hash));
	out->kind = kind_name(f.kind);
	out->base = f.base == MFS_NO_FILE ? NULL : c->file_names[f.base];
	out->note = c->file_notes[file];
	out->derived_bytes = derived_bytes(c, &f);
	out->lossy = (f.flags & MFS_FILE_LOSSY) != 0;
	return 0;
}

int mfs_file_stat(const mfs_container *c, uint32_t file, mfs_file_info *out)
{
	mfs_file_info info;
	int err = file_info(c, file, &info);

	return err ? err : give(out, &info, sizeof(info));
}

uint32_t container_first_tensor(const mfs_container *c, uint32_t file)
{
	uint32_t low = 0, high = c->root.count[MFS_SEC_TENSORS];
	mfs_root_tensor t;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		mfs_root_get_tensor(&c->root, middle, &t);
		if (t.file < file)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

int mfs_file_get(mfs_container *c, uint32_t file, mfs_file_info *out)
{
	mfs_file_info info;
	struct stored stored;
	int err = file_info(c, file, &info);
	uint32_t end = err ? 0 : container_first_tensor(c, file + 1);

	for (uint32_t i = err ? 0 : container_first_tensor(c, file); i < end && !err; i++) {
		err = tensor_stored(c, i, &stored);
		info.stored_bytes += stored.slot[0] + stored.slot[1] + stored.tables;
	}
	return err ? err : give(out, &info, sizeof(info));
}

int64_t mfs_file_find(const mfs_container *c, const char *name)
{
	uint32_t low = 0, high = mfs_file_count(c);

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		int order = strcmp(c->file_names[middle], name);

		if (!order)
			return middle;
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return MFS_E_NOT_FOUND;
}

/* ---- chunks and the whole ---- */

int mfs_chunk_get(mfs_container *c, uint32_t chunk, mfs_chunk_info *out)
{
	mfs_chunk_info info = {0};
	struct part *part;
	struct reader *r;
	mfs_chunk disk;
	int err;

	if (chunk >= c->root.chunks)
		return MFS_E_NOT_FOUND;
	r = container_reader(c, &err);
	if (!r)
		return err;
	part = &r->segments[r->frame_segments + chunk / MFS_SEGMENT_CHUNK_COUNT];
	err = reader_wait_part(r, part);
	if (err)
		return err;
	err = mfs_chunk_decode(
	    &disk, part->bytes + chunk % MFS_SEGMENT_CHUNK_COUNT * sizeof(struct mfs_disk_chunk),
	    c->sb.page_size, c->sb.container_size);
	if (err)
		return err;
	info.offset = disk.offset;
	info.decoded_bytes = disk.decoded_size;
	info.stored_bytes = disk.stored_size;
	info.frames = disk.frames;
	info.cls = class_name(disk.cls);
	info.codec = mfs_coding_name(disk.codec);
	return give(out, &info, sizeof(info));
}

/* Slots 0 and 1 and the tail copy. */
#define SUPERBLOCKS 3

static uint64_t index_bytes(const mfs_container *c)
{
	uint64_t bytes = c->sb.root_size;
	mfs_root_segment s;

	for (uint32_t i = 0; i < c->root.count[MFS_SEC_SEGMENTS]; i++) {
		mfs_root_get_segment(&c->root, i, &s);
		bytes += s.size;
	}
	return 2 * bytes;
}

static int chunks_stored(mfs_container *c, uint64_t *out)
{
	mfs_chunk_info chunk = {.size = sizeof(chunk)};
	int err = 0;

	for (uint32_t i = 0; i < c->root.chunks && !err; i++) {
		err = mfs_chunk_get(c, i, &chunk);
		*out += chunk.stored_bytes;
	}
	return err;
}

struct first_frame {
	uint64_t frame;
	uint32_t tensor;
};

static int by_frame(const void *a, const void *b)
{
	const struct first_frame *x = a, *y = b;

	if (x->frame != y->frame)
		return x->frame < y->frame ? -1 : 1;
	return x->tensor < y->tensor ? -1 : x->tensor > y->tensor;
}

/* Tensors that share their frames begin with the same one. */
static int shared_stored(mfs_container *c, uint64_t *out)
{
	uint32_t n = 0, count = c->root.count[MFS_SEC_TENSORS];
	struct first_frame *first = calloc(count + 1u, sizeof(*first));
	struct stored stored;
	int err = first ? 0 : MFS_E_MEMORY;

	for (uint32_t i = 0; i < count && !err; i++) {
		const mfs_layout *layout;
		mfs_root_tensor t;

		mfs_root_get_tensor(&c->root, i, &t);
		layout = &c->layouts[t.layout];
		for (unsigned s = MFS_SLOTS; s-- > 0;)
			if (mfs_tensor_has_slot(&t, layout, s))
				first[n] = (struct first_frame){t.slot[s].first, i};
		if (!(t.flags & MFS_TENSOR_DERIVED))
			n++;
	}
	if (n)
		qsort(first, n, sizeof(*first), by_frame);
	for (uint32_t i = 1; i < n && !err; i++) {
		if (first[i].frame != first[i - 1].frame)
			continue;
		err = tensor_stored(c, first[i].tensor, &stored);
		*out += stored.slot[0] + stored.slot[1] + stored.tables;
	}
	free(first);
	return err;
}

/* Frames and tables that a tensor has, each counted once. */
static int used_stored(mfs_container *c, uint64_t shared, uint64_t *out)
{
	int err = 0;

	*out = 0;
	for (uint32_t i = 0; i < c->root.count[MFS_SEC_TENSORS] && !err; i++) {
		struct stored stored;

		err = tensor_stored(c, i, &stored);
		*out += stored.slot[0] + stored.slot[1] + stored.tables;
	}
	*out -= *out < shared ? *out : shared;
	return err;
}

/* Room behind the chunks, up to the next page, and at the end. */
static int page_padding(mfs_container *c, uint64_t *out)
{
	mfs_chunk_info chunk = {.size = sizeof(chunk)};
	int err = 0;

	*out = MFS_SB_SIZE;
	for (uint32_t i = 0; i < c->root.chunks && !err; i++) {
		uint64_t end;

		err = mfs_chunk_get(c, i, &chunk);
		end = chunk.offset + chunk.stored_bytes;
		*out += err ? 0 : round_up(end, c->sb.page_size) - end;
	}
	return err;
}

/* A container that was packed has nothing that is not used. */
static int find_unused(mfs_container *c, uint64_t chunks, mfs_container_info *info)
{
	uint64_t used, padding;
	int err;

	if (c->sb.generation <= 1)
		return 0;
	err = used_stored(c, info->shared_bytes, &used);
	if (!err)
		err = page_padding(c, &padding);
	if (err)
		return err;
	info->unused_bytes = chunks > used ? chunks - used : 0;
	if (info->padding_bytes > padding)
		info->unused_bytes += info->padding_bytes - padding;
	return 0;
}

int mfs_info(mfs_container *c, mfs_container_info *out)
{
	mfs_container_info info = {0};
	uint64_t chunks = 0;
	mfs_root_tables tables;
	mfs_root_file file;
	int err = chunks_stored(c, &chunks);

	if (!err)
		err = shared_stored(c, &info.shared_bytes);
	if (err)
		return err;
	for (uint32_t i = 0; i < c->root.count[MFS_SEC_TABLES]; i++) {
		mfs_root_get_tables(&c->root, i, &tables);
		info.tables_bytes += tables.size;
	}
	for (uint32_t i = 0; i < mfs_file_count(c); i++) {
		mfs_root_get_file(&c->root, i, &file);
		info.adapters += file.kind == MFS_FILE_ADAPTER;
		info.views += file.kind == MFS_FILE_VIEW;
		if (file.kind == MFS_FILE_VIEW)
			info.view_bytes += file.size;
		else
			info.original_bytes += file.size;
	}
	info.version = c->sb.version;
	info.page_bytes = c->sb.page_size;
	info.frame_bytes = c->sb.frame_size;
	info.profile = (mfs_profile_id)c->sb.profile;
	info.generation = c->sb.generation;
	info.container_bytes = c->sb.container_size;
	memcpy(info.uuid, c->sb.uuid, sizeof(info.uuid));
	info.files = mfs_file_count(c);
	info.tensors = c->listed_count;
	info.chunks = (uint32_t)c->root.chunks;
	info.layouts = c->root.count[MFS_SEC_LAYOUTS];
	info.frame_bytes_stored = chunks - info.tables_bytes;
	info.superblock_bytes = SUPERBLOCKS * MFS_SB_SIZE;
	info.index_bytes = index_bytes(c);
	info.padding_bytes =
	    info.container_bytes - chunks - info.superblock_bytes - info.index_bytes;
	info.superblock_copy = c->sb_copy;
	err = find_unused(c, chunks, &info);
	return err ? err : give(out, &info, sizeof(info));
}
