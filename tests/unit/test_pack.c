/* The packer: what it writes, and what it leaves behind when it fails. */
#include "source_files.h"

#include <signal.h>
#include <sys/resource.h>
#include <xxhash.h>

#include "frame.h"
#include "modelfs_pack.h"
#include "root.h"
#include "root_columns.h"
#include "sanitized.h"
#include "superblock.h"

#define CONTAINER "c.mfs"

/* ---- packing ---- */

typedef struct {
	mfs_pack_options options;
	mfs_pack_progress *progress;
	void *user;
	mfs_pack_summary summary;
	mfs_problem why;
} job;

#define JOB                                                                                        \
	{                                                                                          \
		.options = MFS_PACK_OPTIONS_INIT, .summary = {.size = sizeof(mfs_pack_summary) }   \
	}

/* Packs `sources` (ended by NULL) into `target` (NULL: dry run). */
static int pack(job *j, const char *target, const char *const sources[])
{
	mfs_packer *p = NULL;
	int error = mfs_packer_new(&p, &j->options, &j->why);

	for (int i = 0; !error && sources[i]; i++)
		error = mfs_packer_add(p, sources[i], NULL, &j->why);
	if (!error)
		error = mfs_packer_write(p, target, j->progress, j->user, &j->summary, &j->why);
	mfs_packer_free(p);
	return error;
}

static void pack_ok(job *j, const char *const sources[])
{
	j->options.force = 1;
	if (pack(j, sf_path(CONTAINER), sources) < 0)
		fail_msg("%s", j->why.text);
}

/* ---- looking at a container without the library's reader ---- */

typedef struct {
	uint8_t *bytes;
	size_t size;
	mfs_superblock sb;
	mfs_root root;
	uint8_t *root_bytes; /* that was stored in columns; else NULL */
} image;

/* The root in the form in which it is read. */
static const uint8_t *image_root(image *im, uint32_t *size)
{
	const uint8_t *stored = im->bytes + im->sb.root_offset[0];
	const char *reason = "";

	*size = im->sb.root_size;
	if (!(im->sb.feature_incompat & MFS_INCOMPAT_COLUMNS))
		return stored;
	if (mfs_columns_root_size(stored, im->sb.root_size, size, &reason) < 0)
		fail_msg("%s", reason);
	im->root_bytes = calloc(1, *size);
	assert_non_null(im->root_bytes);
	if (mfs_columns_decode(im->root_bytes, stored, im->sb.root_size, &reason) < 0)
		fail_msg("%s", reason);
	return im->root_bytes;
}

static void close_image(image *im)
{
	free(im->bytes);
	free(im->root_bytes);
}

static image open_image(const char *path)
{
	image im = {0};
	const char *reason = "";
	XXH128_canonical_t canonical;
	const uint8_t *root;
	uint32_t root_size;

	im.bytes = sf_read(path, &im.size);
	assert_true(im.size >= 65536);
	assert_int_equal(mfs_superblock_decode(&im.sb, im.bytes, 0), 0);
	assert_int_equal(im.sb.container_size, im.size);
	XXH128_canonicalFromHash(&canonical,
				 XXH3_128bits(im.bytes + im.sb.root_offset[0], im.sb.root_size));
	assert_memory_equal(im.sb.root_hash, canonical.digest, 16);
	root = image_root(&im, &root_size);
	if (mfs_root_open(&im.root, root, root_size, im.size, 1, &reason) < 0)
		fail_msg("%s", reason);
	return im;
}

/* The record of the frame or chunk table, from copy 1 of the index. */
static const uint8_t *table_record(const image *im, uint16_t kind, uint64_t i, size_t size)
{
	mfs_root_segment s;

	for (uint32_t k = 0; k < im->root.count[MFS_SEC_SEGMENTS]; k++) {
		mfs_root_get_segment(&im->root, k, &s);
		if (s.kind != kind)
			continue;
		if (i * size < s.size)
			return im->bytes + s.offset[0] + i * size;
		i -= s.size / size;
	}
	fail_msg("record of kind %u is in no segment", kind);
	return NULL;
}

