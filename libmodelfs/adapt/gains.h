/*
 * The gains of a DoRA adapter's rows, which its magnitudes are for one base: a
 * safetensors file with a vector of F32 for each tensor that the adapter changes,
 * under the tensor's name. It is computed while it is read, from base and adapter.
 */
#ifndef MFS_GAINS_H
#define MFS_GAINS_H

#include "adapter.h"
#include "base_weights.h"

typedef struct mfs_gains mfs_gains;

/* Makes the file for an adapter of PEFT and the models that its pairs are of, `count` of
 * them in the order of the adapter's chain; *out is NULL if it has no magnitudes. The
 * models are copied, adapter and `matrices` (a copy of the source of its tensors, which
 * `import` describes) must live on. The source may be read from any thread. */
int mfs_gains_open(mfs_gains **out, const mfs_adapter *adapter, const mfs_base_model *models,
		   uint32_t count, const mfs_source *matrices, const mfs_import *import,
		   mfs_source *source, mfs_problem *why);
void mfs_gains_free(mfs_gains *gains); /* NULL is fine; the source ends with it */

/* Finds the gains of the adapter's pairs in the import of such a file. MFS_E_INVALID
 * where they are not those of its tensors. */
int mfs_gains_assign(mfs_adapter *adapter, const mfs_base_model *models, const mfs_import *gains);

#endif
