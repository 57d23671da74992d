/* Opening a container: superblock, root, names; and what needs no reading. */
#include "container.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "../format/root_columns.h"
#include "check.h"
#include "io_file.h"
#include "mfs_xxhash.h"
#include "problem.h"
#include "reader.h"

/* ---- superblock and root ---- */

/* A superblock that decodes, and where it came from. */
struct candidate {
	mfs_superblock sb;
	int copy;
};

#define CANDIDATES    4
#define SEARCH_WINDOW (1u << 20)
/* Superblocks whose root does not serve, after which the search ends: each may cost
 * the decoding of a whole root, and no container has so many by accident. */
#define FAILED_MAX 64

struct opening {
	mfs_container *c;
	const char *name;
	mfs_problem *why;
	struct candidate candidates[CANDIDATES];
	unsigned count;
	unsigned failed; /* superblocks whose root does not serve */
	int worst;	 /* the most telling error of the superblocks seen */
	mfs_problem root_problem;
};

/* How much an error of one superblock tells: anything beats "no magic". */
static int telling(int err)
{
	return err == MFS_E_UNSUPPORTED ? 3 : err == MFS_E_CORRUPT ? 2 : err == MFS_E_IO ? 1 : 0;
}

/* Takes over the stored bytes of a root: as they are, or as what they decode to. */
static int take_root(mfs_container *c, const mfs_superblock *sb, uint8_t *stored,
		     const char **reason)
{
	uint32_t size;
	int err;

	free(c->root_bytes);
	c->root_bytes = stored;
	if (!(sb->feature_incompat & MFS_INCOMPAT_COLUMNS))
		return mfs_root_open(&c->root, stored, sb->root_size, sb->container_size,
				     sb->generation, reason);
	c->root_bytes = NULL;
	err = mfs_columns_root_size(stored, sb->root_size, &size, reason);
	if (!err && !(c->root_bytes = calloc(1, size)))
		err = MFS_E_MEMORY;
	if (!err)
		err = mfs_columns_decode(c->root_bytes, stored, sb->root_size, reason);
	free(stored);
	return err ? err
		   : mfs_root_open(&c->root, c->root_bytes, size, sb->container_size,
				   sb->generation, reason);
}

static int load_root(struct opening *o, const mfs_superblock *sb, int copy)
{
	mfs_container *c = o->c;
	XXH128_canonical_t hash;
	const char *reason = "checksum mismatch";
	uint8_t *stored = malloc(sb->root_size);
	int64_t got =
	    stored ? c->io->table->read_at(c->io, sb->root_offset[copy], stored, sb->root_size)
		   : MFS_E_MEMORY;
	int err = got < 0 ? (int)got : got < sb->root_size ? MFS_E_TRUNCATED : 0;

	if (!err) {
		XXH128_canonicalFromHash(&hash, XXH3_128bits(stored, sb->root_size));
		if (memcmp(hash.digest, sb->root_hash, sizeof(sb->root_hash)))
			err = MFS_E_CORRUPT;
	}
	if (err)
		free(stored);
	else
		err = take_root(c, sb, stored, &reason);
	if (err)
		mfs_problem_set(&o->root_problem, err, sb->root_offset[copy],
				"%s: root at 0x%" PRIx64 ": %s", o->name, sb->root_offset[copy],
				err == MFS_E_CORRUPT ? reason : mfs_error_text(err));
	return err;
}

static int use_candidate(struct opening *o, const struct candidate *candidate)
{
	const mfs_superblock *sb = &candidate->sb;
	uint64_t bytes = o->c->io->table->size(o->c->io);
	int err;

	if (sb->container_size > bytes)
		return mfs_problem_set(&o->root_problem, MFS_E_TRUNCATED, bytes,
				       "%s: truncated: %" PRIu64 " of %" PRIu64 " bytes are there",
				       o->name, bytes, sb->container_size);
	err = load_root(o, sb, 0);
	if (err)
		err = load_root(o, sb, 1);
	if (err) {
		free(o->c->root_bytes);
		o->c->root_bytes = NULL;
		o->failed++;
		return err;
	}
	o->c->sb = *sb;
	o->c->sb_copy = candidate->copy;
	return 0;
}

/* The newest generation whose root verifies. */
static int use_best(struct opening *o)
{
	int err = MFS_E_MAGIC;

	while (o->count) {
		unsigned best = 0;

		for (unsigned i = 1; i < o->count; i++)
			if (o->candidates[i].sb.generation > o->candidates[best].sb.generation)
				best = i;
		err = use_candidate(o, &o->candidates[best]);
		if (!err)
			return 0;
		o->candidates[best] = o->candidates[--o->count];
	}
	return err;
}

