#include "ahead.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* What one thread reads at a time. */
struct slot {
	uint8_t *bytes, *base; /* rooms of span_max bytes */
	uint32_t size;
	int error, reason; /* of a read, and its errno */
	bool base_failed, ready;
};

struct mfs_ahead {
	struct slot *slots; /* a ring */
	unsigned slot_count;
	uint8_t *memory;
	pthread_t *threads;
	unsigned thread_count;

	pthread_mutex_t lock; /* guards the rest and the states of the slots */
	pthread_cond_t wanted, ready;
	mfs_ahead_run run;
	uint64_t started, taken; /* spans of the run */
	bool stop;
};

/* ---- threads ---- */

static int read_one(const mfs_plan_tensor *tensor, mfs_source *source, uint64_t index, uint8_t *out,
		    uint32_t *size)
{
	mfs_span span;

	mfs_tensor_span(&tensor->record, tensor->layout->block_bytes, index, &span);
	*size = span.bytes;
	return source->read_at(source, tensor->record.file_offset + span.offset, out, span.bytes);
}

static void read_slot(const mfs_ahead_run *run, uint64_t index, struct slot *slot)
{
	slot->base_failed = false;
	slot->error = read_one(run->tensor, run->source, index, slot->bytes, &slot->size);
	if (!slot->error && run->base) {
		slot->error = read_one(run->base, run->base_source, index, slot->base, &slot->size);
		slot->base_failed = slot->error;
	}
	slot->reason = errno;
}

/* A span that nobody reads yet and that there is room for. Lock held. */
static bool may_start(const mfs_ahead *a)
{
	return a->started < a->run.count && a->started - a->taken < a->slot_count;
}

static void *ahead_thread(void *arg)
{
	mfs_ahead *a = arg;

	pthread_mutex_lock(&a->lock);
	while (!a->stop) {
		mfs_ahead_run run = a->run;
		struct slot *slot;
		uint64_t number;

		if (!may_start(a)) {
			pthread_cond_wait(&a->wanted, &a->lock);
			continue;
		}
		number = a->started++;
		slot = &a->slots[number % a->slot_count];
		pthread_mutex_unlock(&a->lock);
		read_slot(&run, run.first + number, slot);
		pthread_mutex_lock(&a->lock);
		slot->ready = true;
		pthread_cond_signal(&a->ready);
	}
	pthread_mutex_unlock(&a->lock);
	return NULL;
}

/* ---- the owner's side ---- */

static int make_slots(mfs_ahead *a, size_t span_max)
{
	size_t room = (span_max + 63) / 64 * 64;

	a->slots = calloc(a->slot_count, sizeof(*a->slots));
	a->memory = malloc(room * 2 * a->slot_count);
	if (!a->slots || !a->memory)
		return MFS_E_MEMORY;
	for (unsigned i = 0; i < a->slot_count; i++) {
		a->slots[i].bytes = a->memory + room * 2 * i;
		a->slots[i].base = a->slots[i].bytes + room;
	}
	return 0;
}

int mfs_ahead_new(mfs_ahead **out, unsigned threads, size_t span_max)
{
	mfs_ahead *a = calloc(1, sizeof(*a));
	int error;

	if (!a)
		return MFS_E_MEMORY;
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->wanted, NULL);
	pthread_cond_init(&a->ready, NULL);
	/* One more, so that no thread waits while the owner copies. */
	a->slot_count = threads + 1;
	a->threads = calloc(threads, sizeof(*a->threads));
	error = a->threads ? make_slots(a, span_max) : MFS_E_MEMORY;
	while (!error && a->thread_count < threads &&
	       !pthread_create(&a->threads[a->thread_count], NULL, ahead_thread, a))
		a->thread_count++;
	if (error || !a->thread_count) {
		mfs_ahead_free(a);
		return MFS_E_MEMORY;
	}
	*out = a;
	return 0;
}

void mfs_ahead_free(mfs_ahead *a)
{
	if (!a)
		return;
	pthread_mutex_lock(&a->lock);
	a->stop = true;
	pthread_cond_broadcast(&a->wanted);
	pthread_mutex_unlock(&a->lock);
	for (unsigned i = 0; i < a->thread_count; i++)
		pthread_join(a->threads[i], NULL);
	pthread_cond_destroy(&a->wanted);
	pthread_cond_destroy(&a->ready);
	pthread_mutex_destroy(&a->lock);
	free(a->threads);
	free(a->slots);
	free(a->memory);
	free(a);
}

void mfs_ahead_start(mfs_ahead *a, const mfs_ahead_run *run)
{
	pthread_mutex_lock(&a->lock);
	a->run = *run;
	a->started = a->taken = 0;
	pthread_cond_broadcast(&a->wanted);
	pthread_mutex_unlock(&a->lock);
}

bool mfs_ahead_has(const mfs_ahead *a)
{
	return a->taken < a->run.count;
}

int mfs_ahead_take(mfs_ahead *a, uint8_t *bytes, uint8_t *base_bytes, bool *base_failed)
{
	struct slot *slot = &a->slots[a->taken % a->slot_count];
	int error;

	pthread_mutex_lock(&a->lock);
	while (!slot->ready)
		pthread_cond_wait(&a->ready, &a->lock);
	pthread_mutex_unlock(&a->lock);
	error = slot->error;
	*base_failed = slot->base_failed;
	if (!error) {
		memcpy(bytes, slot->bytes, slot->size);
		if (a->run.base)
			memcpy(base_bytes, slot->base, slot->size);
	}
	errno = slot->reason;
	pthread_mutex_lock(&a->lock);
	slot->ready = false;
	a->taken++;
	pthread_cond_signal(&a->wanted);
	pthread_mutex_unlock(&a->lock);
	return error;
}
