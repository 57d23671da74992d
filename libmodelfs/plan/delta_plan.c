#include "delta_plan.h"

#include <stdlib.h>
#include <string.h>

#include "problem.h"

/* The tensors of a base, by name. */
struct names {
	const mfs_plan *plan;
	uint32_t *tensor;
	uint32_t count;
};

static int compare_names(const mfs_root_tensor *a, const mfs_root_tensor *b)
{
	size_t shorter = a->name_length < b->name_length ? a->name_length : b->name_length;
	int order = memcmp(a->name, b->name, shorter);

	return order ? order : (int)a->name_length - (int)b->name_length;
}

static int by_name(const void *a, const void *b, void *user)
{
	const mfs_plan *plan = user;

	return compare_names(&plan->tensors[*(const uint32_t *)a].record,
			     &plan->tensors[*(const uint32_t *)b].record);
}

static bool is_named(const mfs_plan_tensor *t, uint32_t file)
{
	return t->record.file == file && !(t->record.flags & MFS_TENSOR_LITERAL);
}

static int names_open(struct names *out, mfs_plan *plan, uint32_t file)
{
	*out = (struct names){.plan = plan, .tensor = calloc(plan->tensor_count + 1u, 4)};
	if (!out->tensor)
		return MFS_E_MEMORY;
	for (uint32_t i = 0; i < plan->tensor_count; i++)
		if (is_named(&plan->tensors[i], file))
			out->tensor[out->count++] = i;
	qsort_r(out->tensor, out->count, sizeof(*out->tensor), by_name, plan);
	return 0;
}

static uint32_t names_find(const struct names *names, const mfs_root_tensor *like)
{
	uint32_t low = 0, high = names->count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		int order =
		    compare_names(like, &names->plan->tensors[names->tensor[middle]].record);

		if (!order)
			return names->tensor[middle];
		if (order > 0)
			low = middle + 1;
		else
			high = middle;
	}
	return MFS_NO_TENSOR;
}

/* What computing a view takes must be stored as it is. */
static bool is_operand(const mfs_plan *plan, uint32_t tensor)
{
	for (uint32_t i = 0; i < plan->term_count; i++)
		for (int k = 0; k < MFS_TERM_OPERANDS; k++)
			if (plan->terms[i].operand[k] == tensor)
				return true;
	return false;
}

static bool same_shape(const mfs_plan_tensor *a, const mfs_plan_tensor *b)
{
	if (a->record.layout != b->record.layout || a->record.size != b->record.size ||
	    a->record.slice_blocks != b->record.slice_blocks ||
	    a->record.dim_count != b->record.dim_count)
		return false;
	for (uint32_t i = 0; i < a->record.dim_count; i++)
		if (a->dims[i] != b->dims[i])
			return false;
	return true;
}

/* What a base shares with an earlier tensor is stored there; of a delta's base it
 * must be the bytes themselves. A tensor that is cut as its base cannot share spans that
 * are cut otherwise. */
static void match(mfs_plan *plan, const struct names *names, uint32_t tensor)
{
	mfs_plan_tensor *t = &plan->tensors[tensor];
	uint32_t number = names_find(names, &t->record);
	const mfs_plan_tensor *base;

	if (number == MFS_NO_TENSOR || !same_shape(&plan->tensors[number], t) ||
	    is_operand(plan, tensor))
		return;
	if (plan->tensors[number].twin != MFS_NO_TENSOR)
		number = plan->tensors[number].twin;
	base = &plan->tensors[number];
	if (plan->files[base->record.file].delta_of)
		return;
	t->delta_base = number;
	if (t->record.span_blocks != base->record.span_blocks)
		mfs_plan_unshare(t);
	t->record.span_blocks = base->record.span_blocks;
	t->spans = base->spans;
	mfs_plan_note_span(plan, t);
}

static uint32_t file_named(const mfs_plan *plan, const char *name)
{
	for (uint32_t i = 0; i < plan->file_count; i++)
		if (!strcmp(plan->files[i].name, name))
			return i;
	return MFS_NO_FILE;
}

int mfs_plan_match_deltas(mfs_plan *plan, mfs_problem *why)
{
	for (uint32_t i = 0; i < plan->file_count; i++) {
		mfs_plan_file *file = &plan->files[i];
		struct names names;
		uint32_t base;

		if (!file->delta_of)
			continue;
		base = file_named(plan, file->delta_of);
		if (base == MFS_NO_FILE || base == i || plan->files[base].delta_of)
			return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
					       "%s: its base '%s' is not a model of this container",
					       file->path, file->delta_of);
		file->record.base = base;
		if (names_open(&names, plan, base))
			return mfs_problem_no_memory(why);
		for (uint32_t t = 0; t < plan->tensor_count; t++)
			if (is_named(&plan->tensors[t], i) &&
			    plan->tensors[t].twin == MFS_NO_TENSOR)
				match(plan, &names, t);
		free(names.tensor);
	}
	return 0;
}