static bool slot_fits_profile(const mfs_superblock *sb, uint64_t offset)
{
	return (sb->profile == MFS_PROFILE_NOR) == (offset == MFS_SB_SLOT1_NOR);
}

static void take_candidate(struct opening *o, const uint8_t *buf, uint64_t offset, int copy)
{
	mfs_superblock sb;
	int err = mfs_superblock_decode(&sb, buf, offset);

	if (!err && copy == 1 && !slot_fits_profile(&sb, offset))
		err = MFS_E_CORRUPT;
	if (!err && o->count < CANDIDATES)
		o->candidates[o->count++] = (struct candidate){sb, copy};
	else if (telling(err) > telling(o->worst))
		o->worst = err;
}

static void read_superblock(struct opening *o, uint64_t offset, int copy)
{
	uint8_t buf[MFS_SB_SIZE];
	int64_t got = o->c->io->table->read_at(o->c->io, offset, buf, sizeof(buf));

	if (got == MFS_SB_SIZE)
		take_candidate(o, buf, offset, copy);
	else if (got < 0 && telling(MFS_E_IO) > telling(o->worst))
		o->worst = MFS_E_IO;
}

/* With both slots bad, the copy at the end of a generation serves. It is looked
 * for backwards in large reads. */
static int search_tail(struct opening *o)
{
	uint64_t end = round_down(o->c->io->table->size(o->c->io), MFS_SB_SEARCH_STEP);
	uint64_t low = end > MFS_SB_SEARCH_MAX ? end - MFS_SB_SEARCH_MAX : 0;
	uint8_t *window = malloc(SEARCH_WINDOW);
	int err = MFS_E_MAGIC;

	while (window && err && end > low && o->failed < FAILED_MAX) {
		uint64_t start = end - low > SEARCH_WINDOW ? end - SEARCH_WINDOW : low;
		int64_t got = o->c->io->table->read_at(o->c->io, start, window, end - start);

		for (uint64_t at = got == (int64_t)(end - start) ? end : start;
		     err && at > start && o->failed < FAILED_MAX;) {
			at -= MFS_SB_SEARCH_STEP;
			take_candidate(o, window + (at - start), at, 2);
			err = use_best(o);
		}
		end = start;
	}
	free(window);
	return err;
}

static int no_superblock(struct opening *o)
{
	if (o->root_problem.error) {
		if (o->why)
			*o->why = o->root_problem;
		return o->root_problem.error;
	}
	switch (o->worst) {
	case MFS_E_UNSUPPORTED:
		return mfs_problem_set(o->why, MFS_E_UNSUPPORTED, 0,
				       "%s: made by a newer modelfs: update to read it", o->name);
	case MFS_E_CORRUPT:
		return mfs_problem_set(o->why, MFS_E_CORRUPT, 0,
				       "%s: all copies of the superblock are damaged", o->name);
	case MFS_E_IO:
		return mfs_problem_set(o->why, MFS_E_IO, 0, "%s: superblock at 0x0: %s", o->name,
				       strerror(errno));
	default:
		return mfs_problem_set(o->why, MFS_E_MAGIC, 0, "%s: not a modelfs container",
				       o->name);
	}
}

/* Where slot 1 could be, a file that is stored as it is may hold bytes that look
 * like a superblock: a good slot 0 tells the only place. */
static void read_slots(struct opening *o)
{
	bool nor;

	read_superblock(o, 0, 0);
	nor = o->count && o->candidates[0].sb.profile == MFS_PROFILE_NOR;
	if (!o->count || !nor)
		read_superblock(o, MFS_SB_SLOT1, 1);
	if (!o->count || nor)
		read_superblock(o, MFS_SB_SLOT1_NOR, 1);
}

static int find_root(struct opening *o)
{
	read_slots(o);
	if (!use_best(o))
		return 0;
	/* What a newer modelfs has appended must not be hidden by an older tail. */
	if (o->worst != MFS_E_UNSUPPORTED && !search_tail(o))
		return 0;
	return no_superblock(o);
}

static int use_given(struct opening *o, const mfs_superblock *sb)
{
	o->candidates[0] = (struct candidate){*sb, 0};
	o->count = 1;
	return use_best(o) ? no_superblock(o) : 0;
}

/* ---- what is derived from the root ---- */

