#include "memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_BYTES 4096

/* What the two versions of cgroups call the same things. */
struct naming {
	const char *mount;
	const char *limit, *usage;
	const char *inactive_file, *active_file; /* in memory.stat */
};

static const struct naming versions[] = {
    {"/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file", "active_file"},
    {"/sys/fs/cgroup/unified", "memory.max", "memory.current", "inactive_file", "active_file"},
    {"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
     "total_inactive_file", "total_active_file"},
};
#define VERSION_1 2

/* The number behind `key` at the start of a line of the file; an empty key: the
 * number that the file begins with. */
static bool read_number(const char *path, const char *key, uint64_t *out)
{
	size_t length = strlen(key);
	FILE *file = fopen(path, "re");
	char line[512];
	bool found = false;

	while (file && !found && fgets(line, sizeof(line), file)) {
		if (strncmp(line, key, length) || (length && !strchr(" :", line[length])))
			continue;
		found = sscanf(line + length, " %*[:] %" SCNu64, out) == 1 ||
			sscanf(line + length, "%" SCNu64, out) == 1;
		if (!length)
			break;
	}
	if (file)
		fclose(file);
	return found;
}

static bool read_in(const char *directory, const char *name, const char *key, uint64_t *out)
{
	char path[PATH_BYTES];

	if (snprintf(path, sizeof(path), "%s/%s", directory, name) >= (int)sizeof(path))
		return false;
	return read_number(path, key, out);
}

/* Narrows *out to what one cgroup allows. */
static void apply_group(const char *directory, const struct naming *naming, mfs_memory *out)
{
	uint64_t limit, usage, inactive = 0, active = 0, available;

	if (!read_in(directory, naming->limit, "", &limit) ||
	    !read_in(directory, naming->usage, "", &usage))
		return;
	read_in(directory, "memory.stat", naming->inactive_file, &inactive);
	read_in(directory, "memory.stat", naming->active_file, &active);
	usage -= inactive + active < usage ? inactive + active : usage;
	available = usage < limit ? limit - usage : 0;
	if (limit < out->total_bytes)
		out->total_bytes = limit;
	if (available < out->available_bytes)
		out->available_bytes = available;
}

/* The group and all above it: the limit of each holds. A path that is not there
 * (seen from another namespace) leaves those that are. */
static void apply_groups(const char *root, const struct naming *naming, const char *group,
			 mfs_memory *out)
{
	char path[PATH_BYTES];
	size_t top;
	char *slash;

	if (snprintf(path, sizeof(path), "%s%s%s", root, naming->mount, group) >= (int)sizeof(path))
		return;
	top = strlen(root) + strlen(naming->mount);
	for (;;) {
		apply_group(path, naming, out);
		slash = strrchr(path, '/');
		if (!slash || (size_t)(slash - path) < top)
			return;
		*slash = '\0';
	}
}

/* A line of /proc/self/cgroup: NUMBER:CONTROLLERS:PATH, where version 2 has no
 * controllers. */
static void apply_line(const char *root, char *line, mfs_memory *out)
{
	char *controllers = strchr(line, ':'), *path;

	line[strcspn(line, "\n")] = '\0';
	path = controllers ? strchr(controllers + 1, ':') : NULL;
	if (!path)
		return;
	*path++ = '\0';
	controllers++;
	if (!*controllers) {
		for (int i = 0; i < VERSION_1; i++)
			apply_groups(root, &versions[i], path, out);
		return;
	}
	for (char *save, *word = strtok_r(controllers, ",", &save); word;
	     word = strtok_r(NULL, ",", &save))
		if (!strcmp(word, "memory"))
			apply_groups(root, &versions[VERSION_1], path, out);
}

bool mfs_memory_get(const char *root, mfs_memory *out)
{
	char path[PATH_BYTES], line[PATH_BYTES];
	FILE *file;

	if (!read_in(root, "proc/meminfo", "MemTotal", &out->total_bytes) ||
	    !read_in(root, "proc/meminfo", "MemAvailable", &out->available_bytes))
		return false;
	out->total_bytes *= 1024;
	out->available_bytes *= 1024;
	snprintf(path, sizeof(path), "%s/proc/self/cgroup", root);
	file = fopen(path, "re");
	if (!file)
		return true;
	while (fgets(line, sizeof(line), file))
		apply_line(root, line, out);
	fclose(file);
	return true;
}
