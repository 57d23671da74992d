/*
 * mksafetensors: writes a safetensors model with random weights: one file, or a
 * directory of shards with their index and a configuration. The same options
 * give the same bytes on every machine. Memory stays under a few megabytes and
 * the header's, whatever the size.
 *
 * Weights are those of a transformer: rows of different scale, 0.3 % of columns
 * eight times as large as the others.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "random_weights.h"

#define OUT_BYTES (1u << 20)
#define NAME_MAX_ 96

static void fail(const char *what, const char *why)
{
	fprintf(stderr, "mksafetensors: %s: %s\n", what, why);
	exit(1);
}

static void *grown(void *old, size_t bytes)
{
	void *p = realloc(old, bytes);

	if (!p)
		fail("memory", strerror(errno));
	return p;
}

/* ---- 8-bit floats ---- */

/* To a float of 1 + e + `mantissa` bits, nearest even; too large becomes the
 * largest number. */
static uint8_t to_f8(float f, int mantissa, uint32_t bias, uint32_t largest)
{
	uint32_t x = float_bits(f), sign = x >> 24 & 0x80, a = x & 0x7fffffff;
	int shift = 23 - mantissa;
	uint32_t normal = ((a + (1u << (shift - 1)) - 1 + (a >> shift & 1)) >> shift) -
			  ((127 - bias) << mantissa);
	/* The unit of this power of two is that of the subnormals: the sum rounds. */
	uint32_t magic = (127 + 1 - bias - (uint32_t)mantissa + 23) << 23;
	uint32_t small = float_bits(bits_float(a) + bits_float(magic)) - magic;
	uint32_t code = a < (128 - bias) << 23 ? small : normal;

	return (uint8_t)(sign | (code > largest ? largest : code));
}

/* Scaled as checkpoints are, so that the numbers use the range of their type. */
#define F8_SCALE 1024.0f

static void encode_e4m3(const float *in, size_t count, uint8_t *out)
{
	for (size_t i = 0; i < count; i++)
		out[i] = to_f8(in[i] * F8_SCALE, 3, 7, 0x7e);
}

static void encode_e5m2(const float *in, size_t count, uint8_t *out)
{
	for (size_t i = 0; i < count; i++)
		out[i] = to_f8(in[i] * F8_SCALE, 2, 15, 0x7b);
}

/* ---- dtypes ---- */

struct dtype {
	const char *name;
	uint32_t bytes;
	encode_fn *encode;
};

enum { BF16, F16, F32, F64, F8_E4M3, F8_E5M2, NF4, U8, DTYPES };

static const struct dtype dtypes[DTYPES] = {
    [BF16] = {"BF16", 2, encode_bf16},
    [F16] = {"F16", 2, encode_f16},
    [F32] = {"F32", 4, encode_f32},
    [F64] = {"F64", 8, encode_f64},
    [F8_E4M3] = {"F8_E4M3", 1, encode_e4m3},
    [F8_E5M2] = {"F8_E5M2", 1, encode_e5m2},
    /* Half a byte a weight, in U8; the numbers say how large a model to plan. */
    [NF4] = {"NF4", 1, NULL},
    [U8] = {"U8", 1, NULL},
};

/* ---- the model ---- */

/* What fills a tensor; those after CODES belong to the codes before them. */
enum content { MATRIX, NORM, CODES, ABSMAX, NESTED_ABSMAX, QUANT_MAP, NESTED_QUANT_MAP, STATE };

struct tensor {
	char name[NAME_MAX_];
	enum content content;
	const struct dtype *dtype;
	uint32_t dim_count;
	uint64_t dims[2]; /* of the file */
	uint64_t rows, columns;
	uint64_t bytes;
	uint64_t seed;
};

struct options {
	int type;
	enum distribution dist;
	bool bf16_origin, two_of_four;
	double prune;
	uint64_t size, shards, seed;
	const char *path;
};

struct model {
	const struct options *o;
	struct tensor *tensors;
	size_t count, room;
	uint64_t next_seed;
	/* Of the matrix that was coded last. */
	float *absmax;
	uint64_t blocks;
	const struct tensor *codes;
};

