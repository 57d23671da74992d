/* Planes back to words with AVX2. Only layout.c and tests include this. */
#ifndef MFS_PLANES_X86_H
#define MFS_PLANES_X86_H

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)

/* Puts back as many of the first `words` words as vectors take, and returns their
 * number. `width` bytes a word (those other than 2 and 4 are left alone), planes and
 * `transform` as in layout.h. For MFS_PROCESSOR_AVX2. */
size_t mfs_join_words_avx2(uint8_t *out, const uint8_t *const plane[], size_t words, unsigned width,
			   unsigned transform);

/* The same for a word of two planes in each block; `stride` bytes from block to block. Returns
 * the number of blocks. */
uint32_t mfs_join_singles_avx2(uint8_t *out, const uint8_t *const plane[], uint32_t blocks,
			       size_t stride);
#endif
#endif
