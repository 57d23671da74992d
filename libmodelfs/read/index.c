/* The parts of the index that are loaded and verified on first use: segments of
 * the frame and chunk tables, and the tables that frames share. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "mfs_xxhash.h"
#include "reader.h"

/* Open tables beyond this are closed again, oldest first. */
#define TABLES_MEMORY (12u << 20)
/* What is stored of tables, a hundredth of what they take when they are open, is kept:
 * who faults here and there in more tensors than fit would ask the medium for tables
 * with every span. */
#define TABLES_STORED (2u << 20)

int index_new(struct reader *r)
{
	uint32_t segments = r->c->root.count[MFS_SEC_SEGMENTS];
	uint32_t tables = r->c->root.count[MFS_SEC_TABLES];

	r->frame_segments = (uint32_t)div_up(r->c->root.frames, MFS_SEGMENT_FRAME_COUNT);
	r->segments = calloc(segments + 1, sizeof(*r->segments));
	r->tables = calloc(tables + 1, sizeof(*r->tables));
	if (!r->segments || !r->tables)
		return MFS_E_MEMORY;
	for (uint32_t i = 0; i < segments; i++) {
		r->segments[i].job.kind = JOB_SEGMENT;
		r->segments[i].number = i;
	}
	for (uint32_t i = 0; i < tables; i++) {
		r->tables[i].job.kind = JOB_TABLES;
		r->tables[i].number = i;
	}
	return 0;
}

static void part_load(struct reader *r, struct part *part)
{
	part->state = PART_LOADING;
	part->job.state = JOB_NEED;
	part->job.retried = part->job.starved = false;
	if (part->job.kind == JOB_SEGMENT) {
		mfs_root_segment s;

		mfs_root_get_segment(&r->c->root, part->number, &s);
		part->job.range[0] = (struct range){s.offset[part->copy], s.size};
	} else {
		mfs_root_tables t;

		mfs_root_get_tables(&r->c->root, part->number, &t);
		part->job.range[0] = (struct range){t.offset, part->bytes ? 0 : t.size};
	}
	TAILQ_INSERT_TAIL(&r->pending, &part->job, link);
}

bool part_ready(struct reader *r, struct part *part, int *err)
{
	*err = 0;
	part->last_use = ++r->tick;
	if (part->state == PART_READY)
		return true;
	if (part->state == PART_ABSENT) {
		part->copy = 0;
		part_load(r, part);
	} else if (part->state == PART_FAILED) {
		*err = part->error;
		/* The next one who asks tries the medium again. */
		part->state = PART_ABSENT;
	}
	return false;
}

void tables_want(struct reader *r, struct part *tables, uint32_t streams, bool ahead)
{
	tables->last_use = ++r->tick;
	if (tables->state == PART_ABSENT || tables->state == PART_FAILED) {
		tables->streams = streams;
		part_load(r, tables);
		tables->job.ahead = ahead;
	}
	if (!ahead)
		tables->job.ahead = false;
}

struct part *frame_segment(struct reader *r, uint64_t frame)
{
	return &r->segments[frame / MFS_SEGMENT_FRAME_COUNT];
}

/* ---- a decoder's work ---- */

static int verify_segment(struct reader *r, struct part *part, const uint8_t *bytes)
{
	XXH128_canonical_t hash;
	mfs_root_segment s;

	mfs_root_get_segment(&r->c->root, part->number, &s);
	XXH128_canonicalFromHash(&hash, XXH3_128bits(bytes, s.size));
	if (memcmp(hash.digest, s.hash, sizeof(s.hash)))
		return MFS_E_CORRUPT;
	part->bytes = malloc(s.size);
	if (!part->bytes)
		return MFS_E_MEMORY;
	memcpy(part->bytes, bytes, s.size);
	return 0;
}

/* The number of streams comes from the tensor that uses the tables; all who
 * share them have the same layout, and opening checks the lengths. */
static int verify_tables(struct reader *r, struct part *part, const uint8_t *bytes)
{
	mfs_root_tables t;
	int err;

	mfs_root_get_tables(&r->c->root, part->number, &t);
	if (part->bytes)
		return mfs_tables_open(&part->tables, part->bytes, t.size, part->streams, 0);
	if (XXH3_64bits(bytes, t.size) != t.hash)
		return MFS_E_CORRUPT;
	err = mfs_tables_open(&part->tables, bytes, t.size, part->streams, 0);
	/* A copy that finds no memory is read again some day. */
	if (!err && (part->bytes = malloc(t.size)))
		memcpy(part->bytes, bytes, t.size);
	return err;
}

void part_verify(struct reader *r, struct part *part, uint8_t *scratch)
{
	const uint8_t *bytes = job_bytes(&part->job, 0, scratch);

	part->job.error = part->job.kind == JOB_SEGMENT ? verify_segment(r, part, bytes)
							: verify_tables(r, part, bytes);
}

/* ---- afterwards ---- */

