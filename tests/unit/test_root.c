/* Roots with deltas, derived tensors and directories, put together by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "layout.h"
#include "root.h"

/* A base of 6 x 4 bytes as weights, A (2 x 4), B (6 x 2), gains of 6 rows, and
 * what is computed from them. */
enum { BASE, A, B, GAIN, COMPUTED, TENSORS };
static const uint64_t sizes[TENSORS] = {24, 8, 12, 6, 24};

struct parts {
	mfs_root_tensor tensor[TENSORS];
	mfs_root_term term[3];
	uint32_t terms, frames;
	mfs_root_file file;
	const char *name[2]; /* of two files; the first is empty */
};

static void set_up(struct parts *p, uint8_t flags)
{
	uint64_t offset = 0;

	memset(p, 0, sizeof(*p));
	for (int i = 0; i < TENSORS; i++) {
		p->tensor[i] = (mfs_root_tensor){.file = 1,
						 .size = sizes[i],
						 .file_offset = offset,
						 .slice_blocks = sizes[i],
						 .span_blocks = (uint32_t)sizes[i],
						 .base = MFS_NO_TENSOR};
		p->tensor[i].slot[0].tables = p->tensor[i].slot[1].tables = MFS_NO_TABLES;
		offset += sizes[i];
	}
	p->tensor[COMPUTED].flags = flags;
	p->tensor[COMPUTED].base = flags ? BASE : MFS_NO_TENSOR;
	p->term[0] = p->term[1] = (mfs_root_term){
	    .tensor = COMPUTED, .operand = {A, B, MFS_NO_TENSOR}, .scale = 0.5f, .rank = 2};
	p->term[1].operand[2] = GAIN;
	p->terms = flags & MFS_TENSOR_DERIVED ? 2 : 0;
	p->frames = TENSORS;
	p->file = (mfs_root_file){.size = offset, .base = MFS_NO_FILE};
	p->name[0] = "a";
	p->name[1] = "merged/b.gguf";
}

static void put_files(const mfs_root *root, uint8_t *bytes, struct parts *p)
{
	mfs_root_file empty = {.base = MFS_NO_FILE, .name_length = (uint16_t)strlen(p->name[0])};
	uint32_t second = empty.name_length;

	mfs_root_put_name(root, bytes, 0, p->name[0], second);
	mfs_root_put_file(root, bytes, 0, &empty, 0, 0);
	p->file.name_length = (uint16_t)strlen(p->name[1]);
	p->file.extent_count = TENSORS;
	mfs_root_put_name(root, bytes, second, p->name[1], p->file.name_length);
	mfs_root_put_file(root, bytes, 1, &p->file, second, 0);
	for (uint32_t i = 0; i < TENSORS; i++)
		mfs_root_put_extent(root, bytes, i,
				    &(mfs_root_extent){.file_offset = p->tensor[i].file_offset,
						       .length = p->tensor[i].size,
						       .tensor = i});
}

/* What mfs_root_open() says of it: NULL if it takes it. */
static const char *opened(struct parts *p, mfs_root *out, uint8_t **memory)
{
	const mfs_layout *layout = mfs_layout_bytes();
	const uint32_t count[MFS_SECTIONS] = {
	    [MFS_SEC_LAYOUTS] = 1,
	    [MFS_SEC_FIELDS] = 1,
	    [MFS_SEC_FILES] = 2,
	    [MFS_SEC_EXTENTS] = TENSORS,
	    [MFS_SEC_TENSORS] = TENSORS,
	    [MFS_SEC_TERMS] = p->terms,
	    [MFS_SEC_SEGMENTS] = 1,
	    [MFS_SEC_NAMES] = (uint32_t)(strlen(p->name[0]) + strlen(p->name[1]))};
	const uint32_t no_name = 0;
	const char *reason = NULL;
	mfs_layout unnamed = *layout;
	mfs_root root;
	uint8_t *bytes;

	mfs_root_layout(&root, count);
	root.generation = 1;
	root.frames = p->frames;
	bytes = *memory = calloc(1, root.size);
	assert_non_null(bytes);
	mfs_root_put_header(&root, bytes);
	unnamed.name_length = unnamed.field[0].name_length = 0;
	mfs_root_put_layout(&root, bytes, 0, &unnamed, 0, 0, &no_name);
	put_files(&root, bytes, p);
	for (uint32_t i = 0; i < TENSORS; i++)
		mfs_root_put_tensor(&root, bytes, i, &p->tensor[i], 0);
	for (uint32_t i = 0; i < p->terms; i++)
		mfs_root_put_term(&root, bytes, i, &p->term[i]);
	mfs_root_put_segment(
	    &root, bytes, 0,
	    &(mfs_root_segment){.size = p->frames * (uint32_t)sizeof(struct mfs_disk_frame)});
	mfs_root_open(out, bytes, root.size, 1 << 20, 1, &reason);
	return reason;
}

