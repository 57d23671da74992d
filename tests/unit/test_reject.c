/* Containers that break a rule of the specification: refused, with the reason. */
#include "reject.h"

#include <time.h>

#include "fixture.h"
#include "root.h"

struct refusal {
	const char *container;
	struct target target;
	uint64_t value;
	const char *reason; /* in the message; NULL: any */
};

#define BAD_SUPERBLOCK "copies of the superblock are damaged"
#define NEW_SUPERBLOCK "newer"
#define BAD_COLUMNS    "the columns of the root do not decode"
#define BAD_SECTION    "a section of the root lies outside"
#define BAD_RECORD     "a tensor's record is not valid"
#define BAD_REFERENCE  "refers to what is not in the root"
#define BAD_BLOCKS     "number of blocks"
#define BAD_SPANS      "a tensor's spans are not valid"
#define BAD_LAYOUT     "do not make up its block"
#define BAD_FIELDS     "fields lie outside"
#define BAD_FIELD      "a field of a layout"
#define BAD_FILE       "a file's record is not valid"
#define BAD_ORDER      "do not follow each other"
#define BAD_SEGMENT    "a segment"

/* future: 2 layouts (4 fields and 1), 1 file, extents of two tensors and of
 * zeros, a tensor of 840 blocks of 23 bytes, tables, 31 frames, 3 chunks. */
