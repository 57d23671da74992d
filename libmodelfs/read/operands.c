/*
 * Operands: the matrices of adapters and the constants of NF4 codes are read whole when
 * they are first needed, converted, and kept while there is room.
 *
 * Those beyond MFS_OPERAND_MEMORY are dropped again, those longest not used first. Those
 * of one tensor are needed together: where they need more they have memory for themselves,
 * as much as was asked for or MFS_OPERAND_SHARE says.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "memory.h"
#include "operands.h"

/* ---- how large they are ---- */

uint64_t tensor_weights(const struct reader *r, const mfs_root_tensor *t)
{
	const mfs_layout *layout = &r->c->layouts[t->layout];

	return t->size / layout->block_bytes * layout->block_weights;
}

uint64_t operand_weights(const struct reader *r, uint32_t tensor)
{
	mfs_root_tensor t;

	if (tensor == MFS_NO_TENSOR)
		return 0;
	mfs_root_get_tensor(&r->c->root, tensor, &t);
	return tensor_weights(r, &t);
}

mfs_operand_shape operand_shape(const struct reader *r, const mfs_root_term *term)
{
	return mfs_operand_shape_of(term, operand_weights(r, term->tensor),
				    operand_weights(r, term->operand[0]),
				    operand_weights(r, term->operand[1]));
}

/* The memory that those of a tensor need together, while they are loaded. */
static uint64_t operands_bytes(const struct reader *r, uint32_t tensor)
{
	uint32_t first, n;
	uint64_t bytes = 0;

	if (!tensor_is_derived(r, tensor))
		return 0;
	n = mfs_root_terms(&r->c->root, tensor, &first);
	for (uint32_t i = first; i < first + n; i++)
		bytes += r->operands[i].kept_bytes + r->operands[i].loading_bytes;
	return bytes;
}

bool operands_fit(const struct reader *r, uint32_t tensor, uint64_t *bytes)
{
	uint64_t before = *bytes;

	*bytes += operands_bytes(r, tensor);
	return !before || *bytes == before || *bytes <= MFS_OPERAND_MEMORY;
}

/* ---- dropping ---- */

static void operand_drop(struct reader *r, struct operand *op)
{
	free(op->panels);
	free(op->b);
	free(op->gain);
	free(op->scales);
	free(op->absmax);
	free(op->nested);
	free(op->raw);
	for (int k = 0; k < MFS_TERM_OPERANDS; k++) {
		free(op->loaded[k]);
		free(op->kept[k]);
		op->loaded[k] = NULL;
		op->kept[k] = NULL;
	}
	r->operand_bytes -= op->bytes;
	r->stats.index_loaded_bytes -= op->bytes;
	op->streamed = false;
	op->panels = op->b = op->gain = op->scales = NULL;
	op->raw = op->absmax = op->nested = NULL;
	op->bytes = 0;
	op->state = PART_ABSENT;
}

/* One that is loaded and not wanted: nobody computes with it, and those beside it are
 * not on their way to somebody who waits for all of them. */
static bool may_go(const struct reader *r, const struct operand *op)
{
	uint32_t first, n = mfs_root_terms(&r->c->root, op->tensor, &first);

	if (op->state != PART_READY || op->users)
		return false;
	for (uint32_t i = first; i < first + n; i++)
		if (r->operands[i].state == PART_LOADING)
			return false;
	return true;
}

/* Makes room for those of the tensor that are missing, but not at the cost of tensor
 * `keep`. False: not yet. */
static bool operands_make_room(struct reader *r, uint32_t tensor, uint64_t missing, uint32_t keep)
{
	uint64_t all = operands_bytes(r, tensor);
	uint64_t limit = all < MFS_OPERAND_MEMORY ? MFS_OPERAND_MEMORY : all;

	while (r->operand_bytes + missing > limit) {
		struct operand *oldest = NULL;

		for (uint32_t i = 0; i < r->c->root.count[MFS_SEC_TERMS]; i++) {
			struct operand *op = &r->operands[i];

			if (op->tensor != keep && op->tensor != tensor && may_go(r, op) &&
			    (!oldest || op->last_use < oldest->last_use))
				oldest = op;
		}
		if (!oldest)
			return false;
		operand_drop(r, oldest);
	}
	return true;
}

