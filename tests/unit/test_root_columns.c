/* Roots in columns: they come back as they were, and anything else is refused. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <zstd.h>

#include "modelfs_error.h"
#include "root.h"
#include "root_columns.h"

#define HEADER sizeof(struct mfs_disk_root)

/* A root with about so many records in each section but terms, and so many bytes of
 * names. What it says means nothing. */
static uint8_t *make_root(uint32_t *size, uint32_t records, uint32_t names)
{
	uint32_t count[MFS_SECTIONS];
	mfs_root root;
	uint8_t *bytes;

	for (uint32_t s = 0; s < MFS_SECTIONS; s++)
		count[s] = records + s % 3;
	count[MFS_SEC_TERMS] = 0;
	count[MFS_SEC_NAMES] = names;
	*size = mfs_root_layout(&root, count);
	assert_true(*size > HEADER);
	bytes = calloc(1, *size);
	assert_non_null(bytes);
	mfs_root_put_header(&root, bytes);
	for (uint32_t i = 0; i < count[MFS_SEC_TENSORS]; i++) {
		mfs_root_tensor t = {.file = i / 100,
				     .size = 4096 + i % 7 * 1024,
				     .file_offset = UINT64_C(0xffffff00) + i * 4096,
				     .base = MFS_NO_TENSOR};

		mfs_root_put_tensor(&root, bytes, i, &t, i * 20);
	}
	for (uint32_t i = 0; i < count[MFS_SEC_EXTENTS]; i++)
		mfs_root_put_extent(&root, bytes, i,
				    &(mfs_root_extent){.file_offset = i * UINT64_C(1) << 31,
						       .length = 1,
						       .tensor = UINT32_MAX - i});
	for (uint32_t i = 0; i < names; i++)
		bytes[root.offset[MFS_SEC_NAMES] + i] = (uint8_t)(i * i >> 3);
	return bytes;
}

static uint8_t *encode(const uint8_t *root, uint32_t size, uint32_t *stored_size)
{
	uint8_t *stored = malloc(mfs_columns_bound(size));

	assert_non_null(stored);
	*stored_size = mfs_columns_encode(root, size, stored, mfs_columns_bound(size));
	assert_true(*stored_size > HEADER);
	return stored;
}

/* Decodes from memory of exactly that size, so that sanitizers see a byte too far. */
static int decode(const uint8_t *stored, uint32_t stored_size, uint8_t **out, uint32_t *size,
		  const char **reason)
{
	uint8_t *exact = malloc(stored_size ? stored_size : 1);
	int err;

	*out = NULL;
	*reason = NULL;
	assert_non_null(exact);
	memcpy(exact, stored, stored_size);
	err = mfs_columns_root_size(exact, stored_size, size, reason);
	if (!err) {
		assert_true(*size >= HEADER && *size <= MFS_ROOT_MAX);
		*out = calloc(1, *size);
		assert_non_null(*out);
		err = mfs_columns_decode(*out, exact, stored_size, reason);
	}
	free(exact);
	assert_true(!err || *reason);
	return err;
}

static void assert_comes_back(const uint8_t *root, uint32_t size)
{
	uint32_t stored_size, seen_size;
	uint8_t *stored = encode(root, size, &stored_size), *seen;
	const char *reason;

	assert_int_equal(decode(stored, stored_size, &seen, &seen_size, &reason), 0);
	assert_int_equal(seen_size, size);
	assert_memory_equal(seen, root, size);
	free(seen);
	free(stored);
}

static void assert_refused(const uint8_t *stored, uint32_t stored_size)
{
	const char *reason;
	uint32_t size;
	uint8_t *out;

	assert_int_equal(decode(stored, stored_size, &out, &size, &reason), MFS_E_CORRUPT);
	free(out);
}

static void a_root_comes_back_as_it_was(void **state)
{
	static const uint32_t records[] = {0, 1, 2, 3, 1000}, names[] = {0, 1, 12345};

	(void)state;
	for (size_t r = 0; r < sizeof(records) / sizeof(records[0]); r++)
		for (size_t n = 0; n < sizeof(names) / sizeof(names[0]); n++) {
			uint32_t size;
			uint8_t *root = make_root(&size, records[r], names[n]);

			assert_comes_back(root, size);
			free(root);
		}
}

/* Whatever the words are, differences bring them back. */
static void a_root_of_noise_comes_back_as_it_was(void **state)
{
	uint32_t size, state32 = 1;
	uint8_t *root = make_root(&size, 50, 100);
	mfs_root places = {.bytes = root};

	(void)state;
	for (int s = 0; s < MFS_SECTIONS; s++) {
		places.offset[s] = load_le32(root + 32 + 8 * s);
		places.count[s] = load_le32(root + 36 + 8 * s);
	}
	for (uint32_t i = places.offset[MFS_SEC_TENSORS];
	     i < places.offset[MFS_SEC_TENSORS] + 120 * places.count[MFS_SEC_TENSORS]; i++)
		root[i] = (uint8_t)((state32 = state32 * 1664525 + 1013904223) >> 24);
	assert_comes_back(root, size);
	free(root);
}

