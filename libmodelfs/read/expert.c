/*
 * Experts: of a mixture of experts a token takes one slice of each stacked tensor. The
 * first long read in a slice fetches the rest of it and its sister slices.
 */
#include "reader.h"

/* So many reads in a row begin an expert even if they are short. */
#define EXPERT_HITS 3
/* A stream that has come through so much of a file, and so many slices, goes through
 * all of it. */
#define SCAN_BYTES  (16u << 20)
#define SCAN_SLICES 4

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
		return p->length >= ROUTE_LONG_READ && s->window;
	return s->window && s->tensor == p->tensor && s->origin + p->length >= slice_begin &&
	       (p->length >= ROUTE_LONG_READ || s->hits >= EXPERT_HITS);
}

/* So does one that somebody has announced. */
static bool goes_through(const struct stream *s, uint64_t slice_bytes)
{
	uint64_t scan = SCAN_SLICES * slice_bytes;

	return !s->first || s->next - s->origin >= (scan > SCAN_BYTES ? scan : SCAN_BYTES);
}

bool expert_bars(const struct reader *r, const struct stream *s, const mfs_root_extent *extent)
{
	mfs_order_part parts[MFS_ORDER_PARTS_MAX];

	return s->next <= extent->file_offset &&
	       mfs_order_expert(r->routes.order, extent->tensor, 0, parts) &&
	       !goes_through(s, parts[0].to - parts[0].from);
}

/* A stream that came into the slice from before it: mostly the kernel's, which reads
 * ahead beyond what is wanted, but never by more than two READs. */
static void pass_slice(struct stream *s, const struct place *p, const mfs_order_part *slice)
{
	uint64_t overshoot = 2 * (p->length > ROUTE_LONG_READ ? p->length : ROUTE_LONG_READ);

	if (goes_through(s, slice->to - slice->from))
		s->limit = UINT64_MAX;
	else if (p->offset >= p->tensor_offset + slice->from + overshoot)
		s->limit = p->tensor_offset + slice->to;
	else if (s->limit > s->next)
		s->limit = s->next;
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

void expert_note(struct reader *r, const struct place *p, struct stream *s, bool begun)
{
	mfs_order_part parts[MFS_ORDER_PARTS_MAX];
	unsigned count = mfs_order_expert(r->routes.order, p->tensor, p->at, parts), own = 0;
	struct expert *e;
	uint64_t begin, end;

	while (own < count && parts[own].tensor != p->tensor)
		own++;
	if (own == count)
		return;
	if (!in_slice_only(s, p->tensor_offset + parts[own].from, p, begun)) {
		pass_slice(s, p, &parts[own]);
		return;
	}
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

/* The kernel has not kept this layer's: an expert that is being fetched begins anew. */
static void forget_layer(struct reader *r, const mfs_order_part parts[], unsigned count,
			 uint32_t tensor, uint64_t end)
{
	struct expert *e = find_expert(r, &parts[0]);

	for (unsigned i = 0; i < count; i++)
		seen_forget(r, parts[i].tensor);
	if (!e->count || e->tensor != parts[0].tensor || e->from != parts[0].from)
		return;
	e->ahead = 0;
	pass_expert(e, tensor, end);
}

/* What was read of an expert is not fetched with its sisters, until the kernel reads
 * some of it again. One read tells that but once, however many parts it has. */
void expert_cover(struct reader *r, uint32_t tensor, uint64_t begun, uint64_t from, uint64_t to)
{
	mfs_order_part parts[MFS_ORDER_PARTS_MAX];
	unsigned count;

	if (!mfs_order_name_of(r->routes.order, tensor)->experts ||
	    !seen_mark_whole(r, tensor, begun, from, to) || r->routes.seen.again == r->note_clock)
		return;
	r->routes.seen.again = r->note_clock;
	count = mfs_order_expert(r->routes.order, tensor, from, parts);
	if (!count)
		return;
	forget_layer(r, parts, count, tensor, to);
	seen_mark_whole(r, tensor, begun, from, to);
}

void expert_advance(struct reader *r, struct expert *e)
{
	uint64_t end = e->read + prefetch_window(r), behind;

	if (end > e->bytes)
		end = e->bytes;
	while (e->ahead < end) {
		const struct leg *leg = &e->legs[e->count - 1];

		while (leg->start > e->ahead)
			leg--;
		switch (route_step(r, leg, leg->from + (e->ahead - leg->start), &behind)) {
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

bool expert_active(const struct reader *r, const struct expert *e)
{
	return e->count && e->ahead < e->bytes && r->routes.expert_clock == e->clock;
}
