#!/usr/bin/env bash
# A reader written from the specification alone reads the vectors and freshly
# packed models; the vectors hold what is said of them; the tables and the worked
# example of the specification are true.
source "$(dirname "$0")/lib.sh"
need_program python3
vectors=$MFS_SOURCE/spec/vectors
reader=$here/second_reader.py
# Debian's modules are those of Debian's Python.
python=python3
/usr/bin/python3 -c 'import zstandard, xxhash' 2>/dev/null && python=/usr/bin/python3
"$python" -c 'import zstandard, xxhash' 2>/dev/null ||
	skip "python3-zstandard and python3-xxhash are not installed"

cd "$tmp"

# second_reader CONTAINER SOURCE...: it gets the same files out of it
second_reader()
{
	local container=$1 source

	shift
	rm -rf out
	mkdir out
	"$python" "$reader" "$container" out || fail "the second reader refuses $container"
	for source; do
		same "out/$(basename "$source")" "$source"
	done
}

# The tables against the header, and the dump against the vector.
python3 "$vectors/annotate.py" --header >tables.c
"${MFS_CC:-cc}" -std=gnu17 -fsyntax-only -I"$MFS_SOURCE/format" tables.c ||
	fail "the tables of the specification do not fit mfs_disk.h"
python3 "$vectors/annotate.py" --check "$vectors/hello.mfs" || fail "see above"

