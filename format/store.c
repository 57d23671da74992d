#include "store.h"

#include "dequant.h"
#include "half.h"
#include "mfs_endian.h"

#define NAN_BITS      0x7fc00000u
#define INFINITY_BITS 0x7f800000u
#define Q8_0_BYTES    34

/* ---- floats ---- */

static void f32_portable(const float *in, size_t blocks, uint8_t *out)
{
	for (size_t i = 0; i < blocks; i++) {
		uint32_t bits = mfs_float_bits(in[i]);

		store_le32(out + 4 * i, (bits & 0x7fffffff) > INFINITY_BITS ? NAN_BITS : bits);
	}
}

static void f16_portable(const float *in, size_t blocks, uint8_t *out)
{
	for (size_t i = 0; i < blocks; i++)
		store_le16(out + 2 * i, mfs_half_from_float(in[i]));
}

static void bf16_portable(const float *in, size_t blocks, uint8_t *out)
{
	for (size_t i = 0; i < blocks; i++)
		store_le16(out + 2 * i, mfs_bf16_from_float(in[i]));
}

#if MFS_HAVE_AVX2
/* Eight floats, their NaNs made one. */
MFS_AVX2 MFS_INLINE __m256 load_eight(const float *in)
{
	const __m256 value = _mm256_loadu_ps(in);
	const __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32((int)NAN_BITS));

	return _mm256_blendv_ps(value, nan, _mm256_cmp_ps(value, value, _CMP_UNORD_Q));
}

MFS_AVX2 static void f32_avx2(const float *in, size_t blocks, uint8_t *out)
{
	size_t i = 0;

	for (; i + 8 <= blocks; i += 8)
		_mm256_storeu_si256((void *)(out + 4 * i), _mm256_castps_si256(load_eight(in + i)));
	if (i < blocks)
		f32_portable(in + i, blocks - i, out + 4 * i);
}

MFS_AVX2 static void f16_avx2(const float *in, size_t blocks, uint8_t *out)
{
	size_t i = 0;

	for (; i + 8 <= blocks; i += 8)
		_mm_storeu_si128((void *)(out + 2 * i),
				 _mm256_cvtps_ph(load_eight(in + i), _MM_FROUND_TO_NEAREST_INT));
	if (i < blocks)
		f16_portable(in + i, blocks - i, out + 2 * i);
}

/* Half an ulp of bfloat16 less its last bit, plus that bit: ties go to even. */
MFS_AVX2 MFS_INLINE __m256i bf16_of_eight(const float *in)
{
	const __m256i bits = _mm256_castps_si256(load_eight(in));
	const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
	const __m256i sum =
	    _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);

	return _mm256_srli_epi32(sum, 16);
}

MFS_AVX2 static void bf16_avx2(const float *in, size_t blocks, uint8_t *out)
{
	size_t i = 0;

	for (; i + 16 <= blocks; i += 16) {
		__m256i both =
		    _mm256_packus_epi32(bf16_of_eight(in + i), bf16_of_eight(in + i + 8));

		_mm256_storeu_si256((void *)(out + 2 * i), _mm256_permute4x64_epi64(both, 0xd8));
	}
	if (i < blocks)
		bf16_portable(in + i, blocks - i, out + 2 * i);
}
#endif

/* ---- Q8_0 ---- */

/* Bits of the largest magnitude; above INFINITY_BITS where there is a NaN, since
 * magnitudes are ordered as their bits are. */
MFS_INLINE uint32_t largest_bits(const float *in)
{
	int32_t most = 0;

	for (int i = 0; i < 32; i++) {
		int32_t bits = (int32_t)(mfs_float_bits(in[i]) & 0x7fffffff);

		most = bits > most ? bits : most;
	}
	return (uint32_t)most;
}

/* What quants are multiples of, and what to multiply weights with; false where
 * all quants are 0: no weight is another number, or the inverse is infinite. */
