/*
 * peers FILE...: what general compressors make of the same bytes, on one core.
 * Prints a line of tab-separated values for each file and peer:
 *   peer, file, original bytes, stored bytes, pack MB/s, decode GB/s, spread of decode
 * Speeds go by processor time; decoding is the median of the rounds, the spread
 * is (best - worst) / median. A peer that was not built in prints MISSING, and the exit status
 * is 1.
 */
#include <lzma.h>
#include <lz4.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <zstd.h>
#ifdef HAVE_BLOSC2
#include <blosc2.h>
#endif

#define ROUNDS 5
/* Searching compressors take minutes for what others do in seconds: they get the first part. */
#define SLOW_BYTES (16u << 20)

typedef size_t code(const uint8_t *in, size_t size, uint8_t *out, size_t room);

struct peer {
	const char *name;
	code *pack;
	code *unpack;
	int slow;
};

static size_t zstd_level(const uint8_t *in, size_t size, uint8_t *out, size_t room, int level)
{
	size_t n = ZSTD_compress(out, room, in, size, level);

	return ZSTD_isError(n) ? 0 : n;
}

static size_t zstd_3(const uint8_t *in, size_t size, uint8_t *out, size_t room)
{
	return zstd_level(in, size, out, room, 3);
}

static size_t zstd_19(const uint8_t *in, size_t size, uint8_t *out, size_t room)
{
	return zstd_level(in, size, out, room, 19);
}

static size_t zstd_unpack(const uint8_t *in, size_t size, uint8_t *out, size_t room)
{
	size_t n = ZSTD_decompress(out, room, in, size);

	return ZSTD_isError(n) ? 0 : n;
}

static size_t xz_pack(const uint8_t *in, size_t size, uint8_t *out, size_t room)
{
	size_t at = 0;

	return lzma_easy_buffer_encode(6, LZMA_CHECK_CRC64, NULL, in, size, out, &at, room) ? 0
											    : at;
}

static size_t xz_unpack(const uint8_t *in, size_t size, uint8_t *out, size_t room)
{
	uint64_t memory = UINT64_MAX;
	size_t in_at = 0, at = 0;

	return lzma_stream_buffer_decode(&memory, 0, NULL, in, &in_at, size, out, &at, room) ? 0
											     : at;
}

static size_t lz4_pack(const uint8_t *in, size_t size, uint8_t *out, size_t room)
{
	return (size_t)LZ4_compress_default((const char *)in, (char *)out, (int)size, (int)room);
}

static size_t lz4_unpack(const uint8_t *in, size_t size, uint8_t *out, size_t room)
{
	int n = LZ4_decompress_safe((const char *)in, (char *)out, (int)size, (int)room);

	return n < 0 ? 0 : (size_t)n;
}

#ifdef HAVE_BLOSC2
/* Bytes of a number in the file at hand: shuffling wants to know. */
static int number_bytes = 1;

static size_t blosc2_filtered(const uint8_t *in, size_t size, uint8_t *out, size_t room,
			      uint8_t filter)
{
	blosc2_cparams options = BLOSC2_CPARAMS_DEFAULTS;
	blosc2_context *context;
	int n;

	options.compcode = BLOSC_ZSTD;
	options.clevel = 5;
	options.typesize = number_bytes;
	options.filters[BLOSC2_MAX_FILTERS - 1] = filter;
	context = blosc2_create_cctx(options);
	n = blosc2_compress_ctx(context, in, (int32_t)size, out, (int32_t)room);
	blosc2_free_ctx(context);
	return n < 0 ? 0 : (size_t)n;
}

static size_t blosc2_bytes(const uint8_t *in, size_t size, uint8_t *out, size_t room)
{
	return blosc2_filtered(in, size, out, room, BLOSC_SHUFFLE);
}

static size_t blosc2_bits(const uint8_t *in, size_t size, uint8_t *out, size_t room)
{
	return blosc2_filtered(in, size, out, room, BLOSC_BITSHUFFLE);
}

