package main

// live_types_test.go changes types under a capture: they are known by OID, from the catalog as it is when the stream first
// names them, never by a name.

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// rowText is a document without its _meta.
func rowText(t testing.TB, doc string) string {
	t.Helper()
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(doc), &fields); err != nil {
		t.Fatal(err)
	}
	delete(fields, metaColumn)
	row, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return string(row)
}

// propertyOf is what the last sourced schema of a table says of a column, without the description.
func propertyOf(t testing.TB, r *testRuntime, table tableName, column string) string {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range slices.Backward(r.schemas) {
		if s.table != table.String() {
			continue
		}
		var root struct {
			Defs map[string]struct {
				Properties map[string]map[string]any `json:"properties"`
			} `json:"$defs"`
		}
		if err := json.Unmarshal([]byte(s.doc), &root); err != nil {
			t.Fatal(err)
		}
		for _, def := range root.Defs {
			property, ok := def.Properties[column]
			if !ok {
				return "absent"
			}
			delete(property, "description")
			text, _ := json.Marshal(property)
			return string(text)
		}
	}
	return "no schema"
}

func TestTypesLive(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a connector for each of many cases")
	}
	db := newTestDB(t)
	one, two := quoteIdent(db.createSchema("one")), quoteIdent(db.createSchema("two"))
	run := func(sql string) {
		t.Helper()
		db.script(strings.NewReplacer("one.", one+".", "two.", two+".").Replace(sql))
	}
	run("CREATE DOMAIN one.kind AS int; CREATE TYPE two.kind AS ENUM ('a')")
	table := db.createTable("live", fmt.Sprintf("(id int PRIMARY KEY, d %s.kind, e %s.kind, ds %[1]s.kind[], es %[2]s.kind[])", one, two))
	gone := db.createTable("gone", fmt.Sprintf("(id int PRIMARY KEY, e %s.kind)", two))
	live := quoteTable(table)
	run("INSERT INTO " + live + " VALUES (0, 1, 'a', '{2}', '{a}')")

	r := startRuntime(t, runtimeOptions{config: db.config()})
	r.waitStreaming()
	seen := 0
	// next checks the rows of the documents that have come since, in their order; chunk and stream look the same.
	next := func(want ...string) {
		t.Helper()
		r.waitDocuments(seen + len(want))
		var got []string
		for _, d := range r.documents()[seen:] {
			got = append(got, rowText(t, d.doc))
		}
		if seen += len(got); !slices.Equal(got, want) {
			t.Errorf("have %q\nwant %q", got, want)
		}
	}
	next(`{"d":1,"ds":[2],"e":"a","es":["a"],"id":0}`)

	// Two types of one name do not mix, in schemas either.
	run("INSERT INTO " + live + " VALUES (1, 1, 'a', '{2}', '{a}')")
	next(`{"d":1,"ds":[2],"e":"a","es":["a"],"id":1}`)
	for column, want := range map[string]string{
		"d": `{"type":["integer"]}`, "e": `{"type":["string"]}`,
		"ds": `{"items":{"type":["integer","null"]},"type":["array"]}`, "es": `{"items":{"type":["string","null"]},"type":["array"]}`,
	} {
		if got := propertyOf(t, r, table, column); got != want {
			t.Errorf("column %s is sourced as %s, want %s", column, got, want)
		}
	}

	// A label of a moment ago; types made in the very transaction that uses them; all renamed.
	run("ALTER TYPE two.kind ADD VALUE 'b'")
	run("INSERT INTO " + live + " VALUES (2, 2, 'b', NULL, '{b,NULL}')")
	next(`{"d":2,"ds":null,"e":"b","es":["b",null],"id":2}`)
	run("BEGIN; CREATE DOMAIN one.fresh AS int[]; CREATE TYPE two.fresh AS (a one.fresh); ALTER TABLE " + live +
		" ADD f one.fresh, ADD g two.fresh[]; INSERT INTO " + live + " VALUES (3, NULL, NULL, NULL, NULL, '{7}', ARRAY[ROW('{8}')::two.fresh]); COMMIT")
	next(`{"d":null,"ds":null,"e":null,"es":null,"f":[7],"g":["({8})"],"id":3}`)
	if got := propertyOf(t, r, table, "f"); got != `{"items":{"type":["integer","null"]},"type":["array"]}` {
		t.Errorf("the new column is sourced as %s", got)
	}
	run("ALTER DOMAIN one.kind RENAME TO sort; ALTER TYPE two.kind RENAME TO sort; ALTER TYPE two.sort RENAME VALUE 'a' TO 'c';" +
		"INSERT INTO " + live + " VALUES (4, 3, 'c', '{4}', '{c}')")
	next(`{"d":3,"ds":[4],"e":"c","es":["c"],"f":null,"g":null,"id":4}`)

	// A backlog whose types, and one of whose tables, are gone when it is read: of a type that nobody can tell of any more the
	// text is written.
	r.stop()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	run("CREATE TYPE one.lost AS ENUM ('x'); CREATE DOMAIN two.lost AS int; ALTER TABLE " + live + " ADD x one.lost, ADD y two.lost, ADD z one.lost[];" +
		"INSERT INTO " + live + " VALUES (5, NULL, NULL, NULL, NULL, NULL, NULL, 'x', 7, '{x}');" +
		"ALTER TABLE " + live + " DROP x, DROP y, DROP z; DROP TYPE one.lost; DROP DOMAIN two.lost;" +
		"INSERT INTO " + live + " VALUES (6);" +
		"INSERT INTO " + quoteTable(gone) + " VALUES (1, 'c'); DROP TABLE " + quoteTable(gone) + "; ALTER TABLE " + live + " DROP es, DROP e; DROP TYPE two.sort")
	r.start()
	next(`{"d":null,"ds":null,"e":null,"es":null,"f":null,"g":null,"id":5,"x":"x","y":"7","z":"{x}"}`,
		`{"d":null,"ds":null,"e":null,"es":null,"f":null,"g":null,"id":6}`)
	run("INSERT INTO " + live + " VALUES (7, 8, '{9}')")
	next(`{"d":8,"ds":[9],"f":null,"g":null,"id":7}`)
	r.stop()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(r.stderr(), gone.String()) {
		t.Errorf("nothing was said of the dropped table %s", gone)
	}
}
