/*
 * codec_speed [OPTIONS] [FILE ...]: what the codecs make of generated weights, or
 * of the tensors of model files, and how fast, on one core. Speeds count original
 * bytes and go by processor time. Of the rounds of decoding the fastest counts, which
 * is what the code can do where nothing else disturbs the machine; the median stands
 * beside it. General compressors take turns with modelfs, round by round; each decodes
 * 4 MiB in a round, what is smaller several times, as models have many small tensors.
 *
 *   -f KIB   frame size (that of profile sd)   -r MASK  codings refused, a bit each
 *   -n N     rounds (5)                  -d N     rounds of decoding (as -n)
 *   -t NAME  only what has NAME in its name
 *   -R N     rows of 4096 weights to generate (1024)
 *   -e       also the order-0 entropy of each stream
 *   -w DIR   write each tensor's bytes to DIR, for peers to measure
 *   -p       also general compressors, on the same bytes (needs -m)
 *   -m       tab-separated: codec, name, original bytes, stored bytes, pack MB/s,
 *            decode GB/s of the fastest and of the median round, spread of decode
 *            (slowest - fastest) / median, order-0 limit (modelfs only). A compressor
 *            that was not built in prints MISSING in place of the numbers.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <zstd.h>

#include "frame.h"
#include "import.h"
#include "layout_ggml.h"
#include "modelfs.h"
#include "peers.h"
#include "quantize.h"
#include "sample.h"

#define COLUMNS 4096

static uint32_t frame_asked; /* bytes; 0: what mkmodelfs takes */
static uint32_t refused;
static int rounds = 5, decode_rounds;
static int entropies, machine, with_peers;
static const char *only, *write_directory;
static size_t rows = 1024;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

__attribute__((noreturn)) static void die(const char *what)
{
	fprintf(stderr, "codec_speed: %s\n", what);
	exit(1);
}

static void *take(size_t size)
{
	void *memory = malloc(size);

	if (!memory)
		die("out of memory");
	return memory;
}

static int wanted(const char *name)
{
	return !only || strstr(name, only);
}

/* A tensor as the packer would see it. */
struct job {
	const mfs_layout *layout;
	const uint8_t *bytes;
	uint32_t blocks;
	uint32_t row_blocks;
	uint32_t frame_bytes;
	uint32_t span_blocks;
	uint32_t spans;
	mfs_coding_rules rules;
	mfs_encoder *encoder;
	mfs_decoder *decoder;
	mfs_tables *tables[MFS_SLOTS];
	uint64_t tables_bytes;
	uint8_t *stored[MFS_SLOTS]; /* frames, each in the room of its raw bytes */
	mfs_frame_info *info;	    /* two for each span */
};

static uint32_t blocks_of(const struct job *job, uint32_t span)
{
	uint32_t left = job->blocks - span * job->span_blocks;

	return left < job->span_blocks ? left : job->span_blocks;
}

static void build_tables(struct job *job)
{
	static uint8_t stored[MFS_TABLES_MAX];
	uint32_t wanted =
	    (uint32_t)(mfs_sample_bytes((uint64_t)job->blocks * job->layout->block_bytes) /
		       (job->span_blocks * job->layout->block_bytes));
	uint32_t count = wanted < 1 ? 1 : wanted > job->spans ? job->spans : wanted;
	uint8_t *sample = take((size_t)job->blocks * job->layout->block_bytes);
	mfs_sample what = {job->layout, sample, 0, job->span_blocks, job->spans, NULL};

	for (uint32_t i = 0; i < count; i++) {
		uint32_t span = job->spans / count * i + job->spans / count / 2;
		uint32_t blocks = blocks_of(job, span);

		memcpy(sample + (size_t)what.blocks * job->layout->block_bytes,
		       job->bytes + (size_t)span * job->span_blocks * job->layout->block_bytes,
		       (size_t)blocks * job->layout->block_bytes);
		what.blocks += blocks;
	}
	for (unsigned slot = 0; slot < MFS_SLOTS; slot++) {
		int64_t size = mfs_tables_build(job->encoder, &what, slot, &job->rules, stored,
						sizeof(stored));

		if (size < 0)
			die("tables");
		if (size && mfs_tables_open(&job->tables[slot], stored, (size_t)size,
					    job->layout->slot_streams[slot], 1))
			die("opening tables");
		job->tables_bytes += (uint64_t)size;
	}
	free(sample);
}

