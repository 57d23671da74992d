#include "view.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../format/check.h"
#include "../format/dequant.h"
#include "../format/layout_ggml.h"
#include "../format/layout_nf4.h"
#include "../format/store.h"
#include "gguf_header.h"
#include "problem.h"

static const struct {
	const char *name;
	uint32_t ggml_type;
} types[MFS_VIEW_TYPES] = {
    {"f32", MFS_GGML_F32}, {"f16", MFS_GGML_F16}, {"bf16", MFS_GGML_BF16}, {"q8_0", MFS_GGML_Q8_0}};

static int no_memory(mfs_problem *why)
{
	return mfs_problem_set(why, MFS_E_MEMORY, UINT64_MAX, "out of memory");
}

const char *mfs_view_type_name(unsigned i)
{
	return types[i].name;
}

/* ---- what is asked for ---- */

static bool is_ggml_type(const char *name, size_t length)
{
	for (uint32_t i = 0; i < mfs_layout_ggml_count(); i++) {
		const mfs_layout *layout = mfs_layout_ggml_row(i);

		if (layout->name_length == length && !strncasecmp(layout->name, name, length))
			return true;
	}
	return false;
}

static int parse_type(const char *name, size_t length, unsigned *out, mfs_problem *why)
{
	for (unsigned i = 0; i < MFS_VIEW_TYPES; i++)
		if (strlen(types[i].name) == length && !strncasecmp(types[i].name, name, length)) {
			*out |= 1u << i;
			return 0;
		}
	if (is_ggml_type(name, length))
		return mfs_problem_set(
		    why, MFS_E_UNSUPPORTED, UINT64_MAX,
		    "there are no views of type %.*s: rounding to so few bits again erases the "
		    "adapter (of a change of 1 %% of the weights less than 1 %% is left in Q4_K); "
		    "f16 and q8_0 keep it",
		    (int)length, name);
	return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
			       "views of type '%.*s' are not known: f32, f16, bf16 and q8_0 are",
			       (int)length, name);
}

int mfs_views_parse(const char *text, unsigned *out, mfs_problem *why)
{
	int error = 0;

	*out = 0;
	if (!strcmp(text, "none"))
		return 0;
	if (!strcmp(text, "all")) {
		*out = MFS_VIEWS_ALL;
		return 0;
	}
	while (!error) {
		size_t length = strcspn(text, ",");

		error = parse_type(text, length, out, why);
		if (!text[length])
			break;
		text += length + 1;
	}
	return error;
}

void mfs_view_free(mfs_view *view)
{
	if (!view)
		return;
	free(view->parts);
	free(view->infos);
	free(view);
}

/* The source of a view: what is not the base's. */
static int read_view(mfs_source *source, uint64_t offset, void *buffer, size_t length)
{
	const mfs_view *view = source->context;

	if (view->file_type_at && offset == view->file_type_at && length == 4)
		memcpy(buffer, view->file_type, 4);
	else if (offset >= view->infos_at &&
		 range_ok(offset - view->infos_at, length, view->infos_size))
		memcpy(buffer, view->infos + (offset - view->infos_at), length);
	else
		return MFS_E_ARGUMENT;
	return 0;
}

static mfs_view *new_view(uint32_t ggml_type, const mfs_view_part *parts, uint32_t count)
{
	mfs_view *view = calloc(1, sizeof(*view));

	if (!view)
		return NULL;
	view->ggml_type = ggml_type;
	view->part_count = count;
	view->parts = calloc(count + 1u, sizeof(*parts));
	if (!view->parts) {
		free(view);
		return NULL;
	}
	if (count)
		memcpy(view->parts, parts, count * sizeof(*parts));
	return view;
}

static int add_view(mfs_plan *plan, const char *name, const char *base, const char *note,
		    mfs_view *view, mfs_problem *why)
{
	const mfs_plan_file *from = mfs_plan_find(plan, base);
	mfs_plan_file file = {.view = view, .base = base};
	mfs_source source = {.read_at = read_view, .u.fd = -1, .context = view};

	file.path = strdup(name);
	file.note = strdup(note);
	if (!file.path || !file.note) {
		free(file.path);
		free(file.note);
		mfs_view_free(view);
		return no_memory(why);
	}
	source.name = file.path;
	file.source = source;
	file.found.st_mtim = from->found.st_mtim;
	file.import.format = from->import.format;
	file.record.kind = MFS_FILE_VIEW;
	return mfs_plan_append(plan, &file, name, why);
}

