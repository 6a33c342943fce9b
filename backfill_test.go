package main

// backfill_test.go holds a chunk against plain models: a map of rows, a set of transactions, the order of keys. Random
// operations print their seed and look at the chunk's every promise after each step; the hot path is held at zero
// allocations a row.

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgtype"
)

func TestParseSnapshot(t *testing.T) {
	for _, tc := range []struct {
		in      string
		want    snapshot
		wantErr string
	}{
		{in: "10:20:10,14,15", want: snapshot{10, 20, []uint64{10, 14, 15}}},
		{in: "10:10:", want: snapshot{10, 10, nil}},
		{in: "4294967296:4294967300:4294967297", want: snapshot{1 << 32, 1<<32 + 4, []uint64{1<<32 + 1}}},
		{in: "", wantErr: `snapshot "" is not xmin:xmax:xip`},
		{in: "10:20", wantErr: `snapshot "10:20" is not xmin:xmax:xip`},
		{in: "10:20:1:2", wantErr: `snapshot "10:20:1:2" is not xmin:xmax:xip`},
		{in: "x:20:", wantErr: `snapshot "x:20:": strconv.ParseUint: parsing "x": invalid syntax`},
		{in: "10:-1:", wantErr: `snapshot "10:-1:": strconv.ParseUint: parsing "-1": invalid syntax`},
		{in: "10:20:12,", wantErr: `snapshot "10:20:12,": strconv.ParseUint: parsing "": invalid syntax`},
		{
			in:      "10:18446744073709551616:",
			wantErr: `snapshot "10:18446744073709551616:": strconv.ParseUint: parsing "18446744073709551616": value out of range`,
		},
	} {
		have, err := parseSnapshot(tc.in)
		if errorText(err) != tc.wantErr {
			t.Errorf("%q: error %q, want %q", tc.in, errorText(err), tc.wantErr)
		} else if err == nil && (have.xmin != tc.want.xmin || have.xmax != tc.want.xmax || !slices.Equal(have.xip, tc.want.xip)) {
			t.Errorf("%q: %+v, want %+v", tc.in, have, tc.want)
		}
	}
}

// A Begin message has the low half of a transaction's id. What the snapshot sees must not depend on where the id's epoch
// begins.
func TestSnapshotSees(t *testing.T) {
	const epoch = 1 << 32
	for _, tc := range []struct {
		snapshot string
		xid      uint32
		want     bool
	}{
		{"100:200:", 99, true},
		{"100:200:", 150, true},
		{"100:200:", 199, true},
		{"100:200:", 200, false}, // xmax is the first that had not begun
		{"100:200:", 201, false},
		{"100:200:150,160", 150, false},
		{"100:200:150,160", 151, true},
		{"100:200:150,160", 160, false},
		{"3:3:", 3, false},
		// The snapshot stands early in an epoch: a large id is of the epoch before.
		{fmt.Sprintf("%d:%d:", epoch, epoch+10), 4294967295, true},
		{fmt.Sprintf("%d:%d:%d", epoch-5, epoch+10, epoch-3), 4294967293, false},
		{fmt.Sprintf("%d:%d:%d", epoch-5, epoch+10, epoch-3), 4294967294, true},
		{fmt.Sprintf("%d:%d:", epoch, epoch+10), 9, true},
		{fmt.Sprintf("%d:%d:", epoch, epoch+10), 10, false},
		{fmt.Sprintf("%d:%d:%d", epoch, epoch+10, epoch+4), 4, false},
		// It stands late in one: a small id is of the epoch to come.
		{fmt.Sprintf("%d:%d:", epoch-9, epoch-3), 5, false},
		{fmt.Sprintf("%d:%d:", 2*epoch-9, 2*epoch-3), 5, false},
		{fmt.Sprintf("%d:%d:", 2*epoch-9, 2*epoch-3), 4294967292, true},
		// The ends of the half range.
		{fmt.Sprintf("%d:%d:", 7*epoch, 7*epoch+1<<31), 1, true},
		{fmt.Sprintf("%d:%d:", 7*epoch, 7*epoch+1<<31), 1<<31 + 1, false},
	} {
		s, err := parseSnapshot(tc.snapshot)
		if err != nil {
			t.Fatal(err)
		}
		if have := s.sees(tc.xid); have != tc.want {
			t.Errorf("%s sees %d: %v, want %v", tc.snapshot, tc.xid, have, tc.want)
		}
	}
}

