#include "json_walk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW	   (256u << 10)
#define WINDOW_MIN (64u << 10) /* what an entry usually fits in */

#define refuse(walk, error, offset, ...)                                                           \
	mfs_import_refuse((walk)->why, (walk)->source, (error), (offset), __VA_ARGS__)

uint64_t mfs_json_offset(const mfs_json_walk *walk)
{
	return walk->window_start + walk->at;
}

/* ---- the window ---- */

/* Puts a window of `room` bytes over the walk's place. */
static int fill(mfs_json_walk *walk, size_t room)
{
	uint64_t offset = mfs_json_offset(walk), left = walk->end - offset;
	size_t length = left < room ? (size_t)left : room;
	int error;

	if (room > walk->window_room) {
		free(walk->window);
		walk->window_size = walk->window_room = 0;
		walk->window = malloc(room);
		if (!walk->window)
			return refuse(walk, MFS_E_MEMORY, UINT64_MAX, "out of memory");
		walk->window_room = room;
	}
	walk->window_start = offset;
	walk->window_size = walk->at = 0;
	error = walk->source->read_at(walk->source, offset, walk->window, length);
	if (error)
		return refuse(walk, error, offset, "cannot be read: %s",
			      error == MFS_E_IO ? strerror(errno) : "the file became shorter");
	walk->window_size = length;
	return 0;
}

static bool at_text_end(const mfs_json_walk *walk)
{
	return walk->window_start + walk->window_size == walk->end;
}

int mfs_json_open(mfs_json_walk *walk, mfs_source *source, uint64_t start, uint64_t end,
		  mfs_problem *why)
{
	*walk = (mfs_json_walk){.source = source, .why = why, .end = end, .window_start = start};
	return fill(walk, WINDOW);
}

void mfs_json_close(mfs_json_walk *walk)
{
	free(walk->window);
	memset(walk, 0, sizeof(*walk));
}

/* ---- between entries ---- */

static bool is_space(uint8_t byte)
{
	return byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r';
}

int mfs_json_peek(mfs_json_walk *walk, int *out)
{
	int error;

	for (;;) {
		while (walk->at < walk->window_size && is_space(walk->window[walk->at]))
			walk->at++;
		if (walk->at < walk->window_size) {
			*out = walk->window[walk->at];
			return 0;
		}
		*out = -1;
		if (at_text_end(walk))
			return 0;
		error = fill(walk, WINDOW);
		if (error)
			return error;
	}
}

static int expected(mfs_json_walk *walk, const char *what)
{
	return refuse(walk, MFS_E_INVALID, mfs_json_offset(walk), "not valid JSON: %s expected",
		      what);
}

static int take(mfs_json_walk *walk, int wanted, const char *what)
{
	int byte, error = mfs_json_peek(walk, &byte);

	if (error)
		return error;
	if (byte != wanted)
		return expected(walk, what);
	walk->at++;
	return 0;
}

int mfs_json_enter(mfs_json_walk *walk)
{
	walk->first = true;
	return take(walk, '{', "'{'");
}

int mfs_json_key(mfs_json_walk *walk, json_t **key)
{
	int byte, error = mfs_json_peek(walk, &byte);

	*key = NULL;
	if (error)
		return error;
	if (byte == '}') {
		walk->at++;
		walk->first = false;
		return 0;
	}
	if (!walk->first)
		error = take(walk, ',', "',' or '}'");
	walk->first = false;
	if (!error)
		error = mfs_json_peek(walk, &byte);
	if (error)
		return error;
	if (byte != '"')
		return expected(walk, "a key");
	walk->key_offset = mfs_json_offset(walk);
	error = mfs_json_value(walk, MFS_JSON_TEXT_MAX, key);
	if (!error && strlen(json_string_value(*key)) != json_string_length(*key))
		error = refuse(walk, MFS_E_INVALID, walk->key_offset, "NUL in a key");
	if (!error)
		error = take(walk, ':', "':'");
	if (!error)
		return 1;
	json_decref(*key);
	*key = NULL;
	return error;
}

int mfs_json_end(mfs_json_walk *walk)
{
	int byte, error = mfs_json_peek(walk, &byte);

	if (!error && byte != -1)
		return expected(walk, "the end");
	return error;
}

/* ---- values ---- */

/* jansson ends its messages with a piece of the text, which may be anything. */
static int not_valid(mfs_json_walk *walk, json_error_t *e)
{
	char *near = strstr(e->text, " near ");

	if (json_error_code(e) == json_error_out_of_memory)
		return refuse(walk, MFS_E_MEMORY, UINT64_MAX, "out of memory");
	if (near)
		*near = 0;
	return refuse(walk, MFS_E_INVALID, mfs_json_offset(walk) + (uint64_t)e->position,
		      "not valid JSON: %s", e->text);
}

int mfs_json_value(mfs_json_walk *walk, size_t max, json_t **value)
{
	const size_t flags =
	    JSON_DECODE_ANY | JSON_DISABLE_EOF_CHECK | JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL;
	json_error_t e;
	int byte, error = mfs_json_peek(walk, &byte);

	*value = NULL;
	if (!error && walk->window_size - walk->at < WINDOW_MIN && !at_text_end(walk))
		error = fill(walk, WINDOW);
	while (!error) {
		size_t left = walk->window_size - walk->at;

		*value = json_loadb((const char *)walk->window + walk->at, left, flags, &e);
		/* A number that ends with the window may go on behind it. */
		if (*value && ((size_t)e.position < left || at_text_end(walk))) {
			if ((size_t)e.position > max)
				break;
			walk->at += (size_t)e.position;
			return 0;
		}
		json_decref(*value);
		*value = NULL;
		/* What is wrong well before the window's end stays wrong behind it. */
		if (at_text_end(walk) || (size_t)e.position + 8 < left)
			return not_valid(walk, &e);
		if (left >= max)
			break;
		error =
		    fill(walk, left * 4 < MFS_JSON_TEXT_MAX + 1 ? left * 4 : MFS_JSON_TEXT_MAX + 1);
	}
	json_decref(*value);
	*value = NULL;
	if (error)
		return error;
	return refuse(walk, MFS_E_LIMIT, mfs_json_offset(walk),
		      "a value of more than %zu bytes of JSON", max);
}
