#include "symbols.h"

#include <string.h>

#include "processor.h"
#include "symbols_kernels.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Sanitizers put a check at each of the unrolled loads, and compilers then take
 * minutes. */
#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define SANITIZED
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define SANITIZED
#endif

#define PRAGMA(text) _Pragma(#text)
#ifdef __clang__
/* The call for shapes that are not known here has nothing to unroll. */
#pragma clang diagnostic ignored "-Wpass-failed"
#endif
#ifdef SANITIZED
#define UNROLL(n)
#else
#define UNROLL(n) PRAGMA(GCC unroll n)
#endif

/* How the weights of a block lie in its fields and in its symbols. */
struct shape {
	unsigned low_bits, low_run;
	unsigned high_bits, high_run; /* 0: nothing extends */
	unsigned group, pack;	      /* weights; weights to a byte of `upper` */
	unsigned weights;
};

static struct shape shape_of(const mfs_layout *layout)
{
	const mfs_symbols *symbols = &layout->symbols;
	const mfs_field *low = &layout->field[symbols->low];
	const mfs_field *high = &layout->field[symbols->high];
	struct shape shape = {.low_bits = low->bits,
			      .low_run = low->run,
			      .group = symbols->group,
			      .pack = symbols->pack,
			      .weights = symbols->weights};

	if (high != low) {
		shape.high_bits = high->bits;
		shape.high_run = high->run;
	}
	return shape;
}

/* ---- the reference: one weight at a time ---- */

/* Byte and shift of weight j in a field. */
static unsigned byte_of(unsigned j, unsigned bits, unsigned run)
{
	unsigned n = 8 / bits;

	return j / (run * n) * run + j % run;
}

static unsigned shift_of(unsigned j, unsigned bits, unsigned run)
{
	return bits * (j / run % (8 / bits));
}

/* The same in the upper bits of a block's symbols. */
static unsigned upper_byte_of(const struct shape *shape, unsigned j)
{
	unsigned bytes = shape->group / shape->pack;

	return j / shape->group * bytes + j % shape->group % bytes;
}

static unsigned upper_shift_of(const struct shape *shape, unsigned j)
{
	unsigned bytes = shape->group / shape->pack;

	return shape->low_bits * (j % shape->group / bytes);
}

static unsigned get_bits(const uint8_t *field, unsigned j, unsigned bits, unsigned run)
{
	return field[byte_of(j, bits, run)] >> shift_of(j, bits, run) & ((1u << bits) - 1);
}

static void set_bits(uint8_t *field, unsigned j, unsigned bits, unsigned run, unsigned value)
{
	value &= (1u << bits) - 1;
	field[byte_of(j, bits, run)] |= (uint8_t)(value << shift_of(j, bits, run));
}

static void split_reference(const struct shape *shape, const uint8_t *low, const uint8_t *high,
			    uint8_t *upper, uint8_t *rest)
{
	memset(upper, 0, shape->weights * shape->low_bits / 8);
	if (shape->high_bits)
		memset(rest, 0, shape->weights * shape->high_bits / 8);
	for (unsigned j = 0; j < shape->weights; j++) {
		unsigned symbol = get_bits(low, j, shape->low_bits, shape->low_run);

		if (shape->high_bits) {
			symbol |= get_bits(high, j, shape->high_bits, shape->high_run)
				  << shape->low_bits;
			set_bits(rest, j, shape->high_bits, shape->high_run, symbol);
		}
		upper[upper_byte_of(shape, j)] |=
		    (uint8_t)(symbol >> shape->high_bits << upper_shift_of(shape, j));
	}
}

static void join_reference(const struct shape *shape, const uint8_t *upper, const uint8_t *rest,
			   uint8_t *low, uint8_t *high)
{
	unsigned mask = (1u << shape->low_bits) - 1;

	memset(low, 0, shape->weights * shape->low_bits / 8);
	if (shape->high_bits)
		memset(high, 0, shape->weights * shape->high_bits / 8);
	for (unsigned j = 0; j < shape->weights; j++) {
		unsigned symbol = upper[upper_byte_of(shape, j)] >> upper_shift_of(shape, j) & mask;

		if (shape->high_bits) {
			symbol = symbol << shape->high_bits |
				 get_bits(rest, j, shape->high_bits, shape->high_run);
			set_bits(high, j, shape->high_bits, shape->high_run,
				 symbol >> shape->low_bits);
		}
		set_bits(low, j, shape->low_bits, shape->low_run, symbol);
	}
}

