#include "layout.h"

#include <string.h>

#include "context.h"
#include "modelfs_error.h"
#include "planes_x86.h"
#include "processor.h"
#include "symbols.h"

/* Original bytes handled before the next field is looked at: each field passes
 * over the same blocks, which should still lie in the first-level cache. */
#define TILE_BYTES 8192

#define ALWAYS_INLINE static inline __attribute__((always_inline))

static uint32_t field_streams(const mfs_field *field)
{
	switch (field->transform) {
	case MFS_TRANSFORM_PLANES:
	case MFS_TRANSFORM_ROTATE:
	case MFS_TRANSFORM_FLOAT:
		return field->width;
	default:
		return 1;
	}
}

static int is_packed(const mfs_field *field)
{
	return field->transform == MFS_TRANSFORM_SYMBOLS ||
	       field->transform == MFS_TRANSFORM_EXTEND;
}

/* ---- checking ---- */

static int packed_check(const mfs_field *field)
{
	if (field->cls != MFS_DISK_WEIGHTS || field->size == 0 || field->width == 0)
		return MFS_E_CORRUPT;
	if (field->bits != 1 && field->bits != 2 && field->bits != 4 && field->bits != 8)
		return MFS_E_CORRUPT;
	if (field->run == 0 || field->size % field->run)
		return MFS_E_CORRUPT;
	return field->transform == MFS_TRANSFORM_EXTEND && field->width != 1 ? MFS_E_CORRUPT : 0;
}

static int field_check(const mfs_field *field)
{
	if (field->transform >= MFS_TRANSFORMS)
		return MFS_E_CORRUPT;
	if (is_packed(field))
		return packed_check(field);
	if (field->run)
		return MFS_E_CORRUPT;
	if (field->cls != MFS_DISK_WEIGHTS && field->cls != MFS_DISK_CONSTANTS)
		return MFS_E_CORRUPT;
	if (field->width != 1 && field->width != 2 && field->width != 4 && field->width != 8)
		return MFS_E_CORRUPT;
	if (field->transform == MFS_TRANSFORM_BYTES && field->width != 1)
		return MFS_E_CORRUPT;
	if (field->size == 0 || field->size % field->width)
		return MFS_E_CORRUPT;
	return 0;
}

/* The fields lie one behind the other and end where the block ends. */
static int layout_check(const mfs_layout *layout)
{
	uint32_t end = 0;
	uint32_t streams = 0;

	if (layout->block_bytes == 0 || layout->block_bytes > MFS_BLOCK_MAX)
		return MFS_E_CORRUPT;
	if (layout->field_count == 0 || layout->field_count > MFS_STREAMS_MAX)
		return MFS_E_CORRUPT;
	for (uint32_t i = 0; i < layout->field_count; i++) {
		const mfs_field *field = &layout->field[i];

		if (field_check(field))
			return MFS_E_CORRUPT;
		if (field->offset != end || field->size > layout->block_bytes - end)
			return MFS_E_CORRUPT;
		end += field->size;
		streams += field_streams(field);
	}
	return end == layout->block_bytes && streams <= MFS_STREAMS_MAX ? 0 : MFS_E_CORRUPT;
}

static void field_add_streams(mfs_layout *layout, uint32_t number)
{
	const mfs_field *field = &layout->field[number];
	uint32_t planes = field_streams(field);
	uint8_t slot = field->cls == MFS_DISK_CONSTANTS;

	for (uint32_t plane = 0; plane < planes; plane++) {
		mfs_stream *stream = &layout->stream[layout->stream_count++];

		stream->per_block = field->size / planes;
		stream->slot = slot;
		stream->field = (uint8_t)number;
		stream->plane = (uint8_t)plane;
	}
	layout->slot_streams[slot] += planes;
	layout->slot_bytes[slot] += field->size;
}

