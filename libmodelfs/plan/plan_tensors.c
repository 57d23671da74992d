/* Layouts, extents and tensors of a plan, and how tensors are cut into spans. */
#include "plan.h"

#include <stdlib.h>
#include <string.h>

#include "../../format/check.h"
#include "../../format/nf4.h"
#include "problem.h"

/* Longer runs of literal bytes are cut: a frame's place counts from the first
 * one of its tensor in 40 bits. */
#define LITERAL_MAX (UINT64_C(1) << 38)
/* What is cut off the head of an opaque file in a small container. */
#define LEAD_LITERAL (3u * MFS_PLAN_LEAD_FRAME)
#define TENSOR_MAX   (UINT64_C(1) << 39)

/* ---- arrays that grow ---- */

static bool same_text(const char *a, const char *b, size_t length)
{
	return !memcmp(a, b, length);
}

static bool same_layout(const mfs_layout *a, const mfs_layout *b)
{
	if (a == b)
		return true;
	if (a->name_length != b->name_length || !same_text(a->name, b->name, a->name_length) ||
	    a->type_id != b->type_id || a->block_bytes != b->block_bytes ||
	    a->block_weights != b->block_weights || a->field_count != b->field_count ||
	    a->context != b->context ||
	    memcmp(a->context_offset, b->context_offset, sizeof(a->context_offset)) != 0)
		return false;
	for (uint32_t i = 0; i < a->field_count; i++) {
		const mfs_field *x = &a->field[i], *y = &b->field[i];

		if (x->name_length != y->name_length ||
		    !same_text(x->name, y->name, x->name_length) || x->cls != y->cls ||
		    x->transform != y->transform || x->width != y->width || x->bits != y->bits ||
		    x->run != y->run || x->offset != y->offset || x->size != y->size)
			return false;
	}
	return true;
}

int mfs_plan_layout(mfs_plan *plan, const mfs_layout *layout, uint32_t *out, mfs_problem *why)
{
	for (uint32_t i = 0; i < plan->layout_count; i++)
		if (same_layout(plan->layouts[i], layout)) {
			*out = i;
			return 0;
		}
	if (plan->layout_count == MFS_LAYOUTS_MAX)
		return mfs_problem_set(why, MFS_E_LIMIT, UINT64_MAX,
				       "the sources have more than %d tensor types",
				       MFS_LAYOUTS_MAX);
	if (!plan->layouts)
		plan->layouts = calloc(MFS_LAYOUTS_MAX, sizeof(const mfs_layout *));
	if (!plan->layouts)
		return mfs_problem_no_memory(why);
	*out = plan->layout_count;
	plan->layouts[plan->layout_count++] = layout;
	return 0;
}

/* Room for one more record in a growing array. */
static void *grow(void *array, uint32_t count, uint32_t *room, size_t record)
{
	uint32_t more = *room ? *room * 2 : 256;
	void *bigger;

	if (count < *room)
		return array;
	bigger = more > *room ? realloc(array, more * record) : NULL;
	if (bigger)
		*room = more;
	return bigger;
}

int mfs_plan_add_extent(mfs_plan *plan, const mfs_root_extent *extent, mfs_problem *why)
{
	mfs_root_extent *extents =
	    grow(plan->extents, plan->extent_count, &plan->extent_room, sizeof(*extents));

	if (!extents)
		return mfs_problem_no_memory(why);
	plan->extents = extents;
	extents[plan->extent_count++] = *extent;
	return 0;
}

/* ---- spans ---- */

/* Whole rows where a row fits into a frame, else as many blocks as fit. */
static uint32_t span_blocks(uint64_t budget, uint32_t block_bytes, uint64_t row_bytes)
{
	if (row_bytes && row_bytes % block_bytes == 0 && row_bytes <= budget)
		return (uint32_t)(round_down(budget, row_bytes) / block_bytes);
	return block_bytes <= budget ? (uint32_t)(budget / block_bytes) : 1;
}

void mfs_plan_note_span(mfs_plan *plan, const mfs_plan_tensor *t)
{
	uint64_t bytes = (uint64_t)t->record.span_blocks * t->layout->block_bytes;

	if (bytes > plan->span_max)
		plan->span_max = bytes;
}

static void set_spans(mfs_plan *plan, mfs_plan_tensor *t, uint64_t frame_bytes)
{
	mfs_root_tensor *r = &t->record;
	uint32_t block = t->layout->block_bytes;

	r->span_blocks = span_blocks(frame_bytes, block, t->row_bytes);
	if (r->span_blocks > r->slice_blocks)
		r->span_blocks = (uint32_t)r->slice_blocks;
	t->spans = mfs_tensor_spans(r, block);
	mfs_plan_note_span(plan, t);
}

