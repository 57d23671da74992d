/* Which tensors adapters change before a model is quantized, and whether the unquantized
 * model is one of the base at all. */
#include <inttypes.h>
#include <string.h>

#include "premerge_items.h"

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

/* The gains in the container are those of the weights of the base, which are rounded
 * already; only what is added now knows the magnitudes that they came from. */
static int check_gains(const struct maker *m, const struct item *item)
{
	for (uint32_t i = 0; i < item->factor_count; i++)
		if (item->factors[i].pair->gain != UINT32_MAX && !item->factors[i].part->peft)
			return refuse(m, MFS_E_UNSUPPORTED,
				      "%s: is a DoRA whose magnitudes the container does not have: "
				      "premerge it when the adapter is added",
				      item->factors[i].part->file.name);
	return 0;
}

/* ---- finding them ---- */

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
	item->source = mfs_dequant_of(item->from->layout);
	item->target = mfs_dequant_of(item->base->layout);
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

int mfs_premerge_match(struct mfs_premerged *p, const char *name, mfs_problem *why)
{
	struct maker m = {.p = p, .name = name, .why = why};
	int error = mfs_import_index_open(&m.index, &p->import);

	if (error)
		return refuse(&m, error, "out of memory");
	error = check_file(&m);
	if (!error)
		error = make_items(&m);
	mfs_import_index_close(&m.index);
	return error;
}
