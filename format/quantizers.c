#include "quantizers.h"

#include <math.h>
#include <string.h>

#include "dequant.h"
#include "half.h"
#include "mfs_endian.h"
#include "modelfs_error.h"
#include "store.h"

#define K_WEIGHTS  256
#define Q4_K_BYTES 144
#define Q6_K_BYTES 210

/* ---- Q8_0 and Q4_0, as ggml has them ---- */

static void q8_0_run(const float *in, size_t blocks, uint8_t *out, mfs_simd simd)
{
	mfs_store_floats(mfs_store_ggml(MFS_GGML_Q8_0), simd, in, blocks, out);
}

/* The first weight of the largest magnitude. */
MFS_INLINE float extreme_of(const float *in, int count)
{
	float extreme = 0;

	for (int i = 0; i < count; i++)
		extreme = fabsf(in[i]) > fabsf(extreme) ? in[i] : extreme;
	return extreme;
}

MFS_INLINE uint8_t q4_0_code(float scaled)
{
	const int code = (int)(scaled + 8.5f);

	return (uint8_t)(code < 15 ? code : 15);
}

MFS_INLINE void q4_0(const float *in, uint8_t *out)
{
	const float scale = extreme_of(in, 32) / -8, inverse = scale != 0 ? 1 / scale : 0;

	store_le16(out, mfs_half_from_float(scale));
	if (!isfinite(inverse)) {
		memset(out + 2, 0, 16);
		return;
	}
	for (int i = 0; i < 16; i++)
		out[2 + i] =
		    (uint8_t)(q4_0_code(in[i] * inverse) | q4_0_code(in[i + 16] * inverse) << 4);
}

/* ---- sums that become vectors ---- */

/* To the nearest, ties to even; for magnitudes below 2^22. */
MFS_INLINE float nearest(float x)
{
	return x + 0x1.8p23f - 0x1.8p23f;
}

MFS_INLINE float clamped(float x, float low, float high)
{
	x = x < low ? low : x;
	return x > high ? high : x;
}

/* In the same order whatever the vectors: lane by lane, then halves together. */
MFS_INLINE float sum_lanes(float lane[8])
{
	for (int step = 4; step; step /= 2)
		for (int i = 0; i < step; i++)
			lane[i] += lane[i + step];
	return lane[0];
}

/* ---- Q4_K: x = scale * q - minimum, q = 0 .. 15, both at least 0 ---- */

#define GROUP 32 /* weights of a group with its own scale and minimum */

struct affine {
	float scale, minimum;
};

MFS_INLINE float code_of(float x, struct affine fit, float inverse)
{
	return clamped(nearest((x + fit.minimum) * inverse), 0, 15);
}

/* The squared error of the nearest codes. */
MFS_INLINE float affine_error(const float *x, struct affine fit)
{
	const float inverse = fit.scale > 0 ? 1 / fit.scale : 0;
	float lane[8] = {0};

	for (int i = 0; i < GROUP; i += 8)
		for (int j = 0; j < 8; j++) {
			const float q = code_of(x[i + j], fit, inverse);
			const float off = fit.scale * q - fit.minimum - x[i + j];

			lane[j] += off * off;
		}
	return sum_lanes(lane);
}

/* Scale and minimum of least squares for the codes that `fit` gives. Returns how
 * much smaller the squared error of those codes is than that of all zeros. */
MFS_INLINE float affine_refit(const float *x, float sum, struct affine *fit)
{
	const float inverse = 1 / fit->scale;
	float sum_q[8] = {0}, sum_qq[8] = {0}, sum_xq[8] = {0};
	float q1, q2, xq, determinant;

	for (int i = 0; i < GROUP; i += 8)
		for (int j = 0; j < 8; j++) {
			const float q = code_of(x[i + j], *fit, inverse);

			sum_q[j] += q;
			sum_qq[j] += q * q;
			sum_xq[j] += x[i + j] * q;
		}
	q1 = sum_lanes(sum_q);
	q2 = sum_lanes(sum_qq);
	xq = sum_lanes(sum_xq);
	determinant = GROUP * q2 - q1 * q1;
	if (determinant > 0) {
		fit->scale = (GROUP * xq - sum * q1) / determinant;
		fit->minimum = (q1 * xq - q2 * sum) / determinant;
	}
	if (fit->minimum < 0 && q2 > 0) {
		fit->scale = xq / q2;
		fit->minimum = 0;
	}
	return 2 * (fit->scale * xq - fit->minimum * sum) -
	       (fit->scale * fit->scale * q2 - 2 * fit->scale * fit->minimum * q1 +
		GROUP * fit->minimum * fit->minimum);
}

