#include "options.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../tools/common.h"
#include "connection.h"
#include "readahead.h"

#define DECODERS_MAX 256
#define ARENA_MAX    (UINT64_C(1) << 40)
#define CACHE_MAX    (UINT64_C(1) << 50)

enum { KEY_DEBUG, KEY_IGNORE, KEY_REMOUNT };

#define OPTION(text, member, value)                                                                \
	{                                                                                          \
		text, offsetof(options, member), value                                             \
	}

static const struct fuse_opt option_table[] = {
    OPTION("-f", foreground, 1),
    OPTION("-s", single, 1),
    OPTION("-h", help, 1),
    OPTION("--help", help, 1),
    OPTION("-V", version, 1),
    OPTION("--version", version, 1),
    OPTION("arena=%s", arena, 0),
    OPTION("cache=%s", cache, 0),
    OPTION("matrices=%s", matrices, 0),
    OPTION("engine=%s", engine, 0),
    OPTION("decoders=%s", decoders, 0),
    OPTION("profile=%s", profile, 0),
    OPTION("record=%s", record, 0),
    OPTION("replay=%s", replay, 0),
    OPTION("read_ahead_kb=%s", read_ahead, 0),
    OPTION("buffered", open.buffered, 1),
    OPTION("noprefetch", open.no_prefetch, 1),
    FUSE_OPT_KEY("-d", KEY_DEBUG),
    FUSE_OPT_KEY("debug", KEY_DEBUG),
    /* Words of fstab(5) that mean nothing to a daemon. */
    FUSE_OPT_KEY("defaults", KEY_IGNORE),
    FUSE_OPT_KEY("_netdev", KEY_IGNORE),
    FUSE_OPT_KEY("nofail", KEY_IGNORE),
    /* What is read-only and has no links has as they ask for already. */
    FUSE_OPT_KEY("relatime", KEY_IGNORE),
    FUSE_OPT_KEY("norelatime", KEY_IGNORE),
    FUSE_OPT_KEY("strictatime", KEY_IGNORE),
    FUSE_OPT_KEY("lazytime", KEY_IGNORE),
    FUSE_OPT_KEY("nosymfollow", KEY_IGNORE),
    FUSE_OPT_KEY("remount", KEY_REMOUNT),
    FUSE_OPT_END,
};

/* libfuse's parser calls this for what the table does not store. */
static int take_argument(void *data, const char *argument, int key, struct fuse_args *rest)
{
	options *o = data;

	(void)rest;
	switch (key) {
	case KEY_DEBUG:
		o->foreground = o->debug = 1;
		return 1; /* libfuse wants to see it too */
	case KEY_IGNORE:
		return 0;
	case KEY_REMOUNT:
		o->remount = 1;
		return 0;
	case FUSE_OPT_KEY_NONOPT:
		break;
	case FUSE_OPT_KEY_OPT:
		/* Those of systemd and the like. */
		return strncmp(argument, "x-", 2) && strncmp(argument, "X-", 2);
	default:
		return 1;
	}
	if (!o->container)
		o->container = strdup(argument);
	else if (!o->mountpoint)
		o->mountpoint = strdup(argument);
	else
		o->surplus = 1;
	return 0;
}

static int check_engine(options *o)
{
	static const char *const engines[] = {"uring", "pool", "pread"};

	if (!o->engine)
		return 0;
	for (size_t i = 0; i < sizeof(engines) / sizeof(engines[0]); i++)
		if (strcmp(o->engine, engines[i]) == 0)
			o->open.engine = engines[i];
	if (!o->open.engine)
		return tool_misuse("engine=%s: must be uring, pool or pread", o->engine);
	return 0;
}

static int check_cache(options *o)
{
	if (!o->cache)
		return 0;
	if (strcmp(o->cache, "auto") == 0)
		o->open.cache_bytes = MFS_CACHE_AUTO;
	else if (!tool_parse_size(o->cache, CACHE_MAX, &o->open.cache_bytes))
		return tool_misuse("cache=%s: neither a size such as 2G nor auto", o->cache);
	return 0;
}

static int check_values(options *o)
{
	uint64_t decoders = 0, read_ahead = 0;
	int err;

	if (o->arena && !tool_parse_size(o->arena, ARENA_MAX, &o->open.arena_bytes))
		return tool_misuse("arena=%s: not a size such as 64M", o->arena);
	if (o->matrices && !tool_parse_size(o->matrices, ARENA_MAX, &o->open.matrices_bytes))
		return tool_misuse("matrices=%s: not a size such as 64M", o->matrices);
	if (o->decoders && !tool_parse_number(o->decoders, DECODERS_MAX, &decoders))
		return tool_misuse("decoders=%s: not a number up to %d", o->decoders, DECODERS_MAX);
	if (o->read_ahead && !tool_parse_number(o->read_ahead, READAHEAD_KB_MAX, &read_ahead))
		return tool_misuse("read_ahead_kb=%s: not a number up to %d", o->read_ahead,
				   READAHEAD_KB_MAX);
	o->open.decoders = (unsigned)decoders;
	o->read_ahead_kb = o->read_ahead ? (int64_t)read_ahead : -1;
	if (o->profile) {
		o->open.profile = mfs_profile_find(o->profile);
		if (o->open.profile < 0)
			return tool_misuse("profile=%s: there is no such profile", o->profile);
	}
	err = check_cache(o);
	return err ? err : check_engine(o);
}

