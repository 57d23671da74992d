#include "root_builder.h"

#include <stdlib.h>
#include <string.h>

#include "../../format/root_columns.h"
#include "carried.h"
#include "container.h"
#include "problem.h"

/* ---- sizes ---- */

/* Records of every section, and bytes of the names. */
static int count_sections(const mfs_plan *plan, uint32_t segments, uint32_t count[MFS_SECTIONS])
{
	uint64_t names = 0, fields = 0, dims = 0;

	for (uint32_t i = 0; i < plan->layout_count; i++) {
		const mfs_layout *layout = plan->layouts[i];

		names += layout->name_length;
		fields += layout->field_count;
		for (uint32_t f = 0; f < layout->field_count; f++)
			names += layout->field[f].name_length;
	}
	for (uint32_t i = 0; i < plan->file_count; i++)
		names += plan->files[i].record.name_length + plan->files[i].record.note_length;
	for (uint32_t i = 0; i < plan->tensor_count; i++) {
		const mfs_root_tensor *t = &plan->tensors[i].record;

		if (t->flags & MFS_TENSOR_DERIVED)
			continue; /* it has those of its base */
		names += t->name_length;
		dims += t->dim_count;
	}
	if (names > MFS_ROOT_MAX || dims > MFS_ROOT_MAX)
		return MFS_E_LIMIT;
	count[MFS_SEC_LAYOUTS] = plan->layout_count;
	count[MFS_SEC_FIELDS] = (uint32_t)fields;
	count[MFS_SEC_FILES] = plan->file_count;
	count[MFS_SEC_EXTENTS] = plan->extent_count;
	count[MFS_SEC_TENSORS] = plan->tensor_count;
	count[MFS_SEC_DIMS] = (uint32_t)dims;
	count[MFS_SEC_TERMS] = plan->term_count;
	count[MFS_SEC_TABLES] = plan->tables_count;
	count[MFS_SEC_SEGMENTS] = segments;
	count[MFS_SEC_NAMES] = (uint32_t)names;
	return 0;
}

int mfs_root_builder_open(mfs_root_builder *out, const mfs_plan *plan, uint64_t chunks,
			  uint32_t segments, mfs_problem *why)
{
	uint32_t count[MFS_SECTIONS];
	mfs_root_builder b = {.plan = plan};

	*out = b;
	if (count_sections(plan, segments, count) < 0 || !mfs_root_layout(&b.root, count))
		return mfs_problem_set(
		    why, MFS_E_LIMIT, UINT64_MAX,
		    "the index root would be over its limit of 16 MiB: too many "
		    "tensors; pack fewer files or views, or files as opaque bytes");
	b.root.generation = plan->carried ? plan->carried->container->sb.generation + 1 : 1;
	b.root.frames = plan->frames;
	b.root.chunks = chunks;
	b.bytes = calloc(1, b.root.size);
	b.own = calloc(plan->tensor_count + 1u, sizeof(*b.own));
	*out = b;
	return b.bytes && b.own ? 0 : mfs_problem_no_memory(why);
}

void mfs_root_builder_close(mfs_root_builder *b)
{
	free(b->bytes);
	free(b->own);
	free(b->stored);
}

/* ---- what the plan tells ---- */

static uint32_t put_name(mfs_root_builder *b, const char *name, size_t length)
{
	uint32_t offset = b->names;

	mfs_root_put_name(&b->root, b->bytes, offset, name, length);
	b->names += (uint32_t)length;
	return offset;
}

static void put_layouts(mfs_root_builder *b)
{
	for (uint32_t i = 0; i < b->plan->layout_count; i++) {
		const mfs_layout *layout = b->plan->layouts[i];
		uint32_t name = put_name(b, layout->name, layout->name_length);
		uint32_t field_name[MFS_STREAMS_MAX];

		for (uint32_t f = 0; f < layout->field_count; f++)
			field_name[f] =
			    put_name(b, layout->field[f].name, layout->field[f].name_length);
		mfs_root_put_layout(&b->root, b->bytes, i, layout, name, b->fields, field_name);
		b->fields += layout->field_count;
	}
}

static void put_files(mfs_root_builder *b)
{
	for (uint32_t i = 0; i < b->plan->file_count; i++) {
		const mfs_root_file *file = &b->plan->files[i].record;

		uint32_t name = put_name(b, file->name, file->name_length);
		uint32_t note = file->note_length ? put_name(b, file->note, file->note_length) : 0;

		mfs_root_put_file(&b->root, b->bytes, i, file, name, note);
	}
	for (uint32_t i = 0; i < b->plan->extent_count; i++)
		mfs_root_put_extent(&b->root, b->bytes, i, &b->plan->extents[i]);
}

/* Name and dimensions, which those that are derived from the tensor have too. */
static void put_own(mfs_root_builder *b, uint32_t i)
{
	const mfs_plan_tensor *t = &b->plan->tensors[i];
	const mfs_root_tensor *r = &t->record;

	b->own[i].name = r->name_length ? put_name(b, r->name, r->name_length) : 0;
	b->own[i].first_dim = r->dim_count ? b->dims : 0;
	for (uint32_t d = 0; d < r->dim_count; d++)
		mfs_root_put_dim(&b->root, b->bytes, b->dims++, t->dims[d]);
}

