/* Equal tensors and equal spans are stored once, and come back as if they were not. */
#include "fixture.h"
#include "memory_io.h"

#include "../../libmodelfs/container.h"
#include "../gen/container_repair.h"

static mfs_container *fixture_open(fixture *f)
{
	memory_io *io = memory_io_new(f->container, f->size);
	mfs_problem why = {0};
	mfs_container *c;

	if (mfs_open_io(&c, &io->head, "memory", NULL, &why))
		fail_msg("%s", why.text);
	return c;
}

static uint64_t packed_bytes(fixture *f, uint64_t *shared)
{
	mfs_container_info info = {.size = sizeof(info)};
	mfs_container *c = fixture_open(f);

	assert_int_equal(mfs_info(c, &info), 0);
	assert_int_equal(mfs_check(c, NULL, NULL, NULL), 0);
	*shared = info.shared_bytes;
	mfs_close(c);
	return info.frame_bytes_stored + info.tables_bytes;
}

static void check_file(fixture *f, const char *name, const uint8_t *bytes, size_t size)
{
	mfs_container *c = fixture_open(f);
	int64_t file = mfs_file_find(c, name);
	uint8_t *got = malloc(size);

	assert_true(file >= 0);
	assert_non_null(got);
	assert_int_equal(mfs_read(c, (uint32_t)file, 0, got, size), size);
	assert_memory_equal(got, bytes, size);
	free(got);
	mfs_close(c);
}

static void two_equal_files_cost_little_more_than_one(void **state)
{
	uint64_t one, two, shared;
	uint8_t *bytes;
	size_t size = fixture_q8_0(&bytes, 300, 1);
	fixture f;

	(void)state;
	fixture_begin(&f, NULL);
	fixture_add(&f, "a.gguf", bytes, size);
	fixture_end(&f);
	one = packed_bytes(&f, &shared);
	assert_int_equal(shared, 0);
	fixture_free(&f);
	fixture_begin(&f, NULL);
	fixture_add(&f, "a.gguf", bytes, size);
	fixture_add(&f, "b.gguf", bytes, size);
	fixture_end(&f);
	two = packed_bytes(&f, &shared);
	assert_int_equal(two, one);
	assert_int_equal(shared, one);
	check_file(&f, "a.gguf", bytes, size);
	check_file(&f, "b.gguf", bytes, size);
	fixture_free(&f);
	free(bytes);
}

/* Frames and tables of files that begin with the same rows, packed alone and together. */
struct cost {
	uint64_t alone, together, shared;
};

#define ROWS  300
#define FILES 3

struct source {
	const char *name;
	uint64_t rows;
};

static struct cost cost_of(const struct source *sources, int count, const char *order)
{
	mfs_pack_options options = MFS_PACK_OPTIONS_INIT;
	uint8_t *bytes[FILES];
	size_t size[FILES];
	struct cost cost;
	fixture f;

	for (int i = 0; i < count; i++)
		size[i] = fixture_q8_0(&bytes[i], sources[i].rows, 1);
	fixture_begin(&f, NULL);
	fixture_add(&f, sources[0].name, bytes[0], size[0]);
	fixture_end(&f);
	cost.alone = packed_bytes(&f, &cost.shared);
	fixture_free(&f);
	options.order = order;
	fixture_begin(&f, &options);
	for (int i = 0; i < count; i++)
		fixture_add(&f, sources[i].name, bytes[i], size[i]);
	fixture_end(&f);
	cost.together = packed_bytes(&f, &cost.shared);
	for (int i = 0; i < count; i++) {
		check_file(&f, sources[i].name, bytes[i], size[i]);
		free(bytes[i]);
	}
	fixture_free(&f);
	return cost;
}

/* The rows of one span that ends elsewhere, and a header. */
#define SLACK (140u << 10)

static void assert_adds(const struct cost *cost, uint64_t rows)
{
	uint64_t row = cost->alone / ROWS + 1;

	if (cost->together > cost->alone + rows * row + SLACK)
		fail_msg("%lu bytes of frames, %lu without the others",
			 (unsigned long)cost->together, (unsigned long)cost->alone);
}

static void rows_that_are_added_cost_what_they_take(void **state)
{
	static const struct source sources[] = {{"a.gguf", ROWS}, {"b.gguf", ROWS + 50}};
	struct cost cost = cost_of(sources, 2, NULL);

	(void)state;
	assert_adds(&cost, 50);
	assert_true(cost.shared > cost.alone * 9 / 10);
}