static void assert_opens(struct parts *p)
{
	uint8_t *memory;
	mfs_root root;
	const char *reason = opened(p, &root, &memory);

	free(memory);
	if (reason)
		fail_msg("%s", reason);
}

static void assert_refused(struct parts *p, const char *because)
{
	uint8_t *memory;
	mfs_root root;
	const char *reason = opened(p, &root, &memory);

	free(memory);
	if (!reason || !strstr(reason, because))
		fail_msg("%s, not '%s'", reason ? reason : "opens", because);
}

static void terms_come_back_as_they_were_put(void **state)
{
	struct parts p;
	uint8_t *memory;
	mfs_root_term term;
	uint32_t first;
	mfs_root root;

	(void)state;
	set_up(&p, MFS_TENSOR_DERIVED);
	assert_null(opened(&p, &root, &memory));
	assert_int_equal(mfs_root_terms(&root, COMPUTED, &first), 2);
	mfs_root_get_term(&root, first + 1, &term);
	assert_int_equal(term.tensor, COMPUTED);
	assert_int_equal(term.operand[0], A);
	assert_int_equal(term.operand[2], GAIN);
	assert_int_equal(term.rank, 2);
	assert_true(term.scale == 0.5f);
	assert_int_equal(mfs_root_terms(&root, BASE, &first), 0);
	free(memory);
}

static void a_delta_must_have_the_spans_of_its_base(void **state)
{
	struct parts p;

	(void)state;
	set_up(&p, MFS_TENSOR_DELTA);
	assert_opens(&p);
	p.tensor[COMPUTED].flags |= MFS_TENSOR_INTEGER;
	assert_opens(&p);
	p.tensor[COMPUTED].span_blocks = 12;
	p.tensor[COMPUTED].slot[0].first = 0;
	assert_refused(&p, "a delta does not fit");
	set_up(&p, MFS_TENSOR_DELTA);
	p.tensor[COMPUTED].base = A;
	assert_refused(&p, "a delta does not fit");
	p.tensor[COMPUTED].base = TENSORS;
	assert_refused(&p, "not in the root");
	p.tensor[COMPUTED].base = MFS_NO_TENSOR;
	assert_refused(&p, "record is not valid");
	p.tensor[COMPUTED].base = COMPUTED;
	assert_refused(&p, "a delta does not fit");
}

static void a_chain_of_bases_ends(void **state)
{
	struct parts p;

	(void)state;
	set_up(&p, MFS_TENSOR_DELTA);
	p.tensor[B].size = p.tensor[B].slice_blocks = p.tensor[B].span_blocks = 24;
	p.tensor[B].flags = MFS_TENSOR_DELTA;
	p.tensor[B].base = BASE;
	p.tensor[COMPUTED].base = B;
	for (int i = B + 1; i < TENSORS; i++)
		p.tensor[i].file_offset += 12;
	p.file.size += 12;
	assert_refused(&p, "a delta does not fit");
	p.tensor[COMPUTED].flags = MFS_TENSOR_DERIVED;
	assert_opens(&p);
	p.tensor[B].flags = MFS_TENSOR_DERIVED;
	assert_refused(&p, "not a stored tensor");
}

static void a_derived_tensor_must_fit_its_base(void **state)
{
	struct parts p;

	(void)state;
	set_up(&p, MFS_TENSOR_DERIVED);
	assert_opens(&p);
	p.terms = 0; /* of another precision only */
	assert_opens(&p);
	p.tensor[COMPUTED].span_blocks = 12;
	assert_refused(&p, "does not fit its base");
	p.tensor[BASE].span_blocks = 12;
	p.tensor[BASE].slot[0].first = 0;
	assert_opens(&p);
	p.tensor[COMPUTED].slice_blocks = 12;
	assert_refused(&p, "does not fit its base");
	p.tensor[BASE].slice_blocks = 12;
	assert_opens(&p);
	p.tensor[COMPUTED].base = A;
	assert_refused(&p, "does not fit its base");
	p.tensor[COMPUTED].base = COMPUTED;
	assert_refused(&p, "not a stored tensor");
	set_up(&p, MFS_TENSOR_DERIVED);
	p.tensor[COMPUTED].slot[0].first = 1;
	assert_refused(&p, "has frames of a class");
	set_up(&p, MFS_TENSOR_DERIVED);
	p.tensor[COMPUTED].cls = MFS_DISK_PLAIN;
	assert_refused(&p, "record is not valid");
}

