#include "coder.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "large_alloc.h"

enum job_state { JOB_FREE, JOB_FILLED, JOB_CODED };

struct mfs_coders {
	mfs_coder_job *jobs; /* a ring */
	unsigned count;
	uint64_t taken, collected; /* jobs so far; the owner's */
	uint8_t *memory;

	/* `lock` guards the states, the two counters below and stop. */
	pthread_mutex_t lock;
	pthread_cond_t filled, coded;
	uint64_t submitted, started;
	bool stop;

	pthread_t *threads;
	unsigned thread_count;
	mfs_encoder **encoders; /* one for each thread, or the owner's */
	unsigned encoder_count;
};

/* ---- coding one span ---- */

static bool all_zero(const uint8_t *bytes, size_t length)
{
	return !length || (!bytes[0] && !memcmp(bytes, bytes + 1, length - 1));
}

/* Class plain: the bytes as they are in the file. */
static void code_plain(mfs_coder_job *job)
{
	uint32_t bytes = job->span.bytes;
	enum mfs_coding coding = all_zero(job->in, bytes) ? MFS_CODING_ZERO : MFS_CODING_RAW;

	job->stored[0] = job->in;
	job->info[0].stored = coding == MFS_CODING_ZERO ? 0 : bytes;
	job->info[0].by_coding[coding] = bytes;
}

static int code_streams(mfs_coder_job *job, mfs_encoder *encoder)
{
	const mfs_plan_tensor *t = job->tensor;
	uint8_t *out[MFS_SLOTS] = {job->out,
				   job->out + mfs_plan_slot_bytes(t, 0, job->span.blocks)};

	for (int s = 0; s < MFS_SLOTS; s++)
		job->stored[s] = out[s];
	return mfs_span_encode(encoder, t->layout, job->span.blocks, job->in, &t->rules,
			       job->tables, out, job->info);
}

static void code(mfs_coder_job *job, mfs_encoder *encoder)
{
	const mfs_plan_tensor *t = job->tensor;

	memset(job->info, 0, sizeof(job->info));
	job->error = 0;
	if (t->record.cls == MFS_DISK_PLAIN)
		code_plain(job);
	else
		job->error = code_streams(job, encoder);
	for (unsigned s = 0; s < MFS_SLOTS && !job->error; s++)
		if (mfs_plan_has_slot(t, s))
			job->hash[s] = mfs_frame_hash(job->stored[s], job->info[s].stored,
						      t->record.slot[s].first + job->span.index);
}

/* ---- threads ---- */

struct thread_start {
	mfs_coders *coders;
	mfs_encoder *encoder;
};

/* The oldest job that no thread has started, or NULL at the end. */
static mfs_coder_job *next_job(mfs_coders *c)
{
	mfs_coder_job *job = NULL;

	pthread_mutex_lock(&c->lock);
	while (!c->stop && c->started == c->submitted)
		pthread_cond_wait(&c->filled, &c->lock);
	if (!c->stop)
		job = &c->jobs[c->started++ % c->count];
	pthread_mutex_unlock(&c->lock);
	return job;
}

static void *coder_thread(void *arg)
{
	struct thread_start start = *(struct thread_start *)arg;
	mfs_coders *c = start.coders;
	mfs_coder_job *job;

	free(arg);
	while ((job = next_job(c))) {
		code(job, start.encoder);
		pthread_mutex_lock(&c->lock);
		job->state = JOB_CODED;
		pthread_cond_signal(&c->coded);
		pthread_mutex_unlock(&c->lock);
	}
	return NULL;
}

static int start_thread(mfs_coders *c, mfs_encoder *encoder)
{
	struct thread_start *start = malloc(sizeof(*start));

	if (!start)
		return MFS_E_MEMORY;
	*start = (struct thread_start){c, encoder};
	if (pthread_create(&c->threads[c->thread_count], NULL, coder_thread, start)) {
		free(start);
		return MFS_E_MEMORY;
	}
	c->thread_count++;
	return 0;
}

