#include "order.h"

#include <stdlib.h>
#include <string.h>

#include "modelfs_error.h"

/* ---- names ---- */

struct text {
	const char *at;
	size_t length;
};

/* What a name has in it tells the role; the first row that matches does. Parts of
 * names that hold others come first. */
struct rule {
	const char *pattern;
	mfs_role role;
};

/* Behind the layer's number. */
static const struct rule layer_rules[] = {
    {"attn_q_norm", MFS_ROLE_ATTN_Q},
    {"attn_k_norm", MFS_ROLE_ATTN_K},
    {"self_attn.q_norm", MFS_ROLE_ATTN_Q},
    {"self_attn.k_norm", MFS_ROLE_ATTN_K},
    {"attn_q_a_norm", MFS_ROLE_ATTN_Q},
    {"attn_kv_a_norm", MFS_ROLE_ATTN_K},
    {"attn_output", MFS_ROLE_ATTN_OUTPUT},
    {"attn_out", MFS_ROLE_ATTN_OUTPUT},
    {"attn_post_norm", MFS_ROLE_FFN_NORM},
    {"post_attention", MFS_ROLE_FFN_NORM},
    {"attn_qkv", MFS_ROLE_ATTN_QKV},
    {"attn_kv", MFS_ROLE_ATTN_K},
    {"attn_q", MFS_ROLE_ATTN_Q},
    {"attn_k", MFS_ROLE_ATTN_K},
    {"attn_v", MFS_ROLE_ATTN_V},
    {"attn_norm", MFS_ROLE_ATTN_NORM},
    {"ffn_gate_inp", MFS_ROLE_ROUTER},
    {"exp_probs", MFS_ROLE_ROUTER},
    {"ffn_gate", MFS_ROLE_FFN_GATE},
    {"ffn_up", MFS_ROLE_FFN_UP},
    {"ffn_down", MFS_ROLE_FFN_DOWN},
    {"ffn_norm", MFS_ROLE_FFN_NORM},
    {"post_ffw_norm", MFS_ROLE_POST_NORM},
    {"layer_output_norm", MFS_ROLE_POST_NORM},
    {"post_feedforward", MFS_ROLE_POST_NORM},
    {"pre_feedforward", MFS_ROLE_FFN_NORM},
    {"input_layernorm", MFS_ROLE_ATTN_NORM},
    {"query_key_value", MFS_ROLE_ATTN_QKV},
    {"qkv_proj", MFS_ROLE_ATTN_QKV},
    {"c_attn", MFS_ROLE_ATTN_QKV},
    {"attn.c_proj", MFS_ROLE_ATTN_OUTPUT},
    {"attention.dense", MFS_ROLE_ATTN_OUTPUT},
    {"self_attn.dense", MFS_ROLE_ATTN_OUTPUT},
    {"o_proj", MFS_ROLE_ATTN_OUTPUT},
    {"out_proj", MFS_ROLE_ATTN_OUTPUT},
    {"q_proj", MFS_ROLE_ATTN_Q},
    {"q_a_", MFS_ROLE_ATTN_Q},
    {"q_b_", MFS_ROLE_ATTN_Q},
    {"k_proj", MFS_ROLE_ATTN_K},
    {"kv_a_", MFS_ROLE_ATTN_K},
    {"kv_b_", MFS_ROLE_ATTN_K},
    {"v_proj", MFS_ROLE_ATTN_V},
    {"gate_up_proj", MFS_ROLE_FFN_GATE},
    {"gate_proj", MFS_ROLE_FFN_GATE},
    {"up_proj", MFS_ROLE_FFN_UP},
    {"down_proj", MFS_ROLE_FFN_DOWN},
    {"mlp.c_fc", MFS_ROLE_FFN_UP},
    {"mlp.c_proj", MFS_ROLE_FFN_DOWN},
    {"dense_h_to_4h", MFS_ROLE_FFN_UP},
    {"dense_4h_to_h", MFS_ROLE_FFN_DOWN},
    {"fc1", MFS_ROLE_FFN_UP},
    {"fc2", MFS_ROLE_FFN_DOWN},
    {".w1.", MFS_ROLE_FFN_GATE},
    {".w3.", MFS_ROLE_FFN_UP},
    {".w2.", MFS_ROLE_FFN_DOWN},
    {"mlp.gate.", MFS_ROLE_ROUTER},
    {"moe.gate.", MFS_ROLE_ROUTER},
    {"mlp.router", MFS_ROLE_ROUTER},
    {"ln_1", MFS_ROLE_ATTN_NORM},
    {"ln_2", MFS_ROLE_FFN_NORM},
};

