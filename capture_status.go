// capture_status.go owns what the capture goroutine tells the operator: connectorStatus records, and the periodic facts that
// others rely on. It is handed what there is to say; the watcher (capture_progress.go) tells the rest. Nothing here changes what is
// captured.

package main

import (
	"context"
	"fmt"
	"math"
	"strings"
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

// The statuses of a capture that goes well.
const (
	statusCatchUp  = "Catching up on CDC history"
	statusBackfill = "Backfilling Tables"
	statusStream   = "Streaming CDC Events"
)

// statusReconnecting begins the status of a session that was lost, which is a warning.
const statusReconnecting = "Reconnecting in "

// logStatus writes a connectorStatus record, which the platform shows as the task's status.
func logStatus(message string, fields logrus.Fields) {
	level := logrus.InfoLevel
	if strings.HasPrefix(message, statusReconnecting) {
		level = logrus.WarnLevel
	}
	logrus.WithField("eventType", "connectorStatus").WithFields(fields).Log(level, message)
}

// diagnostics is what a capture has said. Owned by the capture goroutine, but for what says otherwise.
type diagnostics struct {
	task string

	mu   sync.Mutex
	last string // status; guarded by mu
	// recovered is set by the watcher when nothing it has told of lasts any more.
	recovered atomic.Bool

	xidAt time.Time
}

// status reports what the capture is doing, with how far its backfills are; the same words twice in a row are said once.
func (d *diagnostics) status(message string, sum backfillSum) {
	if suffix := sum.String(); suffix != "" {
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

// backfillSum is how far the backfills under way are, all together.
type backfillSum struct {
	tables, reading     int     // whose rows are still to be read; of these, whose scans have begun
	captured, estimated float64 // rows of the latter; estimated is 0 when some table has no estimate
}

// String describes the backfills: in percent when every table has an estimate.
func (s backfillSum) String() string {
	switch {
	case s.reading == 0:
		return ""
	case s.estimated == 0:
		return fmt.Sprintf("(%d tables backfilling)", s.tables)
	}
	return fmt.Sprintf("(backfilled %d%% of %d tables)", min(99, int(math.Round(100*s.captured/s.estimated))), s.tables)
}

// logScanned logs a settled chunk.
func logScanned(b *binding, ck *chunk, rows int) {
	logrus.WithFields(logrus.Fields{
		"stream": b.name().String(), "rows": rows, "duration": ck.took.String(), "total": b.state.Backfilled,
	}).Info("processed backfill rows")
}

// logXID logs, when that is due, the transaction id a backfill could start from, which is the oldest one still running.
func (d *diagnostics) logXID(ctx context.Context, db *database, now time.Time) {
	if now.Sub(d.xidAt) < xidInterval {
		return
	}
	d.xidAt = now
	var xid int64
	err := db.with(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT txid_snapshot_xmin(txid_current_snapshot()) % 4294967296`).Scan(&xid)
	})
	if err != nil {
		logrus.WithError(err).Debug("could not read the current transaction id")
		return
	}
	logrus.WithField("xid", xid).Info("current transaction ID")
}
