/*
 * Walks a JSON object of a source entry by entry, so that memory stays bounded
 * however large the text is. What an entry consists of is jansson's to parse;
 * where it nests, the caller enters it.
 *
 *   mfs_json_open(&walk, source, start, end, why);
 *   mfs_json_enter(&walk);
 *   while ((more = mfs_json_key(&walk, &key)) > 0)
 *           mfs_json_value(&walk, max, &value);
 *   mfs_json_end(&walk);
 *
 * Everything returns a negative mfs_error after a failure, with `why` filled in
 * as mfs_import_refuse() does it.
 */
#ifndef MFS_JSON_WALK_H
#define MFS_JSON_WALK_H

#include <jansson.h>
#include <stdbool.h>

#include "import.h"

/* Text of one string or value, whatever is asked for. */
#define MFS_JSON_TEXT_MAX (8u << 20)

typedef struct {
	mfs_source *source;
	mfs_problem *why;
	uint64_t end;	     /* of the text in the source */
	bool first;	     /* no entry of the object was read yet */
	uint64_t key_offset; /* in the source, of the last key */
	uint64_t window_start;
	size_t window_size, window_room;
	size_t at; /* the next byte, in the window */
	uint8_t *window;
} mfs_json_walk;

/* The text [start, end) of the source, which has these bytes. */
int mfs_json_open(mfs_json_walk *walk, mfs_source *source, uint64_t start, uint64_t end,
		  mfs_problem *why);
void mfs_json_close(mfs_json_walk *walk); /* zeroed or closed is fine */

/* The next byte that is no white space, or -1 at the end of the text. */
int mfs_json_peek(mfs_json_walk *walk, int *out);
/* Its offset in the source. */
uint64_t mfs_json_offset(const mfs_json_walk *walk);

/* Into an object. */
int mfs_json_enter(mfs_json_walk *walk);
/* 1 with the next key, to be released by json_decref(); 0 when the object has
 * ended and was left. */
int mfs_json_key(mfs_json_walk *walk, json_t **key);
/* A value of at most `max` <= MFS_JSON_TEXT_MAX bytes of text, without duplicate
 * keys, to be released by json_decref(). */
int mfs_json_value(mfs_json_walk *walk, size_t max, json_t **value);
/* Nothing but white space may be left. */
int mfs_json_end(mfs_json_walk *walk);

#endif
