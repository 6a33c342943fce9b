// capture_activation.go owns when the rows of tables begin to be read: backfills that are pending, those that a session takes up again, and the
// scans of partitions that came with rows.
// Invariant: a binding's first chunk is read only after every transaction that may have written to its table unseen has
// ended (DESIGN I3), whether the backfill is new or resumed.

package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sirupsen/logrus"
)

// resumeBackfills puts the bindings into the lists the loop works from. Positions that cannot be used start again.
func (c *capture) resumeBackfills() error {
	c.backlog.forget()
	var reading []*binding
	c.resumeMarked()
	for _, b := range c.bindings {
		switch b.phase {
		case phasePending:
			c.backlog.queue(b)
		case phaseBackfill:
			if c.settings.skipsBackfill(b.name()) {
				c.status("The backfill of %s ends here: advanced.skip_backfills lists it", b.name())
				b.meta.Leaves = nil
				b.complete()
				continue
			}
			if err := b.resume(); err != nil {
				c.status("The stored backfill position of %s cannot be used (%v): its backfill starts again", b.name(), err)
				c.rewind(b)
				continue
			}
			reading = append(reading, b)
		case phaseActive:
			if b.table != nil && b.table.kind != 'p' && len(b.meta.Leaves) > 0 {
				b.meta.Leaves = nil // of a scan that the incumbent has finished, who carries them unread
				b.mark()
			}
			if b.scanning() {
				c.backlog.attach(b)
			}
		}
	}
	c.backlog.begin(reading)
	if err := c.rounds.beginScans(c.ctx, reading); err != nil {
		return err
	}
	return c.measureReady()
}

// activate starts the backfills of pending bindings, and the scans of partitions that came with rows.
func (c *capture) activate() error {
	now := time.Now()
	if len(c.backlog.attached) == 0 && !slices.ContainsFunc(c.backlog.pending, func(b *binding) bool { return !b.scan.resting(now) }) {
		return nil
	}
	started := c.startAttached()
	held, err := c.unpublishedYet()
	if err != nil {
		return err
	}
	starting := slices.DeleteFunc(slices.Clone(c.backlog.pending), func(b *binding) bool { return slices.Contains(held, b) })
	if err := c.beginMarked(starting); err != nil {
		return err
	}
	for _, b := range starting {
		b.meta.OID, b.meta.Sight = b.table.oid, b.table.sight
		if err := c.chooseScan(b); err != nil {
			return err
		}
		if !b.byCTID() {
			b.state.KeyColumns = b.scanColumns()
		}
		if b.resource.mode == modeOnlyChanges || c.settings.skipsBackfill(b.name()) {
			b.transition(eventComplete)
			b.state.Mode = storedActive
			b.meta.First = false
			b.noteShape()
			b.rememberPartitions()
			c.ledger.owe()
			continue
		}
		if !b.byCTID() {
			b.meta.Key = b.keySignature()
		}
		b.transition(eventActivate)
		b.noteShape()
		b.rememberPartitions()
		b.state.Mode = b.storedModeOf()
		started = append(started, b)
		logrus.WithFields(logrus.Fields{
			"stream": b.name().String(), "mode": string(b.state.Mode), "observable": true, "priority": b.resource.priority,
			"catalog_task_name": c.diag.task,
		}).Info("backfill triggered")
	}
	failpoint("activate.before")
	c.backlog.begin(started)
	c.nothingToRead()
	if err := c.rounds.beginScans(c.ctx, started); err != nil {
		return err
	}
	failpoint("activate.after")
	return c.measureReady()
}

// unpublishedYet reads the partitions of the tables that are to be backfilled again, and returns those tables whose backfill
// rests, or waits for another session.
func (c *capture) unpublishedYet() (held []*binding, err error) {
	now, ready := time.Now(), make([]*binding, 0, len(c.backlog.pending))
	for _, b := range c.backlog.pending {
		if b.partitions.held || b.scan.resting(now) {
			held = append(held, b)
		} else {
			ready = append(ready, b)
		}
	}
	if err := c.freshPartitions(ready); err != nil {
		return nil, err
	}
	for _, b := range ready {
		if b.table.kind != 'p' {
			continue
		}
		wait, err := c.awaitRenewal(b, b.table.partitions, partitionsOf(b.table))
		if err != nil {
			return nil, err
		}
		if wait {
			held = append(held, b)
		}
	}
	return held, nil
}

// startAttached returns the captured bindings whose attached partitions are to be scanned now.
func (c *capture) startAttached() []*binding {
	var started []*binding
	for _, b := range c.backlog.takeAttached() {
		switch {
		case b.phase != phaseActive || !b.scanning():
		case c.settings.skipsBackfill(b.name()) || b.resource.mode == modeOnlyChanges:
			c.status("The scan of partitions of %s ends here: its backfills are skipped", b.name())
			b.complete()
			c.backlog.leave(b)
		default:
			started = append(started, b)
		}
	}
	return started
}

