/* io_uring: O_DIRECT reads into registered buffers, on a registered file. */
#include <errno.h>
#include <liburing.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/vfs.h>

#include "io_file.h"

#define REAP_MAX     64
#define RING_ENTRIES 256

/* `lock` guards the submission queue; the completion queue belongs to the one
 * thread that reaps. */
struct uring {
	struct io_uring ring;
	pthread_mutex_t lock;
	uint8_t *arena;
	size_t arena_bytes;
	int fixed_file;
	int detached; /* submitting may wait, so the kernel's own threads do it */
};

/* A place in the submission queue; makes room by submitting what is queued. */
static struct io_uring_sqe *get_sqe(struct uring *u)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

	while (!sqe) {
		io_uring_submit(&u->ring);
		sqe = io_uring_get_sqe(&u->ring);
	}
	return sqe;
}

static void prepare(mfs_io_file *file, struct io_uring_sqe *sqe, mfs_io_request *r)
{
	struct uring *u = file->engine;
	int fd = u->fixed_file ? 0 : file->fd;

	if (file->head.registered && r->buffer >= u->arena && r->buffer < u->arena + u->arena_bytes)
		io_uring_prep_read_fixed(sqe, fd, r->buffer, r->length, r->offset, 0);
	else
		io_uring_prep_read(sqe, fd, r->buffer, r->length, r->offset);
	if (u->fixed_file)
		sqe->flags |= IOSQE_FIXED_FILE;
	if (u->detached)
		sqe->flags |= IOSQE_ASYNC;
	io_uring_sqe_set_data(sqe, r);
}

static int flush(struct uring *u)
{
	int n;

	/* What is queued must go out: the caller's buffers belong to the kernel now. */
	do
		n = io_uring_submit(&u->ring);
	while (n == -EINTR || n == -EAGAIN || n == -EBUSY || n == -ENOMEM);
	return n < 0 ? MFS_E_SYSTEM : 0;
}

static int uring_submit(mfs_io *io, mfs_io_request *const requests[], unsigned count)
{
	mfs_io_file *file = (mfs_io_file *)io;
	struct uring *u = file->engine;
	int err;

	pthread_mutex_lock(&u->lock);
	for (unsigned i = 0; i < count; i++)
		prepare(file, get_sqe(u), requests[i]);
	err = flush(u);
	pthread_mutex_unlock(&u->lock);
	return err;
}

/* Buffered reads end short where the page cache ran dry, direct ones seldom:
 * the rest is fetched plainly, so that short means end of file. */
static void finish(mfs_io_file *file, mfs_io_request *r, int result)
{
	r->result = result;
	if (result == -EINTR || result == -EAGAIN || (result > 0 && (uint32_t)result < r->length))
		mfs_io_file_pread(file, r);
	else if (result > 0)
		mfs_io_file_drop(file, r);
}

static int uring_reap(mfs_io *io, mfs_io_request *done[], unsigned max)
{
	mfs_io_file *file = (mfs_io_file *)io;
	struct uring *u = file->engine;
	struct io_uring_cqe *cqe;
	int result[REAP_MAX];
	unsigned count = 0;
	int err;

	if (max > REAP_MAX)
		max = REAP_MAX;
	do
		err = io_uring_wait_cqe(&u->ring, &cqe);
	while (err == -EINTR);
	while (!err && count < max) {
		mfs_io_request *r = io_uring_cqe_get_data(cqe);

		if (r) {
			result[count] = cqe->res;
			done[count++] = r;
		}
		io_uring_cqe_seen(&u->ring, cqe);
		err = io_uring_peek_cqe(&u->ring, &cqe);
	}
	/* The kernel orders submission before completion, but not so that a race
	 * detector could see it. */
	pthread_mutex_lock(&u->lock);
	pthread_mutex_unlock(&u->lock);
	for (unsigned i = 0; i < count; i++)
		finish(file, done[i], result[i]);
	return (int)count;
}

/* A no-op that completes wakes the reaper. */
static void uring_wake(mfs_io *io)
{
	struct uring *u = ((mfs_io_file *)io)->engine;
	struct io_uring_sqe *sqe;

	pthread_mutex_lock(&u->lock);
	sqe = get_sqe(u);
	io_uring_prep_nop(sqe);
	io_uring_sqe_set_data(sqe, NULL);
	flush(u);
	pthread_mutex_unlock(&u->lock);
}

static void uring_close(mfs_io *io)
{
	mfs_io_file *file = (mfs_io_file *)io;
	struct uring *u = file->engine;

	/* The kernel gives up a ring some time after its process: until then a file that is
	 * registered would keep the file system under it from being unmounted. */
	if (u->fixed_file)
		io_uring_unregister_files(&u->ring);
	io_uring_queue_exit(&u->ring);
	pthread_mutex_destroy(&u->lock);
	free(u);
	mfs_io_file_close(file);
}

static const mfs_io_table uring_table = {
    .name = "uring",
    .submit = uring_submit,
    .reap = uring_reap,
    .wake = uring_wake,
    .read_at = mfs_io_file_read_at,
    .size = mfs_io_file_size,
    .close = uring_close,
};

/* A block device that is full says so and is asked again later; FUSE makes the
 * submitter wait for a free request instead, which a caller of submit() must not. */
static int submitting_may_wait(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && fs.f_type == FUSE_SUPER_MAGIC;
}

int mfs_io_uring_start(mfs_io_file *file, void *arena, size_t arena_bytes, uint32_t depth)
{
	struct iovec buffers = {arena, arena_bytes};
	struct uring *u = calloc(1, sizeof(*u));
	int refused;

	(void)depth;
	if (!u)
		return MFS_E_MEMORY;
	/* Refused in many containers, on Android and on old kernels. */
	refused = io_uring_queue_init(RING_ENTRIES, &u->ring, 0);
	if (refused < 0) {
		free(u);
		errno = -refused;
		return MFS_E_SYSTEM;
	}
	pthread_mutex_init(&u->lock, NULL);
	u->arena = arena;
	u->arena_bytes = arena_bytes;
	u->detached = submitting_may_wait(file->fd);
	/* Both are gains only: memory limits may refuse them. */
	u->fixed_file = io_uring_register_files(&u->ring, &file->fd, 1) == 0;
	file->head.registered = io_uring_register_buffers(&u->ring, &buffers, 1) == 0;
	file->engine = u;
	file->head.table = &uring_table;
	return 0;
}
