#!/usr/bin/env bash
# tests/check.sh is `make check`, all that CI does: the tests, then format, vet, staticcheck, the race
# detector, every benchmark once, and every fuzz target for ten seconds. It goes on after a failure, so that
# one run tells everything, and closes with one line; its status is that line's. `make fuzz` and `make fmt` are parts.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.." || exit 1
# shellcheck source=tests/lib.sh
. tests/lib.sh

tags=${TAGS:-nozstd}
fuzztime=${FUZZTIME:-10s}
gofumpt=mvdan.cc/gofumpt@v0.12.0
staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.7.0

passed=()
failed=()
trap 'say interrupted; exit 130' INT TERM

# step NAME COMMAND... runs one check and remembers how it went.
step() {
	local name=$1 begin=$SECONDS result=passed
	shift
	printf '\n== %s\n' "$name"
	if "$@"; then
		passed+=("$name")
	else
		result=FAILED
		failed+=("$name")
	fi
	printf '== %s %s in %d s\n' "$name" $result $((SECONDS - begin))
}

format() {
	local files
	files=$(go run "$gofumpt" -l .) || return 1
	[ -z "$files" ] || {
		printf 'not formatted as gofumpt formats, "make fmt" does it:\n%s\n' "$files"
		return 1
	}
}

# race runs the tests with the checks that cost time: the race detector, and -tags invariants, under
# which lent memory is spoiled. The long tests are left out, and those that start a connector for each of many cases: under
# the race detector they take a quarter of an hour and run the same code as the oracle.
race() {
	command -v gcc >/dev/null || command -v clang >/dev/null || (apt_install \
		"the race detector needs a C compiler" gcc libc6-dev) || return 1
	CGO_ENABLED=1 make --no-print-directory test TAGS="$tags invariants" GO_TEST_FLAGS="-race -short -skip 'Transcripts|Fault|TypesGolden|TypesOfEncodings|Values|Preview|Schedules|TOASTOracle|ScanKeysCaptured|DDLWalk|DiscoveryRules|ArraysReturn|TypesLive|Stops|Amiss|ScanKeysResume'"
}

# fuzz_one runs one target. Go's fuzzer now and then reports its own deadline as a failure of the
# target; without a failing input that is no finding, and a second run tells.
fuzz_one() {
	local log status=0
	log=$(mktemp)
	go test -tags "$tags" -run '^$' -fuzz "^$2\$" -fuzztime "$fuzztime" "$1" 2>&1 | tee "$log" || status=1
	if [ $status != 0 ] && grep -q 'context deadline exceeded' "$log" && ! grep -q 'Failing input' "$log"; then
		say "$2: the fuzzer met its own deadline, running it again"
		status=0
		go test -tags "$tags" -run '^$' -fuzz "^$2\$" -fuzztime "$fuzztime" "$1" || status=1
	fi
	rm -f "$log"
	return $status
}

fuzz() {
	local package target targets found=0
	for package in $(go list -tags "$tags" ./...); do
		targets=$(go test -tags "$tags" -list '^Fuzz' "$package") || return 1
		for target in $targets; do
			case $target in Fuzz*) ;; *) continue ;; esac # -list closes with a line of its own
			found=$((found + 1))
			fuzz_one "$package" "$target" || return 1
		done
	done
	printf '%d fuzz targets ran for %s each\n' "$found" "$fuzztime"
}

# pooler gets what one test puts in front of the server; without it that test is skipped.
pooler() {
	command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] && return
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		(apt_install "a test wants a connection pooler" pgbouncer) && return
	fi
	say "PgBouncer is not installed: its test will be skipped"
}

case ${1:-} in
'')
	pooler
	step test make --no-print-directory test
	step gofumpt format
	step vet go vet -tags "$tags" ./...
	step staticcheck go run "$staticcheck" -tags "$tags" ./...
	step race race
	step bench make --no-print-directory bench GO_TEST_FLAGS=-benchtime=1x
	step fuzz fuzz
	;;
fuzz) step fuzz fuzz ;;
fmt) exec go run "$gofumpt" -w . ;;
*) die "unknown argument '$1': nothing, for all checks, fuzz or fmt" ;;
esac

printf '\n'
[ ${#failed[@]} -eq 0 ] || say "failed: ${failed[*]}"
say "took $((SECONDS / 60)) min $((SECONDS % 60)) s"
printf 'check: %d passed, %d failed\n' ${#passed[@]} ${#failed[@]}
[ ${#failed[@]} -eq 0 ]
