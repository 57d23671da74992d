#include "context.h"

#include <pthread.h>
#include <string.h>

#include "context_x86.h"
#include "modelfs_error.h"
#include "processor.h"

#define GROUP_BYTES_MIN 4
#define RATIO_GROUPS	8
#define RATIO_BYTES	12
#define RATIO_BIAS	32
#define SIX_GROUPS	4 /* whose upper bits share a byte */
#define SCALE_BIAS	128
#define ONE_OCTAVE	32

/* ---- checking ---- */

/* True if a run of a block's bytes holds constants only. */
static int are_constants(const mfs_layout *layout, uint32_t offset, uint32_t size)
{
	if (size > layout->block_bytes || offset > layout->block_bytes - size)
		return 0;
	for (uint32_t i = 0; i < layout->field_count; i++) {
		const mfs_field *field = &layout->field[i];

		if (field->offset < offset + size && offset < field->offset + field->size &&
		    field->cls != MFS_DISK_CONSTANTS)
			return 0;
	}
	return 1;
}

int mfs_context_check(const mfs_layout *layout)
{
	uint32_t size[MFS_CONTEXT_OFFSETS] = {0};
	uint32_t groups;

	if (layout->context >= MFS_CONTEXTS)
		return MFS_E_CORRUPT;
	if (layout->context != MFS_CONTEXT_NONE &&
	    (!layout->symbols.weights || mfs_context_group_bytes(layout) < GROUP_BYTES_MIN))
		return MFS_E_CORRUPT;
	groups = layout->context ? mfs_context_groups(layout) : 0;
	switch (layout->context) {
	case MFS_CONTEXT_RATIO:
		if (groups != RATIO_GROUPS)
			return MFS_E_CORRUPT;
		size[0] = 2;
		size[1] = 2;
		size[2] = RATIO_BYTES;
		break;
	case MFS_CONTEXT_HALF:
		size[0] = 2;
		break;
	case MFS_CONTEXT_EXPONENT:
		size[0] = 1;
		break;
	case MFS_CONTEXT_HALF_BYTES:
		size[0] = 2;
		size[1] = groups;
		break;
	case MFS_CONTEXT_HALF_SIX:
		if (groups % SIX_GROUPS)
			return MFS_E_CORRUPT;
		size[0] = 2;
		size[1] = groups / 2;
		size[2] = groups / 4;
		break;
	case MFS_CONTEXT_RATIO_NIBBLES:
		size[0] = 2;
		size[1] = 2;
		size[2] = groups;
		break;
	case MFS_CONTEXT_RATIO_HALVES:
		size[0] = 2;
		size[1] = 2;
		break;
	default:
		break;
	}
	for (int i = 0; i < MFS_CONTEXT_OFFSETS; i++)
		if (size[i] ? !are_constants(layout, layout->context_offset[i], size[i])
			    : layout->context_offset[i] != 0)
			return MFS_E_CORRUPT;
	return 0;
}

/* ---- logarithms ---- */

/* 32 log2(1 + (i + 1/2) / 32), rounded. */
static const uint8_t fraction[32] = {1,	 2,  3,	 5,  6,	 7,  9,	 10, 11, 12, 13,
				     14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24,
				     25, 25, 26, 27, 28, 29, 29, 30, 31, 32};

#define ALWAYS_INLINE static inline __attribute__((always_inline))

ALWAYS_INLINE int log_integer(unsigned value)
{
	unsigned exponent;

	if (value == 0)
		return 0;
	exponent = 31 - (unsigned)__builtin_clz(value);
	return (int)(ONE_OCTAVE * exponent + fraction[value << (31 - exponent) >> 26 & 31]);
}

ALWAYS_INLINE int log_half(uint16_t half)
{
	unsigned magnitude = half & 0x7fff;

	/* The exponent counts from 1; 2^10 times the least subnormal number has it. */
	if (magnitude >= 1024)
		return (int)(ONE_OCTAVE * ((magnitude >> 10) + 9) + fraction[magnitude >> 5 & 31]);
	return log_integer(magnitude);
}

/* Logarithms of halves, without a branch that scales near the least normal number
 * would take now and then: first those of subnormal numbers, then those of the
 * upper bits of all. */
