#include "layout_nf4.h"

#include <assert.h>
#include <pthread.h>

static mfs_layout layout = {
    .name = "NF4",
    .name_length = 3,
    .field_count = 1,
    .block_bytes = 1,
    .block_weights = 2,
    .field[0] = {.name = "codes",
		 .name_length = 5,
		 .cls = MFS_DISK_WEIGHTS,
		 .transform = MFS_TRANSFORM_BYTES,
		 .width = 1,
		 .bits = 4,
		 .size = 1},
};
static pthread_once_t layout_once = PTHREAD_ONCE_INIT;

static void layout_build(void)
{
	int err = mfs_layout_finish(&layout);

	assert(!err);
	(void)err;
}

const mfs_layout *mfs_layout_nf4(void)
{
	pthread_once(&layout_once, layout_build);
	return &layout;
}
