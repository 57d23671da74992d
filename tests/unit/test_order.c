/* The order of execution, from the names that real models have. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "order.h"

#define NAMES_MAX 64

static mfs_order *order_of(const char *const names[], uint32_t count)
{
	mfs_order_tensor tensors[NAMES_MAX];
	mfs_order *order;

	for (uint32_t i = 0; i < count; i++)
		tensors[i] =
		    (mfs_order_tensor){names[i], (uint16_t)strlen(names[i]), 0, 1000, 1000};
	assert_int_equal(mfs_order_new(&order, tensors, count), 0);
	return order;
}

/* `expected` in the order of execution must come out of any order of the file. */
static void check(const char *const expected[], uint32_t count)
{
	const char *shuffled[NAMES_MAX];
	uint32_t steps[] = {1, 7, 11, 13};

	for (unsigned s = 0; s < 4; s++) {
		mfs_order *order;

		while (count % steps[s] == 0 && steps[s] > 1)
			steps[s] += 2;
		for (uint32_t i = 0; i < count; i++)
			shuffled[i] = expected[(uint64_t)i * steps[s] % count];
		order = order_of(shuffled, count);
		for (uint32_t i = 0; i < count; i++)
			assert_string_equal(shuffled[mfs_order_sequence(order)[i]], expected[i]);
		mfs_order_free(order);
	}
}

#define CHECK(...)                                                                                 \
	do {                                                                                       \
		static const char *const names_[] = {__VA_ARGS__};                                 \
		check(names_, sizeof(names_) / sizeof(names_[0]));                                 \
	} while (0)

static void llama_names_of_gguf(void **state)
{
	(void)state;
	CHECK("token_embd.weight", "blk.0.attn_norm.weight", "blk.0.attn_q.weight",
	      "blk.0.attn_k.weight", "blk.0.attn_v.weight", "blk.0.attn_output.weight",
	      "blk.0.ffn_norm.weight", "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight",
	      "blk.0.ffn_down.weight", "blk.2.attn_q.weight", "blk.2.ffn_down.weight",
	      "blk.10.attn_norm.weight", "blk.10.ffn_down.weight", "output_norm.weight",
	      "output.weight");
}

static void qwen2_names_with_biases(void **state)
{
	(void)state;
	CHECK("model.embed_tokens.weight", "model.layers.0.input_layernorm.weight",
	      "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight",
	      "model.layers.0.self_attn.v_proj.bias", "model.layers.0.self_attn.o_proj.weight",
	      "model.layers.0.post_attention_layernorm.weight",
	      "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight",
	      "model.layers.0.mlp.down_proj.weight", "model.layers.11.mlp.down_proj.weight",
	      "model.norm.weight", "lm_head.weight");
}

/* No output tensor: the token embedding is the output, whole and last. */
static void gemma_is_tied_to_its_embedding(void **state)
{
	static const char *const names[] = {"token_embd.weight", "blk.0.attn_q.weight",
					    "output_norm.weight"};
	mfs_order *order = order_of(names, 3);

	(void)state;
	assert_int_equal(mfs_order_sequence(order)[2], 0);
	assert_true(mfs_order_whole(order, 0));
	mfs_order_free(order);
	CHECK("blk.0.attn_norm.weight", "blk.0.attn_q.weight", "blk.0.attn_output.weight",
	      "blk.0.post_attention_norm.weight", "blk.0.ffn_gate.weight", "blk.0.ffn_down.weight",
	      "blk.0.post_ffw_norm.weight", "output_norm.weight", "token_embd.weight");
}

static void phi_has_joined_matrices(void **state)
{
	(void)state;
	CHECK("model.embed_tokens.weight", "model.layers.0.input_layernorm.weight",
	      "model.layers.0.self_attn.qkv_proj.weight", "model.layers.0.self_attn.o_proj.weight",
	      "model.layers.0.mlp.gate_up_proj.weight", "model.layers.0.mlp.down_proj.weight",
	      "model.norm.weight", "lm_head.weight");
}

static void gpt_neo_and_gpt2_and_neox(void **state)
{
	(void)state;
	CHECK("transformer.wte.weight", "transformer.h.0.ln_1.weight",
	      "transformer.h.0.attn.attention.q_proj.weight",
	      "transformer.h.0.attn.attention.k_proj.weight",
	      "transformer.h.0.attn.attention.v_proj.weight",
	      "transformer.h.0.attn.attention.out_proj.weight", "transformer.h.0.ln_2.weight",
	      "transformer.h.0.mlp.c_fc.weight", "transformer.h.0.mlp.c_proj.weight",
	      "transformer.h.1.ln_1.weight", "transformer.ln_f.weight", "lm_head.weight");
	CHECK("h.0.ln_1.weight", "h.0.attn.c_attn.weight", "h.0.attn.c_proj.weight",
	      "h.0.ln_2.weight", "h.0.mlp.c_fc.weight", "h.0.mlp.c_proj.weight", "ln_f.weight",
	      "wte.weight");
	CHECK("gpt_neox.embed_in.weight", "gpt_neox.layers.3.attention.query_key_value.weight",
	      "gpt_neox.layers.3.attention.dense.weight",
	      "gpt_neox.layers.3.mlp.dense_h_to_4h.weight",
	      "gpt_neox.layers.3.mlp.dense_4h_to_h.weight", "gpt_neox.final_layer_norm.weight",
	      "embed_out.weight");
}

static void encoders_come_before_decoders(void **state)
{
	(void)state;
	CHECK("enc.blk.0.attn_q.weight", "enc.blk.1.attn_q.weight", "token_embd.weight",
	      "dec.blk.0.attn_q.weight", "dec.blk.0.ffn_up.weight", "output.weight");
}

