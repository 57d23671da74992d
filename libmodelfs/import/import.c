/* Sources, and what all importers share: memory, layouts, refusals. */
#include "import.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../format/check.h"

#define POINTER_MAX 1024u /* bytes of a pointer of Git LFS, which says so */

/* ---- sources ---- */

static int file_read_at(mfs_source *source, uint64_t offset, void *buffer, size_t length)
{
	uint8_t *out = buffer;

	while (length) {
		ssize_t got = pread(source->u.fd, out, length, (off_t)offset);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return MFS_E_IO;
		if (got == 0)
			return MFS_E_TRUNCATED;
		out += got;
		offset += (uint64_t)got;
		length -= (size_t)got;
	}
	return 0;
}

static int memory_read_at(mfs_source *source, uint64_t offset, void *buffer, size_t length)
{
	if (!range_ok(offset, length, source->size))
		return MFS_E_TRUNCATED;
	if (length)
		memcpy(buffer, source->u.memory + offset, length);
	return 0;
}

/* A refusal that is about the file as a whole. */
static int open_refused(mfs_problem *why, const mfs_source *source, int error, const char *reason)
{
	return mfs_import_refuse(why, source, error, UINT64_MAX, "%s", reason);
}

static int source_stat(mfs_source *source, mfs_problem *why)
{
	struct stat st;
	off_t end;

	if (fstat(source->u.fd, &st) < 0)
		return open_refused(why, source, MFS_E_SYSTEM, strerror(errno));
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return open_refused(why, source, MFS_E_ARGUMENT,
				    "neither a regular file nor a block device");
	/* A block device has no size in stat(2). */
	end = lseek(source->u.fd, 0, SEEK_END);
	if (end < 0)
		return open_refused(why, source, MFS_E_SYSTEM, strerror(errno));
	source->size = (uint64_t)end;
	return 0;
}

int mfs_source_open(mfs_source *out, const char *path, mfs_problem *why)
{
	mfs_source source = {.name = path, .read_at = file_read_at};
	int error;

	/* O_NONBLOCK: opening a FIFO must not wait for its writer. */
	source.u.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (source.u.fd < 0)
		return open_refused(why, &source, errno == ENOENT ? MFS_E_NOT_FOUND : MFS_E_SYSTEM,
				    strerror(errno));
	error = source_stat(&source, why);
	if (error) {
		close(source.u.fd);
		return error;
	}
	*out = source;
	return 0;
}

void mfs_source_close(mfs_source *source)
{
	if (source->read_at == file_read_at)
		close(source->u.fd);
	memset(source, 0, sizeof(*source));
}

void mfs_source_memory(mfs_source *out, const char *name, const uint8_t *bytes, size_t size)
{
	*out =
	    (mfs_source){.name = name, .size = size, .read_at = memory_read_at, .u.memory = bytes};
}

int mfs_source_read_parts(const mfs_source *source, uint64_t offset, uint8_t *out, size_t length,
			  int64_t (*read)(void *context, uint64_t offset, uint8_t *out,
					  size_t length))
{
	if (!range_ok(offset, length, source->size))
		return MFS_E_TRUNCATED;
	while (length) {
		int64_t n = read(source->context, offset, out, length);

		if (n < 0)
			return (int)n;
		out += n;
		offset += (uint64_t)n;
		length -= (size_t)n;
	}
	return 0;
}

static int packed_read_at(mfs_source *source, uint64_t offset, void *buffer, size_t length)
{
	int64_t got =
	    mfs_read(source->u.packed.container, source->u.packed.file, offset, buffer, length);

	if (got < 0)
		return (int)got;
	return (size_t)got == length ? 0 : MFS_E_TRUNCATED;
}

void mfs_source_packed(mfs_source *out, const char *name, mfs_container *container, uint32_t file)
{
	mfs_file_info info = {.size = sizeof(info)};

	mfs_file_stat(container, file, &info);
	*out = (mfs_source){.name = name, .size = info.file_bytes, .read_at = packed_read_at};
	out->u.packed.container = container;
	out->u.packed.file = file;
}

