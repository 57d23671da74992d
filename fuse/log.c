#include "log.h"

#include <fuse_log.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <time.h>

#define WINDOW_SECONDS 10
#define WINDOW_LINES   10
#define LINE_MAX_BYTES 1024

typedef struct {
	worker_job job;
	int level;
	char text[];
} log_line;

static bool to_syslog;

/* Guards the writer and the counts of the present window. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static worker *writer;
static time_t window_start;
static unsigned window_lines, window_dropped;
static char window_last[LINE_MAX_BYTES];

static void write_line(worker_job *job)
{
	log_line *line = (log_line *)job;

	if (to_syslog)
		syslog(line->level, "%s", line->text);
	else
		fprintf(stderr, "modelfs: %s\n", line->text);
	free(line);
}

/* Hands a line to the worker, or drops it where there is none. */
static void post_line(int level, const char *text)
{
	size_t length = strlen(text);
	log_line *line = malloc(sizeof(*line) + length + 1);

	if (!line)
		return;
	line->job.run = write_line;
	line->level = level;
	memcpy(line->text, text, length + 1);
	if (writer)
		worker_post(writer, &line->job);
	else
		free(line);
}

/* libfuse ends its lines itself, and debugging it is done in the foreground. */
static void log_libfuse(enum fuse_log_level level, const char *format, va_list args)
{
	char text[LINE_MAX_BYTES];

	if (!to_syslog) {
		vfprintf(stderr, format, args);
		return;
	}
	vsnprintf(text, sizeof(text), format, args);
	text[strcspn(text, "\n")] = '\0';
	pthread_mutex_lock(&lock);
	post_line((int)level, text);
	pthread_mutex_unlock(&lock);
}

void log_start(worker *w, bool background)
{
	to_syslog = background;
	if (background)
		openlog("modelfs", LOG_PID | LOG_NDELAY, LOG_DAEMON);
	pthread_mutex_lock(&lock);
	writer = w;
	pthread_mutex_unlock(&lock);
	fuse_set_log_func(log_libfuse);
}

void log_stop(void)
{
	pthread_mutex_lock(&lock);
	writer = NULL;
	pthread_mutex_unlock(&lock);
}

static time_t seconds_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
	return t.tv_sec;
}

/* Opens a new window when the present one is over, and says what it dropped. */
static void move_window(void)
{
	time_t t = seconds_now();
	char text[64];

	if (window_start && t - window_start < WINDOW_SECONDS)
		return;
	if (window_dropped) {
		snprintf(text, sizeof(text), "%u more failed reads", window_dropped);
		post_line(LOG_ERR, text);
	}
	window_start = t;
	window_lines = window_dropped = 0;
	window_last[0] = '\0';
}

void log_failed_read(const char *text)
{
	pthread_mutex_lock(&lock);
	move_window();
	if (window_lines == WINDOW_LINES || strncmp(window_last, text, LINE_MAX_BYTES - 1) == 0) {
		window_dropped++;
	} else {
		window_lines++;
		snprintf(window_last, sizeof(window_last), "%s", text);
		post_line(LOG_ERR, text);
	}
	pthread_mutex_unlock(&lock);
}

void log_message(const char *text)
{
	pthread_mutex_lock(&lock);
	post_line(LOG_ERR, text);
	pthread_mutex_unlock(&lock);
}
