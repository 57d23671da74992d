#!/usr/bin/env bash
# The vectors of the specification are what its script makes with these programs.
source "$(dirname "$0")/lib.sh"
vectors=$MFS_SOURCE/spec/vectors
export PYTHON=/usr/bin/python3
"$PYTHON" -c 'import zstandard, xxhash, numpy' 2>/dev/null ||
	skip "python3-zstandard, python3-xxhash and python3-numpy are not installed"
# Another libzstd may choose other codes; sanitizers make the same bytes more slowly.
zstd=$(sed -n 's/^libzstd \([0-9.]*\) .*/\1/p' "$vectors/README.md")
[ -n "$zstd" ] || fail "README.md names no libzstd"
[ "$(pkg-config --modversion libzstd 2>/dev/null)" = "$zstd" ] || skip "libzstd is not $zstd"
sanitized && skip "the programs carry sanitizers"

mkdir "$tmp/made"
TMPDIR=$tmp "$vectors/make.sh" "$tmp/made"
for vector in "$vectors"/*.mfs; do
	name=$(basename "$vector" .mfs)
	for kind in json mfs; do
		cmp "$vectors/$name.$kind" "$tmp/made/$name.$kind" ||
			fail "$name.$kind is made otherwise now: run spec/vectors/make.sh, see its README.md"
	done
done
