#include "reader.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "problem.h"

#define SUBMIT_BATCH 64
#define REAP_BATCH   64
/* So many requests take the place of one that is as long as can be. */
#define SHORT_REQUESTS 4
/* A decoder more is woken for so much work. */
#define DECODER_BYTES (1u << 20)

/* What zeros extents point at. Never written, so it costs no memory. */
static uint8_t zeros[MFS_READ_MAX];

void reader_problem(struct reader *r, int error, uint64_t offset, const char *format, ...)
{
	char text[400];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	pthread_mutex_lock(&r->c->problem_lock);
	mfs_problem_set(&r->c->problem, error, offset, "%s: %s", r->c->path, text);
	pthread_mutex_unlock(&r->c->problem_lock);
}

uint64_t reader_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t reader_busy(const struct reader *r)
{
	return r->busy + (r->in_flight ? reader_now() - r->busy_since : 0);
}

/* ---- planning a read ---- */

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
		return PLAN_BLOCKED;
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

/* ---- jobs ---- */

/* What a decoder makes of the job; merging takes so much longer that each such span
 * counts as a share. */
static uint32_t work_bytes(const struct reader *r, const struct job *job)
{
	const struct span *span = (const struct span *)job;

	if (job->kind != JOB_SPAN)
		return 0;
	return tensor_is_derived(r, span->tensor) ? DECODER_BYTES : span->place.bytes;
}

/* Parts of the index go first: they take little time, and spans wait for them. */
static void enqueue(struct reader *r, struct job *job)
{
	TAILQ_REMOVE(&r->pending, job, link);
	job->state = JOB_QUEUED;
	if (job->kind == JOB_SPAN)
		TAILQ_INSERT_TAIL(&r->queue, job, link);
	else
		TAILQ_INSERT_HEAD(&r->queue, job, link);
	r->work_jobs++;
	r->work_bytes += work_bytes(r, job);
}

static void job_ended(struct reader *r, struct job *job)
{
	if (job->kind == JOB_SPAN)
		span_done(r, (struct span *)job);
	else
		part_done(r, (struct part *)job);
}

/* A first failure may be the request's (one bad page in a large one) or the
 * bus's: each job tries once more, for its own pages alone. */
static void job_failed(struct reader *r, struct job *job, int error)
{
	job_drop_runs(r, job, true);
	if (!job->retried && !r->stopping) {
		job->retried = job->starved = true;
		job->error = 0;
		job->state = JOB_NEED;
		TAILQ_INSERT_HEAD(&r->pending, job, link);
		return;
	}
	job->error = error;
	job_ended(r, job);
}

/* Read-ahead keeps the profile's depth, in bytes: a few short requests (constants,
 * the end of a chunk) must not leave the medium without work. What a read waits
 * for does not queue behind it. */
static bool depth_allows(const struct reader *r, const struct job *job)
{
	uint64_t most = (uint64_t)r->request * r->c->queue.depth;

	return !job->ahead ||
	       (r->in_flight_bytes + r->request / 2 < most &&
		r->in_flight < SHORT_REQUESTS * r->c->queue.depth) ||
	       job_covered(r, job);
}

static enum tables_state job_tables(struct job *job)
{
	return job->kind == JOB_SPAN ? span_tables((struct span *)job) : TABLES_READY;
}

/* Gives the job the runs it needs, if it may have them now. False: it has none;
 * *room is cleared if there was no memory. */
static bool begin_job(struct reader *r, struct job *job, bool *room)
{
	if (!*room || r->stopping || !depth_allows(r, job) || job_tables(job) == TABLES_STARVED)
		return false;
	*room = job_take_runs(r, job);
	if (*room)
		job->state = JOB_WAIT;
	else
		job->starved = true;
	return *room;
}

enum progress { STAYS, WENT_ON, TRIES_AGAIN, HAS_FAILED };

/* A job that has its runs: to the decoders with it, if they are complete. */
static enum progress continue_job(struct reader *r, struct job *job)
{
	bool failed, last = job->retried;

	if (!job_runs_done(job, &failed))
		return STAYS;
	if (failed) {
		TAILQ_REMOVE(&r->pending, job, link);
		job_failed(r, job, MFS_E_IO);
		return last ? HAS_FAILED : TRIES_AGAIN;
	}
	switch (job_tables(job)) {
	case TABLES_COMING:
		return STAYS;
	case TABLES_STARVED:
		job_give_back_runs(r, job);
		job->state = JOB_NEED;
		return TRIES_AGAIN;
	case TABLES_BAD:
		TAILQ_REMOVE(&r->pending, job, link);
		job_ended(r, job);
		return HAS_FAILED;
	case TABLES_READY:
		enqueue(r, job);
	}
	return WENT_ON;
}

