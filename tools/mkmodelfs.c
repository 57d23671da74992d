/* mkmodelfs: packs files into a container. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common.h"
#include "mkmodelfs_options.h"
#include "mkmodelfs_report.h"
#include "modelfs_pack.h"

/* ---- sources ---- */

/* Splits NAME=SOURCE. A path that exists as a whole is a path, whatever '=' it
 * has; without NAME the library takes the base name, and *name is NULL. */
static int split_source(const char *argument, char **name, const char **path)
{
	const char *equals = strchr(argument, '=');

	*name = NULL;
	*path = argument;
	if (!equals || access(argument, F_OK) == 0)
		return 0;
	*name = strndup(argument, (size_t)(equals - argument));
	if (!*name) {
		tool_error("out of memory");
		return TOOL_FAILED;
	}
	*path = equals + 1;
	return 0;
}

/* `base`: the file that it is a fine-tune of, or NULL. */
static int add_source(mfs_packer *packer, const char *argument, const char *base)
{
	mfs_problem why = {0};
	const char *path;
	char *name;
	int err = split_source(argument, &name, &path);

	if (err)
		return err;
	err = base ? mfs_packer_add_delta(packer, path, name, base, &why)
		   : mfs_packer_add(packer, path, name, &why);
	if (err < 0)
		tool_problem(path, err, &why);
	free(name);
	return err < 0 ? TOOL_FAILED : 0;
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* NAME=FILE, or NAME=MIXTURE: the option has seen to the '='. */
static int add_adapter(mfs_packer *packer, const adapter_option *adapter)
{
	const char *equals = strchrnul(adapter->text, '=');
	const char *value = *equals ? equals + 1 : NULL;
	char *name = strndup(adapter->text, (size_t)(equals - adapter->text));
	mfs_problem why = {0};
	int err;

	if (!name) {
		tool_error("out of memory");
		return TOOL_FAILED;
	}
	if (adapter->kind == ADAPTER_PREMERGE)
		err = mfs_packer_add_premerge(packer, name, value, adapter->source, &why);
	else if (adapter->kind == ADAPTER_MERGE)
		err = mfs_packer_add_merge(packer, name, value, &why);
	else
		err = mfs_packer_add_adapter(packer, value, name, adapter->base, &why);
	if (err < 0)
		tool_problem(value ? value : name, err, &why);
	free(name);
	return err < 0 ? TOOL_FAILED : 0;
}

/* ---- packing ---- */

static int show_progress(void *user, mfs_pack_stage stage, uint64_t original, uint64_t total,
			 uint64_t stored)
{
	static const char *const words[] = {"planning", "writing", "verifying"};

	(void)stored;
	tool_progress_show(user, words[stage], original, total);
	return tool_stopped();
}

static int write_container(mfs_packer *packer, const mkmodelfs_options *o, mfs_pack_summary *out)
{
	tool_progress progress;
	mfs_problem why = {0};
	int err;

	tool_progress_init(&progress, o->quiet);
	err = mfs_packer_write(packer, o->dry_run ? NULL : o->container, show_progress, &progress,
			       out, &why);
	tool_progress_end(&progress);
	if (err == MFS_E_CANCELLED)
		return tool_stopped();
	if (err == MFS_E_EXISTS)
		tool_error("%s exists; --force replaces it", o->container);
	else if (err < 0)
		tool_problem(o->container, err, &why);
	return err < 0 ? TOOL_FAILED : 0;
}

static int add_deltas(mfs_packer *packer, const mkmodelfs_options *o)
{
	const char *path = NULL;
	char *name = NULL;
	int err = o->source_count ? split_source(o->sources[0], &name, &path) : 0;

	for (int i = 0; i < o->delta_count && !err; i++) {
		const char *base = o->base ? o->base : name ? name : base_name(path);

		err = tool_stopped() ? tool_stopped() : add_source(packer, o->deltas[i], base);
	}
	free(name);
	return err;
}

static int remove_files(mfs_packer *packer, const mkmodelfs_options *o)
{
	for (int i = 0; i < o->removed_count; i++) {
		mfs_problem why = {0};
		int err = mfs_packer_remove(packer, o->removed[i], &why);

		if (err < 0) {
			tool_problem(o->container, err, &why);
			return TOOL_FAILED;
		}
	}
	return 0;
}

/* Those that are merged must be there first, wherever the option stands. */
static int add_adapters(mfs_packer *packer, const mkmodelfs_options *o, bool premerge)
{
	int err = 0;

	for (int i = 0; i < o->adapter_count && !err; i++) {
		if ((o->adapters[i].kind == ADAPTER_PREMERGE) != premerge)
			continue;
		err = tool_stopped() ? tool_stopped() : add_adapter(packer, &o->adapters[i]);
	}
	return err;
}

static int pack(mfs_packer *packer, const mkmodelfs_options *o)
{
	mfs_pack_summary summary = {.size = sizeof(summary)};
	int err = remove_files(packer, o);

	for (int i = 0; i < o->source_count && !err; i++)
		err = tool_stopped() ? tool_stopped() : add_source(packer, o->sources[i], NULL);
	if (!err)
		err = add_deltas(packer, o);
	if (!err)
		err = add_adapters(packer, o, false);
	if (!err)
		err = add_adapters(packer, o, true);
	if (!err)
		err = write_container(packer, o, &summary);
	return err ? err : mkmodelfs_report(packer, o, &summary);
}

static int run(const mkmodelfs_options *o)
{
	mfs_packer *packer = NULL;
	mfs_problem why = {0};
	int code;

	tool_catch_signals();
	code = mkmodelfs_options_change(o) ? mfs_packer_open(&packer, o->container, &o->pack, &why)
					   : mfs_packer_new(&packer, &o->pack, &why);
	if (code < 0) {
		tool_problem(o->container, code, &why);
		return code == MFS_E_ARGUMENT ? TOOL_USAGE : TOOL_FAILED;
	}
	code = pack(packer, o);
	mfs_packer_free(packer);
	return code;
}

int main(int argc, char *argv[])
{
	mkmodelfs_options o;
	int code;

	tool_start("mkmodelfs");
	code = mkmodelfs_options_parse(&o, argc, argv);
	if (!code)
		code = run(&o);
	mkmodelfs_options_free(&o);
	return code;
}
