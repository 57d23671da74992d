#include "coder.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "large_alloc.h"

enum job_state { JOB_FREE, JOB_FILLED, JOB_CODED };

/* What one thread, or the owner, codes with. */
struct coder {
	mfs_encoder *encoder;
	/* Where spans are proven, else NULL. */
	mfs_decoder *decoder;
	uint8_t *decoded;
};

struct mfs_coders {
	mfs_coder_job *jobs; /* a ring */
	unsigned count;
	uint64_t taken, collected; /* jobs so far; the owner's */
	uint8_t *memory;

	/* `lock` guards the states and what follows down to stop. */
	pthread_mutex_t lock;
	pthread_cond_t filled, coded;
	uint64_t submitted, started;
	const mfs_coder_job *awaited; /* that the owner sleeps for, or NULL */
	bool stop;

	pthread_t *threads;
	unsigned thread_count;
	struct coder *coders; /* one for each thread, or the owner's */
	unsigned coder_count;
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

	job->room = &job->in;
	job->stored[0] = job->in;
	job->info[0].stored = coding == MFS_CODING_ZERO ? 0 : bytes;
	job->info[0].by_coding[coding] = bytes;
}

static int code_streams(mfs_coder_job *job, mfs_encoder *encoder)
{
	const mfs_plan_tensor *t = job->tensor;
	uint8_t *out[MFS_SLOTS] = {job->out,
				   job->out + mfs_plan_slot_bytes(t, 0, job->span.blocks)};

	job->room = &job->out;
	for (int s = 0; s < MFS_SLOTS; s++)
		job->stored[s] = out[s];
	return mfs_span_encode(encoder, t->layout, job->span.blocks, job->in, &t->rules,
			       job->tables, out, job->info);
}

/* A mistake of a codec must not get into a container. */
static bool decodes_back(const mfs_coder_job *job, const struct coder *coder)
{
	mfs_frame frame[MFS_SLOTS];

	for (int s = 0; s < MFS_SLOTS; s++)
		frame[s] = (mfs_frame){job->stored[s], job->info[s].stored, job->tables[s]};
	return !mfs_span_decode(coder->decoder, job->tensor->layout, job->span.blocks, frame,
				coder->decoded) &&
	       !memcmp(coder->decoded, job->in, job->span.bytes);
}

static void code(mfs_coder_job *job, const struct coder *coder)
{
	const mfs_plan_tensor *t = job->tensor;

	memset(job->info, 0, sizeof(job->info));
	job->error = 0;
	job->unproven = false;
	if (t->record.cls == MFS_DISK_PLAIN)
		code_plain(job);
	else
		job->error = code_streams(job, coder->encoder);
	/* Plain spans are stored from where they were read to. */
	if (!job->error && coder->decoder && t->record.cls != MFS_DISK_PLAIN &&
	    !decodes_back(job, coder)) {
		job->unproven = true;
		job->error = MFS_E_CORRUPT;
	}
	for (unsigned s = 0; s < MFS_SLOTS && !job->error; s++)
		if (mfs_plan_has_slot(t, s))
			job->hash[s] = mfs_frame_hash(job->stored[s], job->info[s].stored,
						      t->record.slot[s].first + job->span.index);
}

/* ---- threads ---- */

struct thread_start {
	mfs_coders *coders;
	const struct coder *coder;
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
		code(job, start.coder);
		pthread_mutex_lock(&c->lock);
		job->state = JOB_CODED;
		if (c->awaited == job)
			pthread_cond_signal(&c->coded);
		pthread_mutex_unlock(&c->lock);
	}
	return NULL;
}

static int start_thread(mfs_coders *c, const struct coder *coder)
{
	struct thread_start *start = malloc(sizeof(*start));

	if (!start)
		return MFS_E_MEMORY;
	*start = (struct thread_start){c, coder};
	if (pthread_create(&c->threads[c->thread_count], NULL, coder_thread, start)) {
		free(start);
		return MFS_E_MEMORY;
	}
	c->thread_count++;
	return 0;
}

static int coder_open(struct coder *coder, size_t span_max, bool prove)
{
	coder->encoder = mfs_encoder_new(span_max);
	if (prove) {
		coder->decoder = mfs_decoder_new(span_max);
		coder->decoded = malloc(span_max);
	}
	return coder->encoder && (!prove || (coder->decoder && coder->decoded)) ? 0 : MFS_E_MEMORY;
}

static void coder_close(struct coder *coder)
{
	mfs_encoder_free(coder->encoder);
	mfs_decoder_free(coder->decoder);
	free(coder->decoded);
}

/* As many threads as the system gives; without any the owner does the work. */
static int start_threads(mfs_coders *c, unsigned threads, size_t span_max, bool prove)
{
	for (unsigned i = 0; i < threads; i++) {
		c->coder_count++;
		if (coder_open(&c->coders[i], span_max, prove) < 0)
			return MFS_E_MEMORY;
		if (threads == 1 || start_thread(c, &c->coders[i]) < 0)
			break;
	}
	return 0;
}

static int make_jobs(mfs_coders *c, size_t span_max)
{
	size_t room = mfs_coder_room(span_max);

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

int mfs_coders_new(mfs_coders **out, unsigned threads, unsigned jobs, size_t span_max, bool prove)
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
	c->coders = calloc(threads, sizeof(*c->coders));
	error = c->threads && c->coders ? make_jobs(c, span_max) : MFS_E_MEMORY;
	if (!error)
		error = start_threads(c, threads, span_max, prove);
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
	for (unsigned i = 0; i < c->coder_count; i++)
		coder_close(&c->coders[i]);
	pthread_cond_destroy(&c->filled);
	pthread_cond_destroy(&c->coded);
	pthread_mutex_destroy(&c->lock);
	free(c->threads);
	free(c->coders);
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

/* With the lock. */
static void await(mfs_coders *c, const mfs_coder_job *job)
{
	for (c->awaited = job; job->state != JOB_CODED;)
		pthread_cond_wait(&c->coded, &c->lock);
	c->awaited = NULL;
}

/* The owner has little to do with each job: where it has to wait it sleeps until there
 * are some more, for being woken costs more than that, and the coders' time. */
static void await_some(mfs_coders *c, const mfs_coder_job *oldest)
{
	uint64_t ahead = c->collected + c->count / 4;

	if (ahead >= c->taken)
		ahead = c->taken - 1;
	pthread_mutex_lock(&c->lock);
	if (oldest->state != JOB_CODED) {
		await(c, &c->jobs[ahead % c->count]);
		await(c, oldest);
	}
	pthread_mutex_unlock(&c->lock);
}

mfs_coder_job *mfs_coders_collect(mfs_coders *c)
{
	mfs_coder_job *job = &c->jobs[c->collected % c->count];

	if (c->collected == c->taken)
		return NULL;
	if (!c->thread_count) {
		if (job->state != JOB_CODED)
			code(job, &c->coders[0]);
		job->state = JOB_CODED;
		return job;
	}
	await_some(c, job);
	return job;
}

void mfs_coders_release(mfs_coders *c)
{
	c->jobs[c->collected++ % c->count].state = JOB_FREE;
}
