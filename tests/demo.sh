#!/usr/bin/env bash
# tests/demo.sh is `make demo`: a capture of pgbench's tables on a throwaway PostgreSQL while pgbench writes to
# them, killed with SIGKILL in the backfill and again in the streaming, resumed each time. At the end the captured
# documents are checked to be a strict history, replayed, and compared with the tables: by tests/replay, for which the
# server reads the documents' values back, and by the command for one's own data, verify. About half a minute, nobody
# needed, nothing left.
#
# By environment:
#   SCALE         pgbench's scale, 100,000 accounts each (1)
#   LOAD_SECONDS  how long pgbench writes at least (15)
#   CODEC         the protocol's codec, proto or json (proto)
#   RUNTIME       the version of the Flow runtime that preview stands in for, v1 or v2 (v2)
#   KILL_EVERY    instead of the two kills above, kill the connector each time this duration has passed, such as 3s,
#                 until the backfill is done and three more kills have met the streaming
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."
# shellcheck source=tests/lib.sh
. tests/lib.sh

scale=${SCALE:-1}
seconds=${LOAD_SECONDS:-15}
codec=${CODEC:-proto}
runtime=${RUNTIME:-v2}
kill_every=${KILL_EVERY:-}
tables=public.pgbench_accounts,public.pgbench_branches,public.pgbench_history,public.pgbench_tellers
server=demo-$$
capture= # pid of the running preview
load=    # pid of the running pgbench
part=0
finished=
for number in "SCALE=$scale" "LOAD_SECONDS=$seconds"; do
	case ${number#*=} in '' | 0* | *[!0-9]*) die "$number: want a whole number from 1 up" ;; esac
done
case $codec in proto | json) ;; *) die "CODEC=$codec: proto or json" ;; esac
case $runtime in v1 | v2) ;; *) die "RUNTIME=$runtime: v1 or v2" ;; esac
work=$(mktemp -d)
export GOTMPDIR=$work # a build that is interrupted leaves its folder

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

bold() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] || bold() { printf '\n%s\n' "$*"; }
title() { bold "$((part += 1)). $*"; }

sql() { tests/postgres.sh psql --name "$server" -v ON_ERROR_STOP=1 -qXAt "$@"; }

# preview becomes the capture: it is called in a shell of its own.
preview() {
	exec "$work/source-postgres" preview --config "$work/config.yaml" --tables 'public.pgbench_*' --codec "$codec" \
		--runtime "$runtime" --state "$work/state.json" --output "$work/documents.jsonl" --json --output-state "$@" 2>>"$work/preview.log"
}

start_capture() {
	preview "$@" &
	capture=$!
}

# kill_capture ends preview and the connector it started at once, as a power cut would: neither gets to say or
# write anything more.
kill_capture() {
	[ -n "$capture" ] || return 0
	local connector
	connector=$(sed -n 's/.*connector started, pid \([0-9]*\).*/\1/p' "$work/preview.log" | tail -n 1)
	# The number of one that has ended may be another's by now.
	[ ! -e /proc/self/status ] || grep -qs "^PPid:[[:space:]]*$capture\$" "/proc/$connector/status" || connector=
	kill -KILL "$capture" ${connector:+"$connector"} 2>/dev/null || true
	{ wait "$capture" || true; } 2>/dev/null
	capture=
}

# captured counts the documents: one a line, beside those of the state.
captured() { LC_ALL=C grep -c '^\["public' "$work/documents.jsonl" || true; }

# bindings MODE counts the tables that the committed state has in this mode.
bindings() { grep -o "\"mode\":\"$1\"" "$work/state.json" 2>/dev/null | wc -l; }

backfilled() { [ "$(bindings Active)" -ge 4 ]; }

# killed counts how often preview has killed the connector. It must not have ended in another way.
killed() {
	! grep -q 'connector ended (exit' "$work/preview.log" || return
	grep -c 'connector ended (signal: killed)' "$work/preview.log" || true
}

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
		[ $((SECONDS - since)) -lt 180 ] || die "nothing captured for three minutes, before $what; its last lines follow"
		sleep 0.1
	done
}

at_least() { [ "$(captured)" -ge "$1" ]; }

# live_changes SIZE COUNT prints up to COUNT of the changes captured behind the first SIZE bytes; fails for none.
live_changes() {
	grep -v -m "$2" -e '"snapshot":true' -e '^\["connectorState"' \
		< <(tail -c +$(($1 + 1)) "$work/documents.jsonl" 2>/dev/null)
}
live_change() { live_changes "$1" 1 >/dev/null; }

# write_load has pgbench write for $seconds, and for as long as the capture is not yet where it will be killed last.
write_load() {
	local begin=$SECONDS
	until [ -e "$work/enough" ] && [ $((SECONDS - begin)) -ge "$seconds" ]; do
		tests/postgres.sh exec --name "$server" pgbench -n -c 4 -T 5 >>"$work/pgbench.log" 2>&1 || return
	done
}

