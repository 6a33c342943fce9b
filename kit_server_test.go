package main

// kit_server_test.go gives tests that change settings, crash the server, hang its commits or stop its processes a server of
// their own, made by tests/postgres.sh without Docker and removed at the end of the test.

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// ownServer is a running server that only this test uses.
type ownServer struct {
	t       *testing.T
	name    string
	address string
}

// startServer starts a server with the settings (name=value) and makes it the test server until the end of the test, so
// that such tests may not run in parallel. They are left out of -short runs, as they are out of those without a server.
func startServer(t *testing.T, settings ...string) *ownServer {
	t.Helper()
	if os.Getenv("TEST_DATABASE") != "yes" {
		t.Skip("needs a test server: set TEST_DATABASE=yes (and -db-address), or run make test")
	}
	if testing.Short() {
		t.Skip("starts a server of its own")
	}
	t.Setenv("SOURCE_POSTGRES_OWN_SERVER", "yes") // panics in a parallel test
	s := launchServer(t, []string{"start"}, settings)
	for flag, value := range map[*string]string{
		testAddress: s.address, testDatabase: "postgres", testControlUser: "postgres", testControlPassword: "postgres",
		testCaptureUser: "flow_capture", testCapturePassword: "secret1234",
	} {
		old := *flag
		*flag = value
		t.Cleanup(func() { *flag = old })
	}
	return s
}

// startServerOf is startServer with a server of the major version or a newer one: the one whose programs PGBIN names, one
// that is installed, or else that of npm. Where there is none the test is skipped.
func startServerOf(t *testing.T, major int, settings ...string) *ownServer {
	t.Helper()
	if os.Getenv("TEST_DATABASE") == "yes" && !testing.Short() { // else startServer skips
		t.Setenv("PGBIN", serverPrograms(t, major))
	}
	return startServer(t, settings...)
}

// newestMajor is what tests that need more than the default server run on, where nothing else is said.
const newestMajor = 18

// serverPrograms finds the folder with the programs of a server of the major version or a newer one.
func serverPrograms(t *testing.T, major int) string {
	t.Helper()
	fits := func(dir string) bool {
		out, err := exec.Command(dir+"/postgres", "--version").Output() // postgres (PostgreSQL) 16.4 (Debian …)
		if err != nil {
			return false
		}
		var found int
		if fields := strings.Fields(string(out)); len(fields) > 2 {
			_, _ = fmt.Sscan(strings.FieldsFunc(fields[2], func(r rune) bool { return r < '0' || r > '9' })[0], &found)
		}
		return found >= major
	}
	if given := os.Getenv("PGBIN"); given != "" { // as make test-matrix gives it: no other version is meant
		if !fits(given) {
			t.Skipf("needs PostgreSQL %d, and PGBIN is of an older version", major)
		}
		return given
	}
	installed, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	for _, dir := range slices.Backward(installed) {
		if fits(dir) {
			return dir
		}
	}
	command := exec.Command("tests/matrix.sh", "bin", strconv.Itoa(newestMajor))
	var why bytes.Buffer
	command.Stderr = &why
	out, err := command.Output()
	if err != nil {
		t.Skipf("needs PostgreSQL %d, which is not installed, and npm has none for here: %s", major, &why)
	}
	return strings.TrimSpace(string(out))
}

// launchServer has tests/postgres.sh start a server, stopped at the end of the test.
func launchServer(t *testing.T, how, settings []string) *ownServer {
	t.Helper()
	// By the number of our process tests/postgres.sh sweep knows whether the server is still wanted.
	s := &ownServer{t: t, name: fmt.Sprintf("own-%d-%d", os.Getpid(), testCount.Add(1))}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = listener.Addr().String()
	_, port, _ := net.SplitHostPort(s.address)
	listener.Close()
	args := append(slices.Clone(how), "--name", s.name, "--port", port)
	if how[0] == "start" {
		args = append(args, "--backend", "local") // what it is for cannot be done to a container
	}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	command := exec.Command("tests/postgres.sh", args...)
	out, err := command.CombinedOutput()
	if err != nil {
		if os.Getuid() != 0 && regexp.MustCompile(`sudo apt-get|equivalent of Debian`).Match(out) {
			t.Skipf("no server of its own can be started here: %s", out)
		}
		t.Fatalf("start a server: %v: %s", err, out)
	}
	t.Cleanup(func() { s.script("stop") })
	return s
}

// script runs a command of tests/postgres.sh on the server.
func (s *ownServer) script(command string) {
	s.t.Helper()
	if out, err := exec.Command("tests/postgres.sh", command, "--name", s.name).CombinedOutput(); err != nil {
		s.t.Fatalf("%s the server: %v: %s", command, err, out)
	}
}