static struct tensor *add(struct model *m, enum content content, int dtype, uint64_t d0,
			  uint64_t d1, const char *format, ...)
    __attribute__((format(printf, 6, 7)));

/* d1 = 0: one dimension. */
static struct tensor *add(struct model *m, enum content content, int dtype, uint64_t d0,
			  uint64_t d1, const char *format, ...)
{
	struct tensor *t;
	va_list args;

	if (m->count == m->room) {
		m->room = 2 * m->room + 64;
		m->tensors = grown(m->tensors, m->room * sizeof(*m->tensors));
	}
	t = &m->tensors[m->count++];
	*t = (struct tensor){.content = content,
			     .dtype = &dtypes[dtype],
			     .dim_count = d1 ? 2 : 1,
			     .dims = {d0, d1},
			     .rows = d1 ? d0 : 1,
			     .columns = d1 ? d1 : d0,
			     .bytes = d0 * (d1 ? d1 : 1) * dtypes[dtype].bytes,
			     .seed = next_random(&m->next_seed)};
	va_start(args, format);
	vsnprintf(t->name, sizeof(t->name), format, args);
	va_end(args);
	return t;
}

#define BLOCK	     64
#define NESTED_BLOCK 256

/* The description of a quantized matrix: as long for any offset. */
static int state_text(char out[512], uint64_t rows, uint64_t columns, double offset)
{
	return snprintf(out, 512,
			"{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", "
			"\"shape\": [%" PRIu64 ", %" PRIu64 "], \"nested_blocksize\": 256, "
			"\"nested_dtype\": \"float32\", \"nested_offset\": %.9e}",
			rows, columns, offset);
}

static void add_nf4(struct model *m, const char *name, uint64_t rows, uint64_t columns)
{
	uint64_t blocks = rows * columns / BLOCK;
	char text[512];
	struct tensor *t = add(m, CODES, U8, rows * columns / 2, 1, "%s", name);

	t->rows = rows;
	t->columns = columns;
	add(m, ABSMAX, U8, blocks, 0, "%s.absmax", name);
	add(m, NESTED_ABSMAX, F32, (blocks + NESTED_BLOCK - 1) / NESTED_BLOCK, 0,
	    "%s.nested_absmax", name);
	add(m, NESTED_QUANT_MAP, F32, 256, 0, "%s.nested_quant_map", name);
	add(m, QUANT_MAP, F32, 16, 0, "%s.quant_map", name);
	add(m, STATE, U8, (uint64_t)state_text(text, rows, columns, 0), 0,
	    "%s.quant_state.bitsandbytes__nf4", name);
}

static void add_matrix(struct model *m, uint64_t rows, uint64_t columns, uint64_t layer,
		       const char *what)
{
	char name[NAME_MAX_];

	snprintf(name, sizeof(name), "model.layers.%" PRIu64 ".%s.weight", layer, what);
	if (m->o->type == NF4)
		add_nf4(m, name, rows, columns);
	else
		add(m, MATRIX, m->o->type, rows, columns, "%s", name);
}

/* Weights of the quantized types are a byte or less, their norms are not. */
static int norm_type(const struct options *o)
{
	return dtypes[o->type].bytes == 1 ? BF16 : o->type;
}

static uint64_t layer_weights(uint64_t dim)
{
	return 4 * dim * dim + 3 * dim * (dim * 11 / 4);
}

/* The widest model that has four layers at least in this size. */
static void plan_model(struct model *m)
{
	const struct options *o = m->o;
	uint64_t weights = o->type == NF4 ? 2 * o->size : o->size / dtypes[o->type].bytes;
	uint64_t dim = 4096, ffn, layers;

	while (dim > 256 && layer_weights(dim) > weights / 4)
		dim /= 2;
	ffn = dim * 11 / 4;
	layers = weights / layer_weights(dim);
	for (uint64_t i = 0; i < (layers ? layers : 1); i++) {
		add(m, NORM, norm_type(o), dim, 0,
		    "model.layers.%" PRIu64 ".input_layernorm.weight", i);
		add_matrix(m, dim, dim, i, "self_attn.q_proj");
		add_matrix(m, dim, dim, i, "self_attn.k_proj");
		add_matrix(m, dim, dim, i, "self_attn.v_proj");
		add_matrix(m, dim, dim, i, "self_attn.o_proj");
		add_matrix(m, ffn, dim, i, "mlp.gate_proj");
		add_matrix(m, ffn, dim, i, "mlp.up_proj");
		add_matrix(m, dim, ffn, i, "mlp.down_proj");
	}
	add(m, NORM, norm_type(o), dim, 0, "model.norm.weight");
}

