// replication.go owns the replication session: START_REPLICATION, the receive half that turns the socket's bytes into
// WAL messages, and the standby half that answers the server. Messages reach the capture in batches that alias the
// receive buffers; the bytes handed over and not yet released are bounded by sessionBuffers*budget.message and one message
// that was larger and is cut as it comes in (value_cut.go). Answering the server never depends on the capture or on stdout, and no
// position but the acknowledged one is ever reported as flushed, so answering is not acknowledging.
//
// A flush position is reported only where there is something to acknowledge, and taken back in the same breath, or, where no
// standby is there whose part we might take, with the next update. Without a valid one a client is asynchronous to the server,
// whatever synchronous_standby_names says (syncrep.c, SyncRepGetCandidateStandbys: "Must have a valid flush position";
// walsender.c, pg_stat_get_wal_senders), and at its shutdown the server waits until the client has received everything, not until
// it has acknowledged that (walsender.c, WalSndDone).

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/sirupsen/logrus"
)

const (
	receiveBuffer  = 256 << 10 // large enough that a read of a busy socket returns many messages
	sessionBuffers = 4
	maxMessage     = 1<<30 + 1<<20 // PostgreSQL builds no message of more than 1 GB (MaxAllocSize)

	// postgresEpoch is 2000-01-01 UTC in Unix microseconds, the zero of timestamps in the replication protocol.
	postgresEpoch = 946684800 * 1000 * 1000
)

// statusInterval is a sixth of the default wal_sender_timeout (60 s), so that five updates may be lost. A shorter timeout of
// the server's shortens it.
var statusInterval = 10 * time.Second

// walMessage is one message of the stream: XLogData ('w'), a primary keepalive ('k'), a notice ('N'), or word ('?') that a change
// follows which is too large to be held, and is read when answer has told how.
type walMessage struct {
	kind  byte
	start lsn    // 'w', '?': WAL start of the message; 'k': how far the server has sent
	data  []byte // 'w', 'N': the message's body; valid until the batch it came in is released. '?': its first five bytes

	// The rows of the change were cut for their own sake, further than documents cut values.
	oldCut, newCut bool
}

// batch is a run of whole CopyData frames in one receive buffer.
type batch struct {
	buf []byte
	n   int // bytes of whole frames

	// asks is set of a batch that holds the beginning of one change only, of which the rest is still to be read.
	asks           bool
	oldCut, newCut bool // as in walMessage
}

// replication is one session of the replication protocol, a connection in CopyBoth mode.
type replication struct {
	conn    net.Conn
	link    *gatheringConn // below conn; owned by receive
	pid     uint32         // of the walsender
	charset *charset       // of the texts as they come; nil where they are UTF-8, or pass for it

	full  chan *batch
	free  chan *batch
	cut   chan []cutClass // how the columns are cut of the change that a batch asks for
	ask   chan struct{}   // a status update is wanted now
	reply atomic.Bool     // the next update asks the server for a keepalive; set by anyone, cleared by standby

	acks      *acknowledgements
	confirmed uint64        // the acknowledged position that the server knows; owned by standby
	sent      atomic.Uint64 // how far the server has sent, by its keepalives; stored by receive, loaded by standby
	prompt    atomic.Bool   // acknowledgements are reported as they come: commits wait for us; stored by watch, loaded by standby
	released  atomic.Bool   // by letServerGo; loaded by receive and standby
	ended     atomic.Bool   // nothing more comes; stored by receive, loaded by watch
	received  atomic.Int64  // Unix nanoseconds of the last byte from the server; stored by receive and answer, loaded by judgeSilence
	interval  time.Duration // between status updates

	current  *batch    // owned by next
	at       int       // offset of the next frame in current
	err      error     // why receive ended; valid once full is closed
	silentAt time.Time // when the silence that lasts was spoken of last; owned by judgeSilence
}

// subscription is what a session streams: what the publication has of the slot's changes, from a position on.
type subscription struct {
	slot, publication string
	start             lsn
}