/* The first rows of the base have the frames of the base. */
static void rows_that_are_missing_cost_nothing(void **state)
{
	static const struct source sources[] = {{"a.gguf", ROWS}, {"b.gguf", ROWS / 2}};
	struct cost cost = cost_of(sources, 2, NULL);

	(void)state;
	assert_adds(&cost, 0);
	assert_true(cost.shared > 0);
}

static void rows_are_shared_with_the_nearest_of_several(void **state)
{
	static const struct source sources[] = {
	    {"a.gguf", ROWS}, {"b.gguf", ROWS + 200}, {"c.gguf", ROWS + 400}};
	struct cost cost = cost_of(sources, 3, NULL);

	(void)state;
	assert_adds(&cost, 400);
}

static void spans_are_shared_whatever_they_are_stored_as(void **state)
{
	static const char *const codecs[] = {"plain", "raw", "zstd", "shared"};

	(void)state;
	for (size_t i = 0; i < sizeof(codecs) / sizeof(*codecs); i++) {
		mfs_pack_options options = MFS_PACK_OPTIONS_INIT;
		uint8_t *a, *b;
		size_t size_a = fixture_q8_0(&a, 300, 1), size_b = fixture_q8_0(&b, 330, 1);
		uint64_t shared;
		fixture f;

		options.codec = codecs[i];
		fixture_begin(&f, &options);
		fixture_add(&f, "a.gguf", a, size_a);
		fixture_add(&f, "b.gguf", b, size_b);
		fixture_end(&f);
		packed_bytes(&f, &shared);
		if (shared < 150000)
			fail_msg("%s: %lu bytes are shared", codecs[i], (unsigned long)shared);
		check_file(&f, "a.gguf", a, size_a);
		check_file(&f, "b.gguf", b, size_b);
		fixture_free(&f);
		free(a);
		free(b);
	}
}

/* A safetensors file of one BF16 matrix of 512 columns; longer ones begin like shorter
 * ones. Headers differ in length, so tensors begin at odd places. */
static size_t make_safetensors(uint8_t **out, unsigned rows)
{
	uint64_t data = rows * 1024ull;
	char header[200];
	int length = snprintf(header, sizeof(header),
			      "{\"embed.weight\":{\"dtype\":\"BF16\",\"shape\":[%u,512],"
			      "\"data_offsets\":[0,%llu]}}%*s",
			      rows, (unsigned long long)data, (int)(rows % 7), "");
	uint8_t *bytes = malloc(8 + (size_t)length + data), *at = bytes;

	assert_non_null(bytes);
	fixture_put(&at, (uint64_t)length, 8);
	memcpy(at, header, (size_t)length);
	at += length;
	fixture_noise(at, data, 1);
	for (uint64_t i = 1; i < data; i += 2)
		at[i] = (uint8_t)(0x3c + (at[i] & 3));
	*out = bytes;
	return (size_t)(at - bytes) + data;
}

static void spans_of_safetensors_are_shared(void **state)
{
	uint8_t *a, *b;
	size_t size_a = make_safetensors(&a, 600), size_b = make_safetensors(&b, 641);
	uint64_t shared, together;
	fixture f;

	(void)state;
	fixture_begin(&f, NULL);
	fixture_add(&f, "b.safetensors", b, size_b);
	fixture_add(&f, "a.safetensors", a, size_a);
	fixture_end(&f);
	together = packed_bytes(&f, &shared);
	/* All but the span in which the shorter one ends. */
	assert_true(shared > (size_a - SLACK) / 2);
	assert_true(together < size_b + SLACK);
	check_file(&f, "a.safetensors", a, size_a);
	check_file(&f, "b.safetensors", b, size_b);
	fixture_free(&f);
	free(a);
	free(b);
}

/* A span belongs where the first of its users is read. */
static void an_order_of_reading_holds_for_shared_spans(void **state)
{
	static const struct source sources[] = {{"a.gguf", ROWS}, {"b.gguf", ROWS + 50}};
	static const char text[] = "modelfs-trace 1\n"
				   "b.gguf\tblk.0.ffn_up.weight\t200000-380000\n"
				   "a.gguf\tblk.0.ffn_up.weight\t0-100000\n";
	char path[] = "/tmp/modelfs-trace-XXXXXX";
	int fd = mkstemp(path);
	struct cost cost;

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
	close(fd);
	cost = cost_of(sources, 2, path);
	unlink(path);
	assert_adds(&cost, 50);
}

