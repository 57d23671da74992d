/* Reads: from a range of a virtual file to pieces of spans, and to the caller. */
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "operands.h"
#include "reader.h"

/* What zeros extents point at. Never written, so it costs no memory. */
static uint8_t zeros[MFS_READ_MAX];

/* ---- pieces and their spans ---- */

/* Adds one piece: the part of [position, end) that one span or one extent of
 * zeros serves. Returns its length. */
static uint32_t next_piece(struct reader *r, struct read *read, const mfs_root_extent *extent,
			   uint64_t position, uint64_t end, uint32_t *tensor, mfs_span *place)
{
	struct piece *piece = &read->pieces[read->piece_count];
	uint64_t extent_end = extent->file_offset + extent->length;
	uint64_t length = (extent_end < end ? extent_end : end) - position;
	uint64_t at;
	mfs_root_tensor t;

	*piece = (struct piece){.read = read};
	if (extent->kind == MFS_EXTENT_TENSOR) {
		mfs_root_get_tensor(&r->c->root, extent->tensor, &t);
		at = extent->source_offset + (position - extent->file_offset);
		mfs_tensor_span_at(&t, r->c->layouts[t.layout].block_bytes, at, place);
		piece->from = (uint32_t)(at - place->offset);
		if (length > place->bytes - piece->from)
			length = place->bytes - piece->from;
		*tensor = extent->tensor;
	}
	piece->length = (uint32_t)length;
	read->piece_count++;
	return piece->length;
}

/* The spans of one batch of pieces. */
struct batch {
	uint32_t tensor[READ_PIECES];
	mfs_span place[READ_PIECES];
	bool zeros[READ_PIECES];
	uint64_t end; /* file offset behind the last piece */
};

static void find_pieces(struct reader *r, struct read *read, struct batch *batch)
{
	uint64_t position = read->offset + read->gathered_bytes;
	uint64_t end = read->offset + read->length;
	mfs_root_extent extent;
	mfs_root_file file;
	uint64_t i, operands = 0;
	uint32_t last = MFS_NO_TENSOR;

	read->piece_count = 0;
	mfs_root_get_file(&r->c->root, read->file, &file);
	container_extent_at(r->c, &file, position, &i, &extent);
	while (position < end && read->piece_count < READ_PIECES) {
		unsigned k = read->piece_count;

		if (position == extent.file_offset + extent.length)
			mfs_root_get_extent(&r->c->root, ++i, &extent);
		batch->zeros[k] = extent.kind == MFS_EXTENT_ZEROS;
		if (r->c->computed && !batch->zeros[k] && extent.tensor != last &&
		    !operands_fit(r, last = extent.tensor, &operands))
			break;
		position += next_piece(r, read, &extent, position, end, &batch->tensor[k],
				       &batch->place[k]);
	}
	batch->end = position;
}

enum plan { PLAN_BLOCKED, PLAN_WAITING, PLAN_COMPLETE };

static void release_pieces(struct reader *r, struct read *read, bool served)
{
	for (unsigned i = 0; i < read->piece_count; i++) {
		struct piece *piece = &read->pieces[i];

		if (piece->span)
			span_release(r, piece->span, served ? piece->length : 0);
		piece->span = NULL;
	}
	read->piece_count = 0;
}

/* A read of more pieces than one batch is put together in memory. */
static bool gather_begin(struct reader *r, struct read *read)
{
	if (read->gathered)
		return true;
	if (r->gather_bytes && r->gather_bytes + read->length > r->span_arena.bytes / 4)
		return false;
	read->gathered = span_memory(r, read->length);
	if (!read->gathered)
		return false;
	r->gather_bytes += read->length;
	return true;
}

static void gather_end(struct reader *r, struct read *read)
{
	if (!read->gathered)
		return;
	mfs_arena_give(&r->span_arena, read->gathered, read->length);
	r->gather_bytes -= read->length;
	read->gathered = NULL;
}

/* Requests for piece `i` bring along what the missing pieces behind it need of its
 * tensor, if it is a stored one. */
static void widen_to_read(struct reader *r, struct span *span, const struct batch *batch,
			  unsigned i, unsigned count)
{
	unsigned last = i;

	while (last + 1 < count && !batch->zeros[last + 1] &&
	       batch->tensor[last + 1] == batch->tensor[i] &&
	       !span_find(r, batch->tensor[i], batch->place[last + 1].index))
		last++;
	if (last == i || span->sources != 1 || span->source[0].tensor != span->tensor)
		return;
	span->job.wide = true;
	route_limit_reach(
	    r, span,
	    &(struct leg){.tensor = batch->tensor[i],
			  .to = batch->place[last].offset + batch->place[last].bytes});
}

/* Takes hold of every span of the batch, or of none. */
static bool hold_spans(struct reader *r, struct read *read, const struct batch *batch,
		       bool only_found)
{
	for (unsigned i = 0; i < read->piece_count; i++) {
		struct span *span;

		if (batch->zeros[i])
			continue;
		span = span_find(r, batch->tensor[i], batch->place[i].index);
		if (span) {
			r->stats.span_hits++;
		} else {
			if (!only_found)
				span = span_new(r, batch->tensor[i], &batch->place[i], false);
			if (!span) {
				release_pieces(r, read, false);
				return false;
			}
			if (read->streamed)
				route_widen(r, span);
			else
				widen_to_read(r, span, batch, i, read->piece_count);
			r->stats.span_misses++;
		}
		span_hold(r, span);
		recorder_note(r, batch->tensor[i], &batch->place[i]);
		read->pieces[i].span = span;
	}
	return true;
}

