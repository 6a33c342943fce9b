package main

// capture_stream_test.go drives a capture without a server: pgoutput messages made here go through handle, rounds are promoted
// and settled by hand, and what reaches stdout is read back. capture_model_test.go interleaves such captures with a model of a
// database; here stand the single judgements and the errors of streams that contradict themselves.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/sirupsen/logrus"
)

const testOID, watermarksOID = 16384, 16400

// Messages as the server sends them.
func beginText(final lsn, xid uint32) string {
	return "B" + u64(uint64(final)) + u64(1_000_000) + u32(xid)
}

func commitText(final, end lsn) string {
	return "C\x00" + u64(uint64(final)) + u64(uint64(end)) + u64(1_000_000)
}

func relationText(oid uint32, name tableName, identity byte, columns ...relationColumn) string {
	s := "R" + u32(oid) + name.schema + "\x00" + name.name + "\x00" + string(identity) + u16(uint16(len(columns)))
	for _, c := range columns {
		flags := "\x00"
		if c.key || identity == 'f' {
			flags = "\x01"
		}
		s += flags + c.name + "\x00" + u32(c.typeOID) + u32(uint32(c.typmod))
	}
	return s
}

func insertText(oid uint32, values ...string) string {
	return "I" + u32(oid) + "N" + rawTuple(values...)
}

// updateText has no old tuple when mark is empty.
func updateText(oid uint32, mark string, old, values []string) string {
	s := "U" + u32(oid)
	if mark != "" {
		s += mark + rawTuple(old...)
	}
	return s + "N" + rawTuple(values...)
}

func deleteText(oid uint32, mark string, old ...string) string {
	return "D" + u32(oid) + mark + rawTuple(old...)
}

var watermarksTable = tableName{"public", "flow_watermarks"}

var watermarkShape = []relationColumn{
	{name: "slot", typeOID: pgtype.TextOID, typmod: -1, key: true}, {name: "watermark", typeOID: pgtype.TextOID, typmod: -1},
}

// testTable is public.t (id integer PRIMARY KEY, v text, big text) as the catalog has it.
func testTable(identity byte) *table {
	t := &table{
		tableName: tableName{"public", "t"}, oid: testOID, kind: 'r', persistence: 'p', published: true, identity: identity,
		primaryKey: []string{"id"}, identityColumns: []string{"id"}, reltuples: -1,
		columns: []column{
			{attnum: 1, name: "id", typeOID: pgtype.Int4OID, typmod: -1, notNull: true, byteOrder: true},
			{attnum: 2, name: "v", typeOID: pgtype.TextOID, typmod: -1},
			{attnum: 3, name: "big", typeOID: pgtype.TextOID, typmod: -1},
		},
	}
	t.leaves = []leaf{{tableName: t.tableName, oid: t.oid, identity: identity}}
	return t
}

// testCapture is a capture of one table whose output can be read.
type testCapture struct {
	*capture
	t    testing.TB
	b    *binding
	sink *bytes.Buffer
	at   lsn    // of the last message
	xid  uint32 // of the last transaction
}

// emitted is one message of the output.
type emitted struct {
	doc   string // compact JSON; empty for a checkpoint
	patch string
}

// quietLogs drops what is logged.
func quietLogs() { logrus.SetOutput(io.Discard) }

// newTestCapture captures the table in the binding's phase. Logs are dropped while the test runs.
func newTestCapture(t testing.TB, table *table, mode backfillMode) *testCapture {
	t.Helper()
	previous := logrus.StandardLogger().Out
	quietLogs()
	t.Cleanup(func() { logrus.SetOutput(previous) })
	sink := &bytes.Buffer{}
	return makeTestCapture(t, table, mode, testEnds{newOutput(sink, codecJSON), sink, newTypeCatalog()})
}

// catalogOf is a server's catalog that has one table.
func catalogOf(t *table) func([]tableName) (map[tableName]*table, error) {
	return func([]tableName) (map[tableName]*table, error) { return map[tableName]*table{t.tableName: t}, nil }
}

// testLookup answers for a server whose rows can be seen at once.
type testLookup func(w *wantedRow) (tuple, error)

func (l testLookup) row(_ context.Context, w *wantedRow) (tuple, bool, error) {
	row, err := l(w)
	return row, true, err
}

func (l testLookup) after(context.Context, *binding, []askedKey, [][]value) ([][]bool, error) {
	return nil, errors.New("the order of keys is asked for")
}

// whole reports whether nothing is known of the row but its key.
func (w *wantedRow) whole() bool { return w.lacking[w.plan.key[0]].kind == valueUnchanged }

// testEnds are what a capture ends in: an output, what reads it back, and the types of the server.
type testEnds struct {
	out   *output
	sink  *bytes.Buffer
	types *typeCatalog
}

