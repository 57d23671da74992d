#include "shards.h"

#include <string.h>

#define DIGITS 5

static const char suffix[] = ".safetensors";

static bool take_number(const char *text, uint32_t *out)
{
	if (strspn(text, "0123456789") < DIGITS)
		return false;
	*out = 0;
	for (int i = 0; i < DIGITS; i++)
		*out = *out * 10 + (uint32_t)(text[i] - '0');
	return true;
}

bool mfs_shard_parse(mfs_shard *out, const char *name)
{
	const size_t end = 2 * DIGITS + 5 + sizeof(suffix) - 1; /* "-.....-of-....." */
	size_t length = strlen(name);
	const char *at = name + length - end;

	if (length <= end || at[0] != '-' || !take_number(at + 1, &out->number) ||
	    strncmp(at + 1 + DIGITS, "-of-", 4) != 0 ||
	    !take_number(at + 5 + DIGITS, &out->count) || strcmp(at + 5 + 2 * DIGITS, suffix) != 0)
		return false;
	out->prefix_length = length - end;
	return out->number >= 1 && out->number <= out->count;
}

void mfs_shard_name(char *out, const char *name, const mfs_shard *shard, uint32_t number)
{
	strcpy(out, name);
	for (int i = DIGITS; i > 0; i--, number /= 10)
		out[shard->prefix_length + (size_t)i] = (char)('0' + number % 10);
}
