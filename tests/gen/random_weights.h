/*
 * Random weights and their encodings: a generator of numbers, samples of a
 * distribution, every ggml type. Integers, IEEE additions, multiplications and
 * divisions only, so that the bytes are the same on every machine (built with
 * -ffp-contract=off). Knows nothing of the library.
 */
#ifndef RANDOM_WEIGHTS_H
#define RANDOM_WEIGHTS_H

#include <stdint.h>
#include <string.h>

#define BATCH 256 /* weights that are made and encoded at a time */

/* ---- random numbers ---- */

/* Steps of a Weyl sequence, each mixed (splitmix64). */
static inline uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

enum distribution { DIST_GAUSS, DIST_T5 };

#define QUANTILES 65536
static float quantile[QUANTILES + 1];

/* Every 32nd quantile: small enough for the first-level cache. */
#define COARSE	    2048
#define COARSE_STEP (QUANTILES / COARSE)
#define COARSE_TAIL 8
static float coarse[COARSE + 1];

/* dx/dp of the distribution's quantile function x(p): 1 / density(x). For the
 * normal one the density g is carried along, as dg/dp = -x. */
static void slope(enum distribution dist, const double at[2], double out[2])
{
	double q = 1 + at[0] * at[0] / 5;

	out[0] = dist == DIST_T5 ? q * q * q / 0.37960668982249446 : 1 / at[1];
	out[1] = -at[0];
}

static void runge_kutta(enum distribution dist, double at[2], double h)
{
	double a[2], b[2], c[2], d[2], t[2];

	slope(dist, at, a);
	for (int i = 0; i < 2; i++)
		t[i] = at[i] + h / 2 * a[i];
	slope(dist, t, b);
	for (int i = 0; i < 2; i++)
		t[i] = at[i] + h / 2 * b[i];
	slope(dist, t, c);
	for (int i = 0; i < 2; i++)
		t[i] = at[i] + h * c[i];
	slope(dist, t, d);
	for (int i = 0; i < 2; i++)
		at[i] += h / 6 * (a[i] + 2 * b[i] + 2 * c[i] + d[i]);
}

/* The quantile function at p = 1/2 +- i / QUANTILES, of unit variance. The ends
 * are those of the last step but one. */
static void make_quantiles(enum distribution dist)
{
	const int steps = 16;
	const double unit = dist == DIST_T5 ? 0.7745966692414834 : 1; /* sqrt(3/5) */
	double at[2] = {0, 0.3989422804014327};

	for (int i = 0; i < QUANTILES / 2; i++) {
		quantile[QUANTILES / 2 + i] = (float)(at[0] * unit);
		quantile[QUANTILES / 2 - i] = (float)(-at[0] * unit);
		if (i < QUANTILES / 2 - 1)
			for (int s = 0; s < steps; s++)
				runge_kutta(dist, at, 1.0 / QUANTILES / steps);
	}
	quantile[0] = quantile[1];
	quantile[QUANTILES] = quantile[QUANTILES - 1];
	for (int i = 0; i <= COARSE; i++)
		coarse[i] = quantile[i * COARSE_STEP];
}

static float tail_sample(uint32_t bits)
{
	uint32_t i = bits >> 16;
	float place = (float)(int)(bits & 0xffff) * (1.0f / 65536);

	return quantile[i] + (quantile[i + 1] - quantile[i]) * place;
}

/* 32 random bits -> a sample: the upper ones choose the interval, the others
 * the place in it. Only the tails bend enough to need the fine intervals. */
static inline float sample(uint32_t bits)
{
	uint32_t i = bits >> 21;
	float place = (float)(int)(bits & 0x1fffff) * (1.0f / 0x200000);

	if (__builtin_expect(i - COARSE_TAIL >= COARSE - 2 * COARSE_TAIL, 0))
		return tail_sample(bits);
	return coarse[i] + (coarse[i + 1] - coarse[i]) * place;
}

