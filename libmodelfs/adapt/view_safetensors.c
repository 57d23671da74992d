/*
 * Views of safetensors models. Merged into weights that keep their types, the header
 * is the base's. Where codes become weights it is made anew: a tensor for each
 * matrix, none for what described it. Tensors of wider numbers come first, so that all
 * are aligned; else they stay in the order of the base.
 */
#include "view_build.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "../../format/layout_ggml.h"
#include "../../format/mfs_endian.h"
#include "problem.h"

#define LENGTH_SIZE 8

/* A tensor of the view. */
struct item {
	const mfs_import_tensor *as; /* name and shape */
	const mfs_layout *layout;
	uint32_t number; /* of the base's tensor; UINT32_MAX: it has no bytes */
	uint64_t offset, size;
};

static int no_memory(const mfs_view_builder *b)
{
	return mfs_problem_no_memory(b->why);
}

/* ---- types that stay ---- */

static int build_same(mfs_view_builder *b)
{
	const mfs_import *base = mfs_view_base(b);
	int error = 0;

	for (uint32_t i = 0; i < base->tensor_count && !error; i++) {
		const mfs_import_tensor *t = &base->tensors[i];

		if (!mfs_view_merges(b, i))
			continue;
		if (t->offset > b->position)
			error = mfs_view_add_range(b, b->position, t->offset - b->position);
		if (!error)
			error = mfs_view_add_derived(b, i, t->layout, t->size);
	}
	if (!error && b->plan->files[b->base].record.size > b->position)
		error = mfs_view_add_range(b, b->position,
					   b->plan->files[b->base].record.size - b->position);
	return error;
}

/* ---- tensors of a new header ---- */

static uint64_t element_bytes(const struct item *item)
{
	return item->layout->block_weights == 1 ? item->layout->block_bytes : 1;
}

static int compare_items(const void *a, const void *b)
{
	const struct item *x = a, *y = b;

	if (element_bytes(x) != element_bytes(y))
		return element_bytes(x) > element_bytes(y) ? -1 : 1;
	if (x->number != y->number)
		return x->number < y->number ? -1 : 1;
	return (x->as > y->as) - (x->as < y->as);
}

static void choose_type(const mfs_view_builder *b, uint32_t number, struct item *item)
{
	const mfs_bnb_matrix *m = mfs_bnb_find(b->plan->files[b->base].bnb, number);
	const mfs_import_tensor *t = &mfs_view_base(b)->tensors[number];

	*item = (struct item){.as = t, .layout = t->layout, .number = number, .size = t->size};
	if (!m)
		return;
	item->as = &m->was;
	item->layout = b->view->ggml_type == MFS_VIEW_KEEP ? m->was.layout
							   : mfs_layout_ggml(b->view->ggml_type);
	item->size = m->was.size / m->was.layout->block_bytes * item->layout->block_bytes;
}

/* Chooses, sorts and places the tensors; returns their number. */
static uint32_t place_items(const mfs_view_builder *b, struct item *items)
{
	const mfs_import *base = mfs_view_base(b);
	uint64_t offset = 0;
	uint32_t count = 0;

	for (uint32_t i = 0; i < base->tensor_count; i++)
		if (!mfs_bnb_is_helper(b->plan->files[b->base].bnb, i))
			choose_type(b, i, &items[count++]);
	for (uint32_t i = 0; i < base->empty_count; i++)
		items[count++] = (struct item){
		    .as = &base->empty[i], .layout = base->empty[i].layout, .number = UINT32_MAX};
	qsort(items, count, sizeof(*items), compare_items);
	for (uint32_t i = 0; i < count; i++) {
		items[i].offset = offset;
		offset += items[i].size;
	}
	return count;
}

/* ---- the header ---- */

static int put_metadata(const mfs_view_builder *b, FILE *out)
{
	mfs_plan_file *base = &b->plan->files[b->base];
	uint64_t length = base->import.metadata_length;
	char *text = length ? malloc(length) : NULL;
	int error = 0;

	if (!length)
		return 0;
	if (!text)
		return no_memory(b);
	error = base->source.read_at(&base->source, base->import.metadata, text, length);
	if (error)
		mfs_import_refuse(b->why, &base->source, error, base->import.metadata,
				  "cannot be read: %s", mfs_error_text(error));
	fputs("\"__metadata__\":", out);
	fwrite(text, length, 1, out);
	free(text);
	return error;
}

static bool put_item(const struct item *item, bool first, FILE *out)
{
	json_t *name = json_stringn(item->as->name, item->as->name_length);
	char *text = name ? json_dumps(name, JSON_ENCODE_ANY) : NULL;

	json_decref(name);
	if (!text)
		return false;
	fprintf(out, "%s%s:{\"dtype\":\"%.*s\",\"shape\":[", first ? "" : ",", text,
		(int)item->layout->name_length, item->layout->name);
	for (uint32_t i = 0; i < item->as->dim_count; i++)
		fprintf(out, "%s%" PRIu64, i ? "," : "", item->as->dims[i]);
	fprintf(out, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", item->offset,
		item->offset + item->size);
	free(text);
	return true;
}

/* Length and text; spaces fill it up, so that the data begin at a multiple of 8. */
static int put_header(const mfs_view_builder *b, const struct item *items, uint32_t count,
		      FILE *out)
{
	static const char spaces[] = "        ";
	int error;

	fwrite(spaces, LENGTH_SIZE, 1, out);
	fputc('{', out);
	error = put_metadata(b, out);
	for (uint32_t i = 0; i < count && !error; i++)
		if (!put_item(&items[i], !i && !mfs_view_base(b)->metadata_length, out))
			error = no_memory(b);
	fputc('}', out);
	fflush(out);
	fwrite(spaces, (size_t)(-ftell(out) & 7), 1, out);
	return error;
}

static int make_header(mfs_view_builder *b, const struct item *items, uint32_t count)
{
	mfs_view *v = b->view;
	FILE *out = open_memstream((char **)&v->head, &v->head_size);
	int error = out ? put_header(b, items, count, out) : no_memory(b);

	if (out && (fclose(out) || !v->head) && !error)
		error = no_memory(b);
	if (!error)
		store_le64(v->head, v->head_size - LENGTH_SIZE);
	return error;
}

/* ---- the view ---- */

static int add_item(mfs_view_builder *b, const struct item *item)
{
	const mfs_import *base = mfs_view_base(b);
	uint32_t i = item->number;

	if (!item->size)
		return 0;
	if (mfs_view_merges(b, i) || item->as != &base->tensors[i])
		return mfs_view_add_derived(b, i, item->layout, item->size);
	return mfs_view_add_range(b, base->tensors[i].offset, item->size);
}

static int build_decoded(mfs_view_builder *b)
{
	const mfs_import *base = mfs_view_base(b);
	struct item *items = calloc(base->tensor_count + base->empty_count + 1u, sizeof(*items));
	uint32_t count;
	int error;

	if (!items)
		return no_memory(b);
	count = place_items(b, items);
	error = make_header(b, items, count);
	if (!error)
		error = mfs_view_add_literal(b, b->view->head_size);
	for (uint32_t i = 0; i < count && !error; i++)
		error = add_item(b, &items[i]);
	free(items);
	return error;
}

int mfs_view_build_safetensors(mfs_view_builder *b)
{
	return b->plan->files[b->base].bnb ? build_decoded(b) : build_same(b);
}
