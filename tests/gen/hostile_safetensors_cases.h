/*
 * safetensors files that an importer must refuse, each damaged in one way, and
 * odd ones that are legal. hostile_safetensors writes them as files;
 * test_import_safetensors checks what the importer says to each. Knows nothing
 * of the library.
 */
#ifndef HOSTILE_SAFETENSORS_CASES_H
#define HOSTILE_SAFETENSORS_CASES_H

#include "gguf_writer.h"
#include "hostile_verdict.h"

struct hostile_case {
	const char *name;
	enum verdict verdict;
	const char *reason; /* a piece of the message; NULL for good files */
	uint32_t tensors;   /* of good files, those that have bytes */
	/* The header as it is and `data` bytes behind it, or what build() makes of
	 * the case. */
	const char *header;
	uint64_t data;
	void (*build)(struct gw *w, const struct hostile_case *c);
};

/* The header `text` with the length that it has, and data. */
static void hs_file(struct gw *w, const char *text, size_t length, uint64_t data)
{
	gw_u64(w, length);
	gw_bytes(w, text, length);
	gw_fill(w, 0x5a, data);
}

/* The header says that it has `data` bytes, and 64 bytes are behind it. */
static void hs_length(struct gw *w, const struct hostile_case *c)
{
	gw_u64(w, c->data);
	gw_bytes(w, c->header, strlen(c->header));
	gw_fill(w, 0x5a, 64);
}

/* The first `data` bytes of the file. */
static void hs_cut(struct gw *w, const struct hostile_case *c)
{
	hs_file(w, c->header, strlen(c->header), 64);
	w->size = c->data;
}

/* Everything behind the length so far is the header. */
static void hs_set_length(struct gw *w)
{
	for (int i = 0; i < 8; i++)
		w->bytes[i] = (uint8_t)((w->size - 8) >> 8 * i);
}

/* A header of `count` pieces between two others, and data. */
static void hs_around(struct gw *w, const char *begin, const char *piece, size_t count,
		      const char *end, uint64_t data)
{
	gw_u64(w, 0);
	gw_bytes(w, begin, strlen(begin));
	for (size_t i = 0; i < count; i++)
		gw_bytes(w, piece, strlen(piece));
	gw_bytes(w, end, strlen(end));
	hs_set_length(w);
	gw_fill(w, 0x5a, data);
}

#define HS_FIELDS(dtype, shape, begin, end)                                                        \
	"{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" begin "," end "]}"
#define HS(name, dtype, shape, begin, end) "\"" name "\":" HS_FIELDS(dtype, shape, begin, end)
#define HS_ONE				   HS("a", "F32", "2,2", "0", "16")

/* Arrays in arrays, `data` deep: in a tensor, or in the metadata. */
static void hs_deep_tensor(struct gw *w, const struct hostile_case *c)
{
	hs_around(w, "{\"a\":{\"shape\":", "[", c->data, "", 0);
}

static void hs_deep_header(struct gw *w, const struct hostile_case *c)
{
	hs_around(w, "", "{\"a\":", c->data, "", 0);
}

static void hs_deep_field(struct gw *w, const struct hostile_case *c)
{
	hs_around(w, "{\"a\":{\"dtype\":\"F32\",\"x\":", "[", c->data, "", 0);
}

/* Metadata of one string of `data` bytes. */
static void hs_long_metadata(struct gw *w, const struct hostile_case *c)
{
	hs_around(w, "{\"__metadata__\":{\"text\":\"", "x", c->data, "\"}}", 0);
}

/* As many metadata keys as `data` says, all different. */
static void hs_many_metadata(struct gw *w, const struct hostile_case *c)
{
	char text[32];
	size_t end;

	gw_u64(w, 0);
	gw_bytes(w, "{\"__metadata__\":{", 17);
	for (uint64_t i = 0; i < c->data; i++) {
		end = (size_t)snprintf(text, sizeof(text), "%s\"%x\":\"\"", i ? "," : "",
				       (unsigned)i);
		gw_bytes(w, text, end);
	}
	gw_bytes(w, "}}", 2);
	hs_set_length(w);
}

