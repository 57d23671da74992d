/* modelfs-stat: looks inside a container, or at a mount that is running. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"
#include "json.h"
#include "live.h"
#include "map.h"
#include "modelfs.h"
#include "stat_views.h"
#include "watch.h"

typedef enum { SHOW_SUMMARY, SHOW_TENSORS, SHOW_CHUNKS, SHOW_MAP } view;

typedef struct {
	view show;
	bool json;
	const char *svg; /* file to draw the map into, or NULL */
	double watch;	 /* seconds from look to look; 0: one look */
	const char *path;
} options;

#define WATCH_DEFAULT 1.0
#define WATCH_MIN     0.05
#define WATCH_MAX     86400.0

static void print_help(void)
{
	fputs("Usage: modelfs-stat [OPTIONS] CONTAINER\n"
	      "       modelfs-stat [--json] [--watch [SECONDS]] MOUNTPOINT\n"
	      "Shows what is in a container and how it is stored, or the counters of a\n"
	      "running mount.\n"
	      "\n"
	      "      --tensors         a line for each tensor\n"
	      "      --chunks          a line for each chunk\n"
	      "      --map[=FILE.svg]  a picture of the layout, on the terminal or in a file\n"
	      "      --watch [SECONDS] show what a mount does, every second or as given, until\n"
	      "                        it is unmounted\n"
	      "      --json            everything as JSON; with --watch an object on each line\n"
	      "  -h, --help            print this and exit\n"
	      "  -V, --version         print the version and exit\n",
	      stdout);
}

/* Reports why looking into the container failed; returns the exit code. */
static int fail(mfs_container *container, const options *o, int err)
{
	mfs_problem why = {0};

	mfs_last_problem(container, &why);
	tool_problem(o->path, err, &why);
	return TOOL_FAILED;
}

static unsigned stdout_columns(void)
{
	struct winsize size;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col == 0)
		return 80;
	return size.ws_col;
}

static int write_svg(const map *m, const char *path)
{
	struct stat st;
	FILE *out;
	int failed;

	if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && tool_may_replace(path, "<svg"))
		return TOOL_FAILED;
	out = fopen(path, "we");
	if (!out) {
		tool_error("%s: %s", path, strerror(errno));
		return TOOL_FAILED;
	}
	map_print_svg(m, out);
	failed = ferror(out);
	if (fclose(out) != 0 || failed) {
		tool_error("%s: %s", path, strerror(errno));
		return TOOL_FAILED;
	}
	return TOOL_OK;
}

static int show_map(mfs_container *container, const options *o)
{
	const char *slash = strrchr(o->path, '/');
	int code = TOOL_OK;
	map m;
	int err = map_build(&m, container, slash && slash[1] ? slash + 1 : o->path);

	if (err < 0)
		return err;
	if (o->svg)
		code = write_svg(&m, o->svg);
	else
		map_print(&m, stdout, stdout_columns(),
			  isatty(STDOUT_FILENO) && !getenv("NO_COLOR"));
	map_free(&m);
	return code;
}

static int show_container(const options *o)
{
	mfs_container_info info = {.size = sizeof(info)};
	mfs_container *container = tool_open(o->path, 0);
	int code, err;

	if (!container)
		return TOOL_FAILED;
	err = mfs_info(container, &info);
	if (err < 0)
		code = err;
	else if (o->json)
		code = stat_print_json(container, o->path, &info);
	else if (o->show == SHOW_TENSORS)
		code = stat_print_tensors(container);
	else if (o->show == SHOW_CHUNKS)
		code = stat_print_chunks(container, info.chunks);
	else if (o->show == SHOW_MAP)
		code = show_map(container, o);
	else
		code = stat_print_summary(container, o->path, &info);
	if (code < 0)
		code = fail(container, o, code);
	mfs_close(container);
	return code;
}

static int show_live(const options *o)
{
	json_t *stats;

	if (o->show != SHOW_SUMMARY)
		return tool_misuse("%s is a directory: this view needs the container", o->path);
	if (o->watch > 0)
		return watch_mount(o->path, o->watch, o->json);
	stats = live_load(o->path, false);
	if (!stats)
		return TOOL_FAILED;
	if (o->json)
		return json_print(stats);
	stat_print_live(o->path, stats);
	json_decref(stats);
	return TOOL_OK;
}

/* ---- the command line ---- */

enum { OPT_JSON = 256, OPT_TENSORS, OPT_CHUNKS, OPT_MAP, OPT_WATCH };

static const struct option long_options[] = {
    {"json", no_argument, NULL, OPT_JSON},	   {"tensors", no_argument, NULL, OPT_TENSORS},
    {"chunks", no_argument, NULL, OPT_CHUNKS},	   {"map", optional_argument, NULL, OPT_MAP},
    {"watch", optional_argument, NULL, OPT_WATCH}, {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},	   {NULL, 0, NULL, 0},
};

static int set_view(options *o, view show)
{
	if (o->show != SHOW_SUMMARY && o->show != show)
		return tool_misuse("only one of --tensors, --chunks and --map");
	o->show = show;
	return 0;
}

static int set_interval(options *o, const char *text)
{
	char *end;

	o->watch = strtod(text, &end);
	if (end == text || *end || !(o->watch >= WATCH_MIN && o->watch <= WATCH_MAX))
		return tool_misuse("--watch: '%s' is not a number of seconds from %g to %g", text,
				   WATCH_MIN, WATCH_MAX);
	return 0;
}

/* The operands: the path, and before it, after --watch, the seconds. */
static int take_operands(options *o, int count, char *operands[])
{
	int err = 0;

	if (o->watch > 0 && count == 2) {
		err = set_interval(o, operands[0]);
		operands++;
		count--;
	}
	if (!err && count != 1)
		return tool_misuse("one CONTAINER or MOUNTPOINT is needed");
	o->path = operands[0];
	return err;
}

static int parse_options(options *o, int argc, char *argv[])
{
	int option, err = 0;

	while (!err && (option = tool_option(argc, argv, "hV", long_options, print_help)) != -1) {
		switch (option) {
		case OPT_JSON:
			o->json = true;
			break;
		case OPT_TENSORS:
			err = set_view(o, SHOW_TENSORS);
			break;
		case OPT_CHUNKS:
			err = set_view(o, SHOW_CHUNKS);
			break;
		case OPT_MAP:
			err = set_view(o, SHOW_MAP);
			o->svg = optarg;
			break;
		case OPT_WATCH:
			o->watch = WATCH_DEFAULT;
			err = optarg ? set_interval(o, optarg) : 0;
			break;
		default:
			return TOOL_USAGE;
		}
	}
	if (!err)
		err = take_operands(o, argc - optind, argv + optind);
	if (err)
		return err;
	if (o->json && o->show == SHOW_MAP)
		return tool_misuse("--map is a picture, --json is not");
	return 0;
}

int main(int argc, char *argv[])
{
	options o = {0};
	struct stat st;
	int code;

	tool_start("modelfs-stat");
	code = parse_options(&o, argc, argv);
	if (code)
		return code;
	if (stat(o.path, &st) == 0 && S_ISDIR(st.st_mode))
		return tool_finish(show_live(&o));
	if (o.watch > 0) {
		tool_error("%s: not a directory: --watch needs a MOUNTPOINT", o.path);
		return TOOL_FAILED;
	}
	return tool_finish(show_container(&o));
}
