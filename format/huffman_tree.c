#include "huffman.h"

#include <string.h>

#include "mfs_endian.h"

#define LOG_MIN	    5 /* of the table that codes the weights */
#define LOG_MAX	    6
#define WEIGHT_MAX  12
#define WEIGHTS_MAX 255 /* that are stored: the last is not */
#define PLAIN_MAX   128 /* that may be stored as nibbles */
#define CODED_MAX   127 /* bytes of those that are coded */
#define BELOW	    8	/* zeros before these */

/* ---- reading the weights of a tree ---- */

/* Bits read upwards from the first byte; zeros follow the last. */
struct reader {
	const uint8_t *bytes;
	size_t size;
	size_t at; /* bit */
};

/* At most eight bits. */
static unsigned peek(const struct reader *in, unsigned count)
{
	size_t at = in->at / 8;
	unsigned lower = at < in->size ? in->bytes[at] : 0;
	unsigned upper = at + 1 < in->size ? in->bytes[at + 1] : 0;

	return (lower | upper << 8) >> in->at % 8 & ((1u << count) - 1);
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

/* Bits read downwards from the one that ends a stream: zeros follow the first byte. */
struct backward {
	uint8_t bytes[BELOW + CODED_MAX + 1];
	int at; /* bit of `bytes`: those before it are to come */
};

/* At most eight bits, and not again once that leads below the first byte. */
static unsigned take_back(struct backward *in, unsigned count)
{
	in->at -= (int)count;
	return load_le16(in->bytes + in->at / 8) >> in->at % 8 & ((1u << count) - 1);
}

/* Negative once more were taken than there are. */
static int bits_left(const struct backward *in)
{
	return in->at - 8 * BELOW;
}

/* The next bits, uppermost first: 57 at least. */
static uint64_t upcoming(const struct backward *in)
{
	return load_le64(in->bytes + (in->at + 7) / 8 - 8) << (-in->at & 7);
}

/* The bits behind the counts. */
static void begin_back(struct backward *bits, const struct reader *in)
{
	size_t first = in->at / 8, size = in->size - first;

	memset(bits, 0, sizeof(*bits));
	memcpy(bits->bytes + BELOW, in->bytes + first, size);
	bits->at = 8 * (BELOW - 1);
	if (size)
		bits->at += 8 * (int)size + 31 - __builtin_clz(in->bytes[in->size - 1]);
}

/* What is known of the bytes' weights. */
struct weights {
	uint8_t weight[256];
	unsigned count;
};

/* Two states take turns; eight weights take 48 bits at the most. */
static void read_eights(struct backward *bits, const struct state *table, unsigned state[2],
			struct weights *out)
{
	unsigned even = state[0], odd = state[1];

	while (bits_left(bits) >= 8 * LOG_MAX && out->count + 8 + 2 <= WEIGHTS_MAX) {
		uint64_t next = upcoming(bits);

#pragma GCC unroll 4
		for (int i = 0; i < 4; i++) {
			const struct state *a = &table[even], *b = &table[odd];

			out->weight[out->count++] = a->weight;
			out->weight[out->count++] = b->weight;
			even = a->next + (unsigned)(next >> 1 >> (63 - a->bits));
			next <<= a->bits;
			odd = b->next + (unsigned)(next >> 1 >> (63 - b->bits));
			next <<= b->bits;
			bits->at -= a->bits + b->bits;
		}
	}
	state[0] = even;
	state[1] = odd;
}

/* Until the bits are used up. */
static int read_coded(struct reader *in, struct weights *out)
{
	struct state table[1 << LOG_MAX];
	struct backward bits;
	struct counts counts;
	unsigned state[2];

	if (in->size == 0 || in->bytes[in->size - 1] == 0 || read_counts(in, &counts))
		return 0;
	begin_back(&bits, in);
	spread(&counts, table);
	for (int k = 0; k < 2; k++)
		state[k] = bits_left(&bits) < 0 ? 0 : take_back(&bits, counts.log);
	read_eights(&bits, table, state, out);
	for (unsigned turn = 0; bits_left(&bits) >= 0; turn ^= 1) {
		const struct state *at = &table[state[turn]];

		if (out->count + 2 > WEIGHTS_MAX)
			return 0;
		out->weight[out->count++] = at->weight;
		state[turn] = at->next + take_back(&bits, at->bits);
		if (bits_left(&bits) < 0)
			out->weight[out->count++] = table[state[turn ^ 1]].weight;
	}
	return out->count > 0;
}

static int read_plain(struct reader *in, unsigned count, struct weights *out)
{
	if ((count + 1) / 2 > in->size)
		return 0;
	for (; out->count < count; out->count++) {
		uint8_t both = in->bytes[out->count / 2];

		out->weight[out->count] = out->count % 2 ? both & 15 : both >> 4;
	}
	return count > 0;
}

/* ---- codes ---- */

/* The last weight fills the tree up. Returns the longest code, 0 on nonsense. */
static unsigned complete(struct weights *w)
{
	unsigned sum = 0, ones = 0, too_large = 0, rest, log;

	for (unsigned i = 0; i < w->count; i++) {
		too_large |= w->weight[i] > WEIGHT_MAX;
		sum += 1u << w->weight[i] >> 1;
		ones += w->weight[i] == 1;
	}
	if (sum == 0 || too_large)
		return 0;
	log = 32 - (unsigned)__builtin_clz(sum);
	rest = (1u << log) - sum;
	if (log > MFS_CODE_BITS_MAX || (rest & (rest - 1)))
		return 0;
	w->weight[w->count++] = (uint8_t)(32 - __builtin_clz(rest));
	/* zstd wants the longest codes to have the least weight. */
	return ones + (w->weight[w->count - 1] == 1) < 2 ? 0 : log;
}

/* The bytes of each weight in turn until the tree is full, found eight at a time: counting one by
 * one would wait for the counter again and again. */
static void rank(mfs_ranks *ranks, const uint8_t weight[256], unsigned log)
{
	const uint64_t ones = UINT64_C(0x0101010101010101), low = 0x7f * ones;
	unsigned count = 0, full = 0;

	*ranks = (mfs_ranks){.longest = log};
	for (unsigned w = 1; w <= log && full < 1u << log; w++) {
		unsigned before = count;

		for (unsigned i = 0; i < 256; i += 8) {
			uint64_t other = load_le64(weight + i) ^ w * ones;
			uint64_t equal = ~(((other & low) + low) | other | low);

			for (; equal; equal &= equal - 1)
				ranks->byte[count++] =
				    (uint8_t)(i + (unsigned)__builtin_ctzll(equal) / 8);
		}
		ranks->number[log + 1 - w] = (uint16_t)(count - before);
		full += (count - before) << (w - 1);
	}
}

size_t mfs_ranks_read(mfs_ranks *ranks, const uint8_t *tree, size_t size)
{
	struct reader in = {tree + 1, 0, 0};
	struct weights w = {0};
	unsigned log = 0;

	if (size == 0)
		return 0;
	in.size = tree[0] < 128 ? tree[0] : (tree[0] - 127u + 1) / 2;
	if (in.size > size - 1)
		return 0;
	if (tree[0] < 128 ? read_coded(&in, &w) : read_plain(&in, tree[0] - 127u, &w))
		log = complete(&w);
	if (log == 0)
		return 0;
	rank(ranks, w.weight, log);
	return in.size + 1;
}

uint32_t mfs_ranks_mean(const mfs_ranks *ranks)
{
	uint32_t sum = 0;

	for (unsigned length = 1; length <= ranks->longest; length++)
		sum += ranks->number[length] * length << (MFS_CODE_BITS_MAX - length);
	return sum >> (MFS_CODE_BITS_MAX - 8);
}

void mfs_codes_make(mfs_codes *codes, const mfs_ranks *ranks)
{
	const uint8_t *byte = ranks->byte;
	uint32_t code = 0;

	for (unsigned k = 0; k < 256; k++)
		codes->code[k] = MFS_CODE_MISSING;
	for (unsigned length = ranks->longest; length > 0; length--) {
		for (unsigned i = 0; i < ranks->number[length]; i++)
			codes->code[*byte++] = code++ | length << 16;
		code >>= 1;
	}
}

/* `count` is a power of two. */
static inline void fill(uint16_t *to, uint16_t value, unsigned count)
{
	const uint64_t four = value * UINT64_C(0x0001000100010001);

	if (count >= 4)
		for (unsigned i = 0; i < count; i += 4)
			memcpy(to + i, &four, sizeof(four));
	else
		for (unsigned i = 0; i < count; i++)
			to[i] = value;
}

void mfs_lookup_make(mfs_lookup *lookup, const mfs_ranks *ranks)
{
	uint16_t *to = lookup->entry;
	const uint8_t *byte = ranks->byte;

	for (unsigned length = ranks->longest; length > 0; length--) {
		const unsigned times = 1u << (MFS_LOOKUP_BITS - length);

		for (unsigned i = 0; i < ranks->number[length]; i++, to += times)
			fill(to, (uint16_t)(*byte++ << 8 | length), times);
	}
}

/* ---- writing the weights ---- */

/* Bits written upwards; there is always room for eight bytes more. */
struct upward {
	uint8_t *at;
	uint64_t bits;
	unsigned count;
};

static void put_bits(struct upward *to, unsigned value, unsigned count)
{
	to->bits |= (uint64_t)value << to->count;
	to->count += count;
	store_le64(to->at, to->bits);
	to->at += to->count / 8;
	to->bits >>= to->count & ~7u;
	to->count &= 7;
}

/* Shares of the table's states like those of the weights, at least one each. What
 * rounding leaves over goes to the most frequent. Returns 0 if it has too little. */
static int share_states(const uint8_t *weight, unsigned number, unsigned log, struct counts *out)
{
	int seen[WEIGHT_MAX + 1] = {0}, most = 0, left = 1 << log;

	for (unsigned i = 0; i < number; i++)
		seen[weight[i]]++;
	*out = (struct counts){.log = log};
	for (int w = 0; w <= WEIGHT_MAX; w++) {
		int states = (int)(((unsigned)seen[w] << (log + 1)) / number + 1) / 2;

		if (seen[w] == 0)
			continue;
		out->count[w] = states > 0 ? states : 1;
		out->number = (unsigned)w + 1;
		left -= out->count[w];
		most = seen[w] > seen[most] ? w : most;
	}
	out->count[most] += left;
	/* All states for one weight: such a table tells nothing and is not allowed. */
	return out->count[most] > 0 && out->count[most] < 1 << log;
}

/* What read_counts() reads. */
static void write_counts(struct upward *to, const struct counts *counts)
{
	int threshold = 1 << counts->log, remaining = threshold + 1;
	unsigned bits = counts->log + 1;

	put_bits(to, counts->log - LOG_MIN, 4);
	for (unsigned w = 0; remaining > 1; w++) {
		int spare = 2 * threshold - 1 - remaining, value = counts->count[w] + 1;

		if (value < spare)
			put_bits(to, (unsigned)value, bits - 1);
		else
			put_bits(to, (unsigned)(value + (value >= threshold ? spare : 0)), bits);
		remaining -= counts->count[w];
		for (; remaining < threshold && threshold > 1; threshold >>= 1)
			bits--;
		if (counts->count[w])
			continue;
		for (unsigned run = 3; run == 3; w += run) {
			for (run = 0; run < 3 && counts->count[w + 1 + run] == 0; run++)
				;
			put_bits(to, run, 2);
		}
	}
	put_bits(to, 0, (8 - to->count) % 8);
}

/* From the weight before and the state after: the state between. */
typedef uint8_t way_back[WEIGHT_MAX + 1][1 << LOG_MAX];

static void find_ways(const struct state *table, unsigned size, way_back from, uint8_t *first)
{
	memset(first, UINT8_MAX, WEIGHT_MAX + 1);
	for (unsigned s = 0; s < size; s++) {
		const struct state *at = &table[s];

		/* Of a weight's states the first has the most bits. */
		if (first[at->weight] == UINT8_MAX)
			first[at->weight] = (uint8_t)s;
		for (unsigned k = 0; k < 1u << at->bits; k++)
			from[at->weight][at->next + k] = (uint8_t)s;
	}
}

/* Writes the states from the last to the first; each is told by the bits that
 * lead from the one before. The last but one has bits that the reader does not
 * find any more: so it knows the end. */
static void write_states(struct upward *to, const struct counts *counts, const uint8_t *weight,
			 unsigned number)
{
	struct state table[1 << LOG_MAX];
	uint8_t first[WEIGHT_MAX + 1];
	way_back from;
	unsigned state[2];

	spread(counts, table);
	find_ways(table, 1u << counts->log, from, first);
	state[(number - 1) % 2] = first[weight[number - 1]];
	state[number % 2] = first[weight[number - 2]];
	for (unsigned i = number - 2; i-- > 0;) {
		unsigned after = state[i % 2], before = from[weight[i]][after];

		put_bits(to, after - table[before].next, table[before].bits);
		state[i % 2] = before;
	}
	put_bits(to, state[1], counts->log);
	put_bits(to, state[0], counts->log);
	put_bits(to, 1, 1);
	to->at += to->count > 0;
}

/* Room for 255 weights of six bits, the counts, and what is stored beyond. */
#define CODED_ROOM 256

/* Returns the size, 0 if the weights cannot be coded, or not in `most` bytes. */
static size_t write_coded(const uint8_t *weight, unsigned number, size_t most, uint8_t *out)
{
	size_t best = 0;

	for (unsigned log = LOG_MIN; log <= LOG_MAX; log++) {
		uint8_t room[CODED_ROOM];
		struct upward to = {room, 0, 0};
		struct counts counts;
		size_t size;

		if (number < 2 || !share_states(weight, number, log, &counts))
			continue;
		write_counts(&to, &counts);
		write_states(&to, &counts, weight, number);
		size = (size_t)(to.at - room);
		if (size > most)
			continue;
		memcpy(out, room, size);
		best = size;
		most = size - 1;
	}
	return best;
}

static size_t write_plain(const uint8_t *weight, unsigned number, uint8_t *out)
{
	memset(out, 0, (number + 1) / 2);
	for (unsigned i = 0; i < number; i++)
		out[i / 2] |= (uint8_t)(i % 2 ? weight[i] : weight[i] << 4);
	return (number + 1) / 2;
}

/* Writes `number` weights, behind a byte that tells how. */
static size_t write_weights(const uint8_t *weight, unsigned number, uint8_t *tree)
{
	size_t plain = number <= PLAIN_MAX ? (number + 1) / 2 : 0;
	size_t coded = write_coded(weight, number, plain ? plain - 1 : 127, tree + 1);

	if (coded) {
		tree[0] = (uint8_t)coded;
		return 1 + coded;
	}
	if (plain == 0)
		return 0;
	tree[0] = (uint8_t)(127 + number);
	return 1 + write_plain(weight, number, tree + 1);
}

/* With codes of at most `limit` bits. Returns the longest, 0 if there is no tree. */
static unsigned make_limited(mfs_tree *tree, const uint32_t histogram[256], unsigned limit)
{
	uint8_t length[256], weight[256];
	unsigned last = 0, log = mfs_code_lengths(histogram, limit, length);
	mfs_ranks ranks;

	tree->size = 0;
	if (log == 0)
		return 0;
	for (unsigned k = 0; k < 256; k++) {
		weight[k] = (uint8_t)(length[k] ? log + 1 - length[k] : 0);
		last = length[k] ? k : last;
	}
	rank(&ranks, weight, log);
	mfs_codes_make(&tree->codes, &ranks);
	tree->size = write_weights(weight, last, tree->bytes);
	return tree->size ? log : 0;
}

static uint64_t total_bits(const mfs_tree *tree, const uint32_t histogram[256])
{
	return mfs_codes_bits(&tree->codes, histogram) + 8 * tree->size;
}

/* Up to so many bytes it pays to look for a tree that itself takes less. */
#define FEW_BYTES 512

size_t mfs_tree_make(mfs_tree *tree, const uint32_t histogram[256])
{
	unsigned log = make_limited(tree, histogram, MFS_CODE_BITS_MAX);
	uint64_t sum = 0, bits;
	mfs_tree other;

	for (int k = 0; k < 256; k++)
		sum += histogram[k];
	if (log == 0 || sum > FEW_BYTES)
		return tree->size;
	bits = total_bits(tree, histogram);
	while (log > 1 && (log = make_limited(&other, histogram, log - 1))) {
		uint64_t other_bits = total_bits(&other, histogram);

		if (other_bits > bits)
			break;
		bits = other_bits;
		*tree = other;
	}
	return tree->size;
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
