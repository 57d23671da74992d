/* The order in which spans are stored: the files', or a trace's. */
#include <stdlib.h>
#include <string.h>

#include "plan.h"
#include "problem.h"
#include "trace.h"

/* The first run of spans of the tensor's own from `from` on; of no spans: there is none. */
static mfs_plan_run own_run(const mfs_plan_tensor *t, uint32_t number, uint64_t from)
{
	mfs_plan_run run = {.tensor = number, .first = from};

	while (run.first < t->spans && !mfs_plan_owns(t, run.first))
		run.first++;
	if (!t->owners)
		run.count = t->spans - from;
	while (t->owners && run.first + run.count < t->spans &&
	       mfs_plan_owns(t, run.first + run.count))
		run.count++;
	return run;
}

/* Puts the runs of a tensor to `out`, or counts them where it is NULL. */
static uint32_t own_runs(mfs_plan_tensor *t, uint32_t number, mfs_plan_run *out)
{
	uint32_t n = 0;

	t->first_stored = t->last_stored = UINT64_MAX;
	for (mfs_plan_run run = own_run(t, number, 0); run.count;
	     run = own_run(t, number, run.first + run.count)) {
		if (!n)
			t->first_stored = run.first;
		t->last_stored = run.first + run.count - 1;
		if (out)
			out[n] = run;
		n++;
	}
	return n;
}

int mfs_plan_order_by_file(mfs_plan *plan, mfs_problem *why)
{
	uint64_t count = 0;

	for (uint32_t i = 0; i < plan->tensor_count; i++)
		count += own_runs(&plan->tensors[i], i, NULL);
	free(plan->runs);
	plan->run_count = 0;
	plan->runs = calloc(count + 1, sizeof(*plan->runs));
	if (!plan->runs || count > UINT32_MAX)
		return mfs_problem_no_memory(why);
	for (uint32_t i = 0; i < plan->tensor_count; i++) {
		mfs_plan_tensor *t = &plan->tensors[i];

		if (!(t->record.flags & MFS_TENSOR_DERIVED)) /* it is not stored */
			plan->run_count += own_runs(t, i, plan->runs + plan->run_count);
	}
	return 0;
}

/* Spans are numbered through all tensors here. */
struct ordering {
	mfs_plan *plan;
	uint64_t *first; /* by tensor: spans of those before it */
	uint32_t *next;	 /* by span: itself, or one behind it if it has its place */
	mfs_plan_run *runs;
	uint32_t count, room;
	uint64_t extents; /* that were looked at for literal bytes */
};

#define EXTENTS_MAX (16u << 20)

/* The first span from `span` on that has no place yet. Shortens the way for the
 * next who asks, so that a trace that names spans again and again costs nothing. */
static uint32_t find_free(struct ordering *o, uint32_t span)
{
	uint32_t end = span;

	while (o->next[end] != end)
		end = o->next[end];
	while (o->next[span] != end) {
		uint32_t next = o->next[span];

		o->next[span] = end;
		span = next;
	}
	return end;
}

static int put_span(struct ordering *o, uint32_t tensor, uint64_t span)
{
	mfs_plan_tensor *t = &o->plan->tensors[tensor];
	mfs_plan_run *last = o->count ? &o->runs[o->count - 1] : NULL;

	if (t->last_stored == UINT64_MAX)
		t->first_stored = span;
	t->last_stored = span;
	if (last && last->tensor == tensor && last->first + last->count == span) {
		last->count++;
		return 0;
	}
	if (o->count == o->room) {
		uint32_t room = o->room ? o->room * 2 : 256;
		mfs_plan_run *runs = realloc(o->runs, room * sizeof(*runs));

		if (!runs)
			return MFS_E_MEMORY;
		o->runs = runs;
		o->room = room;
	}
	o->runs[o->count++] = (mfs_plan_run){tensor, span, 1};
	return 0;
}

/* The span, or the one whose frames it has, unless that has its place. */
static int put_owner(struct ordering *o, uint32_t tensor, uint64_t span)
{
	const mfs_plan_tensor *t = &o->plan->tensors[tensor];
	mfs_plan_owner owner;
	uint32_t number;

	if (mfs_plan_owns(t, span))
		return put_span(o, tensor, span);
	owner = t->owners[span];
	number = (uint32_t)(o->first[owner.tensor] + owner.index);
	if (o->next[number] != number)
		return 0;
	o->next[number] = number + 1;
	return put_span(o, owner.tensor, owner.index);
}

/* Gives a place to the spans that hold bytes from..to of the tensor; for one that
 * is derived, to those of its base, which have the same numbers. */
static int put_bytes(struct ordering *o, uint32_t tensor, uint64_t from, uint64_t to)
{
	const mfs_plan_tensor *t = &o->plan->tensors[tensor];
	uint64_t base;
	mfs_span begin, end;
	uint32_t span;
	int error = 0;

	mfs_tensor_span_at(&t->record, t->layout->block_bytes, from, &begin);
	mfs_tensor_span_at(&t->record, t->layout->block_bytes, to - 1, &end);
	if (t->record.flags & MFS_TENSOR_DERIVED) {
		tensor = t->record.base;
		t = &o->plan->tensors[tensor];
	}
	if (t->twin != MFS_NO_TENSOR)
		tensor = t->twin;
	base = o->first[tensor];
	span = find_free(o, (uint32_t)(base + begin.index));
	while (!error && span <= base + end.index) {
		o->next[span] = span + 1;
		error = put_owner(o, tensor, span - base);
		span = find_free(o, span + 1);
	}
	return error;
}

