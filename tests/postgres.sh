#!/usr/bin/env bash
# tests/postgres.sh owns throwaway PostgreSQL servers for tests and demos: logical decoding on,
# durability off, prepared by init-user-db.sh, reachable on 127.0.0.1 only.
#
# A server is known by its name. Everything it has lies in .test-postgres/NAME here and, for a
# server without Docker, in one folder under TMPDIR. Invariant: what .test-postgres/NAME says
# suffices for 'stop', whatever became of the process that started the server.
# shellcheck disable=SC2015 # a && b || c is meant as it works here: c is for a failure of either
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/lib.sh
. "$here/lib.sh"
root=$(dirname "$here")
states=$root/.test-postgres

usage() {
	cat <<'USAGE'
usage: tests/postgres.sh start [OPTION]...            start a server, print shell exports that lead to it
       tests/postgres.sh check [OPTION]...            say whether start could do its part on this machine
       tests/postgres.sh run [OPTION]... -- COMMAND   start one, run COMMAND with the exports, stop it
       tests/postgres.sh env|url|status [--name NAME] print exports, superuser URL, what runs
       tests/postgres.sh psql [--name NAME] [ARG]...  psql as superuser
       tests/postgres.sh exec [--name NAME] PROGRAM [ARG]...  another client, such as pgbench, as superuser
       tests/postgres.sh crash [--name NAME]          end it as a power cut would, then start it again (give start
                                                      a --port: else a container comes back on another)
       tests/postgres.sh standby --of PRIMARY [OPTION]...  start a streaming standby of a running server
       tests/postgres.sh copy --of NAME [OPTION]...   start a copy of a halted server: the same system identifier
       tests/postgres.sh halt [--name NAME]           end it as a power cut would, keep its data
       tests/postgres.sh shutdown [--name NAME]       end it as an administrator does (pg_ctl -m fast), keep its data
       tests/postgres.sh resume [--name NAME]         start a halted one again
       tests/postgres.sh promote [--name NAME]        make a primary of a standby
       tests/postgres.sh stop [--name NAME | --all]   stop and remove; fine if nothing runs
       tests/postgres.sh sweep                        stop those of tests that were interrupted

options of start, check and run:
  --name NAME      name of the server, to have several at once (default: default)
  --port PORT      port on 127.0.0.1 (default: a free one)
  --backend WHICH  docker, local (the server packages of this machine) or auto (default: docker if an
                   engine answers and has or gets the image, else local)
  --major N        major version (default: image postgres:16, or the newest version installed)
  -c NAME=VALUE    another server setting, repeatable
  --of NAME        the server that standby and copy take the data of; both are for servers without Docker

environment:
  PGBIN                 folder with initdb, pg_ctl and postgres; implies --backend local
  TEST_POSTGRES         default of --backend
  TEST_POSTGRES_MAJOR   default of --major
  TEST_POSTGRES_DIR     where the data of a local server goes (default: $TMPDIR or /tmp)
  POSTGRES_INITDB_ARGS  more arguments for initdb

example: eval "$(tests/postgres.sh start)"; go test ./...; tests/postgres.sh stop
USAGE
}

# settings that tests rely on: many captures at once, prepared transactions, fast and not durable
settings=(
	-c wal_level=logical
	-c max_wal_senders=50
	-c max_replication_slots=50
	-c max_connections=300
	-c max_prepared_transactions=10
	-c fsync=off
)

name=default
port=
backend=${TEST_POSTGRES:-auto}
major=${TEST_POSTGRES_MAJOR:-}
options=0 # how many options of start were given
all=0
of=
rest=()

