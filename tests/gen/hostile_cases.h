/*
 * GGUF files that an importer must refuse, each damaged in one way, and odd ones
 * that are legal. hostile_gguf writes them as files; test_import_gguf checks
 * what the importer says to each. Knows nothing of the library.
 */
#ifndef HOSTILE_CASES_H
#define HOSTILE_CASES_H

#include "gguf_writer.h"
#include "hostile_verdict.h"

struct hostile_case {
	const char *name;
	enum verdict verdict;
	const char *reason; /* a piece of the message; NULL for good files */
	uint32_t tensors;   /* of good files */
	void (*build)(struct gw *w, uint64_t a, uint64_t b);
	uint64_t a, b;
};

#define HC_F32	   0
#define HC_Q4_0	   2
#define HC_Q4_K	   12
#define HC_I8	   24
#define HC_F64	   28
#define HC_MADE_UP 1000
#define HC_2(n)	   (UINT64_C(1) << (n))

/* ---- heads ---- */

/* The first `a` bytes of an empty file. */
static void hc_cut_head(struct gw *w, uint64_t a, uint64_t b)
{
	gw_head(w, 3, b, 0);
	w->size = a;
}

static void hc_version(struct gw *w, uint64_t a, uint64_t b)
{
	gw_head(w, (uint32_t)a, 0, 0);
	gw_fill(w, 0, b);
}

static void hc_counts(struct gw *w, uint64_t tensors, uint64_t kvs)
{
	gw_head(w, 3, tensors, kvs);
	gw_fill(w, 0, 64);
}

/* ---- keys ---- */

static void hc_key_start(struct gw *w)
{
	gw_head(w, 3, 0, 1);
}

/* A key that says it has `a` bytes and has `b`. */
static void hc_key_length(struct gw *w, uint64_t a, uint64_t b)
{
	hc_key_start(w);
	gw_u64(w, a);
	gw_fill(w, 'k', b);
	gw_u32(w, GW_UINT8);
	gw_fill(w, 1, 8);
}

/* A key of three bytes, the middle one being `a`. */
static void hc_key_byte(struct gw *w, uint64_t a, uint64_t b)
{
	char key[3] = {'k', (char)a, 'y'};

	(void)b;
	hc_key_start(w);
	gw_blob(w, key, 3);
	gw_u32(w, GW_UINT8);
	gw_fill(w, 1, 16);
}

/* The key "same" twice, `a` others between. */
static void hc_key_twice(struct gw *w, uint64_t a, uint64_t b)
{
	char key[32];

	(void)b;
	gw_head(w, 3, 0, a + 2);
	gw_kv_u32(w, "same", 1);
	for (uint64_t i = 0; i < a; i++) {
		snprintf(key, sizeof(key), "other.%u", (unsigned)i);
		gw_kv_u32(w, key, 2);
	}
	gw_kv_u32(w, "same", 1);
}

/* ---- values ---- */

/* A value of type `a` with `b` bytes behind it. */
static void hc_value(struct gw *w, uint64_t a, uint64_t b)
{
	hc_key_start(w);
	gw_string(w, "key");
	gw_u32(w, (uint32_t)a);
	gw_fill(w, 0, b);
}

/* An array of `b` elements of type `a`, 64 bytes of data. */
static void hc_array(struct gw *w, uint64_t a, uint64_t b)
{
	hc_key_start(w);
	gw_kv_array(w, "key", (uint32_t)a, b);
	gw_fill(w, 0, 64);
}

/* A string that says it has `a` bytes and has `b`. */
static void hc_string_value(struct gw *w, uint64_t a, uint64_t b)
{
	hc_key_start(w);
	gw_string(w, "key");
	gw_u32(w, GW_STRING);
	gw_u64(w, a);
	gw_fill(w, 's', b);
}

/* An array of two strings, the second of which says it has `a` bytes. */
static void hc_string_array(struct gw *w, uint64_t a, uint64_t b)
{
	hc_key_start(w);
	gw_kv_array(w, "key", GW_STRING, 2);
	gw_string(w, "first");
	gw_u64(w, a);
	gw_fill(w, 's', b);
}

