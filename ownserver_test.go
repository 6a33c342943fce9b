package main

// ownserver_test.go gives tests that change settings, crash the server or hang its commits a server of their own, made by
// tests/postgres.sh and removed at the end of the test.

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// ownServer is a running server that only this test uses.
type ownServer struct {
	t    *testing.T
	name string
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
	s := &ownServer{t: t, name: fmt.Sprintf("own-%d-%d", os.Getpid(), testCount.Add(1))}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	listener.Close()
	args := []string{"start", "--name", s.name, "--port", port}
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
	t.Cleanup(func() {
		if out, err := exec.Command("tests/postgres.sh", "stop", "--name", s.name).CombinedOutput(); err != nil {
			t.Errorf("stop the server: %v: %s", err, out)
		}
	})
	for flag, value := range map[*string]string{
		testAddress: "127.0.0.1:" + port, testDatabase: "postgres", testControlUser: "postgres", testControlPassword: "postgres",
		testCaptureUser: "flow_capture", testCapturePassword: "secret1234",
	} {
		old := *flag
		*flag = value
		t.Cleanup(func() { *flag = old })
	}
	return s
}

// crash ends the server at once and starts it again. db gets another connection.
func (s *ownServer) crash(db *testDB) {
	s.t.Helper()
	if out, err := exec.Command("tests/postgres.sh", "crash", "--name", s.name).CombinedOutput(); err != nil {
		s.t.Fatalf("crash the server: %v: %s", err, out)
	}
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

// eventually waits until a condition holds, a minute at most.
func (db *testDB) eventually(what string, condition func() bool) {
	db.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			db.Fatalf("waited a minute for %s", what)
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
