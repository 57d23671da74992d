/*
 * All routes through the container: made when it is opened, told of each read, and
 * fetched along whenever there is room. Reads that do not fit stop a route; sequential
 * streams (prefetch.c) stay.
 */
#include <stdlib.h>
#include <string.h>

#include "reader.h"

/* The tensors of the container for the order. Literal bytes are tensors without a
 * name there: their place in the sequence does not matter. */
static int make_order(struct reader *r, uint32_t count)
{
	mfs_order_tensor *tensors = calloc((size_t)count + 1, sizeof(*tensors));
	int err;

	if (!tensors)
		return MFS_E_MEMORY;
	for (uint32_t i = 0; i < count; i++) {
		mfs_root_tensor t;

		mfs_root_get_tensor(&r->c->root, i, &t);
		tensors[i] = (mfs_order_tensor){.name = t.name ? t.name : "",
						.length = t.name_length,
						.model = r->routes.models[i],
						.size = t.size,
						.slice_bytes = t.slice_blocks *
							       r->c->layouts[t.layout].block_bytes};
	}
	err = mfs_order_new(&r->routes.order, tensors, count);
	for (uint32_t i = 0; !err && i < count; i++)
		if (mfs_order_name_of(r->routes.order, i)->experts)
			r->routes.mixture = true;
	free(tensors);
	return err;
}

static int make_execution(struct reader *r, uint32_t count)
{
	const uint32_t *sequence = mfs_order_sequence(r->routes.order);
	mfs_order_part *parts = calloc((size_t)count + 1, sizeof(*parts));
	uint32_t legs = 0;
	int err;

	if (!parts)
		return MFS_E_MEMORY;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t tensor = sequence[i];
		mfs_root_tensor t;

		mfs_root_get_tensor(&r->c->root, tensor, &t);
		r->routes.leg_of[tensor] = MFS_ORDER_NONE;
		if (t.flags & MFS_TENSOR_LITERAL || !t.size ||
		    !mfs_order_whole(r->routes.order, tensor))
			continue;
		r->routes.leg_of[tensor] = legs;
		parts[legs++] = (mfs_order_part){tensor, 0, t.size};
	}
	err = route_make(&r->routes.execution, parts, legs);
	free(parts);
	return err;
}

/* What was recorded, but for experts: which are taken, each token decides anew. */
static int make_replay(struct reader *r)
{
	mfs_order_part *parts = calloc((size_t)r->c->replay_count + 1, sizeof(*parts));
	uint32_t count = 0;
	int err;

	if (!parts)
		return MFS_E_MEMORY;
	for (uint32_t i = 0; i < r->c->replay_count; i++)
		if (!mfs_order_name_of(r->routes.order, r->c->replay[i].tensor)->experts)
			parts[count++] = r->c->replay[i];
	err = route_make(&r->routes.replay, parts, count);
	free(parts);
	return err;
}

/* The numbers of a shard in its name: "model-00002-of-00004.gguf". Its first digit,
 * or NULL. */
static const char *shard_number(const char *name)
{
	const char *of = strstr(name, "-of-");

	return of && of - name > 5 && of[-6] == '-' && strspn(of - 5, "0123456789") == 5 ? of - 5
											 : NULL;
}

static bool same_model(const char *a, const char *b)
{
	const char *x = shard_number(a), *y = shard_number(b);

	return x && y && x - a == y - b && !memcmp(a, b, (size_t)(x - a)) && !strcmp(x + 5, y + 5);
}

/* Shards of one model are neighbours: files are sorted by name. */
static void number_models(struct reader *r, uint32_t count)
{
	uint32_t model = 0, file = 0;
	mfs_root_tensor t;

	for (uint32_t i = 0; i < count; i++) {
		mfs_root_get_tensor(&r->c->root, i, &t);
		if (t.file != file && !same_model(r->c->file_names[file], r->c->file_names[t.file]))
			model++;
		file = t.file;
		r->routes.models[i] = model;
	}
}

int routes_new(struct reader *r)
{
	uint32_t count = r->c->root.count[MFS_SEC_TENSORS];
	struct routes *routes = &r->routes;
	int err;

	routes->replay_strayed = UINT64_MAX;
	routes->expert_layer = MFS_ORDER_NONE;
	routes->leg_of = calloc((size_t)count + 1, sizeof(*routes->leg_of));
	routes->models = calloc((size_t)count + 1, sizeof(*routes->models));
	routes->resident = calloc((size_t)count + 1, 1);
	if (!routes->leg_of || !routes->models || !routes->resident)
		return MFS_E_MEMORY;
	number_models(r, count);
	err = make_order(r, count);
	if (!err)
		err = make_execution(r, count);
	if (!err)
		err = seen_new(r);
	return err ? err : make_replay(r);
}

void routes_free(struct reader *r)
{
	seen_free(r);
	mfs_order_free(r->routes.order);
	route_free(&r->routes.execution);
	route_free(&r->routes.replay);
	free(r->routes.leg_of);
	free(r->routes.models);
	free(r->routes.resident);
}

/* A read of more parts than this is of tensors too small to matter. */
#define COVER_EXTENTS 64

/* Each part of the read in a tensor. */
static void note_cover(struct reader *r, const struct place *place, const struct stream *s)
{
	uint64_t at = place->offset, end = at + place->length, i;
	mfs_root_extent extent;
	mfs_root_file file;

	mfs_root_get_file(&r->c->root, place->file, &file);
	container_extent_at(r->c, &file, at, &i, &extent);
	for (unsigned n = 0; at < end && n < COVER_EXTENTS; n++) {
		uint64_t extent_end = extent.file_offset + extent.length;
		uint64_t origin = s->origin > extent.file_offset ? s->origin : extent.file_offset;
		uint64_t shift = extent.source_offset - extent.file_offset;
		uint64_t to = end < extent_end ? end : extent_end;

		if (extent.kind == MFS_EXTENT_TENSOR) {
			walk_cover(r, extent.tensor, origin + shift, at + shift, to + shift);
			expert_cover(r, extent.tensor, origin + shift, at + shift, to + shift);
		}
		at = to;
		if (at < end)
			mfs_root_get_extent(&r->c->root, ++i, &extent);
	}
}

void routes_note(struct reader *r, const struct place *place, struct stream *s, bool begun)
{
	walk_note(r, place, s, begun);
	expert_note(r, place, s, begun);
	note_cover(r, place, s);
}

unsigned routes_active(const struct reader *r)
{
	unsigned n = r->routes.replay.count > 0;

	for (int i = 0; i < WALKS; i++)
		n += walk_active(r, &r->routes.walks[i]);
	for (int i = 0; i < EXPERTS; i++)
		n += expert_active(r, &r->routes.experts[i]);
	return n;
}

void routes_advance(struct reader *r)
{
	replay_advance(r);
	for (int i = 0; i < EXPERTS; i++)
		if (expert_active(r, &r->routes.experts[i]))
			expert_advance(r, &r->routes.experts[i]);
	for (int i = 0; i < WALKS; i++)
		if (walk_active(r, &r->routes.walks[i]))
			walk_advance(r, &r->routes.walks[i]);
}
