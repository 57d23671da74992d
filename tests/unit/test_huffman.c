/* Our coder and decoder of literals against zstd, which reads and writes the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "frame_private.h"
#include "modelfs_error.h"
#include "processor.h"

#define BYTES_MAX (300u << 10)

static uint64_t random_state = 1;

static uint32_t random_next(void)
{
	random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(random_state >> 32);
}

struct fixture {
	mfs_encoder *encoder;
	ZSTD_DCtx *zstd;
	uint8_t *in, *out, *coded;
	mfs_tables *tables;
	mfs_literals_queue queue;
};

static int fixture_new(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->encoder = mfs_encoder_new(MFS_FRAME_MAX);
	f->zstd = ZSTD_createDCtx();
	f->in = malloc(BYTES_MAX);
	f->out = malloc(BYTES_MAX);
	f->coded = malloc(mfs_codes_bound(BYTES_MAX));
	assert_true(f->encoder && f->zstd && f->in && f->out && f->coded);
	*state = f;
	return 0;
}

static int fixture_free(void **state)
{
	struct fixture *f = *state;

	mfs_encoder_free(f->encoder);
	ZSTD_freeDCtx(f->zstd);
	mfs_tables_free(f->tables);
	free(f->in);
	free(f->out);
	free(f->coded);
	free(f);
	return 0;
}

/* Code by code, as mfs_lookup_make() makes it of ranks. */
static void lookup_of(mfs_lookup *lookup, const mfs_codes *codes)
{
	memset(lookup, 0, sizeof(*lookup));
	for (unsigned k = 0; k < 256; k++) {
		unsigned length = codes->code[k] >> 16 & 255;
		unsigned first = (codes->code[k] & 0xffff) << (MFS_LOOKUP_BITS - length);

		if (codes->code[k] & MFS_CODE_MISSING)
			continue;
		for (unsigned i = 0; i < 1u << (MFS_LOOKUP_BITS - length); i++)
			lookup->entry[first + i] = (uint16_t)(k << 8 | length);
	}
}

/* Bytes below `values`, small ones more often, and the tree of all of them. */
static const struct mfs_shared *make_tree(struct fixture *f, unsigned values)
{
	uint32_t histogram[256] = {0};
	uint8_t stored[4 + MFS_TREE_MAX];
	mfs_tree tree;
	size_t size;

	for (size_t i = 0; i < BYTES_MAX; i++) {
		uint32_t a = random_next() % values, b = random_next() % values;

		f->in[i] = (uint8_t)(a < b ? a : b);
	}
	mfs_histogram_add(histogram, f->in, BYTES_MAX);
	size = mfs_tree_make(&tree, histogram);
	assert_true(size > 0);
	memcpy(stored + 4, tree.bytes, size);
	store_le32(stored, (uint32_t)MFS_CODING_SHARED << 28 | (uint32_t)size);
	mfs_tables_free(f->tables);
	f->tables = NULL;
	assert_int_equal(mfs_tables_open(&f->tables, stored, 4 + size, 1, 1), 0);
	return &f->tables->shared[0];
}

static void zstd_decodes_what_we_code(void **state)
{
	static const size_t sizes[] = {1,   2,	  3,	7,     64,     255,    256,
				       257, 1000, 4096, 40000, 131072, 131073, BYTES_MAX};
	struct fixture *f = *state;

	for (unsigned values = 3; values <= 256; values = values * 3 / 2 + (values == 255)) {
		const struct mfs_shared *shared = make_tree(f, values > 200 ? 256 : values);

		for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
			size_t coded =
			    mfs_codes_encode(shared->encoding, f->in, sizes[i], sizes[i], f->coded);

			assert_in_range(coded, 1, mfs_codes_bound(sizes[i]));
			assert_int_equal(ZSTD_findFrameCompressedSize(f->coded, coded), coded);
			assert_int_equal(ZSTD_decompress_usingDDict(f->zstd, f->out, sizes[i],
								    f->coded, coded,
								    shared->decoding[0]),
					 sizes[i]);
			assert_memory_equal(f->in, f->out, sizes[i]);
		}
	}
}

static int decode(struct fixture *f, const mfs_lookup *lookup, const uint8_t *coded, size_t size,
		  size_t out_size)
{
	f->queue.count = f->queue.lookup_count = 0;
	return mfs_literals_parse(lookup, coded, size, f->out, out_size, &f->queue) &&
	       mfs_literals_run(&f->queue);
}

