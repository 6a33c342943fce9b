// capture_scan.go owns the reading of one binding's rows: how far it has come, what its next chunk waits for, and by which chunk the
// changes of the table are judged.
//
//	       begins             waited               measured           missed
//	idle ─────────▶ waiting ─────────▶ unmeasured ─────────▶ ready ◀─────────▶ unseen
//	                                       ▲  ▲                │      saw         │
//	                                       │  └── rewritten ◀──┘                  │
//	                                       └───── rewritten ◀─────────────────────┘
//	any ── begins ──▶ waiting      any ── over, or the session is ──▶ idle
//
// A scan by key has no pages to be measured and passes that state at once.
// Invariant: a chunk is asked for in scanReady alone, and counts only while the scan has the generation that it was asked for
// in. What a scan holds is dropped as one value, by over and lost: nothing of it is reset field by field.

package main

import (
	"slices"
	"time"
)

type scanState uint8

const (
	scanIdle       scanState = iota // no rows of the table are being read
	scanWaiting                     // for writers
	scanUnmeasured                  // it is by ctid, and the pages to read have not been counted
	scanReady                       // the next chunk may be read
	scanUnseen                      // a chunk did not see all that is unsettled, and is read again when a snapshot does
)

func (s scanState) String() string {
	return [...]string{"idle", "waiting", "unmeasured", "ready", "unseen"}[s]
}

type scanEvent uint8

const (
	scanBegins    scanEvent = iota // the binding is among those whose rows are read, again where it has been
	scanWaited                     // the last writer has ended
	scanMeasured                   // the pages to read have been counted, or there are none
	scanMissed                     // a chunk did not see a transaction that is unsettled
	scanSaw                        // a snapshot sees them all
	scanRewritten                  // what was measured is no longer what there is
)

// next returns the state a scan enters when ev happens to it; ok is false for a transition that cannot be.
// Every change of a scan's state in the program goes through here, but for its being over.
func (s scanState) next(ev scanEvent) (_ scanState, ok bool) {
	switch {
	case ev == scanBegins:
		return scanWaiting, true
	case ev == scanWaited && s == scanWaiting:
		return scanUnmeasured, true
	case ev == scanMeasured && s == scanUnmeasured:
		return scanReady, true
	case ev == scanMissed && s == scanReady:
		return scanUnseen, true
	case ev == scanSaw && s == scanUnseen:
		return scanReady, true
	case ev == scanRewritten && (s == scanReady || s == scanUnseen):
		return scanUnmeasured, true
	case ev == scanRewritten: // it is to be measured anyway
		return s, true
	}
	return s, false
}

// side is where a key lies relative to a backfill.
type side uint8

const (
	sideScanned side = iota // settled: at or before scanned
	sideChunk               // in the chunk whose opening fence has passed
	sideBeyond              // a later chunk will read it
)

// scan is the reading of one binding's rows. The zero value is that of a binding of which none are read. Its place in a scan by
// ctid is in the binding's metadata.
type scan struct {
	state   scanState
	writers []writer // in scanWaiting: the transactions that may have written to the table unseen

	scanned   []value // key of the last row that is settled; nil before the first chunk
	scannedAt []byte  // comparison form of scanned

	// unsettled are the transactions that have touched what is not settled. A chunk counts only if it sees them (DESIGN I3).
	unsettled xidSet
	chunk     *chunk          // its opening fence has passed: changes are patched into it
	sides     map[string]side // answers of the server, for keys whose order only it knows; of scanned and chunk as they are

	limit      int // rows to ask for next
	generation int // a chunk of an older one counts no more
	setback
}

const (
	// firstPause is how long a binding rests after its first failure; each one more doubles that, up to longestPause.
	firstPause   = 500 * time.Millisecond
	longestPause = 5 * time.Minute
	// longestLockPause is the same for a lock of another session's: a chunk that waits for one holds up the stream for a second.
	longestLockPause = 30 * time.Second
)

