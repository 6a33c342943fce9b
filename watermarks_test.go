package main

// watermarks_test.go looks at fences: what passes one, and what must not.

import (
	"strings"
	"testing"
	"time"
)

func TestFences(t *testing.T) {
	// Events: w ours, o another value, c commit at position, k keepalive at position.
	type event struct {
		kind byte
		at   lsn
	}
	for _, tc := range []struct {
		name   string
		fence  fence
		events []event
		passed int // index of the event that passes it; -1: none does
	}{
		{"watermark, then commit", fence{watermark: []byte("u")}, []event{{'w', 0}, {'c', 10}}, 1},
		{"commits before the watermark", fence{watermark: []byte("u")}, []event{{'c', 10}, {'c', 20}, {'w', 0}, {'c', 30}}, 3},
		{"other watermarks", fence{watermark: []byte("u")}, []event{{'o', 0}, {'c', 10}, {'o', 0}, {'c', 20}}, -1},
		{"no keepalive passes a watermark", fence{watermark: []byte("u")}, []event{{'w', 0}, {'k', 1 << 60}}, -1},
		{"a later value does not undo it", fence{watermark: []byte("u")}, []event{{'w', 0}, {'o', 0}, {'c', 10}}, 2},
		{"a watermark that comes behind its position", fence{watermark: []byte("u"), position: 20}, []event{{'c', 10}, {'w', 0}, {'c', 30}}, 2},
		{"a watermark that does not come", fence{watermark: []byte("u"), position: 20}, []event{{'c', 19}, {'k', 19}, {'o', 0}, {'c', 20}}, 3},
		{"a watermark that does not come, on a quiet server", fence{watermark: []byte("u"), position: 20}, []event{{'c', 19}, {'k', 25}}, 1},
		{"commit at the position", fence{position: 100}, []event{{'c', 99}, {'c', 100}}, 1},
		{"commit beyond", fence{position: 100}, []event{{'c', 50}, {'c', 101}}, 1},
		{"keepalive at the position", fence{position: 100}, []event{{'k', 99}, {'k', 100}}, 1},
		{"a value means nothing to a position", fence{position: 100}, []event{{'w', 0}, {'c', 99}}, -1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := tc.fence
			for i, e := range tc.events {
				switch e.kind {
				case 'w':
					f.sawWatermark([]byte("u"))
				case 'o':
					f.sawWatermark([]byte("other"))
				case 'c':
					f.sawCommit(e.at)
				case 'k':
					f.sawKeepalive(e.at)
				}
				if want := tc.passed >= 0 && i >= tc.passed; f.passed != want {
					t.Fatalf("after event %d: passed is %v, want %v", i, f.passed, want)
				}
				if want := f.passed && strings.Contains(tc.name, "does not come"); f.missed != want {
					t.Fatalf("after event %d: missed is %v, want %v", i, f.missed, want)
				}
			}
		})
	}
}

// TestLightFence: where the stream does not show what the server says to have flushed, a session gives its light fence up for a
// watermark, and does so once.
func TestLightFence(t *testing.T) {
	db := newTestDB(t)
	wide, _ := wideTable()
	c := newTestCapture(t, wide, modeAutomatic)
	c.db = db.connect(nil)
	c.settings, c.rounds = c.db.settings, newRounds(c.db, false)
	defer c.rounds.fencer.close()
	c.session.replication, c.stage = pipeSession(nil), stageCatchUp
	c.startRound(nil)
	<-c.rounds.ahead.done
	if err := c.promote(); err != nil {
		t.Fatal(err)
	}
	fence := c.rounds.open.fence
	if fence.passed || fence.position == 0 || uint64(fence.position)%8192 != 0 && !fence.light {
		t.Fatalf("the fence is %+v", fence)
	}
	fence.light = true // also where it happened to be the end of a page
	now, asked := time.Now(), 0
	for ; c.rounds.ahead == nil && asked < 100; now = now.Add(tickInterval) {
		c.askWhenSilent(now)
		select {
		case <-c.session.ask:
			asked++
		default:
		}
	}
	if c.rounds.ahead == nil || asked == 0 {
		t.Fatalf("asked %d times, and no other fence is made", asked)
	}
	<-c.rounds.ahead.done
	if c.rounds.ahead.err != nil || c.rounds.ahead.fence.watermark == nil || c.rounds.open != nil {
		t.Errorf("the next fence is %+v, %v", c.rounds.ahead.fence, c.rounds.ahead.err)
	}
}

func TestClampToFlushed(t *testing.T) {
	const block, segment = 8192, 16 << 20
	for _, tc := range []struct {
		name     string
		at, want lsn
	}{
		{"in a page", 3*block + 100, 3*block + 100},
		{"behind a short header", 3*block + 24, 3 * block},
		{"one beyond it", 3*block + 25, 3*block + 25},
		{"at a boundary", 3 * block, 3 * block},
		{"behind a long header", 2*segment + 40, 2 * segment},
		{"24 into a segment", 2*segment + 24, 2 * segment},
		{"40 into a page that starts no segment", 3*block + 40, 3*block + 40},
		{"far up", lsn(0xab_00000000 + segment + 5*block + 24), lsn(0xab_00000000 + segment + 5*block)},
		{"zero", 0, 0},
	} {
		if have := clampToFlushed(tc.at, block, segment); have != tc.want {
			t.Errorf("%s: %s becomes %s, want %s", tc.name, tc.at, have, tc.want)
		}
	}
	if have := clampToFlushed(2*segment+40, block, 0); have != 2*segment+40 {
		t.Errorf("with an unknown segment size: %s", have)
	}
}

func TestWatermarkColumns(t *testing.T) {
	for _, tc := range []struct {
		columns         string
		slot, watermark int
		wantErr         string
	}{
		{"slot watermark", 0, 1, ""},
		{"watermark slot", 1, 0, ""},
		{"id slot note watermark", 1, 3, ""},
		{"slot", 0, 0, "the watermarks table lacks a column slot or watermark in the publication"},
		{"watermark", 0, 0, "the watermarks table lacks a column slot or watermark in the publication"},
		{"Slot Watermark", 0, 0, "the watermarks table lacks a column slot or watermark in the publication"},
		{"", 0, 0, "the watermarks table lacks a column slot or watermark in the publication"},
	} {
		r := &relation{}
		for name := range strings.FieldsSeq(tc.columns) {
			r.columns = append(r.columns, relationColumn{name: name})
		}
		slot, watermark, err := watermarkColumns(r)
		if slot != tc.slot || watermark != tc.watermark || errorText(err) != tc.wantErr {
			t.Errorf("%q: %d, %d, %q, want %d, %d, %q", tc.columns, slot, watermark, errorText(err), tc.slot, tc.watermark, tc.wantErr)
		}
	}
}
