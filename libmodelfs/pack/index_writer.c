#include "index_writer.h"

#include <stdlib.h>
#include <string.h>

#include "../../format/check.h"
#include "carried.h"
#include "container.h"
#include "mfs_xxhash.h"
#include "problem.h"
#include "root_builder.h"

/* ---- sizes ---- */

static uint32_t segments_of(uint64_t records, uint64_t in_segment)
{
	return (uint32_t)div_up(records, in_segment);
}

static uint32_t segment_count(const mfs_plan *plan, uint64_t chunks)
{
	return segments_of(plan->frames, MFS_SEGMENT_FRAME_COUNT) +
	       segments_of(chunks, MFS_SEGMENT_CHUNK_COUNT);
}

static uint32_t segment_bytes(uint64_t records, uint64_t in_segment, uint32_t i, size_t record)
{
	uint64_t left = records - i * in_segment;

	return (uint32_t)((left < in_segment ? left : in_segment) * record);
}

/* Adds the sizes of the segments of a kind that are written: those that are not
 * carried over. */
static uint64_t *add_segments(const mfs_plan *plan, unsigned kind, uint64_t records, uint64_t *next)
{
	bool frames = kind == MFS_SEGMENT_FRAMES;
	uint64_t in_segment = frames ? MFS_SEGMENT_FRAME_COUNT : MFS_SEGMENT_CHUNK_COUNT;
	size_t record = frames ? sizeof(struct mfs_disk_frame) : sizeof(struct mfs_disk_chunk);

	for (uint32_t i = mfs_carried_segments(plan, kind, records);
	     i < segments_of(records, in_segment); i++)
		*next++ = segment_bytes(records, in_segment, i, record);
	return next;
}

/* Bytes of the root, which come later, and behind it of each segment that is written;
 * the caller frees *size. */
static int piece_sizes(const mfs_plan *plan, uint64_t chunks, uint64_t **size, uint32_t *pieces,
		       mfs_problem *why)
{
	uint64_t *next = calloc(1 + (size_t)segment_count(plan, chunks), sizeof(**size));

	*size = next;
	if (!next)
		return mfs_problem_no_memory(why);
	next = add_segments(plan, MFS_SEGMENT_FRAMES, plan->frames, next + 1);
	next = add_segments(plan, MFS_SEGMENT_CHUNKS, chunks, next);
	*pieces = (uint32_t)(next - *size);
	return 0;
}

static int forecast_root(const mfs_plan *plan, uint64_t *room, mfs_problem *why)
{
	mfs_root_builder root;
	int error = mfs_root_builder_open(&root, plan, plan->chunks_max,
					  segment_count(plan, plan->chunks_max), why);

	if (!error) {
		mfs_root_builder_put_plan(&root);
		error = mfs_root_builder_forecast(&root, room, why);
	}
	mfs_root_builder_close(&root);
	return error;
}

int mfs_index_place(mfs_placement *out, const mfs_plan *plan, mfs_problem *why)
{
	uint64_t slot1 = plan->profile == MFS_PROFILE_NOR ? MFS_SB_SLOT1_NOR : MFS_SB_SLOT1;
	uint64_t room, *size;
	uint32_t pieces;
	int error = forecast_root(plan, &room, why);

	if (!error)
		error = piece_sizes(plan, plan->chunks_max, &size, &pieces, why);
	if (error)
		return error;
	size[0] = room;
	if (plan->carried)
		error = mfs_placement_behind(
		    out, slot1, plan->carried->container->sb.container_size, size, pieces);
	else
		error = mfs_placement_make(out, slot1, plan->page_bytes, size, pieces);
	free(size);
	return error ? mfs_problem_no_memory(why) : 0;
}

/* ---- the index of what was written ---- */

struct builder {
	const mfs_plan *plan;
	const mfs_chunk_writer *chunks;
	mfs_root_builder root;
	/* By kind: all of them, and those of them that are carried over. */
	uint32_t segments[MFS_SEGMENT_KINDS], kept[MFS_SEGMENT_KINDS];
	/* Of the root, then of each segment that is written. */
	uint32_t pieces;
	uint64_t *size;
	uint64_t *offset[2]; /* by copy */
	uint64_t end;
};

/* The bytes of segment i of a kind, one that is written: a part of the frame table
 * or of the chunk table. */
static const uint8_t *segment_at(const struct builder *b, unsigned kind, uint32_t i)
{
	const mfs_chunk_writer *w = b->chunks;
	uint64_t offset = (uint64_t)i * MFS_SEGMENT_MAX;

	if (kind == MFS_SEGMENT_FRAMES)
		return w->frames + (offset - w->first_frame * sizeof(struct mfs_disk_frame));
	return w->chunks + (offset - w->first_chunk * sizeof(struct mfs_disk_chunk));
}

