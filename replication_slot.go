// replication_slot.go owns the replication slot at rest: what the server says of it, whether a cursor may be resumed on it, and its
// creation. Invariant: a slot that is not provably ours (other plugin, other database, physical) is never dropped, and a
// cursor that lies outside what the slot can still send is never resumed.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// slotRetry is how long a slot that is still in use is waited for: a predecessor that was killed holds it until its
	// walsender notices.
	slotRetry = 30 * time.Second
	// slotNotice is how often a blocked creation says what it waits for.
	slotNotice = 10 * time.Second
	// publicationReturn is how long a publication that is away is waited for before the capture ends.
	publicationReturn = 5 * time.Second
)

// slotStatus is what the server says of our slot, and of itself.
type slotStatus struct {
	name   string
	exists bool

	kind         string // logical or physical
	plugin       string // "" for a physical slot
	database     string // "" for a physical slot
	temporary    bool
	pid          int32  // of the walsender that uses it, 0 for none
	restart      lsn    // the oldest WAL it keeps; 0 when it has lost it
	confirmed    lsn    // it sends nothing that committed before; 0 while it is being created
	walStatus    string // reserved, extended, unreserved or lost; "" before version 13
	safeWAL      int64  // bytes of WAL that may still be written before it is lost; -1 without a limit
	invalidation string // why it was invalidated (17+)
	conflicting  bool   // invalidated by a conflict with recovery (16+)
	twoPhase     bool
	failover     bool
	synced       bool // a standby's copy of the primary's slot, of no use until it is promoted
	carried      bool // such a copy on a standby that has been promoted

	server  string // the database we are connected to
	end     lsn    // end of the server's WAL: flushed on a primary, received or replayed on a standby
	standby bool
}

// slotLossError says that changes after the cursor cannot be read any more. advanced.on_slot_loss decides what follows.
type slotLossError struct{ userError }

func (e *slotLossError) Unwrap() error { return &e.userError }

// slotRow is a row of pg_replication_slots as JSON: what a server version does not have stays empty.
type slotRow struct {
	Type         string  `json:"slot_type"`
	Plugin       string  `json:"plugin"`
	Database     string  `json:"database"`
	Temporary    bool    `json:"temporary"`
	PID          int32   `json:"active_pid"`
	Restart      string  `json:"restart_lsn"`
	Confirmed    string  `json:"confirmed_flush_lsn"`
	WALStatus    string  `json:"wal_status"`
	SafeWAL      *int64  `json:"safe_wal_size"`
	Invalidation *string `json:"invalidation_reason"`
	Conflicting  bool    `json:"conflicting"`
	TwoPhase     bool    `json:"two_phase"`
	Failover     bool    `json:"failover"`
	Synced       bool    `json:"synced"`
}

const (
	sqlSlot = `SELECT to_jsonb(s)::text FROM pg_replication_slots s WHERE slot_name = $1`

	// On a standby the received position is the greater one in streaming, the replayed one after a restart.
	sqlServerPosition = `SELECT current_database()::text, pg_is_in_recovery()::text, (CASE WHEN pg_is_in_recovery()
		THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) ELSE pg_current_wal_flush_lsn() END)::text`
)

// inspectSlot reads the state of the configured slot and the server's position.
func inspectSlot(ctx context.Context, db *database) (*slotStatus, error) {
	var status *slotStatus
	err := db.with(ctx, func(conn *pgx.Conn) (err error) {
		status, err = readSlot(ctx, conn, db.settings.slot)
		return err
	})
	return status, err
}

