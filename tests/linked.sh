#!/usr/bin/env bash
# tests/linked.sh opens a capture as a runtime does that sends specs in the indirect form: by hand, in JSON lines, with bash and
# grep alone, so that it shares no code with the connector or with the runtime of the tests. Spec, Validate, Apply and Open
# are sent with a table of collections, with bindings that have an index into it, one or none, and with fields that no connector
# of today knows; what is answered is compared with what must be. go test runs it (flow_linked_test.go), and so can you:
#
#   CONNECTOR   the connector's binary
#   ADDRESS, DATABASE, CAPTURE_USER, CAPTURE_PASSWORD    the server, and the role that captures
#   SLOT, PUBLICATION, WATERMARKS                        names for the capture
#   SCHEMA      a schema with the tables one, two and three in the publication, with a column id that is their key and two rows each
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/lib.sh
. "$here/lib.sh"

: "${CONNECTOR:?}" "${ADDRESS:?}" "${DATABASE:?}" "${CAPTURE_USER:?}" "${CAPTURE_PASSWORD:?}" "${SLOT:?}" "${PUBLICATION:?}"
: "${WATERMARKS:?}" "${SCHEMA:?}"
export FLOW_RUNTIME_CODEC=json LOG_FORMAT=json LOG_LEVEL=debug
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# ask REQUEST... sends requests to a connector of their own; answers are in $work/out, logs in $work/log.
ask() {
	printf '%s\n' "$@" | "$CONNECTOR" >"$work/out" 2>"$work/log"
}

fail() {
	printf '%s\n' '-- answers' "$(cat "$work/out")" '-- logs' "$(cat "$work/log")" >&2
	die "$1"
}

# wants FILE TEXT and lacks FILE TEXT look for a text, as it stands, in answers or logs.
wants() { grep -qF -- "$2" "$work/$1" || fail "$1: nothing has $2"; }
lacks() { ! grep -qF -- "$2" "$work/$1" || fail "$1: something has $2"; }

# --- what is sent. A collection is in the table only; the last two entries have one name.
later='"later":{"of":[1,2,{"it":null}]}'
config='{"address":"'$ADDRESS'","user":"'$CAPTURE_USER'","database":"'$DATABASE'","historyMode":false,
"credentials":{"auth_type":"UserPassword","password":"'$CAPTURE_PASSWORD'"},
"advanced":{"slotName":"'$SLOT'","publicationName":"'$PUBLICATION'","watermarksTable":"'$WATERMARKS'"}}'
config=${config//$'\n'/}
collection() { # NAME
	printf '{"name":"acme/%s","key":["/id"],"projections":[{"ptr":"/id","field":"id","isPrimaryKey":true,%s}],"writeSchema":{"type":"object"},%s}' \
		"$1" "$later" "$later"
}
table='"linkedCollections":['$(collection first),$(collection second),$(collection second)']'
resource() { printf '"resourceConfig":{"namespace":"%s","stream":"%s"}' "$SCHEMA" "$1"; } # TABLE
# bound TABLE [FIELD] is a binding of a capture spec; FIELD is its index, if it has one.
bound() {
	printf '{%s,"resourcePath":["%s","%s"],"stateKey":"%s%%2F%s",%s%s}' "$(resource "$1")" "$SCHEMA" "$1" "$SCHEMA" "$1" "$later" "${2:+,$2}"
}
# spec INDEX-OF-THREE INDEX-OF-INACTIVE. One and two write to the same collection; what stands inline does not count.
spec() {
	printf '{"name":"acme/capture","connectorType":"IMAGE","config":%s,%s,"createdAt":"2026-07-01","secrets":{"a":"b"},' "$config" "$table"
	printf '"bindings":[%s,%s,%s],' "$(bound one)" "$(bound two '"collectionIndex":0')" \
		"$(bound three "\"collectionIndex\":$1,\"collection\":{\"name\":\"acme/inline\",\"key\":[\"/nowhere\"]}")"
	printf '"inactiveBindings":[%s],"intervalSeconds":300,' "$(bound gone "\"collectionIndex\":$2")"
	printf '"shardTemplate":{"id":"capture/x","labels":{"labels":[{"name":"estuary.dev/flag/indirect-specs","value":"true"}]},%s},%s}' "$later" "$later"
}
validate() { # INDEX-OF-THREE
	printf '{"validate":{"name":"acme/capture","connectorType":"IMAGE","config":%s,%s,%s,"lastCapture":%s,"lastVersion":"1","bindings":[' \
		"$config" "$table" "$later" "$(spec 2 1)"
	printf '{%s,%s},{%s,"collectionIndex":0},{%s,"collectionIndex":%s}]},%s}' "$(resource one)" "$later" "$(resource two)" "$(resource three)" "$1" "$later"
}
apply() { # SPEC LAST-SPEC
	printf '{"apply":{"capture":%s,"version":"2","lastCapture":%s,"lastVersion":"1","state":{},%s}}' "$1" "$2" "$later"
}
open() { # SPEC
	printf '{"open":{"capture":%s,"version":"2","range":{"keyBegin":0,"keyEnd":4294967295,"rClockBegin":0,"rClockEnd":4294967295},"state":{},' "$1"
	printf '"sealedConfig":{"sops":{}},%s}}' "$later"
}

