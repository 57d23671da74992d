/* The vectors of the specification, for tests: containers in memory. */
#ifndef VECTORS_H
#define VECTORS_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "container.h"
/* Thousands of engines are made here, and each records little. */
#define MEMORY_IO_RECORDS 1024
#include "memory_io.h"
#include "../gen/container_repair.h"

typedef struct {
	uint8_t *bytes;
	size_t size;
} vector;

/* The path of a file beside the vectors; the caller's buffer. */
static inline const char *vector_path(char path[4096], const char *name)
{
	const char *source = getenv("MFS_SOURCE");

	if (source)
		snprintf(path, 4096, "%s/spec/vectors/%s", source, name);
	else
		snprintf(path, 4096, "%.*s../../spec/vectors/%s",
			 (int)(strrchr(__FILE__, '/') + 1 - __FILE__), __FILE__, name);
	return path;
}

static inline vector vector_load(const char *name)
{
	char path[4096];
	FILE *f = fopen(vector_path(path, name), "rb");
	vector v = {0};
	long size;

	if (!f)
		fail_msg("%s cannot be read", path);
	fseek(f, 0, SEEK_END);
	size = ftell(f);
	rewind(f);
	assert_true(size > 0);
	v.size = (size_t)size;
	v.bytes = malloc(v.size);
	assert_non_null(v.bytes);
	assert_int_equal(fread(v.bytes, 1, v.size, f), v.size);
	fclose(f);
	return v;
}

static inline vector vector_copy(const vector *from)
{
	vector v = {malloc(from->size), from->size};

	assert_non_null(v.bytes);
	memcpy(v.bytes, from->bytes, from->size);
	return v;
}

static inline void vector_free(vector *v)
{
	free(v->bytes);
	v->bytes = NULL;
}

/* Opens what lies in memory. One decoder and little memory: thousands of these are made. */
static inline int vector_open(mfs_container **out, const vector *v, mfs_problem *why)
{
	mfs_open_options options = MFS_OPEN_OPTIONS_INIT;

	options.decoders = 1;
	options.arena_bytes = 8u << 20;
	memset(why, 0, sizeof(*why));
	return mfs_open_io(out, &memory_io_new(v->bytes, v->size)->head, "vector", &options, why);
}

static inline struct mfs_disk_superblock *vector_superblock(const vector *v)
{
	return (void *)v->bytes;
}

/* Record i of a section of the root; the section must have it. */
static inline void *vector_record(const vector *v, enum mfs_root_section section, size_t size,
				  uint32_t i)
{
	uint32_t count;
	uint8_t *records = repair_section(v->bytes, v->size, section, size, &count);

	assert_true(i < count);
	return records + i * size;
}

#define VECTOR_RECORD(v, SECTION, type, i)                                                         \
	((struct mfs_disk_##type *)vector_record(v, MFS_SEC_##SECTION,                             \
						 sizeof(struct mfs_disk_##type), i))

#endif