static void make_samples(uint64_t *state, float *out, size_t count)
{
	for (size_t i = 0; i < count; i += 2) {
		uint64_t r = next_random(state);

		out[i] = sample((uint32_t)r);
		out[i + 1] = sample((uint32_t)(r >> 32));
	}
}

/* ---- numbers ---- */

static inline uint32_t float_bits(float f)
{
	uint32_t bits;

	memcpy(&bits, &f, 4);
	return bits;
}

static inline float bits_float(uint32_t bits)
{
	float f;

	memcpy(&f, &bits, 4);
	return f;
}

static inline void put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
}

static inline void put32(uint8_t *p, uint32_t v)
{
	put16(p, v);
	put16(p + 2, v >> 16);
}

static inline void put64(uint8_t *p, uint64_t v)
{
	put32(p, (uint32_t)v);
	put32(p + 4, (uint32_t)(v >> 32));
}

/* To bfloat16, nearest even. */
static inline uint32_t to_bf16(float f)
{
	uint32_t x = float_bits(f);

	return (x + 0x7fff + (x >> 16 & 1)) >> 16;
}

/* To IEEE half, nearest even; too large becomes the largest. */
static inline uint32_t to_half(float f)
{
	uint32_t x = float_bits(f), sign = x >> 16 & 0x8000, a = x & 0x7fffffff;
	uint32_t normal = ((a + 0xfff + (a >> 13 & 1)) >> 13) - (112 << 10);
	/* The unit of 0.5 is that of the subnormal halves: the sum rounds to it. */
	uint32_t small = float_bits(bits_float(a) + 0.5f) - 0x3f000000;

	if (a >= 0x477ff000)
		return sign | 0x7bff;
	return sign | (a < 0x38800000 ? small : normal);
}

/* Nearest, ties away from zero. */
static inline int round_int(float f)
{
	return (int)(f + (f < 0 ? -0.5f : 0.5f));
}

/* ---- encoders: BATCH or fewer weights, a multiple of the type's block ---- */

typedef void encode_fn(const float *in, size_t count, uint8_t *out);

static void encode_f32(const float *in, size_t count, uint8_t *out)
{
	for (size_t i = 0; i < count; i++)
		put32(out + 4 * i, float_bits(in[i]));
}

static void encode_f64(const float *in, size_t count, uint8_t *out)
{
	for (size_t i = 0; i < count; i++) {
		double d = (double)in[i];
		uint64_t bits;

		memcpy(&bits, &d, 8);
		put64(out + 8 * i, bits);
	}
}

static void encode_f16(const float *in, size_t count, uint8_t *out)
{
	for (size_t i = 0; i < count; i++)
		put16(out + 2 * i, to_half(in[i]));
}

static void encode_bf16(const float *in, size_t count, uint8_t *out)
{
	for (size_t i = 0; i < count; i++)
		put16(out + 2 * i, to_bf16(in[i]));
}

/* Largest and smallest of 32 floats, in lanes that the vectoriser likes. */
static inline void extremes(const float *in, float *low, float *high)
{
	float l[8], h[8];

	for (int i = 0; i < 8; i++)
		l[i] = h[i] = in[i];
	for (int j = 8; j < 32; j += 8)
		for (int i = 0; i < 8; i++) {
			l[i] = in[j + i] < l[i] ? in[j + i] : l[i];
			h[i] = in[j + i] > h[i] ? in[j + i] : h[i];
		}
	*low = l[0];
	*high = h[0];
	for (int i = 1; i < 8; i++) {
		*low = l[i] < *low ? l[i] : *low;
		*high = h[i] > *high ? h[i] : *high;
	}
}

/* Half scale d, 32 signed bytes; d = largest magnitude / 127. */
static void encode_q8_0(const float *in, size_t count, uint8_t *out)
{
	for (; count; count -= 32, in += 32, out += 34) {
		float low, high, d, inverse;

		extremes(in, &low, &high);
		d = (-low > high ? -low : high) / 127;
		inverse = d != 0 ? 1 / d : 0;
		put16(out, to_half(d));
		for (int i = 0; i < 32; i++)
			out[2 + i] = (uint8_t)round_int(in[i] * inverse);
	}
}

