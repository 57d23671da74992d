/* Packed streams: every mask, every odd size, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "frame_private.h"
#include "mfs_endian.h"
#include "modelfs_error.h"
#include "processor.h"

#define SIZE 5000

static uint64_t random_state = 1;

static uint32_t random_next(void)
{
	random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(random_state >> 32);
}

/* Noise in the bits of the mask; `exceptions` bytes differ elsewhere too. */
static void fill(uint8_t *in, size_t size, uint8_t mask, uint32_t exceptions)
{
	uint8_t value = (uint8_t)(0x5a & ~mask);

	for (size_t i = 0; i < size; i++)
		in[i] = (uint8_t)(random_next() & mask) | value;
	for (uint32_t i = 0; i < exceptions; i++)
		in[random_next() % size] ^= (uint8_t)(1 + random_next() % 255);
}

/* Packs and unpacks in memory of exactly the size; returns the size. */
static size_t comes_back(const uint8_t *in, size_t size, struct mfs_packed *plan)
{
	uint32_t histogram[256] = {0};
	size_t planned, coded;
	uint8_t *stored, *exact, *out = malloc(size);

	mfs_histogram_add(histogram, in, size);
	planned = mfs_packed_plan(plan, histogram, size);
	assert_int_not_equal(planned, 0);
	stored = malloc(planned);
	exact = malloc(planned);
	coded = mfs_packed_encode(plan, in, size, stored);
	assert_int_equal(coded, planned);
	memcpy(exact, stored, coded);
	/* With what this processor offers, and without. */
	for (unsigned hidden = 0; hidden < 2; hidden++) {
		memset(out, 0xa5, size);
		mfs_processor_hide(hidden ? ~0u : 0);
		assert_int_equal(mfs_packed_decode(exact, coded, out, size), 0);
		mfs_processor_hide(0);
		assert_memory_equal(out, in, size);
	}
	free(stored);
	free(exact);
	free(out);
	return coded;
}

static void every_mask_comes_back_at_its_size(void **state)
{
	uint8_t in[SIZE];

	(void)state;
	for (unsigned mask = 0; mask < 255; mask++) {
		unsigned bits = (unsigned)__builtin_popcount(mask);
		struct mfs_packed plan;
		size_t size;

		fill(in, SIZE, (uint8_t)mask, 0);
		size = comes_back(in, SIZE, &plan);
		assert_int_equal(plan.mask, mask);
		assert_int_equal(plan.exceptions, 0);
		assert_in_range(size, 4 + SIZE * bits / 8, 4 + SIZE * bits / 8 + 8);
	}
}

static void every_size_comes_back(void **state)
{
	uint8_t in[300];

	(void)state;
	for (size_t size = 1; size <= sizeof(in); size++)
		for (unsigned mask = 0; mask < 255; mask += 3) {
			struct mfs_packed plan;

			fill(in, size, (uint8_t)mask, 0);
			comes_back(in, size, &plan);
		}
}

static void exceptions_come_back(void **state)
{
	uint8_t in[SIZE];
	struct mfs_packed plan;

	(void)state;
	for (uint32_t n = 0; n < 16; n++) {
		fill(in, SIZE, 0xfc, n);
		in[0] = 1;
		in[SIZE - 1] = 1;
		comes_back(in, SIZE, &plan);
		assert_int_equal(plan.mask, 0xfc);
		assert_in_range(plan.exceptions, 2, n + 2);
	}
}

static void noise_cannot_be_packed(void **state)
{
	uint32_t histogram[256] = {0};
	struct mfs_packed plan;
	uint8_t in[SIZE];

	(void)state;
	fill(in, SIZE, 0xff, 0);
	mfs_histogram_add(histogram, in, SIZE);
	assert_int_equal(mfs_packed_plan(&plan, histogram, SIZE), 0);
}

static void packed_streams_that_lie_are_refused(void **state)
{
	uint8_t in[SIZE], good[SIZE], bad[SIZE], out[SIZE];
	uint32_t histogram[256] = {0};
	struct mfs_packed plan;
	size_t size;

	(void)state;
	fill(in, SIZE, 0xfc, 0);
	in[10] = in[20] = 1;
	mfs_histogram_add(histogram, in, SIZE);
	mfs_packed_plan(&plan, histogram, SIZE);
	size = mfs_packed_encode(&plan, in, SIZE, good);
	assert_int_equal(mfs_packed_decode(good, size, out, SIZE), 0);

#define REFUSED(change)                                                                            \
	do {                                                                                       \
		memcpy(bad, good, size);                                                           \
		change;                                                                            \
		assert_int_equal(mfs_packed_decode(bad, size, out, SIZE), MFS_E_CORRUPT);          \
	} while (0)
	REFUSED(bad[0] = 255);
	REFUSED(bad[0] = 0x7c);		     /* a bit less: too long */
	REFUSED(bad[0] = 0xfd; bad[1] = 0);  /* a bit more: too short */
	REFUSED(bad[1] |= 4);		     /* a bit that varies */
	REFUSED(store_le16(bad + 2, 1));     /* too long */
	REFUSED(store_le16(bad + 2, 65535)); /* too short */
	REFUSED(store_le32(bad + 4, SIZE));  /* outside */
	REFUSED(store_le32(bad + 8, 10));    /* twice */
	REFUSED(store_le32(bad + 8, 9));     /* out of order */
	REFUSED(store_le32(bad + 8, 0xffffff));
	for (size_t n = 0; n < size; n++)
		assert_int_equal(mfs_packed_decode(good, n, out, SIZE), MFS_E_CORRUPT);
	assert_int_equal(mfs_packed_decode(good, size, out, SIZE - 8), MFS_E_CORRUPT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_mask_comes_back_at_its_size),
	    cmocka_unit_test(every_size_comes_back),
	    cmocka_unit_test(exceptions_come_back),
	    cmocka_unit_test(noise_cannot_be_packed),
	    cmocka_unit_test(packed_streams_that_lie_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
