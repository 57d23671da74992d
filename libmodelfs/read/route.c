/*
 * Routes: orders of reading other than the file's.
 *
 * - A runtime that computes from the mapped file goes through it in the order of
 *   execution (order.h). Its reads jump from one tensor to another; when they jump
 *   to the one that the order names, the model is walked through: what follows is
 *   fetched while the current tensor is read, up to the window.
 * - Of a mixture of experts a token takes one slice of each stacked tensor. The
 *   first long read in a slice fetches the rest of it and its sister slices.
 * - A recorded trace is replayed from the beginning, and followed from then on.
 *
 * Reads that do not fit stop a route; sequential streams (prefetch.c) stay.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "reader.h"

/* Tensors this small (norms, biases) may be missing from the reads: they share
 * memory pages with others, or were read together with them. */
#define SMALL_BYTES (1u << 20)
/* Trust in a walk: rises with jumps that follow the order, falls with others. */
#define TRUST_MAX  4
#define TRUST_WALK 2
/* A jump over so many legs may be over legs that are still in memory. */
#define NEAR_LEGS 16
/* A walk without a read among so many has ended. */
#define WALK_READS 256
/* Reads that are shorter do not begin an expert. */
#define EXPERT_BYTES (64u << 10)
#define EXPERT_HITS  3
/* After so many reads that are not where the trace expects them, it is not what
 * is going on. */
#define REPLAY_MISSES 8
/* Spans that are looked at to see how far a request may reach. */
#define REACH_SPANS 64

/* ---- making and searching ---- */

static int compare_legs(const void *a, const void *b, void *user)
{
	const struct leg *legs = user;
	const struct leg *x = &legs[*(const uint32_t *)a], *y = &legs[*(const uint32_t *)b];

	if (x->tensor != y->tensor)
		return x->tensor < y->tensor ? -1 : 1;
	if (x->from != y->from)
		return x->from < y->from ? -1 : 1;
	return x->start < y->start ? -1 : x->start > y->start;
}

int route_make(struct route *out, const mfs_order_part parts[], uint32_t count)
{
	struct route route = {.count = count};

	route.legs = calloc((size_t)count + 1, sizeof(*route.legs));
	route.sorted = calloc((size_t)count + 1, sizeof(*route.sorted));
	if (!route.legs || !route.sorted) {
		route_free(&route);
		return MFS_E_MEMORY;
	}
	for (uint32_t i = 0; i < count; i++) {
		route.legs[i] =
		    (struct leg){parts[i].tensor, parts[i].from, parts[i].to, route.bytes};
		route.bytes += parts[i].to - parts[i].from;
		route.sorted[i] = i;
	}
	if (count)
		qsort_r(route.sorted, count, sizeof(*route.sorted), compare_legs, route.legs);
	*out = route;
	return 0;
}

void route_free(struct route *route)
{
	free(route->legs);
	free(route->sorted);
	memset(route, 0, sizeof(*route));
}

static uint64_t leg_bytes(const struct leg *leg)
{
	return leg->to - leg->from;
}

/* The leg with byte `at` of the tensor: the last one that begins at or before it.
 * MFS_ORDER_NONE: there is none. */
static uint32_t leg_with(const struct route *route, uint32_t tensor, uint64_t at)
{
	uint32_t low = 0, high = route->count;
	const struct leg *leg;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		leg = &route->legs[route->sorted[middle]];
		if (leg->tensor < tensor || (leg->tensor == tensor && leg->from <= at))
			low = middle + 1;
		else
			high = middle;
	}
	if (!low)
		return MFS_ORDER_NONE;
	leg = &route->legs[route->sorted[low - 1]];
	return leg->tensor == tensor && at < leg->to ? route->sorted[low - 1] : MFS_ORDER_NONE;
}

