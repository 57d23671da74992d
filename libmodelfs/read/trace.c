#include "trace.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "problem.h"

#define HEAD "modelfs-trace 1"

void mfs_trace_free(mfs_trace *trace)
{
	free(trace->entries);
	memset(trace, 0, sizeof(*trace));
}

int mfs_trace_add(mfs_trace *t, uint32_t number, uint64_t from, uint64_t to)
{
	mfs_trace_entry *last = t->count ? &t->entries[t->count - 1] : NULL;

	if (last && last->number == number && last->to == from) {
		last->to = to;
		return 0;
	}
	if (t->count == MFS_TRACE_ENTRIES_MAX)
		return MFS_E_LIMIT;
	if (t->count == t->room) {
		uint32_t room = t->room ? t->room * 2 : 256;
		mfs_trace_entry *entries = realloc(t->entries, room * sizeof(*entries));

		if (!entries)
			return MFS_E_MEMORY;
		t->entries = entries;
		t->room = room;
	}
	t->entries[t->count++] = (mfs_trace_entry){number, from, to};
	return 0;
}

/* ---- reading ---- */

struct reading {
	mfs_trace *out;
	const char *path;
	uint64_t line;
	const mfs_trace_name *names;
	uint32_t count;
	mfs_problem *why;
	/* The names of the line, unescaped: never longer than the line. */
	char *file, *tensor;
};

static int refuse(const struct reading *r, const char *reason)
{
	return mfs_problem_set(r->why, MFS_E_INVALID, UINT64_MAX, "%s: line %" PRIu64 ": %s",
			       r->path, r->line, reason);
}

