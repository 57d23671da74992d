/* bitsandbytes' 4-bit weights: what is found in a safetensors file, and what is not
 * taken for them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bnb.h"
#include "mfs_endian.h"
#include "nf4.h"

#define WEIGHTS 200 /* 8 x 25: four blocks, the last one short */

/* A file with one matrix "m.w". */
struct model {
	const char *state;
	const char *absmax_type;
	unsigned absmax_bytes, nested_bytes, codes_bytes;
	bool nested; /* has its tensors */
	float map_error;
	const char *mark; /* how the description is called */
};

static const char nf4_state[] =
    "{\"quant_type\":\"nf4\",\"blocksize\":64,\"dtype\":\"float16\",\"shape\":[8,25],"
    "\"nested_blocksize\":256,\"nested_dtype\":\"float32\",\"nested_offset\":0.25}";

static const struct model good = {.state = nf4_state,
				  .absmax_type = "U8",
				  .absmax_bytes = 4,
				  .nested_bytes = 4,
				  .codes_bytes = WEIGHTS / 2,
				  .nested = true,
				  .mark = "bitsandbytes__nf4"};

struct file {
	char header[4096], data[4096];
	size_t header_size, data_size;
	uint8_t *bytes;
};

static void add(struct file *f, const char *name, const char *dtype, unsigned width,
		const void *bytes, size_t size)
{
	f->header_size += (size_t)snprintf(
	    f->header + f->header_size, sizeof(f->header) - f->header_size,
	    "%c\"%s\":{\"dtype\":\"%s\",\"shape\":[%zu],\"data_offsets\":[%zu,%zu]}",
	    f->header_size ? ',' : '{', name, dtype, size / width, f->data_size,
	    f->data_size + size);
	if (bytes)
		memcpy(f->data + f->data_size, bytes, size);
	f->data_size += size;
}

static void add_map(struct file *f, float error)
{
	uint8_t map[64];
	mfs_nf4 nf4;

	mfs_nf4_init(&nf4);
	nf4.map[3] += error;
	for (int i = 0; i < 16; i++) {
		uint32_t bits;

		memcpy(&bits, &nf4.map[i], 4);
		store_le32(map + 4 * i, bits);
	}
	add(f, "m.w.quant_map", "F32", 4, map, sizeof(map));
}

static size_t file_size(const struct file *f)
{
	return 8 + f->header_size + f->data_size;
}

static void finish(struct file *f)
{
	f->header[f->header_size++] = '}';
	f->bytes = malloc(file_size(f));
	assert_non_null(f->bytes);
	store_le64(f->bytes, f->header_size);
	memcpy(f->bytes + 8, f->header, f->header_size);
	memcpy(f->bytes + 8 + f->header_size, f->data, f->data_size);
}

static void make(struct file *f, const struct model *m)
{
	char name[64];

	memset(f, 0, sizeof(*f));
	add(f, "norm", "F32", 4, NULL, 16);
	if (m->codes_bytes)
		add(f, "m.w", "U8", 1, NULL, m->codes_bytes);
	add(f, "m.w.absmax", m->absmax_type, strcmp(m->absmax_type, "U8") ? 4 : 1, NULL,
	    m->absmax_bytes);
	if (m->nested) {
		add(f, "m.w.nested_absmax", "F32", 4, NULL, m->nested_bytes);
		add(f, "m.w.nested_quant_map", "F32", 4, NULL, 1024);
	}
	add_map(f, m->map_error);
	snprintf(name, sizeof(name), "m.w.quant_state.%s", m->mark);
	add(f, name, "U8", 1, m->state, strlen(m->state));
	finish(f);
}

static void make_without_codes(struct file *f)
{
	struct model m = good;

	m.codes_bytes = 0;
	make(f, &m);
}

static int open_model(const struct model *m, mfs_import *import, mfs_bnb **out, struct file *f,
		      mfs_problem *why)
{
	mfs_source source;

	make(f, m);
	mfs_source_memory(&source, "m.safetensors", f->bytes, file_size(f));
	assert_int_equal(mfs_import_source(import, &source, why), 0);
	return mfs_bnb_open(out, &(mfs_bnb_file){import, &source}, 1, why);
}

static uint32_t number_of(const mfs_import *import, const char *name)
{
	for (uint32_t i = 0; i < import->tensor_count; i++)
		if (!strcmp(import->tensors[i].name, name))
			return i;
	fail_msg("no tensor %s", name);
	return 0;
}