/* The leg that holds byte `position` of the route (below its bytes). */
static uint32_t leg_at(const struct route *route, uint64_t position)
{
	uint32_t low = 0, high = route->count - 1;

	while (low < high) {
		uint32_t middle = low + (high - low + 1) / 2;

		if (route->legs[middle].start <= position)
			low = middle;
		else
			high = middle - 1;
	}
	return low;
}

/* ---- fetching along legs ---- */

/* The end of the stored bytes in `slot` from `end` on, as far as the spans of the
 * leg from tensor byte `at` on follow there without a gap. */
static uint64_t reach_of(struct reader *r, const struct leg *leg, uint64_t at, unsigned slot,
			 uint64_t end, uint64_t enough)
{
	mfs_frame_place frame;
	mfs_root_tensor t;
	mfs_span place;

	mfs_root_get_tensor(&r->c->root, leg->tensor, &t);
	for (unsigned n = 0; n < REACH_SPANS && at < leg->to && end < enough; n++) {
		mfs_tensor_span_at(&t, r->c->layouts[t.layout].block_bytes, at, &place);
		if (!span_frame_place(r, leg->tensor, &place, slot, &frame))
			break;
		if (frame.size && (frame.offset < end || frame.offset > end + r->unit))
			break;
		if (frame.size)
			end = frame.offset + frame.size;
		at = place.offset + place.bytes;
	}
	return end;
}

void route_limit_reach(struct reader *r, struct span *span, const struct leg *leg)
{
	uint64_t at = span->place.offset + span->place.bytes;

	for (unsigned s = 0; s < MFS_SLOTS; s++) {
		const struct range *range = &span->job.range[s];

		if (range->length)
			span->job.reach[s] =
			    reach_of(r, leg, at, s, range->offset + range->length,
				     round_down(range->offset, r->unit) + r->request);
	}
}

/* Alignment at the end of a file. */
#define FILE_TAIL (64u << 10)

void route_widen(struct reader *r, struct span *span)
{
	mfs_root_tensor t;
	mfs_root_file f;

	span->job.wide = true;
	mfs_root_get_tensor(&r->c->root, span->tensor, &t);
	mfs_root_get_file(&r->c->root, t.file, &f);
	if (f.size - t.file_offset - t.size < FILE_TAIL)
		route_limit_reach(r, span, &(struct leg){.tensor = span->tensor, .to = t.size});
}

enum step { STEP_LATER, STEP_DONE, STEP_FAILED };

/* Sees to the span at byte `at` of the leg's tensor; *behind is set to the bytes
 * from there to the end of the span or the leg. Requests may reach to the end of
 * `reach`, which holds the leg. */
static enum step step(struct reader *r, const struct leg *leg, const struct leg *reach, uint64_t at,
		      uint64_t *behind)
{
	struct span *made;
	int err;

	if (routes_touched(r, leg->tensor, at, behind)) {
		made = NULL;
	} else if (!prefetch_span(r, leg->tensor, at, behind, &made, &err)) {
		return err ? STEP_FAILED : STEP_LATER;
	}
	if (made)
		route_limit_reach(r, made, reach);
	if (*behind > leg->to - at)
		*behind = leg->to - at;
	return STEP_DONE;
}

/* ---- the order of execution ---- */

static bool walking(const struct reader *r, const struct walk *w)
{
	return w->used && w->trust >= TRUST_WALK && r->note_clock - w->last_use < WALK_READS;
}

static const struct leg *leg_of_walk(const struct reader *r, const struct walk *w)
{
	return &r->routes.execution.legs[w->leg];
}

static uint64_t walk_begin(const struct reader *r, const struct walk *w)
{
	return r->routes.execution.legs[w->first].start;
}

static uint64_t walk_bytes(const struct reader *r, const struct walk *w)
{
	const struct leg *last = &r->routes.execution.legs[w->end - 1];

	return last->start + leg_bytes(last) - walk_begin(r, w);
}

/* Place of the leg that is being read. */
static uint64_t leg_place(const struct reader *r, const struct walk *w)
{
	return w->lap + leg_of_walk(r, w)->start - walk_begin(r, w);
}

