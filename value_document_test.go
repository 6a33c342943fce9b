package main

// value_document_test.go compares documents with what encoding/json makes of the same row, as JSON values; the order of keys,
// which is byte order, and the absence of allocations are looked at apart.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgtype"
)

// documentPlan is a plan of text columns, but for those called int… and flag….
func documentPlan(o planOptions, columns ...string) *plan {
	var shape []relationColumn
	for _, name := range columns {
		c := relationColumn{name: name, typeOID: pgtype.TextOID, typmod: -1}
		switch {
		case strings.HasPrefix(name, "int"):
			c.typeOID = pgtype.Int8OID
		case strings.HasPrefix(name, "flag"):
			c.typeOID = pgtype.BoolOID
		case strings.HasPrefix(name, "real"):
			c.typeOID = pgtype.Float8OID
		}
		shape = append(shape, c)
	}
	o.types = newTypeCatalog()
	if o.settings == nil {
		o.settings = &settings{}
	}
	if o.schema == "" {
		o.schema, o.table = "public", "t"
	}
	return newPlan(shape, o)
}

// referenceDocument is the document as a map, made without a plan.
func referenceDocument(p *plan, o planOptions, from *provenance, d *document) map[string]any {
	fields := func(t, fallback tuple, keysOnly bool) map[string]any {
		doc := make(map[string]any)
		for i, c := range p.columns {
			v := t[i]
			if v.kind == valueUnchanged && fallback != nil {
				v = fallback[i]
			}
			switch {
			case c.name == "_meta", v.kind == valueUnchanged, v.kind == valueNull && keysOnly:
			case v.kind == valueNull:
				doc[c.name] = nil
			case c.typeOID == pgtype.Int8OID, c.typeOID == pgtype.Float8OID && !slices.Contains(o.collectionKey, c.name):
				doc[c.name] = json.Number(v.data)
			case c.typeOID == pgtype.BoolOID:
				doc[c.name] = string(v.data) == "t"
			default:
				doc[c.name] = string(v.data)
			}
		}
		return doc
	}
	source := map[string]any{"schema": "public", "table": "t", "loc": from.loc}
	if from.snapshot {
		source["snapshot"] = true
	} else {
		source["ts_ms"] = from.tsMillis
		if o.txid {
			source["txid"] = from.xid
		}
	}
	if o.settings != nil && o.settings.sourceTag != "" {
		source["tag"] = o.settings.sourceTag
	}
	meta := map[string]any{"op": string(d.op), "source": source}
	fallback := d.before
	if d.beforeKeysOnly {
		fallback = nil
	}
	if d.before != nil {
		meta["before"] = fields(d.before, nil, d.beforeKeysOnly)
	}
	doc := fields(d.row, fallback, d.keysOnly)
	doc["_meta"] = meta
	return doc
}

func decodeNumbers(t testing.TB, doc []byte) (decoded any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	if err := d.Decode(&decoded); err != nil {
		t.Fatalf("%s: %v", doc, err)
	}
	return decoded
}

func checkDocument(t testing.TB, p *plan, o planOptions, from *provenance, d *document) {
	t.Helper()
	have, err := p.appendDocument([]byte("ahead"), from, d)
	if err != nil {
		t.Fatal(err)
	}
	have, ok := bytes.CutPrefix(have, []byte("ahead"))
	if !ok {
		t.Fatalf("%s: what stood ahead is gone", have)
	}
	want, err := json.Marshal(referenceDocument(p, o, from, d))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(decodeNumbers(t, have), decodeNumbers(t, want)) {
		t.Fatalf("document\n%s, want\n%s", have, want)
	}
	checkKeyOrder(t, have)
}

