/*
 * PEFT adapters (a directory with adapter_config.json and adapter_model.safetensors)
 * as GGUF adapters that llama.cpp accepts. The file is made while it is read: names
 * are translated, rows of q and k permuted where llama.cpp's conversion permutes
 * those of the model, and scales that an adapter of GGUF cannot express (rsLoRA,
 * rank_pattern, alpha_pattern) are multiplied into B. The magnitudes of a DoRA become
 * the gains that they are on the base.
 */
#ifndef MFS_IMPORT_PEFT_H
#define MFS_IMPORT_PEFT_H

#include <sys/stat.h>

#include "base_weights.h"
#include "import.h"

typedef struct mfs_peft mfs_peft;

/* Opens the adapter in `directory` for the GGUF model `base`, which is copied. Then *source is the
 * GGUF file, which may be read from any thread, and *found what stat says of the
 * file that the numbers come from. What is not an adapter to `base`, or one that
 * GGUF cannot express, is refused by name: MFS_E_INVALID or MFS_E_UNSUPPORTED. */
int mfs_peft_open(mfs_peft **out, const char *directory, const mfs_base_model *base,
		  mfs_source *source, struct stat *found, mfs_problem *why);
void mfs_peft_close(mfs_peft *peft); /* NULL is fine; the source ends with it */

/* A DoRA: the file has gains too, vectors "X.lora_gain", which llama.cpp knows nothing
 * of (adapter.h). */
bool mfs_peft_is_dora(const mfs_peft *peft);

/* For a DoRA: what the gains in tensor `name` of the file come to on another model with
 * the same rows, for tensor `target` of it; `out` has room for them. MFS_E_NOT_FOUND
 * where it has no such gains, or what mfs_base_gains() gives. Safe from any thread. */
int mfs_peft_gains(const mfs_peft *peft, const char *name, const mfs_base_model *model,
		   uint32_t target, float *out);

/* The path of the file with the matrices of the adapter in `directory`, which the caller
 * frees. MFS_E_UNSUPPORTED for a pickle, which runs what its author wrote. */
int mfs_peft_matrices_path(char **out, const char *directory, mfs_problem *why);

/* The descriptor of adapter_model.safetensors. */
int mfs_peft_descriptor(const mfs_peft *peft);

#endif
