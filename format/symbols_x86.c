#include "symbols_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "mfs_endian.h"

#define TARGET __attribute__((target("avx2")))

TARGET static inline __m128i load16(const uint8_t *from)
{
	return _mm_loadu_si128((const __m128i *)(const void *)from);
}

TARGET static inline __m256i load32(const uint8_t *from)
{
	return _mm256_loadu_si256((const __m256i *)(const void *)from);
}

TARGET static inline void store32(uint8_t *to, __m256i bytes)
{
	_mm256_storeu_si256((__m256i *)(void *)to, bytes);
}

/* ---- Q5_0: 32 weights, 16 bytes of upper bits, a bit each of the rest ---- */

/* Sixteen bits as sixteen bytes, each 0 or `value`. */
TARGET static inline __m128i bits_to_bytes(__m128i words, char value, char byte)
{
	const __m128i bit = _mm_set1_epi64x((long long)UINT64_C(0x8040201008040201));
	__m128i which = _mm_set_epi64x((long long)(UINT64_C(0x0101010101010101) * (byte + 1u)),
				       (long long)(UINT64_C(0x0101010101010101) * (unsigned)byte));
	__m128i spread = _mm_and_si128(_mm_shuffle_epi8(words, which), bit);

	return _mm_and_si128(_mm_cmpeq_epi8(spread, bit), _mm_set1_epi8(value));
}

TARGET void mfs_join_q5_0(mfs_joining at)
{
	for (uint32_t b = 0; b < at.blocks; b++) {
		__m128i upper = load16(at.upper + (size_t)b * 16);
		__m128i rest = _mm_cvtsi32_si128((int)load_le32(at.rest + (size_t)b * 4));
		__m128i low = _mm_and_si128(upper, _mm_set1_epi8(0x77));
		uint32_t high = (uint32_t)_mm_movemask_epi8(_mm_slli_epi16(upper, 4)) |
				(uint32_t)_mm_movemask_epi8(upper) << 16;

		low = _mm_add_epi8(low, low);
		low = _mm_or_si128(low, bits_to_bytes(rest, 0x01, 0));
		low = _mm_or_si128(low, bits_to_bytes(rest, 0x10, 2));
		_mm_storeu_si128((__m128i *)(void *)(at.low + b * at.stride), low);
		store_le32(at.high + b * at.stride, high);
	}
}

/* ---- Q5_K: groups of 32 weights, two to 32 bytes of the field ---- */

/* The nibbles of 16 bytes, the lower ones first. */
TARGET static inline __m256i nibbles(const uint8_t *from)
{
	__m128i bytes = load16(from);
	__m256i both = _mm256_set_m128i(_mm_srli_epi16(bytes, 4), bytes);

	return _mm256_and_si256(both, _mm256_set1_epi8(15));
}

/* Symbols of group g, and their highest bits added to *high. */
TARGET static inline __m256i group_q5_k(const uint8_t *upper, __m256i rest, int g, __m256i *high)
{
	__m256i symbols = nibbles(upper + (size_t)g * 16);
	__m256i bit = _mm256_and_si256(_mm256_srli_epi16(rest, g), _mm256_set1_epi8(1));
	__m256i top = _mm256_and_si256(_mm256_srli_epi16(symbols, 3), _mm256_set1_epi8(1));

	*high = _mm256_or_si256(*high, _mm256_slli_epi16(top, g));
	return _mm256_or_si256(_mm256_add_epi8(symbols, symbols), bit);
}

/* Four bits each of two times 32 symbols. */
TARGET static inline __m256i two_nibbles(__m256i first, __m256i second)
{
	const __m256i mask = _mm256_set1_epi8(15);

	return _mm256_or_si256(_mm256_and_si256(first, mask),
			       _mm256_slli_epi16(_mm256_and_si256(second, mask), 4));
}

TARGET void mfs_join_q5_k(mfs_joining at)
{
	for (uint32_t b = 0; b < at.blocks; b++) {
		const uint8_t *upper = at.upper + (size_t)b * 128;
		__m256i rest = load32(at.rest + (size_t)b * 32), high = _mm256_setzero_si256();

#pragma GCC unroll 4
		for (int pair = 0; pair < 4; pair++) {
			__m256i first = group_q5_k(upper, rest, 2 * pair, &high);
			__m256i second = group_q5_k(upper, rest, 2 * pair + 1, &high);

			store32(at.low + b * at.stride + (size_t)pair * 32,
				two_nibbles(first, second));
		}
		store32(at.high + b * at.stride, high);
	}
}

