/* adapter_config.json of a PEFT adapter: what a LoRA is scaled by. */
#ifndef MFS_PEFT_CONFIG_H
#define MFS_PEFT_CONFIG_H

#include <jansson.h>
#include <regex.h>
#include <stdbool.h>

#include "import.h"

typedef struct {
	regex_t regex;
	double value;
} mfs_peft_pattern;

typedef struct {
	mfs_peft_pattern *pattern;
	size_t count;
} mfs_peft_patterns;

typedef struct {
	json_t *root;
	const char *path; /* the caller's, for messages */
	double rank, alpha;
	bool rslora, dora, fan_in_fan_out;
	mfs_peft_patterns ranks, alphas; /* of modules, in their order */
} mfs_peft_config;

/* Reads the file and refuses what is no LoRA, or one that more belongs to than its
 * matrices: MFS_E_INVALID, MFS_E_UNSUPPORTED, or what opening and reading give. To be freed
 * whatever it returns. */
int mfs_peft_config_read(mfs_peft_config *out, const char *path, mfs_problem *why);
/* The same from an open source, whose name must live on. */
int mfs_peft_config_load(mfs_peft_config *out, mfs_source *source, mfs_problem *why);
void mfs_peft_config_free(mfs_peft_config *config);

/* The scale of a module with this rank and alpha. */
double mfs_peft_scale(const mfs_peft_config *config, double rank, double alpha);

/* Rank and alpha of a module, by rank_pattern and alpha_pattern: the first of their
 * keys that matches the end of its name. 0, or MFS_E_INVALID. */
int mfs_peft_module(const mfs_peft_config *config, const char *module, double *rank, double *alpha,
		    mfs_problem *why);

#endif