/* ---- tensors and literal bytes ---- */

int mfs_plan_add_tensor(mfs_plan *plan, const mfs_plan_tensor *tensor, mfs_problem *why)
{
	mfs_plan_tensor *tensors =
	    grow(plan->tensors, plan->tensor_count, &plan->tensor_room, sizeof(*tensors));

	if (!tensors)
		return mfs_problem_no_memory(why);
	plan->tensors = tensors;
	tensors[plan->tensor_count++] = *tensor;
	return 0;
}

static int place_tensor(mfs_plan *plan, const mfs_plan_tensor *tensor, mfs_problem *why)
{
	const mfs_root_extent extent = {.file_offset = tensor->record.file_offset,
					.length = tensor->record.size,
					.tensor = plan->tensor_count,
					.kind = MFS_EXTENT_TENSOR};
	int error = mfs_plan_add_tensor(plan, tensor, why);

	return error ? error : mfs_plan_add_extent(plan, &extent, why);
}

static mfs_plan_tensor new_tensor(uint32_t file, const mfs_layout *layout, uint64_t offset,
				  uint64_t size)
{
	mfs_plan_tensor t = {.layout = layout,
			     .twin = MFS_NO_TENSOR,
			     .delta_base = MFS_NO_TENSOR,
			     .leader = MFS_NO_TENSOR};

	t.record.file = file;
	t.record.file_offset = offset;
	t.record.size = size;
	t.record.base = MFS_NO_TENSOR;
	for (int s = 0; s < MFS_SLOTS; s++)
		t.record.slot[s].tables = MFS_NO_TABLES;
	return t;
}

static int add_literal_piece(mfs_plan *plan, uint32_t file, uint64_t offset, uint64_t size,
			     uint64_t frame_bytes, mfs_problem *why)
{
	const mfs_layout *layout = mfs_layout_bytes();
	mfs_plan_tensor t = new_tensor(file, layout, offset, size);
	int error = mfs_plan_layout(plan, layout, &t.record.layout, why);

	t.record.cls = MFS_DISK_METADATA;
	t.record.flags = MFS_TENSOR_LITERAL;
	t.record.slice_blocks = size;
	t.row_bytes = 1;
	set_spans(plan, &t, frame_bytes);
	return error ? error : place_tensor(plan, &t, why);
}

int mfs_plan_add_literal(mfs_plan *plan, uint32_t file, uint64_t offset, uint64_t end,
			 mfs_problem *why)
{
	int error = 0;

	plan->files[file].literal_bytes += end - offset;
	if (plan->wants_lead && end - offset > 2 * LEAD_LITERAL) {
		plan->wants_lead = false;
		error =
		    add_literal_piece(plan, file, offset, LEAD_LITERAL, MFS_PLAN_LEAD_FRAME, why);
		offset += LEAD_LITERAL;
	}
	while (offset < end && !error) {
		uint64_t size = end - offset < LITERAL_MAX ? end - offset : LITERAL_MAX;

		error = add_literal_piece(plan, file, offset, size, plan->frame_bytes, why);
		offset += size;
	}
	return error;
}

int mfs_plan_add_zeros(mfs_plan *plan, uint64_t offset, uint64_t end, mfs_problem *why)
{
	const mfs_root_extent extent = {
	    .file_offset = offset, .length = end - offset, .kind = MFS_EXTENT_ZEROS};

	return mfs_plan_add_extent(plan, &extent, why);
}

int mfs_plan_add_derived(mfs_plan *plan, uint32_t file, const mfs_import_tensor *from,
			 const mfs_layout *layout, uint32_t base, uint64_t offset, uint64_t size,
			 mfs_problem *why)
{
	mfs_plan_tensor t = new_tensor(file, layout, offset, size);
	int error;

	if (size > TENSOR_MAX)
		return mfs_problem_set(why, MFS_E_LIMIT, UINT64_MAX,
				       "%s: tensor '%s' is over the limit of 512 GiB",
				       plan->files[file].name, from->name);
	error = mfs_plan_layout(plan, layout, &t.record.layout, why);
	t.record.name = from->name;
	t.record.name_length = from->name_length;
	t.record.cls = MFS_DISK_WEIGHTS;
	t.record.flags = MFS_TENSOR_DERIVED;
	t.record.base = base;
	t.base_block_weights = plan->tensors[base].layout->block_weights;
	t.record.dim_count = from->dim_count;
	t.dims = from->dims;
	return error ? error : place_tensor(plan, &t, why);
}