/* Where a fingerprint does not look. */
static void one_different_byte_costs_its_span(void **state)
{
	uint8_t *bytes, *other;
	size_t size = fixture_q8_0(&bytes, 300, 1);
	uint64_t shared;
	fixture f;

	(void)state;
	other = malloc(size);
	assert_non_null(other);
	memcpy(other, bytes, size);
	other[size / 3] ^= 1;
	fixture_begin(&f, NULL);
	fixture_add(&f, "a.gguf", bytes, size);
	fixture_add(&f, "b.gguf", other, size);
	fixture_end(&f);
	packed_bytes(&f, &shared);
	assert_true(shared > size / 2);
	check_file(&f, "a.gguf", bytes, size);
	check_file(&f, "b.gguf", other, size);
	fixture_free(&f);
	free(bytes);
	free(other);
}

static void different_weights_share_nothing(void **state)
{
	uint8_t *bytes, *other;
	size_t size = fixture_q8_0(&bytes, 300, 1);
	uint64_t shared;
	fixture f;

	(void)state;
	assert_int_equal(fixture_q8_0(&other, 300, 2), size);
	fixture_begin(&f, NULL);
	fixture_add(&f, "a.gguf", bytes, size);
	fixture_add(&f, "b.gguf", other, size);
	fixture_end(&f);
	packed_bytes(&f, &shared);
	assert_true(shared < 1000); /* the headers are equal */
	fixture_free(&f);
	free(bytes);
	free(other);
}

/* ---- places that lie ---- */

static struct mfs_disk_tensor *disk_tensor(fixture *f, uint32_t i)
{
	uint32_t count;
	struct mfs_disk_tensor *t =
	    (void *)repair_section(f->container, f->size, MFS_SEC_TENSORS, sizeof(*t), &count);

	assert_true(t && i < count);
	return t + i;
}

/* Entries with hashes that fit, whose frames overlap others: each read is an error or
 * bytes, and the check says that they are not those that were packed. */
static void frames_that_overlap_are_errors_or_found_by_the_check(void **state)
{
	uint8_t *bytes, *got;
	size_t size = fixture_q8_0(&bytes, ROWS, 1);

	(void)state;
	got = malloc(size);
	assert_non_null(got);
	for (uint64_t shift = 0; shift < 1000; shift += 499) {
		mfs_container_info info = {.size = sizeof(info)};
		mfs_container *c;
		uint64_t first;
		fixture f;

		fixture_begin(&f, NULL);
		fixture_add(&f, "a.gguf", bytes, size);
		fixture_end(&f);
		first = load_le64(&disk_tensor(&f, 1)->slot[0].first);
		for (uint64_t i = 1; i < 10; i++) {
			uint8_t *to = repair_frame_entry(f.container, f.size, first + i);

			memcpy(to, repair_frame_entry(f.container, f.size, first), 16);
			store_le64(to, load_le64(to) + shift);
		}
		container_repair(f.container, f.size, REPAIR_ALL);
		c = fixture_open(&f);
		assert_true(mfs_read(c, 0, 0, got, size) == (int64_t)size ||
			    mfs_read(c, 0, 0, got, size) == MFS_E_CORRUPT);
		assert_true(mfs_check(c, NULL, NULL, NULL) > 0);
		assert_int_equal(mfs_info(c, &info), 0);
		mfs_close(c);
		fixture_free(&f);
	}
	free(bytes);
	free(got);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(two_equal_files_cost_little_more_than_one),
	    cmocka_unit_test(rows_that_are_added_cost_what_they_take),
	    cmocka_unit_test(rows_that_are_missing_cost_nothing),
	    cmocka_unit_test(rows_are_shared_with_the_nearest_of_several),
	    cmocka_unit_test(spans_are_shared_whatever_they_are_stored_as),
	    cmocka_unit_test(spans_of_safetensors_are_shared),
	    cmocka_unit_test(an_order_of_reading_holds_for_shared_spans),
	    cmocka_unit_test(one_different_byte_costs_its_span),
	    cmocka_unit_test(different_weights_share_nothing),
	    cmocka_unit_test(frames_that_overlap_are_errors_or_found_by_the_check),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