// checkKeyOrder: the properties of the row and of before come in byte order of their names, each once.
func checkKeyOrder(t testing.TB, doc []byte) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(doc))
	var names []string
	var inMeta bool
	for depth := 0; ; {
		token, err := d.Token()
		if err != nil {
			break
		}
		switch token := token.(type) {
		case json.Delim:
			if token == '{' || token == '[' {
				depth++
			} else {
				depth--
			}
			inMeta = inMeta && depth > 1
		case string:
			if depth == 1 && !inMeta {
				names = append(names, token)
				if token == metaColumn {
					inMeta = true
					continue
				}
				if _, err := d.Token(); err != nil { // its value
					t.Fatal(err)
				}
			}
		}
	}
	if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Fatalf("%s: properties %q", doc, names)
	}
}

func TestDocumentExamples(t *testing.T) {
	stream := provenance{tsMillis: 1700000000123, loc: [3]int64{10, 20, 30}, xid: 4000000000}
	backfill := provenance{snapshot: true, loc: [3]int64{-1, 5, 0}}
	row := testTuple
	for _, tc := range []struct {
		name       string
		columns    []string
		options    planOptions
		from       provenance
		row        tuple
		keysOnly   bool
		before     tuple
		beforeKeys bool
		want       string
	}{
		{
			name: "backfill", columns: []string{"int", "b"}, from: backfill, row: row("t1", "tx"),
			want: `{"_meta":{"op":"c","source":{"schema":"public","snapshot":true,"table":"t","loc":[-1,5,0]}},"b":"x","int":1}`,
		},
		{
			name: "names around _meta", columns: []string{"b", "Z", "_meta", "_met", "_metb", "A", "_"}, from: stream,
			row: row("t1", "t2", "t3", "t4", "t5", "t6", "t7"),
			want: `{"A":"6","Z":"2","_":"7","_met":"4","_meta":{"op":"u","source":{"ts_ms":1700000000123,"schema":"public",` +
				`"table":"t","loc":[10,20,30]}},"_metb":"5","b":"1"}`,
		},
		{
			name: "no columns", from: stream, row: row(),
			want: `{"_meta":{"op":"u","source":{"ts_ms":1700000000123,"schema":"public","table":"t","loc":[10,20,30]}}}`,
		},
		{
			name: "all ahead of _meta", columns: []string{"A"}, from: stream, row: row("n"),
			want: `{"A":null,"_meta":{"op":"u","source":{"ts_ms":1700000000123,"schema":"public","table":"t","loc":[10,20,30]}}}`,
		},
		{
			name: "txid and tag", columns: []string{"b"}, from: stream, row: row("t"),
			options: planOptions{txid: true, settings: &settings{sourceTag: `a "tag"`}},
			want: `{"_meta":{"op":"u","source":{"ts_ms":1700000000123,"schema":"public","table":"t","loc":[10,20,30],` +
				`"txid":4000000000,"tag":"a \"tag\""}},"b":""}`,
		},
		{
			name: "no txid in a backfill", columns: []string{"b"}, from: backfill, row: row("t"),
			options: planOptions{txid: true, settings: &settings{sourceTag: "x"}},
			want:    `{"_meta":{"op":"c","source":{"schema":"public","snapshot":true,"table":"t","loc":[-1,5,0],"tag":"x"}},"b":""}`,
		},
		{
			name: "key tuple", columns: []string{"int", "b", "c"}, from: stream, row: row("t7", "n", "n"), keysOnly: true,
			want: `{"_meta":{"op":"u","source":{"ts_ms":1700000000123,"schema":"public","table":"t","loc":[10,20,30]}},"int":7}`,
		},
		{
			name: "unchanged, nowhere", columns: []string{"int", "b"}, from: stream, row: row("t7", "u"),
			want: `{"_meta":{"op":"u","source":{"ts_ms":1700000000123,"schema":"public","table":"t","loc":[10,20,30]}},"int":7}`,
		},
		{
			name: "unchanged, in the old row", columns: []string{"int", "b"}, from: stream, row: row("t7", "u"),
			before: row("t7", "tlarge"),
			want: `{"_meta":{"op":"u","source":{"ts_ms":1700000000123,"schema":"public","table":"t","loc":[10,20,30]},` +
				`"before":{"b":"large","int":7}},"b":"large","int":7}`,
		},
		{
			name: "unchanged, NULL in the old row", columns: []string{"int", "b"}, from: stream, row: row("t7", "u"),
			before: row("t7", "n"),
			want: `{"_meta":{"op":"u","source":{"ts_ms":1700000000123,"schema":"public","table":"t","loc":[10,20,30]},` +
				`"before":{"b":null,"int":7}},"b":null,"int":7}`,
		},
		{
			name: "unchanged, old key only", columns: []string{"int", "b"}, from: stream, row: row("t7", "u"),
			before: row("t6", "n"), beforeKeys: true,
			want: `{"_meta":{"op":"u","source":{"ts_ms":1700000000123,"schema":"public","table":"t","loc":[10,20,30]},` +
				`"before":{"int":6}},"int":7}`,
		},
		{
			name: "empty before", columns: []string{"b"}, from: stream, row: row("tx"), before: row("n"), beforeKeys: true,
			want: `{"_meta":{"op":"u","source":{"ts_ms":1700000000123,"schema":"public","table":"t","loc":[10,20,30]},"before":{}},"b":"x"}`,
		},
		{
			name: "quoted names", columns: []string{`a"b\c`, "tab\t"}, from: backfill, row: row("tx", "ty"),
			options: planOptions{schema: `s"1`, table: "t\n2"},
			want: `{"_meta":{"op":"c","source":{"schema":"s\"1","snapshot":true,"table":"t\n2","loc":[-1,5,0]}},` +
				`"a\"b\\c":"x","tab\t":"y"}`,
		},
		{
			name: "floats of the key", columns: []string{"real1", "real2"}, from: backfill, row: row("t1.5", "t2.5"),
			options: planOptions{collectionKey: []string{"real2"}},
			want:    `{"_meta":{"op":"c","source":{"schema":"public","snapshot":true,"table":"t","loc":[-1,5,0]}},"real1":1.5,"real2":"2.5"}`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := documentPlan(tc.options, tc.columns...)
			d := &document{op: 'u', row: tc.row, keysOnly: tc.keysOnly, before: tc.before, beforeKeysOnly: tc.beforeKeys}
			if tc.from.snapshot {
				d.op = 'c'
			}
			have, err := p.appendDocument(nil, &tc.from, d)
			if err != nil || string(have) != tc.want {
				t.Errorf("document\n%s (%v), want\n%s", have, err, tc.want)
			}
		})
	}
}

