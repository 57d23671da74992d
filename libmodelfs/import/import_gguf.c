/*
 * The GGUF importer, versions 2 and 3, either byte order.
 *
 *   "GGUF" | version | tensors | key-values | key-value ... | tensor info ... |
 *   padding to the alignment | data: each tensor at its offset from here
 *
 * The file is read once, front to back, through a window; key-values are
 * checked and skipped, only their keys are kept, to find duplicates. What comes
 * out has been proved to lie inside the file and not to overlap.
 *
 * Where the rules of the format leave room, files that llama.cpp could not load
 * are refused as well (names of 64 bytes, an alignment that is no power of two),
 * with two exceptions that harm nobody: tensors in any order with anything
 * between them, and tensor types that are not known. Tensors with a dimension of
 * 0 are legal and have no bytes: they are checked and left out.
 */
#include "import.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../format/check.h"
#include "../../format/mfs_endian.h"
#include "../../format/layout_ggml.h"

#define GGUF_MAGIC	   0x46554747u /* "GGUF" */
#define GGUF_HEAD_SIZE	   24
#define GGUF_ALIGNMENT	   32
#define GGUF_ALIGNMENT_MAX (16u << 20)
#define GGUF_DIMS_MAX	   4
#define GGUF_KEY_MAX	   65535
#define GGUF_NAME_MAX	   63 /* ggml keeps names in 64 bytes, with a terminator */

/* Smallest key-value (key of one byte, one-byte value) and tensor info (name of
 * one byte, no dimensions): a file has no room for more than its size allows. */
#define GGUF_KV_MIN   (8 + 1 + 4 + 1)
#define GGUF_INFO_MIN (8 + 1 + 4 + 4 + 8)

/* Far above what models have; they bound time and memory for hostile files. */
#define GGUF_HEADER_MAX	   (256u << 20)
#define GGUF_KEYS_MAX	   65536
#define GGUF_KEY_BYTES_MAX (4u << 20)
#define GGUF_TEXT_MAX	   255 /* of values that are kept */

enum gguf_value {
	GGUF_UINT16 = 2,
	GGUF_UINT32 = 4,
	GGUF_FLOAT32 = 6,
	GGUF_STRING = 8,
	GGUF_ARRAY = 9,
	GGUF_VALUES = 13
};

