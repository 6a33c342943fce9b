package main

// capture_within_test.go: checkpoints inside of transactions, and what a session leaves out that resumes behind one. The model
// (TestModelWithin) and the oracle prove that documents come exactly once; here stand the single judgements, and a large transaction on a
// real server.

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"source-postgres/tests/history"

	"github.com/sirupsen/logrus"
)

// leftBehind is what a session has left behind: the documents that are committed, and the state.
type leftBehind struct {
	docs  []emitted
	state *captureState
}

// stop takes what was written up to the last checkpoint, on top of the state before.
func (c *testCapture) stop(before *leftBehind) *leftBehind {
	c.t.Helper()
	all := parseOutput(c.t, c.sink.Bytes())
	after := &leftBehind{state: &captureState{Bindings: map[string]*bindingState{}}}
	if before != nil {
		after.docs, after.state = before.docs, before.state
	}
	for last := len(all) - 1; last >= 0; last-- {
		if all[last].patch == "" {
			continue
		}
		for _, e := range all[:last+1] {
			if e.patch == "" {
				after.docs = append(after.docs, e)
				continue
			}
			next, err := parseState(json.RawMessage(e.patch))
			if err != nil {
				c.t.Fatal(err)
			}
			if next.Bindings["t"] == nil {
				next.Bindings = after.state.Bindings
			}
			after.state = next
		}
		break
	}
	return after
}

// resumeTest is a session that goes on behind another one of the same table.
func resumeTest(t *testing.T, table *table, mode backfillMode, s *leftBehind) *testCapture {
	t.Helper()
	c := newTestCapture(t, table, mode)
	var err error
	if c.ledger.cursor, err = s.state.cursor(); err != nil {
		t.Fatal(err)
	}
	b := c.b
	b.state = s.state.Bindings["t"]
	b.meta, _ = b.state.metadata()
	b.phase = map[storedMode]phase{
		storedPending: phasePending, storedBackfill: phaseBackfill, storedActive: phaseActive, storedMissing: phaseMissing,
	}[b.state.Mode]
	if b.phase == phaseBackfill {
		if err := b.resume(); err != nil {
			t.Fatal(err)
		}
		c.backlog.reading = []*binding{b}
		b.scan.begin(nil, 50_000, false)
	}
	c.placesFailed(c.ledger.begin(c.bindings))
	return c
}

// within sends the first n changes of a transaction, with a checkpoint behind each that has documents.
func (c *testCapture) within(n int, changes ...string) {
	c.t.Helper()
	c.ledger.within.large = 1
	c.describeTable()
	c.xid++
	if err := c.send(beginText(c.at+1000, c.xid)); err != nil {
		c.t.Fatal(err)
	}
	if err := c.send(changes[:n]...); err != nil {
		c.t.Fatal(err)
	}
	if n < len(changes) {
		return
	}
	final := lsn(c.changes.tx.begin.finalLSN)
	c.at = final
	if err := c.send(commitText(final, final+10)); err != nil {
		c.t.Fatal(err)
	}
	if c.ledger.due {
		if err := c.checkpoint(); err != nil {
			c.t.Fatal(err)
		}
	}
}

// TestWithin stops a session behind each change of a transaction, and the next one too, and wants each document once.
func TestWithin(t *testing.T) {
	insert := func(id string) string { return insertText(testOID, "t"+id, "tv", "tb") }
	changes := []string{
		insert("1"), updateText(testOID, "", nil, []string{"t1", "tw", "u"}), insert("12"),
		updateText(testOID, "K", []string{"t1", "n", "n"}, []string{"t2", "tx", "tb"}), // a key move's halves stay together
		deleteText(testOID, "K", "t2", "n", "n"), insert("3"), updateText(testOID, "", nil, []string{"t15", "tw", "u"}),
		updateText(testOID, "K", []string{"t3", "n", "n"}, []string{"t13", "tx", "tb"}), insert("4"),
	}
	for name, tc := range map[string]struct {
		prepare func(*testCapture)
		want    string
	}{
		"active":   {func(c *testCapture) { c.activeNow() }, "c1,v,b u1,w c12,v,b d1 c2,x,b d2 c3,v,b u15,w d3 c13,x,b c4,v,b"},
		"backfill": {func(c *testCapture) { c.backfill(); c.scannedTo("10") }, "c1,v,b u1,w d1 c2,x,b d2 c3,v,b d3 c4,v,b"},
	} {
		for first := range len(changes) {
			for second := range len(changes) {
				c := newTestCapture(t, testTable('d'), modeAutomatic)
				tc.prepare(c)
				c.b.mark()
				if err := c.checkpoint(); err != nil {
					t.Fatal(err)
				}
				c.within(first, changes...)
				s := c.stop(nil)
				if want := min(first, 1); len(s.docs) < want {
					t.Fatalf("%s: no document is committed behind %d changes", name, first)
				}
				c = resumeTest(t, testTable('d'), modeAutomatic, s)
				c.within(second, changes...)
				s = c.stop(s)
				c = resumeTest(t, testTable('d'), modeAutomatic, s)
				c.within(len(changes), changes...)
				s = c.stop(s)
				if have := brief(t, s.docs); have != tc.want {
					t.Fatalf("%s: stopped behind %d and %d changes:\n%s, want\n%s", name, first, second, have, tc.want)
				}
				if c.b.storedState(c.ledger.cursor); c.b.meta.Within != nil {
					t.Fatalf("%s: %+v is kept behind the commit", name, c.b.meta.Within)
				}
			}
		}
	}
}

