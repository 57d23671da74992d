#include "plan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../format/check.h"
#include "../format/nf4.h"
#include "carried.h"
#include "plan_sort.h"
#include "premerge.h"
#include "problem.h"
#include "view.h"

/* Gaps up to this size are read to see whether they are padding. */
#define GAP_READ_MAX (64u << 10)
/* A source may be hole and data in turns a million times; past this many
 * extents its holes are stored like data. */
#define HOLE_EXTENTS_MAX 4096u
/* Longer runs of literal bytes are cut: a frame's place counts from the first
 * one of its tensor in 40 bits. */
#define LITERAL_MAX (UINT64_C(1) << 38)
/* What is cut off the head of an opaque file in a small container. */
#define LEAD_LITERAL (3u * MFS_PLAN_LEAD_FRAME)
#define TENSOR_MAX   (UINT64_C(1) << 39)

/* ---- adding sources ---- */

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static int check_name(const mfs_plan *plan, const char *path, const char *name, mfs_problem *why)
{
	static const char *const own[] = {".modelfs", "adapters", "merged", "views"};

	if (!mfs_name_ok(name, strlen(name)))
		return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
				       "%s: not usable as a name in the container (1 to 255 bytes "
				       "of UTF-8 without '/'): choose one with NAME=SOURCE",
				       path);
	for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		if (!strcmp(name, own[i]))
			return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
					       "%s: the name '%s' is modelfs's own: choose "
					       "another with NAME=SOURCE",
					       path, name);
	for (uint32_t i = 0; i < plan->file_count; i++)
		if (!mfs_carried_goes(plan, &plan->files[i]) && !strcmp(name, plan->files[i].name))
			return mfs_problem_set(why, MFS_E_EXISTS, UINT64_MAX,
					       "%s: the name '%s' is taken by %s: choose another "
					       "with NAME=SOURCE",
					       path, name, plan->files[i].path);
	return 0;
}

bool mfs_plan_is_refusal(int error)
{
	return error == MFS_E_INVALID || error == MFS_E_LIMIT || error == MFS_E_TRUNCATED ||
	       error == MFS_E_UNSUPPORTED;
}

static int import_file(mfs_plan *plan, mfs_plan_file *file, mfs_problem *why)
{
	int error = mfs_import_source(&file->import, &file->source, why);

	if (plan->opaque && mfs_plan_is_refusal(error)) {
		memset(&file->import, 0, sizeof(file->import));
		file->import.format = MFS_FORMAT_OPAQUE;
		error = 0;
	}
	return error;
}

static int open_file(mfs_plan *plan, mfs_plan_file *file, mfs_problem *why)
{
	int error = mfs_source_open(&file->source, file->path, why);

	if (error)
		return error;
	if (fstat(file->source.u.fd, &file->found) < 0)
		error = mfs_problem_set(why, MFS_E_SYSTEM, UINT64_MAX, "%s: %s", file->path,
					strerror(errno));
	else if (file->source.size > MFS_FILE_MAX)
		error =
		    mfs_problem_set(why, MFS_E_LIMIT, UINT64_MAX, "%s: file too large", file->path);
	else
		error = import_file(plan, file, why);
	if (error)
		mfs_source_close(&file->source);
	return error;
}

mfs_plan_file *mfs_plan_new_file(mfs_plan *plan)
{
	mfs_plan_file *files = realloc(plan->files, (plan->file_count + 1) * sizeof(*files));

	if (!files)
		return NULL;
	plan->files = files;
	memset(&files[plan->file_count], 0, sizeof(*files));
	return &files[plan->file_count];
}

bool mfs_plan_computes(const mfs_plan_file *file)
{
	return file->requantized || file->premerged;
}

