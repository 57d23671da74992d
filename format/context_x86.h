/* Ratios of minimum and scale, and logarithms of scales (context.h), with AVX2. Only context.c
 * includes this. */
#ifndef MFS_CONTEXT_X86_H
#define MFS_CONTEXT_X86_H

#include <stddef.h>
#include <stdint.h>

/* What a block's base is if all its groups' values are 0, or 255 but where the group
 * has no minimum. */
#define MFS_RATIO_NO_MINIMUM INT16_MIN
#define MFS_RATIO_NO_SCALE   16384

/* Blocks, `stride` bytes apart, whose groups are packed from `packed` on. To the base
 * of each block the logarithm of each group's minimum is added, and that of its scale
 * is taken away; the sums, from 0 to 255, stand at `out`. */
typedef struct {
	uint32_t blocks;
	size_t stride;
	const uint8_t *packed;
	const int16_t *base;
	uint8_t *out;
} mfs_ratios;

#if defined(__x86_64__)
/* Eight groups of six bits each (MFS_CONTEXT_RATIO); sixteen of four bits each
 * (MFS_CONTEXT_RATIO_NIBBLES). `log`: of numbers up to 63, up to 15. */
void mfs_ratios_six_avx2(const mfs_ratios *at, const uint16_t *log);
void mfs_ratios_nibbles_avx2(const mfs_ratios *at, const uint16_t *log);
/* The logarithms of sixteen scales, a byte each, of every block to `out`; returns their
 * sum. `log`: by the scale's byte, the same for a scale and its negative. */
uint64_t mfs_scale_logs_avx2(uint32_t blocks, size_t stride, const uint8_t *scales,
			     const uint8_t log[256], uint8_t *out);
/* The logarithms of a half, of a byte that is an exponent, of each block: as many blocks as
 * vectors take, whose number is returned. Their sum is added to *sum. `fraction`: of
 * 1 + (i + 1/2) / 32. */
uint32_t mfs_half_logs_avx2(uint32_t blocks, size_t stride, const uint8_t *half,
			    const uint8_t fraction[32], int16_t *out, uint64_t *sum);
uint32_t mfs_exponent_logs_avx2(uint32_t blocks, size_t stride, const uint8_t *exponent,
				int16_t *out, uint64_t *sum);
#endif
#endif
