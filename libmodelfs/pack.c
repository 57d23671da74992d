/*
 * The packer: plan, code and write, seal, verify, publish.
 *
 * The calling thread reads the sources in order, hashes what it reads, hands the
 * spans to the coders and stores what comes back in the same order; so memory is
 * bounded by the jobs in flight and one group, and the container does not depend
 * on the number of threads.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "../format/check.h"
#include "../format/delta.h"
#include "carried.h"
#include "chunk_writer.h"
#include "coder.h"
#include "compact.h"
#include "delta_plan.h"
#include "container.h"
#include "packer.h"
#include "index_writer.h"
#include "output.h"
#include "placement.h"
#include "plan.h"
#include "problem.h"
#include "remove.h"
#include "sample.h"
#include "share.h"
#include "view.h"

/* Spans in flight: enough to keep every coder busy while a group is written. */
#define JOB_BYTES (16u << 20)
#define JOBS_MAX  4096u
/* Pages of a source are dropped from the page cache in steps of this. */
#define DROP_BYTES (8u << 20)
#define HASH_BYTES (1u << 20)

struct mfs_packer {
	mfs_plan plan;
	unsigned threads;
	bool no_verify, force, used;
	char *order;	   /* the trace whose order to store in, or NULL */
	atomic_int cancel; /* set from anywhere */
	mfs_output output;
	/* Of a container that is changed. */
	mfs_carried *carried;
	mfs_output locked; /* holds other writers off */
	bool compact;
	uint32_t added, removed; /* files; from writing */
	mfs_pack_type *types;	 /* one for each layout, then metadata */
	uint32_t type_count;
};

/* One call of mfs_packer_write(). */
struct run {
	mfs_packer *packer;
	mfs_plan *plan;
	mfs_output *output; /* NULL: dry run */
	mfs_pack_progress *progress;
	void *user;
	mfs_problem *why;

	mfs_placement placement;
	mfs_chunk_writer writer;
	mfs_coders *coders;
	mfs_compactor *compactor; /* NULL: spans are coded */
	mfs_index index;
	XXH3_state_t *file_hash, *tensor_hash;
	uint8_t *base_span; /* of a delta's base */
	uint64_t original_done;
};

static int no_memory(mfs_problem *why)
{
	return mfs_problem_set(why, MFS_E_MEMORY, UINT64_MAX, "out of memory");
}

/* ---- making a packer ---- */

static unsigned core_count(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return 1;
	return (unsigned)CPU_COUNT(&set);
}

static int check_options(const mfs_plan *plan, mfs_problem *why)
{
	if (!is_power_of_2(plan->page_bytes) || plan->page_bytes < MFS_PAGE_MIN ||
	    plan->page_bytes > MFS_PAGE_MAX)
		return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
				       "page size %u: not a power of 2 from %u to %u",
				       plan->page_bytes, MFS_PAGE_MIN, MFS_PAGE_MAX);
	if (plan->frame_bytes < MFS_FRAME_MIN || plan->frame_bytes > MFS_FRAME_MAX)
		return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
				       "frame size %u: not from %u to %u", plan->frame_bytes,
				       MFS_FRAME_MIN, MFS_FRAME_MAX);
	return 0;
}

#define CODEC_UNKNOWN -3

static int find_codec(const char *name)
{
	if (!name || !strcmp(name, "auto"))
		return MFS_PLAN_AUTO;
	if (!strcmp(name, "plain"))
		return MFS_PLAN_PLAIN;
	for (int coding = 0; coding < MFS_CODINGS; coding++)
		if (!strcmp(name, mfs_coding_name((unsigned)coding)))
			return coding;
	return CODEC_UNKNOWN;
}

int mfs_packer_new(mfs_packer **out, const mfs_pack_options *given, mfs_problem *why)
{
	mfs_pack_options options = MFS_PACK_OPTIONS_INIT;
	mfs_profile profile = {.size = sizeof(profile)};
	mfs_packer *p;
	int error;

	*out = NULL;
	if (given)
		memcpy(&options, given,
		       given->size < sizeof(options) ? given->size : sizeof(options));
	if (find_codec(options.codec) == CODEC_UNKNOWN)
		return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
				       "there is no codec '%s' (--explain lists them)",
				       options.codec);
	if (mfs_profile_get(options.profile, &profile) < 0)
		return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX, "no such profile");
	p = calloc(1, sizeof(*p));
	if (!p)
		return no_memory(why);
	p->output = p->locked = (mfs_output)MFS_OUTPUT_NONE;
	p->plan.profile = options.profile;
	p->plan.page_bytes = options.page_bytes ? options.page_bytes : profile.page_bytes;
	p->plan.frame_bytes = options.frame_bytes ? options.frame_bytes : profile.frame_bytes;
	p->plan.opaque = options.opaque;
	p->plan.explain = options.explain;
	p->plan.codec = find_codec(options.codec);
	error = mfs_views_parse(options.views ? options.views : "all", &p->plan.views, why);
	p->threads = options.threads ? options.threads : core_count();
	p->no_verify = options.no_verify;
	p->force = options.force;
	p->compact = options.compact;
	p->order = options.order ? strdup(options.order) : NULL;
	if (!error && options.order && !p->order)
		error = no_memory(why);
	if (!error)
		error = check_options(&p->plan, why);
	if (!error)
		error = mfs_recipe_parse(&p->plan.recipe, options.quantize, options.prune, why);
	if (error) {
		free(p->order);
		free(p);
		return error;
	}
	*out = p;
	return 0;
}