#define SUBNORMALS 1024
static uint16_t half_logs[SUBNORMALS + (1 << 10)];
static pthread_once_t half_logs_once = PTHREAD_ONCE_INIT;

static void half_logs_make(void)
{
	for (unsigned magnitude = 0; magnitude < SUBNORMALS; magnitude++)
		half_logs[magnitude] = (uint16_t)log_half((uint16_t)magnitude);
	for (unsigned upper = 0; upper < 1 << 10; upper++)
		half_logs[SUBNORMALS + upper] = (uint16_t)log_half((uint16_t)(upper << 5));
}

ALWAYS_INLINE int look_up_half(uint16_t half)
{
	unsigned magnitude = half & 0x7fff;

	return half_logs[magnitude < SUBNORMALS ? magnitude : SUBNORMALS + (magnitude >> 5)];
}

int mfs_context_log_integer(unsigned value)
{
	return log_integer(value);
}

int mfs_context_log_half(uint16_t half)
{
	pthread_once(&half_logs_once, half_logs_make);
	return look_up_half(half);
}

/* mfs_context_log_integer() of the scales that groups have. */
static const uint16_t small_log[129] = {
    0,	 1,   33,  51,	65,  75,  83,  90,  97,	 102, 107, 111, 115, 119, 122, 125, 129, 131, 134,
    137, 139, 141, 143, 145, 147, 149, 151, 153, 154, 156, 157, 159, 161, 162, 163, 165, 166, 167,
    169, 170, 171, 172, 173, 174, 175, 176, 177, 178, 179, 180, 181, 182, 183, 184, 185, 185, 186,
    187, 188, 189, 189, 190, 191, 192, 193, 193, 194, 194, 195, 195, 197, 197, 198, 198, 199, 199,
    201, 201, 202, 202, 203, 203, 204, 204, 205, 205, 206, 206, 207, 207, 208, 208, 209, 209, 210,
    210, 211, 211, 212, 212, 213, 213, 214, 214, 215, 215, 216, 216, 217, 217, 217, 217, 218, 218,
    219, 219, 220, 220, 221, 221, 221, 221, 222, 222, 223, 223, 224, 224, 225};

ALWAYS_INLINE uint8_t clamp(int value)
{
	value = value < 0 ? 0 : value;
	return (uint8_t)(value > 255 ? 255 : value);
}

/* The same; vectors hold more of these. */
ALWAYS_INLINE uint8_t clamp16(int16_t value)
{
	value = value < 0 ? 0 : value;
	return (uint8_t)(value > 255 ? 255 : value);
}

/* ---- minimum and scale ---- */

/* Logarithms that decide, whatever is added to them or taken from them. */
#define NO_MINIMUM (1 << 20)
#define NO_SCALE   (1 << 16)

/* The logarithms of a half of each block; returns their sum. */
static uint64_t logs_of_halves(uint32_t blocks, size_t stride, const uint8_t *half, int16_t *out)
{
	uint64_t sum = 0;
	uint32_t b = 0;

#if defined(__x86_64__)
	if (mfs_processor() & MFS_PROCESSOR_AVX2)
		b = mfs_half_logs_avx2(blocks, stride, half, fraction, out, &sum);
#endif
	for (; b < blocks; b++)
		sum += (uint64_t)(out[b] = (int16_t)look_up_half(load_le16(half + b * stride)));
	return sum;
}

/* The same for a byte that is an exponent. */
static uint64_t logs_of_exponents(uint32_t blocks, size_t stride, const uint8_t *exponent,
				  int16_t *out)
{
	uint64_t sum = 0;
	uint32_t b = 0;

#if defined(__x86_64__)
	if (mfs_processor() & MFS_PROCESSOR_AVX2)
		b = mfs_exponent_logs_avx2(blocks, stride, exponent, out, &sum);
#endif
	for (; b < blocks; b++)
		sum += (uint64_t)(out[b] = (int16_t)(ONE_OCTAVE * exponent[b * stride]));
	return sum;
}

/* The value of a block whose groups had scale and minimum 1, from their logarithms. Only that
 * of 0 is 0. */
