/* Names of shards, and of tensors in an adapter of PEFT. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "peft_keys.h"
#include "shards.h"

static void a_shard_tells_its_number_and_how_many_there_are(void **state)
{
	static const char name[] = "my-00002-of-00017.safetensors";
	char other[sizeof(name)];
	mfs_shard shard;

	(void)state;
	assert_true(mfs_shard_parse(&shard, name));
	assert_int_equal(shard.prefix_length, 2);
	assert_int_equal(shard.number, 2);
	assert_int_equal(shard.count, 17);
	mfs_shard_name(other, name, &shard, 16);
	assert_string_equal(other, "my-00016-of-00017.safetensors");
}

static void other_names_are_no_shards(void **state)
{
	static const char *const names[] = {"",
					    "model.safetensors",
					    "-00001-of-00002.safetensors",
					    "m-0001-of-00002.safetensors",
					    "m-00001-of-0002.safetensors",
					    "m-00001-of-00002.safetensor",
					    "m-00003-of-00002.safetensors",
					    "m-00000-of-00002.safetensors",
					    "m-0000a-of-00002.safetensors",
					    "m_00001-of-00002.safetensors",
					    "m-00001-to-00002.safetensors"};
	mfs_shard shard;

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (mfs_shard_parse(&shard, names[i]))
			fail_msg("'%s' is taken for a shard", names[i]);
}

static void keys_of_peft_name_module_and_matrix(void **state)
{
	static const struct {
		const char *key, *module;
		char matrix;
		bool embedding;
	} keys[] = {
	    {"base_model.model.a.b.lora_A.weight", "a.b", 'a', false},
	    {"base_model.model.a.lora_B.weight", "a", 'b', false},
	    {"base_model.model.e.lora_embedding_A", "e", 'a', true},
	    {"base_model.model.e.lora_embedding_B", "e", 'b', true},
	    {"base_model.model.a.lora_magnitude_vector", "a", 'm', false},
	    {"base_model.model.a.lora_magnitude_vector.weight", "a", 'm', false},
	};
	mfs_peft_key key;

	(void)state;
	for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
		assert_true(mfs_peft_key_parse(&key, keys[i].key));
		assert_int_equal(key.module_length, strlen(keys[i].module));
		assert_memory_equal(key.module, keys[i].module, key.module_length);
		assert_int_equal(key.matrix, keys[i].matrix);
		assert_int_equal(key.embedding, keys[i].embedding);
	}
}

static void other_keys_are_not_of_a_lora(void **state)
{
	static const char *const names[] = {"",
					    "a.lora_A.weight",
					    "base_model.model.",
					    "base_model.model.lora_A.weight",
					    "base_model.model..lora_A.weight",
					    "base_model.model.a.weight",
					    "base_model.model.a.lora_A.bias"};
	mfs_peft_key key;

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (mfs_peft_key_parse(&key, names[i]))
			fail_msg("'%s' is taken for a matrix", names[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_shard_tells_its_number_and_how_many_there_are),
	    cmocka_unit_test(other_names_are_no_shards),
	    cmocka_unit_test(keys_of_peft_name_module_and_matrix),
	    cmocka_unit_test(other_keys_are_not_of_a_lora),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
