#!/usr/bin/env bash
# An unchanged llama.cpp, its model mapped into memory, generates from the mount
# what it generates from the plain file; with a LoRA adapter too.
source "$(dirname "$0")/lib.sh"
need_fuse

status=0
client=$("$MFS_SOURCE/scripts/llama-client.sh") || status=$?
[ "$status" -ne 77 ] || skip "no llama.cpp client, and none to be had"
[ "$status" -eq 0 ] || fail "scripts/llama-client.sh: status $status"
eval "$client"
export MFS_NODE_MODULES

# say TEXTS JOB...: a line for each model, one process for all: starting it takes longest
say() { "$MFS_NODE" "$here/llama.mjs" --lines "${@:2}" >"$1" || fail "llama.cpp: status $?"; }

cd "$tmp"
sources=()
for type in F32 F16 BF16 Q8_0 Q4_0; do
	generate_model "generated-$type.gguf" "$type" 12 --lora "lora-for-$type.gguf"
	sources+=("generated-$type.gguf")
done
sources+=(lora-for-F16.gguf)
if [ -d "$data" ]; then
	sources+=("$data"/stories260K/*.gguf "$data"/random-s58/*.gguf)
else
	note "no shared data at $data: generated models only"
fi
pack models.mfs "${sources[@]}"
mount_container models.mfs "$tmp/mnt"

plain=()
mounted=()
# job MODEL [ADAPTER]: to be said by both
job()
{
	plain+=("$1${2:+,$2}")
	mounted+=("mnt/$(basename "$1")${2:+,mnt/$(basename "$2")}")
}

for source in "${sources[@]}"; do
	case $source in
	*lora*) ;;
	*) job "$source" ;;
	esac
done
job generated-F16.gguf lora-for-F16.gguf
if [ -d "$data" ]; then
	job "$data/stories260K/stories260K-f32.gguf" \
		"$data/stories260K/stories260K-lora-r4-f32.gguf"
	job "$data/random-s58/rand-s58-Q4_K_M.gguf" \
		"$data/random-s58/rand-s58-lora-r8-f32.gguf"
fi
say plain.txt "${plain[@]}"
say mounted.txt "${mounted[@]}"
[ "$(wc -l <plain.txt)" -eq "${#plain[@]}" ] || fail "llama.cpp did not say something of each"
number=0
while IFS= read -r expected && IFS= read -r said <&3; do
	name=${mounted[number]}
	number=$((number + 1))
	[ "$expected" != '""' ] || fail "$name: llama.cpp said nothing"
	[ "$expected" = "$said" ] || fail "$name: $said from the mount, not $expected"
	note "$name: ${expected:0:60}"
done <plain.txt 3<mounted.txt
[ "$number" -eq "${#plain[@]}" ] || fail "only $number models were compared"
unmount_container "$tmp/mnt" "$daemon"