// originText is a message that yields nothing.
var originText = "O" + u64(1) + "x\x00"

// scannedTo has the backfill have come to a key.
func (c *testCapture) scannedTo(key string) {
	c.t.Helper()
	packed, err := c.b.key.appendPacked(nil, texts(key))
	if err != nil {
		c.t.Fatal(err)
	}
	c.b.state.Scanned = packed
	if err := c.b.resume(); err != nil {
		c.t.Fatal(err)
	}
}

// TestWithinReconnect loses the replication session behind a checkpoint inside of a transaction, and goes on in the process.
func TestWithinReconnect(t *testing.T) {
	insert := func(id string) string { return insertText(testOID, "t"+id, "tv", "tb") }
	c := newTestCapture(t, testTable('d'), modeAutomatic).activeNow()
	c.ledger.cursor, c.ledger.stored = 900, 900
	c.b.mark()
	if err := c.checkpoint(); err != nil {
		t.Fatal(err)
	}
	for n := range 4 {
		c.at, c.xid = 1000, 700
		c.within(n, insert("1"), insert("2"), insert("3"))
		if c.tally.documents != n || !c.out.settled() {
			t.Fatalf("%d documents behind %d changes", c.tally.documents, n)
		}
		if n < 3 {
			c.ledger.rollBack()
			c.forget()
			c.placesFailed(c.ledger.begin(c.bindings))
		}
	}
	c.want("| c1,v,b | c2,v,b | c3,v,b | |")
}

// TestWithinTruncated has the table captured anew in the middle of the transaction: what comes behind that is not captured, nor
// is it when the transaction is streamed again with the table to be captured anew from its first change on.
func TestWithinTruncated(t *testing.T) {
	insert := func(id string) string { return insertText(testOID, "t"+id, "tv", "tb") }
	changes := []string{
		insert("1"), insert("2"), "T" + u32(1) + "\x00" + u32(testOID), insert("3"), deleteText(testOID, "K", "t3", "n", "n"),
		insert("4"), deleteText(testOID, "K", "t4", "n", "n"),
	}
	for stop := range len(changes) {
		c := newTestCapture(t, testTable('d'), modeAutomatic).activeNow()
		c.settings.onTruncate = "backfill"
		c.b.mark()
		if err := c.checkpoint(); err != nil {
			t.Fatal(err)
		}
		c.within(stop, changes...)
		s := c.stop(nil)
		c = resumeTest(t, testTable('d'), modeAutomatic, s)
		c.settings.onTruncate = "backfill"
		c.within(len(changes), changes...)
		s = c.stop(s)
		if have := brief(t, s.docs); have != "c1,v,b c2,v,b d3 d4" {
			t.Errorf("stopped behind %d changes: %s", stop, have)
		}
		if c.b.phase != phasePending {
			t.Errorf("stopped behind %d changes: phase %s", stop, c.b.phase)
		}
	}
}