static uint64_t encode(struct job *job)
{
	const mfs_tables *const tables[MFS_SLOTS] = {job->tables[0], job->tables[1]};
	uint64_t stored = 0;

	for (uint32_t s = 0; s < job->spans; s++) {
		size_t first = (size_t)s * job->span_blocks;
		uint8_t *const out[MFS_SLOTS] = {
		    job->stored[0] + first * job->layout->slot_bytes[0],
		    job->stored[1] + first * job->layout->slot_bytes[1]};

		if (mfs_span_encode(job->encoder, job->layout, blocks_of(job, s),
				    job->bytes + first * job->layout->block_bytes, &job->rules,
				    tables, out, job->info + 2 * s))
			die("encoding");
		stored += job->info[2 * s].stored + job->info[2 * s + 1].stored;
	}
	return stored;
}

static void decode(struct job *job, uint8_t *out, int keep)
{
	for (uint32_t s = 0; s < job->spans; s++) {
		size_t first = (size_t)s * job->span_blocks;
		mfs_frame frame[MFS_SLOTS];

		for (int slot = 0; slot < MFS_SLOTS; slot++)
			frame[slot] = (mfs_frame){
			    job->stored[slot] + first * job->layout->slot_bytes[slot],
			    job->info[2 * s + (uint32_t)slot].stored, job->tables[slot]};
		if (mfs_span_decode(job->decoder, job->layout, blocks_of(job, s), frame,
				    out + keep * first * job->layout->block_bytes))
			die("decoding");
	}
}

/* ---- zstd -3 on the plain bytes, in units of a frame ---- */

struct unit_peer {
	double ratio, decode;
};

static struct unit_peer zstd_peer(const struct job *job)
{
	size_t bytes = (size_t)job->blocks * job->layout->block_bytes, unit = job->frame_bytes;
	size_t units = (bytes + unit - 1) / unit, stored = 0, room = ZSTD_compressBound(unit);
	uint8_t *coded = take(units * room), *out = take(unit);
	size_t *size = take(units * sizeof(*size));
	ZSTD_CCtx *c = ZSTD_createCCtx();
	ZSTD_DCtx *d = ZSTD_createDCtx();
	double best = INFINITY;

	for (size_t u = 0; u < units; u++) {
		size_t n = u + 1 < units ? unit : bytes - u * unit;

		size[u] = ZSTD_compressCCtx(c, coded + u * room, room, job->bytes + u * unit, n, 3);
		stored += size[u];
	}
	for (int r = 0; r < rounds; r++) {
		double start = now();

		for (size_t u = 0; u < units; u++)
			ZSTD_decompressDCtx(d, out, unit, coded + u * room, size[u]);
		best = fmin(best, now() - start);
	}
	ZSTD_freeCCtx(c);
	ZSTD_freeDCtx(d);
	free(coded);
	free(out);
	free(size);
	return (struct unit_peer){(double)bytes / (double)stored, (double)bytes / best / 1e9};
}

static double entropy(const uint8_t *bytes, size_t size)
{
	size_t count[256] = {0};
	double bits = 0;

	for (size_t i = 0; i < size; i++)
		count[bytes[i]]++;
	for (int k = 0; k < 256; k++)
		if (count[k])
			bits += (double)count[k] * log2((double)size / (double)count[k]);
	return bits / 8;
}

