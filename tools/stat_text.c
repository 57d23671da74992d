#include <inttypes.h>
#include <stdlib.h>

#include "common.h"
#include "stat_facts.h"
#include "stat_views.h"

static void add_header(tool_table *table, const char *align, const char *const titles[])
{
	tool_table_init(table, align);
	for (unsigned i = 0; i < table->columns; i++)
		tool_table_add(table, titles[i]);
}

static void add_size(tool_table *table, uint64_t bytes)
{
	char text[TOOL_SIZE_TEXT];

	tool_table_add(table, tool_size(text, bytes));
}

static void add_ratio(tool_table *table, uint64_t original, uint64_t stored)
{
	char text[TOOL_SIZE_TEXT];

	tool_table_add(table, tool_ratio(text, original, stored));
}

/* ---- the summary ---- */

static void print_head(const char *path, const mfs_container_info *info)
{
	char a[TOOL_SIZE_TEXT], b[TOOL_SIZE_TEXT], c[TOOL_SIZE_TEXT], uuid[37];
	char *name = tool_clean(path);

	stat_uuid_text(uuid, info->uuid);
	printf("%s\n", name);
	printf("  uuid      %s\n", uuid);
	printf("  format    version %" PRIu32 ", generation %" PRIu64 "\n", info->version,
	       info->generation);
	printf("  profile   %s, page %s, frames up to %s\n", stat_profile_name(info->profile),
	       tool_size(a, info->page_bytes), tool_size(b, info->frame_bytes));
	printf("  holds     %" PRIu32 " %s, %" PRIu32 " %s, %" PRIu32 " %s\n", info->files,
	       info->files == 1 ? "file" : "files", info->tensors,
	       info->tensors == 1 ? "tensor" : "tensors", info->chunks,
	       info->chunks == 1 ? "chunk" : "chunks");
	printf("  size      %s in %s, ratio %s\n", tool_size(a, info->original_bytes),
	       tool_size(b, info->container_bytes),
	       tool_ratio(c, info->original_bytes, info->container_bytes));
	if (info->views)
		printf("  views     %s are computed while they are read\n",
		       tool_size(a, info->view_bytes));
	if (info->shared_bytes)
		printf("  shared    %s are stored once for several tensors\n",
		       tool_size(a, info->shared_bytes));
	if (info->unused_bytes)
		printf("  unused    %s, which mkmodelfs --compact gives back\n",
		       tool_size(a, info->unused_bytes));
	if (info->superblock_copy)
		printf("  damaged   superblock %d of 0-2 serves: run modelfs-check\n",
		       info->superblock_copy);
	free(name);
}

static int print_files(mfs_container *container)
{
	static const char *const titles[] = {"file",   "kind",	"format", "size",
					     "stored", "ratio", "from"};
	tool_table table;
	int err = 0;

	add_header(&table, "lllrrrl", titles);
	for (uint32_t i = 0; i < mfs_file_count(container) && err == 0; i++) {
		mfs_file_info f = {.size = sizeof(f)};

		err = mfs_file_get(container, i, &f);
		if (err < 0)
			break;
		tool_table_add(&table, f.name);
		tool_table_add(&table, f.kind);
		tool_table_add(&table, f.format);
		add_size(&table, f.file_bytes);
		add_size(&table, f.stored_bytes);
		add_ratio(&table, f.file_bytes, f.stored_bytes);
		tool_table_addf(&table, "%s%s%s", f.base ? f.base : "", *f.note ? " + " : "",
				f.note);
	}
	putchar('\n');
	tool_table_print(&table, stdout, 0);
	return err;
}

/* What all tables of sums begin with: name, number, sizes and their ratio. */
static void add_sum(tool_table *table, const stat_sum *sum)
{
	tool_table_add(table, sum->name);
	tool_table_addf(table, "%" PRIu64, sum->items);
	add_size(table, sum->original);
	add_size(table, sum->stored);
	add_ratio(table, sum->original, sum->stored);
}

static int print_types(mfs_container *container)
{
	static const char *const titles[] = {"type",  "tensors",   "original", "stored",
					     "ratio", "constants", "as stored"};
	tool_table table;
	stat_sum *rows;
	size_t count;
	int err = stat_sum_types(container, &rows, &count);

	if (err < 0)
		return err;
	add_header(&table, "lrrrrrr", titles);
	for (size_t i = 0; i < count; i++) {
		add_sum(&table, &rows[i]);
		if (rows[i].constants) {
			add_size(&table, rows[i].constants);
			add_size(&table, rows[i].constants_stored);
		} else {
			tool_table_add(&table, "-");
			tool_table_add(&table, "-");
		}
	}
	putchar('\n');
	tool_table_print(&table, stdout, 0);
	free(rows);
	return 0;
}

