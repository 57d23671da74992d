#include "stat_facts.h"

#include <stdlib.h>
#include <string.h>

#include "common.h"

static int compare_names(const void *a, const void *b)
{
	return strcmp(((const stat_sum *)a)->name, ((const stat_sum *)b)->name);
}

static int compare_stored(const void *a, const void *b)
{
	const stat_sum *left = a, *right = b;

	if (left->stored != right->stored)
		return left->stored < right->stored ? 1 : -1;
	return strcmp(left->name, right->name);
}

/* Adds up rows of the same name; the largest comes first. Returns their number. */
static size_t merge_sums(stat_sum *rows, size_t count)
{
	size_t used = 0;

	qsort(rows, count, sizeof(*rows), compare_names);
	for (size_t i = 0; i < count; i++) {
		stat_sum *last = used ? &rows[used - 1] : NULL;

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
static int sum_metadata(mfs_container *container, const stat_sum *types, size_t count,
			stat_sum *row)
{
	*row = (stat_sum){.name = "metadata"};
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

int stat_sum_types(mfs_container *container, stat_sum **out, size_t *used)
{
	uint32_t count = mfs_tensor_count(container);
	stat_sum *rows = tool_grow(NULL, (size_t)count + 1, sizeof(*rows));
	size_t stored = 0;
	int err = 0;

	for (uint32_t i = 0; i < count && err == 0; i++) {
		mfs_tensor_info t = {.size = sizeof(t)};

		err = mfs_tensor_get(container, i, &t);
		if (err == 0 && !t.derived)
			rows[stored++] = (stat_sum){t.type,
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

int stat_sum_classes(mfs_container *container, uint32_t chunks, stat_sum **out, size_t *used)
{
	stat_sum *rows = tool_grow(NULL, chunks, sizeof(*rows));

	for (uint32_t i = 0; i < chunks; i++) {
		mfs_chunk_info c = {.size = sizeof(c)};
		int err = mfs_chunk_get(container, i, &c);

		if (err < 0) {
			free(rows);
			return err;
		}
		rows[i] = (stat_sum){c.cls, 1, c.decoded_bytes, c.stored_bytes, 0, 0};
	}
	*used = merge_sums(rows, chunks);
	*out = rows;
	return 0;
}

const char *stat_profile_name(mfs_profile_id id)
{
	mfs_profile profile = {.size = sizeof(profile)};

	return mfs_profile_get(id, &profile) < 0 ? "unknown" : profile.name;
}

void stat_uuid_text(char out[37], const uint8_t uuid[16])
{
	for (unsigned i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*out++ = '-';
		out += sprintf(out, "%02x", uuid[i]);
	}
}
