#include "requantize.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../format/check.h"
#include "../../format/dequant.h"
#include "../../format/layout_ggml.h"
#include "../../format/layout_nf4.h"
#include "../../format/layout_safetensors.h"
#include "../../format/nf4.h"
#include "../../format/prune.h"
#include "../../format/quantizers.h"
#include "gguf_rewrite.h"
#include "loss_meter.h"
#include "problem.h"

/* Weights that are computed at once: whole blocks of every type. */
#define PIECE	       (MFS_NF4_BLOCK * MFS_NF4_NESTED_BLOCK)
#define NOTE_ROOM      (MFS_RECIPE_TEXT + 48)
#define PART_ALIGNMENT 32
#define MAP_BYTES      1024 /* of a nested map */

/* A tensor of the file. */
struct item {
	const mfs_import_tensor *from;
	uint64_t offset, size; /* as it becomes */
	uint64_t weights;
	const mfs_dequant *source, *target; /* its types; NULL: copied */
	const mfs_quantizer *quantizer;	    /* NULL: the type stays */
	bool prunes;
	/* Of NF4: where absmax and nested absmax begin, behind the codes. */
	bool nf4;
	uint64_t absmax_at, nested_at;
	pthread_mutex_t lock; /* guards the rest, but for the meter */
	bool settled;
	mfs_prune prune;
	uint64_t *ties; /* left at the beginning of each piece */
	float nested_offset;
	mfs_loss_meter meter;
};

struct mfs_requantized {
	mfs_source source; /* the original */
	mfs_import import;
	mfs_recipe recipe;
	mfs_simd simd;
	uint8_t *head;
	size_t head_size;
	struct item *items; /* sorted by offset */
	uint32_t item_count;
	mfs_nf4 nf4;	 /* its maps */
	uint64_t map_at; /* of NF4: where the nested map lies; else 0 */
	char note[NOTE_ROOM];
	pthread_mutex_t lock; /* guards the problem */
	mfs_problem problem;
};

/* Room to compute one piece. */
struct work {
	float absmax[MFS_NF4_NESTED_BLOCK], scales[MFS_NF4_NESTED_BLOCK];
	uint8_t absmax8[MFS_NF4_NESTED_BLOCK], nested[4];
	float was[PIECE], now[PIECE];
	uint8_t raw[PIECE * sizeof(float)];
	uint8_t blocks[PIECE * sizeof(float)];
	uint64_t asked, asked_end; /* the weights that are read; more are computed */
};

static uint64_t nf4_blocks(const struct item *item)
{
	return div_up(item->weights, MFS_NF4_BLOCK);
}

/* ---- reading the original ---- */

/* Weights first .. first + count - 1 of the original, as floats and as they are. */
static int read_weights(struct mfs_requantized *q, const struct item *item, uint64_t first,
			size_t count, struct work *w)
{
	uint32_t bytes = item->source->block_bytes;
	int error = q->source.read_at(&q->source, item->from->offset + first * bytes, w->raw,
				      count * bytes);

	if (!error)
		mfs_dequantize(item->source, q->simd, w->raw, count, w->was);
	return error;
}

static int refuse_weight(struct mfs_requantized *q, const struct item *item)
{
	pthread_mutex_lock(&q->lock);
	if (!q->problem.error)
		mfs_problem_set(&q->problem, MFS_E_INVALID, item->from->offset,
				"%s: offset 0x%llx: tensor '%s' has weights that are no finite "
				"numbers: it cannot be changed",
				q->source.name, (unsigned long long)item->from->offset,
				item->from->name);
	pthread_mutex_unlock(&q->lock);
	return MFS_E_INVALID;
}

/* ---- pruning ---- */

static size_t piece_size(const struct item *item, uint64_t first)
{
	return item->weights - first < PIECE ? (size_t)(item->weights - first) : PIECE;
}

static int count_all(struct mfs_requantized *q, struct item *item, struct work *w)
{
	int error = 0;

	for (uint64_t at = 0; at < item->weights && !error; at += PIECE) {
		size_t n = piece_size(item, at);

		error = read_weights(q, item, at, n, w);
		if (!error)
			mfs_prune_count(&item->prune, w->was, n);
	}
	return error;
}

