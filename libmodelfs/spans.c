/* Spans: decoded runs of whole blocks, each decoded once for all who want it. */
#include <stdlib.h>
#include <string.h>

#include "reader.h"

static struct span **bucket(struct reader *r, uint32_t tensor, uint64_t index)
{
	uint64_t key = (uint64_t)tensor << 40 ^ index;

	return &r->buckets[key * UINT64_C(0x9e3779b97f4a7c15) >> 54];
}

struct span *span_find(struct reader *r, uint32_t tensor, uint64_t index)
{
	struct span *span = *bucket(r, tensor, index);

	while (span && (span->tensor != tensor || span->place.index != index))
		span = span->next;
	return span;
}

static void span_unlink(struct reader *r, struct span *span)
{
	struct span **at = bucket(r, span->tensor, span->place.index);

	while (*at != span)
		at = &(*at)->next;
	*at = span->next;
	r->span_count--;
}

static uint64_t stored_bytes(const struct span *span)
{
	return (uint64_t)span->frame[0].size + span->frame[1].size;
}

/* Back to the arenas; nobody holds it and it is not in a list. */
static void span_free(struct reader *r, struct span *span)
{
	span_unlink(r, span);
	if (span->prefetched)
		r->stats.prefetch_wasted_bytes += stored_bytes(span);
	if (span->buffer)
		mfs_arena_give(&r->span_arena, span->buffer, span->place.bytes);
	if (span->backing)
		run_release(r, span->backing);
	free(span);
}

void *span_memory(struct reader *r, size_t bytes)
{
	void *memory = mfs_arena_take(&r->span_arena, bytes);
	struct span *victim;

	while (!memory && (victim = TAILQ_FIRST(&r->idle_spans))) {
		TAILQ_REMOVE(&r->idle_spans, victim, lru);
		span_free(r, victim);
		memory = mfs_arena_take(&r->span_arena, bytes);
	}
	return memory;
}

bool span_evict_backed(struct reader *r)
{
	struct span *span;

	TAILQ_FOREACH(span, &r->idle_spans, lru)
	{
		if (!span->backing)
			continue;
		TAILQ_REMOVE(&r->idle_spans, span, lru);
		span_free(r, span);
		return true;
	}
	return false;
}

/* ---- making one ---- */

bool span_index_ready(struct reader *r, uint32_t tensor, const mfs_span *place, int *err)
{
	mfs_root_tensor t;
	const mfs_layout *layout;
	struct part *tables;
	bool ready = true;

	mfs_root_get_tensor(&r->c->root, tensor, &t);
	layout = &r->c->layouts[t.layout];
	*err = 0;
	/* Start all that is missing at once. */
	for (unsigned s = 0; s < MFS_SLOTS; s++) {
		if (!mfs_tensor_has_slot(&t, layout, s))
			continue;
		if (!part_ready(r, frame_segment(r, t.slot[s].first + place->index), err))
			ready = false;
		if (*err)
			return false;
		if (t.slot[s].tables == MFS_NO_TABLES)
			continue;
		tables = &r->tables[t.slot[s].tables];
		if (tables->state == PART_ABSENT) /* else a decoder may be reading it */
			tables->streams = layout->slot_streams[s];
		if (!part_ready(r, tables, err))
			ready = false;
		if (*err)
			return false;
	}
	return ready;
}

static int frame_place(struct reader *r, const mfs_root_tensor *t, const mfs_layout *layout,
		       const mfs_span *place, unsigned slot, mfs_frame_place *out)
{
	uint64_t number = t->slot[slot].first + place->index;
	const uint8_t *entry = frame_segment(r, number)->bytes +
			       number % MFS_SEGMENT_FRAME_COUNT * sizeof(struct mfs_disk_frame);

	return mfs_frame_place_decode(out, entry, t->slot[slot].base,
				      mfs_slot_bytes(t, layout, slot, place->blocks),
				      r->c->sb.container_size);
}

