#include "compact.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "../../format/check.h"
#include "container.h"
#include "mfs_xxhash.h"
#include "problem.h"
#include "share.h"

/* Stored bytes are read in runs of this: frames lie back to back. */
#define WINDOW_BYTES (1u << 20)

struct window {
	uint8_t *bytes; /* as many as the largest frame, or WINDOW_BYTES */
	uint64_t offset;
	size_t length;
};

struct mfs_compactor {
	mfs_plan *plan;
	mfs_carried *carried;
	mfs_root_tensor *old; /* by number in the plan: as it is stored */
	struct window window[MFS_SLOTS];
	uint32_t chunk; /* the one that held the last frame, probably */
};

int mfs_compact_damaged(const mfs_plan *plan, uint32_t tensor, int error, uint64_t offset,
			mfs_problem *why)
{
	const mfs_plan_tensor *t = &plan->tensors[tensor];
	const mfs_plan_file *f = &plan->files[t->record.file];

	return mfs_problem_set(why, error, offset, "%s: %s: %s%.*s at 0x%" PRIx64 ": %s", f->path,
			       f->name, t->record.name_length ? "tensor " : "literal bytes",
			       t->record.name_length, t->record.name, offset,
			       mfs_error_text(error));
}

/* ---- stored bytes ---- */

static const uint8_t *stored_bytes(mfs_compactor *k, struct window *w, uint64_t offset,
				   size_t length, int *error)
{
	uint64_t left = k->carried->container->sb.container_size - offset;

	if (offset < w->offset || !range_ok(offset - w->offset, length, w->length)) {
		w->length = left < WINDOW_BYTES ? left : WINDOW_BYTES;
		if (w->length < length)
			w->length = length;
		w->offset = offset;
		*error = mfs_carried_read(k->carried, offset, w->bytes, w->length);
		if (*error)
			w->length = 0;
	}
	return w->bytes + (offset - w->offset);
}

/* ---- the plan ---- */

static int load_tables(mfs_compactor *k, uint32_t tensor, unsigned slot, mfs_problem *why)
{
	mfs_plan_tensor *t = &k->plan->tensors[tensor];
	int error = mfs_carried_load_tables(k->carried, t, slot);
	mfs_root_tables tables;

	if (!error)
		return 0;
	mfs_carried_get_tables(k->carried, t->record.slot[slot].tables, &tables);
	return mfs_compact_damaged(k->plan, tensor, error, tables.offset, why);
}

/* A tensor's frames and tables get new numbers and places. */
static int free_tensor(mfs_compactor *k, uint32_t tensor, mfs_problem *why)
{
	mfs_plan_tensor *t = &k->plan->tensors[tensor];
	int error = 0;

	k->old[tensor] = t->record;
	t->stored = false;
	for (unsigned s = 0; s < MFS_SLOTS && !error; s++) {
		if (t->twin == MFS_NO_TENSOR && t->leader == MFS_NO_TENSOR &&
		    t->record.slot[s].tables != MFS_NO_TABLES)
			error = load_tables(k, tensor, s, why);
		t->record.slot[s] = (mfs_root_frames){.tables = MFS_NO_TABLES};
	}
	return error;
}

/* ---- the order in which they are stored ---- */

struct placed_span {
	uint64_t offset;
	uint32_t tensor;
	uint64_t index;
};

static int by_offset(const void *a, const void *b)
{
	const struct placed_span *x = a, *y = b;

	if (x->offset != y->offset)
		return x->offset < y->offset ? -1 : 1;
	if (x->tensor != y->tensor)
		return x->tensor < y->tensor ? -1 : 1;
	return x->index < y->index ? -1 : x->index > y->index;
}

/* Takes the spans of the tensor's own and adds up their number. Frames of nothing but
 * zeros lie nowhere: they stay behind the span before, those at the head before the
 * first that lies somewhere. */
