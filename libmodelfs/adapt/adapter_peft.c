/*
 * Adapters of PEFT on safetensors models: their tensors are taken as they are, so that
 * "model.layers.0.self_attn.q_proj" is the tensor of that name with ".weight" behind it.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapter.h"
#include "peft_keys.h"
#include "problem.h"

#define MODULE_MAX 512

/* A tensor of the adapter. */
struct side {
	mfs_peft_key key;
	uint32_t tensor;
};

struct pairing {
	const char *name;
	const mfs_peft_config *config;
	const mfs_import *adapter;
	const mfs_base_model *models;
	mfs_import_index *indexes; /* of the models */
	uint32_t count;
	struct side *sides;
	uint32_t side_count;
	mfs_problem *why;
};

/* The tensors of one module. */
struct group {
	char module[MODULE_MAX];
	const struct side *a, *b, *magnitude;
	uint32_t model, target;
};

#define refuse(p, error, ...) mfs_problem_about((p)->name, (p)->why, (error), __VA_ARGS__)

static int no_memory(const struct pairing *p)
{
	return mfs_problem_no_memory(p->why);
}

/* ---- tensors by module ---- */

static int by_module(const void *a, const void *b)
{
	const mfs_peft_key *x = &((const struct side *)a)->key;
	const mfs_peft_key *y = &((const struct side *)b)->key;
	size_t shorter = x->module_length < y->module_length ? x->module_length : y->module_length;
	int order = memcmp(x->module, y->module, shorter);

	if (order)
		return order;
	if (x->module_length != y->module_length)
		return x->module_length < y->module_length ? -1 : 1;
	return x->matrix - y->matrix;
}

static bool same_module(const struct side *a, const struct side *b)
{
	return a->key.module_length == b->key.module_length &&
	       !memcmp(a->key.module, b->key.module, a->key.module_length);
}

static int check_type(const struct pairing *p, const mfs_import_tensor *t)
{
	static const char *const known[] = {"F32", "F16", "BF16"};

	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
		if (!strcmp(t->layout->name, known[i]))
			return 0;
	return refuse(p, MFS_E_UNSUPPORTED,
		      "tensor '%.80s' is of type %.*s: only F32, F16 and BF16 are supported",
		      t->name, t->layout->name_length, t->layout->name);
}

static int find_sides(struct pairing *p)
{
	p->sides = calloc(p->adapter->tensor_count + 1u, sizeof(*p->sides));
	if (!p->sides)
		return no_memory(p);
	for (uint32_t i = 0; i < p->adapter->tensor_count; i++) {
		const mfs_import_tensor *t = &p->adapter->tensors[i];
		struct side *side = &p->sides[p->side_count++];
		int error = check_type(p, t);

		if (error)
			return error;
		side->tensor = i;
		if (!mfs_peft_key_parse(&side->key, t->name) ||
		    side->key.module_length >= MODULE_MAX)
			return refuse(p, MFS_E_INVALID, "tensor '%.80s' %s", t->name,
				      mfs_peft_key_reason(t->name));
	}
	if (!p->side_count)
		return refuse(p, MFS_E_INVALID, "has no matrices");
	qsort(p->sides, p->side_count, sizeof(*p->sides), by_module);
	return 0;
}

/* Takes the sides of the next module; returns how many. */
static uint32_t take_group(const struct pairing *p, uint32_t at, struct group *out)
{
	const struct side *first = &p->sides[at];
	uint32_t n = 0;

	*out = (struct group){0};
	snprintf(out->module, sizeof(out->module), "%.*s", (int)first->key.module_length,
		 first->key.module);
	for (; at + n < p->side_count && same_module(first, first + n); n++) {
		const struct side *side = first + n;
		const struct side **slot = side->key.matrix == 'a'   ? &out->a
					   : side->key.matrix == 'b' ? &out->b
								     : &out->magnitude;

		/* A module with two A has no first one. */
		*slot = *slot ? NULL : side;
	}
	return n;
}

/* ---- the tensor of the base ---- */

static bool find_weight(const struct pairing *p, const char *module, struct group *g)
{
	char name[MODULE_MAX + 64];
	int length = snprintf(name, sizeof(name), "%s.weight", module);

	for (g->model = 0; g->model < p->count; g->model++) {
		g->target = mfs_import_find(&p->indexes[g->model], name, (size_t)length);
		if (g->target != UINT32_MAX)
			return true;
	}
	return false;
}

static int find_target(const struct pairing *p, struct group *g)
{
	const char *short_name = mfs_peft_module_behind_base(g->module);
	char name[MODULE_MAX + 32];

	for (unsigned form = 0; mfs_peft_module_name(name, sizeof(name), g->module, form); form++)
		if (find_weight(p, name, g))
			return 0;
	if (short_name && find_weight(p, short_name, g))
		return 0;
	return refuse(p, MFS_E_INVALID, "its base %s has no tensor '%.200s.weight'",
		      p->models[0].name, g->module);
}

