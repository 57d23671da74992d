/* An open container, inside the library. */
#ifndef MFS_CONTAINER_H
#define MFS_CONTAINER_H

#include <pthread.h>
#include <stdbool.h>

#include "io.h"
#include "layout.h"
#include "medium.h"
#include "modelfs.h"
#include "order.h"
#include "root.h"
#include "superblock.h"

struct reader;

/* Everything here is fixed once mfs_open() has returned, except `reader`, which
 * `lock` guards, `problem`, which `problem_lock` guards, and `medium` and `queue`,
 * which the reader's lock guards as soon as there is a reader. */
struct mfs_container {
	char *path;
	mfs_io *io; /* passes to the reader when that starts */
	mfs_open_options options;
	mfs_superblock sb;
	int sb_copy; /* which superblock served */
	uint8_t *root_bytes;
	mfs_root root;
	mfs_layout *layouts;
	char **layout_names;
	medium_kind kind;
	mfs_medium medium;
	medium_queue queue;	/* how to queue reads */
	uint32_t max_span;	/* largest span of any tensor */
	bool computed;		/* some tensors are deltas or derived */
	uint32_t *listed;	/* public tensor number -> tensor of the root */
	uint32_t listed_count;	/* tensors that are not literal bytes */
	uint32_t *first_listed; /* by file; file count + 1 entries */
	char *names;		/* all names, terminated */
	char **file_names, **file_notes, **tensor_names;
	mfs_order_part *replay; /* the trace to be replayed, as parts of tensors */
	uint32_t replay_count;

	pthread_mutex_t lock;
	struct reader *reader;	      /* NULL before the first read */
	int reader_error;	      /* why there is none: an engine starts only once */
	int reader_errno;	      /* what a call to the system failed with then */
	pthread_mutex_t problem_lock; /* taken last: under the reader's too */
	mfs_problem problem;	      /* of the last failed read */
};

/* Opens what `io` reads; takes it over, also on failure. `name` is for messages. */
int mfs_open_io(mfs_container **out, mfs_io *io, const char *name, const mfs_open_options *options,
		mfs_problem *why);

/* Opens a container that is being written: at `path`, which people know by `name`, and if
 * `sb` is not NULL the generation of that superblock, which is not on the medium yet. */
int mfs_open_written(mfs_container **out, const char *path, const char *name,
		     const mfs_superblock *sb, const mfs_open_options *options, mfs_problem *why);

/* Checks the index of a generation that has no superblocks yet, and the files whose
 * `fresh` is set (by number), as mfs_check() does. */
int64_t container_check_fresh(mfs_container *c, const bool *fresh, mfs_check_report *report,
			      mfs_progress *progress, void *user);

/* As mfs_check() (`fresh` NULL) or container_check_fresh(), but frames and tables are
 * compared with their hashes only, not decoded: for containers whose spans were proven
 * to decode when they were packed. On `threads` threads; calls back from this one, but
 * `report` from any, one at a time. */
int64_t container_read_back(mfs_container *c, const bool *fresh, unsigned threads,
			    mfs_check_report *report, mfs_progress *progress, void *user);

/* The reader, started if need be. NULL on failure, then and ever after, with the reason
 * in *err and mfs_last_problem(). */
struct reader *container_reader(mfs_container *c, int *err);

/* Loads the trace at `path` for replaying (record.c). */
int container_load_trace(mfs_container *c, const char *path, mfs_problem *why);
/* True if a few reads should find out what the medium is like. */
bool container_should_probe(const mfs_container *c);

const char *class_name(unsigned cls);

/* The first tensor of the root, literal bytes included, of `file` or of one behind
 * it: tensors lie in the order of their files. */
uint32_t container_first_tensor(const mfs_container *c, uint32_t file);

/* The extent of `file` that holds `offset` (below the file's size). */
void container_extent_at(const mfs_container *c, const mfs_root_file *file, uint64_t offset,
			 uint64_t *index, mfs_root_extent *out);

#endif
