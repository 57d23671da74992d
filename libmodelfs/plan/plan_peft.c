/*
 * Adapters of PEFT on safetensors models, as files of a plan: their two files as they
 * are, the gains of a DoRA, and the merged model, a directory with the names that the
 * base has.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "carried.h"
#include "plan.h"
#include "problem.h"
#include "shards.h"
#include "view.h"

/* ---- the files of a model ---- */

const mfs_plan_file *mfs_plan_first_shard(const mfs_plan *plan, const char *name)
{
	char first[MFS_NAME_MAX + 1];
	mfs_shard shard;

	if (!mfs_shard_parse(&shard, name) || strlen(name) > MFS_NAME_MAX)
		return mfs_plan_find(plan, name);
	mfs_shard_name(first, name, &shard, 1);
	return mfs_plan_find(plan, first);
}

mfs_base_model mfs_plan_model(const mfs_plan_file *file)
{
	return (mfs_base_model){.name = file->name,
				.source = file->source,
				.import = file->import,
				.bnb = file->bnb,
				.requantized = file->requantized,
				.nested_offsets = file->nested_offsets};
}

static int add_shard(const mfs_plan *plan, const char *name, mfs_base_model *out, mfs_problem *why)
{
	const mfs_plan_file *file = mfs_plan_find(plan, name);

	if (!file || file->import.format != MFS_FORMAT_SAFETENSORS)
		return mfs_problem_set(why, MFS_E_NOT_FOUND, UINT64_MAX,
				       "%s: this file of the model is missing", name);
	if (file->remark)
		return mfs_problem_set(why, MFS_E_UNSUPPORTED, UINT64_MAX,
				       "nothing can be merged into this model: %s", file->remark);
	*out = mfs_plan_model(file);
	return 0;
}

static int load_json(const mfs_plan_file *file, json_t **out, mfs_problem *why)
{
	uint64_t size = file->source.size;
	mfs_source source = file->source;
	char *text = size <= 24u << 20 ? malloc(size + 1) : NULL;
	int error = text ? source.read_at(&source, 0, text, size) : MFS_E_MEMORY;
	json_error_t problem;

	if (error) {
		free(text);
		return mfs_problem_set(why, error, UINT64_MAX, "%s: %s", file->name,
				       mfs_error_text(error));
	}
	*out = json_loadb(text, size, 0, &problem);
	free(text);
	if (json_is_object(*out))
		return 0;
	json_decref(*out);
	*out = NULL;
	return 0; /* nothing that a program would take for a configuration */
}

/* Whether config.json beside the weights makes the embedding the head too. */
static int find_tied(const mfs_plan *plan, const char *base, bool *tied, mfs_problem *why)
{
	const mfs_plan_file *config =
	    mfs_plan_find_beside(plan, mfs_plan_find(plan, base), "config.json");
	json_t *root = NULL;
	int error = config ? load_json(config, &root, why) : 0;

	*tied = json_is_true(json_object_get(root, "tie_word_embeddings"));
	json_decref(root);
	return error;
}

static int open_models(const mfs_plan *plan, const char *base, mfs_base_model **out,
		       uint32_t *count, mfs_problem *why)
{
	char name[MFS_NAME_MAX + 1];
	mfs_shard shard;
	bool sharded = mfs_shard_parse(&shard, base);
	int error = 0;

	*count = sharded ? shard.count : 1;
	if (*count > MFS_SHARDS_MAX)
		return mfs_problem_set(why, MFS_E_LIMIT, UINT64_MAX, "%s: more than %u shards",
				       base, MFS_SHARDS_MAX);
	*out = calloc(*count, sizeof(**out));
	if (!*out)
		return mfs_problem_no_memory(why);
	for (uint32_t i = 0; i < *count && !error; i++) {
		snprintf(name, sizeof(name), "%s", base);
		if (sharded)
			mfs_shard_name(name, base, &shard, i + 1);
		error = add_shard(plan, name, &(*out)[i], why);
	}
	if (!error)
		error = find_tied(plan, base, &(*out)[0].tied, why);
	if (error)
		free(*out);
	return error;
}

/* ---- what is changed beside the weights ---- */

/* The merged model has no tensors that describe codes. */
static void drop_helpers(json_t *index, const mfs_base_model *models, uint32_t count)
{
	json_t *map = json_object_get(index, "weight_map");
	json_t *total = json_object_get(json_object_get(index, "metadata"), "total_size");
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < count; i++)
		for (uint32_t k = 0; k < models[i].import.tensor_count; k++) {
			const mfs_import_tensor *t = &models[i].import.tensors[k];
			const mfs_bnb_matrix *m = mfs_bnb_find(models[i].bnb, k);

			if (mfs_bnb_is_helper(models[i].bnb, k))
				json_object_del(map, t->name);
			else
				bytes += m ? m->was.size : t->size;
		}
	if (json_is_integer(total))
		json_integer_set(total, (json_int_t)bytes);
}

static bool ends_with(const char *name, const char *end)
{
	size_t length = strlen(name), n = strlen(end);

	return length > n && !strcmp(name + length - n, end);
}

