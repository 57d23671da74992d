/* Decoders: threads that work on jobs and answer the reads that waited for them. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "check.h"
#include "operands.h"
#include "reader.h"

/* A decoder more is woken for so much work. */
#define DECODER_BYTES (1u << 20)

/* A decoder's own memory. */
struct decoder_thread {
	mfs_decoder *codec;
	uint8_t *scratch;
};

/* ---- work ---- */

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
void decoders_give(struct reader *r, struct job *job)
{
	job->state = JOB_QUEUED;
	if (job->kind == JOB_SPAN)
		TAILQ_INSERT_TAIL(&r->queue, job, link);
	else
		TAILQ_INSERT_HEAD(&r->queue, job, link);
	r->work_jobs++;
	r->work_bytes += work_bytes(r, job);
}

/* To wake one interrupts another core and finds cold caches there, so only reads that
 * wait have a decoder each; other work has one for each DECODER_BYTES. */
unsigned decoders_call(struct reader *r)
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

static void work(struct reader *r, struct job *job, mfs_decoder *decoder, uint8_t *scratch)
{
	job->error = 0;
	if (job->kind == JOB_SPAN)
		span_decode(r, (struct span *)job, decoder, scratch);
	else
		part_verify(r, (struct part *)job, scratch);
}

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
		job_worked(r, job);
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

/* ---- threads ---- */

static unsigned decoder_count(const mfs_container *c)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);

	if (c->options.decoders)
		return c->options.decoders;
	return cores > 0 ? (unsigned)cores : 1;
}

/* Scratch holds the stored frames of a span, or one index part; where spans are
 * computed, the frames of two sources and the blocks that these decode to. */
int decoders_new(struct reader *r)
{
	size_t scratch = (size_t)r->c->max_span * (r->c->computed ? 4 : 2);

	if (scratch < MFS_TABLES_MAX)
		scratch = MFS_TABLES_MAX;
	r->decoder_count = decoder_count(r->c);
	r->decoders = calloc(r->decoder_count, sizeof(*r->decoders));
	r->contexts = calloc(r->decoder_count, sizeof(*r->contexts));
	if (!r->decoders || !r->contexts)
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

int decoders_start(struct reader *r)
{
	unsigned i;

	for (i = 0; i < r->decoder_count; i++) {
		errno = pthread_create(&r->decoders[i], NULL, decoder, r);
		if (errno)
			break;
	}
	r->decoders_running = i;
	return i ? 0 : MFS_E_SYSTEM;
}

void decoders_join(struct reader *r)
{
	for (unsigned i = 0; i < r->decoders_running; i++)
		pthread_join(r->decoders[i], NULL);
}

void decoders_free(struct reader *r)
{
	for (unsigned i = 0; r->contexts && i < r->decoder_count; i++) {
		if (!r->contexts[i])
			continue;
		mfs_decoder_free(r->contexts[i]->codec);
		free(r->contexts[i]->scratch);
		free(r->contexts[i]);
	}
	free(r->contexts);
	free(r->decoders);
}