// FuzzSnapshotSees compares with the 64-bit ids: whatever lies less than half the id space from the snapshot's end is
// judged as its full id is.
func FuzzSnapshotSees(f *testing.F) {
	f.Add(uint64(1<<32+10), int64(-20), uint16(3), "1:2:3")
	f.Add(uint64(100), int64(5), uint16(0), "::")
	f.Add(uint64(1<<40), int64(-1<<31+1), uint16(9), "1:2:3,4")
	f.Fuzz(func(t *testing.T, xmax uint64, distance int64, running uint16, text string) {
		if s, err := parseSnapshot(text); err == nil {
			again, err := parseSnapshot(formatSnapshot(&s))
			if err != nil || again.xmin != s.xmin || again.xmax != s.xmax || !slices.Equal(again.xip, s.xip) {
				t.Fatalf("%q is read as %+v, written and read again as %+v (%v)", text, s, again, err)
			}
		}
		xmax = xmax%(1<<48) + 3
		distance %= 1 << 31
		full := int64(xmax) + distance
		if full < 3 {
			return
		}
		s := snapshot{xmin: 3, xmax: xmax}
		for i := range uint64(running % 8) { // every third id below xmax is still running
			if at := 3*i + 1; at < xmax {
				s.xip = append(s.xip, xmax-at)
			}
		}
		want := uint64(full) < xmax && !slices.Contains(s.xip, uint64(full))
		if have := s.sees(uint32(full)); have != want {
			t.Fatalf("%s sees %d (%d of the epoch): %v, want %v", formatSnapshot(&s), full, uint32(full), have, want)
		}
	})
}

func formatSnapshot(s *snapshot) string {
	var xip []string
	for _, x := range s.xip {
		xip = append(xip, strconv.FormatUint(x, 10))
	}
	return fmt.Sprintf("%d:%d:%s", s.xmin, s.xmax, strings.Join(xip, ","))
}

func TestXIDSet(t *testing.T) {
	var set xidSet
	all := snapshot{xmin: 1, xmax: 1000}
	if !set.prune(&all) {
		t.Error("an empty set has something left")
	}
	for _, xid := range []uint32{5, 5, 7, 7, 5, 9} {
		set.add(xid)
	}
	if !slices.Equal(set, xidSet{5, 7, 5, 9}) {
		t.Errorf("%v: repetitions in a row are to be left out, and only those", set)
	}
	if set.prune(&snapshot{xmin: 5, xmax: 9, xip: []uint64{7}}) || !slices.Equal(set, xidSet{7, 9}) {
		t.Errorf("%v, want what the snapshot does not see: 7, still running, and 9, not begun", set)
	}
	if !set.prune(&all) || len(set) != 0 {
		t.Errorf("%v remains of what the snapshot sees", set)
	}
}

// testPlan is the plan of a table with an integer key and text columns.
func testPlan(columns ...string) *plan {
	shape := []relationColumn{{name: "id", typeOID: pgtype.Int4OID, typmod: -1, key: true}}
	for _, name := range columns {
		shape = append(shape, relationColumn{name: name, typeOID: pgtype.TextOID, typmod: -1})
	}
	return newPlan(shape, planOptions{
		schema: "public", table: "t", keyColumns: []string{"id"}, types: newTypeCatalog(), settings: &settings{},
	})
}

func newTestChunk(p *plan, budget int) *chunk {
	return &chunk{plan: p, budget: budget, seed: maphash.MakeSeed(), table: &table{oid: 1}}
}

func identityOf(key ...value) []byte { return appendIdentity(nil, key) }

