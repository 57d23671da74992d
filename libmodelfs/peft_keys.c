#include "peft_keys.h"

#include <string.h>

static const struct {
	const char *end;
	char matrix;
	bool embedding;
} ends[] = {
    {".lora_A.weight", 'a', false},	    {".lora_B.weight", 'b', false},
    {".lora_embedding_A", 'a', true},	    {".lora_embedding_B", 'b', true},
    {".lora_magnitude_vector", 'm', false}, {".lora_magnitude_vector.weight", 'm', false},
};

bool mfs_peft_key_parse(mfs_peft_key *out, const char *key)
{
	static const char prefix[] = "base_model.model.";
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
