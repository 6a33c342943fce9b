package main

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
)

// slowConn returns from writes so late that pgx has begun to read in the background and the answer is there.
type slowConn struct {
	net.Conn
	slow *atomic.Bool
}

func (c slowConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if c.slow.Load() {
		time.Sleep(100 * time.Millisecond)
	}
	return n, err
}

// TestStartReplicationAfterSlowWrite: on a busy machine the connection that is taken over for the stream may still be read
// by pgx, which would swallow the stream's beginning. A slow write makes that certain.
func TestStartReplicationAfterSlowWrite(t *testing.T) {
	db := newTestDB(t)
	s := db.settings()
	config, err := connectConfig(s)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["replication"] = "database"
	var slow atomic.Bool
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		return slowConn{c, &slow}, err
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	start, err := createSlot(ctx, db.connect(s), conn, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	slow.Store(true)
	if _, err := pglogrepl.IdentifySystem(ctx, conn); err != nil {
		t.Fatal(err)
	}
	slow.Store(false)
	session, err := startReplication(ctx, conn, s.slot, s.publication, start, new(atomic.Uint64), 0)
	if err != nil {
		t.Fatal(err)
	}
	session.close()
}
