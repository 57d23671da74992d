/* Watching a mount while it is used: how a load comes along. */
#ifndef TOOL_WATCH_H
#define TOOL_WATCH_H

#include <stdbool.h>

/* Shows the mount at `mountpoint` every `seconds` (> 0) until it is unmounted or a
 * signal asks to stop: in place on a terminal, else a line each time; with `json`
 * an object on each line. Returns an exit code. */
int watch_mount(const char *mountpoint, double seconds, bool json);

#endif
