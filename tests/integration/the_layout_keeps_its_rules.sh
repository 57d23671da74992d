#!/usr/bin/env bash
# Chunks on pages, sums that are exact, overhead within its bound, and quantized
# files stored in less than zstd -19 needs for them.
source "$(dirname "$0")/lib.sh"
need_program python3
need_program zstd

# check NAME [RULE...]
check()
{
	local name=$1

	shift
	modelfs-stat --json "$tmp/$name.mfs" >"$tmp/$name.json" || fail "modelfs-stat --json"
	python3 "$here/layout_rules.py" "$tmp/$name.mfs" "$tmp/$name.json" "$@"
}

python3 "$here/odd_gguf.py" small-tensors "$tmp/small.gguf"
generate_model "$tmp/large.gguf" BF16 120
generate_model "$tmp/medium.gguf" Q4_0 24
head -c 100000 /dev/urandom >"$tmp/noise"
pack "$tmp/small.mfs" "$tmp/small.gguf"
# More index than data: the bound is one for models.
check small unbounded
pack "$tmp/large.mfs" --page-size 16K "$tmp/large.gguf"
[ "$(stat -c %s "$tmp/large.mfs")" -gt $((64 << 20)) ] || fail "the large container is not large"
check large
pack "$tmp/medium.mfs" --page-size 16K "$tmp/medium.gguf"
check medium
pack "$tmp/noise.mfs" "$tmp/noise"
check noise
: >"$tmp/empty"
pack "$tmp/empty.mfs" "$tmp/empty"
check empty

for view in "" --tensors --chunks --map; do
	# shellcheck disable=SC2086 # the empty one is no argument
	modelfs-stat $view "$tmp/small.mfs" >"$tmp/view.txt" || fail "modelfs-stat $view failed"
	[ -s "$tmp/view.txt" ] || fail "modelfs-stat $view printed nothing"
done
modelfs-stat "--map=$tmp/map.svg" "$tmp/small.mfs" >/dev/null || fail "no SVG"
python3 -c 'import sys, xml.dom.minidom as x; x.parse(sys.argv[1])' "$tmp/map.svg" ||
	fail "the SVG is not well-formed"

if [ -d "$data" ]; then
	for file in silero/silero-types.gguf random-s58/rand-s58-Q4_K_M.gguf; do
		name=$(basename "$file" .gguf)
		zstd_size=$(zstd -19 -T0 -q -c "$data/$file" | wc -c)
		pack "$tmp/$name.mfs" "$data/$file"
		check "$name" smaller-than "$zstd_size"
	done
	for file in stories260K/stories260K-F16.gguf silero/silero_vad.onnx; do
		name=$(basename "$file")
		pack "$tmp/$name.mfs" "$data/$file"
		check "$name"
	done
else
	note "no shared data at $data: no comparison with zstd"
fi
