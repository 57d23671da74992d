/*
 * The safetensors importer.
 *
 *   size of the header (8 bytes, little-endian) | header, a JSON object | data
 *
 * The header gives each tensor a dtype, a shape and its place in the data, and
 * may have strings under "__metadata__". It is read entry by entry; what comes
 * out has been proved to fill the data without holes and without overlaps, as
 * the format demands.
 *
 * The format has no magic. A file is taken for one if its name ends in
 * ".safetensors"; any other if its header is valid throughout.
 */
#include "import.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "../../format/layout_safetensors.h"
#include "../../format/mfs_endian.h"
#include "json_walk.h"
#include "mfs_xxhash.h"

#define LENGTH_SIZE 8

/* The format allows headers of 100 MB. These limits bound time and memory for
 * hostile files: jansson parses 40 to 70 MB/s. 131072 tensors with names of 60
 * bytes take 14 MiB. */
#define HEADER_MAX	   (24u << 20)
#define ENTRY_MAX	   1024u /* bytes of JSON that describe one tensor */
#define FIELDS_MAX	   8u	 /* of such a description */
#define NAME_BYTES_MAX	   (8u << 20)
#define METADATA_COUNT_MAX 65536u
#define DTYPE_MAX	   32u

/* A tensor as the header has it. */
struct entry {
	mfs_import_name name;
	const mfs_layout *layout;
	bool known; /* the dtype is: sizes follow from shapes */
	uint8_t dim_count;
	const uint64_t *dims; /* in the import's memory */
	uint64_t begin, end;  /* in the data */
};

struct safetensors {
	mfs_source *source;
	mfs_problem *why;
	mfs_import *out;
	mfs_json_walk walk;
	uint64_t data, data_size;
	struct entry *entries;
	uint32_t count, room;
	uint64_t name_bytes;
	uint64_t *metadata; /* hashes of its keys */
	uint32_t metadata_count, metadata_room;
	bool has_metadata;
	const mfs_layout *opaque[MFS_IMPORT_OPAQUE_TYPES_MAX];
	uint32_t opaque_count;
};

#define refuse(s, error, offset, ...)                                                              \
	mfs_import_refuse((s)->why, (s)->source, (error), (offset), __VA_ARGS__)

static int no_memory(struct safetensors *s)
{
	return refuse(s, MFS_E_MEMORY, UINT64_MAX, "out of memory");
}

/* Room for one more record in a growing array. */
static void *grow(void *array, uint32_t count, uint32_t *room, size_t record)
{
	uint32_t more = *room ? *room * 2 : 256;
	void *bigger;

	if (count < *room)
		return array;
	bigger = realloc(array, more * record);
	if (bigger)
		*room = more;
	return bigger;
}

/* ---- metadata ---- */

static int add_metadata_key(struct safetensors *s, const json_t *key, uint64_t at)
{
	uint64_t *hashes = grow(s->metadata, s->metadata_count, &s->metadata_room, sizeof(*hashes));

	if (!hashes)
		return no_memory(s);
	s->metadata = hashes;
	if (s->metadata_count == METADATA_COUNT_MAX)
		return refuse(s, MFS_E_LIMIT, at, "more than %u keys in __metadata__",
			      METADATA_COUNT_MAX);
	hashes[s->metadata_count++] = XXH3_64bits(json_string_value(key), json_string_length(key));
	return 0;
}

static int read_metadata_value(struct safetensors *s)
{
	json_t *value = NULL;
	int byte, error = mfs_json_peek(&s->walk, &byte);

	if (!error && byte != '"')
		return refuse(s, MFS_E_INVALID, mfs_json_offset(&s->walk),
			      "a value in __metadata__ is no string");
	if (!error)
		error = mfs_json_value(&s->walk, MFS_JSON_TEXT_MAX, &value);
	json_decref(value);
	return error;
}

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* By their hashes: whoever makes two collide is refused, no more. */
static int check_metadata_keys(struct safetensors *s, uint64_t at)
{
	if (s->metadata_count)
		qsort(s->metadata, s->metadata_count, sizeof(*s->metadata), compare_u64);
	for (uint32_t i = 1; i < s->metadata_count; i++)
		if (s->metadata[i - 1] == s->metadata[i])
			return refuse(s, MFS_E_INVALID, at, "duplicate key in __metadata__");
	return 0;
}

