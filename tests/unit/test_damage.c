/* Damage that hashes find: copies serve, or reads fail; no wrong byte is read. */
#include "reject.h"

struct flips {
	const vector *v;
	uint8_t expected[HELLO_BYTES];
	uint64_t done, opened, read, errors;
};

/* The right bytes or an error. */
static void read_flipped(struct flips *f, mfs_container *c)
{
	uint8_t got[HELLO_BYTES + 1];
	int64_t n = mfs_read(c, 0, 0, got, sizeof(got));

	f->read++;
	if (n < 0)
		f->errors++;
	else if (n != HELLO_BYTES || memcmp(got, f->expected, HELLO_BYTES))
		fail_msg("a wrong byte was read");
}

/* Opens and, once in `every` flips, reads hello.mfs. */
static void try_flip(struct flips *f, unsigned every)
{
	mfs_container *c;
	mfs_problem why;

	if (vector_open(&c, f->v, &why) == 0) {
		f->opened++;
		if (f->done % every == 0)
			read_flipped(f, c);
		mfs_close(c);
	}
	f->done++;
}

static void flip_range(struct flips *f, uint64_t from, uint64_t to, unsigned every)
{
	for (uint64_t at = from; at < to; at++)
		for (int bit = 0; bit < 8; bit++) {
			f->v->bytes[at] ^= (uint8_t)(1u << bit);
			try_flip(f, every);
			f->v->bytes[at] ^= (uint8_t)(1u << bit);
		}
}

static void any_bit_of_superblocks_and_index_may_flip(void **state)
{
	vector v = vector_load("hello.mfs");
	const struct mfs_disk_superblock *sb = vector_superblock(&v);
	const uint64_t superblocks[] = {0, MFS_SB_SLOT1_NOR, v.size - MFS_SB_SIZE};
	uint32_t root_size = load_le32(&sb->root_size);
	struct flips f = {.v = &v};

	(void)state;
	alarm(SECONDS);
	expect_hello(f.expected);
	for (int i = 0; i < 3; i++)
		flip_range(&f, superblocks[i], superblocks[i] + MFS_SB_SIZE, 101);
	for (int copy = 0; copy < 2; copy++) {
		uint64_t root = load_le64(&sb->root_offset[copy]);

		flip_range(&f, root, root + root_size, 11);
		for (uint32_t i = 0; i < 2; i++) {
			struct mfs_disk_segment *s = VECTOR_RECORD(&v, SEGMENTS, segment, i);
			uint64_t at = load_le64(&s->offset[copy]);

			flip_range(&f, at, at + load_le32(&s->size), 1);
		}
	}
	print_message("%llu flips: %llu open, %llu are read, %llu errors\n",
		      (unsigned long long)f.done, (unsigned long long)f.opened,
		      (unsigned long long)f.read, (unsigned long long)f.errors);
	assert_true(f.done > 100000 && f.read > 2000);
	assert_true(f.opened * 100 >= f.done * 99);
	assert_int_equal(f.errors, 0);
	vector_free(&v);
	alarm(0);
}

static void a_flipped_bit_of_a_frame_is_an_error(void **state)
{
	vector v = vector_load("hello.mfs");
	uint64_t chunk = load_le64(&VECTOR_RECORD(&v, TENSORS, tensor, 0)->slot[0].base);
	struct flips f = {.v = &v};

	(void)state;
	expect_hello(f.expected);
	flip_range(&f, chunk, chunk + 35, 1);
	assert_int_equal(f.opened, f.done);
	assert_int_equal(f.errors, f.done);
	vector_free(&v);
}

static void a_container_of_any_shorter_length_is_refused(void **state)
{
	vector whole = vector_load("hello.mfs");

	(void)state;
	alarm(SECONDS);
	for (size_t size = 0; size < whole.size; size++) {
		vector v = {whole.bytes, size};
		mfs_container *c;
		mfs_problem why;
		int err = vector_open(&c, &v, &why);

		if (size < MFS_SB_SIZE)
			assert_int_equal(err, MFS_E_MAGIC);
		else
			assert_int_equal(err, MFS_E_TRUNCATED);
	}
	vector_free(&whole);
	alarm(0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(any_bit_of_superblocks_and_index_may_flip),
	    cmocka_unit_test(a_flipped_bit_of_a_frame_is_an_error),
	    cmocka_unit_test(a_container_of_any_shorter_length_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
