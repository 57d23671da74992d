/* The safetensors importer, over files that are built in memory. */
#include <errno.h>

#include "../gen/hostile_safetensors_cases.h"

#define IMPORTER	mfs_import_safetensors
#define IMPORTER_FORMAT MFS_FORMAT_SAFETENSORS
#define SOURCE_NAME	"m.safetensors"
#include "importing.h"
#include "layout_ggml.h"
#include "layout_safetensors.h"

/* Imports a header with `data` bytes behind it. */
static void import_header(mfs_import *out, const char *header, uint64_t data)
{
	struct gw w = {0};

	hs_file(&w, header, strlen(header), data);
	must_import(out, &w);
	gw_free(&w);
}

/* ---- hostile files ---- */

static void under_another_name_broken_files_are_opaque(void **state)
{
	(void)state;
	for (size_t i = 0; i < HOSTILE_CASES; i++) {
		const struct hostile_case *c = &hostile_cases[i];
		struct gw w = {0};
		mfs_import import;
		mfs_problem why;

		hostile_build(&w, c);
		assert_int_equal(import_named(&import, "model.bin", w.bytes, w.size, &why), 0);
		assert_int_equal(import.format,
				 c->verdict == GOOD ? MFS_FORMAT_SAFETENSORS : MFS_FORMAT_OPAQUE);
		assert_int_equal(why.error, 0);
		assert_int_equal(why.text[0], 0);
		mfs_import_free(&import);
		gw_free(&w);
	}
}

static void every_truncation_is_refused(void **state)
{
	struct gw w = build("good-empty-tensors");

	(void)state;
	for (size_t size = 0; size < w.size; size++) {
		/* In memory of its own, so that a sanitizer sees reads past the end. */
		uint8_t *cut = malloc(size + !size);
		mfs_import import;
		mfs_problem why;

		memcpy(cut, w.bytes, size);
		assert_int_equal(import_bytes(&import, cut, size, &why), MFS_E_TRUNCATED);
		free(cut);
	}
	gw_free(&w);
}

