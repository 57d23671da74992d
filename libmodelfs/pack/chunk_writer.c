#include "chunk_writer.h"

#include <stdlib.h>
#include <string.h>

#include "../../format/check.h"
#include "carried.h"
#include "large_alloc.h"
#include "mfs_xxhash.h"
#include "problem.h"

/* A chunk that is not the last of its class in the group may end some frames
 * early, where it leaves the least of its last page empty. */
#define CUT_CANDIDATES 24

/* Constants lie before the weights that need them. */
static const uint8_t class_order[MFS_DISK_CLASSES] = {
    MFS_DISK_CONSTANTS, MFS_DISK_WEIGHTS, MFS_DISK_PLAIN, MFS_DISK_ADAPTER, MFS_DISK_METADATA};

/* Room for records from `first` to `end`; some more, as an empty table is not a
 * failure. */
static uint8_t *table_memory(uint64_t end, uint64_t first, size_t record)
{
	return calloc(end > first ? end - first : 1, record);
}

/* What the tables have of the generation before, as far as it is written again. */
static int carry_over(mfs_chunk_writer *w)
{
	const mfs_carried *carried = w->plan->carried;
	int error = 0;

	for (uint32_t i = 0; i < carried->tables; i++)
		mfs_carried_get_tables(carried, i, &w->tables[i]);
	w->chunk_count = carried->chunks;
	if (w->plan->frames > carried->frames)
		error = mfs_carried_copy_tail(w->plan, MFS_SEGMENT_FRAMES, w->frames);
	if (!error && w->plan->chunks_max > carried->chunks)
		error = mfs_carried_copy_tail(w->plan, MFS_SEGMENT_CHUNKS, w->chunks);
	return error;
}

static uint8_t *frame_record(const mfs_chunk_writer *w, uint64_t number)
{
	return w->frames + (number - w->first_frame) * sizeof(struct mfs_disk_frame);
}

/* ---- frames ---- */

/* Writes the record of frame `index` of a tensor's slot. Places only rise, whichever
 * frame comes first: that has the lowest place. */
static void put_record(mfs_chunk_writer *w, const mfs_plan_tensor *t, unsigned slot, uint64_t index,
		       const mfs_frame_place *place)
{
	uint32_t lead = t->leader == MFS_NO_TENSOR ? (uint32_t)(t - w->plan->tensors) : t->leader;
	mfs_plan_tensor *leader = &w->plan->tensors[lead];
	uint64_t *base = &leader->record.slot[slot].base;
	uint8_t *record = frame_record(w, t->record.slot[slot].first + index);

	if (!place->size) {
		/* Nothing is stored, so nothing is placed: any offset will do. */
		mfs_frame_place_encode(&(mfs_frame_place){.hash = place->hash}, 0, record);
		return;
	}
	if (!*base && !leader->stored)
		*base = place->offset;
	mfs_frame_place_encode(place, *base, record);
}

/* Writes the records of those that have the same frame; `bytes` is what is stored. */
static void put_aliases(mfs_chunk_writer *w, uint32_t tensor, unsigned slot, uint64_t index,
			mfs_frame_place place, const uint8_t *bytes)
{
	uint64_t count;
	const mfs_plan_alias *alias = mfs_plan_aliases(w->plan, tensor, index, &count);

	for (uint64_t i = 0; i < count; i++) {
		const mfs_plan_tensor *t = &w->plan->tensors[alias[i].tensor];

		place.hash =
		    mfs_frame_hash(bytes, place.size, t->record.slot[slot].first + alias[i].index);
		put_record(w, t, slot, alias[i].index, &place);
	}
}

