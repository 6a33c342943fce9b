#!/usr/bin/env bash
# tests/demo.sh is `make demo`: a capture of pgbench's tables on a throwaway PostgreSQL while pgbench writes to
# them, killed with SIGKILL in the backfill and again in the streaming, resumed each time, and at the end the
# captured documents are replayed and compared with the tables. About a minute, nobody needed, nothing left.
#
# SCALE (1) is pgbench's scale, 100,000 accounts each; LOAD_SECONDS (15) is how long pgbench writes at least.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."
# shellcheck source=tests/lib.sh
. tests/lib.sh

scale=${SCALE:-1}
seconds=${LOAD_SECONDS:-15}
server=demo-$$
work=$(mktemp -d)
capture= # pid of the running preview
load=    # pid of the running pgbench
finished=

cleanup() {
	trap '' INT TERM HUP
	[ -n "$finished" ] || { [ ! -s "$work/preview.log" ] || tail -n 20 "$work/preview.log" >&2; }
	kill_capture
	[ -z "$load" ] || kill "$load" 2>/dev/null || true
	tests/postgres.sh stop --name "$server" 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

title() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] || title() { printf '\n%s\n' "$*"; }

# preview becomes the capture: it is called in a shell of its own.
preview() {
	exec "$work/source-postgres" preview --config "$work/config.yaml" --tables 'public.pgbench_*' \
		--state "$work/state.json" --output "$work/documents.jsonl" --json "$@" 2>>"$work/preview.log"
}

start_capture() {
	preview &
	capture=$!
}

# kill_capture ends preview and the connector it started at once, as a power cut would: neither gets to say or
# write anything more.
kill_capture() {
	[ -n "$capture" ] || return 0
	local connector
	connector=$(sed -n 's/.*connector started, pid \([0-9]*\).*/\1/p' "$work/preview.log" | tail -n 1)
	kill -KILL "$capture" ${connector:+"$connector"} 2>/dev/null || true
	{ wait "$capture" || true; } 2>/dev/null
	capture=
}

captured() { wc -l <"$work/documents.jsonl"; }

# wait_for WHAT COMMAND... waits until the command succeeds, as long as the capture runs and captures.
wait_for() {
	local what=$1 progress='' since=$SECONDS
	shift
	until "$@"; do
		kill -0 "$capture" 2>/dev/null || die "the capture ended before $what, its last lines follow"
		if [ "$(captured)" != "$progress" ]; then
			progress=$(captured)
			since=$SECONDS
		fi
		[ $((SECONDS - since)) -lt 60 ] || die "nothing captured for a minute, before $what; its last lines follow"
		sleep 0.05
	done
}

at_least() { [ "$(captured)" -ge "$1" ]; }

# live_changes SIZE COUNT prints up to COUNT of the changes captured behind the first SIZE bytes; fails for none.
live_changes() { grep -v -m "$2" '"snapshot":true' < <(tail -c +$(($1 + 1)) "$work/documents.jsonl" 2>/dev/null); }
live_change() { live_changes "$1" 1 >/dev/null; }

# write_load has pgbench write for $seconds, and for as long as the capture is not yet where it will be killed last.
write_load() {
	local begin=$SECONDS
	until [ -e "$work/enough" ] && [ $((SECONDS - begin)) -ge "$seconds" ]; do
		tests/postgres.sh exec --name "$server" pgbench -n -c 4 -T 5 >>"$work/pgbench.log" 2>&1 || return
	done
}

title "1. Build, and a throwaway PostgreSQL with pgbench's tables at scale $scale"
CGO_ENABLED=0 go build -tags nozstd -buildvcs=false -o "$work/source-postgres" .
CGO_ENABLED=0 go build -tags nozstd -buildvcs=false -o "$work/replay" ./tests/replay
tests/postgres.sh start --name "$server" >"$work/env"
# shellcheck source=/dev/null
. "$work/env"
tests/postgres.sh exec --name "$server" pgbench --quiet -i -s "$scale" >"$work/pgbench.log" 2>&1 ||
	die "pgbench -i failed: $(tail -n 5 "$work/pgbench.log")"
# pgbench_history comes without a key. A scan of a keyless table overlaps with the stream: complete, but a row can
# appear twice. With a key its history is strict as the others' is, and can be checked to the row.
tests/postgres.sh psql --name "$server" -qc 'ALTER TABLE pgbench_history ADD id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY'
rows=$((scale * 100000 + scale * 10 + scale))
echo "$rows rows in pgbench_accounts, pgbench_tellers and pgbench_branches"
cat >"$work/config.yaml" <<CONFIG
address: $TEST_DATABASE_ADDRESS
user: flow_capture
database: postgres
historyMode: false
credentials: {auth_type: UserPassword, password: secret1234}
advanced: {backfill_chunk_size: 1000}
CONFIG
: >"$work/documents.jsonl"

title "2. pgbench writes with 4 clients; the backfill runs beside it"
write_load &
load=$!
load_begin=$SECONDS
start_capture
step=$((rows / 8))
for part in 1 2 3 4; do
	wait_for "a part of the backfill" at_least $((step * part))
	echo "$(captured) documents captured"
done

title "3. kill -9 in the middle of the backfill, and resume"
kill_capture
echo "killed after $(captured) documents"
start_capture
for part in 6 8; do
	wait_for "the rest of the backfill" at_least $((step * part))
	echo "$(captured) documents captured"
done

title "4. Live changes, kill -9 in the middle of them, and resume"
size=$(wc -c <"$work/documents.jsonl")
wait_for "a live change" live_change "$size"
live_changes "$size" 3 | cut -c 1-200
sleep 1
kill_capture
echo "killed after $(captured) documents"
start_capture
: >"$work/enough"
while kill -0 "$load" 2>/dev/null; do
	sleep 2
	kill -0 "$capture" 2>/dev/null || die "the capture ended, its last lines follow"
	echo "$(captured) documents captured, pgbench has been writing for $((SECONDS - load_begin)) s"
done
wait "$load" || die "pgbench failed: $(tail -n 5 "$work/pgbench.log")"
load=
awk '/transactions actually/ {n += $NF} END {print n " transactions written"}' "$work/pgbench.log"

title "5. Drain what is left, and stop"
kill -TERM "$capture"
wait "$capture" || die "the capture did not stop cleanly, its last lines follow"
capture=
(preview --exit-when-caught-up) || die "the capture failed, its last lines follow"
echo "$(captured) documents captured in all"

title "6. Replay the documents and compare with the tables"
tables=public.pgbench_accounts,public.pgbench_branches,public.pgbench_history,public.pgbench_tellers
"$work/replay" --strict --tables "$tables" --output "$work/documents.jsonl" \
	--database "$(tests/postgres.sh url --name "$server")"
finished=yes
title "The replayed documents equal the tables. Took $SECONDS s."
