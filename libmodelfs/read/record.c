/* Traces of an open container: recording the order in which reads first touch
 * its spans, and loading one for replaying. */
#include <stdlib.h>
#include <string.h>

#include "problem.h"
#include "reader.h"
#include "trace.h"

/* Guarded by the reader's lock. */
struct recorder {
	uint64_t *first; /* by tensor: spans of the tensors before it */
	uint8_t *seen;	 /* a bit for each span of the container */
	mfs_trace trace; /* numbers are tensors */
	bool full;	 /* no more entries: the rest is not recorded */
};

/* ---- names ---- */

/* The names of traces, by tensor; then, for literal bytes, by file. The caller
 * frees them. NULL: no memory. */
static mfs_trace_name *make_names(const mfs_container *c)
{
	uint32_t tensors = c->root.count[MFS_SEC_TENSORS], files = c->root.count[MFS_SEC_FILES];
	mfs_trace_name *names = calloc((size_t)tensors + files + 1, sizeof(*names));
	mfs_root_tensor t;
	mfs_root_file f;

	if (!names)
		return NULL;
	for (uint32_t i = 0; i < tensors; i++) {
		mfs_root_get_tensor(&c->root, i, &t);
		names[i] = (mfs_trace_name){c->file_names[t.file], "", t.size, i};
	}
	for (uint32_t i = 0; i < c->listed_count; i++)
		names[c->listed[i]].tensor = c->tensor_names[i];
	for (uint32_t i = 0; i < files; i++) {
		mfs_root_get_file(&c->root, i, &f);
		names[tensors + i] = (mfs_trace_name){c->file_names[i], "", f.size, tensors + i};
	}
	return names;
}

/* Literal bytes go by the name of their file alone: moves those names away. */
static uint32_t drop_literals(mfs_trace_name names[], uint32_t tensors, uint32_t all)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < all; i++)
		if (i >= tensors || names[i].tensor[0])
			names[kept++] = names[i];
	return kept;
}

/* ---- recording ---- */

int recorder_new(struct reader *r)
{
	uint32_t count = r->c->root.count[MFS_SEC_TENSORS];
	struct recorder *recorder;
	mfs_root_tensor t;

	if (!r->c->options.record)
		return 0;
	recorder = r->recorder = calloc(1, sizeof(*recorder));
	if (!recorder)
		return MFS_E_MEMORY;
	recorder->first = calloc((size_t)count + 1, sizeof(*recorder->first));
	if (!recorder->first)
		return MFS_E_MEMORY;
	for (uint32_t i = 0; i < count; i++) {
		mfs_root_get_tensor(&r->c->root, i, &t);
		recorder->first[i + 1] =
		    recorder->first[i] + mfs_tensor_spans(&t, r->c->layouts[t.layout].block_bytes);
	}
	recorder->seen = calloc(recorder->first[count] / 8 + 1, 1);
	return recorder->seen ? 0 : MFS_E_MEMORY;
}

void recorder_free(struct recorder *recorder)
{
	if (!recorder)
		return;
	free(recorder->first);
	free(recorder->seen);
	mfs_trace_free(&recorder->trace);
	free(recorder);
}

void recorder_note(struct reader *r, uint32_t tensor, const mfs_span *place)
{
	struct recorder *recorder = r->recorder;
	uint64_t i;

	if (!recorder || recorder->full)
		return;
	i = recorder->first[tensor] + place->index;
	if (recorder->seen[i / 8] >> i % 8 & 1)
		return;
	recorder->seen[i / 8] |= (uint8_t)(1u << i % 8);
	if (mfs_trace_add(&recorder->trace, tensor, place->offset, place->offset + place->bytes))
		recorder->full = true;
}

/* Literal bytes are named by their place in the file. */
static void name_literals(const mfs_container *c, mfs_trace *trace)
{
	mfs_root_tensor t;

	for (uint32_t i = 0; i < trace->count; i++) {
		mfs_trace_entry *e = &trace->entries[i];

		mfs_root_get_tensor(&c->root, e->number, &t);
		if (!(t.flags & MFS_TENSOR_LITERAL))
			continue;
		e->from += t.file_offset;
		e->to += t.file_offset;
	}
}

