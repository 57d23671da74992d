/* What tensors of a container have in common, found from where their frames lie: those
 * with the same frames, and spans whose frames lie at the same places. */
#include <stdlib.h>
#include <string.h>

#include "compact.h"
#include "problem.h"

/* ---- tensors ---- */

/* Tensors that share frames begin with the same one. */
static uint64_t first_frame(const mfs_plan_tensor *t)
{
	return t->record.slot[mfs_plan_has_slot(t, 0) ? 0 : 1].first;
}

static bool same_frames(const mfs_plan_tensor *a, const mfs_plan_tensor *b)
{
	return a->layout == b->layout && a->record.cls == b->record.cls && a->spans == b->spans &&
	       a->record.size == b->record.size &&
	       a->record.slice_blocks == b->record.slice_blocks &&
	       a->record.span_blocks == b->record.span_blocks &&
	       !memcmp(a->record.slot, b->record.slot, sizeof(a->record.slot));
}

struct frame_user {
	uint64_t frame;
	uint32_t tensor;
};

static int by_frame(const void *a, const void *b)
{
	const struct frame_user *x = a, *y = b;

	if (x->frame != y->frame)
		return x->frame < y->frame ? -1 : 1;
	return x->tensor < y->tensor ? -1 : x->tensor > y->tensor;
}

static int find_twins(mfs_plan *plan, mfs_problem *why)
{
	struct frame_user *users = calloc(plan->tensor_count + 1u, sizeof(*users));
	uint32_t n = 0, from = 0;

	if (!users)
		return mfs_problem_no_memory(why);
	for (uint32_t i = 0; i < plan->tensor_count; i++)
		if (!(plan->tensors[i].record.flags & MFS_TENSOR_DERIVED))
			users[n++] = (struct frame_user){first_frame(&plan->tensors[i]), i};
	qsort(users, n, sizeof(*users), by_frame);
	for (uint32_t i = 1; i < n; i++) {
		if (users[i].frame != users[from].frame)
			from = i;
		else if (same_frames(&plan->tensors[users[from].tensor],
				     &plan->tensors[users[i].tensor]))
			plan->tensors[users[i].tensor].twin = users[from].tensor;
	}
	free(users);
	return 0;
}

/* ---- spans ---- */

/* Of tensors that may have spans in common: these have the same class and tables, and
 * count their places from the same one (share.h). */
static int compare_cut(const mfs_plan_tensor *a, const mfs_plan_tensor *b)
{
	const mfs_root_tensor *x = &a->record, *y = &b->record;

	for (int s = 0; s < MFS_SLOTS; s++) {
		if (x->slot[s].base != y->slot[s].base)
			return x->slot[s].base < y->slot[s].base ? -1 : 1;
		if (x->slot[s].tables != y->slot[s].tables)
			return x->slot[s].tables < y->slot[s].tables ? -1 : 1;
	}
	if (x->layout != y->layout)
		return x->layout < y->layout ? -1 : 1;
	if (x->cls != y->cls)
		return x->cls < y->cls ? -1 : 1;
	return (x->flags > y->flags) - (x->flags < y->flags);
}

static int by_cut(const void *a, const void *b, void *user)
{
	const mfs_plan *plan = user;
	const uint32_t *x = a, *y = b;
	int order = compare_cut(&plan->tensors[*x], &plan->tensors[*y]);

	return order ? order : (*x > *y) - (*x < *y);
}

struct stored_span {
	mfs_frame_place place[MFS_SLOTS]; /* zeros where nothing is stored */
	uint32_t blocks;
	mfs_plan_owner at;
};

static int by_places(const void *a, const void *b)
{
	const struct stored_span *x = a, *y = b;

	for (int s = 0; s < MFS_SLOTS; s++)
		if (x->place[s].offset != y->place[s].offset)
			return x->place[s].offset < y->place[s].offset ? -1 : 1;
	if (x->at.tensor != y->at.tensor)
		return x->at.tensor < y->at.tensor ? -1 : 1;
	return x->at.index < y->at.index ? -1 : x->at.index > y->at.index;
}

static bool same_places(const struct stored_span *a, const struct stored_span *b)
{
	bool any = false;

	for (int s = 0; s < MFS_SLOTS; s++) {
		if (a->place[s].offset != b->place[s].offset ||
		    a->place[s].size != b->place[s].size)
			return false;
		any |= a->place[s].size > 0;
	}
	return any && a->blocks == b->blocks;
}