ALWAYS_INLINE int16_t ratio_of_logs(int16_t minimum, int16_t scale)
{
	int16_t ratio = (int16_t)(RATIO_BIAS + minimum - scale);

	ratio = scale ? ratio : MFS_RATIO_NO_SCALE;
	return minimum ? ratio : MFS_RATIO_NO_MINIMUM;
}

/* Blocks whose halves are looked up before their groups are looked at. */
#define RUN 64

static void ratios_of_halves(const mfs_layout *layout, uint32_t blocks, const uint8_t *in,
			     int16_t base[RUN])
{
	int16_t scale[RUN];

	logs_of_halves(blocks, layout->block_bytes, in + layout->context_offset[0], scale);
	logs_of_halves(blocks, layout->block_bytes, in + layout->context_offset[1], base);
	for (uint32_t b = 0; b < blocks; b++)
		base[b] = ratio_of_logs(base[b], scale[b]);
}

/* The logarithms of minimum and scale by their six bits. */
struct ratio_logs {
	int32_t minimum[64];
	int32_t scale[64];
};

static void ratio_logs_make(struct ratio_logs *logs)
{
	for (int i = 0; i < 64; i++)
		logs->minimum[i] = logs->scale[i] = small_log[i];
	logs->minimum[0] = -NO_MINIMUM;
	logs->scale[0] = -NO_SCALE;
}

/* Four numbers at once: the lower bits of `low`, or four bits of `high` below the
 * upper bits of `low`. */
ALWAYS_INLINE uint64_t eight_of(uint32_t low, uint32_t high)
{
	uint32_t rest = (high & 0x0f0f0f0f) | (low >> 2 & 0x30303030);

	return (low & 0x3f3f3f3f) | (uint64_t)rest << 32;
}

ALWAYS_INLINE void ratio_values(const struct ratio_logs *logs, const uint8_t *packed, int base,
				uint8_t *out)
{
	uint32_t high = load_le32(packed + 8);
	uint64_t scale = eight_of(load_le32(packed), high);
	uint64_t minimum = eight_of(load_le32(packed + 4), high >> 4);

	base -= base == MFS_RATIO_NO_MINIMUM ? NO_MINIMUM : 0;
#pragma GCC unroll 8
	for (unsigned g = 0; g < RATIO_GROUPS; g++)
		out[g] = clamp(base + logs->minimum[minimum >> 8 * g & 63] -
			       logs->scale[scale >> 8 * g & 63]);
}

ALWAYS_INLINE void nibble_values(const struct ratio_logs *logs, uint32_t groups,
				 const uint8_t *packed, int base, uint8_t *out)
{
	base -= base == MFS_RATIO_NO_MINIMUM ? NO_MINIMUM : 0;
	for (uint32_t g = 0; g < groups; g++)
		out[g] = clamp(base + logs->minimum[packed[g] >> 4] - logs->scale[packed[g] & 15]);
}

/* What the loops for special processors are tested against. */
static void ratios_of(const mfs_layout *layout, const mfs_ratios *at)
{
	const uint32_t groups = mfs_context_groups(layout);
	struct ratio_logs logs;

	ratio_logs_make(&logs);
	for (uint32_t b = 0; b < at->blocks; b++) {
		const uint8_t *packed = at->packed + b * at->stride;
		uint8_t *out = at->out + (size_t)b * groups;

		if (layout->context == MFS_CONTEXT_RATIO)
			ratio_values(&logs, packed, at->base[b], out);
		else
			nibble_values(&logs, groups, packed, at->base[b], out);
	}
}

static void ratios_of_run(const mfs_layout *layout, const mfs_ratios *at)
{
#if defined(__x86_64__)
	if (mfs_processor() & MFS_PROCESSOR_AVX2) {
		if (layout->context == MFS_CONTEXT_RATIO) {
			mfs_ratios_six_avx2(at, small_log);
			return;
		}
		if (mfs_context_groups(layout) == 16) {
			mfs_ratios_nibbles_avx2(at, small_log);
			return;
		}
	}
#endif
	ratios_of(layout, at);
}

