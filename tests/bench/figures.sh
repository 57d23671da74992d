#!/usr/bin/env bash
# Sizes of models: plain, under zstd -3 and -19, and as a modelfs container.
#   tests/bench/figures.sh [--update] [FILE...]
# Prints a table in Markdown; --update puts it into README.md between its
# markers. Without FILEs: the shared data if it is there, and generated models.
set -euo pipefail
cd "$(dirname "$0")/../.."

update=0
if [ "${1-}" = --update ]; then
	update=1
	shift
fi
bin=${MFS_BIN:-$PWD/build/bin}
data=${MFS_SHARED_DATA:-$PWD/../shared/data}
PATH=$bin:$PATH
tmp=$(mktemp -d "${TMPDIR:-/tmp}/modelfs-figures-XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM

files=("$@")
if [ ${#files[@]} = 0 ]; then
	if [ -d "$data" ]; then
		files=("$data/random-s58/rand-s58-Q4_K_M.gguf" "$data/silero/silero-types.gguf")
	fi
	for type in F32 F16 BF16 Q8_0 Q4_0; do
		mkllama --type "$type" --size 32M "$tmp/random-32M-$type.gguf"
		files+=("$tmp/random-32M-$type.gguf")
	done
	if [ -d "$data" ]; then
		files+=("$data"/stories260K/stories260K-{f32,F16,BF16}.gguf)
	fi
fi

# grouped NUMBER: 1234567 -> 1,234,567
grouped() { sed ':a; s/\([0-9]\)\([0-9]\{3\}\)\($\|,\)/\1,\2\3/; ta' <<<"$1"; }
# shares PLAIN SIZE...: cells of a table, the smallest in bold
shares()
{
	awk 'BEGIN {
		for (i = 2; i < ARGC; i++)
			if (i == 2 || ARGV[i] + 0 < least)
				least = ARGV[i] + 0
		for (i = 2; i < ARGC; i++) {
			mark = ARGV[i] + 0 == least ? "**" : ""
			printf " %s%.1f %%%s |", mark, 100 * ARGV[i] / ARGV[1], mark
		}
	}' "$@"
}

row()
{
	local file=$1 plain fast best stored

	plain=$(stat -c %s "$file")
	fast=$(zstd -3 -T1 -q -c "$file" | wc -c)
	best=$(zstd -19 -T1 -q -c "$file" | wc -c)
	rm -f "$tmp/figure.mfs"
	mkmodelfs --quiet "$tmp/figure.mfs" "$file"
	stored=$(stat -c %s "$tmp/figure.mfs")
	printf '| %s | %s |%s\n' "$(basename "$file")" "$(grouped "$plain")" \
		"$(shares "$plain" "$fast" "$best" "$stored")"
}

{
	echo '| model | bytes | zstd -3 | zstd -19 | modelfs |'
	echo '| --- | ---: | ---: | ---: | ---: |'
	for file in "${files[@]}"; do
		row "$file"
	done
	echo
	echo "Measured at commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)," \
		"$(zstd --version | grep -o 'v[0-9.]*' | head -n 1 | sed 's/^v/zstd /')," \
		"profile sd: the whole container, head, index, hashes and padding included, against" \
		"the file as one zstd stream. Random weights (random-*, rand-*) compress otherwise" \
		"than trained ones. Of a file of 0.6 MB, pages of 16 KiB and the copies of head and" \
		"index are a tenth."
} >"$tmp/table"

if [ $update = 0 ]; then
	cat "$tmp/table"
	exit 0
fi
for marker in '<!-- figures -->' '<!-- end of figures -->'; do
	grep -qxF -- "$marker" README.md || {
		echo "figures.sh: README.md lacks the line $marker" >&2
		exit 1
	}
done
awk -v table="$tmp/table" '
	$0 == "<!-- end of figures -->" { inside = 0 }
	!inside { print }
	$0 == "<!-- figures -->" { inside = 1; while ((getline line < table) > 0) print line }
' README.md >"$tmp/README.md"
cat "$tmp/README.md" >README.md
