/* The command line of mkmodelfs. */
#ifndef MKMODELFS_OPTIONS_H
#define MKMODELFS_OPTIONS_H

#include <stdbool.h>

#include "modelfs_pack.h"

typedef enum { ADAPTER_LORA, ADAPTER_MERGE, ADAPTER_PREMERGE } adapter_kind;

/* An option --lora or --merge, whose text is NAME=VALUE, or --premerge, where the
 * value may be left out. */
typedef struct {
	adapter_kind kind;
	const char *text;
	const char *base;   /* what --base said before it, or NULL */
	const char *source; /* of --premerge: what --source said, or NULL */
} adapter_option;

/* All text is the command line's. */
typedef struct {
	mfs_pack_options pack;
	bool json, quiet, dry_run, append, compact, profile_given;
	const char **removed; /* names */
	int removed_count;
	const char *container;
	char **sources; /* [NAME=]SOURCE */
	int source_count;
	const char *base;    /* the model of deltas and of the adapters that follow, or NULL */
	const char **deltas; /* [NAME=]SOURCE */
	int delta_count;
	const char *source;	  /* what the --premerge that follow are quantized from, or NULL */
	adapter_option *adapters; /* --lora, --merge and --premerge, in their order */
	int adapter_count;
} mkmodelfs_options;

/* Reads the command line into `o`, or says what is wrong with it and returns an exit
 * code; --help and --version end the program. Free `o` in either case. */
int mkmodelfs_options_parse(mkmodelfs_options *o, int argc, char *argv[]);
void mkmodelfs_options_free(mkmodelfs_options *o);

/* True if an existing container is changed. */
bool mkmodelfs_options_change(const mkmodelfs_options *o);
/* True if weights are changed. */
bool mkmodelfs_options_lossy(const mkmodelfs_options *o);

#endif
