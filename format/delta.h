/*
 * Deltas: blocks as their difference to the blocks of a base, in place. Between a
 * model and its fine-tune most weights differ little, so the differences are
 * small numbers, which the layout's streams then code well. Both directions are
 * exact. Pure functions; safe from any thread.
 */
#ifndef MFS_DELTA_H
#define MFS_DELTA_H

#include <stdbool.h>
#include <stdint.h>

#include "layout.h"

/* Turns `blocks` blocks at `bytes` into their difference to those at `base`.
 * Not `integer`: exclusive or. Else, field by field:
 *   PLANES, ROTATE, FLOAT: words: bytes - base modulo their size, as a two's complement
 *                    number n, folded: 2 n, or -2 n - 1 where n is negative
 *   bits 8, 4, 2     lanes of so many bits in each byte: bytes - base modulo 2^bits
 *   else             exclusive or */
void mfs_delta_encode(const mfs_layout *layout, uint32_t blocks, bool integer, const uint8_t *base,
		      uint8_t *bytes);
/* The reverse. */
void mfs_delta_decode(const mfs_layout *layout, uint32_t blocks, bool integer, const uint8_t *base,
		      uint8_t *bytes);

#endif
