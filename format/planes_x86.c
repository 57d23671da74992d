#include "planes_x86.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "layout.h"
#include "mfs_endian.h"

#define TARGET __attribute__((target("avx2")))
#define INLINE static inline __attribute__((always_inline))

/* Words that are handled together: a vector of each plane. */
#define RUN 32

TARGET INLINE __m256i load32(const uint8_t *from)
{
	return _mm256_loadu_si256((const __m256i *)(const void *)from);
}

TARGET INLINE void store32(uint8_t *to, __m256i bytes)
{
	_mm256_storeu_si256((__m256i *)(void *)to, bytes);
}

/* Interleaving works on halves of vectors: the lower halves of two that follow each
 * other, then their upper halves. */
TARGET INLINE void store_halves(uint8_t *lower, uint8_t *upper, __m256i first, __m256i second)
{
	store32(lower, _mm256_permute2x128_si256(first, second, 0x20));
	store32(upper, _mm256_permute2x128_si256(first, second, 0x31));
}

TARGET INLINE __m256i restore2(__m256i words, unsigned transform)
{
	if (transform == MFS_TRANSFORM_ROTATE)
		return _mm256_or_si256(_mm256_srli_epi16(words, 1), _mm256_slli_epi16(words, 15));
	if (transform != MFS_TRANSFORM_FLOAT)
		return words;
	words = _mm256_or_si256(_mm256_srli_epi16(words, 3), _mm256_slli_epi16(words, 13));
	words = _mm256_xor_si256(words, _mm256_set1_epi16((short)0xf800));
	return _mm256_add_epi16(words, _mm256_set1_epi16(0x0800));
}

TARGET INLINE __m256i restore4(__m256i words, unsigned transform)
{
	if (transform == MFS_TRANSFORM_ROTATE)
		return _mm256_or_si256(_mm256_srli_epi32(words, 1), _mm256_slli_epi32(words, 31));
	if (transform != MFS_TRANSFORM_FLOAT)
		return words;
	words = _mm256_or_si256(_mm256_srli_epi32(words, 3), _mm256_slli_epi32(words, 29));
	words = _mm256_xor_si256(words, _mm256_set1_epi32((int)0xf8000000));
	return _mm256_add_epi32(words, _mm256_set1_epi32(0x08000000));
}

TARGET INLINE size_t join2(uint8_t *out, const uint8_t *const plane[], size_t words,
			   unsigned transform)
{
	size_t i = 0;

	for (; i + RUN <= words; i += RUN, out += (size_t)RUN * 2) {
		__m256i low = load32(plane[0] + i), high = load32(plane[1] + i);

		store_halves(out, out + 32, restore2(_mm256_unpacklo_epi8(low, high), transform),
			     restore2(_mm256_unpackhi_epi8(low, high), transform));
	}
	return i;
}

TARGET INLINE size_t join4(uint8_t *out, const uint8_t *const plane[], size_t words,
			   unsigned transform)
{
	size_t i = 0;

	for (; i + RUN <= words; i += RUN, out += (size_t)RUN * 4) {
		__m256i a = load32(plane[0] + i), b = load32(plane[1] + i);
		__m256i c = load32(plane[2] + i), d = load32(plane[3] + i);
		__m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpacklo_epi8(c, d);

		store_halves(out, out + 64, restore4(_mm256_unpacklo_epi16(low, high), transform),
			     restore4(_mm256_unpackhi_epi16(low, high), transform));
		low = _mm256_unpackhi_epi8(a, b);
		high = _mm256_unpackhi_epi8(c, d);
		store_halves(out + 32, out + 96,
			     restore4(_mm256_unpacklo_epi16(low, high), transform),
			     restore4(_mm256_unpackhi_epi16(low, high), transform));
	}
	return i;
}

TARGET size_t mfs_join_words_avx2(uint8_t *out, const uint8_t *const plane[], size_t words,
				  unsigned width, unsigned transform)
{
	if (width != 2 && width != 4)
		return 0;
	if (transform == MFS_TRANSFORM_FLOAT)
		return width == 2 ? join2(out, plane, words, MFS_TRANSFORM_FLOAT)
				  : join4(out, plane, words, MFS_TRANSFORM_FLOAT);
	if (transform == MFS_TRANSFORM_ROTATE)
		return width == 2 ? join2(out, plane, words, MFS_TRANSFORM_ROTATE)
				  : join4(out, plane, words, MFS_TRANSFORM_ROTATE);
	return width == 2 ? join2(out, plane, words, MFS_TRANSFORM_PLANES)
			  : join4(out, plane, words, MFS_TRANSFORM_PLANES);
}

/* Eight words to eight blocks. */
TARGET INLINE void store_words(uint8_t *out, size_t stride, __m128i words)
{
	store_le16(out, (uint16_t)_mm_extract_epi16(words, 0));
	store_le16(out + stride, (uint16_t)_mm_extract_epi16(words, 1));
	store_le16(out + 2 * stride, (uint16_t)_mm_extract_epi16(words, 2));
	store_le16(out + 3 * stride, (uint16_t)_mm_extract_epi16(words, 3));
	store_le16(out + 4 * stride, (uint16_t)_mm_extract_epi16(words, 4));
	store_le16(out + 5 * stride, (uint16_t)_mm_extract_epi16(words, 5));
	store_le16(out + 6 * stride, (uint16_t)_mm_extract_epi16(words, 6));
	store_le16(out + 7 * stride, (uint16_t)_mm_extract_epi16(words, 7));
}

TARGET uint32_t mfs_join_singles_avx2(uint8_t *out, const uint8_t *const plane[], uint32_t blocks,
				      size_t stride)
{
	uint32_t i = 0;

	for (; i + 16 <= blocks; i += 16, out += 16 * stride) {
		__m128i low = _mm_loadu_si128((const __m128i *)(const void *)(plane[0] + i));
		__m128i high = _mm_loadu_si128((const __m128i *)(const void *)(plane[1] + i));

		store_words(out, stride, _mm_unpacklo_epi8(low, high));
		store_words(out + 8 * stride, stride, _mm_unpackhi_epi8(low, high));
	}
	return i;
}

#endif
