// capture_session.go owns the replication sessions of a capture: where one begins, what ends it, whether another follows, and which server,
// on which timeline, it reads from.
// Invariant: there is one session at a time, whose goroutines end with it and which nobody else closes. It begins at the cursor, on
// the server and the timeline that the cursor is of; where flags or advanced.on_slot_loss have it begin elsewhere, no place stored
// for a transaction counts.

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

// sessions is the replication session under way, or the last one, and what is known of the server that it reads from.
type sessions struct {
	*replication // nil before the first

	db       *database
	settings *settings
	acks     *acknowledgements
	progress *progress
	say      func(string) // what the capture is doing

	sender     *pgconn.PgConn // the connection on which the next session is to begin; nil once it has
	identity   pglogrepl.IdentifySystemResult
	timeline   int32     // of the server we read from
	identified time.Time // when that was learnt; zero as long as what is stored has not been judged by it
	lost       error     // the last session's, when the slot could not be read on

	began   time.Time
	attempt int // sessions in a row that came to nothing

	askedAt  lsn // where the stream was when askPause began
	askPause time.Duration
	askNext  time.Time // when to ask the server how far it is
}

func newSession(db *database, s *settings, acks *acknowledgements, p *progress, say func(string)) sessions {
	return sessions{db: db, settings: s, acks: acks, progress: p, say: say}
}

func (s *sessions) status(format string, args ...any) { s.say(fmt.Sprintf(format, args...)) }

// connect makes the connection on which the next session is to begin, and learns which server is behind it.
func (s *sessions) connect(ctx context.Context) (err error) {
	s.began, s.askPause = time.Now(), 0
	if s.sender, err = s.db.connectReplication(ctx); err != nil {
		return err
	}
	failpoint("session.connected")
	if err = s.db.follow(ctx, s.sender); err == nil {
		if s.identity, err = pglogrepl.IdentifySystem(ctx, s.sender); err != nil {
			err = fmt.Errorf("identify the server: %w", err)
		}
	}
	if err != nil {
		s.hangUp(ctx)
	}
	return err
}

// hangUp closes the connection on which no session is to begin.
func (s *sessions) hangUp(ctx context.Context) {
	_ = s.sender.Close(context.WithoutCancel(ctx))
	s.sender = nil
}

// run streams from start on while body takes what comes. The session and its goroutines end with it. REQUIRES: connect.
func (s *sessions) run(ctx context.Context, start lsn, body func(context.Context) error) error {
	timeout, prompt, err := s.senderSettings(ctx)
	if err != nil {
		s.hangUp(ctx)
		return err
	}
	logrus.WithFields(logrus.Fields{
		"slot": s.settings.slot, "publication": s.settings.publication, "startLSN": start.String(),
	}).Info("starting replication")
	if err := s.start(ctx, start, timeout); err != nil {
		return err
	}
	s.prompt.Store(prompt)
	s.progress.session.Store(s.replication)
	failpoint("session.started")

	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{}, 2)
	go func() { _ = s.receive(ctx); ended <- struct{}{} }()
	go func() {
		if err := s.standby(ctx); err != nil {
			cancel(err)
		}
		ended <- struct{}{}
	}()
	err = body(ctx)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	cancel(errSessionOver)
	s.close()
	<-ended
	<-ended
	return err
}

// errSessionOver ends the goroutines of a session that has ended by itself.
var errSessionOver = errors.New("the replication session is over")

// start starts the stream; a slot still held by our predecessor is waited for.
func (s *sessions) start(ctx context.Context, start lsn, timeout time.Duration) error {
	deadline := time.Now().Add(slotBusyLimit)
	for {
		conn := s.sender
		s.sender = nil
		started, err := startReplication(ctx, conn, subscription{s.settings.slot, s.settings.publication, start}, s.acks, timeout)
		if err == nil {
			s.replication = started
			return nil
		}
		if sqlState(err) != codeObjectInUse {
			return err
		}
		if time.Now().After(deadline) {
			return slotInUse(s.settings.slot, err, slotBusyLimit)
		}
		s.status("Waiting for replication slot %q, which another session still holds", s.settings.slot)
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if s.sender, err = s.db.connectReplication(ctx); err != nil {
			return err
		}
		if err := s.db.check(ctx, s.sender); err != nil { // start was chosen on the server of before
			s.hangUp(ctx)
			return connectError(ctx, s.db.settings, err)
		}
	}
}

