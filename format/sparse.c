#include "frame_private.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "mfs_endian.h"
#include "processor.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

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

/* Without branches: whether a weight is zero cannot be foretold. */
ALWAYS_INLINE void expand_words(const uint8_t *mask, size_t words, size_t width, const uint8_t *in,
				uint8_t *out)
{
	for (size_t first = 0; first < words; first += 8) {
		size_t n = words - first < 8 ? words - first : 8;
		unsigned bits = mask[first / 8];

		for (size_t i = 0; i < n; i++, out += width) {
			uint64_t set = bits >> i & 1, word = 0;

			memcpy(&word, in, width);
			word &= -set;
			memcpy(out, &word, width);
			in += set * width;
		}
	}
}

#if defined(__x86_64__)
/* Eight words of two bytes are one shuffle: a word that is set takes that whose number
 * is the count of those set before it. Leaves what is not a whole byte of the mask. */
__attribute__((target("avx2"))) static size_t expand_words2_avx2(const uint8_t *mask, size_t words,
								 const uint8_t **in, uint8_t *out)
{
	const uint64_t each = UINT64_C(0x0101010101010101);
	const __m128i odd = _mm_set1_epi16(0x0100);
	size_t first = 0;

	for (; first + 8 <= words; first += 8) {
		uint64_t set = mask[first / 8] * each & UINT64_C(0x8040201008040201);
		uint64_t upto, from;
		__m128i byte;

		set = (set + 0x7f * each) >> 7 & each;
		upto = set * each;
		from = (upto - set) | (set ^ each) << 6; /* twice 64: the shuffle's zero */
		byte = _mm_cvtsi64_si128((long long)from);
		byte = _mm_unpacklo_epi8(byte, byte);
		byte = _mm_or_si128(_mm_add_epi8(byte, byte), odd);
		byte = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)*in), byte);
		_mm_storeu_si128((__m128i *)(void *)(out + first * 2), byte);
		*in += upto >> 56 << 1;
	}
	return first;
}
#endif

static void expand_words2(const uint8_t *mask, size_t words, const uint8_t *in, uint8_t *out)
{
	size_t done = 0;

#if defined(__x86_64__)
	if (mfs_processor() & MFS_PROCESSOR_AVX2)
		done = expand_words2_avx2(mask, words, &in, out);
#endif
	expand_words(mask + done / 8, words - done, 2, in, out + done * 2);
}

void mfs_sparse_expand(const uint8_t *mask, size_t words, unsigned width, const uint8_t *in,
		       uint8_t *out)
{
	if (width == 2)
		expand_words2(mask, words, in, out);
	else if (width == 4)
		expand_words(mask, words, 4, in, out);
	else
		expand_words(mask, words, 8, in, out);
}
