#include "gains.h"

#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../format/mfs_endian.h"
#include "problem.h"

#define LENGTH_SIZE 8

/* A vector of gains. */
struct item {
	uint32_t model;
	const mfs_adapter_pair *pair;
	uint64_t rows, offset; /* offset: in the file */
};

struct mfs_gains {
	mfs_base_model *models;
	uint32_t model_count;
	mfs_source matrices;
	mfs_import import; /* of the matrices; their file's */
	struct item *items;
	uint32_t count;
	uint8_t *head;
	size_t head_size;
	/* The vector that was computed last. The lock guards these two. */
	pthread_mutex_t lock;
	const struct item *held;
	uint8_t *bytes;
};

/* ---- computing ---- */

static int load(const struct mfs_gains *g, uint32_t number, float **out)
{
	const mfs_import_tensor *t = &g->import.tensors[number];
	const mfs_dequant *type = mfs_dequant_of(t->layout);
	uint64_t count = t->size / t->layout->block_bytes;
	mfs_source source = g->matrices;
	uint8_t *raw = malloc(t->size);
	int error;

	*out = calloc(count, sizeof(float));
	error = !raw || !*out ? MFS_E_MEMORY : source.read_at(&source, t->offset, raw, t->size);
	/* Matrices of adapters are of plain types: they were checked. */
	if (!error)
		mfs_dequantize(type, MFS_SIMD_PORTABLE, raw, count, *out);
	free(raw);
	return error;
}

/* The gains of one tensor; the caller frees *out. */
static int compute(const struct mfs_gains *g, const struct item *item, float **out)
{
	const mfs_adapter_pair *pair = item->pair;
	float *a = NULL, *b = NULL, *magnitude = NULL, *panels = NULL;
	uint64_t columns = 0;
	int error = load(g, pair->a, &a);

	*out = calloc(item->rows, sizeof(float));
	if (!error)
		error = load(g, pair->b, &b);
	if (!error)
		error = load(g, pair->magnitude, &magnitude);
	if (!error) {
		columns = g->import.tensors[pair->a].dims[1];
		panels = calloc(mfs_merge_panel_floats(pair->rank, columns), sizeof(float));
		error = panels && *out ? 0 : MFS_E_MEMORY;
	}
	if (!error) {
		const mfs_merge_adapter adapter = {.panels = panels,
						   .b = b,
						   .row_step = pair->rank,
						   .rank_step = 1,
						   .rank = pair->rank,
						   .scale = (float)pair->scale};

		mfs_merge_pack(a, columns, 1, pair->rank, columns, panels);
		error = mfs_base_gains(g->models, item->model, pair->target, item->rows, columns,
				       &adapter, magnitude, *out);
	}
	free(a);
	free(b);
	free(magnitude);
	free(panels);
	return error;
}

/* Makes the item the held one. Lock held. */
static int hold(struct mfs_gains *g, const struct item *item)
{
	float *gains;
	int error;

	if (g->held == item)
		return 0;
	error = compute(g, item, &gains);
	if (!error) {
		free(g->bytes);
		g->bytes = malloc(item->rows * sizeof(float));
		g->held = g->bytes ? item : NULL;
		error = g->bytes ? 0 : MFS_E_MEMORY;
	}
	for (uint64_t i = 0; i < item->rows && !error; i++) {
		uint32_t bits;

		memcpy(&bits, &gains[i], 4);
		store_le32(g->bytes + 4 * i, bits);
	}
	free(gains);
	return error;
}

/* ---- the file ---- */

/* Reads up to `length` bytes that lie in one part; returns how many, or an error. */
static int64_t read_part(void *context, uint64_t offset, uint8_t *out, size_t length)
{
	struct mfs_gains *g = context;
	const struct item *item = g->items;
	uint64_t left;
	int error;

	if (offset < g->head_size) {
		left = g->head_size - offset;
		length = length < left ? length : (size_t)left;
		memcpy(out, g->head + offset, length);
		return (int64_t)length;
	}
	while (item < g->items + g->count - 1 && item[1].offset <= offset)
		item++;
	left = item->offset + 4 * item->rows - offset;
	length = length < left ? length : (size_t)left;
	pthread_mutex_lock(&g->lock);
	error = hold(g, item);
	if (!error)
		memcpy(out, g->bytes + (offset - item->offset), length);
	pthread_mutex_unlock(&g->lock);
	return error ? error : (int64_t)length;
}

static int read_gains(mfs_source *source, uint64_t offset, void *buffer, size_t length)
{
	return mfs_source_read_parts(source, offset, buffer, length, read_part);
}

/* ---- making it ---- */

static const mfs_import_tensor *target_of(const mfs_base_model *models, uint32_t model,
					  const mfs_adapter_pair *pair)
{
	return &models[model].import.tensors[pair->target];
}

