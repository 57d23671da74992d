/*
 * Damaged and hostile containers. Hashes are repaired where the check behind them
 * is meant. What breaks a rule of the specification must be refused; whatever
 * else is changed, nothing crashes, hangs or takes memory without bound, and with
 * hashes as they were no wrong byte is read.
 */
#include "vectors.h"

#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#include <zstd.h>

#include "../unit/exercise.h"
#include "fixture.h"
#include "root.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* A hang ends the program. */
#define SECONDS (SANITIZED ? 250 : 100)

/* ---- one field of one record ---- */

struct target {
	enum { SUPERBLOCK, HEADER, SECTION, FRAME, CHUNK } where;
	enum mfs_root_section section;
	uint32_t record;
	uint32_t record_size;
	uint32_t offset; /* in the record */
	uint32_t size;
};

#define TARGET(place, sec, type, i, field)                                                         \
	{                                                                                          \
		place, sec, i, sizeof(struct mfs_disk_##type),                                     \
		    offsetof(struct mfs_disk_##type, field),                                       \
		    sizeof(((struct mfs_disk_##type *)0)->field)                                   \
	}
#define SB(field)		    TARGET(SUPERBLOCK, 0, superblock, 0, field)
#define ROOT(field)		    TARGET(HEADER, 0, root, 0, field)
#define RECORD(SEC, type, i, field) TARGET(SECTION, MFS_SEC_##SEC, type, i, field)

/* Where the entries of the frame or of the chunk table lie (copy 1). */
static uint8_t *table_entry(const vector *v, uint16_t kind, uint32_t i)
{
	uint32_t count;
	struct mfs_disk_segment *s = (void *)repair_section(
	    v->bytes, v->size, MFS_SEC_SEGMENTS, sizeof(struct mfs_disk_segment), &count);
	uint32_t record = kind ? sizeof(struct mfs_disk_chunk) : sizeof(struct mfs_disk_frame);

	for (; count && load_le16(&s->kind) != kind; count--)
		s++;
	assert_true(count > 0 && i < load_le32(&s->size) / record);
	return v->bytes + load_le64(&s->offset[0]) + i * record;
}

static uint8_t *target_at(const vector *v, const struct target *t)
{
	switch (t->where) {
	case SUPERBLOCK:
		return v->bytes + t->offset;
	case HEADER:
		return repair_root_at(v->bytes, v->size, 0) + t->offset;
	case SECTION:
		return (uint8_t *)vector_record(v, t->section, t->record_size, t->record) +
		       t->offset;
	case FRAME:
		return table_entry(v, MFS_SEGMENT_FRAMES, t->record) + t->offset;
	case CHUNK:
		return table_entry(v, MFS_SEGMENT_CHUNKS, t->record) + t->offset;
	}
	return NULL;
}

static void store(uint8_t *at, uint32_t size, uint64_t value)
{
	for (uint32_t i = 0; i < size; i++)
		at[i] = i < 8 ? (uint8_t)(value >> 8 * i) : 0;
}

static uint64_t load(const uint8_t *at, uint32_t size)
{
	uint64_t value = 0;

	for (uint32_t i = 0; i < size && i < 8; i++)
		value |= (uint64_t)at[i] << 8 * i;
	return value;
}

/* ---- refused ---- */

static void assert_refused(const vector *v, const char *what, const char *reason)
{
	mfs_container *c;
	mfs_problem why;
	int err = vector_open(&c, v, &why);

	if (!err)
		fail_msg("%s: opens", what);
	assert_null(c);
	assert_int_equal(why.error, err);
	if (reason && !strstr(why.text, reason))
		fail_msg("%s: refused for another reason: %s", what, why.text);
}

struct refusal {
	const char *container;
	struct target target;
	uint64_t value;
	const char *reason; /* in the message; NULL: any */
};

#define BAD_SUPERBLOCK "copies of the superblock are damaged"
#define NEW_SUPERBLOCK "newer"
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
    {"hello.mfs", SB(feature_incompat), 1, NEW_SUPERBLOCK},
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
    {"hello.mfs", SB(root_size), 103, BAD_SUPERBLOCK},
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
    {"future.mfs", ROOT(section[0].offset), 96, BAD_SECTION},
    {"future.mfs", ROOT(section[0].offset), 105, BAD_SECTION},
    {"future.mfs", ROOT(section[3].offset), 104, BAD_SECTION}, /* overlaps those before */
    {"future.mfs", ROOT(section[8].offset), UINT32_MAX - 7, BAD_SECTION},
    {"future.mfs", ROOT(section[8].count), UINT32_MAX, BAD_SECTION},
    {"future.mfs", ROOT(section[4].count), 0x40000000, BAD_SECTION},
    {"future.mfs", ROOT(section[7].count), 0x80000000, BAD_SECTION},

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
    {"future.mfs", RECORD(FIELDS, field, 0, reserved), 1, BAD_FIELD},
    {"future.mfs", RECORD(FIELDS, field, 0, cls), 2, BAD_LAYOUT},
    {"future.mfs", RECORD(FIELDS, field, 0, transform), 3, BAD_LAYOUT},
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
    {"future.mfs", RECORD(FILES, file, 0, flags), 1, BAD_FILE},
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
    {"future.mfs", RECORD(TENSORS, tensor, 1, flags), 2, BAD_RECORD},
    {"future.mfs", RECORD(TENSORS, tensor, 1, reserved), 1, BAD_RECORD},
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
	    {"b/b", 3},
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

/* ---- every field at every value ---- */

static const uint64_t values[] = {
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    31,
    32,
    33,
    103,
    104,
    127,
    128,
    255,
    256,
    511,
    512,
    4095,
    4096,
    32767,
    32768,
    65535,
    65536,
    65537,
    1u << 20,
    (1u << 20) + 1,
    4u << 20,
    (4u << 20) + 1,
    16u << 20,
    (16u << 20) + 1,
    999999999,
    1000000000,
    INT32_MAX,
    UINT64_C(1) << 31,
    UINT32_MAX,
    UINT64_C(1) << 32,
    UINT64_C(1) << 40,
    (UINT64_C(1) << 62) - 1,
    UINT64_C(1) << 62,
    (UINT64_C(1) << 62) + 1,
    INT64_MAX,
    UINT64_C(1) << 63,
    UINT64_MAX - 1,
    UINT64_MAX,
};

static void exercise(const vector *v)
{
	mfs_container *c;
	mfs_problem why;

	if (vector_open(&c, v, &why)) {
		assert_null(c);
		assert_true(why.error < 0 && why.text[0]);
		return;
	}
	exercise_container(c);
	mfs_close(c);
}

static void try_value(const vector *from, const struct target *t, uint64_t value)
{
	vector v = vector_copy(from);
	unsigned what = REPAIR_ROOT | REPAIR_SUPERBLOCKS;

	store(target_at(&v, t), t->size, value);
	if (t->where == FRAME || t->where == CHUNK || t->section == MFS_SEC_SEGMENTS)
		what |= REPAIR_SEGMENTS;
	container_repair(v.bytes, v.size, what);
	exercise(&v);
	vector_free(&v);
}

/* Also its neighbours, and numbers that have to do with this container. */
static void try_values(const vector *v, const struct target *t)
{
	uint64_t now = load(target_at(v, t), t->size);
	uint64_t limit = t->size >= 8 ? UINT64_MAX : (UINT64_C(1) << 8 * t->size) - 1;

	/* Sanitizers are slow: they see every third value, another at each field. */
	for (size_t i = SANITIZED ? t->offset % 3 : 0; i < sizeof(values) / sizeof(values[0]);
	     i += SANITIZED ? 3 : 1)
		if (values[i] <= limit && values[i] != now)
			try_value(v, t, values[i]);
	try_value(v, t, (now - 1) & limit);
	try_value(v, t, (now + 1) & limit);
	try_value(v, t, (now * 2) & limit);
	for (uint64_t near = v->size - 1; near <= v->size + 1; near++)
		try_value(v, t, near & limit);
}

/* All places of a record that begin a field: those of one byte lie at 6 to 9, in
 * chunks at 24 and 25. */
static void sweep_record(const vector *v, struct target t, uint32_t size)
{
	for (t.size = t.where == FRAME ? 8 : 1; t.size <= 8; t.size *= 2)
		for (t.offset = 0; t.offset + t.size <= size; t.offset += t.size)
			if (t.size > 1 || (t.offset >= 6 && t.offset <= 9) ||
			    (t.where == CHUNK && t.offset / 2 == 12))
				try_values(v, &t);
}

static void sweep_section(const vector *v, enum mfs_root_section section, uint32_t size)
{
	uint32_t count;

	repair_section(v->bytes, v->size, section, size, &count);
	for (uint32_t i = 0; i < count; i++)
		sweep_record(v, (struct target){SECTION, section, i, size, 0, 0}, size);
}

static void every_field_of_the_superblock_at_every_value(void **state)
{
	vector v = vector_load("hello.mfs");

	(void)state;
	alarm(SECONDS);
	sweep_record(&v, (struct target){.where = SUPERBLOCK}, 104);
	vector_free(&v);
	alarm(0);
}

static void sweep_root(const char *name)
{
	vector v = vector_load(name);

	alarm(SECONDS);
	sweep_record(&v, (struct target){.where = HEADER}, sizeof(struct mfs_disk_root));
	sweep_section(&v, MFS_SEC_LAYOUTS, sizeof(struct mfs_disk_layout));
	sweep_section(&v, MFS_SEC_FIELDS, sizeof(struct mfs_disk_field));
	sweep_section(&v, MFS_SEC_FILES, sizeof(struct mfs_disk_file));
	sweep_section(&v, MFS_SEC_EXTENTS, sizeof(struct mfs_disk_extent));
	sweep_section(&v, MFS_SEC_TENSORS, sizeof(struct mfs_disk_tensor));
	sweep_section(&v, MFS_SEC_DIMS, sizeof(le64));
	sweep_section(&v, MFS_SEC_TABLES, sizeof(struct mfs_disk_tables));
	sweep_section(&v, MFS_SEC_SEGMENTS, sizeof(struct mfs_disk_segment));
	vector_free(&v);
	alarm(0);
}

static void every_field_of_a_small_root_at_every_value(void **state)
{
	(void)state;
	sweep_root("hello.mfs");
}

static void every_field_of_a_root_with_tables_at_every_value(void **state)
{
	(void)state;
	sweep_root("future.mfs");
}

static void every_field_of_frame_and_chunk_tables_at_every_value(void **state)
{
	vector v = vector_load("future.mfs");

	(void)state;
	alarm(SECONDS);
	for (uint32_t i = 0; i < 31; i += 6)
		sweep_record(&v, (struct target){.where = FRAME, .record = i},
			     sizeof(struct mfs_disk_frame));
	for (uint32_t i = 0; i < 3; i++)
		sweep_record(&v, (struct target){.where = CHUNK, .record = i},
			     sizeof(struct mfs_disk_chunk));
	vector_free(&v);
	alarm(0);
}

/* ---- things that lie where they must not ---- */

/* Frames, tables and segments that lie over the superblock, the root, the table
 * that names them, and each other. */
static void things_that_overlap_do_no_harm(void **state)
{
	vector from = vector_load("future.mfs");
	const struct mfs_disk_superblock *sb = vector_superblock(&from);
	const uint64_t places[] = {
	    0,
	    MFS_SB_SLOT1_NOR,
	    load_le64(&sb->root_offset[0]),
	    load_le64(&sb->root_offset[1]),
	    load_le64(&VECTOR_RECORD(&from, SEGMENTS, segment, 0)->offset[0]),
	    load_le64(&VECTOR_RECORD(&from, SEGMENTS, segment, 1)->offset[0]),
	    from.size - MFS_SB_SIZE};

	(void)state;
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
		for (int thing = 0; thing < 6; thing++) {
			vector v = vector_copy(&from);
			struct mfs_disk_segment *s =
			    VECTOR_RECORD(&v, SEGMENTS, segment, (uint32_t)thing & 1);
			struct mfs_disk_tensor *t = VECTOR_RECORD(&v, TENSORS, tensor, 1);

			if (thing < 4)
				store_le64(&s->offset[thing >> 1], places[i]);
			else if (thing == 4)
				store_le64(&t->slot[0].base, places[i]);
			else
				store_le64(&VECTOR_RECORD(&v, TABLES, tables, 0)->offset,
					   places[i]);
			/* Twice: hashes of hashes never come to rest. */
			container_repair(v.bytes, v.size, REPAIR_ALL);
			container_repair(v.bytes, v.size, REPAIR_ALL);
			exercise(&v);
			vector_free(&v);
		}
	vector_free(&from);
}

static void a_segment_that_holds_itself_cannot_be_read(void **state)
{
	vector v = vector_load("hello.mfs");
	struct mfs_disk_segment *s = VECTOR_RECORD(&v, SEGMENTS, segment, 0);
	mfs_container *c;
	mfs_problem why;
	uint8_t byte;

	(void)state;
	for (int copy = 0; copy < 2; copy++)
		store_le64(&s->offset[copy], (uint64_t)((uint8_t *)s - v.bytes) +
						 offsetof(struct mfs_disk_segment, hash));
	container_repair(v.bytes, v.size, REPAIR_SEGMENTS | REPAIR_ROOT | REPAIR_SUPERBLOCKS);
	assert_int_equal(vector_open(&c, &v, &why), 0);
	assert_int_equal(mfs_read(c, 0, 0, &byte, 1), MFS_E_CORRUPT);
	mfs_close(c);
	vector_free(&v);
}

/* ---- frames ---- */

#define HELLO_BYTES 561 /* hello.txt; its only frame */
#define FRAME_ROOM  512

/* Replaces the frame of hello.mfs, with hashes that fit, and reads the file. */
static int64_t read_with_frame(const uint8_t *stored, size_t size, uint8_t out[HELLO_BYTES])
{
	vector v = vector_load("hello.mfs");
	uint64_t base = load_le64(&VECTOR_RECORD(&v, TENSORS, tensor, 0)->slot[0].base);
	mfs_container *c;
	mfs_problem why;
	int64_t got;

	assert_true(size <= FRAME_ROOM);
	memcpy(v.bytes + base, stored, size);
	store_le64(table_entry(&v, MFS_SEGMENT_FRAMES, 0), (uint64_t)size << MFS_FRAME_OFFSET_BITS);
	container_repair(v.bytes, v.size, REPAIR_ALL);
	assert_int_equal(vector_open(&c, &v, &why), 0);
	got = mfs_read(c, 0, 0, out, HELLO_BYTES);
	mfs_close(c);
	vector_free(&v);
	return got;
}

struct frame {
	uint8_t bytes[FRAME_ROOM];
	size_t size;
};

static void add(struct frame *f, const void *bytes, size_t size)
{
	assert_true(size <= FRAME_ROOM - f->size);
	memcpy(f->bytes + f->size, bytes, size);
	f->size += size;
}

/* A stream header for what follows it. */
static void set_header(struct frame *f, unsigned coding)
{
	store_le32(f->bytes, (uint32_t)coding << 28 | (uint32_t)(f->size - 4));
}

static struct frame begin_frame(void)
{
	return (struct frame){.size = 4};
}

static void add_zstd(struct frame *f, size_t zeros)
{
	uint8_t *in = calloc(1, zeros + 1);
	size_t size = ZSTD_compress(f->bytes + f->size, FRAME_ROOM - f->size, in, zeros, 3);

	assert_false(ZSTD_isError(size));
	f->size += size;
	free(in);
}

/* Blocks of one byte repeated: 128 KiB for 4 bytes. */
static void add_bomb(struct frame *f, unsigned blocks)
{
	static const uint8_t header[] = {0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58};

	add(f, header, sizeof(header));
	for (unsigned i = 0; i < blocks; i++) {
		uint32_t block = (128u << 10) << 3 | 1 << 1 | (i + 1 == blocks);
		uint8_t bytes[4] = {(uint8_t)block, (uint8_t)(block >> 8), (uint8_t)(block >> 16),
				    'x'};

		add(f, bytes, sizeof(bytes));
	}
}

static void assert_frame(const struct frame *f, int64_t expected, const char *what)
{
	uint8_t out[HELLO_BYTES];
	int64_t got = read_with_frame(f->bytes, f->size, out);

	if (got != expected)
		fail_msg("%s: %lld", what, (long long)got);
	for (int i = 0; got > 0 && i < HELLO_BYTES; i++)
		assert_int_equal(out[i], 0);
}

static void sound_frames_of_every_form_are_read(void **state)
{
	struct frame f = {.size = 0};
	uint8_t raw[HELLO_BYTES];

	(void)state;
	assert_frame(&f, HELLO_BYTES, "zero frame");
	f = begin_frame();
	set_header(&f, 1);
	assert_frame(&f, HELLO_BYTES, "zero stream");
	for (unsigned coding = 2; coding <= 3; coding++) {
		f = begin_frame();
		add_zstd(&f, HELLO_BYTES);
		set_header(&f, coding);
		assert_frame(&f, HELLO_BYTES, "zstd");
	}
	assert_int_equal(read_with_frame((const uint8_t *)"", 0, raw), HELLO_BYTES);
}

static void frames_with_wrong_headers_are_errors(void **state)
{
	struct frame f;

	(void)state;
	for (unsigned coding = 4; coding <= 15; coding++) {
		f = begin_frame();
		add_zstd(&f, HELLO_BYTES);
		set_header(&f, coding);
		assert_frame(&f, MFS_E_CORRUPT, "a coding that is not known or has no tables");
	}
	for (size_t size = 1; size < 4; size++) {
		f = (struct frame){.size = size};
		assert_frame(&f, MFS_E_CORRUPT, "shorter than its headers");
	}
	f = begin_frame();
	add(&f, "abc", 3);
	set_header(&f, 0);
	assert_frame(&f, MFS_E_CORRUPT, "a raw stream of another size");
	set_header(&f, 1);
	assert_frame(&f, MFS_E_CORRUPT, "zeros that are stored");
	f = begin_frame();
	add_zstd(&f, HELLO_BYTES);
	set_header(&f, 2);
	f.bytes[f.size++] = 0;
	assert_frame(&f, MFS_E_CORRUPT, "a byte behind the last stream");
	f.size -= 2;
	assert_frame(&f, MFS_E_CORRUPT, "a stream that ends behind the frame");
	store_le32(f.bytes, 0x2fffffff);
	assert_frame(&f, MFS_E_CORRUPT, "a stream longer than anything");
}

static void zstd_streams_that_are_not_one_frame_of_the_right_size_are_errors(void **state)
{
	static const size_t sizes[] = {0,	 1,	    HELLO_BYTES - 1, HELLO_BYTES + 1,
				       1u << 20, 100u << 20};
	static const uint8_t skippable[] = {0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 1, 2};
	struct frame f;

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		if (sizes[i] > 1u << 20)
			continue; /* add_bomb() below */
		f = begin_frame();
		add_zstd(&f, sizes[i]);
		set_header(&f, 2);
		assert_frame(&f, MFS_E_CORRUPT, "another size");
	}
	f = begin_frame();
	add_bomb(&f, 100);
	set_header(&f, 2);
	assert_frame(&f, MFS_E_CORRUPT, "12 MiB out of 400 bytes");
	f = begin_frame();
	add(&f, skippable, sizeof(skippable));
	add_zstd(&f, HELLO_BYTES);
	set_header(&f, 2);
	assert_frame(&f, MFS_E_CORRUPT, "a skippable frame before");
	f = begin_frame();
	add_zstd(&f, HELLO_BYTES);
	add(&f, skippable, sizeof(skippable));
	set_header(&f, 2);
	assert_frame(&f, MFS_E_CORRUPT, "a skippable frame behind");
	f = begin_frame();
	add_zstd(&f, HELLO_BYTES - 1);
	add_zstd(&f, 1);
	set_header(&f, 2);
	assert_frame(&f, MFS_E_CORRUPT, "two frames");
	f = begin_frame();
	add(&f, "zstd? no", 8);
	set_header(&f, 2);
	assert_frame(&f, MFS_E_CORRUPT, "no frame");
}

static void frame_headers_of_zstd_that_lie_take_no_memory(void **state)
{
	/* A content size of 2^63, and windows of up to 3.75 TiB. */
	static const uint8_t content[] = {0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0,    0, 0,
					  0,	0,    0,    0,	  0x80, 0x01, 0, 0};
	static const uint8_t window[] = {0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff, 0x8b, 0x11, 0x00, 0};
	uint8_t out[HELLO_BYTES];
	struct frame f = begin_frame();
	int64_t got;

	(void)state;
	add(&f, content, sizeof(content));
	set_header(&f, 2);
	assert_frame(&f, MFS_E_CORRUPT, "2^63 bytes");
	f = begin_frame();
	add(&f, window, sizeof(window));
	set_header(&f, 2);
	got = read_with_frame(f.bytes, f.size, out);
	assert_true(got == HELLO_BYTES || got == MFS_E_CORRUPT);
}

static void damaged_tables_cost_only_the_frames_that_use_them(void **state)
{
	vector v = vector_load("future.mfs");
	uint64_t at = load_le64(&VECTOR_RECORD(&v, TABLES, tables, 0)->offset);
	static const uint32_t lengths[] = {0, 1, 0x7fffffff, UINT32_MAX};
	uint8_t head[23], byte;
	mfs_container *c;
	mfs_problem why;

	(void)state;
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		store_le32(v.bytes + at, lengths[i]);
		container_repair(v.bytes, v.size, REPAIR_ALL);
		assert_int_equal(vector_open(&c, &v, &why), 0);
		assert_int_equal(mfs_read(c, 0, 0, head, sizeof(head)), sizeof(head));
		assert_memory_equal(head, "a format of the future\n", sizeof(head));
		assert_int_equal(mfs_read(c, 0, 23, &byte, 1), MFS_E_CORRUPT);
		mfs_close(c);
	}
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
	const mfs_root_tensor t = {.name_length = 65535};
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
					 .extent_count = count[MFS_SEC_EXTENTS]};
		char name[16];

		snprintf(name, sizeof(name), "%06u", i);
		mfs_root_put_name(&root, bytes, 6 * i, name, 6);
		mfs_root_put_file(&root, bytes, i, &f, 6 * i);
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
	    &(mfs_root_file){.name_length = 4, .size = MFS_FILE_MAX, .extent_count = 1}, 0);
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

/* ---- damage that hashes find ---- */

struct flips {
	const vector *v;
	uint8_t expected[HELLO_BYTES];
	uint64_t done, opened, read, errors;
};

/* The right bytes or an error. */
static void read_flipped(struct flips *f, mfs_container *c)
{
	uint8_t got[HELLO_BYTES + 1];
	int64_t n = mfs_read(c, 0, 0, got, sizeof(got));

	f->read++;
	if (n < 0)
		f->errors++;
	else if (n != HELLO_BYTES || memcmp(got, f->expected, HELLO_BYTES))
		fail_msg("a wrong byte was read");
}

/* Opens and, once in `every` flips, reads hello.mfs. */
static void try_flip(struct flips *f, unsigned every)
{
	mfs_container *c;
	mfs_problem why;

	if (vector_open(&c, f->v, &why) == 0) {
		f->opened++;
		if (f->done % every == 0)
			read_flipped(f, c);
		mfs_close(c);
	}
	f->done++;
}

static void flip_range(struct flips *f, uint64_t from, uint64_t to, unsigned every)
{
	for (uint64_t at = from; at < to; at++)
		for (int bit = 0; bit < 8; bit++) {
			f->v->bytes[at] ^= (uint8_t)(1u << bit);
			try_flip(f, every);
			f->v->bytes[at] ^= (uint8_t)(1u << bit);
		}
}

static void expect_hello(uint8_t out[HELLO_BYTES])
{
	for (int i = 0; i < HELLO_BYTES - 1; i++)
		out[i] = (uint8_t) "Hello, flash! "[i % 14];
	out[HELLO_BYTES - 1] = '\n';
}

static void any_bit_of_superblocks_and_index_may_flip(void **state)
{
	vector v = vector_load("hello.mfs");
	const struct mfs_disk_superblock *sb = vector_superblock(&v);
	const uint64_t superblocks[] = {0, MFS_SB_SLOT1_NOR, v.size - MFS_SB_SIZE};
	uint32_t root_size = load_le32(&sb->root_size);
	struct flips f = {.v = &v};

	(void)state;
	alarm(SECONDS);
	expect_hello(f.expected);
	for (int i = 0; i < 3; i++)
		flip_range(&f, superblocks[i], superblocks[i] + MFS_SB_SIZE, 101);
	for (int copy = 0; copy < 2; copy++) {
		uint64_t root = load_le64(&sb->root_offset[copy]);

		flip_range(&f, root, root + root_size, 11);
		for (uint32_t i = 0; i < 2; i++) {
			struct mfs_disk_segment *s = VECTOR_RECORD(&v, SEGMENTS, segment, i);
			uint64_t at = load_le64(&s->offset[copy]);

			flip_range(&f, at, at + load_le32(&s->size), 1);
		}
	}
	print_message("%llu flips: %llu open, %llu are read, %llu errors\n",
		      (unsigned long long)f.done, (unsigned long long)f.opened,
		      (unsigned long long)f.read, (unsigned long long)f.errors);
	assert_true(f.done > 100000 && f.read > 2000);
	assert_true(f.opened * 100 >= f.done * 99);
	assert_int_equal(f.errors, 0);
	vector_free(&v);
	alarm(0);
}

static void a_flipped_bit_of_a_frame_is_an_error(void **state)
{
	vector v = vector_load("hello.mfs");
	uint64_t chunk = load_le64(&VECTOR_RECORD(&v, TENSORS, tensor, 0)->slot[0].base);
	struct flips f = {.v = &v};

	(void)state;
	expect_hello(f.expected);
	flip_range(&f, chunk, chunk + 35, 1);
	assert_int_equal(f.opened, f.done);
	assert_int_equal(f.errors, f.done);
	vector_free(&v);
}

static void a_container_of_any_shorter_length_is_refused(void **state)
{
	vector whole = vector_load("hello.mfs");

	(void)state;
	alarm(SECONDS);
	for (size_t size = 0; size < whole.size; size++) {
		vector v = {whole.bytes, size};
		mfs_container *c;
		mfs_problem why;
		int err = vector_open(&c, &v, &why);

		if (size < MFS_SB_SIZE)
			assert_int_equal(err, MFS_E_MAGIC);
		else
			assert_int_equal(err, MFS_E_TRUNCATED);
	}
	vector_free(&whole);
	alarm(0);
}

static void damage_took_no_memory(void **state)
{
	struct rusage usage;

	(void)state;
	if (SANITIZED)
		skip();
	getrusage(RUSAGE_SELF, &usage);
	print_message("peak memory %ld KiB\n", usage.ru_maxrss);
	assert_true(usage.ru_maxrss < 300 << 10);
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
	    cmocka_unit_test(every_field_of_the_superblock_at_every_value),
	    cmocka_unit_test(every_field_of_a_small_root_at_every_value),
	    cmocka_unit_test(every_field_of_a_root_with_tables_at_every_value),
	    cmocka_unit_test(every_field_of_frame_and_chunk_tables_at_every_value),
	    cmocka_unit_test(things_that_overlap_do_no_harm),
	    cmocka_unit_test(a_segment_that_holds_itself_cannot_be_read),
	    cmocka_unit_test(sound_frames_of_every_form_are_read),
	    cmocka_unit_test(frames_with_wrong_headers_are_errors),
	    cmocka_unit_test(zstd_streams_that_are_not_one_frame_of_the_right_size_are_errors),
	    cmocka_unit_test(frame_headers_of_zstd_that_lie_take_no_memory),
	    cmocka_unit_test(damaged_tables_cost_only_the_frames_that_use_them),
	    cmocka_unit_test(many_tensors_that_share_a_long_name_are_refused_soon),
	    cmocka_unit_test(many_files_that_share_their_extents_are_refused_soon),
	    cmocka_unit_test(many_segments_over_the_same_bytes_are_refused_soon),
	    cmocka_unit_test(a_virtual_file_of_4_EiB_is_read_anywhere),
	    cmocka_unit_test(any_bit_of_superblocks_and_index_may_flip),
	    cmocka_unit_test(a_flipped_bit_of_a_frame_is_an_error),
	    cmocka_unit_test(a_container_of_any_shorter_length_is_refused),
	    cmocka_unit_test(damage_took_no_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
