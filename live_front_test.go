package main

// live_front_test.go puts things between the capture and the server: a connection pooler, and an address that leads now to one
// server and now to another.
//
// Goal: validation refuses both with the reason, and a running capture never mixes what two servers say. Method: a real
// PgBouncer in transaction mode, where one is installed; a forwarder of the test's own between two servers.

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// startPgBouncer starts a pooler in front of the test server and returns its address.
func startPgBouncer(t *testing.T, settings string) string {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/pgbouncer"); err != nil {
			t.Skip("needs PgBouncer (Debian's package pgbouncer), which is not installed")
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	listener.Close()
	host, serverPort, _ := net.SplitHostPort(*testAddress)
	dir := t.TempDir()
	users := filepath.Join(dir, "users")
	config := filepath.Join(dir, "pgbouncer.ini")
	for name, text := range map[string]string{
		users: fmt.Sprintf("%q %q\n", *testCaptureUser, *testCapturePassword),
		config: fmt.Sprintf("[databases]\n* = host=%s port=%s\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %s\n"+
			"unix_socket_dir =\nauth_type = trust\nauth_file = %s\npool_mode = transaction\n%s\n", host, serverPort, port, users, settings),
	} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{config}
	if os.Getuid() == 0 { // as which it will not run
		for at := dir; at != "/" && at != os.TempDir(); at = filepath.Dir(at) {
			if err := os.Chmod(at, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		args = append(args, "-u", "nobody")
	}
	cmd := exec.Command(program, args...)
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("pgbouncer: %s", log.String())
		}
	})
	for deadline := time.Now().Add(waitLimit); ; time.Sleep(50 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return address
		}
		if time.Now().After(deadline) {
			t.Fatalf("pgbouncer does not listen: %v", err)
		}
	}
}

// through is the test's configuration with another address, and one connection for each attempt.
func (db *testDB) through(address string) json.RawMessage {
	db.Helper()
	return edit(db.TB, db.config(), map[string]any{"address": address, "advanced.sslmode": "disable"})
}

// refusedAt validates a capture through the address, which must fail with a message that holds the texts.
func (db *testDB) refusedAt(address string, table tableName, texts ...string) {
	db.Helper()
	r := newTestRuntime(db.TB, runtimeOptions{config: db.through(address)})
	_, err := r.driver.validate(db.ctx, []runtimeBinding{faultBinding(table)}, nil)
	for _, text := range texts {
		if err == nil || !strings.Contains(err.Error(), text) {
			db.Errorf("validation ended with %v, want %q", err, text)
		}
	}
}

// TestPooler: PgBouncer as it is, told to swallow the settings of sessions, and told to swallow the wish for replication, too.
func TestPooler(t *testing.T) {
	db := newTestDB(t)
	table := db.edgeTable("t", "int PRIMARY KEY", 1)
	var swallowed []string
	for name := range db.connect(nil).sessionParams() {
		if name != "application_name" {
			swallowed = append(swallowed, name)
		}
	}
	swallow := "ignore_startup_parameters = statement_timeout,max_parallel_workers_per_gather,jit," + strings.Join(swallowed, ",")
	for _, test := range []struct {
		name, settings string
		want           []string
	}{
		{"plain", "", []string{"unsupported startup parameter", "This comes from a connection pooler"}},
		{"swallowed settings", swallow, []string{"this looks like a connection pooler"}},
		{"swallowed replication", swallow + ",replication", []string{"this looks like a connection pooler"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			front := *db
			front.TB = t
			front.refusedAt(startPgBouncer(t, test.settings), table, test.want...)
		})
	}
	t.Run("role with the settings", func(t *testing.T) { // so that the sessions look right
		role := *testCaptureUser
		params := db.connect(nil).sessionParams()
		for _, name := range checkedSettings {
			value := quoteLiteral(params[name])
			if name == "search_path" || name == "DateStyle" {
				value = params[name]
			}
			db.exec(fmt.Sprintf("ALTER ROLE %s IN DATABASE %s SET %s = %s", quoteIdent(role), quoteIdent(*testDatabase), name, value))
		}
		defer db.exec(fmt.Sprintf("ALTER ROLE %s IN DATABASE %s RESET ALL", quoteIdent(role), quoteIdent(*testDatabase)))
		front := *db
		front.TB = t
		front.refusedAt(startPgBouncer(t, swallow+",replication"), table,
			"a replication connection does not know the replication protocol", "this looks like a connection pooler")
	})
}

// TestTwoServers: an address that leads to two servers in turn is refused, by validation and by a capture that ran before.
func TestTwoServers(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a server of its own")
	}
	db := newTestDB(t)
	r, table := db.stopped(runtimeOptions{})
	second := launchServer(t, []string{"start"}, nil)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	targets := []string{*testAddress, second.address}
	go func() {
		for i := 0; ; i++ {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", targets[i%2])
			if err != nil {
				client.Close()
				continue
			}
			go func() { _, _ = io.Copy(server, client); server.Close() }()
			go func() { _, _ = io.Copy(client, server); client.Close() }()
		}
	}()
	const want = "more than one server is behind the address"
	db.refusedAt(listener.Addr().String(), table, want)
	r.reconfigure(db.through(listener.Addr().String()))
	r.refused(want)
}
