/*
 * What the kernel is asked for when it connects: one place, so that what FUSE
 * itself costs (tests/bench/fuse_alone.c) is measured with the same connection.
 */
#ifndef MODELFS_CONNECTION_H
#define MODELFS_CONNECTION_H

#include "fuse_api.h"
#include "modelfs.h"

/* The largest READ; mount option max_read has to say the same. */
#define CONNECTION_READ_MAX MFS_READ_MAX
/* Of the mount. */
#define CONNECTION_OPTIONS "ro,nosuid,nodev,default_permissions"
#define CONNECTION_THREADS 2
/* Nothing changes while it is mounted, so the kernel may remember for a day. */
#define CONNECTION_TIMEOUT_SECONDS 86400.0

/* Fills in the answer to the kernel's first request. `read_ahead_bytes` is what was
 * set for the mount's device; 0: nothing was. */
void connection_ask(struct fuse_conn_info *conn, unsigned read_ahead_bytes);
/* Answers requests on CONNECTION_THREADS threads until the session ends. 0, or
 * what libfuse returns. */
int connection_serve(struct fuse_session *session);

#endif
