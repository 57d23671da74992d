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

/* Integers only: what is worth coding must not depend on a C library's log2(). */
uint32_t mfs_log2_fixed(uint32_t v)
{
	uint32_t log = 31 - (uint32_t)__builtin_clz(v);
	uint64_t m = (uint64_t)v << (31 - log); /* 1.31 fixed point */

	for (int bit = 0; bit < MFS_LOG_BITS; bit++) {
		m = m * m >> 31;
		log <<= 1;
		if (m >> 32) {
			m >>= 1;
			log |= 1;
		}
	}
	return log;
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