/* Finds the one field of symbols and the one that extends it. */
static int find_symbols(const mfs_layout *layout, mfs_symbols *out)
{
	int low = -1, high = -1;

	memset(out, 0, sizeof(*out));
	for (uint32_t i = 0; i < layout->field_count; i++) {
		int *place = layout->field[i].transform == MFS_TRANSFORM_EXTEND ? &high : &low;

		if (!is_packed(&layout->field[i]))
			continue;
		if (*place >= 0)
			return MFS_E_CORRUPT;
		*place = (int)i;
	}
	if (low < 0)
		return high < 0 ? 0 : MFS_E_CORRUPT;
	out->low = (uint8_t)low;
	out->high = (uint8_t)(high < 0 ? low : high);
	out->weights = layout->field[low].size * 8 / layout->field[low].bits;
	out->group = layout->field[low].width;
	out->pack = 8 / layout->field[low].bits;
	if (high >= 0 && (layout->field[high].size * 8 / layout->field[high].bits != out->weights ||
			  layout->field[high].bits + layout->field[low].bits > 8))
		return MFS_E_CORRUPT;
	return out->weights % out->group || out->group % out->pack ? MFS_E_CORRUPT : 0;
}

int mfs_layout_finish(mfs_layout *layout)
{
	mfs_symbols symbols;
	int err = layout_check(layout);

	if (!err)
		err = find_symbols(layout, &symbols);
	if (err)
		return err;
	layout->stream_count = 0;
	memset(layout->slot_streams, 0, sizeof(layout->slot_streams));
	memset(layout->slot_bytes, 0, sizeof(layout->slot_bytes));
	memset(layout->stream, 0, sizeof(layout->stream));
	for (uint32_t i = 0; i < layout->field_count; i++)
		field_add_streams(layout, i);
	layout->symbols = symbols;
	for (uint32_t i = 0; i < layout->stream_count && symbols.weights; i++)
		if (layout->stream[i].field == symbols.low)
			layout->symbols.stream = (uint8_t)i;
	return mfs_context_check(layout);
}

/* ---- fields as they are ---- */

/* Where a field lies in the blocks at hand. */
struct place {
	uint32_t blocks;
	uint32_t stride; /* bytes from block to block */
};

ALWAYS_INLINE void copy_fields(uint8_t *restrict out, size_t out_stride, const uint8_t *restrict in,
			       size_t in_stride, size_t size, uint32_t blocks)
{
	for (uint32_t i = 0; i < blocks; i++)
		memcpy(out + i * out_stride, in + i * in_stride, size);
}

/* Copies with a size that the compiler knows become a few moves; these are the
 * sizes of quantization blocks' fields. One of the strides is the size. */
ALWAYS_INLINE void copy_sized(uint8_t *out, const uint8_t *in, size_t size, struct place at,
			      int joining)
{
#define COPY(n)                                                                                    \
	case n:                                                                                    \
		copy_fields(out, joining ? at.stride : n, in, joining ? n : at.stride, n,          \
			    at.blocks);                                                            \
		break
	switch (size) {
		COPY(1);
		COPY(2);
		COPY(4);
		COPY(8);
		COPY(12);
		COPY(16);
		COPY(32);
		COPY(48);
		COPY(64);
		COPY(128);
		COPY(256);
	default:
		copy_fields(out, joining ? at.stride : size, in, joining ? size : at.stride, size,
			    at.blocks);
	}
#undef COPY
}

/* ---- words in planes ----
 *
 * Rotation is done on bytes: the upper bits of each byte move to its neighbour. So
 * the processor's byte order does not matter, and the loops become shifts and
 * interleaves of whole vectors. */

ALWAYS_INLINE unsigned rotation(unsigned transform)
{
	return transform == MFS_TRANSFORM_FLOAT ? 3 : transform == MFS_TRANSFORM_ROTATE;
}

ALWAYS_INLINE uint8_t joined_byte(uint8_t low, uint8_t high, unsigned transform, int top)
{
	unsigned n = rotation(transform);
	uint8_t byte = (uint8_t)(low >> n | (unsigned)high << (8 - n));

	return transform == MFS_TRANSFORM_FLOAT && top ? mfs_float_top_back(byte) : byte;
}

