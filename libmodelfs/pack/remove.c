#include "remove.h"

#include <stdio.h>
#include <string.h>

#include "container.h"
#include "problem.h"

/* ---- marking ---- */

/* Marks the file with this name. */
static bool mark_file(mfs_carried *carried, const char *path)
{
	int64_t file = mfs_file_find(carried->container, path);

	if (file >= 0)
		carried->removed[file] = true;
	return file >= 0;
}

/* Marks the files in this directory, and in those below it. */
static bool mark_directory(mfs_carried *carried, const char *path)
{
	const mfs_container *c = carried->container;
	size_t length = strlen(path);
	bool found = false;

	while (length && path[length - 1] == '/')
		length--;
	for (uint32_t i = 0; i < mfs_file_count(c); i++)
		if (!strncmp(c->file_names[i], path, length) && c->file_names[i][length] == '/') {
			carried->removed[i] = true;
			found = true;
		}
	return found;
}

/* Marks the files of an adapter: one, or those in its directory. */
static bool mark_adapter(mfs_carried *carried, const char *name)
{
	static const char *const ends[] = {".gguf", ".dora"};
	char path[2 * MFS_NAME_MAX];
	bool found = false;

	if (!*name || name[strlen(name) - 1] == '/' || strlen(name) > MFS_NAME_MAX)
		return false;
	for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++) {
		snprintf(path, sizeof(path), "adapters/%s%s", name, ends[i]);
		found |= mark_file(carried, path);
	}
	snprintf(path, sizeof(path), "adapters/%s", name);
	return mark_directory(carried, path) || found;
}

int mfs_carried_remove(mfs_carried *carried, const char *name, mfs_problem *why)
{
	if (mark_file(carried, name) || mark_adapter(carried, name) ||
	    mark_directory(carried, name))
		return 0;
	return mfs_problem_set(why, MFS_E_NOT_FOUND, UINT64_MAX,
			       "%s: there is no file, adapter or directory '%s' in it",
			       carried->container->path, name);
}

/* ---- who depends on whom ---- */

/* Calls `use` for every file whose tensors `file` needs; stops when it returns true. */
typedef bool use_file(void *user, uint32_t file);

static bool use_tensor(const mfs_root *root, uint32_t number, use_file *use, void *user)
{
	mfs_root_tensor t;

	if (number == MFS_NO_TENSOR)
		return false;
	mfs_root_get_tensor(root, number, &t);
	return use(user, t.file);
}

static bool use_terms(const mfs_root *root, uint32_t tensor, use_file *use, void *user)
{
	uint32_t first, count = mfs_root_terms(root, tensor, &first);
	mfs_root_term term;

	for (uint32_t i = 0; i < count; i++) {
		mfs_root_get_term(root, first + i, &term);
		for (int k = 0; k < MFS_TERM_OPERANDS; k++)
			if (use_tensor(root, term.operand[k], use, user))
				return true;
	}
	return false;
}

static bool each_used(const mfs_container *c, uint32_t file, use_file *use, void *user)
{
	const mfs_root *root = &c->root;
	mfs_root_file f;

	mfs_root_get_file(root, file, &f);
	if (f.base != MFS_NO_FILE && use(user, f.base))
		return true;
	for (uint64_t i = 0; i < f.extent_count; i++) {
		mfs_root_extent e;

		mfs_root_get_extent(root, f.first_extent + i, &e);
		if (e.kind == MFS_EXTENT_TENSOR && use_tensor(root, e.tensor, use, user))
			return true;
	}
	for (uint32_t i = container_first_tensor(c, file); i < container_first_tensor(c, file + 1);
	     i++) {
		mfs_root_tensor t;

		mfs_root_get_tensor(root, i, &t);
		if (use_tensor(root, t.base, use, user) || use_terms(root, i, use, user))
			return true;
	}
	return false;
}

static unsigned kind_of(const mfs_container *c, uint32_t file)
{
	mfs_root_file f;

	mfs_root_get_file(&c->root, file, &f);
	return f.kind;
}

struct question {
	const mfs_carried *carried;
	uint32_t file;	/* that asks */
	uint32_t found; /* what was asked for */
	bool kept;	/* an adapter that stays is used */
	bool removed;	/* an adapter that goes is used */
};

static bool ask_adapters(void *user, uint32_t file)
{
	struct question *q = user;

	if (file == q->file || kind_of(q->carried->container, file) != MFS_FILE_ADAPTER)
		return false;
	if (q->carried->removed[file])
		q->removed = true;
	else
		q->kept = true;
	return false;
}

/* Adds the adapters of one view to the answer. */
static void ask_model(struct question *q, uint32_t file)
{
	q->file = file;
	each_used(q->carried->container, file, ask_adapters, q);
}

static bool ask_removed(void *user, uint32_t file)
{
	struct question *q = user;

	q->found = file;
	return file != q->file && q->carried->removed[file];
}

/* Whether two views are of one merged model: the same file, or in one directory. */
static bool same_model(const mfs_container *c, uint32_t a, uint32_t b)
{
	const char *x = c->file_names[a], *y = c->file_names[b];
	const char *slash = strrchr(x, '/');
	size_t length = slash ? (size_t)(slash + 1 - x) : 0;

	if (a == b)
		return true;
	/* Views of GGUF are files of "merged/" itself. */
	return !strncmp(x, "merged/", 7) && length > 7 && !strncmp(x, y, length) &&
	       !strchr(y + length, '/');
}

/* A merged model of removed adapters alone means nothing without them. */
static void remove_views(mfs_carried *carried)
{
	const mfs_container *c = carried->container;

	for (uint32_t i = 0; i < mfs_file_count(c); i++) {
		struct question q = {.carried = carried};

		if (carried->removed[i] || kind_of(c, i) != MFS_FILE_VIEW)
			continue;
		/* Files are sorted: those of a directory lie together. */
		for (uint32_t k = i; k > 0 && same_model(c, i, k - 1); k--)
			ask_model(&q, k - 1);
		for (uint32_t k = i; k < mfs_file_count(c) && same_model(c, i, k); k++)
			ask_model(&q, k);
		if (q.removed && !q.kept)
			carried->removed[i] = true;
	}
}

int mfs_carried_check_removed(mfs_carried *carried, mfs_problem *why)
{
	const mfs_container *c = carried->container;

	remove_views(carried);
	for (uint32_t i = 0; i < mfs_file_count(c); i++) {
		struct question q = {.carried = carried, .file = i};

		if (!carried->removed[i] && each_used(c, i, ask_removed, &q))
			return mfs_problem_set(why, MFS_E_ARGUMENT, UINT64_MAX,
					       "%s: '%s' cannot be removed: '%s' depends on it",
					       c->path, c->file_names[q.found], c->file_names[i]);
	}
	return 0;
}

uint32_t mfs_carried_drop_removed(mfs_plan *plan)
{
	uint32_t kept = 0, dropped = 0;

	for (uint32_t i = 0; i < plan->file_count; i++) {
		mfs_plan_file *f = &plan->files[i];

		if (mfs_carried_goes(plan, f)) {
			mfs_plan_free_file(plan, f);
			dropped++;
		} else {
			plan->files[kept++] = *f;
		}
	}
	plan->file_count = kept;
	return dropped;
}
