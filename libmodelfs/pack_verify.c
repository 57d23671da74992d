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
	if (appended)
		error = mfs_open_generation(&container, w->output->path, &w->index.superblock,
					    &options, &damage);
	else
		error = mfs_open(&container, w->output->temporary_path, &options, &damage);
	if (error) {
		report_damage(w, &damage);
		return MFS_E_IO;
	}
	problems = appended ? check_added(w, container) : check_all(w, container);
	mfs_close(container);
	if (problems == MFS_E_CANCELLED)
		return mfs_pack_check_cancel(w);
	if (problems < 0)
		return mfs_problem_set(w->why, (int)problems, UINT64_MAX, "%s: cannot verify: %s",
				       w->output->path, mfs_error_text((int)problems));
	return problems ? MFS_E_IO : 0;
}
