#include "bnb.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../format/check.h"
#include "../format/layout_safetensors.h"
#include "../format/mfs_endian.h"
#include "../format/nf4.h"

#define STATE_MAX (16u << 10) /* bytes of a description */
#define MAP_CODES 16
#define NO_NUMBER UINT32_MAX

struct mfs_bnb {
	mfs_bnb_matrix *matrices; /* sorted by codes */
	uint32_t count;
	bool *helper; /* by tensor of the import */
};

struct finder {
	const mfs_import *import;
	mfs_source *source;
	mfs_import_index index;
	mfs_bnb *out;
	mfs_problem *why;
};

#define refuse(f, error, t, ...)                                                                   \
	mfs_import_refuse((f)->why, (f)->source, (error), (t)->offset, __VA_ARGS__)

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

/* The tensor NAME.END, which must have `count` numbers of the type. */
static int find_part(const struct finder *f, const mfs_bnb_matrix *m, const char *end,
		     const char *dtype, uint64_t count, uint32_t *out)
{
	const mfs_import_tensor *codes = &f->import->tensors[m->codes], *t;
	char name[MFS_TENSOR_NAME_MAX + 32];
	int length = snprintf(name, sizeof(name), "%s%s", codes->name, end);

	*out = mfs_import_find(&f->index, name, (size_t)length);
	if (*out == NO_NUMBER)
		return refuse(f, MFS_E_INVALID, codes, "tensor '%.64s' has no '%s'", codes->name,
			      end);
	t = &f->import->tensors[*out];
	if (!is_named(t->layout, dtype) || t->size != count * t->layout->block_bytes)
		return refuse(f, MFS_E_INVALID, t,
			      "tensor '%.64s' does not have %" PRIu64 " numbers of type %s",
			      t->name, count, dtype);
	f->out->helper[*out] = true;
	return 0;
}

/* A reader of the container knows the map by heart: this must be the same. */
static int check_map(const struct finder *f, const mfs_bnb_matrix *m)
{
	uint8_t bytes[4 * MAP_CODES];
	const mfs_import_tensor *t;
	uint32_t number;
	mfs_nf4 nf4;
	int error = find_part(f, m, ".quant_map", "F32", MAP_CODES, &number);

	if (error)
		return error;
	t = &f->import->tensors[number];
	error = f->source->read_at(f->source, t->offset, bytes, sizeof(bytes));
	if (error)
		return refuse(f, error, t, "tensor '%.64s' cannot be read", t->name);
	mfs_nf4_init(&nf4);
	for (int i = 0; i < MAP_CODES; i++) {
		uint32_t bits;

		memcpy(&bits, &nf4.map[i], 4);
		if (load_le32(bytes + 4 * i) != bits)
			return refuse(f, MFS_E_UNSUPPORTED, t,
				      "tensor '%.64s' is not the map of NF4", t->name);
	}
	return 0;
}

