#!/usr/bin/env bash
# Names that would collide, climb out or hide are refused, in one line, and no
# container is left.
source "$(dirname "$0")/lib.sh"

cd "$tmp"
mkdir other nothing
printf one >a.gguf.bin
printf two >other/a.gguf.bin
long=$(printf 'x%.0s' {1..256})

# bad NAME-IN-MESSAGE ARGUMENT...
bad()
{
	local pattern=$1

	shift
	refused any "$pattern" mkmodelfs --quiet c.mfs "$@"
	[ ! -e c.mfs ] || fail "a container was written: $*"
	[ -z "$(find . -maxdepth 1 -name '*c.mfs*')" ] || fail "a temporary file was left: $*"
}

bad 'a\.gguf\.bin' a.gguf.bin other/a.gguf.bin
bad 'a\.gguf\.bin' a.gguf.bin a.gguf.bin
bad 'same' same=a.gguf.bin same=other/a.gguf.bin
for name in . .. .modelfs adapters merged views a/b /a "$long" $'bad\xff' $'half\xc3' \
	$'over\xc0\xaf' $'surrogate\xed\xa0\x80'; do
	bad . "$name=a.gguf.bin"
done
bad 'missing' missing
bad 'other' name=other
bad 'nothing' nothing
bad . =a.gguf.bin
for argument in "" name=; do
	status=0
	mkmodelfs --quiet c.mfs "$argument" 2>err || status=$?
	[ "$status" -eq 2 ] || fail "'$argument': status $status, not 2"
	grep -q "^mkmodelfs: \('name=': NAME=SOURCE\|an argument is empty\)" err ||
		fail "'$argument': $(cat err)"
done

# At the limits, and only like the reserved ones: allowed.
pack c.mfs "${long:1}=a.gguf.bin" adapters.gguf=a.gguf.bin ...=a.gguf.bin .modelfs2=a.gguf.bin \
	$'\xf0\x9f\xa6\x99=a.gguf.bin'
mkdir out
modelfs-extract -C out c.mfs
[ "$(find out -type f | wc -l)" -eq 5 ] || fail "not all five names came back"
mkdir twice
modelfs-extract -C twice c.mfs adapters.gguf ... adapters.gguf
same twice/adapters.gguf a.gguf.bin
