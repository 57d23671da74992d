/*
 * Damages a container in memory and reads it with the library, many times: a
 * damaged container must give the right bytes or an error, never a wrong byte.
 *
 *   flipcheck [-s SEED] [-n FLIPS] CONTAINER SOURCE...    single flipped bits
 *   flipcheck -t [-s SEED] [-n CUTS] [-e STEP] CONTAINER SOURCE...  truncations
 *
 * Each SOURCE is packed in the container under its base name. A flip may cost
 * one span, or one tensor if it hit the tables that the tensor's frames share,
 * and the same in every tensor that is equal or begins alike, since what they have
 * in common is stored once; nearly every flip in superblock or index must cost
 * nothing. Every truncated container must be refused with a reason: CUTS random
 * lengths and every one up to 64 KiB, or every STEP-th.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
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

#include "modelfs.h"

#define PIECE	  (256u << 10)
#define UNIT	  4096u /* how finely the bytes behind an error are told apart */
#define EVERY_CUT (64u << 10)
#define FILES_MAX 64
#define ARENA	  (16u << 20)
#define RUNS_MAX  1024

typedef struct {
	const char *name;
	uint8_t *bytes;
	uint64_t size;
} source;

typedef struct {
	int fd; /* the copy that is damaged, in memory */
	char path[64];
	uint64_t size;
	source sources[FILES_MAX];
	int source_count;
	uint64_t state;
} job;

typedef struct {
	unsigned refused, intact, one_span, one_tensor;
} tally;

/* Bytes of a file that answered with an error; last: one past. */
typedef struct {
	uint64_t first, last;
	uint32_t file;
} run;

typedef struct {
	run runs[RUNS_MAX];
	unsigned count;
} damage;

static void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

static void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("flipcheck: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static uint8_t *load(const char *path, uint64_t *size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	uint8_t *bytes;
	uint64_t have = 0;

	if (fd < 0 || fstat(fd, &st) < 0)
		die("%s: %s", path, strerror(errno));
	*size = (uint64_t)st.st_size;
	bytes = malloc(*size + 1);
	while (bytes && have < *size) {
		ssize_t got = read(fd, bytes + have, *size - have);

		if (got <= 0)
			die("%s: cannot be read", path);
		have += (uint64_t)got;
	}
	close(fd);
	if (!bytes)
		die("out of memory");
	return bytes;
}

static void write_all(int fd, const uint8_t *bytes, uint64_t size, uint64_t offset)
{
	for (uint64_t done = 0; done < size;) {
		ssize_t put = pwrite(fd, bytes + done, size - done, (off_t)(offset + done));

		if (put <= 0)
			die("cannot write the copy: %s", strerror(errno));
		done += (uint64_t)put;
	}
}

static int open_copy(const job *j, mfs_container **container, mfs_problem *why)
{
	mfs_open_options options = MFS_OPEN_OPTIONS_INIT;

	options.engine = "pread";
	options.decoders = 1;
	options.arena_bytes = ARENA;
	options.no_prefetch = 1;
	memset(why, 0, sizeof(*why));
	return mfs_open(container, j->path, &options, why);
}

/* Reads one unit or piece; marks it damaged if it answers with an error, dies
 * if it answers with wrong bytes. */
static bool read_piece(mfs_container *container, const source *s, uint32_t file, uint64_t offset,
		       size_t length, const char *what)
{
	static uint8_t buffer[PIECE];
	uint64_t left = s->size - offset;
	size_t want = left < length ? (size_t)left : length;
	int64_t got = mfs_read(container, file, offset, buffer, length);

	if (got < 0)
		return false;
	if ((size_t)got != want)
		die("%s: %s: %" PRId64 " bytes at %" PRIu64 ", should be %zu", what, s->name, got,
		    offset, want);
	if (memcmp(buffer, s->bytes + offset, want))
		die("%s: %s: a WRONG BYTE within %zu of %" PRIu64, what, s->name, want, offset);
	return true;
}