/* The first extent of the file that ends behind `offset`. */
static uint64_t find_extent(const mfs_plan *plan, const mfs_root_file *f, uint64_t offset)
{
	uint64_t low = f->first_extent, high = f->first_extent + f->extent_count;

	while (low < high) {
		uint64_t middle = low + (high - low) / 2;
		const mfs_root_extent *e = &plan->extents[middle];

		if (e->file_offset + e->length > offset)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

/* The literal bytes among bytes from..to of a file. A trace of modelfs's own names
 * each once; one that goes over all of them again and again comes to an end. */
static int put_literals(struct ordering *o, uint32_t file, uint64_t from, uint64_t to)
{
	const mfs_root_file *f = &o->plan->files[file].record;
	uint64_t stop = f->first_extent + f->extent_count;
	int error = 0;

	for (uint64_t i = find_extent(o->plan, f, from); i < stop && !error; i++) {
		const mfs_root_extent *e = &o->plan->extents[i];
		uint64_t end = e->file_offset + e->length;
		const mfs_plan_tensor *t;

		if (e->file_offset >= to || ++o->extents > EXTENTS_MAX)
			break;
		if (e->kind != MFS_EXTENT_TENSOR)
			continue;
		t = &o->plan->tensors[e->tensor];
		if (t->record.flags & MFS_TENSOR_LITERAL)
			error =
			    put_bytes(o, e->tensor,
				      (from > e->file_offset ? from : e->file_offset) -
					  e->file_offset + e->source_offset,
				      (to < end ? to : end) - e->file_offset + e->source_offset);
	}
	return error;
}

/* What a trace may name: tensors that have a name, and the files. */
static mfs_trace_name *make_names(const mfs_plan *plan, char **text, uint32_t *count)
{
	mfs_trace_name *names =
	    calloc((size_t)plan->tensor_count + plan->file_count + 1, sizeof(*names));
	size_t bytes = 1;
	char *at;

	for (uint32_t i = 0; i < plan->tensor_count; i++)
		bytes += plan->tensors[i].record.name_length + 1u;
	at = *text = malloc(bytes);
	if (!names || !at) {
		free(names);
		free(at);
		return NULL;
	}
	*count = 0;
	for (uint32_t i = 0; i < plan->tensor_count; i++) {
		const mfs_root_tensor *t = &plan->tensors[i].record;

		if (!t->name_length)
			continue;
		memcpy(at, t->name, t->name_length);
		at[t->name_length] = '\0';
		names[(*count)++] = (mfs_trace_name){plan->files[t->file].name, at, t->size, i};
		at += t->name_length + 1;
	}
	for (uint32_t i = 0; i < plan->file_count; i++)
		names[(*count)++] = (mfs_trace_name){
		    plan->files[i].name, "", plan->files[i].record.size, plan->tensor_count + i};
	return names;
}

static int read_trace(const mfs_plan *plan, const char *path, mfs_trace *out, mfs_problem *why)
{
	char *text = NULL;
	uint32_t count = 0;
	mfs_trace_name *names = make_names(plan, &text, &count);
	int error =
	    names ? mfs_trace_read(out, path, names, count, why) : mfs_problem_no_memory(why);

	free(names);
	free(text);
	return error;
}

static int put_trace(struct ordering *o, const mfs_trace *trace)
{
	uint32_t tensors = o->plan->tensor_count;
	int error = 0;

	for (uint32_t i = 0; i < trace->count && !error; i++) {
		const mfs_trace_entry *e = &trace->entries[i];

		if (e->number < tensors)
			error = put_bytes(o, e->number, e->from, e->to);
		else
			error = put_literals(o, e->number - tensors, e->from, e->to);
	}
	for (uint32_t i = 0; i < tensors && !error; i++)
		if (!(o->plan->tensors[i].record.flags & MFS_TENSOR_DERIVED))
			error = put_bytes(o, i, 0, o->plan->tensors[i].record.size);
	return error;
}

static bool ordering_open(struct ordering *o)
{
	const mfs_plan *plan = o->plan;
	uint64_t spans;

	o->first = calloc((size_t)plan->tensor_count + 1, sizeof(*o->first));
	if (!o->first)
		return false;
	for (uint32_t i = 0; i < plan->tensor_count; i++) {
		o->first[i + 1] = o->first[i] + plan->tensors[i].spans;
		plan->tensors[i].last_stored = UINT64_MAX;
	}
	spans = o->first[plan->tensor_count];
	if (spans >= UINT32_MAX)
		return false;
	o->next = malloc((spans + 1) * sizeof(*o->next));
	for (uint64_t i = 0; o->next && i <= spans; i++)
		o->next[i] = (uint32_t)i;
	return o->next != NULL;
}

int mfs_plan_order(mfs_plan *plan, const char *path, mfs_problem *why)
{
	struct ordering o = {.plan = plan};
	mfs_trace trace;
	int error = read_trace(plan, path, &trace, why);

	if (error)
		return error;
	if (!ordering_open(&o) || put_trace(&o, &trace))
		error = mfs_problem_no_memory(why);
	free(o.first);
	free(o.next);
	mfs_trace_free(&trace);
	if (error) {
		free(o.runs);
		return error;
	}
	free(plan->runs);
	plan->runs = o.runs;
	plan->run_count = o.count;
	plan->reordered = true;
	return 0;
}