static const uint8_t value_bytes[GGUF_VALUES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

#define WINDOW (64u << 10)

struct reader {
	mfs_source *source;
	mfs_problem *why;
	bool swap; /* the file is big-endian */
	uint64_t position;
	uint64_t window_start;
	size_t window_size;
	uint8_t window[WINDOW];
};

struct tensor {
	mfs_import_tensor t; /* size 0: not known from its type */
	uint64_t info;	     /* offset of its description, for messages */
};

struct gguf {
	struct reader *r;
	mfs_import *out;
	uint32_t key_count;
	uint32_t tensor_count;
	uint32_t alignment;
	uint64_t data; /* where the tensors' offsets count from */
	struct tensor *tensors;
	uint32_t used; /* tensors that have bytes */
	const mfs_layout *opaque[MFS_IMPORT_OPAQUE_TYPES_MAX];
	uint32_t opaque_count;
};

#define refuse(r, error, offset, ...)                                                              \
	mfs_import_refuse((r)->why, (r)->source, (error), (offset), __VA_ARGS__)

static int no_memory(struct reader *r)
{
	return refuse(r, MFS_E_MEMORY, UINT64_MAX, "out of memory");
}

/* ---- reading ---- */

/* May `length` more bytes of the header be read or skipped? */
static int reader_check(struct reader *r, uint64_t length)
{
	if (length > r->source->size - r->position)
		return refuse(r, MFS_E_TRUNCATED, r->position,
			      "the header goes %" PRIu64 " bytes past the end of the file",
			      length - (r->source->size - r->position));
	if (!range_ok(r->position, length, GGUF_HEADER_MAX))
		return refuse(r, MFS_E_LIMIT, r->position, "the header is larger than %u MiB",
			      GGUF_HEADER_MAX >> 20);
	return 0;
}

/* Puts the window over the reader's position. */
static int reader_fill(struct reader *r)
{
	uint64_t left = r->source->size - r->position;
	size_t length = left < WINDOW ? (size_t)left : WINDOW;
	int error = r->source->read_at(r->source, r->position, r->window, length);

	if (error) {
		r->window_size = 0;
		return refuse(r, error, r->position, "cannot be read: %s",
			      error == MFS_E_IO ? strerror(errno) : "the file became shorter");
	}
	r->window_start = r->position;
	r->window_size = length;
	return 0;
}

/* The next `length` <= WINDOW bytes; they stay until the next call. NULL after
 * an error, which is in *error. */
static const uint8_t *reader_get(struct reader *r, size_t length, int *error)
{
	uint64_t in_window = r->position - r->window_start;

	*error = reader_check(r, length);
	if (*error)
		return NULL;
	if (r->position < r->window_start || !range_ok(in_window, length, r->window_size)) {
		*error = reader_fill(r);
		if (*error)
			return NULL;
		in_window = 0;
	}
	r->position += length;
	return r->window + in_window;
}

static int reader_skip(struct reader *r, uint64_t length)
{
	int error = reader_check(r, length);

	if (!error)
		r->position += length;
	return error;
}

/* Numbers are 0 after an error. */
static int get_u32(struct reader *r, uint32_t *out)
{
	int error;
	const uint8_t *p = reader_get(r, 4, &error);

	*out = 0;
	if (!p)
		return error;
	*out = r->swap ? __builtin_bswap32(load_le32(p)) : load_le32(p);
	return 0;
}

static int get_u64(struct reader *r, uint64_t *out)
{
	int error;
	const uint8_t *p = reader_get(r, 8, &error);

	*out = 0;
	if (!p)
		return error;
	*out = r->swap ? __builtin_bswap64(load_le64(p)) : load_le64(p);
	return 0;
}

/* ---- names ---- */

/* A string that names something, copied into the memory of `keeper`; `what` is
 * "key" or "tensor name". */
static int get_name(struct reader *r, mfs_import *keeper, const char *what, uint32_t max,
		    mfs_import_name *out)
{
	uint64_t length;
	const uint8_t *bytes;
	char *copy;
	int error;

	out->offset = r->position;
	error = get_u64(r, &length);
	if (error)
		return error;
	/* Checked before that many bytes are asked for, and again with them. */
	if (length == 0 || length > max)
		return mfs_import_check_name(r->why, r->source, what, "", length, max, out->offset);
	bytes = reader_get(r, (size_t)length, &error);
	if (!bytes)
		return error;
	error = mfs_import_check_name(r->why, r->source, what, (const char *)bytes, length, max,
				      out->offset);
	if (error)
		return error;
	copy = mfs_import_alloc(keeper, (size_t)length + 1);
	if (!copy)
		return no_memory(r);
	memcpy(copy, bytes, (size_t)length);
	out->text = copy;
	out->length = (uint32_t)length;
	return 0;
}

/* ---- key-values ---- */

static int skip_string(struct reader *r)
{
	uint64_t length, at = r->position;
	int error = get_u64(r, &length);

	if (error)
		return error;
	if (length > r->source->size - r->position)
		return refuse(r, MFS_E_TRUNCATED, at,
			      "a string of %" PRIu64 " bytes goes past the end of the file",
			      length);
	return reader_skip(r, length);
}

/* Values of `type`, back to back. */
static int skip_values(struct reader *r, uint32_t type, uint64_t count)
{
	/* Strings take 8 bytes at the least, those of their length. */
	uint64_t bytes = type == GGUF_STRING ? 8 : value_bytes[type];
	int error = 0;

	if (count > (r->source->size - r->position) / bytes)
		return refuse(r, MFS_E_TRUNCATED, r->position,
			      "an array of %" PRIu64 " values goes past the end of the file",
			      count);
	if (type != GGUF_STRING)
		return reader_skip(r, count * bytes);
	while (count-- && !error)
		error = skip_string(r);
	return error;
}

static int get_value_type(struct reader *r, uint32_t *out, const char *key)
{
	uint64_t at = r->position;
	int error = get_u32(r, out);

	if (!error && *out >= GGUF_VALUES)
		return refuse(r, MFS_E_INVALID, at, "key '%.64s' has the unknown value type %u",
			      key, *out);
	return error;
}

static int skip_array(struct reader *r, const char *key)
{
	uint64_t count, at = r->position;
	uint32_t type;
	int error = get_value_type(r, &type, key);

	if (error)
		return error;
	if (type == GGUF_ARRAY)
		return refuse(r, MFS_E_INVALID, at, "key '%.64s' is an array of arrays", key);
	error = get_u64(r, &count);
	return error ? error : skip_values(r, type, count);
}

static int read_alignment(struct gguf *g, uint32_t type)
{
	uint64_t at = g->r->position;
	int error;

	if (type != GGUF_UINT32)
		return refuse(g->r, MFS_E_INVALID, at - 4,
			      "general.alignment has value type %u instead of %u (uint32)", type,
			      GGUF_UINT32);
	error = get_u32(g->r, &g->alignment);
	if (error)
		return error;
	if (!is_power_of_2(g->alignment))
		return refuse(g->r, MFS_E_INVALID, at, "alignment %u is not a power of two",
			      g->alignment);
	if (g->alignment > GGUF_ALIGNMENT_MAX)
		return refuse(g->r, MFS_E_LIMIT, at, "alignment %u is over the limit of %u",
			      g->alignment, GGUF_ALIGNMENT_MAX);
	return 0;
}

/* A text that is kept; longer ones are none of those that are looked for. */
static int read_text(struct gguf *g, const char **out)
{
	uint64_t start = g->r->position, length;
	const uint8_t *bytes;
	char *copy;
	int error = get_u64(g->r, &length);

	if (error || length > GGUF_TEXT_MAX) {
		g->r->position = start;
		return error ? error : skip_string(g->r);
	}
	bytes = reader_get(g->r, (size_t)length, &error);
	if (!bytes)
		return error;
	copy = mfs_import_alloc(g->out, (size_t)length + 1);
	if (!copy)
		return no_memory(g->r);
	memcpy(copy, bytes, (size_t)length);
	*out = copy;
	return 0;
}

static int read_alpha(struct gguf *g)
{
	uint32_t bits;
	int error = get_u32(g->r, &bits);

	memcpy(&g->out->gguf.alpha, &bits, sizeof(bits));
	return error;
}

static int read_split(struct gguf *g)
{
	int error;
	const uint8_t *p = reader_get(g->r, 2, &error);

	if (p)
		g->out->gguf.split =
		    (g->r->swap ? __builtin_bswap16(load_le16(p)) : load_le16(p)) > 1;
	return error;
}

static bool ends_with(const char *text, const char *end)
{
	size_t length = strlen(text), n = strlen(end);

	return length >= n && !strcmp(text + length - n, end);
}

/* Keys whose values matter beyond the header. False: it is none of them. */
static bool read_fact(struct gguf *g, const char *key, uint32_t type, int *error)
{
	mfs_gguf_facts *facts = &g->out->gguf;
	const struct {
		const char *key;
		const char **text;
	} texts[] = {{"general.architecture", &facts->architecture},
		     {"general.type", &facts->type},
		     {"adapter.type", &facts->adapter_type}};

	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts) && type == GGUF_STRING; i++)
		if (!strcmp(key, texts[i].key)) {
			*error = read_text(g, texts[i].text);
			return true;
		}
	if (!strncmp(key, "adapter.alora.", 14))
		facts->activated = true;
	if (!strcmp(key, "general.file_type") && type == GGUF_UINT32)
		facts->file_type = g->r->position;
	if (ends_with(key, ".attention.head_count") && type == GGUF_UINT32)
		*error = get_u32(g->r, &facts->heads);
	else if (ends_with(key, ".attention.head_count_kv") && type == GGUF_UINT32)
		*error = get_u32(g->r, &facts->heads_kv);
	else if (!strcmp(key, "adapter.lora.alpha") && type == GGUF_FLOAT32)
		*error = read_alpha(g);
	else if (!strcmp(key, "split.count") && type == GGUF_UINT16)
		*error = read_split(g);
	else
		return false;
	return true;
}

