/* Runs: stored bytes in memory, found by their place in the container. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "reader.h"

/* Index of the first run that ends behind `offset`. */
static size_t run_search(const struct reader *r, uint64_t offset)
{
	size_t low = 0, high = r->run_count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (r->runs[middle]->offset + r->runs[middle]->length > offset)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

static void index_remove(struct reader *r, struct run *run)
{
	size_t i = run_search(r, run->offset);

	memmove(&r->runs[i], &r->runs[i + 1], (r->run_count - i - 1) * sizeof(*r->runs));
	r->run_count--;
	run->indexed = false;
}

static void index_insert(struct reader *r, struct run *run)
{
	size_t i = run_search(r, run->offset);

	memmove(&r->runs[i + 1], &r->runs[i], (r->run_count - i) * sizeof(*r->runs));
	r->runs[i] = run;
	r->run_count++;
	run->indexed = true;
}

static void run_free(struct reader *r, struct run *run)
{
	if (run->indexed)
		index_remove(r, run);
	if (run->cached)
		mfs_cache_give(&r->cache, &run->piece, run->state == RUN_FAILED);
	else if (run->data)
		mfs_arena_give(&r->run_arena, run->data, run->length);
	if (run->prefetched && !run->consumed && run->state == RUN_DONE)
		r->stats.prefetch_wasted_bytes += run->length;
	free(run);
}

/* True if next to nothing of the run is still to be used. The edge pages hold
 * neighbours' bytes, so `consumed` seldom reaches the length. */
static bool run_used_up(const struct reader *r, const struct run *run)
{
	return run->consumed + 2 * (uint64_t)r->unit >= run->length;
}

void run_release(struct reader *r, struct run *run)
{
	if (--run->users || run->state == RUN_READING || caching_wants(r, run))
		return;
	if (run->state == RUN_FAILED || !run->indexed)
		run_free(r, run);
	else if (run_used_up(r, run))
		TAILQ_INSERT_HEAD(&r->idle_runs, run, lru);
	else
		TAILQ_INSERT_TAIL(&r->idle_runs, run, lru);
}

void run_hold(struct reader *r, struct run *run)
{
	if (!run->users++ && run->state != RUN_READING)
		TAILQ_REMOVE(&r->idle_runs, run, lru);
}

static uint8_t *run_memory(struct reader *r, size_t bytes)
{
	uint8_t *data = mfs_arena_take(&r->run_arena, bytes);
	struct run *victim;

	while (!data) {
		victim = TAILQ_FIRST(&r->idle_runs);
		if (!victim) {
			/* What is left may be held by plain spans that nobody holds. */
			if (!span_evict_backed(r))
				return NULL;
			continue;
		}
		TAILQ_REMOVE(&r->idle_runs, victim, lru);
		run_free(r, victim);
		data = mfs_arena_take(&r->run_arena, bytes);
	}
	return data;
}

static bool grow(struct run ***array, size_t *capacity, size_t count)
{
	size_t more = *capacity ? *capacity : 64;
	struct run **grown;

	while (more < count)
		more *= 2;
	if (more == *capacity)
		return true;
	grown = realloc(*array, more * sizeof(*grown));
	if (!grown)
		return false;
	*array = grown;
	*capacity = more;
	return true;
}

static bool job_append(struct reader *r, struct job *job, struct run *run)
{
	struct run **runs = realloc(job->runs, (job->run_count + 1) * sizeof(*runs));

	if (!runs) {
		r->no_heap = true;
		return false;
	}
	job->runs = runs;
	runs[job->run_count++] = run;
	return true;
}

/* Takes back what take_range() and fill() did. */
static void undo(struct reader *r, struct job *job)
{
	for (unsigned i = 0; i < job->run_count; i++) {
		if (job->runs[i]->indexed)
			run_release(r, job->runs[i]);
		else
			run_free(r, job->runs[i]);
	}
	free(job->runs);
	job->runs = NULL;
	job->run_count = 0;
}

/* Who goes on where the frame ends wants the rest of its edge pages as well; who
 * does not would wait for their way over the bus. What is kept is kept in pages. */
static uint32_t unit_of(const struct reader *r, const struct job *job)
{
	return job->wide || r->cache.memory ? r->unit : r->grain;
}

/* Where the longest request from `from` on ends: on a page again if it begins in one. */
static uint64_t longest_end(const struct reader *r, uint64_t from)
{
	return round_down(from + r->request, r->unit);
}

/* How far a request for [from, to) may reach: in a stream it fetches the rest of
 * the chunk as well, up to `limit`, where other bytes begin. */
static uint64_t request_end(struct reader *r, const struct job *job, uint64_t from, uint64_t to,
			    uint64_t limit)
{
	uint64_t end = to, chunk_end;

	if (job->wide && !job->retried && chunk_end_after(r, from, &chunk_end)) {
		chunk_end = round_up(chunk_end, r->unit);
		end = chunk_end > to ? chunk_end : to;
		if (end > limit)
			end = limit > to ? limit : to;
	}
	return end < longest_end(r, from) ? end : longest_end(r, from);
}

static struct run *run_new(struct reader *r)
{
	struct run *run = calloc(1, sizeof(*run));

	if (!run)
		r->no_heap = true;
	return run;
}

/* Appends cached bytes from `from` on, at most to `to`, and moves `from` behind them. */
static bool take_cached(struct reader *r, struct job *job, uint64_t *from, uint64_t to)
{
	struct run *run = run_new(r);

	if (!run || !mfs_cache_take(&r->cache, *from, to, &run->piece) ||
	    !job_append(r, job, run)) {
		if (run && run->piece.count)
			mfs_cache_give(&r->cache, &run->piece, false);
		free(run);
		return false;
	}
	run->cached = true;
	run->state = RUN_DONE;
	run->offset = *from;
	run->length = (uint32_t)run->piece.length;
	run->data = (uint8_t *)run->piece.bytes;
	run->users = 1;
	*from += run->length;
	return true;
}

/* Appends what holds [from, to) to the job: runs that are there, what the cache
 * has, and new runs (without memory yet) for the gaps. */
static bool take_range(struct reader *r, struct job *job, uint64_t from, uint64_t to,
		       uint64_t limit)
{
	size_t i = run_search(r, from);

	while (from < to) {
		struct run *run = i < r->run_count ? r->runs[i] : NULL;
		uint64_t gap_end = run && run->offset < limit ? run->offset : limit;

		/* First the cache, even if a run has the bytes as well: what it holds must
		 * be seen to be used. A job that failed looks at the medium itself. */
		if (!job->retried && mfs_cache_next(&r->cache, from, from + 1) == from) {
			if (!take_cached(r, job, &from, to))
				return false;
			i = run_search(r, from);
			continue;
		}
		if (run && run->offset <= from) {
			if (!job_append(r, job, run))
				return false;
			run_hold(r, run);
			from = run->offset + run->length;
			i++;
			continue;
		}
		if (gap_end > longest_end(r, from))
			gap_end = longest_end(r, from);
		if (!job->retried)
			gap_end = mfs_cache_next(&r->cache, from, gap_end);
		run = run_new(r);
		if (!run || !job_append(r, job, run)) {
			free(run);
			return false;
		}
		run->offset = from;
		run->length =
		    (uint32_t)(request_end(r, job, from, gap_end < to ? gap_end : to, gap_end) -
			       from);
		run->users = 1;
		run->prefetched = job->ahead;
		from += run->length;
	}
	return true;
}

/* Pages of the container, and how far a request for them may reach. */
struct pages {
	uint64_t from, to, reach;
};

/* The ranges widened to whole pages, in the order of the medium; those that
 * touch are one. Returns their number. */
static unsigned job_pages(const struct reader *r, const struct job *job,
			  struct pages out[JOB_RANGES])
{
	unsigned n = 0, kept = 0;
	uint32_t unit = unit_of(r, job);

	for (unsigned k = 0; k < JOB_RANGES; k++) {
		const struct range *range = &job->range[k];
		struct pages p = {round_down(range->offset, unit),
				  round_up(range->offset + range->length, unit), 0};
		unsigned i = n;

		if (!range->length)
			continue;
		for (; i && out[i - 1].from > p.from; i--)
			out[i] = out[i - 1];
		p.reach = job->reach[k] ? round_up(job->reach[k], r->unit) : UINT64_MAX;
		out[i] = p;
		n++;
	}
	for (unsigned i = 0; i < n; i++) {
		if (kept && out[i].from < out[kept - 1].to) {
			if (out[i].to > out[kept - 1].to)
				out[kept - 1].to = out[i].to;
			if (out[i].reach > out[kept - 1].reach)
				out[kept - 1].reach = out[i].reach;
		} else {
			out[kept++] = out[i];
		}
	}
	return kept;
}

static bool take_ranges(struct reader *r, struct job *job)
{
	struct pages pages[JOB_RANGES];
	unsigned n = job_pages(r, job, pages);

	for (unsigned i = 0; i < n; i++) {
		uint64_t limit = i + 1 < n ? pages[i + 1].from : UINT64_MAX;

		if (limit > pages[i].reach)
			limit = pages[i].reach > pages[i].to ? pages[i].reach : pages[i].to;
		if (!take_range(r, job, pages[i].from, pages[i].to, limit))
			return false;
	}
	return true;
}

/* To be handed to the engine when the lock is dropped; there is room in `submit`. */
static void begin_reading(struct reader *r, struct run *run)
{
	run->request = (mfs_io_request){
	    .offset = run->offset, .length = run->length, .buffer = run->data, .user = run};
	r->submit[r->submit_count++] = run;
	if (!r->in_flight++)
		r->busy_since = reader_now();
	r->in_flight_bytes += run->length;
	r->stats.medium_reads++;
	if (run->prefetched)
		r->stats.prefetch_bytes += run->length;
}

struct run *run_begin(struct reader *r, uint64_t offset, uint32_t length, bool keep)
{
	size_t i = run_search(r, offset);
	struct run *run;

	if ((i < r->run_count && r->runs[i]->offset < offset + length) ||
	    !grow(&r->runs, &r->run_capacity, r->run_count + 1) ||
	    !grow(&r->submit, &r->submit_capacity, r->submit_count + 1) ||
	    !(run = calloc(1, sizeof(*run))))
		return NULL;
	run->offset = offset;
	run->length = length;
	run->users = 1;
	run->prefetched = keep;
	run->data = run_memory(r, length);
	if (!run->data) {
		run_free(r, run);
		return NULL;
	}
	if (keep)
		index_insert(r, run);
	begin_reading(r, run);
	return run;
}

/* Gives the job's new runs memory and hands them to the engine; all or none. */
static bool fill(struct reader *r, struct job *job)
{
	if (!grow(&r->runs, &r->run_capacity, r->run_count + job->run_count) ||
	    !grow(&r->submit, &r->submit_capacity, r->submit_count + job->run_count)) {
		r->no_heap = true;
		return false;
	}
	for (unsigned i = 0; i < job->run_count; i++) {
		struct run *run = job->runs[i];

		if (!run->data && !(run->data = run_memory(r, run->length)))
			return false;
	}
	for (unsigned i = 0; i < job->run_count; i++) {
		struct run *run = job->runs[i];

		if (run->indexed || run->state != RUN_READING)
			continue;
		index_insert(r, run);
		begin_reading(r, run);
	}
	return true;
}

/* True if the job now holds all runs that it needs; false: not now. */
bool job_take_runs(struct reader *r, struct job *job)
{
	if (take_ranges(r, job) && fill(r, job))
		return true;
	undo(r, job);
	return false;
}

bool job_covered(const struct reader *r, const struct job *job)
{
	for (unsigned k = 0; k < JOB_RANGES; k++) {
		uint64_t at = job->range[k].offset, end = at + job->range[k].length;
		size_t i = run_search(r, at);

		while (at < end) {
			if (i < r->run_count && r->runs[i]->offset <= at) {
				at = r->runs[i]->offset + r->runs[i]->length;
				i++;
			} else if (mfs_cache_next(&r->cache, at, end) == at) {
				at = mfs_cache_end(&r->cache, at, end);
				i = run_search(r, at);
			} else {
				return false;
			}
		}
	}
	return true;
}

/* The job is done with what its range has in this run. */
static void consume(struct reader *r, struct job *job, struct run *run, unsigned which)
{
	const struct range *range = &job->range[which];
	uint64_t from = run->offset > range->offset ? run->offset : range->offset;
	uint64_t run_end = run->offset + run->length;
	uint64_t range_end = range->offset + range->length;
	uint64_t to = run_end < range_end ? run_end : range_end;

	if (from >= to)
		return;
	run->consumed += (uint32_t)(to - from);
	caching_note_use(r, run, job, which, from, to);
}

/* `failed`: their bytes were not good; nobody else shall use them. */
void job_drop_runs(struct reader *r, struct job *job, bool failed)
{
	for (unsigned i = 0; i < job->run_count; i++) {
		struct run *run = job->runs[i];

		if (failed && run->indexed && run->state == RUN_DONE)
			index_remove(r, run);
		if (failed && run->cached)
			run->state = RUN_FAILED;
		for (unsigned k = 0; k < JOB_RANGES && !failed; k++)
			consume(r, job, run, k);
		run_release(r, run);
	}
	free(job->runs);
	job->runs = NULL;
	job->run_count = 0;
}

void job_give_back_runs(struct reader *r, struct job *job)
{
	for (unsigned i = 0; i < job->run_count; i++)
		run_release(r, job->runs[i]);
	free(job->runs);
	job->runs = NULL;
	job->run_count = 0;
}

bool job_runs_done(const struct job *job, int *error)
{
	*error = 0;
	for (unsigned i = 0; i < job->run_count; i++) {
		const struct run *run = job->runs[i];

		/* Short: the container became shorter than it was when it was opened. */
		if (run->state == RUN_FAILED)
			*error = run->request.result < 0 ? MFS_E_IO : MFS_E_TRUNCATED;
		else if (run->state == RUN_READING)
			return *error != 0;
	}
	return true;
}

/* Where [at, end) of the container begins in memory, if the job's runs have it in
 * one piece there: runs that follow each other often do. */
static const uint8_t *in_one_piece(const struct job *job, uint64_t at, uint64_t end)
{
	const uint8_t *first = NULL, *next = NULL;

	for (unsigned i = 0; i < job->run_count && at < end; i++) {
		const struct run *run = job->runs[i];
		uint64_t run_end = run->offset + run->length;

		if (at < run->offset || at >= run_end)
			continue;
		if (!first)
			first = run->data + (at - run->offset);
		else if (run->data != next)
			return NULL;
		next = run->data + run->length;
		at = run_end;
	}
	return at < end ? NULL : first;
}

const uint8_t *job_bytes(const struct job *job, unsigned which, uint8_t *scratch)
{
	const struct range *range = &job->range[which];
	uint64_t at = range->offset, end = range->offset + range->length;
	const uint8_t *found = in_one_piece(job, at, end);

	if (found)
		return found;
	for (unsigned i = 0; i < job->run_count && at < end; i++) {
		struct run *run = job->runs[i];
		uint64_t run_end = run->offset + run->length;

		if (at < run->offset || at >= run_end)
			continue;
		run_end = run_end < end ? run_end : end;
		memcpy(scratch + (at - range->offset), run->data + (at - run->offset),
		       run_end - at);
		at = run_end;
	}
	return scratch;
}

/* The engine has ended a request. */
void run_ended(struct reader *r, struct run *run)
{
	uint64_t file_bytes = r->io->table->size(r->io);
	uint64_t left = run->offset < file_bytes ? file_bytes - run->offset : 0;
	int64_t expected = (int64_t)(left < run->length ? left : run->length);

	r->in_flight_bytes -= run->length;
	if (!--r->in_flight)
		r->busy += reader_now() - r->busy_since;
	if (r->probing) {
		run->ended = reader_now();
		pthread_cond_broadcast(&r->ended);
	}
	if (run->request.result >= expected) {
		run->state = RUN_DONE;
		r->stats.medium_bytes += (uint64_t)expected;
	} else {
		/* A device does not become shorter: one that ends early is gone. */
		if (run->request.result >= 0 && r->io->device)
			run->request.result = -EIO;
		run->state = RUN_FAILED;
		r->stats.errors_io++;
		if (run->indexed)
			index_remove(r, run);
	}
	if (!run->users) {
		run->users = 1;
		run_release(r, run);
	}
}

void runs_free(struct reader *r)
{
	struct run *run;

	while ((run = TAILQ_FIRST(&r->to_cache))) {
		TAILQ_REMOVE(&r->to_cache, run, lru);
		run_free(r, run);
	}
	while ((run = TAILQ_FIRST(&r->idle_runs))) {
		TAILQ_REMOVE(&r->idle_runs, run, lru);
		run_free(r, run);
	}
	free(r->runs);
	free(r->submit);
}
