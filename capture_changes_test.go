package main

// capture_changes_test.go drives the judging of changes alone: no output, no server, nobody who carries a ruling out.

import (
	"fmt"
	"strings"
	"testing"
)

// rulings judges one change, and returns what it comes to: documents as their op and key, with ~ where the transaction is remembered,
// + where the chunk is patched, ! where it is emitted; ? where an order is asked for, which tell answers.
func rulings(t *testing.T, c *testCapture, message string, tell func(identity string)) string {
	t.Helper()
	j := &c.changes
	e, err := j.take(&walMessage{kind: 'w', start: c.at, data: []byte(message)})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.judge(e, c.at, c.b.phase == phasePending); err != nil {
		t.Fatal(err)
	}
	var all []string
	var d document
	for range 10 {
		ruling := j.next(&d)
		switch ruling {
		case rulingRow:
			word := fmt.Sprintf("%c%s", d.op, d.key[0].data)
			for _, mark := range []struct {
				set  bool
				mark string
			}{{j.row.unsettles, "~"}, {j.row.patches, "+"}, {j.row.emits, "!"}} {
				if mark.set {
					word += mark.mark
				}
			}
			all, d = append(all, word), document{}
			continue
		case rulingOrder:
			all = append(all, "?"+string(d.key[0].data))
			tell(string(j.identity))
			continue
		case rulingNoOldKey:
			all = append(all, "no old key")
		case rulingNoKey:
			all = append(all, "no key")
		}
		j.judged()
		return strings.Join(all, " ")
	}
	t.Fatalf("no end: %v", all)
	return ""
}

// TestRulings: changes of a table that is active, pending, or backfilled up to key 10, with a chunk up to 20 that holds 11, 15 and 20.
func TestRulings(t *testing.T) {
	insert, update := func(id string) string { return insertText(testOID, "t"+id, "tv", "tb") }, func(id string) string {
		return updateText(testOID, "", nil, []string{"t" + id, "tv", "u"})
	}
	move := func(from, to string) string {
		return updateText(testOID, "K", []string{"t" + from, "n", "n"}, []string{"t" + to, "tv", "u"})
	}
	remove := func(id string) string { return deleteText(testOID, "K", "t"+id, "n", "n") }
	backfill := func(c *testCapture) {
		c.backfill()
		c.scan("10", []string{"t1", "tv", "tb"}, []string{"t10", "tv", "tb"})
		c.pass()
		c.scan("20", []string{"t11", "tv", "tb"}, []string{"t15", "tv", "tb"}, []string{"t20", "tv", "tb"})
	}
	for _, tc := range []struct {
		name    string
		mode    backfillMode
		prepare func(*testCapture)
		want    map[string]string
	}{
		{"active", modeAutomatic, func(c *testCapture) { c.activeNow() }, map[string]string{
			insert("1"): "c1!", update("1"): "u1!", remove("1"): "d1!", move("1", "2"): "d1! c2!",
			deleteText(testOID, "K", "n", "n", "n"): "no old key",
		}},
		{"pending again", modeAutomatic, func(c *testCapture) { c.b.meta.First = false }, map[string]string{
			insert("1"): "", update("1"): "", remove("1"): "d1!", move("1", "2"): "d1!",
		}},
		{"backfilled first", modeAutomatic, backfill, map[string]string{
			insert("5"): "c5!", update("5"): "u5!", remove("5"): "d5!", insert("12"): "c12~+", update("15"): "u15~+", remove("15"): "d15~+",
			insert("30"): "c30~", update("30"): "u30~", remove("30"): "d30~", move("5", "30"): "d5! c30~", move("15", "5"): "d15~+ c5!",
		}},
		{
			"backfilled again", modeAutomatic, func(c *testCapture) { backfill(c); c.b.meta.First = false },
			map[string]string{remove("15"): "d15~+!", remove("30"): "d30~!", move("30", "5"): "d30~! c5!", insert("30"): "c30~"},
		},
		{"normal", modeNormal, backfill, map[string]string{
			insert("5"): "c5~!", update("15"): "u15~+!", update("16"): "u16~!", remove("15"): "d15~+!", insert("30"): "c30~!",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newTestCapture(t, testTable('d'), tc.mode).describeTable()
			tc.prepare(c)
			if err := c.send(beginText(9000, 7)); err != nil {
				t.Fatal(err)
			}
			for message, want := range tc.want {
				if have := rulings(t, c, message, nil); have != want {
					t.Errorf("%q comes to %q, want %q", message, have, want)
				}
			}
		})
	}
}

// TestRulingsAsk: where the order of a key is asked for, judging goes on where it was.
func TestRulingsAsk(t *testing.T) {
	table := testTable('d')
	table.columns[0].byteOrder = false
	table.columns[0].typeOID = 25
	c := newTestCapture(t, table, modeAutomatic).backfill().describeTable()
	if c.b.key.ordered() {
		t.Fatal("the key's order is known")
	}
	c.scan("m", []string{"ta", "tv", "tb"}, []string{"tm", "tv", "tb"})
	if err := c.send(beginText(9000, 7)); err != nil {
		t.Fatal(err)
	}
	at := map[string]side{"b": sideChunk, "x": sideBeyond}
	asked := func(identity string) {
		if c.b.scan.sides == nil {
			c.b.scan.sides = make(map[string]side)
		}
		c.b.scan.sides[identity] = at[identity[len(identity)-1:]]
	}
	for _, step := range []struct{ change, want string }{
		{insertText(testOID, "tb", "tv", "tb"), "?b cb~+"},
		{updateText(testOID, "K", []string{"tb", "n", "n"}, []string{"tx", "tv", "tb"}), "db~+ ?x cx~"},
		{updateText(testOID, "", nil, []string{"tx", "tv", "tb"}), "ux~"},
		{deleteText(testOID, "K", "ta", "n", "n"), "da~+"}, // the chunk holds it
	} {
		if have := rulings(t, c, step.change, asked); have != step.want {
			t.Errorf("%q comes to %q, want %q", step.change, have, step.want)
		}
	}
}
