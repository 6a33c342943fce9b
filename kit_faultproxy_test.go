package main

// kit_faultproxy_test.go puts a proxy that misbehaves between the connector and the server.
//
// Goal: whatever a network does to either connection, or to the SSH connection that both go through, in a backfill or while
// streaming, it is noticed within a minute, its cause is named, and nothing is lost or repeated. Method: a proxy of our own, since a packet filter is not to be had
// everywhere: it resets, swallows, delays, cuts into bytes, and breaks off inside a message.

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// linkKind tells the two sorts of connections apart.
type linkKind int

const (
	linkQuery linkKind = iota
	linkReplication
	linkSSH // both, and not to be told apart
)

func (k linkKind) String() string { return [...]string{"query", "replication", "SSH"}[k] }

// faultProxy listens on a loopback port and passes every connection on to the server.
type faultProxy struct {
	t        testing.TB
	listener net.Listener
	target   atomic.Pointer[string]
	opaque   bool // connections are not the server's own protocol

	latency  atomic.Int64                                      // nanoseconds before each piece is passed on
	fragment atomic.Bool                                       // pieces of one byte
	corrupt  atomic.Pointer[func(kind linkKind, piece []byte)] // changes what comes from the server

	mu    sync.Mutex
	links map[*link]bool
}

// link is one connection through the proxy.
type link struct {
	kind           linkKind
	client, server net.Conn
	swallow        atomic.Bool   // nothing passes any more, nobody is told
	held           atomic.Bool   // nothing passes for now
	left           atomic.Int64  // bytes from the server until the link is reset; negative for ever
	over           chan struct{} // closed when the link is
	once           sync.Once
}

func startFaultProxy(t testing.TB) *faultProxy {
	t.Helper()
	return startFaultProxyTo(t, *testAddress, false)
}

// startFaultProxyTo is startFaultProxy to another address; opaque connections are those of SSH.
func startFaultProxyTo(t testing.TB, target string, opaque bool) *faultProxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &faultProxy{t: t, listener: listener, opaque: opaque, links: make(map[*link]bool)}
	p.target.Store(&target)
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go p.pass(client)
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		p.each(-1, (*link).reset)
	})
	return p
}

func (p *faultProxy) address() string { return p.listener.Addr().String() }

