/* /.modelfs/stats.json: the counters of the running daemon. */
#ifndef MODELFS_STATS_FILE_H
#define MODELFS_STATS_FILE_H

#include <stddef.h>
#include <time.h>

#include "modelfs.h"

typedef struct {
	mfs_container *container;
	const char *path;   /* of the container */
	const char *device; /* MAJOR:MINOR of the mount, or empty */
	time_t uptime_seconds;
} stats_source;

/* The counters of this moment as a JSON object and a newline, *length bytes;
 * free() it. NULL when memory is gone. Never waits for the medium. */
char *stats_file_make(const stats_source *source, size_t *length);

#endif