// readSlot reads the slot before the server's position, so that a slot in use is never seen beyond the end of the WAL.
func readSlot(ctx context.Context, conn *pgx.Conn, name string) (*slotStatus, error) {
	status := &slotStatus{name: name, safeWAL: -1}
	var text string
	switch err := conn.QueryRow(ctx, sqlSlot, name).Scan(&text); {
	case errors.Is(err, pgx.ErrNoRows):
	case err != nil:
		return nil, fmt.Errorf("read the state of replication slot %q: %w", name, err)
	default:
		if err := status.parse(text); err != nil {
			return nil, fmt.Errorf("read the state of replication slot %q: %w", name, err)
		}
	}
	var recovery string
	var end *string
	if err := conn.QueryRow(ctx, sqlServerPosition).Scan(&status.server, &recovery, &end); err != nil {
		return nil, fmt.Errorf("read the server's WAL position: %w", err)
	}
	status.standby = recovery == "true"
	status.synced, status.carried = status.synced && status.standby, status.synced && !status.standby // a promoted standby still says so
	var err error
	if end != nil {
		if status.end, err = pglogrepl.ParseLSN(*end); err != nil {
			return nil, fmt.Errorf("read the server's WAL position: %w", err)
		}
	}
	return status, nil
}

// parse fills in one row of pg_replication_slots.
func (s *slotStatus) parse(text string) error {
	var row slotRow
	if err := json.Unmarshal([]byte(text), &row); err != nil {
		return err
	}
	s.exists = true
	s.kind, s.plugin, s.database, s.temporary = row.Type, row.Plugin, row.Database, row.Temporary
	s.pid, s.walStatus = row.PID, row.WALStatus
	s.conflicting, s.twoPhase, s.failover, s.synced = row.Conflicting, row.TwoPhase, row.Failover, row.Synced
	if row.SafeWAL != nil {
		s.safeWAL = max(0, *row.SafeWAL) // it is negative of a slot that is past the limit and not lost yet
	}
	if row.Invalidation != nil {
		s.invalidation = *row.Invalidation
	}
	for _, position := range []struct {
		text string
		to   *lsn
	}{{row.Restart, &s.restart}, {row.Confirmed, &s.confirmed}} {
		if position.text == "" {
			continue
		}
		parsed, err := pglogrepl.ParseLSN(position.text)
		if err != nil {
			return fmt.Errorf("%q is not an LSN", position.text)
		}
		*position.to = parsed
	}
	return nil
}

// foreignSlot says why an existing slot of our name is not a slot of ours, "" when it can be.
func foreignSlot(s *slotStatus) string {
	var what string
	switch {
	case !s.exists:
		return ""
	case s.kind != "logical":
		what = "is a " + s.kind + " slot, the capture needs a logical one"
	case s.database != s.server:
		what = fmt.Sprintf("belongs to database %q, the capture reads database %q", s.database, s.server)
	case s.plugin != "pgoutput":
		what = fmt.Sprintf("uses the output plugin %q, the capture needs \"pgoutput\"", s.plugin)
	case s.temporary:
		what = "is temporary: it belongs to another session and ends with it"
	case s.synced:
		return fmt.Sprintf("the replication slot %q is this standby's copy of a slot of its primary's, which cannot be used before "+
			"the standby is promoted. Connect to the primary, or promote the standby; for a capture of the standby itself, set "+
			"`advanced.slotName` to a name that nothing else uses.", s.name)
	default:
		return ""
	}
	return fmt.Sprintf("the replication slot %q %s. Set `advanced.slotName` to a name that nothing else uses, or, if "+
		"nothing needs that slot, drop it: SELECT pg_drop_replication_slot(%s);", s.name, what, literal(s.name))
}

