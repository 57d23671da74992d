#include "context_x86.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "mfs_endian.h"

#define TARGET __attribute__((target("avx2")))
#define INLINE static inline __attribute__((always_inline))

/* Logarithms of sixteen numbers in a row, which all fit a byte. */
TARGET INLINE __m128i logs_load(const uint16_t *log)
{
	const __m128i *from = (const __m128i *)(const void *)log;

	return _mm_packus_epi16(_mm_loadu_si128(from), _mm_loadu_si128(from + 1));
}

/* Base + logarithm of the minimum - logarithm of the scale, from 0 to 255; 0 without
 * a minimum, else 255 without a scale. */
TARGET INLINE __m128i ratios_clamp(int16_t base, __m256i minimum, __m256i scale)
{
	__m256i sum = _mm256_add_epi16(_mm256_set1_epi16(base), _mm256_sub_epi16(minimum, scale));

	sum = _mm256_permute4x64_epi64(_mm256_packus_epi16(sum, sum), 0x08);
	return _mm256_castsi256_si128(sum);
}

TARGET INLINE __m128i ratios_decide(__m128i values, __m128i minimum, __m128i scale)
{
	const __m128i zero = _mm_setzero_si128();

	values = _mm_or_si128(values, _mm_cmpeq_epi8(scale, zero));
	return _mm_andnot_si128(_mm_cmpeq_epi8(minimum, zero), values);
}

TARGET void mfs_ratios_nibbles_avx2(const mfs_ratios *at, const uint16_t *log)
{
	const __m128i logs = logs_load(log), mask = _mm_set1_epi8(15);

	for (uint32_t b = 0; b < at->blocks; b++) {
		__m128i *out = (__m128i *)(void *)(at->out + (size_t)b * 16);
		__m128i packed =
		    _mm_loadu_si128((const __m128i *)(const void *)(at->packed + b * at->stride));
		__m128i scale = _mm_and_si128(packed, mask);
		__m128i minimum = _mm_and_si128(_mm_srli_epi16(packed, 4), mask);
		__m128i values =
		    ratios_clamp(at->base[b], _mm256_cvtepu8_epi16(_mm_shuffle_epi8(logs, minimum)),
				 _mm256_cvtepu8_epi16(_mm_shuffle_epi8(logs, scale)));

		if (at->base[b] == MFS_RATIO_NO_MINIMUM)
			minimum = _mm_setzero_si128();
		_mm_storeu_si128(out, ratios_decide(values, minimum, scale));
	}
}

/* The twelve bytes of a block: four of scales, four of minimums, four of both. */
TARGET INLINE __m128i six_load(const uint8_t *packed)
{
	__m128i first = _mm_loadl_epi64((const __m128i *)(const void *)packed);

	return _mm_insert_epi32(first, (int)load_le32(packed + 8), 2);
}

/* Of each of two blocks eight scales, then eight minimums: four in the lower six bits of a
 * byte, and four in a nibble below the upper bits of these. */
TARGET INLINE __m256i six_unpack(__m256i packed)
{
	const __m256i spread = _mm256_broadcastsi128_si256(
	    _mm_setr_epi8(0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7));
	const __m256i nibbles = _mm256_broadcastsi128_si256(
	    _mm_setr_epi8(-1, -1, -1, -1, 8, 9, 10, 11, -1, -1, -1, -1, 8, 9, 10, 11));
	const __m256i shift = _mm256_setr_epi32(0, 0, 0, 4, 0, 0, 0, 4);
	__m256i six = _mm256_shuffle_epi8(packed, spread);
	__m256i low = _mm256_srlv_epi32(_mm256_shuffle_epi8(packed, nibbles), shift);
	__m256i upper = _mm256_and_si256(_mm256_srli_epi16(six, 2), _mm256_set1_epi8(0x30));

	low = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi8(15)), upper);
	return _mm256_blend_epi32(_mm256_and_si256(six, _mm256_set1_epi8(63)), low, 0xaa);
}

/* Logarithms of numbers below 64. */
TARGET INLINE __m256i look_up_six(const __m256i logs[4], __m256i number)
{
	__m256i bit4 = _mm256_slli_epi16(number, 3), bit5 = _mm256_slli_epi16(number, 2);
	__m256i below = _mm256_blendv_epi8(_mm256_shuffle_epi8(logs[0], number),
					   _mm256_shuffle_epi8(logs[1], number), bit4);
	__m256i above = _mm256_blendv_epi8(_mm256_shuffle_epi8(logs[2], number),
					   _mm256_shuffle_epi8(logs[3], number), bit4);

	return _mm256_blendv_epi8(below, above, bit5);
}

