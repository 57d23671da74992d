#include "quantize.h"

#include <math.h>
#include <string.h>

#include "mfs_endian.h"

/* ---- weights ---- */

static uint64_t random_bits(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static double uniform(uint64_t *state)
{
	return ((double)(random_bits(state) >> 11) + 0.5) / 9007199254740992.0;
}

static double gaussian(uint64_t *state)
{
	double radius = sqrt(-2 * log(uniform(state)));

	return radius * cos(6.283185307179586 * uniform(state));
}

static double heavy(uint64_t *state)
{
	double squares = 0;

	for (int i = 0; i < 5; i++) {
		double g = gaussian(state);

		squares += g * g;
	}
	return gaussian(state) / sqrt(squares / 5);
}

void weights_make(float *out, size_t rows, size_t columns, enum weights_kind kind, int bf16,
		  uint64_t seed)
{
	uint64_t state = seed, column_state = seed ^ UINT64_C(0x5eed);

	for (size_t r = 0; r < rows; r++) {
		/* So far apart that the order-0 entropy of BF16 is 16 / 1.509 bits. */
		double scale = 0.02 * exp(0.25 * gaussian(&state));
		uint64_t columns_at = column_state;

		for (size_t c = 0; c < columns; c++) {
			double outlier = uniform(&columns_at) < 0.003 ? 6 : 1;
			double value = kind == WEIGHTS_HEAVY ? heavy(&state) : gaussian(&state);
			uint32_t bits;
			float f = (float)(value * scale * outlier);

			if (bf16) {
				bits = (uint32_t)bench_bf16(f) << 16;
				memcpy(&f, &bits, 4);
			}
			*out++ = f;
		}
	}
}

uint16_t bench_bf16(float value)
{
	uint32_t bits;

	memcpy(&bits, &value, 4);
	return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float bench_from_half(uint16_t half)
{
	int exponent = half >> 10 & 31, mantissa = half & 1023;
	float value = exponent ? ldexpf((float)(mantissa + 1024), exponent - 25)
			       : ldexpf((float)mantissa, -24);

	return half & 0x8000 ? -value : value;
}

uint16_t bench_half(float value)
{
	uint16_t sign = signbit(value) ? 0x8000 : 0;
	float magnitude = fabsf(value);
	int exponent;
	long mantissa;

	if (magnitude >= 65520)
		return sign | 0x7c00;
	frexpf(magnitude, &exponent);
	exponent = magnitude == 0 || exponent < -13 ? -13 : exponent;
	mantissa = lrintf(ldexpf(magnitude, 11 - exponent));
	/* A subnormal number has no leading one; one that rounds up carries over. */
	return (uint16_t)(sign | (uint16_t)(mantissa + ((exponent + 13) << 10)));
}

/* ---- least squares ---- */

static int clip(long value, int low, int high)
{
	return value < low ? low : value > high ? high : (int)value;
}

/* Scale and minimum of x = scale * q - minimum, q = 0 .. top. */
static void fit_affine(const float *x, int n, int top, float *scale, float *minimum)
{
	float low = x[0], high = x[0], best = INFINITY, mean = 0;

	for (int i = 0; i < n; i++) {
		low = fminf(low, x[i]);
		high = fmaxf(high, x[i]);
		mean += x[i] * x[i] / (float)n;
	}
	low = fminf(low, 0);
	*scale = (high - low) / (float)top;
	*minimum = -low;
	for (int step = 0; step <= 20 && high > low; step++) {
		float inverse = (-1 + 0.1f * (float)step + (float)top) / (high - low);
		float w = 0, wq = 0, wqq = 0, wx = 0, wqx = 0, error = 0, s, m;

		for (int i = 0; i < n; i++) {
			float weight = sqrtf(mean) + fabsf(x[i]);
			float q = (float)clip(lrintf(inverse * (x[i] - low)), 0, top);

			w += weight;
			wq += weight * q;
			wqq += weight * q * q;
			wx += weight * x[i];
			wqx += weight * q * x[i];
		}
		if (w * wqq - wq * wq <= 0)
			continue;
		s = (w * wqx - wx * wq) / (w * wqq - wq * wq);
		m = (wqq * wx - wq * wqx) / (w * wqq - wq * wq);
		if (m > 0) {
			m = 0;
			s = wqx / wqq;
		}
		for (int i = 0; i < n; i++) {
			float q = (float)clip(lrintf(inverse * (x[i] - low)), 0, top);
			float off = s * q + m - x[i];

			error += (sqrtf(mean) + fabsf(x[i])) * off * off;
		}
		if (error < best) {
			best = error;
			*scale = s;
			*minimum = -m;
		}
	}
}

/* Scale of x = scale * q, q = -half .. half - 1, weighted with x squared. */
static float fit_scale(const float *x, int n, int half)
{
	float extreme = 0, best = 0, scale = 0;

	for (int i = 0; i < n; i++)
		if (fabsf(x[i]) > fabsf(extreme))
			extreme = x[i];
	for (int step = -9; step <= 9 && extreme != 0; step++) {
		float inverse = -((float)half + 0.1f * (float)step) / extreme;
		float xq = 0, qq = 0;

		for (int i = 0; i < n; i++) {
			float q = (float)clip(lrintf(inverse * x[i]), -half, half - 1);

			xq += x[i] * x[i] * x[i] * q;
			qq += x[i] * x[i] * q * q;
		}
		if (qq > 0 && xq * xq > best * qq) {
			best = xq * xq / qq;
			scale = xq / qq;
		}
	}
	return scale;
}

/* ---- blocks of 32 ---- */

static float extreme_of(const float *x, int n)
{
	float extreme = 0;

	for (int i = 0; i < n; i++)
		if (fabsf(x[i]) > fabsf(extreme))
			extreme = x[i];
	return extreme;
}

static void block_q8_0(const float *x, uint8_t *out)
{
	float d = fabsf(extreme_of(x, 32)) / 127, inverse = d ? 1 / d : 0;

	store_le16(out, bench_half(d));
	for (int i = 0; i < 32; i++)
		out[2 + i] = (uint8_t)(int8_t)lrintf(x[i] * inverse);
}

static void block_q4_0(const float *x, uint8_t *out)
{
	float d = extreme_of(x, 32) / -8, inverse = d ? 1 / d : 0;

	store_le16(out, bench_half(d));
	for (int i = 0; i < 16; i++)
		out[2 + i] = (uint8_t)(clip((long)(x[i] * inverse + 8.5f), 0, 15) |
				       clip((long)(x[i + 16] * inverse + 8.5f), 0, 15) << 4);
}

static void block_q5_0(const float *x, uint8_t *out)
{
	float d = extreme_of(x, 32) / -16, inverse = d ? 1 / d : 0;
	uint32_t high = 0;

	store_le16(out, bench_half(d));
	memset(out + 6, 0, 16);
	for (int i = 0; i < 32; i++) {
		int q = clip((long)(x[i] * inverse + 16.5f), 0, 31);

		out[6 + i % 16] |= (uint8_t)((q & 15) << 4 * (i / 16));
		high |= (uint32_t)q >> 4 << i;
	}
	store_le32(out + 2, high);
}

/* ---- blocks of 256 ---- */

/* Eight groups of 32 with six-bit scales and minimums; quants from 0 to `top`. */
static void fit_k(const float *x, int top, uint8_t *out, uint8_t q[256])
{
	float scale[8], minimum[8], most_scale = 0, most_minimum = 0, d, m;
	uint8_t *packed = out + 4;

	for (int g = 0; g < 8; g++) {
		fit_affine(x + 32 * g, 32, top, &scale[g], &minimum[g]);
		most_scale = fmaxf(most_scale, scale[g]);
		most_minimum = fmaxf(most_minimum, minimum[g]);
	}
	store_le16(out, bench_half(most_scale / 63));
	store_le16(out + 2, bench_half(most_minimum / 63));
	d = bench_from_half(load_le16(out));
	m = bench_from_half(load_le16(out + 2));
	memset(packed, 0, 12);
	for (int g = 0; g < 8; g++) {
		int s = most_scale > 0 ? clip(lrintf(63 * scale[g] / most_scale), 0, 63) : 0;
		int t = most_minimum > 0 ? clip(lrintf(63 * minimum[g] / most_minimum), 0, 63) : 0;
		float step = d * (float)s;

		if (g < 4) {
			packed[g] |= (uint8_t)s;
			packed[g + 4] |= (uint8_t)t;
		} else {
			packed[g + 4] = (uint8_t)((s & 15) | (t & 15) << 4);
			packed[g - 4] |= (uint8_t)(s >> 4 << 6);
			packed[g] |= (uint8_t)(t >> 4 << 6);
		}
		for (int i = 32 * g; i < 32 * g + 32; i++)
			q[i] =
			    (uint8_t)(step != 0 ? clip(lrintf((x[i] + m * (float)t) / step), 0, top)
						: 0);
	}
}

static void block_q4_k(const float *x, uint8_t *out)
{
	uint8_t q[256];

	fit_k(x, 15, out, q);
	for (int i = 0; i < 128; i++) {
		int at = i / 32 * 64 + i % 32;

		out[16 + i] = (uint8_t)(q[at] | q[at + 32] << 4);
	}
}

static void block_q5_k(const float *x, uint8_t *out)
{
	uint8_t q[256];

	fit_k(x, 31, out, q);
	memset(out + 16, 0, 32);
	for (int i = 0; i < 256; i++)
		out[16 + i % 32] |= (uint8_t)(q[i] >> 4 << i / 32);
	for (int i = 0; i < 128; i++) {
		int at = i / 32 * 64 + i % 32;

		out[48 + i] = (uint8_t)((q[at] & 15) | (q[at + 32] & 15) << 4);
	}
}

static void block_q6_k(const float *x, uint8_t *out)
{
	float scale[16], most, inverse, d;

	for (int g = 0; g < 16; g++)
		scale[g] = fit_scale(x + 16 * g, 16, 32);
	most = extreme_of(scale, 16);
	inverse = most != 0 ? -128 / most : 0;
	memset(out, 0, 192);
	store_le16(out + 208, bench_half(inverse != 0 ? 1 / inverse : 0));
	d = bench_from_half(load_le16(out + 208));
	for (int j = 0; j < 256; j++) {
		int s = clip(lrintf(inverse * scale[j / 16]), -128, 127);
		float step = d * (float)s;
		int q = step != 0 ? clip(lrintf(x[j] / step), -32, 31) + 32 : 32;
		int part = j / 128, k = j % 128 / 32, l = j % 32;

		out[192 + j / 16] = (uint8_t)(int8_t)s;
		out[64 * part + 32 * (k & 1) + l] |= (uint8_t)((q & 15) << 4 * (k >> 1));
		out[128 + 32 * part + l] |= (uint8_t)(q >> 4 << 2 * k);
	}
}

/* Sixteen groups of 16 with scales and minimums of four bits. */
static void block_q2_k(const float *x, uint8_t *out)
{
	float scale[16], minimum[16], most_scale = 0, most_minimum = 0, d, m;

	for (int g = 0; g < 16; g++) {
		fit_affine(x + 16 * g, 16, 3, &scale[g], &minimum[g]);
		most_scale = fmaxf(most_scale, scale[g]);
		most_minimum = fmaxf(most_minimum, minimum[g]);
	}
	memset(out, 0, 80);
	store_le16(out + 80, bench_half(most_scale / 15));
	store_le16(out + 82, bench_half(most_minimum / 15));
	d = bench_from_half(load_le16(out + 80));
	m = bench_from_half(load_le16(out + 82));
	for (int g = 0; g < 16; g++) {
		int s = most_scale > 0 ? clip(lrintf(15 * scale[g] / most_scale), 0, 15) : 0;
		int t = most_minimum > 0 ? clip(lrintf(15 * minimum[g] / most_minimum), 0, 15) : 0;

		out[g] = (uint8_t)(s | t << 4);
	}
	for (int j = 0; j < 256; j++) {
		float step = d * (float)(out[j / 16] & 15), low = m * (float)(out[j / 16] >> 4);
		int q = step != 0 ? clip(lrintf((x[j] + low) / step), 0, 3) : 0;

		out[16 + j / 128 * 32 + j % 32] |= (uint8_t)(q << 2 * (j / 32 % 4));
	}
}

/* Sixteen groups of 16 with scales of six bits. */
static void block_q3_k(const float *x, uint8_t *out)
{
	uint8_t *high = out, *low = out + 32, *packed = out + 96;
	float scale[16], most, inverse, d;

	for (int g = 0; g < 16; g++)
		scale[g] = fit_scale(x + 16 * g, 16, 4);
	most = extreme_of(scale, 16);
	inverse = most != 0 ? -32 / most : 0;
	memset(out, 0, 108);
	store_le16(out + 108, bench_half(inverse != 0 ? 1 / inverse : 0));
	d = bench_from_half(load_le16(out + 108));
	for (int g = 0; g < 16; g++) {
		int s = clip(lrintf(inverse * scale[g]), -32, 31);
		float step = d * (float)s;

		packed[g % 8] |= (uint8_t)(((s + 32) & 15) << 4 * (g / 8));
		packed[8 + g % 4] |= (uint8_t)((s + 32) >> 4 << 2 * (g / 4));
		for (int j = 16 * g; j < 16 * g + 16; j++) {
			int q = step != 0 ? clip(lrintf(x[j] / step), -4, 3) + 4 : 4;

			low[j / 128 * 32 + j % 32] |= (uint8_t)((q & 3) << 2 * (j / 32 % 4));
			high[j % 32] |= (uint8_t)(q >> 2 << j / 32);
		}
	}
}

/* ---- four bits that name a value ---- */

static const int8_t values_nl[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
				     1,	   13,	 25,  38,  53,	69,  89,  113};
static const int8_t values_mx[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static int nearest(const int8_t values[16], float x)
{
	int best = 0;

	for (int q = 1; q < 16; q++)
		if (fabsf(x - (float)values[q]) < fabsf(x - (float)values[best]))
			best = q;
	return best;
}

/* Scale of x = scale * value, weighted with x squared. */
static float fit_values(const float *x, int n)
{
	float extreme = extreme_of(x, n), best = 0, scale = 0;

	for (int step = -7; step <= 7 && extreme != 0; step++) {
		float inverse = ((float)values_nl[0] + (float)step) / extreme, xv = 0, vv = 0;

		for (int i = 0; i < n; i++) {
			float v = (float)values_nl[nearest(values_nl, inverse * x[i])];

			xv += x[i] * x[i] * x[i] * v;
			vv += x[i] * x[i] * v * v;
		}
		if (vv > 0 && xv * xv > best * vv) {
			best = xv * xv / vv;
			scale = xv / vv;
		}
	}
	return scale;
}

/* 32 weights in 16 bytes. */
static void put_values(const int8_t values[16], const float *x, float step, uint8_t *out)
{
	float inverse = step != 0 ? 1 / step : 0;

	for (int i = 0; i < 16; i++)
		out[i] = (uint8_t)(nearest(values, x[i] * inverse) |
				   nearest(values, x[i + 16] * inverse) << 4);
}

static void block_iq4_nl(const float *x, uint8_t *out)
{
	store_le16(out, bench_half(fit_values(x, 32)));
	put_values(values_nl, x, bench_from_half(load_le16(out)), out + 2);
}

/* Eight groups of 32 with scales of six bits. */
static void block_iq4_xs(const float *x, uint8_t *out)
{
	float scale[8], most, inverse, d;
	unsigned upper = 0;

	for (int g = 0; g < 8; g++)
		scale[g] = fit_values(x + 32 * g, 32);
	most = extreme_of(scale, 8);
	inverse = most != 0 ? -32 / most : 0;
	memset(out, 0, 8);
	store_le16(out, bench_half(inverse != 0 ? 1 / inverse : 0));
	d = bench_from_half(load_le16(out));
	for (int g = 0; g < 8; g++) {
		int s = clip(lrintf(inverse * scale[g]), -32, 31);

		out[4 + g / 2] |= (uint8_t)(((s + 32) & 15) << 4 * (g % 2));
		upper |= (unsigned)(s + 32) >> 4 << 2 * g;
		put_values(values_nl, x + 32 * g, d * (float)s, out + 8 + 16 * g);
	}
	store_le16(out + 2, (uint16_t)upper);
}

/* A power of two as scale; values are halves. */
static void block_mxfp4(const float *x, uint8_t *out)
{
	float most = fabsf(extreme_of(x, 32));
	int exponent = most > 0 ? clip((long)floorf(log2f(most)) - 2 + 127, 0, 254) : 0;

	out[0] = (uint8_t)exponent;
	put_values(values_mx, x, ldexpf(1, exponent - 128), out + 1);
}

static void block_f32(const float *x, uint8_t *out)
{
	uint32_t bits;

	memcpy(&bits, x, 4);
	store_le32(out, bits);
}

static void block_f16(const float *x, uint8_t *out)
{
	store_le16(out, bench_half(*x));
}

static void block_bf16(const float *x, uint8_t *out)
{
	store_le16(out, bench_bf16(*x));
}

int bench_quantize(unsigned ggml_type, const float *in, size_t count, uint8_t *out)
{
	static const struct {
		unsigned type;
		size_t weights, bytes;
		void (*block)(const float *x, uint8_t *out);
	} types[] = {
	    {0, 1, 4, block_f32},	  {1, 1, 2, block_f16},	      {30, 1, 2, block_bf16},
	    {2, 32, 18, block_q4_0},	  {6, 32, 22, block_q5_0},    {8, 32, 34, block_q8_0},
	    {10, 256, 84, block_q2_k},	  {11, 256, 110, block_q3_k}, {20, 32, 18, block_iq4_nl},
	    {23, 256, 136, block_iq4_xs}, {39, 32, 17, block_mxfp4},  {12, 256, 144, block_q4_k},
	    {13, 256, 176, block_q5_k},	  {14, 256, 210, block_q6_k},
	};

	for (size_t t = 0; t < sizeof(types) / sizeof(*types); t++) {
		if (types[t].type != ggml_type)
			continue;
		for (size_t i = 0; i < count / types[t].weights; i++)
			types[t].block(in + i * types[t].weights, out + i * types[t].bytes);
		return 1;
	}
	return 0;
}
