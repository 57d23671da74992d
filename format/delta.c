#include "delta.h"

#include <string.h>

#include "mfs_endian.h"

/* ---- lanes: several small numbers in each byte ---- */

static uint64_t lanes_subtract(uint64_t a, uint64_t b, uint64_t top)
{
	return ((a | top) - (b & ~top)) ^ ((a ^ ~b) & top);
}

static uint64_t lanes_add(uint64_t a, uint64_t b, uint64_t top)
{
	return ((a & ~top) + (b & ~top)) ^ ((a ^ b) & top);
}

/* `top`: the highest bit of each lane; lanes do not cross bytes. */
static inline void lanes_field(bool encode, uint64_t top, const uint8_t *base, uint8_t *bytes,
			       uint32_t size)
{
	while (size) {
		uint32_t n = size < 8 ? size : 8;
		uint64_t a = 0, b = 0;

		memcpy(&a, bytes, n);
		memcpy(&b, base, n);
		a = encode ? lanes_subtract(a, b, top) : lanes_add(a, b, top);
		memcpy(bytes, &a, n);
		bytes += n;
		base += n;
		size -= n;
	}
}

static void xor_field(const uint8_t *base, uint8_t *bytes, uint64_t size)
{
	for (uint64_t i = 0; i < size; i++)
		bytes[i] ^= base[i];
}

/* ---- words ---- */

static uint16_t fold16(uint16_t n)
{
	return (uint16_t)(n << 1) ^ (uint16_t) - (n >> 15);
}

static uint16_t unfold16(uint16_t n)
{
	return (uint16_t)(n >> 1) ^ (uint16_t) - (n & 1);
}

static uint32_t fold32(uint32_t n)
{
	return n << 1 ^ -(n >> 31);
}

static uint32_t unfold32(uint32_t n)
{
	return n >> 1 ^ -(n & 1);
}

static uint64_t fold64(uint64_t n)
{
	return n << 1 ^ -(n >> 63);
}

static uint64_t unfold64(uint64_t n)
{
	return n >> 1 ^ -(n & 1);
}

#define WORDS(bits)                                                                                \
	static inline uint##bits##_t word##bits(bool encode, uint##bits##_t from,                  \
						uint##bits##_t n)                                  \
	{                                                                                          \
		return encode ? fold##bits((uint##bits##_t)(n - from))                             \
			      : (uint##bits##_t)(unfold##bits(n) + from);                          \
	}                                                                                          \
                                                                                                   \
	static void words##bits(bool encode, const uint8_t *restrict base,                         \
				uint8_t *restrict bytes, uint32_t size)                            \
	{                                                                                          \
		const size_t count = size / (bits / 8);                                            \
                                                                                                   \
		for (size_t i = 0; i < count; i++) {                                               \
			uint##bits##_t from = load_le##bits(base + i * (bits / 8)),                \
				       n = load_le##bits(bytes + i * (bits / 8));                  \
                                                                                                   \
			store_le##bits(bytes + i * (bits / 8), word##bits(encode, from, n));       \
		}                                                                                  \
	}

WORDS(16)
WORDS(32)
WORDS(64)

/* ---- fields ---- */

static void words_field(bool encode, unsigned width, const uint8_t *base, uint8_t *bytes,
			uint32_t size)
{
	switch (width) {
	case 2:
		words16(encode, base, bytes, size);
		break;
	case 4:
		words32(encode, base, bytes, size);
		break;
	case 8:
		words64(encode, base, bytes, size);
		break;
	default: /* words of one byte */
		lanes_field(encode, UINT64_C(0x8080808080808080), base, bytes, size);
		break;
	}
}

static void field_difference(bool encode, const mfs_field *field, const uint8_t *base,
			     uint8_t *bytes, uint32_t size)
{
	if (field->transform == MFS_TRANSFORM_PLANES || field->transform == MFS_TRANSFORM_ROTATE ||
	    field->transform == MFS_TRANSFORM_FLOAT) {
		words_field(encode, field->width, base, bytes, size);
		return;
	}
	switch (field->bits) {
	case 8:
		lanes_field(encode, UINT64_C(0x8080808080808080), base, bytes, size);
		break;
	case 4:
		lanes_field(encode, UINT64_C(0x8888888888888888), base, bytes, size);
		break;
	case 2:
		lanes_field(encode, UINT64_C(0xaaaaaaaaaaaaaaaa), base, bytes, size);
		break;
	default:
		xor_field(base, bytes, size);
		break;
	}
}

/* ---- blocks of several fields ---- */

/* Blocks that are taken together, so that eight bytes of them are a word at a time. */
#define TOGETHER 8
#define MASK_MAX (TOGETHER * 512)

static bool is_words(const mfs_field *field)
{
	return field->width > 1 && (field->transform == MFS_TRANSFORM_PLANES ||
				    field->transform == MFS_TRANSFORM_ROTATE ||
				    field->transform == MFS_TRANSFORM_FLOAT);
}

/* The highest bits of a byte's lanes. Lanes of one bit are added by exclusive or. */
static uint8_t lanes_of(const mfs_field *field)
{
	if (is_words(field))
		return 0xff; /* until words_of_blocks() */
	if (field->transform == MFS_TRANSFORM_PLANES || field->transform == MFS_TRANSFORM_ROTATE ||
	    field->transform == MFS_TRANSFORM_FLOAT || field->bits == 8)
		return 0x80;
	return field->bits == 4 ? 0x88 : field->bits == 2 ? 0xaa : 0xff;
}

