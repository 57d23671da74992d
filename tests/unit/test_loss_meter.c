/* What weights lose, counted once in whatever order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "generated_weights.h"
#include "loss_meter.h"

#define RANGES 200u
#define EACH   37u
#define ALL    (RANGES * EACH)

static float was[ALL], now[ALL];

static void make_weights(void)
{
	generated_weights(was, ALL, 11);
	memcpy(now, was, sizeof(now));
	for (size_t i = 0; i < ALL; i += 3)
		now[i] = i % 2 ? 0 : was[i] * 0.9f;
}

static int add(mfs_loss_meter *meter, uint32_t range)
{
	mfs_loss_sum sum = {.blocks = 2, .equal = range % 2};
	uint64_t first = (uint64_t)range * EACH;

	mfs_loss_sum_add(&sum, was + first, now + first, EACH);
	return mfs_loss_meter_add(meter, first, EACH, &sum);
}

/* Adds the ranges in a random order, `times` of them anew. */
static void add_shuffled(mfs_loss_meter *meter, uint64_t seed, uint32_t times)
{
	uint32_t order[RANGES];

	for (uint32_t i = 0; i < RANGES; i++)
		order[i] = i;
	for (uint32_t i = RANGES - 1; i; i--) {
		uint32_t k = (uint32_t)(generated_bits(&seed) % (i + 1)), keep = order[i];

		order[i] = order[k];
		order[k] = keep;
	}
	for (uint32_t i = 0; i < RANGES; i++)
		assert_int_equal(add(meter, order[i]), 0);
	for (uint32_t i = 0; i < times; i++)
		assert_int_equal(add(meter, order[i]), 0);
}

static void the_order_does_not_matter_to_the_last_bit(void **state)
{
	mfs_loss_meter in_order, shuffled;

	(void)state;
	make_weights();
	mfs_loss_meter_open(&in_order);
	mfs_loss_meter_start(&in_order);
	for (uint32_t i = 0; i < RANGES; i++)
		assert_int_equal(add(&in_order, i), 0);
	assert_int_equal(in_order.measured, ALL);
	assert_int_equal(in_order.sum.blocks, 2 * RANGES);
	assert_int_equal(in_order.sum.equal, RANGES / 2);
	assert_true(in_order.sum.zeros >= ALL / 6);
	for (uint64_t seed = 1; seed < 20; seed++) {
		mfs_loss_meter_open(&shuffled);
		mfs_loss_meter_start(&shuffled);
		add_shuffled(&shuffled, seed, RANGES / 2);
		assert_int_equal(shuffled.measured, ALL);
		assert_int_equal(shuffled.early_count, 0);
		assert_memory_equal(&shuffled.sum, &in_order.sum, sizeof(in_order.sum));
		mfs_loss_meter_close(&shuffled);
	}
	mfs_loss_meter_close(&in_order);
}

static void nothing_is_counted_before_it_starts(void **state)
{
	mfs_loss_meter meter;

	(void)state;
	make_weights();
	mfs_loss_meter_open(&meter);
	assert_false(mfs_loss_meter_wants(&meter, 0, EACH));
	assert_int_equal(add(&meter, 0), 0);
	assert_int_equal(meter.measured, 0);
	mfs_loss_meter_start(&meter);
	assert_true(mfs_loss_meter_wants(&meter, 0, EACH));
	assert_false(mfs_loss_meter_wants(&meter, 0, 0));
	assert_int_equal(add(&meter, 0), 0);
	assert_int_equal(meter.measured, EACH);
	mfs_loss_meter_close(&meter);
}

static void a_range_is_wanted_once(void **state)
{
	mfs_loss_meter meter;

	(void)state;
	make_weights();
	mfs_loss_meter_open(&meter);
	mfs_loss_meter_start(&meter);
	assert_int_equal(add(&meter, 2), 0);
	assert_int_equal(meter.measured, 0);
	assert_false(mfs_loss_meter_wants(&meter, 2 * EACH, EACH));
	assert_true(mfs_loss_meter_wants(&meter, EACH, EACH));
	assert_int_equal(add(&meter, 0), 0);
	assert_int_equal(add(&meter, 1), 0);
	assert_int_equal(meter.measured, 3 * EACH);
	assert_false(mfs_loss_meter_wants(&meter, 0, EACH));
	assert_true(mfs_loss_meter_wants(&meter, 3 * EACH, EACH));
	mfs_loss_meter_close(&meter);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_order_does_not_matter_to_the_last_bit),
	    cmocka_unit_test(nothing_is_counted_before_it_starts),
	    cmocka_unit_test(a_range_is_wanted_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