static int read_metadata(struct safetensors *s, uint64_t at)
{
	json_t *key;
	int more, byte, error;

	if (s->has_metadata)
		return refuse(s, MFS_E_INVALID, at, "duplicate __metadata__");
	s->has_metadata = true;
	error = mfs_json_peek(&s->walk, &byte);
	s->out->metadata = mfs_json_offset(&s->walk);
	if (!error)
		error = mfs_json_enter(&s->walk);
	if (error)
		return error;
	while ((more = mfs_json_key(&s->walk, &key)) > 0) {
		error = add_metadata_key(s, key, s->walk.key_offset);
		json_decref(key);
		if (!error)
			error = read_metadata_value(s);
		if (error)
			return error;
	}
	s->out->metadata_length = mfs_json_offset(&s->walk) - s->out->metadata;
	return more ? more : check_metadata_keys(s, at);
}

/* ---- one tensor ---- */

/* Quantization constants that travel as tensors of their own, as bitsandbytes
 * stores them beside the tensor they belong to. */
static bool is_constants(const char *name, size_t length)
{
	static const char *const suffixes[] = {".absmax", ".nested_absmax", ".quant_map",
					       ".nested_quant_map", ".SCB"};

	for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
		size_t n = strlen(suffixes[i]);

		if (length > n && !memcmp(name + length - n, suffixes[i], n))
			return true;
	}
	return strstr(name, ".quant_state.") != NULL;
}

/* The layout of a dtype that is not known: its name, and bytes. */
static int opaque_layout(struct safetensors *s, const char *dtype, uint64_t at,
			 const mfs_layout **out)
{
	for (uint32_t i = 0; i < s->opaque_count; i++) {
		*out = s->opaque[i];
		if (!strcmp((*out)->name, dtype))
			return 0;
	}
	if (s->opaque_count == MFS_IMPORT_OPAQUE_TYPES_MAX)
		return refuse(s, MFS_E_LIMIT, at, "more than %u dtypes that are not known",
			      MFS_IMPORT_OPAQUE_TYPES_MAX);
	*out = mfs_import_opaque_layout(s->out, dtype, 0);
	if (!*out)
		return no_memory(s);
	s->opaque[s->opaque_count++] = *out;
	return 0;
}

static int read_dtype(struct safetensors *s, struct entry *e, const json_t *dtype)
{
	const mfs_import_name *name = &e->name;
	int error;

	if (!json_is_string(dtype))
		return refuse(s, MFS_E_INVALID, name->offset, "tensor '%.64s' has no dtype",
			      name->text);
	error = mfs_import_check_name(s->why, s->source, "dtype", json_string_value(dtype),
				      json_string_length(dtype), DTYPE_MAX, name->offset);
	if (error)
		return error;
	e->layout = mfs_layout_safetensors(json_string_value(dtype),
					   is_constants(name->text, name->length));
	e->known = e->layout != NULL;
	return e->known ? 0 : opaque_layout(s, json_string_value(dtype), name->offset, &e->layout);
}

/* Offsets and dimensions: whole numbers that are not negative. */
static bool get_number(const json_t *array, size_t i, uint64_t *out)
{
	const json_t *number = json_array_get(array, i);
	json_int_t value = json_integer_value(number);

	*out = (uint64_t)value;
	return json_is_integer(number) && value >= 0;
}

static int read_shape(struct safetensors *s, struct entry *e, const json_t *shape)
{
	const mfs_import_name *name = &e->name;
	size_t count = json_array_size(shape);
	uint64_t *dims;

	if (!json_is_array(shape))
		return refuse(s, MFS_E_INVALID, name->offset, "tensor '%.64s' has no shape",
			      name->text);
	if (count > MFS_DIMS_MAX)
		return refuse(s, MFS_E_LIMIT, name->offset,
			      "tensor '%.64s' has %zu dimensions, the limit is %d", name->text,
			      count, MFS_DIMS_MAX);
	dims = mfs_import_alloc(s->out, count * sizeof(*dims));
	if (!dims)
		return no_memory(s);
	for (size_t i = 0; i < count; i++)
		if (!get_number(shape, i, &dims[i]))
			return refuse(s, MFS_E_INVALID, name->offset,
				      "tensor '%.64s': dimension %zu is no whole number",
				      name->text, i);
	e->dims = dims;
	e->dim_count = (uint8_t)count;
	return 0;
}

