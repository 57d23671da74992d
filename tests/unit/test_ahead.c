/* Spans that several threads read ahead. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ahead.h"
#include "generated_weights.h"

#define SPAN  1000u
#define SPANS 41u
#define SIZE  (SPAN * (SPANS - 1) + 300)
#define PLACE 77u /* of the tensor in its file */

static uint8_t file_bytes[PLACE + SIZE], base_bytes[PLACE + SIZE];

struct failing {
	const uint8_t *bytes;
	uint64_t from;	   /* reads that reach beyond fail */
	atomic_uint reads; /* so far */
};

static int read_some(mfs_source *source, uint64_t offset, void *buffer, size_t length)
{
	struct failing *f = source->context;

	atomic_fetch_add(&f->reads, 1);
	if (offset + length > f->from) {
		errno = EIO;
		return MFS_E_IO;
	}
	memcpy(buffer, f->bytes + offset, length);
	return 0;
}

static mfs_plan_tensor make_tensor(void)
{
	mfs_plan_tensor t = {.layout = mfs_layout_bytes(), .spans = SPANS};

	t.record.file_offset = PLACE;
	t.record.size = t.record.slice_blocks = SIZE;
	t.record.span_blocks = SPAN;
	return t;
}

static int setup(void **state)
{
	(void)state;
	generated_bytes(file_bytes, sizeof(file_bytes), 1);
	generated_bytes(base_bytes, sizeof(base_bytes), 2);
	return 0;
}

static size_t span_bytes(uint64_t span)
{
	return span + 1 < SPANS ? SPAN : SIZE % SPAN;
}

static void spans_come_in_order_with_those_of_the_base(void **state)
{
	struct failing own = {.bytes = file_bytes, .from = UINT64_MAX};
	struct failing other = {.bytes = base_bytes, .from = UINT64_MAX};
	mfs_source source = {.read_at = read_some, .context = &own};
	mfs_source base_source = {.read_at = read_some, .context = &other};
	const mfs_plan_tensor t = make_tensor();
	mfs_ahead_run run = {&t, &t, &source, &base_source, 0, SPANS};
	uint8_t bytes[SPAN], base[SPAN];
	bool failed;

	(void)state;
	for (unsigned threads = 1; threads <= 5; threads += 2) {
		mfs_ahead *a;

		assert_int_equal(mfs_ahead_new(&a, threads, SPAN), 0);
		assert_false(mfs_ahead_has(a));
		for (int turn = 0; turn < 20; turn++) {
			run.base = turn % 2 ? &t : NULL;
			run.first = (uint64_t)turn;
			run.count = SPANS - (uint64_t)turn;
			mfs_ahead_start(a, &run);
			for (uint64_t i = run.first; i < SPANS; i++) {
				assert_true(mfs_ahead_has(a));
				assert_int_equal(mfs_ahead_take(a, bytes, base, &failed), 0);
				assert_memory_equal(bytes, file_bytes + PLACE + i * SPAN,
						    span_bytes(i));
				if (run.base)
					assert_memory_equal(base, base_bytes + PLACE + i * SPAN,
							    span_bytes(i));
			}
			assert_false(mfs_ahead_has(a));
		}
		mfs_ahead_free(a);
	}
}

static void a_failure_comes_with_its_span_and_reason(void **state)
{
	struct failing own = {.bytes = file_bytes, .from = UINT64_MAX};
	struct failing other = {.bytes = base_bytes, .from = PLACE + 7 * SPAN};
	mfs_source source = {.read_at = read_some, .context = &own};
	mfs_source base_source = {.read_at = read_some, .context = &other};
	const mfs_plan_tensor t = make_tensor();
	const mfs_ahead_run run = {&t, &t, &source, &base_source, 0, SPANS};
	uint8_t bytes[SPAN], base[SPAN];
	mfs_ahead *a;
	bool failed;

	(void)state;
	assert_int_equal(mfs_ahead_new(&a, 3, SPAN), 0);
	mfs_ahead_start(a, &run);
	for (int i = 0; i < 7; i++)
		assert_int_equal(mfs_ahead_take(a, bytes, base, &failed), 0);
	errno = 0;
	assert_int_equal(mfs_ahead_take(a, bytes, base, &failed), MFS_E_IO);
	assert_true(failed);
	assert_int_equal(errno, EIO);
	mfs_ahead_free(a); /* with spans under way */
	/* Nobody reads further than there is room for. */
	assert_true(atomic_load(&own.reads) <= 7 + 1 + 4 + 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(spans_come_in_order_with_those_of_the_base),
	    cmocka_unit_test(a_failure_comes_with_its_span_and_reason),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
