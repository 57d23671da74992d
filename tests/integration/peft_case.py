"""A small model built twice, as Hugging Face has it and as GGUF, and a PEFT adapter
for it.

peft_case.py make DIR ARCHITECTURE CASE [KEY=JSON]...  writes DIR/base.gguf and
    DIR/peft; keys are set in the configuration last
peft_case.py compare DIR ARCHITECTURE CASE BASE VIEW...  merges as PEFT defines it and
    compares weights with those of the views, of whatever type; BASE is a GGUF file with
    other weights, or -

Cases: plain rslora rank alpha both f16 bf16 dora
"""
import json
import os
import re
import struct
import sys

import numpy as np

import merge1
from merged_gguf import Gguf
from peft_safetensors import merged_weights
from premerged_gguf import quantize

HEADS, KV, LAYERS, VOCAB = 4, 2, 2, 50
RANK, ALPHA = 4, 8
RANKS = {"model.layers.0.self_attn.q_proj": 2, r"layers\.1\..*down_proj": 6}
ALPHAS = {"k_proj": 3, "mlp.up_proj|gate_proj": 20}
DTYPES = {"f16": "F16", "bf16": "BF16"}


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def modules(architecture, case):
    """Of a layer: name in GGUF, rows, columns. A DoRA has a base of any type: its rows
    are whole blocks of K-quants. Phi-3 has matrices in one that others have apart."""
    dim, ffn = (256, 512) if case == "dora" else (64, 96)
    kv = dim // HEADS * KV
    if architecture == "phi3":
        return {"self_attn.qkv_proj": ("attn_qkv", dim + 2 * kv, dim),
                "self_attn.o_proj": ("attn_output", dim, dim),
                "mlp.gate_up_proj": ("ffn_up", 2 * ffn, dim),
                "mlp.down_proj": ("ffn_down", dim, ffn)}
    return {"self_attn.q_proj": ("attn_q", dim, dim), "self_attn.k_proj": ("attn_k", kv, dim),
            "self_attn.v_proj": ("attn_v", kv, dim), "self_attn.o_proj": ("attn_output", dim, dim),
            "mlp.gate_proj": ("ffn_gate", ffn, dim), "mlp.up_proj": ("ffn_up", ffn, dim),
            "mlp.down_proj": ("ffn_down", dim, ffn)}


def model(architecture, case):
    """Modules of the model: name in GGUF, weights as Hugging Face has them."""
    rng = np.random.default_rng(7)
    dim = modules(architecture, case)["self_attn.o_proj"][1]
    out = {"model.embed_tokens": ("token_embd", rng.standard_normal((VOCAB, dim))),
           "lm_head": ("output", rng.standard_normal((VOCAB, dim)))}
    for layer in range(LAYERS):
        for module, (name, rows, columns) in modules(architecture, case).items():
            out[f"model.layers.{layer}.{module}"] = (f"blk.{layer}.{name}",
                                                     rng.standard_normal((rows, columns)))
    return {key: (name, w.astype(np.float32)) for key, (name, w) in out.items()}


def permuted(architecture, name, rows):
    """Rows as the conversion to GGUF orders them."""
    if architecture not in ("llama", "granite", "smollm3") or not name.endswith(("attn_q", "attn_k")):
        return rows
    heads = HEADS if name.endswith("attn_q") else KV
    return rows.reshape(heads, 2, len(rows) // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def pattern(patterns, module, otherwise):
    for key, value in patterns.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return otherwise


def adapter(architecture, case):
    """By module: A, B, scale, the two as they are stored, rounded to the case's type, and
    the magnitudes of a DoRA."""
    rng = np.random.default_rng(8)
    out = {}
    for module, (_, w) in model(architecture, case).items():
        rank = pattern(RANKS if case in ("rank", "both") else {}, module, RANK)
        alpha = pattern(ALPHAS if case in ("alpha", "both") else {}, module, ALPHA)
        scale = alpha / np.sqrt(rank) if case in ("rslora", "both") else alpha / rank
        a, b = (rng.standard_normal(shape).astype(np.float32)
                for shape in ((rank, w.shape[1]), (w.shape[0], rank)))
        if module == "model.embed_tokens":  # (rank, vocabulary), (dim, rank)
            if case == "dora":
                continue
            a, b = np.ascontiguousarray(b.T), np.ascontiguousarray(a.T)
        kind = {"f16": merge1.F16, "bf16": merge1.BF16}.get(case, merge1.F32)
        stored = [(merge1.store(kind, m), m.shape) for m in (a, b)]
        a, b = (merge1.decode(kind, raw).reshape(shape) for raw, shape in stored)
        magnitude = rng.random(w.shape[0]).astype(np.float32) * 8 if case == "dora" else None
        out[module] = (a, b, scale, stored, magnitude)
    return out


def write_gguf(path, architecture, case):
    keys = {"general.type": "model", "general.architecture": architecture}
    numbers = {f"{architecture}.attention.head_count": HEADS,
               f"{architecture}.attention.head_count_kv": KV}
    infos, data = b"", b""
    tensors = [(name + ".weight", permuted(architecture, name, w))
               for name, w in model(architecture, case).values()]
    for name, w in tensors:
        infos += text(name) + struct.pack("<IQQIQ", 2, w.shape[1], w.shape[0], 0, len(data))
        data += w.astype("<f4").tobytes()
        data += bytes(-len(data) % 32)
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys) + len(numbers))
    for key, value in keys.items():
        head += text(key) + struct.pack("<I", 8) + text(value)
    for key, value in numbers.items():
        head += text(key) + struct.pack("<II", 4, value)
    head += infos
    with open(path, "wb") as file:
        file.write(head + bytes(-len(head) % 32) + data)