static int read_value(struct gguf *g, const char *key)
{
	uint32_t type;
	int error = get_value_type(g->r, &type, key);

	if (error)
		return error;
	if (!strcmp(key, "general.alignment"))
		return read_alignment(g, type);
	if (read_fact(g, key, type, &error))
		return error;
	if (type == GGUF_ARRAY)
		return skip_array(g->r, key);
	return type == GGUF_STRING ? skip_string(g->r) : reader_skip(g->r, value_bytes[type]);
}

/* `keeper` holds the keys until all of them are compared. */
static int read_keys(struct gguf *g, mfs_import *keeper)
{
	mfs_import_name *keys = mfs_import_alloc(keeper, g->key_count * sizeof(*keys));
	uint64_t bytes = 0;
	int error;

	if (!keys)
		return no_memory(g->r);
	for (uint32_t i = 0; i < g->key_count; i++) {
		error = get_name(g->r, keeper, "key", GGUF_KEY_MAX, &keys[i]);
		if (error)
			return error;
		bytes += keys[i].length;
		if (bytes > GGUF_KEY_BYTES_MAX)
			return refuse(g->r, MFS_E_LIMIT, keys[i].offset,
				      "the keys take more than %u MiB", GGUF_KEY_BYTES_MAX >> 20);
		error = read_value(g, keys[i].text);
		if (error)
			return error;
	}
	return mfs_import_check_duplicates(g->r->why, g->r->source, keys, g->key_count, "key");
}

