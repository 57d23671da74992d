#include "huffman.h"

#include <string.h>

#include "huffman_lanes.h"
#include "mfs_endian.h"
#include "processor.h"

#define BITS_MAX      11 /* of a code, in literals */
#define LOG_MAX	      6	 /* of the table that codes the weights */
#define WEIGHT_MAX    12
#define WEIGHTS_MAX   255 /* that are stored: the last is not */
#define BLOCK_BYTES   (128u << 10)
#define HALVES_MIN    (32u << 10) /* bytes from which on a frame has two blocks */
#define UNEVEN	      1060
#define FOUR_STREAMS  256 /* bytes of literals from which on four streams are made */
#define RATE_FIRST(w) (1u << ((w)-1))

/* ---- reading the weights of a tree ---- */

/* Bits read upwards from the first byte; zeros follow the last. */
struct reader {
	const uint8_t *bytes;
	size_t size;
	size_t at; /* bit */
};

static unsigned peek(const struct reader *in, unsigned count)
{
	unsigned value = 0;

	for (unsigned i = 0; i < count; i++) {
		size_t bit = in->at + i;

		if (bit / 8 < in->size)
			value |= (in->bytes[bit / 8] >> bit % 8 & 1u) << i;
	}
	return value;
}

static unsigned take(struct reader *in, unsigned count)
{
	unsigned value = peek(in, count);

	in->at += count;
	return value;
}

/* How often the table's states hold each weight; -1: once, at its end. */
struct counts {
	int count[WEIGHT_MAX + 1];
	unsigned number;
	unsigned log;
};

/* A count is written in as few bits as what remains to be told allows. */
static int take_count(struct reader *in, int remaining, int threshold, unsigned bits)
{
	int spare = 2 * threshold - 1 - remaining;
	int value = (int)peek(in, bits) & (threshold - 1);

	if (value < spare) {
		in->at += bits - 1;
		return value - 1;
	}
	value = (int)take(in, bits);
	return (value >= threshold ? value - spare : value) - 1;
}

static int read_counts(struct reader *in, struct counts *out)
{
	int remaining, threshold;
	unsigned bits;
	int zero = 0;

	memset(out, 0, sizeof(*out));
	out->log = take(in, 4) + 5;
	if (out->log > LOG_MAX)
		return -1;
	threshold = 1 << out->log;
	remaining = threshold + 1;
	bits = out->log + 1;
	while (remaining > 1) {
		int count;

		for (unsigned skip = 3; zero && skip == 3; out->number += skip) {
			skip = take(in, 2);
			zero = skip == 3;
		}
		if (out->number > WEIGHT_MAX || in->at > in->size * 8)
			return -1;
		count = take_count(in, remaining, threshold, bits);
		remaining -= count < 0 ? -count : count;
		out->count[out->number++] = count;
		zero = count == 0;
		for (; remaining < threshold && threshold > 1; threshold >>= 1)
			bits--;
	}
	in->at = (in->at + 7) & ~(size_t)7;
	return remaining == 1 && in->at <= in->size * 8 ? 0 : -1;
}

struct state {
	uint8_t weight;
	uint8_t bits;
	uint8_t next;
};

static void spread(const struct counts *counts, struct state table[1 << LOG_MAX])
{
	unsigned size = 1u << counts->log, step = (size >> 1) + (size >> 3) + 3;
	unsigned last = size - 1, at = 0;
	unsigned next[WEIGHT_MAX + 1];

	for (unsigned w = 0; w < counts->number; w++) {
		next[w] = counts->count[w] < 0 ? 1 : (unsigned)counts->count[w];
		if (counts->count[w] < 0)
			table[last--].weight = (uint8_t)w;
	}
	for (unsigned w = 0; w < counts->number; w++)
		for (int i = 0; i < counts->count[w]; i++) {
			table[at].weight = (uint8_t)w;
			do
				at = (at + step) & (size - 1);
			while (at > last);
		}
	for (unsigned s = 0; s < size; s++) {
		unsigned n = next[table[s].weight]++;

		table[s].bits = (uint8_t)(counts->log - (31 - (unsigned)__builtin_clz(n)));
		table[s].next = (uint8_t)((n << table[s].bits) - size);
	}
}

/* Bits read downwards from the one that ends a stream. */
struct backward {
	const uint8_t *bytes;
	long left;
};

