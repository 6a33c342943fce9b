package main

// Goal: verify says that documents equal a table exactly if they do, whatever their order of keys and spelling, and excuses a
// difference only by a change that stands in the slot. Method: histories written by hand against rows written by hand, with a
// budget so small that every part is parted again; and on a server a table, documents made of it, and changes on either side.

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// replayOf replays lines of public.t, whose key is id, and compares them with the rows.
func replayOf(t *testing.T, lines []string, rows ...string) *replay {
	t.Helper()
	r, err := newReplay(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	r.describe = func(name tableName) (*verifyTable, error) { return &verifyTable{name: name, key: []string{"id"}}, nil }
	if _, err := r.tableOf(tableName{"public", "t"}); err != nil {
		t.Fatal(err)
	}
	if err := r.readDocuments(strings.NewReader(strings.Join(lines, "\n"))); err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		if err := r.row(0, []byte(`{"_meta":{},`+row[1:])); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.compare(); err != nil {
		t.Fatal(err)
	}
	return r
}

// verifyDoc is a document of public.t; loc 0 is a backfilled row.
func verifyDoc(op string, loc int, columns, before string) string {
	place := fmt.Sprintf(`"loc":[%d,%d,%d]`, loc, loc, loc)
	if loc == 0 {
		place = `"snapshot":true,"loc":[-1,1,1]`
	}
	if before != "" {
		before = `,"before":` + before
	}
	return fmt.Sprintf(`{"_meta":{"op":%q,"source":{"schema":"public","table":"t",%s}%s},%s`, op, place, before, columns[1:])
}

func TestVerifyReplay(t *testing.T) {
	const marker = `["backfill%s",{"binding":"public.t"}]`
	for name, test := range map[string]struct {
		lines []string
		rows  []string
		want  string // differences and faults of the history
	}{
		"equal in another spelling": {
			lines: []string{
				verifyDoc("c", 0, `{"id":1.0,"v":"\u0061","n":null}`, ""),
				`[ "acmeCo/\u0074" , ` + verifyDoc("c", 0, `{"id":3,"n":true}`, "") + `]`,
				`["acmeCo/t",` + verifyDoc("c", 9, `{"id":2,"v":{"b":[1e1],"a":-0.50}}`, "") + `]`,
				`{"_meta":{"ack":true,"uuid":"x"}}`, "", `["connectorState",{"updated":{"cursor":"0/A"},"mergePatch":true}]`,
			},
			rows: []string{`{"id":1,"v":"a","n":null}`, `{"id":2,"v":{"a":-5e-1,"b":[10]},"n":null}`, `{"id":3,"n":true}`},
		},
		"a value": {
			lines: []string{verifyDoc("c", 0, `{"id":1,"v":"x"}`, "")}, rows: []string{`{"id":1,"v":"y"}`},
			want: "public.t [1]: differs (line 1)\n  v: document \"x\", table \"y\"\n",
		},
		"a large number is not rounded": {
			lines: []string{verifyDoc("c", 0, `{"id":1,"v":9007199254740993}`, "")}, rows: []string{`{"id":1,"v":9007199254740992}`},
			want: "public.t [1]: differs (line 1)\n  v: document 9007199254740993, table 9007199254740992\n",
		},
		"missing and left": {
			lines: []string{verifyDoc("c", 0, `{"id":1}`, "")}, rows: []string{`{"id":20}`},
			want: "public.t [1]: in the documents (line 1), and not in the table\n" +
				"public.t [20]: in the table, and no document is of it\n",
		},
		"deleted": {
			lines: []string{verifyDoc("c", 0, `{"id":1}`, ""), verifyDoc("d", 5, `{"id":1}`, "")}, rows: []string{`{"id":1}`},
			want: "public.t [1]: in the table, and the documents have it deleted (line 2)\n",
		},
		"an update keeps what it leaves out": {
			lines: []string{verifyDoc("c", 0, `{"id":1,"a":"large","b":1}`, ""), verifyDoc("u", 5, `{"id":1,"b":2}`, `{"id":1,"b":1}`)},
			rows:  []string{`{"id":1,"a":"large","b":2}`},
		},
		"not strict": {
			lines: []string{
				verifyDoc("c", 0, `{"id":1,"a":1}`, ""), verifyDoc("u", 7, `{"id":1,"a":3}`, `{"id":1,"a":2}`),
				verifyDoc("u", 7, `{"id":1,"a":3}`, `{"id":1,"a":3}`), verifyDoc("c", 8, `{"id":1,"a":3}`, ""),
				verifyDoc("d", 9, `{"id":1,"a":3}`, ""), verifyDoc("d", 10, `{"id":1,"a":3}`, ""),
			},
			want: "line 2: public.t [1]: it says that a was 2, and line 1 left 1\n" +
				"line 3: public.t [1]: it comes again, or out of order: the document before it is on line 2\n" +
				"line 4: public.t [1]: an insertion of a key that is there: line 3 is the key's last before it\n" +
				"line 6: public.t [1]: a change of a key that is not there: line 5 is the key's last before it\n",
		},
		"a backfill with markers leaves the rest behind": {
			lines: []string{
				verifyDoc("c", 0, `{"id":1}`, ""), verifyDoc("c", 0, `{"id":2,"a":5}`, ""), fmt.Sprintf(marker, "Begin"),
				verifyDoc("c", 0, `{"id":2}`, ""), fmt.Sprintf(marker, "Complete"),
			},
			rows: []string{`{"id":2,"a":null}`},
		},
		"one that has only begun does not": {
			lines: []string{verifyDoc("c", 0, `{"id":1}`, ""), fmt.Sprintf(marker, "Begin")}, rows: []string{`{"id":1}`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := replayOf(t, test.lines, test.rows...)
			var got []string
			for _, d := range r.differences {
				got = append(got, d.show())
			}
			text := strings.Join(got, "")
			if len(got) == 2 && got[0] > got[1] { // parts are in no order
				text = got[1] + got[0]
			}
			for _, fault := range r.history {
				text += fault + "\n"
			}
			if text != test.want {
				t.Errorf("have\n%swant\n%s", text, test.want)
			}
		})
	}
}

// A part whose rows are more than may be held is parted until they are not; the outcome is the same.
func TestVerifyPartsFurther(t *testing.T) {
	defer func(n int) { verifyBudget = n }(verifyBudget)
	const n = 20000
	var lines, rows []string
	for i := range n {
		lines = append(lines, verifyDoc("c", 0, fmt.Sprintf(`{"id":%d,"v":0}`, i), ""))
		if i%100 != 7 {
			rows = append(rows, fmt.Sprintf(`{"id":%d,"v":%d}`, i, i%1000/999))
		}
	}
	rand.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
	for _, verifyBudget = range []int{1 << 30, 20000} {
		r := replayOf(t, lines, rows...)
		table := r.tables[0]
		if got := len(r.differences); got != n/100+n/1000 || table.equal != n-n/100-n/1000 || table.replayed != n || table.documents != n {
			t.Errorf("budget %d: %d differences, %d equal, %d replayed of %d", verifyBudget, got, table.equal, table.replayed, table.documents)
		}
	}
}

func TestVerify(t *testing.T) {
	db := newTestDB(t)
	table := db.createTable("verify", "(id int, k text, v text, f float8, PRIMARY KEY (k, id))")
	keyless := db.createTable("verifykeyless", "(a int)")
	db.grant(table, keyless)
	db.exec("INSERT INTO " + quoteTable(table) + " SELECT i, 'k' || i % 7, repeat('x', i % 50), i / 3.0::float8 FROM generate_series(1, 1000) i")
	db.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", db.slot)
	var lines []string
	for _, row := range db.query("SELECT id::text, k, v, f::text FROM " + quoteTable(table)) {
		lines = append(lines, strings.ReplaceAll(verifyDoc("c", 0, fmt.Sprintf(`{"id":%s,"k":%q,"v":%q,"f":%s}`, row[0], row[1], row[2], row[3]),
			""), `"schema":"public","table":"t"`, fmt.Sprintf(`"schema":%q,"table":%q`, table.schema, table.name)))
	}
	path := filepath.Join(t.TempDir(), "documents")
	run := func(lines []string, o verifyOptions) (string, error) {
		t.Helper()
		if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		s := db.settings()
		s.chunkRows = 300
		o.documents, o.temp, o.show = path, t.TempDir(), 10
		var out strings.Builder
		err := verify(db.ctx, s, &o, &out)
		return out.String(), err
	}
	expect := func(what string, text string, err error, status int, parts ...string) {
		t.Helper()
		have := 0
		if exit, ok := untold(err).(*exitError); ok {
			have = exit.status
		}
		for _, part := range append(parts, "") {
			if have != status || !strings.Contains(text+fmt.Sprint(err), part) {
				t.Errorf("%s: status %d, want %d and %q\n%s%v", what, have, status, part, text, err)
			}
		}
	}
	text, err := run(lines, verifyOptions{strict: true})
	expect("equal", text, err, 0, "the replayed documents equal the tables", "history: strict")

	text, err = run(lines[1:], verifyOptions{})
	expect("a document is missing", text, err, 1, "1 keys differ", "in the table, and no document is of it")

	db.exec("UPDATE " + quoteTable(table) + " SET v = 'changed' WHERE id = 5")
	db.exec("UPDATE " + quoteTable(table) + " SET id = 5000 WHERE id = 6")
	db.exec("DELETE FROM " + quoteTable(table) + " WHERE id = 7")
	text, err = run(lines, verifyOptions{})
	expect("changed since", text, err, 0, "but for 4 keys that were changed after the documents")
	text, err = run(lines, verifyOptions{idle: true})
	expect("nothing was written, one says", text, err, 1, "4 keys differ", `  v: document "xxxxx", table "changed"`)
	text, err = run(append(lines, `["connectorState",{"updated":{"cursor":"FFFF/FFFFFFFF"},"mergePatch":true}]`), verifyOptions{})
	expect("the state says that the documents have it", text, err, 1, "4 keys differ")
	text, err = run(append(lines, `["connectorState",{"updated":{"cursor":"0/1"},"mergePatch":true}]`), verifyOptions{})
	expect("the slot is ahead", text, err, 2, "these are not all that was captured")

	text, err = run(append(lines, fmt.Sprintf(
		`{"_meta":{"op":"c","source":{"schema":%q,"table":%q,"loc":[1,1,1]}},"a":1}`, keyless.schema, keyless.name)), verifyOptions{})
	expect("a keyless table", text, err, 2, "tables without a key cannot be compared")

	db.exec("SELECT pg_drop_replication_slot($1)", db.slot)
	text, err = run(lines, verifyOptions{})
	expect("no slot", text, err, 2, "there is no slot "+db.slot, "--idle")

	_, err = run([]string{`{"id":1}`}, verifyOptions{})
	expect("no documents of ours", "", err, 2, "line 1: it has no _meta")
}
