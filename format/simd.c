#include "simd.h"

#if MFS_HAVE_AVX2
#include <cpuid.h>

/* __builtin_cpu_supports("f16c") is unknown to clang before 15. */
static int has_f16c(void)
{
	unsigned a, b, c, d;

	return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

mfs_simd mfs_simd_best(void)
{
#if MFS_HAVE_AVX2
	if (__builtin_cpu_supports("avx2") && has_f16c())
		return MFS_SIMD_AVX2;
#endif
	return MFS_SIMD_PORTABLE;
}
