/*
 * Spans that routes need not fetch, since a read has had them: the kernel keeps what
 * it read. A bit for each span of the container. Who marks spans also forgets them:
 * walks when the lap goes on (walk.c), experts when the kernel reads one again, so
 * has not kept it (expert.c).
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "reader.h"

/* A bit for each 128 KiB of 16 TiB. Of a container with more (tensors may share frames,
 * so that few bytes can claim any number of spans) nothing is remembered. */
#define SEEN_MAX (16u << 20)

int seen_new(struct reader *r)
{
	uint32_t count = r->c->root.count[MFS_SEC_TENSORS];
	struct seen *seen = &r->routes.seen;
	uint64_t bytes = 0;

	seen->first = calloc((size_t)count + 1, sizeof(*seen->first));
	if (!seen->first)
		return MFS_E_MEMORY;
	for (uint32_t i = 0; i < count; i++) {
		mfs_root_tensor t;

		mfs_root_get_tensor(&r->c->root, i, &t);
		seen->first[i] = bytes;
		bytes += div_up(mfs_tensor_spans(&t, r->c->layouts[t.layout].block_bytes), 8);
	}
	seen->first[count] = bytes;
	if (bytes > SEEN_MAX)
		return 0;
	seen->bits = calloc(bytes + 1, 1);
	return seen->bits ? 0 : MFS_E_MEMORY;
}

void seen_free(struct reader *r)
{
	free(r->routes.seen.first);
	free(r->routes.seen.bits);
}

static mfs_span span_with(const struct reader *r, uint32_t tensor, uint64_t at)
{
	mfs_root_tensor t;
	mfs_span place;

	mfs_root_get_tensor(&r->c->root, tensor, &t);
	mfs_tensor_span_at(&t, r->c->layouts[t.layout].block_bytes, at, &place);
	return place;
}

static uint8_t *byte_of(const struct reader *r, uint32_t tensor, const mfs_span *place)
{
	return &r->routes.seen.bits[r->routes.seen.first[tensor] + place->index / 8];
}

static uint8_t bit_of(const mfs_span *place)
{
	return (uint8_t)(1u << place->index % 8);
}

void seen_mark(struct reader *r, uint32_t tensor, uint64_t from, uint64_t to)
{
	while (r->routes.seen.bits && from < to) {
		mfs_span place = span_with(r, tensor, from);

		*byte_of(r, tensor, &place) |= bit_of(&place);
		from = place.offset + place.bytes;
	}
}

bool seen_mark_whole(struct reader *r, uint32_t tensor, uint64_t begun, uint64_t from, uint64_t to)
{
	bool again = false;

	while (r->routes.seen.bits && from < to) {
		mfs_span place = span_with(r, tensor, from);
		uint8_t *byte = byte_of(r, tensor, &place);

		from = place.offset + place.bytes;
		if (place.offset < begun || from > to)
			continue;
		again = again || *byte & bit_of(&place);
		*byte |= bit_of(&place);
	}
	return again;
}

bool seen_at(const struct reader *r, uint32_t tensor, uint64_t at, uint64_t *behind)
{
	mfs_span place = span_with(r, tensor, at);

	*behind = place.offset + place.bytes - at;
	return r->routes.seen.bits && *byte_of(r, tensor, &place) & bit_of(&place);
}

uint64_t seen_bytes(const struct reader *r, uint32_t tensor)
{
	const struct seen *seen = &r->routes.seen;
	uint64_t sum = 0;
	mfs_root_tensor t;

	if (!seen->bits)
		return 0;
	mfs_root_get_tensor(&r->c->root, tensor, &t);
	for (uint64_t byte = seen->first[tensor]; byte < seen->first[tensor + 1]; byte++)
		for (unsigned bits = seen->bits[byte]; bits; bits &= bits - 1) {
			uint64_t index = 8 * (byte - seen->first[tensor]);
			mfs_span place;

			index += (unsigned)__builtin_ctz(bits);
			mfs_tensor_span(&t, r->c->layouts[t.layout].block_bytes, index, &place);
			sum += place.bytes;
		}
	return sum;
}

void seen_forget(struct reader *r, uint32_t tensor)
{
	const struct seen *seen = &r->routes.seen;

	if (seen->bits)
		memset(seen->bits + seen->first[tensor], 0,
		       seen->first[tensor + 1] - seen->first[tensor]);
}
