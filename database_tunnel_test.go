package main

// Goal: through an SSH server a capture is what it is without, whatever becomes of that server or the way to it; one SSH
// connection carries everything, nothing listens, and each failure is told as the tunnel's, with what mends it. Method: the
// distribution's sshd, with configurations of its own, killed, stopped and started again; and an SSH server of the library's,
// for what sshd does not do on demand. Faults of the link are kit_faultproxy_test.go's.

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/crypto/ssh"
)

// TestTunnel: backfill and changes through an SSH server, TLS to the database server inside, checked against its name.
func TestTunnel(t *testing.T) {
	startServer(t)
	db := newTestDB(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := db.serveTLS(key, "localhost")
	server := startSSHServer(t)
	_, port, _ := net.SplitHostPort(*testAddress)
	config := func(host string) json.RawMessage {
		return db.tunnelled(server.forwarding(""), map[string]any{"backfill_chunk_size": 20, "sslmode": "verify-full", "ssl_root_cert": root},
			func(config map[string]any) { config["address"] = host + ":" + port })
	}
	table := db.edgeTable("t", "int PRIMARY KEY", 300)
	wrong := newTestRuntime(t, runtimeOptions{config: config("127.0.0.1")})
	if _, err := wrong.driver.discover(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a certificate for another name than that in address: %v", err)
	}
	logins := server.logins()
	var pid atomic.Int64
	r := newTestRuntime(t, runtimeOptions{config: config("localhost")})
	r.driver.onStart = func(p int) { pid.Store(int64(p)) }
	r.bind(r.edgeBindings(map[tableName]backfillMode{table: modeAutomatic}))
	r.start()
	r.waitEnd(db, table)
	db.exec(fmt.Sprintf("UPDATE %[1]s SET v = v || '+' WHERE id %% 3 = 0; DELETE FROM %[1]s WHERE id %% 3 = 1", quoteTable(table)))
	r.waitEnd(db, table)
	if n := db.queryValue("SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'estuary_flow' AND ssl"); n < "2" {
		t.Errorf("%s of our connections use TLS", n)
	}
	if listening := listeners(t, int(pid.Load())); len(listening) > 0 {
		t.Errorf("the connector listens: %q", listening)
	}
	if n := server.logins() - logins; n != 4 { // discovery, validation, apply and the capture
		t.Errorf("%d SSH connections were made, want 4\n%s", n, server.out.String())
	}
	r.strict(table)
	r.checkRows(db, table)
	r.stop()
	if err := r.wait(); err != nil {
		t.Error(err)
	}
	if logs := r.stderr(); strings.Contains(logs, "PRIVATE KEY") || strings.Contains(logs, strings.Split(server.key, "\n")[2]) {
		t.Error("the logs hold the private key")
	}
}

// listeners are the sockets that a process listens with.
func listeners(t *testing.T, pid int) (listening []string) {
	t.Helper()
	ours := make(map[string]bool)
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(files) == 0 {
		t.Skipf("no files of process %d are to be seen: %v", pid, err)
	}
	for _, file := range files {
		if name, err := os.Readlink(file); err == nil {
			if inode, ok := strings.CutPrefix(name, "socket:["); ok {
				ours[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	for _, file := range []string{"tcp", "tcp6"} {
		lines, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, file))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(lines)) {
			if fields := strings.Fields(line); len(fields) > 9 && fields[3] == "0A" && ours[fields[9]] { // TCP_LISTEN
				listening = append(listening, line)
			}
		}
	}
	return listening
}

// TestTunnelServerRestarts: sshd is killed with all its connections, or stops answering, in a backfill and while streaming;
// when it is back the capture goes on.
func TestTunnelServerRestarts(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for time-outs")
	}
	for name, break_ := range map[string]func(*sshServer) (mend func()){
		"killed": func(s *sshServer) func() {
			s.kill()
			return s.start
		},
		"stopped": func(s *sshServer) func() {
			pids := s.processes()
			s.signal(syscall.SIGSTOP)
			return func() {
				for _, pid := range pids {
					_ = syscall.Kill(pid, syscall.SIGCONT)
				}
			}
		},
	} {
		for _, streaming := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/streaming=%v", name, streaming), func(t *testing.T) {
				t.Parallel()
				db := newTestDB(t)
				server := startSSHServer(t)
				table := db.edgeTable("t", "int PRIMARY KEY", 300)
				var once sync.Once
				struck := make(chan func(), 1)
				strike := func() { once.Do(func() { struck <- break_(server) }) }
				env := []string{testPatienceVariable + "=3s"}
				if *longTests {
					env = nil // the product's own limits
				}
				r := newTestRuntime(t, runtimeOptions{
					config: db.tunnelled(server.forwarding(""), map[string]any{"backfill_chunk_size": 20}, nil), env: env,
					onCheckpoint: func(r *testRuntime, _ json.RawMessage) {
						if !streaming && len(r.uncommitted)+len(r.committed) >= 100 {
							strike()
						}
					},
				})
				r.bind(r.edgeBindings(map[tableName]backfillMode{table: modeAutomatic}))
				r.start()
				if streaming {
					r.waitEnd(db, table)
					strike()
				}
				mend := <-struck
				began := time.Now()
				db.exec(fmt.Sprintf("UPDATE %[1]s SET v = v || '+' WHERE id %% 3 = 0; DELETE FROM %[1]s WHERE id %% 3 = 1", quoteTable(table)))
				r.waitLog("the SSH tunnel through ssh://" + server.user + "@" + server.address + ": the SSH connection was lost")
				if took := time.Since(began); took > allow(30*time.Second) {
					t.Errorf("it was noticed after %s", took)
				} else {
					t.Logf("it was noticed after %s", took)
				}
				if name == "killed" {
					r.waitFor("the failure of another attempt", func() bool {
						return r.ended || slices.ContainsFunc(r.logs, func(log connectorLog) bool { return strings.Contains(log.message, "cannot reach the SSH server") })
					})
				}
				mend()
				id := 1_000_000_000 + testCount.Add(1)
				db.exec(fmt.Sprintf("INSERT INTO %s VALUES (%d, 'the end')", quoteTable(table), id))
				for ended := true; ended; ended = r.resume() { // where documents follow the last checkpoint
					r.waitFor("the last document", func() bool {
						return r.ended || slices.ContainsFunc(r.committed, func(d testDocument) bool { return strings.Contains(d.doc, fmt.Sprintf(`"id":%d,`, id)) })
					})
				}
				r.strict(table)
				r.checkRows(db, table)
				r.stop()
				if err := r.wait(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestTunnelFailures: what may be wrong with a tunnel, each with the place, the reason and the remedy.
func TestTunnelFailures(t *testing.T) {
	t.Parallel()
	db := newTestDB(t)
	_, port, _ := net.SplitHostPort(*testAddress)
	server := startSSHServer(t)
	closed := freeAddress(t)
	ecdsaPinned := func() string {
		text, err := os.ReadFile(filepath.Join(server.dir, "ecdsa"))
		if err != nil {
			t.Fatal(err)
		}
		key, err := ssh.ParsePrivateKey(text)
		if err != nil {
			t.Fatal(err)
		}
		return ssh.FingerprintSHA256(key.PublicKey())
	}()
	ed25519Line := string(ssh.MarshalAuthorizedKey(server.host.PublicKey()))
	otherKey, otherHost := newEd25519(t), newEd25519(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	lineOf := func(key any) string {
		signer, err := ssh.NewSignerFromKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return string(ssh.MarshalAuthorizedKey(signer.PublicKey()))
	}
	where := "the SSH tunnel through ssh://" + server.user + "@" + server.address + ": "
	for _, test := range []struct {
		name    string
		lines   string // of sshd_config; "" for the server that all share
		options string // of the key, in authorized_keys
		forward map[string]any
		address string // of the database server
		want    []string
	}{
		{name: "as it should be"},
		{name: "pinned by a known_hosts line", forward: map[string]any{"hostKey": "bastion,10.0.0.1 " + ed25519Line}},
		{name: "pinned by what ssh-keygen -l prints", forward: map[string]any{"hostKey": "256 " + ecdsaPinned + " root@bastion (ECDSA)"}},
		{name: "not pinned", forward: map[string]any{"hostKey": nil}},
		{
			name: "host key", forward: map[string]any{"hostKey": lineOf(otherHost)},
			want: []string{where + "the SSH server shows the host key " + ssh.FingerprintSHA256(server.host.PublicKey()) + " (ssh-ed25519), and `hostKey` pins SHA256:", "If the server's keys were made anew, set"},
		},
		{
			name: "fingerprint", forward: map[string]any{"hostKey": "SHA256:" + strings.Repeat("A", 43)},
			want: []string{"shows the host key " + ssh.FingerprintSHA256(server.host.PublicKey()) + " (ssh-ed25519), and `hostKey` pins SHA256:AAAA"},
		},
		{
			name: "type of host key", forward: map[string]any{"hostKey": lineOf(rsaKey)},
			want: []string{"has no host key of the type of SHA256:", "ssh-keyscan"},
		},
		{
			name: "nobody listens", forward: map[string]any{"sshEndpoint": "ssh://me@" + closed},
			want: []string{"the SSH tunnel through ssh://me@" + closed + ": cannot reach the SSH server: ", "connection refused. Check host and port in `networkTunnel.sshForwarding.sshEndpoint`"},
		},
		{
			name: "no such host", forward: map[string]any{"sshEndpoint": "ssh://me@bastion.invalid"},
			want: []string{"the SSH tunnel through ssh://me@bastion.invalid:22: cannot reach the SSH server: ", "no such host"},
		},
		{
			name: "no SSH server", forward: map[string]any{"sshEndpoint": "ssh://me@" + *testAddress},
			want: []string{"the connection was closed during the handshake. Check that `networkTunnel.sshForwarding.sshEndpoint` is the address of an SSH server"},
		},
		{
			name: "key", forward: map[string]any{"privateKey": privatePEM(t, otherKey)},
			want: []string{where + "the SSH server refused user \"" + server.user + "\" with the key in `privateKey` (SHA256:", "(ssh-ed25519)", "has this line: " + strings.TrimSpace(lineOf(otherKey))},
		},
		{
			name: "user", forward: map[string]any{"sshEndpoint": "ssh://nobody-of-that-name@" + server.address},
			want: []string{`the SSH server refused user "nobody-of-that-name" with the key`, "Check the user in"},
		},
		{name: "no keys", lines: "PubkeyAuthentication no\nPasswordAuthentication yes", want: []string{"takes no keys for a login as user", "PubkeyAuthentication yes"}},
		{name: "no forwarding", lines: "AllowTcpForwarding no", want: []string{"does not let user \"" + server.user + "\" forward to " + *testAddress + " (open failed)", "set AllowTcpForwarding yes"}},
		{name: "remote forwarding only", lines: "AllowTcpForwarding remote", want: []string{"does not let user"}},
		{name: "other forwarding", lines: "PermitOpen 127.0.0.1:1", want: []string{"does not let user", "PermitOpen"}},
		{name: "restricted key", options: "restrict", want: []string{"does not let user", "`restrict`"}},
		{name: "other forwarding of the key", options: `permitopen="127.0.0.1:1"`, want: []string{"does not let user"}},
		{
			name: "database server away", address: closed,
			want: []string{where + "the SSH server cannot connect to " + closed + " (Connection refused). The SSH server was reached: check that host and port in `address`", "nc -vz 127.0.0.1 "},
		},
		{name: "database server unknown", address: "db.invalid:" + port, want: []string{"the SSH server cannot connect to db.invalid:" + port + " (", "as seen from there"}},
		{name: "not a database server", address: server.address, want: []string{"an SSH server, which is not a PostgreSQL server"}},
	} {
		t.Run(strings.ReplaceAll(test.name, " ", "-"), func(t *testing.T) {
			server := server
			if test.lines+test.options != "" {
				var lines []string
				if test.lines != "" {
					lines = append(lines, test.lines)
				}
				server = startSSHServer(t, lines...)
				if test.options != "" {
					key, err := ssh.ParseRawPrivateKey([]byte(server.key))
					if err != nil {
						t.Fatal(err)
					}
					server.authorize(key, test.options)
				}
			}
			tunnel := server.forwarding("")
			for name, value := range test.forward {
				tunnel["sshForwarding"].(map[string]any)[name] = value
			}
			logins := server.logins()
			config := db.tunnelled(tunnel, nil, func(config map[string]any) {
				if test.address != "" {
					config["address"] = test.address
				}
			})
			s, err := parseConfig(config)
			if err != nil {
				t.Fatal(err)
			}
			conn, err := connectDatabase(t.Context(), s)
			if err == nil {
				defer conn.close()
				if n := server.logins() - logins; n != 1 {
					t.Errorf("%d SSH connections", n)
				}
			}
			if (err == nil) != (test.want == nil) {
				t.Fatalf("%v, want %q\n%s", err, test.want, server.out.String())
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\nwant %s", err, want)
				}
			}
			if err != nil && strings.Contains(err.Error(), "; tried again in another way") {
				t.Errorf("an attempt that has nothing of its own to tell is told: %v", err)
			}
		})
	}
}

// TestTunnelCancels: a query whose context ends is ended on the server too, by a request through the tunnel.
func TestTunnelCancels(t *testing.T) {
	t.Parallel()
	db := newTestDB(t)
	server := startSSHServer(t)
	s, err := parseConfig(db.tunnelled(server.forwarding(""), nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := connectDatabase(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.close()
	mark := "cancelled" + db.suffix
	running := func() bool {
		return db.queryValue("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() AND query LIKE '%"+mark+"%'") == "1"
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- conn.with(ctx, func(conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, "SELECT pg_sleep(600) -- "+mark)
			return err
		})
	}()
	db.eventually("the query to run", running)
	cancel()
	if err := <-ended; err == nil {
		t.Error("the query was not ended")
	}
	db.eventually("the query to be ended on the server", func() bool { return !running() })
	if n := server.logins(); n != 1 {
		t.Errorf("%d SSH connections, want 1", n)
	}
}

// librarySSH is an SSH server of the library's, which forwards as open says.
func librarySSH(t *testing.T, open func(address string, channel ssh.NewChannel)) (s *sshSettings) {
	t.Helper()
	host, err := ssh.NewSignerFromKey(newEd25519(t))
	if err != nil {
		t.Fatal(err)
	}
	client, err := ssh.NewSignerFromKey(newEd25519(t))
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }}
	config.AddHostKey(host)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_, channels, requests, err := ssh.NewServerConn(conn, config)
				if err != nil {
					return
				}
				go ssh.DiscardRequests(requests)
				for channel := range channels {
					var to struct {
						Host   string
						Port   uint32
						Origin string
						From   uint32
					}
					if err := ssh.Unmarshal(channel.ExtraData(), &to); err != nil {
						t.Error(err)
					}
					go open(net.JoinHostPort(to.Host, fmt.Sprint(to.Port)), channel)
				}
			}()
		}
	}()
	address := listener.Addr().(*net.TCPAddr)
	return &sshSettings{
		user: "u", host: "127.0.0.1", port: uint16(address.Port), key: client,
		hostKeys: sshHostKeys{keys: []ssh.PublicKey{host.PublicKey()}},
	}
}

// echo returns what a channel brings.
func echo(channel ssh.NewChannel) {
	c, requests, err := channel.Accept()
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	_, _ = io.Copy(c, c)
	_ = c.Close()
}

// TestTunnelConn: a connection through a tunnel is a net.Conn as the driver wants it: deadlines, closing, addresses; and names
// go to the SSH server as they are.
func TestTunnelConn(t *testing.T) {
	asked := make(chan string, 10)
	tunnel := newTunnel(librarySSH(t, func(address string, channel ssh.NewChannel) {
		asked <- address
		echo(channel)
	}))
	defer tunnel.close()
	dial := func() net.Conn {
		t.Helper()
		conn, err := tunnel.dial(t.Context(), "tcp", "db.internal:5432")
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	conn := dial()
	if address := <-asked; address != "db.internal:5432" || conn.RemoteAddr().String() != address {
		t.Errorf("asked for %s, the connection's address is %s", address, conn.RemoteAddr())
	}
	if names, err := tunnel.lookup(t.Context(), "db.internal"); err != nil || !slices.Equal(names, []string{"db.internal"}) {
		t.Errorf("looked up as %q: %v", names, err)
	}

	sent := make([]byte, 5<<20) // more than a channel's window
	_, _ = rand.Read(sent)
	go func() { _, _ = conn.Write(sent) }()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(conn, got); err != nil || !slices.Equal(got, sent) {
		t.Errorf("not what was sent came back: %v", err)
	}

	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := conn.Read(got); !isTimeout(err) {
		t.Errorf("a read past its deadline: %v", err)
	}
	_ = conn.SetReadDeadline(time.Time{})
	blocked := make(chan error, 1)
	go func() {
		_, err := conn.Read(got)
		blocked <- err
	}()
	_ = conn.SetDeadline(time.Unix(1, 0))
	if err := <-blocked; !isTimeout(err) {
		t.Errorf("a read whose deadline was moved into the past: %v", err)
	}
	_ = conn.SetDeadline(time.Time{})
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Errorf("a write after deadlines: %v", err)
	}
	if _, err := io.ReadFull(conn, got[:1]); err != nil || got[0] != 'x' {
		t.Errorf("a read after deadlines: %q, %v", got[:1], err)
	}
	go func() {
		_, err := conn.Read(got)
		blocked <- err
	}()
	conn.Close()
	if err := <-blocked; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read of a connection that was closed: %v", err)
	}
	if _, err := conn.Write(nil); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write to a connection that was closed: %v", err)
	}
	second := dial()
	tunnel.attempt.link.lose(errors.New("for a test"))
	if _, err := second.Read(got); err == nil || !strings.HasSuffix(err.Error(), "the SSH connection was lost: for a test") || !transient(err) {
		t.Errorf("a read of a lost link: %v", err)
	}
	if _, err := second.Write(got[:1]); err == nil || !strings.Contains(err.Error(), "SSH") {
		t.Errorf("a write to a lost link: %v", err)
	}
	third := dial() // over a new link
	_, _ = third.Write([]byte("y"))
	if _, err := io.ReadFull(third, got[:1]); err != nil || got[0] != 'y' {
		t.Errorf("over the next link: %q, %v", got[:1], err)
	}
}