/* A name of `data` bytes. */
static void hs_long_name(struct gw *w, const struct hostile_case *c)
{
	hs_around(w, "{\"", "n", c->data, "\":" HS_FIELDS("F32", "2,2", "0", "16") "}", 16);
}

/* `data` tensors of no bytes, each with its own name; or, with a header, of that
 * dtype's name and the number. */
static void hs_many_tensors(struct gw *w, const struct hostile_case *c)
{
	char text[160];

	gw_u64(w, 0);
	gw_bytes(w, "{", 1);
	for (uint64_t i = 0; i < c->data; i++) {
		int n = snprintf(text, sizeof(text),
				 "%s\"t%u\":{\"dtype\":\"%s%u\",\"shape\":[0],\"data_offsets\":"
				 "[0,0]}",
				 i ? "," : "", (unsigned)i, c->header ? c->header : "U",
				 c->header ? (unsigned)i : 8);

		gw_bytes(w, text, (size_t)n);
	}
	gw_bytes(w, "}", 1);
	hs_set_length(w);
}

/* White space of `data` bytes behind the object. */
static void hs_padded(struct gw *w, const struct hostile_case *c)
{
	hs_around(w, "{" HS_ONE "}", " ", c->data, "", 16);
}

/* A shape of `data` ones. */
static void hs_ones(struct gw *w, const struct hostile_case *c)
{
	hs_around(w, "{\"a\":{\"dtype\":\"U8\",\"shape\":[1", ",1", c->data - 1,
		  "],\"data_offsets\":[0,1]}}", 1);
}

