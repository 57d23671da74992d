#include "watch.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>

#include "common.h"
#include "json.h"
#include "live.h"

/* ---- what happened between two looks ---- */

typedef struct {
	double seconds;
	double medium_rate, served_rate; /* bytes a second */
	double busy;			 /* share of the time that the medium worked */
	double busy_rate;		 /* bytes a second while it did */
	double decoders;		 /* share of their time that they worked */
	double hits;			 /* share of spans that were there already */
	bool looked_up;			 /* there were any */
	double ratio;			 /* of the whole container */
	uint64_t touched, size;		 /* bytes of all files */
	uint64_t errors;		 /* since it was mounted */
} rates;

static double grown(const json_t *before, const json_t *now, const char *key)
{
	uint64_t a = live_number(before, key), b = live_number(now, key);

	return b > a ? (double)(b - a) : 0;
}

static double share(double part, double whole)
{
	return whole <= 0 ? 0 : part > whole ? 1 : part / whole;
}

static void sum_files(const json_t *stats, uint64_t *touched, uint64_t *size)
{
	const json_t *file;
	size_t i;

	*touched = *size = 0;
	json_array_foreach(json_object_get(stats, "files"), i, file)
	{
		*touched += live_number(file, "touched_bytes");
		*size += live_number(file, "size");
	}
}

static void compare(rates *out, const json_t *before, const json_t *now, double seconds)
{
	double hits = grown(before, now, "span_hits"), misses = grown(before, now, "span_misses");
	double medium = grown(before, now, "medium_bytes");
	double busy = grown(before, now, "busy_us") / 1e6;

	*out = (rates){.seconds = seconds};
	sum_files(now, &out->touched, &out->size);
	if (seconds > 0) {
		out->medium_rate = medium / seconds;
		out->served_rate = grown(before, now, "served_bytes") / seconds;
	}
	out->busy = share(busy, seconds);
	out->busy_rate = busy > 0 ? medium / busy : 0;
	out->decoders = share(grown(before, now, "decoding_us") / 1e6,
			      seconds * (double)live_number(now, "decoders"));
	out->looked_up = hits + misses > 0;
	out->hits = share(hits, hits + misses);
	out->ratio = tool_ratio_value(out->size, live_number(now, "container_bytes"));
	out->errors = live_number(now, "errors_io") + live_number(now, "errors_corrupt");
}

/* ---- as JSON ---- */

static void print_json(json_t *stats, const rates *r)
{
	json_t *object = json_object();
	char *text;

	json_set(object, "seconds", json_real(r->seconds));
	json_set_number(object, "medium_bytes_per_second", (uint64_t)r->medium_rate);
	json_set_number(object, "served_bytes_per_second", (uint64_t)r->served_rate);
	json_set_number(object, "busy_bytes_per_second", (uint64_t)r->busy_rate);
	json_set(object, "medium_busy", json_real(r->busy));
	json_set(object, "decoders_busy", json_real(r->decoders));
	json_set(object, "cache_hits", r->looked_up ? json_real(r->hits) : json_null());
	json_set(object, "ratio", json_real(r->ratio));
	json_set_number(object, "touched_bytes", r->touched);
	json_set_number(object, "size", r->size);
	json_set(stats, "watch", object);
	text = json_dumps(stats, JSON_COMPACT | JSON_REAL_PRECISION(6));
	if (!text)
		exit(TOOL_FAILED);
	puts(text);
	free(text);
}

/* ---- as lines ---- */

static void format_hits(char out[16], const rates *r)
{
	if (r->looked_up)
		snprintf(out, 16, "%.1f %%", 100 * r->hits);
	else
		strcpy(out, "-");
}

static void print_line(const rates *r)
{
	char a[TOOL_SIZE_TEXT], b[TOOL_SIZE_TEXT], c[TOOL_SIZE_TEXT], hits[16];

	format_hits(hits, r);
	printf("medium %s/s (busy %.0f %%, %s/s then), served %s/s, touched %.1f %%, cache %s, "
	       "decoders %.0f %%, errors %" PRIu64 "\n",
	       tool_size(a, (uint64_t)r->medium_rate), 100 * r->busy,
	       tool_size(b, (uint64_t)r->busy_rate), tool_size(c, (uint64_t)r->served_rate),
	       100 * share((double)r->touched, (double)r->size), hits, 100 * r->decoders,
	       r->errors);
}

/* ---- on a terminal ---- */

/* Colours of the map: weights, constants, padding. */
enum { BLUE = 32, TEAL = 37, GREY = 240 };

typedef struct {
	FILE *out; /* a whole picture goes out in one write */
	char *text;
	size_t size;
	unsigned columns, rows;
	unsigned lines; /* of the picture before: to be drawn over */
	bool colour;
} screen;