static mfs_chunk get_chunk(const image *im, uint64_t i)
{
	mfs_chunk chunk;
	const uint8_t *bytes =
	    table_record(im, MFS_SEGMENT_CHUNKS, i, sizeof(struct mfs_disk_chunk));

	assert_int_equal(mfs_chunk_decode(&chunk, bytes, im->sb.page_size, im->size), 0);
	return chunk;
}

/* The chunk that holds [offset, offset + size), or a failure. */
static uint64_t chunk_of(const image *im, uint64_t offset, uint64_t size)
{
	for (uint64_t i = 0; i < im->root.chunks; i++) {
		mfs_chunk c = get_chunk(im, i);

		if (offset >= c.offset && offset + size <= c.offset + c.stored_size)
			return i;
	}
	fail_msg("bytes at %llu are in no chunk", (unsigned long long)offset);
	return 0;
}

typedef struct {
	uint64_t stored, decoded;
	uint32_t frames;
} chunk_sum;

static mfs_tables *open_tables(const image *im, const mfs_root_tensor *t, const mfs_layout *layout,
			       unsigned s, chunk_sum *sums)
{
	mfs_root_tables record;
	mfs_tables *tables;

	if (t->slot[s].tables == MFS_NO_TABLES)
		return NULL;
	mfs_root_get_tables(&im->root, t->slot[s].tables, &record);
	assert_int_equal(XXH3_64bits(im->bytes + record.offset, record.size), record.hash);
	assert_int_equal(mfs_tables_open(&tables, im->bytes + record.offset, record.size,
					 layout->slot_streams[s], 0),
			 0);
	sums[chunk_of(im, record.offset, record.size)].stored += record.size;
	return tables;
}

/* Frame i of a slot: checked, and counted for its chunk. */
static mfs_frame get_frame(const image *im, const mfs_root_tensor *t, const mfs_layout *layout,
			   unsigned s, const mfs_span *span, chunk_sum *sums)
{
	uint64_t number = t->slot[s].first + span->index;
	uint32_t raw = mfs_slot_bytes(t, layout, s, span->blocks);
	mfs_frame_place place;
	uint64_t chunk;

	assert_int_equal(mfs_frame_place_decode(&place,
						table_record(im, MFS_SEGMENT_FRAMES, number,
							     sizeof(struct mfs_disk_frame)),
						t->slot[s].base, raw, im->size),
			 0);
	assert_int_equal(place.hash, mfs_frame_hash(im->bytes + place.offset, place.size, number));
	if (place.size) {
		chunk = chunk_of(im, place.offset, place.size);
		assert_int_equal(get_chunk(im, chunk).cls, s ? MFS_DISK_CONSTANTS : t->cls);
		sums[chunk].stored += place.size;
		sums[chunk].decoded += raw;
		sums[chunk].frames++;
	}
	return (mfs_frame){.stored = im->bytes + place.offset, .size = place.size};
}

static void decode_span(const image *im, const mfs_root_tensor *t, const mfs_layout *layout,
			const mfs_span *span, mfs_decoder *decoder, mfs_tables *const tables[],
			chunk_sum *sums, uint8_t *out)
{
	mfs_frame frame[MFS_SLOTS] = {0};

	for (unsigned s = 0; s < MFS_SLOTS; s++)
		if (mfs_tensor_has_slot(t, layout, s)) {
			frame[s] = get_frame(im, t, layout, s, span, sums);
			frame[s].tables = tables[s];
		}
	if (t->cls != MFS_DISK_PLAIN) {
		assert_int_equal(mfs_span_decode(decoder, layout, span->blocks, frame, out), 0);
		return;
	}
	assert_true(frame[0].size == span->bytes || frame[0].size == 0);
	memset(out, 0, span->bytes);
	memcpy(out, frame[0].stored, frame[0].size);
}