static char *copy_name(char **at, const char *name, size_t length)
{
	char *copy = *at;

	memcpy(copy, name, length);
	copy[length] = '\0';
	*at += length + 1;
	return copy;
}

static int copy_names(mfs_container *c)
{
	uint32_t layouts = c->root.count[MFS_SEC_LAYOUTS];
	uint32_t files = c->root.count[MFS_SEC_FILES];
	size_t bytes = 1;
	mfs_root_tensor t;
	mfs_root_file f;
	char *at;

	/* A hostile root may let every tensor share one long name. */
	for (uint32_t i = 0; i < files; i++) {
		mfs_root_get_file(&c->root, i, &f);
		bytes += f.name_length + f.note_length + 2u;
	}
	for (uint32_t i = 0; i < c->listed_count; i++) {
		mfs_root_get_tensor(&c->root, c->listed[i], &t);
		bytes += t.name_length + 1u;
	}
	for (uint32_t i = 0; i < layouts; i++)
		bytes += c->layouts[i].name_length + 1u;
	if (bytes > MFS_NAMES_MAX)
		return MFS_E_LIMIT;
	at = c->names = malloc(bytes);
	c->file_names = calloc(files + 1, sizeof(char *));
	c->file_notes = calloc(files + 1, sizeof(char *));
	c->tensor_names = calloc(c->listed_count + 1, sizeof(char *));
	c->layout_names = calloc(layouts + 1, sizeof(char *));
	if (!c->names || !c->file_names || !c->file_notes || !c->tensor_names || !c->layout_names)
		return MFS_E_MEMORY;
	for (uint32_t i = 0; i < files; i++) {
		mfs_root_get_file(&c->root, i, &f);
		c->file_names[i] = copy_name(&at, f.name, f.name_length);
		c->file_notes[i] = copy_name(&at, f.note, f.note_length);
	}
	for (uint32_t i = 0; i < c->listed_count; i++) {
		mfs_root_get_tensor(&c->root, c->listed[i], &t);
		c->tensor_names[i] = copy_name(&at, t.name, t.name_length);
	}
	for (uint32_t i = 0; i < layouts; i++)
		c->layout_names[i] = copy_name(&at, c->layouts[i].name, c->layouts[i].name_length);
	return 0;
}

/* Public tensor numbers leave literal bytes out. */
static int list_tensors(mfs_container *c)
{
	uint32_t n = c->root.count[MFS_SEC_TENSORS], files = c->root.count[MFS_SEC_FILES];
	uint32_t file = 0;
	mfs_root_tensor t;

	c->listed = calloc(n + 1, sizeof(*c->listed));
	c->first_listed = calloc(files + 1, sizeof(*c->first_listed));
	if (!c->listed || !c->first_listed)
		return MFS_E_MEMORY;
	for (uint32_t i = 0; i < n; i++) {
		mfs_span first;

		mfs_root_get_tensor(&c->root, i, &t);
		if (t.file < file)
			return MFS_E_CORRUPT; /* tensors lie in the order of their files */
		while (file < t.file)
			c->first_listed[++file] = c->listed_count;
		if (!(t.flags & MFS_TENSOR_LITERAL))
			c->listed[c->listed_count++] = i;
		if (t.base != MFS_NO_TENSOR)
			c->computed = true;
		mfs_tensor_span(&t, c->layouts[t.layout].block_bytes, 0, &first);
		if (first.bytes > c->max_span)
			c->max_span = first.bytes;
	}
	while (file < files)
		c->first_listed[++file] = c->listed_count;
	return 0;
}

static int derive(mfs_container *c)
{
	uint32_t layouts = c->root.count[MFS_SEC_LAYOUTS];
	int err;

	c->layouts = calloc(layouts + 1, sizeof(*c->layouts));
	if (!c->layouts)
		return MFS_E_MEMORY;
	for (uint32_t i = 0; i < layouts; i++)
		mfs_root_get_layout(&c->root, i, &c->layouts[i]);
	c->max_span = MFS_FRAME_MIN;
	err = list_tensors(c);
	return err ? err : copy_names(c);
}

/* Until a probe knows better, a silent medium is taken for the one that the
 * container was packed for; a network is no card at any rate. */