func makeTestCapture(t testing.TB, table *table, mode backfillMode, ends testEnds) *testCapture {
	s := &settings{slot: "flow_slot", watermarks: watermarksTable, chunkRows: 50_000, onTruncate: "ignore"}
	c := &capture{
		ctx: t.Context(), settings: s, types: ends.types, out: ends.out, ledger: newLedger(ends.out, &acknowledgements{}),
		db:     &database{settings: s},
		byName: make(map[tableName]*binding), casts: map[uint32]comparison{
			pgtype.Int4OID: {cast: "integer"}, pgtype.Int8OID: {cast: "bigint"}, pgtype.TextOID: {cast: "text"},
		},
		changes: changes{relations: make(map[uint32]*relationEntry)}, seed: maphash.MakeSeed(), stage: stageCapture,
		lastTick: time.Now().Add(time.Hour),
	}
	c.rounds = newRounds(c.db, false)
	c.catalog = catalogOf(table)
	c.lookup = testLookup(func(w *wantedRow) (tuple, error) {
		if w.whole() {
			return nil, nil
		}
		return nil, fmt.Errorf("the row %s is read again", describeKey(w.key))
	})
	c.diag = &diagnostics{xidAt: time.Now().Add(time.Hour)}
	c.session.replication = &replication{}
	c.session.received.Store(time.Now().Add(time.Hour).UnixNano()) // nobody listens
	b := &binding{
		stateKey: "t", collection: "acme/t", resource: resource{table: table.tableName, mode: mode},
		collectionKey: []string{table.columns[0].name}, state: &bindingState{Mode: storedPending}, ledger: &c.ledger,
		partitions: partitionSet{held: true}, // no chunk is read but by the test
	}
	b.meta.First = true
	if err := b.prepare(table, ends.types, s, c.casts); err != nil {
		t.Fatal(err)
	}
	b.meta.OID = table.oid
	b.sourced = b.plan
	c.bindings, c.byName[table.tableName] = []*binding{b}, b
	return &testCapture{capture: c, t: t, b: b, sink: ends.sink, at: 1000, xid: 700}
}

// backfill puts the binding into its backfill.
func (c *testCapture) backfill() *testCapture {
	c.b.transition(eventActivate)
	c.b.state.Mode = c.b.storedModeOf()
	c.b.state.KeyColumns = c.b.collectionKey
	c.backlog.reading = []*binding{c.b}
	c.b.scan.begin(nil, 50_000, false)
	return c
}

func (c *testCapture) activeNow() *testCapture {
	c.b.transition(eventComplete)
	c.b.state.Mode = storedActive
	return c
}

func (c *testCapture) send(messages ...string) error {
	for _, m := range messages {
		c.at++
		if err := c.handle(&walMessage{kind: 'w', start: c.at, data: []byte(m)}); err != nil {
			return err
		}
	}
	return nil
}

// describeTable sends the table's Relation message.
func (c *testCapture) describeTable() *testCapture {
	c.t.Helper()
	if err := c.send(relationText(testOID, c.b.name(), c.b.table.identity, c.b.plan.columns...)); err != nil {
		c.t.Fatal(err)
	}
	return c
}

// transact sends changes as one transaction.
func (c *testCapture) transact(changes ...string) {
	c.t.Helper()
	if err := c.tryTransact(changes...); err != nil {
		c.t.Fatal(err)
	}
}

func (c *testCapture) tryTransact(changes ...string) error {
	c.xid++
	final := c.at + lsn(len(changes)) + 2
	if err := c.send(beginText(final, c.xid)); err != nil {
		return err
	}
	if err := c.send(changes...); err != nil {
		return err
	}
	c.at = final
	return c.send(commitText(final, final+10))
}

// scan makes the round that would be read next: a chunk of the rows, up to end (empty: the table's end). It is promoted at
// once, its snapshot seeing everything.
func (c *testCapture) scan(end string, rows ...[]string) *chunk {
	c.t.Helper()
	ck := &chunk{
		binding: c.b, plan: c.b.plan, table: c.b.table, limit: 100, budget: 1 << 20, seed: c.seed, generation: c.b.scan.generation,
		snapshot: snapshot{xmin: 1 << 31, xmax: 1 << 31},
	}
	for _, r := range rows {
		ck.add(testTuple(r...))
		ck.endAt(testTuple(r...), false, len(ck.rows)-1)
	}
	if end == "" {
		ck.final = true
	} else {
		ck.end = texts(end)
	}
	c.rounds.ahead = &round{chunks: []*chunk{ck}, fence: &fence{watermark: []byte("w")}, done: make(chan struct{})}
	close(c.rounds.ahead.done)
	if err := c.promote(); err != nil {
		c.t.Fatal(err)
	}
	return ck
}

// testTuple makes a tuple of values spelled as rawTuple's: t and the text, n, u.
func testTuple(values ...string) tuple {
	var made tuple
	for _, v := range values {
		made = append(made, value{kind: valueKind(v[0]), data: []byte(v[1:])})
	}
	return made
}

