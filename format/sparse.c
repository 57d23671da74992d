#include "frame_private.h"

#include "mfs_endian.h"

int mfs_sparse_fits(const mfs_layout *layout)
{
	const mfs_field *field = &layout->field[0];

	return layout->field_count == 1 && layout->slot_streams[0] > 0 &&
	       (field->transform == MFS_TRANSFORM_PLANES ||
		field->transform == MFS_TRANSFORM_ROTATE ||
		field->transform == MFS_TRANSFORM_FLOAT) &&
	       field->width > 1;
}

/* The mask of eight words. */
static unsigned mask_of(const uint8_t *const plane[], unsigned width, size_t first)
{
	const uint64_t low = UINT64_C(0x7f7f7f7f7f7f7f7f);
	uint64_t any = 0;

	for (unsigned k = 0; k < width; k++)
		any |= load_le64(plane[k] + first);
	/* The highest bit of each byte that is not zero, down to the lowest, and these
	 * together in the top byte. */
	any = (((any & low) + low) | any) >> 7 & UINT64_C(0x0101010101010101);
	return (unsigned)(any * UINT64_C(0x0102040810204080) >> 56);
}

size_t mfs_sparse_mask(const uint8_t *const plane[], unsigned width, size_t words, uint8_t *mask)
{
	size_t first = 0;
	unsigned bits = 0;

	for (; first + 8 <= words; first += 8)
		mask[first / 8] = (uint8_t)mask_of(plane, width, first);
	for (size_t i = first; i < words; i++) {
		unsigned any = 0;

		for (unsigned k = 0; k < width; k++)
			any |= plane[k][i];
		bits |= (unsigned)(any != 0) << (i - first);
	}
	if (first < words)
		mask[first / 8] = (uint8_t)bits;
	return mfs_sparse_count(mask, words);
}

/* Bits that are set: counted eight bytes at a time. */
static unsigned count_bits(uint64_t v)
{
	v -= v >> 1 & UINT64_C(0x5555555555555555);
	v = (v & UINT64_C(0x3333333333333333)) + (v >> 2 & UINT64_C(0x3333333333333333));
	v = (v + (v >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
	return (unsigned)(v * UINT64_C(0x0101010101010101) >> 56);
}

size_t mfs_sparse_count(const uint8_t *mask, size_t words)
{
	size_t count = 0, i = 0;

	for (; i + 8 <= words / 8; i += 8)
		count += count_bits(load_le64(mask + i));
	for (; i < words / 8; i++)
		count += count_bits(mask[i]);
	if (words % 8)
		count += count_bits(mask[words / 8] & ((1u << words % 8) - 1));
	return count;
}

void mfs_sparse_pack(const uint8_t *mask, size_t words, const uint8_t *in, uint8_t *out)
{
	for (size_t i = 0; i < words; i++) {
		*out = in[i];
		out += mask[i / 8] >> i % 8 & 1;
	}
}

/* Without branches: whether a weight is zero cannot be foretold. Reads one byte
 * behind the last. */
void mfs_sparse_unpack(const uint8_t *mask, size_t words, const uint8_t *in, uint8_t *out)
{
	for (size_t first = 0; first < words; first += 8) {
		size_t n = words - first < 8 ? words - first : 8;
		unsigned bits = mask[first / 8];

		for (size_t i = 0; i < n; i++) {
			unsigned set = bits >> i & 1;

			out[first + i] = (uint8_t)(*in & -set);
			in += set;
		}
	}
}
