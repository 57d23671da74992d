#include "merge.h"

#include <math.h>
#include <string.h>

#include "modelfs_error.h"

/*
 * A span is taken in tiles of a few rows by 256 columns: decoded to F32, merged
 * adapter by adapter, written. A tile of F32 fits the first-level cache, and the
 * panels of its columns are used again by the rows below.
 */
#define TILE	  256 /* columns; a multiple of every type's block and of a panel */
#define MOST_ROWS 4

/* ---- the sums ---- */

typedef float four __attribute__((vector_size(16), aligned(4), may_alias));
#define KERNEL add_panel
#define VECTOR four
#define ATTRIBUTES
#include "merge_kernel.h"

#if MFS_HAVE_AVX2
typedef float eight __attribute__((vector_size(32), aligned(4), may_alias));
#define KERNEL	   add_panel_avx2
#define VECTOR	   eight
#define ATTRIBUTES MFS_AVX2
#include "merge_kernel.h"
#endif

/* Whole panels of `rows` rows; f_step floats lie from row to row. */
struct panels {
	const mfs_merge_adapter *adapter;
	const float *a; /* the first panel */
	const float *b; /* of the first row */
	size_t count;
	int rows;
};

static void add_panels(const struct panels *p, float *f, size_t f_step)
{
	const size_t size = (size_t)p->adapter->rank * MFS_MERGE_PANEL;

	for (size_t i = 0; i < p->count; i++, f += MFS_MERGE_PANEL) {
		const float *a = p->a + i * size, *b = p->b;
		int r = 0;

		for (; r + 2 <= p->rows; r += 2, b += 2 * p->adapter->row_step)
			add_panel(2, p->adapter, a, b, f + (size_t)r * f_step, f_step);
		if (r < p->rows)
			add_panel(1, p->adapter, a, b, f + (size_t)r * f_step, f_step);
	}
}

#if MFS_HAVE_AVX2
MFS_AVX2 static void add_panels_avx2(const struct panels *p, float *f, size_t f_step)
{
	const size_t size = (size_t)p->adapter->rank * MFS_MERGE_PANEL;

	for (size_t i = 0; i < p->count; i++, f += MFS_MERGE_PANEL) {
		const float *a = p->a + i * size;

		if (p->rows == MOST_ROWS) {
			add_panel_avx2(MOST_ROWS, p->adapter, a, p->b, f, f_step);
			continue;
		}
		for (int r = 0; r < p->rows; r++)
			add_panel_avx2(1, p->adapter, a, p->b + (uint64_t)r * p->adapter->row_step,
				       f + (size_t)r * f_step, f_step);
	}
}
#endif

/* ---- tiles ---- */

/* Rows row .. row + rows - 1, columns from .. to - 1, within one TILE. */
struct tile {
	uint64_t row, from, to;
	int rows;
};

struct span {
	const mfs_merge *merge;
	const mfs_merge_base *base;
	uint64_t first;
	uint8_t *out;
	uint64_t slice; /* that the rows belong to */
};

static void tile_load(const struct span *span, uint64_t at, size_t count, float *f)
{
	const mfs_merge_base *base = span->base;
	const mfs_simd simd = span->merge->simd;

	if (base->type)
		mfs_dequantize(base->type, simd,
			       base->blocks +
				   at / base->type->block_weights * base->type->block_bytes,
			       count / base->type->block_weights, f);
	else
		mfs_nf4_decode(base->nf4, simd, base->codes, base->scales, base->skip + at, count,
			       f);
}

static void tile_add(const struct span *span, const mfs_merge_adapter *adapter,
		     const struct tile *tile, float f[][TILE])
{
	const mfs_merge *merge = span->merge;
	const uint64_t panel = tile->from / MFS_MERGE_PANEL, row = tile->row - merge->first_row;
	const struct panels p = {
	    .adapter = adapter,
	    .a = adapter->panels + span->slice * adapter->slice_step +
		 panel * adapter->rank * MFS_MERGE_PANEL,
	    .b = adapter->b + row * adapter->row_step,
	    .count = (size_t)((tile->to - 1) / MFS_MERGE_PANEL - panel + 1),
	    .rows = tile->rows,
	};

#if MFS_HAVE_AVX2
	if (merge->simd == MFS_SIMD_AVX2)
		add_panels_avx2(&p, f[0], TILE);
	else
#endif
		add_panels(&p, f[0], TILE);
	for (int r = 0; adapter->gain && r < tile->rows; r++)
		for (size_t j = 0; j < p.count * MFS_MERGE_PANEL; j++)
			f[r][j] *= adapter->gain[row + (uint64_t)r];
}

/* Rows of f begin with the panel of column `from`; columns of other spans are
 * computed along, on zeros, and dropped. */