// pass has the watermark of the open round come by and settles it.
func (c *testCapture) pass() {
	c.t.Helper()
	c.transact(relationText(watermarksOID, watermarksTable, 'd', watermarkShape...), insertText(watermarksOID, "tflow_slot", "tw"))
	if !c.rounds.open.fence.passed {
		c.t.Fatal("the fence has not passed")
	}
	if err := c.settle(); err != nil {
		c.t.Fatal(err)
	}
}

// output returns what was written since the last call.
func (c *testCapture) output() (all []emitted) {
	c.t.Helper()
	if err := c.out.flush(); err != nil {
		c.t.Fatal(err)
	}
	all = parseOutput(c.t, c.sink.Bytes())
	c.sink.Reset()
	return all
}

func parseOutput(t testing.TB, written []byte) (all []emitted) {
	for line := range bytes.Lines(written) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		if doc, ok := bytes.CutPrefix(line, []byte(`{"captured":{"doc":`)); ok {
			all = append(all, emitted{doc: string(doc[:len(doc)-2])})
		} else if patch, ok := bytes.CutPrefix(line, []byte(`{"checkpoint":{"state":{"updated":`)); ok {
			all = append(all, emitted{patch: strings.TrimSuffix(string(patch), `,"mergePatch":true}}}`)})
		} else {
			t.Fatalf("output: %s", line)
		}
	}
	return all
}