/* Remembers how many ties are left at each piece, so that any can be computed. */
static int count_ties(struct mfs_requantized *q, struct item *item, struct work *w)
{
	mfs_prune prune = item->prune;
	int error = 0;

	for (uint64_t at = 0; at < item->weights && !error; at += PIECE) {
		size_t n = piece_size(item, at);

		item->ties[at / PIECE] = prune.ties;
		if (!prune.ties)
			continue;
		error = read_weights(q, item, at, n, w);
		if (!error)
			mfs_prune_apply(&prune, w->was, n);
	}
	return error;
}

static int settle_prune(struct mfs_requantized *q, struct item *item, struct work *w)
{
	uint64_t *histogram = malloc(MFS_PRUNE_BINS * sizeof(*histogram));
	int error;

	item->ties = calloc(item->weights / PIECE + 1, sizeof(*item->ties));
	if (!histogram || !item->ties) {
		free(histogram);
		return MFS_E_MEMORY;
	}
	mfs_prune_start(&item->prune, histogram,
			(uint64_t)((double)item->weights * q->recipe.share));
	error = count_all(q, item, w);
	if (!error) {
		mfs_prune_narrow(&item->prune);
		error = count_all(q, item, w);
	}
	if (!error) {
		mfs_prune_settle(&item->prune);
		error = count_ties(q, item, w);
	}
	item->prune.histogram = NULL;
	free(histogram);
	return error;
}

/* Prunes w->now, whose first weight is the first of a piece, or of any four. */
static void prune(const struct mfs_requantized *q, const struct item *item, uint64_t first,
		  size_t count, struct work *w)
{
	mfs_prune state = item->prune;

	if (!item->prunes)
		return;
	if (q->recipe.two_of_four) {
		mfs_prune_2_of_4(w->now, count);
		return;
	}
	state.ties = item->ties[first / PIECE];
	mfs_prune_apply(&state, w->now, count);
}

/* ---- NF4 ---- */

/* The weights of piece `at` as they are quantized, and the largest of each block. */
static int read_piece(struct mfs_requantized *q, const struct item *item, uint64_t at,
		      struct work *w)
{
	size_t n = piece_size(item, at);
	int error = read_weights(q, item, at, n, w);

	if (error)
		return error;
	memcpy(w->now, w->was, n * sizeof(float));
	prune(q, item, at, n, w);
	return mfs_nf4_absmax(&q->nf4, w->now, n, w->absmax) < 0 ? refuse_weight(q, item) : 0;
}

/* The mean of all scales, as mfs_nf4_mean() has it. */
static int settle_nf4(struct mfs_requantized *q, struct item *item, struct work *w)
{
	uint64_t blocks = 0;
	double sum = 0;

	for (uint64_t at = 0; at < item->weights; at += PIECE) {
		size_t n = mfs_nf4_blocks(&q->nf4, piece_size(item, at));
		int error = read_piece(q, item, at, w);

		if (error)
			return error;
		for (size_t i = 0; i < n; i++)
			sum += w->absmax[i];
		blocks += n;
	}
	item->nested_offset = (float)(sum / (double)blocks);
	return 0;
}

/* What depends on the whole tensor is found when it is first read. */
static int settle_once(struct mfs_requantized *q, struct item *item, struct work *w)
{
	int error = 0;

	pthread_mutex_lock(&item->lock);
	if (!item->settled) {
		free(item->ties);
		item->ties = NULL;
		if (item->prunes && !q->recipe.two_of_four)
			error = settle_prune(q, item, w);
		if (!error && item->nf4)
			error = settle_nf4(q, item, w);
		item->settled = !error;
	}
	pthread_mutex_unlock(&item->lock);
	return error;
}

/* ---- what it costs ---- */

/* Weights first .. first + count - 1 were `was` and are `now`. */
static int measure(struct item *item, uint64_t first, uint64_t count, const float *was,
		   const float *now)
{
	mfs_loss_sum sum = {0};

	if (!mfs_loss_meter_wants(&item->meter, first, count))
		return 0;
	mfs_loss_sum_add(&sum, was, now, (size_t)count);
	return mfs_loss_meter_add(&item->meter, first, count, &sum);
}

/* Of the weights first .. first + count - 1, those that are asked for: the first of
 * them are at was and now of `w`. */
