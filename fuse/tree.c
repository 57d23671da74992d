#include "tree.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PATH_DEPTH  8 /* more than any container has */
#define FIXED_NODES 4 /* number 0, the root, .modelfs and stats.json */

static uint32_t tree_add(tree *t, uint32_t parent, node_kind kind, const char *name)
{
	uint32_t number = t->count++;

	t->node[number] = (tree_node){.kind = kind, .parent = parent, .name = name};
	return number;
}

/* The directories of the file that was added last. Files come sorted by name, so
 * those of one directory follow each other. */
struct path {
	uint32_t directory[PATH_DEPTH];
	unsigned depth;
};

/* The directory `name` of `length` bytes in `parent`, made if need be; 0 without
 * memory. */
static uint32_t directory_of(tree *t, struct path *last, unsigned depth, uint32_t parent,
			     const char *name, size_t length)
{
	const tree_node *node;
	uint32_t number;
	char *own;

	if (depth < last->depth) {
		node = &t->node[last->directory[depth]];
		if (node->parent == parent && !strncmp(node->name, name, length) &&
		    !node->name[length])
			return last->directory[depth];
	}
	own = strndup(name, length);
	if (!own)
		return 0;
	number = tree_add(t, parent, NODE_DIRECTORY, own);
	t->node[number].own_name = own;
	last->directory[depth] = number;
	last->depth = depth + 1;
	return number;
}

static int add_file(tree *t, struct path *last, const mfs_container *container, uint32_t file)
{
	mfs_file_info info = {.size = sizeof(info)};
	int err = mfs_file_stat(container, file, &info);
	uint32_t parent = TREE_ROOT;
	unsigned depth = 0;
	const char *name, *slash;
	tree_node *node;

	if (err < 0)
		return err;
	for (name = info.name; (slash = strchr(name, '/')); name = slash + 1) {
		if (depth == PATH_DEPTH)
			return MFS_E_LIMIT;
		parent = directory_of(t, last, depth++, parent, name, (size_t)(slash - name));
		if (!parent)
			return MFS_E_MEMORY;
	}
	node = &t->node[tree_add(t, parent, NODE_FILE, name)];
	node->file = file;
	node->size = info.file_bytes;
	node->mtime_seconds = info.mtime_seconds;
	node->mtime_nanoseconds = info.mtime_nanoseconds;
	t->bytes += info.file_bytes;
	t->files++;
	return 0;
}

/* A directory was changed when the youngest of its files was. */
static void set_directory_time(tree_node *directory, const tree_node *child)
{
	if (child->mtime_seconds < directory->mtime_seconds ||
	    (child->mtime_seconds == directory->mtime_seconds &&
	     child->mtime_nanoseconds <= directory->mtime_nanoseconds))
		return;
	directory->mtime_seconds = child->mtime_seconds;
	directory->mtime_nanoseconds = child->mtime_nanoseconds;
}

static int compare_children(const void *a, const void *b, void *context)
{
	const tree *t = context;
	const tree_node *left = &t->node[*(const uint32_t *)a];
	const tree_node *right = &t->node[*(const uint32_t *)b];

	if (left->hidden != right->hidden)
		return left->hidden ? 1 : -1;
	return strcmp(left->name, right->name);
}

/* Gives every directory the sorted list of its children. */
static int link_children(tree *t)
{
	for (uint32_t i = TREE_ROOT + 1; i < t->count; i++)
		t->node[t->node[i].parent].children++;
	for (uint32_t i = TREE_ROOT; i < t->count; i++) {
		tree_node *node = &t->node[i];

		if (node->kind != NODE_DIRECTORY)
			continue;
		node->child = calloc(node->children ? node->children : 1, sizeof(*node->child));
		if (!node->child)
			return MFS_E_MEMORY;
		node->children = 0;
	}
	for (uint32_t i = TREE_ROOT + 1; i < t->count; i++) {
		tree_node *parent = &t->node[t->node[i].parent];

		parent->child[parent->children++] = i;
		parent->listed += !t->node[i].hidden;
		parent->directories += t->node[i].kind == NODE_DIRECTORY && !t->node[i].hidden;
		set_directory_time(parent, &t->node[i]);
	}
	for (uint32_t i = TREE_ROOT; i < t->count; i++)
		if (t->node[i].kind == NODE_DIRECTORY)
			qsort_r(t->node[i].child, t->node[i].children, sizeof(uint32_t),
				compare_children, t);
	return 0;
}

/* Room for every file, and for every directory of every name. */
static size_t node_room(const mfs_container *container)
{
	uint32_t files = mfs_file_count(container);
	size_t room = FIXED_NODES + (size_t)files;

	for (uint32_t i = 0; i < files; i++) {
		mfs_file_info info = {.size = sizeof(info)};

		if (mfs_file_stat(container, i, &info) < 0)
			continue;
		for (const char *at = info.name; (at = strchr(at, '/')); at++)
			room++;
	}
	return room;
}

int tree_build(tree *out, const mfs_container *container)
{
	uint32_t files = mfs_file_count(container);
	size_t room = node_room(container);
	uint32_t directory, stats;
	struct path last = {0};
	int err = 0;

	*out = (tree){.count = TREE_ROOT};
	if (room > UINT32_MAX)
		return MFS_E_LIMIT;
	out->node = calloc(room, sizeof(*out->node));
	if (!out->node)
		return MFS_E_MEMORY;
	tree_add(out, TREE_ROOT, NODE_DIRECTORY, "");
	directory = tree_add(out, TREE_ROOT, NODE_DIRECTORY, ".modelfs");
	out->node[directory].hidden = true;
	stats = tree_add(out, directory, NODE_STATS, "stats.json");
	for (uint32_t i = 0; i < files && err == 0; i++)
		err = add_file(out, &last, container, i);
	if (err == 0)
		err = link_children(out);
	out->node[directory].mtime_seconds = out->node[stats].mtime_seconds = time(NULL);
	if (err < 0)
		tree_free(out);
	return err;
}

void tree_free(tree *t)
{
	for (uint32_t i = 0; t->node && i < t->count; i++) {
		free(t->node[i].child);
		free(t->node[i].own_name);
	}
	free(t->node);
	*t = (tree){0};
}

const tree_node *tree_get(const tree *t, uint64_t number)
{
	return number >= TREE_ROOT && number < t->count ? &t->node[number] : NULL;
}

/* Searches the `count` children at `child` by bisection. */
static uint32_t find_child(const tree *t, const uint32_t *child, uint32_t count, const char *name)
{
	uint32_t low = 0;

	while (low < count) {
		uint32_t middle = low + (count - low) / 2;
		int order = strcmp(name, t->node[child[middle]].name);

		if (order == 0)
			return child[middle];
		if (order > 0)
			low = middle + 1;
		else
			count = middle;
	}
	return 0;
}

uint32_t tree_find(const tree *t, uint32_t directory, const char *name)
{
	const tree_node *node = &t->node[directory];
	uint32_t found;

	if (node->kind != NODE_DIRECTORY)
		return 0;
	if (strcmp(name, ".") == 0)
		return directory;
	if (strcmp(name, "..") == 0)
		return node->parent;
	found = find_child(t, node->child, node->listed, name);
	if (found)
		return found;
	return find_child(t, node->child + node->listed, node->children - node->listed, name);
}
