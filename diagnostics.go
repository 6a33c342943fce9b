// diagnostics.go owns what the operator sees while a capture runs: connectorStatus records, progress, and the periodic
// facts that others rely on. Nothing here changes what is captured.
package main

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sirupsen/logrus"
)

const (
	// xidInterval is how often the current transaction id is logged: users put it into advanced.min_backfill_xid to
	// recover from a lost slot, so it must not lie far back.
	xidInterval      = 10 * time.Minute
	progressInterval = 5 * time.Minute
	// silenceLimit is how long the server may say nothing, though asked, before we look whether it is still there.
	silenceLimit = 60 * time.Second
)

// logStatus writes a connectorStatus record, which the platform shows as the task's status.
func logStatus(message string, fields logrus.Fields) {
	logrus.WithField("eventType", "connectorStatus").WithFields(fields).Info(message)
}

// diagnostics watches one capture. Owned by the capture goroutine.
type diagnostics struct {
	capture    *capture
	task       string
	last       string
	xidAt      time.Time
	progressAt time.Time
	documents  int
	silentAt   time.Time
}

// status reports what the capture is doing; the same words twice in a row are said once.
func (d *diagnostics) status(message string) {
	if suffix := d.backfilling(); suffix != "" {
		message += " " + suffix
	}
	if message == d.last {
		return
	}
	d.last = message
	logStatus(message, nil)
}

// backfilling describes the backfills under way: in percent when every table has an estimate.
func (d *diagnostics) backfilling() string {
	c := d.capture
	tables := len(c.reading) + len(c.pending)
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
		d.status("Backfilling Tables")
	}
}

// tick writes what is due. It may run inside a transaction.
func (d *diagnostics) tick() {
	now := time.Now()
	if now.Sub(d.progressAt) >= progressInterval {
		if !d.progressAt.IsZero() {
			logrus.WithFields(logrus.Fields{
				"documents": d.capture.documents - d.documents, "cursor": d.capture.cursor.String(),
				"duration": now.Sub(d.progressAt).Round(time.Second).String(),
			}).Info("processed replication events")
		}
		d.progressAt, d.documents = now, d.capture.documents
	}
	if now.Sub(d.xidAt) >= xidInterval {
		d.xidAt = now
		d.logXID()
	}
	d.watchSilence(now)
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

// watchSilence tells a dead link from a server that is busy inside a transaction: each status update asks for an answer,
// so a healthy link is never silent for long.
func (d *diagnostics) watchSilence(now time.Time) {
	c := d.capture
	silent := now.Sub(time.Unix(0, c.session.received.Load()))
	if silent < silenceLimit || c.session.ready() || now.Sub(d.silentAt) < silenceLimit {
		return
	}
	d.silentAt = now
	ctx, cancel := context.WithTimeout(c.ctx, 20*time.Second)
	defer cancel()
	var state string
	err := c.db.with(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT coalesce((SELECT coalesce(state, 'running') || ', waiting for ' || coalesce(wait_event, 'nothing')
			FROM pg_stat_activity WHERE pid = $1), 'gone')`, fmt.Sprint(c.session.pid)).Scan(&state)
	})
	switch {
	case err != nil:
		d.status(fmt.Sprintf("The server has been silent for %s and does not answer queries either: %v", silent.Round(time.Second), err))
		c.session.close()
	case state == "gone":
		d.status(fmt.Sprintf("The replication connection has been silent for %s and the server no longer has it: reconnecting",
			silent.Round(time.Second)))
		c.session.close()
	default:
		d.status(fmt.Sprintf("The server has sent nothing for %s; its sender is %s (it may be decoding a large transaction)",
			silent.Round(time.Second), state))
	}
}