static int compare_names(const void *a, const void *b)
{
	const mfs_trace_name *x = a, *y = b;
	int c = strcmp(x->file, y->file);

	return c ? c : strcmp(x->tensor, y->tensor);
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte that an escape at `at` (behind the backslash) stands for, or -1. */
static int unescape(const char **at, const char *end)
{
	char c = *at < end ? *(*at)++ : '\0';
	int high, low;

	switch (c) {
	case '\\':
		return '\\';
	case 't':
		return '\t';
	case 'n':
		return '\n';
	case 'x':
		if (end - *at < 2)
			return -1;
		high = hex_value((*at)[0]);
		low = hex_value((*at)[1]);
		*at += 2;
		return high < 0 || low < 0 ? -1 : high << 4 | low;
	}
	return -1;
}

/* Takes a name up to the next tabulator. False if there is none, or if it is not
 * a name: an escape that is none, a byte 0. */
static bool take_name(const char **at, const char *end, char *out)
{
	while (*at < end && **at != '\t') {
		int c = (unsigned char)*(*at)++;

		if (c == '\\')
			c = unescape(at, end);
		if (c <= 0)
			return false;
		*out++ = (char)c;
	}
	*out = '\0';
	if (*at == end)
		return false;
	++*at;
	return true;
}

static bool take_number(const char **at, const char *end, uint64_t *out)
{
	const char *begin = *at;

	*out = 0;
	for (; *at < end && **at >= '0' && **at <= '9'; ++*at)
		if (__builtin_mul_overflow(*out, 10, out) ||
		    __builtin_add_overflow(*out, (uint64_t)(**at - '0'), out))
			return false;
	return *at > begin;
}

static const char *missing_name(const struct reading *r)
{
	const mfs_trace_name file = {.file = r->file, .tensor = ""};

	if (!bsearch(&file, r->names, r->count, sizeof(file), compare_names))
		return "there is no such file";
	return "the file has no such tensor";
}

static int parse_line(struct reading *r, const char *at, const char *end)
{
	const mfs_trace_name *name;
	uint64_t from, to;
	int error;

	if (!take_name(&at, end, r->file) || !take_name(&at, end, r->tensor) ||
	    !take_number(&at, end, &from) || at == end || *at++ != '-' ||
	    !take_number(&at, end, &to) || at != end)
		return refuse(r, "not FILE, TENSOR and FROM-TO with tabulators between them");
	name = bsearch(&(mfs_trace_name){.file = r->file, .tensor = r->tensor}, r->names, r->count,
		       sizeof(*name), compare_names);
	if (!name)
		return refuse(r, missing_name(r));
	if (from >= to || to > name->bytes)
		return refuse(r, "the bytes are not bytes of the tensor");
	error = mfs_trace_add(r->out, name->number, from, to);
	if (error == MFS_E_LIMIT)
		return refuse(r, "more entries than a trace may have");
	return error ? mfs_problem_no_memory(r->why) : 0;
}

static int parse_lines(struct reading *r, const char *text, size_t length)
{
	const char *end = text + length;
	int error = 0;

	while (text < end && !error) {
		const char *stop = memchr(text, '\n', (size_t)(end - text));

		r->line++;
		if (!stop)
			return refuse(r, "the line is cut off");
		if (r->line == 1) {
			if ((size_t)(stop - text) != strlen(HEAD) ||
			    memcmp(text, HEAD, strlen(HEAD)))
				return refuse(r, "not a trace: it does not begin with '" HEAD "'");
		} else if (stop > text && *text != '#') {
			error = parse_line(r, text, stop);
		}
		text = stop + 1;
	}
	if (!r->line) {
		r->line = 1;
		return refuse(r, "not a trace: it is empty");
	}
	return error;
}

static size_t longest_line(const char *text, size_t length)
{
	size_t longest = 0, begin = 0;

	for (size_t i = 0; i <= length; i++)
		if (i == length || text[i] == '\n') {
			longest = i - begin > longest ? i - begin : longest;
			begin = i + 1;
		}
	return longest;
}

int mfs_trace_parse(mfs_trace *out, const char *path, const char *text, size_t length,
		    mfs_trace_name names[], uint32_t count, mfs_problem *why)
{
	struct reading r = {.out = out, .path = path, .names = names, .count = count, .why = why};
	size_t longest = longest_line(text, length);
	int error;

	memset(out, 0, sizeof(*out));
	if (count)
		qsort(names, count, sizeof(*names), compare_names);
	r.file = malloc(longest + 1);
	r.tensor = malloc(longest + 1);
	error = r.file && r.tensor ? parse_lines(&r, text, length) : mfs_problem_no_memory(why);
	free(r.file);
	free(r.tensor);
	if (error)
		mfs_trace_free(out);
	return error;
}

static int read_text(int fd, const char *path, char **out, size_t *length, mfs_problem *why)
{
	size_t room = 64u << 10, have = 0;
	char *text = malloc(room), *more;
	ssize_t got = 1;

	while (text && got && have <= MFS_TRACE_BYTES_MAX) {
		if (have == room) {
			more = realloc(text, room * 2);
			if (!more)
				break;
			text = more;
			room *= 2;
		}
		got = read(fd, text + have, room - have);
		if (got < 0 && errno != EINTR) {
			free(text);
			return mfs_problem_set(why, MFS_E_IO, have, "%s: %s", path,
					       strerror(errno));
		}
		have += got > 0 ? (size_t)got : 0;
	}
	if (!text || (got && have <= MFS_TRACE_BYTES_MAX)) {
		free(text);
		return mfs_problem_no_memory(why);
	}
	if (have > MFS_TRACE_BYTES_MAX) {
		free(text);
		return mfs_problem_set(why, MFS_E_LIMIT, UINT64_MAX,
				       "%s: larger than a trace may be (%u bytes)", path,
				       MFS_TRACE_BYTES_MAX);
	}
	*out = text;
	*length = have;
	return 0;
}

int mfs_trace_read(mfs_trace *out, const char *path, mfs_trace_name names[], uint32_t count,
		   mfs_problem *why)
{
	/* A pipe without a writer must not hold the tool up; it reads as empty. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	char *text = NULL;
	size_t length = 0;
	int error;

	memset(out, 0, sizeof(*out));
	if (fd < 0)
		return mfs_problem_set(why, MFS_E_SYSTEM, UINT64_MAX, "%s: %s", path,
				       strerror(errno));
	error = read_text(fd, path, &text, &length, why);
	close(fd);
	if (error)
		return error;
	error = mfs_trace_parse(out, path, text, length, names, count, why);
	free(text);
	return error;
}

/* ---- writing ---- */

static void put_name(FILE *file, const char *name)
{
	for (const unsigned char *c = (const unsigned char *)name; *c; c++) {
		if (*c == '\\')
			fputs("\\\\", file);
		else if (*c == '\t')
			fputs("\\t", file);
		else if (*c == '\n')
			fputs("\\n", file);
		else if (*c < 0x20 || *c == 0x7f)
			fprintf(file, "\\x%02x", *c);
		else
			fputc(*c, file);
	}
}

static void put_entries(FILE *file, const mfs_trace *trace, const mfs_trace_name names[])
{
	fputs(HEAD "\n", file);
	for (uint32_t i = 0; i < trace->count; i++) {
		const mfs_trace_entry *e = &trace->entries[i];

		/* No file's name begins with '#' in a line: that would be a remark. */
		if (names[e->number].file[0] == '#') {
			fputs("\\x23", file);
			put_name(file, names[e->number].file + 1);
		} else {
			put_name(file, names[e->number].file);
		}
		fputc('\t', file);
		put_name(file, names[e->number].tensor);
		fprintf(file, "\t%" PRIu64 "-%" PRIu64 "\n", e->from, e->to);
	}
}

/* All of it on the medium, or false with the reason in errno. */
static bool finish(FILE *file)
{
	bool well = !fflush(file) && !ferror(file) && !fsync(fileno(file));
	int reason = errno;

	well = !fclose(file) && well;
	errno = reason;
	return well;
}

static int failed(const char *path, mfs_problem *why)
{
	return mfs_problem_set(why, MFS_E_SYSTEM, UINT64_MAX, "%s: cannot write the trace: %s",
			       path, strerror(errno));
}

/* What has come to lie there since the mount began is not replaced. */
static int check_replaced(const char *path, mfs_problem *why)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	char found[sizeof(HEAD)] = {0};
	struct stat st = {0};
	ssize_t n = 0;

	if (fd < 0)
		return errno == ENOENT ? 0 : failed(path, why);
	if (!fstat(fd, &st) && S_ISREG(st.st_mode))
		n = read(fd, found, sizeof(found) - 1);
	close(fd);
	if (S_ISREG(st.st_mode) && (n == 0 || !strcmp(found, HEAD)))
		return 0;
	return mfs_problem_set(why, MFS_E_EXISTS, UINT64_MAX,
			       "%s: is there and is no trace: it is not replaced", path);
}

int mfs_trace_write(const mfs_trace *trace, const char *path, const mfs_trace_name names[],
		    mfs_problem *why)
{
	char *temporary;
	FILE *file = NULL;
	int fd, error = check_replaced(path, why);

	if (error)
		return error;
	if (asprintf(&temporary, "%s.XXXXXX", path) < 0)
		return mfs_problem_no_memory(why);
	fd = mkostemp(temporary, O_CLOEXEC);
	if (fd >= 0)
		file = fdopen(fd, "w");
	if (!file) {
		error = failed(path, why);
		if (fd >= 0) {
			close(fd);
			unlink(temporary);
		}
		free(temporary);
		return error;
	}
	fchmod(fd, 0644);
	put_entries(file, trace, names);
	if (!finish(file) || rename(temporary, path) < 0) {
		error = failed(path, why);
		unlink(temporary);
	}
	free(temporary);
	return error;
}
