#include "share.h"

#include <stdlib.h>
#include <string.h>

#include "mfs_xxhash.h"
#include "problem.h"

/* A fingerprint is taken from so many bytes at the head, middle and end. */
#define PRINT_BYTES 4096u

struct candidate {
	uint64_t print;
	bool fresh; /* not stored yet */
	uint32_t tensor;
};

int mfs_sharing_read(mfs_sharing *s, const mfs_plan_tensor *t, uint64_t offset, void *out,
		     size_t length)
{
	mfs_plan_file *file = &s->plan->files[t->record.file];
	uint64_t at = t->record.file_offset + offset;
	int error = file->source.read_at(&file->source, at, out, length);

	if (error)
		return mfs_problem_set(s->why, error, at, "%s: cannot read at offset 0x%llx: %s",
				       file->path, (unsigned long long)at, mfs_error_text(error));
	return 0;
}

unsigned mfs_sharing_class(const mfs_root_tensor *r)
{
	return r->cls == MFS_DISK_PLAIN ? MFS_DISK_WEIGHTS : r->cls;
}

/* Of what must be equal for the frames to fit; spans can be made so. */
static uint64_t cut_print(const mfs_root_tensor *r)
{
	const uint64_t cut[4] = {r->layout, r->size, r->slice_blocks,
				 r->flags | (uint64_t)mfs_sharing_class(r) << 8};

	return XXH3_64bits(cut, sizeof(cut));
}

static int fingerprint(mfs_sharing *s, const mfs_plan_tensor *t, uint64_t *out)
{
	uint64_t size = t->record.size, part = size < PRINT_BYTES ? size : PRINT_BYTES;
	const uint64_t at[3] = {0, (size - part) / 2, size - part};
	uint64_t print = cut_print(&t->record);
	int error = 0;

	for (int i = 0; i < (size > part ? 3 : 1) && !error; i++) {
		error = mfs_sharing_read(s, t, at[i], s->buffer[0], part);
		print = XXH3_64bits_withSeed(s->buffer[0], part, print);
	}
	*out = print;
	return error;
}

static bool cut_alike(const mfs_root_tensor *a, const mfs_root_tensor *b)
{
	return a->layout == b->layout && a->size == b->size && a->slice_blocks == b->slice_blocks &&
	       a->flags == b->flags && mfs_sharing_class(a) == mfs_sharing_class(b);
}

/* A hash would do but for those who search for two inputs with the same one. */
int mfs_sharing_compare(mfs_sharing *s, const mfs_plan_tensor *a, uint64_t at_a,
			const mfs_plan_tensor *b, uint64_t at_b, uint64_t bytes, bool *equal)
{
	*equal = true;
	for (uint64_t at = 0; *equal && at < bytes; at += MFS_SHARE_STEP) {
		size_t n = bytes - at < MFS_SHARE_STEP ? bytes - at : MFS_SHARE_STEP;
		int error;

		if (atomic_load(s->cancel))
			return mfs_problem_set(s->why, MFS_E_CANCELLED, UINT64_MAX, "cancelled");
		error = mfs_sharing_read(s, a, at_a + at, s->buffer[0], n);
		if (!error)
			error = mfs_sharing_read(s, b, at_b + at, s->buffer[1], n);
		if (error)
			return error;
		*equal = !memcmp(s->buffer[0], s->buffer[1], n);
	}
	return 0;
}

static int same_bytes(mfs_sharing *s, const mfs_plan_tensor *a, const mfs_plan_tensor *b,
		      bool *same)
{
	*same = cut_alike(&a->record, &b->record);
	return *same ? mfs_sharing_compare(s, a, 0, b, 0, a->record.size, same) : 0;
}

static int by_print(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;

	if (x->print != y->print)
		return x->print < y->print ? -1 : 1;
	if (x->fresh != y->fresh)
		return x->fresh ? 1 : -1;
	return x->tensor < y->tensor ? -1 : x->tensor > y->tensor;
}

/* Candidates with one fingerprint, stored ones first, else in the order of their
 * tensors: each is compared with the first; different ones that look alike are not
 * looked for. */
static int share_run(mfs_sharing *s, const struct candidate *run, uint32_t count)
{
	const mfs_plan_tensor *first = &s->plan->tensors[run[0].tensor];
	int error = 0;

	for (uint32_t i = 1; i < count && !error; i++) {
		mfs_plan_tensor *t = &s->plan->tensors[run[i].tensor];
		bool same;

		if (!run[i].fresh)
			continue;
		error = same_bytes(s, first, t, &same);
		/* Damage in what is stored already; if it was the other one that could
		 * not be read, packing it will say so. */
		if (error && error != MFS_E_CANCELLED && first->stored)
			error = same = 0;
		if (!error && same)
			t->twin = run[0].tensor;
	}
	return error;
}