// brief writes documents as "op id v big", with S for backfill rows and the old row in brackets; checkpoints as "|".
func brief(t testing.TB, all []emitted) string {
	var words []string
	for _, e := range all {
		if e.doc == "" {
			words = append(words, "|")
			continue
		}
		var doc struct {
			ID   int     `json:"id"`
			V    *string `json:"v"`
			Big  *string `json:"big"`
			Meta struct {
				Op     string         `json:"op"`
				Before map[string]any `json:"before"`
				Source struct {
					Snapshot bool `json:"snapshot"`
				} `json:"source"`
			} `json:"_meta"`
		}
		if err := json.Unmarshal([]byte(e.doc), &doc); err != nil {
			t.Fatalf("%s: %v", e.doc, err)
		}
		word := doc.Meta.Op
		if doc.Meta.Source.Snapshot {
			word = "S"
		}
		word += fmt.Sprint(doc.ID)
		for _, v := range []*string{doc.V, doc.Big} {
			if v != nil {
				word += "," + *v
			}
		}
		if doc.Meta.Before != nil {
			word += fmt.Sprint("[", doc.Meta.Before["v"], "]")
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

func (c *testCapture) want(want string) {
	c.t.Helper()
	if have := brief(c.t, c.output()); have != want {
		c.t.Errorf("output\n%s, want\n%s", have, want)
	}
}

// TestSides: one change of each kind in each place of a backfill whose first chunk, up to key 10, has settled and whose
// second, up to key 20, is open; holding 11, 15 and 20.
func TestSides(t *testing.T) {
	insert := func(id string) string { return insertText(testOID, "t"+id, "tnew", "tb") }
	update := func(id string) string {
		return updateText(testOID, "", nil, []string{"t" + id, "tnew", "u"})
	}
	remove := func(id string) string { return deleteText(testOID, "K", "t"+id, "n", "n") }
	move := func(from, to string) string {
		return updateText(testOID, "K", []string{"t" + from, "n", "n"}, []string{"t" + to, "tnew", "tb"})
	}
	const rest = "S11,v11,b11 S15,v15,b15 S20,v20,b20 |"
	for _, tc := range []struct {
		name, change     string
		streamed         string // first backfill
		settled          string
		streamedAgain    string // a later backfill, where another word is due
		streamedInNormal string
		unsettled        bool
	}{
		{"insert settled", insert("7"), "c7,new,b", rest, "", "", false},
		{"insert chunk", insert("12"), "", "S11,v11,b11 S15,v15,b15 S20,v20,b20 S12,new,b |", "", "c12,new,b", true},
		{"insert beyond", insert("21"), "", rest, "", "c21,new,b", true},
		{"update settled", update("10"), "u10,new", rest, "", "", false},
		{"update chunk", update("11"), "", "S11,new,b11 S15,v15,b15 S20,v20,b20 |", "", "u11,new", true},
		{"update chunk's end", update("20"), "", "S11,v11,b11 S15,v15,b15 S20,new,b20 |", "", "u20,new", true},
		{"update beyond", update("21"), "", rest, "", "u21,new", true},
		{"delete settled", remove("10"), "d10", rest, "", "", false},
		{"delete chunk", remove("15"), "", "S11,v11,b11 S20,v20,b20 |", "d15", "", true},
		{"delete absent from chunk", remove("13"), "", rest, "d13", "", true},
		{"delete beyond", remove("21"), "", rest, "d21", "", true},
		{"move within settled", move("3", "4"), "d3 c4,new,b", rest, "", "", false},
		{"move settled to chunk", move("3", "12"), "d3", "S11,v11,b11 S15,v15,b15 S20,v20,b20 S12,new,b |", "", "", true},
		{"move settled to beyond", move("3", "30"), "d3", rest, "", "", true},
		{"move chunk to settled", move("15", "3"), "c3,new,b", "S11,v11,b11 S20,v20,b20 |", "d15 c3,new,b", "", true},
		{"move within chunk", move("15", "16"), "", "S11,v11,b11 S20,v20,b20 S16,new,b |", "d15", "", true},
		{"move chunk to beyond", move("15", "30"), "", "S11,v11,b11 S20,v20,b20 |", "d15", "", true},
		{"move beyond to settled", move("30", "3"), "c3,new,b", rest, "d30 c3,new,b", "", true},
		{"move beyond to chunk", move("30", "12"), "", "S11,v11,b11 S15,v15,b15 S20,v20,b20 S12,new,b |", "d30", "", true},
		{"move within beyond", move("30", "31"), "", rest, "d30", "", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, first := range []bool{true, false} {
				c := newTestCapture(t, testTable('d'), modeAutomatic).backfill().describeTable()
				c.b.meta.First = first
				c.scan("10")
				c.pass()
				c.b.meta.First = first
				c.scan("20", []string{"t11", "tv11", "tb11"}, []string{"t15", "tv15", "tb15"}, []string{"t20", "tv20", "tb20"})
				c.output()
				c.b.scan.unsettled = nil
				c.transact(tc.change)
				if have := len(c.b.scan.unsettled) > 0; have != tc.unsettled {
					t.Errorf("remembered until a snapshot sees it: %v, want %v", have, tc.unsettled)
				}
				streamed := tc.streamed
				if !first && tc.streamedAgain != "" {
					streamed = tc.streamedAgain
				}
				c.want(streamed)
				c.pass()
				c.want(tc.settled)
			}
		})
	}
}

// A table's last chunk has no end: rows put behind its last one are patched in.
func TestLastChunkEndsNowhere(t *testing.T) {
	c := newTestCapture(t, testTable('d'), modeAutomatic).backfill().describeTable()
	c.scan("", []string{"t1", "tv", "tb"})
	c.transact(insertText(testOID, "t99", "tx", "tb"), updateText(testOID, "", nil, []string{"t99", "ty", "u"}))
	c.want("")
	c.pass()
	c.want("S1,v,b S99,y,b |")
	if c.b.phase != phaseActive || len(c.backlog.reading) != 0 {
		t.Errorf("phase %d", c.b.phase)
	}
	c.transact(updateText(testOID, "", nil, []string{"t99", "tz", "u"}))
	c.want("u99,z")
}

// Under Normal every change is emitted as it comes; a chunk is patched so that it does not say less than the stream did.
func TestNormalMode(t *testing.T) {
	c := newTestCapture(t, testTable('d'), modeNormal).backfill().describeTable()
	c.transact(insertText(testOID, "t50", "tx", "tb"))
	c.want("c50,x,b")
	c.scan("10", []string{"t1", "tv1", "tb1"}, []string{"t2", "tv2", "tb2"}, []string{"t10", "tv", "tb"})
	c.transact(updateText(testOID, "", nil, []string{"t1", "tnew", "u"}), deleteText(testOID, "K", "t2", "n", "n"),
		insertText(testOID, "t3", "tx", "tb"))
	c.want("u1,new d2 c3,x,b")
	c.pass()
	c.want("S1,new,b1 S10,v,b |")
	if c.b.state.Mode != storedUnfiltered {
		t.Errorf("stored as %s", c.b.state.Mode)
	}
}

func TestTruncateEmptiesTheChunk(t *testing.T) {
	c := newTestCapture(t, testTable('d'), modeAutomatic).backfill().describeTable()
	c.scan("", []string{"t1", "tv", "tb"}, []string{"t2", "tv", "tb"})
	c.transact("T"+u32(1)+"\x00"+u32(testOID), insertText(testOID, "t2", "tafter", "tb"))
	c.pass()
	c.want("S2,after,b |")
}

// A chunk that must be read again emits nothing and takes with it what was read behind it.
func TestSpoiledChunk(t *testing.T) {
	c := newTestCapture(t, testTable('d'), modeAutomatic).backfill().describeTable()
	ck := c.scan("10", []string{"t1", "tv", "tb"})
	behind := &chunk{binding: c.b, plan: c.b.plan, table: c.b.table, generation: c.b.scan.generation}
	ck.spoil("a reason")
	c.transact(insertText(testOID, "t1", "tnew", "tb"))
	c.rounds.ahead = &round{chunks: []*chunk{behind}, fence: &fence{watermark: []byte("later")}, done: make(chan struct{})}
	c.pass()
	c.want("")
	if behind.generation == c.b.scan.generation || c.b.scan.chunk != nil || c.b.scan.limit != 50 || len(c.b.scan.unsettled) != 1 {
		t.Errorf("the chunk behind counts: generation %d; limit %d; %d transactions", behind.generation, c.b.scan.limit, len(c.b.scan.unsettled))
	}
}

// A chunk from which a streamed transaction of its table is invisible does not count (DESIGN I3).
func TestInvisibleTransaction(t *testing.T) {
	c := newTestCapture(t, testTable('d'), modeAutomatic).backfill().describeTable()
	c.transact(insertText(testOID, "t5", "tx", "tb"))
	ck := &chunk{
		binding: c.b, plan: c.b.plan, table: c.b.table, limit: 1, seed: c.seed, final: true,
		snapshot: snapshot{xmin: uint64(c.xid), xmax: uint64(c.xid) + 1, xip: []uint64{uint64(c.xid)}},
	}
	c.rounds.ahead = &round{chunks: []*chunk{ck}, fence: &fence{watermark: []byte("w")}, done: make(chan struct{})}
	close(c.rounds.ahead.done)
	if err := c.promote(); err != nil {
		t.Fatal(err)
	}
	if c.b.scan.chunk != nil || c.b.scan.state != scanUnseen || len(c.rounds.open.chunks) != 0 {
		t.Error("the chunk counts")
	}
	if c.b.partitions.release(); len(c.rounds.pick(c.backlog.reading)) != 0 {
		t.Error("another is read before the transaction can be seen")
	}
}

// One change of a key update lands in a document of its own; positions rise within a transaction.
func TestKeyMoveLocations(t *testing.T) {
	c := newTestCapture(t, testTable('d'), modeAutomatic).activeNow().describeTable()
	c.transact(updateText(testOID, "K", []string{"t1", "n", "n"}, []string{"t2", "tv", "tb"}), insertText(testOID, "t3", "tv", "tb"))
	var locs [][3]int64
	for _, e := range c.output() {
		var doc struct {
			Meta struct {
				Source struct {
					Loc [3]int64 `json:"loc"`
				} `json:"source"`
			} `json:"_meta"`
		}
		if err := json.Unmarshal([]byte(e.doc), &doc); err != nil {
			t.Fatal(err)
		}
		locs = append(locs, doc.Meta.Source.Loc)
	}
	if len(locs) != 3 {
		t.Fatal(locs)
	}
	for i := 1; i < len(locs); i++ {
		if locs[i][0] != locs[0][0] || locs[i][1] <= locs[i-1][1] || locs[i][2] != locs[0][2] {
			t.Errorf("%v", locs)
		}
	}
}

// Deferrable keys: rows of one transaction may share a key for a moment.
func TestDeferrableKeys(t *testing.T) {
	full := func(id, v string) []string { return []string{"t" + id, "t" + v, "tb"} }
	update := func(old, new []string) string { return updateText(testOID, "O", old, new) }
	for _, tc := range []struct {
		name    string
		changes []string
		want    string
	}{
		{
			"swap",
			[]string{update(full("1", "a"), full("2", "a")), update(full("2", "b"), full("1", "b"))},
			"d1,a,b c2,a,b c1,b,b",
		},
		{
			"shift up",
			[]string{update(full("1", "a"), full("2", "a")), update(full("2", "b"), full("3", "b"))},
			"d1,a,b c2,a,b c3,b,b",
		},
		{
			"there and back",
			[]string{update(full("1", "a"), full("2", "a")), update(full("2", "a"), full("1", "a"))},
			"d1,a,b c2,a,b d2,a,b c1,a,b",
		},
		{
			"changed after the move",
			[]string{
				update(full("1", "a"), full("2", "a")), update(full("2", "a"), full("2", "z")),
				deleteText(testOID, "O", full("2", "b")...),
			},
			"d1,a,b c2,a,b u2,z,b[a]",
		},
		{
			"both deleted, the younger first",
			[]string{
				update(full("1", "a"), full("2", "a")), deleteText(testOID, "O", full("2", "a")...),
				deleteText(testOID, "O", full("2", "b")...),
			},
			"d1,a,b c2,a,b d2,a,b",
		},
		{
			"both changed, then the older leaves",
			[]string{
				update(full("1", "a"), full("2", "a")), update(full("2", "a"), full("2", "x")), update(full("2", "b"), full("2", "y")),
				update(full("2", "y"), full("3", "y")),
			},
			"d1,a,b c2,a,b u2,x,b[a] c3,y,b",
		},
		{
			"both changed, then the younger leaves",
			[]string{
				update(full("1", "a"), full("2", "a")), update(full("2", "b"), full("2", "y")), update(full("2", "a"), full("3", "a")),
				update(full("2", "y"), full("2", "z")),
			},
			"d1,a,b c2,a,b u2,y,b[a] c3,a,b u2,z,b[y]",
		},
		{
			"the older changes behind the younger",
			[]string{
				update(full("1", "a"), full("2", "a")), update(full("2", "a"), full("3", "a")), update(full("2", "b"), full("2", "y")),
			},
			"d1,a,b c2,a,b d2,a,b c3,a,b c2,y,b",
		},
		{
			"the older stands there unsaid",
			[]string{update(full("1", "a"), full("7", "a")), update(full("7", "a"), full("3", "a"))},
			"d1,a,b c7,a,b d7,a,b c3,a,b c7,stays,b",
		},
		{
			"deleted after the move",
			[]string{
				update(full("1", "a"), full("2", "a")), deleteText(testOID, "O", full("2", "b")...),
				deleteText(testOID, "O", full("2", "a")...),
			},
			"d1,a,b c2,a,b d2,a,b",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			table := testTable('f')
			table.primaryKey, table.deferrableKeys = nil, [][]string{{"id"}}
			c := newTestCapture(t, table, modeAutomatic).activeNow().describeTable()
			c.lookup = testLookup(func(w *wantedRow) (tuple, error) {
				if string(w.key[0].data) == "7" {
					return texts("7", "stays", "b"), nil
				}
				return nil, nil
			})
			c.transact(tc.changes...)
			c.want(tc.want)
			// The next transaction starts anew.
			c.transact(deleteText(testOID, "O", full("9", "a")...))
			c.want("d9,a,b")
		})
	}
}

func TestKeylessChanges(t *testing.T) {
	table := testTable('f')
	table.primaryKey = nil
	c := newTestCapture(t, table, modeKeyless)
	c.b.collectionKey = nil
	if err := c.b.prepare(table, c.types, c.settings, c.casts); err != nil {
		t.Fatal(err)
	}
	c.b.sourced = c.b.plan
	c.backfill()
	c.describeTable()
	row := []string{"t1", "ta", "tb"}
	c.transact(insertText(testOID, row...), updateText(testOID, "O", row, []string{"t2", "tz", "u"}),
		deleteText(testOID, "O", row...))
	c.want("c1,a,b u2,z,b[a] d1,a,b")
	if c.b.state.Mode != storedKeyless {
		t.Errorf("stored as %s", c.b.state.Mode)
	}
}

// Streams that contradict themselves.
func TestStreamErrors(t *testing.T) {
	row := []string{"t1", "tv", "tb"}
	ours := relationText(testOID, tableName{"public", "t"}, 'd', testPlan("v", "big").columns...)
	for _, tc := range []struct {
		name     string
		messages []string
		want     string
	}{
		{"empty", []string{""}, "stream at 0/3E9: empty message"},
		{"unknown kind", []string{"x"}, `stream at 0/3E9: unexpected message 'x'`},
		{"abort inside", []string{beginText(2000, 7), "A" + u32(8) + u32(9)}, "stream at 0/3EA: stream abort inside transaction 7"},
		{"begin inside", []string{beginText(2000, 7), beginText(3000, 8)}, "stream at 0/3EA: begin inside transaction 7"},
		{"commit alone", []string{commitText(2000, 2001)}, "stream at 0/3E9: commit without a begin"},
		{
			"commit of another",
			[]string{beginText(2000, 7), commitText(2001, 2002)},
			"stream at 0/3EA: commit at 0/7D1 of a transaction that began with final LSN 0/7D0",
		},
		{
			"commits out of order",
			[]string{beginText(2000, 7), commitText(2000, 2010), beginText(1500, 8), commitText(1500, 1510)},
			"stream at 0/3EC: commit that ends at 0/5E6 behind one that ended at 0/7DA",
		},
		{"malformed", []string{"B12"}, "stream at 0/3E9: begin: at byte 1: want 8 more bytes, have 2"},
		{
			"unknown relation",
			[]string{beginText(2000, 7), insertText(99, row...)},
			"stream at 0/3EA: change of relation 99, which has not been described",
		},
		{
			"truncate of an unknown relation",
			[]string{beginText(2000, 7), "T" + u32(1) + "\x00" + u32(99)},
			"stream at 0/3EA: truncate of relation 99, which has not been described",
		},
		{"outside", []string{ours, insertText(testOID, row...)}, "stream at 0/3EA: change of public.t outside a transaction"},
		{
			"short new tuple",
			[]string{ours, beginText(2000, 7), insertText(testOID, "t1")},
			"stream at 0/3EB: change of public.t: a new tuple of 1 columns, the relation has 3",
		},
		{
			"long old tuple",
			[]string{ours, beginText(2000, 7), deleteText(testOID, "O", "t1", "tv", "tb", "tx")},
			"stream at 0/3EB: change of public.t: an old tuple of 4 columns, the relation has 3",
		},
		{
			"update with a short old tuple",
			[]string{ours, beginText(2000, 7), updateText(testOID, "K", []string{"t1"}, row)},
			"stream at 0/3EB: change of public.t: an old tuple of 1 columns, the relation has 3",
		},
		{
			"watermarks table without its column",
			[]string{relationText(watermarksOID, watermarksTable, 'd', relationColumn{name: "slot"})},
			"stream at 0/3E9: the watermarks table lacks a column slot or watermark in the publication",
		},
		{"bad value", []string{ours, beginText(2000, 7), insertText(testOID, "tone", "tv", "tb")}, ""}, // its table's own fault
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newTestCapture(t, testTable('d'), modeAutomatic).activeNow()
			err := c.send(tc.messages...)
			if errorText(err) != tc.want {
				t.Errorf("error\n%s, want\n%s", errorText(err), tc.want)
			}
		})
	}
}