// setback is what has kept chunks from being read since the last one that was.
type setback struct {
	failures  int       // chunks in a row that could not be read
	locked    int       // and those that found the table locked
	notBefore time.Time // when to try the next chunk
	suspended string    // why the backfill is said to be suspended; "": it is not
}

// lessons are what reading a table has taught. They outlast a scan, as what they are about does.
type lessons struct {
	wide        bool // it has rows too large to be read beside those of other tables
	tried       bool // a row of it could not be emitted: chunks are tried before anything of them is written
	withVerdict bool // rows that its filter leaves out are scanned, too, with its verdict on each
	explained   bool // the plan of a chunk's query was asked for in this process
	refusals    int  // how often in this process it was captured anew for changes that could not be emitted

	indirect time.Time // when our role was last seen not to be able to read a partition itself: it is read by way of the table
	lockPoor bool      // the server has no room for locks on all of its partitions at once: they are read one by one
}

// readAlone has the table's chunks be read with none of other tables beside them.
func (l *lessons) readAlone() { l.wide = true }

// readBeside takes that back when a chunk had no row that is too large.
func (l *lessons) readBeside(narrow bool) { l.wide = l.wide && !narrow }

// tryFirst has chunks be tried before anything of them is written, until allEmitted.
func (l *lessons) tryFirst() { l.tried = true }

// allEmitted takes note that all rows of the table have been emitted.
func (l *lessons) allEmitted() { l.tried = false }

// scanWithVerdict has rows scanned that the table's filter leaves out.
func (l *lessons) scanWithVerdict() { l.withVerdict = true }

// refuse counts a change that could not be emitted.
func (l *lessons) refuse() { l.refusals++ }

// readIndirectly has partitions be read by way of their root, until readDirectly.
func (l *lessons) readIndirectly() { l.indirect = time.Now() }

func (l *lessons) readDirectly() { l.indirect = time.Time{} }

// isIndirect reports whether partitions are read by way of their root.
func (l *lessons) isIndirect() bool { return !l.indirect.IsZero() }

// readByLeaf has partitions be read one by one.
func (l *lessons) readByLeaf() { l.lockPoor = true }

// explain reports whether the plan of a chunk's query is to be asked for, which it is once.
func (l *lessons) explain() bool {
	first := !l.explained
	l.explained = true
	return first
}

// over is what takes the place of a scan when its rows are all captured, are all to be captured again, or none are any more.
func (s *scan) over() scan { return scan{generation: s.generation + 1} }

// lost is what takes the place of a scan when the session has ended. The next one streams again what is unsettled, waits anew for
// writers, and reads on from the place that is stored. A table whose rows could not be read rests as before.
func (s *scan) lost() scan { return scan{generation: s.generation + 1, setback: s.setback} }

// patched is the chunk that changes are patched into; nil for none.
func (s *scan) patched() *chunk {
	if s.chunk == nil || s.chunk.spoiled != "" {
		return nil
	}
	return s.chunk
}

// happen moves the scan to its next state.
func (s *scan) happen(ev scanEvent) {
	next, ok := s.state.next(ev)
	assert(ok, "scan event %d in state %s", ev, s.state)
	s.state = next
}

// begin has the scan wait for the writers, and then read chunks of that many rows at first.
func (s *scan) begin(writers []writer, limit int, byCTID bool) {
	s.happen(scanBegins)
	s.limit, s.writers = limit, writers
	s.awaited(byCTID)
}

// stillOpen is told of the transactions that are open of all that are waited for.
func (s *scan) stillOpen(open []writer, byCTID bool) {
	if s.state != scanWaiting {
		return
	}
	s.writers = slices.DeleteFunc(s.writers, func(w writer) bool {
		return !slices.ContainsFunc(open, func(o writer) bool { return o.virtualXID == w.virtualXID })
	})
	s.awaited(byCTID)
}

