/*
 * Packing: plan, code and write, seal, verify, publish.
 *
 * The calling thread reads the sources in order, hashes what it reads, hands the
 * spans to the coders and stores what comes back in the same order; so memory is
 * bounded by the jobs in flight and two groups (frames of large spans stay where
 * they were coded), and the container does not depend on the number of threads.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "compact.h"
#include "delta_plan.h"
#include "packer.h"
#include "problem.h"
#include "sample.h"
#include "share.h"
#include "view.h"

/* Spans in flight: enough to keep every coder busy while a group is written, which takes
 * the owner about as long as two cores take for half as much. */
#define JOB_BYTES (16u << 20)
#define JOBS_MAX  4096u

/* ---- progress ---- */

void mfs_pack_report(mfs_pack_work *w, mfs_pack_stage stage, uint64_t original)
{
	if (w->progress &&
	    w->progress(w->user, stage, original, w->plan->original_bytes, w->writer.next))
		atomic_store(&w->packer->cancel, 1);
}

int mfs_pack_check_cancel(const mfs_pack_work *w)
{
	if (!atomic_load(&w->packer->cancel))
		return 0;
	return mfs_problem_set(w->why, MFS_E_CANCELLED, UINT64_MAX, "cancelled");
}

static void report_sampling(void *user, uint64_t original)
{
	mfs_pack_report(user, MFS_PACK_PLAN, original);
}

/* ---- the stages ---- */

static int make_plan_compact(mfs_pack_work *w)
{
	int error = mfs_compactor_new(&w->compactor, w->plan, w->why);

	if (!error && w->packer->order)
		error = mfs_plan_order(w->plan, w->packer->order, w->why);
	if (error)
		return error;
	mfs_plan_number(w->plan);
	return mfs_pack_make_types(w);
}

static int order_plan(mfs_pack_work *w)
{
	return w->packer->order ? mfs_plan_order(w->plan, w->packer->order, w->why)
				: mfs_plan_order_by_file(w->plan, w->why);
}

static int make_plan(mfs_pack_work *w)
{
	int error = mfs_plan_open_models(w->plan, w->why);

	if (!error)
		error = mfs_pack_drop_removed(w);
	if (!error)
		error = mfs_plan_build(w->plan, w->why);
	if (!error && w->packer->compact)
		return make_plan_compact(w);
	if (!error)
		error = mfs_plan_share(w->plan, &w->packer->cancel, w->why);
	if (!error)
		error = mfs_plan_match_deltas(w->plan, w->why);
	mfs_plan_cut_twins(w->plan);
	if (!error)
		error = mfs_views_cut(w->plan, w->why);
	if (!error)
		error = mfs_plan_sample(w->plan, w->packer->threads, &w->packer->cancel,
					report_sampling, w, w->why);
	if (!error)
		error = mfs_plan_settle_shared(w->plan, w->why);
	if (!error)
		error = order_plan(w);
	if (error)
		return error;
	mfs_plan_number(w->plan);
	return mfs_pack_make_types(w);
}

static unsigned job_count(const mfs_pack_work *w, size_t span_max)
{
	unsigned least = w->packer->threads + 2;
	size_t jobs = JOB_BYTES / span_max;

	if (jobs > JOBS_MAX)
		jobs = JOBS_MAX;
	return jobs > least ? (unsigned)jobs : least;
}

/* Spans are proven while they are coded, if they are to be verified at all. What a delta
 * decodes to is no span yet, and frames that are copied or shared were not decoded for
 * the tensor: containers with these are read back whole. */
static bool can_prove(const mfs_pack_work *w)
{
	if (!w->output || w->packer->no_verify || w->compactor)
		return false;
	for (uint32_t i = 0; i < w->plan->tensor_count; i++)
		if (!w->plan->tensors[i].stored &&
		    (w->plan->tensors[i].owners ||
		     w->plan->tensors[i].record.flags & MFS_TENSOR_DELTA))
			return false;
	return true;
}

static int open_writers(mfs_pack_work *w)
{
	/* Without tensors (empty files only) nothing is coded. */
	size_t span_max = w->plan->span_max ? w->plan->span_max : 1;
	int error = mfs_index_place(&w->placement, w->plan, w->why);

	if (error)
		return error;
	w->prove = can_prove(w);
	w->file_hash = XXH3_createState();
	w->tensor_hash = XXH3_createState();
	error = mfs_chunk_writer_open(&w->writer, w->plan, &w->placement, w->output);
	if (error && error != MFS_E_MEMORY)
		return mfs_problem_set(w->why, error, UINT64_MAX, "%s: cannot read its index: %s",
				       w->packer->locked.path, mfs_error_text(error));
	if (error || !w->file_hash || !w->tensor_hash ||
	    (!w->compactor && mfs_coders_new(&w->coders, w->packer->threads, job_count(w, span_max),
					     span_max, w->prove) < 0))
		return mfs_problem_no_memory(w->why);
	return 0;
}

/* Threads and buffers go before the verification takes its own memory. */
static void close_writers(mfs_pack_work *w)
{
	mfs_ahead_free(w->ahead);
	w->ahead = NULL;
	mfs_coders_free(w->coders);
	w->coders = NULL;
	mfs_compactor_free(w->compactor);
	w->compactor = NULL;
	mfs_chunk_writer_close(&w->writer);
	mfs_placement_free(&w->placement);
	XXH3_freeState(w->file_hash);
	XXH3_freeState(w->tensor_hash);
	w->file_hash = w->tensor_hash = NULL;
	free(w->base_span);
	free(w->passed_span);
	w->base_span = w->passed_span = NULL;
}