// startReplication turns a walsender connection into a session that streams the subscription. It owns conn from here on.
func startReplication(ctx context.Context, conn *pgconn.PgConn, of subscription, acks *acknowledgements, senderTimeout time.Duration,
) (*replication, error) {
	if err := quiesce(ctx, conn); err != nil {
		_ = conn.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	charset := charsetOfConn(conn)
	hijacked, err := conn.Hijack()
	if err != nil {
		return nil, fmt.Errorf("take over the replication connection: %w", err)
	}
	assert(hijacked.Frontend.ReadBufferLen() == 0, "nothing is read ahead of START_REPLICATION")
	s := &replication{
		conn:     hijacked.Conn,
		pid:      hijacked.PID,
		charset:  charset,
		full:     make(chan *batch, sessionBuffers),
		free:     make(chan *batch, sessionBuffers),
		cut:      make(chan []cutClass, 1),
		ask:      make(chan struct{}, 1),
		acks:     acks,
		interval: statusInterval,
	}
	if senderTimeout > 0 && senderTimeout/6 < s.interval {
		s.interval = max(senderTimeout/6, 50*time.Millisecond)
	}
	for range sessionBuffers {
		s.free <- &batch{buf: make([]byte, 0, receiveBuffer)}
	}
	// The grammar of replication commands knows no escape in a literal but the doubled quote (repl_scanner.l).
	command := fmt.Sprintf(`START_REPLICATION SLOT %s LOGICAL %s ("proto_version" '1', "publication_names" '%s')`,
		quoteIdent(of.slot), of.start, strings.ReplaceAll(quoteIdent(of.publication), `'`, `''`))
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := s.begin(command); err != nil {
		_ = s.conn.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("start replication of slot %q at %s: %w", of.slot, of.start, err)
	}
	s.received.Store(time.Now().UnixNano())
	s.link = gather(s.conn, receiveBuffer)
	return s, nil
}

// quiesce ends pgx's reading in the background: after a slow write it goes on until something comes, and would take the
// beginning of the stream from us.
func quiesce(ctx context.Context, conn *pgconn.PgConn) error {
	for {
		err := conn.SyncConn(ctx)
		if err == nil {
			return nil
		}
		// Its ping is an empty query, a syntax error to the walsender of version 14 and older; an answer is all we need.
		if sqlState(err) == "" {
			return fmt.Errorf("take over the replication connection: %w", err)
		}
	}
}

// begin sends the command and reads up to CopyBothResponse.
func (s *replication) begin(command string) error {
	query, err := (&pgproto3.Query{String: command}).Encode(nil)
	if err == nil && s.charset != nil {
		query, err = s.charset.appendSent(nil, query)
	}
	if err != nil {
		return err
	}
	if _, err := s.conn.Write(query); err != nil {
		return err
	}
	var header [5]byte
	for {
		if _, err := io.ReadFull(s.conn, header[:]); err != nil {
			return err
		}
		size := int(binary.BigEndian.Uint32(header[1:])) - 4
		if size < 0 || size > 1<<20 {
			return fmt.Errorf("message %q of %d bytes in answer to START_REPLICATION", header[0], size)
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(s.conn, body); err != nil {
			return err
		}
		switch header[0] {
		case 'W': // CopyBothResponse
			return nil
		case 'E':
			return serverError(body)
		case 'N':
			logNotice(body)
		case 'S': // ParameterStatus
		default:
			return fmt.Errorf("unexpected message %q in answer to START_REPLICATION", header[0])
		}
	}
}

func serverError(body []byte) error {
	var response pgproto3.ErrorResponse
	if err := response.Decode(body); err != nil {
		return fmt.Errorf("malformed error response: %w", err)
	}
	return pgconn.ErrorResponseToPgError(&response)
}

// logNotice logs what the server has to say on the replication connection: the decoding of the stream has met something odd.
func logNotice(body []byte) {
	var n pgproto3.NoticeResponse
	if err := n.Decode(body); err != nil {
		logrus.Warnf("malformed notice on the replication connection: %v", err)
		return
	}
	text := n.Message
	if n.Detail != "" {
		text += ". DETAIL: " + n.Detail
	}
	if n.Hint != "" {
		text += ". HINT: " + n.Hint
	}
	logrus.WithFields(logrus.Fields{"severity": n.Severity, "code": n.Code}).Warn("notice on the replication connection: " + text)
}

// errStreamEnded is the server ending the copy by itself, as it does when it shuts down.
var errStreamEnded = errors.New("the server ended the replication stream")

// receive reads the socket until it fails or ctx ends, then closes full. One goroutine.
func (s *replication) receive(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	defer close(s.full)
	defer s.ended.Store(true)
	var tail []byte  // the incomplete frame behind the batch handed over last
	var spare []byte // a buffer to convert into
	for {
		var b *batch
		select {
		case b = <-s.free:
		case <-ctx.Done():
			s.err = context.Cause(ctx)
			return s.err
		}
		b.buf = append(b.buf[:0], tail...)
		b.n, b.oldCut, b.newCut = 0, false, false
		err := s.fill(b)
		whole := b.n
		if err == nil && whole == 0 {
			err = s.fillCut(ctx, b)
		}
		if err != nil {
			switch {
			case ctx.Err() != nil:
				err = context.Cause(ctx)
			case s.released.Load():
				err = errReleased
			default:
				err = fmt.Errorf("receive the replication stream: %w", err)
			}
			s.err = err
			return err
		}
		tail = append(tail[:0], b.buf[b.n:]...) // copied: b's buffer belongs to the capture until it is released
		if s.charset != nil && whole > 0 {
			spare = b.convert(s.charset, spare)
		}
		failpoint("receive.hand-over")
		s.full <- b // never blocks: there are as many places as buffers
	}
}

// convert makes the texts of b's frames UTF-8, in the memory of spare, and returns what held them, to be used in turn.
func (b *batch) convert(c *charset, spare []byte) []byte {
	received := b.buf
	b.buf = spare[:0]
	for at := 0; at < b.n; {
		size := 1 + int(binary.BigEndian.Uint32(received[at+1:]))
		b.buf = c.appendReceived(b.buf, received[at:at+size])
		at += size
	}
	b.n = len(b.buf)
	if cap(received) > 4*receiveBuffer {
		return nil // an outlier's is not kept
	}
	return received
}

// fill reads until b holds at least one whole frame and what came together with it, or the head of a change that is too large for it.
func (s *replication) fill(b *batch) error {
	for {
		if err := s.scan(b); err != nil {
			return err
		}
		if b.n > 0 && !(s.link.waiting() && len(b.buf) < cap(b.buf)) {
			return nil
		}
		want := receiveBuffer
		if len(b.buf) >= 5 {
			if size := 1 + int(binary.BigEndian.Uint32(b.buf[1:])); size <= s.largest() {
				want = max(want, size)
			} else if len(b.buf) >= changeHead {
				if b.isChange() {
					return nil
				}
				if size > budget.row {
					return fmt.Errorf("frame %q of %d bytes that is no change of a row", b.buf[0], size)
				}
				want = size
			}
		}
		if cap(b.buf) < want {
			b.buf = append(make([]byte, 0, want), b.buf...)
		} else if cap(b.buf) > 4*receiveBuffer && want <= receiveBuffer {
			b.buf = append(make([]byte, 0, receiveBuffer), b.buf...) // an outlier's buffer is not kept
		}
		n, err := s.Read(b.buf[len(b.buf):cap(b.buf)])
		b.buf = b.buf[:len(b.buf)+n]
		if err != nil && n == 0 {
			if b.n > 0 {
				return nil // the next read fails, too
			}
			return err
		}
	}
}

// largest is the size of the frames that are read whole: converted, they still fit a receive buffer.
func (s *replication) largest() int {
	if s.charset != nil {
		return budget.message / charsetGrowth
	}
	return budget.message
}

// Read reads the socket, for receive.
func (s *replication) Read(p []byte) (int, error) {
	n, err := s.conn.Read(p)
	if n > 0 {
		s.received.Store(time.Now().UnixNano())
		failpoint("receive.read")
	}
	return n, err
}

// isChange reports whether the frame at the start of b, of which changeHead bytes are there, is a change of a row.
func (b *batch) isChange() bool {
	kind := b.buf[xlogHead]
	return b.buf[0] == 'd' && b.buf[5] == 'w' && (kind == 'I' || kind == 'U' || kind == 'D')
}

// fillCut reads the change of which b holds the beginning, its values cut. How they are to be cut is asked for in the order
// of the stream: by then what the stream said of the relation has been handled.
func (s *replication) fillCut(ctx context.Context, b *batch) error {
	s.full <- &batch{buf: slices.Clone(b.buf[:changeHead]), asks: true} // never blocks: b is in none of the places
	var classes []cutClass
	select {
	case classes = <-s.cut:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	size := 1 + int(binary.BigEndian.Uint32(b.buf[1:]))
	rule := budget.cutRule()
	r := rowCut{
		pieces:  pieces{in: s, have: b.buf[changeHead:], left: size - len(b.buf), room: make([]byte, receiveBuffer)},
		rule:    rule,
		charset: s.charset,
		kinds:   true,
		// Two rows, and a value of each that has not been cut yet.
		dst: append(makeBuffer(min(size, 2*(rule.bound+rule.value))), b.buf[:changeHead]...),
	}
	var err error
	if b.oldCut, b.newCut, err = r.cutChange(classes); err != nil {
		return fmt.Errorf("change of relation %d in %d bytes: %w", binary.BigEndian.Uint32(b.buf[xlogHead+1:]), size, err)
	}
	b.buf = r.dst
	b.n = len(b.buf)
	binary.BigEndian.PutUint32(b.buf[1:], uint32(b.n-1))
	return nil
}

// answer tells how the columns are cut of the change that next has sent word of. Columns without a class are not cut.
func (s *replication) answer(classes []cutClass) {
	// While receive waited for this, however long, the server was not heard for our sake.
	s.received.Store(time.Now().UnixNano())
	s.cut <- classes
}

// A keepalive is a CopyData frame: kind, length; 'k', WAL end, send time, reply wanted.
const keepaliveFrameSize = 5 + 18

// scan advances b.n over whole CopyData frames, and takes note of keepalives: they are answered though the capture stands
// still. Frames of other kinds end the stream or are dropped by next.
func (s *replication) scan(b *batch) error {
	for len(b.buf)-b.n >= 5 {
		size := int(binary.BigEndian.Uint32(b.buf[b.n+1:]))
		if size < 4 || size > maxMessage {
			if b.n > 0 {
				return nil // the frames ahead of it come first
			}
			return fmt.Errorf("frame %q of %d bytes", b.buf[b.n], size)
		}
		if len(b.buf)-b.n < 1+size {
			return nil
		}
		if 1+size == keepaliveFrameSize && b.buf[b.n+5] == 'k' && b.buf[b.n] == 'd' {
			s.sent.Store(binary.BigEndian.Uint64(b.buf[b.n+6:]))
			if b.buf[b.n+keepaliveFrameSize-1] != 0 {
				s.wake()
			}
		} else if size >= changeHead && b.buf[b.n+5] == 'w' && b.buf[b.n] == 'd' {
			s.link.sent(int64(binary.BigEndian.Uint64(b.buf[b.n+xlogHead-8:])), b.buf[b.n+xlogHead:b.n+1+size])
		}
		b.n += 1 + size
	}
	return nil
}

// next returns the next message. It blocks until there is one, the session ends, or ctx does. The message is valid
// until the next call.
func (s *replication) next(ctx context.Context) (walMessage, error) {
	for {
		for s.current == nil {
			select {
			case b, ok := <-s.full:
				if !ok {
					return walMessage{}, s.err
				}
				s.current, s.at = b, 0
			case <-ctx.Done():
				return walMessage{}, context.Cause(ctx)
			}
		}
		b := s.current
		if s.at == b.n {
			if b.asks {
				s.current = nil
				return walMessage{kind: '?', start: lsn(binary.BigEndian.Uint64(b.buf[6:])), data: b.buf[xlogHead:]}, nil
			}
			s.release()
			continue
		}
		size := int(binary.BigEndian.Uint32(b.buf[s.at+1:]))
		kind, body := b.buf[s.at], b.buf[s.at+5:s.at+1+size:s.at+1+size]
		s.at += 1 + size
		m, ok, err := s.frame(kind, body)
		if err != nil || ok {
			if b.oldCut || b.newCut {
				m.oldCut, m.newCut = b.oldCut, b.newCut
			}
			return m, err
		}
	}
}

// ready reports whether next would return at once.
func (s *replication) ready() bool {
	return s.current != nil && (s.at < s.current.n || s.current.asks) || len(s.full) > 0
}

// peek calls f with the pgoutput messages that have arrived in the current batch and are still to come from next, until f
// returns false. They are valid during the call.
func (s *replication) peek(f func(data []byte) bool) {
	if s.current == nil {
		return
	}
	for at := s.at; at < s.current.n; {
		size := int(binary.BigEndian.Uint32(s.current.buf[at+1:]))
		kind, body := s.current.buf[at], s.current.buf[at+5:at+1+size]
		at += 1 + size
		if kind == 'd' && len(body) > 25 && body[0] == 'w' && !f(body[25:]) {
			return
		}
	}
}

// arrived is where the next batch comes; hand it to take. REQUIRES: not ready. The last message is valid no more.
func (s *replication) arrived() <-chan *batch {
	if s.current != nil {
		s.release()
	}
	return s.full
}

// take makes a batch received from arrived the current one.
func (s *replication) take(b *batch, ok bool) error {
	if !ok {
		return s.err
	}
	assert(s.current == nil, "one batch at a time")
	s.current, s.at = b, 0
	return nil
}

// release gives the current batch back to receive.
func (s *replication) release() {
	if invariants {
		spoil(s.current.buf[:cap(s.current.buf)])
	}
	if cap(s.current.buf) > 2*budget.message {
		s.current.buf = nil // an outlier's is not kept
	}
	s.free <- s.current // never blocks: there are as many places as buffers
	s.current = nil
}

// frame interprets one frame; ok is false for those the capture need not see.
func (s *replication) frame(kind byte, body []byte) (m walMessage, ok bool, err error) {
	switch kind {
	case 'd':
	case 'E':
		return m, false, fmt.Errorf("receive the replication stream: %w", serverError(body))
	case 'c', 'C': // CopyDone, CommandComplete
		return m, false, errStreamEnded
	case 'N':
		return walMessage{kind: 'N', data: body}, true, nil
	case 'S':
		return m, false, nil
	default:
		return m, false, fmt.Errorf("receive the replication stream: unexpected message %q", kind)
	}
	if len(body) == 0 {
		return m, false, errors.New("receive the replication stream: empty CopyData")
	}
	switch body[0] {
	case 'w': // XLogData: start, end, send time, data (protocol-replication)
		if len(body) < 25 {
			return m, false, fmt.Errorf("receive the replication stream: XLogData of %d bytes, want at least 25", len(body))
		}
		return walMessage{kind: 'w', start: lsn(binary.BigEndian.Uint64(body[1:])), data: body[25:]}, true, nil
	case 'k': // Primary keepalive: WAL end, send time, reply wanted
		if len(body) != 18 {
			return m, false, fmt.Errorf("receive the replication stream: keepalive of %d bytes, want 18", len(body))
		}
		return walMessage{kind: 'k', start: lsn(binary.BigEndian.Uint64(body[1:]))}, true, nil
	default:
		return m, false, fmt.Errorf("receive the replication stream: unexpected CopyData %q", body[0])
	}
}

// askKeepalive has the server report its position soon.
func (s *replication) askKeepalive() {
	s.reply.Store(true)
	s.wake()
}

func (s *replication) wake() {
	select {
	case s.ask <- struct{}{}:
	default:
	}
}

// standby answers the server: every interval, whenever woken, and in a prompt session at each acknowledgement. One goroutine.
func (s *replication) standby(ctx context.Context) error {
	ticker := time.NewTicker(s.interval)
	defer ticker.Stop()
	for send, stays := true, false; ; {
		if send {
			if err := s.sendStatus(stays); err != nil {
				switch {
				case ctx.Err() != nil:
					return context.Cause(ctx)
				case s.released.Load():
					return errReleased
				}
				return fmt.Errorf("send a standby status update: %w", err)
			}
		}
		select {
		case <-ticker.C:
			s.reply.Store(true) // a healthy link is never silent
			send, stays = true, false
		case <-s.ask:
			send, stays = true, false
		case <-s.acks.moved:
			send = s.prompt.Load()
			stays = send
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// sendStatus writes a Standby status update, which reports what has been received as written and nothing as flushed. One that
// reports the acknowledged position, by which the slot moves, goes ahead of it if that position is news; where it stays, alone:
// the server logs that we are a synchronous standby each time that we become one, and would for every commit. What has been
// acknowledged shows as replayed, too: nothing in the server depends on that.
func (s *replication) sendStatus(stays bool) error {
	acknowledged := s.acks.flushed.Load()
	received := max(s.sent.Load(), acknowledged)
	dst := make([]byte, 0, 2*statusSize)
	if acknowledged > s.confirmed {
		dst = appendStatus(dst, received, acknowledged, acknowledged, false)
	}
	if !stays || len(dst) == 0 {
		dst = appendStatus(dst, received, 0, acknowledged, s.reply.Swap(false))
	}
	failpoint("status.before")
	_, err := s.conn.Write(dst)
	s.confirmed = acknowledged
	failpoint("status.after")
	return err
}

// statusSize is that of a Standby status update: kind, length; 'r', three positions, time, reply wanted.
const statusSize = 5 + 34

func appendStatus(dst []byte, written, flushed, applied uint64, reply bool) []byte {
	dst = append(dst, 'd')
	dst = binary.BigEndian.AppendUint32(dst, statusSize-1)
	dst = append(dst, 'r')
	dst = binary.BigEndian.AppendUint64(dst, written)
	dst = binary.BigEndian.AppendUint64(dst, flushed)
	dst = binary.BigEndian.AppendUint64(dst, applied)
	dst = binary.BigEndian.AppendUint64(dst, uint64(time.Now().UnixMicro()-postgresEpoch))
	if reply {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// errReleased is a session that was given up so that the server can shut down.
var errReleased = errors.New("the server is shutting down, and waited for the replication connection: it was closed")

// letServerGo ends the session for the sake of a server that is shutting down. Any goroutine may call it; it reports whether
// that is news.
func (s *replication) letServerGo() bool {
	if s.ended.Load() || s.released.Swap(true) {
		return false
	}
	s.close()
	return true
}

func (s *replication) close() { _ = s.conn.Close() }
