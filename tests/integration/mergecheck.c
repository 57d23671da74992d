/*
 * Merges matrices from files, for comparison with merge1.py:
 *   mergecheck BASE TYPE ROWS COLUMNS FILE OUT [RANK SCALE A B GAIN|-]...
 * BASE and TYPE are numbers of ggml's types, BASE may be nf4 (codes, then the
 * scales of blocks of 64). Everything else is little-endian F32 on a machine of
 * that order. Portable and vector code are both run and must agree.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "merge.h"

#define ADAPTERS_MAX 8

static void die(const char *what)
{
	fprintf(stderr, "mergecheck: %s\n", what);
	exit(1);
}

static void *read_file(const char *path, size_t size)
{
	FILE *file = fopen(path, "rb");
	void *memory = malloc(size + 1);

	if (!file || !memory)
		die(path);
	if (fread(memory, 1, size + 1, file) != size)
		die("a file has another size than its numbers say");
	fclose(file);
	return memory;
}

static mfs_merge_adapter read_adapter(char **argument, uint64_t rows, uint64_t columns)
{
	const uint32_t rank = (uint32_t)strtoul(argument[0], NULL, 10);
	float *a = read_file(argument[2], rank * columns * sizeof(float));
	float *panels = malloc(mfs_merge_panel_floats(rank, columns) * sizeof(float));
	mfs_merge_adapter adapter = {.panels = panels,
				     .b = read_file(argument[3], rank * rows * sizeof(float)),
				     .row_step = rank,
				     .rank_step = 1,
				     .rank = rank,
				     .scale = strtof(argument[1], NULL)};

	if (!panels)
		die("out of memory");
	mfs_merge_pack(a, columns, 1, rank, columns, panels);
	if (strcmp(argument[4], "-"))
		adapter.gain = read_file(argument[4], rows * sizeof(float));
	free(a);
	return adapter;
}

static mfs_merge_base read_base(const char *type, const char *path, uint64_t weights, mfs_nf4 *nf4)
{
	mfs_merge_base base = {.type = NULL};
	uint8_t *bytes;

	if (!strcmp(type, "nf4")) {
		bytes = read_file(path, weights / 2 + mfs_nf4_blocks(nf4, weights) * sizeof(float));
		base.nf4 = nf4;
		base.codes = bytes;
		base.scales = malloc(mfs_nf4_blocks(nf4, weights) * sizeof(float));
		if (!base.scales)
			die("out of memory");
		memcpy((float *)base.scales, bytes + weights / 2,
		       mfs_nf4_blocks(nf4, weights) * sizeof(float));
		return base;
	}
	base.type = mfs_dequant_ggml((uint32_t)strtoul(type, NULL, 10));
	if (!base.type)
		die("no such base");
	base.blocks = read_file(path, weights / base.type->block_weights * base.type->block_bytes);
	return base;
}

static uint8_t *run(const mfs_merge *merge, const mfs_merge_base *base, size_t weights, size_t size)
{
	uint8_t *out = malloc(size + 1);

	if (!out || mfs_merge_span(merge, base, 0, weights, out))
		die("cannot merge");
	return out;
}

static void write_file(const char *path, const uint8_t *bytes, size_t size)
{
	FILE *file = fopen(path, "wb");

	if (!file || fwrite(bytes, 1, size, file) != size || fclose(file))
		die(path);
}

int main(int argc, char **argv)
{
	mfs_merge_adapter adapter[ADAPTERS_MAX];
	mfs_merge merge = {.adapter = adapter};
	mfs_merge_base base;
	uint8_t *portable, *vectors;
	uint64_t rows, weights;
	mfs_nf4 nf4;
	size_t size;

	if (argc < 7 || (argc - 7) % 5 || (argc - 7) / 5 > ADAPTERS_MAX)
		die("mergecheck BASE TYPE ROWS COLUMNS FILE OUT [RANK SCALE A B GAIN|-]...");
	merge.type = mfs_store_ggml((uint32_t)strtoul(argv[2], NULL, 10));
	rows = strtoull(argv[3], NULL, 10);
	merge.columns = strtoull(argv[4], NULL, 10);
	if (!merge.type || !rows || !merge.columns)
		die("no such type, or no weights");
	weights = rows * merge.columns;
	mfs_nf4_init(&nf4);
	base = read_base(argv[1], argv[5], weights, &nf4);
	for (int i = 7; i < argc; i += 5)
		adapter[merge.adapters++] = read_adapter(argv + i, rows, merge.columns);
	size = (size_t)(weights / merge.type->block_weights * merge.type->block_bytes);
	portable = run(&merge, &base, (size_t)weights, size);
	merge.simd = mfs_simd_best();
	vectors = run(&merge, &base, (size_t)weights, size);
	if (memcmp(portable, vectors, size))
		die("portable and vector code disagree");
	write_file(argv[6], vectors, size);
	return 0;
}
