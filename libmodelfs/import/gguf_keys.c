#include "gguf_keys.h"

#include <inttypes.h>
#include <string.h>

#include "../../format/check.h"
#include "../../format/mfs_endian.h"

/* The limits are far above what models have; they bound time and memory for hostile files. */
#define ALIGNMENT     32 /* of tensors, where no key says otherwise */
#define ALIGNMENT_MAX (16u << 20)
#define KEY_MAX	      65535
#define KEY_BYTES_MAX (4u << 20)
#define TEXT_MAX      255 /* of values that are kept */

enum gguf_value {
	GGUF_UINT16 = 2,
	GGUF_UINT32 = 4,
	GGUF_FLOAT32 = 6,
	GGUF_STRING = 8,
	GGUF_ARRAY = 9,
	GGUF_VALUES = 13
};

static const uint8_t value_bytes[GGUF_VALUES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

struct keys {
	mfs_gguf_reader *r;
	mfs_import *out;
};

/* Values of `type`, back to back. */
static int skip_values(mfs_gguf_reader *r, uint32_t type, uint64_t count)
{
	/* Strings take 8 bytes at the least, those of their length. */
	uint64_t bytes = type == GGUF_STRING ? 8 : value_bytes[type];
	int error = 0;

	if (count > (r->source->size - r->position) / bytes)
		return gguf_refuse(r, MFS_E_TRUNCATED, r->position,
				   "an array of %" PRIu64 " values goes past the end of the file",
				   count);
	if (type != GGUF_STRING)
		return mfs_gguf_skip(r, count * bytes);
	while (count-- && !error)
		error = mfs_gguf_skip_string(r);
	return error;
}

static int get_value_type(mfs_gguf_reader *r, uint32_t *out, const char *key)
{
	uint64_t at = r->position;
	int error = mfs_gguf_get_u32(r, out);

	if (!error && *out >= GGUF_VALUES)
		return gguf_refuse(r, MFS_E_INVALID, at,
				   "key '%.64s' has the unknown value type %u", key, *out);
	return error;
}

static int skip_array(mfs_gguf_reader *r, const char *key)
{
	uint64_t count, at = r->position;
	uint32_t type;
	int error = get_value_type(r, &type, key);

	if (error)
		return error;
	if (type == GGUF_ARRAY)
		return gguf_refuse(r, MFS_E_INVALID, at, "key '%.64s' is an array of arrays", key);
	error = mfs_gguf_get_u64(r, &count);
	return error ? error : skip_values(r, type, count);
}

static int read_alignment(struct keys *k, uint32_t type)
{
	uint64_t at = k->r->position;
	int error;

	if (type != GGUF_UINT32)
		return gguf_refuse(k->r, MFS_E_INVALID, at - 4,
				   "general.alignment has value type %u instead of %u (uint32)",
				   type, GGUF_UINT32);
	error = mfs_gguf_get_u32(k->r, &k->out->gguf.alignment);
	if (error)
		return error;
	if (!is_power_of_2(k->out->gguf.alignment))
		return gguf_refuse(k->r, MFS_E_INVALID, at, "alignment %u is not a power of two",
				   k->out->gguf.alignment);
	if (k->out->gguf.alignment > ALIGNMENT_MAX)
		return gguf_refuse(k->r, MFS_E_LIMIT, at, "alignment %u is over the limit of %u",
				   k->out->gguf.alignment, ALIGNMENT_MAX);
	return 0;
}

/* A text that is kept; longer ones are none of those that are looked for. */
static int read_text(struct keys *k, const char **out)
{
	uint64_t start = k->r->position, length;
	const uint8_t *bytes;
	char *copy;
	int error = mfs_gguf_get_u64(k->r, &length);

	if (error || length > TEXT_MAX) {
		k->r->position = start;
		return error ? error : mfs_gguf_skip_string(k->r);
	}
	bytes = mfs_gguf_get(k->r, (size_t)length, &error);
	if (!bytes)
		return error;
	copy = mfs_import_alloc(k->out, (size_t)length + 1);
	if (!copy)
		return mfs_gguf_no_memory(k->r);
	memcpy(copy, bytes, (size_t)length);
	*out = copy;
	return 0;
}

static int read_alpha(struct keys *k)
{
	uint32_t bits;
	int error = mfs_gguf_get_u32(k->r, &bits);

	memcpy(&k->out->gguf.alpha, &bits, sizeof(bits));
	return error;
}

static int read_split(struct keys *k)
{
	uint16_t files;
	int error = mfs_gguf_get_u16(k->r, &files);

	k->out->gguf.split = files > 1;
	return error;
}

static bool ends_with(const char *text, const char *end)
{
	size_t length = strlen(text), n = strlen(end);

	return length >= n && !strcmp(text + length - n, end);
}

/* Keys whose values matter beyond the header. False: it is none of them. */
static bool read_fact(struct keys *k, const char *key, uint32_t type, int *error)
{
	mfs_gguf_facts *facts = &k->out->gguf;
	const struct {
		const char *key;
		const char **text;
	} texts[] = {{"general.architecture", &facts->architecture},
		     {"general.type", &facts->type},
		     {"adapter.type", &facts->adapter_type}};

	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts) && type == GGUF_STRING; i++)
		if (!strcmp(key, texts[i].key)) {
			*error = read_text(k, texts[i].text);
			return true;
		}
	if (!strncmp(key, "adapter.alora.", 14))
		facts->activated = true;
	if (!strcmp(key, "general.file_type") && type == GGUF_UINT32)
		facts->file_type = k->r->position;
	if (ends_with(key, ".attention.head_count") && type == GGUF_UINT32)
		*error = mfs_gguf_get_u32(k->r, &facts->heads);
	else if (ends_with(key, ".attention.head_count_kv") && type == GGUF_UINT32)
		*error = mfs_gguf_get_u32(k->r, &facts->heads_kv);
	else if (!strcmp(key, "adapter.lora.alpha") && type == GGUF_FLOAT32)
		*error = read_alpha(k);
	else if (!strcmp(key, "split.count") && type == GGUF_UINT16)
		*error = read_split(k);
	else
		return false;
	return true;
}

