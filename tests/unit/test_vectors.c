/* The vectors of the specification: what is said of them is true, and what comes
 * from the future is refused or ignored as the specification asks. */
#include "vectors.h"

#include <dirent.h>
#include <jansson.h>

static const char *const names[] = {"hello",   "types",	  "tables", "zeros",	"plain", "many",
				    "future",  "buckets", "delta",  "appended", "views", "experts",
				    "columns", "shared",  "marked", "rows"};
#define NAMES (sizeof(names) / sizeof(names[0]))

static void assert_hash(const void *bytes, size_t size, const json_t *about)
{
	const char *expected = json_string_value(json_object_get(about, "xxh3_128"));
	uint8_t hash[16];
	char text[33];

	repair_hash128(bytes, size, hash);
	for (int i = 0; i < 16; i++)
		snprintf(text + 2 * i, 3, "%02x", hash[i]);
	assert_non_null(expected);
	assert_string_equal(text, expected);
}

static uint64_t number(const json_t *about, const char *key)
{
	const json_t *value = json_object_get(about, key);

	assert_true(json_is_integer(value));
	return (uint64_t)json_integer_value(value);
}

static const char *text(const json_t *about, const char *key)
{
	const json_t *value = json_object_get(about, key);

	assert_true(json_is_string(value));
	return json_string_value(value);
}

static json_t *load_json(const char *name)
{
	char file[64], path[4096];
	json_error_t error;
	json_t *about;

	snprintf(file, sizeof(file), "%s.json", name);
	about = json_load_file(vector_path(path, file), 0, &error);
	if (!about)
		fail_msg("%s: %s", path, error.text);
	return about;
}

static vector load_container(const char *name)
{
	char file[64];

	snprintf(file, sizeof(file), "%s.mfs", name);
	return vector_load(file);
}

static uint8_t *read_file(mfs_container *c, uint32_t file, uint64_t size)
{
	uint8_t *bytes = malloc(size + 1);

	assert_non_null(bytes);
	assert_int_equal(mfs_read(c, file, 0, bytes, size + 1), size);
	return bytes;
}

static void check_container(mfs_container *c, const vector *v, const json_t *about)
{
	mfs_container_info info = {.size = sizeof(info)};

	assert_int_equal(mfs_info(c, &info), 0);
	assert_int_equal(info.container_bytes, number(about, "size"));
	assert_int_equal(v->size, number(about, "size"));
	assert_int_equal(info.version, number(about, "version"));
	assert_int_equal(info.generation, number(about, "generation"));
	assert_int_equal(info.page_bytes, number(about, "page_size"));
	assert_int_equal(info.frame_bytes, number(about, "frame_size"));
	assert_int_equal(info.profile, mfs_profile_find(text(about, "profile")));
	assert_int_equal(info.superblock_copy, 0);
}

/* Whole, and in pieces of odd lengths from the end to the beginning. */
static void check_files(mfs_container *c, const json_t *files)
{
	assert_int_equal(mfs_file_count(c), json_array_size(files));
	for (uint32_t i = 0; i < mfs_file_count(c); i++) {
		const json_t *about = json_array_get(files, i);
		mfs_file_info info = {.size = sizeof(info)};
		uint8_t *bytes, piece[977];

		assert_int_equal(mfs_file_get(c, i, &info), 0);
		assert_string_equal(info.name, text(about, "name"));
		assert_string_equal(info.format, text(about, "format"));
		assert_int_equal(info.file_bytes, number(about, "size"));
		assert_int_equal(mfs_file_find(c, info.name), i);
		bytes = read_file(c, i, info.file_bytes);
		assert_hash(bytes, info.file_bytes, about);
		for (uint64_t at = info.file_bytes; at > 0;) {
			size_t length = at < sizeof(piece) ? at : sizeof(piece);

			at -= length;
			assert_int_equal(mfs_read(c, i, at, piece, length), length);
			assert_memory_equal(piece, bytes + at, length);
		}
		free(bytes);
	}
}