static const struct refusal refusals[] = {
    {"hello.mfs", SB(magic), 0, "not a modelfs container"},
    {"hello.mfs", SB(version), 2, NEW_SUPERBLOCK},
    {"hello.mfs", SB(feature_incompat), MFS_INCOMPAT_KNOWN + 1, NEW_SUPERBLOCK},
    {"hello.mfs", SB(feature_incompat), 1, BAD_COLUMNS},
    {"columns.mfs", SB(feature_incompat), 0, BAD_SECTION},
    {"hello.mfs", SB(page_size), 0, BAD_SUPERBLOCK},
    {"hello.mfs", SB(page_size), 256, BAD_SUPERBLOCK},
    {"hello.mfs", SB(page_size), 768, BAD_SUPERBLOCK},
    {"hello.mfs", SB(page_size), 2u << 20, BAD_SUPERBLOCK},
    {"hello.mfs", SB(page_size), 32768, BAD_SUPERBLOCK}, /* does not divide the size */
    {"hello.mfs", SB(container_size), 0, BAD_SUPERBLOCK},
    {"hello.mfs", SB(container_size), 16384 - 512, BAD_SUPERBLOCK},
    {"hello.mfs", SB(container_size), 16384 + 4096, "truncated"},
    {"hello.mfs", SB(container_size), UINT64_C(1) << 62, "truncated"},
    {"hello.mfs", SB(container_size), (UINT64_C(1) << 62) + 4096, BAD_SUPERBLOCK},
    {"hello.mfs", SB(container_size), UINT64_MAX - 4095, BAD_SUPERBLOCK},
    {"hello.mfs", SB(root_offset[0]), 16384, BAD_SUPERBLOCK},
    {"hello.mfs", SB(root_offset[0]), UINT64_MAX, BAD_SUPERBLOCK},
    {"hello.mfs", SB(root_offset[1]), 16384, BAD_SUPERBLOCK},
    {"hello.mfs", SB(root_size), 111, BAD_SUPERBLOCK},
    {"hello.mfs", SB(root_size), (16u << 20) + 1, BAD_SUPERBLOCK},
    {"hello.mfs", SB(root_size), UINT32_MAX, BAD_SUPERBLOCK},
    {"hello.mfs", SB(generation), 2, "another generation"},

    {"future.mfs", ROOT(magic), 0, "no magic"},
    {"future.mfs", ROOT(reserved), 1, "reserved"},
    {"future.mfs", ROOT(generation), 8, "another generation"},
    {"future.mfs", ROOT(frames), 30, NULL},
    {"future.mfs", ROOT(frames), 32, NULL},
    {"future.mfs", ROOT(frames), UINT64_MAX, NULL},
    {"future.mfs", ROOT(chunks), 2, BAD_SEGMENT},
    {"future.mfs", ROOT(chunks), 4, BAD_SEGMENT},
    {"future.mfs", ROOT(chunks), UINT64_MAX, BAD_SEGMENT},
    {"future.mfs", ROOT(section[0].offset), 104, BAD_SECTION},
    {"future.mfs", ROOT(section[0].offset), 113, BAD_SECTION},
    {"future.mfs", ROOT(section[3].offset), 112, BAD_SECTION}, /* overlaps those before */
    {"future.mfs", ROOT(section[9].offset), UINT32_MAX - 7, BAD_SECTION},
    {"future.mfs", ROOT(section[9].count), UINT32_MAX, BAD_SECTION},
    {"future.mfs", ROOT(section[4].count), 0x40000000, BAD_SECTION},
    {"future.mfs", ROOT(section[8].count), 0x80000000, BAD_SECTION},

    /* A root in columns: its header is as it is read. */
    {"columns.mfs", SB(root_size), 112, BAD_COLUMNS},
    {"columns.mfs", ROOT(magic), 0, "no magic"},
    {"columns.mfs", ROOT(section[0].offset), 104, BAD_SECTION},
    {"columns.mfs", ROOT(section[1].offset), 145, BAD_SECTION},
    {"columns.mfs", ROOT(section[4].count), 0x40000000, BAD_SECTION},
    {"columns.mfs", ROOT(section[9].count), 16u << 20, BAD_SECTION},
    {"columns.mfs", ROOT(section[9].count), 0, BAD_COLUMNS},
    {"columns.mfs", ROOT(section[9].count), 16000000, BAD_COLUMNS},

    {"future.mfs", RECORD(LAYOUTS, layout, 0, name_offset), UINT32_MAX, "layout's name"},
    {"future.mfs", RECORD(LAYOUTS, layout, 0, name_length), UINT16_MAX, "layout's name"},
    {"future.mfs", RECORD(LAYOUTS, layout, 0, field_count), 0, BAD_FIELDS},
    {"future.mfs", RECORD(LAYOUTS, layout, 0, field_count), 33, BAD_FIELDS},
    {"future.mfs", RECORD(LAYOUTS, layout, 0, field_count), 3, BAD_LAYOUT},
    {"future.mfs", RECORD(LAYOUTS, layout, 0, field_count), 5, BAD_LAYOUT},
    {"future.mfs", RECORD(LAYOUTS, layout, 0, first_field), 2, BAD_FIELDS},
    {"future.mfs", RECORD(LAYOUTS, layout, 0, first_field), UINT32_MAX, BAD_FIELDS},
    {"future.mfs", RECORD(LAYOUTS, layout, 0, block_bytes), 0, BAD_LAYOUT},
    {"future.mfs", RECORD(LAYOUTS, layout, 0, block_bytes), 22, BAD_LAYOUT},
    {"future.mfs", RECORD(LAYOUTS, layout, 0, block_bytes), 24, BAD_LAYOUT},
    {"future.mfs", RECORD(LAYOUTS, layout, 0, block_bytes), 65537, BAD_LAYOUT},
    {"future.mfs", RECORD(FIELDS, field, 0, name_offset), UINT32_MAX, BAD_FIELD},
    {"future.mfs", RECORD(FIELDS, field, 0, cls), 2, BAD_LAYOUT},
    {"future.mfs", RECORD(FIELDS, field, 0, transform), MFS_TRANSFORMS, BAD_LAYOUT},
    {"future.mfs", RECORD(FIELDS, field, 0, transform), 3, BAD_LAYOUT}, /* constants */
    {"future.mfs", RECORD(FIELDS, field, 0, run), 1, BAD_LAYOUT},
    {"future.mfs", RECORD(FIELDS, field, 0, transform), 0, BAD_LAYOUT}, /* its width is 4 */
    {"future.mfs", RECORD(FIELDS, field, 0, width), 0, BAD_LAYOUT},
    {"future.mfs", RECORD(FIELDS, field, 0, width), 3, BAD_LAYOUT},
    {"future.mfs", RECORD(FIELDS, field, 0, width), 8, BAD_LAYOUT}, /* 4 bytes are no word */
    {"future.mfs", RECORD(FIELDS, field, 0, width), 16, BAD_LAYOUT},
    {"future.mfs", RECORD(FIELDS, field, 0, offset), 1, BAD_LAYOUT},
    {"future.mfs", RECORD(FIELDS, field, 1, offset), 3, BAD_LAYOUT},
    {"future.mfs", RECORD(FIELDS, field, 0, size), 0, BAD_LAYOUT},
    {"future.mfs", RECORD(FIELDS, field, 0, size), 8, BAD_LAYOUT},
    {"future.mfs", RECORD(FIELDS, field, 3, size), UINT32_MAX, BAD_LAYOUT},

    {"future.mfs", RECORD(FILES, file, 0, name_offset), UINT32_MAX, "file's name"},
    {"future.mfs", RECORD(FILES, file, 0, name_length), 0, "file's name"},
    {"future.mfs", RECORD(FILES, file, 0, size), 19355, NULL},
    {"future.mfs", RECORD(FILES, file, 0, size), 19357, "add up"},
    {"future.mfs", RECORD(FILES, file, 0, size), UINT64_MAX, BAD_FILE},
    {"future.mfs", RECORD(FILES, file, 0, size), (UINT64_C(1) << 62) + 1, BAD_FILE},
    {"future.mfs", RECORD(FILES, file, 0, first_extent), 1, BAD_FILE},
    {"future.mfs", RECORD(FILES, file, 0, first_extent), UINT64_MAX, BAD_FILE},
    {"future.mfs", RECORD(FILES, file, 0, extent_count), 2, "add up"},
    {"future.mfs", RECORD(FILES, file, 0, extent_count), 4, BAD_FILE},
    {"future.mfs", RECORD(FILES, file, 0, extent_count), UINT64_MAX, BAD_FILE},
    {"future.mfs", RECORD(FILES, file, 0, mtime_nanoseconds), 1000000000, BAD_FILE},
    {"future.mfs", RECORD(FILES, file, 0, flags), 2, BAD_FILE},
    {"future.mfs", RECORD(FILES, file, 0, kind), MFS_FILE_KINDS, BAD_FILE},
    {"future.mfs", RECORD(FILES, file, 0, base), 1, BAD_FILE},
    {"future.mfs", RECORD(FILES, file, 0, reserved), 1, BAD_FILE},
    {"future.mfs", RECORD(FILES, file, 0, reserved2), 1, BAD_FILE},
    {"future.mfs", RECORD(FILES, file, 0, note_offset), UINT32_MAX, "file's note"},
    {"future.mfs", RECORD(FILES, file, 0, note_length), UINT16_MAX, "file's note"},
    {"many.mfs", RECORD(FILES, file, 1, first_extent), 0, BAD_FILE},
    {"many.mfs", RECORD(FILES, file, 4, extent_count), 0, "add up"},

    {"future.mfs", RECORD(EXTENTS, extent, 0, file_offset), 1, BAD_ORDER},
    {"future.mfs", RECORD(EXTENTS, extent, 1, file_offset), 22, BAD_ORDER},
    {"future.mfs", RECORD(EXTENTS, extent, 1, file_offset), 24, BAD_ORDER},
    {"future.mfs", RECORD(EXTENTS, extent, 0, length), 0, BAD_ORDER},
    {"future.mfs", RECORD(EXTENTS, extent, 2, length), 12, "add up"},
    {"future.mfs", RECORD(EXTENTS, extent, 2, length), UINT64_C(1) << 62, BAD_ORDER},
    {"future.mfs", RECORD(EXTENTS, extent, 2, length), UINT64_MAX, BAD_ORDER},
    {"future.mfs", RECORD(EXTENTS, extent, 0, length), 24, "outside of its tensor"},
    {"future.mfs", RECORD(EXTENTS, extent, 0, source_offset), 1, "outside of its tensor"},
    {"future.mfs", RECORD(EXTENTS, extent, 0, source_offset), UINT64_MAX, "outside of its tensor"},
    {"future.mfs", RECORD(EXTENTS, extent, 0, tensor), 2, "no known kind"},
    {"future.mfs", RECORD(EXTENTS, extent, 0, tensor), UINT32_MAX, "no known kind"},
    {"future.mfs", RECORD(EXTENTS, extent, 0, kind), 2, "no known kind"},
    {"future.mfs", RECORD(EXTENTS, extent, 2, tensor), 1, "zeros"},
    {"future.mfs", RECORD(EXTENTS, extent, 2, source_offset), 1, "zeros"},
    {"future.mfs", RECORD(EXTENTS, extent, 0, reserved), 1, BAD_ORDER},

    {"future.mfs", RECORD(TENSORS, tensor, 1, name_offset), UINT32_MAX, "tensor's name"},
    {"future.mfs", RECORD(TENSORS, tensor, 1, name_length), UINT16_MAX, "tensor's name"},
    {"future.mfs", RECORD(TENSORS, tensor, 1, cls), MFS_DISK_CONSTANTS, BAD_RECORD},
    {"future.mfs", RECORD(TENSORS, tensor, 1, cls), 5, BAD_RECORD},
    {"future.mfs", RECORD(TENSORS, tensor, 1, flags), MFS_TENSOR_DELTA, BAD_RECORD},
    {"future.mfs", RECORD(TENSORS, tensor, 1, flags), MFS_TENSOR_DERIVED, BAD_RECORD},
    {"future.mfs", RECORD(TENSORS, tensor, 1, flags), MFS_TENSOR_INTEGER, BAD_RECORD},
    {"future.mfs", RECORD(TENSORS, tensor, 1, flags), 16, BAD_RECORD},
    {"future.mfs", RECORD(TENSORS, tensor, 1, base), 0, BAD_RECORD}, /* it is no delta */
    {"future.mfs", RECORD(TENSORS, tensor, 1, layout), 2, BAD_REFERENCE},
    {"future.mfs", RECORD(TENSORS, tensor, 1, layout), UINT32_MAX, BAD_REFERENCE},
    {"future.mfs", RECORD(TENSORS, tensor, 1, file), 1, BAD_REFERENCE},
    {"future.mfs", RECORD(TENSORS, tensor, 1, first_dim), 1, BAD_REFERENCE},
    {"future.mfs", RECORD(TENSORS, tensor, 1, dim_count), 4, BAD_REFERENCE},
    {"future.mfs", RECORD(TENSORS, tensor, 1, dim_count), 9, BAD_REFERENCE},
    {"future.mfs", RECORD(TENSORS, tensor, 1, dim_count), UINT32_MAX, BAD_REFERENCE},
    {"future.mfs", RECORD(TENSORS, tensor, 1, size), 0, BAD_BLOCKS},
    {"future.mfs", RECORD(TENSORS, tensor, 1, size), 19321, BAD_BLOCKS},
    {"future.mfs", RECORD(TENSORS, tensor, 1, size), UINT64_MAX, BAD_BLOCKS},
    {"future.mfs", RECORD(TENSORS, tensor, 1, size), 23ull * 280 * 4, "lies outside of its file"},
    {"future.mfs", RECORD(TENSORS, tensor, 1, file_offset), 37, "lies outside of its file"},
    {"future.mfs", RECORD(TENSORS, tensor, 1, file_offset), UINT64_MAX, "lies outside of its file"},
    {"future.mfs", RECORD(TENSORS, tensor, 1, slice_blocks), 0, BAD_SPANS},
    {"future.mfs", RECORD(TENSORS, tensor, 1, slice_blocks), 281, BAD_SPANS},
    {"future.mfs", RECORD(TENSORS, tensor, 1, slice_blocks), UINT64_MAX, BAD_SPANS},
    {"future.mfs", RECORD(TENSORS, tensor, 1, span_blocks), 0, BAD_SPANS},
    {"future.mfs", RECORD(TENSORS, tensor, 1, span_blocks), 281, BAD_SPANS},
    {"future.mfs", RECORD(TENSORS, tensor, 1, span_blocks), UINT32_MAX, BAD_SPANS},
    {"future.mfs", RECORD(TENSORS, tensor, 1, span_blocks), 1, "outside of the frame table"},
    {"future.mfs", RECORD(TENSORS, tensor, 1, slot[0].first), 17, "outside of the frame table"},
    {"future.mfs", RECORD(TENSORS, tensor, 1, slot[0].first), UINT64_MAX,
     "outside of the frame table"},
    {"future.mfs", RECORD(TENSORS, tensor, 1, slot[0].base), 28673, "outside of the container"},
    {"future.mfs", RECORD(TENSORS, tensor, 1, slot[0].base), UINT64_MAX,
     "outside of the container"},
    {"future.mfs", RECORD(TENSORS, tensor, 1, slot[0].tables), 1, "tables are not in the root"},
    {"future.mfs", RECORD(TENSORS, tensor, 1, slot[1].reserved), 1, "reserved"},
    {"future.mfs", RECORD(TENSORS, tensor, 0, slot[1].first), 1, "class that its layout lacks"},
    {"future.mfs", RECORD(TENSORS, tensor, 0, slot[1].base), 1, "class that its layout lacks"},
    {"future.mfs", RECORD(TENSORS, tensor, 0, slot[1].tables), 0, "class that its layout lacks"},
    {"future.mfs", RECORD(TENSORS, tensor, 1, cls), MFS_DISK_PLAIN, "has tables"},
    {"many.mfs", RECORD(TENSORS, tensor, 0, file), 4, NULL}, /* not in the order of files */

    {"future.mfs", RECORD(TABLES, tables, 0, size), 0, "tables lie outside"},
    {"future.mfs", RECORD(TABLES, tables, 0, size), (1u << 20) + 1, "tables lie outside"},
    {"future.mfs", RECORD(TABLES, tables, 0, offset), 28672 - 1, "tables lie outside"},
    {"future.mfs", RECORD(TABLES, tables, 0, offset), UINT64_MAX, "tables lie outside"},
    {"future.mfs", RECORD(TABLES, tables, 0, reserved), 1, "tables lie outside"},

    {"future.mfs", RECORD(SEGMENTS, segment, 0, kind), 1, BAD_SEGMENT},
    {"future.mfs", RECORD(SEGMENTS, segment, 0, kind), 2, BAD_SEGMENT},
    {"future.mfs", RECORD(SEGMENTS, segment, 1, kind), 0, BAD_SEGMENT},
    {"future.mfs", RECORD(SEGMENTS, segment, 0, size), 0, BAD_SEGMENT},
    {"future.mfs", RECORD(SEGMENTS, segment, 0, size), 30 * 16, BAD_SEGMENT},
    {"future.mfs", RECORD(SEGMENTS, segment, 0, size), 31 * 16 + 1, BAD_SEGMENT},
    {"future.mfs", RECORD(SEGMENTS, segment, 0, size), UINT32_MAX, BAD_SEGMENT},
    {"future.mfs", RECORD(SEGMENTS, segment, 0, offset[0]), 28672 - 495, BAD_SEGMENT},
    {"future.mfs", RECORD(SEGMENTS, segment, 0, offset[1]), UINT64_MAX, BAD_SEGMENT},
    {"future.mfs", RECORD(SEGMENTS, segment, 1, reserved), 1, BAD_SEGMENT},
};

