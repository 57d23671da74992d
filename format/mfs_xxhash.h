/* XXH3. On x86 by the widest vectors that the processor has, where the installed
 * libxxhash can choose them at run time: its plain functions are built for the
 * oldest processor of the distribution. The hashes are the same. */
#ifndef MFS_XXHASH_H
#define MFS_XXHASH_H

#ifdef MFS_XXHASH_DISPATCH
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#endif