/* The same behind other bytes, which may be read and tell nothing. */
static int decode_behind(struct fixture *f, const mfs_lookup *lookup, const uint8_t *coded,
			 size_t size, size_t out_size)
{
	const size_t before = random_next() % 3 ? random_next() % 20000 : random_next() % 20;
	uint8_t *bytes = malloc(before + size);
	int ok;

	assert_non_null(bytes);
	memset(bytes, (int)random_next(), before);
	memcpy(bytes + before, coded, size);
	f->queue.floor = bytes;
	ok = decode(f, lookup, bytes + before, size, out_size);
	f->queue.floor = NULL;
	free(bytes);
	return ok;
}

/* The same in all ways, and without what this processor offers: all must agree. */
static int decode_all(struct fixture *f, const mfs_lookup *lookup, const uint8_t *coded,
		      size_t size, size_t out_size)
{
	uint8_t *portable = malloc(out_size);
	int ok;

	assert_non_null(portable);
	mfs_processor_hide(~0u);
	ok = decode(f, lookup, coded, size, out_size);
	mfs_processor_hide(0);
	memcpy(portable, f->out, out_size);
	assert_int_equal(decode(f, lookup, coded, size, out_size), ok);
	if (ok)
		assert_memory_equal(f->out, portable, out_size);
	memset(f->out, 0xa5, out_size);
	assert_int_equal(decode_behind(f, lookup, coded, size, out_size), ok);
	if (ok)
		assert_memory_equal(f->out, portable, out_size);
	free(portable);
	return ok;
}

static void we_decode_what_we_code(void **state)
{
	static const size_t sizes[] = {300, 1000, 4096, 40000, 65536, 131072, 131073, BYTES_MAX};
	struct fixture *f = *state;
	mfs_lookup lookup;

	for (unsigned values = 3; values < 256; values += 50) {
		const struct mfs_shared *shared = make_tree(f, values);

		lookup_of(&lookup, shared->encoding);
		for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
			size_t coded =
			    mfs_codes_encode(shared->encoding, f->in, sizes[i], sizes[i], f->coded);
			uint8_t *exact = malloc(coded);

			assert_non_null(exact);
			memcpy(exact, f->coded, coded);
			memset(f->out, 0xa5, sizes[i]);
			assert_true(decode_all(f, &lookup, exact, coded, sizes[i]));
			assert_memory_equal(f->in, f->out, sizes[i]);
			assert_false(decode(f, &lookup, exact, coded, sizes[i] - 1));
			assert_false(decode(f, &lookup, exact, coded, sizes[i] + 1));
			free(exact);
		}
	}
}

/* A frame of a queue. */
struct queued {
	size_t size, coded_size, out; /* the last: where its bytes are decoded to */
	uint8_t *coded;
};

static int parse_queued(struct fixture *f, const struct queued *frame, const mfs_lookup *lookup)
{
	return mfs_literals_parse(lookup, frame->coded, frame->coded_size, f->out + frame->out,
				  frame->size, &f->queue);
}

/* Whatever waits together, and however it is shared between the lanes; what is damaged
 * spoils nothing else. */
static void frames_of_one_queue_take_turns(void **state)
{
	struct fixture *f = *state;
	const struct mfs_shared *shared = make_tree(f, 180);
	mfs_lookup lookup;

	lookup_of(&lookup, shared->encoding);
	for (int run = 0; run < 400; run++) {
		struct queued frame[12];
		unsigned count = 1 + random_next() % 12, damaged = random_next() % (2 * count);
		size_t at = 0;

		f->queue.count = f->queue.lookup_count = 0;
		for (unsigned i = 0; i < count; i++) {
			struct queued *q = &frame[i];

			q->size = 300 + random_next() % (random_next() % 3 ? 5000 : 24000);
			q->out = at;
			q->coded = malloc(mfs_codes_bound(q->size));
			assert_non_null(q->coded);
			q->coded_size =
			    mfs_codes_encode(shared->encoding, f->in + at, q->size,
					     random_next() % 2 ? q->size : 4 * q->size, q->coded);
			if (i == damaged) /* near the end of a stream, where it begins */
				q->coded[q->coded_size - 3] ^= 0x40;
			assert_true(parse_queued(f, q, &lookup));
			at += q->size;
		}
		memset(f->out, 0xa5, at);
		/* Another code of the same length may have come of it: hashes find that. */
		assert_true(mfs_literals_run(&f->queue) || damaged < count);
		for (unsigned i = 0; i < count; i++) {
			if (i != damaged)
				assert_memory_equal(f->out + frame[i].out, f->in + frame[i].out,
						    frame[i].size);
			free(frame[i].coded);
		}
	}
}

