#include "huffman.h"

#include <string.h>

#include "huffman_lanes.h"
#include "huffman_private.h"
#include "mfs_endian.h"
#include "processor.h"

/* ---- decoding ---- */

#define ALWAYS_INLINE static inline __attribute__((always_inline))

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

/* Rounds for which all four streams surely have room, and bytes that may be read:
 * streams that are damaged run into what lies before them, and do not end where they
 * should. Stream 3 is the shortest. */
static unsigned rounds_left(const mfs_literals_job *job)
{
	ptrdiff_t rounds = (job->end - job->out - 3 * quarter_of(job)) / MFS_ROUND;

	for (int k = 0; k < 4; k++) {
		ptrdiff_t bytes = (job->at[k] - job->floor) / MFS_ROUND_READ;

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

static size_t job_size(const mfs_literals_job *job)
{
	return (size_t)(job->end - job->begin);
}

/* The largest first. */
static void sort_jobs(mfs_literals_job *jobs, uint32_t count, mfs_literals_job *sorted[])
{
	for (uint32_t i = 0; i < count; i++) {
		uint32_t k = i;

		for (; k > 0 && job_size(sorted[k - 1]) < job_size(&jobs[i]); k--)
			sorted[k] = sorted[k - 1];
		sorted[k] = &jobs[i];
	}
}

/* Half of the lanes, and the jobs that it decodes one after the other. */
struct side {
	mfs_literals_job *const *next, *const *end;
	mfs_literals_job *job; /* at hand; NULL: there is none any more */
	const uint8_t *until;  /* of its first stream: the other side goes on there; or NULL */
	unsigned rounds;       /* before the job has to be looked at again */
};

/* Fewer bytes than this are not worth being left to the other side. */
#define SHARE_MIN (4u * MFS_ROUNDS_MAX * MFS_ROUND)

/* Gives both sides the same to do, because one alone decodes hardly more than half as
 * fast: the job in the middle of all is begun by the second side and ended by the first,
 * which comes to it last (McNaughton's wrap-around rule). */
static void share_jobs(mfs_literals_job *const sorted[], uint32_t count, struct side side[2])
{
	size_t all = 0, before = 0, begun;
	uint32_t middle = 0;

	for (uint32_t i = 0; i < count; i++)
		all += job_size(sorted[i]);
	while (middle < count && before + job_size(sorted[middle]) < all / 2)
		before += job_size(sorted[middle++]);
	side[0] = (struct side){.next = sorted, .end = sorted + middle};
	side[1] = (struct side){.next = sorted + middle, .end = sorted + count};
	if (middle == count)
		return;
	begun = before + job_size(sorted[middle]) - all / 2;
	if (middle == 0 || begun < SHARE_MIN) {
		side[0].end++;
		side[1].next++;
	} else if (begun + SHARE_MIN <= job_size(sorted[middle])) {
		side[0].end++;
		side[1].job = *side[1].next++;
		side[1].until = side[1].job->begin + begun / 4;
	}
}

/* The next job of `own`, unless the other side is still at it and so ends it. */
static mfs_literals_job *next_job(struct side *own, struct side *other)
{
	while (own->next < own->end) {
		mfs_literals_job *job = *own->next++;

		if (job != other->job)
			return job;
		other->until = NULL;
	}
	return NULL;
}

/* Finds how many rounds the job at hand has; one that has none left is finished, and
 * the next takes its place. */
static void advance(struct side *own, struct side *other, int *ok)
{
	for (;; own->job = next_job(own, other), own->until = NULL) {
		if (!own->job) {
			if (own->next == own->end)
				return;
			continue;
		}
		own->rounds = rounds_left(own->job);
		if (own->rounds == 0) {
			*ok &= job_finish(own->job);
			continue;
		}
		if (own->until) {
			ptrdiff_t most = (own->until - own->job->out) / MFS_ROUND;

			if (most <= 0)
				continue;
			own->rounds = most < own->rounds ? (unsigned)most : own->rounds;
		}
		return;
	}
}

static int run_all(mfs_literals_job *jobs, uint32_t count, struct kernels with)
{
	mfs_literals_job *sorted[MFS_JOBS_MAX];
	struct side side[2], *a = &side[0], *b = &side[1];
	mfs_lanes lanes;
	int ok = 1;

	sort_jobs(jobs, count, sorted);
	share_jobs(sorted, count, side);
	for (;;) {
		unsigned rounds;

		advance(a, b, &ok);
		advance(b, a, &ok);
		if (!a->job && !b->job)
			return ok;
		if (!a->job || !b->job) {
			const struct side *one = a->job ? a : b;

			lanes_enter(&lanes, 0, one->job);
			with.four(&lanes, one->rounds);
			lanes_leave(&lanes, 0, one->job, one->rounds);
			continue;
		}
		rounds = a->rounds < b->rounds ? a->rounds : b->rounds;
		lanes_enter(&lanes, 0, a->job);
		lanes_enter(&lanes, 1, b->job);
		with.eight(&lanes, rounds);
		lanes_leave(&lanes, 0, a->job, rounds);
		lanes_leave(&lanes, 1, b->job, rounds);
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

/* It takes zstd long to prepare to find two short codes at once: fewer bytes than this
 * are faster here. */
#define FEW_BYTES (16u << 10)

/* The lookup of the tree that a block of `regenerated` bytes brings; *in and *size
 * move behind the tree. NULL where zstd should decode. */
static const mfs_lookup *parse_tree(mfs_literals_queue *queue, const uint8_t **in, size_t *size,
				    size_t regenerated)
{
	mfs_lookup *lookup = &queue->lookup[queue->lookup_count];
	mfs_ranks ranks;
	size_t tree;

	if (queue->lookup_count == MFS_LOOKUPS_MAX)
		return NULL;
	tree = mfs_ranks_read(&ranks, *in, *size);
	if (tree == 0 || (regenerated > FEW_BYTES && mfs_ranks_mean(&ranks) <= MFS_LONG_CODES))
		return NULL;
	mfs_lookup_make(lookup, &ranks);
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
	const uint8_t *floor; /* of jobs */
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
	*job = (mfs_literals_job){.floor = at->floor,
				  .begin = at->out,
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

	if (memcmp(in, mfs_literals_header, sizeof(mfs_literals_header) - 1) != 0 || log > 30)
		return 0;
	window = ((size_t)1 << log) + ((size_t)1 << log) / 8 * (in[5] & 7);
	return window < BLOCK_BYTES ? window : BLOCK_BYTES;
}

int mfs_literals_parse(const mfs_lookup *lookup, const uint8_t *in, size_t size, uint8_t *out,
		       size_t out_size, mfs_literals_queue *queue)
{
	const uint32_t count = queue->count, lookup_count = queue->lookup_count;
	const size_t header = sizeof(mfs_literals_header);
	const size_t most = size < header ? 0 : largest_block(in);
	const uint8_t *floor = queue->floor ? queue->floor : in;
	struct blocks blocks = {in + header, size - header, out, out_size, most, lookup, floor};

	if (most && parse_blocks(queue, &blocks))
		return 1;
	queue->count = count;
	queue->lookup_count = lookup_count;
	return 0;
}