double mfs_pack_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Up to a container that is complete and on the medium, but has no name yet. */
int mfs_pack_write_container(mfs_pack_work *w, mfs_pack_summary *s)
{
	double start = mfs_pack_seconds();
	int error = make_plan(w);

	if (!error)
		error = open_writers(w);
	mfs_plan_measure_losses(w->plan);
	if (!error)
		error = w->compactor ? mfs_pack_copy_runs(w) : mfs_pack_files(w);
	mfs_plan_note_losses(w->plan);
	mfs_plan_set_offsets(w->plan);
	if (!error)
		error = mfs_index_write(&w->index, w->plan, &w->placement, &w->writer, w->output,
					w->why);
	if (!error && w->output && !w->plan->carried)
		error = mfs_index_seal(&w->index, w->output, w->why);
	if (!error)
		mfs_pack_fill_summary(w, s);
	close_writers(w);
	s->seconds_write = mfs_pack_seconds() - start;
	return error ? error : mfs_pack_check_cancel(w);
}

int mfs_pack_check_not_source(const mfs_pack_work *w)
{
	const mfs_output *o = w->output;

	for (uint32_t i = 0; o->exists && i < w->plan->file_count; i++) {
		const struct stat *st = &w->plan->files[i].found;

		if (!w->plan->files[i].carried && st->st_dev == o->device && st->st_ino == o->inode)
			return mfs_problem_set(w->why, MFS_E_ARGUMENT, UINT64_MAX,
					       "%s: is a source and the container at once",
					       o->path);
	}
	return 0;
}

static int write_and_publish(mfs_pack_work *w, mfs_pack_summary *s)
{
	int error = mfs_pack_check_not_source(w);
	double start;

	if (!error)
		error = mfs_pack_write_container(w, s);
	start = mfs_pack_seconds();
	if (!error && !w->packer->no_verify)
		error = mfs_pack_verify(w);
	s->seconds_verify = w->packer->no_verify ? 0 : mfs_pack_seconds() - start;
	if (!error)
		error = mfs_pack_check_cancel(w);
	if (!error)
		error = mfs_output_publish(w->output, w->why);
	return error;
}

/* A container that is replaced while another writer appends to it would look damaged to
 * that one. What cannot be locked, or is not there, has no other writer. */
static int lock_replaced(mfs_packer *p, const char *path, mfs_problem *why)
{
	mfs_problem found = {0};
	int error = mfs_output_lock(&p->locked, path, &found);

	if (error != MFS_E_BUSY)
		return 0;
	if (why)
		*why = found;
	return error;
}

static int write_new(mfs_pack_work *w, const char *path, mfs_pack_summary *s)
{
	mfs_packer *p = w->packer;
	int error = mfs_output_open(&p->output, path, p->force || p->compact, w->why);

	w->output = &p->output;
	if (!error && p->compact)
		error = mfs_output_keep_mode(&p->output, &p->locked, w->why);
	else if (!error && p->output.exists)
		error = lock_replaced(p, path, w->why);
	return error ? error : write_and_publish(w, s);
}

static int check_packer(const mfs_packer *p, mfs_problem *why)
{
	if (p->used)
		return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
				       "the packer has written its container");
	if (!p->plan.file_count)
		return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX, "there is nothing to pack");
	if (!mfs_recipe_any(&p->plan.recipe))
		return 0;
	for (uint32_t i = 0; i < p->plan.file_count; i++)
		if (p->plan.files[i].requantized)
			return 0;
	for (uint32_t i = 0; i < p->plan.file_count; i++)
		if (!p->plan.files[i].carried && p->plan.files[i].record.kind == MFS_FILE_PACKED)
			return mfs_problem_set(
			    why, MFS_E_ARGUMENT, UINT64_MAX,
			    "%s: is no GGUF model: there is nothing to quantize or prune",
			    p->plan.files[i].path);
	return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
			       "%s: nothing is added that could be quantized or pruned",
			       p->plan.files[0].path);
}

int mfs_packer_write(mfs_packer *p, const char *path, mfs_pack_progress *progress, void *user,
		     mfs_pack_summary *out, mfs_problem *why)
{
	mfs_pack_work work = {
	    .packer = p, .plan = &p->plan, .progress = progress, .user = user, .why = why};
	mfs_pack_summary summary = {.size = sizeof(summary)};
	int error = check_packer(p, why);

	if (error)
		return error;
	p->used = true;
	if (path && p->carried && strcmp(path, p->locked.path) != 0)
		error = mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
					"%s: is not the container that was opened", path);
	else if (!path)
		error = mfs_pack_write_container(&work, &summary);
	else if (p->carried && !p->compact)
		error = mfs_pack_append(&work, &summary);
	else
		error = write_new(&work, path, &summary);
	mfs_output_close(&p->output);
	mfs_output_close(&p->locked);
	if (error && error != MFS_E_CANCELLED)
		error = mfs_plan_loss_problem(&p->plan, error, why);
	if (!error && out) {
		summary.size = out->size < sizeof(summary) ? out->size : sizeof(summary);
		memcpy(out, &summary, summary.size);
	}
	return error;
}