parse() {
	while [ $# -gt 0 ]; do
		case $command in
		psql | exec)
			[ "$1" = --name ] || {
				rest=("$@") # all that the program itself shall see
				break
			}
			;;
		esac
		case $1 in
		--name | --port | --backend | --major | --of | -c)
			[ $# -ge 2 ] || die "$1 wants a value"
			case $1 in
			--name) name=$2 ;;
			--port) port=$2 ;;
			--backend) backend=$2 ;;
			--major) major=$2 ;;
			--of) of=$2 ;;
			-c) settings+=(-c "$2") ;;
			esac
			[ "$1" = --name ] || options=$((options + 1))
			shift 2
			;;
		--all) all=1 && shift ;;
		--)
			shift
			rest=("$@")
			break
			;;
		*) die "unknown argument '$1'; tests/postgres.sh --help tells the known ones" ;;
		esac
	done
	case $name in
	'' | .* | *[!A-Za-z0-9_.-]*) die "--name '$name': letters, digits, '_', '.' and '-' only" ;;
	esac
	case $port in
	*[!0-9]*) die "--port '$port' is no number" ;;
	esac
	case $backend in
	auto | docker | local) ;;
	*) die "--backend '$backend': docker, local or auto" ;;
	esac
	state=$states/$name
}

# --- what is known of a server: .test-postgres/NAME/server, shell assignments written by start

load() {
	at_backend='' at_port='' at_dir='' at_bin='' at_user='' at_container=''
	[ -f "$state/server" ] || return 1
	# shellcheck source=/dev/null
	. "$state/server"
}

save() {
	printf '%s=%q\n' at_backend "$at_backend" at_port "$at_port" at_dir "$at_dir" \
		at_bin "$at_bin" at_user "$at_user" at_container "$at_container" >"$state/server.new"
	mv "$state/server.new" "$state/server"
}

alive() {
	case $at_backend in
	docker) [ "$(docker inspect -f '{{.State.Running}}' "$at_container" 2>/dev/null)" = true ] ;;
	local) listens "$at_port" && as_server "$at_bin/pg_ctl" status -D "$at_dir/data" >/dev/null 2>&1 ;;
	*) false ;;
	esac
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

exports() {
	printf "export TEST_DATABASE=yes\nexport TEST_DATABASE_ADDRESS=127.0.0.1:%s\n" "$at_port"
}

url() { printf 'postgres://postgres:postgres@127.0.0.1:%s/postgres\n' "$at_port"; }

# as_server runs a command as the user who may run a server, which root may not, from a folder
# that this user can be in.
as_server() {
	if [ -n "$at_user" ]; then
		(cd / && exec runuser -u "$at_user" -- "$@")
	else
		(cd / && exec "$@")
	fi
}

# --- start

# start makes a server in one of three ways: start_docker, start_local or start_copy.
start() {
	if [ -n "$of" ]; then
		backend=copy
	elif ! { load && alive; }; then
		check
	fi
	mkdir -p "$states"
	if ! mkdir "$state" 2>/dev/null; then
		if load && alive; then
			[ "$options" = 0 ] || die "server '$name' already runs on port $at_port, so options cannot" \
				"take effect: 'tests/postgres.sh stop --name $name' first"
			say "server '$name' already runs on port $at_port"
			return
		fi
		[ -f "$state/server" ] || die "server '$name' is being started by another process;" \
			"if that is gone, 'tests/postgres.sh stop --name $name' clears up"
		say "server '$name' has died, making a new one"
		stop
		mkdir -p "$state"
	fi
	trap 'stop' EXIT
	trap 'exit 130' INT TERM HUP
	at_backend='' at_port='' at_dir='' at_bin='' at_user='' at_container=''
	case $backend in
	docker) start_docker ;;
	copy) start_copy ;;
	local) start_local ;;
	esac
	trap - EXIT INT TERM HUP
	say "server '$name' ($at_backend) is ready on 127.0.0.1:$at_port," \
		"superuser postgres/postgres, capture user flow_capture/secret1234"
}

# choose_backend settles what auto means here: docker or local.
choose_backend() {
	image=postgres:${major:-16}
	[ -z "${PGBIN:-}" ] || backend=local
	[ "$backend" = auto ] || return 0
	backend=local
	docker_answers || return 0
	if have_image; then
		backend=docker
	else
		say "the Docker engine has no image $image and cannot pull it: using this machine's PostgreSQL"
	fi
}

