#!/usr/bin/env bash
# Each option that a program has is in its --help, in its manual page and in the
# completion for the shell, and neither knows of another.
source "$(dirname "$0")/lib.sh"

completion=$MFS_SOURCE/tools/completion/modelfs.bash
complete() { :; } # which the file calls
# shellcheck source=tools/completion/modelfs.bash
source "$completion"

# Long options that a text names at the start of an option's description, as --help has
# them, and a page in the head of a paragraph.
of_help() { "$1" --help | sed -n 's/^  \(-., \|    \)\?--\([a-z-]*\).*/\2/p'; }
of_manual()
{
	sed -n '/^\.SH OPTIONS/,/^\.SH [^O]/p' "$MFS_SOURCE/man/$1.1" | grep -A1 '^\.TP' |
		sed -n 's/\\-/-/g; s/^\.B[RI]\? .*--\([a-z-]*\).*/\1/p'
}
of_completion() { _modelfs_options "$1" | grep -o -- '--[a-z-]*' | sed 's/^--//'; }

# The same of what follows -o; the others are for FUSE.
mount_help() { modelfs --help | sed -n 's/^  \(-d, \)\?-o \([a-z_]*\).*/\2/p'; }
mount_manual()
{
	sed -n '/^\.SH OPTIONS/,/^\.SH [^O]/p' "$MFS_SOURCE/man/modelfs.1" | grep -A1 '^\.TP' |
		sed -n 's/\\-/-/g; s/^\.B[RI]\? .*-o \([a-z_]*\).*/\1/p'
}
mount_completion()
{
	sed -n '/modelfs:-o)/,/-- /p' "$completion" | tr -s '\n\t' '  ' |
		sed "s/.*-W '\([^']*\)'.*/\1/" | tr ' ' '\n' | sed 's/=.*//'
}

# agree WHAT HELP MANUAL COMPLETION: commands that list names
agree()
{
	local what=$1 place difference

	shift
	$1 | sort -u >"$tmp/help"
	[ -s "$tmp/help" ] || fail "$what: --help names no option"
	for place in "$2" "$3"; do
		difference=$($place | sort -u | diff "$tmp/help" -) ||
			fail "$what: what --help names (<) and what ${place%% *} finds (>): $difference"
	done
}

for program in mkmodelfs modelfs-stat modelfs-check modelfs-extract modelfs; do
	agree "$program" "of_help $program" "of_manual $program" "of_completion $program"
done
agree "modelfs -o" mount_help mount_manual mount_completion
