#include "import_peft.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../format/check.h"
#include "../../format/dequant.h"
#include "../../format/mfs_endian.h"
#include "peft_config.h"
#include "peft_keys.h"
#include "problem.h"

#define MATRICES_MAX  32768u
#define MATRIX_MAX    (1u << 30) /* bytes of one that has to be rearranged */
#define NAME_MAX_GGUF 64
#define TENSOR_MAX    40 /* of a name without ".weight" and what follows */
#define MODULE_MAX    256
#define ALIGNMENT     32

/* How the rows of a matrix of the model lie in GGUF. */
enum rows { ROWS_SAME, ROWS_Q, ROWS_K };

enum change { CHANGE_NONE, CHANGE_PERMUTE, CHANGE_TRANSPOSE };

/* A tensor of the GGUF file. */
struct matrix {
	char name[NAME_MAX_GGUF];
	char matrix; /* as in a key: 'a', 'b' or 'm' */
	const mfs_import_tensor *from;
	enum change change;
	uint32_t heads; /* for CHANGE_PERMUTE */
	float factor;	/* 1: the numbers stay as they are; else they become F32 */
	uint32_t type;	/* ggml's */
	uint64_t offset, size;
	/* Of gains, which come from magnitudes: the pair, and the tensor of the base. */
	const struct matrix *a, *b;
	uint32_t target;
};

struct mfs_peft {
	char *path; /* of adapter_model.safetensors */
	mfs_source file;
	mfs_import import;
	mfs_peft_config config;
	mfs_base_model base;
	struct matrix *matrices;
	uint32_t count;
	uint8_t *head;
	size_t head_size;
	/* The matrix that was rearranged last. The lock guards these three. */
	pthread_mutex_t lock;
	const struct matrix *held;
	uint8_t *bytes;
};

struct opening {
	mfs_peft *peft;
	const mfs_import *base;
	mfs_import_index index; /* of the base */
	bool permutes;
	mfs_problem *why;
};

#define refuse(o, error, ...) mfs_problem_about((o)->peft->path, (o)->why, (error), __VA_ARGS__)

/* ---- names ---- */

/* Architectures whose modules have the names below, and whether llama.cpp's
 * conversion permutes the rows of q and k in each head. */
static const struct {
	const char *name;
	bool permutes;
} architectures[] = {
    {"llama", true},  {"qwen2", false},	 {"qwen3", false},
    {"gemma", false}, {"gemma2", false}, {"gemma3", false},
};

static const struct {
	const char *module, *tensor;
	enum rows rows;
} modules[] = {
    {"self_attn.q_proj", "attn_q", ROWS_Q},    {"self_attn.k_proj", "attn_k", ROWS_K},
    {"self_attn.v_proj", "attn_v", ROWS_SAME}, {"self_attn.o_proj", "attn_output", ROWS_SAME},
    {"mlp.gate_proj", "ffn_gate", ROWS_SAME},  {"mlp.up_proj", "ffn_up", ROWS_SAME},
    {"mlp.down_proj", "ffn_down", ROWS_SAME},
};

/* The tensor of a module with an ordinary name, without ".weight". */
static bool translate_name(const char *module, char out[TENSOR_MAX], enum rows *rows)
{
	unsigned layer;
	int used = 0;

	*rows = ROWS_SAME;
	if (!strcmp(module, "model.embed_tokens") || !strcmp(module, "lm_head")) {
		strcpy(out, module[0] == 'l' ? "output" : "token_embd");
		return true;
	}
	if (sscanf(module, "model.layers.%6u.%n", &layer, &used) != 1 || !used)
		return false;
	for (size_t i = 0; i < sizeof(modules) / sizeof(*modules); i++) {
		if (strcmp(module + used, modules[i].module) != 0)
			continue;
		snprintf(out, TENSOR_MAX, "blk.%u.%s", layer, modules[i].tensor);
		*rows = modules[i].rows;
		return true;
	}
	return false;
}

/* False: the module is not known. */
static bool translate(const char *module, char out[TENSOR_MAX], enum rows *rows)
{
	char name[MODULE_MAX + 32];

	for (unsigned form = 0; mfs_peft_module_name(name, sizeof(name), module, form); form++)
		if (translate_name(name, out, rows))
			return true;
	return false;
}

