/* The key-values of a GGUF file. */
#ifndef MFS_GGUF_KEYS_H
#define MFS_GGUF_KEYS_H

#include "gguf_reader.h"

/* Smallest key-value: a key of one byte and a one-byte value. */
#define MFS_GGUF_KEY_VALUE_MIN (8 + 1 + 4 + 1)
#define MFS_GGUF_KEYS_MAX      65536

/* Reads `count` of them (at most MFS_GGUF_KEYS_MAX): checks and skips their values, and
 * sets in out->gguf those that matter beyond the header, and the alignment. */
int mfs_gguf_keys_read(mfs_gguf_reader *r, uint32_t count, mfs_import *out);

#endif
