#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <sys/stat.h>
#include <unistd.h>

#define REDRAW_SECONDS 0.1 /* ten times a second is as much as eyes want */

static const char *program = "modelfs";
/* Guards what is on the terminal's last line: `visible` and every tool_progress. */
static pthread_mutex_t screen = PTHREAD_MUTEX_INITIALIZER;
static tool_progress *visible;

/* ---- messages ---- */

/* With one of the first three closed, the next file that is opened would take its
 * number, and messages could be written into a container. What stands in for them
 * fails as they do. */
static void hold_standard_files(void)
{
	int fd;

	do
		fd = open("/dev/null", fcntl(STDIN_FILENO, F_GETFD) < 0 ? O_WRONLY : O_RDONLY);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

void tool_start(const char *name)
{
	hold_standard_files();
	signal(SIGXFSZ, SIG_IGN); /* a write past `ulimit -f` fails as any other */
	program = name;
}

/* Takes the bar off the screen; the next update draws it again. */
static void clear_bar(void)
{
	if (!visible)
		return;
	fputs("\r\033[K", stderr);
	visible->drawn = 0;
	visible = NULL;
}

static void put_message(const char *format, va_list args)
{
	char *text = NULL;
	char *clean;

	if (vasprintf(&text, format, args) < 0)
		text = NULL;
	clean = tool_clean(text ? text : "out of memory");
	pthread_mutex_lock(&screen);
	clear_bar();
	fprintf(stderr, "%s: %s\n", program, clean);
	pthread_mutex_unlock(&screen);
	free(clean);
	free(text);
}

void tool_error(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	put_message(format, args);
	va_end(args);
}

int tool_misuse(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	put_message(format, args);
	va_end(args);
	fprintf(stderr, "Try '%s --help'.\n", program);
	return TOOL_USAGE;
}

/* Does the line begin with the path, or with that of a file in it? */
static bool names_path(const char *text, const char *path)
{
	size_t length = strlen(path);

	if (!length || strncmp(text, path, length) != 0)
		return false;
	return text[length] == ':' || text[length] == '/' || path[length - 1] == '/';
}

void tool_problem_text(char *out, size_t size, const char *path, int error, const mfs_problem *why)
{
	if (!why->text[0])
		snprintf(out, size, "%s: %s", path, mfs_error_text(error));
	else if (names_path(why->text, path))
		snprintf(out, size, "%s", why->text);
	else
		snprintf(out, size, "%s: %s", path, why->text);
}

void tool_problem(const char *path, int error, const mfs_problem *why)
{
	char text[sizeof(why->text) + 4096];

	tool_problem_text(text, sizeof(text), path, error, why);
	tool_error("%s", text);
}

int tool_print_version(void)
{
	printf("%s (modelfs) %s\n", program, MODELFS_VERSION);
	return tool_finish(TOOL_OK);
}

int tool_finish(int code)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return code;
	tool_error("standard output: %s", strerror(errno));
	return TOOL_FAILED;
}

int tool_may_replace(const char *path, const char *begins)
{
	char found[32] = {0};
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), error = 0;
	ssize_t n;

	if (fd < 0 && errno == ENOENT && *path && path[strlen(path) - 1] != '/')
		return 0;
	if (fd < 0 || fstat(fd, &st) < 0) {
		tool_error("%s: %s", path, strerror(errno));
		error = TOOL_FAILED;
	} else if (!S_ISREG(st.st_mode)) {
		tool_error("%s: is there and is no file", path);
		error = TOOL_FAILED;
	} else {
		n = read(fd, found, sizeof(found) - 1);
		if (n != 0 && strncmp(found, begins, strlen(begins)) != 0) {
			tool_error("%s: is there and is something else: it is not replaced", path);
			error = TOOL_FAILED;
		}
	}
	if (fd >= 0)
		close(fd);
	return error;
}

/* ---- beginning and ending ---- */

/* What getopt_long() has just refused: a long option, which is unknown or is the last
 * argument and lacks its value, or a letter, which may be one of several. */