static void what_breaks_a_rule_is_refused_with_the_reason(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
		const struct refusal *r = &refusals[i];
		vector v = vector_load(r->container);
		char what[200];

		snprintf(what, sizeof(what), "case %zu: %s, section %d record %u offset %u = %llx",
			 i, r->container, (int)r->target.section, r->target.record,
			 r->target.offset, (unsigned long long)r->value);
		store(target_at(&v, &r->target), r->target.size, r->value);
		container_repair(v.bytes, v.size, REPAIR_ROOT | REPAIR_SUPERBLOCKS);
		assert_refused(&v, what, r->reason);
		vector_free(&v);
	}
}

static void a_superblock_at_another_place_is_refused(void **state)
{
	vector v = vector_load("hello.mfs");

	(void)state;
	for (int i = 0; i < 3; i++) {
		const uint64_t places[] = {0, MFS_SB_SLOT1_NOR, v.size - MFS_SB_SIZE};
		uint8_t *sb = v.bytes + places[i];

		store_le64(sb + 8, places[(i + 1) % 3]);
		store_le64(sb + MFS_SB_HASHED, XXH3_64bits(sb, MFS_SB_HASHED));
	}
	assert_refused(&v, "own offset", BAD_SUPERBLOCK);
	vector_free(&v);
}

