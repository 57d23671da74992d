/*
 * Routes: orders of reading other than the file's.
 *
 * - A *walk* (walk.c): a runtime goes through a model in the order of execution.
 * - An *expert* (expert.c): a token takes one slice of each stacked tensor of a layer.
 * - A *replay* (replay.c): a recorded trace is followed.
 *
 * Walks and experts leave out what reads have had already (seen.c).
 *
 * A route is a row of legs (legs.c). routes.c makes all routes of a container and
 * tells them of each read; prefetch.c lets them go ahead. The reader's lock guards
 * what is in here.
 */
#ifndef MFS_ROUTES_H
#define MFS_ROUTES_H

#include <stdbool.h>
#include <stdint.h>

#include "order.h"

struct reader;
struct span;
struct stream;

/* ---- legs ---- */

/* What is touched together, one after the other: part of a tensor, or all of it. */
struct leg {
	uint32_t tensor;
	uint64_t from, to; /* bytes of the tensor */
	uint64_t start;	   /* on the route: bytes of the legs before it */
};

struct route {
	struct leg *legs;
	uint32_t count;
	uint64_t bytes;
	uint32_t *sorted; /* legs by tensor and place */
};

static inline uint64_t leg_bytes(const struct leg *leg)
{
	return leg->to - leg->from;
}

/* Need no lock. */
int route_make(struct route *out, const mfs_order_part parts[], uint32_t count);
void route_free(struct route *route); /* what it holds */
/* The leg with byte `at` of the tensor: the last one that begins at or before it.
 * MFS_ORDER_NONE: there is none. */
uint32_t route_leg_with(const struct route *route, uint32_t tensor, uint64_t at);
/* The leg that holds byte `position` of the route (below its bytes). */
uint32_t route_leg_at(const struct route *route, uint64_t position);

/* Sees to the span at byte `at` of the leg's tensor; *behind is set to the bytes
 * from there to the end of the span or the leg. Requests may reach to the end of
 * `reach`, a part of the tensor with that byte. Lock held. */
enum step { STEP_LATER, STEP_DONE, STEP_FAILED };
enum step route_fetch(struct reader *r, const struct leg *leg, const struct leg *reach, uint64_t at,
		      uint64_t *behind);
/* The same, but for what was seen (seen.c). */
enum step route_step(struct reader *r, const struct leg *leg, uint64_t at, uint64_t *behind);
/* Lets the requests of a span bring along what follows it, but nothing of what
 * lies behind its file. Lock held. */
void route_widen(struct reader *r, struct span *span);
/* Holds the requests of a span to what follows it on the leg. Lock held. */
void route_limit_reach(struct reader *r, struct span *span, const struct leg *leg);

/* ---- the routes of a container ---- */

/* A read this long is no fault here and there: a runtime is at work. */
#define ROUTE_LONG_READ (64u << 10)

/* A model that is walked through in the order of execution. Places are bytes on
 * its part of the route; they go on rising from lap to lap (token to token). */
struct walk {
	bool used;
	uint32_t first, end; /* legs of its model */
	uint32_t leg;	     /* that is being read */
	uint32_t stray;	     /* that one read was in, off the order */
	uint64_t lap;	     /* place where the lap began */
	uint64_t read;	     /* bytes of the leg that were read */
	uint64_t ahead;	     /* fetched or being fetched up to here */
	unsigned trust;	     /* how well the reads followed the order */
	bool cyclic;	     /* the last leg was followed by the first one */
	uint64_t last_use;
};

#define WALKS 4

/* One expert of one layer: the rest of the slice that was touched first, then
 * its sister slices. */
struct expert {
	struct leg legs[MFS_ORDER_PARTS_MAX];
	uint32_t count;
	uint32_t tensor; /* first part: what the expert is known by */
	uint64_t from;
	uint64_t bytes; /* of the legs */
	uint64_t whole; /* of the expert */
	uint64_t read;	/* of it */
	uint64_t ahead; /* fetched or being fetched up to here */
	uint64_t clock;
};

#define EXPERTS 16