/* Original size over the sum of the streams' order-0 entropies. */
static double order0_limit(const struct job *job)
{
	uint8_t *stream[MFS_STREAMS_MAX];
	double sum = 0, raw = 0;

	for (uint32_t s = 0; s < job->layout->stream_count; s++)
		stream[s] = take((size_t)job->blocks * job->layout->stream[s].per_block);
	mfs_layout_split(job->layout, job->blocks, job->bytes, stream);
	for (uint32_t s = 0; s < job->layout->stream_count; s++) {
		const mfs_stream *about = &job->layout->stream[s];
		const mfs_field *field = &job->layout->field[about->field];
		double bytes = entropy(stream[s], (size_t)job->blocks * about->per_block);

		if (entropies)
			printf("    %.*s.%u %.4f of %u bytes\n", (int)field->name_length,
			       field->name, about->plane, bytes / (double)job->blocks,
			       about->per_block);
		sum += bytes;
		raw += (double)job->blocks * about->per_block;
		free(stream[s]);
	}
	return sum > 0 ? raw / sum : INFINITY;
}

struct result {
	uint64_t stored;
	double coding, tables;		/* seconds */
	double fastest, median, spread; /* of decoding; spread is a share */
};

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* What the seconds of `count` rounds say. */
static void summarize(double *seconds, int count, struct result *result)
{
	qsort(seconds, (size_t)count, sizeof(*seconds), by_value);
	result->fastest = seconds[0];
	result->median = seconds[count / 2];
	result->spread = (seconds[count - 1] - seconds[0]) / result->median;
}

/* A general compressor and what it made of the bytes. */
struct racer {
	const struct peer *peer;
	size_t size;
	uint8_t *coded;
	double *seconds;
	struct result result;
};

static void racer_pack(struct racer *racer, const uint8_t *bytes, size_t size, int count)
{
	size_t room;
	uint8_t *coded;
	double start;

	racer->size = racer->peer->slow && size > PEER_SLOW_BYTES ? (size_t)PEER_SLOW_BYTES : size;
	room = bench_peer_room(racer->size);
	coded = take(room);
	start = now();
	racer->result.stored = racer->peer->pack(bytes, racer->size, coded, room);
	racer->result.coding = now() - start;
	if (!racer->result.stored)
		die(racer->peer->name);
	racer->coded = realloc(coded, racer->result.stored);
	racer->seconds = take((size_t)count * sizeof(double));
}

#define ROUND_BYTES (4u << 20)

static unsigned times_a_round(size_t size)
{
	return size < ROUND_BYTES ? (unsigned)(ROUND_BYTES / size) : 1;
}

static double racer_unpack(const struct racer *racer, uint8_t *out)
{
	const unsigned times = times_a_round(racer->size);
	double start = now();

	for (unsigned i = 0; i < times; i++)
		if (racer->peer->unpack(racer->coded, racer->result.stored, out, racer->size) !=
		    racer->size)
			die(racer->peer->name);
	return (now() - start) / times;
}

static void racer_print(const struct racer *racer, const char *name)
{
	const struct result *result = &racer->result;

	printf("%s\t%s\t%zu\t%llu\t%.1f\t%.3f\t%.3f\t%.3f\t\n", racer->peer->name, name,
	       racer->size, (unsigned long long)result->stored,
	       (double)racer->size / result->coding / 1e6,
	       (double)racer->size / result->fastest / 1e9,
	       (double)racer->size / result->median / 1e9, result->spread);
}

/* Packs with every peer that is there; returns their number. */
static unsigned racers_pack(struct racer racer[], const struct job *job, const char *name,
			    size_t size, int count)
{
	unsigned racers = 0;

	bench_peers_tell_type(name);
	for (unsigned p = 0; with_peers && p < bench_peer_count; p++) {
		if (!bench_peers[p].pack) {
			printf("%s\t%s\tMISSING\n", bench_peers[p].name, name);
			continue;
		}
		racer[racers] = (struct racer){.peer = &bench_peers[p]};
		racer_pack(&racer[racers++], job->bytes, size, count);
	}
	return racers;
}

