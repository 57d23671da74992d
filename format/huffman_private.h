/* What the coder and the decoder of literals know of zstd's format. */
#ifndef MFS_HUFFMAN_PRIVATE_H
#define MFS_HUFFMAN_PRIVATE_H

#include <stdint.h>

#define BLOCK_BYTES  (128u << 10) /* most that a block may hold */
#define FOUR_STREAMS 256	  /* bytes of literals from which on four streams are made */

/* Magic; no content size, checksum or dictionary number; a window of a block. */
static const uint8_t mfs_literals_header[6] = {0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3};

#endif
