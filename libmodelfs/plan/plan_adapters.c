/*
 * Adapters and the views in which they are merged, as files of a plan: what they
 * are called, which model they belong to, and what goes into which view.
 */
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "carried.h"
#include "plan.h"
#include "premerge.h"
#include "problem.h"
#include "shards.h"
#include "view.h"

#define LABEL_MAX 200 /* so that the names of views have room */

/* ---- labels ---- */

/* What follows "DIRECTORY/LABEL" in the name of a file, or NULL. */
static const char *behind_label(const mfs_plan_file *file, const char *directory, const char *label)
{
	size_t d = strlen(directory), n = strlen(label);

	if (strncmp(file->name, directory, d) != 0 || file->name[d] != '/' ||
	    strncmp(file->name + d + 1, label, n) != 0)
		return NULL;
	return file->name + d + 1 + n;
}

static bool is_view_end(const char *end)
{
	for (unsigned i = 0; i < MFS_VIEW_TYPES && end[0] == '.'; i++) {
		const char *type = mfs_view_type_name(i);
		size_t length = strlen(type);

		if (!strncmp(end + 1, type, length) && !strcmp(end + 1 + length, ".gguf"))
			return true;
	}
	return end[0] == '/';
}

/* Whether the file is labelled so: an adapter, or what is merged with it. */
static bool has_label(const mfs_plan_file *file, const char *label)
{
	const char *adapter = behind_label(file, "adapters", label);
	const char *merged = behind_label(file, "merged", label);

	if (adapter)
		return !strcmp(adapter, ".gguf") || !strcmp(adapter, ".dora") || adapter[0] == '/';
	return merged && is_view_end(merged);
}

static int check_label(const mfs_plan *plan, const char *label, mfs_problem *why)
{
	static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				      "0123456789._-";
	size_t length = strlen(label);

	if (!length || length > LABEL_MAX || strspn(label, allowed) != length ||
	    !strcmp(label, ".") || !strcmp(label, ".."))
		return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
				       "'%s': names of adapters have letters, digits, '.', '_' and "
				       "'-', at most %d of them, and are not '.' or '..'",
				       label, LABEL_MAX);
	for (uint32_t i = 0; i < plan->file_count; i++)
		if (!mfs_carried_goes(plan, &plan->files[i]) && has_label(&plan->files[i], label))
			return mfs_problem_set(why, MFS_E_EXISTS, UINT64_MAX,
					       "'%s': there is another adapter of this name",
					       label);
	return 0;
}

/* ---- the base ---- */

/* Anything that has tensors and is no adapter itself. */
static bool may_be_base(const mfs_plan_file *file)
{
	const char *type = file->import.gguf.type;

	return file->record.kind == MFS_FILE_PACKED && file->import.tensor_count &&
	       !strchr(file->name, '/') && !(type && !strcmp(type, "adapter"));
}

static int find_base(const mfs_plan *plan, const char *label, const char *base, const char **out,
		     mfs_problem *why)
{
	const mfs_plan_file *only = NULL;
	mfs_shard shard;

	if (base) {
		only = mfs_plan_first_shard(plan, base);
		if (!only || !may_be_base(only))
			return mfs_problem_set(why, MFS_E_NOT_FOUND, UINT64_MAX,
					       "adapter '%s': no model is called '%s'", label,
					       base);
		*out = only->name;
		return 0;
	}
	for (uint32_t i = 0; i < plan->file_count; i++) {
		if (!may_be_base(&plan->files[i]) ||
		    (mfs_shard_parse(&shard, plan->files[i].name) && shard.number > 1))
			continue;
		if (only)
			return mfs_problem_set(
			    why, MFS_E_ARGUMENT, UINT64_MAX,
			    "adapter '%s': which of the models is its base, %s or "
			    "%s? Say so with --base",
			    label, only->name, plan->files[i].name);
		only = &plan->files[i];
	}
	if (!only)
		return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
				       "adapter '%s': there is no model that could be its base",
				       label);
	*out = only->name;
	return 0;
}