// Messages that carry nothing are passed over, wherever they stand; keepalives inside a transaction say nothing.
func TestStreamPassesOver(t *testing.T) {
	c := newTestCapture(t, testTable('d'), modeAutomatic).activeNow().describeTable()
	other := relationText(77, tableName{"public", "other"}, 'd', relationColumn{name: "id", typeOID: 23})
	keepalive := func(at lsn) {
		t.Helper()
		if err := c.handle(&walMessage{kind: 'k', start: at}); err != nil {
			t.Fatal(err)
		}
	}
	keepalive(5000)
	if c.ledger.idleEnd != 5000 {
		t.Errorf("idle end %s", c.ledger.idleEnd)
	}
	if err := c.send("Oorigin", "Mmessage", "Y"+u32(9)+"public\x00mood\x00", other, beginText(9000, 7), insertText(77, "t1")); err != nil {
		t.Fatal(err)
	}
	keepalive(8000)
	if c.ledger.idleEnd != 5000 {
		t.Error("a keepalive inside a transaction moved the idle end")
	}
	if err := c.send(commitText(9000, 9010)); err != nil {
		t.Fatal(err)
	}
	c.want("")
	if c.ledger.due || c.ledger.cursor != 9010 || c.ledger.previousEnd != 9010 {
		t.Errorf("due %v, cursor %s", c.ledger.due, c.ledger.cursor)
	}
	// Another slot's watermark is not ours.
	c.rounds.ahead = &round{fence: &fence{watermark: []byte("w")}, done: make(chan struct{})}
	close(c.rounds.ahead.done)
	if err := c.promote(); err != nil {
		t.Fatal(err)
	}
	c.at = 10_000
	c.transact(relationText(watermarksOID, watermarksTable, 'd', watermarkShape...), insertText(watermarksOID, "tother", "tw"))
	if c.rounds.open.fence.passed {
		t.Error("another slot's watermark passed our fence")
	}
}

