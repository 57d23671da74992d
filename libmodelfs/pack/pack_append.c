/* Changing a container: a new generation behind the one that is there. */
#include "container.h"
#include "packer.h"
#include "problem.h"
#include "remove.h"

int mfs_pack_drop_removed(mfs_pack_work *w)
{
	mfs_packer *p = w->packer;
	int error;

	if (!p->carried)
		return 0;
	error = mfs_carried_check_removed(p->carried, w->why);
	if (error)
		return error;
	p->removed = mfs_carried_drop_removed(&p->plan);
	for (uint32_t i = 0; i < p->plan.file_count; i++)
		p->added += !p->plan.files[i].carried;
	if (!p->plan.file_count)
		return mfs_problem_set(w->why, MFS_E_ARGUMENT, UINT64_MAX,
				       "%s: nothing would be left in it", p->locked.path);
	if (p->added && p->compact)
		return mfs_problem_set(w->why, MFS_E_ARGUMENT, UINT64_MAX,
				       "%s: append first, then compact", p->locked.path);
	if (!p->added && !p->removed && !p->compact)
		return mfs_problem_set(w->why, MFS_E_ARGUMENT, UINT64_MAX,
				       "%s: there is nothing to append or remove", p->locked.path);
	return 0;
}

/* The new generation is verified before any superblock leads to it. */
static int write_and_append(mfs_pack_work *w, mfs_pack_summary *s)
{
	int error = mfs_pack_write_container(w, s);
	double start = mfs_pack_seconds();

	if (!error)
		error = mfs_output_extend(w->output, s->stored_bytes, w->why);
	if (!error && !w->packer->no_verify)
		error = mfs_pack_verify(w);
	s->seconds_verify = w->packer->no_verify ? 0 : mfs_pack_seconds() - start;
	if (!error)
		error = mfs_pack_check_cancel(w);
	if (!error)
		error = mfs_index_seal(&w->index, w->output, w->why);
	return error;
}

int mfs_pack_append(mfs_pack_work *w, mfs_pack_summary *s)
{
	mfs_packer *p = w->packer;
	int error;

	w->output = &p->locked;
	error = mfs_pack_check_not_source(w);
	if (!error)
		error = mfs_output_begin_behind(&p->locked,
						p->carried->container->sb.container_size, w->why);
	return error ? error : write_and_append(w, s);
}
