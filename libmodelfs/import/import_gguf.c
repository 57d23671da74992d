/*
 * The GGUF importer, versions 2 and 3, either byte order.
 *
 *   "GGUF" | version | tensors | key-values | key-value ... | tensor info ... |
 *   padding to the alignment | data: each tensor at its offset from here
 *
 * The file is read once, front to back, through a window (gguf_reader.h); key-values
 * are checked and skipped (gguf_keys.h), only their keys are kept, to find duplicates.
 * What comes out has been proved to lie inside the file and not to overlap.
 *
 * Where the rules of the format leave room, files that llama.cpp could not load
 * are refused as well (names of 64 bytes, an alignment that is no power of two),
 * with two exceptions that harm nobody: tensors in any order with anything
 * between them, and tensor types that are not known. Tensors with a dimension of
 * 0 are legal and have no bytes: they are checked and left out.
 */
#include "import.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../format/check.h"
#include "../../format/layout_ggml.h"
#include "../../format/mfs_endian.h"
#include "gguf_keys.h"
#include "gguf_reader.h"

#define GGUF_MAGIC	0x46554747u /* "GGUF" */
#define DIMS_MAX	4
#define TENSOR_NAME_MAX 63 /* ggml keeps names in 64 bytes, with a terminator */

/* Smallest description of a tensor: a name of one byte, no dimensions. A file has no room
 * for more than its size allows. */
#define INFO_MIN (8 + 1 + 4 + 4 + 8)

struct tensor {
	mfs_import_tensor t; /* size 0: not known from its type */
	uint64_t info;	     /* offset of its description, for messages */
};

struct gguf {
	mfs_gguf_reader *r;
	mfs_import *out;
	uint32_t key_count;
	uint32_t tensor_count;
	uint64_t data; /* where the tensors' offsets count from */
	struct tensor *tensors;
	uint32_t used; /* tensors that have bytes */
	const mfs_layout *opaque[MFS_IMPORT_OPAQUE_TYPES_MAX];
	uint32_t opaque_count;
};

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
		return gguf_refuse(g->r, MFS_E_LIMIT, g->r->position,
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
		return mfs_gguf_no_memory(g->r);
	g->opaque[g->opaque_count++] = *out;
	return 0;
}

/* Dimensions, and how many elements they make. */
static int read_dims(mfs_gguf_reader *r, mfs_import_tensor *t, uint64_t *elements)
{
	uint64_t at = r->position, product = 1;
	bool empty = false, overflow = false;
	int error = mfs_gguf_get_u32(r, &t->dim_count);

	if (error)
		return error;
	if (t->dim_count > DIMS_MAX)
		return gguf_refuse(r, MFS_E_INVALID, at,
				   "tensor '%s' has %u dimensions, at most %d are allowed", t->name,
				   t->dim_count, DIMS_MAX);
	for (uint32_t i = 0; i < t->dim_count; i++) {
		at = r->position;
		error = mfs_gguf_get_u64(r, &t->dims[i]);
		if (error)
			return error;
		if (t->dims[i] > INT64_MAX)
			return gguf_refuse(r, MFS_E_INVALID, at,
					   "dimension %u of tensor '%s' is negative: 0x%" PRIx64, i,
					   t->name, t->dims[i]);
		empty |= t->dims[i] == 0;
		overflow |= __builtin_mul_overflow(product, t->dims[i], &product);
	}
	if (!empty && (overflow || product >= INT64_MAX))
		return gguf_refuse(r, MFS_E_INVALID, at,
				   "tensor '%s' has more elements than 63 bits count", t->name);
	*elements = empty ? 0 : product;
	return 0;
}

/* Bytes of a tensor whose type is known. */
static int known_size(mfs_gguf_reader *r, mfs_import_tensor *t, const mfs_layout *known,
		      uint64_t elements, uint64_t at)
{
	uint64_t row = t->dim_count ? t->dims[0] : 1;

	if (row % known->block_weights)
		return gguf_refuse(
		    r, MFS_E_INVALID, at,
		    "tensor '%s': %" PRIu64 " elements a row are no multiple of a block "
		    "of %.*s, which has %u",
		    t->name, row, known->name_length, known->name, known->block_weights);
	/* A row is no longer than the tensor: it cannot overflow where that does not. */
	if (__builtin_mul_overflow(elements / known->block_weights, known->block_bytes, &t->size))
		return gguf_refuse(r, MFS_E_INVALID, at,
				   "tensor '%s' has more bytes than 64 bits count", t->name);
	t->row_bytes = elements ? row / known->block_weights * known->block_bytes : 1;
	return 0;
}

