#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "problem.h"

/* Bytes of the target's name that the temporary name repeats: with the rest
 * it stays under NAME_MAX. */
#define NAME_KEPT 200

static int failed(const mfs_output *output, const char *what, mfs_problem *why)
{
	return mfs_problem_set(why, errno == EIO ? MFS_E_IO : MFS_E_SYSTEM, UINT64_MAX,
			       "%s: %s: %s", output->path, what, strerror(errno));
}

/* ---- the target ---- */

static int exists_already(const mfs_output *output, mfs_problem *why)
{
	return mfs_problem_set(why, MFS_E_EXISTS, UINT64_MAX,
			       "%s: exists already, and replacing it was not asked for",
			       output->path);
}

static int refuse_special(const mfs_output *output, mode_t mode, mfs_problem *why)
{
	const char *what = S_ISDIR(mode)   ? "a directory"
			   : S_ISBLK(mode) ? "a block device: pack into a file, then copy it there"
					   : "not a regular file";

	return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX, "%s: is %s", output->path, what);
}

static int check_target(mfs_output *output, const char *path, mfs_problem *why)
{
	struct stat st;

	if (stat(path, &st) < 0) {
		/* A link that leads nowhere is not what anybody wants replaced. */
		if (errno == ENOENT && !lstat(path, &st))
			return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
					       "%s: is a symbolic link that leads nowhere", path);
		return errno == ENOENT ? 0 : failed(output, "cannot create", why);
	}
	if (!S_ISREG(st.st_mode))
		return refuse_special(output, st.st_mode, why);
	if (!output->replace)
		return exists_already(output, why);
	output->exists = 1;
	output->device = st.st_dev;
	output->inode = st.st_ino;
	return 0;
}

/* Splits `path` into an open directory and a name in it. */
static int open_directory(mfs_output *output, const char *path, mfs_problem *why)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	char *directory = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
	int error = 0;

	if (!*name)
		error = mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
					"%s: no file name to write to", path);
	output->target = strdup(name);
	if (!error && (!directory || !output->target))
		error = mfs_problem_no_memory(why);
	if (!error) {
		output->directory = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (output->directory < 0)
			error = failed(output, "cannot open its directory", why);
	}
	free(directory);
	return error;
}

/* ---- the temporary file ---- */

/* ".NAME.1f2e3d4c", or NULL without memory. */
static char *temporary_name(const mfs_output *output)
{
	uint32_t number = 0;
	char *name;

	if (getrandom(&number, sizeof(number), 0) != sizeof(number))
		number = (uint32_t)getpid();
	if (asprintf(&name, ".%.*s.%08" PRIx32, NAME_KEPT, output->target, number) < 0)
		return NULL;
	return name;
}

/* A file that has no name is gone when this process is killed, or the power fails. It
 * is opened again through its descriptor. False where that cannot be had: on FAT, or
 * without /proc. */
static bool create_nameless(mfs_output *output)
{
	char *path = NULL;

	output->fd = openat(output->directory, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0666);
	if (output->fd < 0)
		return false;
	if (asprintf(&path, "/proc/self/fd/%d", output->fd) < 0)
		path = NULL;
	if (path && access(path, F_OK) == 0) {
		output->temporary_path = path;
		return true;
	}
	free(path);
	close(output->fd);
	output->fd = -1;
	return false;
}

