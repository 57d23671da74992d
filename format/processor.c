#include "processor.h"

static unsigned hidden;

unsigned mfs_processor(void)
{
	unsigned features = 0;

#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
	    __builtin_cpu_supports("bmi2"))
		features |= MFS_PROCESSOR_AVX2;
#elif defined(__aarch64__)
	features |= MFS_PROCESSOR_NEON; /* every one has it */
#endif
	return features & ~hidden;
}

void mfs_processor_hide(unsigned features)
{
	hidden = features;
}
