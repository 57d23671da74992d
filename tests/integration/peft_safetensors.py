"""A small safetensors model with adapters of PEFT, and what they come to when they are
merged, by MERGE-1 and PEFT's definitions alone.

peft_safetensors.py make DIR TYPE SHARDS CASE SEED   writes DIR/base (TYPE: f32 f16 bf16
    mixed nf4), the adapter DIR/a of the case and DIR/b, an ordinary one
peft_safetensors.py merge DIR OUT CASE MIXTURE       the merged model ("a@1+b@-0.5")
peft_safetensors.py rename FILE OLD=NEW              other names for its tensors

Cases: plain rslora rank alpha both dora fan
"""
import json
import os
import re
import sys

import numpy as np

import merge1
import safetensors

DIM, FFN, VOCAB, RANK, ALPHA = 64, 96, 50, 4, 8
RANKS = {"layers.0.self_attn.q_proj": 2, r"layers\.1\..*down_proj": 6}
ALPHAS = {"k_proj": 3, "mlp.up_proj|gate_proj": 20}
DTYPES = {"f32": ["F32"], "f16": ["F16"], "bf16": ["BF16"], "mixed": ["BF16", "F32", "F16"],
          "nf4": ["BF16"]}


def shapes(case):
    """Of modules; fan: as the original GPT-2 has them, stored transposed."""
    if case == "fan":
        return {f"transformer.h.{layer}.{name}": shape for layer in range(2)
                for name, shape in {"attn.c_attn": (DIM, 3 * DIM), "attn.c_proj": (DIM, DIM),
                                    "mlp.c_fc": (DIM, FFN)}.items()}
    out = {"model.embed_tokens": (VOCAB, DIM), "lm_head": (VOCAB, DIM)}
    for layer in range(2):
        for name, shape in {"self_attn.q_proj": (DIM, DIM), "self_attn.k_proj": (DIM // 2, DIM),
                            "mlp.up_proj": (FFN, DIM), "mlp.gate_proj": (FFN, DIM),
                            "mlp.down_proj": (DIM, FFN)}.items():
            out[f"model.layers.{layer}.{name}"] = shape
    return out


def tensor_name(case, module):
    """GPT-2 is saved without the name of its head."""
    return (module.removeprefix("transformer.") if case == "fan" else module) + ".weight"


# ---- making ----

def base_tensors(kind, case, rng):
    types = DTYPES[kind]
    out = [("norm.weight", types[0], (DIM,),
            merge1.store(safetensors.KINDS[types[0]], rng.standard_normal(DIM)))]
    for i, (module, shape) in enumerate(shapes(case).items()):
        name, dtype = tensor_name(case, module), types[i % len(types)]
        if kind == "nf4" and "layers" in module:
            out += safetensors.packed(name, shape, "bfloat16", rng, nested=i % 3 > 0)
            continue
        weights = (rng.standard_normal(shape) * 0.05).astype(np.float32)
        out.append((name, dtype, shape, merge1.store(safetensors.KINDS[dtype], weights)))
    return out


def write(directory, name, data):
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, name), "wb") as file:
        file.write(data if isinstance(data, bytes) else json.dumps(data, indent=2).encode())


def write_base(directory, kind, shards, case, rng):
    tensors = base_tensors(kind, case, rng)
    config = {"model_type": "llama", "torch_dtype": "bfloat16"}
    if kind == "nf4":
        config["quantization_config"] = {"load_in_4bit": True, "quant_method": "bitsandbytes"}
    write(directory, "config.json", config)
    write(directory, "tokenizer.json", {"words": ["a", "b"]})
    write(directory, "README.md", b"no part of the model\n")
    if shards == 1:
        write(directory, "tiny.safetensors", safetensors.dump(tensors, {"format": "pt"}))
        return
    weight_map = {}
    for i in range(shards):
        # Cut anywhere: a matrix of 4 bits may have tensors in two files.
        part = tensors[i * len(tensors) // shards:(i + 1) * len(tensors) // shards]
        name = safetensors.shard_name(i, shards)
        write(directory, name, safetensors.dump(part, {"format": "pt"}))
        weight_map |= {t[0]: name for t in part}
    write(directory, "model.safetensors.index.json",
          {"metadata": {"total_size": sum(len(t[3]) for t in tensors)}, "weight_map": weight_map})


def pattern(patterns, module, otherwise):
    for key, value in patterns.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return otherwise


def config_of(case):
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none",
              "fan_in_fan_out": case == "fan", "use_dora": case == "dora",
              "use_rslora": case in ("rslora", "both"), "base_model_name_or_path": "tiny"}
    if case in ("rank", "both"):
        config["rank_pattern"] = RANKS
    if case in ("alpha", "both"):
        config["alpha_pattern"] = ALPHAS
    return config