/* ---- what an append finds in the container ---- */

static bool is_dora(const char *name)
{
	size_t length = strlen(name);

	return length > 5 && !strcmp(name + length - 5, ".dora");
}

static int open_carried_adapter(mfs_plan *plan, mfs_plan_file *file, mfs_problem *why)
{
	const mfs_plan_file *base = &plan->files[file->record.base];

	file->base = base->name;
	if (file->import.format == MFS_FORMAT_SAFETENSORS)
		return mfs_plan_open_carried_peft(plan, file, why);
	return mfs_adapter_new(&file->adapter, file->path, &file->import, is_dora(file->name),
			       base->name, &base->import, why);
}

/* Models and adapters that are stored already, as if they had just been imported.
 * Nothing is sorted or dropped yet: numbers are those of the container. */
static int import_carried(mfs_plan *plan, mfs_problem *why)
{
	int error = 0;

	for (uint32_t i = 0; i < plan->file_count && !error; i++) {
		mfs_plan_file *f = &plan->files[i];

		if (f->carried && !f->import.memory && f->record.kind != MFS_FILE_VIEW &&
		    f->record.format != MFS_FORMAT_OPAQUE)
			error = mfs_plan_import_carried(f, why);
	}
	if (!error)
		error = mfs_plan_open_models(plan, why);
	for (uint32_t i = 0; i < plan->file_count && !error; i++) {
		mfs_plan_file *f = &plan->files[i];

		if (f->carried && f->record.kind == MFS_FILE_ADAPTER && !f->adapter &&
		    f->record.base != MFS_NO_FILE)
			error = open_carried_adapter(plan, f, why);
	}
	return error;
}

/* ---- one adapter ---- */

/* An adapter of PEFT is a directory; it is read as the GGUF file that it becomes. */
static int open_peft(mfs_plan_file *out, const char *path, const mfs_plan_file *model,
		     mfs_problem *why)
{
	const mfs_base_model base = mfs_plan_model(model);
	int error;

	memset(out, 0, sizeof(*out));
	out->path = strdup(path);
	if (!out->path)
		return mfs_problem_no_memory(why);
	error = mfs_peft_open(&out->peft, path, &base, &out->source, &out->found, why);
	if (!error)
		error = mfs_import_source(&out->import, &out->source, why);
	if (error) {
		mfs_peft_close(out->peft);
		free(out->path);
	}
	return error;
}

static void close_adapter(mfs_plan_file *file)
{
	mfs_adapter_free(file->adapter);
	mfs_import_free(&file->import);
	mfs_source_close(&file->source);
	mfs_peft_close(file->peft);
	free(file->path);
}

static bool has_tensor(const mfs_import *import, const char *name)
{
	for (uint32_t i = 0; i < import->tensor_count; i++)
		if (!strcmp(import->tensors[i].name, name))
			return true;
	return false;
}

/* A language model without a head of its own uses the embedding as one: merged, both would
 * change. llama.cpp ends in an assertion when it applies such an adapter. */
static int check_head(const mfs_plan_file *file, const mfs_plan_file *model, mfs_problem *why)
{
	const mfs_import *base = &model->import;

	for (uint32_t i = 0; i < file->adapter->count; i++)
		if (file->adapter->pairs[i].transposed && has_tensor(base, "output_norm.weight") &&
		    !has_tensor(base, "output.weight"))
			return mfs_problem_about(
			    file->path, why, MFS_E_UNSUPPORTED,
			    "'token_embd.weight': its base %s has no head of its own: the "
			    "embedding that the adapter changes is the head too",
			    model->name);
	return 0;
}

static int open_adapter(mfs_plan *plan, const char *path, const char *base, mfs_plan_file *out,
			mfs_problem *why)
{
	const mfs_plan_file *model = mfs_plan_find(plan, base);
	int error = mfs_is_directory(path) ? open_peft(out, path, model, why)
					   : mfs_plan_open(out, plan, path, why);

	if (error)
		return error;
	error =
	    mfs_adapter_new(&out->adapter, out->path, &out->import,
			    out->peft && mfs_peft_is_dora(out->peft), base, &model->import, why);
	if (!error)
		error = check_head(out, model, why);
	if (error)
		close_adapter(out);
	out->base = base;
	out->record.kind = MFS_FILE_ADAPTER;
	return error;
}

