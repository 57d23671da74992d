/*
 * Checking a container: every copy of the superblock and of the index, every
 * frame (by reading every file), the hashes of the original bytes, and that
 * padding is zero.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "mfs_xxhash.h"
#include "problem.h"
#include "reader.h"
#include "verify.h"

#define STEP (1u << 20) /* bytes read at once */

void check_found(struct check *k, int error, uint64_t offset, const char *format, ...)
{
	mfs_problem why = {0};
	char text[400];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	mfs_problem_set(&why, error, offset, "%s: %s", k->c->path, text);
	k->problems++;
	if (k->report && k->report(k->user, &why))
		k->stopped = true;
}

static bool read_stored(struct check *k, uint64_t offset, uint32_t length, const char *what)
{
	int64_t got = k->c->io->table->read_at(k->c->io, offset, k->buffer, length);

	if (got == length)
		return true;
	check_found(k, MFS_E_IO, offset, "%s at 0x%" PRIx64 " cannot be read", what, offset);
	return false;
}

static void use(struct check *k, uint64_t offset, uint64_t length)
{
	k->used[k->used_count++] = (struct range64){offset, length, false};
}

/* ---- superblocks and index ---- */

static void check_superblock(struct check *k, uint64_t offset, const char *which)
{
	mfs_superblock sb;
	int err;

	use(k, offset, MFS_SB_SIZE);
	if (!read_stored(k, offset, MFS_SB_SIZE, which))
		return;
	err = mfs_superblock_decode(&sb, k->buffer, offset);
	/* A slot may be a generation behind: that append was cut short. */
	if (!err && (sb.generation > k->c->sb.generation ||
		     (sb.generation == k->c->sb.generation &&
		      memcmp(sb.root_hash, k->c->sb.root_hash, sizeof(sb.root_hash)))))
		err = MFS_E_CORRUPT;
	if (err)
		check_found(k, err, offset, "%s at 0x%" PRIx64 ": %s", which, offset,
			    mfs_error_text(err));
}

/* True if it is whole; its bytes are in the buffer then. */
static bool check_hashed(struct check *k, uint64_t offset, uint32_t size, const uint8_t hash[16],
			 const char *what, uint32_t number, int copy)
{
	XXH128_canonical_t seen;
	char name[64];

	snprintf(name, sizeof(name), "%s %" PRIu32 " (copy %d)", what, number, copy + 1);
	use(k, offset, size);
	if (!read_stored(k, offset, size, name))
		return false;
	XXH128_canonicalFromHash(&seen, XXH3_128bits(k->buffer, size));
	if (!memcmp(seen.digest, hash, sizeof(seen.digest)))
		return true;
	check_found(k, MFS_E_CORRUPT, offset, "%s at 0x%" PRIx64 ": checksum mismatch", name,
		    offset);
	return false;
}

/* Keeps segment `i`, which is in the buffer, for those who read frames back. */
static void keep_segment(struct check *k, uint32_t i, uint32_t size)
{
	if (k->segments && !k->segments[i] && (k->segments[i] = malloc(size)))
		memcpy(k->segments[i], k->buffer, size);
}

static void check_index(struct check *k)
{
	const mfs_superblock *sb = &k->c->sb;
	mfs_root_segment s;

	if (!k->fresh) {
		check_superblock(k, 0, "superblock 0");
		check_superblock(k,
				 sb->profile == MFS_PROFILE_NOR ? MFS_SB_SLOT1_NOR : MFS_SB_SLOT1,
				 "superblock 1");
		check_superblock(k, sb->container_size - MFS_SB_SIZE, "tail superblock");
	}
	for (int copy = 0; copy < 2 && !k->stopped; copy++) {
		check_hashed(k, sb->root_offset[copy], sb->root_size, sb->root_hash, "root", 0,
			     copy);
		for (uint32_t i = 0; i < k->c->root.count[MFS_SEC_SEGMENTS]; i++) {
			mfs_root_get_segment(&k->c->root, i, &s);
			if (check_hashed(k, s.offset[copy], s.size, s.hash, "segment", i, copy))
				keep_segment(k, i, s.size);
		}
	}
}

/* ---- padding ---- */

static int by_offset(const void *a, const void *b)
{
	const struct range64 *x = a, *y = b;

	return (x->offset > y->offset) - (x->offset < y->offset);
}

static void check_zero(struct check *k, uint64_t from, uint64_t to)
{
	while (from < to && !k->stopped) {
		uint32_t n = to - from < STEP ? (uint32_t)(to - from) : STEP;

		if (!read_stored(k, from, n, "padding"))
			return;
		for (uint32_t i = 0; i < n; i++) {
			if (!k->buffer[i])
				continue;
			check_found(k, MFS_E_CORRUPT, from + i,
				    "padding at 0x%" PRIx64 " is not zero (no file is affected)",
				    from + i);
			return;
		}
		from += n;
	}
}

/* What older generations left lies between chunks: all that is known is what is in
 * the last page of a chunk with another one right behind it. */
