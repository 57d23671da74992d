#include "layout_safetensors.h"

#include <assert.h>
#include <pthread.h>
#include <string.h>

#include "layout_ggml.h"

#define NOT_IN_GGML 0xffffffffu

/* A dtype is words of one kind; those of ggml are its rows, so that a container
 * of both kinds of models has one layout for both. */
struct row {
	const char *name;
	uint32_t ggml;
	uint8_t block_bytes;
	uint8_t block_weights; /* where an element is no whole number of bytes */
	uint8_t cls;
	uint8_t transform;
	uint8_t width;
	uint8_t bits;
};

/* clang-format off */
#define GGML(name, type)    {name, type, 0, 0, 0, 0, 0, 0}
#define BYTES(name)         {name, NOT_IN_GGML, 1, 1, MFS_DISK_WEIGHTS, MFS_TRANSFORM_BYTES, 1, 8}
#define SCALES(name)        {name, NOT_IN_GGML, 1, 1, MFS_DISK_CONSTANTS, MFS_TRANSFORM_BYTES, 1, 8}
#define INTEGERS(name, n)   {name, NOT_IN_GGML, n, 1, MFS_DISK_WEIGHTS, MFS_TRANSFORM_PLANES, n, 8 * n}
#define PACKED(name, n, weights, bits) \
	{name, NOT_IN_GGML, n, weights, MFS_DISK_WEIGHTS, MFS_TRANSFORM_BYTES, 1, bits}

static const struct row rows[] = {
	GGML("F64", 28),
	GGML("F32", 0),
	GGML("F16", 1),
	GGML("BF16", 30),
	/* Sign, exponent and mantissa share the byte: it is one symbol. */
	BYTES("F8_E4M3"),
	BYTES("F8_E5M2"),
	BYTES("F8_E4M3FNUZ"),
	BYTES("F8_E5M2FNUZ"),
	/* An exponent alone: the scale of a block, never a weight. */
	SCALES("F8_E8M0"),
	PACKED("F6_E2M3", 3, 4, 6),
	PACKED("F6_E3M2", 3, 4, 6),
	PACKED("F4", 1, 2, 4),
	/* Two floats, each as F32 is cut. */
	{"C64", NOT_IN_GGML, 8, 1, MFS_DISK_WEIGHTS, MFS_TRANSFORM_FLOAT, 4, 32},
	GGML("I64", 27),
	GGML("I32", 26),
	GGML("I16", 25),
	GGML("I8", 24),
	INTEGERS("U64", 8),
	INTEGERS("U32", 4),
	INTEGERS("U16", 2),
	BYTES("U8"),
	BYTES("BOOL"),
};
/* clang-format on */

#define ROW_COUNT (sizeof(rows) / sizeof(*rows))

static mfs_layout layouts[ROW_COUNT];
static mfs_layout constant_layouts[ROW_COUNT];
static pthread_once_t layouts_once = PTHREAD_ONCE_INIT;

static mfs_layout layout_of(const struct row *row)
{
	mfs_layout layout = {.name = row->name, .name_length = (uint16_t)strlen(row->name)};

	if (row->ggml != NOT_IN_GGML)
		return *mfs_layout_ggml(row->ggml);
	layout.block_bytes = row->block_bytes;
	layout.block_weights = row->block_weights;
	layout.field_count = 1;
	layout.field[0] = (mfs_field){.name = "values",
				      .name_length = 6,
				      .cls = row->cls,
				      .transform = row->transform,
				      .width = row->width,
				      .bits = row->bits,
				      .size = row->block_bytes};
	return layout;
}

static void finish(mfs_layout *layout)
{
	int err = mfs_layout_finish(layout);

	assert(!err);
	(void)err;
}

static void layouts_build(void)
{
	for (size_t i = 0; i < ROW_COUNT; i++) {
		layouts[i] = constant_layouts[i] = layout_of(&rows[i]);
		for (uint32_t f = 0; f < layouts[i].field_count; f++)
			constant_layouts[i].field[f].cls = MFS_DISK_CONSTANTS;
		finish(&layouts[i]);
		finish(&constant_layouts[i]);
	}
}

uint32_t mfs_layout_safetensors_count(void)
{
	return ROW_COUNT;
}

const mfs_layout *mfs_layout_safetensors_row(uint32_t row, bool constants)
{
	pthread_once(&layouts_once, layouts_build);
	if (row >= ROW_COUNT)
		return NULL;
	return constants ? &constant_layouts[row] : &layouts[row];
}

const mfs_layout *mfs_layout_safetensors(const char *dtype, bool constants)
{
	for (uint32_t i = 0; i < ROW_COUNT; i++)
		if (!strcmp(rows[i].name, dtype))
			return mfs_layout_safetensors_row(i, constants);
	return NULL;
}