#define NAME_MAX_COLUMNS 24
#define LABEL_COLUMNS	 12
#define FIXED_LINES	 8 /* all but those of the files */

static void end_line(screen *s)
{
	fputs("\033[K\n", s->out);
}

static void draw_bar(const screen *s, unsigned columns, double part, int colour)
{
	unsigned full = (unsigned)(part * columns + (part < 1 ? 0 : 0.5));

	if (part > 0 && !full)
		full = 1;
	if (s->colour) {
		fprintf(s->out, "\033[48;5;%dm%*s\033[48;5;%dm%*s\033[0m", colour, (int)full, "",
			GREY, (int)(columns - full), "");
		return;
	}
	for (unsigned i = 0; i < columns; i++)
		fputc(i < full ? '#' : '.', s->out);
}

/* Room for a bar beside a text of so many columns. */
static unsigned bar_columns(const screen *s, unsigned text)
{
	return s->columns > text + 40 ? 40 : s->columns > text + 8 ? s->columns - text : 8;
}

static void draw_gauge(screen *s, const char *label, double part, int colour, const char *text)
{
	fprintf(s->out, "  %-*s", LABEL_COLUMNS - 2, label);
	draw_bar(s, bar_columns(s, LABEL_COLUMNS + 40), part, colour);
	fprintf(s->out, "  %s", text);
	end_line(s);
}

static void draw_head(screen *s, const char *mountpoint, const json_t *stats, const rates *r)
{
	char *mount = tool_clean(mountpoint), *container = live_text(stats, "container");
	char *medium = live_medium(stats), *engine = live_text(stats, "engine");
	char request[TOOL_SIZE_TEXT];
	uint64_t up = live_number(stats, "uptime_seconds");

	fprintf(s->out, "%s: %s, ratio %.3f, up %" PRIu64 ":%02u:%02u", mount, container, r->ratio,
		up / 3600, (unsigned)(up / 60 % 60), (unsigned)(up % 60));
	end_line(s);
	fprintf(s->out, "  %-*s%s", LABEL_COLUMNS - 2, "on", medium);
	end_line(s);
	fprintf(s->out, "  %-*sup to %s, %" PRIu64 " in flight, %s", LABEL_COLUMNS - 2, "requests",
		tool_size(request, live_number(stats, "request_bytes")),
		live_number(stats, "depth"), engine);
	if (json_is_integer(json_object_get(stats, "read_ahead_kb")))
		fprintf(s->out, ", read-ahead %" PRIu64 " KiB",
			live_number(stats, "read_ahead_kb"));
	end_line(s);
	free(mount);
	free(container);
	free(medium);
	free(engine);
}

static void draw_rates(screen *s, const json_t *stats, const rates *r)
{
	char a[TOOL_SIZE_TEXT], b[TOOL_SIZE_TEXT], hits[16], text[128];

	snprintf(text, sizeof(text), "%s/s, busy %.0f %% at %s/s",
		 tool_size(a, (uint64_t)r->medium_rate), 100 * r->busy,
		 tool_size(b, (uint64_t)r->busy_rate));
	draw_gauge(s, "medium", r->busy, TEAL, text);
	snprintf(text, sizeof(text), "%.1f of %" PRIu64 " busy",
		 r->decoders * (double)live_number(stats, "decoders"),
		 live_number(stats, "decoders"));
	draw_gauge(s, "decoders", r->decoders, TEAL, text);
	format_hits(hits, r);
	snprintf(text, sizeof(text), "%s hit", hits);
	draw_gauge(s, "cache", r->hits, TEAL, text);
	fprintf(s->out, "  %-*s%s/s", LABEL_COLUMNS - 2, "delivered",
		tool_size(a, (uint64_t)r->served_rate));
	if (r->errors)
		fprintf(s->out, "  %s%" PRIu64 " of the medium, %" PRIu64 " of damage%s",
			s->colour ? "\033[48;5;160;38;5;231m errors: " : "errors: ",
			live_number(stats, "errors_io"), live_number(stats, "errors_corrupt"),
			s->colour ? " \033[0m" : "");
	else
		fputs(", no errors", s->out);
	end_line(s);
}

typedef struct {
	const json_t *file;
	size_t place; /* in the list of the daemon */
	uint64_t size;
} row;

static int compare_rows(const void *a, const void *b)
{
	const row *left = a, *right = b;

	if (left->size != right->size)
		return left->size < right->size ? 1 : -1;
	return left->place < right->place ? -1 : 1;
}

/* `text` in so many columns, so that bars begin below each other; what does not
 * fit ends in a tilde. */