var unchanged = value{kind: valueUnchanged}

// modelRow is what a chunk should hold of a key: "?" stands for an unchanged value whose older image nobody had.
type modelRow [2]string

func (r modelRow) value(i int) value {
	if r[i] == "?" {
		return unchanged
	}
	return text(r[i])
}

// checkChunk compares a chunk with its model.
func checkChunk(t *testing.T, c *chunk, model map[int]modelRow, keys int) {
	t.Helper()
	if c.live != len(model) {
		t.Fatalf("%d rows are live, want %d", c.live, len(model))
	}
	used := 0
	seen := make(map[int]modelRow)
	for i, r := range c.rows {
		used += r.tuple - r.at
		if r.dead {
			continue
		}
		used += r.end - r.tuple
		row := c.row(nil, i)
		id, err := strconv.Atoi(string(row[0].data))
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := seen[id]; twice {
			t.Fatalf("two live rows of key %d", id)
		}
		var have modelRow
		for j, v := range row[1:] {
			have[j] = string(v.data)
			if v.kind == valueUnchanged {
				have[j] = "?"
			}
		}
		seen[id] = have
	}
	for id, want := range model {
		if have, ok := seen[id]; !ok || have != want {
			t.Fatalf("key %d holds %.40q, want %.40q", id, have, want)
		}
	}
	for id := range keys {
		_, want := model[id]
		if have := c.holds(identityOf(text(strconv.Itoa(id)))); have != want {
			t.Fatalf("key %d is held: %v, want %v", id, have, want)
		}
	}
	if used+c.garbage != len(c.arena) {
		t.Fatalf("%d bytes in use and %d of garbage make %d, the arena has %d", used, c.garbage, used+c.garbage, len(c.arena))
	}
}

// TestChunkAgainstModel applies random operations to a chunk and to a map.
func TestChunkAgainstModel(t *testing.T) {
	for _, size := range []struct {
		name                string
		rounds, steps, keys int
		budget              int
	}{
		{"few keys, compacted often", 60, 400, 5, 1 << 10},
		{"many keys", 3, 6000, 5000, 1 << 20},
		{"never compacted", 20, 400, 30, 1 << 20},
	} {
		t.Run(size.name, func(t *testing.T) {
			random := testRandom(t)
			for range size.rounds {
				runChunkModel(t, random, size.steps, size.keys, size.budget)
			}
		})
	}
}

func runChunkModel(t *testing.T, random *rand.Rand, steps, keys, budget int) {
	c := newTestChunk(testPlan("v", "big"), budget)
	model := make(map[int]modelRow)
	scanned := random.IntN(keys)
	for id := range scanned { // the query's rows
		row := modelRow{fmt.Sprint("v", id), strings.Repeat("b", id%7)}
		c.add(tuple{text(strconv.Itoa(id)), row.value(0), row.value(1)})
		model[id] = row
	}
	checkChunk(t, c, model, keys)
	for step := range steps {
		id := random.IntN(keys)
		key := text(strconv.Itoa(id))
		old, exists := model[id]
		switch what := random.IntN(100); {
		case what < 60:
			row := modelRow{fmt.Sprint("w", step), strings.Repeat("B", random.IntN(20))}
			var fill tuple
			if random.IntN(4) == 0 {
				fill = tuple{key, text("f0"), text("f1")}
				if random.IntN(3) == 0 {
					fill[2] = unchanged
				}
			}
			for i := range row {
				if random.IntN(4) == 0 {
					row[i] = "?"
				}
			}
			c.put(identityOf(key), tuple{key, row.value(0), row.value(1)}, fill, false)
			for i := range row {
				if row[i] == "?" && fill != nil && fill[i+1].kind != valueUnchanged {
					row[i] = string(fill[i+1].data)
				} else if row[i] == "?" && exists {
					row[i] = old[i]
				}
			}
			model[id] = row
			c.compact()
		case what < 99:
			c.remove(identityOf(key))
			delete(model, id)
		default:
			c.clearRows()
			clear(model)
		}
		if c.spoiled != "" {
			t.Fatalf("step %d: spoiled with %d rows live: %s", step, c.live, c.spoiled)
		}
		if keys < 100 || step%997 == 0 {
			checkChunk(t, c, model, keys)
		}
	}
	checkChunk(t, c, model, keys)
	if bound := 3*budget + 1<<10; keys < 100 && len(c.arena) > bound {
		t.Fatalf("the arena has %d bytes, want at most %d", len(c.arena), bound)
	}
}