static bool ends_with(const mfs_import_tensor *t, const char *end)
{
	size_t n = strlen(end);

	return t->name_length >= n && !memcmp(t->name + t->name_length - n, end, n);
}

/* Embeddings of other things than words are no heads. */
static bool may_be_head(const char *module)
{
	return !strstr(module, "position") && !strstr(module, "token_type") &&
	       !strstr(module, "wpe");
}

/* Where the head has no weights of its own it uses those of the embedding: merged, both
 * would change, while the adapter changes the one. Programs that tie the two do not look
 * at weights that are there all the same. */
static int check_tied(const struct pairing *p, const struct group *g)
{
	for (uint32_t i = 0; i < p->count && !p->models[0].tied; i++)
		for (uint32_t k = 0; k < p->models[i].import.tensor_count; k++) {
			const mfs_import_tensor *t = &p->models[i].import.tensors[k];

			if (ends_with(t, "lm_head.weight") || ends_with(t, "embed_out.weight"))
				return 0;
		}
	return refuse(p, MFS_E_UNSUPPORTED,
		      "'%.200s': %s %s %s: the embedding that the adapter changes is the head too, "
		      "which it leaves as it is",
		      g->module, p->models[0].tied ? "the configuration of" : "its base",
		      p->models[0].name,
		      p->models[0].tied ? "ties the head to it" : "has no head of its own");
}

static const mfs_import_tensor *matrix_of(const struct pairing *p, const struct group *g)
{
	const mfs_base_model *model = &p->models[g->model];
	const mfs_bnb_matrix *m = mfs_bnb_find(model->bnb, g->target);

	return m ? &m->was : &model->import.tensors[g->target];
}

/* ---- a pair ---- */

static int check_shapes(const struct pairing *p, const struct group *g, bool turned)
{
	const mfs_import_tensor *t = matrix_of(p, g);
	const mfs_import_tensor *a = &p->adapter->tensors[g->a->tensor];
	const mfs_import_tensor *b = &p->adapter->tensors[g->b->tensor];

	if (t->dim_count != 2 || a->dim_count != 2 || b->dim_count != 2)
		return refuse(p, MFS_E_UNSUPPORTED,
			      "module '%.200s' is no matrix: such adapters are not supported",
			      g->module);
	if (a->dims[0] != b->dims[1] || a->dims[0] > UINT32_MAX)
		return refuse(p, MFS_E_INVALID,
			      "'%.200s': the ranks of its matrices differ: %" PRIu64
			      " and %" PRIu64,
			      g->module, a->dims[0], b->dims[1]);
	if (a->dims[1] != t->dims[turned ? 0 : 1] || b->dims[0] != t->dims[turned ? 1 : 0])
		return refuse(p, MFS_E_INVALID,
			      "'%.200s': made for %" PRIu64 " x %" PRIu64
			      ", the tensor of %s is %" PRIu64 " x %" PRIu64,
			      g->module, turned ? a->dims[1] : b->dims[0],
			      turned ? b->dims[0] : a->dims[1], p->models[g->model].name,
			      t->dims[0], t->dims[1]);
	return 0;
}

static int set_scale(const struct pairing *p, const struct group *g, mfs_adapter_pair *out)
{
	double rank, alpha;
	int error = mfs_peft_module(p->config, g->module, &rank, &alpha, p->why);

	if (error)
		return error;
	if ((double)out->rank != rank)
		return refuse(p, MFS_E_INVALID,
			      "tensor '%.80s' has rank %" PRIu32 ", its configuration says %.0f",
			      p->adapter->tensors[g->a->tensor].name, out->rank, rank);
	out->scale = mfs_peft_scale(p->config, rank, alpha);
	if (out->scale == 0 || !isfinite((float)out->scale))
		return refuse(p, MFS_E_INVALID, "a lora_alpha of %g makes no adapter for '%.200s'",
			      alpha, g->module);
	return 0;
}

static int set_magnitude(const struct pairing *p, const struct group *g, bool turned,
			 mfs_adapter_pair *out)
{
	const mfs_import_tensor *t =
	    g->magnitude ? &p->adapter->tensors[g->magnitude->tensor] : NULL;

	out->magnitude = out->gain = UINT32_MAX;
	if (!t != !p->config->dora)
		return refuse(p, MFS_E_INVALID,
			      t ? "'%.200s' has magnitudes, its configuration says nothing of DoRA"
				: "'%.200s' has no magnitudes, its configuration says DoRA",
			      g->module);
	if (!t)
		return 0;
	if (turned)
		return refuse(
		    p, MFS_E_UNSUPPORTED,
		    "'%.200s' is stored transposed: the magnitudes of DoRA would be those "
		    "of its columns, which is not supported",
		    g->module);
	if (t->dim_count != 1 || t->dims[0] != p->adapter->tensors[g->b->tensor].dims[0])
		return refuse(p, MFS_E_INVALID, "tensor '%.80s' has no magnitude for each row",
			      t->name);
	out->magnitude = g->magnitude->tensor;
	return 0;
}

