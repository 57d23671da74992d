/*
 * make_future CONTAINER SOURCE: writes a container with a tensor type that no
 * program knows, and the file that it holds. It uses the format's own functions
 * but neither the packer nor an importer, and places things as the packer would
 * not: weights before constants, frames of a tensor in reverse order. A reader
 * that opens it goes by the container and not by habit.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "check.h"
#include "frame.h"
#include "root.h"
#include "superblock.h"

#define PAGE	     512
#define ROOM	     65536
#define HEAD	     "a format of the future\n"
#define HEAD_BYTES   (sizeof(HEAD) - 1)
#define BLOCKS	     840
#define SLICE_BLOCKS 280
#define SPAN_BLOCKS  64
#define ZEROS	     13
#define NAME	     "q9.future"
#define TENSOR_NAME  "layers.0.weight"

enum { LAYOUT_FUTURE, LAYOUT_BYTES, LAYOUTS };
enum { TENSOR_HEAD, TENSOR_WEIGHT, TENSORS };
enum { CHUNK_HEAD, CHUNK_WEIGHTS, CHUNK_CONSTANTS, CHUNKS };

/* Words of all sizes, of both classes, cut in every way there is. */
static mfs_layout future = {
    .name = "Q9_FUTURE",
    .name_length = 9,
    .type_id = 4242,
    .block_bytes = 23,
    .block_weights = 12,
    .field_count = 4,
    .field = {{"exponent", 8, MFS_DISK_CONSTANTS, MFS_TRANSFORM_ROTATE, 4, 32, 0, 0, 4},
	      {"steps", 5, MFS_DISK_CONSTANTS, MFS_TRANSFORM_BYTES, 1, 6, 0, 4, 3},
	      {"quants", 6, MFS_DISK_WEIGHTS, MFS_TRANSFORM_PLANES, 2, 9, 0, 7, 12},
	      {"signs", 5, MFS_DISK_WEIGHTS, MFS_TRANSFORM_BYTES, 1, 1, 0, 19, 4}},
};

struct writer {
	uint8_t container[ROOM];
	uint64_t end;
	uint8_t *source;
	size_t source_bytes;
	mfs_encoder *encoder;
	const mfs_layout *layouts[LAYOUTS];
	mfs_root_file file;
	mfs_root_tensor tensor[TENSORS];
	uint64_t dims[3];
	mfs_root_tables tables;
	mfs_tables *open_tables;
	mfs_chunk chunk[CHUNKS];
	uint8_t frames[64 * sizeof(struct mfs_disk_frame)];
	uint8_t chunks[CHUNKS * sizeof(struct mfs_disk_chunk)];
	uint64_t frame_count;
	mfs_root root;
	uint8_t root_bytes[4096];
};

static void require(int condition, const char *what)
{
	if (condition)
		return;
	fprintf(stderr, "make_future: %s\n", what);
	exit(1);
}

static uint64_t next_number(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static void hash128(const void *bytes, size_t size, uint8_t out[16])
{
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, size));
	memcpy(out, canonical.digest, 16);
}

static void make_block(uint8_t *block, uint64_t *state)
{
	uint64_t z = next_number(state);

	store_le32(block, (uint32_t)(0x3c000000u + (z & 0x7fffff)) | (uint32_t)(z & 1) << 31);
	for (int i = 4; i < 7; i++)
		block[i] = (uint8_t)(20 + (next_number(state) & 7));
	for (int i = 7; i < 19; i += 2)
		store_le16(block + i,
			   (uint16_t)((next_number(state) & 31) + (next_number(state) & 31)));
	store_le32(block + 19, (uint32_t)next_number(state));
}

static void make_source(struct writer *w)
{
	uint64_t state = 9;

	w->source_bytes = HEAD_BYTES + BLOCKS * future.block_bytes + ZEROS;
	w->source = calloc(1, w->source_bytes);
	require(w->source != NULL, "no memory");
	memcpy(w->source, HEAD, HEAD_BYTES);
	for (size_t i = 0; i < BLOCKS; i++)
		make_block(w->source + HEAD_BYTES + i * future.block_bytes, &state);
}

