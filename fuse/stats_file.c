#include "stats_file.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A path need not be UTF-8, JSON must be: other bytes become '?'. */
static json_t *path_to_json(const char *path)
{
	json_t *value = json_string(path);
	char *ascii;

	if (value)
		return value;
	ascii = strdup(path);
	if (!ascii)
		return NULL;
	for (char *c = ascii; *c; c++)
		if ((unsigned char)*c >= 0x80)
			*c = '?';
	value = json_string(ascii);
	free(ascii);
	return value;
}

static int set_number(json_t *object, const char *key, uint64_t value)
{
	return json_object_set_new(object, key, json_integer((json_int_t)value));
}

static int set_counters(json_t *object, const mfs_stats *s)
{
	const struct {
		const char *key;
		uint64_t value;
	} rows[] = {
	    {"request_bytes", s->request_bytes},
	    {"depth", s->depth},
	    {"decoders", s->decoders},
	    {"arena_bytes", s->arena_bytes},
	    {"arena_used_bytes", s->arena_used_bytes},
	    {"index_loaded_bytes", s->index_loaded_bytes},
	    {"reads", s->reads},
	    {"served_bytes", s->served_bytes},
	    {"medium_reads", s->medium_reads},
	    {"medium_bytes", s->medium_bytes},
	    {"decoded_spans", s->decoded_spans},
	    {"decoded_bytes", s->decoded_bytes},
	    {"span_hits", s->span_hits},
	    {"span_misses", s->span_misses},
	    {"cache_hits", s->span_hits},
	    {"prefetch_bytes", s->prefetch_bytes},
	    {"prefetch_used_bytes", s->prefetch_used_bytes},
	    {"prefetch_wasted_bytes", s->prefetch_wasted_bytes},
	    {"errors_io", s->errors_io},
	    {"errors_corrupt", s->errors_corrupt},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (set_number(object, rows[i].key, rows[i].value))
			return -1;
	return 0;
}

/* The object, or NULL when memory is gone. */
static json_t *make_object(const mfs_stats *s, const char *path, time_t uptime_seconds)
{
	json_t *object = json_object();

	if (object && json_object_set_new(object, "version", json_string(MODELFS_VERSION)) == 0 &&
	    set_number(object, "pid", (uint64_t)getpid()) == 0 &&
	    set_number(object, "uptime_seconds", (uint64_t)uptime_seconds) == 0 &&
	    json_object_set_new(object, "container", path_to_json(path)) == 0 &&
	    json_object_set_new(object, "engine", json_string(s->engine)) == 0 &&
	    json_object_set_new(object, "direct", json_boolean(s->direct)) == 0 &&
	    json_object_set_new(object, "registered", json_boolean(s->registered)) == 0 &&
	    set_counters(object, s) == 0)
		return object;
	json_decref(object);
	return NULL;
}

char *stats_file_make(mfs_container *container, const char *path, time_t uptime_seconds,
		      size_t *length)
{
	mfs_stats stats = {.size = sizeof(stats)};
	json_t *object = NULL;
	char *text = NULL;

	if (mfs_stats_get(container, &stats) == 0)
		object = make_object(&stats, path, uptime_seconds);
	if (object)
		text = json_dumps(object, JSON_INDENT(2));
	json_decref(object);
	if (!text)
		return NULL;
	*length = strlen(text);
	text[(*length)++] = '\n'; /* in place of the terminator: the length is known */
	return text;
}
