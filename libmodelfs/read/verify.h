/* A check of a container under way: what verify.c and readback.c share. */
#ifndef MFS_VERIFY_H
#define MFS_VERIFY_H

#include "container.h"
#include "mfs_xxhash.h"

struct range64 {
	uint64_t offset, length;
	bool chunk;
};

struct check {
	mfs_container *c;
	const bool *fresh; /* by file: those to check, and no superblocks; NULL: everything */
	unsigned threads;  /* that read frames back without decoding them; 0: files are read */
	mfs_check_report *report;
	mfs_progress *progress;
	void *user;
	int64_t problems;
	bool stopped, cancelled;
	uint64_t done, total; /* original bytes */
	uint8_t *buffer;      /* MFS_ROOT_MAX, for everything */
	struct range64 *used; /* what is not padding */
	size_t used_count;
	XXH3_state_t *file_hash, *tensor_hash;
	uint8_t **segments; /* with threads: those that are whole, by number */
};

/* Counts and reports what is wrong at `offset`. One thread at a time. */
__attribute__((format(printf, 4, 5))) void check_found(struct check *k, int error, uint64_t offset,
						       const char *format, ...);

/* Reads back every frame and all tables of the files that are checked and compares
 * them with their hashes, on k->threads threads; k->segments are loaded. Reports
 * progress from the calling thread. 0 or MFS_E_MEMORY. */
int check_frames(struct check *k);

#endif
