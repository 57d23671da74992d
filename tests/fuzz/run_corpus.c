/* Runs a fuzz target over files and directories of files, where libFuzzer is
 * not linked in. Fails if it was given nothing to run. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int run_file(const char *path)
{
	FILE *f = fopen(path, "rb");
	struct stat st;
	uint8_t *data;
	size_t got;

	if (!f || fstat(fileno(f), &st) < 0) {
		perror(path);
		exit(1);
	}
	data = malloc((size_t)st.st_size + 1);
	if (!data)
		exit(1);
	got = fread(data, 1, (size_t)st.st_size, f);
	fclose(f);
	LLVMFuzzerTestOneInput(data, got);
	free(data);
	return 1;
}

static int run(const char *path)
{
	char sub[4096];
	struct dirent *entry;
	int count = 0;
	DIR *dir = opendir(path);

	if (!dir)
		return run_file(path);
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(sub, sizeof(sub), "%s/%s", path, entry->d_name);
		count += run(sub);
	}
	closedir(dir);
	return count;
}

int main(int argc, char **argv)
{
	int count = 0;

	for (int i = 1; i < argc; i++)
		if (argv[i][0] != '-')
			count += run(argv[i]);
	printf("%d inputs run\n", count);
	return count ? 0 : 1;
}
