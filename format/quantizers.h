/*
 * Weights to blocks of ggml's types, on the way into a container. Q8_0 and Q4_0
 * are equal to ggml's reference quantizers (without fused operations); Q4_K and
 * Q6_K search by themselves for the least squared error. Bytes are the same on
 * every processor. Pure functions; safe from any thread.
 */
#ifndef MFS_QUANTIZERS_H
#define MFS_QUANTIZERS_H

#include <stddef.h>
#include <stdint.h>

#include "simd.h"

typedef struct {
	const char *name;
	uint32_t ggml_type;
	uint32_t block_bytes;
	uint32_t block_weights;
	void (*run[2])(const float *in, size_t blocks, uint8_t *out); /* by mfs_simd */
} mfs_quantizer;

/* The quantizer to ggml's type, or NULL where there is none. */
const mfs_quantizer *mfs_quantizer_ggml(uint32_t ggml_type);

/* blocks * block_weights floats to `blocks` blocks. 0, or MFS_E_INVALID where a
 * weight is not a finite number; `out` is unchanged then. */
int mfs_quantize(const mfs_quantizer *type, mfs_simd simd, const float *in, size_t blocks,
		 uint8_t *out);

/* ---- what it cost ---- */

typedef struct {
	double squares; /* of the errors */
	double energy;	/* squares of the weights */
	double most;	/* the largest error's magnitude */
	uint64_t count;
} mfs_quantize_error;

/* Adds the errors of `count` weights; starts from all zeros. */
void mfs_quantize_error_add(mfs_quantize_error *error, const float *weights, const float *now,
			    size_t count);

/* Root of the mean squared error; 0 of nothing. */
double mfs_quantize_error_rmse(const mfs_quantize_error *error);

#endif
