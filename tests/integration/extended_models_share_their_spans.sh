#!/usr/bin/env bash
# A model and the same with a larger vocabulary: what is equal is stored once, packed
# together, as a fine-tune, appended, compacted, and when the first one is removed; both
# come back byte for byte, also through the mount and to a second reader.
source "$(dirname "$0")/lib.sh"
need_program python3
need_fuse

cd "$tmp"

# model FILE TYPE ROWS [OPTION...]: embeddings of ROWS rows are most of it; shorter ones
# are the first rows of longer ones, and all other tensors are equal
model()
{
	local file=$1 type=$2 rows=$3

	shift 3
	mkllama --type "$type" --dim 512 --layers 1 --ffn 512 --vocab "$rows" "$@" "$file" ||
		fail "mkllama failed: $type"
}

# adds_up CONTAINER: no byte is counted twice
adds_up()
{
	modelfs-stat --json "$1" >stat.json || fail "modelfs-stat --json"
	python3 "$here/layout_rules.py" "$1" stat.json unbounded >&2 || fail "see above"
}

# shared_size: of the container that was looked at last
shared_size()
{
	python3 -c 'import json; print(json.load(open("stat.json"))["totals"]["shared_size"])'
}

# holds CONTAINER FILE...: it is whole and has these files
holds()
{
	local container=$1 file

	shift
	modelfs-check --quiet "$container" || fail "modelfs-check finds damage in $container"
	rm -rf out && mkdir out
	modelfs-extract --quiet -C out "$container" || fail "modelfs-extract failed"
	for file; do
		same "out/$file" "$file"
	done
}

# small CONTAINER OTHER: at most a tenth larger
small()
{
	local have most

	have=$(stat -c %s "$1") most=$(($(stat -c %s "$2") * 11 / 10))
	note "$1: $have bytes, $2 $(stat -c %s "$2")"
	[ "$have" -le "$most" ] || fail "$1: $have bytes, more than $most: spans are stored twice"
}

for type in BF16 Q4_K_M; do
	model base.gguf "$type" 3000
	model more.gguf "$type" 3100
	pack --force one.mfs base.gguf
	pack --force two.mfs more.gguf base.gguf
	holds two.mfs base.gguf more.gguf
	small two.mfs one.mfs
	adds_up two.mfs
	[ "$(shared_size)" -gt $(($(stat -c %s one.mfs) * 8 / 10)) ] || fail "$(shared_size) bytes are shared"
	pack --force delta.mfs base.gguf --delta more.gguf
	holds delta.mfs base.gguf more.gguf
	small delta.mfs one.mfs
	pack --append one.mfs more.gguf
	holds one.mfs base.gguf more.gguf
	small one.mfs two.mfs
	adds_up one.mfs
done

# One copy stays whoever goes, in whatever order it is stored.
model longer.gguf "$type" 3200
pack --append one.mfs longer.gguf
holds one.mfs base.gguf more.gguf longer.gguf
pack --remove=base.gguf one.mfs
holds one.mfs more.gguf longer.gguf
pack --compact one.mfs
holds one.mfs more.gguf longer.gguf
small one.mfs two.mfs
adds_up one.mfs
printf 'modelfs-trace 1\n%s\t%s\t%s\n%s\t%s\t%s\n' longer.gguf output.weight 0-700000 \
	base.gguf token_embd.weight 200000-400000 >order.trace
pack --order=order.trace ordered.mfs base.gguf more.gguf longer.gguf
holds ordered.mfs base.gguf more.gguf longer.gguf
small ordered.mfs two.mfs
adds_up ordered.mfs
pack --remove=more.gguf ordered.mfs
pack --compact ordered.mfs
holds ordered.mfs base.gguf longer.gguf

mount_container ordered.mfs "$tmp/mnt"
same mnt/longer.gguf longer.gguf
same mnt/base.gguf base.gguf
unmount_container "$tmp/mnt" "$daemon"

# Files that no importer knows, which were continued.
head -c 3000000 /dev/urandom >log
{ cat log && head -c 100000 /dev/urandom; } >log.1
pack log.mfs base.gguf log
pack logs.mfs base.gguf log log.1
holds logs.mfs base.gguf log log.1
small logs.mfs log.mfs
adds_up logs.mfs

python=python3
/usr/bin/python3 -c 'import zstandard, xxhash' 2>/dev/null && python=/usr/bin/python3
if "$python" -c 'import zstandard, xxhash' 2>/dev/null; then
	for rows in 600 700; do
		mkllama --type BF16 --layers 1 --ffn 256 --vocab $rows $rows.gguf
	done
	pack small.mfs 600.gguf 700.gguf
	adds_up small.mfs
	[ "$(shared_size)" -gt 300000 ] || fail "$(shared_size) bytes are shared"
	rm -rf out && mkdir out
	"$python" "$here/second_reader.py" small.mfs out || fail "the second reader refuses it"
	same out/600.gguf 600.gguf
	same out/700.gguf 700.gguf
else
	note "python3-zstandard or python3-xxhash is not installed: no second reader"
fi
