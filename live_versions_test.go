package main

// live_versions_test.go captures what only newer servers have: MERGE (15), generated columns in the stream, virtual ones,
// uuidv7() and NOT NULL constraints with names (18).

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"source-postgres/tests/history"
)

func TestNewerServers(t *testing.T) {
	db := newTestDB(t)
	db.requireVersion(150000)
	newest := db.version() >= 180000
	id, virtual := "gen_random_uuid()", ""
	if newest {
		id, virtual = "uuidv7()", ", w int GENERATED ALWAYS AS (v * 3) VIRTUAL"
		db.exec("ALTER PUBLICATION " + quoteIdent(db.publication) + " SET (publish_generated_columns = stored)")
	}
	table := db.createTable("t", "(id uuid DEFAULT "+id+" PRIMARY KEY, v int, s int GENERATED ALWAYS AS (v * 2) STORED"+virtual+")")
	name := quoteTable(table)
	db.exec("INSERT INTO " + name + " (v) SELECT i FROM generate_series(1, 40) i")
	sentinel := db.edgeTable("sentinel", "int PRIMARY KEY", 0)
	writer := testConnect(t, *testControlUser, *testControlPassword)
	write := func(sql string) {
		if _, err := writer.Exec(db.ctx, sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	changes := 0
	var enough atomic.Bool
	r := startRuntime(t, runtimeOptions{
		config: edit(t, db.config(), map[string]any{"advanced.backfill_chunk_size": 3}),
		onCheckpoint: func(*testRuntime, json.RawMessage) {
			if changes == 25 || enough.Load() {
				return
			}
			changes++
			// Some rows change, some go, and some come, in one statement.
			write(fmt.Sprintf(`MERGE INTO %s t USING (SELECT i FROM generate_series(%d, %d, 3) i) n ON t.v = n.i
				WHEN MATCHED AND t.v %% 2 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET v = t.v + 100
				WHEN NOT MATCHED THEN INSERT (v) VALUES (n.i)`, name, changes, changes+9))
			write(fmt.Sprintf("UPDATE %s SET id = %s WHERE v = (SELECT max(v) FROM %[1]s WHERE v < 200)", name, id))
		},
	})
	r.waitEnd(db, sentinel)
	enough.Store(true) // the last changes come ahead of the end that follows
	nulls := "ALTER COLUMN v SET NOT NULL"
	again := "ALTER COLUMN v DROP NOT NULL"
	if newest {
		nulls, again = "ADD CONSTRAINT v_there NOT NULL v NOT VALID", "DROP CONSTRAINT v_there"
	}
	for i, alter := range []string{nulls, again} {
		db.exec("ALTER TABLE " + name + " " + alter)
		value := "1000"
		if i == 1 {
			value = "NULL"
		}
		db.exec("INSERT INTO " + name + " (v) VALUES (" + value + ")")
	}
	r.waitEnd(db, sentinel)
	r.stop()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	var have, want []string
	h := history.New(history.Table{Name: table.String(), Key: []string{"id"}}, history.Table{Name: sentinel.String(), Key: []string{"id"}})
	for i, d := range r.documents() {
		if err := h.Document(i+1, d.table, []byte(d.doc)); err != nil {
			t.Fatal(err)
		}
		if d.table == table.String() && !strings.Contains(d.doc, `"op":"d"`) && (strings.Contains(d.doc, `"s":`) != newest || strings.Contains(d.doc, `"w":`)) {
			t.Fatalf("generated columns: %s", d.doc)
		}
	}
	if err := h.Rows(table.String(), func(row *history.Row, _ int) error {
		values, err := row.Values()
		have = append(have, fmt.Sprintf("%s %s %s", values["id"], values["v"], values["s"]))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	s := "''"
	if newest {
		s = "coalesce(s::text, 'null')"
	}
	for _, row := range db.query("SELECT '\"' || id || '\" ' || coalesce(v::text, 'null') || ' ' || " + s + " FROM " + name) {
		want = append(want, row[0])
	}
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) || changes < 10 {
		t.Errorf("after %d changes the documents leave %q\nwant %q", changes, have, want)
	}
}

// From version 18 on, a replica identity FULL with generated columns that are not published has the server reject updates
// and deletes: validation warns, and what it says to run helps.
func TestUnpublishedGenerated(t *testing.T) {
	db := newTestDB(t)
	db.requireVersion(180000)
	for _, c := range []struct{ name, definition, want string }{
		{"stored", "(id int PRIMARY KEY, g int GENERATED ALWAYS AS (id) STORED)", "publish_generated_columns = stored"},
		{"virtual", "(id int PRIMARY KEY, g int GENERATED ALWAYS AS (id) VIRTUAL)", "REPLICA IDENTITY DEFAULT;"},
		{"keyless", "(id int, g int GENERATED ALWAYS AS (id) VIRTUAL)", "create a unique index"},
		{"plain", "(id int PRIMARY KEY)", ""},
	} {
		db.exec("ALTER PUBLICATION " + quoteIdent(db.publication) + " SET (publish_generated_columns = none)")
		table := db.createTable(c.name, c.definition)
		db.exec("ALTER TABLE " + quoteTable(table) + " REPLICA IDENTITY FULL; ")
		db.exec("INSERT INTO " + quoteTable(table) + " VALUES (1)")
		r := requirement{table: table, key: []string{"id"}}
		if c.name == "keyless" {
			r.key = nil
		}
		_, warnings := db.check(db.connect(nil), r)
		text := strings.Join(warnings, "\n")
		_, err := db.control.Exec(db.ctx, "UPDATE "+quoteTable(table)+" SET id = 2")
		if c.want == "" {
			if text != "" || err != nil {
				t.Errorf("%s: %s (%v)", c.name, text, err)
			}
			continue
		}
		if err == nil || !strings.Contains(text, c.want) || !strings.Contains(text, "rejects every UPDATE") {
			t.Errorf("%s: the update: %v; warned: %q", c.name, err, text)
		}
		if _, statement, ok := strings.Cut(text, "run: "); ok && c.name != "keyless" {
			named := strings.NewReplacer(`"pub"`, quoteIdent(db.publication), `"`+c.name+`"`, quoteIdent(table.name)) // as the check has it
			// A publication of all tables, which the server may have, would have a say too.
			db.script("BEGIN; DROP PUBLICATION IF EXISTS flow_publication; " + named.Replace(statement) + " UPDATE " + quoteTable(table) +
				" SET id = 2; ROLLBACK")
		}
	}
}
