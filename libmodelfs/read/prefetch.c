/*
 * Prefetch: sequential streams are found from the reads themselves (what the
 * kernel hints does not reach a FUSE daemon), and each is kept `window` bytes
 * ahead of its reader by making spans that nobody waits for yet. The jobs of
 * those spans fetch whole requests in the order of the medium (runs.c) at the
 * depth that the profile names (jobs.c).
 *
 * A stream begins at the first read that is as long as a readahead window, or
 * with short reads that follow each other; it ends when its reader goes on
 * elsewhere. Where the order of reading is another than the file's, routes.c
 * takes over.
 */

#include "operands.h"
#include "reader.h"

/* A first read as long as a readahead window is taken for the start of a
 * stream; shorter ones (faults of random access) have to follow each other. */
#define EAGER_BYTES  (64u << 10)
#define PATIENT_HITS 3
#define WINDOW_MIN   (256u << 10)
/* Readahead READs reach the daemon out of order, by as much as this. */
#define DISORDER_MAX (1u << 20)
#define MEMORY_PAGE  4096u
/* What the kernel reads ahead if nobody tells it otherwise. */
#define READAHEAD (128u << 10)
/* A stream without a read among so many has ended. */
#define STREAM_READS 256
/* After so many eager streams in a row that nobody followed up, access is random
 * in long reads (faults that the kernel reads around): wait for the second. */
#define DOUBT_MAX 4

bool prefetch_stream_active(const struct reader *r, const struct stream *s)
{
	return s->used && s->window && s->next < s->limit &&
	       r->note_clock - s->last_use < STREAM_READS;
}

uint64_t prefetch_window(const struct reader *r)
{
	uint64_t wanted = r->c->queue.window_bytes;
	uint64_t room = r->span_arena.bytes / 2;
	unsigned active = routes_active(r);

	for (int i = 0; i < STREAMS; i++)
		active += prefetch_stream_active(r, &r->streams[i]);
	if (active > 1)
		room /= active;
	return wanted < room ? wanted : room;
}

static struct stream *find_stream(struct reader *r, uint32_t file, uint64_t offset, size_t length)
{
	for (int i = 0; i < STREAMS; i++) {
		struct stream *s = &r->streams[i];
		uint64_t slack = !s->window ? 0 : s->hits ? DISORDER_MAX : 2 * READAHEAD;

		if (s->used && s->file == file && offset <= s->next + slack &&
		    offset + length + slack >= s->next)
			return s;
	}
	return NULL;
}

/* The one to give up: one that never was a stream before one that is. */
static bool worse(const struct reader *r, const struct stream *a, const struct stream *b)
{
	bool active = prefetch_stream_active(r, a);

	if (active != prefetch_stream_active(r, b))
		return !active;
	return a->last_use < b->last_use;
}

static struct stream *free_stream(struct reader *r)
{
	struct stream *worst = &r->streams[0];

	for (int i = 0; i < STREAMS; i++) {
		struct stream *s = &r->streams[i];

		if (!s->used)
			return s;
		if (worse(r, s, worst))
			worst = s;
	}
	if (worst->eager && !worst->hits && r->doubt < DOUBT_MAX)
		r->doubt++;
	return worst;
}

static struct stream *begin_stream(struct reader *r, uint32_t file, uint64_t offset, size_t length)
{
	struct stream *s = free_stream(r);
	bool eager = length >= EAGER_BYTES && r->doubt < DOUBT_MAX;

	*s = (struct stream){.used = true,
			     .file = file,
			     .origin = offset,
			     .first = length,
			     .next = offset + length,
			     .ahead = offset + length,
			     .limit = UINT64_MAX,
			     .window = eager ? 2 * length : 0,
			     .eager = eager,
			     .last_use = r->note_clock};
	return s;
}

static void widen(struct reader *r, struct stream *s, size_t length)
{
	uint64_t most = prefetch_window(r);

	if (++s->hits < PATIENT_HITS && !s->window && length < EAGER_BYTES)
		return;
	s->window = s->window ? 2 * s->window : 2 * length;
	if (s->window < WINDOW_MIN)
		s->window = WINDOW_MIN;
	if (s->window > most)
		s->window = most;
}

