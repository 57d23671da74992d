#include "dequant.h"

#include <string.h>

#include "half.h"
#include "mfs_endian.h"

/*
 * One function a type takes one block apart. RUN() compiles it twice: for any
 * processor and for AVX2. Plain loops over the weights of a group become vectors
 * either way.
 */

MFS_INLINE float half_at(const uint8_t *at)
{
	return mfs_half_to_float(load_le16(at));
}

#define RUN_PORTABLE(type, bytes, weights)                                                         \
	static void type##_portable(const uint8_t *in, size_t blocks, float *out)                  \
	{                                                                                          \
		for (size_t b = 0; b < blocks; b++)                                                \
			type(in + b * (bytes), out + b * (weights));                               \
	}
#if MFS_HAVE_AVX2
#define RUN_AVX2(type, function, bytes, weights)                                                   \
	MFS_AVX2 static void type##_avx2(const uint8_t *in, size_t blocks, float *out)             \
	{                                                                                          \
		for (size_t b = 0; b < blocks; b++)                                                \
			function(in + b * (bytes), out + b * (weights));                           \
	}
#else
#define RUN_AVX2(type, function, bytes, weights)
#endif
#define RUN(type, bytes, weights)                                                                  \
	RUN_PORTABLE(type, bytes, weights) RUN_AVX2(type, type, bytes, weights)

/* ---- floats ---- */

MFS_INLINE void f32(const uint8_t *in, float *out)
{
	*out = mfs_float_of(load_le32(in));
}

MFS_INLINE void f16(const uint8_t *in, float *out)
{
	*out = half_at(in);
}

MFS_INLINE void bf16(const uint8_t *in, float *out)
{
	*out = mfs_bf16_to_float(load_le16(in));
}

RUN(f32, 4, 1)
RUN_PORTABLE(f16, 2, 1)
RUN(bf16, 2, 1)

#if MFS_HAVE_AVX2
MFS_AVX2 static void f16_avx2(const uint8_t *in, size_t blocks, float *out)
{
	size_t i = 0;

	for (; i + 8 <= blocks; i += 8) {
		__m128i halves = _mm_loadu_si128((const void *)(in + 2 * i));

		_mm256_storeu_ps(out + i, _mm256_cvtph_ps(halves));
	}
	if (i < blocks)
		f16_portable(in + 2 * i, blocks - i, out + i);
}
#endif

/* ---- blocks with one scale, and maybe a minimum ---- */

MFS_INLINE void q4_0(const uint8_t *in, float *out)
{
	const float d = half_at(in);

	for (int j = 0; j < 16; j++) {
		out[j] = (float)((in[2 + j] & 15) - 8) * d;
		out[j + 16] = (float)((in[2 + j] >> 4) - 8) * d;
	}
}

MFS_INLINE void q4_1(const uint8_t *in, float *out)
{
	const float d = half_at(in), m = half_at(in + 2);

	for (int j = 0; j < 16; j++) {
		out[j] = (float)(in[4 + j] & 15) * d + m;
		out[j + 16] = (float)(in[4 + j] >> 4) * d + m;
	}
}

MFS_INLINE void q5_0(const uint8_t *in, float *out)
{
	const float d = half_at(in);
	const uint32_t high = load_le32(in + 2);

	for (int j = 0; j < 16; j++) {
		const int upper = (int)(high >> j & 1) << 4, next = (int)(high >> (j + 16) & 1)
								    << 4;

		out[j] = (float)(((in[6 + j] & 15) | upper) - 16) * d;
		out[j + 16] = (float)(((in[6 + j] >> 4) | next) - 16) * d;
	}
}

MFS_INLINE void q5_1(const uint8_t *in, float *out)
{
	const float d = half_at(in), m = half_at(in + 2);
	const uint32_t high = load_le32(in + 4);

	for (int j = 0; j < 16; j++) {
		const int upper = (int)(high >> j & 1) << 4, next = (int)(high >> (j + 16) & 1)
								    << 4;

		out[j] = (float)((in[8 + j] & 15) | upper) * d + m;
		out[j + 16] = (float)((in[8 + j] >> 4) | next) * d + m;
	}
}

MFS_INLINE void q8_0(const uint8_t *in, float *out)
{
	const float d = half_at(in);

	for (int j = 0; j < 32; j++)
		out[j] = (float)(int8_t)in[2 + j] * d;
}

MFS_INLINE void q1_0(const uint8_t *in, float *out)
{
	const float d = half_at(in);

	for (int j = 0; j < 128; j++)
		out[j] = in[2 + j / 8] >> j % 8 & 1 ? d : -d;
}