static int measure_asked(struct item *item, uint64_t first, size_t count, const float *was,
			 const struct work *w, const float *now)
{
	uint64_t from = first > w->asked ? first : w->asked;
	uint64_t end = first + count < w->asked_end ? first + count : w->asked_end;

	if (from >= end)
		return 0;
	return measure(item, from, end - from, was + (from - first), now + (from - first));
}

/* ---- computing ---- */

static bool all_finite(const float *weights, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (!isfinite(weights[i]))
			return false;
	return true;
}

/* Types that stay keep the bytes of what is not pruned. */
static void clear_pruned(const struct item *item, struct work *w, size_t skip, size_t count)
{
	size_t bytes = item->source->block_bytes;

	memcpy(w->blocks, w->raw + skip * bytes, count * bytes);
	for (size_t i = 0; i < count; i++)
		if (w->now[skip + i] == 0 && w->was[skip + i] != 0)
			memset(w->blocks + i * bytes, 0, bytes);
}

/* Makes the blocks of weights first .. first + count - 1, which lie in one piece. */
static int compute(struct mfs_requantized *q, struct item *item, uint64_t first, size_t count,
		   struct work *w)
{
	/* Which ties become 0 is known at the beginning of a piece. */
	uint64_t from = item->ties ? round_down(first, PIECE) : first;
	size_t skip = (size_t)(first - from), blocks;
	int error = read_weights(q, item, from, skip + count, w);

	if (error)
		return error;
	memcpy(w->now, w->was, (skip + count) * sizeof(float));
	prune(q, item, from, skip + count, w);
	if (!item->quantizer) {
		if (!all_finite(w->was + skip, count))
			return refuse_weight(q, item);
		clear_pruned(item, w, skip, count);
	} else {
		blocks = count / item->quantizer->block_weights;
		if (mfs_quantize(item->quantizer, q->simd, w->now + skip, blocks, w->blocks) < 0)
			return refuse_weight(q, item);
		mfs_dequantize(item->target, q->simd, w->blocks, blocks, w->now + skip);
	}
	return measure_asked(item, first, count, w->was + skip, w, w->now + skip);
}

/* Copies what the blocks of weights first .. first + count - 1 have of the bytes
 * offset .. offset + length - 1 of the tensor. */
static void take_part(const struct item *item, const struct work *w, uint64_t first, size_t count,
		      uint64_t offset, size_t length, uint8_t *out)
{
	uint64_t start = first / item->target->block_weights * item->target->block_bytes;
	uint64_t end = start + count / item->target->block_weights * item->target->block_bytes;
	uint64_t from = offset > start ? offset : start;
	uint64_t to = offset + length < end ? offset + length : end;

	if (from < to)
		memcpy(out + (from - offset), w->blocks + (from - start), (size_t)(to - from));
}

static int read_changed(struct mfs_requantized *q, struct item *item, uint64_t offset, uint8_t *out,
			size_t length, struct work *w)
{
	/* Whole blocks, and whole groups of four. */
	uint64_t unit = item->target->block_weights > 4 ? item->target->block_weights : 4;
	uint64_t block = item->target->block_bytes, per_block = item->target->block_weights;
	uint64_t at = round_down(offset / block * per_block, unit);
	uint64_t end = round_up(div_up(offset + length, block) * per_block, unit);
	int error = settle_once(q, item, w);

	w->asked = offset / block * per_block;
	w->asked_end = div_up(offset + length, block) * per_block;
	if (end > item->weights)
		end = item->weights;
	while (at < end && !error) {
		uint64_t stop = round_down(at, PIECE) + PIECE;
		size_t n = (size_t)((stop < end ? stop : end) - at);

		error = compute(q, item, at, n, w);
		if (!error)
			take_part(item, w, at, n, offset, length, out);
		at += n;
	}
	return error;
}

/* Codes, absmax and nested absmax of the piece that begins with weight `at`. */
static int compute_nf4(struct mfs_requantized *q, struct item *item, uint64_t at, bool codes,
		       struct work *w)
{
	mfs_nf4 nf4 = q->nf4;
	size_t n = piece_size(item, at), blocks = mfs_nf4_blocks(&nf4, n);
	float nested;
	uint32_t bits;
	int error = read_piece(q, item, at, w);