static bool operand_is_bounded(const mfs_plan *plan, uint32_t number)
{
	const mfs_plan_tensor *t;

	if (number == MFS_NO_TENSOR)
		return true;
	t = &plan->tensors[number];
	return t->record.size / t->layout->block_bytes <=
	       MFS_OPERAND_MAX / t->layout->block_weights;
}

int mfs_plan_add_term(mfs_plan *plan, const mfs_root_term *term, mfs_problem *why)
{
	mfs_root_term *terms =
	    grow(plan->terms, plan->term_count, &plan->term_room, sizeof(*terms));

	if (!terms)
		return mfs_problem_no_memory(why);
	plan->terms = terms;
	for (int k = 0; k < MFS_TERM_OPERANDS; k++)
		if (!operand_is_bounded(plan, term->operand[k]))
			return mfs_problem_set(why, MFS_E_LIMIT, UINT64_MAX,
					       "a merged view needs a matrix of more than %u "
					       "numbers; --views=none packs the adapter alone",
					       MFS_OPERAND_MAX);
	terms[plan->term_count++] = *term;
	return 0;
}

/* Spans of codes begin with a block of NF4, as views need it. */
static void cut_imported(mfs_plan *plan, const mfs_plan_file *f, uint32_t number,
			 mfs_plan_tensor *t)
{
	uint64_t frame_bytes = plan->frame_bytes;

	/* Stored plain they have one class. */
	if (t->layout->slot_streams[1] && plan->codec != MFS_PLAN_PLAIN)
		frame_bytes = plan->quantized_frame_bytes;
	if (mfs_bnb_find(f->bnb, number)) {
		t->row_bytes = MFS_NF4_BLOCK / 2;
		if (frame_bytes > MFS_PLAN_CODES_MAX)
			frame_bytes = MFS_PLAN_CODES_MAX;
	}
	set_spans(plan, t, frame_bytes);
}

int mfs_plan_add_imported(mfs_plan *plan, uint32_t file, uint32_t number, mfs_problem *why)
{
	const mfs_plan_file *f = &plan->files[file];
	const mfs_import_tensor *from = &f->import.tensors[number];
	mfs_plan_tensor t = new_tensor(file, from->layout, from->offset, from->size);
	int error;

	/* An importer checks all this; the container must be valid whatever it does. */
	if (from->size % from->layout->block_bytes || from->dim_count > MFS_DIMS_MAX ||
	    !mfs_utf8_ok(from->name, from->name_length))
		return mfs_problem_set(why, MFS_E_INVALID, from->offset,
				       "%s: tensor '%s' is not valid", f->path, from->name);
	if (from->size > TENSOR_MAX)
		return mfs_problem_set(why, MFS_E_LIMIT, from->offset,
				       "%s: tensor '%s' is over the limit of 512 GiB", f->path,
				       from->name);
	error = mfs_plan_layout(plan, from->layout, &t.record.layout, why);
	if (error)
		return error;
	t.record.name = from->name;
	t.record.name_length = from->name_length;
	t.record.cls = f->adapter ? MFS_DISK_ADAPTER : MFS_DISK_WEIGHTS;
	t.record.dim_count = from->dim_count;
	t.dims = from->dims;
	t.row_bytes = from->row_bytes;
	t.record.slice_blocks = from->size / from->layout->block_bytes;
	if (from->slice_bytes && from->slice_bytes % from->layout->block_bytes == 0 &&
	    from->size % from->slice_bytes == 0)
		t.record.slice_blocks = from->slice_bytes / from->layout->block_bytes;
	cut_imported(plan, f, number, &t);
	return place_tensor(plan, &t, why);
}

void mfs_plan_choose_lead(mfs_plan *plan)
{
	mfs_plan_tensor *lead = NULL;

	for (uint32_t i = 0; i < plan->tensor_count; i++) {
		mfs_plan_tensor *t = &plan->tensors[i];

		if (!(t->record.flags & MFS_TENSOR_LITERAL) && t->record.size >= LEAD_LITERAL &&
		    (!lead || t->record.size < lead->record.size))
			lead = t;
	}
	if (lead && plan->frame_bytes > MFS_PLAN_LEAD_FRAME)
		set_spans(plan, lead, MFS_PLAN_LEAD_FRAME);
}
