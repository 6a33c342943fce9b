// capture_stream.go owns what is done about each WAL message: transactions begin and end, tables are described and truncated, and what the
// judging of a change (capture_changes.go) comes to is carried out, and what it needs to know is found out.
// Invariant: what one change comes to is carried out whole, in its order, before the next message is looked at.

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/sirupsen/logrus"
)

// handle processes one WAL message.
func (c *capture) handle(m *walMessage) error {
	switch m.kind {
	case 'k':
		c.described.skip() // it is no part of what is described
		c.keepalive(m.start)
		return nil
	case 'N':
		c.described.skip()
		c.noticed(m.data)
		return nil
	case '?':
		e := c.changes.relations[binary.BigEndian.Uint32(m.data[1:])]
		if e == nil {
			return fmt.Errorf("stream at %s: change of relation %d, which has not been described", m.start,
				binary.BigEndian.Uint32(m.data[1:]))
		}
		c.letGo()
		c.session.answer(c.cutClasses(e))
		return nil
	}
	if len(m.data) == 0 {
		return fmt.Errorf("stream at %s: empty message", m.start)
	}
	var err error
	switch kind := m.data[0]; kind {
	case 'I', 'U', 'D':
		err = c.handleChange(m)
	case 'B':
		err = c.handleBegin(m.data)
	case 'C':
		err = c.handleCommit(m.data)
	case 'R':
		err = c.handleRelation(m.data)
	case 'T':
		err = c.handleTruncate(m)
	case 'Y':
		c.described.skip() // those of a table's columns come ahead of what describes it
		_, err = decodeType(m.data)
	case 'O', 'M': // origin, logical message
	case 'A':
		// Stream Abort, which belongs to protocol version 2. PostgreSQL 18 sends it to all when it finds, while it spills, that a
		// transaction with subtransactions has aborted (reorderbuffer.c, ReorderBufferTruncateTXN): nothing of that was sent.
		if c.changes.tx.open {
			err = fmt.Errorf("stream abort inside transaction %d", c.changes.tx.begin.xid)
		}
	default:
		err = fmt.Errorf("unexpected message %q", kind)
	}
	if err != nil {
		return fmt.Errorf("stream at %s: %w", m.start, err)
	}
	return nil
}

// noticed is told of a notice in the stream. It is evidence like an error: from version 18 on, the server goes on with a
// WARNING and without rows where the publication is away (pgoutput.c, LoadPublications).
func (c *capture) noticed(body []byte) {
	logNotice(body)
	c.refreshes.doubtSending()
}

// letGo forgets what aliases the messages and chunks of before, which may be large too, ahead of a large one.
func (c *capture) letGo() {
	c.changes.release()
	c.rowScratch = nil
}

func (c *capture) handleBegin(data []byte) error {
	if err := c.changes.takeBegin(data, c.ledger.previousEnd); err != nil {
		return err
	}
	begin := &c.changes.tx.begin
	c.described.transaction()
	c.placesFailed(c.ledger.beginTransaction(begin.finalLSN, begin.xid))
	if before := c.ledger.within.before; before > 0 {
		c.status("Resuming within the transaction that commits at %s: %d documents of it were captured before and are left out",
			begin.finalLSN, before)
	}
	failpoint("stream.begin")
	return nil
}

func (c *capture) handleCommit(data []byte) error {
	commit, err := c.changes.takeCommit(data, c.ledger.previousEnd)
	if err != nil {
		return err
	}
	if len(c.changes.tx.doubtful) > 0 {
		if err := c.askDoubtful(); err != nil {
			return err
		}
	}
	if c.ledger.within.before > 0 {
		c.placesFailed(c.ledger.endWithin())
		c.usual()
	}
	c.changes.close()
	c.tally.transactions++
	c.ledger.committed(commit.endLSN)
	c.committed(commit.endLSN)
	failpoint("stream.commit")
	return nil
}

