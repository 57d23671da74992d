#include "check.h"

#include <string.h>

#include "mfs_disk.h"

/* Length of the UTF-8 sequence at s (Unicode 15, table 3-7), or 0. */
static size_t utf8_sequence(const uint8_t *s, size_t left)
{
	static const struct {
		uint8_t first_low, first_high, second_low, second_high, length;
	} rows[] = {
	    {0x01, 0x7f, 0, 0, 1},	 {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
	    {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
	    {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		if (s[0] < rows[i].first_low || s[0] > rows[i].first_high)
			continue;
		if (left < rows[i].length)
			return 0;
		if (rows[i].length > 1 && (s[1] < rows[i].second_low || s[1] > rows[i].second_high))
			return 0;
		for (size_t k = 2; k < rows[i].length; k++)
			if ((s[k] & 0xc0) != 0x80)
				return 0;
		return rows[i].length;
	}
	return 0;
}

bool mfs_utf8_ok(const char *text, size_t length)
{
	const uint8_t *s = (const uint8_t *)text;

	while (length) {
		size_t n = utf8_sequence(s, length);

		if (!n)
			return false;
		s += n;
		length -= n;
	}
	return true;
}

bool mfs_name_ok(const char *name, size_t length)
{
	if (!length || length > MFS_NAME_MAX || memchr(name, '/', length))
		return false;
	if (name[0] == '.' && (length == 1 || (length == 2 && name[1] == '.')))
		return false;
	return mfs_utf8_ok(name, length);
}

bool mfs_path_ok(const char *path, size_t length)
{
	size_t start = 0;
	unsigned depth = 0;

	if (length > MFS_NAME_MAX)
		return false;
	for (size_t end = 0; end <= length; end++) {
		if (end < length && path[end] != '/')
			continue;
		if (++depth > MFS_PATH_DEPTH || !mfs_name_ok(path + start, end - start))
			return false;
		start = end + 1;
	}
	return true;
}
