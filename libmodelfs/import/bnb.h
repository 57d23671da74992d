/*
 * bitsandbytes' 4-bit weights in safetensors. A matrix "X" is several tensors: the
 * codes, called X; X.absmax and, with double quantization, X.nested_absmax and
 * X.nested_quant_map; X.quant_map; and X.quant_state.bitsandbytes__nf4, a JSON text
 * with the shape and the type that the matrix had. A model in several files may have
 * them in different ones: it is cut where a file is full.
 */
#ifndef MFS_BNB_H
#define MFS_BNB_H

#include "import.h"

/* A file of the model; `import` is NULL where it is missing. */
typedef struct {
	const mfs_import *import;
	mfs_source *source;
} mfs_bnb_file;

/* A tensor of one of these files. */
typedef struct {
	uint32_t file;	 /* its number */
	uint32_t tensor; /* of its import; UINT32_MAX: none */
} mfs_bnb_part;

/* A matrix. */
typedef struct {
	uint32_t codes; /* tensor of the import */
	mfs_bnb_part absmax;
	mfs_bnb_part nested, nested_map; /* none: no double quantization */
	float offset;			 /* of the scales; 0 without double quantization */
	/* The matrix as it was before, but for what is in the source: row_bytes,
	 * slice_bytes and offset are 0. */
	mfs_import_tensor was;
} mfs_bnb_matrix;

/* What a file has of matrices: codes, or tensors beside the codes of any file. */
typedef struct mfs_bnb mfs_bnb;

/* Finds the matrices of a safetensors model in `count` files; out[i] is what file i
 * has, NULL where it has nothing of them. What is not NF4 as bitsandbytes defines it
 * is refused, so that nothing is decoded wrongly: MFS_E_UNSUPPORTED, MFS_E_INVALID,
 * MFS_E_MEMORY or what reading gives, with `why`; all of `out` are NULL then. The
 * imports must outlive them. */
int mfs_bnb_open(mfs_bnb **out, const mfs_bnb_file *files, uint32_t count, mfs_problem *why);
void mfs_bnb_free(mfs_bnb *bnb); /* NULL is fine */

/* The matrix whose codes are this tensor, or NULL. `bnb` may be NULL. */
const mfs_bnb_matrix *mfs_bnb_find(const mfs_bnb *bnb, uint32_t tensor);
/* Whether the tensor is one of those beside the codes of a matrix. */
bool mfs_bnb_is_helper(const mfs_bnb *bnb, uint32_t tensor);

#endif
