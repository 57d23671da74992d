/* modelfs-check: verifies everything in a container and names what is damaged. */
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>

#include "common.h"
#include "json.h"
#include "modelfs.h"

typedef struct {
	bool json, quiet;
	const char *path;
} options;

typedef struct {
	const options *options;
	json_t *problems; /* an array, or NULL where lines are printed */
	tool_progress progress;
	uint64_t bytes; /* original bytes that were checked */
} checker;

static void print_help(void)
{
	fputs("Usage: modelfs-check [OPTIONS] CONTAINER\n"
	      "Verifies superblocks, index, frames and the hashes of all original bytes, and\n"
	      "names what is damaged. Changes nothing.\n"
	      "\n"
	      "      --json     print the result as JSON\n"
	      "  -q, --quiet    print problems only\n"
	      "  -h, --help     print this and exit\n"
	      "  -V, --version  print the version and exit\n"
	      "\n"
	      "Exit status: 0 all is well, 1 damaged or not readable, 2 misuse.\n",
	      stdout);
}

static void add_problem(json_t *problems, const mfs_problem *why)
{
	json_t *problem = json_object();

	json_set_text(problem, "error", mfs_error_text(why->error));
	if (why->offset == UINT64_MAX)
		json_set(problem, "offset", json_null());
	else
		json_set_number(problem, "offset", why->offset);
	json_set_text(problem, "text", why->text);
	json_append(problems, problem);
}

static int take_problem(void *user, const mfs_problem *why)
{
	checker *c = user;

	if (c->problems)
		add_problem(c->problems, why);
	else
		tool_problem(c->options->path, why->error, why);
	return 0;
}

static int show_progress(void *user, uint64_t done, uint64_t total)
{
	checker *c = user;

	c->bytes = done;
	tool_progress_show(&c->progress, "checking", done, total);
	return 0;
}

static int print_json(checker *c, int64_t count)
{
	json_t *root = json_object();

	json_set_text(root, "container", c->options->path);
	json_set(root, "ok", json_boolean(count == 0));
	json_set_number(root, "checked_size", c->bytes);
	json_set_number(root, "problem_count", json_array_size(c->problems));
	json_set(root, "problems", c->problems);
	c->problems = NULL;
	return json_print(root);
}

static void print_result(const checker *c, const mfs_container_info *info, int64_t count)
{
	char size[TOOL_SIZE_TEXT];
	char *name = tool_clean(c->options->path);

	if (count == 0)
		printf("%s: all is well: %" PRIu32 " %s, %" PRIu32 " tensors, %" PRIu32
		       " chunks, %s\n",
		       name, info->files, info->files == 1 ? "file" : "files", info->tensors,
		       info->chunks, tool_size(size, info->original_bytes));
	else
		printf("%s: %" PRId64 " %s\n", name, count, count == 1 ? "problem" : "problems");
	free(name);
}

/* A check that could not go on is one more problem: its reason comes last. */
static void take_failure(checker *c, mfs_container *container, int err)
{
	mfs_problem why = {0};

	if (container)
		mfs_last_problem(container, &why);
	if (!why.text[0])
		snprintf(why.text, sizeof(why.text), "the check cannot go on: %s",
			 mfs_error_text(err));
	take_problem(c, &why);
}

static int check_container(checker *c, mfs_container *container)
{
	mfs_container_info info = {.size = sizeof(info)};
	int64_t count;

	tool_progress_init(&c->progress, c->options->quiet);
	count = mfs_check(container, take_problem, show_progress, c);
	tool_progress_end(&c->progress);
	if (count < 0)
		take_failure(c, container, (int)count);
	if (c->options->json)
		return print_json(c, count) || count ? TOOL_FAILED : TOOL_OK;
	/* The counts are for the last line only, and damage may hide them. */
	if (count == 0 && mfs_info(container, &info) < 0)
		count = 1;
	if (count >= 0 && !c->options->quiet)
		print_result(c, &info, count);
	return count ? TOOL_FAILED : TOOL_OK;
}

static int run(const options *o)
{
	checker c = {.options = o};
	mfs_container *container;
	mfs_problem why = {0};
	int err = mfs_open(&container, o->path, NULL, &why);
	int code = TOOL_FAILED;

	if (o->json)
		c.problems = json_array();
	if (err == 0) {
		code = check_container(&c, container);
	} else {
		if (!why.text[0])
			snprintf(why.text, sizeof(why.text), "%s", mfs_error_text(err));
		take_problem(&c, &why);
		if (o->json)
			print_json(&c, 1);
	}
	json_decref(c.problems);
	mfs_close(container);
	return code;
}

enum { OPT_JSON = 256 };

static const struct option long_options[] = {
    {"json", no_argument, NULL, OPT_JSON},
    {"quiet", no_argument, NULL, 'q'},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {NULL, 0, NULL, 0},
};

static int parse_options(options *o, int argc, char *argv[])
{
	int option;

	while ((option = tool_option(argc, argv, "qhV", long_options, print_help)) != -1) {
		switch (option) {
		case OPT_JSON:
			o->json = true;
			break;
		case 'q':
			o->quiet = true;
			break;
		default:
			return TOOL_USAGE;
		}
	}
	if (argc - optind != 1)
		return tool_misuse("one CONTAINER is needed");
	o->path = argv[optind];
	return 0;
}

int main(int argc, char *argv[])
{
	options o = {0};
	int code;

	tool_start("modelfs-check");
	code = parse_options(&o, argc, argv);
	if (code)
		return code;
	return tool_finish(run(&o));
}