// TestWithinOtherwise resumes where the transaction's documents cannot be the same, or are found to be others.
func TestWithinOtherwise(t *testing.T) {
	insert := func(id string) string { return insertText(testOID, "t"+id, "tv", "tb") }
	changes := []string{insert("1"), insert("2"), insert("3"), insert("4")}
	for name, tc := range map[string]struct {
		edit   func(c *testCapture)
		resume func(c *testCapture)
		want   string
		phase  phase
		status string
	}{
		"the same": {
			nil, func(c *testCapture) { c.within(4, changes...) }, "c3,v,b c4,v,b", phaseActive,
			"Resuming within the transaction that commits at 0/7D1: 2 documents of it were captured before and are left out",
		},
		"another setting": {
			func(c *testCapture) { c.b.resource.filter = "true" },
			func(c *testCapture) { c.within(4, changes...) }, "c1,v,b c2,v,b c3,v,b c4,v,b", phaseActive,
			"The settings or the backfill of public.t are not what they were in the middle of the transaction that commits at 0/7D1: 2 " +
				"documents of it that were captured are sent again",
		},
		"a document less": {
			nil, func(c *testCapture) { c.within(4, originText, changes[1], changes[2], changes[3]) }, "c3,v,b", phasePending,
			"public.t is captured anew: 2 documents up to 0/3EC were captured of the transaction that commits at 0/7D1, and now it has " +
				"others or another number there (1). The publication, the table or the server has changed meanwhile",
		},
		"another document": {
			nil, func(c *testCapture) {
				c.within(4, changes[0], deleteText(testOID, "K", "t2", "n", "n"), changes[2], changes[3])
			}, "c3,v,b", phasePending,
			"public.t is captured anew: 2 documents up to 0/3EC were captured of the transaction that commits at 0/7D1, and now it has " +
				"others or another number there (2). The publication, the table or the server has changed meanwhile",
		},
		"none of them": {
			nil, func(c *testCapture) { c.within(1, originText) }, "", phasePending,
			"public.t is captured anew: 2 documents up to 0/3EC were captured of the transaction that commits at 0/7D1, and now it has " +
				"others or another number there (0). The publication, the table or the server has changed meanwhile",
		},
		"it does not come": {
			nil, func(c *testCapture) { c.at, c.xid = c.at+100, c.xid+1; c.within(1, insert("9")) }, "", phasePending,
			"public.t is captured anew: 2 documents up to 0/3EC were captured of the transaction that commits at 0/7D1, and now it has " +
				"others or another number there (0). The publication, the table or the server has changed meanwhile",
		},
		"the slot was lost": {
			func(c *testCapture) { c.ledger.forgetPlaces(c.bindings); c.ledger.leaveTransaction() },
			func(c *testCapture) { c.within(4, changes...) }, "c1,v,b c2,v,b c3,v,b c4,v,b", phaseActive, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newTestCapture(t, testTable('d'), modeAutomatic).activeNow()
			c.b.mark()
			if err := c.checkpoint(); err != nil {
				t.Fatal(err)
			}
			c.within(2, changes...)
			s := c.stop(nil)
			if have := brief(t, s.docs); have != "c1,v,b c2,v,b" {
				t.Fatal(have)
			}
			c = resumeTest(t, testTable('d'), modeAutomatic, s)
			if tc.edit != nil {
				tc.edit(c)
			}
			var said strings.Builder
			logrus.SetOutput(&said)
			tc.resume(c)
			quietLogs()
			docs := c.stop(&leftBehind{state: s.state}).docs
			if have := brief(t, docs); have != tc.want {
				t.Errorf("%s, want %s", have, tc.want)
			}
			if c.b.phase != tc.phase {
				t.Errorf("phase %s", c.b.phase)
			}
			if !strings.Contains(said.String(), tc.status) {
				t.Errorf("said: %s", said.String())
			}
		})
	}
}

// TestLargeTransaction kills a capture several times in one large transaction of a real server.
//
// Goal: each document once, and progress that is kept. Method: inserts, updates, key moves and deletes of two tables in one transaction,
// its documents many times the bound, or with -long 200 MB at the bound that captures have; kills behind some bytes of documents; the bytes
// that come again are counted.
func TestLargeTransaction(t *testing.T) {
	if testing.Short() {
		t.Skip("not under -short: writes and reads some tens of megabytes")
	}
	for _, version := range []runtimeVersion{runtimeV1, runtimeV2} {
		for _, c := range []codec{codecProto, codecJSON} {
			t.Run(fmt.Sprintf("%s %s", version, codecName(c)), func(t *testing.T) { largeTransactionRun(t, version, c) })
		}
	}
}

