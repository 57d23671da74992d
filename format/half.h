/*
 * 16-bit floats, one at a time: exactly to F32, and from F32 to the nearest,
 * ties to even. Processors make different NaNs where there was none (0 * inf), so
 * all that are written are one: quiet, positive, no payload. Without branches, so
 * that loops over them become vectors.
 */
#ifndef MFS_HALF_H
#define MFS_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t mfs_float_bits(float value)
{
	uint32_t bits;

	memcpy(&bits, &value, 4);
	return bits;
}

static inline float mfs_float_of(uint32_t bits)
{
	float value;

	memcpy(&value, &bits, 4);
	return value;
}

#if defined(__aarch64__)
/* One instruction each way, of the same results. */
static inline float mfs_half_to_float(uint16_t half)
{
	__fp16 number;

	memcpy(&number, &half, 2);
	return (float)number;
}

static inline uint16_t mfs_half_from_float(float value)
{
	const __fp16 number = (__fp16)value;
	uint16_t half;

	memcpy(&half, &number, 2);
	return (half & 0x7fff) > 0x7c00 ? 0x7e00 : half;
}
#else
/* Exact. */
static inline float mfs_half_to_float(uint16_t half)
{
	const uint32_t magnitude = half & 0x7fff;
	/* 2^-24 is the least subnormal number, so their integer counts it. */
	const uint32_t subnormal = mfs_float_bits((float)(int32_t)magnitude * 0x1p-24f);
	const uint32_t quiet = magnitude > 0x7c00 ? 0x400000 : 0;
	uint32_t bits = (magnitude << 13) + (112u << 23);

	bits = magnitude < 0x400 ? subnormal : bits;
	bits = magnitude >= 0x7c00 ? 0x7f800000 | magnitude << 13 | quiet : bits;
	return mfs_float_of(bits | (uint32_t)(half & 0x8000) << 16);
}

static inline uint16_t mfs_half_from_float(float value)
{
	const uint32_t all = mfs_float_bits(value), magnitude = all & 0x7fffffff;
	const uint32_t rebased = magnitude - (112u << 23);
	/* Below 2^-14 one unit of a half is 2^-24, as it is in a float from 0.5 on. */
	const uint32_t subnormal = mfs_float_bits(mfs_float_of(magnitude) + 0.5f) - 0x3f000000;
	uint32_t half = (rebased + 0xfff + (rebased >> 13 & 1)) >> 13;

	half = magnitude < 0x38800000 ? subnormal : half;
	half = magnitude >= 0x47800000 ? 0x7c00 : half;
	half |= all >> 16 & 0x8000;
	return (uint16_t)(magnitude > 0x7f800000 ? 0x7e00 : half);
}
#endif

/* Exact. */
static inline float mfs_bf16_to_float(uint16_t bf16)
{
	return mfs_float_of((uint32_t)bf16 << 16);
}

static inline uint16_t mfs_bf16_from_float(float value)
{
	const uint32_t bits = mfs_float_bits(value);
	const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;

	return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

#endif
