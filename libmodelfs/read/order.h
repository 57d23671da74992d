/*
 * The order of execution: in which order a runtime touches the tensors of a
 * model, told from their names. Embedding rows first, then layer by layer the
 * norm before attention, query, key, value, attention output, the norm before
 * the feed-forward part, gate, up, down; then the last norm and the output.
 *
 * Names of GGUF ("blk.3.attn_q.weight") and of the usual checkpoints
 * ("model.layers.3.self_attn.q_proj.weight", "h.3.attn.c_attn.weight") are known.
 * Of others the layer is the first number in the name; what has no role that is
 * known keeps the order of the file within its layer.
 *
 * A pure computation without I/O; an order does not change once it is made, so
 * any thread may use it.
 */
#ifndef MFS_ORDER_H
#define MFS_ORDER_H

#include <stdbool.h>
#include <stdint.h>

/* In the order of execution within a layer, as far as they belong to one. */
typedef enum {
	MFS_ROLE_EMBEDDING, /* of tokens or positions: a few rows for each token */
	MFS_ROLE_INPUT,	    /* no layer and no known role */
	MFS_ROLE_ATTN_NORM,
	MFS_ROLE_ATTN_QKV,
	MFS_ROLE_ATTN_Q,
	MFS_ROLE_ATTN_K,
	MFS_ROLE_ATTN_V,
	MFS_ROLE_ATTN_OUTPUT,
	MFS_ROLE_FFN_NORM,
	MFS_ROLE_ROUTER,
	MFS_ROLE_FFN_GATE,
	MFS_ROLE_FFN_UP,
	MFS_ROLE_FFN_DOWN,
	MFS_ROLE_POST_NORM,
	MFS_ROLE_OTHER, /* of a layer, not known */
	MFS_ROLE_OUTPUT_NORM,
	MFS_ROLE_OUTPUT
} mfs_role;

#define MFS_ORDER_NONE UINT32_MAX

/* What a name says. */
typedef struct {
	mfs_role role;
	uint32_t layer;	 /* MFS_ORDER_NONE: none */
	uint32_t expert; /* MFS_ORDER_NONE: the tensor is no single expert's */
	uint32_t stack;	 /* bytes of the name before the layer's number */
	bool experts;	 /* role is of experts: one, or a slice for each */
	bool encoder;	 /* a stack that runs before the others: encoder, vision tower */
} mfs_order_name;

typedef struct {
	const char *name; /* length bytes, not terminated; must outlive the order */
	uint16_t length;
	uint32_t model; /* tensors of one model have one number, and rising ones follow */
	uint64_t size;
	uint64_t slice_bytes; /* of the outermost dimension; `size` if it has one */
} mfs_order_tensor;

/* A tensor's part in a token, or one of several experts'. */
typedef struct {
	uint32_t tensor;
	uint64_t from, to; /* bytes of the tensor */
} mfs_order_part;

typedef struct mfs_order mfs_order;

/* 0 or MFS_E_MEMORY. */
int mfs_order_new(mfs_order **out, const mfs_order_tensor tensors[], uint32_t count);
void mfs_order_free(mfs_order *order); /* NULL is fine */

/* The tensors of model after model in the order of execution: `count` numbers. */
const uint32_t *mfs_order_sequence(const mfs_order *order);
const mfs_order_name *mfs_order_name_of(const mfs_order *order, uint32_t tensor);
/* True if each token takes the whole tensor: not rows of an embedding, not experts. */
bool mfs_order_whole(const mfs_order *order, uint32_t tensor);

#define MFS_ORDER_PARTS_MAX 4

/* The parts of the expert that byte `offset` of the tensor belongs to, in the
 * order of execution (gate, up, down of one layer). 0: it belongs to none. */
unsigned mfs_order_expert(const mfs_order *order, uint32_t tensor, uint64_t offset,
			  mfs_order_part parts[MFS_ORDER_PARTS_MAX]);

#endif
