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

#endif
#endif