// TestTunnelSharesLink: many who dial at once share one SSH connection, and one failure.
func TestTunnelSharesLink(t *testing.T) {
	var opened atomic.Int64
	s := librarySSH(t, func(_ string, channel ssh.NewChannel) {
		opened.Add(1)
		echo(channel)
	})
	tunnel := newTunnel(s)
	defer tunnel.close()
	all := func(check func(net.Conn, error)) {
		var group sync.WaitGroup
		for range 20 {
			group.Go(func() { check(tunnel.dial(t.Context(), "tcp", "db:5432")) })
		}
		group.Wait()
	}
	links := make(map[*sshLink]bool)
	var mu sync.Mutex
	all(func(conn net.Conn, err error) {
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		links[conn.(*tunnelConn).link] = true
	})
	if len(links) != 1 || opened.Load() != 20 {
		t.Errorf("%d SSH connections carry %d", len(links), opened.Load())
	}
	s.hostKeys = sshHostKeys{fingerprints: []string{"SHA256:" + strings.Repeat("A", 43)}}
	tunnel.attempt.link.lose(errors.New("for a test"))
	failures := make(map[error]bool)
	all(func(_ net.Conn, err error) {
		mu.Lock()
		defer mu.Unlock()
		failures[err] = true
	})
	if len(failures) != 1 {
		t.Errorf("%d failures: %v", len(failures), failures)
	}
}

