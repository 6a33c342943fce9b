// diagnostics.go owns what the capture goroutine tells the operator: connectorStatus records, and the periodic facts that
// others rely on; and what it notes for the watcher (progress.go), who tells the rest. Nothing here changes what is captured.

package main

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sirupsen/logrus"
)

const (
	// xidInterval is how often the current transaction id is logged: users put it into advanced.min_backfill_xid to
	// recover from a lost slot, so it must not lie far back.
	xidInterval = 10 * time.Minute
	// progressInterval is how often a capture at rest reports how far it is; a busy one does so every minute.
	progressInterval = 5 * time.Minute
)

// silenceLimit is how long the server may say nothing, though asked, before we look whether it is still there. A variable
// for the tests alone, as those like it are.
var silenceLimit = 35 * time.Second

// The statuses of a capture that goes well.
const (
	statusCatchUp  = "Catching up on CDC history"
	statusBackfill = "Backfilling Tables"
	statusStream   = "Streaming CDC Events"
)

// logStatus writes a connectorStatus record, which the platform shows as the task's status.
func logStatus(message string, fields logrus.Fields) {
	logrus.WithField("eventType", "connectorStatus").WithFields(fields).Info(message)
}

// diagnostics watches one capture. Owned by the capture goroutine, but for what says otherwise.
type diagnostics struct {
	capture *capture
	task    string

	mu   sync.Mutex
	last string // status; guarded by mu
	// recovered is set by the watcher when nothing it has told of lasts any more.
	recovered atomic.Bool

	xidAt    time.Time
	silentAt time.Time
	notedAt  time.Time
	starts   map[*binding]backfillProgress // of the backfills under way
}

// status reports what the capture is doing; the same words twice in a row are said once.
func (d *diagnostics) status(message string) {
	if suffix := d.backfilling(); suffix != "" {
		message += " " + suffix
	}
	d.say(message)
}

// say reports a status as it is. Any goroutine may call it.
func (d *diagnostics) say(message string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if message != d.last {
		d.last = message
		logStatus(message, nil)
	}
}

// usual reports what the capture is doing, after something that held it up is over.
func (d *diagnostics) usual() {
	switch c := d.capture; {
	case c.stage == stageCatchUp:
		d.status(statusCatchUp)
	case len(c.pending)+len(c.attached)+len(c.reading) > 0:
		d.status(statusBackfill)
	default:
		d.status(statusStream)
	}
}

// backfilling describes the backfills under way: in percent when every table has an estimate.
func (d *diagnostics) backfilling() string {
	c := d.capture
	tables := len(c.reading) + len(c.attached) + len(c.pending)
	if tables == 0 || len(c.reading) == 0 {
		return ""
	}
	done, estimated := 0.0, 0.0
	for _, b := range c.reading {
		if b.table == nil || b.table.reltuples <= 0 {
			return fmt.Sprintf("(%d tables backfilling)", tables)
		}
		done += float64(b.state.Backfilled)
		estimated += b.table.reltuples
	}
	return fmt.Sprintf("(backfilled %d%% of %d tables)", min(99, int(math.Round(100*done/estimated))), tables)
}

// scanned reports a settled chunk.
func (d *diagnostics) scanned(b *binding, ck *chunk, rows int) {
	logrus.WithFields(logrus.Fields{
		"stream": b.name().String(), "rows": rows, "duration": ck.took.String(), "total": b.state.Backfilled,
	}).Info("processed backfill rows")
	if len(d.capture.reading) > 0 && b.phase == phaseBackfill {
		d.status(statusBackfill)
	}
}

// tick writes what is due. It may run inside a transaction.
func (d *diagnostics) tick() {
	now := time.Now()
	d.note(now)
	if d.recovered.Swap(false) {
		d.usual()
	}
	if now.Sub(d.xidAt) >= xidInterval {
		d.xidAt = now
		d.logXID()
	}
	d.watchSilence(now)
}

