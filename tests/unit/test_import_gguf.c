/* The GGUF importer, over files that are built in memory. */
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../gen/hostile_cases.h"

#define IMPORTER	mfs_import_gguf
#define IMPORTER_FORMAT MFS_FORMAT_GGUF
#define SOURCE_NAME	"model.gguf"
#include "importing.h"
#include "layout_ggml.h"

/* ---- hostile files ---- */

static void every_truncation_is_refused(void **state)
{
	struct gw w = build("good-v3");
	mfs_import import;
	mfs_problem why;

	(void)state;
	for (size_t size = 4; size < w.size; size++) {
		/* In memory of its own, so that a sanitizer sees reads past the end. */
		uint8_t *cut = malloc(size);

		memcpy(cut, w.bytes, size);
		assert_int_equal(import_bytes(&import, cut, size, &why), MFS_E_TRUNCATED);
		assert_true(strstr(why.text, "past the end of the file") ||
			    strstr(why.text, "fit into a file"));
		free(cut);
	}
	gw_free(&w);
}

static void every_flipped_bit_is_survived(void **state)
{
	static const char *const names[] = {"good-v3", "good-big-v3", "good-unknown-types",
					    "good-all-value-types"};
	mfs_import import;
	mfs_problem why;

	(void)state;
	for (size_t n = 0; n < sizeof(names) / sizeof(names[0]); n++) {
		struct gw w = build(names[n]);

		for (size_t bit = 0; bit < 8 * w.size; bit++) {
			w.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
			if (import_bytes(&import, w.bytes, w.size, &why) == 0)
				assert_sound(&import, w.size);
			else
				assert_true(why.text[0] != 0);
			mfs_import_free(&import);
			w.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
		}
		gw_free(&w);
	}
}

/* ---- what comes out ---- */

static void tensors_carry_name_type_shape_and_place(void **state)
{
	struct gw w = build("good-v3");
	uint64_t data = w.size - 80;
	mfs_import import;

	(void)state;
	must_import(&import, &w);
	assert_int_equal(import.tensor_count, 2);
	assert_string_equal(import.tensors[0].name, "a");
	assert_ptr_equal(import.tensors[0].layout, mfs_layout_ggml(HC_Q4_0));
	assert_int_equal(import.tensors[0].dim_count, 2);
	assert_int_equal(import.tensors[0].dims[0], 32);
	assert_int_equal(import.tensors[0].dims[1], 3);
	assert_int_equal(import.tensors[0].row_bytes, 18);
	assert_int_equal(import.tensors[0].size, 54);
	assert_int_equal(import.tensors[0].slice_bytes, 54);
	assert_int_equal(import.tensors[0].offset, data);
	assert_string_equal(import.tensors[1].name, "b");
	assert_int_equal(import.tensors[1].size, 16);
	assert_int_equal(import.tensors[1].row_bytes, 16);
	assert_int_equal(import.tensors[1].offset, data + 64);
	mfs_import_free(&import);
	gw_free(&w);
}

static void tensors_are_sorted_by_offset(void **state)
{
	struct gw w = build("good-reversed-order");
	mfs_import import;

	(void)state;
	must_import(&import, &w);
	assert_string_equal(import.tensors[0].name, "second");
	assert_string_equal(import.tensors[1].name, "first");
	assert_int_equal(import.tensors[1].offset - import.tensors[0].offset, 128);
	mfs_import_free(&import);
	gw_free(&w);
}

static void data_starts_at_the_alignment_asked_for(void **state)
{
	static const char *const names[] = {"good-alignment-8", "good-alignment-64",
					    "good-alignment-4096"};
	static const uint64_t alignments[] = {8, 64, 4096};

	(void)state;
	for (int i = 0; i < 3; i++) {
		struct gw w = build(names[i]);
		mfs_import import;

		must_import(&import, &w);
		assert_int_equal(import.tensors[0].offset % alignments[i], 0);
		assert_int_equal(import.tensors[0].offset, w.size - 32);
		mfs_import_free(&import);
		gw_free(&w);
	}
}