/* Whatever a damaged frame decodes to, zstd says the same. */
static void damaged_frames_decode_as_zstd_decodes_them(void **state)
{
	struct fixture *f = *state;
	const struct mfs_shared *shared = make_tree(f, 100);
	const size_t size = 3000;
	uint8_t *expected = malloc(size);
	mfs_lookup lookup;
	int taken = 0;

	assert_non_null(expected);
	lookup_of(&lookup, shared->encoding);
	for (int i = 0; i < 3000; i++) {
		size_t coded = mfs_codes_encode(shared->encoding, f->in, size, size, f->coded);
		uint8_t *exact = malloc(coded);
		size_t result;

		assert_non_null(exact);
		memcpy(exact, f->coded, coded);
		exact[i % 2 ? (uint32_t)i / 2 % 30 : random_next() % coded] ^=
		    (uint8_t)(1u << random_next() % 8);
		result = ZSTD_decompress_usingDDict(f->zstd, expected, size, exact, coded,
						    shared->decoding[0]);
		if (decode_all(f, &lookup, exact, coded, size)) {
			assert_int_equal(result, size);
			assert_memory_equal(f->out, expected, size);
			taken++;
		}
		free(exact);
	}
	assert_true(taken > 0);
	free(expected);
}

/* Frames whose blocks bring their trees, and what becomes of damaged ones. */
static void frames_with_trees_decode_as_zstd_decodes_them(void **state)
{
	static const size_t sizes[] = {300, 4000, 16384, 20000, 200000};
	struct fixture *f = *state;
	uint8_t *expected = malloc(BYTES_MAX);
	int taken = 0, damaged = 0;

	assert_non_null(expected);
	for (int i = 0; i < 2000; i++) {
		size_t size = sizes[(unsigned)i % 4 + (i % 40 == 0)], coded, result;
		uint8_t *exact;

		make_tree(f, 3 + (unsigned)i % 200);
		coded = mfs_literals_encode(NULL, f->in, size, f->coded);
		exact = malloc(coded);
		assert_non_null(exact);
		memcpy(exact, f->coded, coded);
		if (i % 4)
			exact[i % 2 ? random_next() % 60 : random_next() % coded] ^=
			    (uint8_t)(1u << random_next() % 8);
		result = ZSTD_decompressDCtx(f->zstd, expected, size, exact, coded);
		if (decode_all(f, NULL, exact, coded, size)) {
			assert_int_equal(result, size);
			assert_memory_equal(f->out, expected, size);
			taken++;
			damaged += i % 4 != 0;
		} else if (i % 4 == 0 && size <= 16384) {
			/* What is left to zstd is too small for four streams, or raw. */
			assert_true(size < 1024 || coded > size);
		}
		free(exact);
	}
	assert_true(taken > 200 && damaged > 0);
	free(expected);
}

static void bytes_without_a_code_are_not_coded(void **state)
{
	struct fixture *f = *state;
	const struct mfs_shared *shared = make_tree(f, 50);
	uint32_t histogram[256] = {0};

	for (size_t at = 0; at < 2000; at += 333) {
		uint8_t kept = f->in[at];

		assert_true(mfs_codes_encode(shared->encoding, f->in, 2000, 2000, f->coded) > 0);
		f->in[at] = 200;
		assert_int_equal(mfs_codes_encode(shared->encoding, f->in, 2000, 2000, f->coded),
				 0);
		f->in[at] = kept;
	}
	histogram[3] = 1;
	assert_in_range(mfs_codes_bits(shared->encoding, histogram), 1, 11);
	histogram[200] = 1;
	assert_true(mfs_codes_bits(shared->encoding, histogram) == UINT64_MAX);
}

