package main

// replication_test.go plays the server's part of a replication session, for what a real one will not do on demand:
// messages in fragments of any size, frames that are cut off, too long or unknown, errors in mid-stream, a consumer that
// stands still.

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// walsender is the scripted server's end.
type walsender struct {
	t    testing.TB
	conn net.Conn
	back *pgproto3.Backend
}

// dialWalsender returns both ends of a connection that has been through its start-up.
func dialWalsender(t testing.TB) (*pgconn.PgConn, *walsender) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	config, err := pgconn.ParseConfig("postgres://u@localhost/d")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgconn.Construct(&pgconn.HijackedConn{
		Conn: client, PID: 4711, TxStatus: 'I', Frontend: pgproto3.NewFrontend(client, client), Config: config,
	})
	if err != nil {
		t.Fatal(err)
	}
	return conn, &walsender{t: t, conn: server, back: pgproto3.NewBackend(server, server)}
}

func (w *walsender) send(messages ...pgproto3.BackendMessage) {
	for _, m := range messages {
		w.back.Send(m)
	}
	if err := w.back.Flush(); err != nil {
		w.t.Errorf("the server cannot write: %v", err)
	}
}

func (w *walsender) write(raw []byte) {
	if _, err := w.conn.Write(raw); err != nil && !errors.Is(err, net.ErrClosed) {
		w.t.Logf("the server cannot write: %v", err)
	}
}

// begin answers START_REPLICATION.
func (w *walsender) begin(answer ...pgproto3.BackendMessage) string {
	m, err := w.back.Receive()
	if err != nil {
		w.t.Errorf("the server cannot read: %v", err)
		return ""
	}
	w.send(answer...)
	if q, ok := m.(*pgproto3.Query); ok {
		return q.String
	}
	return fmt.Sprintf("%T", m)
}

// standbyStatus reads the next standby status update.
type standbyStatus struct {
	written, flushed, applied lsn
	reply                     bool
}

func (w *walsender) status(within time.Duration) (s standbyStatus, err error) {
	if err := w.conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		return s, err
	}
	m, err := w.back.Receive()
	if err != nil {
		return s, err
	}
	d, ok := m.(*pgproto3.CopyData)
	if !ok || len(d.Data) != 34 || d.Data[0] != 'r' {
		return s, fmt.Errorf("%T %v is no status update", m, m)
	}
	at := func(i int) lsn { return lsn(binary.BigEndian.Uint64(d.Data[i:])) }
	return standbyStatus{at(1), at(9), at(17), d.Data[33] == 1}, nil
}

// startScripted starts a session against the script.
func startScripted(t testing.TB, acks *acknowledgements, timeout time.Duration) (*replication, *walsender) {
	t.Helper()
	conn, w := dialWalsender(t)
	asked := make(chan string, 1)
	go func() { asked <- w.begin(&pgproto3.CopyBothResponse{}) }()
	s, err := startReplication(t.Context(), conn, subscription{`sl"ot`, "pub'", 0x16_B374D848}, acks, timeout)
	if err != nil {
		t.Fatal(err)
	}
	const want = `START_REPLICATION SLOT "sl""ot" LOGICAL 16/B374D848 ("proto_version" '1', "publication_names" '"pub''"')`
	if have := <-asked; have != want {
		t.Fatalf("asked for %s, want %s", have, want)
	}
	if s.pid != 4711 {
		t.Errorf("pid %d", s.pid)
	}
	t.Cleanup(s.close)
	return s, w
}

func xlogData(start lsn, data string) []byte {
	body := "w" + u64(uint64(start)) + u64(uint64(start)) + u64(0) + data
	return []byte("d" + u32(uint32(4+len(body))) + body)
}

func keepaliveFrame(end lsn, reply bool) []byte {
	body := "k" + u64(uint64(end)) + u64(0) + "\x00"
	if reply {
		body = body[:len(body)-1] + "\x01"
	}
	return []byte("d" + u32(uint32(4+len(body))) + body)
}

// checkGoroutines fails if goroutines outlive the test's end.
func checkGoroutines(t testing.TB) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for range 200 {
			if runtime.NumGoroutine() <= before {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		stacks := make([]byte, 1<<16)
		t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
	})
}

