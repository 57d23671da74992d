/* Coding "packed": streams of which each byte has the same value in some of its bits,
 * and noise in the others. Only the others are stored, packed (frame.h). */
#include "frame_private.h"

#include <string.h>

#include "mfs_endian.h"
#include "modelfs_error.h"
#include "packed_x86.h"
#include "processor.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

#define HEADER_BYTES	4
#define EXCEPTION_BYTES 4
#define EXCEPTIONS_MAX	UINT16_MAX
#define PLACE_BITS	24

/* One in so many bytes may differ in a bit that the others share. */
#define RARE 256

/* ---- parts ----
 *
 * The bits that vary are divided into runs of 4, 2 and 1 neighbours. Of such a run
 * with n bits the part has ceil(size * n / 8) bytes: byte i holds the runs of bytes
 * i, i + m, i + 2 m ... of the stream, m being its size, the first in its lowest
 * bits. */

struct part {
	unsigned shift, bits;
};

/* Divides a mask, from its lowest bit on; returns the number of parts. */
static unsigned parts_of(unsigned mask, struct part part[8])
{
	unsigned count = 0;

	for (unsigned shift = 0; shift < 8; shift += part[count++].bits) {
		while (shift < 8 && !(mask >> shift & 1))
			shift++;
		if (shift == 8)
			break;
		part[count].shift = shift;
		part[count].bits = (mask >> shift & 15) == 15 ? 4
				   : (mask >> shift & 3) == 3 ? 2
							      : 1;
	}
	return count;
}

static size_t part_size(size_t size, unsigned bits)
{
	return (size * bits + 7) / 8;
}

static size_t parts_size(unsigned mask, size_t size)
{
	struct part part[8];
	unsigned count = parts_of(mask, part);
	size_t sum = 0;

	for (unsigned i = 0; i < count; i++)
		sum += part_size(size, part[i].bits);
	return sum;
}

/* The bytes whose runs lie from bit `bits * q` on of the part's bytes. */
static size_t section_size(size_t size, size_t part, unsigned q)
{
	size_t first = q * part;

	return first >= size ? 0 : size - first < part ? size - first : part;
}

ALWAYS_INLINE void put_part(const uint8_t *restrict in, size_t size, unsigned shift, unsigned bits,
			    uint8_t *restrict out)
{
	size_t part = part_size(size, bits);

	memset(out, 0, part);
	for (unsigned q = 0; q < 8 / bits; q++) {
		size_t n = section_size(size, part, q);
		const uint8_t *from = in + q * part;

		for (size_t i = 0; i < n; i++)
			out[i] |= (uint8_t)((from[i] >> shift & ((1u << bits) - 1)) << bits * q);
	}
}

/* ---- unpacking ----
 *
 * A run is a piece of the stream for which no part goes on to its next bits. */

/* Bytes of a run: few enough to stay in the first-level cache from part to part. */
#define RUN_MAX 4096

ALWAYS_INLINE uint64_t each_byte(unsigned value)
{
	return UINT64_C(0x0101010101010101) * value;
}

/* Eight bytes at a time: no bits cross a byte. The first part also brings the value
 * that all bytes share. */
static void get_bits(const struct mfs_packed_bits *at, int first, uint8_t value,
		     uint8_t *restrict out, size_t n)
{
	const uint8_t *restrict in = at->in;
	const unsigned from = at->from, shift = at->shift;
	const uint64_t mask = each_byte((1u << at->bits) - 1), shared = each_byte(value);
	size_t i = 0;

	for (; i + 8 <= n; i += 8) {
		uint64_t word, to = shared;

		memcpy(&word, in + i, 8);
		if (!first)
			memcpy(&to, out + i, 8);
		to |= (word >> from & mask) << shift;
		memcpy(out + i, &to, 8);
	}
	for (; i < n; i++)
		out[i] =
		    (uint8_t)((first ? value : out[i]) | (in[i] >> from & (mask & 255)) << shift);
}

static void get_run(const struct mfs_packed_run *run, uint8_t *out, size_t n)
{
	for (unsigned i = 0; i < run->count; i++)
		get_bits(&run->part[i], i == 0, run->value, out, n);
}

/* The run that begins at byte `at` of `size`; returns its bytes. */
static size_t find_run(const struct part part[], const uint8_t *in, size_t size, size_t at,
		       struct mfs_packed_run *run)
{
	size_t n = size - at < RUN_MAX ? size - at : RUN_MAX;

	for (unsigned i = 0; i < run->count; i++) {
		size_t bytes = part_size(size, part[i].bits), place = at % bytes;

		run->part[i] =
		    (struct mfs_packed_bits){.in = in + place,
					     .from = (unsigned)(at / bytes) * part[i].bits,
					     .shift = part[i].shift,
					     .bits = part[i].bits};
		n = bytes - place < n ? bytes - place : n;
		in += bytes;
	}
	return n;
}

