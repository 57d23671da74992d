/* What the programs share: sizes, clean text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../../tools/common.c"

static void sizes_take_units_of_1024(void **state)
{
	uint64_t bytes;

	(void)state;
	assert_true(tool_parse_size("0", UINT64_MAX, &bytes));
	assert_int_equal(bytes, 0);
	assert_true(tool_parse_size("64K", UINT64_MAX, &bytes));
	assert_int_equal(bytes, 65536);
	assert_true(tool_parse_size("1m", UINT64_MAX, &bytes));
	assert_int_equal(bytes, 1 << 20);
	assert_true(tool_parse_size("3GiB", UINT64_MAX, &bytes));
	assert_int_equal(bytes, UINT64_C(3) << 30);
	assert_true(tool_parse_size("18446744073709551615", UINT64_MAX, &bytes));
	assert_true(bytes == UINT64_MAX);
}

static void sizes_refuse_what_is_not_one(void **state)
{
	static const char *const bad[] = {"",	      "K",    "-1",  "+1",
					  " 1",	      "1 K",  "1KB", "1KK",
					  "1.5",      "0x10", "1X",  "18446744073709551616",
					  "16777216T"};
	uint64_t bytes;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(tool_parse_size(bad[i], UINT64_MAX, &bytes));
}

static void sizes_obey_the_maximum(void **state)
{
	uint64_t bytes;

	(void)state;
	assert_true(tool_parse_size("4K", 4096, &bytes));
	assert_false(tool_parse_size("4097", 4096, &bytes));
	assert_false(tool_parse_size("5K", 4096, &bytes));
	assert_true(tool_parse_number("7", 7, &bytes));
	assert_false(tool_parse_number("8", 7, &bytes));
	assert_false(tool_parse_number("7K", 7168, &bytes));
}

static void sizes_are_printed_with_the_unit_that_fits(void **state)
{
	char text[TOOL_SIZE_TEXT];

	(void)state;
	assert_string_equal(tool_size(text, 0), "0 B");
	assert_string_equal(tool_size(text, 1023), "1023 B");
	assert_string_equal(tool_size(text, 1024), "1.00 KiB");
	assert_string_equal(tool_size(text, 10 * 1024), "10.0 KiB");
	assert_string_equal(tool_size(text, UINT64_C(3) << 29), "1.50 GiB");
	assert_string_equal(tool_size(text, UINT64_MAX), "16.0 EiB");
}

static void ratio_of_nothing_stored_is_a_dash(void **state)
{
	char text[TOOL_SIZE_TEXT];

	(void)state;
	assert_string_equal(tool_ratio(text, 3, 2), "1.500");
	assert_string_equal(tool_ratio(text, 3, 0), "-");
}

static void assert_clean(const char *text, const char *expected)
{
	char *clean = tool_clean(text);

	assert_string_equal(clean, expected);
	free(clean);
}

static void clean_text_keeps_utf8(void **state)
{
	(void)state;
	assert_clean("", "");
	assert_clean("model Q4_K.gguf", "model Q4_K.gguf");
	assert_clean("mod\xc3\xa8le \xe2\x82\xac \xf0\x9f\x90\xa7",
		     "mod\xc3\xa8le \xe2\x82\xac \xf0\x9f\x90\xa7");
}

static void clean_text_disarms_a_terminal(void **state)
{
	(void)state;
	assert_clean("\033[2J", "\\x1b[2J");
	assert_clean("a\nb\x7f", "a\\x0ab\\x7f");
	assert_clean("\xc2\x9b"
		     "31m",
		     "\\xc2\\x9b31m"); /* CSI as one character */
	assert_clean("x\xe2\x80\xae"
		     "y",
		     "x\\xe2\\x80\\xaey"); /* right-to-left override */
}

static void clean_text_escapes_what_is_not_utf8(void **state)
{
	(void)state;
	assert_clean("\xff", "\\xff");
	assert_clean("\xc3", "\\xc3");			 /* cut off */
	assert_clean("\xc0\xaf", "\\xc0\\xaf");		 /* overlong */
	assert_clean("\xed\xa0\x80", "\\xed\\xa0\\x80"); /* surrogate */
	assert_clean("\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80");
}

static void json_text_is_always_utf8(void **state)
{
	char *text = tool_utf8("a\xff"
			       "b\xc3\xa8");

	(void)state;
	assert_string_equal(text, "a\xef\xbf\xbd"
				  "b\xc3\xa8");
	free(text);
}

static void problems_name_the_file_once(void **state)
{
	mfs_problem why = {.text = "m.mfs: chunk 3: checksum mismatch"};
	char text[128];

	(void)state;
	tool_problem_text(text, sizeof(text), "m.mfs", MFS_E_CORRUPT, &why);
	assert_string_equal(text, "m.mfs: chunk 3: checksum mismatch");
	tool_problem_text(text, sizeof(text), "x", MFS_E_CORRUPT, &why);
	assert_string_equal(text, "x: m.mfs: chunk 3: checksum mismatch");
	strcpy(why.text, "dir/a: No such file");
	tool_problem_text(text, sizeof(text), "dir", MFS_E_NOT_FOUND, &why);
	assert_string_equal(text, "dir/a: No such file");
	tool_problem_text(text, sizeof(text), "dir/", MFS_E_NOT_FOUND, &why);
	assert_string_equal(text, "dir/a: No such file");
	tool_problem_text(text, sizeof(text), "di", MFS_E_NOT_FOUND, &why);
	assert_string_equal(text, "di: dir/a: No such file");
	why.text[0] = '\0';
	tool_problem_text(text, sizeof(text), "x", MFS_E_TRUNCATED, &why);
	assert_string_equal(text, "x: truncated");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(sizes_take_units_of_1024),
	    cmocka_unit_test(sizes_refuse_what_is_not_one),
	    cmocka_unit_test(sizes_obey_the_maximum),
	    cmocka_unit_test(sizes_are_printed_with_the_unit_that_fits),
	    cmocka_unit_test(ratio_of_nothing_stored_is_a_dash),
	    cmocka_unit_test(clean_text_keeps_utf8),
	    cmocka_unit_test(clean_text_disarms_a_terminal),
	    cmocka_unit_test(clean_text_escapes_what_is_not_utf8),
	    cmocka_unit_test(json_text_is_always_utf8),
	    cmocka_unit_test(problems_name_the_file_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
