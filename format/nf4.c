#include "nf4.h"

#include "half.h"
#include "mfs_endian.h"
#include "modelfs_error.h"

/* ---- maps ---- */

/* Quantiles of a normal distribution, scaled to [-1, 1], one of them 0 (QLoRA,
 * Dettmers and others 2023, appendix E). */
static const float normal_map[16] = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

/*
 * Seven decades of both signs: the one below 10^-e is cut into 2^(6-e) equal parts
 * between a tenth of it and itself, and each part gives its middle. Then 0 and 1,
 * which have no opposite. Bounds are rounded to F32 before they are averaged, and
 * the average scaled to its decade is rounded once.
 */
static void dynamic_map(float map[256])
{
	static const double decade[7] = {1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1};
	unsigned at = 128;

	map[127] = 0;
	for (unsigned e = 0; e < 7; e++) {
		const unsigned parts = 1u << e;

		for (unsigned i = 0; i < parts; i++, at++) {
			const float low = (float)(0.1 + 0.9 / parts * i);
			const float high = (float)(0.1 + 0.9 / parts * (i + 1));

			map[at] = (float)(decade[e] * ((double)low + (double)high) / 2);
			map[254 - at] = -map[at];
		}
	}
	map[255] = 1;
}

void mfs_nf4_init(mfs_nf4 *nf4)
{
	memcpy(nf4->map, normal_map, sizeof(nf4->map));
	dynamic_map(nf4->nested_map);
	nf4->offset = 0;
	nf4->block = MFS_NF4_BLOCK;
	nf4->nested_block = MFS_NF4_NESTED_BLOCK;
}

/* ---- decoding ---- */

void mfs_nf4_scales(const mfs_nf4 *nf4, const uint8_t *absmax, const uint8_t *nested,
		    uint64_t first, size_t count, float *scales)
{
	for (size_t i = 0; i < count; i++) {
		const float constant =
		    mfs_float_of(load_le32(nested + 4 * ((first + i) / nf4->nested_block)));

		scales[i] = nf4->nested_map[absmax[i]] * constant + nf4->offset;
	}
}

MFS_INLINE unsigned code_of(const uint8_t *codes, uint64_t weight)
{
	return codes[weight / 2] >> 4 * (~weight & 1) & 15;
}

/* Weights `first` .. first + count - 1 of codes; `scaled` is the map times the scale
 * of their block. */
MFS_INLINE void decode_part(const float scaled[16], const uint8_t *codes, uint64_t first,
			    size_t count, float *out)
{
	size_t i = 0;

	if (first % 2 && count)
		out[i++] = scaled[code_of(codes, first)];
	for (; i + 2 <= count; i += 2) {
		const uint8_t both = codes[(first + i) / 2];

		out[i] = scaled[both >> 4];
		out[i + 1] = scaled[both & 15];
	}
	if (i < count)
		out[i] = scaled[code_of(codes, first + i)];
}

static void decode_part_portable(const float map[16], float scale, const uint8_t *codes,
				 uint64_t first, size_t count, float *out)
{
	float scaled[16];

	for (int i = 0; i < 16; i++)
		scaled[i] = map[i] * scale;
	decode_part(scaled, codes, first, count, out);
}

#if MFS_HAVE_AVX2
/* Eight codes at a time; what lies before and behind them is the other's. */
MFS_AVX2 static void decode_part_avx2(const float map[16], float scale, const uint8_t *codes,
				      uint64_t first, size_t count, float *out)
{
	const __m256i shift = _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24);
	const __m256 low = _mm256_mul_ps(_mm256_loadu_ps(map), _mm256_set1_ps(scale));
	const __m256 high = _mm256_mul_ps(_mm256_loadu_ps(map + 8), _mm256_set1_ps(scale));
	const size_t head = first % 2 && count ? 1 : 0;
	size_t i = head;

	for (; i + 8 <= count; i += 8) {
		const int four = (int)load_le32(codes + (first + i) / 2);
		const __m256i code = _mm256_srlv_epi32(_mm256_set1_epi32(four), shift);
		const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(code, 28));

		_mm256_storeu_ps(out + i,
				 _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, code),
						  _mm256_permutevar8x32_ps(high, code), upper));
	}
	if (head)
		decode_part_portable(map, scale, codes, first, head, out);
	if (i < count)
		decode_part_portable(map, scale, codes, first + i, count - i, out + i);
}
#endif