/* From the whole range of the weights and from parts of it, to which the rest is
 * clipped; from each, codes and scale are fitted to each other in turn. */
MFS_INLINE struct affine affine_search(const float *x)
{
	float low = 0, high = x[0], sum = 0, most = -INFINITY;
	struct affine best = {0, 0};

	for (int i = 0; i < GROUP; i++) {
		low = x[i] < low ? x[i] : low;
		high = x[i] > high ? x[i] : high;
		sum += x[i];
	}
	best.minimum = -low;
	if (!(high > low))
		return best;
	for (int step = 0; step < 10; step++) {
		const float part = 1.04f - 0.04f * (float)step, middle = low / 2 + high / 2;
		const float bottom = middle + part * (low - middle);
		const float top = middle + part * (high - middle);
		struct affine fit = {(top - bottom) / 15, bottom < 0 ? -bottom : 0};

		for (int turn = 0; turn < 2 && fit.scale > 0 && isfinite(1 / fit.scale); turn++) {
			const float gained = affine_refit(x, sum, &fit);

			if (gained > most && fit.scale > 0) {
				most = gained;
				best = fit;
			}
		}
	}
	return best;
}

/* The numbers of a block: halves times six bits. */
struct q4_k {
	float d, m; /* as halves give them */
	int scale[8], minimum[8];
};

MFS_INLINE float as_half(float x)
{
	return mfs_half_to_float(mfs_half_from_float(x));
}

/* The six bits of one group near its fit that give the least error. */
MFS_INLINE void q4_k_choose(const float *x, struct affine fit, struct q4_k *k, int group)
{
	const int near = k->d > 0 ? (int)clamped(nearest(fit.scale / k->d), 0, 63) : 0;
	const int low = k->m > 0 ? (int)clamped(nearest(fit.minimum / k->m), 0, 63) : 0;
	float least = INFINITY;

	for (int s = near > 0 ? near - 1 : 0; s <= near + 1 && s < 64; s++)
		for (int m = low > 0 ? low - 1 : 0; m <= low + 1 && m < 64; m++) {
			const struct affine now = {k->d * (float)s, k->m * (float)m};
			const float error = affine_error(x, now);

			if (error < least) {
				least = error;
				k->scale[group] = s;
				k->minimum[group] = m;
			}
		}
}

/* d and m of least squares for the codes and the six bits of all groups. */
MFS_INLINE void q4_k_refit(const float *x, struct q4_k *k)
{
	double aa = 0, ab = 0, bb = 0, xa = 0, xb = 0, determinant;

	for (int g = 0; g < 8; g++) {
		const struct affine fit = {k->d * (float)k->scale[g], k->m * (float)k->minimum[g]};
		const float inverse = fit.scale > 0 ? 1 / fit.scale : 0;
		const double b = -k->minimum[g];

		for (int i = 0; i < GROUP; i++) {
			const double a =
			    code_of(x[GROUP * g + i], fit, inverse) * (float)k->scale[g];
			const double value = x[GROUP * g + i];

			aa += a * a;
			ab += a * b;
			bb += b * b;
			xa += value * a;
			xb += value * b;
		}
	}
	determinant = aa * bb - ab * ab;
	if (determinant > 0) {
		k->d = as_half((float)((xa * bb - xb * ab) / determinant));
		k->m = as_half((float)((xb * aa - xa * ab) / determinant));
	} else if (aa > 0) {
		k->d = as_half((float)(xa / aa));
	}
}

MFS_INLINE float q4_k_error(const float *x, const struct q4_k *k)
{
	float error = 0;

	for (int g = 0; g < 8; g++)
		error += affine_error(x + GROUP * g, (struct affine){k->d * (float)k->scale[g],
								     k->m * (float)k->minimum[g]});
	return error;
}

static void q4_k_write(const float *x, const struct q4_k *k, uint8_t *out)
{
	uint8_t *packed = out + 4;

	memset(out, 0, Q4_K_BYTES);
	store_le16(out, mfs_half_from_float(k->d));
	store_le16(out + 2, mfs_half_from_float(k->m));
	for (int g = 0; g < 8; g++) {
		const int s = k->scale[g], m = k->minimum[g];
		const struct affine fit = {k->d * (float)s, k->m * (float)m};
		const float inverse = fit.scale > 0 ? 1 / fit.scale : 0;

		if (g < 4) {
			packed[g] |= (uint8_t)s;
			packed[g + 4] |= (uint8_t)m;
		} else {
			packed[g + 4] = (uint8_t)((s & 15) | (m & 15) << 4);
			packed[g - 4] |= (uint8_t)(s >> 4 << 6);
			packed[g] |= (uint8_t)(m >> 4 << 6);
		}
		for (int i = 0; i < GROUP; i++)
			out[16 + g / 2 * GROUP + i] |=
			    (uint8_t)((unsigned)code_of(x[GROUP * g + i], fit, inverse)
				      << 4 * (g % 2));
	}
}

