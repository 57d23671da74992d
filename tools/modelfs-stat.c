/* modelfs-stat: looks inside a container, or at a mount that is running. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"
#include "json.h"
#include "live.h"
#include "map.h"
#include "modelfs.h"
#include "watch.h"

typedef enum { SHOW_SUMMARY, SHOW_TENSORS, SHOW_CHUNKS, SHOW_MAP } view;

typedef struct {
	view show;
	bool json;
	const char *svg; /* file to draw the map into, or NULL */
	double watch;	 /* seconds from look to look; 0: one look */
	const char *path;
} options;

#define WATCH_DEFAULT 1.0
#define WATCH_MIN     0.05
#define WATCH_MAX     86400.0

static void print_help(void)
{
	fputs("Usage: modelfs-stat [OPTIONS] CONTAINER\n"
	      "       modelfs-stat [--json] [--watch [SECONDS]] MOUNTPOINT\n"
	      "Shows what is in a container and how it is stored, or the counters of a\n"
	      "running mount.\n"
	      "\n"
	      "      --tensors         a line for each tensor\n"
	      "      --chunks          a line for each chunk\n"
	      "      --map[=FILE.svg]  a picture of the layout, on the terminal or in a file\n"
	      "      --watch [SECONDS] show what a mount does, every second or as given, until\n"
	      "                        it is unmounted\n"
	      "      --json            everything as JSON; with --watch an object on each line\n"
	      "  -h, --help            print this and exit\n"
	      "  -V, --version         print the version and exit\n",
	      stdout);
}

/* Reports why looking into the container failed; returns the exit code. */
static int fail(mfs_container *container, const options *o, int err)
{
	mfs_problem why = {0};

	mfs_last_problem(container, &why);
	tool_problem(o->path, err, &why);
	return TOOL_FAILED;
}

/* ---- sums ---- */

typedef struct {
	const char *name;
	uint64_t items, original, stored, constants, constants_stored;
} sum;

static int compare_names(const void *a, const void *b)
{
	return strcmp(((const sum *)a)->name, ((const sum *)b)->name);
}

static int compare_stored(const void *a, const void *b)
{
	const sum *left = a, *right = b;

	if (left->stored != right->stored)
		return left->stored < right->stored ? 1 : -1;
	return strcmp(left->name, right->name);
}

/* Adds up rows of the same name; the largest comes first. Returns their number. */
static size_t merge_sums(sum *rows, size_t count)
{
	size_t used = 0;

	qsort(rows, count, sizeof(*rows), compare_names);
	for (size_t i = 0; i < count; i++) {
		sum *last = used ? &rows[used - 1] : NULL;

		if (!last || strcmp(last->name, rows[i].name) != 0) {
			rows[used++] = rows[i];
			continue;
		}
		last->items += rows[i].items;
		last->original += rows[i].original;
		last->stored += rows[i].stored;
		last->constants += rows[i].constants;
		last->constants_stored += rows[i].constants_stored;
	}
	qsort(rows, used, sizeof(*rows), compare_stored);
	return used;
}

/* What the files hold besides tensors: headers, and files that no importer
 * knows. `row` begins with all bytes of the files and loses the tensors' here. */
static int sum_metadata(mfs_container *container, const sum *types, size_t count, sum *row)
{
	*row = (sum){.name = "metadata"};
	for (uint32_t i = 0; i < mfs_file_count(container); i++) {
		mfs_file_info f = {.size = sizeof(f)};
		int err = mfs_file_get(container, i, &f);

		if (err < 0)
			return err;
		if (strcmp(f.kind, "view") != 0)
			row->original += f.file_bytes;
		row->stored += f.stored_bytes;
	}
	for (size_t i = 0; i < count; i++) {
		row->original -= types[i].original;
		row->stored -= types[i].stored;
	}
	return 0;
}

static int sum_types(mfs_container *container, sum **out, size_t *used)
{
	uint32_t count = mfs_tensor_count(container);
	sum *rows = tool_grow(NULL, (size_t)count + 1, sizeof(*rows));
	size_t stored = 0;
	int err = 0;

	for (uint32_t i = 0; i < count && err == 0; i++) {
		mfs_tensor_info t = {.size = sizeof(t)};

		err = mfs_tensor_get(container, i, &t);
		if (err == 0 && !t.derived)
			rows[stored++] = (sum){t.type,
					       1,
					       t.tensor_bytes,
					       t.stored_bytes,
					       t.constants_bytes,
					       t.constants_stored_bytes};
	}
	if (err == 0) {
		*used = merge_sums(rows, stored);
		err = sum_metadata(container, rows, *used, &rows[*used]);
	}
	if (err < 0) {
		free(rows);
		return err;
	}
	*used += rows[*used].original != 0;
	*out = rows;
	return 0;
}