func TestStartReplicationErrors(t *testing.T) {
	refused := &pgproto3.ErrorResponse{Severity: "ERROR", Code: "55006", Message: `replication slot "s" is active for PID 7`}
	for _, tc := range []struct {
		name   string
		answer func(w *walsender)
		want   string
	}{
		{
			"refused", func(w *walsender) { w.begin(&pgproto3.NoticeResponse{Message: "a notice"}, refused) },
			`ERROR: replication slot "s" is active for PID 7 (SQLSTATE 55006)`,
		},
		{
			"another message", func(w *walsender) { w.begin(&pgproto3.CommandComplete{CommandTag: []byte("X")}) },
			`unexpected message 'C' in answer to START_REPLICATION`,
		},
		{"closed", func(w *walsender) { w.begin(); w.conn.Close() }, "EOF"},
		{"cut off", func(w *walsender) { w.begin(); w.write([]byte("W\x00\x00\x00\x09a")); w.conn.Close() }, "unexpected EOF"},
		{
			"too long", func(w *walsender) { w.begin(); w.write([]byte("W\x7f\x00\x00\x00")) },
			"message 'W' of 2130706428 bytes in answer to START_REPLICATION",
		},
		{
			"too short", func(w *walsender) { w.begin(); w.write([]byte("W\x00\x00\x00\x01")) },
			"message 'W' of -3 bytes in answer to START_REPLICATION",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			conn, w := dialWalsender(t)
			done := make(chan struct{})
			go func() { defer close(done); tc.answer(w) }()
			_, err := startReplication(t.Context(), conn, subscription{"s", "p", 1}, &acknowledgements{}, 0)
			<-done
			if want := `start replication of slot "s" at 0/1: ` + tc.want; errorText(err) != want {
				t.Errorf("error\n%s, want\n%s", errorText(err), want)
			}
			if tc.name == "refused" && sqlState(err) != "55006" {
				t.Errorf("SQLSTATE %s", sqlState(err))
			}
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		conn, w := dialWalsender(t)
		why := errors.New("the reason")
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() { w.begin(); cancel(why) }()
		if _, err := startReplication(ctx, conn, subscription{"s", "p", 1}, &acknowledgements{}, 0); !errors.Is(err, why) {
			t.Errorf("error %v", err)
		}
	})
}

// collectMessages reads n messages as text.
func collectMessages(ctx context.Context, s *replication, n int) (all []string, err error) {
	for range n {
		m, err := s.next(ctx)
		if err != nil {
			return all, err
		}
		all = append(all, fmt.Sprintf("%c %s %x", m.kind, m.start, m.data))
	}
	return all, nil
}

// Fragmentation changes nothing, however the bytes come; what is lent is spoiled once it has been given back.
func TestReceiveFragments(t *testing.T) {
	random := testRandom(t)
	var stream []byte
	var want []string
	for i := range 300 {
		at := lsn(i + 1)
		switch i % 10 {
		case 3:
			stream = append(stream, keepaliveFrame(at, false)...)
			want = append(want, fmt.Sprintf("k %s ", at))
		case 6: // of a kind that is passed over, and a notice
			stream = append(stream, "S\x00\x00\x00\x06\x00\x00N\x00\x00\x00\x05\x00"...)
			want = append(want, "N 0/0 00")
		case 7: // a message without contents, which the session hands on
			stream = append(stream, xlogData(at, "")...)
			want = append(want, fmt.Sprintf("w %s ", at))
		default:
			data := strings.Repeat(string(rune('a'+i%26)), random.IntN(3000))
			if i == 155 {
				data = strings.Repeat("L", 3*receiveBuffer) // larger than the buffer
			}
			stream = append(stream, xlogData(at, data)...)
			want = append(want, fmt.Sprintf("w %s %x", at, data))
		}
	}
	for name, piece := range map[string]func() int{
		"whole":          func() int { return len(stream) },
		"large":          func() int { return 1 + random.IntN(2*receiveBuffer) },
		"small":          func() int { return 1 + random.IntN(700) },
		"byte by byte":   func() int { return 1 },
		"frame by frame": nil,
	} {
		t.Run(name, func(t *testing.T) {
			checkGoroutines(t)
			sent, want := stream, want
			if name == "byte by byte" { // a few messages are enough
				sent, want = sent[:0:0], want[:40]
				n := 0
				for rest := stream; n < len(want); {
					size := 1 + int(binary.BigEndian.Uint32(rest[1:]))
					sent = append(sent, rest[:size]...)
					if rest[0] != 'S' {
						n++
					}
					rest = rest[size:]
				}
			}
			client, server := net.Pipe()
			defer client.Close()
			go func() {
				defer server.Close()
				for rest := sent; len(rest) > 0; {
					n := 0
					if piece == nil {
						n = 1 + int(binary.BigEndian.Uint32(rest[1:]))
					} else {
						n = min(piece(), len(rest))
					}
					if _, err := server.Write(rest[:n]); err != nil {
						return
					}
					rest = rest[n:]
				}
			}()
			s := pipeSession(client)
			go func() { _ = s.receive(t.Context()) }()
			have, err := collectMessages(t.Context(), s, len(want))
			if err != nil {
				t.Fatal(err)
			}
			for i := range want {
				if have[i] != want[i] {
					t.Fatalf("message %d is %.80s, want %.80s", i, have[i], want[i])
				}
			}
			if _, err := s.next(t.Context()); errorText(err) != "receive the replication stream: EOF" {
				t.Errorf("at the end: %v", err)
			}
		})
	}
}

