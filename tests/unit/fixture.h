/* Small containers for tests: sources are written to a temporary directory,
 * packed, and the container is read into memory. */
#ifndef FIXTURE_H
#define FIXTURE_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "modelfs_pack.h"

/* A reproducible stream of bytes that no codec gains on (splitmix64). */
static inline void fixture_noise(uint8_t *out, size_t size, uint64_t seed)
{
	for (size_t i = 0; i < size; i += 8) {
		uint64_t z = (seed += UINT64_C(0x9e3779b97f4a7c15));

		z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
		z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
		z ^= z >> 31;
		memcpy(out + i, &z, size - i < 8 ? size - i : 8);
	}
}

static inline void fixture_put(uint8_t **at, uint64_t value, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		*(*at)++ = (uint8_t)(value >> 8 * i);
}

/* A GGUF file of one tensor of Q8_0 blocks (34 bytes for 32 weights): narrow
 * quants, so that both weights and constants are coded. Returns its size. */
static inline size_t fixture_q8_0(uint8_t **out, uint64_t rows, uint64_t seed)
{
	static const char name[] = "blk.0.ffn_up.weight";
	uint64_t columns = 1024, blocks = rows * columns / 32;
	size_t header, size;
	uint8_t *bytes = calloc(1, 256 + blocks * 34), *at = bytes;

	assert_non_null(bytes);
	memcpy(at, "GGUF", 4);
	at += 4;
	fixture_put(&at, 3, 4);
	fixture_put(&at, 1, 8);
	fixture_put(&at, 0, 8);
	fixture_put(&at, sizeof(name) - 1, 8);
	memcpy(at, name, sizeof(name) - 1);
	at += sizeof(name) - 1;
	fixture_put(&at, 2, 4);
	fixture_put(&at, columns, 8);
	fixture_put(&at, rows, 8);
	fixture_put(&at, 8, 4); /* Q8_0 */
	fixture_put(&at, 0, 8);
	header = ((size_t)(at - bytes) + 31) / 32 * 32;
	size = header + blocks * 34;
	fixture_noise(bytes + header, blocks * 34, seed);
	for (uint64_t b = 0; b < blocks; b++) {
		uint8_t *block = bytes + header + b * 34;

		block[1] = 0x20;
		for (int i = 2; i < 34; i++)
			block[i] = (uint8_t)((block[i] & 15) + (block[(i * 7) % 32 + 2] & 15) - 15);
	}
	*out = bytes;
	return size;
}

typedef struct {
	char directory[64];
	mfs_packer *packer;
	uint8_t *container;
	size_t size;
} fixture;

static inline void fixture_begin(fixture *f, const mfs_pack_options *options)
{
	mfs_problem why;

	memset(f, 0, sizeof(*f));
	strcpy(f->directory, "/tmp/modelfs-test-XXXXXX");
	assert_non_null(mkdtemp(f->directory));
	assert_int_equal(mfs_packer_new(&f->packer, options, &why), 0);
}

static inline void fixture_add(fixture *f, const char *name, const uint8_t *bytes, size_t size)
{
	char path[512];
	mfs_problem why = {0};
	FILE *file;
	int err;

	snprintf(path, sizeof(path), "%s/%s", f->directory, name);
	file = fopen(path, "wb");
	assert_non_null(file);
	assert_int_equal(fwrite(bytes, 1, size, file), size);
	assert_int_equal(fclose(file), 0);
	err = mfs_packer_add(f->packer, path, NULL, &why);
	if (err)
		fail_msg("%s", why.text);
}

/* Packs, reads the container into memory and removes the files. */
static inline void fixture_end(fixture *f)
{
	char path[512], command[600];
	mfs_pack_summary summary = {.size = sizeof(summary)};
	mfs_problem why = {0};
	FILE *file;

	snprintf(path, sizeof(path), "%s/container.mfs", f->directory);
	if (mfs_packer_write(f->packer, path, NULL, NULL, &summary, &why))
		fail_msg("%s", why.text);
	f->size = summary.stored_bytes;
	mfs_packer_free(f->packer);
	f->container = malloc(f->size);
	file = fopen(path, "rb");
	assert_non_null(file);
	assert_int_equal(fread(f->container, 1, f->size, file), f->size);
	fclose(file);
	snprintf(command, sizeof(command), "rm -rf '%s'", f->directory);
	assert_int_equal(system(command), 0);
}

static inline void fixture_free(fixture *f)
{
	free(f->container);
}

#endif
