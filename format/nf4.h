/*
 * 4-bit codes that choose from a map, scaled by blocks: bitsandbytes' NF4 (and, by
 * its own map, FP4), as QLoRA trains with it. The scale of a block is a constant of
 * its own (F32), or quantized again ("double quantization"): a byte that chooses
 * from a nested map, times the F32 constant of its run of nested blocks, plus an
 * offset, each step rounded to F32.
 *
 * Codes lie two to a byte, the first weight in the upper half; blocks run over the
 * whole tensor, across its rows. Pure functions; safe from any thread.
 */
#ifndef MFS_NF4_H
#define MFS_NF4_H

#include <stddef.h>
#include <stdint.h>

#include "simd.h"

#define MFS_NF4_BLOCK	     64	 /* weights */
#define MFS_NF4_NESTED_BLOCK 256 /* blocks */

/* What a tensor says once: its maps, offset and block sizes. */
typedef struct {
	float map[16];
	float nested_map[256];
	float offset;
	uint32_t block;	       /* weights to a scale; even, at least 2 */
	uint32_t nested_block; /* scales to a nested constant; at least 1 */
} mfs_nf4;

/* NF4's map and bitsandbytes' dynamic map of 8 bits, blocks of 64, nested of 256,
 * offset 0. Which F32 numbers the dynamic map holds depends, in the last bits, on
 * the library that made it: a file with another brings it along. */
void mfs_nf4_init(mfs_nf4 *nf4);

/* ---- decoding ---- */

/* The scales of blocks `first` .. first + count - 1: `absmax` begins with the byte
 * of block `first`, `nested` with the constant of block 0 (little-endian F32s). */
void mfs_nf4_scales(const mfs_nf4 *nf4, const uint8_t *absmax, const uint8_t *nested,
		    uint64_t first, size_t count, float *scales);

/* Weights `first` .. first + count - 1, counted from the one where `codes` and
 * `scales` begin, which is the first of a block. */
void mfs_nf4_decode(const mfs_nf4 *nf4, mfs_simd simd, const uint8_t *codes, const float *scales,
		    uint64_t first, size_t count, float *out);

/* ---- quantizing ---- */

static inline size_t mfs_nf4_blocks(const mfs_nf4 *nf4, size_t weights)
{
	return weights / nf4->block + (weights % nf4->block != 0);
}

/* The largest magnitude of each block of `count` weights, the last maybe short.
 * 0, or MFS_E_INVALID where a weight is not a finite number. */
int mfs_nf4_absmax(const mfs_nf4 *nf4, const float *in, size_t count, float *absmax);

/* The nearest code of each weight divided by its block's absmax; halfway, the
 * lower one. A block of zeros gets the code of 0. (count + 1) / 2 bytes; a last
 * odd half holds the code of 0. */
void mfs_nf4_codes(const mfs_nf4 *nf4, const float *in, const float *absmax, size_t count,
		   uint8_t *codes);

/* Quantizes the scales of a whole tensor, whose mean nf4->offset is: a byte for each of
 * `blocks`, an F32 for each nested block. */
void mfs_nf4_nest(const mfs_nf4 *nf4, const float *absmax, size_t blocks, uint8_t *absmax8,
		  float *nested);

#endif
