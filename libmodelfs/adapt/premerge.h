/*
 * A quantized GGUF model with adapters merged in before it was quantized: a source
 * that reads like its base, byte for byte, but for the tensors that the adapters
 * change. These are computed while they are read: the unquantized tensor plus the
 * adapters by MERGE-1 in F32, quantized to the type that the base's tensor has. The
 * same bytes come out whoever reads what first. Reading is safe from any thread.
 */
#ifndef MFS_PREMERGE_H
#define MFS_PREMERGE_H

#include "adapter.h"
#include "import_peft.h"
#include "requantize.h"

typedef struct mfs_premerged mfs_premerged;

/* A file whose tensors are read: copies, whose memory lives as long as the plan. */
typedef struct {
	const char *name;
	mfs_source source;
	mfs_import import;
} mfs_premerge_file;

typedef struct {
	mfs_premerge_file file;
	const mfs_adapter *adapter; /* paired with the tensors of the base */
	const mfs_peft *peft;	    /* knows the magnitudes of a DoRA; NULL: nobody does */
	float scale;
} mfs_premerge_part;

typedef struct {
	mfs_premerge_file base;
	mfs_premerge_part *parts; /* in the order in which they are added */
	uint32_t part_count;
	const char *mixture; /* the parts in words: "fr@0.7+de@0.3" */
} mfs_premerge_request;

/* Takes over `source` and `import`, the model that the base was quantized from, and
 * puts the computed source in place of the first, whose descriptor it keeps; the
 * second is empty then. Refuses what does not fit, by name: MFS_E_INVALID,
 * MFS_E_UNSUPPORTED, or what reading gives, with `why`; both are as they were then. */
int mfs_premerge(mfs_premerged **out, mfs_source *source, mfs_import *import,
		 const mfs_premerge_request *request, mfs_problem *why);
/* Closes the unquantized model. NULL is fine. */
void mfs_premerged_free(mfs_premerged *p);

/* As those of requantize.h. Blocks are compared with those of the base. */
void mfs_premerged_measure(mfs_premerged *p);
bool mfs_premerged_loss(mfs_premerged *p, uint32_t i, mfs_loss *out);
int mfs_premerged_problem(mfs_premerged *p, mfs_problem *why);
/* "fr@0.7+de@0.3 rmse=1.234e-03 max=5.678e-02" */
const char *mfs_premerged_note(mfs_premerged *p);

/* The type of most of the weights that were quantized, as in names: "q4_k". */
const char *mfs_premerged_type(const mfs_premerged *p);
/* Of a sample of the tensors: blocks, and how many are those of the base where no
 * adapter is merged. Few are where another quantizer made the base. */
void mfs_premerged_sample(const mfs_premerged *p, uint64_t *blocks, uint64_t *equal);

#endif
