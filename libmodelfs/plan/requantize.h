/*
 * A GGUF model whose weights are changed by a recipe: a source that reads like the
 * file that llama-quantize would have written, but is computed while it is read,
 * from the original. The same bytes come out whoever reads what first. Reading is
 * safe from any thread.
 */
#ifndef MFS_REQUANTIZE_H
#define MFS_REQUANTIZE_H

#include "loss_meter.h"
#include "recipe.h"

typedef struct mfs_requantized mfs_requantized;

/* Takes over `source` and `import`, which describes it, and puts the computed
 * source in place of the first; the second is empty then. `recipe` is copied.
 * Refuses what cannot be changed: MFS_E_UNSUPPORTED (safetensors, quantized
 * already), MFS_E_INVALID (nothing that the recipe takes), MFS_E_MEMORY or what
 * reading gives, with `why`; source and import are as they were then. */
int mfs_requantize(mfs_requantized **out, mfs_source *source, mfs_import *import,
		   const mfs_recipe *recipe, mfs_problem *why);
/* Closes the original. NULL is fine. */
void mfs_requantized_free(mfs_requantized *q);

/* The import of the computed file, where the importers cannot make it: of NF4. Each
 * quantized tensor, named as before, is followed by its constants: absmax, nested
 * absmax; the last tensor of all is the nested map. *out is empty for other recipes.
 * 0, MFS_E_MEMORY, or MFS_E_INVALID where the names are taken, with `why`. */
int mfs_requantized_import(const mfs_requantized *q, mfs_import *out, mfs_problem *why);

/* The nested offset of the NF4 tensor that begins at `offset` of the computed file,
 * once it was read. */
float mfs_requantized_nested_offset(const mfs_requantized *q, uint64_t offset);

/* Why reading failed, where a weight could not be changed: fills `why` and returns
 * its error, or 0. */
int mfs_requantized_problem(mfs_requantized *q, mfs_problem *why);

/* From here on what is read is counted as lost: see loss_meter.h. */
void mfs_requantized_measure(mfs_requantized *q);

/* What a tensor lost, once all of it was read and nobody reads on. */
typedef struct {
	const char *name;      /* as long as the file that it is of */
	const char *from, *to; /* types */
	uint64_t weights;
	mfs_loss_sum sum;
} mfs_loss;

/* False past the last of the tensors that were changed. */
bool mfs_requantized_loss(mfs_requantized *q, uint32_t i, mfs_loss *out);

/* How the file came to be: "q4_0 rmse=1.234e-03 max=5.678e-02", of all weights that
 * were changed. Its length never changes. */
const char *mfs_requantized_note(mfs_requantized *q);

#endif