/* The same where the frame lies in the container already. */
static int put_stored_aliases(mfs_chunk_writer *w, const mfs_plan_alias *alias, uint8_t *buffer)
{
	const mfs_plan_tensor *t = &w->plan->tensors[alias->owner];
	mfs_frame_place place;
	mfs_span span;
	int error = 0;

	mfs_tensor_span(&t->record, t->layout->block_bytes, alias->owner_index, &span);
	for (unsigned s = 0; s < MFS_SLOTS && !error; s++) {
		const mfs_root_frames *frames = &t->record.slot[s];

		if (!mfs_plan_has_slot(t, s))
			continue;
		error = mfs_carried_frame_place(w->plan->carried, t, frames, s, &span, &place);
		if (!error && place.size)
			error =
			    mfs_carried_read(w->plan->carried, place.offset, buffer, place.size);
		if (!error &&
		    mfs_frame_hash(buffer, place.size, frames->first + span.index) != place.hash)
			error = MFS_E_CORRUPT;
		if (!error)
			put_aliases(w, alias->owner, s, alias->owner_index, place, buffer);
	}
	return error;
}

static int put_all_stored_aliases(mfs_chunk_writer *w)
{
	const mfs_plan *plan = w->plan;
	uint8_t *buffer = malloc(MFS_FRAME_MAX);
	int error = buffer ? 0 : MFS_E_MEMORY;

	for (uint64_t i = 0; i < plan->alias_count && !error; i++) {
		const mfs_plan_alias *a = &plan->aliases[i];

		if (plan->tensors[a->owner].stored &&
		    (!i || a->owner != a[-1].owner || a->owner_index != a[-1].owner_index))
			error = put_stored_aliases(w, a, buffer);
	}
	free(buffer);
	return error;
}

/* Rooms for the frames of a group of large spans. */
static int make_rooms(mfs_chunk_writer *w)
{
	w->room_bytes = mfs_coder_room((size_t)w->plan->span_max);
	if (!w->room_bytes)
		return 0;
	w->room_count = (uint32_t)(w->plan->group_max / w->room_bytes);
	w->rooms = calloc(w->room_count + 1u, sizeof(*w->rooms));
	w->room_memory = mfs_large_alloc(w->room_count * w->room_bytes + 64);
	if (!w->rooms || !w->room_memory)
		return MFS_E_MEMORY;
	for (uint32_t i = 0; i < w->room_count; i++)
		w->rooms[i] = w->room_memory + i * w->room_bytes;
	return 0;
}

int mfs_chunk_writer_open(mfs_chunk_writer *out, mfs_plan *plan, const mfs_placement *placement,
			  mfs_output *output)
{
	mfs_chunk_writer w = {.plan = plan, .output = output};
	int error;

	w.gap = placement->gap;
	w.gap_end = placement->gap_end;
	w.end = placement->fixed_end;
	w.next = round_up(placement->fixed_end, plan->page_bytes);
	w.first_frame = MFS_SEGMENT_FRAME_COUNT *
			(uint64_t)mfs_carried_segments(plan, MFS_SEGMENT_FRAMES, plan->frames);
	w.first_chunk = MFS_SEGMENT_CHUNK_COUNT *
			(uint64_t)mfs_carried_segments(plan, MFS_SEGMENT_CHUNKS, plan->chunks_max);
	w.frames = table_memory(plan->frames, w.first_frame, sizeof(struct mfs_disk_frame));
	w.chunks = table_memory(plan->chunks_max, w.first_chunk, sizeof(struct mfs_disk_chunk));
	w.tables = calloc(plan->tables_count + 1, sizeof(*w.tables));
	w.arena = mfs_large_alloc(plan->group_max + 1);
	w.chunk = malloc(MFS_CHUNK_MAX + plan->page_bytes);
	if (!w.frames || !w.chunks || !w.tables || !w.arena || !w.chunk || make_rooms(&w) < 0) {
		mfs_chunk_writer_close(&w);
		return MFS_E_MEMORY;
	}
	error = plan->carried ? carry_over(&w) : 0;
	if (!error && plan->carried)
		error = put_all_stored_aliases(&w);
	if (error)
		mfs_chunk_writer_close(&w);
	else
		*out = w;
	return error;
}