static void get_parts(const struct part part[], struct mfs_packed_run run, const uint8_t *in,
		      uint8_t *out, size_t size)
{
	size_t n;

	for (size_t at = 0; at < size; at += n) {
		size_t done = 0;

		n = find_run(part, in, size, at, &run);
#if defined(__x86_64__)
		if (mfs_processor() & MFS_PROCESSOR_AVX2)
			done = mfs_packed_run_avx2(&run, out + at, n);
#endif
		for (unsigned i = 0; i < run.count; i++)
			run.part[i].in += done;
		get_run(&run, out + at + done, n - done);
	}
}

/* ---- choosing ---- */

/* Bytes in which each bit is set. Halves of the histogram are added to one another: the
 * upper one has the highest bit that is left. */
static void count_bits(const uint32_t histogram[256], uint32_t set[8])
{
	uint32_t sum[256];

	memcpy(sum, histogram, sizeof(sum));
	for (unsigned bit = 8; bit-- > 0;) {
		const unsigned half = 1u << bit;

		set[bit] = 0;
		for (unsigned k = 0; k < half; k++) {
			set[bit] += sum[half + k];
			sum[k] += sum[half + k];
		}
	}
}

static unsigned most_common(const uint32_t histogram[256])
{
	uint32_t most = 0;
	unsigned k = 0;

	for (unsigned i = 0; i < 256; i++)
		most = histogram[i] > most ? histogram[i] : most;
	while (histogram[k] != most)
		k++;
	return k;
}

size_t mfs_packed_plan(struct mfs_packed *plan, const uint32_t histogram[256], size_t size)
{
	unsigned common = most_common(histogram);
	size_t exceptions = 0;
	uint32_t set[8];

	count_bits(histogram, set);
	plan->mask = 0;
	for (unsigned bit = 0; bit < 8; bit++) {
		size_t differ = common >> bit & 1 ? size - set[bit] : set[bit];

		plan->mask |= (uint8_t)((differ > size / RARE) << bit);
	}
	if (plan->mask == 255)
		return 0;
	plan->value = common & (uint8_t)~plan->mask;
	for (unsigned k = 0; k < 256; k++)
		exceptions += (k & (uint8_t)~plan->mask) != plan->value ? histogram[k] : 0;
	plan->exceptions = (uint32_t)exceptions;
	if (exceptions > EXCEPTIONS_MAX)
		return 0;
	return HEADER_BYTES + exceptions * EXCEPTION_BYTES + parts_size(plan->mask, size);
}

/* ---- coding ---- */

size_t mfs_packed_encode(const struct mfs_packed *plan, const uint8_t *in, size_t size,
			 uint8_t *out)
{
	struct part part[8];
	unsigned count = parts_of(plan->mask, part);
	uint8_t *at = out + HEADER_BYTES;
	const uint8_t rest = (uint8_t)~plan->mask;

	out[0] = plan->mask;
	out[1] = plan->value;
	store_le16(out + 2, (uint16_t)plan->exceptions);
	for (size_t i = 0; i < size && plan->exceptions; i++)
		if ((in[i] & rest) != plan->value) {
			store_le32(at, (uint32_t)i | (uint32_t)in[i] << PLACE_BITS);
			at += EXCEPTION_BYTES;
		}
	for (unsigned i = 0; i < count; i++) {
		if (part[i].bits == 4)
			put_part(in, size, part[i].shift, 4, at);
		else if (part[i].bits == 2)
			put_part(in, size, part[i].shift, 2, at);
		else
			put_part(in, size, part[i].shift, 1, at);
		at += part_size(size, part[i].bits);
	}
	return (size_t)(at - out);
}

/* Puts back the bytes that differ from the others. */
static int get_exceptions(const uint8_t *in, uint32_t count, uint8_t *out, size_t size)
{
	uint32_t next = 0;

	for (; count; count--, in += EXCEPTION_BYTES) {
		uint32_t word = load_le32(in), place = word & ((1u << PLACE_BITS) - 1);

		if (place < next || place >= size)
			return MFS_E_CORRUPT;
		out[place] = (uint8_t)(word >> PLACE_BITS);
		next = place + 1;
	}
	return 0;
}

int mfs_packed_decode(const uint8_t *in, size_t in_size, uint8_t *out, size_t size)
{
	struct part part[8];
	const uint8_t *at = in + HEADER_BYTES;
	uint32_t exceptions;
	unsigned count;

	if (in_size < HEADER_BYTES || in[0] == 255 || in[0] & in[1])
		return MFS_E_CORRUPT;
	exceptions = load_le16(in + 2);
	if (in_size != HEADER_BYTES + exceptions * EXCEPTION_BYTES + parts_size(in[0], size))
		return MFS_E_CORRUPT;
	at += exceptions * EXCEPTION_BYTES;
	count = parts_of(in[0], part);
	if (count == 0)
		memset(out, in[1], size);
	else
		get_parts(part, (struct mfs_packed_run){.count = count, .value = in[1]}, at, out,
			  size);
	return get_exceptions(in + HEADER_BYTES, exceptions, out, size);
}
