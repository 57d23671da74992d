#include "simd.h"

mfs_simd mfs_simd_best(void)
{
#if MFS_HAVE_AVX2
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c"))
		return MFS_SIMD_AVX2;
#endif
	return MFS_SIMD_PORTABLE;
}