static size_t blosc2_unpack(const uint8_t *in, size_t size, uint8_t *out, size_t room)
{
	blosc2_dparams options = BLOSC2_DPARAMS_DEFAULTS;
	blosc2_context *context = blosc2_create_dctx(options);
	int n = blosc2_decompress_ctx(context, in, (int32_t)size, out, (int32_t)room);

	blosc2_free_ctx(context);
	return n < 0 ? 0 : (size_t)n;
}
#endif

static const struct peer peers[] = {
    {"zstd -3", zstd_3, zstd_unpack, 0},	{"zstd -19", zstd_19, zstd_unpack, 1},
    {"xz -6", xz_pack, xz_unpack, 1},		{"lz4", lz4_pack, lz4_unpack, 0},
#ifdef HAVE_BLOSC2
    {"blosc2", blosc2_bytes, blosc2_unpack, 0}, {"blosc2 bits", blosc2_bits, blosc2_unpack, 0},
#else
    {"blosc2", NULL, NULL, 0},
#endif
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

__attribute__((noreturn)) static void die(const char *what, const char *name)
{
	fprintf(stderr, "peers: %s: %s\n", name, what);
	exit(1);
}

static void measure(const struct peer *peer, const char *file, const uint8_t *in, size_t size)
{
	size_t room = size + size / 8 + 65536, stored, got = 0;
	uint8_t *out = malloc(room), *back = malloc(size);
	double start, pack, seconds[ROUNDS];

	if (!out || !back)
		die("out of memory", peer->name);
	start = now();
	stored = peer->pack(in, size, out, room);
	pack = now() - start;
	if (!stored)
		die("cannot pack", peer->name);
	for (int i = 0; i < ROUNDS; i++) {
		start = now();
		got = peer->unpack(out, stored, back, size);
		seconds[i] = now() - start;
	}
	if (got != size || memcmp(in, back, size))
		die("other bytes came back", peer->name);
	qsort(seconds, ROUNDS, sizeof(*seconds), by_value);
	printf("%s\t%s\t%zu\t%zu\t%.1f\t%.3f\t%.3f\n", peer->name, file, size, stored,
	       (double)size / pack * 1e-6, (double)size / seconds[ROUNDS / 2] * 1e-9,
	       (seconds[ROUNDS - 1] - seconds[0]) / seconds[ROUNDS / 2]);
	fflush(stdout);
	free(out);
	free(back);
}

/* From the name of the type, with which the name of the file begins. */
static void find_number_bytes(const char *path)
{
#ifdef HAVE_BLOSC2
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;

	if (!strncasecmp(name, "F32", 3))
		number_bytes = 4;
	else if (!strncasecmp(name, "F16", 3) || !strncasecmp(name, "BF16", 4))
		number_bytes = 2;
	else
		number_bytes = 1;
#else
	(void)path;
#endif
}

static uint8_t *load(const char *path, size_t *size)
{
	FILE *file = fopen(path, "rb");
	uint8_t *bytes;
	long end = 0;

	if (!file || fseek(file, 0, SEEK_END) || (end = ftell(file)) <= 0)
		die("cannot be read", path);
	rewind(file);
	bytes = malloc((size_t)end);
	if (!bytes || fread(bytes, 1, (size_t)end, file) != (size_t)end)
		die("cannot be read", path);
	fclose(file);
	*size = (size_t)end;
	return bytes;
}

int main(int argc, char **argv)
{
	int missing = 0;

	for (int f = 1; f < argc; f++) {
		size_t size;
		uint8_t *bytes = load(argv[f], &size);

		find_number_bytes(argv[f]);
		for (size_t p = 0; p < sizeof(peers) / sizeof(*peers); p++) {
			size_t part = peers[p].slow && size > SLOW_BYTES ? SLOW_BYTES : size;

			if (peers[p].pack) {
				measure(&peers[p], argv[f], bytes, part);
				continue;
			}
			printf("%s\t%s\tMISSING\n", peers[p].name, argv[f]);
			missing = 1;
		}
		free(bytes);
	}
	return missing;
}
