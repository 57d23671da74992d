/* GGUF headers put together in memory, for generators and tests. Knows nothing
 * of the library. Running out of memory ends the program. */
#ifndef GGUF_WRITER_H
#define GGUF_WRITER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum gguf_value_type {
	GW_UINT8,
	GW_INT8,
	GW_UINT16,
	GW_INT16,
	GW_UINT32,
	GW_INT32,
	GW_FLOAT32,
	GW_BOOL,
	GW_STRING,
	GW_ARRAY,
	GW_UINT64,
	GW_INT64,
	GW_FLOAT64
};

struct gw {
	uint8_t *bytes;
	size_t size, capacity;
	bool big; /* big-endian */
};

static inline void gw_bytes(struct gw *w, const void *bytes, size_t size)
{
	if (size > w->capacity - w->size) {
		w->capacity = 2 * (w->size + size) + 1024;
		w->bytes = realloc(w->bytes, w->capacity);
		if (!w->bytes) {
			fputs("out of memory\n", stderr);
			exit(1);
		}
	}
	if (size)
		memcpy(w->bytes + w->size, bytes, size);
	w->size += size;
}

static inline void gw_free(struct gw *w)
{
	free(w->bytes);
	memset(w, 0, sizeof(*w));
}

static inline void gw_fill(struct gw *w, int byte, size_t count)
{
	uint8_t piece[1024];

	memset(piece, byte, sizeof(piece));
	for (size_t n; count; count -= n) {
		n = count < sizeof(piece) ? count : sizeof(piece);
		gw_bytes(w, piece, n);
	}
}

/* An integer of `size` bytes in the file's byte order. */
static inline void gw_int(struct gw *w, uint64_t value, size_t size)
{
	uint8_t b[8];

	for (size_t i = 0; i < size; i++)
		b[w->big ? size - 1 - i : i] = (uint8_t)(value >> 8 * i);
	gw_bytes(w, b, size);
}

static inline void gw_u32(struct gw *w, uint32_t value)
{
	gw_int(w, value, 4);
}

static inline void gw_u64(struct gw *w, uint64_t value)
{
	gw_int(w, value, 8);
}

static inline void gw_f32(struct gw *w, float value)
{
	uint32_t bits;

	memcpy(&bits, &value, 4);
	gw_u32(w, bits);
}

static inline void gw_blob(struct gw *w, const char *text, size_t length)
{
	gw_u64(w, length);
	gw_bytes(w, text, length);
}

static inline void gw_string(struct gw *w, const char *text)
{
	gw_blob(w, text, strlen(text));
}

static inline void gw_align(struct gw *w, size_t alignment, int byte)
{
	if (w->size % alignment)
		gw_fill(w, byte, alignment - w->size % alignment);
}

static inline void gw_head(struct gw *w, uint32_t version, uint64_t tensors, uint64_t kvs)
{
	gw_bytes(w, "GGUF", 4);
	gw_u32(w, version);
	gw_u64(w, tensors);
	gw_u64(w, kvs);
}

static inline void gw_kv_string(struct gw *w, const char *key, const char *value)
{
	gw_string(w, key);
	gw_u32(w, GW_STRING);
	gw_string(w, value);
}

static inline void gw_kv_u32(struct gw *w, const char *key, uint32_t value)
{
	gw_string(w, key);
	gw_u32(w, GW_UINT32);
	gw_u32(w, value);
}

static inline void gw_kv_f32(struct gw *w, const char *key, float value)
{
	gw_string(w, key);
	gw_u32(w, GW_FLOAT32);
	gw_f32(w, value);
}

static inline void gw_kv_bool(struct gw *w, const char *key, bool value)
{
	gw_string(w, key);
	gw_u32(w, GW_BOOL);
	gw_int(w, value, 1);
}

/* The elements follow. */
static inline void gw_kv_array(struct gw *w, const char *key, uint32_t type, uint64_t count)
{
	gw_string(w, key);
	gw_u32(w, GW_ARRAY);
	gw_u32(w, type);
	gw_u64(w, count);
}

static inline void gw_tensor(struct gw *w, const char *name, uint32_t dim_count,
			     const uint64_t *dims, uint32_t type, uint64_t offset)
{
	gw_string(w, name);
	gw_u32(w, dim_count);
	for (uint32_t i = 0; i < dim_count; i++)
		gw_u64(w, dims[i]);
	gw_u32(w, type);
	gw_u64(w, offset);
}

#endif