static void must_refuse(const struct model *m, int error, const char *text)
{
	mfs_problem why = {0};
	mfs_import import;
	struct file f;
	mfs_bnb *bnb;

	assert_int_equal(open_model(m, &import, &bnb, &f, &why), error);
	assert_null(bnb);
	if (!strstr(why.text, text))
		fail_msg("'%s' does not say '%s'", why.text, text);
	mfs_import_free(&import);
	free(f.bytes);
}

static void matrices_are_found_with_shape_type_and_constants(void **state)
{
	mfs_problem why = {0};
	mfs_import import;
	struct file f;
	mfs_bnb *bnb;
	const mfs_bnb_matrix *m;

	(void)state;
	assert_int_equal(open_model(&good, &import, &bnb, &f, &why), 0);
	m = mfs_bnb_find(bnb, number_of(&import, "m.w"));
	assert_non_null(m);
	assert_int_equal(m->absmax.tensor, number_of(&import, "m.w.absmax"));
	assert_int_equal(m->nested.tensor, number_of(&import, "m.w.nested_absmax"));
	assert_int_equal(m->nested_map.tensor, number_of(&import, "m.w.nested_quant_map"));
	assert_true(m->offset == 0.25f);
	assert_string_equal(m->was.name, "m.w");
	assert_int_equal(m->was.dim_count, 2);
	assert_int_equal(m->was.dims[0], 8);
	assert_int_equal(m->was.dims[1], 25);
	assert_memory_equal(m->was.layout->name, "F16", 3);
	assert_int_equal(m->was.size, 2 * WEIGHTS);
	assert_null(mfs_bnb_find(bnb, number_of(&import, "norm")));
	assert_false(mfs_bnb_is_helper(bnb, number_of(&import, "norm")));
	assert_false(mfs_bnb_is_helper(bnb, m->codes));
	assert_true(mfs_bnb_is_helper(bnb, number_of(&import, "m.w.quant_map")));
	assert_true(
	    mfs_bnb_is_helper(bnb, number_of(&import, "m.w.quant_state.bitsandbytes__nf4")));
	mfs_bnb_free(bnb);
	mfs_import_free(&import);
	free(f.bytes);
}

static void scales_need_no_second_quantization(void **state)
{
	struct model m = good;
	mfs_problem why = {0};
	mfs_import import;
	struct file f;
	mfs_bnb *bnb;

	(void)state;
	m.state = "{\"quant_type\":\"nf4\",\"blocksize\":64,\"dtype\":\"bfloat16\","
		  "\"shape\":[8,25]}";
	m.absmax_type = "F32";
	m.absmax_bytes = 16;
	m.nested = false;
	assert_int_equal(open_model(&m, &import, &bnb, &f, &why), 0);
	assert_int_equal(mfs_bnb_find(bnb, number_of(&import, "m.w"))->nested.tensor, UINT32_MAX);
	mfs_bnb_free(bnb);
	mfs_import_free(&import);
	free(f.bytes);
}

static void a_file_without_descriptions_has_no_matrices(void **state)
{
	struct model m = good;
	mfs_problem why = {0};
	mfs_import import;
	struct file f;
	mfs_bnb *bnb;

	(void)state;
	m.mark = "other";
	assert_int_equal(open_model(&m, &import, &bnb, &f, &why), 0);
	assert_null(bnb);
	assert_null(mfs_bnb_find(bnb, 0));
	assert_false(mfs_bnb_is_helper(bnb, 0));
	mfs_import_free(&import);
	free(f.bytes);
}

static void tensors_of_a_matrix_may_be_in_several_files(void **state)
{
	static struct file first, second;
	mfs_problem why = {0};
	mfs_import imports[2];
	mfs_source sources[2];
	mfs_bnb_file files[4] = {0};
	const mfs_bnb_matrix *m;
	mfs_bnb *bnb[4];

	(void)state;
	make_without_codes(&second);
	memset(&first, 0, sizeof(first));
	add(&first, "m.w", "U8", 1, NULL, WEIGHTS / 2);
	finish(&first);
	mfs_source_memory(&sources[0], "a.safetensors", first.bytes, file_size(&first));
	mfs_source_memory(&sources[1], "b.safetensors", second.bytes, file_size(&second));
	for (int i = 0; i < 2; i++) {
		assert_int_equal(mfs_import_source(&imports[i], &sources[i], &why), 0);
		files[2 * i + 1] = (mfs_bnb_file){&imports[i], &sources[i]}; /* two are missing */
	}
	assert_int_equal(mfs_bnb_open(bnb, files, 4, &why), 0);
	assert_null(bnb[0]);
	assert_null(bnb[2]);
	m = mfs_bnb_find(bnb[1], 0);
	assert_non_null(m);
	assert_int_equal(m->absmax.file, 3);
	assert_int_equal(m->absmax.tensor, number_of(&imports[1], "m.w.absmax"));
	assert_int_equal(m->nested_map.tensor, number_of(&imports[1], "m.w.nested_quant_map"));
	assert_true(mfs_bnb_is_helper(bnb[3], m->absmax.tensor));
	assert_false(mfs_bnb_is_helper(bnb[1], 0));
	mfs_bnb_free(bnb[1]);
	mfs_bnb_free(bnb[3]);
	files[1].import = NULL;
	assert_int_equal(mfs_bnb_open(bnb, files, 4, &why), MFS_E_INVALID);
	assert_non_null(strstr(why.text, "belongs to no codes"));
	assert_null(bnb[3]);
	for (int i = 0; i < 2; i++)
		mfs_import_free(&imports[i]);
	free(first.bytes);
	free(second.bytes);
}