static int read_offsets(struct safetensors *s, struct entry *e, const json_t *offsets)
{
	const mfs_import_name *name = &e->name;

	if (!json_is_array(offsets) || json_array_size(offsets) != 2 ||
	    !get_number(offsets, 0, &e->begin) || !get_number(offsets, 1, &e->end))
		return refuse(s, MFS_E_INVALID, name->offset,
			      "tensor '%.64s': data_offsets are no two whole numbers", name->text);
	if (e->begin > e->end)
		return refuse(s, MFS_E_INVALID, name->offset,
			      "tensor '%.64s' ends before it begins: data_offsets %" PRIu64
			      ", %" PRIu64,
			      name->text, e->begin, e->end);
	if (e->end > s->data_size)
		return refuse(s, MFS_E_TRUNCATED, name->offset,
			      "tensor '%.64s' goes %" PRIu64 " bytes past the end of the file",
			      name->text, e->end - s->data_size);
	return 0;
}

/* Bytes that dtype and shape ask for. */
static int size_of(struct safetensors *s, const struct entry *e, uint64_t *out)
{
	const mfs_layout *layout = e->layout;
	uint64_t elements = 1;
	bool empty = false, overflow = false;

	for (unsigned i = 0; i < e->dim_count; i++) {
		empty |= e->dims[i] == 0;
		overflow |= __builtin_mul_overflow(elements, e->dims[i], &elements);
	}
	if (empty)
		elements = 0;
	else if (overflow)
		return refuse(s, MFS_E_INVALID, e->name.offset,
			      "tensor '%.64s' has more elements than 64 bits count", e->name.text);
	if (elements % layout->block_weights)
		return refuse(s, MFS_E_INVALID, e->name.offset,
			      "tensor '%.64s': %" PRIu64 " elements of %.*s fill no whole bytes",
			      e->name.text, elements, layout->name_length, layout->name);
	if (__builtin_mul_overflow(elements / layout->block_weights, layout->block_bytes, out))
		return refuse(s, MFS_E_INVALID, e->name.offset,
			      "tensor '%.64s' has more bytes than 64 bits count", e->name.text);
	return 0;
}

static int check_size(struct safetensors *s, const struct entry *e)
{
	uint64_t size = 0;
	int error = e->known ? size_of(s, e, &size) : 0;

	if (error || !e->known || size == e->end - e->begin)
		return error;
	return refuse(s, MFS_E_INVALID, e->name.offset,
		      "tensor '%.64s' has %" PRIu64 " bytes by dtype and shape, %" PRIu64
		      " by data_offsets",
		      e->name.text, size, e->end - e->begin);
}

/* Fields beyond the three are nothing to refuse a file for, but they cost time:
 * there may be some, which do not nest. */
static int check_fields(struct safetensors *s, const struct entry *e, json_t *fields)
{
	const char *key;
	json_t *value;

	if (json_object_size(fields) > FIELDS_MAX)
		return refuse(s, MFS_E_LIMIT, e->name.offset,
			      "tensor '%.64s' has more than %u fields", e->name.text, FIELDS_MAX);
	json_object_foreach(
	    fields, key,
	    value) if ((json_is_array(value) || json_is_object(value)) && strcmp(key, "shape") &&
		       strcmp(key, "data_offsets")) return refuse(s, MFS_E_INVALID, e->name.offset,
								  "tensor '%.64s' has an array or "
								  "an object beside shape and "
								  "data_offsets",
								  e->name.text);
	return 0;
}

static int read_fields(struct safetensors *s, struct entry *e, json_t *fields)
{
	int error = check_fields(s, e, fields);

	if (!error)
		error = read_dtype(s, e, json_object_get(fields, "dtype"));
	if (!error)
		error = read_shape(s, e, json_object_get(fields, "shape"));
	if (!error)
		error = read_offsets(s, e, json_object_get(fields, "data_offsets"));
	return error ? error : check_size(s, e);
}

