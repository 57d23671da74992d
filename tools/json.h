/*
 * Building JSON for --json. Memory that runs out ends the program, so callers
 * need not check each member.
 */
#ifndef TOOL_JSON_H
#define TOOL_JSON_H

#include <jansson.h>
#include <stdint.h>

/* Gives `value` (taken over) to an object or an array. */
void json_set(json_t *object, const char *key, json_t *value);
void json_append(json_t *array, json_t *value);

void json_set_number(json_t *object, const char *key, uint64_t value);
/* Text need not be UTF-8: what is not becomes U+FFFD. */
void json_set_text(json_t *object, const char *key, const char *text);
/* original / stored, or null where nothing is stored. */
void json_set_ratio(json_t *object, const char *key, uint64_t original, uint64_t stored);

/* {"superblock": ..., "index": ..., "padding": ...} */
json_t *json_overhead(uint64_t superblock, uint64_t index, uint64_t padding);

/* Prints to stdout and frees `root`; returns an exit code. */
int json_print(json_t *root);

#endif