static int place_spans(mfs_compactor *k, uint32_t tensor, struct placed_span *out, uint64_t *count,
		       mfs_problem *why)
{
	const mfs_plan_tensor *t = &k->plan->tensors[tensor];
	uint64_t offset = 0, n = 0;

	for (uint64_t i = 0; i < t->spans; i++) {
		mfs_frame_place place = {0};
		mfs_span span;

		if (!mfs_plan_owns(t, i))
			continue;
		mfs_tensor_span(&t->record, t->layout->block_bytes, i, &span);
		for (unsigned s = MFS_SLOTS; s-- > 0;) {
			int error =
			    mfs_plan_has_slot(t, s)
				? mfs_carried_frame_place(k->carried, t, &k->old[tensor].slot[s], s,
							  &span, &place)
				: 0;

			if (error)
				return mfs_compact_damaged(k->plan, tensor, error,
							   k->old[tensor].slot[s].base, why);
			if (place.size)
				offset = place.offset;
		}
		out[n++] = (struct placed_span){offset, tensor, i};
	}
	offset = k->old[tensor].slot[mfs_plan_has_slot(t, 0) ? 0 : 1].base;
	for (uint64_t i = n; i-- > 0;)
		if (out[i].offset)
			offset = out[i].offset;
		else
			out[i].offset = offset;
	*count += n;
	return 0;
}

static void join_runs(mfs_plan *plan, const struct placed_span *spans, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++) {
		mfs_plan_run *last = plan->run_count ? &plan->runs[plan->run_count - 1] : NULL;
		mfs_plan_tensor *t = &plan->tensors[spans[i].tensor];

		if (t->last_stored == UINT64_MAX)
			t->first_stored = spans[i].index;
		t->last_stored = spans[i].index;
		if (last && last->tensor == spans[i].tensor &&
		    last->first + last->count == spans[i].index)
			last->count++;
		else
			plan->runs[plan->run_count++] =
			    (mfs_plan_run){spans[i].tensor, spans[i].index, 1};
	}
}

/* True if the frames of each file and class lie in the order of the file, but for
 * what fills the room between the superblocks. `spans` are in that order. */
static bool in_file_order(const mfs_plan *plan, const struct placed_span *spans, uint64_t count)
{
	uint64_t end[MFS_DISK_CLASSES] = {0};
	uint32_t file = MFS_NO_FILE;

	for (uint64_t i = 0; i < count; i++) {
		const mfs_root_tensor *t = &plan->tensors[spans[i].tensor].record;

		if (t->file != file)
			memset(end, 0, sizeof(end));
		file = t->file;
		if (spans[i].offset < MFS_SB_SLOT1)
			continue;
		if (spans[i].offset < end[t->cls])
			return false;
		end[t->cls] = spans[i].offset;
	}
	return true;
}

/* The order may be that of a trace, which is worth keeping. */
static int order_spans(mfs_compactor *k, mfs_problem *why)
{
	mfs_plan *plan = k->plan;
	struct placed_span *spans;
	uint64_t count = 0;
	int error = 0;

	for (uint32_t i = 0; i < plan->tensor_count; i++) {
		plan->tensors[i].first_stored = plan->tensors[i].last_stored = UINT64_MAX;
		if (mfs_plan_writes(&plan->tensors[i]))
			count += plan->tensors[i].spans;
	}
	free(plan->runs);
	plan->run_count = 0;
	plan->runs = calloc(count + 1, sizeof(*plan->runs)); /* the most there can be */
	spans = calloc(count + 1, sizeof(*spans));
	if (!plan->runs || !spans)
		error = mfs_problem_no_memory(why);
	count = 0;
	for (uint32_t i = 0; i < plan->tensor_count && !error; i++)
		if (mfs_plan_writes(&plan->tensors[i]))
			error = place_spans(k, i, spans + count, &count, why);
	if (!error) {
		if (!in_file_order(plan, spans, count))
			qsort(spans, count, sizeof(*spans), by_offset);
		join_runs(plan, spans, count);
	}
	free(spans);
	return error;
}

static void drop_layouts(mfs_plan *plan)
{
	uint32_t number[MFS_LAYOUTS_MAX] = {0}, n = 0;

	for (uint32_t i = 0; i < plan->tensor_count; i++)
		number[plan->tensors[i].record.layout] = 1;
	for (uint32_t i = 0; i < plan->layout_count; i++)
		if (number[i]) {
			plan->layouts[n] = plan->layouts[i];
			number[i] = n++;
		}
	plan->layout_count = n;
	for (uint32_t i = 0; i < plan->tensor_count; i++)
		plan->tensors[i].record.layout = number[plan->tensors[i].record.layout];
}