static void file_free(mfs_plan_file *file)
{
	mfs_import_free(&file->import);
	if (!mfs_plan_computes(file))
		mfs_source_close(&file->source);
	mfs_requantized_free(file->requantized);
	mfs_premerged_free(file->premerged);
	mfs_adapter_free(file->adapter);
	mfs_peft_close(file->peft);
	mfs_view_free(file->view);
	free(file->path);
	free(file->name);
	free(file->note);
	free(file->delta_of);
	mfs_bnb_free(file->bnb);
	mfs_gains_free(file->gains);
	free(file->nested_offsets);
	free(file->remark);
}

void mfs_plan_discard(mfs_plan_file *file)
{
	file_free(file);
}

static void note_loss(mfs_plan_file *file)
{
	file->record.flags |= MFS_FILE_LOSSY;
	file->record.note = file->premerged ? mfs_premerged_note(file->premerged)
					    : mfs_requantized_note(file->requantized);
	file->record.note_length = (uint16_t)strlen(file->record.note);
}

static void fill_record(mfs_plan_file *file)
{
	mfs_root_file *r = &file->record;

	r->name = file->name;
	r->name_length = (uint16_t)strlen(file->name);
	r->format = (uint16_t)file->import.format;
	r->size = file->source.size;
	r->mtime_seconds = file->found.st_mtim.tv_sec;
	r->mtime_nanoseconds = (uint32_t)file->found.st_mtim.tv_nsec;
	r->base = MFS_NO_FILE;
	r->note = file->note;
	r->note_length = file->note ? (uint16_t)strlen(file->note) : 0;
	if (mfs_plan_computes(file))
		note_loss(file);
}

int mfs_plan_append(mfs_plan *plan, mfs_plan_file *file, const char *name, mfs_problem *why)
{
	mfs_plan_file *files = realloc(plan->files, (plan->file_count + 1) * sizeof(*files));

	if (files)
		plan->files = files;
	file->name = files ? strdup(name) : NULL;
	if (!file->name) {
		file_free(file);
		return mfs_problem_no_memory(why);
	}
	fill_record(file);
	if (file->record.kind != MFS_FILE_VIEW)
		plan->original_bytes += file->source.size;
	plan->files[plan->file_count++] = *file;
	return 0;
}

mfs_plan_file *mfs_plan_find(const mfs_plan *plan, const char *name)
{
	for (uint32_t i = 0; i < plan->file_count; i++)
		if (!strcmp(plan->files[i].name, name))
			return &plan->files[i];
	return NULL;
}

int mfs_plan_open(mfs_plan_file *out, mfs_plan *plan, const char *path, mfs_problem *why)
{
	int error;

	memset(out, 0, sizeof(*out));
	out->path = strdup(path);
	error = out->path ? open_file(plan, out, why) : mfs_problem_no_memory(why);
	if (error)
		free(out->path);
	return error;
}

static int import_changed(mfs_plan_file *file, mfs_problem *why)
{
	int error = mfs_requantized_import(file->requantized, &file->import, why);

	if (!error && !file->import.tensor_count)
		error = mfs_import_source(&file->import, &file->source, why);
	return error;
}

/* Puts the changed model in the place of the source, as the recipe says. Other
 * files beside it stay as they are. */
static int change_weights(const mfs_plan *plan, mfs_plan_file *file, mfs_problem *why)
{
	int error = 0;

	if (mfs_recipe_any(&plan->recipe) && file->import.format != MFS_FORMAT_OPAQUE)
		error = mfs_requantize(&file->requantized, &file->source, &file->import,
				       &plan->recipe, why);
	if (file->requantized)
		error = import_changed(file, why);
	if (error)
		file_free(file);
	return error;
}

void mfs_plan_measure_losses(mfs_plan *plan)
{
	for (uint32_t i = 0; i < plan->file_count; i++) {
		if (plan->files[i].requantized)
			mfs_requantized_measure(plan->files[i].requantized);
		if (plan->files[i].premerged)
			mfs_premerged_measure(plan->files[i].premerged);
	}
}

bool mfs_plan_loss(const mfs_plan_file *file, uint32_t i, mfs_loss *out)
{
	if (file->premerged)
		return mfs_premerged_loss(file->premerged, i, out);
	return file->requantized && mfs_requantized_loss(file->requantized, i, out);
}

