#!/usr/bin/env bash
# Everything there is to run, from a bare checkout:
#   ./test.sh [--quick] [--threads] [--arm64] [--soak]
# Installs what is missing, builds with warnings as errors and runs the suite;
# builds again with ASan and UBSan for the unit tests, the fuzz corpora and some
# integration tests; builds the fuzz targets with libFuzzer and runs each for a
# while. --quick: only the suite. --threads: also what runs in many threads, built
# with TSan. --arm64: also format/ and its tests built for 64-bit ARM, in QEMU, where
# what that takes is installed (tests/cross/arm64.sh). --soak: all of it in the long
# forms, for a night.
# The last line counts the tests of all parts.
set -euo pipefail
cd "$(dirname "$0")"

quick=0
threads=0
arm64=0
soak=0
for argument; do
	case $argument in
	--quick) quick=1 ;;
	--threads) threads=1 ;;
	--arm64) arm64=1 ;;
	--soak) soak=1 threads=1 arm64=1 ;;
	*)
		sed -n '2,11s/^# \{0,1\}//p' "$0"
		[ "$argument" = --help ] && exit 0
		exit 2
		;;
	esac
done

jobs=$(nproc)
fuzz_seconds=12
[ $soak = 0 ] || fuzz_seconds=600
passed=0
failed=0
skipped=0
summary=

say() { printf '\n== %s\n' "$*"; }

# configure DIRECTORY OPTION...: and builds it, or its $targets alone
configure()
{
	local directory=$1

	shift
	cmake -S . -B "$directory" -DMFS_WERROR=ON -DMFS_SOAK=$soak "$@" >"$directory.log" 2>&1 || {
		cat "$directory.log"
		return 1
	}
	# shellcheck disable=SC2086
	cmake --build "$directory" -j "$jobs" ${targets:+--target $targets} \
		>"$directory.log" 2>&1 || {
		grep -v '^\[ *[0-9]*%\]' "$directory.log" | head -n 60
		return 1
	}
	rm -f "$directory.log"
}

# count_suite DIRECTORY CTEST-OPTION...: runs ctest and adds up what it says
count_suite()
{
	local directory=$1 results=$1/results.xml status=0 attributes

	shift
	rm -f "$results"
	ctest --test-dir "$directory" --output-on-failure --output-junit results.xml -j "$((jobs + 1))" \
		"$@" 2>&1 | tee "$directory/ctest.log" || status=$?
	attributes=$(head -c 2000 "$results" | tr '\n\t' '  ' | grep -o -m1 '<testsuite [^>]*>') || {
		echo "ctest left no results"
		return 1
	}
	local total failures skips
	total=$(attribute tests "$attributes")
	failures=$(attribute failures "$attributes")
	skips=$(($(attribute skipped "$attributes") + $(attribute disabled "$attributes")))
	passed=$((passed + total - failures - skips))
	failed=$((failed + failures))
	skipped=$((skipped + skips))
	# A run that broke off without a failing test is a failure too.
	if [ $status != 0 ] && [ "$failures" = 0 ]; then
		failed=$((failed + 1))
	fi
}

attribute()
{
	local value
	value=$(sed -n "s/.* $1=\"\([0-9]*\)\".*/\1/p" <<<"$2")
	echo "${value:-0}"
}

run_suite()
{
	say "the suite"
	configure build -DMFS_SANITIZE= || return 1
	count_suite build
	summary=$(grep -E '[0-9]+% tests passed' build/ctest.log || true)
}

# Time and memory are judged without sanitizers; here it is memory errors. ASan's
# shadow of large memory is cleared where it is, not mapped anew: that halves the time
# of the system in tests that allocate much.
run_sanitized()
{
	local options=clear_shadow_mmap_threshold=1000000000

	say "ASan and UBSan"
	configure build-sanitize -DMFS_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=Debug \
		-DCMAKE_C_FLAGS_DEBUG="-O1 -g" -DCMAKE_CXX_FLAGS_DEBUG="-O1 -g" || return 1
	ASAN_OPTIONS=$options UBSAN_OPTIONS=print_stacktrace=1 count_suite build-sanitize -R \
		'^(unit|fuzz)/|^integration/(every_model|many_readers|flipped_bits|truncated|hostile|signals|bad_names|mount_errors|a_failing)'
}

