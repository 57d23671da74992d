/* The safetensors importer, over any bytes: named so and under another name. */
#include "check_import.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* By its magic this is GGUF, whatever its name. */
	if (size >= 4 && !memcmp(data, "GGUF", 4))
		return 0;
	check_import("input.safetensors", data, size, 1);
	check_import("input", data, size, 1);
	return 0;
}
