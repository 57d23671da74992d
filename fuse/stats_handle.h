/*
 * Opens of /.modelfs/stats.json. Each keeps the text of its moment. The open holds a
 * reference, and so does each read: its reply may reach a client, which closes, before
 * the thread that sent it has returned. Safe from any thread, but for
 * stats_handles_end(), which comes last.
 */
#ifndef MODELFS_STATS_HANDLE_H
#define MODELFS_STATS_HANDLE_H

#include <pthread.h>
#include <stddef.h>

#include "stats_file.h"

typedef struct stats_handle stats_handle;

/* All that are open; at first none, and the lock made. */
typedef struct {
	pthread_mutex_t lock; /* guards the list and the references */
	stats_handle *first;
} stats_handles;

/* Frees what clients still had open when the mount ended. */
void stats_handles_end(stats_handles *all);

/* With one reference; NULL when memory is gone. */
stats_handle *stats_handle_open(stats_handles *all, const stats_source *source);
/* Takes another reference; returns the text, *length bytes that stay until it is dropped. */
const char *stats_handle_hold(stats_handles *all, stats_handle *handle, size_t *length);
/* Gives back a reference; the last one frees the handle. */
void stats_handle_drop(stats_handles *all, stats_handle *handle);

#endif