/* ---- memory of an import: blocks in a list, freed together ---- */

#define ARENA_BLOCK (64u << 10)

struct arena_block {
	struct arena_block *next;
	size_t used, capacity; /* of bytes[] */
	_Alignas(max_align_t) uint8_t bytes[];
};

void *mfs_import_alloc(mfs_import *import, size_t bytes)
{
	struct arena_block *block = import->memory;
	size_t need = (bytes + _Alignof(max_align_t) - 1) & ~(_Alignof(max_align_t) - 1);
	size_t capacity = need > ARENA_BLOCK ? need : ARENA_BLOCK;

	if (need < bytes)
		return NULL;
	if (!block || need > block->capacity - block->used) {
		block = calloc(1, sizeof(*block) + capacity);
		if (!block)
			return NULL;
		block->capacity = capacity;
		block->next = import->memory;
		import->memory = block;
	}
	block->used += need;
	return block->bytes + block->used - need;
}

void mfs_import_free(mfs_import *import)
{
	struct arena_block *block;

	if (!import)
		return;
	for (block = import->memory; block;) {
		struct arena_block *next = block->next;

		free(block);
		block = next;
	}
	memset(import, 0, sizeof(*import));
}

const mfs_layout *mfs_import_opaque_layout(mfs_import *import, const char *name, uint32_t type_id)
{
	size_t length = strlen(name);
	char *copy = mfs_import_alloc(import, length + 1);
	mfs_layout *layout = mfs_import_alloc(import, sizeof(*layout));

	if (!copy || !layout || length > UINT16_MAX)
		return NULL;
	memcpy(copy, name, length + 1);
	/* Cut as opaque bytes are; only the names differ. */
	*layout = *mfs_layout_bytes();
	layout->name = copy;
	layout->name_length = (uint16_t)length;
	layout->type_id = type_id;
	return layout;
}

/* ---- refusals ---- */

/* Long paths keep their end: the reason must fit too. */
static const char *short_name(const char *name)
{
	const size_t keep = 255;
	size_t length = strlen(name);

	return length > keep ? name + length - keep : name;
}

int mfs_import_refuse(mfs_problem *why, const mfs_source *source, int error, uint64_t offset,
		      const char *format, ...)
{
	va_list args;
	int used;

	if (!why)
		return error;
	why->error = error;
	why->offset = offset;
	if (offset == UINT64_MAX)
		used = snprintf(why->text, sizeof(why->text), "%s: ", short_name(source->name));
	else
		used = snprintf(why->text, sizeof(why->text), "%s: offset 0x%" PRIx64 ": ",
				short_name(source->name), offset);
	va_start(args, format);
	vsnprintf(why->text + used, sizeof(why->text) - (size_t)used, format, args);
	va_end(args);
	return error;
}

/* ---- names ---- */

static bool has_control(const char *text, size_t length)
{
	for (size_t i = 0; i < length; i++)
		if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
			return true;
	return false;
}

int mfs_import_check_name(mfs_problem *why, const mfs_source *source, const char *what,
			  const char *text, uint64_t length, uint32_t max, uint64_t offset)
{
	if (length == 0)
		return mfs_import_refuse(why, source, MFS_E_INVALID, offset, "empty %s", what);
	if (length > max)
		return mfs_import_refuse(why, source, MFS_E_INVALID, offset,
					 "%s of %" PRIu64 " bytes, at most %u are allowed", what,
					 length, max);
	if (memchr(text, 0, (size_t)length))
		return mfs_import_refuse(why, source, MFS_E_INVALID, offset, "NUL in a %s", what);
	if (!mfs_utf8_ok(text, (size_t)length))
		return mfs_import_refuse(why, source, MFS_E_INVALID, offset,
					 "%s is not valid UTF-8", what);
	if (has_control(text, (size_t)length))
		return mfs_import_refuse(why, source, MFS_E_INVALID, offset,
					 "control character in a %s", what);
	return 0;
}