static int add_items(struct mfs_gains *g, const mfs_adapter *adapter, mfs_problem *why)
{
	uint32_t pairs = 0;

	for (const mfs_adapter *a = adapter; a; a = a->next)
		pairs += a->count;
	g->items = calloc(pairs + 1u, sizeof(*g->items));
	if (!g->items)
		return mfs_problem_no_memory(why);
	for (uint32_t model = 0; adapter; adapter = adapter->next, model++)
		for (uint32_t i = 0; i < adapter->count; i++) {
			const mfs_adapter_pair *pair = &adapter->pairs[i];

			if (pair->magnitude != UINT32_MAX)
				g->items[g->count++] =
				    (struct item){.model = model,
						  .pair = pair,
						  .rows = g->import.tensors[pair->b].dims[0]};
		}
	return 0;
}

static bool put_item(const struct mfs_gains *g, struct item *item, uint64_t offset, FILE *out)
{
	const mfs_import_tensor *t = target_of(g->models, item->model, item->pair);
	json_t *name = json_stringn(t->name, t->name_length);
	char *text = name ? json_dumps(name, JSON_ENCODE_ANY) : NULL;

	json_decref(name);
	if (!text)
		return false;
	fprintf(out,
		"%c%s:{\"dtype\":\"F32\",\"shape\":[%" PRIu64 "],\"data_offsets\":[%" PRIu64
		",%" PRIu64 "]}",
		offset ? ',' : '{', text, item->rows, offset, offset + 4 * item->rows);
	free(text);
	item->offset = offset;
	return true;
}

static int make_head(struct mfs_gains *g, uint64_t *end)
{
	FILE *out = open_memstream((char **)&g->head, &g->head_size);
	bool ok = out;

	*end = 0;
	if (out)
		fwrite("        ", LENGTH_SIZE, 1, out);
	for (uint32_t i = 0; i < g->count && ok; i++) {
		ok = put_item(g, &g->items[i], *end, out);
		*end += 4 * g->items[i].rows;
	}
	if (out)
		fputc('}', out);
	if (!out || fclose(out) || !g->head || !ok)
		return MFS_E_MEMORY;
	store_le64(g->head, g->head_size - LENGTH_SIZE);
	for (uint32_t i = 0; i < g->count; i++)
		g->items[i].offset += g->head_size;
	*end += g->head_size;
	return 0;
}

static int fill(struct mfs_gains *g, const mfs_adapter *adapter, const mfs_base_model *models,
		mfs_source *source, mfs_problem *why)
{
	uint64_t end = 0;
	int error;

	g->models = calloc(g->model_count, sizeof(*models));
	if (!g->models)
		return mfs_problem_no_memory(why);
	memcpy(g->models, models, g->model_count * sizeof(*models));
	error = add_items(g, adapter, why);
	if (!error && g->count && make_head(g, &end) < 0)
		error = mfs_problem_no_memory(why);
	*source = (mfs_source){.name = "gains.safetensors",
			       .size = end,
			       .read_at = read_gains,
			       .u.fd = -1,
			       .context = g};
	return error;
}

int mfs_gains_open(mfs_gains **out, const mfs_adapter *adapter, const mfs_base_model *models,
		   uint32_t count, const mfs_source *matrices, const mfs_import *import,
		   mfs_source *source, mfs_problem *why)
{
	mfs_gains *g = calloc(1, sizeof(*g));
	int error;

	*out = NULL;
	if (!g)
		return mfs_problem_no_memory(why);
	pthread_mutex_init(&g->lock, NULL);
	g->model_count = count;
	g->matrices = *matrices;
	g->import = *import;
	error = fill(g, adapter, models, source, why);
	if (error || !g->count)
		mfs_gains_free(g);
	else
		*out = g;
	return error;
}

void mfs_gains_free(mfs_gains *g)
{
	if (!g)
		return;
	pthread_mutex_destroy(&g->lock);
	free(g->models);
	free(g->items);
	free(g->head);
	free(g->bytes);
	free(g);
}

int mfs_gains_assign(mfs_adapter *adapter, const mfs_base_model *models, const mfs_import *gains)
{
	mfs_import_index index;
	int error = mfs_import_index_open(&index, gains);

	for (uint32_t model = 0; adapter && !error; adapter = adapter->next, model++)
		for (uint32_t i = 0; i < adapter->count && !error; i++) {
			mfs_adapter_pair *pair = &adapter->pairs[i];
			const mfs_import_tensor *t = target_of(models, model, pair);

			if (pair->magnitude == UINT32_MAX)
				continue;
			pair->gain = mfs_import_find(&index, t->name, t->name_length);
			if (pair->gain == UINT32_MAX)
				error = MFS_E_INVALID;
		}
	mfs_import_index_close(&index);
	return error;
}