static unsigned take_back(struct backward *in, unsigned count)
{
	unsigned value = 0;

	for (unsigned i = 0; i < count; i++) {
		long bit = --in->left;

		value = value << 1 | (bit >= 0 ? in->bytes[bit / 8] >> bit % 8 & 1u : 0u);
	}
	return value;
}

/* Two states take turns until the bits are used up. */
static unsigned read_coded(struct reader *in, uint8_t weight[WEIGHTS_MAX])
{
	struct state table[1 << LOG_MAX];
	struct backward bits = {in->bytes, 0};
	struct counts counts;
	unsigned state[2], count = 0;

	if (in->size == 0 || in->bytes[in->size - 1] == 0 || read_counts(in, &counts))
		return 0;
	bits.left = (long)in->size * 8 - 8 + (31 - __builtin_clz(in->bytes[in->size - 1]));
	bits.bytes += in->at / 8;
	bits.left -= (long)in->at;
	spread(&counts, table);
	state[0] = take_back(&bits, counts.log);
	state[1] = take_back(&bits, counts.log);
	for (unsigned turn = 0; bits.left >= 0; turn ^= 1) {
		const struct state *at = &table[state[turn]];

		if (count + 2 > WEIGHTS_MAX)
			return 0;
		weight[count++] = at->weight;
		state[turn] = at->next + take_back(&bits, at->bits);
		if (bits.left < 0)
			weight[count++] = table[state[turn ^ 1]].weight;
	}
	return count;
}

static unsigned read_plain(struct reader *in, unsigned count, uint8_t weight[WEIGHTS_MAX])
{
	if ((count + 1) / 2 > in->size)
		return 0;
	for (unsigned i = 0; i < count; i++)
		weight[i] = i % 2 ? in->bytes[i / 2] & 15 : in->bytes[i / 2] >> 4;
	return count;
}

/* ---- codes ---- */

/* The last weight fills the tree up. Returns the longest code, 0 on nonsense. */
static unsigned complete(uint8_t weight[WEIGHTS_MAX + 1], unsigned count)
{
	unsigned sum = 0, ones = 0, rest, log;

	for (unsigned i = 0; i < count; i++) {
		if (weight[i] > WEIGHT_MAX)
			return 0;
		sum += weight[i] ? RATE_FIRST(weight[i]) : 0;
		ones += weight[i] == 1;
	}
	if (sum == 0)
		return 0;
	log = 32 - (unsigned)__builtin_clz(sum);
	rest = (1u << log) - sum;
	if (log > BITS_MAX || (rest & (rest - 1)))
		return 0;
	weight[count] = (uint8_t)(32 - __builtin_clz(rest));
	/* zstd wants the longest codes to have the least weight. */
	return ones + (weight[count] == 1) < 2 ? 0 : log;
}

/* Longest codes first, equal lengths in the order of the bytes. */
static void assign(mfs_codes *codes, const uint8_t *weight, unsigned count, unsigned log)
{
	uint32_t next[WEIGHT_MAX + 2] = {0};
	uint32_t number[WEIGHT_MAX + 1] = {0};

	for (unsigned i = 0; i < count; i++)
		number[weight[i]]++;
	for (unsigned w = 1; w <= log; w++)
		next[w + 1] = (next[w] + number[w]) >> 1;
	for (unsigned i = 0; i < 256; i++)
		codes->code[i] = i < count && weight[i]
				     ? next[weight[i]]++ | (log + 1 - weight[i]) << 16
				     : MFS_CODE_MISSING;
}

size_t mfs_codes_read(mfs_codes *codes, const uint8_t *tree, size_t size)
{
	uint8_t weight[WEIGHTS_MAX + 1];
	struct reader in = {tree + 1, 0, 0};
	unsigned count, log;

	if (size == 0)
		return 0;
	in.size = tree[0] < 128 ? tree[0] : (tree[0] - 127u + 1) / 2;
	if (in.size > size - 1)
		return 0;
	count = tree[0] < 128 ? read_coded(&in, weight) : read_plain(&in, tree[0] - 127u, weight);
	log = count ? complete(weight, count) : 0;
	if (log == 0)
		return 0;
	assign(codes, weight, count + 1, log);
	return in.size + 1;
}