// pass serves one connection.
func (p *faultProxy) pass(client net.Conn) {
	kind, startup := linkSSH, []byte(nil)
	if !p.opaque {
		var err error
		if kind, startup, err = readStartup(client); err != nil {
			client.Close()
			return
		}
	}
	server, err := net.Dial("tcp", *p.target.Load())
	if err != nil {
		client.Close()
		return
	}
	l := &link{kind: kind, client: client, server: server, over: make(chan struct{})}
	l.left.Store(-1)
	p.mu.Lock()
	p.links[l] = true
	p.mu.Unlock()
	if _, err := server.Write(startup); err == nil {
		go p.pump(l, server, client, false)
		p.pump(l, client, server, true)
	}
	l.reset()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// readStartup reads the startup packet, which tells the kind.
func readStartup(client net.Conn) (kind linkKind, startup []byte, err error) {
	var header [4]byte
	if _, err := io.ReadFull(client, header[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(header[:])
	if size < 4 || size > 1<<16 {
		return 0, nil, fmt.Errorf("a startup packet of %d bytes", size)
	}
	startup = append(header[:], make([]byte, size-4)...)
	if _, err := io.ReadFull(client, startup[4:]); err != nil {
		return 0, nil, err
	}
	if bytes.Contains(startup, []byte("replication\x00database\x00")) {
		kind = linkReplication
	}
	return kind, startup, nil
}

// pump passes on one direction.
func (p *faultProxy) pump(l *link, dst, src net.Conn, fromServer bool) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		for rest := buf[:n]; len(rest) > 0; {
			piece := rest
			if p.fragment.Load() {
				piece = rest[:1]
			}
			for l.held.Load() && !l.swallow.Load() {
				select {
				case <-time.After(10 * time.Millisecond):
				case <-l.over:
					return
				}
			}
			if f := p.corrupt.Load(); f != nil && fromServer {
				(*f)(l.kind, piece)
			}
			if d := time.Duration(p.latency.Load()); d > 0 {
				time.Sleep(d)
			}
			if left := l.left.Load(); fromServer && left >= 0 {
				piece = piece[:min(int64(len(piece)), left)]
				l.left.Add(-int64(len(piece)))
			}
			if !l.swallow.Load() {
				if _, err := dst.Write(piece); err != nil {
					l.reset()
					return
				}
			}
			if fromServer && l.left.Load() == 0 {
				l.reset()
				return
			}
			rest = rest[len(piece):]
		}
		if err != nil {
			l.reset()
			return
		}
	}
}

// reset ends the link at both ends, towards the connector by RST.
func (l *link) reset() {
	l.once.Do(func() {
		if tcp, ok := l.client.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		l.client.Close()
		l.server.Close()
		close(l.over)
	})
}

// each does something to the links of a kind, -1 for all, and returns how many there were.
func (p *faultProxy) each(kind linkKind, f func(*link)) int {
	p.mu.Lock()
	var links []*link
	for l := range p.links {
		if kind < 0 || l.kind == kind {
			links = append(links, l)
		}
	}
	p.mu.Unlock()
	for _, l := range links {
		f(l)
	}
	return len(links)
}

// proxied is the test database's config with the proxy's address.
func (db *testDB) proxied(p *faultProxy, advanced map[string]any) json.RawMessage {
	db.Helper()
	config := make(map[string]any)
	if err := json.Unmarshal(db.edgeConfig(advanced), &config); err != nil {
		db.Fatal(err)
	}
	config["address"] = p.address()
	text, err := json.Marshal(config)
	if err != nil {
		db.Fatal(err)
	}
	return text
}

// TestConnectionFaults: each fault, on each connection, in a backfill and while streaming.
func TestConnectionFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for time-outs")
	}
	patience := 3 * time.Second
	if *longTests {
		patience = 0 // the product's own limits
	}
	for name, fault := range map[string]struct {
		inject func(p *faultProxy, kind linkKind) (undo func())
		// told is what a status or a log says; "" when the fault need not be noticed.
		told map[linkKind]string
		both bool // it strikes both kinds at once
	}{
		"reset": {inject: func(p *faultProxy, kind linkKind) func() {
			p.each(kind, (*link).reset)
			return nil
		}},
		"cut inside a message": {inject: func(p *faultProxy, kind linkKind) func() {
			p.each(kind, func(l *link) { l.left.Store(37) })
			return nil
		}},
		"black hole": {
			inject: func(p *faultProxy, kind linkKind) func() {
				p.each(kind, func(l *link) { l.swallow.Store(true) })
				return nil
			},
			told: map[linkKind]string{
				linkReplication: "The replication connection has been silent for",
				linkSSH:         "the SSH connection was lost: nothing has come from it for",
			},
		},
		"stall": {inject: func(p *faultProxy, kind linkKind) func() {
			p.each(kind, func(l *link) { l.held.Store(true) })
			return func() { p.each(kind, func(l *link) { l.held.Store(false) }) }
		}},
		"one byte at a time": {both: true, inject: func(p *faultProxy, _ linkKind) func() {
			p.fragment.Store(true)
			return func() { p.fragment.Store(false) }
		}},
		"latency": {both: true, inject: func(p *faultProxy, _ linkKind) func() {
			p.latency.Store(int64(50 * time.Millisecond))
			return func() { p.latency.Store(0) }
		}},
	} {
		for _, kind := range []linkKind{linkQuery, linkReplication, linkSSH} {
			if fault.both && kind == linkReplication {
				continue
			}
			for _, streaming := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/streaming=%v", name, kind, streaming), func(t *testing.T) {
					t.Parallel()
					testConnectionFault(t, connectionFault{kind, streaming, patience, fault.inject, fault.told[kind]})
				})
			}
		}
	}
}

// connectionFault is what becomes of one connection.
type connectionFault struct {
	kind      linkKind
	streaming bool          // while that streams, or else backfills
	patience  time.Duration // of the connector with it; 0: the usual
	inject    func(*faultProxy, linkKind) (undo func())
	told      string // what the connector says of it
}