static uint64_t span_number(const struct reader *r, uint32_t tensor, uint64_t at, mfs_span *place)
{
	mfs_root_tensor t;

	mfs_root_get_tensor(&r->c->root, tensor, &t);
	mfs_tensor_span_at(&t, r->c->layouts[t.layout].block_bytes, at, place);
	return place->index;
}

/* Notes the spans that the read covers. */
static void touch(struct reader *r, struct walk *w, const struct place *p)
{
	uint64_t tensor_end = p->tensor_offset + leg_of_walk(r, w)->to;
	uint64_t from = p->offset > p->tensor_offset ? p->offset - p->tensor_offset : 0;
	uint64_t end = p->offset + p->length < tensor_end ? p->offset + p->length : tensor_end;
	mfs_span place;

	end -= p->tensor_offset;
	w->read += end - from;
	while (from < end) {
		uint64_t i = span_number(r, p->tensor, from, &place);

		w->touched[i / 8] |= (uint8_t)(1u << i % 8);
		from = place.offset + place.bytes;
	}
}

bool routes_touched(const struct reader *r, uint32_t tensor, uint64_t at, uint64_t *behind)
{
	mfs_span place;
	uint64_t i;

	for (int k = 0; k < WALKS; k++) {
		const struct walk *w = &r->routes.walks[k];

		if (!walking(r, w) || leg_of_walk(r, w)->tensor != tensor)
			continue;
		i = span_number(r, tensor, at, &place);
		*behind = place.offset + place.bytes - at;
		return w->touched[i / 8] >> i % 8 & 1;
	}
	return false;
}

static struct walk *walk_of(struct reader *r, uint32_t leg)
{
	struct walk *oldest = &r->routes.walks[0];

	for (int i = 0; i < WALKS; i++) {
		struct walk *w = &r->routes.walks[i];

		if (w->used && leg >= w->first && leg < w->end)
			return w;
		if (!w->used || (oldest->used && w->last_use < oldest->last_use))
			oldest = w;
	}
	return oldest;
}

/* The legs of one model around `leg`. */
static void find_model(const struct reader *r, struct walk *w, uint32_t leg)
{
	const struct route *route = &r->routes.execution;
	uint32_t model = r->routes.models[route->legs[leg].tensor];

	w->first = leg;
	w->end = leg + 1;
	while (w->first && r->routes.models[route->legs[w->first - 1].tensor] == model)
		w->first--;
	while (w->end < route->count && r->routes.models[route->legs[w->end].tensor] == model)
		w->end++;
}

static struct walk *begin_walk(struct reader *r, struct walk *w, uint32_t leg)
{
	uint8_t *touched = w->touched ? w->touched : calloc(1, r->routes.touched_bytes);

	*w = (struct walk){.touched = touched, .leg = leg, .stray = MFS_ORDER_NONE};
	if (!touched)
		return NULL;
	w->used = true;
	memset(touched, 0, r->routes.touched_bytes);
	find_model(r, w, leg);
	return w;
}

/* Goes on with another leg; `wrapped`: with a new lap. */
static void enter(struct reader *r, struct walk *w, uint32_t leg, bool wrapped)
{
	uint64_t place;

	if (wrapped)
		w->lap += walk_bytes(r, w);
	if (leg > w->leg)
		memset(&r->routes.resident[w->leg + 1], 1, leg - w->leg - 1);
	w->leg = leg;
	w->stray = MFS_ORDER_NONE;
	w->read = 0;
	memset(w->touched, 0, r->routes.touched_bytes);
	place = leg_place(r, w);
	if (w->ahead < place || w->ahead > place + r->span_arena.bytes)
		w->ahead = place;
}

/* Bytes of the legs from `from` up to `to` that have to be read. */
static uint64_t bytes_between(const struct reader *r, uint32_t from, uint32_t to)
{
	uint64_t bytes = 0;

	for (uint32_t i = from; i < to && bytes <= SMALL_BYTES; i++)
		if (!r->routes.resident[i])
			bytes += leg_bytes(&r->routes.execution.legs[i]);
	return bytes;
}