func TestDocumentErrors(t *testing.T) {
	p := documentPlan(planOptions{}, "A", "int")
	from := provenance{}
	good := testTuple("tx", "t1")
	bad := testTuple("tx", "tone")
	for _, tc := range []struct {
		row, before tuple
		want        string
	}{
		{bad, nil, `column "int": want integer, have "one"`},
		{good, bad, `column "int": want integer, have "one"`},
	} {
		if _, err := p.appendDocument(nil, &from, &document{op: 'u', row: tc.row, before: tc.before}); errorText(err) != tc.want {
			t.Errorf("error %q, want %q", errorText(err), tc.want)
		}
	}
}

// randomDocument makes a plan, a row and a provenance from a source of randomness.
func randomDocument(t testing.TB, random *rand.Rand) {
	alphabet := []string{"a", "B", "_", "_meta", "_m", "meta", "é", "\u2028", `"`, "\\", "int", "int2", "flag", "real", "~", "z z"}
	random.Shuffle(len(alphabet), func(i, j int) { alphabet[i], alphabet[j] = alphabet[j], alphabet[i] })
	columns := alphabet[:random.IntN(len(alphabet))]
	o := planOptions{txid: random.IntN(2) == 0, settings: &settings{}}
	if random.IntN(2) == 0 {
		o.settings.sourceTag = "tag"
	}
	if random.IntN(2) == 0 {
		o.collectionKey = []string{"real", "int"}
	}
	p := documentPlan(o, columns...)
	row := func() tuple {
		var made tuple
		for _, c := range p.columns {
			v := value{kind: valueText}
			switch c.typeOID {
			case pgtype.Int8OID:
				v.data = fmt.Append(nil, int64(random.Uint64()))
			case pgtype.BoolOID:
				v.data = []byte{"tf"[random.IntN(2)]}
			case pgtype.Float8OID:
				v.data = fmt.Append(nil, float64(random.IntN(1<<20)-1<<19)/1024) // no exponent: how that is written is tested elsewhere
			default:
				for range random.IntN(12) {
					v.data = append(v.data, string(rune(random.IntN(0x3000)))...)
				}
			}
			switch random.IntN(5) {
			case 0:
				v = value{kind: valueNull}
			case 1:
				v = unchanged
			}
			made = append(made, v)
		}
		return made
	}
	from := provenance{
		snapshot: random.IntN(3) == 0, tsMillis: int64(random.Uint64() >> 20),
		loc: [3]int64{int64(random.Uint64() >> 1), random.Int64(), random.Int64()}, xid: random.Uint32(),
	}
	d := document{op: "cud"[random.IntN(3)], row: row(), keysOnly: random.IntN(4) == 0, beforeKeysOnly: random.IntN(2) == 0}
	if random.IntN(2) == 0 {
		d.before = row()
	}
	checkDocument(t, p, o, &from, &d)
}

