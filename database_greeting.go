// database_greeting.go owns the question what answers at the address, asked when a first login failed without a word of a PostgreSQL
// server. Invariant: it is asked once, sends nothing but PostgreSQL's own request for TLS, a line end and a TLS handshake, and ends within
// seconds.

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// otherServerError says that what listens at the address is no PostgreSQL server, or none that can be told for one.
type otherServerError struct {
	what string
}

// silentServer is what takes connections, as the kernel does for a server that is stopped, and says nothing.
const silentServer = "something that takes connections and never answers"

func (e *otherServerError) Error() string {
	if e.what == silentServer {
		return e.what + ", which is not a PostgreSQL server, or one that hangs"
	}
	return e.what + ", which is not a PostgreSQL server"
}

func (e *otherServerError) remedy() string {
	if e.what == silentServer {
		return "Check host and port in `address`, and whether the server there, or what lies before it, still works."
	}
	return "Check host and port in `address`."
}

// greetingWait bounds each wait for what answers.
const greetingWait = 2 * time.Second

// withGreeting adds to the error of a login what answers at the address, where that is not a PostgreSQL server.
func withGreeting(ctx context.Context, dial pgconn.DialFunc, s *settings, err error) error {
	if _, ok := errors.AsType[*pgconn.PgError](err); ok || ctx.Err() != nil || strings.Contains(err.Error(), "connection refused") {
		return err
	}
	if _, ok := errors.AsType[*tunnelError](err); ok {
		return err
	}
	if what := greeting(ctx, dial, net.JoinHostPort(s.host, strconv.Itoa(int(s.port)))); what != "" {
		return errors.Join(err, &otherServerError{what})
	}
	return err
}

// greeting says what answers at an address, "" where that speaks as PostgreSQL does or nothing can be told.
func greeting(ctx context.Context, dial pgconn.DialFunc, address string) string {
	conn, err := dialWithin(ctx, dial, address)
	if err != nil {
		return ""
	}
	defer conn.Close()
	said, _ := hear(conn)
	if what := recognize(said); what != "" || len(said) > 0 {
		return what
	}
	request := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, 8), 80877103)
	if _, err := conn.Write(request); err != nil {
		return ""
	}
	said, err = hear(conn)
	switch {
	case len(said) == 1 && (said[0] == 'S' || said[0] == 'N'), len(said) > 0 && said[0] == 'E':
		return ""
	case len(said) > 0:
		return recognize(said)
	case err != nil && !isTimeout(err): // it hung up: as one does that wants TLS, or speaks of something else, from the first byte on
		return speaksTLS(ctx, dial, address)
	}
	if _, err := conn.Write([]byte("\r\n\r\n")); err == nil { // that ends a line, for what reads lines
		if said, _ = hear(conn); len(said) > 0 {
			return recognize(said)
		}
	}
	if what := speaksTLS(ctx, dial, address); what != "" {
		return what
	}
	return silentServer
}

// hear reads what is said within a while.
func hear(conn net.Conn) ([]byte, error) {
	_ = conn.SetReadDeadline(time.Now().Add(greetingWait))
	said := make([]byte, 256)
	n, err := io.ReadAtLeast(conn, said, 1)
	return said[:n], err
}

// recognize names the protocol that begins so.
func recognize(said []byte) string {
	text := string(bytes.ToValidUTF8(bytes.TrimSpace(said), []byte("?")))
	switch {
	case len(said) == 0:
		return ""
	case strings.HasPrefix(text, "SSH-"):
		return "an SSH server"
	case strings.HasPrefix(text, "HTTP/"), strings.HasPrefix(text, "<"):
		return "an HTTP server"
	case len(said) > 5 && said[3] == 0 && (said[4] == 10 || said[4] == 0xff) && int(said[0])+int(said[1])<<8 < 1024:
		return "a MySQL or MariaDB server"
	case said[0] == 0x15 && len(said) > 1 && said[1] == 3:
		return "a server that speaks TLS from the first byte on"
	}
	first, _, _ := strings.Cut(text, "\n")
	return fmt.Sprintf("something that says %q", strings.TrimSpace(first[:min(len(first), 60)]))
}

// speaksTLS says that a TLS handshake succeeds without PostgreSQL's request for one.
func speaksTLS(ctx context.Context, dial pgconn.DialFunc, address string) string {
	conn, err := dialWithin(ctx, dial, address)
	if err != nil {
		return ""
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(greetingWait))
	if err := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(ctx); err != nil {
		return ""
	}
	return "a server that speaks TLS from the first byte on"
}

// dialWithin connects to the address within greetingWait.
func dialWithin(ctx context.Context, dial pgconn.DialFunc, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, greetingWait)
	defer cancel()
	return dial(ctx, "tcp", address)
}
