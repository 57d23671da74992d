/* The streams that the fields SYMBOLS and EXTEND of a layout become (layout.h):
 * `upper` is that of SYMBOLS, `rest` that of EXTEND, or `upper` again where nothing
 * extends. Pure functions; safe from any thread. */
#ifndef MFS_SYMBOLS_H
#define MFS_SYMBOLS_H

#include "layout.h"

/* From `blocks` whole blocks to streams. */
void mfs_symbols_split(const mfs_layout *layout, uint32_t blocks, const uint8_t *in, uint8_t *upper,
		       uint8_t *rest);
/* Writes the two fields of each block at `out`, nothing else of it. */
void mfs_symbols_join(const mfs_layout *layout, uint32_t blocks, const uint8_t *upper,
		      const uint8_t *rest, uint8_t *out);

/* True if the stream of symbols is the field of each block as it stands. */
int mfs_symbols_are_field(const mfs_layout *layout);

/* Weight by weight: what the two above are tested against. */
void mfs_symbols_split_reference(const mfs_layout *layout, uint32_t blocks, const uint8_t *in,
				 uint8_t *upper, uint8_t *rest);
void mfs_symbols_join_reference(const mfs_layout *layout, uint32_t blocks, const uint8_t *upper,
				const uint8_t *rest, uint8_t *out);

#endif
