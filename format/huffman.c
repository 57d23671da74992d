#include "huffman.h"

#include <string.h>

#include "huffman_private.h"
#include "mfs_endian.h"

/* ---- decoding ----
 *
 * A code has to be looked up before the next one can be: four streams alone leave
 * the processor waiting, so those of two blocks take turns.
 *
 * A stream's next bits stand at the top of a word. Below them a one follows that
 * moves up with each shift, so that the number of zeros beneath it tells how many
 * bits are used. Five codes fit a word; then it is loaded anew. */

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

/* The codes that the word-wise loop leaves over. 0 unless the stream ends there. */
static int stream_finish(const mfs_literals_job *job, int k, uint8_t *out, const uint8_t *end)
{
	const uint8_t *start = job->start[k];
	long left = 8 * (job->at[k] - start) + 64 - __builtin_ctzll(job->bits[k]);

	for (; out < end; out++) {
		long from = left - MFS_LOOKUP_BITS, first = from < 0 ? 0 : from / 8;
		uint32_t bits = 0;
		uint16_t found;

		for (long byte = first; byte < (left + 7) / 8; byte++)
			bits |= (uint32_t)start[byte] << (8 * (byte - first));
		bits = from < 0 ? bits << -from : bits >> from % 8;
		found = job->entry[bits & ((1u << MFS_LOOKUP_BITS) - 1)];
		left -= found & 63;
		if (left < 0)
			return 0;
		*out = (uint8_t)(found >> 8);
	}
	return left == 0;
}

/* Rounds of five codes that all four streams surely have: at most seven bytes
 * each, and room for five. Stream 3 is the shortest. */
static long rounds_left(const mfs_literals_job *job, ptrdiff_t quarter)
{
	long rounds = (job->end - job->out - 3 * quarter) / 5;

	for (int k = 0; k < 4; k++) {
		long bytes = (job->at[k] - job->start[k]) / 7;

		rounds = bytes < rounds ? bytes : rounds;
	}
	return rounds;
}

/* A job under way. */
struct run {
	mfs_literals_job *job;
	uint8_t *begin; /* of its output */
	ptrdiff_t quarter;
	long rounds;
};

ALWAYS_INLINE void load_run(const struct run *run, uint64_t bits[4], const uint8_t *at[4])
{
	for (int k = 0; k < 4; k++) {
		bits[k] = run->job->bits[k];
		at[k] = run->job->at[k];
	}
}

ALWAYS_INLINE void store_run(struct run *run, const uint64_t bits[4], const uint8_t *const at[4],
			     uint8_t *out)
{
	for (int k = 0; k < 4; k++) {
		run->job->bits[k] = bits[k];
		run->job->at[k] = at[k];
	}
	run->job->out = out;
	run->rounds = rounds_left(run->job, run->quarter);
}

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

ALWAYS_INLINE void decode_one(struct run *run)
{
	const uint16_t *entry = run->job->entry;
	const ptrdiff_t quarter = run->quarter;
	uint8_t *out = run->job->out;
	const uint8_t *at[4];
	uint64_t bits[4];

	load_run(run, bits, at);
	for (long round = 0; round < run->rounds; round++, out += 5) {
#pragma GCC unroll 5
		for (int i = 0; i < 5; i++)
#pragma GCC unroll 4
			for (int k = 0; k < 4; k++)
				STEP(bits[k], entry, out + k * quarter + i);
#pragma GCC unroll 4
		for (int k = 0; k < 4; k++)
			RELOAD(bits[k], at[k]);
	}
	store_run(run, bits, at, out);
}

ALWAYS_INLINE void decode_two(struct run *a, struct run *b)
{
	const uint16_t *entry_a = a->job->entry, *entry_b = b->job->entry;
	const ptrdiff_t quarter_a = a->quarter, quarter_b = b->quarter;
	uint8_t *out_a = a->job->out, *out_b = b->job->out;
	const uint8_t *at_a[4], *at_b[4];
	uint64_t bits_a[4], bits_b[4];
	long rounds = a->rounds < b->rounds ? a->rounds : b->rounds;

	load_run(a, bits_a, at_a);
	load_run(b, bits_b, at_b);
	for (; rounds; rounds--, out_a += 5, out_b += 5) {
#pragma GCC unroll 5
		for (int i = 0; i < 5; i++) {
#pragma GCC unroll 4
			for (int k = 0; k < 4; k++) {
				STEP(bits_a[k], entry_a, out_a + k * quarter_a + i);
				STEP(bits_b[k], entry_b, out_b + k * quarter_b + i);
			}
		}
#pragma GCC unroll 4
		for (int k = 0; k < 4; k++) {
			RELOAD(bits_a[k], at_a[k]);
			RELOAD(bits_b[k], at_b[k]);
		}
	}
	store_run(a, bits_a, at_a, out_a);
	store_run(b, bits_b, at_b, out_b);
}

