/*
 * From the sources to chunks: spans are read and hashed in order, handed to the coders,
 * and what comes back is stored in the same order.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "../../format/check.h"
#include "../../format/delta.h"
#include "compact.h"
#include "packer.h"
#include "problem.h"

/* Pages of a source are dropped from the page cache in steps of this. */
#define DROP_BYTES (8u << 20)
#define HASH_BYTES (1u << 20)

static int read_failed(mfs_pack_work *w, const mfs_plan_file *file, int error, uint64_t offset)
{
	int reason = errno;

	/* A file that shrank is the likelier story than a medium that failed. */
	if (mfs_plan_file_unchanged(file, w->why) < 0)
		return MFS_E_INVALID;
	return mfs_problem_set(w->why, error, offset, "%s: cannot read at offset 0x%llx: %s",
			       file->path, (unsigned long long)offset,
			       error == MFS_E_IO ? strerror(reason) : mfs_error_text(error));
}

/* Waits for the oldest span in flight and stores it. */
static int store_one(mfs_pack_work *w)
{
	mfs_coder_job *job = mfs_coders_collect(w->coders);
	mfs_plan_tensor *t = &w->plan->tensors[job->tensor_number];
	int error = job->error;

	if (error)
		mfs_problem_set(w->why, error, UINT64_MAX, "%s: tensor '%.*s': %s",
				w->plan->files[t->record.file].path, t->record.name_length,
				t->record.name ? t->record.name : "",
				job->unproven ? "its frames do not decode to it"
					      : mfs_error_text(error));
	else
		error = mfs_chunk_writer_add(&w->writer, job, w->why);
	mfs_pack_count_stored(w, job);
	if (job->span.index == t->last_stored)
		mfs_plan_close_tables(t);
	w->original_done += job->span.bytes;
	mfs_coders_release(w->coders);
	mfs_pack_report(w, MFS_PACK_WRITE, w->original_done);
	return error;
}

/* Model files are larger than memory: they must not push everything else out. */
static void drop_behind(const mfs_pack_work *w, mfs_plan_file *file, uint64_t offset,
			uint64_t bytes)
{
	uint64_t end = round_down(offset + bytes, DROP_BYTES);

	if (w->plan->reordered) {
		posix_fadvise(file->source.u.fd, (off_t)offset, (off_t)bytes, POSIX_FADV_DONTNEED);
	} else if (end > file->dropped) {
		posix_fadvise(file->source.u.fd, (off_t)file->dropped, (off_t)(end - file->dropped),
			      POSIX_FADV_DONTNEED);
		file->dropped = end;
	}
}

/* The tensor that `t` is stored as a difference to, or NULL. */
static const mfs_plan_tensor *base_of(const mfs_pack_work *w, const mfs_plan_tensor *t)
{
	return t->record.flags & MFS_TENSOR_DELTA ? &w->plan->tensors[t->record.base] : NULL;
}

static mfs_plan_file *file_of(const mfs_pack_work *w, const mfs_plan_tensor *t)
{
	return &w->plan->files[t->record.file];
}

/* Reads a span, and that of the base to w->base_span: what takes long was begun on
 * other threads. */
static int read_bytes(mfs_pack_work *w, const mfs_plan_tensor *t, mfs_coder_job *job)
{
	const mfs_plan_tensor *base = base_of(w, t), *failed = t;
	mfs_source *source = &file_of(w, t)->source;
	bool base_failed = false;
	int error;

	if (base && !w->base_span && !(w->base_span = malloc(w->plan->span_max)))
		return mfs_problem_no_memory(w->why);
	if (w->ahead && mfs_ahead_has(w->ahead)) {
		error = mfs_ahead_take(w->ahead, job->in, w->base_span, &base_failed);
		failed = base_failed ? base : t;
	} else {
		error = source->read_at(source, t->record.file_offset + job->span.offset, job->in,
					job->span.bytes);
		if (!error && base) {
			failed = base;
			source = &file_of(w, base)->source;
			error = source->read_at(source, base->record.file_offset + job->span.offset,
						w->base_span, job->span.bytes);
		}
	}
	if (!error)
		return 0;
	return read_failed(w, file_of(w, failed), error,
			   failed->record.file_offset + job->span.offset);
}