static void big_endian_tensors_are_listed_with_opaque_layouts(void **state)
{
	struct gw w = build("good-big-v3");
	mfs_import import;
	mfs_layout copy;

	(void)state;
	must_import(&import, &w);
	assert_type(&import.tensors[0], "Q4_0 (big-endian)");
	assert_type(&import.tensors[1], "F32 (big-endian)");
	assert_int_equal(import.tensors[0].dims[0], 32);
	assert_int_equal(import.tensors[0].size, 36);
	assert_int_equal(import.tensors[0].row_bytes, 18);
	assert_int_equal(import.tensors[1].size, 32);
	assert_int_equal(import.tensors[1].offset - import.tensors[0].offset, 64);
	copy = *import.tensors[0].layout;
	assert_int_equal(mfs_layout_finish(&copy), 0);
	assert_int_equal(copy.block_bytes, 1);
	assert_int_equal(copy.stream_count, 1);
	assert_int_equal(copy.slot_bytes[0], 1);
	assert_int_equal(copy.type_id, HC_Q4_0);
	mfs_import_free(&import);
	gw_free(&w);
}

static void unknown_types_reach_to_their_neighbour(void **state)
{
	struct gw w = build("good-unknown-types");
	mfs_import import;

	(void)state;
	must_import(&import, &w);
	assert_type(&import.tensors[0], "type 1000");
	assert_type(&import.tensors[1], "type 1001");
	assert_int_equal(import.tensors[0].layout->block_bytes, 1);
	assert_int_equal(import.tensors[0].dims[0], 100);
	assert_int_equal(import.tensors[0].size, 64);
	assert_int_equal(import.tensors[1].size, 32);
	assert_int_equal(import.tensors[1].offset + 32, w.size);
	mfs_import_free(&import);
	gw_free(&w);
}

static void tensors_of_one_unknown_type_share_a_layout(void **state)
{
	struct gw w = {0};
	mfs_import import;

	(void)state;
	hc_tensors_start(&w, 2);
	gw_tensor(&w, "a", 1, (uint64_t[]){5}, HC_MADE_UP, 0);
	gw_tensor(&w, "b", 1, (uint64_t[]){5}, HC_MADE_UP, 32);
	hc_data(&w, 64);
	must_import(&import, &w);
	assert_ptr_equal(import.tensors[0].layout, import.tensors[1].layout);
	mfs_import_free(&import);
	gw_free(&w);
}

static void import_shape(mfs_import *import, uint32_t dim_count, const uint64_t *dims,
			 uint32_t type, size_t bytes)
{
	struct gw w = {0};

	hc_tensors_start(&w, 1);
	gw_tensor(&w, "t", dim_count, dims, type, 0);
	hc_data(&w, bytes);
	must_import(import, &w);
	gw_free(&w);
}

static void slices_follow_the_outermost_of_three_dimensions(void **state)
{
	mfs_import import;

	(void)state;
	/* Slices of exactly MFS_SLICE_MIN. */
	import_shape(&import, 3, (uint64_t[]){64, 64, 5}, HC_F32, 64 * 64 * 5 * 4);
	assert_int_equal(import.tensors[0].slice_bytes, 64 * 64 * 4);
	mfs_import_free(&import);
	/* A row less. */
	import_shape(&import, 3, (uint64_t[]){64, 63, 5}, HC_F32, 64 * 63 * 5 * 4);
	assert_int_equal(import.tensors[0].slice_bytes, 64 * 63 * 5 * 4);
	mfs_import_free(&import);
	/* One slice is no slice. */
	import_shape(&import, 3, (uint64_t[]){64, 64, 1}, HC_F32, 64 * 64 * 4);
	assert_int_equal(import.tensors[0].slice_bytes, 64 * 64 * 4);
	mfs_import_free(&import);
	import_shape(&import, 4, (uint64_t[]){64, 64, 2, 3}, HC_Q4_0, 64 * 64 * 6 / 32 * 18);
	assert_int_equal(import.tensors[0].slice_bytes, import.tensors[0].size);
	mfs_import_free(&import);
	import_shape(&import, 4, (uint64_t[]){64, 64, 8, 3}, HC_Q4_0, 64 * 64 * 24 / 32 * 18);
	assert_int_equal(import.tensors[0].slice_bytes, 64 * 64 * 8 / 32 * 18);
	mfs_import_free(&import);
	import_shape(&import, 2, (uint64_t[]){64, 6400}, HC_F32, 64 * 6400 * 4);
	assert_int_equal(import.tensors[0].slice_bytes, 64 * 6400 * 4);
	mfs_import_free(&import);
}