/* ---- names ---- */

#define LONG_NAME 200

/* Three files with names of 200 bytes: a..., b..., c... */
static vector long_names(void)
{
	mfs_pack_options options = MFS_PACK_OPTIONS_INIT;
	uint8_t byte = 'x';
	vector v;
	fixture f;

	options.profile = MFS_PROFILE_NOR;
	options.page_bytes = 512;
	fixture_begin(&f, &options);
	for (int i = 0; i < 3; i++) {
		char name[LONG_NAME + 1] = {0};

		memset(name, 'a' + i, LONG_NAME);
		fixture_add(&f, name, &byte, 1);
	}
	fixture_end(&f);
	v.bytes = f.container;
	v.size = f.size;
	return v;
}

static uint8_t *name_bytes(const vector *v, uint32_t file)
{
	uint32_t count;
	uint8_t *names = repair_section(v->bytes, v->size, MFS_SEC_NAMES, 1, &count);

	return names + load_le32(&VECTOR_RECORD(v, FILES, file, file)->name_offset);
}

/* The name of file 1 becomes these bytes. */
static void rename_file(vector *v, const char *name, size_t length)
{
	memcpy(name_bytes(v, 1), name, length);
	store_le16(&VECTOR_RECORD(v, FILES, file, 1)->name_length, (uint16_t)length);
	container_repair(v->bytes, v->size, REPAIR_ROOT | REPAIR_SUPERBLOCKS);
}

