package main

// value_cut_test.go holds rows that are read in pieces to rows held whole: the same in whatever pieces they come, and, where no
// value was cut for its row's sake, documents that are byte for byte those of the whole row. The sizes are small, so that
// every value is near a limit.

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/jackc/pgx/v5/pgtype"
)

// cutColumn is a type whose values are cut, and how random texts of it come about.
type cutColumn struct {
	typ  string
	text func(r *rand.Rand, size int) string
}

var cutColumns = []cutColumn{
	{"int4", func(r *rand.Rand, _ int) string { return fmt.Sprint(r.Int32()) }},
	{"numeric", func(r *rand.Rand, size int) string { return "1" + strings.Repeat("7", size/4) }},
	{"text", randomText},
	{"bytea", func(r *rand.Rand, size int) string { return fmt.Sprintf(`\x%x`, randomText(r, size/2)) }},
	{"json", randomJSON},
	{"_text", func(r *rand.Rand, size int) string { return randomArray(r, size, randomText) }},
	{"_int4", func(r *rand.Rand, size int) string {
		return randomArray(r, size, func(r *rand.Rand, _ int) string { return fmt.Sprint(r.Int32()) })
	}},
	{"_bytea", func(r *rand.Rand, size int) string {
		return randomArray(r, size, func(r *rand.Rand, size int) string { return fmt.Sprintf(`\x%x`, randomText(r, size/2)) })
	}},
	{"_jsonb", func(r *rand.Rand, size int) string { return randomArray(r, size, randomJSON) }},
	{"polygon", func(r *rand.Rand, size int) string {
		points := make([]string, 1+size/8)
		for i := range points {
			points[i] = fmt.Sprintf("(%d,%d.5)", r.IntN(1000), r.IntN(1000))
		}
		return "(" + strings.Join(points, ",") + ")"
	}},
	{"tsmultirange", func(r *rand.Rand, size int) string {
		parts := make([]string, 1+size/48)
		for i := range parts {
			parts[i] = fmt.Sprintf(`["%d-01-01 00:00:00","%d-01-01 00:00:00")`, 2000+i%1000, 4000+i%1000)
		}
		return "{" + strings.Join(parts, ",") + "}"
	}},
}