MFS_INLINE void q2_0(const uint8_t *in, float *out)
{
	const float d = half_at(in);

	for (int j = 0; j < 64; j++)
		out[j] = (float)((in[2 + j / 4] >> 2 * (j % 4) & 3) - 1) * d;
}

RUN(q4_0, 18, 32)
RUN(q4_1, 20, 32)
RUN(q5_0, 22, 32)
RUN(q5_1, 24, 32)
RUN(q8_0, 34, 32)
RUN(q1_0, 18, 128)
RUN(q2_0, 18, 64)

/* ---- blocks of 256 ---- */

MFS_INLINE void q2_k(const uint8_t *in, float *out)
{
	const float d = half_at(in + 80), m = half_at(in + 82);

	for (int g = 0; g < 16; g++) {
		const uint8_t *q = in + 16 + g / 8 * 32 + g % 2 * 16;
		const float scale = d * (float)(in[g] & 15), minimum = m * (float)(in[g] >> 4);
		const int shift = g % 8 / 2 * 2;

		for (int j = 0; j < 16; j++)
			out[16 * g + j] = scale * (float)(q[j] >> shift & 3) - minimum;
	}
}

/* The 6-bit scale of group g of 16: four bits in one byte, two in another. */
MFS_INLINE int q3_k_scale(const uint8_t *scales, int g)
{
	const int low = g < 8 ? scales[g] & 15 : scales[g - 8] >> 4;

	return (low | (scales[8 + g % 4] >> 2 * (g / 4) & 3) << 4) - 32;
}

MFS_INLINE void q3_k(const uint8_t *in, float *out)
{
	const float d = half_at(in + 108);

	for (int g = 0; g < 16; g++) {
		const uint8_t *q = in + 32 + g / 8 * 32 + g % 2 * 16, *high = in + g % 2 * 16;
		const float scale = d * (float)q3_k_scale(in + 96, g);
		const int shift = g % 8 / 2 * 2, bit = g / 2;

		for (int j = 0; j < 16; j++)
			out[16 * g + j] =
			    scale * (float)((q[j] >> shift & 3) + 4 * (high[j] >> bit & 1) - 4);
	}
}

/* Scale and minimum of group g of eight, 6 bits each. */
MFS_INLINE void six_bits(const uint8_t *packed, int g, int *scale, int *minimum)
{
	if (g < 4) {
		*scale = packed[g] & 63;
		*minimum = packed[g + 4] & 63;
	} else {
		*scale = (packed[g + 4] & 15) | packed[g - 4] >> 6 << 4;
		*minimum = packed[g + 4] >> 4 | packed[g] >> 6 << 4;
	}
}

MFS_INLINE void q4_k(const uint8_t *in, float *out)
{
	const float d = half_at(in), m = half_at(in + 2);

	for (int g = 0; g < 8; g++) {
		const uint8_t *q = in + 16 + g / 2 * 32;
		const int shift = g % 2 * 4;
		int scale, minimum;
		float step, least;

		six_bits(in + 4, g, &scale, &minimum);
		step = d * (float)scale;
		least = m * (float)minimum;
		for (int j = 0; j < 32; j++)
			out[32 * g + j] = step * (float)(q[j] >> shift & 15) - least;
	}
}

MFS_INLINE void q5_k(const uint8_t *in, float *out)
{
	const float d = half_at(in), m = half_at(in + 2);

	for (int g = 0; g < 8; g++) {
		const uint8_t *q = in + 48 + g / 2 * 32, *high = in + 16;
		const int shift = g % 2 * 4;
		int scale, minimum;
		float step, least;

		six_bits(in + 4, g, &scale, &minimum);
		step = d * (float)scale;
		least = m * (float)minimum;
		for (int j = 0; j < 32; j++)
			out[32 * g + j] =
			    step * (float)((q[j] >> shift & 15) + 16 * (high[j] >> g & 1)) - least;
	}
}

MFS_INLINE void q6_k(const uint8_t *in, float *out)
{
	const float d = half_at(in + 208);

	for (int g = 0; g < 16; g++) {
		const int part = g / 8, quarter = g % 8 / 2, half = g % 2 * 16;
		const uint8_t *low = in + 64 * part + quarter % 2 * 32 + half;
		const uint8_t *high = in + 128 + 32 * part + half;
		const float step = d * (float)(int8_t)in[192 + g];
		const int shift = quarter / 2 * 4;

		for (int j = 0; j < 16; j++)
			out[16 * g + j] = step * (float)(((low[j] >> shift & 15) |
							  (high[j] >> 2 * quarter & 3) << 4) -
							 32);
	}
}

MFS_INLINE void q8_k(const uint8_t *in, float *out)
{
	const float d = mfs_float_of(load_le32(in));

	for (int j = 0; j < 256; j++)
		out[j] = d * (float)(int8_t)in[4 + j];
}

