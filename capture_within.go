// capture_within.go owns the checkpoints inside of a transaction that has more documents than a runtime takes whole: where in it they
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
)

// largeTransaction is how many bytes of documents a transaction may emit before there is a checkpoint in its midst: with the
// one it ends with, well below the 512 MiB that the runtime takes without one (spec/platform-2026.md §1), and as many as have it
// close a transaction of its own.
var largeTransaction = 64 << 20

// emissions are what a binding has emitted of the transaction being streamed, counting what is left out.
type emissions struct {
	transaction int // within.transaction; with another value this is of one before
	span        int // within.span, of the last document
	documents   int64
	digest      uint64
	last        int64 // loc[1] of the last document
	until       int64 // what lies at or before this has been captured before; 0: nothing has
}

// within is the transaction being streamed, as far as checkpoints may stand inside of it.
type within struct {
	large       int // bytes of documents behind which a checkpoint stands inside of a transaction
	transaction int // that began, in the process
	span        int // of the stream without a checkpoint inside of a transaction, in the process

	commit      lsn // where the transaction commits
	xid         uint32
	checkpoints int        // inside of it
	before      int64      // documents of it that were captured before
	resumed     []*binding // those of which some are still to be left out
	touched     []*binding // those that the present span has emitted something of
	partly      []*binding // those of which a part of a transaction was captured that has not begun yet
}

// placeFault is why a place that is stored for a binding does not count, or not as it should.
type placeFault struct {
	binding *binding
	place   *transactionPlace
	err     error // it cannot be read
	rule    bool  // what the binding's changes yield is decided otherwise now
	now     int64 // neither: the transaction yields other documents now, or so many
}

// newPlace is where a binding stands now.
func (l *ledger) newPlace(b *binding) *transactionPlace {
	p := &transactionPlace{
		Commit: l.within.commit.String(), XID: l.within.xid, Last: lsn(b.entry.emitted.last).String(), Documents: b.entry.emitted.documents,
		Rule: b.ruleOf(),
	}
	if b.entry.unlike != l.within.transaction {
		p.Digest = b.entry.emitted.digestText()
	}
	return p
}

func (t *emissions) digestText() string { return strconv.FormatUint(t.digest, 36) }

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
func (l *ledger) yieldsOtherwise(b *binding) {
	if b.entry.unlike = l.within.transaction; b.meta.Within != nil {
		b.meta.Within.Digest = ""
	}
}

// emitting takes note of what a binding is about to emit at a place (loc[1]), and reports whether that has been captured
// before, so that it is left out. What it is called for may also be another output than a document, under an op of its own.
// REQUIRES: inside a transaction; place grows with each call for the binding.
func (l *ledger) emitting(b *binding, op byte, place int64) (before bool, fault *placeFault) {
	t := &b.entry.emitted
	if t.span != l.within.span {
		l.meet(b)
	}
	if t.until != 0 && place > t.until {
		fault = l.leftOut(b)
	}
	if invariants && place <= t.last {
		assert(false, "%s: place %d behind place %d of transaction %d", b.name(), place, t.last, l.within.xid)
	}
	t.documents++
	t.digest = (t.digest ^ uint64(place)<<8 ^ uint64(op)) * 0x100000001b3 // as FNV-1a goes on
	t.last = place
	return t.until != 0, fault
}

// meet notes that a binding has emitted something since the last checkpoint.
func (l *ledger) meet(b *binding) {
	if b.entry.emitted.transaction != l.within.transaction {
		b.entry.emitted = emissions{transaction: l.within.transaction}
	}
	b.entry.emitted.span = l.within.span
	l.within.touched = append(l.within.touched, b)
}

// full reports whether there is to be a checkpoint inside of the transaction.
func (l *ledger) full() bool { return l.undelivered >= l.within.large }

// checkpointWithin writes a checkpoint inside of the transaction being streamed: it has all that was emitted so far.
// REQUIRES: inside a transaction, behind all documents of one change.
func (l *ledger) checkpointWithin() error {
	w := &l.within
	assert(l.cursor <= w.commit, "the cursor %s lies behind the transaction that commits at %s", l.cursor, w.commit)
	before := make([]*transactionPlace, len(w.touched))
	for i, b := range w.touched {
		before[i] = b.meta.Within
		if b.entry.emitted.until == 0 { // else it stands where it did, which is stored
			b.meta.Within = l.newPlace(b)
			b.mark()
		}
	}
	w.span++
	l.owe()
	failpoint("within.before")
	if err := l.checkpoint(); err != nil {
		for i, b := range w.touched { // the next session of the process resumes from what is stored
			b.meta.Within = before[i]
		}
		return err
	}
	w.touched = w.touched[:0]
	failpoint("within.after")
	w.checkpoints++
	return nil
}

