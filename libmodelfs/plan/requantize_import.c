/* The import of a file that became NF4: importers know no such file. */
#include <stdlib.h>
#include <string.h>

#include "../../format/layout_nf4.h"
#include "../../format/layout_safetensors.h"
#include "requantize_items.h"

struct describer {
	mfs_import *import;
	mfs_import_name *names;
	bool failed; /* no memory */
};

static void describe(struct describer *d, const char *name, const char *end,
		     const mfs_layout *layout, uint64_t offset, uint64_t size)
{
	mfs_import_tensor *t = &d->import->tensors[d->import->tensor_count];
	size_t length = strlen(name) + strlen(end);
	char *copy = mfs_import_alloc(d->import, length + 1);

	if (!copy) {
		d->failed = true;
		return;
	}
	memcpy(copy, name, strlen(name));
	memcpy(copy + strlen(name), end, strlen(end) + 1);
	*t = (mfs_import_tensor){.name = copy,
				 .name_length = (uint16_t)length,
				 .layout = layout,
				 .dim_count = 1,
				 .dims = {size / layout->block_bytes},
				 /* Spans begin with a block of NF4. */
				 .row_bytes = MFS_NF4_BLOCK / 2,
				 .slice_bytes = size,
				 .offset = offset,
				 .size = size};
	d->names[d->import->tensor_count++] =
	    (mfs_import_name){.text = copy, .length = (uint32_t)length, .offset = offset};
}

static void describe_item(struct describer *d, const struct item *item)
{
	const mfs_import_tensor *from = item->from;
	mfs_import_tensor *t = &d->import->tensors[d->import->tensor_count];
	uint64_t blocks = nf4_blocks(item);

	if (!item->nf4) {
		describe(d, from->name, "", from->layout, item->offset, item->size);
		t->row_bytes = from->row_bytes;
		t->slice_bytes = from->slice_bytes;
	} else {
		describe(d, from->name, "", mfs_layout_nf4(), item->offset,
			 div_up(item->weights, 2));
	}
	t->dim_count = from->dim_count;
	memcpy(t->dims, from->dims, sizeof(t->dims));
	if (!item->nf4)
		return;
	describe(d, from->name, ".absmax", mfs_layout_safetensors("U8", true),
		 item->offset + item->absmax_at, blocks);
	describe(d, from->name, ".nested_absmax", mfs_layout_safetensors("F32", true),
		 item->offset + item->nested_at, 4 * div_up(blocks, MFS_NF4_NESTED_BLOCK));
}

int mfs_requantized_import(const mfs_requantized *q, mfs_import *out, mfs_problem *why)
{
	struct describer d = {.import = out};
	size_t most = 3 * (size_t)q->item_count + 1;
	int error;

	memset(out, 0, sizeof(*out));
	if (!q->map_at)
		return 0;
	out->format = q->import.format;
	/* The key-values are the original's, so nothing has another place. */
	out->gguf = q->import.gguf;
	out->tensors = mfs_import_alloc(out, most * sizeof(*out->tensors));
	d.names = calloc(most, sizeof(*d.names));
	if (!out->tensors || !d.names) {
		free(d.names);
		return mfs_problem_about(q->source.name, why, MFS_E_MEMORY, "out of memory");
	}
	for (uint32_t i = 0; i < q->item_count && !d.failed; i++)
		describe_item(&d, &q->items[i]);
	if (!d.failed)
		describe(&d, "nested_map", "", mfs_layout_safetensors("F32", true), q->map_at,
			 MAP_BYTES);
	error = d.failed ? mfs_problem_about(q->source.name, why, MFS_E_MEMORY, "out of memory")
			 : mfs_import_check_duplicates(why, &q->source, d.names, out->tensor_count,
						       "tensor name");
	free(d.names);
	return error;
}
