/*
 * Models that --quantize made NF4, carried over. Their file looks like GGUF, but only
 * the container knows where codes end and constants begin, and the offsets of the
 * scales, which are in the terms of its views.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../../format/layout_nf4.h"
#include "carried.h"
#include "container.h"
#include "problem.h"

struct import_nf4 {
	const mfs_container *c;
	mfs_plan_file *file;
	uint32_t first, end; /* tensors of the file in the container */
	mfs_import_index index;
	mfs_import_tensor *tensors;
	uint32_t *numbers; /* of the tensors in the container */
	uint32_t count;
};

static bool is_nf4(const mfs_layout *layout)
{
	return layout->name_length == 3 && !memcmp(layout->name, "NF4", 3) &&
	       layout->block_bytes == 1 && layout->block_weights == 2;
}

static bool has_codes(const struct import_nf4 *x)
{
	for (uint32_t i = x->first; i < x->end; i++) {
		mfs_root_tensor t;

		mfs_root_get_tensor(&x->c->root, i, &t);
		if (is_nf4(&x->c->layouts[t.layout]))
			return true;
	}
	return false;
}

/* As it was imported when it was packed: what the importer knows is right but for the
 * codes and their constants. */
static bool take_tensor(struct import_nf4 *x, uint32_t number, const mfs_root_tensor *t)
{
	const mfs_layout *layout = &x->c->layouts[t->layout];
	uint32_t known = mfs_import_find(&x->index, t->name, t->name_length);
	mfs_import_tensor *out = &x->tensors[x->count];
	char *name;

	x->numbers[x->count++] = number;
	if (known != UINT32_MAX && !is_nf4(layout)) {
		*out = x->file->import.tensors[known];
		return true;
	}
	name = mfs_import_alloc(&x->file->import, t->name_length + 1u);
	if (!name)
		return false;
	memcpy(name, t->name, t->name_length);
	*out = (mfs_import_tensor){.name = name,
				   .name_length = t->name_length,
				   .layout = is_nf4(layout) ? mfs_layout_nf4() : layout,
				   .dim_count = t->dim_count,
				   .row_bytes = 1,
				   .slice_bytes = t->size,
				   .offset = t->file_offset,
				   .size = t->size};
	for (uint32_t i = 0; i < t->dim_count; i++)
		out->dims[i] = mfs_root_get_dim(&x->c->root, t->first_dim + i);
	return true;
}

static bool take_tensors(struct import_nf4 *x)
{
	uint32_t most = x->end - x->first;
	bool ok;

	x->tensors = mfs_import_alloc(&x->file->import, (most + 1u) * sizeof(*x->tensors));
	x->numbers = calloc(most + 1u, sizeof(*x->numbers));
	ok = x->tensors && x->numbers && !mfs_import_index_open(&x->index, &x->file->import);
	for (uint32_t i = x->first; i < x->end && ok; i++) {
		mfs_root_tensor t;

		mfs_root_get_tensor(&x->c->root, i, &t);
		if (!(t.flags & MFS_TENSOR_LITERAL))
			ok = take_tensor(x, i, &t);
	}
	mfs_import_index_close(&x->index);
	x->file->import.tensors = x->tensors;
	x->file->import.tensor_count = x->count;
	return ok;
}

/* By tensor of the import; NAN where no view of it is left. */
static bool find_offsets(struct import_nf4 *x)
{
	const mfs_root *root = &x->c->root;
	float *offsets = calloc(x->count + 1u, sizeof(*offsets));

	for (uint32_t i = 0; offsets && i < x->count; i++)
		offsets[i] = NAN;
	for (uint32_t i = 0; offsets && i < root->count[MFS_SEC_TERMS]; i++) {
		mfs_root_tensor t;
		mfs_root_term term;

		mfs_root_get_term(root, i, &term);
		mfs_root_get_tensor(root, term.tensor, &t);
		if (term.kind != MFS_TERM_NF4 || t.base < x->first || t.base >= x->end)
			continue;
		/* Literal bytes are left out, so its number is not larger. */
		for (uint32_t k = t.base - x->first + 1; k-- > 0;)
			if (k < x->count && x->numbers[k] == t.base) {
				offsets[k] = term.scale;
				break;
			}
	}
	x->file->nested_offsets = offsets;
	return offsets;
}

int mfs_carried_import_nf4(mfs_plan_file *file, mfs_problem *why)
{
	const mfs_container *c = file->source.u.packed.container;
	uint32_t number = file->carried_number;
	struct import_nf4 x = {.c = c,
			       .file = file,
			       .first = container_first_tensor(c, number),
			       .end = container_first_tensor(c, number + 1)};
	bool ok = !has_codes(&x) || (take_tensors(&x) && find_offsets(&x));

	free(x.numbers);
	return ok ? 0 : mfs_problem_no_memory(why);
}
