#include "view_build.h"

#include <stdlib.h>

#include "../../format/check.h"
#include "../../format/dequant.h"
#include "../../format/layout_nf4.h"
#include "../../format/store.h"
#include "problem.h"
#include "shards.h"

#define refuse(b, error, ...) mfs_problem_set((b)->why, (error), UINT64_MAX, __VA_ARGS__)

/* ---- bytes that stay ---- */

/* The base's extent that holds `offset`. */
static uint64_t extent_at(const mfs_view_builder *b, uint64_t offset)
{
	const mfs_root_file *f = &b->plan->files[b->base].record;
	uint64_t low = 0, high = f->extent_count;

	while (high - low > 1) {
		uint64_t middle = low + (high - low) / 2;

		if (b->plan->extents[f->first_extent + middle].file_offset <= offset)
			low = middle;
		else
			high = middle;
	}
	return f->first_extent + low;
}

int mfs_view_add_range(mfs_view_builder *b, uint64_t offset, uint64_t length)
{
	uint64_t i = extent_at(b, offset);
	int error = 0;

	while (length && !error) {
		mfs_root_extent e = b->plan->extents[i++];
		uint64_t skip = offset - e.file_offset, n = e.length - skip;

		if (n > length)
			n = length;
		e.file_offset = b->position;
		e.length = n;
		if (e.kind == MFS_EXTENT_TENSOR)
			e.source_offset += skip;
		error = mfs_plan_add_extent(b->plan, &e, b->why);
		b->position += n;
		offset += n;
		length -= n;
	}
	return error;
}

int mfs_view_add_literal(mfs_view_builder *b, uint64_t length)
{
	uint64_t end = b->position + length;
	int error = mfs_plan_add_literal(b->plan, b->file, b->position, end, b->why);

	b->position = end;
	return error;
}

int mfs_view_pad(mfs_view_builder *b, uint64_t alignment)
{
	uint64_t end = round_up(b->position, alignment);
	int error = end > b->position ? mfs_plan_add_zeros(b->plan, b->position, end, b->why) : 0;

	b->position = end;
	return error;
}

/* ---- derived tensors ---- */

static int add_term(mfs_view_builder *b, uint32_t tensor, uint32_t part,
		    const mfs_adapter_pair *pair)
{
	const mfs_view_part *p = &b->view->parts[part];
	const uint32_t *own = b->part_numbers[part];
	const uint32_t *gains = b->gain_numbers[part] ? b->gain_numbers[part] : own;
	mfs_root_term term = {
	    .tensor = tensor,
	    .kind = MFS_TERM_LORA,
	    .flags = (uint16_t)((pair->transposed ? MFS_TERM_TRANSPOSED : 0) |
				(pair->b_transposed ? MFS_TERM_B_TRANSPOSED : 0) |
				(pair->experts > 1 ? MFS_TERM_EXPERTS : 0)),
	    .operand = {own[pair->a], own[pair->b],
			pair->gain == UINT32_MAX ? MFS_NO_TENSOR : gains[pair->gain]},
	    .scale = mfs_adapter_scale(p->adapter, pair, p->scale),
	    .rank = pair->rank};

	if (term.scale - term.scale != 0)
		return refuse(b, MFS_E_INVALID, "%s: its scale is over the range of F32", p->file);
	return mfs_plan_add_term(b->plan, &term, b->why);
}

/* ---- NF4 ---- */

static int name_numbers(const mfs_view_builder *b, const char *name, uint32_t **out);

/* Numbers of the tensors in file `file` of the model that the base belongs to. */
static int shard_numbers(mfs_view_builder *b, uint32_t file, const uint32_t **out)
{
	const char *base = b->plan->files[b->base].name;
	char name[MFS_NAME_MAX + 1];
	mfs_shard shard;
	int error = 0;

	*out = b->numbers;
	if (!mfs_shard_parse(&shard, base) || file == shard.number - 1)
		return 0;
	if (!b->shard_numbers) {
		b->shard_numbers = calloc(shard.count, sizeof(*b->shard_numbers));
		b->shard_count = shard.count;
	}
	if (!b->shard_numbers)
		return mfs_problem_no_memory(b->why);
	mfs_shard_name(name, base, &shard, file + 1);
	if (!b->shard_numbers[file])
		error = name_numbers(b, name, &b->shard_numbers[file]);
	*out = b->shard_numbers[file];
	return error;
}

