/* Frames and tables that lie, with hashes that fit: the read fails, and takes no
 * more memory than the span. */
#include "reject.h"

#include <zstd.h>

/* ---- frames ---- */

#define FRAME_ROOM 512

/* Replaces the frame of hello.mfs, with hashes that fit, and reads the file. */
static int64_t read_with_frame(const uint8_t *stored, size_t size, uint8_t out[HELLO_BYTES])
{
	vector v = vector_load("hello.mfs");
	uint64_t base = load_le64(&VECTOR_RECORD(&v, TENSORS, tensor, 0)->slot[0].base);
	mfs_container *c;
	mfs_problem why;
	int64_t got;

	assert_true(size <= FRAME_ROOM);
	memcpy(v.bytes + base, stored, size);
	store_le64(table_entry(&v, MFS_SEGMENT_FRAMES, 0), (uint64_t)size << MFS_FRAME_OFFSET_BITS);
	container_repair(v.bytes, v.size, REPAIR_ALL);
	assert_int_equal(vector_open(&c, &v, &why), 0);
	got = mfs_read(c, 0, 0, out, HELLO_BYTES);
	mfs_close(c);
	vector_free(&v);
	return got;
}

struct frame {
	uint8_t bytes[FRAME_ROOM];
	size_t size;
};

static void add(struct frame *f, const void *bytes, size_t size)
{
	assert_true(size <= FRAME_ROOM - f->size);
	memcpy(f->bytes + f->size, bytes, size);
	f->size += size;
}

/* A stream header for what follows it. */
static void set_header(struct frame *f, unsigned coding)
{
	store_le32(f->bytes, (uint32_t)coding << 28 | (uint32_t)(f->size - 4));
}

static struct frame begin_frame(void)
{
	return (struct frame){.size = 4};
}

static void add_zstd(struct frame *f, size_t zeros)
{
	uint8_t *in = calloc(1, zeros + 1);
	size_t size = ZSTD_compress(f->bytes + f->size, FRAME_ROOM - f->size, in, zeros, 3);

	assert_false(ZSTD_isError(size));
	f->size += size;
	free(in);
}

/* Blocks of one byte repeated: 128 KiB for 4 bytes. */
static void add_bomb(struct frame *f, unsigned blocks)
{
	static const uint8_t header[] = {0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58};

	add(f, header, sizeof(header));
	for (unsigned i = 0; i < blocks; i++) {
		uint32_t block = (128u << 10) << 3 | 1 << 1 | (i + 1 == blocks);
		uint8_t bytes[4] = {(uint8_t)block, (uint8_t)(block >> 8), (uint8_t)(block >> 16),
				    'x'};

		add(f, bytes, sizeof(bytes));
	}
}

static void assert_frame(const struct frame *f, int64_t expected, const char *what)
{
	uint8_t out[HELLO_BYTES];
	int64_t got = read_with_frame(f->bytes, f->size, out);

	if (got != expected)
		fail_msg("%s: %lld", what, (long long)got);
	for (int i = 0; got > 0 && i < HELLO_BYTES; i++)
		assert_int_equal(out[i], 0);
}

static void sound_frames_of_every_form_are_read(void **state)
{
	struct frame f = {.size = 0};
	uint8_t raw[HELLO_BYTES];

	(void)state;
	assert_frame(&f, HELLO_BYTES, "zero frame");
	f = begin_frame();
	set_header(&f, 1);
	assert_frame(&f, HELLO_BYTES, "zero stream");
	for (unsigned coding = 2; coding <= 3; coding++) {
		f = begin_frame();
		add_zstd(&f, HELLO_BYTES);
		set_header(&f, coding);
		assert_frame(&f, HELLO_BYTES, "zstd");
	}
	assert_int_equal(read_with_frame((const uint8_t *)"", 0, raw), HELLO_BYTES);
}

static void frames_with_wrong_headers_are_errors(void **state)
{
	struct frame f;

	(void)state;
	for (unsigned coding = 4; coding <= 15; coding++) {
		f = begin_frame();
		add_zstd(&f, HELLO_BYTES);
		set_header(&f, coding);
		assert_frame(&f, MFS_E_CORRUPT, "a coding that is not known or has no tables");
	}
	for (size_t size = 1; size < 4; size++) {
		f = (struct frame){.size = size};
		assert_frame(&f, MFS_E_CORRUPT, "shorter than its headers");
	}
	f = begin_frame();
	add(&f, "abc", 3);
	set_header(&f, 0);
	assert_frame(&f, MFS_E_CORRUPT, "a raw stream of another size");
	set_header(&f, 1);
	assert_frame(&f, MFS_E_CORRUPT, "zeros that are stored");
	f = begin_frame();
	add_zstd(&f, HELLO_BYTES);
	set_header(&f, 2);
	f.bytes[f.size++] = 0;
	assert_frame(&f, MFS_E_CORRUPT, "a byte behind the last stream");
	f.size -= 2;
	assert_frame(&f, MFS_E_CORRUPT, "a stream that ends behind the frame");
	store_le32(f.bytes, 0x2fffffff);
	assert_frame(&f, MFS_E_CORRUPT, "a stream longer than anything");
}