	if (error)
		return error;
	nf4.offset = item->nested_offset;
	mfs_nf4_nest(&nf4, w->absmax, blocks, w->absmax8, &nested);
	memcpy(&bits, &nested, 4);
	store_le32(w->nested, bits);
	if (!codes)
		return 0;
	mfs_nf4_codes(&nf4, w->now, w->absmax, n, w->blocks);
	mfs_nf4_scales(&nf4, w->absmax8, w->nested, 0, blocks, w->scales);
	mfs_nf4_decode(&nf4, q->simd, w->blocks, w->scales, 0, n, w->now);
	return measure(item, at, n, w->was, w->now);
}

/* A part of an NF4 item: `each` bytes for each piece. */
struct nf4_part {
	uint64_t at, size, each;
};

static int read_nf4_part(struct mfs_requantized *q, struct item *item, const struct nf4_part *part,
			 uint64_t offset, uint8_t *out, size_t length, struct work *w)
{
	uint64_t end = part->at + part->size, from = offset > part->at ? offset : part->at;
	uint64_t to = offset + length < end ? offset + length : end;
	const uint8_t *bytes = part->at == 0 ? w->blocks : part->each == 4 ? w->nested : w->absmax8;

	while (from < to) {
		uint64_t piece = (from - part->at) / part->each;
		uint64_t start = part->at + piece * part->each, stop = start + part->each;
		int error = compute_nf4(q, item, piece * PIECE, part->at == 0, w);

		if (error)
			return error;
		stop = stop < to ? stop : to;
		memcpy(out + (from - offset), bytes + (from - start), (size_t)(stop - from));
		from = stop;
	}
	return 0;
}

static int read_nf4(struct mfs_requantized *q, struct item *item, uint64_t offset, uint8_t *out,
		    size_t length, struct work *w)
{
	const struct nf4_part parts[] = {
	    {0, div_up(item->weights, 2), PIECE / 2},
	    {item->absmax_at, nf4_blocks(item), MFS_NF4_NESTED_BLOCK},
	    {item->nested_at, 4 * div_up(nf4_blocks(item), MFS_NF4_NESTED_BLOCK), 4}};
	int error = settle_once(q, item, w);

	memset(out, 0, length);
	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts) && !error; i++)
		error = read_nf4_part(q, item, &parts[i], offset, out, length, w);
	return error;
}

static int read_item(struct mfs_requantized *q, struct item *item, uint64_t offset, uint8_t *out,
		     size_t length)
{
	struct work *w;
	int error;

	if (!item->source)
		return q->source.read_at(&q->source, item->from->offset + offset, out, length);
	w = malloc(sizeof(*w));
	if (!w)
		return MFS_E_MEMORY;
	if (item->nf4)
		error = read_nf4(q, item, offset, out, length, w);
	else
		error = read_changed(q, item, offset, out, length, w);
	free(w);
	return error;
}

/* ---- the virtual file ---- */

static uint64_t end_of_items(const struct mfs_requantized *q)
{
	return q->map_at ? q->map_at : UINT64_MAX;
}

/* The last item that begins at `offset` or before it, or NULL. */
static struct item *item_at(const struct mfs_requantized *q, uint64_t offset)
{
	uint32_t low = 0, high = q->item_count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (q->items[middle].offset <= offset)
			low = middle + 1;
		else
			high = middle;
	}
	return low ? &q->items[low - 1] : NULL;
}

/* Bytes of the nested map. */
static void read_map(const struct mfs_requantized *q, uint64_t offset, uint8_t *out, size_t length)
{
	uint8_t map[MAP_BYTES];

	for (int i = 0; i < MAP_BYTES / 4; i++) {
		uint32_t bits;

		memcpy(&bits, &q->nf4.nested_map[i], 4);
		store_le32(map + 4 * i, bits);
	}
	memcpy(out, map + offset, length);
}

