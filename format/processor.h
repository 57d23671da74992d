/* What this processor offers to loops that are written for it. Safe from any thread,
 * but for mfs_processor_hide(). */
#ifndef MFS_PROCESSOR_H
#define MFS_PROCESSOR_H

enum mfs_processor_feature {
	MFS_PROCESSOR_AVX2 = 1, /* with BMI1 and BMI2 */
	MFS_PROCESSOR_NEON = 2,
};

/* Sum of the features. */
unsigned mfs_processor(void);

/* For tests: from now on these features are missing; 0: all are back. */
void mfs_processor_hide(unsigned features);

#endif