void mfs_plan_note_losses(mfs_plan *plan)
{
	for (uint32_t i = 0; i < plan->file_count; i++)
		if (mfs_plan_computes(&plan->files[i]))
			note_loss(&plan->files[i]);
}

int mfs_plan_loss_problem(mfs_plan *plan, int error, mfs_problem *why)
{
	for (uint32_t i = 0; i < plan->file_count; i++) {
		const mfs_plan_file *f = &plan->files[i];
		int reason = f->premerged     ? mfs_premerged_problem(f->premerged, why)
			     : f->requantized ? mfs_requantized_problem(f->requantized, why)
					      : 0;

		if (reason)
			return reason;
	}
	return error;
}

/* "model.gguf" of NF4 is "model.nf4", which no other program knows, and views of it. */
static int add_nf4(mfs_plan *plan, mfs_plan_file *file, const char *name, mfs_problem *why)
{
	size_t length = strlen(name);
	char stored[MFS_NAME_MAX + 1], label[MFS_NAME_MAX + 1];
	int error;

	if (length > 5 && !strcasecmp(name + length - 5, ".gguf"))
		length -= 5;
	snprintf(label, sizeof(label), "%.*s", (int)length, name);
	snprintf(stored, sizeof(stored), "%.250s.nf4", label);
	error = check_name(plan, file->path, stored, why);
	if (error) {
		file_free(file);
		return error;
	}
	error = mfs_plan_append(plan, file, stored, why);
	if (!error)
		error = mfs_views_add_nf4(plan, label, plan->files[plan->file_count - 1].name, why);
	return error;
}

void mfs_plan_set_offsets(mfs_plan *plan)
{
	for (uint32_t i = 0; i < plan->term_count; i++) {
		mfs_root_term *term = &plan->terms[i];
		const mfs_root_tensor *base =
		    &plan->tensors[plan->tensors[term->tensor].record.base].record;
		const mfs_requantized *q = plan->files[base->file].requantized;

		if (term->kind == MFS_TERM_NF4 && q)
			term->scale = mfs_requantized_nested_offset(q, base->file_offset);
	}
}

/* Who wants the file all the same is told how. */
static int hint_at_opaque(int error, mfs_problem *why)
{
	size_t used = why ? strlen(why->text) : 0;

	if (why && mfs_plan_is_refusal(error))
		snprintf(why->text + used, sizeof(why->text) - used,
			 "; --opaque packs it as plain bytes");
	return error;
}

int mfs_plan_add(mfs_plan *plan, const char *path, const char *name, mfs_problem *why)
{
	mfs_plan_file file;
	int error;

	if (!name)
		name = base_name(path);
	error = check_name(plan, path, name, why);
	if (!error)
		error = hint_at_opaque(mfs_plan_open(&file, plan, path, why), why);
	if (!error)
		error = change_weights(plan, &file, why);
	if (error)
		return error;
	if (file.requantized && mfs_recipe_is_nf4(&plan->recipe))
		return add_nf4(plan, &file, name, why);
	return mfs_plan_append(plan, &file, name, why);
}

void mfs_plan_free_file(mfs_plan *plan, mfs_plan_file *file)
{
	if (!file->carried && file->record.kind != MFS_FILE_VIEW)
		plan->original_bytes -= file->source.size;
	file_free(file);
}

void mfs_plan_forget(mfs_plan *plan, uint32_t count)
{
	while (plan->file_count > count)
		mfs_plan_free_file(plan, &plan->files[--plan->file_count]);
}

void mfs_plan_free(mfs_plan *plan)
{
	for (uint32_t i = 0; i < plan->tensor_count; i++) {
		mfs_plan_close_tables(&plan->tensors[i]);
		for (int s = 0; s < MFS_SLOTS; s++)
			free(plan->tensors[i].tables[s]);
		free(plan->tensors[i].owners);
	}
	mfs_plan_forget(plan, 0);
	free(plan->files);
	free(plan->tensors);
	free(plan->extents);
	free(plan->runs);
	free(plan->aliases);
	free(plan->terms);
	free(plan->layouts);
	memset(plan, 0, sizeof(*plan));
}

