/*
 * How much memory this process may still use: what the machine has, and what the
 * cgroups that it lives in allow (versions 1 and 2).
 */
#ifndef MFS_MEMORY_H
#define MFS_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
	uint64_t total_bytes;	  /* of the machine, or the tightest cgroup */
	uint64_t available_bytes; /* free, or holding pages of files, which can be dropped */
} mfs_memory;

/* `root` is where /proc and /sys are found: "" but in tests. False if not even
 * /proc/meminfo can be read; cgroups that cannot are taken to have no limit. */
bool mfs_memory_get(const char *root, mfs_memory *out);

#endif
