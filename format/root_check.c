/* The rules that a root must keep, checked once when it is opened. */
#include <string.h>

#include "check.h"
#include "modelfs_error.h"
#include "root_records.h"

static bool name_range_ok(const mfs_root *root, uint32_t offset, uint32_t length)
{
	return range_ok(offset, length, root->count[MFS_SEC_NAMES]);
}

const char *mfs_root_read_sections(mfs_root *root)
{
	const struct mfs_disk_root *d = (const void *)root->bytes;
	uint64_t end = sizeof(*d);

	for (int s = 0; s < MFS_SECTIONS; s++) {
		uint32_t offset = load_le32(&d->section[s].offset);
		uint32_t count = load_le32(&d->section[s].count);

		if (offset % 8 || offset < end || offset > root->size ||
		    count > (root->size - offset) / mfs_root_record_size[s])
			return "a section of the root lies outside of it";
		root->offset[s] = offset;
		root->count[s] = count;
		end = offset + (uint64_t)count * mfs_root_record_size[s];
	}
	return NULL;
}

static const char *check_header(mfs_root *root)
{
	const struct mfs_disk_root *d = (const void *)root->bytes;

	if (root->size < sizeof(*d) || load_le32(&d->magic) != MFS_ROOT_MAGIC)
		return "the root has no magic";
	if (load_le32(&d->reserved))
		return "a reserved field of the root is set";
	if (load_le64(&d->generation) != root->generation)
		return "the root is of another generation";
	root->frames = load_le64(&d->frames);
	root->chunks = load_le64(&d->chunks);
	return mfs_root_read_sections(root);
}

static const char *check_layout(const mfs_root *root, uint32_t i)
{
	const struct mfs_disk_layout *d = record(root, MFS_SEC_LAYOUTS, i);
	uint32_t first = load_le32(&d->first_field);
	uint32_t count = load_le16(&d->field_count);
	mfs_layout layout;

	if (!name_range_ok(root, load_le32(&d->name_offset), load_le16(&d->name_length)) ||
	    !mfs_utf8_ok(name_at(root, load_le32(&d->name_offset)), load_le16(&d->name_length)))
		return "a layout's name is not valid";
	if (d->reserved)
		return "a reserved field of a layout is set";
	if (!count || count > MFS_STREAMS_MAX ||
	    !range_ok(first, count, root->count[MFS_SEC_FIELDS]))
		return "a layout's fields lie outside of the root";
	for (uint32_t f = first; f < first + count; f++) {
		const struct mfs_disk_field *field = record(root, MFS_SEC_FIELDS, f);

		if (!name_range_ok(root, load_le32(&field->name_offset),
				   load_le16(&field->name_length)))
			return "a field of a layout is not valid";
	}
	mfs_root_get_layout(root, i, &layout);
	if (mfs_layout_finish(&layout) < 0)
		return "a layout's fields do not make up its block";
	return NULL;
}

static const char *check_frames(const mfs_root *root, const mfs_root_frames *frames, int used,
				uint64_t spans)
{
	if (!used)
		return frames->first || frames->base || frames->tables != MFS_NO_TABLES
			   ? "a tensor has frames of a class that its layout lacks"
			   : NULL;
	if (!range_ok(frames->first, spans, root->frames))
		return "a tensor's frames lie outside of the frame table";
	if (frames->base > root->container_size)
		return "a tensor's frames lie outside of the container";
	if (frames->tables != MFS_NO_TABLES && frames->tables >= root->count[MFS_SEC_TABLES])
		return "a tensor's tables are not in the root";
	return NULL;
}

static bool flags_ok(const mfs_root_tensor *t)
{
	bool computed = t->flags & (MFS_TENSOR_DELTA | MFS_TENSOR_DERIVED);

	switch (t->flags) {
	case 0:
	case MFS_TENSOR_LITERAL:
	case MFS_TENSOR_DELTA:
	case MFS_TENSOR_DELTA | MFS_TENSOR_INTEGER:
	case MFS_TENSOR_DERIVED:
		break;
	default:
		return false;
	}
	if (computed && t->cls != MFS_DISK_WEIGHTS)
		return false;
	return computed == (t->base != MFS_NO_TENSOR);
}