static void check_tensor(const image *im, uint32_t i, const uint8_t *original, chunk_sum *sums)
{
	mfs_root_tensor t;
	mfs_layout layout;
	mfs_tables *tables[MFS_SLOTS];
	mfs_decoder *decoder = mfs_decoder_new(MFS_FRAME_MAX);
	uint8_t *out = malloc(MFS_FRAME_MAX);
	XXH128_canonical_t canonical;

	mfs_root_get_tensor(&im->root, i, &t);
	mfs_root_get_layout(&im->root, t.layout, &layout);
	original += t.file_offset;
	XXH128_canonicalFromHash(&canonical, XXH3_128bits(original, t.size));
	assert_memory_equal(t.hash, canonical.digest, 16);
	for (unsigned s = 0; s < MFS_SLOTS; s++)
		tables[s] = open_tables(im, &t, &layout, s, sums);
	for (uint64_t k = 0; k < mfs_tensor_spans(&t, layout.block_bytes); k++) {
		mfs_span span;

		mfs_tensor_span(&t, layout.block_bytes, k, &span);
		decode_span(im, &t, &layout, &span, decoder, tables, sums, out);
		assert_memory_equal(out, original + span.offset, span.bytes);
	}
	for (unsigned s = 0; s < MFS_SLOTS; s++)
		mfs_tables_free(tables[s]);
	mfs_decoder_free(decoder);
	free(out);
}

static void check_extents(const image *im, const mfs_root_file *f, const uint8_t *original)
{
	for (uint64_t k = 0; k < f->extent_count; k++) {
		mfs_root_extent e;

		mfs_root_get_extent(&im->root, f->first_extent + k, &e);
		for (uint64_t b = 0; e.kind == MFS_EXTENT_ZEROS && b < e.length; b++)
			assert_int_equal(original[e.file_offset + b], 0);
	}
}

/* Chunks are page aligned, of one class, in order, apart, and hold nothing but
 * frames and tables. */
static uint64_t check_chunks(const image *im, const chunk_sum *sums)
{
	uint64_t end = MFS_SB_SIZE, stored = 0;

	for (uint64_t i = 0; i < im->root.chunks; i++) {
		mfs_chunk c = get_chunk(im, i);

		assert_int_equal(c.offset % im->sb.page_size, 0);
		assert_true(c.offset >= end);
		assert_true(c.stored_size <= MFS_CHUNK_MAX);
		assert_int_equal(c.stored_size, sums[i].stored);
		assert_int_equal(c.decoded_size, sums[i].decoded);
		assert_int_equal(c.frames, sums[i].frames);
		end = c.offset + c.stored_size;
		stored += c.stored_size;
	}
	return stored;
}

static void check_copies(const image *im)
{
	uint64_t slot1 = im->sb.profile == MFS_PROFILE_NOR ? MFS_SB_SLOT1_NOR : MFS_SB_SLOT1;
	mfs_superblock sb;
	mfs_root_segment s;

	/* Copy 1 found room before the chunks. */
	assert_true(im->sb.root_offset[0] < im->sb.root_offset[1]);
	assert_int_equal(mfs_superblock_decode(&sb, im->bytes + slot1, slot1), 0);
	assert_int_equal(
	    mfs_superblock_decode(&sb, im->bytes + im->size - MFS_SB_SIZE, im->size - MFS_SB_SIZE),
	    0);
	assert_memory_equal(im->bytes + im->sb.root_offset[0], im->bytes + im->sb.root_offset[1],
			    im->sb.root_size);
	for (uint32_t k = 0; k < im->root.count[MFS_SEC_SEGMENTS]; k++) {
		mfs_root_get_segment(&im->root, k, &s);
		assert_memory_equal(im->bytes + s.offset[0], im->bytes + s.offset[1], s.size);
	}
}

/* Everything that a container promises about one source. */
static void check_container(const char *source, const mfs_pack_summary *summary)
{
	image im = open_image(sf_path(CONTAINER));
	size_t size;
	uint8_t *original = sf_read(source, &size);
	chunk_sum *sums = calloc(im.root.chunks + 1, sizeof(*sums));
	XXH128_canonical_t canonical;
	mfs_root_file f;

	assert_int_equal(im.root.count[MFS_SEC_FILES], 1);
	mfs_root_get_file(&im.root, 0, &f);
	assert_int_equal(f.size, size);
	XXH128_canonicalFromHash(&canonical, XXH3_128bits(original, size));
	assert_memory_equal(f.hash, canonical.digest, 16);
	check_extents(&im, &f, original);
	for (uint32_t i = 0; i < im.root.count[MFS_SEC_TENSORS]; i++)
		check_tensor(&im, i, original, sums);
	assert_int_equal(check_chunks(&im, sums), summary->frame_bytes + summary->tables_bytes);
	check_copies(&im);
	assert_int_equal(summary->stored_bytes, im.size);
	assert_int_equal(summary->frame_bytes + summary->tables_bytes + summary->superblock_bytes +
			     summary->index_bytes + summary->padding_bytes,
			 im.size);
	free(sums);
	free(original);
	close_image(&im);
}