// TestTunnelSilence: a link that brings nothing is lost; one that only answers is not, and neither is one whose connections to the
// database server are not answered.
func TestTunnelSilence(t *testing.T) {
	limit := sshSilence
	sshSilence = 200 * time.Millisecond
	t.Cleanup(func() { sshSilence = limit })
	never := make(chan struct{})
	defer close(never)
	s := librarySSH(t, func(address string, channel ssh.NewChannel) {
		if address == "silent:1" {
			<-never
		}
		echo(channel)
	})
	proxy := startFaultProxyTo(t, net.JoinHostPort(s.host, fmt.Sprint(s.port)), true)
	_, port, _ := net.SplitHostPort(proxy.address())
	_, _ = fmt.Sscan(port, &s.port)
	tunnel := newTunnel(s)
	defer tunnel.close()
	conn, err := tunnel.dial(t.Context(), "tcp", "db:5432")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*sshSilence)
	defer cancel()
	if _, err := tunnel.dial(ctx, "tcp", "silent:1"); err == nil || !strings.Contains(err.Error(), "the SSH server has not got through to silent:1 in time") {
		t.Errorf("a server that does not answer: %v", err)
	}
	if conn.(*tunnelConn).link.isLost() {
		t.Fatal("a link that answers is lost")
	}
	proxy.each(-1, func(l *link) { l.swallow.Store(true) })
	if _, err := conn.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "nothing has come from it for") {
		t.Errorf("a read from a link that brings nothing: %v", err)
	}
}

