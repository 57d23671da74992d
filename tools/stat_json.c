#include <stdlib.h>
#include <string.h>

#include "common.h"
#include "json.h"
#include "stat_facts.h"
#include "stat_views.h"

static bool hash_is_known(const uint8_t hash[16])
{
	static const uint8_t none[16];

	return memcmp(hash, none, sizeof(none)) != 0;
}

static void hash_text(char out[33], const uint8_t hash[16])
{
	for (unsigned i = 0; i < 16; i++)
		out += sprintf(out, "%02x", hash[i]);
}

static int add_files(json_t *root, mfs_container *container)
{
	json_t *files = json_array();

	json_set(root, "files", files);
	for (uint32_t i = 0; i < mfs_file_count(container); i++) {
		mfs_file_info f = {.size = sizeof(f)};
		int err = mfs_file_get(container, i, &f);
		json_t *file;
		char hash[33];

		if (err < 0)
			return err;
		hash_text(hash, f.hash);
		file = json_object();
		json_set_text(file, "name", f.name);
		json_set_text(file, "format", f.format);
		json_set_number(file, "size", f.file_bytes);
		json_set_number(file, "stored_size", f.stored_bytes);
		json_set_ratio(file, "ratio", f.file_bytes, f.stored_bytes);
		json_set_number(file, "tensors", f.tensors);
		json_set(file, "xxh3_128", hash_is_known(f.hash) ? json_string(hash) : json_null());
		json_set_text(file, "kind", f.kind);
		if (f.base)
			json_set_text(file, "base", f.base);
		if (*f.note)
			json_set_text(file, "note", f.note);
		if (strcmp(f.kind, "view") == 0)
			json_set_number(file, "derived_size", f.derived_bytes);
		json_set(file, "lossy", json_boolean(f.lossy));
		json_append(files, file);
	}
	return 0;
}

static json_t *shape_to_json(const mfs_tensor_info *t)
{
	json_t *shape = json_array();

	for (uint32_t i = 0; i < t->dim_count && i < 8; i++)
		json_append(shape, json_integer((json_int_t)t->dims[i]));
	return shape;
}

static void add_tensor(json_t *tensors, mfs_container *container, const mfs_tensor_info *t)
{
	mfs_file_info file = {.size = sizeof(file), .name = ""};
	json_t *tensor = json_object();

	mfs_file_stat(container, t->file, &file);
	json_set_text(tensor, "name", t->name);
	json_set_text(tensor, "file", file.name);
	json_set_text(tensor, "type", t->type);
	json_set_text(tensor, "class", t->cls);
	json_set(tensor, "shape", shape_to_json(t));
	json_set_number(tensor, "offset", t->file_offset);
	json_set_number(tensor, "size", t->tensor_bytes);
	json_set_number(tensor, "stored_size", t->stored_bytes);
	json_set_number(tensor, "constants_size", t->constants_bytes);
	json_set_number(tensor, "constants_stored_size", t->constants_stored_bytes);
	json_set_number(tensor, "tables_size", t->tables_bytes);
	json_set(tensor, "derived", json_boolean(t->derived));
	if (t->derived)
		json_set_number(tensor, "adapters", t->adapters);
	json_append(tensors, tensor);
}

static int add_tensors(json_t *root, mfs_container *container)
{
	json_t *tensors = json_array();

	json_set(root, "tensors", tensors);
	for (uint32_t i = 0; i < mfs_tensor_count(container); i++) {
		mfs_tensor_info t = {.size = sizeof(t)};
		int err = mfs_tensor_get(container, i, &t);

		if (err < 0)
			return err;
		add_tensor(tensors, container, &t);
	}
	return 0;
}

