#include "context.h"

#include "modelfs_error.h"

#define GROUP_BYTES_MIN 8
#define RATIO_GROUPS	8
#define RATIO_BYTES	12
#define RATIO_BIAS	32
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

	if (layout->context >= MFS_CONTEXTS)
		return MFS_E_CORRUPT;
	if (layout->context != MFS_CONTEXT_NONE &&
	    (!layout->symbols.weights || mfs_context_group_bytes(layout) < GROUP_BYTES_MIN))
		return MFS_E_CORRUPT;
	switch (layout->context) {
	case MFS_CONTEXT_RATIO:
		if (mfs_context_groups(layout) != RATIO_GROUPS)
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
		size[1] = mfs_context_groups(layout);
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

int mfs_context_log_integer(unsigned value)
{
	unsigned exponent;

	if (value == 0)
		return 0;
	exponent = 31 - (unsigned)__builtin_clz(value);
	return (int)(ONE_OCTAVE * exponent + fraction[value << (31 - exponent) >> 26 & 31]);
}

int mfs_context_log_half(uint16_t half)
{
	unsigned magnitude = half & 0x7fff;

	/* The exponent counts from 1; 2^10 times the least subnormal number has it. */
	if (magnitude >= 1024)
		return (int)(ONE_OCTAVE * ((magnitude >> 10) + 9) + fraction[magnitude >> 5 & 31]);
	return mfs_context_log_integer(magnitude);
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

static uint8_t clamp(int value)
{
	value = value < 0 ? 0 : value;
	return (uint8_t)(value > 255 ? 255 : value);
}

/* ---- minimum and scale ---- */

/* Logarithms that decide, whatever is added to them or taken from them. */
#define NO_MINIMUM (1 << 20)
#define NO_SCALE   (1 << 16)

static void ratio_values(const mfs_layout *layout, const uint8_t *block, uint8_t *out)
{
	uint16_t scale_half = load_le16(block + layout->context_offset[0]);
	uint16_t minimum_half = load_le16(block + layout->context_offset[1]);
	const uint8_t *packed = block + layout->context_offset[2];
	int base =
	    RATIO_BIAS + mfs_context_log_half(minimum_half) - mfs_context_log_half(scale_half);
	uint8_t scale[RATIO_GROUPS], minimum[RATIO_GROUPS];

	base -= minimum_half & 0x7fff ? 0 : NO_MINIMUM;
	base += scale_half & 0x7fff ? 0 : NO_SCALE;
	for (unsigned g = 0; g < 4; g++) {
		scale[g] = packed[g] & 63;
		minimum[g] = packed[4 + g] & 63;
		scale[4 + g] = (uint8_t)((packed[8 + g] & 15) | packed[g] >> 6 << 4);
		minimum[4 + g] = (uint8_t)(packed[8 + g] >> 4 | packed[4 + g] >> 6 << 4);
	}
	for (unsigned g = 0; g < RATIO_GROUPS; g++) {
		int value = base + small_log[minimum[g]] - small_log[scale[g]];

		value -= minimum[g] ? 0 : NO_MINIMUM;
		value += scale[g] ? 0 : NO_SCALE;
		out[g] = clamp(value);
	}
}

/* ---- scale and neighbourhood ---- */

static int block_log(const mfs_layout *layout, const uint8_t *block)
{
	const uint8_t *at = block + layout->context_offset[0];

	if (layout->context == MFS_CONTEXT_EXPONENT)
		return ONE_OCTAVE * *at;
	return mfs_context_log_half(load_le16(at));
}

static int group_log(const mfs_layout *layout, const uint8_t *block, uint32_t group)
{
	int value;

	if (layout->context != MFS_CONTEXT_HALF_BYTES)
		return 0;
	value = (int8_t)block[layout->context_offset[1] + group];
	return small_log[value < 0 ? -value : value];
}

static void scale_values(const mfs_layout *layout, uint32_t blocks, const uint8_t *in, uint8_t *out)
{
	uint32_t groups = mfs_context_groups(layout);
	uint64_t sum = 0;
	int mean;

	for (uint32_t b = 0; b < blocks; b++) {
		const uint8_t *block = in + (size_t)b * layout->block_bytes;

		sum += (uint64_t)block_log(layout, block) * groups;
		for (uint32_t g = 0; g < groups; g++)
			sum += (uint64_t)group_log(layout, block, g);
	}
	mean = (int)(sum / ((uint64_t)blocks * groups)) - SCALE_BIAS;
	for (uint32_t b = 0; b < blocks; b++) {
		const uint8_t *block = in + (size_t)b * layout->block_bytes;
		int log = block_log(layout, block) - mean;

		for (uint32_t g = 0; g < groups; g++)
			*out++ = clamp(log + group_log(layout, block, g));
	}
}

void mfs_context_values(const mfs_layout *layout, uint32_t blocks, uint32_t window,
			const uint8_t *in, uint8_t *out)
{
	uint32_t groups = mfs_context_groups(layout);

	if (layout->context == MFS_CONTEXT_RATIO) {
		for (uint32_t b = 0; b < blocks; b++)
			ratio_values(layout, in + (size_t)b * layout->block_bytes,
				     out + (size_t)b * groups);
		return;
	}
	if (window == 0 || window > blocks)
		window = blocks;
	for (uint32_t first = 0; first < blocks; first += window) {
		if (window > blocks - first)
			window = blocks - first;
		scale_values(layout, window, in + (size_t)first * layout->block_bytes,
			     out + (size_t)first * groups);
	}
}