static void names_that_no_directory_can_show_are_refused(void **state)
{
	static const struct {
		const char *bytes;
		size_t length;
	} bad[] = {
	    {"", 0},
	    {".", 1},
	    {"..", 2},
	    {"/", 1},
	    {"b/../b", 6},
	    {"bb/", 3},
	    {"b\0b", 3},
	    {"\0", 1},
	    {"b\x80", 2},	      /* a continuation alone */
	    {"b\xc0\xaf", 3},	      /* overlong '/' */
	    {"b\xe0\x80\xaf", 4},     /* overlong */
	    {"b\xed\xa0\x80", 4},     /* a surrogate */
	    {"b\xf4\x90\x80\x80", 5}, /* above U+10FFFF */
	    {"b\xf8\x88\x80\x80", 5}, /* five bytes */
	    {"b\xc3", 2},	      /* cut short */
	    {"b\xff", 2},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		vector v = long_names();

		rename_file(&v, bad[i].bytes, bad[i].length);
		assert_refused(&v, "a bad name", "a file's name is not valid");
		vector_free(&v);
	}
}

static void names_of_255_bytes_open_and_of_256_do_not(void **state)
{
	(void)state;
	for (uint16_t length = 255; length <= 256; length++) {
		vector v = long_names();
		mfs_container *c;
		mfs_problem why;

		/* Into the bytes of the next name. */
		store_le16(&VECTOR_RECORD(&v, FILES, file, 1)->name_length, length);
		container_repair(v.bytes, v.size, REPAIR_ROOT | REPAIR_SUPERBLOCKS);
		if (length == 256) {
			assert_refused(&v, "256 bytes", "a file's name is not valid");
		} else {
			assert_int_equal(vector_open(&c, &v, &why), 0);
			mfs_close(c);
		}
		vector_free(&v);
	}
}

