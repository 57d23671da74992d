/*
 * How much memory the operands of a term take, while what is derived with them is read:
 * low-rank matrices as floats, constants of NF4 codes.
 */
#ifndef MFS_OPERAND_SIZE_H
#define MFS_OPERAND_SIZE_H

#include <stdbool.h>
#include <stdint.h>

#include "../../format/root.h"

/* What those of one tensor may take by default: this, or this part of what the machine
 * has, where that is more. */
#define MFS_OPERAND_MEMORY (UINT64_C(16) << 20)
#define MFS_OPERAND_SHARE  64

/* One operand: a tensor, or all zeros where the term has none. */
typedef struct {
	uint64_t weights, bytes;
} mfs_operand_tensor;

/* The shape of what the matrices of a term make: `rows` are those of all experts. */
typedef struct {
	uint64_t rows, columns, experts;
} mfs_operand_shape;

/* Bytes that they take, and that they take besides while they are loaded. */
typedef struct {
	uint64_t kept, loading;
} mfs_operand_size;

/* Of a term of kind LORA whose derived tensor has `weights`, with A of `a` weights and B of
 * `b`, as root_check.c has found, or the planner made sure, that they fit. */
mfs_operand_shape mfs_operand_shape_of(const mfs_root_term *term, uint64_t weights, uint64_t a,
				       uint64_t b);

/* Whether the operand stays as it is stored: constants that were quantized in their turn,
 * and what scales them. Their scales would take four times the memory. */
bool mfs_operand_stays(const mfs_root_term *term, unsigned operand);

mfs_operand_size mfs_operand_size_of(const mfs_root_term *term, uint64_t weights,
				     const mfs_operand_tensor operand[MFS_TERM_OPERANDS]);

#endif
