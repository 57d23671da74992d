/* The plan of a container: names, extents, spans, groups, places. */
#include "source_files.h"

#include "layout_ggml.h"
#include "placement.h"
#include "plan.h"
#include "superblock.h"

static mfs_plan new_plan(void)
{
	return (mfs_plan){.profile = MFS_PROFILE_SD,
			  .page_bytes = 16384,
			  .frame_bytes = 128 << 10,
			  .quantized_frame_bytes = 64 << 10};
}

static mfs_plan plan_of(const char *path)
{
	mfs_plan plan = new_plan();
	mfs_problem why = {0};

	if (mfs_plan_add(&plan, path, NULL, &why) < 0 || mfs_plan_build(&plan, &why) < 0)
		fail_msg("%s", why.text);
	return plan;
}

static void assert_extents_cover(const mfs_plan *plan, uint32_t file)
{
	const mfs_root_file *f = &plan->files[file].record;
	uint64_t position = 0;

	for (uint64_t i = 0; i < f->extent_count; i++) {
		const mfs_root_extent *e = &plan->extents[f->first_extent + i];

		assert_int_equal(e->file_offset, position);
		assert_true(e->length > 0);
		if (e->kind == MFS_EXTENT_TENSOR)
			assert_int_equal(plan->tensors[e->tensor].record.size, e->length);
		position += e->length;
	}
	assert_int_equal(position, f->size);
}

/* ---- names ---- */

static void file_gets_the_base_name_of_its_path(void **state)
{
	mfs_plan plan = plan_of(sf_write("a model.bin", "abc", 3));

	(void)state;
	assert_string_equal(plan.files[0].name, "a model.bin");
	mfs_plan_free(&plan);
}

static void names_that_cannot_be_shown_are_refused(void **state)
{
	static const char *const bad[] = {"",	      ".",	  "..",	    "a/b",  "\xff",
					  ".modelfs", "adapters", "merged", "views"};
	const char *path = sf_write("x", "abc", 3);
	mfs_plan plan = new_plan();

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		mfs_problem why = {0};

		assert_int_equal(mfs_plan_add(&plan, path, bad[i], &why), MFS_E_ARGUMENT);
		assert_non_null(strstr(why.text, "NAME=SOURCE"));
		assert_non_null(strstr(why.text, path));
	}
	assert_int_equal(plan.file_count, 0);
	mfs_plan_free(&plan);
}

static void name_of_256_bytes_is_refused_and_255_is_not(void **state)
{
	const char *path = sf_write("x", "abc", 3);
	mfs_plan plan = new_plan();
	char name[257];

	(void)state;
	memset(name, 'n', 256);
	name[256] = 0;
	assert_int_equal(mfs_plan_add(&plan, path, name, NULL), MFS_E_ARGUMENT);
	name[255] = 0;
	assert_int_equal(mfs_plan_add(&plan, path, name, NULL), 0);
	mfs_plan_free(&plan);
}

static void duplicate_name_is_refused_with_a_hint(void **state)
{
	const char *path = sf_write("x", "abc", 3);
	mfs_plan plan = new_plan();
	mfs_problem why = {0};

	(void)state;
	assert_int_equal(mfs_plan_add(&plan, path, NULL, &why), 0);
	assert_int_equal(mfs_plan_add(&plan, path, NULL, &why), MFS_E_EXISTS);
	assert_non_null(strstr(why.text, "NAME=SOURCE"));
	assert_int_equal(mfs_plan_add(&plan, path, "y", &why), 0);
	mfs_plan_free(&plan);
}

static void files_are_sorted_by_the_bytes_of_their_names(void **state)
{
	static const char *const names[] = {"b", "\xc3\xa9", "a", "B", "ab"};
	static const char *const sorted[] = {"B", "a", "ab", "b", "\xc3\xa9"};
	const char *path = sf_write("x", "abc", 3);
	mfs_plan plan = new_plan();

	(void)state;
	for (int i = 0; i < 5; i++)
		assert_int_equal(mfs_plan_add(&plan, path, names[i], NULL), 0);
	assert_int_equal(mfs_plan_build(&plan, NULL), 0);
	for (int i = 0; i < 5; i++)
		assert_string_equal(plan.files[i].name, sorted[i]);
	for (uint32_t i = 0; i < 5; i++)
		assert_int_equal(plan.tensors[i].record.file, i);
	mfs_plan_free(&plan);
}

