#!/usr/bin/env bash
# Extended attributes and modelfs-stat say what each virtual file is, what it
# belongs to and how much of it is computed.
source "$(dirname "$0")/lib.sh"
need_fuse
need_program python3

cd "$tmp"
mkllama --type Q8_0 --size 4M --lora a.gguf model.gguf
echo text >notes.txt
pack new.mfs model.gguf notes.txt --lora fr=a.gguf --lora de=a.gguf --views f16 \
	--merge both=fr@0.7+de@-2
modelfs-stat --json --tensors new.mfs >stat.json
mount_container new.mfs "$tmp/mnt"
python3 - <<'CHECK' || fail "see above"
import json, os

def attributes(path):
    return {name.removeprefix("user.modelfs."): os.getxattr(path, name).decode()
            for name in os.listxattr(path)}

expected = {
    "model.gguf": {"kind": "base", "derived": "0", "lossy": "0"},
    "notes.txt": {"kind": "file", "derived": "0", "lossy": "0"},
    "adapters/fr.gguf": {"kind": "adapter", "base": "model.gguf", "derived": "0", "lossy": "0"},
    "merged/fr.f16.gguf": {"kind": "view", "base": "model.gguf", "adapters": "fr", "scale": "1",
                           "lossy": "0"},
    "merged/both.f16.gguf": {"kind": "view", "base": "model.gguf", "adapters": "fr,de",
                             "scale": "0.7,-2", "lossy": "0"},
}
files = {f["name"]: f for f in json.load(open("stat.json"))["files"]}
tensors = json.load(open("stat.json"))["tensors"]
for name, wanted in expected.items():
    found = attributes("mnt/" + name)
    assert int(found.pop("stored_size")) == files[name]["stored_size"], name
    if wanted["kind"] == "view":
        derived = int(found.pop("derived"))
        assert 0.9 * files[name]["size"] < derived < files[name]["size"], (name, derived)
        assert derived == files[name]["derived_size"], name
        assert files[name]["xxh3_128"] is None, name
        own = [t for t in tensors if t["file"] == name]
        assert all(t["derived"] and t["stored_size"] == 0 for t in own) and own, name
        assert max(t["adapters"] for t in own) == name.count("both") + 1, name
    assert found == wanted, (name, found)
    assert files[name].get("base") == wanted.get("base"), name
try:
    os.getxattr("mnt/model.gguf", "user.modelfs.adapters")
    raise SystemExit("a base has adapters")
except OSError:
    pass
assert os.listxattr("mnt/merged") == []
CHECK
unmount_container "$tmp/mnt" "$daemon"
# One that was merged, then quantized, is stored: no view.
mkllama --type F16 --size 4M --lora a.gguf f16.gguf
pack pre.mfs --quantize q8_0 model.gguf=f16.gguf --lora fr=a.gguf --views none \
	--premerge half=fr@0.5
mount_container pre.mfs "$tmp/mnt"
python3 - <<'CHECK' || fail "a premerged model does not say what it is"
import os
found = {name: os.getxattr("mnt/merged/half.q8_0.gguf", "user.modelfs." + name).decode()
         for name in ("kind", "base", "adapters", "scale", "derived", "lossy")}
assert found == {"kind": "base", "base": "model.gguf", "adapters": "fr", "scale": "0.5",
                 "derived": "0", "lossy": "1"}, found
CHECK
unmount_container "$tmp/mnt" "$daemon"
mkmodelfs --json --dry-run none.mfs model.gguf --lora fr=a.gguf >summary.json
python3 -c 'import json; s = json.load(open("summary.json")); assert (s["adapters"], s["views"]) == (1, 4)' ||
	fail "the summary does not count adapters and views"
