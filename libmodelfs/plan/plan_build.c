/* Cuts the files of a plan into tensors and what lies between them; views come last. */
#include "plan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../format/check.h"
#include "carried.h"
#include "plan_sort.h"
#include "problem.h"
#include "view.h"

/* Gaps up to this size are read to see whether they are padding. */
#define GAP_READ_MAX (64u << 10)
/* A source may be hole and data in turns a million times; past this many
 * extents its holes are stored like data. */
#define HOLE_EXTENTS_MAX 4096u

/* ---- what lies between tensors ---- */

static bool all_zero(const uint8_t *bytes, size_t length)
{
	return !length || (!bytes[0] && !memcmp(bytes, bytes + 1, length - 1));
}

static int add_small_gap(mfs_plan *plan, uint32_t file, uint64_t offset, uint64_t end,
			 mfs_problem *why)
{
	mfs_plan_file *f = &plan->files[file];
	uint8_t bytes[GAP_READ_MAX];
	int error = f->source.read_at(&f->source, offset, bytes, end - offset);

	if (error)
		return mfs_problem_set(why, error, offset, "%s: cannot read at offset 0x%llx: %s",
				       f->path, (unsigned long long)offset, mfs_error_text(error));
	if (all_zero(bytes, end - offset))
		return mfs_plan_add_zeros(plan, offset, end, why);
	return mfs_plan_add_literal(plan, file, offset, end, why);
}

/* Finds the first hole of MFS_PLAN_HOLE_MIN bytes in [*hole, end): true with its
 * bounds, or false where there is none or the file system cannot tell. */
static bool find_hole(int fd, uint64_t *hole, uint64_t *data, uint64_t end)
{
	uint64_t from = *hole;

	while (from < end) {
		off_t start = lseek(fd, (off_t)from, SEEK_HOLE);
		off_t stop;

		if (start < 0 || (uint64_t)start >= end)
			return false;
		stop = lseek(fd, start, SEEK_DATA);
		if (stop < 0 && errno != ENXIO)
			return false;
		/* ENXIO: a hole up to the end of the file. */
		from = stop < 0 || (uint64_t)stop > end ? end : (uint64_t)stop;
		if (from - (uint64_t)start >= MFS_PLAN_HOLE_MIN) {
			*hole = (uint64_t)start;
			*data = from;
			return true;
		}
	}
	return false;
}

static int add_large_gap(mfs_plan *plan, uint32_t file, uint64_t offset, uint64_t end,
			 mfs_problem *why)
{
	int fd = plan->files[file].source.u.fd;
	/* The holes of the original say nothing about a file that is computed. */
	bool computed = mfs_plan_computes(&plan->files[file]);
	uint32_t limit = plan->extent_count + HOLE_EXTENTS_MAX;
	int error = 0;

	while (offset < end && !error) {
		uint64_t hole = offset, data = end;

		if (computed || plan->extent_count >= limit || !find_hole(fd, &hole, &data, end))
			hole = data = end;
		if (hole > offset)
			error = mfs_plan_add_literal(plan, file, offset, hole, why);
		if (!error && data > hole)
			error = mfs_plan_add_zeros(plan, hole, data, why);
		offset = data;
	}
	return error;
}

static int add_gap(mfs_plan *plan, uint32_t file, uint64_t offset, uint64_t end, mfs_problem *why)
{
	if (offset == end)
		return 0;
	if (end - offset <= GAP_READ_MAX)
		return add_small_gap(plan, file, offset, end, why);
	return add_large_gap(plan, file, offset, end, why);
}

/* ---- building ---- */