static void note_damage(damage *d, uint32_t file, uint64_t offset, uint64_t end, const char *what)
{
	run *last = d->count ? &d->runs[d->count - 1] : NULL;

	if (last && last->file == file && last->last == offset) {
		last->last = end;
		return;
	}
	if (d->count == RUNS_MAX)
		die("%s: damage in more than %d places", what, RUNS_MAX);
	d->runs[d->count++] = (run){.first = offset, .last = end, .file = file};
}

static void read_file(mfs_container *container, const source *s, damage *d, const char *what)
{
	int64_t found = mfs_file_find(container, s->name);
	uint32_t file = (uint32_t)found;

	if (found < 0)
		die("%s: %s is missing", what, s->name);
	for (uint64_t offset = 0; offset < s->size; offset += PIECE) {
		uint64_t end = s->size - offset < PIECE ? s->size : offset + PIECE;

		if (read_piece(container, s, file, offset, PIECE, what))
			continue;
		for (uint64_t unit = offset; unit < end; unit += UNIT)
			if (!read_piece(container, s, file, unit, UNIT, what))
				note_damage(d, file, unit, unit + UNIT < end ? unit + UNIT : end,
					    what);
	}
}

/* Damage is told apart in units, so both ends of a run may lie one unit too far. */
static bool run_touches(const run *r, const mfs_tensor_info *t)
{
	return r->file == t->file && r->first + UNIT > t->file_offset &&
	       r->last < t->file_offset + t->tensor_bytes + UNIT;
}

/* Where in a tensor it cannot be read, from end to end; first == last: nowhere. */
typedef struct {
	uint64_t first, last;
} range;

/* An offset in the file as one in the tensor. */
static uint64_t within(const mfs_tensor_info *t, uint64_t offset)
{
	if (offset < t->file_offset)
		return 0;
	offset -= t->file_offset;
	return offset < t->tensor_bytes ? offset : t->tensor_bytes;
}

static range damage_in(const damage *d, const mfs_tensor_info *t)
{
	range r = {UINT64_MAX, 0};

	for (unsigned i = 0; i < d->count; i++) {
		if (!run_touches(&d->runs[i], t))
			continue;
		if (within(t, d->runs[i].first) < r.first)
			r.first = within(t, d->runs[i].first);
		if (within(t, d->runs[i].last) > r.last)
			r.last = within(t, d->runs[i].last);
	}
	return r.last > r.first ? r : (range){0, 0};
}

/* Whether they can have frames or tables in common: equal tensors, and those of one type
 * that begin alike. */
static bool may_share(const mfs_tensor_info *a, const mfs_tensor_info *b)
{
	if (a->tensor_bytes == b->tensor_bytes && !memcmp(a->hash, b->hash, sizeof(a->hash)))
		return true;
	return !strcmp(a->type, b->type) && a->tables_bytes == b->tables_bytes;
}

/* Spans that are stored once lie at one place of their tensors. */
static bool same_place(range a, range b)
{
	return a.first < b.first + 2 * UNIT && b.first < a.first + 2 * UNIT &&
	       a.last < b.last + 2 * UNIT && b.last < a.last + 2 * UNIT;
}

/* Tensor `i`, if it may share something with `lead` and is damaged. */
static bool get_damaged(mfs_container *container, const damage *d, const mfs_tensor_info *lead,
			uint32_t i, mfs_tensor_info *t, range *where)
{
	*t = (mfs_tensor_info){.size = sizeof(*t)};
	if (mfs_tensor_get(container, i, t) < 0 || !may_share(t, lead))
		return false;
	*where = damage_in(d, t);
	return where->last > where->first;
}

/* Whether all damage lies in tensors that share frames with this one: the same span of
 * each or, when the shared tables can be to blame, any part of them. */
