/* Spans: decoded runs of whole blocks, each decoded once for all who want it. */
#include <stdlib.h>
#include <string.h>

#include "delta.h"
#include "operands.h"
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
	uint64_t bytes = 0;

	for (unsigned i = 0; i < span->sources; i++)
		bytes += (uint64_t)span->source[i].frame[0].size + span->source[i].frame[1].size;
	return bytes;
}

/* Back to the arenas; nobody holds it and it is not in a list. */
static void span_free(struct reader *r, struct span *span)
{
	if (!span->unlinked)
		span_unlink(r, span);
	if (span->prefetched)
		r->stats.prefetch_wasted_bytes += stored_bytes(span);
	if (span->buffer)
		mfs_arena_give(&r->span_arena, span->buffer, span->place.bytes);
	for (unsigned i = 0; i < BACKING_RUNS; i++)
		if (span->backing[i])
			run_release(r, span->backing[i]);
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
		if (!span->in_place)
			continue;
		TAILQ_REMOVE(&r->idle_spans, span, lru);
		span_free(r, span);
		return true;
	}
	return false;
}

/* ---- making one ---- */

/* The stored tensors that span `index` of a tensor comes from; see SPAN_SOURCES.
 * Returns their number: opening has checked that a delta's base is no delta. */
static unsigned find_sources(const struct reader *r, uint32_t tensor, uint64_t index,
			     struct source out[SPAN_SOURCES])
{
	mfs_root_tensor t;
	unsigned n = 0;

	mfs_root_get_tensor(&r->c->root, tensor, &t);
	if (t.flags & MFS_TENSOR_DERIVED)
		tensor = t.base;
	while (n < SPAN_SOURCES) {
		struct source *s = &out[n++];

		mfs_root_get_tensor(&r->c->root, tensor, &t);
		*s = (struct source){.tensor = tensor, .layout = &r->c->layouts[t.layout]};
		mfs_tensor_span(&t, s->layout->block_bytes, index, &s->place);
		if (!(t.flags & MFS_TENSOR_DELTA))
			break;
		tensor = t.base;
	}
	return n;
}

