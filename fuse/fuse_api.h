/* libfuse, in the version of its interface that the build chose. */
#ifndef MODELFS_FUSE_API_H
#define MODELFS_FUSE_API_H

#ifndef FUSE_USE_VERSION
#define FUSE_USE_VERSION 312
#endif
#include <fuse_lowlevel.h>

#endif