/* The bytes of a piece that is no root. */
static const uint8_t *piece_at(const struct builder *b, uint32_t piece)
{
	uint32_t frames = b->segments[MFS_SEGMENT_FRAMES] - b->kept[MFS_SEGMENT_FRAMES];
	uint32_t i = piece - 1;

	if (i < frames)
		return segment_at(b, MFS_SEGMENT_FRAMES, b->kept[MFS_SEGMENT_FRAMES] + i);
	return segment_at(b, MFS_SEGMENT_CHUNKS, b->kept[MFS_SEGMENT_CHUNKS] + i - frames);
}

static void hash128(const void *bytes, size_t length, uint8_t out[16])
{
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, length));
	memcpy(out, canonical.digest, 16);
}

static mfs_root_segment new_segment(const struct builder *b, unsigned kind, uint32_t piece)
{
	mfs_root_segment s = {.offset = {b->offset[0][piece], b->offset[1][piece]},
			      .size = (uint32_t)b->size[piece],
			      .kind = (uint16_t)kind};

	hash128(piece_at(b, piece), s.size, s.hash);
	return s;
}

static void put_segments(struct builder *b)
{
	uint32_t number = 0, piece = 1;

	for (unsigned kind = 0; kind < MFS_SEGMENT_KINDS; kind++)
		for (uint32_t i = 0; i < b->segments[kind]; i++) {
			mfs_root_segment s;

			if (i < b->kept[kind])
				mfs_carried_segment(b->plan, kind, i, &s);
			else
				s = new_segment(b, kind, piece++);
			mfs_root_put_segment(&b->root.root, b->root.bytes, number++, &s);
		}
}

/* Sizes, and the places of copy 1. */
static int builder_open(struct builder *b, const mfs_placement *placement, mfs_problem *why)
{
	uint64_t chunks = b->chunks->chunk_count;
	int error =
	    mfs_root_builder_open(&b->root, b->plan, chunks, segment_count(b->plan, chunks), why);

	if (!error)
		error = piece_sizes(b->plan, chunks, &b->size, &b->pieces, why);
	if (error)
		return error;
	b->segments[MFS_SEGMENT_FRAMES] = segments_of(b->plan->frames, MFS_SEGMENT_FRAME_COUNT);
	b->segments[MFS_SEGMENT_CHUNKS] = segments_of(chunks, MFS_SEGMENT_CHUNK_COUNT);
	b->kept[MFS_SEGMENT_FRAMES] =
	    mfs_carried_segments(b->plan, MFS_SEGMENT_FRAMES, b->plan->frames);
	b->kept[MFS_SEGMENT_CHUNKS] = mfs_carried_segments(b->plan, MFS_SEGMENT_CHUNKS, chunks);
	for (int copy = 0; copy < 2; copy++) {
		b->offset[copy] = calloc(b->pieces, sizeof(uint64_t));
		if (!b->offset[copy])
			return mfs_problem_no_memory(why);
	}
	memcpy(b->offset[0], placement->piece, b->pieces * sizeof(uint64_t));
	b->end = b->chunks->end;
	return 0;
}

static void builder_close(struct builder *b)
{
	mfs_root_builder_close(&b->root);
	free(b->size);
	free(b->offset[0]);
	free(b->offset[1]);
}

/* Puts a piece of a copy behind everything else. */
static void put_behind(struct builder *b, int copy, uint32_t piece)
{
	b->offset[copy][piece] = round_up(b->end, 8);
	b->end = b->offset[copy][piece] + b->size[piece];
}

/* Copy 2: a root in columns comes last, as it is as large as what it tells of the
 * places of the others makes it. Where its copy 1 is larger than was foreseen, that goes
 * behind it. */
static int build_root(struct builder *b, const mfs_placement *placement, mfs_problem *why)
{
	bool plain = b->root.root.size <= MFS_ROOT_PLAIN_MAX;
	int error;

	b->size[0] = b->root.root.size;
	if (plain)
		put_behind(b, 1, 0);
	for (uint32_t i = 1; i < b->pieces; i++)
		put_behind(b, 1, i);
	mfs_root_builder_put_plan(&b->root);
	for (uint32_t i = 0; i < b->plan->tables_count; i++)
		mfs_root_put_tables(&b->root.root, b->root.bytes, i, &b->chunks->tables[i]);
	put_segments(b);
	error = mfs_root_builder_store(&b->root, why);
	b->size[0] = b->root.stored_size;
	if (!plain)
		put_behind(b, 1, 0);
	if (b->size[0] > placement->root_room)
		put_behind(b, 0, 0);
	return error;
}

static const uint8_t *root_bytes(const struct builder *b)
{
	return b->root.stored ? b->root.stored : b->root.bytes;
}

static int write_copy(const struct builder *b, int copy, mfs_output *output, mfs_problem *why)
{
	const uint64_t *offset = b->offset[copy];
	int error = mfs_output_write(output, offset[0], root_bytes(b), b->size[0], why);

	for (uint32_t i = 1; i < b->pieces && !error; i++)
		error = mfs_output_write(output, offset[i], piece_at(b, i), b->size[i], why);
	return error;
}

/* ---- the superblock ---- */