static int read_value(struct keys *k, const char *key)
{
	uint32_t type;
	int error = get_value_type(k->r, &type, key);

	if (error)
		return error;
	if (!strcmp(key, "general.alignment"))
		return read_alignment(k, type);
	if (read_fact(k, key, type, &error))
		return error;
	if (type == GGUF_ARRAY)
		return skip_array(k->r, key);
	return type == GGUF_STRING ? mfs_gguf_skip_string(k->r)
				   : mfs_gguf_skip(k->r, value_bytes[type]);
}

/* `keeper` holds the keys until all of them are compared. */
static int read_keys(struct keys *k, uint32_t count, mfs_import *keeper)
{
	mfs_import_name *keys = mfs_import_alloc(keeper, count * sizeof(*keys));
	uint64_t bytes = 0;
	int error;

	if (!keys)
		return mfs_gguf_no_memory(k->r);
	for (uint32_t i = 0; i < count; i++) {
		error = mfs_gguf_get_name(k->r, keeper, "key", KEY_MAX, &keys[i]);
		if (error)
			return error;
		bytes += keys[i].length;
		if (bytes > KEY_BYTES_MAX)
			return gguf_refuse(k->r, MFS_E_LIMIT, keys[i].offset,
					   "the keys take more than %u MiB", KEY_BYTES_MAX >> 20);
		error = read_value(k, keys[i].text);
		if (error)
			return error;
	}
	return mfs_import_check_duplicates(k->r->why, k->r->source, keys, count, "key");
}

int mfs_gguf_keys_read(mfs_gguf_reader *r, uint32_t count, mfs_import *out)
{
	struct keys k = {.r = r, .out = out};
	mfs_import keeper = {0};
	int error;

	out->gguf.alignment = ALIGNMENT;
	error = read_keys(&k, count, &keeper);
	mfs_import_free(&keeper);
	return error;
}