/* An array of 16 small integers that says it holds strings. */
static void hc_array_mismatch(struct gw *w, uint64_t a, uint64_t b)
{
	(void)a;
	(void)b;
	hc_key_start(w);
	gw_kv_array(w, "key", GW_STRING, 4);
	for (uint32_t i = 1; i <= 16; i++)
		gw_u32(w, i);
}

/* ---- alignment ---- */

/* One float, at the alignment `a` that the file asks for. */
static void hc_alignment(struct gw *w, uint64_t a, uint64_t b)
{
	gw_head(w, 3, 1, 1);
	gw_kv_u32(w, "general.alignment", (uint32_t)a);
	gw_tensor(w, "t", 1, (uint64_t[]){8}, HC_F32, 0);
	if (b)
		gw_align(w, (size_t)a, 0);
	gw_fill(w, 1, 32);
}

static void hc_alignment_type(struct gw *w, uint64_t a, uint64_t b)
{
	(void)b;
	hc_key_start(w);
	gw_string(w, "general.alignment");
	gw_u32(w, (uint32_t)a);
	gw_u64(w, 32);
	gw_fill(w, 0, 64);
}

/* ---- tensors ---- */

static void hc_tensors_start(struct gw *w, uint64_t tensors)
{
	gw_head(w, 3, tensors, 1);
	gw_kv_string(w, "general.architecture", "test");
}

static void hc_data(struct gw *w, size_t bytes)
{
	gw_align(w, 32, 0);
	gw_fill(w, 0x5a, bytes);
}

/* A tensor named with `a` bytes 'n', its length given as `b`. */
static void hc_name_length(struct gw *w, uint64_t a, uint64_t b)
{
	hc_tensors_start(w, 1);
	gw_u64(w, b);
	gw_fill(w, 'n', a);
	gw_u32(w, 1);
	gw_u64(w, 8);
	gw_u32(w, HC_F32);
	gw_u64(w, 0);
	hc_data(w, 32);
}

static void hc_name_byte(struct gw *w, uint64_t a, uint64_t b)
{
	char name[4] = {'n', (char)a, (char)b, 0};

	hc_tensors_start(w, 1);
	gw_blob(w, name, 3);
	gw_u32(w, 1);
	gw_u64(w, 8);
	gw_u32(w, HC_F32);
	gw_u64(w, 0);
	hc_data(w, 32);
}

static void hc_name_twice(struct gw *w, uint64_t a, uint64_t b)
{
	char name[32];

	(void)b;
	hc_tensors_start(w, a + 2);
	gw_tensor(w, "same", 1, (uint64_t[]){8}, HC_F32, 0);
	for (uint64_t i = 0; i < a; i++) {
		snprintf(name, sizeof(name), "other.%u", (unsigned)i);
		gw_tensor(w, name, 1, (uint64_t[]){8}, HC_F32, 32 * (i + 1));
	}
	gw_tensor(w, "same", 1, (uint64_t[]){8}, HC_F32, 32 * (a + 1));
	hc_data(w, 32 * (a + 2));
}

/* The number of dimensions alone. */
static void hc_dim_count(struct gw *w, uint64_t a, uint64_t b)
{
	(void)b;
	hc_tensors_start(w, 1);
	gw_string(w, "t");
	gw_u32(w, (uint32_t)a);
	gw_fill(w, 1, 128);
}

static void hc_shape(struct gw *w, uint32_t type, uint32_t dim_count, const uint64_t *dims)
{
	hc_tensors_start(w, 1);
	gw_tensor(w, "t", dim_count, dims, type, 0);
	hc_data(w, 64);
}

static void hc_f32_1d(struct gw *w, uint64_t a, uint64_t b)
{
	hc_shape(w, HC_F32, 1, (uint64_t[]){a, b});
}

static void hc_f32_2d(struct gw *w, uint64_t a, uint64_t b)
{
	hc_shape(w, HC_F32, 2, (uint64_t[]){a, b});
}

static void hc_i8_2d(struct gw *w, uint64_t a, uint64_t b)
{
	hc_shape(w, HC_I8, 2, (uint64_t[]){a, b});
}

