/* Reading back what was written, before it gets its name. */
#include <stdlib.h>

#include "container.h"
#include "packer.h"
#include "problem.h"

static int report_damage(void *user, const mfs_problem *damage)
{
	mfs_pack_work *w = user;

	mfs_problem_set(w->why, MFS_E_IO, damage->offset, "%s: does not read back as written: %s",
			w->output->path, damage->text);
	return 1;
}

static int report_verifying(void *user, uint64_t done, uint64_t total)
{
	mfs_pack_work *w = user;

	(void)total;
	mfs_pack_report(w, MFS_PACK_VERIFY, done);
	return atomic_load(&w->packer->cancel);
}

/* Memory for reading back: enough to keep every core busy. All of it is touched, and
 * taking it costs time that a small model's verification does not have. */
#define VERIFY_BYTES	  (16u << 20)
#define VERIFY_BYTES_EACH (2u << 20)

static int64_t check_all(mfs_pack_work *w, mfs_container *container)
{
	return w->prove ? container_read_back(container, NULL, w->packer->threads, report_damage,
					      report_verifying, w)
			: mfs_check(container, report_damage, report_verifying, w);
}

/* What was there before is not read again. */
static int64_t check_added(mfs_pack_work *w, mfs_container *container)
{
	bool *fresh = calloc(w->plan->file_count + 1u, sizeof(*fresh));
	int64_t problems;

	if (!fresh)
		return MFS_E_MEMORY;
	for (uint32_t i = 0; i < w->plan->file_count; i++)
		fresh[i] = !w->plan->files[i].carried;
	problems =
	    w->prove ? container_read_back(container, fresh, w->packer->threads, report_damage,
					   report_verifying, w)
		     : container_check_fresh(container, fresh, report_damage, report_verifying, w);
	free(fresh);
	return problems;
}

/* ---- extents ----
 *
 * A span is proven against the bytes at its tensor's place in the source. What is left
 * of a file are its extents: each must hand out its tensor at that very place. */

/* Whether the container has the tensor as it was packed: the same run of the source, in
 * the frames that were made of it, or of its twin. */
static bool is_as_packed(const mfs_plan *plan, uint32_t number, const mfs_root_tensor *t)
{
	const mfs_plan_tensor *planned = &plan->tensors[number];
	const mfs_root_tensor *own = &planned->record, *stored = own;

	if (planned->twin != MFS_NO_TENSOR)
		stored = &plan->tensors[planned->twin].record;
	for (unsigned s = 0; s < MFS_SLOTS; s++)
		if (t->slot[s].first != stored->slot[s].first)
			return false;
	return t->file == own->file && t->file_offset == own->file_offset && t->size == own->size &&
	       t->span_blocks == stored->span_blocks && stored->size == own->size;
}

static bool extent_is_right(const mfs_plan *plan, const mfs_root *root, uint32_t file,
			    const mfs_root_extent *e)
{
	mfs_root_tensor t;

	if (e->kind != MFS_EXTENT_TENSOR)
		return e->kind == MFS_EXTENT_ZEROS;
	mfs_root_get_tensor(root, e->tensor, &t);
	return is_as_packed(plan, e->tensor, &t) && t.file == file && e->source_offset <= t.size &&
	       e->length <= t.size - e->source_offset &&
	       t.file_offset + e->source_offset == e->file_offset;
}

/* Returns where the file's extents first are wrong, or the file's size. */
static uint64_t right_until(const mfs_plan *plan, const mfs_root *root, uint32_t file)
{
	mfs_root_extent e;
	mfs_root_file f;
	uint64_t at = 0;

	mfs_root_get_file(root, file, &f);
	for (uint64_t i = 0; i < f.extent_count; i++, at += e.length) {
		mfs_root_get_extent(root, f.first_extent + i, &e);
		if (e.file_offset != at || !extent_is_right(plan, root, file, &e))
			break;
	}
	return at;
}

/* Of views nothing but a few bytes was packed. */
static int check_extents(const mfs_pack_work *w, const mfs_container *container)
{
	const mfs_plan *plan = w->plan;

	for (uint32_t i = 0; i < plan->file_count; i++) {
		const mfs_plan_file *f = &plan->files[i];
		uint64_t at;

		if (f->carried || f->view)
			continue;
		at = right_until(plan, &container->root, i);
		if (at != f->source.size)
			return mfs_problem_set(w->why, MFS_E_CORRUPT, at,
					       "%s: its index does not lead to the bytes of %s "
					       "at 0x%llx",
					       w->output->path, f->path, (unsigned long long)at);
	}
	return 0;
}

/* ---- everything ---- */

int mfs_pack_verify(mfs_pack_work *w)
{
	mfs_open_options options = MFS_OPEN_OPTIONS_INIT;
	bool appended = w->plan->carried;
	mfs_container *container;
	mfs_problem damage = {0};
	int64_t problems;
	int error;

	options.decoders = w->packer->threads;
	options.arena_bytes = VERIFY_BYTES + (uint64_t)VERIFY_BYTES_EACH * w->packer->threads;
	error = mfs_open_written(&container, appended ? w->output->path : w->output->temporary_path,
				 w->output->path, appended ? &w->index.superblock : NULL, &options,
				 &damage);
	if (error) {
		report_damage(w, &damage);
		return MFS_E_IO;
	}
	if (w->prove)
		error = check_extents(w, container);
	problems = error ? 0 : appended ? check_added(w, container) : check_all(w, container);
	mfs_close(container);
	if (error)
		return error;
	if (problems == MFS_E_CANCELLED)
		return mfs_pack_check_cancel(w);
	if (problems < 0)
		return mfs_problem_set(w->why, (int)problems, UINT64_MAX, "%s: cannot verify: %s",
				       w->output->path, mfs_error_text((int)problems));
	return problems ? MFS_E_IO : 0;
}