int mfs_views_add(mfs_plan *plan, const char *label, const char *base, const mfs_view_part *parts,
		  uint32_t count, const char *note, mfs_problem *why)
{
	int error = 0;

	for (unsigned i = 0; i < MFS_VIEW_TYPES && !error; i++) {
		mfs_view *view;
		char *name = NULL;

		if (!(plan->views & 1u << i))
			continue;
		view = new_view(types[i].ggml_type, parts, count);
		if (!view || asprintf(&name, "merged/%s.%s.gguf", label, types[i].name) < 0) {
			mfs_view_free(view);
			return no_memory(why);
		}
		error = add_view(plan, name, base, note, view, why);
		free(name);
	}
	return error;
}

int mfs_views_add_nf4(mfs_plan *plan, const char *label, const char *base, mfs_problem *why)
{
	static const unsigned wanted[] = {2, 1}; /* bf16, f16 */
	int error = 0;

	for (size_t i = 0; i < sizeof(wanted) / sizeof(*wanted) && !error; i++) {
		mfs_view *view = new_view(types[wanted[i]].ggml_type, NULL, 0);
		char name[2 * MFS_NAME_MAX];

		if (!view)
			return no_memory(why);
		snprintf(name, sizeof(name), "views/%s.%s.gguf", label, types[wanted[i]].name);
		error = mfs_path_ok(name, strlen(name))
			    ? add_view(plan, name, base, "nf4", view, why)
			    : mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
					      "%s: too long a name for a view", name);
	}
	return error;
}

/* ---- which type a tensor has in a view ---- */

/* Matrices that programs expect in F32: ggml's operations on them know no other
 * type, or converters never write one. */
static bool stays_float(const mfs_import_tensor *t)
{
	static const char *const parts[] = {"ffn_gate_inp",
					    "pos_embd.weight",
					    "token_types.weight",
					    "ssm_conv1d",
					    "ssm_a",
					    "shortconv.conv",
					    "time_mix_",
					    "attn_rel_b.weight",
					    "altup",
					    "laurel",
					    "per_layer_model_proj",
					    "_norm"};

	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++)
		if (strstr(t->name, parts[i]))
			return true;
	return false;
}

/* Numbers that are no weights, or more than an F32 holds. */
static bool is_number_type(const mfs_layout *layout)
{
	static const char *const names[] = {"I8", "I16", "I32", "I64", "F64"};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (strlen(names[i]) == layout->name_length &&
		    !memcmp(names[i], layout->name, layout->name_length))
			return true;
	return false;
}

static const mfs_dequant *dequant_of(const mfs_layout *layout)
{
	return mfs_dequant_named(layout->name, layout->name_length, layout->block_bytes,
				 layout->block_weights);
}

static bool is_type(const mfs_layout *layout, uint32_t ggml_type)
{
	const mfs_dequant *d = dequant_of(layout);

	return d && d->ggml_type == ggml_type;
}

/* The layout that a tensor of the base has in a view. Vectors stay as they are;
 * Q8_0 wants rows of whole blocks. */
static const mfs_layout *layout_in_view(const mfs_import_tensor *t, uint32_t ggml_type)
{
	bool matrix = mfs_import_dim(t, 1) * mfs_import_dim(t, 2) * mfs_import_dim(t, 3) > 1;

	if (!matrix || is_number_type(t->layout) ||
	    (is_type(t->layout, MFS_GGML_F32) && stays_float(t)))
		return t->layout;
	if (ggml_type == MFS_GGML_Q8_0 && mfs_import_dim(t, 0) % 32)
		ggml_type = MFS_GGML_F16;
	return mfs_layout_ggml(ggml_type);
}

/* ---- building ---- */

struct builder {
	mfs_plan *plan;
	mfs_problem *why;
	uint32_t file, base; /* numbers of the files */
	mfs_view *view;
	mfs_import_index index; /* of the base */
	uint32_t *numbers;	/* of the base's tensors in the plan */
	uint32_t **part_numbers;
	uint64_t position; /* in the view */
};

static const mfs_import *base_import(const struct builder *b)
{
	return &b->plan->files[b->base].import;
}

#define refuse(b, error, ...) mfs_problem_set((b)->why, (error), UINT64_MAX, __VA_ARGS__)