/* Known only by its number: the order of the file stays within a layer. */
static void unknown_roles_keep_the_order_of_the_file(void **state)
{
	static const char *const names[] = {"stage.1.zeta", "stage.1.alpha", "stage.0.zeta",
					    "stage.0.alpha"};
	static const uint32_t expected[] = {2, 3, 0, 1};
	mfs_order *order = order_of(names, 4);

	(void)state;
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(mfs_order_sequence(order)[i], expected[i]);
	mfs_order_free(order);
}

static void models_follow_each_other(void **state)
{
	static const mfs_order_tensor tensors[] = {{"output.weight", 13, 0, 10, 10},
						   {"blk.0.attn_q.weight", 19, 0, 10, 10},
						   {"output.weight", 13, 1, 10, 10},
						   {"blk.0.attn_q.weight", 19, 1, 10, 10}};
	static const uint32_t expected[] = {1, 0, 3, 2};
	mfs_order *order;

	(void)state;
	assert_int_equal(mfs_order_new(&order, tensors, 4), 0);
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(mfs_order_sequence(order)[i], expected[i]);
	mfs_order_free(order);
}

static void stacked_experts_have_two_sisters(void **state)
{
	static const mfs_order_tensor tensors[] = {{"blk.0.ffn_down_exps.weight", 26, 0, 800, 100},
						   {"blk.0.ffn_down_shexp.weight", 27, 0, 100, 100},
						   {"blk.0.ffn_gate_exps.weight", 26, 0, 1600, 200},
						   {"blk.0.ffn_gate_inp.weight", 25, 0, 100, 100},
						   {"blk.0.ffn_up_exps.weight", 24, 0, 1600, 200},
						   {"blk.1.ffn_up_exps.weight", 24, 0, 1600, 200}};
	mfs_order_part parts[MFS_ORDER_PARTS_MAX];
	mfs_order *order;

	(void)state;
	assert_int_equal(mfs_order_new(&order, tensors, 6), 0);
	assert_int_equal(mfs_order_expert(order, 4, 650, parts), 3);
	assert_int_equal(parts[0].tensor, 2);
	assert_int_equal(parts[0].from, 600);
	assert_int_equal(parts[0].to, 800);
	assert_int_equal(parts[1].tensor, 4);
	assert_int_equal(parts[2].tensor, 0);
	assert_int_equal(parts[2].from, 300);
	assert_int_equal(parts[2].to, 400);
	assert_int_equal(mfs_order_expert(order, 1, 0, parts), 0);
	assert_int_equal(mfs_order_expert(order, 3, 0, parts), 0);
	assert_true(mfs_order_whole(order, 1));
	assert_false(mfs_order_whole(order, 2));
	mfs_order_free(order);
}

static void mixtral_experts_are_tensors(void **state)
{
	static const char *const names[] = {"model.layers.0.block_sparse_moe.experts.0.w1.weight",
					    "model.layers.0.block_sparse_moe.experts.0.w2.weight",
					    "model.layers.0.block_sparse_moe.experts.0.w3.weight",
					    "model.layers.0.block_sparse_moe.experts.1.w1.weight",
					    "model.layers.0.block_sparse_moe.experts.1.w2.weight",
					    "model.layers.0.block_sparse_moe.experts.1.w3.weight",
					    "model.layers.0.block_sparse_moe.gate.weight",
					    "blk.1.ffn_gate.3.weight",
					    "blk.1.ffn_up.3.weight"};
	mfs_order_part parts[MFS_ORDER_PARTS_MAX];
	mfs_order *order = order_of(names, 9);

	(void)state;
	assert_int_equal(mfs_order_expert(order, 5, 0, parts), 3);
	assert_int_equal(parts[0].tensor, 3);
	assert_int_equal(parts[1].tensor, 5);
	assert_int_equal(parts[2].tensor, 4);
	assert_int_equal(parts[2].to, 1000);
	assert_int_equal(mfs_order_expert(order, 8, 10, parts), 2);
	assert_int_equal(mfs_order_name_of(order, 6)->role, MFS_ROLE_ROUTER);
	mfs_order_free(order);
}

static void strange_names_are_harmless(void **state)
{
	static const char *const names[] = {"",
					    ".",
					    "...",
					    "0",
					    ".0",
					    "9999999999999.x",
					    "blk.4294967295.attn_q",
					    "blk..0..attn_q",
					    "blk.0",
					    "experts.",
					    "blk.0.experts.99999999999.w1."};
	mfs_order_part parts[MFS_ORDER_PARTS_MAX];
	mfs_order *order = order_of(names, 11);

	(void)state;
	for (uint32_t i = 0; i < 11; i++)
		assert_true(mfs_order_expert(order, i, 999, parts) <= MFS_ORDER_PARTS_MAX);
	mfs_order_free(order);
	assert_int_equal(mfs_order_new(&order, NULL, 0), 0);
	mfs_order_free(order);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(llama_names_of_gguf),
	    cmocka_unit_test(qwen2_names_with_biases),
	    cmocka_unit_test(gemma_is_tied_to_its_embedding),
	    cmocka_unit_test(phi_has_joined_matrices),
	    cmocka_unit_test(gpt_neo_and_gpt2_and_neox),
	    cmocka_unit_test(encoders_come_before_decoders),
	    cmocka_unit_test(unknown_roles_keep_the_order_of_the_file),
	    cmocka_unit_test(models_follow_each_other),
	    cmocka_unit_test(stacked_experts_have_two_sisters),
	    cmocka_unit_test(mixtral_experts_are_tensors),
	    cmocka_unit_test(strange_names_are_harmless),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