static void refuse_option(int argc, char *argv[])
{
	const char *last = argv[optind - 1];

	if (optopt == 0 || (optind == argc && strncmp(last, "--", 2) == 0))
		tool_misuse("'%s' is not an option, or lacks its value", last);
	else
		tool_misuse("'-%c' is not an option, or lacks its value", optopt);
}

/* A path or a name that a script's variable should have held. */
static bool has_empty_operand(int argc, char *argv[])
{
	for (int i = optind; i < argc; i++)
		if (!*argv[i])
			return true;
	return false;
}

int tool_option(int argc, char *argv[], const char *letters, const struct option *options,
		void (*print_help)(void))
{
	int option;

	opterr = 0;
	option = getopt_long(argc, argv, letters, options, NULL);
	switch (option) {
	case 'h':
		print_help();
		exit(tool_finish(TOOL_OK));
	case 'V':
		exit(tool_print_version());
	case '?':
		refuse_option(argc, argv);
		break;
	case -1:
		if (has_empty_operand(argc, argv)) {
			tool_misuse("an argument is empty");
			option = '?';
		}
	}
	return option;
}

static volatile sig_atomic_t stop_signal;

static void on_stop(int signal)
{
	stop_signal = signal;
}

void tool_catch_signals(void)
{
	struct sigaction action = {.sa_handler = on_stop, .sa_flags = SA_RESTART};

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
}

int tool_stopped(void)
{
	return stop_signal ? 128 + stop_signal : 0;
}

mfs_container *tool_open(const char *path, uint64_t matrices_bytes)
{
	mfs_open_options options = MFS_OPEN_OPTIONS_INIT;
	mfs_container *container;
	mfs_problem why = {0};
	int err;

	options.matrices_bytes = matrices_bytes;
	err = mfs_open(&container, path, &options, &why);

	if (err == 0)
		return container;
	tool_problem(path, err, &why);
	return NULL;
}

/* ---- text ---- */

static void no_memory(void)
{
	fprintf(stderr, "%s: out of memory\n", program);
	exit(TOOL_FAILED);
}

void *tool_grow(void *memory, size_t count, size_t size)
{
	void *grown = reallocarray(memory, count ? count : 1, size);

	if (!grown)
		no_memory();
	return grown;
}

/* Decodes one character of UTF-8 at `s` (terminated) into *code. Returns its
 * bytes, or 0 if it is none: overlong, a surrogate, past U+10FFFF, cut off. */
static unsigned decode_utf8(const unsigned char *s, uint32_t *code)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	unsigned length = s[0] < 0x80	? 1
			  : s[0] < 0xc2 ? 0
			  : s[0] < 0xe0 ? 2
			  : s[0] < 0xf0 ? 3
			  : s[0] < 0xf5 ? 4
					: 0;
	uint32_t value = length == 1 ? s[0] : s[0] & (0x7fu >> length);

	for (unsigned i = 1; i < length; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		value = value << 6 | (s[i] & 0x3f);
	}
	if (length == 0 || value < least[length] || value > 0x10ffff ||
	    (value >= 0xd800 && value <= 0xdfff))
		return 0;
	*code = value;
	return length;
}

/* Control characters, and marks that change the direction of what follows. */
static bool is_unsafe(uint32_t code)
{
	return code < 0x20 || (code >= 0x7f && code <= 0x9f) || code == 0x200e || code == 0x200f ||
	       code == 0x2028 || code == 0x2029 || (code >= 0x202a && code <= 0x202e) ||
	       (code >= 0x2066 && code <= 0x2069);
}

char *tool_clean(const char *text)
{
	const unsigned char *in = (const unsigned char *)text;
	char *out = tool_grow(NULL, strlen(text) * 4 + 1, 1);
	char *end = out;

	while (*in) {
		uint32_t code = 0;
		unsigned length = decode_utf8(in, &code);

		if (length && !is_unsafe(code)) {
			end = mempcpy(end, in, length);
			in += length;
			continue;
		}
		for (unsigned i = 0; i < (length ? length : 1); i++)
			end += sprintf(end, "\\x%02x", *in++);
	}
	*end = '\0';
	return out;
}

