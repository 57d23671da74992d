#!/usr/bin/env bash
# Makes the vectors again, with the tools in $MFS_BIN:
#   make.sh            writes them here
#   make.sh DIRECTORY  writes them there, to be compared
# They come out byte for byte where libzstd is the release that README.md names
# and files may have holes. "rows" is as an earlier mkmodelfs made it.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "${1:-$here}" && pwd)
MFS_BIN=${MFS_BIN:-$here/../../build/bin}
PATH=$(cd "$MFS_BIN" && pwd):$PATH
python=${PYTHON:-/usr/bin/python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" "$here/sources.py" "$work"
cd "$work"
find . -type f -exec touch -d '2026-01-02T03:04:05.678901234Z' {} +

# vector NAME OPTIONS SOURCE...: packs the sources and describes the result
vector()
{
	local name=$1 options=$2

	shift 2
	# shellcheck disable=SC2086 # several options
	mkmodelfs --quiet --force --page-size 512 $options "$name.mfs" "$@"
	describe "$name" "$@"
}

# describe NAME SOURCE...
describe()
{
	local name=$1

	shift
	modelfs-check --quiet "$name.mfs"
	modelfs-stat --json "$name.mfs" >stat.json
	"$python" "$here/describe.py" "$name.mfs" stat.json "$@" >"$name.json"
	cp "$name.mfs" "$name.json" "$out/"
}

vector hello "--profile nor" hello.txt
vector types "--profile sd --frame-size 4096" types.gguf
vector tables "--profile nor --frame-size 4096" experts.gguf
vector zeros "--profile nor" zeros.gguf sparse.bin
vector plain "--profile nvme --frame-size 4096" noise.gguf
vector many "--profile nor" many.gguf "ein Modell für Flash.bin" empty one-byte again=one-byte
vector columns "--profile nor" layers.gguf
vector shared "--profile nor --frame-size 4096" short.safetensors long.safetensors
vector buckets "--profile nor --frame-size 4096" buckets.gguf
vector marked "--profile nor --frame-size 4096" marked.safetensors
mkmodelfs --quiet --force --page-size 512 --profile nor --frame-size 4096 --delta tuned.gguf delta.mfs base.gguf
describe delta base.gguf tuned.gguf
# Views are described by what a second implementation makes of the specification.
views()
{
	local name=$1

	shift
	mkmodelfs --quiet --force --page-size 512 --profile nor --frame-size 4096 "$name.mfs" "$@"
	mkdir "$name"
	"$python" "$here/../../tests/integration/second_reader.py" "$name.mfs" "$name"
	mapfile -t files < <(cd "$name" && find . -type f -printf "%P=$name/%P\n")
	describe "$name" "${files[@]}"
}

views views tiny.safetensors --lora lora=peft --lora dora=dora --merge mix=dora@1+lora@-0.5
cp "$here/rows.mfs" .
describe rows "${files[@]}"
views experts moe.gguf --lora e=moe-lora.gguf
mkmodelfs --quiet --force --page-size 512 --profile nor appended.mfs many.gguf one-byte
mkmodelfs --quiet --append appended.mfs hello.txt again.gguf=many.gguf
mkmodelfs --quiet --remove one-byte appended.mfs
describe appended many.gguf hello.txt again.gguf=many.gguf
make_future future.mfs q9.future
describe future q9.future
