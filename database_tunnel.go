// database_tunnel.go owns the way through an SSH server (networkTunnel.sshForwarding): one SSH connection, made when the first
// connection to the database server needs it, over which all of ours go, and watched for as long as it lasts.
//
// Invariants: nothing listens on a port; the database server's name is looked up by the SSH server, never here; a connection
// over a lost link fails within 30 seconds, with an error that names the SSH server rather than the database server; and no part
// of the private key is in an error or a log.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/ssh"
)

const (
	// sshConnectTimeout bounds the way to the SSH server and the login there. It leaves the database server a part of
	// connectTimeout, in which both must be done.
	sshConnectTimeout = 15 * time.Second

	// sshFailureStands is how long a failure to connect answers for those who ask next: the driver, which tries without TLS, and
	// other connections. SSH servers shut out who fails to log in too often (PerSourcePenalties, fail2ban).
	sshFailureStands = time.Second

	// sshKeepalive is what OpenSSH's client asks, too: a request that every server must answer, if only to refuse it.
	sshKeepalive = "keepalive@openssh.com"

	// sshPiece is what is passed on at a time: the largest packet of a channel.
	sshPiece = 32 << 10
)

// sshSilence is how long an SSH connection may bring nothing, though asked; it is lost before twice of that. A variable for tests.
var sshSilence = 15 * time.Second

// tunnel is the way through an SSH server.
type tunnel struct {
	*sshSettings

	mu      sync.Mutex
	attempt *sshAttempt // the last one, maybe under way; nil before the first
	closed  bool

	told map[string]bool // fingerprints of host keys that nothing is pinned for; of the attempt under way
}

// sshAttempt is one attempt to connect to the SSH server. Once done is closed either link or err is set.
type sshAttempt struct {
	done  chan struct{}
	link  *sshLink
	err   error
	ended time.Time
}

// sshLink is one SSH connection.
type sshLink struct {
	t      *tunnel
	socket *sshSocket
	client *ssh.Client

	cause  error         // why it was lost; valid once lost is closed
	lost   chan struct{} // closed when it is
	losing sync.Once
}

// tunnelError is a failure of the tunnel, not of the database server. It is a net.Error that is no timeout, so that it counts
// as a lost link and the driver does not reword it.
type tunnelError struct {
	where  string // the SSH server
	reason string
	remedy string
	cause  error // may be nil
}

func (e *tunnelError) Error() string   { return "the SSH tunnel through " + e.where + ": " + e.reason }
func (e *tunnelError) Timeout() bool   { return false }
func (e *tunnelError) Temporary() bool { return false }
func (e *tunnelError) Unwrap() error   { return e.cause }

var _ net.Error = (*tunnelError)(nil)

func (t *tunnel) failure(remedy, format string, args ...any) *tunnelError {
	return &tunnelError{where: t.where(), reason: fmt.Sprintf(format, args...), remedy: remedy}
}

// newTunnel returns the tunnel that the settings ask for, nil for none. It connects when it is first dialled.
func newTunnel(s *sshSettings) *tunnel {
	if s == nil {
		return nil
	}
	return &tunnel{sshSettings: s, told: make(map[string]bool)}
}

// close ends the SSH connection, and with it what still goes over it.
func (t *tunnel) close() {
	if t == nil {
		return
	}
	t.mu.Lock()
	attempt := t.attempt
	t.closed = true
	t.mu.Unlock()
	if attempt == nil {
		return
	}
	go func() { // one under way ends within sshConnectTimeout
		<-attempt.done
		if attempt.link != nil {
			attempt.link.lose(net.ErrClosed)
		}
	}()
}

// lookup implements pgconn.LookupFunc: names are for the SSH server to look up.
func (t *tunnel) lookup(_ context.Context, host string) ([]string, error) { return []string{host}, nil }

