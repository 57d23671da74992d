/* What modelfs-stat adds up of a container, for its text and for its JSON. */
#ifndef TOOL_STAT_FACTS_H
#define TOOL_STAT_FACTS_H

#include <stddef.h>
#include <stdint.h>

#include "modelfs.h"

/* The tensors of a type, or the chunks of a class. */
typedef struct {
	const char *name; /* as long as the container is open */
	uint64_t items;	  /* tensors or chunks; 0: bytes that belong to none */
	uint64_t original, stored;
	uint64_t constants, constants_stored; /* of types: what of both is constants */
} stat_sum;

/* A row for each type, the largest first, and "metadata" for what lies beside tensors;
 * the caller frees *rows. 0 or a negative mfs_error. */
int stat_sum_types(mfs_container *container, stat_sum **rows, size_t *count);
/* A row for each class of the container's `chunks`; else as above. */
int stat_sum_classes(mfs_container *container, uint32_t chunks, stat_sum **rows, size_t *count);

/* "unknown" for one that this version has no name for. */
const char *stat_profile_name(mfs_profile_id id);
void stat_uuid_text(char out[37], const uint8_t uuid[16]);

#endif