/* ---- tensors ---- */

/* The layout of big-endian and unknown types: their names, and bytes. */
static int opaque_layout(struct gguf *g, uint32_t type, const mfs_layout *known,
			 const mfs_layout **out)
{
	char name[64];
	int length;

	for (uint32_t i = 0; i < g->opaque_count; i++) {
		*out = g->opaque[i];
		if ((*out)->type_id == type)
			return 0;
	}
	if (g->opaque_count == MFS_IMPORT_OPAQUE_TYPES_MAX)
		return refuse(g->r, MFS_E_LIMIT, g->r->position,
			      "more than %u tensor types that are not known",
			      MFS_IMPORT_OPAQUE_TYPES_MAX);
	if (known)
		length = snprintf(name, sizeof(name), "%.*s", known->name_length, known->name);
	else
		length = snprintf(name, sizeof(name), "type %u", type);
	if (g->r->swap)
		snprintf(name + length, sizeof(name) - (size_t)length, " (big-endian)");
	*out = mfs_import_opaque_layout(g->out, name, type);
	if (!*out)
		return no_memory(g->r);
	g->opaque[g->opaque_count++] = *out;
	return 0;
}

/* Dimensions, and how many elements they make. */
static int read_dims(struct reader *r, mfs_import_tensor *t, uint64_t *elements)
{
	uint64_t at = r->position, product = 1;
	bool empty = false, overflow = false;
	int error = get_u32(r, &t->dim_count);

	if (error)
		return error;
	if (t->dim_count > GGUF_DIMS_MAX)
		return refuse(r, MFS_E_INVALID, at,
			      "tensor '%s' has %u dimensions, at most %d are allowed", t->name,
			      t->dim_count, GGUF_DIMS_MAX);
	for (uint32_t i = 0; i < t->dim_count; i++) {
		at = r->position;
		error = get_u64(r, &t->dims[i]);
		if (error)
			return error;
		if (t->dims[i] > INT64_MAX)
			return refuse(r, MFS_E_INVALID, at,
				      "dimension %u of tensor '%s' is negative: 0x%" PRIx64, i,
				      t->name, t->dims[i]);
		empty |= t->dims[i] == 0;
		overflow |= __builtin_mul_overflow(product, t->dims[i], &product);
	}
	if (!empty && (overflow || product >= INT64_MAX))
		return refuse(r, MFS_E_INVALID, at,
			      "tensor '%s' has more elements than 63 bits count", t->name);
	*elements = empty ? 0 : product;
	return 0;
}

/* Bytes of a tensor whose type is known. */
static int known_size(struct reader *r, mfs_import_tensor *t, const mfs_layout *known,
		      uint64_t elements, uint64_t at)
{
	uint64_t row = t->dim_count ? t->dims[0] : 1;

	if (row % known->block_weights)
		return refuse(r, MFS_E_INVALID, at,
			      "tensor '%s': %" PRIu64 " elements a row are no multiple of a block "
			      "of %.*s, which has %u",
			      t->name, row, known->name_length, known->name, known->block_weights);
	/* A row is no longer than the tensor: it cannot overflow where that does not. */
	if (__builtin_mul_overflow(elements / known->block_weights, known->block_bytes, &t->size))
		return refuse(r, MFS_E_INVALID, at, "tensor '%s' has more bytes than 64 bits count",
			      t->name);
	t->row_bytes = elements ? row / known->block_weights * known->block_bytes : 1;
	return 0;
}

