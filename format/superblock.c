#include "superblock.h"

#include <stddef.h>

#include "check.h"
#include "mfs_xxhash.h"
#include "modelfs_error.h"

int mfs_superblock_decode(mfs_superblock *out, const uint8_t buf[MFS_SB_SIZE], uint64_t offset)
{
	const struct mfs_disk_superblock *d = (const void *)buf;
	mfs_superblock sb;

	if (load_le64(&d->magic) != MFS_MAGIC)
		return MFS_E_MAGIC;
	sb.version = load_le16(&d->version);
	sb.feature_compat = load_le32(&d->feature_compat);
	sb.feature_incompat = load_le32(&d->feature_incompat);
	sb.own_offset = load_le64(&d->own_offset);
	/* Every version keeps these and the hash where they are: neither damage nor a
	 * container that is stored inside this one is taken for a newer version. */
	if (load_le64(&d->hash) != XXH3_64bits(buf, MFS_SB_HASHED) || sb.own_offset != offset)
		return MFS_E_CORRUPT;
	if (sb.version != MFS_FORMAT_VERSION || (sb.feature_incompat & ~MFS_INCOMPAT_KNOWN))
		return MFS_E_UNSUPPORTED;

	sb.profile = load_le16(&d->profile);
	sb.page_size = load_le32(&d->page_size);
	sb.generation = load_le64(&d->generation);
	sb.container_size = load_le64(&d->container_size);
	sb.root_offset[0] = load_le64(&d->root_offset[0]);
	sb.root_offset[1] = load_le64(&d->root_offset[1]);
	sb.root_size = load_le32(&d->root_size);
	sb.frame_size = load_le32(&d->frame_size);
	memcpy(sb.root_hash, d->root_hash, sizeof(sb.root_hash));
	memcpy(sb.uuid, d->uuid, sizeof(sb.uuid));

	if (!is_power_of_2(sb.page_size) || sb.page_size < MFS_PAGE_MIN ||
	    sb.page_size > MFS_PAGE_MAX)
		return MFS_E_CORRUPT;
	if (sb.container_size > MFS_FILE_MAX || sb.container_size % sb.page_size ||
	    sb.container_size % MFS_SB_SIZE)
		return MFS_E_CORRUPT;
	if (sb.root_size < sizeof(struct mfs_disk_root) || sb.root_size > MFS_ROOT_MAX)
		return MFS_E_CORRUPT;
	for (int copy = 0; copy < 2; copy++)
		if (!range_ok(sb.root_offset[copy], sb.root_size, sb.container_size))
			return MFS_E_CORRUPT;

	*out = sb;
	return 0;
}

void mfs_superblock_encode(const mfs_superblock *sb, uint8_t buf[MFS_SB_SIZE])
{
	struct mfs_disk_superblock *d = (void *)buf;

	memset(buf, 0, MFS_SB_SIZE);
	store_le64(&d->magic, MFS_MAGIC);
	store_le64(&d->own_offset, sb->own_offset);
	store_le16(&d->version, sb->version);
	store_le16(&d->profile, sb->profile);
	store_le32(&d->page_size, sb->page_size);
	store_le32(&d->feature_compat, sb->feature_compat);
	store_le32(&d->feature_incompat, sb->feature_incompat);
	store_le64(&d->generation, sb->generation);
	store_le64(&d->container_size, sb->container_size);
	store_le64(&d->root_offset[0], sb->root_offset[0]);
	store_le64(&d->root_offset[1], sb->root_offset[1]);
	store_le32(&d->root_size, sb->root_size);
	store_le32(&d->frame_size, sb->frame_size);
	memcpy(d->root_hash, sb->root_hash, sizeof(d->root_hash));
	memcpy(d->uuid, sb->uuid, sizeof(d->uuid));
	store_le64(&d->hash, XXH3_64bits(buf, MFS_SB_HASHED));
}