/* Words that are handled together: rotated plane by plane, then interleaved, which
 * compilers make vectors of where they do not of both at once. */
#define RUN 64

ALWAYS_INLINE void join_some(uint8_t *restrict out, const uint8_t *const plane[], size_t n,
			     unsigned width, unsigned transform)
{
	uint8_t byte[8][RUN];

	for (unsigned k = 0; k < width; k++) {
		const uint8_t *low = plane[k], *high = plane[(k + 1) % width];

		for (size_t i = 0; i < n; i++)
			byte[k][i] = joined_byte(low[i], high[i], transform, k == width - 1);
	}
	for (size_t i = 0; i < n; i++)
		for (unsigned k = 0; k < width; k++)
			out[i * width + k] = byte[k][i];
}

ALWAYS_INLINE void split_some(uint8_t *const plane[], const uint8_t *restrict in, size_t n,
			      unsigned width, unsigned transform)
{
	const unsigned r = rotation(transform), top = width - 1;
	uint8_t byte[8][RUN];

	for (size_t i = 0; i < n; i++)
		for (unsigned k = 0; k < width; k++)
			byte[k][i] = in[i * width + k];
	for (size_t i = 0; i < n && transform == MFS_TRANSFORM_FLOAT; i++)
		byte[top][i] = mfs_float_top(byte[top][i]);
	for (unsigned k = 0; k < width; k++) {
		const uint8_t *high = byte[k], *low = byte[(k + top) % width];
		uint8_t *to = plane[k];

		for (size_t i = 0; i < n; i++)
			to[i] = (uint8_t)((unsigned)high[i] << r | low[i] >> (8 - r));
	}
}

ALWAYS_INLINE void move_planes(uint8_t *plane[], unsigned width, size_t by)
{
	for (unsigned k = 0; k < width; k++)
		plane[k] += by;
}

ALWAYS_INLINE void join_words(uint8_t *restrict out, const uint8_t *const plane[], size_t n,
			      unsigned width, unsigned transform)
{
	uint8_t *p[8];

	for (unsigned k = 0; k < width; k++)
		p[k] = (uint8_t *)plane[k];
	for (; n >= RUN; n -= RUN, out += (size_t)RUN * width, move_planes(p, width, RUN))
		join_some(out, (const uint8_t *const *)p, RUN, width, transform);
	join_some(out, (const uint8_t *const *)p, n, width, transform);
}

ALWAYS_INLINE void split_words(uint8_t *const plane[], const uint8_t *restrict in, size_t n,
			       unsigned width, unsigned transform)
{
	uint8_t *p[8];

	for (unsigned k = 0; k < width; k++)
		p[k] = plane[k];
	for (; n >= RUN; n -= RUN, in += (size_t)RUN * width, move_planes(p, width, RUN))
		split_some(p, in, RUN, width, transform);
	split_some(p, in, n, width, transform);
}

/* `words` of each block; 1 is told apart because the call is inlined. */
ALWAYS_INLINE void join_planes(uint8_t *out, const uint8_t *const plane[], size_t words,
			       struct place at, unsigned width, unsigned transform)
{
	const uint8_t *p[8];

	for (uint32_t block = 0; block < at.blocks; block++) {
		for (unsigned k = 0; k < width; k++)
			p[k] = plane[k] + block * words;
		join_words(out + (size_t)block * at.stride, p, words, width, transform);
	}
}

/* A word of each block: put together first, a run of them is split by vectors. */
ALWAYS_INLINE void split_single(uint8_t *const plane[], const uint8_t *in, struct place at,
				unsigned width, unsigned transform)
{
	uint8_t together[RUN * 8], *p[8];

	for (uint32_t first = 0, n; first < at.blocks; first += n) {
		n = at.blocks - first < RUN ? at.blocks - first : RUN;
		for (uint32_t i = 0; i < n; i++)
			memcpy(together + i * width, in + (size_t)(first + i) * at.stride, width);
		for (unsigned k = 0; k < width; k++)
			p[k] = plane[k] + first;
		split_words(p, together, n, width, transform);
	}
}