/* The base's extent that holds `offset`. */
static uint64_t extent_at(const struct builder *b, uint64_t offset)
{
	const mfs_root_file *f = &b->plan->files[b->base].record;
	uint64_t low = 0, high = f->extent_count;

	while (high - low > 1) {
		uint64_t middle = low + (high - low) / 2;

		if (b->plan->extents[f->first_extent + middle].file_offset <= offset)
			low = middle;
		else
			high = middle;
	}
	return f->first_extent + low;
}

/* Bytes of the base, as extents over what holds them. */
static int add_range(struct builder *b, uint64_t offset, uint64_t length)
{
	uint64_t i = extent_at(b, offset);
	int error = 0;

	while (length && !error) {
		mfs_root_extent e = b->plan->extents[i++];
		uint64_t skip = offset - e.file_offset, n = e.length - skip;

		if (n > length)
			n = length;
		e.file_offset = b->position;
		e.length = n;
		if (e.kind == MFS_EXTENT_TENSOR)
			e.source_offset += skip;
		error = mfs_plan_add_extent(b->plan, &e, b->why);
		b->position += n;
		offset += n;
		length -= n;
	}
	return error;
}

static int add_literal(struct builder *b, uint64_t length)
{
	uint64_t end = b->position + length;
	int error = mfs_plan_add_literal(b->plan, b->file, b->position, end, b->why);

	b->position = end;
	return error;
}

static int pad(struct builder *b, uint64_t alignment)
{
	uint64_t end = round_up(b->position, alignment);
	int error = end > b->position ? mfs_plan_add_zeros(b->plan, b->position, end, b->why) : 0;

	b->position = end;
	return error;
}

/* ---- derived tensors ---- */

static int add_term(struct builder *b, uint32_t tensor, uint32_t part, const mfs_adapter_pair *pair)
{
	const mfs_view_part *p = &b->view->parts[part];
	mfs_plan *plan = b->plan;
	mfs_root_term term = {.tensor = tensor,
			      .kind = MFS_TERM_LORA,
			      .flags = pair->transposed ? MFS_TERM_TRANSPOSED : 0,
			      .operand = {b->part_numbers[part][pair->a],
					  b->part_numbers[part][pair->b], MFS_NO_TENSOR},
			      .scale = mfs_adapter_scale(p->adapter, pair, p->scale),
			      .rank = pair->rank};

	if (term.scale - term.scale != 0)
		return refuse(b, MFS_E_INVALID, "%s: its scale is over the range of F32", p->file);
	return mfs_plan_add_term(plan, &term, b->why);
}

/* The constants of NF4 codes follow them in the import. */
static int add_constants(struct builder *b, uint32_t tensor, uint32_t number)
{
	const mfs_import *base = base_import(b);
	const mfs_root_term term = {.tensor = tensor,
				    .kind = MFS_TERM_NF4,
				    .operand = {b->numbers[number + 1], b->numbers[number + 2],
						b->numbers[base->tensor_count - 1]}};

	return mfs_plan_add_term(b->plan, &term, b->why);
}

static bool is_nf4(const mfs_import_tensor *t)
{
	return t->layout == mfs_layout_nf4();
}

static bool is_merged(const struct builder *b, uint32_t number)
{
	for (uint32_t i = 0; i < b->view->part_count; i++)
		if (mfs_adapter_find(b->view->parts[i].adapter, number))
			return true;
	return false;
}

/* What cannot be computed is refused by name. */
static int check_types(const struct builder *b, const mfs_import_tensor *t, const mfs_layout *to)
{
	const char *base = b->plan->files[b->base].name;
	const mfs_dequant *type = dequant_of(to);

	if (!is_nf4(t) && !dequant_of(t->layout))
		return refuse(
		    b, MFS_E_UNSUPPORTED,
		    "%s: tensor '%s' is of type %.*s, which cannot be merged or converted; "
		    "--views=none packs adapters without merged views",
		    base, t->name, t->layout->name_length, t->layout->name);
	if (!type || !mfs_store_ggml(type->ggml_type))
		return refuse(b, MFS_E_UNSUPPORTED,
			      "%s: tensor '%s' is a vector of type %.*s, which cannot be merged",
			      base, t->name, t->layout->name_length, t->layout->name);
	return 0;
}