/* What it cannot be: adapters/LABEL.gguf. Closes the file on failure. */
static int remark_dora(const mfs_plan *plan, mfs_plan_file *file, const char *label,
		       mfs_problem *why)
{
	static const char reason[] = "the adapter is a DoRA: its magnitudes have no place in an "
				     "adapter of GGUF, and llama.cpp knows none";
	int error = 0;

	if (!plan->views)
		error = mfs_problem_set(why, MFS_E_UNSUPPORTED, UINT64_MAX,
					"%s: %s; without merged views it would be nothing",
					file->path, reason);
	else if (asprintf(&file->remark, "no adapters/%s.gguf: %s; its merged models have them",
			  label, reason) < 0)
		error = mfs_problem_no_memory(why);
	if (error)
		close_adapter(file);
	return error;
}

int mfs_plan_add_adapter(mfs_plan *plan, const char *path, const char *label, const char *base,
			 mfs_problem *why)
{
	mfs_plan_file file;
	mfs_view_part part = {.scale = 1};
	char name[MFS_NAME_MAX + 1], note[MFS_NAME_MAX + 1];
	uint32_t count = plan->file_count;
	int error = check_label(plan, label, why);

	if (!error)
		error = import_carried(plan, why);
	if (!error)
		error = find_base(plan, label, base, &base, why);
	if (!error && mfs_is_directory(path) &&
	    mfs_plan_find(plan, base)->import.format == MFS_FORMAT_SAFETENSORS)
		return mfs_plan_add_peft(plan, path, label, base, why);
	if (!error)
		error = open_adapter(plan, path, base, &file, why);
	if (!error && mfs_adapter_has_gains(file.adapter))
		error = remark_dora(plan, &file, label, why);
	if (error)
		return error;
	part.adapter = file.adapter;
	snprintf(name, sizeof(name), "adapters/%s.%s", label,
		 mfs_adapter_has_gains(file.adapter) ? "dora" : "gguf");
	snprintf(note, sizeof(note), "%s@1", label);
	error = mfs_plan_append(plan, &file, name, why);
	if (error)
		return error;
	part.file = plan->files[plan->file_count - 1].name;
	error = mfs_views_add(plan, label, base, &part, 1, note, why);
	if (error)
		mfs_plan_forget(plan, count);
	return error;
}

/* ---- several in one view ---- */

struct mixture {
	const mfs_plan *plan;
	mfs_view_part parts[MFS_VIEW_ADAPTER_MAX];
	uint32_t count;
	const char *base;
	mfs_problem *why;
};

/* Those that are there when the container is written. */
static const mfs_plan_file *find_staying(const mfs_plan *plan, const char *name)
{
	const mfs_plan_file *file = mfs_plan_find(plan, name);

	return file && !mfs_carried_goes(plan, file) ? file : NULL;
}

/* A finite number, whatever decimal point the user's language has. */
static bool parse_scale(const char *text, float *out)
{
	locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
	char *end = NULL;

	if (!plain)
		return false;
	*out = strtof_l(text, &end, plain);
	freelocale(plain);
	return end != text && !*end && *out - *out == 0;
}

static const mfs_plan_file *find_adapter(const mfs_plan *plan, const char *label)
{
	static const char *const ends[] = {".gguf", ".dora", "/adapter_model.safetensors"};
	char name[MFS_NAME_MAX + 1];

	for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++) {
		const mfs_plan_file *file;

		snprintf(name, sizeof(name), "adapters/%.200s%s", label, ends[i]);
		file = find_staying(plan, name);
		if (file && file->adapter)
			return file;
	}
	return NULL;
}

