/*
 * mkllama: writes a runnable GGUF model of the `llama` architecture with random
 * weights and a small tokenizer of its own, and LoRA adapters for it. The same
 * options give the same bytes on every machine. Memory stays under a few
 * megabytes, apart from the header's, whatever the size.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gguf_writer.h"
#include "quantize.h"
#include "random_weights.h"

#define ALIGNMENT 32
#define OUT_BYTES (1u << 20)

static void fail(const char *what, const char *why)
{
	fprintf(stderr, "mkllama: %s: %s\n", what, why);
	exit(1);
}

static void *allocate(size_t bytes)
{
	void *p = calloc(1, bytes);

	if (!p)
		fail("memory", strerror(errno));
	return p;
}

/* ---- types ---- */

static void encode_q4_k(const float *in, size_t count, uint8_t *out)
{
	bench_quantize(12, in, count, out);
}

static void encode_q6_k(const float *in, size_t count, uint8_t *out)
{
	bench_quantize(14, in, count, out);
}

/* What llama-quantize calls Q4_K_M: most tensors of the first type, some of the
 * second; quantized from weights, not random blocks. */
static const struct type mixture[] = {
    {"Q4_K_M", 12, 144, 256, encode_q4_k, REPAIR_HALVES, {0, 2}, 15},
    {"Q6_K", 14, 210, 256, encode_q6_k, REPAIR_HALVES, {208, -1}, 15},
};

/* A type by its name; a number: one that nobody knows, a byte for each weight. */
static const struct type *find_type(const char *name)
{
	static struct type made_up;
	char *end;
	unsigned long id;

	if (!strcmp(mixture[0].name, name))
		return &mixture[0];
	for (size_t i = 0; i < TYPES; i++)
		if (!strcmp(types[i].name, name))
			return &types[i];
	id = strtoul(name, &end, 10);
	if (!*name || *end || id > UINT32_MAX)
		fail(name, "no such type");
	for (size_t i = 0; i < TYPES; i++)
		if (types[i].id == id)
			return &types[i];
	made_up = (struct type){name, (uint32_t)id, 1, 1, NULL, REPAIR_NONE, {-1, -1}, 0};
	return &made_up;
}

/* ---- the model ---- */

struct options {
	const struct type *type;
	uint64_t dim, layers, ffn, vocab, heads, kv_heads, size, seed, experts, extra, rank, shards;
	enum distribution dist;
	bool bf16_origin, big, sorted;
	float tune;
	const char *lora, *path;
};

struct tensor {
	char name[64];
	uint32_t dim_count;
	uint64_t dims[3];
	const struct type *type;
	float mean, deviation;
	uint64_t quiet_rows; /* the first rows are near zero: tokens never to be chosen */
	uint64_t seed;
};

struct plan {
	const struct options *o;
	struct tensor *tensors;
	size_t count, capacity;
	uint64_t next_seed;
};

static uint64_t tensor_elements(const struct tensor *t)
{
	uint64_t n = 1;

	for (uint32_t i = 0; i < t->dim_count; i++)
		n *= t->dims[i];
	return n;
}

static uint64_t tensor_bytes(const struct tensor *t)
{
	return tensor_elements(t) / t->type->block_weights * t->type->block_bytes;
}

