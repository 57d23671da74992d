#!/usr/bin/env bash
# The same sources give the same container, whatever the number of threads, and
# every page size, frame size and profile gives the same files back.
source "$(dirname "$0")/lib.sh"
need_program python3

cd "$tmp"
python3 "$here/odd_gguf.py" experts experts.gguf
generate_model model-bf16.gguf BF16 24
generate_model model-q4_0.gguf Q4_0 8
head -c 300000 /dev/urandom >opaque.bin
sources=(experts.gguf model-bf16.gguf model-q4_0.gguf opaque.bin)
if [ -d "$data" ]; then
	sources+=("$data/silero/silero-types.gguf" "$data/stories260K/stories260K-BF16.gguf")
fi

pack one.mfs -j 1 "${sources[@]}"
pack two.mfs -j 2 "${sources[@]}"
pack again.mfs -j 7 "${sources[@]}"
same one.mfs two.mfs
same one.mfs again.mfs

# round_trip OPTION...
round_trip()
{
	local source

	rm -rf out variant.mfs
	mkdir out
	pack variant.mfs "$@" experts.gguf model-q4_0.gguf opaque.bin
	modelfs-check variant.mfs >&2 || fail "modelfs-check finds damage: $*"
	modelfs-extract -C out variant.mfs || fail "modelfs-extract failed: $*"
	for source in experts.gguf model-q4_0.gguf opaque.bin; do
		same "out/$source" "$source"
	done
	modelfs-stat --json variant.mfs >variant.json
	python3 "$here/layout_rules.py" variant.mfs variant.json unbounded | sed "s/^/$*: /"
}

for profile in sd emmc usb sata nvme nand nor; do
	round_trip --profile "$profile"
done
for page in 512 4096 65536 1M; do
	round_trip --page-size "$page"
done
for frame in 4096 16K 1M 4M; do
	round_trip --frame-size "$frame"
done
for wrong in "--page-size 1000" "--page-size 0" "--page-size 2M" "--frame-size 1" \
	"--frame-size 1G" "--profile floppy" "-j x"; do
	# shellcheck disable=SC2086 # option and value
	if mkmodelfs --quiet $wrong bad.mfs opaque.bin 2>bad.err; then
		fail "accepted: $wrong"
	fi
	[ -s bad.err ] || fail "refused without a word: $wrong"
	[ ! -e bad.mfs ] || fail "a container was written: $wrong"
done