TARGET void mfs_join_q4_k(mfs_joining at)
{
	for (uint32_t b = 0; b < at.blocks; b++) {
		const uint8_t *upper = at.upper + (size_t)b * 128;
		uint8_t *low = at.low + b * at.stride;

#pragma GCC unroll 4
		for (size_t pair = 0; pair < 4; pair++)
			store32(low + pair * 32, two_nibbles(nibbles(upper + pair * 32),
							     nibbles(upper + pair * 32 + 16)));
	}
}

/* ---- Q3_K: groups of 32 weights in eight bytes, four groups to 32 bytes of the
 * field ---- */

/* The upper two bits of a group's symbols. */
TARGET static inline __m256i group_q3_k(const uint8_t *upper)
{
	const __m256i shift = _mm256_set_epi64x(6, 4, 2, 0);
	__m256i bytes = _mm256_set1_epi64x((long long)load_le64(upper));

	return _mm256_and_si256(_mm256_srlv_epi64(bytes, shift), _mm256_set1_epi8(3));
}

TARGET void mfs_join_q3_k(mfs_joining at)
{
	const __m256i one = _mm256_set1_epi8(1);

	for (uint32_t b = 0; b < at.blocks; b++) {
		const uint8_t *upper = at.upper + (size_t)b * 64;
		__m256i rest = load32(at.rest + (size_t)b * 32), high = _mm256_setzero_si256();
		__m256i low[2] = {high, high};

#pragma GCC unroll 8
		for (int g = 0; g < 8; g++) {
			__m256i pair = group_q3_k(upper + (size_t)g * 8);
			__m256i bit = _mm256_and_si256(_mm256_srli_epi16(rest, g), one);
			__m256i top = _mm256_and_si256(_mm256_srli_epi16(pair, 1), one);
			__m256i two = _mm256_and_si256(pair, one);

			two = _mm256_or_si256(_mm256_add_epi8(two, two), bit);
			low[g / 4] =
			    _mm256_or_si256(low[g / 4], _mm256_slli_epi16(two, 2 * (g % 4)));
			high = _mm256_or_si256(high, _mm256_slli_epi16(top, g));
		}
		store32(at.low + b * at.stride, low[0]);
		store32(at.low + b * at.stride + 32, low[1]);
		store32(at.high + b * at.stride, high);
	}
}

/* ---- Q2_K: groups of 16 weights in four bytes, eight groups to 32 bytes of the
 * field ---- */

TARGET void mfs_join_q2_k(mfs_joining at)
{
	const __m256i shift = _mm256_set_epi32(6, 4, 2, 0, 6, 4, 2, 0);

	for (uint32_t half = 0; half < 2 * at.blocks; half++) {
		__m256i groups = load32(at.upper + (size_t)half * 32);
		__m256i low = _mm256_setzero_si256();

#pragma GCC unroll 4
		for (int k = 0; k < 4; k++) {
			const int a = 2 * k, b = 2 * k + 1;
			__m256i two = _mm256_permutevar8x32_epi32(
			    groups, _mm256_set_epi32(b, b, b, b, a, a, a, a));

			two = _mm256_and_si256(_mm256_srlv_epi32(two, shift), _mm256_set1_epi8(3));
			low = _mm256_or_si256(low, _mm256_slli_epi16(two, 2 * k));
		}
		store32(at.low + half / 2 * at.stride + (size_t)(half % 2) * 32, low);
	}
}

/* ---- Q6_K: halves of 128 weights, in four times two groups of 16 ---- */

/* Symbols of weights 32 q to 32 q + 31 of a half, their two highest bits added to
 * *high. */
TARGET static inline __m256i quarter_q6_k(const uint8_t *upper, __m256i rest, int q, __m256i *high)
{
	/* Eight bytes are a group: first their lower nibbles, then the others. */
	__m256i symbols = _mm256_permute4x64_epi64(nibbles(upper + (size_t)q * 16), 0xd8);
	__m256i bits = _mm256_and_si256(_mm256_srli_epi16(rest, 2 * q), _mm256_set1_epi8(3));
	__m256i top = _mm256_and_si256(_mm256_srli_epi16(symbols, 2), _mm256_set1_epi8(3));

	*high = _mm256_or_si256(*high, _mm256_slli_epi16(top, 2 * q));
	return _mm256_or_si256(_mm256_slli_epi16(symbols, 2), bits);
}

TARGET void mfs_join_q6_k(mfs_joining at)
{
	for (uint32_t b = 0; b < 2 * at.blocks; b++) {
		const uint8_t *upper = at.upper + (size_t)b * 64;
		__m256i rest = load32(at.rest + (size_t)b * 32), high = _mm256_setzero_si256();
		uint8_t *low_out = at.low + b / 2 * at.stride + (size_t)(b % 2) * 64;
		__m256i symbols[4];

#pragma GCC unroll 4
		for (int q = 0; q < 4; q++)
			symbols[q] = quarter_q6_k(upper, rest, q, &high);
		store32(low_out, two_nibbles(symbols[0], symbols[2]));
		store32(low_out + 32, two_nibbles(symbols[1], symbols[3]));
		store32(at.high + b / 2 * at.stride + (size_t)(b % 2) * 32, high);
	}
}

