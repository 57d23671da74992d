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

say() { "$MFS_NODE" "$here/llama.mjs" "$@"; }

# agreement TEXT TEXT: how many of the first one's words begin the second one.
agreement()
{
	local a b i=0
	read -ra a <<<"${1//$'\n'/ }"
	read -ra b <<<"${2//$'\n'/ }"
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
	plain=$(say "mnt/stories260K-$type.gguf")
	with=$(say "mnt/stories260K-$type.gguf" --lora mnt/adapters/x.gguf)
	[ -n "$with" ] || fail "llama.cpp said nothing"
	[ "$plain" != "$with" ] || fail "the adapter changes nothing: '$with'"
	for view in f32 f16 bf16 q8_0; do
		merged=$(say "mnt/merged/x.$view.gguf")
		[ -n "$merged" ] || fail "merged/x.$view.gguf: llama.cpp said nothing"
		note "$type base, $view view: $(agreement "$with" "$merged") as with the adapter"
		[ "$type-$view" != f32-f32 ] || [ "$with" = "$merged" ] ||
			fail "'$merged' from the view, '$with' from base and adapter"
	done
	unmount_container "$tmp/mnt" "$daemon"
done
for type in q8_0 q4_0; do
	pack --force models.mfs --quantize $type --views f16 --premerge x \
		"model.gguf=$stories/stories260K-f32.gguf" \
		--lora "x=$stories/stories260K-lora-r4-f32.gguf"
	mount_container models.mfs "$tmp/mnt"
	with=$(say mnt/model.gguf --lora mnt/adapters/x.gguf)
	merged=$(say mnt/merged/x.$type.gguf)
	[ -n "$merged" ] || fail "premerged, $type: llama.cpp said nothing"
	[ "$merged" != "$(say mnt/model.gguf)" ] || fail "$type: the adapter changes nothing: '$merged'"
	note "$type, merged before it was quantized: $(agreement "$with" "$merged") as with the adapter"
	unmount_container "$tmp/mnt" "$daemon"
done
pack --force models.mfs "$data/random-s58/rand-s58-Q4_K_M.gguf" --views f16,q8_0 \
	--lora "x=$data/random-s58/rand-s58-lora-r8-f32.gguf"
mount_container models.mfs "$tmp/mnt"
with=$(say mnt/rand-s58-Q4_K_M.gguf --lora mnt/adapters/x.gguf)
for view in f16 q8_0; do
	merged=$(say "mnt/merged/x.$view.gguf")
	[ -n "$merged" ] || fail "merged/x.$view.gguf: llama.cpp said nothing"
	note "Q4_K_M base, $view view: $(agreement "$with" "$merged") as with the adapter"
done
unmount_container "$tmp/mnt" "$daemon"