/* Reads up to `length` bytes that lie in one part; returns how many, or an error. */
static int64_t read_part(void *context, uint64_t offset, uint8_t *out, size_t length)
{
	struct mfs_requantized *q = context;
	struct item *item = item_at(q, offset);
	uint64_t next;

	if (offset < q->head_size) {
		if (length > q->head_size - offset)
			length = q->head_size - (size_t)offset;
		memcpy(out, q->head + offset, length);
		return (int64_t)length;
	}
	if (item && offset - item->offset < item->size) {
		int error;

		if (length > item->size - (offset - item->offset))
			length = (size_t)(item->size - (offset - item->offset));
		error = read_item(q, item, offset - item->offset, out, length);
		return error ? error : (int64_t)length;
	}
	if (q->map_at && offset >= q->map_at) {
		read_map(q, offset - q->map_at, out, length);
		return (int64_t)length;
	}
	/* Padding, up to the next one. */
	item = item ? item + 1 : q->items;
	next = item < q->items + q->item_count ? item->offset : end_of_items(q);
	if (length > next - offset)
		length = (size_t)(next - offset);
	memset(out, 0, length);
	return (int64_t)length;
}

static int read_requantized(mfs_source *source, uint64_t offset, void *buffer, size_t length)
{
	return mfs_source_read_parts(source, offset, buffer, length, read_part);
}

/* ---- making one ---- */

static int refuse(const mfs_source *source, mfs_problem *why, int error, const char *reason)
{
	return mfs_problem_set(why, error, UINT64_MAX, "%s: %s", source->name, reason);
}

/* Weights that were quantized once would only lose more. */
static int check_tensor(const mfs_source *source, const mfs_import_tensor *t, mfs_problem *why)
{
	const mfs_layout *known = mfs_layout_ggml(t->layout->type_id);

	if (known && known->block_weights == 1)
		return 0;
	return mfs_problem_set(why, MFS_E_UNSUPPORTED, t->offset,
			       "%s: tensor '%s' is of type %.*s: only models of F32, F16 and BF16 "
			       "can be quantized or pruned",
			       source->name, t->name, t->layout->name_length, t->layout->name);
}

static int check_source(const mfs_source *source, const mfs_import *import,
			const mfs_recipe *recipe, mfs_problem *why)
{
	uint32_t changed = 0;
	int error = 0;

	if (import->format == MFS_FORMAT_SAFETENSORS)
		return refuse(source, why, MFS_E_UNSUPPORTED,
			      "safetensors cannot be quantized or pruned, only GGUF: convert it "
			      "first");
	for (uint32_t i = 0; i < import->tensor_count && !error; i++) {
		const mfs_import_tensor *t = &import->tensors[i];

		error = check_tensor(source, t, why);
		changed +=
		    recipe->type ? mfs_recipe_quantizes(recipe, t) : mfs_recipe_prunes(recipe, t);
	}
	if (!error && !changed)
		return refuse(source, why, MFS_E_INVALID,
			      "has no weights to change: no matrices whose rows are whole blocks");
	return error;
}

static void make_item(struct item *item, const mfs_import_tensor *from, const mfs_recipe *recipe)
{
	const mfs_layout *layout = from->layout;

	item->from = from;
	item->size = from->size;
	item->weights = from->size / layout->block_bytes;
	item->prunes = mfs_recipe_prunes(recipe, from);
	item->nf4 = mfs_recipe_is_nf4(recipe) && mfs_recipe_quantizes(recipe, from);
	if (!item->nf4 && mfs_recipe_quantizes(recipe, from))
		item->quantizer = mfs_quantizer_ggml(mfs_recipe_ggml_type(recipe));
	if (!item->prunes && !item->quantizer && !item->nf4)
		return;
	item->source = item->target = mfs_dequant_ggml(layout->type_id);
	if (item->nf4) {
		uint64_t blocks = nf4_blocks(item);

		item->absmax_at = round_up(div_up(item->weights, 2), PART_ALIGNMENT);
		item->nested_at = round_up(item->absmax_at + blocks, PART_ALIGNMENT);
		item->size = item->nested_at + 4 * div_up(blocks, MFS_NF4_NESTED_BLOCK);
	}
	if (item->quantizer) {
		item->target = mfs_dequant_ggml(item->quantizer->ggml_type);
		item->size =
		    item->weights / item->quantizer->block_weights * item->quantizer->block_bytes;
	}
}

static int compare_items(const void *a, const void *b)
{
	const struct item *x = a, *y = b;

	return (x->offset > y->offset) - (x->offset < y->offset);
}

static uint32_t type_of(const struct item *item)
{
	if (item->nf4)
		return MFS_GGUF_NF4;
	return item->quantizer ? item->quantizer->ggml_type : item->from->layout->type_id;
}