static bool damage_is_of(mfs_container *container, const damage *d, const mfs_tensor_info *lead,
			 uint64_t span, bool *tables)
{
	bool explained[RUNS_MAX] = {false};
	range first = damage_in(d, lead), r;
	uint32_t count = mfs_tensor_count(container);
	mfs_tensor_info t;

	*tables = false;
	if (lead->span_bytes > span)
		span = lead->span_bytes;
	for (uint32_t i = 0; i < count && !*tables; i++)
		*tables = get_damaged(container, d, lead, i, &t, &r) &&
			  r.last - r.first > span + 2 * UNIT;
	for (uint32_t i = 0; i < count; i++) {
		if (!get_damaged(container, d, lead, i, &t, &r) ||
		    (!*tables && !same_place(r, first)))
			continue;
		for (unsigned k = 0; k < d->count; k++)
			explained[k] |= run_touches(&d->runs[k], &t);
	}
	for (unsigned i = 0; i < d->count; i++)
		if (!explained[i])
			return false;
	return !*tables || lead->tables_bytes;
}

/* One range no longer than a span, or what tensors explain. */
static bool damage_is_bounded(mfs_container *container, const damage *d, uint64_t span,
			      bool *tables)
{
	const run *first = &d->runs[0], *last = &d->runs[d->count - 1];

	*tables = false;
	if (first->file == last->file && last->last - first->first <= span + 2 * UNIT)
		return true;
	for (uint32_t i = 0; i < mfs_tensor_count(container); i++) {
		mfs_tensor_info t = {.size = sizeof(t)};

		if (mfs_tensor_get(container, i, &t) >= 0 && run_touches(first, &t) &&
		    damage_is_of(container, d, &t, span, tables))
			return true;
	}
	return false;
}

static void judge_damage(mfs_container *container, const damage *d, tally *sum, const char *what)
{
	mfs_container_info info = {.size = sizeof(info)};
	mfs_problem why = {0};
	bool tables;

	if (mfs_info(container, &info) < 0)
		die("%s: mfs_info fails", what);
	mfs_last_problem(container, &why);
	if (!why.text[0])
		die("%s: an error without a reason", what);
	if (!damage_is_bounded(container, d, info.frame_bytes, &tables))
		die("%s: %u places unreadable, from %" PRIu64 " to %" PRIu64 " (a span is %u): %s",
		    what, d->count, d->runs[0].first, d->runs[d->count - 1].last, info.frame_bytes,
		    why.text);
	if (tables)
		sum->one_tensor++;
	else
		sum->one_span++;
}

static void read_damaged(job *j, tally *sum, const char *what)
{
	mfs_container *container = NULL;
	mfs_problem why;
	damage d = {.count = 0};

	if (open_copy(j, &container, &why) < 0) {
		if (container || !why.text[0])
			die("%s: refused without a reason", what);
		printf("%s: refused: %s\n", what, why.text);
		sum->refused++;
		return;
	}
	for (int i = 0; i < j->source_count; i++)
		read_file(container, &j->sources[i], &d, what);
	if (d.count)
		judge_damage(container, &d, sum, what);
	else
		sum->intact++;
	mfs_close(container);
}

static void check_flips(job *j, const uint8_t *bytes, unsigned count)
{
	tally sum = {0};
	char what[64];

	for (unsigned i = 0; i < count; i++) {
		uint64_t at = next_random(&j->state) % j->size;
		unsigned bit = (unsigned)(next_random(&j->state) >> 32) % 8;
		uint8_t flipped = bytes[at] ^ (uint8_t)(1u << bit);

		snprintf(what, sizeof(what), "bit %u of byte %" PRIu64, bit, at);
		write_all(j->fd, &flipped, 1, at);
		read_damaged(j, &sum, what);
		write_all(j->fd, &bytes[at], 1, at);
	}
	printf("flipcheck: %u flips: %u intact, %u one span, %u one tensor, %u refused, 0 silent\n",
	       count, sum.intact, sum.one_span, sum.one_tensor, sum.refused);
	if (sum.refused * 100 > count)
		die("more than one flip in a hundred makes the container unreadable");
	if (count >= 100 && !(sum.one_span + sum.one_tensor))
		die("no flip was noticed: is %s stored at all?", j->sources[0].name);
}

