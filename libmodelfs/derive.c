/*
 * Derived tensors: spans that are computed from those of a base. The matrices of
 * adapters and the constants of NF4 codes are operands: they are read whole when
 * they are first needed, turned into floats, and kept while there is room.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "merge.h"
#include "reader.h"

/* Operands beyond this are dropped again, those longest not used first. */
#define OPERAND_MEMORY (16u << 20)

static const mfs_dequant *dequant_of(const mfs_layout *layout)
{
	return mfs_dequant_named(layout->name, layout->name_length, layout->block_bytes,
				 layout->block_weights);
}

static const mfs_store *store_of(const mfs_layout *layout)
{
	const mfs_dequant *d = dequant_of(layout);

	return d ? mfs_store_ggml(d->ggml_type) : NULL;
}

static bool is_derived(const struct reader *r, uint32_t tensor)
{
	mfs_root_tensor t;

	mfs_root_get_tensor(&r->c->root, tensor, &t);
	return t.flags & MFS_TENSOR_DERIVED;
}

/* ---- dropping ---- */

static void operand_drop(struct reader *r, struct operand *op)
{
	free(op->panels);
	free(op->b);
	free(op->gain);
	free(op->scales);
	free(op->raw);
	for (int k = 0; k < MFS_TERM_OPERANDS; k++) {
		free(op->loaded[k]);
		op->loaded[k] = NULL;
	}
	r->operand_bytes -= op->bytes;
	r->stats.index_loaded_bytes -= op->bytes;
	op->panels = op->b = op->gain = op->scales = NULL;
	op->raw = NULL;
	op->bytes = 0;
	op->state = PART_ABSENT;
}

/* Those of one tensor are needed together, whatever their size. */
static void operands_trim(struct reader *r, uint32_t keep)
{
	while (r->operand_bytes > OPERAND_MEMORY) {
		struct operand *oldest = NULL;

		for (uint32_t i = 0; i < r->c->root.count[MFS_SEC_TERMS]; i++) {
			struct operand *op = &r->operands[i];
			mfs_root_term term;

			mfs_root_get_term(&r->c->root, i, &term);
			if (op->state == PART_READY && !op->users && term.tensor != keep &&
			    (!oldest || op->last_use < oldest->last_use))
				oldest = op;
		}
		if (!oldest)
			return;
		operand_drop(r, oldest);
	}
}

/* ---- loading ---- */

static void operand_continue(struct operand *op);

static void operand_fail(struct operand *op, int error)
{
	operand_drop(op->reader, op);
	op->state = PART_FAILED;
	op->error = error;
}

static uint64_t weights_of(const struct reader *r, const mfs_root_tensor *t)
{
	const mfs_layout *layout = &r->c->layouts[t->layout];

	return t->size / layout->block_bytes * layout->block_weights;
}

static float *new_floats(uint64_t count)
{
	return count && count < SIZE_MAX / sizeof(float) ? calloc(count, sizeof(float)) : NULL;
}

/* The bytes of one tensor are complete. Needs no lock. */
static int convert_raw(struct operand *op, const mfs_root_tensor *t)
{
	const struct reader *r = op->reader;
	const mfs_layout *layout = &r->c->layouts[t->layout];
	const mfs_dequant *type = dequant_of(layout);
	float *floats = type ? new_floats(weights_of(r, t)) : NULL;

	if (!floats)
		return type ? MFS_E_MEMORY : MFS_E_UNSUPPORTED;
	mfs_dequantize(type, r->simd, op->raw, t->size / layout->block_bytes, floats);
	op->loaded[op->next] = floats;
	return 0;
}

static uint64_t operand_weights(const struct reader *r, uint32_t tensor)
{
	mfs_root_tensor t;

	if (tensor == MFS_NO_TENSOR)
		return 0;
	mfs_root_get_tensor(&r->c->root, tensor, &t);
	return weights_of(r, &t);
}

