#include "import_peft.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../format/check.h"
#include "../../format/mfs_endian.h"
#include "peft_matrices.h"

#define MATRICES_MAX 32768u
#define MATRIX_MAX   (1u << 30) /* bytes of one that has to be rearranged */
#define ALIGNMENT    32

/* ---- the file ---- */

/* Header, then matrices, each padded with zeros. */
static int read_peft(mfs_source *source, uint64_t offset, void *buffer, size_t length)
{
	mfs_peft *p = (mfs_peft *)source->context;
	uint32_t low = 0, high = p->count;
	int error = 0;

	if (!range_ok(offset, length, source->size))
		return MFS_E_TRUNCATED;
	memset(buffer, 0, length);
	if (offset < p->head_size) {
		size_t n = p->head_size - offset < length ? p->head_size - offset : length;

		memcpy(buffer, p->head + offset, n);
	}
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (p->matrices[middle].offset + p->matrices[middle].size <= offset)
			low = middle + 1;
		else
			high = middle;
	}
	for (; low < p->count && p->matrices[low].offset < offset + length && !error; low++) {
		const struct matrix *m = &p->matrices[low];
		uint64_t from = m->offset > offset ? m->offset : offset;
		uint64_t end = m->offset + m->size;

		if (end > offset + length)
			end = offset + length;
		error =
		    mfs_peft_read_matrix(p, m, from - m->offset,
					 (uint8_t *)buffer + (from - offset), (size_t)(end - from));
	}
	return error;
}

static void put(FILE *out, uint64_t value, size_t bytes)
{
	le64 le;

	store_le64(&le, value);
	fwrite(&le, bytes, 1, out);
}

static void put_text(FILE *out, const char *text)
{
	put(out, strlen(text), 8);
	fwrite(text, strlen(text), 1, out);
}

static void put_key(FILE *out, const char *key, const char *value)
{
	put_text(out, key);
	put(out, 8, 4); /* a string */
	put_text(out, value);
}

static void put_header(const struct opening *o, FILE *out)
{
	const mfs_peft_config *config = &o->peft->config;
	float alpha = (float)mfs_peft_wanted_alpha(config, config->rank, config->alpha);
	uint32_t bits;
	uint64_t offset = 0;

	memcpy(&bits, &alpha, sizeof(bits));
	fwrite("GGUF", 4, 1, out);
	put(out, 3, 4);
	put(out, o->peft->count, 8);
	put(out, 4, 8);
	put_key(out, "general.type", "adapter");
	put_key(out, "general.architecture", o->base->gguf.architecture);
	put_key(out, "adapter.type", "lora");
	put_text(out, "adapter.lora.alpha");
	put(out, 6, 4); /* a binary32 */
	put(out, bits, 4);
	for (uint32_t i = 0; i < o->peft->count; i++) {
		struct matrix *m = &o->peft->matrices[i];
		bool turned = m->change == CHANGE_TRANSPOSE;

		put_text(out, m->name);
		put(out, m->from->dim_count, 4);
		if (m->from->dim_count == 2)
			put(out, m->from->dims[turned ? 0 : 1], 8);
		put(out, m->from->dims[turned ? 1 : 0], 8);
		put(out, m->type, 4);
		put(out, offset, 8);
		m->offset = offset;
		offset = round_up(offset + m->size, ALIGNMENT);
	}
}

static int make_file(struct opening *o, mfs_source *source)
{
	mfs_peft *p = o->peft;
	FILE *out = open_memstream((char **)&p->head, &p->head_size);
	uint64_t data, end;

	if (!out)
		return mfs_problem_no_memory(o->why);
	put_header(o, out);
	if (fclose(out) || !p->head)
		return mfs_problem_no_memory(o->why);
	data = end = round_up(p->head_size, ALIGNMENT);
	for (uint32_t i = 0; i < p->count; i++) {
		p->matrices[i].offset += data;
		end = round_up(p->matrices[i].offset + p->matrices[i].size, ALIGNMENT);
	}
	*source = (mfs_source){
	    .name = p->path, .size = end, .read_at = read_peft, .u.fd = -1, .context = p};
	return 0;
}

/* ---- opening ---- */

