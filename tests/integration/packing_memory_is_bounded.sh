#!/usr/bin/env bash
# Packing a model needs under 300 MB however large it is: 2 GB in the long form,
# a smaller one otherwise, where the bound is as easily broken.
source "$(dirname "$0")/lib.sh"
[ -x /usr/bin/time ] || skip "/usr/bin/time is not installed"
! sanitized || skip "sanitizers need memory of their own"

megabytes=700
[ "${MFS_SOAK:-0}" != 1 ] || megabytes=2048
free=$(df -Pk "$tmp" | awk 'NR == 2 { print int($4 / 1024) }')
[ "$free" -gt $((megabytes * 3)) ] || skip "$tmp has only $free MB free"

generate_model "$tmp/model.gguf" BF16 "$megabytes"
/usr/bin/time -f '%M %e' -o "$tmp/time" mkmodelfs --quiet "$tmp/model.mfs" "$tmp/model.gguf"
read -r kilobytes seconds <"$tmp/time"
note "$megabytes MB packed and verified in $seconds s, peak $((kilobytes / 1000)) MB"
[ "$kilobytes" -lt 300000 ] || fail "mkmodelfs used $kilobytes kB"

/usr/bin/time -f '%M %e' -o "$tmp/time" modelfs-check "$tmp/model.mfs" >&2
read -r kilobytes seconds <"$tmp/time"
note "checked in $seconds s, peak $((kilobytes / 1000)) MB"
[ "$kilobytes" -lt 300000 ] || fail "modelfs-check used $kilobytes kB"