func TestDocumentsAgainstReference(t *testing.T) {
	random := testRandom(t)
	for range 3000 {
		randomDocument(t, random)
	}
}

func FuzzDocument(f *testing.F) {
	f.Add([]byte(`plain`), []byte(`"quoted"`), false)
	f.Add([]byte("\x00\xff\xc3"), []byte("<>&\u2029"), true)
	p := documentPlan(planOptions{}, "A", "b")
	from := provenance{}
	f.Fuzz(func(t *testing.T, a, b []byte, keysOnly bool) {
		row := tuple{{kind: valueText, data: a}, {kind: valueText, data: b}}
		doc, err := p.appendDocument(nil, &from, &document{op: 'c', row: row, keysOnly: keysOnly, before: row, beforeKeysOnly: keysOnly})
		if err == nil && !json.Valid(doc) {
			t.Fatalf("%q is no JSON", doc)
		}
	})
}

func TestPlanKeys(t *testing.T) {
	p := documentPlan(planOptions{keyColumns: []string{"b", "a"}}, "a", "x", "b")
	row := testTuple("t1", "t2", "u")
	if have := p.keyValues(nil, row, testTuple("t8", "t8", "t9")); describeKey(have) != "[9, 1]" {
		t.Errorf("key %s", describeKey(have))
	}
	if have := p.keyValues(nil, row, nil); have[0].kind != valueUnchanged {
		t.Errorf("key %v", have)
	}
	if p = documentPlan(planOptions{keyColumns: []string{"a", "gone"}}, "a"); p.key != nil || p.missing != "gone" {
		t.Errorf("key %v, missing %q", p.key, p.missing)
	}
	if p = documentPlan(planOptions{}, "a"); p.key != nil || p.missing != "" {
		t.Errorf("key %v, missing %q", p.key, p.missing)
	}
}

func TestSameShape(t *testing.T) {
	p := documentPlan(planOptions{}, "a", "int")
	same := slices.Clone(p.columns)
	same[0].key = true // does not change what a tuple's values mean
	if !p.sameShape(same) {
		t.Error("the same shape differs")
	}
	for name, change := range map[string]func([]relationColumn) []relationColumn{
		"name":  func(c []relationColumn) []relationColumn { c[0].name = "A"; return c },
		"type":  func(c []relationColumn) []relationColumn { c[0].typeOID = 1; return c },
		"size":  func(c []relationColumn) []relationColumn { c[0].typmod = 99; return c },
		"order": func(c []relationColumn) []relationColumn { slices.Reverse(c); return c },
		"fewer": func(c []relationColumn) []relationColumn { return c[:1] },
		"more":  func(c []relationColumn) []relationColumn { return append(c, relationColumn{name: "x"}) },
	} {
		if p.sameShape(change(slices.Clone(p.columns))) {
			t.Errorf("another %s is the same shape", name)
		}
	}
}