static void free_types(mfs_packer *p)
{
	for (uint32_t i = 0; i < p->type_count; i++)
		free((char *)p->types[i].type);
	free(p->types);
}

void mfs_packer_free(mfs_packer *p)
{
	if (!p)
		return;
	mfs_output_close(&p->output);
	mfs_plan_free(&p->plan);
	mfs_carried_close(p->carried);
	mfs_output_close(&p->locked);
	free_types(p);
	free(p->order);
	free(p);
}

/* What is added is laid out as the container was, unless it is asked for. */
static int open_container(mfs_packer *p, const char *path, const mfs_pack_options *options,
			  mfs_problem *why)
{
	int error = mfs_output_lock(&p->locked, path, why);
	uint32_t frame_bytes;

	if (!error)
		error = mfs_carried_open(&p->carried, path, p->threads, why);
	if (!error)
		error = mfs_carried_add_files(p->carried, &p->plan, why);
	if (error)
		return error;
	frame_bytes = p->carried->container->sb.frame_size;
	if ((!options || !options->frame_bytes) && frame_bytes >= MFS_FRAME_MIN &&
	    frame_bytes <= MFS_FRAME_MAX)
		p->plan.frame_bytes = frame_bytes;
	return 0;
}

int mfs_packer_open(mfs_packer **out, const char *path, const mfs_pack_options *options,
		    mfs_problem *why)
{
	int error = mfs_packer_new(out, options, why);

	if (!error)
		error = open_container(*out, path, options, why);
	if (error) {
		mfs_packer_free(*out);
		*out = NULL;
	}
	return error;
}

int mfs_packer_remove(mfs_packer *p, const char *name, mfs_problem *why)
{
	if (p->used || !p->carried)
		return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
				       "%s: the packer has no container to remove it from", name);
	return mfs_carried_remove(p->carried, name, why);
}

void mfs_packer_set_output(mfs_packer *p, const mfs_output_table *table, void *user)
{
	p->locked.table = table;
	p->locked.user = user;
}

static int check_unused(const mfs_packer *p, const char *what, mfs_problem *why)
{
	if (!p->used)
		return 0;
	return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
			       "%s: the packer has written its container", what);
}

int mfs_packer_add(mfs_packer *p, const char *path, const char *name, mfs_problem *why)
{
	int error = check_unused(p, path, why);

	if (error)
		return error;
	if (!mfs_is_directory(path))
		return mfs_plan_add(&p->plan, path, name, why);
	if (name)
		return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
				       "%s: is a directory: its files keep their names, '%s' "
				       "cannot be given",
				       path, name);
	return mfs_plan_add_directory(&p->plan, path, why);
}

int mfs_packer_add_adapter(mfs_packer *p, const char *path, const char *name, const char *base,
			   mfs_problem *why)
{
	int error = check_unused(p, path, why);

	return error ? error : mfs_plan_add_adapter(&p->plan, path, name, base, why);
}

int mfs_packer_add_merge(mfs_packer *p, const char *name, const char *mixture, mfs_problem *why)
{
	int error = check_unused(p, name, why);

	return error ? error : mfs_plan_add_merge(&p->plan, name, mixture, why);
}

int mfs_packer_add_delta(mfs_packer *p, const char *path, const char *name, const char *base,
			 mfs_problem *why)
{
	uint32_t count = p->plan.file_count;
	int error = mfs_is_directory(path)
			? mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
					  "%s: is a directory: give the files of a fine-tune one "
					  "by one",
					  path)
			: mfs_packer_add(p, path, name, why);

	if (error)
		return error;
	p->plan.files[count].delta_of = strdup(base);
	return p->plan.files[count].delta_of ? 0 : no_memory(why);
}

void mfs_packer_cancel(mfs_packer *p)
{
	atomic_store(&p->cancel, 1);
}

/* ---- progress ---- */

static void report(struct run *r, mfs_pack_stage stage, uint64_t original)
{
	if (r->progress &&
	    r->progress(r->user, stage, original, r->plan->original_bytes, r->writer.next))
		atomic_store(&r->packer->cancel, 1);
}

static int check_cancel(const struct run *r)
{
	if (!atomic_load(&r->packer->cancel))
		return 0;
	return mfs_problem_set(r->why, MFS_E_CANCELLED, UINT64_MAX, "cancelled");
}

static void report_sampling(void *user, uint64_t original)
{
	report(user, MFS_PACK_PLAN, original);
}

/* ---- sums by type ---- */