/* *out is the text of a file of a 4-bit model as it has to be when the weights are none
 * of 4 bits, or NULL where nothing changes. */
static int changed_text(const mfs_plan_file *file, const mfs_base_model *models, uint32_t count,
			char **out, mfs_problem *why)
{
	bool index = ends_with(file->name, ".safetensors.index.json");
	json_t *root = NULL;
	bool packed = false;
	int error;

	*out = NULL;
	for (uint32_t i = 0; i < count; i++)
		packed |= models[i].bnb != NULL;
	if (!packed || (!index && strcmp(file->name, "config.json") != 0))
		return 0;
	error = load_json(file, &root, why);
	if (error || !root)
		return error;
	if (index)
		drop_helpers(root, models, count);
	else
		json_object_del(root, "quantization_config");
	*out = json_dumps(root, JSON_INDENT(2));
	json_decref(root);
	return *out ? 0 : mfs_problem_no_memory(why);
}

/* ---- the merged model ---- */

struct merging {
	mfs_plan *plan;
	const char *label, *note;
	const mfs_view_part *parts; /* of the whole model */
	uint32_t part_count;
	const mfs_base_model *models;
	uint32_t model_count;
	mfs_problem *why;
};

/* The parts that change something in file `number` of the model. */
static int add_weights(const struct merging *m, uint32_t number)
{
	const char *base = m->models[number].name;
	mfs_view_part parts[MFS_VIEW_ADAPTER_MAX];
	uint32_t count = 0;

	for (uint32_t i = 0; i < m->part_count; i++) {
		parts[count] = m->parts[i];
		parts[count].adapter = mfs_adapter_at(m->parts[i].adapter, number);
		count += parts[count].adapter->count > 0;
	}
	return mfs_views_add_file(m->plan, m->label,
				  m->model_count == 1 ? "model.safetensors" : base, base, parts,
				  count, m->note, m->why);
}

/* Configurations, tokenizers and the like, which programs look for beside weights. */
static bool belongs_to_model(const mfs_plan *plan, const mfs_plan_file *file)
{
	static const char *const ends[] = {".json", ".model", ".txt", ".jinja", ".py", ".tiktoken"};

	if (file->record.kind != MFS_FILE_PACKED || file->record.format != MFS_FORMAT_OPAQUE ||
	    strchr(file->name, '/') || mfs_carried_goes(plan, file))
		return false;
	for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++)
		if (ends_with(file->name, ends[i]))
			return true;
	return false;
}

static int add_beside(const struct merging *m, uint32_t file)
{
	const mfs_plan_file *f = &m->plan->files[file];
	const char *name = f->name; /* stays where it is when files are added */
	char *text;
	int error = changed_text(f, m->models, m->model_count, &text, m->why);

	if (error)
		return error;
	if (text)
		return mfs_views_add_text(m->plan, m->label, name, name, text, m->note, m->why);
	return mfs_views_add_file(m->plan, m->label, name, name, NULL, 0, m->note, m->why);
}

int mfs_plan_add_merged_model(mfs_plan *plan, const char *label, const char *base,
			      const mfs_view_part *parts, uint32_t count, const char *note,
			      mfs_problem *why)
{
	struct merging m = {.plan = plan,
			    .label = label,
			    .note = note,
			    .parts = parts,
			    .part_count = count,
			    .why = why};
	uint32_t files = plan->file_count;
	mfs_base_model *models;
	int error;

	if (!plan->views)
		return 0;
	error = open_models(plan, base, &models, &m.model_count, why);
	if (error)
		return error;
	m.models = models;
	for (uint32_t i = 0; i < m.model_count && !error; i++)
		error = add_weights(&m, i);
	for (uint32_t i = 0; i < files && !error; i++)
		if (belongs_to_model(plan, &plan->files[i]))
			error = add_beside(&m, i);
	free(models);
	return error;
}

/* ---- the adapter ---- */

struct adding {
	mfs_plan *plan;
	const char *label, *base;
	mfs_base_model *models;
	uint32_t model_count;
	mfs_plan_file config, matrices; /* path is NULL where it is not open, or the plan's */
	mfs_problem *why;
};

static int open_file(struct adding *a, const char *path, mfs_plan_file *out)
{
	int error = mfs_plan_open(out, a->plan, path, a->why);

	if (error)
		out->path = NULL;
	return error;
}

static int open_files(struct adding *a, const char *directory)
{
	char *matrices = NULL, *config = NULL;
	int error = mfs_peft_matrices_path(&matrices, directory, a->why);

	if (!error && asprintf(&config, "%s/adapter_config.json", directory) < 0)
		error = mfs_problem_no_memory(a->why);
	if (!error)
		error = open_file(a, config, &a->config);
	if (!error)
		error = open_file(a, matrices, &a->matrices);
	free(matrices);
	free(config);
	return error;
}

static void close_file(mfs_plan_file *file)
{
	if (!file->path)
		return;
	mfs_adapter_free(file->adapter);
	mfs_import_free(&file->import);
	mfs_source_close(&file->source);
	free(file->path);
}

