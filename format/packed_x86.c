#include "packed_x86.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define TARGET __attribute__((target("avx2")))
#define INLINE static inline __attribute__((always_inline))

/* What of a part stays the same for the whole run. */
struct bits {
	const uint8_t *in;
	__m256i mask;
	__m128i from, shift;
};

TARGET INLINE __m256i get32(const struct bits *at, size_t i)
{
	__m256i bytes = _mm256_loadu_si256((const __m256i *)(const void *)(at->in + i));

	/* Shifted in words: what crosses a byte is masked. */
	bytes = _mm256_and_si256(_mm256_srl_epi16(bytes, at->from), at->mask);
	return _mm256_sll_epi16(bytes, at->shift);
}

/* Compiled for each of the common numbers of parts. */
TARGET INLINE size_t get_run(const struct mfs_packed_run *run, unsigned count, uint8_t *out,
			     size_t n)
{
	const __m256i value = _mm256_set1_epi8((char)run->value);
	struct bits part[8];
	size_t i = 0;

	for (unsigned k = 0; k < count; k++) {
		const struct mfs_packed_bits *at = &run->part[k];

		part[k].in = at->in;
		part[k].mask = _mm256_set1_epi8((char)((1u << at->bits) - 1));
		part[k].from = _mm_cvtsi32_si128((int)at->from);
		part[k].shift = _mm_cvtsi32_si128((int)at->shift);
	}
	for (; i + 32 <= n; i += 32) {
		__m256i bytes = value;

#pragma GCC unroll 8
		for (unsigned k = 0; k < count; k++)
			bytes = _mm256_or_si256(bytes, get32(&part[k], i));
		_mm256_storeu_si256((__m256i *)(void *)(out + i), bytes);
	}
	return i;
}

TARGET size_t mfs_packed_run_avx2(const struct mfs_packed_run *run, uint8_t *out, size_t n)
{
	switch (run->count) {
	case 1:
		return get_run(run, 1, out, n);
	case 2:
		return get_run(run, 2, out, n);
	case 3:
		return get_run(run, 3, out, n);
	default:
		return get_run(run, run->count, out, n);
	}
}

#endif
