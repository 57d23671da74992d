/*
 * The tree of inodes that the mount shows. Built once before mounting and not
 * changed after that, so any thread may look into it without a lock.
 *
 * An inode number is a place in the tree's table; the root has number 1. A
 * directory is a node that other nodes name as their parent. The names of the
 * container's files say which directories there are.
 */
#ifndef MODELFS_TREE_H
#define MODELFS_TREE_H

#include <stdbool.h>
#include <stdint.h>

#include "modelfs.h"

#define TREE_ROOT 1

typedef enum {
	NODE_DIRECTORY,
	NODE_FILE,  /* `file` of the container */
	NODE_STATS, /* counters as JSON, made at each open */
} node_kind;

typedef struct {
	node_kind kind;
	bool hidden;	 /* found by name, but not listed */
	uint32_t parent; /* inode number; the root is its own parent */
	uint32_t file;
	const char *name; /* the tree's, or the container's */
	char *own_name;	  /* NULL: it is not the node's own */
	uint64_t size;
	int64_t mtime_seconds;
	uint32_t mtime_nanoseconds;
	uint32_t *child; /* inode numbers, sorted by name: those listed, then the hidden */
	uint32_t children, listed;
	uint32_t directories; /* among those listed */
} tree_node;

typedef struct {
	tree_node *node; /* node[number]; number 0 is not used */
	uint32_t count;	 /* numbers in use, with number 0 */
	uint64_t bytes;	 /* of all files */
	uint32_t files;
} tree;

/* Builds the tree of a container: its files and the directories that their names
 * speak of, and the hidden directory .modelfs. 0, or a negative mfs_error. */
int tree_build(tree *out, const mfs_container *container);
void tree_free(tree *t);

/* The node of an inode number, or NULL. */
const tree_node *tree_get(const tree *t, uint64_t number);

/* The inode number of `name` in a directory, hidden or not, "." and ".."
 * included; 0 if there is none. */
uint32_t tree_find(const tree *t, uint32_t directory, const char *name);

#endif
