// within.go owns the checkpoints inside of a transaction that has more documents than a runtime takes whole: where in it they
// stand, and what is left out when the transaction is streamed again.
// Invariant: the cursor of such a checkpoint stays before the transaction, whose changes are judged again from the first one by a
// session that resumes there. Of each binding it leaves out what lies at or before the place that is stored for it, and nothing
// behind; as many documents are left out as were captured, with the same places and operations, or the table is captured anew.

package main

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"

	"github.com/jackc/pglogrepl"
	"github.com/sirupsen/logrus"
)

// largeTransaction is how many bytes of documents a transaction may put out before there is a checkpoint in its midst: with the
// one it ends with, well below the 512 MiB that the runtime takes without one (spec/platform-2026.md §1), and as many as have it
// close a transaction of its own.
var largeTransaction = 64 << 20

// transactionPlace is how far the documents of one binding have been captured of a transaction whose commit lies behind the
// cursor. Positions are texts: not every reader of JSON keeps 64 bits of a number.
type transactionPlace struct {
	Commit    string `json:"commit"`    // of the transaction
	XID       uint32 `json:"xid"`       // its own
	Last      string `json:"last"`      // loc[1] of the last document
	Documents int64  `json:"documents"` // so far
	Digest    string `json:"digest"`    // of their places and operations; "": what a change yields has changed among them
	Rule      string `json:"rule"`      // what a change yields: see ruleOf
}

// told is what a binding has put out of the transaction being streamed, counting what is left out.
type told struct {
	transaction int // capture.begun, of the transaction; with another value this is of one before
	span        int // capture.span, of the last document
	documents   int64
	digest      uint64
	last        int64 // loc[1] of the last document
	until       int64 // what lies at or before this has been captured before; 0: nothing has
}

// newPlace is where a binding stands now.
func (c *capture) newPlace(b *binding) *transactionPlace {
	p := &transactionPlace{
		Commit: c.tx.begin.finalLSN.String(), XID: c.tx.begin.xid, Last: lsn(b.told.last).String(), Documents: b.told.documents,
		Rule: b.ruleOf(),
	}
	if b.unlike != c.begun {
		p.Digest = b.told.digestText()
	}
	return p
}

func (t *told) digestText() string { return strconv.FormatUint(t.digest, 36) }

// positions returns the commit and the last document's place.
func (p *transactionPlace) positions() (commit, last lsn, err error) {
	if commit, err = pglogrepl.ParseLSN(p.Commit); err == nil {
		last, err = pglogrepl.ParseLSN(p.Last)
	}
	return commit, last, err
}

// passed reports whether the transaction has been captured whole: it commits before the cursor. The end of the record before may
// be where the commit's begins.
func (p *transactionPlace) passed(cursor lsn) bool {
	commit, _, err := p.positions()
	return err == nil && commit < cursor
}

// ruleOf tells apart what decides which documents a change of the binding's yields, as far as a later session can know it before
// it streams: of a table whose rows are captured that is all of its changes, while it is scanned by key the position.
func (b *binding) ruleOf() string {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %q %q %q", b.resource.mode, b.resource.filter, b.collectionKey, b.scanColumns())
	if b.marks {
		h.Write([]byte(" marks"))
	}
	if b.phase == phaseBackfill && !b.byCTID() {
		fmt.Fprintf(h, " %t %x", b.meta.First, b.state.Scanned)
	}
	return strconv.FormatUint(h.Sum64(), 36)
}

// yieldsOtherwise is called where it changes what a binding's changes yield: those of the transaction so far cannot be compared
// with what they yield from now on.
func (c *capture) yieldsOtherwise(b *binding) {
	if b.unlike = c.begun; b.meta.Within != nil {
		b.meta.Within.Digest = ""
	}
}

// captured takes note of what a binding is about to put out at the place of c.from, and reports whether that has been captured
// before, so that it is left out. What it is called for may also be another output than a document, under an op of its own.
// REQUIRES: inside a transaction; c.from.loc[1] grows with each call for the binding.
func (c *capture) captured(b *binding, op byte) bool {
	t := &b.told
	if t.span != c.span {
		c.meet(b)
	}
	place := c.from.loc[1]
	if t.until != 0 && place > t.until {
		c.leftOut(b)
	}
	if invariants && place <= t.last {
		assert(false, "%s: place %d behind place %d of transaction %d", b.name(), place, t.last, c.tx.begin.xid)
	}
	t.documents++
	t.digest = (t.digest ^ uint64(place)<<8 ^ uint64(op)) * 0x100000001b3 // as FNV-1a goes on
	t.last = place
	return t.until != 0
}

// meet notes that a binding has put out something since the last checkpoint.
func (c *capture) meet(b *binding) {
	if b.told.transaction != c.begun {
		b.told = told{transaction: c.begun}
	}
	b.told.span = c.span
	c.touched = append(c.touched, b)
}

