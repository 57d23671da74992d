#include "index_writer.h"

#include <stdlib.h>
#include <string.h>

#include "../format/check.h"
#include "carried.h"
#include "container.h"
#include "mfs_xxhash.h"
#include "problem.h"

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

/* Records of every section, and bytes of the names. */
static int count_sections(const mfs_plan *plan, uint64_t chunks, uint32_t count[MFS_SECTIONS])
{
	uint64_t names = 0, fields = 0, dims = 0;

	for (uint32_t i = 0; i < plan->layout_count; i++) {
		const mfs_layout *layout = plan->layouts[i];

		names += layout->name_length;
		fields += layout->field_count;
		for (uint32_t f = 0; f < layout->field_count; f++)
			names += layout->field[f].name_length;
	}
	for (uint32_t i = 0; i < plan->file_count; i++)
		names += plan->files[i].record.name_length + plan->files[i].record.note_length;
	for (uint32_t i = 0; i < plan->tensor_count; i++) {
		const mfs_root_tensor *t = &plan->tensors[i].record;

		if (t->flags & MFS_TENSOR_DERIVED)
			continue; /* it has those of its base */
		names += t->name_length;
		dims += t->dim_count;
	}
	if (names > MFS_ROOT_MAX || dims > MFS_ROOT_MAX)
		return MFS_E_LIMIT;
	count[MFS_SEC_LAYOUTS] = plan->layout_count;
	count[MFS_SEC_FIELDS] = (uint32_t)fields;
	count[MFS_SEC_FILES] = plan->file_count;
	count[MFS_SEC_EXTENTS] = plan->extent_count;
	count[MFS_SEC_TENSORS] = plan->tensor_count;
	count[MFS_SEC_DIMS] = (uint32_t)dims;
	count[MFS_SEC_TERMS] = plan->term_count;
	count[MFS_SEC_TABLES] = plan->tables_count;
	count[MFS_SEC_SEGMENTS] = segment_count(plan, chunks);
	count[MFS_SEC_NAMES] = (uint32_t)names;
	return 0;
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

/* Bytes of the root and, behind it, of each segment that is written; the caller
 * frees *size. */
static int piece_sizes(const mfs_plan *plan, uint64_t chunks, uint64_t **size, uint32_t *pieces,
		       mfs_problem *why)
{
	uint32_t count[MFS_SECTIONS];
	mfs_root root;
	uint64_t *next;

	if (count_sections(plan, chunks, count) < 0 || !mfs_root_layout(&root, count))
		return mfs_problem_set(why, MFS_E_LIMIT, UINT64_MAX,
				       "the index root would be over its limit of 16 MiB: too many "
				       "tensors; pack fewer files, or pack them as opaque bytes");
	next = *size = calloc(1 + (size_t)count[MFS_SEC_SEGMENTS], sizeof(**size));
	if (!next)
		return mfs_problem_no_memory(why);
	*next++ = root.size;
	next = add_segments(plan, MFS_SEGMENT_FRAMES, plan->frames, next);
	next = add_segments(plan, MFS_SEGMENT_CHUNKS, chunks, next);
	*pieces = (uint32_t)(next - *size);
	return 0;
}

int mfs_index_place(mfs_placement *out, const mfs_plan *plan, mfs_problem *why)
{
	uint64_t slot1 = plan->profile == MFS_PROFILE_NOR ? MFS_SB_SLOT1_NOR : MFS_SB_SLOT1;
	uint32_t pieces;
	uint64_t *size;
	int error = piece_sizes(plan, plan->chunks_max, &size, &pieces, why);

	if (error)
		return error;
	if (plan->carried)
		error = mfs_placement_behind(
		    out, slot1, plan->carried->container->sb.container_size, size, pieces);
	else
		error = mfs_placement_make(out, slot1, plan->page_bytes, size, pieces);
	free(size);
	return error ? mfs_problem_no_memory(why) : 0;
}

/* ---- building the root ---- */

struct builder {
	const mfs_plan *plan;
	const mfs_chunk_writer *chunks;
	mfs_root root;
	uint8_t *bytes;
	uint32_t names, fields, dims; /* used so far */
	struct {
		uint32_t name, first_dim;
	} * own; /* of each tensor that is not derived */
	/* By kind: all of them, and those of them that are carried over. */
	uint32_t segments[MFS_SEGMENT_KINDS], kept[MFS_SEGMENT_KINDS];
	/* Of the root, then of each segment that is written. */
	uint32_t pieces;
	uint64_t *size;
	const uint64_t *offset1;
	uint64_t *offset2;
};

static uint32_t put_name(struct builder *b, const char *name, size_t length)
{
	uint32_t offset = b->names;

	mfs_root_put_name(&b->root, b->bytes, offset, name, length);
	b->names += (uint32_t)length;
	return offset;
}

static void put_layouts(struct builder *b)
{
	for (uint32_t i = 0; i < b->plan->layout_count; i++) {
		const mfs_layout *layout = b->plan->layouts[i];
		uint32_t name = put_name(b, layout->name, layout->name_length);
		uint32_t field_name[MFS_STREAMS_MAX];

		for (uint32_t f = 0; f < layout->field_count; f++)
			field_name[f] =
			    put_name(b, layout->field[f].name, layout->field[f].name_length);
		mfs_root_put_layout(&b->root, b->bytes, i, layout, name, b->fields, field_name);
		b->fields += layout->field_count;
	}
}

static void put_files(struct builder *b)
{
	for (uint32_t i = 0; i < b->plan->file_count; i++) {
		const mfs_root_file *file = &b->plan->files[i].record;

		uint32_t name = put_name(b, file->name, file->name_length);
		uint32_t note = file->note_length ? put_name(b, file->note, file->note_length) : 0;

		mfs_root_put_file(&b->root, b->bytes, i, file, name, note);
	}
	for (uint32_t i = 0; i < b->plan->extent_count; i++)
		mfs_root_put_extent(&b->root, b->bytes, i, &b->plan->extents[i]);
}

/* Name and dimensions, which those that are derived from the tensor have too. */
static void put_own(struct builder *b, uint32_t i)
{
	const mfs_plan_tensor *t = &b->plan->tensors[i];
	const mfs_root_tensor *r = &t->record;

	b->own[i].name = r->name_length ? put_name(b, r->name, r->name_length) : 0;
	b->own[i].first_dim = r->dim_count ? b->dims : 0;
	for (uint32_t d = 0; d < r->dim_count; d++)
		mfs_root_put_dim(&b->root, b->bytes, b->dims++, t->dims[d]);
}

static void put_tensor(struct builder *b, uint32_t i)
{
	const mfs_plan_tensor *t = &b->plan->tensors[i];
	uint32_t own = t->record.flags & MFS_TENSOR_DERIVED ? t->record.base : i;
	mfs_root_tensor record = t->record;

	if (t->twin != MFS_NO_TENSOR) {
		t = &b->plan->tensors[t->twin];
		record.cls = t->record.cls;
		record.flags = t->record.flags;
		record.base = t->record.base;
		memcpy(record.slot, t->record.slot, sizeof(record.slot));
	}
	for (unsigned s = 0; s < MFS_SLOTS && t->leader != MFS_NO_TENSOR; s++)
		record.slot[s].base = b->plan->tensors[t->leader].record.slot[s].base;
	record.first_dim = b->own[own].first_dim;
	mfs_root_put_tensor(&b->root, b->bytes, i, &record, b->own[own].name);
}

static void put_tensors(struct builder *b)
{
	for (uint32_t i = 0; i < b->plan->tensor_count; i++)
		if (!(b->plan->tensors[i].record.flags & MFS_TENSOR_DERIVED))
			put_own(b, i);
	for (uint32_t i = 0; i < b->plan->tensor_count; i++)
		put_tensor(b, i);
	for (uint32_t i = 0; i < b->plan->term_count; i++)
		mfs_root_put_term(&b->root, b->bytes, i, &b->plan->terms[i]);
	for (uint32_t i = 0; i < b->plan->tables_count; i++)
		mfs_root_put_tables(&b->root, b->bytes, i, &b->chunks->tables[i]);
}

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
	mfs_root_segment s = {.offset = {b->offset1[piece], b->offset2[piece]},
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
			mfs_root_put_segment(&b->root, b->bytes, number++, &s);
		}
}