static int add_part(struct mixture *m, const char *label, const char *scale)
{
	const mfs_plan_file *file = find_adapter(m->plan, label);
	mfs_view_part *part = &m->parts[m->count];

	if (m->count == MFS_VIEW_ADAPTER_MAX)
		return mfs_problem_set(m->why, MFS_E_LIMIT, UINT64_MAX,
				       "more than %u adapters in one view", MFS_VIEW_ADAPTER_MAX);
	if (!file)
		return mfs_problem_set(m->why, MFS_E_NOT_FOUND, UINT64_MAX,
				       "there is no adapter '%s' to merge", label);
	if (m->base && strcmp(m->base, file->base) != 0)
		return mfs_problem_set(m->why, MFS_E_INVALID, UINT64_MAX,
				       "adapter '%s' belongs to %s, not to %s", label, file->base,
				       m->base);
	if (!parse_scale(scale, &part->scale))
		return mfs_problem_set(m->why, MFS_E_ARGUMENT, UINT64_MAX,
				       "adapter '%s': '%s' is not a number to scale it by", label,
				       scale);
	if (mfs_adapter_has_gains(file->adapter) && (m->count || part->scale != 1))
		return mfs_problem_set(m->why, MFS_E_UNSUPPORTED, UINT64_MAX,
				       "adapter '%s' is a DoRA: its gains hold for the model alone "
				       "and scale 1, so it must be the first, with scale 1",
				       label);
	for (uint32_t i = 0; i < m->count; i++)
		if (m->parts[i].adapter == file->adapter)
			return mfs_problem_set(m->why, MFS_E_INVALID, UINT64_MAX,
					       "adapter '%s' is merged twice", label);
	m->base = file->base;
	part->adapter = file->adapter;
	part->file = file->name;
	part->gains = NULL;
	if (file->import.format == MFS_FORMAT_SAFETENSORS) {
		const mfs_plan_file *gains =
		    mfs_plan_find_beside(m->plan, file, "gains.safetensors");

		part->gains = gains ? gains->name : NULL;
	}
	m->count++;
	return 0;
}

static int parse_mixture(struct mixture *m, char *text)
{
	int error = 0;

	while (text && !error) {
		char *part = strsep(&text, "+");
		char *scale = strchr(part, '@');

		if (scale)
			*scale++ = 0;
		error = add_part(m, part, scale ? scale : "1");
	}
	return error;
}

int mfs_plan_add_merge(mfs_plan *plan, const char *label, const char *mixture, mfs_problem *why)
{
	struct mixture m = {.plan = plan, .why = why};
	uint32_t count = plan->file_count;
	char *text = strdup(mixture);
	int error = text ? check_label(plan, label, why) : mfs_problem_no_memory(why);

	if (!error && !plan->views)
		error = mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
					"'%s': a merge without views is nothing", label);
	if (!error && strlen(mixture) > UINT16_MAX)
		error = mfs_problem_set(why, MFS_E_LIMIT, UINT64_MAX, "'%s': too long", label);
	if (!error)
		error = import_carried(plan, why);
	if (!error)
		error = parse_mixture(&m, text);
	if (!error)
		error = mfs_plan_find(plan, m.base)->import.format == MFS_FORMAT_SAFETENSORS
			    ? mfs_plan_add_merged_model(plan, label, m.base, m.parts, m.count,
							mixture, why)
			    : mfs_views_add(plan, label, m.base, m.parts, m.count, mixture, why);
	if (error)
		mfs_plan_forget(plan, count);
	free(text);
	return error;
}

/* ---- merged, then quantized ---- */

static mfs_premerge_file premerge_file(const mfs_plan_file *file)
{
	return (mfs_premerge_file){file->name, file->source, file->import};
}