// dial implements pgconn.DialFunc: a connection to the address as seen from the SSH server.
func (t *tunnel) dial(ctx context.Context, _, address string) (net.Conn, error) {
	for again := true; ; again = false {
		link, isNew, err := t.connected(ctx)
		if err != nil {
			return nil, err
		}
		conn, err := link.dial(ctx, address)
		if err == nil {
			return conn, nil
		}
		// That a link which brought nothing for a while is lost may show only now.
		if lost := link.isLost(); !lost || isNew || !again || ctx.Err() != nil {
			return nil, err
		}
	}
}

// connected returns the SSH connection, which is made if there is none, and whether it was made for this call.
func (t *tunnel) connected(ctx context.Context) (link *sshLink, isNew bool, err error) {
	t.mu.Lock()
	attempt := t.attempt
	if attempt == nil || attempt.over() {
		if t.closed {
			t.mu.Unlock()
			return nil, false, net.ErrClosed
		}
		attempt, isNew = &sshAttempt{done: make(chan struct{})}, true
		t.attempt = attempt
		go func() { // not ended with ctx: others may wait for it, too
			attempt.link, attempt.err = t.connect()
			attempt.ended = time.Now()
			close(attempt.done)
		}()
	}
	t.mu.Unlock()
	select {
	case <-attempt.done:
		return attempt.link, isNew, attempt.err
	case <-ctx.Done():
		return nil, isNew, t.failure(remedyReachSSH, "the SSH server has not let us in yet (%v)", context.Cause(ctx))
	}
}

// over reports whether an attempt is done and of no more use: its link is lost, or its failure is not of now.
func (a *sshAttempt) over() bool {
	select {
	case <-a.done:
		return a.link == nil && time.Since(a.ended) > sshFailureStands || a.link != nil && a.link.isLost()
	default:
		return false
	}
}

const (
	remedyReachSSH = "Check host and port in `networkTunnel.sshForwarding.sshEndpoint`, whether the SSH server runs, and that firewalls " +
		"and the provider's allow list let this machine through to it."
	remedyHandshake = "Check that `networkTunnel.sshForwarding.sshEndpoint` is the address of an SSH server. One that limits logins " +
		"(MaxStartups, PerSourcePenalties, fail2ban) hangs up on those beyond."
)

// connect makes an SSH connection. A failure is a *tunnelError.
func (t *tunnel) connect() (*sshLink, error) {
	link, err := t.connectWith(t.hostKeyAlgorithms()...)
	if _, other := errors.AsType[*hostKeyError](err); !other || len(t.hostKeys.fingerprints) == 0 {
		return link, err
	}
	// A fingerprint does not tell of what type its key is, and a server shows one key of several: each is asked for.
	for _, algorithms := range sshHostKeyTypes {
		if link, again := t.connectWith(algorithms...); again == nil {
			return link, nil
		}
	}
	return nil, err
}

// hostKeyAlgorithms are those of the types of keys that are pinned, so that the server shows one of these, or all. Those of
// certificates are not among them: a certificate is not the key that it certifies.
func (t *tunnel) hostKeyAlgorithms() (algorithms []string) {
	for _, ofType := range sshHostKeyTypes {
		pinned := func(key ssh.PublicKey) bool { return slices.Contains(ofType, key.Type()) }
		if len(t.hostKeys.keys) == 0 || len(t.hostKeys.fingerprints) > 0 || slices.ContainsFunc(t.hostKeys.keys, pinned) {
			algorithms = append(algorithms, ofType...)
		}
	}
	return algorithms
}

// hostKeyError is a host key other than those that are pinned.
type hostKeyError struct{ shown ssh.PublicKey }

func (e *hostKeyError) Error() string { return "host key " + showHostKey(e.shown) }

