/* The weights of one tensor, read from the original, pruned and quantized. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "requantize_items.h"

/* Weights that are computed at once: whole blocks of every type. */
#define PIECE (MFS_NF4_BLOCK * MFS_NF4_NESTED_BLOCK)

/* Room to compute one piece. */
struct work {
	float absmax[MFS_NF4_NESTED_BLOCK], scales[MFS_NF4_NESTED_BLOCK];
	uint8_t absmax8[MFS_NF4_NESTED_BLOCK], nested[4];
	float was[PIECE], now[PIECE];
	uint8_t raw[PIECE * sizeof(float)];
	uint8_t blocks[PIECE * sizeof(float)];
	uint64_t asked, asked_end; /* the weights that are read; more are computed */
};

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

/* The mean of all scales. */
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

int mfs_requantized_read_item(struct mfs_requantized *q, struct item *item, uint64_t offset,
			      uint8_t *out, size_t length)
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