static void describe_file(struct writer *w)
{
	mfs_root_file *f = &w->file;
	mfs_root_tensor *head = &w->tensor[TENSOR_HEAD], *weight = &w->tensor[TENSOR_WEIGHT];

	*f = (mfs_root_file){.name = NAME,
			     .name_length = sizeof(NAME) - 1,
			     .size = w->source_bytes,
			     .extent_count = 3,
			     .mtime_seconds = -1,
			     .mtime_nanoseconds = 999999999,
			     .base = MFS_NO_FILE};
	hash128(w->source, w->source_bytes, f->hash);
	*head = (mfs_root_tensor){.cls = MFS_DISK_METADATA,
				  .flags = MFS_TENSOR_LITERAL,
				  .layout = LAYOUT_BYTES,
				  .size = HEAD_BYTES,
				  .slice_blocks = HEAD_BYTES,
				  .span_blocks = HEAD_BYTES};
	*weight = (mfs_root_tensor){.name = TENSOR_NAME,
				    .name_length = sizeof(TENSOR_NAME) - 1,
				    .cls = MFS_DISK_WEIGHTS,
				    .layout = LAYOUT_FUTURE,
				    .dim_count = 3,
				    .file_offset = HEAD_BYTES,
				    .size = (uint64_t)BLOCKS * future.block_bytes,
				    .slice_blocks = SLICE_BLOCKS,
				    .span_blocks = SPAN_BLOCKS};
	w->dims[0] = future.block_weights;
	w->dims[1] = SLICE_BLOCKS;
	w->dims[2] = BLOCKS / SLICE_BLOCKS;
	for (int t = 0; t < TENSORS; t++) {
		hash128(w->source + w->tensor[t].file_offset, w->tensor[t].size, w->tensor[t].hash);
		w->tensor[t].base = MFS_NO_TENSOR;
		w->tensor[t].slot[0].tables = w->tensor[t].slot[1].tables = MFS_NO_TABLES;
	}
}

static uint64_t put(struct writer *w, const void *bytes, size_t size)
{
	uint64_t at = w->end;

	require(range_ok(at, size, ROOM), "no room");
	memcpy(w->container + at, bytes, size);
	w->end += size;
	return at;
}

static void begin_chunk(struct writer *w, int number, uint8_t cls)
{
	w->end = round_up(w->end, PAGE);
	w->chunk[number] = (mfs_chunk){.offset = w->end, .cls = cls};
}

static void end_chunk(struct writer *w, int number)
{
	mfs_chunk *c = &w->chunk[number];

	c->stored_size = (uint32_t)(w->end - c->offset);
	mfs_chunk_encode(c, w->chunks + number * sizeof(struct mfs_disk_chunk));
}

static void build_tables(struct writer *w)
{
	mfs_root_tensor *t = &w->tensor[TENSOR_WEIGHT];
	uint8_t stored[4096];
	const mfs_coding_rules rules = {.min_gain = 2};
	const mfs_sample sample = {&future,
				   w->source + t->file_offset,
				   BLOCKS,
				   SPAN_BLOCKS,
				   mfs_tensor_spans(t, future.block_bytes),
				   NULL};
	int64_t size = mfs_tables_build(w->encoder, &sample, 0, &rules, stored, sizeof(stored));

	require(size > 0, "tables do not pay");
	w->tables = (mfs_root_tables){put(w, stored, (size_t)size), (uint32_t)size,
				      XXH3_64bits(stored, (size_t)size)};
	t->slot[0].tables = 0;
	require(!mfs_tables_open(&w->open_tables, stored, (size_t)size, future.slot_streams[0], 1),
		"tables do not open");
}

/* Codes span i and stores the frame of one slot. */
static void put_frame(struct writer *w, int tensor, unsigned slot, uint64_t i, int chunk)
{
	static const mfs_coding_rules rules = {.min_gain = 2, .match_level = 0};
	mfs_root_tensor *t = &w->tensor[tensor];
	const mfs_layout *layout = w->layouts[t->layout];
	const mfs_tables *tables[MFS_SLOTS] = {tensor == TENSOR_WEIGHT ? w->open_tables : NULL};
	uint8_t room[MFS_SLOTS][8192], *out[MFS_SLOTS] = {room[0], room[1]};
	uint64_t number = t->slot[slot].first + i;
	mfs_frame_info info[MFS_SLOTS] = {0};
	mfs_frame_place place;
	mfs_span span;

	mfs_tensor_span(t, layout->block_bytes, i, &span);
	require(!mfs_span_encode(w->encoder, layout, span.blocks,
				 w->source + t->file_offset + span.offset, &rules, tables, out,
				 info),
		"a span is not coded");
	place.offset = put(w, out[slot], info[slot].stored);
	place.size = info[slot].stored;
	place.hash = mfs_frame_hash(out[slot], place.size, number);
	/* The base must not lie behind any frame: the chunk's start will do. */
	t->slot[slot].base = w->chunk[chunk].offset;
	mfs_frame_place_encode(&place, t->slot[slot].base,
			       w->frames + number * sizeof(struct mfs_disk_frame));
	w->chunk[chunk].frames++;
	w->chunk[chunk].decoded_size += mfs_slot_bytes(t, layout, slot, span.blocks);
}