/* Where a stored tensor's own bytes can be had: from its place in its file. */
static bool lies_in_its_file(const mfs_plan *plan, uint32_t number)
{
	const mfs_root_tensor *t = &plan->tensors[number].record;
	const mfs_root_file *f = &plan->files[t->file].record;
	uint64_t low = f->first_extent, high = low + f->extent_count;

	while (low < high) {
		uint64_t middle = low + (high - low) / 2;
		const mfs_root_extent *e = &plan->extents[middle];

		if (e->file_offset == t->file_offset)
			return e->kind == MFS_EXTENT_TENSOR && e->tensor == number &&
			       !e->source_offset && e->length == t->size;
		if (e->file_offset < t->file_offset)
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}

bool mfs_sharing_allowed(const mfs_plan *plan, uint32_t number)
{
	const mfs_plan_tensor *t = &plan->tensors[number];

	if (t->record.flags & (MFS_TENSOR_DELTA | MFS_TENSOR_DERIVED))
		return false;
	return !t->stored || lies_in_its_file(plan, number);
}

static int by_value(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* Cuts of the new tensors, sorted: stored ones that are cut otherwise need not be
 * read. */
static uint32_t fresh_cuts(const mfs_plan *plan, uint64_t *cuts)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < plan->tensor_count; i++)
		if (!plan->tensors[i].stored)
			cuts[n++] = cut_print(&plan->tensors[i].record);
	qsort(cuts, n, sizeof(*cuts), by_value);
	return n;
}

static int find_candidates(mfs_sharing *s, struct candidate *candidates, uint32_t *count)
{
	const mfs_plan *plan = s->plan;
	uint64_t *cuts = calloc(plan->tensor_count + 1u, sizeof(*cuts));
	uint32_t n = 0, fresh;
	int error = 0;

	if (!cuts)
		return mfs_problem_no_memory(s->why);
	fresh = fresh_cuts(plan, cuts);
	for (uint32_t i = 0; i < plan->tensor_count && !error; i++) {
		const mfs_plan_tensor *t = &plan->tensors[i];
		uint64_t cut = cut_print(&t->record);

		if (!mfs_sharing_allowed(plan, i) ||
		    !bsearch(&cut, cuts, fresh, sizeof(*cuts), by_value))
			continue;
		candidates[n] = (struct candidate){.fresh = !t->stored, .tensor = i};
		error = fingerprint(s, t, &candidates[n].print);
		if (!error)
			n++;
		else if (t->stored)
			error = 0; /* damage there is no reason to fail here */
	}
	free(cuts);
	*count = n;
	return error;
}

static int share_alike(mfs_sharing *s, struct candidate *candidates)
{
	uint32_t n = 0, from = 0;
	int error = find_candidates(s, candidates, &n);

	if (error)
		return error;
	qsort(candidates, n, sizeof(*candidates), by_print);
	for (uint32_t i = 1; i <= n && !error; i++) {
		if (i < n && candidates[i].print == candidates[from].print)
			continue;
		error = share_run(s, candidates + from, i - from);
		from = i;
	}
	return error;
}

int mfs_plan_share(mfs_plan *plan, const atomic_int *cancel, mfs_problem *why)
{
	mfs_sharing s = {.plan = plan, .cancel = cancel, .why = why};
	struct candidate *candidates = calloc(plan->tensor_count + 1u, sizeof(*candidates));
	int error;

	s.buffer[0] = malloc(MFS_SHARE_STEP);
	s.buffer[1] = malloc(MFS_SHARE_STEP);
	if (candidates && s.buffer[0] && s.buffer[1])
		error = share_alike(&s, candidates);
	else
		error = mfs_problem_no_memory(why);
	free(candidates);
	if (!error)
		error = mfs_sharing_spans(&s);
	free(s.buffer[0]);
	free(s.buffer[1]);
	return error;
}

void mfs_plan_cut_twins(mfs_plan *plan)
{
	for (uint32_t i = 0; i < plan->tensor_count; i++) {
		mfs_plan_tensor *t = &plan->tensors[i];

		if (t->twin == MFS_NO_TENSOR)
			continue;
		t->record.span_blocks = plan->tensors[t->twin].record.span_blocks;
		t->spans = plan->tensors[t->twin].spans;
	}
}
