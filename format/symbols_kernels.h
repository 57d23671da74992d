/* mfs_symbols_join() and mfs_symbols_split() for the shapes of common types, with AVX2,
 * and joining with NEON. Only symbols.c includes this. */
#ifndef MFS_SYMBOLS_KERNELS_H
#define MFS_SYMBOLS_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "processor.h"

/* `blocks` blocks of the type's two streams to the two fields, which lie at `low`
 * and `high` in the first block and `stride` bytes further in each other. */
typedef struct {
	uint32_t blocks;
	size_t stride;
	const uint8_t *upper, *rest;
	uint8_t *low, *high;
} mfs_joining;

typedef void mfs_joiner(mfs_joining at);

/* The way back. */
typedef struct {
	uint32_t blocks;
	size_t stride;
	const uint8_t *low, *high;
	uint8_t *upper, *rest;
} mfs_splitting;

typedef void mfs_splitter(mfs_splitting at);

#if defined(__x86_64__)
#define MFS_JOIN_FEATURE  MFS_PROCESSOR_AVX2
#define MFS_SPLIT_FEATURE MFS_PROCESSOR_AVX2
#elif defined(__aarch64__)
#define MFS_JOIN_FEATURE MFS_PROCESSOR_NEON
#endif

/* For processors with that feature. */
#ifdef MFS_JOIN_FEATURE
mfs_joiner mfs_join_q2_k, mfs_join_q3_k, mfs_join_q4_k, mfs_join_q5_0, mfs_join_q5_k, mfs_join_q6_k;
#endif
#ifdef MFS_SPLIT_FEATURE
mfs_splitter mfs_split_q4_k, mfs_split_q5_k, mfs_split_q6_k;
#endif

#endif