static int find_constants(const struct finder *f, mfs_bnb_matrix *m, uint64_t weights, bool nested)
{
	uint64_t blocks = div_up(weights, MFS_NF4_BLOCK);
	int error = find_part(f, m, ".absmax", nested ? "U8" : "F32", blocks, &m->absmax);

	m->nested = m->nested_map = NO_NUMBER;
	if (!error && nested)
		error = find_part(f, m, ".nested_absmax", "F32",
				  div_up(blocks, MFS_NF4_NESTED_BLOCK), &m->nested);
	if (!error && nested)
		error = find_part(f, m, ".nested_quant_map", "F32", 256, &m->nested_map);
	return error ? error : check_map(f, m);
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

static int read_dtype(const struct finder *f, const mfs_import_tensor *t, const json_t *state,
		      mfs_import_tensor *was)
{
	static const char *const names[][2] = {
	    {"bfloat16", "BF16"}, {"float16", "F16"}, {"float32", "F32"}};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (is_text(state, "dtype", names[i][0])) {
			was->layout = mfs_layout_safetensors(names[i][1], false);
			return 0;
		}
	return refuse(f, MFS_E_UNSUPPORTED, t, "tensor '%.64s': a dtype that is not known",
		      t->name);
}

static int read_shape(const struct finder *f, const mfs_import_tensor *t, const json_t *state,
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
		return refuse(f, MFS_E_INVALID, t, "tensor '%.64s': no shape of a tensor", t->name);
	was->size = *weights * was->layout->block_bytes;
	return 0;
}

static int read_offset(const struct finder *f, const mfs_import_tensor *t, const json_t *state,
		       float *out)
{
	const json_t *offset = json_object_get(state, "nested_offset");

	*out = (float)json_number_value(offset);
	if (json_is_number(offset) && isfinite(*out))
		return 0;
	return refuse(f, MFS_E_INVALID, t, "tensor '%.64s': nested_offset is no finite number",
		      t->name);
}

static int check_kind(const struct finder *f, const mfs_import_tensor *t, const json_t *state,
		      bool nested)
{
	const char *type = json_string_value(json_object_get(state, "quant_type"));

	if (!type || strcmp(type, "nf4") != 0)
		return refuse(f, MFS_E_UNSUPPORTED, t,
			      "tensor '%.64s': of type '%.16s', only nf4 can be decoded", t->name,
			      type ? type : "");
	if (!is_number(state, "blocksize", MFS_NF4_BLOCK) ||
	    (nested && (!is_number(state, "nested_blocksize", MFS_NF4_NESTED_BLOCK) ||
			!is_text(state, "nested_dtype", "float32"))))
		return refuse(f, MFS_E_UNSUPPORTED, t,
			      "tensor '%.64s': only blocks of %d weights and nested ones of %d F32 "
			      "numbers can be decoded",
			      t->name, MFS_NF4_BLOCK, MFS_NF4_NESTED_BLOCK);
	return 0;
}

static int read_state(const struct finder *f, const mfs_import_tensor *t, const json_t *state,
		      mfs_bnb_matrix *m)
{
	const mfs_import_tensor *codes = &f->import->tensors[m->codes];
	bool nested = json_object_get(state, "nested_blocksize");
	uint64_t weights = 0;
	int error = check_kind(f, t, state, nested);

	m->was = (mfs_import_tensor){.name = codes->name, .name_length = codes->name_length};
	if (!error)
		error = read_dtype(f, t, state, &m->was);
	if (!error)
		error = read_shape(f, t, state, &m->was, &weights);
	if (!error && nested)
		error = read_offset(f, t, state, &m->offset);
	if (error)
		return error;
	/* Codes may be stored as words: the last one has room for more. */
	if (codes->size != round_up(div_up(weights, 2), codes->layout->block_bytes))
		return refuse(f, MFS_E_INVALID, codes,
			      "tensor '%.64s' does not have the codes of %" PRIu64 " weights",
			      codes->name, weights);
	return find_constants(f, m, weights, nested);
}

static int load_state(const struct finder *f, const mfs_import_tensor *t, json_t **out)
{
	char text[STATE_MAX];
	json_error_t problem;
	int error;

	if (t->size > sizeof(text))
		return refuse(f, MFS_E_LIMIT, t, "tensor '%.64s' is over the limit of %u KiB",
			      t->name, STATE_MAX >> 10);
	error = f->source->read_at(f->source, t->offset, text, t->size);
	if (error)
		return refuse(f, error, t, "tensor '%.64s' cannot be read", t->name);
	*out = json_loadb(text, t->size, JSON_REJECT_DUPLICATES, &problem);
	if (json_is_object(*out))
		return 0;
	json_decref(*out);
	return refuse(f, MFS_E_INVALID, t, "tensor '%.64s' is no JSON object", t->name);
}

static int add_matrix(const struct finder *f, uint32_t number)
{
	const mfs_import_tensor *t = &f->import->tensors[number];
	mfs_bnb_matrix *m = &f->out->matrices[f->out->count];
	json_t *state = NULL;
	int error;

	m->codes = mfs_import_find(&f->index, t->name, matrix_length(t));
	if (m->codes == NO_NUMBER)
		return refuse(f, MFS_E_INVALID, t, "tensor '%.64s' belongs to no codes", t->name);
	error = load_state(f, t, &state);
	if (error)
		return error;
	error = read_state(f, t, state, m);
	json_decref(state);
	f->out->helper[number] = true;
	f->out->count += !error;
	return error;
}

/* ---- all of them ---- */

static int by_codes(const void *a, const void *b)
{
	const mfs_bnb_matrix *x = a, *y = b;

	return (x->codes > y->codes) - (x->codes < y->codes);
}

static int check_codes(const struct finder *f)
{
	const mfs_bnb *bnb = f->out;

	for (uint32_t i = 0; i < bnb->count; i++) {
		const mfs_import_tensor *t = &f->import->tensors[bnb->matrices[i].codes];

		if (bnb->helper[bnb->matrices[i].codes] ||
		    (i && bnb->matrices[i - 1].codes == bnb->matrices[i].codes))
			return refuse(f, MFS_E_INVALID, t, "tensor '%.64s' belongs to two matrices",
				      t->name);
	}
	return 0;
}

static int find_all(struct finder *f, uint32_t count)
{
	mfs_bnb *bnb = f->out;
	int error = 0;

	bnb->matrices = calloc(count, sizeof(*bnb->matrices));
	bnb->helper = calloc(f->import->tensor_count, sizeof(*bnb->helper));
	if (!bnb->matrices || !bnb->helper || mfs_import_index_open(&f->index, f->import) < 0)
		return mfs_import_refuse(f->why, f->source, MFS_E_MEMORY, UINT64_MAX,
					 "out of memory");
	for (uint32_t i = 0; i < f->import->tensor_count && !error; i++)
		if (matrix_length(&f->import->tensors[i]))
			error = add_matrix(f, i);
	qsort(bnb->matrices, bnb->count, sizeof(*bnb->matrices), by_codes);
	return error ? error : check_codes(f);
}

int mfs_bnb_open(mfs_bnb **out, const mfs_import *import, mfs_source *source, mfs_problem *why)
{
	struct finder f = {.import = import, .source = source, .why = why};
	uint32_t count = 0;
	int error;

	*out = NULL;
	for (uint32_t i = 0; import->format == MFS_FORMAT_SAFETENSORS && i < import->tensor_count;
	     i++)
		count += matrix_length(&import->tensors[i]) > 0;
	if (!count)
		return 0;
	f.out = calloc(1, sizeof(*f.out));
	error = f.out ? find_all(&f, count)
		      : mfs_import_refuse(why, source, MFS_E_MEMORY, UINT64_MAX, "out of memory");
	mfs_import_index_close(&f.index);
	if (error)
		mfs_bnb_free(f.out);
	else
		*out = f.out;
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
