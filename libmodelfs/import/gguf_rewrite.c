#include "gguf_rewrite.h"

#include <stdlib.h>
#include <string.h>

#include "../../format/check.h"
#include "problem.h"

#define HEAD_SIZE	     24 /* magic, version, two counts */
#define HEAD_MAX	     (272u << 20)
#define UINT32_VALUE	     4
#define STRING_VALUE	     8
#define ARRAY_VALUE	     9
#define VALUE_TYPES	     13
#define QUANTIZATION_VERSION 2 /* of ggml's blocks */
#define ALIGNMENT	     32
#define ROOM		     256u /* for two keys */

static const uint8_t value_bytes[VALUE_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

/* Reads the old header and writes the new one behind each other. The importer has
 * checked all of it, but the file may have changed since. */
struct rewrite {
	const mfs_source *source;
	const mfs_import *import;
	mfs_gguf_tensor *tensors;
	uint32_t *by_name; /* tensors of the import */
	uint32_t file_type;
	uint32_t alignment;
	const uint8_t *in;
	size_t in_size, at;
	uint8_t *out;
	size_t out_size, out_room;
	uint64_t keys;
	bool has_file_type, has_version;
	mfs_problem *why;
};

static int changed(const struct rewrite *r)
{
	return mfs_problem_set(r->why, MFS_E_INVALID, r->at,
			       "%s: offset 0x%zx: the header changed while it was read",
			       r->source->name, r->at);
}

/* ---- reading the old one, copying as it goes ---- */

/* The next `length` bytes, or NULL past the end. */
static const uint8_t *take(struct rewrite *r, uint64_t length)
{
	const uint8_t *p = r->in + r->at;

	if (!range_ok(r->at, length, r->in_size))
		return NULL;
	r->at += (size_t)length;
	return p;
}

static bool take_u32(struct rewrite *r, uint32_t *out)
{
	const uint8_t *p = take(r, 4);

	if (p)
		*out = load_le32(p);
	return p;
}

static bool take_u64(struct rewrite *r, uint64_t *out)
{
	const uint8_t *p = take(r, 8);

	if (p)
		*out = load_le64(p);
	return p;
}

static const uint8_t *take_string(struct rewrite *r, uint64_t *length)
{
	return take_u64(r, length) ? take(r, *length) : NULL;
}

static bool skip_values(struct rewrite *r, uint32_t type, uint64_t count)
{
	uint64_t length;

	if (type >= VALUE_TYPES || type == ARRAY_VALUE || count > r->in_size)
		return false;
	if (type != STRING_VALUE)
		return take(r, count * value_bytes[type]);
	while (count--)
		if (!take_string(r, &length))
			return false;
	return true;
}

static bool skip_value(struct rewrite *r, uint32_t type)
{
	uint64_t count = 1;

	if (type == ARRAY_VALUE && !(take_u32(r, &type) && take_u64(r, &count)))
		return false;
	return skip_values(r, type, count);
}

static void put(struct rewrite *r, const void *bytes, size_t length)
{
	memcpy(r->out + r->out_size, bytes, length);
	r->out_size += length;
}

static bool is_key(const uint8_t *key, uint64_t length, const char *name)
{
	return length == strlen(name) && !memcmp(key, name, (size_t)length);
}

/* Copies one key-value and sets those that say how the file is quantized. */
static bool copy_key(struct rewrite *r)
{
	size_t start = r->at;
	bool file_type, version, alignment;
	uint64_t length;
	uint32_t type;
	const uint8_t *key = take_string(r, &length);

	if (!key || !take_u32(r, &type) || !skip_value(r, type))
		return false;
	file_type = is_key(key, length, "general.file_type");
	version = is_key(key, length, "general.quantization_version");
	alignment = is_key(key, length, "general.alignment");
	r->has_file_type |= file_type;
	r->has_version |= version;
	put(r, r->in + start, r->at - start);
	if (type != UINT32_VALUE)
		return true;
	if (alignment)
		r->alignment = load_le32(r->in + r->at - 4);
	if (file_type && r->file_type != MFS_GGUF_KEEP)
		store_le32(r->out + r->out_size - 4, r->file_type);
	if (version && r->file_type != MFS_GGUF_KEEP)
		store_le32(r->out + r->out_size - 4, QUANTIZATION_VERSION);
	return true;
}

static void add_key(struct rewrite *r, const char *name, uint32_t value)
{
	uint8_t number[8];

	store_le64(number, strlen(name));
	put(r, number, 8);
	put(r, name, strlen(name));
	store_le32(number, UINT32_VALUE);
	store_le32(number + 4, value);
	put(r, number, 8);
	r->keys++;
}

static int copy_keys(struct rewrite *r)
{
	uint64_t count = r->keys;

	while (count--)
		if (!copy_key(r))
			return changed(r);
	if (r->file_type != MFS_GGUF_KEEP && !r->has_file_type)
		add_key(r, "general.file_type", r->file_type);
	if (r->file_type != MFS_GGUF_KEEP && !r->has_version)
		add_key(r, "general.quantization_version", QUANTIZATION_VERSION);
	return is_power_of_2(r->alignment) ? 0 : changed(r);
}

/* ---- tensors ---- */

static int compare_names(const void *a, const void *b, void *tensors)
{
	const mfs_import_tensor *x = (const mfs_import_tensor *)tensors + *(const uint32_t *)a;
	const mfs_import_tensor *y = (const mfs_import_tensor *)tensors + *(const uint32_t *)b;

	return strcmp(x->name, y->name);
}

static int sort_names(struct rewrite *r)
{
	uint32_t n = r->import->tensor_count;

	r->by_name = calloc(n + 1u, sizeof(*r->by_name));
	if (!r->by_name)
		return mfs_problem_no_memory(r->why);
	for (uint32_t i = 0; i < n; i++)
		r->by_name[i] = i;
	qsort_r(r->by_name, n, sizeof(*r->by_name), compare_names, r->import->tensors);
	return 0;
}

/* The import's names have no NUL; the file's may, if it changed. */
static mfs_gguf_tensor *find_tensor(const struct rewrite *r, const uint8_t *name, uint64_t length)
{
	uint32_t low = 0, high = r->import->tensor_count;

	while (low < high) {
		uint32_t middle = r->by_name[low + (high - low) / 2];
		const mfs_import_tensor *t = &r->import->tensors[middle];
		size_t least = length < t->name_length ? (size_t)length : t->name_length;
		int order = memcmp(name, t->name, least);

		if (!order)
			order = (length > t->name_length) - (length < t->name_length);
		if (!order)
			return &r->tensors[middle];
		if (order > 0)
			low += (high - low) / 2 + 1;
		else
			high = low + (high - low) / 2;
	}
	return NULL;
}

/* Copies the description of one tensor; *data is where the next one lies. */
static bool copy_info(struct rewrite *r, uint64_t *data)
{
	size_t start = r->at;
	mfs_gguf_tensor *t;
	uint64_t length;
	uint32_t dims;
	const uint8_t *name = take_string(r, &length);

	if (!name || !take_u32(r, &dims) || dims > MFS_DIMS_MAX || !take(r, dims * 8 + 12))
		return false;
	t = find_tensor(r, name, length); /* NULL: it has no bytes */
	put(r, r->in + start, r->at - start);
	store_le64(r->out + r->out_size - 8, *data);
	if (!t)
		return true;
	store_le32(r->out + r->out_size - 12, t->type);
	t->offset = *data;
	*data = round_up(*data + t->size, r->alignment);
	return *data < MFS_FILE_MAX / 2;
}

static int copy_infos(struct rewrite *r, uint64_t count, uint64_t *end)
{
	uint64_t data = 0;
	size_t padded;

	while (count--)
		if (!copy_info(r, &data))
			return changed(r);
	padded = round_up(r->out_size, r->alignment);
	if (padded > r->out_room)
		return changed(r);
	memset(r->out + r->out_size, 0, padded - r->out_size);
	r->out_size = padded;
	for (uint32_t i = 0; i < r->import->tensor_count; i++)
		r->tensors[i].offset += padded;
	*end = data + padded;
	return 0;
}

/* ---- the whole ---- */

static int rewrite_header(struct rewrite *r, uint64_t *end)
{
	const uint8_t *head = take(r, HEAD_SIZE);
	uint64_t tensors;
	int error;

	if (!head)
		return changed(r);
	if (load_le32(head + 4) > 0xffff)
		return mfs_problem_set(r->why, MFS_E_UNSUPPORTED, 4,
				       "%s: is big-endian: its weights cannot be changed",
				       r->source->name);
	tensors = load_le64(head + 8);
	r->keys = load_le64(head + 16);
	put(r, head, HEAD_SIZE);
	error = copy_keys(r);
	store_le64(r->out + 16, r->keys);
	return error ? error : copy_infos(r, tensors, end);
}

static int run(struct rewrite *r, mfs_source *source, uint8_t *in, uint64_t *end)
{
	int error = source->read_at(source, 0, in, r->in_size);

	if (error)
		return mfs_problem_set(r->why, error, 0, "%s: cannot be read: %s", source->name,
				       mfs_error_text(error));
	error = sort_names(r);
	return error ? error : rewrite_header(r, end);
}

int mfs_gguf_rewrite(mfs_source *source, const mfs_import *import, mfs_gguf_tensor *tensors,
		     uint32_t file_type, uint8_t **out, size_t *size, uint64_t *end,
		     mfs_problem *why)
{
	/* Tensors are sorted: nothing of the header lies behind the first one. */
	uint64_t head = import->tensor_count ? import->tensors[0].offset : source->size;
	struct rewrite r = {.source = source,
			    .import = import,
			    .tensors = tensors,
			    .file_type = file_type,
			    .alignment = ALIGNMENT,
			    .why = why};
	uint8_t *in;
	int error;

	r.in_size = head < HEAD_MAX ? (size_t)head : HEAD_MAX;
	in = malloc(r.in_size + 1);
	r.in = in;
	/* The alignment is no larger than what lies before the first tensor. */
	r.out_room = 2 * r.in_size + ROOM;
	r.out = malloc(r.out_room);
	error = in && r.out ? run(&r, source, in, end) : mfs_problem_no_memory(why);
	free(in);
	free(r.by_name);
	if (error) {
		free(r.out);
		return error;
	}
	*out = r.out;
	*size = r.out_size;
	return 0;
}