// slotFault says why the capture cannot resume at cursor. A *slotLossError means that changes after the cursor are out
// of reach for good; any other error, that something else has to be put right first. With a cursor of 0 the slot is to be
// created anew, so that only a slot that is not ours is in the way.
func slotFault(s *slotStatus, cursor lsn) error {
	if foreign := foreignSlot(s); foreign != "" {
		return &userError{foreign}
	}
	if cursor == 0 {
		return nil
	}
	lost := func(format string, args ...any) error {
		return &slotLossError{userError{fmt.Sprintf(format, args...) + " " + waysOut}}
	}
	if !s.exists {
		return lost("the replication slot %q does not exist, though the capture has read up to %s with it: it was dropped, "+
			"or this is another server (a failover, a restore or a major upgrade may not carry it along). Changes after %s "+
			"cannot be read.", s.name, cursor, cursor)
	}
	if reason := s.lossReason(); reason != "" {
		return lost("the server has invalidated the replication slot %q: %s. Changes after %s, where the capture has "+
			"read up to, cannot be read.", s.name, reason, cursor)
	}
	if cursor > s.end {
		if s.standby {
			return &userError{fmt.Sprintf("the capture has read up to %s, but this standby has WAL up to %s only. If it was "+
				"restarted, it catches up by itself: try again. If it is another server than before, connect to that one, or "+
				"re-backfill all bindings (raise the `backfill` counter of every binding at once).", cursor, s.end)}
		}
		return lost("the capture has read up to %s, but the server's WAL ends at %s, %d bytes before: the server was "+
			"restored to an earlier state, failed over to one that lacked changes, or is another one.",
			cursor, s.end, uint64(cursor-s.end))
	}
	if s.confirmed == 0 {
		return &userError{fmt.Sprintf("the replication slot %q is still being created (by pid %d). If another capture uses "+
			"it, give each its own `advanced.slotName`; else try again.", s.name, s.pid)}
	}
	if s.confirmed > cursor {
		return lost("the replication slot %q starts at %s, beyond %s where the capture has read up to: it was created anew "+
			"or advanced by something else. The changes in between (%d bytes of WAL) cannot be read.",
			s.name, s.confirmed, cursor, uint64(s.confirmed-cursor))
	}
	if s.twoPhase {
		return &userError{fmt.Sprintf("the replication slot %q was created with two_phase, which sends transactions before "+
			"they commit: use one without. Re-backfill all bindings (raise the `backfill` counter of every binding at once; "+
			"the slot is then created anew).", s.name)}
	}
	return nil
}

// lossReason says why the server has given up the slot, "" if it has not.
func (s *slotStatus) lossReason() string {
	switch s.invalidation {
	case "wal_removed":
		return "WAL that it needed was removed (wal_removed), since it fell behind by more than `max_slot_wal_keep_size`; " +
			"raise that setting"
	case "rows_removed":
		return "catalog rows that it needed were vacuumed away (rows_removed); set hot_standby_feedback = on, on the standby"
	case "wal_level_insufficient":
		return "the server's wal_level was below logical for a while (wal_level_insufficient)"
	case "idle_timeout":
		return "nobody used it for longer than `idle_replication_slot_timeout` (idle_timeout); raise that setting"
	case "":
	default:
		return s.invalidation
	}
	if s.conflicting && s.standby { // version 16 sets it on a primary, too, of a slot that was lost by its size
		return "it conflicted with recovery on the standby; set hot_standby_feedback = on, on the standby, and keep " +
			"wal_level = logical on the primary"
	}
	if s.walStatus == "lost" {
		return "WAL that it needed was removed (wal_status lost), since it fell behind by more than " +
			"`max_slot_wal_keep_size`; raise that setting"
	}
	return ""
}

// timelineFault says why a cursor that was written while the server was on timeline stored cannot be resumed on timeline
// current: the server has left the stored one before the cursor, so that what the capture read behind that point is not
// part of this server's past. The history is the file that TIMELINE_HISTORY current returns (a line a change: timeline
// left, position, reason); it is not needed when the timelines are the same.
func timelineFault(history []byte, stored, current int, cursor lsn) error {
	if stored == 0 || cursor == 0 || stored == current {
		return nil
	}
	const explain = "the server was failed over to one that lacked changes, or restored to an earlier state. What the capture " +
		"has read since then never happened on this server, and what did may be missing."
	for line := range strings.Lines(string(history)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != strconv.Itoa(stored) {
			continue
		}
		left, err := pglogrepl.ParseLSN(fields[1])
		if err != nil {
			return fmt.Errorf("read the history of timeline %d: %q is not an LSN", current, fields[1])
		}
		if cursor <= left {
			return nil
		}
		return &slotLossError{userError{fmt.Sprintf("the server left timeline %d for timeline %d at %s, before %s where the "+
			"capture has read up to: %s %s", stored, current, left, cursor, explain, waysOut)}}
	}
	return &slotLossError{userError{fmt.Sprintf("the server is on timeline %d, which does not come from timeline %d, on which the "+
		"capture has read up to %s: %s %s", current, stored, cursor, explain, waysOut)}}
}

