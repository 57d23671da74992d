#include "bnb.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../../format/check.h"
#include "../../format/layout_safetensors.h"
#include "../../format/mfs_endian.h"
#include "../../format/nf4.h"
#include "problem.h"

#define STATE_MAX (16u << 10) /* bytes of a description */
#define MAP_CODES 16
#define NO_NUMBER UINT32_MAX

struct mfs_bnb {
	mfs_bnb_matrix *matrices; /* sorted by codes */
	uint32_t count, room;
	bool any;     /* matrices or helpers */
	bool *helper; /* by tensor of the import */
};

struct finder {
	const mfs_bnb_file *files;
	mfs_import_index *indexes; /* of the files */
	mfs_bnb **out;
	uint32_t count;
	mfs_problem *why;
};

static const mfs_import_tensor *tensor_of(const struct finder *f, mfs_bnb_part part)
{
	return &f->files[part.file].import->tensors[part.tensor];
}

#define refuse(f, error, part, ...)                                                                \
	mfs_import_refuse((f)->why, (f)->files[(part).file].source, (error),                       \
			  tensor_of(f, part)->offset, __VA_ARGS__)

static int no_memory(const struct finder *f)
{
	return mfs_problem_no_memory(f->why);
}

/* ---- tensors of a matrix ---- */

static const char state_mark[] = ".quant_state.bitsandbytes__";

/* Where the name of the matrix ends in that of its description, or 0. */
static size_t matrix_length(const mfs_import_tensor *t)
{
	const char *mark = strstr(t->name, state_mark);

	return mark ? (size_t)(mark - t->name) : 0;
}

static bool is_named(const mfs_layout *layout, const char *name)
{
	return strlen(name) == layout->name_length &&
	       !memcmp(name, layout->name, layout->name_length);
}

/* The tensor with this name of `length` bytes, in whichever file. */
static mfs_bnb_part find(const struct finder *f, const char *name, size_t length)
{
	mfs_bnb_part part = {.tensor = NO_NUMBER};

	for (; part.file < f->count; part.file++) {
		if (f->files[part.file].import)
			part.tensor = mfs_import_find(&f->indexes[part.file], name, length);
		if (part.tensor != NO_NUMBER)
			break;
	}
	return part;
}

static void mark_helper(const struct finder *f, mfs_bnb_part part)
{
	f->out[part.file]->helper[part.tensor] = true;
	f->out[part.file]->any = true;
}

/* The tensor NAME.END beside the codes, which must have `count` numbers of the type. */
static int find_part(const struct finder *f, mfs_bnb_part codes, const char *end, const char *dtype,
		     uint64_t count, mfs_bnb_part *out)
{
	const char *matrix = tensor_of(f, codes)->name;
	const mfs_import_tensor *t;
	char name[MFS_TENSOR_NAME_MAX + 32];
	int length = snprintf(name, sizeof(name), "%s%s", matrix, end);

	*out = find(f, name, (size_t)length);
	if (out->tensor == NO_NUMBER)
		return refuse(f, MFS_E_INVALID, codes, "tensor '%.64s' has no '%s'", matrix, end);
	t = tensor_of(f, *out);
	if (!is_named(t->layout, dtype) || t->size != count * t->layout->block_bytes)
		return refuse(f, MFS_E_INVALID, *out,
			      "tensor '%.64s' does not have %" PRIu64 " numbers of type %s",
			      t->name, count, dtype);
	mark_helper(f, *out);
	return 0;
}

static int read_tensor(const struct finder *f, mfs_bnb_part part, void *out)
{
	const mfs_import_tensor *t = tensor_of(f, part);
	mfs_source *source = f->files[part.file].source;
	int error = source->read_at(source, t->offset, out, t->size);

	return error ? refuse(f, error, part, "tensor '%.64s' cannot be read", t->name) : 0;
}

