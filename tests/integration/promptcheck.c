/*
 * Asks a mount for what needs no medium, again and again, and fails if one
 * answer takes longer than LIMIT_MS: attributes (past the kernel's cache), a
 * missing name, the directory, statfs, open, and bytes that are cached.
 *
 *   promptcheck [-n ROUNDS] [-l LIMIT_MS] DIRECTORY FILE [OFFSET LENGTH]
 *
 * FILE is a name in DIRECTORY, whose bytes [OFFSET, OFFSET + LENGTH) were read
 * before: they are read again.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>

typedef struct {
	const char *directory;
	char path[PATH_MAX];
	uint64_t offset;
	size_t length;
	uint8_t *buffer;
	unsigned round;
} job;

static int ask_attributes(job *j)
{
	struct statx st;

	return statx(AT_FDCWD, j->path, AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &st);
}

static int ask_missing_name(job *j)
{
	char path[PATH_MAX + 32];
	struct stat st;

	snprintf(path, sizeof(path), "%s.missing%u", j->path, j->round);
	return stat(path, &st) < 0 && errno == ENOENT ? 0 : -1;
}

static int ask_directory(job *j)
{
	DIR *dir = opendir(j->directory);
	int count = 0;

	if (!dir)
		return -1;
	while (readdir(dir))
		count++;
	closedir(dir);
	return count > 2 ? 0 : -1;
}

static int ask_statfs(job *j)
{
	struct statfs st;

	return statfs(j->directory, &st);
}

static int ask_open(job *j)
{
	int fd = open(j->path, O_RDONLY | O_CLOEXEC);

	return fd < 0 ? -1 : close(fd);
}

static int ask_cached_bytes(job *j)
{
	int fd = open(j->path, O_RDONLY | O_CLOEXEC);
	ssize_t got;

	if (fd < 0)
		return -1;
	got = pread(fd, j->buffer, j->length, (off_t)j->offset);
	close(fd);
	return got == (ssize_t)j->length ? 0 : -1;
}

typedef struct {
	const char *name;
	int (*ask)(job *j);
	double worst_ms;
} question;

static double now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int ask(job *j, question *q)
{
	double start = now_ms(), took;

	errno = 0;
	if (q->ask(j) < 0) {
		fprintf(stderr, "promptcheck: %s: %s\n", q->name, strerror(errno));
		return -1;
	}
	took = now_ms() - start;
	if (took > q->worst_ms)
		q->worst_ms = took;
	return 0;
}

int main(int argc, char **argv)
{
	question questions[] = {
	    {"attributes", ask_attributes, 0},
	    {"missing name", ask_missing_name, 0},
	    {"directory", ask_directory, 0},
	    {"statfs", ask_statfs, 0},
	    {"open", ask_open, 0},
	    {"cached bytes", ask_cached_bytes, 0},
	};
	size_t count = sizeof(questions) / sizeof(questions[0]);
	unsigned rounds = 20;
	double limit = 50;
	job j = {0};
	int option, err = 0;

	while ((option = getopt(argc, argv, "n:l:")) != -1) {
		if (option == 'n')
			rounds = (unsigned)strtoul(optarg, NULL, 0);
		else if (option == 'l')
			limit = strtod(optarg, NULL);
		else
			return 2;
	}
	if (argc - optind != 2 && argc - optind != 4)
		return 2;
	j.directory = argv[optind];
	snprintf(j.path, sizeof(j.path), "%s/%s", argv[optind], argv[optind + 1]);
	if (argc - optind == 4) {
		j.offset = strtoull(argv[optind + 2], NULL, 0);
		j.length = strtoul(argv[optind + 3], NULL, 0);
	} else {
		count--;
	}
	j.buffer = malloc(j.length + 1);
	if (!j.buffer)
		return 1;
	for (j.round = 0; j.round < rounds; j.round++)
		for (size_t i = 0; i < count; i++)
			if (ask(&j, &questions[i]) < 0)
				return 1;
	for (size_t i = 0; i < count; i++) {
		printf("%-13s %8.3f ms at worst\n", questions[i].name, questions[i].worst_ms);
		err |= questions[i].worst_ms > limit;
	}
	if (err)
		fprintf(stderr, "promptcheck: an answer took longer than %g ms\n", limit);
	free(j.buffer);
	return err;
}