void mfs_symbols_split_reference(const mfs_layout *layout, uint32_t blocks, const uint8_t *in,
				 uint8_t *upper, uint8_t *rest)
{
	const mfs_field *low = &layout->field[layout->symbols.low];
	const mfs_field *high = &layout->field[layout->symbols.high];
	struct shape shape = shape_of(layout);

	for (uint32_t b = 0; b < blocks; b++, in += layout->block_bytes)
		split_reference(&shape, in + low->offset, in + high->offset,
				upper + (size_t)b * low->size, rest + (size_t)b * high->size);
}

void mfs_symbols_join_reference(const mfs_layout *layout, uint32_t blocks, const uint8_t *upper,
				const uint8_t *rest, uint8_t *out)
{
	const mfs_field *low = &layout->field[layout->symbols.low];
	const mfs_field *high = &layout->field[layout->symbols.high];
	struct shape shape = shape_of(layout);

	for (uint32_t b = 0; b < blocks; b++, out += layout->block_bytes)
		join_reference(&shape, upper + (size_t)b * low->size, rest + (size_t)b * high->size,
			       out + low->offset, out + high->offset);
}

/* ---- eight weights at a time ----
 *
 * Eight neighbours of a run are the bytes of one 64-bit word. Shifts are less
 * than a byte and masks follow, so the processor's byte order does not matter,
 * except where the eight bits of one byte are spread over eight bytes. Unrolled,
 * all places are constants: that makes the loops four times as fast. */

ALWAYS_INLINE uint64_t load8(const uint8_t *from)
{
	uint64_t word;

	memcpy(&word, from, 8);
	return word;
}

ALWAYS_INLINE void store8(uint8_t *to, uint64_t word)
{
	memcpy(to, &word, 8);
}

ALWAYS_INLINE uint64_t each_byte(unsigned value)
{
	return UINT64_C(0x0101010101010101) * value;
}

/* Bit k of a byte becomes byte k of a word in memory, 0 or 1. */
ALWAYS_INLINE uint64_t spread_bits(uint8_t bits)
{
	uint64_t word = each_byte(bits) & UINT64_C(0x8040201008040201);
	uint8_t bytes[8];

	store_le64(bytes, (word + each_byte(0x7f)) >> 7 & each_byte(1));
	return load8(bytes);
}

ALWAYS_INLINE uint8_t gather_bits(uint64_t word)
{
	uint8_t bytes[8];

	store8(bytes, word);
	return (uint8_t)(load_le64(bytes) * UINT64_C(0x0102040810204080) >> 56);
}

ALWAYS_INLINE uint64_t get8(const uint8_t *field, unsigned j, unsigned bits, unsigned run)
{
	if (run == 1)
		return spread_bits(field[j / 8]);
	return load8(field + byte_of(j, bits, run)) >> shift_of(j, bits, run) &
	       each_byte((1u << bits) - 1);
}

ALWAYS_INLINE uint64_t get8_upper(const uint8_t *upper, unsigned j, const struct shape *shape)
{
	return load8(upper + upper_byte_of(shape, j)) >> upper_shift_of(shape, j) &
	       each_byte((1u << shape->low_bits) - 1);
}

/* Eight whole symbols, from the fields or from the streams. */
ALWAYS_INLINE uint64_t symbols_of_fields(const struct shape *shape, unsigned j, const uint8_t *low,
					 const uint8_t *high)
{
	uint64_t symbols = get8(low, j, shape->low_bits, shape->low_run);

	if (shape->high_bits)
		symbols |= get8(high, j, shape->high_bits, shape->high_run) << shape->low_bits;
	return symbols;
}

ALWAYS_INLINE uint64_t symbols_of_streams(const struct shape *shape, unsigned j,
					  const uint8_t *upper, const uint8_t *rest)
{
	uint64_t symbols = get8_upper(upper, j, shape) << shape->high_bits;

	if (shape->high_bits)
		symbols |= get8(rest, j, shape->high_bits, shape->high_run);
	return symbols;
}

typedef uint64_t symbols_of(const struct shape *shape, unsigned j, const uint8_t *a,
			    const uint8_t *b);

