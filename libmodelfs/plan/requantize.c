#include "requantize.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../format/layout_ggml.h"
#include "gguf_rewrite.h"
#include "requantize_items.h"

#define PART_ALIGNMENT 32

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
		error = mfs_requantized_read_item(q, item, offset - item->offset, out, length);
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
		return mfs_problem_about(
		    source->name, why, MFS_E_UNSUPPORTED,
		    "safetensors cannot be quantized or pruned, only GGUF: convert it "
		    "first");
	for (uint32_t i = 0; i < import->tensor_count && !error; i++) {
		const mfs_import_tensor *t = &import->tensors[i];

		error = check_tensor(source, t, why);
		changed +=
		    recipe->type ? mfs_recipe_quantizes(recipe, t) : mfs_recipe_prunes(recipe, t);
	}
	if (!error && !changed)
		return mfs_problem_about(
		    source->name, why, MFS_E_INVALID,
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
		return mfs_problem_about(q->source.name, why, MFS_E_MEMORY, "out of memory");
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
		return mfs_problem_about(q->source.name, why, MFS_E_MEMORY, "out of memory");
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
		return mfs_problem_about(source->name, why, MFS_E_MEMORY, "out of memory");
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

/* ---- reports ---- */

float mfs_requantized_nested_offset(const mfs_requantized *q, uint64_t offset)
{
	const struct item *item = item_at(q, offset);

	return item ? item->nested_offset : 0;
}

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
