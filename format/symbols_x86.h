/* mfs_symbols_join() for the shapes of common types, with AVX2. Only symbols.c and
 * tests include this. */
#ifndef MFS_SYMBOLS_X86_H
#define MFS_SYMBOLS_X86_H

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)

/* `blocks` blocks of the type's two streams to the two fields, which lie at `low`
 * and `high` in the first block and `stride` bytes further in each other. */
typedef struct {
	uint32_t blocks;
	size_t stride;
	const uint8_t *upper, *rest;
	uint8_t *low, *high;
} mfs_joining;

void mfs_join_q2_k_avx2(mfs_joining at);
void mfs_join_q3_k_avx2(mfs_joining at);
void mfs_join_q4_k_avx2(mfs_joining at);
void mfs_join_q5_0_avx2(mfs_joining at);
void mfs_join_q5_k_avx2(mfs_joining at);
void mfs_join_q6_k_avx2(mfs_joining at);

#endif
#endif
