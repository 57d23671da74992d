/* A reader for which malloc() fails once, at any place: reads end, with the bytes or with
 * MFS_E_MEMORY, and afterwards all is as it was. Allocations of the library are wrapped
 * when this is linked. */
#include <stdatomic.h>

#include "vectors.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);

static atomic_int left; /* allocations until one fails; 0: none does */

static bool fails(void)
{
	return atomic_load(&left) > 0 && atomic_fetch_sub(&left, 1) == 1;
}

void *__wrap_malloc(size_t size)
{
	return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
	return fails() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *memory, size_t size)
{
	return fails() ? NULL : __real_realloc(memory, size);
}

#define PIECE (48u << 10)

/* Reads the file in pieces; with `strict` each gives its bytes. Returns a sum over them,
 * and counts the refused. */
static uint64_t read_file(mfs_container *c, uint32_t file, bool strict, unsigned *refused)
{
	static uint8_t buffer[PIECE];
	mfs_file_info info = {.size = sizeof(info)};
	uint64_t sum = 0;

	assert_int_equal(mfs_file_get(c, file, &info), 0);
	for (uint64_t at = 0; at < info.file_bytes; at += PIECE) {
		int64_t got = mfs_read(c, file, at, buffer, PIECE);

		if (got == MFS_E_MEMORY && !strict) {
			++*refused;
			continue;
		}
		assert_int_equal(got, info.file_bytes - at < PIECE ? info.file_bytes - at : PIECE);
		for (int64_t i = 0; i < got; i++)
			sum = sum * 31 + buffer[i];
	}
	return sum;
}

static mfs_container *open_vector(const char *name, int no_prefetch)
{
	mfs_open_options options = MFS_OPEN_OPTIONS_INIT;
	char path[4096];
	mfs_problem why = {0};
	mfs_container *c;

	options.no_prefetch = no_prefetch;
	options.decoders = 2;
	if (mfs_open(&c, vector_path(path, name), &options, &why) < 0)
		fail_msg("%s", why.text);
	return c;
}

/* A view that is merged, a delta, weights in buckets: whatever a span can need. */
static void reads_end_when_memory_runs_out(void **state)
{
	static const char *const names[] = {"views.mfs", "delta.mfs", "buckets.mfs", "experts.mfs"};
	unsigned refused = 0;

	(void)state;
	for (size_t v = 0; v < sizeof(names) / sizeof(*names); v++) {
		for (int k = 1; k < 120; k++) {
			mfs_container *c = open_vector(names[v], k % 2);
			mfs_container_info info = {.size = sizeof(info)};
			uint32_t file;

			assert_int_equal(mfs_start(c, NULL), 0);
			assert_int_equal(mfs_info(c, &info), 0);
			file = (uint32_t)k % info.files;
			atomic_store(&left, k / 2 + 1);
			read_file(c, file, false, &refused);
			atomic_store(&left, 0);
			/* What failed ahead of a read is told to the next one. */
			read_file(c, file, false, &refused);
			assert_int_equal(read_file(c, file, true, NULL),
					 read_file(c, file, true, NULL));
			mfs_close(c);
		}
	}
	assert_true(refused > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(reads_end_when_memory_runs_out)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