// connectWith makes an SSH connection in which the server's host key is for one of the algorithms.
func (t *tunnel) connectWith(hostKeyAlgorithms ...string) (*sshLink, error) {
	deadline := time.Now().Add(sshConnectTimeout)
	dialer := newDialer()
	dialer.Deadline = deadline
	conn, err := dialer.Dial("tcp", t.address())
	if isTimeout(err) {
		return nil, t.failure(remedyReachSSH, "no answer within %s", sshConnectTimeout)
	} else if err != nil {
		return nil, t.failure(remedyReachSSH, "cannot reach the SSH server: %v", err)
	}
	l := &sshLink{t: t, socket: &sshSocket{Conn: conn}, lost: make(chan struct{})}
	_ = conn.SetDeadline(deadline)
	secure, channels, requests, err := ssh.NewClientConn(l.socket, t.address(), &ssh.ClientConfig{
		User:              t.user,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(t.key)},
		HostKeyAlgorithms: hostKeyAlgorithms,
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if !t.hostKeys.match(key) {
				return &hostKeyError{key}
			}
			t.warnUnpinned(key)
			return nil
		},
	})
	if err != nil {
		_ = conn.Close()
		return nil, t.handshakeFailure(err)
	}
	_ = conn.SetDeadline(time.Time{})
	l.client = ssh.NewClient(secure, channels, requests)
	logrus.WithFields(logrus.Fields{"server": t.where(), "version": string(l.client.ServerVersion())}).Info("connected to the SSH server")
	go func() { l.lose(l.client.Wait()) }()
	go l.watch()
	return l, nil
}

// warnUnpinned says once of each host key that it was accepted unseen, and how to pin it. REQUIRES: within an attempt.
func (t *tunnel) warnUnpinned(key ssh.PublicKey) {
	fingerprint := ssh.FingerprintSHA256(key)
	if !t.hostKeys.none() || t.told[fingerprint] {
		return
	}
	change := ""
	if len(t.told) > 0 {
		change = " It is another than before."
	}
	t.told[fingerprint] = true
	logrus.Warnf("the host key of the SSH server %s is not checked: whoever answers there is let in between us and the database "+
		"server.%s To have it checked, set networkTunnel.sshForwarding.hostKey to %s, if that is the fingerprint that the server's "+
		"own key has (on it: ssh-keygen -lf %s)", t.where(), change, fingerprint, hostKeyFile(key))
}

// handshakeFailure tells why a server did not let us in.
func (t *tunnel) handshakeFailure(err error) error {
	text := strings.TrimPrefix(err.Error(), "ssh: handshake failed: ")
	public := t.key.PublicKey()
	negotiation, disagreed := errors.AsType[*ssh.AlgorithmNegotiationError](err)
	shown, mismatch := errors.AsType[*hostKeyError](err)
	switch {
	case mismatch:
		failure := t.failure(fmt.Sprintf("If the server's keys were made anew, set `networkTunnel.sshForwarding.hostKey` to %s, after a look on "+
			"the server itself (ssh-keygen -lf %s). If not, something else answers in its place.", ssh.FingerprintSHA256(shown.shown),
			hostKeyFile(shown.shown)), "the SSH server shows the host key %s, and `hostKey` pins %s", showHostKey(shown.shown), t.hostKeys)
		failure.cause = shown
		return failure
	case disagreed && negotiation.What == "host key":
		return t.failure("Pin one of the keys that it has: set `networkTunnel.sshForwarding.hostKey` to a line of what `ssh-keyscan` tells of it.",
			"the SSH server has no host key of the type of %s, which `hostKey` pins (it has %s)", t.hostKeys,
			strings.Join(negotiation.RequestedAlgorithms, ", "))
	case disagreed:
		return t.failure("Update the SSH server, or allow one of these algorithms in its sshd_config.",
			"the SSH server and we have no algorithm in common for %s: it takes %s, we take %s", negotiation.What,
			strings.Join(negotiation.RequestedAlgorithms, ", "), strings.Join(negotiation.SupportedAlgorithms, ", "))
	case strings.Contains(text, "unable to authenticate") && !strings.Contains(text, "publickey"): // the library's words
		return t.failure("Allow logins by key there (PubkeyAuthentication yes in sshd_config).",
			"the SSH server takes no keys for a login as user %q", t.user)
	case strings.Contains(text, "unable to authenticate"):
		return t.failure(fmt.Sprintf("Check the user in `networkTunnel.sshForwarding.sshEndpoint`, and that its ~/.ssh/authorized_keys on the SSH "+
			"server has this line: %s", strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public)))),
			"the SSH server refused user %q with the key in `privateKey` (%s)", t.user, showHostKey(public))
	case isTimeout(err):
		return t.failure(remedyHandshake, "what listens there takes connections, but did not let us in within %s", sshConnectTimeout)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return t.failure(remedyHandshake, "the connection was closed during the handshake")
	}
	return t.failure(remedyHandshake, "the handshake failed: %s", strings.TrimPrefix(text, "ssh: "))
}

