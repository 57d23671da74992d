#!/usr/bin/env bash
# A picture, or a trace, that is to be written where a model, a container or a device
# lies was named by mistake: that is told at once, and nothing is lost.
source "$(dirname "$0")/lib.sh"

cd "$tmp"
generate_model model.gguf BF16 1
pack model.mfs model.gguf
sha256sum model.gguf model.mfs >sums
mkdir directory

# refused TEXT COMMAND...
refused()
{
	local text=$1

	shift
	"$@" >out 2>&1 && fail "not refused: $*"
	grep -q "$text" out || fail "$*: $(cat out)"
	sha256sum --quiet --check sums || fail "$*: something was lost"
}

refused 'model.mfs: is there and is something else' modelfs-stat --map=model.mfs model.mfs
refused 'model.gguf: is there and is something else' modelfs-stat --map=model.gguf model.mfs
refused 'directory: ' modelfs-stat --map=directory model.mfs
for run in first second; do
	modelfs-stat --map=layout.svg model.mfs || fail "the $run picture was refused"
done
modelfs-stat --map=/dev/stdout model.mfs | cmp - layout.svg || fail "another picture"

need_fuse
mkdir mnt
for wrong in model.mfs model.gguf directory directory/ directory/none/trace ''; do
	refused "$wrong" modelfs -o record="$wrong" model.mfs mnt
	is_mounted "$tmp/mnt" && fail "record=$wrong: mounted"
done
mkfifo fifo
refused 'fifo: is there and is no file' modelfs -o record=fifo model.mfs mnt
[ -p fifo ] || fail "the FIFO is gone"
ln -s kept.trace link
: >kept.trace
for run in first second; do
	mount_container model.mfs "$tmp/mnt" -o record=link
	cat mnt/model.gguf >/dev/null
	unmount_container "$tmp/mnt" "$daemon"
	[ -L link ] || fail "the $run trace replaced the link"
	head -n 1 kept.trace | grep -qx 'modelfs-trace 1' || fail "there is no $run trace"
done

# What took the trace's place while the mount was there stays too.
for precious in words directory; do
	rm -f kept.trace
	mount_container model.mfs "$tmp/mnt" -o record=kept.trace
	cat mnt/model.gguf >/dev/null
	if [ $precious = words ]; then echo precious >kept.trace; else mkdir kept.trace; fi
	unmount "$tmp/mnt"
	status=0
	wait "$daemon" || status=$?
	[ "$status" = 1 ] || fail "status $status, and the trace could not be written"
	[ -d kept.trace ] || [ "$(cat kept.trace)" = precious ] || fail "the trace replaced $precious"
	grep -q 'kept.trace: is there and is no trace' mnt.log || fail "$(cat mnt.log)"
done
rmdir kept.trace

# What a letter among others means is told by that letter.
for program in mkmodelfs modelfs-check modelfs-extract modelfs-stat; do
	refused "'-y' is not an option" $program -yV model.mfs
	refused "'--yes' is not an option" $program --yes model.mfs
done
refused "'-y' is not an option" modelfs-stat --json -y model.mfs