/* ---- extents ---- */

static void empty_file_has_no_extents(void **state)
{
	mfs_plan plan = plan_of(sf_write("x", "", 0));

	(void)state;
	assert_int_equal(plan.files[0].record.extent_count, 0);
	assert_int_equal(plan.tensor_count, 0);
	mfs_plan_number(&plan);
	assert_int_equal(plan.frames, 0);
	assert_int_equal(plan.chunks_max, 0);
	mfs_plan_free(&plan);
}

static void one_byte_is_one_literal_tensor(void **state)
{
	mfs_plan plan = plan_of(sf_write("x", "a", 1));

	(void)state;
	assert_extents_cover(&plan, 0);
	assert_int_equal(plan.tensor_count, 1);
	assert_int_equal(plan.tensors[0].record.flags, MFS_TENSOR_LITERAL);
	assert_int_equal(plan.tensors[0].record.cls, MFS_DISK_METADATA);
	assert_int_equal(plan.tensors[0].record.size, 1);
	mfs_plan_free(&plan);
}

static void small_file_of_zeros_is_an_extent_of_zeros(void **state)
{
	static const uint8_t zeros[5000];
	mfs_plan plan = plan_of(sf_write("x", zeros, sizeof(zeros)));

	(void)state;
	assert_int_equal(plan.tensor_count, 0);
	assert_int_equal(plan.extent_count, 1);
	assert_int_equal(plan.extents[0].kind, MFS_EXTENT_ZEROS);
	mfs_plan_free(&plan);
}

static void hole_of_a_sparse_file_is_an_extent_of_zeros(void **state)
{
	const uint64_t size = (UINT64_C(4) << 30) + 1;
	const char *path = sf_path("sparse");
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	mfs_plan plan;

	(void)state;
	assert_int_equal(pwrite(fd, "head", 4, 0), 4);
	assert_int_equal(pwrite(fd, "t", 1, (off_t)size - 1), 1);
	if (lseek(fd, 0, SEEK_HOLE) >= (off_t)(size - 1)) {
		close(fd);
		print_message("this file system has no holes\n");
		skip();
	}
	close(fd);
	plan = plan_of(path);
	assert_extents_cover(&plan, 0);
	assert_int_equal(plan.extent_count, 3);
	assert_int_equal(plan.extents[1].kind, MFS_EXTENT_ZEROS);
	assert_true(plan.extents[1].length > size - (1 << 20));
	mfs_plan_number(&plan);
	assert_true(plan.frames < 32);
	mfs_plan_free(&plan);
}

static const sf_tensor model[] = {
    {"token_embd.weight", SF_Q4_K, 2, {256, 300}, 300 * 144},
    {"blk.0.norm", SF_F32, 1, {33}, 132},
    {"blk.0.up", SF_Q8_0, 2, {1024, 500}, 500 * 1088},
    {"blk.1.norm", SF_F32, 1, {9}, 36},
};

static void gguf_is_a_literal_header_tensors_and_zero_gaps(void **state)
{
	static const uint16_t kinds[] = {MFS_EXTENT_TENSOR, MFS_EXTENT_TENSOR, MFS_EXTENT_TENSOR,
					 MFS_EXTENT_ZEROS,  MFS_EXTENT_TENSOR, MFS_EXTENT_TENSOR};
	mfs_plan plan = plan_of(sf_write_gguf("m.gguf", model, 4, 0));

	(void)state;
	assert_extents_cover(&plan, 0);
	assert_int_equal(plan.tensor_count, 5);
	assert_int_equal(plan.tensors[0].record.flags, MFS_TENSOR_LITERAL);
	assert_int_equal(plan.extent_count, 6);
	for (int i = 0; i < 6; i++)
		assert_int_equal(plan.extents[i].kind, kinds[i]);
	assert_int_equal(plan.tensors[2].record.name_length, strlen("blk.0.norm"));
	assert_memory_equal(plan.tensors[2].record.name, "blk.0.norm", 10);
	assert_int_equal(plan.tensors[3].record.dim_count, 2);
	assert_int_equal(plan.tensors[3].dims[1], 500);
	mfs_plan_free(&plan);
}

