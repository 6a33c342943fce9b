package main

// capture_refresh_test.go holds when the catalog is read again against the reasons for it, without a server.

import (
	"testing"
	"time"
)

// TestRefreshesSending: what speaks against what is remembered brings the reading forward, to a second after the last one, and
// nothing puts it off.
func TestRefreshesSending(t *testing.T) {
	var r refreshes
	r.begin(time.Hour)
	if r.allDue() || r.sendingDue() || len(r.readsPartitioned()) > 0 {
		t.Error("something is due as a session begins")
	}
	r.readsSending()
	r.doubtSending()
	at := r.sendingAt
	if wait := time.Until(at); wait > soonAfter || wait < soonAfter/2 {
		t.Errorf("doubted behind a reading, it is read in %v", wait)
	}
	if r.parkedTook(time.Hour); r.readsParked(&binding{}) || !r.sendingAt.Equal(at) {
		t.Error("a reading was put off")
	}
	r.sendingRead = r.sendingRead.Add(-soonAfter)
	if r.doubtSending(); !r.sendingDue() {
		t.Error("doubted long after a reading, it is not due")
	}
	if r.readsAll(); r.sendingDue() || r.allDue() {
		t.Error("due behind a reading")
	}
}

// TestRefreshesNotVisible: transactions that cannot be seen yet have all read within ten seconds, however many follow.
func TestRefreshesNotVisible(t *testing.T) {
	var r refreshes
	r.begin(time.Hour)
	r.notVisible()
	at := r.allAt
	if wait := time.Until(at); wait > laterAfter || wait < laterAfter/2 {
		t.Errorf("read in %v", wait)
	}
	if r.notVisible(); !r.allAt.Equal(at) {
		t.Errorf("put off by %v", r.allAt.Sub(at))
	}
	r.allAt = time.Now().Add(-time.Second)
	if r.notVisible(); !r.allDue() {
		t.Error("what was due is put off")
	}
}

// TestRefreshesChanged: read again are the tables of which something else is sent than before, and, once, those that return.
func TestRefreshesChanged(t *testing.T) {
	var r refreshes
	bindings := make([]*binding, 3)
	read := make(map[tableName]fitness)
	for i, name := range []string{"a", "b", "c"} {
		bindings[i] = &binding{resource: resource{table: tableName{"public", name}}}
		read[bindings[i].name()] = fitness{mark: name}
	}
	r.sent(map[tableName]fitness{bindings[0].name(): {mark: "a"}, bindings[1].name(): {mark: "B"}, bindings[2].name(): {mark: "c"}})
	r.parkedTook(time.Hour)
	r.readsParked(bindings[2])
	check := func(want ...*binding) {
		t.Helper()
		have := r.changed(bindings, read)
		if len(have) != len(want) {
			t.Fatalf("%d tables are read again, want %d", len(have), len(want))
		}
		for i := range have {
			if have[i] != want[i] {
				t.Errorf("%s is read again, want %s", have[i].name(), want[i].name())
			}
		}
	}
	check(bindings[1], bindings[2])
	check(bindings[1])
	r.sent(read)
	check()
}

// TestRefreshesPartitioned: the first reason has a table read at once; those behind a reading wait for a while, together, and as long as the
// most pressing one asks for.
func TestRefreshesPartitioned(t *testing.T) {
	var r refreshes
	a, b := &binding{}, &binding{}
	r.partitionsChanged(a, laterAfter)
	if due := r.readsPartitioned(); len(due) != 1 || due[0] != a {
		t.Fatalf("%d tables are read", len(due))
	}
	r.partitionsChanged(a, laterAfter)
	r.partitionsChanged(b, soonAfter)
	r.partitionsChanged(a, laterAfter)
	if due := r.readsPartitioned(); due != nil {
		t.Fatal("read again at once")
	}
	if wait := time.Until(r.partitionedAt); wait > soonAfter {
		t.Errorf("read again in %v", wait)
	}
	r.partitionedAt = time.Now().Add(-time.Second)
	if due := r.readsPartitioned(); len(due) != 2 {
		t.Errorf("%d tables are read", len(due))
	}
}

// TestRefreshesSuspects: a table that was rewritten is explained by the TRUNCATE of it that comes, by its being captured anew, or not at all once
// the stream is far enough.
func TestRefreshesSuspects(t *testing.T) {
	var r refreshes
	var bs [4]*binding
	for i := range bs {
		bs[i] = &binding{}
		bs[i].meta.Filenode = 1
		r.suspect(bs[i], lsn(100+i))
	}
	if have := r.unexplained(99); have != nil {
		t.Errorf("%d are judged ahead of their positions", len(have))
	}
	bs[0].meta.Filenode = 0
	r.acquit(bs[1])
	if have := r.unexplained(102); len(have) != 1 || have[0] != bs[2] {
		t.Errorf("%d are not explained", len(have))
	}
	for i, want := range []bool{false, false, false, true} {
		if r.isSuspect(bs[i]) != want {
			t.Errorf("number %d is a suspect: %t", i, !want)
		}
	}
}
