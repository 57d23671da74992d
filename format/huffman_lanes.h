/* Loops that decode several streams side by side. Only huffman.c, its parts and
 * tests include this. */
#ifndef MFS_HUFFMAN_LANES_H
#define MFS_HUFFMAN_LANES_H

#include "huffman.h"

/* A lane is a stream that is being decoded.
 *
 * It is read downwards. Its next bits stand at the top of a word; below them
 * a one follows that moves up with each shift, so that the number of zeros beneath
 * it tells how many bits are used. Five codes fit a word, one round; then it is
 * loaded anew, at most seven bytes below. */
#define MFS_LANES      8
#define MFS_ROUND      5 /* codes */
#define MFS_ROUND_READ 7 /* bytes at the most */
/* Rounds from one look at the bounds to the next. */
#define MFS_ROUNDS_MAX 128
/* What a round may write behind its codes. */
#define MFS_ROUND_EXTRA 3
/* Apart by an odd number of cache lines: rows of whole 4 KiB would compete. */
#define MFS_TILE_ROW (11 * 64)

typedef struct {
	const uint8_t *at[MFS_LANES]; /* of the word that is being used up */
	uint64_t bits[MFS_LANES];     /* its rest */
	const uint16_t *entry[2];     /* lookup of the first four lanes, of the others */
	uint8_t tile[MFS_LANES][MFS_TILE_ROW];
} mfs_lanes;

_Static_assert(MFS_ROUNDS_MAX *MFS_ROUND + MFS_ROUND_EXTRA <= MFS_TILE_ROW, "rounds fit");

/* Decodes `rounds` rounds of all eight lanes, of four: lane k to the start of
 * tile[k]. May read MFS_ROUND_READ bytes a round below at[k]; never fails. */
typedef void mfs_decode_lanes(mfs_lanes *lanes, unsigned rounds);

/* What the others are tested against. */
void mfs_decode_eight(mfs_lanes *lanes, unsigned rounds);
void mfs_decode_four(mfs_lanes *lanes, unsigned rounds);

#if defined(__x86_64__)
/* For MFS_PROCESSOR_AVX2. */
void mfs_decode_eight_avx2(mfs_lanes *lanes, unsigned rounds);
void mfs_decode_four_avx2(mfs_lanes *lanes, unsigned rounds);
#endif

#endif
