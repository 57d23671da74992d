/* The packer, for tests. */
#ifndef MFS_PACKER_H
#define MFS_PACKER_H

#include "modelfs_pack.h"
#include "output.h"

/* What mfs_packer_open() opened is written through `table`. */
void mfs_packer_set_output(mfs_packer *packer, const mfs_output_table *table, void *user);

#endif
