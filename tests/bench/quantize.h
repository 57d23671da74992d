/* Weights for benchmarks, and quantizers that give ggml's block types the joint
 * statistics that real ones have: scales found by least squares, as ggml does. */
#ifndef QUANTIZE_H
#define QUANTIZE_H

#include <stddef.h>
#include <stdint.h>

enum weights_kind { WEIGHTS_GAUSSIAN, WEIGHTS_HEAVY };

/* A matrix whose rows have scales of their own and 0.3 % of whose columns are
 * outliers; with `bf16`, every value is a bfloat16. Heavy: Student's t, 5 degrees. */
void weights_make(float *out, size_t rows, size_t columns, enum weights_kind kind, int bf16,
		  uint64_t seed);

uint16_t bench_half(float value); /* to fp16, nearest */
float bench_from_half(uint16_t half);
uint16_t bench_bf16(float value); /* nearest */

/* Blocks of ggml's type; `count` values, a multiple of the block. 0 if the type
 * is not known here. */
int bench_quantize(unsigned ggml_type, const float *in, size_t count, uint8_t *out);

#endif