static void pack_and_check(const char *source, const mfs_pack_options *options)
{
	const char *const sources[] = {source, NULL};
	job j = JOB;

	if (options)
		j.options = *options;
	pack_ok(&j, sources);
	check_container(source, &j.summary);
}

/* ---- sources ---- */

static const sf_tensor model[] = {
    {"token_embd.weight", SF_Q4_K, 2, {256, 3000}, 3000 * 144},
    {"blk.0.norm", SF_F32, 1, {33}, 132},
    {"blk.0.up", SF_Q8_0, 3, {1024, 100, 3}, 300 * 1088},
    {"blk.0.down", SF_Q4_0, 2, {1024, 500}, 500 * 576},
    {"blk.1.norm", SF_F32, 1, {9}, 36},
};
#define MODEL_TENSORS 5

static const char *write_model(void)
{
	return sf_write_gguf("m.gguf", model, MODEL_TENSORS, 0);
}

static const char *write_noise(const char *name, size_t size)
{
	uint8_t *bytes = malloc(size);
	const char *path;

	for (size_t i = 0; i < size; i++)
		bytes[i] = (uint8_t)(XXH3_64bits(&i, sizeof(i)) >> 3);
	path = sf_write(name, bytes, size);
	free(bytes);
	return path;
}

/* ---- what is written ---- */

static void model_comes_back_byte_for_byte(void **state)
{
	(void)state;
	pack_and_check(write_model(), NULL);
}

static void every_profile_gives_a_valid_container(void **state)
{
	const char *path = write_model();

	(void)state;
	for (int id = 0; id < MFS_PROFILES; id++) {
		mfs_pack_options options = MFS_PACK_OPTIONS_INIT;

		options.profile = (mfs_profile_id)id;
		pack_and_check(path, &options);
	}
}

static void every_page_size_gives_a_valid_container(void **state)
{
	const char *path = write_model();

	(void)state;
	for (uint32_t page = MFS_PAGE_MIN; page <= MFS_PAGE_MAX; page *= 2) {
		mfs_pack_options options = MFS_PACK_OPTIONS_INIT;

		options.page_bytes = page;
		pack_and_check(path, &options);
		options.profile = MFS_PROFILE_NOR;
		pack_and_check(path, &options);
	}
}

static void every_frame_size_gives_a_valid_container(void **state)
{
	static const uint32_t sizes[] = {MFS_FRAME_MIN, 5000, 65536, 1 << 20, MFS_FRAME_MAX};
	const char *path = write_model();

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		mfs_pack_options options = MFS_PACK_OPTIONS_INIT;

		options.frame_bytes = sizes[i];
		pack_and_check(path, &options);
	}
}

static void smallest_files_come_back(void **state)
{
	static const uint8_t bytes[100000] = {1};

	(void)state;
	pack_and_check(sf_write("s0", bytes, 0), NULL);
	pack_and_check(sf_write("s1", bytes, 1), NULL);
	pack_and_check(sf_write("s2", bytes + 1, 1), NULL);
	pack_and_check(sf_write("s3", bytes, sizeof(bytes)), NULL);
	pack_and_check(sf_write("s4", bytes + 1, sizeof(bytes) - 1), NULL);
}

/* More than one group, and chunks that must be cut. */
static void large_opaque_file_comes_back(void **state)
{
	(void)state;
	pack_and_check(write_noise("noise", (33 << 20) + 12345), NULL);
}

static void ten_thousand_small_tensors_come_back(void **state)
{
	enum { COUNT = 10000 };
	static sf_tensor tensors[COUNT];
	static char names[COUNT][16];

	(void)state;
	for (int i = 0; i < COUNT; i++) {
		snprintf(names[i], sizeof(names[i]), "t%d", i);
		tensors[i] = (sf_tensor){names[i], SF_F32, 1, {8}, 32};
	}
	pack_and_check(sf_write_gguf("m.gguf", tensors, COUNT, 0), NULL);
}

