/*
 * One thread for what the FUSE threads must not do themselves because it may
 * wait: reading the index from a slow medium, writing a line to a log. Jobs run
 * in the order in which they were posted.
 */
#ifndef MODELFS_WORKER_H
#define MODELFS_WORKER_H

/* A job embeds this as its first member; run() owns and frees the job. */
typedef struct worker_job worker_job;
struct worker_job {
	void (*run)(worker_job *job);
	worker_job *next;
};

typedef struct worker worker;

/* Starts the thread. 0, or an errno. */
int worker_start(worker **out);
/* Never blocks; any thread. */
void worker_post(worker *w, worker_job *job);
/* Runs what was posted, then ends the thread. NULL is fine. */
void worker_stop(worker *w);

#endif
