/*
 * What a new generation carries over from the container that it is appended to:
 * its files, tensors, extents and terms become part of the plan, with numbers that
 * may change; frames, chunks and tables keep their numbers and places, and full
 * segments of their tables are referred to where they lie.
 *
 * Used by one thread, but its sources are read by several.
 */
#ifndef MFS_CARRIED_H
#define MFS_CARRIED_H

#include "plan.h"

struct mfs_carried {
	mfs_container *container; /* the generation that is appended to */
	uint64_t frames, chunks;
	uint32_t tables;
	uint64_t *dims; /* all of the root, decoded */
	/* By number in the container; set while the plan is built. */
	uint32_t *tensor_number; /* in the plan; MFS_NO_TENSOR: of a removed file */
	uint32_t *file_number;
	bool *removed; /* by number of the file in the container (remove.h) */
};

/* Opens the container at `path`, to be read by `threads` decoders. Refuses one
 * with features that a new generation would lose. */
int mfs_carried_open(mfs_carried **out, const char *path, unsigned threads, mfs_problem *why);
void mfs_carried_close(mfs_carried *carried); /* NULL is fine; plans refer to it */

/* Adds all files of the container to an empty plan, and takes over how it was laid
 * out; frame_bytes stays if it is set. */
int mfs_carried_add_files(mfs_carried *carried, mfs_plan *plan, mfs_problem *why);

/* True for a file that is removed: its name is free. */
bool mfs_carried_goes(const mfs_plan *plan, const mfs_plan_file *file);

/* Puts codes and constants into the import of a carried GGUF file, if it is NF4
 * (carried_nf4.c). 0 or MFS_E_MEMORY. */
int mfs_carried_import_nf4(mfs_plan_file *file, mfs_problem *why);

/* ---- for mfs_plan_build() and mfs_plan_number() ---- */

/* Adds tensors and extents of a carried file; these still refer to each other by
 * their numbers in the container. */
int mfs_carried_build_file(mfs_plan *plan, uint32_t file, mfs_problem *why);
/* Once all files are built: numbers of the plan everywhere, and the terms. */
int mfs_carried_finish(mfs_plan *plan, mfs_problem *why);
/* New frames, chunks and tables follow those that are carried over. */
void mfs_carried_number(mfs_plan *plan);

/* ---- the frame and chunk tables ---- */

/* Of the segments of one kind in the container, those that a generation with
 * `records` records can refer to: all where nothing was added, else the full ones. */
uint32_t mfs_carried_segments(const mfs_plan *plan, unsigned kind, uint64_t records);
/* The record of one of them. `i` counts those of its kind. */
void mfs_carried_segment(const mfs_plan *plan, unsigned kind, uint32_t i, mfs_root_segment *out);
void mfs_carried_get_tables(const mfs_carried *carried, uint32_t i, mfs_root_tables *out);
/* May fail as a read may. */
int mfs_carried_get_chunk(const mfs_carried *carried, uint64_t i, mfs_chunk *out);
/* Reads stored bytes: 0, MFS_E_IO, or MFS_E_TRUNCATED. */
int mfs_carried_read(const mfs_carried *carried, uint64_t offset, void *out, size_t length);
/* Where frame i of a slot lies that `frames` tells of; `t` says how it is cut. */
int mfs_carried_frame_place(const mfs_carried *carried, const mfs_plan_tensor *t,
			    const mfs_root_frames *frames, unsigned slot, const mfs_span *span,
			    mfs_frame_place *out);
/* Gives the tensor the tables that a slot of it names. May fail as a read may. */
int mfs_carried_load_tables(const mfs_carried *carried, mfs_plan_tensor *t, unsigned slot);
/* Copies the records of the last segment of a kind, if it is not full: new ones go
 * behind them into the same segment. */
int mfs_carried_copy_tail(const mfs_plan *plan, unsigned kind, uint8_t *out);

#endif