static void quantized_types_are_split_and_opaque_bytes_are_not(void **state)
{
	const char *const sources[] = {write_model(), NULL};
	job j = JOB;
	image im;
	unsigned constants = 0;

	(void)state;
	pack_ok(&j, sources);
	im = open_image(sf_path(CONTAINER));
	for (uint64_t i = 0; i < im.root.chunks; i++)
		constants += get_chunk(&im, i).cls == MFS_DISK_CONSTANTS;
	assert_true(constants >= 1);
	/* Within a group the constants lie before their weights. */
	assert_int_equal(get_chunk(&im, 0).cls, MFS_DISK_CONSTANTS);
	close_image(&im);
}

/* What gains little is stored whole for fast media. */
static void nvme_stores_plain_what_gains_little(void **state)
{
	struct gw w = sf_gguf(model, MODEL_TENSORS, 0);
	const char *sources[] = {NULL, NULL};
	unsigned plain = 0;
	job j = JOB;
	image im;

	(void)state;
	for (size_t i = 512; i < w.size; i++)
		w.bytes[i] = (uint8_t)XXH3_64bits(&i, sizeof(i));
	sources[0] = sf_write("m.gguf", w.bytes, w.size);
	gw_free(&w);
	j.options.profile = MFS_PROFILE_NVME;
	pack_ok(&j, sources);
	check_container(sources[0], &j.summary);
	im = open_image(sf_path(CONTAINER));
	for (uint64_t i = 0; i < im.root.chunks; i++) {
		assert_int_not_equal(get_chunk(&im, i).cls, MFS_DISK_CONSTANTS);
		plain += get_chunk(&im, i).cls == MFS_DISK_PLAIN;
	}
	assert_true(plain >= 1);
	close_image(&im);
}

static void output_is_the_same_for_any_number_of_threads(void **state)
{
	const char *const sources[] = {write_model(), write_noise("noise", 35 << 20), NULL};
	size_t size, again;
	uint8_t *first = NULL;

	(void)state;
	for (unsigned threads = 1; threads <= 4; threads += SANITIZED ? 3 : 1) {
		job j = JOB;
		uint8_t *bytes;

		j.options.threads = threads;
		pack_ok(&j, sources);
		bytes = sf_read(sf_path(CONTAINER), &again);
		if (!first) {
			first = bytes;
			size = again;
			continue;
		}
		assert_int_equal(size, again);
		assert_memory_equal(first, bytes, size);
		free(bytes);
	}
	free(first);
}

static void order_of_the_sources_does_not_matter(void **state)
{
	const char *a = sf_write("a", "abc", 3), *b = sf_write("b", "defg", 4);
	const char *const sources[] = {a, b, NULL}, *const reverse[] = {b, a, NULL};
	size_t size, again;
	uint8_t *first, *second;
	job j = JOB;

	(void)state;
	pack_ok(&j, sources);
	first = sf_read(sf_path(CONTAINER), &size);
	pack_ok(&j, reverse);
	second = sf_read(sf_path(CONTAINER), &again);
	assert_int_equal(size, again);
	assert_memory_equal(first, second, size);
	free(first);
	free(second);
}

/* 0.3 % + 96 KiB below 64 MiB, whatever is in it. */
static void small_containers_stay_within_their_overhead(void **state)
{
	static const size_t sizes[] = {1,      20000,	70000,	 150000,  300000,
				       600000, 1000000, 2500000, 5000000, 20000000};

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i += SANITIZED ? 3 : 1) {
		const char *const sources[] = {write_noise("noise", sizes[i]), NULL};
		job j = JOB;
		uint64_t rest;

		j.options.no_verify = 1;
		pack_ok(&j, sources);
		rest = j.summary.stored_bytes - j.summary.frame_bytes - j.summary.tables_bytes;
		assert_true(rest <= j.summary.stored_bytes * 3 / 1000 + (96 << 10));
	}
}