static int sum_classes(mfs_container *container, uint32_t chunks, sum **out, size_t *used)
{
	sum *rows = tool_grow(NULL, chunks, sizeof(*rows));

	for (uint32_t i = 0; i < chunks; i++) {
		mfs_chunk_info c = {.size = sizeof(c)};
		int err = mfs_chunk_get(container, i, &c);

		if (err < 0) {
			free(rows);
			return err;
		}
		rows[i] = (sum){c.cls, 1, c.decoded_bytes, c.stored_bytes, 0, 0};
	}
	*used = merge_sums(rows, chunks);
	*out = rows;
	return 0;
}

/* ---- words ---- */

static const char *profile_name(mfs_profile_id id)
{
	mfs_profile profile = {.size = sizeof(profile)};

	return mfs_profile_get(id, &profile) < 0 ? "unknown" : profile.name;
}

static void uuid_text(char out[37], const uint8_t uuid[16])
{
	for (unsigned i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*out++ = '-';
		out += sprintf(out, "%02x", uuid[i]);
	}
}

static bool hash_is_known(const uint8_t hash[16])
{
	static const uint8_t none[16];

	return memcmp(hash, none, sizeof(none)) != 0;
}

static void hash_text(char out[33], const uint8_t hash[16])
{
	for (unsigned i = 0; i < 16; i++)
		out += sprintf(out, "%02x", hash[i]);
}

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