static int read_span(mfs_pack_work *w, uint32_t number, uint64_t index, mfs_coder_job *job)
{
	const mfs_plan_tensor *t = &w->plan->tensors[number];
	int error;

	job->tensor = t;
	job->tensor_number = number;
	mfs_tensor_span(&t->record, t->layout->block_bytes, index, &job->span);
	for (int s = 0; s < MFS_SLOTS; s++)
		job->tables[s] = t->open_tables[s];
	error = read_bytes(w, t, job);
	if (error)
		return error;
	drop_behind(w, file_of(w, t), t->record.file_offset + job->span.offset, job->span.bytes);
	if (!w->plan->reordered) { /* else hashed before */
		XXH3_128bits_update(w->tensor_hash, job->in, job->span.bytes);
		XXH3_128bits_update(w->file_hash, job->in, job->span.bytes);
	}
	if (base_of(w, t))
		mfs_delta_encode(t->layout, job->span.blocks, t->record.flags & MFS_TENSOR_INTEGER,
				 w->base_span, job->in);
	return 0;
}

static void take_hash(const XXH3_state_t *state, uint8_t out[16])
{
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state));
	memcpy(out, canonical.digest, 16);
}

/* The bytes of a twin are stored with its tensor; the file's hash needs them. */
static int pack_twin(mfs_pack_work *w, mfs_plan_tensor *t)
{
	mfs_plan_file *file = &w->plan->files[t->record.file];
	uint64_t step = (uint64_t)t->record.span_blocks * t->layout->block_bytes;
	uint8_t *bytes = malloc(step);
	int error = bytes ? 0 : mfs_problem_no_memory(w->why);

	XXH3_128bits_reset(w->tensor_hash);
	for (uint64_t at = 0; at < t->record.size && !error; at += step) {
		uint64_t offset = t->record.file_offset + at;
		size_t n = t->record.size - at < step ? t->record.size - at : step;

		error = mfs_pack_check_cancel(w);
		if (!error && (error = file->source.read_at(&file->source, offset, bytes, n)))
			error = read_failed(w, file, error, offset);
		if (!error) {
			drop_behind(w, file, offset, n);
			XXH3_128bits_update(w->tensor_hash, bytes, n);
			XXH3_128bits_update(w->file_hash, bytes, n);
		}
	}
	free(bytes);
	take_hash(w->tensor_hash, t->record.hash);
	w->original_done += t->record.size;
	return error;
}

static int open_tables(mfs_pack_work *w, mfs_plan_tensor *t)
{
	const mfs_plan_tensor *of = t->leader == MFS_NO_TENSOR ? t : &w->plan->tensors[t->leader];
	int error = mfs_plan_open_tables(t, of, w->prove ? MFS_TABLES_BOTH : MFS_TABLES_ENCODE);

	if (error)
		mfs_problem_set(w->why, error, UINT64_MAX, "cannot open the tables of '%.*s': %s",
				t->record.name_length, t->record.name, mfs_error_text(error));
	return error;
}

/* Lets threads begin with the spans of a run, where reading them computes them. */
static int read_ahead(mfs_pack_work *w, const mfs_plan_run *run)
{
	const mfs_plan_tensor *t = &w->plan->tensors[run->tensor], *base = base_of(w, t);
	const mfs_ahead_run ahead = {.tensor = t,
				     .base = base,
				     .source = &file_of(w, t)->source,
				     .base_source = base ? &file_of(w, base)->source : NULL,
				     .first = run->first,
				     .count = run->count};

	if (w->packer->threads == 1 ||
	    !(mfs_plan_computes(file_of(w, t)) || (base && mfs_plan_computes(file_of(w, base)))))
		return 0;
	if (!w->ahead &&
	    mfs_ahead_new(&w->ahead, w->packer->threads, (size_t)w->plan->span_max) < 0)
		return mfs_problem_no_memory(w->why);
	mfs_ahead_start(w->ahead, &ahead);
	return 0;
}

/* The frames of the span are another one's; the hashes need its bytes. */
static int pass_span(mfs_pack_work *w, uint32_t number, uint64_t index)
{
	mfs_coder_job job;
	int error;

	if (!w->passed_span && !(w->passed_span = malloc(w->plan->span_max)))
		return mfs_problem_no_memory(w->why);
	job.in = w->passed_span;
	error = read_span(w, number, index, &job);
	w->original_done += job.span.bytes;
	return error;
}

