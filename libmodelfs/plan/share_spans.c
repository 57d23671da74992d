/* Which spans of new tensors are those of other tensors: see share.h. */
#include <stdlib.h>
#include <string.h>

#include "carried.h"
#include "container.h"
#include "mfs_xxhash.h"
#include "problem.h"
#include "share.h"

/* Tensors are compared where they have the same bytes at one of these places: at 0, and
 * from PROBE_FIRST on at each PROBE_STEP times the one before. */
#define PROBE_BYTES 512u
#define PROBE_FIRST (256u << 10)
#define PROBE_STEP  16

/* Smaller tensors have no spans to speak of. */
#define TENSOR_MIN (64u << 10)

/* Of alike ones before it that a tensor could share spans with so many are considered. */
#define NEIGHBOURS 8

/* Less than one span in so many is not worth taking the tables of another tensor. */
#define LEAST_SHARE 8

/* Tensors of one kind have frames of one kind. */
#define KINDS (MFS_LAYOUTS_MAX * MFS_DISK_CLASSES * 2)

struct kind {
	uint32_t file; /* the first one that has such tensors */
	bool any, fresh, several;
};

struct probe {
	uint64_t print;
	uint32_t tensor;
	bool fresh;
};

/* A place where a tensor has the same bytes as one before it. */
struct vote {
	uint32_t tensor, mate;
};

struct search {
	mfs_sharing *s;
	struct kind kinds[KINDS];
	struct probe *probes;
	struct vote *votes;
	uint64_t probe_count, probe_room, vote_count, vote_room;
};

static int no_memory(const struct search *f)
{
	return mfs_problem_no_memory(f->s->why);
}

/* Makes room for one more record behind `count` of them. */
static bool grow(void **records, uint64_t count, uint64_t *room, size_t size)
{
	void *more;

	if (count < *room)
		return true;
	more = realloc(*records, (*room ? 2 * *room : 256) * size);
	if (!more)
		return false;
	*room = *room ? 2 * *room : 256;
	*records = more;
	return true;
}

static struct kind *kind_of(struct search *f, const mfs_root_tensor *r)
{
	unsigned literal = (r->flags & MFS_TENSOR_LITERAL) != 0;

	return &f->kinds[(r->layout * MFS_DISK_CLASSES + mfs_sharing_class(r)) * 2 + literal];
}

/* What was asked to be coded in a certain way is not stored in another. */
static bool may_have_probes(const mfs_plan *plan, uint32_t number)
{
	const mfs_plan_tensor *t = &plan->tensors[number];

	return t->record.size >= TENSOR_MIN && t->twin == MFS_NO_TENSOR &&
	       (!t->stored || plan->codec == MFS_PLAN_AUTO) && mfs_sharing_allowed(plan, number);
}

/* Frames of a delta are nothing to others. */
static bool may_own(const mfs_plan *plan, const mfs_plan_tensor *t)
{
	return t->stored || !plan->files[t->record.file].delta_of;
}

static void find_kinds(struct search *f)
{
	const mfs_plan *plan = f->s->plan;

	for (uint32_t i = 0; i < plan->tensor_count; i++) {
		const mfs_plan_tensor *t = &plan->tensors[i];
		struct kind *kind = kind_of(f, &t->record);

		if (!may_have_probes(plan, i))
			continue;
		if (kind->any && kind->file != t->record.file)
			kind->several = true;
		if (!kind->any)
			kind->file = t->record.file;
		kind->any = true;
		kind->fresh |= !t->stored;
	}
}

/* ---- places with the same bytes ---- */

/* Zeros and other repeated words are no sign of anything. */
static bool tells_something(const uint8_t bytes[PROBE_BYTES])
{
	return memcmp(bytes, bytes + 8, PROBE_BYTES - 8) != 0;
}