static int add_chunks(json_t *root, mfs_container *container, uint32_t count)
{
	json_t *chunks = json_array();

	json_set(root, "chunks", chunks);
	for (uint32_t i = 0; i < count; i++) {
		mfs_chunk_info c = {.size = sizeof(c)};
		int err = mfs_chunk_get(container, i, &c);
		json_t *chunk;

		if (err < 0)
			return err;
		chunk = json_object();
		json_set_number(chunk, "offset", c.offset);
		json_set_number(chunk, "stored_size", c.stored_bytes);
		json_set_number(chunk, "decoded_size", c.decoded_bytes);
		json_set_text(chunk, "class", c.cls);
		json_set_text(chunk, "codec", c.codec);
		json_set_number(chunk, "frames", c.frames);
		json_append(chunks, chunk);
	}
	return 0;
}

static int add_types(json_t *root, mfs_container *container)
{
	json_t *types = json_array();
	stat_sum *rows;
	size_t count;
	int err;

	json_set(root, "types", types);
	err = stat_sum_types(container, &rows, &count);
	if (err < 0)
		return err;
	for (size_t i = 0; i < count; i++) {
		json_t *type = json_object();

		json_set_text(type, "type", rows[i].name);
		json_set_number(type, "tensors", rows[i].items);
		json_set_number(type, "original_size", rows[i].original);
		json_set_number(type, "stored_size", rows[i].stored);
		json_set_ratio(type, "ratio", rows[i].original, rows[i].stored);
		json_set_number(type, "constants_size", rows[i].constants);
		json_set_number(type, "constants_stored_size", rows[i].constants_stored);
		json_append(types, type);
	}
	free(rows);
	return 0;
}

static int add_classes(json_t *root, mfs_container *container, uint32_t chunks)
{
	json_t *classes = json_array();
	stat_sum *rows;
	size_t count;
	int err;

	json_set(root, "classes", classes);
	err = stat_sum_classes(container, chunks, &rows, &count);
	if (err < 0)
		return err;
	for (size_t i = 0; i < count; i++) {
		json_t *cls = json_object();

		json_set_text(cls, "class", rows[i].name);
		json_set_number(cls, "chunks", rows[i].items);
		json_set_number(cls, "decoded_size", rows[i].original);
		json_set_number(cls, "stored_size", rows[i].stored);
		json_set_ratio(cls, "ratio", rows[i].original, rows[i].stored);
		json_append(classes, cls);
	}
	free(rows);
	return 0;
}

static void add_head(json_t *root, const char *path, const mfs_container_info *info)
{
	char uuid[37];

	stat_uuid_text(uuid, info->uuid);
	json_set_text(root, "container", path);
	json_set_text(root, "uuid", uuid);
	json_set_number(root, "version", info->version);
	json_set_number(root, "generation", info->generation);
	json_set_number(root, "superblock_copy", (uint64_t)info->superblock_copy);
	json_set_text(root, "profile", stat_profile_name(info->profile));
	json_set_number(root, "page_size", info->page_bytes);
	json_set_number(root, "frame_size", info->frame_bytes);
}

static json_t *totals_to_json(const mfs_container_info *info)
{
	json_t *totals = json_object();

	json_set_number(totals, "original_size", info->original_bytes);
	json_set_number(totals, "stored_size", info->container_bytes);
	json_set_ratio(totals, "ratio", info->original_bytes, info->container_bytes);
	json_set_number(totals, "frames_size", info->frame_bytes_stored);
	json_set_number(totals, "tables_size", info->tables_bytes);
	json_set_number(totals, "shared_size", info->shared_bytes);
	json_set_number(totals, "unused_size", info->unused_bytes);
	json_set(totals, "overhead",
		 json_overhead(info->superblock_bytes, info->index_bytes, info->padding_bytes));
	return totals;
}

int stat_print_json(mfs_container *container, const char *path, const mfs_container_info *info)
{
	json_t *root = json_object();
	int err;

	add_head(root, path, info);
	json_set(root, "totals", totals_to_json(info));
	err = add_types(root, container);
	if (err == 0)
		err = add_classes(root, container, info->chunks);
	if (err == 0)
		err = add_files(root, container);
	if (err == 0)
		err = add_tensors(root, container);
	if (err == 0)
		err = add_chunks(root, container, info->chunks);
	if (err == 0)
		return json_print(root);
	json_decref(root);
	return err;
}