/* Most blocks have one group. */
ALWAYS_INLINE void fill(uint8_t *out, uint8_t value, uint32_t groups)
{
	out[0] = value;
	for (uint32_t g = 1; g < groups; g++)
		out[g] = value;
}

static void ratios(const mfs_layout *layout, uint32_t blocks, const uint8_t *in, uint8_t *out)
{
	const uint32_t groups = mfs_context_groups(layout);
	const size_t stride = layout->block_bytes;
	int16_t base[RUN];

	for (uint32_t first = 0; first < blocks; first += RUN) {
		const uint32_t n = blocks - first < RUN ? blocks - first : RUN;
		const uint8_t *from = in + first * stride;
		const mfs_ratios at = {n, stride, from + layout->context_offset[2], base,
				       out + (size_t)first * groups};

		ratios_of_halves(layout, n, from, base);
		if (layout->context != MFS_CONTEXT_RATIO_HALVES) {
			ratios_of_run(layout, &at);
			continue;
		}
		for (uint32_t b = 0; b < n; b++)
			fill(at.out + (size_t)b * groups, clamp(base[b]), groups);
	}
}

/* ---- scale and neighbourhood ---- */

/* Where each block's scale stands, or each group's. */
struct scales {
	uint32_t blocks, block_bytes;
	uint32_t groups;
	const uint8_t *of_block, *of_groups, *upper;
};

ALWAYS_INLINE int block_log(unsigned context, const uint8_t *at)
{
	return context == MFS_CONTEXT_EXPONENT ? ONE_OCTAVE * *at : look_up_half(load_le16(at));
}

/* Logarithms of signed scales by their byte. */
static void byte_logs_make(uint8_t logs[256])
{
	for (int i = 0; i < 256; i++)
		logs[i] = (uint8_t)small_log[i < 128 ? i : 256 - i];
}

/* Logarithm of a group's scale in units of its block's. */
ALWAYS_INLINE int group_log(unsigned context, const struct scales *at, size_t offset, uint32_t g,
			    const uint8_t logs[256])
{
	unsigned low, high;

	if (context == MFS_CONTEXT_HALF_BYTES)
		return logs[at->of_groups[offset + g]];
	if (context != MFS_CONTEXT_HALF_SIX)
		return 0;
	low = at->of_groups[offset + g / 2] >> 4 * (g % 2) & 15;
	high = at->upper[offset + g / 4] >> 2 * (g % 4) & 3;
	return logs[(uint8_t)((low | high << 4) - 32)];
}

/* Logarithms of blocks' scales that the second pass need not look up again. */
#define KEPT 4096

/* Writes the logarithm of each group's own scale, which stands in `out` between the two
 * passes, and returns their sum. */
ALWAYS_INLINE uint64_t group_logs(unsigned context, const struct scales *at, uint32_t groups,
				  const uint8_t logs[256], uint8_t *out)
{
	uint64_t sum = 0;

#if defined(__x86_64__)
	if (context == MFS_CONTEXT_HALF_BYTES && groups == 16 &&
	    mfs_processor() & MFS_PROCESSOR_AVX2)
		return mfs_scale_logs_avx2(at->blocks, at->block_bytes, at->of_groups, logs, out);
#endif
	for (uint32_t b = 0; b < at->blocks; b++) {
		uint32_t own = 0;

		for (uint32_t g = 0; g < groups; g++)
			own += out[b * groups + g] =
			    (uint8_t)group_log(context, at, (size_t)b * at->block_bytes, g, logs);
		sum += own;
	}
	return sum;
}

/* The logarithm of each block's scale, of which the first are kept; returns their sum. */
ALWAYS_INLINE uint64_t block_logs(unsigned context, const struct scales *at, int16_t kept[KEPT])
{
	const uint32_t count = at->blocks < KEPT ? at->blocks : KEPT;
	uint64_t sum;

	if (context == MFS_CONTEXT_EXPONENT)
		sum = logs_of_exponents(count, at->block_bytes, at->of_block, kept);
	else
		sum = logs_of_halves(count, at->block_bytes, at->of_block, kept);
	for (uint32_t b = count; b < at->blocks; b++)
		sum += (uint64_t)block_log(context, at->of_block + (size_t)b * at->block_bytes);
	return sum;
}