static const char *check_tensor(const mfs_root *root, uint32_t i)
{
	const struct mfs_disk_tensor *d = record(root, MFS_SEC_TENSORS, i);
	mfs_root_tensor t;
	mfs_root_file f;
	mfs_layout layout;
	uint64_t blocks, spans;
	const char *bad;

	if (!name_range_ok(root, load_le32(&d->name_offset), load_le16(&d->name_length)))
		return "a tensor's name lies outside of the root";
	mfs_root_get_tensor(root, i, &t);
	if (!mfs_utf8_ok(t.name, t.name_length) || !flags_ok(&t) || t.cls >= MFS_DISK_CLASSES ||
	    t.cls == MFS_DISK_CONSTANTS)
		return "a tensor's record is not valid";
	if (t.layout >= root->count[MFS_SEC_LAYOUTS] || t.file >= root->count[MFS_SEC_FILES] ||
	    t.dim_count > MFS_DIMS_MAX ||
	    !range_ok(t.first_dim, t.dim_count, root->count[MFS_SEC_DIMS]))
		return "a tensor refers to what is not in the root";
	mfs_root_get_layout(root, t.layout, &layout);
	if (!t.size || t.size > MFS_FILE_MAX || t.size % layout.block_bytes)
		return "a tensor's size is not a number of blocks";
	mfs_root_get_file(root, t.file, &f);
	if (!range_ok(t.file_offset, t.size, f.size))
		return "a tensor lies outside of its file";
	blocks = t.size / layout.block_bytes;
	if (!t.slice_blocks || blocks % t.slice_blocks || !t.span_blocks ||
	    t.span_blocks > t.slice_blocks || t.span_blocks > MFS_FRAME_MAX / layout.block_bytes)
		return "a tensor's spans are not valid";
	if (t.cls == MFS_DISK_PLAIN && t.slot[0].tables != MFS_NO_TABLES)
		return "a tensor of class plain has tables";
	spans = mfs_tensor_spans(&t, layout.block_bytes);
	for (unsigned s = 0; s < MFS_SLOTS; s++) {
		bad = check_frames(root, &t.slot[s], mfs_tensor_has_slot(&t, &layout, s), spans);
		if (bad || load_le32(&d->slot[s].reserved))
			return bad ? bad : "a reserved field of a tensor is set";
	}
	return NULL;
}

/* Elements of a tensor; 0 if its layout does not say. */
static uint64_t weights_of(const mfs_root *root, const mfs_root_tensor *t)
{
	const struct mfs_disk_layout *d = record(root, MFS_SEC_LAYOUTS, t->layout);
	uint64_t weights;

	if (__builtin_mul_overflow(t->size / load_le32(&d->block_bytes),
				   (uint64_t)load_le32(&d->block_weights), &weights))
		return 0;
	return weights;
}

static bool same_cut(const mfs_root_tensor *a, const mfs_root_tensor *b)
{
	return a->layout == b->layout && a->size == b->size && a->slice_blocks == b->slice_blocks &&
	       a->span_blocks == b->span_blocks;
}

/* Weights of a block of the base. Two codes of NF4 lie in one byte. */
static uint64_t base_block_weights(const mfs_root *root, uint32_t derived,
				   const mfs_root_tensor *base)
{
	const struct mfs_disk_layout *d = record(root, MFS_SEC_LAYOUTS, base->layout);
	mfs_root_term term;
	uint32_t first;

	if (!mfs_root_terms(root, derived, &first))
		return load_le32(&d->block_weights);
	mfs_root_get_term(root, first, &term);
	return term.kind == MFS_TERM_NF4 ? 2 * (uint64_t)load_le32(&d->block_bytes)
					 : load_le32(&d->block_weights);
}

/* Whether the base has the weights of derived tensor i, in spans and slices of as
 * many, so that span k comes from span k alone. The last block of the base may
 * have some that stand for nothing. Sizes are below 2^62, blocks have less than
 * 2^32 weights: nothing wraps where the layouts are not lying. */