ALWAYS_INLINE void split_planes(uint8_t *const plane[], const uint8_t *in, size_t words,
				struct place at, unsigned width, unsigned transform)
{
	uint8_t *p[8];

	if (words == 1) {
		split_single(plane, in, at, width, transform);
		return;
	}
	for (uint32_t block = 0; block < at.blocks; block++) {
		for (unsigned k = 0; k < width; k++)
			p[k] = plane[k] + block * words;
		split_words(p, in + (size_t)block * at.stride, words, width, transform);
	}
}

#define WORDS(call, first, second, width, transform)                                               \
	do {                                                                                       \
		if (words == 1)                                                                    \
			call(first, second, 1, at, width, transform);                              \
		else                                                                               \
			call(first, second, words, at, width, transform);                          \
	} while (0)
#define WIDTHS(call, first, second, transform)                                                     \
	do {                                                                                       \
		if (width == 2)                                                                    \
			WORDS(call, first, second, 2, transform);                                  \
		else if (width == 4)                                                               \
			WORDS(call, first, second, 4, transform);                                  \
		else if (width == 8)                                                               \
			WORDS(call, first, second, 8, transform);                                  \
		else                                                                               \
			WORDS(call, first, second, 1, transform);                                  \
	} while (0)

/* The first words of one run, as many as a loop for this processor has put back. */
static size_t join_vectors(const mfs_field *field, uint8_t *out, const uint8_t *const plane[],
			   size_t words)
{
#if defined(__x86_64__)
	if (words >= RUN && mfs_processor() & MFS_PROCESSOR_AVX2)
		return mfs_join_words_avx2(out, plane, words, field->width, field->transform);
#endif
	(void)field, (void)out, (void)plane, (void)words;
	return 0;
}

/* The same for a word of each block: returns the blocks. */
static uint32_t join_singles(const mfs_field *field, uint8_t *out, const uint8_t *const plane[],
			     struct place at)
{
#if defined(__x86_64__)
	if (field->width == 2 && field->transform == MFS_TRANSFORM_PLANES &&
	    mfs_processor() & MFS_PROCESSOR_AVX2)
		return mfs_join_singles_avx2(out, plane, at.blocks, at.stride);
#endif
	(void)field, (void)out, (void)plane, (void)at;
	return 0;
}

static void move_on(const uint8_t *plane[], unsigned width, size_t by)
{
	for (unsigned k = 0; k < width; k++)
		plane[k] += by;
}

/* Loops for this processor go first, and move the planes on. */
static void join_planes_of(const mfs_field *field, uint8_t *out, const uint8_t *plane[],
			   size_t words, struct place at)
{
	unsigned width = field->width;

	if (at.blocks == 1) {
		size_t done = join_vectors(field, out, plane, words);

		words -= done;
		out += done * width;
		move_on(plane, width, done);
	} else if (words == 1) {
		uint32_t done = join_singles(field, out, plane, at);

		at.blocks -= done;
		out += (size_t)done * at.stride;
		move_on(plane, width, done);
	}
	if (words == 0 || at.blocks == 0)
		return;
	if (field->transform == MFS_TRANSFORM_FLOAT)
		WIDTHS(join_planes, out, plane, MFS_TRANSFORM_FLOAT);
	else if (field->transform == MFS_TRANSFORM_ROTATE)
		WIDTHS(join_planes, out, plane, MFS_TRANSFORM_ROTATE);
	else
		WIDTHS(join_planes, out, plane, MFS_TRANSFORM_PLANES);
}