static void choose_queue(mfs_container *c)
{
	int id = c->options.profile >= 0 ? c->options.profile : (int)c->sb.profile;
	mfs_profile profile = {.size = sizeof(profile)};

	if (c->options.profile < 0 && (!medium_is_silent(c->kind) || c->kind == MEDIUM_NETWORK)) {
		medium_queue_of_kind(&c->queue, c->kind, &c->medium);
		c->medium.source = "sysfs";
		return;
	}
	if (mfs_profile_get((mfs_profile_id)id, &profile))
		mfs_profile_get(MFS_PROFILE_SD,
				&profile); /* a hint: any reader opens any profile */
	medium_queue_of_profile(&c->queue, &profile);
	c->medium.source = c->options.profile >= 0 ? "option" : "profile";
}

mfs_profile_id mfs_container_profile(const mfs_container *c)
{
	return (mfs_profile_id)c->sb.profile;
}

bool container_should_probe(const mfs_container *c)
{
	return c->options.profile < 0 && medium_is_silent(c->kind);
}

/* `sb` NULL: the newest generation that there is. */
static int open_io(mfs_container **out, mfs_io *io, const char *name, const mfs_superblock *sb,
		   const mfs_open_options *options, mfs_problem *why)
{
	mfs_container *c = calloc(1, sizeof(*c));
	struct opening o = {.c = c, .name = name, .why = why, .worst = MFS_E_MAGIC};
	int err;

	*out = NULL;
	if (!c || !(c->path = strdup(name))) {
		io->table->close(io);
		free(c);
		return mfs_problem_set(why, MFS_E_MEMORY, UINT64_MAX, "%s: out of memory", name);
	}
	c->io = io;
	c->options = (mfs_open_options)MFS_OPEN_OPTIONS_INIT;
	if (options)
		memcpy(&c->options, options,
		       options->size < sizeof(*options) ? options->size : sizeof(*options));
	pthread_mutex_init(&c->lock, NULL);
	pthread_mutex_init(&c->problem_lock, NULL);
	err = sb ? use_given(&o, sb) : find_root(&o);
	if (!err) {
		err = derive(c);
		if (err)
			mfs_problem_set(why, err, UINT64_MAX, "%s: %s", name, mfs_error_text(err));
	}
	if (!err && c->options.replay)
		err = container_load_trace(c, c->options.replay, why);
	c->options.replay = NULL; /* the caller's */
	if (err) {
		mfs_close(c);
		return err;
	}
	c->medium = (mfs_medium){.kind = medium_kind_name(MEDIUM_UNKNOWN), .rotational = -1};
	choose_queue(c);
	*out = c;
	return 0;
}

int mfs_open_io(mfs_container **out, mfs_io *io, const char *name, const mfs_open_options *options,
		mfs_problem *why)
{
	return open_io(out, io, name, NULL, options, why);
}

static int open_path(mfs_container **out, const char *path, const char *name,
		     const mfs_superblock *sb, const mfs_open_options *options, mfs_problem *why)
{
	mfs_io *io;
	int err;

	*out = NULL;
	err = mfs_io_open(&io, path, options ? options->engine : NULL,
			  options ? options->buffered : 0, why);
	if (!err)
		err = open_io(out, io, name, sb, options, why);
	if (err)
		return err;
	(*out)->kind = medium_find_fd(&(*out)->medium, ((mfs_io_file *)io)->fd);
	choose_queue(*out);
	return 0;
}

int mfs_open(mfs_container **out, const char *path, const mfs_open_options *options,
	     mfs_problem *why)
{
	return open_path(out, path, path, NULL, options, why);
}

int mfs_open_written(mfs_container **out, const char *path, const char *name,
		     const mfs_superblock *sb, const mfs_open_options *options, mfs_problem *why)
{
	return open_path(out, path, name, sb, options, why);
}

void mfs_close(mfs_container *c)
{
	if (!c)
		return;
	reader_free(c->reader);
	c->io->table->close(c->io);
	pthread_mutex_destroy(&c->problem_lock);
	pthread_mutex_destroy(&c->lock);
	free(c->root_bytes);
	free(c->layouts);
	free(c->layout_names);
	free(c->listed);
	free(c->first_listed);
	free(c->names);
	free(c->file_names);
	free(c->file_notes);
	free(c->tensor_names);
	free(c->replay);
	free(c->path);
	free(c);
}

/* What pthread_create() gives is no word of threads. */
static const char *start_error_text(int err, int system_error)
{
	if (err != MFS_E_SYSTEM)
		return mfs_error_text(err);
	if (system_error == EAGAIN)
		return "too little memory for a thread, or too many threads";
	return strerror(system_error);
}

