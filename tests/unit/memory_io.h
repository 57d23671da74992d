/*
 * An I/O engine over memory, for tests: it records every request in the order
 * of submission, can hold requests back, and can fail or shorten the n-th.
 * Lock: `lock` guards all of it.
 */
#ifndef MEMORY_IO_H
#define MEMORY_IO_H

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io.h"

/* Requests recorded, and most in flight. */
#ifndef MEMORY_IO_RECORDS
#define MEMORY_IO_RECORDS 65536
#endif

typedef struct {
	mfs_io head;
	const uint8_t *bytes;
	uint64_t size;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	mfs_io_request *waiting[MEMORY_IO_RECORDS];
	unsigned first, last; /* of waiting */
	bool hold;	      /* nothing completes */
	int woken;

	struct {
		uint64_t offset;
		uint32_t length;
		unsigned in_flight; /* this one included */
	} record[MEMORY_IO_RECORDS];
	unsigned records;
	unsigned in_flight, most_in_flight;

	unsigned fail_at,
	    fail_count;		   /* requests fail_at .. + fail_count - 1 (from 1) end with EIO */
	unsigned short_at;	   /* this one ends after half its bytes */
	uint64_t bad_from, bad_to; /* requests that touch these bytes end with EIO */
	int start_error;	   /* what starting ends with */
	unsigned starts;	   /* how often that was tried */
} memory_io;

static inline int memory_start(mfs_io *io, void *arena, size_t arena_bytes, uint32_t depth)
{
	memory_io *m = (memory_io *)io;

	(void)arena;
	(void)arena_bytes;
	(void)depth;
	m->starts++;
	return m->start_error;
}

static inline int memory_submit(mfs_io *io, mfs_io_request *const requests[], unsigned count)
{
	memory_io *m = (memory_io *)io;

	pthread_mutex_lock(&m->lock);
	for (unsigned i = 0; i < count; i++) {
		m->in_flight++;
		if (m->in_flight > m->most_in_flight)
			m->most_in_flight = m->in_flight;
		if (m->records < MEMORY_IO_RECORDS) {
			m->record[m->records].offset = requests[i]->offset;
			m->record[m->records].length = requests[i]->length;
			m->record[m->records++].in_flight = m->in_flight;
		}
		m->waiting[m->last++ % MEMORY_IO_RECORDS] = requests[i];
	}
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
	return 0;
}

static inline int64_t memory_read_at(mfs_io *io, uint64_t offset, void *buffer, size_t length)
{
	memory_io *m = (memory_io *)io;

	if (offset >= m->size)
		return 0;
	if (length > m->size - offset)
		length = m->size - offset;
	memcpy(buffer, m->bytes + offset, length);
	return (int64_t)length;
}

static inline void memory_serve(memory_io *m, mfs_io_request *r, unsigned number)
{
	if ((number >= m->fail_at && number < m->fail_at + m->fail_count) ||
	    (r->offset < m->bad_to && r->offset + r->length > m->bad_from))
		r->result = -EIO;
	else
		r->result = memory_read_at(&m->head, r->offset, r->buffer,
					   number == m->short_at ? r->length / 2 : r->length);
}

static inline int memory_reap(mfs_io *io, mfs_io_request *done[], unsigned max)
{
	memory_io *m = (memory_io *)io;
	unsigned n = 0;

	pthread_mutex_lock(&m->lock);
	while ((m->first == m->last || m->hold) && !m->woken)
		pthread_cond_wait(&m->changed, &m->lock);
	m->woken = 0;
	while (n < max && m->first != m->last && !m->hold) {
		mfs_io_request *r = m->waiting[m->first++ % MEMORY_IO_RECORDS];

		memory_serve(m, r, m->first);
		m->in_flight--;
		done[n++] = r;
	}
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
	return (int)n;
}

static inline void memory_wake(mfs_io *io)
{
	memory_io *m = (memory_io *)io;

	pthread_mutex_lock(&m->lock);
	m->woken = 1;
	m->hold = false;
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
}

static inline void memory_hold(memory_io *m, bool hold)
{
	pthread_mutex_lock(&m->lock);
	m->hold = hold;
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
}

static inline uint64_t memory_size(mfs_io *io)
{
	return ((memory_io *)io)->size;
}

static inline void memory_close(mfs_io *io)
{
	free(io);
}

static inline memory_io *memory_io_new(const uint8_t *bytes, uint64_t size)
{
	static const mfs_io_table table = {
	    .name = "memory",
	    .start = memory_start,
	    .submit = memory_submit,
	    .reap = memory_reap,
	    .wake = memory_wake,
	    .read_at = memory_read_at,
	    .size = memory_size,
	    .close = memory_close,
	};
	memory_io *m = calloc(1, sizeof(*m));

	if (!m)
		abort();
	m->head.table = &table;
	m->head.alignment = 512;
	m->bytes = bytes;
	m->size = size;
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->changed, NULL);
	return m;
}

#endif