have_image() {
	docker image inspect "$image" >/dev/null 2>&1 && return
	say "pulling the image $image"
	limit 300 docker pull -q "$image" >/dev/null 2>&1
}

# check fails, and says why, where a start would fail for what this machine lacks. It leaves nothing behind but an image.
check() {
	choose_backend
	if [ "$backend" = docker ]; then
		need_image
	else
		find_bin || apt_can "$(no_server)" "$(server_package)"
	fi
}

need_image() {
	docker_answers || die "no Docker engine answers: start one, or use --backend local"
	have_image || die "the Docker engine has no image $image and cannot pull it"
}

start_docker() {
	need_image
	at_backend=docker
	at_container=source-postgres-test-$name-$$
	save
	docker run -d --name "$at_container" --shm-size 256m -p "127.0.0.1:$port:5432" \
		-e POSTGRES_PASSWORD=postgres -e POSTGRES_INITDB_ARGS="${POSTGRES_INITDB_ARGS:-}" \
		"$image" "${settings[@]}" >/dev/null ||
		die "docker run $image failed, the reason is above"
	# Only the real server listens on TCP, not the one that the image starts to initialise itself.
	local try
	for ((try = 0; ; try++)); do
		docker exec "$at_container" pg_isready -q -h 127.0.0.1 2>/dev/null && break
		if [ $try = 240 ] || ! alive; then
			docker logs --tail 20 "$at_container" >&2 || true
			die "container $at_container did not become ready, its last lines are above"
		fi
		sleep 0.5
	done
	at_port=$(docker port "$at_container" 5432/tcp | sed -n 's/^127\.0\.0\.1://p' | head -n 1)
	[ -n "$at_port" ] || die "container $at_container publishes no port on 127.0.0.1"
	save
	docker exec -i -e POSTGRES_USER=postgres -e POSTGRES_DB=postgres "$at_container" \
		bash -s <"$root/init-user-db.sh" >&2 || die "init-user-db.sh failed, the reason is above"
}

start_local() {
	find_bin || install_server
	# A server must not run as root, whatever it is for.
	if [ "$(id -u)" = 0 ]; then
		command -v runuser >/dev/null || die "runuser is missing: run this as another user than root"
		at_user=postgres
		id postgres >/dev/null 2>&1 || at_user=nobody
	fi
	at_backend=local
	make_dir
	printf 'postgres\n' >"$at_dir/password"
	if [ -n "$at_user" ]; then chown -R "$at_user" "$at_dir"; fi
	as_server test -w "$at_dir" || die "user $at_user cannot reach $at_dir: set TEST_POSTGRES_DIR to a folder it can"

	local locale=C
	if locale -a 2>/dev/null | grep -qi '^C\.utf-\?8$'; then locale=C.UTF-8; fi
	# shellcheck disable=SC2086 # the arguments are meant to be split
	as_server "$at_bin/initdb" -D "$at_dir/data" -U postgres --pwfile="$at_dir/password" \
		--auth=scram-sha-256 --encoding=UTF8 --locale=$locale --no-sync ${POSTGRES_INITDB_ARGS:-} \
		>"$state/initdb.log" 2>&1 || {
		tail -n 20 "$state/initdb.log" >&2
		die "initdb failed, its last lines are above"
	}

	launch_somewhere
	PATH=$at_bin:$PATH PGHOST=127.0.0.1 PGPORT=$at_port PGPASSWORD=postgres \
		POSTGRES_USER=postgres POSTGRES_DB=postgres \
		bash "$root/init-user-db.sh" >&2 || die "init-user-db.sh failed, the reason is above"
}