static void cannot_start(mfs_container *c, int err)
{
	pthread_mutex_lock(&c->problem_lock);
	mfs_problem_set(&c->problem, err, UINT64_MAX, "%s: cannot start %s: %s", c->path,
			c->options.engine ? c->options.engine : "reading",
			start_error_text(err, c->reader_errno));
	pthread_mutex_unlock(&c->problem_lock);
}

struct reader *container_reader(mfs_container *c, int *err)
{
	struct reader *r;

	pthread_mutex_lock(&c->lock);
	if (!c->reader && !c->reader_error) {
		c->reader_error = reader_new(&c->reader, c);
		c->reader_errno = errno;
	}
	r = c->reader;
	*err = c->reader_error;
	pthread_mutex_unlock(&c->lock);
	if (!r)
		cannot_start(c, *err);
	return r;
}

void mfs_last_problem(mfs_container *c, mfs_problem *out)
{
	pthread_mutex_lock(&c->problem_lock);
	*out = c->problem;
	pthread_mutex_unlock(&c->problem_lock);
}

int mfs_start(mfs_container *c, mfs_problem *why)
{
	struct reader *r;
	int err;

	r = container_reader(c, &err);
	if (!r) {
		if (why)
			mfs_last_problem(c, why);
		return err;
	}
	if (container_should_probe(c))
		reader_probe(r, PROBE_MS);
	return 0;
}

void container_extent_at(const mfs_container *c, const mfs_root_file *file, uint64_t offset,
			 uint64_t *index, mfs_root_extent *out)
{
	uint64_t low = 0, high = file->extent_count - 1;

	while (low < high) {
		uint64_t middle = low + (high - low + 1) / 2;

		mfs_root_get_extent(&c->root, file->first_extent + middle, out);
		if (out->file_offset <= offset)
			low = middle;
		else
			high = middle - 1;
	}
	*index = file->first_extent + low;
	mfs_root_get_extent(&c->root, *index, out);
}

/* ---- reading ---- */

/* The length of a read that ends at the end of the file; 0 past it. */
static int clamp(const mfs_container *c, uint32_t file, uint64_t offset, size_t *length)
{
	mfs_root_file f;

	if (file >= c->root.count[MFS_SEC_FILES])
		return MFS_E_ARGUMENT;
	mfs_root_get_file(&c->root, file, &f);
	if (offset >= f.size)
		*length = 0;
	else if (*length > f.size - offset)
		*length = (size_t)(f.size - offset);
	return 0;
}

int mfs_read_async(mfs_container *c, uint32_t file, uint64_t offset, size_t length,
		   mfs_read_done *done, void *user)
{
	int err = length > MFS_READ_MAX ? MFS_E_ARGUMENT : clamp(c, file, offset, &length);
	struct reader *r;

	if (err)
		return err;
	if (!length) {
		done(user, 0, NULL, 0);
		return 0;
	}
	r = container_reader(c, &err);
	return r ? reader_read(r, file, offset, length, done, user) : err;
}

/* A mfs_read() waits for its parts, which are read at the same time. `lock`
 * guards `left` and `error`. */
struct waiting {
	pthread_mutex_t lock;
	pthread_cond_t ended;
	size_t left;
	int error;
};

struct part_read {
	struct waiting *waiting;
	uint8_t *buffer;
};

static void part_read_done(void *user, int64_t result, const struct iovec *pieces, int count)
{
	struct part_read *part = user;
	struct waiting *waiting = part->waiting;

	for (int i = 0; i < count; i++) {
		memcpy(part->buffer, pieces[i].iov_base, pieces[i].iov_len);
		part->buffer += pieces[i].iov_len;
	}
	pthread_mutex_lock(&waiting->lock);
	if (result < 0)
		waiting->error = (int)result;
	if (!--waiting->left)
		pthread_cond_signal(&waiting->ended);
	pthread_mutex_unlock(&waiting->lock);
}

#define PARTS_MAX 16

/* Reads up to PARTS_MAX parts at once. */
static int read_parts(mfs_container *c, uint32_t file, uint64_t offset, uint8_t *buffer,
		      size_t length)
{
	struct waiting waiting = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0};
	struct part_read parts[PARTS_MAX];
	size_t done = 0;

	waiting.left = div_up(length, MFS_READ_MAX);
	for (unsigned i = 0; done < length; i++) {
		size_t n = length - done < MFS_READ_MAX ? length - done : MFS_READ_MAX;
		int err;

		parts[i] = (struct part_read){&waiting, buffer + done};
		err = mfs_read_async(c, file, offset + done, n, part_read_done, &parts[i]);
		if (err)
			part_read_done(&parts[i], err, NULL, 0);
		done += n;
	}
	pthread_mutex_lock(&waiting.lock);
	while (waiting.left)
		pthread_cond_wait(&waiting.ended, &waiting.lock);
	pthread_mutex_unlock(&waiting.lock);
	return waiting.error;
}