// A row that comes and goes is the workload that makes most garbage.
func TestChunkCompactsWhatComesAndGoes(t *testing.T) {
	c := newTestChunk(testPlan("v"), 1<<10)
	id := identityOf(text("1"))
	for i := range 10_000 {
		c.put(id, tuple{text("1"), text(fmt.Sprint("value ", i))}, nil, false)
		c.compact()
		if i%2 == 0 {
			c.remove(id)
		}
	}
	checkRow(t, c, "1", "value 9999")
	if len(c.arena) > 3<<10 {
		t.Errorf("an arena of %d bytes for one row", len(c.arena))
	}
}

func checkRow(t *testing.T, c *chunk, id, want string) {
	t.Helper()
	i := c.find(identityOf(text(id)))
	if i < 0 || c.rows[i].dead {
		t.Fatalf("no row of key %s", id)
	}
	if have := string(c.row(nil, i)[1].data); have != want {
		t.Errorf("row of key %s has %.60q, want %.60q", id, have, want)
	}
}

func TestChunkOutgrown(t *testing.T) {
	c := newTestChunk(testPlan("v"), 100)
	large := strings.Repeat("x", 150)
	// One row may be as large as it is: a chunk of one row cannot become smaller.
	for range 5 {
		c.put(identityOf(text("1")), tuple{text("1"), text(large)}, nil, false)
		c.compact()
	}
	if c.spoiled != "" || c.live != 1 {
		t.Fatalf("one row spoiled its chunk: %q", c.spoiled)
	}
	c.put(identityOf(text("2")), tuple{text("2"), text(large)}, nil, false)
	c.compact()
	if want := "the changes patched into it outgrew its budget"; c.spoiled != want {
		t.Errorf("spoiled: %q, want %q", c.spoiled, want)
	}
	if c.arena != nil || c.rows != nil || c.index != nil || c.live != 0 {
		t.Error("a spoiled chunk keeps its memory")
	}
	if c.holds(identityOf(text("1"))) {
		t.Error("a spoiled chunk holds a row")
	}
	c.spoil("another reason")
	if c.spoiled != "the changes patched into it outgrew its budget" {
		t.Error("the first reason is the one to tell")
	}
}

func TestChunkIndexGrows(t *testing.T) {
	c := newTestChunk(testPlan(), 1<<30)
	sizes := 0
	for i := range 20_000 {
		before := len(c.index)
		c.add(tuple{text(strconv.Itoa(i))})
		if len(c.index) != before {
			sizes++
		}
		if len(c.index)&(len(c.index)-1) != 0 || len(c.rows)*4 > len(c.index)*3 {
			t.Fatalf("%d rows in an index of %d places", len(c.rows), len(c.index))
		}
	}
	if sizes > 8 {
		t.Errorf("the index was built %d times", sizes)
	}
	for i := range 20_000 {
		if row := c.find(identityOf(text(strconv.Itoa(i)))); row != i {
			t.Fatalf("key %d found at row %d", i, row)
		}
	}
	if c.find(identityOf(text("20000"))) != -1 || newTestChunk(testPlan(), 1).find(nil) != -1 {
		t.Error("a key that is not there was found")
	}
}