static void tile_merge(const struct span *span, const struct tile *tile)
{
	const mfs_merge *merge = span->merge;
	const mfs_store *type = merge->type;
	const size_t count = (size_t)(tile->to - tile->from);
	const size_t skip = (size_t)(tile->from % MFS_MERGE_PANEL);
	const size_t used =
	    (skip + count + MFS_MERGE_PANEL - 1) / MFS_MERGE_PANEL * MFS_MERGE_PANEL;
	float f[MOST_ROWS][TILE];

	for (int r = 0; r < tile->rows; r++) {
		const uint64_t at = (tile->row + (uint64_t)r) * merge->columns + tile->from;

		memset(f[r], 0, skip * sizeof(float));
		memset(f[r] + skip + count, 0, (used - skip - count) * sizeof(float));
		tile_load(span, at - span->first, count, f[r] + skip);
	}
	for (uint32_t i = 0; i < merge->adapters; i++)
		tile_add(span, &merge->adapter[i], tile, f);
	for (int r = 0; r < tile->rows; r++) {
		const uint64_t at = (tile->row + (uint64_t)r) * merge->columns + tile->from;

		mfs_store_floats(type, merge->simd, f[r] + skip, count / type->block_weights,
				 span->out +
				     (at - span->first) / type->block_weights * type->block_bytes);
	}
}

/* Rows row .. end - 1, columns from .. to - 1: column by column of tiles. */
static void rectangle_merge(const struct span *span, uint64_t row, uint64_t end, uint64_t from,
			    uint64_t to)
{
	while (from < to) {
		struct tile tile = {.from = from, .to = (from / TILE + 1) * TILE};

		tile.to = tile.to < to ? tile.to : to;
		for (tile.row = row; tile.row < end; tile.row += (uint64_t)tile.rows) {
			tile.rows = end - tile.row < MOST_ROWS ? (int)(end - tile.row) : MOST_ROWS;
			tile_merge(span, &tile);
		}
		from = tile.to;
	}
}

static int whole_blocks(uint64_t first, uint64_t columns, size_t count, uint32_t block)
{
	return first % block == 0 && count % block == 0 && (block == 1 || columns % block == 0);
}

/* Weights first .. first + count - 1, all of one slice. */
static void slice_merge(const struct span *span, uint64_t first, uint64_t count)
{
	const uint64_t columns = span->merge->columns;
	uint64_t row = first / columns, from = first % columns, rows, most;

	if (from && count) {
		most = columns - from < count ? columns - from : count;
		rectangle_merge(span, row, row + 1, from, from + most);
		count -= most;
		row++;
	}
	rows = count / columns;
	rectangle_merge(span, row, row + rows, 0, columns);
	rectangle_merge(span, row + rows, row + rows + 1, 0, count % columns);
}

int mfs_merge_span(const mfs_merge *merge, const mfs_merge_base *base, uint64_t first, size_t count,
		   uint8_t *out)
{
	struct span span = {merge, base, first, out, 0};
	const uint64_t columns = merge->columns, end = first + count;
	uint64_t slice_end, at = first;

	if (!columns || count > UINT64_MAX - first || first / columns < merge->first_row ||
	    !whole_blocks(first, columns, count, merge->type->block_weights) ||
	    (base->type && !whole_blocks(first, columns, count, base->type->block_weights)))
		return MFS_E_ARGUMENT;
	while (at < end) {
		slice_end = end;
		if (merge->slice_rows) {
			span.slice = at / columns / merge->slice_rows;
			slice_end = (span.slice + 1) * merge->slice_rows * columns;
		}
		if (slice_end > end)
			slice_end = end;
		slice_merge(&span, at, slice_end - at);
		at = slice_end;
	}
	return 0;
}

/* ---- what it is made from ---- */

uint64_t mfs_merge_panel_floats(uint32_t rank, uint64_t columns)
{
	uint64_t padded, floats;

	if (__builtin_add_overflow(columns, MFS_MERGE_PANEL - 1, &padded) ||
	    __builtin_mul_overflow(padded / MFS_MERGE_PANEL * MFS_MERGE_PANEL, (uint64_t)rank,
				   &floats))
		return UINT64_MAX;
	return floats;
}

void mfs_merge_pack(const float *a, uint64_t rank_step, uint64_t column_step, uint32_t rank,
		    uint64_t columns, float *panels)
{
	for (uint64_t j = 0; j < columns; j += MFS_MERGE_PANEL) {
		const uint64_t some = columns - j < MFS_MERGE_PANEL ? columns - j : MFS_MERGE_PANEL;

		for (uint32_t k = 0; k < rank; k++, panels += MFS_MERGE_PANEL)
			for (uint64_t i = 0; i < MFS_MERGE_PANEL; i++)
				panels[i] = i < some ? a[k * rank_step + (j + i) * column_step] : 0;
	}
}

int mfs_merge_gain(const float *row, uint64_t columns, float magnitude, float *gain)
{
	double squares = 0;

	for (uint64_t j = 0; j < columns; j++)
		squares += (double)row[j] * (double)row[j];
	*gain = squares > 0 ? (float)((double)magnitude / sqrt(squares)) : 0;
	return isfinite(*gain) && isfinite(squares) ? 0 : MFS_E_INVALID;
}