// Identities are equal exactly if kinds and texts are, wherever the bytes stand.
func TestIdentity(t *testing.T) {
	keys := [][]value{
		texts("a", "b"), texts("ab", ""), texts("", "ab"), texts("a"), texts("", ""),
		{{kind: valueNull}, text("")},
		{text(""), {kind: valueNull}},
		texts("a\x00b"), texts("a", "\x00b"), texts("t\x00\x00\x00\x01a"),
	}
	for i, a := range keys {
		for j, b := range keys {
			if have := bytes.Equal(identityOf(a...), identityOf(b...)); have != (i == j) {
				t.Errorf("%s and %s have one identity: %v", describeKey(a), describeKey(b), have)
			}
			if len(a) == len(b) && sameKey(a, b) != (i == j) {
				t.Errorf("%s and %s are the same key: %v", describeKey(a), describeKey(b), i != j)
			}
		}
	}
}

func TestDescribeKey(t *testing.T) {
	for want, key := range map[string][]value{
		"[]":                                 nil,
		"[null]":                             {{kind: valueNull}},
		"[1, a b]":                           texts("1", "a b"),
		"[" + strings.Repeat("x", 64) + "…]": texts(strings.Repeat("x", 65)),
	} {
		if have := describeKey(key); have != want {
			t.Errorf("%s, want %s", have, want)
		}
	}
}

// wideRow is a row of 16 columns of the types that tables are made of, and its plan.
func wideRow() (*plan, tuple) {
	oids := []uint32{
		pgtype.Int8OID, pgtype.TextOID, pgtype.TextOID, pgtype.TimestamptzOID, pgtype.TimestamptzOID, pgtype.NumericOID,
		pgtype.BoolOID, pgtype.Int4OID, pgtype.UUIDOID, pgtype.JSONBOID, pgtype.VarcharOID, pgtype.Float8OID, pgtype.DateOID,
		pgtype.Int4OID, pgtype.TextOID, pgtype.Int8OID,
	}
	row := testTuple("t1234567890", "tAda Lovelace", "tada@example.com", "t2024-05-17 12:34:56.789012+00", "t2024-05-17 12:34:56+00",
		"t1234.5600", "tt", "t42", "t0b6ae1a2-51c3-4a47-b0e4-8d0c2f7b9a11", `t{"plan": "pro", "seats": 12}`, "tactive",
		"t3.141592653589793", "t2024-05-17", "t-7", "tThe quick brown fox jumps over the lazy dog.", "n")
	var shape []relationColumn
	for i, oid := range oids {
		shape = append(shape, relationColumn{name: fmt.Sprintf("column_%02d", i), typeOID: oid, typmod: -1, key: i == 0})
	}
	return newPlan(shape, planOptions{
		schema: "public", table: "wide", keyColumns: []string{"column_00"}, collectionKey: []string{"column_00"},
		types: newTypeCatalog(), settings: &settings{}, txid: true,
	}), row
}

func TestDocumentAllocations(t *testing.T) {
	p, row := wideRow()
	from := provenance{tsMillis: 1, loc: [3]int64{1, 2, 3}, xid: 7}
	buffer := make([]byte, 0, 1<<16)
	n := testing.AllocsPerRun(200, func() {
		if _, err := p.appendDocument(buffer, &from, &document{op: 'u', row: row, before: row}); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations a document", n)
	}
}

func BenchmarkDocument(b *testing.B) {
	p, row := wideRow()
	from := provenance{tsMillis: 1700000000123, loc: [3]int64{1 << 40, 1<<40 + 1, 1<<40 + 2}, xid: 7}
	var doc []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if doc, err = p.appendDocument(doc[:0], &from, &document{op: 'c', row: row}); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(doc)))
}
