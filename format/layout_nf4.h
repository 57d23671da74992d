/* The layout of NF4 codes: two weights in each byte, their constants elsewhere. */
#ifndef MFS_LAYOUT_NF4_H
#define MFS_LAYOUT_NF4_H

#include "layout.h"

/* Static; safe from any thread. */
const mfs_layout *mfs_layout_nf4(void);

#endif