/* A type for each layout, and one for literal bytes and zeros. */
static int make_types(struct run *r)
{
	mfs_packer *p = r->packer;
	uint32_t count = r->plan->layout_count + 1;

	p->types = calloc(count, sizeof(*p->types));
	if (!p->types)
		return no_memory(r->why);
	p->type_count = count;
	for (uint32_t i = 0; i < count; i++) {
		const mfs_layout *layout = i + 1 < count ? r->plan->layouts[i] : NULL;

		p->types[i].type =
		    layout ? strndup(layout->name, layout->name_length) : strdup("metadata");
		if (!p->types[i].type)
			return no_memory(r->why);
	}
	p->types[count - 1].original_bytes = r->plan->original_bytes;
	for (uint32_t i = 0; i < r->plan->tensor_count; i++) {
		const mfs_root_tensor *t = &r->plan->tensors[i].record;

		if (r->plan->tensors[i].stored ||
		    t->flags & (MFS_TENSOR_LITERAL | MFS_TENSOR_DERIVED))
			continue;
		p->types[t->layout].tensors++;
		p->types[t->layout].original_bytes += t->size;
		p->types[count - 1].original_bytes -= t->size;
	}
	return 0;
}

static void count_stored(struct run *r, const mfs_coder_job *job)
{
	const mfs_plan_tensor *t = job->tensor;
	bool literal = t->record.flags & MFS_TENSOR_LITERAL;
	mfs_pack_type *type =
	    &r->packer->types[literal ? r->packer->type_count - 1 : t->record.layout];

	for (int s = 0; s < MFS_SLOTS; s++) {
		type->stored_bytes += job->info[s].stored;
		if (job->span.index == t->first_stored)
			type->stored_bytes += t->tables_bytes[s];
	}
}

static int compare_types(const void *a, const void *b)
{
	const mfs_pack_type *x = a, *y = b;

	if (x->original_bytes != y->original_bytes)
		return x->original_bytes > y->original_bytes ? -1 : 1;
	return strcmp(x->type, y->type);
}

/* Layouts of one name are one type to the reader: those of weights and constants,
 * for example. The later one gives up its bytes. */
static void merge_types(mfs_packer *p)
{
	for (uint32_t i = 1; i < p->type_count; i++)
		for (uint32_t k = 0; k < i; k++) {
			mfs_pack_type *from = &p->types[i], *to = &p->types[k];

			if (strcmp(from->type, to->type))
				continue;
			to->tensors += from->tensors;
			to->original_bytes += from->original_bytes;
			to->stored_bytes += from->stored_bytes;
			from->tensors = from->original_bytes = from->stored_bytes = 0;
			break;
		}
}

/* Largest first; types without bytes (only literals had their layout) go. */
static void sort_types(mfs_packer *p)
{
	merge_types(p);
	qsort(p->types, p->type_count, sizeof(*p->types), compare_types);
	while (p->type_count && !p->types[p->type_count - 1].original_bytes)
		free((char *)p->types[--p->type_count].type);
}

/* ---- reading, coding, storing ---- */

static int read_failed(struct run *r, const mfs_plan_file *file, int error, uint64_t offset)
{
	int reason = errno;

	/* A file that shrank is the likelier story than a medium that failed. */
	if (mfs_plan_file_unchanged(file, r->why) < 0)
		return MFS_E_INVALID;
	return mfs_problem_set(r->why, error, offset, "%s: cannot read at offset 0x%llx: %s",
			       file->path, (unsigned long long)offset,
			       error == MFS_E_IO ? strerror(reason) : mfs_error_text(error));
}

/* Waits for the oldest span in flight and stores it. */
static int store_one(struct run *r)
{
	mfs_coder_job *job = mfs_coders_collect(r->coders);
	mfs_plan_tensor *t = &r->plan->tensors[job->tensor_number];
	int error = job->error;

	if (error)
		mfs_problem_set(r->why, error, UINT64_MAX, "%s: tensor '%.*s': %s",
				r->plan->files[t->record.file].path, t->record.name_length,
				t->record.name ? t->record.name : "", mfs_error_text(error));
	else
		error = mfs_chunk_writer_add(&r->writer, job, r->why);
	count_stored(r, job);
	if (job->span.index == t->last_stored)
		mfs_plan_close_tables(t);
	r->original_done += job->span.bytes;
	mfs_coders_release(r->coders);
	report(r, MFS_PACK_WRITE, r->original_done);
	return error;
}

/* Model files are larger than memory: they must not push everything else out. */
static void drop_behind(const struct run *r, mfs_plan_file *file, uint64_t offset, uint64_t bytes)
{
	uint64_t step = (offset + bytes) / DROP_BYTES;

	if (r->plan->reordered)
		posix_fadvise(file->source.u.fd, (off_t)offset, (off_t)bytes, POSIX_FADV_DONTNEED);
	else if (step > offset / DROP_BYTES)
		posix_fadvise(file->source.u.fd, 0, (off_t)(step * DROP_BYTES),
			      POSIX_FADV_DONTNEED);
}