// completeEmpty ends the scans of tables that no relation holds rows of: partitioned ones without partitions, or to which
// empty ones were attached.
func (c *capture) completeEmpty() {
	for _, b := range slices.Clone(c.backlog.reading) {
		if b.byCTID() && b.scan.state == scanReady && b.scan.chunk == nil && !c.rounds.isReading(b) &&
			(len(b.meta.Leaves) == 0 || b.phase == phaseActive && leavesDone(b.meta.Leaves)) {
			b.complete()
			c.backlog.leave(b)
			c.ledger.owe()
			c.nothingToRead()
		}
	}
}

// pollWaiting looks whether bindings that wait for transactions may go on.
func (c *capture) pollWaiting() error {
	status, err := c.rounds.lookAtWaiting(c.ctx, c.backlog.reading)
	if err != nil {
		return err
	}
	if status != "" {
		c.say(status)
	}
	return c.measureReady()
}

// mostMeasured is how many relations are measured, and so locked, at a time: a server may have room for a few hundred locks.
const mostMeasured = 50

const sqlMeasureLeaves = `
SELECT coalesce(pg_relation_filenode(l.oid), 0)::bigint,
       coalesce(pg_relation_size(l.oid), 0) / current_setting('block_size')::bigint
  FROM unnest($1::oid[]) WITH ORDINALITY AS l(oid, n)
 ORDER BY l.n`

// measureReady measures the bindings that are to be scanned by ctid and wait for no writer any more: what a transaction
// wrote unseen must lie within the pages measured. A table that another session has locked is tried again later, and at most
// one such table is met at a time: the stream stands still meanwhile.
func (c *capture) measureReady() error {
	for _, b := range slices.Clone(c.backlog.reading) {
		if b.scan.state != scanUnmeasured || b.scan.resting(time.Now()) {
			continue
		}
		err := c.measureLeaves(b)
		if err == nil {
			b.scan.measured()
			continue
		}
		if err := c.readFailed(b, fmt.Errorf("measure %s for its scan: %w", b.name(), err)); err != nil {
			return err
		}
		break
	}
	c.completeEmpty()
	return nil
}

// measureLeaves gives a binding that is scanned by ctid a cursor for each relation that holds rows; a cursor whose
// relation has been rewritten starts again. What is added behind the pages measured here is streamed.
func (c *capture) measureLeaves(b *binding) error {
	// Those that writers we waited for have made too; before version 15 they are found later, as attached ones (capture_partition_changes.go).
	if b.phase == phaseBackfill && len(b.meta.Leaves) == 0 && b.state.Scanned == nil && c.db.version >= 150000 {
		if err := c.freshPartitions([]*binding{b}); err != nil {
			return err
		}
		b.rememberPartitions()
	}
	stored := make(map[uint32]*leafCursor, len(b.meta.Leaves))
	for i := range b.meta.Leaves {
		stored[b.meta.Leaves[i].OID] = &b.meta.Leaves[i]
	}
	var leaves []leafCursor
	var oids []uint32
	for _, l := range b.table.leaves {
		if old := stored[l.oid]; old != nil || b.phase == phaseBackfill {
			at := leafCursor{OID: l.oid}
			if old != nil {
				at.UpTo = old.UpTo
			}
			leaves, oids = append(leaves, at), append(oids, l.oid)
		}
	}
	i, end := 0, 0
	var filenode, pages int64
	measured := func() error {
		at := &leaves[i]
		i++
		at.Filenode, at.Pages = uint32(filenode), pages
		if old := stored[at.OID]; old != nil && old.Filenode == at.Filenode {
			*at = *old
		} else if len(stored) == 0 && b.state.Scanned != nil {
			at.Block, at.Offset, _ = parseCTID(b.state.Scanned) // the incumbent's: one position for all leaves
		}
		at.Done = at.Done || at.Block >= at.Pages
		return nil
	}
	measure := func(tx pgx.Tx) error {
		if _, err := tx.Exec(c.ctx, "SET LOCAL lock_timeout = '20ms'"); err != nil {
			return err
		}
		rows, err := tx.Query(c.ctx, sqlMeasureLeaves, oidArray(oids[i:end]))
		if err != nil {
			return err
		}
		_, err = pgx.ForEachRow(rows, []any{&filenode, &pages}, measured)
		return err
	}
	for i < len(oids) { // each that is measured is locked until its transaction ends
		end = min(i+mostMeasured, len(oids))
		err := c.db.with(c.ctx, func(conn *pgx.Conn) error { return pgx.BeginFunc(c.ctx, conn, measure) })
		if err != nil {
			return err
		}
	}
	b.meta.Leaves = leaves
	if b.phase == phaseBackfill && leavesDone(leaves) { // an empty table: one chunk over no pages ends it
		for i := range b.meta.Leaves {
			b.meta.Leaves[i].Done = i > 0
		}
	}
	return nil
}
