/*
 * Derived tensors: spans that are computed from those of a base. The matrices of
 * adapters and the constants of NF4 codes are operands: they are read whole when
 * they are first needed, turned into floats, and kept while there is room.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "check.h"
#include "memory.h"
#include "merge.h"
#include "operand_size.h"
#include "reader.h"

/* Operands beyond MFS_OPERAND_MEMORY are dropped again, those longest not used first. Those
 * of one tensor are needed together: where they need more they have memory for themselves,
 * as much as was asked for or MFS_OPERAND_SHARE says. */

#define NESTED_VALUES 256  /* of a nested map */
#define PACK_WEIGHTS  2048 /* decoded at a time: whole blocks of every type */

static const mfs_store *store_of(const mfs_layout *layout)
{
	const mfs_dequant *d = mfs_dequant_of(layout);

	return d ? mfs_store_ggml(d->ggml_type) : NULL;
}

bool tensor_is_derived(const struct reader *r, uint32_t tensor)
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

static uint64_t weights_of(const struct reader *r, const mfs_root_tensor *t)
{
	const mfs_layout *layout = &r->c->layouts[t->layout];

	return t->size / layout->block_bytes * layout->block_weights;
}

static float *new_floats(uint64_t count)
{
	return count && count < SIZE_MAX / sizeof(float) ? calloc(count, sizeof(float)) : NULL;
}

static int pack_a(struct operand *op, const mfs_root_tensor *t, const mfs_root_term *term);

