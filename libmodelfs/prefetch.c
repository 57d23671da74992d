/*
 * Prefetch: sequential streams are found from the reads themselves (what the
 * kernel hints does not reach a FUSE daemon), and each is kept `window` bytes
 * ahead of its reader by making spans that nobody waits for yet. The jobs of
 * those spans fetch whole requests in the order of the medium (runs.c) at the
 * depth that the profile names (reader.c).
 */
#include <string.h>

#include "reader.h"

/* A first read as long as a readahead window is taken for the start of a
 * stream; shorter ones (faults of random access) have to follow each other. */
#define EAGER_BYTES  (64u << 10)
#define PATIENT_HITS 3
#define WINDOW_MIN   (256u << 10)
/* Readahead READs reach the daemon out of order, by as much as this. */
#define DISORDER_MAX (1u << 20)

static uint64_t window_max(const struct reader *r)
{
	uint64_t wanted = r->c->queue.window_bytes;
	uint64_t room = r->span_arena.bytes / 2;
	unsigned active = 0;

	for (int i = 0; i < STREAMS; i++)
		active += r->streams[i].used && r->streams[i].window;
	if (active > 1)
		room /= active;
	return wanted < room ? wanted : room;
}

static struct stream *find_stream(struct reader *r, uint32_t file, uint64_t offset, size_t length)
{
	for (int i = 0; i < STREAMS; i++) {
		struct stream *s = &r->streams[i];
		uint64_t slack = s->window ? DISORDER_MAX : 0;

		if (s->used && s->file == file && offset <= s->next + slack &&
		    offset + length + slack >= s->next)
			return s;
	}
	return NULL;
}

static struct stream *oldest_stream(struct reader *r)
{
	struct stream *oldest = &r->streams[0];

	for (int i = 0; i < STREAMS; i++) {
		struct stream *s = &r->streams[i];

		if (!s->used)
			return s;
		if (s->last_use < oldest->last_use)
			oldest = s;
	}
	return oldest;
}

static void begin_stream(struct reader *r, uint32_t file, uint64_t offset, size_t length)
{
	struct stream *s = oldest_stream(r);

	*s = (struct stream){.used = true,
			     .file = file,
			     .next = offset + length,
			     .ahead = offset + length,
			     .window = length >= EAGER_BYTES ? 2 * length : 0,
			     .last_use = ++r->tick};
}

static void widen(struct reader *r, struct stream *s, size_t length)
{
	uint64_t most = window_max(r);

	if (++s->hits < PATIENT_HITS && !s->window && length < EAGER_BYTES)
		return;
	s->window = s->window ? 2 * s->window : 2 * length;
	if (s->window < WINDOW_MIN)
		s->window = WINDOW_MIN;
	if (s->window > most)
		s->window = most;
}

void prefetch_note_read(struct reader *r, uint32_t file, uint64_t offset, size_t length)
{
	struct stream *s;

	if (r->c->options.no_prefetch)
		return;
	s = find_stream(r, file, offset, length);
	if (!s) {
		begin_stream(r, file, offset, length);
		return;
	}
	s->last_use = ++r->tick;
	if (offset + length <= s->next)
		return; /* late, or read again: it moves nothing */
	widen(r, s, length);
	s->next = offset + length;
	if (s->ahead < s->next)
		s->ahead = s->next;
}

void prefetch_advise(struct reader *r, uint32_t file, uint64_t offset, uint64_t length)
{
	struct stream *s;
	uint64_t most = window_max(r);

	if (r->c->options.no_prefetch || !length)
		return;
	s = oldest_stream(r);
	*s = (struct stream){.used = true,
			     .file = file,
			     .next = offset,
			     .ahead = offset,
			     .window = length < most ? length : most,
			     .last_use = ++r->tick};
}

/* ---- going ahead ---- */

/* Makes the span that holds byte `at` of the extent's tensor, unless it is
 * there. Sets *next to the file offset behind it. False: not now. */
static bool prefetch_span(struct reader *r, struct stream *s, const mfs_root_extent *extent,
			  uint64_t position, uint64_t *next)
{
	uint64_t at = extent->source_offset + (position - extent->file_offset);
	uint64_t behind;
	mfs_root_tensor t;
	mfs_span place;
	int err;

	mfs_root_get_tensor(&r->c->root, extent->tensor, &t);
	mfs_tensor_span_at(&t, r->c->layouts[t.layout].block_bytes, at, &place);
	behind = place.offset + place.bytes - at;
	*next = position + behind;
	if (*next > extent->file_offset + extent->length)
		*next = extent->file_offset + extent->length;
	if (span_find(r, extent->tensor, place.index))
		return true;
	if (!span_index_ready(r, extent->tensor, &place, &err)) {
		if (err)
			s->window = 0; /* the read that comes here will say so */
		return false;
	}
	return span_new(r, extent->tensor, &place, true) != NULL;
}

/* Goes ahead from s->ahead as far as window, memory and index allow. */
static void advance(struct reader *r, struct stream *s)
{
	uint64_t end = s->next + s->window, i;
	mfs_root_extent extent;
	mfs_root_file file;

	mfs_root_get_file(&r->c->root, s->file, &file);
	if (end > file.size)
		end = file.size;
	if (s->ahead >= end)
		return;
	container_extent_at(r->c, &file, s->ahead, &i, &extent);
	while (s->ahead < end) {
		uint64_t next = extent.file_offset + extent.length;

		if (s->ahead == next) {
			mfs_root_get_extent(&r->c->root, ++i, &extent);
			continue;
		}
		if (extent.kind == MFS_EXTENT_TENSOR &&
		    !prefetch_span(r, s, &extent, s->ahead, &next))
			return;
		s->ahead = next;
	}
}

void prefetch_pump(struct reader *r)
{
	if (r->stopping || !TAILQ_EMPTY(&r->blocked))
		return;
	for (int i = 0; i < STREAMS; i++) {
		struct stream *s = &r->streams[i];

		if (s->used && s->window)
			advance(r, s);
	}
}