/* ---- one matrix ---- */

static int check_matrix(const struct opening *o, const mfs_import_tensor *t, uint64_t rank,
			double wanted)
{
	const mfs_dequant *type = mfs_dequant_of(t->layout);

	if (t->dim_count != 2)
		return refuse(o, MFS_E_INVALID, "tensor '%.80s' has %u dimensions, not 2", t->name,
			      t->dim_count);
	if (!type || (type->ggml_type != MFS_GGML_F32 && type->ggml_type != MFS_GGML_F16 &&
		      type->ggml_type != MFS_GGML_BF16))
		return refuse(
		    o, MFS_E_UNSUPPORTED,
		    "tensor '%.80s' is of type %.*s: only F32, F16 and BF16 are supported", t->name,
		    t->layout->name_length, t->layout->name);
	if ((double)rank != wanted)
		return refuse(o, MFS_E_INVALID,
			      "tensor '%.80s' has rank %" PRIu64 ", its configuration says %.0f",
			      t->name, rank, wanted);
	return 0;
}

static int set_permutation(const struct opening *o, enum rows rows, struct matrix *m)
{
	const mfs_gguf_facts *facts = &o->base->gguf;
	uint32_t heads = rows == ROWS_K && facts->heads_kv ? facts->heads_kv : facts->heads;

	if (!heads || m->from->dims[0] % (2 * (uint64_t)heads))
		return refuse(o, MFS_E_INVALID,
			      "tensor '%.80s': %" PRIu64 " rows are not those of %" PRIu32
			      " heads of the base",
			      m->from->name, m->from->dims[0], heads);
	m->change = CHANGE_PERMUTE;
	m->heads = heads;
	return 0;
}

/* The scale of a module times its rank: what alpha would have to be. */
static double wanted_alpha(const mfs_peft_config *config, double rank, double alpha)
{
	return config->rslora ? alpha * sqrt(rank) : alpha;
}

static int set_factor(const struct opening *o, double rank, double alpha, struct matrix *m)
{
	const mfs_peft_config *config = &o->peft->config;

	m->factor = (float)(wanted_alpha(config, rank, alpha) /
			    wanted_alpha(config, config->rank, config->alpha));
	if (m->factor - m->factor != 0)
		return refuse(o, MFS_E_INVALID, "the scale of tensor '%.80s' is no number",
			      m->from->name);
	if (m->factor != 1) {
		m->type = MFS_GGML_F32;
		m->size = m->from->size / m->from->layout->block_bytes * sizeof(float);
	}
	return 0;
}

/* Gains in the place of magnitudes. */
static int set_gain(const struct opening *o, const char *tensor, struct matrix *m)
{
	const mfs_import_tensor *t = m->from;
	const mfs_dequant *type = mfs_dequant_of(t->layout);
	char name[NAME_MAX_GGUF];

	if (!o->peft->config.dora)
		return refuse(
		    o, MFS_E_INVALID,
		    "tensor '%.80s' has magnitudes, the configuration says nothing of DoRA",
		    t->name);
	if (t->dim_count != 1 || !type || type->block_weights != 1)
		return refuse(o, MFS_E_INVALID, "tensor '%.80s' is no vector of magnitudes",
			      t->name);
	m->target = mfs_import_find(&o->index, name,
				    (size_t)snprintf(name, sizeof(name), "%s.weight", tensor));
	if (m->target == UINT32_MAX)
		return refuse(o, MFS_E_INVALID, "the base has no tensor '%s'", name);
	m->type = MFS_GGML_F32;
	m->size = t->dims[0] * sizeof(float);
	return 0;
}

