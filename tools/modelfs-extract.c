/*
 * modelfs-extract: plain files out of a container, no mount needed.
 *
 * A file is written without a name (or a temporary one, where the file system wants
 * one), compared with the hash of its original bytes, synced, and only then gets its
 * name: whatever has the name is whole.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "common.h"
#include "modelfs.h"

#define BUFFER_BYTES (4u << 20)
#define HOLE_BYTES   4096u /* runs of zeros that are left out of the file */
#define TEMP_MAX     64	   /* bytes of a temporary name */
/* For the matrices that are merged into one tensor: nothing else is in memory. */
#define MATRICES_BYTES (256u << 20)

typedef struct {
	const char *directory;
	bool force, quiet, to_stdout;
	const char *container;
	char **names;
	int name_count;
} options;

typedef struct {
	const options *options;
	mfs_container *container;
	int directory; /* descriptors: of what is asked for, and of the file at hand */
	int parent;
	uint8_t *buffer;
	XXH3_state_t *hash;
	tool_progress progress;
	uint64_t done, total; /* bytes of all files that are extracted */
} extractor;

static void print_help(void)
{
	fputs("Usage: modelfs-extract [OPTIONS] CONTAINER [FILE...]\n"
	      "Writes the files of a container, or the FILEs that are named, as plain files.\n"
	      "Views are written only if they are named.\n"
	      "\n"
	      "  -C, --directory=DIR  write into DIR instead of the current directory\n"
	      "  -f, --force          replace files that exist\n"
	      "  -O, --stdout         write to standard output instead of files\n"
	      "  -q, --quiet          no progress bar\n"
	      "  -h, --help           print this and exit\n"
	      "  -V, --version        print the version and exit\n",
	      stdout);
}

/* ---- writing ---- */

static bool is_zero(const uint8_t *bytes, size_t length)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0;
}

static int write_all(int fd, const uint8_t *bytes, size_t length)
{
	while (length) {
		ssize_t put = write(fd, bytes, length);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -1;
		bytes += put;
		length -= (size_t)put;
	}
	return 0;
}

/* Length of the run at `bytes` that is zeros, or is not, in whole hole units. */
static size_t run_length(const uint8_t *bytes, size_t length, bool *zero)
{
	size_t used = 0;

	while (used < length) {
		size_t unit = length - used < HOLE_BYTES ? length - used : HOLE_BYTES;
		bool is = unit == HOLE_BYTES && is_zero(bytes + used, unit);

		if (used == 0)
			*zero = is;
		else if (is != *zero)
			break;
		used += unit;
	}
	return used;
}

/* Writes at the file's position, leaving holes where there are zeros. */
static int write_sparse(int fd, const uint8_t *bytes, size_t length)
{
	while (length) {
		bool zero = false;
		size_t run = run_length(bytes, length, &zero);

		if (zero ? lseek(fd, (off_t)run, SEEK_CUR) < 0 : write_all(fd, bytes, run) < 0)
			return -1;
		bytes += run;
		length -= run;
	}
	return 0;
}

/* ---- one file ---- */

static int fail_system(const extractor *x, const char *name)
{
	tool_error("%s: %s: %s", x->options->container, name, strerror(errno));
	return TOOL_FAILED;
}

static int fail_read(const extractor *x, const char *name, int64_t error)
{
	mfs_problem why = {0};

	mfs_last_problem(x->container, &why);
	if (why.text[0])
		tool_problem(x->options->container, (int)error, &why);
	else
		tool_error("%s: %s: %s", x->options->container, name, mfs_error_text((int)error));
	return TOOL_FAILED;
}

static int check_hash(const extractor *x, const mfs_file_info *file)
{
	static const uint8_t unknown[sizeof(file->hash)];
	XXH128_canonical_t found;

	/* Nobody has seen the bytes of a view before. */
	if (memcmp(file->hash, unknown, sizeof(unknown)) == 0)
		return 0;
	XXH128_canonicalFromHash(&found, XXH3_128bits_digest(x->hash));
	if (memcmp(found.digest, file->hash, sizeof(found.digest)) == 0)
		return 0;
	tool_error("%s: %s: the extracted bytes are not the original ones", x->options->container,
		   file->name);
	return TOOL_FAILED;
}