# --- what is asked and answered
ask '{"spec":{"connectorType":"IMAGE","config":{},'"$later"'}}' || fail "Spec failed"
wants out '"protocol":3032023'

ask "$(validate 2)" || fail "Validate failed"
for name in one two three; do wants out '"resourcePath":["'"$SCHEMA"'","'$name'"]'; done
lacks out inline

ask "$(apply "$(spec 2 1)" "$(spec 2 1)")" || fail "Apply failed"
wants out '{"applied":{'

# Each kind of field is named once, whatever the number of bindings.
for field in apply.later apply.capture.later apply.capture.bindings.later apply.capture.inactiveBindings.later apply.capture.secrets \
	apply.capture.shardTemplate.later; do
	wants log "$field"
done
[ "$(grep -o 'apply\.capture\.bindings\.later' "$work/log" | wc -l)" = 1 ] || fail "a field is named more than once"
lacks log linkedCollections
lacks log collectionIndex

# --- indexes out of range
for request in "$(validate 3)" "$(apply "$(spec 3 0)" "$(spec 2 1)")" "$(open "$(spec 3 0)")"; do
	ask "$request" && fail "an index out of range was accepted"
	wants log 'bindings[2]: collectionIndex is 3, and linkedCollections has 3 entries'
done
ask "$(open "$(spec 2 7)")" && fail "the index of an inactive binding out of range was accepted"
wants log 'inactiveBindings[0]: collectionIndex is 7, and linkedCollections has 3 entries'
ask "$(apply "$(spec 2 1)" "$(spec 9 1)")" && fail "the index of a binding of the last capture out of range was accepted"
wants log 'lastCapture: bindings[2]: collectionIndex is 9, and linkedCollections has 3 entries'

# --- the capture
coproc capture { exec "$CONNECTOR" 2>"$work/log"; }
from=${capture[0]} to=${capture[1]} pid=$capture_PID
: >"$work/out"
open "$(spec 2 1)" >&"$to"
printf '\n' >&"$to"
documents=0
while IFS= read -r -t 120 line <&"$from"; do
	printf '%s\n' "$line" >>"$work/out"
	case $line in
	'{"captured":'*) documents=$((documents + 1)) ;;
	'{"checkpoint":'*)
		printf '{"acknowledge":{"checkpoints":1}}\n' >&"$to"
		[ $documents -lt 6 ] || break
		;;
	esac
done
exec {to}>&-
cat <&"$from" >>"$work/out" || true
wait "$pid" || fail "the capture ended with status $?"
[ "$(head -n 1 "$work/out")" = '{"opened":{"explicitAcknowledgements":true}}' ] || fail "it did not open"
for binding in 0 1 2; do
	field='"binding":'$binding,
	[ $binding != 0 ] || field= # which JSON leaves out, or does not
	[ "$(grep -F '{"captured":{'"$field" "$work/out" | grep -cE '"doc":\{.*"id":[12][,}]')" -ge 2 ] || fail "documents of binding $binding are missing"
done
[ "$(grep -cF '{"captured":' "$work/out")" = 6 ] || fail "there are not six documents"
grep -F '{"checkpoint":' "$work/out" | grep -qF '"mode":"Active"' || fail "no checkpoint has an active binding"
grep -F '{"checkpoint":' "$work/out" | grep -qvF '"mergePatch":true' && fail "a checkpoint is no merge patch"
say "linked collections: all as it must be"