RUN(q2_k, 84, 256)
RUN(q3_k, 110, 256)
RUN(q4_k, 144, 256)
RUN(q5_k, 176, 256)
RUN(q6_k, 210, 256)
RUN(q8_k, 292, 256)

/* ---- ternary ---- */

/* Digit n of a byte that holds five in base 3 as a fraction of 256. */
MFS_INLINE int digit(uint8_t packed, int n)
{
	static const uint8_t power[5] = {1, 3, 9, 27, 81};

	return (uint8_t)(packed * power[n]) * 3 >> 8;
}

MFS_INLINE void digits(const uint8_t *in, int bytes, int count, float d, float *out)
{
	for (int n = 0; n < count; n++)
		for (int j = 0; j < bytes; j++)
			out[n * bytes + j] = (float)(digit(in[j], n) - 1) * d;
}

MFS_INLINE void tq1_0(const uint8_t *in, float *out)
{
	const float d = half_at(in + 52);

	digits(in, 32, 5, d, out);
	digits(in + 32, 16, 5, d, out + 160);
	digits(in + 48, 4, 4, d, out + 240);
}

MFS_INLINE void tq2_0(const uint8_t *in, float *out)
{
	const float d = half_at(in + 64);

	for (int g = 0; g < 8; g++)
		for (int j = 0; j < 32; j++)
			out[32 * g + j] = (float)((in[g / 4 * 32 + j] >> 2 * (g % 4) & 3) - 1) * d;
}

RUN(tq1_0, 54, 256)
RUN(tq2_0, 66, 256)

/* ---- codes that choose from sixteen values ---- */

static const int8_t nonlinear[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
				     1,	   13,	 25,  38,  53,	69,  89,  113};
/* E2M1, doubled. */
static const int8_t e2m1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* 2 * `half` weights: the lower codes of all bytes, then the upper ones. */
MFS_INLINE void choose(const uint8_t *codes, int half, const int8_t *values, float d, float *out)
{
	for (int j = 0; j < half; j++) {
		out[j] = d * (float)values[codes[j] & 15];
		out[j + half] = d * (float)values[codes[j] >> 4];
	}
}

#if MFS_HAVE_AVX2
MFS_AVX2 MFS_INLINE void eight_of_them(__m128i bytes, float d, float *out)
{
	__m256 values = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));

	_mm256_storeu_ps(out, _mm256_mul_ps(_mm256_set1_ps(d), values));
}

MFS_AVX2 MFS_INLINE void choose_avx2(const uint8_t *codes, int half, const int8_t *values, float d,
				     float *out)
{
	const __m128i table = _mm_loadu_si128((const void *)values), low = _mm_set1_epi8(15);

	for (int j = 0; j < half; j += 8) {
		__m128i code = _mm_loadl_epi64((const void *)(codes + j));
		__m128i upper = _mm_and_si128(_mm_srli_epi16(code, 4), low);

		eight_of_them(_mm_shuffle_epi8(table, _mm_and_si128(code, low)), d, out + j);
		eight_of_them(_mm_shuffle_epi8(table, upper), d, out + half + j);
	}
}
#endif

/* Half of a power of two by its exponent, biased; both ends are subnormal. */
MFS_INLINE float half_e8m0(uint8_t e)
{
	return mfs_float_of(e < 2 ? 0x200000u << e : (uint32_t)(e - 1) << 23);
}

/* Half of an unsigned E4M3 number. */
MFS_INLINE float half_ue4m3(uint8_t e)
{
	const int exponent = e >> 3 & 15, mantissa = e & 7;

	if (e == 0x7f)
		return 0;
	if (exponent == 0)
		return (float)mantissa * 0x1p-10f;
	return (float)(8 + mantissa) * mfs_float_of((uint32_t)(exponent + 127 - 11) << 23);
}

/* Written once for each way to choose. */
#define CHOOSING(suffix, attributes, choose_)                                                      \
	attributes MFS_INLINE void iq4_nl##suffix(const uint8_t *in, float *out)                   \
	{                                                                                          \
		choose_(in + 2, 16, nonlinear, half_at(in), out);                                  \
	}                                                                                          \
                                                                                                   \
	attributes MFS_INLINE void iq4_xs##suffix(const uint8_t *in, float *out)                   \
	{                                                                                          \
		const float d = half_at(in);                                                       \
		const unsigned high = load_le16(in + 2);                                           \
                                                                                                   \
		for (int g = 0; g < 8; g++) {                                                      \
			const int low = in[4 + g / 2] >> 4 * (g % 2) & 15;                         \
			const int scale = low | (int)(high >> 2 * g & 3) << 4;                     \
                                                                                                   \
			choose_(in + 8 + 16 * g, 16, nonlinear, d * (float)(scale - 32),           \
				out + 32 * g);                                                     \
		}                                                                                  \
	}                                                                                          \
                                                                                                   \
	attributes MFS_INLINE void mxfp4##suffix(const uint8_t *in, float *out)                    \
	{                                                                                          \
		choose_(in + 1, 16, e2m1, half_e8m0(in[0]), out);                                  \
	}                                                                                          \
                                                                                                   \
	attributes MFS_INLINE void nvfp4##suffix(const uint8_t *in, float *out)                    \
	{                                                                                          \
		for (int g = 0; g < 4; g++)                                                        \
			choose_(in + 4 + 8 * g, 8, e2m1, half_ue4m3(in[g]), out + 16 * g);         \
	}

