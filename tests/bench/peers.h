/* General compressors that codec_speed measures beside modelfs's codecs, on one core. */
#ifndef PEERS_H
#define PEERS_H

#include <stddef.h>
#include <stdint.h>

/* Returns the bytes written, 0 on failure. */
typedef size_t peer_code(const uint8_t *in, size_t size, uint8_t *out, size_t room);

struct peer {
	const char *name;
	peer_code *pack, *unpack; /* NULL: not built in */
	int slow;		  /* one that searches: it gets PEER_SLOW_BYTES at most */
};

#define PEER_SLOW_BYTES (16u << 20)

extern const struct peer bench_peers[];
extern const unsigned bench_peer_count;

/* Room that packing wants for `size` bytes. */
static inline size_t bench_peer_room(size_t size)
{
	return size + size / 8 + 65536;
}

/* The type of the bytes that come next, with which `name` begins: filters want to
 * know how large a number is. */
void bench_peers_tell_type(const char *name);

#endif
