/*
 * Reading back frames without decoding them: of a container that was packed just now,
 * whose spans were decoded again as they were coded, what is left to see is whether
 * every frame lies where the index says, with the bytes that its hash was made of.
 *
 * Several threads take batches of frames that lie behind one another. `lock` guards
 * what they share: the place of the next batch and the check.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "verify.h"

/* Bytes that are read at once: little enough to be in a cache when they are hashed. A
 * frame may be larger. */
#define WINDOW_BYTES (1u << 20)
#define BATCH_FRAMES 4096u

#define ALIGNMENT 4096u /* reads at multiples of it take no detour */

/* The frames of one tensor in one slot. */
struct frames {
	mfs_root_tensor tensor;
	const mfs_layout *layout;
	unsigned slot;
	uint64_t count;
};

struct readback {
	struct check *check;
	struct frames *frames;
	uint32_t count;
	pthread_mutex_t lock;
	uint32_t at; /* the next batch begins in frames[at] */
	uint64_t next;
	int error;
};

/* Frames first .. first + count - 1, which lie within [begin, end). */
struct batch {
	const struct frames *frames;
	uint64_t first, count;
	uint64_t begin, end;
};

/* ---- batches ---- */

/* False after a problem: the index cannot be read, or its entry is not valid. */
static bool find_frame(const struct readback *b, const struct frames *f, uint64_t i,
		       mfs_frame_place *place, mfs_span *span)
{
	const mfs_root_tensor *t = &f->tensor;
	uint64_t number = t->slot[f->slot].first + i;
	const uint8_t *segment = b->check->segments[number / MFS_SEGMENT_FRAME_COUNT];

	mfs_tensor_span(t, f->layout->block_bytes, i, span);
	return segment &&
	       !mfs_frame_place_decode(
		   place,
		   segment + number % MFS_SEGMENT_FRAME_COUNT * sizeof(struct mfs_disk_frame),
		   t->slot[f->slot].base, mfs_slot_bytes(t, f->layout, f->slot, span->blocks),
		   b->check->c->sb.container_size);
}

/* Whether the batch can take a frame that lies there. Frames of no bytes lie nowhere. */
static bool extend(struct batch *batch, const mfs_frame_place *place)
{
	if (!place->size)
		return true;
	if (batch->begin == batch->end)
		batch->begin = batch->end = place->offset;
	else if (place->offset < batch->end ||
		 place->offset + place->size - batch->begin > WINDOW_BYTES)
		return false;
	batch->end = place->offset + place->size;
	return true;
}

/* With the lock. Takes frames until one does not fit; an entry that is not valid is
 * reported and passed over. */
static void fill_batch(struct readback *b, struct batch *batch)
{
	const struct frames *f = &b->frames[b->at];
	mfs_frame_place place;
	mfs_span span;

	*batch = (struct batch){.frames = f, .first = b->next};
	for (; b->next < f->count && batch->count < BATCH_FRAMES; b->next++, batch->count++) {
		if (find_frame(b, f, b->next, &place, &span)) {
			if (!extend(batch, &place))
				return;
		} else {
			check_found(b->check, MFS_E_CORRUPT, UINT64_MAX,
				    "the frame table entry of span %" PRIu64 " is not valid",
				    b->next++);
			return;
		}
	}
	if (b->next == f->count) {
		b->at++;
		b->next = 0;
	}
}

static bool take_batch(struct readback *b, struct batch *batch)
{
	bool taken;

	pthread_mutex_lock(&b->lock);
	taken = !b->check->stopped && !b->error && b->at < b->count;
	if (taken)
		fill_batch(b, batch);
	pthread_mutex_unlock(&b->lock);
	return taken;
}

/* ---- one batch ---- */

/* Returns the number of the first frame that is damaged, or the number behind the last. */
static uint64_t hash_batch(const struct readback *b, const struct batch *batch,
			   const uint8_t *bytes, uint64_t *original)
{
	const struct frames *f = batch->frames;
	mfs_frame_place place;
	mfs_span span;

	*original = 0;
	for (uint64_t i = batch->first; i < batch->first + batch->count; i++) {
		const uint8_t *stored = bytes;

		find_frame(b, f, i, &place, &span);
		if (place.size)
			stored += place.offset - batch->begin;
		if (mfs_frame_hash(stored, place.size, f->tensor.slot[f->slot].first + i) !=
		    place.hash)
			return i;
		*original += f->slot == 0 ? span.bytes : 0;
	}
	return batch->first + batch->count;
}

static bool read_batch(const struct readback *b, const struct batch *batch, uint8_t *window)
{
	mfs_io *io = b->check->c->io;
	uint64_t begin = round_down(batch->begin, ALIGNMENT), end = round_up(batch->end, ALIGNMENT);
	int64_t got;

	if (batch->begin == batch->end)
		return true;
	got = io->table->read_at(io, begin, window, end - begin);
	return got >= 0 && (uint64_t)got >= batch->end - begin;
}

static void damaged(struct readback *b, const struct batch *batch, uint64_t i)
{
	const mfs_root_tensor *t = &batch->frames->tensor;
	mfs_frame_place place;
	mfs_span span;

	find_frame(b, batch->frames, i, &place, &span);
	pthread_mutex_lock(&b->lock);
	check_found(b->check, MFS_E_CORRUPT, place.offset,
		    "%.*s: %s frame of span %" PRIu64 " at 0x%" PRIx64 ": checksum mismatch",
		    t->name_length, t->name_length ? t->name : "",
		    batch->frames->slot ? "second" : "first", i, place.offset);
	pthread_mutex_unlock(&b->lock);
}