/* A as panels; B and the gains as they are. */
static int finish_lora(struct operand *op, const mfs_root_term *term)
{
	uint64_t columns = operand_weights(op->reader, term->operand[0]) / term->rank;
	uint64_t floats = mfs_merge_panel_floats(term->rank, columns);
	bool transposed = term->flags & MFS_TERM_TRANSPOSED;

	op->panels = floats == UINT64_MAX ? NULL : new_floats(floats);
	if (!op->panels)
		return MFS_E_MEMORY;
	mfs_merge_pack(op->loaded[0], transposed ? 1 : columns, transposed ? term->rank : 1,
		       term->rank, columns, op->panels);
	free(op->loaded[0]);
	op->b = op->loaded[1];
	op->gain = op->loaded[2];
	memset(op->loaded, 0, sizeof(op->loaded));
	op->bytes = sizeof(float) * (floats + operand_weights(op->reader, term->operand[1]) +
				     operand_weights(op->reader, term->operand[2]));
	return 0;
}

static int operand_finish(struct operand *op)
{
	mfs_root_term term;

	mfs_root_get_term(&op->reader->c->root, op->term, &term);
	return term.kind == MFS_TERM_LORA ? finish_lora(op, &term) : MFS_E_UNSUPPORTED;
}

static void take_pieces(struct operand *op, const struct iovec *pieces, int count)
{
	for (int i = 0; i < count; i++) {
		memcpy(op->raw + op->done, pieces[i].iov_base, pieces[i].iov_len);
		op->done += pieces[i].iov_len;
	}
}

/* The tensor that comes next is complete: turns it into floats and moves on.
 * True if it was the last one. Needs no lock. */
static bool tensor_arrived(struct operand *op, const mfs_root_tensor *t, int *err)
{
	const mfs_root *root = &op->reader->c->root;
	mfs_root_term term;

	*err = convert_raw(op, t);
	free(op->raw);
	op->raw = NULL;
	op->done = 0;
	mfs_root_get_term(root, op->term, &term);
	do
		op->next++;
	while (op->next < MFS_TERM_OPERANDS && term.operand[op->next] == MFS_NO_TENSOR);
	if (*err || op->next < MFS_TERM_OPERANDS)
		return false;
	*err = operand_finish(op);
	return true;
}

static void next_tensor(const struct operand *op, mfs_root_tensor *out)
{
	const mfs_root *root = &op->reader->c->root;
	mfs_root_term term;

	mfs_root_get_term(root, op->term, &term);
	mfs_root_get_tensor(root, term.operand[op->next], out);
}

static void operand_ready(struct operand *op)
{
	struct reader *r = op->reader;
	mfs_root_term term;

	mfs_root_get_term(&r->c->root, op->term, &term);
	op->state = PART_READY;
	r->operand_bytes += op->bytes;
	r->stats.index_loaded_bytes += op->bytes;
	operands_trim(r, term.tensor);
}

/* The end of a read of raw bytes; a decoder calls it, without the lock. */
static void operand_arrived(void *user, int64_t result, const struct iovec *pieces, int count)
{
	struct operand *op = user;
	struct reader *r = op->reader;
	mfs_root_tensor t;
	bool last = false;
	int err = result < 0 ? (int)result : 0;

	next_tensor(op, &t);
	if (!err)
		take_pieces(op, pieces, count);
	if (!err && op->done == t.size)
		last = tensor_arrived(op, &t, &err);
	pthread_mutex_lock(&r->lock);
	if (err)
		operand_fail(op, err);
	else if (last)
		operand_ready(op);
	else
		operand_continue(op);
	pthread_mutex_unlock(&r->lock);
}

/* Reads on. Lock held. */
static void operand_continue(struct operand *op)
{
	struct reader *r = op->reader;
	mfs_root_tensor t;
	uint64_t left;

	next_tensor(op, &t);
	if (!op->raw)
		op->raw = malloc(t.size);
	left = t.size - op->done;
	if (left > MFS_READ_MAX)
		left = MFS_READ_MAX;
	if (!op->raw ||
	    reader_read_operand(r, t.file, t.file_offset + op->done, left, operand_arrived, op) < 0)
		operand_fail(op, MFS_E_MEMORY);
}