static bool base_fits(const mfs_root *root, uint32_t i, const mfs_root_tensor *t,
		      const mfs_root_tensor *base)
{
	const struct mfs_disk_layout *own = record(root, MFS_SEC_LAYOUTS, t->layout);
	const struct mfs_disk_layout *from = record(root, MFS_SEC_LAYOUTS, base->layout);
	uint64_t weights = load_le32(&own->block_weights);
	uint64_t base_weights = base_block_weights(root, i, base);
	uint64_t have, want, span, slice;

	if (!weights || weights > MFS_BLOCK_MAX || !base_weights ||
	    base_weights > 2 * MFS_BLOCK_MAX)
		return false;
	if (__builtin_mul_overflow(t->size / load_le32(&own->block_bytes), weights, &want) ||
	    __builtin_mul_overflow(base->size / load_le32(&from->block_bytes), base_weights, &have))
		return false;
	slice = t->slice_blocks * weights;
	span = base->span_blocks * base_weights;
	if (want > have || have - want >= base_weights)
		return false;
	if (t->slice_blocks != want / weights && slice != base->slice_blocks * base_weights)
		return false;
	if (have / base_weights / base->slice_blocks != want / weights / t->slice_blocks)
		return false;
	return t->span_blocks * weights == (span < slice ? span : slice);
}

/* A delta has a stored base; a derived tensor may also have a delta as base. So
 * two steps lead from any tensor to stored ones. */
static const char *check_base(const mfs_root *root, uint32_t i)
{
	mfs_root_tensor t, base;

	mfs_root_get_tensor(root, i, &t);
	if (t.base == MFS_NO_TENSOR)
		return NULL;
	if (t.base >= root->count[MFS_SEC_TENSORS])
		return "a tensor's base is not in the root";
	mfs_root_get_tensor(root, t.base, &base);
	if (base.flags & (MFS_TENSOR_LITERAL | MFS_TENSOR_DERIVED))
		return "a tensor's base is not a stored tensor";
	if (t.flags & MFS_TENSOR_DELTA)
		return base.flags || !same_cut(&t, &base)
			   ? "a delta does not fit the tensor that it counts from"
			   : NULL;
	return base_fits(root, i, &t, &base) ? NULL : "a derived tensor does not fit its base";
}

static bool operand_ok(const mfs_root *root, uint32_t number, bool optional)
{
	mfs_root_tensor t;

	if (number == MFS_NO_TENSOR)
		return optional;
	if (number >= root->count[MFS_SEC_TENSORS])
		return false;
	mfs_root_get_tensor(root, number, &t);
	return t.flags == 0;
}

static uint64_t operand_weights(const mfs_root *root, uint32_t number)
{
	mfs_root_tensor t;

	mfs_root_get_tensor(root, number, &t);
	return weights_of(root, &t);
}

/* Readers load whole operands. */
static bool operands_are_bounded(const mfs_root *root, const mfs_root_term *term)
{
	for (int k = 0; k < MFS_TERM_OPERANDS; k++)
		if (term->operand[k] != MFS_NO_TENSOR &&
		    operand_weights(root, term->operand[k]) > MFS_OPERAND_MAX)
			return false;
	return true;
}

/* How many matrices A has: one, or one for each expert; 0 if it does not fit. */
static uint64_t count_experts(const mfs_root_term *term, uint64_t a, uint64_t rows,
			      uint64_t columns)
{
	uint64_t each, experts;

	if (__builtin_mul_overflow(columns, (uint64_t)term->rank, &each) || !each || a % each)
		return 0;
	experts = a / each;
	if (!(term->flags & MFS_TERM_EXPERTS))
		return experts == 1;
	return experts > 1 && rows % experts == 0 && !(term->flags & ~MFS_TERM_EXPERTS) ? experts
											: 0;
}

/* rank x columns, once or for each expert, and rows x rank; rows x columns are the
 * derived tensor's. *experts is how often. */