/* Leaves in the job the difference to the same span of the base. */
static int subtract_base(struct run *r, const mfs_plan_tensor *t, mfs_coder_job *job)
{
	const mfs_plan_tensor *base = &r->plan->tensors[t->record.base];
	mfs_plan_file *file = &r->plan->files[base->record.file];
	uint64_t offset = base->record.file_offset + job->span.offset;
	int error;

	if (!r->base_span && !(r->base_span = malloc(r->plan->span_max)))
		return no_memory(r->why);
	error = file->source.read_at(&file->source, offset, r->base_span, job->span.bytes);
	if (error)
		return read_failed(r, file, error, offset);
	mfs_delta_encode(t->layout, job->span.blocks, t->record.flags & MFS_TENSOR_INTEGER,
			 r->base_span, job->in);
	return 0;
}

static int read_span(struct run *r, uint32_t number, uint64_t index, mfs_coder_job *job)
{
	const mfs_plan_tensor *t = &r->plan->tensors[number];
	mfs_plan_file *file = &r->plan->files[t->record.file];
	uint64_t offset;
	int error;

	job->tensor = t;
	job->tensor_number = number;
	mfs_tensor_span(&t->record, t->layout->block_bytes, index, &job->span);
	for (int s = 0; s < MFS_SLOTS; s++)
		job->tables[s] = t->open_tables[s];
	offset = t->record.file_offset + job->span.offset;
	error = file->source.read_at(&file->source, offset, job->in, job->span.bytes);
	if (error)
		return read_failed(r, file, error, offset);
	drop_behind(r, file, offset, job->span.bytes);
	if (!r->plan->reordered) { /* else hashed before */
		XXH3_128bits_update(r->tensor_hash, job->in, job->span.bytes);
		XXH3_128bits_update(r->file_hash, job->in, job->span.bytes);
	}
	return t->record.flags & MFS_TENSOR_DELTA ? subtract_base(r, t, job) : 0;
}

static void take_hash(const XXH3_state_t *state, uint8_t out[16])
{
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state));
	memcpy(out, canonical.digest, 16);
}

/* The bytes of a twin are stored with its tensor; the file's hash needs them. */
static int pack_twin(struct run *r, mfs_plan_tensor *t)
{
	mfs_plan_file *file = &r->plan->files[t->record.file];
	uint64_t step = (uint64_t)t->record.span_blocks * t->layout->block_bytes;
	uint8_t *bytes = malloc(step);
	int error = bytes ? 0 : no_memory(r->why);

	XXH3_128bits_reset(r->tensor_hash);
	for (uint64_t at = 0; at < t->record.size && !error; at += step) {
		uint64_t offset = t->record.file_offset + at;
		size_t n = t->record.size - at < step ? t->record.size - at : step;

		error = check_cancel(r);
		if (!error && (error = file->source.read_at(&file->source, offset, bytes, n)))
			error = read_failed(r, file, error, offset);
		if (!error) {
			drop_behind(r, file, offset, n);
			XXH3_128bits_update(r->tensor_hash, bytes, n);
			XXH3_128bits_update(r->file_hash, bytes, n);
		}
	}
	free(bytes);
	take_hash(r->tensor_hash, t->record.hash);
	r->original_done += t->record.size;
	return error;
}

static int open_tables(struct run *r, mfs_plan_tensor *t)
{
	int error = mfs_plan_open_tables(t);

	if (error)
		mfs_problem_set(r->why, error, UINT64_MAX, "cannot open the tables of '%.*s'",
				t->record.name_length, t->record.name);
	return error;
}

static int pack_run(struct run *r, const mfs_plan_run *run)
{
	mfs_plan_tensor *t = &r->plan->tensors[run->tensor];
	int error = run->first == t->first_stored ? open_tables(r, t) : 0;

	if (error)
		return error;
	for (uint64_t i = run->first; i < run->first + run->count; i++) {
		mfs_coder_job *job;

		error = check_cancel(r);
		while (!error && !(job = mfs_coders_take(r->coders)))
			error = store_one(r);
		if (!error)
			error = read_span(r, run->tensor, i, job);
		if (error)
			return error;
		mfs_coders_submit(r->coders);
	}
	return 0;
}

static int pack_tensor(struct run *r, uint32_t number)
{
	mfs_plan_tensor *t = &r->plan->tensors[number];
	const mfs_plan_run whole = {number, 0, t->spans};
	int error;

	XXH3_128bits_reset(r->tensor_hash);
	error = pack_run(r, &whole);
	take_hash(r->tensor_hash, t->record.hash);
	return error;
}

static int pack_zeros(struct run *r, uint64_t length)
{
	static const uint8_t zeros[64 << 10];

	for (uint64_t left = length; left && !check_cancel(r);) {
		size_t n = left < sizeof(zeros) ? left : sizeof(zeros);

		XXH3_128bits_update(r->file_hash, zeros, n);
		left -= n;
	}
	r->original_done += length;
	return check_cancel(r);
}

/* Of a view only what differs from its base's header is stored; nobody knows its
 * hash before it is computed. */
static bool is_own(const struct run *r, const mfs_plan_file *view, const mfs_root_extent *e)
{
	const mfs_root_tensor *t = &r->plan->tensors[e->tensor].record;

	return e->kind == MFS_EXTENT_TENSOR && &r->plan->files[t->file] == view &&
	       !(t->flags & MFS_TENSOR_DERIVED);
}

