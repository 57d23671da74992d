#!/usr/bin/env bash
# Pack, mount, compare in every way of reading, extract, check: each file of the
# shared data, and a generated model of each type of ggml, one unknown to it,
# stacked experts, big-endian, split.
source "$(dirname "$0")/lib.sh"
need_fuse

sources=()
if [ -d "$data" ]; then
	while IFS= read -r file; do
		sources+=("$file")
	done < <(find "$data" -type f ! -name README.md | sort)
else
	note "no shared data at $data: generated models only"
fi
for type in F64 F32 F16 BF16 I8 I16 I32 I64 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K \
	Q6_K Q8_K IQ2_XXS IQ2_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ2_S IQ4_XS IQ1_M TQ1_0 TQ2_0 MXFP4 \
	NVFP4 999; do
	generate_model "$tmp/generated-$type.gguf" "$type" 6
	sources+=("$tmp/generated-$type.gguf")
done
generate_model "$tmp/experts.gguf" BF16 12 --experts 4
generate_model "$tmp/big-endian.gguf" F16 6 --be
mkllama --type Q8_0 --size 6M --shards 3 "$tmp/split.gguf"
sources+=("$tmp/experts.gguf" "$tmp/big-endian.gguf" "$tmp"/split-*.gguf)

pack "$tmp/all.mfs" "${sources[@]}"
modelfs-check "$tmp/all.mfs" >&2 || fail "modelfs-check finds damage in a fresh container"
mount_container "$tmp/all.mfs" "$tmp/mnt"
for source in "${sources[@]}"; do
	name=$(basename "$source")
	same "$tmp/mnt/$name" "$source"
	readcheck -s "$seed" -n 40 "$tmp/mnt/$name" "$source"
	[ "$(stat -c '%s %Y' "$tmp/mnt/$name")" = "$(stat -c '%s %Y' "$source")" ] ||
		fail "$name: size or time differ"
done
[ "$(find "$tmp/mnt" -type f | wc -l)" -eq "${#sources[@]}" ] || fail "files missing or too many"
unmount_container "$tmp/mnt" "$daemon"

mkdir "$tmp/out"
modelfs-extract -C "$tmp/out" "$tmp/all.mfs" || fail "modelfs-extract failed"
for source in "${sources[@]}"; do
	same "$tmp/out/$(basename "$source")" "$source"
done
