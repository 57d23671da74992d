#include "placement.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "../../format/check.h"
#include "../../format/mfs_disk.h"
#include "modelfs_error.h"

struct room {
	uint64_t next, end;
};

static bool put(struct room *room, uint64_t bytes, uint64_t *offset)
{
	uint64_t start = round_up(room->next, 8);

	if (!range_ok(start, bytes, room->end))
		return false;
	*offset = start;
	room->next = start + bytes;
	return true;
}

int mfs_placement_make(mfs_placement *out, uint64_t slot1, uint32_t page_bytes,
		       const uint64_t piece_bytes[], uint32_t pieces)
{
	uint64_t past = slot1 + MFS_SB_SIZE, page = round_up(past, page_bytes);
	/* In the order in which they are tried. */
	struct room behind = {past, page}, between = {MFS_SB_SIZE, slot1},
		    rest = {page, UINT64_MAX};
	mfs_placement p = {.slot1 = slot1, .root_room = piece_bytes[0], .pieces = pieces};

	p.piece = calloc(pieces + 1, sizeof(*p.piece));
	if (!p.piece)
		return MFS_E_MEMORY;
	for (uint32_t i = 0; i < pieces; i++)
		if (!put(&behind, piece_bytes[i], &p.piece[i]) &&
		    !put(&between, piece_bytes[i], &p.piece[i]))
			put(&rest, piece_bytes[i], &p.piece[i]);
	p.gap = round_up(between.next, page_bytes);
	p.gap_end = round_down(slot1, page_bytes);
	if (p.gap > p.gap_end)
		p.gap = p.gap_end;
	p.fixed_end = rest.next > page ? rest.next : behind.next;
	*out = p;
	return 0;
}

int mfs_placement_behind(mfs_placement *out, uint64_t slot1, uint64_t start,
			 const uint64_t piece_bytes[], uint32_t pieces)
{
	struct room behind = {start, UINT64_MAX};
	mfs_placement p = {.slot1 = slot1, .root_room = piece_bytes[0], .pieces = pieces};

	p.piece = calloc(pieces + 1, sizeof(*p.piece));
	if (!p.piece)
		return MFS_E_MEMORY;
	for (uint32_t i = 0; i < pieces; i++)
		put(&behind, piece_bytes[i], &p.piece[i]);
	p.fixed_end = behind.next;
	*out = p;
	return 0;
}

void mfs_placement_free(mfs_placement *placement)
{
	free(placement->piece);
	memset(placement, 0, sizeof(*placement));
}
