/* What the tensors of an adapter of PEFT become in GGUF: names, types, changes. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../../format/dequant.h"
#include "peft_keys.h"
#include "peft_matrices.h"

#define TENSOR_MAX 40 /* of a name without ".weight" and what follows */
#define MODULE_MAX 256

/* How the rows of a matrix of the model lie in GGUF. */
enum rows { ROWS_SAME, ROWS_Q, ROWS_K };

/* ---- names ---- */

/* Architectures whose modules have the names below, and whether llama.cpp's
 * conversion permutes the rows of q and k in each head. */
static const struct {
	const char *name;
	bool permutes;
} architectures[] = {
    {"llama", true},  {"granite", true}, {"smollm3", true}, {"qwen2", false}, {"qwen3", false},
    {"gemma", false}, {"gemma2", false}, {"gemma3", false}, {"phi3", false},
};

static const struct {
	const char *module, *tensor;
	enum rows rows;
} modules[] = {
    {"self_attn.q_proj", "attn_q", ROWS_Q},
    {"self_attn.k_proj", "attn_k", ROWS_K},
    {"self_attn.v_proj", "attn_v", ROWS_SAME},
    {"self_attn.o_proj", "attn_output", ROWS_SAME},
    {"mlp.gate_proj", "ffn_gate", ROWS_SAME},
    {"mlp.up_proj", "ffn_up", ROWS_SAME},
    {"mlp.down_proj", "ffn_down", ROWS_SAME},
    /* Phi-3's: q, k and v in one, as are gate and up. */
    {"self_attn.qkv_proj", "attn_qkv", ROWS_SAME},
    {"mlp.gate_up_proj", "ffn_up", ROWS_SAME},
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

int mfs_peft_check_base(struct opening *o)
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

double mfs_peft_wanted_alpha(const mfs_peft_config *config, double rank, double alpha)
{
	return config->rslora ? alpha * sqrt(rank) : alpha;
}

static int set_factor(const struct opening *o, double rank, double alpha, struct matrix *m)
{
	const mfs_peft_config *config = &o->peft->config;

	m->factor = (float)(mfs_peft_wanted_alpha(config, rank, alpha) /
			    mfs_peft_wanted_alpha(config, config->rank, config->alpha));
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

int mfs_peft_make_matrix(struct opening *o, const mfs_import_tensor *t, struct matrix *m)
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
int mfs_peft_pair_gains(struct opening *o)
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