// askDoubtful is called at a commit: where younger rows have come and gone, and nothing was heard of an older one, the table
// is asked whether it stands there, and where the row that was told last has gone and another has not, what that is. It may have
// changed since, or come later; then more documents of it follow.
func (c *capture) askDoubtful() error {
	for _, d := range c.changes.tx.doubtful {
		e, b := d.entry, d.entry.binding
		older := d.rows.told && d.rows.older == olderUnknown
		if !older && !d.rows.stale || b.phase != phaseActive && b.phase != phaseBackfill {
			continue
		}
		row, err := c.currentRow(e, d.key)
		if errors.Is(err, errParked) {
			continue
		}
		if err != nil {
			if err := c.changeRefused(e, nil, fmt.Errorf("row %s: %w", describeKey(d.key), err)); err != nil {
				return err
			}
			continue
		}
		if row == nil || slices.ContainsFunc(e.plan.key, func(i int) bool { return row[i].kind == valueUnchanged }) {
			continue
		}
		c.changes.judgeRow(e, row)
		if err := c.carryOut(e); err != nil {
			if err := c.changeRefused(e, nil, fmt.Errorf("row %s: %w", describeKey(d.key), err)); err != nil {
				return err
			}
		}
		c.changes.judged()
	}
	return nil
}

// handleChange has an insert, update or delete judged, and carries out what it comes to.
func (c *capture) handleChange(m *walMessage) error {
	j := &c.changes
	e, err := j.take(m)
	if err != nil {
		return err
	}
	b := e.binding
	switch {
	case e.watermark:
		c.sawWatermark(e, j.change.new)
		return nil
	case b == nil:
		c.sawForeign(e)
		return nil
	case !b.takes():
		return nil
	}
	if e.plan == nil { // the table was gone when the stream described it
		if err := c.describe(e); err != nil || e.plan == nil || b.phase == phaseMissing {
			return err
		}
	}
	if err := j.judge(e, m.start, b.phase == phasePending && !c.onlyStreams(b)); err != nil {
		return err
	}
	c.tally.changes++
	failpoint("stream.change")
	if j.unsettles {
		c.unsettle(b)
	}
	if err := c.carryOut(e); err != nil {
		if err := c.changeRefused(e, &j.change, err); err != nil {
			return fmt.Errorf("change of %s: %w", b.name(), err)
		}
	}
	if j.judged(); c.ledger.full() {
		return c.checkpointWithin()
	}
	return nil
}

// cutClasses is how the columns of a relation are cut when a change of it is too large to be held; nothing is kept of one
// that is not captured.
func (c *capture) cutClasses(e *relationEntry) []cutClass {
	switch {
	case e.plan != nil:
		return e.plan.cutClasses()
	case e.binding == nil && !e.watermark:
		return slices.Repeat([]cutClass{{kind: cutDrop}}, len(e.relation.columns))
	}
	classes := make([]cutClass, len(e.relation.columns))
	for i, column := range e.relation.columns {
		classes[i] = c.types.cutClass(column.typeOID, false)
	}
	return classes
}

// sawWatermark tells the fences of a value written to our row.
func (c *capture) sawWatermark(e *relationEntry, row tuple) {
	if len(row) <= max(e.slotColumn, e.uuidColumn) || string(row[e.slotColumn].data) != c.settings.slot {
		return
	}
	c.rounds.sawWatermark(row[e.uuidColumn].data)
}

// lostKey parks the binding of a row that is gone or has another key now, and whose document cannot be told, as the start of a
// session would.
func (c *capture) lostKey(b *binding, change string) error {
	remedy, err := c.identityRemedy(b)
	if err != nil {
		return err
	}
	return c.parkForNow(b, fmt.Sprintf("%s does not carry the collection key: the replica identity lacks some of its columns; "+
		"run %s", change, remedy))
}

