/*
 * What the kernel asks and what it is told. Every handler answers at once or
 * hands the request on: reads to the container's threads, what else may wait to
 * the worker. None blocks.
 */
#ifndef MODELFS_OPS_H
#define MODELFS_OPS_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>
#include <time.h>

#include "fuse_api.h"
#include "modelfs.h"
#include "stats_handle.h"
#include "tree.h"
#include "worker.h"

/* What handlers work on: the session's user data. Not changed once mounted,
 * except for what has its own lock. */
typedef struct {
	mfs_container *container;
	const char *path; /* of the container, for stats.json */
	tree tree;
	worker *worker;
	uid_t uid;
	gid_t gid;
	char device[32];	   /* MAJOR:MINOR of the mount, or empty */
	unsigned read_ahead_bytes; /* that were set for it; 0: none */
	time_t started;		   /* seconds on the monotonic clock */
	void (*ready)(void *user); /* called when the kernel has accepted the mount */
	void *ready_user;
	stats_handles stats;
	pthread_rwlock_t ending; /* held for reading while a reply is sent */
	bool ended;		 /* guarded by `ending` */
} mount_state;

/* Waits until no thread is sending a reply, and lets none send another: the
 * session may be unmounted then. Call it when the loop has ended. */
void ops_stop_replies(mount_state *state);

extern const struct fuse_lowlevel_ops ops_table;

#endif
