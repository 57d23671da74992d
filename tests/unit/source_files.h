/* Source files for tests of the packer, in a directory of their own. */
#ifndef SOURCE_FILES_H
#define SOURCE_FILES_H

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "../gen/gguf_writer.h"

static char sf_directory[64];

static inline int sf_setup(void **state)
{
	(void)state;
	strcpy(sf_directory, "/tmp/mfs-test-XXXXXX");
	return mkdtemp(sf_directory) ? 0 : -1;
}

/* Path of `name` in the directory; good for the whole program. */
static inline const char *sf_path(const char *name)
{
	static char known[256][128];
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", sf_directory, name);
	for (int i = 0; i < 256; i++) {
		if (!known[i][0])
			strcpy(known[i], path);
		if (!strcmp(known[i], path))
			return known[i];
	}
	fail_msg("too many paths");
	return NULL;
}

/* Number of files in the directory. */
static inline unsigned sf_count(void)
{
	DIR *d = opendir(sf_directory);
	unsigned count = 0;
	struct dirent *e;

	assert_non_null(d);
	while ((e = readdir(d)))
		count += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
	closedir(d);
	return count;
}

static inline int sf_teardown(void **state)
{
	DIR *d = opendir(sf_directory);
	struct dirent *e;

	(void)state;
	while (d && (e = readdir(d)))
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
			unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		closedir(d);
	return rmdir(sf_directory);
}

/* Bytes that look like weights: values near zero are frequent. */
static inline void sf_weights(uint8_t *out, size_t size, uint64_t seed)
{
	for (size_t i = 0; i < size; i++) {
		uint64_t z = (seed += UINT64_C(0x9e3779b97f4a7c15));

		z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
		z ^= z >> 27;
		out[i] = (uint8_t)((z & 31) + (z >> 8 & 31) + (z >> 16 & 31) + 80);
	}
}

static inline const char *sf_write(const char *name, const void *bytes, size_t size)
{
	const char *path = sf_path(name);
	FILE *f = fopen(path, "wb");

	assert_non_null(f);
	assert_int_equal(fwrite(bytes, 1, size, f), size);
	assert_int_equal(fclose(f), 0);
	return path;
}

static inline uint8_t *sf_read(const char *path, size_t *size)
{
	FILE *f = fopen(path, "rb");
	struct stat st;
	uint8_t *bytes;

	assert_non_null(f);
	assert_int_equal(fstat(fileno(f), &st), 0);
	bytes = malloc((size_t)st.st_size + 1);
	assert_non_null(bytes);
	*size = (size_t)st.st_size;
	assert_int_equal(fread(bytes, 1, *size, f), *size);
	fclose(f);
	return bytes;
}

typedef struct {
	const char *name;
	uint32_t type; /* of ggml */
	uint32_t dim_count;
	uint64_t dims[4];
	uint64_t bytes;
} sf_tensor;

/* A GGUF file of these tensors; gaps between them are zero, except that the byte
 * before the last tensor is `gap`. */
static inline struct gw sf_gguf(const sf_tensor *tensors, uint32_t count, uint8_t gap)
{
	struct gw w = {0};
	uint64_t offset = 0;
	size_t data;

	gw_head(&w, 3, count, 1);
	gw_kv_string(&w, "general.architecture", "llama");
	for (uint32_t i = 0; i < count; i++) {
		gw_tensor(&w, tensors[i].name, tensors[i].dim_count, tensors[i].dims,
			  tensors[i].type, offset);
		offset = (offset + tensors[i].bytes + 31) / 32 * 32;
	}
	gw_align(&w, 32, 0);
	data = w.size;
	for (uint32_t i = 0; i < count; i++) {
		size_t at;

		gw_fill(&w, 0, (32 - (w.size - data) % 32) % 32);
		if (i && i + 1 == count)
			w.bytes[w.size - 1] |= gap;
		at = w.size;
		gw_fill(&w, 0, tensors[i].bytes);
		sf_weights(w.bytes + at, tensors[i].bytes, i + 1);
	}
	return w;
}

static inline const char *sf_write_gguf(const char *name, const sf_tensor *tensors, uint32_t count,
					uint8_t gap)
{
	struct gw w = sf_gguf(tensors, count, gap);
	const char *path = sf_write(name, w.bytes, w.size);

	gw_free(&w);
	return path;
}

enum { SF_F32 = 0, SF_F16 = 1, SF_Q4_0 = 2, SF_Q8_0 = 8, SF_Q4_K = 12 };

#endif