static void check_tensors(mfs_container *c, const json_t *tensors)
{
	assert_int_equal(mfs_tensor_count(c), json_array_size(tensors));
	for (uint32_t i = 0; i < mfs_tensor_count(c); i++) {
		const json_t *about = json_array_get(tensors, i);
		const json_t *shape = json_object_get(about, "shape");
		mfs_tensor_info info = {.size = sizeof(info)};
		uint8_t *bytes;

		assert_int_equal(mfs_tensor_get(c, i, &info), 0);
		assert_string_equal(info.name, text(about, "name"));
		assert_string_equal(info.type, text(about, "type"));
		assert_string_equal(info.cls, text(about, "class"));
		assert_int_equal(info.file, mfs_file_find(c, text(about, "file")));
		assert_int_equal(info.file_offset, number(about, "offset"));
		assert_int_equal(info.tensor_bytes, number(about, "size"));
		assert_int_equal(info.stored_bytes, number(about, "stored_size"));
		assert_int_equal(info.dim_count, json_array_size(shape));
		for (uint32_t d = 0; d < info.dim_count; d++)
			assert_int_equal(info.dims[d],
					 json_integer_value(json_array_get(shape, d)));
		bytes = malloc(info.tensor_bytes);
		assert_int_equal(mfs_read(c, info.file, info.file_offset, bytes, info.tensor_bytes),
				 info.tensor_bytes);
		assert_hash(bytes, info.tensor_bytes, about);
		free(bytes);
	}
}

static void check_chunks(mfs_container *c, const json_t *chunks)
{
	mfs_chunk_info info = {.size = sizeof(info)};
	uint32_t count = (uint32_t)json_array_size(chunks);

	for (uint32_t i = 0; i < count; i++) {
		const json_t *about = json_array_get(chunks, i);

		assert_int_equal(mfs_chunk_get(c, i, &info), 0);
		assert_int_equal(info.offset, number(about, "offset"));
		assert_int_equal(info.stored_bytes, number(about, "stored_size"));
		assert_int_equal(info.decoded_bytes, number(about, "decoded_size"));
		assert_int_equal(info.frames, number(about, "frames"));
		assert_string_equal(info.cls, text(about, "class"));
		assert_string_equal(info.codec, text(about, "codec"));
	}
	assert_int_equal(mfs_chunk_get(c, count, &info), MFS_E_NOT_FOUND);
}

static int print_damage(void *user, const mfs_problem *why)
{
	(void)user;
	print_error("%s\n", why->text);
	return 0;
}

static void every_vector_holds_what_is_said_of_it(void **state)
{
	(void)state;
	for (size_t i = 0; i < NAMES; i++) {
		vector v = load_container(names[i]);
		json_t *about = load_json(names[i]);
		mfs_container *c;
		mfs_problem why;

		if (vector_open(&c, &v, &why))
			fail_msg("%s: %s", names[i], why.text);
		check_container(c, &v, json_object_get(about, "container"));
		check_files(c, json_object_get(about, "files"));
		check_tensors(c, json_object_get(about, "tensors"));
		check_chunks(c, json_object_get(about, "chunks"));
		assert_int_equal(mfs_check(c, print_damage, NULL, NULL), 0);
		mfs_close(c);
		json_decref(about);
		vector_free(&v);
	}
}

static void no_vector_is_forgotten(void **state)
{
	char path[4096];
	DIR *dir = opendir(vector_path(path, "."));
	struct dirent *entry;
	size_t found = 0;

	(void)state;
	assert_non_null(dir);
	while ((entry = readdir(dir))) {
		const char *end = strrchr(entry->d_name, '.');

		found += end && !strcmp(end, ".mfs");
	}
	closedir(dir);
	assert_int_equal(found, NAMES);
}

static void a_type_that_no_program_knows_is_split_and_read(void **state)
{
	vector v = load_container("future");
	mfs_tensor_info info = {.size = sizeof(info)};
	mfs_container *c;
	mfs_problem why;

	(void)state;
	assert_int_equal(vector_open(&c, &v, &why), 0);
	assert_int_equal(mfs_tensor_get(c, 0, &info), 0);
	assert_string_equal(info.type, "Q9_FUTURE");
	assert_int_equal(info.constants_bytes, 7 * 840);
	assert_true(info.constants_stored_bytes > 0 && info.tables_bytes > 0);
	assert_int_equal(info.spans, 15);
	mfs_close(c);
	vector_free(&v);
}

