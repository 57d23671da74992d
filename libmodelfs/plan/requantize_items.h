/*
 * What the files that requantize share: a computed file is its head, then the tensors
 * of the original as they become, each an item; of NF4 at last the nested map.
 * requantize.c puts it together, requantize_weights.c computes the items,
 * requantize_import.c describes it.
 */
#ifndef MFS_REQUANTIZE_ITEMS_H
#define MFS_REQUANTIZE_ITEMS_H

#include <pthread.h>

#include "../../format/check.h"
#include "../../format/dequant.h"
#include "../../format/nf4.h"
#include "../../format/prune.h"
#include "../../format/quantizers.h"
#include "problem.h"
#include "requantize.h"

#define NOTE_ROOM (MFS_RECIPE_TEXT + 48)
#define MAP_BYTES 1024 /* of a nested map */

/* A tensor of the file. */
struct item {
	const mfs_import_tensor *from;
	uint64_t offset, size; /* as it becomes */
	uint64_t weights;
	const mfs_dequant *source, *target; /* its types; NULL: copied */
	const mfs_quantizer *quantizer;	    /* NULL: the type stays */
	bool prunes;
	/* Of NF4: where absmax and nested absmax begin, behind the codes. */
	bool nf4;
	uint64_t absmax_at, nested_at;
	pthread_mutex_t lock; /* guards the rest, but for the meter */
	bool settled;
	mfs_prune prune;
	uint64_t *ties; /* left at the beginning of each piece */
	float nested_offset;
	mfs_loss_meter meter;
};

struct mfs_requantized {
	mfs_source source; /* the original */
	mfs_import import;
	mfs_recipe recipe;
	mfs_simd simd;
	uint8_t *head;
	size_t head_size;
	struct item *items; /* sorted by offset */
	uint32_t item_count;
	mfs_nf4 nf4;	 /* its maps */
	uint64_t map_at; /* of NF4: where the nested map lies; else 0 */
	char note[NOTE_ROOM];
	pthread_mutex_t lock; /* guards the problem */
	mfs_problem problem;
};

static inline uint64_t nf4_blocks(const struct item *item)
{
	return div_up(item->weights, MFS_NF4_BLOCK);
}

/* Bytes offset .. offset + length - 1 of an item, which lie inside it. */
int mfs_requantized_read_item(struct mfs_requantized *q, struct item *item, uint64_t offset,
			      uint8_t *out, size_t length);

#endif
