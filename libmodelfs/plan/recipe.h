/*
 * Recipes: how the weights of a model are changed on their way into a container,
 * and which tensors that concerns.
 */
#ifndef MFS_RECIPE_H
#define MFS_RECIPE_H

#include <stdbool.h>

#include "import.h"

#define MFS_RECIPE_TEXT 32

typedef struct {
	const struct mfs_recipe_type *type; /* NULL: types stay */
	double share;			    /* of each tensor's weights that become 0 */
	bool two_of_four;		    /* the lesser two of each four become 0 */
	char text[MFS_RECIPE_TEXT];	    /* "q4_0", "pruned 0.5", "q8_0 pruned 2:4" */
} mfs_recipe;

/* `quantize` names a type ("q4_0"), `prune` is a share ("0.5") or "2:4"; each may be
 * NULL. MFS_E_ARGUMENT with `why`. */
int mfs_recipe_parse(mfs_recipe *out, const char *quantize, const char *prune, mfs_problem *why);

/* Does it change anything? */
bool mfs_recipe_any(const mfs_recipe *recipe);

/* The type that weights get, and what general.file_type says then, or
 * MFS_GGUF_KEEP. */
uint32_t mfs_recipe_ggml_type(const mfs_recipe *recipe);
uint32_t mfs_recipe_file_type(const mfs_recipe *recipe);

/* NF4: codes and constants apart, no type of ggml's. */
bool mfs_recipe_is_nf4(const mfs_recipe *recipe);

/* Does the recipe quantize this tensor? Rows must be whole blocks. */
bool mfs_recipe_quantizes(const mfs_recipe *recipe, const mfs_import_tensor *tensor);
/* Does it prune it? For 2:4 a row must be a multiple of four. */
bool mfs_recipe_prunes(const mfs_recipe *recipe, const mfs_import_tensor *tensor);

#endif