/* Starts all that is missing at once; false if something is. */
static bool source_index_ready(struct reader *r, const struct source *source, int *err)
{
	mfs_root_tensor t;
	bool ready = true;

	mfs_root_get_tensor(&r->c->root, source->tensor, &t);
	for (unsigned s = 0; s < MFS_SLOTS; s++) {
		if (!mfs_tensor_has_slot(&t, source->layout, s))
			continue;
		if (!part_ready(r, frame_segment(r, t.slot[s].first + source->place.index), err))
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
	return !(t.flags & (MFS_TENSOR_DERIVED | MFS_TENSOR_DELTA)) &&
	       mfs_tensor_has_slot(&t, layout, slot) &&
	       frame_segment(r, t.slot[slot].first + place->index)->state == PART_READY &&
	       !frame_place(r, &t, layout, place, slot, out);
}

bool span_index_ready(struct reader *r, uint32_t tensor, const mfs_span *place, bool ahead,
		      int *err)
{
	struct source source[SPAN_SOURCES];
	unsigned sources = find_sources(r, tensor, place->index, source);
	bool ready = true;

	*err = 0;
	for (unsigned i = 0; i < sources && !*err; i++)
		ready = source_index_ready(r, &source[i], err) && ready;
	return !*err && operands_ready(r, tensor, ahead, err) && ready;
}

/* Where the frames of a source lie. The index parts are ready. */
static int find_frames(struct reader *r, struct source *source, struct range range[MFS_SLOTS])
{
	mfs_root_tensor t;
	int err = 0;

	mfs_root_get_tensor(&r->c->root, source->tensor, &t);
	for (unsigned s = 0; s < MFS_SLOTS && !err; s++) {
		if (!mfs_tensor_has_slot(&t, source->layout, s))
			continue;
		err = frame_place(r, &t, source->layout, &source->place, s, &source->frame[s]);
		source->present[s] = true;
		source->number[s] = t.slot[s].first + source->place.index;
		range[s] = (struct range){source->frame[s].offset, source->frame[s].size};
		if (t.slot[s].tables != MFS_NO_TABLES)
			source->tables[s] = &r->tables[t.slot[s].tables];
	}
	return err;
}

/* What the job needs in memory until it ends, or no longer. */
static void use_parts(struct reader *r, struct span *span, int users)
{
	for (unsigned i = 0; i < span->sources; i++)
		for (unsigned s = 0; s < MFS_SLOTS; s++)
			if (span->source[i].tables[s])
				span->source[i].tables[s]->users += (unsigned)users;
	operands_use(r, span->tensor, users);
}

/* Behind the span's own job, so that a request of that one can bring them along. */
static void want_tables(struct reader *r, const struct span *span)
{
	for (unsigned i = 0; i < span->sources; i++)
		for (unsigned s = 0; s < MFS_SLOTS; s++)
			if (span->source[i].tables[s])
				tables_want(r, span->source[i].tables[s],
					    span->source[i].layout->slot_streams[s],
					    span->job.ahead);
}

enum tables_state span_tables(struct span *span)
{
	enum tables_state state = TABLES_READY;

	for (unsigned i = 0; i < span->sources; i++)
		for (unsigned s = 0; s < MFS_SLOTS; s++) {
			const struct part *tables = span->source[i].tables[s];

			if (!tables || tables->state == PART_READY)
				continue;
			if (tables->state == PART_FAILED) {
				span->bad_tables = true;
				span->bad_source = (uint8_t)i;
				span->bad_slot = (uint8_t)s;
				span->job.error = tables->error;
				return TABLES_BAD;
			}
			if (state != TABLES_STARVED)
				state = tables->job.starved ? TABLES_STARVED : TABLES_COMING;
		}
	return state;
}

static void fail_at_once(struct reader *r, struct span *span, int err)
{
	span->job.state = JOB_FAILED;
	span->job.error = err;
	span->sources = 0;
	TAILQ_INSERT_TAIL(&r->idle_spans, span, lru);
}

struct span *span_new(struct reader *r, uint32_t tensor, const mfs_span *place, bool prefetch)
{
	struct span *span = calloc(1, sizeof(*span));
	int err = 0;

	if (!span) {
		r->no_heap = true;
		return NULL;
	}
	span->tensor = tensor;
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
	span->sources = find_sources(r, tensor, place->index, span->source);
	for (unsigned i = 0; i < span->sources && !err; i++)
		err = find_frames(r, &span->source[i], &span->job.range[i * MFS_SLOTS]);
	if (err) {
		fail_at_once(r, span, err);
		return span;
	}
	use_parts(r, span, 1);
	span->job.kind = JOB_SPAN;
	span->job.state = JOB_NEED;
	TAILQ_INSERT_TAIL(&r->pending, &span->job, link);
	want_tables(r, span);
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
	if (span->job.ahead) {
		span->job.ahead = false;
		if (span->job.state == JOB_NEED || span->job.state == JOB_WAIT)
			want_tables(r, span);
	}
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

/* As it is stored, or zeros. */
static int decode_plain(const mfs_frame *frame, uint32_t bytes, uint8_t *out)
{
	if (frame->size && frame->size != bytes)
		return MFS_E_CORRUPT;
	if (frame->size)
		memcpy(out, frame->stored, bytes);
	else
		memset(out, 0, bytes);
	return 0;
}

/* The stored bytes of a source's frames, checked: false if one is damaged. */
static bool gather_frames(struct span *span, unsigned source, mfs_frame frame[MFS_SLOTS],
			  uint8_t **scratch)
{
	const struct source *from = &span->source[source];

	for (unsigned s = 0; s < MFS_SLOTS; s++) {
		unsigned range = source * MFS_SLOTS + s;

		frame[s] = (mfs_frame){.size = from->frame[s].size};
		frame[s].stored = job_bytes(&span->job, range, *scratch);
		frame[s].tables = from->tables[s] ? from->tables[s]->tables : NULL;
		*scratch += from->frame[s].size;
		/* Frames of no bytes have a hash too; a slot that is not there has none. */
		if (!from->present[s] || mfs_frame_hash(frame[s].stored, frame[s].size,
							from->number[s]) == from->frame[s].hash)
			continue;
		span->job.error = MFS_E_CORRUPT;
		span->bad_source = (uint8_t)source;
		span->bad_slot = (uint8_t)s;
		span->bad_hash = true;
		return false;
	}
	return true;
}

/* What the frames of a source decode to: blocks of a stored tensor, or their
 * differences. */
static bool decode_source(struct reader *r, struct span *span, unsigned source,
			  mfs_decoder *decoder, uint8_t **scratch, uint8_t *out)
{
	const struct source *from = &span->source[source];
	mfs_frame frame[MFS_SLOTS];
	mfs_root_tensor t;

	mfs_root_get_tensor(&r->c->root, from->tensor, &t);
	if (!gather_frames(span, source, frame, scratch))
		return false;
	span->bad_source = (uint8_t)source;
	if (t.cls == MFS_DISK_PLAIN)
		span->job.error = decode_plain(&frame[0], from->place.bytes, out);
	else
		span->job.error =
		    mfs_span_decode(decoder, from->layout, from->place.blocks, frame, out);
	return !span->job.error;
}

/* The blocks of the span's base, or of the span itself where it is no view. */
static bool decode_blocks(struct reader *r, struct span *span, mfs_decoder *decoder,
			  uint8_t *scratch, uint8_t *out)
{
	const struct source *first = &span->source[0];
	uint8_t *base = scratch;
	mfs_root_tensor t;

	if (span->sources == 1)
		return decode_source(r, span, 0, decoder, &scratch, out);
	scratch += first->place.bytes;
	if (!decode_source(r, span, 0, decoder, &scratch, out) ||
	    !decode_source(r, span, 1, decoder, &scratch, base))
		return false;
	mfs_root_get_tensor(&r->c->root, first->tensor, &t);
	mfs_delta_decode(first->layout, first->place.blocks, t.flags & MFS_TENSOR_INTEGER, base,
			 out);
	return true;
}

/* A plain span needs no memory of its own if its bytes lie together where they
 * were read. */
static void decode_plain_span(struct span *span, uint8_t *scratch)
{
	mfs_frame frame[MFS_SLOTS];
	uint8_t *rest = scratch;

	if (!gather_frames(span, 0, frame, &rest))
		return;
	if (frame[0].size == span->place.bytes && frame[0].stored != scratch &&
	    span->job.run_count <= BACKING_RUNS) {
		span->in_place = true;
		span->data = (uint8_t *)frame[0].stored;
	} else {
		span->job.error = decode_plain(&frame[0], span->place.bytes, span->buffer);
	}
}

void span_decode(struct reader *r, struct span *span, mfs_decoder *decoder, uint8_t *scratch)
{
	mfs_root_tensor t;

	mfs_root_get_tensor(&r->c->root, span->tensor, &t);
	if (t.flags & MFS_TENSOR_DERIVED) {
		if (decode_blocks(r, span, decoder, scratch + span->source[0].place.bytes, scratch))
			span->job.error = span_derive(r, span, scratch);
	} else if (t.cls == MFS_DISK_PLAIN && span->sources == 1) {
		decode_plain_span(span, scratch);
	} else {
		decode_blocks(r, span, decoder, scratch, span->buffer);
	}
}

/* Its bytes stay where they are for as long as it does. */
static void keep_in_place(struct reader *r, struct span *span)
{
	for (unsigned i = 0; i < span->job.run_count; i++) {
		span->backing[i] = span->job.runs[i];
		run_hold(r, span->backing[i]);
	}
	mfs_arena_give(&r->span_arena, span->buffer, span->place.bytes);
	span->buffer = NULL;
}

static void report_span(struct reader *r, const struct span *span)
{
	const struct source *source = &span->source[span->bad_source];
	uint64_t at = span->bad_tables ? source->tables[span->bad_slot]->job.range[0].offset
				       : source->frame[span->bad_slot].offset;
	mfs_root_tensor t;
	mfs_root_file f;

	mfs_root_get_tensor(&r->c->root, source->tensor, &t);
	mfs_root_get_file(&r->c->root, t.file, &f);
	reader_problem(
	    r, span->job.error, at, "%.*s: %s%.*s: bytes 0x%llx to 0x%llx: %s %s at 0x%llx: %s",
	    f.name_length, f.name, t.name_length ? "tensor " : "literal bytes", t.name_length,
	    t.name, (unsigned long long)(t.file_offset + source->place.offset),
	    (unsigned long long)(t.file_offset + source->place.offset + source->place.bytes),
	    class_name(span->bad_slot ? MFS_DISK_CONSTANTS : t.cls),
	    span->bad_tables ? "tables" : "frame", (unsigned long long)at,
	    span->bad_hash ? "checksum mismatch" : mfs_error_text(span->job.error));
}

void span_problem(struct reader *r, const struct span *span)
{
	if (span->sources)
		report_span(r, span);
	else
		reader_problem(r, span->job.error, UINT64_MAX,
			       "the frame table entry of span %llu is not valid",
			       (unsigned long long)span->place.index);
}

void span_done(struct reader *r, struct span *span)
{
	struct piece *piece = span->waiters;

	use_parts(r, span, -1);
	span->job.state = span->job.error ? JOB_FAILED : JOB_READY;
	if (span->job.error) {
		span->in_place = false;
		/* What fails ahead of demand is nobody's last problem. */
		if (span->waiters)
			span_problem(r, span);
		if (span->job.error == MFS_E_CORRUPT && !span->bad_tables)
			r->stats.errors_corrupt++;
		/* Who asks from now on tries again, even before all have let go of it. */
		span_unlink(r, span);
		span->unlinked = true;
	} else {
		r->stats.decoded_spans++;
		r->stats.decoded_bytes += span->place.bytes;
	}
	if (span->in_place)
		keep_in_place(r, span);
	job_drop_runs(r, &span->job, span->job.error && !span->bad_tables);
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