static int print_classes(mfs_container *container, uint32_t chunks)
{
	static const char *const titles[] = {"class", "chunks", "decoded", "stored", "ratio"};
	tool_table table;
	stat_sum *rows;
	size_t count;
	int err = stat_sum_classes(container, chunks, &rows, &count);

	if (err < 0)
		return err;
	add_header(&table, "lrrrr", titles);
	for (size_t i = 0; i < count; i++) {
		add_sum(&table, &rows[i]);
	}
	putchar('\n');
	tool_table_print(&table, stdout, 0);
	free(rows);
	return 0;
}

static void print_overhead(const mfs_container_info *info)
{
	const struct {
		const char *name;
		uint64_t bytes;
	} parts[] = {
	    {"frames", info->frame_bytes_stored},    {"tables", info->tables_bytes},
	    {"superblocks", info->superblock_bytes}, {"index", info->index_bytes},
	    {"padding", info->padding_bytes},
	};
	static const char *const titles[] = {"part", "size", "%"};
	tool_table table;

	add_header(&table, "lrr", titles);
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		tool_table_add(&table, parts[i].name);
		add_size(&table, parts[i].bytes);
		tool_table_addf(&table, "%.2f",
				100.0 * (double)parts[i].bytes / (double)info->container_bytes);
	}
	putchar('\n');
	tool_table_print(&table, stdout, 0);
}

int stat_print_summary(mfs_container *container, const char *path, const mfs_container_info *info)
{
	int err;

	print_head(path, info);
	err = print_files(container);
	if (err == 0)
		err = print_types(container);
	if (err == 0)
		err = print_classes(container, info->chunks);
	if (err < 0)
		return err;
	print_overhead(info);
	return TOOL_OK;
}

/* ---- tables ---- */

static void add_shape(tool_table *table, const mfs_tensor_info *t)
{
	char text[8 * 24];
	size_t used = 0;

	text[0] = '\0';
	for (uint32_t i = 0; i < t->dim_count && i < 8; i++)
		used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%" PRIu64,
					 i ? "x" : "", t->dims[i]);
	tool_table_add(table, text);
}

int stat_print_tensors(mfs_container *container)
{
	static const char *const titles[] = {"tensor", "type", "class",	 "shape",
					     "offset", "size", "stored", "ratio"};
	tool_table table;
	int err = 0;

	add_header(&table, "llllrrrr", titles);
	for (uint32_t i = 0; i < mfs_tensor_count(container); i++) {
		mfs_tensor_info t = {.size = sizeof(t)};

		err = mfs_tensor_get(container, i, &t);
		if (err < 0)
			break;
		tool_table_add(&table, t.name);
		tool_table_add(&table, t.type);
		tool_table_add(&table, t.derived ? "derived" : t.cls);
		add_shape(&table, &t);
		tool_table_addf(&table, "%" PRIu64, t.file_offset);
		tool_table_addf(&table, "%" PRIu64, t.tensor_bytes);
		tool_table_addf(&table, "%" PRIu64, t.stored_bytes);
		add_ratio(&table, t.tensor_bytes, t.stored_bytes);
	}
	tool_table_print(&table, stdout, 0);
	return err < 0 ? err : TOOL_OK;
}

int stat_print_chunks(mfs_container *container, uint32_t chunks)
{
	static const char *const titles[] = {"chunk",  "offset", "class",   "codec",
					     "frames", "stored", "decoded", "ratio"};
	tool_table table;
	int err = 0;

	add_header(&table, "rrllrrrr", titles);
	for (uint32_t i = 0; i < chunks; i++) {
		mfs_chunk_info c = {.size = sizeof(c)};

		err = mfs_chunk_get(container, i, &c);
		if (err < 0)
			break;
		tool_table_addf(&table, "%" PRIu32, i);
		tool_table_addf(&table, "0x%" PRIx64, c.offset);
		tool_table_add(&table, c.cls);
		tool_table_add(&table, c.codec);
		tool_table_addf(&table, "%" PRIu32, c.frames);
		tool_table_addf(&table, "%" PRIu32, c.stored_bytes);
		tool_table_addf(&table, "%" PRIu64, c.decoded_bytes);
		add_ratio(&table, c.decoded_bytes, c.stored_bytes);
	}
	tool_table_print(&table, stdout, 0);
	return err < 0 ? err : TOOL_OK;
}
