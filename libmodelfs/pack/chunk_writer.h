/*
 * Frames -> chunks -> places. Takes finished spans in storage order, holds the
 * frames of one group, and writes each group as chunks: constants first, then
 * weights, plain, adapter and metadata, every chunk of one class and on a page.
 * Fills in the frame table, the chunk table, and where tables lie.
 *
 * Used by one thread.
 */
#ifndef MFS_CHUNK_WRITER_H
#define MFS_CHUNK_WRITER_H

#include "coder.h"
#include "output.h"
#include "placement.h"
#include "plan.h"

/* What a class of the group waits to be stored: frames, and tables before the
 * first frame of their tensor. */
typedef struct {
	uint64_t number; /* of the frame */
	mfs_plan_tensor *tensor;
	uint64_t hash;
	const uint8_t *bytes; /* that are stored */
	uint32_t stored, decoded;
	uint32_t by_coding[MFS_CODINGS];
	uint8_t slot;
	bool is_tables;
} mfs_chunk_item;

typedef struct {
	mfs_chunk_item *items;
	uint32_t count, room, done;
} mfs_chunk_list;

typedef struct {
	mfs_plan *plan;
	mfs_output *output; /* NULL: a dry run */

	/* Results. */
	uint8_t *frames;      /* the frame table as it is stored, from first_frame on */
	uint8_t *chunks;      /* the chunk table as it is stored, from first_chunk on */
	uint64_t first_frame; /* those before are carried over in full segments */
	uint64_t first_chunk;
	uint64_t chunk_count; /* of the whole table */
	mfs_root_tables *tables;
	uint64_t end;			    /* of the last chunk, without its padding */
	uint64_t frame_bytes, tables_bytes; /* written */

	/* The group. */
	mfs_group group;
	mfs_chunk_list list[MFS_DISK_CLASSES];
	uint8_t *arena; /* small frames, and tables */
	size_t arena_used;
	/* Frames of large spans stay where the coders put them, who get another room. */
	uint8_t *room_memory;
	uint8_t **rooms; /* the first rooms_used have frames of the group */
	uint32_t room_count, rooms_used;
	size_t room_bytes;

	uint8_t *chunk; /* a chunk being put together */
	uint64_t gap, gap_end;
	uint64_t next; /* a page: where the next chunk goes */
} mfs_chunk_writer;

/* Starts a writer for a numbered plan. 0, MFS_E_MEMORY, or where the tables of what
 * is carried over cannot be read the reader's errors. */
int mfs_chunk_writer_open(mfs_chunk_writer *out, mfs_plan *plan, const mfs_placement *placement,
			  mfs_output *output);
void mfs_chunk_writer_close(mfs_chunk_writer *writer);

/* Takes a coded span, perhaps with the room that its frames are in; writes the group
 * before it if that is full. Rooms are the writer's or the coders', whoever made them:
 * they go together. */
int mfs_chunk_writer_add(mfs_chunk_writer *writer, mfs_coder_job *job, mfs_problem *why);
/* Writes what is left. */
int mfs_chunk_writer_finish(mfs_chunk_writer *writer, mfs_problem *why);

#endif