static bool operand_is_ready(struct reader *r, struct operand *op, int *err)
{
	op->last_use = ++r->tick;
	if (op->state == PART_READY)
		return true;
	if (op->state == PART_FAILED) {
		*err = op->error;
		op->state = PART_ABSENT; /* the next one who asks tries again */
	} else if (op->state == PART_ABSENT) {
		op->state = PART_LOADING;
		op->next = 0;
		op->done = 0;
		operand_continue(op);
	}
	return false;
}

bool operands_ready(struct reader *r, uint32_t tensor, int *err)
{
	bool ready = true;
	uint32_t first, n;

	if (!is_derived(r, tensor))
		return true;
	n = mfs_root_terms(&r->c->root, tensor, &first);
	for (uint32_t i = 0; i < n && !*err; i++)
		ready = operand_is_ready(r, &r->operands[first + i], err) && ready;
	return ready && !*err;
}

void operands_use(struct reader *r, uint32_t tensor, int users)
{
	uint32_t first, n;

	if (!is_derived(r, tensor))
		return;
	n = mfs_root_terms(&r->c->root, tensor, &first);
	for (uint32_t i = 0; i < n; i++)
		r->operands[first + i].users += (unsigned)users;
}

/* ---- computing ---- */

/* The adapters of a tensor; returns their number and sets the columns of a row. */
static uint32_t find_adapters(const struct reader *r, uint32_t tensor, uint64_t *columns,
			      mfs_merge_adapter out[MFS_TERMS_MAX])
{
	uint32_t first, n = mfs_root_terms(&r->c->root, tensor, &first), count = 0;

	for (uint32_t i = first; i < first + n; i++) {
		const struct operand *op = &r->operands[i];
		mfs_root_term term;

		mfs_root_get_term(&r->c->root, i, &term);
		if (term.kind != MFS_TERM_LORA)
			continue;
		*columns = operand_weights(r, term.operand[0]) / term.rank;
		out[count++] = (mfs_merge_adapter){.panels = op->panels,
						   .b = op->b,
						   .row_step = term.rank,
						   .rank_step = 1,
						   .gain = op->gain,
						   .rank = term.rank,
						   .scale = term.scale};
	}
	return count;
}

int operands_apply(struct reader *r, const struct span *span, const uint8_t *blocks)
{
	mfs_merge_adapter adapter[MFS_TERMS_MAX];
	mfs_merge merge = {.adapter = adapter, .simd = r->simd};
	mfs_merge_base base = {.blocks = blocks};
	const mfs_layout *layout;
	mfs_root_tensor t;
	uint64_t first;

	mfs_root_get_tensor(&r->c->root, span->tensor, &t);
	layout = &r->c->layouts[t.layout];
	base.type = dequant_of(span->source[0].layout);
	merge.type = store_of(layout);
	if (!base.type || !merge.type)
		return MFS_E_UNSUPPORTED;
	/* Without adapters rows do not matter: all weights are one. */
	merge.columns = weights_of(r, &t);
	merge.adapters = find_adapters(r, span->tensor, &merge.columns, adapter);
	first = span->place.offset / layout->block_bytes * layout->block_weights;
	return mfs_merge_span(&merge, &base, first,
			      (size_t)span->place.blocks * layout->block_weights, span->buffer);
}

/* ---- the reader's beginning and end ---- */

int operands_new(struct reader *r)
{
	uint32_t count = r->c->root.count[MFS_SEC_TERMS];

	r->simd = mfs_simd_best();
	r->operands = calloc(count + 1, sizeof(*r->operands));
	if (!r->operands)
		return MFS_E_MEMORY;
	for (uint32_t i = 0; i < count; i++) {
		r->operands[i].reader = r;
		r->operands[i].term = i;
	}
	return 0;
}

void operands_free(struct reader *r)
{
	for (uint32_t i = 0; r->operands && i < r->c->root.count[MFS_SEC_TERMS]; i++)
		operand_drop(r, &r->operands[i]);
	free(r->operands);
}
