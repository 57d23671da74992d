#include "remove.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "container.h"
#include "problem.h"

/* ---- marking ---- */

static int64_t find_adapter(const mfs_container *c, const char *name)
{
	char path[MFS_NAME_MAX + 1];
	int n = snprintf(path, sizeof(path), "adapters/%s.gguf", name);

	return n < 0 || (size_t)n >= sizeof(path) ? MFS_E_NOT_FOUND : mfs_file_find(c, path);
}

int mfs_carried_remove(mfs_carried *carried, const char *name, mfs_problem *why)
{
	const mfs_container *c = carried->container;
	int64_t file = mfs_file_find(c, name);

	if (file < 0)
		file = find_adapter(c, name);
	if (file < 0)
		return mfs_problem_set(why, MFS_E_NOT_FOUND, UINT64_MAX,
				       "%s: there is no file or adapter '%s' in it", c->path, name);
	carried->removed[file] = true;
	return 0;
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

static bool ask_removed(void *user, uint32_t file)
{
	struct question *q = user;

	q->found = file;
	return file != q->file && q->carried->removed[file];
}

/* A view of removed adapters alone means nothing without them. */
static void remove_views(mfs_carried *carried)
{
	const mfs_container *c = carried->container;

	for (uint32_t i = 0; i < mfs_file_count(c); i++) {
		struct question q = {.carried = carried, .file = i};

		if (carried->removed[i] || kind_of(c, i) != MFS_FILE_VIEW)
			continue;
		each_used(c, i, ask_adapters, &q);
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