MFS_INLINE void q4_k(const float *x, uint8_t *out)
{
	struct affine fit[8];
	struct q4_k best = {0}, k = {0};
	float least = INFINITY;

	for (int g = 0; g < 8; g++) {
		fit[g] = affine_search(x + GROUP * g);
		k.d = fit[g].scale > k.d ? fit[g].scale : k.d;
		k.m = fit[g].minimum > k.m ? fit[g].minimum : k.m;
	}
	k.d = as_half(k.d / 63);
	k.m = as_half(k.m / 63);
	for (int turn = 0; turn < 3 && isfinite(k.d) && isfinite(k.m) && k.d >= 0 && k.m >= 0;
	     turn++) {
		float error;

		for (int g = 0; g < 8; g++)
			q4_k_choose(x + GROUP * g, fit[g], &k, g);
		error = q4_k_error(x, &k);
		if (error < least) {
			least = error;
			best = k;
		}
		q4_k_refit(x, &k);
	}
	q4_k_write(x, &best, out);
}

/* ---- Q6_K: x = d * scale * q, q = -32 .. 31 ---- */

#define SMALL 16 /* weights of a group with its own scale */

MFS_INLINE float small_error(const float *x, float scale)
{
	const float inverse = scale != 0 ? 1 / scale : 0;
	float lane[8] = {0};

	for (int i = 0; i < SMALL; i += 8)
		for (int j = 0; j < 8; j++) {
			const float q = clamped(nearest(x[i + j] * inverse), -32, 31);
			const float off = scale * q - x[i + j];

			lane[j] += off * off;
		}
	return sum_lanes(lane);
}

/* The scale of least squares for the codes that `scale` gives. Returns how much
 * smaller their squared error is than that of all zeros. */
MFS_INLINE float small_refit(const float *x, float *scale)
{
	const float inverse = 1 / *scale;
	float sum_qq[8] = {0}, sum_xq[8] = {0}, qq, xq;

	for (int i = 0; i < SMALL; i += 8)
		for (int j = 0; j < 8; j++) {
			const float q = clamped(nearest(x[i + j] * inverse), -32, 31);

			sum_qq[j] += q * q;
			sum_xq[j] += x[i + j] * q;
		}
	qq = sum_lanes(sum_qq);
	xq = sum_lanes(sum_xq);
	*scale = qq > 0 ? xq / qq : *scale;
	return *scale * xq;
}

/* The extreme weight is put near -32, beyond which no other one lies. */
MFS_INLINE float small_search(const float *x)
{
	const float extreme = extreme_of(x, SMALL);
	float most = -INFINITY, best = 0;

	for (int step = -10; step <= 10; step++) {
		float scale = extreme / -(32 + 0.12f * (float)step);

		if (scale != 0 && isfinite(1 / scale)) {
			const float gained = small_refit(x, &scale);

			if (gained > most) {
				most = gained;
				best = scale;
			}
		}
	}
	return best;
}

struct q6_k {
	float d;
	int scale[16];
};

MFS_INLINE void q6_k_choose(const float *x, float fit, struct q6_k *k, int group)
{
	const int near = (int)clamped(nearest(fit / k->d), -128, 127);
	float least = INFINITY;

	for (int s = near > -128 ? near - 1 : near; s <= near + 1 && s < 128; s++) {
		const float error = small_error(x, k->d * (float)s);

		if (error < least) {
			least = error;
			k->scale[group] = s;
		}
	}
}

MFS_INLINE float q6_k_refit(const float *x, const struct q6_k *k)
{
	double aa = 0, xa = 0;

	for (int g = 0; g < 16; g++) {
		const float scale = k->d * (float)k->scale[g], inverse = scale != 0 ? 1 / scale : 0;

		for (int i = SMALL * g; i < SMALL * (g + 1); i++) {
			const double a =
			    clamped(nearest(x[i] * inverse), -32, 31) * (float)k->scale[g];

			aa += a * a;
			xa += a * x[i];
		}
	}
	return aa > 0 ? as_half((float)(xa / aa)) : k->d;
}

