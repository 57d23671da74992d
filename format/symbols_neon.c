#include "symbols_kernels.h"

#if defined(__aarch64__)

#include <arm_neon.h>
#include <string.h>

#include "mfs_endian.h"

#define INLINE static inline __attribute__((always_inline))

/* 32 weights, a byte each. */
typedef struct {
	uint8x16_t first, second;
} weights;

/* Shifted by a number that the loops, unrolled, know. */
INLINE uint8x16_t up(uint8x16_t bytes, int by)
{
	return vshlq_u8(bytes, vdupq_n_s8((int8_t)by));
}

INLINE uint8x16_t lowest(uint8x16_t bytes, unsigned mask)
{
	return vandq_u8(bytes, vdupq_n_u8((uint8_t)mask));
}

/* Four bits each of two times 16 symbols. */
INLINE uint8x16_t two_nibbles(uint8x16_t first, uint8x16_t second)
{
	return vsliq_n_u8(first, second, 4);
}

/* A group of 32 in 16 bytes. */
INLINE weights nibbles(const uint8_t *from)
{
	uint8x16_t bytes = vld1q_u8(from);

	return (weights){lowest(bytes, 15), vshrq_n_u8(bytes, 4)};
}

/* ---- Q4_K and Q5_K: groups of 32 weights, two to 32 bytes of the field ---- */

void mfs_join_q4_k(mfs_joining at)
{
	for (uint32_t b = 0; b < at.blocks; b++) {
		const uint8_t *upper = at.upper + (size_t)b * 128;
		uint8_t *low = at.low + b * at.stride;

		for (size_t pair = 0; pair < 4; pair++) {
			weights first = nibbles(upper + pair * 32);
			weights second = nibbles(upper + pair * 32 + 16);

			vst1q_u8(low + pair * 32, two_nibbles(first.first, second.first));
			vst1q_u8(low + pair * 32 + 16, two_nibbles(first.second, second.second));
		}
	}
}

/* Symbols of group g from their upper bits, and their highest bits added to *high. */
INLINE uint8x16_t add_bit(uint8x16_t symbols, uint8x16_t rest, int g, uint8x16_t *high)
{
	*high = vorrq_u8(*high, up(vshrq_n_u8(symbols, 3), g));
	return vorrq_u8(vaddq_u8(symbols, symbols), lowest(up(rest, -g), 1));
}

INLINE weights group_q5_k(const uint8_t *upper, const weights *rest, int g, weights *high)
{
	weights group = nibbles(upper + (size_t)g * 16);

	group.first = add_bit(group.first, rest->first, g, &high->first);
	group.second = add_bit(group.second, rest->second, g, &high->second);
	return group;
}

void mfs_join_q5_k(mfs_joining at)
{
	for (uint32_t b = 0; b < at.blocks; b++) {
		const uint8_t *upper = at.upper + (size_t)b * 128;
		const uint8_t *from = at.rest + (size_t)b * 32;
		uint8_t *low = at.low + b * at.stride, *high_out = at.high + b * at.stride;
		weights rest = {vld1q_u8(from), vld1q_u8(from + 16)};
		weights high = {vdupq_n_u8(0), vdupq_n_u8(0)};

#pragma GCC unroll 4
		for (int pair = 0; pair < 4; pair++, low += 32) {
			weights first = group_q5_k(upper, &rest, 2 * pair, &high);
			weights second = group_q5_k(upper, &rest, 2 * pair + 1, &high);

			vst1q_u8(low, two_nibbles(first.first, second.first));
			vst1q_u8(low + 16, two_nibbles(first.second, second.second));
		}
		vst1q_u8(high_out, high.first);
		vst1q_u8(high_out + 16, high.second);
	}
}

/* ---- Q5_0: 32 weights, 16 bytes of upper bits, a bit each of the rest ---- */

static const uint8_t each_bit[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};

/* Sixteen bits as sixteen bytes, each 0 or `value`. */
INLINE uint8x16_t bits_to_bytes(uint16_t bits, uint8_t value)
{
	uint8x16_t bytes = vcombine_u8(vdup_n_u8((uint8_t)bits), vdup_n_u8((uint8_t)(bits >> 8)));

	return vandq_u8(vtstq_u8(bytes, vld1q_u8(each_bit)), vdupq_n_u8(value));
}

/* Which bytes have one of the bits. */
INLINE uint16_t bytes_to_bits(uint8x16_t bytes, uint8_t bits)
{
	uint8x16_t which = vandq_u8(vtstq_u8(bytes, vdupq_n_u8(bits)), vld1q_u8(each_bit));

	return (uint16_t)(vaddv_u8(vget_low_u8(which)) | vaddv_u8(vget_high_u8(which)) << 8);
}

void mfs_join_q5_0(mfs_joining at)
{
	for (uint32_t b = 0; b < at.blocks; b++) {
		uint8x16_t upper = vld1q_u8(at.upper + (size_t)b * 16);
		uint32_t rest = load_le32(at.rest + (size_t)b * 4);
		uint8x16_t low = vshlq_n_u8(lowest(upper, 0x77), 1);

		low = vorrq_u8(low, bits_to_bytes((uint16_t)rest, 0x01));
		low = vorrq_u8(low, bits_to_bytes((uint16_t)(rest >> 16), 0x10));
		vst1q_u8(at.low + b * at.stride, low);
		store_le16(at.high + b * at.stride, bytes_to_bits(upper, 0x08));
		store_le16(at.high + b * at.stride + 2, bytes_to_bits(upper, 0x80));
	}
}

/* ---- Q6_K: halves of 128 weights, in four times two groups of 16 ---- */