static void noise_becomes_raw_blocks(void **state)
{
	struct fixture *f = *state;
	const struct mfs_shared *shared = make_tree(f, 250);
	size_t coded;

	for (size_t i = 0; i < 5000; i++)
		f->in[i] = (uint8_t)(200 + random_next() % 40);
	coded = mfs_codes_encode(shared->encoding, f->in, 5000, 5000, f->coded);
	assert_int_equal(coded, 6 + 3 + 5000);
	assert_memory_equal(f->coded + 9, f->in, 5000);
}

static void what_is_no_tree_is_refused(void **state)
{
	struct fixture *f = *state;
	const uint8_t bytes[MFS_TREE_MAX] = {0};
	mfs_ranks ranks;
	int trees = 0;

	(void)f;
	assert_int_equal(mfs_ranks_read(&ranks, bytes, 0), 0);
	for (int i = 0; i < 20000; i++) {
		size_t size = 1 + random_next() % sizeof(bytes);
		uint8_t *exact = malloc(size);
		size_t used;

		assert_non_null(exact);
		for (size_t k = 0; k < size; k++)
			exact[k] =
			    (uint8_t)(random_next() >> (i % 4 ? 4 : 0) & (i % 2 ? 0x33 : 0xff));
		exact[0] = (uint8_t)(i % 200);
		used = mfs_ranks_read(&ranks, exact, size);
		assert_true(used <= size);
		if (used) {
			uint32_t sum = 0;
			mfs_lookup lookup, expected;
			mfs_codes codes;

			mfs_codes_make(&codes, &ranks);

			/* A complete tree, or none. */
			for (int k = 0; k < 256; k++)
				if (!(codes.code[k] & MFS_CODE_MISSING))
					sum += 2048u >> (codes.code[k] >> 16);
			assert_int_equal(sum, 2048);
			mfs_lookup_make(&lookup, &ranks);
			lookup_of(&expected, &codes);
			assert_memory_equal(&lookup, &expected, sizeof(lookup));
			trees++;
		}
		free(exact);
	}
	assert_true(trees > 0);
}

/* ---- making trees ---- */

enum shape { FLAT, STEEP, FIBONACCI, RANDOM, SHAPES };

/* Counts of `values` values spread over the bytes from `first` on. */
static void make_histogram(uint32_t histogram[256], enum shape shape, unsigned values,
			   unsigned first)
{
	uint32_t a = 1, b = 1;

	memset(histogram, 0, 256 * sizeof(*histogram));
	for (unsigned i = 0; i < values; i++) {
		unsigned k = (first + i * (256 / values)) % 256;
		uint32_t next = a + b;

		switch (shape) {
		case FLAT:
			histogram[k] = 1000;
			break;
		case STEEP:
			histogram[k] = 1 + (1u << 20 >> i / 2 % 21);
			break;
		case FIBONACCI:
			histogram[k] = a;
			a = b;
			b = next > 1u << 20 ? 1 : next;
			break;
		default:
			histogram[k] = 1 + (random_next() >> random_next() % 24 >> 8);
		}
	}
}

static void trees_are_read_as_they_were_made(void **state)
{
	uint32_t histogram[256];
	int made = 0;

	(void)state;
	for (int i = 0; i < 20000; i++) {
		unsigned values = 1 + random_next() % 256;
		uint8_t *exact;
		mfs_tree tree;
		mfs_codes codes;
		mfs_ranks ranks;

		make_histogram(histogram, (enum shape)(i % SHAPES), values, random_next() % 256);
		if (!mfs_tree_make(&tree, histogram))
			continue;
		assert_true(values > 1 && tree.size <= MFS_TREE_MAX);
		exact = malloc(tree.size);
		assert_non_null(exact);
		memcpy(exact, tree.bytes, tree.size);
		assert_int_equal(mfs_ranks_read(&ranks, exact, tree.size), tree.size);
		mfs_codes_make(&codes, &ranks);
		assert_memory_equal(&codes, &tree.codes, sizeof(codes));
		free(exact);
		made++;
	}
	assert_true(made > 19000);
}

/* Without a limit: what each joining of the two smallest counts adds. */
static uint64_t least_bits(const uint32_t histogram[256])
{
	uint64_t weight[256], bits = 0;
	unsigned n = 0;

	for (int k = 0; k < 256; k++)
		if (histogram[k])
			weight[n++] = histogram[k];
	for (; n > 1; n--) {
		for (unsigned end = n; end > n - 2; end--)
			for (unsigned i = 0; i + 1 < end; i++)
				if (weight[i] < weight[i + 1]) {
					uint64_t swap = weight[i];

					weight[i] = weight[i + 1];
					weight[i + 1] = swap;
				}
		weight[n - 2] += weight[n - 1];
		bits += weight[n - 2];
	}
	return bits;
}