static int check_embedding(const struct opening *o, const mfs_peft_key *key,
			   const mfs_import_tensor *t)
{
	static const char head[] = "output.weight";

	if (key->embedding && mfs_import_find(&o->index, head, strlen(head)) == UINT32_MAX)
		return refuse(o, MFS_E_UNSUPPORTED,
			      "tensor '%.80s': the base has no head of its own: the embedding that "
			      "the adapter changes is the head too, which it leaves as it is",
			      t->name);
	if (!key->embedding || !o->peft->config.dora)
		return 0;
	return refuse(o, MFS_E_UNSUPPORTED,
		      "tensor '%.80s': the magnitudes of a DoRA of the embedding would be those of "
		      "its columns, which is not supported",
		      t->name);
}

static int make_matrix(struct opening *o, const mfs_import_tensor *t, struct matrix *m)
{
	const mfs_peft_config *config = &o->peft->config;
	char module[MODULE_MAX], tensor[TENSOR_MAX];
	double rank, alpha;
	mfs_peft_key key;
	enum rows rows;
	int error;

	if (!mfs_peft_key_parse(&key, t->name))
		return refuse(o, MFS_E_INVALID, "tensor '%.80s' %s", t->name,
			      mfs_peft_key_reason(t->name));
	snprintf(module, sizeof(module), "%.*s", (int)key.module_length, key.module);
	if (!translate(module, tensor, &rows) ||
	    (key.matrix != 'm' && key.embedding != !strcmp(tensor, "token_embd")))
		return refuse(o, MFS_E_UNSUPPORTED,
			      "module '%.80s' is not known in models of architecture %s", module,
			      o->base->gguf.architecture);
	*m = (struct matrix){.matrix = key.matrix, .from = t, .factor = 1, .size = t->size};
	snprintf(m->name, sizeof(m->name), "%s.weight.%s", tensor,
		 key.matrix == 'a'   ? "lora_a"
		 : key.matrix == 'b' ? "lora_b"
				     : "lora_gain");
	if (key.matrix == 'm') {
		error = set_gain(o, tensor, m);
		return !error && o->permutes && rows != ROWS_SAME ? set_permutation(o, rows, m)
								  : error;
	}
	error = mfs_peft_module(config, module, &rank, &alpha, o->why);
	if (!error)
		error = check_matrix(o, t, t->dims[key.matrix == 'a' ? 0 : 1], rank);
	if (!error)
		error = check_embedding(o, &key, t);
	if (error)
		return error;
	m->type = mfs_dequant_of(t->layout)->ggml_type;
	if (key.matrix == 'a') {
		/* llama.cpp looks rows of the embedding up in A. */
		m->change = key.embedding ? CHANGE_TRANSPOSE : CHANGE_NONE;
		return 0;
	}
	error = set_factor(o, rank, alpha, m);
	return !error && o->permutes && rows != ROWS_SAME ? set_permutation(o, rows, m) : error;
}

static const struct matrix *find_matrix(const mfs_peft *p, const struct matrix *gain, char which)
{
	size_t length = strlen(gain->name) - strlen("lora_gain");

	for (uint32_t i = 0; i < p->count; i++)
		if (p->matrices[i].matrix == which &&
		    !strncmp(p->matrices[i].name, gain->name, length) &&
		    strlen(p->matrices[i].name) == length + strlen("lora_a"))
			return &p->matrices[i];
	return NULL;
}

/* Each pair of a DoRA has gains. */
static int pair_gains(struct opening *o)
{
	mfs_peft *p = o->peft;
	uint32_t pairs = 0, gains = 0;

	for (uint32_t i = 0; i < p->count; i++) {
		struct matrix *m = &p->matrices[i];

		pairs += m->matrix == 'b';
		if (m->matrix != 'm')
			continue;
		m->a = find_matrix(p, m, 'a');
		m->b = find_matrix(p, m, 'b');
		if (!m->a || !m->b || m->b->from->dims[0] != m->from->dims[0])
			return refuse(o, MFS_E_INVALID,
				      "tensor '%.80s' has no magnitude for each row of a pair",
				      m->from->name);
		gains++;
	}
	return p->config.dora && gains != pairs
		   ? refuse(o, MFS_E_INVALID, "a DoRA with matrices that have no magnitudes")
		   : 0;
}

/* ---- rearranging ---- */

/* Row p of the result: halves of a head become pairs, as GGUF's rotary embedding
 * has them. */