void mfs_nf4_decode(const mfs_nf4 *nf4, mfs_simd simd, const uint8_t *codes, const float *scales,
		    uint64_t first, size_t count, float *out)
{
	void (*decode)(const float map[16], float scale, const uint8_t *in, uint64_t from,
		       size_t weights, float *to) = decode_part_portable;
	uint64_t block = first / nf4->block;
	size_t part = nf4->block - (size_t)(first % nf4->block);

#if MFS_HAVE_AVX2
	decode = simd == MFS_SIMD_AVX2 ? decode_part_avx2 : decode;
#endif
	(void)simd;
	while (count) {
		part = part < count ? part : count;
		decode(nf4->map, scales[block++], codes, first, part, out);
		first += part;
		count -= part;
		out += part;
		part = nf4->block;
	}
}

/* ---- quantizing ---- */

int mfs_nf4_absmax(const mfs_nf4 *nf4, const float *in, size_t count, float *absmax)
{
	for (size_t at = 0; at < count; at += nf4->block) {
		const size_t end = count - at < nf4->block ? count : at + nf4->block;
		uint32_t most = 0;

		/* Magnitudes are ordered as their bits are; a NaN is above all. */
		for (size_t i = at; i < end; i++) {
			uint32_t bits = mfs_float_bits(in[i]) & 0x7fffffff;

			most = bits > most ? bits : most;
		}
		if (most >= 0x7f800000)
			return MFS_E_INVALID;
		*absmax++ = mfs_float_of(most);
	}
	return 0;
}

/* The number of steps of an ascending map that x lies beyond the middle of: the
 * index of the nearest value. Distances are rounded to F32 before they are
 * compared, as bitsandbytes does. */
MFS_INLINE unsigned nearest(const float *map, unsigned values, float x)
{
	unsigned index = 0;

	for (unsigned i = 0; i + 1 < values; i++)
		index += map[i + 1] - x < x - map[i];
	return index;
}

MFS_INLINE float scaled_by(float x, float inverse)
{
	/* The inverse may be infinite. */
	const float scaled = x == 0 ? 0 : x * inverse;

	return scaled < -1 ? -1 : scaled > 1 ? 1 : scaled;
}

void mfs_nf4_codes(const mfs_nf4 *nf4, const float *in, const float *absmax, size_t count,
		   uint8_t *codes)
{
	for (size_t i = 0; i < count; i++) {
		const float inverse = 1 / absmax[i / nf4->block];
		const unsigned code = nearest(nf4->map, 16, scaled_by(in[i], inverse));

		if (i % 2)
			codes[i / 2] |= (uint8_t)code;
		else
			codes[i / 2] = (uint8_t)(code << 4);
	}
	if (count % 2)
		codes[count / 2] |= (uint8_t)nearest(nf4->map, 16, 0);
}

void mfs_nf4_nest(const mfs_nf4 *nf4, const float *absmax, size_t blocks, uint8_t *absmax8,
		  float *nested)
{
	for (size_t at = 0; at < blocks; at += nf4->nested_block) {
		const size_t end =
		    blocks - at < nf4->nested_block ? blocks : at + nf4->nested_block;
		float most = 0;

		for (size_t i = at; i < end; i++) {
			const float off = absmax[i] - nf4->offset;
			const float magnitude = off < 0 ? -off : off;

			most = magnitude > most ? magnitude : most;
		}
		for (size_t i = at; i < end; i++)
			absmax8[i] = (uint8_t)nearest(nf4->nested_map, 256,
						      scaled_by(absmax[i] - nf4->offset, 1 / most));
		*nested++ = most;
	}
}
