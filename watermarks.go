// watermarks.go owns fences: places in the stream that, once passed, prove that every earlier change has been seen.
// A watermark fence is a row of ours whose change carries a UUID; it has passed when the transaction of that change has
// been committed in the stream. An LSN fence, for captures that may not write, is a position; it has passed when a commit
// ends at or beyond it, or a keepalive between transactions reports a WAL end at or beyond it.
// A watermark fence has a position too, taken like that of an LSN fence once the watermark's commit has returned, and so
// behind it in the WAL. When the stream is at or beyond it and the watermark did not come, it never will: our change is not
// published. The fence has passed all the same, since as an LSN fence it is as good; and it is missed, which has to be said,
// for what took our change out of the stream may have taken others (watermarkMissed).
// Invariant: everything visible to a query that finished before establish was called commits before the fence, and
// everything committed before the fence, but for transactions that are not visible yet (DESIGN I3), is visible to a query
// that starts after establish has returned. A standby may be promoted at any moment, so each fence asks anew which it is.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/sirupsen/logrus"
)

// fence is one place in the stream. The capture owns it once establish has returned.
type fence struct {
	watermark []byte // UUID text; nil for an LSN fence
	position  lsn    // behind everything that was committed before; of a watermark fence, behind its commit
	seen      bool   // the change carrying the watermark has come; its commit has not
	passed    bool
	missed    bool // by its position, without the watermark
	light     bool // of caughtUp
}

// sawWatermark is told of every value written to our watermark row.
func (f *fence) sawWatermark(value []byte) {
	if f.watermark != nil && bytes.Equal(value, f.watermark) {
		f.seen = true
	}
}

// sawCommit is told of every commit, after its transaction's changes.
func (f *fence) sawCommit(end lsn) {
	if f.seen {
		f.passed = true
		return
	}
	f.reached(end)
}

// sawKeepalive is told of every keepalive between transactions: how far the server has sent.
func (f *fence) sawKeepalive(end lsn) { f.reached(end) }

// reached is told that everything which committed up to end has been streamed.
func (f *fence) reached(end lsn) {
	if f.position != 0 && end >= f.position && !f.passed {
		f.passed, f.missed = true, f.watermark != nil
	}
}

const (
	sqlWriteWatermark = `INSERT INTO %s (slot, watermark) VALUES (%s, %s)
		ON CONFLICT (slot) DO UPDATE SET watermark = EXCLUDED.watermark`

	// The statement timeout reaches the commit only when that is inside a statement: it is taken back before a commit of
	// its own (postgres.c, finish_xact_command). A cancel request would do as well, but not when we are killed: our row
	// would then stay locked for our successor as long as the standby is away.
	sqlBoundCommit = `BEGIN %s; COMMIT; END`

	// The block gets the watermark by way of a setting: to pg_stat_statements each text of a block is a statement of its own, and
	// one for every chunk would drive those of others out.
	sqlGiveWatermark  = `SELECT set_config('estuary_flow.watermark', %s, false)`
	sqlGivenWatermark = `current_setting('estuary_flow.watermark')`

	// localProbe is how often a watermark waits again for standbys that have let one wait for longer than watermarkTimeout.
	// Till then watermarks wait for none: chunks that do not see what was streamed are read again (DESIGN I3), which costs less.
	localProbe = 30 * time.Second

	sqlLocalCommit = `SET LOCAL synchronous_commit = local; `

	sqlInRecovery = `SELECT pg_is_in_recovery()`

	sqlInsertPosition = `SELECT pg_current_wal_insert_lsn()::text`

	// What has been replayed, and whether that is all there is: the receiver, without which more may come from an archive,
	// has received no more.
	sqlReplayPosition = `SELECT pg_is_in_recovery(), replay::text,
			coalesce(receive <= replay, false) AND EXISTS (SELECT FROM pg_stat_wal_receiver)
		FROM (SELECT pg_last_wal_replay_lsn() AS replay, pg_last_wal_receive_lsn() AS receive OFFSET 0) p`

	// What has been flushed, NULL on a standby.
	sqlFlushedPosition = `SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn()::text END,
		current_setting('wal_block_size')::bigint`

	sqlWALGeometry = `SELECT current_setting('wal_block_size')::bigint,
		(SELECT setting::bigint * CASE unit WHEN '8kB' THEN 8192 ELSE 1 END
		 FROM pg_settings WHERE name = 'wal_segment_size')`
)