static void zstd_streams_that_are_not_one_frame_of_the_right_size_are_errors(void **state)
{
	static const size_t sizes[] = {0,	 1,	    HELLO_BYTES - 1, HELLO_BYTES + 1,
				       1u << 20, 100u << 20};
	static const uint8_t skippable[] = {0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 1, 2};
	struct frame f;

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		if (sizes[i] > 1u << 20)
			continue; /* add_bomb() below */
		f = begin_frame();
		add_zstd(&f, sizes[i]);
		set_header(&f, 2);
		assert_frame(&f, MFS_E_CORRUPT, "another size");
	}
	f = begin_frame();
	add_bomb(&f, 100);
	set_header(&f, 2);
	assert_frame(&f, MFS_E_CORRUPT, "12 MiB out of 400 bytes");
	f = begin_frame();
	add(&f, skippable, sizeof(skippable));
	add_zstd(&f, HELLO_BYTES);
	set_header(&f, 2);
	assert_frame(&f, MFS_E_CORRUPT, "a skippable frame before");
	f = begin_frame();
	add_zstd(&f, HELLO_BYTES);
	add(&f, skippable, sizeof(skippable));
	set_header(&f, 2);
	assert_frame(&f, MFS_E_CORRUPT, "a skippable frame behind");
	f = begin_frame();
	add_zstd(&f, HELLO_BYTES - 1);
	add_zstd(&f, 1);
	set_header(&f, 2);
	assert_frame(&f, MFS_E_CORRUPT, "two frames");
	f = begin_frame();
	add(&f, "zstd? no", 8);
	set_header(&f, 2);
	assert_frame(&f, MFS_E_CORRUPT, "no frame");
}

static void frame_headers_of_zstd_that_lie_take_no_memory(void **state)
{
	/* A content size of 2^63, and windows of up to 3.75 TiB. */
	static const uint8_t content[] = {0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0,    0, 0,
					  0,	0,    0,    0,	  0x80, 0x01, 0, 0};
	static const uint8_t window[] = {0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff, 0x8b, 0x11, 0x00, 0};
	uint8_t out[HELLO_BYTES];
	struct frame f = begin_frame();
	int64_t got;

	(void)state;
	add(&f, content, sizeof(content));
	set_header(&f, 2);
	assert_frame(&f, MFS_E_CORRUPT, "2^63 bytes");
	f = begin_frame();
	add(&f, window, sizeof(window));
	set_header(&f, 2);
	got = read_with_frame(f.bytes, f.size, out);
	assert_true(got == HELLO_BYTES || got == MFS_E_CORRUPT);
}

static void damaged_tables_cost_only_the_frames_that_use_them(void **state)
{
	vector v = vector_load("future.mfs");
	uint64_t at = load_le64(&VECTOR_RECORD(&v, TABLES, tables, 0)->offset);
	static const uint32_t lengths[] = {0, 1, 0x7fffffff, UINT32_MAX};
	uint8_t head[23], byte;
	mfs_container *c;
	mfs_problem why;

	(void)state;
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		store_le32(v.bytes + at, lengths[i]);
		container_repair(v.bytes, v.size, REPAIR_ALL);
		assert_int_equal(vector_open(&c, &v, &why), 0);
		assert_int_equal(mfs_read(c, 0, 0, head, sizeof(head)), sizeof(head));
		assert_memory_equal(head, "a format of the future\n", sizeof(head));
		assert_int_equal(mfs_read(c, 0, 23, &byte, 1), MFS_E_CORRUPT);
		mfs_close(c);
	}
	vector_free(&v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(sound_frames_of_every_form_are_read),
	    cmocka_unit_test(frames_with_wrong_headers_are_errors),
	    cmocka_unit_test(zstd_streams_that_are_not_one_frame_of_the_right_size_are_errors),
	    cmocka_unit_test(frame_headers_of_zstd_that_lie_take_no_memory),
	    cmocka_unit_test(damaged_tables_cost_only_the_frames_that_use_them),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
