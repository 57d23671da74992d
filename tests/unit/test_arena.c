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

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(pieces_are_aligned_and_apart),
	    cmocka_unit_test(a_full_arena_has_no_room_until_something_is_given_back),
	    cmocka_unit_test(the_whole_arena_can_be_one_piece),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
