/*
 * Reading back frames without decoding them: of a container that was packed just now,
 * whose spans were decoded again as they were coded, what is left to see is whether
 * every frame lies where the index says, with the bytes that its hash was made of.
 *
 * Frames, and tables before the first frame of their tensor, are taken in the order in
 * which they are stored as far as that is known, first all of one slot. Several threads
 * take batches of what lies behind one another: more than there are cores, as media
 * are fast only when several reads wait. `lock` guards what they share: the place of the
 * next batch and the check.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "check.h"
#include "verify.h"

/* Bytes that are read at once: little enough to be in a cache when they are hashed. A
 * frame, or tables, may be larger. */
#define WINDOW_BYTES (256u << 10)
#define BATCH_PARTS  4096u
/* Reads under way, if there may be threads at all. */
#define READS 8u

#define ALIGNMENT 4096u /* reads at multiples of it take no detour */

/* What one tensor has in one slot: perhaps tables, then its frames. */
struct parts {
	mfs_root_tensor tensor;
	const mfs_layout *layout;
	unsigned slot;
	bool tables;
	uint64_t count; /* of frames, and one for tables */
};

/* The part of that number of parts[at]. */
struct position {
	uint32_t at;
	uint64_t number;
};

struct part {
	mfs_frame_place place;
	mfs_span span;	/* of a frame */
	uint64_t frame; /* its number in the container */
	bool is_tables;
};

struct readback {
	struct check *check;
	struct parts *parts;
	uint32_t count;
	pthread_mutex_t lock;
	struct position next; /* batch */
	int error;
};

/* `count` parts, which lie within [begin, end). */
struct batch {
	struct position first;
	uint64_t count;
	uint64_t begin, end;
};

/* ---- batches ---- */

static void advance(const struct readback *b, struct position *at)
{
	if (++at->number < b->parts[at->at].count)
		return;
	at->at++;
	at->number = 0;
}

/* False: the index cannot be read there, or its entry is not valid. */
static bool find_part(const struct readback *b, const struct position *at, struct part *out)
{
	const struct parts *p = &b->parts[at->at];
	const mfs_root_tensor *t = &p->tensor;
	uint64_t index = at->number - p->tables;
	const uint8_t *segment;

	out->is_tables = p->tables && at->number == 0;
	if (out->is_tables) {
		mfs_root_tables tables;

		mfs_root_get_tables(&b->check->c->root, t->slot[p->slot].tables, &tables);
		out->place = (mfs_frame_place){tables.offset, tables.size, tables.hash};
		return true;
	}
	out->frame = t->slot[p->slot].first + index;
	segment = b->check->segments[out->frame / MFS_SEGMENT_FRAME_COUNT];
	mfs_tensor_span(t, p->layout->block_bytes, index, &out->span);
	return segment &&
	       !mfs_frame_place_decode(
		   &out->place,
		   segment + out->frame % MFS_SEGMENT_FRAME_COUNT * sizeof(struct mfs_disk_frame),
		   t->slot[p->slot].base, mfs_slot_bytes(t, p->layout, p->slot, out->span.blocks),
		   b->check->c->sb.container_size);
}

/* Whether the batch can take a part that lies there. Those of no bytes lie nowhere. */
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

/* With the lock. Takes parts until one does not fit; an entry that is not valid is
 * reported and passed over. */
static void fill_batch(struct readback *b, struct batch *batch)
{
	struct part part;

	*batch = (struct batch){.first = b->next};
	for (; b->next.at < b->count && batch->count < BATCH_PARTS; batch->count++) {
		if (!find_part(b, &b->next, &part)) {
			check_found(b->check, MFS_E_CORRUPT, UINT64_MAX,
				    "the frame table entry of span %" PRIu64 " is not valid",
				    part.span.index);
			advance(b, &b->next);
			return;
		}
		if (!extend(batch, &part.place))
			return;
		advance(b, &b->next);
	}
}

static bool take_batch(struct readback *b, struct batch *batch)
{
	bool taken;

	pthread_mutex_lock(&b->lock);
	taken = !b->check->stopped && !b->error && b->next.at < b->count;
	if (taken)
		fill_batch(b, batch);
	pthread_mutex_unlock(&b->lock);
	return taken;
}

/* ---- one batch ---- */

/* True if the parts are whole; else *at is the first that is not. Adds to *original
 * the bytes that were packed into them. */