# start_copy takes over the data of another server. A standby's is copied while its primary works, as a low-level backup.
start_copy() {
	local from="$states/$of" source copied
	[ -f "$from/server" ] || die "--of '$of': no such server is known"
	# shellcheck source=/dev/null
	. "$from/server"
	[ "$at_backend" = local ] || die "--of '$of': it runs in Docker, and only the data of a server without it can be copied"
	source=$at_dir
	copied=${at_port}
	make_dir
	if [ "$command" = standby ]; then
		settings+=(-c hot_standby_feedback=on -c "primary_conninfo=host=127.0.0.1 port=$copied user=postgres \
password=postgres dbname=postgres application_name=$name")
		PGHOST=127.0.0.1 PGPORT=$copied PGUSER=postgres PGPASSWORD=postgres PGDATABASE=postgres \
			psql -qAtX -v ON_ERROR_STOP=1 >"$state/backup.log" 2>&1 <<-SQL || {
				SELECT pg_backup_start('$name', true) \g /dev/null
				\! cp -a '$source/data' '$at_dir/data' || touch '$state/failed'
				SELECT labelfile FROM pg_backup_stop(false) \g '$state/backup_label'
			SQL
			cat "$state/backup.log" >&2
			die "the backup of server '$of' failed, the reason is above"
		}
		[ ! -e "$state/failed" ] || die "the data of server '$of' could not be copied"
		rm -rf "$at_dir/data/postmaster.pid" "$at_dir/data/pg_replslot"
		mkdir "$at_dir/data/pg_replslot"
		cp "$state/backup_label" "$at_dir/data/"
		touch "$at_dir/data/standby.signal"
	else
		! alive || die "server '$of' runs: 'tests/postgres.sh halt --name $of' first"
		cp -a "$source/data" "$at_dir/data"
	fi
	rm -f "$at_dir/data/postmaster.pid"
	if [ -n "$at_user" ]; then chown -R "$at_user" "$at_dir"; fi
	chmod 700 "$at_dir/data" "$at_dir/data/pg_replslot"
	launch_somewhere
}

# make_dir makes the folder of a server without Docker, and remembers it.
make_dir() {
	at_dir=$(mktemp -d "${TEST_POSTGRES_DIR:-${TMPDIR:-/tmp}}/source-postgres-test.XXXXXXXX")
	save
}

# launch_somewhere launches the server on the port wanted, or on a free one.
launch_somewhere() {
	local try
	for try in 1 2 3 4 5; do
		at_port=${port:-$(free_port)}
		save
		launch && break
		if [ -z "$port" ] && [ "$try" != 5 ] && grep -q 'could not bind' "$at_dir/server.log"; then
			rm -f "$at_dir/server.log"
			continue # another process was quicker to take that port
		fi
		tail -n 20 "$at_dir/server.log" >&2 || true
		die "the server did not start on port $at_port, its last lines are above"
	done
}