static void print_head(const options *o, const mfs_container_info *info)
{
	char a[TOOL_SIZE_TEXT], b[TOOL_SIZE_TEXT], c[TOOL_SIZE_TEXT], uuid[37];
	char *name = tool_clean(o->path);

	uuid_text(uuid, info->uuid);
	printf("%s\n", name);
	printf("  uuid      %s\n", uuid);
	printf("  format    version %" PRIu32 ", generation %" PRIu64 "\n", info->version,
	       info->generation);
	printf("  profile   %s, page %s, frame %s\n", profile_name(info->profile),
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

static int print_types(mfs_container *container)
{
	static const char *const titles[] = {"type",  "tensors",   "original", "stored",
					     "ratio", "constants", "as stored"};
	tool_table table;
	sum *rows;
	size_t count;
	int err = sum_types(container, &rows, &count);

	if (err < 0)
		return err;
	add_header(&table, "lrrrrrr", titles);
	for (size_t i = 0; i < count; i++) {
		tool_table_add(&table, rows[i].name);
		tool_table_addf(&table, "%" PRIu64, rows[i].items);
		add_size(&table, rows[i].original);
		add_size(&table, rows[i].stored);
		add_ratio(&table, rows[i].original, rows[i].stored);
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
	sum *rows;
	size_t count;
	int err = sum_classes(container, chunks, &rows, &count);

	if (err < 0)
		return err;
	add_header(&table, "lrrrr", titles);
	for (size_t i = 0; i < count; i++) {
		tool_table_add(&table, rows[i].name);
		tool_table_addf(&table, "%" PRIu64, rows[i].items);
		add_size(&table, rows[i].original);
		add_size(&table, rows[i].stored);
		add_ratio(&table, rows[i].original, rows[i].stored);
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

static int show_summary(mfs_container *container, const options *o, const mfs_container_info *info)
{
	int err;

	print_head(o, info);
	err = print_files(container);
	if (err == 0)
		err = print_types(container);
	if (err == 0)
		err = print_classes(container, info->chunks);
	if (err < 0)
		return fail(container, o, err);
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

static int show_tensors(mfs_container *container, const options *o)
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
	return err < 0 ? fail(container, o, err) : TOOL_OK;
}

static int show_chunks(mfs_container *container, const options *o, uint32_t chunks)
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
	return err < 0 ? fail(container, o, err) : TOOL_OK;
}

/* ---- the map ---- */

static unsigned stdout_columns(void)
{
	struct winsize size;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col == 0)
		return 80;
	return size.ws_col;
}

static int write_svg(const map *m, const char *path)
{
	FILE *out = fopen(path, "we");
	int failed;

	if (!out) {
		tool_error("%s: %s", path, strerror(errno));
		return TOOL_FAILED;
	}
	map_print_svg(m, out);
	failed = ferror(out);
	if (fclose(out) != 0 || failed) {
		tool_error("%s: %s", path, strerror(errno));
		return TOOL_FAILED;
	}
	return TOOL_OK;
}

static int show_map(mfs_container *container, const options *o)
{
	const char *slash = strrchr(o->path, '/');
	int code = TOOL_OK;
	map m;
	int err = map_build(&m, container, slash && slash[1] ? slash + 1 : o->path);

	if (err < 0)
		return fail(container, o, err);
	if (o->svg)
		code = write_svg(&m, o->svg);
	else
		map_print(&m, stdout, stdout_columns(),
			  isatty(STDOUT_FILENO) && !getenv("NO_COLOR"));
	map_free(&m);
	return code;
}

/* ---- JSON ---- */

static int add_files(json_t *root, mfs_container *container)
{
	json_t *files = json_array();

	json_set(root, "files", files);
	for (uint32_t i = 0; i < mfs_file_count(container); i++) {
		mfs_file_info f = {.size = sizeof(f)};
		int err = mfs_file_get(container, i, &f);
		json_t *file;
		char hash[33];

		if (err < 0)
			return err;
		hash_text(hash, f.hash);
		file = json_object();
		json_set_text(file, "name", f.name);
		json_set_text(file, "format", f.format);
		json_set_number(file, "size", f.file_bytes);
		json_set_number(file, "stored_size", f.stored_bytes);
		json_set_ratio(file, "ratio", f.file_bytes, f.stored_bytes);
		json_set_number(file, "tensors", f.tensors);
		json_set(file, "xxh3_128", hash_is_known(f.hash) ? json_string(hash) : json_null());
		json_set_text(file, "kind", f.kind);
		if (f.base)
			json_set_text(file, "base", f.base);
		if (*f.note)
			json_set_text(file, "note", f.note);
		if (strcmp(f.kind, "view") == 0)
			json_set_number(file, "derived_size", f.derived_bytes);
		json_set(file, "lossy", json_boolean(f.lossy));
		json_append(files, file);
	}
	return 0;
}

static json_t *shape_to_json(const mfs_tensor_info *t)
{
	json_t *shape = json_array();

	for (uint32_t i = 0; i < t->dim_count && i < 8; i++)
		json_append(shape, json_integer((json_int_t)t->dims[i]));
	return shape;
}

static void add_tensor(json_t *tensors, mfs_container *container, const mfs_tensor_info *t)
{
	mfs_file_info file = {.size = sizeof(file), .name = ""};
	json_t *tensor = json_object();

	mfs_file_stat(container, t->file, &file);
	json_set_text(tensor, "name", t->name);
	json_set_text(tensor, "file", file.name);
	json_set_text(tensor, "type", t->type);
	json_set_text(tensor, "class", t->cls);
	json_set(tensor, "shape", shape_to_json(t));
	json_set_number(tensor, "offset", t->file_offset);
	json_set_number(tensor, "size", t->tensor_bytes);
	json_set_number(tensor, "stored_size", t->stored_bytes);
	json_set_number(tensor, "constants_size", t->constants_bytes);
	json_set_number(tensor, "constants_stored_size", t->constants_stored_bytes);
	json_set_number(tensor, "tables_size", t->tables_bytes);
	json_set(tensor, "derived", json_boolean(t->derived));
	if (t->derived)
		json_set_number(tensor, "adapters", t->adapters);
	json_append(tensors, tensor);
}

static int add_tensors(json_t *root, mfs_container *container)
{
	json_t *tensors = json_array();

	json_set(root, "tensors", tensors);
	for (uint32_t i = 0; i < mfs_tensor_count(container); i++) {
		mfs_tensor_info t = {.size = sizeof(t)};
		int err = mfs_tensor_get(container, i, &t);

		if (err < 0)
			return err;
		add_tensor(tensors, container, &t);
	}
	return 0;
}

static int add_chunks(json_t *root, mfs_container *container, uint32_t count)
{
	json_t *chunks = json_array();

	json_set(root, "chunks", chunks);
	for (uint32_t i = 0; i < count; i++) {
		mfs_chunk_info c = {.size = sizeof(c)};
		int err = mfs_chunk_get(container, i, &c);
		json_t *chunk;

		if (err < 0)
			return err;
		chunk = json_object();
		json_set_number(chunk, "offset", c.offset);
		json_set_number(chunk, "stored_size", c.stored_bytes);
		json_set_number(chunk, "decoded_size", c.decoded_bytes);
		json_set_text(chunk, "class", c.cls);
		json_set_text(chunk, "codec", c.codec);
		json_set_number(chunk, "frames", c.frames);
		json_append(chunks, chunk);
	}
	return 0;
}

static int add_types(json_t *root, mfs_container *container)
{
	json_t *types = json_array();
	sum *rows;
	size_t count;
	int err;

	json_set(root, "types", types);
	err = sum_types(container, &rows, &count);
	if (err < 0)
		return err;
	for (size_t i = 0; i < count; i++) {
		json_t *type = json_object();

		json_set_text(type, "type", rows[i].name);
		json_set_number(type, "tensors", rows[i].items);
		json_set_number(type, "original_size", rows[i].original);
		json_set_number(type, "stored_size", rows[i].stored);
		json_set_ratio(type, "ratio", rows[i].original, rows[i].stored);
		json_set_number(type, "constants_size", rows[i].constants);
		json_set_number(type, "constants_stored_size", rows[i].constants_stored);
		json_append(types, type);
	}
	free(rows);
	return 0;
}

static int add_classes(json_t *root, mfs_container *container, uint32_t chunks)
{
	json_t *classes = json_array();
	sum *rows;
	size_t count;
	int err;

	json_set(root, "classes", classes);
	err = sum_classes(container, chunks, &rows, &count);
	if (err < 0)
		return err;
	for (size_t i = 0; i < count; i++) {
		json_t *cls = json_object();

		json_set_text(cls, "class", rows[i].name);
		json_set_number(cls, "chunks", rows[i].items);
		json_set_number(cls, "decoded_size", rows[i].original);
		json_set_number(cls, "stored_size", rows[i].stored);
		json_set_ratio(cls, "ratio", rows[i].original, rows[i].stored);
		json_append(classes, cls);
	}
	free(rows);
	return 0;
}

static void add_head(json_t *root, const options *o, const mfs_container_info *info)
{
	char uuid[37];

	uuid_text(uuid, info->uuid);
	json_set_text(root, "container", o->path);
	json_set_text(root, "uuid", uuid);
	json_set_number(root, "version", info->version);
	json_set_number(root, "generation", info->generation);
	json_set_number(root, "superblock_copy", (uint64_t)info->superblock_copy);
	json_set_text(root, "profile", profile_name(info->profile));
	json_set_number(root, "page_size", info->page_bytes);
	json_set_number(root, "frame_size", info->frame_bytes);
}

static json_t *totals_to_json(const mfs_container_info *info)
{
	json_t *totals = json_object();

	json_set_number(totals, "original_size", info->original_bytes);
	json_set_number(totals, "stored_size", info->container_bytes);
	json_set_ratio(totals, "ratio", info->original_bytes, info->container_bytes);
	json_set_number(totals, "frames_size", info->frame_bytes_stored);
	json_set_number(totals, "tables_size", info->tables_bytes);
	json_set_number(totals, "shared_size", info->shared_bytes);
	json_set_number(totals, "unused_size", info->unused_bytes);
	json_set(totals, "overhead",
		 json_overhead(info->superblock_bytes, info->index_bytes, info->padding_bytes));
	return totals;
}

static int show_json(mfs_container *container, const options *o, const mfs_container_info *info)
{
	json_t *root = json_object();
	int err;

	add_head(root, o, info);
	json_set(root, "totals", totals_to_json(info));
	err = add_types(root, container);
	if (err == 0)
		err = add_classes(root, container, info->chunks);
	if (err == 0)
		err = add_files(root, container);
	if (err == 0)
		err = add_tensors(root, container);
	if (err == 0)
		err = add_chunks(root, container, info->chunks);
	if (err == 0)
		return json_print(root);
	json_decref(root);
	return fail(container, o, err);
}

/* ---- a running mount ---- */

static void print_live_engine(const json_t *stats)
{
	const json_t *how = json_object_get(stats, "medium");
	char *engine = live_text(stats, "engine"), *medium = live_medium(stats);
	char *profile = live_text(stats, "profile"), *queue = live_text(how, "queue");
	char request[TOOL_SIZE_TEXT], window[TOOL_SIZE_TEXT];

	printf("  medium    %s\n", medium);
	printf("  profile   %s, queued as for %s\n", profile, queue);

	printf("  engine    %s, %s%s\n", engine,
	       json_is_true(json_object_get(stats, "direct")) ? "O_DIRECT" : "buffered",
	       json_is_true(json_object_get(stats, "registered")) ? ", registered buffers" : "");
	printf("  requests  up to %s, %" PRIu64 " in flight, %s ahead, %" PRIu64 " decoders\n",
	       tool_size(request, live_number(stats, "request_bytes")), live_number(stats, "depth"),
	       tool_size(window, live_number(how, "window_bytes")), live_number(stats, "decoders"));
	if (json_is_integer(json_object_get(stats, "read_ahead_kb")))
		printf("  kernel    reads ahead %" PRIu64 " KiB\n",
		       live_number(stats, "read_ahead_kb"));
	free(engine);
	free(medium);
	free(profile);
	free(queue);
}

/* The cache of stored bytes; nothing where there is none. */
static void print_live_cache(const json_t *stats)
{
	char a[TOOL_SIZE_TEXT], b[TOOL_SIZE_TEXT];
	uint64_t weights = live_number(stats, "cache_weights_bytes");
	uint64_t constants = live_number(stats, "cache_constants_bytes");
	uint64_t hits = live_number(stats, "cache_hit_bytes");
	uint64_t misses = live_number(stats, "cache_miss_bytes");
	double all = (double)hits + (double)misses;

	if (all <= 0)
		return;
	printf("  cache     %s of %s", tool_size(a, live_number(stats, "cache_used_bytes")),
	       tool_size(b, live_number(stats, "cache_bytes")));
	printf(": %s of constants, %s of the rest\n", tool_size(a, constants),
	       tool_size(b, weights));
	printf("            %s taken from it, %s from the medium (%.1f %% hit)\n",
	       tool_size(a, hits), tool_size(b, misses), 100 * (double)hits / all);
}

static void print_live_work(const json_t *stats)
{
	char a[TOOL_SIZE_TEXT], b[TOOL_SIZE_TEXT], c[TOOL_SIZE_TEXT];
	uint64_t hits = live_number(stats, "span_hits");
	uint64_t misses = live_number(stats, "span_misses");
	double all = (double)hits + (double)misses;

	printf("  served    %s in %" PRIu64 " reads\n",
	       tool_size(a, live_number(stats, "served_bytes")), live_number(stats, "reads"));
	printf("  read      %s in %" PRIu64 " reads of the medium\n",
	       tool_size(a, live_number(stats, "medium_bytes")),
	       live_number(stats, "medium_reads"));
	printf("  decoded   %s in %" PRIu64 " spans\n",
	       tool_size(a, live_number(stats, "decoded_bytes")),
	       live_number(stats, "decoded_spans"));
	printf("  spans     %" PRIu64 " hits, %" PRIu64 " misses (%.1f %% hit)\n", hits, misses,
	       all > 0 ? 100 * (double)hits / all : 0.0);
	print_live_cache(stats);
	printf("  prefetch  %s, %s used, %s wasted\n",
	       tool_size(a, live_number(stats, "prefetch_bytes")),
	       tool_size(b, live_number(stats, "prefetch_used_bytes")),
	       tool_size(c, live_number(stats, "prefetch_wasted_bytes")));
	printf("  memory    %s of %s for reads and spans, index %s\n",
	       tool_size(a, live_number(stats, "arena_used_bytes")),
	       tool_size(b, live_number(stats, "arena_bytes")),
	       tool_size(c, live_number(stats, "index_loaded_bytes")));
	printf("  errors    %" PRIu64 " of the medium, %" PRIu64 " of damage\n",
	       live_number(stats, "errors_io"), live_number(stats, "errors_corrupt"));
}

static void print_live(const options *o, const json_t *stats)
{
	char *mountpoint = tool_clean(o->path);
	char *container = live_text(stats, "container");
	char *version = live_text(stats, "version");
	uint64_t up = live_number(stats, "uptime_seconds");

	printf("%s\n  container %s\n", mountpoint, container);
	printf("  daemon    modelfs %s, process %" PRIu64 ", up %" PRIu64 ":%02u:%02u\n", version,
	       live_number(stats, "pid"), up / 3600, (unsigned)(up / 60 % 60), (unsigned)(up % 60));
	print_live_engine(stats);
	print_live_work(stats);
	free(mountpoint);
	free(container);
	free(version);
}

static int show_live(const options *o)
{
	json_t *stats;

	if (o->show != SHOW_SUMMARY)
		return tool_misuse("%s is a directory: this view needs the container", o->path);
	if (o->watch > 0)
		return watch_mount(o->path, o->watch, o->json);
	stats = live_load(o->path, false);
	if (!stats)
		return TOOL_FAILED;
	if (o->json)
		return json_print(stats);
	print_live(o, stats);
	json_decref(stats);
	return TOOL_OK;
}

/* ---- main ---- */

static int show_container(const options *o)
{
	mfs_container_info info = {.size = sizeof(info)};
	mfs_container *container = tool_open(o->path);
	int code, err;

	if (!container)
		return TOOL_FAILED;
	err = mfs_info(container, &info);
	if (err < 0)
		code = fail(container, o, err);
	else if (o->json)
		code = show_json(container, o, &info);
	else if (o->show == SHOW_TENSORS)
		code = show_tensors(container, o);
	else if (o->show == SHOW_CHUNKS)
		code = show_chunks(container, o, info.chunks);
	else if (o->show == SHOW_MAP)
		code = show_map(container, o);
	else
		code = show_summary(container, o, &info);
	mfs_close(container);
	return code;
}

enum { OPT_JSON = 256, OPT_TENSORS, OPT_CHUNKS, OPT_MAP, OPT_WATCH };

static const struct option long_options[] = {
    {"json", no_argument, NULL, OPT_JSON},	   {"tensors", no_argument, NULL, OPT_TENSORS},
    {"chunks", no_argument, NULL, OPT_CHUNKS},	   {"map", optional_argument, NULL, OPT_MAP},
    {"watch", optional_argument, NULL, OPT_WATCH}, {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},	   {NULL, 0, NULL, 0},
};

static int set_view(options *o, view show)
{
	if (o->show != SHOW_SUMMARY && o->show != show)
		return tool_misuse("only one of --tensors, --chunks and --map");
	o->show = show;
	return 0;
}

static int set_interval(options *o, const char *text)
{
	char *end;

	o->watch = strtod(text, &end);
	if (end == text || *end || !(o->watch >= WATCH_MIN && o->watch <= WATCH_MAX))
		return tool_misuse("--watch: '%s' is not a number of seconds from %g to %g", text,
				   WATCH_MIN, WATCH_MAX);
	return 0;
}

/* The operands: the path, and before it, after --watch, the seconds. */
static int take_operands(options *o, int count, char *operands[])
{
	int err = 0;

	if (o->watch > 0 && count == 2) {
		err = set_interval(o, operands[0]);
		operands++;
		count--;
	}
	if (!err && count != 1)
		return tool_misuse("one CONTAINER or MOUNTPOINT is needed");
	o->path = operands[0];
	return err;
}

static int parse_options(options *o, int argc, char *argv[])
{
	int option, err = 0;

	while (!err && (option = tool_option(argc, argv, "hV", long_options, print_help)) != -1) {
		switch (option) {
		case OPT_JSON:
			o->json = true;
			break;
		case OPT_TENSORS:
			err = set_view(o, SHOW_TENSORS);
			break;
		case OPT_CHUNKS:
			err = set_view(o, SHOW_CHUNKS);
			break;
		case OPT_MAP:
			err = set_view(o, SHOW_MAP);
			o->svg = optarg;
			break;
		case OPT_WATCH:
			o->watch = WATCH_DEFAULT;
			err = optarg ? set_interval(o, optarg) : 0;
			break;
		default:
			return TOOL_USAGE;
		}
	}
	if (!err)
		err = take_operands(o, argc - optind, argv + optind);
	if (err)
		return err;
	if (o->json && o->show == SHOW_MAP)
		return tool_misuse("--map is a picture, --json is not");
	return 0;
}

int main(int argc, char *argv[])
{
	options o = {0};
	struct stat st;
	int code;

	tool_start("modelfs-stat");
	code = parse_options(&o, argc, argv);
	if (code)
		return code;
	if (stat(o.path, &st) == 0 && S_ISDIR(st.st_mode))
		return tool_finish(show_live(&o));
	if (o.watch > 0) {
		tool_error("%s: not a directory: --watch needs a MOUNTPOINT", o.path);
		return TOOL_FAILED;
	}
	return tool_finish(show_container(&o));
}
