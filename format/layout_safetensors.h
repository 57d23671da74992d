/* The layout rows of safetensors' dtypes: what the packer writes into a
 * container. No reader uses this file. */
#ifndef MFS_LAYOUT_SAFETENSORS_H
#define MFS_LAYOUT_SAFETENSORS_H

#include <stdbool.h>

#include "layout.h"

/* The layout of a dtype such as "BF16", or NULL where it is not known. Types that
 * ggml has too have ggml's layout. With `constants` the same bytes count as
 * quantization constants: tensors that hold nothing else. The result is finished
 * and lives as long as the program. */
const mfs_layout *mfs_layout_safetensors(const char *dtype, bool constants);

/* All rows, for tests: row 0 .. count - 1. */
uint32_t mfs_layout_safetensors_count(void);
const mfs_layout *mfs_layout_safetensors_row(uint32_t row, bool constants);

#endif
