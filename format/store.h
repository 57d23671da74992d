/*
 * F32 to the types in which views are written: F32, F16 and BF16, to the nearest,
 * ties to even; and Q8_0, in blocks equal to those of ggml's reference quantizer.
 * Every NaN is written as one value (half.h). A Q8_0 block with a NaN gets a NaN
 * as its scale, one with an infinity an infinite scale; their quants are 0.
 * Pure functions; safe from any thread.
 */
#ifndef MFS_STORE_H
#define MFS_STORE_H

#include <stddef.h>
#include <stdint.h>

#include "simd.h"

typedef struct {
	const char *name;
	uint32_t ggml_type;
	uint32_t block_bytes;
	uint32_t block_weights;
	/* blocks * block_weights floats at `in` to `blocks` blocks at `out`, neither
	 * of any alignment; by mfs_simd. */
	void (*run[2])(const float *in, size_t blocks, uint8_t *out);
} mfs_store;

/* How ggml's type is written, or NULL where no view has it. */
const mfs_store *mfs_store_ggml(uint32_t ggml_type);

static inline void mfs_store_floats(const mfs_store *type, mfs_simd simd, const float *in,
				    size_t blocks, uint8_t *out)
{
	type->run[simd](in, blocks, out);
}

#endif
