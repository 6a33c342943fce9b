# shellcheck shell=bash
# tests/lib.sh is what the scripts here share: messages, and the machine's missing packages.
# Sourced, never run. Messages go to stderr, so that a script's stdout stays for its result.

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
	say "$*"
	exit 1
}

# need_go ends the script where there is no Go.
need_go() { command -v go >/dev/null || die "Go is missing: install Go 1.26 and put it on the PATH"; }

# limit SECONDS COMMAND... runs the command, for at most that long where the machine can tell.
limit() {
	if command -v timeout >/dev/null; then
		timeout "$@"
	else
		shift
		"$@"
	fi
}

# apt_can WHY PACKAGE... ends the script where apt_install could not do its part, and says who should.
apt_can() {
	local why=$1
	shift
	command -v apt-get >/dev/null || die "$why: please install the equivalent of Debian's $*"
	[ "$(id -u)" = 0 ] || die "$why: run 'sudo apt-get install $*', or run this as root"
}

# apt_install WHY PACKAGE... installs Debian packages, or says who should.
apt_install() {
	apt_can "$@"
	local why=$1
	shift
	say "$why: installing $*"
	local log
	log=$(mktemp)
	if ! {
		apt-get update &&
			DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
	} >"$log" 2>&1 </dev/null; then
		tail -n 20 "$log" >&2
		rm -f "$log"
		die "$why: apt-get install $* failed, its last lines are above"
	fi
	rm -f "$log"
}

# docker_answers tells whether a Docker engine can be used from here.
docker_answers() {
	command -v docker >/dev/null && limit 15 docker info >/dev/null 2>&1
}