/* A field, or the stream of the rest: `bits` bits of each symbol, from bit `from`. */
ALWAYS_INLINE void put_field(const struct shape shape, symbols_of *get, const uint8_t *a,
			     const uint8_t *b, unsigned from, unsigned bits, unsigned run,
			     uint8_t *out)
{
	unsigned n = 8 / bits;

	if (run == 1) {
		UNROLL(32)
		for (unsigned first = 0; first < shape.weights; first += 8)
			out[first / 8] =
			    gather_bits(get(&shape, first, a, b) >> from & each_byte(1));
		return;
	}
	UNROLL(4)
	for (unsigned first = 0; first < shape.weights; first += run * n) {
		UNROLL(8)
		for (unsigned i = 0; i < run; i += 8, out += 8) {
			uint64_t word = 0;

			UNROLL(8)
			for (unsigned k = 0; k < n; k++)
				word |= (get(&shape, first + k * run + i, a, b) >> from &
					 each_byte((1u << bits) - 1))
					<< k * bits;
			store8(out, word);
		}
	}
}

ALWAYS_INLINE void split8(const struct shape shape, const uint8_t *low, const uint8_t *high,
			  uint8_t *upper, uint8_t *rest)
{
	unsigned bytes = shape.group / shape.pack;

	if (shape.high_bits)
		put_field(shape, symbols_of_fields, low, high, 0, shape.high_bits, shape.high_run,
			  rest);
	UNROLL(16)
	for (unsigned first = 0; first < shape.weights; first += shape.group) {
		UNROLL(4)
		for (unsigned i = 0; i < bytes; i += 8, upper += 8) {
			uint64_t word = 0;

			UNROLL(4)
			for (unsigned q = 0; q < shape.pack; q++)
				word |=
				    (symbols_of_fields(&shape, first + i + q * bytes, low, high) >>
					 shape.high_bits &
				     each_byte((1u << shape.low_bits) - 1))
				    << q * shape.low_bits;
			store8(upper, word);
		}
	}
}

ALWAYS_INLINE void join8(const struct shape shape, const uint8_t *upper, const uint8_t *rest,
			 uint8_t *low, uint8_t *high)
{
	put_field(shape, symbols_of_streams, upper, rest, 0, shape.low_bits, shape.low_run, low);
	if (shape.high_bits)
		put_field(shape, symbols_of_streams, upper, rest, shape.low_bits, shape.high_bits,
			  shape.high_run, high);
}

/* ---- four weights at a time: groups of four bytes ---- */

ALWAYS_INLINE uint32_t load4(const uint8_t *from)
{
	uint32_t word;

	memcpy(&word, from, 4);
	return word;
}

ALWAYS_INLINE uint32_t four_of(uint32_t word, unsigned shift, unsigned bits)
{
	return word >> shift & ((1u << bits) - 1) * UINT32_C(0x01010101);
}

ALWAYS_INLINE void split4(const struct shape shape, const uint8_t *low, uint8_t *upper)
{
	unsigned bits = shape.low_bits, run = shape.low_run;

	UNROLL(16)
	for (unsigned first = 0; first < shape.weights; first += shape.group, upper += 4) {
		uint32_t word = 0;

		UNROLL(4)
		for (unsigned k = 0; k < shape.pack; k++) {
			unsigned j = first + 4 * k;

			word |= four_of(load4(low + byte_of(j, bits, run)), shift_of(j, bits, run),
					bits)
				<< k * bits;
		}
		memcpy(upper, &word, 4);
	}
}

ALWAYS_INLINE void join4(const struct shape shape, const uint8_t *upper, uint8_t *low)
{
	unsigned bits = shape.low_bits, run = shape.low_run, n = 8 / bits;

	UNROLL(4)
	for (unsigned first = 0; first < shape.weights; first += run * n) {
		UNROLL(8)
		for (unsigned i = 0; i < run; i += 4, low += 4) {
			uint32_t word = 0;

			UNROLL(4)
			for (unsigned k = 0; k < n; k++) {
				unsigned j = first + k * run + i;

				word |= four_of(load4(upper + upper_byte_of(&shape, j)),
						upper_shift_of(&shape, j), bits)
					<< k * bits;
			}
			memcpy(low, &word, 4);
		}
	}
}

/* Whether four neighbours lie together, and nothing extends them. */
static int four_fit(const struct shape *shape)
{
	return !shape->high_bits && shape->group == 4 * shape->pack && shape->low_run % 4 == 0;
}

/* ---- blocks ---- */

struct blocks {
	uint32_t count;
	uint32_t stride;
	const mfs_field *low, *high;
};

