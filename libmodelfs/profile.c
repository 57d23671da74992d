/* Profiles: what each kind of medium wants. Hints only; any reader opens any
 * profile. */
#include <string.h>

#include "modelfs.h"

#define KIB 1024u

#define PROFILE(name, page, frame, quantized_frame, request, depth)                                \
	{                                                                                          \
		sizeof(mfs_profile), name, (page)*KIB, (frame)*KIB, (request)*KIB, depth,          \
		    (quantized_frame)*KIB                                                          \
	}

/* Where requests wait for each other, a random read from a tensor with constants takes
 * two of them, one behind the other. Fewer bytes make up for it: with 72 KiB it takes as
 * long as from other tensors, and the ratio loses 0.1 %. */
static const mfs_profile profiles[MFS_PROFILES] = {
    /*                                    page, frame, with constants, request, depth */
    [MFS_PROFILE_SD] = PROFILE("sd", 16, 128, 72, 1024, 2),
    [MFS_PROFILE_EMMC] = PROFILE("emmc", 16, 128, 72, 1024, 2),
    [MFS_PROFILE_USB] = PROFILE("usb", 16, 256, 144, 1024, 1),
    [MFS_PROFILE_SATA] = PROFILE("sata", 16, 128, 128, 512, 8),
    [MFS_PROFILE_NVME] = PROFILE("nvme", 4, 128, 128, 2048, 8),
    [MFS_PROFILE_NAND] = PROFILE("nand", 4, 64, 64, 128, 1),
    [MFS_PROFILE_NOR] = PROFILE("nor", 4, 8, 8, 64, 1),
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