func (s *scan) awaited(byCTID bool) {
	if len(s.writers) > 0 {
		return
	}
	s.happen(scanWaited)
	if !byCTID {
		s.happen(scanMeasured)
	}
}

// measured takes note that the pages to read have been counted.
func (s *scan) measured() {
	s.happen(scanMeasured)
	s.locked = 0
}

// rewritten has the pages to read counted again. REQUIRES: the scan is by ctid.
func (s *scan) rewritten() { s.happen(scanRewritten) }

// invalidate drops what is in flight: what it stands on has changed.
func (s *scan) invalidate() {
	s.generation++
	s.judgeBy(nil)
}

// judgeBy has changes be judged by the chunk, nil for none, and by what has been scanned up to now.
func (s *scan) judgeBy(ck *chunk) { s.chunk, s.sides = ck, nil }

// counts reports whether a chunk that was read under the snapshot counts. If not, none is read before they can be seen.
func (s *scan) counts(seen *snapshot) bool {
	if s.unsettled.prune(seen) {
		return true
	}
	s.happen(scanMissed)
	return false
}

// saw is told of a snapshot that was taken meanwhile.
func (s *scan) saw(seen *snapshot) {
	if s.unsettled.prune(seen) && s.state == scanUnseen {
		s.happen(scanSaw)
	}
}

// readFrom has the scan go on behind a key.
func (s *scan) readFrom(scanned []value, scannedAt []byte) {
	s.scanned, s.scannedAt = scanned, scannedAt
}

// resting reports whether nothing of the table is to be tried yet.
func (s *scan) resting(now time.Time) bool { return now.Before(s.notBefore) }

// retry has a chunk that could not be read tried again, at once, with that many rows.
func (s *scan) retry(limit int) {
	s.failures++
	s.ask(limit)
}

// ask has the next chunk be of that many rows.
func (s *scan) ask(limit int) { s.limit = max(1, limit) }

// pauseAfter is how long a binding rests after that many failures in a row.
func pauseAfter(failures int, longest time.Duration) time.Duration {
	if failures > 12 {
		return longest
	}
	return min(firstPause<<max(failures-1, 0), longest)
}

// fail takes note of a chunk that could not be read.
func (s *scan) fail() {
	s.failures++
	s.notBefore = time.Now().Add(pauseAfter(s.failures, longestPause))
}

// failLocked takes note of one that another session's lock has kept from being read.
func (s *scan) failLocked() {
	s.locked++
	s.notBefore = time.Now().Add(pauseAfter(s.locked, longestLockPause))
}

// excuse takes back the failures, as they were no fault of the chunks', and tries again after a pause.
func (s *scan) excuse(pause time.Duration) {
	s.failures, s.notBefore = 0, time.Time{}
	if pause > 0 {
		s.notBefore = time.Now().Add(pause)
	}
}

// suspend has a reason said for which nothing is read.
func (s *scan) suspend(reason string) { s.suspended = reason }

// rest is suspend for a time that is not that of a failure.
func (s *scan) rest(reason string, pause time.Duration) {
	s.suspended, s.notBefore = reason, time.Now().Add(pause)
}

// succeed takes note of a chunk that was read.
func (s *scan) succeed() { s.setback = setback{} }

// adapt sizes the next chunk by what the last one cost: most, the configured row count, is a ceiling, and a chunk should fill
// neither its budget nor much more than two seconds of stalled stream.
func (s *scan) adapt(ck *chunk, rows, most int, fixed bool) {
	limit := ck.limit
	scanned := rows + ck.filtered
	if ck.stopped {
		limit = max(1, scanned*3/4)
	} else if !fixed && ck.took > 2*time.Second {
		limit = min(limit, max(16, limit/2))
	} else if ck.took < time.Second && ck.bytes < ck.budget/2 {
		limit *= 2
	}
	s.limit = min(limit, most)
}
