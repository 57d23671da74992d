#include "premerge.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../format/check.h"
#include "../format/merge.h"
#include "problem.h"

/* Weights that are computed at once: whole blocks of every type. */
#define PIECE (16u << 10)
/* Matrices of adapters beyond this are dropped, those longest not used first. */
#define MATRIX_MEMORY (16u << 20)
#define TYPE_ROOM     16
#define NOTE_ROOM     48 /* behind the mixture */
/* The errors of a sample of quantized weights are at most this part of them, squared:
 * 2-bit types have 0.1, weights of another model 2. */
#define OTHER_MODEL 0.5

/* The matrices of one adapter for one tensor. */
struct factor {
	const mfs_premerge_part *part;
	const mfs_adapter_pair *pair;
	float *panels, *b; /* NULL: not loaded */
};

/* A tensor that adapters change. */
struct item {
	const mfs_import_tensor *base, *from; /* where it lies; the unquantized one */
	const mfs_dequant *source, *target;   /* their types */
	const mfs_quantizer *quantizer;	      /* NULL: `store` writes it */
	const mfs_store *store;
	uint64_t weights;
	struct factor *factors;
	uint32_t factor_count;
	mfs_loss_meter meter;
	pthread_mutex_t loading; /* held while the factors are loaded */
	/* The lock of all guards these. */
	unsigned users;
	uint64_t last_use;
	uint64_t bytes; /* of the factors; 0: not loaded */
};

struct mfs_premerged {
	mfs_source source; /* the unquantized model */
	mfs_import import;
	mfs_premerge_file base;
	mfs_premerge_part *parts;
	uint32_t part_count;
	mfs_simd simd;
	struct item *items; /* sorted by their places in the base */
	uint32_t item_count;
	struct factor *factors;
	uint64_t sample_blocks, sample_equal;
	double sample_error, sample_energy;
	char type[TYPE_ROOM];
	char *mixture, *note;
	pthread_mutex_t lock; /* guards the problem and the matrices that are loaded */
	uint64_t tick, bytes;
	mfs_problem problem;
};

/* Room to compute one piece. */
struct work {
	float merged[PIECE], now[PIECE];
	uint8_t raw[PIECE * sizeof(float)];
	uint8_t blocks[PIECE * sizeof(float)];
	uint8_t base[PIECE * sizeof(float)];
};

/* ---- matrices ---- */

static void factor_drop(struct factor *f)
{
	free(f->panels);
	free(f->b);
	f->panels = f->b = NULL;
}

static void item_drop(struct mfs_premerged *p, struct item *item)
{
	for (uint32_t i = 0; i < item->factor_count; i++)
		factor_drop(&item->factors[i]);
	p->bytes -= item->bytes;
	item->bytes = 0;
}

/* The whole tensor as floats; the caller frees them. */
static int load_floats(const struct mfs_premerged *p, const struct factor *f, uint32_t number,
		       float **out)
{
	const mfs_premerge_file *file = &f->part->file;
	const mfs_import_tensor *t = &file->import.tensors[number];
	const mfs_dequant *type = mfs_dequant_ggml(t->layout->type_id);
	uint64_t blocks = t->size / t->layout->block_bytes;
	mfs_source source = file->source;
	uint8_t *raw = malloc(t->size);
	int error = MFS_E_MEMORY;

	*out = calloc(blocks * type->block_weights, sizeof(float));
	if (raw && *out)
		error = source.read_at(&source, t->offset, raw, t->size);
	if (!error)
		mfs_dequantize(type, p->simd, raw, blocks, *out);
	free(raw);
	return error;
}

static int factor_load(const struct mfs_premerged *p, const struct item *item, struct factor *f,
		       uint64_t *bytes)
{
	const mfs_adapter_pair *pair = f->pair;
	uint64_t columns = mfs_import_dim(item->base, 0), rows = item->weights / columns;
	uint64_t each = mfs_merge_panel_floats(pair->rank, columns), floats;
	float *a = NULL;
	int error = __builtin_mul_overflow(each, pair->experts, &floats)
			? MFS_E_LIMIT
			: load_floats(p, f, pair->a, &a);

	if (!error)
		error = load_floats(p, f, pair->b, &f->b);
	f->panels = error ? NULL : calloc(floats, sizeof(float));
	for (uint64_t e = 0; f->panels && e < pair->experts; e++)
		mfs_merge_pack(a + e * pair->rank * columns, pair->transposed ? 1 : columns,
			       pair->transposed ? pair->rank : 1, pair->rank, columns,
			       f->panels + e * each);
	if (!f->panels && !error)
		error = MFS_E_MEMORY;
	free(a);
	*bytes += sizeof(float) * (floats + rows * pair->rank);
	return error;
}

static int item_load(const struct mfs_premerged *p, struct item *item, uint64_t *bytes)
{
	int error = 0;

	*bytes = 0;
	for (uint32_t i = 0; i < item->factor_count && !error; i++)
		error = factor_load(p, item, &item->factors[i], bytes);
	for (uint32_t i = 0; i < item->factor_count && error; i++)
		factor_drop(&item->factors[i]);
	return error;
}