char *tool_utf8(const char *text)
{
	const unsigned char *in = (const unsigned char *)text;
	char *out = tool_grow(NULL, strlen(text) * 3 + 1, 1);
	char *end = out;

	while (*in) {
		uint32_t code;
		unsigned length = decode_utf8(in, &code);

		end = length ? mempcpy(end, in, length) : mempcpy(end, "\xef\xbf\xbd", 3);
		in += length ? length : 1;
	}
	*end = '\0';
	return out;
}

size_t tool_columns(const char *text)
{
	size_t columns = 0;

	for (; *text; text++)
		columns += ((unsigned char)*text & 0xc0) != 0x80;
	return columns;
}

/* ---- sizes ---- */

const char *tool_size(char out[TOOL_SIZE_TEXT], uint64_t bytes)
{
	static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double value = (double)bytes / 1024;
	unsigned unit = 0;

	if (bytes < 1024) {
		snprintf(out, TOOL_SIZE_TEXT, "%u B", (unsigned)bytes);
		return out;
	}
	for (; value >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0]); unit++)
		value /= 1024;
	snprintf(out, TOOL_SIZE_TEXT, "%.*f %s", value < 10 ? 2 : 1, value, units[unit]);
	return out;
}

double tool_ratio_value(uint64_t original, uint64_t stored)
{
	return stored ? (double)original / (double)stored : 0;
}

const char *tool_ratio(char out[TOOL_SIZE_TEXT], uint64_t original, uint64_t stored)
{
	if (stored)
		snprintf(out, TOOL_SIZE_TEXT, "%.3f", tool_ratio_value(original, stored));
	else
		strcpy(out, "-");
	return out;
}

/* Reads decimal digits; returns what follows them, or NULL. */
static const char *parse_digits(const char *text, uint64_t *out)
{
	char *end;

	if (*text < '0' || *text > '9')
		return NULL;
	errno = 0;
	*out = strtoull(text, &end, 10);
	return errno ? NULL : end;
}

bool tool_parse_number(const char *text, uint64_t max, uint64_t *out)
{
	const char *end = parse_digits(text, out);

	return end && !*end && *out <= max;
}

bool tool_parse_size(const char *text, uint64_t max, uint64_t *out)
{
	static const char units[] = "KMGT";
	const char *end = parse_digits(text, out);
	const char *unit;

	if (!end)
		return false;
	if (!*end)
		return *out <= max;
	unit = strchr(units, *end >= 'a' ? *end - 'a' + 'A' : *end);
	if (!unit)
		return false;
	end++;
	if (*end && strcmp(end, "iB") != 0)
		return false;
	return !__builtin_mul_overflow(*out, UINT64_C(1) << 10 * (unit - units + 1), out) &&
	       *out <= max;
}

/* ---- tables ---- */

void tool_table_init(tool_table *table, const char *align)
{
	*table = (tool_table){.columns = (unsigned)strlen(align), .align = align};
}

static void add_cell(tool_table *table, char *text)
{
	if (table->cells == table->room) {
		table->room = table->room ? 2 * table->room : 64;
		table->cell = tool_grow(table->cell, table->room, sizeof(*table->cell));
	}
	table->cell[table->cells++] = text;
}

void tool_table_add(tool_table *table, const char *text)
{
	add_cell(table, tool_clean(text));
}

void tool_table_addf(tool_table *table, const char *format, ...)
{
	char *text;
	va_list args;

	va_start(args, format);
	if (vasprintf(&text, format, args) < 0)
		no_memory();
	va_end(args);
	add_cell(table, text);
}

/* The last column is not padded: no line ends in spaces. */
static void print_cell(FILE *out, const char *text, size_t width, char align, bool last)
{
	size_t columns = tool_columns(text);
	int pad = width > columns ? (int)(width - columns) : 0;

	if (align == 'r')
		fprintf(out, "%*s%s", pad, "", text);
	else
		fprintf(out, "%s%*s", text, last ? 0 : pad, "");
}

