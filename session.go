// session.go owns the replication sessions of a capture: where one begins, what ends it, whether another follows, and which server,
// on which timeline, it reads from.
// Invariant: one session at a time, and its goroutines end with it; a session begins at the cursor, or all tables are captured anew.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/sirupsen/logrus"
)

// run streams until the capture ends, over as many replication sessions as it takes.
func (c *capture) run(ctx context.Context) error {
	for attempt := 0; ; attempt++ {
		began, worked := time.Now(), c.ledger.delivered+int(c.progress.chunks.Load())
		err := c.replicate(ctx)
		again := transient(err)
		if loss := c.lossOf(ctx, err); loss != nil { // though position found nothing amiss
			err = loss
			_, gap := errors.AsType[*slotLossError](err)
			again = gap && c.settings.onSlotLoss == "backfill" && c.settings.flags.createReplicationSlot && c.settings.flags.forceResetCursor == 0
		}
		if err == nil || ctx.Err() != nil || !again || !c.out.settled() {
			return err
		}
		// A session's first checkpoint is no progress, nor are our own watermarks: what always fails behind them must not be tried
		// for ever.
		if c.ledger.delivered+int(c.progress.chunks.Load()) > worked || time.Since(began) > 5*time.Minute {
			attempt = 0
		}
		if attempt >= 8 {
			return err
		}
		// Nothing has been emitted since the last checkpoint: what is in memory is what is stored, and a new session
		// resumes as a new process would.
		c.ledger.rollBack()
		failpoint("reconnect")
		for _, b := range c.bindings {
			b.sourced = nil // its schema may have been dropped
		}
		if errors.Is(err, errRenewSession) {
			continue
		}
		pause := min(time.Second<<attempt, 15*time.Second)
		c.progress.reconnects.Add(1)
		c.status("Reconnecting in %s: %s", pause, explain(err))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// transient reports whether an error may pass if we connect again.
func transient(err error) bool {
	if _, ok := errors.AsType[*slotLossError](err); ok {
		return false
	}
	if errors.Is(err, errRenewSession) {
		return true
	}
	class, _ := classify(err)
	if _, ok := errors.AsType[*connectFailure](err); ok {
		return class == classRetry || class == classUnknown
	}
	if _, ok := errors.AsType[net.Error](err); ok || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, errStreamEnded) || errors.Is(err, errReleased) || pgconn.Timeout(err) {
		return true
	}
	return class == classRetry
}

// replicate runs one replication session: its goroutines end with it.
func (c *capture) replicate(ctx context.Context) error {
	c.ctx = ctx // that of the session before has ended
	c.forget()
	conn, err := c.db.connectReplication(ctx)
	if err != nil {
		return err
	}
	failpoint("session.connected")

	start, err := lsn(0), c.db.follow(ctx, conn)
	if err == nil {
		start, err = c.position(ctx, conn)
	}
	if err != nil {
		_ = conn.Close(context.WithoutCancel(ctx))
		return err
	}
	timeout, prompt, err := c.senderSettings(ctx, conn.PID())
	if err != nil {
		_ = conn.Close(context.WithoutCancel(ctx))
		return err
	}
	logrus.WithFields(logrus.Fields{
		"slot": c.settings.slot, "publication": c.settings.publication, "startLSN": start.String(),
	}).Info("starting replication")
	session, err := c.startSession(ctx, conn, start, timeout)
	if err != nil {
		return err
	}
	session.prompt.Store(prompt)
	c.session = session
	c.progress.session.Store(session)
	failpoint("session.started")

	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{}, 2)
	go func() { _ = session.receive(ctx); ended <- struct{}{} }()
	go func() {
		if err := session.standby(ctx); err != nil {
			cancel(err)
		}
		ended <- struct{}{}
	}()
	err = c.stream(ctx, start)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	cancel(errSessionOver)
	session.close()
	<-ended
	<-ended
	c.rounds.finish()
	return err
}