// The end of a chunk that is stopped in a run of equal keys is the key ahead of the run, wherever rows were left out.
func TestChunkEnds(t *testing.T) {
	type scannedRow struct {
		id   string
		keep bool
	}
	for _, tc := range []struct {
		name    string
		rows    []scannedRow
		ties    bool
		live    string
		end     string
		wantErr string
	}{
		{"unique", []scannedRow{{"1", true}, {"2", true}}, false, "1 2", "2", ""},
		{"unique, last filtered", []scannedRow{{"1", true}, {"2", false}}, false, "1", "2", ""},
		{"ties", []scannedRow{{"1", true}, {"2", true}, {"2", true}}, true, "1", "1", ""},
		{"ties, several of the end", []scannedRow{{"1", true}, {"1", true}, {"2", true}}, true, "1 1", "1", ""},
		{"ties, filtered in the run", []scannedRow{{"1", true}, {"2", false}, {"2", true}}, true, "1", "1", ""},
		{"ties, all of the run filtered", []scannedRow{{"1", true}, {"2", false}, {"2", false}}, true, "1", "1", ""},
		{"ties, filtered ahead", []scannedRow{{"1", false}, {"2", true}}, true, "", "1", ""},
		{
			"one key",
			[]scannedRow{{"7", true}, {"7", true}},
			true, "", "",
			"more rows than fit a chunk have one key: choose a collection key that tells rows apart (the key is [7])",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newTestChunk(testPlan(), 1<<20)
			for _, r := range tc.rows {
				first := len(c.rows)
				if r.keep {
					c.add(tuple{text(r.id)})
				} else {
					c.filtered++
				}
				c.endAt(tuple{text(r.id)}, tc.ties, first)
			}
			err := c.shorten(&scanQuery{ties: tc.ties}, nil)
			if errorText(err) != tc.wantErr {
				t.Fatalf("error %q, want %q", errorText(err), tc.wantErr)
			}
			if err != nil {
				return
			}
			var live []string
			for i, r := range c.rows {
				if !r.dead {
					live = append(live, string(c.row(nil, i)[0].data))
				}
			}
			if have := strings.Join(live, " "); have != tc.live || c.live != len(live) {
				t.Errorf("rows %q (%d), want %q", have, c.live, tc.live)
			}
			if have := string(c.end[0].data); have != tc.end || !c.stopped {
				t.Errorf("ends at %s, want %s", have, tc.end)
			}
		})
	}
}

// TestChunkAllocations: no step allocates per row once a chunk's memory is there.
func TestChunkAllocations(t *testing.T) {
	const rows = 1000
	c := newTestChunk(testPlan("v", "big"), 1<<30)
	ids := make([][]byte, rows)
	tuples := make([]tuple, rows)
	for i := range rows {
		ids[i] = identityOf(text(strconv.Itoa(i)))
		tuples[i] = tuple{text(strconv.Itoa(i)), text("some value"), text(strings.Repeat("x", 100))}
	}
	c.arena = make([]byte, 0, 64<<20)
	c.rows = make([]chunkRow, 0, 2*rows)
	c.index = make([]uint32, 4*rows)[:0]
	c.rebuildIndex()
	measure := func(name string, want float64, f func(i int)) {
		t.Helper()
		i := 0
		if have := testing.AllocsPerRun(rows-2, func() { f(i); i++ }); have != want {
			t.Errorf("%s: %v allocations a row, want %v", name, have, want)
		}
	}
	measure("add", 0, func(i int) { c.add(tuples[i]); c.endAt(tuples[i], true, len(c.rows)-1) })
	measure("find", 0, func(i int) { c.find(ids[i]) })
	measure("put", 0, func(i int) { c.put(ids[i], tuples[i], nil, false); c.compact() })
	toast := tuple{tuples[0][0], text("changed"), unchanged}
	measure("put of unchanged TOAST", 0, func(i int) { c.put(ids[i], toast, nil, false) })
	measure("remove and put", 0, func(i int) { c.remove(ids[i]); c.put(ids[i], tuples[i], nil, false) })
	var row tuple
	row = c.row(row, 0)
	measure("row", 0, func(i int) { row = c.row(row, i) })
	snap, set := snapshot{xmin: 5, xmax: 1000, xip: []uint64{5, 6, 7}}, make(xidSet, 0, 2*rows)
	measure("transaction set", 0, func(i int) { set.add(uint32(i)); snap.sees(uint32(i)) })
}

