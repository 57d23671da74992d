/*
 * Contexts: what the constants of a block say about its groups of symbols.
 * Integers only, so that every processor finds the same value. Pure functions.
 *
 * The logarithm of a number v > 0 is 32 log2(v) plus a constant, from its leading
 * bit and the five bits behind it; of 0 it is 0. Signs are ignored; infinities and
 * NaNs count as the next larger exponent. The value of a group is
 *   RATIOs  32 log2(minimum / scale) + 32, within 0 .. 255; 0 where the minimum
 *           is 0, else 255 where the scale is 0
 *   others  32 log2(scale) less its mean over a window of blocks, rounded down,
 *           + 128, within 0 .. 255
 */
#ifndef MFS_CONTEXT_H
#define MFS_CONTEXT_H

#include "layout.h"

/* 0 if the layout's context reads nothing but constants and its groups are of at
 * least four bytes, or if it has none; else MFS_E_CORRUPT. */
int mfs_context_check(const mfs_layout *layout);

/* Groups of symbols in a block, and bytes of their symbols. */
static inline uint32_t mfs_context_groups(const mfs_layout *layout)
{
	return layout->symbols.weights / layout->symbols.group;
}

static inline uint32_t mfs_context_group_bytes(const mfs_layout *layout)
{
	return layout->symbols.group / layout->symbols.pack;
}

/* True if values depend on a window of blocks. */
static inline int mfs_context_has_window(const mfs_layout *layout)
{
	return layout->context == MFS_CONTEXT_HALF || layout->context == MFS_CONTEXT_EXPONENT ||
	       layout->context == MFS_CONTEXT_HALF_BYTES || layout->context == MFS_CONTEXT_HALF_SIX;
}

/* Writes a value for each group of `blocks` blocks at `in`. Windows of `window`
 * blocks (0: all) begin at the first block. */
void mfs_context_values(const mfs_layout *layout, uint32_t blocks, uint32_t window,
			const uint8_t *in, uint8_t *out);

/* The logarithms, for tests. */
int mfs_context_log_half(uint16_t half);
int mfs_context_log_integer(unsigned value);

#endif