mkdir sources
python3 "$vectors/sources.py" sources
count=0
for vector in "$vectors"/*.mfs; do
	name=$(basename "$vector" .mfs)
	case $name in
	views | rows | experts) "$python" -c 'import numpy' 2>/dev/null || continue ;;
	esac
	"$python" "$reader" --list "$vector" >seen.json || fail "the second reader refuses $name"
	"$python" - "$vectors/$name.json" seen.json <<'COMPARE' || fail "$name.json tells otherwise"
import json, sys
want, seen = (json.load(open(path, encoding="utf-8")) for path in sys.argv[1:])
for file in want["files"]:
    file.pop("bytes", None)
for part in want:
    if want[part] != seen[part]:
        print(f"{part}: {want[part]}\nnot: {seen[part]}", file=sys.stderr)
sys.exit(want != seen)
COMPARE
	mkdir "first-$name"
	modelfs-extract --quiet -C "first-$name" "$vector"
	# Views are left out where all files are asked for.
	case $name in
	views | rows) modelfs-extract --quiet -C "first-$name" "$vector" {merged/{lora,dora,mix}/model,views/tiny.{bf16,f16}}.safetensors ;;
	experts) modelfs-extract --quiet -C "first-$name" "$vector" merged/e.{f32,f16,bf16,q8_0}.gguf ;;
	esac
	rm -rf out
	mkdir out
	"$python" "$reader" "$vector" out || fail "the second reader refuses $name"
	diff -r "first-$name" out || fail "$name: the second reader has other files"
	for file in "first-$name"/*; do
		[ ! -e "sources/$(basename "$file")" ] || same "$file" "sources/$(basename "$file")"
	done
	count=$((count + 1))
done
[ "$count" -ge 8 ] || fail "only $count vectors"

generate_model model.gguf Q8_0 1
python3 "$here/odd_gguf.py" experts experts.gguf
head -c 70000 /dev/zero >zeros
head -c 5000 /dev/urandom >noise
: >empty
pack fresh.mfs model.gguf experts.gguf zeros noise empty
second_reader fresh.mfs model.gguf experts.gguf zeros noise empty
pack fresh-nvme.mfs --profile nvme --page-size 16K experts.gguf noise
second_reader fresh-nvme.mfs experts.gguf noise

# Symbols, contexts and buckets.
for type in Q4_0 Q4_K Q5_0 Q5_K Q6_K; do
	generate_model "$type.gguf" "$type" 1
	pack "fresh-$type.mfs" "$type.gguf"
	second_reader "fresh-$type.mfs" "$type.gguf"
done

# More frames than one segment holds.
{ head -c 20000000 /dev/zero && cat noise; } >long
pack long.mfs --frame-size 4096 --page-size 4096 long
second_reader long.mfs long

# Both readers use copies: a bad head, and a bad first copy of the index.
cp fresh.mfs beheaded.mfs
dd if=/dev/zero of=beheaded.mfs bs=4096 count=1 conv=notrunc status=none
dd if=/dev/zero of=beheaded.mfs bs=4096 count=1 seek=16 conv=notrunc status=none
second_reader beheaded.mfs model.gguf noise
modelfs-extract --quiet --stdout beheaded.mfs noise | cmp - noise || fail "the tail does not serve"
cp fresh.mfs copy2.mfs
root=$(od -An -tu8 -j48 -N8 copy2.mfs | tr -d ' ')
dd if=/dev/zero of=copy2.mfs bs=1 count=104 seek="$root" conv=notrunc status=none
second_reader copy2.mfs model.gguf noise
modelfs-extract --quiet --stdout copy2.mfs noise | cmp - noise || fail "copy 2 does not serve"

# Views, where the arithmetic of section 13 can be done.
if "$python" -c 'import numpy' 2>/dev/null; then
	mkllama --type Q8_0 --layers 1 --vocab 512 --lora a.gguf base.gguf
	pack views.mfs base.gguf --lora a=a.gguf --lora b=a.gguf --merge mix=b@0.5+a@-3 --views f16,q8_0
	second_reader views.mfs base.gguf
	same out/adapters/a.gguf a.gguf
	for view in a.f16 mix.f16 mix.q8_0; do
		modelfs-extract --force --quiet views.mfs "merged/$view.gguf"
		same "out/merged/$view.gguf" "merged/$view.gguf"
	done
	# Adapters for experts, and a model that was merged before it was quantized.
	mkllama --type F16 --dim 256 --layers 1 --ffn 256 --vocab 354 --experts 3 moe.gguf
	"$python" "$here/make_adapter.py" moe-lora.gguf \
		blk.0.ffn_down_exps.weight.lora_{a:256x4x3,b:4x256x3}
	pack moe.mfs --quantize q8_0 moe.gguf --lora a=moe-lora.gguf --views f16 --premerge a
	second_reader moe.mfs
	for view in f16 q8_0; do
		modelfs-extract --force --quiet moe.mfs "merged/a.$view.gguf"
		same "out/merged/a.$view.gguf" "merged/a.$view.gguf"
	done
	# NF4: made by a packer, and found in safetensors.
	mkllama --type BF16 --layers 1 --vocab 512 --lora a.gguf base.gguf
	pack nf4.mfs --quantize nf4 base.gguf --lora a=a.gguf --views q8_0
	second_reader nf4.mfs
	modelfs-extract --force --quiet nf4.mfs merged/a.q8_0.gguf views/base.bf16.gguf
	same out/merged/a.q8_0.gguf merged/a.q8_0.gguf
	same out/views/base.bf16.gguf views/base.bf16.gguf
	"$python" "$here/safetensors.py" odd odd.safetensors 1 || fail "safetensors.py"
	pack bnb.mfs odd.safetensors
	second_reader bnb.mfs odd.safetensors
	modelfs-extract --force --quiet bnb.mfs views/odd.f16.safetensors
	same out/views/odd.f16.safetensors views/odd.f16.safetensors
	# Matrices that lie the other way round, and gains of rows.
	for case in plain dora; do
		"$python" "$here/peft_safetensors.py" make . mixed 1 $case 1 ||
			fail "peft_safetensors.py"
		pack --force peft.mfs base --lora a=a
		second_reader peft.mfs base/tiny.safetensors
		modelfs-extract --force --quiet peft.mfs merged/a/model.safetensors
		same out/merged/a/model.safetensors merged/a/model.safetensors
	done
else
	note "python3-numpy is not installed: the second reader computes no views"
fi