/* Half scale d, 32 nibbles offset by 8; d = value of largest magnitude / -8. */
static void encode_q4_0(const float *in, size_t count, uint8_t *out)
{
	for (; count; count -= 32, in += 32, out += 18) {
		float low, high, d, inverse;
		uint8_t q[32];

		extremes(in, &low, &high);
		d = (-low > high ? low : high) / -8;
		inverse = d != 0 ? 1 / d : 0;
		put16(out, to_half(d));
		for (int i = 0; i < 32; i++) {
			float v = in[i] * inverse + 8.5f;

			q[i] = (uint8_t)(int)(v < 15 ? v : 15);
		}
		for (int i = 0; i < 16; i++)
			q[i] |= (uint8_t)(q[i + 16] << 4);
		memcpy(out + 2, q, 16);
	}
}

/* ---- types ---- */

/* What makes a block of random bytes a valid one. */
enum repair {
	REPAIR_NONE,
	REPAIR_HALVES, /* the halves at half[] become small positive numbers */
	REPAIR_FLOAT,  /* Q8_K: a float at 0 */
	REPAIR_IQ1_M,  /* the high nibbles of four words at 48 make a half */
	REPAIR_E8M0,   /* MXFP4: an exponent at 0 */
	REPAIR_E4M3    /* NVFP4: four unsigned 8-bit floats at 0 */
};

struct type {
	const char *name;
	uint32_t id, block_bytes, block_weights;
	encode_fn *encode; /* NULL: random bytes, repaired */
	enum repair repair;
	int half[2];	    /* places of halves in the block, -1: none */
	uint32_t file_type; /* general.file_type */
};

static const struct type types[] = {
    {"F32", 0, 4, 1, encode_f32, REPAIR_NONE, {-1, -1}, 0},
    {"F16", 1, 2, 1, encode_f16, REPAIR_NONE, {-1, -1}, 1},
    {"BF16", 30, 2, 1, encode_bf16, REPAIR_NONE, {-1, -1}, 32},
    {"F64", 28, 8, 1, encode_f64, REPAIR_NONE, {-1, -1}, 0},
    {"Q4_0", 2, 18, 32, encode_q4_0, REPAIR_NONE, {0, -1}, 2},
    {"Q8_0", 8, 34, 32, encode_q8_0, REPAIR_NONE, {0, -1}, 7},
    {"I8", 24, 1, 1, NULL, REPAIR_NONE, {-1, -1}, 0},
    {"I16", 25, 2, 1, NULL, REPAIR_NONE, {-1, -1}, 0},
    {"I32", 26, 4, 1, NULL, REPAIR_NONE, {-1, -1}, 0},
    {"I64", 27, 8, 1, NULL, REPAIR_NONE, {-1, -1}, 0},
    {"Q4_1", 3, 20, 32, NULL, REPAIR_HALVES, {0, 2}, 3},
    {"Q5_0", 6, 22, 32, NULL, REPAIR_HALVES, {0, -1}, 8},
    {"Q5_1", 7, 24, 32, NULL, REPAIR_HALVES, {0, 2}, 9},
    {"Q8_1", 9, 36, 32, NULL, REPAIR_HALVES, {0, 2}, 0},
    {"Q2_K", 10, 84, 256, NULL, REPAIR_HALVES, {80, 82}, 10},
    {"Q3_K", 11, 110, 256, NULL, REPAIR_HALVES, {108, -1}, 12},
    {"Q4_K", 12, 144, 256, NULL, REPAIR_HALVES, {0, 2}, 15},
    {"Q5_K", 13, 176, 256, NULL, REPAIR_HALVES, {0, 2}, 17},
    {"Q6_K", 14, 210, 256, NULL, REPAIR_HALVES, {208, -1}, 18},
    {"Q8_K", 15, 292, 256, NULL, REPAIR_FLOAT, {-1, -1}, 0},
    {"IQ2_XXS", 16, 66, 256, NULL, REPAIR_HALVES, {0, -1}, 19},
    {"IQ2_XS", 17, 74, 256, NULL, REPAIR_HALVES, {0, -1}, 20},
    {"IQ3_XXS", 18, 98, 256, NULL, REPAIR_HALVES, {0, -1}, 23},
    {"IQ1_S", 19, 50, 256, NULL, REPAIR_HALVES, {0, -1}, 24},
    {"IQ4_NL", 20, 18, 32, NULL, REPAIR_HALVES, {0, -1}, 25},
    {"IQ3_S", 21, 110, 256, NULL, REPAIR_HALVES, {0, -1}, 26},
    {"IQ2_S", 22, 82, 256, NULL, REPAIR_HALVES, {0, -1}, 28},
    {"IQ4_XS", 23, 136, 256, NULL, REPAIR_HALVES, {0, -1}, 30},
    {"IQ1_M", 29, 56, 256, NULL, REPAIR_IQ1_M, {-1, -1}, 31},
    {"TQ1_0", 34, 54, 256, NULL, REPAIR_HALVES, {52, -1}, 36},
    {"TQ2_0", 35, 66, 256, NULL, REPAIR_HALVES, {64, -1}, 37},
    {"MXFP4", 39, 17, 32, NULL, REPAIR_E8M0, {-1, -1}, 38},
    {"NVFP4", 40, 36, 64, NULL, REPAIR_E4M3, {-1, -1}, 39},
};
#define TYPES (sizeof(types) / sizeof(types[0]))