static void empty_tensors_are_checked_and_left_out(void **state)
{
	struct gw w = {0};
	mfs_import import;

	(void)state;
	hc_tensors_start(&w, 3);
	gw_tensor(&w, "none", 2, (uint64_t[]){32, 0}, HC_Q4_0, 0);
	gw_tensor(&w, "one", 1, (uint64_t[]){4}, HC_F32, 0);
	gw_tensor(&w, "unknown", 1, (uint64_t[]){0}, HC_MADE_UP, 0);
	hc_data(&w, 16);
	must_import(&import, &w);
	assert_int_equal(import.tensor_count, 1);
	assert_string_equal(import.tensors[0].name, "one");
	mfs_import_free(&import);
	gw_free(&w);

	hc_tensors_start(&w, 1);
	gw_tensor(&w, "none", 2, (uint64_t[]){31, 0}, HC_Q4_0, 0);
	must_refuse(&w, MFS_E_INVALID, "no multiple of a block");
	gw_free(&w);
}

static void every_known_type_gets_its_own_layout_and_size(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < mfs_layout_ggml_count(); i++) {
		const mfs_layout *layout = mfs_layout_ggml_row(i);
		uint64_t row = 3 * layout->block_bytes;
		mfs_import import;

		import_shape(&import, 2, (uint64_t[]){3 * layout->block_weights, 2},
			     layout->type_id, 2 * row);
		assert_ptr_equal(import.tensors[0].layout, layout);
		assert_int_equal(import.tensors[0].row_bytes, row);
		assert_int_equal(import.tensors[0].size, 2 * row);
		mfs_import_free(&import);
	}
}

static void what_is_not_gguf_is_opaque(void **state)
{
	static const char *const files[] = {"", "G", "GGU", "GGUX", "FUGG0000", "anything at all"};
	mfs_import import;
	mfs_problem why;

	(void)state;
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		assert_int_equal(import_bytes(&import, files[i], strlen(files[i]), &why), 0);
		assert_int_equal(import.format, MFS_FORMAT_OPAQUE);
		assert_int_equal(import.tensor_count, 0);
		assert_string_equal(why.text, "");
		mfs_import_free(&import);
	}
	mfs_import_free(NULL);
}

static void messages_of_long_paths_keep_their_reason(void **state)
{
	struct gw w = build("bad-version-4");
	char name[5000];
	mfs_source source;
	mfs_import import;
	mfs_problem why;

	(void)state;
	memset(name, 'd', sizeof(name) - 1);
	name[sizeof(name) - 1] = 0;
	mfs_source_memory(&source, name, w.bytes, w.size);
	assert_int_equal(mfs_import_source(&import, &source, &why), MFS_E_UNSUPPORTED);
	assert_non_null(strstr(why.text, "version 4"));
	gw_free(&w);
}

/* ---- size and speed ---- */

static void many_tensors(struct gw *w, uint32_t count)
{
	char name[32];

	hc_tensors_start(w, count);
	for (uint32_t i = 0; i < count; i++) {
		snprintf(name, sizeof(name), "blk.%u.attn_norm.weight", i);
		gw_tensor(w, name, 1, (uint64_t[]){8}, HC_F32, 32 * (uint64_t)i);
	}
	gw_align(w, 32, 0);
	w->bytes = realloc(w->bytes, w->size + 32 * (size_t)count);
	memset(w->bytes + w->size, 0, 32 * (size_t)count);
	w->size += 32 * (size_t)count;
	w->capacity = w->size;
}

static void ten_thousand_tensors_take_little_time(void **state)
{
	struct gw w = {0};
	mfs_import import;
	double start;

	(void)state;
	many_tensors(&w, 10000);
	start = now();
	must_import(&import, &w);
	assert_true(now() - start < SECONDS_MAX);
	assert_int_equal(import.tensor_count, 10000);
	assert_sound(&import, w.size);
	mfs_import_free(&import);
	gw_free(&w);
}