static int copy_name(struct safetensors *s, const json_t *key, uint64_t at, mfs_import_name *out)
{
	size_t length = json_string_length(key);
	int error = mfs_import_check_name(s->why, s->source, "tensor name", json_string_value(key),
					  length, MFS_TENSOR_NAME_MAX, at);
	char *copy;

	if (error)
		return error;
	s->name_bytes += length;
	if (s->name_bytes > NAME_BYTES_MAX)
		return refuse(s, MFS_E_LIMIT, at, "the tensors' names take more than %u MiB",
			      NAME_BYTES_MAX >> 20);
	copy = mfs_import_alloc(s->out, length + 1);
	if (!copy)
		return no_memory(s);
	memcpy(copy, json_string_value(key), length);
	*out = (mfs_import_name){copy, (uint32_t)length, at};
	return 0;
}

static int read_tensor(struct safetensors *s, const json_t *key, uint64_t at)
{
	struct entry *entries = grow(s->entries, s->count, &s->room, sizeof(*entries));
	struct entry e = {0};
	json_t *fields = NULL;
	int byte, error;

	if (!entries)
		return no_memory(s);
	s->entries = entries;
	if (s->count == MFS_IMPORT_TENSORS_MAX)
		return refuse(s, MFS_E_LIMIT, at, "more than %u tensors", MFS_IMPORT_TENSORS_MAX);
	error = copy_name(s, key, at, &e.name);
	if (!error)
		error = mfs_json_peek(&s->walk, &byte);
	if (!error && byte != '{')
		return refuse(s, MFS_E_INVALID, mfs_json_offset(&s->walk),
			      "tensor '%.64s' is described by no object", e.name.text);
	if (!error)
		error = mfs_json_value(&s->walk, ENTRY_MAX, &fields);
	if (!error)
		error = read_fields(s, &e, fields);
	json_decref(fields);
	if (!error)
		entries[s->count++] = e;
	return error;
}

/* ---- the header ---- */

static int read_entries(struct safetensors *s)
{
	int more, error = mfs_json_enter(&s->walk);
	json_t *key;

	if (error)
		return error;
	while ((more = mfs_json_key(&s->walk, &key)) > 0) {
		if (!strcmp(json_string_value(key), "__metadata__"))
			error = read_metadata(s, s->walk.key_offset);
		else
			error = read_tensor(s, key, s->walk.key_offset);
		json_decref(key);
		if (error)
			return error;
	}
	return more ? more : mfs_json_end(&s->walk);
}

/* ---- where the data lies ---- */

static int check_names(struct safetensors *s)
{
	mfs_import *out = s->out;

	out->names = mfs_import_alloc(out, s->count * sizeof(*out->names));
	if (!out->names)
		return no_memory(s);
	for (uint32_t i = 0; i < s->count; i++)
		out->names[i] = s->entries[i].name;
	out->name_count = s->count;
	return mfs_import_check_duplicates(s->why, s->source, out->names, s->count, "tensor name");
}

static int compare_entries(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;

	if (x->begin != y->begin)
		return x->begin < y->begin ? -1 : 1;
	if (x->end != y->end)
		return x->end < y->end ? -1 : 1;
	return x->name.offset < y->name.offset ? -1 : x->name.offset > y->name.offset;
}

/* The tensors in the order of their places must follow each other from the first
 * byte of the data to the last. */
static int check_places(struct safetensors *s)
{
	uint64_t end = 0;

	if (s->count)
		qsort(s->entries, s->count, sizeof(*s->entries), compare_entries);
	for (uint32_t i = 0; i < s->count; i++) {
		const struct entry *e = &s->entries[i];

		if (e->begin < end)
			return refuse(s, MFS_E_INVALID, e->name.offset,
				      "tensor '%.64s' overlaps tensor '%.64s'", e->name.text,
				      s->entries[i - 1].name.text);
		if (e->begin > end)
			return refuse(s, MFS_E_INVALID, e->name.offset,
				      "a hole of %" PRIu64 " bytes before tensor '%.64s'",
				      e->begin - end, e->name.text);
		end = e->end;
	}
	if (end < s->data_size)
		return refuse(s, MFS_E_INVALID, s->data + end,
			      "%" PRIu64 " bytes behind the last tensor", s->data_size - end);
	return 0;
}

/* Rows and slices, where they are whole bytes. */
static void set_rows(const struct entry *e, mfs_import_tensor *t)
{
	const mfs_layout *layout = e->layout;
	uint64_t row = t->dim_count ? t->dims[t->dim_count - 1] : 1;
	uint64_t slices = t->dim_count >= 3 ? t->dims[0] : 1;

	t->row_bytes = 1;
	t->slice_bytes = t->size;
	if (!e->known || row % layout->block_weights)
		return;
	t->row_bytes = row / layout->block_weights * layout->block_bytes;
	if (slices > 1 && t->size / slices >= MFS_SLICE_MIN)
		t->slice_bytes = t->size / slices;
}