static void put_name(FILE *out, const char *text, unsigned columns)
{
	bool fits = tool_columns(text) <= columns;
	unsigned used = 0;

	for (; *text; text++) {
		bool begins = ((unsigned char)*text & 0xc0) != 0x80;

		if (begins && !fits && used == columns - 1)
			break;
		used += begins;
		fputc(*text, out);
	}
	fprintf(out, "%s%*s", fits ? "" : "~", fits ? (int)(columns - used) : 0, "");
}

static void draw_file(screen *s, const row *f, const json_t *files_before, double seconds,
		      unsigned name_columns)
{
	const json_t *before = json_array_get(files_before, f->place);
	double gained = grown(before, f->file, "touched_bytes");
	uint64_t touched = live_number(f->file, "touched_bytes");
	char a[TOOL_SIZE_TEXT], b[TOOL_SIZE_TEXT], *name = live_text(f->file, "name");
	double part = f->size ? share((double)touched, (double)f->size) : 1;

	fputs("  ", s->out);
	put_name(s->out, name, name_columns);
	fputs("  ", s->out);
	draw_bar(s, bar_columns(s, name_columns + 51), part, BLUE);
	fprintf(s->out, " %5.1f %%  %s of %s", 100 * part, tool_size(a, touched),
		tool_size(b, f->size));
	if (gained > 0 && touched < f->size) {
		uint64_t left = (uint64_t)((double)(f->size - touched) / gained * seconds + 0.5);

		fprintf(s->out, ", %" PRIu64 ":%02u left", left / 60, (unsigned)(left % 60));
	}
	end_line(s);
	free(name);
}

static unsigned widest_name(const row *rows, size_t count)
{
	unsigned widest = LABEL_COLUMNS - 4;

	for (size_t i = 0; i < count; i++) {
		char *name = live_text(rows[i].file, "name");
		size_t columns = tool_columns(name);

		widest = columns > widest ? (unsigned)columns : widest;
		free(name);
	}
	return widest < NAME_MAX_COLUMNS ? widest : NAME_MAX_COLUMNS;
}

/* The largest files, as many as the terminal has room for. */
static void draw_files(screen *s, const json_t *before, const json_t *stats, const rates *r)
{
	const json_t *files = json_object_get(stats, "files"), *file;
	const json_t *files_before = json_object_get(before, "files");
	size_t count = json_array_size(files), shown = count, i;
	size_t room = s->rows > FIXED_LINES + 1 ? s->rows - FIXED_LINES : 1;
	row *rows = tool_grow(NULL, count + 1, sizeof(*rows));
	unsigned columns;

	json_array_foreach(files, i, file) rows[i] = (row){file, i, live_number(file, "size")};
	qsort(rows, count, sizeof(*rows), compare_rows);
	if (shown > room)
		shown = room > 1 ? room - 1 : 1;
	columns = widest_name(rows, shown);
	for (i = 0; i < shown; i++)
		draw_file(s, &rows[i], files_before, r->seconds, columns);
	if (shown < count && room > 1) {
		fprintf(s->out, "  and %zu smaller files; %.1f %% of all", count - shown,
			100 * share((double)r->touched, (double)r->size));
		end_line(s);
	}
	free(rows);
}

/* Begins a picture over the one before it. Lines that are too long end at the
 * edge, so that the number of lines is the number of rows. */
static void begin_picture(screen *s)
{
	struct winsize size;
	unsigned columns = 80, rows = 24;

	if (!ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) && size.ws_col && size.ws_row) {
		columns = size.ws_col;
		rows = size.ws_row;
	}
	s->out = open_memstream(&s->text, &s->size);
	if (!s->out)
		exit(TOOL_FAILED);
	fputs("\033[?7l", s->out);
	/* What a new width has made of the old lines nobody knows. */
	if (s->lines && (columns != s->columns || rows != s->rows))
		fputs("\033[H", s->out);
	else if (s->lines)
		fprintf(s->out, "\033[%uA\r", s->lines);
	s->columns = columns;
	s->rows = rows;
}

/* Writes as many lines as there is room for: the cursor needs one as well. */
static void end_picture(screen *s)
{
	char *end;

	if (fclose(s->out))
		exit(TOOL_FAILED);
	end = s->text;
	for (s->lines = 0; s->lines + 1 < s->rows && *end; s->lines++)
		end = strchr(end, '\n') + 1;
	fwrite(s->text, 1, (size_t)(end - s->text), stdout);
	fputs("\033[J\033[?7h", stdout);
	free(s->text);
}