static uint64_t bits_of(const uint32_t histogram[256], const uint8_t length[256])
{
	uint64_t bits = 0;

	for (int k = 0; k < 256; k++)
		bits += (uint64_t)histogram[k] * length[k];
	return bits;
}

static void codes_are_the_shortest_there_are(void **state)
{
	uint32_t histogram[256];
	uint8_t length[256];
	int unlimited = 0, limited = 0;

	(void)state;
	for (int i = 0; i < 2000; i++) {
		uint64_t least;
		uint32_t kraft = 0;
		unsigned longest;

		make_histogram(histogram, (enum shape)(i % SHAPES), 2 + random_next() % 255, 0);
		longest = mfs_code_lengths(histogram, MFS_CODE_BITS_MAX, length);
		assert_in_range(longest, 1, MFS_CODE_BITS_MAX);
		for (int k = 0; k < 256; k++) {
			assert_int_equal(histogram[k] > 0, length[k] > 0);
			kraft += length[k] ? 2048u >> length[k] : 0;
		}
		assert_int_equal(kraft, 2048);
		least = least_bits(histogram);
		assert_true(bits_of(histogram, length) >= least);
		unlimited += longest < MFS_CODE_BITS_MAX;
		limited += bits_of(histogram, length) > least;
		if (longest < MFS_CODE_BITS_MAX)
			assert_true(bits_of(histogram, length) == least);
	}
	assert_true(unlimited > 100 && limited > 100);
}

/* Counts that double: without a limit the rarest two would have twelve bits. Of the
 * five for which there is room below eight ones, one takes half of it, and four
 * share the rest. */
static void the_limit_costs_as_little_as_can_be(void **state)
{
	uint32_t histogram[256] = {0};
	uint8_t length[256];

	(void)state;
	for (int k = 0; k < 13; k++)
		histogram[k] = 1u << k;
	assert_int_equal(mfs_code_lengths(histogram, 11, length), 11);
	for (int k = 0; k < 13; k++)
		assert_int_equal(length[k], k < 4 ? 11 : 13 - k);
	assert_int_equal(bits_of(histogram, length), 16373);
	assert_int_equal(mfs_code_lengths(histogram, 4, length), 4);
	assert_int_equal(mfs_code_lengths(histogram, 3, length), 0);
}

static void one_value_alone_has_no_tree(void **state)
{
	uint32_t histogram[256] = {0};
	mfs_tree tree;

	(void)state;
	assert_int_equal(mfs_tree_make(&tree, histogram), 0);
	histogram[7] = 100;
	assert_int_equal(mfs_tree_make(&tree, histogram), 0);
	histogram[8] = 1;
	assert_int_equal(mfs_tree_make(&tree, histogram), 1 + 4); /* eight nibbles */
}

/* ---- frames with trees of their own ---- */

static void check_literals(struct fixture *f, size_t size, size_t most)
{
	size_t coded = mfs_literals_encode(NULL, f->in, size, f->coded);

	assert_in_range(coded, 1, most);
	assert_int_equal(ZSTD_findFrameCompressedSize(f->coded, coded), coded);
	memset(f->out, 0xa5, size);
	assert_int_equal(ZSTD_decompressDCtx(f->zstd, f->out, size, f->coded, coded), size);
	assert_memory_equal(f->in, f->out, size);
}

static void zstd_decodes_frames_with_their_own_trees(void **state)
{
	static const size_t sizes[] = {1,   2,	  3,	9,     64,     255,    256,
				       257, 1000, 4096, 40000, 131072, 131073, BYTES_MAX};
	struct fixture *f = *state;

	for (unsigned values = 2; values <= 256; values += values < 20 ? 1 : 59) {
		make_tree(f, values);
		for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
			check_literals(f, sizes[i], sizes[i] + 6 + 3 * (sizes[i] / 131072 + 1));
	}
}

