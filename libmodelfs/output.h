/*
 * The container while it is being written: a temporary file beside its target,
 * which appears under the final name only when it is complete and on the medium.
 */
#ifndef MFS_OUTPUT_H
#define MFS_OUTPUT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "modelfs_error.h"

typedef struct {
	int fd;	       /* the temporary file; -1: none */
	int directory; /* that both lie in; -1: none */
	int replace;   /* an existing target may be replaced */
	char *path;    /* of the target, as given; for messages */
	char *target;  /* name in the directory */
	char *temporary;
	char *temporary_path;
	/* What the target is now, if it exists: a source must not be overwritten. */
	int exists;
	dev_t device;
	ino_t inode;
} mfs_output;

#define MFS_OUTPUT_NONE                                                                            \
	{                                                                                          \
		.fd = -1, .directory = -1                                                          \
	}

/* Checks the target and creates the temporary file. Refuses directories, special
 * files and, unless `replace`, anything that exists. */
int mfs_output_open(mfs_output *out, const char *path, int replace, mfs_problem *why);

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
/* Removes the temporary file if there is one, and frees what the struct holds. */
void mfs_output_close(mfs_output *output);

#endif
