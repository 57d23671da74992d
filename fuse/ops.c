#include "ops.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

#include "attributes.h"
#include "connection.h"
#include "log.h"
#include "stats_handle.h"

#define IO_BLOCK_BYTES (128 << 10) /* what copying programs should read at once */
#define STATFS_BLOCK   4096

static mount_state *state_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

static const tree_node *node_of(fuse_req_t req, fuse_ino_t ino)
{
	return tree_get(&state_of(req)->tree, ino);
}

static int errno_of(int64_t error)
{
	return error == MFS_E_MEMORY ? ENOMEM : EIO;
}

/* ---- replies of other threads ---- */

/* The threads of the container and the worker may have a reply ready when the
 * mount has just ended; its descriptor must not be closed while they write to
 * it, nor be written to after that. */
static bool begin_reply(fuse_req_t req)
{
	mount_state *state = state_of(req);

	pthread_rwlock_rdlock(&state->ending);
	if (!state->ended)
		return true;
	pthread_rwlock_unlock(&state->ending);
	fuse_reply_none(req);
	return false;
}

static void end_reply(mount_state *state)
{
	pthread_rwlock_unlock(&state->ending);
}

void ops_stop_replies(mount_state *state)
{
	pthread_rwlock_wrlock(&state->ending);
	state->ended = true;
	pthread_rwlock_unlock(&state->ending);
}

/* ---- starting ---- */

static void op_init(void *user, struct fuse_conn_info *conn)
{
	mount_state *state = user;

	connection_ask(conn, state->read_ahead_bytes);
	state->ready(state->ready_user);
}

/* ---- attributes ---- */

static mode_t mode_of(node_kind kind)
{
	switch (kind) {
	case NODE_DIRECTORY:
		return S_IFDIR | 0555;
	case NODE_STATS:
		return S_IFREG | 0400;
	case NODE_FILE:
		break;
	}
	return S_IFREG | 0444;
}

static void fill_attributes(const mount_state *state, fuse_ino_t ino, struct stat *out)
{
	const tree_node *node = tree_get(&state->tree, ino);

	*out = (struct stat){
	    .st_ino = ino,
	    .st_mode = mode_of(node->kind),
	    .st_nlink = node->kind == NODE_DIRECTORY ? 2 + node->directories : 1,
	    .st_uid = state->uid,
	    .st_gid = state->gid,
	    .st_size = (off_t)node->size,
	    .st_blocks = (blkcnt_t)(node->size / 512 + (node->size % 512 != 0)),
	    .st_blksize = IO_BLOCK_BYTES,
	    .st_mtim = {.tv_sec = node->mtime_seconds, .tv_nsec = node->mtime_nanoseconds},
	};
	out->st_atim = out->st_ctim = out->st_mtim;
}

static void fill_entry(const mount_state *state, fuse_ino_t ino, struct fuse_entry_param *out)
{
	*out = (struct fuse_entry_param){.ino = ino,
					 .attr_timeout = CONNECTION_TIMEOUT_SECONDS,
					 .entry_timeout = CONNECTION_TIMEOUT_SECONDS};
	fill_attributes(state, ino, &out->attr);
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	mount_state *state = state_of(req);
	struct fuse_entry_param entry = {.entry_timeout = CONNECTION_TIMEOUT_SECONDS};
	uint32_t found;

	if (!tree_get(&state->tree, parent)) {
		fuse_reply_err(req, ESTALE);
		return;
	}
	if (strlen(name) > NAME_MAX) {
		fuse_reply_err(req, ENAMETOOLONG);
		return;
	}
	found = tree_find(&state->tree, (uint32_t)parent, name);
	/* Inode 0 with a timeout: the kernel remembers that there is no such name. */
	if (found)
		fill_entry(state, found, &entry);
	fuse_reply_entry(req, &entry);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
	struct stat attributes;

	(void)info;
	if (!node_of(req, ino)) {
		fuse_reply_err(req, ESTALE);
		return;
	}
	fill_attributes(state_of(req), ino, &attributes);
	fuse_reply_attr(req, &attributes, CONNECTION_TIMEOUT_SECONDS);
}

