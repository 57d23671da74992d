/*
 * What the tests of importers share. Before it come the importer's hostile cases, and
 *   IMPORTER         the function that imports
 *   IMPORTER_FORMAT  what it says the format is
 *   SOURCE_NAME      what the sources are called
 */
#ifndef IMPORTING_H
#define IMPORTING_H

#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "import.h"
#include "sanitized.h"

/* Seconds of processor time that any header may take; sanitizers take their own. */
#define SECONDS_MAX (SANITIZED ? 20 : 1)

/* Of the processor: on a loaded machine the clock on the wall says nothing. */
static inline double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static inline int import_named(mfs_import *out, const char *name, const void *bytes, size_t size,
			       mfs_problem *why)
{
	mfs_source source;

	memset(why, 0, sizeof(*why));
	mfs_source_memory(&source, name, bytes, size);
	return mfs_import_source(out, &source, why);
}

static inline int import_bytes(mfs_import *out, const void *bytes, size_t size, mfs_problem *why)
{
	return import_named(out, SOURCE_NAME, bytes, size, why);
}

static inline void must_import(mfs_import *out, const struct gw *w)
{
	mfs_problem why;
	int error = import_bytes(out, w->bytes, w->size, &why);

	if (error)
		fail_msg("refused with %d: %s", error, why.text);
	assert_int_equal(out->format, IMPORTER_FORMAT);
}

static inline void must_refuse(const struct gw *w, int error, const char *reason)
{
	mfs_import import;
	mfs_problem why;
	int got = import_bytes(&import, w->bytes, w->size, &why);

	if (got != error || !strstr(why.text, reason))
		fail_msg("expected %d (%s), got %d: %s", error, reason, got, why.text);
	assert_null(import.memory);
}

static inline void assert_type(const mfs_import_tensor *t, const char *name)
{
	assert_int_equal(t->layout->name_length, strlen(name));
	assert_memory_equal(t->layout->name, name, strlen(name));
}

/* What holds for every import, however odd the file. */
static inline void assert_sound(const mfs_import *import, uint64_t size)
{
	const bool holes = IMPORTER_FORMAT != MFS_FORMAT_SAFETENSORS; /* are allowed */
	uint64_t end = 0;

	for (uint32_t i = 0; i < import->tensor_count; i++) {
		const mfs_import_tensor *t = &import->tensors[i];

		assert_true(t->size > 0);
		assert_true(holes || !i ? t->offset >= end : t->offset == end);
		assert_true(t->offset <= size && t->size <= size - t->offset);
		assert_int_equal(strlen(t->name), t->name_length);
		assert_true(t->row_bytes > 0 && t->row_bytes <= t->size);
		assert_int_equal(t->size % t->layout->block_bytes, 0);
		assert_int_equal(t->size % t->slice_bytes, 0);
		assert_int_equal(t->slice_bytes % t->row_bytes, 0);
		end = t->offset + t->size;
	}
	assert_true(holes || !import->tensor_count || end == size);
}

/* ---- hostile files ---- */

static inline struct gw build(const char *name)
{
	struct gw w = {0};

	for (size_t i = 0; i < HOSTILE_CASES; i++)
		if (!strcmp(hostile_cases[i].name, name)) {
			hostile_build(&w, &hostile_cases[i]);
			return w;
		}
	fail_msg("no case %s", name);
	return w;
}

static inline int verdict_error(enum verdict verdict)
{
	static const int errors[] = {[GOOD] = 0,
				     [INVALID] = MFS_E_INVALID,
				     [LIMIT] = MFS_E_LIMIT,
				     [TRUNCATED] = MFS_E_TRUNCATED,
				     [UNSUPPORTED] = MFS_E_UNSUPPORTED};

	return errors[verdict];
}

static inline void check_refusal(const struct hostile_case *c, const struct gw *w)
{
	static const char place[] = SOURCE_NAME ": offset 0x";
	mfs_import import;
	mfs_problem why;
	int error = import_bytes(&import, w->bytes, w->size, &why);

	if (error != verdict_error(c->verdict) || !strstr(why.text, c->reason))
		fail_msg("%s: expected %d (%s), got %d: %s", c->name, verdict_error(c->verdict),
			 c->reason, error, why.text);
	assert_int_equal(why.error, error);
	assert_true(why.offset <= w->size);
	assert_int_equal(strncmp(why.text, place, strlen(place)), 0);
	assert_int_equal(strtoull(why.text + strlen(place), NULL, 16), why.offset);
	for (const char *p = why.text; *p; p++)
		assert_true((unsigned char)*p >= 0x20);
	assert_null(import.tensors);
	assert_null(import.memory);
}

static inline void every_hostile_file_is_refused_with_its_reason(void **state)
{
	(void)state;
	for (size_t i = 0; i < HOSTILE_CASES; i++) {
		const struct hostile_case *c = &hostile_cases[i];
		struct gw w = {0};
		double start;

		if (c->verdict == GOOD)
			continue;
		assert_int_equal(strncmp(c->name, "bad-", 4), 0);
		hostile_build(&w, c);
		start = now();
		check_refusal(c, &w);
		assert_true(now() - start < SECONDS_MAX);
		gw_free(&w);
	}
}

static inline void refusals_need_no_problem_to_fill(void **state)
{
	(void)state;
	for (size_t i = 0; i < HOSTILE_CASES; i++) {
		const struct hostile_case *c = &hostile_cases[i];
		struct gw w = {0};
		mfs_source source;
		mfs_import import;

		hostile_build(&w, c);
		mfs_source_memory(&source, SOURCE_NAME, w.bytes, w.size);
		assert_int_equal(IMPORTER(&import, &source, NULL), verdict_error(c->verdict));
		mfs_import_free(&import);
		gw_free(&w);
	}
}

static inline void every_odd_legal_file_is_imported(void **state)
{
	(void)state;
	for (size_t i = 0; i < HOSTILE_CASES; i++) {
		const struct hostile_case *c = &hostile_cases[i];
		struct gw w = {0};
		mfs_import import;

		if (c->verdict != GOOD)
			continue;
		hostile_build(&w, c);
		must_import(&import, &w);
		if (import.tensor_count != c->tensors)
			fail_msg("%s: %u tensors", c->name, import.tensor_count);
		assert_sound(&import, w.size);
		mfs_import_free(&import);
		gw_free(&w);
	}
}

#endif
