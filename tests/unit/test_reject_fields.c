/* Every field of a container at every value that is of interest, with hashes that
 * fit: opens or is refused; nothing crashes, hangs or takes memory without bound. */
#include "reject.h"

#include <sys/resource.h>

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

	/* Sanitizers are slow: they see every ninth value, another at each field. */
	for (size_t i = SANITIZED ? t->offset % 9 : 0; i < sizeof(values) / sizeof(values[0]);
	     i += SANITIZED ? 9 : 1)
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
	    cmocka_unit_test(every_field_of_the_superblock_at_every_value),
	    cmocka_unit_test(every_field_of_a_small_root_at_every_value),
	    cmocka_unit_test(every_field_of_a_root_with_tables_at_every_value),
	    cmocka_unit_test(every_field_of_frame_and_chunk_tables_at_every_value),
	    cmocka_unit_test(things_that_overlap_do_no_harm),
	    cmocka_unit_test(a_segment_that_holds_itself_cannot_be_read),
	    cmocka_unit_test(damage_took_no_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
