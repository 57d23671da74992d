/* Traces as text: what is written is read again; what is wrong is refused with
 * its line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "trace.h"

static const mfs_trace_name all_names[] = {{"a.gguf", "t", 1000, 0},
					   {"a.gguf", "", 5000, 1},
					   {"b\tc\n\\.gguf", "odd \x01 name", 77, 2},
					   {"#d", "t", 50, 3}};
#define NAMES 4

static int parse(const char *text, mfs_trace *out, mfs_problem *why)
{
	mfs_trace_name names[NAMES];

	memcpy(names, all_names, sizeof(names));
	memset(why, 0, sizeof(*why));
	return mfs_trace_parse(out, "x.trace", text, strlen(text), names, NAMES, why);
}

static void refused(const char *text, const char *message)
{
	mfs_problem why;
	mfs_trace trace;

	assert_int_equal(parse(text, &trace, &why), MFS_E_INVALID);
	assert_string_equal(why.text, message);
	assert_null(trace.entries);
}

static void what_is_written_is_read_again(void **state)
{
	char path[] = "/tmp/modelfs-trace-XXXXXX";
	mfs_trace_name names[NAMES];
	mfs_trace trace = {0}, again;
	mfs_problem why = {0};
	int fd = mkstemp(path);

	(void)state;
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(mfs_trace_add(&trace, 2, 0, 10), 0);
	assert_int_equal(mfs_trace_add(&trace, 0, 100, 200), 0);
	assert_int_equal(mfs_trace_add(&trace, 0, 200, 300), 0); /* makes the last one longer */
	assert_int_equal(mfs_trace_add(&trace, 3, 0, 50), 0);
	assert_int_equal(mfs_trace_add(&trace, 1, 4999, 5000), 0);
	assert_int_equal(trace.count, 4);
	assert_int_equal(mfs_trace_write(&trace, path, all_names, &why), 0);
	memcpy(names, all_names, sizeof(names));
	assert_int_equal(mfs_trace_read(&again, path, names, NAMES, &why), 0);
	assert_int_equal(again.count, trace.count);
	for (uint32_t i = 0; i < again.count; i++) {
		assert_int_equal(again.entries[i].number, trace.entries[i].number);
		assert_int_equal(again.entries[i].from, trace.entries[i].from);
		assert_int_equal(again.entries[i].to, trace.entries[i].to);
	}
	mfs_trace_free(&trace);
	mfs_trace_free(&again);
	unlink(path);
}

static void remarks_and_empty_lines_mean_nothing(void **state)
{
	mfs_problem why;
	mfs_trace trace;

	(void)state;
	assert_int_equal(parse("modelfs-trace 1\n# a\n\na.gguf\tt\t0-1\n", &trace, &why), 0);
	assert_int_equal(trace.count, 1);
	mfs_trace_free(&trace);
	assert_int_equal(parse("modelfs-trace 1\n", &trace, &why), 0);
	assert_int_equal(trace.count, 0);
	mfs_trace_free(&trace);
}

static void a_bad_line_is_named_by_its_number(void **state)
{
	static const char *const lines[] = {"a.gguf",
					    "a.gguf\t",
					    "a.gguf\tt",
					    "a.gguf\tt\t",
					    "a.gguf\tt\t5",
					    "a.gguf\tt\t5-",
					    "a.gguf\tt\t-5",
					    "a.gguf\tt\t1-5 ",
					    "a.gguf\tt\t+1-5",
					    "a.gguf\tt\t1-5\t",
					    "a\\q.gguf\tt\t1-5",
					    "a\\x4.gguf\tt\t1-5",
					    "a\\x00\tt\t1-5",
					    "a\\",
					    "\t\t",
					    "a.gguf\tt\t1-99999999999999999999"};
	char text[200];

	(void)state;
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		snprintf(text, sizeof(text), "modelfs-trace 1\n\n%s\n", lines[i]);
		refused(text, "x.trace: line 3: not FILE, TENSOR and FROM-TO with tabulators "
			      "between them");
	}
	refused("", "x.trace: line 1: not a trace: it is empty");
	refused("hello\n",
		"x.trace: line 1: not a trace: it does not begin with 'modelfs-trace 1'");
	refused("modelfs-trace 1\na.gguf\tt\t0-1", "x.trace: line 2: the line is cut off");
	refused("modelfs-trace 1\nz\tt\t0-1\n", "x.trace: line 2: there is no such file");
	refused("modelfs-trace 1\na.gguf\tu\t0-1\n",
		"x.trace: line 2: the file has no such tensor");
	refused("modelfs-trace 1\na.gguf\tt\t0-1\na.gguf\tt\t5-5\n",
		"x.trace: line 3: the bytes are not bytes of the tensor");
	refused("modelfs-trace 1\na.gguf\tt\t0-1001\n",
		"x.trace: line 2: the bytes are not bytes of the tensor");
}

static void too_many_entries_are_refused(void **state)
{
	size_t lines = MFS_TRACE_ENTRIES_MAX + 1, length = 0;
	char *text = malloc(lines * 16 + 32);
	mfs_trace_name names[NAMES];
	mfs_problem why = {0};
	mfs_trace trace;

	(void)state;
	memcpy(names, all_names, sizeof(names));
	length += (size_t)sprintf(text, "modelfs-trace 1\n");
	for (size_t i = 0; i < lines; i++)
		length += (size_t)sprintf(text + length, "a.gguf\tt\t%zu-%zu\n", i % 2 * 2,
					  i % 2 * 2 + 1);
	assert_int_equal(mfs_trace_parse(&trace, "x.trace", text, length, names, NAMES, &why),
			 MFS_E_INVALID);
	assert_non_null(strstr(why.text, "line 1048578: more entries"));
	free(text);
}

static void what_is_no_file_is_refused(void **state)
{
	mfs_trace_name names[NAMES];
	mfs_problem why = {0};
	mfs_trace trace;

	(void)state;
	memcpy(names, all_names, sizeof(names));
	assert_int_equal(mfs_trace_read(&trace, "/nonexistent", names, NAMES, &why), MFS_E_SYSTEM);
	assert_non_null(strstr(why.text, "/nonexistent: "));
	assert_int_equal(mfs_trace_read(&trace, "/tmp", names, NAMES, &why), MFS_E_IO);
	assert_int_equal(mfs_trace_read(&trace, "/dev/zero", names, NAMES, &why), MFS_E_LIMIT);
	assert_int_equal(mfs_trace_read(&trace, "/dev/null", names, NAMES, &why), MFS_E_INVALID);
	assert_int_equal(mfs_trace_write(&trace, "/nonexistent/x", names, &why), MFS_E_SYSTEM);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_is_written_is_read_again),
	    cmocka_unit_test(remarks_and_empty_lines_mean_nothing),
	    cmocka_unit_test(a_bad_line_is_named_by_its_number),
	    cmocka_unit_test(too_many_entries_are_refused),
	    cmocka_unit_test(what_is_no_file_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