/* A reader of the container knows the map by heart: this must be the same. */
static int check_map(const struct finder *f, mfs_bnb_part codes)
{
	uint8_t bytes[4 * MAP_CODES];
	mfs_bnb_part part;
	mfs_nf4 nf4;
	int error = find_part(f, codes, ".quant_map", "F32", MAP_CODES, &part);

	if (!error)
		error = read_tensor(f, part, bytes);
	if (error)
		return error;
	mfs_nf4_init(&nf4);
	for (int i = 0; i < MAP_CODES; i++) {
		uint32_t bits;

		memcpy(&bits, &nf4.map[i], 4);
		if (load_le32(bytes + 4 * i) != bits)
			return refuse(f, MFS_E_UNSUPPORTED, part,
				      "tensor '%.64s' is not the map of NF4",
				      tensor_of(f, part)->name);
	}
	return 0;
}

static int find_constants(const struct finder *f, mfs_bnb_part codes, uint64_t weights, bool nested,
			  mfs_bnb_matrix *m)
{
	uint64_t blocks = div_up(weights, MFS_NF4_BLOCK);
	int error = find_part(f, codes, ".absmax", nested ? "U8" : "F32", blocks, &m->absmax);

	m->nested = m->nested_map = (mfs_bnb_part){.tensor = NO_NUMBER};
	if (!error && nested)
		error = find_part(f, codes, ".nested_absmax", "F32",
				  div_up(blocks, MFS_NF4_NESTED_BLOCK), &m->nested);
	if (!error && nested)
		error = find_part(f, codes, ".nested_quant_map", "F32", 256, &m->nested_map);
	return error ? error : check_map(f, codes);
}

/* ---- the description ---- */

static bool is_text(const json_t *state, const char *key, const char *text)
{
	const char *value = json_string_value(json_object_get(state, key));

	return value && !strcmp(value, text);
}

static bool is_number(const json_t *state, const char *key, json_int_t number)
{
	const json_t *value = json_object_get(state, key);

	return json_is_integer(value) && json_integer_value(value) == number;
}

static int read_dtype(const struct finder *f, mfs_bnb_part part, const json_t *state,
		      mfs_import_tensor *was)
{
	static const char *const names[][2] = {
	    {"bfloat16", "BF16"}, {"float16", "F16"}, {"float32", "F32"}};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (is_text(state, "dtype", names[i][0])) {
			was->layout = mfs_layout_safetensors(names[i][1], false);
			return 0;
		}
	return refuse(f, MFS_E_UNSUPPORTED, part, "tensor '%.64s': a dtype that is not known",
		      tensor_of(f, part)->name);
}

static int read_shape(const struct finder *f, mfs_bnb_part part, const json_t *state,
		      mfs_import_tensor *was, uint64_t *weights)
{
	const json_t *shape = json_object_get(state, "shape");
	size_t count = json_array_size(shape);

	*weights = 1;
	for (size_t i = 0; i < count && count <= MFS_DIMS_MAX; i++) {
		const json_t *dim = json_array_get(shape, i);

		if (!json_is_integer(dim) || json_integer_value(dim) <= 0 ||
		    __builtin_mul_overflow(*weights, (uint64_t)json_integer_value(dim), weights) ||
		    *weights > MFS_FILE_MAX / 4)
			count = 0;
		else
			was->dims[was->dim_count++] = (uint64_t)json_integer_value(dim);
	}
	if (!count || count > MFS_DIMS_MAX)
		return refuse(f, MFS_E_INVALID, part, "tensor '%.64s': no shape of a tensor",
			      tensor_of(f, part)->name);
	was->size = *weights * was->layout->block_bytes;
	return 0;
}

static int read_offset(const struct finder *f, mfs_bnb_part part, const json_t *state, float *out)
{
	const json_t *offset = json_object_get(state, "nested_offset");

	*out = (float)json_number_value(offset);
	if (json_is_number(offset) && isfinite(*out))
		return 0;
	return refuse(f, MFS_E_INVALID, part, "tensor '%.64s': nested_offset is no finite number",
		      tensor_of(f, part)->name);
}

