#include "premerge.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../format/check.h"
#include "premerge_items.h"

/* Weights that are computed at once: whole blocks of every type. */
#define PIECE	  (16u << 10)
#define NOTE_ROOM 48 /* behind the mixture */
/* The errors of a sample of quantized weights are at most this part of them, squared:
 * 2-bit types have 0.1, weights of another model 2. */
#define OTHER_MODEL 0.5

/* Room to compute one piece. */
struct work {
	float merged[PIECE], now[PIECE];
	uint8_t raw[PIECE * sizeof(float)];
	uint8_t blocks[PIECE * sizeof(float)];
	uint8_t base[PIECE * sizeof(float)];
};

/* ---- computing ---- */

static int refuse_weight(struct mfs_premerged *p, const struct item *item)
{
	pthread_mutex_lock(&p->lock);
	if (!p->problem.error)
		mfs_problem_set(&p->problem, MFS_E_INVALID, item->from->offset,
				"%s: tensor '%s' has weights that are no finite numbers once it is "
				"merged: it cannot be quantized",
				p->source.name, item->from->name);
	pthread_mutex_unlock(&p->lock);
	return MFS_E_INVALID;
}

static int read_raw(struct mfs_premerged *p, const struct item *item, uint64_t first, size_t count,
		    struct work *w)
{
	uint32_t bytes = item->source->block_bytes;

	return p->source.read_at(&p->source, item->from->offset + first * bytes, w->raw,
				 count * bytes);
}

static int read_base(struct mfs_premerged *p, const struct item *item, uint64_t first, size_t count,
		     struct work *w)
{
	uint64_t block = first / item->target->block_weights;
	size_t blocks = count / item->target->block_weights;

	return p->base.source.read_at(&p->base.source,
				      item->base->offset + block * item->target->block_bytes,
				      w->base, blocks * item->target->block_bytes);
}

/* w->merged in the type of the base, to w->blocks. */
static int put_into_blocks(struct mfs_premerged *p, const struct item *item, size_t count,
			   struct work *w)
{
	size_t blocks = count / item->target->block_weights;

	if (!item->quantizer)
		mfs_store_floats(item->store, p->simd, w->merged, blocks, w->blocks);
	else if (mfs_quantize(item->quantizer, p->simd, w->merged, blocks, w->blocks) < 0)
		return refuse_weight(p, item);
	return 0;
}

/* MERGE-1 of weights first .. first + count - 1 in F32, to w->merged. */
static int merge(struct mfs_premerged *p, const struct item *item, uint64_t first, size_t count,
		 struct work *w)
{
	mfs_merge_adapter adapters[MFS_TERMS_MAX];
	uint64_t experts = mfs_import_dim(item->base, 2);
	const mfs_merge m = {.columns = mfs_import_dim(item->base, 0),
			     .slice_rows = experts > 1 ? mfs_import_dim(item->base, 1) : 0,
			     .type = mfs_store_ggml(MFS_GGML_F32),
			     .adapter = adapters,
			     .adapters = item->factor_count,
			     .simd = p->simd};
	const mfs_merge_base base = {.type = item->source, .blocks = w->raw};
	int error = read_raw(p, item, first, count, w);

	for (uint32_t i = 0; i < item->factor_count; i++) {
		const struct factor *f = &item->factors[i];
		bool turned = f->pair->b_transposed;

		adapters[i] = (mfs_merge_adapter){
		    .panels = f->panels,
		    .slice_step =
			experts > 1 ? mfs_merge_panel_floats(f->pair->rank, m.columns) : 0,
		    .b = f->b,
		    .row_step = turned ? 1 : f->pair->rank,
		    .rank_step = turned ? item->weights / m.columns : 1,
		    .gain = f->gain,
		    .rank = f->pair->rank,
		    .scale = mfs_adapter_scale(f->part->adapter, f->pair, f->part->scale)};
	}
	if (!error)
		error = mfs_merge_span(&m, &base, first, count, w->blocks);
	if (!error)
		mfs_dequantize(mfs_dequant_ggml(MFS_GGML_F32), p->simd, w->blocks, count,
			       w->merged);
	return error;
}

static uint64_t count_equal(const struct item *item, const uint8_t *a, const uint8_t *b,
			    size_t blocks)
{
	size_t bytes = item->target->block_bytes;
	uint64_t equal = 0;

	for (size_t i = 0; i < blocks; i++)
		equal += !memcmp(a + i * bytes, b + i * bytes, bytes);
	return equal;
}

static int measure(struct mfs_premerged *p, struct item *item, uint64_t first, size_t count,
		   struct work *w)
{
	size_t blocks = count / item->target->block_weights;
	mfs_loss_sum sum = {.blocks = blocks};
	int error;

	if (!mfs_loss_meter_wants(&item->meter, first, count))
		return 0;
	error = read_base(p, item, first, count, w);
	if (error)
		return error;
	mfs_dequantize(item->target, p->simd, w->blocks, blocks, w->now);
	mfs_loss_sum_add(&sum, w->merged, w->now, count);
	sum.equal = count_equal(item, w->blocks, w->base, blocks);
	return mfs_loss_meter_add(&item->meter, first, count, &sum);
}

