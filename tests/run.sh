#!/usr/bin/env bash
# tests/run.sh is the integration test: the connector as it is shipped, from the outside. It builds the image,
# starts the database of docker-compose.yaml, captures a table, changes it, captures again from the state of the
# first time, and compares both outputs with tests/expected: on each version of the runtime, v1 and v2, with a slot of
# its own. The connector's own preview is the runtime, but for v1 `flowctl preview` is if flowctl is on the PATH.
# Without a Docker engine it says so and takes the local binary and a throwaway server. Usage: CONNECTOR=source-postgres VERSION=local tests/run.sh [--update]
#
# --update writes what was captured into tests/expected instead of comparing.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."
# shellcheck source=tests/lib.sh
. tests/lib.sh

connector=${CONNECTOR:-source-postgres}
version=${VERSION:-local}
image=ghcr.io/estuary/$connector:$version
project=source-postgres-run-$$
update=
case ${1:-} in
'') ;;
--update) update=yes ;;
*) die "unknown argument '$1': --update or nothing" ;;
esac
[ "$connector" = source-postgres ] || die "CONNECTOR=$connector: this repository has source-postgres alone"

work=$(mktemp -d)
database= # compose or throwaway, once it may have been started
cleanup() {
	trap '' INT TERM HUP
	case $database in
	compose) compose down -v --timeout 5 >/dev/null 2>&1 || say "docker compose -p $project down failed" ;;
	throwaway) tests/postgres.sh stop --name "$project" 2>/dev/null || true ;;
	esac
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

compose() { POSTGRES_PORT='' docker compose -p "$project" "$@"; }

sql() {
	case $database in
	compose) compose exec -T postgres psql -v ON_ERROR_STOP=1 -qU postgres postgres ;;
	throwaway) tests/postgres.sh psql --name "$project" -v ON_ERROR_STOP=1 -q ;;
	esac
}

# --- the connector: the image where an engine runs, else the binary
if docker_answers; then
	how=image
	if [ "$version" = local ]; then
		say "building $image"
		docker build -t "$image" -f Dockerfile . >"$work/build.log" 2>&1 || {
			tail -n 30 "$work/build.log" >&2
			die "docker build failed, its last lines are above"
		}
	fi
	[ "$(docker image inspect -f '{{index .Config.Labels "FLOW_RUNTIME_PROTOCOL"}}' "$image")" = capture ] ||
		die "$image lacks the label FLOW_RUNTIME_PROTOCOL=capture, without which the runtime refuses it"
else
	how=binary
	say "no Docker engine answers: testing the local binary instead of $image"
	CGO_ENABLED=0 go build -tags nozstd -buildvcs=false -o "$work/source-postgres" .
fi

# --- the database, and how the connector reaches it
if [ $how = image ] && docker compose version >/dev/null 2>&1; then
	database=compose
	network=${project}_default
	address=postgres:5432
	compose up -d --wait >"$work/compose.log" 2>&1 || {
		cat "$work/compose.log" >&2
		die "docker compose up failed, its output is above"
	}
else
	[ $how = binary ] || say "docker compose is missing: using tests/postgres.sh for the database"
	database=throwaway
	network=host
	tests/postgres.sh start --name "$project" >"$work/env"
	# shellcheck source=/dev/null
	. "$work/env"
	address=$TEST_DATABASE_ADDRESS
fi

# --- how a capture is run on a runtime: until all there is has been captured, documents to stdout, state kept

# config RUNTIME prints the endpoint config.
config() {
	cat <<CONFIG
address: $address
user: flow_capture
database: postgres
historyMode: false
credentials: {auth_type: UserPassword, password: secret1234}
advanced: {sslmode: disable, slotName: flow_slot_$1}
CONFIG
}

preview_capture() {
	local arguments=(preview --runtime "$1" --tables test.run_items --json --exit-when-caught-up)
	if [ $how = image ]; then
		docker run --rm --network "$network" --user "$(id -u):$(id -g)" -v "$work:/work" "$image" \
			"${arguments[@]}" --config "/work/$1.config.yaml" --state "/work/$1.state.json"
	else
		"$work/source-postgres" "${arguments[@]}" --config "$work/$1.config.yaml" --state "$work/$1.state.json"
	fi
}

# flowctl has no option that stops when there is no more to capture, so the connector gets the variable that
# makes it exit then. An image takes no variables from the outside: one is derived that has it.
flowctl_setup() {
	local endpoint
	if [ $how = image ]; then
		local derived=ghcr.io/estuary/source-postgres-polling:local
		printf 'FROM %s\nENV SHUTDOWN_AFTER_POLLING=yes\n' "$image" | docker build -q -t "$derived" - >/dev/null
		endpoint="connector: { image: \"$derived\", config: v1.config.yaml }"
	else
		endpoint="local: { command: [\"$work/source-postgres\"], protobuf: true, config: v1.config.yaml,
      env: { SHUTDOWN_AFTER_POLLING: \"yes\" } }"
	fi
	cat >"$work/flow.yaml" <<CATALOG
collections:
  acmeCo/test/run_items:
    key: [/id]
    schema:
      type: object
      properties: { id: { type: integer } }
      required: [id]
      reduce: { strategy: merge }
captures:
  acmeCo/source-postgres:
    interval: 1s
    endpoint:
      $endpoint
    bindings:
      - resource: { namespace: test, stream: run_items, mode: "" }
        target: acmeCo/test/run_items
CATALOG
	echo '{}' >"$work/v1.state.json"
}

flowctl_capture() {
	flowctl preview --source "$work/flow.yaml" --network "$network" --sessions=-1 --output-state \
		--initial-state "$(cat "$work/$1.state.json")" >"$work/flowctl.out" || return
	sed -n '$s/^\["connectorState",{"updated":\(.*\)}]$/\1/p' "$work/flowctl.out" >"$work/$1.state.json"
	[ -s "$work/$1.state.json" ] || die "flowctl preview did not end with the state"
	cat "$work/flowctl.out"
}

runtimes=(v1 v2)
for runtime in "${runtimes[@]}"; do config "$runtime" >"$work/$runtime.config.yaml"; done
v1=preview
if command -v flowctl >/dev/null; then
	v1=flowctl
	flowctl_setup
fi
say "capturing on v1 with $v1, on v2 with preview, connector: $how, database: $database"

# capture NAME runs a capture on each runtime and keeps what it printed as it is compared.
capture() {
	local runtime runner
	for runtime in "${runtimes[@]}"; do
		runner=preview
		[ "$runtime" = v2 ] || runner=$v1
		"${runner}_capture" "$runtime" >"$work/$1.out" 2>"$work/$1.log" || {
			tail -n 20 "$work/$1.log" >&2
			die "the $1 capture on $runtime failed, its last lines are above"
		}
		go run -tags nozstd ./tests/normalize <"$work/$1.out" >"$work/$1.$runtime.jsonl"
	done
}

sql <tests/run-setup.sql
capture backfill
sql <tests/run-changes.sql
capture changes

# --- compare
failed=0
for name in backfill changes; do
	[ -z "$update" ] || cp "$work/$name.v2.jsonl" "tests/expected/$name.jsonl"
	for runtime in "${runtimes[@]}"; do
		diff -u "tests/expected/$name.jsonl" "$work/$name.$runtime.jsonl" || {
			say "the $name capture on $runtime differs from tests/expected/$name.jsonl, as shown above"
			failed=1
		}
	done
done
[ $failed = 0 ] || exit 1
if [ -n "$update" ]; then
	say "tests/expected is updated"
else
	say "passed: both captures are as expected on both runtimes"
fi