// checkpointWithin writes a checkpoint inside of the transaction being streamed: it has all that was put out so far.
// REQUIRES: inside a transaction, behind all documents of one change.
func (c *capture) checkpointWithin() error {
	assert(c.tx.open, "a checkpoint within a transaction outside of one")
	assert(c.ledger.cursor <= c.tx.begin.finalLSN, "the cursor %s lies behind the transaction that commits at %s", c.ledger.cursor, c.tx.begin.finalLSN)
	before := make([]*transactionPlace, len(c.touched))
	for i, b := range c.touched {
		before[i] = b.meta.Within
		if b.told.until == 0 { // else it stands where it did, which is stored
			b.meta.Within = c.newPlace(b)
			b.mark()
		}
	}
	c.span++
	c.ledger.owe()
	failpoint("within.before")
	if err := c.writeCheckpoint(); err != nil {
		for i, b := range c.touched { // the next session of the process resumes from what is stored
			b.meta.Within = before[i]
		}
		return err
	}
	c.touched = c.touched[:0]
	failpoint("within.after")
	c.tx.checkpoints++
	return nil
}

// loadPlaces finds the bindings of which a part of a transaction has been captured that is still to be streamed. REQUIRES:
// the cursor is where the stream starts.
func (c *capture) loadPlaces() {
	for _, b := range c.bindings {
		p := b.meta.Within
		if p == nil {
			continue
		}
		if _, _, err := p.positions(); err != nil {
			c.status("How far the documents of %s were captured cannot be read (%v): those of a large transaction may come again", b.name(), err)
			b.meta.Within = nil
			b.mark()
			continue
		}
		if p.passed(c.ledger.cursor) {
			b.meta.Within = nil // which need not be written
			continue
		}
		c.partly = append(c.partly, b)
	}
}

// forgetPlaces is called where the stream does not start at the cursor that they were stored with.
func (c *capture) forgetPlaces() {
	for _, b := range c.bindings {
		if b.meta.Within != nil {
			b.meta.Within = nil
			b.mark()
		}
	}
}

// resumeWithin is called when a transaction begins and there are bindings that a part of one has been captured of.
func (c *capture) resumeWithin() {
	begin := &c.tx.begin
	waiting := c.partly[:0]
	documents := int64(0)
	for _, b := range c.partly {
		p := b.meta.Within
		if p == nil {
			continue
		}
		commit, last, _ := p.positions() // loadPlaces has looked at them
		switch {
		case commit > begin.finalLSN:
			waiting = append(waiting, b)
			continue
		case commit < begin.finalLSN || p.XID != begin.xid:
			c.differs(b, 0)
			b.meta.Within = nil
			b.mark()
			continue
		case b.captures() && p.Rule != b.ruleOf():
			c.status("The settings or the backfill of %s are not what they were in the middle of the transaction that commits at %s: %d "+
				"documents of it that were captured are sent again", b.name(), commit, p.Documents)
			b.meta.Within = nil
			b.mark()
			continue
		}
		b.told = told{transaction: c.begun, until: int64(last)}
		documents += p.Documents
		c.tx.resumed = append(c.tx.resumed, b)
	}
	if c.partly = waiting; len(c.tx.resumed) > 0 {
		c.tx.before = documents
		c.status("Resuming within the transaction that commits at %s: %d documents of it were captured before and are left out",
			begin.finalLSN, documents)
	}
}

// captures reports whether all changes of the binding count: neither is its table to be captured anew, nor is it parked.
func (b *binding) captures() bool { return b.phase == phaseActive || b.phase == phaseBackfill }

// leftOut is called behind all of a binding's documents that were captured before, and compares them with those that were left out.
func (c *capture) leftOut(b *binding) {
	t, p := &b.told, b.meta.Within
	t.until = 0
	if i := slices.Index(c.tx.resumed, b); i >= 0 {
		c.tx.resumed = slices.Delete(c.tx.resumed, i, i+1)
	}
	if p != nil && (t.documents != p.Documents || t.digestText() != p.Digest) {
		c.differs(b, t.documents)
	}
}

// differs has a table captured anew of which a transaction yields now other documents than were captured of it.
func (c *capture) differs(b *binding, now int64) {
	p := b.meta.Within
	if p.Digest == "" || b.unlike == c.begun || !b.captures() {
		return // what the transaction yields has changed with the binding, whose rows are all read again where that is called for
	}
	text := fmt.Sprintf("%s is captured anew: %d documents up to %s were captured of the transaction that commits at %s, and now it has others or "+
		"another number there (%d). The publication, the table or the server has changed meanwhile. %s", b.name(), p.Documents, p.Last,
		p.Commit, now, c.remains(b))
	logrus.Warn(text)
	c.say(text)
	c.rewind(b)
	c.ledger.owe()
}

// endWithin is called at the commit of a transaction that was resumed within.
func (c *capture) endWithin() {
	for len(c.tx.resumed) > 0 {
		c.leftOut(c.tx.resumed[0])
	}
	c.usual()
}