/* ---- weights ---- */

#define COLUMNS_MAX (4096 * 11 / 4)

struct row_maker {
	const struct options *o;
	const struct tensor *t;
	uint64_t state;
	float threshold; /* smaller samples are pruned */
	float column[COLUMNS_MAX];
};

static float unit(uint64_t *state)
{
	return (float)(int)(next_random(state) >> 40) * (1.0f / 16777216);
}

static void row_maker_init(struct row_maker *r, const struct options *o, const struct tensor *t)
{
	r->o = o;
	r->t = t;
	r->state = t->seed;
	r->threshold = quantile[(int)((0.5 + o->prune / 2) * QUANTILES)];
	for (uint64_t i = 0; i < t->columns; i++)
		r->column[i] = unit(&r->state) < 0.003f ? 8.0f : 1.0f;
}

static float magnitude(float f)
{
	return f < 0 ? -f : f;
}

/* Of each four the two largest stay. */
static void prune_two_of_four(float *w, uint64_t count)
{
	for (; count; count -= 4, w += 4)
		for (int drop = 0; drop < 2; drop++) {
			int least = -1;

			for (int i = 0; i < 4; i++)
				if (w[i] != 0 &&
				    (least < 0 || magnitude(w[i]) < magnitude(w[least])))
					least = i;
			if (least >= 0)
				w[least] = 0;
		}
}

static void make_row(struct row_maker *r, float *w)
{
	uint64_t n = r->t->columns;
	float scale = 0.02f * (0.6f + 0.8f * unit(&r->state));

	make_samples(&r->state, w, n);
	if (r->t->content == NORM) {
		for (uint64_t i = 0; i < n; i++)
			w[i] = 1 + 0.1f * w[i];
		return;
	}
	if (r->o->prune > 0)
		for (uint64_t i = 0; i < n; i++)
			w[i] = magnitude(w[i]) < r->threshold ? 0 : w[i];
	for (uint64_t i = 0; i < n; i++)
		w[i] *= scale * r->column[i];
	if (r->o->two_of_four)
		prune_two_of_four(w, n);
	if (r->o->bf16_origin)
		for (uint64_t i = 0; i < n; i++)
			w[i] = bits_float(to_bf16(w[i]) << 16);
}

/* ---- NF4 with double quantization ---- */

static const float nf4[16] = {-1.0f,
			      -0.6961928009986877f,
			      -0.5250730514526367f,
			      -0.39491748809814453f,
			      -0.28444138169288635f,
			      -0.18477343022823334f,
			      -0.09105003625154495f,
			      0.0f,
			      0.07958029955625534f,
			      0.16093020141124725f,
			      0.24611230194568634f,
			      0.33791524171829224f,
			      0.44070982933044434f,
			      0.5626170039176941f,
			      0.7229568362236023f,
			      1.0f};

/* The number nearest to x in a sorted map of 2^bits. */
static uint8_t nearest(const float *map, int bits, float x)
{
	uint32_t low = 0;

	for (uint32_t step = 1u << (bits - 1); step; step /= 2)
		if (map[low + step] <= x)
			low += step;
	if (low + 1 < 1u << bits && map[low + 1] - x < x - map[low])
		low++;
	return (uint8_t)low;
}

/* Seven decades, each with twice as many values as the one below: bitsandbytes'
 * 8-bit map. */
static void make_nested_map(float out[256])
{
	double decade = 1e-6;
	int n = 0;

	for (int i = 0; i < 7; i++, decade *= 10)
		for (int k = 0, count = 1 << i; k < count; k++) {
			float value = (float)(decade * (0.1 + 0.9 * (k + 0.5) / count));

			out[128 + n] = value;
			out[126 - n] = -value;
			n++;
		}
	out[127] = 0;
	out[255] = 1;
}

static void write_bytes(FILE *f, const void *bytes, size_t size, const char *path)
{
	if (fwrite(bytes, 1, size, f) != size)
		fail(path, strerror(errno));
}

