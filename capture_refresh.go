// capture_refresh.go owns when and why a running capture reads the server's catalog again: all about the captured tables now and then, what is
// sent of them each minute, and single tables where the stream has shown something that speaks against what is known.
// Invariant: a reason brings a reading forward, never puts it off, and is kept until that has begun; and readings that the stream gives
// the reasons for keep a distance, however often it does so.

package main

import (
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// sendingInterval is how often what is sent of the tables is read. With 10,000 tables the query takes 0.4 s
	// (TestFitnessCost on two busy cores); the rest of the catalog is read only for those tables that it shows to have changed.
	sendingInterval = time.Minute

	// soonAfter is how soon after the last reading something new leads to the next one, and laterAfter something that may be nothing new:
	// the stream describes a table again also behind an ANALYZE.
	soonAfter  = time.Second
	laterAfter = 10 * time.Second

	// parkedLead lets some readings of single parked tables follow each other at once: each takes ten times its time from it.
	parkedLead = 2 * time.Second
)

// refreshes is what of the catalog is to be read again. Owned by the capture goroutine.
type refreshes struct {
	interval time.Duration // of the reading of all
	allAt    time.Time     // when to read all about the captured tables

	sending     map[tableName]fitness // what is sent of the tables, as it was read last
	sendingAt   time.Time             // when to read that again
	sendingRead time.Time             // when that was done last
	returning   map[*binding]bool     // parked, but the stream has described their tables: they are read then

	parkedAt time.Time // ahead of now by ten times what reading single parked tables has lately taken

	partitioned     []*binding // those whose partitions seem to have changed
	partitionedAt   time.Time  // when to read them
	partitionedRead time.Time  // when that was done last

	suspects []suspect
}

// suspect is a table that was rewritten in a way which a TRUNCATE may explain that is still to be streamed.
type suspect struct {
	binding *binding
	until   lsn // where the stream has shown that TRUNCATE, if there was one
}

// spread is an interval around d, so that many captures do not ask at once.
func spread(d time.Duration) time.Duration {
	return time.Duration(float64(hurried(d)) * (0.5 + rand.Float64()))
}

// begin is called when a session begins to stream.
func (r *refreshes) begin(interval time.Duration) {
	r.interval, r.partitioned = interval, nil
	r.allAt, r.sendingAt = time.Now().Add(spread(interval)), time.Now().Add(spread(sendingInterval))
}

// allDue reports whether all is to be read.
func (r *refreshes) allDue() bool { return time.Now().After(r.allAt) }

// readsAll is called ahead of the reading of all, and of what is sent.
func (r *refreshes) readsAll() {
	r.allAt = time.Now().Add(spread(r.interval))
	r.readsSending()
}

// notVisible has all read again soon: what was read may lack what the transaction being streamed has changed.
func (r *refreshes) notVisible() {
	if at := time.Now().Add(laterAfter); at.Before(r.allAt) {
		r.allAt = at
	}
}

// sendingDue reports whether what is sent is to be read.
func (r *refreshes) sendingDue() bool { return time.Now().After(r.sendingAt) }

// readsSending is called ahead of the reading of what is sent.
func (r *refreshes) readsSending() {
	r.sendingAt, r.sendingRead = time.Now().Add(spread(sendingInterval)), time.Now()
}

// doubtSending has what is sent read soon: the stream has shown something that speaks against what is remembered.
func (r *refreshes) doubtSending() { r.sendingBy(r.sendingRead.Add(soonAfter)) }

func (r *refreshes) sendingBy(at time.Time) {
	if at.Before(r.sendingAt) {
		r.sendingAt = at
	}
}

// sent takes note of what is sent of the tables.
func (r *refreshes) sent(read map[tableName]fitness) { r.sending = read }

// changed returns the bindings of whose tables something else is sent than when that was read last, and those that return.
func (r *refreshes) changed(bindings []*binding, read map[tableName]fitness) []*binding {
	var changed []*binding
	for _, b := range bindings {
		if r.returning[b] || read[b.name()] != r.sending[b.name()] {
			changed = append(changed, b)
		}
	}
	clear(r.returning)
	return changed
}

// readsParked reports whether the table of a parked binding that the stream describes is read now. All that a capture requires
// is checked for it while the stream stands still, and thousands may be parked for one fault: those that come soon after
// another are read together, a little later.
func (r *refreshes) readsParked(b *binding) bool {
	if time.Until(r.parkedAt) < parkedLead {
		return true
	}
	if r.returning == nil {
		r.returning = make(map[*binding]bool)
	}
	r.returning[b] = true
	r.sendingBy(time.Now().Add(hurried(laterAfter)))
	return false
}

// parkedTook takes note of how long the reading of a table took that stays parked.
func (r *refreshes) parkedTook(d time.Duration) {
	if now := time.Now(); r.parkedAt.Before(now) {
		r.parkedAt = now
	}
	r.parkedAt = r.parkedAt.Add(10 * d)
}

// partitionsChanged has a table read whose partitions seem to have changed, that long after the last such reading.
func (r *refreshes) partitionsChanged(b *binding, after time.Duration) {
	if at := r.partitionedRead.Add(after); len(r.partitioned) == 0 || at.Before(r.partitionedAt) {
		r.partitionedAt = at
	}
	if !slices.Contains(r.partitioned, b) {
		r.partitioned = append(r.partitioned, b)
	}
}

// readsPartitioned returns the bindings whose partitions are to be read now.
func (r *refreshes) readsPartitioned() []*binding {
	if len(r.partitioned) == 0 || !time.Now().After(r.partitionedAt) {
		return nil
	}
	due := r.partitioned
	r.partitioned, r.partitionedRead = nil, time.Now()
	return due
}

// isSuspect reports whether it is still to be seen whether a TRUNCATE explains that the table was rewritten.
func (r *refreshes) isSuspect(b *binding) bool {
	return slices.ContainsFunc(r.suspects, func(s suspect) bool { return s.binding == b })
}

// suspect takes note of a table that was rewritten: what the stream has shown by the time that it has come to until is all.
func (r *refreshes) suspect(b *binding, until lsn) {
	r.suspects = append(r.suspects, suspect{b, until})
}

// acquit is called of a table that is captured anew, or no longer.
func (r *refreshes) acquit(b *binding) {
	r.suspects = slices.DeleteFunc(r.suspects, func(s suspect) bool { return s.binding == b })
}

// unexplained returns the rewritten tables of which the stream has told no TRUNCATE, given how far it has come.
func (r *refreshes) unexplained(reached lsn) []*binding {
	var unexplained []*binding
	r.suspects = slices.DeleteFunc(r.suspects, func(s suspect) bool {
		switch {
		case s.binding.meta.Filenode == 0: // truncated
		case reached < s.until:
			return false
		default:
			unexplained = append(unexplained, s.binding)
		}
		return true
	})
	return unexplained
}

// fitness is what is sent of a table now.
type fitness struct {
	// mark begins with how the publication has the table, and goes on with the versions of the catalog rows that this rests on;
	// "" when it has it not.
	mark string
	// unsent is why its changes do not all come, with what to do about it; "" when they do.
	unsent string
	// seen tells apart all that a look shows.
	seen string
}