static void op_access(fuse_req_t req, fuse_ino_t ino, int mask)
{
	if (!node_of(req, ino))
		fuse_reply_err(req, ESTALE);
	else
		fuse_reply_err(req, mask & W_OK ? EROFS : 0);
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	const tree *t = &state_of(req)->tree;
	const struct statvfs answer = {
	    .f_bsize = STATFS_BLOCK,
	    .f_frsize = STATFS_BLOCK,
	    .f_blocks = t->bytes / STATFS_BLOCK + (t->bytes % STATFS_BLOCK != 0),
	    .f_files = t->files,
	    .f_flag = ST_RDONLY | ST_NOSUID,
	    .f_namemax = NAME_MAX,
	};

	(void)ino;
	fuse_reply_statfs(req, &answer);
}

/* ---- extended attributes ---- */

/* Answers with `length` bytes, or with their number where `size` is 0. */
static void reply_xattr(fuse_req_t req, const char *value, size_t length, size_t size)
{
	if (size == 0)
		fuse_reply_xattr(req, length);
	else if (size < length)
		fuse_reply_err(req, ERANGE);
	else
		fuse_reply_buf(req, value, length);
}

typedef struct {
	worker_job job;
	fuse_req_t req;
	uint32_t file;
	size_t size;
} stored_job;

static void run_stored_job(worker_job *base)
{
	stored_job *job = (stored_job *)base;
	mount_state *state = state_of(job->req);
	mfs_file_info info = {.size = sizeof(info)};
	int err = mfs_file_get(state->container, job->file, &info);
	char text[24];
	int length;

	if (!begin_reply(job->req)) {
		free(job);
		return;
	}
	if (err < 0) {
		fuse_reply_err(job->req, errno_of(err));
	} else {
		length =
		    snprintf(text, sizeof(text), "%llu", (unsigned long long)info.stored_bytes);
		reply_xattr(job->req, text, (size_t)length, job->size);
	}
	end_reply(state);
	free(job);
}

/* The stored size needs frame tables that may still be on the medium. */
static void post_stored_job(fuse_req_t req, const tree_node *node, size_t size)
{
	stored_job *job = malloc(sizeof(*job));

	if (!job) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	*job = (stored_job){{run_stored_job, NULL}, req, node->file, size};
	worker_post(state_of(req)->worker, &job->job);
}

static void reply_attribute(fuse_req_t req, const tree_node *node, const char *name, size_t size)
{
	int err;
	char *text = attribute_text(state_of(req)->container, node->file, name, &err);

	if (text)
		reply_xattr(req, text, strlen(text), size);
	else
		fuse_reply_err(req, err ? errno_of(err) : ENODATA);
	free(text);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	const tree_node *node = node_of(req, ino);

	if (!node)
		fuse_reply_err(req, ESTALE);
	else if (node->kind != NODE_FILE)
		fuse_reply_err(req, ENODATA);
	else if (strcmp(name, ATTRIBUTE_STORED) == 0)
		post_stored_job(req, node, size);
	else
		reply_attribute(req, node, name, size);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	const tree_node *node = node_of(req, ino);
	char *names = NULL;
	size_t length = 0;

	if (!node) {
		fuse_reply_err(req, ESTALE);
		return;
	}
	if (node->kind == NODE_FILE)
		length = attribute_names(state_of(req)->container, node->file, &names);
	if (node->kind == NODE_FILE && !names)
		fuse_reply_err(req, ENOMEM);
	else
		reply_xattr(req, names, length, size);
	free(names);
}

/* ---- directories ---- */

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
	const tree_node *node = node_of(req, ino);

	if (!node || node->kind != NODE_DIRECTORY) {
		fuse_reply_err(req, node ? ENOTDIR : ESTALE);
		return;
	}
	info->cache_readdir = 1;
	info->keep_cache = 1;
	fuse_reply_open(req, info);
}

/* The inode number and name of entry `place` of a listing: ".", "..", then the
 * children that are listed. 0 past the end. */
static uint32_t listed_entry(const tree *t, fuse_ino_t ino, uint64_t place, const char **name)
{
	const tree_node *node = &t->node[ino];
	uint32_t child;

	if (place < 2) {
		*name = place == 0 ? "." : "..";
		return place == 0 ? (uint32_t)ino : node->parent;
	}
	if (place - 2 >= node->listed)
		return 0;
	child = node->child[place - 2];
	*name = t->node[child].name;
	return child;
}

