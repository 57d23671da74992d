/*
 * Rows of one panel, in vectors. merge.c includes this once for each width, having
 * defined KERNEL (its name), VECTOR (a type of floats, of any alignment) and
 * ATTRIBUTES.
 *
 * Adds to `rows` rows of 16 floats at f, f + f_step, ...: scale * sum over k of
 * a[16 k ..] * b[row * row_step + k * rank_step]. The sums of all rows stay in
 * registers, so `rows` is a constant where this is called.
 */
#define VECTORS (MFS_MERGE_PANEL / (int)(sizeof(VECTOR) / sizeof(float)))

ATTRIBUTES MFS_INLINE void KERNEL(int rows, const mfs_merge_adapter *adapter, const float *a,
				  const float *b, float *f, size_t f_step)
{
	VECTOR t[MOST_ROWS][VECTORS];

#pragma GCC unroll 8
	for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
		for (int v = 0; v < VECTORS; v++)
			t[r][v] = (VECTOR){0};
	for (uint32_t k = 0; k < adapter->rank; k++, a += MFS_MERGE_PANEL) {
		const VECTOR *from_a = (const VECTOR *)a;

#pragma GCC unroll 8
		for (int r = 0; r < rows; r++) {
			const float factor =
			    b[(uint64_t)r * adapter->row_step + k * adapter->rank_step];

#pragma GCC unroll 8
			for (int v = 0; v < VECTORS; v++)
				t[r][v] = t[r][v] + from_a[v] * factor;
		}
	}
#pragma GCC unroll 8
	for (int r = 0; r < rows; r++) {
		VECTOR *w = (VECTOR *)(f + (size_t)r * f_step);

#pragma GCC unroll 8
		for (int v = 0; v < VECTORS; v++)
			w[v] = t[r][v] * adapter->scale + w[v];
	}
}

#undef VECTORS
#undef KERNEL
#undef VECTOR
#undef ATTRIBUTES