static int pack_view(struct run *r, const mfs_plan_file *file)
{
	int error = 0;

	XXH3_128bits_reset(r->file_hash);
	for (uint64_t i = 0; i < file->record.extent_count && !error; i++) {
		const mfs_root_extent *e = &r->plan->extents[file->record.first_extent + i];
		mfs_plan_tensor *t = &r->plan->tensors[e->tensor];

		if (!is_own(r, file, e))
			continue;
		error = t->twin == MFS_NO_TENSOR ? pack_tensor(r, e->tensor) : pack_twin(r, t);
	}
	return error;
}

static int pack_file(struct run *r, mfs_plan_file *file)
{
	int error = 0;

	if (file->view)
		return pack_view(r, file);
	posix_fadvise(file->source.u.fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	XXH3_128bits_reset(r->file_hash);
	for (uint64_t i = 0; i < file->record.extent_count && !error; i++) {
		const mfs_root_extent *e = &r->plan->extents[file->record.first_extent + i];

		if (e->kind == MFS_EXTENT_ZEROS)
			error = pack_zeros(r, e->length);
		else if (r->plan->tensors[e->tensor].twin != MFS_NO_TENSOR)
			error = pack_twin(r, &r->plan->tensors[e->tensor]);
		else
			error = pack_tensor(r, e->tensor);
	}
	take_hash(r->file_hash, file->record.hash);
	return error;
}

/* Stores frames as they are. */
static int copy_run(struct run *r, const mfs_plan_run *run)
{
	mfs_coder_job job;
	int error = 0;

	for (uint64_t i = run->first; i < run->first + run->count && !error; i++) {
		error = check_cancel(r);
		if (!error)
			error = mfs_compactor_span(r->compactor, run->tensor, i, &job, r->why);
		if (!error)
			error = mfs_chunk_writer_add(&r->writer, &job, r->why);
		if (!error)
			count_stored(r, &job);
		r->original_done += job.span.bytes;
		report(r, MFS_PACK_WRITE, r->original_done);
	}
	return error;
}

static int copy_runs(struct run *r)
{
	int error = 0;

	for (uint32_t i = 0; i < r->plan->run_count && !error; i++)
		error = copy_run(r, &r->plan->runs[i]);
	return error ? error : mfs_chunk_writer_finish(&r->writer, r->why);
}

/* ---- packing in another order than the files' ---- */

static int hash_tensor(struct run *r, mfs_plan_file *file, mfs_plan_tensor *t, uint8_t *buffer)
{
	uint64_t size = t->record.size;

	XXH3_128bits_reset(r->tensor_hash);
	for (uint64_t at = 0; at < size; at += HASH_BYTES) {
		size_t n = size - at < HASH_BYTES ? (size_t)(size - at) : HASH_BYTES;
		uint64_t offset = t->record.file_offset + at;
		int error = file->source.read_at(&file->source, offset, buffer, n);

		if (error)
			return read_failed(r, file, error, offset);
		error = check_cancel(r);
		if (error)
			return error;
		XXH3_128bits_update(r->tensor_hash, buffer, n);
		XXH3_128bits_update(r->file_hash, buffer, n);
		posix_fadvise(file->source.u.fd, (off_t)offset, (off_t)n, POSIX_FADV_DONTNEED);
	}
	take_hash(r->tensor_hash, t->record.hash);
	if (t->twin != MFS_NO_TENSOR)
		r->original_done += size;
	return 0;
}

/* Hashes take the bytes in the order of the file: they have a pass of their own. */
static int hash_file(struct run *r, mfs_plan_file *file, uint8_t *buffer)
{
	int error = 0;

	XXH3_128bits_reset(r->file_hash);
	for (uint64_t i = 0; i < file->record.extent_count && !error; i++) {
		const mfs_root_extent *e = &r->plan->extents[file->record.first_extent + i];

		if (file->view && !is_own(r, file, e))
			continue;
		error = e->kind == MFS_EXTENT_ZEROS
			    ? pack_zeros(r, e->length)
			    : hash_tensor(r, file, &r->plan->tensors[e->tensor], buffer);
	}
	if (!file->view)
		take_hash(r->file_hash, file->record.hash);
	return error;
}

static int pack_runs(struct run *r)
{
	uint8_t *buffer = malloc(HASH_BYTES);
	int error = buffer ? 0 : no_memory(r->why);

	for (uint32_t i = 0; i < r->plan->file_count && !error; i++)
		if (!r->plan->files[i].carried)
			error = hash_file(r, &r->plan->files[i], buffer);
	free(buffer);
	for (uint32_t i = 0; i < r->plan->run_count && !error; i++)
		if (mfs_plan_writes(&r->plan->tensors[r->plan->runs[i].tensor]))
			error = pack_run(r, &r->plan->runs[i]);
	return error;
}

static int pack_files(struct run *r)
{
	int error = r->plan->reordered ? pack_runs(r) : 0;

	for (uint32_t i = 0; i < r->plan->file_count && !r->plan->reordered && !error; i++)
		if (!r->plan->files[i].carried)
			error = pack_file(r, &r->plan->files[i]);
	while (!error && mfs_coders_collect(r->coders))
		error = store_one(r);
	if (!error)
		error = mfs_chunk_writer_finish(&r->writer, r->why);
	for (uint32_t i = 0; i < r->plan->file_count && !error; i++)
		if (!r->plan->files[i].carried)
			error = mfs_plan_file_unchanged(&r->plan->files[i], r->why);
	return error;
}

/* ---- the stages ---- */

/* A container that replaced its own source would destroy it. */
static int check_not_source(const struct run *r)
{
	const mfs_output *o = r->output;

	for (uint32_t i = 0; o->exists && i < r->plan->file_count; i++) {
		const struct stat *st = &r->plan->files[i].found;

		if (!r->plan->files[i].carried && st->st_dev == o->device && st->st_ino == o->inode)
			return mfs_problem_set(r->why, MFS_E_ARGUMENT, UINT64_MAX,
					       "%s: is a source and the container at once",
					       o->path);
	}
	return 0;
}

static int drop_removed(struct run *r)
{
	mfs_packer *p = r->packer;
	int error;

	if (!p->carried)
		return 0;
	error = mfs_carried_check_removed(p->carried, r->why);
	if (error)
		return error;
	p->removed = mfs_carried_drop_removed(&p->plan);
	for (uint32_t i = 0; i < p->plan.file_count; i++)
		p->added += !p->plan.files[i].carried;
	if (!p->plan.file_count)
		return mfs_problem_set(r->why, MFS_E_ARGUMENT, UINT64_MAX,
				       "%s: nothing would be left in it", p->locked.path);
	if (p->added && p->compact)
		return mfs_problem_set(r->why, MFS_E_ARGUMENT, UINT64_MAX,
				       "%s: append first, then compact", p->locked.path);
	if (!p->added && !p->removed && !p->compact)
		return mfs_problem_set(r->why, MFS_E_ARGUMENT, UINT64_MAX,
				       "%s: there is nothing to append or remove", p->locked.path);
	return 0;
}

static int make_plan_compact(struct run *r)
{
	int error = mfs_compactor_new(&r->compactor, r->plan, r->why);

	if (!error && r->packer->order)
		error = mfs_plan_order(r->plan, r->packer->order, r->why);
	if (error)
		return error;
	mfs_plan_number(r->plan);
	return make_types(r);
}

static int make_plan(struct run *r)
{
	int error = drop_removed(r);

	if (!error)
		error = mfs_plan_build(r->plan, r->why);
	if (!error && r->packer->compact)
		return make_plan_compact(r);
	if (!error)
		error = mfs_plan_share(r->plan, &r->packer->cancel, r->why);
	if (!error)
		error = mfs_plan_match_deltas(r->plan, r->why);
	if (!error)
		error = mfs_views_cut(r->plan, r->why);
	if (!error && r->packer->order)
		error = mfs_plan_order(r->plan, r->packer->order, r->why);
	if (!error)
		error = mfs_plan_sample(r->plan, r->packer->threads, &r->packer->cancel,
					report_sampling, r, r->why);
	if (error)
		return error;
	mfs_plan_number(r->plan);
	return make_types(r);
}

static unsigned job_count(const struct run *r, size_t span_max)
{
	unsigned least = r->packer->threads + 2;
	size_t jobs = JOB_BYTES / span_max;

	if (jobs > JOBS_MAX)
		jobs = JOBS_MAX;
	return jobs > least ? (unsigned)jobs : least;
}

static int open_writers(struct run *r)
{
	/* Without tensors (empty files only) nothing is coded. */
	size_t span_max = r->plan->span_max ? r->plan->span_max : 1;
	int error = mfs_index_place(&r->placement, r->plan, r->why);

	if (error)
		return error;
	r->file_hash = XXH3_createState();
	r->tensor_hash = XXH3_createState();
	error = mfs_chunk_writer_open(&r->writer, r->plan, &r->placement, r->output);
	if (error && error != MFS_E_MEMORY)
		return mfs_problem_set(r->why, error, UINT64_MAX, "%s: cannot read its index: %s",
				       r->packer->locked.path, mfs_error_text(error));
	if (error || !r->file_hash || !r->tensor_hash ||
	    (!r->compactor &&
	     mfs_coders_new(&r->coders, r->packer->threads, job_count(r, span_max), span_max) < 0))
		return no_memory(r->why);
	return 0;
}

/* Threads and buffers go before the verification takes its own memory. */
static void close_writers(struct run *r)
{
	mfs_coders_free(r->coders);
	r->coders = NULL;
	mfs_compactor_free(r->compactor);
	r->compactor = NULL;
	mfs_chunk_writer_close(&r->writer);
	mfs_placement_free(&r->placement);
	XXH3_freeState(r->file_hash);
	XXH3_freeState(r->tensor_hash);
	r->file_hash = r->tensor_hash = NULL;
	free(r->base_span);
	r->base_span = NULL;
}

static int report_damage(void *user, const mfs_problem *damage)
{
	struct run *r = user;

	mfs_problem_set(r->why, MFS_E_IO, damage->offset, "%s: does not read back as written: %s",
			r->output->path, damage->text);
	return 1;
}

static int report_verifying(void *user, uint64_t done, uint64_t total)
{
	struct run *r = user;

	(void)total;
	report(r, MFS_PACK_VERIFY, done);
	return atomic_load(&r->packer->cancel);
}

/* Memory for reading back: enough to keep every core busy. All of it is touched, and
 * taking it costs time that a small model's verification does not have. */
#define VERIFY_BYTES	  (16u << 20)
#define VERIFY_BYTES_EACH (2u << 20)

static int64_t check_all(struct run *r, mfs_container *container)
{
	return mfs_check(container, report_damage, report_verifying, r);
}

/* What was there before is not read again. */
static int64_t check_added(struct run *r, mfs_container *container)
{
	bool *fresh = calloc(r->plan->file_count + 1u, sizeof(*fresh));
	int64_t problems;

	if (!fresh)
		return MFS_E_MEMORY;
	for (uint32_t i = 0; i < r->plan->file_count; i++)
		fresh[i] = !r->plan->files[i].carried;
	problems = container_check_fresh(container, fresh, report_damage, report_verifying, r);
	free(fresh);
	return problems;
}

static int verify(struct run *r)
{
	mfs_open_options options = MFS_OPEN_OPTIONS_INIT;
	bool appended = r->plan->carried;
	mfs_container *container;
	mfs_problem damage = {0};
	int64_t problems;
	int error;

	options.decoders = r->packer->threads;
	options.arena_bytes = VERIFY_BYTES + (uint64_t)VERIFY_BYTES_EACH * r->packer->threads;
	if (appended)
		error = mfs_open_generation(&container, r->output->path, &r->index.superblock,
					    &options, &damage);
	else
		error = mfs_open(&container, r->output->temporary_path, &options, &damage);
	if (error) {
		report_damage(r, &damage);
		return MFS_E_IO;
	}
	problems = appended ? check_added(r, container) : check_all(r, container);
	mfs_close(container);
	if (problems == MFS_E_CANCELLED)
		return check_cancel(r);
	if (problems < 0)
		return mfs_problem_set(r->why, (int)problems, UINT64_MAX, "%s: cannot verify: %s",
				       r->output->path, mfs_error_text((int)problems));
	return problems ? MFS_E_IO : 0;
}

static void fill_summary(const struct run *r, mfs_pack_summary *s)
{
	s->original_bytes = r->plan->original_bytes;
	s->stored_bytes = r->index.superblock.container_size;
	s->frame_bytes = r->writer.frame_bytes;
	s->tables_bytes = r->writer.tables_bytes;
	s->superblock_bytes = 3 * MFS_SB_SIZE;
	s->index_bytes = r->index.index_bytes;
	s->written_bytes = s->stored_bytes;
	if (r->plan->carried) {
		s->superblock_bytes = MFS_SB_SIZE;
		s->written_bytes -= r->plan->carried->container->sb.container_size;
	}
	s->padding_bytes = s->written_bytes - s->frame_bytes - s->tables_bytes -
			   s->superblock_bytes - s->index_bytes;
	s->files = r->plan->file_count;
	s->generation = r->index.superblock.generation;
	s->files_added = r->packer->carried ? r->packer->added : s->files;
	s->files_removed = r->packer->removed;
	for (uint32_t i = 0; i < r->plan->tensor_count; i++)
		s->tensors +=
		    !(r->plan->tensors[i].record.flags & (MFS_TENSOR_LITERAL | MFS_TENSOR_DERIVED));
	for (uint32_t i = 0; i < r->plan->file_count; i++) {
		s->adapters += r->plan->files[i].record.kind == MFS_FILE_ADAPTER;
		s->views += r->plan->files[i].record.kind == MFS_FILE_VIEW;
	}
	s->chunks = (uint32_t)r->writer.chunk_count;
	sort_types(r->packer);
	s->types = r->packer->types;
	s->type_count = r->packer->type_count;
}

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Up to a container that is complete and on the medium, but has no name yet. */
static int write_container(struct run *r, mfs_pack_summary *s)
{
	double start = seconds();
	int error = make_plan(r);

	if (!error)
		error = open_writers(r);
	if (!error)
		error = r->compactor ? copy_runs(r) : pack_files(r);
	mfs_plan_note_losses(r->plan);
	mfs_plan_set_offsets(r->plan);
	if (!error)
		error = mfs_index_write(&r->index, r->plan, &r->placement, &r->writer, r->output,
					r->why);
	if (!error && r->output && !r->plan->carried)
		error = mfs_index_seal(&r->index, r->output, r->why);
	if (!error)
		fill_summary(r, s);
	close_writers(r);
	s->seconds_write = seconds() - start;
	return error ? error : check_cancel(r);
}

static int write_and_publish(struct run *r, mfs_pack_summary *s)
{
	int error = check_not_source(r);
	double start;

	if (!error)
		error = write_container(r, s);
	start = seconds();
	if (!error && !r->packer->no_verify)
		error = verify(r);
	s->seconds_verify = r->packer->no_verify ? 0 : seconds() - start;
	if (!error)
		error = check_cancel(r);
	if (!error)
		error = mfs_output_publish(r->output, r->why);
	return error;
}

/* The new generation is verified before any superblock leads to it. */
static int write_and_append(struct run *r, mfs_pack_summary *s)
{
	int error = write_container(r, s);
	double start = seconds();

	if (!error)
		error = mfs_output_extend(r->output, s->stored_bytes, r->why);
	if (!error && !r->packer->no_verify)
		error = verify(r);
	s->seconds_verify = r->packer->no_verify ? 0 : seconds() - start;
	if (!error)
		error = check_cancel(r);
	if (!error)
		error = mfs_index_seal(&r->index, r->output, r->why);
	return error;
}

static int write_appended(struct run *r, mfs_pack_summary *s)
{
	mfs_packer *p = r->packer;
	int error =
	    mfs_output_begin_behind(&p->locked, p->carried->container->sb.container_size, r->why);

	r->output = &p->locked;
	return error ? error : write_and_append(r, s);
}

static int write_new(struct run *r, const char *path, mfs_pack_summary *s)
{
	mfs_packer *p = r->packer;
	int error = mfs_output_open(&p->output, path, p->force || p->compact, r->why);

	r->output = &p->output;
	if (!error && p->compact)
		error = mfs_output_keep_mode(&p->output, &p->locked, r->why);
	return error ? error : write_and_publish(r, s);
}

static int check_work(const mfs_packer *p, mfs_problem *why)
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
	return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
			       "%s: is no GGUF model: there is nothing to quantize or prune",
			       p->plan.files[0].path);
}

