/*
 * Models of bitsandbytes: their files are looked at together, since a matrix may have its
 * tensors in several, and get views in which the weights are decoded.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "carried.h"
#include "plan.h"
#include "problem.h"
#include "shards.h"
#include "view.h"

/* The files of a model, by their numbers in the plan. */
struct model {
	uint32_t *files; /* MFS_NO_FILE: it is not there */
	uint32_t count;
};

static bool is_model(const mfs_plan *plan, const mfs_plan_file *file)
{
	return file->import.format == MFS_FORMAT_SAFETENSORS && !mfs_carried_goes(plan, file) &&
	       file->record.kind == MFS_FILE_PACKED;
}

static uint32_t find_file(const mfs_plan *plan, const char *name)
{
	for (uint32_t i = 0; i < plan->file_count; i++)
		if (is_model(plan, &plan->files[i]) && !strcmp(plan->files[i].name, name))
			return i;
	return MFS_NO_FILE;
}

static int find_model(const mfs_plan *plan, uint32_t file, struct model *out, mfs_problem *why)
{
	const char *name = plan->files[file].name;
	char other[MFS_NAME_MAX + 1];
	mfs_shard shard = {.count = 1};
	bool sharded = mfs_shard_parse(&shard, name) && shard.count <= MFS_SHARDS_MAX;

	out->count = sharded ? shard.count : 1;
	out->files = calloc(out->count, sizeof(*out->files));
	if (!out->files)
		return mfs_problem_no_memory(why);
	out->files[0] = file;
	for (uint32_t i = 0; i < out->count && sharded; i++) {
		mfs_shard_name(other, name, &shard, i + 1);
		out->files[i] = find_file(plan, other);
	}
	return 0;
}

/* The name of a file without its ending: what its views are called by. */
static void label_of(const char *name, char out[MFS_NAME_MAX + 1])
{
	static const char end[] = ".safetensors";
	size_t length = strlen(name), n = sizeof(end) - 1;

	if (length > n && !strcmp(name + length - n, end))
		length -= n;
	snprintf(out, MFS_NAME_MAX + 1, "%.*s", (int)length, name);
}

/* Gives a file what was found; those that are carried over have their views. */
static int take(mfs_plan *plan, uint32_t number, mfs_bnb **bnb, mfs_problem *why)
{
	mfs_plan_file *file = &plan->files[number];
	char label[MFS_NAME_MAX + 1];

	if (file->models_opened)
		return 0;
	file->models_opened = true;
	file->bnb = *bnb;
	*bnb = NULL;
	if (!file->bnb || file->carried)
		return 0;
	label_of(file->name, label);
	return mfs_views_add_bnb(plan, label, file->name, why);
}

/* 4-bit weights of another kind: the model is stored as it is in any case. */
static int refuse(mfs_plan *plan, const struct model *m, const mfs_problem *reason,
		  mfs_problem *why)
{
	bool told = false;

	for (uint32_t i = 0; i < m->count; i++) {
		mfs_plan_file *file = &plan->files[m->files[i]];

		if (m->files[i] == MFS_NO_FILE || file->models_opened)
			continue;
		file->models_opened = true;
		if (!told && asprintf(&file->remark, "%s: no views of it: %s", file->name,
				      reason->text) < 0) {
			file->remark = NULL;
			return mfs_problem_no_memory(why);
		}
		told = true;
	}
	return 0;
}

static int open_files(mfs_plan *plan, const struct model *m, mfs_bnb_file *files, mfs_bnb **bnb,
		      mfs_problem *why)
{
	mfs_problem reason = {0};
	int error;

	for (uint32_t i = 0; i < m->count; i++)
		if (m->files[i] != MFS_NO_FILE)
			files[i] = (mfs_bnb_file){&plan->files[m->files[i]].import,
						  &plan->files[m->files[i]].source};
	error = mfs_bnb_open(bnb, files, m->count, &reason);
	if (mfs_plan_is_refusal(error))
		return refuse(plan, m, &reason, why);
	if (error && why)
		*why = reason;
	for (uint32_t i = 0; i < m->count && !error; i++)
		if (m->files[i] != MFS_NO_FILE)
			error = take(plan, m->files[i], &bnb[i], why);
	return error;
}

static int open_model(mfs_plan *plan, uint32_t file, mfs_problem *why)
{
	struct model m = {0};
	mfs_bnb_file *files = NULL;
	mfs_bnb **bnb = NULL;
	int error = find_model(plan, file, &m, why);

	if (error)
		return error;
	files = calloc(m.count, sizeof(*files));
	bnb = calloc(m.count, sizeof(*bnb));
	error = files && bnb ? open_files(plan, &m, files, bnb, why) : mfs_problem_no_memory(why);
	for (uint32_t i = 0; bnb && i < m.count; i++)
		mfs_bnb_free(bnb[i]);
	free(bnb);
	free(files);
	free(m.files);
	return error;
}

int mfs_plan_open_models(mfs_plan *plan, mfs_problem *why)
{
	uint32_t count = plan->file_count; /* views follow */
	int error = 0;

	for (uint32_t i = 0; i < count && !error; i++)
		if (is_model(plan, &plan->files[i]) && !plan->files[i].models_opened)
			error = open_model(plan, i, why);
	return error;
}
