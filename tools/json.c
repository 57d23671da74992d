#include "json.h"

#include <stdlib.h>
#include <unistd.h>

#include "common.h"

static void check(int failed)
{
	if (!failed)
		return;
	tool_error("out of memory");
	exit(TOOL_FAILED);
}

void json_set(json_t *object, const char *key, json_t *value)
{
	check(json_object_set_new(object, key, value));
}

void json_append(json_t *array, json_t *value)
{
	check(json_array_append_new(array, value));
}

void json_set_number(json_t *object, const char *key, uint64_t value)
{
	json_set(object, key, json_integer((json_int_t)value));
}

void json_set_text(json_t *object, const char *key, const char *text)
{
	char *clean = tool_utf8(text);

	json_set(object, key, json_string(clean));
	free(clean);
}

void json_set_ratio(json_t *object, const char *key, uint64_t original, uint64_t stored)
{
	json_set(object, key, stored ? json_real(tool_ratio_value(original, stored)) : json_null());
}

json_t *json_overhead(uint64_t superblock, uint64_t index, uint64_t padding)
{
	json_t *overhead = json_object();

	json_set_number(overhead, "superblock", superblock);
	json_set_number(overhead, "index", index);
	json_set_number(overhead, "padding", padding);
	return overhead;
}

/* On a terminal everything but ASCII is escaped: names may hold control
 * characters. */
int json_print(json_t *root)
{
	size_t flags = JSON_INDENT(2) | JSON_REAL_PRECISION(6);
	int err;

	if (isatty(STDOUT_FILENO))
		flags |= JSON_ENSURE_ASCII;
	err = json_dumpf(root, stdout, flags);
	if (err && !ferror(stdout)) /* that, tool_finish() tells */
		tool_error("out of memory");
	putchar('\n');
	json_decref(root);
	return err ? TOOL_FAILED : TOOL_OK;
}
