/* Coding: zstd frames that hold literals only, without zstd's search for matches
 * and trees. */
#include "frame_private.h"

#include <string.h>

#include "huffman_private.h"
#include "mfs_endian.h"

#define HALVES_MIN (24u << 10) /* bytes from which on a frame has two blocks */
#define UNEVEN	   1060

size_t mfs_codes_bound(size_t size)
{
	/* Eleven bits of eight, headers and trees, and what whole-word stores write beyond. */
	size_t blocks = (size / (BLOCK_BYTES - UNEVEN) + 1) * MFS_CUT_MAX;

	return size + size / 2 + blocks * (32 + MFS_TREE_MAX) + 64;
}

struct writer {
	uint8_t *at;
	uint64_t bits;
	unsigned count;
	uint32_t seen; /* all codes together: tells a missing one */
};

/* Two codes as one: the first in the lower bits. */
static inline uint64_t pair(uint32_t first, uint32_t second, unsigned *length)
{
	unsigned low = first >> 16 & 255;

	*length = low + (second >> 16 & 255);
	return (first & 0xffff) | (uint64_t)(second & 0xffff) << low;
}

static inline void flush(struct writer *to)
{
	store_le64(to->at, to->bits);
	to->at += to->count / 8;
	to->bits >>= to->count & ~7u;
	to->count &= 7;
}

static inline void put(struct writer *to, uint32_t code)
{
	to->seen |= code;
	to->bits |= (uint64_t)(code & 0xffff) << to->count;
	to->count += code >> 16 & 255;
}

/* Four codes are put together before they join the bits that wait: one addition
 * after the other is what the loop takes. */
static inline void put4(struct writer *to, const mfs_codes *codes, const uint8_t *last)
{
	uint32_t a = codes->code[last[0]], b = codes->code[last[-1]];
	uint32_t c = codes->code[last[-2]], d = codes->code[last[-3]];
	unsigned first, second;
	uint64_t low = pair(a, b, &first), high = pair(c, d, &second);

	to->seen |= a | b | c | d;
	to->bits |= (low | high << first) << to->count;
	to->count += first + second;
}

/* A stream is decoded from its end, so the last byte is coded first. */
static uint8_t *encode_stream(const mfs_codes *codes, const uint8_t *in, size_t size, uint8_t *out,
			      uint32_t *seen)
{
	struct writer to = {out, 0, 0, 0};

	for (; size % 4; size--) {
		put(&to, codes->code[in[size - 1]]);
		flush(&to);
	}
	for (; size; size -= 4) {
		put4(&to, codes, in + size - 1);
		flush(&to);
	}
	put(&to, 1u << 16 | 1);
	flush(&to);
	*seen |= to.seen;
	return to.at + (to.count > 0);
}