static int make_plan_new(mfs_compactor *k, mfs_problem *why)
{
	mfs_plan *plan = k->plan;
	int error = mfs_compact_find_shared(plan, why);

	for (uint32_t i = 0; i < plan->tensor_count && !error; i++)
		error = free_tensor(k, i, why);
	if (!error)
		error = mfs_plan_settle_shared(plan, why);
	if (!error)
		error = order_spans(k, why);
	drop_layouts(plan);
	plan->carried = NULL;
	plan->original_bytes = 0;
	for (uint32_t i = 0; i < plan->file_count; i++)
		if (plan->files[i].record.kind != MFS_FILE_VIEW)
			plan->original_bytes += plan->files[i].record.size;
	return error;
}

int mfs_compactor_new(mfs_compactor **out, mfs_plan *plan, mfs_problem *why)
{
	mfs_compactor *k = calloc(1, sizeof(*k));
	int error;

	if (!k)
		return mfs_problem_no_memory(why);
	k->plan = plan;
	k->carried = plan->carried;
	k->old = calloc(plan->tensor_count + 1u, sizeof(*k->old));
	for (int s = 0; s < MFS_SLOTS; s++)
		k->window[s].bytes =
		    malloc(MFS_FRAME_MAX > WINDOW_BYTES ? MFS_FRAME_MAX : WINDOW_BYTES);
	error = k->old && k->window[0].bytes && k->window[1].bytes ? make_plan_new(k, why)
								   : mfs_problem_no_memory(why);
	if (error)
		mfs_compactor_free(k);
	else
		*out = k;
	return error;
}

void mfs_compactor_free(mfs_compactor *k)
{
	if (!k)
		return;
	for (int s = 0; s < MFS_SLOTS; s++)
		free(k->window[s].bytes);
	free(k->old);
	free(k);
}

/* ---- spans ---- */

/* The coding that a frame's chunk is said to have, for the new chunk table: frames
 * that stay together stay what they are. Informative, so damage does not matter. */
static uint8_t coding_of(mfs_compactor *k, uint64_t offset)
{
	mfs_container *c = k->carried->container;
	uint32_t low = 0, high = (uint32_t)c->root.chunks;
	mfs_chunk chunk;

	if (!mfs_carried_get_chunk(k->carried, k->chunk, &chunk) && chunk.offset <= offset &&
	    offset - chunk.offset < chunk.stored_size)
		return chunk.codec;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (mfs_carried_get_chunk(k->carried, middle, &chunk) < 0)
			return 0;
		if (chunk.offset <= offset)
			low = middle + 1;
		else
			high = middle;
	}
	k->chunk = low ? low - 1 : 0;
	if (mfs_carried_get_chunk(k->carried, k->chunk, &chunk) < 0)
		return 0;
	return chunk.codec;
}

static int copy_frame(mfs_compactor *k, uint32_t tensor, unsigned slot, mfs_coder_job *job,
		      mfs_problem *why)
{
	const mfs_plan_tensor *t = &k->plan->tensors[tensor];
	const mfs_root_frames *run = &k->old[tensor].slot[slot];
	mfs_frame_place place = {0};
	int error = mfs_carried_frame_place(k->carried, t, run, slot, &job->span, &place);

	if (!error && place.size)
		job->stored[slot] =
		    stored_bytes(k, &k->window[slot], place.offset, place.size, &error);
	if (!error && mfs_frame_hash(job->stored[slot], place.size, run->first + job->span.index) !=
			  place.hash)
		error = MFS_E_CORRUPT;
	if (error)
		return mfs_compact_damaged(k->plan, tensor, error, place.offset, why);
	job->info[slot].stored = place.size;
	job->hash[slot] = mfs_frame_hash(job->stored[slot], place.size,
					 t->record.slot[slot].first + job->span.index);
	if (place.size) {
		uint8_t coding = coding_of(k, place.offset);

		if (coding < MFS_CODINGS)
			job->info[slot].by_coding[coding] =
			    mfs_plan_slot_bytes(t, slot, job->span.blocks);
	}
	return 0;
}

int mfs_compactor_span(mfs_compactor *k, uint32_t tensor, uint64_t i, mfs_coder_job *job,
		       mfs_problem *why)
{
	const mfs_plan_tensor *t = &k->plan->tensors[tensor];
	int error = 0;

	*job = (mfs_coder_job){.tensor = t, .tensor_number = tensor};
	mfs_tensor_span(&t->record, t->layout->block_bytes, i, &job->span);
	for (unsigned s = 0; s < MFS_SLOTS && !error; s++)
		if (mfs_plan_has_slot(t, s))
			error = copy_frame(k, tensor, s, job, why);
	return error;
}