static void split_planes_of(const mfs_field *field, uint8_t *const plane[], const uint8_t *in,
			    size_t words, struct place at)
{
	unsigned width = field->width;

	if (field->transform == MFS_TRANSFORM_FLOAT)
		WIDTHS(split_planes, plane, in, MFS_TRANSFORM_FLOAT);
	else if (field->transform == MFS_TRANSFORM_ROTATE)
		WIDTHS(split_planes, plane, in, MFS_TRANSFORM_ROTATE);
	else
		WIDTHS(split_planes, plane, in, MFS_TRANSFORM_PLANES);
}

/* ---- whole blocks ---- */

/* A field that is the whole block is one long run of words. */
static struct place place_of(const mfs_layout *layout, const mfs_field *field, uint32_t blocks,
			     size_t *words)
{
	struct place at = {blocks, layout->block_bytes};

	*words = field->size / field->width;
	if (field->size == layout->block_bytes) {
		*words *= blocks;
		at.blocks = 1;
	}
	return at;
}

static void join_field(const mfs_layout *layout, const mfs_field *field, uint32_t first,
		       uint32_t blocks, const uint8_t *const stream[], uint8_t *out)
{
	const uint8_t *plane[8];
	size_t words;
	struct place at = place_of(layout, field, blocks, &words);

	out += (size_t)first * layout->block_bytes + field->offset;
	if (field->transform == MFS_TRANSFORM_BYTES) {
		at.blocks = blocks;
		copy_sized(out, stream[0] + (size_t)first * field->size, field->size, at, 1);
		return;
	}
	for (uint32_t k = 0; k < field->width; k++)
		plane[k] = stream[k] + (size_t)first * (field->size / field->width);
	join_planes_of(field, out, plane, words, at);
}

static void split_field(const mfs_layout *layout, const mfs_field *field, uint32_t first,
			uint32_t blocks, const uint8_t *in, uint8_t *const stream[])
{
	uint8_t *plane[8];
	size_t words;
	struct place at = place_of(layout, field, blocks, &words);

	in += (size_t)first * layout->block_bytes + field->offset;
	if (field->transform == MFS_TRANSFORM_BYTES) {
		at.blocks = blocks;
		copy_sized(stream[0] + (size_t)first * field->size, in, field->size, at, 0);
		return;
	}
	for (uint32_t k = 0; k < field->width; k++)
		plane[k] = stream[k] + (size_t)first * (field->size / field->width);
	split_planes_of(field, plane, in, words, at);
}

static uint32_t tile_blocks(const mfs_layout *layout, uint32_t left)
{
	uint32_t tile = TILE_BYTES / layout->block_bytes;

	if (tile == 0)
		tile = 1;
	return left < tile ? left : tile;
}

/* One stream of bytes is the blocks themselves. */
static int is_copy(const mfs_layout *layout)
{
	return layout->stream_count == 1 && (layout->field[0].transform == MFS_TRANSFORM_BYTES ||
					     layout->field[0].transform == MFS_TRANSFORM_PLANES);
}

/* The streams of symbols, from block `first` on. */
static const uint8_t *symbols_at(const mfs_layout *layout, uint32_t field, uint32_t first,
				 const uint8_t *const stream[])
{
	for (uint32_t s = 0; s < layout->stream_count; s++)
		if (layout->stream[s].field == field)
			return stream[s] + (size_t)first * layout->stream[s].per_block;
	return NULL;
}

static void split_symbols(const mfs_layout *layout, uint32_t first, uint32_t blocks,
			  const uint8_t *in, uint8_t *const stream[])
{
	const uint8_t *const *at = (const uint8_t *const *)stream;

	mfs_symbols_split(layout, blocks, in + (size_t)first * layout->block_bytes,
			  (uint8_t *)symbols_at(layout, layout->symbols.low, first, at),
			  (uint8_t *)symbols_at(layout, layout->symbols.high, first, at));
}

static void join_symbols(const mfs_layout *layout, uint32_t first, uint32_t blocks,
			 const uint8_t *const stream[], uint8_t *out)
{
	mfs_symbols_join(layout, blocks, symbols_at(layout, layout->symbols.low, first, stream),
			 symbols_at(layout, layout->symbols.high, first, stream),
			 out + (size_t)first * layout->block_bytes);
}