/* Adds one entry to a listing; returns the room that it takes or would take. */
static size_t add_entry(fuse_req_t req, char *at, size_t room, const char *name, uint32_t number,
			uint64_t next, bool plus)
{
	struct fuse_entry_param entry;

	fill_entry(state_of(req), number, &entry);
	if (!plus)
		return fuse_add_direntry(req, at, room, name, &entry.attr, (off_t)next);
	/* "." and ".." must not count as looked up. */
	if (next <= 2)
		entry.ino = 0;
	return fuse_add_direntry_plus(req, at, room, name, &entry, (off_t)next);
}

static void list_directory(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, bool plus)
{
	const tree *t = &state_of(req)->tree;
	uint64_t place = (uint64_t)offset;
	size_t used = 0;
	uint32_t number;
	const char *name;
	char *buffer;

	if (!tree_get(t, ino) || t->node[ino].kind != NODE_DIRECTORY) {
		fuse_reply_err(req, ENOTDIR);
		return;
	}
	if (size > CONNECTION_READ_MAX)
		size = CONNECTION_READ_MAX;
	buffer = malloc(size ? size : 1);
	if (!buffer) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	while ((number = listed_entry(t, ino, place, &name))) {
		size_t taken =
		    add_entry(req, buffer + used, size - used, name, number, place + 1, plus);

		if (taken > size - used)
			break;
		used += taken;
		place++;
	}
	fuse_reply_buf(req, buffer, used);
	free(buffer);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
		       struct fuse_file_info *info)
{
	(void)info;
	list_directory(req, ino, size, offset, false);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
			   struct fuse_file_info *info)
{
	(void)info;
	list_directory(req, ino, size, offset, true);
}

/* ---- files ---- */

static int open_stats(mount_state *state, struct fuse_file_info *info)
{
	stats_source source = {state->container, state->path, state->device, 0};
	stats_handle *handle;
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	source.uptime_seconds = t.tv_sec - state->started;
	handle = stats_handle_open(&state->stats, &source);
	if (!handle)
		return ENOMEM;
	info->fh = (uintptr_t)handle;
	info->direct_io = 1; /* its size is not known before it is made */
	return 0;
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
	mount_state *state = state_of(req);
	const tree_node *node = node_of(req, ino);
	int err = 0;

	if (!node)
		err = ESTALE;
	else if (node->kind == NODE_DIRECTORY)
		err = EISDIR;
	else if ((info->flags & O_ACCMODE) != O_RDONLY || info->flags & O_TRUNC)
		err = EROFS;
	else if (node->kind == NODE_STATS)
		err = open_stats(state, info);
	else
		info->keep_cache = 1;
	if (err) {
		fuse_reply_err(req, err);
		return;
	}
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 11)
	info->noflush = 1;
#endif
	/* Refused when the open was interrupted: then nobody will release it. */
	if (fuse_reply_open(req, info) == -ENOENT && node->kind == NODE_STATS)
		stats_handle_drop(&state->stats, (stats_handle *)(uintptr_t)info->fh);
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
	const tree_node *node = node_of(req, ino);

	if (node && node->kind == NODE_STATS)
		stats_handle_drop(&state_of(req)->stats, (stats_handle *)(uintptr_t)info->fh);
	fuse_reply_err(req, 0);
}

static void fail_read(fuse_req_t req, int64_t error)
{
	mfs_problem why = {0};

	mfs_last_problem(state_of(req)->container, &why);
	log_failed_read(why.text[0] ? why.text : mfs_error_text((int)error));
	fuse_reply_err(req, errno_of(error));
}

/* More pieces than writev(2) takes (a file of tiny tensors) go as one. */
static void reply_joined(fuse_req_t req, size_t length, const struct iovec *pieces, int count)
{
	char *buffer = malloc(length);
	char *end = buffer;

	if (!buffer) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	for (int i = 0; i < count; i++)
		end = mempcpy(end, pieces[i].iov_base, pieces[i].iov_len);
	fuse_reply_buf(req, buffer, length);
	free(buffer);
}