static void large_containers_stay_within_their_overhead(void **state)
{
	static const sf_tensor tensors[] = {{"a", SF_Q4_0, 2, {4096, 20000}, 20000 * 2304},
					    {"b", SF_Q8_0, 2, {4096, 8000}, 8000 * 4352},
					    {"c", SF_F16, 2, {4096, 900}, 900 * 8192}};
	const char *sources[] = {NULL, NULL};
	job j = JOB;
	uint64_t rest;

	(void)state;
	/* A sum that no sanitizer adds to, over 88 MB. */
	if (SANITIZED)
		skip();
	sources[0] = sf_write_gguf("m.gguf", tensors, 3, 0);
	pack_ok(&j, sources);
	assert_true(j.summary.stored_bytes > 64 << 20);
	rest = j.summary.stored_bytes - j.summary.frame_bytes - j.summary.tables_bytes;
	assert_true(rest * 1000 <= j.summary.stored_bytes * 4);
}

static void summary_adds_up_by_type(void **state)
{
	const char *const sources[] = {write_model(), NULL};
	mfs_pack_options options = MFS_PACK_OPTIONS_INIT;
	mfs_pack_summary s = {.size = sizeof(s)};
	uint64_t original = 0, stored = 0, tensors = 0;
	mfs_packer *p;

	(void)state;
	assert_int_equal(mfs_packer_new(&p, &options, NULL), 0);
	assert_int_equal(mfs_packer_add(p, sources[0], NULL, NULL), 0);
	assert_int_equal(mfs_packer_write(p, NULL, NULL, NULL, &s, NULL), 0);
	for (uint32_t i = 0; i < s.type_count; i++) {
		original += s.types[i].original_bytes;
		stored += s.types[i].stored_bytes;
		tensors += s.types[i].tensors;
		assert_true(!i || s.types[i].original_bytes <= s.types[i - 1].original_bytes);
	}
	assert_int_equal(original, s.original_bytes);
	assert_int_equal(stored, s.frame_bytes + s.tables_bytes);
	assert_int_equal(tensors, s.tensors);
	assert_int_equal(tensors, MODEL_TENSORS);
	assert_string_equal(s.types[0].type, "Q4_K");
	mfs_packer_free(p);
}

static void dry_run_tells_the_size_and_writes_nothing(void **state)
{
	const char *const sources[] = {write_model(), NULL};
	job dry = JOB, wet = JOB;
	unsigned files = sf_count();

	(void)state;
	assert_int_equal(pack(&dry, NULL, sources), 0);
	assert_int_equal(sf_count(), files);
	pack_ok(&wet, sources);
	assert_int_equal(dry.summary.stored_bytes, wet.summary.stored_bytes);
	assert_int_equal(dry.summary.padding_bytes, wet.summary.padding_bytes);
}

/* ---- refusals, and what is left behind ---- */

static void existing_container_is_kept_without_force(void **state)
{
	const char *const sources[] = {write_model(), NULL};
	job j = JOB;
	size_t size;
	uint8_t *bytes;

	(void)state;
	sf_write(CONTAINER, "precious", 8);
	assert_int_equal(pack(&j, sf_path(CONTAINER), sources), MFS_E_EXISTS);
	assert_non_null(strstr(j.why.text, CONTAINER));
	assert_int_equal(sf_count(), 2);
	bytes = sf_read(sf_path(CONTAINER), &size);
	assert_int_equal(size, 8);
	assert_memory_equal(bytes, "precious", 8);
	free(bytes);
	j.options.force = 1;
	assert_int_equal(pack(&j, sf_path(CONTAINER), sources), 0);
	assert_int_equal(sf_count(), 2);
}

static int create_target(void *user, mfs_pack_stage stage, uint64_t original, uint64_t total,
			 uint64_t stored)
{
	(void)user, (void)original, (void)total, (void)stored;
	if (stage == MFS_PACK_WRITE)
		sf_write(CONTAINER, "precious", 8);
	return 0;
}

static void container_that_appears_meanwhile_is_kept(void **state)
{
	const char *const sources[] = {write_model(), NULL};
	job j = JOB;
	struct stat st;

	(void)state;
	j.progress = create_target;
	assert_int_equal(pack(&j, sf_path(CONTAINER), sources), MFS_E_EXISTS);
	assert_int_equal(stat(sf_path(CONTAINER), &st), 0);
	assert_int_equal(st.st_size, 8);
	assert_int_equal(sf_count(), 2);
}

