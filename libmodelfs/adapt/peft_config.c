#include "peft_config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "problem.h"

#define CONFIG_MAX   (1u << 20)
#define PATTERN_MAX  256u /* bytes of one */
#define PATTERNS_MAX 256u

#define refuse(config, error, ...) mfs_problem_about((config)->path, why, (error), __VA_ARGS__)

/* ---- what cannot be taken over ---- */

static bool is_set(const json_t *value)
{
	if (!value || json_is_null(value) || json_is_false(value))
		return false;
	if (json_is_array(value))
		return json_array_size(value) > 0;
	if (json_is_object(value))
		return json_object_size(value) > 0;
	return true;
}

static const struct {
	const char *key, *reason;
} refused[] = {
    {"lora_bias", "trains biases of its matrices, which are no part of a matrix"},
    {"modules_to_save", "replaces whole modules of the model"},
    {"target_parameters", "changes parameters that are no modules"},
    {"trainable_token_indices", "replaces rows of the embedding"},
    {"layer_replication", "is made for a model whose layers are repeated"},
    {"alora_invocation_tokens", "works only behind certain tokens"},
    {"use_qalora", "is made for groups of columns"},
    {"arrow_config", "chooses among other adapters for each token"},
};

/* Initialisations that subtract the adapter's first value from the model: without
 * the model that this left behind the adapter means nothing. What is not known may
 * be one of these. */
static int check_initialisation(const mfs_peft_config *config, mfs_problem *why)
{
	static const char *const changing[] = {"pissa", "corda", "olora", "loftq", "lora_ga"};
	static const char *const harmless[] = {"gaussian", "eva", "orthogonal"};
	const json_t *value = json_object_get(config->root, "init_lora_weights");
	const char *name = json_string_value(value);

	if (!value || json_is_null(value) || json_is_boolean(value))
		return 0;
	for (size_t i = 0; name && i < sizeof(changing) / sizeof(*changing); i++)
		if (!strncasecmp(name, changing[i], strlen(changing[i])))
			return refuse(
			    config, MFS_E_UNSUPPORTED,
			    "init_lora_weights '%.40s' changed the base model: convert the "
			    "adapter to an ordinary LoRA first",
			    name);
	for (size_t i = 0; name && i < sizeof(harmless) / sizeof(*harmless); i++)
		if (!strcasecmp(name, harmless[i]))
			return 0;
	return refuse(config, MFS_E_UNSUPPORTED,
		      "init_lora_weights '%.40s' is not known: it may have changed the base model",
		      name ? name : "");
}

/* Variants are switched on by "use_...": one that is not known computes something else. */
static int check_variants(const mfs_peft_config *config, mfs_problem *why)
{
	static const char *const known[] = {"use_rslora", "use_dora"};
	const char *key;
	json_t *value;

	json_object_foreach(config->root, key, value)
	{
		bool other = !strncmp(key, "use_", 4) && is_set(value);

		for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
			other = other && strcmp(key, known[i]) != 0;
		if (other)
			return refuse(config, MFS_E_UNSUPPORTED,
				      "%.40s: this variant of LoRA is not supported", key);
	}
	return 0;
}

static int check_features(const mfs_peft_config *config, mfs_problem *why)
{
	const char *type = json_string_value(json_object_get(config->root, "peft_type"));
	const char *bias = json_string_value(json_object_get(config->root, "bias"));
	int error;

	if (!type || strcmp(type, "LORA") != 0)
		return refuse(config, MFS_E_UNSUPPORTED,
			      "peft_type is '%.40s', only LORA is supported", type ? type : "");
	if (bias && strcmp(bias, "none") != 0)
		return refuse(
		    config, MFS_E_UNSUPPORTED,
		    "bias '%.40s': the adapter has biases of the model, which are no part "
		    "of a matrix",
		    bias);
	for (size_t i = 0; i < sizeof(refused) / sizeof(*refused); i++)
		if (is_set(json_object_get(config->root, refused[i].key)))
			return refuse(config, MFS_E_UNSUPPORTED, "%s: the adapter %s",
				      refused[i].key, refused[i].reason);
	error = check_variants(config, why);
	return error ? error : check_initialisation(config, why);
}

/* ---- numbers ---- */

static bool is_flag(const json_t *root, const char *key)
{
	return is_set(json_object_get(root, key));
}

static bool get_number(const json_t *value, double *out)
{
	*out = json_number_value(value);
	return json_is_number(value) && isfinite(*out);
}

static bool is_rank(double rank)
{
	return rank >= 1 && rank <= UINT32_MAX && rank == floor(rank);
}

static int check_numbers(mfs_peft_config *config, mfs_problem *why)
{
	if (!get_number(json_object_get(config->root, "r"), &config->rank) ||
	    !is_rank(config->rank))
		return refuse(config, MFS_E_INVALID, "r is no rank");
	if (!get_number(json_object_get(config->root, "lora_alpha"), &config->alpha))
		return refuse(config, MFS_E_INVALID, "lora_alpha is no finite number");
	config->rslora = is_flag(config->root, "use_rslora");
	config->dora = is_flag(config->root, "use_dora");
	config->fan_in_fan_out = is_flag(config->root, "fan_in_fan_out");
	return 0;
}

/* ---- patterns ---- */