static void spans_have_one_place_in_a_vector(void **state)
{
	vector v = load_container("shared");
	mfs_container_info info = {.size = sizeof(info)};
	mfs_container *c;
	mfs_problem why;

	(void)state;
	assert_int_equal(vector_open(&c, &v, &why), 0);
	assert_int_equal(mfs_info(c, &info), 0);
	/* No two tensors are equal; sixteen of their spans are. */
	assert_true(info.shared_bytes > 10000);
	mfs_close(c);
	vector_free(&v);
}

/* Buckets of every kind of context, over rows and over spans, are among the vectors. */
static void every_context_has_buckets_in_a_vector(void **state)
{
	vector v = vector_load("buckets.mfs");
	unsigned kinds = 0, windows = 0;
	uint32_t tensors;

	(void)state;
	repair_section(v.bytes, v.size, MFS_SEC_TENSORS, sizeof(struct mfs_disk_tensor), &tensors);
	for (uint32_t i = 0; i < tensors; i++) {
		const struct mfs_disk_tensor *t = VECTOR_RECORD(&v, TENSORS, tensor, i);
		const struct mfs_disk_layout *layout =
		    VECTOR_RECORD(&v, LAYOUTS, layout, load_le32(&t->layout));
		const uint8_t *at;
		uint32_t streams = 0;

		if (load_le32(&t->slot[0].tables) == MFS_NO_TABLES)
			continue;
		at = v.bytes +
		     load_le64(
			 &VECTOR_RECORD(&v, TABLES, tables, load_le32(&t->slot[0].tables))->offset);
		for (uint32_t f = 0; f < load_le16(&layout->field_count); f++)
			streams +=
			    VECTOR_RECORD(&v, FIELDS, field, load_le32(&layout->first_field) + f)
				->cls == MFS_DISK_WEIGHTS;
		for (uint32_t s = 0; s < streams; s++)
			if (load_le32(at + 4 * s) >> 28 == 5) {
				const struct mfs_disk_buckets *buckets =
				    (const void *)(at + 4 * streams);

				kinds |= 1u << layout->context;
				windows |= load_le16(&buckets->window) ? 1 : 2;
			}
	}
	assert_int_equal(kinds, 0xfe);
	assert_int_equal(windows, 3);
	vector_free(&v);
}

/* ---- from the future ---- */

static void assert_unsupported(const vector *v)
{
	mfs_container *c;
	mfs_problem why;

	assert_int_equal(vector_open(&c, v, &why), MFS_E_UNSUPPORTED);
	assert_null(c);
	assert_int_equal(why.error, MFS_E_UNSUPPORTED);
	assert_non_null(strstr(why.text, "newer"));
}

static void assert_opens(const vector *v)
{
	mfs_container *c;
	mfs_problem why;

	if (vector_open(&c, v, &why))
		fail_msg("%s", why.text);
	mfs_close(c);
}

static void other_versions_are_refused(void **state)
{
	static const uint16_t versions[] = {0, 2, 3, 0x8000, 0xffff};
	vector v = load_container("hello");

	(void)state;
	for (size_t i = 0; i < sizeof(versions) / sizeof(versions[0]); i++) {
		store_le16(&vector_superblock(&v)->version, versions[i]);
		container_repair(v.bytes, v.size, REPAIR_ALL);
		assert_unsupported(&v);
	}
	vector_free(&v);
}

static void unknown_incompatible_bits_are_refused(void **state)
{
	vector v = load_container("types");

	(void)state;
	for (int bit = 0; bit < 32; bit++) {
		if (MFS_INCOMPAT_KNOWN & 1u << bit)
			continue;
		store_le32(&vector_superblock(&v)->feature_incompat, 1u << bit);
		container_repair(v.bytes, v.size, REPAIR_ALL);
		assert_unsupported(&v);
	}
	vector_free(&v);
}

static void unknown_compatible_bits_are_ignored(void **state)
{
	vector v = load_container("types");

	(void)state;
	for (int bit = 0; bit < 32; bit++) {
		store_le32(&vector_superblock(&v)->feature_compat, 1u << bit);
		container_repair(v.bytes, v.size, REPAIR_ALL);
		assert_opens(&v);
	}
	vector_free(&v);
}