static void targets_that_are_no_files_are_refused(void **state)
{
	const char *const sources[] = {write_model(), NULL};
	job j = JOB;
	char missing[512];

	(void)state;
	j.options.force = 1;
	assert_int_equal(pack(&j, sf_directory, sources), MFS_E_ARGUMENT);
	assert_int_equal(pack(&j, "/dev/null", sources), MFS_E_ARGUMENT);
	snprintf(missing, sizeof(missing), "%s/nowhere/c.mfs", sf_directory);
	assert_int_equal(pack(&j, missing, sources), MFS_E_SYSTEM);
	assert_int_equal(pack(&j, "", sources), MFS_E_ARGUMENT);
	assert_int_equal(sf_count(), 1);
}

static void source_is_never_replaced_by_its_container(void **state)
{
	const char *const sources[] = {write_model(), NULL};
	job j = JOB;

	(void)state;
	j.options.force = 1;
	assert_int_equal(pack(&j, sources[0], sources), MFS_E_ARGUMENT);
	assert_int_equal(symlink("m.gguf", sf_path("link.mfs")), 0);
	assert_int_equal(pack(&j, sf_path("link.mfs"), sources), MFS_E_ARGUMENT);
	assert_int_equal(sf_count(), 2);
}

static void umask_decides_who_may_read_the_container(void **state)
{
	const char *const sources[] = {write_model(), NULL};
	mode_t before = umask(027);
	job j = JOB;
	struct stat st;

	(void)state;
	pack_ok(&j, sources);
	umask(before);
	assert_int_equal(stat(sf_path(CONTAINER), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0640);
}

static int grow_source(void *user, mfs_pack_stage stage, uint64_t original, uint64_t total,
		       uint64_t stored)
{
	(void)original, (void)total, (void)stored;
	if (stage == MFS_PACK_WRITE)
		assert_int_equal(truncate(user, 5 << 20), 0);
	return 0;
}

static int shrink_source(void *user, mfs_pack_stage stage, uint64_t original, uint64_t total,
			 uint64_t stored)
{
	(void)stage, (void)original, (void)total, (void)stored;
	assert_int_equal(truncate(user, 100), 0);
	return 0;
}

static void source_that_changes_meanwhile_is_refused(void **state)
{
	const char *const sources[] = {write_noise("noise", 3 << 20), NULL};
	job j = JOB;

	(void)state;
	j.user = (void *)sources[0];
	j.options.threads = 1;
	j.progress = grow_source;
	assert_int_equal(pack(&j, sf_path(CONTAINER), sources), MFS_E_INVALID);
	assert_non_null(strstr(j.why.text, "changed"));
	assert_int_equal(sf_count(), 1);
	j.progress = shrink_source;
	assert_true(pack(&j, sf_path(CONTAINER), sources) < 0);
	assert_non_null(strstr(j.why.text, "noise"));
	assert_int_equal(sf_count(), 1);
}

static int stop_at(void *user, mfs_pack_stage stage, uint64_t original, uint64_t total,
		   uint64_t stored)
{
	(void)original, (void)total, (void)stored;
	return stage == *(mfs_pack_stage *)user;
}

static void stopping_at_any_stage_leaves_nothing_behind(void **state)
{
	const char *const sources[] = {write_model(), NULL};

	(void)state;
	for (mfs_pack_stage stage = MFS_PACK_PLAN; stage <= MFS_PACK_VERIFY; stage++) {
		job j = JOB;

		j.progress = stop_at;
		j.user = &stage;
		assert_int_equal(pack(&j, sf_path(CONTAINER), sources), MFS_E_CANCELLED);
		assert_int_equal(sf_count(), 1);
	}
}

static void cancelled_packer_writes_nothing(void **state)
{
	mfs_pack_options options = MFS_PACK_OPTIONS_INIT;
	mfs_packer *p;

	(void)state;
	assert_int_equal(mfs_packer_new(&p, &options, NULL), 0);
	assert_int_equal(mfs_packer_add(p, write_model(), NULL, NULL), 0);
	mfs_packer_cancel(p);
	assert_int_equal(mfs_packer_write(p, sf_path(CONTAINER), NULL, NULL, NULL, NULL),
			 MFS_E_CANCELLED);
	mfs_packer_free(p);
	assert_int_equal(sf_count(), 1);
}

/* A file size limit fails writes as a full disk does. */
static void failing_writes_leave_nothing_behind(void **state)
{
	const char *const sources[] = {write_noise("noise", 3 << 20), NULL};
	struct rlimit limit, before;

	(void)state;
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &before);
	for (rlim_t bytes = 0; bytes < 4 << 20; bytes += 250000) {
		job j = JOB;
		int error;

		limit = (struct rlimit){bytes, before.rlim_max};
		setrlimit(RLIMIT_FSIZE, &limit);
		error = pack(&j, sf_path(CONTAINER), sources);
		setrlimit(RLIMIT_FSIZE, &before);
		if (!error)
			break;
		assert_int_equal(error, MFS_E_SYSTEM);
		assert_non_null(strstr(j.why.text, CONTAINER));
		assert_int_equal(sf_count(), 1);
	}
	assert_int_equal(sf_count(), 2);
}