static void put_tensor(mfs_root_builder *b, uint32_t i)
{
	const mfs_plan_tensor *t = &b->plan->tensors[i];
	uint32_t own = t->record.flags & MFS_TENSOR_DERIVED ? t->record.base : i;
	mfs_root_tensor record = t->record;

	if (t->twin != MFS_NO_TENSOR) {
		t = &b->plan->tensors[t->twin];
		record.cls = t->record.cls;
		record.flags = t->record.flags;
		record.base = t->record.base;
		memcpy(record.slot, t->record.slot, sizeof(record.slot));
	}
	for (unsigned s = 0; s < MFS_SLOTS && t->leader != MFS_NO_TENSOR; s++)
		record.slot[s].base = b->plan->tensors[t->leader].record.slot[s].base;
	record.first_dim = b->own[own].first_dim;
	mfs_root_put_tensor(&b->root, b->bytes, i, &record, b->own[own].name);
}

static void put_tensors(mfs_root_builder *b)
{
	for (uint32_t i = 0; i < b->plan->tensor_count; i++)
		if (!(b->plan->tensors[i].record.flags & MFS_TENSOR_DERIVED))
			put_own(b, i);
	for (uint32_t i = 0; i < b->plan->tensor_count; i++)
		put_tensor(b, i);
	for (uint32_t i = 0; i < b->plan->term_count; i++)
		mfs_root_put_term(&b->root, b->bytes, i, &b->plan->terms[i]);
}

/* Tables that are carried over lie where they are. */
static void put_carried_tables(mfs_root_builder *b)
{
	mfs_root_tables tables;

	for (uint32_t i = 0; b->plan->carried && i < b->plan->carried->tables; i++) {
		mfs_carried_get_tables(b->plan->carried, i, &tables);
		mfs_root_put_tables(&b->root, b->bytes, i, &tables);
	}
}

void mfs_root_builder_put_plan(mfs_root_builder *b)
{
	mfs_root_put_header(&b->root, b->bytes);
	put_layouts(b);
	put_files(b);
	put_tensors(b);
	put_carried_tables(b);
}

/* ---- how it is stored ---- */

int mfs_root_builder_store(mfs_root_builder *b, mfs_problem *why)
{
	size_t room = mfs_columns_bound(b->root.size);

	b->stored_size = b->root.size;
	if (b->root.size <= MFS_ROOT_PLAIN_MAX)
		return 0;
	b->stored = malloc(room);
	if (!b->stored)
		return mfs_problem_no_memory(why);
	b->stored_size = mfs_columns_encode(b->bytes, b->root.size, b->stored, room);
	if (!b->stored_size)
		return mfs_problem_no_memory(why);
	if (b->stored_size >= b->root.size) {
		free(b->stored);
		b->stored = NULL;
		b->stored_size = b->root.size;
	}
	return 0;
}

/* Bytes that are known only when everything is stored: hashes, and what changes from one
 * place (or offset of NF4) to the next. */
static uint64_t bytes_to_come(const mfs_root_builder *b)
{
	const mfs_plan *plan = b->plan;
	uint32_t carried = plan->carried ? plan->carried->tables : 0;
	const uint64_t place = sizeof(le32);
	uint64_t bytes =
	    (uint64_t)b->root.count[MFS_SEC_SEGMENTS] * sizeof(struct mfs_disk_segment);

	bytes += (plan->tables_count - carried) * (place + sizeof(le32) + sizeof(le64));
	for (uint32_t i = 0; i < plan->file_count; i++)
		bytes += plan->files[i].carried ? 0 : sizeof(plan->files[i].record.hash);
	for (uint32_t i = 0; i < plan->tensor_count; i++) {
		const mfs_plan_tensor *t = &plan->tensors[i];

		if (t->stored || t->record.flags & MFS_TENSOR_DERIVED)
			continue;
		bytes += sizeof(t->record.hash);
		for (unsigned s = 0; s < MFS_SLOTS; s++)
			bytes += mfs_plan_has_slot(t, s) ? place : 0;
	}
	for (uint32_t i = 0; i < plan->term_count; i++)
		bytes += plan->terms[i].kind == MFS_TERM_NF4 ? place : 0;
	return bytes;
}

int mfs_root_builder_forecast(mfs_root_builder *b, uint64_t *room, mfs_problem *why)
{
	int error = mfs_root_builder_store(b, why);

	if (error)
		return error;
	*room = b->stored_size + b->stored_size / 64 + bytes_to_come(b);
	/* With fewer chunks than are planned for, it may become one that stays as it is. */
	if (*room < MFS_ROOT_PLAIN_MAX)
		*room = MFS_ROOT_PLAIN_MAX;
	if (*room > b->root.size)
		*room = b->root.size;
	return 0;
}