static void terms_must_fit_their_tensor(void **state)
{
	struct parts p;

	(void)state;
	for (int k = 0; k < 10; k++) {
		set_up(&p, MFS_TENSOR_DERIVED);
		switch (k) {
		case 0:
			p.term[0].operand[0] = B;
			break;
		case 1:
			p.term[0].rank = 4;
			break;
		case 2:
			p.term[0].rank = 0;
			break;
		case 3:
			p.term[1].operand[2] = B;
			break;
		case 4:
			p.term[1].operand[1] = MFS_NO_TENSOR;
			break;
		case 5:
			p.term[0].operand[0] = COMPUTED;
			break;
		case 6:
			p.term[0].tensor = BASE;
			break;
		case 7:
			p.term[0].scale = (float)(1e38 * 1e38);
			break;
		case 8:
			p.term[1].kind = MFS_TERM_NF4;
			break;
		case 9:
			p.term[1].flags = 4;
			break;
		}
		assert_refused(&p, "term");
	}
}

static void terms_see_the_same_rows_and_experts(void **state)
{
	struct parts p;

	(void)state;
	set_up(&p, MFS_TENSOR_DERIVED);
	p.terms = 1;
	/* 6 rows of 4, and an A of 1 x 4 twice. */
	p.term[0].rank = 1;
	p.term[0].operand[1] = GAIN;
	assert_refused(&p, "do not fit its tensor");
	p.term[0].flags = MFS_TERM_EXPERTS;
	assert_opens(&p);
	p.term[0].flags = MFS_TERM_EXPERTS | MFS_TERM_TRANSPOSED;
	assert_refused(&p, "do not fit its tensor");
	p.term[0].flags = 8;
	assert_refused(&p, "record is not valid");
	p.term[0].flags = MFS_TERM_EXPERTS;
	p.terms = 2;
	p.term[1] = p.term[0];
	assert_opens(&p);
	/* 12 rows of 2, and an A of 1 x 2 four times. */
	p.term[1].operand[1] = B;
	assert_refused(&p, "do not fit those before it");
	p.term[0] = p.term[1];
	assert_opens(&p);
	p.term[1].operand[0] = BASE;
	p.term[1].operand[1] = GAIN;
	assert_refused(&p, "do not fit");
}

static void operands_have_a_limit(void **state)
{
	struct parts p;

	(void)state;
	for (unsigned spans = 16; spans <= 17; spans++) {
		uint64_t size = (uint64_t)spans * MFS_FRAME_MAX;

		set_up(&p, MFS_TENSOR_DERIVED);
		p.frames += spans - 1;
		p.file.size += size - p.tensor[A].size;
		for (int i = B; i < TENSORS; i++)
			p.tensor[i].file_offset += size - p.tensor[A].size;
		p.tensor[A].size = p.tensor[A].slice_blocks = size;
		p.tensor[A].span_blocks = MFS_FRAME_MAX;
		assert_refused(&p, size > MFS_OPERAND_MAX ? "an operand of a term is too large"
							  : "do not fit its tensor");
	}
}

static void codes_of_4_bits_are_two_weights_a_byte(void **state)
{
	struct parts p;

	(void)state;
	set_up(&p, MFS_TENSOR_DERIVED);
	p.terms = 1;
	p.term[0] = (mfs_root_term){
	    .tensor = COMPUTED, .kind = MFS_TERM_NF4, .operand = {A, MFS_NO_TENSOR, MFS_NO_TENSOR}};
	p.tensor[COMPUTED].base = B;
	assert_opens(&p);
	p.tensor[COMPUTED].base = BASE;
	assert_refused(&p, "does not fit its base");
	p.tensor[COMPUTED].base = B;
	p.term[0].operand[1] = GAIN;
	assert_refused(&p, "not complete");
	p.term[0].operand[2] = GAIN;
	assert_opens(&p);
}

static void directories_are_no_files(void **state)
{
	struct parts p;

	(void)state;
	set_up(&p, 0);
	assert_opens(&p);
	p.name[0] = "merged";
	assert_refused(&p, "a file has the name of a directory");
	p.name[1] = "merged./b";
	assert_opens(&p);
	p.name[1] = "merged/a/b/c";
	p.name[0] = "merged/a/b";
	assert_refused(&p, "a file has the name of a directory");
	p.name[0] = "a";
	p.name[1] = "merged/a/b/c/d";
	assert_refused(&p, "a file's name is not valid");
	p.name[1] = "merged//c";
	assert_refused(&p, "a file's name is not valid");
	p.name[1] = "merged/../c";
	assert_refused(&p, "a file's name is not valid");
	p.name[1] = "b/";
	assert_refused(&p, "a file's name is not valid");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(terms_come_back_as_they_were_put),
	    cmocka_unit_test(a_delta_must_have_the_spans_of_its_base),
	    cmocka_unit_test(a_chain_of_bases_ends),
	    cmocka_unit_test(a_derived_tensor_must_fit_its_base),
	    cmocka_unit_test(terms_must_fit_their_tensor),
	    cmocka_unit_test(terms_see_the_same_rows_and_experts),
	    cmocka_unit_test(operands_have_a_limit),
	    cmocka_unit_test(codes_of_4_bits_are_two_weights_a_byte),
	    cmocka_unit_test(directories_are_no_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
