// Goal: a scan enters only the states that it may, and what it holds is dropped whole where it is over, kept where it is not.
// Method: every state against every event; a scan with everything set, against each way to drop of it. No server.
package main

import (
	"reflect"
	"testing"
	"time"
)

func TestScanStates(t *testing.T) {
	const never = scanState(255)
	want := map[scanEvent][5]scanState{ // by the state before
		scanBegins:    {scanWaiting, scanWaiting, scanWaiting, scanWaiting, scanWaiting},
		scanWaited:    {never, scanUnmeasured, never, never, never},
		scanMeasured:  {never, never, scanReady, never, never},
		scanMissed:    {never, never, never, scanUnseen, never},
		scanSaw:       {never, never, never, never, scanReady},
		scanRewritten: {scanIdle, scanWaiting, scanUnmeasured, scanUnmeasured, scanUnmeasured},
	}
	for ev := scanBegins; ev <= scanRewritten; ev++ {
		for s := scanIdle; s <= scanUnseen; s++ {
			next, ok := s.next(ev)
			if !ok {
				if next != s {
					t.Errorf("event %d, which cannot be, moves from %s to %s", ev, s, next)
				}
				next = never
			}
			if next != want[ev][s] {
				t.Errorf("event %d in state %s leads to %d, want %d", ev, s, next, want[ev][s])
			}
		}
	}
}

// fullScan is a scan with every field set.
func fullScan(t *testing.T) scan {
	t.Helper()
	s := scan{
		state: scanUnseen, writers: []writer{{}}, scanned: texts("5"), scannedAt: []byte("5"), unsettled: xidSet{700}, chunk: &chunk{},
		sides: map[string]side{"5": sideScanned}, limit: 7, generation: 3,
		setback: setback{failures: 1, locked: 2, notBefore: time.Now().Add(time.Hour), suspended: "a reason"},
	}
	for v, i := reflect.ValueOf(s), 0; i < v.NumField(); i++ {
		if v.Field(i).IsZero() {
			t.Fatalf("%s is not set", v.Type().Field(i).Name)
		}
	}
	return s
}

// TestScanOver: nothing but the generation outlasts a scan; the end of a session leaves tables resting that could not be read.
func TestScanOver(t *testing.T) {
	s := fullScan(t)
	if over := s.over(); !reflect.DeepEqual(over, scan{generation: 4}) {
		t.Errorf("over: %+v", over)
	}
	if lost := s.lost(); !reflect.DeepEqual(lost, scan{generation: 4, setback: s.setback}) {
		t.Errorf("lost: %+v", lost)
	}
}

// TestScanInvalidated: what is in flight is dropped, and nothing else: the next chunk goes on from the same place, and counts only
// if it sees what the dropped one was to see.
func TestScanInvalidated(t *testing.T) {
	s, want := fullScan(t), fullScan(t)
	s.invalidate()
	want.generation, want.chunk, want.sides, want.notBefore = 4, nil, nil, s.notBefore
	if !reflect.DeepEqual(s, want) {
		t.Errorf("%+v, want %+v", s, want)
	}
}

// TestScanUnseen: a scan by ctid whose pages are counted anew while a transaction is not visible does not count a chunk that does
// not see it, as before.
func TestScanUnseen(t *testing.T) {
	blind := &snapshot{xmin: 700, xmax: 701, xip: []uint64{700}}
	var s scan
	s.begin(nil, 10, true)
	s.measured()
	s.unsettled.add(700)
	if s.counts(blind) || s.state != scanUnseen {
		t.Fatalf("a blind chunk counts; %s", s.state)
	}
	s.rewritten()
	if s.saw(blind); s.state != scanUnmeasured {
		t.Errorf("%s", s.state)
	}
	s.measured()
	if s.counts(blind) || s.state != scanUnseen {
		t.Errorf("a blind chunk counts; %s", s.state)
	}
	if s.saw(&snapshot{xmin: 701, xmax: 701}); s.state != scanReady || len(s.unsettled) > 0 {
		t.Errorf("%s with %d transactions", s.state, len(s.unsettled))
	}
}

// TestScanWaits: chunks are read when the last writer has ended, by ctid behind the measuring; what a scan waited for when it
// began again, it waits for then.
func TestScanWaits(t *testing.T) {
	one, two := writer{virtualXID: "1/1"}, writer{virtualXID: "2/2"}
	for _, byCTID := range []bool{false, true} {
		var s scan
		s.begin([]writer{one, two}, 10, byCTID)
		s.stillOpen([]writer{two}, byCTID)
		if s.state != scanWaiting || len(s.writers) != 1 {
			t.Errorf("%s for %d writers, want one", s.state, len(s.writers))
		}
		s.stillOpen(nil, byCTID)
		if byCTID {
			if s.state != scanUnmeasured {
				t.Errorf("%s, want unmeasured", s.state)
			}
			s.measured()
		}
		if s.state != scanReady {
			t.Errorf("%s, want ready", s.state)
		}
		s.begin([]writer{one}, 10, byCTID)
		if s.state != scanWaiting {
			t.Errorf("%s, want waiting", s.state)
		}
	}
}

// TestScanEndsWhole: what a scan that is over had to wait for, or was suspended for, does not hold up, or announce, the next.
func TestScanEndsWhole(t *testing.T) {
	for name, leave := range map[string]func(b *binding){
		"anew": func(b *binding) { b.rewind(false) }, "parked": (*binding).park, "completed": (*binding).complete,
	} {
		b := &binding{phase: phaseBackfill, state: &bindingState{}, ledger: &ledger{}, scan: fullScan(t)}
		if leave(b); !reflect.DeepEqual(b.scan, scan{generation: 4}) {
			t.Errorf("%s: %+v", name, b.scan)
		}
	}
}

// TestReadable: the next chunk is read behind the one that changes are patched into, while that has an end that counts.
func TestReadable(t *testing.T) {
	now := time.Now()
	leaf := leafCursor{OID: 1, Pages: 9}
	done := leafCursor{OID: 1, Pages: 9, Done: true}
	for name, tc := range map[string]struct {
		change func(b *binding)
		want   bool
	}{
		"ready":                 {func(*binding) {}, true},
		"unseen":                {func(b *binding) { b.scan.state = scanUnseen }, false},
		"resting":               {func(b *binding) { b.scan.notBefore = now.Add(time.Second) }, false},
		"rested":                {func(b *binding) { b.scan.notBefore = now }, true},
		"behind another":        {func(b *binding) { b.scan.chunk = &chunk{} }, true},
		"behind the last":       {func(b *binding) { b.scan.chunk = &chunk{final: true} }, false},
		"behind one again":      {func(b *binding) { b.scan.chunk = &chunk{spoiled: "a reason"} }, false},
		"session to be renewed": {func(b *binding) { b.partitions.hold() }, false},
		"by ctid":               {func(b *binding) { b.meta.ByLeaf, b.meta.Leaves = true, []leafCursor{leaf} }, true},
		"by ctid, all read":     {func(b *binding) { b.meta.ByLeaf, b.meta.Leaves = true, []leafCursor{done} }, false},
		"by ctid, the last open": {func(b *binding) {
			b.meta.ByLeaf, b.meta.Leaves, b.scan.chunk = true, []leafCursor{leaf}, &chunk{leaf: done}
		}, false},
	} {
		b := &binding{phase: phaseBackfill, collectionKey: []string{"id"}}
		b.scan.begin(nil, 10, false)
		if tc.change(b); b.readable(now) != tc.want {
			t.Errorf("%s: %v", name, !tc.want)
		}
	}
}
