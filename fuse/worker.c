#include "worker.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

struct worker {
	pthread_t thread;
	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t posted;
	worker_job *first, **last;
	bool stopping;
};

/* Waits for a job; NULL when all are done and the worker stops. */
static worker_job *take_job(worker *w)
{
	worker_job *job;

	pthread_mutex_lock(&w->lock);
	while (!w->first && !w->stopping)
		pthread_cond_wait(&w->posted, &w->lock);
	job = w->first;
	if (job) {
		w->first = job->next;
		if (!w->first)
			w->last = &w->first;
	}
	pthread_mutex_unlock(&w->lock);
	return job;
}

static void *run_jobs(void *argument)
{
	worker *w = argument;
	worker_job *job;

	while ((job = take_job(w)))
		job->run(job);
	return NULL;
}

int worker_start(worker **out)
{
	worker *w = calloc(1, sizeof(*w));
	int err;

	*out = NULL;
	if (!w)
		return ENOMEM;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->posted, NULL);
	w->last = &w->first;
	err = pthread_create(&w->thread, NULL, run_jobs, w);
	if (err) {
		free(w);
		return err;
	}
	*out = w;
	return 0;
}

void worker_post(worker *w, worker_job *job)
{
	pthread_mutex_lock(&w->lock);
	job->next = NULL;
	*w->last = job;
	w->last = &job->next;
	pthread_cond_signal(&w->posted);
	pthread_mutex_unlock(&w->lock);
}

void worker_stop(worker *w)
{
	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	w->stopping = true;
	pthread_cond_signal(&w->posted);
	pthread_mutex_unlock(&w->lock);
	pthread_join(w->thread, NULL);
	pthread_cond_destroy(&w->posted);
	pthread_mutex_destroy(&w->lock);
	free(w);
}