enum jump { JUMP_NEXT, JUMP_WRAP, JUMP_NEAR, JUMP_LATE, JUMP_FAR };

static enum jump kind_of_jump(const struct reader *r, const struct walk *w, uint32_t leg)
{
	if (leg > w->leg && bytes_between(r, w->leg + 1, leg) <= SMALL_BYTES)
		return JUMP_NEXT;
	if (leg < w->leg && bytes_between(r, leg + 1, w->leg) <= SMALL_BYTES)
		return JUMP_LATE;
	if (bytes_between(r, w->leg + 1, w->end) <= SMALL_BYTES &&
	    bytes_between(r, w->first, leg) <= SMALL_BYTES)
		return JUMP_WRAP;
	if (leg > w->leg && leg - w->leg <= NEAR_LEGS)
		return JUMP_NEAR;
	return JUMP_FAR;
}

static bool stream_is_in(const struct stream *s, const mfs_root_tensor *t)
{
	return s->used && s->window && s->file == t->file && s->next > t->file_offset &&
	       s->next <= t->file_offset + t->size + SMALL_BYTES &&
	       s->origin < t->file_offset + t->size;
}

/* Streams that go on in the tensor. */
static unsigned streams_in(const struct reader *r, uint32_t tensor)
{
	mfs_root_tensor t;
	unsigned n = 0;

	mfs_root_get_tensor(&r->c->root, tensor, &t);
	for (int i = 0; i < STREAMS; i++)
		n += stream_is_in(&r->streams[i], &t) && prefetch_stream_active(r, &r->streams[i]);
	return n;
}

/* A jump says something if the leg before it was read for the larger part, or by
 * another stream than that of the jump. */
static bool was_read(const struct reader *r, const struct walk *w, const struct stream *but)
{
	const struct leg *leg = leg_of_walk(r, w);
	mfs_root_tensor t;

	if (w->read >= leg_bytes(leg) / 2)
		return true;
	mfs_root_get_tensor(&r->c->root, leg->tensor, &t);
	for (int i = 0; i < STREAMS; i++)
		if (&r->streams[i] != but && stream_is_in(&r->streams[i], &t))
			return true;
	return false;
}

/* The readers of a leg go on to the next one: its streams end where it ends, and
 * those of legs before it have ended. */
static void end_streams(struct reader *r, const struct walk *w)
{
	mfs_root_tensor t;
	uint64_t end;

	mfs_root_get_tensor(&r->c->root, leg_of_walk(r, w)->tensor, &t);
	end = t.file_offset + t.size;
	for (int i = 0; i < STREAMS; i++) {
		struct stream *s = &r->streams[i];

		if (s->limit == UINT64_MAX && stream_is_in(s, &t))
			s->limit = end;
		else if (s->file == t.file && s->limit != UINT64_MAX && s->limit != end)
			s->window = 0;
	}
}

/* The first read in another leg than the one before it. */
static void note_jump(struct reader *r, struct walk *w, uint32_t leg, const struct stream *s,
		      bool begun)
{
	enum jump jump = kind_of_jump(r, w, leg);
	bool follows = jump == JUMP_NEXT || jump == JUMP_WRAP;

	/* Late, or a stream in the order of the file beside the walk. */
	if (jump == JUMP_LATE || (!follows && !begun && w->trust))
		return;
	if (!follows && w->trust && w->stray != leg) {
		w->stray = leg; /* one may be somebody else's */
		return;
	}
	if (follows && begun && was_read(r, w, s)) {
		w->trust = w->trust + 2 < TRUST_MAX ? w->trust + 2 : TRUST_MAX;
		end_streams(r, w);
	} else if (jump == JUMP_NEAR && w->trust) {
		w->trust--;
	} else if (jump == JUMP_FAR) {
		w->trust = 0;
	}
	w->cyclic = jump == JUMP_WRAP || (w->cyclic && jump != JUMP_FAR);
	enter(r, w, leg, jump == JUMP_WRAP);
}