static void hc_f64_2d(struct gw *w, uint64_t a, uint64_t b)
{
	hc_shape(w, HC_F64, 2, (uint64_t[]){a, b});
}

static void hc_f32_4d(struct gw *w, uint64_t a, uint64_t b)
{
	hc_shape(w, HC_F32, 4, (uint64_t[]){a, b, a, b});
}

/* A row of `b` elements of type `a`. */
static void hc_row(struct gw *w, uint64_t a, uint64_t b)
{
	hc_shape(w, (uint32_t)a, 1, (uint64_t[]){b});
}

static void hc_scalar(struct gw *w, uint64_t a, uint64_t b)
{
	(void)b;
	hc_shape(w, (uint32_t)a, 0, NULL);
}

/* 8 floats at offset `a` of `b` bytes of data. */
static void hc_place(struct gw *w, uint64_t a, uint64_t b)
{
	hc_tensors_start(w, 1);
	gw_tensor(w, "t", 1, (uint64_t[]){8}, HC_F32, a);
	hc_data(w, b);
}

/* The file ends `a` bytes after the tensor's description began. */
static void hc_cut_info(struct gw *w, uint64_t a, uint64_t b)
{
	size_t start;

	(void)b;
	hc_tensors_start(w, 1);
	start = w->size;
	gw_tensor(w, "t", 1, (uint64_t[]){8}, HC_F32, 0);
	w->size = start + a;
}

/* Two tensors of 64 bytes at `a` and `b` of 256 bytes. */
static void hc_pair(struct gw *w, uint64_t a, uint64_t b)
{
	hc_tensors_start(w, 2);
	gw_tensor(w, "first", 1, (uint64_t[]){16}, HC_F32, a);
	gw_tensor(w, "second", 1, (uint64_t[]){16}, HC_F32, b);
	hc_data(w, 256);
}

/* Two tensors that together are larger than 2^64. */
static void hc_sum_wrap(struct gw *w, uint64_t a, uint64_t b)
{
	hc_tensors_start(w, 3);
	gw_tensor(w, "first", 1, (uint64_t[]){a}, HC_I8, 0);
	gw_tensor(w, "second", 1, (uint64_t[]){a}, HC_I8, a);
	gw_tensor(w, "third", 1, (uint64_t[]){a}, HC_I8, b);
	hc_data(w, 64);
}

/* Two made-up types: 100 elements at `a`, 10 at `b`, 96 bytes of data. */
static void hc_unknown_pair(struct gw *w, uint64_t a, uint64_t b)
{
	hc_tensors_start(w, 2);
	gw_tensor(w, "first", 1, (uint64_t[]){100}, HC_MADE_UP, a);
	gw_tensor(w, "second", 1, (uint64_t[]){10}, HC_MADE_UP + 1, b);
	hc_data(w, 96);
}

/* A made-up type, then 8 floats, at `a` and `b`. */
static void hc_unknown_known(struct gw *w, uint64_t a, uint64_t b)
{
	hc_tensors_start(w, 2);
	gw_tensor(w, "first", 1, (uint64_t[]){100}, HC_MADE_UP, a);
	gw_tensor(w, "second", 1, (uint64_t[]){8}, HC_F32, b);
	hc_data(w, 96);
}

/* `a` tensors, each of a type of its own. */
static void hc_many_types(struct gw *w, uint64_t a, uint64_t b)
{
	char name[16];

	(void)b;
	hc_tensors_start(w, a);
	for (uint64_t i = 0; i < a; i++) {
		snprintf(name, sizeof(name), "t%u", (unsigned)i);
		gw_tensor(w, name, 1, (uint64_t[]){1}, (uint32_t)(HC_MADE_UP + i), 32 * i);
	}
	hc_data(w, 32 * a);
}

/* ---- big-endian ---- */