// readOnCurrent reports whether somebody has read with the slot on the server's current timeline. Whoever did had judged the
// way onto it, and is not us, who note the timeline before we read: the cursor, which is not behind what the slot has
// confirmed (slotFault), is its. Only of a slot that came with the promotion, as a copy of the old primary's, is that
// provable: it had confirmed nothing beyond the switch by then, since no standby takes over more than it has (slotsync.c);
// one that was made anew behind the switch begins behind it. The history's last line is the switch onto the current timeline.
func readOnCurrent(history []byte, s *slotStatus) bool {
	if !s.carried {
		return false
	}
	var last lsn
	for line := range strings.Lines(string(history)) {
		if fields := strings.Fields(line); len(fields) >= 2 {
			at, err := pglogrepl.ParseLSN(fields[1])
			if err != nil {
				return false
			}
			last = max(last, at)
		}
	}
	return last != 0 && s.confirmed > last
}

// listed names tables, some of many.
func listed(tables []tableName) string {
	var names []string
	for _, t := range tables[:min(len(tables), maxFaults)] {
		names = append(names, t.String())
	}
	if more := len(tables) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, ", ")
}

// serverFault says that the cursor is a position in another server's WAL. An upgrade makes a server another one, too: it
// starts new WAL with a new identifier.
func serverFault(stored, current string, cursor lsn) error {
	return &slotLossError{userError{fmt.Sprintf("this is another server (system identifier %s) than the one whose changes the "+
		"capture has read up to %s (system identifier %s): check advanced settings and address, unless it was upgraded or replaced "+
		"on purpose. %s", current, cursor, stored, waysOut)}}
}

// createSlot makes the configured slot anew on a walsender connection, dropping an old one of ours, and returns the
// position from which it streams every commit. While it is blocked, onWait is told what for, from this goroutine.
// When ctx ends no slot is left behind; on any error the connection is not to be used again.
func createSlot(ctx context.Context, db *database, repl *pgconn.PgConn, onWait func(msg string)) (lsn, error) {
	return createSlotWith(ctx, db, repl, slotPatience{onWait, slotRetry, slotNotice})
}

// slotPatience is how one waits while a slot is made anew.
type slotPatience struct {
	onWait func(msg string) // is told what for
	retry  time.Duration    // how long an old slot may be in use
	notice time.Duration    // after each of which onWait is told
}

