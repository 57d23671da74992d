/* The plainest engine: reap() reads what was submitted, one after the other. */
#include <pthread.h>
#include <stdlib.h>

#include "io_file.h"

/* `lock` guards the queue and `woken`. */
struct pread_engine {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	mfs_io_request **queue; /* a ring */
	size_t first, count, capacity;
	int woken;
};

static int grow(struct pread_engine *e)
{
	size_t capacity = e->capacity ? e->capacity * 2 : 64;
	mfs_io_request **queue = malloc(capacity * sizeof(*queue));

	if (!queue)
		return MFS_E_MEMORY;
	for (size_t i = 0; i < e->count; i++)
		queue[i] = e->queue[(e->first + i) % e->capacity];
	free(e->queue);
	e->queue = queue;
	e->first = 0;
	e->capacity = capacity;
	return 0;
}

static int pread_submit(mfs_io *io, mfs_io_request *const requests[], unsigned count)
{
	struct pread_engine *e = ((mfs_io_file *)io)->engine;
	int err = 0;

	pthread_mutex_lock(&e->lock);
	while (!err && e->count + count > e->capacity)
		err = grow(e);
	for (unsigned i = 0; !err && i < count; i++)
		e->queue[(e->first + e->count++) % e->capacity] = requests[i];
	pthread_cond_signal(&e->changed);
	pthread_mutex_unlock(&e->lock);
	return err;
}

static int pread_reap(mfs_io *io, mfs_io_request *done[], unsigned max)
{
	mfs_io_file *file = (mfs_io_file *)io;
	struct pread_engine *e = file->engine;
	mfs_io_request *request = NULL;

	(void)max;
	pthread_mutex_lock(&e->lock);
	while (!e->count && !e->woken)
		pthread_cond_wait(&e->changed, &e->lock);
	e->woken = 0;
	if (e->count) {
		request = e->queue[e->first];
		e->first = (e->first + 1) % e->capacity;
		e->count--;
	}
	pthread_mutex_unlock(&e->lock);
	if (!request)
		return 0;
	mfs_io_file_pread(file, request);
	done[0] = request;
	return 1;
}

static void pread_wake(mfs_io *io)
{
	struct pread_engine *e = ((mfs_io_file *)io)->engine;

	pthread_mutex_lock(&e->lock);
	e->woken = 1;
	pthread_cond_signal(&e->changed);
	pthread_mutex_unlock(&e->lock);
}

static void pread_close(mfs_io *io)
{
	mfs_io_file *file = (mfs_io_file *)io;
	struct pread_engine *e = file->engine;

	pthread_mutex_destroy(&e->lock);
	pthread_cond_destroy(&e->changed);
	free(e->queue);
	free(e);
	mfs_io_file_close(file);
}

static const mfs_io_table pread_table = {
    .name = "pread",
    .submit = pread_submit,
    .reap = pread_reap,
    .wake = pread_wake,
    .read_at = mfs_io_file_read_at,
    .size = mfs_io_file_size,
    .close = pread_close,
};

int mfs_io_pread_start(mfs_io_file *file)
{
	struct pread_engine *e = calloc(1, sizeof(*e));

	if (!e)
		return MFS_E_MEMORY;
	pthread_mutex_init(&e->lock, NULL);
	pthread_cond_init(&e->changed, NULL);
	file->engine = e;
	file->head.table = &pread_table;
	return 0;
}