static void time_decoding(struct job *job, const char *name, size_t size, struct result *result)
{
	int count = decode_rounds ? decode_rounds : rounds;
	double *seconds = take((size_t)count * sizeof(*seconds));
	struct racer *racer = take(bench_peer_count * sizeof(*racer));
	unsigned racers = racers_pack(racer, job, name, size, count);
	uint8_t *out = take(size);

	decode(job, out, 1);
	if (memcmp(out, job->bytes, size))
		die("wrong bytes");
	for (int r = 0; r < count; r++) {
		const unsigned times = times_a_round(size);
		double start = now();

		for (unsigned i = 0; i < times; i++)
			decode(job, out, 0);
		seconds[r] = (now() - start) / times;
		for (unsigned p = 0; p < racers; p++) {
			racer[p].seconds[r] = racer_unpack(&racer[p], out);
			if (r == 0 && memcmp(out, job->bytes, racer[p].size))
				die(racer[p].peer->name);
		}
	}
	summarize(seconds, count, result);
	for (unsigned p = 0; p < racers; p++) {
		summarize(racer[p].seconds, count, &racer[p].result);
		racer_print(&racer[p], name);
		free(racer[p].coded);
		free(racer[p].seconds);
	}
	free(racer);
	free(seconds);
	free(out);
}

static void print_for_people(struct job *job, const char *name, size_t size,
			     const struct result *result)
{
	uint64_t by[MFS_CODINGS] = {0};
	struct unit_peer peer = zstd_peer(job);

	printf("%-16s %8.4f %6.0f MB/s %6.2f GB/s (median %.2f) | zstd -3 %7.4f %5.2f GB/s | "
	       "tables %5llu B "
	       "%4.1f ms |",
	       name, (double)size / (double)result->stored, (double)size / result->coding / 1e6,
	       (double)size / result->fastest / 1e9, (double)size / result->median / 1e9,
	       peer.ratio, peer.decode, (unsigned long long)job->tables_bytes,
	       result->tables * 1e3);
	for (uint32_t i = 0; i < 2 * job->spans; i++)
		for (int c = 0; c < MFS_CODINGS; c++)
			by[c] += job->info[i].by_coding[c];
	for (int c = 0; c < MFS_CODINGS; c++)
		if (by[c])
			printf(" %s %.0f%%", mfs_coding_name((unsigned)c),
			       100 * (double)by[c] / (double)size);
	printf("\n");
	if (entropies)
		printf("    order-0 limit %.4f\n", order0_limit(job));
}

static void print_for_machines(const struct job *job, const char *name, size_t size,
			       const struct result *result)
{
	printf("modelfs\t%s\t%zu\t%llu\t%.1f\t%.3f\t%.3f\t%.3f\t%.4f\n", name, size,
	       (unsigned long long)result->stored, (double)size / result->coding / 1e6,
	       (double)size / result->fastest / 1e9, (double)size / result->median / 1e9,
	       result->spread, order0_limit(job));
	fflush(stdout);
}

static void write_bytes(const char *name, const uint8_t *bytes, size_t size)
{
	char path[4096];
	FILE *file;

	if (snprintf(path, sizeof(path), "%s/%s", write_directory, name) >= (int)sizeof(path))
		die("the path is too long");
	file = fopen(path, "wb");
	if (!file || fwrite(bytes, 1, size, file) != size || fclose(file))
		die("cannot write");
}

static uint32_t frame_of(const mfs_layout *layout)
{
	mfs_profile profile = {.size = sizeof(profile)};

	if (frame_asked)
		return frame_asked;
	mfs_profile_get(MFS_PROFILE_SD, &profile);
	return layout->slot_streams[1] ? profile.quantized_frame_bytes : profile.frame_bytes;
}

