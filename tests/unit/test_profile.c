/* Profiles and the words for errors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "mfs_disk.h"
#include "modelfs.h"
#include "problem.h"

static void every_profile_is_found_by_its_name(void **state)
{
	(void)state;
	for (int id = 0; id < MFS_PROFILES; id++) {
		mfs_profile p = {.size = sizeof(p)};

		assert_int_equal(mfs_profile_get((mfs_profile_id)id, &p), 0);
		assert_int_equal(mfs_profile_find(p.name), id);
	}
}

static void profiles_are_within_the_limits_of_the_format(void **state)
{
	(void)state;
	for (int id = 0; id < MFS_PROFILES; id++) {
		mfs_profile p = {.size = sizeof(p)};

		assert_int_equal(mfs_profile_get((mfs_profile_id)id, &p), 0);
		assert_in_range(p.page_bytes, MFS_PAGE_MIN, MFS_PAGE_MAX);
		assert_int_equal(p.page_bytes & (p.page_bytes - 1), 0);
		assert_in_range(p.frame_bytes, MFS_FRAME_MIN, MFS_FRAME_MAX);
		assert_in_range(p.quantized_frame_bytes, MFS_FRAME_MIN, p.frame_bytes);
		assert_true(p.request_bytes >= p.page_bytes);
		assert_true(p.depth >= 1);
	}
}

static void nor_has_small_frames_and_one_read_at_a_time(void **state)
{
	mfs_profile p = {.size = sizeof(p)};

	(void)state;
	assert_int_equal(mfs_profile_get(MFS_PROFILE_NOR, &p), 0);
	assert_string_equal(p.name, "nor");
	assert_int_equal(p.page_bytes, 4096);
	assert_int_equal(p.frame_bytes, 8192);
	assert_int_equal(p.request_bytes, 65536);
	assert_int_equal(p.depth, 1);
}

static void unknown_profiles_are_refused(void **state)
{
	mfs_profile p = {.size = sizeof(p)};

	(void)state;
	assert_int_equal(mfs_profile_get(MFS_PROFILES, &p), MFS_E_ARGUMENT);
	assert_int_equal(mfs_profile_get((mfs_profile_id)-1, &p), MFS_E_ARGUMENT);
	assert_int_equal(mfs_profile_find("floppy"), MFS_E_NOT_FOUND);
	assert_int_equal(mfs_profile_find(""), MFS_E_NOT_FOUND);
	assert_int_equal(mfs_profile_find("SD"), MFS_E_NOT_FOUND);
}

static void an_older_caller_gets_the_part_that_it_knows(void **state)
{
	mfs_profile p;

	(void)state;
	memset(&p, 0x55, sizeof(p));
	p.size = offsetof(mfs_profile, request_bytes);
	assert_int_equal(mfs_profile_get(MFS_PROFILE_USB, &p), 0);
	assert_int_equal(p.size, offsetof(mfs_profile, request_bytes));
	assert_int_equal(p.frame_bytes, 256 << 10);
	assert_int_equal(p.request_bytes, 0x55555555);
	p.size = 0;
	assert_int_equal(mfs_profile_get(MFS_PROFILE_USB, &p), MFS_E_ARGUMENT);
}

static void problem_text_is_one_clean_line(void **state)
{
	mfs_problem why;
	char name[1000];

	(void)state;
	assert_int_equal(mfs_problem_set(&why, MFS_E_IO, 7, "a\nb\x1b%d", 5), MFS_E_IO);
	assert_string_equal(why.text, "a?b?5");
	assert_int_equal(why.error, MFS_E_IO);
	assert_int_equal(why.offset, 7);
	memset(name, 'x', sizeof(name));
	name[sizeof(name) - 1] = 0;
	mfs_problem_set(&why, MFS_E_IO, 7, "%s", name);
	assert_int_equal(strlen(why.text), sizeof(why.text) - 1);
	assert_int_equal(mfs_problem_set(NULL, MFS_E_LIMIT, 0, "x"), MFS_E_LIMIT);
}

static void every_error_has_its_own_words(void **state)
{
	static const int errors[] = {
	    MFS_E_IO,	     MFS_E_MEMORY,	MFS_E_SYSTEM,	MFS_E_MAGIC, MFS_E_CORRUPT,
	    MFS_E_TRUNCATED, MFS_E_UNSUPPORTED, MFS_E_INVALID,	MFS_E_LIMIT, MFS_E_ARGUMENT,
	    MFS_E_NOT_FOUND, MFS_E_EXISTS,	MFS_E_CANCELLED};
	size_t count = sizeof(errors) / sizeof(errors[0]);

	(void)state;
	for (size_t i = 0; i < count; i++) {
		assert_string_not_equal(mfs_error_text(errors[i]), mfs_error_text(-9999));
		for (size_t k = 0; k < i; k++)
			assert_string_not_equal(mfs_error_text(errors[i]),
						mfs_error_text(errors[k]));
	}
	assert_string_equal(mfs_error_text(0), "no error");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_profile_is_found_by_its_name),
	    cmocka_unit_test(profiles_are_within_the_limits_of_the_format),
	    cmocka_unit_test(nor_has_small_frames_and_one_read_at_a_time),
	    cmocka_unit_test(unknown_profiles_are_refused),
	    cmocka_unit_test(an_older_caller_gets_the_part_that_it_knows),
	    cmocka_unit_test(problem_text_is_one_clean_line),
	    cmocka_unit_test(every_error_has_its_own_words),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