/* Copies a file's bytes to `fd` and compares their hash with the original's. */
static int copy_bytes(extractor *x, uint32_t number, const mfs_file_info *file, int fd, bool sparse)
{
	XXH3_128bits_reset(x->hash);
	for (uint64_t at = 0; at < file->file_bytes;) {
		int64_t got = mfs_read(x->container, number, at, x->buffer, BUFFER_BYTES);

		if (tool_stopped())
			return tool_stopped();
		if (got <= 0)
			return fail_read(x, file->name, got ? got : MFS_E_CORRUPT);
		XXH3_128bits_update(x->hash, x->buffer, (size_t)got);
		if (sparse ? write_sparse(fd, x->buffer, (size_t)got) < 0
			   : write_all(fd, x->buffer, (size_t)got) < 0)
			return fail_system(x, file->name);
		at += (uint64_t)got;
		x->done += (uint64_t)got;
		tool_progress_show(&x->progress, "extracting", x->done, x->total);
	}
	return check_hash(x, file);
}

/* Size (a file may end in a hole), times, mode and the way to the medium. */
static int finish_file(const mfs_file_info *file, int fd)
{
	struct timespec times[2] = {
	    {.tv_nsec = UTIME_OMIT},
	    {.tv_sec = file->mtime_seconds, .tv_nsec = file->mtime_nanoseconds},
	};
	mode_t mask = umask(0);

	umask(mask);
	if (ftruncate(fd, (off_t)file->file_bytes) < 0 || fchmod(fd, 0666 & ~mask) < 0)
		return -1;
	(void)!futimens(fd, times); /* FAT has no room for every time */
	return fsync(fd);
}

/* ---- the temporary file ---- */

/* Its name is empty while it has none. */
typedef struct {
	int fd;
	char name[TEMP_MAX];
} temporary;

static void make_name(temporary *t)
{
	static unsigned number;

	snprintf(t->name, sizeof(t->name), ".modelfs-extract.%d.%u", (int)getpid(), number++);
}

static int link_nameless(const extractor *x, const temporary *t, const char *name)
{
	char path[TEMP_MAX];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", t->fd);
	return linkat(AT_FDCWD, path, x->parent, name, AT_SYMLINK_FOLLOW);
}

/* A file that has no name is gone when this process is killed. False where that cannot
 * be had: on FAT, or without /proc. */