static void equal_and_unsorted_names_are_refused(void **state)
{
	static const char *const names[] = {"a", "aa", "ca", "c", "\xc3\xbc"};

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		vector v = long_names();

		rename_file(&v, names[i], strlen(names[i]));
		if (i == 2 || i == 3) { /* 'c' and 'ca' lie before 'cc...' */
			mfs_container *c;
			mfs_problem why;

			assert_int_equal(vector_open(&c, &v, &why), 0);
			mfs_close(c);
		} else {
			assert_refused(&v, names[i], "sorted");
		}
		store_le32(&VECTOR_RECORD(&v, FILES, file, 1)->name_offset,
			   load_le32(&VECTOR_RECORD(&v, FILES, file, 0)->name_offset));
		store_le16(&VECTOR_RECORD(&v, FILES, file, 1)->name_length, LONG_NAME);
		container_repair(v.bytes, v.size, REPAIR_ROOT | REPAIR_SUPERBLOCKS);
		assert_refused(&v, "a name twice", "a name stands twice");
		vector_free(&v);
	}
}

static void bad_names_of_types_and_tensors_are_refused(void **state)
{
	vector v = vector_load("future.mfs");
	uint32_t count;
	uint8_t *names = repair_section(v.bytes, v.size, MFS_SEC_NAMES, 1, &count);

	(void)state;
	names[0] = 0xff;
	container_repair(v.bytes, v.size, REPAIR_ROOT | REPAIR_SUPERBLOCKS);
	assert_refused(&v, "a type's name", "layout's name");
	names[0] = 'Q';
	names[load_le32(&VECTOR_RECORD(&v, TENSORS, tensor, 1)->name_offset)] = 0;
	container_repair(v.bytes, v.size, REPAIR_ROOT | REPAIR_SUPERBLOCKS);
	assert_refused(&v, "a tensor's name", BAD_RECORD);
	vector_free(&v);
}