static int add_derived(struct builder *b, uint32_t number, const mfs_layout *layout, uint64_t size)
{
	const mfs_import_tensor *t = &base_import(b)->tensors[number];
	uint32_t tensor = b->plan->tensor_count;
	int error = check_types(b, t, layout);

	if (!error)
		error = mfs_plan_add_derived(b->plan, b->file, t, layout, b->numbers[number],
					     b->position, size, b->why);
	if (!error && is_nf4(t))
		error = add_constants(b, tensor, number);
	for (uint32_t i = 0; i < b->view->part_count && !error; i++) {
		const mfs_adapter_pair *pair = mfs_adapter_find(b->view->parts[i].adapter, number);

		if (pair)
			error = add_term(b, tensor, i, pair);
	}
	b->position += size;
	return error;
}

/* ---- a GGUF base ---- */

static uint64_t size_in_view(const mfs_import_tensor *t, const mfs_layout *layout)
{
	/* The base's import has proved that there are less than 2^63 weights. */
	uint64_t weights = t->size / t->layout->block_bytes * t->layout->block_weights;

	/* The last byte of codes may hold one weight. */
	if (is_nf4(t) && mfs_import_dim(t, 0) % 2 && mfs_import_dim(t, 1) % 2 &&
	    mfs_import_dim(t, 2) % 2 && mfs_import_dim(t, 3) % 2)
		weights--;
	return weights / layout->block_weights * layout->block_bytes;
}

/* Types and offsets as the view has them. Tensors follow each other in the order
 * of their descriptions, each padded, as llama.cpp wants them. */
static int describe(struct builder *b)
{
	mfs_view *v = b->view;
	uint64_t offset = 0;
	mfs_gguf_info info;

	for (size_t at = 0; mfs_gguf_info_next(v->infos, v->infos_size, &at, &info);) {
		uint32_t i = mfs_import_find(&b->index, info.name, info.name_length);

		store_le64(v->infos + info.offset_at, offset);
		if (i == UINT32_MAX)
			continue; /* it has no bytes */
		store_le32(v->infos + info.type_at,
			   layout_in_view(&base_import(b)->tensors[i], v->ggml_type)->type_id);
		offset += size_in_view(&base_import(b)->tensors[i],
				       layout_in_view(&base_import(b)->tensors[i], v->ggml_type));
		offset = round_up(offset, base_import(b)->gguf.alignment);
		if (offset > MFS_FILE_MAX / 2)
			return refuse(b, MFS_E_LIMIT, "%s: would be too large",
				      b->plan->files[b->file].name);
	}
	return 0;
}

static int add_head(struct builder *b)
{
	const mfs_gguf_facts *facts = &base_import(b)->gguf;
	mfs_view *v = b->view;
	int error = 0;

	v->infos_at = facts->infos;
	v->file_type_at = facts->file_type;
	store_le32(v->file_type, mfs_gguf_file_type(v->ggml_type));
	if (facts->file_type) {
		error = add_range(b, 0, facts->file_type);
		if (!error)
			error = add_literal(b, sizeof(v->file_type));
	}
	if (!error)
		error = add_range(b, b->position, facts->infos - b->position);
	if (!error && v->infos_size)
		error = add_literal(b, v->infos_size);
	return error ? error : pad(b, facts->alignment);
}

static int add_tensors(struct builder *b)
{
	const mfs_import *base = base_import(b);
	mfs_gguf_info info;
	int error = 0;

	for (size_t at = 0;
	     !error && mfs_gguf_info_next(b->view->infos, b->view->infos_size, &at, &info);) {
		uint32_t i = mfs_import_find(&b->index, info.name, info.name_length);
		const mfs_import_tensor *t = i == UINT32_MAX ? NULL : &base->tensors[i];
		const mfs_layout *layout = t ? layout_in_view(t, b->view->ggml_type) : NULL;

		if (!t)
			continue;
		if (layout == t->layout && !is_merged(b, i))
			error = add_range(b, t->offset, t->size);
		else
			error = add_derived(b, i, layout, size_in_view(t, layout));
		if (!error)
			error = pad(b, base->gguf.alignment);
	}
	return error;
}

static int build_gguf(struct builder *b)
{
	mfs_plan_file *base = &b->plan->files[b->base];
	int error = mfs_gguf_infos_read(&base->import, &base->source, &b->view->infos,
					&b->view->infos_size, b->why);

	if (!error)
		error = describe(b);
	if (!error)
		error = add_head(b);
	return error ? error : add_tensors(b);
}

/* ---- any view ---- */