func largeTransactionRun(t *testing.T, version runtimeVersion, c codec) {
	bound, rows, most := int64(1<<20), 8_000, 6
	if *longTests {
		bound, rows, most = int64(largeTransaction), 150_000, 3
	}
	db := newTestDB(t)
	a := db.createTable("large_a", "(id int PRIMARY KEY, n int, v text)")
	b := db.createTable("large_b", "(id int PRIMARY KEY, n int, v text)")
	db.exec("ALTER TABLE " + quoteTable(b) + " REPLICA IDENTITY FULL")
	received, killAt := int64(0), int64(0) // bytes of documents; written between sessions and by the one under way
	r := startRuntime(t, runtimeOptions{
		config: db.config(), tables: a.String() + "," + b.String(), deadline: 10 * time.Minute, runtime: version, codec: c,
		limits: &transactionLimits{bytes: 1}, // what a checkpoint has is committed at once
		env:    []string{fmt.Sprintf("%s=%d", testLargeVariable, bound)},
		onDocument: func(r *testRuntime, _ string, doc []byte) {
			if received += int64(len(doc)); killAt > 0 && received >= killAt {
				killAt = 0
				r.sever(false)
			}
		},
	})
	r.waitStreaming()
	r.stop()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	db.script(strings.NewReplacer("{a}", quoteTable(a), "{b}", quoteTable(b), "{rows}", fmt.Sprint(rows)).Replace(`BEGIN;
		INSERT INTO {a} SELECT i, 0, repeat(md5(i::text), 40) FROM generate_series(1, {rows}) i;
		INSERT INTO {b} SELECT i, 0, repeat(md5(i::text), 40) FROM generate_series(1, {rows} / 8) i;
		UPDATE {b} SET n = 1 WHERE id % 3 = 0; UPDATE {b} SET id = -id WHERE id % 5 = 0; DELETE FROM {b} WHERE id % 7 = 0;
		UPDATE {a} SET id = id + {rows} WHERE id <= {rows} / 10; DELETE FROM {a} WHERE id % 4 = 0; COMMIT;
		INSERT INTO {a} VALUES (0, 0, 'the end')`))
	kills, resumed := 0, 0
	for ended := false; !ended; {
		if kills < most {
			killAt = received + bound*5/2
		}
		r.start()
		seen := 0
		_, _, err := r.waitSome(10*time.Minute, func() bool {
			for ; seen < len(r.committed); seen++ {
				ended = ended || strings.Contains(r.committed[seen].doc, `"the end"`)
			}
			return ended
		})
		switch {
		case errors.Is(err, errSevered):
			kills++
		case err != nil:
			t.Fatal(err)
		case !ended:
			t.Fatal("the transaction has not come")
		}
	}
	r.stop()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	for _, log := range r.logs {
		if strings.HasPrefix(log.message, "Resuming within the transaction that commits at ") {
			resumed++
		}
	}
	kept := int64(0)
	for _, d := range r.documents() {
		kept += int64(len(d.doc))
	}
	t.Logf("%d documents of %d bytes; %d kills, %d sessions that resumed within the transaction, %d bytes sent again", len(r.committed), kept,
		kills, resumed, received-kept)
	if kills < 2 || resumed < kills {
		t.Errorf("%d kills, behind which %d sessions resumed within the transaction", kills, resumed)
	}
	// What came behind the last checkpoint, and one that the runtime had not committed.
	if again := received - kept; again > int64(kills)*2*bound {
		t.Errorf("%d bytes of documents were sent again for %d kills, with a bound of %d", again, kills, bound)
	}
	h := r.history(history.Table{Name: a.String(), Key: []string{"id"}}, history.Table{Name: b.String(), Key: []string{"id"}, Full: true})
	if h.Within < kills {
		t.Errorf("%d checkpoints stand inside of the transaction", h.Within)
	}
	for _, table := range []tableName{a, b} {
		var have []string
		if err := h.Rows(table.String(), func(row *history.Row, _ int) error {
			values, err := row.Values()
			have = append(have, fmt.Sprintf("%s %s %s", values["id"], values["n"], values["v"]))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, row := range db.query(`SELECT id::text || ' ' || n || ' ' || to_json(v)::text FROM ` + quoteTable(table)) {
			want = append(want, row[0])
		}
		slices.Sort(have)
		slices.Sort(want)
		if !slices.Equal(have, want) {
			t.Errorf("%s: %d rows replayed are not the %d of the table", table, len(have), len(want))
		}
	}
}
