/* hostile_gguf DIRECTORY: writes the files of hostile_cases.h, NAME.gguf each. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "hostile_cases.h"

static int write_case(const char *directory, const struct hostile_case *c)
{
	char path[PATH_MAX];
	struct gw w = {0};
	FILE *f;
	size_t written;

	if (snprintf(path, sizeof(path), "%s/%s.gguf", directory, c->name) >= (int)sizeof(path))
		return ENAMETOOLONG;
	f = fopen(path, "wb");
	if (!f)
		return errno;
	c->build(&w, c->a, c->b);
	written = fwrite(w.bytes, 1, w.size, f);
	if (fclose(f) || written != w.size)
		return errno ? errno : EIO;
	gw_free(&w);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc != 2 || argv[1][0] == '-') {
		fputs("usage: hostile_gguf DIRECTORY\n", stderr);
		return 2;
	}
	for (size_t i = 0; i < HOSTILE_CASES; i++) {
		int error = write_case(argv[1], &hostile_cases[i]);

		if (error) {
			fprintf(stderr, "hostile_gguf: %s: %s: %s\n", argv[1],
				hostile_cases[i].name, strerror(error));
			return 1;
		}
	}
	printf("%zu files\n", HOSTILE_CASES);
	return 0;
}