INLINE uint8x16_t add_two_bits(uint8x16_t symbols, uint8x16_t rest, int q, uint8x16_t *high)
{
	*high = vorrq_u8(*high, up(vshrq_n_u8(symbols, 2), 2 * q));
	return vorrq_u8(vshlq_n_u8(symbols, 2), lowest(up(rest, -2 * q), 3));
}

/* Symbols of weights 32 q to 32 q + 31 of a half. Eight bytes are a group: first
 * their lower nibbles, then the others. */
INLINE weights quarter_q6_k(const uint8_t *upper, const weights *rest, int q, weights *high)
{
	weights bytes = nibbles(upper + (size_t)q * 16);
	uint8x16_t first = vcombine_u8(vget_low_u8(bytes.first), vget_low_u8(bytes.second));
	uint8x16_t second = vcombine_u8(vget_high_u8(bytes.first), vget_high_u8(bytes.second));

	return (weights){add_two_bits(first, rest->first, q, &high->first),
			 add_two_bits(second, rest->second, q, &high->second)};
}

void mfs_join_q6_k(mfs_joining at)
{
	for (uint32_t half = 0; half < 2 * at.blocks; half++) {
		const uint8_t *upper = at.upper + (size_t)half * 64;
		const uint8_t *from = at.rest + (size_t)half * 32;
		uint8_t *low = at.low + half / 2 * at.stride + (size_t)(half % 2) * 64;
		uint8_t *high_out = at.high + half / 2 * at.stride + (size_t)(half % 2) * 32;
		weights rest = {vld1q_u8(from), vld1q_u8(from + 16)};
		weights high = {vdupq_n_u8(0), vdupq_n_u8(0)}, quarter[4];

#pragma GCC unroll 4
		for (int q = 0; q < 4; q++)
			quarter[q] = quarter_q6_k(upper, &rest, q, &high);
#pragma GCC unroll 2
		for (int q = 0; q < 2; q++, low += 32) {
			vst1q_u8(low, two_nibbles(quarter[q].first, quarter[q + 2].first));
			vst1q_u8(low + 16, two_nibbles(quarter[q].second, quarter[q + 2].second));
		}
		vst1q_u8(high_out, high.first);
		vst1q_u8(high_out + 16, high.second);
	}
}

/* ---- Q3_K: groups of 32 weights in eight bytes, four groups to 32 bytes of the
 * field ---- */

/* Adds the lower two bits of group g's symbols to *low, the upper one to *high. */
INLINE void put_q3_k(uint8x16_t pair, uint8x16_t rest, int g, uint8x16_t *low, uint8x16_t *high)
{
	uint8x16_t two = lowest(pair, 1);

	two = vorrq_u8(vaddq_u8(two, two), lowest(up(rest, -g), 1));
	*low = vorrq_u8(*low, up(two, 2 * (g % 4)));
	*high = vorrq_u8(*high, up(vshrq_n_u8(pair, 1), g));
}

void mfs_join_q3_k(mfs_joining at)
{
	for (uint32_t b = 0; b < at.blocks; b++) {
		const uint8_t *upper = at.upper + (size_t)b * 64, *from = at.rest + (size_t)b * 32;
		uint8_t *low_out = at.low + b * at.stride, *high_out = at.high + b * at.stride;
		weights rest = {vld1q_u8(from), vld1q_u8(from + 16)};
		weights high = {vdupq_n_u8(0), vdupq_n_u8(0)}, low[2] = {high, high};

#pragma GCC unroll 8
		for (int g = 0; g < 8; g++) {
			uint8x8_t bytes = vld1_u8(upper + (size_t)g * 8);
			uint8x16_t lower = vcombine_u8(bytes, vshr_n_u8(bytes, 2));

			put_q3_k(lowest(lower, 3), rest.first, g, &low[g / 4].first, &high.first);
			put_q3_k(lowest(vshrq_n_u8(lower, 4), 3), rest.second, g,
				 &low[g / 4].second, &high.second);
		}
		for (int half = 0; half < 2; half++) {
			vst1q_u8(low_out + (size_t)half * 32, low[half].first);
			vst1q_u8(low_out + (size_t)half * 32 + 16, low[half].second);
		}
		vst1q_u8(high_out, high.first);
		vst1q_u8(high_out + 16, high.second);
	}
}

/* ---- Q2_K: groups of 16 weights in four bytes, eight groups to 32 bytes of the
 * field ---- */

INLINE uint8x16_t group_q2_k(const uint8_t *from)
{
	static const int8_t down[16] = {0, 0, 0, 0, -2, -2, -2, -2, -4, -4, -4, -4, -6, -6, -6, -6};
	uint32_t word;
	uint8x16_t bytes;

	memcpy(&word, from, 4);
	bytes = vreinterpretq_u8_u32(vdupq_n_u32(word));

	return lowest(vshlq_u8(bytes, vld1q_s8(down)), 3);
}

void mfs_join_q2_k(mfs_joining at)
{
	for (uint32_t half = 0; half < 2 * at.blocks; half++) {
		const uint8_t *upper = at.upper + (size_t)half * 32;
		uint8_t *low_out = at.low + half / 2 * at.stride + (size_t)(half % 2) * 32;
		weights low = {vdupq_n_u8(0), vdupq_n_u8(0)};

#pragma GCC unroll 4
		for (int k = 0; k < 4; k++) {
			const uint8_t *groups = upper + (size_t)k * 8;

			low.first = vorrq_u8(low.first, up(group_q2_k(groups), 2 * k));
			low.second = vorrq_u8(low.second, up(group_q2_k(groups + 4), 2 * k));
		}
		vst1q_u8(low_out, low.first);
		vst1q_u8(low_out + 16, low.second);
	}
}

#endif
