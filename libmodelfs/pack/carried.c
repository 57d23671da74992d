#include "carried.h"

#include <stdlib.h>
#include <string.h>

#include "../../format/check.h"
#include "container.h"
#include "mfs_xxhash.h"
#include "problem.h"
#include "reader.h"

/* Memory for reading what is carried over: to compare, and as base of deltas. */
#define ARENA_BYTES	 (16u << 20)
#define ARENA_BYTES_EACH (2u << 20)

/* ---- opening ---- */

static int check_features(const mfs_container *c, mfs_problem *why)
{
	if (!c->sb.feature_compat)
		return 0;
	return mfs_problem_set(
	    why, MFS_E_UNSUPPORTED, 0,
	    "%s: has features of a newer modelfs, which would be lost: update to "
	    "change it",
	    c->path);
}

/* Appending to an older generation would overwrite the newer one. */
static int check_newest(const mfs_container *c, mfs_problem *why)
{
	const uint64_t slots[] = {0, c->sb.profile == MFS_PROFILE_NOR ? MFS_SB_SLOT1_NOR
								      : MFS_SB_SLOT1};

	for (int i = 0; i < 2; i++) {
		uint8_t bytes[MFS_SB_SIZE];
		mfs_superblock sb;

		if (c->io->table->read_at(c->io, slots[i], bytes, sizeof(bytes)) != MFS_SB_SIZE ||
		    mfs_superblock_decode(&sb, bytes, slots[i]) < 0 ||
		    sb.generation <= c->sb.generation)
			continue;
		return mfs_problem_set(why, MFS_E_CORRUPT, slots[i],
				       "%s: generation %llu is damaged: appending to the one "
				       "before would destroy what is left of it",
				       c->path, (unsigned long long)sb.generation);
	}
	return 0;
}

static int decode(mfs_carried *carried)
{
	const mfs_root *root = &carried->container->root;
	uint32_t dims = root->count[MFS_SEC_DIMS];

	carried->frames = root->frames;
	carried->chunks = root->chunks;
	carried->tables = root->count[MFS_SEC_TABLES];
	carried->dims = calloc(dims + 1u, sizeof(*carried->dims));
	carried->tensor_number = calloc(root->count[MFS_SEC_TENSORS] + 1u, sizeof(uint32_t));
	carried->file_number = calloc(root->count[MFS_SEC_FILES] + 1u, sizeof(uint32_t));
	carried->removed = calloc(root->count[MFS_SEC_FILES] + 1u, sizeof(bool));
	if (!carried->dims || !carried->tensor_number || !carried->file_number || !carried->removed)
		return MFS_E_MEMORY;
	/* MFS_NO_TENSOR, MFS_NO_FILE */
	memset(carried->tensor_number, 0xff, root->count[MFS_SEC_TENSORS] * sizeof(uint32_t));
	memset(carried->file_number, 0xff, root->count[MFS_SEC_FILES] * sizeof(uint32_t));
	for (uint32_t i = 0; i < dims; i++)
		carried->dims[i] = mfs_root_get_dim(root, i);
	return 0;
}

int mfs_carried_open(mfs_carried **out, const char *path, unsigned threads, mfs_problem *why)
{
	mfs_open_options options = MFS_OPEN_OPTIONS_INIT;
	mfs_carried *carried = calloc(1, sizeof(*carried));
	int error;

	if (!carried)
		return mfs_problem_no_memory(why);
	options.decoders = threads;
	options.arena_bytes = ARENA_BYTES + (uint64_t)ARENA_BYTES_EACH * threads;
	error = mfs_open(&carried->container, path, &options, why);
	if (!error)
		error = check_features(carried->container, why);
	if (!error)
		error = check_newest(carried->container, why);
	if (!error && decode(carried) < 0)
		error = mfs_problem_no_memory(why);
	if (error)
		mfs_carried_close(carried);
	else
		*out = carried;
	return error;
}

void mfs_carried_close(mfs_carried *carried)
{
	if (!carried)
		return;
	mfs_close(carried->container);
	free(carried->dims);
	free(carried->tensor_number);
	free(carried->file_number);
	free(carried->removed);
	free(carried);
}

/* ---- files ---- */

static int add_file(mfs_carried *carried, mfs_plan *plan, uint32_t number, mfs_problem *why)
{
	mfs_container *c = carried->container;
	mfs_plan_file *file = mfs_plan_new_file(plan);

	if (!file)
		return mfs_problem_no_memory(why);
	file->carried = true;
	file->carried_number = number;
	file->path = strdup(c->path);
	file->name = strdup(c->file_names[number]);
	if (!file->path || !file->name) {
		free(file->path);
		free(file->name);
		return mfs_problem_no_memory(why);
	}
	mfs_source_packed(&file->source, file->path, c, number);
	mfs_root_get_file(&c->root, number, &file->record);
	file->record.name = file->name;
	plan->file_count++;
	return 0;
}