/* Spans that were read and that the kernel keeps, as far as reads tell (seen.c). */
struct seen {
	uint64_t *first; /* by tensor: byte of its first bit */
	uint8_t *bits;	 /* NULL: there would be too many */
	uint64_t again;	 /* the read that last told that something was not kept */
};

struct routes {
	mfs_order *order;	/* by tensor numbers */
	struct route execution; /* all models, one after another */
	uint32_t *models;	/* by tensor: number of its model */
	uint32_t *leg_of;	/* by tensor; MFS_ORDER_NONE: no leg */
	uint8_t *resident;	/* by leg: the last lap went past it without a read */
	struct seen seen;
	bool mixture; /* a token takes some experts of a layer, and others not */
	struct walk walks[WALKS];

	struct expert experts[EXPERTS];
	uint32_t expert_layer; /* of the expert that was begun last */
	uint64_t expert_clock; /* counts changes of the layer */

	struct route replay; /* what was recorded; no legs: nothing */
	uint64_t replay_next, replay_ahead;
	uint64_t replay_strayed; /* place of the last read that was off the window */
	unsigned replay_misses;	 /* such reads in a row */
	bool replay_cyclic;	 /* its end was followed by its beginning */
};

/* Where a read lies that belongs to no literal bytes: where the fault was that the
 * kernel read around. */
struct place {
	uint32_t file, tensor;
	uint64_t at;		 /* byte of the tensor */
	uint64_t offset, length; /* of the read, in the file */
	uint64_t tensor_offset;	 /* of the tensor, in the file */
};

/* seen.c; lock held, except for the first two. Ranges are bytes of a tensor. */
int seen_new(struct reader *r);
void seen_free(struct reader *r);
/* Every span that the range touches. */
void seen_mark(struct reader *r, uint32_t tensor, uint64_t from, uint64_t to);
/* Spans that end in [from, to) and were read from their beginning: the reads have
 * followed each other since `begun`. True if one of them was marked before. */
bool seen_mark_whole(struct reader *r, uint32_t tensor, uint64_t begun, uint64_t from, uint64_t to);
/* The span with byte `at`; *behind is set to the bytes from there to its end. */
bool seen_at(const struct reader *r, uint32_t tensor, uint64_t at, uint64_t *behind);
/* Of the tensor. */
uint64_t seen_bytes(const struct reader *r, uint32_t tensor);
void seen_forget(struct reader *r, uint32_t tensor);

/* routes.c; lock held, except for the first two */
int routes_new(struct reader *r);
void routes_free(struct reader *r);
/* Follows the order of execution, and experts. `s` is the read's stream, `begun`
 * if it began just now. May widen and limit the stream. */
void routes_note(struct reader *r, const struct place *place, struct stream *s, bool begun);
/* Those that are followed now. */
unsigned routes_active(const struct reader *r);
void routes_advance(struct reader *r);

/* walk.c; lock held */
void walk_note(struct reader *r, const struct place *place, struct stream *s, bool begun);
bool walk_active(const struct reader *r, const struct walk *w);
void walk_advance(struct reader *r, struct walk *w);
/* A read covered [from, to) of the tensor; in a row without a gap since `begun`. */
void walk_cover(struct reader *r, uint32_t tensor, uint64_t begun, uint64_t from, uint64_t to);

/* expert.c; lock held */
void expert_note(struct reader *r, const struct place *place, struct stream *s, bool begun);
/* True if a stream that has not come to this part of a file yet should not go ahead into it:
 * into experts, which its reader may have nothing to do with. */
bool expert_bars(const struct reader *r, const struct stream *s, const mfs_root_extent *extent);
/* As walk_cover(). */
void expert_cover(struct reader *r, uint32_t tensor, uint64_t begun, uint64_t from, uint64_t to);
bool expert_active(const struct reader *r, const struct expert *e);
void expert_advance(struct reader *r, struct expert *e);

/* replay.c; lock held */
/* Follows the replayed trace. True if the read is a part of it. */
bool replay_note(struct reader *r, const struct place *place);
void replay_advance(struct reader *r);

#endif