static void tensors_up_to_the_limit_are_imported_and_one_more_refused(void **state)
{
	struct gw w = {0};
	mfs_import import;
	double start;

	(void)state;
	many_tensors(&w, MFS_IMPORT_TENSORS_MAX);
	start = now();
	must_import(&import, &w);
	assert_true(now() - start < SECONDS_MAX);
	assert_int_equal(import.tensor_count, MFS_IMPORT_TENSORS_MAX);
	mfs_import_free(&import);
	gw_free(&w);

	many_tensors(&w, MFS_IMPORT_TENSORS_MAX + 1);
	start = now();
	must_refuse(&w, MFS_E_LIMIT, "tensors are over the limit");
	assert_true(now() - start < SECONDS_MAX);
	gw_free(&w);
}

static void many_keys(struct gw *w, uint32_t count, const char *format)
{
	char key[64];

	gw_head(w, 3, 0, count);
	for (uint32_t i = 0; i < count; i++) {
		snprintf(key, sizeof(key), format, i);
		gw_kv_bool(w, key, true);
	}
}

static void a_million_keys_are_refused_at_once(void **state)
{
	struct gw w = {0};
	double start;

	(void)state;
	many_keys(&w, 1000000, "k%u");
	start = now();
	must_refuse(&w, MFS_E_LIMIT, "key-values are over the limit");
	assert_true(now() - start < SECONDS_MAX);
	gw_free(&w);
}

static void duplicates_among_many_keys_are_found_at_once(void **state)
{
	struct gw w = {0};
	mfs_import import;
	double start;

	(void)state;
	many_keys(&w, 65536, "the.same.beginning.of.every.key.%08u");
	start = now();
	must_import(&import, &w);
	assert_true(now() - start < SECONDS_MAX);
	mfs_import_free(&import);
	gw_free(&w);

	many_keys(&w, 65536, "the.same.key");
	start = now();
	must_refuse(&w, MFS_E_INVALID, "duplicate key 'the.same.key', first at offset 0x18");
	assert_true(now() - start < SECONDS_MAX);
	gw_free(&w);
}

static void keys_of_many_bytes_are_refused(void **state)
{
	static char key[65536];
	struct gw w = {0};

	(void)state;
	memset(key, 'k', sizeof(key) - 1);
	gw_head(&w, 3, 0, 100);
	for (int i = 0; i < 100; i++) {
		key[0] = (char)('0' + i / 10);
		key[1] = (char)('0' + i % 10);
		gw_kv_bool(&w, key, true);
	}
	must_refuse(&w, MFS_E_LIMIT, "the keys take more than 4 MiB");
	gw_free(&w);
}

static void a_key_of_65535_bytes_is_legal(void **state)
{
	struct gw w = {0};
	mfs_import import;

	(void)state;
	hc_key_length(&w, 65535, 65535);
	must_import(&import, &w);
	mfs_import_free(&import);
	gw_free(&w);
}

/* A source that is larger than memory: `head`, then zeros; counts what is read. */
struct sparse {
	mfs_source source;
	struct gw head;
	uint64_t reads, bytes, largest;
	uint64_t fail_at; /* number of the read that fails, 0: none */
};

static int sparse_read_at(mfs_source *source, uint64_t offset, void *buffer, size_t length)
{
	struct sparse *s = (struct sparse *)source;

	s->reads++;
	s->bytes += length;
	s->largest = length > s->largest ? length : s->largest;
	if (offset > source->size || length > source->size - offset)
		return MFS_E_TRUNCATED;
	if (s->reads == s->fail_at) {
		errno = EIO;
		return MFS_E_IO;
	}
	memset(buffer, 0, length);
	if (offset < s->head.size) {
		size_t n = s->head.size - (size_t)offset;

		memcpy(buffer, s->head.bytes + offset, n < length ? n : length);
	}
	return 0;
}

static void sparse_init(struct sparse *s, uint64_t size)
{
	memset(s, 0, sizeof(*s));
	s->source = (mfs_source){.name = "sparse", .size = size, .read_at = sparse_read_at};
}

static void endless_string_arrays_stop_at_the_header_limit(void **state)
{
	struct sparse s;
	mfs_import import;
	mfs_problem why;
	double start = now();

	(void)state;
	sparse_init(&s, UINT64_C(1) << 42);
	hc_key_start(&s.head);
	gw_kv_array(&s.head, "key", GW_STRING, UINT64_C(1) << 38);
	assert_int_equal(mfs_import_source(&import, &s.source, &why), MFS_E_LIMIT);
	assert_non_null(strstr(why.text, "larger than 256 MiB"));
	assert_true(s.largest <= 65536);
	assert_true(s.bytes <= 257u << 20);
	assert_true(now() - start < 5);
	gw_free(&s.head);
}