// freeze stops the walsender of the test's slot with SIGSTOP while it waits, as one does that has nothing to send: stopped amid
// its work it looks like one that works. thaw lets it go on, at the end of the test at the latest. It signals nothing but a child of
// this server's postmaster: where that cannot be told, the test is skipped.
func (s *ownServer) freeze(db *testDB) (thaw func()) {
	s.t.Helper()
	sender, err := strconv.Atoi(db.queryValue("SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1", db.slot))
	if err != nil {
		s.t.Fatal(err)
	}
	directory := db.queryValue("SELECT setting FROM pg_settings WHERE name = 'data_directory'")
	ours := func() error {
		pidFile, err := os.ReadFile(filepath.Join(directory, "postmaster.pid"))
		if err != nil {
			return err
		}
		postmaster, _, _ := strings.Cut(string(pidFile), "\n")
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", sender))
		if err != nil {
			return err
		}
		if !strings.Contains(string(status), "\nPPid:\t"+postmaster+"\n") {
			return fmt.Errorf("process %d is no child of the server's, %s", sender, postmaster)
		}
		return nil
	}
	if err := ours(); err != nil {
		s.t.Skipf("stops a process of a server on this machine, and cannot tell that it is one: %v", err)
	}
	thaw = func() {
		if ours() == nil {
			_ = syscall.Kill(sender, syscall.SIGCONT)
		}
	}
	s.t.Cleanup(thaw)
	db.eventually("the sender to be stopped while it waits", func() bool {
		if err := syscall.Kill(sender, syscall.SIGSTOP); err != nil {
			s.t.Fatal(err)
		}
		db.eventually("the sender to be stopped", func() bool {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", sender))
			return err != nil || strings.Contains(string(status), "\nState:\tT")
		})
		if kind := db.queryValue("SELECT coalesce(wait_event_type, '') FROM pg_stat_activity WHERE pid = $1", sender); kind == "Activity" || kind == "Client" {
			return true
		}
		thaw()
		return false
	})
	return thaw
}

// standby starts a streaming standby of the server.
func (s *ownServer) standby(settings ...string) *ownServer {
	s.t.Helper()
	return launchServer(s.t, []string{"standby", "--of", s.name}, settings)
}

// copy starts a copy of the server, which is halted, and as it was then: with the same system identifier.
func (s *ownServer) copy(settings ...string) *ownServer {
	s.t.Helper()
	return launchServer(s.t, []string{"copy", "--of", s.name}, settings)
}

// moveTo has the test work on another server from here on; captures that are configured later read that one.
func (db *testDB) moveTo(s *ownServer) {
	db.Helper()
	*testAddress = s.address // startServer puts it back
	config := db.control.Config().Copy()
	host, port, _ := net.SplitHostPort(s.address)
	number, _ := strconv.ParseUint(port, 10, 16)
	config.Host, config.Port, config.TLSConfig, config.Fallbacks = host, uint16(number), nil, nil
	control, err := pgx.ConnectConfig(db.ctx, config)
	if err != nil {
		db.Fatal(err)
	}
	db.control = control
}

// crash ends the server at once and starts it again. db gets another connection.
func (s *ownServer) crash(db *testDB) {
	s.t.Helper()
	s.script("crash")
	control, err := pgx.ConnectConfig(db.ctx, db.control.Config())
	if err != nil {
		s.t.Fatal(err)
	}
	db.control = control
}

// set changes a setting of the running server; "" resets it.
func (s *ownServer) set(db *testDB, name, value string) {
	s.t.Helper()
	if value == "" {
		db.exec("ALTER SYSTEM RESET " + name)
	} else {
		db.exec(fmt.Sprintf("ALTER SYSTEM SET %s = %s", name, quoteLiteral(value)))
	}
	db.exec("SELECT pg_reload_conf()")
	db.eventually(name+" to be in force", func() bool {
		return db.queryValue("SELECT count(*) FROM pg_settings WHERE name = $1 AND (setting = $2 OR $2 = '')", name, value) == "1"
	})
}

// eventually waits until a condition holds.
func (db *testDB) eventually(what string, condition func() bool) {
	db.Helper()
	for deadline := time.Now().Add(waitLimit); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			db.Fatalf("waited %s for %s", waitLimit, what)
		}
	}
}

// hungCommit is a transaction whose commit is in the WAL and waits for a synchronous standby: streamed, but invisible.
type hungCommit struct {
	conn *pgx.Conn
	pid  uint32
	done chan error
}

// hang runs statements in one transaction whose commit hangs. REQUIRES: synchronous_standby_names names nobody there is.
func (db *testDB) hang(sql string) *hungCommit {
	db.Helper()
	conn := testConnect(db.TB, *testControlUser, *testControlPassword)
	h := &hungCommit{conn: conn, pid: conn.PgConn().PID(), done: make(chan error, 1)}
	go func() {
		_, err := conn.PgConn().Exec(db.ctx, "SET synchronous_commit = on; BEGIN; "+sql+"; COMMIT").ReadAll()
		h.done <- err
	}()
	db.eventually("a commit to hang: "+sql, func() bool {
		return db.queryValue("SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'SyncRep'", int(h.pid)) == "1"
	})
	return h
}

// release lets the commit return.
func (db *testDB) release(hung ...*hungCommit) {
	db.Helper()
	for _, h := range hung {
		db.exec("SELECT pg_cancel_backend($1)", int(h.pid))
		if err := <-h.done; err != nil {
			db.Fatalf("a hung commit: %v", err)
		}
	}
}