static void cut_into_spans(struct job *job)
{
	job->frame_bytes = frame_of(job->layout);
	job->span_blocks = job->frame_bytes / job->layout->block_bytes;
	if (job->row_blocks && job->row_blocks <= job->span_blocks)
		job->span_blocks -= job->span_blocks % job->row_blocks;
	if (job->span_blocks > job->blocks)
		job->span_blocks = job->blocks;
	job->spans = (job->blocks + job->span_blocks - 1) / job->span_blocks;
}

static void measure(const char *name, const mfs_layout *layout, const uint8_t *bytes, size_t size,
		    uint32_t row_blocks)
{
	struct job job = {.layout = layout,
			  .bytes = bytes,
			  .blocks = (uint32_t)(size / layout->block_bytes),
			  .row_blocks = row_blocks};
	struct result result = {.coding = INFINITY};
	double start;

	cut_into_spans(&job);
	job.rules = (mfs_coding_rules){.min_gain = 2, .refused = refused, .row_blocks = row_blocks};
	job.encoder = mfs_encoder_new(job.frame_bytes);
	job.decoder = mfs_decoder_new(job.frame_bytes);
	job.info = take(sizeof(*job.info) * 2 * job.spans);
	for (int slot = 0; slot < MFS_SLOTS; slot++)
		job.stored[slot] = take((size_t)job.blocks * layout->slot_bytes[slot] + 1);
	start = now();
	build_tables(&job);
	result.tables = now() - start;
	for (int r = 0; r < rounds; r++) {
		start = now();
		result.stored = encode(&job) + job.tables_bytes;
		result.coding = fmin(result.coding, now() - start);
	}
	time_decoding(&job, name, size, &result);
	if (machine)
		print_for_machines(&job, name, size, &result);
	else
		print_for_people(&job, name, size, &result);
	if (write_directory)
		write_bytes(name, bytes, size);
	for (int slot = 0; slot < MFS_SLOTS; slot++) {
		mfs_tables_free(job.tables[slot]);
		free(job.stored[slot]);
	}
	mfs_encoder_free(job.encoder);
	mfs_decoder_free(job.decoder);
	free(job.info);
}

/* ---- what is measured ---- */

enum origin { FROM_BF16, GENUINE };

static void generated(const char *name, unsigned type, enum origin origin, enum weights_kind kind)
{
	static float *weights[2][2];
	size_t count = (size_t)rows * COLUMNS;
	const mfs_layout *layout = mfs_layout_ggml(type);
	float **at = &weights[kind][origin];
	size_t size = count / layout->block_weights * layout->block_bytes;
	uint8_t *bytes;

	if (!wanted(name))
		return;
	bytes = take(size);
	if (!*at) {
		*at = take(count * sizeof(float));
		weights_make(*at, rows, COLUMNS, kind, origin == FROM_BF16, 1);
	}
	bench_quantize(type, *at, count, bytes);
	measure(name, layout, bytes, size, COLUMNS / layout->block_weights);
	free(bytes);
}

static int by_magnitude(const void *a, const void *b)
{
	float x = fabsf(*(const float *)a), y = fabsf(*(const float *)b);

	return (x > y) - (x < y);
}

/* The smaller half of each run of `of` weights becomes zero. */
static void pruned(const char *name, unsigned type, size_t of)
{
	size_t count = (size_t)rows * COLUMNS;
	const mfs_layout *layout = mfs_layout_ggml(type);
	size_t size = count / layout->block_weights * layout->block_bytes;
	float *weights, *sorted;
	uint8_t *bytes;

	if (!wanted(name))
		return;
	weights = take(count * sizeof(float));
	sorted = take(of * sizeof(float));
	bytes = take(size);
	weights_make(weights, rows, COLUMNS, WEIGHTS_GAUSSIAN, 1, 1);
	for (size_t first = 0; first < count; first += of) {
		memcpy(sorted, weights + first, of * sizeof(float));
		qsort(sorted, of, sizeof(float), by_magnitude);
		for (size_t i = first; i < first + of; i++)
			if (fabsf(weights[i]) <= fabsf(sorted[of / 2 - 1]))
				weights[i] = 0;
	}
	bench_quantize(type, weights, count, bytes);
	measure(name, layout, bytes, size, COLUMNS / layout->block_weights);
	free(weights);
	free(sorted);
	free(bytes);
}

