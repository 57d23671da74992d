/*
 * Blocks of ggml's tensor types to F32, as ggml's reference code defines them:
 * the same operations in the same order, each rounded to F32, none fused. What
 * takes more than a block's own bytes is missing: IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS,
 * IQ2_S, IQ3_XXS and IQ3_S choose from grids that are lists, not formulas. So are
 * types that hold no weights (integers, Q8_1) or more than F32 holds (F64).
 * Pure functions; safe from any thread.
 */
#ifndef MFS_DEQUANT_H
#define MFS_DEQUANT_H

#include <stddef.h>
#include <stdint.h>

#include "layout.h"
#include "simd.h"

/* Numbers of ggml's types that other functions name. */
enum mfs_ggml_type {
	MFS_GGML_F32 = 0,
	MFS_GGML_F16 = 1,
	MFS_GGML_Q4_0 = 2,
	MFS_GGML_Q8_0 = 8,
	MFS_GGML_Q4_K = 12,
	MFS_GGML_Q6_K = 14,
	MFS_GGML_BF16 = 30
};

typedef struct {
	const char *name;
	uint32_t ggml_type;
	uint32_t block_bytes;
	uint32_t block_weights;
	/* `blocks` blocks at `in` to blocks * block_weights floats at `out`, neither
	 * of any alignment; by mfs_simd. Any bytes are valid blocks. */
	void (*run[2])(const uint8_t *in, size_t blocks, float *out);
} mfs_dequant;

/* How ggml's type is dequantized, or NULL if it cannot be. */
const mfs_dequant *mfs_dequant_ggml(uint32_t ggml_type);

/* How what has this layout is dequantized, told from its name and shape, or NULL:
 * containers know types by these alone. */
const mfs_dequant *mfs_dequant_of(const mfs_layout *layout);

/* All of them, for tests: row 0 .. count - 1. */
uint32_t mfs_dequant_count(void);
const mfs_dequant *mfs_dequant_row(uint32_t row);

static inline void mfs_dequantize(const mfs_dequant *type, mfs_simd simd, const uint8_t *in,
				  size_t blocks, float *out)
{
	type->run[simd](in, blocks, out);
}

#endif
