/* Names of tensors in an adapter of PEFT. */
#ifndef MFS_PEFT_KEYS_H
#define MFS_PEFT_KEYS_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {
	const char *module; /* module_length bytes of the key */
	size_t module_length;
	char matrix;	/* 'a', 'b', or 'm': the magnitudes of rows (DoRA) */
	bool embedding; /* A is rank x rows, B is columns x rank */
} mfs_peft_key;

/* False: not the name of a matrix of a LoRA. `key` is terminated. */
bool mfs_peft_key_parse(mfs_peft_key *out, const char *key);
/* What is wrong with one that is none, to follow "tensor 'KEY' ". */
const char *mfs_peft_key_reason(const char *key);

/* A module's names in models that were saved by other versions: those with pictures say
 * "model.language_model." or "language_model.model." for the same part, and what was
 * trained without the head lacks the first part. Form 0 is the
 * name itself; returns the length of form `form` in `out`, or 0 past the last. */
size_t mfs_peft_module_name(char *out, size_t room, const char *module, unsigned form);
/* Its name in a model that was saved without its head, where names lack the first part;
 * NULL if that is not one which can be missing. */
const char *mfs_peft_module_behind_base(const char *module);

#endif
