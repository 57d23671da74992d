#include <stdlib.h>

#include "premerge_items.h"

/* Matrices of adapters beyond this are dropped, those longest not used first. */
#define MATRIX_MEMORY (16u << 20)

static void factor_drop(struct factor *f)
{
	free(f->panels);
	free(f->b);
	free(f->gain);
	f->panels = f->b = f->gain = NULL;
}

void mfs_premerge_drop(struct mfs_premerged *p, struct item *item)
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

/* The gains of a DoRA, which are others on the unquantized model than on the base. */
static int load_gains(const struct mfs_premerged *p, const struct item *item, struct factor *f,
		      uint64_t rows)
{
	const char *name = f->part->file.import.tensors[f->pair->gain].name;
	const mfs_base_model model = {
	    .name = p->source.name, .source = p->source, .import = p->import};

	f->gain = calloc(rows, sizeof(float));
	return f->gain ? mfs_peft_gains(f->part->peft, name, &model,
					(uint32_t)(item->from - p->import.tensors), f->gain)
		       : MFS_E_MEMORY;
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
	if (!error && pair->gain != UINT32_MAX)
		error = load_gains(p, item, f, rows);
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
		mfs_premerge_drop(p, oldest);
	}
}

void mfs_premerge_release(struct mfs_premerged *p, struct item *item)
{
	pthread_mutex_lock(&p->lock);
	item->users--;
	matrices_trim(p);
	pthread_mutex_unlock(&p->lock);
}

int mfs_premerge_use(struct mfs_premerged *p, struct item *item)
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
		mfs_premerge_release(p, item);
	return error;
}