static void code_row(struct model *m, const float *w, uint64_t n, uint8_t *out)
{
	for (uint64_t i = 0; i < n; i += BLOCK) {
		float most = 0;

		for (int k = 0; k < BLOCK; k++)
			most = magnitude(w[i + k]) > most ? magnitude(w[i + k]) : most;
		m->absmax[m->blocks++] = most;
		most = most > 0 ? 1 / most : 0;
		/* The first of two elements is in the high nibble. */
		for (int k = 0; k < BLOCK; k += 2)
			*out++ = (uint8_t)(nearest(nf4, 4, w[i + k] * most) << 4 |
					   nearest(nf4, 4, w[i + k + 1] * most));
	}
}

static double absmax_mean(const struct model *m)
{
	double sum = 0;

	for (uint64_t i = 0; i < m->blocks; i++)
		sum += (double)m->absmax[i];
	return sum / (double)m->blocks;
}

static float nested_scale(const struct model *m, uint64_t nested, float mean)
{
	float most = 0;

	for (uint64_t i = nested * NESTED_BLOCK; i < (nested + 1) * NESTED_BLOCK && i < m->blocks;
	     i++)
		if (magnitude(m->absmax[i] - mean) > most)
			most = magnitude(m->absmax[i] - mean);
	return most;
}

static void write_absmax(const struct model *m, const struct tensor *t, FILE *f)
{
	float mean = (float)absmax_mean(m), map[256];

	make_nested_map(map);
	for (uint64_t n = 0; n * NESTED_BLOCK < m->blocks; n++) {
		float scale = nested_scale(m, n, mean);
		uint64_t left = m->blocks - n * NESTED_BLOCK;
		uint8_t out[NESTED_BLOCK], wide[4];

		if (t->content == NESTED_ABSMAX) {
			put32(wide, float_bits(scale));
			write_bytes(f, wide, 4, t->name);
			continue;
		}
		left = left < NESTED_BLOCK ? left : NESTED_BLOCK;
		for (uint64_t i = 0; i < left; i++)
			out[i] = nearest(
			    map, 8,
			    scale > 0 ? (m->absmax[n * NESTED_BLOCK + i] - mean) / scale : 0);
		write_bytes(f, out, left, t->name);
	}
}

static void write_map(const struct tensor *t, FILE *f)
{
	float map[256];
	uint8_t out[4 * 256];

	if (t->content == QUANT_MAP)
		memcpy(map, nf4, sizeof(nf4));
	else
		make_nested_map(map);
	encode_f32(map, t->columns, out);
	write_bytes(f, out, 4 * t->columns, t->name);
}

static void write_state(const struct model *m, const struct tensor *t, FILE *f)
{
	char text[512];
	int length = state_text(text, m->codes->rows, m->codes->columns, absmax_mean(m));

	if ((uint64_t)length != t->bytes)
		fail(t->name, "the description has another length than planned");
	write_bytes(f, text, (size_t)length, t->name);
}

/* ---- tensors ---- */

static void write_rows(struct model *m, const struct tensor *t, FILE *f)
{
	struct row_maker *r = grown(NULL, sizeof(*r));
	float *w = grown(NULL, t->columns * sizeof(*w));
	uint8_t *out = grown(NULL, t->columns * 8);

	row_maker_init(r, m->o, t);
	if (t->content == CODES) {
		m->codes = t;
		m->blocks = 0;
		m->absmax = grown(m->absmax, t->rows * t->columns / BLOCK * sizeof(float));
	}
	for (uint64_t i = 0; i < t->rows; i++) {
		uint64_t bytes = t->columns * t->dtype->bytes;

		make_row(r, w);
		if (t->content == CODES) {
			code_row(m, w, t->columns, out);
			bytes = t->columns / 2;
		} else {
			t->dtype->encode(w, t->columns, out);
		}
		write_bytes(f, out, bytes, t->name);
	}
	free(out);
	free(w);
	free(r);
}

