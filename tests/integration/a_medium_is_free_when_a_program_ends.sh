#!/usr/bin/env bash
# Who has read a container on a card takes the card out next: nothing may keep the
# card's file system busy when the program has ended.
source "$(dirname "$0")/lib.sh"
need_root
need_program mkfs.ext4

cd "$tmp"
generate_model model.gguf BF16 2
pack model.mfs model.gguf
truncate -s 16M card.img
mkfs.ext4 -q card.img
mkdir card out
free_card() { wait_until 5 umount "$tmp/card" 2>/dev/null; }
end_here()
{
	local status=$?

	mountpoint -q "$tmp/card" && free_card
	set +e # so that this only sets what cleanup() finds
	(exit "$status")
	cleanup
}
trap end_here EXIT
mount -o loop card.img card 2>/dev/null || skip "no loop devices"
cp model.mfs card/
umount card

# taken_out COMMAND...: and the card at once
taken_out()
{
	mount -o loop card.img card
	"$@" >/dev/null || fail "$* failed"
	umount card || fail "$*: the card is still busy"
}

for run in first second; do
	taken_out modelfs-check --quiet card/model.mfs
	taken_out modelfs-extract --quiet --force -C out card/model.mfs
	taken_out modelfs-stat card/model.mfs
	note "the $run round is over"
done
same out/model.gguf model.gguf