/* The bytes of one tensor are complete. Needs no lock. */
static int convert_raw(struct operand *op, const mfs_root_tensor *t)
{
	const struct reader *r = op->reader;
	const mfs_layout *layout = &r->c->layouts[t->layout];
	const mfs_dequant *type = mfs_dequant_of(layout);
	mfs_root_term term;
	float *floats;

	mfs_root_get_term(&r->c->root, op->term, &term);
	if (term.kind == MFS_TERM_LORA && op->next == 0)
		return pack_a(op, t, &term);
	if (mfs_operand_stays(&term, op->next)) {
		op->kept[op->next] = op->raw;
		op->raw = NULL;
		return 0;
	}
	floats = type ? new_floats(weights_of(r, t)) : NULL;
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

static mfs_operand_shape shape_of(const struct reader *r, const mfs_root_term *term)
{
	return mfs_operand_shape_of(term, operand_weights(r, term->tensor),
				    operand_weights(r, term->operand[0]),
				    operand_weights(r, term->operand[1]));
}

/* Numbers first .. first + count - 1 of A, as it is stored, to where the panels have
 * them: number (k, j) of an expert is a * columns + j, or turned j * rank + k. */
static void scatter(const mfs_operand_shape *shape, const mfs_root_term *term, const float *from,
		    uint64_t first, size_t count, float *panels)
{
	const bool turned = term->flags & MFS_TERM_TRANSPOSED;
	const uint64_t inner = turned ? term->rank : shape->columns;
	const uint64_t outer = turned ? shape->columns : term->rank;
	const uint64_t each = mfs_merge_panel_floats(term->rank, shape->columns);

	for (size_t i = 0, n; i < count; i += n) {
		const uint64_t line = (first + i) / inner, at = (first + i) % inner;
		float *slice = panels + line / outer * each;

		n = count - i < inner - at ? count - i : (size_t)(inner - at);
		for (uint64_t m = at; m < at + n; m++) {
			const uint64_t k = turned ? m : line % outer, j = turned ? line % outer : m;

			slice[(j / MFS_MERGE_PANEL * term->rank + k) * MFS_MERGE_PANEL +
			      j % MFS_MERGE_PANEL] = from[i + (m - at)];
		}
	}
}

/* A as panels, piece by piece: as numbers of its own it would take as much again. */
static int pack_a(struct operand *op, const mfs_root_tensor *t, const mfs_root_term *term)
{
	const struct reader *r = op->reader;
	const mfs_operand_shape shape = shape_of(r, term);
	const mfs_layout *layout = &r->c->layouts[t->layout];
	const mfs_dequant *type = mfs_dequant_of(layout);
	uint64_t each = mfs_merge_panel_floats(term->rank, shape.columns), floats;
	uint64_t blocks = t->size / layout->block_bytes, n;
	float piece[PACK_WEIGHTS];

	if (!type || type->block_weights > PACK_WEIGHTS)
		return MFS_E_UNSUPPORTED;
	op->panels =
	    __builtin_mul_overflow(each, shape.experts, &floats) ? NULL : new_floats(floats);
	if (!op->panels)
		return MFS_E_MEMORY;
	for (uint64_t at = 0; at < blocks; at += n) {
		n = PACK_WEIGHTS / type->block_weights;
		n = n < blocks - at ? n : blocks - at;
		mfs_dequantize(type, r->simd, op->raw + at * layout->block_bytes, (size_t)n, piece);
		scatter(&shape, term, piece, at * type->block_weights,
			(size_t)n * type->block_weights, op->panels);
	}
	return 0;
}

static void finish_lora(struct operand *op)
{
	op->b = op->loaded[1];
	op->gain = op->loaded[2];
	memset(op->loaded, 0, sizeof(op->loaded));
}

static bool is_named(const mfs_layout *layout, const char *name)
{
	return strlen(name) == layout->name_length &&
	       !memcmp(name, layout->name, layout->name_length);
}

/* Whether the operand is at least `count` numbers of the type, which has `bytes`. */
static bool has_numbers(const struct reader *r, uint32_t tensor, uint64_t count, uint32_t bytes)
{
	const mfs_layout *layout;
	mfs_root_tensor t;

	mfs_root_get_tensor(&r->c->root, tensor, &t);
	layout = &r->c->layouts[t.layout];
	return layout->block_bytes == bytes && (bytes == 1 || is_named(layout, "F32")) &&
	       t.size / bytes >= count;
}

/* Scales, or the bytes and constants that they are computed from span by span. */
static int finish_nf4(struct operand *op, const mfs_root_term *term)
{
	const struct reader *r = op->reader;
	uint64_t blocks = div_up(operand_weights(r, term->tensor), MFS_NF4_BLOCK);
	uint64_t nested = div_up(blocks, MFS_NF4_NESTED_BLOCK);

	mfs_nf4_init(&op->nf4);
	op->nf4.offset = term->scale;
	if (term->operand[1] == MFS_NO_TENSOR) {
		if (!has_numbers(r, term->operand[0], blocks, 4))
			return MFS_E_CORRUPT;
		op->scales = op->loaded[0];
		op->loaded[0] = NULL;
		return 0;
	}
	if (!has_numbers(r, term->operand[0], blocks, 1) ||
	    !has_numbers(r, term->operand[1], nested, 4) ||
	    !has_numbers(r, term->operand[2], NESTED_VALUES, 4))
		return MFS_E_CORRUPT;
	memcpy(op->nf4.nested_map, op->loaded[2], sizeof(op->nf4.nested_map));
	free(op->loaded[2]);
	op->absmax = op->kept[0];
	op->nested = op->kept[1];
	op->loaded[2] = NULL;
	op->kept[0] = op->kept[1] = NULL;
	return 0;
}

static int operand_finish(struct operand *op)
{
	mfs_root_term term;

	mfs_root_get_term(&op->reader->c->root, op->term, &term);
	if (term.kind == MFS_TERM_NF4)
		return finish_nf4(op, &term);
	finish_lora(op);
	return 0;
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
	if (op->state == PART_FAILED) {
		*err = op->error;
		op->state = PART_ABSENT; /* the next one who asks tries again */
	} else if (op->state == PART_ABSENT) {
		operand_begin(r, op, false);
	}
	return false;
}

uint64_t operands_bytes(const struct reader *r, uint32_t tensor)
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

/* ---- computing ---- */

static mfs_merge_adapter adapter_of(const struct operand *op, const mfs_root_term *term,
				    const mfs_operand_shape *shape)
{
	bool turned = term->flags & MFS_TERM_B_TRANSPOSED;
	uint64_t each = mfs_merge_panel_floats(term->rank, shape->columns);

	return (mfs_merge_adapter){.panels = op->panels,
				   .slice_step = shape->experts > 1 ? each : 0,
				   .b = op->b,
				   .row_step = turned ? 1 : term->rank,
				   .rank_step = turned ? shape->rows : 1,
				   .gain = op->gain,
				   .rank = term->rank,
				   .scale = term->scale};
}

/* The adapters of a tensor; returns their number and sets the shape of a row, which
 * all of them share. */
static uint32_t find_adapters(const struct reader *r, uint32_t tensor, mfs_merge *merge,
			      mfs_merge_adapter out[MFS_TERMS_MAX])
{
	uint32_t first, n = mfs_root_terms(&r->c->root, tensor, &first), count = 0;

	for (uint32_t i = first; i < first + n; i++) {
		mfs_operand_shape shape;
		mfs_root_term term;

		mfs_root_get_term(&r->c->root, i, &term);
		if (term.kind != MFS_TERM_LORA)
			continue;
		shape = shape_of(r, &term);
		merge->columns = shape.columns;
		merge->slice_rows = shape.experts > 1 ? shape.rows / shape.experts : 0;
		out[count++] = adapter_of(&r->operands[i], &term, &shape);
	}
	return count;
}

/* The constants of the tensor's codes, or NULL where its base has none. */
static const struct operand *find_nf4(const struct reader *r, uint32_t tensor)
{
	uint32_t first, n = mfs_root_terms(&r->c->root, tensor, &first);
	mfs_root_term term;

	if (!n)
		return NULL;
	mfs_root_get_term(&r->c->root, first, &term);
	return term.kind == MFS_TERM_NF4 ? &r->operands[first] : NULL;
}

/* Codes of weights first .. first + count - 1 lie at `blocks`: `first` begins a
 * block. *made is freed by the caller. */
static int use_codes(const struct operand *op, const uint8_t *blocks, uint64_t first, size_t count,
		     mfs_merge_base *base, float **made)
{
	uint64_t block = first / MFS_NF4_BLOCK;
	size_t n = count / MFS_NF4_BLOCK + (count % MFS_NF4_BLOCK != 0);

	if (first % MFS_NF4_BLOCK)
		return MFS_E_UNSUPPORTED;
	base->nf4 = &op->nf4;
	base->codes = blocks;
	if (op->scales) {
		base->scales = op->scales + block;
		return 0;
	}
	*made = new_floats(n);
	if (!*made)
		return MFS_E_MEMORY;
	mfs_nf4_scales(&op->nf4, op->absmax + block, op->nested, block, n, *made);
	base->scales = *made;
	return 0;
}

int operands_apply(struct reader *r, const struct span *span, const uint8_t *blocks)
{
	const struct operand *nf4 = find_nf4(r, span->tensor);
	mfs_merge_adapter adapter[MFS_TERMS_MAX];
	mfs_merge merge = {.adapter = adapter, .simd = r->simd};
	mfs_merge_base base = {.blocks = blocks};
	const mfs_layout *layout;
	float *scales = NULL;
	mfs_root_tensor t;
	uint64_t first;
	size_t count;
	int error = 0;

	mfs_root_get_tensor(&r->c->root, span->tensor, &t);
	layout = &r->c->layouts[t.layout];
	merge.type = store_of(layout);
	/* Without adapters rows do not matter: all weights are one. */
	merge.columns = weights_of(r, &t);
	merge.adapters = find_adapters(r, span->tensor, &merge, adapter);
	first = span->place.offset / layout->block_bytes * layout->block_weights;
	count = (size_t)span->place.blocks * layout->block_weights;
	if (nf4)
		error = use_codes(nf4, blocks, first, count, &base, &scales);
	else
		base.type = mfs_dequant_of(span->source[0].layout);
	if (!merge.type || (!nf4 && !base.type))
		error = MFS_E_UNSUPPORTED;
	if (!error)
		error = mfs_merge_span(&merge, &base, first, count, span->buffer);
	free(scales);
	return error;
}

/* ---- the reader's beginning and end ---- */

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
		tensors[k] = (mfs_operand_tensor){weights_of(r, &t), t.size};
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