// fencer establishes fences, one at a time.
type fencer struct {
	db       *database
	byLSN    bool
	slot     string
	conn     *pgx.Conn // the watermark writer, opened at first use and after a failure
	blocks   uint64    // WAL block size, 0 until known
	segments uint64
	plain    bool      // the server refuses the block that bounds the wait for a standby
	local    time.Time // until when watermarks do not wait for standbys

	written atomic.Pointer[string] // the last watermark sent

	lagging atomic.Int64 // since when, in Unix nanoseconds, a standby's replay has been waited for; 0: it is not
}

// lag tells for how long a standby's replay has been waited for.
func (f *fencer) lag() time.Duration {
	if since := f.lagging.Load(); since != 0 {
		return time.Since(time.Unix(0, since))
	}
	return 0
}

func newFencer(db *database) *fencer {
	return &fencer{db: db, byLSN: db.settings.readOnly || db.standby, slot: db.settings.slot}
}

// establish makes a new fence. On error nothing may be concluded about the stream; establish may be called again.
func (f *fencer) establish(ctx context.Context) (*fence, error) {
	if f.byLSN {
		return f.position(ctx)
	}
	for attempt := 1; ; attempt++ {
		written, err := f.write(ctx)
		if err == nil || ctx.Err() != nil || attempt == 5 {
			return written, err
		}
		// The row may be locked by a session that looks at it, or the connection gone: nothing has been emitted on
		// the strength of this fence, so writing another costs nothing.
		select {
		case <-time.After(time.Duration(attempt) * 200 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// write writes a watermark and takes the position behind it.
func (f *fencer) write(ctx context.Context) (*fence, error) {
	table := f.db.settings.watermarks
	if f.conn == nil || f.conn.IsClosed() {
		conn, err := f.db.connectWatermarks(ctx)
		if err != nil {
			return nil, err
		}
		f.conn = conn
	}
	id := uuid.NewString()
	plain := f.db.version < 110000 || f.plain
	value := quoteLiteral(id)
	if !plain {
		if _, err := f.conn.PgConn().Exec(ctx, fmt.Sprintf(sqlGiveWatermark, value)).ReadAll(); err != nil {
			_ = f.conn.Close(ctx)
			return nil, fmt.Errorf("write a watermark to %s: %w", table, err)
		}
		value = sqlGivenWatermark
	}
	sql := fmt.Sprintf(sqlWriteWatermark, quoteTable(table), quoteLiteral(f.slot), value)
	f.written.Store(&id)
	began := time.Now()
	local := began.Before(f.local)
	if local {
		sql = sqlLocalCommit + sql
	}
	if !plain {
		sql = "DO " + quoteLiteral(fmt.Sprintf(sqlBoundCommit, sql))
	} else if sql = "BEGIN; " + sql + "; COMMIT"; !local {
		stop := time.AfterFunc(watermarkTimeout, f.cancelWait(f.conn.PgConn()))
		defer stop.Stop()
	}
	failpoint("watermark.before")
	sent := f.conn.PgConn().Exec(ctx, sql)
	failpoint("watermark.sent") // and, behind a lock that another holds, not committed
	_, err := sent.ReadAll()
	if code := sqlState(err); (code == codePrivilege || code == codeUndefinedObject) && !plain { // no right to plpgsql, or no plpgsql
		f.plain = true
		return f.write(ctx)
	}
	if err != nil {
		_ = f.conn.Close(ctx) // it may be inside a transaction
		return nil, fmt.Errorf("write a watermark to %s: %w", table, err)
	}
	failpoint("watermark.after")
	if waited := time.Since(began); waited >= watermarkTimeout-watermarkTimeout/10 {
		f.local = time.Now().Add(localProbe)
		logrus.WithField("waited", waited.Round(time.Millisecond).String()).Warn("a watermark was long in being committed (a synchronous " +
			"standby is away?): those of the next half minute wait for no standby")
	}
	made := &fence{watermark: []byte(id)}
	if made.position, err = f.insertPosition(ctx, f.conn); err != nil {
		return nil, fmt.Errorf("read the server's WAL position behind a watermark: %w", err)
	}
	return made, nil
}

// cancelWait ends the wait of a commit for a standby, where a statement timeout does not reach it; the commit stands.
func (f *fencer) cancelWait(conn *pgconn.PgConn) func() {
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), watermarkTimeout)
		defer cancel()
		_ = conn.CancelRequest(ctx)
	}
}

// insertPosition returns a position behind everything that has been committed, which the stream will reach when that has been
// flushed.
func (f *fencer) insertPosition(ctx context.Context, conn *pgx.Conn) (lsn, error) {
	if f.blocks == 0 {
		if err := conn.QueryRow(ctx, sqlWALGeometry).Scan(&f.blocks, &f.segments); err != nil {
			return 0, err
		}
	}
	var text string
	if err := conn.QueryRow(ctx, sqlInsertPosition).Scan(&text); err != nil {
		return 0, err
	}
	at, err := pglogrepl.ParseLSN(text)
	return clampToFlushed(at, f.blocks, f.segments), err
}

// position makes an LSN fence.
func (f *fencer) position(ctx context.Context) (*fence, error) {
	made := &fence{}
	var recovery bool
	err := f.db.with(ctx, func(conn *pgx.Conn) (err error) {
		if err := conn.QueryRow(ctx, sqlInRecovery).Scan(&recovery); err != nil {
			return err
		}
		if recovery {
			if made.position, recovery, err = f.replayed(ctx, conn); recovery || err != nil {
				return err
			} // else it has been promoted meanwhile
		}
		made.position, err = f.insertPosition(ctx, conn)
		failpoint("fence.position")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the server's WAL position for a fence: %w", err)
	}
	if !recovery {
		// On a quiet server nothing would follow the position for up to half a minute; a transaction id makes a commit
		// record follow. On a connection of its own: it must not be part of anything.
		err = f.db.with(ctx, func(conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, `SELECT txid_current()`)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("have the server write WAL behind a fence: %w", err)
		}
		failpoint("fence.pushed")
	}
	return made, nil
}

// caughtUp makes a fence that is passed when all has been streamed that is flushed by now, and writes nothing where it need not. It is
// for a session that has nothing to read: what a query sees may have been committed behind it.
func (f *fencer) caughtUp(ctx context.Context) (*fence, error) {
	made := &fence{light: true}
	var block uint64
	err := f.db.with(ctx, func(conn *pgx.Conn) error {
		var text *string
		err := conn.QueryRow(ctx, sqlFlushedPosition).Scan(&text, &block)
		if err == nil && text != nil {
			made.position, err = pglogrepl.ParseLSN(*text)
		}
		return err
	})
	if err != nil && sqlState(err) == "" {
		return nil, fmt.Errorf("read how far the server has flushed its WAL: %w", err)
	}
	// A record that crosses the end of a page may have been flushed up to there, and is not streamed before the rest of it is
	// (xlog.c, XLogBackgroundFlush).
	if err != nil || made.position == 0 || uint64(made.position)%block == 0 {
		return f.establish(ctx)
	}
	return made, nil
}

// replayed returns a position for a fence on a standby, or that it is a standby no more. A commit is visible before the
// replay position shows it, so that a position behind everything visible is the present one only if nothing follows it
// yet, and else the next one to show. The received position is behind everything visible, too, but far ahead of what is
// visible where the standby lags: a query after such a fence would not see all that comes before it.
func (f *fencer) replayed(ctx context.Context, conn *pgx.Conn) (at lsn, recovery bool, err error) {
	f.lagging.Store(time.Now().UnixNano())
	defer f.lagging.Store(0)
	var first lsn
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		var text *string
		var all bool
		if err := conn.QueryRow(ctx, sqlReplayPosition).Scan(&recovery, &text, &all); err != nil || !recovery {
			return 0, false, err
		}
		if text != nil {
			if at, err = pglogrepl.ParseLSN(*text); err != nil {
				return 0, false, err
			}
		}
		switch {
		case at == 0: // nothing has been replayed since the start
		case first == 0 && !all:
			first = at
		case first == 0, all, at > first:
			return at, true, nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return 0, false, context.Cause(ctx)
		}
	}
}

// clampToFlushed takes a position that stands just behind a page header back to the page boundary: until the next record
// is written the server reports the boundary as the end of its WAL (xlog.c, XLogBytePosToEndRecPtr; header sizes 24 and,
// at the start of a segment, 40).
func clampToFlushed(at lsn, block, segment uint64) lsn {
	const shortHeader, longHeader = 24, 40
	offset := uint64(at) % block
	if segment > 0 && uint64(at)%segment == longHeader || offset == shortHeader {
		return at - lsn(offset)
	}
	return at
}

// close ends the connection of the watermark writer; the next watermark opens another. REQUIRES: no establish under way.
func (f *fencer) close() {
	if f.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = f.conn.Close(ctx)
		f.conn = nil
	}
}

// watermarkColumns finds the columns of our row in the watermarks table's relation.
func watermarkColumns(r *relation) (slot, watermark int, err error) {
	slot, watermark = -1, -1
	for i, c := range r.columns {
		switch c.name {
		case "slot":
			slot = i
		case "watermark":
			watermark = i
		}
	}
	if slot < 0 || watermark < 0 {
		return 0, 0, errors.New("the watermarks table lacks a column slot or watermark in the publication")
	}
	return slot, watermark, nil
}
