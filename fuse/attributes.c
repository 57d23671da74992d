#include "attributes.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "base": a model that the importers know; "file": any other file that was packed. */
static char *kind_text(const mfs_file_info *f)
{
	if (strcmp(f->kind, "packed") != 0)
		return strdup(f->kind);
	return strdup(strcmp(f->format, "opaque") == 0 ? "file" : "base");
}

static char *base_text(const mfs_file_info *f)
{
	return f->base ? strdup(f->base) : NULL;
}

/* Of "fr@0.7+de@0.3" the names, or the scales, with commas between them. Behind a
 * blank the note of a premerged model says what it lost. */
static char *mixture_text(const mfs_file_info *f, bool scales)
{
	char *out = *f->note && strchr(f->note, '@') ? malloc(strlen(f->note) + 1) : NULL;
	size_t used = 0;
	bool behind = false;

	if (!out)
		return NULL;
	for (const char *p = f->note; *p && *p != ' '; p++) {
		if (*p == '+') {
			out[used++] = ',';
			behind = false;
		} else if (*p == '@') {
			behind = true;
		} else if (behind == scales) {
			out[used++] = *p;
		}
	}
	out[used] = '\0';
	return out;
}

static char *adapters_text(const mfs_file_info *f)
{
	return mixture_text(f, false);
}

static char *scale_text(const mfs_file_info *f)
{
	return mixture_text(f, true);
}

static char *derived_text(const mfs_file_info *f)
{
	char *out = NULL;

	return asprintf(&out, "%" PRIu64, f->derived_bytes) < 0 ? NULL : out;
}

static char *lossy_text(const mfs_file_info *f)
{
	return strdup(f->lossy ? "1" : "0");
}

static const struct {
	const char *name;
	char *(*text)(const mfs_file_info *f); /* NULL: the file has none */
} attributes[] = {
    {"user.modelfs.kind", kind_text},	      {"user.modelfs.base", base_text},
    {"user.modelfs.adapters", adapters_text}, {"user.modelfs.scale", scale_text},
    {"user.modelfs.derived", derived_text},   {"user.modelfs.lossy", lossy_text},
};

#define ATTRIBUTES (sizeof(attributes) / sizeof(*attributes))

char *attribute_text(const mfs_container *container, uint32_t file, const char *name, int *error)
{
	mfs_file_info info = {.size = sizeof(info)};

	*error = mfs_file_stat(container, file, &info);
	for (size_t i = 0; i < ATTRIBUTES && !*error; i++)
		if (strcmp(name, attributes[i].name) == 0)
			return attributes[i].text(&info);
	return NULL;
}

size_t attribute_names(const mfs_container *container, uint32_t file, char **out)
{
	mfs_file_info info = {.size = sizeof(info)};
	size_t used = sizeof(ATTRIBUTE_STORED);

	*out = malloc(used + ATTRIBUTES * 32);
	if (!*out || mfs_file_stat(container, file, &info) < 0)
		return 0;
	memcpy(*out, ATTRIBUTE_STORED, used);
	for (size_t i = 0; i < ATTRIBUTES; i++) {
		char *text = attributes[i].text(&info);
		size_t length = strlen(attributes[i].name) + 1;

		if (text) {
			memcpy(*out + used, attributes[i].name, length);
			used += length;
		}
		free(text);
	}
	return used;
}
