#include "adapter.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "problem.h"

/* What a tensor of an adapter is to a tensor of the base. */
struct side {
	const char *base; /* name of that tensor: `length` bytes */
	size_t length;
	char matrix; /* 'a', 'b', or 'g': gains */
	uint32_t tensor;
};

struct pairing {
	const char *name, *base_name;
	const mfs_import *adapter, *base;
	mfs_import_index index; /* of the base */
	struct side *sides;
	uint32_t count;
	bool gains;
	mfs_problem *why;
};

#define refuse(p, ...) mfs_problem_about((p)->name, (p)->why, MFS_E_INVALID, __VA_ARGS__)

/* ---- what the header says ---- */

static bool same(const char *a, const char *b)
{
	return a && b && !strcmp(a, b);
}

static int check_kind(const struct pairing *p)
{
	const mfs_gguf_facts *facts = &p->adapter->gguf;

	if (p->adapter->format != MFS_FORMAT_GGUF)
		return refuse(p, "not an adapter: no GGUF file");
	if (facts->swapped)
		return refuse(p, "a big-endian adapter is not supported");
	if (!same(facts->type, "adapter"))
		return refuse(p, "not an adapter: general.type is '%.40s', not 'adapter'",
			      facts->type ? facts->type : "");
	if (!same(facts->adapter_type, "lora"))
		return refuse(p, "adapter.type is '%.40s', only 'lora' is supported",
			      facts->adapter_type ? facts->adapter_type : "");
	if (facts->activated)
		return refuse(p, "an activated adapter (aLoRA) works only behind certain tokens "
				 "and cannot be merged");
	if (facts->empty)
		return refuse(p, "tensor '%s' is empty", facts->empty);
	if (facts->alpha - facts->alpha != 0)
		return refuse(p, "adapter.lora.alpha is not a finite number");
	return 0;
}

static int check_base(const struct pairing *p)
{
	const mfs_gguf_facts *own = &p->adapter->gguf, *base = &p->base->gguf;

	if (p->base->format != MFS_FORMAT_GGUF)
		return refuse(p, "its base %s is no GGUF file", p->base_name);
	if (base->swapped)
		return refuse(p, "its base %s is big-endian", p->base_name);
	if (same(base->type, "adapter"))
		return refuse(p, "its base %s is an adapter itself", p->base_name);
	if (base->split)
		return refuse(p, "its base %s is one part of a split model: join the parts first",
			      p->base_name);
	if (!own->architecture || !same(own->architecture, base->architecture))
		return refuse(p, "made for architecture '%.40s', its base %s is '%.40s'",
			      own->architecture ? own->architecture : "", p->base_name,
			      base->architecture ? base->architecture : "");
	return 0;
}

/* ---- pairs ---- */

static bool ends_with(const mfs_import_tensor *t, const char *suffix)
{
	size_t n = strlen(suffix);

	return t->name_length > n && !memcmp(t->name + t->name_length - n, suffix, n);
}

static int by_target(const void *a, const void *b)
{
	const struct side *x = a, *y = b;
	size_t shorter = x->length < y->length ? x->length : y->length;
	int order = memcmp(x->base, y->base, shorter);

	if (order)
		return order;
	if (x->length != y->length)
		return x->length < y->length ? -1 : 1;
	return x->matrix - y->matrix;
}

static int find_sides(struct pairing *p)
{
	p->sides = calloc(p->adapter->tensor_count + 1u, sizeof(*p->sides));
	if (!p->sides)
		return mfs_problem_no_memory(p->why);
	for (uint32_t i = 0; i < p->adapter->tensor_count; i++) {
		const mfs_import_tensor *t = &p->adapter->tensors[i];
		bool a = ends_with(t, ".lora_a"), gain = p->gains && ends_with(t, ".lora_gain");

		if (a || gain || ends_with(t, ".lora_b")) {
			p->sides[p->count++] =
			    (struct side){.base = t->name,
					  .length = t->name_length - (gain ? 10u : 7u),
					  .matrix = a	   ? 'a'
						    : gain ? 'g'
							   : 'b',
					  .tensor = i};
			continue;
		}
		/* llama.cpp leaves trained norms out too. */
		if (!ends_with(t, "_norm.weight"))
			return refuse(p,
				      "tensor '%s' has a suffix that is not known (.lora_a and "
				      ".lora_b are)",
				      t->name);
	}
	if (!p->count)
		return refuse(p, "has no matrices");
	qsort(p->sides, p->count, sizeof(*p->sides), by_target);
	return 0;
}