/* The trace is written when the daemon has left its directory, and at the very
 * end: a place where that cannot be is told now. */
static int check_record(options *o)
{
	char *slash, *directory, *path = NULL, *resolved;
	int err = 0;

	if (!o->record)
		return 0;
	if (tool_may_replace(o->record, "modelfs-trace "))
		return TOOL_FAILED;
	resolved = realpath(o->record, NULL);
	if (resolved) { /* what a link leads to is replaced, not the link */
		free(o->record);
		o->record = resolved;
	}
	slash = strrchr(o->record, '/');
	directory = !slash ? realpath(".", NULL) : slash == o->record ? strdup("/") : NULL;
	if (slash && slash != o->record) {
		*slash = '\0';
		directory = realpath(o->record, NULL);
		*slash = '/';
	}
	if (!directory || access(directory, W_OK) < 0 ||
	    asprintf(&path, "%s/%s", directory, slash ? slash + 1 : o->record) < 0) {
		tool_error("record=%s: %s", o->record, strerror(errno));
		err = TOOL_FAILED;
	} else {
		free(o->record);
		o->record = path;
		o->open.record = 1;
	}
	free(directory);
	return err;
}

/* Adds what every mount has. It comes last, so nothing the user says undoes it. */
static int add_fixed_options(options *o)
{
	char *path = NULL, *text = NULL, *list = NULL;
	int err = -1;

	/* An absolute path is left as it is: /etc/fstab and findmnt(8) compare it. */
	path = o->container[0] == '/' ? strdup(o->container) : realpath(o->container, NULL);
	if (asprintf(&text, "fsname=%s", path ? path : o->container) < 0)
		text = NULL;
	if (text && fuse_opt_add_opt_escaped(&list, text) == 0) {
		free(text);
		if (asprintf(&text, "-o%s," CONNECTION_OPTIONS ",subtype=modelfs,max_read=%u", list,
			     CONNECTION_READ_MAX) < 0)
			text = NULL;
		err = text ? fuse_opt_add_arg(&o->args, text) : -1;
	}
	free(list);
	free(text);
	free(path);
	if (err) {
		tool_error("out of memory");
		return TOOL_FAILED;
	}
	return 0;
}

int options_parse(options *out, int argc, char *argv[])
{
	int err;

	*out = (options){.open = MFS_OPEN_OPTIONS_INIT};
	out->args = (struct fuse_args)FUSE_ARGS_INIT(argc, argv);
	if (fuse_opt_parse(&out->args, out, option_table, take_argument) < 0)
		return TOOL_USAGE;
	if (out->help || out->version)
		return 0;
	if (out->remount)
		return tool_misuse("remount: unmount, and mount with the other options");
	if (!out->container || !out->mountpoint)
		return tool_misuse("a CONTAINER and a MOUNTPOINT are needed");
	if (!*out->container || !*out->mountpoint)
		return tool_misuse("an argument is empty");
	if (out->surplus)
		return tool_misuse("there are more arguments than CONTAINER and MOUNTPOINT");
	err = check_values(out);
	if (!err)
		err = check_record(out);
	out->open.replay = out->replay;
	return err ? err : add_fixed_options(out);
}

void options_free(options *o)
{
	fuse_opt_free_args(&o->args);
	free(o->container);
	free(o->mountpoint);
	free(o->engine);
	free(o->arena);
	free(o->matrices);
	free(o->cache);
	free(o->profile);
	free(o->read_ahead);
	free(o->decoders);
	free(o->record);
	free(o->replay);
}

void options_print_help(void)
{
	fputs("Usage: modelfs [OPTIONS] CONTAINER MOUNTPOINT\n"
	      "Shows the files of a container, read-only, under the directory MOUNTPOINT.\n"
	      "\n"
	      "  -f                  stay in the foreground\n"
	      "  -d, -o debug        stay in the foreground and print every request\n"
	      "  -s                  one FUSE thread instead of two\n"
	      "  -h, --help          print this and exit\n"
	      "  -V, --version       print the version and exit\n"
	      "\n"
	      "  -o arena=SIZE       memory for reads and decoded spans (64M)\n"
	      "  -o cache=SIZE       memory for stored bytes, for models larger than it, or auto:\n"
	      "                      what is left of this machine or cgroup (0)\n"
	      "  -o decoders=N       threads that decode (one a core)\n"
	      "  -o engine=NAME      uring, pool or pread (the first of these that works)\n"
	      "  -o buffered         read the container through the kernel's cache\n"
	      "  -o matrices=SIZE    memory for what is merged into one tensor of a view (16M, or\n"
	      "                      a 64th of what there is)\n"
	      "  -o noprefetch       read only what is asked for\n"
	      "  -o profile=NAME     queue reads as for this medium: sd, emmc, usb, sata, nvme,\n"
	      "                      nand, nor (what the medium is found to be)\n"
	      "  -o read_ahead_kb=N  how far the kernel reads ahead, set by root only; 0 leaves\n"
	      "                      it as it is (1024; 256 for experts on slow media)\n"
	      "  -o record=FILE      write the order of first touches to FILE at the end\n"
	      "  -o replay=FILE      fetch ahead in the order that such a FILE tells\n"
	      "\n"
	      "  -o allow_other      let other users read as well\n"
	      "  -o auto_unmount     unmount even if modelfs is killed\n"
	      "\n"
	      "Always on: ro, nosuid, nodev, default_permissions.\n"
	      "Unmount with: fusermount3 -u MOUNTPOINT\n",
	      stdout);
}