void mfs_chunk_writer_close(mfs_chunk_writer *w)
{
	for (int c = 0; c < MFS_DISK_CLASSES; c++)
		free(w->list[c].items);
	free(w->frames);
	free(w->chunks);
	free(w->tables);
	free(w->arena);
	free(w->rooms);
	free(w->room_memory);
	free(w->chunk);
	memset(w, 0, sizeof(*w));
}

/* ---- where to cut ---- */

static uint32_t padding(const mfs_chunk_writer *w, uint64_t bytes)
{
	return (uint32_t)(round_up(bytes, w->plan->page_bytes) - bytes);
}

/* The items from list->done that `limit` bytes hold, and their bytes. Tables are
 * not left alone at the end: they lie before a frame of theirs. */
static uint32_t items_within(const mfs_chunk_list *list, uint64_t limit, uint64_t *bytes)
{
	uint32_t n = 0;
	uint64_t sum = 0;

	while (list->done + n < list->count && sum + list->items[list->done + n].stored <= limit)
		sum += list->items[list->done + n++].stored;
	while (n && list->done + n < list->count && list->items[list->done + n - 1].is_tables)
		sum -= list->items[list->done + --n].stored;
	*bytes = sum;
	return n;
}

/* How many items the next chunk takes. */
static uint32_t cut(const mfs_chunk_writer *w, const mfs_chunk_list *list)
{
	uint64_t bytes;
	uint32_t most = items_within(list, MFS_CHUNK_MAX, &bytes), best = most;
	uint32_t least_padding = padding(w, bytes);

	if (!most)
		return 1;
	if (list->done + most == list->count)
		return most;
	for (uint32_t n = most; n > 1 && most - n < CUT_CANDIDATES; n--) {
		bytes -= list->items[list->done + n - 1].stored;
		/* mfs_plan_number() relies on this for its bound on the chunks. */
		if (bytes < MFS_CHUNK_MAX / 2)
			break;
		if (padding(w, bytes) < least_padding &&
		    !list->items[list->done + n - 2].is_tables) {
			least_padding = padding(w, bytes);
			best = n - 1;
		}
	}
	return best;
}

/* ---- writing chunks ---- */

static void place_frame(mfs_chunk_writer *w, const mfs_chunk_item *item, uint64_t offset)
{
	uint64_t index = item->number - item->tensor->record.slot[item->slot].first;
	const mfs_frame_place place = {offset, item->stored, item->hash};

	put_record(w, item->tensor, item->slot, index, &place);
	put_aliases(w, (uint32_t)(item->tensor - w->plan->tensors), item->slot, index, place,
		    item->bytes);
	w->frame_bytes += item->stored;
}

static void place_tables(mfs_chunk_writer *w, const mfs_chunk_item *item, uint64_t offset)
{
	w->tables[item->tensor->record.slot[item->slot].tables] =
	    (mfs_root_tables){offset, item->stored, item->hash};
	w->tables_bytes += item->stored;
}

/* Puts `count` items into the chunk buffer; fills in the chunk's record. */
static void fill_chunk(mfs_chunk_writer *w, mfs_chunk_list *list, uint32_t count, mfs_chunk *chunk)
{
	uint64_t by_coding[MFS_CODINGS] = {0};

	for (uint32_t i = 0; i < count; i++) {
		const mfs_chunk_item *item = &list->items[list->done + i];

		memcpy(w->chunk + chunk->stored_size, item->bytes, item->stored);
		if (item->is_tables) {
			place_tables(w, item, chunk->offset + chunk->stored_size);
		} else {
			place_frame(w, item, chunk->offset + chunk->stored_size);
			chunk->frames++;
			chunk->decoded_size += item->decoded;
		}
		chunk->stored_size += item->stored;
		for (int c = 0; c < MFS_CODINGS; c++)
			by_coding[c] += item->by_coding[c];
	}
	for (uint8_t c = 1; c < MFS_CODINGS; c++)
		if (by_coding[c] > by_coding[chunk->codec])
			chunk->codec = c;
	list->done += count;
}