static uint64_t permuted_from(uint64_t row, uint64_t rows, uint32_t heads)
{
	uint64_t head = rows / heads, at = row % head;

	return row - at + at % 2 * (head / 2) + at / 2;
}

static void permute(const struct matrix *m, const uint8_t *in, uint8_t *out)
{
	uint64_t rows = m->from->dims[0], bytes = m->from->size / rows;

	for (uint64_t i = 0; i < rows; i++)
		memcpy(out + i * bytes, in + permuted_from(i, rows, m->heads) * bytes, bytes);
}

static void transpose(const struct matrix *m, const uint8_t *in, uint8_t *out)
{
	uint64_t rows = m->from->dims[0], columns = m->from->dims[1];
	size_t unit = m->from->layout->block_bytes;

	for (uint64_t i = 0; i < rows; i++)
		for (uint64_t j = 0; j < columns; j++)
			memcpy(out + (j * rows + i) * unit, in + (i * columns + j) * unit, unit);
}

/* The numbers with the factor; the caller frees them. */
static float *scale(const struct matrix *m, const uint8_t *in)
{
	const mfs_dequant *type = mfs_dequant_of(m->from->layout);
	uint64_t count = m->from->size / m->from->layout->block_bytes;
	float *out = calloc(count, sizeof(float));

	if (!out)
		return NULL;
	mfs_dequantize(type, mfs_simd_best(), in, count, out);
	for (uint64_t i = 0; i < count && m->factor != 1; i++)
		out[i] *= m->factor;
	return out;
}

/* Bytes of the matrix with its rows as the GGUF file has them, in its own type; the
 * caller frees *out. */
static int move_rows(const mfs_peft *p, const struct matrix *m, uint8_t **out)
{
	uint8_t *raw = malloc(m->from->size), *moved = malloc(m->from->size);
	mfs_source file = p->file;
	int error =
	    raw && moved ? file.read_at(&file, m->from->offset, raw, m->from->size) : MFS_E_MEMORY;

	*out = NULL;
	if (!error && m->change == CHANGE_PERMUTE)
		permute(m, raw, moved);
	else if (!error && m->change == CHANGE_TRANSPOSE)
		transpose(m, raw, moved);
	else if (!error)
		memcpy(moved, raw, m->from->size);
	free(raw);
	*out = moved;
	return error;
}

static int load_floats(const mfs_peft *p, const struct matrix *m, float **out)
{
	uint8_t *moved;
	int error = move_rows(p, m, &moved);

	*out = error ? NULL : scale(m, moved);
	free(moved);
	return error ? error : *out ? 0 : MFS_E_MEMORY;
}

/* Panels of A. */
static int load_panels(const mfs_peft *p, const struct matrix *a, float **out)
{
	uint32_t rank = (uint32_t)a->from->dims[0];
	uint64_t columns = a->from->dims[1];
	float *plain;
	int error = load_floats(p, a, &plain);

	*out = error ? NULL : calloc(mfs_merge_panel_floats(rank, columns), sizeof(float));
	if (*out)
		mfs_merge_pack(plain, columns, 1, rank, columns, *out);
	free(plain);
	return error ? error : *out ? 0 : MFS_E_MEMORY;
}

/* As a view with this adapter alone and scale 1 merges it into tensor `target` of the
 * model. */
static int compute_gains(const mfs_peft *p, const struct matrix *m, const mfs_base_model *model,
			 uint32_t target, float *out)
{
	uint64_t rows = m->from->dims[0], columns = m->a->from->dims[1];
	uint32_t rank = (uint32_t)m->a->from->dims[0];
	float *panels = NULL, *b = NULL, *magnitudes = NULL;
	int error = load_panels(p, m->a, &panels);

	if (!error)
		error = load_floats(p, m->b, &b);
	if (!error)
		error = load_floats(p, m, &magnitudes);
	if (!error) {
		const mfs_merge_adapter adapter = {
		    .panels = panels,
		    .b = b,
		    .row_step = rank,
		    .rank_step = 1,
		    .rank = rank,
		    .scale = (float)wanted_alpha(&p->config, p->config.rank, p->config.alpha) /
			     (float)rank};

		error = mfs_base_gains(model, 0, target, rows, columns, &adapter, magnitudes, out);
	}
	free(panels);
	free(b);
	free(magnitudes);
	return error;
}

