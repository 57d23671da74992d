/* What the tests of damaged and hostile containers share. Hashes are repaired where
 * the check behind them is meant (container_repair.h). */
#ifndef REJECT_H
#define REJECT_H

#include "vectors.h"

#include <unistd.h>

#include "exercise.h"
#include "sanitized.h"

/* A hang ends the program. */
#define SECONDS (SANITIZED ? 250 : 100)

#define HELLO_BYTES 561 /* of hello.txt, in hello.mfs */

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
static inline uint8_t *table_entry(const vector *v, uint16_t kind, uint32_t i)
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

static inline uint8_t *target_at(const vector *v, const struct target *t)
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

static inline void store(uint8_t *at, uint32_t size, uint64_t value)
{
	for (uint32_t i = 0; i < size; i++)
		at[i] = i < 8 ? (uint8_t)(value >> 8 * i) : 0;
}

static inline uint64_t load(const uint8_t *at, uint32_t size)
{
	uint64_t value = 0;

	for (uint32_t i = 0; i < size && i < 8; i++)
		value |= (uint64_t)at[i] << 8 * i;
	return value;
}

static inline void assert_refused(const vector *v, const char *what, const char *reason)
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

/* Opens it if it can be opened, and uses all of it. */
static inline void exercise(const vector *v)
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

static inline void expect_hello(uint8_t out[HELLO_BYTES])
{
	for (int i = 0; i < HELLO_BYTES - 1; i++)
		out[i] = (uint8_t) "Hello, flash! "[i % 14];
	out[HELLO_BYTES - 1] = '\n';
}

#endif
