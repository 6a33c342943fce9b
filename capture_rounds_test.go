// Goal: rounds are of the bindings that may be read, by priority and by turns; of what was read, only that counts which the stream
// allows; and a fence is told what came before it was known. Method: rounds without a server, made by hand. Which bindings have rows
// to be read is followed through their lists.

package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// readableBinding is one whose next chunk may be read.
func readableBinding(name string, priority int) *binding {
	b := &binding{
		phase: phaseBackfill, collectionKey: []string{"id"}, state: &bindingState{}, ledger: &ledger{},
		resource: resource{table: tableName{"public", name}, priority: priority},
	}
	b.scan.begin(nil, 10, false)
	return b
}

func bindingNames(bindings []*binding) string {
	names := make([]string, len(bindings))
	for i, b := range bindings {
		names[i] = b.name().name
	}
	return strings.Join(names, " ")
}

func testRounds(polling bool) rounds { return newRounds(&database{settings: &settings{}}, polling) }

func TestPick(t *testing.T) {
	resting := func(b *binding) { b.scan.fail() }
	wide := func(b *binding) { b.readAlone() }
	for name, tc := range map[string]struct {
		priorities []int
		change     map[int]func(*binding)
		polling    bool
		want       []string // of rounds that follow each other
	}{
		"none":                   {nil, nil, false, []string{""}},
		"all":                    {[]int{0, 0}, nil, false, []string{"a b", "b a", "a b"}},
		"four of five, by turns": {[]int{0, 0, 0, 0, 0}, nil, false, []string{"a b c d", "b c d e", "c d e a"}},
		"polling, by turns":      {[]int{0, 0}, nil, true, []string{"a", "b", "a"}},
		"the highest priority":   {[]int{-5, 0, 3, 3}, nil, false, []string{"c d", "c d", "c d", "d c"}},
		"else the next":          {[]int{-5, 0, 3, 3}, map[int]func(*binding){2: resting, 3: resting}, false, []string{"b"}},
		"a wide one alone":       {[]int{0, 0, 0}, map[int]func(*binding){0: wide}, false, []string{"a", "b c", "c b"}},
	} {
		t.Run(name, func(t *testing.T) {
			var reading []*binding
			for i, priority := range tc.priorities {
				b := readableBinding(string(rune('a'+i)), priority)
				if change := tc.change[i]; change != nil {
					change(b)
				}
				reading = append(reading, b)
			}
			r := testRounds(tc.polling)
			for i, want := range tc.want {
				if have := bindingNames(r.pick(reading)); have != want {
					t.Errorf("round %d is of %q, want %q", i, have, want)
				}
			}
		})
	}
}

// TestPickBesideWide: while a wide row is buffered, there is no room for a round beside it.
func TestPickBesideWide(t *testing.T) {
	reading := []*binding{readableBinding("a", 0)}
	r := testRounds(false)
	r.open = &round{chunks: []*chunk{{bytes: budget.message + 1}}}
	if picked := r.pick(reading); len(picked) > 0 {
		t.Errorf("%s is read", bindingNames(picked))
	}
	r.open.chunks[0].bytes = budget.message
	if len(r.pick(reading)) == 0 {
		t.Error("nothing is read beside a chunk within its budget")
	}
}

func TestPromoteJudges(t *testing.T) {
	sees, blind := snapshot{xmin: 701, xmax: 701}, snapshot{xmin: 700, xmax: 701, xip: []uint64{700}}
	read := func(name string, ck chunk) *chunk {
		ck.binding = readableBinding(name, 0)
		ck.binding.scan.unsettled.add(700)
		return &ck
	}
	good := read("good", chunk{snapshot: sees, final: true})
	failed := read("failed", chunk{err: errors.New("a reason")})
	unseeing := read("unseeing", chunk{snapshot: blind, final: true})
	older := read("older", chunk{snapshot: sees, final: true})
	older.binding.scan.invalidate()
	r := testRounds(false)
	r.ahead = &round{chunks: []*chunk{failed, unseeing, older, good}, fence: &fence{position: 9}}
	bad, missed, err := r.promote()
	if err != nil || !slices.Equal(bad, []*chunk{failed}) || !slices.Equal(missed, []*chunk{unseeing}) ||
		!slices.Equal(r.open.chunks, []*chunk{good}) || r.ahead != nil {
		t.Errorf("%v failed, %v did not see all, %v count: %v", bad, missed, r.open.chunks, err)
	}
	for _, ck := range []*chunk{good, failed, unseeing, older} {
		b := ck.binding
		if (b.scan.chunk == ck) != (ck == good) || (b.scan.state == scanUnseen) != (ck == unseeing) {
			t.Errorf("%s is %s, patched %v", b.name(), b.scan.state, b.scan.chunk == ck)
		}
	}

	r = testRounds(false)
	r.ahead = &round{chunks: []*chunk{read("endless", chunk{snapshot: sees})}}
	if _, _, err := r.promote(); errorText(err) != "backfill public.endless: a chunk that is not the last has no end" {
		t.Errorf("error %v", err)
	}
	r.ahead = &round{err: errors.New("no fence")}
	if _, _, err := r.promote(); errorText(err) != "no fence" || r.open != nil && len(r.open.chunks) > 0 {
		t.Errorf("error %v", err)
	}
}

