#!/usr/bin/env bash
# Merged tensors of every kind of base and view are, byte for byte, what a NumPy
# program makes that was written from the definition of MERGE-1.
source "$(dirname "$0")/lib.sh"
need_program mergecheck
# Debian's modules are those of Debian's Python.
python=python3
/usr/bin/python3 -c 'import numpy' 2>/dev/null && python=/usr/bin/python3
"$python" -c 'import numpy' 2>/dev/null || skip "python3-numpy is not installed"

seed=${MFS_SEED:-$RANDOM}
note "seed $seed"
rounds=3
[ "${MFS_SOAK:-0}" = 0 ] || rounds=200
for ((i = 0; i < rounds; i++)); do
	"$python" "$here/merge1.py" "$MFS_BIN/mergecheck" $((seed + i)) || fail "see above"
done