static int number_of(mfs_view_builder *b, mfs_bnb_part part, uint32_t *out)
{
	const uint32_t *numbers = NULL;
	int error;

	*out = MFS_NO_TENSOR;
	if (part.tensor == UINT32_MAX)
		return 0;
	error = shard_numbers(b, part.file, &numbers);
	if (!error)
		*out = numbers[part.tensor];
	return error;
}

/* Of codes that --quantize made: the constants follow them in the import. */
static mfs_root_term quantized_constants(const mfs_view_builder *b, uint32_t number)
{
	const mfs_plan_file *base = &b->plan->files[b->base];
	uint32_t last = mfs_view_base(b)->tensor_count - 1;

	/* Of a model that is being packed the offset is known later:
	 * mfs_plan_set_offsets(). */
	return (mfs_root_term){
	    .kind = MFS_TERM_NF4,
	    .scale = base->nested_offsets ? base->nested_offsets[number] : 0,
	    .operand = {b->numbers[number + 1], b->numbers[number + 2], b->numbers[last]}};
}

static int constants_of(mfs_view_builder *b, uint32_t number, mfs_root_term *out)
{
	const mfs_bnb_matrix *m = mfs_bnb_find(b->plan->files[b->base].bnb, number);
	int error;

	if (!m) {
		*out = quantized_constants(b, number);
		return 0;
	}
	*out = (mfs_root_term){.kind = MFS_TERM_NF4, .scale = m->offset};
	error = number_of(b, m->absmax, &out->operand[0]);
	if (!error)
		error = number_of(b, m->nested, &out->operand[1]);
	return error ? error : number_of(b, m->nested_map, &out->operand[2]);
}

static bool is_nf4(const mfs_view_builder *b, uint32_t number)
{
	return mfs_view_base(b)->tensors[number].layout == mfs_layout_nf4() ||
	       mfs_bnb_find(b->plan->files[b->base].bnb, number);
}

static int add_constants(mfs_view_builder *b, uint32_t tensor, uint32_t number)
{
	mfs_root_term term;
	int error = constants_of(b, number, &term);

	if (error)
		return error;
	if (term.scale - term.scale != 0)
		return refuse(b, MFS_E_UNSUPPORTED,
			      "%s: its views were removed, and with them what it takes to decode "
			      "tensor '%s'",
			      b->plan->files[b->base].name, mfs_view_base(b)->tensors[number].name);
	term.tensor = tensor;
	/* Two codes lie in a byte, whatever the layout says. */
	b->plan->tensors[tensor].base_block_weights =
	    2 * (uint64_t)mfs_view_base(b)->tensors[number].layout->block_bytes;
	return mfs_plan_add_term(b->plan, &term, b->why);
}

/* ---- derived tensors ---- */

bool mfs_view_merges(const mfs_view_builder *b, uint32_t number)
{
	for (uint32_t i = 0; i < b->view->part_count; i++)
		if (mfs_adapter_find(b->view->parts[i].adapter, number))
			return true;
	return false;
}

/* What cannot be computed is refused by name. */
static int check_types(const mfs_view_builder *b, uint32_t number, const mfs_layout *to)
{
	const mfs_import_tensor *t = &mfs_view_base(b)->tensors[number];
	const char *base = b->plan->files[b->base].name;
	const mfs_dequant *type = mfs_dequant_of(to);

	if (!is_nf4(b, number) && !mfs_dequant_of(t->layout))
		return refuse(
		    b, MFS_E_UNSUPPORTED,
		    "%s: tensor '%s' is of type %.*s, which cannot be merged or converted; "
		    "--views=none packs adapters without merged views",
		    base, t->name, t->layout->name_length, t->layout->name);
	if (!type || !mfs_store_ggml(type->ggml_type))
		return refuse(b, MFS_E_UNSUPPORTED,
			      "%s: tensor '%s' is a vector of type %.*s, which cannot be merged",
			      base, t->name, t->layout->name_length, t->layout->name);
	return 0;
}