static int create_named(mfs_output *output, const char *path, mfs_problem *why)
{
	int directory = (int)(strlen(path) - strlen(output->target));

	for (int attempt = 0; attempt < 100; attempt++) {
		free(output->temporary);
		output->temporary = temporary_name(output);
		if (!output->temporary)
			return mfs_problem_no_memory(why);
		/* 0666: the umask decides, as for any new file. */
		output->fd = openat(output->directory, output->temporary,
				    O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
		if (output->fd >= 0 || errno != EEXIST)
			break;
	}
	if (output->fd < 0) {
		free(output->temporary);
		output->temporary = NULL;
		return failed(output, "cannot create a temporary file beside it", why);
	}
	if (asprintf(&output->temporary_path, "%.*s%s", directory, path, output->temporary) < 0) {
		output->temporary_path = NULL;
		return mfs_problem_no_memory(why);
	}
	return 0;
}

static int create_temporary(mfs_output *output, const char *path, mfs_problem *why)
{
	return create_nameless(output) ? 0 : create_named(output, path, why);
}

/* Replacing a symbolic link means replacing what it leads to. */
static char *resolve(const mfs_output *output)
{
	return output->exists ? realpath(output->path, NULL) : strdup(output->path);
}

int mfs_output_open(mfs_output *out, const char *path, int replace, mfs_problem *why)
{
	mfs_output output = MFS_OUTPUT_NONE;
	char *resolved = NULL;
	int error;

	output.table = out->table;
	output.user = out->user;
	output.replace = replace;
	output.path = strdup(path);
	error = output.path ? check_target(&output, path, why) : mfs_problem_no_memory(why);
	if (!error) {
		resolved = resolve(&output);
		if (!resolved)
			error = failed(&output, "cannot resolve", why);
	}
	if (!error)
		error = open_directory(&output, resolved, why);
	if (!error)
		error = create_temporary(&output, resolved, why);
	free(resolved);
	if (error)
		mfs_output_close(&output);
	else
		*out = output;
	return error;
}

/* ---- a container that is appended to ---- */

static int refuse_locked(const mfs_output *output, mfs_problem *why)
{
	if (errno != EWOULDBLOCK)
		return failed(output, "cannot lock it", why);
	return mfs_problem_set(why, MFS_E_BUSY, UINT64_MAX,
			       "%s: another mkmodelfs is writing to it", output->path);
}

/* True if the path leads to the open file: who waited for the lock may find it
 * replaced. */
static bool still_there(mfs_output *output, mfs_problem *why, int *error)
{
	struct stat opened, found;

	*error = 0;
	if (fstat(output->fd, &opened) < 0 || stat(output->path, &found) < 0) {
		*error = failed(output, "cannot open", why);
		return false;
	}
	if (!S_ISREG(opened.st_mode)) {
		*error = refuse_special(output, opened.st_mode, why);
		return false;
	}
	output->exists = 1;
	output->device = opened.st_dev;
	output->inode = opened.st_ino;
	return opened.st_dev == found.st_dev && opened.st_ino == found.st_ino;
}

static int open_locked(mfs_output *output, mfs_problem *why)
{
	int error = 0;

	for (int attempt = 0; attempt < 10 && !error; attempt++) {
		/* O_NONBLOCK: opening a FIFO must not wait for its writer. */
		output->fd = open(output->path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
		if (output->fd < 0)
			return failed(output, "cannot open for writing", why);
		if (flock(output->fd, LOCK_EX | LOCK_NB) < 0)
			return refuse_locked(output, why);
		if (still_there(output, why, &error))
			return 0;
		close(output->fd);
		output->fd = -1;
	}
	errno = EBUSY;
	return error ? error : failed(output, "is being replaced", why);
}

int mfs_output_lock(mfs_output *out, const char *path, mfs_problem *why)
{
	mfs_output output = MFS_OUTPUT_NONE;
	int error;

	output.path = strdup(path);
	error = output.path ? open_locked(&output, why) : mfs_problem_no_memory(why);
	if (error)
		mfs_output_close(&output);
	else
		*out = output;
	return error;
}

int mfs_output_keep_mode(const mfs_output *output, const mfs_output *locked, mfs_problem *why)
{
	struct stat st;

	if (fstat(locked->fd, &st) < 0)
		return failed(locked, "cannot open", why);
	/* Only root may give files away; FAT has neither owners nor modes. */
	(void)!fchown(output->fd, st.st_uid, st.st_gid);
	(void)!fchmod(output->fd, st.st_mode & 07777);
	return 0;
}

int mfs_output_begin_behind(mfs_output *output, uint64_t bytes, mfs_problem *why)
{
	output->behind = true;
	output->old_bytes = bytes;
	/* What an interrupted append left must not be found by a search for superblocks. */
	return ftruncate(output->fd, (off_t)bytes) < 0 ? failed(output, "cannot write", why) : 0;
}

int mfs_output_extend(const mfs_output *output, uint64_t bytes, mfs_problem *why)
{
	return ftruncate(output->fd, (off_t)bytes) < 0 ? failed(output, "cannot write", why) : 0;
}

void mfs_output_close(mfs_output *output)
{
	/* A generation that will never be: where this fails it is ignored all the same. */
	if (output->behind && !output->sealing)
		(void)!ftruncate(output->fd, (off_t)output->old_bytes);
	if (output->temporary)
		unlinkat(output->directory, output->temporary, 0);
	if (output->fd >= 0)
		close(output->fd);
	if (output->directory >= 0)
		close(output->directory);
	free(output->path);
	free(output->target);
	free(output->temporary);
	free(output->temporary_path);
	*output = (mfs_output)MFS_OUTPUT_NONE;
}

/* ---- writing ---- */

static ssize_t file_write(const mfs_output *output, const void *bytes, size_t length, off_t offset)
{
	return pwrite(output->fd, bytes, length, offset);
}

static int file_sync(const mfs_output *output)
{
	return fsync(output->fd);
}

const mfs_output_table mfs_output_file_table = {file_write, file_sync};

int mfs_output_write(mfs_output *output, uint64_t offset, const void *bytes, size_t length,
		     mfs_problem *why)
{
	const uint8_t *from = bytes;

	while (length) {
		ssize_t put = output->table->write(output, from, length, (off_t)offset);

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0) {
			if (put == 0)
				errno = EIO;
			return failed(output, "cannot write", why);
		}
		from += put;
		offset += (uint64_t)put;
		length -= (size_t)put;
	}
	return 0;
}

void mfs_output_start_sync(mfs_output *output, uint64_t offset, uint64_t length)
{
	/* Only a hint: where it fails, the sync at the end does all the work. */
	(void)!sync_file_range(output->fd, (off_t)offset, (off_t)length, SYNC_FILE_RANGE_WRITE);
}

int mfs_output_sync(mfs_output *output, mfs_problem *why)
{
	return output->table->sync(output) < 0 ? failed(output, "cannot write to the medium", why)
					       : 0;
}

/* ---- the final name ---- */

/* Renames without ever replacing: by the kernel where it can, else by a link,
 * else (FAT) by looking first. */
static int rename_new(const mfs_output *o)
{
	struct stat st;

	if (!renameat2(o->directory, o->temporary, o->directory, o->target, RENAME_NOREPLACE))
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return -1;
	if (!linkat(o->directory, o->temporary, o->directory, o->target, 0)) {
		unlinkat(o->directory, o->temporary, 0);
		return 0;
	}
	if (errno == EEXIST)
		return -1;
	if (!fstatat(o->directory, o->target, &st, AT_SYMLINK_NOFOLLOW)) {
		errno = EEXIST;
		return -1;
	}
	return renameat(o->directory, o->temporary, o->directory, o->target);
}

static int link_nameless(const mfs_output *o, const char *name)
{
	return linkat(AT_FDCWD, o->temporary_path, o->directory, name, AT_SYMLINK_FOLLOW);
}

/* Only a rename replaces, and it wants a name. */
static int name_nameless(mfs_output *o)
{
	for (int attempt = 0; attempt < 100; attempt++) {
		free(o->temporary);
		o->temporary = temporary_name(o);
		if (o->temporary && !link_nameless(o, o->temporary))
			return 0;
		if (!o->temporary || errno != EEXIST)
			break;
	}
	free(o->temporary);
	o->temporary = NULL;
	return -1;
}

static int give_name(mfs_output *o)
{
	if (!o->temporary && !o->replace)
		return link_nameless(o, o->target);
	if (!o->temporary && name_nameless(o) < 0)
		return -1;
	if (!o->replace)
		return rename_new(o);
	return renameat(o->directory, o->temporary, o->directory, o->target);
}

int mfs_output_publish(mfs_output *output, mfs_problem *why)
{
	int result = give_name(output);

	if (result < 0 && errno == EEXIST)
		return exists_already(output, why);
	if (result < 0)
		return failed(output, "cannot give it its name", why);
	free(output->temporary);
	output->temporary = NULL;
	/* vfat loses a file that was renamed but not synced again. */
	if (fsync(output->fd) < 0)
		return failed(output, "cannot write to the medium", why);
	/* Some file systems cannot sync directories and need not. */
	if (fsync(output->directory) < 0 && errno != EINVAL && errno != EBADF)
		return failed(output, "cannot write its directory to the medium", why);
	return 0;
}
