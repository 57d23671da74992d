/* Tables as they are stored, opened: trees, and how buckets are told. */
#include "frame_private.h"

#include <stdlib.h>
#include <string.h>

#include "mfs_endian.h"
#include "modelfs_error.h"

/* ---- dictionaries ----
 *
 * zstd takes a tree only inside a dictionary. The rest of it is always the same
 * and therefore not stored. */

/* Not 0, and in the range that nobody needs to register. */
#define DICTIONARY_ID 32768u

/* What follows the Huffman tree in a standard dictionary. No frame of ours has
 * sequences, so the tables for offsets, match lengths and literal lengths are
 * the shortest there are (32 states: 31 for code 0 and 1 for code 1), the
 * offsets to repeat are zstd's first ones, and the content is the shortest that
 * these may point into. */
static const uint8_t dictionary_tail[] = {
    0xe0, 0x0f, 0xe0, 0x0f, 0xe0, 0x0f,			  /* three tables */
    1,	  0,	0,    0,    4,	  0,	0, 0, 8, 0, 0, 0, /* three offsets */
    0,	  0,	0,    0,    0,	  0,	0, 0,		  /* content */
};

#define DICTIONARY_MAX (8 + MFS_TREE_MAX + sizeof(dictionary_tail))

/* In memory of our own, which tells a tree that zstd refuses from too little of it.
 * The dictionary lies where the memory begins: free() it. Its bytes are added to
 * *memory. */
static int open_dictionary(ZSTD_DDict **out, const uint8_t *tree, size_t size, size_t *memory)
{
	uint8_t bytes[DICTIONARY_MAX];
	size_t length = 8 + size + sizeof(dictionary_tail);
	size_t room = ZSTD_estimateDDictSize(length, ZSTD_dlm_byCopy);

	*out = malloc(room);
	if (!*out)
		return MFS_E_MEMORY;
	store_le32(bytes, ZSTD_MAGIC_DICTIONARY);
	store_le32(bytes + 4, DICTIONARY_ID);
	memcpy(bytes + 8, tree, size);
	memcpy(bytes + 8 + size, dictionary_tail, sizeof(dictionary_tail));
	if (ZSTD_initStaticDDict(*out, room, bytes, length, ZSTD_dlm_byCopy, ZSTD_dct_fullDict)) {
		*memory += room;
		return 0;
	}
	free(*out);
	*out = NULL;
	return MFS_E_CORRUPT;
}

/* ---- opening ---- */

/* A stream's part, read from its first byte to its last. */
struct part {
	const uint8_t *bytes;
	size_t left;
};

/* What decoding wants of a tree, which is `size` bytes. */
static int open_decoding(mfs_tables *tables, struct mfs_shared *shared, uint32_t number,
			 const mfs_ranks *ranks, const uint8_t *tree, size_t size)
{
	int err = open_dictionary(&shared->decoding[number], tree, size, &tables->memory);

	if (err)
		return err;
	if (mfs_ranks_mean(ranks) <= MFS_LONG_CODES)
		return 0;
	shared->lookup[number] = malloc(sizeof(mfs_lookup));
	if (!shared->lookup[number])
		return MFS_E_MEMORY;
	mfs_lookup_make(shared->lookup[number], ranks);
	tables->memory += sizeof(mfs_lookup);
	return 0;
}

static int open_tree(mfs_tables *tables, struct mfs_shared *shared, struct part *part,
		     enum mfs_tables_use use)
{
	uint32_t number = shared->count;
	mfs_ranks ranks;
	size_t size;

	if (shared->buckets && part->left && part->bytes[0] == MFS_NO_TREE) {
		if (use != MFS_TABLES_DECODE)
			for (int k = 0; k < 256; k++)
				shared->encoding[number].code[k] = MFS_CODE_MISSING;
		shared->count++;
		part->bytes++;
		part->left--;
		return 0;
	}
	size = mfs_ranks_read(&ranks, part->bytes, part->left);
	if (size == 0)
		return MFS_E_CORRUPT;
	shared->count++;
	if (use != MFS_TABLES_DECODE)
		mfs_codes_make(&shared->encoding[number], &ranks);
	if (use != MFS_TABLES_ENCODE) {
		int err = open_decoding(tables, shared, number, &ranks, part->bytes, size);

		if (err)
			return err;
	}
	part->bytes += size;
	part->left -= size;
	return 0;
}

static int open_trees(mfs_tables *tables, struct mfs_shared *shared, uint32_t count,
		      struct part *part, enum mfs_tables_use use)
{
	if (use != MFS_TABLES_DECODE) {
		shared->encoding = calloc(count, sizeof(*shared->encoding));
		if (!shared->encoding)
			return MFS_E_MEMORY;
		tables->memory += count * sizeof(*shared->encoding);
	}
	while (shared->count < count) {
		int err = open_tree(tables, shared, part, use);

		if (err)
			return err;
	}
	return part->left ? MFS_E_CORRUPT : 0;
}

