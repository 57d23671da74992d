/*
 * Inside of premerge.c, which computes and reads: the tensors that adapters change,
 * how they are found (premerge_match.c), and the matrices that are merged into them
 * (premerge_matrices.c).
 */
#ifndef MFS_PREMERGE_ITEMS_H
#define MFS_PREMERGE_ITEMS_H

#include <pthread.h>

#include "../../format/merge.h"
#include "premerge.h"
#include "problem.h"

#define MFS_PREMERGE_TYPE_ROOM 16

/* The matrices of one adapter for one tensor. */
struct factor {
	const mfs_premerge_part *part;
	const mfs_adapter_pair *pair;
	float *panels, *b, *gain; /* NULL: not loaded; gain: of a DoRA */
};

/* A tensor that adapters change. */
struct item {
	const mfs_import_tensor *base, *from; /* where it lies; the unquantized one */
	const mfs_dequant *source, *target;   /* their types */
	const mfs_quantizer *quantizer;	      /* NULL: `store` writes it */
	const mfs_store *store;
	uint64_t weights;
	struct factor *factors;
	uint32_t factor_count;
	mfs_loss_meter meter;
	pthread_mutex_t loading; /* held while the factors are loaded */
	/* The lock of all guards these. */
	unsigned users;
	uint64_t last_use;
	uint64_t bytes; /* of the factors; 0: not loaded */
};

struct mfs_premerged {
	mfs_source source; /* the unquantized model */
	mfs_import import;
	mfs_premerge_file base;
	mfs_premerge_part *parts;
	uint32_t part_count;
	mfs_simd simd;
	struct item *items; /* sorted by their places in the base */
	uint32_t item_count;
	struct factor *factors;
	uint64_t sample_blocks, sample_equal;
	double sample_error, sample_energy;
	char type[MFS_PREMERGE_TYPE_ROOM];
	char *mixture, *note;
	pthread_mutex_t lock; /* guards the problem and the matrices that are loaded */
	uint64_t tick, bytes;
	mfs_problem problem;
};

/* Loads the matrices of the item if they are not there; they stay until it is released. */
int mfs_premerge_use(struct mfs_premerged *p, struct item *item);
void mfs_premerge_release(struct mfs_premerged *p, struct item *item);
/* Frees them. Nobody uses the item. */
void mfs_premerge_drop(struct mfs_premerged *p, struct item *item);

/* Finds the tensors that the parts change and what they are in the unquantized model,
 * which is called `name`. What does not fit is refused by name. */
int mfs_premerge_match(struct mfs_premerged *p, const char *name, mfs_problem *why);

#endif