static int probe_tensor(struct search *f, uint32_t number)
{
	const mfs_plan_tensor *t = &f->s->plan->tensors[number];
	uint64_t kind = (uint64_t)(kind_of(f, &t->record) - f->kinds);
	uint8_t *bytes = f->s->buffer[0];

	for (uint64_t at = 0; at <= t->record.size - PROBE_BYTES;
	     at = at ? at * PROBE_STEP : PROBE_FIRST) {
		int error = mfs_sharing_read(f->s, t, at, bytes, PROBE_BYTES);

		if (error)
			return t->stored ? 0 : error; /* damage there is no reason to fail here */
		if (!tells_something(bytes))
			continue;
		if (!grow((void **)&f->probes, f->probe_count, &f->probe_room, sizeof(*f->probes)))
			return no_memory(f);
		f->probes[f->probe_count++] = (struct probe){
		    XXH3_64bits_withSeed(bytes, PROBE_BYTES, kind ^ at << 12), number, !t->stored};
	}
	return 0;
}

static int probe_tensors(struct search *f)
{
	const mfs_plan *plan = f->s->plan;
	int error = 0;

	for (uint32_t i = 0; i < plan->tensor_count && !error; i++) {
		const struct kind *kind = kind_of(f, &plan->tensors[i].record);

		if (kind->several && kind->fresh && may_have_probes(plan, i))
			error = probe_tensor(f, i);
	}
	return error;
}

/* Stored ones first, else in the order of their tensors. */
static int by_print(const void *a, const void *b)
{
	const struct probe *x = a, *y = b;

	if (x->print != y->print)
		return x->print < y->print ? -1 : 1;
	if (x->fresh != y->fresh)
		return x->fresh ? 1 : -1;
	return x->tensor < y->tensor ? -1 : x->tensor > y->tensor;
}

static int by_tensor(const void *a, const void *b)
{
	const struct vote *x = a, *y = b;

	if (x->tensor != y->tensor)
		return x->tensor < y->tensor ? -1 : 1;
	return x->mate < y->mate ? -1 : x->mate > y->mate;
}

/* Within a file the same bytes are rare, and looking for them would cost each model. */
static bool may_be_mates(struct search *f, uint32_t tensor, uint32_t mate)
{
	const mfs_plan *plan = f->s->plan;
	const mfs_plan_tensor *t = &plan->tensors[tensor], *m = &plan->tensors[mate];

	return t->record.file != m->record.file && may_own(plan, m) &&
	       kind_of(f, &t->record) == kind_of(f, &m->record);
}

/* Of probe `i` with the nearest ones of the same bytes before it. */
static int vote(struct search *f, uint64_t i)
{
	const struct probe *p = &f->probes[i];

	for (uint64_t k = i; p->fresh && k > 0 && i - k < NEIGHBOURS; k--) {
		const struct probe *before = &f->probes[k - 1];

		if (before->print != p->print)
			break;
		if (!may_be_mates(f, p->tensor, before->tensor))
			continue;
		if (!grow((void **)&f->votes, f->vote_count, &f->vote_room, sizeof(*f->votes)))
			return no_memory(f);
		f->votes[f->vote_count++] = (struct vote){p->tensor, before->tensor};
	}
	return 0;
}

/* ---- spans with the same bytes ---- */

/* A tensor can be cut as another if its rows stay whole, where they are, and its spans
 * no larger than they may be: readers may rely on both. */
static bool can_be_cut_as(const mfs_plan *plan, const mfs_plan_tensor *t,
			  const mfs_plan_tensor *mate)
{
	uint64_t block = t->layout->block_bytes, span = mate->record.span_blocks * block;
	uint64_t own = t->record.span_blocks * block, row = t->row_bytes ? t->row_bytes : 1;
	uint64_t most =
	    plan->frame_bytes < MFS_PLAN_CODES_MAX ? plan->frame_bytes : MFS_PLAN_CODES_MAX;

	return mate->record.span_blocks <= t->record.slice_blocks &&
	       span <= (own > most ? own : most) && (span % row == 0 || own % row);
}

/* Whether all places of the container that is being written can be counted from those
 * of the leader. */