static void continue_stream(struct reader *r, struct stream *s, uint64_t offset, size_t length)
{
	s->last_use = r->note_clock;
	if (offset + length <= s->next)
		return; /* late, or read again: it moves nothing */
	if (length >= EAGER_BYTES)
		r->doubt -= r->doubt > 0;
	widen(r, s, length);
	/* The kernel reads ahead across the limit; who reads on behind that goes on in
	 * the order of the file. */
	if (offset >= s->limit &&
	    offset - s->limit >= 2 * (length > READAHEAD ? length : READAHEAD))
		s->limit = UINT64_MAX;
	s->next = offset + length;
	if (s->ahead < s->next)
		s->ahead = s->next;
}

/* Where the fault was that the kernel read around: in the middle of the read. One that
 * ends where another such read began was cut short there. */
static uint64_t fault_of(const struct reader *r, uint32_t file, uint64_t offset, size_t length)
{
	for (int i = 0; i < STREAMS; i++) {
		const struct stream *s = &r->streams[i];

		if (s->used && s->file == file && s->origin == offset + length &&
		    s->first > length && s->first / 2 < length)
			return offset + s->first / 2;
	}
	return offset + length / 2;
}

/* Of the tensors in a memory page, the one that is wanted: one that begins there, of
 * several (norms are small) the first that is executed. False: there is none. */
static bool find_wanted(struct reader *r, uint32_t file, uint64_t page, uint64_t page_end,
			mfs_root_extent *out)
{
	uint32_t best = MFS_ORDER_NONE;
	mfs_root_extent extent;
	bool found = false;
	mfs_root_tensor t;
	mfs_root_file f;
	uint64_t i;

	mfs_root_get_file(&r->c->root, file, &f);
	container_extent_at(r->c, &f, page, &i, &extent);
	for (;;) {
		uint32_t leg = MFS_ORDER_NONE;
		bool stored = extent.kind == MFS_EXTENT_TENSOR;

		if (stored) {
			mfs_root_get_tensor(&r->c->root, extent.tensor, &t);
			stored = !(t.flags & MFS_TENSOR_LITERAL);
			leg = extent.file_offset < page ? leg : r->routes.leg_of[extent.tensor];
		}
		if (stored && (!found || leg <= best)) {
			*out = extent;
			best = leg;
			found = true;
		}
		if (extent.file_offset + extent.length >= page_end)
			return found;
		mfs_root_get_extent(&r->c->root, ++i, &extent);
	}
}

/* Where a read lies. False: in literal bytes or zeros. */
static bool find_place(struct reader *r, uint32_t file, uint64_t offset, size_t length, bool begins,
		       struct place *out)
{
	uint64_t page = begins ? fault_of(r, file, offset, length) : offset + length / 2;
	uint64_t page_end = page + MEMORY_PAGE, end;
	mfs_root_extent extent;

	if (page_end > offset + length)
		page_end = offset + length;
	if (!find_wanted(r, file, page, page_end, &extent))
		return false;
	end = extent.file_offset + extent.length;
	end = end < page_end ? end : page_end;
	out->file = file;
	out->tensor = extent.tensor;
	out->at = extent.source_offset + (end - 1 - extent.file_offset);
	out->offset = offset;
	out->length = length;
	out->tensor_offset = extent.file_offset - extent.source_offset;
	return true;
}

bool prefetch_note_read(struct reader *r, uint32_t file, uint64_t offset, size_t length)
{
	struct place place;
	struct stream *s;
	bool known, begun;

	if (r->c->options.no_prefetch)
		return false;
	r->note_clock++;
	s = find_stream(r, file, offset, length);
	begun = !s;
	known = find_place(r, file, offset, length, begun, &place);
	if (known && replay_note(r, &place))
		return false;
	if (begun) {
		s = begin_stream(r, file, offset, length);
		s->tensor = known ? place.tensor : MFS_ORDER_NONE;
	} else {
		continue_stream(r, s, offset, length);
	}
	if (known)
		routes_note(r, &place, s, begun);
	return s->hits && prefetch_stream_active(r, s) && s->limit == UINT64_MAX;
}

void prefetch_advise(struct reader *r, uint32_t file, uint64_t offset, uint64_t length)
{
	uint64_t most = prefetch_window(r);

	if (r->c->options.no_prefetch || !length)
		return;
	*free_stream(r) = (struct stream){.used = true,
					  .file = file,
					  .origin = offset,
					  .tensor = MFS_ORDER_NONE,
					  .next = offset,
					  .ahead = offset,
					  .limit = UINT64_MAX,
					  .window = length < most ? length : most,
					  .last_use = r->note_clock};
}

