/*
 * Compares a mounted file with its source in every way that programs read:
 * whole, mapped shared, mapped private and written to, by random preads from
 * eight threads, with O_DIRECT, and by eight threads of which each has a pattern
 * and hints of its own. Exits 1 at the first difference.
 *
 *   readcheck [-s SEED] [-n PREADS] MOUNTED SOURCE
 *
 * The memory pages of the mounted file are dropped before each way, so that each
 * one asks the daemon again; SEED also says which way comes first.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define THREADS	    8
#define PIECE	    (1u << 20)
#define PREAD_MAX   (384u << 10)
#define DIRECT_UNIT 4096u
#define RUN	    (128u << 10)

typedef struct {
	const char *mounted_path, *source_path;
	int mounted, source;
	uint64_t size;
	uint64_t seed;
	unsigned preads; /* of each thread */
} job;

static void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

static void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("readcheck: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

static void *buffer_new(size_t size)
{
	void *buffer;

	if (posix_memalign(&buffer, DIRECT_UNIT, size))
		die("out of memory");
	return buffer;
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Reads until `length` bytes or the end of the file; returns the count. */
static size_t read_all(int fd, uint64_t offset, uint8_t *buffer, size_t length, const char *path)
{
	size_t have = 0;

	while (have < length) {
		ssize_t got = pread(fd, buffer + have, length - have, (off_t)(offset + have));

		if (got < 0)
			die("%s: pread at %" PRIu64 ": %s", path, offset + have, strerror(errno));
		if (got == 0)
			break;
		have += (size_t)got;
	}
	return have;
}

static void compare(const job *j, const char *way, uint64_t offset, const uint8_t *got,
		    size_t got_length, const uint8_t *want, size_t want_length)
{
	if (got_length != want_length)
		die("%s: %s at %" PRIu64 ": %zu bytes, should be %zu", j->mounted_path, way, offset,
		    got_length, want_length);
	if (!memcmp(got, want, want_length))
		return;
	for (size_t i = 0; i < want_length; i++)
		if (got[i] != want[i])
			die("%s: %s: byte %" PRIu64 " is 0x%02x, should be 0x%02x", j->mounted_path,
			    way, offset + i, got[i], want[i]);
}

static void drop_pages(const job *j)
{
	posix_fadvise(j->mounted, 0, 0, POSIX_FADV_DONTNEED);
}

static void check_whole(const job *j)
{
	uint8_t *got = buffer_new(PIECE), *want = buffer_new(PIECE);
	uint64_t offset = 0;

	for (;;) {
		size_t n = read_all(j->mounted, offset, got, PIECE, j->mounted_path);
		size_t m = read_all(j->source, offset, want, PIECE, j->source_path);

		compare(j, "whole read", offset, got, n, want, m);
		if (m < PIECE)
			break;
		offset += m;
	}
	free(got);
	free(want);
}

static uint8_t *map_file(const job *j, int fd, int protection, int flags, const char *path)
{
	void *bytes = mmap(NULL, j->size, protection, flags, fd, 0);

	if (bytes == MAP_FAILED)
		die("%s: mmap: %s", path, strerror(errno));
	return bytes;
}

static void compare_maps(const job *j, const char *way, const uint8_t *got, const uint8_t *want)
{
	for (uint64_t offset = 0; offset < j->size; offset += PIECE) {
		size_t n = j->size - offset < PIECE ? (size_t)(j->size - offset) : PIECE;

		compare(j, way, offset, got + offset, n, want + offset, n);
	}
}

static void check_shared_map(const job *j)
{
	const uint8_t *want = map_file(j, j->source, PROT_READ, MAP_SHARED, j->source_path);
	const uint8_t *got = map_file(j, j->mounted, PROT_READ, MAP_SHARED, j->mounted_path);

	compare_maps(j, "shared map", got, want);
	munmap((void *)(uintptr_t)got, j->size);
	munmap((void *)(uintptr_t)want, j->size);
}

/* As ONNX Runtime maps weights: what is written stays in this process. */
static void check_private_map(const job *j)
{
	const uint8_t *want = map_file(j, j->source, PROT_READ, MAP_SHARED, j->source_path);
	uint8_t *got =
	    map_file(j, j->mounted, PROT_READ | PROT_WRITE, MAP_PRIVATE, j->mounted_path);
	uint64_t stride = j->size / 64 | 1;
	uint8_t byte;

	compare_maps(j, "private map", got, want);
	for (uint64_t i = 0; i < j->size; i += stride)
		got[i] ^= 0xff;
	for (uint64_t i = 0; i < j->size; i += stride) {
		if ((got[i] ^ want[i]) != 0xff)
			die("%s: private map: a write to byte %" PRIu64 " was lost",
			    j->mounted_path, i);
		read_all(j->mounted, i, &byte, 1, j->mounted_path);
		if (byte != want[i])
			die("%s: private map: a write to byte %" PRIu64 " reached the file",
			    j->mounted_path, i);
	}
	munmap(got, j->size);
	munmap((void *)(uintptr_t)want, j->size);
}

typedef struct {
	const job *j;
	unsigned number;
	uint64_t state;
	pthread_t thread;
} reader;

static void run_readers(const job *j, void *(*run)(void *))
{
	reader readers[THREADS];

	for (unsigned i = 0; i < THREADS; i++) {
		readers[i].j = j;
		readers[i].number = i;
		readers[i].state = (j->seed + i + 1) * UINT64_C(0x9e3779b97f4a7c15) | 1;
		if (pthread_create(&readers[i].thread, NULL, run, &readers[i]))
			die("cannot start a thread");
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(readers[i].thread, NULL);
}

/* Mostly inside the file, sometimes across or past its end. */
static void *random_reader(void *arg)
{
	reader *r = arg;
	const job *j = r->j;
	uint8_t *got = buffer_new(PREAD_MAX), *want = buffer_new(PREAD_MAX);

	for (unsigned i = 0; i < j->preads; i++) {
		uint64_t offset = next_random(&r->state) % (j->size + 1 + DIRECT_UNIT);
		size_t length = next_random(&r->state) % PREAD_MAX + 1;
		size_t n, m;

		if (next_random(&r->state) % 2)
			length = length % DIRECT_UNIT + 1;
		n = read_all(j->mounted, offset, got, length, j->mounted_path);
		m = read_all(j->source, offset, want, length, j->source_path);
		compare(j, "random pread", offset, got, n, want, m);
	}
	free(got);
	free(want);
	return NULL;
}

static void check_random(const job *j)
{
	run_readers(j, random_reader);
}

/* ---- eight threads, each with a pattern of its own ---- */

/* Compares [offset, offset + length) as pread gives it. */
static void compare_pread(const reader *r, int fd, const char *way, uint64_t offset, size_t length)
{
	const job *j = r->j;
	uint8_t *got = buffer_new(length), *want = buffer_new(length);
	size_t n = read_all(fd, offset, got, length, j->mounted_path);
	size_t m = read_all(j->source, offset, want, length, j->source_path);

	compare(j, way, offset, got, n, want, m);
	free(got);
	free(want);
}

/* Compares what a map of the mounted file has at [offset, offset + length). */
static void compare_mapped(const reader *r, const char *way, const uint8_t *map, uint64_t offset,
			   size_t length)
{
	const job *j = r->j;
	uint8_t *want = buffer_new(length);
	size_t m = read_all(j->source, offset, want, length, j->source_path);

	compare(j, way, offset, map + offset, m, want, m);
	free(want);
}

/* A place that is a multiple of `unit`; the last one may be cut by the end. */
static uint64_t random_place(reader *r, uint64_t unit)
{
	return next_random(&r->state) % ((r->j->size + unit - 1) / unit) * unit;
}

static void read_in_sequence(reader *r, int fd)
{
	uint64_t offset = random_place(r, DIRECT_UNIT);

	posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	for (unsigned i = 0; i < r->j->preads; i++, offset += RUN)
		compare_pread(r, fd, "sequential pread", offset % r->j->size, RUN);
}

static void read_in_strides(reader *r, int fd)
{
	uint64_t stride = (next_random(&r->state) % 64 + 2) * DIRECT_UNIT;
	uint64_t offset = random_place(r, DIRECT_UNIT);

	for (unsigned i = 0; i < r->j->preads; i++, offset += stride)
		compare_pread(r, fd, "strided pread", offset % r->j->size, DIRECT_UNIT);
}

static void read_single_pages(reader *r, int fd)
{
	posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	for (unsigned i = 0; i < r->j->preads; i++)
		compare_pread(r, fd, "4 KiB pread", random_place(r, DIRECT_UNIT), DIRECT_UNIT);
}

static void read_directly(reader *r, int ignored)
{
	int fd = open(r->j->mounted_path, O_RDONLY | O_DIRECT | O_CLOEXEC);

	(void)ignored;
	if (fd < 0)
		die("%s: open with O_DIRECT: %s", r->j->mounted_path, strerror(errno));
	for (unsigned i = 0; i < r->j->preads; i++)
		compare_pread(r, fd, "random O_DIRECT read", random_place(r, DIRECT_UNIT),
			      DIRECT_UNIT * (next_random(&r->state) % 32 + 1));
	close(fd);
}

/* Asks for pages ahead by both calls, of which neither may change what is read. */
static void read_what_was_hinted(reader *r, int fd)
{
	for (unsigned i = 0; i < r->j->preads; i++) {
		uint64_t offset = random_place(r, RUN);

		if (i % 2)
			readahead(fd, (off64_t)offset, RUN);
		else
			posix_fadvise(fd, (off_t)offset, RUN, POSIX_FADV_WILLNEED);
		compare_pread(r, fd, "pread behind a hint", offset, RUN);
	}
}

/* Faults of single pages. */
static void fault_pages(reader *r, int fd)
{
	uint8_t *map = map_file(r->j, fd, PROT_READ, MAP_SHARED, r->j->mounted_path);

	madvise(map, r->j->size, MADV_RANDOM);
	for (unsigned i = 0; i < r->j->preads; i++)
		compare_mapped(r, "random fault", map, random_place(r, DIRECT_UNIT), DIRECT_UNIT);
	munmap(map, r->j->size);
}

/* As a runtime loads: everything at once. */
static void map_populated(reader *r, int fd)
{
	uint8_t *map = map_file(r->j, fd, PROT_READ, MAP_SHARED | MAP_POPULATE, r->j->mounted_path);

	madvise(map, r->j->size, MADV_WILLNEED);
	for (unsigned i = 0; i < r->j->preads; i++)
		compare_mapped(r, "populated map", map, random_place(r, RUN), RUN);
	munmap(map, r->j->size);
}

/* Takes pages away from itself and, by the file's, from all others. */
static void drop_and_fault(reader *r, int fd)
{
	uint8_t *map = map_file(r->j, fd, PROT_READ, MAP_PRIVATE, r->j->mounted_path);

	for (unsigned i = 0; i < r->j->preads; i++) {
		uint64_t offset = random_place(r, RUN);
		uint64_t left = r->j->size - offset;

		compare_mapped(r, "fault", map, offset, RUN);
		madvise(map + offset, left < RUN ? left : RUN, MADV_DONTNEED);
		posix_fadvise(fd, (off_t)offset, RUN, POSIX_FADV_DONTNEED);
		compare_mapped(r, "fault after MADV_DONTNEED", map, offset, RUN);
	}
	munmap(map, r->j->size);
}

static void *patterned_reader(void *arg)
{
	static void (*const patterns[THREADS])(reader *, int) = {
	    read_in_sequence,	  read_in_strides, read_single_pages, read_directly,
	    read_what_was_hinted, fault_pages,	   map_populated,     drop_and_fault};
	reader *r = arg;
	int fd = open(r->j->mounted_path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		die("%s: %s", r->j->mounted_path, strerror(errno));
	patterns[r->number](r, fd);
	close(fd);
	return NULL;
}

static void check_patterns(const job *j)
{
	run_readers(j, patterned_reader);
}

static void check_direct(const job *j)
{
	int fd = open(j->mounted_path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	uint8_t *got = buffer_new(PIECE), *want = buffer_new(PIECE);
	size_t step = PIECE - DIRECT_UNIT;

	if (fd < 0)
		die("%s: open with O_DIRECT: %s", j->mounted_path, strerror(errno));
	for (uint64_t offset = 0; offset <= j->size; offset += step) {
		/* One read call, as a client with O_DIRECT does. */
		ssize_t n = pread(fd, got, step, (off_t)offset);
		size_t m = read_all(j->source, offset, want, step, j->source_path);

		if (n < 0)
			die("%s: O_DIRECT read at %" PRIu64 ": %s", j->mounted_path, offset,
			    strerror(errno));
		compare(j, "O_DIRECT read", offset, got, (size_t)n, want, m);
	}
	free(got);
	free(want);
	close(fd);
}

static void open_both(job *j)
{
	struct stat mounted, source;

	j->mounted = open(j->mounted_path, O_RDONLY | O_CLOEXEC);
	if (j->mounted < 0 || fstat(j->mounted, &mounted) < 0)
		die("%s: %s", j->mounted_path, strerror(errno));
	j->source = open(j->source_path, O_RDONLY | O_CLOEXEC);
	if (j->source < 0 || fstat(j->source, &source) < 0)
		die("%s: %s", j->source_path, strerror(errno));
	if (mounted.st_size != source.st_size)
		die("%s: size %jd, should be %jd", j->mounted_path, (intmax_t)mounted.st_size,
		    (intmax_t)source.st_size);
	j->size = (uint64_t)source.st_size;
}

/* Begins with another way by the seed, so that many at once do not all do the same. */
static void check_every_way(const job *j)
{
	static void (*const ways[])(const job *) = {check_whole,       check_random,
						    check_direct,      check_shared_map,
						    check_private_map, check_patterns};
	unsigned count = j->size ? 6 : 3; /* nothing can be mapped of an empty file */

	for (unsigned i = 0; i < count; i++) {
		drop_pages(j);
		ways[(j->seed + i) % count](j);
	}
}

int main(int argc, char **argv)
{
	job j = {.seed = (uint64_t)time(NULL) ^ (uint64_t)getpid(), .preads = 100};
	int option;

	while ((option = getopt(argc, argv, "s:n:")) != -1) {
		if (option == 's')
			j.seed = strtoull(optarg, NULL, 0);
		else if (option == 'n')
			j.preads = (unsigned)strtoul(optarg, NULL, 0);
		else
			return 2;
	}
	if (argc - optind != 2) {
		fputs("usage: readcheck [-s SEED] [-n PREADS] MOUNTED SOURCE\n", stderr);
		return 2;
	}
	j.mounted_path = argv[optind];
	j.source_path = argv[optind + 1];
	open_both(&j);
	printf("readcheck: %s: %" PRIu64 " bytes, seed %" PRIu64 "\n", j.mounted_path, j.size,
	       j.seed);
	fflush(stdout);

	check_every_way(&j);
	return 0;
}
