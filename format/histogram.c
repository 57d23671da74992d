#include "frame_private.h"

#include "mfs_endian.h"

/* Four counters a byte value: equal neighbours would wait for each other. */
void mfs_histogram_add(uint32_t histogram[256], const uint8_t *in, size_t size)
{
	uint32_t part[4][256] = {0};
	size_t i = 0;

	for (; i + 8 <= size; i += 8) {
		uint64_t v = load_le64(in + i);

		part[0][v & 255]++;
		part[1][v >> 8 & 255]++;
		part[2][v >> 16 & 255]++;
		part[3][v >> 24 & 255]++;
		part[0][v >> 32 & 255]++;
		part[1][v >> 40 & 255]++;
		part[2][v >> 48 & 255]++;
		part[3][v >> 56]++;
	}
	for (; i < size; i++)
		part[0][in[i]]++;
	for (int k = 0; k < 256; k++)
		histogram[k] += part[0][k] + part[1][k] + part[2][k] + part[3][k];
}

/* 256 log2(1 + (i + 1/2) / 256), rounded. */
static const uint8_t fraction[256] = {
    0,	 2,   4,   5,	6,   8,	  9,   11,  12,	 13,  15,  16,	18,  19,  20,  22,  23,	 24,  26,
    27,	 28,  30,  31,	32,  34,  35,  36,  38,	 39,  40,  42,	43,  44,  45,  47,  48,	 49,  50,
    52,	 53,  54,  55,	57,  58,  59,  60,  62,	 63,  64,  65,	66,  68,  69,  70,  71,	 72,  74,
    75,	 76,  77,  78,	80,  81,  82,  83,  84,	 85,  86,  88,	89,  90,  91,  92,  93,	 94,  95,
    97,	 98,  99,  100, 101, 102, 103, 104, 105, 106, 108, 109, 110, 111, 112, 113, 114, 115, 116,
    117, 118, 119, 120, 121, 122, 123, 124, 125, 126, 127, 128, 129, 131, 132, 133, 134, 135, 136,
    137, 138, 139, 140, 140, 141, 142, 143, 144, 145, 146, 147, 148, 149, 150, 151, 152, 153, 154,
    155, 156, 157, 158, 159, 160, 161, 162, 163, 163, 164, 165, 166, 167, 168, 169, 170, 171, 172,
    173, 173, 174, 175, 176, 177, 178, 179, 180, 181, 182, 182, 183, 184, 185, 186, 187, 188, 189,
    189, 190, 191, 192, 193, 194, 195, 195, 196, 197, 198, 199, 200, 200, 201, 202, 203, 204, 205,
    205, 206, 207, 208, 209, 210, 210, 211, 212, 213, 214, 214, 215, 216, 217, 218, 218, 219, 220,
    221, 222, 222, 223, 224, 225, 226, 226, 227, 228, 229, 229, 230, 231, 232, 233, 233, 234, 235,
    236, 236, 237, 238, 239, 239, 240, 241, 242, 242, 243, 244, 245, 245, 246, 247, 248, 248, 249,
    250, 251, 251, 252, 253, 253, 254, 255, 255,
};

/* Integers only: what is worth coding must not depend on a C library's log2(). */
uint32_t mfs_log2_fixed(uint32_t v)
{
	uint32_t exponent = 31 - (uint32_t)__builtin_clz(v);

	return (exponent << MFS_LOG_BITS) + fraction[(uint64_t)v << 8 >> exponent & 255];
}

size_t mfs_histogram_bound(const uint32_t histogram[256])
{
	uint64_t bits = 0;
	uint32_t total = 0;
	uint32_t log_total;

	for (int k = 0; k < 256; k++)
		total += histogram[k];
	if (total == 0)
		return 0;
	log_total = mfs_log2_fixed(total);
	for (int k = 0; k < 256; k++)
		if (histogram[k])
			bits += (uint64_t)histogram[k] * (log_total - mfs_log2_fixed(histogram[k]));
	return bits >> (MFS_LOG_BITS + 3);
}
