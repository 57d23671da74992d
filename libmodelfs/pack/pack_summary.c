/* What the packer tells about its work: sums by type, the summary, choices, losses. */
#include <stdlib.h>
#include <string.h>

#include "container.h"
#include "packer.h"
#include "premerge.h"
#include "problem.h"

/* ---- sums by type ---- */

/* A type for each layout, and one for literal bytes and zeros. */
int mfs_pack_make_types(mfs_pack_work *w)
{
	mfs_packer *p = w->packer;
	uint32_t count = w->plan->layout_count + 1;

	p->types = calloc(count, sizeof(*p->types));
	if (!p->types)
		return mfs_problem_no_memory(w->why);
	p->type_count = count;
	for (uint32_t i = 0; i < count; i++) {
		const mfs_layout *layout = i + 1 < count ? w->plan->layouts[i] : NULL;

		p->types[i].type =
		    layout ? strndup(layout->name, layout->name_length) : strdup("metadata");
		if (!p->types[i].type)
			return mfs_problem_no_memory(w->why);
	}
	p->types[count - 1].original_bytes = w->plan->original_bytes;
	for (uint32_t i = 0; i < w->plan->tensor_count; i++) {
		const mfs_root_tensor *t = &w->plan->tensors[i].record;

		if (w->plan->tensors[i].stored ||
		    t->flags & (MFS_TENSOR_LITERAL | MFS_TENSOR_DERIVED))
			continue;
		p->types[t->layout].tensors++;
		p->types[t->layout].original_bytes += t->size;
		p->types[count - 1].original_bytes -= t->size;
	}
	return 0;
}

void mfs_pack_free_types(mfs_packer *p)
{
	for (uint32_t i = 0; i < p->type_count; i++)
		free((char *)p->types[i].type);
	free(p->types);
}

void mfs_pack_count_stored(mfs_pack_work *w, const mfs_coder_job *job)
{
	const mfs_plan_tensor *t = job->tensor;
	bool literal = t->record.flags & MFS_TENSOR_LITERAL;
	mfs_pack_type *type =
	    &w->packer->types[literal ? w->packer->type_count - 1 : t->record.layout];

	for (int s = 0; s < MFS_SLOTS; s++) {
		type->stored_bytes += job->info[s].stored;
		if (job->span.index == t->first_stored)
			type->stored_bytes += t->tables_bytes[s];
	}
}

static int compare_types(const void *a, const void *b)
{
	const mfs_pack_type *x = a, *y = b;

	if (x->original_bytes != y->original_bytes)
		return x->original_bytes > y->original_bytes ? -1 : 1;
	return strcmp(x->type, y->type);
}

/* Layouts of one name are one type to the reader: those of weights and constants,
 * for example. The later one gives up its bytes. */
static void merge_types(mfs_packer *p)
{
	for (uint32_t i = 1; i < p->type_count; i++)
		for (uint32_t k = 0; k < i; k++) {
			mfs_pack_type *from = &p->types[i], *to = &p->types[k];

			if (strcmp(from->type, to->type))
				continue;
			to->tensors += from->tensors;
			to->original_bytes += from->original_bytes;
			to->stored_bytes += from->stored_bytes;
			from->tensors = from->original_bytes = from->stored_bytes = 0;
			break;
		}
}

/* Largest first; types without bytes (only literals had their layout) go. */
static void sort_types(mfs_packer *p)
{
	merge_types(p);
	qsort(p->types, p->type_count, sizeof(*p->types), compare_types);
	while (p->type_count && !p->types[p->type_count - 1].original_bytes)
		free((char *)p->types[--p->type_count].type);
}

/* ---- the summary ---- */

void mfs_pack_fill_summary(const mfs_pack_work *w, mfs_pack_summary *s)
{
	s->original_bytes = w->plan->original_bytes;
	s->stored_bytes = w->index.superblock.container_size;
	s->frame_bytes = w->writer.frame_bytes;
	s->tables_bytes = w->writer.tables_bytes;
	s->superblock_bytes = 3 * MFS_SB_SIZE;
	s->index_bytes = w->index.index_bytes;
	s->written_bytes = s->stored_bytes;
	if (w->plan->carried) {
		s->superblock_bytes = MFS_SB_SIZE;
		s->written_bytes -= w->plan->carried->container->sb.container_size;
	}
	s->padding_bytes = s->written_bytes - s->frame_bytes - s->tables_bytes -
			   s->superblock_bytes - s->index_bytes;
	s->files = w->plan->file_count;
	s->generation = w->index.superblock.generation;
	s->files_added = w->packer->carried ? w->packer->added : s->files;
	s->files_removed = w->packer->removed;
	for (uint32_t i = 0; i < w->plan->tensor_count; i++)
		s->tensors +=
		    !(w->plan->tensors[i].record.flags & (MFS_TENSOR_LITERAL | MFS_TENSOR_DERIVED));
	for (uint32_t i = 0; i < w->plan->file_count; i++) {
		s->adapters += w->plan->files[i].record.kind == MFS_FILE_ADAPTER;
		s->views += w->plan->files[i].record.kind == MFS_FILE_VIEW;
	}
	s->chunks = (uint32_t)w->writer.chunk_count;
	sort_types(w->packer);
	s->types = w->packer->types;
	s->type_count = w->packer->type_count;
}