int mfs_packer_write(mfs_packer *p, const char *path, mfs_pack_progress *progress, void *user,
		     mfs_pack_summary *out, mfs_problem *why)
{
	struct run r = {
	    .packer = p, .plan = &p->plan, .progress = progress, .user = user, .why = why};
	mfs_pack_summary summary = {.size = sizeof(summary)};
	int error = check_work(p, why);

	if (error)
		return error;
	p->used = true;
	if (path && p->carried && strcmp(path, p->locked.path) != 0)
		error = mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
					"%s: is not the container that was opened", path);
	else if (!path)
		error = write_container(&r, &summary);
	else if (p->carried && !p->compact)
		error = write_appended(&r, &summary);
	else
		error = write_new(&r, path, &summary);
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

/* ---- why ---- */

static void fill_choice(const mfs_plan *plan, const mfs_plan_tensor *t, mfs_pack_choice *out)
{
	out->file = plan->files[t->record.file].name;
	out->tensor = t->record.name;
	out->type = t->layout->name;
	out->cls = class_name(t->record.cls);
	out->reason = t->choice.reason;
	out->sample_bytes = t->choice.sample_bytes;
	out->chosen_bytes = t->choice.chosen;
	for (unsigned coding = 0; coding < MFS_CODINGS; coding++) {
		if (coding == MFS_CODING_ZERO)
			continue; /* where there is nothing but zeros, always */
		out->tried[out->coding_count].coding = mfs_coding_name(coding);
		out->tried[out->coding_count++].stored_bytes = t->choice.stored[coding];
	}
}

