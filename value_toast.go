// value_toast.go owns the values that a tuple lacks: those that an update left alone and that are stored out of line, whose bytes are
// not in the WAL (unchanged TOAST values).
// Invariant: such a value comes from the first of these that has it whole: the old tuple of the change, the row that a chunk has
// buffered, the table as it is now (capture_lookup.go). What none of them has is left out of the document; it is never NULL for that.

package main

// lacks reports whether the tuple lacks a value.
func (t tuple) lacks() bool {
	for i := range t {
		if t[i].kind == valueUnchanged {
			return true
		}
	}
	return false
}

// fill takes what the tuple lacks from another one of its columns, which may be nil and may lack it, too.
func (t tuple) fill(from tuple) {
	if from == nil {
		return
	}
	for i := range t {
		if t[i].kind == valueUnchanged {
			t[i] = from[i]
		}
	}
}

// from is a value of the tuple, or of the other where the tuple lacks it; other may be nil.
func (t tuple) from(other tuple, i int) *value {
	if t[i].kind == valueUnchanged && other != nil {
		return &other[i]
	}
	return &t[i]
}

// lackingAll is a row of which nothing is known.
func lackingAll(columns int) tuple {
	t := make(tuple, columns)
	for i := range t {
		t[i].kind = valueUnchanged
	}
	return t
}