static int read_type(struct gguf *g, mfs_import_tensor *t, uint64_t elements)
{
	uint64_t at = g->r->position;
	const mfs_layout *known;
	uint32_t type;
	int error = mfs_gguf_get_u32(g->r, &type);

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
	int error = mfs_gguf_get_name(g->r, g->out, "tensor name", TENSOR_NAME_MAX, name);

	if (error)
		return error;
	t->name = name->text;
	t->name_length = (uint16_t)name->length;
	error = read_dims(g->r, t, &elements);
	if (!error)
		error = read_type(g, t, elements);
	at = g->r->position;
	if (!error)
		error = mfs_gguf_get_u64(g->r, &t->offset);
	if (error)
		return error;
	if (t->offset % g->out->gguf.alignment)
		return gguf_refuse(g->r, MFS_E_INVALID, at,
				   "tensor '%s': offset 0x%" PRIx64
				   " is no multiple of the alignment %u",
				   t->name, t->offset, g->out->gguf.alignment);
	if (elements)
		g->tensors[g->used++] = tensor;
	else if (!g->out->gguf.empty)
		g->out->gguf.empty = t->name;
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
		error = mfs_gguf_no_memory(g->r);
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
		return gguf_refuse(g->r, MFS_E_TRUNCATED, tensor->info,
				   "tensor '%s' begins past the end of the file, at 0x%" PRIx64
				   " of the data",
				   t->name, t->offset);
	if (t->size > end - t->offset)
		return gguf_refuse(g->r, MFS_E_TRUNCATED, tensor->info,
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
			return gguf_refuse(g->r, MFS_E_INVALID, next->info,
					   "tensor '%s' overlaps tensor '%s'", next->t.name,
					   t->name);
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
		return mfs_gguf_no_memory(g->r);
	for (uint32_t i = 0; i < g->used; i++)
		out->tensors[i] = g->tensors[i].t;
	out->tensor_count = g->used;
	return 0;
}

/* ---- the head ---- */

static int read_version(mfs_gguf_reader *r)
{
	uint32_t version;
	int error = mfs_gguf_get_u32(r, &version);

	if (error)
		return error;
	/* No version needs the upper half: what has nothing in the lower is swapped. */
	if (version && !(version & 0xffff)) {
		r->swap = true;
		version = __builtin_bswap32(version);
	}
	if (version == 0)
		return gguf_refuse(r, MFS_E_INVALID, 4, "GGUF version 0 does not exist");
	if (version == 1 || version > 3)
		return gguf_refuse(r, MFS_E_UNSUPPORTED, 4,
				   "GGUF version %u%s is not supported, only 2 and 3", version,
				   r->swap ? " (big-endian)" : "");
	return 0;
}

static int read_count(mfs_gguf_reader *r, uint32_t *out, const char *what, uint64_t min_bytes,
		      uint32_t limit)
{
	uint64_t count, at = r->position;
	int error = mfs_gguf_get_u64(r, &count);

	if (error)
		return error;
	if (count > (r->source->size - r->position) / min_bytes)
		return gguf_refuse(r, MFS_E_TRUNCATED, at,
				   "%" PRIu64 " %s do not fit into a file of %" PRIu64 " bytes",
				   count, what, r->source->size);
	if (count > limit)
		return gguf_refuse(r, MFS_E_LIMIT, at, "%" PRIu64 " %s are over the limit of %u",
				   count, what, limit);
	*out = (uint32_t)count;
	return 0;
}

static int read_head(struct gguf *g)
{
	int error = read_version(g->r);

	if (!error)
		error =
		    read_count(g->r, &g->tensor_count, "tensors", INFO_MIN, MFS_IMPORT_TENSORS_MAX);
	if (!error)
		error = read_count(g->r, &g->key_count, "key-values", MFS_GGUF_KEY_VALUE_MIN,
				   MFS_GGUF_KEYS_MAX);
	return error;
}

static int read_file(struct gguf *g)
{
	int error = read_head(g);

	if (!error)
		error = mfs_gguf_keys_read(g->r, g->key_count, g->out);
	g->out->gguf.infos = g->r->position;
	if (!error)
		error = read_tensors(g);
	if (error)
		return error;
	g->out->gguf.infos_end = g->r->position;
	/* The header is small, so this cannot overflow. */
	g->data = round_up(g->r->position, g->out->gguf.alignment);
	g->out->gguf.data = g->data;
	g->out->gguf.swapped = g->r->swap;
	error = arrange_tensors(g);
	return error ? error : publish_tensors(g);
}

static int import_with(mfs_gguf_reader *r, mfs_import *out)
{
	struct gguf g = {.r = r, .out = out};
	int error;
	const uint8_t *magic = mfs_gguf_get(r, 4, &error);

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
	mfs_gguf_reader *r;
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