/* As many threads as the system gives; without any the owner does the work. */
static int start_threads(mfs_coders *c, unsigned threads, size_t span_max)
{
	for (unsigned i = 0; i < threads; i++) {
		c->encoders[i] = mfs_encoder_new(span_max);
		if (!c->encoders[i])
			return MFS_E_MEMORY;
		c->encoder_count++;
		if (threads == 1 || start_thread(c, c->encoders[i]) < 0)
			break;
	}
	return 0;
}

static int make_jobs(mfs_coders *c, size_t span_max)
{
	/* Rooms start on a cache line: two threads never write to the same one. */
	size_t room = (span_max + 63) / 64 * 64;

	c->jobs = calloc(c->count, sizeof(*c->jobs));
	c->memory = mfs_large_alloc(room * 2 * c->count + 64);
	if (!c->jobs || !c->memory)
		return MFS_E_MEMORY;
	for (unsigned i = 0; i < c->count; i++) {
		c->jobs[i].in = c->memory + room * 2 * i;
		c->jobs[i].out = c->jobs[i].in + room;
	}
	return 0;
}

int mfs_coders_new(mfs_coders **out, unsigned threads, unsigned jobs, size_t span_max)
{
	mfs_coders *c = calloc(1, sizeof(*c));
	int error;

	if (!c)
		return MFS_E_MEMORY;
	c->count = jobs;
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->filled, NULL);
	pthread_cond_init(&c->coded, NULL);
	c->threads = calloc(threads, sizeof(*c->threads));
	c->encoders = calloc(threads, sizeof(mfs_encoder *));
	error = c->threads && c->encoders ? make_jobs(c, span_max) : MFS_E_MEMORY;
	if (!error)
		error = start_threads(c, threads, span_max);
	if (error) {
		mfs_coders_free(c);
		return error;
	}
	*out = c;
	return 0;
}

void mfs_coders_free(mfs_coders *c)
{
	if (!c)
		return;
	pthread_mutex_lock(&c->lock);
	c->stop = true;
	pthread_cond_broadcast(&c->filled);
	pthread_mutex_unlock(&c->lock);
	for (unsigned i = 0; i < c->thread_count; i++)
		pthread_join(c->threads[i], NULL);
	for (unsigned i = 0; i < c->encoder_count; i++)
		mfs_encoder_free(c->encoders[i]);
	pthread_cond_destroy(&c->filled);
	pthread_cond_destroy(&c->coded);
	pthread_mutex_destroy(&c->lock);
	free(c->threads);
	free(c->encoders);
	free(c->jobs);
	free(c->memory);
	free(c);
}

/* ---- the owner's side ---- */

mfs_coder_job *mfs_coders_take(mfs_coders *c)
{
	return c->taken - c->collected < c->count ? &c->jobs[c->taken % c->count] : NULL;
}

void mfs_coders_submit(mfs_coders *c)
{
	pthread_mutex_lock(&c->lock);
	c->jobs[c->taken % c->count].state = JOB_FILLED;
	c->submitted++;
	pthread_cond_signal(&c->filled);
	pthread_mutex_unlock(&c->lock);
	c->taken++;
}

mfs_coder_job *mfs_coders_collect(mfs_coders *c)
{
	mfs_coder_job *job = &c->jobs[c->collected % c->count];

	if (c->collected == c->taken)
		return NULL;
	if (!c->thread_count) {
		if (job->state != JOB_CODED)
			code(job, c->encoders[0]);
		job->state = JOB_CODED;
		return job;
	}
	pthread_mutex_lock(&c->lock);
	while (job->state != JOB_CODED)
		pthread_cond_wait(&c->coded, &c->lock);
	pthread_mutex_unlock(&c->lock);
	return job;
}

void mfs_coders_release(mfs_coders *c)
{
	c->jobs[c->collected++ % c->count].state = JOB_FREE;
}
