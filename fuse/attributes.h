/*
 * Extended attributes of the virtual files: what each is and where it comes from.
 * Those that have no meaning for a file are not there. Any thread may ask.
 */
#ifndef MODELFS_ATTRIBUTES_H
#define MODELFS_ATTRIBUTES_H

#include "modelfs.h"

/* It takes frame tables that may still be on the medium: its value is not here. */
#define ATTRIBUTE_STORED "user.modelfs.stored_size"

/* The value of an attribute, which the caller frees; NULL with *error 0 where the
 * file has none of this name, or with an mfs_error. */
char *attribute_text(const mfs_container *container, uint32_t file, const char *name, int *error);

/* The names of a file's attributes, each terminated: their bytes are returned. The
 * caller frees *out, which is NULL without memory. */
size_t attribute_names(const mfs_container *container, uint32_t file, char **out);

#endif