static void tables_close(struct reader *r, struct part *part)
{
	r->tables_bytes -= mfs_tables_memory(part->tables);
	r->stats.index_loaded_bytes -= mfs_tables_memory(part->tables);
	mfs_tables_free(part->tables);
	part->tables = NULL;
	part->state = PART_ABSENT;
}

static void tables_trim(struct reader *r, const struct part *keep)
{
	while (r->tables_bytes > TABLES_MEMORY) {
		struct part *oldest = NULL;

		for (uint32_t i = 0; i < r->c->root.count[MFS_SEC_TABLES]; i++) {
			struct part *p = &r->tables[i];

			if (p->state == PART_READY && !p->users && p != keep &&
			    (!oldest || p->last_use < oldest->last_use))
				oldest = p;
		}
		if (!oldest)
			return;
		tables_close(r, oldest);
	}
}

/* Keeps the copy of what was read just now, unless there are too many of them. */
static void tables_keep(struct reader *r, struct part *part)
{
	uint32_t size = part->job.range[0].length;

	if (!part->bytes || !size)
		return;
	if (r->tables_stored + size > TABLES_STORED) {
		free(part->bytes);
		part->bytes = NULL;
		return;
	}
	r->tables_stored += size;
	r->stats.index_loaded_bytes += size;
}

static void part_opened(struct reader *r, struct part *part)
{
	part->state = PART_READY;
	if (part->job.kind == JOB_SEGMENT) {
		r->stats.index_loaded_bytes += part->job.range[0].length;
		return;
	}
	tables_keep(r, part);
	r->tables_bytes += mfs_tables_memory(part->tables);
	r->stats.index_loaded_bytes += mfs_tables_memory(part->tables);
	tables_trim(r, part);
}

static const char *part_name(const struct part *part)
{
	if (part->job.kind == JOB_TABLES)
		return "tables";
	return part->copy ? "index segment (second copy)" : "index segment";
}

void part_done(struct reader *r, struct part *part)
{
	job_drop_runs(r, &part->job, part->job.error != 0);
	if (!part->job.error) {
		part_opened(r, part);
	} else {
		if (!part->job.ahead)
			reader_problem(r, part->job.error, part->job.range[0].offset,
				       "%s %u at 0x%llx: %s", part_name(part), part->number,
				       (unsigned long long)part->job.range[0].offset,
				       mfs_error_text(part->job.error));
		if (part->job.kind == JOB_SEGMENT && part->copy == 0) {
			part->copy = 1;
			part_load(r, part);
		} else {
			part->state = PART_FAILED;
			part->error = part->job.error;
		}
	}
	pthread_cond_broadcast(&r->ended);
}

/* ---- those who wait ---- */

int reader_wait_part(struct reader *r, struct part *part)
{
	int err;

	pthread_mutex_lock(&r->lock);
	while (!part_ready(r, part, &err) && !err) {
		reader_pump(r);
		reader_unlock(r);
		pthread_mutex_lock(&r->lock);
		if (part->state == PART_LOADING)
			pthread_cond_wait(&r->ended, &r->lock);
	}
	reader_unlock(r);
	return err;
}

/* ---- chunks ---- */

/* False until the segment is loaded, which this starts. */
static bool chunk_at(struct reader *r, uint64_t i, mfs_chunk *out)
{
	struct part *part = &r->segments[r->frame_segments + i / MFS_SEGMENT_CHUNK_COUNT];
	int err;

	if (!part_ready(r, part, &err)) {
		if (err)
			r->no_chunk_table = true;
		return false;
	}
	return !mfs_chunk_decode(
	    out, part->bytes + i % MFS_SEGMENT_CHUNK_COUNT * sizeof(struct mfs_disk_chunk),
	    r->c->sb.page_size, r->c->sb.container_size);
}

bool chunk_end_after(struct reader *r, uint64_t offset, uint64_t *end)
{
	uint64_t low = 0, high = r->c->root.chunks;
	mfs_chunk chunk;

	if (r->no_chunk_table)
		return false;
	/* The last chunk that begins at or before `offset`. */
	while (low < high) {
		uint64_t middle = low + (high - low) / 2;

		if (!chunk_at(r, middle, &chunk))
			return false;
		if (chunk.offset <= offset)
			low = middle + 1;
		else
			high = middle;
	}
	if (!low || !chunk_at(r, low - 1, &chunk))
		return false;
	*end = chunk.offset + chunk.stored_size;
	return *end > offset;
}

void index_free(struct reader *r)
{
	for (uint32_t i = 0; r->segments && i < r->c->root.count[MFS_SEC_SEGMENTS]; i++)
		free(r->segments[i].bytes);
	for (uint32_t i = 0; r->tables && i < r->c->root.count[MFS_SEC_TABLES]; i++) {
		free(r->tables[i].bytes);
		mfs_tables_free(r->tables[i].tables);
	}
	free(r->segments);
	free(r->tables);
}