// sshSocket is the socket of an SSH connection, which notes that something came.
type sshSocket struct {
	net.Conn
	heard atomic.Bool // something has come since watch looked; stored by Read, swapped by watch
}

// Read implements net.Conn.
func (s *sshSocket) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if n > 0 {
		s.heard.Store(true)
	}
	return n, err
}

// watch asks the server for a sign of life whenever nothing came for a while, until the link is lost or gives none. It counts
// its own looks rather than time, in which the process, or the machine, may have stood still.
func (l *sshLink) watch() {
	const looks = 4
	tick := time.NewTicker(sshSilence / looks)
	defer tick.Stop()
	asking := make(chan struct{}, 1)
	for silent := 0; ; {
		select {
		case <-l.lost:
			return
		case <-tick.C:
		}
		if l.socket.heard.Swap(false) {
			silent = 0
			continue
		}
		if silent++; silent > looks {
			l.lose(fmt.Errorf("nothing has come from it for %s, though it was asked", sshSilence))
			return
		}
		select {
		case asking <- struct{}{}:
			go func() {
				_, _, _ = l.client.SendRequest(sshKeepalive, true, nil)
				<-asking
			}()
		default:
		}
	}
}

// lose ends the link for a reason, of which the first counts.
func (l *sshLink) lose(reason error) {
	l.losing.Do(func() {
		ours := errors.Is(reason, net.ErrClosed)
		if reason == nil || errors.Is(reason, io.EOF) {
			reason = errors.New("the server closed it")
		}
		failure := l.t.failure("", "the SSH connection was lost: %v", reason)
		l.cause = failure
		if !ours {
			logrus.Warn(failure.Error())
		}
		close(l.lost)
		_ = l.socket.Close() // the client's Close would wait for its write to a dead peer
	})
}

func (l *sshLink) isLost() bool {
	select {
	case <-l.lost:
		return true
	default:
		return false
	}
}

// check has the server answer, and returns why the link is lost if it does not.
func (l *sshLink) check() error {
	if _, _, err := l.client.SendRequest(sshKeepalive, true, nil); err == nil {
		return nil
	}
	<-l.lost
	return l.cause
}