// loadPlaces finds the bindings of which a part of a transaction has been captured that is still to be streamed. REQUIRES:
// the cursor is where the stream starts.
func (l *ledger) loadPlaces(bindings []*binding) (faults []*placeFault) {
	for _, b := range bindings {
		p := b.meta.Within
		if p == nil {
			continue
		}
		if _, _, err := p.positions(); err != nil {
			faults = append(faults, &placeFault{binding: b, place: p, err: err})
			b.meta.Within = nil
			b.mark()
			continue
		}
		if p.passed(l.cursor) {
			b.meta.Within = nil // which need not be written
			continue
		}
		l.within.partly = append(l.within.partly, b)
	}
	return faults
}

// forgetPlaces is called where the stream does not start at the cursor that they were stored with.
func (l *ledger) forgetPlaces(bindings []*binding) {
	for _, b := range bindings {
		if b.meta.Within != nil {
			b.meta.Within = nil
			b.mark()
		}
	}
}

// leaveTransaction forgets the one being streamed, and which of its documents, or of those to come, were captured before.
func (l *ledger) leaveTransaction() {
	w := &l.within
	*w = within{large: w.large, transaction: w.transaction, span: w.span}
}

// beginTransaction is called when a transaction begins, with where it commits. It takes up the places of the bindings that a part
// of it has been captured of, and returns those that do not fit.
func (l *ledger) beginTransaction(commit lsn, xid uint32) (faults []*placeFault) {
	w := &l.within
	w.commit, w.xid, w.checkpoints, w.before, w.resumed = commit, xid, 0, 0, nil
	w.transaction++
	w.span++
	w.touched = w.touched[:0]
	waiting := w.partly[:0]
	for _, b := range w.partly {
		p := b.meta.Within
		if p == nil {
			continue
		}
		at, last, _ := p.positions() // loadPlaces has looked at them
		switch {
		case at > commit:
			waiting = append(waiting, b)
			continue
		case at < commit || p.XID != xid:
			if fault := l.compare(b, 0); fault != nil {
				faults = append(faults, fault)
			}
			b.meta.Within = nil
			b.mark()
			continue
		case b.captures() && p.Rule != b.ruleOf():
			faults = append(faults, &placeFault{binding: b, place: p, rule: true})
			b.meta.Within = nil
			b.mark()
			continue
		}
		b.entry.emitted = emissions{transaction: w.transaction, until: int64(last)}
		w.before += p.Documents
		w.resumed = append(w.resumed, b)
	}
	w.partly = waiting
	return faults
}

// captures reports whether all changes of the binding count: neither is its table to be captured anew, nor is it parked.
func (b *binding) captures() bool { return b.phase == phaseActive || b.phase == phaseBackfill }

// leftOut is called behind all of a binding's documents that were captured before, and compares them with those that were left out.
func (l *ledger) leftOut(b *binding) *placeFault {
	t, p := &b.entry.emitted, b.meta.Within
	t.until = 0
	if i := slices.Index(l.within.resumed, b); i >= 0 {
		l.within.resumed = slices.Delete(l.within.resumed, i, i+1)
	}
	if p != nil && (t.documents != p.Documents || t.digestText() != p.Digest) {
		return l.compare(b, t.documents)
	}
	return nil
}

// compare is called for a binding of which a transaction yields now other documents than were captured of it, or so many. It
// returns nil where that follows from what has changed with the binding, whose rows are all read again where that is called for.
func (l *ledger) compare(b *binding, now int64) *placeFault {
	p := b.meta.Within
	if p.Digest == "" || b.entry.unlike == l.within.transaction || !b.captures() {
		return nil
	}
	return &placeFault{binding: b, place: p, now: now}
}

// leaving is how many documents of the transaction were captured before, while some are still to be left out; else 0.
func (l *ledger) leaving() int64 {
	if len(l.within.resumed) == 0 {
		return 0
	}
	return l.within.before
}

// endWithin is called at the commit of a transaction that was resumed within: nothing of it is left out any more.
func (l *ledger) endWithin() (faults []*placeFault) {
	for len(l.within.resumed) > 0 {
		if fault := l.leftOut(l.within.resumed[0]); fault != nil {
			faults = append(faults, fault)
		}
	}
	return faults
}
