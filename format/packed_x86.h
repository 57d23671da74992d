/* Bits of packed streams, put back run by run (packed.c), also with AVX2. Only
 * packed.c and packed_x86.c include this. */
#ifndef MFS_PACKED_X86_H
#define MFS_PACKED_X86_H

#include <stddef.h>
#include <stdint.h>

/* Bits `from` and above of each byte at `in` go to `shift` and above. */
struct mfs_packed_bits {
	const uint8_t *in;
	unsigned from, shift, bits;
};

struct mfs_packed_run {
	unsigned count; /* at least 1 */
	uint8_t value;	/* of the bits that no part brings */
	struct mfs_packed_bits part[8];
};

#if defined(__x86_64__)
/* Writes as many of the run's `n` bytes as vectors take, and returns their number. For
 * MFS_PROCESSOR_AVX2. */
size_t mfs_packed_run_avx2(const struct mfs_packed_run *run, uint8_t *out, size_t n);
#endif

#endif