// TestPrivateKeys: every form that OpenSSH writes, however it was pasted; and what is no such key.
func TestPrivateKeys(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edKey := newEd25519(t)
	block := func(kind string, der []byte, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	pkcs8 := func(key any) string {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		return block("PRIVATE KEY", der, err)
	}
	ecDER, err := x509.MarshalECPrivateKey(ecKey)
	forms := map[string]string{
		"OpenSSH, RSA": privatePEM(t, rsaKey), "OpenSSH, ECDSA": privatePEM(t, ecKey), "OpenSSH, Ed25519": privatePEM(t, edKey),
		"PKCS#1": block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey), nil), "PKCS#8, RSA": pkcs8(rsaKey),
		"PKCS#8, ECDSA": pkcs8(ecKey), "PKCS#8, Ed25519": pkcs8(edKey), "EC": block("EC PRIVATE KEY", ecDER, err),
		"EC with parameters": "-----BEGIN EC PARAMETERS-----\nBgUrgQQAIg==\n-----END EC PARAMETERS-----\n" + block("EC PRIVATE KEY", ecDER, err),
	}
	parse := func(text string) (ssh.Signer, string) {
		found := &faults{}
		key := parsePrivateKey(text, &object{found: found})
		return key, strings.Join(found.sentences, "; ")
	}
	for name, text := range forms {
		for how, pasted := range pastes(text) {
			if key, fault := parse(pasted); key == nil || fault != "" {
				t.Errorf("%s, %s: %s", name, how, fault)
			}
		}
	}
	sealed, err := ssh.MarshalPrivateKeyWithPassphrase(edKey, "", []byte("hush"))
	if err != nil {
		t.Fatal(err)
	}
	const passphrase = "is protected by a passphrase, which cannot be entered here"
	whole := forms["OpenSSH, Ed25519"]
	public, err := ssh.NewPublicKey(edKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string]struct{ text, want string }{
		"none":             {" \n", "is missing: paste the whole text"},
		"OpenSSH, sealed":  {string(pem.EncodeToMemory(sealed)), passphrase},
		"PKCS#8, sealed":   {block("ENCRYPTED PRIVATE KEY", []byte("x"), nil), passphrase},
		"PKCS#1, sealed":   {"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00112233445566778899AABBCCDDEEFF\n\nAAAA\n-----END RSA PRIVATE KEY-----\n", passphrase},
		"PuTTY":            {"PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n", "is in PuTTY's format: convert it"},
		"public":           {string(ssh.MarshalAuthorizedKey(public)), "is a public key"},
		"public, PEM":      {"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "is a public key"},
		"cut short":        {whole[:len(whole)-40], "is cut short, or damaged"},
		"damaged":          {strings.Replace(whole, "b3BlbnNzaC1rZXk", "c3BlbnNzaC1rZXk", 1), "cannot be read as the OPENSSH PRIVATE KEY that its first line says it is"},
		"something else":   {"hunter2", "is no private key"},
		"DSA":              {block("DSA PRIVATE KEY", []byte("x"), nil), "cannot be read as the DSA PRIVATE KEY"},
		"a path":           {"/home/me/.ssh/id_rsa", "is no private key"},
		"with \\n, sealed": {strings.ReplaceAll(string(pem.EncodeToMemory(sealed)), "\n", `\n`), passphrase},
	}
	for name, test := range bad {
		key, fault := parse(test.text)
		if key != nil || !strings.Contains(fault, "networkTunnel.sshForwarding.privateKey "+test.want) {
			t.Errorf("%s: %q, want %q", name, fault, test.want)
		}
		if strings.Contains(fault, "AAAA") || strings.Contains(fault, "hunter2") || strings.Contains(fault, "3BlbnNzaC") {
			t.Errorf("%s: the fault shows what was pasted: %s", name, fault)
		}
	}
}

