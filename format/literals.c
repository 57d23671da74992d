/* Coding: zstd frames that hold literals only, without zstd's search for matches
 * and trees. */
#include "frame_private.h"

#include <string.h>

#include "huffman_private.h"
#include "mfs_endian.h"
#include "processor.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Bytes that would have no others to take turns with, from which on two blocks are better. */
#define ALONE_MIN (12u << 10)
#define UNEVEN	  1060

size_t mfs_codes_bound(size_t size)
{
	/* Eleven bits of eight, headers and trees, and what whole-word stores write beyond. */
	size_t blocks = (size / (BLOCK_BYTES - UNEVEN) + 1) * MFS_CUT_MAX;

	return size + size / 2 + blocks * (32 + MFS_TREE_MAX) + 64;
}

/* The codes as the loop wants them: a code in the uppermost bits, its length in the
 * lowest eight, and MISSING between them where there is none. */
typedef struct {
	uint64_t entry[256];
} entries;

/* Entries are added up between two flushes: four of them are told apart from none. */
#define MISSING	    (UINT64_C(1) << 40)
#define ANY_MISSING (MISSING * 7)

static void entries_make(entries *to, const mfs_codes *codes)
{
	for (unsigned k = 0; k < 256; k++) {
		uint32_t code = codes->code[k];
		unsigned length = code >> 16 & 15;

		to->entry[k] = code & MFS_CODE_MISSING
				   ? MISSING | 1
				   : (uint64_t)(code & 0xffff) << (64 - length) | length;
	}
}

/* Bits that wait are the uppermost ones of `bits`. */
struct writer {
	uint8_t *at;
	uint64_t bits;
	uint64_t count; /* of bits: the lowest eight; above them is nonsense */
	uint64_t seen;	/* all counts together: tells a missing code */
};

ALWAYS_INLINE void put(struct writer *to, uint64_t entry)
{
	to->bits = to->bits >> (entry & 63) | entry;
	to->count += entry;
}

/* At most 56 bits, so that the length of the last entry is not among them. */
ALWAYS_INLINE void flush(struct writer *to)
{
	unsigned count = to->count & 255;

	store_le64(to->at, to->bits >> (64 - count));
	to->at += count / 8;
	to->seen |= to->count;
	to->count = count & 7;
}

/* A stream is decoded from its end, so the last byte is coded first: those that make
 * no four. Returns how many are left. */
ALWAYS_INLINE size_t begin_stream(struct writer *to, const entries *codes, const uint8_t *in,
				  size_t size)
{
	for (; size % 4; size--) {
		put(to, codes->entry[in[size - 1]]);
		flush(to);
	}
	return size;
}

/* Four codes are 44 bits at the most, and up to 7 wait. */
ALWAYS_INLINE void four_more(struct writer *to, const entries *codes, const uint8_t *in,
			     size_t *size)
{
	const uint8_t *last = in + *size - 1;

	put(to, codes->entry[last[0]]);
	put(to, codes->entry[last[-1]]);
	put(to, codes->entry[last[-2]]);
	put(to, codes->entry[last[-3]]);
	flush(to);
	*size -= 4;
}

/* A bit that is set ends the stream. */
ALWAYS_INLINE uint8_t *end_stream(struct writer *to, uint32_t *seen)
{
	put(to, UINT64_C(1) << 63 | 1);
	flush(to);
	if (to->seen & ANY_MISSING)
		*seen |= MFS_CODE_MISSING;
	return to->at + (to->count > 0);
}

/* One or two streams, behind one another. */
struct streams {
	const uint8_t *in;
	size_t size[2];	       /* the second: 0 where there is one */
	uint8_t *out, *second; /* the start of the second one in `out` */
	uint32_t seen;
};

/* Where a stream ends is known when it is coded, and one alone leaves the processor
 * waiting: so the other is coded at the same time, further behind, and moved. Returns
 * the end of the last. */
ALWAYS_INLINE uint8_t *encode_streams(struct streams *s, const entries *codes)
{
	const uint8_t *in[2] = {s->in, s->in + s->size[0]};
	uint8_t *room = s->out + s->size[0] * MFS_CODE_BITS_MAX / 8 + 16, *end;
	struct writer a = {s->out, 0, 0, 0}, b = {room, 0, 0, 0};
	size_t left_a = begin_stream(&a, codes, in[0], s->size[0]);
	size_t left_b = begin_stream(&b, codes, in[1], s->size[1]);

	while (left_a && left_b) {
		four_more(&a, codes, in[0], &left_a);
		four_more(&b, codes, in[1], &left_b);
	}
	while (left_a)
		four_more(&a, codes, in[0], &left_a);
	while (left_b)
		four_more(&b, codes, in[1], &left_b);
	s->second = end_stream(&a, &s->seen);
	if (!s->size[1])
		return s->second;
	end = end_stream(&b, &s->seen);
	memmove(s->second, room, (size_t)(end - room));
	return s->second + (end - room);
}