static bool lora_fits(const mfs_root *root, const mfs_root_term *term, const mfs_root_tensor *t,
		      uint64_t *rows, uint64_t *experts)
{
	uint64_t a = operand_weights(root, term->operand[0]);
	uint64_t b = operand_weights(root, term->operand[1]);
	uint64_t weights = weights_of(root, t);

	if (!term->rank || !b || b % term->rank)
		return false;
	*rows = b / term->rank;
	if (weights % *rows)
		return false;
	*experts = count_experts(term, a, *rows, weights / *rows);
	return *experts && (term->operand[2] == MFS_NO_TENSOR ||
			    operand_weights(root, term->operand[2]) == *rows);
}

/* The terms of a tensor see the same rows, and experts. */
static const char *check_lora(const mfs_root *root, uint32_t i, const mfs_root_term *term,
			      const mfs_root_tensor *t)
{
	uint64_t rows, experts, other_rows, other_experts;
	mfs_root_term before;

	if (!lora_fits(root, term, t, &rows, &experts))
		return "a term's matrices do not fit its tensor";
	if (!i || term_tensor(root, i - 1) != term->tensor)
		return NULL;
	mfs_root_get_term(root, i - 1, &before);
	if (before.kind == MFS_TERM_LORA &&
	    (!lora_fits(root, &before, t, &other_rows, &other_experts) || rows != other_rows ||
	     experts != other_experts))
		return "a term's matrices do not fit those before it";
	return NULL;
}

static const char *check_term(const mfs_root *root, uint32_t i)
{
	const struct mfs_disk_term *d = record(root, MFS_SEC_TERMS, i);
	mfs_root_tensor t;
	mfs_root_term term;

	mfs_root_get_term(root, i, &term);
	if (term.kind >= MFS_TERM_KINDS ||
	    (term.flags & ~(MFS_TERM_TRANSPOSED | MFS_TERM_B_TRANSPOSED | MFS_TERM_EXPERTS)) ||
	    load_le32(&d->reserved) || term.scale - term.scale != 0)
		return "a term's record is not valid";
	if (i && term_tensor(root, i - 1) > term.tensor)
		return "the terms are not sorted by their tensors";
	if (i >= MFS_TERMS_MAX && term_tensor(root, i - MFS_TERMS_MAX) == term.tensor)
		return "a tensor has too many terms";
	if (term.tensor >= root->count[MFS_SEC_TENSORS])
		return "a term's tensor is not in the root";
	mfs_root_get_tensor(root, term.tensor, &t);
	if (!(t.flags & MFS_TENSOR_DERIVED) || !operand_ok(root, term.operand[0], false) ||
	    !operand_ok(root, term.operand[1], term.kind == MFS_TERM_NF4) ||
	    !operand_ok(root, term.operand[2], true))
		return "a term refers to what it cannot use";
	if (!operands_are_bounded(root, &term))
		return "an operand of a term is too large";
	if (term.kind == MFS_TERM_LORA)
		return check_lora(root, i, &term, &t);
	/* What it takes to decode the base comes first, and once. */
	if (term.rank || term.flags || (i && term_tensor(root, i - 1) == term.tensor))
		return "a term's record is not valid";
	return (term.operand[1] == MFS_NO_TENSOR) == (term.operand[2] == MFS_NO_TENSOR)
		   ? NULL
		   : "a term's constants are not complete";
}

static const char *check_extent(const mfs_root *root, uint64_t i, uint64_t expected)
{
	const struct mfs_disk_extent *d = record(root, MFS_SEC_EXTENTS, i);
	mfs_root_extent e;
	mfs_root_tensor t;

	mfs_root_get_extent(root, i, &e);
	if (e.file_offset != expected || !e.length || e.length > MFS_FILE_MAX - expected ||
	    load_le16(&d->reserved))
		return "the extents of a file do not follow each other";
	if (e.kind == MFS_EXTENT_ZEROS)
		return e.tensor || e.source_offset ? "an extent of zeros refers to a tensor" : NULL;
	if (e.kind != MFS_EXTENT_TENSOR || e.tensor >= root->count[MFS_SEC_TENSORS])
		return "an extent is of no known kind";
	mfs_root_get_tensor(root, e.tensor, &t);
	if (!range_ok(e.source_offset, e.length, t.size))
		return "an extent lies outside of its tensor";
	return NULL;
}

/* The extents of the files follow each other, `first` is where this file's must
 * begin: so the work is bounded by the root's size. */