static void every_flipped_bit_is_survived(void **state)
{
	static const char *const names[] = {"good-empty-tensors", "good-unknown-field",
					    "good-metadata-alone", "good-unknown-dtype"};

	(void)state;
	for (size_t n = 0; n < sizeof(names) / sizeof(names[0]); n++) {
		struct gw w = build(names[n]);

		for (size_t bit = 0; bit < 8 * w.size; bit++) {
			mfs_import import;
			mfs_problem why;

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
	static const char header[] =
	    "{" HS("w", "BF16", "3,5", "16", "46") "," HS("b", "F32", "4", "0", "16") "}";
	uint64_t data = 8 + sizeof(header) - 1;
	mfs_import import;

	(void)state;
	import_header(&import, header, 46);
	assert_int_equal(import.tensor_count, 2);
	assert_string_equal(import.tensors[0].name, "b");
	assert_ptr_equal(import.tensors[0].layout, mfs_layout_safetensors("F32", false));
	assert_int_equal(import.tensors[0].offset, data);
	assert_int_equal(import.tensors[0].size, 16);
	assert_int_equal(import.tensors[0].row_bytes, 16);
	assert_string_equal(import.tensors[1].name, "w");
	assert_type(&import.tensors[1], "BF16");
	/* In the order of the file: the fastest last. */
	assert_int_equal(import.tensors[1].dim_count, 2);
	assert_int_equal(import.tensors[1].dims[0], 3);
	assert_int_equal(import.tensors[1].dims[1], 5);
	assert_int_equal(import.tensors[1].row_bytes, 10);
	assert_int_equal(import.tensors[1].slice_bytes, 30);
	assert_int_equal(import.tensors[1].offset, data + 16);
	mfs_import_free(&import);
}

static void names_of_all_tensors_are_kept_in_order(void **state)
{
	struct gw w = build("good-empty-tensors");
	mfs_import import;

	(void)state;
	must_import(&import, &w);
	assert_int_equal(import.name_count, 5);
	for (uint32_t i = 0; i < 5; i++) {
		const char name[2] = {(char)('a' + i), 0};

		assert_string_equal(import.names[i].text, name);
		assert_int_equal(w.bytes[import.names[i].offset], '"');
		assert_int_equal(w.bytes[import.names[i].offset + 1], name[0]);
	}
	mfs_import_free(&import);
	gw_free(&w);
}

static void slices_follow_the_outermost_of_three_dimensions(void **state)
{
	mfs_import import;

	(void)state;
	import_header(&import,
		      "{" HS("experts", "F32", "3,64,64", "0",
			     "49152") "," HS("kernel", "F32", "64,3,3", "49152", "51456") "}",
		      51456);
	assert_int_equal(import.tensors[0].row_bytes, 256);
	assert_int_equal(import.tensors[0].slice_bytes, 16384);
	assert_int_equal(import.tensors[1].row_bytes, 12);
	assert_int_equal(import.tensors[1].slice_bytes, 2304);
	mfs_import_free(&import);
}

static void rows_of_broken_bytes_are_no_rows(void **state)
{
	struct gw w = build("good-sub-byte");
	mfs_import import;

	(void)state;
	must_import(&import, &w);
	assert_type(&import.tensors[0], "F4");
	assert_int_equal(import.tensors[0].size, 3);
	assert_int_equal(import.tensors[0].row_bytes, 1);
	assert_type(&import.tensors[1], "F6_E3M2");
	assert_int_equal(import.tensors[1].size, 6);
	assert_int_equal(import.tensors[1].row_bytes, 3);
	mfs_import_free(&import);
	gw_free(&w);
}

static void unknown_dtypes_are_opaque_by_their_name(void **state)
{
	struct gw w = build("good-unknown-dtype");
	mfs_import import;

	(void)state;
	must_import(&import, &w);
	assert_type(&import.tensors[0], "Q7_X");
	assert_int_equal(import.tensors[0].layout->block_bytes, 1);
	assert_int_equal(import.tensors[0].size, 13);
	assert_int_equal(import.tensors[0].row_bytes, 1);
	assert_ptr_equal(import.tensors[0].layout, import.tensors[1].layout);
	mfs_import_free(&import);
	gw_free(&w);
}

static void quantization_constants_are_of_class_constants(void **state)
{
	static const struct {
		const char *name;
		bool constants;
	} cases[] = {
	    {"x.weight", false},
	    {"x.weight.absmax", true},
	    {"x.weight.nested_absmax", true},
	    {"x.weight.quant_map", true},
	    {"x.weight.nested_quant_map", true},
	    {"x.weight.quant_state.bitsandbytes__nf4", true},
	    {"x.SCB", true},
	    {"absmax", false},
	    {"x.absmax.weight", false},
	    {"x.quant_states", false},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		unsigned slot = cases[i].constants ? 1 : 0;
		char header[200];
		mfs_import import;

		snprintf(header, sizeof(header), "{\"%s\":" HS_FIELDS("F32", "4", "0", "16") "}",
			 cases[i].name);
		import_header(&import, header, 16);
		assert_type(&import.tensors[0], "F32");
		if (import.tensors[0].layout->slot_bytes[slot] != 4)
			fail_msg("%s is of the wrong class", cases[i].name);
		assert_int_equal(import.tensors[0].layout->slot_streams[1 - slot], 0);
		mfs_import_free(&import);
	}
}

static void every_dtype_has_the_size_of_its_name(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < mfs_layout_safetensors_count(); i++)
		for (int constants = 0; constants < 2; constants++) {
			mfs_layout layout = *mfs_layout_safetensors_row(i, constants);
			const char *digits = layout.name + strcspn(layout.name, "0123456789");
			unsigned long bits = *digits ? strtoul(digits, NULL, 10) : 8;

			assert_int_equal(layout.block_bytes * 8, bits * layout.block_weights);
			assert_int_equal(mfs_layout_finish(&layout), 0);
			assert_true(!constants || !layout.slot_streams[0]);
			assert_ptr_equal(mfs_layout_safetensors(layout.name, constants),
					 mfs_layout_safetensors_row(i, constants));
		}
	assert_null(mfs_layout_safetensors("F3", false));
	assert_null(mfs_layout_safetensors_row(mfs_layout_safetensors_count(), false));
}

static void types_of_ggml_keep_its_layout(void **state)
{
	static const char *const names[] = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8"};

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		const mfs_layout *layout = mfs_layout_safetensors(names[i], false);

		assert_string_equal(layout->name, names[i]);
		assert_memory_equal(layout, mfs_layout_ggml(layout->type_id), sizeof(*layout));
	}
}

static void what_is_not_safetensors_is_opaque(void **state)
{
	static const char *const texts[] = {"",
					    "{}",
					    "{\"a\": 1}\n",
					    "a text of some length",
					    "\x02\0\0\0\0\0\0\0[]",
					    "\x03\0\0\0\0\0\0\0{}"};

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		size_t size = i < 4 ? strlen(texts[i]) : 10;
		mfs_import import;
		mfs_problem why;

		assert_int_equal(import_named(&import, "config.json", texts[i], size, &why), 0);
		assert_int_equal(import.format, MFS_FORMAT_OPAQUE);
		mfs_import_free(&import);
	}
}

/* The medium fails from this offset on. */
static uint64_t fails_from;

