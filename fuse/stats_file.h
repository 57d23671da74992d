/* /.modelfs/stats.json: the counters of the running daemon. */
#ifndef MODELFS_STATS_FILE_H
#define MODELFS_STATS_FILE_H

#include <stddef.h>
#include <time.h>

#include "modelfs.h"

/* The counters of this moment as a JSON object and a newline, *length bytes;
 * free() it. NULL when memory is gone. Never waits for the medium. */
char *stats_file_make(mfs_container *container, const char *path, time_t uptime_seconds,
		      size_t *length);

#endif
