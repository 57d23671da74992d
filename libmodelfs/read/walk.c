/*
 * Walks: a runtime that computes from the mapped file goes through it in the order of
 * execution (order.h). Its reads jump from one tensor to another; when they jump to
 * the one that the order names, the model is walked through: what follows is fetched
 * while the current tensor is read, up to the window.
 */
#include <string.h>

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

bool walk_active(const struct reader *r, const struct walk *w)
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

/* The walk of the leg's model; NULL: there is none. */
static struct walk *find_walk(struct reader *r, uint32_t leg)
{
	for (int i = 0; i < WALKS; i++) {
		struct walk *w = &r->routes.walks[i];

		if (w->used && leg >= w->first && leg < w->end)
			return w;
	}
	return NULL;
}

/* The kernel reads ahead, and around a fault, beyond the tensor that is wanted. What
 * it has of a tensor that is yet to come is not fetched there; of one that the lap
 * has been at, it may be gone when the next lap comes. */
void walk_cover(struct reader *r, uint32_t tensor, uint64_t begun, uint64_t from, uint64_t to)
{
	uint32_t leg = r->routes.leg_of[tensor];
	struct walk *w = leg == MFS_ORDER_NONE ? NULL : find_walk(r, leg);

	if (w && leg == w->leg) {
		w->read += to - from;
		seen_mark(r, tensor, from, to);
	} else if (w && leg > w->leg) {
		seen_mark_whole(r, tensor, begun, from, to);
	}
}

static void forget(struct reader *r, uint32_t from, uint32_t to)
{
	for (uint32_t i = from; i < to; i++)
		seen_forget(r, r->routes.execution.legs[i].tensor);
}

static struct walk *oldest_walk(struct reader *r)
{
	struct walk *oldest = &r->routes.walks[0];

	for (int i = 0; i < WALKS; i++) {
		struct walk *w = &r->routes.walks[i];

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

static struct walk *begin_walk(struct reader *r, uint32_t leg)
{
	struct walk *w = oldest_walk(r);

	*w = (struct walk){.used = true, .leg = leg, .stray = MFS_ORDER_NONE};
	find_model(r, w, leg);
	forget(r, w->first, w->end);
	return w;
}

/* Bytes of the leg that need no read any more. */
static uint64_t leg_seen(const struct reader *r, uint32_t i)
{
	return seen_bytes(r, r->routes.execution.legs[i].tensor);
}

/* Goes on with another leg; `wrapped`: with a new lap. */
static void enter(struct reader *r, struct walk *w, uint32_t leg, bool wrapped)
{
	uint64_t place;

	if (wrapped)
		w->lap += walk_bytes(r, w);
	if (leg > w->leg) {
		for (uint32_t i = w->leg + 1; i < leg; i++)
			r->routes.resident[i] = !leg_seen(r, i);
		forget(r, w->leg, leg);
	} else {
		forget(r, w->first, w->end);
	}
	w->leg = leg;
	w->stray = MFS_ORDER_NONE;
	w->read = leg_seen(r, leg);
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
			bytes += leg_bytes(&r->routes.execution.legs[i]) - leg_seen(r, i);
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

void walk_note(struct reader *r, const struct place *p, struct stream *s, bool begun)
{
	uint32_t leg = r->routes.leg_of[p->tensor];
	struct walk *w;

	if (leg == MFS_ORDER_NONE)
		return;
	w = find_walk(r, leg);
	if (!w)
		w = begin_walk(r, leg);
	r->routes.resident[leg] = 0;
	if (leg != w->leg)
		note_jump(r, w, leg, s, begun);
	if (leg != w->leg)
		return;
	w->last_use = r->note_clock;
	/* One that comes from afar in the order of the file is not the walk's. */
	if (!walk_active(r, w) || (!s->walked && s->origin + SMALL_BYTES < p->tensor_offset))
		return;
	s->walked = true;
	/* Streams of the tensor end with it; they need not prove themselves again. */
	s->limit = p->tensor_offset + leg_of_walk(r, w)->to;
	if (p->length >= ROUTE_LONG_READ)
		s->window = prefetch_window(r);
}

/* How far the leg has been read: one reader's place, or the sum of several. */
static uint64_t walk_next(const struct reader *r, const struct walk *w)
{
	uint64_t read = w->read, bytes = leg_bytes(leg_of_walk(r, w));

	return leg_place(r, w) + (read < bytes ? read : bytes);
}

void walk_advance(struct reader *r, struct walk *w)
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
		uint32_t i = route_leg_at(route, position);
		const struct leg *leg = &route->legs[i];
		uint64_t at = leg->from + (position - leg->start);

		if (r->routes.resident[i])
			behind = leg->to - at;
		else
			switch (route_step(r, leg, at, &behind)) {
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