func TestParseCTID(t *testing.T) {
	for _, tc := range []struct {
		in      string
		block   int64
		offset  int
		wantErr string
	}{
		{in: "(0,1)", offset: 1},
		{in: "(4294967294,291)", block: 4294967294, offset: 291},
		{in: "", wantErr: `"" is not a ctid`},
		{in: "()", wantErr: `"()" is not a ctid`},
		{in: "(1)", wantErr: `"(1)" is not a ctid`},
		{in: "(,1)", wantErr: `"(,1)" is not a ctid`},
		{in: "(1,)", wantErr: `"(1,)" is not a ctid`},
		{in: "1,2", wantErr: `"1,2" is not a ctid`},
		{in: "(1,2", wantErr: `"(1,2" is not a ctid`},
		{in: "1,2,3)", wantErr: `"1,2,3)" is not a ctid`},
		{in: "(-1,2)", wantErr: `"(-1,2)" is not a ctid`},
		{in: "(1,-2)", wantErr: `"(1,-2)" is not a ctid`},
		{in: "(1,2,3)", wantErr: `"(1,2,3)" is not a ctid`},
		{in: "(99999999999999999999,1)", wantErr: `"(99999999999999999999,1)" is not a ctid`},
		{in: "(1,99999)", wantErr: `"(1,99999)" is not a ctid`},
	} {
		block, offset, err := parseCTID([]byte(tc.in))
		if errorText(err) != tc.wantErr || block != tc.block || offset != tc.offset {
			t.Errorf("%q: %d, %d, %q, want %d, %d, %q", tc.in, block, offset, errorText(err), tc.block, tc.offset, tc.wantErr)
		}
	}
}

func FuzzParseCTID(f *testing.F) {
	for _, s := range []string{"(0,1)", "(1,2", "(4294967295,65535)", "(,)", "(0x1,1)"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		block, offset, err := parseCTID(in)
		if err != nil {
			return
		}
		if block < 0 || block > 1<<32-1 || offset < 0 || offset > 1<<16-1 {
			t.Fatalf("%q is read as block %d, offset %d", in, block, offset)
		}
		again, place, err := parseCTID(fmt.Appendf(nil, "(%d,%d)", block, offset))
		if err != nil || again != block || place != offset {
			t.Fatalf("%q is read as %d, %d, which is read as %d, %d (%v)", in, block, offset, again, place, err)
		}
	})
}

// ---- sqlAfter

// comparable keys of the model: 0 is NULL, else the number itself. compareNullsLast is ORDER BY's order.
func compareNullsLast(a, b []int) int {
	rank := func(n int) int {
		if n == 0 {
			return 1 << 30
		}
		return n
	}
	for i := range a {
		if a[i] != b[i] {
			return rank(a[i]) - rank(b[i])
		}
	}
	return 0
}

// eachKeyPair calls f for every pair of keys of n columns with values NULL, 1 and 2.
func eachKeyPair(n int, f func(a, b []int)) {
	a, b := make([]int, n), make([]int, n)
	var fill func(i int)
	fill = func(i int) {
		if i == 2*n {
			f(a, b)
			return
		}
		at := &a
		if i >= n {
			at = &b
		}
		for v := range 3 {
			(*at)[i%n] = v
			fill(i + 1)
		}
	}
	fill(0)
}

func keyLiteral(n int) string {
	if n == 0 {
		return "NULL::int"
	}
	return strconv.Itoa(n) + "::int"
}

