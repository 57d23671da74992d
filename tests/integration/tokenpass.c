/*
 * Touches a mapped model as llama.cpp does when it computes tokens from it: a few
 * rows of the token embedding, then layer by layer each tensor, last the output.
 * The rows of a tensor are shared out among the threads, each goes up its slice;
 * of stacked experts each token takes a few.
 *
 *   tokenpass [-t THREADS] [-n TOKENS] [-e EXPERTS] [-s SEED] [-l LAYERS] [-d] [-r] [-j]
 *             CONTAINER NAME MOUNTED [SOURCE]
 *
 * Where the tensors of file NAME lie is taken from CONTAINER; MOUNTED is mapped.
 * -d: memory pages are dropped before each token. -r: instead, 4 KiB at random
 * places. With SOURCE every byte is compared. Prints seconds for each token; with -j
 * one line of JSON instead, with the bytes touched and their sum.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "modelfs.h"

#define THREADS_MAX  64
#define RANDOM_READS 200

typedef struct {
	const uint8_t *bytes, *source; /* mapped; source may be NULL */
	uint64_t size;
	pthread_barrier_t barrier;
	unsigned threads;
	_Atomic uint64_t touched, sum; /* bytes; sum of one in 64 of them */
	/* What is being read; changed between the barriers only. */
	uint64_t from, to;
	bool over;
} pass;

static mfs_container *container;
static uint32_t file;
static uint64_t random_state = 1;

static void die(const char *what)
{
	fprintf(stderr, "tokenpass: %s\n", what);
	exit(1);
}

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static void read_bytes(pass *p, uint64_t from, uint64_t to)
{
	uint64_t sum = 0, at;

	atomic_fetch_add_explicit(&p->touched, to - from, memory_order_relaxed);
	if (p->source) {
		if (memcmp(p->bytes + from, p->source + from, to - from))
			die("the mount has other bytes than the source");
		return;
	}
	for (at = from; at + 64 <= to; at += 64)
		sum += p->bytes[at];
	atomic_fetch_add_explicit(&p->sum, sum, memory_order_relaxed);
}

/* Thread `i` of a tensor: the rows from i / threads to (i + 1) / threads. */
static void read_share(pass *p, unsigned i)
{
	uint64_t bytes = p->to - p->from;

	read_bytes(p, p->from + bytes * i / p->threads, p->from + bytes * (i + 1) / p->threads);
}

typedef struct {
	pass *p;
	unsigned number;
	pthread_t thread;
} helper;

static void *help(void *argument)
{
	helper *h = argument;

	for (;;) {
		pthread_barrier_wait(&h->p->barrier);
		if (h->p->over)
			return NULL;
		read_share(h->p, h->number);
		pthread_barrier_wait(&h->p->barrier);
	}
}

static void read_together(pass *p, uint64_t from, uint64_t to)
{
	p->from = from;
	p->to = to;
	pthread_barrier_wait(&p->barrier);
	read_share(p, 0);
	pthread_barrier_wait(&p->barrier);
}

static bool find_tensor(const char *name, mfs_tensor_info *out)
{
	mfs_file_info f = {.size = sizeof(f)};

	mfs_file_stat(container, file, &f);
	for (uint32_t i = 0; i < f.tensors; i++) {
		*out = (mfs_tensor_info){.size = sizeof(*out)};
		if (mfs_tensor_get(container, f.first_tensor + i, out))
			die("cannot read the container's index");
		if (!strcmp(out->name, name))
			return true;
	}
	return false;
}

/* The places of a layer's tensors are looked up once. */
typedef struct {
	uint64_t offset, bytes, slices;
} tensor_place;

static const char *const dense[] = {"attn_norm",   "attn_q",   "attn_k",       "attn_v",
				    "attn_output", "ffn_norm", "ffn_gate_inp", "ffn_gate",
				    "ffn_up",	   "ffn_down"};
static const char *const stacked[] = {"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"};
#define DENSE	(sizeof(dense) / sizeof(dense[0]))
#define STACKED (sizeof(stacked) / sizeof(stacked[0]))

typedef struct {
	tensor_place embedding, norm, output;
	tensor_place (*layers)[DENSE + STACKED];
	unsigned count;
	uint64_t row;
} model;

static tensor_place place_of(const char *name)
{
	mfs_tensor_info t;

	if (!find_tensor(name, &t))
		return (tensor_place){0};
	return (tensor_place){t.file_offset, t.tensor_bytes, t.dim_count == 3 ? t.dims[2] : 1};
}

static model find_places(unsigned most)
{
	model m = {.embedding = place_of("token_embd.weight"),
		   .norm = place_of("output_norm.weight"),
		   .output = place_of("output.weight")};
	mfs_tensor_info t;
	char name[64];

	if (!find_tensor("token_embd.weight", &t))
		die("the file has no token embedding");
	m.row = t.tensor_bytes / t.dims[1];
	m.layers = calloc(most, sizeof(*m.layers));
	for (; m.count < most; m.count++) {
		tensor_place *layer = m.layers[m.count];

		for (size_t i = 0; i < DENSE + STACKED; i++) {
			snprintf(name, sizeof(name), "blk.%u.%s.weight", m.count,
				 i < DENSE ? dense[i] : stacked[i - DENSE]);
			layer[i] = place_of(name);
		}
		if (!layer[0].bytes)
			break;
	}
	return m;
}

