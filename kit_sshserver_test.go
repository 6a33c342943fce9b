package main

// kit_sshserver_test.go starts the distribution's SSH server for tests of the tunnel: on a loopback port, with a configuration and
// keys of its own, as whoever runs the tests.

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// sshServer is an SSH server of one test.
type sshServer struct {
	t       testing.TB
	program string
	dir     string
	user    string
	address string
	key     string     // PEM, of the user
	host    ssh.Signer // the Ed25519 host key; there is an ECDSA one beside it

	command *exec.Cmd // nil while it is down
	out     lockedBuffer
}

// lockedBuffer is a buffer that may be read while it is written. It has no other methods: io.Copy would take ReadFrom.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// startSSHServer starts a server with more lines of sshd_config, or skips the test where there is none.
func startSSHServer(t testing.TB, lines ...string) *sshServer {
	t.Helper()
	program, err := exec.LookPath("sshd")
	if err != nil {
		program = "/usr/sbin/sshd" // not on everyone's PATH; it wants to be called by its whole name
	}
	if program, err = filepath.Abs(program); err == nil {
		_, err = os.Stat(program)
	}
	if err != nil {
		t.Skip("needs an SSH server, sshd, which is not installed (Debian: openssh-server)")
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "source-postgres-sshd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &sshServer{t: t, program: program, dir: dir, user: me.Username, address: freeAddress(t)}
	if os.Getuid() == 0 { // where its privileges are separated
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.host = s.hostKey("ed25519", newEd25519(t))
	ecdsaKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s.hostKey("ecdsa", ecdsaKey)
	clientKey := newEd25519(t)
	s.key = privatePEM(t, clientKey)
	s.authorize(clientKey, "")
	_, port, _ := net.SplitHostPort(s.address)
	config := fmt.Sprintf("ListenAddress 127.0.0.1\nPort %s\nHostKey %[2]s/ed25519\nHostKey %[2]s/ecdsa\nAuthorizedKeysFile %[2]s/authorized_keys\n"+
		"PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nLogLevel VERBOSE\n%s\n",
		port, dir, strings.Join(lines, "\n"))
	s.write("sshd_config", config)
	s.start()
	t.Cleanup(s.kill)
	return s
}

func newEd25519(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// privatePEM is a private key as OpenSSH writes it.
func privatePEM(t testing.TB, key any) string {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(key, "test")
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block))
}

func (s *sshServer) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sshServer) hostKey(name string, key any) ssh.Signer {
	s.t.Helper()
	s.write(name, privatePEM(s.t, key))
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	return signer
}

// authorize lets the user in with the key only, under options as in authorized_keys.
func (s *sshServer) authorize(key any, options string) {
	s.t.Helper()
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write("authorized_keys", strings.TrimSpace(options+" "+string(ssh.MarshalAuthorizedKey(signer.PublicKey())))+"\n")
}

// start starts it, again where it was killed, and waits until it listens.
func (s *sshServer) start() {
	s.t.Helper()
	s.command = exec.Command(s.program, "-D", "-e", "-f", filepath.Join(s.dir, "sshd_config"))
	s.command.Stderr = &s.out
	if err := s.command.Start(); err != nil {
		s.t.Fatal(err)
	}
	for deadline := time.Now().Add(waitLimit); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", s.address)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) || s.command.ProcessState != nil {
			s.t.Fatalf("sshd does not listen at %s: %s", s.address, s.out.String())
		}
	}
}

// processes are the server's own and those of its connections, which it has leave its process group.
func (s *sshServer) processes() []int {
	if s.command == nil {
		return nil
	}
	pids := []int{s.command.Process.Pid}
	for i := 0; i < len(pids); i++ {
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", pids[i]))
		for _, child := range strings.Fields(string(children)) {
			if pid, err := strconv.Atoi(child); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// signal sends a signal to all of the server's processes.
func (s *sshServer) signal(signal syscall.Signal) {
	for _, pid := range s.processes() {
		_ = syscall.Kill(pid, signal)
	}
}

// kill ends it at once, with its connections.
func (s *sshServer) kill() {
	if s.command != nil {
		s.signal(syscall.SIGKILL)
		_ = s.command.Wait()
		s.command = nil
	}
}

// logins is how many SSH connections there have been.
func (s *sshServer) logins() int { return strings.Count(s.out.String(), "Accepted publickey") }

// forwarding is networkTunnel for this server, at another address of it where one is given.
func (s *sshServer) forwarding(address string) map[string]any {
	if address == "" {
		address = s.address
	}
	return map[string]any{"sshForwarding": map[string]any{
		"sshEndpoint": "ssh://" + s.user + "@" + address, "privateKey": s.key, "hostKey": ssh.FingerprintSHA256(s.host.PublicKey()),
	}}
}

// tunnelled is the test database's config with a tunnel, changed by change where that is not nil.
func (db *testDB) tunnelled(tunnel map[string]any, advanced map[string]any, change func(config map[string]any)) json.RawMessage {
	db.Helper()
	config := make(map[string]any)
	if err := json.Unmarshal(db.edgeConfig(advanced), &config); err != nil {
		db.Fatal(err)
	}
	config["networkTunnel"] = tunnel
	if change != nil {
		change(config)
	}
	text, err := json.Marshal(config)
	if err != nil {
		db.Fatal(err)
	}
	return text
}
