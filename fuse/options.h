/* The command line of modelfs. */
#ifndef MODELFS_OPTIONS_H
#define MODELFS_OPTIONS_H

#include "fuse_api.h"
#include "modelfs.h"

typedef struct {
	char *container; /* as they were given */
	char *mountpoint;
	int foreground, single, help, version; /* flags */
	int surplus;			       /* more arguments than there should be */
	int remount;			       /* asked for, which is not possible */
	mfs_open_options open;
	int debug;
	int64_t read_ahead_kb; /* of the mount; 0: as the kernel has it; -1: what suits it */
	/* Before they are checked into `open` and read_ahead_kb. */
	char *arena, *cache, *matrices, *decoders, *engine, *profile, *read_ahead;
	char *record; /* absolute path of the trace to write */
	char *replay;
	struct fuse_args args; /* what remains for libfuse */
} options;

/* Parses and checks. 0, or an exit code after a message on stderr. With `help`
 * or `version` set nothing else is checked. */
int options_parse(options *out, int argc, char *argv[]);
void options_free(options *o);

void options_print_help(void);

#endif
