/*
 * The container while it is being written: a temporary file in the target's directory,
 * without a name where the file system has such files, which gets the final name only
 * when it is complete and on the medium; or, when it is appended to, the container
 * itself, locked against other writers.
 */
#ifndef MFS_OUTPUT_H
#define MFS_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "modelfs_error.h"

typedef struct mfs_output mfs_output;

/* What reaches the medium and in which order. Tests put their own in its place. */
typedef struct {
	/* Like pwrite(2) and fsync(2): -1 and errno on failure. */
	ssize_t (*write)(const mfs_output *output, const void *bytes, size_t length, off_t offset);
	int (*sync)(const mfs_output *output);
} mfs_output_table;

struct mfs_output {
	const mfs_output_table *table;
	void *user;	      /* the table's */
	int fd;		      /* the temporary file, or the container; -1: none */
	int directory;	      /* that both lie in; -1: none */
	int replace;	      /* an existing target may be replaced */
	char *path;	      /* of the target, as given; for messages */
	char *target;	      /* name in the directory */
	char *temporary;      /* its name in the directory; NULL while it has none */
	char *temporary_path; /* opens the temporary file */
	/* What the target is now, if it exists: a source must not be written over. */
	int exists;
	dev_t device;
	ino_t inode;
	/* Of a container that is appended to. */
	bool behind;	    /* what is written lies behind what the container has */
	bool sealing;	    /* superblocks are being written: nothing can be taken back */
	uint64_t old_bytes; /* of the generation before */
};

extern const mfs_output_table mfs_output_file_table;

#define MFS_OUTPUT_NONE                                                                            \
	{                                                                                          \
		.table = &mfs_output_file_table, .fd = -1, .directory = -1                         \
	}

/* Checks the target and creates the temporary file. Refuses directories, special
 * files and, unless `replace`, anything that exists. `out` is MFS_OUTPUT_NONE, or has
 * another table. */
int mfs_output_open(mfs_output *out, const char *path, int replace, mfs_problem *why);

/* Opens and locks an existing container for writing. MFS_E_BUSY: another writer has
 * it. */
int mfs_output_lock(mfs_output *out, const char *path, mfs_problem *why);
/* Gives the temporary file the permissions, and where possible the owner, of the
 * container that it will replace. */
int mfs_output_keep_mode(const mfs_output *output, const mfs_output *locked, mfs_problem *why);
/* The generation of a locked container that is appended to has `bytes`: what lies
 * behind them is cut off now, and again at mfs_output_close() unless sealing has
 * begun. */
int mfs_output_begin_behind(mfs_output *output, uint64_t bytes, mfs_problem *why);

/* Makes the container as long as its new generation, the end of which is written
 * last. */
int mfs_output_extend(const mfs_output *output, uint64_t bytes, mfs_problem *why);

int mfs_output_write(mfs_output *output, uint64_t offset, const void *bytes, size_t length,
		     mfs_problem *why);
/* Starts writing [offset, offset + length) to the medium without waiting, so
 * that mfs_output_sync() has little left to do. */
void mfs_output_start_sync(mfs_output *output, uint64_t offset, uint64_t length);
/* Waits until all that was written is on the medium. */
int mfs_output_sync(mfs_output *output, mfs_problem *why);

/* Gives the file its final name, for good: synced, also on FAT. The temporary
 * file is gone then. */
int mfs_output_publish(mfs_output *output, mfs_problem *why);
/* Removes the temporary file if there is one, or takes back what was appended, and
 * frees what the struct holds. */
void mfs_output_close(mfs_output *output);

#endif
