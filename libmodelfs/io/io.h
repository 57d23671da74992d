/*
 * I/O engines: how bytes come from the medium. A small table of functions so
 * that the reader does not care which one serves, and tests can put their own
 * in its place.
 *
 * submit() may be called from any thread and never waits for the medium;
 * reap() is called by one thread only; wake() makes a waiting reap() return.
 */
#ifndef MFS_IO_H
#define MFS_IO_H

#include <stddef.h>
#include <stdint.h>

#include "modelfs.h"

typedef struct {
	uint64_t offset; /* multiple of the alignment, as are length and buffer */
	uint32_t length;
	uint8_t *buffer;
	void *user;
	int64_t result; /* set by reap: bytes read (short: at the end of the file), or -errno */
} mfs_io_request;

typedef struct mfs_io mfs_io;

typedef struct {
	const char *name;
	/* Starts threads or rings; `arena` is the memory that all buffers will lie
	 * in, for registration. 0, or a negative mfs_error. */
	int (*start)(mfs_io *io, void *arena, size_t arena_bytes, uint32_t depth);
	int (*submit)(mfs_io *io, mfs_io_request *const requests[], unsigned count);
	/* Fills done[] with up to `max` ended requests; waits for one if none has
	 * ended, unless woken. Returns their number. */
	int (*reap)(mfs_io *io, mfs_io_request *done[], unsigned max);
	void (*wake)(mfs_io *io);
	/* Like pread(2), for the superblock and the root, before start(). */
	int64_t (*read_at)(mfs_io *io, uint64_t offset, void *buffer, size_t length);
	uint64_t (*size)(mfs_io *io);
	void (*close)(mfs_io *io); /* nothing in flight any more; frees io */
} mfs_io_table;

/* The head of every engine. */
struct mfs_io {
	const mfs_io_table *table;
	uint32_t alignment; /* of offset, length and buffer: 512, 4096, or 1 where buffered */
	int direct;
	int registered;
	int device; /* a block device, no file */
};

/* Opens `path` with O_DIRECT where that works (and `buffered` is 0); the engine
 * itself is chosen by start: `engine` NULL tries uring, pool, pread. */
int mfs_io_open(mfs_io **out, const char *path, const char *engine, int buffered, mfs_problem *why);

#endif