int mfs_plan_file_unchanged(const mfs_plan_file *file, mfs_problem *why)
{
	int fd = file->peft ? mfs_peft_descriptor(file->peft) : file->source.u.fd;
	struct stat now;

	if (file->view || file->gains)
		return 0; /* it is computed */
	if (fstat(fd, &now) < 0)
		return mfs_problem_set(why, MFS_E_SYSTEM, UINT64_MAX, "%s: %s", file->path,
				       strerror(errno));
	if (now.st_size != file->found.st_size ||
	    now.st_mtim.tv_sec != file->found.st_mtim.tv_sec ||
	    now.st_mtim.tv_nsec != file->found.st_mtim.tv_nsec)
		return mfs_problem_set(why, MFS_E_INVALID, UINT64_MAX,
				       "%s: the file changed while it was packed", file->path);
	return 0;
}

/* ---- tables of the plan ---- */

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

static int add_tensor(mfs_plan *plan, const mfs_plan_tensor *tensor, mfs_problem *why)
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
	return error ? error : add_tensor(plan, &t, why);
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
	return error ? error : add_tensor(plan, &t, why);
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

	if (mfs_bnb_find(f->bnb, number)) {
		t->row_bytes = MFS_NF4_BLOCK / 2;
		if (frame_bytes > MFS_PLAN_CODES_MAX)
			frame_bytes = MFS_PLAN_CODES_MAX;
	}
	set_spans(plan, t, frame_bytes);
}

static int add_imported(mfs_plan *plan, uint32_t file, uint32_t number, mfs_problem *why)
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
	return add_tensor(plan, &t, why);
}

/* ---- what lies between tensors ---- */

static bool all_zero(const uint8_t *bytes, size_t length)
{
	return !length || (!bytes[0] && !memcmp(bytes, bytes + 1, length - 1));
}

static int add_small_gap(mfs_plan *plan, uint32_t file, uint64_t offset, uint64_t end,
			 mfs_problem *why)
{
	mfs_plan_file *f = &plan->files[file];
	uint8_t bytes[GAP_READ_MAX];
	int error = f->source.read_at(&f->source, offset, bytes, end - offset);

	if (error)
		return mfs_problem_set(why, error, offset, "%s: cannot read at offset 0x%llx: %s",
				       f->path, (unsigned long long)offset, mfs_error_text(error));
	if (all_zero(bytes, end - offset))
		return mfs_plan_add_zeros(plan, offset, end, why);
	return mfs_plan_add_literal(plan, file, offset, end, why);
}

/* Finds the first hole of MFS_PLAN_HOLE_MIN bytes in [*hole, end): true with its
 * bounds, or false where there is none or the file system cannot tell. */
static bool find_hole(int fd, uint64_t *hole, uint64_t *data, uint64_t end)
{
	uint64_t from = *hole;

	while (from < end) {
		off_t start = lseek(fd, (off_t)from, SEEK_HOLE);
		off_t stop;

		if (start < 0 || (uint64_t)start >= end)
			return false;
		stop = lseek(fd, start, SEEK_DATA);
		if (stop < 0 && errno != ENXIO)
			return false;
		/* ENXIO: a hole up to the end of the file. */
		from = stop < 0 || (uint64_t)stop > end ? end : (uint64_t)stop;
		if (from - (uint64_t)start >= MFS_PLAN_HOLE_MIN) {
			*hole = (uint64_t)start;
			*data = from;
			return true;
		}
	}
	return false;
}