// pipeSession is a session that streams already.
func pipeSession(conn net.Conn) *replication {
	s := &replication{
		conn: conn, full: make(chan *batch, sessionBuffers), free: make(chan *batch, sessionBuffers), ask: make(chan struct{}, 1),
		cut: make(chan []cutClass, 1), acks: &acknowledgements{}, interval: time.Hour,
	}
	for range sessionBuffers {
		s.free <- &batch{buf: make([]byte, 0, receiveBuffer)}
	}
	return s
}

func TestReceiveErrors(t *testing.T) {
	const receive = "receive the replication stream: "
	good := string(xlogData(1, "B"))
	response, err := (&pgproto3.ErrorResponse{Severity: "FATAL", Code: "57P01", Message: "terminating connection"}).Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, stream string
		good         int
		want         string
	}{
		{"end", good, 1, receive + "EOF"},
		{"cut off in a header", good + "d\x00\x00", 1, receive + "EOF"},
		{"cut off in a body", good + good[:20], 1, receive + "EOF"},
		{"server's error", good + string(response), 1, receive + "FATAL: terminating connection (SQLSTATE 57P01)"},
		{"copy done", good + "c\x00\x00\x00\x04", 1, "the server ended the replication stream"},
		{"command complete", good + "C\x00\x00\x00\x05\x00", 1, "the server ended the replication stream"},
		{"notices and settings", "N\x00\x00\x00\x05\x00S\x00\x00\x00\x06\x00\x00" + good, 2, receive + "EOF"},
		{"unknown frame", good + "!\x00\x00\x00\x04", 1, receive + "unexpected message '!'"},
		{"unknown data", "d\x00\x00\x00\x05q", 0, receive + "unexpected CopyData 'q'"},
		{"empty data", "d\x00\x00\x00\x04", 0, receive + "empty CopyData"},
		{"short data", "d\x00\x00\x00\x08w123", 0, receive + "XLogData of 4 bytes, want at least 25"},
		{"short keepalive", "d\x00\x00\x00\x08k123", 0, receive + "keepalive of 4 bytes, want 18"},
		{"long keepalive", "d" + u32(4+19) + "k" + strings.Repeat("\x00", 18), 0, receive + "keepalive of 19 bytes, want 18"},
		{"length below its own", "d\x00\x00\x00\x03", 0, receive + `frame 'd' of 3 bytes`},
		{"length beyond any message", "d\x7f\xff\xff\xff", 0, receive + `frame 'd' of 2147483647 bytes`},
		{"bad length behind good frames", good + good + "d\x00\x00\x00\x03", 2, receive + `frame 'd' of 3 bytes`},
		{"negative length", "d\xff\xff\xff\xff", 0, receive + `frame 'd' of 4294967295 bytes`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			checkGoroutines(t)
			client, server := net.Pipe()
			go func() {
				_, _ = io.WriteString(server, tc.stream)
				server.Close()
			}()
			s := pipeSession(client)
			go func() { _ = s.receive(t.Context()) }()
			all, err := collectMessages(t.Context(), s, 100)
			if len(all) != tc.good || errorText(err) != tc.want {
				t.Errorf("%d messages, then %q; want %d, %q", len(all), errorText(err), tc.good, tc.want)
			}
			client.Close()
		})
	}
}

