/* The tree of inodes, over a made-up list of files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "modelfs.h"

static const char *const *file_names;
static uint32_t file_count;

static uint32_t fake_file_count(const mfs_container *container)
{
	(void)container;
	return file_count;
}

static int fake_file_stat(const mfs_container *container, uint32_t file, mfs_file_info *out)
{
	(void)container;
	out->name = file_names[file];
	out->file_bytes = 100 + file;
	out->mtime_seconds = (int64_t)file * 10;
	return 0;
}

#define mfs_file_count fake_file_count
#define mfs_file_stat  fake_file_stat
#include "../../fuse/tree.c"

static const char *const three[] = {"model.gguf", "a b", "zz"};

static void build(tree *t, const char *const *names, uint32_t count)
{
	file_names = names;
	file_count = count;
	assert_int_equal(tree_build(t, NULL), 0);
}

static void files_are_found_by_name(void **state)
{
	tree t;

	(void)state;
	build(&t, three, 3);
	for (uint32_t i = 0; i < 3; i++) {
		const tree_node *node = tree_get(&t, tree_find(&t, TREE_ROOT, three[i]));

		assert_non_null(node);
		assert_int_equal(node->kind, NODE_FILE);
		assert_int_equal(node->file, i);
		assert_int_equal(node->size, 100 + i);
	}
	assert_int_equal(tree_find(&t, TREE_ROOT, "model"), 0);
	assert_int_equal(tree_find(&t, TREE_ROOT, ""), 0);
	assert_int_equal(tree_find(&t, TREE_ROOT, "zzz"), 0);
	assert_int_equal(t.bytes, 303);
	tree_free(&t);
}

static void children_are_listed_in_order(void **state)
{
	tree t;
	const tree_node *root;

	(void)state;
	build(&t, three, 3);
	root = tree_get(&t, TREE_ROOT);
	assert_int_equal(root->listed, 3);
	assert_string_equal(t.node[root->child[0]].name, "a b");
	assert_string_equal(t.node[root->child[1]].name, "model.gguf");
	assert_string_equal(t.node[root->child[2]].name, "zz");
	tree_free(&t);
}

static void own_directory_is_found_but_not_listed(void **state)
{
	tree t;
	const tree_node *root;
	uint32_t own;

	(void)state;
	build(&t, three, 3);
	root = tree_get(&t, TREE_ROOT);
	for (uint32_t i = 0; i < root->listed; i++)
		assert_string_not_equal(t.node[root->child[i]].name, ".modelfs");
	own = tree_find(&t, TREE_ROOT, ".modelfs");
	assert_int_equal(t.node[own].kind, NODE_DIRECTORY);
	assert_int_equal(t.node[tree_find(&t, own, "stats.json")].kind, NODE_STATS);
	assert_int_equal(tree_find(&t, TREE_ROOT, "stats.json"), 0);
	tree_free(&t);
}

static void dots_lead_to_self_and_parent(void **state)
{
	tree t;
	uint32_t own;

	(void)state;
	build(&t, three, 3);
	own = tree_find(&t, TREE_ROOT, ".modelfs");
	assert_int_equal(tree_find(&t, TREE_ROOT, "."), TREE_ROOT);
	assert_int_equal(tree_find(&t, TREE_ROOT, ".."), TREE_ROOT);
	assert_int_equal(tree_find(&t, own, "."), own);
	assert_int_equal(tree_find(&t, own, ".."), TREE_ROOT);
	tree_free(&t);
}

static void names_with_directories_make_them(void **state)
{
	static const char *const names[] = {"adapters/a.gguf", "adapters/b.gguf", "m.gguf",
					    "merged/a/model.safetensors", "merged/b.gguf"};
	uint32_t adapters, merged, inner;
	tree t;

	(void)state;
	build(&t, names, 5);
	assert_int_equal(tree_get(&t, TREE_ROOT)->listed, 3);
	assert_int_equal(tree_get(&t, TREE_ROOT)->directories, 2);
	adapters = tree_find(&t, TREE_ROOT, "adapters");
	assert_int_equal(tree_get(&t, adapters)->kind, NODE_DIRECTORY);
	assert_int_equal(tree_get(&t, adapters)->listed, 2);
	assert_int_equal(tree_get(&t, tree_find(&t, adapters, "b.gguf"))->file, 1);
	merged = tree_find(&t, TREE_ROOT, "merged");
	inner = tree_find(&t, merged, "a");
	assert_int_equal(tree_get(&t, merged)->directories, 1);
	assert_int_equal(tree_get(&t, inner)->directories, 0);
	assert_int_equal(tree_get(&t, tree_find(&t, inner, "model.safetensors"))->file, 3);
	assert_int_equal(tree_find(&t, inner, ".."), merged);
	assert_int_equal(tree_get(&t, tree_find(&t, merged, "b.gguf"))->file, 4);
	tree_free(&t);
}

static void files_have_no_children(void **state)
{
	tree t;

	(void)state;
	build(&t, three, 3);
	assert_int_equal(tree_find(&t, tree_find(&t, TREE_ROOT, "zz"), "."), 0);
	tree_free(&t);
}

static void unknown_numbers_are_refused(void **state)
{
	tree t;

	(void)state;
	build(&t, three, 3);
	assert_null(tree_get(&t, 0));
	assert_non_null(tree_get(&t, TREE_ROOT));
	assert_non_null(tree_get(&t, t.count - 1));
	assert_null(tree_get(&t, t.count));
	assert_null(tree_get(&t, UINT64_MAX));
	tree_free(&t);
}

static void root_is_as_young_as_its_youngest_file(void **state)
{
	tree t;

	(void)state;
	build(&t, three, 3);
	assert_int_equal(tree_get(&t, TREE_ROOT)->mtime_seconds, 20);
	tree_free(&t);
}

static void empty_container_has_an_empty_root(void **state)
{
	tree t;

	(void)state;
	build(&t, NULL, 0);
	assert_int_equal(tree_get(&t, TREE_ROOT)->listed, 0);
	assert_int_not_equal(tree_find(&t, TREE_ROOT, ".modelfs"), 0);
	tree_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(files_are_found_by_name),
	    cmocka_unit_test(children_are_listed_in_order),
	    cmocka_unit_test(own_directory_is_found_but_not_listed),
	    cmocka_unit_test(dots_lead_to_self_and_parent),
	    cmocka_unit_test(names_with_directories_make_them),
	    cmocka_unit_test(files_have_no_children),
	    cmocka_unit_test(unknown_numbers_are_refused),
	    cmocka_unit_test(root_is_as_young_as_its_youngest_file),
	    cmocka_unit_test(empty_container_has_an_empty_root),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
