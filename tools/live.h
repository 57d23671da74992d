/* The counters of a running mount, which its daemon shows as a file. */
#ifndef TOOL_LIVE_H
#define TOOL_LIVE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* The counters of the mount at `mountpoint`, or NULL after a message; with
 * `quiet_end`, without one if nothing is mounted there any more. */
json_t *live_load(const char *mountpoint, bool quiet_end);

/* A number, 0 where there is none. */
uint64_t live_number(const json_t *object, const char *key);
/* Text that is harmless on a terminal, "unknown" where there is none; free() it. */
char *live_text(const json_t *object, const char *key);
/* A line about the medium and how reads are queued for it; free() it. */
char *live_medium(const json_t *stats);

#endif
