#include "operand_size.h"

#include "../../format/merge.h"

mfs_operand_shape mfs_operand_shape_of(const mfs_root_term *term, uint64_t weights, uint64_t a,
				       uint64_t b)
{
	mfs_operand_shape shape;

	shape.rows = b / term->rank;
	shape.columns = weights / shape.rows;
	shape.experts = a / term->rank / shape.columns;
	return shape;
}

bool mfs_operand_stays(const mfs_root_term *term, unsigned operand)
{
	return term->kind == MFS_TERM_NF4 && term->operand[1] != MFS_NO_TENSOR && operand < 2;
}

/* The last panel of A is filled up. */
static uint64_t panel_padding(const mfs_root_term *term, uint64_t weights,
			      const mfs_operand_tensor *operand)
{
	mfs_operand_shape shape =
	    mfs_operand_shape_of(term, weights, operand[0].weights, operand[1].weights);
	uint64_t each = mfs_merge_panel_floats(term->rank, shape.columns);

	return sizeof(float) * (each * shape.experts - operand[0].weights);
}

mfs_operand_size mfs_operand_size_of(const mfs_root_term *term, uint64_t weights,
				     const mfs_operand_tensor operand[MFS_TERM_OPERANDS])
{
	mfs_operand_size size = {0, 0};

	for (unsigned k = 0; k < MFS_TERM_OPERANDS; k++) {
		size.kept += mfs_operand_stays(term, k) ? operand[k].bytes
							: sizeof(float) * operand[k].weights;
		if (size.loading < operand[k].bytes)
			size.loading = operand[k].bytes;
	}
	if (term->kind == MFS_TERM_LORA)
		size.kept += panel_padding(term, weights, operand);
	return size;
}
