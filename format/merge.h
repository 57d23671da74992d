/*
 * Merged views: weights of a base plus what low-rank adapters add to them, by
 * MERGE-1. For weight (i, j) of a tensor with rows i and columns j:
 *
 *   f = w                                 the base's weight, exactly
 *   for each adapter, in order:
 *     t = 0;  for k = 0 .. rank - 1:  t = t + A[k][j] * B[i][k]
 *     f = t * scale + f
 *     f = f * gain[i]                     only where the adapter has gains (DoRA)
 *   out = f, rounded once to the type of the view
 *
 * Where a tensor has a matrix for each expert, i counts the rows of all, and A is that
 * of the expert which row i belongs to.
 *
 * Each operation is rounded to F32, none is fused or reordered, so the bytes are
 * the same on every processor; a NaN is written as one value (store.h).
 *
 * Pure functions; all memory is the caller's; safe from any thread.
 */
#ifndef MFS_MERGE_H
#define MFS_MERGE_H

#include <stddef.h>
#include <stdint.h>

#include "dequant.h"
#include "nf4.h"
#include "store.h"

/* Columns of A that lie together. */
#define MFS_MERGE_PANEL 16

typedef struct {
	const float *panels; /* A, by mfs_merge_pack() */
	uint64_t slice_step; /* floats from the panels of a slice to those of the next; 0: all
			      * slices have the same */
	/* B[i][k] is b[(i - first_row) * row_step + k * rank_step]. */
	const float *b;
	uint64_t row_step, rank_step;
	const float *gain; /* of row i: gain[i - first_row]; or NULL */
	uint32_t rank;
	float scale;
} mfs_merge_adapter;

/* The weights of a base: blocks of a ggml type, or codes and scales as NF4 has
 * them. Both begin with the first weight that is asked for, except that codes and
 * scales begin with its block, `skip` weights before. */
typedef struct {
	const mfs_dequant *type; /* NULL: nf4 */
	const uint8_t *blocks;
	const mfs_nf4 *nf4;
	const uint8_t *codes;
	const float *scales;
	uint64_t skip;
} mfs_merge_base;

typedef struct {
	uint64_t columns;   /* of a row, at least 1 */
	uint64_t first_row; /* where b and gain of every adapter begin */
	/* Rows of a slice: an expert with an A of its own. 0: there are none. */
	uint64_t slice_rows;
	const mfs_store *type;
	const mfs_merge_adapter *adapter;
	uint32_t adapters; /* 0: the view is the base in another type */
	mfs_simd simd;
} mfs_merge;

/* Floats that mfs_merge_pack() writes; UINT64_MAX if that cannot be counted. */
uint64_t mfs_merge_panel_floats(uint32_t rank, uint64_t columns);

/* A (of one slice) as panels of 16 columns, the last filled up with zeros: A[k][j] is
 * a[k * rank_step + j * column_step], which serves transposed matrices too. */
void mfs_merge_pack(const float *a, uint64_t rank_step, uint64_t column_step, uint32_t rank,
		    uint64_t columns, float *panels);

/* Weights `first` .. first + count - 1 of the tensor, in file order, to `out`.
 * 0, or MFS_E_ARGUMENT where they are not whole blocks of base and view. `out`
 * must not overlap what is read. */
int mfs_merge_span(const mfs_merge *merge, const mfs_merge_base *base, uint64_t first, size_t count,
		   uint8_t *out);

/* The gain of a row for DoRA: its magnitude by the Euclidean norm of the row, which
 * is merged to F32 without gain. Squares are added in double, in order. A row of
 * zeros has gain 0. MFS_E_INVALID where the gain is not a finite number. */
int mfs_merge_gain(const float *row, uint64_t columns, float magnitude, float *gain);

#endif
