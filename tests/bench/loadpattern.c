/*
 * Reads a model file the way programs do, and says how long it took:
 *
 *   loadpattern [OPTIONS] PATTERN FILE
 *
 * Prints one line of JSON. `sum` is the sum of one byte of each memory page that
 * was looked at, so that runs over copies of one file can be compared.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX  64
#define DIRECT_BYTES (1u << 20)
#define HEADER_READ  4096

typedef struct {
	const char *path;
	uint64_t size; /* of the file */
	uint64_t memory_page;
	uint64_t faults;  /* of `random`, at most, */
	uint64_t seconds; /* and not begun later than this */
	uint64_t header;  /* bytes that `load` reads before it maps */
	unsigned threads; /* of `threads` */
	unsigned passes;  /* of `warm` and `passes` */
	uint64_t seed;
	const char *counter; /* file with a block device's counters, or NULL */
} job;

typedef struct {
	uint64_t bytes; /* of the file that were looked at in the time measured */
	uint64_t sum;
	double seconds, cpu_seconds;
	const char *more; /* further members, each after a comma; or NULL */
} outcome;

typedef struct {
	struct timespec wall;
	double cpu;
} instant;

static void die(const char *what)
{
	fprintf(stderr, "loadpattern: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double cpu_seconds(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static struct timespec now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t;
}

static double seconds_since(struct timespec start)
{
	struct timespec t = now();

	return (double)(t.tv_sec - start.tv_sec) + (double)(t.tv_nsec - start.tv_nsec) / 1e9;
}

static instant begin(void)
{
	return (instant){now(), cpu_seconds()};
}

static void end(outcome *o, instant start)
{
	o->seconds = seconds_since(start.wall);
	o->cpu_seconds = cpu_seconds() - start.cpu;
}

static int open_file(const job *j, int flags)
{
	int fd = open(j->path, O_RDONLY | O_CLOEXEC | flags);

	if (fd < 0)
		die(j->path);
	return fd;
}

static const uint8_t *map_file(const job *j, int flags)
{
	int fd = open_file(j, 0);
	void *bytes = mmap(NULL, j->size, PROT_READ, MAP_SHARED | flags, fd, 0);

	if (bytes == MAP_FAILED)
		die(j->path);
	close(fd);
	return bytes;
}

static void unmap_file(const job *j, const uint8_t *bytes)
{
	munmap((void *)bytes, j->size);
}

static uint64_t touch(const job *j, const uint8_t *bytes, uint64_t from, uint64_t to)
{
	uint64_t sum = 0;

	for (uint64_t at = from; at < to; at += j->memory_page)
		sum += *(const volatile uint8_t *)(bytes + at);
	return sum;
}

/* ---- the patterns ---- */

static outcome pattern_mmap(const job *j)
{
	outcome o = {.bytes = j->size};
	instant start = begin();
	const uint8_t *bytes = map_file(j, 0);

	o.sum = touch(j, bytes, 0, j->size);
	end(&o, start);
	unmap_file(j, bytes);
	return o;
}

static void read_at(const job *j, int fd, uint64_t offset, size_t length)
{
	static uint8_t buffer[HEADER_READ];

	if (pread(fd, buffer, length, (off_t)offset) < 0)
		die(j->path);
}

/* What llama.cpp does before any layer runs: the header in small reads, the last
 * memory page, then everything mapped at once, advised, and used in file order. */
static outcome pattern_load(const job *j)
{
	outcome o = {.bytes = j->size};
	instant start = begin();
	uint64_t tail = j->size / j->memory_page * j->memory_page;
	const uint8_t *bytes;
	int fd = open_file(j, 0);

	for (uint64_t at = 0; at < j->header && at < j->size; at += HEADER_READ)
		read_at(j, fd, at, HEADER_READ);
	close(fd);
	fd = open_file(j, 0);
	if (tail < j->size)
		read_at(j, fd, tail, (size_t)(j->size - tail) % HEADER_READ);
	posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	bytes = mmap(NULL, j->size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (bytes == MAP_FAILED)
		die(j->path);
	madvise((void *)bytes, j->size, MADV_WILLNEED);
	close(fd);
	o.sum = touch(j, bytes, 0, j->size);
	end(&o, start);
	unmap_file(j, bytes);
	return o;
}

static outcome pattern_direct(const job *j)
{
	outcome o = {.bytes = j->size};
	instant start = begin();
	int fd = open_file(j, O_DIRECT);
	uint8_t *buffer = aligned_alloc(j->memory_page, DIRECT_BYTES);

	for (uint64_t at = 0; buffer && at < j->size; at += DIRECT_BYTES) {
		ssize_t got = pread(fd, buffer, DIRECT_BYTES, (off_t)at);

		if (got < 0 || (got < DIRECT_BYTES && at + (uint64_t)got < j->size))
			die(j->path);
		o.sum += touch(j, buffer, 0, (uint64_t)got);
	}
	end(&o, start);
	free(buffer);
	close(fd);
	return o;
}

static uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static outcome pattern_random(const job *j)
{
	static char text[128];
	outcome o = {.more = text};
	const uint8_t *bytes = map_file(j, 0);
	uint64_t state = j->seed, pages = j->size / j->memory_page;
	double *took = calloc(j->faults, sizeof(*took));
	instant start = begin();
	uint64_t done = 0;

	if (!took || !pages)
		die(j->path);
	madvise((void *)bytes, j->size, MADV_RANDOM);
	while (done < j->faults && seconds_since(start.wall) < (double)j->seconds) {
		const uint8_t *page = bytes + next_random(&state) % pages * j->memory_page;
		struct timespec one = now();

		o.sum += *(const volatile uint8_t *)page;
		took[done++] = seconds_since(one);
	}
	end(&o, start);
	o.bytes = done * j->memory_page;
	qsort(took, done, sizeof(*took), compare_doubles);
	snprintf(text, sizeof(text), ",\"faults\":%" PRIu64 ",\"p50_us\":%.1f,\"p99_us\":%.1f",
		 done, 1e6 * took[done / 2], 1e6 * took[done * 99 / 100]);
	free(took);
	unmap_file(j, bytes);
	return o;
}

/* Cached memory pages through fresh mappings. Only touching is measured: neither the
 * first pass, which fills the cache, nor mapping and unmapping. */
static outcome pattern_warm(const job *j)
{
	outcome o = {0};

	for (unsigned i = 0; i <= j->passes; i++) {
		const uint8_t *bytes = map_file(j, 0);
		instant start = begin();
		outcome one = {.bytes = j->size};

		one.sum = touch(j, bytes, 0, j->size);
		end(&one, start);
		unmap_file(j, bytes);
		if (!i)
			continue;
		o.bytes += one.bytes;
		o.seconds += one.seconds;
		o.cpu_seconds += one.cpu_seconds;
		o.sum = one.sum;
	}
	return o;
}

typedef struct {
	const job *job;
	const uint8_t *bytes;
	uint64_t from, to, sum;
	pthread_t thread;
} share;

static void *touch_share(void *arg)
{
	share *s = arg;

	s->sum = touch(s->job, s->bytes, s->from, s->to);
	return NULL;
}

static outcome pattern_threads(const job *j)
{
	share shares[THREADS_MAX];
	outcome o = {.bytes = j->size};
	uint64_t pages = j->size / j->memory_page + 1;
	instant start = begin();
	const uint8_t *bytes = map_file(j, 0);

	for (unsigned i = 0; i < j->threads; i++) {
		share *s = &shares[i];

		*s = (share){.job = j, .bytes = bytes};
		s->from = pages * i / j->threads * j->memory_page;
		s->to = pages * (i + 1) / j->threads * j->memory_page;
		s->to = s->to < j->size ? s->to : j->size;
		if (pthread_create(&s->thread, NULL, touch_share, s))
			die("threads");
	}
	for (unsigned i = 0; i < j->threads; i++) {
		pthread_join(shares[i].thread, NULL);
		o.sum += shares[i].sum;
	}
	end(&o, start);
	unmap_file(j, bytes);
	return o;
}

/* Bytes that a block device has read: the third number of its `stat`, in sectors. */
static uint64_t counter_bytes(const char *path)
{
	uint64_t sectors = 0;
	FILE *f = path ? fopen(path, "re") : NULL;

	if (f && fscanf(f, "%*s %*s %" SCNu64, &sectors) != 1)
		sectors = 0;
	if (f)
		fclose(f);
	return 512 * sectors;
}

/* One mapping, scanned again and again, as a dense model is for every token. */
static outcome pattern_passes(const job *j)
{
	static char text[8192];
	outcome o = {.bytes = j->size * j->passes, .more = text};
	const uint8_t *bytes = map_file(j, 0);
	instant start = begin();
	int used = snprintf(text, sizeof(text), ",\"passes\":[");

	for (unsigned i = 0; i < j->passes; i++) {
		struct timespec one = now();
		uint64_t before = counter_bytes(j->counter);

		o.sum = touch(j, bytes, 0, j->size);
		used += snprintf(text + used, sizeof(text) - (size_t)used,
				 "%s{\"seconds\":%.6f,\"medium_bytes\":%" PRIu64 "}", i ? "," : "",
				 seconds_since(one), counter_bytes(j->counter) - before);
	}
	end(&o, start);
	snprintf(text + used, sizeof(text) - (size_t)used, "]");
	unmap_file(j, bytes);
	return o;
}

static const struct {
	const char *name;
	outcome (*run)(const job *j);
	const char *meaning;
} patterns[] = {
    {"mmap", pattern_mmap, "map, touch every memory page in file order"},
    {"load", pattern_load, "as llama.cpp loads: header, MAP_POPULATE, WILLNEED, touch"},
    {"direct", pattern_direct, "O_DIRECT reads of 1 MiB"},
    {"random", pattern_random, "faults at random places, MADV_RANDOM: p50_us, p99_us"},
    {"warm", pattern_warm, "touch cached memory pages through new mappings"},
    {"threads", pattern_threads, "each thread touches its share of the file"},
    {"passes", pattern_passes, "touch all, again and again: time and bytes of each pass"},
};
#define PATTERNS (sizeof(patterns) / sizeof(patterns[0]))

/* ---- the program ---- */

static void usage(FILE *to)
{
	fputs("usage: loadpattern [OPTIONS] PATTERN FILE\n", to);
	for (size_t i = 0; i < PATTERNS; i++)
		fprintf(to, "  %-8s %s\n", patterns[i].name, patterns[i].meaning);
	fputs("  --threads N (8)  --faults N (1000)  --seconds N (of random, at most: 60)\n"
	      "  --passes N (3)  --seed N (1)  --header BYTES (262144)\n"
	      "  --counter FILE  (a block device's stat in sysfs)\n",
	      to);
}

static bool number(uint64_t *out, uint64_t low, uint64_t high)
{
	char *end;

	errno = 0;
	*out = strtoull(optarg, &end, 10);
	return !errno && !*end && *out >= low && *out <= high;
}

static bool parse(int argc, char **argv, job *j)
{
	static const struct option table[] = {
	    {"threads", required_argument, NULL, 't'}, {"faults", required_argument, NULL, 'f'},
	    {"seconds", required_argument, NULL, 'S'}, {"passes", required_argument, NULL, 'p'},
	    {"seed", required_argument, NULL, 's'},    {"header", required_argument, NULL, 'h'},
	    {"counter", required_argument, NULL, 'c'}, {NULL, 0, NULL, 0},
	};
	int option;
	uint64_t n = 0;
	bool ok = true;

	while (ok && (option = getopt_long(argc, argv, "", table, NULL)) != -1) {
		if (option == 't' && (ok = number(&n, 1, THREADS_MAX)))
			j->threads = (unsigned)n;
		else if (option == 'f')
			ok = number(&j->faults, 1, 100000000);
		else if (option == 'S')
			ok = number(&j->seconds, 1, 1000000);
		else if (option == 'p' && (ok = number(&n, 1, 100)))
			j->passes = (unsigned)n;
		else if (option == 's')
			ok = number(&j->seed, 0, UINT64_MAX);
		else if (option == 'h')
			ok = number(&j->header, 0, UINT64_MAX / 2);
		else if (option == 'c')
			j->counter = optarg;
		else if (option == '?')
			ok = false;
	}
	return ok && argc - optind == 2;
}

static void find_size(job *j)
{
	struct stat st;

	if (stat(j->path, &st) < 0)
		die(j->path);
	j->size = (uint64_t)st.st_size;
	j->memory_page = (uint64_t)sysconf(_SC_PAGESIZE);
}

int main(int argc, char **argv)
{
	job j = {
	    .threads = 8, .faults = 1000, .seconds = 60, .passes = 3, .seed = 1, .header = 262144};

	if (!parse(argc, argv, &j)) {
		usage(stderr);
		return 2;
	}
	j.path = argv[optind + 1];
	for (size_t i = 0; i < PATTERNS; i++) {
		outcome o;

		if (strcmp(patterns[i].name, argv[optind]))
			continue;
		find_size(&j);
		o = patterns[i].run(&j);
		printf("{\"pattern\":\"%s\",\"bytes\":%" PRIu64 ",\"seconds\":%.6f,"
		       "\"cpu_seconds\":%.6f,\"sum\":%" PRIu64 "%s}\n",
		       patterns[i].name, o.bytes, o.seconds, o.cpu_seconds, o.sum,
		       o.more ? o.more : "");
		return 0;
	}
	usage(stderr);
	return 2;
}