static int submit_span(mfs_pack_work *w, uint32_t number, uint64_t index)
{
	mfs_plan_tensor *t = &w->plan->tensors[number];
	int error = index == t->first_stored ? open_tables(w, t) : 0;
	mfs_coder_job *job;

	while (!error && !(job = mfs_coders_take(w->coders)))
		error = store_one(w);
	if (!error)
		error = read_span(w, number, index, job);
	if (!error)
		mfs_coders_submit(w->coders);
	return error;
}

static int pack_run(mfs_pack_work *w, const mfs_plan_run *run)
{
	const mfs_plan_tensor *t = &w->plan->tensors[run->tensor];
	int error = read_ahead(w, run);

	for (uint64_t i = run->first; i < run->first + run->count && !error; i++) {
		error = mfs_pack_check_cancel(w);
		if (!error)
			error = mfs_plan_owns(t, i) ? submit_span(w, run->tensor, i)
						    : pass_span(w, run->tensor, i);
	}
	return error;
}

static int pack_tensor(mfs_pack_work *w, uint32_t number)
{
	mfs_plan_tensor *t = &w->plan->tensors[number];
	const mfs_plan_run whole = {number, 0, t->spans};
	int error;

	XXH3_128bits_reset(w->tensor_hash);
	error = pack_run(w, &whole);
	take_hash(w->tensor_hash, t->record.hash);
	return error;
}

static int pack_zeros(mfs_pack_work *w, uint64_t length)
{
	static const uint8_t zeros[64 << 10];

	for (uint64_t left = length; left && !mfs_pack_check_cancel(w);) {
		size_t n = left < sizeof(zeros) ? left : sizeof(zeros);

		XXH3_128bits_update(w->file_hash, zeros, n);
		left -= n;
	}
	w->original_done += length;
	return mfs_pack_check_cancel(w);
}

/* Of a view only what differs from its base's header is stored; nobody knows its
 * hash before it is computed. */
static bool is_own(const mfs_pack_work *w, const mfs_plan_file *view, const mfs_root_extent *e)
{
	const mfs_root_tensor *t = &w->plan->tensors[e->tensor].record;

	return e->kind == MFS_EXTENT_TENSOR && &w->plan->files[t->file] == view &&
	       !(t->flags & MFS_TENSOR_DERIVED);
}

static int pack_view(mfs_pack_work *w, const mfs_plan_file *file)
{
	int error = 0;

	XXH3_128bits_reset(w->file_hash);
	for (uint64_t i = 0; i < file->record.extent_count && !error; i++) {
		const mfs_root_extent *e = &w->plan->extents[file->record.first_extent + i];
		mfs_plan_tensor *t = &w->plan->tensors[e->tensor];

		if (!is_own(w, file, e))
			continue;
		error = t->twin == MFS_NO_TENSOR ? pack_tensor(w, e->tensor) : pack_twin(w, t);
	}
	return error;
}

