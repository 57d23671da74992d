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

#endif