// pastes are the ways in which PEM text reaches a form.
func pastes(text string) map[string]string {
	return map[string]string{
		"whole":              text,
		"without line end":   strings.TrimSpace(text),
		"CRLF":               strings.ReplaceAll(text, "\n", "\r\n"),
		"indented":           "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n\t  ") + "\n",
		"\\n":                strings.ReplaceAll(text, "\n", `\n`),
		"\\n in quotes":      `"` + strings.ReplaceAll(text, "\n", `\n`) + `"`,
		"\\r\\n":             strings.ReplaceAll(text, "\n", `\r\n`),
		"blanks":             strings.ReplaceAll(text, "\n", " "),
		"nothing":            strings.ReplaceAll(text, "\n", ""),
		"empty lines":        strings.ReplaceAll(text, "\n", "\n\n"),
		"blanks at the ends": strings.ReplaceAll(text, "\n", " \t\n"),
		"byte order mark":    "\ufeff" + text,
		"with words":         "Here it is:\n" + text + "\nBye",
	}
}

// TestKeysOfSSHKeygen: the forms that ssh-keygen itself writes.
func TestKeysOfSSHKeygen(t *testing.T) {
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		t.Skip("needs ssh-keygen, which is not installed (Debian: openssh-client)")
	}
	for _, kind := range []string{"rsa", "ecdsa", "ed25519"} {
		for _, form := range []string{"RFC4716", "PKCS8", "PEM"} {
			for _, passphrase := range []string{"", "hush hush"} {
				file := filepath.Join(t.TempDir(), "key")
				if out, err := exec.Command("ssh-keygen", "-q", "-t", kind, "-m", form, "-N", passphrase, "-f", file).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				found := &faults{}
				key := parsePrivateKey(string(text), &object{found: found})
				fault := strings.Join(found.sentences, "; ")
				if passphrase == "" && key == nil || passphrase != "" && !strings.Contains(fault, "is protected by a passphrase") {
					t.Errorf("%s, %s, passphrase %q: %s", kind, form, passphrase, fault)
				}
			}
		}
	}
}

