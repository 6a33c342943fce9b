package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// sentAt is a frame as a walsender sends it at a time, in microseconds since 2000.
func sentAt(at int64, data string) []byte {
	frame := xlogData(1<<30, data)
	binary.BigEndian.PutUint64(frame[xlogHead-8:], uint64(at))
	return frame
}

func TestGatherRest(t *testing.T) {
	begin := func(committed int64) string { return "B" + u64(1<<30) + u64(uint64(committed)) + u32(7) }
	insert := insertText(testOID, "t1")
	type sent struct {
		at   int64
		data string
	}
	const ms = 1000 // in microseconds
	for _, tc := range []struct {
		name   string
		frames []sent
		want   time.Duration
	}{
		{"nothing was sent", nil, 0},
		{"at once", []sent{{1000 * ms, begin(1000 * ms)}, {1000 * ms, insert}}, 0},
		{"soon", []sent{{1004 * ms, begin(1000 * ms)}, {1004 * ms, insert}}, 0},
		{"some milliseconds later", []sent{{1006 * ms, begin(1000 * ms)}}, 600 * time.Microsecond},
		{"in the midst of a large transaction", []sent{{1001 * ms, begin(1000 * ms)}, {1300 * ms, insert}}, gatherMost},
		{"hours later", []sent{{1 << 50, begin(1000 * ms)}, {1 << 50, insert}}, gatherMost},
		{"late, then caught up", []sent{{9000 * ms, begin(1000 * ms)}, {9001 * ms, begin(9001 * ms)}, {9001 * ms, insert}}, 0},
		{"the server's clock was put back", []sent{{1000 * ms, begin(9000 * ms)}, {1000 * ms, insert}}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := &gatheringConn{drained: true}
			for _, f := range tc.frames {
				g.sent(f.at, []byte(f.data))
			}
			if have := g.rest(); have != tc.want {
				t.Errorf("%s, want %s", have, tc.want)
			}
			if g.drained = false; g.rest() != 0 {
				t.Errorf("%s though there is more to read", g.rest())
			}
		})
	}
	g := &gatheringConn{drained: true, lag: 30 * time.Millisecond}
	if have, want := g.rest(), 3*time.Millisecond; have != want {
		t.Errorf("a lag of %s grows by %s, want %s", g.lag, have, want)
	}
}

// countingConn counts the reads that brought something.
type countingConn struct {
	net.Conn
	reads atomic.Int64
}

func (c *countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.reads.Add(1)
	}
	return n, err
}

// TestGather: messages that have gathered are read many at a time, with TLS, whose records are one each, and without, and come as they
// were sent.
func TestGather(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	certificate := tls.Certificate{Certificate: [][]byte{selfSigned(t, key, "server", 0)}, PrivateKey: key}
	const messages = 1000 // which fit a socket's buffers
	for _, secured := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %v", secured), func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			written := make(chan struct{})
			go func() {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				defer func() { close(written); <-t.Context().Done() }()
				if secured {
					conn = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{certificate}})
				}
				_, _ = conn.Write(sentAt(9_000_000, "B"+u64(1<<30)+u64(1_000_000)+u32(7)))
				for i := range messages {
					if _, err := conn.Write(sentAt(9_000_000, fmt.Sprintf("M%d %s", i, strings.Repeat("x", i%300)))); err != nil {
						return
					}
				}
			}()
			client, err := net.Dial("tcp", listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			counted := &countingConn{Conn: client}
			var conn net.Conn = &gatheringConn{Conn: counted}
			if secured {
				conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
			}
			defer conn.Close()
			s := pipeSession(conn)
			s.link = gather(conn, receiveBuffer)
			if handshaker, ok := conn.(*tls.Conn); ok {
				if err := handshaker.HandshakeContext(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			<-written
			go func() { _ = s.receive(t.Context()) }()
			if m, err := s.next(t.Context()); err != nil || m.data[0] != 'B' {
				t.Fatalf("%q, %v", m.data, err)
			}
			for i := range messages {
				m, err := s.next(t.Context())
				if want := fmt.Sprintf("M%d %s", i, strings.Repeat("x", i%300)); err != nil || string(m.data) != want {
					t.Fatalf("message %d: %q, %v", i, m.data, err)
				}
			}
			if reads := counted.reads.Load(); reads > messages/10 {
				t.Errorf("%d reads of the socket for %d messages", reads, messages)
			} else {
				t.Logf("%d reads of the socket for %d messages", reads, messages)
			}
		})
	}
}