/* Sizes and places of both copies; the memory of the root. */
static int builder_open(struct builder *b, const mfs_placement *placement, mfs_problem *why)
{
	uint32_t count[MFS_SECTIONS];
	uint64_t position = b->chunks->end;
	int error = piece_sizes(b->plan, b->chunks->chunk_count, &b->size, &b->pieces, why);

	if (error)
		return error;
	b->segments[MFS_SEGMENT_FRAMES] = segments_of(b->plan->frames, MFS_SEGMENT_FRAME_COUNT);
	b->segments[MFS_SEGMENT_CHUNKS] =
	    segments_of(b->chunks->chunk_count, MFS_SEGMENT_CHUNK_COUNT);
	b->kept[MFS_SEGMENT_FRAMES] =
	    mfs_carried_segments(b->plan, MFS_SEGMENT_FRAMES, b->plan->frames);
	b->kept[MFS_SEGMENT_CHUNKS] =
	    mfs_carried_segments(b->plan, MFS_SEGMENT_CHUNKS, b->chunks->chunk_count);
	b->offset1 = placement->piece;
	b->offset2 = calloc(b->pieces, sizeof(*b->offset2));
	b->bytes = calloc(1, b->size[0]);
	b->own = calloc(b->plan->tensor_count + 1u, sizeof(*b->own));
	if (!b->offset2 || !b->bytes || !b->own)
		return mfs_problem_no_memory(why);
	for (uint32_t i = 0; i < b->pieces; i++) {
		b->offset2[i] = round_up(position, 8);
		position = b->offset2[i] + b->size[i];
	}
	count_sections(b->plan, b->chunks->chunk_count, count);
	mfs_root_layout(&b->root, count);
	b->root.generation = b->plan->carried ? b->plan->carried->container->sb.generation + 1 : 1;
	b->root.frames = b->plan->frames;
	b->root.chunks = b->chunks->chunk_count;
	return 0;
}

