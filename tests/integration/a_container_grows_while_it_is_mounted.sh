#!/bin/bash
# Appending, removing and compacting: a mount serves what it began with, a new
# mount what is there now; writers keep each other out.
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
need_fuse

c=$tmp/c.mfs
generate_model "$tmp/base.gguf" Q4_0 6
generate_model "$tmp/other.gguf" Q8_0 4 --seed 2
generate_model "$tmp/late.gguf" F16 3 --seed 3
seq 1 30000 >"$tmp/notes.txt"
pack "$c" "$tmp/base.gguf" "$tmp/other.gguf"

mount_container "$c" "$tmp/old"
old=$daemon
exec 9<"$tmp/old/other.gguf"
same <(head -c 1000000 "$tmp/other.gguf") <(head -c 1000000 <&9)

note "appending to a mounted container"
before=$(stat -c %s "$c")
mkmodelfs --append --json "$c" "$tmp/late.gguf" renamed.txt="$tmp/notes.txt" >"$tmp/append.json"
grep -q '"generation": 2' "$tmp/append.json" || fail "the summary does not say generation 2"
[ "$(ls "$tmp/old")" = $'base.gguf\nother.gguf' ] || fail "a mount shows another generation"
same "$tmp/old/base.gguf" "$tmp/base.gguf"

note "bytes written: at most 1.1 times what is stored, and 1 MiB"
stored=$(modelfs-stat --json "$c" | python3 -c '
import json, sys
files = json.load(sys.stdin)["files"]
print(sum(f["stored_size"] for f in files if f["name"] in ("late.gguf", "renamed.txt")))')
grown=$(($(stat -c %s "$c") - before))
[ "$grown" -le $((stored * 11 / 10 + 1048576)) ] || fail "$grown bytes more for $stored"

mount_container "$c" "$tmp/new"
new=$daemon
for name in base other late; do
	same "$tmp/new/$name.gguf" "$tmp/$name.gguf"
done
same "$tmp/new/renamed.txt" "$tmp/notes.txt"

note "removing, compacting"
mkmodelfs --quiet --remove=other.gguf "$c"
modelfs-check --quiet "$c"
mkmodelfs --quiet --compact "$c"
modelfs-check --quiet "$c"
[ "$(stat -c %s "$c")" -lt $((before + grown)) ] || fail "compacting did not make it smaller"
modelfs-stat --json "$c" >"$tmp/stat.json"
grep -q '"generation": 1,' "$tmp/stat.json" || fail "a compacted container is not new"
same <(tail -c +1000001 "$tmp/other.gguf") <(cat <&9)
same "$tmp/old/other.gguf" "$tmp/other.gguf"
same "$tmp/new/other.gguf" "$tmp/other.gguf"
exec 9<&-
# The second daemon has inherited the file that was open in the first mount.
unmount_container "$tmp/new" "$new"
unmount_container "$tmp/old" "$old"
mkdir "$tmp/out"
modelfs-extract --quiet -C "$tmp/out" "$c"
[ "$(ls "$tmp/out")" = $'base.gguf\nlate.gguf\nrenamed.txt' ] || fail "not what was left"
same "$tmp/out/late.gguf" "$tmp/late.gguf"

# misused PATTERN ARGUMENT...: exit status 2, and the message.
misused()
{
	local pattern=$1 status=0

	shift
	mkmodelfs "$@" 2>"$tmp/misused" || status=$?
	[ "$status" -eq 2 ] || fail "status $status, not 2: $*"
	grep -q "$pattern" "$tmp/misused" || fail "the message does not match '$pattern': $*"
}

note "refusals"
sum=$(sha256sum <"$c")
refused 1 "name 'base.gguf' is taken" mkmodelfs --append "$c" "$tmp/base.gguf"
refused 1 "no file, adapter or directory 'x'" mkmodelfs --remove=x "$c"
refused 1 "no file, adapter or directory ''" mkmodelfs --remove= "$c"
refused 1 "no file, adapter or directory '/'" mkmodelfs --remove=/ "$c"
misused 'sources are added with --append' --compact "$c" "$tmp/other.gguf"
misused 'keeps its profile' --append --profile=nor "$c" "$tmp/other.gguf"
misused 'at least one SOURCE' --append "$c"
refused 1 'No such file' mkmodelfs --append "$tmp/none.mfs" "$tmp/other.gguf"
refused 1 'not a modelfs container' mkmodelfs --append "$tmp/notes.txt" "$tmp/other.gguf"
if command -v flock >/dev/null; then
	refused 1 'another mkmodelfs' flock "$c" mkmodelfs --append "$c" "$tmp/other.gguf"
	refused 1 'another mkmodelfs' flock "$c" mkmodelfs --force "$c" "$tmp/other.gguf"
fi
[ "$sum" = "$(sha256sum <"$c")" ] || fail "a refusal changed the container"

note "an append that is killed leaves the container as it was, or done"
for delay in 0.01 0.05 0.1 0.2; do
	cp "$c" "$tmp/k.mfs"
	timeout -s KILL "$delay" mkmodelfs --append --quiet "$tmp/k.mfs" "$tmp/other.gguf" || true
	modelfs-check --quiet "$tmp/k.mfs"
	mkmodelfs --append --quiet "$tmp/k.mfs" again.txt="$tmp/notes.txt"
	modelfs-check --quiet "$tmp/k.mfs"
done
