/* Pictures of how a container is laid out on its medium. */
#ifndef TOOL_MAP_H
#define TOOL_MAP_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "modelfs.h"

typedef enum {
	MAP_SUPERBLOCK,
	MAP_INDEX,
	MAP_CONSTANTS,
	MAP_WEIGHTS,
	MAP_PLAIN,
	MAP_METADATA,
	MAP_ADAPTER,
	MAP_PADDING,
	MAP_KINDS
} map_kind;

#define MAP_NO_CHUNK UINT32_MAX

typedef struct {
	uint64_t offset, size; /* bytes of the container */
	map_kind kind;
	uint32_t chunk; /* or MAP_NO_CHUNK */
} map_region;

/* The whole container from its first byte to its last, without gaps. */
typedef struct {
	mfs_container *container;
	const char *name; /* for the title */
	mfs_container_info info;
	map_region *region;
	uint32_t regions, room;
	uint64_t bytes[MAP_KINDS];
	uint32_t count[MAP_KINDS]; /* regions of each kind */
} map;

/* Reads the chunk table. 0, or a negative mfs_error. `name` must stay valid. */
int map_build(map *out, mfs_container *container, const char *name);
void map_free(map *m);

/* Rows of cells, `columns` wide; each cell shows what fills most of it. */
void map_print(const map *m, FILE *out, unsigned columns, bool colour);

/* The same as a drawing with a rectangle for each chunk that is wide enough. */
void map_print_svg(const map *m, FILE *out);

#endif