def write_adapter(directory, case, rng, dtype):
    tensors = []
    config = config_of(case)

    def add(name, values):
        tensors.append(("base_model.model." + name, dtype, values.shape,
                        merge1.store(safetensors.KINDS[dtype], values.astype(np.float32))))

    for module, shape in shapes(case).items():
        rank = pattern(config.get("rank_pattern", {}), module, RANK)
        rows, columns = reversed(shape) if case == "fan" else shape
        if module == "model.embed_tokens":
            if case == "dora":
                continue
            add(module + ".lora_embedding_A", rng.standard_normal((rank, rows)) * 0.1)
            add(module + ".lora_embedding_B", rng.standard_normal((columns, rank)) * 0.1)
            continue
        add(module + ".lora_A.weight", rng.standard_normal((rank, columns)) * 0.1)
        add(module + ".lora_B.weight", rng.standard_normal((rows, rank)) * 0.1)
        if case == "dora":
            add(module + ".lora_magnitude_vector", np.abs(rng.standard_normal(rows)))
    write(directory, "adapter_config.json", config)
    write(directory, "adapter_model.safetensors", safetensors.dump(tensors))


# ---- merging ----

def adapter_terms(directory, case, user):
    """By tensor: A, B as merge1.merge() wants them, scale, magnitudes or None."""
    with open(os.path.join(directory, "adapter_config.json"), encoding="utf-8") as file:
        config = json.load(file)
    model = safetensors.Safetensors(os.path.join(directory, "adapter_model.safetensors"))
    prefix, out = "base_model.model.", {}
    for key in model.header:
        module = key[len(prefix):].split(".lora_")[0]
        if not key.endswith(("lora_A.weight", "lora_embedding_A")):
            continue
        a = model.floats(key)[0]
        b = model.floats(key.replace("lora_A", "lora_B").replace("embedding_A", "embedding_B"))[0]
        rank = pattern(config.get("rank_pattern", {}), module, config["r"])
        alpha = pattern(config.get("alpha_pattern", {}), module, config["lora_alpha"])
        assert a.shape[0] == rank
        scale = alpha / (np.sqrt(rank) if config["use_rslora"] else rank)
        if config["fan_in_fan_out"] or "embedding" in key:
            a, b = b.T, a.T
        magnitude = None
        if config["use_dora"]:
            magnitude = model.floats(prefix + module + ".lora_magnitude_vector")[0]
        out[tensor_name(case, module)] = (a, b, np.float32(np.float64(np.float32(user)) * scale),
                                          magnitude)
    return out


def gains(weights, a, b, scale, magnitude):
    """The magnitude of each row by its norm when it is merged, which is summed in order."""
    merged = merge1.merge(weights, [(a, b, scale, None)]).astype(np.float64)
    squares = np.add.accumulate(merged * merged, axis=1)[:, -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = magnitude.astype(np.float64) / np.sqrt(squares)
    return np.where(squares > 0, gain, 0).astype(np.float32)


def merged_weights(weights, terms):
    ready = []
    for a, b, scale, magnitude in terms:
        gain = None if magnitude is None else gains(weights, a, b, scale, magnitude)
        ready.append((a, b, scale, gain))
    return merge1.merge(weights, ready)


def merge_json(name, value, models):
    helpers = set().union(*(m.helpers() for m in models))
    if not helpers:
        return None
    if name == "config.json":
        value.pop("quantization_config")
        return value
    if name == "model.safetensors.index.json":
        for helper in helpers:
            value["weight_map"].pop(helper, None)
        value["metadata"]["total_size"] = sum(
            len(raw) for m in models for _, _, _, raw in safetensors.decoded(m))
        return value
    return None


def merge_model(directory, out, case, mixture):
    base = os.path.join(directory, "base")
    adapters = []
    for part in mixture.split("+"):
        label, scale = part.split("@")
        adapters.append(adapter_terms(os.path.join(directory, label), case, float(scale)))

    def change(name, weights):
        terms = [a[name] for a in adapters if name in a]
        return merged_weights(weights, terms) if terms else None

    names = sorted(os.listdir(base))
    shards = [n for n in names if n.endswith(".safetensors")]
    models = dict(zip(shards, safetensors.load(os.path.join(base, n) for n in shards)))
    for name in names:
        if name in models:
            target = "model.safetensors" if name == "tiny.safetensors" else name
            write(out, target, safetensors.dump(safetensors.decoded(models[name], change),
                                                models[name].metadata))
        elif name.endswith(".json"):
            with open(os.path.join(base, name), "rb") as file:
                raw = file.read()
            changed = merge_json(name, json.loads(raw), models.values())
            write(out, name, raw if changed is None else changed)


def rename(path, names):
    old, new = names.split("=", 1)
    model = safetensors.Safetensors(path)
    tensors = [(re.sub(old, new, name), t["dtype"], t["shape"], model.raw(name))
               for name, t in sorted(model.header.items(), key=lambda t: t[1]["data_offsets"])]
    with open(path, "wb") as file:
        file.write(safetensors.dump(tensors, model.metadata))


def main(command, directory, *rest):
    if command == "merge":
        merge_model(directory, *rest)
        return 0
    if command == "rename":
        rename(directory, *rest)
        return 0
    kind, shards, case, seed = rest
    rng = np.random.default_rng(int(seed))
    write_base(os.path.join(directory, "base"), kind, int(shards), case, rng)
    write_adapter(os.path.join(directory, "a"), case, rng, "BF16" if kind == "mixed" else "F32")
    write_adapter(os.path.join(directory, "b"), "fan" if case == "fan" else "plain", rng, "F16")
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 4:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(*sys.argv[1:]))
