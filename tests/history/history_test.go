package history

// Goal: every way in which a history can be wrong is found, and nothing else. Method: a history that is right, and
// variations with one fault each and the exact complaint.

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// line makes an output line of public.t: a backfill row when loc is one number, else a replicated change.
func line(op string, loc []int64, before, columns string) string {
	source := fmt.Sprintf(`"schema":"public","table":"t","loc":[%d,%d,%d]`, loc[0], loc[1], loc[2])
	if loc[0] == -1 {
		source += `,"snapshot":true`
	}
	if before != "" {
		before = `,"before":` + before
	}
	return fmt.Sprintf(`["public.t",{"_meta":{"op":%q,"source":{%s}%s},%s}]`, op, source, before, columns)
}

const checkpoint = `["connectorState",{"updated":{}}]`

func TestHistory(t *testing.T) {
	full := Table{Name: "public.t", Key: []string{"id"}, Full: true}
	byKey := Table{Name: "public.t", Key: []string{"id"}}
	keyless := Table{Name: "public.t"}
	type l = []int64
	for _, test := range []struct {
		name    string
		table   Table
		lines   []string
		want    string // what is left
		wantErr string
	}{
		{
			name: "right", table: full,
			lines: []string{
				line("c", l{-1, 1, 0}, "", `"id":1,"v":"a"`),
				line("c", l{-1, 2, 0}, "", `"id":2,"v":"b"`),
				checkpoint,
				line("u", l{5, 6, 9}, `{"id":1,"v":"a"}`, `"id":1,"v":"A"`),
				line("c", l{5, 7, 9}, "", `"id":4,"v":null`),
				checkpoint,
				line("c", l{-1, 3, 0}, "", `"id":3,"v":"c"`),
				checkpoint,
				line("d", l{9, 3, 12}, "", `"id":2,"v":"b"`),
				line("c", l{9, 4, 12}, "", `"v":"b2","id":2`),
				line("u", l{9, 5, 12}, `{"v":"b2", "id":2}`, `"v":"\u0062","id":2`),
				line("d", l{12, 5, 15}, "", `"id":2,"v":"b"`),
				checkpoint,
			},
			want: `{"id":1,"v":"A"} {"id":3,"v":"c"} {"id":4,"v":null}`,
		},
		{
			name: "TOAST kept", table: byKey,
			lines: []string{
				line("c", l{1, 2, 3}, "", `"id":1,"big":"x","v":1`),
				line("u", l{3, 4, 5}, "", `"id":1,"v":2`),
			},
			want: `{"big":"x","id":1,"v":2}`,
		},
		{
			name: "missed insertion", table: full,
			lines:   []string{line("u", l{1, 2, 3}, `{"id":1}`, `"id":1`)},
			wantErr: `public.t key [1]: line 1 (u): a change of a key that does not exist; there is no document of this key before it`,
		},
		{
			name: "missed deletion", table: byKey,
			lines:   []string{line("c", l{1, 2, 3}, "", `"id":1`), line("c", l{3, 4, 5}, "", `"id":1`)},
			wantErr: `public.t key [1]: line 2 (c): an insertion of a key that exists; line 1 (c) left {"id":1}`,
		},
		{
			name: "deleted twice", table: byKey,
			lines: []string{
				line("c", l{1, 2, 3}, "", `"id":1`), line("d", l{3, 4, 5}, "", `"id":1`), line("d", l{5, 6, 7}, "", `"id":1`),
			},
			wantErr: `public.t key [1]: line 3 (d): a change of a key that does not exist; line 2 deleted the key`,
		},
		{
			name: "missed update", table: full,
			lines: []string{
				line("c", l{1, 2, 3}, "", `"id":1,"v":1`), line("u", l{3, 4, 5}, `{"id":1,"v":2}`, `"id":1,"v":3`),
			},
			wantErr: `public.t key [1]: line 2 (u): before has v=2; line 1 (c) left {"id":1,"v":1}`,
		},
		{
			name: "missed update before a deletion", table: full,
			lines:   []string{line("c", l{1, 2, 3}, "", `"id":1,"v":1`), line("d", l{3, 4, 5}, "", `"id":1,"v":2`)},
			wantErr: `public.t key [1]: line 2 (d): the deleted row has v=2; line 1 (c) left {"id":1,"v":1}`,
		},
		{
			name: "no before", table: full,
			lines: []string{line("c", l{1, 2, 3}, "", `"id":1`), line("u", l{3, 4, 5}, "", `"id":1`)},
			wantErr: `public.t key [1]: line 2 (u): no before, but the replica identity is FULL; ` +
				`line 1 (c) left {"id":1}`,
		},
		{
			name: "partial before", table: full,
			lines: []string{
				line("c", l{1, 2, 3}, "", `"id":1,"v":1`), line("u", l{3, 4, 5}, `{"id":1}`, `"id":1,"v":1`),
			},
			wantErr: `public.t key [1]: line 2 (u): before has 1 columns, want 2; line 1 (c) left {"id":1,"v":1}`,
		},
		{
			name: "repeated", table: byKey,
			lines: []string{
				line("c", l{1, 2, 3}, "", `"id":1,"v":1`),
				line("u", l{3, 4, 5}, "", `"id":1,"v":2`), line("u", l{3, 4, 5}, "", `"id":1,"v":2`),
			},
			wantErr: `line 3: public.t: loc [3 4 5] does not come after loc [3 4 5] on line 2: repeated or out of order`,
		},
		{
			name: "backfill row repeated", table: Table{Name: "public.t", Key: []string{"id"}},
			lines:   []string{line("c", l{-1, 2, 0}, "", `"id":1`), line("c", l{-1, 2, 0}, "", `"id":2`)},
			wantErr: `line 2: public.t: backfill loc [-1 2 0] does not come after [-1 2 0]`,
		},
		{
			name: "commit order", table: byKey,
			lines:   []string{line("c", l{3, 4, 9}, "", `"id":1`), line("c", l{3, 5, 8}, "", `"id":2`)},
			wantErr: `line 2: public.t: loc [3 5 8] is of an earlier commit than loc [3 4 9] on line 1`,
		},
		{
			name: "split transaction", table: byKey,
			lines: []string{
				line("c", l{3, 4, 9}, "", `"id":1`), checkpoint,
				line("c", l{-1, 1, 0}, "", `"id":7`), line("c", l{3, 5, 9}, "", `"id":2`),
			},
			wantErr: `line 4: public.t: loc [3 5 9] belongs to the transaction before the checkpoint on line 2`,
		},
		{
			name: "swap", table: Table{Name: "public.t", Key: []string{"id"}, Full: true, Replaced: true},
			lines: []string{
				line("c", l{-1, 1, 0}, "", `"id":1,"v":"a"`), line("c", l{-1, 2, 0}, "", `"id":2,"v":"b"`),
				line("d", l{1, 2, 9}, "", `"id":1,"v":"a"`), line("c", l{1, 3, 9}, "", `"id":2,"v":"a"`),
				line("c", l{1, 5, 9}, "", `"id":1,"v":"b"`),
			},
			want: `{"id":1,"v":"b"} {"id":2,"v":"a"}`,
		},
		{
			name: "foreign", table: byKey, lines: []string{`["public.u",{}]`},
			wantErr: `line 1: a document of public.u, which is not among the tables`,
		},
		{
			name: "another table's", table: byKey,
			lines:   []string{strings.Replace(line("c", l{1, 2, 3}, "", `"id":1`), `"table":"t"`, `"table":"u"`, 1)},
			wantErr: `line 1: public.t: a document that says it is of public.u`,
		},
		{
			name: "no key", table: byKey, lines: []string{line("c", l{1, 2, 3}, "", `"v":1`)},
			wantErr: `line 1: document of public.t: no key column id`,
		},
		{
			name: "a name twice", table: byKey, lines: []string{line("c", l{1, 2, 3}, "", `"id":1,"\u0069d":2`)},
			wantErr: `line 1: document of public.t: the name "id" comes twice`,
		},
		{
			name: "torn", table: byKey, lines: []string{`["public.t",{"_meta":`},
			wantErr: `line 1: want ["schema.table",document]: ["public.t",{"_meta":` + "\n",
		},
		{
			name: "keyless", table: keyless,
			lines: []string{
				line("c", l{-1, 1, 0}, "", `"v":1`), line("c", l{-1, 2, 0}, "", `"v":1`), line("c", l{-1, 3, 0}, "", `"v":2`),
				line("u", l{1, 2, 3}, `{"v":1}`, `"v":3`), line("d", l{1, 3, 3}, "", `"v":2`),
			},
			want: `{"v":1} {"v":3}`,
		},
		{
			name: "keyless, missed", table: keyless, lines: []string{line("d", l{1, 3, 3}, "", `"v":2`)},
			wantErr: `public.t: line 1 (d): the row before the change is not there: {"v":2}`,
		},
		{
			name: "lenient", table: Table{Name: "public.t", Key: []string{"id"}, Lenient: true},
			lines: []string{
				line("u", l{9, 9, 9}, "", `"id":1,"v":1`), line("c", l{1, 1, 1}, "", `"id":1,"v":2`), line("d", l{1, 1, 1}, "", `"id":2`),
			},
			want: `{"id":1,"v":2}`,
		},
	} {
		h := New(test.table)
		err := h.ReadLines(strings.NewReader(strings.Join(test.lines, "\n")+"\n"), nil)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if text != test.wantErr {
			t.Errorf("%s:\n%s\nwant\n%s", test.name, text, test.wantErr)
		}
		if err != nil {
			continue
		}
		if got := left(t, h); got != test.want {
			t.Errorf("%s: left %s, want %s", test.name, got, test.want)
		}
	}
}