void tool_table_print(tool_table *table, FILE *out, unsigned indent)
{
	size_t width[TOOL_TABLE_COLUMNS] = {0};

	for (size_t i = 0; i < table->cells; i++) {
		size_t columns = tool_columns(table->cell[i]);
		size_t *widest = &width[i % table->columns];

		if (columns > *widest)
			*widest = columns;
	}
	for (size_t i = 0; i < table->cells; i++) {
		unsigned column = i % table->columns;
		bool last = column + 1 == table->columns;

		fprintf(out, "%*s", column ? 2 : (int)indent, "");
		print_cell(out, table->cell[i], width[column], table->align[column], last);
		if (last)
			putc('\n', out);
		free(table->cell[i]);
	}
	free(table->cell);
	*table = (tool_table){0};
}

/* ---- progress ---- */

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static unsigned terminal_columns(void)
{
	struct winsize size;

	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col < 20)
		return 80;
	return size.ws_col;
}

bool tool_can_draw(int fd)
{
	const char *terminal = getenv("TERM");

	return isatty(fd) && !(terminal && !strcmp(terminal, "dumb"));
}

void tool_progress_init(tool_progress *progress, bool quiet)
{
	*progress = (tool_progress){.on = !quiet && tool_can_draw(STDERR_FILENO)};
}

/* "4:05" or "1:02:03"; "--:--" while it cannot be known. */
static const char *time_left(char out[TOOL_SIZE_TEXT], double rate, uint64_t bytes)
{
	double seconds = rate > 0 ? (double)bytes / rate : 1e9;
	unsigned long s = seconds < 360000 ? (unsigned long)(seconds + 0.5) : 0;

	if (seconds >= 360000)
		strcpy(out, "--:--");
	else if (s >= 3600)
		snprintf(out, TOOL_SIZE_TEXT, "%lu:%02lu:%02lu", s / 3600, s / 60 % 60, s % 60);
	else
		snprintf(out, TOOL_SIZE_TEXT, "%lu:%02lu", s / 60, s % 60);
	return out;
}

static void draw(const tool_progress *p, double t, uint64_t done, uint64_t total)
{
	double part = total ? (double)done / (double)total : 1;
	double elapsed = t - p->stage_start;
	double rate = elapsed > 0 ? (double)done / elapsed : 0;
	char speed[TOOL_SIZE_TEXT], left[TOOL_SIZE_TEXT], tail[80];
	int used, bar, filled;

	snprintf(tail, sizeof(tail), "%3u %%  %s/s  %s left", (unsigned)(part * 100),
		 tool_size(speed, (uint64_t)rate), time_left(left, rate, total - done));
	used = (int)strlen(p->stage) + (int)strlen(tail) + 6;
	bar = (int)terminal_columns() - 1 - used;
	if (bar > 60)
		bar = 60;
	if (bar < 4) {
		fprintf(stderr, "\r\033[K%3u %%", (unsigned)(part * 100));
		return;
	}
	filled = (int)(part * bar);
	fprintf(stderr, "\r\033[K%s  [%.*s%*s]  %s", p->stage, filled,
		"############################################################", bar - filled, "",
		tail);
}

void tool_progress_show(tool_progress *progress, const char *stage, uint64_t done, uint64_t total)
{
	double t;

	if (!progress->on)
		return;
	pthread_mutex_lock(&screen);
	t = now();
	if (progress->stage != stage) {
		progress->stage = stage;
		progress->stage_start = t;
	}
	if (t - progress->drawn >= REDRAW_SECONDS) {
		draw(progress, t, done < total ? done : total, total);
		progress->drawn = t;
		visible = progress;
	}
	pthread_mutex_unlock(&screen);
}

void tool_progress_end(tool_progress *progress)
{
	pthread_mutex_lock(&screen);
	if (visible == progress)
		clear_bar();
	pthread_mutex_unlock(&screen);
}