static void note_walk(struct reader *r, const struct place *p, struct stream *s, bool begun)
{
	uint32_t leg = r->routes.leg_of[p->tensor];
	struct walk *w;

	if (leg == MFS_ORDER_NONE)
		return;
	w = walk_of(r, leg);
	if (!w->used || leg < w->first || leg >= w->end)
		w = begin_walk(r, w, leg);
	if (!w)
		return;
	r->routes.resident[leg] = 0;
	if (leg != w->leg)
		note_jump(r, w, leg, s, begun);
	if (leg != w->leg)
		return;
	w->last_use = r->note_clock;
	touch(r, w, p);
	/* One that comes from afar in the order of the file is not the walk's. */
	if (!walking(r, w) || (!s->walked && s->origin + SMALL_BYTES < p->tensor_offset))
		return;
	s->walked = true;
	/* Streams of the tensor end with it; they need not prove themselves again. */
	s->limit = p->tensor_offset + leg_of_walk(r, w)->to;
	if (p->length >= EXPERT_BYTES)
		s->window = prefetch_window(r);
}

/* How far the leg has been read: one reader's place, or the sum of several. */
static uint64_t walk_next(const struct reader *r, const struct walk *w)
{
	uint64_t read = w->read, bytes = leg_bytes(leg_of_walk(r, w));

	return leg_place(r, w) + (read < bytes ? read : bytes);
}

static void advance_walk(struct reader *r, struct walk *w)
{
	const struct route *route = &r->routes.execution;
	uint64_t bytes = walk_bytes(r, w), next = walk_next(r, w);
	uint64_t end = next + prefetch_window(r);

	if (!w->cyclic && end > w->lap + bytes)
		end = w->lap + bytes;
	/* Several readers of a tensor are each a stream of its own. */
	if (streams_in(r, leg_of_walk(r, w)->tensor) > 1)
		next = leg_place(r, w) + leg_bytes(leg_of_walk(r, w));
	if (w->ahead < next)
		w->ahead = next;
	while (w->ahead < end) {
		uint64_t position = walk_begin(r, w) + w->ahead % bytes, behind;
		uint32_t i = leg_at(route, position);
		const struct leg *leg = &route->legs[i];
		uint64_t at = leg->from + (position - leg->start);

		if (r->routes.resident[i])
			behind = leg->to - at;
		else
			switch (step(r, leg, leg, at, &behind)) {
			case STEP_FAILED:
				w->trust = 0; /* the read that comes here will say so */
				return;
			case STEP_LATER:
				return;
			case STEP_DONE:
				break;
			}
		w->ahead += behind;
	}
}

/* ---- experts ---- */

static struct expert *find_expert(struct reader *r, const mfs_order_part *first)
{
	struct expert *oldest = &r->routes.experts[0];

	for (int i = 0; i < EXPERTS; i++) {
		struct expert *e = &r->routes.experts[i];

		if (e->count && e->tensor == first->tensor && e->from == first->from)
			return e;
		if (!e->count || (oldest->count && e->clock < oldest->clock))
			oldest = e;
	}
	return oldest;
}

/* Done with, or of a token before: the layer has changed more than once. */
static bool expert_is_over(const struct reader *r, const struct expert *e)
{
	return !e->count || e->read >= e->whole || r->routes.expert_clock > e->clock + 1;
}

/* The rest of part `own` behind tensor byte `at`, then the parts behind it, then
 * those before it. */
