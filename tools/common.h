/*
 * What the programs share: messages, sizes, tables of text, a progress bar.
 *
 * Results go to stdout, messages to stderr. Text that comes from a container or
 * a source file passes through tool_clean() before it reaches a terminal.
 */
#ifndef TOOL_COMMON_H
#define TOOL_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "modelfs.h"

/* Exit codes of every program. */
enum { TOOL_OK = 0, TOOL_FAILED = 1, TOOL_USAGE = 2 };

struct option;

/* ---- messages ---- */

/* The program's name for messages; call it first, before a file is opened: it sees to
 * it that 0, 1 and 2 are taken. `name` must stay valid. */
void tool_start(const char *name);

/* Prints "PROGRAM: text" and a newline to stderr, above a progress bar. */
void tool_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same with a pointer to --help; returns TOOL_USAGE. */
int tool_misuse(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Says why something failed with the file at `path`: the library's line if it
 * left one, else a few words for `error`; always with the path in front. */
void tool_problem(const char *path, int error, const mfs_problem *why);
/* The same line without the program's name, into `out`. */
void tool_problem_text(char *out, size_t size, const char *path, int error, const mfs_problem *why);

/* Prints "PROGRAM (modelfs) VERSION" to stdout; returns TOOL_OK. */
int tool_print_version(void);

/* Whether a result may be written to a path: 0 if nothing is there, or a file that is empty
 * or begins with `begins` as an earlier result does. Else TOOL_FAILED, with a message: a
 * model or a container that was named by mistake is not lost. */
int tool_may_replace(const char *path, const char *begins);

/* Flushes stdout and returns `code`, or TOOL_FAILED with a message if what was
 * printed did not arrive (a full disk, a closed pipe). */
int tool_finish(int code);

/* ---- beginning and ending ---- */

/* The next option of the command line, as getopt_long(3) gives it, or -1. It answers
 * -h (with `print_help`) and -V itself and ends the program; after '?' it has said what
 * is wrong, and the caller returns TOOL_USAGE. No argument behind the options is empty. */
int tool_option(int argc, char *argv[], const char *letters, const struct option *options,
		void (*print_help)(void));

/* Makes SIGINT, SIGTERM and SIGHUP show in tool_stopped() only. */
void tool_catch_signals(void);
/* The exit code after such a signal, or 0 before it. */
int tool_stopped(void);

/* Opens the container at `path`, with the options' matrices_bytes; NULL after a message. */
mfs_container *tool_open(const char *path, uint64_t matrices_bytes);

/* ---- text ---- */

/* A copy of `text` that is harmless on a terminal: control characters, bytes
 * that are not UTF-8 and marks that reorder text become \xNN. Never NULL (exits
 * when memory is gone); free() it. */
char *tool_clean(const char *text);

/* A copy of `text` with bytes that are not UTF-8 replaced by U+FFFD, for JSON.
 * Never NULL; free() it. */
char *tool_utf8(const char *text);

/* Columns that `text` takes on a terminal, one for each character. */
size_t tool_columns(const char *text);

/* realloc() for `count` items of `size` bytes that exits when memory is gone. */
void *tool_grow(void *memory, size_t count, size_t size);

/* ---- sizes ---- */

#define TOOL_SIZE_TEXT 24

/* "17 B", "1.50 MiB"; returns `out`. */
const char *tool_size(char out[TOOL_SIZE_TEXT], uint64_t bytes);

/* original / stored as "1.458", or "-" where nothing is stored; returns `out`. */
const char *tool_ratio(char out[TOOL_SIZE_TEXT], uint64_t original, uint64_t stored);

/* original / stored as a number; 0 where nothing is stored. */
double tool_ratio_value(uint64_t original, uint64_t stored);

/* Reads "4096", "64K", "1M", "2G" (powers of 1024, "KiB" works as well). False
 * if it is anything else or more than `max`. */
bool tool_parse_size(const char *text, uint64_t max, uint64_t *out);

/* Reads a decimal number without sign. False if it is more than `max`. */
bool tool_parse_number(const char *text, uint64_t max, uint64_t *out);

/* ---- tables ---- */

#define TOOL_TABLE_COLUMNS 24

/* A table of text whose columns are as wide as their widest cell. */
typedef struct {
	unsigned columns;
	const char *align; /* one 'l' or 'r' for each column */
	size_t cells, room;
	char **cell;
} tool_table;

/* `align` must stay valid; it tells how many columns there are. */
void tool_table_init(tool_table *table, const char *align);
/* Adds a cell: cleaned text, or formatted text. Rows fill from left to right. */
void tool_table_add(tool_table *table, const char *text);
void tool_table_addf(tool_table *table, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Prints the table, indented by `indent`, and frees it. */
void tool_table_print(tool_table *table, FILE *out, unsigned indent);

/* ---- progress ---- */

/* A bar on the last line of a terminal, with rate and time left; silent where
 * stderr is not a terminal. */
typedef struct {
	bool on;
	const char *stage;  /* what is being done now */
	double stage_start; /* seconds */
	double drawn;	    /* seconds; 0: nothing is on the screen */
} tool_progress;

/* A terminal on which lines can be drawn over. */
bool tool_can_draw(int fd);

void tool_progress_init(tool_progress *progress, bool quiet);
/* `stage` is a word such as "writing" and must stay valid; both counts are bytes.
 * Safe from several threads. */
void tool_progress_show(tool_progress *progress, const char *stage, uint64_t done, uint64_t total);
/* Removes the bar. */
void tool_progress_end(tool_progress *progress);

#endif