static int compare_names(const void *a, const void *b)
{
	const mfs_import_name *x = a, *y = b;
	int order = memcmp(x->text, y->text, x->length < y->length ? x->length : y->length);

	if (order)
		return order;
	if (x->length != y->length)
		return x->length < y->length ? -1 : 1;
	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

int mfs_import_check_duplicates(mfs_problem *why, const mfs_source *source, mfs_import_name *names,
				uint32_t count, const char *what)
{
	qsort(names, count, sizeof(*names), compare_names);
	for (uint32_t i = 1; i < count; i++) {
		const mfs_import_name *a = &names[i - 1], *b = &names[i];

		if (a->length == b->length && !memcmp(a->text, b->text, a->length))
			return mfs_import_refuse(why, source, MFS_E_INVALID, b->offset,
						 "duplicate %s '%.64s', first at offset 0x%" PRIx64,
						 what, b->text, a->offset);
	}
	return 0;
}

/* ---- tensors by name ---- */

static int compare_texts(const char *a, size_t a_length, const char *b, size_t b_length)
{
	int order = memcmp(a, b, a_length < b_length ? a_length : b_length);

	return order ? order : (a_length > b_length) - (a_length < b_length);
}

static int by_tensor_name(const void *a, const void *b, void *tensors)
{
	const mfs_import_tensor *x = (const mfs_import_tensor *)tensors + *(const uint32_t *)a;
	const mfs_import_tensor *y = (const mfs_import_tensor *)tensors + *(const uint32_t *)b;

	return compare_texts(x->name, x->name_length, y->name, y->name_length);
}

int mfs_import_index_open(mfs_import_index *out, const mfs_import *import)
{
	uint32_t n = import->tensor_count;

	*out = (mfs_import_index){.import = import, .sorted = calloc(n + 1u, sizeof(uint32_t))};
	if (!out->sorted)
		return MFS_E_MEMORY;
	for (uint32_t i = 0; i < n; i++)
		out->sorted[i] = i;
	qsort_r(out->sorted, n, sizeof(uint32_t), by_tensor_name, import->tensors);
	return 0;
}

void mfs_import_index_close(mfs_import_index *index)
{
	free(index->sorted);
	memset(index, 0, sizeof(*index));
}

uint32_t mfs_import_find(const mfs_import_index *index, const char *name, size_t length)
{
	uint32_t low = 0, high = index->import->tensor_count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		const mfs_import_tensor *t = &index->import->tensors[index->sorted[middle]];
		int order = compare_texts(name, length, t->name, t->name_length);

		if (!order)
			return index->sorted[middle];
		if (order > 0)
			low = middle + 1;
		else
			high = middle;
	}
	return UINT32_MAX;
}

uint64_t mfs_import_dim(const mfs_import_tensor *t, uint32_t i)
{
	return i < t->dim_count ? t->dims[i] : 1;
}

/* ---- dispatch ---- */

/* What git leaves in the place of a large file that was not fetched: it would be packed
 * as the model, and found out when the model is loaded. */
static int refuse_pointer(mfs_source *source, mfs_problem *why)
{
	static const char head[] = "version https://git-lfs.";
	char found[sizeof(head) - 1];

	/* The importers report what cannot be read. */
	if (source->size < sizeof(found) || source->size > POINTER_MAX ||
	    source->read_at(source, 0, found, sizeof(found)) < 0 ||
	    memcmp(found, head, sizeof(found)) != 0)
		return 0;
	return mfs_import_refuse(why, source, MFS_E_INVALID, 0,
				 "a pointer of Git LFS, not the file itself, which git lfs pull "
				 "fetches");
}

int mfs_import_source(mfs_import *out, mfs_source *source, mfs_problem *why)
{
	int error;

	memset(out, 0, sizeof(*out)); /* for those who free what is refused */
	error = refuse_pointer(source, why);
	if (!error)
		error = mfs_import_gguf(out, source, why);
	if (error == MFS_E_MAGIC)
		error = mfs_import_safetensors(out, source, why);
	if (error != MFS_E_MAGIC)
		return error;
	memset(out, 0, sizeof(*out));
	out->format = MFS_FORMAT_OPAQUE;
	return 0;
}