// A relation that is described again, unchanged, keeps its plan: nothing is sourced anew.
func TestRelationAgain(t *testing.T) {
	c := newTestCapture(t, testTable('d'), modeAutomatic).activeNow().describeTable()
	plan := c.changes.relations[testOID].plan
	c.describeTable()
	if c.changes.relations[testOID].plan != plan || plan != c.b.plan {
		t.Error("another plan for the same shape")
	}
}

// TestStreamAllocations holds the way of a change at zero allocations.
func TestStreamAllocations(t *testing.T) {
	for _, tc := range []struct {
		name     string
		identity byte
		prepare  func(*testCapture)
		messages []string
	}{
		{"active", 'd', func(c *testCapture) { c.activeNow() }, []string{
			insertText(testOID, "t1", "tv", "tb"), updateText(testOID, "", nil, []string{"t1", "tw", "u"}),
			deleteText(testOID, "K", "t1", "n", "n"),
			updateText(testOID, "K", []string{"t1", "n", "n"}, []string{"t2", "tv", "tb"}),
		}},
		{"active, full", 'f', func(c *testCapture) { c.activeNow() }, []string{
			insertText(testOID, "t1", "tv", "tb"), updateText(testOID, "O", []string{"t1", "tv", "tb"}, []string{"t1", "tw", "u"}),
			deleteText(testOID, "O", "t1", "tv", "tb"),
			updateText(testOID, "O", []string{"t1", "tv", "tb"}, []string{"t2", "tv", "u"}),
		}},
		{"backfill", 'd', func(c *testCapture) {
			c.backfill()
			c.scan("20", []string{"t1", "tv", "tb"}, []string{"t2", "tv", "tb"})
			c.b.scan.chunk.arena = append(make([]byte, 0, 1<<20), c.b.scan.chunk.arena...)
		}, []string{
			insertText(testOID, "t1", "tv", "tb"), updateText(testOID, "", nil, []string{"t2", "tw", "u"}),
			deleteText(testOID, "K", "t1", "n", "n"), insertText(testOID, "t30", "tv", "tb"),
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newTestCapture(t, testTable(tc.identity), modeAutomatic)
			tc.prepare(c)
			c.describeTable()
			c.out.w = io.Discard
			if err := c.send(beginText(math.MaxUint32, 7)); err != nil {
				t.Fatal(err)
			}
			messages := make([]walMessage, len(tc.messages))
			for i, m := range tc.messages {
				messages[i] = walMessage{kind: 'w', start: c.at, data: []byte(m)}
			}
			run := func() {
				for i := range messages {
					if err := c.handle(&messages[i]); err != nil {
						t.Fatal(err)
					}
				}
			}
			run()
			if n := testing.AllocsPerRun(500, run); n != 0 {
				t.Errorf("%v allocations for %d changes", n, len(messages))
			}
		})
	}
}

