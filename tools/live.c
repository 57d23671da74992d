#include "live.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common.h"

#define READ_BYTES (64u << 10)

static json_t *fail(const char *mountpoint, const char *path, int error, bool quiet_end)
{
	bool ended = error == ENOENT || error == ENOTCONN || error == ECONNABORTED ||
		     error == ENODEV || error == ENOTDIR;

	if (!(quiet_end && ended))
		tool_error("%s: not a modelfs mount: %s: %s", mountpoint, path, strerror(error));
	errno = error;
	return NULL;
}

json_t *live_load(const char *mountpoint, bool quiet_end)
{
	json_error_t why;
	json_t *stats;
	char *path;
	FILE *file;

	if (asprintf(&path, "%s/.modelfs/stats.json", mountpoint) < 0) {
		tool_error("out of memory");
		return NULL;
	}
	file = fopen(path, "re");
	if (!file) {
		stats = fail(mountpoint, path, errno, quiet_end);
	} else {
		/* Each read asks the daemon. */
		setvbuf(file, NULL, _IOFBF, READ_BYTES);
		errno = 0;
		stats = json_loadf(file, 0, &why);
		if (!stats && errno)
			fail(mountpoint, path, errno, quiet_end);
		else if (!stats)
			tool_error("%s: cannot read the counters: %s", mountpoint, why.text);
		fclose(file);
	}
	free(path);
	return stats;
}

uint64_t live_number(const json_t *object, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(object, key));
}

char *live_text(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return tool_clean(text ? text : "unknown");
}

static void print_measured(FILE *out, const json_t *medium)
{
	char rate[TOOL_SIZE_TEXT];

	if (live_number(medium, "latency_us"))
		fprintf(out, ": %" PRIu64 " us, %s/s, %" PRIu64 " at a time",
			live_number(medium, "latency_us"),
			tool_size(rate, live_number(medium, "bytes_per_second")),
			live_number(medium, "channels"));
}

char *live_medium(const json_t *stats)
{
	const json_t *medium = json_object_get(stats, "medium");
	static const char *const words[] = {"kind", "name", "model"};
	char *text = NULL, *source = live_text(medium, "source");
	size_t size;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		exit(TOOL_FAILED);
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		char *word = live_text(medium, words[i]);

		/* A file system is its own kind: "fuse". */
		if (!i || strcmp(word, json_string_value(json_object_get(medium, words[0])) ?: ""))
			fprintf(out, "%s%s", i && word[0] ? " " : "", word);
		free(word);
	}
	if (live_number(medium, "usb_mbits"))
		fprintf(out, ", %" PRIu64 " Mbit/s", live_number(medium, "usb_mbits"));
	if (live_number(medium, "members") > 1)
		fprintf(out, ", %" PRIu64 " devices", live_number(medium, "members"));
	fprintf(out, " (%s", source);
	print_measured(out, medium);
	fputc(')', out);
	free(source);
	if (fclose(out))
		exit(TOOL_FAILED);
	return text;
}