static void begin_expert(struct reader *r, struct expert *e, const mfs_order_part parts[],
			 unsigned count, unsigned own, uint64_t at)
{
	uint32_t layer = mfs_order_name_of(r->routes.order, parts[0].tensor)->layer;

	if (layer != r->routes.expert_layer)
		r->routes.expert_clock++;
	r->routes.expert_layer = layer;
	*e = (struct expert){.count = count,
			     .tensor = parts[0].tensor,
			     .from = parts[0].from,
			     .clock = r->routes.expert_clock};
	for (unsigned i = 0; i < count; i++) {
		const mfs_order_part *part = &parts[(own + i) % count];

		e->legs[i] = (struct leg){part->tensor, i ? part->from : at, part->to, e->bytes};
		e->bytes += leg_bytes(&e->legs[i]);
		e->whole += part->to - part->from;
	}
}

/* A read in the slice, as opposed to a stream that goes through the slices. */
static bool in_slice_only(const struct stream *s, uint64_t slice_begin, const struct place *p,
			  bool begun)
{
	if (begun)
		return p->length >= EXPERT_BYTES && s->window;
	return s->window && s->origin + p->length >= slice_begin &&
	       (p->length >= EXPERT_BYTES || s->hits >= EXPERT_HITS);
}

/* What was read before it was fetched is not fetched any more. */
static void pass_expert(struct expert *e, uint32_t tensor, uint64_t end)
{
	for (uint32_t i = 0; i < e->count; i++) {
		const struct leg *leg = &e->legs[i];

		if (leg->tensor == tensor && end > leg->from && end <= leg->to &&
		    leg->start + (end - leg->from) > e->ahead && e->ahead >= leg->start)
			e->ahead = leg->start + (end - leg->from);
	}
}

static void note_expert(struct reader *r, const struct place *p, struct stream *s, bool begun)
{
	mfs_order_part parts[MFS_ORDER_PARTS_MAX];
	unsigned count = mfs_order_expert(r->routes.order, p->tensor, p->at, parts), own = 0;
	struct expert *e;
	uint64_t begin, end;

	while (own < count && parts[own].tensor != p->tensor)
		own++;
	if (own == count || !in_slice_only(s, p->tensor_offset + parts[own].from, p, begun))
		return;
	end = p->offset + p->length - p->tensor_offset;
	if (end > parts[own].to)
		end = parts[own].to;
	s->limit = s->next; /* the expert goes ahead for it */
	e = find_expert(r, &parts[0]);
	if (expert_is_over(r, e) || e->tensor != parts[0].tensor || e->from != parts[0].from)
		begin_expert(r, e, parts, count, own, end);
	begin = p->offset > p->tensor_offset ? p->offset - p->tensor_offset : 0;
	e->read += end - (begin > parts[own].from ? begin : parts[own].from);
	pass_expert(e, p->tensor, end);
}

static void advance_expert(struct reader *r, struct expert *e)
{
	uint64_t end = e->read + prefetch_window(r), behind;

	if (end > e->bytes)
		end = e->bytes;
	while (e->ahead < end) {
		const struct leg *leg = &e->legs[e->count - 1];

		while (leg->start > e->ahead)
			leg--;
		switch (step(r, leg, leg, leg->from + (e->ahead - leg->start), &behind)) {
		case STEP_FAILED:
			e->count = 0;
			return;
		case STEP_LATER:
			return;
		case STEP_DONE:
			e->ahead += behind;
		}
	}
}

static bool expert_active(const struct reader *r, const struct expert *e)
{
	return e->count && e->ahead < e->bytes && r->routes.expert_clock == e->clock;
}

/* ---- replay ---- */

/* A read off the window: two that are near each other go on elsewhere, one is a
 * stray. A lap that followed a lap needs no second. */
static bool replay_again(struct routes *routes, uint64_t position, uint64_t end, uint64_t window)
{
	bool wrapped = routes->replay_next + window >= routes->replay.bytes && position < window;
	uint64_t strayed = routes->replay_strayed;

	routes->replay_strayed = position;
	if (!(wrapped && routes->replay_cyclic) &&
	    (strayed == UINT64_MAX || position + window < strayed || position > strayed + window))
		return false;
	if (wrapped && routes->replay_ahead > routes->replay.bytes)
		routes->replay_ahead -= routes->replay.bytes;
	else
		routes->replay_ahead = end;
	routes->replay_cyclic = wrapped;
	routes->replay_next = end;
	return true;
}