CHOOSING(, , choose)
RUN_PORTABLE(iq4_nl, 18, 32)
RUN_PORTABLE(iq4_xs, 136, 256)
RUN_PORTABLE(mxfp4, 17, 32)
RUN_PORTABLE(nvfp4, 36, 64)
#if MFS_HAVE_AVX2
CHOOSING(_choose, MFS_AVX2, choose_avx2)
#endif
RUN_AVX2(iq4_nl, iq4_nl_choose, 18, 32)
RUN_AVX2(iq4_xs, iq4_xs_choose, 136, 256)
RUN_AVX2(mxfp4, mxfp4_choose, 17, 32)
RUN_AVX2(nvfp4, nvfp4_choose, 36, 64)

/* ---- the table ---- */

#if MFS_HAVE_AVX2
#define ROW(name_, number, type, bytes, weights)                                                   \
	{                                                                                          \
		.name = name_, .ggml_type = number, .block_bytes = bytes,                          \
		.block_weights = weights,                                                          \
		.run = { type##_portable,                                                          \
			 type##_avx2 }                                                             \
	}
#else
#define ROW(name_, number, type, bytes, weights)                                                   \
	{                                                                                          \
		.name = name_, .ggml_type = number, .block_bytes = bytes,                          \
		.block_weights = weights,                                                          \
		.run = { type##_portable,                                                          \
			 type##_portable }                                                         \
	}
#endif

static const mfs_dequant rows[] = {
    ROW("F32", 0, f32, 4, 1),
    ROW("F16", 1, f16, 2, 1),
    ROW("Q4_0", 2, q4_0, 18, 32),
    ROW("Q4_1", 3, q4_1, 20, 32),
    ROW("Q5_0", 6, q5_0, 22, 32),
    ROW("Q5_1", 7, q5_1, 24, 32),
    ROW("Q8_0", 8, q8_0, 34, 32),
    ROW("Q2_K", 10, q2_k, 84, 256),
    ROW("Q3_K", 11, q3_k, 110, 256),
    ROW("Q4_K", 12, q4_k, 144, 256),
    ROW("Q5_K", 13, q5_k, 176, 256),
    ROW("Q6_K", 14, q6_k, 210, 256),
    ROW("Q8_K", 15, q8_k, 292, 256),
    ROW("IQ4_NL", 20, iq4_nl, 18, 32),
    ROW("IQ4_XS", 23, iq4_xs, 136, 256),
    ROW("BF16", 30, bf16, 2, 1),
    ROW("TQ1_0", 34, tq1_0, 54, 256),
    ROW("TQ2_0", 35, tq2_0, 66, 256),
    ROW("MXFP4", 39, mxfp4, 17, 32),
    ROW("NVFP4", 40, nvfp4, 36, 64),
    ROW("Q1_0", 41, q1_0, 18, 128),
    ROW("Q2_0", 42, q2_0, 18, 64),
};

const mfs_dequant *mfs_dequant_of(const mfs_layout *layout)
{
	for (uint32_t i = 0; i < mfs_dequant_count(); i++) {
		const mfs_dequant *d = &rows[i];

		if (strlen(d->name) == layout->name_length &&
		    !memcmp(d->name, layout->name, layout->name_length) &&
		    d->block_bytes == layout->block_bytes &&
		    d->block_weights == layout->block_weights)
			return d;
	}
	return NULL;
}

uint32_t mfs_dequant_count(void)
{
	return sizeof(rows) / sizeof(*rows);
}

const mfs_dequant *mfs_dequant_row(uint32_t row)
{
	return row < mfs_dequant_count() ? &rows[row] : NULL;
}

const mfs_dequant *mfs_dequant_ggml(uint32_t ggml_type)
{
	for (uint32_t i = 0; i < mfs_dequant_count(); i++)
		if (rows[i].ggml_type == ggml_type)
			return &rows[i];
	return NULL;
}