static int find_places(const mfs_plan *plan, uint32_t tensor, struct stored_span *out,
		       mfs_problem *why)
{
	const mfs_plan_tensor *t = &plan->tensors[tensor];

	for (uint64_t i = 0; i < t->spans; i++) {
		mfs_span span;

		mfs_tensor_span(&t->record, t->layout->block_bytes, i, &span);
		out[i] = (struct stored_span){.blocks = span.blocks, .at = {tensor, (uint32_t)i}};
		for (unsigned s = 0; s < MFS_SLOTS; s++) {
			mfs_frame_place *place = &out[i].place[s];
			int error = mfs_plan_has_slot(t, s)
					? mfs_carried_frame_place(
					      plan->carried, t, &t->record.slot[s], s, &span, place)
					: 0;

			if (error)
				return mfs_compact_damaged(plan, tensor, error,
							   t->record.slot[s].base, why);
			if (!place->size)
				*place = (mfs_frame_place){0};
		}
	}
	return 0;
}

static int set_owner(mfs_plan_tensor *t, uint32_t index, mfs_plan_owner owner, mfs_problem *why)
{
	if (!t->owners) {
		t->owners = malloc(t->spans * sizeof(*t->owners));
		if (!t->owners)
			return mfs_problem_no_memory(why);
		for (uint64_t i = 0; i < t->spans; i++)
			t->owners[i].tensor = MFS_NO_TENSOR;
	}
	t->owners[index] = owner;
	return 0;
}

/* Of spans in the order of their places each belongs to the first one that lies there. */
static int set_owners(mfs_plan *plan, const struct stored_span *spans, uint64_t count, bool *any,
		      mfs_problem *why)
{
	uint64_t from = 0;
	int error = 0;

	for (uint64_t i = 1; i < count && !error; i++) {
		mfs_plan_owner at = spans[i].at, owner = spans[from].at;

		if (!same_places(&spans[from], &spans[i])) {
			from = i;
		} else if (at.tensor != owner.tensor) {
			error = set_owner(&plan->tensors[at.tensor], at.index, owner, why);
			*any = true;
		}
	}
	return error;
}

/* If any of these tensors have spans in common, the first is the leader of all. */
static int find_owners(mfs_plan *plan, const uint32_t *tensors, uint32_t count, mfs_problem *why)
{
	struct stored_span *spans;
	uint64_t n = 0;
	bool any = false;
	int error = 0;

	for (uint32_t i = 0; i < count; i++)
		n += plan->tensors[tensors[i]].spans;
	if (n > plan->carried->frames || n > UINT32_MAX)
		return 0; /* their frames overlap: they are copied for each */
	spans = calloc(n + 1, sizeof(*spans));
	if (!spans)
		return mfs_problem_no_memory(why);
	n = 0;
	for (uint32_t i = 0; i < count && !error; i++) {
		error = find_places(plan, tensors[i], spans + n, why);
		n += plan->tensors[tensors[i]].spans;
	}
	if (!error) {
		qsort(spans, n, sizeof(*spans), by_places);
		error = set_owners(plan, spans, n, &any, why);
	}
	free(spans);
	for (uint32_t i = 1; i < count && any; i++)
		plan->tensors[tensors[i]].leader = tensors[0];
	return error;
}

static int find_common(mfs_plan *plan, mfs_problem *why)
{
	uint32_t *tensors = calloc(plan->tensor_count + 1u, sizeof(*tensors)), n = 0, end;
	int error = 0;

	if (!tensors)
		return mfs_problem_no_memory(why);
	for (uint32_t i = 0; i < plan->tensor_count; i++)
		if (!(plan->tensors[i].record.flags & MFS_TENSOR_DERIVED) &&
		    plan->tensors[i].twin == MFS_NO_TENSOR)
			tensors[n++] = i;
	qsort_r(tensors, n, sizeof(*tensors), by_cut, plan);
	for (uint32_t i = 0; i < n && !error; i = end) {
		for (end = i + 1; end < n; end++)
			if (compare_cut(&plan->tensors[tensors[i]], &plan->tensors[tensors[end]]))
				break;
		if (end - i > 1)
			error = find_owners(plan, tensors + i, end - i, why);
	}
	free(tensors);
	return error;
}

int mfs_compact_find_shared(mfs_plan *plan, mfs_problem *why)
{
	int error = find_twins(plan, why);

	return error ? error : find_common(plan, why);
}