static void hc_big(struct gw *w, uint64_t version, uint64_t data)
{
	w->big = true;
	gw_head(w, (uint32_t)version, 2, 2);
	gw_kv_string(w, "general.architecture", "test");
	gw_kv_u32(w, "general.alignment", 64);
	gw_tensor(w, "a", 2, (uint64_t[]){32, 2}, HC_Q4_0, 0);
	gw_tensor(w, "b", 1, (uint64_t[]){8}, HC_F32, 64);
	gw_align(w, 64, 0);
	gw_fill(w, 7, data);
}

static void hc_big_dims(struct gw *w, uint64_t a, uint64_t b)
{
	w->big = true;
	hc_dim_count(w, a, b);
}

/* ---- odd, but legal ---- */

static void hc_plain(struct gw *w, uint64_t version, uint64_t tail)
{
	gw_head(w, (uint32_t)version, 2, 1);
	gw_kv_string(w, "general.architecture", "test");
	gw_tensor(w, "a", 2, (uint64_t[]){32, 3}, HC_Q4_0, 0);
	gw_tensor(w, "b", 1, (uint64_t[]){4}, HC_F32, 64);
	hc_data(w, 80);
	gw_fill(w, 'x', tail);
}

static void hc_padding(struct gw *w, uint64_t a, uint64_t b)
{
	(void)b;
	gw_head(w, 3, 2, 0);
	gw_tensor(w, "a", 1, (uint64_t[]){1}, HC_F32, 0);
	gw_tensor(w, "b", 1, (uint64_t[]){1}, HC_F32, 32);
	gw_align(w, 32, (int)a);
	gw_fill(w, (int)a, 64);
}

static void hc_all_values(struct gw *w, uint64_t a, uint64_t b)
{
	static const uint8_t size[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8};
	char key[16];

	(void)a;
	(void)b;
	gw_head(w, 3, 0, 24);
	for (uint32_t type = 0; type < 13; type++) {
		if (type == GW_ARRAY)
			continue;
		snprintf(key, sizeof(key), "value.%u", type);
		gw_string(w, key);
		gw_u32(w, type);
		gw_fill(w, 0, size[type]);
		snprintf(key, sizeof(key), "array.%u", type);
		gw_kv_array(w, key, type, type % 3);
		gw_fill(w, 0, (size_t)size[type] * (type % 3));
	}
}

static void hc_empty_strings(struct gw *w, uint64_t a, uint64_t b)
{
	gw_head(w, 3, 0, 2);
	gw_kv_string(w, "empty", "");
	gw_kv_array(w, "empties", GW_STRING, a);
	gw_fill(w, 0, 8 * a + b);
}

static void hc_3d(struct gw *w, uint64_t a, uint64_t b)
{
	hc_tensors_start(w, 1);
	gw_tensor(w, "experts", 3, (uint64_t[]){32, 2, a}, (uint32_t)b, 0);
	hc_data(w, (size_t)a * 2 * (b == HC_F32 ? 128 : 18));
}

#define HC_MAX UINT64_MAX

