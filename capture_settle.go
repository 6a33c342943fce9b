// capture_settle.go owns what becomes of a round whose fence has passed: what is said of the fence, the rows of its chunks as documents, each
// chunk followed by its checkpoint, and the chunks that are to be read again instead.
// Invariant (DESIGN I7): between a passed fence and the last row of a chunk that it settles nothing of the stream is emitted, and no
// checkpoint is written; a chunk is written whole, or what of it was written comes once more.

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/sirupsen/logrus"
)

// settle ends the round whose fence has passed: its chunks are emitted, each followed by its own checkpoint.
func (c *capture) settle() error {
	r := c.rounds.settle()
	failpoint("settle.before")
	if r.fence.watermark != nil {
		about := c.watermarkCame
		if r.fence.missed {
			about = func() error { return c.watermarkMissed(r.fence) }
		}
		if err := about(); err != nil {
			return err
		}
	}
	switch c.stage {
	case stageCatchUp:
		if r.fence.watermark == nil {
			c.ledger.advance(r.fence.position)
		}
		if err := c.checkpoint(); err != nil {
			return err
		}
		c.stage = stageCapture
		if !c.backlog.isEmpty() {
			c.say(statusBackfill)
		} else {
			c.say(statusStream)
		}
		return nil
	case stageFinal:
		logrus.Info("Shutting down due to SHUTDOWN_AFTER_POLLING=yes")
		c.stage = stageFinished
		return c.checkpoint()
	}
	c.ledger.advance(c.ledger.idleEnd) // a quiet table's long backfill must not pin WAL
	for _, ck := range r.chunks {
		if err := c.settleChunk(ck); err != nil {
			return fmt.Errorf("backfill %s: %w", ck.binding.name(), err)
		}
	}
	return c.completeMarked()
}

// settleChunk emits one chunk and moves its binding past it.
func (c *capture) settleChunk(ck *chunk) error {
	b := ck.binding
	if ck.generation != b.scan.generation {
		return nil
	}
	b.scan.judgeBy(nil)
	if ck.spoiled != "" {
		c.readAgain(ck)
		b.scan.ask(ck.limit / 2)
		return nil
	}
	if b.sourced != ck.plan {
		if err := c.sourceSchema(b, ck.table, ck.plan, nil); err != nil {
			return err
		}
	}
	if err := c.completeRows(b, ck); err != nil {
		return c.chunkRefused(ck, 0, err)
	}
	if ck.spoiled != "" || ck.generation != b.scan.generation {
		return c.settleChunk(ck)
	}
	from := provenance{snapshot: true, loc: [3]int64{-1, int64(b.state.Backfilled), 0}}
	if b.tried {
		if good, err := c.tryRows(ck, from); err != nil {
			return c.chunkRefused(ck, good, err)
		}
	}
	d := document{op: 'c'}
	for i := range ck.rows {
		if ck.rows[i].dead {
			continue
		}
		c.rowScratch = ck.row(c.rowScratch, i)
		d.row = c.rowScratch
		if err := c.write(b, ck.plan, &from, &d); err != nil {
			return c.chunkRefused(ck, i, &rowError{ck.plan.describeKeyOf(c.rowScratch), err})
		}
		from.loc[1]++
	}
	failpoint("settle.rows")
	scannedRows := len(ck.rows)
	if b.readBeside(!ck.isWide()); ck.isWide() {
		c.letGo()
	}
	c.rounds.giveBack(ck)
	rows := int(from.loc[1]) - b.state.Backfilled
	b.state.Backfilled = int(from.loc[1])
	b.scan.adapt(ck, scannedRows, c.settings.chunkRows, c.polling)
	if b.tried {
		c.resumed(b)
	}
	b.advance(ck)
	failpoint("settle.advanced")
	ended := ck.final || ck.leaf.OID != 0 && !b.scanning()
	if ended {
		c.backlog.leave(b)
		if b.scanning() {
			c.backlog.attach(b)
		}
	}
	if err := c.checkpoint(); err != nil { // ahead of what the logs say of it
		return err
	}
	c.progress.chunks.Add(1)
	logScanned(b, ck, rows)
	if len(c.backlog.reading) > 0 && b.phase == phaseBackfill {
		c.say(statusBackfill)
	}
	if ended {
		logrus.WithFields(logrus.Fields{"stream": b.name().String(), "rows": b.state.Backfilled}).Info("backfill completed")
		c.nothingToRead()
	}
	return nil
}