// eachSQLAfter calls f with every condition the program can build for a pair of keys: a is a row of columns, nullable
// ones or not, or a key of parameters whose NULLs are known; b is a key of parameters.
func eachSQLAfter(n int, f func(condition string, a, b []int)) {
	eachKeyPair(n, func(a, b []int) {
		right := make([]keyTerm, n)
		for i, v := range b {
			right[i] = keyTerm{sql: keyLiteral(v), null: v == 0}
		}
		for nullable := range 1 << n {
			left := make([]keyTerm, n)
			possible := true
			for i, v := range a {
				left[i] = keyTerm{sql: keyLiteral(v), nullable: nullable>>i&1 == 1}
				possible = possible && (v != 0 || left[i].nullable)
			}
			if possible {
				f(sqlAfter(left, right), a, b)
			}
		}
		known := make([]keyTerm, n)
		for i, v := range a {
			known[i] = keyTerm{sql: keyLiteral(v), null: v == 0}
		}
		f(sqlAfter(known, right), a, b)
	})
}

func TestSQLAfter(t *testing.T) {
	column := func(name string, nullable bool) keyTerm { return keyTerm{sql: name, nullable: nullable} }
	param := func(n int, null bool) keyTerm { return keyTerm{sql: fmt.Sprintf("$%d::int", n), null: null} }
	for _, tc := range []struct {
		a, b []keyTerm
		want string
	}{
		{[]keyTerm{column("a", false)}, []keyTerm{param(1, false)}, "(a) > ($1::int)"},
		{
			[]keyTerm{column("a", false), column("b", false)},
			[]keyTerm{param(1, false), param(2, false)},
			"(a, b) > ($1::int, $2::int)",
		},
		{[]keyTerm{column("a", true)}, []keyTerm{param(1, false)}, "(((a IS NOT DISTINCT FROM NULL OR a > $1::int)))"},
		{[]keyTerm{column("a", true)}, []keyTerm{param(1, true)}, "false"},
		{
			[]keyTerm{column("a", true), column("b", false)},
			[]keyTerm{param(1, true), param(2, false)},
			"((a IS NOT DISTINCT FROM NULL AND b > $2::int))",
		},
	} {
		if have := sqlAfter(tc.a, tc.b); have != tc.want {
			t.Errorf("%s, want %s", have, tc.want)
		}
	}
	count := 0
	for n := 1; n <= 3; n++ {
		eachSQLAfter(n, func(condition string, a, b []int) {
			count++
			have, err := evaluateSQL(condition)
			if err != nil {
				t.Fatalf("%s: %v", condition, err)
			}
			if want := compareNullsLast(a, b) > 0; have != want {
				t.Fatalf("%v after %v: %v by %s, want %v", a, b, have, condition, want)
			}
		})
	}
	t.Logf("%d conditions", count)
}

// TestSQLAfterAgainstServer has the server evaluate the same conditions, and decide the order itself.
func TestSQLAfterAgainstServer(t *testing.T) {
	db := newTestDB(t)
	var selects []string
	var wants []bool
	for n := 1; n <= 2; n++ {
		eachSQLAfter(n, func(condition string, a, b []int) {
			selects = append(selects, "coalesce("+condition+", false)")
			wants = append(wants, compareNullsLast(a, b) > 0)
		})
	}
	for at := 0; at < len(selects); at += 500 {
		part := selects[at:min(at+500, len(selects))]
		row := db.query("SELECT array_to_string(ARRAY[" + strings.Join(part, ", ") + "]::text[], ',')")[0][0]
		for i, have := range strings.Split(row, ",") {
			if (have == "true") != wants[at+i] {
				t.Errorf("%s is %s, want %v", part[i], have, wants[at+i])
			}
		}
	}
	if have := db.queryValue("SELECT string_agg(coalesce(v::text, 'null'), ' ' ORDER BY v) FROM unnest(ARRAY[2, NULL, 1]) v"); have != "1 2 null" {
		t.Errorf("the server orders %s", have)
	}
}

// evaluateSQL evaluates the conditions sqlAfter builds over literals, in three-valued logic; NULL counts as false, as it
// does in WHERE.
func evaluateSQL(condition string) (result bool, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	p := &sqlParser{tokens: strings.Fields(strings.NewReplacer("(", " ( ", ")", " ) ", ",", " , ").Replace(condition))}
	v := p.either()
	if p.at != len(p.tokens) {
		return false, fmt.Errorf("%q is left over", p.tokens[p.at:])
	}
	return v == sqlTrue, nil
}

