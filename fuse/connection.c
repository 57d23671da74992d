#include "connection.h"

#include <errno.h>
#include <stdbool.h>

static void want(struct fuse_conn_info *conn, unsigned capability, bool on)
{
	if (on)
		conn->want |= conn->capable & capability;
	else
		conn->want &= ~capability;
}

void connection_ask(struct fuse_conn_info *conn, unsigned read_ahead_bytes)
{
	want(conn,
	     FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_EXPORT_SUPPORT |
		 FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_PARALLEL_DIROPS,
	     true);
	/* Replies come from memory: splicing them costs a copy more. And files do
	 * not change, so there is no cache to invalidate. */
	want(conn,
	     FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE |
		 FUSE_CAP_AUTO_INVAL_DATA,
	     false);
	conn->max_read = CONNECTION_READ_MAX;
	/* The kernel takes the smaller one of this and what is set for the device. */
	if (read_ahead_bytes)
		conn->max_readahead = read_ahead_bytes;
	conn->max_background = 64;
	conn->congestion_threshold = 48;
}

int connection_serve(struct fuse_session *session)
{
#if FUSE_USE_VERSION >= 312
	struct fuse_loop_config *config = fuse_loop_cfg_create();
	int result;

	if (!config)
		return -ENOMEM;
	fuse_loop_cfg_set_max_threads(config, CONNECTION_THREADS);
	fuse_loop_cfg_set_idle_threads(config, CONNECTION_THREADS);
	result = fuse_session_loop_mt(session, config);
	fuse_loop_cfg_destroy(config);
	return result;
#else
	struct fuse_loop_config config = {.max_idle_threads = CONNECTION_THREADS};

	return fuse_session_loop_mt(session, &config);
#endif
}