static void large_arrays_are_skipped_without_reading(void **state)
{
	struct sparse s;
	mfs_import import;
	mfs_problem why;

	(void)state;
	sparse_init(&s, 300u << 20);
	gw_head(&s.head, 3, 0, 1);
	gw_kv_array(&s.head, "key", GW_FLOAT32, 50u << 20);
	assert_int_equal(mfs_import_source(&import, &s.source, &why), 0);
	assert_true(s.bytes <= 65536);
	mfs_import_free(&import);
	gw_free(&s.head);
}

static void tensors_of_terabytes_cost_no_reading(void **state)
{
	struct sparse s;
	mfs_import import;
	mfs_problem why;

	(void)state;
	sparse_init(&s, (UINT64_C(1) << 42) + 4096);
	gw_head(&s.head, 3, 1, 0);
	gw_tensor(&s.head, "t", 2, (uint64_t[]){4096, UINT64_C(1) << 28}, HC_F32, 0);
	assert_int_equal(mfs_import_source(&import, &s.source, &why), 0);
	assert_int_equal(import.tensors[0].size, UINT64_C(1) << 42);
	assert_true(s.reads <= 1);
	mfs_import_free(&import);
	gw_free(&s.head);
}

/* A header of several windows, so that strings and numbers lie across their ends. */
static void long_header(struct gw *w)
{
	char text[64];

	gw_head(w, 3, 2000, 2);
	gw_kv_array(w, "tokens", GW_STRING, 20000);
	for (int i = 0; i < 20000; i++) {
		snprintf(text, sizeof(text), "%.*s", i % 61,
			 "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklm");
		gw_string(w, text);
	}
	gw_kv_u32(w, "general.alignment", 64);
	for (uint64_t i = 0; i < 2000; i++) {
		snprintf(text, sizeof(text), "tensor.%*d", (int)(i % 50 + 6), (int)i);
		gw_tensor(w, text, 1, (uint64_t[]){i + 1}, HC_I8, 2048 * i);
	}
	gw_align(w, 64, 0);
}

static void headers_of_many_windows_are_read_once_in_pieces(void **state)
{
	struct sparse s;
	mfs_import import;
	mfs_problem why;

	(void)state;
	sparse_init(&s, 0);
	long_header(&s.head);
	s.source.size = s.head.size + 2048 * 2000;
	assert_int_equal(mfs_import_source(&import, &s.source, &why), 0);
	assert_int_equal(import.tensor_count, 2000);
	for (uint32_t i = 0; i < 2000; i++) {
		assert_int_equal(import.tensors[i].size, i + 1);
		assert_int_equal(import.tensors[i].offset, s.head.size + 2048 * (uint64_t)i);
		assert_int_equal(atoi(import.tensors[i].name + 7), i);
	}
	/* Windows overlap by what would not fit any more, which is little. */
	assert_true(s.largest <= 65536);
	assert_true(s.bytes < s.head.size + 2 * 65536 + s.reads * 128);
	mfs_import_free(&import);
	gw_free(&s.head);
}

static void every_failing_read_is_reported(void **state)
{
	struct sparse s;
	mfs_import import;
	mfs_problem why;
	uint64_t n = 0;
	int error;

	(void)state;
	sparse_init(&s, 0);
	long_header(&s.head);
	s.source.size = s.head.size + 2048 * 2000;
	do {
		s.reads = 0;
		s.fail_at = ++n;
		error = mfs_import_source(&import, &s.source, &why);
		if (error) {
			assert_int_equal(error, MFS_E_IO);
			assert_non_null(strstr(why.text, "cannot be read: Input/output error"));
			assert_null(import.memory);
		}
	} while (error);
	assert_true(n > 3);
	mfs_import_free(&import);
	gw_free(&s.head);
}

/* ---- sources ---- */

static char directory[] = "/tmp/test_import_gguf.XXXXXX";

static int make_directory(void **state)
{
	(void)state;
	return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state)
{
	(void)state;
	return rmdir(directory);
}

static void put_file(char *path, size_t size, const char *name, const struct gw *w)
{
	FILE *f;

	snprintf(path, size, "%s/%s", directory, name);
	f = fopen(path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(w->bytes, 1, w->size, f), w->size);
	assert_int_equal(fclose(f), 0);
}