int mfs_peft_gains(const mfs_peft *p, const char *name, const mfs_base_model *model,
		   uint32_t target, float *out)
{
	for (uint32_t i = 0; i < p->count; i++)
		if (p->matrices[i].matrix == 'm' && !strcmp(p->matrices[i].name, name))
			return compute_gains(p, &p->matrices[i], model, target, out);
	return MFS_E_NOT_FOUND;
}

/* The gains on the base; the caller frees *out. */
static int load_gains(const mfs_peft *p, const struct matrix *m, float **out)
{
	*out = calloc(m->from->dims[0], sizeof(float));
	return *out ? compute_gains(p, m, &p->base, m->target, *out) : MFS_E_MEMORY;
}

/* Bytes of the matrix as the GGUF file has them; the caller frees *out. */
static int rearrange(mfs_peft *p, const struct matrix *m, uint8_t **out)
{
	uint64_t count = m->size / sizeof(float);
	float *floats;
	int error;

	*out = NULL;
	if (m->matrix != 'm' && m->factor == 1)
		return move_rows(p, m, out);
	error = m->matrix == 'm' ? load_gains(p, m, &floats) : load_floats(p, m, &floats);
	if (!error)
		*out = malloc(m->size);
	if (!error && !*out)
		error = MFS_E_MEMORY;
	for (uint64_t i = 0; i < count && !error; i++) {
		uint32_t bits;

		memcpy(&bits, &floats[i], sizeof(bits));
		store_le32(*out + i * sizeof(bits), bits);
	}
	free(floats);
	return error;
}

static int read_rearranged(mfs_peft *p, const struct matrix *m, uint64_t at, uint8_t *out,
			   size_t length)
{
	int error = 0;

	pthread_mutex_lock(&p->lock);
	if (p->held != m) {
		free(p->bytes);
		p->bytes = NULL;
		p->held = NULL;
		error = rearrange(p, m, &p->bytes);
		if (error) {
			free(p->bytes);
			p->bytes = NULL;
		} else {
			p->held = m;
		}
	}
	if (!error)
		memcpy(out, p->bytes + at, length);
	pthread_mutex_unlock(&p->lock);
	return error;
}

/* ---- the file ---- */

static int read_matrix(mfs_peft *p, const struct matrix *m, uint64_t at, uint8_t *out,
		       size_t length)
{
	if (m->change == CHANGE_NONE && m->factor == 1 && m->matrix != 'm')
		return p->file.read_at(&p->file, m->from->offset + at, out, length);
	return read_rearranged(p, m, at, out, length);
}

/* Header, then matrices, each padded with zeros. */
static int read_peft(mfs_source *source, uint64_t offset, void *buffer, size_t length)
{
	mfs_peft *p = (mfs_peft *)source->context;
	uint32_t low = 0, high = p->count;
	int error = 0;

	if (!range_ok(offset, length, source->size))
		return MFS_E_TRUNCATED;
	memset(buffer, 0, length);
	if (offset < p->head_size) {
		size_t n = p->head_size - offset < length ? p->head_size - offset : length;

		memcpy(buffer, p->head + offset, n);
	}
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (p->matrices[middle].offset + p->matrices[middle].size <= offset)
			low = middle + 1;
		else
			high = middle;
	}
	for (; low < p->count && p->matrices[low].offset < offset + length && !error; low++) {
		const struct matrix *m = &p->matrices[low];
		uint64_t from = m->offset > offset ? m->offset : offset;
		uint64_t end = m->offset + m->size;

		if (end > offset + length)
			end = offset + length;
		error = read_matrix(p, m, from - m->offset, (uint8_t *)buffer + (from - offset),
				    (size_t)(end - from));
	}
	return error;
}

static void put(FILE *out, uint64_t value, size_t bytes)
{
	le64 le;

	store_le64(&le, value);
	fwrite(&le, bytes, 1, out);
}