type sqlParser struct {
	tokens []string
	at     int
}

const (
	sqlFalse = iota
	sqlUnknown
	sqlTrue
)

func (p *sqlParser) peek() string {
	if p.at < len(p.tokens) {
		return p.tokens[p.at]
	}
	return ""
}

func (p *sqlParser) accept(token string) bool {
	if p.peek() != token {
		return false
	}
	p.at++
	return true
}

func (p *sqlParser) expect(token string) {
	if !p.accept(token) {
		panic(fmt.Sprintf("want %q, have %q", token, p.peek()))
	}
}

func (p *sqlParser) either() int {
	v := p.both()
	for p.accept("OR") {
		v = max(v, p.both())
	}
	return v
}

func (p *sqlParser) both() int {
	v := p.term()
	for p.accept("AND") {
		v = min(v, p.term())
	}
	return v
}

func (p *sqlParser) term() int {
	switch {
	case p.accept("true"):
		return sqlTrue
	case p.accept("false"):
		return sqlFalse
	case p.peek() != "(":
		return p.comparison([]int{p.literal()})
	}
	if strings.Contains(p.tokens[p.at+1], "::") && (p.tokens[p.at+2] == "," || p.tokens[p.at+2] == ")") {
		return p.comparison(p.row())
	}
	p.expect("(")
	v := p.either()
	p.expect(")")
	return v
}

func (p *sqlParser) row() (values []int) {
	p.expect("(")
	for {
		values = append(values, p.literal())
		if !p.accept(",") {
			p.expect(")")
			return values
		}
	}
}

func (p *sqlParser) literal() int {
	text, ok := strings.CutSuffix(p.peek(), "::int")
	if !ok {
		panic(fmt.Sprintf("%q is no literal", p.peek()))
	}
	p.at++
	if text == "NULL" {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	return n
}

func (p *sqlParser) comparison(left []int) int {
	if p.accept("IS") {
		for token := range strings.FieldsSeq("NOT DISTINCT FROM NULL") {
			p.expect(token)
		}
		if left[0] == 0 {
			return sqlTrue
		}
		return sqlFalse
	}
	greater := p.accept(">")
	if !greater {
		p.expect("=")
	}
	right := []int{}
	if p.peek() == "(" {
		right = p.row()
	} else {
		right = append(right, p.literal())
	}
	for i := range left { // row comparison stops at the first pair that decides or is unknown
		switch {
		case left[i] == 0 || right[i] == 0:
			return sqlUnknown
		case left[i] != right[i] && greater && left[i] > right[i]:
			return sqlTrue
		case left[i] != right[i]:
			return sqlFalse
		}
	}
	if greater {
		return sqlFalse
	}
	return sqlTrue
}

// FuzzChunkRows: what put keeps, row gives back.
func FuzzChunkRows(f *testing.F) {
	f.Add([]byte("some bytes to make rows of"), uint16(300))
	f.Fuzz(func(t *testing.T, data []byte, budget uint16) {
		c := newTestChunk(testPlan("v", "big"), int(budget)+1)
		model := make(map[string]string)
		for len(data) >= 4 {
			op, id := data[0]%4, strconv.Itoa(int(data[1]%16))
			n := min(int(binary.BigEndian.Uint16(data[2:])%512), len(data)-4)
			v := string(data[4 : 4+n])
			data = data[4+n:]
			switch {
			case op == 0:
				c.remove(identityOf(text(id)))
				delete(model, id)
			default:
				c.put(identityOf(text(id)), tuple{text(id), text(v), value{kind: valueNull}}, nil, false)
				model[id] = v
				c.compact()
			}
			if c.spoiled != "" {
				return
			}
		}
		if c.live != len(model) {
			t.Fatalf("%d rows, want %d", c.live, len(model))
		}
		for id, want := range model {
			checkRow(t, c, id, want)
		}
	})
}