static void gap_that_is_not_zero_is_literal_bytes(void **state)
{
	static const sf_tensor odd[] = {{"a", SF_F32, 1, {33}, 132}, {"b", SF_F32, 1, {9}, 36}};
	mfs_plan plan = plan_of(sf_write_gguf("m.gguf", odd, 2, 0x41));

	(void)state;
	assert_extents_cover(&plan, 0);
	assert_int_equal(plan.extent_count, 4);
	assert_int_equal(plan.extents[2].kind, MFS_EXTENT_TENSOR);
	assert_int_equal(plan.tensors[plan.extents[2].tensor].record.flags, MFS_TENSOR_LITERAL);
	assert_int_equal(plan.extents[2].length, 28);
	mfs_plan_free(&plan);
}

static void same_layout_is_stored_once_for_several_files(void **state)
{
	const char *path = sf_write_gguf("m.gguf", model, 4, 0);
	mfs_plan plan = new_plan();

	(void)state;
	assert_int_equal(mfs_plan_add(&plan, path, "a", NULL), 0);
	assert_int_equal(mfs_plan_add(&plan, path, "b", NULL), 0);
	assert_int_equal(mfs_plan_build(&plan, NULL), 0);
	assert_int_equal(plan.layout_count, 4);
	mfs_plan_free(&plan);
}