/* The values of two blocks, each in the lower half of its lane. */
TARGET INLINE __m256i six_ratios(const __m256i logs[4], __m256i packed, __m256i base)
{
	const __m256i zero = _mm256_setzero_si256();
	__m256i numbers = six_unpack(packed), found = look_up_six(logs, numbers);
	__m256i none = _mm256_cmpeq_epi16(base, _mm256_set1_epi16(MFS_RATIO_NO_MINIMUM));
	__m256i is_zero = _mm256_cmpeq_epi8(numbers, zero), sum;

	sum =
	    _mm256_sub_epi16(_mm256_unpackhi_epi8(found, zero), _mm256_unpacklo_epi8(found, zero));
	sum = _mm256_add_epi16(base, sum);
	sum = _mm256_or_si256(_mm256_packus_epi16(sum, sum), is_zero);
	none = _mm256_or_si256(_mm256_packs_epi16(none, none), _mm256_srli_si256(is_zero, 8));
	return _mm256_andnot_si256(none, sum);
}

TARGET void mfs_ratios_six_avx2(const mfs_ratios *at, const uint16_t *log)
{
	__m256i logs[4];

	for (int k = 0; k < 4; k++)
		logs[k] = _mm256_broadcastsi128_si256(logs_load(log + 16 * k));
	for (uint32_t b = 0; b < at->blocks; b += 2) {
		/* The last block may have to be its own second one. */
		const uint32_t c = b + 1 < at->blocks ? b + 1 : b;
		__m256i packed = _mm256_set_m128i(six_load(at->packed + c * at->stride),
						  six_load(at->packed + b * at->stride));
		__m256i base =
		    _mm256_set_m128i(_mm_set1_epi16(at->base[c]), _mm_set1_epi16(at->base[b]));
		__m256i values = six_ratios(logs, packed, base);

		_mm_storel_epi64((__m128i *)(void *)(at->out + (size_t)b * 8),
				 _mm256_castsi256_si128(values));
		_mm_storel_epi64((__m128i *)(void *)(at->out + (size_t)c * 8),
				 _mm256_extracti128_si256(values, 1));
	}
}

/* ---- logarithms of scales ---- */

#define SCALES 16 /* of a block */

/* Logarithms of 32 numbers up to 128: `logs` are those below, sixteen each. */
TARGET INLINE __m256i look_up_seven(const __m256i logs[8], __m256i of_128, __m256i number)
{
	__m256i found =
	    _mm256_and_si256(_mm256_cmpeq_epi8(number, _mm256_set1_epi8((char)0x80)), of_128);

#pragma GCC unroll 8
	for (int k = 0; k < 8; k++) {
		/* What is not among these sixteen gets its upper bit set, and so a 0. */
		__m256i index = _mm256_xor_si256(number, _mm256_set1_epi8((char)(16 * k)));

		index = _mm256_adds_epu8(index, _mm256_set1_epi8(0x70));
		found = _mm256_or_si256(found, _mm256_shuffle_epi8(logs[k], index));
	}
	return found;
}

/* The scales of two blocks. */
TARGET INLINE __m256i scales_load(const uint8_t *first, const uint8_t *second)
{
	return _mm256_inserti128_si256(
	    _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)first)),
	    _mm_loadu_si128((const __m128i *)(const void *)second), 1);
}

TARGET uint64_t mfs_scale_logs_avx2(uint32_t blocks, size_t stride, const uint8_t *scales,
				    const uint8_t log[256], uint8_t *out)
{
	const __m256i of_128 = _mm256_set1_epi8((char)log[128]), zero = _mm256_setzero_si256();
	__m256i logs[8], sums = zero;
	uint64_t sum[4];

	for (int k = 0; k < 8; k++)
		logs[k] = scales_load(log + 16 * k, log + 16 * k);
	for (uint32_t b = 0; b + 2 <= blocks; b += 2, scales += 2 * stride, out += 2 * SCALES) {
		__m256i number = _mm256_abs_epi8(scales_load(scales, scales + stride));
		__m256i found = look_up_seven(logs, of_128, number);

		_mm256_storeu_si256((__m256i *)(void *)out, found);
		sums = _mm256_add_epi64(sums, _mm256_sad_epu8(found, zero));
	}
	_mm256_storeu_si256((__m256i *)(void *)sum, sums);
	for (unsigned g = 0; blocks % 2 && g < SCALES; g++)
		sum[0] += out[g] = log[scales[g]];
	return sum[0] + sum[1] + sum[2] + sum[3];
}

/* ---- logarithms of blocks' scales ---- */

#define EACH_OF_EIGHT(call) call(0) call(1) call(2) call(3) call(4) call(5) call(6) call(7)

/* A word of each of eight blocks. */
TARGET INLINE __m128i words_gather(const uint8_t *from, size_t stride)
{
	__m128i words = _mm_setzero_si128();

#define GATHER(k) words = _mm_insert_epi16(words, load_le16(from + (k)*stride), k);
	EACH_OF_EIGHT(GATHER)
#undef GATHER
	return words;
}