/* The parts of a request; the caller frees them. */
static int make_parts(const struct mixture *m, mfs_premerge_part **out)
{
	*out = calloc(m->count + 1u, sizeof(**out));
	if (!*out)
		return mfs_problem_no_memory(m->why);
	for (uint32_t i = 0; i < m->count; i++) {
		const mfs_plan_file *file = mfs_plan_find(m->plan, m->parts[i].file);

		(*out)[i] = (mfs_premerge_part){.file = premerge_file(file),
						.adapter = m->parts[i].adapter,
						.peft = file->peft,
						.scale = m->parts[i].scale};
	}
	return 0;
}

/* `file` is the unquantized model; its source becomes the computed one. */
static int premerge(const struct mixture *m, const char *text, mfs_plan_file *file)
{
	mfs_premerge_request request = {.base = premerge_file(mfs_plan_find(m->plan, m->base)),
					.part_count = m->count,
					.mixture = text};
	int error = make_parts(m, &request.parts);

	if (!error)
		error =
		    mfs_premerge(&file->premerged, &file->source, &file->import, &request, m->why);
	free(request.parts);
	return error ? error : mfs_import_source(&file->import, &file->source, m->why);
}

/* The model that the base is quantized from on its way in. */
static const char *source_of(const struct mixture *m)
{
	const mfs_plan_file *base = mfs_plan_find(m->plan, m->base);

	return base->requantized ? base->path : NULL;
}

static int append_premerged(mfs_plan *plan, const struct mixture *m, const char *label,
			    mfs_plan_file *file)
{
	char name[MFS_NAME_MAX + 1];

	snprintf(name, sizeof(name), "merged/%.200s.%s.gguf", label,
		 mfs_premerged_type(file->premerged));
	if (find_staying(plan, name)) {
		mfs_plan_discard(file);
		return mfs_problem_set(
		    m->why, MFS_E_EXISTS, UINT64_MAX,
		    "'%s': '%s' is in the container already: leave out that type "
		    "of --views, or --remove it",
		    label, name);
	}
	return mfs_plan_append(plan, file, name, m->why);
}

static int add_premerged(mfs_plan *plan, const struct mixture *m, const char *label,
			 const char *text, const char *path)
{
	mfs_plan_file file;
	int error;

	if (!path)
		path = source_of(m);
	if (!path)
		return mfs_problem_set(m->why, MFS_E_ARGUMENT, UINT64_MAX,
				       "'%s': --source is needed: the model that %s was quantized "
				       "from",
				       label, m->base);
	error = mfs_plan_open(&file, plan, path, m->why);
	if (error)
		return error;
	file.delta_of = strdup(m->base);
	error = file.delta_of ? premerge(m, text, &file) : mfs_problem_no_memory(m->why);
	if (error) {
		mfs_plan_discard(&file);
		return error;
	}
	return append_premerged(plan, m, label, &file);
}

static int check_premerge(const struct mixture *m)
{
	if (mfs_plan_find(m->plan, m->base)->record.format == MFS_FORMAT_GGUF)
		return 0;
	return mfs_problem_set(m->why, MFS_E_UNSUPPORTED, UINT64_MAX,
			       "%s: only GGUF models can be quantized after merging", m->base);
}

int mfs_plan_add_premerge(mfs_plan *plan, const char *label, const char *mixture, const char *path,
			  mfs_problem *why)
{
	struct mixture m = {.plan = plan, .why = why};
	char *text = mixture ? strdup(mixture) : NULL, *parts = NULL;
	int error = 0;

	if (!mixture && asprintf(&text, "%.*s@1", LABEL_MAX, label) < 0)
		text = NULL;
	parts = text ? strdup(text) : NULL;
	if (!parts)
		error = mfs_problem_no_memory(why);
	else if (strlen(text) > UINT16_MAX / 2)
		error = mfs_problem_set(why, MFS_E_LIMIT, UINT64_MAX, "'%s': too long", label);
	if (!error && mixture)
		error = check_label(plan, label, why);
	if (!error)
		error = import_carried(plan, why);
	if (!error)
		error = parse_mixture(&m, parts);
	if (!error)
		error = check_premerge(&m);
	if (!error)
		error = add_premerged(plan, &m, label, text, path);
	free(parts);
	free(text);
	return error;
}
