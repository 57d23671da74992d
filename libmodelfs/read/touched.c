/* Which bytes of each file reads have been given: a bit for each granule. */
#include <stdlib.h>

#include "check.h"
#include "reader.h"

#define GRANULE_MIN    (64u << 10)
#define GRANULES_MAX   65536u	  /* bits of one file */
#define GRANULES_TOTAL (1u << 24) /* of all files together: 2 MiB */
#define WORD_BITS      64u

static uint32_t granule_of(uint64_t file_bytes, uint32_t files, unsigned *shift)
{
	uint64_t most = GRANULES_TOTAL / (files ? files : 1);
	uint64_t granules;

	most = most > GRANULES_MAX ? GRANULES_MAX : most < WORD_BITS ? WORD_BITS : most;
	*shift = 16;
	while ((granules = (file_bytes >> *shift) + 1) > most)
		++*shift;
	return (uint32_t)granules;
}

int touched_new(struct reader *r)
{
	static_assert(GRANULE_MIN == 1u << 16, "granule_of() begins there");
	r->touched = calloc(r->c->root.count[MFS_SEC_FILES] + 1, sizeof(*r->touched));
	return r->touched ? 0 : MFS_E_MEMORY;
}

void touched_free(struct reader *r)
{
	for (uint32_t i = 0; r->touched && i < r->c->root.count[MFS_SEC_FILES]; i++)
		free(r->touched[i].bits);
	free(r->touched);
}

void touched_mark(struct reader *r, uint32_t file, uint64_t offset, uint64_t length)
{
	struct touched *t = &r->touched[file];
	mfs_root_file f;

	if (!length)
		return;
	mfs_root_get_file(&r->c->root, file, &f);
	if (!t->bits) {
		uint32_t granules = granule_of(f.size, r->c->root.count[MFS_SEC_FILES], &t->shift);

		/* Without memory there is no progress to be seen, nothing worse. */
		t->bits = calloc(div_up(granules, WORD_BITS), sizeof(*t->bits));
		if (!t->bits)
			return;
	}
	for (uint64_t i = offset >> t->shift; i <= (offset + length - 1) >> t->shift; i++) {
		uint64_t bit = UINT64_C(1) << i % WORD_BITS, start = i << t->shift;
		uint64_t bytes = UINT64_C(1) << t->shift;

		if (t->bits[i / WORD_BITS] & bit)
			continue;
		t->bits[i / WORD_BITS] |= bit;
		t->bytes += f.size - start < bytes ? f.size - start : bytes;
	}
}