static int place_items(struct mfs_requantized *q, uint64_t *end, mfs_problem *why)
{
	mfs_gguf_tensor *tensors = calloc(q->item_count + 1u, sizeof(*tensors));
	int error;

	if (!tensors)
		return refuse(&q->source, why, MFS_E_MEMORY, "out of memory");
	for (uint32_t i = 0; i < q->item_count; i++) {
		const struct item *item = &q->items[i];

		tensors[i].type = type_of(item);
		tensors[i].size = item->size;
	}
	error = mfs_gguf_rewrite(&q->source, &q->import, tensors, mfs_recipe_file_type(&q->recipe),
				 &q->head, &q->head_size, end, why);
	for (uint32_t i = 0; i < q->item_count; i++)
		q->items[i].offset = tensors[i].offset;
	qsort(q->items, q->item_count, sizeof(*q->items), compare_items);
	free(tensors);
	if (!error && mfs_recipe_is_nf4(&q->recipe)) {
		q->map_at = *end;
		*end += MAP_BYTES;
	}
	return error;
}

static int make_items(struct mfs_requantized *q, uint64_t *end, mfs_problem *why)
{
	q->items = calloc(q->import.tensor_count + 1u, sizeof(*q->items));
	if (!q->items)
		return refuse(&q->source, why, MFS_E_MEMORY, "out of memory");
	q->item_count = q->import.tensor_count;
	for (uint32_t i = 0; i < q->item_count; i++)
		make_item(&q->items[i], &q->import.tensors[i], &q->recipe);
	return place_items(q, end, why);
}

int mfs_requantize(mfs_requantized **out, mfs_source *source, mfs_import *import,
		   const mfs_recipe *recipe, mfs_problem *why)
{
	mfs_requantized *q;
	uint64_t end;
	int error = check_source(source, import, recipe, why);

	if (error)
		return error;
	q = calloc(1, sizeof(*q));
	if (!q)
		return refuse(source, why, MFS_E_MEMORY, "out of memory");
	q->source = *source;
	q->import = *import;
	q->recipe = *recipe;
	q->simd = mfs_simd_best();
	mfs_nf4_init(&q->nf4);
	error = make_items(q, &end, why);
	if (error) {
		free(q->items);
		free(q->head);
		free(q);
		return error;
	}
	for (uint32_t i = 0; i < q->item_count; i++) {
		pthread_mutex_init(&q->items[i].lock, NULL);
		mfs_loss_meter_open(&q->items[i].meter);
	}
	pthread_mutex_init(&q->lock, NULL);
	source->read_at = read_requantized;
	source->size = end;
	source->context = q;
	memset(import, 0, sizeof(*import));
	*out = q;
	return 0;
}

void mfs_requantized_free(mfs_requantized *q)
{
	if (!q)
		return;
	for (uint32_t i = 0; i < q->item_count; i++) {
		pthread_mutex_destroy(&q->items[i].lock);
		mfs_loss_meter_close(&q->items[i].meter);
		free(q->items[i].ties);
	}
	pthread_mutex_destroy(&q->lock);
	mfs_import_free(&q->import);
	mfs_source_close(&q->source);
	free(q->items);
	free(q->head);
	free(q);
}

/* ---- the import of NF4 ---- */

struct describer {
	mfs_import *import;
	mfs_import_name *names;
	bool failed; /* no memory */
};

static void describe(struct describer *d, const char *name, const char *end,
		     const mfs_layout *layout, uint64_t offset, uint64_t size)
{
	mfs_import_tensor *t = &d->import->tensors[d->import->tensor_count];
	size_t length = strlen(name) + strlen(end);
	char *copy = mfs_import_alloc(d->import, length + 1);

	if (!copy) {
		d->failed = true;
		return;
	}
	memcpy(copy, name, strlen(name));
	memcpy(copy + strlen(name), end, strlen(end) + 1);
	*t = (mfs_import_tensor){.name = copy,
				 .name_length = (uint16_t)length,
				 .layout = layout,
				 .dim_count = 1,
				 .dims = {size / layout->block_bytes},
				 /* Spans begin with a block of NF4. */
				 .row_bytes = MFS_NF4_BLOCK / 2,
				 .slice_bytes = size,
				 .offset = offset,
				 .size = size};
	d->names[d->import->tensor_count++] =
	    (mfs_import_name){.text = copy, .length = (uint32_t)length, .offset = offset};
}