/* clang-format off */
static const struct hostile_case hostile_cases[] = {
	/* the length */
	{"bad-empty", TRUNCATED, "too few", 0, "{}", 0, hs_cut},
	{"bad-7-bytes", TRUNCATED, "too few", 0, "{}", 7, hs_cut},
	{"bad-length-alone", TRUNCATED, "too few", 0, "{}", 8, hs_cut},
	{"bad-half-a-header", TRUNCATED, "past the end of the file", 0, "{" HS_ONE "}", 40, hs_cut},
	{"bad-header-one-short", TRUNCATED, "past the end of the file", 0, "{\"a\":{}}", 15, hs_cut},
	{"bad-length-0", INVALID, "a header of 0 bytes", 0, "{}", 0, hs_length},
	{"bad-length-1", INVALID, "a header of 1 bytes", 0, "{}", 1, hs_length},
	{"bad-length-one-past-end", TRUNCATED, "past the end of the file", 0, "{}", 67, hs_length},
	{"bad-length-2p31", TRUNCATED, "past the end of the file", 0, "{}", UINT64_C(1) << 31, hs_length},
	{"bad-length-2p63", TRUNCATED, "past the end of the file", 0, "{}", UINT64_C(1) << 63, hs_length},
	{"bad-length-max-less-7", TRUNCATED, "past the end of the file", 0, "{}", UINT64_MAX - 7, hs_length},
	{"bad-length-max", TRUNCATED, "past the end of the file", 0, "{}", UINT64_MAX, hs_length},
	{"bad-length-cuts-json", INVALID, "not valid JSON", 0, "{\"a\":{}}", 6, hs_length},
	{"bad-header-24m-and-1", LIMIT, "over the limit of 24 MiB", 0, NULL, (24u << 20) + 2 - sizeof("{" HS_ONE "}"), hs_padded},
	/* JSON */
	{"bad-begins-with-space", INVALID, "does not begin with '{'", 0, " {}", 0, NULL},
	{"bad-array", INVALID, "does not begin with '{'", 0, "[]", 0, NULL},
	{"bad-no-end", INVALID, "',' or '}' expected", 0, "{" HS_ONE " ", 16, NULL},
	{"bad-no-colon", INVALID, "':' expected", 0, "{\"a\" {}}", 0, NULL},
	{"bad-no-comma", INVALID, "',' or '}' expected", 0, "{" HS("a", "U8", "0", "0", "0") HS("b", "U8", "0", "0", "0") "}", 0, NULL},
	{"bad-comma-at-end", INVALID, "a key expected", 0, "{" HS_ONE ",}", 16, NULL},
	{"bad-comma-at-start", INVALID, "a key expected", 0, "{," HS_ONE "}", 16, NULL},
	{"bad-key-unquoted", INVALID, "a key expected", 0, "{a:{}}", 0, NULL},
	{"bad-key-unfinished", INVALID, "not valid JSON", 0, "{\"abc", 0, NULL},
	{"bad-key-newline", INVALID, "not valid JSON", 0, "{\"a\nb\":{}}", 0, NULL},
	{"bad-comment", INVALID, "a key expected", 0, "{/**/" HS_ONE "}", 16, NULL},
	{"bad-text-behind", INVALID, "the end expected", 0, "{" HS_ONE "} x", 16, NULL},
	{"bad-two-objects", INVALID, "the end expected", 0, "{}{}", 0, NULL},
	{"bad-deep-tensor", INVALID, "maximum parsing depth", 0, NULL, 3000000, hs_deep_tensor},
	{"bad-deep-tensor-short", INVALID, "not valid JSON", 0, NULL, 900, hs_deep_tensor},
	{"bad-deep-field", INVALID, "not valid JSON", 0, NULL, 5000, hs_deep_field},
	{"bad-deep-header", INVALID, "not valid JSON", 0, NULL, 10000, hs_deep_header},
	{"bad-utf8-key", INVALID, "not valid JSON", 0, "{" HS("a\xc3(", "F32", "2,2", "0", "16") "}", 16, NULL},
	{"bad-utf8-overlong", INVALID, "not valid JSON", 0, "{" HS("a\xc0\xaf", "F32", "2,2", "0", "16") "}", 16, NULL},
	{"bad-utf8-surrogate", INVALID, "not valid JSON", 0, "{" HS("a\\ud800", "F32", "2,2", "0", "16") "}", 16, NULL},
	{"bad-utf8-metadata", INVALID, "not valid JSON", 0, "{\"__metadata__\":{\"a\":\"\xff\"}}", 0, NULL},
	/* names */
	{"bad-name-empty", INVALID, "empty tensor name", 0, "{" HS("", "F32", "2,2", "0", "16") "}", 16, NULL},
	{"bad-name-nul", INVALID, "NUL in a key", 0, "{" HS("a\\u0000b", "F32", "2,2", "0", "16") "}", 16, NULL},
	{"bad-name-control", INVALID, "control character", 0, "{" HS("a\\u001bb", "F32", "2,2", "0", "16") "}", 16, NULL},
	{"bad-name-65536", INVALID, "65536 bytes", 0, NULL, 65536, hs_long_name},
	{"bad-name-9m", LIMIT, "of JSON", 0, NULL, 9u << 20, hs_long_name},
	{"bad-name-twice", INVALID, "duplicate tensor name 'a'", 0, "{" HS("a", "U8", "4", "0", "4") "," HS("a", "U8", "4", "4", "8") "}", 8, NULL},
	{"bad-name-twice-far", INVALID, "duplicate tensor name 'a'", 0, "{" HS("a", "U8", "4", "0", "4") "," HS("b", "U8", "4", "4", "8") "," HS("\\u0061", "U8", "4", "8", "12") "}", 12, NULL},
	/* metadata */
	{"bad-metadata-number", INVALID, "no string", 0, "{\"__metadata__\":{\"a\":1}}", 0, NULL},
	{"bad-metadata-object", INVALID, "no string", 0, "{\"__metadata__\":{\"a\":{}}}", 0, NULL},
	{"bad-metadata-null", INVALID, "no string", 0, "{\"__metadata__\":{\"a\":null}}", 0, NULL},
	{"bad-metadata-array", INVALID, "'{' expected", 0, "{\"__metadata__\":[]}", 0, NULL},
	{"bad-metadata-string", INVALID, "'{' expected", 0, "{\"__metadata__\":\"a\"}", 0, NULL},
	{"bad-metadata-twice", INVALID, "duplicate __metadata__", 0, "{\"__metadata__\":{},\"__metadata__\":{}}", 0, NULL},
	{"bad-metadata-key-twice", INVALID, "duplicate key", 0, "{\"__metadata__\":{\"a\":\"1\",\"b\":\"2\",\"a\":\"3\"}}", 0, NULL},
	{"bad-metadata-65537-keys", LIMIT, "more than 65536 keys", 0, NULL, 65537, hs_many_metadata},
	{"bad-metadata-9m", LIMIT, "of JSON", 0, NULL, 9u << 20, hs_long_metadata},
	/* descriptions */
	{"bad-tensor-null", INVALID, "no object", 0, "{\"a\":null}", 0, NULL},
	{"bad-tensor-array", INVALID, "no object", 0, "{\"a\":[]}", 0, NULL},
	{"bad-tensor-empty", INVALID, "no dtype", 0, "{\"a\":{}}", 0, NULL},
	{"bad-dtype-missing", INVALID, "no dtype", 0, "{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, NULL},
	{"bad-dtype-number", INVALID, "no dtype", 0, "{\"a\":{\"dtype\":8,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, NULL},
	{"bad-dtype-array", INVALID, "an array or an object beside", 0, "{\"a\":{\"dtype\":[\"U8\"],\"shape\":[1],\"data_offsets\":[0,1]}}", 1, NULL},
	{"bad-field-nests", INVALID, "an array or an object beside", 0, "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":{}}}", 1, NULL},
	{"bad-9-fields", LIMIT, "more than 8 fields", 0, "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"p\":1,\"q\":1,\"r\":1,\"s\":1,\"t\":1,\"u\":1}}", 1, NULL},
	{"bad-dtype-empty", INVALID, "empty dtype", 0, "{" HS("a", "", "1", "0", "1") "}", 1, NULL},
	{"bad-dtype-long", INVALID, "dtype of 33 bytes", 0, "{" HS("a", "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456", "1", "0", "1") "}", 1, NULL},
	{"bad-dtype-control", INVALID, "control character", 0, "{" HS("a", "F\\u0007", "1", "0", "1") "}", 1, NULL},
	{"bad-65-unknown-dtypes", LIMIT, "more than 64 dtypes", 0, "X", 65, hs_many_tensors},
	{"bad-shape-missing", INVALID, "no shape", 0, "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, NULL},
	{"bad-shape-number", INVALID, "no shape", 0, "{\"a\":{\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]}}", 1, NULL},
	{"bad-shape-negative", INVALID, "no whole number", 0, "{" HS("a", "U8", "-1", "0", "1") "}", 1, NULL},
	{"bad-shape-float", INVALID, "no whole number", 0, "{" HS("a", "U8", "1.0", "0", "1") "}", 1, NULL},
	{"bad-shape-string", INVALID, "no whole number", 0, "{" HS("a", "U8", "\"1\"", "0", "1") "}", 1, NULL},
	{"bad-shape-2p63", INVALID, "not valid JSON", 0, "{" HS("a", "U8", "9223372036854775808", "0", "1") "}", 1, NULL},
	{"bad-shape-product", INVALID, "64 bits count", 0, "{" HS("a", "U8", "4294967296,4294967296", "0", "1") "}", 1, NULL},
	{"bad-shape-product-wraps-to-1", INVALID, "64 bits count", 0, "{" HS("a", "U8", "9223372036854775807,9223372036854775807", "0", "1") "}", 1, NULL},
	{"bad-shape-bytes", INVALID, "more bytes than 64 bits count", 0, "{" HS("a", "F32", "4611686018427387904", "0", "0") "}", 0, NULL},
	{"bad-shape-9-dims", LIMIT, "9 dimensions", 0, NULL, 9, hs_ones},
	{"bad-shape-twice", INVALID, "not valid JSON: duplicate", 0, "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"shape\":[1],\"data_offsets\":[0,1]}}", 1, NULL},
	{"bad-shape-100000-dims", LIMIT, "of JSON", 0, NULL, 100000, hs_ones},
	{"bad-sub-byte", INVALID, "fill no whole bytes", 0, "{" HS("a", "F4", "3", "0", "2") "}", 2, NULL},
	{"bad-six-bits", INVALID, "fill no whole bytes", 0, "{" HS("a", "F6_E2M3", "2", "0", "2") "}", 2, NULL},
	/* places */
	{"bad-offsets-missing", INVALID, "no two whole numbers", 0, "{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, NULL},
	{"bad-offsets-one", INVALID, "no two whole numbers", 0, "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, NULL},
	{"bad-offsets-three", INVALID, "no two whole numbers", 0, "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", 1, NULL},
	{"bad-offsets-float", INVALID, "no two whole numbers", 0, "{" HS("a", "U8", "1", "0.0", "1.0") "}", 1, NULL},
	{"bad-offsets-exponent", INVALID, "no two whole numbers", 0, "{" HS("a", "U8", "1", "0", "1e0") "}", 1, NULL},
	{"bad-offsets-negative", INVALID, "no two whole numbers", 0, "{" HS("a", "U8", "1", "-1", "0") "}", 1, NULL},
	{"bad-offsets-2p64", INVALID, "not valid JSON", 0, "{" HS("a", "U8", "1", "0", "18446744073709551616") "}", 1, NULL},
	{"bad-offsets-reversed", INVALID, "ends before it begins", 0, "{" HS("a", "U8", "1", "1", "0") "}", 1, NULL},
	{"bad-offsets-max", TRUNCATED, "past the end of the file", 0, "{" HS("a", "U8", "1", "9223372036854775806", "9223372036854775807") "}", 1, NULL},
	{"bad-one-past-end", TRUNCATED, "goes 1 bytes past", 0, "{" HS_ONE "}", 15, NULL},
	{"bad-no-data", TRUNCATED, "goes 16 bytes past", 0, "{" HS_ONE "}", 0, NULL},
	{"bad-size-less", INVALID, "16 bytes by dtype and shape, 15", 0, "{" HS("a", "F32", "2,2", "0", "15") "}", 15, NULL},
	{"bad-size-more", INVALID, "16 bytes by dtype and shape, 17", 0, "{" HS("a", "F32", "2,2", "0", "17") "}", 17, NULL},
	{"bad-size-of-empty", INVALID, "0 bytes by dtype and shape, 4", 0, "{" HS("a", "F32", "0", "0", "4") "}", 4, NULL},
	{"bad-overlap", INVALID, "overlaps tensor", 0, "{" HS_ONE "," HS("b", "U8", "8", "8", "16") "}", 16, NULL},
	{"bad-overlap-same", INVALID, "overlaps tensor", 0, "{" HS_ONE "," HS("b", "F32", "4", "0", "16") "}", 16, NULL},
	{"bad-overlap-by-empty", INVALID, "overlaps tensor", 0, "{" HS_ONE "," HS("b", "U8", "0", "8", "8") "}", 16, NULL},
	{"bad-hole-first", INVALID, "a hole of 8 bytes", 0, "{" HS("a", "U8", "8", "8", "16") "}", 16, NULL},
	{"bad-hole-between", INVALID, "a hole of 1 bytes", 0, "{" HS("a", "U8", "4", "0", "4") "," HS("b", "U8", "4", "5", "9") "}", 9, NULL},
	{"bad-bytes-behind", INVALID, "1 bytes behind the last tensor", 0, "{" HS_ONE "}", 17, NULL},
	{"bad-data-without-tensors", INVALID, "5 bytes behind", 0, "{}", 5, NULL},
	{"bad-131073-tensors", LIMIT, "more than 131072 tensors", 0, NULL, 131073, hs_many_tensors},

	{"good-nothing", GOOD, NULL, 0, "{}", 0, NULL},
	{"good-metadata-alone", GOOD, NULL, 0, "{\"__metadata__\":{\"format\":\"pt\",\"\":\"\\u00e9\"}}", 0, NULL},
	{"good-one", GOOD, NULL, 1, "{" HS_ONE "}", 16, NULL},
	{"good-spaces", GOOD, NULL, 1, "{ \n\t\"a\" : { \"dtype\" : \"U8\" , \"shape\" : [ 1 ] , \"data_offsets\" : [ 0 , 1 ] } } \r\n ", 1, NULL},
	{"good-reversed-order", GOOD, NULL, 2, "{" HS("second", "U8", "4", "4", "8") "," HS("first", "U8", "4", "0", "4") "}", 8, NULL},
	{"good-scalar", GOOD, NULL, 1, "{" HS("a", "F64", "", "0", "8") "}", 8, NULL},
	{"good-empty-tensors", GOOD, NULL, 2, "{" HS("a", "U8", "0", "0", "0") "," HS("b", "U8", "4", "0", "4") "," HS("c", "F32", "5,0", "4", "4") "," HS("d", "U8", "4", "4", "8") "," HS("e", "I8", "0", "8", "8") "}", 8, NULL},
	{"good-empty-and-huge", GOOD, NULL, 0, "{" HS("a", "U8", "9223372036854775807,9223372036854775807,0", "0", "0") "}", 0, NULL},
	{"good-8-dims", GOOD, NULL, 1, NULL, 8, hs_ones},
	{"good-name-utf8", GOOD, NULL, 1, "{" HS("\xc3\xa9\\u00e9", "F32", "2,2", "0", "16") "}", 16, NULL},
	{"good-name-65535", GOOD, NULL, 1, NULL, 65535, hs_long_name},
	{"good-name-of-metadata", GOOD, NULL, 1, "{" HS("__metadata", "F32", "2,2", "0", "16") "}", 16, NULL},
	{"good-unknown-dtype", GOOD, NULL, 2, "{" HS("a", "Q7_X", "2,2", "0", "13") "," HS("b", "Q7_X", "1", "13", "14") "}", 14, NULL},
	{"good-64-unknown-dtypes", GOOD, NULL, 0, "X", 64, hs_many_tensors},
	{"good-sub-byte", GOOD, NULL, 2, "{" HS("a", "F4", "3,2", "0", "3") "," HS("b", "F6_E3M2", "2,4", "3", "9") "}", 9, NULL},
	{"good-unknown-field", GOOD, NULL, 1, "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"x\":null,\"y\":1.5,\"data_offsets\":[0,1]}}", 1, NULL},
	{"good-metadata-8m", GOOD, NULL, 0, NULL, 8000000, hs_long_metadata},
	{"good-metadata-65536-keys", GOOD, NULL, 0, NULL, 65536, hs_many_metadata},
	{"good-padded-to-24m", GOOD, NULL, 1, NULL, (24u << 20) + 1 - sizeof("{" HS_ONE "}"), hs_padded},
};
/* clang-format on */
#define HOSTILE_CASES (sizeof(hostile_cases) / sizeof(hostile_cases[0]))

static inline void hostile_build(struct gw *w, const struct hostile_case *c)
{
	if (c->build)
		c->build(w, c);
	else
		hs_file(w, c->header, strlen(c->header), c->data);
}

#endif