// note tells the watcher how far the capture is.
func (d *diagnostics) note(now time.Time) {
	c := d.capture
	p := &c.progress
	p.transactions.Store(int64(c.transactions))
	p.changes.Store(int64(c.changes))
	p.documents.Store(int64(c.documents))
	p.cursor.Store(uint64(c.ledger.received()))
	if c.tx.begin.xid != 0 { // of the open or the last transaction: everything that committed before it has been streamed
		p.committed.Store(c.tx.begin.commitTime + postgresEpoch)
	}
	switch {
	case !c.tx.open:
		p.began.Store(0)
	case p.began.Load() == 0 || p.xid.Load() != c.tx.begin.xid:
		p.xid.Store(c.tx.begin.xid)
		p.began.Store(now.UnixNano())
	}
	p.inside.Store(int64(c.tx.changes))
	p.within.Store(int64(c.tx.checkpoints))
	p.leaving.Store(0)
	if len(c.tx.resumed) > 0 {
		p.leaving.Store(c.tx.before)
	}
	since(&p.fence, now, c.open != nil && !c.tx.open)
	since(&p.reading, now, c.open == nil && c.ahead != nil && !c.tx.open)
	if now.Sub(d.notedAt) < time.Second {
		return
	}
	d.notedAt = now
	backfills := make([]backfillProgress, 0, len(c.reading))
	starts := make(map[*binding]backfillProgress, len(c.reading))
	for _, b := range c.reading {
		at, known := d.starts[b]
		if !known || at.first > b.state.Backfilled {
			at = backfillProgress{table: b.name().String(), since: now, first: b.state.Backfilled}
		}
		at.rows, at.estimated, at.waits = b.state.Backfilled, b.estimatedRows(), b.describeWaiting()
		starts[b] = at
		backfills = append(backfills, at)
	}
	d.starts = starts
	var phases [phaseMissing + 1]int
	for _, b := range c.bindings {
		phases[b.phase]++
	}
	p.mu.Lock()
	p.backfills, p.phases = backfills, phases
	p.mu.Unlock()
}

// since keeps in at when a state began that holds now or not.
func since(at *atomic.Int64, now time.Time, holds bool) {
	switch {
	case !holds:
		at.Store(0)
	case at.Load() == 0:
		at.Store(now.UnixNano())
	}
}

// logXID logs the transaction id a backfill could start from, which is the oldest one still running.
func (d *diagnostics) logXID() {
	c := d.capture
	var xid int64
	err := c.db.with(c.ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(c.ctx, `SELECT txid_snapshot_xmin(txid_current_snapshot()) % 4294967296`).Scan(&xid)
	})
	if err != nil {
		logrus.WithError(err).Debug("could not read the current transaction id")
		return
	}
	logrus.WithField("xid", xid).Info("current transaction ID")
}

// watchSilence tells a dead link, and a sender that has stopped, from one that is deep in a transaction: each status update
// asks for an answer, so a healthy link is never silent for long. The first two are given up, so that a new session begins.
func (d *diagnostics) watchSilence(now time.Time) {
	c := d.capture
	silent := now.Sub(time.Unix(0, c.session.received.Load())).Round(time.Second)
	if silent < silenceLimit || c.session.ready() {
		if !d.silentAt.IsZero() {
			d.silentAt = time.Time{}
			d.usual()
		}
		return
	}
	if now.Sub(d.silentAt) < silenceLimit {
		return
	}
	d.silentAt = now
	ctx, cancel := context.WithTimeout(c.ctx, connectTimeout)
	defer cancel()
	var kind, event string
	var there bool
	err := c.db.with(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT count(*) > 0, coalesce(max(wait_event_type), ''), coalesce(max(wait_event), 'nothing')
			FROM pg_stat_activity WHERE pid = $1`, fmt.Sprint(c.session.pid)).Scan(&there, &kind, &event)
	})
	switch {
	case err != nil:
		d.status(fmt.Sprintf("The server has been silent for %s and does not answer queries either: %v", silent, err))
	case !there:
		d.status(fmt.Sprintf("The replication connection has been silent for %s and the server no longer has it: reconnecting", silent))
	case kind == "Activity" || kind == "Client":
		// It waits for WAL or for us: then it would have answered, had it heard us and we it.
		d.status(fmt.Sprintf("The replication connection has been silent for %s though the server's sender is idle (%s): "+
			"reconnecting", silent, event))
	default:
		d.status(fmt.Sprintf("The server has sent nothing for %s: its sender is at work, waiting for %s (it is decoding a large "+
			"transaction, or WAL of other databases)", silent, event))
		return
	}
	c.session.close()
}