static void check_page_ends(struct check *k)
{
	for (size_t i = 1; i < k->used_count && !k->stopped; i++) {
		const struct range64 *a = &k->used[i - 1], *b = &k->used[i];
		uint64_t end = a->offset + a->length;

		if (a->chunk && b->chunk && b->offset == round_up(end, k->c->sb.page_size))
			check_zero(k, end, b->offset);
	}
}

/* Where chunk `i` lies; false if its segment is damaged in both copies. */
static bool find_chunk(struct check *k, uint32_t i, struct range64 *out)
{
	uint64_t first = div_up(k->c->root.frames, MFS_SEGMENT_FRAME_COUNT);
	mfs_chunk_info info = {.size = sizeof(info)};
	const uint8_t *segment;
	mfs_chunk chunk;

	if (!k->segments) {
		if (mfs_chunk_get(k->c, i, &info))
			return false;
		*out = (struct range64){info.offset, info.stored_bytes, true};
		return true;
	}
	segment = k->segments[first + i / MFS_SEGMENT_CHUNK_COUNT];
	if (!segment ||
	    mfs_chunk_decode(&chunk,
			     segment + i % MFS_SEGMENT_CHUNK_COUNT * sizeof(struct mfs_disk_chunk),
			     k->c->sb.page_size, k->c->sb.container_size))
		return false;
	*out = (struct range64){chunk.offset, chunk.stored_size, true};
	return true;
}

static void check_padding(struct check *k)
{
	uint64_t at = 0;

	for (uint32_t i = 0; i < k->c->root.chunks; i++) {
		if (!find_chunk(k, i, &k->used[k->used_count]))
			return; /* as reported */
		k->used_count++;
	}
	qsort(k->used, k->used_count, sizeof(*k->used), by_offset);
	if (k->c->sb.generation > 1) {
		check_page_ends(k);
		return;
	}
	for (size_t i = 0; i < k->used_count; i++) {
		if (k->used[i].offset > at)
			check_zero(k, at, k->used[i].offset);
		if (k->used[i].offset + k->used[i].length > at)
			at = k->used[i].offset + k->used[i].length;
	}
	check_zero(k, at, k->c->sb.container_size);
}

/* ---- files ---- */

/* The end of the span (or extent) that holds `offset`: damage reaches no further. */
static uint64_t damage_end(struct check *k, const mfs_root_extent *extent, uint64_t offset)
{
	uint64_t end = extent->file_offset + extent->length;
	uint64_t at = extent->source_offset + (offset - extent->file_offset);
	mfs_root_tensor t;
	mfs_span span;

	if (extent->kind != MFS_EXTENT_TENSOR)
		return end;
	mfs_root_get_tensor(&k->c->root, extent->tensor, &t);
	mfs_tensor_span_at(&t, k->c->layouts[t.layout].block_bytes, at, &span);
	at = offset + (span.offset + span.bytes - at);
	return at < end ? at : end;
}

/* A hash of zeros was not computed: the bytes are those of a view. */
static bool hash_known(const uint8_t hash[16])
{
	static const uint8_t none[16];

	return memcmp(hash, none, sizeof(none)) != 0;
}

static bool hash_equal(const XXH3_state_t *state, const uint8_t expected[16])
{
	XXH128_canonical_t seen;

	XXH128_canonicalFromHash(&seen, XXH3_128bits_digest(state));
	return !memcmp(seen.digest, expected, sizeof(seen.digest));
}

/* Reads [from, to) of the file piece by piece; damage is reported once a span
 * and stepped over. True if all could be read. */
static bool read_extent(struct check *k, uint32_t file, const mfs_root_extent *extent)
{
	uint64_t at = extent->file_offset, end = at + extent->length;
	bool whole = true;

	while (at < end && !k->stopped) {
		size_t n = end - at < STEP ? (size_t)(end - at) : STEP;
		int64_t got = mfs_read(k->c, file, at, k->buffer, n);
		uint64_t stop;

		if (got < 0) {
			/* One span at a time, to name the one that is damaged. */
			stop = damage_end(k, extent, at);
			n = stop - at < STEP ? (size_t)(stop - at) : STEP;
			got = mfs_read(k->c, file, at, k->buffer, n);
		}
		if (got < 0) {
			mfs_problem why;

			mfs_last_problem(k->c, &why);
			k->problems++;
			if (k->report && k->report(k->user, &why))
				k->stopped = true;
			whole = false;
			k->done += stop - at;
			at = stop;
			continue;
		}
		XXH3_128bits_update(k->file_hash, k->buffer, n);
		XXH3_128bits_update(k->tensor_hash, k->buffer, n);
		at += n;
		k->done += n;
		if (k->progress && k->progress(k->user, k->done, k->total))
			k->stopped = k->cancelled = true;
	}
	return whole;
}