bool replay_note(struct reader *r, const struct place *p)
{
	struct routes *routes = &r->routes;
	const struct route *route = &r->routes.replay;
	uint64_t window = prefetch_window(r), position, end;
	uint32_t i;

	if (!route->count || (i = leg_with(route, p->tensor, p->at)) == MFS_ORDER_NONE)
		return false;
	position = route->legs[i].start + (p->at - route->legs[i].from);
	end = position + p->length / 2;
	if ((position + window < routes->replay_next ||
	     position > routes->replay_next + 2 * window) &&
	    !replay_again(routes, position, end, window))
		/* Pages of spans that were touched before: the trace has them there. */
		return ++routes->replay_misses < REPLAY_MISSES;
	if (routes->replay_strayed == UINT64_MAX)
		routes->replay_misses = 0;
	routes->replay_strayed = UINT64_MAX;
	if (end > routes->replay_next)
		routes->replay_next = end < route->bytes ? end : route->bytes;
	if (routes->replay_ahead < routes->replay_next)
		routes->replay_ahead = routes->replay_next;
	return true;
}

/* What one request may fetch: the leg, and those behind it in the same tensor
 * while they follow each other there. */
static struct leg joined_legs(const struct route *route, uint32_t i)
{
	struct leg leg = route->legs[i];

	while (++i < route->count && route->legs[i].tensor == leg.tensor &&
	       route->legs[i].from == leg.to)
		leg.to = route->legs[i].to;
	return leg;
}

static void advance_replay(struct reader *r)
{
	struct routes *routes = &r->routes;
	const struct route *route = &r->routes.replay;
	uint64_t end = routes->replay_next + prefetch_window(r), behind;

	if (!routes->replay_cyclic && end > route->bytes)
		end = route->bytes;
	while (route->count && routes->replay_ahead < end) {
		uint64_t position = routes->replay_ahead % route->bytes;
		uint32_t i = leg_at(route, position);
		const struct leg *leg = &route->legs[i], reach = joined_legs(route, i);

		switch (step(r, leg, &reach, leg->from + (position - leg->start), &behind)) {
		case STEP_FAILED:
			behind = leg->to - leg->from - (position - leg->start);
			break;
		case STEP_LATER:
			return;
		case STEP_DONE:
			break;
		}
		routes->replay_ahead += behind;
	}
}

/* ---- all of them ---- */

void routes_note(struct reader *r, const struct place *place, struct stream *s, bool begun)
{
	note_walk(r, place, s, begun);
	note_expert(r, place, s, begun);
}

unsigned routes_active(const struct reader *r)
{
	unsigned n = r->routes.replay.count > 0;

	for (int i = 0; i < WALKS; i++)
		n += walking(r, &r->routes.walks[i]);
	for (int i = 0; i < EXPERTS; i++)
		n += expert_active(r, &r->routes.experts[i]);
	return n;
}

void routes_advance(struct reader *r)
{
	advance_replay(r);
	for (int i = 0; i < EXPERTS; i++)
		if (expert_active(r, &r->routes.experts[i]))
			advance_expert(r, &r->routes.experts[i]);
	for (int i = 0; i < WALKS; i++)
		if (walking(r, &r->routes.walks[i]))
			advance_walk(r, &r->routes.walks[i]);
}

/* The tensors of the container for the order. Literal bytes are tensors without a
 * name there: their place in the sequence does not matter. */
