/* What mkmodelfs prints about the container that it made. */
#ifndef MKMODELFS_REPORT_H
#define MKMODELFS_REPORT_H

#include "mkmodelfs_options.h"

/* Prints the summary, and what else was asked for, as text or JSON; returns an exit
 * code. `packer` has written its container. */
int mkmodelfs_report(mfs_packer *packer, const mkmodelfs_options *o, const mfs_pack_summary *s);

#endif