static void split_tile(const mfs_layout *layout, uint32_t first, uint32_t blocks, const uint8_t *in,
		       uint8_t *const stream[])
{
	uint32_t s = 0;

	for (uint32_t i = 0; i < layout->field_count; i++) {
		if (!is_packed(&layout->field[i]))
			split_field(layout, &layout->field[i], first, blocks, in, stream + s);
		s += field_streams(&layout->field[i]);
	}
	if (layout->symbols.weights)
		split_symbols(layout, first, blocks, in, stream);
}

/* The fields of a run of blocks that belong to the slots in `slots`. */
static void join_tile(const mfs_layout *layout, unsigned slots, uint32_t first, uint32_t blocks,
		      const uint8_t *const stream[], uint8_t *out)
{
	uint32_t s = 0;

	for (uint32_t i = 0; i < layout->field_count; i++) {
		const mfs_field *field = &layout->field[i];
		unsigned slot = field->cls == MFS_DISK_CONSTANTS;

		if (!is_packed(field) && slots >> slot & 1)
			join_field(layout, field, first, blocks, stream + s, out);
		s += field_streams(field);
	}
	if (layout->symbols.weights && slots & 1)
		join_symbols(layout, first, blocks, stream, out);
}

void mfs_layout_split(const mfs_layout *layout, uint32_t blocks, const uint8_t *in,
		      uint8_t *const stream[])
{
	uint32_t tile;

	if (is_copy(layout)) {
		memcpy(stream[0], in, (size_t)blocks * layout->block_bytes);
		return;
	}
	for (uint32_t first = 0; first < blocks; first += tile) {
		tile = tile_blocks(layout, blocks - first);
		split_tile(layout, first, tile, in, stream);
	}
}

static void join_slots(const mfs_layout *layout, unsigned slots, uint32_t blocks,
		       const uint8_t *const stream[], uint8_t *out)
{
	uint32_t tile;

	if (is_copy(layout)) {
		memcpy(out, stream[0], (size_t)blocks * layout->block_bytes);
		return;
	}
	for (uint32_t first = 0; first < blocks; first += tile) {
		tile = tile_blocks(layout, blocks - first);
		join_tile(layout, slots, first, tile, stream, out);
	}
}

void mfs_layout_join(const mfs_layout *layout, uint32_t blocks, const uint8_t *const stream[],
		     uint8_t *out)
{
	join_slots(layout, ~0u, blocks, stream, out);
}

void mfs_layout_join_slot(const mfs_layout *layout, unsigned slot, uint32_t blocks,
			  const uint8_t *const stream[], uint8_t *out)
{
	join_slots(layout, 1u << slot, blocks, stream, out);
}

void mfs_layout_join_words(const mfs_layout *layout, size_t words, const uint8_t *const stream[],
			   uint8_t *out)
{
	const mfs_field *field = &layout->field[0];
	struct place at = {.blocks = 1, .stride = layout->block_bytes};
	const uint8_t *plane[8];

	memcpy(plane, stream, field->width * sizeof(*plane));
	join_planes_of(field, out, plane, words, at);
}

/* ---- the reference ---- */

static uint64_t rotate_left(uint64_t word, unsigned width, unsigned n)
{
	unsigned bits = 8 * width;
	uint64_t mask = UINT64_MAX >> (64 - bits);

	word &= mask;
	return (word << n | word >> (bits - n)) & mask;
}

/* A word as its transform makes it, and back. */
static uint64_t transformed(const mfs_field *field, uint64_t word)
{
	unsigned top = 8u * field->width - 8;

	if (field->transform == MFS_TRANSFORM_ROTATE)
		return rotate_left(word, field->width, 1);
	if (field->transform == MFS_TRANSFORM_FLOAT)
		return rotate_left((word - (UINT64_C(8) << top)) ^ UINT64_C(0xf8) << top,
				   field->width, 3);
	return word;
}

