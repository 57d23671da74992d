#include "huffman_lanes.h"

#if defined(__x86_64__)

#include <immintrin.h>

/* What bounds the portable loop here is its stores, one for each byte; and
 * compilers, given eight lanes, keep their words in memory. So bytes go from the
 * table to a vector register, and a lane stores once a round. */

#define TARGET __attribute__((target("avx2,bmi,bmi2")))

/* Takes the next code of `bits`; its byte becomes byte `i` of `bytes`. */
#define STEP(bits, entry, bytes, i)                                                                \
	do {                                                                                       \
		uint64_t index_;                                                                   \
                                                                                                   \
		__asm__("shrxq %[top], %[b], %[x]\n\t"                                             \
			"vpinsrb $" #i ", 1(%[e],%[x],2), %[v], %[v]\n\t"                          \
			"movzwl (%[e],%[x],2), %k[x]\n\t"                                          \
			"shlxq %[x], %[b], %[b]"                                                   \
			: [b] "+r"(bits), [v] "+x"(bytes), [x] "=&r"(index_)                       \
			: [e] "r"(entry), [top] "r"((uint64_t)(64 - MFS_LOOKUP_BITS)),             \
			  "m"(*(const uint16_t(*)[1 << MFS_LOOKUP_BITS])(entry)));                 \
	} while (0)

/* The last code of a round: shifts are what there are too few units for, so `bits` are
 * not shifted but become the number of those that are used. */
#define STEP_LAST(bits, entry, bytes, i)                                                           \
	do {                                                                                       \
		uint64_t index_;                                                                   \
                                                                                                   \
		__asm__("shrxq %[top], %[b], %[x]\n\t"                                             \
			"tzcntq %[b], %[b]\n\t"                                                    \
			"vpinsrb $" #i ", 1(%[e],%[x],2), %[v], %[v]\n\t"                          \
			"movzbl (%[e],%[x],2), %k[x]\n\t"                                          \
			"addl %k[x], %k[b]"                                                        \
			: [b] "+r"(bits), [v] "+x"(bytes), [x] "=&r"(index_)                       \
			: [e] "r"(entry), [top] "r"((uint64_t)(64 - MFS_LOOKUP_BITS)),             \
			  "m"(*(const uint16_t(*)[1 << MFS_LOOKUP_BITS])(entry))                   \
			: "cc");                                                                   \
	} while (0)

#define RELOAD(bits, at)                                                                           \
	do {                                                                                       \
		uint64_t from_, bytes_;                                                            \
                                                                                                   \
		__asm__("movl %k[b], %k[n]\n\t"                                                    \
			"movq %[at_], %[f]\n\t"                                                    \
			"shrl $3, %k[n]\n\t"                                                       \
			"andl $7, %k[b]\n\t"                                                       \
			"subq %[n], %[f]\n\t"                                                      \
			"movq %[f], %[at_]\n\t"                                                    \
			"movq (%[f]), %[f]\n\t"                                                    \
			"orq $1, %[f]\n\t"                                                         \
			"shlxq %[b], %[f], %[b]"                                                   \
			: [b] "+r"(bits), [at_] "+m"(at), [f] "=&r"(from_), [n] "=&r"(bytes_)      \
			:                                                                          \
			: "memory", "cc");                                                         \
	} while (0)

#define EACH_OF_FOUR(do_lane)                                                                      \
	do_lane(0, first);                                                                         \
	do_lane(1, first);                                                                         \
	do_lane(2, first);                                                                         \
	do_lane(3, first)
#define EACH_OF_EIGHT(do_lane)                                                                     \
	EACH_OF_FOUR(do_lane);                                                                     \
	do_lane(4, second);                                                                        \
	do_lane(5, second);                                                                        \
	do_lane(6, second);                                                                        \
	do_lane(7, second)

#define LANE_LOAD(k, entry)                                                                        \
	uint64_t bits##k = lanes->bits[k];                                                         \
	const uint8_t *at##k = lanes->at[k];                                                       \
	__m128i bytes##k = _mm_setzero_si128()
#define LANE_STORE(k, entry)                                                                       \
	lanes->bits[k] = bits##k;                                                                  \
	lanes->at[k] = at##k
#define LANE_STEP_0(k, entry) STEP(bits##k, entry, bytes##k, 0)
#define LANE_STEP_1(k, entry) STEP(bits##k, entry, bytes##k, 1)
#define LANE_STEP_2(k, entry) STEP(bits##k, entry, bytes##k, 2)
#define LANE_STEP_3(k, entry) STEP(bits##k, entry, bytes##k, 3)
#define LANE_STEP_4(k, entry) STEP_LAST(bits##k, entry, bytes##k, 4)
#define LANE_WRITE(k, entry)  _mm_storel_epi64((__m128i *)(void *)(to + (k)*MFS_TILE_ROW), bytes##k)
#define LANE_RELOAD(k, entry) RELOAD(bits##k, at##k)

#define ROUND(EACH)                                                                                \
	EACH(LANE_STEP_0);                                                                         \
	EACH(LANE_STEP_1);                                                                         \
	EACH(LANE_STEP_2);                                                                         \
	EACH(LANE_STEP_3);                                                                         \
	EACH(LANE_STEP_4);                                                                         \
	EACH(LANE_WRITE);                                                                          \
	EACH(LANE_RELOAD)

TARGET void mfs_decode_eight_avx2(mfs_lanes *lanes, unsigned rounds)
{
	const uint16_t *first = lanes->entry[0], *second = lanes->entry[1];
	uint8_t *to = lanes->tile[0];
	const uint8_t *end = to + rounds * MFS_ROUND;

	EACH_OF_EIGHT(LANE_LOAD);
	for (; to < end; to += MFS_ROUND) {
		ROUND(EACH_OF_EIGHT);
	}
	EACH_OF_EIGHT(LANE_STORE);
}

TARGET void mfs_decode_four_avx2(mfs_lanes *lanes, unsigned rounds)
{
	const uint16_t *first = lanes->entry[0];
	uint8_t *to = lanes->tile[0];
	const uint8_t *end = to + rounds * MFS_ROUND;

	EACH_OF_FOUR(LANE_LOAD);
	for (; to < end; to += MFS_ROUND) {
		ROUND(EACH_OF_FOUR);
	}
	EACH_OF_FOUR(LANE_STORE);
}

#endif
