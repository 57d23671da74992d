/*
 * Measuring the medium with a few reads of the container itself, for the cases in
 * which sysfs is silent: a virtual disk, a network, a file system of somebody's.
 *
 * All reads go through the engine that serves later, and nothing here waits
 * past the deadline: what is still under way then ends whenever it ends, and
 * reading goes on as if there had been no probe. The large reads are where a
 * sequential reader begins; they stay in memory as if they had been prefetched.
 */
#include <errno.h>
#include <time.h>

#include "check.h"
#include "reader.h"

#define SMALL_BYTES 4096u
#define SMALL_READS 4 /* a try is one of them, then all at the same time */
#define LARGE_BYTES (512u << 10)
#define LARGE_READS 4 /* at the same time, after a single one of at most: */
#define FAST_NS	    5000000
/* Whatever else the machine does can only make a medium look slower than it is, and
 * never twice in the same way: the best of several tries counts, and when two come
 * near to it there are no more. */
#define TRIES	  2
#define TRIES_MAX 6
#define NEAR	  8 /* within an eighth of the best */
/* Too little to read to be worth a probe. */
#define CONTAINER_MIN (8u << 20)

struct probe {
	struct reader *r;
	struct timespec deadline;
	uint64_t patience; /* until when (reader_now()) tries that differ are repeated */
	unsigned small;	   /* reads begun, each at a place of its own */
};

static bool all_done(struct run *const runs[], unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (runs[i]->state == RUN_READING)
			return false;
	return true;
}

static uint32_t large_bytes(const struct reader *r)
{
	return (uint32_t)round_up(LARGE_BYTES, r->unit);
}

/* Submits what was begun and waits for it. Gives the runs back; returns the
 * nanoseconds until the last one ended, or 0 if one failed or takes too long. */
static uint64_t time_runs(struct probe *p, struct run *const runs[], unsigned count)
{
	struct reader *r = p->r;
	uint64_t start = reader_now(), end = 0;
	bool good;
	int err = 0;

	reader_unlock(r);
	pthread_mutex_lock(&r->lock);
	while (!(good = all_done(runs, count)) && err != ETIMEDOUT)
		err = pthread_cond_timedwait(&r->ended, &r->lock, &p->deadline);
	for (unsigned i = 0; i < count; i++) {
		good = good && runs[i]->state == RUN_DONE;
		if (good && runs[i]->ended > end)
			end = runs[i]->ended;
		run_release(r, runs[i]);
	}
	return !good ? 0 : end > start ? end - start : 1;
}

/* `count` small reads at the same time, spread over the container. */
static uint64_t time_small(struct probe *p, unsigned count)
{
	uint64_t step = p->r->c->sb.container_size / (TRIES_MAX * (1 + SMALL_READS) + 1);
	struct run *runs[SMALL_READS];
	unsigned begun = 0;

	while (begun < count) {
		uint64_t at = round_down(++p->small * step, SMALL_BYTES);

		runs[begun] = run_begin(p->r, at, SMALL_BYTES, false);
		if (!runs[begun])
			break;
		begun++;
	}
	if (!begun)
		return 0;
	return time_runs(p, runs, begun) * (begun == count);
}

/* `count` large reads at the same time, one behind the other from `offset`. */
static uint64_t time_large(struct probe *p, uint64_t offset, unsigned count)
{
	uint32_t length = large_bytes(p->r);
	struct run *runs[LARGE_READS];
	unsigned begun = 0;

	while (begun < count) {
		runs[begun] = run_begin(p->r, offset + (uint64_t)begun * length, length, true);
		if (!runs[begun])
			break;
		begun++;
	}
	if (!begun)
		return 0;
	return time_runs(p, runs, begun) * (begun == count);
}

/* Where the frames of the first tensor begin. */
static uint64_t first_frame(const struct reader *r)
{
	uint64_t least = UINT64_MAX;
	mfs_root_tensor t;

	if (!r->c->root.count[MFS_SEC_TENSORS])
		return UINT64_MAX;
	mfs_root_get_tensor(&r->c->root, 0, &t);
	for (unsigned s = 0; s < MFS_SLOTS; s++)
		if (mfs_tensor_has_slot(&t, &r->c->layouts[t.layout], s) && t.slot[s].base < least)
			least = t.slot[s].base;
	return round_down(least, r->unit);
}