static int write_chunk(mfs_chunk_writer *w, uint8_t cls, uint32_t count, uint64_t *position,
		       mfs_problem *why)
{
	mfs_chunk chunk = {.offset = *position, .cls = cls};
	uint32_t pad;

	if (w->chunk_count == w->plan->chunks_max)
		return mfs_problem_set(why, MFS_E_LIMIT, UINT64_MAX,
				       "more chunks than the plan has room for");
	fill_chunk(w, &w->list[cls], count, &chunk);
	pad = padding(w, chunk.stored_size);
	memset(w->chunk + chunk.stored_size, 0, pad);
	mfs_chunk_encode(&chunk, w->chunks + (w->chunk_count++ - w->first_chunk) *
						 sizeof(struct mfs_disk_chunk));
	*position = chunk.offset + chunk.stored_size + pad;
	/* Chunks in the gap lie before what is placed behind slot 1. */
	if (chunk.offset + chunk.stored_size > w->end)
		w->end = chunk.offset + chunk.stored_size;
	if (!w->output)
		return 0;
	return mfs_output_write(w->output, chunk.offset, w->chunk, chunk.stored_size + pad, why);
}

/* Moves the items that `room` bytes hold to the front of the list, otherwise in
 * their order; returns how many. Of a tensor's items only the first ones are
 * taken, so that its places still rise. */
static uint32_t gather_fitting(mfs_chunk_list *list, uint64_t room)
{
	mfs_chunk_item *left = malloc(list->count * sizeof(*left));
	const mfs_plan_tensor *skipped = NULL;
	uint32_t taken = 0, kept = 0;

	if (!left)
		return 0;
	for (uint32_t i = 0; i < list->count; i++) {
		mfs_chunk_item item = list->items[i];

		if (item.tensor == skipped || item.stored > room) {
			skipped = item.tensor;
			left[kept++] = item;
		} else {
			room -= item.stored;
			list->items[taken++] = item;
		}
	}
	memcpy(list->items + taken, left, kept * sizeof(*left));
	free(left);
	return taken;
}

/* What of a class goes into the gap. In a large container just its head: small
 * tensors far from their neighbours would cost reads there. */
static uint32_t items_for_gap(mfs_chunk_writer *w, mfs_chunk_list *list)
{
	uint64_t room = w->gap_end - w->gap, bytes;

	if (list->count && w->plan->original_bytes <= MFS_GROUP_BYTES)
		return gather_fitting(list, room);
	return items_within(list, room, &bytes);
}

/* The gap between the superblocks takes what fits of the first group. */
static int fill_gap(mfs_chunk_writer *w, mfs_problem *why)
{
	for (int i = 0; i < MFS_DISK_CLASSES && w->gap < w->gap_end; i++) {
		uint8_t cls = class_order[i];
		uint32_t n = items_for_gap(w, &w->list[cls]);
		int error = n ? write_chunk(w, cls, n, &w->gap, why) : 0;

		if (error)
			return error;
	}
	w->gap = w->gap_end;
	return 0;
}

static int write_group(mfs_chunk_writer *w, mfs_problem *why)
{
	uint64_t start = w->next;
	int error = fill_gap(w, why);

	for (int i = 0; i < MFS_DISK_CLASSES; i++) {
		uint8_t cls = class_order[i];
		mfs_chunk_list *list = &w->list[cls];

		while (!error && list->done < list->count)
			error = write_chunk(w, cls, cut(w, list), &w->next, why);
		list->count = list->done = 0;
	}
	w->group = (mfs_group){0};
	w->arena_used = 0;
	w->rooms_used = 0;
	if (!error && w->output)
		mfs_output_start_sync(w->output, start, w->next - start);
	return error;
}