bool span_frame_place(struct reader *r, uint32_t tensor, const mfs_span *place, unsigned slot,
		      mfs_frame_place *out)
{
	const mfs_layout *layout;
	mfs_root_tensor t;

	mfs_root_get_tensor(&r->c->root, tensor, &t);
	layout = &r->c->layouts[t.layout];
	return mfs_tensor_has_slot(&t, layout, slot) &&
	       frame_segment(r, t.slot[slot].first + place->index)->state == PART_READY &&
	       !frame_place(r, &t, layout, place, slot, out);
}

/* Where the frames of the span lie. The index parts are ready. */
static int find_frames(struct reader *r, const mfs_root_tensor *t, struct span *span)
{
	int err = 0;

	for (unsigned s = 0; s < MFS_SLOTS && !err; s++) {
		if (!mfs_tensor_has_slot(t, span->layout, s))
			continue;
		err = frame_place(r, t, span->layout, &span->place, s, &span->frame[s]);
		span->number[s] = t->slot[s].first + span->place.index;
		span->job.range[s] = (struct range){span->frame[s].offset, span->frame[s].size};
		if (t->slot[s].tables != MFS_NO_TABLES)
			span->tables[s] = &r->tables[t->slot[s].tables];
	}
	return err;
}

static void fail_at_once(struct reader *r, struct span *span, int err)
{
	span->job.state = JOB_FAILED;
	span->job.error = err;
	span->frame[0].size = span->frame[1].size = 0;
	reader_problem(r, err, UINT64_MAX, "the frame table entry of span %llu is not valid",
		       (unsigned long long)span->place.index);
	TAILQ_INSERT_TAIL(&r->idle_spans, span, lru);
}

struct span *span_new(struct reader *r, uint32_t tensor, const mfs_span *place, bool prefetch)
{
	struct span *span = calloc(1, sizeof(*span));
	mfs_root_tensor t;
	int err;

	if (!span)
		return NULL;
	mfs_root_get_tensor(&r->c->root, tensor, &t);
	span->tensor = tensor;
	span->layout = &r->c->layouts[t.layout];
	span->place = *place;
	span->prefetched = span->job.ahead = prefetch;
	span->buffer = span_memory(r, place->bytes);
	if (!span->buffer) {
		free(span);
		return NULL;
	}
	span->data = span->buffer;
	span->next = *bucket(r, tensor, place->index);
	*bucket(r, tensor, place->index) = span;
	r->span_count++;
	err = find_frames(r, &t, span);
	if (err) {
		fail_at_once(r, span, err);
		return span;
	}
	for (unsigned s = 0; s < MFS_SLOTS; s++)
		if (span->tables[s])
			span->tables[s]->users++;
	span->job.kind = JOB_SPAN;
	span->job.state = JOB_NEED;
	TAILQ_INSERT_TAIL(&r->pending, &span->job, link);
	return span;
}

/* ---- holding ---- */

static bool span_idle(const struct span *span)
{
	return !span->users && (span->job.state == JOB_READY || span->job.state == JOB_FAILED);
}

void span_hold(struct reader *r, struct span *span)
{
	if (span_idle(span))
		TAILQ_REMOVE(&r->idle_spans, span, lru);
	span->users++;
	span->job.ahead = false;
	if (span->prefetched) {
		span->prefetched = false;
		r->stats.prefetch_used_bytes += stored_bytes(span);
	}
}

void span_release(struct reader *r, struct span *span, uint32_t served)
{
	span->served += served;
	span->users--;
	if (!span_idle(span))
		return;
	if (span->job.state == JOB_FAILED)
		span_free(r, span); /* the next read tries the medium again */
	else if (span->served >= span->place.bytes)
		TAILQ_INSERT_HEAD(&r->idle_spans, span, lru);
	else
		TAILQ_INSERT_TAIL(&r->idle_spans, span, lru);
}

/* ---- decoding ---- */

static int decode_plain(struct span *span, const uint8_t *stored)
{
	if (!span->frame[0].size)
		memset(span->buffer, 0, span->place.bytes);
	else if (span->frame[0].size != span->place.bytes)
		return MFS_E_CORRUPT;
	else if (span->backing)
		span->data = (uint8_t *)stored; /* as it was read: nothing to put together */
	else
		memcpy(span->buffer, stored, span->place.bytes);
	return 0;
}

