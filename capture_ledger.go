// capture_ledger.go owns what of a capture is durable and what is to become so: the cursor, the bindings whose state is to be stored, what
// awaits a checkpoint, and the positions that the runtime has acknowledged.
// Invariant (DESIGN I7): cursor is the end of the last transaction that was streamed to its end, or a position behind it at which
// the server had nothing else to send; stored is that of the last checkpoint, and nothing is acknowledged beyond it.

package main

import "time"

const (
	// A busy stream checkpoints after so many bytes or so long, an idle one at once.
	checkpointBytes = 16 << 20
	checkpointDelay = time.Second
)

// ledger is what a session that resumes would find, and what has been emitted since.
type ledger struct {
	out  *output // documents are written to it by the capture
	acks *acknowledgements

	cursor      lsn // end of the last streamed transaction, or where a keepalive showed the server to be
	stored      lsn // cursor of the last checkpoint
	previousEnd lsn // end of the last transaction received on this connection, at first the start position
	idleEnd     lsn // WAL end of the last keepalive between transactions

	due          bool // documents, or a cursor that documents stand behind, await a checkpoint
	dueSince     time.Time
	undelivered  int // bytes of documents since the last checkpoint
	delivered    int // checkpoints that carried changes of captured tables, in the process
	checkpointed time.Time

	within within

	changed []*binding // since the last checkpoint
	removed map[string]*bindingState
	patch   []byte
}

// entry is what the ledger keeps of a binding, and it alone writes.
type entry struct {
	dirty   bool      // the binding's state or metadata changed since the last checkpoint
	emitted emissions // of the transaction being streamed
	unlike  int       // within.transaction, of the last one in which it changed what the binding's changes yield
}

func newLedger(out *output, acks *acknowledgements) ledger {
	return ledger{out: out, acks: acks, within: within{large: largeTransaction}}
}

// resume takes up what a session before left: the runtime has committed the cursor stored, and the stream goes on at cursor.
func (l *ledger) resume(stored, cursor lsn) {
	l.acks.flushed.Store(uint64(stored))
	l.cursor = cursor
}

// restart has the stream go on at a position that what is acknowledged has nothing to do with: another slot's.
func (l *ledger) restart(position lsn, bindings []*binding) {
	l.cursor = position
	l.acks.reset()
	l.forgetPlaces(bindings)
}

// rollBack drops what was emitted since the last checkpoint: a session that begins now resumes as a new process would.
// REQUIRES: none of that has been written.
func (l *ledger) rollBack() {
	l.out.drop()
	l.cursor, l.undelivered = l.stored, 0
}

// begin is called when the stream begins, at the cursor. It returns the places that cannot be read.
func (l *ledger) begin(bindings []*binding) []*placeFault {
	l.previousEnd, l.idleEnd = l.cursor, l.cursor
	return l.loadPlaces(bindings)
}

// committed moves the cursor behind a transaction that was streamed to its end.
func (l *ledger) committed(end lsn) { l.previousEnd, l.cursor = end, end }

// heard takes note of a keepalive between transactions: the server has sent all up to end.
func (l *ledger) heard(end lsn) { l.idleEnd = max(l.idleEnd, end) }

// received is how far the stream has come.
func (l *ledger) received() lsn { return max(l.previousEnd, l.idleEnd) }

// reached is how far the cursor may be moved. REQUIRES: between transactions.
func (l *ledger) reached() lsn { return max(l.cursor, l.idleEnd) }

// advance moves the cursor on to a position up to which everything has been streamed. REQUIRES: between transactions.
func (l *ledger) advance(position lsn) { l.cursor = max(l.cursor, position) }

// wrote counts bytes of documents that were emitted.
func (l *ledger) wrote(bytes int) { l.undelivered += bytes }

// owe has a checkpoint written before long, counted from what has been owed for longest.
func (l *ledger) owe() {
	if !l.due {
		l.due, l.dueSince = true, time.Now()
	}
}

// overdue reports whether what is owed can wait no longer for a pause of the stream.
func (l *ledger) overdue() bool {
	return l.due && (l.undelivered >= checkpointBytes || time.Since(l.dueSince) >= checkpointDelay)
}

// mark has the next checkpoint carry a binding.
func (l *ledger) mark(b *binding) {
	if !b.entry.dirty {
		b.entry.dirty = true
		l.changed = append(l.changed, b)
	}
}

// remove has the next checkpoint say that a binding is no part of the task any more.
func (l *ledger) remove(stateKey string) {
	if l.removed == nil {
		l.removed = make(map[string]*bindingState)
	}
	l.removed[stateKey] = ignoredState()
}

// open writes the checkpoint that begins a session: the cursor as it is stored.
func (l *ledger) open(stored lsn) error {
	patch, err := appendPatch(nil, stored, nil)
	if err != nil {
		return err
	}
	l.acks.push(stored)
	return l.out.checkpoint(patch)
}

// checkpoint writes the cursor and the bindings that changed: all that was emitted so far is behind them.
func (l *ledger) checkpoint() error {
	failpoint("checkpoint.before")
	changed := l.removed
	l.removed = nil
	for _, b := range l.changed {
		if changed == nil {
			changed = make(map[string]*bindingState)
		}
		changed[b.stateKey] = b.storedState(l.cursor)
		b.entry.dirty = false
	}
	l.changed = l.changed[:0]
	var err error
	if l.patch, err = appendPatch(l.patch[:0], l.cursor, changed); err != nil {
		return err
	}
	l.acks.push(l.cursor)
	failpoint("checkpoint.noted")
	if err := l.out.checkpoint(l.patch); err != nil {
		return err
	}
	failpoint("checkpoint.after")
	if l.due {
		l.delivered++
	}
	l.due, l.undelivered = false, 0
	l.stored, l.checkpointed = l.cursor, time.Now()
	return nil
}