static void the_tree_of_all_bytes_may_be_given(void **state)
{
	struct fixture *f = *state;
	uint32_t histogram[256] = {0};
	size_t size = 50000, coded;
	uint8_t *expected = malloc(mfs_codes_bound(size));
	mfs_tree tree;

	assert_non_null(expected);
	make_tree(f, 77);
	mfs_histogram_add(histogram, f->in, size);
	assert_true(mfs_tree_make(&tree, histogram) > 0);
	coded = mfs_literals_encode(NULL, f->in, size, expected);
	assert_int_equal(mfs_literals_encode(&tree, f->in, size, f->coded), coded);
	assert_memory_equal(f->coded, expected, coded);
	free(expected);
}

/* The block behind the one at `coded`. */
static uint8_t *next_block(uint8_t *coded)
{
	return coded + 3 + (load_le32(coded) >> 3 & 0x1fffff);
}

/* Noise between, one value, what the tree before serves as well, and other values. */
static void blocks_take_the_tree_that_serves_them_best(void **state)
{
	const size_t block = 128 << 10;
	struct fixture *f = *state;
	uint8_t *coded = f->coded;

	make_tree(f, 16);
	for (size_t i = block; i < 2 * block; i++)
		f->in[i] = (uint8_t)random_next();
	check_literals(f, BYTES_MAX, BYTES_MAX * 3 / 4);
	assert_int_equal(coded[6] >> 1 & 3, 2);
	assert_int_equal(coded[9] & 3, 2); /* its own tree */
	coded = next_block(coded + 6);
	assert_int_equal(coded[3] & 3, 3); /* its second half */
	coded = next_block(coded);
	assert_int_equal(coded[0] >> 1 & 3, 0); /* raw */
	coded = next_block(coded);
	assert_int_equal(coded[0] >> 1 & 3, 2);
	assert_int_equal(coded[3] & 3, 3); /* the tree of the first block */

	memset(f->in, 9, block);
	for (size_t i = block; i < BYTES_MAX; i++)
		f->in[i] = (uint8_t)(200 + (f->in[i] & 7));
	check_literals(f, BYTES_MAX, BYTES_MAX / 2);
	assert_int_equal(f->coded[6] >> 1 & 3, 1); /* one value */
	assert_int_equal(f->coded[9], 9);
	assert_int_equal(f->coded[6 + 4 + 3] & 3, 2);
}

static size_t zstd_size(struct fixture *f, ZSTD_CCtx *context, size_t size)
{
	ZSTD_Sequence block = {.litLength = (unsigned)size};

	ZSTD_CCtx_setParameter(context, ZSTD_c_blockDelimiters, ZSTD_sf_explicitBlockDelimiters);
	ZSTD_CCtx_setParameter(context, ZSTD_c_strategy, ZSTD_btultra2);
	ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
	return ZSTD_compressSequences(context, f->coded, mfs_codes_bound(BYTES_MAX), &block, 1,
				      f->in, size);
}

static void trees_are_hardly_ever_larger_than_those_of_zstd(void **state)
{
	struct fixture *f = *state;
	ZSTD_CCtx *context = ZSTD_createCCtx();

	assert_non_null(context);
	for (unsigned values = 3; values <= 256; values += 11) {
		make_tree(f, values);
		for (size_t size = 500; size < 130000; size *= 4) {
			size_t other = zstd_size(f, context, size);

			assert_false(ZSTD_isError(other));
			check_literals(f, size, other + other / 128 + 4);
		}
	}
	ZSTD_freeCCtx(context);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_new, fixture_free)
	const struct CMUnitTest tests[] = {
	    TEST(zstd_decodes_what_we_code),
	    TEST(we_decode_what_we_code),
	    TEST(frames_of_one_queue_take_turns),
	    TEST(damaged_frames_decode_as_zstd_decodes_them),
	    TEST(frames_with_trees_decode_as_zstd_decodes_them),
	    TEST(bytes_without_a_code_are_not_coded),
	    TEST(noise_becomes_raw_blocks),
	    TEST(what_is_no_tree_is_refused),
	    TEST(trees_are_read_as_they_were_made),
	    TEST(codes_are_the_shortest_there_are),
	    TEST(the_limit_costs_as_little_as_can_be),
	    TEST(one_value_alone_has_no_tree),
	    TEST(zstd_decodes_frames_with_their_own_trees),
	    TEST(the_tree_of_all_bytes_may_be_given),
	    TEST(blocks_take_the_tree_that_serves_them_best),
	    TEST(trees_are_hardly_ever_larger_than_those_of_zstd),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