// slotBusyLimit is how long the slot may be held by our predecessor, which the runtime kills within seconds.
const slotBusyLimit = 30 * time.Second

// senderSettings reads wal_sender_timeout, and whether commits may wait for our acknowledgements (see replication.prompt).
func (s *sessions) senderSettings(ctx context.Context) (timeout time.Duration, prompt bool, err error) {
	var milliseconds int64
	var synchronous string
	var alone bool
	err = s.db.with(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT setting::bigint, current_setting('synchronous_standby_names'), `+sqlNoStandby+` FROM pg_settings
			WHERE name = 'wal_sender_timeout'`, fmt.Sprint(s.sender.PID())).Scan(&milliseconds, &synchronous, &alone)
	})
	if err != nil {
		return 0, false, fmt.Errorf("read wal_sender_timeout: %w", err)
	}
	return time.Duration(milliseconds) * time.Millisecond, !s.db.standby && alone && s.db.mayBeSynchronous(synchronous), nil
}

// lossAt judges whether the stream may go on at the cursor. It returns the loss that is to be made good by capturing all tables
// anew, as advanced.on_slot_loss asks; any other reason why it may not is an error. REQUIRES: connect.
func (s *sessions) lossAt(ctx context.Context, cursor lsn, bindings []*binding) (loss, err error) {
	fault, otherPast, err := s.faultAt(ctx, cursor, bindings)
	if err != nil || fault == nil {
		return nil, err
	}
	if _, lost := errors.AsType[*slotLossError](fault); !lost || s.settings.onSlotLoss != "backfill" {
		return nil, fault
	}
	if otherPast && !s.identified.IsZero() {
		return nil, fault // what this process knows of types and tables is that server's: the next one reads all anew
	}
	return fault, nil
}

// faultAt is why the stream may not go on at the cursor; otherPast is set where the server's past is another than the cursor's.
func (s *sessions) faultAt(ctx context.Context, cursor lsn, bindings []*binding) (fault error, otherPast bool, err error) {
	if fault = s.serverFault(bindings, cursor); fault != nil { // first: what else is amiss follows from that
		return fault, true, nil
	}
	if s.lost != nil {
		fault, s.lost = s.lost, nil
		return fault, false, nil
	}
	status, err := s.awaitReplay(ctx, cursor)
	if err != nil {
		return nil, false, err
	}
	if fault = slotFault(status, cursor); fault != nil {
		return fault, false, nil
	}
	if fault, err = s.timelineFault(ctx, cursor, bindings, status); fault != nil || err != nil {
		return fault, true, err
	}
	s.noteServer(bindings)
	if s.settings.failoverSlot && !status.failover {
		if err := makeFailover(ctx, s.sender, s.settings.slot, s.say); err != nil {
			return nil, false, err
		}
		s.status("The replication slot %q is a failover slot now, as advanced.failover_slot asks", s.settings.slot)
	}
	return nil, false, nil
}

// creates reports whether a session that does not go on at a cursor makes the slot that it reads.
func (s *sessions) creates() bool {
	flags := &s.settings.flags
	return flags.forceResetCursor == 0 && flags.initialBackfillCursor == 0 && flags.createReplicationSlot
}

// place decides where a session begins that does not go on at a cursor: at the start of a new slot, or where flags say.
func (s *sessions) place(ctx context.Context, bindings []*binding) (start lsn, err error) {
	flags := &s.settings.flags
	switch {
	case flags.forceResetCursor != 0:
		return flags.forceResetCursor, nil
	case flags.initialBackfillCursor != 0:
		return flags.initialBackfillCursor, nil
	case !flags.createReplicationSlot:
		status, err := inspectSlot(ctx, s.db)
		if err != nil {
			return 0, err
		}
		return max(status.confirmed, 1), nil
	}
	logrus.WithField("slot", s.settings.slot).Info("attempting to create replication slot")
	if start, err = s.makeSlot(ctx, bindings); err != nil {
		return 0, err
	}
	logrus.WithFields(logrus.Fields{"slot": s.settings.slot, "startLSN": start.String()}).Info("created replication slot")
	failpoint("slot.after")
	return start, nil
}

// awaitReplay reads the slot's state; a standby that was restarted, or follows another primary now, is given time to get to
// the cursor.
func (s *sessions) awaitReplay(ctx context.Context, cursor lsn) (*slotStatus, error) {
	for deadline := time.Now().Add(slotBusyLimit); ; {
		status, err := inspectSlot(ctx, s.db)
		if err != nil {
			return nil, err
		}
		s.db.standby = status.standby // it may have been promoted since the last session
		if !status.standby || status.end >= cursor || time.Now().After(deadline) {
			return status, nil
		}
		s.status("Waiting for the standby to get to %s, where the capture has read up to: it has %s now", cursor, status.end)
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// serverFault looks whether the server is the one that the cursor belongs to.
func (s *sessions) serverFault(bindings []*binding, cursor lsn) error {
	for _, b := range bindings {
		if b.meta.System != "" && b.meta.System != s.identity.SystemID {
			return serverFault(b.meta.System, s.identity.SystemID, cursor)
		}
	}
	return nil
}

// timelineFault looks whether the server's past is the one that the cursor belongs to. REQUIRES: no serverFault, no slotFault.
func (s *sessions) timelineFault(ctx context.Context, cursor lsn, bindings []*binding, slot *slotStatus) (fault, err error) {
	current, stored := int(s.identity.Timeline), 0
	for _, b := range bindings {
		stored = max(stored, b.meta.Timeline)
	}
	if stored == 0 || stored == current {
		return nil, nil
	}
	history, err := pglogrepl.TimelineHistory(ctx, s.sender, s.identity.Timeline)
	if err != nil {
		return nil, fmt.Errorf("read the history of timeline %d: %w", current, err)
	}
	fault = timelineFault(history.Content, stored, current, cursor)
	if fault != nil && readOnCurrent(history.Content, slot) {
		s.status("The server left timeline %d for timeline %d while another connector had the slot %q, which it has confirmed up to %s "+
			"on the new one: the capture goes on from %s", stored, current, slot.name, slot.confirmed, cursor)
		fault = nil
	}
	return fault, nil
}

// noteServer keeps which server wrote the WAL behind the cursor.
func (s *sessions) noteServer(bindings []*binding) {
	s.timeline, s.identified = s.identity.Timeline, time.Now()
	for _, b := range bindings {
		if b.meta.System != s.identity.SystemID || b.meta.Timeline != int(s.identity.Timeline) {
			b.meta.System, b.meta.Timeline = s.identity.SystemID, int(s.identity.Timeline)
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
func (s *sessions) confirmTimeline(ctx context.Context, bindings []*binding) error {
	var recovery bool
	var timeline int32
	err := s.db.with(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, sqlStandbyTimeline).Scan(&recovery, &timeline)
	})
	if err != nil {
		return fmt.Errorf("read the standby's timeline: %w", err)
	}
	if recovery && (timeline == s.timeline || timeline == 0 && time.Since(s.identified) < identifyInterval) {
		return nil
	}
	conn, err := s.db.connectReplication(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if s.identity, err = pglogrepl.IdentifySystem(ctx, conn); err != nil {
		return fmt.Errorf("identify the server: %w", err)
	}
	if s.db.standby = recovery; !recovery {
		s.status("The standby was promoted: the capture goes on with it as the primary, on timeline %d", s.identity.Timeline)
	}
	s.noteServer(bindings)
	return nil
}

// askFirst is how long the stream may be silent though the server's WAL ends further on, before the server is asked how far
// it is. A sender may sleep over WAL that has been flushed (seen on 18); an update wakes it.
const askFirst = 250 * time.Millisecond

// askDue reports whether the server is to be asked how far it is: its WAL ends at end, behind the position that the stream has
// shown, and that has been so for askFirst, or for twice as long as when it was asked before.
func (s *sessions) askDue(position, end lsn, now time.Time) bool {
	if position != s.askedAt || s.askPause == 0 {
		s.askedAt, s.askPause, s.askNext = position, askFirst, now.Add(askFirst)
	}
	return position < end && !now.Before(s.askNext)
}

// askNow asks the server how far it is.
func (s *sessions) askNow(now time.Time) {
	s.askKeepalive()
	s.askPause = min(2*s.askPause, s.interval)
	s.askNext = now.Add(s.askPause)
}

// watchSilence gives up a session from which nothing will come any more, so that a new one begins. It reports whether what was
// said of one that was silent is over.
func (s *sessions) watchSilence(ctx context.Context, now time.Time) (over bool) {
	silence := s.judgeSilence(ctx, s.db, now)
	if silence.said != "" {
		s.say(silence.said)
	}
	if silence.dead {
		s.close()
	}
	return silence.over
}

// again reports whether another session is to follow one that ended with err; if not, the capture ends with the error returned.
// worked tells that the session captured something.
func (s *sessions) again(ctx context.Context, err error, worked bool, bindings []*binding) (bool, error) {
	again := transient(err)
	if loss := s.lossOf(ctx, err, bindings); loss != nil { // though lossAt found nothing amiss
		err = loss
		_, gap := errors.AsType[*slotLossError](err)
		again = gap && s.settings.onSlotLoss == "backfill" && s.settings.flags.createReplicationSlot && s.settings.flags.forceResetCursor == 0
	}
	if err == nil || ctx.Err() != nil || !again {
		return false, err
	}
	if worked || time.Since(s.began) > 5*time.Minute {
		s.attempt = 0
	}
	return s.attempt < 8, err
}

// pause waits ahead of the session that follows one that ended with err.
func (s *sessions) pause(ctx context.Context, err error) error {
	if errors.Is(err, errRenewSession) {
		return nil // it was asked for by ourselves, once for what asks for it, and is no attempt that failed
	}
	pause := min(time.Second<<s.attempt, 15*time.Second)
	s.attempt++
	s.progress.reconnects.Add(1)
	s.status(statusReconnecting+"%s: %s", pause, explain(err))
	select {
	case <-time.After(pause):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// errRenewSession ends a replication session that is to be started anew at once.
var errRenewSession = errors.New("a partition was attached, which this replication session does not publish")

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

// lossOf looks at the error that ended a session: where that says that what the slot has still to send is out of reach, it
// returns a *slotLossError, which is s.lost, too, by which the next session decides where to start. Where the publication must be
// made first, it returns a userError; nil for any other error.
func (s *sessions) lossOf(ctx context.Context, err error, bindings []*binding) error {
	class, _ := classify(err)
	switch class {
	case classSlot:
		s.lost = &slotLossError{userError{explain(err) + ". " + adviceSlot}}
		return s.lost
	case classPublication: // the server looks it up as it was when the change was made: no session gets past that one
	default:
		return nil
	}
	exists, name := false, s.settings.publication
	var look error
	for deadline := time.Now().Add(publicationReturn); ; { // who renames it, or makes it anew, may be about to
		look = s.db.with(ctx, func(conn *pgx.Conn) error {
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
			"or run: %s What was changed meanwhile cannot be read. %s", explain(err), name, quoteIdent(name), createStatement(s.db, tablesOf(bindings)), waysOut)}
	}
	s.lost = &slotLossError{userError{fmt.Sprintf("%s. The publication %q did not exist for a while, and changes that were made then "+
		"cannot be read. %s", explain(err), name, waysOut)}}
	return s.lost
}
