/* Pruning by magnitude. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <cmocka.h>

#include "generated_weights.h"
#include "prune.h"

#define WEIGHTS 20000

static float weights[WEIGHTS], before[WEIGHTS];
static uint64_t histogram[MFS_PRUNE_BINS];

static int by_magnitude(const void *a, const void *b)
{
	const float x = fabsf(before[*(const uint32_t *)a]),
		    y = fabsf(before[*(const uint32_t *)b]);

	if (x != y)
		return x < y ? -1 : 1;
	return *(const uint32_t *)a < *(const uint32_t *)b ? -1 : 1;
}

static void prune_pieces(size_t count, uint64_t target, size_t piece)
{
	mfs_prune prune;

	mfs_prune_start(&prune, histogram, target);
	for (size_t at = 0; at < count; at += piece)
		mfs_prune_count(&prune, weights + at, count - at < piece ? count - at : piece);
	mfs_prune_narrow(&prune);
	for (size_t at = 0; at < count; at += piece)
		mfs_prune_count(&prune, weights + at, count - at < piece ? count - at : piece);
	mfs_prune_settle(&prune);
	for (size_t at = 0; at < count; at += piece)
		mfs_prune_apply(&prune, weights + at, count - at < piece ? count - at : piece);
}

/* Sorting finds the same weights. */
static void exactly_the_least_become_zero(void **state)
{
	static const size_t targets[] = {0, 1, 7, WEIGHTS / 2, WEIGHTS - 1, WEIGHTS};
	static uint32_t order[WEIGHTS];

	(void)state;
	for (size_t t = 0; t < sizeof(targets) / sizeof(*targets); t++) {
		generated_weights(before, WEIGHTS, 21 + t);
		memcpy(weights, before, sizeof(weights));
		for (uint32_t i = 0; i < WEIGHTS; i++)
			order[i] = i;
		qsort(order, WEIGHTS, sizeof(*order), by_magnitude);
		prune_pieces(WEIGHTS, targets[t], 777);
		for (size_t i = 0; i < WEIGHTS; i++)
			assert_true(weights[order[i]] == (i < targets[t] ? 0 : before[order[i]]));
	}
}

static void equal_magnitudes_are_told_apart_by_place(void **state)
{
	(void)state;
	for (int i = 0; i < 10; i++)
		weights[i] = i % 2 ? 0.5f : -0.5f;
	prune_pieces(10, 4, 3);
	for (int i = 0; i < 10; i++)
		assert_true((weights[i] == 0) == (i < 4));
}

static void two_of_four_stay(void **state)
{
	static const float in[11] = {1, -4, 3, 2, 5, 5, 5, 5, 0.1f, -0.2f, 9};
	static const float out[11] = {0, -4, 3, 0, 5, 5, 0, 0, 0.1f, -0.2f, 9};
	float four[11];

	(void)state;
	memcpy(four, in, sizeof(in));
	mfs_prune_2_of_4(four, 11);
	for (int i = 0; i < 11; i++)
		assert_true(four[i] == out[i]);
	mfs_prune_2_of_4(four, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(exactly_the_least_become_zero),
	    cmocka_unit_test(equal_magnitudes_are_told_apart_by_place),
	    cmocka_unit_test(two_of_four_stay),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