static int make_order(struct reader *r, uint32_t count)
{
	mfs_order_tensor *tensors = calloc((size_t)count + 1, sizeof(*tensors));
	int err;

	if (!tensors)
		return MFS_E_MEMORY;
	for (uint32_t i = 0; i < count; i++) {
		mfs_root_tensor t;

		mfs_root_get_tensor(&r->c->root, i, &t);
		tensors[i] = (mfs_order_tensor){.name = t.name ? t.name : "",
						.length = t.name_length,
						.model = r->routes.models[i],
						.size = t.size,
						.slice_bytes = t.slice_blocks *
							       r->c->layouts[t.layout].block_bytes};
	}
	err = mfs_order_new(&r->routes.order, tensors, count);
	free(tensors);
	return err;
}

static int make_execution(struct reader *r, uint32_t count)
{
	const uint32_t *sequence = mfs_order_sequence(r->routes.order);
	mfs_order_part *parts = calloc((size_t)count + 1, sizeof(*parts));
	uint64_t most_spans = 0;
	uint32_t legs = 0;
	int err;

	if (!parts)
		return MFS_E_MEMORY;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t tensor = sequence[i];
		mfs_root_tensor t;
		uint64_t spans;

		mfs_root_get_tensor(&r->c->root, tensor, &t);
		r->routes.leg_of[tensor] = MFS_ORDER_NONE;
		if (t.flags & MFS_TENSOR_LITERAL || !t.size ||
		    !mfs_order_whole(r->routes.order, tensor))
			continue;
		spans = mfs_tensor_spans(&t, r->c->layouts[t.layout].block_bytes);
		most_spans = spans > most_spans ? spans : most_spans;
		r->routes.leg_of[tensor] = legs;
		parts[legs++] = (mfs_order_part){tensor, 0, t.size};
	}
	r->routes.touched_bytes = most_spans / 8 + 1;
	err = route_make(&r->routes.execution, parts, legs);
	free(parts);
	return err;
}

/* The numbers of a shard in its name: "model-00002-of-00004.gguf". Its first digit,
 * or NULL. */
static const char *shard_number(const char *name)
{
	const char *of = strstr(name, "-of-");

	return of && of - name > 5 && of[-6] == '-' && strspn(of - 5, "0123456789") == 5 ? of - 5
											 : NULL;
}

static bool same_model(const char *a, const char *b)
{
	const char *x = shard_number(a), *y = shard_number(b);

	return x && y && x - a == y - b && !memcmp(a, b, (size_t)(x - a)) && !strcmp(x + 5, y + 5);
}

/* Shards of one model are neighbours: files are sorted by name. */
static void number_models(struct reader *r, uint32_t count)
{
	uint32_t model = 0, file = 0;
	mfs_root_tensor t;

	for (uint32_t i = 0; i < count; i++) {
		mfs_root_get_tensor(&r->c->root, i, &t);
		if (t.file != file && !same_model(r->c->file_names[file], r->c->file_names[t.file]))
			model++;
		file = t.file;
		r->routes.models[i] = model;
	}
}

int routes_new(struct reader *r)
{
	uint32_t count = r->c->root.count[MFS_SEC_TENSORS];
	struct routes *routes = &r->routes;
	int err;

	routes->replay_strayed = UINT64_MAX;
	routes->expert_layer = MFS_ORDER_NONE;
	routes->leg_of = calloc((size_t)count + 1, sizeof(*routes->leg_of));
	routes->models = calloc((size_t)count + 1, sizeof(*routes->models));
	routes->resident = calloc((size_t)count + 1, 1);
	if (!routes->leg_of || !routes->models || !routes->resident)
		return MFS_E_MEMORY;
	number_models(r, count);
	err = make_order(r, count);
	if (!err)
		err = make_execution(r, count);
	return err ? err : route_make(&routes->replay, r->c->replay, r->c->replay_count);
}

void routes_free(struct reader *r)
{
	for (int i = 0; i < WALKS; i++)
		free(r->routes.walks[i].touched);
	mfs_order_free(r->routes.order);
	route_free(&r->routes.execution);
	route_free(&r->routes.replay);
	free(r->routes.leg_of);
	free(r->routes.models);
	free(r->routes.resident);
}