int mfs_view_add_derived(mfs_view_builder *b, uint32_t number, const mfs_layout *layout,
			 uint64_t size)
{
	const mfs_bnb_matrix *m = mfs_bnb_find(b->plan->files[b->base].bnb, number);
	const mfs_import_tensor *t = m ? &m->was : &mfs_view_base(b)->tensors[number];
	uint32_t tensor = b->plan->tensor_count;
	int error = check_types(b, number, layout);

	if (!error)
		error = mfs_plan_add_derived(b->plan, b->file, t, layout, b->numbers[number],
					     b->position, size, b->why);
	if (!error && is_nf4(b, number))
		error = add_constants(b, tensor, number);
	for (uint32_t i = 0; i < b->view->part_count && !error; i++) {
		const mfs_adapter_pair *pair = mfs_adapter_find(b->view->parts[i].adapter, number);

		if (pair)
			error = add_term(b, tensor, i, pair);
	}
	b->position += size;
	return error;
}

/* ---- any view ---- */

/* Numbers in the plan of the tensors of the file with this name, in the order of its
 * import. */
static int name_numbers(const mfs_view_builder *b, const char *name, uint32_t **out)
{
	const mfs_plan_file *file = mfs_plan_find(b->plan, name);
	uint32_t count = file->import.tensor_count, n = 0;
	uint64_t first = file->record.first_extent;

	*out = calloc(count + 1u, sizeof(**out));
	if (!*out)
		return mfs_problem_no_memory(b->why);
	for (uint64_t i = 0; i < file->record.extent_count; i++) {
		const mfs_root_extent *e = &b->plan->extents[first + i];

		if (e->kind != MFS_EXTENT_TENSOR ||
		    (b->plan->tensors[e->tensor].record.flags & MFS_TENSOR_LITERAL))
			continue;
		if (n < count)
			(*out)[n] = e->tensor;
		n++;
	}
	/* One that is carried over may have been cut by another importer. */
	return n == count ? 0
			  : refuse(b, MFS_E_UNSUPPORTED,
				   "%s: is not stored in the tensors that its header has", name);
}

static int open_builder(mfs_view_builder *b)
{
	const mfs_plan_file *file = &b->plan->files[b->file];
	uint32_t parts = b->view->part_count;
	int error;

	b->base = (uint32_t)(mfs_plan_find(b->plan, file->base) - b->plan->files);
	b->part_numbers = calloc(parts + 1u, sizeof(*b->part_numbers));
	b->gain_numbers = calloc(parts + 1u, sizeof(*b->gain_numbers));
	if (!b->part_numbers || !b->gain_numbers ||
	    mfs_import_index_open(&b->index, mfs_view_base(b)) < 0)
		return mfs_problem_no_memory(b->why);
	error = name_numbers(b, file->base, &b->numbers);
	for (uint32_t i = 0; i < parts && !error; i++) {
		const mfs_view_part *part = &b->view->parts[i];

		error = name_numbers(b, part->file, &b->part_numbers[i]);
		if (!error && part->gains)
			error = name_numbers(b, part->gains, &b->gain_numbers[i]);
	}
	return error;
}

static void close_builder(mfs_view_builder *b)
{
	for (uint32_t i = 0; i < b->view->part_count; i++) {
		if (b->part_numbers)
			free(b->part_numbers[i]);
		if (b->gain_numbers)
			free(b->gain_numbers[i]);
	}
	free(b->part_numbers);
	free(b->gain_numbers);
	for (uint32_t i = 0; b->shard_numbers && i < b->shard_count; i++)
		free(b->shard_numbers[i]);
	free(b->shard_numbers);
	free(b->numbers);
	mfs_import_index_close(&b->index);
}

static int build(mfs_view_builder *b)
{
	const mfs_plan_file *base = &b->plan->files[b->base];

	if (b->view->text)
		return mfs_view_add_literal(b, b->view->head_size);
	if (base->record.format == MFS_FORMAT_GGUF)
		return mfs_view_build_gguf(b);
	if (base->record.format == MFS_FORMAT_SAFETENSORS)
		return mfs_view_build_safetensors(b);
	return mfs_view_add_range(b, 0, base->record.size);
}

int mfs_view_build(mfs_plan *plan, uint32_t file, mfs_problem *why)
{
	mfs_view_builder b = {
	    .plan = plan, .why = why, .file = file, .view = plan->files[file].view};
	uint32_t first = plan->extent_count;
	int error = open_builder(&b);

	if (!error)
		error = build(&b);
	close_builder(&b);
	plan->files[file].record.first_extent = first;
	plan->files[file].record.extent_count = plan->extent_count - first;
	plan->files[file].record.size = b.position;
	return error;
}
