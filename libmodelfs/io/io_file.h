/* What the engines that read a file descriptor share. */
#ifndef MFS_IO_FILE_H
#define MFS_IO_FILE_H

#include "io.h"

typedef struct {
	mfs_io head;
	int fd;
	uint64_t bytes;	 /* size of the file or device */
	const char *ask; /* engine that was asked for, or NULL */
	void *engine;	 /* the started engine's own state */
} mfs_io_file;

/* Starts one engine on an opened file: 0 and head.table set, or a negative
 * mfs_error and nothing changed. */
int mfs_io_uring_start(mfs_io_file *file, void *arena, size_t arena_bytes, uint32_t depth);
int mfs_io_pool_start(mfs_io_file *file, uint32_t depth);
int mfs_io_pread_start(mfs_io_file *file);

/* Reads a request to its end or to the end of the file: sets request->result. */
void mfs_io_file_pread(mfs_io_file *file, mfs_io_request *request);
/* After a buffered read: drop the pages behind, the decoded bytes are cached. */
void mfs_io_file_drop(mfs_io_file *file, const mfs_io_request *request);

int64_t mfs_io_file_read_at(mfs_io *io, uint64_t offset, void *buffer, size_t length);
uint64_t mfs_io_file_size(mfs_io *io);
/* Closes the descriptor and frees `file`, after the engine has stopped. */
void mfs_io_file_close(mfs_io_file *file);

#endif