/* The header of a bucketed stream: bounds that grow from bucket to bucket. */
static int open_buckets(struct mfs_shared *shared, struct part *part)
{
	const struct mfs_disk_buckets *d = (const void *)part->bytes;
	const uint8_t *bound = part->bytes + sizeof(*d);
	uint32_t bucket = 0;

	if (part->left < sizeof(*d) || d->count < 2 || d->count > MFS_BUCKETS_MAX || d->reserved ||
	    part->left < sizeof(*d) + d->count - 1u)
		return MFS_E_CORRUPT;
	for (uint32_t b = 0; b + 1 < d->count; b++)
		if (bound[b] <= (b ? bound[b - 1] : 0))
			return MFS_E_CORRUPT;
	for (uint32_t value = 0; value < 256; value++) {
		while (bucket + 1 < d->count && value >= bound[bucket])
			bucket++;
		shared->bucket[value] = (uint8_t)bucket;
	}
	shared->buckets = d->count;
	shared->window = load_le16(&d->window);
	part->bytes += sizeof(*d) + d->count - 1u;
	part->left -= sizeof(*d) + d->count - 1u;
	return 0;
}

/* The header of a stream whose buckets are marked. */
static int open_marked(struct mfs_shared *shared, struct part *part)
{
	const struct mfs_disk_marked *d = (const void *)part->bytes;

	if (part->left < sizeof(*d) || d->count < 2 || d->count > MFS_BUCKETS_MAX ||
	    d->group < MFS_GROUP_MIN || d->group > MFS_GROUP_MAX || load_le16(&d->reserved))
		return MFS_E_CORRUPT;
	shared->buckets = d->count;
	shared->group = d->group;
	part->bytes += sizeof(*d);
	part->left -= sizeof(*d);
	return 0;
}

static int open_part(mfs_tables *tables, struct mfs_shared *shared, unsigned kind, struct part part,
		     enum mfs_tables_use use)
{
	if (kind == MFS_CODING_SHARED)
		return open_trees(tables, shared, 1, &part, use);
	if (kind == MFS_CODING_BUCKETS ? open_buckets(shared, &part)
				       : kind != MFS_CODING_MARKED || open_marked(shared, &part))
		return MFS_E_CORRUPT;
	return open_trees(tables, shared, shared->buckets, &part, use);
}

static int open_parts(mfs_tables *tables, const uint8_t *stored, size_t size,
		      enum mfs_tables_use use)
{
	size_t at = (size_t)tables->streams * MFS_STREAM_HEADER;

	for (uint32_t s = 0; s < tables->streams; s++) {
		uint32_t word = load_le32(stored + (size_t)s * MFS_STREAM_HEADER);
		struct part part = {stored + at, word & MFS_LENGTH_MASK};
		int err;

		if (word == 0)
			continue;
		if (part.left > size - at)
			return MFS_E_CORRUPT;
		err = open_part(tables, &tables->shared[s], word >> MFS_LENGTH_BITS, part, use);
		if (err)
			return err;
		at += word & MFS_LENGTH_MASK;
	}
	return at == size ? 0 : MFS_E_CORRUPT;
}

int mfs_tables_open(mfs_tables **out, const uint8_t *stored, size_t size, uint32_t streams,
		    enum mfs_tables_use use)
{
	size_t memory = sizeof(mfs_tables) + streams * sizeof(struct mfs_shared);
	mfs_tables *tables;
	int err;

	if (streams == 0 || streams > MFS_STREAMS_MAX)
		return MFS_E_ARGUMENT;
	if (size < (size_t)streams * MFS_STREAM_HEADER || size > MFS_TABLES_MAX)
		return MFS_E_CORRUPT;
	tables = calloc(1, memory);
	if (!tables)
		return MFS_E_MEMORY;
	tables->streams = streams;
	tables->memory = memory;
	err = open_parts(tables, stored, size, use);
	if (err) {
		mfs_tables_free(tables);
		return err;
	}
	*out = tables;
	return 0;
}

void mfs_tables_free(mfs_tables *tables)
{
	if (!tables)
		return;
	for (uint32_t s = 0; s < tables->streams; s++) {
		for (uint32_t t = 0; t < tables->shared[s].count; t++) {
			free(tables->shared[s].decoding[t]);
			free(tables->shared[s].lookup[t]);
		}
		free(tables->shared[s].encoding);
	}
	free(tables);
}

int mfs_tables_have_marks(const uint8_t *stored, size_t size, uint32_t streams)
{
	for (uint32_t s = 0; s < streams && size / MFS_STREAM_HEADER > s; s++)
		if (load_le32(stored + (size_t)s * MFS_STREAM_HEADER) >> MFS_LENGTH_BITS ==
		    MFS_CODING_MARKED)
			return 1;
	return 0;
}

size_t mfs_tables_memory(const mfs_tables *tables)
{
	return tables->memory;
}
