/* The files of a plan: opened, named, added, found and given back. */
#include "plan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../format/check.h"
#include "carried.h"
#include "premerge.h"
#include "problem.h"
#include "view.h"

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static int check_name(const mfs_plan *plan, const char *path, const char *name, mfs_problem *why)
{
	static const char *const own[] = {".modelfs", "adapters", "merged", "views"};

	if (!mfs_name_ok(name, strlen(name)))
		return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
				       "%s: not usable as a name in the container (1 to 255 bytes "
				       "of UTF-8 without '/'): choose one with NAME=SOURCE",
				       path);
	for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		if (!strcmp(name, own[i]))
			return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
					       "%s: the name '%s' is modelfs's own: choose "
					       "another with NAME=SOURCE",
					       path, name);
	for (uint32_t i = 0; i < plan->file_count; i++)
		if (!mfs_carried_goes(plan, &plan->files[i]) && !strcmp(name, plan->files[i].name))
			return mfs_problem_set(why, MFS_E_EXISTS, UINT64_MAX,
					       "%s: the name '%s' is taken by %s: choose another "
					       "with NAME=SOURCE",
					       path, name, plan->files[i].path);
	return 0;
}

bool mfs_plan_is_refusal(int error)
{
	return error == MFS_E_INVALID || error == MFS_E_LIMIT || error == MFS_E_TRUNCATED ||
	       error == MFS_E_UNSUPPORTED;
}

static int import_file(mfs_plan *plan, mfs_plan_file *file, mfs_problem *why)
{
	int error = mfs_import_source(&file->import, &file->source, why);

	if (plan->opaque && mfs_plan_is_refusal(error)) {
		memset(&file->import, 0, sizeof(file->import));
		file->import.format = MFS_FORMAT_OPAQUE;
		error = 0;
	}
	return error;
}

static int open_file(mfs_plan *plan, mfs_plan_file *file, mfs_problem *why)
{
	int error = mfs_source_open(&file->source, file->path, why);

	if (error)
		return error;
	if (fstat(file->source.u.fd, &file->found) < 0)
		error = mfs_problem_set(why, MFS_E_SYSTEM, UINT64_MAX, "%s: %s", file->path,
					strerror(errno));
	else if (file->source.size > MFS_FILE_MAX)
		error =
		    mfs_problem_set(why, MFS_E_LIMIT, UINT64_MAX, "%s: file too large", file->path);
	else
		error = import_file(plan, file, why);
	if (error)
		mfs_source_close(&file->source);
	return error;
}

mfs_plan_file *mfs_plan_new_file(mfs_plan *plan)
{
	mfs_plan_file *files = realloc(plan->files, (plan->file_count + 1) * sizeof(*files));

	if (!files)
		return NULL;
	plan->files = files;
	memset(&files[plan->file_count], 0, sizeof(*files));
	return &files[plan->file_count];
}

void mfs_plan_discard(mfs_plan_file *file)
{
	mfs_import_free(&file->import);
	if (!mfs_plan_computes(file))
		mfs_source_close(&file->source);
	mfs_requantized_free(file->requantized);
	mfs_premerged_free(file->premerged);
	mfs_adapter_free(file->adapter);
	mfs_peft_close(file->peft);
	mfs_view_free(file->view);
	free(file->path);
	free(file->name);
	free(file->note);
	free(file->delta_of);
	mfs_bnb_free(file->bnb);
	mfs_gains_free(file->gains);
	free(file->nested_offsets);
	free(file->remark);
}

static void fill_record(mfs_plan_file *file)
{
	mfs_root_file *r = &file->record;

	r->name = file->name;
	r->name_length = (uint16_t)strlen(file->name);
	r->format = (uint16_t)file->import.format;
	r->size = file->source.size;
	r->mtime_seconds = file->found.st_mtim.tv_sec;
	r->mtime_nanoseconds = (uint32_t)file->found.st_mtim.tv_nsec;
	r->base = MFS_NO_FILE;
	r->note = file->note;
	r->note_length = file->note ? (uint16_t)strlen(file->note) : 0;
	if (mfs_plan_computes(file))
		mfs_plan_note_loss(file);
}

int mfs_plan_append(mfs_plan *plan, mfs_plan_file *file, const char *name, mfs_problem *why)
{
	mfs_plan_file *files = realloc(plan->files, (plan->file_count + 1) * sizeof(*files));

	if (files)
		plan->files = files;
	file->name = files ? strdup(name) : NULL;
	if (!file->name) {
		mfs_plan_discard(file);
		return mfs_problem_no_memory(why);
	}
	fill_record(file);
	if (file->record.kind != MFS_FILE_VIEW)
		plan->original_bytes += file->source.size;
	plan->files[plan->file_count++] = *file;
	return 0;
}

mfs_plan_file *mfs_plan_find(const mfs_plan *plan, const char *name)
{
	for (uint32_t i = 0; i < plan->file_count; i++)
		if (!strcmp(plan->files[i].name, name))
			return &plan->files[i];
	return NULL;
}