static void put_text(FILE *out, const char *text)
{
	put(out, strlen(text), 8);
	fwrite(text, strlen(text), 1, out);
}

static void put_key(FILE *out, const char *key, const char *value)
{
	put_text(out, key);
	put(out, 8, 4); /* a string */
	put_text(out, value);
}

static void put_header(const struct opening *o, FILE *out)
{
	const mfs_peft_config *config = &o->peft->config;
	float alpha = (float)wanted_alpha(config, config->rank, config->alpha);
	uint32_t bits;
	uint64_t offset = 0;

	memcpy(&bits, &alpha, sizeof(bits));
	fwrite("GGUF", 4, 1, out);
	put(out, 3, 4);
	put(out, o->peft->count, 8);
	put(out, 4, 8);
	put_key(out, "general.type", "adapter");
	put_key(out, "general.architecture", o->base->gguf.architecture);
	put_key(out, "adapter.type", "lora");
	put_text(out, "adapter.lora.alpha");
	put(out, 6, 4); /* a binary32 */
	put(out, bits, 4);
	for (uint32_t i = 0; i < o->peft->count; i++) {
		struct matrix *m = &o->peft->matrices[i];
		bool turned = m->change == CHANGE_TRANSPOSE;

		put_text(out, m->name);
		put(out, m->from->dim_count, 4);
		if (m->from->dim_count == 2)
			put(out, m->from->dims[turned ? 0 : 1], 8);
		put(out, m->from->dims[turned ? 1 : 0], 8);
		put(out, m->type, 4);
		put(out, offset, 8);
		m->offset = offset;
		offset = round_up(offset + m->size, ALIGNMENT);
	}
}

static int make_file(struct opening *o, mfs_source *source)
{
	mfs_peft *p = o->peft;
	FILE *out = open_memstream((char **)&p->head, &p->head_size);
	uint64_t data, end;

	if (!out)
		return mfs_problem_no_memory(o->why);
	put_header(o, out);
	if (fclose(out) || !p->head)
		return mfs_problem_no_memory(o->why);
	data = end = round_up(p->head_size, ALIGNMENT);
	for (uint32_t i = 0; i < p->count; i++) {
		p->matrices[i].offset += data;
		end = round_up(p->matrices[i].offset + p->matrices[i].size, ALIGNMENT);
	}
	*source = (mfs_source){
	    .name = p->path, .size = end, .read_at = read_peft, .u.fd = -1, .context = p};
	return 0;
}

/* ---- opening ---- */

static int check_base(struct opening *o)
{
	const mfs_gguf_facts *facts = &o->base->gguf;

	if (o->base->format != MFS_FORMAT_GGUF || facts->swapped || !facts->architecture)
		return refuse(o, MFS_E_UNSUPPORTED,
			      "an adapter of PEFT needs a little-endian GGUF model as its base");
	for (size_t i = 0; i < sizeof(architectures) / sizeof(*architectures); i++)
		if (!strcmp(facts->architecture, architectures[i].name)) {
			o->permutes = architectures[i].permutes;
			return 0;
		}
	return refuse(o, MFS_E_UNSUPPORTED,
		      "adapters of PEFT for architecture '%.40s' cannot be converted: use "
		      "llama.cpp's converter",
		      facts->architecture);
}

static int make_matrices(struct opening *o)
{
	mfs_peft *p = o->peft;
	float alpha = (float)wanted_alpha(&p->config, p->config.rank, p->config.alpha);
	int error = 0;

	if (p->config.fan_in_fan_out)
		return refuse(o, MFS_E_UNSUPPORTED,
			      "fan_in_fan_out: the adapter is made for matrices that are stored "
			      "transposed");
	if (alpha == 0 || alpha - alpha != 0)
		return refuse(o, MFS_E_INVALID, "a lora_alpha of %g makes no adapter",
			      p->config.alpha);
	if (p->import.format != MFS_FORMAT_SAFETENSORS)
		return refuse(o, MFS_E_INVALID, "no safetensors file");
	if (p->import.tensor_count > MATRICES_MAX)
		return refuse(o, MFS_E_LIMIT, "more than %u tensors", MATRICES_MAX);
	p->matrices = calloc(p->import.tensor_count + 1u, sizeof(*p->matrices));
	if (!p->matrices)
		return mfs_problem_no_memory(o->why);
	for (uint32_t i = 0; i < p->import.tensor_count && !error; i++) {
		struct matrix *m = &p->matrices[p->count];

		error = make_matrix(o, &p->import.tensors[i], m);
		if (!error && (m->change != CHANGE_NONE || m->factor != 1) && m->size > MATRIX_MAX)
			error = refuse(o, MFS_E_LIMIT, "tensor '%.80s' is larger than %u MiB",
				       m->from->name, MATRIX_MAX >> 20);
		p->count += !error;
	}
	return error ? error : pair_gains(o);
}