/* Lock held. */
static void matrices_trim(struct mfs_premerged *p)
{
	while (p->bytes > MATRIX_MEMORY) {
		struct item *oldest = NULL;

		for (uint32_t i = 0; i < p->item_count; i++) {
			struct item *item = &p->items[i];

			if (item->bytes && !item->users &&
			    (!oldest || item->last_use < oldest->last_use))
				oldest = item;
		}
		if (!oldest)
			return;
		item_drop(p, oldest);
	}
}

static void item_release(struct mfs_premerged *p, struct item *item)
{
	pthread_mutex_lock(&p->lock);
	item->users--;
	matrices_trim(p);
	pthread_mutex_unlock(&p->lock);
}

/* Loads the matrices of the item if they are not there; they stay until it is
 * released. */
static int item_use(struct mfs_premerged *p, struct item *item)
{
	uint64_t bytes;
	int error = 0;

	pthread_mutex_lock(&item->loading);
	pthread_mutex_lock(&p->lock);
	item->users++;
	item->last_use = ++p->tick;
	bytes = item->bytes;
	pthread_mutex_unlock(&p->lock);
	if (!bytes) {
		error = item_load(p, item, &bytes);
		pthread_mutex_lock(&p->lock);
		item->bytes = error ? 0 : bytes;
		p->bytes += item->bytes;
		pthread_mutex_unlock(&p->lock);
	}
	pthread_mutex_unlock(&item->loading);
	if (error)
		item_release(p, item);
	return error;
}

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
	int error = w ? item_use(p, item) : MFS_E_MEMORY;

	if (!error) {
		error = read_pieces(p, item, offset, out, length, w);
		item_release(p, item);
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

/* ---- what does not fit ---- */

struct maker {
	struct mfs_premerged *p;
	const char *name;	/* of the unquantized model */
	mfs_import_index index; /* of it */
	mfs_problem *why;
};

#define refuse(m, error, ...) mfs_problem_set((m)->why, (error), UINT64_MAX, __VA_ARGS__)

static int check_file(const struct maker *m)
{
	const mfs_gguf_facts *base = &m->p->base.import.gguf, *own = &m->p->import.gguf;

	if (m->p->base.import.format != MFS_FORMAT_GGUF || base->swapped)
		return refuse(m, MFS_E_UNSUPPORTED,
			      "%s: is no GGUF model: nothing can be merged into it and quantized",
			      m->p->base.name);
	if (m->p->import.format != MFS_FORMAT_GGUF || own->swapped)
		return refuse(m, MFS_E_INVALID, "%s: is no GGUF model to merge into", m->name);
	if (own->split)
		return refuse(m, MFS_E_INVALID,
			      "%s: is one part of a split model: join the parts first", m->name);
	if (!own->architecture || !base->architecture ||
	    strcmp(own->architecture, base->architecture) != 0)
		return refuse(m, MFS_E_INVALID,
			      "%s: its architecture is '%.40s', that of %s '%.40s'", m->name,
			      own->architecture ? own->architecture : "", m->p->base.name,
			      base->architecture ? base->architecture : "");
	return 0;
}

static bool same_shape(const mfs_import_tensor *a, const mfs_import_tensor *b)
{
	for (uint32_t i = 0; i < MFS_DIMS_MAX; i++)
		if (mfs_import_dim(a, i) != mfs_import_dim(b, i))
			return false;
	return true;
}

/* Every tensor of the base is in the unquantized model, with the same shape. */
static int find_source(const struct maker *m, const mfs_import_tensor *base,
		       const mfs_import_tensor **out)
{
	uint32_t i = mfs_import_find(&m->index, base->name, base->name_length);

	if (i == UINT32_MAX)
		return refuse(m, MFS_E_INVALID, "%s: has no tensor '%s', which %s has", m->name,
			      base->name, m->p->base.name);
	*out = &m->p->import.tensors[i];
	if (same_shape(base, *out))
		return 0;
	return refuse(m, MFS_E_INVALID,
		      "%s: tensor '%s' is %" PRIu64 " x %" PRIu64 ", that of %s %" PRIu64
		      " x %" PRIu64,
		      m->name, base->name, mfs_import_dim(*out, 1), mfs_import_dim(*out, 0),
		      m->p->base.name, mfs_import_dim(base, 1), mfs_import_dim(base, 0));
}

static const mfs_dequant *dequant_of(const mfs_layout *layout)
{
	return mfs_dequant_named(layout->name, layout->name_length, layout->block_bytes,
				 layout->block_weights);
}

static int check_types(const struct maker *m, const struct item *item)
{
	const mfs_layout *from = item->from->layout, *base = item->base->layout;

	if (!item->source || item->source->block_weights != 1)
		return refuse(
		    m, MFS_E_INVALID,
		    "%s: tensor '%s' is of type %.*s: F32, F16 or BF16 is needed to merge "
		    "into",
		    m->name, item->from->name, from->name_length, from->name);
	if (!item->target || (!item->quantizer && !item->store))
		return refuse(m, MFS_E_UNSUPPORTED,
			      "%s: tensor '%s' is of type %.*s, which there is no quantizer for "
			      "(q8_0, q4_0, q4_k and q6_k have one)",
			      m->p->base.name, item->base->name, base->name_length, base->name);
	return 0;
}

/* Gains were computed for the weights of the base, which are rounded already. */
static int check_gains(const struct maker *m, const struct item *item)
{
	for (uint32_t i = 0; i < item->factor_count; i++)
		if (item->factors[i].pair->gain != UINT32_MAX)
			return refuse(
			    m, MFS_E_UNSUPPORTED,
			    "%s: scales the rows of '%s' (DoRA) to what they are in %s: it "
			    "cannot be merged into another model",
			    item->factors[i].part->file.name, item->base->name, m->p->base.name);
	return 0;
}

/* ---- making one ---- */

static uint32_t find_factors(const struct mfs_premerged *p, uint32_t number, struct factor *out)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < p->part_count; i++) {
		const mfs_adapter_pair *pair = mfs_adapter_find(p->parts[i].adapter, number);

		if (pair)
			out[count++] = (struct factor){.part = &p->parts[i], .pair = pair};
	}
	return count;
}

