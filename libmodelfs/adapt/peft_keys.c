#include "peft_keys.h"

#include <stdio.h>
#include <string.h>

static const struct {
	const char *end;
	char matrix;
	bool embedding;
} ends[] = {
    {".lora_A.weight", 'a', false},
    {".lora_B.weight", 'b', false},
    {".lora_embedding_A", 'a', true},
    {".lora_embedding_B", 'b', true},
    {".lora_magnitude_vector", 'm', false},
    {".lora_magnitude_vector.weight", 'm', false},
    /* As a running model has them, which some programs save. */
    {".lora_A.default.weight", 'a', false},
    {".lora_B.default.weight", 'b', false},
    {".lora_embedding_A.default", 'a', true},
    {".lora_embedding_B.default", 'b', true},
    {".lora_magnitude_vector.default.weight", 'm', false},
};

static const char prefix[] = "base_model.model.";

bool mfs_peft_key_parse(mfs_peft_key *out, const char *key)
{
	size_t skip = sizeof(prefix) - 1, length = strlen(key);

	if (strncmp(key, prefix, skip) != 0)
		return false;
	for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++) {
		size_t n = strlen(ends[i].end);

		if (length <= skip + n || strcmp(key + length - n, ends[i].end) != 0)
			continue;
		*out = (mfs_peft_key){.module = key + skip,
				      .module_length = length - skip - n,
				      .matrix = ends[i].matrix,
				      .embedding = ends[i].embedding};
		return true;
	}
	return false;
}

const char *mfs_peft_key_reason(const char *key)
{
	static const char *const whole[] = {".weight", ".bias"};
	size_t length = strlen(key);

	if (strstr(key, ".lora_"))
		return strncmp(key, prefix, sizeof(prefix) - 1)
			   ? "has a name that does not begin with base_model.model."
			   : "is no matrix of a LoRA that is known";
	for (size_t i = 0; i < sizeof(whole) / sizeof(*whole); i++) {
		size_t n = strlen(whole[i]);

		if (length > n && !strcmp(key + length - n, whole[i]))
			return "replaces a tensor of the model, which is no adapter (as "
			       "modules_to_save, save_embedding_layers and trained biases do)";
	}
	return "is no matrix of a LoRA";
}

size_t mfs_peft_module_name(char *out, size_t room, const char *module, unsigned form)
{
	static const struct {
		const char *from, *to;
	} forms[] = {
	    {"", ""},
	    {"model.language_model.", "language_model.model."},
	    {"model.language_model.", "model."},
	    {"language_model.model.", "model.language_model."},
	    {"language_model.model.", "model."},
	    {"language_model.lm_head", "lm_head"},
	    {"lm_head", "language_model.lm_head"},
	    /* Of adapters that were trained on a model without its head. */
	    {"", "model."},
	    {"", "model.language_model."},
	    {"", "transformer."},
	    {"", "bert."},
	    {"", "roberta."},
	    {"", "distilbert."},
	    {"", "gpt_neox."},
	    {"", "backbone."},
	};
	size_t from;

	if (form >= sizeof(forms) / sizeof(*forms))
		return 0;
	from = strlen(forms[form].from);
	if (strncmp(module, forms[form].from, from) != 0)
		return (size_t)snprintf(out, room, "%s", module);
	return (size_t)snprintf(out, room, "%s%s", forms[form].to, module + from);
}

const char *mfs_peft_module_behind_base(const char *module)
{
	static const char *const bases[] = {"model.",	   "transformer.", "bert.",	"roberta.",
					    "distilbert.", "gpt_neox.",	   "backbone.", "decoder."};

	for (size_t i = 0; i < sizeof(bases) / sizeof(*bases); i++)
		if (!strncmp(module, bases[i], strlen(bases[i])))
			return module + strlen(bases[i]);
	return NULL;
}
