/* How much memory there is, read from made-up trees of /proc and /sys. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "memory.h"

#define MIB (UINT64_C(1) << 20)

static char root[64];

static int make_root(void **state)
{
	(void)state;
	strcpy(root, "/tmp/modelfs-test-XXXXXX");
	return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf '%s'", root);
	return system(command);
}

static void put(const char *path, const char *text)
{
	char command[512], full[256];
	FILE *file;

	snprintf(full, sizeof(full), "%s/%s", root, path);
	snprintf(command, sizeof(command), "mkdir -p \"$(dirname '%s')\"", full);
	assert_int_equal(system(command), 0);
	file = fopen(full, "w");
	assert_non_null(file);
	assert_true(fputs(text, file) >= 0);
	assert_int_equal(fclose(file), 0);
}

static void put_machine(const char *cgroup)
{
	put("proc/meminfo", "MemTotal:        8192000 kB\n"
			    "MemFree:          100000 kB\n"
			    "MemAvailable:    4096000 kB\n");
	put("proc/self/cgroup", cgroup);
}

static void assert_memory(uint64_t total, uint64_t available)
{
	mfs_memory memory;

	assert_true(mfs_memory_get(root, &memory));
	assert_int_equal(memory.total_bytes, total);
	assert_int_equal(memory.available_bytes, available);
}

static void without_cgroups_the_machine_counts(void **state)
{
	(void)state;
	put_machine("");
	assert_memory(UINT64_C(8192000) * 1024, UINT64_C(4096000) * 1024);
}

static void without_meminfo_nothing_is_known(void **state)
{
	mfs_memory memory;

	(void)state;
	assert_false(mfs_memory_get("/nowhere", &memory));
	put("proc/meminfo", "MemTotal: 12 kB\n");
	assert_false(mfs_memory_get(root, &memory));
}

static void the_tightest_group_of_version_2_counts(void **state)
{
	(void)state;
	put_machine("0::/outer/inner\n");
	put("sys/fs/cgroup/outer/memory.max", "1073741824\n");
	put("sys/fs/cgroup/outer/memory.current", "805306368\n"); /* 768 MiB */
	put("sys/fs/cgroup/outer/memory.stat",
	    "anon 1\ninactive_file 104857600\nactive_file 52428800\nfile 9\n");
	put("sys/fs/cgroup/outer/inner/memory.max", "max\n");
	put("sys/fs/cgroup/outer/inner/memory.current", "1\n");
	assert_memory(1024 * MIB, 256 * MIB + 150 * MIB);
	/* Less room in the inner one, although more in all. */
	put("sys/fs/cgroup/outer/inner/memory.max", "2147483648\n");
	put("sys/fs/cgroup/outer/inner/memory.current", "2146435072\n");
	assert_memory(1024 * MIB, MIB);
}

static void pages_of_files_count_as_available_in_version_1(void **state)
{
	(void)state;
	put_machine("9:name=systemd:/\n4:cpu,memory:/box\n0::/\n");
	put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
	put("sys/fs/cgroup/memory/memory.usage_in_bytes", "12345\n");
	put("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "209715200\n");
	put("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "209715200\n");
	put("sys/fs/cgroup/memory/box/memory.stat",
	    "inactive_file 1\nactive_file 1\ntotal_inactive_file 1048576\n"
	    "total_active_file 2097152\n");
	assert_memory(200 * MIB, 3 * MIB);
}

static void a_group_that_is_not_there_leaves_those_above_it(void **state)
{
	(void)state;
	put_machine("0::/docker/0123\n");
	put("sys/fs/cgroup/memory.max", "1048576\n");
	put("sys/fs/cgroup/memory.current", "2097152\n"); /* over its limit */
	assert_memory(MIB, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(without_cgroups_the_machine_counts, make_root,
					    remove_root),
	    cmocka_unit_test_setup_teardown(without_meminfo_nothing_is_known, make_root,
					    remove_root),
	    cmocka_unit_test_setup_teardown(the_tightest_group_of_version_2_counts, make_root,
					    remove_root),
	    cmocka_unit_test_setup_teardown(pages_of_files_count_as_available_in_version_1,
					    make_root, remove_root),
	    cmocka_unit_test_setup_teardown(a_group_that_is_not_there_leaves_those_above_it,
					    make_root, remove_root),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