static int make_matrices(struct opening *o)
{
	mfs_peft *p = o->peft;
	float alpha = (float)mfs_peft_wanted_alpha(&p->config, p->config.rank, p->config.alpha);
	int error = 0;

	if (p->config.fan_in_fan_out)
		return refuse(o, MFS_E_UNSUPPORTED,
			      "fan_in_fan_out: the adapter is made for matrices that are stored "
			      "transposed");
	if (alpha == 0 || alpha - alpha != 0)
		return refuse(o, MFS_E_INVALID, "a lora_alpha of %g makes no adapter",
			      p->config.alpha);
	if (p->import.format != MFS_FORMAT_SAFETENSORS)
		return refuse(o, MFS_E_INVALID, "no safetensors file");
	if (p->import.empty_count)
		return refuse(o, MFS_E_INVALID, "tensor '%.80s' is empty", p->import.empty[0].name);
	if (p->import.tensor_count > MATRICES_MAX)
		return refuse(o, MFS_E_LIMIT, "more than %u tensors", MATRICES_MAX);
	p->matrices = calloc(p->import.tensor_count + 1u, sizeof(*p->matrices));
	if (!p->matrices)
		return mfs_problem_no_memory(o->why);
	for (uint32_t i = 0; i < p->import.tensor_count && !error; i++) {
		struct matrix *m = &p->matrices[p->count];

		error = mfs_peft_make_matrix(o, &p->import.tensors[i], m);
		if (!error && (m->change != CHANGE_NONE || m->factor != 1) && m->size > MATRIX_MAX)
			error = refuse(o, MFS_E_LIMIT, "tensor '%.80s' is larger than %u MiB",
				       m->from->name, MATRIX_MAX >> 20);
		p->count += !error;
	}
	return error ? error : mfs_peft_pair_gains(o);
}

static char *join(const char *directory, const char *name)
{
	char *path;

	return asprintf(&path, "%s/%s", directory, name) < 0 ? NULL : path;
}

int mfs_peft_matrices_path(char **out, const char *directory, mfs_problem *why)
{
	char *pickle = join(directory, "adapter_model.bin");
	int error = 0;

	*out = join(directory, "adapter_model.safetensors");
	if (!*out || !pickle)
		error = mfs_problem_no_memory(why);
	else if (access(*out, F_OK) && !access(pickle, F_OK))
		error = mfs_problem_set(why, MFS_E_UNSUPPORTED, UINT64_MAX,
					"%s: a pickle can run any program when it is loaded and is "
					"not read: save the adapter as safetensors",
					pickle);
	free(pickle);
	if (error) {
		free(*out);
		*out = NULL;
	}
	return error;
}

static int open_matrices(mfs_peft *p, mfs_problem *why)
{
	int error = mfs_source_open(&p->file, p->path, why);

	return error ? error : mfs_import_source(&p->import, &p->file, why);
}

static int open_files(struct opening *o, const char *directory, struct stat *found)
{
	mfs_peft *p = o->peft;
	char *config = join(directory, "adapter_config.json");
	int error;

	error = config ? mfs_peft_matrices_path(&p->path, directory, o->why)
		       : mfs_problem_no_memory(o->why);
	if (!error)
		error = mfs_peft_config_read(&p->config, config, o->why);
	p->config.path = p->path;
	free(config);
	if (!error)
		error = open_matrices(p, o->why);
	if (!error && fstat(p->file.u.fd, found) < 0)
		error = mfs_problem_set(o->why, MFS_E_SYSTEM, UINT64_MAX, "%s: %s", p->path,
					strerror(errno));
	return error;
}

int mfs_peft_open(mfs_peft **out, const char *directory, const mfs_base_model *base,
		  mfs_source *source, struct stat *found, mfs_problem *why)
{
	struct opening o = {.peft = calloc(1, sizeof(mfs_peft)), .base = &base->import, .why = why};
	int error;

	if (!o.peft)
		return mfs_problem_no_memory(why);
	o.peft->base = *base;
	o.peft->file.u.fd = -1;
	pthread_mutex_init(&o.peft->lock, NULL);
	error = open_files(&o, directory, found);
	if (!error)
		error = mfs_peft_check_base(&o);
	if (!error && mfs_import_index_open(&o.index, o.base) < 0)
		error = mfs_problem_no_memory(why);
	if (!error)
		error = make_matrices(&o);
	if (!error)
		error = make_file(&o, source);
	mfs_import_index_close(&o.index);
	if (error) {
		mfs_peft_close(o.peft);
		return error;
	}
	*out = o.peft;
	return 0;
}

void mfs_peft_close(mfs_peft *p)
{
	if (!p)
		return;
	mfs_peft_config_free(&p->config);
	mfs_import_free(&p->import);
	if (p->file.read_at)
		mfs_source_close(&p->file);
	pthread_mutex_destroy(&p->lock);
	free(p->matrices);
	free(p->head);
	free(p->bytes);
	free(p->path);
	free(p);
}

int mfs_peft_descriptor(const mfs_peft *p)
{
	return p->file.u.fd;
}

bool mfs_peft_is_dora(const mfs_peft *p)
{
	return p->config.dora;
}