func testConnectionFault(t *testing.T, f connectionFault) {
	inject, told, kind, streaming, patience := f.inject, f.told, f.kind, f.streaming, f.patience
	db := newTestDB(t)
	advanced := map[string]any{"backfill_chunk_size": 20, "read_only_capture": kind == linkQuery && streaming}
	var p *faultProxy
	var config json.RawMessage
	if kind == linkSSH {
		server := startSSHServer(t)
		p = startFaultProxyTo(t, server.address, true)
		config = db.tunnelled(server.forwarding(p.address()), advanced, nil)
	} else {
		p = startFaultProxy(t)
		config = db.proxied(p, advanced)
	}
	const rows = 300
	table, other := db.edgeTable("t", "int PRIMARY KEY", rows), db.edgeTable("other", "int PRIMARY KEY", 5)
	injected := make(chan struct{})
	var undo func()
	var once sync.Once
	strike := func() {
		once.Do(func() {
			undo = inject(p, kind)
			close(injected)
		})
	}
	env := []string{}
	if patience > 0 {
		env = append(env, testPatienceVariable+"="+patience.String())
	}
	r := newTestRuntime(t, runtimeOptions{
		config: config,
		env:    env,
		onCheckpoint: func(r *testRuntime, _ json.RawMessage) {
			if !streaming && len(r.uncommitted)+len(r.committed) >= 100 {
				strike()
			}
		},
	})
	r.bind(r.edgeBindings(map[tableName]backfillMode{table: modeAutomatic, other: modeAutomatic}))
	r.start()
	if streaming {
		r.waitEnd(db, table)
		strike()
	}
	<-injected
	struck := time.Now()
	if streaming { // the catalog is read again
		db.exec(fmt.Sprintf("ALTER TABLE %[1]s ADD COLUMN w int; INSERT INTO %[1]s VALUES (100, 'wider', 1)", quoteTable(other)))
	}
	change := func(from int) {
		for i := range 20 {
			db.exec(fmt.Sprintf("INSERT INTO %[1]s VALUES (%[2]d, 'new'); UPDATE %[1]s SET v = v || '+' WHERE id %% 7 = %[3]d; "+
				"DELETE FROM %[1]s WHERE id = %[4]d", quoteTable(table), 10_000+from+i, i%7, 2*(from+i)+1))
		}
	}
	change(0)
	if told != "" {
		r.waitLog(told)
		if took := time.Since(struck); patience == 0 && took > allow(time.Minute) {
			t.Errorf("the fault was noticed after %s", took)
		}
	}
	if undo != nil {
		time.Sleep(time.Second)
		undo()
	}
	change(20)
	id := 1_000_000_000 + testCount.Add(1)
	db.exec(fmt.Sprintf("INSERT INTO %s VALUES (%d, 'the end')", quoteTable(table), id))
	for ended := true; ended; ended = r.resume() { // a fault ends the process where documents follow the last checkpoint
		r.waitFor("the last document", func() bool {
			return r.ended || slices.ContainsFunc(r.committed, func(d testDocument) bool {
				return strings.Contains(d.doc, fmt.Sprintf(`"id":%d,`, id))
			})
		})
	}
	r.strict(table)
	r.checkRows(db, table)
	r.stop()
	if err := r.wait(); err != nil {
		t.Error(err)
	}
	for _, log := range r.logs {
		if strings.Contains(log.message, "secret") || strings.Contains(log.message, "PRIVATE KEY") {
			t.Errorf("a log holds the password, or a key: %s", log.message)
		}
	}
}

// TestStoppedSender: a walsender that neither sends nor answers is told from one that is at work, and given up; the capture
// goes on with another as soon as the slot is free.
func TestStoppedSender(t *testing.T) {
	server := startServer(t)
	db := newTestDB(t)
	table := db.edgeTable("t", "int PRIMARY KEY", 10)
	r := edgeStart(db, runtimeOptions{
		config: db.config(), env: []string{testPatienceVariable + "=2s"},
	}, map[tableName]backfillMode{table: modeAutomatic})
	r.waitEnd(db, table)
	thaw := server.freeze(db)
	db.exec(fmt.Sprintf("INSERT INTO %s VALUES (100, 'while it was stopped')", quoteTable(table)))
	r.waitLog("The replication connection has been silent for")
	r.waitLog("which another session still holds")
	thaw()
	r.waitEnd(db, table)
	r.strict(table)
	r.checkRows(db, table)
}

// TestQuietQuery: a query that is silent for longer than the limit, but at work, is waited for.
func TestQuietQuery(t *testing.T) {
	db := newTestDB(t)
	limit := answerLimit
	answerLimit = time.Second // in which a busy machine can connect
	t.Cleanup(func() { answerLimit = limit })
	err := db.connect(nil).with(db.ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(db.ctx, "SELECT pg_sleep(2.5)")
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestServerMoves: behind one address a promoted standby takes the place of a primary that stays up. Nothing is asked of the
// old one any more, neither a query nor a watermark.
func TestServerMoves(t *testing.T) {
	primary := startServer(t)
	db := newTestDB(t)
	db.requireVersion(150000) // of pg_backup_start, by which tests/postgres.sh makes a standby
	table := db.edgeTable("t", "int PRIMARY KEY", 10)
	standby := primary.standby()
	p := startFaultProxy(t)
	r := edgeStart(db, runtimeOptions{config: db.proxied(p, map[string]any{"on_slot_loss": "backfill"})},
		map[tableName]backfillMode{table: modeAutomatic})
	r.waitStreaming()
	standby.caughtUp(db)
	standby.script("promote")
	p.target.Store(&standby.address)
	p.each(linkReplication, (*link).reset)
	r.waitLog("Reconnecting in")
	r.waitLog("on_slot_loss asks")
	r.waitDocuments(20)
	r.stop()
	if err := r.wait(); err != nil {
		t.Error(err)
	}
}
