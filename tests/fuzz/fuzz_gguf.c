/* The importers, over any bytes. */
#include "check_import.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	check_import("input", data, size, 0);
	return 0;
}