func randomText(r *rand.Rand, size int) string {
	characters := []string{"a", "B", "7", `"`, `\`, ",", "{", "}", "é", "€", "𐍈", "\n", " "}
	var s strings.Builder
	for s.Len() < size {
		s.WriteString(characters[r.IntN(len(characters))])
	}
	if size > 0 && r.IntN(8) == 0 { // as a SQL_ASCII database may have it
		s.WriteString("\xa0\xa0\xa0\xa0\xa0"[:1+r.IntN(5)])
	}
	return s.String()
}

func randomJSON(r *rand.Rand, size int) string {
	return `{"a": "` + strings.Repeat("ü", size/2) + `"}`
}

// randomArray is an array of size bytes or so, as array_out writes it, of one dimension or two.
func randomArray(r *rand.Rand, size int, element func(*rand.Rand, int) string) string {
	quote := func(text string) string {
		if strings.ContainsAny(text, "{},\\\" \n") || text == "" || strings.EqualFold(text, "null") {
			return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
		}
		return text
	}
	count := r.IntN(12)
	list := func() string {
		var elements []string
		for range count {
			if r.IntN(8) == 0 {
				elements = append(elements, "NULL")
			} else {
				elements = append(elements, quote(element(r, r.IntN(2*size/(count+1)+2))))
			}
		}
		return "{" + strings.Join(elements, ",") + "}"
	}
	switch {
	case count == 0:
		return "{}"
	case r.IntN(3) == 0:
		return "[0:1]={" + list() + "," + list() + "}"
	}
	return list()
}

// randomRow is a row of random columns and their classes.
func randomRow(t testing.TB, r *rand.Rand, c *typeCatalog, size int) (oids []uint32, row tuple, classes []cutClass) {
	for range 1 + r.IntN(6) {
		column := cutColumns[r.IntN(len(cutColumns))]
		oid := typeByName(t, c, column.typ)
		v := value{kind: valueText, data: []byte(column.text(r, r.IntN(size)))}
		switch r.IntN(12) {
		case 0:
			v = value{kind: valueNull}
		case 1:
			v = value{kind: valueUnchanged}
		}
		class := c.cutClass(oid, false)
		class.key = r.IntN(10) == 0
		oids, row, classes = append(oids, oid), append(row, v), append(classes, class)
	}
	return oids, row, classes
}

// dataRow is the row as a query's result has it.
func dataRow(row tuple) []byte {
	raw := binary.BigEndian.AppendUint16(nil, uint16(len(row)))
	for _, v := range row {
		if v.kind != valueText {
			raw = binary.BigEndian.AppendUint32(raw, ^uint32(0))
			continue
		}
		raw = binary.BigEndian.AppendUint32(raw, uint32(len(v.data)))
		raw = append(raw, v.data...)
	}
	return raw
}

// rowSource is where a row is read from, of which it is all, through a buffer of room bytes.
type rowSource struct {
	in         io.Reader
	size, room int
	kinds      bool // as in rowCut
}

// readRow reads the row.
func readRow(t testing.TB, from rowSource, rule cutRule, classes []cutClass) (kept []byte, level int) {
	t.Helper()
	r := rowCut{
		pieces: pieces{in: from.in, left: from.size, room: make([]byte, from.room)}, rule: rule, kinds: from.kinds, dst: []byte("before"),
	}
	level, err := r.row(classes)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.have)+r.left != 0 || !bytes.HasPrefix(r.dst, []byte("before")) {
		t.Fatalf("%d bytes left over; %.20q", len(r.have)+r.left, r.dst)
	}
	return r.dst[len("before"):], level
}

// randomPieces returns at most so many bytes a read.
type randomPieces struct {
	r    *rand.Rand
	rest []byte
	most int
}

func (p *randomPieces) Read(dst []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(dst[:min(len(dst), 1+p.r.IntN(p.most))], p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// checkCutRow cuts one random row in one piece, in random ones and byte by byte.
func checkCutRow(t testing.TB, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	c := testCatalog()
	rule := cutRule{value: 128 << r.IntN(3)}
	rule.bound = rule.value * (2 + r.IntN(12))
	oids, row, classes := randomRow(t, r, c, 4*rule.value)
	for _, kinds := range []bool{true, false} {
		raw := dataRow(row)
		if kinds {
			raw = appendTuple(nil, row)
		}
		want, level := readRow(t, rowSource{bytes.NewReader(raw), len(raw), len(raw) + 8, kinds}, rule, classes)
		most := 1 + r.IntN(300)
		for name, in := range map[string]io.Reader{
			"random pieces": &randomPieces{r, raw, most},
			"single bytes":  iotest.OneByteReader(bytes.NewReader(raw)),
		} {
			if have, l := readRow(t, rowSource{in, len(raw), 8 + r.IntN(200), kinds}, rule, classes); !bytes.Equal(have, want) || l != level {
				t.Fatalf("seed %d, kinds %v: %s give level %d and\n%q, in one piece level %d and\n%q\nof %q", seed, kinds, name, l, have, level, want, raw)
			}
		}
		if !kinds {
			continue
		}
		kept, rest, err := decodeTuple(nil, want)
		if err != nil || len(rest) > 0 || len(kept) != len(row) {
			t.Fatalf("seed %d: what is kept does not decode: %v, %d bytes left over", seed, err, len(rest))
		}
		k := keptRow{row, kept, oids, classes, rule, level}
		k.check(t, seed, c)
	}
}

// keptRow is what is kept of a row of some types, by a rule.
type keptRow struct {
	row, kept tuple
	oids      []uint32
	classes   []cutClass
	rule      cutRule
	level     int
}

// check compares what is kept of the row with it.
func (k *keptRow) check(t testing.TB, seed uint64, c *typeCatalog) {
	t.Helper()
	row, rule, level := k.row, k.rule, k.level
	size, free := 0, 0
	for i, v := range k.kept {
		size += len(v.data)
		if class := k.classes[i]; class.key || class.kind == cutNever || class.element == cutNever || class.element == cutList {
			free += len(v.data)
		}
		if v.kind != row[i].kind {
			t.Fatalf("seed %d: column %d is %c, was %c", seed, i, v.kind, row[i].kind)
		}
		if v.kind != valueText {
			continue
		}
		for _, shape := range []encodeOptions{{flattenArrays: true}, {}} {
			shape.limit = rule.value
			encode := c.encoder(k.oids[i], -1, shape)
			have, err := encode(nil, v.data)
			if err != nil {
				t.Fatalf("seed %d, level %d: the kept %q of %q: %v", seed, level, v.data, row[i].data, err)
			}
			// At level 0 nothing is lost that a document would have.
			want, err := encode(nil, row[i].data)
			if err != nil {
				t.Fatalf("seed %d: %q: %v", seed, row[i].data, err)
			}
			if level == 0 && !bytes.Equal(have, want) {
				t.Fatalf("seed %d, level 0: the document of the kept value has\n%s, of the whole value\n%s\n(%q of %q)", seed, have, want, v.data, row[i].data)
			}
		}
	}
	if size-free > rule.bound && level < rule.levels() {
		t.Fatalf("seed %d: %d bytes kept at level %d, the bound is %d", seed, size, level, rule.bound)
	}
	if level > 0 {
		again := slices.Clone(row)
		cutTuple(again, k.classes, rule, level)
		for i := range again {
			if k.classes[i].kind != cutArray && !bytes.Equal(again[i].data, k.kept[i].data) {
				t.Fatalf("seed %d, level %d: cut at once %q, in pieces %q", seed, level, again[i].data, k.kept[i].data)
			}
		}
	}
}

func TestCutRows(t *testing.T) {
	rows := uint64(2000)
	if testing.Short() {
		rows = 200
	}
	for seed := range rows {
		checkCutRow(t, seed)
	}
}

func FuzzCutRows(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) { checkCutRow(t, seed) })
}

// limitMemory makes the budget one of a container with that limit.
func limitMemory(t testing.TB, limit int64) {
	t.Helper()
	old := budget
	t.Cleanup(func() { budget = old })
	budget = newMemoryBudget(limit)
}

// Changes too large for the receive buffer arrive cut, in the order of the stream, between messages that are not.
func TestReceiveCut(t *testing.T) {
	checkGoroutines(t)
	c := testCatalog()
	random := testRandom(t)
	var classes []cutClass
	for _, typ := range []string{"int4", "text", "bytea", "json", "_text"} {
		classes = append(classes, c.cutClass(typeByName(t, c, typ), false))
	}
	classes[0].key = true
	wide := func(characters string, n int) string { return strings.Repeat(characters, n/len(characters)) }
	old := []string{"t1", "t" + wide("€", truncateAt+1000), `t\x` + wide("61", 2*truncateAt+100), `t"` + wide("j", truncateAt) + `"`, "tNULL"}
	row := []string{"t1", "u", "n", "t1", "t{" + wide("a", truncateAt+10) + ",b}"}
	changes := []string{
		updateText(testOID, "O", old, row),
		deleteText(testOID, "O", old...),
		insertText(testOID+1, row...), // of a relation that is not captured
	}
	cut := func(t *testing.T, change string) string {
		if change[1:5] != u32(testOID) {
			return change[:5] + "N" + rawTuple("n", "u", "n", "n", "n")
		}
		rest := change[5:]
		kept := change[:5]
		for rest != "" {
			decoded, left, err := decodeTuple(nil, []byte(rest[1:]))
			if err != nil {
				t.Fatal(err)
			}
			raw := appendTuple(nil, decoded)
			text, level := readRow(t, rowSource{strings.NewReader(string(raw)), len(raw), len(raw), true}, budget.cutRule(), classes)
			if level != 0 {
				t.Errorf("level %d", level)
			}
			kept += rest[:1] + string(text)
			rest = string(left)
		}
		return kept
	}
	var stream []byte
	var want []string
	for i, change := range changes {
		at := lsn(10 * i)
		stream = append(stream, xlogData(at, "Bsmall")...)
		stream = append(stream, xlogData(at+1, change)...)
		stream = append(stream, xlogData(at+2, "Csmall")...)
		want = append(want, "Bsmall", cut(t, change), "Csmall")
	}
	for name, most := range map[string]int{"large pieces": 1 << 20, "small pieces": 5000} {
		t.Run(name, func(t *testing.T) {
			s := pipeSession(&scriptedConn{rest: stream, piece: func() int { return 1 + random.IntN(most) }})
			ended := make(chan error, 1)
			go func() { ended <- s.receive(t.Context()) }()
			for i := 0; i < len(want); {
				m, err := s.next(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if m.kind == '?' {
					if string(m.data) != want[i][:5] || m.start != lsn(10*(i/3)+1) {
						t.Errorf("message %d: asked for %q at %s", i, m.data, m.start)
					}
					if i%3 != 1 {
						t.Errorf("message %d of %d bytes is asked for", i, len(want[i]))
					}
					answer := classes
					if string(m.data[1:]) != u32(testOID) {
						answer = slices.Repeat([]cutClass{{kind: cutDrop}}, 5)
					}
					s.answer(answer)
					continue
				}
				if string(m.data) != want[i] {
					t.Fatalf("message %d has %d bytes, %.30q…, want %d, %.30q…", i, len(m.data), m.data, len(want[i]), want[i])
				}
				i++
			}
			if _, err := s.next(t.Context()); errorText(err) != "receive the replication stream: EOF" {
				t.Errorf("at the end: %v", err)
			}
			if cap(s.current0()) > 2*budget.message {
				t.Error("a buffer of a large message is kept")
			}
			<-ended
		})
	}
}

// current0 is the largest buffer at rest.
func (s *replication) current0() (largest []byte) {
	for range len(s.free) {
		b := <-s.free
		if cap(b.buf) > cap(largest) {
			largest = b.buf
		}
		s.free <- b
	}
	return largest
}

// What is wrong with a change that is read in pieces is told with its relation; a session that ends while the change waits
// for an answer ends at once.
func TestReceiveCutErrors(t *testing.T) {
	checkGoroutines(t)
	text := "t" + strings.Repeat("x", truncateAt+1)
	good := string(xlogData(1, insertText(testOID, text)))
	lying := strings.Replace(good, u32(truncateAt+1), u32(truncateAt+2), 1)
	const receive = "receive the replication stream: "
	change := fmt.Sprintf("change of relation %d in %d bytes: ", testOID, len(good))
	for _, tc := range []struct{ name, stream, want string }{
		{"cut off in the row", good[:truncateAt/2], receive + change + "EOF"},
		{"a value beyond the message", lying, receive + change + "column 1 of 8388610 bytes, of which the message has 8388609"},
		{"no tuple", strings.Replace(good, "@\x00N", "@\x00X", 1), receive + change + "want tuple mark 'K', 'O' or 'N', have 'X'"},
		{
			"too large for anything else", "d" + u32(uint32(budget.row)) + "w" + strings.Repeat("\x00", 24) + "M" + strings.Repeat("\x00", 20),
			fmt.Sprintf(receive+"frame 'd' of %d bytes that is no change of a row", budget.row+1),
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := pipeSession(&scriptedConn{rest: []byte(tc.stream), piece: func() int { return 100_000 }})
			go func() { _ = s.receive(t.Context()) }()
			for {
				m, err := s.next(t.Context())
				if m.kind == '?' {
					s.answer([]cutClass{{kind: cutText}})
					continue
				}
				if errorText(err) != tc.want {
					t.Errorf("%v, want %s", err, tc.want)
				}
				break
			}
		})
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	s := pipeSession(&scriptedConn{rest: []byte(good), piece: func() int { return 100_000 }})
	ended := make(chan error, 1)
	go func() { ended <- s.receive(ctx) }()
	if m, err := s.next(ctx); err != nil || m.kind != '?' {
		t.Fatalf("%c, %v", m.kind, err)
	}
	cancel(errTerminated)
	if err := <-ended; err != errTerminated {
		t.Errorf("without an answer: %v", err)
	}
}

// The filter of query connections, whatever the pieces: rows beyond the budget are cut, as a whole row would be, and all
// other bytes pass.
func TestRowFilter(t *testing.T) {
	limitMemory(t, 256<<20)
	random := testRandom(t)
	c := testCatalog()
	var classes []cutClass
	for _, typ := range []string{"int4", "text", "text"} {
		classes = append(classes, c.cutClass(typeByName(t, c, typ), false))
	}
	message := func(kind byte, body []byte) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body))), body...)
	}
	row := func(sizes ...int) tuple {
		row := tuple{{kind: valueText, data: []byte("42")}}
		for _, n := range sizes {
			row = append(row, value{kind: valueText, data: bytes.Repeat([]byte("é"), n/2)})
		}
		return row
	}
	small, large, huge := row(10, 2_000), row(truncateAt+2, 10), row(truncateAt, 2*truncateAt)
	huge = append(append(huge, huge[1:]...), huge[1:]...)
	notice := message('N', bytes.Repeat([]byte("n"), 5_000_000)) // large, but no row
	cut := func(row tuple) []byte {
		raw := dataRow(row)
		kept, level := readRow(t, rowSource{bytes.NewReader(raw), len(raw), len(raw), false}, budget.cutRule(), classes)
		if level > 0 {
			binary.BigEndian.PutUint16(kept, uint16(len(row)+1))
			kept = append(kept, 0, 0, 0, 1, '0'+byte(level))
		}
		return message('D', kept)
	}
	for range 2 { // the classes of the columns beyond those of the query
		classes = append(classes, classes[1:]...)
	}
	var stream, want []byte
	for _, m := range [][]byte{message('T', []byte("columns")), message('D', dataRow(small)), notice, message('Z', nil)} {
		stream, want = append(stream, m...), append(want, m...)
	}
	for _, r := range []tuple{large, small, huge, large} {
		stream, want = append(stream, message('D', dataRow(r))...), append(want, message('D', dataRow(r))...)
		if len(dataRow(r)) > budget.message {
			want = append(want[:len(want)-len(message('D', dataRow(r)))], cut(r)...)
		}
	}
	stream, want = append(stream, message('C', []byte("SELECT"))...), append(want, message('C', []byte("SELECT"))...)
	for name, most := range map[string]int{"large pieces": 1 << 20, "small pieces": 4_000} {
		t.Run(name, func(t *testing.T) {
			in := &randomPieces{random, stream, most}
			// Heads come in parts too.
			f := &rowFilter{in: io.MultiReader(iotest.OneByteReader(io.LimitReader(in, 100)), in), classes: classes, rule: budget.cutRule()}
			var have []byte
			p := make([]byte, 1<<16)
			for {
				n, err := f.Read(p[:1+random.IntN(len(p))])
				have = append(have, p[:n]...)
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(have, want) {
				t.Errorf("%d bytes, want %d", len(have), len(want))
			}
		})
	}
	t.Run("faults", func(t *testing.T) {
		lying := message('D', append([]byte{0, 1}, append([]byte{0, 0x7f, 0xff, 0xff}, make([]byte, 5_000_000)...)...))
		behind := message('D', append([]byte{0, 0}, make([]byte, 5_000_000)...))
		for text, raw := range map[string][]byte{
			"a row of 5000011 bytes: column 1 of 8388607 bytes, of which the message has 5000000": lying,
			"a row of 5000007 bytes: 5000000 bytes behind its last column":                        behind,
			"a row of 5000008 bytes: EOF": append(message('D', make([]byte, 5_000_003))[:5], 0, 1, 0, 0),
		} {
			f := &rowFilter{in: bytes.NewReader(raw), classes: classes, rule: budget.cutRule()}
			if _, err := f.Read(make([]byte, 8192)); errorText(err) != text {
				t.Errorf("%v, want %s", err, text)
			}
		}
	})
}

// A wide text is written in parts like one, and given up where its document has become too large.
func TestWideStrings(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 40 {
		text := []byte(randomText(r, wideText-8+r.IntN(3*wideText)))
		want := appendJSONString([]byte("ahead"), text)
		if have := appendWideString([]byte("ahead"), text, 1<<30); !bytes.Equal(have, want) {
			t.Fatalf("%d bytes, want %d", len(have), len(want))
		}
		if have := appendWideString([]byte("ahead"), text, wideText/2); len(have) > 3*wideText {
			t.Errorf("%d bytes of a document of %d", len(have), wideText/2)
		}
	}
}

// A document that is too large has its longest values cut, whatever they are; it never takes more than it may, and what
// cannot be cut is an error that names the key.
func TestDocumentBudget(t *testing.T) {
	limitMemory(t, 256<<20)
	wide := strings.Repeat("w", 7<<20)
	for _, tc := range []struct {
		name   string
		types  []uint32
		values []string
		want   []int // bytes of each value's JSON
	}{
		{"fits", []uint32{pgtype.TextOID, pgtype.TextOID}, []string{wide, wide}, []int{7<<20 + 2, 7<<20 + 2}},
		{"three texts", []uint32{pgtype.TextOID, pgtype.TextOID, pgtype.TextOID}, []string{wide, wide, wide}, []int{4<<20 + 2, 4<<20 + 2, 4<<20 + 2}},
		{"escapes", []uint32{pgtype.TextOID, pgtype.TextOID}, []string{strings.Repeat("\x01", 7<<20), "x"}, []int{6*2<<20 + 2, 3}},
		{"an array", []uint32{pgtype.Int4ArrayOID, pgtype.TextOID}, []string{"{" + strings.Repeat("1234567,", 3<<20) + "1}", "x"}, []int{4<<20 + 29, 3}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			columns := []relationColumn{{name: "id", typeOID: pgtype.Int4OID, typmod: -1, key: true}}
			row := []string{"t7"}
			for i, oid := range tc.types {
				columns = append(columns, relationColumn{name: fmt.Sprint("v", i), typeOID: oid, typmod: -1})
				row = append(row, "t"+tc.values[i])
			}
			table := testTable('d')
			table.columns = table.columns[:1]
			for i, column := range columns[1:] {
				table.columns = append(table.columns, newTestColumn(i+2, column))
			}
			c := newTestCapture(t, table, modeAutomatic).activeNow()
			c.describeTable()
			if err := c.send(beginText(1<<40, 7), insertText(testOID, row...)); err != nil {
				t.Fatal(err)
			}
			if err := c.out.flush(); err != nil {
				t.Fatal(err)
			}
			documents := parseOutput(t, c.sink.Bytes())
			var have map[string]json.RawMessage
			if err := json.Unmarshal([]byte(documents[len(documents)-1].doc), &have); err != nil {
				t.Fatal(err)
			}
			for i, want := range tc.want {
				if n := len(have[fmt.Sprint("v", i)]); n != want {
					t.Errorf("value %d has %d bytes of JSON, want %d", i, n, want)
				}
			}
			if cap(c.out.buf) > outputMost {
				t.Errorf("a buffer of %d bytes is kept", cap(c.out.buf))
			}
		})
	}
}

func newTestColumn(attnum int, c relationColumn) column {
	return column{attnum: int16(attnum), name: c.name, typeOID: c.typeOID, typmod: c.typmod}
}

// A value is left unfinished where its document has become too large: at once, also within an element of an array, and not before.
func TestUnfinishedValues(t *testing.T) {
	if testing.Short() {
		t.Skip("does one thing at a time, in many cases")
	}
	controls := strings.Repeat("\x01", 3*wideText)
	path := "((1e+300,1)" + strings.Repeat(",(1.5,-2)", 1<<12) + ")"
	for name, c := range map[string]struct {
		oid   uint32
		text  string
		slack int // of a text, a part of it; of a path, a number
	}{
		"text":         {pgtype.TextOID, controls, 6 * wideText},
		"text[]":       {pgtype.TextArrayOID, "{a," + controls + "," + controls + "}", 6 * wideText},
		"quoted text":  {pgtype.TextArrayOID, `{a,"` + controls + `,","` + controls + `"}`, 6 * wideText},
		"escaped text": {pgtype.TextArrayOID, `{a,"\"` + controls + `","\\` + controls + `"}`, 6 * wideText},
		"int4range":    {pgtype.Int4rangeOID, controls, 6 * wideText},
		"bytea":        {pgtype.ByteaOID, `\x` + strings.Repeat("0a", 1<<16), 8},
		"bytea[]":      {pgtype.ByteaArrayOID, `{"\\x` + strings.Repeat("0a", 1<<16) + `","\\x` + strings.Repeat("0a", 1<<16) + `"}`, 8},
		"path":         {pgtype.PathOID, path, 400},
		"path[]":       {1019, `{"` + path + `","` + path + `"}`, 400},
	} {
		for _, shape := range []encodeOptions{{flattenArrays: true}, {multidimensional: true}, {}} {
			var end int
			shape.end = &end
			encode := testCatalog().encoder(c.oid, -1, shape)
			const ahead = 10
			end = 1 << 40
			whole, err := encode(make([]byte, ahead), []byte(c.text))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for _, end = range []int{ahead, ahead + 1, 1000, len(whole) / 3, len(whole)/2 + 1, len(whole) - 100, len(whole) - 1, len(whole)} {
				got, err := encode(make([]byte, ahead), []byte(c.text))
				switch {
				case err != nil:
					t.Errorf("%s up to %d: %v", name, end, err)
				case end == len(whole) && !bytes.Equal(got, whole):
					t.Errorf("%s, which fits %d bytes, is cut to %d", name, end, len(got))
				case end < len(whole) && (len(got) <= end || len(got) > end+c.slack+40):
					t.Errorf("%s up to %d has %d bytes", name, end, len(got))
				}
			}
		}
	}
}
