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

/* Where the frames of a tensor's slot lie: calls `see` for each. */
typedef void see_place(void *user, const mfs_frame_place *place);

static int each_place(struct reader *r, const mfs_root_tensor *t, unsigned s, see_place *see,
		      void *user)
{
	const mfs_layout *layout = &r->c->layouts[t->layout];
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
			see(user, &place);
	}
	return err;
}

static void add_size(void *user, const mfs_frame_place *place)
{
	*(uint64_t *)user += place->size;
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
		err = each_place(r, &t, s, add_size, &out->slot[s]);
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

/* ---- what several tensors have ---- */

/* The frames of a tensor's slot. Those that have places in common count them from the
 * same one; and who has the same tables names them. */
struct user {
	uint64_t base;
	uint64_t first, count; /* frames */
	uint32_t tables;
	uint32_t tensor;
	unsigned slot;
};

static int by_base(const void *a, const void *b)
{
	const struct user *x = a, *y = b;

	if (x->base != y->base)
		return x->base < y->base ? -1 : 1;
	return (x->first > y->first) - (x->first < y->first);
}

static int by_tables(const void *a, const void *b)
{
	const struct user *x = a, *y = b;

	return (x->tables > y->tables) - (x->tables < y->tables);
}

static uint32_t find_users(const mfs_container *c, struct user *out)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < c->root.count[MFS_SEC_TENSORS]; i++) {
		const mfs_layout *layout;
		mfs_root_tensor t;

		mfs_root_get_tensor(&c->root, i, &t);
		layout = &c->layouts[t.layout];
		for (unsigned s = 0; s < MFS_SLOTS; s++)
			if (mfs_tensor_has_slot(&t, layout, s))
				out[n++] = (struct user){t.slot[s].base,
							 t.slot[s].first,
							 mfs_tensor_spans(&t, layout->block_bytes),
							 t.slot[s].tables,
							 i,
							 s};
	}
	return n;
}

struct places {
	mfs_frame_place *items;
	uint64_t count;
};

static void add_place(void *user, const mfs_frame_place *place)
{
	struct places *places = user;

	if (place->size)
		places->items[places->count++] = *place;
}

static int by_offset(const void *a, const void *b)
{
	const mfs_frame_place *x = a, *y = b;

	return (x->offset > y->offset) - (x->offset < y->offset);
}

/* Puts the places of the users' frames together; those of a user that has the same
 * frames as the one before are counted at once, so that the places are no more than the
 * container has frames. */
static int gather_places(struct reader *r, const struct user *users, uint32_t count,
			 struct places *out, uint64_t *bytes)
{
	uint64_t end = 0;
	mfs_root_tensor t;
	int err = 0;

	for (uint32_t i = 0; i < count && !err; i++) {
		const struct user *u = &users[i];

		mfs_root_get_tensor(&r->c->root, u->tensor, &t);
		if (u->first < end) {
			err = each_place(r, &t, u->slot, add_size, bytes);
			continue;
		}
		end = u->first + u->count;
		err = each_place(r, &t, u->slot, add_place, out);
	}
	return err;
}

/* Stored bytes of frames that some of these users have in common, but for once. */
static int common_frames(struct reader *r, const struct user *users, uint32_t count, uint64_t *out)
{
	struct places places = {0};
	uint64_t end = 0, room = 0;
	int err;

	for (uint32_t i = 0; i < count; i++)
		if (users[i].first >= end) {
			end = users[i].first + users[i].count;
			room += users[i].count;
		}
	places.items = calloc(room + 1, sizeof(*places.items));
	if (!places.items)
		return MFS_E_MEMORY;
	err = gather_places(r, users, count, &places, out);
	qsort(places.items, places.count, sizeof(*places.items), by_offset);
	for (uint64_t i = 1; i < places.count && !err; i++)
		if (places.items[i].offset == places.items[i - 1].offset)
			*out += places.items[i].size;
	free(places.items);
	return err;
}

static uint64_t common_tables(const mfs_container *c, struct user *users, uint32_t count)
{
	uint64_t bytes = 0;
	mfs_root_tables tables;

	qsort(users, count, sizeof(*users), by_tables);
	for (uint32_t i = 1; i < count; i++) {
		if (users[i].tables == MFS_NO_TABLES || users[i].tables != users[i - 1].tables)
			continue;
		mfs_root_get_tables(&c->root, users[i].tables, &tables);
		bytes += tables.size;
	}
	return bytes;
}

/* Bytes that more than one tensor has, each but for once. */
static int shared_stored(mfs_container *c, uint64_t *out)
{
	uint32_t tensors = c->root.count[MFS_SEC_TENSORS], n, end;
	struct user *users = calloc((size_t)tensors * MFS_SLOTS + 1, sizeof(*users));
	struct reader *r;
	int err = 0;

	if (!users)
		return MFS_E_MEMORY;
	r = container_reader(c, &err);
	n = r ? find_users(c, users) : 0;
	if (n)
		qsort(users, n, sizeof(*users), by_base);
	for (uint32_t i = 0; i < n && !err; i = end) {
		for (end = i + 1; end < n && users[end].base == users[i].base;)
			end++;
		if (end - i > 1)
			err = common_frames(r, users + i, end - i, out);
	}
	if (n && !err)
		*out += common_tables(c, users, n);
	free(users);
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