static bool within_reach(const mfs_plan *plan, const mfs_plan_tensor *leader)
{
	uint64_t carried = plan->carried ? plan->carried->container->sb.container_size : 0;
	uint64_t base = carried;

	for (unsigned s = 0; s < MFS_SLOTS && leader->stored; s++)
		if (mfs_plan_has_slot(leader, s) && leader->record.slot[s].base < base)
			base = leader->record.slot[s].base;
	/* Index and padding take much less than as much as the files. */
	return carried - base + 2 * plan->original_bytes < UINT64_C(1) << MFS_FRAME_OFFSET_BITS;
}

static bool same_place(const mfs_span *a, const mfs_span *b)
{
	return a->offset == b->offset && a->blocks == b->blocks;
}

/* Fills in the owners of `t`, which is cut as `mate`; returns how many spans they have. */
static int64_t find_owners(struct search *f, mfs_plan_tensor *t, uint32_t mate)
{
	const mfs_plan_tensor *m = &f->s->plan->tensors[mate];
	uint32_t block = t->layout->block_bytes;
	int64_t found = 0;

	for (uint64_t i = 0; i < t->spans; i++) {
		mfs_span span, other;
		bool equal = false;
		int error = 0;

		t->owners[i].tensor = MFS_NO_TENSOR;
		if (i >= m->spans)
			continue;
		mfs_tensor_span(&t->record, block, i, &span);
		mfs_tensor_span(&m->record, block, i, &other);
		if (same_place(&span, &other))
			error = mfs_sharing_compare(f->s, t, span.offset, m, span.offset,
						    span.bytes, &equal);
		if (error)
			return error;
		if (!equal)
			continue;
		t->owners[i] =
		    mfs_plan_owns(m, i) ? (mfs_plan_owner){mate, (uint32_t)i} : m->owners[i];
		found++;
	}
	return found;
}

/* Damage in what is stored already is no reason to fail; packing will say so if it was
 * the other one that could not be read. */
static bool forgiven(int64_t error, const mfs_plan_tensor *mate)
{
	return error != MFS_E_CANCELLED && mate->stored;
}

static int share_with(struct search *f, uint32_t tensor, uint32_t mate)
{
	mfs_plan *plan = f->s->plan;
	mfs_plan_tensor *t = &plan->tensors[tensor], as_cut = *t;
	const mfs_plan_tensor *m = &plan->tensors[mate];
	int64_t found;

	as_cut.record.span_blocks = m->record.span_blocks;
	as_cut.spans = mfs_tensor_spans(&as_cut.record, t->layout->block_bytes);
	as_cut.leader = m->leader == MFS_NO_TENSOR ? mate : m->leader;
	if (!can_be_cut_as(plan, t, m) || as_cut.spans > UINT32_MAX ||
	    !within_reach(plan, &plan->tensors[as_cut.leader]))
		return 0;
	as_cut.owners = calloc(as_cut.spans, sizeof(*as_cut.owners));
	if (!as_cut.owners)
		return no_memory(f);
	found = find_owners(f, &as_cut, mate);
	if (found > 0 && (uint64_t)found >= as_cut.spans / LEAST_SHARE) {
		*t = as_cut;
		mfs_plan_note_span(plan, t);
	} else {
		free(as_cut.owners);
	}
	return found < 0 && !forgiven(found, m) ? (int)found : 0;
}

/* The better one to share spans with, which both have the same number of places in common
 * with a tensor: the longer one, as far as the tensor goes. */
static uint32_t better(const mfs_plan *plan, uint32_t tensor, uint32_t a, uint32_t b)
{
	uint64_t size = plan->tensors[tensor].record.size, size_a = plan->tensors[a].record.size;

	return (size_a < size ? size_a : size) > plan->tensors[b].record.size ? a : b;
}

/* Votes from `first` on for the same tensor and mate. */
static uint64_t same_votes(const struct search *f, uint64_t first)
{
	uint64_t n = 1;

	while (first + n < f->vote_count && !by_tensor(&f->votes[first], &f->votes[first + n]))
		n++;
	return n;
}

/* Each tensor with the one it has most places in common with. Those before a tensor have
 * their owners by then. */