static int run_begin(struct run *run, mfs_literals_job *job)
{
	run->job = job;
	run->begin = job->out;
	run->quarter = (job->end - job->out + 3) / 4;
	run->rounds = rounds_left(job, run->quarter);
	return 1;
}

static int run_end(struct run *run)
{
	int ok = 1;

	for (int k = 0; k < 4; k++)
		ok = ok &&
		     stream_finish(run->job, k, run->job->out + k * run->quarter,
				   k < 3 ? run->begin + (k + 1) * run->quarter : run->job->end);
	return ok;
}

ALWAYS_INLINE int run_all(mfs_literals_job *jobs, uint32_t count)
{
	struct run run[2];
	uint32_t next = 0, active = 0;
	int ok = 1;

	for (;;) {
		while (active < 2 && next < count)
			active += (uint32_t)run_begin(&run[active], &jobs[next++]);
		if (active == 0)
			return ok;
		if (active == 2 && run[0].rounds > 0 && run[1].rounds > 0)
			decode_two(&run[0], &run[1]);
		else if (active == 1 && run[0].rounds > 0)
			decode_one(&run[0]);
		if (active == 2 && run[1].rounds <= 0)
			ok &= run_end(&run[--active]);
		if (active && run[0].rounds <= 0) {
			ok &= run_end(&run[0]);
			run[0] = run[1];
			active--;
		}
	}
}

#if defined(__x86_64__)
/* Shifts by a variable without going through the flags and one register. */
__attribute__((target("bmi,bmi2"))) static int run_bmi2(mfs_literals_job *jobs, uint32_t count)
{
	return run_all(jobs, count);
}
#endif

int mfs_jobs_run(mfs_literals_job *jobs, uint32_t count)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("bmi2"))
		return run_bmi2(jobs, count);
#endif
	return run_all(jobs, count);
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

/* One compressed block: literals with the known tree in four streams, no
 * sequences. Returns the bytes it decodes to, 0 if it is anything else. */
static size_t parse_block(mfs_literals_job *job, const uint8_t *in, size_t size, uint8_t *out,
			  size_t room)
{
	unsigned form = size ? in[0] >> 2 & 3 : 0;
	unsigned bits = form == 1 ? 10 : form == 2 ? 14 : 18;
	size_t header = form == 1 ? 3 : form + 2, regenerated, coded;
	uint64_t word = 0;

	if (size < 6 || (in[0] & 3) != 3 || form == 0 || in[size - 1] != 0)
		return 0;
	for (size_t i = 0; i < header; i++)
		word |= (uint64_t)in[i] << 8 * i;
	regenerated = word >> 4 & ((1u << bits) - 1);
	coded = word >> (4 + bits) & ((1u << bits) - 1);
	if (header + coded + 1 != size || regenerated > room || regenerated > BLOCK_BYTES)
		return 0;
	job->out = out;
	job->end = out + regenerated;
	return parse_literals(job, in + header, coded) ? regenerated : 0;
}

int mfs_lookup_parse(const mfs_lookup *lookup, const uint8_t *in, size_t size, uint8_t *out,
		     size_t out_size, mfs_literals_job *jobs, uint32_t *count, uint32_t room)
{
	size_t at = sizeof(mfs_literals_header), done = 0;
	uint32_t word = 0, added = 0;

	if (size < at || memcmp(in, mfs_literals_header, at) != 0)
		return 0;
	while (!(word & 1)) {
		size_t length, decoded;

		if (size - at < 3)
			return 0;
		word = in[at] | (uint32_t)in[at + 1] << 8 | (uint32_t)in[at + 2] << 16;
		at += 3;
		length = decoded = word >> 3;
		if (length > size - at)
			return 0;
		if ((word >> 1 & 3) == 2 && *count + added < room) {
			mfs_literals_job *job = &jobs[*count + added++];

			job->entry = lookup->entry;
			decoded = parse_block(job, in + at, length, out + done, out_size - done);
			if (decoded == 0)
				return 0;
		} else if ((word >> 1 & 3) == 0 && length <= out_size - done &&
			   length <= BLOCK_BYTES) {
			memcpy(out + done, in + at, length);
		} else {
			return 0;
		}
		at += length;
		done += decoded;
	}
	if (at != size || done != out_size)
		return 0;
	*count += added;
	return 1;
}