static void unused_bytes_and_unknown_profiles_are_ignored(void **state)
{
	vector v = load_container("types");

	(void)state;
	memset(vector_superblock(&v)->unused, 0xa5, sizeof(vector_superblock(&v)->unused));
	store_le16(&vector_superblock(&v)->profile, 777);
	container_repair(v.bytes, v.size, REPAIR_ALL);
	assert_opens(&v);
	vector_free(&v);
}

/* The tail copy is of an older generation then: giving that out would hide what
 * the newer program has stored. */
static void an_older_tail_does_not_hide_a_newer_head(void **state)
{
	vector v = load_container("hello");
	uint8_t tail[MFS_SB_SIZE];

	(void)state;
	memcpy(tail, v.bytes + v.size - MFS_SB_SIZE, MFS_SB_SIZE);
	store_le16(&vector_superblock(&v)->version, 2);
	container_repair(v.bytes, v.size, REPAIR_ALL);
	memcpy(v.bytes + v.size - MFS_SB_SIZE, tail, MFS_SB_SIZE);
	assert_unsupported(&v);
	vector_free(&v);
}

/* ---- which superblock serves ---- */

static int serving_copy(const vector *v)
{
	mfs_container_info info = {.size = sizeof(info)};
	mfs_container *c;
	mfs_problem why;

	if (vector_open(&c, v, &why))
		return why.error;
	assert_int_equal(mfs_info(c, &info), 0);
	mfs_close(c);
	return info.superblock_copy;
}

static void each_superblock_serves_alone(void **state)
{
	(void)state;
	for (size_t i = 0; i < NAMES; i++) {
		vector v = load_container(names[i]);
		uint64_t slot1 = repair_slot1(v.bytes);

		assert_int_equal(serving_copy(&v), 0);
		v.bytes[100] ^= 1;
		assert_int_equal(serving_copy(&v), 1);
		v.bytes[slot1 + 4000] ^= 0x80;
		assert_int_equal(serving_copy(&v), 2);
		v.bytes[v.size - 1] ^= 4;
		/* Behind a generation that was appended lies the tail of the one before. */
		assert_int_equal(serving_copy(&v),
				 strcmp(names[i], "appended") ? MFS_E_CORRUPT : 2);
		v.bytes[100] ^= 1;
		assert_int_equal(serving_copy(&v), 0);
		vector_free(&v);
	}
}

static void the_tail_is_found_before_what_was_left_behind_it(void **state)
{
	vector v = load_container("hello");
	vector longer = {calloc(1, v.size + 100000), v.size + 100000};

	(void)state;
	memcpy(longer.bytes, v.bytes, v.size);
	memset(longer.bytes + v.size, 0xff, 100000);
	assert_int_equal(serving_copy(&longer), 0);
	memset(longer.bytes, 0, MFS_SB_SIZE);
	memset(longer.bytes + MFS_SB_SLOT1_NOR, 0, MFS_SB_SIZE);
	assert_int_equal(serving_copy(&longer), 2);
	vector_free(&longer);
	vector_free(&v);
}

/* The container without its slots, and behind it so many tails whose root is damaged. */
static int open_behind_bad_tails(unsigned tails)
{
	vector v = load_container("hello");
	vector longer = {calloc(1, v.size + tails * MFS_SB_SIZE), v.size + tails * MFS_SB_SIZE};
	int copy;

	assert_non_null(longer.bytes);
	memcpy(longer.bytes, v.bytes, v.size);
	for (uint64_t at = v.size; at < longer.size; at += MFS_SB_SIZE) {
		struct mfs_disk_superblock *sb = (void *)(longer.bytes + at);

		memcpy(sb, v.bytes, MFS_SB_SIZE);
		store_le64(&sb->own_offset, at);
		sb->root_hash[0] ^= 1;
		store_le64(&sb->hash, XXH3_64bits(sb, MFS_SB_HASHED));
	}
	memset(longer.bytes, 0, MFS_SB_SIZE);
	memset(longer.bytes + MFS_SB_SLOT1_NOR, 0, MFS_SB_SIZE);
	copy = serving_copy(&longer);
	vector_free(&longer);
	vector_free(&v);
	return copy;
}