// left lists the rows of public.t, sorted.
func left(t *testing.T, h *History) string {
	var rows []string
	err := h.Rows("public.t", func(row *Row, count int) error {
		for range count {
			values, err := row.Values()
			if err != nil {
				return err
			}
			text, err := json.Marshal(values)
			if err != nil {
				return err
			}
			rows = append(rows, string(text))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, n := h.Counts("public.t"); n != len(rows) || n != h.Keys() {
		t.Errorf("%d rows counted, %d listed", n, len(rows))
	}
	slices.Sort(rows)
	return strings.Join(rows, " ")
}

// Lines longer than the reader's buffer are read whole; a file that ends inside a line is not.
func TestReadLinesLong(t *testing.T) {
	big := strings.Repeat("x", 3<<20)
	text := line("c", []int64{1, 2, 3}, "", `"id":1,"v":"`+big+`"`) + "\n" +
		line("c", []int64{1, 3, 3}, "", `"id":2,"v":""`) + "\n"
	h := New(Table{Name: "public.t", Key: []string{"id"}})
	if err := h.ReadLines(strings.NewReader(text), nil); err != nil {
		t.Fatal(err)
	}
	if h.Keys() != 2 || h.Documents() != 2 {
		t.Errorf("%d keys, %d documents", h.Keys(), h.Documents())
	}
	err := New(Table{Name: "public.t", Key: []string{"id"}}).ReadLines(strings.NewReader(text[:len(text)-1]), nil)
	if err == nil || !strings.HasPrefix(err.Error(), "line 2: it has no end: ") {
		t.Error(err)
	}
}

// TestMarkers: what came before a Begin is not there for what follows, and gone when the Complete has come.
func TestMarkers(t *testing.T) {
	doc := func(op string, id int, rest string) string {
		return fmt.Sprintf(`["public.t",{"_meta":{"op":%q,"source":{"schema":"public","table":"t","loc":[1,%%d,1]}},"id":%d%s}]`, op, id, rest)
	}
	const begin, complete = `["backfillBegin",{"binding":"public.t"}]`, `["backfillComplete",{"binding":"public.t"}]`
	for name, test := range map[string]struct {
		lines   []string
		lenient bool
		want    string // ids and v of the rows
		fault   string
	}{
		"vanished": {lines: []string{doc("c", 1, ""), doc("c", 2, ""), begin, doc("c", 2, ""), complete}, want: "2:"},
		"truncate": {lines: []string{doc("c", 1, ""), begin, complete, doc("c", 1, `,"v":1`)}, want: "1:1"},
		"open":     {lines: []string{doc("c", 1, ""), doc("c", 2, ""), begin, doc("c", 2, "")}, want: "1: 2:"},
		"superseded": {
			lines: []string{doc("c", 1, ""), begin, doc("c", 1, ""), doc("c", 2, ""), begin, doc("c", 2, ""), complete}, want: "2:",
		},
		"no Begin":     {lines: []string{doc("c", 1, ""), complete}, want: "1:"},
		"unseen":       {lines: []string{doc("c", 1, ""), begin, doc("d", 1, ""), doc("d", 7, ""), complete}, want: ""},
		"half":         {lines: []string{doc("c", 1, `,"v":1`), begin, doc("u", 1, ""), complete}, lenient: true, want: "1:"},
		"half, strict": {lines: []string{doc("c", 1, `,"v":1`), begin, doc("u", 1, ""), complete}, fault: "a change of a key that does not exist"},
		"twice":        {lines: []string{doc("c", 1, ""), begin, doc("c", 1, ""), doc("c", 1, "")}, fault: "an insertion of a key that exists"},
	} {
		h := New(Table{Name: "public.t", Key: []string{"id"}, Lenient: test.lenient})
		text := ""
		for i, line := range test.lines {
			text += strings.Replace(line, "%d", fmt.Sprint(i+1), 1) + "\n"
		}
		err := h.ReadLines(strings.NewReader(text), nil)
		if test.fault != "" {
			if err == nil || !strings.Contains(err.Error(), test.fault) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var rows []string
		if err := h.Rows("public.t", func(row *Row, _ int) error {
			values, err := row.Values()
			rows = append(rows, fmt.Sprintf("%s:%s", values["id"], values["v"]))
			return err
		}); err != nil {
			t.Error(err)
		}
		slices.Sort(rows)
		if got := strings.Join(rows, " "); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
		if _, live := h.Counts("public.t"); live != len(rows) {
			t.Errorf("%s: %d rows are counted, %d are there", name, live, len(rows))
		}
	}
}

// The field walk agrees with encoding/json on every object, and refuses what it refuses.
func FuzzFields(f *testing.F) {
	for _, seed := range []string{
		`{}`, ` { "a" : 1 , "b":[1,{"c":"]}\""}], "c" :null}`, `{"a":"\\","\u0062":-1.5e+7,"":{"x":[]}}`, `[1]`, `{"a":1`, `"x"`,
		"{\"a\"\n:\ttrue\r}", "{\"\x9a\xe2\":0}", `{"a":1,"a":2}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		fields, err := appendFields(nil, doc)
		var want map[string]json.RawMessage
		if !utf8.Valid(doc) || json.Unmarshal(doc, &want) != nil || want == nil {
			if err == nil {
				t.Fatalf("accepted %q", doc)
			}
			return
		}
		if err != nil {
			if !strings.Contains(err.Error(), "comes twice") || len(fields) > len(want) {
				t.Fatalf("%q: %v", doc, err)
			}
			return
		}
		if len(fields) != len(want) {
			t.Fatalf("%q: %d fields, want %d", doc, len(fields), len(want))
		}
		for _, field := range fields {
			if string(want[field.name]) != string(field.value) {
				t.Fatalf("%q: %s is %s", doc, field.name, field.value)
			}
		}
	})
}

// BenchmarkDocument adds rows as of pgbench_accounts, each updated once.
func BenchmarkDocument(b *testing.B) {
	h := New(Table{Name: "public.t", Key: []string{"aid"}, Full: true})
	b.ReportAllocs()
	for i := range b.N {
		row := fmt.Sprintf(`"abalance":%d,"aid":%d,"bid":1,"filler":"%84s"`, i%2, i/2, "")
		op, before := "c", ""
		if i%2 == 1 {
			op, before = "u", fmt.Sprintf(`,"before":{"abalance":0,"aid":%d,"bid":1,"filler":"%84s"}`, i/2, "")
		}
		doc := fmt.Sprintf(`{"_meta":{"op":"%s","source":{"schema":"public","table":"t","loc":[%d,%d,%d]}%s},%s}`,
			op, i+1, i+1, i+1, before, row)
		if err := h.Document(i+1, "public.t", []byte(doc)); err != nil {
			b.Fatal(err)
		}
	}
}
