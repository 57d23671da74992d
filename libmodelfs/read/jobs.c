/*
 * Jobs: each takes the runs that hold its stored bytes, waits until they are read,
 * and goes to the decoders. One that fails is tried once more.
 */
#include "reader.h"

/* So many requests take the place of one that is as long as can be. */
#define SHORT_REQUESTS 4

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

void job_worked(struct reader *r, struct job *job)
{
	if (job->error == MFS_E_CORRUPT && !job->retried)
		job_failed(r, job, job->error);
	else
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

enum progress { STAYS, WENT_ON, TRIES_AGAIN, HAS_FAILED };

/* Gives the job the runs it needs, if it may have them now; *room is cleared if the
 * arena had none. */
static enum progress begin_job(struct reader *r, struct job *job, bool *room)
{
	if (!*room || r->stopping || !depth_allows(r, job) || job_tables(job) == TABLES_STARVED)
		return STAYS;
	r->no_heap = false;
	*room = job_take_runs(r, job);
	if (*room) {
		job->state = JOB_WAIT;
		return WENT_ON;
	}
	if (r->no_heap) {
		TAILQ_REMOVE(&r->pending, job, link);
		job->error = MFS_E_MEMORY;
		job_ended(r, job);
		return HAS_FAILED;
	}
	job->starved = true;
	return STAYS;
}

/* A job that has its runs: to the decoders with it, if they are complete. */
static enum progress continue_job(struct reader *r, struct job *job)
{
	bool last = job->retried;
	int error;

	if (!job_runs_done(job, &error))
		return STAYS;
	if (error) {
		TAILQ_REMOVE(&r->pending, job, link);
		job_failed(r, job, error);
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
		TAILQ_REMOVE(&r->pending, job, link);
		decoders_give(r, job);
	}
	return WENT_ON;
}

/* What a job does next. */
static enum progress job_pump(struct reader *r, struct job *job, bool *room, bool *any_failed)
{
	enum progress progress = WENT_ON;

	if (job->state == JOB_NEED)
		progress = begin_job(r, job, room);
	/* Reads that are blocked have its memory now; prefetching, which would ask for more
	 * at once, waits for them. */
	if (progress == HAS_FAILED)
		*any_failed = *any_failed || !TAILQ_EMPTY(&r->blocked);
	if (progress != WENT_ON)
		return progress;
	progress = continue_job(r, job);
	*any_failed = *any_failed || progress == HAS_FAILED;
	return progress;
}

bool jobs_pump(struct reader *r)
{
	bool room = true, any_failed = false;
	struct job *job, *next;

	for (job = TAILQ_FIRST(&r->pending); job; job = next) {
		enum progress progress;

		next = TAILQ_NEXT(job, link);
		progress = job_pump(r, job, &room, &any_failed);
		if (progress == STAYS || progress == WENT_ON)
			continue;
		room = true; /* it had some */
		next = TAILQ_FIRST(&r->pending);
	}
	return any_failed;
}

void jobs_drop(struct reader *r, struct job_list *list)
{
	struct job *job;

	while ((job = TAILQ_FIRST(list))) {
		TAILQ_REMOVE(list, job, link);
		job_drop_runs(r, job, true);
	}
}
