/*
 * What FUSE itself costs: serves a copy of FILE in memory as MOUNTPOINT/model.
 *
 *   fuse_alone FILE MOUNTPOINT [MBPS]
 *
 * The connection is that of modelfs, and like modelfs it tells the kernel how far
 * to read ahead where it may; but a READ is answered by the thread that received it,
 * with bytes that need neither fetching, hashing nor decoding: at once or, with MBPS,
 * when a medium of so many 10^6 bytes a second would have delivered them. Runs in the
 * foreground until it is unmounted or told to end.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../../fuse/connection.h"
#include "../../fuse/readahead.h"
#include "modelfs.h"

#define FILE_INODE 2
#define FILE_NAME  "model"

/* Not changed once it is mounted, but for `due`. */
typedef struct {
	char *bytes;
	size_t size;
	unsigned read_ahead_bytes;
	double mbps; /* 0: no limit */
	pthread_mutex_t lock;
	uint64_t due; /* nanoseconds on the monotonic clock: until then the medium is busy */
} memory;

static memory *memory_of(fuse_req_t request)
{
	return fuse_req_userdata(request);
}

static void fill_stat(const memory *m, fuse_ino_t inode, struct stat *st)
{
	*st = (struct stat){.st_ino = inode, .st_nlink = 1, .st_mode = S_IFDIR | 0555};
	if (inode != FILE_INODE)
		return;
	st->st_mode = S_IFREG | 0444;
	st->st_size = (off_t)m->size;
}

static void on_init(void *user, struct fuse_conn_info *connection)
{
	connection_ask(connection, ((const memory *)user)->read_ahead_bytes);
}

static void on_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param entry = {.ino = FILE_INODE,
					 .attr_timeout = CONNECTION_TIMEOUT_SECONDS,
					 .entry_timeout = CONNECTION_TIMEOUT_SECONDS};

	if (parent != FUSE_ROOT_ID || strcmp(name, FILE_NAME)) {
		fuse_reply_err(request, ENOENT);
		return;
	}
	fill_stat(memory_of(request), FILE_INODE, &entry.attr);
	fuse_reply_entry(request, &entry);
}

static void on_getattr(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
	struct stat st;

	(void)info;
	fill_stat(memory_of(request), inode, &st);
	fuse_reply_attr(request, &st, CONNECTION_TIMEOUT_SECONDS);
}

static void on_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
	(void)inode;
	info->keep_cache = 1;
	fuse_reply_open(request, info);
}

/* Until a medium that takes one request after the other would have read these. */
static void wait_for_medium(memory *m, size_t bytes)
{
	struct timespec now, until;
	uint64_t at;

	clock_gettime(CLOCK_MONOTONIC, &now);
	at = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	pthread_mutex_lock(&m->lock);
	if (m->due < at)
		m->due = at;
	m->due += (uint64_t)((double)bytes * 1000 / m->mbps);
	at = m->due;
	pthread_mutex_unlock(&m->lock);
	until = (struct timespec){.tv_sec = (time_t)(at / 1000000000),
				  .tv_nsec = (long)(at % 1000000000)};
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
		;
}

static void on_read(fuse_req_t request, fuse_ino_t inode, size_t length, off_t offset,
		    struct fuse_file_info *info)
{
	memory *m = memory_of(request);
	size_t from = (uint64_t)offset < m->size ? (size_t)offset : m->size;
	size_t left = m->size - from;

	(void)inode, (void)info;
	if (length > left)
		length = left;
	if (m->mbps > 0)
		wait_for_medium(m, length);
	fuse_reply_buf(request, m->bytes + from, length);
}

static const struct fuse_lowlevel_ops operations = {
    .init = on_init,
    .lookup = on_lookup,
    .getattr = on_getattr,
    .open = on_open,
    .read = on_read,
};

/* ---- the program ---- */

static bool read_all(int fd, memory *m)
{
	size_t done = 0;

	while (done < m->size) {
		ssize_t n = read(fd, m->bytes + done, m->size - done);

		if (n == 0)
			errno = EIO; /* shorter than it was */
		if (n <= 0)
			return false;
		done += (size_t)n;
	}
	return true;
}

/* In large memory pages where the kernel has them, as the arena of modelfs is. */
static bool load(const char *path, memory *m)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	bool loaded = false;
	struct stat st;

	if (fd >= 0 && fstat(fd, &st) == 0) {
		m->size = (size_t)st.st_size;
		m->bytes =
		    mmap(NULL, m->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (m->bytes != MAP_FAILED) {
			(void)madvise(m->bytes, m->size, MADV_HUGEPAGE); /* only a hint */
			loaded = read_all(fd, m);
		}
	}
	if (!loaded)
		fprintf(stderr, "fuse_alone: %s: %s\n", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	return loaded;
}

static void set_read_ahead(memory *m, const char *mountpoint)
{
	char device[32];

	if (readahead_device(mountpoint, device, sizeof(device)) &&
	    readahead_set(device, MFS_READ_AHEAD_MAX / 1024) == 0)
		m->read_ahead_bytes = MFS_READ_AHEAD_MAX;
}

static int serve(memory *m, const char *mountpoint)
{
	struct fuse_args arguments = FUSE_ARGS_INIT(0, NULL);
	struct fuse_session *session = NULL;
	char list[128];
	int err = 1;

	snprintf(list, sizeof(list), "-o" CONNECTION_OPTIONS ",max_read=%u", CONNECTION_READ_MAX);
	if (!fuse_opt_add_arg(&arguments, "fuse_alone") && !fuse_opt_add_arg(&arguments, list))
		session = fuse_session_new(&arguments, &operations, sizeof(operations), m);
	if (session && !fuse_set_signal_handlers(session) &&
	    !fuse_session_mount(session, mountpoint)) {
		set_read_ahead(m, mountpoint);
		err = connection_serve(session) != 0;
		fuse_session_unmount(session);
	}
	if (session) {
		fuse_remove_signal_handlers(session);
		fuse_session_destroy(session);
	}
	fuse_opt_free_args(&arguments);
	return err;
}

int main(int argc, char **argv)
{
	char mountpoint[PATH_MAX];
	memory m = {.lock = PTHREAD_MUTEX_INITIALIZER};
	char *end = "";

	if (argc == 4)
		m.mbps = strtod(argv[3], &end);
	if (argc < 3 || argc > 4 || *end || m.mbps < 0) {
		fputs("usage: fuse_alone FILE MOUNTPOINT [MBPS]\n", stderr);
		return 2;
	}
	if (!realpath(argv[2], mountpoint)) {
		fprintf(stderr, "fuse_alone: %s: %s\n", argv[2], strerror(errno));
		return 1;
	}
	return load(argv[1], &m) ? serve(&m, mountpoint) : 1;
}
