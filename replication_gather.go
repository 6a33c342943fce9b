// replication_gather.go owns how often a replication connection is read. A walsender sends each message by itself, and to be woken for each costs
// several times of what it takes to handle it: while the stream lags, messages are let gather in the socket and read together.
// Invariant: a lag grows by a tenth of itself at most, and a stream that has caught up is read at once. How far it lags is told by
// the server's clock alone: a message carries when it was sent, Begin when its transaction was committed.

package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"net"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	gatherLag  = 5 * time.Millisecond // a stream that lags less has caught up
	gatherPart = 10                   // of a lag that messages may gather for
	gatherMost = 10 * time.Millisecond
	// gatherRoom is what the socket is to take, so that the sender need not wait meanwhile: several times what one sends in gatherMost.
	gatherRoom = 2 << 20
)

// gatheringConn is the socket of a replication connection, below its TLS if it has that. It passes on what it reads, and does
// nothing else, until gather is called. Owned by whoever reads the connection.
type gatheringConn struct {
	net.Conn
	gathers bool
	room    []byte // what is read into ahead of TLS, which reads a record at a time and so a message; nil without TLS
	ahead   []byte // the part of room that is still to be passed on

	committed int64         // commit time of the transaction being sent, microseconds since 2000
	lag       time.Duration // of the last message
	drained   bool          // the last read left nothing in the socket
}

// gathering has connections made from config be gatheringConns.
func gathering(config *pgconn.Config) {
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &gatheringConn{Conn: conn}, nil
	}
}

// gather begins to gather, below TLS into a buffer of that many bytes, and returns the gatheringConn below a connection; nil where there
// is none.
func gather(conn net.Conn, buffer int) *gatheringConn {
	secured, isTLS := conn.(*tls.Conn)
	if isTLS {
		conn = secured.NetConn()
	}
	g, ok := conn.(*gatheringConn)
	if !ok {
		return nil
	}
	g.gathers = true
	makeRoom(g.Conn)
	if isTLS {
		g.room = make([]byte, buffer)
	}
	return g
}

// makeRoom has a TCP socket take gatherRoom. A low-water mark makes room for as much (Linux, tcp_set_rcvlowat), beyond what SO_RCVBUF may
// ask for, and leaves the kernel free to make more. It is taken back at once: whoever waits is to be woken by the first byte.
func makeRoom(conn net.Conn) {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		for _, mark := range []int{gatherRoom, 1} {
			_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, mark)
		}
	})
}

// Read implements net.Conn.
func (g *gatheringConn) Read(p []byte) (int, error) {
	if len(g.ahead) == 0 {
		if !g.gathers {
			return g.Conn.Read(p)
		}
		time.Sleep(g.rest())
		into := p
		if g.room != nil {
			into = g.room
		}
		n, err := g.Conn.Read(into)
		g.drained = n < len(into)
		if g.room == nil || n == 0 {
			return n, err
		}
		g.ahead = g.room[:n]
	}
	n := copy(p, g.ahead)
	g.ahead = g.ahead[n:]
	return n, nil
}

// rest is how long messages are let gather before the next read.
func (g *gatheringConn) rest() time.Duration {
	if !g.drained || g.lag < gatherLag {
		return 0
	}
	return min(g.lag/gatherPart, gatherMost)
}

// waiting reports whether more has been read than was passed on.
func (g *gatheringConn) waiting() bool { return g != nil && len(g.ahead) > 0 }

// sent takes note of a message of pgoutput's and of when it was sent, in microseconds since 2000.
func (g *gatheringConn) sent(at int64, message []byte) {
	if g == nil {
		return
	}
	if message[0] == 'B' && len(message) >= 17 { // final LSN, commit time
		g.committed = int64(binary.BigEndian.Uint64(message[9:]))
	}
	g.lag = time.Duration(at-g.committed) * time.Microsecond
}
