/* What the names of a GGUF model's tensors say. */
#ifndef MFS_GGUF_ROLES_H
#define MFS_GGUF_ROLES_H

#include <stdbool.h>

/* Do programs expect this matrix in F32, or is it too small and matters too much to be
 * made anything less? The rule of llama-quantize and of llama.cpp's converters: whatever
 * is no "weight", as biases of experts and ssm_d, which ggml's operations know in F32
 * only; and norms, routers, positions and the like. */
bool mfs_gguf_stays_float(const char *name);

#endif
