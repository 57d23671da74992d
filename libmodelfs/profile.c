/* Profiles: what each kind of medium wants. Hints only; any reader opens any
 * profile. */
#include <string.h>

#include "modelfs.h"

#define KIB 1024u

static const mfs_profile profiles[MFS_PROFILES] = {
    /*                                      page      frame      request    depth */
    [MFS_PROFILE_SD] = {sizeof(mfs_profile), "sd", 16 * KIB, 128 * KIB, 1024 * KIB, 2},
    [MFS_PROFILE_EMMC] = {sizeof(mfs_profile), "emmc", 16 * KIB, 128 * KIB, 1024 * KIB, 2},
    [MFS_PROFILE_USB] = {sizeof(mfs_profile), "usb", 16 * KIB, 256 * KIB, 1024 * KIB, 1},
    [MFS_PROFILE_SATA] = {sizeof(mfs_profile), "sata", 16 * KIB, 128 * KIB, 512 * KIB, 8},
    [MFS_PROFILE_NVME] = {sizeof(mfs_profile), "nvme", 4 * KIB, 128 * KIB, 2048 * KIB, 8},
    [MFS_PROFILE_NAND] = {sizeof(mfs_profile), "nand", 4 * KIB, 64 * KIB, 128 * KIB, 1},
    [MFS_PROFILE_NOR] = {sizeof(mfs_profile), "nor", 4 * KIB, 8 * KIB, 64 * KIB, 1},
};

int mfs_profile_get(mfs_profile_id id, mfs_profile *out)
{
	size_t size = out->size;

	if ((unsigned)id >= MFS_PROFILES || size < sizeof(size))
		return MFS_E_ARGUMENT;
	if (size > sizeof(*out))
		size = sizeof(*out);
	/* A caller built against an older header gets the part that it knows. */
	memcpy(out, &profiles[id], size);
	out->size = size;
	return 0;
}

int mfs_profile_find(const char *name)
{
	for (int id = 0; id < MFS_PROFILES; id++)
		if (!strcmp(profiles[id].name, name))
			return id;
	return MFS_E_NOT_FOUND;
}
