/* Equal tensors are stored once, and come back as if they were not. */
#include "fixture.h"
#include "memory_io.h"

#include "../../libmodelfs/container.h"

static mfs_container *fixture_open(fixture *f)
{
	memory_io *io = memory_io_new(f->container, f->size);
	mfs_problem why = {0};
	mfs_container *c;

	if (mfs_open_io(&c, &io->head, "memory", NULL, &why))
		fail_msg("%s", why.text);
	return c;
}

static uint64_t packed_bytes(fixture *f, uint64_t *shared)
{
	mfs_container_info info = {.size = sizeof(info)};
	mfs_container *c = fixture_open(f);

	assert_int_equal(mfs_info(c, &info), 0);
	assert_int_equal(mfs_check(c, NULL, NULL, NULL), 0);
	*shared = info.shared_bytes;
	mfs_close(c);
	return info.frame_bytes_stored + info.tables_bytes;
}

static void check_file(fixture *f, const char *name, const uint8_t *bytes, size_t size)
{
	mfs_container *c = fixture_open(f);
	int64_t file = mfs_file_find(c, name);
	uint8_t *got = malloc(size);

	assert_true(file >= 0);
	assert_non_null(got);
	assert_int_equal(mfs_read(c, (uint32_t)file, 0, got, size), size);
	assert_memory_equal(got, bytes, size);
	free(got);
	mfs_close(c);
}

static void two_equal_files_cost_little_more_than_one(void **state)
{
	uint64_t one, two, shared;
	uint8_t *bytes;
	size_t size = fixture_q8_0(&bytes, 300, 1);
	fixture f;

	(void)state;
	fixture_begin(&f, NULL);
	fixture_add(&f, "a.gguf", bytes, size);
	fixture_end(&f);
	one = packed_bytes(&f, &shared);
	assert_int_equal(shared, 0);
	fixture_free(&f);
	fixture_begin(&f, NULL);
	fixture_add(&f, "a.gguf", bytes, size);
	fixture_add(&f, "b.gguf", bytes, size);
	fixture_end(&f);
	two = packed_bytes(&f, &shared);
	assert_int_equal(two, one);
	assert_int_equal(shared, one);
	check_file(&f, "a.gguf", bytes, size);
	check_file(&f, "b.gguf", bytes, size);
	fixture_free(&f);
	free(bytes);
}

/* Where a fingerprint does not look. */
static void one_different_byte_keeps_tensors_apart(void **state)
{
	uint8_t *bytes, *other;
	size_t size = fixture_q8_0(&bytes, 300, 1);
	uint64_t shared;
	fixture f;

	(void)state;
	other = malloc(size);
	assert_non_null(other);
	memcpy(other, bytes, size);
	other[size / 3] ^= 1;
	fixture_begin(&f, NULL);
	fixture_add(&f, "a.gguf", bytes, size);
	fixture_add(&f, "b.gguf", other, size);
	fixture_end(&f);
	packed_bytes(&f, &shared);
	assert_true(shared < 1000); /* the headers are equal */
	check_file(&f, "a.gguf", bytes, size);
	check_file(&f, "b.gguf", other, size);
	fixture_free(&f);
	free(bytes);
	free(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(two_equal_files_cost_little_more_than_one),
	    cmocka_unit_test(one_different_byte_keeps_tensors_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