/* ---- why ---- */

static void fill_choice(const mfs_plan *plan, const mfs_plan_tensor *t, mfs_pack_choice *out)
{
	out->file = plan->files[t->record.file].name;
	out->tensor = t->record.name;
	out->type = t->layout->name;
	out->cls = class_name(t->record.cls);
	out->reason = t->choice.reason;
	out->sample_bytes = t->choice.sample_bytes;
	out->chosen_bytes = t->choice.chosen;
	for (unsigned coding = 0; coding < MFS_CODINGS; coding++) {
		if (coding == MFS_CODING_ZERO)
			continue; /* where there is nothing but zeros, always */
		out->tried[out->coding_count].coding = mfs_coding_name(coding);
		out->tried[out->coding_count++].stored_bytes = t->choice.stored[coding];
	}
}

int mfs_packer_choice(mfs_packer *p, uint32_t i, mfs_pack_choice *out)
{
	mfs_pack_choice choice = {.size = out->size};

	if (out->size < sizeof(out->size) || !p->plan.explain)
		return MFS_E_ARGUMENT;
	if (i >= p->plan.tensor_count)
		return MFS_E_NOT_FOUND;
	if (!(p->plan.tensors[i].record.flags & (MFS_TENSOR_LITERAL | MFS_TENSOR_DERIVED)) &&
	    !p->plan.tensors[i].stored)
		fill_choice(&p->plan, &p->plan.tensors[i], &choice);
	memcpy(out, &choice, out->size < sizeof(choice) ? out->size : sizeof(choice));
	return 0;
}

/* ---- what was lost ---- */

int mfs_packer_loss(mfs_packer *p, uint32_t i, mfs_pack_loss *out)
{
	mfs_pack_loss result = {.size = out->size};

	if (out->size < sizeof(out->size))
		return MFS_E_ARGUMENT;
	for (uint32_t k = 0; k < p->plan.file_count; k++) {
		const mfs_plan_file *file = &p->plan.files[k];
		uint32_t n = 0;
		mfs_loss loss;

		while (mfs_plan_loss(file, n, &loss)) {
			n++;
			if (i--)
				continue;
			result.file = file->name;
			result.tensor = loss.name;
			result.type = loss.from;
			result.new_type = loss.to;
			result.rmse = mfs_quantize_error_rmse(&loss.sum.error);
			result.most = loss.sum.error.most;
			result.weights = loss.weights;
			result.zeros = loss.sum.zeros;
			result.blocks = loss.sum.blocks;
			result.equal_blocks = loss.sum.equal;
			memcpy(out, &result,
			       out->size < sizeof(result) ? out->size : sizeof(result));
			return 0;
		}
	}
	return MFS_E_NOT_FOUND;
}

/* ---- what the user should know ---- */

const char *mfs_packer_remark(const mfs_packer *p, uint32_t i)
{
	for (uint32_t k = 0; k < p->plan.file_count; k++)
		if (p->plan.files[k].remark && !i--)
			return p->plan.files[k].remark;
	return NULL;
}

int mfs_packer_premerged(mfs_packer *p, uint32_t i, mfs_pack_premerged *out)
{
	mfs_pack_premerged result = {.size = out->size};

	if (out->size < sizeof(out->size))
		return MFS_E_ARGUMENT;
	for (uint32_t k = 0; k < p->plan.file_count; k++) {
		const mfs_plan_file *file = &p->plan.files[k];

		if (!file->premerged || i--)
			continue;
		result.file = file->name;
		result.base = file->delta_of;
		mfs_premerged_sample(file->premerged, &result.sample_blocks, &result.sample_equal);
		memcpy(out, &result, out->size < sizeof(result) ? out->size : sizeof(result));
		return 0;
	}
	return MFS_E_NOT_FOUND;
}
