/* The index as it is stored: root, segments, superblocks, and their copies. */
#ifndef MFS_INDEX_WRITER_H
#define MFS_INDEX_WRITER_H

#include "../../format/superblock.h"
#include "chunk_writer.h"
#include "output.h"
#include "placement.h"
#include "plan.h"

/* Places copy 1 of the index of a numbered plan: every size is known but the
 * number of chunks, which gets the plan's bound. What is appended goes behind the
 * generation before. */
int mfs_index_place(mfs_placement *out, const mfs_plan *plan, mfs_problem *why);

typedef struct {
	mfs_superblock superblock; /* all but own_offset */
	uint64_t slot[2];	   /* of the superblock, in the order in which they are written */
	uint64_t index_bytes;	   /* written: both copies */
} mfs_index;

/* Builds the index of what `chunks` wrote and writes both copies (output NULL: a
 * dry run). Hashes of files and tensors are in the plan by now. */
int mfs_index_write(mfs_index *out, const mfs_plan *plan, const mfs_placement *placement,
		    const mfs_chunk_writer *chunks, mfs_output *output, mfs_problem *why);

/* Makes the container, or the new generation, valid: syncs what was written, then
 * writes the tail and one slot, syncs, writes the other slot, and syncs. At every
 * moment one slot at least is whole, and what it stands for is on the medium. */
int mfs_index_seal(const mfs_index *index, mfs_output *output, mfs_problem *why);

#endif