static int read_type(struct gguf *g, mfs_import_tensor *t, uint64_t elements)
{
	uint64_t at = g->r->position;
	const mfs_layout *known;
	uint32_t type;
	int error = get_u32(g->r, &type);

	if (error)
		return error;
	known = mfs_layout_ggml(type);
	if (known)
		error = known_size(g->r, t, known, elements, at);
	else
		t->row_bytes = 1;
	if (error)
		return error;
	if (known && !g->r->swap) {
		t->layout = known;
		return 0;
	}
	return opaque_layout(g, type, known, &t->layout);
}

static int read_tensor(struct gguf *g, mfs_import_name *name)
{
	struct tensor tensor = {.info = g->r->position};
	mfs_import_tensor *t = &tensor.t;
	uint64_t elements = 0, at;
	int error = get_name(g->r, g->out, "tensor name", GGUF_NAME_MAX, name);

	if (error)
		return error;
	t->name = name->text;
	t->name_length = (uint16_t)name->length;
	error = read_dims(g->r, t, &elements);
	if (!error)
		error = read_type(g, t, elements);
	at = g->r->position;
	if (!error)
		error = get_u64(g->r, &t->offset);
	if (error)
		return error;
	if (t->offset % g->alignment)
		return refuse(g->r, MFS_E_INVALID, at,
			      "tensor '%s': offset 0x%" PRIx64
			      " is no multiple of the alignment %u",
			      t->name, t->offset, g->alignment);
	if (elements)
		g->tensors[g->used++] = tensor;
	return 0;
}

/* Memory for tensors that is given back; the array of the result comes later. */
static int read_tensors(struct gguf *g)
{
	mfs_import_name *names;
	int error = 0;

	if (!g->tensor_count)
		return 0;
	names = calloc(g->tensor_count, sizeof(*names));
	g->tensors = calloc(g->tensor_count, sizeof(*g->tensors));
	if (!names || !g->tensors)
		error = no_memory(g->r);
	for (uint32_t i = 0; i < g->tensor_count && !error; i++)
		error = read_tensor(g, &names[i]);
	if (!error)
		error = mfs_import_check_duplicates(g->r->why, g->r->source, names, g->tensor_count,
						    "tensor name");
	free(names);
	return error;
}

/* ---- where the data lies ---- */

/* Turns offsets in the data into offsets in the file. */
static int place_tensor(struct gguf *g, struct tensor *tensor)
{
	mfs_import_tensor *t = &tensor->t;
	uint64_t size = g->r->source->size;
	uint64_t end = size > g->data ? size - g->data : 0;

	if (t->offset >= end)
		return refuse(g->r, MFS_E_TRUNCATED, tensor->info,
			      "tensor '%s' begins past the end of the file, at 0x%" PRIx64
			      " of the data",
			      t->name, t->offset);
	if (t->size > end - t->offset)
		return refuse(g->r, MFS_E_TRUNCATED, tensor->info,
			      "tensor '%s' goes %" PRIu64 " bytes past the end of the file",
			      t->name, t->size - (end - t->offset));
	t->offset += g->data;
	return 0;
}

static int compare_tensors(const void *a, const void *b)
{
	const struct tensor *x = a, *y = b;

	if (x->t.offset != y->t.offset)
		return x->t.offset < y->t.offset ? -1 : 1;
	return x->info < y->info ? -1 : x->info > y->info;
}

static void set_slice(mfs_import_tensor *t)
{
	uint64_t slices = t->dim_count >= 3 ? t->dims[t->dim_count - 1] : 1;

	t->slice_bytes = t->size;
	/* Without its row's size, nothing is known of a slice's either. */
	if (slices > 1 && t->row_bytes > 1 && t->size / slices >= MFS_SLICE_MIN)
		t->slice_bytes = t->size / slices;
}

/* Sorted by offset: no tensor may reach into the next one. */
static int arrange_tensors(struct gguf *g)
{
	int error = 0;

	for (uint32_t i = 0; i < g->used && !error; i++)
		error = place_tensor(g, &g->tensors[i]);
	if (error || !g->used)
		return error;
	qsort(g->tensors, g->used, sizeof(*g->tensors), compare_tensors);
	for (uint32_t i = 0; i < g->used; i++) {
		mfs_import_tensor *t = &g->tensors[i].t;
		const struct tensor *next = i + 1 < g->used ? &g->tensors[i + 1] : NULL;
		uint64_t room = (next ? next->t.offset : g->r->source->size) - t->offset;

		/* The last one was placed inside the file. */
		if (next && room < (t->size ? t->size : 1))
			return refuse(g->r, MFS_E_INVALID, next->info,
				      "tensor '%s' overlaps tensor '%s'", next->t.name, t->name);
		if (!t->size)
			t->size = room;
		set_slice(t);
	}
	return 0;
}