static char *join(const char *directory, const char *name)
{
	char *path;

	return asprintf(&path, "%s/%s", directory, name) < 0 ? NULL : path;
}

int mfs_peft_matrices_path(char **out, const char *directory, mfs_problem *why)
{
	char *pickle = join(directory, "adapter_model.bin");
	int error = 0;

	*out = join(directory, "adapter_model.safetensors");
	if (!*out || !pickle)
		error = mfs_problem_no_memory(why);
	else if (access(*out, F_OK) && !access(pickle, F_OK))
		error = mfs_problem_set(why, MFS_E_UNSUPPORTED, UINT64_MAX,
					"%s: a pickle can run any program when it is loaded and is "
					"not read: save the adapter as safetensors",
					pickle);
	free(pickle);
	if (error) {
		free(*out);
		*out = NULL;
	}
	return error;
}

static int open_matrices(mfs_peft *p, mfs_problem *why)
{
	int error = mfs_source_open(&p->file, p->path, why);

	return error ? error : mfs_import_source(&p->import, &p->file, why);
}

static int open_files(struct opening *o, const char *directory, struct stat *found)
{
	mfs_peft *p = o->peft;
	char *config = join(directory, "adapter_config.json");
	int error;

	error = config ? mfs_peft_matrices_path(&p->path, directory, o->why)
		       : mfs_problem_no_memory(o->why);
	if (!error)
		error = mfs_peft_config_read(&p->config, config, o->why);
	p->config.path = p->path;
	free(config);
	if (!error)
		error = open_matrices(p, o->why);
	if (!error && fstat(p->file.u.fd, found) < 0)
		error = mfs_problem_set(o->why, MFS_E_SYSTEM, UINT64_MAX, "%s: %s", p->path,
					strerror(errno));
	return error;
}

int mfs_peft_open(mfs_peft **out, const char *directory, const mfs_base_model *base,
		  mfs_source *source, struct stat *found, mfs_problem *why)
{
	struct opening o = {.peft = calloc(1, sizeof(mfs_peft)), .base = &base->import, .why = why};
	int error;

	if (!o.peft)
		return mfs_problem_no_memory(why);
	o.peft->base = *base;
	o.peft->file.u.fd = -1;
	pthread_mutex_init(&o.peft->lock, NULL);
	error = open_files(&o, directory, found);
	if (!error)
		error = check_base(&o);
	if (!error && mfs_import_index_open(&o.index, o.base) < 0)
		error = mfs_problem_no_memory(why);
	if (!error)
		error = make_matrices(&o);
	if (!error)
		error = make_file(&o, source);
	mfs_import_index_close(&o.index);
	if (error) {
		mfs_peft_close(o.peft);
		return error;
	}
	*out = o.peft;
	return 0;
}

void mfs_peft_close(mfs_peft *p)
{
	if (!p)
		return;
	mfs_peft_config_free(&p->config);
	mfs_import_free(&p->import);
	if (p->file.read_at)
		mfs_source_close(&p->file);
	pthread_mutex_destroy(&p->lock);
	free(p->matrices);
	free(p->head);
	free(p->bytes);
	free(p->path);
	free(p);
}

int mfs_peft_descriptor(const mfs_peft *p)
{
	return p->file.u.fd;
}

bool mfs_peft_is_dora(const mfs_peft *p)
{
	return p->config.dora;
}