// The state a checkpoint stores is the state a restart resumes from.
func TestSettledStateResumes(t *testing.T) {
	c := newTestCapture(t, testTable('d'), modeAutomatic).backfill().describeTable()
	c.scan("10", []string{"t1", "tv", "tb"}, []string{"t10", "tv", "tb"})
	c.pass()
	all := c.output()
	state, err := parseState(json.RawMessage(all[len(all)-1].patch))
	if err != nil {
		t.Fatal(err)
	}
	resumed := newTestCapture(t, testTable('d'), modeAutomatic)
	resumed.b.state = state.Bindings["t"]
	if err := resumed.b.resume(); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(resumed.b.scan.scanned, c.b.scan.scanned) || !bytes.Equal(resumed.b.scan.scannedAt, c.b.scan.scannedAt) {
		t.Errorf("resumed at %s, was at %s", describeKey(resumed.b.scan.scanned), describeKey(c.b.scan.scanned))
	}
	if resumed.b.state.Backfilled != 2 || resumed.b.state.Mode != storedBackfill {
		t.Errorf("%+v", resumed.b.state)
	}
}

// A key that moves without its TOAST value gets the value of the row that stands there: not that which the chunk has of the old
// key, where another row may have stood when it was read, nor that of the new one.
func TestKeyMoveReadsTOAST(t *testing.T) {
	for _, to := range []struct{ name, key, want string }{
		{"captured", "1", "c1,w,its own S5,v,of another S6,v,of a third |"},
		{"in the chunk", "6", "S5,v,of another S6,w,its own |"},
	} {
		t.Run(to.name, func(t *testing.T) {
			c := newTestCapture(t, testTable('d'), modeAutomatic).backfill().describeTable()
			c.lookup = testLookup(func(w *wantedRow) (tuple, error) {
				if string(w.key[0].data) != to.key {
					return nil, fmt.Errorf("the row %s is read again", describeKey(w.key))
				}
				return texts(to.key, "newer", "its own"), nil
			})
			c.scan("4", []string{"t2", "tv", "tb"})
			c.pass()
			c.output()
			c.scan("", []string{"t5", "tv", "tof another"}, []string{"t6", "tv", "tof a third"}) // read behind both transactions
			c.transact(updateText(testOID, "K", []string{"t5", "n", "n"}, []string{"t" + to.key, "tw", "u"}))
			c.transact(insertText(testOID, "t5", "tv", "tof another"))
			c.pass()
			c.want(to.want)
		})
	}
}