static int failing_read_at(mfs_source *source, uint64_t offset, void *buffer, size_t length)
{
	if (offset + length > fails_from) {
		errno = EIO;
		return MFS_E_IO;
	}
	memcpy(buffer, source->u.memory + offset, length);
	return 0;
}

static void a_failing_medium_is_no_verdict(void **state)
{
	static const char *const names[] = {"m.safetensors", "model.bin"};
	struct gw w = build("good-one");

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		mfs_source source;
		mfs_import import;
		mfs_problem why = {0};

		mfs_source_memory(&source, names[i % 2], w.bytes, w.size);
		source.read_at = failing_read_at;
		fails_from = i < 2 ? 0 : 20;
		assert_int_equal(mfs_import_safetensors(&import, &source, &why), MFS_E_IO);
		assert_non_null(strstr(why.text, "cannot be read"));
		assert_null(import.memory);
	}
	gw_free(&w);
}

/* ---- large headers ---- */

static void many_tensors_take_little_time_and_memory(void **state)
{
	struct hostile_case c = {.data = MFS_IMPORT_TENSORS_MAX};
	struct gw w = {0};
	mfs_import import;
	double start;

	(void)state;
	hs_many_tensors(&w, &c);
	start = now();
	must_import(&import, &w);
	assert_true(now() - start < SECONDS_MAX);
	assert_int_equal(import.name_count, MFS_IMPORT_TENSORS_MAX);
	mfs_import_free(&import);
	gw_free(&w);
}

/* Entries that cross the edges of the importer's window, at every place. */
static void entries_may_lie_anywhere(void **state)
{
	static const char entry[] = HS("tensor", "F32", "2,2", "0", "16");

	(void)state;
	for (size_t spaces = (256u << 10) - sizeof(entry) - 2; spaces < 256u << 10; spaces++) {
		struct gw w = {0};
		mfs_import import;

		gw_u64(&w, 0);
		gw_bytes(&w, "{", 1);
		gw_fill(&w, ' ', spaces);
		gw_bytes(&w, entry, sizeof(entry) - 1);
		gw_bytes(&w, "}", 1);
		hs_set_length(&w);
		gw_fill(&w, 1, 16);
		must_import(&import, &w);
		assert_int_equal(import.tensor_count, 1);
		mfs_import_free(&import);
		gw_free(&w);
	}
}

static void metadata_and_empty_tensors_are_remembered(void **state)
{
	static const char header[] =
	    "{\"a\":{\"dtype\":\"F16\",\"shape\":[2,0],\"data_offsets\":[0,0]},"
	    "\"__metadata__\": \n{\"k\":\"}\\u0000{\"} ,"
	    "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}";
	mfs_import import;

	(void)state;
	import_header(&import, header, 4);
	assert_int_equal(import.tensor_count, 1);
	assert_int_equal(import.empty_count, 1);
	assert_string_equal(import.empty[0].name, "a");
	assert_int_equal(import.empty[0].dims[1], 0);
	assert_type(&import.empty[0], "F16");
	assert_int_equal(import.metadata, 8 + (strstr(header, "{\"k\"") - header));
	assert_int_equal(import.metadata_length, strlen("{\"k\":\"}\\u0000{\"}"));
	mfs_import_free(&import);
	import_header(&import, "{\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
		      4);
	assert_int_equal(import.metadata_length, 0);
	assert_int_equal(import.empty_count, 0);
	mfs_import_free(&import);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(metadata_and_empty_tensors_are_remembered),
	    cmocka_unit_test(every_hostile_file_is_refused_with_its_reason),
	    cmocka_unit_test(refusals_need_no_problem_to_fill),
	    cmocka_unit_test(every_odd_legal_file_is_imported),
	    cmocka_unit_test(under_another_name_broken_files_are_opaque),
	    cmocka_unit_test(every_truncation_is_refused),
	    cmocka_unit_test(every_flipped_bit_is_survived),
	    cmocka_unit_test(tensors_carry_name_type_shape_and_place),
	    cmocka_unit_test(names_of_all_tensors_are_kept_in_order),
	    cmocka_unit_test(slices_follow_the_outermost_of_three_dimensions),
	    cmocka_unit_test(rows_of_broken_bytes_are_no_rows),
	    cmocka_unit_test(unknown_dtypes_are_opaque_by_their_name),
	    cmocka_unit_test(quantization_constants_are_of_class_constants),
	    cmocka_unit_test(every_dtype_has_the_size_of_its_name),
	    cmocka_unit_test(types_of_ggml_keep_its_layout),
	    cmocka_unit_test(what_is_not_safetensors_is_opaque),
	    cmocka_unit_test(a_failing_medium_is_no_verdict),
	    cmocka_unit_test(many_tensors_take_little_time_and_memory),
	    cmocka_unit_test(entries_may_lie_anywhere),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