static void all_generated(void)
{
	pruned("BF16 pruned", 30, COLUMNS);
	pruned("BF16 2:4", 30, 4);
	pruned("F16 pruned", 1, COLUMNS);
	generated("BF16", 30, FROM_BF16, WEIGHTS_GAUSSIAN);
	generated("F32 from BF16", 0, FROM_BF16, WEIGHTS_GAUSSIAN);
	generated("F16 from BF16", 1, FROM_BF16, WEIGHTS_GAUSSIAN);
	generated("F16", 1, GENUINE, WEIGHTS_GAUSSIAN);
	generated("F32", 0, GENUINE, WEIGHTS_GAUSSIAN);
	generated("Q8_0", 8, FROM_BF16, WEIGHTS_GAUSSIAN);
	generated("Q6_K", 14, FROM_BF16, WEIGHTS_GAUSSIAN);
	generated("Q5_K", 13, FROM_BF16, WEIGHTS_GAUSSIAN);
	generated("Q5_0", 6, FROM_BF16, WEIGHTS_GAUSSIAN);
	generated("Q4_K", 12, FROM_BF16, WEIGHTS_GAUSSIAN);
	generated("Q4_K heavy", 12, FROM_BF16, WEIGHTS_HEAVY);
	generated("Q4_0", 2, FROM_BF16, WEIGHTS_GAUSSIAN);
	generated("Q3_K", 11, FROM_BF16, WEIGHTS_GAUSSIAN);
	generated("Q2_K", 10, FROM_BF16, WEIGHTS_GAUSSIAN);
	generated("IQ4_NL", 20, FROM_BF16, WEIGHTS_GAUSSIAN);
	generated("IQ4_XS", 23, FROM_BF16, WEIGHTS_GAUSSIAN);
	generated("MXFP4", 39, FROM_BF16, WEIGHTS_GAUSSIAN);
}

static void measure_file(const char *path)
{
	mfs_source source;
	mfs_import import;

	if (mfs_source_open(&source, path, NULL) || mfs_import_source(&import, &source, NULL))
		die(path);
	for (uint32_t i = 0; i < import.tensor_count; i++) {
		const mfs_import_tensor *t = &import.tensors[i];
		uint64_t block = t->layout->block_bytes;
		uint8_t *bytes;

		if (t->size < 65536 || !wanted(t->name))
			continue;
		bytes = take(t->size);
		if (source.read_at(&source, t->offset, bytes, t->size))
			die("reading");
		measure(t->name, t->layout, bytes, t->size,
			t->row_bytes % block ? 0 : (uint32_t)(t->row_bytes / block));
		free(bytes);
	}
	mfs_import_free(&import);
	mfs_source_close(&source);
}

int main(int argc, char **argv)
{
	int option;

	while ((option = getopt(argc, argv, "f:r:n:d:t:eR:w:mp")) != -1) {
		if (option == 'f')
			frame_asked = (uint32_t)atoi(optarg) << 10;
		else if (option == 'r')
			refused = (uint32_t)strtoul(optarg, NULL, 0);
		else if (option == 'n')
			rounds = atoi(optarg);
		else if (option == 'd')
			decode_rounds = atoi(optarg);
		else if (option == 't')
			only = optarg;
		else if (option == 'e')
			entropies = 1;
		else if (option == 'R')
			rows = (size_t)atoi(optarg);
		else if (option == 'w')
			write_directory = optarg;
		else if (option == 'm')
			machine = 1;
		else if (option == 'p')
			with_peers = 1;
		else
			return 2;
	}
	if (optind == argc)
		all_generated();
	for (; optind < argc; optind++)
		measure_file(argv[optind]);
	return 0;
}