// readAgain has a chunk read again of which nothing is settled.
func (c *capture) readAgain(ck *chunk) {
	logrus.WithFields(logrus.Fields{"table": ck.binding.name().String(), "reason": ck.spoiled}).Info("chunk is read again")
	c.progress.reread.Add(1)
	c.rounds.discard(ck.binding)
}

// tryRows makes the documents of a chunk and drops them. It returns how many rows precede the first that has none.
func (c *capture) tryRows(ck *chunk, from provenance) (good int, err error) {
	var trial []byte
	d := document{op: 'c'}
	for i := range ck.rows {
		if ck.rows[i].dead {
			continue
		}
		c.rowScratch = ck.row(c.rowScratch, i)
		d.row = c.rowScratch
		trial, err = ck.plan.appendFitting(trial[:0], &from, &d)
		if err != nil {
			return i, &rowError{ck.plan.describeKeyOf(c.rowScratch), err}
		}
	}
	return len(ck.rows), nil
}

// nothingToRead says so when the last backfill has ended.
func (c *capture) nothingToRead() {
	if c.backlog.isEmpty() { // else their last markers are to come first
		c.say(statusStream)
	}
}

// completeRows fills in the unchanged TOAST values of buffered rows whose older image was not in the chunk. A row that is
// gone goes without them: its delete follows in the stream. Under another shape the chunk is spoiled.
func (c *capture) completeRows(b *binding, ck *chunk) error {
	for i := range ck.rows {
		if ck.rows[i].dead {
			continue
		}
		c.rowScratch = ck.row(c.rowScratch, i)
		if !c.rowScratch.lacks() {
			continue
		}
		t := cloneTuple(c.rowScratch)
		key := ck.plan.keyValues(nil, t, nil)
		row, err := c.awaitRow(c.wanted(b, ck.plan, key, t))
		if errors.Is(err, errTableChanged) {
			ck.spoil("the table changed its shape")
			return nil
		}
		if errors.Is(err, errParked) {
			return nil
		}
		if err != nil {
			return err
		}
		if row == nil {
			continue
		}
		t.fill(row)
		ck.put(appendIdentity(nil, key), t, nil, fitTuple(t, ck.plan, budget.cutRule()))
	}
	return nil
}

// watermarkMissed says that a watermark did not come, and why, and looks at the captured tables at once: their changes may
// have gone the same way. REQUIRES: between transactions; no chunk has been settled since the fence.
func (c *capture) watermarkMissed(f *fence) error {
	if !c.rounds.missed() {
		return nil
	}
	values := []string{string(f.watermark)}
	if last := c.rounds.fencer.written.Load(); last != nil {
		values = append(values, *last)
	}
	var fault string
	err := c.db.with(c.ctx, func(conn *pgx.Conn) (err error) {
		fault, err = watermarksFault(c.ctx, conn, c.settings, c.db.version, values...)
		return err
	})
	switch {
	case c.ctx.Err() != nil:
		return context.Cause(c.ctx)
	case err != nil:
		fault = fmt.Sprintf("why could not be found out (%s)", serverReason(err))
	case fault == "":
		fault = "nothing is amiss with the watermarks table and its publication now, so something was for a while"
	}
	c.status("A watermark has not come through the stream, and never will: %s. Backfills go on by the WAL's positions meanwhile, and the "+
		"captured tables are looked at for what they may have lost.", fault)
	return c.refreshSending()
}

// watermarkCame takes it back that watermarks do not come.
func (c *capture) watermarkCame() error {
	if !c.rounds.came() {
		return nil
	}
	c.usual()
	return c.refreshSending()
}