static int check_kind(const struct finder *f, mfs_bnb_part part, const json_t *state, bool nested)
{
	const char *type = json_string_value(json_object_get(state, "quant_type"));

	if (!type || strcmp(type, "nf4") != 0)
		return refuse(f, MFS_E_UNSUPPORTED, part,
			      "tensor '%.64s': of type '%.16s', only nf4 can be decoded",
			      tensor_of(f, part)->name, type ? type : "");
	if (!is_number(state, "blocksize", MFS_NF4_BLOCK) ||
	    (nested && (!is_number(state, "nested_blocksize", MFS_NF4_NESTED_BLOCK) ||
			!is_text(state, "nested_dtype", "float32"))))
		return refuse(f, MFS_E_UNSUPPORTED, part,
			      "tensor '%.64s': only blocks of %d weights and nested ones of %d F32 "
			      "numbers can be decoded",
			      tensor_of(f, part)->name, MFS_NF4_BLOCK, MFS_NF4_NESTED_BLOCK);
	return 0;
}

static int read_state(const struct finder *f, mfs_bnb_part part, const json_t *state,
		      mfs_bnb_part at, mfs_bnb_matrix *m)
{
	const mfs_import_tensor *codes = tensor_of(f, at);
	bool nested = json_object_get(state, "nested_blocksize");
	uint64_t weights = 0;
	int error = check_kind(f, part, state, nested);

	m->was = (mfs_import_tensor){.name = codes->name, .name_length = codes->name_length};
	if (!error)
		error = read_dtype(f, part, state, &m->was);
	if (!error)
		error = read_shape(f, part, state, &m->was, &weights);
	if (!error && nested)
		error = read_offset(f, part, state, &m->offset);
	if (error)
		return error;
	/* Codes may be stored as words: the last one has room for more. */
	if (codes->size != round_up(div_up(weights, 2), codes->layout->block_bytes))
		return refuse(f, MFS_E_INVALID, at,
			      "tensor '%.64s' does not have the codes of %" PRIu64 " weights",
			      codes->name, weights);
	return find_constants(f, at, weights, nested, m);
}

static int load_state(const struct finder *f, mfs_bnb_part part, json_t **out)
{
	const mfs_import_tensor *t = tensor_of(f, part);
	char text[STATE_MAX];
	json_error_t problem;
	int error;

	if (t->size > sizeof(text))
		return refuse(f, MFS_E_LIMIT, part, "tensor '%.64s' is over the limit of %u KiB",
			      t->name, STATE_MAX >> 10);
	error = read_tensor(f, part, text);
	if (error)
		return error;
	*out = json_loadb(text, t->size, JSON_REJECT_DUPLICATES, &problem);
	if (json_is_object(*out))
		return 0;
	json_decref(*out);
	return refuse(f, MFS_E_INVALID, part, "tensor '%.64s' is no JSON object", t->name);
}

/* Room for the next matrix of a file, zeroed; NULL without memory. */
static mfs_bnb_matrix *next_matrix(mfs_bnb *bnb)
{
	uint32_t room = bnb->room ? 2 * bnb->room : 64;
	mfs_bnb_matrix *more;

	if (bnb->count == bnb->room) {
		more = realloc(bnb->matrices, room * sizeof(*more));
		if (!more)
			return NULL;
		bnb->matrices = more;
		bnb->room = room;
	}
	memset(&bnb->matrices[bnb->count], 0, sizeof(*more));
	return &bnb->matrices[bnb->count];
}

/* The matrix that the tensor `part` describes. */
static int add_matrix(const struct finder *f, mfs_bnb_part part)
{
	const mfs_import_tensor *t = tensor_of(f, part);
	mfs_bnb_part codes = find(f, t->name, matrix_length(t));
	mfs_bnb_matrix *m;
	json_t *state = NULL;
	int error;

	if (codes.tensor == NO_NUMBER)
		return refuse(f, MFS_E_INVALID, part, "tensor '%.64s' belongs to no codes",
			      t->name);
	m = next_matrix(f->out[codes.file]);
	if (!m)
		return no_memory(f);
	m->codes = codes.tensor;
	error = load_state(f, part, &state);
	if (error)
		return error;
	error = read_state(f, part, state, codes, m);
	json_decref(state);
	mark_helper(f, part);
	f->out[codes.file]->count += !error;
	f->out[codes.file]->any = true;
	return error;
}

