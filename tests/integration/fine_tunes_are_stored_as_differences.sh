#!/usr/bin/env bash
# A model and fine-tunes of it in one container: each comes back byte for byte, also
# through the mount; a small change costs a small part of the model, an equal file
# nearly nothing; what does not fit its base is stored alone.
source "$(dirname "$0")/lib.sh"
need_fuse

cd "$tmp"

# share TYPE CHANGE: what a fine-tune adds to the container, in 1/1000 of its size
share()
{
	local with without size

	mkllama --type "$1" --size 6M --tune "$2" tuned.gguf >/dev/null
	pack --force tuned.mfs base.gguf --delta tuned.gguf
	modelfs-check --quiet tuned.mfs || fail "modelfs-check finds damage: $1, $2"
	rm -rf out && mkdir out
	modelfs-extract -C out tuned.mfs || fail "modelfs-extract failed: $1, $2"
	same out/tuned.gguf tuned.gguf
	same out/base.gguf base.gguf
	with=$(stat -c %s tuned.mfs) without=$(stat -c %s base.mfs) size=$(stat -c %s tuned.gguf)
	echo $(((with - without) * 1000 / size))
}

# In 1/1000: at most for a change of 1/1000, of 1/100, and for none at all.
while read -r type small large none; do
	mkllama --type "$type" --size 6M base.gguf >/dev/null
	pack --force base.mfs base.gguf
	for pair in "1e-3 $small" "1e-2 $large" "0 $none"; do
		read -r change most <<<"$pair"
		cost=$(share "$type" "$change")
		note "$type, change $change: $cost/1000 of the model (at most $most)"
		[ "$cost" -le "$most" ] || fail "$type, change $change: $cost/1000, more than $most"
	done
done <<-LIST
	BF16 160 340 16
	Q8_0 105 310 16
LIST

mkllama --type Q8_0 --size 3M --seed 7 other.gguf >/dev/null
pack three.mfs base.gguf --delta "one=tuned.gguf" --delta other.gguf
mount_container three.mfs "$tmp/mnt"
same mnt/base.gguf base.gguf
same mnt/one tuned.gguf
same mnt/other.gguf other.gguf
unmount_container "$tmp/mnt" "$daemon"

# A fine-tune is cut as its base, whatever is asked for.
pack coarse.mfs --frame-size=1M base.gguf
pack --append coarse.mfs --frame-size=8K --base base.gguf --delta tuned.gguf
modelfs-check --quiet coarse.mfs || fail "modelfs-check finds damage: frames of 1 MiB"

if mkmodelfs no.mfs base.gguf other.gguf --delta tuned.gguf 2>errors; then
	fail "mkmodelfs takes a fine-tune of it does not know what"
fi
grep -q "needs --base" errors || fail "$(cat errors)"
refused any "is not a model of this container" \
	mkmodelfs --quiet no.mfs base.gguf other.gguf --base nobody --delta tuned.gguf
[ ! -e no.mfs ] || fail "something was left behind"
