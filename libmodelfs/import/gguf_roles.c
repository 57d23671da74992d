#include "gguf_roles.h"

#include <stddef.h>
#include <string.h>

static bool ends_with(const char *text, const char *end)
{
	size_t length = strlen(text), n = strlen(end);

	return length >= n && !strcmp(text + length - n, end);
}

bool mfs_gguf_stays_float(const char *name)
{
	static const char *const kept[] = {"_norm.weight",
					   "ffn_gate_inp",
					   "ffn_gate_tid2eid.weight",
					   "altup",
					   "laurel",
					   "per_layer_model_proj",
					   "ssm_conv1d",
					   "shortconv.conv.weight",
					   "indexer.k_proj.weight",
					   "indexer.q_proj.weight",
					   "time_mix_first.weight",
					   "time_mix_w0.weight",
					   "time_mix_w1.weight",
					   "time_mix_w2.weight",
					   "time_mix_v0.weight",
					   "time_mix_v1.weight",
					   "time_mix_v2.weight",
					   "time_mix_a0.weight",
					   "time_mix_a1.weight",
					   "time_mix_a2.weight",
					   "time_mix_g1.weight",
					   "time_mix_g2.weight",
					   "time_mix_decay_w1.weight",
					   "time_mix_decay_w2.weight",
					   "time_mix_lerp_fused.weight",
					   "attn_rel_b.weight",
					   "position_embd",
					   "token_types.weight",
					   "sam.pos_embd",
					   "sam.neck.",
					   "sam.net_",
					   ".rel_pos",
					   ".patch_embd",
					   ".patch_merger",
					   "a.rvq.codebook",
					   "mm.a.code_embd"};

	if (!ends_with(name, "weight"))
		return true;
	for (size_t i = 0; i < sizeof(kept) / sizeof(*kept); i++)
		if (strstr(name, kept[i]))
			return true;
	return false;
}