/* Stored transposed, W gets A^T B^T: the matrices change their parts. */
static int make_pair(const struct pairing *p, const struct group *g, mfs_adapter_pair *out)
{
	bool turned = g->a->key.embedding || p->config->fan_in_fan_out;
	int error = check_shapes(p, g, turned);

	*out = (mfs_adapter_pair){.target = g->target,
				  .a = (turned ? g->b : g->a)->tensor,
				  .b = (turned ? g->a : g->b)->tensor,
				  .rank = (uint32_t)p->adapter->tensors[g->a->tensor].dims[0],
				  .experts = 1,
				  .transposed = turned,
				  .b_transposed = turned};
	if (!error)
		error = set_scale(p, g, out);
	return error ? error : set_magnitude(p, g, turned, out);
}

static int by_target(const void *a, const void *b)
{
	const mfs_adapter_pair *x = a, *y = b;

	return (x->target > y->target) - (x->target < y->target);
}

static mfs_adapter *adapter_of(mfs_adapter *adapter, uint32_t model)
{
	while (model--)
		adapter = adapter->next;
	return adapter;
}

static int make_pairs(const struct pairing *p, mfs_adapter *out)
{
	uint32_t n;

	for (uint32_t at = 0; at < p->side_count; at += n) {
		struct group g;
		mfs_adapter *adapter;
		int error;

		n = take_group(p, at, &g);
		if (!g.a || !g.b || g.a->key.embedding != g.b->key.embedding)
			return refuse(p, MFS_E_INVALID, "'%.200s' has no pair of matrices",
				      g.module);
		error = find_target(p, &g);
		if (!error && g.a->key.embedding && may_be_head(g.module))
			error = check_tied(p, &g);
		if (error)
			return error;
		adapter = adapter_of(out, g.model);
		error = make_pair(p, &g, &adapter->pairs[adapter->count++]);
		if (error)
			return error;
	}
	for (; out; out = out->next) {
		qsort(out->pairs, out->count, sizeof(*out->pairs), by_target);
		for (uint32_t i = 1; i < out->count; i++)
			if (out->pairs[i - 1].target == out->pairs[i].target)
				return refuse(p, MFS_E_INVALID, "changes a tensor twice");
	}
	return 0;
}

/* ---- the whole ---- */

static mfs_adapter *new_chain(const struct pairing *p)
{
	mfs_adapter *first = NULL;

	for (uint32_t i = 0; i < p->count; i++) {
		mfs_adapter *made = calloc(1, sizeof(*made));

		if (made)
			made->pairs = calloc(p->adapter->tensor_count + 1u, sizeof(*made->pairs));
		if (!made || !made->pairs) {
			mfs_adapter_free(made);
			mfs_adapter_free(first);
			return NULL;
		}
		made->next = first;
		first = made;
	}
	return first;
}

static int open_indexes(struct pairing *p)
{
	p->indexes = calloc(p->count, sizeof(*p->indexes));
	for (uint32_t i = 0; p->indexes && i < p->count; i++)
		if (mfs_import_index_open(&p->indexes[i], &p->models[i].import) < 0)
			return no_memory(p);
	return p->indexes ? 0 : no_memory(p);
}

int mfs_adapter_new_peft(mfs_adapter **out, const char *name, const mfs_peft_config *config,
			 const mfs_import *adapter, const mfs_base_model *models, uint32_t count,
			 mfs_problem *why)
{
	struct pairing p = {.name = name,
			    .config = config,
			    .adapter = adapter,
			    .models = models,
			    .count = count,
			    .why = why};
	mfs_adapter *made = new_chain(&p);
	int error = made ? open_indexes(&p) : no_memory(&p);

	if (!error && adapter->format != MFS_FORMAT_SAFETENSORS)
		error = refuse(&p, MFS_E_INVALID, "no safetensors file");
	if (!error && adapter->empty_count)
		error =
		    refuse(&p, MFS_E_INVALID, "tensor '%.80s' is empty", adapter->empty[0].name);
	if (!error)
		error = find_sides(&p);
	if (!error)
		error = make_pairs(&p, made);
	for (uint32_t i = 0; p.indexes && i < count; i++)
		mfs_import_index_close(&p.indexes[i]);
	free(p.indexes);
	free(p.sides);
	if (error)
		mfs_adapter_free(made);
	else
		*out = made;
	return error;
}