static int share_by_votes(struct search *f)
{
	uint64_t at = 0;
	int error = 0;

	while (at < f->vote_count && !error) {
		uint32_t tensor = f->votes[at].tensor, best = f->votes[at].mate;
		uint64_t most = 0;

		for (uint64_t n; at < f->vote_count && f->votes[at].tensor == tensor; at += n) {
			uint32_t mate = f->votes[at].mate;

			n = same_votes(f, at);
			if (n >= most)
				best = n > most ? mate : better(f->s->plan, tensor, best, mate);
			if (n > most)
				most = n;
		}
		error = share_with(f, tensor, best);
	}
	return error;
}

int mfs_sharing_spans(mfs_sharing *s)
{
	struct search *f = calloc(1, sizeof(*f));
	int error;

	if (!f)
		return mfs_problem_no_memory(s->why);
	f->s = s;
	find_kinds(f);
	error = probe_tensors(f);
	if (!error && f->probe_count)
		qsort(f->probes, f->probe_count, sizeof(*f->probes), by_print);
	for (uint64_t i = 0; i < f->probe_count && !error; i++)
		error = vote(f, i);
	if (!error && f->vote_count) {
		qsort(f->votes, f->vote_count, sizeof(*f->votes), by_tensor);
		error = share_by_votes(f);
	}
	free(f->probes);
	free(f->votes);
	free(f);
	return error;
}

/* ---- once codings are chosen ---- */

static int load_tables(mfs_plan *plan, uint32_t leader, mfs_problem *why)
{
	mfs_plan_tensor *t = &plan->tensors[leader];
	int error = 0;

	for (unsigned s = 0; s < MFS_SLOTS && t->stored && !error; s++)
		if (t->record.slot[s].tables != MFS_NO_TABLES && !t->tables[s])
			error = mfs_carried_load_tables(plan->carried, t, s);
	if (error)
		return mfs_problem_set(why, error, UINT64_MAX,
				       "%s: cannot read the tables of '%.*s': %s",
				       plan->carried->container->path, t->record.name_length,
				       t->record.name, mfs_error_text(error));
	return 0;
}

static int by_owner(const void *a, const void *b)
{
	const mfs_plan_alias *x = a, *y = b;

	if (x->owner != y->owner)
		return x->owner < y->owner ? -1 : 1;
	if (x->owner_index != y->owner_index)
		return x->owner_index < y->owner_index ? -1 : 1;
	return x->tensor < y->tensor ? -1 : x->tensor > y->tensor;
}

static void add_aliases(mfs_plan *plan, uint32_t tensor)
{
	const mfs_plan_tensor *t = &plan->tensors[tensor];

	for (uint64_t i = 0; t->owners && i < t->spans; i++)
		if (!mfs_plan_owns(t, i))
			plan->aliases[plan->alias_count++] = (mfs_plan_alias){
			    t->owners[i].tensor, t->owners[i].index, tensor, (uint32_t)i};
}

static int list_aliases(mfs_plan *plan, mfs_problem *why)
{
	uint64_t count = 0;

	for (uint32_t i = 0; i < plan->tensor_count; i++)
		count += plan->tensors[i].owners ? plan->tensors[i].spans : 0;
	if (!count)
		return 0;
	plan->aliases = calloc(count, sizeof(*plan->aliases));
	if (!plan->aliases)
		return mfs_problem_no_memory(why);
	for (uint32_t i = 0; i < plan->tensor_count; i++)
		add_aliases(plan, i);
	qsort(plan->aliases, plan->alias_count, sizeof(*plan->aliases), by_owner);
	return 0;
}

int mfs_plan_settle_shared(mfs_plan *plan, mfs_problem *why)
{
	int error = 0;

	for (uint32_t i = 0; i < plan->tensor_count && !error; i++) {
		mfs_plan_tensor *t = &plan->tensors[i];

		if (t->leader == MFS_NO_TENSOR)
			continue;
		t->record.cls = plan->tensors[t->leader].record.cls;
		t->rules.match_level = plan->tensors[t->leader].rules.match_level;
		error = load_tables(plan, t->leader, why);
	}
	return error ? error : list_aliases(plan, why);
}