/* The literals behind their header; returns their size. */
static size_t encode_literals(const mfs_codes *codes, const uint8_t *in, size_t size, uint8_t *out,
			      uint32_t *seen)
{
	size_t quarter = (size + 3) / 4;
	uint8_t *at = out + 6;

	if (size < FOUR_STREAMS)
		return (size_t)(encode_stream(codes, in, size, out, seen) - out);
	for (int k = 0; k < 4; k++) {
		uint8_t *end = encode_stream(codes, in + (size_t)k * quarter,
					     k < 3 ? quarter : size - 3 * quarter, at, seen);

		if (k < 3)
			store_le16(out + 2 * (size_t)k, (uint16_t)(end - at));
		at = end;
	}
	return (size_t)(at - out);
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

/* A block of literals, raw if that is not larger. With a tree of `tree_size` bytes,
 * or (0) with the one before. */
static size_t encode_block(const mfs_codes *codes, const uint8_t *tree, size_t tree_size,
			   const uint8_t *in, size_t size, int last, uint8_t *out, uint32_t *seen)
{
	size_t header = literals_header_size(size), coded;
	uint8_t *literals = out + 3 + header;

	if (tree_size)
		memcpy(literals, tree, tree_size);
	coded = tree_size + encode_literals(codes, in, size, literals + tree_size, seen);
	if (header + coded + 1 >= size)
		return raw_block(in, size, last, out);
	literals_header(tree_size ? 2 : 3, size, coded, out + 3);
	literals[coded] = 0; /* no sequences */
	block_header(out, header + coded + 1, 2, last);
	return 3 + header + coded + 1;
}

static int is_compressed(const uint8_t *block)
{
	return (block[0] >> 1 & 3) == 2;
}

/* Blocks of the same codes. The first that is not raw brings the tree of *tree_size
 * bytes, which then becomes 0; with 0 it is known. Stops early where a code is
 * missing. */
static size_t encode_blocks(const mfs_codes *codes, const uint8_t *tree, size_t *tree_size,
			    const uint8_t *in, size_t size, int last, uint8_t *out, uint32_t *seen)
{
	size_t most = BLOCK_BYTES - UNEVEN;
	uint8_t *at = out;

	/* Two blocks can be decoded side by side. Quarters of whole 4 KiB would lie at
	 * addresses that the processor's stores take for one another. */
	if (size >= HALVES_MIN && size <= BLOCK_BYTES)
		most = size / 2 + UNEVEN;
	while (size && !(*seen & MFS_CODE_MISSING)) {
		size_t part = size < most ? size : most;
		uint8_t *block = at;

		at +=
		    encode_block(codes, tree, *tree_size, in, part, last && part == size, at, seen);
		if (is_compressed(block))
			*tree_size = 0;
		in += part;
		size -= part;
	}
	return (size_t)(at - out);
}

size_t mfs_codes_encode(const mfs_codes *codes, const uint8_t *in, size_t size, uint8_t *out)
{
	const size_t header = sizeof(mfs_literals_header);
	size_t known = 0, coded;
	uint32_t seen = 0;

	memcpy(out, mfs_literals_header, header);
	coded = encode_blocks(codes, NULL, &known, in, size, 1, out + header, &seen);
	return seen & MFS_CODE_MISSING ? 0 : header + coded;
}

/* ---- trees of their own ---- */

/* One value over and over is a block of that value. */
static size_t same_block(const uint8_t *in, size_t size, int last, uint8_t *out)
{
	block_header(out, size, 1, last);
	out[3] = in[0];
	return 4;
}

/* A block with a tree of its own, which then is that of the next ones, or with the
 * one before (NULL: there is none), whichever is smaller. */
static size_t encode_own(const mfs_tree **before, const mfs_tree *own,
			 const uint32_t histogram[256], const uint8_t *in, size_t size, int last,
			 uint8_t *out)
{
	uint32_t seen = 0;
	uint64_t old_bits = *before ? mfs_codes_bits(&(*before)->codes, histogram) : UINT64_MAX;
	uint64_t own_bits = UINT64_MAX;
	size_t tree_size = 0, coded;

	if (own->size)
		own_bits = mfs_codes_bits(&own->codes, histogram) + 8 * own->size;
	if (old_bits <= own_bits && old_bits / 8 < size)
		return encode_blocks(&(*before)->codes, NULL, &tree_size, in, size, last, out,
				     &seen);
	if (own_bits / 8 >= size)
		return raw_block(in, size, last, out);
	tree_size = own->size;
	coded = encode_blocks(&own->codes, own->bytes, &tree_size, in, size, last, out, &seen);
	if (tree_size == 0)
		*before = own;
	return coded;
}

/* The trees of the block at hand and of the one before. */
struct trees {
	const mfs_tree *before; /* NULL: there is none */
	mfs_tree tree[2];
};

static size_t encode_part(struct trees *trees, const uint8_t *in, size_t size, int last,
			  uint8_t *out)
{
	mfs_tree *own = &trees->tree[trees->before == &trees->tree[0]];
	uint32_t histogram[256] = {0};

	mfs_histogram_add(histogram, in, size);
	if (histogram[in[0]] == size)
		return same_block(in, size, last, out);
	mfs_tree_make(own, histogram);
	return encode_own(&trees->before, own, histogram, in, size, last, out);
}

static size_t encode_parts(const uint8_t *in, size_t size, uint8_t *out)
{
	struct trees trees = {0};
	uint32_t part[MFS_CUT_MAX];
	uint8_t *at = out;

	while (size) {
		uint32_t parts = mfs_blocks_cut(in, size < BLOCK_BYTES ? size : BLOCK_BYTES, part);

		for (uint32_t i = 0; i < parts; i++) {
			at += encode_part(&trees, in, part[i], part[i] == size, at);
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
		if (mfs_blocks_cut(in + at, size - at < BLOCK_BYTES ? size - at : BLOCK_BYTES,
				   part) > 1)
			return 1;
	return 0;
}

size_t mfs_literals_encode(const mfs_tree *tree, const uint8_t *in, size_t size, uint8_t *out)
{
	uint8_t *at = out + sizeof(mfs_literals_header);
	size_t tree_size = tree ? tree->size : 0;
	uint32_t seen = 0;

	memcpy(out, mfs_literals_header, sizeof(mfs_literals_header));
	if (tree_size && size <= BLOCK_BYTES)
		at += encode_blocks(&tree->codes, tree->bytes, &tree_size, in, size, 1, at, &seen);
	else
		at += encode_parts(in, size, at);
	return (size_t)(at - out);
}