/* Tensors of three dimensions hold one matrix for each expert; so do their A and B. */
static int check_experts(const struct pairing *p, const mfs_adapter_pair *pair)
{
	const mfs_import_tensor *target = &p->base->tensors[pair->target];
	const mfs_import_tensor *both[] = {&p->adapter->tensors[pair->a],
					   &p->adapter->tensors[pair->b]};

	for (int i = 0; i < 2; i++)
		if (mfs_import_dim(both[i], 2) != pair->experts)
			return refuse(p,
				      "'%s': made for %" PRIu64 " experts, the tensor of %s has "
				      "%" PRIu64,
				      target->name, mfs_import_dim(both[i], 2), p->base_name,
				      pair->experts);
	if (mfs_import_dim(target, 3) == 1 && mfs_import_dim(both[0], 3) == 1 &&
	    mfs_import_dim(both[1], 3) == 1 && (pair->experts == 1 || !pair->transposed))
		return 0;
	return refuse(p, "tensor '%s' has a shape that adapters cannot have", target->name);
}

static int check_shapes(const struct pairing *p, const mfs_adapter_pair *pair)
{
	const mfs_import_tensor *target = &p->base->tensors[pair->target];
	const mfs_import_tensor *a = &p->adapter->tensors[pair->a];
	const mfs_import_tensor *b = &p->adapter->tensors[pair->b];
	uint64_t columns = mfs_import_dim(target, 0), rows = mfs_import_dim(target, 1);
	uint64_t a_columns = mfs_import_dim(a, pair->transposed ? 1 : 0);
	uint64_t a_rank = mfs_import_dim(a, pair->transposed ? 0 : 1);

	if (a_rank != mfs_import_dim(b, 0))
		return refuse(p, "'%s': the ranks of its matrices differ: %" PRIu64 " and %" PRIu64,
			      target->name, a_rank, mfs_import_dim(b, 0));
	if (a_columns != columns || mfs_import_dim(b, 1) != rows)
		return refuse(p,
			      "'%s': made for %" PRIu64 " x %" PRIu64 ", the tensor of %s is "
			      "%" PRIu64 " x %" PRIu64,
			      target->name, mfs_import_dim(b, 1), a_columns, p->base_name, rows,
			      columns);
	return check_experts(p, pair);
}

/* llama.cpp looks tokens up in A of the embedding, so A has the rows there and B
 * the columns. */
static int make_pair(const struct pairing *p, const struct side *a, const struct side *b,
		     mfs_adapter_pair *out)
{
	bool embedding = a->length == 17 && !memcmp(a->base, "token_embd.weight", 17);
	uint64_t rank = mfs_import_dim(&p->adapter->tensors[b->tensor], 0);

	out->target = mfs_import_find(&p->index, a->base, a->length);
	if (out->target == UINT32_MAX)
		return refuse(p, "its base %s has no tensor '%.*s'", p->base_name, (int)a->length,
			      a->base);
	if (rank > UINT32_MAX)
		return refuse(p, "'%.*s': a rank of %" PRIu64 " is not possible", (int)a->length,
			      a->base, rank);
	out->rank = (uint32_t)rank;
	out->experts = mfs_import_dim(&p->base->tensors[out->target], 2);
	out->a = embedding ? b->tensor : a->tensor;
	out->b = embedding ? a->tensor : b->tensor;
	out->transposed = embedding;
	out->magnitude = out->gain = UINT32_MAX;
	return check_shapes(p, out);
}

static int by_number(const void *a, const void *b)
{
	const mfs_adapter_pair *x = a, *y = b;

	return (x->target > y->target) - (x->target < y->target);
}