// dial opens a connection to the address as seen from the server. A failure is a *tunnelError.
func (l *sshLink) dial(ctx context.Context, address string) (net.Conn, error) {
	channel, err := l.client.DialContext(ctx, "tcp", address)
	if err == nil {
		return newTunnelConn(l, channel, address), nil
	}
	refused, ok := errors.AsType[*ssh.OpenChannelError](err)
	switch {
	case ok && refused.Reason == ssh.Prohibited:
		return nil, l.t.failure(fmt.Sprintf("In its sshd_config set AllowTcpForwarding yes (or local), with no PermitOpen that leaves %s out, and "+
			"in ~%s/.ssh/authorized_keys give the line of this key no `restrict`, `no-port-forwarding` or `permitopen` that does.", address, l.t.user),
			"the SSH server does not let user %q forward to %s (%s)", l.t.user, address, openFailure(refused))
	case ok && refused.Reason == ssh.ConnectionFailed:
		return nil, l.t.failure("The SSH server was reached: check that host and port in `address` are right as seen from there (on it: "+
			"`nc -vz "+strings.Replace(address, ":", " ", 1)+"`), the database server's `listen_addresses`, and the firewalls between the two.",
			"the SSH server cannot connect to %s (%s)", address, openFailure(refused))
	case ok:
		return nil, l.t.failure("", "the SSH server did not open a connection to %s (%s)", address, openFailure(refused))
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		if l.isLost() {
			return nil, l.cause
		}
		return nil, l.t.failure("The SSH server was reached: check `address`, and that a firewall lets it through to the database server.",
			"the SSH server has not got through to %s in time", address)
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	if err := l.check(); err != nil {
		return nil, err
	}
	return nil, l.t.failure("", "connect to %s: %v", address, err)
}

// openFailure is why a server did not open a connection, in its own words where it has any.
func openFailure(e *ssh.OpenChannelError) string {
	if e.Message != "" {
		return e.Message
	}
	return e.Reason.String()
}

// tunnelConn is a connection over the SSH connection. A channel knows no deadlines: a pipe, which does, is between it and us.
type tunnelConn struct {
	net.Conn // our end of the pipe
	link     *sshLink
	address  tunnelAddress
	closed   atomic.Bool  // by us
	failure  atomic.Value // *tunnelError of a lost link; stored before the pipe is closed
}

// newTunnelConn has a channel passed on, both ways.
func newTunnelConn(l *sshLink, channel net.Conn, address string) *tunnelConn {
	ours, theirs := net.Pipe()
	c := &tunnelConn{Conn: ours, link: l, address: tunnelAddress(address)}
	go func() { // to the server, until either end is closed; what was written is sent before
		_, _ = io.CopyBuffer(onlyWriter{channel}, theirs, make([]byte, sshPiece))
		_ = channel.Close()
	}()
	go func() {
		_, _ = io.CopyBuffer(onlyWriter{theirs}, channel, make([]byte, 2*sshPiece))
		if !c.closed.Load() {
			if failure := l.check(); failure != nil {
				c.failure.Store(failure)
			}
		}
		_ = theirs.Close()
	}()
	return c
}

// onlyWriter hides everything else, by which io.CopyBuffer would not use its buffer.
type onlyWriter struct{ io.Writer }

// Read implements net.Conn.
func (c *tunnelConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, c.told("read", err)
}

// Write implements net.Conn.
func (c *tunnelConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	return n, c.told("write", err)
}

// told makes of a pipe's error what a socket's would be, or the failure of the link.
func (c *tunnelConn) told(op string, err error) error {
	closed := errors.Is(err, io.ErrClosedPipe)
	if err == nil || !closed && err != io.EOF {
		return err
	}
	switch failure, lost := c.failure.Load().(error); {
	case c.closed.Load():
		err = net.ErrClosed
	case lost:
		return failure
	case closed:
		err = syscall.EPIPE
	default:
		return io.EOF
	}
	return &net.OpError{Op: op, Net: "tcp", Addr: c.address, Err: err}
}

// Close implements net.Conn.
func (c *tunnelConn) Close() error {
	c.closed.Store(true)
	return c.Conn.Close()
}

// RemoteAddr implements net.Conn: the database server's address, by which the driver connects again to cancel a query.
func (c *tunnelConn) RemoteAddr() net.Addr { return c.address }

// LocalAddr implements net.Conn.
func (c *tunnelConn) LocalAddr() net.Addr { return c.link.socket.LocalAddr() }

// tunnelAddress is host and port as seen from the SSH server.
type tunnelAddress string

func (a tunnelAddress) Network() string { return "tcp" }
func (a tunnelAddress) String() string  { return string(a) }

// hostKeyFile is where OpenSSH's server keeps a host key of this type.
func hostKeyFile(key ssh.PublicKey) string {
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		if strings.Contains(key.Type(), kind) {
			return "/etc/ssh/ssh_host_" + kind + "_key.pub"
		}
	}
	return "/etc/ssh/ssh_host_*_key.pub"
}

// newDialer returns a dialer for a connection that may be quiet for long.
func newDialer() *net.Dialer {
	return &net.Dialer{
		Timeout: connectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: 20 * time.Second, Interval: 10 * time.Second, Count: 3,
		},
	}
}