static const struct hostile_case hostile_cases[] = {
    /* the head */
    {"bad-magic-alone", TRUNCATED, "past the end", 0, hc_cut_head, 4, 0},
    {"bad-half-a-version", TRUNCATED, "past the end", 0, hc_cut_head, 6, 0},
    {"bad-no-counts", TRUNCATED, "past the end", 0, hc_cut_head, 8, 0},
    {"bad-half-a-count", TRUNCATED, "past the end", 0, hc_cut_head, 23, 0},
    {"bad-version-0", INVALID, "version 0", 0, hc_version, 0, 0},
    {"bad-version-1", UNSUPPORTED, "version 1 is", 0, hc_version, 1, 0},
    {"bad-version-4", UNSUPPORTED, "version 4 is", 0, hc_version, 4, 0},
    {"bad-version-2p31", UNSUPPORTED, "version 128 (big-endian)", 0, hc_version, HC_2(31), 0},
    {"bad-version-max", UNSUPPORTED, "version 4294967295", 0, hc_version, UINT32_MAX, 0},
    {"bad-version-1-big", UNSUPPORTED, "version 1 (big-endian)", 0, hc_version, 0x01000000, 0},
    {"bad-version-4-big", UNSUPPORTED, "version 4 (big-endian)", 0, hc_version, 0x04000000, 0},
    {"bad-kv-count-one-more", TRUNCATED, "key-values do not fit", 0, hc_counts, 0, 5},
    {"bad-kv-count-2p32", TRUNCATED, "key-values do not fit", 0, hc_counts, 0, HC_2(32)},
    {"bad-kv-count-2p63", TRUNCATED, "key-values do not fit", 0, hc_counts, 0, HC_2(63)},
    {"bad-kv-count-max", TRUNCATED, "key-values do not fit", 0, hc_counts, 0, HC_MAX},
    {"bad-tensor-count-3", TRUNCATED, "tensors do not fit", 0, hc_counts, 3, 0},
    {"bad-tensor-count-2p32", TRUNCATED, "tensors do not fit", 0, hc_counts, HC_2(32), 0},
    {"bad-tensor-count-2p63", TRUNCATED, "tensors do not fit", 0, hc_counts, HC_2(63), 0},
    {"bad-tensor-count-max", TRUNCATED, "tensors do not fit", 0, hc_counts, HC_MAX, 0},
    /* keys */
    {"bad-key-empty", INVALID, "empty key", 0, hc_key_length, 0, 0},
    {"bad-key-past-end", TRUNCATED, "past the end", 0, hc_key_length, 100, 10},
    {"bad-key-one-past-end", TRUNCATED, "past the end", 0, hc_key_length, 16, 3},
    {"bad-key-65536", INVALID, "at most 65535", 0, hc_key_length, 65536, 10},
    {"bad-key-length-2p63", INVALID, "at most 65535", 0, hc_key_length, HC_2(63), 10},
    {"bad-key-length-max", INVALID, "at most 65535", 0, hc_key_length, HC_MAX, 10},
    {"bad-key-nul", INVALID, "NUL in a key", 0, hc_key_byte, 0, 0},
    {"bad-key-utf8", INVALID, "not valid UTF-8", 0, hc_key_byte, 0xc3, 0},
    {"bad-key-control", INVALID, "control character", 0, hc_key_byte, 0x1b, 0},
    {"bad-key-twice", INVALID, "duplicate key 'same'", 0, hc_key_twice, 0, 0},
    {"bad-key-twice-far", INVALID, "duplicate key 'same'", 0, hc_key_twice, 20, 0},
    /* values */
    {"bad-value-missing", TRUNCATED, "past the end", 0, hc_value, GW_UINT64, 7},
    {"bad-value-type-13", INVALID, "unknown value type 13", 0, hc_value, 13, 8},
    {"bad-value-type-2p31", INVALID, "unknown value type", 0, hc_value, HC_2(31), 8},
    {"bad-value-type-max", INVALID, "unknown value type", 0, hc_value, UINT32_MAX, 8},
    {"bad-array-of-arrays", INVALID, "array of arrays", 0, hc_array, GW_ARRAY, 1},
    {"bad-array-type-13", INVALID, "unknown value type 13", 0, hc_array, 13, 1},
    {"bad-array-type-max", INVALID, "unknown value type", 0, hc_array, UINT32_MAX, 1},
    {"bad-array-one-more", TRUNCATED, "array of 65 values", 0, hc_array, GW_UINT8, 65},
    {"bad-array-u8-max", TRUNCATED, "past the end", 0, hc_array, GW_UINT8, HC_MAX},
    {"bad-array-u16-2p63", TRUNCATED, "past the end", 0, hc_array, GW_UINT16, HC_2(63)},
    {"bad-array-f32-2p62", TRUNCATED, "past the end", 0, hc_array, GW_FLOAT32, HC_2(62)},
    {"bad-array-u64-2p61", TRUNCATED, "past the end", 0, hc_array, GW_UINT64, HC_2(61)},
    {"bad-array-u64-2p61-and-1", TRUNCATED, "past the end", 0, hc_array, GW_UINT64, HC_2(61) + 1},
    {"bad-array-string-2p61", TRUNCATED, "past the end", 0, hc_array, GW_STRING, HC_2(61)},
    {"bad-array-string-max", TRUNCATED, "past the end", 0, hc_array, GW_STRING, HC_MAX},
    {"bad-array-mismatch", TRUNCATED, "string of", 0, hc_array_mismatch, 0, 0},
    {"bad-string-one-past-end", TRUNCATED, "string of 11", 0, hc_string_value, 11, 10},
    {"bad-string-2p63", TRUNCATED, "string of", 0, hc_string_value, HC_2(63), 10},
    {"bad-string-max", TRUNCATED, "string of", 0, hc_string_value, HC_MAX, 10},
    {"bad-string-in-array-max", TRUNCATED, "string of", 0, hc_string_array, HC_MAX, 10},
    {"bad-string-in-array-wrap", TRUNCATED, "string of", 0, hc_string_array, HC_MAX - 70, 10},
    /* alignment */
    {"bad-alignment-0", INVALID, "not a power of two", 0, hc_alignment, 0, 0},
    {"bad-alignment-3", INVALID, "not a power of two", 0, hc_alignment, 3, 0},
    {"bad-alignment-24", INVALID, "not a power of two", 0, hc_alignment, 24, 0},
    {"bad-alignment-31", INVALID, "not a power of two", 0, hc_alignment, 31, 0},
    {"bad-alignment-max", INVALID, "not a power of two", 0, hc_alignment, UINT32_MAX, 0},
    {"bad-alignment-2p31", LIMIT, "over the limit", 0, hc_alignment, HC_2(31), 0},
    {"bad-alignment-2p25", LIMIT, "over the limit", 0, hc_alignment, HC_2(25), 0},
    {"bad-alignment-2p24-padding", TRUNCATED, "past the end", 0, hc_alignment, HC_2(24), 0},
    {"bad-alignment-u8", INVALID, "value type 0", 0, hc_alignment_type, GW_UINT8, 0},
    {"bad-alignment-i32", INVALID, "value type 5", 0, hc_alignment_type, GW_INT32, 0},
    {"bad-alignment-string", INVALID, "value type 8", 0, hc_alignment_type, GW_STRING, 0},
    {"bad-alignment-array", INVALID, "value type 9", 0, hc_alignment_type, GW_ARRAY, 0},
    {"bad-alignment-u64", INVALID, "value type 10", 0, hc_alignment_type, GW_UINT64, 0},
    /* names */
    {"bad-name-empty", INVALID, "empty tensor name", 0, hc_name_length, 0, 0},
    {"bad-name-64", INVALID, "64 bytes, at most 63", 0, hc_name_length, 64, 64},
    {"bad-name-10000", INVALID, "10000 bytes, at most 63", 0, hc_name_length, 10000, 10000},
    {"bad-name-past-end", INVALID, "at most 63", 0, hc_name_length, 10, 1000},
    {"bad-name-length-max", INVALID, "at most 63", 0, hc_name_length, 10, HC_MAX},
    {"bad-name-nul", INVALID, "NUL in a tensor name", 0, hc_name_byte, 0, 'x'},
    {"bad-name-nul-last", INVALID, "NUL in a tensor name", 0, hc_name_byte, 'x', 0},
    {"bad-name-utf8", INVALID, "not valid UTF-8", 0, hc_name_byte, 0xff, 'x'},
    {"bad-name-utf8-overlong", INVALID, "not valid UTF-8", 0, hc_name_byte, 0xc0, 0xaf},
    {"bad-name-control", INVALID, "control character", 0, hc_name_byte, 0x1b, 'x'},
    {"bad-name-twice", INVALID, "duplicate tensor name 'same'", 0, hc_name_twice, 0, 0},
    {"bad-name-twice-far", INVALID, "duplicate tensor name 'same'", 0, hc_name_twice, 20, 0},
    /* shapes */
    {"bad-dims-5", INVALID, "5 dimensions", 0, hc_dim_count, 5, 0},
    {"bad-dims-2p31", INVALID, "2147483648 dimensions", 0, hc_dim_count, HC_2(31), 0},
    {"bad-dims-max", INVALID, "dimensions", 0, hc_dim_count, UINT32_MAX, 0},
    {"bad-dim-negative", INVALID, "negative", 0, hc_f32_1d, HC_MAX, 0},
    {"bad-dim-2p63", INVALID, "negative", 0, hc_f32_1d, HC_2(63), 0},
    {"bad-dim-2p63-less-1", INVALID, "63 bits", 0, hc_f32_1d, HC_2(63) - 1, 0},
    {"bad-dim-2p42-and-1", TRUNCATED, "past the end", 0, hc_f32_1d, HC_2(42) + 1, 0},
    {"bad-dims-2p63-less-1-by-2", INVALID, "63 bits", 0, hc_f32_2d, HC_2(63) - 1, 2},
    {"bad-dims-2-by-2p63-less-1", INVALID, "63 bits", 0, hc_f32_2d, 2, HC_2(63) - 1},
    {"bad-dims-2p32-by-2p32", INVALID, "63 bits", 0, hc_f32_2d, HC_2(32), HC_2(32)},
    {"bad-dims-2p32-and-1-squared", INVALID, "63 bits", 0, hc_f32_2d, HC_2(32) + 1, HC_2(32) + 1},
    {"bad-dims-2p16-to-the-4th", INVALID, "63 bits", 0, hc_f32_4d, HC_2(16), HC_2(16)},
    {"bad-dims-2p31-by-2p32", INVALID, "63 bits", 0, hc_i8_2d, HC_2(31), HC_2(32)},
    {"bad-bytes-2p64", INVALID, "64 bits", 0, hc_f64_2d, HC_2(60), 2},
    {"bad-bytes-2p64-and-8", INVALID, "64 bits", 0, hc_f64_2d, HC_2(61) + 1, 1},
    {"bad-bytes-2p62-floats", INVALID, "64 bits", 0, hc_f32_2d, HC_2(61), 2},
    {"bad-bytes-2p62", TRUNCATED, "past the end", 0, hc_i8_2d, HC_2(61), 2},
    {"bad-sum-wrap", TRUNCATED, "past the end", 0, hc_sum_wrap, HC_2(62), HC_2(63)},
    {"bad-row-31", INVALID, "no multiple of a block of Q4_0", 0, hc_row, HC_Q4_0, 31},
    {"bad-row-33", INVALID, "no multiple of a block of Q4_0", 0, hc_row, HC_Q4_0, 33},
    {"bad-row-128", INVALID, "no multiple of a block of Q4_K", 0, hc_row, HC_Q4_K, 128},
    {"bad-scalar-of-blocks", INVALID, "no multiple of a block", 0, hc_scalar, HC_Q4_0, 0},
    {"bad-unknown-type-shape", INVALID, "negative", 0, hc_row, HC_MADE_UP, HC_MAX},
    {"bad-65-unknown-types", LIMIT, "more than 64 tensor types", 0, hc_many_types, 65, 0},
    /* places */
    {"bad-info-cut-in-name-length", TRUNCATED, "past the end", 0, hc_cut_info, 4, 0},
    {"bad-info-cut-in-type", TRUNCATED, "past the end", 0, hc_cut_info, 26, 0},
    {"bad-info-cut-in-offset", TRUNCATED, "past the end", 0, hc_cut_info, 32, 0},
    {"bad-offset-1", INVALID, "no multiple of the alignment", 0, hc_place, 1, 96},
    {"bad-offset-16", INVALID, "no multiple of the alignment", 0, hc_place, 16, 96},
    {"bad-offset-31", INVALID, "no multiple of the alignment", 0, hc_place, 31, 96},
    {"bad-offset-max", INVALID, "no multiple of the alignment", 0, hc_place, HC_MAX, 96},
    {"bad-offset-wrap", TRUNCATED, "past the end", 0, hc_place, HC_MAX - 31, 96},
    {"bad-offset-2p63", TRUNCATED, "past the end", 0, hc_place, HC_2(63), 96},
    {"bad-offset-at-end", TRUNCATED, "past the end", 0, hc_place, 96, 96},
    {"bad-data-missing", TRUNCATED, "past the end", 0, hc_place, 0, 0},
    {"bad-data-one-short", TRUNCATED, "past the end", 0, hc_place, 64, 95},
    {"bad-overlap-same", INVALID, "overlaps", 0, hc_pair, 0, 0},
    {"bad-overlap-half", INVALID, "overlaps", 0, hc_pair, 0, 32},
    {"bad-overlap-reversed", INVALID, "overlaps", 0, hc_pair, 96, 64},
    {"bad-unknown-overlaps", INVALID, "overlaps", 0, hc_unknown_known, 32, 32},
    {"bad-unknown-overlaps-unknown", INVALID, "overlaps", 0, hc_unknown_pair, 64, 64},
    {"bad-unknown-at-end", TRUNCATED, "past the end", 0, hc_unknown_pair, 0, 96},
    /* big-endian */
    {"bad-big-dims-5", INVALID, "5 dimensions", 0, hc_big_dims, 5, 0},
    {"bad-big-data-short", TRUNCATED, "past the end", 0, hc_big, 3, 95},

    {"good-v3", GOOD, NULL, 2, hc_plain, 3, 0},
    {"good-v2", GOOD, NULL, 2, hc_plain, 2, 0},
    {"good-trailing-bytes", GOOD, NULL, 2, hc_plain, 3, 13},
    {"good-big-v3", GOOD, NULL, 2, hc_big, 3, 96},
    {"good-big-v2", GOOD, NULL, 2, hc_big, 2, 96},
    {"good-nothing", GOOD, NULL, 0, hc_version, 3, 0},
    {"good-nothing-and-trailing-bytes", GOOD, NULL, 0, hc_version, 3, 9},
    {"good-no-tensors", GOOD, NULL, 0, hc_value, GW_FLOAT64, 8},
    {"good-no-key-values", GOOD, NULL, 2, hc_padding, 0, 0},
    {"good-padding-not-zero", GOOD, NULL, 2, hc_padding, 0xee, 0},
    {"good-all-value-types", GOOD, NULL, 0, hc_all_values, 0, 0},
    {"good-empty-strings", GOOD, NULL, 0, hc_empty_strings, 3, 0},
    {"good-empty-array", GOOD, NULL, 0, hc_empty_strings, 0, 0},
    {"good-alignment-8", GOOD, NULL, 1, hc_alignment, 8, 1},
    {"good-alignment-64", GOOD, NULL, 1, hc_alignment, 64, 1},
    {"good-alignment-4096", GOOD, NULL, 1, hc_alignment, 4096, 1},
    {"good-name-63", GOOD, NULL, 1, hc_name_length, 63, 63},
    {"good-name-utf8", GOOD, NULL, 1, hc_name_byte, 0xc3, 0xa9},
    {"good-scalar", GOOD, NULL, 1, hc_scalar, HC_F32, 0},
    {"good-dimension-0", GOOD, NULL, 0, hc_f32_2d, 0, HC_2(62)},
    {"good-4-dims", GOOD, NULL, 1, hc_f32_4d, 2, 2},
    {"good-3-dims-f32", GOOD, NULL, 1, hc_3d, 4, HC_F32},
    {"good-3-dims-q4_0", GOOD, NULL, 1, hc_3d, 3, HC_Q4_0},
    {"good-reversed-order", GOOD, NULL, 2, hc_pair, 128, 0},
    {"good-gap", GOOD, NULL, 2, hc_pair, 64, 192},
    {"good-no-padding-at-end", GOOD, NULL, 1, hc_place, 32, 64},
    {"good-unknown-type", GOOD, NULL, 1, hc_row, HC_MADE_UP, 100},
    {"good-unknown-types", GOOD, NULL, 2, hc_unknown_pair, 0, 64},
    {"good-unknown-and-known-type", GOOD, NULL, 2, hc_unknown_known, 64, 0},
    {"good-64-unknown-types", GOOD, NULL, 64, hc_many_types, 64, 0},
};
#define HOSTILE_CASES (sizeof(hostile_cases) / sizeof(hostile_cases[0]))

static inline void hostile_build(struct gw *w, const struct hostile_case *c)
{
	c->build(w, c->a, c->b);
}

#endif