/* ---- all of them ---- */

static int by_codes(const void *a, const void *b)
{
	const mfs_bnb_matrix *x = a, *y = b;

	return (x->codes > y->codes) - (x->codes < y->codes);
}

/* Of one file: its matrices in their order, and no codes in two of them. */
static int sort_matrices(const struct finder *f, uint32_t file)
{
	mfs_bnb *bnb = f->out[file];

	if (bnb->count)
		qsort(bnb->matrices, bnb->count, sizeof(*bnb->matrices), by_codes);
	for (uint32_t i = 0; i < bnb->count; i++) {
		const mfs_bnb_part codes = {file, bnb->matrices[i].codes};

		if (bnb->helper[codes.tensor] || (i && bnb->matrices[i - 1].codes == codes.tensor))
			return refuse(f, MFS_E_INVALID, codes,
				      "tensor '%.64s' belongs to two matrices",
				      tensor_of(f, codes)->name);
	}
	return 0;
}

static int open_file(const struct finder *f, uint32_t file)
{
	const mfs_import *import = f->files[file].import;

	f->out[file] = calloc(1, sizeof(**f->out));
	if (!f->out[file])
		return no_memory(f);
	f->out[file]->helper = calloc(import->tensor_count + 1u, sizeof(bool));
	if (!f->out[file]->helper || mfs_import_index_open(&f->indexes[file], import) < 0)
		return no_memory(f);
	return 0;
}

static int add_matrices(const struct finder *f, uint32_t file)
{
	const mfs_import *import = f->files[file].import;
	int error = 0;

	for (uint32_t i = 0; i < import->tensor_count && !error; i++)
		if (matrix_length(&import->tensors[i]))
			error = add_matrix(f, (mfs_bnb_part){file, i});
	return error;
}

/* Calls `step` for each file that is there. */
static int each_file(const struct finder *f, int (*step)(const struct finder *f, uint32_t file))
{
	int error = 0;

	for (uint32_t i = 0; i < f->count && !error; i++)
		if (f->files[i].import)
			error = step(f, i);
	return error;
}

static bool any_matrix(const mfs_bnb_file *files, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		const mfs_import *import = files[i].import;

		for (uint32_t k = 0;
		     import && import->format == MFS_FORMAT_SAFETENSORS && k < import->tensor_count;
		     k++)
			if (matrix_length(&import->tensors[k]))
				return true;
	}
	return false;
}

int mfs_bnb_open(mfs_bnb **out, const mfs_bnb_file *files, uint32_t count, mfs_problem *why)
{
	struct finder f = {.files = files, .out = out, .count = count, .why = why};
	int error;

	memset(out, 0, count * sizeof(*out));
	if (!any_matrix(files, count))
		return 0;
	f.indexes = calloc(count, sizeof(*f.indexes));
	error = f.indexes ? each_file(&f, open_file) : no_memory(&f);
	if (!error)
		error = each_file(&f, add_matrices);
	if (!error)
		error = each_file(&f, sort_matrices);
	for (uint32_t i = 0; i < count; i++) {
		if (f.indexes)
			mfs_import_index_close(&f.indexes[i]);
		if (out[i] && (error || !out[i]->any)) {
			mfs_bnb_free(out[i]);
			out[i] = NULL;
		}
	}
	free(f.indexes);
	return error;
}

void mfs_bnb_free(mfs_bnb *bnb)
{
	if (!bnb)
		return;
	free(bnb->matrices);
	free(bnb->helper);
	free(bnb);
}

const mfs_bnb_matrix *mfs_bnb_find(const mfs_bnb *bnb, uint32_t tensor)
{
	const mfs_bnb_matrix key = {.codes = tensor};

	return bnb ? bsearch(&key, bnb->matrices, bnb->count, sizeof(key), by_codes) : NULL;
}

bool mfs_bnb_is_helper(const mfs_bnb *bnb, uint32_t tensor)
{
	return bnb && bnb->helper[tensor];
}
