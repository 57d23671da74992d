/*
 * Low-rank adapters: which pair of matrices belongs to which tensor of the base.
 * An adapter is checked against its base when it is added, by the rules of
 * llama.cpp, which would otherwise refuse it, or the merged model, at run time.
 */
#ifndef MFS_ADAPTER_H
#define MFS_ADAPTER_H

#include "base_weights.h"
#include "import.h"
#include "peft_config.h"

/* W + scale * B A, for one tensor. */
typedef struct {
	uint32_t target; /* tensor of the base's import */
	/* Tensors of the adapter's import, as merging wants them: A is rank x columns
	 * (columns x rank if transposed), B is rows x rank. */
	uint32_t a, b;
	uint32_t rank;
	uint64_t experts; /* that have an A and a B each, one behind the other; else 1 */
	bool transposed;
	bool b_transposed; /* B is rank x rows */
	/* Of DoRA: tensor with the magnitudes of the rows, and with what these come to on
	 * the base, in the file of gains (gains.h) or the adapter's own. UINT32_MAX: none. */
	uint32_t magnitude, gain;
	double scale; /* 0: by the adapter's alpha */
} mfs_adapter_pair;

typedef struct mfs_adapter mfs_adapter;
struct mfs_adapter {
	mfs_adapter_pair *pairs; /* sorted by target */
	uint32_t count;
	float alpha; /* 0: the scale is the user's alone */
	/* Of a base in several files: this is what belongs to the first of them, and so on. */
	mfs_adapter *next;
};

/* Pairs the tensors of a GGUF adapter and checks them against the base.
 * MFS_E_INVALID, MFS_E_UNSUPPORTED or MFS_E_MEMORY with `why`, which names the
 * adapter by `name`. With `gains` it may have vectors "X.lora_gain" beside the pairs of X,
 * which no other program knows. The caller frees *out. */
int mfs_adapter_new(mfs_adapter **out, const char *name, const mfs_import *adapter, bool gains,
		    const char *base_name, const mfs_import *base, mfs_problem *why);
void mfs_adapter_free(mfs_adapter *adapter); /* NULL is fine; frees those behind it */

/* The same for an adapter of PEFT whose base is safetensors, in `count` files: its
 * tensors stay as they are, modules are found by their names. */
int mfs_adapter_new_peft(mfs_adapter **out, const char *name, const mfs_peft_config *config,
			 const mfs_import *adapter, const mfs_base_model *models, uint32_t count,
			 mfs_problem *why);

/* Whether it has gains, which hold for its base alone and scale 1. */
bool mfs_adapter_has_gains(const mfs_adapter *adapter);

/* What belongs to file `number` of the base. */
const mfs_adapter *mfs_adapter_at(const mfs_adapter *adapter, uint32_t number);

/* The pair of a tensor of the base, or NULL. */
const mfs_adapter_pair *mfs_adapter_find(const mfs_adapter *adapter, uint32_t target);

/* The scale of a pair when the user asks for `user`, as llama.cpp computes it. */
float mfs_adapter_scale(const mfs_adapter *adapter, const mfs_adapter_pair *pair, float user);

#endif
