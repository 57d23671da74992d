/* Waiting for a reader over a memory_io.h engine to have nothing left to do. */
#ifndef QUIET_H
#define QUIET_H

#include <time.h>

#include "container.h"
#include "memory_io.h"
#include "reader.h"

/* True if no request is in flight, nothing is being decoded and nothing waits to be handed
 * out or kept: what the reader itself counts, however late its threads are given a
 * processor. */
static inline bool reader_is_idle(mfs_container *c)
{
	struct reader *r = c->reader;
	bool idle;

	if (!r)
		return true;
	pthread_mutex_lock(&r->lock);
	idle = !r->in_flight && !r->work_jobs && !r->caching && TAILQ_EMPTY(&r->finished) &&
	       TAILQ_EMPTY(&r->to_cache);
	pthread_mutex_unlock(&r->lock);
	return idle;
}

/* Until the reader was idle, and asked for nothing, for some milliseconds. */
static inline void wait_until_quiet(mfs_container *c, memory_io *io)
{
	unsigned quiet = 0, records = 0;

	while (quiet < 5) {
		struct timespec ms = {0, 1000000};
		bool idle;

		nanosleep(&ms, NULL);
		idle = reader_is_idle(c);
		pthread_mutex_lock(&io->lock);
		quiet = !idle || io->in_flight || io->records != records ? 0 : quiet + 1;
		records = io->records;
		pthread_mutex_unlock(&io->lock);
	}
}

#endif