ALWAYS_INLINE void split_blocks(const struct shape shape, struct blocks at, const uint8_t *in,
				uint8_t *upper, uint8_t *rest)
{
	for (uint32_t b = 0; b < at.count; b++, in += at.stride)
		split8(shape, in + at.low->offset, in + at.high->offset,
		       upper + (size_t)b * at.low->size, rest + (size_t)b * at.high->size);
}

ALWAYS_INLINE void join_blocks(const struct shape shape, struct blocks at, const uint8_t *upper,
			       const uint8_t *rest, uint8_t *out)
{
	for (uint32_t b = 0; b < at.count; b++, out += at.stride)
		join8(shape, upper + (size_t)b * at.low->size, rest + (size_t)b * at.high->size,
		      out + at.low->offset, out + at.high->offset);
}

ALWAYS_INLINE void split_fours(const struct shape shape, struct blocks at, const uint8_t *in,
			       uint8_t *upper)
{
	for (uint32_t b = 0; b < at.count; b++, in += at.stride)
		split4(shape, in + at.low->offset, upper + (size_t)b * at.low->size);
}

ALWAYS_INLINE void join_fours(const struct shape shape, struct blocks at, const uint8_t *upper,
			      uint8_t *out)
{
	for (uint32_t b = 0; b < at.count; b++, out += at.stride)
		join4(shape, upper + (size_t)b * at.low->size, out + at.low->offset);
}

/* Whether eight neighbours lie together wherever eight_at_a_time looks. */
static int eight_fit(const struct shape *shape)
{
	int high = shape->high_run % 8 == 0 || (shape->high_run == 1 && shape->high_bits == 1);

	return shape->low_run % 8 == 0 && high && shape->weights % 8 == 0 &&
	       shape->group / shape->pack % 8 == 0;
}

/* Weights that lie in the field as they do in the symbols. */
static int is_identity(const struct shape *shape)
{
	return !shape->high_bits && shape->low_run == shape->group / shape->pack;
}

int mfs_symbols_are_field(const mfs_layout *layout)
{
	struct shape shape = shape_of(layout);

	return layout->symbols.weights && is_identity(&shape);
}

static int shapes_equal(const struct shape *a, const struct shape *b)
{
	return a->low_bits == b->low_bits && a->low_run == b->low_run &&
	       a->high_bits == b->high_bits && a->high_run == b->high_run && a->group == b->group &&
	       a->pack == b->pack && a->weights == b->weights;
}

/* Shapes for which the loops are compiled with all numbers known. */
static const struct shape q4_k = {4, 32, 0, 0, 32, 2, 256};
static const struct shape q5_k = {4, 32, 1, 32, 32, 2, 256};
static const struct shape q6_k = {4, 64, 2, 32, 16, 2, 256};
static const struct shape q3_k = {2, 32, 1, 32, 32, 4, 256};
static const struct shape q2_k = {2, 32, 0, 0, 16, 4, 256};
static const struct shape q5_0 = {4, 16, 1, 1, 32, 2, 32};

#define EACH_SHAPE(call)                                                                           \
	do {                                                                                       \
		if (shapes_equal(&shape, &q4_k))                                                   \
			call(q4_k, at, a, b, c);                                                   \
		else if (shapes_equal(&shape, &q5_k))                                              \
			call(q5_k, at, a, b, c);                                                   \
		else if (shapes_equal(&shape, &q6_k))                                              \
			call(q6_k, at, a, b, c);                                                   \
		else if (shapes_equal(&shape, &q3_k))                                              \
			call(q3_k, at, a, b, c);                                                   \
		else if (shapes_equal(&shape, &q5_0))                                              \
			call(q5_0, at, a, b, c);                                                   \
		else                                                                               \
			call(shape, at, a, b, c);                                                  \
	} while (0)

static struct blocks blocks_of(const mfs_layout *layout, uint32_t blocks)
{
	return (struct blocks){.count = blocks,
			       .stride = layout->block_bytes,
			       .low = &layout->field[layout->symbols.low],
			       .high = &layout->field[layout->symbols.high]};
}

/* Copies of a size that the compiler knows are a few moves. */
ALWAYS_INLINE void copy_field(uint8_t *out, size_t out_stride, const uint8_t *in, size_t in_stride,
			      size_t size, uint32_t blocks)
{
	for (uint32_t b = 0; b < blocks; b++)
		memcpy(out + b * out_stride, in + b * in_stride, size);
}