# launch starts the server and waits until it accepts connections. Its settings go into a file,
# because pg_ctl hands its -o through a shell.
launch() {
	local i value
	{
		printf "listen_addresses = '127.0.0.1'\nport = %s\nunix_socket_directories = ''\n" "$at_port"
		for ((i = 1; i < ${#settings[@]}; i += 2)); do
			value=${settings[i]#*=}
			printf "%s = '%s'\n" "${settings[i]%%=*}" "${value//\'/\'\'}"
		done
	} >"$state/settings.conf"
	as_server tee "$at_dir/data/postgresql.auto.conf" <"$state/settings.conf" >/dev/null
	as_server "$at_bin/pg_ctl" start -w -t 60 -D "$at_dir/data" -l "$at_dir/server.log" >/dev/null 2>&1
}

# free_port prints a port nothing listens on, below the range that kernels give to clients.
free_port() {
	local try candidate
	for ((try = 0; try < 100; try++)); do
		candidate=$((15000 + (RANDOM * 32768 + RANDOM) % 15000))
		listens "$candidate" || {
			echo "$candidate"
			return
		}
	done
	die "no free port between 15000 and 30000"
}

# find_bin sets at_bin to a folder with a server of the wanted major version, or fails.
find_bin() {
	local candidate candidates=()
	if [ -n "${PGBIN:-}" ]; then
		[ -x "$PGBIN/initdb" ] && [ -x "$PGBIN/postgres" ] || die "PGBIN=$PGBIN has no initdb and postgres"
		at_bin=$PGBIN
		return
	fi
	for candidate in /usr/lib/postgresql/*/bin; do candidates+=("$candidate"); done
	if [ ${#candidates[@]} -gt 1 ]; then
		mapfile -t candidates < <(printf '%s\n' "${candidates[@]}" | sort -Vr)
	fi
	candidate=$(pg_config --bindir 2>/dev/null) && candidates+=("$candidate")
	candidate=$(command -v initdb) && candidates+=("$(dirname "$candidate")")
	for candidate in "${candidates[@]}"; do
		[ -x "$candidate/initdb" ] && [ -x "$candidate/postgres" ] && [ -x "$candidate/pg_ctl" ] || continue
		if [ -n "$major" ]; then
			case $("$candidate/postgres" --version) in
			*" $major."* | *" $major"[a-z]*) ;;
			*) continue ;;
			esac
		fi
		at_bin=$candidate
		return
	done
	return 1
}

no_server() { printf '%s' "no PostgreSQL server${major:+ $major} is installed and no Docker engine is used"; }

server_package() { printf '%s' "postgresql${major:+-$major}"; }

# install_server gets the distribution's server, without the cluster that its package would make
# and run on port 5432.
install_server() {
	local conf=/etc/postgresql-common/createcluster.d/source-postgres-tests.conf
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		mkdir -p "${conf%/*}"
		printf 'create_main_cluster = false\n' >"$conf"
	fi
	apt_install "$(no_server)" "$(server_package)"
	rm -f "$conf"
	find_bin || die "the distribution's postgresql package has no server where it is looked for"
}

# control runs pg_ctl on the server's data.
control() {
	[ "$at_backend" = local ] || die "server '$name' runs in Docker: only one without it can be halted, resumed or promoted"
	as_server "$at_bin/pg_ctl" "$@" -w -t 60 -D "$at_dir/data" -l "$at_dir/server.log" >/dev/null 2>&1 || {
		tail -n 20 "$at_dir/server.log" >&2
		die "pg_ctl $1 of server '$name' failed, the last lines of its log are above"
	}
}

# crash ends the server without a shutdown checkpoint and starts it on the same data and settings.
crash() {
	case $at_backend in
	docker)
		docker kill "$at_container" >/dev/null && docker start "$at_container" >/dev/null ||
			die "container $at_container cannot be started again"
		local try
		for ((try = 0; try < 240; try++)); do
			! docker exec "$at_container" pg_isready -q -h 127.0.0.1 2>/dev/null || return 0
			sleep 0.5
		done
		die "container $at_container did not become ready again"
		;;
	local)
		as_server "$at_bin/pg_ctl" restart -w -t 60 -m immediate -D "$at_dir/data" -l "$at_dir/server.log" \
			>/dev/null 2>&1 || die "the server did not start again, see $at_dir/server.log"
		;;
	esac
}

# --- stop

# stop ends the server and removes all it had. It may be called at any moment of a start.
stop() {
	[ -d "$state" ] || {
		say "no server '$name' is known"
		return
	}
	if load; then
		case $at_backend in
		docker)
			docker rm -f -v "$at_container" >/dev/null 2>&1 ||
				! docker inspect "$at_container" >/dev/null 2>&1 ||
				die "container $at_container cannot be removed"
			;;
		local) stop_local ;;
		esac
	fi
	rm -rf "$state"
	rmdir "$states" 2>/dev/null || true
	say "server '$name' is stopped and removed"
}

stop_local() {
	local pid
	case $at_dir in
	*/source-postgres-test.*) ;;
	*) die "$state/server names the folder '$at_dir', which is none of ours: remove both by hand" ;;
	esac
	# Immediate: the data is thrown away.
	if [ -f "$at_dir/data/postmaster.pid" ]; then
		pid=$(head -n 1 "$at_dir/data/postmaster.pid")
		if as_server "$at_bin/pg_ctl" status -D "$at_dir/data" >/dev/null 2>&1; then
			as_server "$at_bin/pg_ctl" stop -w -t 30 -m immediate -D "$at_dir/data" >/dev/null 2>&1 ||
				kill -KILL "$pid" 2>/dev/null || true
		fi
	fi
	rm -rf "$at_dir"
}

# sweep stops the servers of tests (own-PID-N, kit_server_test.go) whose process is gone: it was interrupted, or timed out.
sweep() {
	local pid try
	for state in "$states"/own-*/; do
		[ -d "$state" ] || continue
		state=${state%/}
		name=$(basename "$state")
		pid=${name#own-}
		pid=${pid%%-*}
		for ((try = 0; try < 20; try++)); do # it may be about to end
			! works "$pid" || {
				sleep 0.1
				continue
			}
			(stop) || true
			break
		done
	done
}

# works tells whether the process has not ended; one that nobody has asked for its status has.
works() {
	if [ -d /proc/self ]; then
		grep -qs '^State:[[:space:]]*[^ZX]' "/proc/$1/status"
	else
		kill -0 "$1" 2>/dev/null
	fi
}

# --- commands

# client runs a client program as superuser: the server's own, or else this machine's.
client() {
	local program=$1 tty=()
	shift
	if [ "$at_backend" = docker ] && docker exec "$at_container" "$program" --version >/dev/null 2>&1; then
		if [ -t 0 ]; then tty=(-t); fi
		docker exec -i ${tty[@]+"${tty[@]}"} -e PGUSER=postgres -e PGDATABASE=postgres \
			"$at_container" "$program" "$@"
		return
	fi
	[ -n "$at_bin" ] || find_bin || true
	[ ! -x "$at_bin/$program" ] || program=$at_bin/$program
	command -v "$program" >/dev/null || die "neither the server ($at_backend) nor this machine has $program"
	PGHOST=127.0.0.1 PGPORT=$at_port PGUSER=postgres PGPASSWORD=postgres PGDATABASE=postgres "$program" "$@"
}

need_server() {
	load && alive || die "server '$name' does not run: start it with 'tests/postgres.sh start --name $name'"
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
start | standby | copy)
	parse "$@"
	[ "$command" = start ] || [ -n "$of" ] || die "$command wants --of"
	start
	exports
	;;
check)
	parse "$@"
	check
	;;
halt)
	parse "$@"
	need_server
	control stop -m immediate
	;;
shutdown)
	parse "$@"
	need_server
	control stop -m fast
	;;