static void builder_close(struct builder *b)
{
	free(b->size);
	free(b->offset2);
	free(b->bytes);
	free(b->own);
}

static void build_root(struct builder *b)
{
	mfs_root_put_header(&b->root, b->bytes);
	put_layouts(b);
	put_files(b);
	put_tensors(b);
	put_segments(b);
}

static int write_pieces(const struct builder *b, const uint64_t offset[], mfs_output *output,
			mfs_problem *why)
{
	int error = mfs_output_write(output, offset[0], b->bytes, b->size[0], why);

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

static int make_superblock(const struct builder *b, mfs_superblock *sb)
{
	uint32_t last = b->pieces - 1;
	uint64_t end = b->offset2[last] + b->size[last] + MFS_SB_SIZE;
	/* Readers look for the tail in steps of MFS_SB_SEARCH_STEP. */
	uint32_t unit =
	    b->plan->page_bytes > MFS_SB_SEARCH_STEP ? b->plan->page_bytes : MFS_SB_SEARCH_STEP;

	*sb = (mfs_superblock){.version = MFS_FORMAT_VERSION,
			       .profile = (uint16_t)b->plan->profile,
			       .page_size = b->plan->page_bytes,
			       .generation = b->root.generation,
			       .container_size = round_up(end, unit),
			       .root_offset = {b->offset1[0], b->offset2[0]},
			       .root_size = b->root.size,
			       .frame_size = b->plan->frame_bytes};
	hash128(b->bytes, b->root.size, sb->root_hash);
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

	if (!error) {
		build_root(&b);
		choose_slots(out, plan, placement->slot1);
		out->index_bytes = 0;
		for (uint32_t i = 0; i < b.pieces; i++)
			out->index_bytes += 2 * b.size[i];
		if (make_superblock(&b, &out->superblock) < 0)
			error = mfs_problem_no_memory(why);
	}
	if (!error && output)
		error = write_pieces(&b, b.offset1, output, why);
	if (!error && output)
		error = write_pieces(&b, b.offset2, output, why);
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
