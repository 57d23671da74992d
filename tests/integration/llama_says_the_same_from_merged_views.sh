#!/usr/bin/env bash
# An unchanged llama.cpp loads merged views from the mount. On an F32 base it says
# what it says with the base and the adapter of the same mount; how far other types
# agree is printed.
source "$(dirname "$0")/lib.sh"
need_fuse
need_data

status=0
client=$("$MFS_SOURCE/scripts/llama-client.sh") || status=$?
[ "$status" -ne 77 ] || skip "no llama.cpp client, and none to be had"
[ "$status" -eq 0 ] || fail "scripts/llama-client.sh: status $status"
eval "$client"
export MFS_NODE_MODULES

# say JOB...: sets `texts`, one for each; one process for all: starting it takes longest
say()
{
	"$MFS_NODE" "$here/llama.mjs" --lines "$@" >said || fail "llama.cpp: status $?"
	mapfile -t texts <said
	[ "${#texts[@]}" -eq $# ] || fail "${#texts[@]} texts of $# models"
	for ((i = 0; i < $#; i++)); do
		[ "${texts[i]}" != '""' ] || fail "${*:i+1:1}: llama.cpp said nothing"
	done
}

# agreement TEXT TEXT: how many of the first one's words begin the second one.
agreement()
{
	local a b i=0
	read -ra a <<<"$1"
	read -ra b <<<"$2"
	while [ "$i" -lt "${#a[@]}" ] && [ "${a[i]}" = "${b[i]:-}" ]; do
		i=$((i + 1))
	done
	echo "$i of ${#a[@]} words"
}

cd "$tmp"
stories=$data/stories260K
for type in f32 F16 BF16; do
	pack --force models.mfs "$stories/stories260K-$type.gguf" \
		--lora "x=$stories/stories260K-lora-r4-f32.gguf"
	mount_container models.mfs "$tmp/mnt"
	base=mnt/stories260K-$type.gguf
	views=(f32 f16 bf16 q8_0)
	say "$base" "$base,mnt/adapters/x.gguf" mnt/merged/x.{f32,f16,bf16,q8_0}.gguf
	[ "${texts[0]}" != "${texts[1]}" ] || fail "the adapter changes nothing: ${texts[0]}"
	for k in "${!views[@]}"; do
		note "$type base, ${views[k]} view:" \
			"$(agreement "${texts[1]}" "${texts[k + 2]}") as with the adapter"
	done
	[ $type != f32 ] || [ "${texts[1]}" = "${texts[2]}" ] ||
		fail "${texts[2]} from the view, ${texts[1]} from base and adapter"
	unmount_container "$tmp/mnt" "$daemon"
done
for type in q8_0 q4_0; do
	pack --force models.mfs --quantize $type --views f16 --premerge x \
		"model.gguf=$stories/stories260K-f32.gguf" \
		--lora "x=$stories/stories260K-lora-r4-f32.gguf"
	mount_container models.mfs "$tmp/mnt"
	say mnt/model.gguf mnt/model.gguf,mnt/adapters/x.gguf mnt/merged/x.$type.gguf
	[ "${texts[2]}" != "${texts[0]}" ] || fail "$type: the adapter changes nothing: ${texts[2]}"
	note "$type, merged before it was quantized:" \
		"$(agreement "${texts[1]}" "${texts[2]}") as with the adapter"
	unmount_container "$tmp/mnt" "$daemon"
done
pack --force models.mfs "$data/random-s58/rand-s58-Q4_K_M.gguf" --views f16,q8_0 \
	--lora "x=$data/random-s58/rand-s58-lora-r8-f32.gguf"
mount_container models.mfs "$tmp/mnt"
say mnt/rand-s58-Q4_K_M.gguf,mnt/adapters/x.gguf mnt/merged/x.{f16,q8_0}.gguf
note "Q4_K_M base, f16 view: $(agreement "${texts[0]}" "${texts[1]}") as with the adapter"
note "Q4_K_M base, q8_0 view: $(agreement "${texts[0]}" "${texts[2]}") as with the adapter"
unmount_container "$tmp/mnt" "$daemon"
