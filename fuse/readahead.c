#include "readahead.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* /proc writes blanks and backslashes of a path as three octal digits. */
static void unescape(char *text)
{
	char *out = text;

	for (; *text; out++) {
		unsigned code;

		if (*text == '\\' && sscanf(text + 1, "%3o", &code) == 1) {
			*out = (char)code;
			text += 4;
		} else {
			*out = *text++;
		}
	}
	*out = '\0';
}

/* "36 35 98:0 / /mnt rw,..." */
static bool parse_line(const char *line, char device[32], char path[PATH_MAX * 4])
{
	if (sscanf(line, "%*u %*u %31s %*s %16383s", device, path) != 2)
		return false;
	unescape(path);
	return true;
}

bool readahead_device(const char *mountpoint, char *out, size_t size)
{
	char device[32], path[PATH_MAX * 4];
	FILE *mounts = fopen("/proc/self/mountinfo", "re");
	size_t room = 0;
	char *line = NULL;
	bool found = false;

	if (!mounts)
		return false;
	/* The last one of that path is on top. */
	while (getline(&line, &room, mounts) >= 0) {
		if (!parse_line(line, device, path) || strcmp(path, mountpoint))
			continue;
		found = true;
		snprintf(out, size, "%s", device);
	}
	free(line);
	fclose(mounts);
	return found;
}

static int open_attribute(const char *device, int flags)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/class/bdi/%s/read_ahead_kb", device);
	return open(path, flags | O_CLOEXEC);
}

int readahead_set(const char *device, unsigned kilobytes)
{
	char text[16];
	int fd = open_attribute(device, O_WRONLY), err = 0;

	if (fd < 0)
		return errno;
	snprintf(text, sizeof(text), "%u", kilobytes);
	if (write(fd, text, strlen(text)) < 0)
		err = errno;
	close(fd);
	return err;
}

long readahead_get(const char *device)
{
	char text[32] = "";
	int fd = device[0] ? open_attribute(device, O_RDONLY) : -1;
	ssize_t got;

	if (fd < 0)
		return -1;
	got = read(fd, text, sizeof(text) - 1);
	close(fd);
	return got > 0 ? strtol(text, NULL, 10) : -1;
}