static void write_tensor(struct model *m, const struct tensor *t, FILE *f)
{
	switch (t->content) {
	case MATRIX:
	case NORM:
	case CODES:
		write_rows(m, t, f);
		break;
	case ABSMAX:
	case NESTED_ABSMAX:
		write_absmax(m, t, f);
		break;
	case QUANT_MAP:
	case NESTED_QUANT_MAP:
		write_map(t, f);
		break;
	case STATE:
		write_state(m, t, f);
		break;
	}
}

/* ---- files ---- */

static char *make_header(const struct tensor *tensors, size_t count, size_t *size)
{
	char *text = NULL;
	uint64_t offset = 0;
	FILE *f = open_memstream(&text, size);

	if (!f)
		fail("memory", strerror(errno));
	fputs("{\"__metadata__\":{\"format\":\"pt\"}", f);
	for (size_t i = 0; i < count; i++) {
		const struct tensor *t = &tensors[i];

		fprintf(f, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%" PRIu64, t->name, t->dtype->name,
			t->dims[0]);
		if (t->dim_count == 2)
			fprintf(f, ",%" PRIu64, t->dims[1]);
		fprintf(f, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", offset,
			offset + t->bytes);
		offset += t->bytes;
	}
	putc('}', f);
	/* Spaces, so that the data begin at a multiple of eight. */
	fflush(f);
	for (size_t n = *size; n % 8; n++)
		putc(' ', f);
	if (fclose(f))
		fail("memory", strerror(errno));
	return text;
}

static FILE *create(const char *path)
{
	FILE *f = fopen(path, "wb");

	if (!f)
		fail(path, strerror(errno));
	setvbuf(f, NULL, _IOFBF, OUT_BYTES);
	return f;
}

static void finish(FILE *f, const char *path)
{
	if (ferror(f) || fclose(f))
		fail(path, strerror(errno));
}

static void write_file(struct model *m, const char *path, const struct tensor *tensors,
		       size_t count)
{
	size_t size;
	char *header = make_header(tensors, count, &size);
	FILE *f = create(path);
	uint8_t length[8];

	put64(length, size);
	write_bytes(f, length, 8, path);
	write_bytes(f, header, size, path);
	for (size_t i = 0; i < count; i++)
		write_tensor(m, &tensors[i], f);
	finish(f, path);
	free(header);
}

static uint64_t sum_bytes(const struct model *m)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < m->count; i++)
		sum += m->tensors[i].bytes;
	return sum;
}

static void shard_name(const struct options *o, uint64_t shard, char out[64])
{
	snprintf(out, 64, "model-%05" PRIu64 "-of-%05" PRIu64 ".safetensors", shard + 1, o->shards);
}

static FILE *create_in(const char *directory, const char *name, char path[PATH_MAX])
{
	if (snprintf(path, PATH_MAX, "%s/%s", directory, name) >= PATH_MAX)
		fail(directory, strerror(ENAMETOOLONG));
	return create(path);
}

/* Shards of about the same size, in the order of the tensors. */
static void write_shards(struct model *m)
{
	const struct options *o = m->o;
	uint64_t total = sum_bytes(m), done = 0;
	char path[PATH_MAX], file[PATH_MAX], name[64];
	size_t first = 0;
	FILE *index, *config;

	if (mkdir(o->path, 0777) && errno != EEXIST)
		fail(o->path, strerror(errno));
	index = create_in(o->path, "model.safetensors.index.json", path);
	fprintf(index, "{\n  \"metadata\": {\n    \"total_size\": %" PRIu64 "\n  },\n", total);
	fputs("  \"weight_map\": {", index);
	for (uint64_t shard = 0; shard < o->shards; shard++) {
		size_t next = first;

		shard_name(o, shard, name);
		for (; next < m->count && done < total / o->shards * (shard + 1); next++) {
			done += m->tensors[next].bytes;
			fprintf(index, "%s\n    \"%s\": \"%s\"", next ? "," : "",
				m->tensors[next].name, name);
		}
		if (shard + 1 == o->shards)
			for (; next < m->count; next++)
				fprintf(index, ",\n    \"%s\": \"%s\"", m->tensors[next].name,
					name);
		if (snprintf(file, sizeof(file), "%s/%s", o->path, name) >= PATH_MAX)
			fail(o->path, strerror(ENAMETOOLONG));
		write_file(m, file, m->tensors + first, next - first);
		first = next;
	}
	fputs("\n  }\n}\n", index);
	finish(index, path);
	config = create_in(o->path, "config.json", path);
	fputs("{\n  \"architectures\": [\"LlamaForCausalLM\"],\n  \"model_type\": \"llama\"\n}\n",
	      config);
	finish(config, path);
}