/* Numbers in the plan of a file's tensors, in the order of its import. */
static uint32_t *numbers_of(const mfs_plan *plan, uint32_t file)
{
	const mfs_root_file *f = &plan->files[file].record;
	uint32_t *numbers = calloc(plan->files[file].import.tensor_count + 1u, sizeof(*numbers));
	uint32_t n = 0;

	for (uint64_t i = 0; numbers && i < f->extent_count; i++) {
		const mfs_root_extent *e = &plan->extents[f->first_extent + i];

		if (e->kind == MFS_EXTENT_TENSOR &&
		    !(plan->tensors[e->tensor].record.flags & MFS_TENSOR_LITERAL))
			numbers[n++] = e->tensor;
	}
	return numbers;
}

static int open_builder(struct builder *b)
{
	const mfs_plan_file *file = &b->plan->files[b->file];
	uint32_t parts = b->view->part_count;

	b->base = (uint32_t)(mfs_plan_find(b->plan, file->base) - b->plan->files);
	b->numbers = numbers_of(b->plan, b->base);
	b->part_numbers = calloc(parts + 1u, sizeof(*b->part_numbers));
	if (!b->numbers || !b->part_numbers || mfs_import_index_open(&b->index, base_import(b)) < 0)
		return no_memory(b->why);
	for (uint32_t i = 0; i < parts; i++) {
		const mfs_plan_file *part = mfs_plan_find(b->plan, b->view->parts[i].file);

		b->part_numbers[i] = numbers_of(b->plan, (uint32_t)(part - b->plan->files));
		if (!b->part_numbers[i])
			return no_memory(b->why);
	}
	return 0;
}

static void close_builder(struct builder *b)
{
	for (uint32_t i = 0; b->part_numbers && i < b->view->part_count; i++)
		free(b->part_numbers[i]);
	free(b->part_numbers);
	free(b->numbers);
	mfs_import_index_close(&b->index);
}

int mfs_view_build(mfs_plan *plan, uint32_t file, mfs_problem *why)
{
	struct builder b = {.plan = plan, .why = why, .file = file, .view = plan->files[file].view};
	uint32_t first = plan->extent_count;
	int error = open_builder(&b);

	if (!error)
		error = build_gguf(&b);
	close_builder(&b);
	plan->files[file].record.first_extent = first;
	plan->files[file].record.extent_count = plan->extent_count - first;
	plan->files[file].record.size = b.position;
	return error;
}

/* ---- spans ---- */

static int cut(const mfs_plan *plan, mfs_plan_tensor *t, mfs_problem *why)
{
	const mfs_plan_tensor *base = &plan->tensors[t->record.base];
	uint64_t weights = t->layout->block_weights, base_weights = base->layout->block_weights;
	uint64_t span = base->record.span_blocks * base_weights;
	uint64_t slice = base->record.slice_blocks * base_weights;
	const char *name = plan->files[t->record.file].name;

	/* Behind the last weight a block of the base may have room for more. */
	if (base->record.slice_blocks * base->layout->block_bytes == base->record.size)
		slice = t->record.size / t->layout->block_bytes * weights;
	if (span > slice)
		span = slice;
	/* Only the last span of a slice may end elsewhere. */
	if (slice % weights || (span % weights && span != slice))
		return mfs_problem_set(why, MFS_E_UNSUPPORTED, UINT64_MAX,
				       "%s: tensor '%.*s' is cut into spans of %" PRIu64
				       " weights, which are no whole blocks of type %.*s: choose a "
				       "--frame-size that is a power of 2",
				       name, t->record.name_length, t->record.name, span,
				       t->layout->name_length, t->layout->name);
	t->record.slice_blocks = slice / weights;
	if (span / weights * t->layout->block_bytes > MFS_FRAME_MAX)
		return mfs_problem_set(why, MFS_E_LIMIT, UINT64_MAX,
				       "%s: a span of tensor '%.*s' would have more than %u MiB: "
				       "choose a smaller --frame-size",
				       name, t->record.name_length, t->record.name,
				       MFS_FRAME_MAX >> 20);
	t->record.span_blocks = (uint32_t)(span / weights);
	t->spans = mfs_tensor_spans(&t->record, t->layout->block_bytes);
	return 0;
}

int mfs_views_cut(mfs_plan *plan, mfs_problem *why)
{
	int error = 0;

	for (uint32_t i = 0; i < plan->tensor_count && !error; i++)
		if ((plan->tensors[i].record.flags & MFS_TENSOR_DERIVED) &&
		    !plan->tensors[i].stored)
			error = cut(plan, &plan->tensors[i], why);
	return error;
}
