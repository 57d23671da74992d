#include "frame_private.h"

int mfs_sparse_fits(const mfs_layout *layout)
{
	const mfs_field *field = &layout->field[0];

	return layout->field_count == 1 && layout->slot_streams[0] > 0 &&
	       (field->transform == MFS_TRANSFORM_PLANES ||
		field->transform == MFS_TRANSFORM_ROTATE ||
		field->transform == MFS_TRANSFORM_FLOAT) &&
	       field->width > 1;
}

size_t mfs_sparse_mask(const uint8_t *const plane[], unsigned width, size_t words, uint8_t *mask)
{
	size_t count = 0;

	for (size_t first = 0; first < words; first += 8) {
		size_t n = words - first < 8 ? words - first : 8;
		unsigned bits = 0;

		for (size_t i = 0; i < n; i++) {
			unsigned any = 0;

			for (unsigned k = 0; k < width; k++)
				any |= plane[k][first + i];
			bits |= (unsigned)(any != 0) << i;
		}
		mask[first / 8] = (uint8_t)bits;
		count += (size_t)__builtin_popcount(bits);
	}
	return count;
}

size_t mfs_sparse_count(const uint8_t *mask, size_t words)
{
	size_t count = 0;

	for (size_t i = 0; i < words / 8; i++)
		count += (size_t)__builtin_popcount(mask[i]);
	if (words % 8)
		count += (size_t)__builtin_popcount(mask[words / 8] & ((1u << words % 8) - 1));
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