static void check_tensor(struct check *k, uint32_t file, const mfs_root_extent *extent)
{
	mfs_root_tensor t;

	if (extent->kind != MFS_EXTENT_TENSOR)
		return;
	mfs_root_get_tensor(&k->c->root, extent->tensor, &t);
	if (extent->length == t.size && hash_known(t.hash) && !hash_equal(k->tensor_hash, t.hash))
		check_found(
		    k, MFS_E_CORRUPT, t.file_offset,
		    "%s: %s%.*s does not have the bytes it was packed from", k->c->file_names[file],
		    t.name_length ? "tensor " : "a run of literal bytes", t.name_length, t.name);
}

/* A view repeats what other files have, and what it computes from them has no hash
 * to compare it with; only what is stored for it alone is left to look at. */
static bool skips(const struct check *k, const mfs_root_file *f, uint32_t file,
		  const mfs_root_extent *extent)
{
	mfs_root_tensor t;

	if (f->kind != MFS_FILE_VIEW)
		return false;
	if (extent->kind != MFS_EXTENT_TENSOR)
		return true;
	mfs_root_get_tensor(&k->c->root, extent->tensor, &t);
	return t.file != file || (t.flags & MFS_TENSOR_DERIVED);
}

static void check_file(struct check *k, uint32_t file)
{
	mfs_root_extent extent;
	mfs_root_file f;
	uint64_t done = k->done;
	bool whole = true;

	mfs_root_get_file(&k->c->root, file, &f);
	XXH3_128bits_reset(k->file_hash);
	for (uint64_t i = 0; i < f.extent_count && !k->stopped; i++) {
		mfs_root_get_extent(&k->c->root, f.first_extent + i, &extent);
		if (skips(k, &f, file, &extent))
			continue;
		XXH3_128bits_reset(k->tensor_hash);
		if (read_extent(k, file, &extent))
			check_tensor(k, file, &extent);
		else
			whole = false;
	}
	if (f.kind == MFS_FILE_VIEW)
		k->done = done;
	if (whole && !k->stopped && hash_known(f.hash) && !hash_equal(k->file_hash, f.hash))
		check_found(k, MFS_E_CORRUPT, UINT64_MAX,
			    "%s does not have the bytes it was packed from",
			    k->c->file_names[file]);
}

static int prepare(struct check *k)
{
	uint32_t segments = k->c->root.count[MFS_SEC_SEGMENTS];
	size_t ranges = 5 + 2 * (size_t)segments + k->c->root.chunks;
	mfs_root_file f;

	for (uint32_t i = 0; i < k->c->root.count[MFS_SEC_FILES]; i++) {
		mfs_root_get_file(&k->c->root, i, &f);
		if (!k->fresh || k->fresh[i])
			k->total += f.kind == MFS_FILE_VIEW ? 0 : f.size;
	}
	k->buffer = malloc(MFS_ROOT_MAX);
	k->used = calloc(ranges, sizeof(*k->used));
	k->file_hash = XXH3_createState();
	k->tensor_hash = XXH3_createState();
	if (k->threads)
		k->segments = calloc(segments + 1u, sizeof(*k->segments));
	return k->buffer && k->used && k->file_hash && k->tensor_hash &&
		       (!k->threads || k->segments)
		   ? 0
		   : MFS_E_MEMORY;
}

static void finish(struct check *k)
{
	for (uint32_t i = 0; k->segments && i < k->c->root.count[MFS_SEC_SEGMENTS]; i++)
		free(k->segments[i]);
	free(k->segments);
	free(k->buffer);
	free(k->used);
	XXH3_freeState(k->file_hash);
	XXH3_freeState(k->tensor_hash);
}

/* An error only if nothing can be read at all. */
static int check_files(struct check *k)
{
	int err;

	if (!container_reader(k->c, &err))
		return err;
	for (uint32_t i = 0; i < k->c->root.count[MFS_SEC_FILES] && !k->stopped; i++)
		if (!k->fresh || k->fresh[i])
			check_file(k, i);
	return 0;
}

static int64_t check_container(struct check *k)
{
	int err = prepare(k);

	if (!err) {
		check_index(k);
		if (k->threads && !k->stopped)
			err = check_frames(k);
		else if (!k->threads)
			err = check_files(k);
	}
	if (!err && !k->stopped && !k->fresh)
		check_padding(k);
	finish(k);
	if (k->cancelled)
		return MFS_E_CANCELLED;
	return err ? err : k->problems;
}

int64_t mfs_check(mfs_container *c, mfs_check_report *report, mfs_progress *progress, void *user)
{
	struct check k = {.c = c, .report = report, .progress = progress, .user = user};

	return check_container(&k);
}

int64_t container_check_fresh(mfs_container *c, const bool *fresh, mfs_check_report *report,
			      mfs_progress *progress, void *user)
{
	struct check k = {
	    .c = c, .fresh = fresh, .report = report, .progress = progress, .user = user};

	return check_container(&k);
}

int64_t container_read_back(mfs_container *c, const bool *fresh, unsigned threads,
			    mfs_check_report *report, mfs_progress *progress, void *user)
{
	struct check k = {.c = c,
			  .fresh = fresh,
			  .threads = threads,
			  .report = report,
			  .progress = progress,
			  .user = user};

	return check_container(&k);
}
