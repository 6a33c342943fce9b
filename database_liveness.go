// database_liveness.go owns how a query connection notices that nothing will come any more. A query may run for hours, so silence
// alone says nothing: after answerLimit of it the server is asked, over a connection of its own, whether it is still at
// work on that query. If it has finished, or has lost the session, or cannot be asked, the read fails as one of a broken
// connection does. Without it, a link that drops packets would keep a read waiting for as long as the peer's kernel, or
// anything in between, answers TCP's own probes.

package main

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// answerLimit is how long a query may be silent before the server is asked about it. With connectTimeout for a server that
// does not answer that either, a dead link is noticed within a minute.
var answerLimit = 30 * time.Second

// attentiveConn is the socket of a query connection.
type attentiveConn struct {
	net.Conn
	pid   atomic.Uint32 // of the backend, 0 until the session has begun
	limit time.Duration
	// working asks the server whether the backend is at work on a query.
	working func(pid uint32) (bool, error)

	mu       sync.Mutex
	deadline time.Time // the driver's, for reads
	until    time.Time // our own; zero when no read is under way
}

// Read implements net.Conn.
func (c *attentiveConn) Read(b []byte) (int, error) {
	defer c.expect(time.Time{})
	for {
		c.expect(time.Now().Add(c.limit))
		n, err := c.Conn.Read(b)
		timeout, ok := err.(net.Error)
		pid := c.pid.Load()
		if n > 0 || !ok || !timeout.Timeout() || pid == 0 || c.expired() {
			return n, err
		}
		working, failure := c.working(pid)
		switch {
		case sqlState(failure) == codeTooManyConnections: // no connection is left for the question, but the server is there
			continue
		case failure != nil:
			failure = fmt.Errorf("nothing has come for %s, and the server cannot be asked why: %w", c.limit, failure)
		case !working:
			failure = fmt.Errorf("nothing has come for %s, though the server is not at work on the query any more", c.limit)
		default:
			continue
		}
		return 0, &net.OpError{Op: "read", Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: failure}
	}
}

// expect sets our own deadline for reads; the driver's counts if it is earlier.
func (c *attentiveConn) expect(until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = until
	c.apply()
}

// expired reports whether the driver's deadline has passed.
func (c *attentiveConn) expired() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.deadline.IsZero() && !time.Now().Before(c.deadline)
}

// apply gives the socket the earlier of the two deadlines. REQUIRES: mu. An error of a closed socket is the read's, too.
func (c *attentiveConn) apply() {
	at := c.deadline
	if at.IsZero() || !c.until.IsZero() && c.until.Before(at) {
		at = c.until
	}
	_ = c.Conn.SetReadDeadline(at)
}

// SetReadDeadline implements net.Conn.
func (c *attentiveConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	c.apply()
	return nil
}

// SetDeadline implements net.Conn.
func (c *attentiveConn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}