static int add_large_gap(mfs_plan *plan, uint32_t file, uint64_t offset, uint64_t end,
			 mfs_problem *why)
{
	int fd = plan->files[file].source.u.fd;
	/* The holes of the original say nothing about a file that is computed. */
	bool computed = mfs_plan_computes(&plan->files[file]);
	uint32_t limit = plan->extent_count + HOLE_EXTENTS_MAX;
	int error = 0;

	while (offset < end && !error) {
		uint64_t hole = offset, data = end;

		if (computed || plan->extent_count >= limit || !find_hole(fd, &hole, &data, end))
			hole = data = end;
		if (hole > offset)
			error = mfs_plan_add_literal(plan, file, offset, hole, why);
		if (!error && data > hole)
			error = mfs_plan_add_zeros(plan, hole, data, why);
		offset = data;
	}
	return error;
}

static int add_gap(mfs_plan *plan, uint32_t file, uint64_t offset, uint64_t end, mfs_problem *why)
{
	if (offset == end)
		return 0;
	if (end - offset <= GAP_READ_MAX)
		return add_small_gap(plan, file, offset, end, why);
	return add_large_gap(plan, file, offset, end, why);
}

/* ---- building ---- */

static int build_file(mfs_plan *plan, uint32_t file, mfs_problem *why)
{
	mfs_plan_file *f = &plan->files[file];
	const mfs_import *import = &f->import;
	uint64_t position = 0;
	int error = 0;

	f->record.first_extent = plan->extent_count;
	for (uint32_t i = 0; i < import->tensor_count && !error; i++) {
		const mfs_import_tensor *t = &import->tensors[i];

		if (!t->size || t->offset < position ||
		    !range_ok(t->offset, t->size, f->source.size))
			return mfs_problem_set(why, MFS_E_INVALID, t->offset,
					       "%s: tensor '%s' lies outside of its place", f->path,
					       t->name);
		error = add_gap(plan, file, position, t->offset, why);
		if (!error)
			error = add_imported(plan, file, i, why);
		position = t->offset + t->size;
	}
	if (!error)
		error = add_gap(plan, file, position, f->source.size, why);
	f->record.extent_count = plan->extent_count - f->record.first_extent;
	return error;
}

static int compare_names(const void *a, const void *b)
{
	/* strcmp() compares unsigned bytes, as the format asks. */
	return strcmp(((const mfs_plan_file *)a)->name, ((const mfs_plan_file *)b)->name);
}

/* In a small container the smallest tensor that is large enough gets frames that
 * fit between the superblocks; where there is no tensor at all, add_literal()
 * cuts a head off. */
static void choose_lead(mfs_plan *plan)
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

static bool any_tensor(const mfs_plan *plan)
{
	for (uint32_t i = 0; i < plan->file_count; i++)
		if (plan->files[i].import.tensor_count)
			return true;
	return false;
}

struct ordered_term {
	mfs_root_term term;
	uint32_t order;
};

static int compare_terms(const void *a, const void *b)
{
	const struct ordered_term *x = a, *y = b;

	if (x->term.tensor != y->term.tensor)
		return x->term.tensor < y->term.tensor ? -1 : 1;
	return x->order < y->order ? -1 : x->order > y->order;
}

/* By tensor; those of one tensor stay in the order in which they are applied. */
static int sort_terms(mfs_plan *plan, mfs_problem *why)
{
	struct ordered_term *ordered = calloc(plan->term_count + 1u, sizeof(*ordered));

	if (!ordered)
		return mfs_problem_no_memory(why);
	for (uint32_t i = 0; i < plan->term_count; i++)
		ordered[i] = (struct ordered_term){plan->terms[i], i};
	qsort(ordered, plan->term_count, sizeof(*ordered), compare_terms);
	for (uint32_t i = 0; i < plan->term_count; i++)
		plan->terms[i] = ordered[i].term;
	free(ordered);
	return 0;
}