static const char *check_file(const mfs_root *root, uint32_t i, uint64_t *first)
{
	const struct mfs_disk_file *d = record(root, MFS_SEC_FILES, i);
	mfs_root_file f;
	uint64_t end = 0;
	const char *bad;
	mfs_root_extent e;

	if (!name_range_ok(root, load_le32(&d->name_offset), load_le16(&d->name_length)))
		return "a file's name lies outside of the root";
	mfs_root_get_file(root, i, &f);
	if (!mfs_path_ok(f.name, f.name_length))
		return "a file's name is not valid";
	if (!name_range_ok(root, load_le32(&d->note_offset), f.note_length) ||
	    !mfs_utf8_ok(f.note, f.note_length))
		return "a file's note is not valid";
	if (f.size > MFS_FILE_MAX || f.mtime_nanoseconds > 999999999 || f.kind >= MFS_FILE_KINDS ||
	    (f.flags & ~MFS_FILE_LOSSY) || load_le16(&d->reserved) || load_le32(&d->reserved2) ||
	    (f.base != MFS_NO_FILE && f.base >= root->count[MFS_SEC_FILES]) ||
	    f.first_extent != *first ||
	    !range_ok(*first, f.extent_count, root->count[MFS_SEC_EXTENTS]))
		return "a file's record is not valid";
	*first += f.extent_count;
	for (uint64_t k = 0; k < f.extent_count; k++) {
		bad = check_extent(root, f.first_extent + k, end);
		if (bad)
			return bad;
		mfs_root_get_extent(root, f.first_extent + k, &e);
		end += e.length;
	}
	return end == f.size ? NULL : "the extents of a file do not add up to its size";
}

static const char *check_tables(const mfs_root *root, uint32_t i)
{
	const struct mfs_disk_tables *d = record(root, MFS_SEC_TABLES, i);
	mfs_root_tables t;

	mfs_root_get_tables(root, i, &t);
	if (!t.size || t.size > MFS_TABLES_MAX || load_le32(&d->reserved) ||
	    !range_ok(t.offset, t.size, root->container_size))
		return "a tensor's tables lie outside of the container";
	return NULL;
}

/* Segments of frames come first and are full except the last, then those of
 * chunks likewise, so that a division finds the one that holds a record. */
static const char *check_segments(const mfs_root *root)
{
	static const uint32_t entry[MFS_SEGMENT_KINDS] = {sizeof(struct mfs_disk_frame),
							  sizeof(struct mfs_disk_chunk)};
	uint64_t left[MFS_SEGMENT_KINDS] = {root->frames, root->chunks};
	uint64_t bytes = 0;
	uint16_t kind = 0;

	for (uint32_t i = 0; i < root->count[MFS_SEC_SEGMENTS]; i++) {
		const struct mfs_disk_segment *d = record(root, MFS_SEC_SEGMENTS, i);
		mfs_root_segment s;
		uint64_t records;

		mfs_root_get_segment(root, i, &s);
		if (s.kind >= MFS_SEGMENT_KINDS || s.kind < kind || load_le16(&d->reserved))
			return "a segment is of no known kind or out of order";
		kind = s.kind;
		records = MFS_SEGMENT_MAX / entry[kind];
		if (records > left[kind])
			records = left[kind];
		if (!records || s.size != records * entry[kind])
			return "a segment has the wrong size";
		left[kind] -= records;
		/* A reader that loads them all needs no more memory than the container. */
		bytes += s.size;
		if (bytes > root->container_size)
			return "the segments are larger than the container";
		for (int copy = 0; copy < 2; copy++)
			if (!range_ok(s.offset[copy], s.size, root->container_size))
				return "a segment lies outside of the container";
	}
	return left[0] || left[1] ? "segments are missing" : NULL;
}

static int compare_names(const char *a, size_t a_length, const char *b, size_t b_length)
{
	int order = memcmp(a, b, a_length < b_length ? a_length : b_length);

	return order ? order : (a_length > b_length) - (a_length < b_length);
}