/* The same files give the same UUID, whenever and wherever they are packed. */
static int make_uuid(const mfs_plan *plan, uint8_t out[16])
{
	XXH3_state_t *state = XXH3_createState();
	XXH128_canonical_t canonical;

	if (!state)
		return MFS_E_MEMORY;
	XXH3_128bits_reset(state);
	for (uint32_t i = 0; i < plan->file_count; i++) {
		const mfs_root_file *file = &plan->files[i].record;

		XXH3_128bits_update(state, file->name, file->name_length + 1u);
		XXH3_128bits_update(state, file->hash, sizeof(file->hash));
		/* A view's bytes follow from its note and the files it comes from. */
		if (file->note_length)
			XXH3_128bits_update(state, file->note, file->note_length);
	}
	XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state));
	memcpy(out, canonical.digest, 16);
	XXH3_freeState(state);
	return 0;
}

/* What a reader has to know to read the plan's tensors. */
static uint32_t features_of(const mfs_plan *plan)
{
	uint32_t features =
	    plan->carried ? plan->carried->container->sb.feature_incompat & MFS_INCOMPAT_MARKED : 0;

	for (uint32_t i = 0; i < plan->tensor_count; i++) {
		const mfs_plan_tensor *t = &plan->tensors[i];

		for (unsigned s = 0; s < MFS_SLOTS; s++)
			if (t->tables[s] && mfs_tables_have_marks(t->tables[s], t->tables_bytes[s],
								  t->layout->slot_streams[s]))
				features |= MFS_INCOMPAT_MARKED;
	}
	return features;
}

static int make_superblock(const struct builder *b, mfs_superblock *sb)
{
	/* Readers look for the tail in steps of MFS_SB_SEARCH_STEP. */
	uint32_t unit =
	    b->plan->page_bytes > MFS_SB_SEARCH_STEP ? b->plan->page_bytes : MFS_SB_SEARCH_STEP;

	*sb = (mfs_superblock){.version = MFS_FORMAT_VERSION,
			       .profile = (uint16_t)b->plan->profile,
			       .page_size = b->plan->page_bytes,
			       .feature_incompat = features_of(b->plan) |
						   (b->root.stored ? MFS_INCOMPAT_COLUMNS : 0),
			       .generation = b->root.root.generation,
			       .container_size = round_up(b->end + MFS_SB_SIZE, unit),
			       .root_offset = {b->offset[0][0], b->offset[1][0]},
			       .root_size = b->root.stored_size,
			       .frame_size = b->plan->frame_bytes};
	hash128(root_bytes(b), b->root.stored_size, sb->root_hash);
	/* A container keeps its name. */
	if (b->plan->carried) {
		memcpy(sb->uuid, b->plan->carried->container->sb.uuid, sizeof(sb->uuid));
		return 0;
	}
	return make_uuid(b->plan, sb->uuid);
}

/* A new generation goes into the slot that does not have the one before, so that a
 * superblock torn by a power cut is never the only one. */
static void choose_slots(mfs_index *index, const mfs_plan *plan, uint64_t slot1)
{
	bool in_slot1 = plan->carried && plan->carried->container->sb_copy == 1;

	index->slot[0] = in_slot1 ? 0 : slot1;
	index->slot[1] = in_slot1 ? slot1 : 0;
}

int mfs_index_write(mfs_index *out, const mfs_plan *plan, const mfs_placement *placement,
		    const mfs_chunk_writer *chunks, mfs_output *output, mfs_problem *why)
{
	struct builder b = {.plan = plan, .chunks = chunks};
	int error = builder_open(&b, placement, why);

	if (!error)
		error = build_root(&b, placement, why);
	if (!error) {
		choose_slots(out, plan, placement->slot1);
		out->index_bytes = 0;
		for (uint32_t i = 0; i < b.pieces; i++)
			out->index_bytes += 2 * b.size[i];
		if (make_superblock(&b, &out->superblock) < 0)
			error = mfs_problem_no_memory(why);
	}
	for (int copy = 0; copy < 2 && !error && output; copy++)
		error = write_copy(&b, copy, output, why);
	builder_close(&b);
	return error;
}

static int write_superblock(const mfs_index *index, uint64_t offset, mfs_output *output,
			    mfs_problem *why)
{
	mfs_superblock sb = index->superblock;
	uint8_t bytes[MFS_SB_SIZE];

	sb.own_offset = offset;
	mfs_superblock_encode(&sb, bytes);
	return mfs_output_write(output, offset, bytes, sizeof(bytes), why);
}

int mfs_index_seal(const mfs_index *index, mfs_output *output, mfs_problem *why)
{
	uint64_t tail = index->superblock.container_size - MFS_SB_SIZE;
	int error = mfs_output_sync(output, why);

	if (!error)
		output->sealing = true;
	if (!error)
		error = write_superblock(index, tail, output, why);
	if (!error)
		error = write_superblock(index, index->slot[0], output, why);
	if (!error)
		error = mfs_output_sync(output, why);
	if (!error)
		error = write_superblock(index, index->slot[1], output, why);
	if (!error)
		error = mfs_output_sync(output, why);
	return error;
}