/* What has been recorded so far. */
static int copy_trace(struct reader *r, mfs_trace *out)
{
	const mfs_trace *trace = &r->recorder->trace;
	int err = 0;

	pthread_mutex_lock(&r->lock);
	out->entries = malloc((trace->count + 1) * sizeof(*out->entries));
	if (out->entries && trace->count)
		memcpy(out->entries, trace->entries, trace->count * sizeof(*out->entries));
	out->count = out->entries ? trace->count : 0;
	err = out->entries ? 0 : MFS_E_MEMORY;
	pthread_mutex_unlock(&r->lock);
	return err;
}

int mfs_trace_save(mfs_container *c, const char *path, mfs_problem *why)
{
	mfs_trace_name *names;
	mfs_trace trace = {0};
	struct reader *r;
	int err;

	if (!c->options.record)
		return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
				       "%s: was not opened for recording", c->path);
	r = container_reader(c, &err);
	names = make_names(c);
	if (!err)
		err = names ? copy_trace(r, &trace) : MFS_E_MEMORY;
	if (err) {
		mfs_problem_set(why, err, UINT64_MAX, "%s: cannot save the trace: %s", path,
				mfs_error_text(err));
	} else {
		name_literals(c, &trace);
		err = mfs_trace_write(&trace, path, names, why);
	}
	mfs_trace_free(&trace);
	free(names);
	return err;
}

/* ---- replaying ---- */

struct loading {
	mfs_container *c;
	mfs_order_part *parts;
	uint32_t count, room;
};

static int add_part(struct loading *l, uint32_t tensor, uint64_t from, uint64_t to)
{
	if (l->count == MFS_TRACE_ENTRIES_MAX)
		return 0; /* prefetch is advice: the rest goes without */
	if (l->count == l->room) {
		uint32_t room = l->room ? l->room * 2 : 256;
		mfs_order_part *parts = realloc(l->parts, room * sizeof(*parts));

		if (!parts)
			return MFS_E_MEMORY;
		l->parts = parts;
		l->room = room;
	}
	l->parts[l->count++] = (mfs_order_part){tensor, from, to};
	return 0;
}

/* The literal bytes among bytes from..to of a file. */
static int add_literals(struct loading *l, uint32_t file, uint64_t from, uint64_t to)
{
	mfs_root_extent extent;
	mfs_root_tensor t;
	mfs_root_file f;
	uint64_t i;
	int err = 0;

	mfs_root_get_file(&l->c->root, file, &f);
	container_extent_at(l->c, &f, from, &i, &extent);
	while (!err && from < to && l->count < MFS_TRACE_ENTRIES_MAX) {
		uint64_t end = extent.file_offset + extent.length;
		uint64_t stop = end < to ? end : to;

		if (extent.kind == MFS_EXTENT_TENSOR) {
			mfs_root_get_tensor(&l->c->root, extent.tensor, &t);
			if (t.flags & MFS_TENSOR_LITERAL)
				err = add_part(l, extent.tensor,
					       extent.source_offset + (from - extent.file_offset),
					       extent.source_offset + (stop - extent.file_offset));
		}
		from = stop;
		if (from < to)
			mfs_root_get_extent(&l->c->root, ++i, &extent);
	}
	return err;
}

int container_load_trace(mfs_container *c, const char *path, mfs_problem *why)
{
	uint32_t tensors = c->root.count[MFS_SEC_TENSORS];
	mfs_trace_name *names = make_names(c);
	struct loading l = {.c = c};
	mfs_trace trace = {0};
	uint32_t count;
	int err;

	if (!names)
		return mfs_problem_no_memory(why);
	count = drop_literals(names, tensors, tensors + c->root.count[MFS_SEC_FILES]);
	err = mfs_trace_read(&trace, path, names, count, why);
	free(names);
	if (err)
		return err;
	for (uint32_t i = 0; i < trace.count && !err; i++) {
		const mfs_trace_entry *e = &trace.entries[i];

		if (e->number < tensors)
			err = add_part(&l, e->number, e->from, e->to);
		else
			err = add_literals(&l, e->number - tensors, e->from, e->to);
	}
	mfs_trace_free(&trace);
	c->replay = l.parts;
	c->replay_count = l.count;
	return err ? mfs_problem_set(why, err, UINT64_MAX, "out of memory") : 0;
}