void span_decode(struct reader *r, struct span *span, mfs_decoder *decoder, uint8_t *scratch)
{
	mfs_frame frame[MFS_SLOTS] = {0};
	struct run *holder[MFS_SLOTS];
	mfs_root_tensor t;

	mfs_root_get_tensor(&r->c->root, span->tensor, &t);
	for (unsigned s = 0; s < MFS_SLOTS; s++) {
		if (!mfs_tensor_has_slot(&t, span->layout, s))
			continue;
		frame[s].size = span->frame[s].size;
		frame[s].stored = job_bytes(&span->job, s, scratch, &holder[s]);
		frame[s].tables = span->tables[s] ? span->tables[s]->tables : NULL;
		scratch += span->frame[s].size;
		if (mfs_frame_hash(frame[s].stored, frame[s].size, span->number[s]) !=
		    span->frame[s].hash) {
			span->job.error = MFS_E_CORRUPT;
			span->bad_slot = (uint8_t)s;
			span->bad_hash = true;
			return;
		}
	}
	if (t.cls == MFS_DISK_PLAIN) {
		span->backing = frame[0].size ? holder[0] : NULL;
		span->job.error = decode_plain(span, frame[0].stored);
	} else {
		span->job.error =
		    mfs_span_decode(decoder, span->layout, span->place.blocks, frame, span->buffer);
	}
}

static void span_problem(struct reader *r, const struct span *span)
{
	unsigned s = span->bad_slot;
	mfs_root_tensor t;
	mfs_root_file f;

	mfs_root_get_tensor(&r->c->root, span->tensor, &t);
	mfs_root_get_file(&r->c->root, t.file, &f);
	reader_problem(
	    r, span->job.error, span->frame[s].offset,
	    "%.*s: %s%.*s: bytes 0x%llx to 0x%llx: %s frame at 0x%llx: %s", f.name_length, f.name,
	    t.name_length ? "tensor " : "literal bytes", t.name_length, t.name,
	    (unsigned long long)(t.file_offset + span->place.offset),
	    (unsigned long long)(t.file_offset + span->place.offset + span->place.bytes),
	    class_name(s ? MFS_DISK_CONSTANTS : t.cls), (unsigned long long)span->frame[s].offset,
	    span->bad_hash ? "checksum mismatch" : mfs_error_text(span->job.error));
}

void span_done(struct reader *r, struct span *span)
{
	struct piece *piece = span->waiters;

	for (unsigned s = 0; s < MFS_SLOTS; s++)
		if (span->tables[s])
			span->tables[s]->users--;
	span->job.state = span->job.error ? JOB_FAILED : JOB_READY;
	if (span->job.error) {
		span->backing = NULL;
		span_problem(r, span);
		if (span->job.error == MFS_E_CORRUPT)
			r->stats.errors_corrupt++;
	} else {
		r->stats.decoded_spans++;
		r->stats.decoded_bytes += span->place.bytes;
	}
	if (span->backing) {
		run_hold(r, span->backing);
		mfs_arena_give(&r->span_arena, span->buffer, span->place.bytes);
		span->buffer = NULL;
	}
	job_drop_runs(r, &span->job, span->job.error != 0);
	span->waiters = NULL;
	for (; piece; piece = piece->next_waiter) {
		struct read *read = piece->read;

		if (span->job.error)
			read->error = span->job.error;
		if (!--read->pending)
			TAILQ_INSERT_TAIL(&r->finished, read, link);
	}
	if (span_idle(span)) {
		if (span->job.error)
			span_free(r, span);
		else
			TAILQ_INSERT_TAIL(&r->idle_spans, span, lru);
	}
}

void spans_free(struct reader *r)
{
	for (unsigned i = 0; i < SPAN_BUCKETS; i++) {
		while (r->buckets[i])
			span_free(r, r->buckets[i]);
	}
}