static void make_mask(const mfs_layout *layout, uint8_t *mask)
{
	for (uint32_t f = 0; f < layout->field_count; f++)
		memset(mask + layout->field[f].offset, lanes_of(&layout->field[f]),
		       layout->field[f].size);
	for (uint32_t i = 1; i < TOGETHER; i++)
		memcpy(mask + i * layout->block_bytes, mask, layout->block_bytes);
}

static inline void masked(bool encode, const uint8_t *mask, const uint8_t *base, uint8_t *bytes,
			  uint32_t size)
{
	uint64_t a, b, top;
	uint32_t i = 0;

	for (; i + 8 <= size; i += 8) {
		memcpy(&a, bytes + i, 8);
		memcpy(&b, base + i, 8);
		memcpy(&top, mask + i, 8);
		a = encode ? lanes_subtract(a, b, top) : lanes_add(a, b, top);
		memcpy(bytes + i, &a, 8);
	}
	for (; i < size; i++)
		bytes[i] = (uint8_t)(encode ? lanes_subtract(bytes[i], base[i], mask[i])
					    : lanes_add(bytes[i], base[i], mask[i]));
}

/* Words are bytes xor those of the base so far: takes that back and does it right. */
#define WORDS_OF_BLOCKS(bits)                                                                      \
	static inline void words##bits##_of_blocks(bool encode, uint32_t blocks, size_t stride,    \
						   const uint8_t *base, uint8_t *bytes,            \
						   uint32_t size)                                  \
	{                                                                                          \
		for (; blocks; blocks--, base += stride, bytes += stride)                          \
			for (uint32_t i = 0; i < size; i += bits / 8)                              \
				store_le##bits(bytes + i,                                          \
					       word##bits(encode, load_le##bits(base + i),         \
							  load_le##bits(base + i) ^                \
							      load_le##bits(bytes + i)));          \
	}

WORDS_OF_BLOCKS(16)
WORDS_OF_BLOCKS(32)
WORDS_OF_BLOCKS(64)

static void words_of_blocks(const mfs_layout *layout, const mfs_field *field, uint32_t blocks,
			    bool encode, const uint8_t *base, uint8_t *bytes)
{
	const size_t stride = layout->block_bytes;

	base += field->offset;
	bytes += field->offset;
	if (field->width == 8)
		words64_of_blocks(encode, blocks, stride, base, bytes, field->size);
	else if (field->width == 4)
		words32_of_blocks(encode, blocks, stride, base, bytes, field->size);
	else if (field->size == 2) /* the scale of most blocks */
		words16_of_blocks(encode, blocks, stride, base, bytes, 2);
	else
		words16_of_blocks(encode, blocks, stride, base, bytes, field->size);
}

static void small_blocks(const mfs_layout *layout, uint32_t blocks, bool encode,
			 const uint8_t *base, uint8_t *bytes)
{
	uint8_t mask[MASK_MAX];

	make_mask(layout, mask);
	for (uint32_t i = 0; i < blocks; i += TOGETHER) {
		uint32_t n = blocks - i < TOGETHER ? blocks - i : TOGETHER;
		size_t at = (size_t)i * layout->block_bytes;

		if (encode)
			masked(true, mask, base + at, bytes + at, n * layout->block_bytes);
		else
			masked(false, mask, base + at, bytes + at, n * layout->block_bytes);
	}
	for (uint32_t f = 0; f < layout->field_count; f++)
		if (is_words(&layout->field[f]))
			words_of_blocks(layout, &layout->field[f], blocks, encode, base, bytes);
}

static void large_blocks(const mfs_layout *layout, uint32_t blocks, bool encode,
			 const uint8_t *base, uint8_t *bytes)
{
	for (uint32_t i = 0; i < blocks; i++) {
		size_t at = (size_t)i * layout->block_bytes;

		for (uint32_t f = 0; f < layout->field_count; f++) {
			const mfs_field *field = &layout->field[f];

			field_difference(encode, field, base + at + field->offset,
					 bytes + at + field->offset, field->size);
		}
	}
}

static void difference(const mfs_layout *layout, uint32_t blocks, bool encode, const uint8_t *base,
		       uint8_t *bytes)
{
	/* Blocks of one field are one long field. */
	if (layout->field_count == 1)
		field_difference(encode, &layout->field[0], base, bytes,
				 blocks * layout->block_bytes);
	else if (layout->block_bytes <= MASK_MAX / TOGETHER)
		small_blocks(layout, blocks, encode, base, bytes);
	else
		large_blocks(layout, blocks, encode, base, bytes);
}

void mfs_delta_encode(const mfs_layout *layout, uint32_t blocks, bool integer, const uint8_t *base,
		      uint8_t *bytes)
{
	if (integer)
		difference(layout, blocks, true, base, bytes);
	else
		xor_field(base, bytes, (uint64_t)blocks * layout->block_bytes);
}

void mfs_delta_decode(const mfs_layout *layout, uint32_t blocks, bool integer, const uint8_t *base,
		      uint8_t *bytes)
{
	if (integer)
		difference(layout, blocks, false, base, bytes);
	else
		xor_field(base, bytes, (uint64_t)blocks * layout->block_bytes);
}
