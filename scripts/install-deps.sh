#!/usr/bin/env bash
# Installs what is missing, by apt, and nothing if nothing is:
#   scripts/install-deps.sh [build] [test] [demo] [bench] [erofs]
# Groups: build (compiler, libraries and what mounts), test (what the suite runs), demo
# (mounting and npm), bench (peers and plots), erofs (to build erofs-utils where
# the release's own are too old). Without arguments: build.
set -euo pipefail

build=(gcc g++ make cmake pkg-config libc6-dev libzstd-dev libxxhash-dev liburing-dev
	libfuse3-dev fuse3 libjansson-dev libcmocka-dev)
test=(python3 python3-numpy python3-zstandard python3-xxhash zstd strace time clang
	libclang-rt-dev binutils util-linux mount procps)
demo=(fuse3)
bench=(zstd liblz4-dev liblzma-dev gnuplot-nox fuse3 python3 fio e2fsprogs erofs-utils
	squashfs-tools btrfs-progs util-linux mount)
erofs=(autoconf automake libtool make gcc pkg-config libzstd-dev liblz4-dev)

wanted=()
for group in "${@:-build}"; do
	case $group in
	build) wanted+=("${build[@]}") ;;
	test) wanted+=("${test[@]}") ;;
	erofs) wanted+=("${erofs[@]}") ;;
	demo)
		wanted+=("${demo[@]}")
		# A Node from elsewhere brings its own npm.
		command -v npm >/dev/null || wanted+=(npm nodejs ca-certificates)
		;;
	bench)
		wanted+=("${bench[@]}")
		# Not in every release of Debian.
		[ -z "$(apt-cache search --names-only '^libblosc2-dev$' 2>/dev/null)" ] ||
			wanted+=(libblosc2-dev)
		;;
	*)
		echo "install-deps.sh: no group '$group' (build, test, demo, bench, erofs)" >&2
		exit 2
		;;
	esac
done

is_installed()
{
	case $(dpkg-query -W -f '${Status}' "$1" 2>/dev/null) in
	"install ok installed") return 0 ;;
	esac
	# Packages that another one provides under this name.
	[ "$1" = pkg-config ] && command -v pkg-config >/dev/null
}

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
	echo "install-deps.sh: no apt here; please install the equivalents of: ${wanted[*]}" >&2
	exit 0
fi
missing=()
for package in "${wanted[@]}"; do
	is_installed "$package" || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || {
		echo "install-deps.sh: not root, and no sudo; please install: ${missing[*]}" >&2
		exit 1
	}
	as_root=(sudo)
fi

echo "installing: ${missing[*]}" >&2
install()
{
	"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get \
		-o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -yqq \
		install --no-install-recommends "${missing[@]}" >&2 </dev/null
}
# The package lists of a fresh machine are often empty or old.
if ! install 2>/dev/null; then
	"${as_root[@]}" apt-get -o Acquire::Retries=3 -qq update >&2 </dev/null
	install
fi
