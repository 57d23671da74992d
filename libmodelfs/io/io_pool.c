/* A pool of threads that each call pread(2): where io_uring is refused. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "io_file.h"

#define THREADS_MAX 16

/* A list of requests that were submitted, or have ended. */
struct node {
	struct node *next;
	mfs_io_request *request;
};

struct list {
	struct node *head, **tail;
};

/* `lock` guards both lists, `woken` and `stopping`. */
struct pool {
	mfs_io_file *file;
	pthread_mutex_t lock;
	pthread_cond_t submitted;
	pthread_cond_t ended;
	struct list todo, done;
	int woken, stopping;
	unsigned thread_count;
	pthread_t threads[THREADS_MAX];
};

static void list_push(struct list *list, struct node *node)
{
	node->next = NULL;
	*list->tail = node;
	list->tail = &node->next;
}

static struct node *list_pop(struct list *list)
{
	struct node *node = list->head;

	if (node && !(list->head = node->next))
		list->tail = &list->head;
	return node;
}

static void *pool_thread(void *argument)
{
	struct pool *pool = argument;
	struct node *node;

	pthread_mutex_lock(&pool->lock);
	while (!pool->stopping) {
		node = list_pop(&pool->todo);
		if (!node) {
			pthread_cond_wait(&pool->submitted, &pool->lock);
			continue;
		}
		pthread_mutex_unlock(&pool->lock);
		mfs_io_file_pread(pool->file, node->request);
		pthread_mutex_lock(&pool->lock);
		list_push(&pool->done, node);
		pthread_cond_signal(&pool->ended);
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

static int pool_submit(mfs_io *io, mfs_io_request *const requests[], unsigned count)
{
	struct pool *pool = ((mfs_io_file *)io)->engine;
	struct list batch = {NULL, &batch.head};
	struct node *node;

	/* All or none: the caller takes a failure for the whole batch. */
	for (unsigned i = 0; i < count; i++) {
		node = malloc(sizeof(*node));
		if (!node) {
			while ((node = list_pop(&batch)))
				free(node);
			return MFS_E_MEMORY;
		}
		node->request = requests[i];
		list_push(&batch, node);
	}
	pthread_mutex_lock(&pool->lock);
	while ((node = list_pop(&batch)))
		list_push(&pool->todo, node);
	pthread_cond_broadcast(&pool->submitted);
	pthread_mutex_unlock(&pool->lock);
	return 0;
}

static int pool_reap(mfs_io *io, mfs_io_request *done[], unsigned max)
{
	struct pool *pool = ((mfs_io_file *)io)->engine;
	unsigned count = 0;
	struct node *node;

	pthread_mutex_lock(&pool->lock);
	while (!pool->done.head && !pool->woken)
		pthread_cond_wait(&pool->ended, &pool->lock);
	pool->woken = 0;
	while (count < max && (node = list_pop(&pool->done))) {
		done[count++] = node->request;
		free(node);
	}
	pthread_mutex_unlock(&pool->lock);
	return (int)count;
}

static void pool_wake(mfs_io *io)
{
	struct pool *pool = ((mfs_io_file *)io)->engine;

	pthread_mutex_lock(&pool->lock);
	pool->woken = 1;
	pthread_cond_signal(&pool->ended);
	pthread_mutex_unlock(&pool->lock);
}

static void pool_free(struct pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	pool->stopping = 1;
	pthread_cond_broadcast(&pool->submitted);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned i = 0; i < pool->thread_count; i++)
		pthread_join(pool->threads[i], NULL);
	pthread_mutex_destroy(&pool->lock);
	pthread_cond_destroy(&pool->submitted);
	pthread_cond_destroy(&pool->ended);
	free(pool);
}

static void pool_close(mfs_io *io)
{
	mfs_io_file *file = (mfs_io_file *)io;

	pool_free(file->engine);
	mfs_io_file_close(file);
}

static const mfs_io_table pool_table = {
    .name = "pool",
    .submit = pool_submit,
    .reap = pool_reap,
    .wake = pool_wake,
    .read_at = mfs_io_file_read_at,
    .size = mfs_io_file_size,
    .close = pool_close,
};

int mfs_io_pool_start(mfs_io_file *file, uint32_t depth)
{
	/* One more than the prefetch depth: a demanded read finds a thread. */
	unsigned threads = depth + 1 > THREADS_MAX ? THREADS_MAX : depth + 1;
	struct pool *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return MFS_E_MEMORY;
	pool->file = file;
	pool->todo.tail = &pool->todo.head;
	pool->done.tail = &pool->done.head;
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->submitted, NULL);
	pthread_cond_init(&pool->ended, NULL);
	for (; pool->thread_count < threads; pool->thread_count++) {
		errno = pthread_create(&pool->threads[pool->thread_count], NULL, pool_thread, pool);
		if (errno)
			break;
	}
	if (!pool->thread_count) {
		pool_free(pool);
		return MFS_E_SYSTEM;
	}
	file->engine = pool;
	file->head.table = &pool_table;
	return 0;
}