static bool hash_batch(const struct readback *b, const struct batch *batch, const uint8_t *bytes,
		       struct position *at, uint64_t *original)
{
	struct part part;

	*at = batch->first;
	*original = 0;
	for (uint64_t i = 0; i < batch->count; i++, advance(b, at)) {
		const uint8_t *stored = bytes;
		uint64_t hash;

		find_part(b, at, &part);
		if (part.place.size)
			stored += part.place.offset - batch->begin;
		hash = part.is_tables ? XXH3_64bits(stored, part.place.size)
				      : mfs_frame_hash(stored, part.place.size, part.frame);
		if (hash != part.place.hash)
			return false;
		if (!part.is_tables && b->parts[at->at].slot == 0)
			*original += part.span.bytes;
	}
	return true;
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

static void damaged(struct readback *b, const struct position *at)
{
	const struct parts *p = &b->parts[at->at];
	const mfs_root_tensor *t = &p->tensor;
	struct part part;

	find_part(b, at, &part);
	pthread_mutex_lock(&b->lock);
	if (part.is_tables)
		check_found(b->check, MFS_E_CORRUPT, part.place.offset,
			    "tables at 0x%" PRIx64 ": checksum mismatch", part.place.offset);
	else
		check_found(b->check, MFS_E_CORRUPT, part.place.offset,
			    "%.*s: %s frame of span %" PRIu64 " at 0x%" PRIx64
			    ": checksum mismatch",
			    t->name_length, t->name_length ? t->name : "",
			    p->slot ? "second" : "first", part.span.index, part.place.offset);
	pthread_mutex_unlock(&b->lock);
}

static void not_read(struct readback *b, const struct batch *batch)
{
	pthread_mutex_lock(&b->lock);
	check_found(b->check, MFS_E_IO, batch->begin,
		    "frames or tables at 0x%" PRIx64 " cannot be read", batch->begin);
	pthread_mutex_unlock(&b->lock);
}

/* A first failure may be the bus's: what is bad is read once more. */
static void check_batch(struct readback *b, const struct batch *batch, uint8_t *window)
{
	const uint8_t *bytes = window + batch->begin % ALIGNMENT;
	uint64_t original = 0;
	struct position bad = batch->first;
	bool read = true, whole = false;

	for (int attempt = 0; attempt < 2 && !whole; attempt++) {
		read = read_batch(b, batch, window);
		whole = read && hash_batch(b, batch, bytes, &bad, &original);
	}
	if (!read)
		not_read(b, batch);
	else if (!whole)
		damaged(b, &bad);
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
	size_t most = b->check->c->max_span;

	if (most < MFS_TABLES_MAX)
		most = MFS_TABLES_MAX;
	return round_up((most > WINDOW_BYTES ? most : WINDOW_BYTES) + 2 * ALIGNMENT, ALIGNMENT);
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
	unsigned threads = b->check->threads;
	unsigned extra = threads == 1 ? 0 : (threads > READS ? threads : READS) - 1, started = 0;
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

static void add_parts(struct readback *b, uint32_t tensor, unsigned slot)
{
	const struct check *k = b->check;
	struct parts *p = &b->parts[b->count];
	mfs_root_tensor *t = &p->tensor;

	mfs_root_get_tensor(&k->c->root, tensor, t);
	p->layout = &k->c->layouts[t->layout];
	p->slot = slot;
	p->tables = t->slot[slot].tables != MFS_NO_TABLES;
	p->count = mfs_tensor_spans(t, p->layout->block_bytes) + p->tables;
	if ((!k->fresh || k->fresh[t->file]) && mfs_tensor_has_slot(t, p->layout, slot) && p->count)
		b->count++;
}

static int find_parts(struct readback *b)
{
	uint32_t tensors = b->check->c->root.count[MFS_SEC_TENSORS];

	b->parts = calloc((size_t)tensors * MFS_SLOTS + 1, sizeof(*b->parts));
	if (!b->parts)
		return MFS_E_MEMORY;
	for (unsigned s = 0; s < MFS_SLOTS; s++)
		for (uint32_t i = 0; i < tensors; i++)
			add_parts(b, i, s);
	return 0;
}

int check_frames(struct check *k)
{
	struct readback b = {.check = k};
	int error = find_parts(&b);

	pthread_mutex_init(&b.lock, NULL);
	if (!error)
		error = run_threads(&b);
	pthread_mutex_destroy(&b.lock);
	free(b.parts);
	return error;
}