// TestRoundPasses: a fence passes by what the stream shows behind its promotion, and by what it has shown before.
func TestRoundPasses(t *testing.T) {
	for name, tc := range map[string]struct {
		fence          fence
		before, behind func(*rounds)
		received       lsn
		want           bool
	}{
		"watermark":               {fence{watermark: []byte("w")}, nil, func(r *rounds) { r.sawWatermark([]byte("w")); r.sawCommit(5) }, 0, true},
		"its commit is to come":   {fence{watermark: []byte("w")}, nil, func(r *rounds) { r.sawWatermark([]byte("w")) }, 0, false},
		"another's":               {fence{watermark: []byte("w")}, nil, func(r *rounds) { r.sawWatermark([]byte("v")); r.sawCommit(5) }, 0, false},
		"watermark before":        {fence{watermark: []byte("w")}, func(r *rounds) { r.sawWatermark([]byte("w")); r.sawCommit(5) }, nil, 5, true},
		"position before":         {fence{position: 5}, nil, nil, 5, true},
		"position not yet":        {fence{position: 5}, nil, nil, 4, false},
		"position by commit":      {fence{position: 5}, nil, func(r *rounds) { r.sawCommit(6) }, 4, true},
		"position by a keepalive": {fence{position: 5}, nil, func(r *rounds) { r.sawKeepalive(6) }, 4, true},
	} {
		r := testRounds(false)
		r.ahead = &round{fence: &tc.fence}
		if tc.before != nil {
			tc.before(&r)
		}
		if _, _, err := r.promote(); err != nil {
			t.Fatal(err)
		}
		r.catchUp(tc.received)
		if tc.behind != nil {
			tc.behind(&r)
		}
		if r.passed() != tc.want {
			t.Errorf("%s: passed %v", name, r.passed())
		}
		if settled := r.settle(); settled.fence != &tc.fence || !r.idle() {
			t.Errorf("%s: another round is settled, or one stays", name)
		}
	}
}

// TestRoundDiscards: what was read behind a chunk that does not count is not promoted; other tables' chunks are.
func TestRoundDiscards(t *testing.T) {
	a, b := readableBinding("a", 0), readableBinding("b", 0)
	r := testRounds(false)
	r.discard(a) // nothing is read
	r.ahead = &round{chunks: []*chunk{{binding: a, final: true}, {binding: b, final: true}}, fence: &fence{}}
	r.discard(a)
	if _, _, err := r.promote(); err != nil || len(r.open.chunks) != 1 || r.open.chunks[0].binding != b {
		t.Errorf("%d chunks count: %v", len(r.open.chunks), err)
	}
}

// TestRoundsForget: a session knows nothing of the rounds of the one before, but keeps their memory, and makes a light fence again.
func TestRoundsForget(t *testing.T) {
	r := testRounds(false)
	r.giveBack(&chunk{arena: make([]byte, 1), budget: 1})
	r.sawWatermark([]byte("w"))
	r.open = &round{fence: &fence{light: true}}
	if !r.distrust() || !r.wary || r.open != nil || r.distrust() {
		t.Error("the light fence is not given up, once")
	}
	if !r.missed() || r.missed() || !r.came() || r.came() {
		t.Error("missed watermarks are looked into each time, or not once more when they come again")
	}
	r.missed()
	r.open, r.ahead = &round{fence: &fence{}}, &round{}
	if r.forget(); !r.idle() || r.watermark != nil || r.wary || r.came() || len(r.spare) != 1 {
		t.Errorf("%+v", r)
	}
}

func TestGiveBackBounds(t *testing.T) {
	r := testRounds(false)
	r.giveBack(&chunk{arena: make([]byte, 0, 21), budget: 10})
	if len(r.spare) != 0 {
		t.Error("the memory of an outlier is kept")
	}
	for range 3 * roundChunks {
		r.giveBack(&chunk{arena: make([]byte, 0, 20), budget: 10})
	}
	if len(r.spare) != 2*roundChunks {
		t.Errorf("the memory of %d chunks is kept", len(r.spare))
	}
}

func TestBacklog(t *testing.T) {
	a, b, c := readableBinding("a", 0), readableBinding("b", 5), readableBinding("c", 0)
	var l backlog
	want := func(pending, attached, reading string) {
		t.Helper()
		if p, a, r := bindingNames(l.pending), bindingNames(l.attached), bindingNames(l.reading); p != pending || a != attached || r != reading {
			t.Errorf("pending %q, attached %q, reading %q; want %q, %q, %q", p, a, r, pending, attached, reading)
		}
	}
	a.phase, b.phase = phasePending, phasePending
	l.queue(a)
	l.await(b)
	l.await(a)
	want("a b", "", "")
	b.phase = phaseBackfill
	l.begin([]*binding{b, c})
	want("a", "", "b c")
	l.attach(c)
	l.attach(c)
	want("a", "c", "b c")
	if l.tables() != 4 {
		t.Errorf("%d tables", l.tables())
	}
	l.begin(l.takeAttached())
	want("a", "", "b c")
	l.await(b)
	want("a b", "", "c")
	b.park()
	l.leaveParked()
	want("a", "", "c")
	l.leave(c)
	want("a", "", "")
	a.phase = phaseActive
	l.begin(nil)
	want("", "", "")
	l.mark(a)
	if l.isEmpty() || l.tables() != 0 {
		t.Error("a marker is to come")
	}
	if l.unmark(a); !l.isEmpty() {
		t.Error("nothing is to come")
	}
}

// TestWaitingIsSaid: what scans wait for is said once it has lasted, and again when it is another.
func TestWaitingIsSaid(t *testing.T) {
	r := testRounds(false)
	if status, err := r.lookAtWaiting(t.Context(), nil); status != "" || err != nil {
		t.Errorf("%q, %v", status, err)
	}
	r.waitingSince = time.Now()
	if _, err := r.lookAtWaiting(t.Context(), []*binding{readableBinding("a", 0)}); err != nil || !r.waitingSince.IsZero() {
		t.Errorf("a scan that waits for nothing has been waited for since %v: %v", r.waitingSince, err)
	}
}