// errSessionOver ends the goroutines of a session that has ended by itself.
var errSessionOver = errors.New("the replication session is over")

// startSession starts the stream; a slot still held by our predecessor is waited for.
func (c *capture) startSession(ctx context.Context, conn *pgconn.PgConn, start lsn, timeout time.Duration) (*replication, error) {
	deadline := time.Now().Add(slotBusyLimit)
	for {
		session, err := startReplication(ctx, conn, subscription{c.settings.slot, c.settings.publication, start}, c.ledger.acks, timeout)
		if err == nil || sqlState(err) != codeObjectInUse {
			return session, err
		}
		if time.Now().After(deadline) {
			return nil, slotInUse(c.settings.slot, err, slotBusyLimit)
		}
		c.status("Waiting for replication slot %q, which another session still holds", c.settings.slot)
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if conn, err = c.db.connectReplication(ctx); err != nil {
			return nil, err
		}
		if err := c.db.check(ctx, conn); err != nil { // position was judged on the server of before
			_ = conn.Close(context.WithoutCancel(ctx))
			return nil, connectError(ctx, c.db.settings, err)
		}
	}
}

// slotBusyLimit is how long the slot may be held by our predecessor, which the runtime kills within seconds.
const slotBusyLimit = 30 * time.Second

// senderSettings reads wal_sender_timeout, and whether commits may wait for our acknowledgements (see replication.prompt).
func (c *capture) senderSettings(ctx context.Context, pid uint32) (timeout time.Duration, prompt bool, err error) {
	var milliseconds int64
	var synchronous string
	var alone bool
	err = c.db.with(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT setting::bigint, current_setting('synchronous_standby_names'), `+sqlNoStandby+` FROM pg_settings
			WHERE name = 'wal_sender_timeout'`, fmt.Sprint(pid)).Scan(&milliseconds, &synchronous, &alone)
	})
	if err != nil {
		return 0, false, fmt.Errorf("read wal_sender_timeout: %w", err)
	}
	return time.Duration(milliseconds) * time.Millisecond, !c.db.standby && alone && c.db.mayBeSynchronous(synchronous), nil
}

// position decides where to start: at the cursor if the slot still has what follows it, at a new slot's start otherwise.
func (c *capture) position(ctx context.Context, conn *pgconn.PgConn) (lsn, error) {
	identity, err := pglogrepl.IdentifySystem(ctx, conn)
	if err != nil {
		return 0, fmt.Errorf("identify the server: %w", err)
	}
	if c.ledger.cursor != 0 && c.settings.flags.forceResetCursor == 0 {
		var status *slotStatus
		fault := c.serverFault(identity) // first: what else is amiss follows from that
		otherPast := fault != nil
		if fault == nil {
			fault, c.lost = c.lost, nil
		}
		if fault == nil {
			if status, err = c.awaitReplay(ctx); err != nil {
				return 0, err
			}
			fault = slotFault(status, c.ledger.cursor)
		}
		if fault == nil {
			if fault, err = c.timelineFault(ctx, conn, identity, status); err != nil {
				return 0, err
			}
			otherPast = fault != nil
		}
		if fault == nil {
			c.noteServer(identity)
			if c.settings.failoverSlot && !status.failover {
				if err := makeFailover(ctx, conn, c.settings.slot, c.say); err != nil {
					return 0, err
				}
				c.status("The replication slot %q is a failover slot now, as advanced.failover_slot asks", c.settings.slot)
			}
			return c.ledger.cursor, nil
		}
		if _, lost := errors.AsType[*slotLossError](fault); !lost || c.settings.onSlotLoss != "backfill" {
			return 0, fault
		}
		if otherPast && !c.identified.IsZero() {
			return 0, fault // what this process knows of types and tables is that server's: the next one reads all anew
		}
		remains := ""
		if anew := c.capturedBindings(); len(anew) > 0 {
			remains = " " + c.remains(anew...)
		}
		c.status("%v. As advanced.on_slot_loss asks, the slot is created anew and every table is backfilled.%s", fault, remains)
		c.rewindAll()
	}
	flags, created := c.settings.flags, false
	var start lsn
	switch {
	case flags.forceResetCursor != 0:
		start = flags.forceResetCursor
	case flags.initialBackfillCursor != 0:
		start = flags.initialBackfillCursor
	case !flags.createReplicationSlot:
		status, err := inspectSlot(ctx, c.db)
		if err != nil {
			return 0, err
		}
		start = max(status.confirmed, 1)
	default:
		c.rewindAll() // a new slot knows nothing of the past
		logrus.WithField("slot", c.settings.slot).Info("attempting to create replication slot")
		start, err = createSlot(ctx, c.db, conn, c.say)
		if err != nil {
			return 0, err
		}
		logrus.WithFields(logrus.Fields{"slot": c.settings.slot, "startLSN": start.String()}).Info("created replication slot")
		created = true
		failpoint("slot.after")
	}
	c.ledger.restart(start, c.bindings)
	c.noteServer(identity)
	if created {
		if err := c.readAfresh(); err != nil {
			return 0, err
		}
	}
	return start, nil
}

// readAfresh reads the catalog again behind the position that a new slot begins at: the making of it may have waited for hours
// for open transactions, and what changed meanwhile is neither in the stream nor in what was read before.
func (c *capture) readAfresh() error {
	c.publishedFromNowOn()
	if err := c.rediscover(); err != nil {
		return err
	}
	if c.ledger.due {
		return c.checkpoint()
	}
	return nil
}

// awaitReplay reads the slot's state; a standby that was restarted, or follows another primary now, is given time to get to
// the cursor.
func (c *capture) awaitReplay(ctx context.Context) (*slotStatus, error) {
	for deadline := time.Now().Add(slotBusyLimit); ; {
		status, err := inspectSlot(ctx, c.db)
		if err != nil {
			return nil, err
		}
		c.db.standby = status.standby // it may have been promoted since the last session
		if !status.standby || status.end >= c.ledger.cursor || time.Now().After(deadline) {
			return status, nil
		}
		c.status("Waiting for the standby to get to %s, where the capture has read up to: it has %s now", c.ledger.cursor, status.end)
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// capturedBindings are those some of whose rows have been captured.
func (c *capture) capturedBindings() []*binding {
	var captured []*binding
	for _, b := range c.bindings {
		if b.phase == phaseActive || b.phase == phaseBackfill {
			captured = append(captured, b)
		}
	}
	return captured
}

// rewindAll has every table captured anew.
func (c *capture) rewindAll() {
	for _, b := range c.capturedBindings() {
		c.rewind(b)
	}
}

// serverFault looks whether the server is the one that the cursor belongs to.
func (c *capture) serverFault(identity pglogrepl.IdentifySystemResult) error {
	for _, b := range c.bindings {
		if b.meta.System != "" && b.meta.System != identity.SystemID {
			return serverFault(b.meta.System, identity.SystemID, c.ledger.cursor)
		}
	}
	return nil
}

// timelineFault looks whether the server's past is the one that the cursor belongs to. REQUIRES: no serverFault, no slotFault.
func (c *capture) timelineFault(ctx context.Context, conn *pgconn.PgConn, identity pglogrepl.IdentifySystemResult, slot *slotStatus,
) (fault, err error) {
	current, stored := int(identity.Timeline), 0
	for _, b := range c.bindings {
		stored = max(stored, b.meta.Timeline)
	}
	if stored == 0 || stored == current {
		return nil, nil
	}
	history, err := pglogrepl.TimelineHistory(ctx, conn, identity.Timeline)
	if err != nil {
		return nil, fmt.Errorf("read the history of timeline %d: %w", current, err)
	}
	fault = timelineFault(history.Content, stored, current, c.ledger.cursor)
	if fault != nil && readOnCurrent(history.Content, slot) {
		c.status("The server left timeline %d for timeline %d while another connector had the slot %q, which it has confirmed up to %s "+
			"on the new one: the capture goes on from %s", stored, current, slot.name, slot.confirmed, c.ledger.cursor)
		fault = nil
	}
	return fault, nil
}

// noteServer keeps which server wrote the WAL behind the cursor.
func (c *capture) noteServer(identity pglogrepl.IdentifySystemResult) {
	c.timeline, c.identified = identity.Timeline, time.Now()
	for _, b := range c.bindings {
		if b.meta.System != identity.SystemID || b.meta.Timeline != int(identity.Timeline) {
			b.meta.System, b.meta.Timeline = identity.SystemID, int(identity.Timeline)
			if b.phase == phaseActive || b.phase == phaseBackfill {
				b.mark()
			}
		}
	}
}

// The receiver's timeline shows to roles with pg_read_all_stats (as members of pg_monitor have).
const sqlStandbyTimeline = `SELECT pg_is_in_recovery(), coalesce((SELECT received_tli FROM pg_stat_wal_receiver), 0)::int`

// identifyInterval is how old the knowledge of a standby's timeline may be that cannot be read by a query.
const identifyInterval = time.Minute

// confirmTimeline has the checkpoint to come carry the timeline of the standby we read from. Its replication sessions
// outlive both its promotion and that of its primary, and behind that a cursor belongs to the new timeline; stored with the
// old one it would be taken for a gap (timelineFault). REQUIRES: all up to the cursor has been received.
func (c *capture) confirmTimeline(ctx context.Context) error {
	var recovery bool
	var timeline int32
	err := c.db.with(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, sqlStandbyTimeline).Scan(&recovery, &timeline)
	})
	if err != nil {
		return fmt.Errorf("read the standby's timeline: %w", err)
	}
	if recovery && (timeline == c.timeline || timeline == 0 && time.Since(c.identified) < identifyInterval) {
		return nil
	}
	conn, err := c.db.connectReplication(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	identity, err := pglogrepl.IdentifySystem(ctx, conn)
	if err != nil {
		return fmt.Errorf("identify the server: %w", err)
	}
	if c.db.standby = recovery; !recovery {
		c.status("The standby was promoted: the capture goes on with it as the primary, on timeline %d", identity.Timeline)
	}
	c.noteServer(identity)
	return nil
}

// lossOf looks at the error that ended a session: where that says that what the slot has still to send is out of reach, it
// returns a *slotLossError, which is c.lost, too, by which the next session decides where to start. Where the publication must be
// made first, it returns a userError; nil for any other error.
func (c *capture) lossOf(ctx context.Context, err error) error {
	class, _ := classify(err)
	switch class {
	case classSlot:
		c.lost = &slotLossError{userError{explain(err) + ". " + adviceSlot}}
		return c.lost
	case classPublication: // the server looks it up as it was when the change was made: no session gets past that one
	default:
		return nil
	}
	exists, name := false, c.settings.publication
	var look error
	for deadline := time.Now().Add(publicationReturn); ; { // who renames it, or makes it anew, may be about to
		look = c.db.with(ctx, func(conn *pgx.Conn) error {
			return conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = $1)`, name).Scan(&exists)
		})
		if look != nil || exists || ctx.Err() != nil || time.Now().After(deadline) {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	switch {
	case look != nil:
		return nil
	case !exists:
		return &userError{fmt.Sprintf("%s. The publication %q was dropped or renamed: rename it back (ALTER PUBLICATION … RENAME TO %s;), "+
			"or run: %s What was changed meanwhile cannot be read. %s", explain(err), name, quoteIdent(name), c.createStatement(), waysOut)}
	}
	c.lost = &slotLossError{userError{fmt.Sprintf("%s. The publication %q did not exist for a while, and changes that were made then "+
		"cannot be read. %s", explain(err), name, waysOut)}}
	return c.lost
}
