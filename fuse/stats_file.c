#include "stats_file.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "readahead.h"

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
	    {"busy_us", s->busy_us},
	    {"decoding_us", s->decoding_us},
	    {"container_bytes", s->container_bytes},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (set_number(object, rows[i].key, rows[i].value))
			return -1;
	return 0;
}

static int set_text(json_t *object, const char *key, const char *value)
{
	return json_object_set_new(object, key, json_string(value));
}

/* Numbers that are not known are null. */
static int set_known(json_t *object, const char *key, uint64_t value, bool known)
{
	return known ? set_number(object, key, value)
		     : json_object_set_new(object, key, json_null());
}

static int set_device(json_t *object, const mfs_medium *m)
{
	return set_text(object, "kind", m->kind) || set_text(object, "name", m->name) ||
	       set_text(object, "model", m->model) || set_text(object, "source", m->source) ||
	       set_text(object, "queue", m->queue) ||
	       json_object_set_new(object, "rotational",
				   m->rotational < 0 ? json_null() : json_boolean(m->rotational)) ||
	       json_object_set_new(object, "command_queue", json_boolean(m->command_queue));
}

/* The medium and how reads are queued for it; NULL when memory is gone. */
static json_t *medium_to_json(const mfs_medium *m)
{
	json_t *object = json_object();

	if (object && !set_device(object, m) &&
	    !set_known(object, "members", m->members, m->members) &&
	    !set_known(object, "usb_mbits", m->usb_mbits, m->usb_mbits) &&
	    !set_known(object, "optimal_io_bytes", m->optimal_io_bytes, m->optimal_io_bytes) &&
	    !set_known(object, "latency_us", m->latency_us, m->latency_us) &&
	    !set_known(object, "channels", m->channels, m->channels) &&
	    !set_known(object, "bytes_per_second", m->bytes_per_second, m->bytes_per_second) &&
	    !set_number(object, "request_bytes", m->request_bytes) &&
	    !set_number(object, "depth", m->depth) &&
	    !set_number(object, "window_bytes", m->window_bytes))
		return object;
	json_decref(object);
	return NULL;
}

static json_t *file_to_json(mfs_container *container, uint32_t number)
{
	mfs_file_info file = {.size = sizeof(file)};
	json_t *object = json_object();

	if (object && !mfs_file_stat(container, number, &file) &&
	    !set_text(object, "name", file.name) && !set_number(object, "size", file.file_bytes) &&
	    !set_number(object, "touched_bytes", mfs_touched_bytes(container, number)))
		return object;
	json_decref(object);
	return NULL;
}

static json_t *files_to_json(mfs_container *container)
{
	json_t *files = json_array();

	for (uint32_t i = 0; files && i < mfs_file_count(container); i++) {
		if (json_array_append_new(files, file_to_json(container, i))) {
			json_decref(files);
			return NULL;
		}
	}
	return files;
}

static const char *profile_name(mfs_container *container)
{
	mfs_profile profile = {.size = sizeof(profile)};

	return mfs_profile_get(mfs_container_profile(container), &profile) ? "unknown"
									   : profile.name;
}

static int set_engine(json_t *object, const mfs_stats *s)
{
	return set_text(object, "engine", s->engine) ||
	       json_object_set_new(object, "direct", json_boolean(s->direct)) ||
	       json_object_set_new(object, "registered", json_boolean(s->registered));
}

/* The object, or NULL when memory is gone. */
static json_t *make_object(const stats_source *source, const mfs_stats *s, const mfs_medium *m)
{
	long read_ahead = readahead_get(source->device);
	json_t *object = json_object();

	if (object && !set_text(object, "version", MODELFS_VERSION) &&
	    !set_number(object, "pid", (uint64_t)getpid()) &&
	    !set_number(object, "uptime_seconds", (uint64_t)source->uptime_seconds) &&
	    !json_object_set_new(object, "container", path_to_json(source->path)) &&
	    !set_text(object, "profile", profile_name(source->container)) &&
	    !set_engine(object, s) && !json_object_set_new(object, "medium", medium_to_json(m)) &&
	    !set_known(object, "read_ahead_kb", (uint64_t)read_ahead, read_ahead >= 0) &&
	    !set_counters(object, s) &&
	    !json_object_set_new(object, "files", files_to_json(source->container)))
		return object;
	json_decref(object);
	return NULL;
}

char *stats_file_make(const stats_source *source, size_t *length)
{
	mfs_stats stats = {.size = sizeof(stats)};
	mfs_medium medium = {.size = sizeof(medium)};
	json_t *object = NULL;
	char *text = NULL;

	if (!mfs_stats_get(source->container, &stats) &&
	    !mfs_medium_get(source->container, &medium))
		object = make_object(source, &stats, &medium);
	if (object)
		text = json_dumps(object, JSON_INDENT(2));
	json_decref(object);
	if (!text)
		return NULL;
	*length = strlen(text);
	text[(*length)++] = '\n'; /* in place of the terminator: the length is known */
	return text;
}