/* What means the same to Python and to POSIX, and cannot take long to match. */
static bool is_plain_pattern(const char *key)
{
	static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				      "0123456789_.-^$|()[]*+?\\";
	size_t length = strlen(key);

	if (length > PATTERN_MAX || strspn(key, allowed) != length || strstr(key, "(?"))
		return false;
	for (const char *p = strchr(key, '\\'); p; p = strchr(p + 2, '\\'))
		if (!strchr(".-^$|()[]*+?\\", p[1]) || !p[1])
			return false;
	return true;
}

static int compile(const mfs_peft_config *config, const char *key, const json_t *value,
		   mfs_peft_pattern *out, mfs_problem *why)
{
	char expression[PATTERN_MAX + 16];

	if (!get_number(value, &out->value))
		return refuse(config, MFS_E_INVALID, "the pattern '%.80s' has no finite number",
			      key);
	if (!is_plain_pattern(key))
		return refuse(config, MFS_E_UNSUPPORTED, "the pattern '%.80s' is not supported",
			      key);
	snprintf(expression, sizeof(expression), "^(.*\\.)?(%s)$", key);
	if (regcomp(&out->regex, expression, REG_EXTENDED | REG_NOSUB))
		return refuse(config, MFS_E_INVALID, "'%.80s' is no pattern", key);
	return 0;
}

static int read_patterns(const mfs_peft_config *config, const char *name, mfs_peft_patterns *out,
			 mfs_problem *why)
{
	json_t *patterns = json_object_get(config->root, name), *value;
	const char *key;
	int error = 0;

	if (!patterns || json_is_null(patterns))
		return 0;
	if (!json_is_object(patterns))
		return refuse(config, MFS_E_INVALID, "%s is no object", name);
	if (json_object_size(patterns) > PATTERNS_MAX)
		return refuse(config, MFS_E_LIMIT, "%s has more than %u patterns", name,
			      PATTERNS_MAX);
	out->pattern = calloc(json_object_size(patterns) + 1, sizeof(*out->pattern));
	if (!out->pattern)
		return refuse(config, MFS_E_MEMORY, "out of memory");
	json_object_foreach(patterns, key, value)
	{
		error = compile(config, key, value, &out->pattern[out->count], why);
		if (error)
			return error;
		out->count++;
	}
	return 0;
}

static double find_pattern(const mfs_peft_patterns *patterns, const char *module, double otherwise)
{
	for (size_t i = 0; i < patterns->count; i++)
		if (regexec(&patterns->pattern[i].regex, module, 0, NULL, 0) == 0)
			return patterns->pattern[i].value;
	return otherwise;
}

int mfs_peft_module(const mfs_peft_config *config, const char *module, double *rank, double *alpha,
		    mfs_problem *why)
{
	*rank = find_pattern(&config->ranks, module, config->rank);
	*alpha = find_pattern(&config->alphas, module, config->alpha);
	return is_rank(*rank)
		   ? 0
		   : refuse(config, MFS_E_INVALID, "rank_pattern: no rank for '%.80s'", module);
}

/* ---- the file ---- */

static int parse(mfs_peft_config *config, const char *text, size_t length, mfs_problem *why)
{
	json_error_t error;

	config->root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
	if (!config->root)
		return refuse(config, MFS_E_INVALID, "line %d: %s", error.line, error.text);
	if (!json_is_object(config->root))
		return refuse(config, MFS_E_INVALID, "no JSON object");
	return 0;
}

static int load(mfs_peft_config *out, mfs_source *source, mfs_problem *why)
{
	char *text;
	int error;

	if (source->size > CONFIG_MAX)
		return refuse(out, MFS_E_LIMIT, "larger than %u MiB", CONFIG_MAX >> 20);
	text = malloc(source->size + 1);
	error = text ? source->read_at(source, 0, text, source->size) : MFS_E_MEMORY;
	if (error)
		refuse(out, error, "%s", mfs_error_text(error));
	else
		error = parse(out, text, source->size, why);
	free(text);
	return error;
}

int mfs_peft_config_load(mfs_peft_config *out, mfs_source *source, mfs_problem *why)
{
	int error;

	*out = (mfs_peft_config){.path = source->name};
	error = load(out, source, why);
	if (!error)
		error = check_features(out, why);
	if (!error)
		error = check_numbers(out, why);
	if (!error)
		error = read_patterns(out, "rank_pattern", &out->ranks, why);
	return error ? error : read_patterns(out, "alpha_pattern", &out->alphas, why);
}

int mfs_peft_config_read(mfs_peft_config *out, const char *path, mfs_problem *why)
{
	mfs_source source;
	int error;

	*out = (mfs_peft_config){.path = path};
	error = mfs_source_open(&source, path, why);
	if (error)
		return error;
	error = mfs_peft_config_load(out, &source, why);
	mfs_source_close(&source);
	return error;
}

double mfs_peft_scale(const mfs_peft_config *config, double rank, double alpha)
{
	return alpha / (config->rslora ? sqrt(rank) : rank);
}

static void free_patterns(mfs_peft_patterns *patterns)
{
	for (size_t i = 0; i < patterns->count; i++)
		regfree(&patterns->pattern[i].regex);
	free(patterns->pattern);
	*patterns = (mfs_peft_patterns){0};
}

void mfs_peft_config_free(mfs_peft_config *config)
{
	free_patterns(&config->ranks);
	free_patterns(&config->alphas);
	json_decref(config->root);
	config->root = NULL;
}