int mfs_carried_add_files(mfs_carried *carried, mfs_plan *plan, mfs_problem *why)
{
	const mfs_container *c = carried->container;
	int error = 0;

	for (uint32_t i = 0; i < c->root.count[MFS_SEC_FILES] && !error; i++)
		error = add_file(carried, plan, i, why);
	plan->profile = (mfs_profile_id)c->sb.profile;
	plan->page_bytes = c->sb.page_size;
	plan->carried = carried;
	return error;
}

bool mfs_carried_goes(const mfs_plan *plan, const mfs_plan_file *file)
{
	return file->carried && plan->carried->removed[file->carried_number];
}

int mfs_plan_import_carried(mfs_plan_file *file, mfs_problem *why)
{
	int error;

	if (file->import.memory)
		return 0;
	error = mfs_import_source(&file->import, &file->source, why);
	if (!error && file->import.format == MFS_FORMAT_GGUF)
		error = mfs_carried_import_nf4(file, why);
	return error;
}

/* ---- the plan's records ---- */

static int carry_tensor(mfs_plan *plan, uint32_t file, uint32_t number, mfs_problem *why)
{
	mfs_carried *carried = plan->carried;
	mfs_container *c = carried->container;
	mfs_plan_tensor t = {.twin = MFS_NO_TENSOR,
			     .delta_base = MFS_NO_TENSOR,
			     .leader = MFS_NO_TENSOR,
			     .stored = true};
	int error;

	mfs_root_get_tensor(&c->root, number, &t.record);
	t.layout = &c->layouts[t.record.layout];
	t.dims = carried->dims + t.record.first_dim;
	t.spans = mfs_tensor_spans(&t.record, t.layout->block_bytes);
	t.record.file = file;
	error = mfs_plan_layout(plan, t.layout, &t.record.layout, why);
	carried->tensor_number[number] = plan->tensor_count;
	return error ? error : mfs_plan_add_tensor(plan, &t, why);
}

int mfs_carried_build_file(mfs_plan *plan, uint32_t file, mfs_problem *why)
{
	mfs_plan_file *f = &plan->files[file];
	const mfs_container *c = plan->carried->container;
	uint32_t number = f->carried_number, end = container_first_tensor(c, number + 1);
	uint64_t first = f->record.first_extent;
	int error = 0;

	plan->carried->file_number[number] = file;
	f->record.first_extent = plan->extent_count;
	for (uint32_t i = container_first_tensor(c, number); i < end && !error; i++)
		error = carry_tensor(plan, file, i, why);
	for (uint64_t i = 0; i < f->record.extent_count && !error; i++) {
		mfs_root_extent extent;

		mfs_root_get_extent(&c->root, first + i, &extent);
		error = mfs_plan_add_extent(plan, &extent, why);
	}
	return error;
}

/* The number in the plan; what stays refers to nothing that goes (remove.h). */
static uint32_t renumber(const mfs_carried *carried, uint32_t tensor)
{
	return tensor == MFS_NO_TENSOR ? tensor : carried->tensor_number[tensor];
}

static void renumber_file(mfs_plan *plan, mfs_plan_file *f)
{
	if (f->record.base != MFS_NO_FILE)
		f->record.base = plan->carried->file_number[f->record.base];
	for (uint64_t i = 0; i < f->record.extent_count; i++) {
		mfs_root_extent *e = &plan->extents[f->record.first_extent + i];

		if (e->kind == MFS_EXTENT_TENSOR)
			e->tensor = renumber(plan->carried, e->tensor);
	}
}

static int carry_terms(mfs_plan *plan, mfs_problem *why)
{
	const mfs_root *root = &plan->carried->container->root;
	int error = 0;

	for (uint32_t i = 0; i < root->count[MFS_SEC_TERMS] && !error; i++) {
		mfs_root_term term;

		mfs_root_get_term(root, i, &term);
		term.tensor = renumber(plan->carried, term.tensor);
		if (term.tensor == MFS_NO_TENSOR)
			continue;
		for (int k = 0; k < MFS_TERM_OPERANDS; k++)
			term.operand[k] = renumber(plan->carried, term.operand[k]);
		error = mfs_plan_add_term(plan, &term, why);
	}
	return error;
}

int mfs_carried_finish(mfs_plan *plan, mfs_problem *why)
{
	for (uint32_t i = 0; i < plan->file_count; i++)
		if (plan->files[i].carried)
			renumber_file(plan, &plan->files[i]);
	for (uint32_t i = 0; i < plan->tensor_count; i++)
		if (plan->tensors[i].stored)
			plan->tensors[i].record.base =
			    renumber(plan->carried, plan->tensors[i].record.base);
	return carry_terms(plan, why);
}

void mfs_carried_number(mfs_plan *plan)
{
	if (!plan->carried)
		return;
	plan->frames = plan->carried->frames;
	plan->chunks_max = plan->carried->chunks;
	plan->tables_count = plan->carried->tables;
}