resume)
	parse "$@"
	load || die "server '$name' is not known"
	control start
	;;
promote)
	parse "$@"
	need_server
	control promote
	;;
run)
	parse "$@"
	[ ${#rest[@]} -gt 0 ] || die "run wants a command after --"
	[ ! -d "$state" ] || die "server '$name' exists already: 'tests/postgres.sh stop --name $name', or --name another"
	start
	trap 'stop' EXIT
	trap 'exit 130' INT TERM HUP
	export TEST_DATABASE=yes TEST_DATABASE_ADDRESS=127.0.0.1:$at_port
	status=0
	"${rest[@]}" || status=$?
	exit $status
	;;
env)
	parse "$@"
	need_server
	exports
	;;
url)
	parse "$@"
	need_server
	url
	;;
psql)
	parse "$@"
	need_server
	client psql ${rest[@]+"${rest[@]}"}
	;;
exec)
	parse "$@"
	need_server
	[ ${#rest[@]} -gt 0 ] || die "exec wants a program"
	client "${rest[@]}"
	;;
crash)
	parse "$@"
	need_server
	crash
	;;
status)
	parse "$@"
	[ -d "$states" ] || die "no server is known"
	for state in "$states"/*/; do
		name=$(basename "$state")
		if load && alive; then
			echo "$name: $at_backend, 127.0.0.1:$at_port, ${at_container:-$at_dir}"
		else
			echo "$name: not running"
		fi
	done
	;;
sweep)
	parse "$@"
	sweep
	;;
stop)
	parse "$@"
	if [ "$all" = 1 ]; then
		for state in "$states"/*/; do
			[ -d "$state" ] || continue
			state=${state%/}
			name=$(basename "$state")
			stop
		done
	else
		stop
	fi
	;;
-h | --help | help)
	usage
	;;
*)
	usage >&2
	exit 2
	;;
esac