static void finish_read(void *user, int64_t result, const struct iovec *pieces, int count)
{
	fuse_req_t req = user;
	mount_state *state = state_of(req);

	if (!begin_reply(req))
		return;
	if (result < 0)
		fail_read(req, result);
	else if (result == 0)
		fuse_reply_buf(req, NULL, 0);
	else if (count < IOV_MAX)
		fuse_reply_iov(req, pieces, count);
	else
		reply_joined(req, (size_t)result, pieces, count);
	end_reply(state);
}

static void read_stats(fuse_req_t req, stats_handle *handle, size_t size, off_t offset)
{
	mount_state *state = state_of(req);
	size_t length;
	const char *text = stats_handle_hold(&state->stats, handle, &length);
	size_t start = (uint64_t)offset < length ? (size_t)offset : length;

	fuse_reply_buf(req, text + start, size < length - start ? size : length - start);
	stats_handle_drop(&state->stats, handle);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
		    struct fuse_file_info *info)
{
	const tree_node *node = node_of(req, ino);
	int err;

	if (!node || node->kind == NODE_DIRECTORY || offset < 0) {
		fuse_reply_err(req, node ? EINVAL : ESTALE);
		return;
	}
	if (node->kind == NODE_STATS) {
		read_stats(req, (stats_handle *)(uintptr_t)info->fh, size, offset);
		return;
	}
	if (size > CONNECTION_READ_MAX)
		size = CONNECTION_READ_MAX;
	err = mfs_read_async(state_of(req)->container, node->file, (uint64_t)offset, size,
			     finish_read, req);
	if (err < 0)
		fail_read(req, err);
}

/* ---- everything that would write ---- */

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attributes, int which,
		       struct fuse_file_info *info)
{
	(void)ino, (void)attributes, (void)which, (void)info;
	fuse_reply_err(req, EROFS);
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t device)
{
	(void)parent, (void)name, (void)mode, (void)device;
	fuse_reply_err(req, EROFS);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	(void)parent, (void)name, (void)mode;
	fuse_reply_err(req, EROFS);
}

/* unlink and rmdir */
static void op_remove(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	(void)parent, (void)name;
	fuse_reply_err(req, EROFS);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	(void)target, (void)parent, (void)name;
	fuse_reply_err(req, EROFS);
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
		      const char *new_name, unsigned flags)
{
	(void)parent, (void)name, (void)new_parent, (void)new_name, (void)flags;
	fuse_reply_err(req, EROFS);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_parent, const char *new_name)
{
	(void)ino, (void)new_parent, (void)new_name;
	fuse_reply_err(req, EROFS);
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
		      struct fuse_file_info *info)
{
	(void)parent, (void)name, (void)mode, (void)info;
	fuse_reply_err(req, EROFS);
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *bytes, size_t size, off_t offset,
		     struct fuse_file_info *info)
{
	(void)ino, (void)bytes, (void)size, (void)offset, (void)info;
	fuse_reply_err(req, EROFS);
}

static void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
			 struct fuse_file_info *info)
{
	(void)ino, (void)mode, (void)offset, (void)length, (void)info;
	fuse_reply_err(req, EROFS);
}

static void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
			size_t size, int flags)
{
	(void)ino, (void)name, (void)value, (void)size, (void)flags;
	fuse_reply_err(req, EROFS);
}

static void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	(void)ino, (void)name;
	fuse_reply_err(req, EROFS);
}

const struct fuse_lowlevel_ops ops_table = {
    .init = op_init,
    .lookup = op_lookup,
    .getattr = op_getattr,
    .access = op_access,
    .statfs = op_statfs,
    .getxattr = op_getxattr,
    .listxattr = op_listxattr,
    .opendir = op_opendir,
    .readdir = op_readdir,
    .readdirplus = op_readdirplus,
    .open = op_open,
    .read = op_read,
    .release = op_release,
    .setattr = op_setattr,
    .mknod = op_mknod,
    .mkdir = op_mkdir,
    .unlink = op_remove,
    .rmdir = op_remove,
    .symlink = op_symlink,
    .rename = op_rename,
    .link = op_link,
    .create = op_create,
    .write = op_write,
    .fallocate = op_fallocate,
    .setxattr = op_setxattr,
    .removexattr = op_removexattr,
};
