/* Replay: a recorded trace is fetched from its beginning, and followed from then on. */
#include "reader.h"

/* After so many reads that are not where the trace expects them, it is not what
 * is going on. */
#define REPLAY_MISSES 8

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

	if (!route->count || (i = route_leg_with(route, p->tensor, p->at)) == MFS_ORDER_NONE)
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

void replay_advance(struct reader *r)
{
	struct routes *routes = &r->routes;
	const struct route *route = &r->routes.replay;
	uint64_t end = routes->replay_next + prefetch_window(r), behind;

	if (!routes->replay_cyclic && end > route->bytes)
		end = route->bytes;
	while (route->count && routes->replay_ahead < end) {
		uint64_t position = routes->replay_ahead % route->bytes;
		uint32_t i = route_leg_at(route, position);
		const struct leg *leg = &route->legs[i], reach = joined_legs(route, i);

		switch (route_fetch(r, leg, &reach, leg->from + (position - leg->start), &behind)) {
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
