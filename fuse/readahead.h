/*
 * How far the kernel reads ahead in the mount: read_ahead_kb of its backing
 * device in sysfs, which only root may change. Whole requests of 1 MiB cost the
 * kernel, libfuse and us less than eight of 128 KiB; how far is best for a
 * container, mfs_medium_get() tells.
 */
#ifndef MODELFS_READAHEAD_H
#define MODELFS_READAHEAD_H

#include <stdbool.h>
#include <stddef.h>

#define READAHEAD_KB_MAX 65536

/* "MAJOR:MINOR" of the file system mounted at the absolute path `mountpoint`; false
 * if /proc does not tell. Does not touch the mount itself, which may not answer
 * yet. */
bool readahead_device(const char *mountpoint, char *out, size_t size);
/* Sets it, before the kernel has had the answer to its first request. 0, or an
 * errno. */
int readahead_set(const char *device, unsigned kilobytes);
/* What it is now; -1 if sysfs does not tell. */
long readahead_get(const char *device);

#endif