/* ---- taking spans ---- */

/* Adds an item, whose bytes stay where they are until the group is written. */
static int push(mfs_chunk_writer *w, mfs_chunk_item item, mfs_problem *why)
{
	mfs_chunk_list *list = &w->list[mfs_plan_slot_class(item.tensor, item.slot)];

	if (list->count == list->room) {
		uint32_t room = list->room ? list->room * 2 : 64;
		mfs_chunk_item *items = realloc(list->items, room * sizeof(*items));

		if (!items)
			return mfs_problem_no_memory(why);
		list->items = items;
		list->room = room;
	}
	list->items[list->count++] = item;
	return 0;
}

static const uint8_t *keep_copy(mfs_chunk_writer *w, const uint8_t *bytes, size_t size)
{
	uint8_t *at = w->arena + w->arena_used;

	memcpy(at, bytes, size);
	w->arena_used += size;
	return at;
}

/* Takes over what the job's frames are in, and gives it another room; false where
 * copying them is better: a room of a small span would be mostly empty. */
static bool keep_room(mfs_chunk_writer *w, mfs_coder_job *job)
{
	size_t stored = (size_t)job->info[0].stored + job->info[1].stored;
	uint8_t *free_room;

	if (!job->room || stored < w->room_bytes / 2 || w->rooms_used == w->room_count)
		return false;
	free_room = w->rooms[w->rooms_used];
	w->rooms[w->rooms_used++] = *job->room;
	*job->room = free_room;
	return true;
}

static int push_tables(mfs_chunk_writer *w, mfs_plan_tensor *t, unsigned slot, mfs_problem *why)
{
	const mfs_chunk_item item = {.tensor = t,
				     .hash = XXH3_64bits(t->tables[slot], t->tables_bytes[slot]),
				     .bytes = keep_copy(w, t->tables[slot], t->tables_bytes[slot]),
				     .stored = t->tables_bytes[slot],
				     .slot = (uint8_t)slot,
				     .is_tables = true};

	return push(w, item, why);
}

static int push_frame(mfs_chunk_writer *w, const mfs_coder_job *job, unsigned slot, bool kept,
		      mfs_problem *why)
{
	mfs_plan_tensor *t = &w->plan->tensors[job->tensor_number];
	mfs_chunk_item item = {.number = t->record.slot[slot].first + job->span.index,
			       .tensor = t,
			       .hash = job->hash[slot],
			       .stored = job->info[slot].stored,
			       .decoded = mfs_plan_slot_bytes(t, slot, job->span.blocks),
			       .slot = (uint8_t)slot};

	memcpy(item.by_coding, job->info[slot].by_coding, sizeof(item.by_coding));
	if (!item.stored) {
		place_frame(w, &item, 0);
		return 0;
	}
	item.bytes = kept ? job->stored[slot] : keep_copy(w, job->stored[slot], item.stored);
	return push(w, item, why);
}

int mfs_chunk_writer_add(mfs_chunk_writer *w, mfs_coder_job *job, mfs_problem *why)
{
	mfs_plan_tensor *t = &w->plan->tensors[job->tensor_number];
	bool kept;
	int error = 0;

	if (!mfs_group_takes(&w->group, t, &job->span))
		error = write_group(w, why);
	mfs_group_add(&w->group, t, &job->span);
	kept = keep_room(w, job);
	for (unsigned s = 0; s < MFS_SLOTS && !error; s++) {
		if (job->span.index == t->first_stored && t->tables_bytes[s])
			error = push_tables(w, t, s, why);
		if (!error && mfs_plan_has_slot(t, s))
			error = push_frame(w, job, s, kept, why);
	}
	return error;
}

int mfs_chunk_writer_finish(mfs_chunk_writer *w, mfs_problem *why)
{
	return write_group(w, why);
}