static void read_tensor(pass *p, const tensor_place *t)
{
	if (t->bytes)
		read_together(p, t->offset, t->offset + t->bytes);
}

static void read_experts(pass *p, const tensor_place layer[], unsigned experts)
{
	uint64_t chosen[64], count = layer[0].slices;

	if (!layer[0].bytes)
		return;
	for (unsigned i = 0; i < experts; i++)
		chosen[i] = next_random() % count;
	for (unsigned k = 0; k < STACKED; k++)
		for (unsigned i = 0; i < experts; i++) {
			uint64_t bytes = layer[k].bytes / count;
			uint64_t at = layer[k].offset + chosen[i] * bytes;

			read_together(p, at, at + bytes);
		}
}

static void compute_token(pass *p, const model *m, unsigned experts)
{
	uint64_t row = next_random() % (m->embedding.bytes / m->row);
	uint64_t at = m->embedding.offset + row * m->row;

	read_bytes(p, at, at + m->row);
	for (unsigned l = 0; l < m->count; l++) {
		for (size_t i = 0; i < DENSE; i++)
			read_tensor(p, &m->layers[l][i]);
		read_experts(p, m->layers[l] + DENSE, experts);
	}
	read_tensor(p, &m->norm);
	read_tensor(p, &m->output);
}

static void read_at_random(pass *p)
{
	madvise((void *)(uintptr_t)p->bytes, p->size, MADV_RANDOM);
	for (unsigned i = 0; i < RANDOM_READS; i++) {
		uint64_t at = next_random() % (p->size - 4096);

		read_bytes(p, at, at + 64);
	}
}

static const uint8_t *map(const char *path, int *fd, uint64_t *size)
{
	struct stat st;
	void *bytes;

	*fd = open(path, O_RDONLY | O_CLOEXEC);
	if (*fd < 0 || fstat(*fd, &st) < 0)
		die("cannot open a file");
	*size = (uint64_t)st.st_size;
	bytes = mmap(NULL, *size, PROT_READ, MAP_SHARED, *fd, 0);
	if (bytes == MAP_FAILED)
		die("cannot map a file");
	return bytes;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

typedef struct {
	unsigned threads, tokens, experts, layers;
	bool drop, random, json;
} options;

static double cpu_seconds(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void run(const options *o, char **paths)
{
	pass p = {.threads = o->threads};
	helper helpers[THREADS_MAX];
	model m = find_places(o->layers);
	uint64_t source_size;
	double seconds = 0, cpu = 0;
	int fd, source_fd;

	if (paths[3])
		p.source = map(paths[3], &source_fd, &source_size);
	pthread_barrier_init(&p.barrier, NULL, o->threads);
	for (unsigned i = 1; i < o->threads; i++) {
		helpers[i] = (helper){.p = &p, .number = i};
		pthread_create(&helpers[i].thread, NULL, help, &helpers[i]);
	}
	for (unsigned t = 0; t < o->tokens; t++) {
		double start, took;

		p.bytes = map(paths[2], &fd, &p.size);
		if (o->drop) {
			munmap((void *)(uintptr_t)p.bytes, p.size);
			posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
			close(fd);
			p.bytes = map(paths[2], &fd, &p.size);
		}
		cpu -= cpu_seconds();
		start = now();
		if (o->random)
			read_at_random(&p);
		else
			compute_token(&p, &m, o->experts);
		took = now() - start;
		cpu += cpu_seconds();
		seconds += took;
		if (!o->json)
			printf("%.3f\n", took);
		munmap((void *)(uintptr_t)p.bytes, p.size);
		close(fd);
	}
	p.over = true;
	pthread_barrier_wait(&p.barrier);
	for (unsigned i = 1; i < o->threads; i++)
		pthread_join(helpers[i].thread, NULL);
	free(m.layers);
	if (o->json)
		printf("{\"tokens\":%u,\"bytes\":%" PRIu64 ",\"seconds\":%.6f,"
		       "\"cpu_seconds\":%.6f,\"sum\":%" PRIu64 "}\n",
		       o->tokens, p.touched, seconds, cpu, p.sum);
}

int main(int argc, char **argv)
{
	options o = {.threads = 1, .tokens = 1, .experts = 2, .layers = 256};
	mfs_problem why = {0};
	int64_t number;
	int option;

	while ((option = getopt(argc, argv, "t:n:e:s:l:drj")) != -1) {
		unsigned value = optarg ? (unsigned)strtoul(optarg, NULL, 0) : 0;

		switch (option) {
		case 't':
			o.threads = value;
			break;
		case 'n':
			o.tokens = value;
			break;
		case 'e':
			o.experts = value;
			break;
		case 's':
			random_state = value | 1;
			break;
		case 'l':
			o.layers = value;
			break;
		case 'd':
			o.drop = true;
			break;
		case 'r':
			o.random = true;
			break;
		case 'j':
			o.json = true;
			break;
		default:
			return 2;
		}
	}
	if (argc - optind < 3 || !o.threads || o.threads > THREADS_MAX || o.experts > 64)
		die("usage: tokenpass [OPTIONS] CONTAINER NAME MOUNTED [SOURCE]");
	if (mfs_open(&container, argv[optind], NULL, &why))
		die(why.text);
	number = mfs_file_find(container, argv[optind + 1]);
	if (number < 0)
		die("the container has no such file");
	file = (uint32_t)number;
	setvbuf(stdout, NULL, _IOLBF, 0);
	run(&o, argv + optind);
	mfs_close(container);
	return 0;
}
