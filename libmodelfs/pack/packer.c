/* The packer as its caller sees it: options, what to pack, what to leave out. */
#include "packer.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "../../format/check.h"
#include "carried.h"
#include "container.h"
#include "problem.h"
#include "remove.h"
#include "view.h"

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

/* One size for all tensors, or 0: what the profile has for each kind. */
static void set_frames(mfs_plan *plan, uint32_t asked)
{
	mfs_profile profile = {.size = sizeof(profile)};

	if (asked) {
		plan->frame_bytes = plan->quantized_frame_bytes = asked;
	} else if (!mfs_profile_get(plan->profile, &profile)) {
		plan->frame_bytes = profile.frame_bytes;
		plan->quantized_frame_bytes = profile.quantized_frame_bytes;
	}
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
		return mfs_problem_no_memory(why);
	p->output = p->locked = (mfs_output)MFS_OUTPUT_NONE;
	p->plan.profile = options.profile;
	p->plan.page_bytes = options.page_bytes ? options.page_bytes : profile.page_bytes;
	set_frames(&p->plan, options.frame_bytes);
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
		error = mfs_problem_no_memory(why);
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

void mfs_packer_free(mfs_packer *p)
{
	if (!p)
		return;
	mfs_output_close(&p->output);
	mfs_plan_free(&p->plan);
	mfs_carried_close(p->carried);
	mfs_output_close(&p->locked);
	mfs_pack_free_types(p);
	free(p->order);
	free(p);
}

/* What is added is laid out as the container was, unless it is asked for. A frame size
 * that is the profile's stands for both that the profile has. */
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
	if (options && options->frame_bytes)
		return 0;
	set_frames(&p->plan, 0);
	frame_bytes = p->carried->container->sb.frame_size;
	if (frame_bytes != p->plan.frame_bytes && frame_bytes >= MFS_FRAME_MIN &&
	    frame_bytes <= MFS_FRAME_MAX)
		set_frames(&p->plan, frame_bytes);
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
	p->output.table = p->locked.table = table;
	p->output.user = p->locked.user = user;
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

int mfs_packer_add_premerge(mfs_packer *p, const char *name, const char *mixture,
			    const char *source, mfs_problem *why)
{
	int error = check_unused(p, name, why);

	return error ? error : mfs_plan_add_premerge(&p->plan, name, mixture, source, why);
}

int mfs_packer_add_delta(mfs_packer *p, const char *path, const char *name, const char *base,
			 mfs_problem *why)
{
	uint32_t count = p->plan.file_count;
	int error;

	if (mfs_recipe_is_nf4(&p->plan.recipe))
		return mfs_problem_set(why, MFS_E_UNSUPPORTED, UINT64_MAX,
				       "%s: a model that is quantized to nf4 cannot be stored as a "
				       "difference",
				       path);
	error = mfs_is_directory(path)
		    ? mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
				      "%s: is a directory: give the files of a fine-tune one "
				      "by one",
				      path)
		    : mfs_packer_add(p, path, name, why);

	if (error)
		return error;
	p->plan.files[count].delta_of = strdup(base);
	return p->plan.files[count].delta_of ? 0 : mfs_problem_no_memory(why);
}

void mfs_packer_cancel(mfs_packer *p)
{
	atomic_store(&p->cancel, 1);
}
