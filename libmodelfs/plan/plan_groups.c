/* What is stored of the tensors of a plan, and in which groups: numbers and bounds. */
#include "plan.h"

#include <stdlib.h>

#include "carried.h"

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

/* ---- groups ---- */

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
