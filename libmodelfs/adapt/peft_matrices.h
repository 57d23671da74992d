/*
 * What the files that convert an adapter of PEFT share: it becomes a GGUF file, of which
 * each tensor is a matrix. peft_translate.c finds what each tensor of the adapter becomes,
 * peft_rearrange.c computes its bytes, import_peft.c puts the file together.
 */
#ifndef MFS_PEFT_MATRICES_H
#define MFS_PEFT_MATRICES_H

#include <pthread.h>

#include "import_peft.h"
#include "peft_config.h"
#include "problem.h"

#define NAME_MAX_GGUF 64

enum change { CHANGE_NONE, CHANGE_PERMUTE, CHANGE_TRANSPOSE };

/* A tensor of the GGUF file. */
struct matrix {
	char name[NAME_MAX_GGUF];
	char matrix; /* as in a key: 'a', 'b' or 'm' */
	const mfs_import_tensor *from;
	enum change change;
	uint32_t heads; /* for CHANGE_PERMUTE */
	float factor;	/* 1: the numbers stay as they are; else they become F32 */
	uint32_t type;	/* ggml's */
	uint64_t offset, size;
	/* Of gains, which come from magnitudes: the pair, and the tensor of the base. */
	const struct matrix *a, *b;
	uint32_t target;
};

struct mfs_peft {
	char *path; /* of adapter_model.safetensors */
	mfs_source file;
	mfs_import import;
	mfs_peft_config config;
	mfs_base_model base;
	struct matrix *matrices;
	uint32_t count;
	uint8_t *head;
	size_t head_size;
	/* The matrix that was rearranged last. The lock guards these three. */
	pthread_mutex_t lock;
	const struct matrix *held;
	uint8_t *bytes;
};

/* An adapter while it is being opened. */
struct opening {
	mfs_peft *peft;
	const mfs_import *base;
	mfs_import_index index; /* of the base */
	bool permutes;
	mfs_problem *why;
};

#define refuse(o, error, ...) mfs_problem_about((o)->peft->path, (o)->why, (error), __VA_ARGS__)

/* ---- peft_translate.c ---- */

/* Refuses a base whose modules are not known. */
int mfs_peft_check_base(struct opening *o);
/* What tensor `t` of the adapter becomes. */
int mfs_peft_make_matrix(struct opening *o, const mfs_import_tensor *t, struct matrix *m);
/* Finds the pair of each vector of gains: all matrices are made. */
int mfs_peft_pair_gains(struct opening *o);
/* The scale of a module times its rank: what alpha would have to be. */
double mfs_peft_wanted_alpha(const mfs_peft_config *config, double rank, double alpha);

/* ---- peft_rearrange.c ---- */

/* Bytes at .. at + length - 1 of the matrix as the GGUF file has it. Safe from any thread. */
int mfs_peft_read_matrix(mfs_peft *p, const struct matrix *m, uint64_t at, uint8_t *out,
			 size_t length);

#endif