/* ---- the frame and chunk tables ---- */

static uint64_t records_of(const mfs_plan *plan, unsigned kind)
{
	if (!plan->carried)
		return 0;
	return kind == MFS_SEGMENT_FRAMES ? plan->carried->frames : plan->carried->chunks;
}

static uint32_t segment_records(unsigned kind)
{
	return kind == MFS_SEGMENT_FRAMES ? MFS_SEGMENT_FRAME_COUNT : MFS_SEGMENT_CHUNK_COUNT;
}

uint32_t mfs_carried_segments(const mfs_plan *plan, unsigned kind, uint64_t records)
{
	uint64_t before = records_of(plan, kind);

	return (uint32_t)(records == before ? div_up(before, segment_records(kind))
					    : before / segment_records(kind));
}

/* Where the segments of a kind begin among those of the container. */
static uint32_t first_segment(const mfs_plan *plan, unsigned kind)
{
	return kind == MFS_SEGMENT_FRAMES
		   ? 0
		   : (uint32_t)div_up(plan->carried->frames, MFS_SEGMENT_FRAME_COUNT);
}

void mfs_carried_segment(const mfs_plan *plan, unsigned kind, uint32_t i, mfs_root_segment *out)
{
	mfs_root_get_segment(&plan->carried->container->root, first_segment(plan, kind) + i, out);
}

int mfs_carried_copy_tail(const mfs_plan *plan, unsigned kind, uint8_t *out)
{
	uint64_t records = records_of(plan, kind), in_segment = segment_records(kind);
	mfs_root_segment segment;
	struct part *part;
	struct reader *r;
	uint32_t number;
	int err = 0;

	if (records % in_segment == 0)
		return 0;
	r = container_reader(plan->carried->container, &err);
	if (!r)
		return err;
	number = first_segment(plan, kind) + (uint32_t)(records / in_segment);
	part = &r->segments[number];
	err = reader_wait_part(r, part);
	if (err)
		return err;
	mfs_root_get_segment(&plan->carried->container->root, number, &segment);
	memcpy(out, part->bytes, segment.size);
	return 0;
}

void mfs_carried_get_tables(const mfs_carried *carried, uint32_t i, mfs_root_tables *out)
{
	mfs_root_get_tables(&carried->container->root, i, out);
}

int mfs_carried_read(const mfs_carried *carried, uint64_t offset, void *out, size_t length)
{
	mfs_io *io = carried->container->io;
	int64_t got = io->table->read_at(io, offset, out, length);

	if (got < 0)
		return (int)got;
	return (size_t)got == length ? 0 : MFS_E_TRUNCATED;
}

int mfs_carried_frame_place(const mfs_carried *carried, const mfs_plan_tensor *t,
			    const mfs_root_frames *frames, unsigned slot, const mfs_span *span,
			    mfs_frame_place *out)
{
	uint64_t number = frames->first + span->index;
	struct part *segment;
	struct reader *r;
	int error;

	r = container_reader(carried->container, &error);
	if (!r)
		return error;
	segment = frame_segment(r, number);
	error = reader_wait_part(r, segment);
	if (error)
		return error;
	return mfs_frame_place_decode(
	    out, segment->bytes + number % MFS_SEGMENT_FRAME_COUNT * sizeof(struct mfs_disk_frame),
	    frames->base, mfs_plan_slot_bytes(t, slot, span->blocks),
	    carried->container->sb.container_size);
}

int mfs_carried_load_tables(const mfs_carried *carried, mfs_plan_tensor *t, unsigned slot)
{
	mfs_root_tables tables;
	int error;

	mfs_carried_get_tables(carried, t->record.slot[slot].tables, &tables);
	t->tables[slot] = malloc(tables.size);
	if (!t->tables[slot])
		return MFS_E_MEMORY;
	t->tables_bytes[slot] = tables.size;
	error = mfs_carried_read(carried, tables.offset, t->tables[slot], tables.size);
	if (!error && (XXH3_64bits(t->tables[slot], tables.size) != tables.hash ||
		       tables.size < sizeof(uint32_t) * t->layout->slot_streams[slot]))
		error = MFS_E_CORRUPT;
	return error;
}

int mfs_carried_get_chunk(const mfs_carried *carried, uint64_t i, mfs_chunk *out)
{
	mfs_container *c = carried->container;
	struct part *part;
	struct reader *r;
	int err;

	if (i >= carried->chunks)
		return MFS_E_NOT_FOUND;
	r = container_reader(c, &err);
	if (!r)
		return err;
	part = &r->segments[r->frame_segments + i / MFS_SEGMENT_CHUNK_COUNT];
	err = reader_wait_part(r, part);
	if (err)
		return err;
	return mfs_chunk_decode(
	    out, part->bytes + i % MFS_SEGMENT_CHUNK_COUNT * sizeof(struct mfs_disk_chunk),
	    c->sb.page_size, c->sb.container_size);
}
