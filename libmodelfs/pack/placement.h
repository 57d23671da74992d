/*
 * Placement: where the fixed parts of a container lie, before any byte is coded.
 * A pure computation: sizes in, offsets out. The size of the root is a forecast; a root
 * that comes out smaller leaves room, a larger one goes elsewhere (index_writer.c).
 *
 * Copy 1 of the index goes first into the room that no chunk can use (behind
 * slot 1, up to the next page), then between the superblocks, then behind both;
 * what it leaves between the superblocks is the gap, for small chunks.
 */
#ifndef MFS_PLACEMENT_H
#define MFS_PLACEMENT_H

#include <stdint.h>

typedef struct {
	uint64_t slot1;	    /* superblock slot 1 */
	uint64_t root_room; /* bytes that the root may have in its place */
	uint64_t *piece;    /* offsets of copy 1: the root, then the segments */
	uint32_t pieces;
	uint64_t gap, gap_end; /* whole pages before slot 1 for chunks; equal: none */
	uint64_t fixed_end;    /* end of what is placed here: chunks start at the next page */
} mfs_placement;

/* Places `pieces` pieces of these sizes (each 8-byte aligned) around the
 * superblocks. 0 or MFS_E_MEMORY. */
int mfs_placement_make(mfs_placement *out, uint64_t slot1, uint32_t page_bytes,
		       const uint64_t piece_bytes[], uint32_t pieces);
/* The same behind `start`, where a new generation begins: a multiple of the page. */
int mfs_placement_behind(mfs_placement *out, uint64_t slot1, uint64_t start,
			 const uint64_t piece_bytes[], uint32_t pieces);
void mfs_placement_free(mfs_placement *placement);

#endif