static uint8_t *encode_portable(struct streams *s, const entries *codes)
{
	return encode_streams(s, codes);
}

#if defined(__x86_64__)
/* Shifts by a variable take one step instead of three. */
__attribute__((target("bmi,bmi2"))) static uint8_t *encode_bmi2(struct streams *s,
								const entries *codes)
{
	return encode_streams(s, codes);
}
#endif

static uint8_t *encode(struct streams *s, const entries *codes)
{
#if defined(__x86_64__)
	if (mfs_processor() & MFS_PROCESSOR_AVX2)
		return encode_bmi2(s, codes);
#endif
	return encode_portable(s, codes);
}

/* The literals behind their header; returns their size. */
static size_t encode_literals(const mfs_codes *codes, const uint8_t *in, size_t size, uint8_t *out,
			      uint32_t *seen)
{
	size_t quarter = (size + 3) / 4;
	struct streams one = {.in = in, .size = {size, 0}, .out = out};
	struct streams first = {.in = in, .size = {quarter, quarter}, .out = out + 6};
	struct streams last = {.in = in + 2 * quarter};
	entries coded;
	uint8_t *end;

	entries_make(&coded, codes);
	if (size < FOUR_STREAMS) {
		end = encode(&one, &coded);
		*seen |= one.seen;
		return (size_t)(end - out);
	}
	last.size[0] = quarter;
	last.size[1] = size - 3 * quarter;
	last.out = encode(&first, &coded);
	end = encode(&last, &coded);
	store_le16(out, (uint16_t)(first.second - first.out));
	store_le16(out + 2, (uint16_t)(last.out - first.second));
	store_le16(out + 4, (uint16_t)(last.second - last.out));
	*seen |= first.seen | last.seen;
	return (size_t)(end - out);
}

/* Bytes of the header that tells both sizes. */
static size_t literals_header_size(size_t size)
{
	return size < 1024 ? 3 : size < 16384 ? 4 : 5;
}

/* The sizes of literals, decoded and coded, in as many bits as the larger needs.
 * Type 2: with their tree; type 3: with the tree that is known. */
static void literals_header(unsigned type, size_t size, size_t coded, uint8_t *out)
{
	size_t bytes = literals_header_size(size);
	unsigned form = bytes == 3 ? size >= FOUR_STREAMS : (unsigned)bytes - 2;
	unsigned bits = form < 2 ? 10 : form == 2 ? 14 : 18;
	uint64_t word = type | form << 2 | (uint64_t)size << 4 | (uint64_t)coded << (4 + bits);

	for (size_t i = 0; i < bytes; i++)
		out[i] = (uint8_t)(word >> 8 * i);
}

static void block_header(uint8_t *out, size_t size, unsigned type, int last)
{
	uint32_t word = (uint32_t)size << 3 | type << 1 | (uint32_t)last;

	out[0] = (uint8_t)word;
	out[1] = (uint8_t)(word >> 8);
	out[2] = (uint8_t)(word >> 16);
}

static size_t raw_block(const uint8_t *in, size_t size, int last, uint8_t *out)
{
	block_header(out, size, 0, last);
	memcpy(out + 3, in, size);
	return 3 + size;
}

/* How literals become blocks. */
struct blocks {
	const mfs_codes *codes;
	const uint8_t *tree; /* for the first block that is not raw */
	size_t tree_size;    /* 0: it is known */
	size_t most;	     /* bytes of a block */
	uint32_t seen;	     /* MFS_CODE_MISSING where a code was missing */
};

/* A block of literals, raw if that is not larger. */
static size_t encode_block(struct blocks *with, const uint8_t *in, size_t size, int last,
			   uint8_t *out)
{
	size_t header = literals_header_size(size), coded;
	uint8_t *literals = out + 3 + header;

	if (with->tree_size)
		memcpy(literals, with->tree, with->tree_size);
	coded = with->tree_size +
		encode_literals(with->codes, in, size, literals + with->tree_size, &with->seen);
	if (header + coded + 1 >= size)
		return raw_block(in, size, last, out);
	literals_header(with->tree_size ? 2 : 3, size, coded, out + 3);
	literals[coded] = 0; /* no sequences */
	block_header(out, header + coded + 1, 2, last);
	with->tree_size = 0;
	return 3 + header + coded + 1;
}

/* Stops early where a code is missing. */
static size_t encode_blocks(struct blocks *with, const uint8_t *in, size_t size, int last,
			    uint8_t *out)
{
	uint8_t *at = out;

	while (size && !(with->seen & MFS_CODE_MISSING)) {
		size_t part = size < with->most ? size : with->most;

		at += encode_block(with, in, part, last && part == size, at);
		in += part;
		size -= part;
	}
	return (size_t)(at - out);
}

