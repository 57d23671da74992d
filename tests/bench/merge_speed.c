/*
 * How fast one core does the arithmetic of views: dequantizing, writing, NF4,
 * quantizing and merging (MERGE-1). Prints GB/s of output, the best of several
 * runs; for quantizers, million weights a second.
 *
 *   merge_speed [-n RUNS] [-p] [FILTER]     -p: portable code, without AVX2
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "dequant.h"
#include "merge.h"
#include "nf4.h"
#include "quantize.h"
#include "quantizers.h"
#include "store.h"

#define ROWS	 512
#define COLUMNS	 4096
#define WEIGHTS	 ((size_t)ROWS * COLUMNS)
#define SPAN	 ((size_t)65536) /* weights: 128 KiB of F16 */
#define RANK_MAX 64

static int runs = 5;
static mfs_simd simd;
static const char *filter = "";
static float *weights, *floats, *a, *b, *panels;
static uint8_t *blocks, *out;

static double now(void)
{
	struct timespec t;

	/* What other programs take away does not count. */
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Runs what `work` does with `argument`; `amount` is in units of 1e9. */
static void measure(const char *name, void (*work)(const void *), const void *argument,
		    double amount, const char *unit)
{
	double best = 1e9;

	if (!strstr(name, filter))
		return;
	for (int i = 0; i < runs; i++) {
		double start = now(), took;

		work(argument);
		took = now() - start;
		best = took < best ? took : best;
	}
	printf("%-28s %8.3f %s\n", name, amount / best, unit);
}

/* ---- dequantizing and writing ---- */

static void do_dequantize(const void *argument)
{
	const mfs_dequant *type = argument;

	for (size_t at = 0; at < WEIGHTS; at += SPAN)
		mfs_dequantize(type, simd, blocks + at / type->block_weights * type->block_bytes,
			       SPAN / type->block_weights, floats);
}

static void do_store(const void *argument)
{
	const mfs_store *type = argument;

	for (size_t at = 0; at < WEIGHTS; at += SPAN)
		mfs_store_floats(type, simd, weights + at, SPAN / type->block_weights, out);
}

static void measure_types(void)
{
	static const uint32_t stored[] = {MFS_GGML_F32, MFS_GGML_F16, MFS_GGML_BF16, MFS_GGML_Q8_0};
	char name[64];

	for (uint32_t i = 0; i < mfs_dequant_count(); i++) {
		const mfs_dequant *type = mfs_dequant_row(i);

		snprintf(name, sizeof(name), "%s -> F32", type->name);
		measure(name, do_dequantize, type, WEIGHTS * 4e-9, "GB/s");
	}
	for (size_t i = 0; i < 4; i++) {
		const mfs_store *type = mfs_store_ggml(stored[i]);

		snprintf(name, sizeof(name), "F32 -> %s", type->name);
		measure(name, do_store, type,
			(double)(WEIGHTS / type->block_weights * type->block_bytes) * 1e-9, "GB/s");
	}
}

/* ---- merging ---- */

struct merging {
	mfs_merge merge;
	mfs_merge_base base;
	const uint8_t *codes;
	const float *scales;
};

static void do_merge(const void *argument)
{
	const struct merging *m = argument;
	mfs_merge_base base = m->base;

	for (size_t at = 0; at < WEIGHTS; at += SPAN) {
		if (base.type) {
			base.blocks =
			    blocks + at / base.type->block_weights * base.type->block_bytes;
		} else {
			base.codes = m->codes + at / 2;
			base.scales = m->scales + at / base.nf4->block;
		}
		mfs_merge_span(&m->merge, &base, at, SPAN, out);
	}
}

static void measure_merge(const char *from, const mfs_merge_base *base, uint32_t to, uint32_t rank,
			  const uint8_t *codes, const float *scales)
{
	const mfs_merge_adapter adapter = {
	    .panels = panels, .b = b, .row_step = rank, .rank_step = 1, .rank = rank, .scale = 2};
	const struct merging m = {.merge = {.columns = COLUMNS,
					    .type = mfs_store_ggml(to),
					    .adapter = &adapter,
					    .adapters = rank != 0,
					    .simd = simd},
				  .base = *base,
				  .codes = codes,
				  .scales = scales};
	const mfs_store *type = m.merge.type;
	char name[64];

	mfs_merge_pack(a, COLUMNS, 1, rank, COLUMNS, panels);
	snprintf(name, sizeof(name), "merge %s -> %s r=%u", from, type->name, rank);
	measure(name, do_merge, &m,
		(double)(WEIGHTS / type->block_weights * type->block_bytes) * 1e-9, "GB/s");
}

static void measure_merges(void)
{
	static const uint32_t bases[] = {MFS_GGML_F32,	MFS_GGML_F16,  MFS_GGML_BF16, MFS_GGML_Q8_0,
					 MFS_GGML_Q4_0, MFS_GGML_Q4_K, MFS_GGML_Q6_K};
	static const uint32_t ranks[] = {0, 8, 16, 64};

	for (size_t i = 0; i < sizeof(bases) / sizeof(*bases); i++) {
		const mfs_merge_base base = {.type = mfs_dequant_ggml(bases[i])};

		bench_quantize(bases[i], weights, WEIGHTS, blocks);
		for (size_t r = 0; r < 4; r++) {
			measure_merge(base.type->name, &base, MFS_GGML_F16, ranks[r], NULL, NULL);
			measure_merge(base.type->name, &base, MFS_GGML_Q8_0, ranks[r], NULL, NULL);
		}
	}
}

static void measure_nf4_merges(const mfs_nf4 *nf4, const uint8_t *codes, const float *scales)
{
	const mfs_merge_base base = {.nf4 = nf4};

	measure_merge("NF4", &base, MFS_GGML_BF16, 0, codes, scales);
	measure_merge("NF4", &base, MFS_GGML_F16, 0, codes, scales);
	measure_merge("NF4", &base, MFS_GGML_BF16, 16, codes, scales);
	measure_merge("NF4", &base, MFS_GGML_BF16, 64, codes, scales);
}

/* ---- quantizing ---- */

static void do_nf4(const void *argument)
{
	const mfs_nf4 *nf4 = argument;

	mfs_nf4_absmax(nf4, weights, WEIGHTS, floats);
	mfs_nf4_codes(nf4, weights, floats, WEIGHTS, out);
}

static void do_quantize(const void *argument)
{
	mfs_quantize(argument, simd, weights,
		     WEIGHTS / ((const mfs_quantizer *)argument)->block_weights, out);
}

static void measure_quantizers(void)
{
	static const uint32_t to[] = {MFS_GGML_Q8_0, MFS_GGML_Q4_0, MFS_GGML_Q4_K, MFS_GGML_Q6_K};
	char name[64];

	for (size_t i = 0; i < 4; i++) {
		const mfs_quantizer *type = mfs_quantizer_ggml(to[i]);

		snprintf(name, sizeof(name), "quantize %s", type->name);
		measure(name, do_quantize, type, WEIGHTS * 1e-6, "Mweights/s");
	}
}

static void measure_nf4(void)
{
	static float absmax[WEIGHTS / 64], scales[WEIGHTS / 64], nested[WEIGHTS / 64 / 256];
	static uint8_t codes[WEIGHTS / 2], absmax8[WEIGHTS / 64];
	mfs_nf4 nf4;

	mfs_nf4_init(&nf4);
	mfs_nf4_absmax(&nf4, weights, WEIGHTS, absmax);
	mfs_nf4_codes(&nf4, weights, absmax, WEIGHTS, codes);
	nf4.offset = absmax[0];
	mfs_nf4_nest(&nf4, absmax, WEIGHTS / 64, absmax8, nested);
	mfs_nf4_scales(&nf4, absmax8, (const uint8_t *)nested, 0, WEIGHTS / 64, scales);
	measure_nf4_merges(&nf4, codes, scales);
	measure("quantize NF4", do_nf4, &nf4, WEIGHTS * 1e-6, "Mweights/s");
}

static void *allocate(size_t size)
{
	void *memory = calloc(size, 1);

	if (!memory) {
		fputs("merge_speed: out of memory\n", stderr);
		exit(1);
	}
	return memory;
}

int main(int argc, char **argv)
{
	int option;

	simd = mfs_simd_best();
	while ((option = getopt(argc, argv, "n:p")) != -1) {
		if (option == 'n' && atoi(optarg) > 0) {
			runs = atoi(optarg);
		} else if (option == 'p') {
			simd = MFS_SIMD_PORTABLE;
		} else {
			fputs("usage: merge_speed [-n RUNS] [-p] [FILTER]\n", stderr);
			return 2;
		}
	}
	if (optind < argc)
		filter = argv[optind];
	weights = allocate(WEIGHTS * sizeof(float));
	floats = allocate(SPAN * sizeof(float));
	a = allocate(RANK_MAX * COLUMNS * sizeof(float));
	b = allocate(RANK_MAX * ROWS * sizeof(float));
	panels = allocate(RANK_MAX * COLUMNS * sizeof(float));
	blocks = allocate(WEIGHTS * sizeof(float) * 2);
	out = allocate(WEIGHTS * sizeof(float));
	weights_make(weights, ROWS, COLUMNS, WEIGHTS_GAUSSIAN, 0, 1);
	weights_make(a, RANK_MAX, COLUMNS, WEIGHTS_GAUSSIAN, 0, 2);
	weights_make(b, ROWS, RANK_MAX, WEIGHTS_GAUSSIAN, 0, 3);
	printf("%s code, best of %d runs\n", simd == MFS_SIMD_AVX2 ? "AVX2" : "portable", runs);
	measure_types();
	measure_merges();
	measure_nf4();
	measure_quantizers();
	return 0;
}