uint64_t mfs_codes_bits(const mfs_codes *codes, const uint32_t histogram[256])
{
	uint64_t bits = 0;

	for (int k = 0; k < 256; k++) {
		if (histogram[k] && (codes->code[k] & MFS_CODE_MISSING))
			return UINT64_MAX;
		bits += (uint64_t)histogram[k] * (codes->code[k] >> 16 & 255);
	}
	return bits;
}

/* ---- coding ---- */

/* Magic; no content size, checksum or dictionary number; a window of a block. */
static const uint8_t frame_header[6] = {0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3};

size_t mfs_codes_bound(size_t size)
{
	/* Eleven bits of eight, headers, and what whole-word stores write beyond. */
	return size + size / 2 + (size / BLOCK_BYTES + 1) * 32 + 64;
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

/* Both sizes, in as many bits as they need; type 3: the tree that is known. */
static size_t literals_header(size_t size, size_t coded, uint8_t *out)
{
	size_t most = size > coded ? size : coded;
	unsigned form = most < 1024 ? size >= FOUR_STREAMS : most < 16384 ? 2 : 3;
	unsigned bits = form < 2 ? 10 : form == 2 ? 14 : 18;
	uint64_t word = 3 | form << 2 | (uint64_t)size << 4 | (uint64_t)coded << (4 + bits);
	size_t bytes = form < 2 ? 3 : form + 2;

	for (size_t i = 0; i < bytes; i++)
		out[i] = (uint8_t)(word >> 8 * i);
	return bytes;
}

static void block_header(uint8_t *out, size_t size, unsigned type, int last)
{
	uint32_t word = (uint32_t)size << 3 | type << 1 | (uint32_t)last;

	out[0] = (uint8_t)word;
	out[1] = (uint8_t)(word >> 8);
	out[2] = (uint8_t)(word >> 16);
}

#define HEADER_ROOM 5

static size_t encode_block(const mfs_codes *codes, const uint8_t *in, size_t size, int last,
			   uint8_t *out, uint32_t *seen)
{
	uint8_t header[HEADER_ROOM];
	uint8_t *literals = out + 3 + HEADER_ROOM;
	size_t coded = encode_literals(codes, in, size, literals, seen);
	size_t bytes = literals_header(size, coded, header);

	if (bytes + coded + 1 >= size) {
		block_header(out, size, 0, last);
		memcpy(out + 3, in, size);
		return 3 + size;
	}
	memcpy(out + 3, header, bytes);
	memmove(out + 3 + bytes, literals, coded);
	out[3 + bytes + coded] = 0; /* no sequences */
	block_header(out, bytes + coded + 1, 2, last);
	return 3 + bytes + coded + 1;
}

size_t mfs_codes_encode(const mfs_codes *codes, const uint8_t *in, size_t size, uint8_t *out)
{
	uint8_t *at = out + sizeof(frame_header);
	size_t most = BLOCK_BYTES - UNEVEN;
	uint32_t seen = 0;

	memcpy(out, frame_header, sizeof(frame_header));
	/* Two blocks can be decoded side by side. Quarters of whole 4 KiB would lie at
	 * addresses that the processor's stores take for one another. */
	if (size >= HALVES_MIN && size <= BLOCK_BYTES)
		most = size / 2 + UNEVEN;
	while (size && !(seen & MFS_CODE_MISSING)) {
		size_t part = size < most ? size : most;

		at += encode_block(codes, in, part, part == size, at, &seen);
		in += part;
		size -= part;
	}
	return seen & MFS_CODE_MISSING ? 0 : (size_t)(at - out);
}

/* ---- decoding ---- */

#define ALWAYS_INLINE static inline __attribute__((always_inline))

void mfs_lookup_make(mfs_lookup *lookup, const mfs_codes *codes)
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

uint32_t mfs_codes_mean(const mfs_codes *codes)
{
	uint32_t sum = 0;

	for (unsigned k = 0; k < 256; k++)
		if (!(codes->code[k] & MFS_CODE_MISSING)) {
			unsigned length = codes->code[k] >> 16 & 255;

			sum += length << (MFS_LOOKUP_BITS - length);
		}
	return sum >> (MFS_LOOKUP_BITS - 8);
}

/* ---- lanes ----
 *
 * A code has to be looked up before the next one can be: four streams alone leave
 * the processor waiting, so those of two blocks take turns. */

/* Words are loaded from up to so many bytes below a stream: there lie the streams
 * before it, or the headers. */
#define BELOW 8

#define STEP(bits, entry, to)                                                                      \
	do {                                                                                       \
		uint16_t found = (entry)[(bits) >> (64 - MFS_LOOKUP_BITS)];                        \
                                                                                                   \
		(bits) <<= found & 63;                                                             \
		*(to) = (uint8_t)(found >> 8);                                                     \
	} while (0)
#define RELOAD(bits, at)                                                                           \
	do {                                                                                       \
		unsigned used = (unsigned)__builtin_ctzll(bits);                                   \
                                                                                                   \
		(at) -= used >> 3;                                                                 \
		(bits) = (load_le64(at) | 1) << (used & 7);                                        \
	} while (0)

ALWAYS_INLINE void decode_lanes(mfs_lanes *lanes, unsigned rounds, int count)
{
	uint64_t bits[MFS_LANES];

	memcpy(bits, lanes->bits, sizeof(bits));
	for (unsigned first = 0; first < rounds * MFS_ROUND; first += MFS_ROUND) {
#pragma GCC unroll 5
		for (unsigned i = 0; i < MFS_ROUND; i++)
#pragma GCC unroll 8
			for (int k = 0; k < count; k++)
				STEP(bits[k], lanes->entry[k / 4], &lanes->tile[k][first + i]);
#pragma GCC unroll 8
		for (int k = 0; k < count; k++)
			RELOAD(bits[k], lanes->at[k]);
	}
	memcpy(lanes->bits, bits, sizeof(bits));
}

void mfs_decode_eight(mfs_lanes *lanes, unsigned rounds)
{
	decode_lanes(lanes, rounds, 8);
}

void mfs_decode_four(mfs_lanes *lanes, unsigned rounds)
{
	decode_lanes(lanes, rounds, 4);
}

/* ---- jobs ---- */

/* Streams of fewer than eight bytes are left to zstd. */
static int stream_open(mfs_literals_job *job, int k, const uint8_t *start, size_t size)
{
	if (size < 8 || start[size - 1] == 0)
		return 0;
	job->start[k] = start;
	job->at[k] = start + size - 8;
	job->bits[k] = (load_le64(job->at[k]) | 1) << (__builtin_clz(start[size - 1]) - 24 + 1);
	return 1;
}

static ptrdiff_t quarter_of(const mfs_literals_job *job)
{
	return (job->end - job->begin + 3) / 4;
}

/* Rounds that all four streams surely have, of bytes and of room. Stream 3 is the
 * shortest. */
static unsigned rounds_left(const mfs_literals_job *job)
{
	ptrdiff_t rounds = (job->end - job->out - 3 * quarter_of(job)) / MFS_ROUND;

	for (int k = 0; k < 4; k++) {
		ptrdiff_t bytes = (job->at[k] - job->start[k] + BELOW) / MFS_ROUND_READ;

		rounds = bytes < rounds ? bytes : rounds;
	}
	return rounds < MFS_ROUNDS_MAX ? (unsigned)rounds : MFS_ROUNDS_MAX;
}

static void lanes_enter(mfs_lanes *lanes, int half, const mfs_literals_job *job)
{
	memcpy(lanes->at + 4 * half, job->at, sizeof(job->at));
	memcpy(lanes->bits + 4 * half, job->bits, sizeof(job->bits));
	lanes->entry[half] = job->entry;
}

static void lanes_leave(const mfs_lanes *lanes, int half, mfs_literals_job *job, unsigned rounds)
{
	size_t size = (size_t)rounds * MFS_ROUND;

	memcpy(job->at, lanes->at + 4 * half, sizeof(job->at));
	memcpy(job->bits, lanes->bits + 4 * half, sizeof(job->bits));
	for (int k = 0; k < 4; k++)
		memcpy(job->out + k * quarter_of(job), lanes->tile[4 * half + k], size);
	job->out += size;
}

/* The codes that rounds leave over. 0 unless the stream ends there. */
static int stream_finish(const mfs_literals_job *job, int k)
{
	const uint8_t *at = job->at[k], *start = job->start[k];
	uint8_t *out = job->out + k * quarter_of(job);
	const uint8_t *end = k < 3 ? job->begin + (k + 1) * quarter_of(job) : job->end;
	uint64_t bits = job->bits[k];

	for (; out < end; out++) {
		STEP(bits, job->entry, out);
		if (at - start + BELOW < __builtin_ctzll(bits) / 8)
			return 0;
		RELOAD(bits, at);
	}
	return 8 * (at - start) + 64 == __builtin_ctzll(bits);
}

static int job_finish(const mfs_literals_job *job)
{
	int ok = 1;

	for (int k = 0; k < 4; k++)
		ok &= stream_finish(job, k);
	return ok;
}

struct kernels {
	mfs_decode_lanes *eight, *four;
};

/* The next job that has rounds; those that have none are finished at once. */
static mfs_literals_job *next_job(mfs_literals_job **at, const mfs_literals_job *end, int *ok)
{
	while (*at < end) {
		mfs_literals_job *job = (*at)++;

		if (rounds_left(job) > 0)
			return job;
		*ok &= job_finish(job);
	}
	return NULL;
}

/* Finishes a job that has no rounds left, and puts the next in its place. */
static void advance(mfs_literals_job **active, mfs_literals_job **at, const mfs_literals_job *end,
		    int *ok)
{
	if (*active && rounds_left(*active) > 0)
		return;
	if (*active)
		*ok &= job_finish(*active);
	*active = next_job(at, end, ok);
}

static int run_all(mfs_literals_job *jobs, uint32_t count, struct kernels with)
{
	const mfs_literals_job *end = jobs + count;
	mfs_literals_job *a = NULL, *b = NULL;
	mfs_lanes lanes;
	int ok = 1;

	for (;;) {
		unsigned rounds, rounds_b;

		advance(&a, &jobs, end, &ok);
		advance(&b, &jobs, end, &ok);
		if (!a && !b)
			return ok;
		rounds = rounds_left(a ? a : b);
		if (!a || !b) {
			lanes_enter(&lanes, 0, a ? a : b);
			with.four(&lanes, rounds);
			lanes_leave(&lanes, 0, a ? a : b, rounds);
			continue;
		}
		rounds_b = rounds_left(b);
		rounds = rounds_b < rounds ? rounds_b : rounds;
		lanes_enter(&lanes, 0, a);
		lanes_enter(&lanes, 1, b);
		with.eight(&lanes, rounds);
		lanes_leave(&lanes, 0, a, rounds);
		lanes_leave(&lanes, 1, b, rounds);
	}
}

int mfs_literals_run(mfs_literals_queue *queue)
{
	uint32_t count = queue->count;
	struct kernels with = {mfs_decode_eight, mfs_decode_four};

#if defined(__x86_64__)
	if (mfs_processor() & MFS_PROCESSOR_AVX2)
		with = (struct kernels){mfs_decode_eight_avx2, mfs_decode_four_avx2};
#endif
	queue->count = queue->lookup_count = 0;
	return run_all(queue->job, count, with);
}

/* ---- taking frames apart ---- */

/* The streams of a block's literals, behind their header. */
static int parse_literals(mfs_literals_job *job, const uint8_t *in, size_t size)
{
	size_t at = 6;

	if (size < 6 + 4 * 8 || job->end - job->out < FOUR_STREAMS)
		return 0;
	for (int k = 0; k < 4; k++) {
		size_t part = k < 3 ? load_le16(in + 2 * k) : size - at;

		if (part > size - at || !stream_open(job, k, in + at, part))
			return 0;
		at += part;
	}
	return 1;
}

/* Mean length of codes, in 1/256 bits, from which on one is looked up at a time:
 * zstd finds two shorter ones at once. */
#define LONG_CODES (11 * 256 / 2)
/* But it takes long to prepare that: fewer bytes than this are faster here. */
#define FEW_BYTES (16u << 10)

/* The lookup of the tree that a block of `regenerated` bytes brings; *in and *size
 * move behind the tree. NULL where zstd should decode. */
static const mfs_lookup *parse_tree(mfs_literals_queue *queue, const uint8_t **in, size_t *size,
				    size_t regenerated)
{
	mfs_lookup *lookup = &queue->lookup[queue->lookup_count];
	mfs_codes codes;
	size_t tree;

	if (queue->lookup_count == MFS_LOOKUPS_MAX)
		return NULL;
	tree = mfs_codes_read(&codes, *in, *size);
	if (tree == 0 || (regenerated > FEW_BYTES && mfs_codes_mean(&codes) <= LONG_CODES))
		return NULL;
	mfs_lookup_make(lookup, &codes);
	queue->lookup_count++;
	*in += tree;
	*size -= tree;
	return lookup;
}

enum { LITERALS_CODED = 2, LITERALS_TREELESS = 3 };

/* Blocks of a frame that are yet to be taken apart. */
struct blocks {
	const uint8_t *in;
	size_t left;
	uint8_t *out;
	size_t room;
	size_t most; /* bytes of a block */
	const mfs_lookup *lookup;
};

/* One compressed block of `size` bytes: literals in four streams, with the known
 * tree or one of its own, which then is known; no sequences. Adds a job. Returns the
 * bytes it decodes to, 0 if it is anything else. */
static size_t parse_coded(mfs_literals_queue *queue, struct blocks *at, size_t size)
{
	mfs_literals_job *job = &queue->job[queue->count];
	const uint8_t *in = at->in;
	unsigned type = size ? in[0] & 3 : 0, form = size ? in[0] >> 2 & 3 : 0;
	unsigned bits = form == 1 ? 10 : form == 2 ? 14 : 18;
	size_t header = form == 1 ? 3 : form + 2, regenerated, coded;
	uint64_t word = 0;

	if (size < 6 || form == 0 || in[size - 1] != 0 || queue->count == MFS_JOBS_MAX)
		return 0;
	for (size_t i = 0; i < header; i++)
		word |= (uint64_t)in[i] << 8 * i;
	regenerated = word >> 4 & ((1u << bits) - 1);
	coded = word >> (4 + bits) & ((1u << bits) - 1);
	if (header + coded + 1 != size || regenerated > at->room || regenerated > at->most)
		return 0;
	in += header;
	if (type == LITERALS_CODED)
		at->lookup = parse_tree(queue, &in, &coded, regenerated);
	else if (type != LITERALS_TREELESS)
		return 0;
	if (!at->lookup)
		return 0;
	*job = (mfs_literals_job){.begin = at->out,
				  .out = at->out,
				  .end = at->out + regenerated,
				  .entry = at->lookup->entry};
	if (!parse_literals(job, in, coded))
		return 0;
	queue->count++;
	return regenerated;
}

enum { BLOCK_RAW = 0, BLOCK_CODED = 2 };

/* One block behind its header. */
static int parse_block(mfs_literals_queue *queue, struct blocks *at, unsigned type, size_t size)
{
	size_t decoded = size;

	if (size > at->left || size > at->most)
		return 0;
	if (type == BLOCK_CODED)
		decoded = parse_coded(queue, at, size);
	else if (type != BLOCK_RAW || size > at->room)
		return 0;
	else
		memcpy(at->out, at->in, size);
	if (type == BLOCK_CODED && decoded == 0)
		return 0;
	at->in += size;
	at->left -= size;
	at->out += decoded;
	at->room -= decoded;
	return 1;
}

static int parse_blocks(mfs_literals_queue *queue, struct blocks *at)
{
	uint32_t word = 0;

	while (!(word & 1)) {
		if (at->left < 3)
			return 0;
		word = at->in[0] | (uint32_t)at->in[1] << 8 | (uint32_t)at->in[2] << 16;
		at->in += 3;
		at->left -= 3;
		if (!parse_block(queue, at, word >> 1 & 3, word >> 3))
			return 0;
	}
	return at->left == 0 && at->room == 0;
}

/* The largest block of a frame whose header this is: no content size, checksum or
 * dictionary number. 0 if it is no such header. */
static size_t largest_block(const uint8_t *in)
{
	unsigned log = 10 + (in[5] >> 3);
	size_t window;

	if (memcmp(in, frame_header, sizeof(frame_header) - 1) != 0 || log > 30)
		return 0;
	window = ((size_t)1 << log) + ((size_t)1 << log) / 8 * (in[5] & 7);
	return window < BLOCK_BYTES ? window : BLOCK_BYTES;
}

int mfs_literals_parse(const mfs_lookup *lookup, const uint8_t *in, size_t size, uint8_t *out,
		       size_t out_size, mfs_literals_queue *queue)
{
	const uint32_t count = queue->count, lookup_count = queue->lookup_count;
	const size_t header = sizeof(frame_header);
	const size_t most = size < header ? 0 : largest_block(in);
	struct blocks blocks = {in + header, size - header, out, out_size, most, lookup};

	if (most && parse_blocks(queue, &blocks))
		return 1;
	queue->count = count;
	queue->lookup_count = lookup_count;
	return 0;
}