static void check_cut(job *j, uint64_t length)
{
	mfs_container *container = NULL;
	mfs_problem why;
	int err;

	if (ftruncate(j->fd, (off_t)length) < 0)
		die("cannot cut the copy: %s", strerror(errno));
	err = open_copy(j, &container, &why);
	if (err >= 0)
		die("%" PRIu64 " of %" PRIu64 " bytes: opened", length, j->size);
	if (!why.text[0])
		die("%" PRIu64 " of %" PRIu64 " bytes: refused without a reason", length, j->size);
}

/* Longest first, so that the copy never has to be written again. */
static void check_cuts(job *j, unsigned count, unsigned every)
{
	uint64_t short_cuts = j->size < EVERY_CUT ? j->size : EVERY_CUT;
	uint64_t step = count ? (j->size - short_cuts) / count + 1 : 1;
	unsigned done = 0;

	if (j->size > short_cuts)
		check_cut(j, j->size - 1);
	for (uint64_t top = j->size; count && top > short_cuts + step; top -= step, done++)
		check_cut(j, top - 1 - next_random(&j->state) % step);
	for (uint64_t left = short_cuts; left > 0; left -= left < every ? left : every, done++)
		check_cut(j, left - 1);
	printf("flipcheck: %u truncations refused, each with a reason\n", done);
}

static void load_sources(job *j, char **paths, int count)
{
	if (count > FILES_MAX)
		die("more than %d sources", FILES_MAX);
	for (int i = 0; i < count; i++) {
		const char *slash = strrchr(paths[i], '/');

		j->sources[i].name = slash ? slash + 1 : paths[i];
		j->sources[i].bytes = load(paths[i], &j->sources[i].size);
	}
	j->source_count = count;
}

int main(int argc, char **argv)
{
	uint64_t seed = (uint64_t)time(NULL) ^ (uint64_t)getpid();
	unsigned count = 200, every = 1;
	job j = {.fd = -1};
	bool cuts = false;
	uint8_t *bytes;
	tally sum = {0};
	int option;

	while ((option = getopt(argc, argv, "ts:n:e:")) != -1) {
		if (option == 't')
			cuts = true;
		else if (option == 's')
			seed = strtoull(optarg, NULL, 0);
		else if (option == 'n')
			count = (unsigned)strtoul(optarg, NULL, 0);
		else if (option == 'e')
			every = (unsigned)strtoul(optarg, NULL, 0);
		else
			return 2;
	}
	if (argc - optind < 2 || !every) {
		fputs("usage: flipcheck [-t] [-s SEED] [-n COUNT] [-e STEP] CONTAINER SOURCE...\n",
		      stderr);
		return 2;
	}
	j.state = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15) | 1;
	bytes = load(argv[optind], &j.size);
	load_sources(&j, argv + optind + 1, argc - optind - 1);
	j.fd = memfd_create("container", MFD_CLOEXEC);
	if (j.fd < 0)
		die("memfd_create: %s", strerror(errno));
	snprintf(j.path, sizeof(j.path), "/proc/self/fd/%d", j.fd);
	write_all(j.fd, bytes, j.size, 0);
	printf("flipcheck: %s: %" PRIu64 " bytes, seed %" PRIu64 "\n", argv[optind], j.size, seed);

	read_damaged(&j, &sum, "undamaged");
	if (!sum.intact)
		die("the container is damaged already");
	if (cuts)
		check_cuts(&j, count, every);
	else
		check_flips(&j, bytes, count);
	return 0;
}