/* Views refer to tensors of other files, wherever these stand. */
static int build_views(mfs_plan *plan, mfs_problem *why)
{
	bool any = false;
	int error = 0;

	for (uint32_t i = 0; i < plan->file_count && !error; i++) {
		mfs_plan_file *file = &plan->files[i];

		if (file->base)
			file->record.base =
			    (uint32_t)(mfs_plan_find(plan, file->base) - plan->files);
		if (!file->view)
			continue;
		any = true;
		error = mfs_view_build(plan, i, why);
	}
	if (!error && any && mfs_plan_sort(plan) < 0)
		error = mfs_problem_no_memory(why);
	return error;
}

int mfs_plan_build(mfs_plan *plan, mfs_problem *why)
{
	/* What is appended has no room between the superblocks to fill. */
	bool small = plan->original_bytes <= MFS_PLAN_SMALL && !plan->carried;
	int error = 0;

	if (plan->file_count)
		qsort(plan->files, plan->file_count, sizeof(*plan->files), compare_names);
	plan->wants_lead = small && !any_tensor(plan);
	for (uint32_t i = 0; i < plan->file_count && !error; i++)
		if (plan->files[i].carried)
			error = mfs_carried_build_file(plan, i, why);
		else if (!plan->files[i].view)
			error = build_file(plan, i, why);
	if (!error && plan->carried)
		error = mfs_carried_finish(plan, why);
	if (!error && small)
		choose_lead(plan);
	if (!error)
		error = build_views(plan, why);
	if (!error)
		error = sort_terms(plan, why);
	return error ? error : mfs_plan_order_by_file(plan, why);
}

/* ---- slots and groups ---- */

bool mfs_plan_has_slot(const mfs_plan_tensor *t, unsigned slot)
{
	return mfs_tensor_has_slot(&t->record, t->layout, slot);
}

uint32_t mfs_plan_slot_bytes(const mfs_plan_tensor *t, unsigned slot, uint32_t blocks)
{
	return mfs_slot_bytes(&t->record, t->layout, slot, blocks);
}

unsigned mfs_plan_slot_class(const mfs_plan_tensor *t, unsigned slot)
{
	return slot ? MFS_DISK_CONSTANTS : t->record.cls;
}

bool mfs_plan_writes(const mfs_plan_tensor *t)
{
	return !t->stored && t->twin == MFS_NO_TENSOR && !(t->record.flags & MFS_TENSOR_DERIVED);
}

bool mfs_plan_owns(const mfs_plan_tensor *t, uint64_t span)
{
	return !t->owners || t->owners[span].tensor == MFS_NO_TENSOR;
}

void mfs_plan_unshare(mfs_plan_tensor *t)
{
	free(t->owners);
	t->owners = NULL;
	t->leader = MFS_NO_TENSOR;
}

const mfs_plan_alias *mfs_plan_aliases(const mfs_plan *plan, uint32_t tensor, uint64_t span,
				       uint64_t *count)
{
	uint64_t low = 0, high = plan->alias_count, end;

	while (low < high) {
		uint64_t middle = low + (high - low) / 2;
		const mfs_plan_alias *a = &plan->aliases[middle];

		if (a->owner < tensor || (a->owner == tensor && a->owner_index < span))
			low = middle + 1;
		else
			high = middle;
	}
	for (end = low; end < plan->alias_count; end++)
		if (plan->aliases[end].owner != tensor || plan->aliases[end].owner_index != span)
			break;
	*count = end - low;
	return *count ? &plan->aliases[low] : NULL;
}

int mfs_plan_open_tables(mfs_plan_tensor *t, const mfs_plan_tensor *of, enum mfs_tables_use use)
{
	for (int s = 0; s < MFS_SLOTS; s++) {
		int error = of->tables[s] ? mfs_tables_open(&t->open_tables[s], of->tables[s],
							    of->tables_bytes[s],
							    t->layout->slot_streams[s], use)
					  : 0;

		if (error)
			return error;
	}
	return 0;
}

void mfs_plan_close_tables(mfs_plan_tensor *t)
{
	for (int s = 0; s < MFS_SLOTS; s++) {
		mfs_tables_free(t->open_tables[s]);
		t->open_tables[s] = NULL;
	}
}

