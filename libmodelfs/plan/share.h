/*
 * Sharing: tensors with the same bytes are stored once (share.c), and of tensors that
 * have many bytes in common the spans that are equal (share_spans.c): two records of
 * the frame table name one place then.
 *
 * Equal spans have equal frames only where they are cut alike and coded with the same
 * tables. So a tensor that shares spans takes both, and its class, from the one it
 * shares them with, its leader. What gains from it are models whose vocabulary was
 * extended and files that were continued; fine-tunes and types of one model hardly have
 * an equal span beyond equal tensors (tests/bench/shared_spans counts them).
 *
 * Used by one thread.
 */
#ifndef MFS_SHARE_H
#define MFS_SHARE_H

#include <stdatomic.h>

#include "plan.h"

/* Sets `twin` of every new tensor of a built plan that repeats a stored or an
 * earlier one. Only
 * tensors cut alike are compared, and only those that look the same in a few
 * places are read whole. Sets `leader` and `owners` of new tensors that have spans in
 * common with one of another file, found in the same way. */
int mfs_plan_share(mfs_plan *plan, const atomic_int *cancel, mfs_problem *why);

/* Cuts twins as the tensors that have their frames, once these will not change. */
void mfs_plan_cut_twins(mfs_plan *plan);

/* Once codings are chosen: gives tensors the class of their leaders, loads the tables of
 * leaders that are stored already, and lists the aliases. */
int mfs_plan_settle_shared(mfs_plan *plan, mfs_problem *why);

/* ---- what both parts need ---- */

typedef struct {
	mfs_plan *plan;
	const atomic_int *cancel;
	mfs_problem *why;
	uint8_t *buffer[2]; /* of MFS_SHARE_STEP bytes */
} mfs_sharing;

#define MFS_SHARE_STEP (256u << 10)

/* Reads `length` bytes of the tensor from `offset` on. */
int mfs_sharing_read(mfs_sharing *s, const mfs_plan_tensor *t, uint64_t offset, void *out,
		     size_t length);
/* Whether `bytes` bytes of `a` and `b`, from these offsets on, are equal. */
int mfs_sharing_compare(mfs_sharing *s, const mfs_plan_tensor *a, uint64_t at_a,
			const mfs_plan_tensor *b, uint64_t at_b, uint64_t bytes, bool *equal);
/* Whether the bytes of the tensor are known and stored as they are. */
bool mfs_sharing_allowed(const mfs_plan *plan, uint32_t number);
/* Whether a tensor is stored plain is decided later. */
unsigned mfs_sharing_class(const mfs_root_tensor *r);
int mfs_sharing_spans(mfs_sharing *s);

#endif
