// capture_described.go owns what the order of the stream's messages says of the tables that they describe, beside their shapes: which table is
// sent as which. It is judged by the messages alone.
// Invariant: the server describes a table that is sent as another one right behind that, ahead of the first change of it and whenever
// its catalog entries have changed (pgoutput.c, maybe_send_schema); only the types of users that its columns have come between.

package main

// descriptions is what the last Relation messages were of.
type descriptions struct {
	root *binding // the partitioned table that the last one was of; nil for another

	// A change is sent as that of another table that is not captured, which has, or had for a moment, the captured one as a
	// partition, if it follows upon the descriptions of the first and then of the second. Nothing else makes such a row of three: a
	// TRUNCATE of both is described so, too, but then no change follows.
	foreign  *relationEntry // described by message number at, of those that count
	at       int
	captured *relationEntry // described by the next one
}

// skip is called of a message that counts among those of the session and may stand between descriptions.
func (d *descriptions) skip() { d.at++ }

// relation takes note of the n-th message, which describes a relation. It returns the partitioned table whose partition that is if it
// is captured as no table.
func (d *descriptions) relation(e *relationEntry, n int) (root *binding) {
	root, d.root = d.root, nil
	switch {
	case e.binding == nil:
		d.foreign, d.at, d.captured = e, n, nil
	case d.foreign != nil && d.captured == nil && n == d.at+1:
		d.captured = e
	default:
		d.foreign, d.at, d.captured = nil, 0, nil
	}
	if e.binding != nil && e.binding.table != nil && e.binding.table.kind == 'p' {
		d.root = e.binding
	}
	return root
}

// change takes note of the n-th message, which is a change of a relation that is not captured. It returns the captured one whose change
// that may be, or nil.
func (d *descriptions) change(e *relationEntry, n int) *relationEntry {
	if d.captured == nil || d.foreign != e || n != d.at+2 {
		return nil
	}
	captured := d.captured
	d.foreign, d.at, d.captured = nil, 0, nil
	return captured
}

// transaction is called where one begins.
func (d *descriptions) transaction() { d.root = nil }