/* ---- the way back ---- */

TARGET static inline __m256i low_nibbles(__m256i bytes)
{
	return _mm256_and_si256(bytes, _mm256_set1_epi8(15));
}

TARGET static inline __m256i high_nibbles(__m256i bytes)
{
	return low_nibbles(_mm256_srli_epi16(bytes, 4));
}

/* Of two groups of 32 weights each the first and the second half in one byte. */
TARGET static inline __m256i pack_halves(__m256i first, __m256i second)
{
	return two_nibbles(_mm256_permute2x128_si256(first, second, 0x20),
			   _mm256_permute2x128_si256(first, second, 0x31));
}

TARGET void mfs_split_q4_k(mfs_splitting at)
{
	for (uint32_t b = 0; b < at.blocks; b++) {
		const uint8_t *low = at.low + b * at.stride;
		uint8_t *upper = at.upper + (size_t)b * 128;

#pragma GCC unroll 4
		for (size_t pair = 0; pair < 4; pair++) {
			__m256i bytes = load32(low + pair * 32);

			store32(upper + pair * 32,
				pack_halves(low_nibbles(bytes), high_nibbles(bytes)));
		}
	}
}

/* Bits `shift` to `shift` + `count` - 1 of each byte. */
TARGET static inline __m256i some_bits(__m256i bytes, int shift, int count)
{
	return _mm256_and_si256(_mm256_srli_epi16(bytes, shift),
				_mm256_set1_epi8((char)((1 << count) - 1)));
}

/* The upper four bits of symbols whose low four bits are `low`; the others are added to
 * *rest. `count` bits of `high`, from bit `shift` on, extend each. */
TARGET static inline __m256i upper_of(__m256i low, __m256i high, int shift, int count,
				      __m256i *rest)
{
	__m256i top = some_bits(high, shift, count), others = some_bits(low, 0, count);

	*rest = _mm256_or_si256(*rest, _mm256_slli_epi16(others, shift));
	return _mm256_or_si256(some_bits(low, count, 4 - count), _mm256_slli_epi16(top, 4 - count));
}

TARGET void mfs_split_q5_k(mfs_splitting at)
{
	for (uint32_t b = 0; b < at.blocks; b++) {
		const uint8_t *low = at.low + b * at.stride;
		__m256i high = load32(at.high + b * at.stride), rest = _mm256_setzero_si256();

#pragma GCC unroll 4
		for (int pair = 0; pair < 4; pair++) {
			__m256i bytes = load32(low + (size_t)pair * 32);
			__m256i first = upper_of(low_nibbles(bytes), high, 2 * pair, 1, &rest);
			__m256i second =
			    upper_of(high_nibbles(bytes), high, 2 * pair + 1, 1, &rest);

			store32(at.upper + (size_t)b * 128 + (size_t)pair * 32,
				pack_halves(first, second));
		}
		store32(at.rest + (size_t)b * 32, rest);
	}
}

/* Groups of 16 weights in eight bytes each, from two times two such groups. */
TARGET static inline __m256i pack_quarters(__m256i first, __m256i second)
{
	__m256i lower = _mm256_unpacklo_epi64(first, second);
	__m256i upper = _mm256_unpackhi_epi64(first, second);

	return _mm256_permute4x64_epi64(two_nibbles(lower, upper), 0xd8);
}

TARGET void mfs_split_q6_k(mfs_splitting at)
{
	for (uint32_t b = 0; b < 2 * at.blocks; b++) {
		const uint8_t *low = at.low + b / 2 * at.stride + (size_t)(b % 2) * 64;
		__m256i high = load32(at.high + b / 2 * at.stride + (size_t)(b % 2) * 32);
		__m256i bytes[2] = {load32(low), load32(low + 32)};
		__m256i rest = _mm256_setzero_si256(), quarter[4];

#pragma GCC unroll 2
		for (int k = 0; k < 2; k++) {
			quarter[k] = upper_of(low_nibbles(bytes[k]), high, 2 * k, 2, &rest);
			quarter[k + 2] =
			    upper_of(high_nibbles(bytes[k]), high, 2 * k + 4, 2, &rest);
		}
		store32(at.upper + (size_t)b * 64, pack_quarters(quarter[0], quarter[1]));
		store32(at.upper + (size_t)b * 64 + 32, pack_quarters(quarter[2], quarter[3]));
		store32(at.rest + (size_t)b * 32, rest);
	}
}

#endif
