/* The legs of a route: found, fetched, and asked for along with what follows them. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "reader.h"

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

uint32_t route_leg_with(const struct route *route, uint32_t tensor, uint64_t at)
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

uint32_t route_leg_at(const struct route *route, uint64_t position)
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

enum step route_fetch(struct reader *r, const struct leg *leg, const struct leg *reach, uint64_t at,
		      uint64_t *behind)
{
	struct span *made;
	int err;

	if (!prefetch_span(r, leg->tensor, at, behind, &made, &err))
		return err ? STEP_FAILED : STEP_LATER;
	if (made)
		route_limit_reach(r, made, reach);
	if (*behind > leg->to - at)
		*behind = leg->to - at;
	return STEP_DONE;
}

/* How far the leg goes from byte `at` on before it comes to what was seen. */
static struct leg unseen_part(const struct reader *r, const struct leg *leg, uint64_t at)
{
	struct leg part = *leg;
	uint64_t behind;

	for (unsigned n = 0; n < REACH_SPANS && at < part.to; n++, at += behind)
		if (seen_at(r, leg->tensor, at, &behind))
			part.to = at;
	return part;
}

enum step route_step(struct reader *r, const struct leg *leg, uint64_t at, uint64_t *behind)
{
	struct leg part;

	if (seen_at(r, leg->tensor, at, behind)) {
		if (*behind > leg->to - at)
			*behind = leg->to - at;
		return STEP_DONE;
	}
	part = unseen_part(r, leg, at);
	return route_fetch(r, leg, &part, at, behind);
}
