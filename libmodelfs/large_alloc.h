#ifndef MFS_LARGE_ALLOC_H
#define MFS_LARGE_ALLOC_H

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#define MFS_LARGE_PAGE ((size_t)2 << 20)

/* Memory on a cache line, for free(); NULL without memory. Where there is much of
 * it the kernel is asked for large memory pages: taking 4 KiB ones, one fault each,
 * costs a packer as much time as its hashes. */
static inline void *mfs_large_alloc(size_t size)
{
	size_t align = size < 2 * MFS_LARGE_PAGE ? 64 : MFS_LARGE_PAGE;
	void *memory;

	if (size > SIZE_MAX / 2)
		return NULL;
	memory = aligned_alloc(align, (size + align - 1) / align * align);
	if (memory && align == MFS_LARGE_PAGE)
		/* Only a hint. */
		(void)madvise(memory, (size + align - 1) / align * align, MADV_HUGEPAGE);
	return memory;
}

#endif