/* Pairs the matrices with the tensors of the models. */
static int pair(mfs_source *config_source, mfs_plan_file *matrices, const char *name,
		const mfs_base_model *models, uint32_t count, mfs_problem *why)
{
	mfs_peft_config config;
	int error = mfs_peft_config_load(&config, config_source, why);

	if (!error)
		error = mfs_adapter_new_peft(&matrices->adapter, name, &config, &matrices->import,
					     models, count, why);
	mfs_peft_config_free(&config);
	return error;
}

static int append(struct adding *a, mfs_plan_file *file, const char *name)
{
	char path[2 * MFS_NAME_MAX];
	mfs_plan_file taken = *file;

	snprintf(path, sizeof(path), "adapters/%s/%s", a->label, name);
	file->path = NULL;
	taken.base = a->base;
	return mfs_plan_append(a->plan, &taken, path, a->why);
}

/* The file of gains that the adapter needs; `*name` stays NULL where it needs none. */
static int append_gains(struct adding *a, const char **name)
{
	const mfs_plan_file *matrices = &a->plan->files[a->plan->file_count - 1];
	mfs_adapter *adapter = matrices->adapter;
	mfs_plan_file file = {.found = matrices->found};
	int error = mfs_gains_open(&file.gains, adapter, a->models, a->model_count,
				   &matrices->source, &matrices->import, &file.source, a->why);

	if (error || !file.gains)
		return error;
	file.path = strdup(matrices->path);
	error = file.path ? mfs_import_source(&file.import, &file.source, a->why)
			  : mfs_problem_no_memory(a->why);
	if (!error && mfs_gains_assign(adapter, a->models, &file.import) < 0)
		error = mfs_problem_no_memory(a->why);
	if (error) {
		mfs_import_free(&file.import);
		mfs_gains_free(file.gains);
		free(file.path);
		return error;
	}
	error = append(a, &file, "gains.safetensors");
	if (error)
		return error;
	/* Nothing but views has a use for it. */
	a->plan->files[a->plan->file_count - 1].record.format = MFS_FORMAT_OPAQUE;
	*name = a->plan->files[a->plan->file_count - 1].name;
	return 0;
}

static int append_all(struct adding *a)
{
	mfs_view_part part = {.scale = 1};
	char note[MFS_NAME_MAX + 1];
	int error = append(a, &a->config, "adapter_config.json");

	a->matrices.record.kind = MFS_FILE_ADAPTER;
	if (!error)
		error = append(a, &a->matrices, "adapter_model.safetensors");
	if (error)
		return error;
	part.adapter = a->plan->files[a->plan->file_count - 1].adapter;
	part.file = a->plan->files[a->plan->file_count - 1].name;
	error = append_gains(a, &part.gains);
	snprintf(note, sizeof(note), "%s@1", a->label);
	return error
		   ? error
		   : mfs_plan_add_merged_model(a->plan, a->label, a->base, &part, 1, note, a->why);
}

int mfs_plan_add_peft(mfs_plan *plan, const char *path, const char *label, const char *base,
		      mfs_problem *why)
{
	struct adding a = {.plan = plan, .label = label, .base = base, .why = why};
	uint32_t count = plan->file_count;
	int error = open_models(plan, base, &a.models, &a.model_count, why);

	if (error)
		return error;
	error = open_files(&a, path);
	if (!error)
		error = pair(&a.config.source, &a.matrices, a.matrices.path, a.models,
			     a.model_count, why);
	if (!error)
		error = append_all(&a);
	close_file(&a.config);
	close_file(&a.matrices);
	free(a.models);
	if (error)
		mfs_plan_forget(plan, count);
	return error;
}

/* ---- what an append finds ---- */

mfs_plan_file *mfs_plan_find_beside(const mfs_plan *plan, const mfs_plan_file *file,
				    const char *name)
{
	char path[2 * MFS_NAME_MAX];
	const char *slash = strrchr(file->name, '/');

	snprintf(path, sizeof(path), "%.*s%s", slash ? (int)(slash + 1 - file->name) : 0,
		 file->name, name);
	return mfs_plan_find(plan, path);
}

int mfs_plan_open_carried_peft(mfs_plan *plan, mfs_plan_file *file, mfs_problem *why)
{
	mfs_plan_file *config = mfs_plan_find_beside(plan, file, "adapter_config.json");
	mfs_plan_file *gains = mfs_plan_find_beside(plan, file, "gains.safetensors");
	mfs_base_model *models;
	uint32_t count;
	int error;

	if (!config)
		return mfs_problem_set(why, MFS_E_CORRUPT, UINT64_MAX,
				       "%s: '%s' has no configuration", file->path, file->name);
	error = open_models(plan, file->base, &models, &count, why);
	if (error)
		return error;
	error = pair(&config->source, file, file->name, models, count, why);
	if (!error && gains)
		error = mfs_plan_import_carried(gains, why);
	if (!error && gains && mfs_gains_assign(file->adapter, models, &gains->import) < 0)
		error = mfs_problem_set(why, MFS_E_CORRUPT, UINT64_MAX,
					"%s: '%s' has gains that are not its own", file->path,
					file->name);
	free(models);
	return error;
}
