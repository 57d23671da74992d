#include "recipe.h"

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "../../format/dequant.h"
#include "../../format/quantizers.h"
#include "gguf_rewrite.h"
#include "gguf_roles.h"
#include "problem.h"

struct mfs_recipe_type {
	const char *name;
	uint32_t ggml_type;
	uint32_t file_type; /* llama.cpp's number of a model that has it everywhere */
};

static const struct mfs_recipe_type types[] = {
    {"q8_0", MFS_GGML_Q8_0, 7},	 {"q4_0", MFS_GGML_Q4_0, 2},	       {"q4_k", MFS_GGML_Q4_K, 14},
    {"q6_k", MFS_GGML_Q6_K, 18}, {"nf4", MFS_GGUF_NF4, MFS_GGUF_KEEP},
};

/* ---- parsing ---- */

static int parse_type(mfs_recipe *r, const char *text, mfs_problem *why)
{
	for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++)
		if (!strcasecmp(types[i].name, text)) {
			r->type = &types[i];
			return 0;
		}
	return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
			       "cannot quantize to '%s': q8_0, q4_0, q4_k, q6_k and nf4 are known",
			       text);
}

/* Whatever decimal point the user's language has. */
static double parse_number(const char *text, char **end)
{
	locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
	double number;

	if (!plain)
		return 0;
	number = strtod_l(text, end, plain);
	freelocale(plain);
	return number;
}

static int parse_share(mfs_recipe *r, const char *text, mfs_problem *why)
{
	char *end = NULL;

	if (!strcmp(text, "2:4")) {
		r->two_of_four = true;
		return 0;
	}
	/* strtod() would also take "inf", hexadecimal numbers and leading blanks. */
	if (strspn(text, "0123456789.") == strlen(text))
		r->share = parse_number(text, &end);
	if (!end || end == text || *end || !(r->share > 0 && r->share < 1))
		return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
				       "cannot prune '%s': not 2:4 nor a share between 0 and 1",
				       text);
	return 0;
}

int mfs_recipe_parse(mfs_recipe *out, const char *quantize, const char *prune, mfs_problem *why)
{
	int error = 0;

	memset(out, 0, sizeof(*out));
	if (quantize)
		error = parse_type(out, quantize, why);
	if (!error && prune)
		error = parse_share(out, prune, why);
	if (error)
		return error;
	snprintf(out->text, sizeof(out->text), "%s%s%s%.12s", quantize ? out->type->name : "",
		 quantize && prune ? " " : "", prune ? "pruned " : "", prune ? prune : "");
	return 0;
}

bool mfs_recipe_any(const mfs_recipe *r)
{
	return r->type || r->two_of_four || r->share > 0;
}

uint32_t mfs_recipe_ggml_type(const mfs_recipe *r)
{
	return r->type->ggml_type;
}

uint32_t mfs_recipe_file_type(const mfs_recipe *r)
{
	return r->type ? r->type->file_type : MFS_GGUF_KEEP;
}

bool mfs_recipe_is_nf4(const mfs_recipe *r)
{
	return r->type && r->type->ggml_type == MFS_GGUF_NF4;
}

/* ---- which tensors ---- */

/* Is the tensor one of the matrices that may be changed? */
static bool may_change(const mfs_import_tensor *t)
{
	uint32_t dims = t->dim_count;

	while (dims > 1 && t->dims[dims - 1] == 1)
		dims--;
	return dims >= 2 && !mfs_gguf_stays_float(t->name);
}

static bool is_float(const mfs_import_tensor *t)
{
	const mfs_dequant *from = mfs_dequant_ggml(t->layout->type_id);

	return from && from->block_weights == 1 && t->row_bytes > 1;
}

bool mfs_recipe_quantizes(const mfs_recipe *r, const mfs_import_tensor *t)
{
	const mfs_quantizer *to;

	if (!r->type || !is_float(t) || !may_change(t))
		return false;
	/* Blocks of NF4 go on from row to row. */
	to = mfs_quantizer_ggml(r->type->ggml_type);
	return !to || t->dims[0] % to->block_weights == 0;
}

bool mfs_recipe_prunes(const mfs_recipe *r, const mfs_import_tensor *t)
{
	return is_float(t) && may_change(t) &&
	       (r->share > 0 || (r->two_of_four && t->dims[0] % 4 == 0));
}