/* ---- options ---- */

static int usage(FILE *out)
{
	fputs("usage: mksafetensors [OPTIONS] FILE\n"
	      "       mksafetensors --shards N [OPTIONS] DIRECTORY\n"
	      "  --type TYPE         BF16 (default), F16, F32, F64, F8_E4M3, F8_E5M2, NF4\n"
	      "  --size BYTES        about that large; K, M, G are understood (16M)\n"
	      "  --dist gauss|t5     distribution of the weights\n"
	      "  --bf16-origin       weights that bfloat16 can hold\n"
	      "  --prune SHARE|2:4   the smallest are zero: a share of all, or two of each four\n"
	      "  --shards N          a directory of N files, their index and config.json\n"
	      "  --seed N\n",
	      out);
	return out == stderr ? 2 : 0;
}

static uint64_t number(const char *text)
{
	static const char units[] = "KMG";
	char *end;
	uint64_t n;

	errno = 0;
	n = strtoull(text, &end, 10);
	if (end == text || *text == '-' || errno)
		fail(text, "is no number");
	if (*end && strchr(units, *end))
		n <<= 10 * (strchr(units, *end++) - units + 1);
	if (*end)
		fail(text, "is no number");
	return n;
}

static int find_type(const char *name)
{
	for (int i = 0; i < U8; i++)
		if (!strcmp(dtypes[i].name, name))
			return i;
	fail(name, "no such type");
	return -1;
}

static void set_prune(struct options *o, const char *text)
{
	char *end;

	o->two_of_four = !strcmp(text, "2:4");
	if (o->two_of_four)
		return;
	o->prune = strtod(text, &end);
	if (*end || !(o->prune >= 0 && o->prune < 1))
		fail(text, "is no share from 0 to 1, nor 2:4");
}

enum { OPT_TYPE = 256, OPT_SIZE, OPT_DIST, OPT_ORIGIN, OPT_PRUNE, OPT_SHARDS, OPT_SEED, OPT_HELP };

static const struct option long_options[] = {
    {"type", required_argument, NULL, OPT_TYPE},
    {"size", required_argument, NULL, OPT_SIZE},
    {"dist", required_argument, NULL, OPT_DIST},
    {"bf16-origin", no_argument, NULL, OPT_ORIGIN},
    {"prune", required_argument, NULL, OPT_PRUNE},
    {"shards", required_argument, NULL, OPT_SHARDS},
    {"seed", required_argument, NULL, OPT_SEED},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static void set_option(struct options *o, int option)
{
	switch (option) {
	case OPT_TYPE:
		o->type = find_type(optarg);
		break;
	case OPT_SIZE:
		o->size = number(optarg);
		break;
	case OPT_DIST:
		if (strcmp(optarg, "gauss") && strcmp(optarg, "t5"))
			fail(optarg, "no such distribution");
		o->dist = strcmp(optarg, "t5") ? DIST_GAUSS : DIST_T5;
		break;
	case OPT_ORIGIN:
		o->bf16_origin = true;
		break;
	case OPT_PRUNE:
		set_prune(o, optarg);
		break;
	case OPT_SHARDS:
		o->shards = number(optarg);
		break;
	case OPT_SEED:
		o->seed = number(optarg);
		break;
	case OPT_HELP:
		exit(usage(stdout));
	default:
		exit(usage(stderr));
	}
}

int main(int argc, char **argv)
{
	struct options o = {.type = BF16, .size = 16 << 20, .seed = 1};
	struct model m = {.o = &o};
	int option;

	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1)
		set_option(&o, option);
	if (argc - optind != 1 || o.shards > 99999)
		return usage(stderr);
	o.path = argv[optind];
	m.next_seed = o.seed;
	make_quantiles(o.dist);
	plan_model(&m);
	if (o.shards)
		write_shards(&m);
	else
		write_file(&m, o.path, m.tensors, m.count);
	free(m.absmax);
	free(m.tensors);
	return 0;
}
