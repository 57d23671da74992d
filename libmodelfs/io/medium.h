/*
 * The medium that a container lies on: what sysfs knows of it, and how reads are
 * queued for each kind. Measuring what sysfs does not know is in probe.c.
 */
#ifndef MFS_MEDIUM_H
#define MFS_MEDIUM_H

#include <stdbool.h>

#include "modelfs.h"

typedef enum {
	MEDIUM_UNKNOWN, /* what follows is silent as well: sysfs does not say what is behind */
	MEDIUM_VIRTUAL,
	MEDIUM_NETWORK,
	MEDIUM_FUSE,
	MEDIUM_SD,
	MEDIUM_EMMC,
	MEDIUM_USB,
	MEDIUM_UAS,
	MEDIUM_SSD,
	MEDIUM_HDD,
	MEDIUM_NVME,
	MEDIUM_NAND,
	MEDIUM_NOR,
	MEDIUM_MEMORY,
	MEDIUM_KINDS
} medium_kind;

/* Where a file lies. */
typedef struct {
	unsigned major, minor; /* of its device, or of the block device that it is */
	uint64_t fs_type;      /* of statfs(2); 0 for a block device */
} medium_place;

/* The system to look into. A test has a tree of its own. */
typedef struct {
	const char *sysroot; /* what /sys lies in: "" on a running system */
	/* Where the file at `path` lies, which a loop device names: 0, or -1. */
	int (*locate)(const char *path, medium_place *out);
} medium_system;

/* How reads are queued. */
typedef struct {
	const char *name; /* of the kind or profile that it is meant for */
	uint32_t request_bytes;
	uint32_t depth;
	uint64_t window_bytes;
	/* What the kernel may read ahead on its own in a mixture of experts: what lies
	 * beyond the expert that a token takes is for nobody. */
	uint32_t mixture_read_ahead;
} medium_queue;

/* The most of any depth: engines are started for it where it is still to be found. */
#define MEDIUM_DEPTH_MAX 16u

/* Fills kind, name, model and what else sysfs says; the rest stays 0. Never fails:
 * what is not found is MEDIUM_UNKNOWN. */
medium_kind medium_find(mfs_medium *out, const medium_system *system, const medium_place *place);
/* The same for the open file `fd` on this system. */
medium_kind medium_find_fd(mfs_medium *out, int fd);

const char *medium_kind_name(medium_kind kind);
/* True if only measuring tells how reads should be queued. */
bool medium_is_silent(medium_kind kind);

/* How to queue for a kind that is not silent. */
void medium_queue_of_kind(medium_queue *out, medium_kind kind, const mfs_medium *medium);
void medium_queue_of_profile(medium_queue *out, const mfs_profile *profile);
/* By what was measured (latency_us, channels, bytes_per_second, each not 0). False
 * if the figures cannot be a medium's: then they came from the page cache. */
bool medium_queue_of_probe(medium_queue *out, const mfs_medium *medium);

#endif