int mfs_packer_choice(mfs_packer *p, uint32_t i, mfs_pack_choice *out)
{
	mfs_pack_choice choice = {.size = out->size};

	if (out->size < sizeof(out->size) || !p->plan.explain)
		return MFS_E_ARGUMENT;
	if (i >= p->plan.tensor_count)
		return MFS_E_NOT_FOUND;
	if (!(p->plan.tensors[i].record.flags & (MFS_TENSOR_LITERAL | MFS_TENSOR_DERIVED)) &&
	    !p->plan.tensors[i].stored)
		fill_choice(&p->plan, &p->plan.tensors[i], &choice);
	memcpy(out, &choice, out->size < sizeof(choice) ? out->size : sizeof(choice));
	return 0;
}

/* ---- what was lost ---- */

int mfs_packer_loss(mfs_packer *p, uint32_t i, mfs_pack_loss *out)
{
	mfs_pack_loss result = {.size = out->size};

	if (out->size < sizeof(out->size))
		return MFS_E_ARGUMENT;
	for (uint32_t k = 0; k < p->plan.file_count; k++) {
		const mfs_plan_file *file = &p->plan.files[k];
		uint32_t n = 0;
		mfs_loss loss;

		while (file->requantized && mfs_requantized_loss(file->requantized, n, &loss)) {
			n++;
			if (i--)
				continue;
			result.file = file->name;
			result.tensor = loss.name;
			result.type = loss.from;
			result.new_type = loss.to;
			result.rmse = loss.rmse;
			result.most = loss.most;
			result.weights = loss.weights;
			result.zeros = loss.zeros;
			memcpy(out, &result,
			       out->size < sizeof(result) ? out->size : sizeof(result));
			return 0;
		}
	}
	return MFS_E_NOT_FOUND;
}