static bool file_exists(const mfs_root *root, const char *name, size_t length)
{
	uint32_t low = 0, high = root->count[MFS_SEC_FILES];

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		mfs_root_file f;
		int order;

		mfs_root_get_file(root, middle, &f);
		order = compare_names(name, length, f.name, f.name_length);
		if (!order)
			return true;
		if (order > 0)
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}

/* A directory cannot be a file too. */
static const char *check_directories(const mfs_root *root)
{
	for (uint32_t i = 0; i < root->count[MFS_SEC_FILES]; i++) {
		mfs_root_file f;

		mfs_root_get_file(root, i, &f);
		for (uint16_t n = 0; n < f.name_length; n++)
			if (f.name[n] == '/' && file_exists(root, f.name, n))
				return "a file has the name of a directory";
	}
	return NULL;
}

/* Names must differ: a mount could show only one of two. Sorted names make that
 * one comparison each, and a file easy to find. */
static const char *check_name_collisions(const mfs_root *root)
{
	uint32_t n = root->count[MFS_SEC_FILES];
	mfs_root_file a, b;

	for (uint32_t i = 1; i < n; i++) {
		mfs_root_get_file(root, i - 1, &a);
		mfs_root_get_file(root, i, &b);
		if (compare_names(a.name, a.name_length, b.name, b.name_length) >= 0)
			return "the files are not sorted by their names, or a name stands twice";
	}
	return NULL;
}

/* Records may share the bytes of one long name; readers look at each of them. */
static bool names_too_long(const mfs_root *root)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < root->count[MFS_SEC_LAYOUTS]; i++) {
		const struct mfs_disk_layout *d = record(root, MFS_SEC_LAYOUTS, i);

		bytes += load_le16(&d->name_length) + 1u;
	}
	for (uint32_t i = 0; i < root->count[MFS_SEC_FILES]; i++) {
		const struct mfs_disk_file *d = record(root, MFS_SEC_FILES, i);

		bytes += load_le16(&d->name_length) + load_le16(&d->note_length) + 1u;
	}
	for (uint32_t i = 0; i < root->count[MFS_SEC_TENSORS]; i++) {
		const struct mfs_disk_tensor *d = record(root, MFS_SEC_TENSORS, i);

		bytes += load_le16(&d->name_length) + 1u;
	}
	return bytes > MFS_NAMES_MAX;
}

static const char *check_records(const mfs_root *root)
{
	const char *bad = NULL;
	uint64_t extents = 0;

	if (root->count[MFS_SEC_LAYOUTS] > MFS_LAYOUTS_MAX)
		return "too many layouts";
	if (names_too_long(root))
		return "the names are too long together";
	for (uint32_t i = 0; !bad && i < root->count[MFS_SEC_LAYOUTS]; i++)
		bad = check_layout(root, i);
	for (uint32_t i = 0; !bad && i < root->count[MFS_SEC_TABLES]; i++)
		bad = check_tables(root, i);
	for (uint32_t i = 0; !bad && i < root->count[MFS_SEC_TENSORS]; i++)
		bad = check_tensor(root, i);
	/* Terms first: what a base must have depends on them. */
	for (uint32_t i = 0; !bad && i < root->count[MFS_SEC_TERMS]; i++)
		bad = check_term(root, i);
	for (uint32_t i = 0; !bad && i < root->count[MFS_SEC_TENSORS]; i++)
		bad = check_base(root, i);
	for (uint32_t i = 0; !bad && i < root->count[MFS_SEC_FILES]; i++)
		bad = check_file(root, i, &extents);
	if (!bad && extents != root->count[MFS_SEC_EXTENTS])
		bad = "an extent belongs to no file";
	if (!bad)
		bad = check_name_collisions(root);
	if (!bad)
		bad = check_directories(root);
	return bad ? bad : check_segments(root);
}

int mfs_root_open(mfs_root *out, const uint8_t *bytes, uint32_t size, uint64_t container_size,
		  uint64_t generation, const char **reason)
{
	mfs_root root = {.bytes = bytes,
			 .size = size,
			 .container_size = container_size,
			 .generation = generation};
	const char *bad = check_header(&root);

	if (!bad)
		bad = check_records(&root);
	if (bad) {
		*reason = bad;
		return MFS_E_CORRUPT;
	}
	*out = root;
	return 0;
}