static uint64_t restored(const mfs_field *field, uint64_t word)
{
	unsigned bits = 8u * field->width;

	if (field->transform == MFS_TRANSFORM_ROTATE)
		return rotate_left(word, field->width, bits - 1);
	if (field->transform == MFS_TRANSFORM_FLOAT)
		return (rotate_left(word, field->width, bits - 3) ^ UINT64_C(0xf8) << (bits - 8)) +
		       (UINT64_C(8) << (bits - 8));
	return word;
}

static uint64_t load_word(const uint8_t *in, unsigned width)
{
	uint64_t word = 0;

	for (unsigned k = 0; k < width; k++)
		word |= (uint64_t)in[k] << 8 * k;
	return word;
}

void mfs_layout_split_reference(const mfs_layout *layout, uint32_t blocks, const uint8_t *in,
				uint8_t *const stream[])
{
	for (uint32_t s = 0; s < layout->stream_count; s++) {
		const mfs_stream *about = &layout->stream[s];
		const mfs_field *field = &layout->field[about->field];
		uint8_t *out = stream[s];

		if (is_packed(field))
			continue;
		for (uint32_t block = 0; block < blocks; block++) {
			const uint8_t *at =
			    in + (size_t)block * layout->block_bytes + field->offset;

			for (uint32_t i = 0; i < field->size; i += field->width) {
				uint64_t word = transformed(field, load_word(at + i, field->width));

				*out++ = (uint8_t)(word >> 8 * about->plane);
			}
		}
	}
	if (layout->symbols.weights)
		mfs_symbols_split_reference(layout, blocks, in,
					    (uint8_t *)symbols_at(layout, layout->symbols.low, 0,
								  (const uint8_t *const *)stream),
					    (uint8_t *)symbols_at(layout, layout->symbols.high, 0,
								  (const uint8_t *const *)stream));
}

/* Gathers the word numbered `word` of a field from its streams. */
static uint64_t gather_word(const mfs_field *field, const uint8_t *const plane[], size_t number)
{
	uint64_t word = 0;

	for (unsigned k = 0; k < field->width; k++)
		word |= (uint64_t)plane[k][number] << 8 * k;
	return restored(field, word);
}

void mfs_layout_join_reference(const mfs_layout *layout, uint32_t blocks,
			       const uint8_t *const stream[], uint8_t *out)
{
	for (uint32_t s = 0; s < layout->stream_count; s++) {
		const mfs_field *field = &layout->field[layout->stream[s].field];
		uint32_t words = field->size / field->width;

		if (is_packed(field) || layout->stream[s].plane != 0)
			continue;
		for (size_t i = 0; i < (size_t)blocks * words; i++) {
			uint64_t word = gather_word(field, stream + s, i);
			uint8_t *at = out + i / words * layout->block_bytes + field->offset +
				      i % words * field->width;

			for (unsigned k = 0; k < field->width; k++)
				at[k] = (uint8_t)(word >> 8 * k);
		}
	}
	if (layout->symbols.weights)
		mfs_symbols_join_reference(
		    layout, blocks, symbols_at(layout, layout->symbols.low, 0, stream),
		    symbols_at(layout, layout->symbols.high, 0, stream), out);
}

/* ---- opaque bytes ---- */

const mfs_layout *mfs_layout_bytes(void)
{
	static const mfs_layout bytes = {
	    .name = "bytes",
	    .name_length = 5,
	    .block_bytes = 1,
	    .block_weights = 1,
	    .field_count = 1,
	    .field = {{.name = "bytes",
		       .name_length = 5,
		       .cls = MFS_DISK_WEIGHTS,
		       .transform = MFS_TRANSFORM_BYTES,
		       .width = 1,
		       .bits = 8,
		       .size = 1}},
	    .stream_count = 1,
	    .slot_streams = {1, 0},
	    .slot_bytes = {1, 0},
	    .stream = {{.per_block = 1}},
	};

	return &bytes;
}