/* Blocks of weights first .. first + count - 1, which lie in one piece. */
static int compute(struct mfs_premerged *p, struct item *item, uint64_t first, size_t count,
		   struct work *w)
{
	int error = merge(p, item, first, count, w);

	if (!error)
		error = put_into_blocks(p, item, count, w);
	return error ? error : measure(p, item, first, count, w);
}

/* Copies what the blocks of weights first .. first + count - 1 have of the bytes
 * offset .. offset + length - 1 of the tensor. */
static void take_part(const struct item *item, const struct work *w, uint64_t first, size_t count,
		      uint64_t offset, size_t length, uint8_t *out)
{
	uint64_t bytes = item->target->block_bytes, weights = item->target->block_weights;
	uint64_t start = first / weights * bytes, end = start + count / weights * bytes;
	uint64_t from = offset > start ? offset : start;
	uint64_t to = offset + length < end ? offset + length : end;

	memcpy(out + (from - offset), w->blocks + (from - start), (size_t)(to - from));
}

static int read_pieces(struct mfs_premerged *p, struct item *item, uint64_t offset, uint8_t *out,
		       size_t length, struct work *w)
{
	uint64_t bytes = item->target->block_bytes, weights = item->target->block_weights;
	uint64_t at = offset / bytes * weights, end = div_up(offset + length, bytes) * weights;
	int error = 0;

	while (at < end && !error) {
		uint64_t stop = round_down(at, PIECE) + PIECE;
		size_t n = (size_t)((stop < end ? stop : end) - at);

		error = compute(p, item, at, n, w);
		if (!error)
			take_part(item, w, at, n, offset, length, out);
		at += n;
	}
	return error;
}

static int read_item(struct mfs_premerged *p, struct item *item, uint64_t offset, uint8_t *out,
		     size_t length)
{
	struct work *w = malloc(sizeof(*w));
	int error = w ? mfs_premerge_use(p, item) : MFS_E_MEMORY;

	if (!error) {
		error = read_pieces(p, item, offset, out, length, w);
		mfs_premerge_release(p, item);
	}
	free(w);
	return error;
}

/* ---- the virtual file ---- */

/* The first item that ends behind `offset`. */
static struct item *item_behind(const struct mfs_premerged *p, uint64_t offset)
{
	uint32_t low = 0, high = p->item_count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		const mfs_import_tensor *t = p->items[middle].base;

		if (t->offset + t->size <= offset)
			low = middle + 1;
		else
			high = middle;
	}
	return low < p->item_count ? &p->items[low] : NULL;
}

static int read_premerged(mfs_source *source, uint64_t offset, void *buffer, size_t length)
{
	struct mfs_premerged *p = source->context;
	uint8_t *out = buffer;
	int error = 0;

	if (!range_ok(offset, length, source->size))
		return MFS_E_TRUNCATED;
	while (length && !error) {
		struct item *item = item_behind(p, offset);
		uint64_t start = item ? item->base->offset : source->size;
		uint64_t end = offset < start ? start : start + item->base->size;
		size_t n = end - offset < length ? (size_t)(end - offset) : length;

		error = offset < start ? p->base.source.read_at(&p->base.source, offset, out, n)
				       : read_item(p, item, offset - start, out, n);
		out += n;
		offset += n;
		length -= n;
	}
	return error;
}

/* ---- the sample ---- */

/* Quantizes the first weights of a tensor as they are. */
static int sample_item(struct mfs_premerged *p, const struct item *item, struct work *w)
{
	size_t count = item->weights < PIECE ? (size_t)item->weights : PIECE;
	size_t blocks = count / item->target->block_weights;
	mfs_quantize_error sum = {0};
	int error = read_raw(p, item, 0, count, w);

	if (!error)
		error = read_base(p, item, 0, count, w);
	if (error)
		return error;
	mfs_dequantize(item->source, p->simd, w->raw, count, w->merged);
	error = put_into_blocks(p, item, count, w);
	if (error)
		return error;
	mfs_dequantize(item->target, p->simd, w->base, blocks, w->now);
	mfs_quantize_error_add(&sum, w->merged, w->now, count);
	p->sample_error += sum.squares;
	p->sample_energy += sum.energy;
	p->sample_blocks += blocks;
	p->sample_equal += count_equal(item, w->blocks, w->base, blocks);
	return 0;
}

static int take_sample(struct mfs_premerged *p, const char *name, mfs_problem *why)
{
	struct work *w = malloc(sizeof(*w));
	int error = w ? 0 : MFS_E_MEMORY;

	for (uint32_t i = 0; i < p->item_count && !error; i++)
		error = sample_item(p, &p->items[i], w);
	free(w);
	if (p->problem.error && why)
		*why = p->problem;
	else if (error)
		mfs_problem_set(why, error, UINT64_MAX, "%s: cannot be compared with %s: %s", name,
				p->base.name, mfs_error_text(error));
	/* Also where a number is no number. */
	if (!error && !(p->sample_error <= OTHER_MODEL * p->sample_energy))
		error = mfs_problem_set(
		    why, MFS_E_INVALID, UINT64_MAX,
		    "%s: has other weights than %s: it is not the model that this was "
		    "quantized from",
		    name, p->base.name);
	return error;
}