// FuzzReceive: no bytes from the server make the session panic or hang, and how they are cut changes nothing.
func FuzzReceive(f *testing.F) {
	f.Add(append(xlogData(1, "B"), keepaliveFrame(9, true)...), uint64(1))
	f.Add([]byte("d\x00\x00\x00\x05q"), uint64(2))
	f.Add([]byte("N\x00\x00\x00\x04E\x00\x00\x00\x04"), uint64(3))
	f.Add([]byte("d\x00\x00\x00\x05\xf5N\xb2\x8f\xcbq"), uint64(150)) // a bad length behind a frame
	batches := make([]*batch, 300/5+3)                                // a frame has five bytes at least; one more is asked for when all is read
	for i := range batches {
		batches[i] = &batch{buf: make([]byte, 0, receiveBuffer)}
	}
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		if len(stream) > 300 {
			return // byte by byte that takes long, and shows no more
		}
		random := rand.New(rand.NewPCG(seed, 1))
		var outcomes [3]string // whole; in pieces; in pieces of what was read ahead
		for i := range outcomes {
			s := &replication{ask: make(chan struct{}, 1), conn: &scriptedConn{rest: stream, piece: func() int {
				if i == 0 {
					return len(stream)
				}
				return 1 + random.IntN(9)
			}}}
			if i == 2 {
				s.link = &gatheringConn{Conn: s.conn, gathers: true, room: make([]byte, 100)}
				s.conn = s.link
			}
			// One after the other, as the fuzzer wants its coverage repeatable: whatever is received waits in full.
			s.full, s.free = make(chan *batch, len(batches)), make(chan *batch, len(batches))
			for _, b := range batches {
				s.free <- b
			}
			_ = s.receive(t.Context())
			all, err := collectMessages(t.Context(), s, len(stream))
			outcomes[i] = fmt.Sprint(all, err)
		}
		if outcomes[0] != outcomes[1] || outcomes[0] != outcomes[2] {
			t.Fatalf("%s\nin pieces\n%s\nread ahead\n%s", outcomes[0], outcomes[1], outcomes[2])
		}
	})
}

// scriptedConn yields bytes in pieces, then EOF.
type scriptedConn struct {
	net.Conn
	rest  []byte
	piece func() int
}

func (c *scriptedConn) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.rest[:min(c.piece(), len(c.rest))])
	c.rest = c.rest[n:]
	return n, nil
}

func (c *scriptedConn) SetDeadline(time.Time) error { return nil }