# two_kills captures with one kill -9 in the middle of the backfill and one in the middle of live changes.
two_kills() {
	local step=$((rows / 8)) eighth size
	title "The backfill, while pgbench writes with 4 clients"
	write_load &
	load=$!
	load_begin=$SECONDS
	start_capture
	for eighth in 1 2 3 4; do
		wait_for "a part of the backfill" at_least $((step * eighth))
		echo "$(captured) documents captured"
	done

	title "kill -9 in the middle of the backfill, and resume"
	kill_capture
	echo "killed after $(captured) documents, $(bindings Active) of 4 tables are done; what the state does not cover comes again"
	start_capture
	for eighth in 6 8; do
		wait_for "the rest of the backfill" at_least $((step * eighth))
		echo "$(captured) documents captured"
	done
	wait_for "the end of the backfill" backfilled
	echo "$(captured) documents captured, the backfill is done"

	title "Live changes, kill -9 in the middle of them, and resume"
	size=$(wc -c <"$work/documents.jsonl")
	wait_for "a live change" live_change "$size"
	live_changes "$size" 3 | sed 's/  */ /g' | cut -c 1-400 # pgbench pads its texts
	sleep 1
	kill_capture
	echo "killed after $(captured) documents"
	start_capture
}

# many_kills captures with a kill -9 of the connector every $kill_every.
many_kills() {
	local since=$SECONDS last=0 kills=0 now until_kills=
	title "The capture, while pgbench writes with 4 clients; kill -9 every $kill_every"
	write_load &
	load=$!
	load_begin=$SECONDS
	start_capture --kill-every "$kill_every"
	until [ -n "$until_kills" ] && [ "$kills" -ge "$until_kills" ]; do
		sleep 2
		kill -0 "$capture" 2>/dev/null || die "the capture ended, its last lines follow"
		kills=$(killed) || die "the connector ended by itself, its last lines follow"
		now=$(captured)
		if [ "$now" != "$last" ]; then
			last=$now
			since=$SECONDS
		fi
		[ $((SECONDS - since)) -lt 180 ] || die "nothing captured for three minutes, the last lines of the capture follow"
		if [ -z "$until_kills" ] && backfilled; then
			until_kills=$((kills + 3))
			echo "$now documents captured, killed $kills times, the backfill is done"
		else
			echo "$now documents captured, killed $kills times, $(bindings Active) of 4 tables are done"
		fi
	done
}

title "Build, and a throwaway PostgreSQL with pgbench's tables at scale $scale"
need_go
tests/postgres.sh check
say "building the connector, which takes minutes the first time"
CGO_ENABLED=0 go build -tags nozstd -buildvcs=false -o "$work/source-postgres" .
CGO_ENABLED=0 go build -tags nozstd -buildvcs=false -o "$work/replay" ./tests/replay
tests/postgres.sh start --name "$server" >"$work/env"
# shellcheck source=/dev/null
. "$work/env"
tests/postgres.sh exec --name "$server" pgbench --quiet -i -s "$scale" >"$work/pgbench.log" 2>&1 ||
	die "pgbench -i failed: $(tail -n 5 "$work/pgbench.log")"
# pgbench_history comes without a key. A scan of a keyless table overlaps with the stream: complete, but a row can
# appear twice. With a key its history is strict as the others' is, and can be checked to the row. With the full old
# row in each change the check is that it equals what the last document of its key left.
sql -c 'ALTER TABLE pgbench_history ADD id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY'
for table in accounts branches history tellers; do
	sql -c "ALTER TABLE pgbench_$table REPLICA IDENTITY FULL"
done
rows=$((scale * 100000 + scale * 10 + scale))
echo "$rows rows in pgbench_accounts, pgbench_tellers and pgbench_branches"
# Small chunks make a backfill that lasts long enough to be killed in.
chunk=$((scale < 50 ? scale * 1000 : 50000))
[ -z "$kill_every" ] || chunk=1000
cat >"$work/config.yaml" <<CONFIG
address: $TEST_DATABASE_ADDRESS
user: flow_capture
database: postgres
historyMode: false
credentials: {auth_type: UserPassword, password: secret1234}
advanced: {backfill_chunk_size: $chunk}
CONFIG
: >"$work/documents.jsonl"
: >"$work/preview.log"

if [ -n "$kill_every" ]; then many_kills; else two_kills; fi
: >"$work/enough"
while kill -0 "$load" 2>/dev/null; do
	sleep 2
	kill -0 "$capture" 2>/dev/null || die "the capture ended, its last lines follow"
	echo "$(captured) documents captured, pgbench has been writing for $((SECONDS - load_begin)) s"
done
wait "$load" || die "pgbench failed: $(tail -n 5 "$work/pgbench.log")"
load=
awk '/transactions actually/ {n += $NF} END {print n " transactions written"}' "$work/pgbench.log"

title "Drain what is left, and stop"
kill -TERM "$capture"
wait "$capture" || die "the capture did not stop cleanly, its last lines follow"
capture=
start_capture --exit-when-caught-up
while kill -0 "$capture" 2>/dev/null; do sleep 0.2; done
wait "$capture" || die "the capture failed, its last lines follow"
capture=
echo "$(captured) documents captured in all"

title "Check the history, replay the documents, compare with the tables"
"$work/replay" --strict --tables "$tables" --output "$work/documents.jsonl" \
	--database "$(tests/postgres.sh url --name "$server")"

title "The same on one's own data: source-postgres verify"
"$work/source-postgres" verify --strict --config "$work/config.yaml" --tables 'public.pgbench_*' --documents "$work/documents.jsonl"
finished=yes
bold "The history is strict and the replayed documents equal the tables. Took $SECONDS s."