func createSlotWith(ctx context.Context, db *database, repl *pgconn.PgConn, patience slotPatience) (lsn, error) {
	name := db.settings.slot
	failpoint("slot.before")
	if err := dropSlot(ctx, db, repl, patience); err != nil {
		return 0, err
	}
	failpoint("slot.dropped")
	if db.version >= 140000 {
		// A walsender that waits for other transactions does not see its client die, and would leave the finished slot
		// behind. The check's timer is started by an SQL command only, not by a replication command; from then on it
		// restarts itself (start_xact_command, ProcessInterrupts). It is of the session, so it is taken back below.
		for _, sql := range []string{`SET client_connection_check_interval = '2s'`, `SELECT`} {
			if _, err := repl.Exec(ctx, sql).ReadAll(); err != nil {
				return 0, fmt.Errorf("prepare the creation of replication slot %q: %w", name, err)
			}
		}
	}
	type outcome struct {
		consistent lsn
		err        error
	}
	done := make(chan outcome, 1)
	go func() {
		options := "NOEXPORT_SNAPSHOT"
		if db.settings.failoverSlot {
			options = "(FAILOVER, SNAPSHOT 'nothing')"
		}
		sent := repl.Exec(context.WithoutCancel(ctx), `CREATE_REPLICATION_SLOT `+quoteIdent(name)+` LOGICAL pgoutput `+options)
		failpoint("slot.sent")
		result, err := pglogrepl.ParseCreateReplicationSlot(sent)
		var consistent lsn
		if err == nil {
			consistent, err = pglogrepl.ParseLSN(result.ConsistentPoint)
		}
		done <- outcome{consistent, err}
	}()
	ticker := time.NewTicker(patience.notice)
	defer ticker.Stop()
	for {
		select {
		case out := <-done:
			if out.err != nil {
				return 0, createSlotError(name, out.err)
			}
			if db.version >= 140000 {
				if _, err := repl.Exec(ctx, `RESET client_connection_check_interval`).ReadAll(); err != nil {
					return 0, fmt.Errorf("finish the creation of replication slot %q: %w", name, err)
				}
			}
			return out.consistent, nil
		case <-ticker.C:
			if msg, err := slotWaits(ctx, db, repl.PID()); err == nil {
				patience.onWait(msg)
			} // else ctx has ended, or the creation fails by itself with the same trouble
		case <-ctx.Done():
			abandon, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			_ = repl.CancelRequest(abandon)
			select {
			case out := <-done:
				if out.err == nil { // the slot was finished before the request came
					_, _ = repl.Exec(abandon, `DROP_REPLICATION_SLOT `+quoteIdent(name)).ReadAll()
				}
			case <-abandon.Done():
				_ = repl.Conn().Close()
				<-done
			}
			_ = repl.Close(abandon)
			return 0, fmt.Errorf("create replication slot %q: %w", name, context.Cause(ctx))
		}
	}
}

// dropSlot drops the configured slot if there is one of ours, waiting for its user to go away.
func dropSlot(ctx context.Context, db *database, repl *pgconn.PgConn, patience slotPatience) error {
	name := db.settings.slot
	deadline := time.Now().Add(patience.retry)
	for first := true; ; first = false {
		status, err := inspectSlot(ctx, db)
		if err != nil {
			return err
		}
		if !status.exists {
			return nil
		}
		if foreign := foreignSlot(status); foreign != "" {
			return &userError{foreign}
		}
		_, err = repl.Exec(ctx, `DROP_REPLICATION_SLOT `+quoteIdent(name)).ReadAll()
		switch code := sqlState(err); {
		case err == nil || code == codeUndefinedObject: // it went away by itself
			return nil
		case code != codeObjectInUse:
			return fmt.Errorf("drop the old replication slot %q: %w", name, err)
		case time.Now().After(deadline):
			return slotInUse(name, err, patience.retry)
		}
		if first {
			patience.onWait(fmt.Sprintf("waiting for replication slot %q, which pid %d still uses", name, status.pid))
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("drop the old replication slot %q: %w", name, context.Cause(ctx))
		}
	}
}