static void a_file_imports_as_its_bytes_do(void **state)
{
	struct gw w = build("good-v3");
	char path[128];
	mfs_source source;
	mfs_import import;
	mfs_problem why;

	(void)state;
	put_file(path, sizeof(path), "model.gguf", &w);
	assert_int_equal(mfs_source_open(&source, path, &why), 0);
	assert_int_equal(source.size, w.size);
	assert_int_equal(mfs_import_source(&import, &source, &why), 0);
	assert_int_equal(import.tensor_count, 2);
	assert_int_equal(import.tensors[0].offset, w.size - 80);
	mfs_import_free(&import);
	mfs_source_close(&source);
	unlink(path);
	gw_free(&w);
}

static void a_file_that_shrinks_is_noticed(void **state)
{
	struct gw w = build("good-v3");
	char path[128];
	mfs_source source;
	mfs_import import;
	mfs_problem why;

	(void)state;
	put_file(path, sizeof(path), "model.gguf", &w);
	assert_int_equal(mfs_source_open(&source, path, &why), 0);
	assert_int_equal(truncate(path, 20), 0);
	assert_int_equal(mfs_import_source(&import, &source, &why), MFS_E_TRUNCATED);
	assert_non_null(strstr(why.text, "became shorter"));
	mfs_source_close(&source);
	unlink(path);
	gw_free(&w);
}

static void what_is_no_file_is_not_opened(void **state)
{
	char path[128];
	mfs_source source;
	mfs_problem why;

	(void)state;
	assert_int_equal(mfs_source_open(&source, directory, &why), MFS_E_ARGUMENT);
	assert_non_null(strstr(why.text, "neither a regular file nor a block device"));
	assert_int_equal(why.offset, UINT64_MAX);
	snprintf(path, sizeof(path), "%s/missing", directory);
	assert_int_equal(mfs_source_open(&source, path, &why), MFS_E_NOT_FOUND);
	assert_non_null(strstr(why.text, "missing: No such file"));
	snprintf(path, sizeof(path), "%s/fifo", directory);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(mfs_source_open(&source, path, &why), MFS_E_ARGUMENT);
	assert_int_equal(mfs_source_open(&source, path, NULL), MFS_E_ARGUMENT);
	unlink(path);
}

static void reads_past_the_end_of_a_source_fail(void **state)
{
	uint8_t byte;
	mfs_source source;

	(void)state;
	mfs_source_memory(&source, "m", (const uint8_t *)"abc", 3);
	assert_int_equal(source.read_at(&source, 2, &byte, 1), 0);
	assert_int_equal(byte, 'c');
	assert_int_equal(source.read_at(&source, 3, &byte, 0), 0);
	assert_int_equal(source.read_at(&source, 3, &byte, 1), MFS_E_TRUNCATED);
	assert_int_equal(source.read_at(&source, 4, &byte, 0), MFS_E_TRUNCATED);
	assert_int_equal(source.read_at(&source, UINT64_MAX, &byte, 1), MFS_E_TRUNCATED);
	mfs_source_close(&source);
}

/* ---- memory ---- */

static void imports_leave_no_memory_behind(void **state)
{
	struct gw good = {0}, bad = build("bad-65-unknown-types");
	struct mallinfo2 before = {0}, after;
	mfs_import import;
	mfs_problem why;

	(void)state;
	many_tensors(&good, 1000);
	for (int i = 0; i < 50; i++) {
		if (i == 1)
			before = mallinfo2();
		must_import(&import, &good);
		mfs_import_free(&import);
		assert_int_equal(import_bytes(&import, bad.bytes, bad.size, &why), MFS_E_LIMIT);
	}
	after = mallinfo2();
	assert_int_equal(before.uordblks, after.uordblks);
	assert_int_equal(before.hblkhd, after.hblkhd);
	gw_free(&good);
	gw_free(&bad);
}

/* ---- real files ---- */

static const struct {
	const char *path;
	uint32_t tensors;
} shared[] = {
    {"stories260K/stories260K-f32.gguf", 48},  {"stories260K/stories260K-F16.gguf", 48},
    {"stories260K/stories260K-BF16.gguf", 48}, {"stories260K/stories260K-lora-r4-f32.gguf", 20},
    {"random-s58/rand-s58-Q4_K_M.gguf", 75},   {"random-s58/rand-s58-lora-r8-f32.gguf", 32},
    {"silero/silero-types.gguf", 17},
};

