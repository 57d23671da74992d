#include "io.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "io_file.h"
#include "problem.h"

/* What every direct read here is aligned to; no medium asks for more. */
#define DIRECT_ALIGNMENT 4096u

void mfs_io_file_drop(mfs_io_file *file, const mfs_io_request *request)
{
	if (!file->head.direct)
		posix_fadvise(file->fd, (off_t)request->offset, request->length,
			      POSIX_FADV_DONTNEED);
}

void mfs_io_file_pread(mfs_io_file *file, mfs_io_request *request)
{
	size_t done = 0;

	while (done < request->length) {
		ssize_t n = pread(file->fd, request->buffer + done, request->length - done,
				  (off_t)(request->offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			request->result = -errno;
			return;
		}
		done += (size_t)n;
		if (n == 0 || (file->head.direct && (size_t)n % DIRECT_ALIGNMENT))
			break;
	}
	request->result = (int64_t)done;
	mfs_io_file_drop(file, request);
}

static bool is_aligned(uint64_t offset, const void *buffer, size_t length)
{
	return (offset | (uintptr_t)buffer | length) % DIRECT_ALIGNMENT == 0 &&
	       length <= UINT32_MAX;
}

static int64_t read_aligned(mfs_io_file *file, uint64_t offset, void *buffer, size_t length)
{
	mfs_io_request request = {.offset = offset, .length = (uint32_t)length, .buffer = buffer};

	mfs_io_file_pread(file, &request);
	if (request.result >= 0)
		return request.result;
	errno = (int)-request.result;
	return MFS_E_IO;
}

/* Through a bounce buffer where it must be, so that the caller need not care for
 * alignment. */
int64_t mfs_io_file_read_at(mfs_io *io, uint64_t offset, void *buffer, size_t length)
{
	mfs_io_file *file = (mfs_io_file *)io;
	uint64_t start = round_down(offset, DIRECT_ALIGNMENT);
	uint64_t end = round_up(offset + length, DIRECT_ALIGNMENT);
	void *bounce;
	int64_t got;

	if (is_aligned(offset, buffer, length))
		return read_aligned(file, offset, buffer, length);
	if (end - start > UINT32_MAX || posix_memalign(&bounce, DIRECT_ALIGNMENT, end - start))
		return MFS_E_MEMORY;
	got = read_aligned(file, start, bounce, end - start);
	if (got >= 0) {
		got -= (int64_t)(offset - start);
		got = got < 0 ? 0 : got > (int64_t)length ? (int64_t)length : got;
		memcpy(buffer, (uint8_t *)bounce + (offset - start), (size_t)got);
	}
	free(bounce);
	return got;
}

uint64_t mfs_io_file_size(mfs_io *io)
{
	return ((mfs_io_file *)io)->bytes;
}

void mfs_io_file_close(mfs_io_file *file)
{
	close(file->fd);
	free(file);
}

/* Before start() there is no engine: only read_at, size and close. */
static void close_unstarted(mfs_io *io)
{
	mfs_io_file_close((mfs_io_file *)io);
}

static int start(mfs_io *io, void *arena, size_t arena_bytes, uint32_t depth)
{
	mfs_io_file *file = (mfs_io_file *)io;
	const char *ask = file->ask;
	int err = MFS_E_ARGUMENT;

	if (!ask || !strcmp(ask, "uring"))
		err = mfs_io_uring_start(file, arena, arena_bytes, depth);
	if (err && (!ask || !strcmp(ask, "pool")))
		err = mfs_io_pool_start(file, depth);
	if (err && (!ask || !strcmp(ask, "pread")))
		err = mfs_io_pread_start(file);
	return err;
}

static const mfs_io_table unstarted = {
    .name = "none",
    .start = start,
    .read_at = mfs_io_file_read_at,
    .size = mfs_io_file_size,
    .close = close_unstarted,
};

/* File systems that take O_DIRECT at open may still refuse it at the read. */
static int direct_works(int fd)
{
	void *buffer;
	ssize_t n;

	if (posix_memalign(&buffer, DIRECT_ALIGNMENT, DIRECT_ALIGNMENT))
		return 0;
	n = pread(fd, buffer, DIRECT_ALIGNMENT, 0);
	free(buffer);
	return n >= 0;
}

static int open_file(const char *path, int buffered, int *direct)
{
	int fd = -1;

	*direct = 0;
	if (!buffered) {
		fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT | O_NONBLOCK);
		if (fd >= 0 && direct_works(fd)) {
			*direct = 1;
			return fd;
		}
		if (fd >= 0)
			close(fd);
	}
	return open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
}

static int file_bytes(int fd, uint64_t *out, int *device)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	*device = S_ISBLK(st.st_mode);
	if (S_ISREG(st.st_mode)) {
		*out = (uint64_t)st.st_size;
		return 0;
	}
	if (*device)
		return ioctl(fd, BLKGETSIZE64, out) < 0 ? -errno : 0;
	return S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
}

int mfs_io_open(mfs_io **out, const char *path, const char *engine, int buffered, mfs_problem *why)
{
	mfs_io_file *file;
	int fd, direct, device, err;
	uint64_t bytes;

	if (engine && strcmp(engine, "uring") && strcmp(engine, "pool") && strcmp(engine, "pread"))
		return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
				       "there is no engine '%s' (uring, pool, pread)", engine);
	fd = open_file(path, buffered, &direct);
	if (fd < 0)
		return mfs_problem_set(why, errno == ENOENT ? MFS_E_NOT_FOUND : MFS_E_SYSTEM,
				       UINT64_MAX, "%s: %s", path, strerror(errno));
	err = file_bytes(fd, &bytes, &device);
	if (err) {
		close(fd);
		return mfs_problem_set(why, MFS_E_SYSTEM, UINT64_MAX, "%s: %s", path,
				       err == -EINVAL ? "neither a file nor a block device"
						      : strerror(-err));
	}
	file = calloc(1, sizeof(*file));
	if (!file) {
		close(fd);
		return mfs_problem_set(why, MFS_E_MEMORY, UINT64_MAX, "%s: out of memory", path);
	}
	file->head = (mfs_io){.table = &unstarted,
			      .alignment = direct ? DIRECT_ALIGNMENT : 1,
			      .direct = direct,
			      .device = device};
	file->fd = fd;
	file->bytes = bytes;
	file->ask = engine;
	*out = &file->head;
	return 0;
}
