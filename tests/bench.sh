#!/usr/bin/env bash
# tests/bench.sh is `make bench`: the connector as a process beside PostgreSQL's own tools, on a throwaway server, all sides by turns in
# one run. It prints a table, with what it was measured on. It says something on a machine that does nothing else.
#
# By environment:
#   BASE       a commit to measure beside this tree
#   SIDES      more connectors, as NAME=BINARY,...
#   ROUNDS     how often each side is measured (3); the medians count
#   SCALE      size of the workloads (1)
#   WORKLOADS  those whose names have this
#   TLS=yes    all connections are encrypted
#   SPIN       processes that use a core each meanwhile (0)
#   OUTPUT     file for the table, too
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."
# shellcheck source=tests/lib.sh
. tests/lib.sh

need_go
[ -n "${TEST_DATABASE_ADDRESS:-}" ] || exec tests/postgres.sh run --name "bench-$$" -- tests/bench.sh
export TEST_DATABASE=yes
work=$(mktemp -d)
trap '[ ! -e "$work/base" ] || git worktree remove --force "$work/base"; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
build() { (cd "$1" && CGO_ENABLED=0 go build -tags "${TAGS:-nozstd}" -trimpath -o "$2" .); }
build . "$work/ours"
sides="ours=$work/ours"
if [ -n "${BASE:-}" ]; then
	git worktree add --quiet --detach "$work/base" "$BASE"
	build "$work/base" "$work/before"
	sides="before=$work/before,$sides"
fi
flags=(-sides "$sides${SIDES:+,$SIDES}" -rounds "${ROUNDS:-3}" -scale "${SCALE:-1}" -workloads "${WORKLOADS:-}" -spin "${SPIN:-0}")
[ "${TLS:-}" != yes ] || flags+=(-bench-tls)
{
	printf '%s, %s CPUs (%s), Go %s, commit %s%s, load before: %s\n\n' "$(date -u +%F)" "$(getconf _NPROCESSORS_ONLN)" \
		"$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1)" "$(go env GOVERSION)" "$(git rev-parse --short HEAD)" \
		"${BASE:+ beside $BASE}" "$(uptime | sed 's/.*average: //')"
} | tee "$work/table"
go test -tags "${TAGS:-nozstd}" -c -o "$work/bench.test" .
"$work/bench.test" -test.timeout 0 -test.run '^TestServerBench$' "${flags[@]}" -bench-output "$work/rows"
cat "$work/rows" >>"$work/table"
[ -z "${OUTPUT:-}" ] || cp "$work/table" "$OUTPUT"
