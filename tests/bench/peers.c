#include "peers.h"

#include <strings.h>
#include <zstd.h>
#ifdef HAVE_LZMA
#include <lzma.h>
#endif
#ifdef HAVE_LZ4
#include <lz4.h>
#endif
#ifdef HAVE_BLOSC2
#include <blosc2.h>
#endif

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

#ifdef HAVE_LZMA
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
#endif

#ifdef HAVE_LZ4
static size_t lz4_pack(const uint8_t *in, size_t size, uint8_t *out, size_t room)
{
	return (size_t)LZ4_compress_default((const char *)in, (char *)out, (int)size, (int)room);
}

static size_t lz4_unpack(const uint8_t *in, size_t size, uint8_t *out, size_t room)
{
	int n = LZ4_decompress_safe((const char *)in, (char *)out, (int)size, (int)room);

	return n < 0 ? 0 : (size_t)n;
}
#endif

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

const struct peer bench_peers[] = {
    {"zstd -3", zstd_3, zstd_unpack, 0},	{"zstd -19", zstd_19, zstd_unpack, 1},
#ifdef HAVE_LZMA
    {"xz -6", xz_pack, xz_unpack, 1},
#else
    {"xz -6", NULL, NULL, 1},
#endif
#ifdef HAVE_LZ4
    {"lz4", lz4_pack, lz4_unpack, 0},
#else
    {"lz4", NULL, NULL, 0},
#endif
#ifdef HAVE_BLOSC2
    {"blosc2", blosc2_bytes, blosc2_unpack, 0}, {"blosc2 bits", blosc2_bits, blosc2_unpack, 0},
#else
    {"blosc2", NULL, NULL, 0},
#endif
};

const unsigned bench_peer_count = sizeof(bench_peers) / sizeof(*bench_peers);

void bench_peers_tell_type(const char *name)
{
#ifdef HAVE_BLOSC2
	if (!strncasecmp(name, "F32", 3))
		number_bytes = 4;
	else if (!strncasecmp(name, "F16", 3) || !strncasecmp(name, "BF16", 4))
		number_bytes = 2;
	else
		number_bytes = 1;
#else
	(void)name;
#endif
}
