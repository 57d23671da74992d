#!/usr/bin/env bash
# A trace of reads of a merged view names what is computed; packing in its order
# puts the tensors of the base there, and replaying it changes no byte.
source "$(dirname "$0")/lib.sh"
need_fuse

cd "$tmp"
mkllama --type Q4_K --size 8M --lora a.gguf model.gguf
pack plain.mfs model.gguf --lora a=a.gguf --views f16,q8_0
modelfs-extract --quiet plain.mfs merged/a.f16.gguf merged/a.q8_0.gguf
mount_container plain.mfs "$tmp/mnt" -o record="$tmp/view.trace" -o noprefetch
# Backwards, so that the order is none that a packer would choose.
for ((at = $(stat -c %s merged/a.f16.gguf) / 65536; at >= 0; at--)); do
	dd if=mnt/merged/a.f16.gguf of=/dev/null bs=64K skip="$at" count=1 status=none
done
unmount_container "$tmp/mnt" "$daemon"
grep -q 'blk.0.attn_q.weight' view.trace || fail "the trace has no attn_q"

pack --order=view.trace ordered.mfs model.gguf --lora a=a.gguf --views f16,q8_0
modelfs-check --quiet ordered.mfs || fail "modelfs-check"
[ "$(modelfs-stat --json --chunks plain.mfs | md5sum)" != \
	"$(modelfs-stat --json --chunks ordered.mfs | md5sum)" ] || fail "the order changed nothing"
mount_container ordered.mfs "$tmp/mnt" -o replay="$tmp/view.trace"
for view in f16 q8_0; do
	same merged/a.$view.gguf mnt/merged/a.$view.gguf
done
same model.gguf mnt/model.gguf
same a.gguf mnt/adapters/a.gguf
unmount_container "$tmp/mnt" "$daemon"