int mfs_plan_open(mfs_plan_file *out, mfs_plan *plan, const char *path, mfs_problem *why)
{
	int error;

	memset(out, 0, sizeof(*out));
	out->path = strdup(path);
	error = out->path ? open_file(plan, out, why) : mfs_problem_no_memory(why);
	if (error)
		free(out->path);
	return error;
}

/* "model.gguf" of NF4 is "model.nf4", which no other program knows, and views of it. */
static int add_nf4(mfs_plan *plan, mfs_plan_file *file, const char *name, mfs_problem *why)
{
	size_t length = strlen(name);
	char stored[MFS_NAME_MAX + 1], label[MFS_NAME_MAX + 1];
	int error;

	if (length > 5 && !strcasecmp(name + length - 5, ".gguf"))
		length -= 5;
	snprintf(label, sizeof(label), "%.*s", (int)length, name);
	snprintf(stored, sizeof(stored), "%.250s.nf4", label);
	error = check_name(plan, file->path, stored, why);
	if (error) {
		mfs_plan_discard(file);
		return error;
	}
	error = mfs_plan_append(plan, file, stored, why);
	if (!error)
		error = mfs_views_add_nf4(plan, label, plan->files[plan->file_count - 1].name, why);
	return error;
}

/* Who wants the file all the same is told how. */
static int hint_at_opaque(int error, mfs_problem *why)
{
	size_t used = why ? strlen(why->text) : 0;

	if (why && mfs_plan_is_refusal(error))
		snprintf(why->text + used, sizeof(why->text) - used,
			 "; --opaque packs it as plain bytes");
	return error;
}

/* A file that is called so and is none was damaged, or is not what the user thinks. */
static int remark_no_gguf(const mfs_plan *plan, mfs_plan_file *file, mfs_problem *why)
{
	const char *dot = strrchr(file->path, '.');

	if (plan->opaque || file->import.format != MFS_FORMAT_OPAQUE || !dot ||
	    strcmp(dot, ".gguf") != 0)
		return 0;
	if (asprintf(&file->remark, "%s: no GGUF file in spite of its name: packed as plain bytes",
		     file->path) >= 0)
		return 0;
	file->remark = NULL;
	mfs_plan_discard(file);
	return mfs_problem_no_memory(why);
}

int mfs_plan_add(mfs_plan *plan, const char *path, const char *name, mfs_problem *why)
{
	mfs_plan_file file;
	int error;

	if (!name)
		name = base_name(path);
	error = check_name(plan, path, name, why);
	if (!error)
		error = hint_at_opaque(mfs_plan_open(&file, plan, path, why), why);
	if (!error)
		error = remark_no_gguf(plan, &file, why);
	if (!error)
		error = mfs_plan_change(plan, &file, why);
	if (error)
		return error;
	if (file.requantized && mfs_recipe_is_nf4(&plan->recipe))
		return add_nf4(plan, &file, name, why);
	return mfs_plan_append(plan, &file, name, why);
}

void mfs_plan_free_file(mfs_plan *plan, mfs_plan_file *file)
{
	if (!file->carried && file->record.kind != MFS_FILE_VIEW)
		plan->original_bytes -= file->source.size;
	mfs_plan_discard(file);
}

void mfs_plan_forget(mfs_plan *plan, uint32_t count)
{
	while (plan->file_count > count)
		mfs_plan_free_file(plan, &plan->files[--plan->file_count]);
}

void mfs_plan_free(mfs_plan *plan)
{
	for (uint32_t i = 0; i < plan->tensor_count; i++) {
		mfs_plan_close_tables(&plan->tensors[i]);
		for (int s = 0; s < MFS_SLOTS; s++)
			free(plan->tensors[i].tables[s]);
		free(plan->tensors[i].owners);
	}
	mfs_plan_forget(plan, 0);
	free(plan->files);
	free(plan->tensors);
	free(plan->extents);
	free(plan->runs);
	free(plan->aliases);
	free(plan->terms);
	free(plan->layouts);
	memset(plan, 0, sizeof(*plan));
}

int mfs_plan_file_unchanged(const mfs_plan_file *file, mfs_problem *why)
{
	int fd = file->peft ? mfs_peft_descriptor(file->peft) : file->source.u.fd;
	struct stat now;

	if (file->view || file->gains)
		return 0; /* it is computed */
	if (fstat(fd, &now) < 0)
		return mfs_problem_set(why, MFS_E_SYSTEM, UINT64_MAX, "%s: %s", file->path,
				       strerror(errno));
	if (now.st_size != file->found.st_size ||
	    now.st_mtim.tv_sec != file->found.st_mtim.tv_sec ||
	    now.st_mtim.tv_nsec != file->found.st_mtim.tv_nsec)
		return mfs_problem_set(why, MFS_E_INVALID, UINT64_MAX,
				       "%s: the file changed while it was packed", file->path);
	return 0;
}
