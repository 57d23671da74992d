#include "plan_sort.h"

#include <stdlib.h>
#include <string.h>

/* The new number of each tensor, or NULL without memory. */
static uint32_t *new_numbers(const mfs_plan *plan)
{
	uint32_t *next = calloc(plan->file_count + 1u, sizeof(*next));
	uint32_t *numbers = calloc(plan->tensor_count + 1u, sizeof(*numbers));

	for (uint32_t i = 0; next && i < plan->tensor_count; i++)
		next[plan->tensors[i].record.file + 1]++;
	for (uint32_t f = 0; next && f < plan->file_count; f++)
		next[f + 1] += next[f];
	for (uint32_t i = 0; next && numbers && i < plan->tensor_count; i++)
		numbers[i] = next[plan->tensors[i].record.file]++;
	if (!next) {
		free(numbers);
		numbers = NULL;
	}
	free(next);
	return numbers;
}

static void renumber(uint32_t *tensor, const uint32_t *numbers)
{
	if (*tensor != MFS_NO_TENSOR)
		*tensor = numbers[*tensor];
}

static int order_tensors(mfs_plan *plan, const uint32_t *numbers)
{
	mfs_plan_tensor *sorted = calloc(plan->tensor_count + 1u, sizeof(*sorted));

	if (!sorted)
		return MFS_E_MEMORY;
	for (uint32_t i = 0; i < plan->tensor_count; i++) {
		mfs_plan_tensor *t = &sorted[numbers[i]];

		*t = plan->tensors[i];
		renumber(&t->record.base, numbers);
		renumber(&t->twin, numbers);
	}
	free(plan->tensors);
	plan->tensors = sorted;
	plan->tensor_room = plan->tensor_count + 1;
	return 0;
}

static int order_extents(mfs_plan *plan, const uint32_t *numbers)
{
	mfs_root_extent *sorted = calloc(plan->extent_count + 1u, sizeof(*sorted));
	uint32_t n = 0;

	if (!sorted)
		return MFS_E_MEMORY;
	for (uint32_t i = 0; i < plan->file_count; i++) {
		mfs_root_file *f = &plan->files[i].record;

		if (f->extent_count)
			memcpy(sorted + n, plan->extents + f->first_extent,
			       f->extent_count * sizeof(*sorted));
		f->first_extent = n;
		n += (uint32_t)f->extent_count;
	}
	for (uint32_t i = 0; i < n; i++)
		if (sorted[i].kind == MFS_EXTENT_TENSOR)
			sorted[i].tensor = numbers[sorted[i].tensor];
	free(plan->extents);
	plan->extents = sorted;
	plan->extent_room = plan->extent_count + 1;
	return 0;
}

/* They are sorted later. */
static void order_terms(mfs_plan *plan, const uint32_t *numbers)
{
	for (uint32_t i = 0; i < plan->term_count; i++) {
		mfs_root_term *term = &plan->terms[i];

		renumber(&term->tensor, numbers);
		for (int k = 0; k < MFS_TERM_OPERANDS; k++)
			renumber(&term->operand[k], numbers);
	}
}

int mfs_plan_sort(mfs_plan *plan)
{
	uint32_t *numbers = new_numbers(plan);
	int error = numbers ? order_tensors(plan, numbers) : MFS_E_MEMORY;

	if (!error)
		error = order_extents(plan, numbers);
	if (!error)
		order_terms(plan, numbers);
	free(numbers);
	return error;
}