static int make_item(const struct maker *m, struct item *item)
{
	item->source = dequant_of(item->from->layout);
	item->target = dequant_of(item->base->layout);
	if (item->target) {
		item->quantizer = mfs_quantizer_ggml(item->target->ggml_type);
		item->store = mfs_store_ggml(item->target->ggml_type);
	}
	item->weights =
	    item->base->size / item->base->layout->block_bytes * item->base->layout->block_weights;
	mfs_loss_meter_open(&item->meter);
	pthread_mutex_init(&item->loading, NULL);
	m->p->item_count++;
	return check_types(m, item);
}

/* Tensors of an import are sorted by their places, so items are too. */
static int make_items(const struct maker *m)
{
	struct mfs_premerged *p = m->p;
	const mfs_import *base = &p->base.import;
	struct factor *factors = p->factors;
	int error = 0;

	for (uint32_t i = 0; i < base->tensor_count && !error; i++) {
		struct item *item = &p->items[p->item_count];
		const mfs_import_tensor *from = NULL;

		error = find_source(m, &base->tensors[i], &from);
		item->factor_count = error ? 0 : find_factors(p, i, factors);
		if (!item->factor_count)
			continue;
		item->factors = factors;
		factors += item->factor_count;
		item->base = &base->tensors[i];
		item->from = from;
		error = make_item(m, item);
		if (!error)
			error = check_gains(m, item);
	}
	if (!error && !p->item_count)
		error =
		    refuse(m, MFS_E_INVALID, "%s: the adapters change nothing of it", p->base.name);
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

static int take_sample(const struct maker *m)
{
	struct mfs_premerged *p = m->p;
	struct work *w = malloc(sizeof(*w));
	int error = w ? 0 : MFS_E_MEMORY;

	for (uint32_t i = 0; i < p->item_count && !error; i++)
		error = sample_item(p, &p->items[i], w);
	free(w);
	if (p->problem.error && m->why)
		*m->why = p->problem;
	else if (error)
		refuse(m, error, "%s: cannot be compared with %s: %s", m->name, p->base.name,
		       mfs_error_text(error));
	/* Also where a number is no number. */
	if (!error && !(p->sample_error <= OTHER_MODEL * p->sample_energy))
		error = refuse(m, MFS_E_INVALID,
			       "%s: has other weights than %s: it is not the model that this was "
			       "quantized from",
			       m->name, p->base.name);
	return error;
}

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
	for (int i = 0; i < TYPE_ROOM - 1 && most->name[i]; i++)
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
	struct maker m = {.p = new_premerged(request), .name = source->name, .why = why};
	int error = m.p ? mfs_import_index_open(&m.index, import) : MFS_E_MEMORY;

	if (m.p) {
		m.p->source = *source;
		m.p->import = *import;
	}
	if (error)
		refuse(&m, error, "out of memory");
	if (!error)
		error = check_file(&m);
	if (!error)
		error = make_items(&m);
	if (!error)
		error = take_sample(&m);
	mfs_import_index_close(&m.index);
	if (error) {
		if (m.p) { /* still the caller's */
			memset(&m.p->source, 0, sizeof(m.p->source));
			memset(&m.p->import, 0, sizeof(m.p->import));
		}
		mfs_premerged_free(m.p);
		return error;
	}
	find_type(m.p);
	source->read_at = read_premerged;
	source->size = request->base.source.size;
	source->context = m.p;
	memset(import, 0, sizeof(*import));
	*out = m.p;
	return 0;
}

void mfs_premerged_free(mfs_premerged *p)
{
	if (!p)
		return;
	for (uint32_t i = 0; i < p->item_count; i++) {
		item_drop(p, &p->items[i]);
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