static const char *shared_directory(void)
{
	static char path[4096];
	const char *source = getenv("MFS_SOURCE");

	if (getenv("MFS_SHARED_DATA"))
		return getenv("MFS_SHARED_DATA");
	snprintf(path, sizeof(path), "%s/../shared/data", source ? source : ".");
	return path;
}

static void real_models_are_covered_by_their_tensors(void **state)
{
	char path[5000];
	mfs_source source;
	mfs_import import;
	mfs_problem why;

	(void)state;
	if (access(shared_directory(), R_OK)) {
		print_message("no shared data at %s: skipped\n", shared_directory());
		skip();
	}
	for (size_t i = 0; i < sizeof(shared) / sizeof(shared[0]); i++) {
		const mfs_import_tensor *last;

		snprintf(path, sizeof(path), "%s/%s", shared_directory(), shared[i].path);
		assert_int_equal(mfs_source_open(&source, path, &why), 0);
		if (mfs_import_source(&import, &source, &why))
			fail_msg("%s", why.text);
		assert_int_equal(import.tensor_count, shared[i].tensors);
		assert_sound(&import, source.size);
		last = &import.tensors[import.tensor_count - 1];
		assert_true(source.size - last->offset - last->size < 32);
		for (uint32_t k = 0; k + 1 < import.tensor_count; k++)
			assert_true(import.tensors[k + 1].offset - import.tensors[k].offset -
					import.tensors[k].size <
				    32);
		mfs_import_free(&import);
		mfs_source_close(&source);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_hostile_file_is_refused_with_its_reason),
	    cmocka_unit_test(refusals_need_no_problem_to_fill),
	    cmocka_unit_test(every_odd_legal_file_is_imported),
	    cmocka_unit_test(every_truncation_is_refused),
	    cmocka_unit_test(every_flipped_bit_is_survived),
	    cmocka_unit_test(tensors_carry_name_type_shape_and_place),
	    cmocka_unit_test(tensors_are_sorted_by_offset),
	    cmocka_unit_test(data_starts_at_the_alignment_asked_for),
	    cmocka_unit_test(big_endian_tensors_are_listed_with_opaque_layouts),
	    cmocka_unit_test(unknown_types_reach_to_their_neighbour),
	    cmocka_unit_test(tensors_of_one_unknown_type_share_a_layout),
	    cmocka_unit_test(slices_follow_the_outermost_of_three_dimensions),
	    cmocka_unit_test(empty_tensors_are_checked_and_left_out),
	    cmocka_unit_test(every_known_type_gets_its_own_layout_and_size),
	    cmocka_unit_test(what_is_not_gguf_is_opaque),
	    cmocka_unit_test(messages_of_long_paths_keep_their_reason),
	    cmocka_unit_test(ten_thousand_tensors_take_little_time),
	    cmocka_unit_test(tensors_up_to_the_limit_are_imported_and_one_more_refused),
	    cmocka_unit_test(a_million_keys_are_refused_at_once),
	    cmocka_unit_test(duplicates_among_many_keys_are_found_at_once),
	    cmocka_unit_test(keys_of_many_bytes_are_refused),
	    cmocka_unit_test(a_key_of_65535_bytes_is_legal),
	    cmocka_unit_test(endless_string_arrays_stop_at_the_header_limit),
	    cmocka_unit_test(large_arrays_are_skipped_without_reading),
	    cmocka_unit_test(tensors_of_terabytes_cost_no_reading),
	    cmocka_unit_test(headers_of_many_windows_are_read_once_in_pieces),
	    cmocka_unit_test(every_failing_read_is_reported),
	    cmocka_unit_test(a_file_imports_as_its_bytes_do),
	    cmocka_unit_test(a_file_that_shrinks_is_noticed),
	    cmocka_unit_test(what_is_no_file_is_not_opened),
	    cmocka_unit_test(reads_past_the_end_of_a_source_fail),
	    cmocka_unit_test(imports_leave_no_memory_behind),
	    cmocka_unit_test(real_models_are_covered_by_their_tensors),
	};

	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