# Data races: the reader's threads, packing, and many processes at one mount.
run_thread_sanitized()
{
	say "TSan"
	configure build-thread -DMFS_SANITIZE=thread -DCMAKE_BUILD_TYPE=Debug \
		-DCMAKE_C_FLAGS_DEBUG="-O1 -g" -DCMAKE_CXX_FLAGS_DEBUG="-O1 -g" || return 1
	count_suite build-thread -R \
		'^unit/test_(io|reader|cache|order|route|memory|pack)$|^integration/(many_readers|a_failing|signals)'
}

run_arm64()
{
	local status=0 count

	say "64-bit ARM"
	tests/cross/arm64.sh build-arm64 >build-arm64.log 2>&1 || status=$?
	cat build-arm64.log
	if [ $status = 77 ]; then
		skipped=$((skipped + 1))
		return 0
	fi
	count=$(sed -n 's/^\([0-9]*\) passed, .*/\1/p' build-arm64.log | tail -n 1)
	passed=$((passed + ${count:-0}))
	return $status
}

# fuzz TARGET: for a while; its status is left in build-fuzz/NAME.status
fuzz()
{
	local name status=0

	name=$(basename "$1")
	mkdir -p "build-fuzz/corpus/$name"
	"$1" -max_total_time=$fuzz_seconds -timeout=10 -rss_limit_mb=2048 \
		-artifact_prefix="build-fuzz/$name-" -print_final_stats=1 "build-fuzz/corpus/$name" \
		"tests/fuzz/corpus/$name" >"build-fuzz/$name.log" 2>&1 || status=$?
	echo $status >"build-fuzz/$name.status"
}

run_fuzzers()
{
	local target name status running=0
	local targets
	# The programs too: another compiler sees other mistakes.
	targets="$(basename -s .c tests/fuzz/fuzz_*.c | tr '\n' ' ')"
	targets+="modelfs mkmodelfs modelfs-stat modelfs-check modelfs-extract"

	say "libFuzzer, $fuzz_seconds s each"
	configure build-fuzz -DMFS_FUZZ=ON -DMFS_SANITIZE=address,undefined \
		-DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=Debug \
		-DCMAKE_C_FLAGS_DEBUG="-O1 -g -fsanitize=fuzzer-no-link" || return 1
	rm -f build-fuzz/fuzz_*.status
	for target in build-fuzz/bin/fuzz_*; do
		if [ $((running += 1)) -gt "$jobs" ]; then
			wait -n
		fi
		fuzz "$target" &
	done
	wait
	for target in build-fuzz/bin/fuzz_*; do
		name=$(basename "$target")
		status=$(cat "build-fuzz/$name.status")
		if [ "$status" = 0 ]; then
			passed=$((passed + 1))
			echo "$name: $(awk '/number_of_executed_units/ { print $2 }' \
				"build-fuzz/$name.log") runs, no finding"
		else
			failed=$((failed + 1))
			tail -n 40 "build-fuzz/$name.log"
			echo "$name: status $status; the input is in build-fuzz/$name-*"
		fi
	done
}

# part FUNCTION: a part that cannot even be built counts as one failure
part() { "$1" || failed=$((failed + 1)); }

scripts/install-deps.sh build test demo
part run_suite
if [ $quick = 0 ]; then
	part run_sanitized
	[ $threads = 0 ] || part run_thread_sanitized
	[ $arm64 = 0 ] || part run_arm64
	if command -v clang >/dev/null; then
		part run_fuzzers
	else
		say "no clang: no libFuzzer"
		skipped=$((skipped + 1))
	fi
fi

say "all together, in $((SECONDS / 60)) min $((SECONDS % 60)) s"
[ -z "$summary" ] || echo "$summary"
last="$passed passed, $failed failed"
[ $skipped = 0 ] || last="$last, $skipped skipped"
echo "$last"
[ $failed = 0 ]
