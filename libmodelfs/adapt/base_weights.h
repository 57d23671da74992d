/* Weights of a model that is being packed, row by row, as F32, whatever their type. */
#ifndef MFS_BASE_WEIGHTS_H
#define MFS_BASE_WEIGHTS_H

#include "../../format/merge.h"
#include "bnb.h"
#include "import.h"
#include "requantize.h"

/* One file of the model: copies of what it has in the plan, which must stay open. */
typedef struct {
	const char *name;
	mfs_source source;
	mfs_import import;
	const mfs_bnb *bnb;
	const mfs_requantized *requantized;
	const float *nested_offsets; /* of carried NF4, by tensor; else NULL */
	bool tied; /* in the first: its configuration makes the embedding the head too */
} mfs_base_model;

/* The gain of each row of a tensor for DoRA, which is tensor `target` in file `number` of
 * the model, `files` being all of them in their order: its magnitude by the norm of the row once
 * the adapter is merged into it (merge.h). The adapter has no gains and counts from row 0. `gain`
 * has room for `rows` numbers, `magnitude` has as many. MFS_E_UNSUPPORTED (a type that cannot be
 * decoded), MFS_E_INVALID (a gain that is no finite number), MFS_E_MEMORY or what reading gives.
 * Safe from any thread. */
int mfs_base_gains(const mfs_base_model *files, uint32_t number, uint32_t target, uint64_t rows,
		   uint64_t columns, const mfs_merge_adapter *adapter, const float *magnitude,
		   float *gain);

#endif