static bool open_nameless(const extractor *x, temporary *t)
{
	t->name[0] = 0;
	if (access("/proc/self/fd", X_OK) < 0)
		return false;
	t->fd = openat(x->parent, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	return t->fd >= 0;
}

static int open_temporary(const extractor *x, temporary *t)
{
	if (open_nameless(x, t))
		return 0;
	for (int tries = 0; tries < 100; tries++) {
		make_name(t);
		t->fd = openat(x->parent, t->name,
			       O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (t->fd >= 0 || errno != EEXIST)
			break;
	}
	return t->fd < 0 ? -1 : 0;
}

/* Only a rename replaces, and it wants a name. */
static int name_nameless(const extractor *x, temporary *t)
{
	for (int tries = 0; tries < 100; tries++) {
		make_name(t);
		if (link_nameless(x, t, t->name) == 0)
			return 0;
		if (errno != EEXIST)
			break;
	}
	t->name[0] = 0;
	return -1;
}

/* Some file systems cannot refuse to replace; there a look before has to do. */
static int rename_new(const extractor *x, const temporary *t, const char *name)
{
	int dir = x->parent;

	if (renameat2(dir, t->name, dir, name, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return -1;
	if (faccessat(dir, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
		errno = EEXIST;
		return -1;
	}
	return renameat(dir, t->name, dir, name);
}

/* Gives the temporary file its final name. */
static int publish(const extractor *x, temporary *t, const char *name)
{
	int result;

	if (!t->name[0] && !x->options->force)
		return link_nameless(x, t, name);
	if (!t->name[0] && name_nameless(x, t) < 0)
		return -1;
	result = x->options->force ? renameat(x->parent, t->name, x->parent, name)
				   : rename_new(x, t, name);
	if (result == 0)
		t->name[0] = 0;
	return result;
}

/* ---- where it goes ---- */

/* Opens the directory that `name` has before its last component, which it returns
 * in *leaf; made where it is not there. Links are not followed. */
static int open_parent(const extractor *x, const char *name, const char **leaf)
{
	int dir = dup(x->directory);
	const char *slash;

	while (dir >= 0 && (slash = strchr(name, '/'))) {
		char *component = strndup(name, (size_t)(slash - name));
		int next = -1;

		if (component && (mkdirat(dir, component, 0777) == 0 || errno == EEXIST))
			next =
			    openat(dir, component, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
		free(component);
		close(dir);
		dir = next;
		name = slash + 1;
	}
	*leaf = name;
	return dir;
}

static int extract_into_parent(extractor *x, uint32_t number, const mfs_file_info *file,
			       const char *leaf)
{
	temporary t;
	int err;

	if (open_temporary(x, &t) < 0)
		return fail_system(x, x->options->directory);
	err = copy_bytes(x, number, file, t.fd, true);
	if (!err && (finish_file(file, t.fd) < 0 || publish(x, &t, leaf) < 0))
		err = fail_system(x, file->name);
	/* On FAT a name survives a power cut only if the file is synced after it. */
	if (!err && (fsync(t.fd) < 0 || fsync(x->parent) < 0) && errno != EINVAL)
		err = fail_system(x, file->name);
	if (t.name[0])
		unlinkat(x->parent, t.name, 0);
	close(t.fd);
	return err;
}

static int extract_file(extractor *x, uint32_t number, const mfs_file_info *file)
{
	const char *leaf;
	int err;

	x->parent = open_parent(x, file->name, &leaf);
	if (x->parent < 0)
		return fail_system(x, file->name);
	err = extract_into_parent(x, number, file, leaf);
	close(x->parent);
	return err;
}

/* ---- all of them ---- */

/* The reader refuses such names; a file outside the directory is bad enough to
 * look twice. */
static bool is_plain_name(const char *name)
{
	while (true) {
		size_t length = strcspn(name, "/");

		if (!length || (length <= 2 && !strncmp(name, "..", length)))
			return false;
		if (!name[length])
			return true;
		name += length + 1;
	}
}

/* Finds out what can be before anything is written. */
static int check_file(const extractor *x, const mfs_file_info *file)
{
	if (!is_plain_name(file->name)) {
		tool_error("%s: '%s' is no name for a file", x->options->container, file->name);
		return TOOL_FAILED;
	}
	if (x->options->to_stdout || x->options->force ||
	    faccessat(x->directory, file->name, F_OK, AT_SYMLINK_NOFOLLOW) != 0)
		return 0;
	tool_error("%s/%s exists; --force replaces it", x->options->directory, file->name);
	return TOOL_FAILED;
}

static bool is_view(const extractor *x, uint32_t number)
{
	mfs_file_info file = {.size = sizeof(file)};

	return mfs_file_stat(x->container, number, &file) == 0 && strcmp(file.kind, "view") == 0;
}

/* Everything that was packed: views are as large as models and made from them. */
static uint32_t *choose_all(const extractor *x, size_t *count)
{
	uint32_t files = mfs_file_count(x->container);
	uint32_t *chosen = tool_grow(NULL, (size_t)files + 1, sizeof(*chosen));

	*count = 0;
	for (uint32_t i = 0; i < files; i++)
		if (!is_view(x, i))
			chosen[(*count)++] = i;
	return chosen;
}

static bool is_chosen(const uint32_t *chosen, size_t count, int64_t number)
{
	for (size_t i = 0; i < count; i++)
		if (chosen[i] == number)
			return true;
	return false;
}

/* The numbers of the files that are asked for, `*count` of them, or NULL. A file can be
 * printed twice, but written only once. */
static uint32_t *choose_files(const extractor *x, size_t *count)
{
	const options *o = x->options;
	uint32_t *chosen;

	if (!o->name_count)
		return choose_all(x, count);
	*count = 0;
	chosen = tool_grow(NULL, (size_t)o->name_count, sizeof(*chosen));
	for (int i = 0; i < o->name_count; i++) {
		int64_t number = mfs_file_find(x->container, o->names[i]);

		if (number < 0) {
			tool_error("%s: there is no file '%s' in it", o->container, o->names[i]);
			free(chosen);
			return NULL;
		}
		if (o->to_stdout || !is_chosen(chosen, *count, number))
			chosen[(*count)++] = (uint32_t)number;
	}
	return chosen;
}

static int check_files(extractor *x, const uint32_t *chosen, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		mfs_file_info file = {.size = sizeof(file)};
		int err = mfs_file_stat(x->container, chosen[i], &file);

		if (err < 0)
			return fail_read(x, "", err);
		err = check_file(x, &file);
		if (err)
			return err;
		x->total += file.file_bytes;
	}
	return 0;
}

/* A file that fails does not keep the others from being saved. */
static int extract_files(extractor *x, const uint32_t *chosen, size_t count)
{
	int code = TOOL_OK;

	for (size_t i = 0; i < count && !tool_stopped(); i++) {
		mfs_file_info file = {.size = sizeof(file)};
		int err = mfs_file_stat(x->container, chosen[i], &file);

		if (err == 0)
			err = x->options->to_stdout
				  ? copy_bytes(x, chosen[i], &file, STDOUT_FILENO, false)
				  : extract_file(x, chosen[i], &file);
		if (err)
			code = TOOL_FAILED;
		if (err && x->options->to_stdout)
			break;
	}
	return tool_stopped() ? tool_stopped() : code;
}

static int extract(extractor *x)
{
	size_t count;
	uint32_t *chosen = choose_files(x, &count);
	int code;

	if (!chosen)
		return TOOL_FAILED;
	code = check_files(x, chosen, count);
	if (!code) {
		tool_progress_init(&x->progress, x->options->quiet);
		code = extract_files(x, chosen, count);
		tool_progress_end(&x->progress);
	}
	free(chosen);
	return code;
}

static int run(const options *o)
{
	extractor x = {.options = o, .directory = -1};
	int code = TOOL_FAILED;

	x.container = tool_open(o->container, MATRICES_BYTES);
	if (!x.container)
		return TOOL_FAILED;
	x.directory = open(o->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	x.buffer = tool_grow(NULL, BUFFER_BYTES, 1);
	x.hash = XXH3_createState();
	if (x.directory < 0)
		tool_error("%s: %s", o->directory, strerror(errno));
	else if (!x.hash)
		tool_error("out of memory");
	else
		code = extract(&x);
	XXH3_freeState(x.hash);
	free(x.buffer);
	if (x.directory >= 0)
		close(x.directory);
	mfs_close(x.container);
	return code;
}

/* ---- the command line ---- */

static const struct option long_options[] = {
    {"directory", required_argument, NULL, 'C'},
    {"force", no_argument, NULL, 'f'},
    {"stdout", no_argument, NULL, 'O'},
    {"quiet", no_argument, NULL, 'q'},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {NULL, 0, NULL, 0},
};

static int parse_options(options *o, int argc, char *argv[])
{
	int option;

	while ((option = tool_option(argc, argv, "C:fOqhV", long_options, print_help)) != -1) {
		switch (option) {
		case 'C':
			o->directory = optarg;
			break;
		case 'f':
			o->force = true;
			break;
		case 'O':
			o->to_stdout = true;
			break;
		case 'q':
			o->quiet = true;
			break;
		default:
			return TOOL_USAGE;
		}
	}
	if (argc == optind)
		return tool_misuse("a CONTAINER is needed");
	o->container = argv[optind];
	o->names = &argv[optind + 1];
	o->name_count = argc - optind - 1;
	return 0;
}

int main(int argc, char *argv[])
{
	options o = {.directory = "."};
	int code;

	tool_start("modelfs-extract");
	code = parse_options(&o, argc, argv);
	if (code)
		return code;
	if (o.to_stdout && isatty(STDOUT_FILENO))
		return tool_misuse("a model is not for a terminal: redirect standard output");
	tool_catch_signals();
	return run(&o);
}