/* The best of several tries. */
struct best {
	uint64_t least; /* nanoseconds; 0: none */
	unsigned tries, near;
};

/* Notes what a try took. True: there should be another one. */
static bool another_try(const struct probe *p, struct best *best, uint64_t took)
{
	bool better = !best->least || took < best->least;
	uint64_t least = better ? took : best->least;
	uint64_t other = better ? best->least : took;

	if (!took) /* failed, or the time is over: what is known has to do */
		return false;
	if (other && other - least <= least / NEAR)
		best->near++;
	best->least = least;
	best->tries++;
	if (best->tries < TRIES)
		return true;
	return !best->near && best->tries < TRIES_MAX && reader_now() < p->patience;
}

/* Sets latency and channels. False: not known. */
static bool measure_small(struct probe *p, mfs_medium *out)
{
	struct best alone = {0}, together = {0};

	while (another_try(p, &alone, time_small(p, 1)))
		;
	while (alone.least && another_try(p, &together, time_small(p, SMALL_READS)))
		;
	if (!together.least)
		return false;
	out->latency_us = (uint32_t)(alone.least / 1000 + 1);
	out->channels =
	    (uint32_t)((SMALL_READS * alone.least + together.least / 2) / together.least);
	if (out->channels < 1)
		out->channels = 1;
	if (out->channels > SMALL_READS)
		out->channels = SMALL_READS;
	return true;
}

static uint64_t rate(uint64_t bytes, uint64_t nanoseconds)
{
	return nanoseconds ? bytes * UINT64_C(1000000000) / nanoseconds : 0;
}

/* Reads `count` times LARGE_BYTES from *at on, and moves it behind them; keeps the
 * best rate. Returns the nanoseconds it took, or 0. */
static uint64_t try_large(struct probe *p, uint64_t *at, unsigned count, mfs_medium *out)
{
	uint64_t bytes = (uint64_t)count * large_bytes(p->r), took, found;

	if (!range_ok(*at, bytes, p->r->c->sb.container_size))
		return 0;
	took = time_large(p, *at, count);
	found = rate(bytes, took);
	*at += bytes;
	if (found > out->bytes_per_second)
		out->bytes_per_second = found;
	return took;
}

/* Sets the rate. False: not known. */
static bool measure_large(struct probe *p, mfs_medium *out)
{
	struct best alone = {0}, together = {0};
	uint64_t at = first_frame(p->r);
	bool again = true;

	while (again && !(alone.least && alone.least <= FAST_NS))
		again = another_try(p, &alone, try_large(p, &at, 1, out));
	/* A slow medium has no time for more; a fast one shows what it can do only
	 * when it has enough to do. */
	again = alone.least && alone.least <= FAST_NS;
	while (again)
		again = another_try(p, &together, try_large(p, &at, LARGE_READS, out));
	return out->bytes_per_second != 0;
}

static void apply(struct reader *r, const mfs_medium *measured)
{
	mfs_container *c = r->c;
	medium_queue queue;

	c->medium.latency_us = measured->latency_us;
	c->medium.channels = measured->channels;
	c->medium.bytes_per_second = measured->bytes_per_second;
	if (!medium_queue_of_probe(&queue, measured))
		return;
	c->medium.source = "probe";
	reader_queue_as(r, &queue);
}

void reader_probe(struct reader *r, unsigned most_ms)
{
	struct probe p = {.r = r};
	mfs_medium measured = {0};

	if (r->c->sb.container_size < CONTAINER_MIN)
		return;
	p.patience = reader_now() + (uint64_t)most_ms * 1000000 / 2;
	clock_gettime(CLOCK_MONOTONIC, &p.deadline);
	p.deadline.tv_sec += most_ms / 1000;
	p.deadline.tv_nsec += most_ms % 1000 * 1000000L;
	p.deadline.tv_sec += p.deadline.tv_nsec / 1000000000;
	p.deadline.tv_nsec %= 1000000000;
	pthread_mutex_lock(&r->lock);
	if (!r->probed && !r->active_reads) {
		r->probed = r->probing = true;
		if (measure_small(&p, &measured) && measure_large(&p, &measured))
			apply(r, &measured);
		r->probing = false;
	}
	reader_unlock(r);
}