/* ---- counts that are legal one by one ---- */

/* A container whose root has these counts and `generation` 1; the caller fills
 * in the records. */
static vector big_root(const uint32_t count[MFS_SECTIONS], mfs_root *root)
{
	vector v;
	struct mfs_disk_superblock *sb;

	assert_true(mfs_root_layout(root, count) > 0);
	root->generation = 1;
	v.size = 8192 + round_up(root->size, 4096) + MFS_SB_SIZE;
	v.bytes = calloc(1, v.size);
	assert_non_null(v.bytes);
	sb = vector_superblock(&v);
	store_le64(&sb->magic, MFS_MAGIC);
	store_le16(&sb->version, 1);
	store_le16(&sb->profile, MFS_PROFILE_NOR);
	store_le32(&sb->page_size, 512);
	store_le64(&sb->generation, 1);
	store_le64(&sb->container_size, v.size);
	store_le64(&sb->root_offset[0], 8192);
	store_le64(&sb->root_offset[1], 8192);
	store_le32(&sb->root_size, root->size);
	return v;
}

static void assert_refused_soon(vector *v, const char *what, const char *reason)
{
	struct timespec start, end;
	double seconds;

	container_repair(v->bytes, v->size, REPAIR_ROOT | REPAIR_SUPERBLOCKS);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &start);
	assert_refused(v, what, reason);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
	seconds = (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9;
	if (seconds > (SANITIZED ? 10 : 1))
		fail_msg("%s: refused after %.1f s", what, seconds);
	vector_free(v);
}

static void many_tensors_that_share_a_long_name_are_refused_soon(void **state)
{
	const uint32_t count[MFS_SECTIONS] = {[MFS_SEC_TENSORS] = 130000, [MFS_SEC_NAMES] = 65535};
	mfs_root root;
	vector v = big_root(count, &root);
	const mfs_root_tensor t = {.name_length = 65535, .base = MFS_NO_TENSOR};
	uint8_t *bytes = v.bytes + 8192;

	(void)state;
	mfs_root_put_header(&root, bytes);
	memset(bytes + root.offset[MFS_SEC_NAMES], 'x', 65535);
	for (uint32_t i = 0; i < count[MFS_SEC_TENSORS]; i++)
		mfs_root_put_tensor(&root, bytes, i, &t, 0);
	assert_refused_soon(&v, "long names", "too long together");
}

