/* The arena hands out aligned, separate pieces and never more than its cap. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "arena.h"

#define UNITS 100

static void pieces_are_aligned_and_apart(void **state)
{
	mfs_arena arena;
	uint8_t *a, *b;

	(void)state;
	assert_int_equal(mfs_arena_open(&arena, UNITS * MFS_ARENA_UNIT), 0);
	a = mfs_arena_take(&arena, 1);
	b = mfs_arena_take(&arena, MFS_ARENA_UNIT + 1);
	assert_non_null(a);
	assert_non_null(b);
	assert_int_equal((uintptr_t)a % MFS_ARENA_UNIT, 0);
	assert_true(b >= a + MFS_ARENA_UNIT || a >= b + 2 * MFS_ARENA_UNIT);
	assert_int_equal(mfs_arena_used_bytes(&arena), 3 * MFS_ARENA_UNIT);
	mfs_arena_give(&arena, a, 1);
	mfs_arena_give(&arena, b, MFS_ARENA_UNIT + 1);
	assert_int_equal(mfs_arena_used_bytes(&arena), 0);
	mfs_arena_close(&arena);
}

static void a_full_arena_has_no_room_until_something_is_given_back(void **state)
{
	uint8_t *piece[UNITS];
	mfs_arena arena;

	(void)state;
	assert_int_equal(mfs_arena_open(&arena, UNITS * MFS_ARENA_UNIT), 0);
	for (int i = 0; i < UNITS; i++) {
		piece[i] = mfs_arena_take(&arena, MFS_ARENA_UNIT);
		assert_non_null(piece[i]);
		memset(piece[i], i, MFS_ARENA_UNIT);
	}
	assert_null(mfs_arena_take(&arena, 1));
	for (int i = 0; i < UNITS; i++)
		assert_int_equal(piece[i][MFS_ARENA_UNIT - 1], i);
	mfs_arena_give(&arena, piece[70], MFS_ARENA_UNIT);
	mfs_arena_give(&arena, piece[72], MFS_ARENA_UNIT);
	assert_null(mfs_arena_take(&arena, 2 * MFS_ARENA_UNIT));
	mfs_arena_give(&arena, piece[71], MFS_ARENA_UNIT);
	assert_ptr_equal(mfs_arena_take(&arena, 3 * MFS_ARENA_UNIT), piece[70]);
	mfs_arena_close(&arena);
}

static void the_whole_arena_can_be_one_piece(void **state)
{
	mfs_arena arena;
	uint8_t *all;

	(void)state;
	assert_int_equal(mfs_arena_open(&arena, UNITS * MFS_ARENA_UNIT - 5), 0);
	assert_null(mfs_arena_take(&arena, UNITS * MFS_ARENA_UNIT + 1));
	all = mfs_arena_take(&arena, UNITS * MFS_ARENA_UNIT);
	assert_ptr_equal(all, arena.memory);
	mfs_arena_give(&arena, all, UNITS * MFS_ARENA_UNIT);
	assert_ptr_equal(mfs_arena_take(&arena, UNITS * MFS_ARENA_UNIT), all);
	mfs_arena_close(&arena);
}

/* Any hole is found that is large enough, wherever it lies and however long it is. */
static void holes_of_any_size_are_found_at_any_place(void **state)
{
	const size_t units = 200;
	mfs_arena arena;

	(void)state;
	assert_int_equal(mfs_arena_open(&arena, units * MFS_ARENA_UNIT), 0);
	for (size_t at = 0; at < units; at++) {
		for (size_t length = 1; at + length <= units; length++) {
			uint8_t *hole = arena.memory + at * MFS_ARENA_UNIT;
			size_t bytes = length * MFS_ARENA_UNIT;

			arena.hint = 0;
			assert_ptr_equal(mfs_arena_take(&arena, units * MFS_ARENA_UNIT),
					 arena.memory);
			mfs_arena_give(&arena, hole, bytes);
			assert_int_equal(mfs_arena_used_bytes(&arena),
					 (units - length) * MFS_ARENA_UNIT);
			assert_null(mfs_arena_take(&arena, bytes + 1));
			assert_ptr_equal(mfs_arena_take(&arena, bytes), hole);
			assert_null(mfs_arena_take(&arena, 1));
			mfs_arena_give(&arena, arena.memory, units * MFS_ARENA_UNIT);
		}
	}
	mfs_arena_close(&arena);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(pieces_are_aligned_and_apart),
	    cmocka_unit_test(a_full_arena_has_no_room_until_something_is_given_back),
	    cmocka_unit_test(the_whole_arena_can_be_one_piece),
	    cmocka_unit_test(holes_of_any_size_are_found_at_any_place),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