static void draw(screen *s, const char *mountpoint, const json_t *before, const json_t *stats,
		 const rates *r)
{
	bool high;

	begin_picture(s);
	high = s->rows > FIXED_LINES + 1;
	/* Where not all of it fits, how far the load is matters most. */
	if (!high)
		draw_files(s, before, stats, r);
	else
		draw_head(s, mountpoint, stats, r);
	draw_rates(s, stats, r);
	if (high)
		draw_files(s, before, stats, r);
	end_picture(s);
}

/* ---- watching ---- */

static double seconds_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

typedef struct {
	const char *mountpoint;
	double seconds;
	bool json, terminal;
	screen screen;
	sigset_t resized, stops;
	pthread_t watcher; /* the thread that looks and draws */
	atomic_bool stopped;
	json_t *before;
	double before_at;
} watch;

/* Waits, but not past `until` or a signal. False: asked to stop. */
static bool wait_until(watch *w, double until)
{
	double left = until - seconds_now();
	struct timespec t = {0};

	if (left > 0) {
		t.tv_sec = (time_t)left;
		t.tv_nsec = (long)((left - (double)t.tv_sec) * 1e9);
	}
	sigtimedwait(&w->resized, NULL, &t);
	return !atomic_load(&w->stopped);
}

/* A thread that is asked to stop. The watcher may wait for a daemon that does not answer,
 * and no signal wakes it there. */
static void *wait_for_stop(void *argument)
{
	watch *w = argument;
	int signal;

	sigwait(&w->stops, &signal);
	atomic_store(&w->stopped, true);
	pthread_kill(w->watcher, SIGWINCH);
	sleep(1);
	_exit(TOOL_OK);
}

/* Signals wait for who asks for them. False where there is no thread for that. */
static bool take_signals(watch *w)
{
	static const int stops[] = {SIGINT, SIGTERM, SIGHUP};
	pthread_t stopper;

	sigemptyset(&w->resized);
	sigaddset(&w->resized, SIGWINCH);
	sigemptyset(&w->stops);
	for (size_t i = 0; i < sizeof(stops) / sizeof(stops[0]); i++)
		sigaddset(&w->stops, stops[i]);
	pthread_sigmask(SIG_BLOCK, &w->resized, NULL);
	pthread_sigmask(SIG_BLOCK, &w->stops, NULL);
	w->watcher = pthread_self();
	errno = pthread_create(&stopper, NULL, wait_for_stop, w);
	return !errno && !pthread_detach(stopper);
}

static void show(watch *w, json_t *stats)
{
	double at = seconds_now();
	rates r;

	compare(&r, w->before ? w->before : stats, stats, w->before ? at - w->before_at : 0);
	if (w->terminal)
		draw(&w->screen, w->mountpoint, w->before, stats, &r);
	else if (w->before && w->json)
		print_json(stats, &r);
	else if (w->before)
		print_line(&r);
	fflush(stdout);
	json_decref(w->before);
	w->before = stats;
	w->before_at = at;
}

/* Why there are no counters any more, in errno: at the end of a mount its directory is
 * what it was before, soon; a daemon that died leaves one that nobody can use. */
static int ended(const watch *w)
{
	struct timespec soon = {0, 300000000};
	struct statfs fs;

	if (errno != ENOTCONN && errno != ECONNABORTED)
		return TOOL_OK;
	nanosleep(&soon, NULL);
	if (!statfs(w->mountpoint, &fs) || errno != ENOTCONN)
		return TOOL_OK;
	tool_error("%s: the daemon has died: unmount with fusermount3 -u", w->mountpoint);
	return TOOL_FAILED;
}

/* The daemon that is watched has ended, and perhaps another one has begun. */
static bool is_other(const watch *w, const json_t *stats)
{
	return live_number(w->before, "pid") != live_number(stats, "pid");
}

int watch_mount(const char *mountpoint, double seconds, bool json)
{
	/* The thread that is told to stop may outlive this function. */
	static watch w;
	json_t *stats = live_load(mountpoint, false);
	int code = TOOL_OK;

	if (!stats)
		return TOOL_FAILED;
	w = (watch){.mountpoint = mountpoint, .seconds = seconds, .json = json};
	w.terminal = !json && tool_can_draw(STDOUT_FILENO);
	w.screen.colour = !getenv("NO_COLOR");
	if (!take_signals(&w)) {
		tool_error("cannot start a thread: %s", strerror(errno));
		json_decref(stats);
		return TOOL_FAILED;
	}
	do {
		show(&w, stats);
		stats = NULL;
		if (ferror(stdout) || !wait_until(&w, w.before_at + seconds))
			break;
		stats = live_load(mountpoint, true);
		if (!stats)
			code = ended(&w);
	} while (stats && !is_other(&w, stats));
	json_decref(stats);
	json_decref(w.before);
	return code;
}