/* Two blocks can be decoded side by side. Quarters of whole 4 KiB would lie at addresses
 * that the processor's stores take for one another. */
static size_t block_of(size_t size, size_t all)
{
	return 2 * size >= all + ALONE_MIN && size <= BLOCK_BYTES ? size / 2 + UNEVEN
								  : BLOCK_BYTES - UNEVEN;
}

size_t mfs_codes_encode(const mfs_codes *codes, const uint8_t *in, size_t size, size_t all,
			uint8_t *out)
{
	const size_t header = sizeof(mfs_literals_header);
	struct blocks with = {.codes = codes, .most = block_of(size, all)};
	size_t coded;

	memcpy(out, mfs_literals_header, header);
	coded = encode_blocks(&with, in, size, 1, out + header);
	return with.seen & MFS_CODE_MISSING ? 0 : header + coded;
}

/* ---- trees of their own ---- */

/* One value over and over is a block of that value. */
static size_t same_block(const uint8_t *in, size_t size, int last, uint8_t *out)
{
	block_header(out, size, 1, last);
	out[3] = in[0];
	return 4;
}

/* The trees of the block at hand and of the one before. */
struct trees {
	const mfs_tree *before; /* NULL: there is none */
	mfs_tree tree[2];
	size_t all; /* bytes that they are for */
};

/* A block with a tree of its own, which then is that of the next ones, or with the
 * one before, whichever is smaller. */
static size_t encode_own(struct trees *trees, const mfs_tree *own, const uint32_t histogram[256],
			 const uint8_t *in, size_t size, int last, uint8_t *out)
{
	struct blocks with = {.most = block_of(size, trees->all)};
	const mfs_tree *before = trees->before;
	uint64_t old_bits = before ? mfs_codes_bits(&before->codes, histogram) : UINT64_MAX;
	uint64_t own_bits = UINT64_MAX;
	size_t coded;

	if (own->size)
		own_bits = mfs_codes_bits(&own->codes, histogram) + 8 * own->size;
	if (old_bits <= own_bits && old_bits / 8 < size) {
		with.codes = &before->codes;
		return encode_blocks(&with, in, size, last, out);
	}
	if (own_bits / 8 >= size)
		return raw_block(in, size, last, out);
	with.codes = &own->codes;
	with.tree = own->bytes;
	with.tree_size = own->size;
	coded = encode_blocks(&with, in, size, last, out);
	if (with.tree_size == 0)
		trees->before = own;
	return coded;
}

static size_t encode_part(struct trees *trees, const uint32_t histogram[256], const uint8_t *in,
			  size_t size, int last, uint8_t *out)
{
	mfs_tree *own = &trees->tree[trees->before == &trees->tree[0]];

	if (histogram[in[0]] == size)
		return same_block(in, size, last, out);
	mfs_tree_make(own, histogram);
	return encode_own(trees, own, histogram, in, size, last, out);
}

static size_t encode_parts(const uint8_t *in, size_t size, uint8_t *out)
{
	struct trees trees = {.all = size};
	uint32_t part[MFS_CUT_MAX], histogram[256];
	uint8_t *at = out;

	while (size) {
		uint32_t parts =
		    mfs_blocks_cut(in, size < BLOCK_BYTES ? size : BLOCK_BYTES, part, histogram);

		for (uint32_t i = 0; i < parts; i++) {
			if (parts > 1) {
				memset(histogram, 0, sizeof(histogram));
				mfs_histogram_add(histogram, in, part[i]);
			}
			at += encode_part(&trees, histogram, in, part[i], part[i] == size, at);
			in += part[i];
			size -= part[i];
		}
	}
	return (size_t)(at - out);
}

int mfs_literals_change(const uint8_t *in, size_t size)
{
	uint32_t part[MFS_CUT_MAX];

	for (size_t at = 0; at < size; at += BLOCK_BYTES)
		if (mfs_blocks_cut(in + at, size - at < BLOCK_BYTES ? size - at : BLOCK_BYTES, part,
				   NULL) > 1)
			return 1;
	return 0;
}

size_t mfs_literals_encode(const mfs_tree *tree, const uint8_t *in, size_t size, uint8_t *out)
{
	uint8_t *at = out + sizeof(mfs_literals_header);
	struct blocks with = {.most = block_of(size, size)};

	memcpy(out, mfs_literals_header, sizeof(mfs_literals_header));
	if (!tree || !tree->size || size > BLOCK_BYTES)
		return (size_t)(at + encode_parts(in, size, at) - out);
	with.codes = &tree->codes;
	with.tree = tree->bytes;
	with.tree_size = tree->size;
	return (size_t)(at + encode_blocks(&with, in, size, 1, at) - out);
}
