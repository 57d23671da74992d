/* Names of the files that a safetensors model is cut into:
 * "model-00001-of-00003.safetensors". */
#ifndef MFS_SHARDS_H
#define MFS_SHARDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MFS_SHARDS_MAX 1024u /* of a model whose files are looked at together */

typedef struct {
	size_t prefix_length; /* of "model" */
	uint32_t number, count;
} mfs_shard;

/* False: no name of a shard. */
bool mfs_shard_parse(mfs_shard *out, const char *name);

/* The name of shard `number` of those that `name` belongs to; terminated, as long as
 * `name`. */
void mfs_shard_name(char *out, const char *name, const mfs_shard *shard, uint32_t number);

#endif