/* Of names without a layer. */
static const struct rule model_rules[] = {
    {"token_embd_norm", MFS_ROLE_INPUT},
    {"token_embd", MFS_ROLE_EMBEDDING},
    {"position_embd", MFS_ROLE_EMBEDDING},
    {"embed_tokens", MFS_ROLE_EMBEDDING},
    {"word_embeddings.", MFS_ROLE_EMBEDDING},
    {"embed_in", MFS_ROLE_EMBEDDING},
    {"wte.", MFS_ROLE_EMBEDDING},
    {"wpe.", MFS_ROLE_EMBEDDING},
    {"output_norm", MFS_ROLE_OUTPUT_NORM},
    {"final_layer_norm", MFS_ROLE_OUTPUT_NORM},
    {"final_layernorm", MFS_ROLE_OUTPUT_NORM},
    {"ln_f", MFS_ROLE_OUTPUT_NORM},
    {"model.norm", MFS_ROLE_OUTPUT_NORM},
    {"output", MFS_ROLE_OUTPUT},
    {"lm_head", MFS_ROLE_OUTPUT},
    {"embed_out", MFS_ROLE_OUTPUT},
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static bool contains(struct text text, const char *pattern)
{
	return memmem(text.at, text.length, pattern, strlen(pattern)) != NULL;
}

static mfs_role find_role(const struct rule rules[], size_t count, struct text text, mfs_role none)
{
	for (size_t i = 0; i < count; i++)
		if (contains(text, rules[i].pattern))
			return rules[i].role;
	return none;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* The first part between dots that is a number, at or behind *at; *at is set
 * behind it. Numbers that do not fit into 31 bits are none. */
static bool find_number(struct text name, size_t *at, size_t *begin, uint32_t *out)
{
	for (size_t i = *at; i < name.length; i++) {
		size_t end = i;
		uint64_t value = 0;

		if (i && name.at[i - 1] != '.')
			continue;
		while (end < name.length && is_digit(name.at[end]) && value < INT32_MAX)
			value = value * 10 + (uint64_t)(name.at[end++] - '0');
		if (end == i || value > INT32_MAX || (end < name.length && name.at[end] != '.'))
			continue;
		*begin = i;
		*at = end;
		*out = (uint32_t)value;
		return true;
	}
	return false;
}

/* Of one expert: "experts.5.w1.weight", "ffn_gate.5.weight"; of all, by slices:
 * "ffn_gate_exps.weight", "experts.gate_up_proj". */
static void find_expert(mfs_order_name *out, struct text rest)
{
	size_t at = 0, begin;
	bool ffn = out->role >= MFS_ROLE_FFN_GATE && out->role <= MFS_ROLE_FFN_DOWN;

	if (!ffn || contains(rest, "shexp") || contains(rest, "shared_expert"))
		return;
	out->experts = contains(rest, "exps") || contains(rest, "experts.");
	if ((out->experts || contains(rest, "ffn_")) &&
	    find_number(rest, &at, &begin, &out->expert))
		out->experts = true;
}

static bool is_encoder(struct text stack)
{
	return contains(stack, "enc.") || contains(stack, "encoder") || contains(stack, "vision") ||
	       (stack.length > 1 && stack.at[0] == 'v' && stack.at[1] == '.');
}

static void parse_name(mfs_order_name *out, const char *name, uint16_t length)
{
	struct text text = {name, length};
	size_t at = 0, begin;

	*out = (mfs_order_name){.layer = MFS_ORDER_NONE, .expert = MFS_ORDER_NONE};
	if (!find_number(text, &at, &begin, &out->layer)) {
		out->role = find_role(model_rules, COUNT(model_rules), text, MFS_ROLE_INPUT);
		if (out->role == MFS_ROLE_INPUT && length > 5 && !memcmp(name, "norm.", 5))
			out->role = MFS_ROLE_OUTPUT_NORM;
		return;
	}
	out->stack = (uint32_t)begin;
	out->encoder = is_encoder((struct text){name, begin});
	out->role = find_role(layer_rules, COUNT(layer_rules),
			      (struct text){name + at, length - at}, MFS_ROLE_OTHER);
	find_expert(out, (struct text){name + at, length - at});
}

/* ---- the order ---- */

struct mfs_order {
	uint32_t count;
	mfs_order_tensor *tensors;
	mfs_order_name *names;
	uint32_t *stack_first; /* the first tensor of the same stack: stacks are told by it */
	bool *whole;
	uint32_t *sequence;
	uint32_t *position; /* of a tensor in the sequence */
};

/* Before the layers, in them, behind them. */
static unsigned section(const mfs_order_name *n)
{
	if (n->layer != MFS_ORDER_NONE)
		return n->encoder ? 0 : 2;
	return n->role == MFS_ROLE_EMBEDDING || n->role == MFS_ROLE_INPUT ? 1 : 3;
}

static int compare(uint64_t a, uint64_t b)
{
	return a < b ? -1 : a > b;
}

static int compare_tensors(const void *x, const void *y, void *user)
{
	const mfs_order *o = user;
	uint32_t i = *(const uint32_t *)x, k = *(const uint32_t *)y;
	const mfs_order_name *a = &o->names[i], *b = &o->names[k];
	int c = compare(o->tensors[i].model, o->tensors[k].model);

	c = c ? c : compare(section(a), section(b));
	c = c ? c : compare(o->stack_first[i], o->stack_first[k]);
	if (a->layer != MFS_ORDER_NONE)
		c = c ? c : compare(a->layer, b->layer);
	/* Experts behind all that each token takes of their layer; the parts of one
	 * together. */
	c = c ? c : compare(a->experts, b->experts);
	c = c ? c : compare(a->expert, b->expert);
	c = c ? c : compare(a->role, b->role);
	return c ? c : compare(i, k);
}

static bool same_stack(const mfs_order *o, uint32_t a, uint32_t b)
{
	return o->tensors[a].model == o->tensors[b].model &&
	       section(&o->names[a]) == section(&o->names[b]) &&
	       o->names[a].stack == o->names[b].stack &&
	       !memcmp(o->tensors[a].name, o->tensors[b].name, o->names[a].stack);
}

/* The stacks of a model are few, and its tensors follow each other: a search
 * among the stacks seen last ends soon. Hostile names may make as many stacks as
 * there are tensors; past this many they count as one. */
#define STACKS_SEEN 32

static void find_stacks(mfs_order *o)
{
	uint32_t seen[STACKS_SEEN];
	unsigned count = 0;

	for (uint32_t i = 0; i < o->count; i++) {
		unsigned k = 0;

		if (i && o->tensors[i].model != o->tensors[i - 1].model)
			count = 0;
		while (k < count && !same_stack(o, seen[k], i))
			k++;
		if (k == count && count < STACKS_SEEN)
			seen[count++] = i;
		o->stack_first[i] = seen[k < count ? k : count - 1];
	}
}

/* A model without an output tensor multiplies with its token embedding again. */
static void tie_outputs(mfs_order *o)
{
	uint32_t begin = 0;

	while (begin < o->count) {
		uint32_t end = begin, largest = MFS_ORDER_NONE;
		bool output = false;

		for (; end < o->count && o->tensors[end].model == o->tensors[begin].model; end++) {
			mfs_role role = o->names[end].role;

			output = output || role == MFS_ROLE_OUTPUT;
			if (role == MFS_ROLE_EMBEDDING &&
			    (largest == MFS_ORDER_NONE ||
			     o->tensors[end].size > o->tensors[largest].size))
				largest = end;
		}
		if (!output && largest != MFS_ORDER_NONE)
			o->names[largest].role = MFS_ROLE_OUTPUT;
		begin = end;
	}
}

static bool allocate(mfs_order *o, const mfs_order_tensor tensors[], uint32_t count)
{
	size_t n = (size_t)count + 1;

	o->count = count;
	o->tensors = calloc(n, sizeof(*o->tensors));
	o->names = calloc(n, sizeof(*o->names));
	o->stack_first = calloc(n, sizeof(*o->stack_first));
	o->whole = calloc(n, sizeof(*o->whole));
	o->sequence = calloc(n, sizeof(*o->sequence));
	o->position = calloc(n, sizeof(*o->position));
	if (!o->tensors || !o->names || !o->stack_first || !o->whole || !o->sequence ||
	    !o->position)
		return false;
	if (count)
		memcpy(o->tensors, tensors, count * sizeof(*tensors));
	return true;
}

int mfs_order_new(mfs_order **out, const mfs_order_tensor tensors[], uint32_t count)
{
	mfs_order *o = calloc(1, sizeof(*o));

	if (!o || !allocate(o, tensors, count)) {
		mfs_order_free(o);
		return MFS_E_MEMORY;
	}
	for (uint32_t i = 0; i < count; i++) {
		parse_name(&o->names[i], tensors[i].name, tensors[i].length);
		o->sequence[i] = i;
	}
	tie_outputs(o);
	find_stacks(o);
	for (uint32_t i = 0; i < count; i++)
		o->whole[i] = o->names[i].role != MFS_ROLE_EMBEDDING && !o->names[i].experts;
	qsort_r(o->sequence, count, sizeof(*o->sequence), compare_tensors, o);
	for (uint32_t i = 0; i < count; i++)
		o->position[o->sequence[i]] = i;
	*out = o;
	return 0;
}

void mfs_order_free(mfs_order *o)
{
	if (!o)
		return;
	free(o->tensors);
	free(o->names);
	free(o->stack_first);
	free(o->whole);
	free(o->sequence);
	free(o->position);
	free(o);
}

const uint32_t *mfs_order_sequence(const mfs_order *o)
{
	return o->sequence;
}

const mfs_order_name *mfs_order_name_of(const mfs_order *o, uint32_t tensor)
{
	return &o->names[tensor];
}

bool mfs_order_whole(const mfs_order *o, uint32_t tensor)
{
	return o->whole[tensor];
}

/* ---- experts ---- */

static bool same_layer(const mfs_order *o, uint32_t a, uint32_t b)
{
	return o->tensors[a].model == o->tensors[b].model &&
	       o->stack_first[a] == o->stack_first[b] && o->names[a].layer == o->names[b].layer;
}

static uint64_t slices(const mfs_order_tensor *t)
{
	return t->slice_bytes ? t->size / t->slice_bytes : 1;
}

/* True if `other` holds a part of the same expert: a tensor of its own, or a
 * slice of as many. */
static bool is_sister(const mfs_order *o, uint32_t tensor, uint32_t other)
{
	return o->names[other].experts && o->names[other].expert == o->names[tensor].expert &&
	       slices(&o->tensors[other]) == slices(&o->tensors[tensor]);
}

unsigned mfs_order_expert(const mfs_order *o, uint32_t tensor, uint64_t offset,
			  mfs_order_part parts[MFS_ORDER_PARTS_MAX])
{
	uint64_t slice_bytes = o->tensors[tensor].slice_bytes;
	uint32_t i = o->position[tensor];
	unsigned n = 0;
	uint64_t slice;

	if (!o->names[tensor].experts || !slice_bytes)
		return 0;
	slice = offset / slice_bytes;
	/* Parts of one expert follow each other in the sequence. */
	while (i && same_layer(o, tensor, o->sequence[i - 1]) &&
	       is_sister(o, tensor, o->sequence[i - 1]))
		i--;
	for (; i < o->count && n < MFS_ORDER_PARTS_MAX; i++) {
		uint32_t other = o->sequence[i];
		uint64_t bytes = o->tensors[other].slice_bytes;

		if (!same_layer(o, tensor, other) || !is_sister(o, tensor, other))
			break;
		parts[n++] = (mfs_order_part){other, slice * bytes, (slice + 1) * bytes};
	}
	return n;
}