/* The good description with one piece of text replaced. */
static void must_refuse_state(const char *from, const char *to, int error, const char *text)
{
	const char *at = strstr(nf4_state, from);
	struct model m = good;
	char changed[512];

	assert_non_null(at);
	snprintf(changed, sizeof(changed), "%.*s%s%s", (int)(at - nf4_state), nf4_state, to,
		 at + strlen(from));
	m.state = changed;
	must_refuse(&m, error, text);
}

static void what_cannot_be_decoded_is_refused_by_name(void **state)
{
	(void)state;
	must_refuse_state("\"nf4\"", "\"fp4\"", MFS_E_UNSUPPORTED, "of type 'fp4'");
	must_refuse_state("\"blocksize\":64", "\"blocksize\":128", MFS_E_UNSUPPORTED, "blocks of");
	must_refuse_state(":256", ":128", MFS_E_UNSUPPORTED, "nested ones of");
	must_refuse_state("\"float32\"", "\"float16\"", MFS_E_UNSUPPORTED, "nested ones of");
	must_refuse_state("\"float16\"", "\"int8\"", MFS_E_UNSUPPORTED, "a dtype");
}

static void wrong_descriptions_are_refused(void **state)
{
	(void)state;
	must_refuse_state("0.25", "1e300", MFS_E_INVALID, "nested_offset");
	must_refuse_state("0.25", "null", MFS_E_INVALID, "nested_offset");
	must_refuse_state("[8,25]", "[]", MFS_E_INVALID, "no shape");
	must_refuse_state("[8,25]", "[8,-25]", MFS_E_INVALID, "no shape");
	must_refuse_state("[8,25]", "[8,2.5]", MFS_E_INVALID, "no shape");
	must_refuse_state("[8,25]", "[4294967296,4294967296]", MFS_E_INVALID, "no shape");
	must_refuse_state("[8,25]", "[1,1,1,1,1,1,1,8,25]", MFS_E_INVALID, "no shape");
	must_refuse_state("[8,25]", "[8,26]", MFS_E_INVALID, "codes of 208 weights");
	must_refuse_state("{", "", MFS_E_INVALID, "no JSON object");
	must_refuse_state("{", "{\"shape\":1,", MFS_E_INVALID, "no JSON object");
}

static void constants_must_be_there_in_number_and_type(void **state)
{
	struct model m = good;

	(void)state;
	m.absmax_bytes = 5;
	must_refuse(&m, MFS_E_INVALID, "4 numbers of type U8");
	m = good;
	m.absmax_type = "F32";
	must_refuse(&m, MFS_E_INVALID, "4 numbers of type U8");
	m = good;
	m.nested_bytes = 8;
	must_refuse(&m, MFS_E_INVALID, "1 numbers of type F32");
	m = good;
	m.nested = false;
	must_refuse(&m, MFS_E_INVALID, "has no '.nested_absmax'");
	m = good;
	m.codes_bytes = WEIGHTS / 2 + 1;
	must_refuse(&m, MFS_E_INVALID, "codes of 200 weights");
	m = good;
	m.map_error = 1e-6f;
	must_refuse(&m, MFS_E_UNSUPPORTED, "not the map of NF4");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(matrices_are_found_with_shape_type_and_constants),
	    cmocka_unit_test(scales_need_no_second_quantization),
	    cmocka_unit_test(a_file_without_descriptions_has_no_matrices),
	    cmocka_unit_test(tensors_of_a_matrix_may_be_in_several_files),
	    cmocka_unit_test(what_cannot_be_decoded_is_refused_by_name),
	    cmocka_unit_test(wrong_descriptions_are_refused),
	    cmocka_unit_test(constants_must_be_there_in_number_and_type),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