static enum plan await_spans(struct reader *r, struct read *read)
{
	read->pending = 0;
	for (unsigned i = 0; i < read->piece_count; i++) {
		struct piece *piece = &read->pieces[i];
		struct span *span = piece->span;

		if (!span || span->job.state == JOB_READY)
			continue;
		if (span->job.state == JOB_FAILED) {
			read->error = span->job.error;
			span_problem(r, span);
			continue;
		}
		piece->next_waiter = span->waiters;
		span->waiters = piece;
		read->pending++;
	}
	return read->pending ? PLAN_WAITING : PLAN_COMPLETE;
}

/* Plans the next batch of a read. Blocked: memory or an index part is missing,
 * and nothing is held. `only_found`: others wait for memory already, so take
 * none, just what is there. */
static enum plan plan(struct reader *r, struct read *read, bool only_found)
{
	struct batch batch;
	bool ready = true;
	int err = 0;

	r->no_heap = false;
	find_pieces(r, read, &batch);
	for (unsigned i = 0; i < read->piece_count && !err; i++)
		if (!batch.zeros[i] &&
		    !span_index_ready(r, batch.tensor[i], &batch.place[i], false, &err))
			ready = false;
	if (err) {
		read->error = err;
		read->piece_count = 0;
		return PLAN_COMPLETE;
	}
	if (!ready || (batch.end < read->offset + read->length && !gather_begin(r, read)) ||
	    !hold_spans(r, read, &batch, only_found)) {
		read->piece_count = 0;
		read->error = r->no_heap ? MFS_E_MEMORY : 0;
		return r->no_heap ? PLAN_COMPLETE : PLAN_BLOCKED;
	}
	return await_spans(r, read);
}

static void plan_or_block(struct reader *r, struct read *read, bool only_found)
{
	switch (plan(r, read, only_found)) {
	case PLAN_BLOCKED:
		TAILQ_INSERT_TAIL(&r->blocked, read, link);
		break;
	case PLAN_COMPLETE:
		TAILQ_INSERT_TAIL(&r->finished, read, link);
		break;
	case PLAN_WAITING:
		break;
	}
}

/* ---- beginning ---- */

static struct read *read_new(uint32_t file, uint64_t offset, size_t length, mfs_read_done *done,
			     void *user)
{
	struct read *read = calloc(1, sizeof(*read));

	if (!read)
		return NULL;
	read->file = file;
	read->offset = offset;
	read->length = length;
	read->done = done;
	read->user = user;
	return read;
}

/* Those that wait may wait for this one, so it goes before them. */
int reader_read_operand(struct reader *r, uint32_t file, uint64_t offset, size_t length,
			bool streamed, mfs_read_done *done, void *user)
{
	struct read *read = read_new(file, offset, length, done, user);

	if (!read)
		return MFS_E_MEMORY;
	read->internal = true;
	read->streamed = streamed;
	r->active_reads++;
	TAILQ_INSERT_HEAD(&r->blocked, read, link);
	return 0;
}

int reader_read(struct reader *r, uint32_t file, uint64_t offset, size_t length,
		mfs_read_done *done, void *user)
{
	struct read *read = read_new(file, offset, length, done, user);

	if (!read)
		return MFS_E_MEMORY;
	pthread_mutex_lock(&r->lock);
	r->active_reads++;
	r->stats.reads++;
	caching_note_file(r, file);
	read->streamed = prefetch_note_read(r, file, offset, length);
	plan_or_block(r, read, !TAILQ_EMPTY(&r->blocked));
	reader_pump(r);
	reader_unlock(r);
	return 0;
}

void reads_pump(struct reader *r)
{
	struct read *read;

	while (!r->stopping && (read = TAILQ_FIRST(&r->blocked))) {
		enum plan outcome = plan(r, read, false);

		if (outcome == PLAN_BLOCKED) {
			if (read == TAILQ_FIRST(&r->blocked))
				break;
			continue; /* it waits for an operand, which comes first */
		}
		TAILQ_REMOVE(&r->blocked, read, link);
		if (outcome == PLAN_COMPLETE)
			TAILQ_INSERT_TAIL(&r->finished, read, link);
	}
}

/* ---- handing out ---- */

static void gather(struct read *read)
{
	for (unsigned i = 0; i < read->piece_count; i++) {
		const struct piece *piece = &read->pieces[i];

		memcpy(read->gathered + read->gathered_bytes,
		       piece->span ? piece->span->data + piece->from : zeros, piece->length);
		read->gathered_bytes += piece->length;
	}
}

bool read_hand_out(struct read *read)
{
	struct iovec pieces[READ_PIECES];
	unsigned count = read->piece_count;

	if (read->error) {
		read->done(read->user, read->error, NULL, 0);
		return true;
	}
	if (read->gathered) {
		gather(read);
		if (read->gathered_bytes < read->length)
			return false;
		pieces[0] = (struct iovec){read->gathered, read->length};
		count = 1;
	} else {
		for (unsigned i = 0; i < count; i++) {
			const struct piece *piece = &read->pieces[i];

			pieces[i].iov_base = piece->span ? piece->span->data + piece->from : zeros;
			pieces[i].iov_len = piece->length;
		}
	}
	read->done(read->user, (int64_t)read->length, pieces, (int)count);
	return true;
}

void read_handed_out(struct reader *r, struct read *read, bool ended)
{
	release_pieces(r, read, !read->error);
	if (!ended) {
		plan_or_block(r, read, false);
	} else {
		if (!read->error && !read->internal) {
			r->stats.served_bytes += read->length;
			touched_mark(r, read->file, read->offset, read->length);
		}
		gather_end(r, read);
		free(read);
		if (!--r->active_reads)
			pthread_cond_broadcast(&r->ended);
	}
	reader_pump(r);
}
