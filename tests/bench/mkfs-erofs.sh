#!/usr/bin/env bash
# Builds a mkfs.erofs with zstd where the system's has none:
#   tests/bench/mkfs-erofs.sh DIR
# DIR/mkfs.erofs is then there. The source is the newest one that the Debian mirror
# of this machine's apt has; apt's own lists and packages are not touched, except
# that tools for building are installed.
set -euo pipefail

dir=${1:?usage: tests/bench/mkfs-erofs.sh DIR}
mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial"
dir=$(cd "$dir" && pwd)
[ -x "$dir/mkfs.erofs" ] && exit 0
"$(dirname "$0")/../../scripts/install-deps.sh" build erofs

# shellcheck disable=SC2016
mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep -m 1 '/debian/*$') || {
	echo "mkfs-erofs.sh: apt has no Debian mirror here" >&2
	exit 1
}
echo "deb-src $mirror unstable main" >"$dir/apt/sources.list"
private=(-o "Dir::Etc::sourcelist=$dir/apt/sources.list" -o Dir::Etc::sourceparts=-
	-o "Dir::State::lists=$dir/apt/lists" -o "Dir::Cache=$dir/apt/cache"
	-o APT::Sandbox::User=root -o Acquire::Retries=3)
cd "$dir"
apt-get "${private[@]}" -qq update >&2
apt-get "${private[@]}" -qq source --download-only erofs-utils >&2
mkdir -p source
tar -xf erofs-utils_*.orig.tar.* -C source --strip-components 1
cd source
{
	./autogen.sh
	./configure --with-libzstd --disable-fuse --without-uuid
	make -j "$(nproc)"
} >"$dir/build.log" 2>&1 || {
	echo "mkfs-erofs.sh: the build failed: $(tail -n 1 "$dir/build.log")" >&2
	exit 1
}
cp mkfs/mkfs.erofs "$dir/mkfs.erofs"
rm -rf "$dir/apt" "$dir/source" "$dir"/erofs-utils_*