/* ---- going ahead ---- */

bool prefetch_span(struct reader *r, uint32_t tensor, uint64_t at, uint64_t *behind,
		   struct span **made, int *err)
{
	mfs_root_tensor t;
	mfs_span place;
	struct span *span;

	*err = 0;
	mfs_root_get_tensor(&r->c->root, tensor, &t);
	mfs_tensor_span_at(&t, r->c->layouts[t.layout].block_bytes, at, &place);
	*behind = place.offset + place.bytes - at;
	if (made)
		*made = NULL;
	if (span_find(r, tensor, place.index))
		return true;
	if (!span_index_ready(r, tensor, &place, true, err))
		return false;
	span = span_new(r, tensor, &place, true);
	if (!span)
		return false;
	route_widen(r, span);
	if (made)
		*made = span;
	return true;
}

/* What the stream still wants of the tensor's extent, for the reach of requests. */
static struct leg rest_of(const struct stream *s, const mfs_root_extent *extent)
{
	uint64_t end = extent->file_offset + extent->length;

	if (end > s->limit)
		end = s->limit;
	return (struct leg){.tensor = extent->tensor,
			    .from = extent->source_offset,
			    .to = extent->source_offset + (end - extent->file_offset)};
}

/* Sees to the span at s->ahead. Sets *next to the file offset behind it. False:
 * not now. */
static bool advance_span(struct reader *r, struct stream *s, const mfs_root_extent *extent,
			 uint64_t *next)
{
	uint64_t at = extent->source_offset + (s->ahead - extent->file_offset), behind;
	struct leg rest = rest_of(s, extent);
	enum step step;
	int err = 0;

	if (s->limit != UINT64_MAX)
		step = route_step(r, &rest, at, &behind);
	else if (prefetch_span(r, extent->tensor, at, &behind, NULL, &err))
		step = STEP_DONE;
	else
		step = err ? STEP_FAILED : STEP_LATER;
	if (step == STEP_FAILED)
		s->window = 0; /* the read that comes here will say so */
	if (step != STEP_DONE)
		return false;
	*next = s->ahead + behind;
	if (*next > extent->file_offset + extent->length)
		*next = extent->file_offset + extent->length;
	return true;
}

/* Operands lie elsewhere and take work before the first span can be computed: those
 * of the tensors behind `from` are begun a window early. */
#define EARLY_EXTENTS 4

static void begin_operands(struct reader *r, const struct stream *s, const mfs_root_file *file,
			   uint64_t from)
{
	uint64_t end = from + s->window < file->size ? from + s->window : file->size, i;
	mfs_root_extent extent;

	if (!r->c->computed || from >= end)
		return;
	container_extent_at(r->c, file, from, &i, &extent);
	for (unsigned n = 0; n < EARLY_EXTENTS; n++) {
		if (extent.kind == MFS_EXTENT_TENSOR)
			operands_begin(r, extent.tensor);
		if (extent.file_offset + extent.length >= end)
			return;
		mfs_root_get_extent(&r->c->root, ++i, &extent);
	}
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
	if (end > s->limit)
		end = s->limit;
	if (s->ahead >= end)
		return;
	begin_operands(r, s, &file, s->limit == UINT64_MAX ? end : file.size);
	container_extent_at(r->c, &file, s->ahead, &i, &extent);
	while (s->ahead < end) {
		uint64_t next = extent.file_offset + extent.length;

		if (s->ahead == next) {
			mfs_root_get_extent(&r->c->root, ++i, &extent);
			continue;
		}
		if (extent.kind == MFS_EXTENT_TENSOR &&
		    (expert_bars(r, s, &extent) || !advance_span(r, s, &extent, &next)))
			return;
		s->ahead = next;
	}
}

void prefetch_pump(struct reader *r)
{
	if (r->stopping || r->c->options.no_prefetch || !TAILQ_EMPTY(&r->blocked))
		return;
	for (int i = 0; i < STREAMS; i++)
		if (prefetch_stream_active(r, &r->streams[i]))
			advance(r, &r->streams[i]);
	routes_advance(r);
}
