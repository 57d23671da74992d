/* Small checks that every decoder of hostile bytes needs. */
#ifndef MFS_CHECK_H
#define MFS_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* True if [offset, offset + length) lies inside [0, limit), without overflow. */
static inline bool range_ok(uint64_t offset, uint64_t length, uint64_t limit)
{
	return offset <= limit && length <= limit - offset;
}

static inline bool is_power_of_2(uint64_t n)
{
	return n && !(n & (n - 1));
}

/* n / unit, rounded up; n may be any value. */
static inline uint64_t div_up(uint64_t n, uint64_t unit)
{
	return n / unit + (n % unit != 0);
}

static inline uint64_t round_down(uint64_t n, uint64_t unit)
{
	return n - n % unit;
}

/* Callers keep n below 2^63, so this does not wrap. */
static inline uint64_t round_up(uint64_t n, uint64_t unit)
{
	return div_up(n, unit) * unit;
}

/* A file name of a container: 1 to 255 bytes of valid UTF-8, no '/', no NUL,
 * not "." or "..". */
bool mfs_name_ok(const char *name, size_t length);

/* The same with directories: up to MFS_PATH_DEPTH names with '/' between them,
 * 255 bytes together. */
bool mfs_path_ok(const char *path, size_t length);

/* Valid UTF-8 without NUL. */
bool mfs_utf8_ok(const char *text, size_t length);

#endif