int64_t mfs_read(mfs_container *c, uint32_t file, uint64_t offset, void *buffer, size_t length)
{
	int err = clamp(c, file, offset, &length);
	size_t done = 0;

	while (!err && done < length) {
		size_t n = length - done;

		if (n > (size_t)PARTS_MAX * MFS_READ_MAX)
			n = (size_t)PARTS_MAX * MFS_READ_MAX;
		err = read_parts(c, file, offset + done, (uint8_t *)buffer + done, n);
		done += n;
	}
	return err ? err : (int64_t)length;
}

void mfs_prefetch(mfs_container *c, uint32_t file, uint64_t offset, uint64_t length)
{
	struct reader *r;
	mfs_root_file f;
	int err;

	if (file >= c->root.count[MFS_SEC_FILES])
		return;
	mfs_root_get_file(&c->root, file, &f);
	if (offset >= f.size || !(r = container_reader(c, &err)))
		return;
	pthread_mutex_lock(&r->lock);
	prefetch_advise(r, file, offset, length);
	reader_pump(r);
	reader_unlock(r);
}

/* The reader if it has been started, else NULL. */
static struct reader *running_reader(mfs_container *c)
{
	struct reader *r;

	pthread_mutex_lock(&c->lock);
	r = c->reader;
	pthread_mutex_unlock(&c->lock);
	return r;
}

int mfs_medium_get(mfs_container *c, mfs_medium *out)
{
	struct reader *r = running_reader(c);
	size_t size = out->size;
	mfs_medium medium;

	if (size < sizeof(out->size))
		return MFS_E_ARGUMENT;
	if (r)
		pthread_mutex_lock(&r->lock);
	medium = c->medium;
	medium.queue = c->queue.name;
	medium.request_bytes = r ? r->request : c->queue.request_bytes;
	medium.depth = c->queue.depth;
	medium.window_bytes = c->queue.window_bytes;
	medium.read_ahead_bytes =
	    r && r->routes.mixture ? c->queue.mixture_read_ahead : MFS_READ_AHEAD_MAX;
	if (r)
		pthread_mutex_unlock(&r->lock);
	medium.size = size < sizeof(medium) ? size : sizeof(medium);
	memcpy(out, &medium, medium.size);
	return 0;
}

uint64_t mfs_touched_bytes(mfs_container *c, uint32_t file)
{
	struct reader *r = running_reader(c);
	uint64_t bytes;

	if (!r || file >= c->root.count[MFS_SEC_FILES])
		return 0;
	pthread_mutex_lock(&r->lock);
	bytes = r->touched[file].bytes;
	pthread_mutex_unlock(&r->lock);
	return bytes;
}

int mfs_stats_get(mfs_container *c, mfs_stats *out)
{
	mfs_stats stats = {.engine = "none", .depth = c->queue.depth};
	struct reader *r = running_reader(c);
	size_t size = out->size;

	if (size < sizeof(out->size))
		return MFS_E_ARGUMENT;
	if (r) {
		pthread_mutex_lock(&r->lock);
		stats = r->stats;
		stats.engine = r->io->table->name;
		stats.arena_bytes = r->run_arena.bytes + r->span_arena.bytes;
		stats.arena_used_bytes =
		    mfs_arena_used_bytes(&r->run_arena) + mfs_arena_used_bytes(&r->span_arena);
		stats.request_bytes = r->request;
		stats.decoders = r->decoders_running;
		stats.depth = c->queue.depth;
		stats.busy_us = reader_busy(r) / 1000;
		stats.decoding_us = r->decoding / 1000;
		stats.cache_bytes = mfs_cache_limit_bytes(&r->cache);
		stats.cache_used_bytes = mfs_cache_used_bytes(&r->cache);
		stats.cache_weights_bytes = r->cache.held[CACHE_WEIGHTS];
		stats.cache_constants_bytes = r->cache.held[CACHE_CONSTANTS];
		pthread_mutex_unlock(&r->lock);
	}
	stats.direct = c->io->direct;
	stats.registered = c->io->registered;
	stats.container_bytes = c->sb.container_size;
	stats.index_loaded_bytes += c->root.size;
	stats.size = size < sizeof(stats) ? size : sizeof(stats);
	memcpy(out, &stats, stats.size);
	return 0;
}