static void describe_item(struct describer *d, const struct item *item)
{
	const mfs_import_tensor *from = item->from;
	mfs_import_tensor *t = &d->import->tensors[d->import->tensor_count];
	uint64_t blocks = nf4_blocks(item);

	if (!item->nf4) {
		describe(d, from->name, "", from->layout, item->offset, item->size);
		t->row_bytes = from->row_bytes;
		t->slice_bytes = from->slice_bytes;
	} else {
		describe(d, from->name, "", mfs_layout_nf4(), item->offset,
			 div_up(item->weights, 2));
	}
	t->dim_count = from->dim_count;
	memcpy(t->dims, from->dims, sizeof(t->dims));
	if (!item->nf4)
		return;
	describe(d, from->name, ".absmax", mfs_layout_safetensors("U8", true),
		 item->offset + item->absmax_at, blocks);
	describe(d, from->name, ".nested_absmax", mfs_layout_safetensors("F32", true),
		 item->offset + item->nested_at, 4 * div_up(blocks, MFS_NF4_NESTED_BLOCK));
}

int mfs_requantized_import(const mfs_requantized *q, mfs_import *out, mfs_problem *why)
{
	struct describer d = {.import = out};
	size_t most = 3 * (size_t)q->item_count + 1;
	int error;

	memset(out, 0, sizeof(*out));
	if (!q->map_at)
		return 0;
	out->format = q->import.format;
	/* The key-values are the original's, so nothing has another place. */
	out->gguf = q->import.gguf;
	out->tensors = mfs_import_alloc(out, most * sizeof(*out->tensors));
	d.names = calloc(most, sizeof(*d.names));
	if (!out->tensors || !d.names) {
		free(d.names);
		return refuse(&q->source, why, MFS_E_MEMORY, "out of memory");
	}
	for (uint32_t i = 0; i < q->item_count && !d.failed; i++)
		describe_item(&d, &q->items[i]);
	if (!d.failed)
		describe(&d, "nested_map", "", mfs_layout_safetensors("F32", true), q->map_at,
			 MAP_BYTES);
	error = d.failed ? refuse(&q->source, why, MFS_E_MEMORY, "out of memory")
			 : mfs_import_check_duplicates(why, &q->source, d.names, out->tensor_count,
						       "tensor name");
	free(d.names);
	return error;
}

float mfs_requantized_nested_offset(const mfs_requantized *q, uint64_t offset)
{
	const struct item *item = item_at(q, offset);

	return item ? item->nested_offset : 0;
}

/* ---- reports ---- */

int mfs_requantized_problem(mfs_requantized *q, mfs_problem *why)
{
	int error;

	pthread_mutex_lock(&q->lock);
	error = q->problem.error;
	if (error && why)
		*why = q->problem;
	pthread_mutex_unlock(&q->lock);
	return error;
}

void mfs_requantized_measure(mfs_requantized *q)
{
	for (uint32_t i = 0; i < q->item_count; i++)
		mfs_loss_meter_start(&q->items[i].meter);
}

bool mfs_requantized_loss(mfs_requantized *q, uint32_t i, mfs_loss *out)
{
	for (uint32_t k = 0; k < q->item_count; k++) {
		struct item *item = &q->items[k];

		if (!item->source || i--)
			continue;
		*out = (mfs_loss){.name = item->from->name,
				  .from = item->source->name,
				  .to = item->nf4 ? "NF4" : item->target->name,
				  .weights = item->meter.measured,
				  .sum = item->meter.sum};
		return true;
	}
	return false;
}

const char *mfs_requantized_note(mfs_requantized *q)
{
	mfs_loss_sum all = {0};

	for (uint32_t i = 0; i < q->item_count; i++)
		mfs_loss_sum_up(&all, &q->items[i].meter.sum);
	/* Exponents of F32 numbers have two digits. */
	snprintf(q->note, sizeof(q->note), "%s rmse=%.3e max=%.3e", q->recipe.text,
		 mfs_quantize_error_rmse(&all.error), all.error.most);
	return q->note;
}
