/* The index as it is written: where the root lies and how it is stored. */
#include "source_files.h"

#include "container.h"
#include "index_writer.h"
#include "root_builder.h"

#define CONTAINER "c.mfs"

/* A container of empty files is an index and nothing else. */
static mfs_plan plan_of_empty_files(int count)
{
	mfs_plan plan = {.profile = MFS_PROFILE_SD, .page_bytes = 16384, .frame_bytes = 128 << 10};
	const char *empty = sf_write("empty", "", 0);
	mfs_problem why = {0};
	char name[32];

	for (int i = 0; i < count; i++) {
		snprintf(name, sizeof(name), "file %d", i);
		if (mfs_plan_add(&plan, empty, name, &why) < 0)
			fail_msg("%s", why.text);
	}
	if (mfs_plan_build(&plan, &why) < 0 || mfs_plan_order_by_file(&plan, &why) < 0)
		fail_msg("%s", why.text);
	mfs_plan_number(&plan);
	return plan;
}

/* Writes the container, with so much room for copy 1 of its root (UINT64_MAX: as much as
 * was foreseen). */
static mfs_superblock write_container(mfs_plan *plan, uint64_t room)
{
	mfs_output output = MFS_OUTPUT_NONE;
	mfs_placement placement;
	mfs_chunk_writer chunks;
	mfs_problem why = {0};
	mfs_index index;

	assert_int_equal(mfs_index_place(&placement, plan, &why), 0);
	assert_true(placement.root_room > 0);
	if (room < placement.root_room)
		placement.root_room = room;
	assert_int_equal(mfs_output_open(&output, sf_path(CONTAINER), 1, &why), 0);
	assert_int_equal(mfs_chunk_writer_open(&chunks, plan, &placement, &output), 0);
	assert_int_equal(mfs_chunk_writer_finish(&chunks, &why), 0);
	if (mfs_index_write(&index, plan, &placement, &chunks, &output, &why) < 0 ||
	    mfs_index_seal(&index, &output, &why) < 0 || mfs_output_publish(&output, &why) < 0)
		fail_msg("%s", why.text);
	mfs_chunk_writer_close(&chunks);
	mfs_placement_free(&placement);
	mfs_output_close(&output);
	return index.superblock;
}

static int count_problem(void *user, const mfs_problem *why)
{
	(void)user;
	print_message("%s\n", why->text);
	return 0;
}

/* It opens, holds all files, and both copies of everything are whole. */
static void assert_whole(uint32_t files)
{
	mfs_container *c;
	mfs_problem why;

	if (mfs_open(&c, sf_path(CONTAINER), NULL, &why) < 0)
		fail_msg("%s", why.text);
	assert_int_equal(mfs_file_count(c), files);
	assert_int_equal(mfs_check(c, count_problem, NULL, NULL), 0);
	mfs_close(c);
}

static void flip(uint64_t offset)
{
	FILE *f = fopen(sf_path(CONTAINER), "r+b");
	int byte;

	assert_non_null(f);
	fseek(f, (long)offset, SEEK_SET);
	byte = fgetc(f);
	fseek(f, (long)offset, SEEK_SET);
	fputc(byte ^ 1, f);
	fclose(f);
}

static void a_small_root_is_stored_as_it_is(void **state)
{
	mfs_plan plan = plan_of_empty_files(10);
	mfs_superblock sb = write_container(&plan, UINT64_MAX);

	(void)state;
	assert_int_equal(sb.feature_incompat, 0);
	assert_true(sb.root_size > 10 * sizeof(struct mfs_disk_file));
	assert_whole(10);
	mfs_plan_free(&plan);
}

static void a_large_root_is_stored_in_columns(void **state)
{
	mfs_plan plan = plan_of_empty_files(100);
	mfs_superblock sb = write_container(&plan, UINT64_MAX);
	mfs_container *c;

	(void)state;
	assert_int_equal(sb.feature_incompat, MFS_INCOMPAT_COLUMNS);
	assert_true(sb.root_size < 10 * sizeof(struct mfs_disk_file));
	assert_whole(100);
	flip(sb.root_offset[0] + sb.root_size - 1);
	/* The other copy serves. */
	assert_int_equal(mfs_open(&c, sf_path(CONTAINER), NULL, NULL), 0);
	mfs_close(c);
	mfs_plan_free(&plan);
}

/* Around the size up to which it is stored as it is. */
static void a_root_of_any_size_finds_its_place(void **state)
{
	(void)state;
	for (int files = 35; files < 60; files++) {
		mfs_plan plan = plan_of_empty_files(files);
		mfs_superblock sb = write_container(&plan, UINT64_MAX);

		assert_true(sb.root_offset[0] < sb.root_offset[1]);
		assert_true(sb.root_size <= MFS_ROOT_PLAIN_MAX);
		assert_whole((uint32_t)files);
		mfs_plan_free(&plan);
	}
}

static void a_root_that_outgrows_its_place_goes_elsewhere(void **state)
{
	mfs_plan plan = plan_of_empty_files(100);
	mfs_superblock sb = write_container(&plan, UINT64_MAX), moved;
	uint32_t size = sb.root_size;

	(void)state;
	assert_true(sb.root_offset[0] < sb.root_offset[1]);
	moved = write_container(&plan, size - 1);
	assert_int_equal(moved.root_size, size);
	assert_true(moved.root_offset[0] >= moved.root_offset[1] + size);
	assert_true(moved.root_offset[0] + size <= moved.container_size - MFS_SB_SIZE);
	assert_whole(100);
	moved = write_container(&plan, size);
	assert_int_equal(moved.root_offset[0], sb.root_offset[0]);
	assert_whole(100);
	mfs_plan_free(&plan);
}

/* What a root of 16 MiB cannot hold is refused before anything is written. */
static void a_root_over_its_limit_is_refused(void **state)
{
	mfs_plan plan = plan_of_empty_files(1);
	mfs_placement placement;
	mfs_problem why = {0};
	uint32_t tables = plan.tables_count;

	(void)state;
	plan.tables_count = MFS_ROOT_MAX / sizeof(struct mfs_disk_tables);
	assert_int_equal(mfs_index_place(&placement, &plan, &why), MFS_E_LIMIT);
	assert_non_null(strstr(why.text, "over its limit of 16 MiB"));
	plan.tables_count = tables;
	mfs_plan_free(&plan);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_small_root_is_stored_as_it_is),
	    cmocka_unit_test(a_large_root_is_stored_in_columns),
	    cmocka_unit_test(a_root_of_any_size_finds_its_place),
	    cmocka_unit_test(a_root_that_outgrows_its_place_goes_elsewhere),
	    cmocka_unit_test(a_root_over_its_limit_is_refused),
	};

	return cmocka_run_group_tests(tests, sf_setup, sf_teardown);
}