static void like_records_cost_little(void **state)
{
	uint32_t size, stored_size;
	uint8_t *root = make_root(&size, 2000, 0), *stored = encode(root, size, &stored_size);

	(void)state;
	assert_true(stored_size < size / 100);
	free(stored);
	free(root);
}

static void what_is_cut_short_is_refused(void **state)
{
	uint32_t size, stored_size;
	uint8_t *root = make_root(&size, 10, 50), *stored = encode(root, size, &stored_size);

	(void)state;
	for (uint32_t length = 0; length < stored_size; length++)
		assert_refused(stored, length);
	free(stored);
	free(root);
}

static void nothing_may_lie_behind_the_columns(void **state)
{
	static const uint8_t skippable[] = {0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0};
	uint32_t size, stored_size;
	uint8_t *root = make_root(&size, 10, 50), *stored = encode(root, size, &stored_size);
	uint8_t *longer = malloc(stored_size + sizeof(skippable));

	(void)state;
	assert_non_null(longer);
	memcpy(longer, stored, stored_size);
	memcpy(longer + stored_size, skippable, sizeof(skippable));
	assert_refused(longer, stored_size + 1);
	assert_refused(longer, stored_size + sizeof(skippable));
	free(longer);
	free(stored);
	free(root);
}

static void columns_of_another_size_are_refused(void **state)
{
	uint32_t size, stored_size;
	uint8_t *root = make_root(&size, 10, 50), *stored = encode(root, size, &stored_size);
	uint8_t *names = stored + 36 + 8 * MFS_SEC_NAMES;

	(void)state;
	store_le32(names, 49);
	assert_refused(stored, stored_size);
	store_le32(names, 51);
	assert_refused(stored, stored_size);
	store_le32(names, 50);
	store_le32(stored + 36 + 8 * MFS_SEC_DIMS, 0);
	assert_refused(stored, stored_size);
	free(stored);
	free(root);
}

static void a_root_over_its_limit_is_refused_before_memory_is_taken(void **state)
{
	uint32_t size, stored_size, seen;
	uint8_t *root = make_root(&size, 10, 0), *stored = encode(root, size, &stored_size);
	uint32_t room = MFS_ROOT_MAX - load_le32(stored + 32 + 8 * MFS_SEC_NAMES);
	const char *reason = NULL;

	(void)state;
	store_le32(stored + 36 + 8 * MFS_SEC_NAMES, room);
	assert_int_equal(mfs_columns_root_size(stored, stored_size, &seen, &reason), 0);
	assert_int_equal(seen, MFS_ROOT_MAX);
	store_le32(stored + 36 + 8 * MFS_SEC_NAMES, room + 1);
	assert_int_equal(mfs_columns_root_size(stored, stored_size, &seen, &reason), MFS_E_CORRUPT);
	assert_non_null(reason);
	store_le32(stored + 36 + 8 * MFS_SEC_NAMES, 0);
	store_le32(stored + 32 + 8 * MFS_SEC_FILES, 112); /* overlaps those before */
	assert_int_equal(mfs_columns_root_size(stored, stored_size, &seen, &reason), MFS_E_CORRUPT);
	free(stored);
	free(root);
}

/* Damage that the hash does not tell of: an error or another root, within bounds. */
static void any_byte_may_be_wrong(void **state)
{
	uint32_t size, stored_size;
	uint8_t *root = make_root(&size, 10, 50), *stored = encode(root, size, &stored_size);

	(void)state;
	for (uint32_t i = 32; i < stored_size; i++) {
		const char *reason;
		uint32_t seen;
		uint8_t *out;

		stored[i] ^= (uint8_t)(1 + i % 255);
		decode(stored, stored_size, &out, &seen, &reason);
		free(out);
		stored[i] ^= (uint8_t)(1 + i % 255);
	}
	assert_comes_back(root, size);
	free(stored);
	free(root);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_root_comes_back_as_it_was),
	    cmocka_unit_test(a_root_of_noise_comes_back_as_it_was),
	    cmocka_unit_test(like_records_cost_little),
	    cmocka_unit_test(what_is_cut_short_is_refused),
	    cmocka_unit_test(nothing_may_lie_behind_the_columns),
	    cmocka_unit_test(columns_of_another_size_are_refused),
	    cmocka_unit_test(a_root_over_its_limit_is_refused_before_memory_is_taken),
	    cmocka_unit_test(any_byte_may_be_wrong),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
