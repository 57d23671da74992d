/* Records of a root by their numbers: for root*.c. */
#ifndef MFS_ROOT_RECORDS_H
#define MFS_ROOT_RECORDS_H

#include "root.h"

extern const uint32_t mfs_root_record_size[MFS_SECTIONS];

/* Takes the sections' places from the header; root->size limits them. NULL, or what
 * is wrong. */
const char *mfs_root_read_sections(mfs_root *root);

static inline const void *record(const mfs_root *root, enum mfs_root_section section, uint64_t i)
{
	return root->bytes + root->offset[section] + i * mfs_root_record_size[section];
}

static inline const char *name_at(const mfs_root *root, uint32_t offset)
{
	return (const char *)root->bytes + root->offset[MFS_SEC_NAMES] + offset;
}

static inline uint32_t term_tensor(const mfs_root *root, uint32_t i)
{
	const struct mfs_disk_term *d = record(root, MFS_SEC_TERMS, i);

	return load_le32(&d->tensor);
}

#endif
