#!/usr/bin/env bash
# tests/test.sh is `make test`: every Go test, on the server that TEST_DATABASE_ADDRESS names, else on a throwaway one. While
# it runs it tells how far it is; at the end it shows all of what failed, what was skipped and why, and what took longest.
#
# By environment:
#   TAGS           build tags (nozstd)
#   GO_TEST_FLAGS  more flags for go test, such as "-run 'TestA|TestB'" or -v, which shows the output of each test
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."
# shellcheck source=tests/lib.sh
. tests/lib.sh

need_go
[ -n "${TEST_DATABASE_ADDRESS:-}" ] || exec tests/postgres.sh run --name "test-$$" -- tests/test.sh
export TEST_DATABASE=yes
flags=()
eval "flags=(${GO_TEST_FLAGS:-})" # as a shell reads them, quotes included
# A busy machine may take several times as long as an idle one; a test that hangs ends by its own deadline. Tests wait more than
# they compute: twice as many as there are processors run at a time, of those that may.
command=(go test -tags "${TAGS:-nozstd}" -timeout 60m -count=1 -parallel "$((2 * $(getconf _NPROCESSORS_ONLN)))" ${flags[@]+"${flags[@]}"} ./...)
say "${command[*]}"
GOTMPDIR=$(mktemp -d) # a build that is interrupted leaves its folder
export GOTMPDIR
trap 'rm -rf "$GOTMPDIR"; tests/postgres.sh sweep' EXIT
trap 'exit 130' INT TERM HUP
case " ${flags[*]-} " in
*' -v '* | *' -json '*) "${command[@]}" ;;
*) "${command[@]}" -json 2>&1 | go run ./tests/progress ;;
esac
