#include "operands.h"
#include "reader.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "problem.h"

#define SUBMIT_BATCH 64
#define REAP_BATCH   64

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

/* ---- moving on ---- */

void reader_pump(struct reader *r)
{
	do {
		reads_pump(r);
		prefetch_pump(r);
		reads_pump(r); /* operands that it has asked for */
	} while (jobs_pump(r));
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
		unsigned calls = decoders_call(r);
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
			ended = read_hand_out(read);
		pthread_mutex_lock(&r->lock);
		if (read)
			read_handed_out(r, read, ended);
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
	errno = pthread_create(&r->reaper, NULL, reaper, r);
	if (errno)
		return MFS_E_SYSTEM;
	r->reaper_running = true;
	return decoders_start(r);
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
	init_lists(r);
	err = arenas_open(r);
	if (!err) {
		reader_queue_as(r, &c->queue);
		err = caching_open(r);
	}
	if (!err)
		err = decoders_new(r);
	if (!err)
		err = index_new(r);
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
		int why = errno;

		reader_free(r);
		errno = why;
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
	decoders_join(r);
	if (r->reaper_running) {
		r->io->table->wake(r->io);
		pthread_join(r->reaper, NULL);
	}
}

void reader_free(struct reader *r)
{
	if (!r)
		return;
	threads_stop(r);
	jobs_drop(r, &r->pending);
	jobs_drop(r, &r->queue);
	spans_free(r);
	runs_free(r);
	operands_free(r);
	caching_close(r);
	index_free(r);
	routes_free(r);
	recorder_free(r->recorder);
	decoders_free(r);
	touched_free(r);
	mfs_arena_close(&r->run_arena);
	mfs_arena_close(&r->span_arena);
	pthread_mutex_destroy(&r->lock);
	pthread_cond_destroy(&r->work);
	pthread_cond_destroy(&r->ended);
	pthread_cond_destroy(&r->keep);
	free(r);
}
