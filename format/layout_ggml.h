/* The layout rows of ggml's tensor types: what the packer writes into a
 * container. No reader uses this file. */
#ifndef MFS_LAYOUT_GGML_H
#define MFS_LAYOUT_GGML_H

#include "layout.h"

/* The layout of a ggml type number, or NULL where the type is unknown. The
 * result is finished and lives as long as the program. */
const mfs_layout *mfs_layout_ggml(uint32_t ggml_type);

/* All rows, for tests and tools: row 0 .. count - 1. */
uint32_t mfs_layout_ggml_count(void);
const mfs_layout *mfs_layout_ggml_row(uint32_t row);

#endif