// The consumer stands still: what is received is bounded, the server is answered, and only what was acknowledged is
// reported.
func TestBlockedConsumer(t *testing.T) {
	checkGoroutines(t)
	acks := newAcknowledgements()
	acks.flushed.Store(5)
	s, w := startScripted(t, acks, 600*time.Millisecond)
	if s.interval != 100*time.Millisecond {
		t.Fatalf("an interval of %s, want a sixth of the server's timeout", s.interval)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- s.receive(ctx) }()
	go func() { ended <- s.standby(ctx) }()
	written := make(chan int, 1)
	go func() { // until the sockets' buffers are full as well
		frame := xlogData(9, strings.Repeat("x", 64<<10))
		total := 0
		_ = w.conn.SetWriteDeadline(time.Now().Add(700 * time.Millisecond))
		for {
			n, err := w.conn.Write(frame)
			total += n
			if err != nil {
				written <- total
				return
			}
		}
	}()
	replies := 0
	for i := range 6 {
		status, err := w.status(5 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		flushed := lsn(0)
		if i == 0 { // afterwards that is no news
			flushed = 5
		}
		if status.written != 5 || status.flushed != flushed || status.applied != 5 {
			t.Errorf("status %d: %+v, but only 5 was acknowledged", i, status)
		}
		if status.reply {
			replies++
		}
	}
	if replies < 4 {
		t.Errorf("%d of 6 status updates ask for an answer", replies)
	}
	acks.flushed.Store(7)
	s.wake()
	for _, flushed := range []lsn{7, 0} { // it is taken back at once
		status, err := w.status(5 * time.Second)
		for err == nil && status.applied == 5 { // sent before
			status, err = w.status(5 * time.Second)
		}
		if err != nil || status.flushed != flushed || status.applied != 7 {
			t.Errorf("%+v (%v), want %s, the position acknowledged since, as applied, and %s as flushed", status, err, lsn(7), flushed)
		}
	}
	total := <-written
	held := len(s.full)
	if held > sessionBuffers {
		t.Errorf("%d buffers are held", held)
	}
	t.Logf("%d KiB were taken from the server, %d buffers held", total>>10, held)
	cancel()
	for range 2 {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	}
}

// A keepalive that asks for a reply is answered at once, with its position as written, though the capture does nothing; and
// askKeepalive asks. An acknowledgement is reported at once in a prompt session only.
func TestKeepalives(t *testing.T) {
	checkGoroutines(t)
	acks := newAcknowledgements()
	s, w := startScripted(t, acks, 0)
	if s.interval != statusInterval {
		t.Errorf("an interval of %s", s.interval)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- s.receive(ctx) }()
	go func() { ended <- s.standby(ctx) }()
	if status, err := w.status(5 * time.Second); err != nil || status.reply {
		t.Fatalf("the first update: %+v, %v", status, err)
	}
	w.write(keepaliveFrame(77, false))
	w.write(keepaliveFrame(88, true))
	if status, err := w.status(5 * time.Second); err != nil || status != (standbyStatus{written: 88}) {
		t.Errorf("the answer: %+v, %v", status, err)
	}
	have, err := collectMessages(ctx, s, 2)
	if err != nil || have[0] != "k 0/4D " || have[1] != "k 0/58 " {
		t.Fatalf("%v, %v", have, err)
	}
	s.askKeepalive()
	if status, err := w.status(5 * time.Second); err != nil || !status.reply {
		t.Errorf("asked: %+v, %v", status, err)
	}
	if _, err := w.status(200 * time.Millisecond); err == nil {
		t.Error("an update that nobody asked for")
	}
	acknowledge := func(at lsn) {
		t.Helper()
		acks.push(at)
		if err := acks.pop(1); err != nil {
			t.Fatal(err)
		}
	}
	acknowledge(80)
	if _, err := w.status(200 * time.Millisecond); err == nil {
		t.Error("an acknowledgement is reported at once")
	}
	s.prompt.Store(true)
	acknowledge(81)
	for _, want := range []standbyStatus{{written: 88, flushed: 81, applied: 81}, {written: 88, applied: 81}} {
		if status, err := w.status(5 * time.Second); err != nil || status != want {
			t.Errorf("an acknowledgement in a prompt session: %+v, %v, want %+v", status, err, want)
		}
		if want.flushed != 0 {
			if _, err := w.status(200 * time.Millisecond); err == nil {
				t.Error("the position is taken back before the server asks")
			}
			s.wake()
		}
	}
	cancel()
	for range 2 {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	}
	if _, err := s.next(context.Background()); !errors.Is(err, context.Canceled) {
		t.Errorf("next after the end: %v", err)
	}
}

// The buffer of an outlier is not kept, and buffers go round.
func TestReceiveBuffersRecycle(t *testing.T) {
	checkGoroutines(t)
	client, server := net.Pipe()
	defer client.Close()
	const messages = 200
	checked := make(chan struct{})
	go func() {
		defer server.Close()
		for i := range messages {
			if i == 12 { // what is written next may stand where the message that is looked at stood
				<-checked
			}
			size := 100
			if i == 3 {
				size = 8 * receiveBuffer
			}
			if _, err := server.Write(xlogData(lsn(i), strings.Repeat("x", size))); err != nil {
				return
			}
		}
	}()
	s := pipeSession(client)
	received := make(chan struct{})
	go func() { _ = s.receive(t.Context()); close(received) }()
	buffers := make(map[*batch]bool)
	var lent []byte
	for i := range messages {
		m, err := s.next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if i == 10 {
			lent = m.data
		}
		if i == 11 {
			if invariants && bytes.Contains(lent, []byte("x")) {
				t.Error("a message is still readable after its time")
			}
			close(checked)
		}
		buffers[s.current] = true
	}
	client.Close()
	<-received // the buffers are its
	if len(buffers) > sessionBuffers {
		t.Errorf("%d buffers, want at most %d", len(buffers), sessionBuffers)
	}
	for b := range buffers {
		if cap(b.buf) > 4*receiveBuffer {
			t.Errorf("a buffer of %d KiB is kept", cap(b.buf)>>10)
		}
	}
}

func TestReceiveAllocations(t *testing.T) {
	frames := bytes.Repeat(xlogData(7, strings.Repeat("x", 200)), 1000)
	s := pipeSession(&scriptedConn{rest: frames, piece: func() int { return receiveBuffer }})
	go func() { _ = s.receive(t.Context()) }()
	n := testing.AllocsPerRun(900, func() {
		if _, err := s.next(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations a message", n)
	}
}

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
	config, err := (&database{settings: s}).connectConfig()
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
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
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
	session, err := startReplication(ctx, conn, subscription{s.slot, s.publication, start}, &acknowledgements{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	session.close()
}