static uint64_t padded(uint64_t bytes)
{
	return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* 1 / sqrt(n), by Newton: sqrt() of a C library may differ, this does not. */
static float inverse_root(uint64_t n)
{
	double x = (double)n, y = x;

	for (int i = 0; i < 64; i++)
		y = (y + x / y) / 2;
	return (float)(1 / y);
}

/* Norms are floats, as in every real model. Weights keep the variance of what
 * they multiply, so that nothing overflows however many layers there are. */
static struct tensor *add_tensor(struct plan *p, const struct type *type, uint32_t dim_count,
				 uint64_t d0, uint64_t d1, uint64_t d2)
{
	struct tensor *t;

	if (p->count == p->capacity) {
		p->capacity = 2 * p->capacity + 64;
		p->tensors = realloc(p->tensors, p->capacity * sizeof(*p->tensors));
		if (!p->tensors)
			fail("memory", strerror(errno));
	}
	t = &p->tensors[p->count++];
	*t = (struct tensor){.dim_count = dim_count, .dims = {d0, d1, d2}, .type = type};
	t->deviation = inverse_root(d0);
	t->seed = next_random(&p->next_seed);
	return t;
}

static void add_norm(struct plan *p, const char *name)
{
	struct tensor *t = add_tensor(p, &types[0], 1, p->o->dim, 0, 0);

	snprintf(t->name, sizeof(t->name), "%s.weight", name);
	t->mean = 1;
	t->deviation = 0.1f;
}

static void add_layer_norm(struct plan *p, uint64_t layer, const char *name)
{
	char text[48];

	snprintf(text, sizeof(text), "blk.%" PRIu64 ".%s", layer, name);
	add_norm(p, text);
}

/* In a mixture, attn_v and ffn_down of the first and last eighth of the layers
 * and of every third one between get more bits. */
static bool has_more_bits(const struct options *o, uint64_t layer, const char *name)
{
	uint64_t eighth = o->layers / 8;

	if (o->type != &mixture[0] || (strcmp(name, "attn_v") && strcmp(name, "ffn_down")))
		return false;
	return layer < eighth || layer >= 7 * o->layers / 8 || (layer - eighth) % 3 == 2;
}

static void add_matrix(struct plan *p, uint64_t layer, const char *name, uint64_t in, uint64_t out)
{
	const struct type *type = has_more_bits(p->o, layer, name) ? &mixture[1] : p->o->type;
	struct tensor *t = add_tensor(p, type, 2, in, out, 0);

	snprintf(t->name, sizeof(t->name), "blk.%" PRIu64 ".%s.weight", layer, name);
}

static void add_experts(struct plan *p, uint64_t layer, const char *name, uint64_t in, uint64_t out)
{
	const struct type *type = has_more_bits(p->o, layer, name) ? &mixture[1] : p->o->type;
	struct tensor *t = add_tensor(p, type, 3, in, out, p->o->experts);

	snprintf(t->name, sizeof(t->name), "blk.%" PRIu64 ".%s_exps.weight", layer, name);
}

static void add_ffn(struct plan *p, uint64_t layer)
{
	const struct options *o = p->o;

	if (!o->experts) {
		add_matrix(p, layer, "ffn_gate", o->dim, o->ffn);
		add_matrix(p, layer, "ffn_up", o->dim, o->ffn);
		add_matrix(p, layer, "ffn_down", o->ffn, o->dim);
		return;
	}
	add_matrix(p, layer, "ffn_gate_inp", o->dim, o->experts);
	p->tensors[p->count - 1].type = &types[0];
	add_experts(p, layer, "ffn_gate", o->dim, o->ffn);
	add_experts(p, layer, "ffn_up", o->dim, o->ffn);
	add_experts(p, layer, "ffn_down", o->ffn, o->dim);
}

#define FIRST_PIECE 259 /* tokens before it: <unk>, <s>, </s>, 256 bytes */
#define FIRST_WORD  (FIRST_PIECE + 95)

/* The output first, then the rest as it was, but each layer by names: as files
 * from llama-quantize are. Layers lie together already. */
static int compare_quantized(const void *a, const void *b)
{
	const struct tensor *x = a, *y = b;
	bool first_x = !strcmp(x->name, "output.weight"),
	     first_y = !strcmp(y->name, "output.weight");
	int layer_x = -1, layer_y = -1;

	if (first_x != first_y)
		return first_x ? -1 : 1;
	sscanf(x->name, "blk.%d.", &layer_x);
	sscanf(y->name, "blk.%d.", &layer_y);
	return layer_x != layer_y ? layer_x - layer_y : strcmp(x->name, y->name);
}

static void plan_model(struct plan *p)
{
	const struct options *o = p->o;
	uint64_t kv_dim = o->dim / o->heads * o->kv_heads;
	struct tensor *t = add_tensor(p, o->type, 2, o->dim, o->vocab, 0);

	snprintf(t->name, sizeof(t->name), "token_embd.weight");
	t->deviation = 1;
	for (uint64_t i = 0; i < o->layers; i++) {
		add_layer_norm(p, i, "attn_norm");
		add_matrix(p, i, "attn_q", o->dim, o->dim);
		add_matrix(p, i, "attn_k", o->dim, kv_dim);
		add_matrix(p, i, "attn_v", o->dim, kv_dim);
		add_matrix(p, i, "attn_output", o->dim, o->dim);
		add_layer_norm(p, i, "ffn_norm");
		add_ffn(p, i);
	}
	add_norm(p, "output_norm");
	t = add_tensor(p, o->type == &mixture[0] ? &mixture[1] : o->type, 2, o->dim, o->vocab, 0);
	snprintf(t->name, sizeof(t->name), "output.weight");
	/* Well apart, so that the choice does not hang on rounding. */
	t->deviation *= 4;
	t->quiet_rows = o->vocab < FIRST_WORD + 32 ? FIRST_PIECE : FIRST_WORD;
	for (uint64_t i = 0; i < o->extra; i++) {
		t = add_tensor(p, &types[0], 1, i % 7 + 1, 0, 0);
		snprintf(t->name, sizeof(t->name), "extra.%06" PRIu64 ".weight", i);
	}
	if (o->sorted)
		qsort(p->tensors, p->count, sizeof(*p->tensors), compare_quantized);
}

static void plan_lora(struct plan *p)
{
	static const char *const targets[] = {"attn_q", "attn_v", "ffn_down"};
	const struct options *o = p->o;
	uint64_t in[3] = {o->dim, o->dim, o->ffn};
	uint64_t out[3] = {o->dim, o->dim / o->heads * o->kv_heads, o->dim};
	int count = o->experts ? 2 : 3;

	for (uint64_t i = 0; i < o->layers; i++)
		for (int k = 0; k < count; k++) {
			struct tensor *t = add_tensor(p, &types[0], 2, in[k], o->rank, 0);

			snprintf(t->name, sizeof(t->name), "blk.%" PRIu64 ".%s.weight.lora_a", i,
				 targets[k]);
			t = add_tensor(p, &types[0], 2, o->rank, out[k], 0);
			snprintf(t->name, sizeof(t->name), "blk.%" PRIu64 ".%s.weight.lora_b", i,
				 targets[k]);
			t->deviation *= 0.5f;
		}
}

/* ---- key-values ---- */

/* Pieces after the byte tokens: the space, printable ASCII, then words of
 * syllables with and without a space before them. All differ. */
static void make_piece(uint64_t n, char out[32])
{
	static const char consonants[] = "bcdfghjklmnpqrstvwxz", vowels[] = "aeiou";
	const char *space = "\xe2\x96\x81"; /* U+2581, as sentencepiece writes it */
	uint64_t word;
	char *p = out;

	if (n == 0 || n > 94) {
		if (n == 0 || n % 2)
			p = stpcpy(p, space);
		word = n ? (n - 95) / 2 + 1 : 0;
		for (; word; word = (word - 1) / 100) {
			*p++ = consonants[(word - 1) % 100 / 5];
			*p++ = vowels[(word - 1) % 5];
		}
	} else {
		*p++ = (char)('!' + n - 1);
	}
	*p = 0;
}

static void make_token(uint64_t id, char out[32])
{
	static const char *const special[] = {"<unk>", "<s>", "</s>"};

	if (id < 3)
		snprintf(out, 32, "%s", special[id]);
	else if (id < FIRST_PIECE)
		snprintf(out, 32, "<0x%02X>", (unsigned)(id - 3));
	else
		make_piece(id - FIRST_PIECE, out);
}

/* Counts key-values as they are written, for the head of the file. */
struct kvs {
	struct gw w;
	uint64_t count;
};

#define KV(kvs, kind, ...) ((kvs)->count++, gw_kv_##kind(&(kvs)->w, __VA_ARGS__))

static void write_tokenizer(struct kvs *k, uint64_t vocab)
{
	char token[32];

	KV(k, string, "tokenizer.ggml.model", "llama");
	KV(k, array, "tokenizer.ggml.tokens", GW_STRING, vocab);
	for (uint64_t i = 0; i < vocab; i++) {
		make_token(i, token);
		gw_string(&k->w, token);
	}
	KV(k, array, "tokenizer.ggml.scores", GW_FLOAT32, vocab);
	for (uint64_t i = 0; i < vocab; i++)
		gw_f32(&k->w, -(float)i);
	KV(k, array, "tokenizer.ggml.token_type", GW_INT32, vocab);
	for (uint64_t i = 0; i < vocab; i++)
		gw_u32(&k->w, i == 0 ? 2 : i < 3 ? 3 : i < FIRST_PIECE ? 6 : 1);
	KV(k, u32, "tokenizer.ggml.bos_token_id", 1);
	KV(k, u32, "tokenizer.ggml.eos_token_id", 2);
	KV(k, u32, "tokenizer.ggml.unknown_token_id", 0);
	KV(k, bool, "tokenizer.ggml.add_bos_token", true);
	KV(k, bool, "tokenizer.ggml.add_eos_token", false);
}

static void write_model_kvs(struct kvs *k, const struct options *o)
{
	KV(k, string, "general.architecture", "llama");
	KV(k, string, "general.type", "model");
	KV(k, string, "general.name", "mkllama random weights");
	KV(k, u32, "general.file_type", o->type->file_type);
	KV(k, u32, "llama.context_length", 2048);
	KV(k, u32, "llama.embedding_length", (uint32_t)o->dim);
	KV(k, u32, "llama.block_count", (uint32_t)o->layers);
	KV(k, u32, "llama.feed_forward_length", (uint32_t)o->ffn);
	KV(k, u32, "llama.attention.head_count", (uint32_t)o->heads);
	KV(k, u32, "llama.attention.head_count_kv", (uint32_t)o->kv_heads);
	KV(k, f32, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
	KV(k, u32, "llama.rope.dimension_count", (uint32_t)(o->dim / o->heads));
	KV(k, u32, "llama.vocab_size", (uint32_t)o->vocab);
	if (o->experts) {
		KV(k, u32, "llama.expert_count", (uint32_t)o->experts);
		KV(k, u32, "llama.expert_used_count", o->experts < 2 ? 1 : 2);
	}
	write_tokenizer(k, o->vocab);
}

static void write_lora_kvs(struct kvs *k, const struct options *o)
{
	KV(k, string, "general.type", "adapter");
	KV(k, string, "general.architecture", "llama");
	KV(k, string, "general.name", "mkllama random adapter");
	KV(k, string, "adapter.type", "lora");
	KV(k, f32, "adapter.lora.alpha", 2 * (float)o->rank);
}

static void write_split_kvs(struct kvs *k, uint64_t number, uint64_t count, uint64_t tensors)
{
	k->count += 3;
	gw_string(&k->w, "split.no");
	gw_u32(&k->w, GW_UINT16);
	gw_int(&k->w, number, 2);
	gw_string(&k->w, "split.count");
	gw_u32(&k->w, GW_UINT16);
	gw_int(&k->w, count, 2);
	gw_string(&k->w, "split.tensors.count");
	gw_u32(&k->w, GW_INT32);
	gw_u32(&k->w, (uint32_t)tensors);
}

/* ---- writing ---- */

struct sink {
	FILE *file;
	const char *path;
	size_t used;
	uint8_t *buffer; /* OUT_BYTES */
};

static void sink_flush(struct sink *s)
{
	if (fwrite(s->buffer, 1, s->used, s->file) != s->used)
		fail(s->path, strerror(errno));
	s->used = 0;
}

/* Room for one batch of any type. */
static uint8_t *sink_room(struct sink *s)
{
	if (OUT_BYTES - s->used < BATCH * 8)
		sink_flush(s);
	return s->buffer + s->used;
}

/* What training on has changed, as a share of the weights' deviation. */
static void tune_batch(const struct options *o, uint64_t seed, float *w, size_t count, float scale)
{
	uint64_t state = ~seed;
	float change[BATCH + 1];

	make_samples(&state, change, count);
	for (size_t i = 0; i < count; i++)
		w[i] += o->tune * scale * change[i];
}

static void make_batch(const struct options *o, const struct tensor *t, uint64_t first,
		       size_t count, uint64_t *state, uint8_t *out)
{
	float w[BATCH + 1];
	float scale = t->deviation;
	uint64_t seed = *state;

	if (!t->type->encode) {
		random_blocks(t->type, state, count, out);
	} else {
		if (first < t->quiet_rows * t->dims[0])
			scale *= 0.01f;
		make_samples(state, w, count);
		for (size_t i = 0; i < count; i++)
			w[i] = t->mean + w[i] * scale;
		if (o->tune != 0 && t->dim_count > 1)
			tune_batch(o, seed, w, count, scale);
		if (o->bf16_origin)
			for (size_t i = 0; i < count; i++)
				w[i] = bits_float(to_bf16(w[i]) << 16);
		t->type->encode(w, count, out);
	}
	if (o->big)
		swap_blocks(t->type, count, out);
}

static void write_tensor(struct sink *s, const struct options *o, const struct tensor *t)
{
	uint64_t elements = tensor_elements(t), state = t->seed;
	uint64_t bytes = tensor_bytes(t);

	for (uint64_t first = 0; first < elements; first += BATCH) {
		size_t count = elements - first < BATCH ? (size_t)(elements - first) : BATCH;
		uint8_t *out = sink_room(s);

		make_batch(o, t, first, count, &state, out);
		s->used += count / t->type->block_weights * t->type->block_bytes;
	}
	memset(sink_room(s), 0, (size_t)(padded(bytes) - bytes));
	s->used += (size_t)(padded(bytes) - bytes);
}

/* One file: the key-values as they are, and a run of the tensors. */
static void write_file(const char *path, const struct options *o, const struct kvs *kvs,
		       const struct tensor *tensors, size_t count)
{
	struct sink s = {.path = path, .buffer = allocate(OUT_BYTES), .file = fopen(path, "wb")};
	struct gw w = {.big = o->big};
	uint64_t offset = 0;

	if (!s.file)
		fail(path, strerror(errno));
	setvbuf(s.file, NULL, _IONBF, 0);
	gw_head(&w, 3, count, kvs->count);
	gw_bytes(&w, kvs->w.bytes, kvs->w.size);
	for (size_t i = 0; i < count; i++) {
		gw_tensor(&w, tensors[i].name, tensors[i].dim_count, tensors[i].dims,
			  tensors[i].type->id, offset);
		offset += padded(tensor_bytes(&tensors[i]));
	}
	gw_align(&w, ALIGNMENT, 0);
	if (fwrite(w.bytes, 1, w.size, s.file) != w.size)
		fail(path, strerror(errno));
	gw_free(&w);
	for (size_t i = 0; i < count; i++)
		write_tensor(&s, o, &tensors[i]);
	sink_flush(&s);
	if (fclose(s.file))
		fail(path, strerror(errno));
	free(s.buffer);
}

/* NAME.gguf -> NAME-00001-of-00003.gguf */
static void shard_path(char *out, size_t size, const char *path, uint64_t number, uint64_t count)
{
	size_t length = strlen(path);

	if (length > 5 && !strcmp(path + length - 5, ".gguf"))
		length -= 5;
	if (snprintf(out, size, "%.*s-%05" PRIu64 "-of-%05" PRIu64 ".gguf", (int)length, path,
		     number + 1, count) >= (int)size)
		fail(path, "name too long");
}

/* About the same bytes in each file; all of the model's key-values in the first. */
static void write_shards(const struct options *o, const struct plan *p)
{
	uint64_t total = 0, done = 0;
	char path[PATH_MAX];
	size_t first = 0;

	for (size_t i = 0; i < p->count; i++)
		total += tensor_bytes(&p->tensors[i]);
	for (uint64_t n = 0; n < o->shards; n++) {
		struct kvs kvs = {.w.big = o->big};
		size_t end = first;

		for (; end < p->count && done < total / o->shards * (n + 1); end++)
			done += tensor_bytes(&p->tensors[end]);
		if (n + 1 == o->shards)
			end = p->count;
		if (n == 0)
			write_model_kvs(&kvs, o);
		write_split_kvs(&kvs, n, o->shards, p->count);
		shard_path(path, sizeof(path), o->path, n, o->shards);
		write_file(path, o, &kvs, p->tensors + first, end - first);
		gw_free(&kvs.w);
		first = end;
	}
}

static void write_model(const struct options *o)
{
	struct plan p = {.o = o, .next_seed = o->seed};
	struct kvs kvs = {.w.big = o->big};

	plan_model(&p);
	if (o->shards) {
		write_shards(o, &p);
	} else {
		write_model_kvs(&kvs, o);
		write_file(o->path, o, &kvs, p.tensors, p.count);
	}
	gw_free(&kvs.w);
	free(p.tensors);
}

static void write_lora(const struct options *o)
{
	struct plan p = {.o = o, .next_seed = ~o->seed};
	struct kvs kvs = {.w.big = o->big};

	plan_lora(&p);
	write_lora_kvs(&kvs, o);
	write_file(o->lora, o, &kvs, p.tensors, p.count);
	gw_free(&kvs.w);
	free(p.tensors);
}

/* ---- reaching a size ---- */

static uint64_t file_bytes(const struct options *o)
{
	struct plan p = {.o = o};
	struct kvs kvs = {0};
	uint64_t bytes = 24;

	write_model_kvs(&kvs, o);
	bytes += kvs.w.size;
	gw_free(&kvs.w);
	plan_model(&p);
	for (size_t i = 0; i < p.count; i++)
		bytes += padded(tensor_bytes(&p.tensors[i])) + strlen(p.tensors[i].name) + 24 +
			 8 * p.tensors[i].dim_count;
	free(p.tensors);
	return padded(bytes);
}

/* Widths grow until few enough layers make up the size; the vocabulary takes
 * the rest, as it can have any number of tokens. */
static void fit_size(struct options *o)
{
	static const uint64_t widths[] = {256, 512, 1024, 2048, 4096, 8192};
	uint64_t one, two, row;

	o->vocab = o->size < (64u << 20) ? 512 : 4096;
	for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++) {
		o->dim = widths[i];
		o->ffn = (o->dim * 11 / 4 + 255) / 256 * 256;
		o->heads = o->kv_heads = o->dim / 64;
		o->layers = 1;
		one = file_bytes(o);
		o->layers = 2;
		two = file_bytes(o);
		o->layers = o->size > two ? 2 + (o->size - two) / (two - one) : 1;
		if (o->layers <= 40)
			break;
	}
	one = file_bytes(o);
	o->vocab++;
	/* An average, as alignment takes part. */
	o->vocab += 63;
	row = (file_bytes(o) - one) / 64;
	o->vocab -= 64;
	if (o->size > one)
		o->vocab += (o->size - one) / row;
}

/* ---- command line ---- */

static const char usage[] =
    "usage: mkllama [OPTIONS] FILE\n"
    "Writes a runnable llama-architecture GGUF model with random weights.\n"
    "  --type T        F32 F16 BF16 Q8_0 Q4_0, and Q4_K_M, a mixture of Q4_K and Q6_K:\n"
    "                  real weights; any other ggml type or a number: valid random\n"
    "                  blocks (default F32)\n"
    "  --dim N --layers N --ffn N --vocab N --heads N --kv-heads N\n"
    "                  shape (default 256, 4, 512, 512, 4, heads); dim and ffn are\n"
    "                  multiples of 256, vocab at least 354\n"
    "  --size BYTES    choose the shape to come close to this size (suffixes K M G, of\n"
    "                  1024); sizes that are too small give the smallest model\n"
    "  --experts N     mixture of N experts: 3-D tensors\n"
    "  --tensors N     N more tiny tensors (the model no longer loads)\n"
    "  --seed N        default 1\n"
    "  --dist D        gauss or t5 (heavy tails)\n"
    "  --bf16-origin   round the weights to bfloat16 first\n"
    "  --tune X        the same model trained on: noise of X times the deviation\n"
    "  --be            big-endian\n"
    "  --sorted        tensors in the order that llama-quantize gives them\n"
    "  --shards N      split into N files, FILE-00001-of-0000N.gguf\n"
    "  --lora FILE     also write a LoRA adapter for the model\n"
    "  --rank N        of the adapter (default 8)\n";

static void misuse(const char *what, const char *why)
{
	fprintf(stderr, "mkllama: %s: %s\n%s", what, why, usage);
	exit(2);
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t n, unit = 1;

	errno = 0;
	n = strtoull(text, &end, 10);
	if (*end == 'K' || *end == 'M' || *end == 'G')
		unit = UINT64_C(1) << (*end == 'K' ? 10 : *end == 'M' ? 20 : 30), end++;
	if (errno || end == text || *end || *text == '-' || n > (UINT64_C(1) << 50) / unit)
		misuse(text, "not a number");
	return n * unit;
}

enum {
	OPT_TYPE = 256,
	OPT_DIST,
	OPT_BF16,
	OPT_BE,
	OPT_SORTED,
	OPT_LORA,
	OPT_TUNE,
	OPT_HELP,
	OPT_NUMBERS
};

static const char *const number_names[] = {"dim",     "layers",	  "ffn",  "vocab",
					   "heads",   "kv-heads", "size", "experts",
					   "tensors", "seed",	  "rank", "shards"};
#define NUMBERS (sizeof(number_names) / sizeof(number_names[0]))

static void set_option(struct options *o, int option)
{
	uint64_t *numbers[NUMBERS] = {&o->dim,	 &o->layers,   &o->ffn,	 &o->vocab,
				      &o->heads, &o->kv_heads, &o->size, &o->experts,
				      &o->extra, &o->seed,     &o->rank, &o->shards};

	switch (option) {
	case OPT_TYPE:
		o->type = find_type(optarg);
		break;
	case OPT_DIST:
		if (strcmp(optarg, "gauss") && strcmp(optarg, "t5"))
			misuse(optarg, "no such distribution");
		o->dist = *optarg == 't' ? DIST_T5 : DIST_GAUSS;
		break;
	case OPT_BF16:
		o->bf16_origin = true;
		break;
	case OPT_TUNE:
		o->tune = strtof(optarg, NULL);
		break;
	case OPT_BE:
		o->big = true;
		break;
	case OPT_SORTED:
		o->sorted = true;
		break;
	case OPT_LORA:
		o->lora = optarg;
		break;
	case OPT_HELP:
		fputs(usage, stdout);
		exit(0);
	default:
		if (option < OPT_NUMBERS)
			misuse("options", "see below");
		*numbers[option - OPT_NUMBERS] = number(optarg);
	}
}

static void check_options(struct options *o)
{
	if (o->size)
		fit_size(o);
	if (!o->kv_heads)
		o->kv_heads = o->heads;
	if (!o->dim || !o->ffn || o->dim % 256 || o->ffn % 256)
		misuse("--dim, --ffn", "must be multiples of 256");
	if (!o->heads || o->dim % (2 * o->heads) || !o->kv_heads || o->heads % o->kv_heads)
		misuse("--heads", "must divide --dim into even parts, --kv-heads --heads");
	if (o->vocab < FIRST_WORD || o->vocab > 1 << 24)
		misuse("--vocab", "must be 354 to 16777216");
	if (!o->layers || o->layers > 10000 || o->dim > 1 << 20 || o->ffn > 1 << 20)
		misuse("--layers, --dim, --ffn", "out of range");
	if (o->experts > 1024 || o->extra > 10000000 || o->shards > 1000)
		misuse("--experts, --tensors, --shards", "out of range");
	if (!o->rank || o->rank > o->dim)
		misuse("--rank", "must be 1 to --dim");
}

int main(int argc, char **argv)
{
	struct options o = {.type = &types[0],
			    .dim = 256,
			    .layers = 4,
			    .ffn = 512,
			    .vocab = 512,
			    .heads = 4,
			    .seed = 1,
			    .rank = 8};
	struct option table[8 + NUMBERS + 1] = {{"type", required_argument, NULL, OPT_TYPE},
						{"dist", required_argument, NULL, OPT_DIST},
						{"bf16-origin", no_argument, NULL, OPT_BF16},
						{"be", no_argument, NULL, OPT_BE},
						{"sorted", no_argument, NULL, OPT_SORTED},
						{"lora", required_argument, NULL, OPT_LORA},
						{"tune", required_argument, NULL, OPT_TUNE},
						{"help", no_argument, NULL, OPT_HELP}};
	int option;

	for (size_t i = 0; i < NUMBERS; i++)
		table[8 + i] =
		    (struct option){number_names[i], required_argument, NULL, OPT_NUMBERS + (int)i};
	while ((option = getopt_long(argc, argv, "", table, NULL)) != -1)
		set_option(&o, option);
	if (argc - optind != 1)
		misuse("FILE", "exactly one is needed");
	o.path = argv[optind];
	check_options(&o);
	make_quantiles(o.dist);
	write_model(&o);
	if (o.lora)
		write_lora(&o);
	return 0;
}
