/*
 * The packer inside: its state, and what its files do for each other.
 *
 *   packer.c        the public handle: options, sources, what to remove
 *   pack.c          mfs_packer_write(): the stages, and a new container
 *   pack_append.c   changing a container that is there
 *   pack_spans.c    spans from the sources through the coders into chunks
 *   pack_verify.c   reading back
 *   pack_summary.c  what was packed, why so, and what was lost
 *
 * All of it runs on the caller's thread; coder.h and ahead.h have threads.
 */
#ifndef MFS_PACKER_H
#define MFS_PACKER_H

#include <stdatomic.h>
#include <stdbool.h>

#include "ahead.h"
#include "carried.h"
#include "chunk_writer.h"
#include "coder.h"
#include "compact.h"
#include "index_writer.h"
#include "mfs_xxhash.h"
#include "modelfs_pack.h"
#include "output.h"
#include "placement.h"
#include "plan.h"

struct mfs_packer {
	mfs_plan plan;
	unsigned threads;
	bool no_verify, force, used;
	char *order;	   /* the trace whose order to store in, or NULL */
	atomic_int cancel; /* set from anywhere */
	mfs_output output;
	/* Of a container that is changed. */
	mfs_carried *carried;
	mfs_output locked; /* holds other writers off */
	bool compact;
	uint32_t added, removed; /* files; from writing */
	mfs_pack_type *types;	 /* one for each layout, then metadata */
	uint32_t type_count;
};

/* One call of mfs_packer_write(). */
typedef struct {
	mfs_packer *packer;
	mfs_plan *plan;
	mfs_output *output; /* NULL: dry run */
	mfs_pack_progress *progress;
	void *user;
	mfs_problem *why;

	mfs_placement placement;
	mfs_chunk_writer writer;
	mfs_coders *coders;
	mfs_compactor *compactor; /* NULL: spans are coded */
	mfs_index index;
	XXH3_state_t *file_hash, *tensor_hash;
	uint8_t *base_span;   /* of a delta's base */
	uint8_t *passed_span; /* that is hashed only */
	mfs_ahead *ahead;     /* reads what is computed; NULL: not yet, or by one thread */
	bool prove;	      /* spans are decoded again as soon as they are coded */
	uint64_t original_done;
} mfs_pack_work;

/* The container is written through `table`; for tests. */
void mfs_packer_set_output(mfs_packer *packer, const mfs_output_table *table, void *user);

/* ---- pack.c ---- */

/* Tells the caller how far `stage` is, in original bytes, and whether it may go on. */
void mfs_pack_report(mfs_pack_work *w, mfs_pack_stage stage, uint64_t original);
/* MFS_E_CANCELLED, with its line in w->why, once somebody wants to stop. */
int mfs_pack_check_cancel(const mfs_pack_work *w);
/* A container that is written to must be no source of its own: MFS_E_ARGUMENT. */
int mfs_pack_check_not_source(const mfs_pack_work *w);
/* Plans, codes and writes up to a container (or the end of a generation) that lacks
 * only what leads to it: its name, or its superblock. */
int mfs_pack_write_container(mfs_pack_work *w, mfs_pack_summary *s);
/* A clock that only goes forward. */
double mfs_pack_seconds(void);

/* ---- pack_append.c ---- */

/* Takes what is to be removed out of the plan, and refuses changes that change nothing
 * or that other files forbid. */
int mfs_pack_drop_removed(mfs_pack_work *w);
/* Writes a generation behind that of the opened container. It is verified before any
 * superblock leads to it. */
int mfs_pack_append(mfs_pack_work *w, mfs_pack_summary *s);

/* ---- pack_spans.c ---- */

/* Codes and stores all spans of the plan that are not stored yet. */
int mfs_pack_files(mfs_pack_work *w);
/* Stores all spans of the plan as the container has them that is compacted. */
int mfs_pack_copy_runs(mfs_pack_work *w);

/* ---- pack_verify.c ---- */

/* Reads back what was written and decodes it; MFS_E_IO if it is not what was packed. */
int mfs_pack_verify(mfs_pack_work *w);

/* ---- pack_summary.c ---- */

/* Begins the sums: a type for each layout, and one for literal bytes and zeros. */
int mfs_pack_make_types(mfs_pack_work *w);
void mfs_pack_free_types(mfs_packer *p);
/* Adds what the span takes in the container. */
void mfs_pack_count_stored(mfs_pack_work *w, const mfs_coder_job *job);
void mfs_pack_fill_summary(const mfs_pack_work *w, mfs_pack_summary *s);

#endif