/* Gives runs to jobs that need them, in order, and jobs whose runs are complete
 * to the decoders. True if a job has failed for good, which frees memory. */
static bool pump_jobs(struct reader *r)
{
	bool room = true, any_failed = false;
	struct job *job, *next;
	enum progress progress;

	for (job = TAILQ_FIRST(&r->pending); job; job = next) {
		next = TAILQ_NEXT(job, link);
		if (job->state == JOB_NEED && !begin_job(r, job, &room))
			continue;
		progress = continue_job(r, job);
		if (progress == STAYS || progress == WENT_ON)
			continue;
		any_failed = any_failed || progress == HAS_FAILED;
		room = true; /* it had some */
		next = TAILQ_FIRST(&r->pending);
	}
	return any_failed;
}

static void pump_blocked(struct reader *r)
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

void reader_pump(struct reader *r)
{
	do {
		pump_blocked(r);
		prefetch_pump(r);
		pump_blocked(r); /* operands that it has asked for */
	} while (pump_jobs(r));
}

/* How many sleeping decoders to wake. To wake one interrupts another core and finds
 * cold caches there, so only reads that wait have a decoder each; other work has one
 * for each DECODER_BYTES. Lock held; the caller signals without it, or those who wake
 * would have to wait for it. */
static unsigned call_decoders(struct reader *r)
{
	unsigned wanted = r->work_jobs < r->active_reads ? r->work_jobs : r->active_reads;
	uint64_t share = div_up(r->work_bytes, DECODER_BYTES);
	unsigned more;

	if (wanted < share)
		wanted = share < r->decoder_count ? (unsigned)share : r->decoder_count;
	if (!wanted && r->work_jobs)
		wanted = 1;
	more = wanted > r->decoders_awake ? wanted - r->decoders_awake : 0;
	if (more > r->decoders_asleep)
		more = r->decoders_asleep;
	r->decoders_asleep -= more;
	r->decoders_awake += more;
	r->calls += more;
	return more;
}

