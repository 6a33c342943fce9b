// capture_backlog.go owns which tables have rows that are still to be read.
//
//	await ──▶ pending ──▶ begin ──▶ reading ──▶ leave
//	attach ─▶ attached ───▶ ▲          │
//	             ▲                     │ partitions came meanwhile
//	             └────── attach ◀──────┘
//
// Beside these stand those whose backfill a marker began, until the marker that ends it has come: marking.
// Invariant: a binding is in one of pending, attached and reading where rows of it are still to be read, with two exceptions: one that
// reads on while more partitions have been attached is in reading, too, until their scan begins; and one whose last row is settled
// is taken out ahead of the checkpoint that says so.

package main

import "slices"

// backlog is the bindings that have rows to be read.
type backlog struct {
	pending  []*binding // in phasePending
	attached []*binding // captured, with partitions whose scans have not begun in this session
	reading  []*binding // their scans have begun; highest priority first
	marking  []*binding // captured anew behind a BackfillBegin; their BackfillComplete is to come
}

// tables is how many tables have rows to be read.
func (l *backlog) tables() int { return len(l.pending) + len(l.attached) + len(l.reading) }

// isEmpty reports whether no rows are to be read, and no marker is to come behind them.
func (l *backlog) isEmpty() bool { return l.tables()+len(l.marking) == 0 }

// forget empties the backlog: a session begins.
func (l *backlog) forget() { *l = backlog{} }

// await has all rows of a binding's table be read when that may begin.
func (l *backlog) await(b *binding) {
	l.leave(b)
	if !slices.Contains(l.pending, b) {
		l.queue(b)
	}
}

// queue is await of a binding that is in none of the lists.
func (l *backlog) queue(b *binding) { l.pending = append(l.pending, b) }

// attach has the partitions of a captured table be read that came with rows.
func (l *backlog) attach(b *binding) {
	if !slices.Contains(l.attached, b) {
		l.attached = append(l.attached, b)
	}
}

// begin has the bindings be read from now on, anew where they have been. What is not in phasePending any more is not pending.
func (l *backlog) begin(bindings []*binding) {
	l.reading = slices.DeleteFunc(l.reading, func(b *binding) bool { return slices.Contains(bindings, b) })
	l.reading = append(l.reading, bindings...)
	l.pending = slices.DeleteFunc(l.pending, func(b *binding) bool { return b.phase != phasePending })
	slices.SortStableFunc(l.reading, func(a, b *binding) int { return b.resource.priority - a.resource.priority })
}

// leave takes a binding out: none of its rows are to be read, or not yet.
func (l *backlog) leave(b *binding) {
	is := func(o *binding) bool { return o == b }
	l.reading = slices.DeleteFunc(l.reading, is)
	l.attached = slices.DeleteFunc(l.attached, is)
}

// leaveParked takes all bindings out that have been parked.
func (l *backlog) leaveParked() {
	parked := func(b *binding) bool { return b.phase == phaseMissing }
	l.reading = slices.DeleteFunc(l.reading, parked)
	l.attached = slices.DeleteFunc(l.attached, parked)
	l.pending = slices.DeleteFunc(l.pending, parked)
}

// takeAttached empties the list of attached ones, which are to begin or to leave.
func (l *backlog) takeAttached() []*binding {
	taken := l.attached
	l.attached = nil
	return taken
}

// mark has a marker follow when the rows of the bindings have come.
func (l *backlog) mark(bindings ...*binding) { l.marking = append(l.marking, bindings...) }

// unmark takes a binding out of those that a marker is to follow.
func (l *backlog) unmark(b *binding) {
	l.marking = slices.DeleteFunc(l.marking, func(o *binding) bool { return o == b })
}
