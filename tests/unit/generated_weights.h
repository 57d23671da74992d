/* Inputs for tests of arithmetic, made of integers alone: the same floats and
 * bytes on every machine. Hashes of what other programs made of them are in the
 * tests. */
#ifndef GENERATED_WEIGHTS_H
#define GENERATED_WEIGHTS_H

#include <stddef.h>
#include <stdint.h>

/* SplitMix64 (Steele, Lea, Flood 2014). */
static inline uint64_t generated_bits(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static inline void generated_bytes(uint8_t *out, size_t count, uint64_t seed)
{
	for (size_t i = 0; i < count; i++)
		out[i] = (uint8_t)generated_bits(&seed);
}

/* Bell-shaped, about 0.02 wide; each run of 256 has a scale of its own, a few are
 * tiny, all zero, all positive or one constant; every 61st weight lies far out. */
static inline void generated_weights(float *out, size_t count, uint64_t seed)
{
	for (size_t i = 0; i < count; i++) {
		const uint64_t bits = generated_bits(&seed);
		const int run = (int)(i / 256 % 23),
			  sum = (int)(bits & 0xffff) + (int)(bits >> 16 & 0xffff) +
				(int)(bits >> 32 & 0xffff) + (int)(bits >> 48) - 131070;
		float value = (float)sum * 0x1p-22f * (float)(8 + run) / 16;

		if (run == 7)
			value *= 0x1p-18f;
		if (run == 9)
			value = 0;
		if (run == 13 && value < 0)
			value = -value;
		if (run == 17)
			value = -0.03125f;
		out[i] = i % 61 == 0 ? value * 8 : value;
	}
}

#endif
