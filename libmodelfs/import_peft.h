/*
 * PEFT adapters (a directory with adapter_config.json and adapter_model.safetensors)
 * as GGUF adapters that llama.cpp accepts. The file is made while it is read: names
 * are translated, rows of q and k permuted where llama.cpp's conversion permutes
 * those of the model, and scales that an adapter of GGUF cannot express (rsLoRA,
 * rank_pattern, alpha_pattern) are multiplied into B.
 */
#ifndef MFS_IMPORT_PEFT_H
#define MFS_IMPORT_PEFT_H

#include <sys/stat.h>

#include "import.h"

typedef struct mfs_peft mfs_peft;

/* Opens the adapter in `directory` for the GGUF model `base`. Then *source is the
 * GGUF file, which may be read from any thread, and *found what stat says of the
 * file that the numbers come from. What is not an adapter to `base`, or one that
 * GGUF cannot express, is refused by name: MFS_E_INVALID or MFS_E_UNSUPPORTED. */
int mfs_peft_open(mfs_peft **out, const char *directory, const mfs_import *base, mfs_source *source,
		  struct stat *found, mfs_problem *why);
void mfs_peft_close(mfs_peft *peft); /* NULL is fine; the source ends with it */

/* The descriptor of adapter_model.safetensors. */
int mfs_peft_descriptor(const mfs_peft *peft);

#endif