/* ---- opening ---- */

/* The type of most bytes, in small letters. */
static void find_type(struct mfs_premerged *p)
{
	const mfs_dequant *most = NULL;
	uint64_t weights = 0;

	for (uint32_t i = 0; i < p->item_count; i++) {
		uint64_t sum = 0;

		for (uint32_t k = 0; k < p->item_count; k++)
			if (p->items[k].target == p->items[i].target)
				sum += p->items[k].weights;
		if (sum > weights)
			most = p->items[i].target;
		weights = sum > weights ? sum : weights;
	}
	for (int i = 0; i < MFS_PREMERGE_TYPE_ROOM - 1 && most->name[i]; i++)
		p->type[i] = (char)tolower((unsigned char)most->name[i]);
}

static struct mfs_premerged *new_premerged(const mfs_premerge_request *request)
{
	struct mfs_premerged *p = calloc(1, sizeof(*p));
	size_t tensors = request->base.import.tensor_count + 1u;

	if (!p)
		return NULL;
	p->base = request->base;
	p->part_count = request->part_count;
	p->simd = mfs_simd_best();
	pthread_mutex_init(&p->lock, NULL);
	p->parts = calloc(request->part_count + 1u, sizeof(*p->parts));
	p->items = calloc(tensors, sizeof(*p->items));
	p->factors = calloc(tensors * (request->part_count + 1u), sizeof(*p->factors));
	p->mixture = strdup(request->mixture);
	p->note = malloc(strlen(request->mixture) + NOTE_ROOM);
	if (!p->parts || !p->items || !p->factors || !p->mixture || !p->note) {
		mfs_premerged_free(p);
		return NULL;
	}
	memcpy(p->parts, request->parts, request->part_count * sizeof(*p->parts));
	return p;
}

int mfs_premerge(mfs_premerged **out, mfs_source *source, mfs_import *import,
		 const mfs_premerge_request *request, mfs_problem *why)
{
	struct mfs_premerged *p = new_premerged(request);
	int error;

	if (!p)
		return mfs_problem_no_memory(why);
	p->source = *source;
	p->import = *import;
	error = mfs_premerge_match(p, source->name, why);
	if (!error)
		error = take_sample(p, source->name, why);
	if (error) {
		/* Still the caller's. */
		memset(&p->source, 0, sizeof(p->source));
		memset(&p->import, 0, sizeof(p->import));
		mfs_premerged_free(p);
		return error;
	}
	find_type(p);
	source->read_at = read_premerged;
	source->size = request->base.source.size;
	source->context = p;
	memset(import, 0, sizeof(*import));
	*out = p;
	return 0;
}

void mfs_premerged_free(mfs_premerged *p)
{
	if (!p)
		return;
	for (uint32_t i = 0; i < p->item_count; i++) {
		mfs_premerge_drop(p, &p->items[i]);
		mfs_loss_meter_close(&p->items[i].meter);
		pthread_mutex_destroy(&p->items[i].loading);
	}
	pthread_mutex_destroy(&p->lock);
	mfs_import_free(&p->import);
	mfs_source_close(&p->source);
	free(p->parts);
	free(p->items);
	free(p->factors);
	free(p->mixture);
	free(p->note);
	free(p);
}

/* ---- reports ---- */

void mfs_premerged_measure(mfs_premerged *p)
{
	for (uint32_t i = 0; i < p->item_count; i++)
		mfs_loss_meter_start(&p->items[i].meter);
}

bool mfs_premerged_loss(mfs_premerged *p, uint32_t i, mfs_loss *out)
{
	const struct item *item = &p->items[i];

	if (i >= p->item_count)
		return false;
	*out = (mfs_loss){.name = item->base->name,
			  .from = item->source->name,
			  .to = item->target->name,
			  .weights = item->meter.measured,
			  .sum = item->meter.sum};
	return true;
}

int mfs_premerged_problem(mfs_premerged *p, mfs_problem *why)
{
	int error;

	pthread_mutex_lock(&p->lock);
	error = p->problem.error;
	if (error && why)
		*why = p->problem;
	pthread_mutex_unlock(&p->lock);
	return error;
}

const char *mfs_premerged_note(mfs_premerged *p)
{
	mfs_loss_sum all = {0};

	for (uint32_t i = 0; i < p->item_count; i++)
		mfs_loss_sum_up(&all, &p->items[i].meter.sum);
	/* Exponents of F32 numbers have two digits. */
	snprintf(p->note, strlen(p->mixture) + NOTE_ROOM, "%s rmse=%.3e max=%.3e", p->mixture,
		 mfs_quantize_error_rmse(&all.error), all.error.most);
	return p->note;
}

const char *mfs_premerged_type(const mfs_premerged *p)
{
	return p->type;
}

void mfs_premerged_sample(const mfs_premerged *p, uint64_t *blocks, uint64_t *equal)
{
	*blocks = p->sample_blocks;
	*equal = p->sample_equal;
}