/* A decoder without work. Lock held. */
static void await_call(struct reader *r)
{
	r->decoders_awake--;
	r->decoders_asleep++;
	while (!r->calls && !r->stopping)
		pthread_cond_wait(&r->work, &r->lock);
	r->calls -= r->calls > 0;
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

/* Without the lock. True if the read has ended, false if a batch is to follow. */
static bool hand_out(struct read *read)
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

static void after_hand_out(struct reader *r, struct read *read, bool ended)
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

/* The engine takes all or none of a batch. */
static void submit(struct reader *r, struct run *runs[], unsigned count)
{
	mfs_io_request *requests[SUBMIT_BATCH];

	for (unsigned i = 0; i < count; i++)
		requests[i] = &runs[i]->request;
	if (!r->io->table->submit(r->io, requests, count))
		return;
	pthread_mutex_lock(&r->lock);
	for (unsigned i = 0; i < count; i++) {
		runs[i]->request.result = -ENOMEM;
		run_ended(r, runs[i]);
	}
	reader_pump(r);
	pthread_mutex_unlock(&r->lock);
}

void reader_unlock(struct reader *r)
{
	struct run *runs[SUBMIT_BATCH];
	struct read *read;

	for (;;) {
		unsigned count =
		    r->submit_count < SUBMIT_BATCH ? (unsigned)r->submit_count : SUBMIT_BATCH;
		unsigned calls = call_decoders(r);
		bool ended = false;

		if (!count && !calls && TAILQ_EMPTY(&r->finished) && caching_fill(r))
			continue;
		if (count) {
			memcpy(runs, r->submit, count * sizeof(*runs));
			r->submit_count -= count;
			memmove(r->submit, r->submit + count, r->submit_count * sizeof(*runs));
		}
		read = TAILQ_FIRST(&r->finished);
		if (read)
			TAILQ_REMOVE(&r->finished, read, link);
		pthread_mutex_unlock(&r->lock);
		if (!count && !calls && !read)
			return;
		if (count)
			submit(r, runs, count);
		for (; calls; calls--)
			pthread_cond_signal(&r->work);
		if (read)
			ended = hand_out(read);
		pthread_mutex_lock(&r->lock);
		if (read)
			after_hand_out(r, read, ended);
	}
}

/* ---- threads ---- */

/* One thread reaps what the engine has ended. */
static void *reaper(void *argument)
{
	struct reader *r = argument;
	mfs_io_request *done[REAP_BATCH];
	bool stop = false;

	while (!stop) {
		int n = r->io->table->reap(r->io, done, REAP_BATCH);

		pthread_mutex_lock(&r->lock);
		for (int i = 0; i < n; i++)
			run_ended(r, done[i]->user);
		reader_pump(r);
		stop = r->stopping && !r->in_flight;
		reader_unlock(r);
	}
	return NULL;
}

static void work(struct reader *r, struct job *job, mfs_decoder *decoder, uint8_t *scratch)
{
	job->error = 0;
	if (job->kind == JOB_SPAN)
		span_decode(r, (struct span *)job, decoder, scratch);
	else
		part_verify(r, (struct part *)job, scratch);
}

static void work_done(struct reader *r, struct job *job)
{
	if (job->error == MFS_E_CORRUPT && !job->retried)
		job_failed(r, job, job->error);
	else
		job_ended(r, job);
}

/* Decoders work on jobs and answer the reads that waited for them. */
static void *decoder(void *argument)
{
	struct reader *r = argument;
	struct decoder_thread *own;
	struct job *job;
	uint64_t start;
	uint32_t bytes;

	pthread_mutex_lock(&r->lock);
	own = r->contexts[r->next_context++];
	r->decoders_awake++;
	while (!r->stopping) {
		job = TAILQ_FIRST(&r->queue);
		if (!job) {
			await_call(r);
			continue;
		}
		TAILQ_REMOVE(&r->queue, job, link);
		bytes = work_bytes(r, job);
		pthread_mutex_unlock(&r->lock);
		start = reader_now();
		work(r, job, own->codec, own->scratch);
		pthread_mutex_lock(&r->lock);
		r->decoding += reader_now() - start;
		work_done(r, job);
		reader_pump(r);
		reader_unlock(r);
		pthread_mutex_lock(&r->lock);
		/* Handing out is work too: the next job does not wait for it to end. */
		r->work_jobs--;
		r->work_bytes -= bytes;
	}
	pthread_mutex_unlock(&r->lock);
	return NULL;
}

static void contexts_free(struct reader *r)
{
	for (unsigned i = 0; r->contexts && i < r->decoder_count; i++) {
		if (!r->contexts[i])
			continue;
		mfs_decoder_free(r->contexts[i]->codec);
		free(r->contexts[i]->scratch);
		free(r->contexts[i]);
	}
	free(r->contexts);
}

/* Scratch holds the stored frames of a span, or one index part; where spans are
 * computed, the frames of two sources and the blocks that these decode to. */
static int contexts_new(struct reader *r)
{
	size_t scratch = (size_t)r->c->max_span * (r->c->computed ? 4 : 2);

	if (scratch < MFS_TABLES_MAX)
		scratch = MFS_TABLES_MAX;
	r->contexts = calloc(r->decoder_count, sizeof(*r->contexts));
	if (!r->contexts)
		return MFS_E_MEMORY;
	for (unsigned i = 0; i < r->decoder_count; i++) {
		struct decoder_thread *own = r->contexts[i] = calloc(1, sizeof(*own));

		if (!own)
			return MFS_E_MEMORY;
		own->codec = mfs_decoder_new(r->c->max_span);
		own->scratch = malloc(scratch);
		if (!own->codec || !own->scratch)
			return MFS_E_MEMORY;
	}
	return 0;
}

static int parts_new(struct reader *r)
{
	uint32_t segments = r->c->root.count[MFS_SEC_SEGMENTS];
	uint32_t tables = r->c->root.count[MFS_SEC_TABLES];

	r->frame_segments = (uint32_t)div_up(r->c->root.frames, MFS_SEGMENT_FRAME_COUNT);
	r->segments = calloc(segments + 1, sizeof(*r->segments));
	r->tables = calloc(tables + 1, sizeof(*r->tables));
	if (!r->segments || !r->tables)
		return MFS_E_MEMORY;
	for (uint32_t i = 0; i < segments; i++) {
		r->segments[i].job.kind = JOB_SEGMENT;
		r->segments[i].number = i;
	}
	for (uint32_t i = 0; i < tables; i++) {
		r->tables[i].job.kind = JOB_TABLES;
		r->tables[i].number = i;
	}
	return 0;
}

/* The least memory with which any read can end: a span being decoded and one
 * being gathered, and twice the stored bytes of a span. */
static uint64_t arena_bytes(const mfs_container *c)
{
	uint64_t asked = c->options.arena_bytes ? c->options.arena_bytes : caching_arena_bytes(c);
	uint64_t least = 8 * (uint64_t)c->max_span + 16 * (uint64_t)c->sb.page_size + (8u << 20);

	return asked > least ? asked : least;
}

static int arenas_open(struct reader *r)
{
	uint64_t half = arena_bytes(r->c) / 2;
	int err = mfs_arena_open(&r->run_arena, half);

	return err ? err : mfs_arena_open(&r->span_arena, half);
}

/* A job takes all its runs or none, so there is room for one of each range. */
void reader_queue_as(struct reader *r, const medium_queue *queue)
{
	uint64_t most = round_down(r->run_arena.bytes / JOB_RANGES, r->unit);
	uint64_t wanted = round_up(queue->request_bytes, r->unit);

	r->c->queue = *queue;
	r->request = (uint32_t)(wanted < most ? wanted : most);
}

static int threads_start(struct reader *r)
{
	unsigned i;

	r->decoders = calloc(r->decoder_count, sizeof(*r->decoders));
	if (!r->decoders)
		return MFS_E_MEMORY;
	if (pthread_create(&r->reaper, NULL, reaper, r))
		return MFS_E_SYSTEM;
	r->reaper_running = true;
	for (i = 0; i < r->decoder_count; i++)
		if (pthread_create(&r->decoders[i], NULL, decoder, r))
			break;
	r->decoders_running = i;
	return i ? 0 : MFS_E_SYSTEM;
}

static unsigned decoder_count(const mfs_container *c)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);

	if (c->options.decoders)
		return c->options.decoders;
	return cores > 0 ? (unsigned)cores : 1;
}