static void put_frames(struct writer *w, int tensor, unsigned slot, int chunk)
{
	mfs_root_tensor *t = &w->tensor[tensor];
	uint64_t spans = mfs_tensor_spans(t, w->layouts[t->layout]->block_bytes);

	t->slot[slot].first = w->frame_count;
	for (uint64_t i = spans; i-- > 0;)
		put_frame(w, tensor, slot, i, chunk);
	w->frame_count += spans;
}

static void put_chunks(struct writer *w)
{
	begin_chunk(w, CHUNK_HEAD, MFS_DISK_METADATA);
	put_frames(w, TENSOR_HEAD, 0, CHUNK_HEAD);
	end_chunk(w, CHUNK_HEAD);
	begin_chunk(w, CHUNK_WEIGHTS, MFS_DISK_WEIGHTS);
	build_tables(w);
	put_frames(w, TENSOR_WEIGHT, 0, CHUNK_WEIGHTS);
	w->chunk[CHUNK_WEIGHTS].codec = MFS_CODING_SHARED;
	end_chunk(w, CHUNK_WEIGHTS);
	begin_chunk(w, CHUNK_CONSTANTS, MFS_DISK_CONSTANTS);
	put_frames(w, TENSOR_WEIGHT, 1, CHUNK_CONSTANTS);
	w->chunk[CHUNK_CONSTANTS].codec = MFS_CODING_LITERALS;
	end_chunk(w, CHUNK_CONSTANTS);
}

/* ---- the index ---- */

static uint32_t put_name(struct writer *w, uint32_t *names, const char *name, size_t length)
{
	uint32_t at = *names;

	mfs_root_put_name(&w->root, w->root_bytes, at, name, length);
	*names += (uint32_t)length;
	return at;
}

static void put_layouts(struct writer *w, uint32_t *names)
{
	uint32_t fields = 0;

	for (uint32_t i = 0; i < LAYOUTS; i++) {
		const mfs_layout *layout = w->layouts[i];
		uint32_t name = put_name(w, names, layout->name, layout->name_length);
		uint32_t field_name[MFS_STREAMS_MAX];

		for (uint32_t f = 0; f < layout->field_count; f++)
			field_name[f] =
			    put_name(w, names, layout->field[f].name, layout->field[f].name_length);
		mfs_root_put_layout(&w->root, w->root_bytes, i, layout, name, fields, field_name);
		fields += layout->field_count;
	}
}

static void put_extents(struct writer *w)
{
	uint64_t at = 0;

	for (uint32_t t = 0; t < TENSORS; t++) {
		const mfs_root_extent e = {at, w->tensor[t].size, 0, t, MFS_EXTENT_TENSOR};

		mfs_root_put_extent(&w->root, w->root_bytes, t, &e);
		at += e.length;
	}
	mfs_root_put_extent(
	    &w->root, w->root_bytes, TENSORS,
	    &(mfs_root_extent){.file_offset = at, .length = ZEROS, .kind = MFS_EXTENT_ZEROS});
}

static void put_segments(struct writer *w, const uint64_t offset[2])
{
	uint32_t frames = (uint32_t)w->frame_count * sizeof(struct mfs_disk_frame);
	mfs_root_segment s = {
	    .offset = {offset[0], offset[1]}, .size = frames, .kind = MFS_SEGMENT_FRAMES};

	hash128(w->frames, s.size, s.hash);
	mfs_root_put_segment(&w->root, w->root_bytes, 0, &s);
	for (int copy = 0; copy < 2; copy++)
		s.offset[copy] = offset[copy] + frames;
	s.size = sizeof(w->chunks);
	s.kind = MFS_SEGMENT_CHUNKS;
	hash128(w->chunks, s.size, s.hash);
	mfs_root_put_segment(&w->root, w->root_bytes, 1, &s);
}

static void build_root(struct writer *w, const uint64_t segments[2])
{
	uint32_t names = 0;

	mfs_root_put_header(&w->root, w->root_bytes);
	put_layouts(w, &names);
	mfs_root_put_file(&w->root, w->root_bytes, 0, &w->file,
			  put_name(w, &names, NAME, sizeof(NAME) - 1), 0);
	put_extents(w);
	mfs_root_put_tensor(&w->root, w->root_bytes, TENSOR_HEAD, &w->tensor[TENSOR_HEAD], 0);
	mfs_root_put_tensor(&w->root, w->root_bytes, TENSOR_WEIGHT, &w->tensor[TENSOR_WEIGHT],
			    put_name(w, &names, TENSOR_NAME, sizeof(TENSOR_NAME) - 1));
	for (uint32_t i = 0; i < 3; i++)
		mfs_root_put_dim(&w->root, w->root_bytes, i, w->dims[i]);
	mfs_root_put_tables(&w->root, w->root_bytes, 0, &w->tables);
	put_segments(w, segments);
}

