#include "view.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../format/check.h"
#include "../../format/dequant.h"
#include "../../format/layout_ggml.h"
#include "operand_size.h"
#include "problem.h"

static const struct {
	const char *name;
	uint32_t ggml_type;
} types[MFS_VIEW_TYPES] = {
    {"f32", MFS_GGML_F32}, {"f16", MFS_GGML_F16}, {"bf16", MFS_GGML_BF16}, {"q8_0", MFS_GGML_Q8_0}};

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
	free(view->head);
	free(view->infos);
	free(view);
}

/* The source of a view: what is not the base's. */
static int read_view(mfs_source *source, uint64_t offset, void *buffer, size_t length)
{
	const mfs_view *view = source->context;

	if (range_ok(offset, length, view->head_size))
		memcpy(buffer, view->head + offset, length);
	else if (view->file_type_at && offset == view->file_type_at && length == 4)
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
		return mfs_problem_no_memory(why);
	}
	source.name = file.path;
	file.source = source;
	/* Of a base that is in the container already, this is all that is known. */
	file.found.st_mtim.tv_sec = from->record.mtime_seconds;
	file.found.st_mtim.tv_nsec = from->record.mtime_nanoseconds;
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
			return mfs_problem_no_memory(why);
		}
		error = add_view(plan, name, base, note, view, why);
		free(name);
	}
	return error;
}

static int add_merged(mfs_plan *plan, const char *label, const char *name, const char *base,
		      const char *note, mfs_view *view, mfs_problem *why)
{
	char path[3 * MFS_NAME_MAX];

	if (!view)
		return mfs_problem_no_memory(why);
	snprintf(path, sizeof(path), "merged/%s/%s", label, name);
	if (mfs_path_ok(path, strlen(path)))
		return add_view(plan, path, base, note, view, why);
	mfs_view_free(view);
	return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX, "%s: too long a name for a view",
			       path);
}

int mfs_views_add_file(mfs_plan *plan, const char *label, const char *name, const char *base,
		       const mfs_view_part *parts, uint32_t count, const char *note,
		       mfs_problem *why)
{
	return add_merged(plan, label, name, base, note, new_view(MFS_VIEW_KEEP, parts, count),
			  why);
}

int mfs_views_add_text(mfs_plan *plan, const char *label, const char *name, const char *base,
		       char *text, const char *note, mfs_problem *why)
{
	mfs_view *view = new_view(MFS_VIEW_KEEP, NULL, 0);

	if (view) {
		view->head = (uint8_t *)text;
		view->head_size = strlen(text);
		view->text = true;
	} else {
		free(text);
	}
	return add_merged(plan, label, name, base, note, view, why);
}

/* BF16 and F16 of what is stored as NF4. */
static int add_decoded(mfs_plan *plan, const char *label, const char *base, const char *end,
		       mfs_problem *why)
{
	static const unsigned wanted[] = {2, 1}; /* bf16, f16 */
	int error = 0;

	for (size_t i = 0; i < sizeof(wanted) / sizeof(*wanted) && !error; i++) {
		mfs_view *view = new_view(types[wanted[i]].ggml_type, NULL, 0);
		char name[2 * MFS_NAME_MAX];

		if (!view)
			return mfs_problem_no_memory(why);
		snprintf(name, sizeof(name), "views/%s.%s.%s", label, types[wanted[i]].name, end);
		if (mfs_path_ok(name, strlen(name))) {
			error = add_view(plan, name, base, "nf4", view, why);
			continue;
		}
		mfs_view_free(view);
		error = mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
					"%s: too long a name for a view", name);
	}
	return error;
}

int mfs_views_add_nf4(mfs_plan *plan, const char *label, const char *base, mfs_problem *why)
{
	return add_decoded(plan, label, base, "gguf", why);
}

int mfs_views_add_bnb(mfs_plan *plan, const char *label, const char *base, mfs_problem *why)
{
	return add_decoded(plan, label, base, "safetensors", why);
}

/* ---- spans ---- */

static int cut(const mfs_plan *plan, mfs_plan_tensor *t, mfs_problem *why)
{
	const mfs_plan_tensor *base = &plan->tensors[t->record.base];
	uint64_t weights = t->layout->block_weights, base_weights = t->base_block_weights;
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

/* ---- what reading them takes ---- */

static mfs_operand_tensor operand_of(const mfs_plan *plan, uint32_t tensor)
{
	const mfs_plan_tensor *t;

	if (tensor == MFS_NO_TENSOR)
		return (mfs_operand_tensor){0, 0};
	t = &plan->tensors[tensor];
	return (mfs_operand_tensor){
	    t->record.size / t->layout->block_bytes * t->layout->block_weights, t->record.size};
}

static uint64_t term_bytes(const mfs_plan *plan, const mfs_root_term *term)
{
	mfs_operand_tensor operand[MFS_TERM_OPERANDS];
	mfs_operand_size size;

	for (unsigned k = 0; k < MFS_TERM_OPERANDS; k++)
		operand[k] = operand_of(plan, term->operand[k]);
	size = mfs_operand_size_of(term, operand_of(plan, term->tensor).weights, operand);
	return size.kept + size.loading;
}

/* The new tensor whose operands take most, and how much; 0: there is none. */
static uint64_t most_operands(const mfs_plan *plan, uint32_t *tensor)
{
	uint64_t bytes = 0, most = 0;

	for (uint32_t i = 0; i < plan->term_count; i++) {
		const mfs_root_term *term = &plan->terms[i];

		if (!i || term->tensor != term[-1].tensor)
			bytes = 0;
		bytes += term_bytes(plan, term);
		if (bytes <= most || plan->tensors[term->tensor].stored)
			continue;
		most = bytes;
		*tensor = term->tensor;
	}
	return most;
}

int mfs_views_remark_memory(mfs_plan *plan, mfs_problem *why)
{
	uint32_t tensor = 0;
	uint64_t bytes = most_operands(plan, &tensor), mib = (bytes >> 20) + 1;
	const mfs_root_tensor *t;
	mfs_plan_file *file;

	if (bytes <= MFS_OPERAND_MEMORY)
		return 0;
	t = &plan->tensors[tensor].record;
	file = &plan->files[t->file];
	if (!file->remark &&
	    asprintf(&file->remark,
		     "%s: tensor '%.*s' needs %" PRIu64
		     " MiB of memory for the matrices that are merged into it: on machines of less "
		     "than %" PRIu64 " MiB mount with -o matrices=%" PRIu64 "M",
		     file->name, t->name_length, t->name, mib, mib * MFS_OPERAND_SHARE, mib) < 0) {
		file->remark = NULL;
		return mfs_problem_no_memory(why);
	}
	return 0;
}
