/* Models whose weights change on their way in, and what that loses. */
#include "plan.h"

#include <string.h>

#include "premerge.h"

static int import_changed(mfs_plan_file *file, mfs_problem *why)
{
	int error = mfs_requantized_import(file->requantized, &file->import, why);

	if (!error && !file->import.tensor_count)
		error = mfs_import_source(&file->import, &file->source, why);
	return error;
}

int mfs_plan_change(const mfs_plan *plan, mfs_plan_file *file, mfs_problem *why)
{
	int error = 0;

	if (mfs_recipe_any(&plan->recipe) && file->import.format != MFS_FORMAT_OPAQUE)
		error = mfs_requantize(&file->requantized, &file->source, &file->import,
				       &plan->recipe, why);
	if (file->requantized)
		error = import_changed(file, why);
	if (error)
		mfs_plan_discard(file);
	return error;
}

bool mfs_plan_computes(const mfs_plan_file *file)
{
	return file->requantized || file->premerged;
}

void mfs_plan_note_loss(mfs_plan_file *file)
{
	file->record.flags |= MFS_FILE_LOSSY;
	file->record.note = file->premerged ? mfs_premerged_note(file->premerged)
					    : mfs_requantized_note(file->requantized);
	file->record.note_length = (uint16_t)strlen(file->record.note);
}

void mfs_plan_measure_losses(mfs_plan *plan)
{
	for (uint32_t i = 0; i < plan->file_count; i++) {
		if (plan->files[i].requantized)
			mfs_requantized_measure(plan->files[i].requantized);
		if (plan->files[i].premerged)
			mfs_premerged_measure(plan->files[i].premerged);
	}
}

bool mfs_plan_loss(const mfs_plan_file *file, uint32_t i, mfs_loss *out)
{
	if (file->premerged)
		return mfs_premerged_loss(file->premerged, i, out);
	return file->requantized && mfs_requantized_loss(file->requantized, i, out);
}

void mfs_plan_note_losses(mfs_plan *plan)
{
	for (uint32_t i = 0; i < plan->file_count; i++)
		if (mfs_plan_computes(&plan->files[i]))
			mfs_plan_note_loss(&plan->files[i]);
}

int mfs_plan_loss_problem(mfs_plan *plan, int error, mfs_problem *why)
{
	for (uint32_t i = 0; i < plan->file_count; i++) {
		const mfs_plan_file *f = &plan->files[i];
		int reason = f->premerged     ? mfs_premerged_problem(f->premerged, why)
			     : f->requantized ? mfs_requantized_problem(f->requantized, why)
					      : 0;

		if (reason)
			return reason;
	}
	return error;
}

void mfs_plan_set_offsets(mfs_plan *plan)
{
	for (uint32_t i = 0; i < plan->term_count; i++) {
		mfs_root_term *term = &plan->terms[i];
		const mfs_root_tensor *base =
		    &plan->tensors[plan->tensors[term->tensor].record.base].record;
		const mfs_requantized *q = plan->files[base->file].requantized;

		if (term->kind == MFS_TERM_NF4 && q)
			term->scale = mfs_requantized_nested_offset(q, base->file_offset);
	}
}