/* A half between 0.001 and 0.008. */
static inline uint32_t small_half(uint64_t r)
{
	return 0x1400 + (uint32_t)(r % 0x0c00);
}

static inline void repair_block(const struct type *type, uint8_t *b, uint64_t r)
{
	switch (type->repair) {
	case REPAIR_NONE:
		break;
	case REPAIR_HALVES:
		for (int i = 0; i < 2; i++)
			if (type->half[i] >= 0)
				put16(b + type->half[i], small_half(r >> 32 * i));
		break;
	case REPAIR_FLOAT:
		put32(b, 0x3a000000 + (uint32_t)(r & 0xffffff));
		break;
	case REPAIR_IQ1_M:
		for (int i = 0; i < 4; i++) {
			uint8_t *high = b + 48 + 2 * i + 1;

			*high = (uint8_t)((*high & 0x0f) | (small_half(r) >> 4 * i & 15) << 4);
		}
		break;
	case REPAIR_E8M0:
		b[0] = (uint8_t)(116 + r % 8);
		break;
	case REPAIR_E4M3:
		for (int i = 0; i < 4; i++)
			b[i] = (uint8_t)(0x10 + (r >> 8 * i) % 0x20);
		break;
	}
}

static inline void random_blocks(const struct type *type, uint64_t *state, size_t count,
				 uint8_t *out)
{
	size_t blocks = count / type->block_weights, bytes = blocks * type->block_bytes, i;

	for (i = 0; i + 8 <= bytes; i += 8)
		put64(out + i, next_random(state));
	for (uint64_t r = next_random(state); i < bytes; i++, r >>= 8)
		out[i] = (uint8_t)r;
	if (type->repair == REPAIR_NONE)
		return;
	for (i = 0; i < blocks; i++)
		repair_block(type, out + i * type->block_bytes, next_random(state));
}

static inline void reverse(uint8_t *p, size_t size)
{
	for (size_t i = 0; i < size / 2; i++) {
		uint8_t t = p[i];

		p[i] = p[size - 1 - i];
		p[size - 1 - i] = t;
	}
}

/* To big-endian: plain numbers, and the halves of blocks. */
static inline void swap_blocks(const struct type *type, size_t count, uint8_t *out)
{
	size_t blocks = count / type->block_weights;

	for (size_t i = 0; i < blocks; i++, out += type->block_bytes) {
		if (type->block_weights == 1)
			reverse(out, type->block_bytes);
		for (int k = 0; k < 2; k++)
			if (type->half[k] >= 0)
				reverse(out + type->half[k], 2);
	}
}

#endif