static void broken_gguf_is_refused_unless_opaque(void **state)
{
	const char *path = sf_write("bad.gguf", "GGUF\3\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24);
	mfs_plan plan = new_plan();
	mfs_problem why = {0};

	(void)state;
	assert_true(mfs_plan_add(&plan, path, NULL, &why) < 0);
	assert_non_null(strstr(why.text, "bad.gguf"));
	plan.opaque = true;
	assert_int_equal(mfs_plan_add(&plan, path, NULL, &why), 0);
	assert_int_equal(plan.files[0].record.format, MFS_FORMAT_OPAQUE);
	mfs_plan_free(&plan);
}

static void source_that_changes_is_noticed(void **state)
{
	const char *path = sf_write("x", "abcdef", 6);
	mfs_plan plan = plan_of(path);
	mfs_problem why = {0};

	(void)state;
	assert_int_equal(mfs_plan_file_unchanged(&plan.files[0], NULL), 0);
	assert_int_equal(truncate(path, 5), 0);
	assert_int_equal(mfs_plan_file_unchanged(&plan.files[0], &why), MFS_E_INVALID);
	assert_non_null(strstr(why.text, path));
	mfs_plan_free(&plan);
}

/* ---- spans ---- */

/* Tensors of one large file: nothing in it is cut smaller on purpose. */
static mfs_plan plan_of_tensor(const sf_tensor *tensor, uint32_t frame_bytes)
{
	sf_tensor tensors[2] = {*tensor, {"filler", SF_F32, 1, {5 << 20}, 20 << 20}};
	mfs_plan plan = new_plan();

	plan.frame_bytes = plan.quantized_frame_bytes = frame_bytes;
	assert_int_equal(mfs_plan_add(&plan, sf_write_gguf("t.gguf", tensors, 2, 0), NULL, NULL),
			 0);
	assert_int_equal(mfs_plan_build(&plan, NULL), 0);
	return plan;
}

static void spans_are_whole_rows_where_a_row_fits(void **state)
{
	/* Rows of 5 blocks of 34 bytes: 771 of them fit into 128 KiB. */
	const sf_tensor t = {"t", SF_Q8_0, 2, {160, 3000}, 3000 * 170};
	mfs_plan plan = plan_of_tensor(&t, 128 << 10);

	(void)state;
	assert_int_equal(plan.tensors[1].record.span_blocks, 771 * 5);
	assert_int_equal(plan.tensors[1].spans, 4);
	mfs_plan_free(&plan);
}

static void spans_with_constants_have_a_size_of_their_own(void **state)
{
	const sf_tensor tensors[2] = {{"t", SF_Q8_0, 2, {160, 3000}, 3000 * 170},
				      {"u", SF_F32, 1, {5 << 20}, 20 << 20}};
	const int codecs[] = {MFS_PLAN_AUTO, MFS_PLAN_PLAIN};
	const uint32_t blocks[] = {385 * 5, 771 * 5};

	(void)state;
	for (int i = 0; i < 2; i++) {
		mfs_plan plan = new_plan();

		plan.codec = codecs[i];
		assert_int_equal(
		    mfs_plan_add(&plan, sf_write_gguf("t.gguf", tensors, 2, 0), NULL, NULL), 0);
		assert_int_equal(mfs_plan_build(&plan, NULL), 0);
		assert_int_equal(plan.tensors[1].record.span_blocks, blocks[i]);
		assert_int_equal(plan.tensors[2].record.span_blocks, (128 << 10) / 4);
		mfs_plan_free(&plan);
	}
}

static void spans_are_whole_blocks_where_no_row_fits(void **state)
{
	const sf_tensor t = {"t", SF_Q8_0, 2, {1 << 18, 3}, 3 * 278528};
	mfs_plan plan = plan_of_tensor(&t, 128 << 10);

	(void)state;
	assert_int_equal(plan.tensors[1].record.span_blocks, (128 << 10) / 34);
	mfs_plan_free(&plan);
}

static void spans_end_at_each_expert(void **state)
{
	/* 4 experts of 70 rows of 1088 bytes; 60 rows fit into 64 KiB. */
	const sf_tensor t = {"t", SF_Q8_0, 3, {1024, 70, 4}, 4 * 70 * 1088};
	mfs_plan plan = plan_of_tensor(&t, 64 << 10);
	mfs_span span;

	(void)state;
	assert_int_equal(plan.tensors[1].record.slice_blocks, 70 * 32);
	assert_int_equal(plan.tensors[1].spans, 8);
	mfs_tensor_span(&plan.tensors[1].record, 34, 1, &span);
	assert_int_equal(span.blocks, 10 * 32);
	mfs_tensor_span(&plan.tensors[1].record, 34, 2, &span);
	assert_int_equal(span.offset, 70 * 1088);
	mfs_plan_free(&plan);
}

static void small_container_has_frames_that_fit_between_the_superblocks(void **state)
{
	uint8_t *noise = malloc(1 << 20);
	mfs_plan plan;
	uint32_t small = 0;

	(void)state;
	sf_weights(noise, 1 << 20, 3);
	plan = plan_of(sf_write("x", noise, 1 << 20));
	assert_extents_cover(&plan, 0);
	assert_int_equal(plan.tensor_count, 2);
	assert_int_equal(plan.tensors[0].record.span_blocks, MFS_PLAN_LEAD_FRAME);
	mfs_plan_free(&plan);

	plan = plan_of(sf_write_gguf("m.gguf", model, 4, 0));
	for (uint32_t i = 1; i < plan.tensor_count; i++)
		small += plan.tensors[i].record.size > MFS_PLAN_LEAD_FRAME &&
			 plan.tensors[i].record.span_blocks * plan.tensors[i].layout->block_bytes <=
			     MFS_PLAN_LEAD_FRAME;
	assert_int_equal(small, 1);
	mfs_plan_free(&plan);
	free(noise);
}

/* ---- frames, groups ---- */

static void frames_are_numbered_by_tensor_and_class(void **state)
{
	mfs_plan plan = plan_of(sf_write_gguf("m.gguf", model, 4, 0));
	uint64_t next = 0;

	(void)state;
	plan.tensors[4].record.cls = MFS_DISK_PLAIN;
	mfs_plan_number(&plan);
	for (uint32_t i = 0; i < plan.tensor_count; i++)
		for (unsigned s = 0; s < MFS_SLOTS; s++) {
			if (!mfs_plan_has_slot(&plan.tensors[i], s)) {
				assert_int_equal(plan.tensors[i].record.slot[s].first, 0);
				continue;
			}
			assert_int_equal(plan.tensors[i].record.slot[s].first, next);
			next += plan.tensors[i].spans;
		}
	assert_int_equal(plan.frames, next);
	assert_true(mfs_plan_has_slot(&plan.tensors[1], 1));
	assert_false(mfs_plan_has_slot(&plan.tensors[4], 1));
	mfs_plan_free(&plan);
}

static void group_is_bounded_by_bytes_and_by_constants(void **state)
{
	const mfs_layout *q4_0 = mfs_layout_ggml(SF_Q4_0);
	mfs_plan_tensor t = {.layout = q4_0};
	mfs_group group = {0};
	mfs_span span = {.index = 1, .blocks = 7000, .bytes = 7000 * 18};
	unsigned spans = 0;

	(void)state;
	t.record.cls = MFS_DISK_WEIGHTS;
	while (mfs_group_takes(&group, &t, &span)) {
		mfs_group_add(&group, &t, &span);
		spans++;
	}
	assert_int_equal(group.constants, spans * 7000u * 2);
	assert_true(group.constants <= MFS_GROUP_CONSTANTS);
	assert_true(group.constants + 7000 * 2 > MFS_GROUP_CONSTANTS);

	t.record.cls = MFS_DISK_PLAIN;
	group = (mfs_group){0};
	for (spans = 0; mfs_group_takes(&group, &t, &span); spans++)
		mfs_group_add(&group, &t, &span);
	assert_true(group.bytes <= MFS_GROUP_BYTES);
	assert_true(group.bytes + span.bytes > MFS_GROUP_BYTES);
	assert_int_equal(group.constants, 0);
}

static void tables_count_in_the_group_of_the_first_span(void **state)
{
	mfs_plan_tensor t = {.layout = mfs_layout_ggml(SF_Q4_0)};
	mfs_group group = {0};
	mfs_span span = {.index = 0, .blocks = 100, .bytes = 1800};

	(void)state;
	t.record.cls = MFS_DISK_WEIGHTS;
	t.tables_bytes[0] = 500;
	t.tables_bytes[1] = 60;
	mfs_group_add(&group, &t, &span);
	assert_int_equal(group.bytes, 1800 + 560);
	assert_int_equal(group.by_class[MFS_DISK_WEIGHTS], 1600 + 500);
	assert_int_equal(group.by_class[MFS_DISK_CONSTANTS], 200 + 60);
	span.index = 1;
	mfs_group_add(&group, &t, &span);
	assert_int_equal(group.bytes, 2 * 1800 + 560);
}

/* ---- places ---- */

static void small_index_goes_behind_slot_1(void **state)
{
	const uint64_t pieces[] = {5001, 1600, 64};
	mfs_placement p;

	(void)state;
	assert_int_equal(mfs_placement_make(&p, 65536, 16384, pieces, 3), 0);
	assert_int_equal(p.piece[0], 65536 + 4096);
	assert_int_equal(p.piece[1], 65536 + 4096 + 5008);
	assert_int_equal(p.gap, 16384);
	assert_int_equal(p.gap_end, 65536);
	assert_true(p.fixed_end <= 81920);
	mfs_placement_free(&p);
}

static void larger_pieces_go_between_the_superblocks_or_behind(void **state)
{
	const uint64_t pieces[] = {20000, 100000, 50};
	mfs_placement p;

	(void)state;
	assert_int_equal(mfs_placement_make(&p, 65536, 16384, pieces, 3), 0);
	assert_int_equal(p.piece[0], 4096);
	assert_int_equal(p.piece[1], 81920);
	assert_int_equal(p.piece[2], 69632);
	assert_int_equal(p.gap, 32768);
	assert_int_equal(p.fixed_end, 181920);
	mfs_placement_free(&p);
}

static void nothing_overlaps_whatever_the_page_size(void **state)
{
	const uint64_t slot1s[] = {65536, 4096};
	const uint64_t pieces[] = {9000, 40000, 3000, 300000, 8};

	(void)state;
	for (uint32_t page = MFS_PAGE_MIN; page <= MFS_PAGE_MAX; page *= 2)
		for (int k = 0; k < 2; k++) {
			uint64_t slot1 = slot1s[k];
			mfs_placement p;

			assert_int_equal(mfs_placement_make(&p, slot1, page, pieces, 5), 0);
			for (int i = 0; i < 5; i++) {
				uint64_t end = p.piece[i] + pieces[i];

				assert_int_equal(p.piece[i] % 8, 0);
				assert_true(p.piece[i] >= MFS_SB_SIZE);
				assert_true(end <= slot1 || p.piece[i] >= slot1 + MFS_SB_SIZE);
				assert_true(end <= p.fixed_end);
				assert_true(end <= p.gap || p.piece[i] >= p.gap_end);
				for (int j = 0; j < i; j++)
					assert_true(end <= p.piece[j] ||
						    p.piece[j] + pieces[j] <= p.piece[i]);
			}
			assert_int_equal(p.gap_end % page, 0);
			assert_true(p.gap == p.gap_end ||
				    (p.gap % page == 0 && p.gap >= MFS_SB_SIZE));
			assert_true(p.gap_end <= slot1);
			assert_true(p.fixed_end >= slot1 + MFS_SB_SIZE);
			mfs_placement_free(&p);
		}
}

#define PLAN_TEST(name) cmocka_unit_test_setup_teardown(name, sf_setup, sf_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    PLAN_TEST(file_gets_the_base_name_of_its_path),
	    PLAN_TEST(names_that_cannot_be_shown_are_refused),
	    PLAN_TEST(name_of_256_bytes_is_refused_and_255_is_not),
	    PLAN_TEST(duplicate_name_is_refused_with_a_hint),
	    PLAN_TEST(files_are_sorted_by_the_bytes_of_their_names),
	    PLAN_TEST(empty_file_has_no_extents),
	    PLAN_TEST(one_byte_is_one_literal_tensor),
	    PLAN_TEST(small_file_of_zeros_is_an_extent_of_zeros),
	    PLAN_TEST(hole_of_a_sparse_file_is_an_extent_of_zeros),
	    PLAN_TEST(gguf_is_a_literal_header_tensors_and_zero_gaps),
	    PLAN_TEST(gap_that_is_not_zero_is_literal_bytes),
	    PLAN_TEST(same_layout_is_stored_once_for_several_files),
	    PLAN_TEST(broken_gguf_is_refused_unless_opaque),
	    PLAN_TEST(source_that_changes_is_noticed),
	    PLAN_TEST(spans_are_whole_rows_where_a_row_fits),
	    PLAN_TEST(spans_with_constants_have_a_size_of_their_own),
	    PLAN_TEST(spans_are_whole_blocks_where_no_row_fits),
	    PLAN_TEST(spans_end_at_each_expert),
	    PLAN_TEST(small_container_has_frames_that_fit_between_the_superblocks),
	    PLAN_TEST(frames_are_numbered_by_tensor_and_class),
	    PLAN_TEST(group_is_bounded_by_bytes_and_by_constants),
	    PLAN_TEST(tables_count_in_the_group_of_the_first_span),
	    PLAN_TEST(small_index_goes_behind_slot_1),
	    PLAN_TEST(larger_pieces_go_between_the_superblocks_or_behind),
	    PLAN_TEST(nothing_overlaps_whatever_the_page_size),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
