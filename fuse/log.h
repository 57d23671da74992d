/*
 * Messages of the daemon: to stderr while it is in the foreground, to syslog
 * after that. Lines are written by the worker, so nobody waits for a full pipe.
 */
#ifndef MODELFS_LOG_H
#define MODELFS_LOG_H

#include <stdbool.h>

#include "worker.h"

/* Where lines go from now on; `w` must live until log_stop(). Also takes over
 * what libfuse has to say. */
void log_start(worker *w, bool background);
void log_stop(void);

/* Writes a line about a failed read. The same line is not repeated within ten
 * seconds, and there are at most ten lines in that time: a failing medium must
 * not fill the log. Any thread; never blocks. */
void log_failed_read(const char *text);

/* Writes any other line. Any thread; never blocks. */
void log_message(const char *text);

#endif
