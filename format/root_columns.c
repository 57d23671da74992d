#include "root_columns.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "frame_private.h"
#include "modelfs_error.h"
#include "root_records.h"

/* What columns are made of it is small: more effort saves a hundredth. */
#define LEVEL 6

#define HEADER sizeof(struct mfs_disk_root)

/* ---- one section ---- */

/* Names are no records. */
static bool has_columns(int section)
{
	return section != MFS_SEC_NAMES;
}

/* Columns 4k to 4k + 3: the differences of word k, from their lowest byte up. */
static void split_word(const uint8_t *word, uint32_t record, uint32_t count, uint8_t *columns)
{
	uint32_t before = 0;

	for (uint32_t i = 0; i < count; i++, word += record) {
		uint32_t value = load_le32(word), difference = value - before;

		for (uint32_t k = 0; k < 4; k++)
			columns[(size_t)k * count + i] = (uint8_t)(difference >> 8 * k);
		before = value;
	}
}

static void join_word(uint8_t *word, uint32_t record, uint32_t count, const uint8_t *columns)
{
	uint32_t value = 0;

	for (uint32_t i = 0; i < count; i++, word += record) {
		for (uint32_t k = 0; k < 4; k++)
			value += (uint32_t)columns[(size_t)k * count + i] << 8 * k;
		store_le32(word, value);
	}
}

/* ---- all of them ---- */

static uint32_t section_bytes(const mfs_root *root, int section)
{
	return root->count[section] * mfs_root_record_size[section];
}

static uint32_t columns_bytes(const mfs_root *root)
{
	uint32_t bytes = 0;

	for (int s = 0; s < MFS_SECTIONS; s++)
		bytes += section_bytes(root, s);
	return bytes;
}

static void split_sections(const mfs_root *root, uint8_t *columns)
{
	for (int s = 0; s < MFS_SECTIONS; s++) {
		const uint8_t *records = root->bytes + root->offset[s];
		uint32_t record = mfs_root_record_size[s], count = root->count[s];

		if (!has_columns(s))
			memcpy(columns, records, section_bytes(root, s));
		for (uint32_t at = 0; has_columns(s) && at < record; at += 4)
			split_word(records + at, record, count, columns + (size_t)at * count);
		columns += section_bytes(root, s);
	}
}

static void join_sections(const mfs_root *root, uint8_t *out, const uint8_t *columns)
{
	for (int s = 0; s < MFS_SECTIONS; s++) {
		uint8_t *records = out + root->offset[s];
		uint32_t record = mfs_root_record_size[s], count = root->count[s];

		if (!has_columns(s))
			memcpy(records, columns, section_bytes(root, s));
		for (uint32_t at = 0; has_columns(s) && at < record; at += 4)
			join_word(records + at, record, count, columns + (size_t)at * count);
		columns += section_bytes(root, s);
	}
}

/* ---- the frame around them ---- */

size_t mfs_columns_bound(uint32_t size)
{
	return HEADER + ZSTD_compressBound(size);
}

uint32_t mfs_columns_encode(const uint8_t *bytes, uint32_t size, uint8_t *out, size_t room)
{
	mfs_root root = {.bytes = bytes, .size = size};
	uint8_t *columns;
	size_t coded = 0;

	if (mfs_root_read_sections(&root) || room < mfs_columns_bound(size))
		return 0;
	columns = malloc(size);
	if (!columns)
		return 0;
	split_sections(&root, columns);
	memcpy(out, bytes, HEADER);
	coded = ZSTD_compress(out + HEADER, room - HEADER, columns, columns_bytes(&root), LEVEL);
	free(columns);
	return ZSTD_isError(coded) ? 0 : (uint32_t)(HEADER + coded);
}

/* The sections as the header tells them; *size: where the last one ends. */
static int read_header(mfs_root *root, const uint8_t *stored, uint32_t stored_size, uint32_t *size,
		       const char **reason)
{
	const int last = MFS_SECTIONS - 1;

	*root = (mfs_root){.bytes = stored, .size = MFS_ROOT_MAX};
	*reason = stored_size < HEADER ? "the root is cut short" : mfs_root_read_sections(root);
	if (*reason)
		return MFS_E_CORRUPT;
	*size = root->offset[last] + section_bytes(root, last);
	return 0;
}

int mfs_columns_root_size(const uint8_t *stored, uint32_t stored_size, uint32_t *size,
			  const char **reason)
{
	mfs_root root;

	return read_header(&root, stored, stored_size, size, reason);
}

static int decode_frame(const uint8_t *in, size_t size, uint8_t *columns, size_t bytes)
{
	ZSTD_DCtx *zstd = ZSTD_createDCtx();
	int err = zstd ? mfs_zstd_decode(zstd, NULL, in, size, columns, bytes) : MFS_E_MEMORY;

	ZSTD_freeDCtx(zstd);
	return err;
}

int mfs_columns_decode(uint8_t *out, const uint8_t *stored, uint32_t stored_size,
		       const char **reason)
{
	uint32_t size, bytes;
	uint8_t *columns;
	mfs_root root;
	int err = read_header(&root, stored, stored_size, &size, reason);

	if (err)
		return err;
	bytes = columns_bytes(&root);
	columns = malloc(bytes + 1u);
	err = columns ? decode_frame(stored + HEADER, stored_size - HEADER, columns, bytes)
		      : MFS_E_MEMORY;
	if (!err) {
		memcpy(out, stored, HEADER);
		join_sections(&root, out, columns);
	} else {
		*reason = "the columns of the root do not decode";
	}
	free(columns);
	return err;
}