static void many_files_that_share_their_extents_are_refused_soon(void **state)
{
	const uint32_t count[MFS_SECTIONS] = {
	    [MFS_SEC_FILES] = 100000, [MFS_SEC_EXTENTS] = 250000, [MFS_SEC_NAMES] = 600000};
	mfs_root root;
	vector v = big_root(count, &root);
	uint8_t *bytes = v.bytes + 8192;

	(void)state;
	mfs_root_put_header(&root, bytes);
	for (uint32_t i = 0; i < count[MFS_SEC_FILES]; i++) {
		const mfs_root_file f = {.name_length = 6,
					 .size = count[MFS_SEC_EXTENTS],
					 .extent_count = count[MFS_SEC_EXTENTS],
					 .base = MFS_NO_FILE};
		char name[16];

		snprintf(name, sizeof(name), "%06u", i);
		mfs_root_put_name(&root, bytes, 6 * i, name, 6);
		mfs_root_put_file(&root, bytes, i, &f, 6 * i, 0);
	}
	for (uint32_t i = 0; i < count[MFS_SEC_EXTENTS]; i++)
		mfs_root_put_extent(
		    &root, bytes, i,
		    &(mfs_root_extent){.file_offset = i, .length = 1, .kind = MFS_EXTENT_ZEROS});
	assert_refused_soon(&v, "shared extents", BAD_FILE);
}

/* Else a reader that adds up a tensor's frames would load terabytes of them. */
static void many_segments_over_the_same_bytes_are_refused_soon(void **state)
{
	const uint32_t count[MFS_SECTIONS] = {[MFS_SEC_SEGMENTS] = 400000};
	mfs_root root;
	vector v = big_root(count, &root);
	uint8_t *bytes = v.bytes + 8192;

	(void)state;
	root.frames = count[MFS_SEC_SEGMENTS] * MFS_SEGMENT_FRAME_COUNT;
	mfs_root_put_header(&root, bytes);
	for (uint32_t i = 0; i < count[MFS_SEC_SEGMENTS]; i++)
		mfs_root_put_segment(&root, bytes, i, &(mfs_root_segment){.size = MFS_SEGMENT_MAX});
	assert_refused_soon(&v, "segments", "larger than the container");
}

static void a_virtual_file_of_4_EiB_is_read_anywhere(void **state)
{
	const uint32_t count[MFS_SECTIONS] = {
	    [MFS_SEC_FILES] = 1, [MFS_SEC_EXTENTS] = 1, [MFS_SEC_NAMES] = 4};
	mfs_root root;
	vector v = big_root(count, &root);
	uint8_t *bytes = v.bytes + 8192, got[100], zeros[100] = {0};
	mfs_container *c;
	mfs_problem why;

	(void)state;
	mfs_root_put_header(&root, bytes);
	mfs_root_put_name(&root, bytes, 0, "zero", 4);
	mfs_root_put_file(
	    &root, bytes, 0,
	    &(mfs_root_file){
		.name_length = 4, .size = MFS_FILE_MAX, .extent_count = 1, .base = MFS_NO_FILE},
	    0, 0);
	mfs_root_put_extent(&root, bytes, 0,
			    &(mfs_root_extent){.length = MFS_FILE_MAX, .kind = MFS_EXTENT_ZEROS});
	container_repair(v.bytes, v.size, REPAIR_ROOT | REPAIR_SUPERBLOCKS);
	assert_int_equal(vector_open(&c, &v, &why), 0);
	for (int shift = 0; shift < 62; shift += 6) {
		uint64_t at = UINT64_C(1) << shift;

		memset(got, 1, sizeof(got));
		assert_int_equal(mfs_read(c, 0, at, got, sizeof(got)), sizeof(got));
		assert_memory_equal(got, zeros, sizeof(got));
	}
	assert_int_equal(mfs_read(c, 0, MFS_FILE_MAX - 1, got, sizeof(got)), 1);
	mfs_close(c);
	vector_free(&v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_breaks_a_rule_is_refused_with_the_reason),
	    cmocka_unit_test(a_superblock_at_another_place_is_refused),
	    cmocka_unit_test(names_that_no_directory_can_show_are_refused),
	    cmocka_unit_test(names_of_255_bytes_open_and_of_256_do_not),
	    cmocka_unit_test(equal_and_unsorted_names_are_refused),
	    cmocka_unit_test(bad_names_of_types_and_tensors_are_refused),
	    cmocka_unit_test(many_tensors_that_share_a_long_name_are_refused_soon),
	    cmocka_unit_test(many_files_that_share_their_extents_are_refused_soon),
	    cmocka_unit_test(many_segments_over_the_same_bytes_are_refused_soon),
	    cmocka_unit_test(a_virtual_file_of_4_EiB_is_read_anywhere),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
