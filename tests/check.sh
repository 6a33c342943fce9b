#!/usr/bin/env bash
# tests/check.sh is `make check`, all that CI does: the tests, then format, vet, staticcheck, the race
# detector, every benchmark once, and every fuzz target for five seconds. It goes on after a failure, so that
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
work=$(mktemp -d)
export GOTMPDIR=$work # a build that is interrupted leaves its folder
trap 'rm -rf "$work"' EXIT
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

# race runs the tests with the checks that cost time: the race detector, and -tags invariants, under which lent memory is
# spoiled. Under -short tests leave themselves out that would take long so and run the same code as others; what they were is
# told at the end.
race() {
	command -v gcc >/dev/null || command -v clang >/dev/null || (apt_install \
		"the race detector needs a C compiler" gcc libc6-dev) || return 1
	CGO_ENABLED=1 make --no-print-directory test TAGS="$tags invariants" GO_TEST_FLAGS="-race -short"
}

# fuzz_one BINARY PACKAGE TARGET runs one target, in the package's folder, whose testdata has its corpus. Go's fuzzer now
# and then reports its own deadline as a failure of the target; without a failing input that is no finding, and a second run
# tells.
fuzz_one() {
	local log=$work/fuzz.log
	run_target "$@" 2>&1 | tee "$log" && return
	grep -q 'context deadline exceeded' "$log" && ! grep -q 'Failing input' "$log" || return 1
	say "$3: the fuzzer met its own deadline, running it again"
	run_target "$@"
}

# What the fuzzer finds new goes to where go test puts it, and is begun from the next time.
run_target() {
	printf '%s: ' "$3"
	(cd "$(go list -f '{{.Dir}}' "$2")" && "$1" -test.run '^$' -test.fuzz "^$3\$" -test.fuzztime "$fuzztime" \
		-test.fuzzcachedir "$(go env GOCACHE)/fuzz/$2")
}

# fuzz builds the test binary of each package once, with the fuzzer's instrumentation, and runs its targets from it.
fuzz() {
	local package target found=0 failed=()
	for package in $(go list -tags "$tags" -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./...); do
		grep -qs '^func Fuzz' "$(go list -f '{{.Dir}}' "$package")"/*_test.go || continue
		say "building the fuzz targets of $package"
		go test -tags "$tags" -c -fuzz . -o "$work/test" "$package" || return 1
		for target in $("$work/test" -test.list '^Fuzz'); do
			found=$((found + 1))
			fuzz_one "$work/test" "$package" "$target" || failed+=("$target")
		done
	done
	printf '%d fuzz targets ran for %s each\n' "$found" "$fuzztime"
	[ ${#failed[@]} = 0 ] || {
		say "failed: ${failed[*]}"
		return 1
	}
}

# pooler gets what one test puts in front of the server; without it that test is skipped.
pooler() {
	command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] && return
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		(apt_install "a test wants a connection pooler" pgbouncer) && return
	fi
	say "PgBouncer is not installed: its test will be skipped"
}

# ssh_server gets the other end of the tunnel; without it its tests are skipped. Where services are started by systemd none is
# installed: one would listen from then on.
ssh_server() {
	command -v sshd >/dev/null || [ -x /usr/sbin/sshd ] && return
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && [ ! -d /run/systemd/system ]; then
		(apt_install "tests want an SSH server" openssh-server) && return
	fi
	say "OpenSSH's server is not installed: the tests of the tunnel will be skipped"
}

case ${1:-} in
'')
	fuzztime=${FUZZTIME:-5s} # `make fuzz` takes its time
	pooler
	ssh_server
	step test make --no-print-directory test
	step gofumpt format
	step vet go vet -tags "$tags" ./...
	step staticcheck go run "$staticcheck" -tags "$tags" ./...
	step race race
	step benchmarks make --no-print-directory benchmarks GO_TEST_FLAGS=-benchtime=1x
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
