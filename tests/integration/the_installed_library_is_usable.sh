#!/usr/bin/env bash
# cmake --install into a prefix; programs in C99 and C++ build against it with
# pkg-config, shared and static; the shared library shows nothing but mfs_*.
source "$(dirname "$0")/lib.sh"
! sanitized || skip "a sanitized library needs sanitized programs"

cd "$tmp"
cmake --install "${MFS_BUILD:-$MFS_SOURCE/build}" --prefix "$tmp/prefix" >install.log ||
	fail "cmake --install: $(cat install.log)"
pc=$(find prefix -name modelfs.pc)
[ -n "$pc" ] || fail "modelfs.pc is not installed"
# The prefix was given when installing: so is it to pkg-config.
pkg() { PKG_CONFIG_PATH=$(dirname "$tmp/$pc") pkg-config --define-variable=prefix="$tmp/prefix" "$@" modelfs; }
library=$(pkg --variable=libdir)

cat >client.c <<'CLIENT'
#include <modelfs.h>
#include <modelfs_pack.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	mfs_container *container = NULL;
	mfs_problem why;
	char buffer[64];
	long long got;

	memset(&why, 0, sizeof(why));
	if (argc != 2)
		return 2;
	if (mfs_open(&container, argv[1], NULL, &why) < 0) {
		fprintf(stderr, "%s\n", why.text);
		return 1;
	}
	got = (long long)mfs_read(container, (uint32_t)mfs_file_find(container, "greeting"), 0,
				  buffer, sizeof(buffer));
	if (got > 0)
		fwrite(buffer, 1, (size_t)got, stdout);
	mfs_close(container);
	return got < 0;
}
CLIENT
cp client.c client.cpp
printf 'hello, %s' library >greeting
pack greeting.mfs greeting

# try NAME COMPILER ARGUMENT...: builds, and reads a file with it
try()
{
	local name=$1

	shift
	"$@" -o "$name" || fail "$name does not build"
	LD_LIBRARY_PATH=$library ./"$name" greeting.mfs >said || fail "$name fails"
	[ "$(cat said)" = "hello, library" ] || fail "$name says: $(cat said)"
}

cc=${MFS_CC:-cc}
cxx=${MFS_CXX:-c++}
read -ra cflags <<<"$(pkg --cflags)"
read -ra shared <<<"$(pkg --libs)"
read -ra static <<<"$(pkg --libs --static)"
for i in "${!static[@]}"; do
	[ "${static[i]}" != -lmodelfs ] || static[i]=$library/libmodelfs.a
done
strict=(-Wall -Wextra -Werror -pedantic)
try shared-c99 "$cc" -std=c99 "${strict[@]}" client.c "${cflags[@]}" "${shared[@]}"
try shared-cxx "$cxx" -std=c++11 "${strict[@]}" client.cpp "${cflags[@]}" "${shared[@]}"
try static-c99 "$cc" -std=c99 "${strict[@]}" client.c "${cflags[@]}" "${static[@]}"
try static-cxx "$cxx" -std=c++11 "${strict[@]}" client.cpp "${cflags[@]}" "${static[@]}"
! ldd static-c99 | grep -q libmodelfs || fail "the static program needs the shared library"

nm -D --defined-only "$library/libmodelfs.so" | awk '$2 != "A" { print $3 }' >symbols
! grep -v '^mfs_' symbols || fail "the shared library shows other names than mfs_*"
grep -qx mfs_open symbols || fail "mfs_open is hidden"
# What the headers promise is there, and nothing else is.
grep -ho 'mfs_[a-z_]*(' "$MFS_SOURCE"/libmodelfs/include/*.h | tr -d '(' | sort -u >named
missing=$(sort -u symbols | comm -23 - named)
[ -z "$missing" ] || fail "shown, but in no public header: $missing"

PATH=$tmp/prefix/bin:$PATH
for program in mkmodelfs modelfs modelfs-stat modelfs-extract modelfs-check; do
	[ "$(command -v "$program")" = "$tmp/prefix/bin/$program" ] || fail "$program is not installed"
	"$program" --version >/dev/null || fail "the installed $program does not run"
	find prefix -name "$program.[18]*" | grep -q . || fail "$program has no manual page"
done