// A replica identity that no longer carries the key parks its binding as soon as the stream says so: from then on a key
// move would look like a new row, and its old document would live for ever.
func TestIdentityWithoutKeyParks(t *testing.T) {
	c := newTestCapture(t, testTable('d'), modeAutomatic).activeNow()
	c.catalog = func([]tableName) (map[tableName]*table, error) { return nil, nil } // has not put it right since
	err := c.send(relationText(testOID, tableName{"public", "t"}, 'i', relationColumn{"id", 23, -1, false},
		relationColumn{"v", 25, -1, true}, relationColumn{"big", 25, -1, false}),
		beginText(2000, 7), deleteText(testOID, "K", "n", "tv", "n"))
	if err != nil || c.b.phase != phaseMissing {
		t.Errorf("error %v, phase %d; want the binding parked", err, c.b.phase)
	}
}

// A table that is renamed parks its binding: its changes come under another name, and nothing would tell of them.
func TestRenamedTableParks(t *testing.T) {
	c := newTestCapture(t, testTable('d'), modeAutomatic).activeNow()
	c.catalog = func([]tableName) (map[tableName]*table, error) { return nil, nil } // has not put it right since
	err := c.send(relationText(testOID, tableName{"public", "elsewhere"}, 'd', c.b.plan.columns...))
	if err != nil || c.b.phase != phaseMissing {
		t.Errorf("error %v, phase %d; want the binding parked", err, c.b.phase)
	}
}

// TestUnknownLargeChange: nothing is read of a large change whose relation has not been described.
func TestUnknownLargeChange(t *testing.T) {
	c := newTestCapture(t, testTable('d'), modeAutomatic).activeNow()
	err := c.handle(&walMessage{kind: '?', start: 1001, data: []byte("I" + u32(99))})
	if want := "stream at 0/3E9: change of relation 99, which has not been described"; errorText(err) != want {
		t.Errorf("error\n%s, want\n%s", errorText(err), want)
	}
}
