/*
 * Operands: what is added to the base of derived tensors, and what their codes are scaled
 * by. They are tensors of the container too: operands.c has them read (reader_read_operand)
 * and keeps them, operand_convert.c makes them what derive.c computes with. The reader's
 * lock guards them; those in use do not change.
 */
#ifndef MFS_OPERANDS_H
#define MFS_OPERANDS_H

#include "dequant.h"
#include "nf4.h"
#include "operand_size.h"
#include "reader.h"

/* One for each term of the root. */
struct operand {
	struct reader *reader;
	enum part_state state;
	int error;
	uint32_t term, tensor; /* its number; the tensor that it belongs to */
	bool streamed;	       /* begun early: those of other tensors will follow */
	unsigned users;	       /* span jobs that compute with it */
	uint64_t last_use;
	/* What it takes now; when it is loaded; and more than that while it is loaded. */
	uint64_t bytes, kept_bytes, loading_bytes;
	/* Low-rank matrices, ready for mfs_merge_span(). */
	float *panels, *b, *gain;
	/* Constants of NF4 codes: a scale for each block, or what it is made of. */
	mfs_nf4 nf4;
	float *scales;
	uint8_t *absmax, *nested;
	/* While it is loaded: the bytes of the tensor that comes next. */
	uint8_t *raw;
	unsigned next;
	uint64_t done;
	float *loaded[MFS_TERM_OPERANDS];
	uint8_t *kept[MFS_TERM_OPERANDS]; /* those that are wanted as they are */
};

/* ---- operands.c; lock held unless it says otherwise ---- */

int operands_new(struct reader *r);
void operands_free(struct reader *r);
/* True if all operands of a derived tensor are loaded; else starts loading them once
 * there is room; *err is set if that has failed, or if there is never room. `ahead`:
 * nobody waits for them, so what is read now stays. */
bool operands_ready(struct reader *r, uint32_t tensor, bool ahead, int *err);
/* Adds those of another tensor to *bytes, of what a read needs at once. False: it had
 * better read the one tensor after the other. */
bool operands_fit(const struct reader *r, uint32_t tensor, uint64_t *bytes);
/* Starts loading them for a stream that will come to the tensor. */
void operands_begin(struct reader *r, uint32_t tensor);
/* Keeps the operands of a tensor in memory, or no longer. */
void operands_use(struct reader *r, uint32_t tensor, int users);
/* Weights of a tensor, and of one that a term names: 0 if it names none. Need no lock. */
uint64_t tensor_weights(const struct reader *r, const mfs_root_tensor *t);
uint64_t operand_weights(const struct reader *r, uint32_t tensor);
mfs_operand_shape operand_shape(const struct reader *r, const mfs_root_term *term);

/* ---- operand_convert.c; needs no lock: the operand is being loaded ---- */

/* The bytes of the tensor that comes next are complete in `raw`. */
int operand_convert(struct operand *op, const mfs_root_tensor *t);
/* All its tensors are converted. */
int operand_finish(struct operand *op);
/* NULL: no memory, or none asked for. */
float *operand_floats(uint64_t count);

/* ---- derive.c; needs no lock ---- */

bool tensor_is_derived(const struct reader *r, uint32_t tensor);
/* Computes a span of a derived tensor from the blocks of its base. */
int span_derive(struct reader *r, const struct span *span, const uint8_t *blocks);

#endif
