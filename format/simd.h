/* Which instructions the arithmetic of views uses. Each function that takes an
 * mfs_simd gives the same bytes for every value of it: the order of operations
 * is fixed, each is rounded to F32 (never fused), and NaNs made on the way are
 * written as one value. Callers keep the processor's default rounding: to the
 * nearest even, subnormal numbers not flushed. */
#ifndef MFS_SIMD_H
#define MFS_SIMD_H

typedef enum {
	MFS_SIMD_PORTABLE, /* C for any processor, vectors of four where it has them */
	MFS_SIMD_AVX2	   /* x86 with AVX2 and F16C */
} mfs_simd;

/* The best that this processor has. */
mfs_simd mfs_simd_best(void);

/* For format/ alone. */
#define MFS_INLINE static inline __attribute__((always_inline))
#if defined(__x86_64__)
#define MFS_HAVE_AVX2 1
#define MFS_AVX2      __attribute__((target("avx2,f16c")))
#include <immintrin.h>
#else
#define MFS_HAVE_AVX2 0
#endif

#if defined(__FAST_MATH__) ||                                                                      \
    (defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0 && __FLT_EVAL_METHOD__ != 16)
#error "views need float arithmetic that rounds every operation to float"
#endif

#endif