MFS_INLINE int q8_0_scale(uint32_t largest, uint8_t *out, float *inverse)
{
	const float scale = mfs_float_of(largest) / 127;

	store_le16(out, mfs_half_from_float(scale));
	*inverse = 1 / scale;
	return largest < INFINITY_BITS && mfs_float_bits(*inverse) < INFINITY_BITS;
}

/* Just below one half, with the sign of x: added to x and cut off, it rounds to the
 * nearest, ties away from zero. */
#define BELOW_HALF 0x3effffffu

MFS_INLINE int32_t round_away(float x)
{
	return (int32_t)(x + mfs_float_of(BELOW_HALF | (mfs_float_bits(x) & 0x80000000)));
}

static void q8_0_portable(const float *in, size_t blocks, uint8_t *out)
{
	for (size_t b = 0; b < blocks; b++, in += 32, out += Q8_0_BYTES) {
		float inverse;

		if (!q8_0_scale(largest_bits(in), out, &inverse)) {
			memset(out + 2, 0, 32);
			continue;
		}
		for (int i = 0; i < 32; i++)
			out[2 + i] = (uint8_t)round_away(in[i] * inverse);
	}
}

#if MFS_HAVE_AVX2
MFS_AVX2 MFS_INLINE uint32_t largest_bits_avx2(const __m256 x[4])
{
	const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
	__m256i most = _mm256_and_si256(_mm256_castps_si256(x[0]), magnitude);
	__m128i m;

	for (int i = 1; i < 4; i++)
		most =
		    _mm256_max_epi32(most, _mm256_and_si256(_mm256_castps_si256(x[i]), magnitude));
	m = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
	m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
	m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
	return (uint32_t)_mm_cvtsi128_si32(m);
}

MFS_AVX2 MFS_INLINE __m256i round_eight(__m256 x, __m256 inverse)
{
	const __m256 sign = _mm256_castsi256_ps(_mm256_set1_epi32((int)0x80000000));
	const __m256 half = _mm256_castsi256_ps(_mm256_set1_epi32((int)BELOW_HALF));
	const __m256 scaled = _mm256_mul_ps(x, inverse);

	return _mm256_cvttps_epi32(
	    _mm256_add_ps(scaled, _mm256_or_ps(half, _mm256_and_ps(scaled, sign))));
}

MFS_AVX2 static void q8_0_avx2(const float *in, size_t blocks, uint8_t *out)
{
	/* Packing works in halves of 16 bytes; this puts the fours in order. */
	const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);

	for (size_t b = 0; b < blocks; b++, in += 32, out += Q8_0_BYTES) {
		__m256 x[4];
		__m256i q[4], packed;
		float inverse;

		for (int i = 0; i < 4; i++)
			x[i] = _mm256_loadu_ps(in + 8 * i);
		if (!q8_0_scale(largest_bits_avx2(x), out, &inverse)) {
			memset(out + 2, 0, 32);
			continue;
		}
		for (int i = 0; i < 4; i++)
			q[i] = round_eight(x[i], _mm256_set1_ps(inverse));
		packed = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]),
					    _mm256_packs_epi32(q[2], q[3]));
		_mm256_storeu_si256((void *)(out + 2), _mm256_permutevar8x32_epi32(packed, order));
	}
}
#endif

/* ---- the table ---- */

#if MFS_HAVE_AVX2
#define RUNS(type)                                                                                 \
	{                                                                                          \
		type##_portable, type##_avx2                                                       \
	}
#else
#define RUNS(type)                                                                                 \
	{                                                                                          \
		type##_portable, type##_portable                                                   \
	}
#endif

static const mfs_store types[] = {
    {"F32", MFS_GGML_F32, 4, 1, RUNS(f32)},
    {"F16", MFS_GGML_F16, 2, 1, RUNS(f16)},
    {"BF16", MFS_GGML_BF16, 2, 1, RUNS(bf16)},
    {"Q8_0", MFS_GGML_Q8_0, Q8_0_BYTES, 32, RUNS(q8_0)},
};

const mfs_store *mfs_store_ggml(uint32_t ggml_type)
{
	for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++)
		if (types[i].ggml_type == ggml_type)
			return &types[i];
	return NULL;
}