static void impossible_options_are_refused(void **state)
{
	mfs_pack_options options = MFS_PACK_OPTIONS_INIT;
	mfs_packer *p;

	(void)state;
	options.page_bytes = 3000;
	assert_int_equal(mfs_packer_new(&p, &options, NULL), MFS_E_ARGUMENT);
	assert_null(p);
	options.page_bytes = 256;
	assert_int_equal(mfs_packer_new(&p, &options, NULL), MFS_E_ARGUMENT);
	options.page_bytes = 0;
	options.frame_bytes = 4095;
	assert_int_equal(mfs_packer_new(&p, &options, NULL), MFS_E_ARGUMENT);
	options.frame_bytes = MFS_FRAME_MAX + 1;
	assert_int_equal(mfs_packer_new(&p, &options, NULL), MFS_E_ARGUMENT);
	options.frame_bytes = 0;
	options.profile = MFS_PROFILES;
	assert_int_equal(mfs_packer_new(&p, &options, NULL), MFS_E_ARGUMENT);
}

static void nothing_to_pack_is_an_error(void **state)
{
	static const char *const none[] = {NULL};
	job j = JOB;

	(void)state;
	assert_int_equal(pack(&j, sf_path(CONTAINER), none), MFS_E_ARGUMENT);
	assert_int_equal(sf_count(), 0);
}

#define PACK_TEST(name) cmocka_unit_test_setup_teardown(name, sf_setup, sf_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    PACK_TEST(model_comes_back_byte_for_byte),
	    PACK_TEST(every_profile_gives_a_valid_container),
	    PACK_TEST(every_page_size_gives_a_valid_container),
	    PACK_TEST(every_frame_size_gives_a_valid_container),
	    PACK_TEST(smallest_files_come_back),
	    PACK_TEST(large_opaque_file_comes_back),
	    PACK_TEST(ten_thousand_small_tensors_come_back),
	    PACK_TEST(quantized_types_are_split_and_opaque_bytes_are_not),
	    PACK_TEST(nvme_stores_plain_what_gains_little),
	    PACK_TEST(output_is_the_same_for_any_number_of_threads),
	    PACK_TEST(order_of_the_sources_does_not_matter),
	    PACK_TEST(small_containers_stay_within_their_overhead),
	    PACK_TEST(large_containers_stay_within_their_overhead),
	    PACK_TEST(summary_adds_up_by_type),
	    PACK_TEST(dry_run_tells_the_size_and_writes_nothing),
	    PACK_TEST(existing_container_is_kept_without_force),
	    PACK_TEST(container_that_appears_meanwhile_is_kept),
	    PACK_TEST(targets_that_are_no_files_are_refused),
	    PACK_TEST(source_is_never_replaced_by_its_container),
	    PACK_TEST(umask_decides_who_may_read_the_container),
	    PACK_TEST(source_that_changes_meanwhile_is_refused),
	    PACK_TEST(stopping_at_any_stage_leaves_nothing_behind),
	    PACK_TEST(cancelled_packer_writes_nothing),
	    PACK_TEST(failing_writes_leave_nothing_behind),
	    PACK_TEST(impossible_options_are_refused),
	    PACK_TEST(nothing_to_pack_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
