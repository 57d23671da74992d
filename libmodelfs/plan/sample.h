/* Choosing how each tensor is stored, by coding a sample of its spans. */
#ifndef MFS_SAMPLE_H
#define MFS_SAMPLE_H

#include <stdatomic.h>

#include "plan.h"

/* Original bytes of a sample, unless one span is larger: a 32nd part of the tensor, so
 * that sampling takes little beside coding, between these. */
#define MFS_SAMPLE_MIN (256u << 10)
#define MFS_SAMPLE_MAX (1024u << 10)

static inline uint64_t mfs_sample_bytes(uint64_t tensor_bytes)
{
	uint64_t part = tensor_bytes / 32;

	return part < MFS_SAMPLE_MIN   ? MFS_SAMPLE_MIN
	       : part > MFS_SAMPLE_MAX ? MFS_SAMPLE_MAX
				       : part;
}

/* Called now and then from the calling thread. */
typedef void mfs_sample_progress(void *user, uint64_t original_done);

/* Fills in class, rules and tables of every tensor of the plan, on `threads`
 * threads; what it chooses does not depend on their number. Stops with
 * MFS_E_CANCELLED once *cancel is set. */
int mfs_plan_sample(mfs_plan *plan, unsigned threads, const atomic_int *cancel,
		    mfs_sample_progress *progress, void *user, mfs_problem *why);

#endif