TARGET INLINE __m256i words_of_sixteen(const uint8_t *from, size_t stride)
{
	return _mm256_set_m128i(words_gather(from + 8 * stride, stride),
				words_gather(from, stride));
}

/* A byte of each of sixteen blocks. */
TARGET INLINE __m128i bytes_gather(const uint8_t *from, size_t stride)
{
	__m128i bytes = _mm_setzero_si128();

#define GATHER(k)                                                                                  \
	bytes = _mm_insert_epi8(bytes, from[(k)*stride], k);                                       \
	bytes = _mm_insert_epi8(bytes, from[((k) + 8) * stride], (k) + 8);
	EACH_OF_EIGHT(GATHER)
#undef GATHER
	return bytes;
}

/* Exponent and five bits of mantissa of numbers below 2^15, the exponent of 1 being 0. */
TARGET INLINE __m256i integers_to_floats(__m256i numbers)
{
	__m256i low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(numbers));
	__m256i high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(numbers, 1));

	low = _mm256_srli_epi32(_mm256_castps_si256(_mm256_cvtepi32_ps(low)), 23 - 5);
	high = _mm256_srli_epi32(_mm256_castps_si256(_mm256_cvtepi32_ps(high)), 23 - 5);
	low = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
	return _mm256_sub_epi16(low, _mm256_set1_epi16(127 << 5));
}

/* As log_half() of context.c: subnormal numbers are integers. */
TARGET INLINE __m256i half_logs(__m256i halves, __m256i lower, __m256i upper)
{
	const __m256i zero = _mm256_setzero_si256();
	__m256i magnitude = _mm256_and_si256(halves, _mm256_set1_epi16(0x7fff));
	__m256i normal = _mm256_cmpgt_epi16(magnitude, _mm256_set1_epi16(1023));
	__m256i number =
	    _mm256_add_epi16(_mm256_srli_epi16(magnitude, 5), _mm256_set1_epi16(9 << 5));
	__m256i index, found;

	number = _mm256_blendv_epi8(integers_to_floats(magnitude), number, normal);
	/* The upper byte of each word finds 0. */
	index = _mm256_or_si256(_mm256_and_si256(number, _mm256_set1_epi16(31)),
				_mm256_set1_epi16((short)0x8000));
	found = _mm256_blendv_epi8(_mm256_shuffle_epi8(lower, index),
				   _mm256_shuffle_epi8(upper, index), _mm256_slli_epi16(index, 3));
	found = _mm256_add_epi16(found, _mm256_andnot_si256(_mm256_set1_epi16(31), number));
	return _mm256_andnot_si256(_mm256_cmpeq_epi16(magnitude, zero), found);
}

TARGET INLINE uint64_t sum_of(__m256i sums)
{
	int32_t sum[8];
	uint64_t all = 0;

	_mm256_storeu_si256((__m256i *)(void *)sum, sums);
	for (int k = 0; k < 8; k++)
		all += (uint32_t)sum[k];
	return all;
}

TARGET uint32_t mfs_half_logs_avx2(uint32_t blocks, size_t stride, const uint8_t *half,
				   const uint8_t fraction[32], int16_t *out, uint64_t *sum)
{
	const __m256i lower = scales_load(fraction, fraction);
	const __m256i upper = scales_load(fraction + 16, fraction + 16);
	const __m256i ones = _mm256_set1_epi16(1);
	__m256i sums = _mm256_setzero_si256();
	uint32_t b = 0;

	for (; b + 16 <= blocks; b += 16, half += 16 * stride) {
		__m256i logs = half_logs(words_of_sixteen(half, stride), lower, upper);

		_mm256_storeu_si256((__m256i *)(void *)(out + b), logs);
		sums = _mm256_add_epi32(sums, _mm256_madd_epi16(logs, ones));
	}
	*sum += sum_of(sums);
	return b;
}

TARGET uint32_t mfs_exponent_logs_avx2(uint32_t blocks, size_t stride, const uint8_t *exponent,
				       int16_t *out, uint64_t *sum)
{
	const __m256i ones = _mm256_set1_epi16(1);
	__m256i sums = _mm256_setzero_si256();
	uint32_t b = 0;

	for (; b + 16 <= blocks; b += 16, exponent += 16 * stride) {
		__m256i logs = _mm256_cvtepu8_epi16(bytes_gather(exponent, stride));

		logs = _mm256_slli_epi16(logs, 5);
		_mm256_storeu_si256((__m256i *)(void *)(out + b), logs);
		sums = _mm256_add_epi32(sums, _mm256_madd_epi16(logs, ones));
	}
	*sum += sum_of(sums);
	return b;
}

#endif