/* ---- loading ---- */

static void operand_continue(struct operand *op);

static void operand_fail(struct operand *op, int error)
{
	operand_drop(op->reader, op);
	op->state = PART_FAILED;
	op->error = error;
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

	*err = operand_convert(op, t);
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

/* What was needed to load it is free again. */
static void operand_ready(struct operand *op)
{
	struct reader *r = op->reader;

	op->state = PART_READY;
	op->bytes -= op->loading_bytes;
	r->operand_bytes -= op->loading_bytes;
	r->stats.index_loaded_bytes -= op->loading_bytes;
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
	if (!op->raw || reader_read_operand(r, t.file, t.file_offset + op->done, left, op->streamed,
					    operand_arrived, op) < 0)
		operand_fail(op, MFS_E_MEMORY);
}

/* Lock held; there is room. */
static void operand_begin(struct reader *r, struct operand *op, bool streamed)
{
	op->state = PART_LOADING;
	op->streamed = streamed;
	op->next = 0;
	op->done = 0;
	op->bytes = op->kept_bytes + op->loading_bytes;
	r->operand_bytes += op->bytes;
	r->stats.index_loaded_bytes += op->bytes;
	if (r->operand_bytes > r->operand_peak)
		r->operand_peak = r->operand_bytes;
	operand_continue(op);
}

static bool operand_is_ready(struct reader *r, struct operand *op, int *err)
{
	op->last_use = ++r->tick;
	if (op->state == PART_READY)
		return true;
	if (op->state == PART_ABSENT)
		operand_begin(r, op, false);
	if (op->state == PART_FAILED) {
		*err = op->error;
		op->state = PART_ABSENT; /* the next one who asks tries again */
	}
	return false;
}

/* Those of a tensor that are still to be loaded: begun together or not at all, so that
 * no two tensors wait for what the other one holds. */
static uint64_t missing_bytes(const struct reader *r, uint32_t first, uint32_t n)
{
	uint64_t bytes = 0;

	for (uint32_t i = first; i < first + n; i++)
		if (r->operands[i].state == PART_ABSENT)
			bytes += r->operands[i].kept_bytes + r->operands[i].loading_bytes;
	return bytes;
}

static int refuse_operands(struct reader *r, uint32_t tensor)
{
	mfs_root_tensor t;

	mfs_root_get_tensor(&r->c->root, tensor, &t);
	reader_problem(r, MFS_E_LIMIT, UINT64_MAX,
		       "tensor '%.*s' of '%s' needs %llu MiB of memory for the matrices that are "
		       "merged into it, %llu are allowed: mount with -o matrices=%lluM",
		       t.name_length, t.name, r->c->file_names[t.file],
		       (unsigned long long)(operands_bytes(r, tensor) >> 20) + 1,
		       (unsigned long long)r->operand_most >> 20, r->operand_needed);
	return MFS_E_LIMIT;
}

void operands_begin(struct reader *r, uint32_t tensor)
{
	uint32_t first, n;
	uint64_t missing;

	if (!tensor_is_derived(r, tensor))
		return;
	n = mfs_root_terms(&r->c->root, tensor, &first);
	missing = missing_bytes(r, first, n);
	/* What is used now stays. */
	if (!missing || operands_bytes(r, tensor) > r->operand_most ||
	    !operands_make_room(r, tensor, missing, r->operand_tensor))
		return;
	for (uint32_t i = first; i < first + n; i++)
		if (r->operands[i].state == PART_ABSENT) {
			r->operands[i].last_use = ++r->tick;
			operand_begin(r, &r->operands[i], true);
		}
}

bool operands_ready(struct reader *r, uint32_t tensor, bool ahead, int *err)
{
	bool ready = true;
	uint32_t first, n;
	uint64_t missing;

	if (!tensor_is_derived(r, tensor))
		return true;
	n = mfs_root_terms(&r->c->root, tensor, &first);
	missing = missing_bytes(r, first, n);
	if (missing && operands_bytes(r, tensor) > r->operand_most) {
		*err = refuse_operands(r, tensor);
		return false;
	}
	/* Without room those who compute with others end first. */
	if (missing && !operands_make_room(r, tensor, missing, ahead ? r->operand_tensor : tensor))
		return false;
	if (!ahead)
		r->operand_tensor = tensor;
	for (uint32_t i = 0; i < n && !*err; i++)
		ready = operand_is_ready(r, &r->operands[first + i], err) && ready;
	return ready && !*err;
}

void operands_use(struct reader *r, uint32_t tensor, int users)
{
	uint32_t first, n;

	if (!tensor_is_derived(r, tensor))
		return;
	n = mfs_root_terms(&r->c->root, tensor, &first);
	for (uint32_t i = 0; i < n; i++)
		r->operands[first + i].users += (unsigned)users;
}

/* ---- the reader's beginning and end ---- */

/* MiB that no tensor of the container needs more than. */
static unsigned long long most_needed(const struct reader *r)
{
	uint64_t most = 0;

	for (uint32_t i = 0; i < r->c->root.count[MFS_SEC_TERMS]; i++) {
		uint64_t bytes = operands_bytes(r, r->operands[i].tensor);

		most = bytes > most ? bytes : most;
	}
	return (most >> 20) + 1;
}

static void count_bytes(struct operand *op, const mfs_root_term *term)
{
	const struct reader *r = op->reader;
	mfs_operand_tensor tensors[MFS_TERM_OPERANDS] = {{0}};
	mfs_operand_size size;

	for (int k = 0; k < MFS_TERM_OPERANDS; k++) {
		mfs_root_tensor t;

		if (term->operand[k] == MFS_NO_TENSOR)
			continue;
		mfs_root_get_tensor(&r->c->root, term->operand[k], &t);
		tensors[k] = (mfs_operand_tensor){tensor_weights(r, &t), t.size};
	}
	size = mfs_operand_size_of(term, operand_weights(r, term->tensor), tensors);
	op->kept_bytes = size.kept;
	op->loading_bytes = size.loading;
}

static uint64_t most_bytes(const mfs_container *c)
{
	mfs_memory memory;

	if (c->options.matrices_bytes)
		return c->options.matrices_bytes;
	if (!mfs_memory_get("", &memory) ||
	    memory.total_bytes / MFS_OPERAND_SHARE < MFS_OPERAND_MEMORY)
		return MFS_OPERAND_MEMORY;
	return memory.total_bytes / MFS_OPERAND_SHARE;
}

int operands_new(struct reader *r)
{
	uint32_t count = r->c->root.count[MFS_SEC_TERMS];

	r->simd = mfs_simd_best();
	r->operands = calloc(count + 1, sizeof(*r->operands));
	if (!r->operands)
		return MFS_E_MEMORY;
	r->operand_most = count ? most_bytes(r->c) : 0;
	r->operand_tensor = MFS_NO_TENSOR;
	for (uint32_t i = 0; i < count; i++) {
		mfs_root_term term;

		mfs_root_get_term(&r->c->root, i, &term);
		r->operands[i].reader = r;
		r->operands[i].term = i;
		r->operands[i].tensor = term.tensor;
		count_bytes(&r->operands[i], &term);
	}
	r->operand_needed = most_needed(r);
	return 0;
}

void operands_free(struct reader *r)
{
	for (uint32_t i = 0; r->operands && i < r->c->root.count[MFS_SEC_TERMS]; i++)
		operand_drop(r, &r->operands[i]);
	free(r->operands);
}