static void copy_fields(uint8_t *out, size_t out_stride, const uint8_t *in, size_t in_stride,
			size_t size, uint32_t blocks)
{
	if (size == 16)
		copy_field(out, out_stride, in, in_stride, 16, blocks);
	else if (size == 32)
		copy_field(out, out_stride, in, in_stride, 32, blocks);
	else if (size == 128)
		copy_field(out, out_stride, in, in_stride, 128, blocks);
	else
		copy_field(out, out_stride, in, in_stride, size, blocks);
}

/* The loop for this processor, or NULL. */
static mfs_splitter *splitter_of(const struct shape *shape)
{
#ifdef MFS_SPLIT_FEATURE
	static const struct {
		const struct shape *shape;
		mfs_splitter *split;
	} splitters[] = {{&q4_k, mfs_split_q4_k}, {&q6_k, mfs_split_q6_k}, {&q5_k, mfs_split_q5_k}};

	for (size_t i = 0; i < sizeof(splitters) / sizeof(*splitters); i++)
		if (shapes_equal(shape, splitters[i].shape))
			return mfs_processor() & MFS_SPLIT_FEATURE ? splitters[i].split : NULL;
#else
	(void)shape;
#endif
	return NULL;
}

static mfs_splitting splitting_of(const struct blocks *at, const uint8_t *in, uint8_t *upper,
				  uint8_t *rest)
{
	return (mfs_splitting){.blocks = at->count,
			       .stride = at->stride,
			       .low = in + at->low->offset,
			       .high = in + at->high->offset,
			       .upper = upper,
			       .rest = rest};
}

void mfs_symbols_split(const mfs_layout *layout, uint32_t blocks, const uint8_t *a, uint8_t *b,
		       uint8_t *c)
{
	struct shape shape = shape_of(layout);
	struct blocks at = blocks_of(layout, blocks);
	mfs_splitter *split = splitter_of(&shape);

	if (is_identity(&shape))
		copy_fields(b, at.low->size, a + at.low->offset, at.stride, at.low->size, blocks);
	else if (split)
		split(splitting_of(&at, a, b, c));
	else if (eight_fit(&shape))
		EACH_SHAPE(split_blocks);
	else if (shapes_equal(&shape, &q2_k))
		split_fours(q2_k, at, a, b);
	else if (four_fit(&shape))
		split_fours(shape, at, a, b);
	else
		mfs_symbols_split_reference(layout, blocks, a, b, c);
}

/* As splitter_of(). */
static mfs_joiner *joiner_of(const struct shape *shape)
{
#ifdef MFS_JOIN_FEATURE
	static const struct {
		const struct shape *shape;
		mfs_joiner *join;
	} joiners[] = {{&q4_k, mfs_join_q4_k}, {&q6_k, mfs_join_q6_k}, {&q5_k, mfs_join_q5_k},
		       {&q5_0, mfs_join_q5_0}, {&q3_k, mfs_join_q3_k}, {&q2_k, mfs_join_q2_k}};

	for (size_t i = 0; i < sizeof(joiners) / sizeof(*joiners); i++)
		if (shapes_equal(shape, joiners[i].shape))
			return mfs_processor() & MFS_JOIN_FEATURE ? joiners[i].join : NULL;
#else
	(void)shape;
#endif
	return NULL;
}

static mfs_joining joining_of(const struct blocks *at, const uint8_t *upper, const uint8_t *rest,
			      uint8_t *out)
{
	return (mfs_joining){.blocks = at->count,
			     .stride = at->stride,
			     .upper = upper,
			     .rest = rest,
			     .low = out + at->low->offset,
			     .high = out + at->high->offset};
}

void mfs_symbols_join(const mfs_layout *layout, uint32_t blocks, const uint8_t *a, const uint8_t *b,
		      uint8_t *c)
{
	struct shape shape = shape_of(layout);
	struct blocks at = blocks_of(layout, blocks);
	mfs_joiner *join = joiner_of(&shape);

	if (is_identity(&shape))
		copy_fields(c + at.low->offset, at.stride, a, at.low->size, at.low->size, blocks);
	else if (join)
		join(joining_of(&at, a, b, c));
	else if (eight_fit(&shape))
		EACH_SHAPE(join_blocks);
	else if (shapes_equal(&shape, &q2_k))
		join_fours(q2_k, at, a, c);
	else if (four_fit(&shape))
		join_fours(shape, at, a, c);
	else
		mfs_symbols_join_reference(layout, blocks, a, b, c);
}