ALWAYS_INLINE int mean_of_scales(unsigned context, const struct scales *at, uint32_t groups,
				 const uint8_t logs[256], int16_t kept[KEPT], uint8_t *out)
{
	const int of_groups = context == MFS_CONTEXT_HALF_BYTES || context == MFS_CONTEXT_HALF_SIX;
	uint64_t sum = of_groups ? group_logs(context, at, groups, logs, out) : 0;

	sum += block_logs(context, at, kept) * groups;
	return (int)(sum / ((uint64_t)at->blocks * groups));
}

ALWAYS_INLINE void scale_values(unsigned context, const struct scales *at, uint32_t groups,
				const uint8_t logs[256], uint8_t *out)
{
	const int of_groups = context == MFS_CONTEXT_HALF_BYTES || context == MFS_CONTEXT_HALF_SIX;
	const uint32_t count = at->blocks < KEPT ? at->blocks : KEPT;
	int16_t kept[KEPT];
	const int16_t mean =
	    (int16_t)(mean_of_scales(context, at, groups, logs, kept, out) - SCALE_BIAS);

	for (uint32_t b = 0; b < count; b++)
		for (uint32_t g = 0; g < groups; g++) {
			uint8_t *value = &out[b * groups + g];
			int16_t log = (int16_t)(kept[b] - mean);

			*value = clamp16(of_groups ? (int16_t)(log + *value) : log);
		}
	for (uint32_t b = count; b < at->blocks; b++) {
		const uint8_t *scale = at->of_block + (size_t)b * at->block_bytes;
		int16_t log = (int16_t)(block_log(context, scale) - mean);

		for (uint32_t g = 0; g < groups; g++) {
			uint8_t *value = &out[b * groups + g];

			*value = clamp16(of_groups ? (int16_t)(log + *value) : log);
		}
	}
}

/* Compiled for each context: the loops ask nothing. */
static void window_values(unsigned context, const struct scales *at, const uint8_t logs[256],
			  uint8_t *out)
{
	if (context == MFS_CONTEXT_HALF && at->groups == 1)
		scale_values(MFS_CONTEXT_HALF, at, 1, logs, out);
	else if (context == MFS_CONTEXT_HALF)
		scale_values(MFS_CONTEXT_HALF, at, at->groups, logs, out);
	else if (context == MFS_CONTEXT_EXPONENT && at->groups == 1)
		scale_values(MFS_CONTEXT_EXPONENT, at, 1, logs, out);
	else if (context == MFS_CONTEXT_EXPONENT)
		scale_values(MFS_CONTEXT_EXPONENT, at, at->groups, logs, out);
	else if (context == MFS_CONTEXT_HALF_SIX)
		scale_values(MFS_CONTEXT_HALF_SIX, at, at->groups, logs, out);
	else if (at->groups == 16)
		scale_values(MFS_CONTEXT_HALF_BYTES, at, 16, logs, out);
	else
		scale_values(MFS_CONTEXT_HALF_BYTES, at, at->groups, logs, out);
}

void mfs_context_values(const mfs_layout *layout, uint32_t blocks, uint32_t window,
			const uint8_t *in, uint8_t *out)
{
	struct scales at = {.block_bytes = layout->block_bytes,
			    .groups = mfs_context_groups(layout),
			    .of_block = in + layout->context_offset[0],
			    .of_groups = in + layout->context_offset[1],
			    .upper = in + layout->context_offset[2]};
	uint8_t logs[256];

	pthread_once(&half_logs_once, half_logs_make);
	if (!mfs_context_has_window(layout)) {
		ratios(layout, blocks, in, out);
		return;
	}
	byte_logs_make(logs);
	if (window == 0 || window > blocks)
		window = blocks;
	for (; blocks; blocks -= at.blocks) {
		at.blocks = window < blocks ? window : blocks;
		window_values(layout->context, &at, logs, out);
		at.of_block += (size_t)at.blocks * at.block_bytes;
		at.of_groups += (size_t)at.blocks * at.block_bytes;
		at.upper += (size_t)at.blocks * at.block_bytes;
		out += (size_t)at.blocks * at.groups;
	}
}
