/* hostile_gguf DIRECTORY: writes the cases of hostile_cases.h as files,
 * NAME.gguf each. */
#include "hostile_cases.h"
#include "hostile_write.h"

int main(int argc, char **argv)
{
	if (argc != 2 || argv[1][0] == '-') {
		fputs("usage: hostile_gguf DIRECTORY\n", stderr);
		return 2;
	}
	for (size_t i = 0; i < HOSTILE_CASES; i++) {
		const struct hostile_case *c = &hostile_cases[i];
		struct gw w = {0};

		hostile_build(&w, c);
		hostile_write(argv[1], c->name, "gguf", &w);
	}
	printf("%zu files\n", HOSTILE_CASES);
	return 0;
}