static int publish_tensors(struct gguf *g)
{
	mfs_import *out = g->out;

	out->format = MFS_FORMAT_GGUF;
	if (!g->used)
		return 0;
	out->tensors = mfs_import_alloc(out, g->used * sizeof(*out->tensors));
	if (!out->tensors)
		return no_memory(g->r);
	for (uint32_t i = 0; i < g->used; i++)
		out->tensors[i] = g->tensors[i].t;
	out->tensor_count = g->used;
	return 0;
}

/* ---- the head ---- */

static int read_version(struct reader *r)
{
	uint32_t version;
	int error = get_u32(r, &version);

	if (error)
		return error;
	/* No version needs the upper half: what has nothing in the lower is swapped. */
	if (version && !(version & 0xffff)) {
		r->swap = true;
		version = __builtin_bswap32(version);
	}
	if (version == 0)
		return refuse(r, MFS_E_INVALID, 4, "GGUF version 0 does not exist");
	if (version == 1 || version > 3)
		return refuse(r, MFS_E_UNSUPPORTED, 4,
			      "GGUF version %u%s is not supported, only 2 and 3", version,
			      r->swap ? " (big-endian)" : "");
	return 0;
}

static int read_count(struct reader *r, uint32_t *out, const char *what, uint64_t min_bytes,
		      uint32_t limit)
{
	uint64_t count, at = r->position;
	int error = get_u64(r, &count);

	if (error)
		return error;
	if (count > (r->source->size - r->position) / min_bytes)
		return refuse(r, MFS_E_TRUNCATED, at,
			      "%" PRIu64 " %s do not fit into a file of %" PRIu64 " bytes", count,
			      what, r->source->size);
	if (count > limit)
		return refuse(r, MFS_E_LIMIT, at, "%" PRIu64 " %s are over the limit of %u", count,
			      what, limit);
	*out = (uint32_t)count;
	return 0;
}

static int read_head(struct gguf *g)
{
	int error = read_version(g->r);

	if (!error)
		error = read_count(g->r, &g->tensor_count, "tensors", GGUF_INFO_MIN,
				   MFS_IMPORT_TENSORS_MAX);
	if (!error)
		error = read_count(g->r, &g->key_count, "key-values", GGUF_KV_MIN, GGUF_KEYS_MAX);
	return error;
}

static int read_file(struct gguf *g)
{
	mfs_import keeper = {0};
	int error = read_head(g);

	if (!error)
		error = read_keys(g, &keeper);
	mfs_import_free(&keeper);
	g->out->gguf.infos = g->r->position;
	if (!error)
		error = read_tensors(g);
	if (error)
		return error;
	g->out->gguf.infos_end = g->r->position;
	/* The header is small, so this cannot overflow. */
	g->data = round_up(g->r->position, g->alignment);
	g->out->gguf.data = g->data;
	g->out->gguf.alignment = g->alignment;
	g->out->gguf.swapped = g->r->swap;
	error = arrange_tensors(g);
	return error ? error : publish_tensors(g);
}

static int import_with(struct reader *r, mfs_import *out)
{
	struct gguf g = {.r = r, .out = out, .alignment = GGUF_ALIGNMENT};
	int error;
	const uint8_t *magic = reader_get(r, 4, &error);

	if (!magic)
		return error;
	if (load_le32(magic) != GGUF_MAGIC)
		return MFS_E_MAGIC;
	error = read_file(&g);
	free(g.tensors);
	return error;
}

int mfs_import_gguf(mfs_import *out, mfs_source *source, mfs_problem *why)
{
	struct reader *r;
	int error;

	memset(out, 0, sizeof(*out));
	if (source->size < 4)
		return MFS_E_MAGIC;
	r = calloc(1, sizeof(*r));
	if (!r)
		return mfs_import_refuse(why, source, MFS_E_MEMORY, UINT64_MAX, "out of memory");
	r->source = source;
	r->why = why;
	error = import_with(r, out);
	free(r);
	if (error)
		mfs_import_free(out);
	return error;
}