/* Hostile bytes may have one every 4 KiB, and a root to decode for each. */
static void the_search_for_a_tail_ends(void **state)
{
	(void)state;
	assert_int_equal(open_behind_bad_tails(10), 2);
	assert_int_equal(open_behind_bad_tails(63), 2);
	assert_int_equal(open_behind_bad_tails(64), MFS_E_CORRUPT);
}

/* Writes a superblock of generation 99 where slot 1 of profile nor would be, and a
 * root for it, all hashes right. */
static void forge(vector *v, uint16_t profile)
{
	struct mfs_disk_superblock *forged = (void *)(v->bytes + MFS_SB_SLOT1_NOR);
	uint32_t root_size = load_le32(&vector_superblock(v)->root_size);
	uint8_t *root = v->bytes + MFS_SB_SLOT1 / 2;

	memcpy(root, repair_root_at(v->bytes, v->size, 0), root_size);
	store_le64(root + 8, 99);
	memcpy(forged, v->bytes, MFS_SB_SIZE);
	store_le64(&forged->own_offset, MFS_SB_SLOT1_NOR);
	store_le64(&forged->generation, 99);
	store_le16(&forged->profile, profile);
	store_le64(&forged->root_offset[0], MFS_SB_SLOT1 / 2);
	repair_hash128(root, root_size, forged->root_hash);
	store_le64(&forged->hash, XXH3_64bits(forged, MFS_SB_HASHED));
}

static uint64_t serving_generation(const vector *v)
{
	mfs_container_info info = {.size = sizeof(info)};
	mfs_container *c;
	mfs_problem why;

	assert_int_equal(vector_open(&c, v, &why), 0);
	assert_int_equal(mfs_info(c, &info), 0);
	mfs_close(c);
	return info.generation;
}

/* Bytes of a file that is stored as it is may be anything, a superblock too. */
static void stored_bytes_are_not_taken_for_a_superblock(void **state)
{
	vector v = vector_load("types.mfs");

	(void)state;
	forge(&v, MFS_PROFILE_NOR);
	assert_int_equal(serving_generation(&v), 1);
	forge(&v, MFS_PROFILE_SD);
	assert_int_equal(serving_generation(&v), 1);
	/* Without slot 0 its profile gives it away. */
	v.bytes[0] ^= 1;
	assert_int_equal(serving_generation(&v), 1);
	vector_free(&v);
}

static void the_highest_generation_serves(void **state)
{
	vector v = load_container("hello");
	struct mfs_disk_superblock *slot1 = (void *)(v.bytes + MFS_SB_SLOT1_NOR);

	(void)state;
	/* A newer superblock without its root: a writer was interrupted. */
	store_le64(&slot1->generation, 2);
	store_le64(&slot1->hash, XXH3_64bits(slot1, MFS_SB_HASHED));
	assert_int_equal(serving_copy(&v), 0);
	/* And with it. */
	store_le64(repair_root_at(v.bytes, v.size, 0) + 8, 2);
	repair_hash128(repair_root_at(v.bytes, v.size, 0), load_le32(&slot1->root_size),
		       slot1->root_hash);
	store_le64(&slot1->hash, XXH3_64bits(slot1, MFS_SB_HASHED));
	assert_int_equal(serving_copy(&v), 1);
	vector_free(&v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_vector_holds_what_is_said_of_it),
	    cmocka_unit_test(no_vector_is_forgotten),
	    cmocka_unit_test(a_type_that_no_program_knows_is_split_and_read),
	    cmocka_unit_test(every_context_has_buckets_in_a_vector),
	    cmocka_unit_test(spans_have_one_place_in_a_vector),
	    cmocka_unit_test(other_versions_are_refused),
	    cmocka_unit_test(unknown_incompatible_bits_are_refused),
	    cmocka_unit_test(unknown_compatible_bits_are_ignored),
	    cmocka_unit_test(unused_bytes_and_unknown_profiles_are_ignored),
	    cmocka_unit_test(an_older_tail_does_not_hide_a_newer_head),
	    cmocka_unit_test(each_superblock_serves_alone),
	    cmocka_unit_test(the_tail_is_found_before_what_was_left_behind_it),
	    cmocka_unit_test(the_search_for_a_tail_ends),
	    cmocka_unit_test(stored_bytes_are_not_taken_for_a_superblock),
	    cmocka_unit_test(the_highest_generation_serves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
