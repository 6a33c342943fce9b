// Goal: what a checkpoint says is what a session that resumes from it needs, whatever came before; nothing is acknowledged beyond what
// was checkpointed; what is owed is owed from its first moment on, and what was dropped is not. Method: a ledger without a capture,
// driven at random against the few lines that say what its checkpoints must have.

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestLedgerOwes(t *testing.T) {
	l := newLedger(newOutput(&bytes.Buffer{}, codecJSON), newAcknowledgements())
	if l.wrote(checkpointBytes); l.overdue() {
		t.Error("documents without a commit behind them are overdue")
	}
	if l.owe(); !l.overdue() {
		t.Error("many bytes can wait")
	}
	if l.rollBack(); l.overdue() {
		t.Error("documents that were dropped are overdue")
	}
	l.dueSince = time.Now().Add(-checkpointDelay)
	if l.owe(); !l.overdue() {
		t.Error("what is owed anew puts off what has been owed for long")
	}
	if err := l.checkpoint(); err != nil {
		t.Fatal(err)
	}
	if l.due || l.overdue() || l.delivered != 1 {
		t.Errorf("behind a checkpoint: due %v, overdue %v, %d delivered", l.due, l.overdue(), l.delivered)
	}
	if err := l.checkpoint(); err != nil || l.delivered != 1 {
		t.Errorf("a checkpoint of what was not owed: %d delivered, %v", l.delivered, err)
	}
}

func TestLedgerCheckpoints(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		var sink bytes.Buffer
		l := newLedger(newOutput(&sink, codecJSON), newAcknowledgements())
		bindings := make([]*binding, 3)
		for i := range bindings {
			bindings[i] = &binding{ledger: &l, stateKey: fmt.Sprint("b", i), state: &bindingState{Mode: storedActive}}
		}
		stored := lsn(100 + r.IntN(2)*50) // where the capture is to go on need not be where it was
		l.resume(stored, 150)
		if err := l.open(stored); err != nil {
			t.Fatal(err)
		}
		l.begin(bindings)
		var wantCursor lsn
		wantBindings, sent := make(map[string]int), []lsn{stored}
		cursor, flushed, last := lsn(150), stored, lsn(0)
		marked, removed := make(map[int]bool), 0
		check := func() {
			t.Helper()
			if err := l.out.flush(); err != nil {
				t.Fatal(err)
			}
			for _, e := range parseOutput(t, sink.Bytes()) {
				state, err := parseState(json.RawMessage(e.patch))
				if err != nil {
					t.Fatal(err)
				}
				for key, b := range state.Bindings {
					wantBindings[key] -= b.Backfilled + 1
				}
				if last, err = state.cursor(); err != nil {
					t.Fatal(err)
				}
			}
			sink.Reset()
			if have := lsn(l.acks.flushed.Load()); have != flushed {
				t.Fatalf("seed %d: %s is acknowledged, want %s", seed, have, flushed)
			}
		}
		check()
		for range 60 {
			switch i := r.IntN(len(bindings)); r.IntN(9) {
			case 0:
				cursor = max(l.received(), cursor) + lsn(r.IntN(20))
				l.committed(cursor)
			case 1:
				l.heard(l.received() + lsn(r.IntN(20)))
			case 2:
				l.advance(l.idleEnd)
				cursor = max(cursor, l.idleEnd)
			case 3:
				bindings[i].state.Backfilled++
				bindings[i].mark()
				marked[i] = true
			case 4:
				removed++
				l.remove(fmt.Sprint("r", removed))
				wantBindings[fmt.Sprint("r", removed)]++
			case 5:
				if len(sent) > 0 {
					n := 1 + r.IntN(len(sent))
					flushed = max(flushed, slices.Max(sent[:n]))
					sent = sent[n:]
					if err := l.acks.pop(n); err != nil {
						t.Fatal(err)
					}
				}
			case 6:
				if wantCursor != 0 && r.IntN(3) == 0 { // the session ends
					l.rollBack()
					cursor = wantCursor
					l.begin(bindings)
				}
			case 7, 8:
				if err := l.checkpoint(); err != nil {
					t.Fatal(err)
				}
				wantCursor = cursor
				sent = append(sent, cursor)
				for i := range marked {
					wantBindings[bindings[i].stateKey] += bindings[i].state.Backfilled + 1
				}
				clear(marked)
				check()
				if last != wantCursor || l.stored != wantCursor || len(l.changed)+len(l.removed) > 0 {
					t.Fatalf("seed %d: the checkpoint has %s, want %s; %d bindings are left", seed, last, wantCursor, len(l.changed))
				}
				for key, n := range wantBindings {
					if n != 0 {
						t.Fatalf("seed %d: %s is %d off in the checkpoint", seed, key, n)
					}
				}
			}
			if l.cursor != cursor {
				t.Fatalf("seed %d: cursor %s, want %s", seed, l.cursor, cursor)
			}
		}
		l.restart(7, bindings)
		if err := l.acks.pop(0); len(sent) > 0 && err != nil {
			t.Fatal(err)
		}
		if n := l.acks.flushed.Load(); n != 0 || l.cursor != 7 {
			t.Fatalf("seed %d: of another slot %d is acknowledged; cursor %s", seed, n, l.cursor)
		}
	}
}