static void not_read(struct readback *b, const struct batch *batch)
{
	pthread_mutex_lock(&b->lock);
	check_found(b->check, MFS_E_IO, batch->begin, "frames at 0x%" PRIx64 " cannot be read",
		    batch->begin);
	pthread_mutex_unlock(&b->lock);
}

/* A first failure may be the bus's: what is bad is read once more. */
static void check_batch(struct readback *b, const struct batch *batch, uint8_t *window)
{
	const uint8_t *bytes = window + batch->begin % ALIGNMENT;
	uint64_t last = batch->first + batch->count, original = 0, bad = batch->first;
	bool read = true;

	for (int attempt = 0; attempt < 2 && bad < last; attempt++) {
		read = read_batch(b, batch, window);
		if (read)
			bad = hash_batch(b, batch, bytes, &original);
	}
	if (!read)
		not_read(b, batch);
	else if (bad < last)
		damaged(b, batch, bad);
	pthread_mutex_lock(&b->lock);
	b->check->done += original;
	pthread_mutex_unlock(&b->lock);
}

/* ---- threads ---- */

static void report_progress(struct readback *b)
{
	struct check *k = b->check;
	uint64_t done;

	pthread_mutex_lock(&b->lock);
	done = k->done < k->total ? k->done : k->total;
	pthread_mutex_unlock(&b->lock);
	if (!k->progress || !k->progress(k->user, done, k->total))
		return;
	pthread_mutex_lock(&b->lock);
	k->stopped = k->cancelled = true;
	pthread_mutex_unlock(&b->lock);
}

static size_t window_bytes(const struct readback *b)
{
	size_t frame = b->check->c->max_span;

	return round_up((frame > WINDOW_BYTES ? frame : WINDOW_BYTES) + 2 * ALIGNMENT, ALIGNMENT);
}

static void take_batches(struct readback *b, bool owner)
{
	uint8_t *window = aligned_alloc(ALIGNMENT, window_bytes(b));
	struct batch batch;

	while (window && take_batch(b, &batch)) {
		check_batch(b, &batch, window);
		if (owner)
			report_progress(b);
	}
	if (!window) {
		pthread_mutex_lock(&b->lock);
		b->error = MFS_E_MEMORY;
		pthread_mutex_unlock(&b->lock);
	}
	free(window);
}

static void *thread(void *argument)
{
	take_batches(argument, false);
	return NULL;
}

/* The owner is one of the threads, and all of them where the system gives no more. */
static int run_threads(struct readback *b)
{
	unsigned extra = b->check->threads - 1, started = 0;
	pthread_t *ids = calloc(extra + 1u, sizeof(*ids));

	if (!ids)
		return MFS_E_MEMORY;
	while (started < extra && !pthread_create(&ids[started], NULL, thread, b))
		started++;
	take_batches(b, true);
	for (unsigned i = 0; i < started; i++)
		pthread_join(ids[i], NULL);
	free(ids);
	/* The others may have left the owner nothing to do, and so to report. */
	report_progress(b);
	return b->error;
}

/* ---- everything ---- */

static int find_frames(struct readback *b)
{
	const struct check *k = b->check;
	uint32_t tensors = k->c->root.count[MFS_SEC_TENSORS];

	b->frames = calloc((size_t)tensors * MFS_SLOTS + 1, sizeof(*b->frames));
	if (!b->frames)
		return MFS_E_MEMORY;
	for (uint32_t i = 0; i < tensors; i++)
		for (unsigned s = 0; s < MFS_SLOTS; s++) {
			struct frames *f = &b->frames[b->count];

			mfs_root_get_tensor(&k->c->root, i, &f->tensor);
			f->layout = &k->c->layouts[f->tensor.layout];
			f->slot = s;
			f->count = mfs_tensor_spans(&f->tensor, f->layout->block_bytes);
			if ((!k->fresh || k->fresh[f->tensor.file]) &&
			    mfs_tensor_has_slot(&f->tensor, f->layout, s))
				b->count++;
		}
	return 0;
}

static void check_tables(struct check *k, const struct frames *f)
{
	uint32_t number = f->tensor.slot[f->slot].tables;
	mfs_root_tables t;
	int64_t got;

	if (number == MFS_NO_TABLES)
		return;
	mfs_root_get_tables(&k->c->root, number, &t);
	got = k->c->io->table->read_at(k->c->io, t.offset, k->buffer, t.size);
	if (got != t.size)
		check_found(k, MFS_E_IO, t.offset, "tables at 0x%" PRIx64 " cannot be read",
			    t.offset);
	else if (XXH3_64bits(k->buffer, t.size) != t.hash)
		check_found(k, MFS_E_CORRUPT, t.offset,
			    "tables at 0x%" PRIx64 ": checksum mismatch", t.offset);
}

int check_frames(struct check *k)
{
	struct readback b = {.check = k};
	int error = find_frames(&b);

	pthread_mutex_init(&b.lock, NULL);
	for (uint32_t i = 0; i < b.count && !error && !k->stopped; i++)
		check_tables(k, &b.frames[i]);
	if (!error)
		error = run_threads(&b);
	pthread_mutex_destroy(&b.lock);
	free(b.frames);
	return error;
}