void mfs_plan_drop_tables(mfs_plan_tensor *t)
{
	for (int s = 0; s < MFS_SLOTS; s++) {
		free(t->tables[s]);
		t->tables[s] = NULL;
		t->tables_bytes[s] = 0;
	}
}

/* Tables count with the span that is stored first: they lie before its frames. */
static uint64_t tables_bytes(const mfs_plan_tensor *t, const mfs_span *span, unsigned slot)
{
	return span->index == t->first_stored ? t->tables_bytes[slot] : 0;
}

bool mfs_group_takes(const mfs_group *group, const mfs_plan_tensor *t, const mfs_span *span)
{
	uint64_t bytes = span->bytes + tables_bytes(t, span, 0) + tables_bytes(t, span, 1);

	if (!group->spans)
		return true;
	return group->spans < MFS_GROUP_SPANS && group->bytes + bytes <= MFS_GROUP_BYTES &&
	       group->constants + mfs_plan_slot_bytes(t, 1, span->blocks) <= MFS_GROUP_CONSTANTS;
}

void mfs_group_add(mfs_group *group, const mfs_plan_tensor *t, const mfs_span *span)
{
	group->spans++;
	for (unsigned s = 0; s < MFS_SLOTS; s++) {
		uint64_t bytes = mfs_plan_slot_bytes(t, s, span->blocks) + tables_bytes(t, span, s);

		group->bytes += bytes;
		group->by_class[mfs_plan_slot_class(t, s)] += bytes;
	}
	group->constants += mfs_plan_slot_bytes(t, 1, span->blocks);
}

/* Two chunks in a row hold more than MFS_CHUNK_MAX stored bytes together, or
 * the first holds half of that (chunk_writer.c). */
static uint64_t group_chunks(const mfs_group *group)
{
	uint64_t chunks = 0;

	for (int c = 0; c < MFS_DISK_CLASSES; c++)
		if (group->by_class[c])
			chunks += 2 * group->by_class[c] / MFS_CHUNK_MAX + 1;
	return chunks;
}

static void close_group(mfs_plan *plan, mfs_group *group)
{
	plan->chunks_max += group_chunks(group);
	if (group->bytes > plan->group_max)
		plan->group_max = group->bytes;
	*group = (mfs_group){0};
}

static void number_tensor(mfs_plan *plan, mfs_plan_tensor *t)
{
	for (unsigned s = 0; s < MFS_SLOTS; s++) {
		if (t->leader != MFS_NO_TENSOR)
			t->record.slot[s].tables = plan->tensors[t->leader].record.slot[s].tables;
		else if (t->tables_bytes[s])
			t->record.slot[s].tables = plan->tables_count++;
		if (!mfs_plan_has_slot(t, s))
			continue;
		t->record.slot[s].first = plan->frames;
		plan->frames += t->spans;
	}
}

void mfs_plan_number(mfs_plan *plan)
{
	mfs_group group = {0};
	mfs_span span;
	bool begun = false;

	mfs_carried_number(plan);
	for (uint32_t i = 0; i < plan->tensor_count; i++)
		if (mfs_plan_writes(&plan->tensors[i]))
			number_tensor(plan, &plan->tensors[i]);
	for (uint32_t i = 0; i < plan->run_count; i++) {
		const mfs_plan_run *run = &plan->runs[i];
		const mfs_plan_tensor *t = &plan->tensors[run->tensor];

		if (!mfs_plan_writes(t))
			continue;
		/* The first group may cut one chunk of each class to fill the gap. */
		if (!begun)
			plan->chunks_max += MFS_DISK_CLASSES;
		begun = true;
		for (uint64_t k = 0; k < run->count; k++) {
			mfs_tensor_span(&t->record, t->layout->block_bytes, run->first + k, &span);
			if (!mfs_group_takes(&group, t, &span))
				close_group(plan, &group);
			mfs_group_add(&group, t, &span);
		}
	}
	close_group(plan, &group);
}