static int pack_file(mfs_pack_work *w, mfs_plan_file *file)
{
	int error = 0;

	if (file->view)
		return pack_view(w, file);
	posix_fadvise(file->source.u.fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	XXH3_128bits_reset(w->file_hash);
	for (uint64_t i = 0; i < file->record.extent_count && !error; i++) {
		const mfs_root_extent *e = &w->plan->extents[file->record.first_extent + i];

		if (e->kind == MFS_EXTENT_ZEROS)
			error = pack_zeros(w, e->length);
		else if (w->plan->tensors[e->tensor].twin != MFS_NO_TENSOR)
			error = pack_twin(w, &w->plan->tensors[e->tensor]);
		else
			error = pack_tensor(w, e->tensor);
	}
	take_hash(w->file_hash, file->record.hash);
	return error;
}

/* Stores frames as they are. */
static int copy_run(mfs_pack_work *w, const mfs_plan_run *run)
{
	mfs_coder_job job;
	int error = 0;

	for (uint64_t i = run->first; i < run->first + run->count && !error; i++) {
		error = mfs_pack_check_cancel(w);
		if (!error)
			error = mfs_compactor_span(w->compactor, run->tensor, i, &job, w->why);
		if (!error)
			error = mfs_chunk_writer_add(&w->writer, &job, w->why);
		if (!error)
			mfs_pack_count_stored(w, &job);
		w->original_done += job.span.bytes;
		mfs_pack_report(w, MFS_PACK_WRITE, w->original_done);
	}
	return error;
}

int mfs_pack_copy_runs(mfs_pack_work *w)
{
	int error = 0;

	for (uint32_t i = 0; i < w->plan->run_count && !error; i++)
		error = copy_run(w, &w->plan->runs[i]);
	return error ? error : mfs_chunk_writer_finish(&w->writer, w->why);
}

/* ---- packing in another order than the files' ---- */

/* Bytes of the spans that have another one's frames. */
static uint64_t others_bytes(const mfs_plan_tensor *t)
{
	uint64_t bytes = 0;
	mfs_span span;

	for (uint64_t i = 0; t->owners && i < t->spans; i++)
		if (!mfs_plan_owns(t, i)) {
			mfs_tensor_span(&t->record, t->layout->block_bytes, i, &span);
			bytes += span.bytes;
		}
	return bytes;
}

static int hash_tensor(mfs_pack_work *w, mfs_plan_file *file, mfs_plan_tensor *t, uint8_t *buffer)
{
	uint64_t size = t->record.size;

	XXH3_128bits_reset(w->tensor_hash);
	for (uint64_t at = 0; at < size; at += HASH_BYTES) {
		size_t n = size - at < HASH_BYTES ? (size_t)(size - at) : HASH_BYTES;
		uint64_t offset = t->record.file_offset + at;
		int error = file->source.read_at(&file->source, offset, buffer, n);

		if (error)
			return read_failed(w, file, error, offset);
		error = mfs_pack_check_cancel(w);
		if (error)
			return error;
		XXH3_128bits_update(w->tensor_hash, buffer, n);
		XXH3_128bits_update(w->file_hash, buffer, n);
		posix_fadvise(file->source.u.fd, (off_t)offset, (off_t)n, POSIX_FADV_DONTNEED);
	}
	take_hash(w->tensor_hash, t->record.hash);
	w->original_done += t->twin != MFS_NO_TENSOR ? size : others_bytes(t);
	return 0;
}

/* Hashes take the bytes in the order of the file: they have a pass of their own. */
static int hash_file(mfs_pack_work *w, mfs_plan_file *file, uint8_t *buffer)
{
	int error = 0;

	XXH3_128bits_reset(w->file_hash);
	for (uint64_t i = 0; i < file->record.extent_count && !error; i++) {
		const mfs_root_extent *e = &w->plan->extents[file->record.first_extent + i];

		if (file->view && !is_own(w, file, e))
			continue;
		error = e->kind == MFS_EXTENT_ZEROS
			    ? pack_zeros(w, e->length)
			    : hash_tensor(w, file, &w->plan->tensors[e->tensor], buffer);
	}
	if (!file->view)
		take_hash(w->file_hash, file->record.hash);
	return error;
}

static int pack_runs(mfs_pack_work *w)
{
	uint8_t *buffer = malloc(HASH_BYTES);
	int error = buffer ? 0 : mfs_problem_no_memory(w->why);

	for (uint32_t i = 0; i < w->plan->file_count && !error; i++)
		if (!w->plan->files[i].carried)
			error = hash_file(w, &w->plan->files[i], buffer);
	free(buffer);
	for (uint32_t i = 0; i < w->plan->run_count && !error; i++)
		if (mfs_plan_writes(&w->plan->tensors[w->plan->runs[i].tensor]))
			error = pack_run(w, &w->plan->runs[i]);
	return error;
}

int mfs_pack_files(mfs_pack_work *w)
{
	int error = w->plan->reordered ? pack_runs(w) : 0;

	for (uint32_t i = 0; i < w->plan->file_count && !w->plan->reordered && !error; i++)
		if (!w->plan->files[i].carried)
			error = pack_file(w, &w->plan->files[i]);
	while (!error && mfs_coders_collect(w->coders))
		error = store_one(w);
	if (!error)
		error = mfs_chunk_writer_finish(&w->writer, w->why);
	for (uint32_t i = 0; i < w->plan->file_count && !error; i++)
		if (!w->plan->files[i].carried)
			error = mfs_plan_file_unchanged(&w->plan->files[i], w->why);
	return error;
}
