/*
 * What modelfs-stat prints to stdout. Where looking into the container fails, a
 * negative mfs_error is returned and mfs_last_problem() knows more; else an exit code.
 */
#ifndef TOOL_STAT_VIEWS_H
#define TOOL_STAT_VIEWS_H

#include <jansson.h>

#include "modelfs.h"

/* stat_text.c */
int stat_print_summary(mfs_container *container, const char *path, const mfs_container_info *info);
int stat_print_tensors(mfs_container *container);
int stat_print_chunks(mfs_container *container, uint32_t chunks);

/* stat_json.c: all of that in one object. */
int stat_print_json(mfs_container *container, const char *path, const mfs_container_info *info);

/* stat_live.c: the counters of the mount at `path`. */
void stat_print_live(const char *path, const json_t *stats);

#endif