def write_peft(directory, architecture, case, settings):
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none",
              "init_lora_weights": True, "modules_to_save": None, "fan_in_fan_out": False}
    if case in ("rslora", "both"):
        config["use_rslora"] = True
    if case == "dora":
        config["use_dora"] = True
    if case in ("rank", "both"):
        config["rank_pattern"] = RANKS
    if case in ("alpha", "both"):
        config["alpha_pattern"] = ALPHAS
    for setting in settings:
        key, value = setting.split("=", 1)
        config[key] = json.loads(value)
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "adapter_config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)
    header, data = {}, b""
    for module, (_, _, _, stored, magnitude) in adapter(architecture, case).items():
        embedding = module == "model.embed_tokens"
        for letter, (raw, shape) in zip("AB", stored):
            end = f"lora_embedding_{letter}" if embedding else f"lora_{letter}.weight"
            header[f"base_model.model.{module}.{end}"] = {
                "dtype": DTYPES.get(case, "F32"), "shape": list(shape),
                "data_offsets": [len(data), len(data) + len(raw)]}
            data += raw
        if magnitude is not None:
            raw = magnitude.astype("<f4").tobytes()
            header[f"base_model.model.{module}.lora_magnitude_vector"] = {
                "dtype": "F32", "shape": [len(magnitude)],
                "data_offsets": [len(data), len(data) + len(raw)]}
            data += raw
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with open(os.path.join(directory, "adapter_model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw + data)


def same(case, got, t, expected):
    """Only where scales had to be multiplied into B are roundings different."""
    if case in ("plain", "f16", "bf16", "rank", "dora"):
        return quantize(t["type"], expected) == got.data_of(t)
    return np.allclose(expected, got.floats(t), rtol=2e-6, atol=2e-5)


def compare(architecture, case, base, *views):
    views = {path: Gguf(path) for path in views}
    base = Gguf(base) if base != "-" else None
    weights = {t["name"]: base.floats(t) for t in base.tensors} if base else {}
    matrices = adapter(architecture, case)
    for module, (name, w) in model(architecture, case).items():
        w = weights.get(name + ".weight", permuted(architecture, name, w))
        expected = w
        if module in matrices:
            a, b, scale, _, magnitude = matrices[module]
            if module == "model.embed_tokens":
                a, b = b.T, a.T
            b = permuted(architecture, name, b)
            if magnitude is not None:
                magnitude = permuted(architecture, name, magnitude[:, None])[:, 0]
            expected = merged_weights(w, [(a, b, np.float32(scale), magnitude)])
        for path, got in views.items():
            t = next(t for t in got.tensors if t["name"] == name + ".weight")
            if not same(case, got, t, expected):
                print(f"{architecture}, {case}: {name} of {path} differs by "
                      f"{np.abs(expected - got.floats(t)).max():g}, "
                      f"at most {np.abs(expected - w).max():g}")
                return 1
    return 0


def main(command, directory, architecture, case, *rest):
    if command == "compare":
        return compare(architecture, case, *rest)
    write_gguf(os.path.join(directory, "base.gguf"), architecture, case)
    write_peft(os.path.join(directory, "peft"), architecture, case, rest)
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 5:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(*sys.argv[1:]))