// makeFailover has the standbys keep a slot that was made before advanced.failover_slot asked for it. One that our
// predecessor still holds is waited for.
func makeFailover(ctx context.Context, repl *pgconn.PgConn, name string, onWait func(msg string)) error {
	for deadline := time.Now().Add(slotRetry); ; {
		_, err := repl.Exec(ctx, `ALTER_REPLICATION_SLOT `+quoteIdent(name)+` (FAILOVER true)`).ReadAll()
		switch {
		case err == nil:
			return nil
		case sqlState(err) != codeObjectInUse:
			return fmt.Errorf("make replication slot %q a failover slot: %w", name, err)
		case time.Now().After(deadline):
			return slotInUse(name, err, slotRetry)
		}
		onWait(fmt.Sprintf("Waiting for replication slot %q, which another session still holds", name))
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// slotInUse is the error of a slot that another session holds (SQLSTATE 55006), after waiting for it.
func slotInUse(name string, err error, waited time.Duration) error {
	return &userError{fmt.Sprintf("another capture is already running against this database: %s, and was so for %s. Stop "+
		"it, or give each capture its own `advanced.slotName`. If nothing should use the slot any more: SELECT "+
		"pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s;",
		serverReason(err), waited, literal(name))}
}

func createSlotError(name string, err error) error {
	var remedy string
	switch sqlState(err) {
	case codeDuplicate:
		remedy = "Another capture has just created it: give each capture its own `advanced.slotName`."
	case codePrerequisite:
		remedy = "Set wal_level = logical on this server, and for a standby on its primary, too, and restart them."
	case codeLimit:
		remedy = "Raise `max_replication_slots` on the server and restart it, or drop a slot that nothing uses: SELECT " +
			"slot_name, active FROM pg_replication_slots;"
	default:
		return fmt.Errorf("create replication slot %q: %w", name, err)
	}
	return &userError{fmt.Sprintf("cannot create the replication slot %q: %s. %s", name, serverReason(err), remedy)}
}

// sqlSlotWaits lists who holds a transaction ID, first those the walsender ($1) waits for: a new slot waits for all of
// them, in any database. pg_locks shows them to every role; a role that may not see more of a session gets no state and
// no age. Prepared transactions have no pid.
const sqlSlotWaits = `
SELECT coalesce(l.pid, 0)::text, coalesce(a.application_name, ''), coalesce(a.usename, p.owner, '')::text,
	coalesce(a.state, ''), coalesce(extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared)), -1)::text,
	coalesce(p.gid, ''), (l.transactionid IN (SELECT w.transactionid FROM pg_locks w WHERE w.pid = $1::int AND NOT w.granted
		AND w.locktype = 'transactionid'))::text AS blocking
FROM pg_locks l
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
LEFT JOIN pg_prepared_xacts p ON l.pid IS NULL AND p.transaction = l.transactionid
WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted
	AND l.pid IS DISTINCT FROM pg_backend_pid() AND l.pid IS DISTINCT FROM $1::int
ORDER BY blocking DESC, coalesce(a.xact_start, p.prepared), l.pid
LIMIT 4`

// slotWaits says what the creation of a slot waits for.
func slotWaits(ctx context.Context, db *database, walsender uint32) (string, error) {
	prefix := fmt.Sprintf("waiting to create replication slot %q: ", db.settings.slot)
	if db.standby {
		return standbyWaits(ctx, db, prefix)
	}
	var waits []string
	err := db.with(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, sqlSlotWaits, strconv.Itoa(int(walsender)))
		if err != nil {
			return err
		}
		var pid, age, blocking string
		var w writer
		_, err = pgx.ForEachRow(rows, []any{&pid, &w.application, &w.user, &w.state, &age, &w.gid, &blocking}, func() error {
			number, err := strconv.ParseInt(pid, 10, 32)
			if err != nil {
				return err
			}
			w.pid, w.age = int32(number), seconds(age)
			waits = append(waits, w.String())
			return nil
		})
		return err
	})
	switch {
	case err != nil:
		return "", err
	case len(waits) == 0:
		return prefix + "the server has not reached a consistent point yet", nil
	case len(waits) == 4:
		waits[3] = "more"
	}
	return prefix + "transactions that were open before must end first: " + strings.Join(waits, ", "), nil
}

// standbyWaits says what the creation of a slot on a standby waits for. It cannot see the primary's sessions, only that
// transactions are open there: its snapshots reach back to the oldest.
func standbyWaits(ctx context.Context, db *database, prefix string) (string, error) {
	const nudge = "on a standby it needs the primary to log its running transactions, which an idle primary does not do; run " +
		"there: SELECT pg_log_standby_snapshot();"
	var text string
	err := db.with(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT txid_current_snapshot()::text`).Scan(&text)
	})
	if err != nil {
		return "", err
	}
	open, err := parseSnapshot(text)
	if err != nil {
		return "", err
	}
	if open.xmin >= open.xmax {
		return prefix + nudge, nil
	}
	return fmt.Sprintf("%stransactions that are open on the primary must end first, the oldest with the transaction ID %d; to find "+
		"them, run there: SELECT pid, application_name, usename, state, xact_start FROM pg_stat_activity WHERE backend_xid IS NOT "+
		"NULL; and SELECT * FROM pg_prepared_xacts; Then %s", prefix, open.xmin, nudge), nil
}