static void init_lists(struct reader *r)
{
	pthread_condattr_t monotonic;

	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->work, NULL);
	pthread_cond_init(&r->ended, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pthread_cond_init(&r->keep, NULL);
	TAILQ_INIT(&r->idle_runs);
	TAILQ_INIT(&r->to_cache);
	TAILQ_INIT(&r->pending);
	TAILQ_INIT(&r->queue);
	TAILQ_INIT(&r->idle_spans);
	TAILQ_INIT(&r->blocked);
	TAILQ_INIT(&r->finished);
}

int reader_new(struct reader **out, mfs_container *c)
{
	struct reader *r = calloc(1, sizeof(*r));
	int err;

	if (!r)
		return MFS_E_MEMORY;
	r->c = c;
	r->io = c->io;
	r->unit = c->sb.page_size > c->io->alignment ? c->sb.page_size : c->io->alignment;
	r->grain = c->io->alignment > MFS_ARENA_UNIT ? c->io->alignment : MFS_ARENA_UNIT;
	if (r->grain > r->unit)
		r->grain = r->unit;
	r->decoder_count = decoder_count(c);
	init_lists(r);
	err = arenas_open(r);
	if (!err) {
		reader_queue_as(r, &c->queue);
		err = caching_open(r);
	}
	if (!err)
		err = contexts_new(r);
	if (!err)
		err = parts_new(r);
	if (!err)
		err = routes_new(r);
	if (!err)
		err = recorder_new(r);
	if (!err)
		err = operands_new(r);
	if (!err)
		err = touched_new(r);
	if (!err)
		err = r->io->table->start(r->io, r->run_arena.memory, r->run_arena.bytes,
					  container_should_probe(c) ? MEDIUM_DEPTH_MAX
								    : c->queue.depth);
	if (!err)
		err = threads_start(r);
	if (!err)
		err = caching_start(r);
	if (err) {
		reader_free(r);
		return err;
	}
	*out = r;
	pthread_mutex_lock(&r->lock);
	reader_pump(r); /* a replayed trace begins before the first read */
	reader_unlock(r);
	return 0;
}

static void threads_stop(struct reader *r)
{
	pthread_mutex_lock(&r->lock);
	while (r->active_reads)
		pthread_cond_wait(&r->ended, &r->lock);
	r->stopping = true;
	pthread_cond_broadcast(&r->work);
	pthread_cond_broadcast(&r->keep);
	pthread_mutex_unlock(&r->lock);
	caching_stop(r);
	for (unsigned i = 0; i < r->decoders_running; i++)
		pthread_join(r->decoders[i], NULL);
	if (r->reaper_running) {
		r->io->table->wake(r->io);
		pthread_join(r->reaper, NULL);
	}
}

static void drop_jobs(struct reader *r, struct job_list *list)
{
	struct job *job;

	while ((job = TAILQ_FIRST(list))) {
		TAILQ_REMOVE(list, job, link);
		job_drop_runs(r, job, true);
	}
}

void reader_free(struct reader *r)
{
	if (!r)
		return;
	threads_stop(r);
	drop_jobs(r, &r->pending);
	drop_jobs(r, &r->queue);
	spans_free(r);
	runs_free(r);
	operands_free(r);
	caching_close(r);
	index_free(r);
	routes_free(r);
	recorder_free(r->recorder);
	contexts_free(r);
	touched_free(r);
	mfs_arena_close(&r->run_arena);
	mfs_arena_close(&r->span_arena);
	pthread_mutex_destroy(&r->lock);
	pthread_cond_destroy(&r->work);
	pthread_cond_destroy(&r->ended);
	pthread_cond_destroy(&r->keep);
	free(r->decoders);
	free(r);
}

/* ---- reads ---- */

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
