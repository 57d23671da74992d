/*
 * Sources that are directories, such as a sharded model with its configuration:
 * every regular file in it, under its own name. Symbolic links are followed
 * (model hubs link their snapshots into a store); subdirectories and names that
 * begin with a dot are left out, as a shell's wildcards leave the latter out.
 *
 * An index of shards (NAME.safetensors.index.json) must agree with the files.
 */
#include "plan.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json_walk.h"
#include "problem.h"

/* Of an index; of the values beside its weight_map. */
#define INDEX_MAX	(24u << 20)
#define INDEX_VALUE_MAX (64u << 10)
#define SHARD_NAME_MAX	4096u

static int system_error(const char *path, mfs_problem *why)
{
	return mfs_problem_set(why, errno == ENOENT ? MFS_E_NOT_FOUND : MFS_E_SYSTEM, UINT64_MAX,
			       "%s: %s", path, strerror(errno));
}

/* ---- files ---- */

static int add_entry(mfs_plan *plan, const char *directory, const char *name, mfs_problem *why)
{
	char *path = NULL;
	struct stat st;
	int error = 0;

	if (asprintf(&path, "%s/%s", directory, name) < 0)
		return mfs_problem_no_memory(why);
	/* A link that leads nowhere is a model with a piece missing. */
	if (stat(path, &st) < 0)
		error = system_error(path, why);
	else if (S_ISREG(st.st_mode))
		error = mfs_plan_add(plan, path, NULL, why);
	free(path);
	return error;
}

static int is_visible(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static int compare_names(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int add_entries(mfs_plan *plan, const char *path, mfs_problem *why)
{
	struct dirent **entries;
	int count = scandir(path, &entries, is_visible, compare_names);
	int error = 0;

	if (count < 0)
		return system_error(path, why);
	for (int i = 0; i < count; i++) {
		if (!error)
			error = add_entry(plan, path, entries[i]->d_name, why);
		free(entries[i]);
	}
	free(entries);
	return error;
}

/* ---- the index of shards ---- */

struct index {
	mfs_plan *plan;
	uint32_t first; /* file of the directory */
	mfs_plan_file *file;
	mfs_json_walk walk;
	mfs_problem *why;
	const mfs_plan_file *shard; /* the last one that was asked for */
};

#define refuse(x, offset, ...)                                                                     \
	mfs_import_refuse((x)->why, &(x)->file->source, MFS_E_INVALID, (offset), __VA_ARGS__)

static const mfs_plan_file *find_shard(struct index *x, const char *name)
{
	if (x->shard && !strcmp(x->shard->name, name))
		return x->shard;
	for (uint32_t i = x->first; i < x->plan->file_count; i++)
		if (!strcmp(x->plan->files[i].name, name))
			return x->shard = &x->plan->files[i];
	return NULL;
}

static bool has_tensor(const mfs_import *import, const char *name)
{
	uint32_t low = 0, high = import->name_count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		int order = strcmp(import->names[middle].text, name);

		if (!order)
			return true;
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}

static int check_shard(struct index *x, const char *tensor, const char *name, uint64_t at)
{
	const mfs_plan_file *shard = find_shard(x, name);

	if (!shard)
		return refuse(x, at, "the shard '%.128s' is not in the directory", name);
	if (shard->import.format != MFS_FORMAT_SAFETENSORS)
		return refuse(x, at, "the shard '%.128s' is no safetensors file", name);
	if (!has_tensor(&shard->import, tensor))
		return refuse(x, at, "tensor '%.64s' is not in the shard '%.128s'", tensor, name);
	return 0;
}

static int check_entry(struct index *x, const json_t *tensor)
{
	uint64_t at = x->walk.key_offset;
	json_t *name;
	int error = mfs_json_value(&x->walk, SHARD_NAME_MAX, &name);

	if (error)
		return error;
	if (json_is_string(name))
		error = check_shard(x, json_string_value(tensor), json_string_value(name), at);
	else
		error = refuse(x, at, "tensor '%.64s' is in no shard", json_string_value(tensor));
	json_decref(name);
	return error;
}

static int check_weight_map(struct index *x)
{
	json_t *tensor;
	int more, error = mfs_json_enter(&x->walk);

	if (error)
		return error;
	while ((more = mfs_json_key(&x->walk, &tensor)) > 0) {
		error = check_entry(x, tensor);
		json_decref(tensor);
		if (error)
			return error;
	}
	return more;
}

static int check_values(struct index *x)
{
	bool found = false;
	json_t *key, *value;
	int more, error = mfs_json_enter(&x->walk);

	if (error)
		return error;
	while ((more = mfs_json_key(&x->walk, &key)) > 0) {
		bool map = !strcmp(json_string_value(key), "weight_map");

		json_decref(key);
		if (map) {
			error = check_weight_map(x);
			found = true;
		} else {
			error = mfs_json_value(&x->walk, INDEX_VALUE_MAX, &value);
			json_decref(value);
		}
		if (error)
			return error;
	}
	if (more < 0)
		return more;
	return found ? mfs_json_end(&x->walk) : refuse(x, 0, "the index has no weight_map");
}

static int check_index(mfs_plan *plan, uint32_t first, mfs_plan_file *file, mfs_problem *why)
{
	struct index x = {.plan = plan, .first = first, .file = file, .why = why};
	int error;

	if (file->source.size > INDEX_MAX)
		return mfs_import_refuse(why, &file->source, MFS_E_LIMIT, 0,
					 "an index of %" PRIu64
					 " bytes is over the limit of %u MiB",
					 file->source.size, INDEX_MAX >> 20);
	error = mfs_json_open(&x.walk, &file->source, 0, file->source.size, why);
	if (!error)
		error = check_values(&x);
	mfs_json_close(&x.walk);
	return error;
}

static bool is_index(const char *name)
{
	static const char suffix[] = ".safetensors.index.json";
	size_t length = strlen(name), n = sizeof(suffix) - 1;

	return length > n && !strcmp(name + length - n, suffix);
}

/* ---- the directory ---- */

bool mfs_is_directory(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int mfs_plan_add_directory(mfs_plan *plan, const char *path, mfs_problem *why)
{
	uint32_t first = plan->file_count;
	int error = add_entries(plan, path, why);

	if (!error && plan->file_count == first)
		error = mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
					"%s: no regular files in the directory", path);
	for (uint32_t i = first; i < plan->file_count && !error && !plan->opaque; i++)
		if (is_index(plan->files[i].name))
			error = check_index(plan, first, &plan->files[i], why);
	if (error)
		mfs_plan_forget(plan, first);
	return error;
}
