/* Uses everything that an open container offers, within bounds, whatever the
 * container says of itself. For tests and fuzzing: ends the program where the
 * library breaks a promise. */
#ifndef EXERCISE_H
#define EXERCISE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "modelfs.h"

#define EXERCISE_BYTES	 (96u << 10)  /* read at a time */
#define EXERCISE_RECORDS 64	      /* files, tensors, chunks looked at */
#define EXERCISE_CHECK	 (2ull << 20) /* containers of more original bytes are not checked whole */
#define EXERCISE_SPANS	 4096	      /* tensors of more spans are not added up */

#define EXERCISE_REQUIRE(condition)                                                                \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);            \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

/* Reads a range twice, the second time in pieces: the same bytes, or an error.
 * True if it could be read. */
static inline bool exercise_range(mfs_container *c, uint32_t file, uint64_t size, uint64_t offset,
				  uint64_t length)
{
	uint8_t *whole = malloc(EXERCISE_BYTES), *part = malloc(EXERCISE_BYTES);
	int64_t got = mfs_read(c, file, offset, whole, length);
	uint64_t expected = offset >= size ? 0 : length < size - offset ? length : size - offset;

	EXERCISE_REQUIRE(whole && part);
	EXERCISE_REQUIRE(got < 0 || (uint64_t)got == expected);
	for (uint64_t at = 0; got > 0 && at < (uint64_t)got; at += 10007) {
		uint64_t n = (uint64_t)got - at < 10007 ? (uint64_t)got - at : 10007;
		int64_t again = mfs_read(c, file, offset + at, part, n);

		EXERCISE_REQUIRE(again == (int64_t)n && !memcmp(part, whole + at, n));
	}
	free(whole);
	free(part);
	return got >= 0;
}

/* Beginning, middle, end and past the end. Returns the file's size. */
static inline uint64_t exercise_file(mfs_container *c, uint32_t file, bool add_up)
{
	mfs_file_info info = {.size = sizeof(info)};
	uint64_t size;

	EXERCISE_REQUIRE(mfs_file_stat(c, file, &info) == 0);
	size = info.file_bytes;
	EXERCISE_REQUIRE(info.name[0] && strlen(info.name) <= 255);
	EXERCISE_REQUIRE(info.name[0] != '/' && info.name[strlen(info.name) - 1] != '/' &&
			 !strstr(info.name, "//"));
	EXERCISE_REQUIRE(mfs_file_find(c, info.name) == file);
	EXERCISE_REQUIRE((uint64_t)info.first_tensor + info.tensors <= mfs_tensor_count(c));
	if (add_up)
		mfs_file_get(c, file, &info);
	exercise_range(c, file, size, 0, EXERCISE_BYTES);
	if (size > EXERCISE_BYTES) {
		exercise_range(c, file, size, size / 2, 5000);
		exercise_range(c, file, size, size - 5000, EXERCISE_BYTES);
	}
	exercise_range(c, file, size, size, 1);
	exercise_range(c, file, size, UINT64_MAX, 1);
	return size;
}

static inline bool exercise_tensors(mfs_container *c)
{
	mfs_tensor_info info = {.size = sizeof(info)};
	bool small = true;

	for (uint32_t i = 0; i < mfs_tensor_count(c) && i < EXERCISE_RECORDS; i++) {
		if (mfs_tensor_get(c, i, &info))
			continue;
		small = small && info.spans <= EXERCISE_SPANS;
		EXERCISE_REQUIRE(info.dim_count <= 8 && info.file < mfs_file_count(c));
		EXERCISE_REQUIRE(info.tensor_bytes > 0 && info.span_bytes > 0);
		EXERCISE_REQUIRE(strlen(info.type) <= UINT16_MAX);
	}
	return small;
}

static inline int exercise_report(void *user, const mfs_problem *why)
{
	int *left = user;

	EXERCISE_REQUIRE(why->error < 0 && why->text[0]);
	return --*left <= 0;
}

static inline void exercise_container(mfs_container *c)
{
	mfs_container_info info = {.size = sizeof(info)};
	mfs_chunk_info chunk = {.size = sizeof(chunk)};
	mfs_stats stats = {.size = sizeof(stats)};
	bool small = exercise_tensors(c);
	uint64_t total = 0;
	int reports = 100;

	for (uint32_t i = 0; i < mfs_file_count(c) && i < EXERCISE_RECORDS; i++)
		total += exercise_file(c, i, small) >> 10;
	for (uint32_t i = 0; i < EXERCISE_RECORDS; i++)
		if (mfs_chunk_get(c, i, &chunk) == MFS_E_NOT_FOUND)
			break;
	mfs_info(c, &info);
	if (total <= EXERCISE_CHECK >> 10 && mfs_file_count(c) <= EXERCISE_RECORDS)
		mfs_check(c, exercise_report, NULL, &reports);
	EXERCISE_REQUIRE(mfs_stats_get(c, &stats) == 0);
}

#endif