// carryOut does what the change that is being judged comes to.
func (c *capture) carryOut(e *relationEntry) error {
	j, b := &c.changes, e.binding
	var d document
	for {
		var err error
		switch j.next(&d) {
		case rulingDone:
			return nil
		case rulingRow:
			err = c.carryOutRow(e, &d)
			d = document{}
		case rulingOrder:
			err = c.askOrder(b, d.key)
		case rulingNoOldKey:
			change := "an update"
			if j.change.op == 'D' {
				change = "a delete"
			}
			return c.lostKey(b, change)
		case rulingNoKey:
			c.status("The stream's older columns of %s lack its key column %q: it is backfilled again", b.name(), e.plan.missing)
			c.rewind(b)
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// carryOutRow remembers, patches and emits a row.
func (c *capture) carryOutRow(e *relationEntry, d *document) error {
	b, j := e.binding, &c.changes
	if j.row.unsettles {
		c.unsettle(b)
	}
	if j.row.patches {
		b.scan.chunk.patch(e.plan, j.identity, d, j.change.newCut)
	}
	if !j.row.emits || c.captured(b, d.op) {
		return nil
	}
	if changed, lacks := j.whole(d); changed {
		if lacks {
			row, err := c.awaitRest(c.wanted(b, e.plan, d.key, d.row))
			if errors.Is(err, errParked) {
				return nil
			}
			if err != nil {
				return err
			}
			d.row.fill(row)
		}
		fitTuple(d.row, e.plan, budget.cutRule())
	}
	if b.sourced != e.plan {
		if err := c.sourceSchema(b, b.table, e.plan, e.relation); err != nil {
			return err
		}
	}
	return c.write(b, e.plan, &j.from, d)
}

// captured takes note of what a binding is about to put out at the place of c.changes.from, and reports whether that has been captured
// before, so that it is left out.
func (c *capture) captured(b *binding, op byte) bool {
	before, fault := c.ledger.emitting(b, op, c.changes.from.loc[1])
	if fault != nil {
		c.placeFailed(fault)
	}
	return before
}

// unsettle remembers the transaction for a binding whose unsettled range it touched. A standby's snapshots list no running
// transactions and so hold back none that was streamed, which is right: there a commit is visible before it is streamed. Once
// the standby is promoted they do, and what is remembered counts.
func (c *capture) unsettle(b *binding) { b.scan.unsettled.add(c.changes.tx.begin.xid) }

// write appends one document to the output.
func (c *capture) write(b *binding, p *plan, from *provenance, d *document) error {
	failpoint("emit.before")
	dst := c.out.begin(b.index)
	at := len(dst)
	dst, err := p.appendFitting(dst, from, d)
	if err != nil {
		c.out.discard()
		return err
	}
	c.ledger.wrote(len(dst) - at)
	c.tally.documents++
	failpoint("emit.after")
	return c.out.end(dst)
}

// handleRelation takes note of a table's shape as of here in the stream.
func (c *capture) handleRelation(data []byte) error {
	r, err := decodeRelation(data)
	if err != nil {
		return err
	}
	e, again := c.changes.describe(r)
	name := tableName{schema: r.schema, name: r.name}
	if !c.settings.readOnly && name == c.settings.watermarks {
		e.watermark = true
		e.slotColumn, e.uuidColumn, err = watermarkColumns(r)
		return err
	}
	e.binding = c.byName[name]
	if e.binding == nil || e.binding.meta.OID != r.oid { // else nobody can have had this table under another name
		for _, b := range c.bindings {
			if b.meta.OID == r.oid && b != e.binding {
				if err := c.parkForNow(b, fmt.Sprintf("it was renamed to %s; rename it back, or bind it by its new name", name)); err != nil {
					return err
				}
			}
			// A partition is described right behind the table as which its changes are sent, unless that is none.
			if _, known := b.partitions.known[r.oid]; known && c.described.root == nil {
				c.refreshes.doubtSending()
			}
		}
	}
	root := c.described.relation(e, c.handled)
	if e.binding == nil {
		c.describedPartition(root, r.oid, again)
		return nil
	}
	return c.describe(e) // by which a parked binding whose table is back is captured again
}

// handleTruncate applies a TRUNCATE.
func (c *capture) handleTruncate(m *walMessage) error {
	t, err := c.changes.takeTruncate(m)
	if err != nil {
		return err
	}
	for _, oid := range t.relations {
		e := c.changes.relations[oid]
		if e == nil {
			return fmt.Errorf("truncate of relation %d, which has not been described", oid)
		}
		b := e.binding
		if b == nil || b.phase == phaseMissing || b.phase == phasePending && b.meta.First || b.isOther(e.relation) {
			continue
		}
		if err := c.truncated(b, e); err != nil {
			return err
		}
	}
	return nil
}

// truncated applies a TRUNCATE to its binding.
func (c *capture) truncated(b *binding, e *relationEntry) error {
	b.truncations++
	c.changes.leaveAll(e)
	if b.phase == phasePending { // all that is there will be read
		if b.marks {
			return c.markTruncate(b)
		}
		return nil
	}
	b.meta.Filenode = 0 // the catalog will show another, of which no more is to be said
	b.mark()
	b.partitions.expectRewrites()
	if c.settings.onTruncate == "backfill" {
		c.status("%s was truncated: it is backfilled again. %s", b.name(), c.remains(b))
		c.rewind(b)
		return nil
	}
	if b.truncations == 1 {
		text := c.tellTruncate(b)
		logrus.Warn(text)
		c.say(text)
	}
	if b.scanning() {
		c.unsettle(b)
		if ck := b.scan.patched(); ck != nil && ck.table.oid == e.relation.oid {
			ck.clearRows()
		}
	}
	if b.marks {
		return c.markTruncate(b)
	}
	return nil
}