static uint32_t names_bytes(const struct writer *w)
{
	size_t bytes = sizeof(NAME) - 1 + sizeof(TENSOR_NAME) - 1;

	for (int i = 0; i < LAYOUTS; i++) {
		bytes += w->layouts[i]->name_length;
		for (uint32_t f = 0; f < w->layouts[i]->field_count; f++)
			bytes += w->layouts[i]->field[f].name_length;
	}
	return (uint32_t)bytes;
}

/* Both copies of the index behind the chunks, back to back. */
static void put_index(struct writer *w, mfs_superblock *sb)
{
	const uint32_t count[MFS_SECTIONS] = {[MFS_SEC_LAYOUTS] = LAYOUTS,
					      [MFS_SEC_FIELDS] = future.field_count + 1,
					      [MFS_SEC_FILES] = 1,
					      [MFS_SEC_EXTENTS] = TENSORS + 1,
					      [MFS_SEC_TENSORS] = TENSORS,
					      [MFS_SEC_DIMS] = 3,
					      [MFS_SEC_TABLES] = 1,
					      [MFS_SEC_SEGMENTS] = 2,
					      [MFS_SEC_NAMES] = names_bytes(w)};
	uint32_t root = mfs_root_layout(&w->root, count);
	uint32_t frames = (uint32_t)w->frame_count * sizeof(struct mfs_disk_frame);
	uint64_t segments[2];

	require(root && root <= sizeof(w->root_bytes), "the root is too large");
	w->root.generation = sb->generation;
	w->root.frames = w->frame_count;
	w->root.chunks = CHUNKS;
	w->end = round_up(w->end, 8);
	for (int copy = 0; copy < 2; copy++) {
		segments[copy] = w->end;
		put(w, w->frames, frames);
		put(w, w->chunks, sizeof(w->chunks));
	}
	build_root(w, segments);
	for (int copy = 0; copy < 2; copy++) {
		sb->root_offset[copy] = put(w, w->root_bytes, root);
		w->end = round_up(w->end, 8);
	}
	sb->root_size = root;
	hash128(w->root_bytes, root, sb->root_hash);
	hash128(w->file.hash, sizeof(w->file.hash), sb->uuid);
}

static void put_superblocks(struct writer *w, mfs_superblock *sb)
{
	sb->container_size = round_up(w->end + MFS_SB_SIZE, MFS_SB_SEARCH_STEP);
	require(sb->container_size <= ROOM, "no room");
	const uint64_t places[] = {0, MFS_SB_SLOT1_NOR, sb->container_size - MFS_SB_SIZE};

	for (int i = 0; i < 3; i++) {
		sb->own_offset = places[i];
		mfs_superblock_encode(sb, w->container + places[i]);
	}
}

static void write_file(const char *path, const void *bytes, size_t size)
{
	FILE *f = fopen(path, "wb");

	require(f && fwrite(bytes, 1, size, f) == size && !fclose(f), path);
}

int main(int argc, char **argv)
{
	static struct writer w;
	/* An unknown compatible bit: every reader ignores it. */
	mfs_superblock sb = {.version = MFS_FORMAT_VERSION,
			     .profile = 6, /* nor: slot 1 at 4 KiB */
			     .page_size = PAGE,
			     .feature_compat = 0x80000000u,
			     .generation = 7,
			     .frame_size = SPAN_BLOCKS * 23};

	require(argc == 3, "usage: make_future CONTAINER SOURCE");
	require(!mfs_layout_finish(&future), "the layout is not valid");
	w.layouts[LAYOUT_FUTURE] = &future;
	w.layouts[LAYOUT_BYTES] = mfs_layout_bytes();
	w.encoder = mfs_encoder_new(65536);
	require(w.encoder != NULL, "no memory");
	w.end = MFS_SB_SLOT1_NOR + MFS_SB_SIZE;
	make_source(&w);
	describe_file(&w);
	put_chunks(&w);
	put_index(&w, &sb);
	put_superblocks(&w, &sb);
	write_file(argv[1], w.container, sb.container_size);
	write_file(argv[2], w.source, w.source_bytes);
	mfs_tables_free(w.open_tables);
	mfs_encoder_free(w.encoder);
	free(w.source);
	return 0;
}