// TestHostKeyTexts: what hostKey may be.
func TestHostKeyTexts(t *testing.T) {
	signer, err := ssh.NewSignerFromKey(newEd25519(t))
	if err != nil {
		t.Fatal(err)
	}
	key := signer.PublicKey()
	line, fingerprint := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), ssh.FingerprintSHA256(key)
	for name, text := range map[string]string{
		"authorized_keys": line, "with a comment": line + " root@bastion", "known_hosts": "bastion " + line, "names": "bastion,10.0.0.1 " + line,
		"port": "[bastion]:2222 " + line, "hashed": "|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg= " + line,
		"ssh-keyscan": "# bastion:22 SSH-2.0-OpenSSH_9.2\nbastion " + line + "\n# bastion:22 SSH-2.0-OpenSSH_9.2\n", "fingerprint": fingerprint,
		"padded": fingerprint + "=", "ssh-keygen -l": "256 " + fingerprint + " root@bastion (ED25519)", "blanks": "  " + line + " \n",
		"\\n": `# bastion\nbastion ` + line + `\n`,
	} {
		found := &faults{}
		if h := parseHostKeys(text, found); h.none() || !h.match(key) || len(found.sentences) > 0 {
			t.Errorf("%s: %v, %q", name, h, found.sentences)
		}
	}
	for text, want := range map[string]string{
		"SHA256:abc": `"SHA256:abc" is no SHA256 fingerprint`, "MD5:aa:bb": "is no key and no fingerprint", "bastion": "is no key",
		"@cert-authority * " + line: "@cert-authority, which is not supported",
		line[:40]:                   "is no key",
	} {
		found := &faults{}
		parseHostKeys(text, found)
		if len(found.sentences) != 1 || !strings.Contains(found.sentences[0], want) {
			t.Errorf("%s: %q, want %s", text, found.sentences, want)
		}
	}
	if h := parseHostKeys(" \n", &faults{}); !h.none() || !h.match(key) {
		t.Error("nothing pins something")
	}
}