static void describe(const struct safetensors *s, const struct entry *e, mfs_import_tensor *t)
{
	t->name = e->name.text;
	t->name_length = (uint16_t)e->name.length;
	t->layout = e->layout;
	t->dim_count = e->dim_count;
	if (e->dim_count)
		memcpy(t->dims, e->dims, e->dim_count * sizeof(*e->dims));
	t->offset = s->data + e->begin;
	t->size = e->end - e->begin;
	set_rows(e, t);
}

static int publish(struct safetensors *s)
{
	mfs_import *out = s->out;
	uint32_t empty = 0;

	for (uint32_t i = 0; i < s->count; i++)
		empty += s->entries[i].begin == s->entries[i].end;
	out->format = MFS_FORMAT_SAFETENSORS;
	out->tensors = mfs_import_alloc(out, (s->count - empty) * sizeof(*out->tensors));
	out->empty = mfs_import_alloc(out, empty * sizeof(*out->empty));
	if (!out->tensors || !out->empty)
		return no_memory(s);
	for (uint32_t i = 0; i < s->count; i++) {
		const struct entry *e = &s->entries[i];

		describe(s, e,
			 e->begin == e->end ? &out->empty[out->empty_count++]
					    : &out->tensors[out->tensor_count++]);
	}
	return 0;
}

/* ---- the whole ---- */

static int read_start(struct safetensors *s, uint64_t *header)
{
	uint8_t start[LENGTH_SIZE + 1];
	uint64_t size = s->source->size;
	int error;

	if (size < sizeof(start))
		return refuse(s, MFS_E_TRUNCATED, 0,
			      "%" PRIu64 " bytes are too few for a safetensors file", size);
	error = s->source->read_at(s->source, 0, start, sizeof(start));
	if (error)
		return refuse(s, error, 0, "cannot be read: %s",
			      error == MFS_E_IO ? strerror(errno) : "the file became shorter");
	*header = load_le64(start);
	if (*header > size - LENGTH_SIZE)
		return refuse(s, MFS_E_TRUNCATED, 0,
			      "a header of %" PRIu64 " bytes goes past the end of the file",
			      *header);
	if (*header < 2)
		return refuse(s, MFS_E_INVALID, 0, "a header of %" PRIu64 " bytes is no object",
			      *header);
	if (start[LENGTH_SIZE] != '{')
		return refuse(s, MFS_E_INVALID, LENGTH_SIZE, "the header does not begin with '{'");
	if (*header > HEADER_MAX)
		return refuse(s, MFS_E_LIMIT, 0,
			      "a header of %" PRIu64 " bytes is over the limit of %u MiB", *header,
			      HEADER_MAX >> 20);
	return 0;
}

static int read_file(struct safetensors *s)
{
	uint64_t header = 0;
	int error = read_start(s, &header);

	if (error)
		return error;
	s->data = LENGTH_SIZE + header;
	s->data_size = s->source->size - s->data;
	error = mfs_json_open(&s->walk, s->source, LENGTH_SIZE, s->data, s->why);
	if (!error)
		error = read_entries(s);
	mfs_json_close(&s->walk);
	if (!error)
		error = check_names(s);
	if (!error)
		error = check_places(s);
	return error ? error : publish(s);
}

static bool is_named_so(const char *name)
{
	static const char suffix[] = ".safetensors";
	size_t length = strlen(name), n = sizeof(suffix) - 1;

	return length >= n && !strcmp(name + length - n, suffix);
}

int mfs_import_safetensors(mfs_import *out, mfs_source *source, mfs_problem *why)
{
	bool sure = is_named_so(source->name);
	mfs_problem found = {0};
	struct safetensors s = {.source = source, .why = &found, .out = out};
	int error;

	memset(out, 0, sizeof(*out));
	error = read_file(&s);
	free(s.entries);
	free(s.metadata);
	if (!error)
		return 0;
	mfs_import_free(out);
	/* What only looked alike breaks no rule; what cannot be read is no verdict. */
	if (!sure && error != MFS_E_IO && error != MFS_E_MEMORY)
		return MFS_E_MAGIC;
	if (why)
		*why = found;
	return error;
}
