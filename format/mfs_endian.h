/* Little-endian loads and stores. The only place that knows byte order. */
#ifndef MFS_ENDIAN_H
#define MFS_ENDIAN_H

#include <stdint.h>
#include <string.h>

/* Integers as they lie on the medium: no alignment, no padding. */
typedef struct {
	uint8_t b[2];
} le16;
typedef struct {
	uint8_t b[4];
} le32;
typedef struct {
	uint8_t b[8];
} le64;

/* A number as the processor has it to its bytes in memory, or back. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define MFS_LE16(v) (v)
#define MFS_LE32(v) (v)
#define MFS_LE64(v) (v)
#else
#define MFS_LE16(v) __builtin_bswap16(v)
#define MFS_LE32(v) __builtin_bswap32(v)
#define MFS_LE64(v) __builtin_bswap64(v)
#endif

/* One move each, so that loops over them can become vectors. */
static inline uint16_t load_le16(const void *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return MFS_LE16(v);
}

static inline uint32_t load_le32(const void *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return MFS_LE32(v);
}

static inline uint64_t load_le64(const void *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return MFS_LE64(v);
}

static inline void store_le16(void *p, uint16_t v)
{
	v = MFS_LE16(v);
	memcpy(p, &v, sizeof(v));
}

static inline void store_le32(void *p, uint32_t v)
{
	v = MFS_LE32(v);
	memcpy(p, &v, sizeof(v));
}

static inline void store_le64(void *p, uint64_t v)
{
	v = MFS_LE64(v);
	memcpy(p, &v, sizeof(v));
}

#endif
