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

say() { "$MFS_NODE" "$here/llama.mjs" "$@"; }

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

# compare MODEL [ADAPTER]
compare()
{
	local name plain mounted
	name=$(basename "$1")

	if [ $# = 2 ]; then
		plain=$(say "$1" --lora "$2")
		mounted=$(say "mnt/$name" --lora "mnt/$(basename "$2")")
	else
		plain=$(say "$1")
		mounted=$(say "mnt/$name")
	fi
	[ -n "$plain" ] || fail "$name: llama.cpp said nothing"
	[ "$plain" = "$mounted" ] ||
		fail "$name${2:+ with $(basename "$2")}: '$mounted' from the mount, not '$plain'"
	note "$name${2:+ with $(basename "$2")}: $(printf '%s' "$plain" | tr '\n' ' ' | cut -c 1-60)"
}

for source in "${sources[@]}"; do
	case $source in
	*lora*) ;;
	*) compare "$source" ;;
	esac
done
compare generated-F16.gguf lora-for-F16.gguf
if [ -d "$data" ]; then
	compare "$data/stories260K/stories260K-f32.gguf" \
		"$data/stories260K/stories260K-lora-r4-f32.gguf"
	compare "$data/random-s58/rand-s58-Q4_K_M.gguf" \
		"$data/random-s58/rand-s58-lora-r8-f32.gguf"
fi
unmount_container "$tmp/mnt" "$daemon"