static void q6_k_write(const float *x, const struct q6_k *k, uint8_t *out)
{
	memset(out, 0, 192);
	store_le16(out + 208, mfs_half_from_float(k->d));
	for (int j = 0; j < K_WEIGHTS; j++) {
		const float scale = k->d * (float)k->scale[j / SMALL];
		const float inverse = scale != 0 ? 1 / scale : 0;
		const int q = (int)clamped(nearest(x[j] * inverse), -32, 31) + 32;
		const int part = j / 128, quarter = j % 128 / 32, at = j % 32;

		out[192 + j / SMALL] = (uint8_t)k->scale[j / SMALL];
		out[64 * part + 32 * (quarter % 2) + at] |=
		    (uint8_t)((q & 15) << 4 * (quarter / 2));
		out[128 + 32 * part + at] |= (uint8_t)(q >> 4 << 2 * quarter);
	}
}

MFS_INLINE void q6_k(const float *x, uint8_t *out)
{
	struct q6_k best = {0}, k = {0};
	float fit[16], least = INFINITY;

	for (int g = 0; g < 16; g++)
		fit[g] = small_search(x + SMALL * g);
	k.d = as_half(extreme_of(fit, 16) / -128);
	for (int turn = 0; turn < 3 && k.d != 0 && isfinite(k.d); turn++) {
		float error = 0;

		for (int g = 0; g < 16; g++) {
			q6_k_choose(x + SMALL * g, fit[g], &k, g);
			error += small_error(x + SMALL * g, k.d * (float)k.scale[g]);
		}
		if (error < least) {
			least = error;
			best = k;
		}
		k.d = q6_k_refit(x, &k);
	}
	q6_k_write(x, &best, out);
}

/* ---- all of them ---- */

#define RUN_ONE(type, suffix, attributes, bytes, weights)                                          \
	attributes static void type##_##suffix(const float *in, size_t blocks, uint8_t *out)       \
	{                                                                                          \
		for (size_t b = 0; b < blocks; b++)                                                \
			type(in + b * (weights), out + b * (bytes));                               \
	}
#if MFS_HAVE_AVX2
#define RUN(type, bytes, weights)                                                                  \
	RUN_ONE(type, portable, , bytes, weights) RUN_ONE(type, avx2, MFS_AVX2, bytes, weights)
#define RUNS(type)                                                                                 \
	{                                                                                          \
		type##_portable, type##_avx2                                                       \
	}
#else
#define RUN(type, bytes, weights) RUN_ONE(type, portable, , bytes, weights)
#define RUNS(type)                                                                                 \
	{                                                                                          \
		type##_portable, type##_portable                                                   \
	}
#endif

static void q8_0_portable(const float *in, size_t blocks, uint8_t *out)
{
	q8_0_run(in, blocks, out, MFS_SIMD_PORTABLE);
}

#if MFS_HAVE_AVX2
static void q8_0_avx2(const float *in, size_t blocks, uint8_t *out)
{
	q8_0_run(in, blocks, out, MFS_SIMD_AVX2);
}
#endif

RUN(q4_0, 18, 32)
RUN(q4_k, Q4_K_BYTES, K_WEIGHTS)
RUN(q6_k, Q6_K_BYTES, K_WEIGHTS)

static const mfs_quantizer types[] = {
    {"Q4_0", MFS_GGML_Q4_0, 18, 32, RUNS(q4_0)},
    {"Q8_0", MFS_GGML_Q8_0, 34, 32, RUNS(q8_0)},
    {"Q4_K", MFS_GGML_Q4_K, Q4_K_BYTES, K_WEIGHTS, RUNS(q4_k)},
    {"Q6_K", MFS_GGML_Q6_K, Q6_K_BYTES, K_WEIGHTS, RUNS(q6_k)},
};

const mfs_quantizer *mfs_quantizer_ggml(uint32_t ggml_type)
{
	for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++)
		if (types[i].ggml_type == ggml_type)
			return &types[i];
	return NULL;
}

int mfs_quantize(const mfs_quantizer *type, mfs_simd simd, const float *in, size_t blocks,
		 uint8_t *out)
{
	for (size_t i = 0; i < blocks * type->block_weights; i++)
		if ((mfs_float_bits(in[i]) & 0x7f800000) == 0x7f800000)
			return MFS_E_INVALID;
	type->run[simd](in, blocks, out);
	return 0;
}

/* ---- errors ---- */

void mfs_quantize_error_add(mfs_quantize_error *error, const float *weights, const float *now,
			    size_t count)
{
	for (size_t i = 0; i < count; i++) {
		const double off = (double)now[i] - (double)weights[i];

		error->squares += off * off;
		error->energy += (double)weights[i] * (double)weights[i];
		error->most = fabs(off) > error->most ? fabs(off) : error->most;
	}
	error->count += count;
}

double mfs_quantize_error_rmse(const mfs_quantize_error *error)
{
	return error->count ? sqrt(error->squares / (double)error->count) : 0;
}
