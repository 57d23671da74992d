/* Writing generated cases as files, for the programs that do so. */
#ifndef HOSTILE_WRITE_H
#define HOSTILE_WRITE_H

#include <errno.h>
#include <limits.h>

#include "gguf_writer.h"

/* DIRECTORY/NAME.SUFFIX, and frees the bytes; exits where that fails. */
static inline void hostile_write(const char *directory, const char *name, const char *suffix,
				 struct gw *w)
{
	char path[PATH_MAX];
	int length = snprintf(path, sizeof(path), "%s/%s.%s", directory, name, suffix);
	FILE *f = length < (int)sizeof(path) ? fopen(path, "wb") : NULL;

	if (!f || fwrite(w->bytes, 1, w->size, f) != w->size || fclose(f)) {
		perror(path);
		exit(1);
	}
	gw_free(w);
}

#endif