// TestSSHEndpoints: sshEndpoint in its forms; a fault does not show what may be a password.
func TestSSHEndpoints(t *testing.T) {
	key := privatePEM(t, newEd25519(t))
	for endpoint, want := range map[string]string{
		"ssh://jump@bastion":            "ssh://jump@bastion:22",
		" ssh://jump@bastion:2222/ ":    "ssh://jump@bastion:2222",
		"SSH://jump@10.0.0.1":           "ssh://jump@10.0.0.1:22",
		"ssh://jump@[2001:db8::1]":      "ssh://jump@[2001:db8::1]:22",
		"ssh://jump@[2001:db8::1]:2200": "ssh://jump@[2001:db8::1]:2200",
		"ssh://a@corp@bastion":          "ssh://a@corp@bastion:22",
		"ssh://a%40corp@bastion":        "ssh://a@corp@bastion:22",
		"bastion":                       "! does not begin with ssh://",
		"jump@bastion":                  "! does not begin with ssh://",
		"https://jump@bastion":          "! does not begin with ssh://",
		"ssh://bastion":                 "! names no user to log in",
		"ssh://@bastion":                "! names no user to log in",
		"ssh://jump:hunter2@bastion":    "! has more than a user before the @",
		"ssh://jump@":                   "! has \"\" behind the @",
		"ssh://jump@bastion:":           "! has no valid port",
		"ssh://jump@bastion:ssh":        "! has no valid port",
		"ssh://jump@bastion:70000":      "! has no valid port",
		"ssh://jump@bastion/path":       "! has \"bastion/path\" behind the @",
		"ssh://jump@a b":                "! has \"a b\" behind the @",
	} {
		s, err := parseConfig(configWith(t, map[string]any{"networkTunnel": map[string]any{"sshForwarding": map[string]any{
			"sshEndpoint": endpoint, "privateKey": key,
		}}}))
		if fault, bad := strings.CutPrefix(want, "! "); bad {
			if err == nil || !strings.Contains(err.Error(), "networkTunnel.sshForwarding.sshEndpoint "+fault) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%q: %v, want %s", endpoint, err, fault)
			}
		} else if err != nil || s.ssh.where() != want {
			t.Errorf("%q: %v, %v, want %s", endpoint, s, err, want)
		}
	}
	secret := regexp.MustCompile(`[A-Za-z0-9+/]{40,}`)
	s, err := parseConfig(configWith(t, map[string]any{"networkTunnel": map[string]any{"sshForwarding": map[string]any{
		"sshEndpoint": "ssh://jump@bastion", "privateKey": key,
	}}}))
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(verb, s); secret.MatchString(text) {
			t.Errorf("settings printed by %s show the key: %s", verb, text)
		}
	}
}