static int build_file(mfs_plan *plan, uint32_t file, mfs_problem *why)
{
	mfs_plan_file *f = &plan->files[file];
	const mfs_import *import = &f->import;
	uint64_t position = 0;
	int error = 0;

	f->record.first_extent = plan->extent_count;
	for (uint32_t i = 0; i < import->tensor_count && !error; i++) {
		const mfs_import_tensor *t = &import->tensors[i];

		if (!t->size || t->offset < position ||
		    !range_ok(t->offset, t->size, f->source.size))
			return mfs_problem_set(why, MFS_E_INVALID, t->offset,
					       "%s: tensor '%s' lies outside of its place", f->path,
					       t->name);
		error = add_gap(plan, file, position, t->offset, why);
		if (!error)
			error = mfs_plan_add_imported(plan, file, i, why);
		position = t->offset + t->size;
	}
	if (!error)
		error = add_gap(plan, file, position, f->source.size, why);
	f->record.extent_count = plan->extent_count - f->record.first_extent;
	return error;
}

static int compare_names(const void *a, const void *b)
{
	/* strcmp() compares unsigned bytes, as the format asks. */
	return strcmp(((const mfs_plan_file *)a)->name, ((const mfs_plan_file *)b)->name);
}

static bool any_tensor(const mfs_plan *plan)
{
	for (uint32_t i = 0; i < plan->file_count; i++)
		if (plan->files[i].import.tensor_count)
			return true;
	return false;
}

struct ordered_term {
	mfs_root_term term;
	uint32_t order;
};

static int compare_terms(const void *a, const void *b)
{
	const struct ordered_term *x = a, *y = b;

	if (x->term.tensor != y->term.tensor)
		return x->term.tensor < y->term.tensor ? -1 : 1;
	return x->order < y->order ? -1 : x->order > y->order;
}

/* By tensor; those of one tensor stay in the order in which they are applied. */
static int sort_terms(mfs_plan *plan, mfs_problem *why)
{
	struct ordered_term *ordered = calloc(plan->term_count + 1u, sizeof(*ordered));

	if (!ordered)
		return mfs_problem_no_memory(why);
	for (uint32_t i = 0; i < plan->term_count; i++)
		ordered[i] = (struct ordered_term){plan->terms[i], i};
	qsort(ordered, plan->term_count, sizeof(*ordered), compare_terms);
	for (uint32_t i = 0; i < plan->term_count; i++)
		plan->terms[i] = ordered[i].term;
	free(ordered);
	return 0;
}

/* Views refer to tensors of other files, wherever these stand. */
static int build_views(mfs_plan *plan, mfs_problem *why)
{
	bool any = false;
	int error = 0;

	for (uint32_t i = 0; i < plan->file_count && !error; i++) {
		mfs_plan_file *file = &plan->files[i];

		if (file->base)
			file->record.base =
			    (uint32_t)(mfs_plan_find(plan, file->base) - plan->files);
		if (!file->view)
			continue;
		any = true;
		error = mfs_view_build(plan, i, why);
	}
	if (!error && any && mfs_plan_sort(plan) < 0)
		error = mfs_problem_no_memory(why);
	return error;
}

int mfs_plan_build(mfs_plan *plan, mfs_problem *why)
{
	/* What is appended has no room between the superblocks to fill. */
	bool small = plan->original_bytes <= MFS_PLAN_SMALL && !plan->carried;
	int error = 0;

	if (plan->file_count)
		qsort(plan->files, plan->file_count, sizeof(*plan->files), compare_names);
	plan->wants_lead = small && !any_tensor(plan);
	for (uint32_t i = 0; i < plan->file_count && !error; i++)
		if (plan->files[i].carried)
			error = mfs_carried_build_file(plan, i, why);
		else if (!plan->files[i].view)
			error = build_file(plan, i, why);
	if (!error && plan->carried)
		error = mfs_carried_finish(plan, why);
	if (!error && small)
		mfs_plan_choose_lead(plan);
	if (!error)
		error = build_views(plan, why);
	if (!error)
		error = sort_terms(plan, why);
	if (!error)
		error = mfs_views_remark_memory(plan, why);
	return error ? error : mfs_plan_order_by_file(plan, why);
}
