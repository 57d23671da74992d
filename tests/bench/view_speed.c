/*
 * view_speed CONTAINER FILE [ADAPTERS | all]: reads the derived tensors of a view with
 * one decoder, those that have ADAPTERS adapters merged in if that is given, or all
 * tensors of any file (of a fine-tune, for example, from differences), and prints the
 * bytes, and GB/s of output by the processor time of all threads together, by
 * the decoder's time and by the clock. The first is what a busy machine changes least.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "modelfs.h"

static void die(const char *what)
{
	fprintf(stderr, "view_speed: %s\n", what);
	exit(1);
}

static double seconds(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static uint64_t read_tensor(mfs_container *c, uint32_t file, const mfs_tensor_info *t)
{
	static uint8_t buffer[1u << 20];

	for (uint64_t at = 0; at < t->tensor_bytes; at += sizeof(buffer)) {
		uint64_t left = t->tensor_bytes - at;
		size_t n = left < sizeof(buffer) ? (size_t)left : sizeof(buffer);

		if (mfs_read(c, file, t->file_offset + at, buffer, n) != (int64_t)n)
			die("a read fails");
	}
	return t->tensor_bytes;
}

#define ANY -1
#define ALL -2 /* not the derived ones only */

static bool is_wanted(const mfs_tensor_info *t, int adapters)
{
	if (adapters == ALL)
		return t->name;
	return t->derived && (adapters == ANY || t->adapters == (uint32_t)adapters);
}

static uint64_t read_view(mfs_container *c, uint32_t file, int adapters)
{
	mfs_file_info f = {.size = sizeof(f)};
	uint64_t bytes = 0;

	if (mfs_file_stat(c, file, &f) < 0)
		die("no such file");
	for (uint32_t i = f.first_tensor; i < f.first_tensor + f.tensors; i++) {
		mfs_tensor_info t = {.size = sizeof(t)};

		if (mfs_tensor_get(c, i, &t) < 0)
			die("no such tensor");
		if (is_wanted(&t, adapters))
			bytes += read_tensor(c, file, &t);
	}
	return bytes;
}

int main(int argc, char *argv[])
{
	mfs_open_options options = MFS_OPEN_OPTIONS_INIT;
	mfs_stats before = {.size = sizeof(before)}, after = {.size = sizeof(after)};
	mfs_container *c;
	mfs_problem why = {0};
	uint64_t bytes;
	int64_t file;
	double start, cpu, wall;
	int adapters = ANY;

	if (argc < 3)
		die("CONTAINER FILE [ADAPTERS | all]");
	if (argc > 3)
		adapters = strcmp(argv[3], "all") == 0 ? ALL : atoi(argv[3]);
	options.decoders = 1;
	options.buffered = 1;
	if (mfs_open(&c, argv[1], &options, &why) < 0)
		die(why.text);
	file = mfs_file_find(c, argv[2]);
	if (file < 0)
		die("no such file");
	read_view(c, (uint32_t)file, adapters); /* operands and page cache */
	mfs_stats_get(c, &before);
	start = seconds(CLOCK_MONOTONIC);
	cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
	bytes = read_view(c, (uint32_t)file, adapters);
	cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	wall = seconds(CLOCK_MONOTONIC) - start;
	mfs_stats_get(c, &after);
	printf("%" PRIu64 " bytes, GB/s: %.3f of processor time, %.3f of a decoder's time, "
	       "%.3f by the clock\n",
	       bytes, (double)bytes / 1e9 / cpu,
	       (double)bytes / 1e3 / (double)(after.decoding_us - before.decoding_us),
	       (double)bytes / 1e9 / wall);
	mfs_close(c);
	return 0;
}