static bool same_base(const struct side *a, const struct side *b)
{
	return a->length == b->length && !memcmp(a->base, b->base, a->length);
}

static int check_gain(const struct pairing *p, const struct side *gain, const struct side *b)
{
	const mfs_import_tensor *t = &p->adapter->tensors[gain->tensor];
	uint64_t rows = mfs_import_dim(&p->adapter->tensors[b->tensor], 1);

	if (t->dim_count == 1 && t->dims[0] == rows)
		return 0;
	return refuse(p, "'%s' does not have a gain for each of %" PRIu64 " rows", t->name, rows);
}

static int make_pairs(const struct pairing *p, mfs_adapter *out)
{
	int error = 0;

	out->pairs = calloc(p->count, sizeof(*out->pairs));
	if (!out->pairs)
		return mfs_problem_no_memory(p->why);
	for (uint32_t i = 0; i < p->count && !error; i += 2) {
		const struct side *a = &p->sides[i];
		const struct side *b = i + 1 < p->count ? a + 1 : NULL;
		const struct side *gain = i + 2 < p->count ? a + 2 : NULL;

		if (!b || !same_base(a, b) || a->matrix != 'a' || b->matrix != 'b')
			return refuse(p, "'%.*s' has a lora_%c without a lora_%c", (int)a->length,
				      a->base, a->matrix, a->matrix == 'a' ? 'b' : 'a');
		error = make_pair(p, a, b, &out->pairs[out->count]);
		if (!error && gain && gain->matrix == 'g' && same_base(a, gain)) {
			error = check_gain(p, gain, b);
			out->pairs[out->count].gain = gain->tensor;
			i++;
		}
		out->count++;
	}
	qsort(out->pairs, out->count, sizeof(*out->pairs), by_number);
	return error;
}

int mfs_adapter_new(mfs_adapter **out, const char *name, const mfs_import *adapter, bool gains,
		    const char *base_name, const mfs_import *base, mfs_problem *why)
{
	struct pairing p = {.name = name,
			    .base_name = base_name,
			    .adapter = adapter,
			    .base = base,
			    .gains = gains,
			    .why = why};
	mfs_adapter *made = calloc(1, sizeof(*made));
	int error = made ? check_kind(&p) : MFS_E_MEMORY;

	if (!error)
		error = check_base(&p);
	if (!error)
		error = mfs_import_index_open(&p.index, base);
	if (error == MFS_E_MEMORY)
		mfs_problem_no_memory(why);
	if (!error)
		error = find_sides(&p);
	if (!error)
		error = make_pairs(&p, made);
	mfs_import_index_close(&p.index);
	free(p.sides);
	if (error) {
		mfs_adapter_free(made);
		return error;
	}
	made->alpha = adapter->gguf.alpha;
	*out = made;
	return 0;
}

void mfs_adapter_free(mfs_adapter *adapter)
{
	while (adapter) {
		mfs_adapter *next = adapter->next;

		free(adapter->pairs);
		free(adapter);
		adapter = next;
	}
}

bool mfs_adapter_has_gains(const mfs_adapter *adapter)
{
	for (; adapter; adapter = adapter->next)
		for (uint32_t i = 0; i < adapter->count; i++)
			if (adapter->pairs[i].magnitude != UINT32_MAX ||
			    adapter->pairs[i].gain != UINT32_MAX)
				return true;
	return false;
}

const mfs_adapter *mfs_adapter_at(const mfs_adapter *adapter, uint32_t number)
{
	while (number--)
		adapter = adapter->next;
	return adapter;
}

const mfs_adapter_pair *mfs_adapter_find(const mfs_adapter *adapter, uint32_t target)
{
	const mfs_adapter_pair key = {.target = target};

	return bsearch(&key, adapter->pairs, adapter->count, sizeof(key), by_number);
}

float mfs_adapter_scale(const mfs_adapter *adapter, const mfs_adapter_pair *pair, float user)
{
	if (pair->scale != 0)
		return (float)((double)user * pair->scale);
	return adapter->alpha != 0 ? user * adapter->alpha / (float)pair->rank : user;
}
