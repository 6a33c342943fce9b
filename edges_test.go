package main

// edges_test.go shows on a real server that the invariants of DESIGN §3 hold at the sharp edges of §3.1.
//
// Goal: nothing is lost, repeated or stale where the server's log, its snapshots and its catalog disagree for a while.
// Method: each test brings the server into that state on purpose, waits for signals that it is there, and compares what
// was committed with the tables. Tests that hang commits, crash the server or change its settings have one of their own.

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"source-postgres/tests/history"
)

// edgeConfig is the test's endpoint config with advanced properties set over its own.
func (db *testDB) edgeConfig(advanced map[string]any) json.RawMessage {
	db.Helper()
	var config map[string]any
	if err := json.Unmarshal(db.config(), &config); err != nil {
		db.Fatal(err)
	}
	for name, value := range advanced {
		config["advanced"].(map[string]any)[name] = value
	}
	raw, err := json.Marshal(config)
	if err != nil {
		db.Fatal(err)
	}
	return raw
}

// edgeBindings discovers the tables and binds them, each in its mode.
func (r *testRuntime) edgeBindings(modes map[tableName]backfillMode) []runtimeBinding {
	r.t.Helper()
	discovered, err := r.driver.discover(r.t.Context())
	if err != nil {
		r.t.Fatalf("discover: %v", err)
	}
	all, err := previewBindings(discovered.Bindings, &previewOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	var bound []runtimeBinding
	for _, b := range all {
		table, mode, err := tableOfResource(b.resource)
		if err != nil {
			r.t.Fatal(err)
		}
		wanted, ok := modes[table]
		if !ok {
			continue
		}
		if wanted != mode {
			b.resource = fmt.Appendf(nil, `{"namespace":%q,"stream":%q,"mode":%q}`, table.schema, table.name, wanted)
		}
		bound = append(bound, b)
	}
	if len(bound) != len(modes) {
		r.t.Fatalf("discovered %d of %d tables", len(bound), len(modes))
	}
	return bound
}

// edgeStart binds the tables and starts a session.
func edgeStart(db *testDB, o runtimeOptions, modes map[tableName]backfillMode) *testRuntime {
	db.Helper()
	r := newTestRuntime(db.TB, o)
	r.bind(r.edgeBindings(modes))
	r.start()
	return r
}

// edgeDocument is what these tests look at of a document: their tables have the columns id and v.
type edgeDocument struct {
	ID   json.RawMessage `json:"id"`
	V    *string         `json:"v"`
	Meta struct {
		Op     string          `json:"op"`
		Before json.RawMessage `json:"before"`
		Source struct {
			Snapshot bool     `json:"snapshot"`
			Loc      [3]int64 `json:"loc"`
		} `json:"source"`
	} `json:"_meta"`
}

// edgeDocuments returns the committed documents of a table.
func (r *testRuntime) edgeDocuments(table tableName) []edgeDocument {
	r.t.Helper()
	var docs []edgeDocument
	for _, d := range r.documents() {
		if d.table != table.String() {
			continue
		}
		var doc edgeDocument
		if err := json.Unmarshal([]byte(d.doc), &doc); err != nil {
			r.t.Fatalf("%v: %s", err, d.doc)
		}
		docs = append(docs, doc)
	}
	return docs
}

// summary is the committed documents of a table, each as op, id and v.
func (r *testRuntime) summary(table tableName) string {
	r.t.Helper()
	var s []string
	for _, d := range r.edgeDocuments(table) {
		text := d.Meta.Op + " " + string(d.ID)
		if d.V != nil {
			text += "=" + *d.V
		}
		s = append(s, text)
	}
	return strings.Join(s, ", ")
}

// waitSummary waits until the committed documents of a table are these.
func (r *testRuntime) waitSummary(table tableName, want string) {
	r.t.Helper()
	n := strings.Count(want, ",") + 1
	r.waitFor(fmt.Sprintf("%d documents of %s", n, table), func() bool {
		have := 0
		for _, d := range r.committed {
			if d.table == table.String() {
				have++
			}
		}
		return have >= n
	})
	if got := r.summary(table); got != want {
		r.t.Fatalf("%s:\n got %s\nwant %s", table, got, want)
	}
}

// edgeRows is what the last documents of each key leave of a table.
func (r *testRuntime) edgeRows(table tableName) map[string]string {
	r.t.Helper()
	rows := make(map[string]string)
	for _, d := range r.edgeDocuments(table) {
		id := string(d.ID)
		switch {
		case d.Meta.Op == "d":
			delete(rows, id)
		case d.V != nil:
			rows[id] = *d.V
		case rows[id] == "":
			r.t.Errorf("%s: a document of %s has no v, and none before it", table, id)
		}
	}
	return rows
}

// checkRows compares what the documents leave with the table.
func (r *testRuntime) checkRows(db *testDB, table tableName) {
	r.t.Helper()
	rows := r.edgeRows(table)
	n := 0
	for _, row := range db.query("SELECT to_json(id)::text, v FROM " + quoteTable(table)) {
		n++
		if got, ok := rows[row[0]]; !ok {
			r.t.Errorf("%s: the row %s was lost", table, row[0])
		} else if got != row[1] {
			r.t.Errorf("%s: the row %s is stale: %.40q, want %.40q", table, row[0], got, row[1])
		}
		delete(rows, row[0])
	}
	for id := range rows {
		r.t.Errorf("%s: the row %s is not in the table", table, id)
	}
	if r.t.Failed() {
		r.t.Logf("%s: %d rows", table, n)
	}
}

// checkComplete checks that every row of a keyless table is a document.
func (r *testRuntime) checkComplete(db *testDB, table tableName) {
	r.t.Helper()
	seen := make(map[string]bool)
	for _, d := range r.edgeDocuments(table) {
		if d.Meta.Op != "d" && d.V != nil {
			seen[string(d.ID)+" "+*d.V] = true
		}
	}
	for _, row := range db.query("SELECT id::text, v FROM " + quoteTable(table)) {
		if !seen[row[0]+" "+row[1]] {
			r.t.Errorf("%s: the row %s was lost", table, row[0])
		}
	}
}

// strict checks that the tables' history is strict, with full old rows.
func (r *testRuntime) strict(tables ...tableName) {
	r.t.Helper()
	known := make(map[string]bool)
	h := history.New()
	for _, t := range tables {
		h.Add(history.Table{Name: t.String(), Key: []string{"id"}, Full: true})
		known[t.String()] = true
	}
	for i, d := range r.documents() {
		if !known[d.table] {
			continue
		}
		if err := h.Document(i+1, d.table, []byte(d.doc)); err != nil {
			r.t.Error(err)
			return
		}
	}
}

// edgeTable creates a table of id and v with n rows, a dozen to a page.
func (db *testDB) edgeTable(base, id string, n int) tableName {
	db.Helper()
	t := db.createTable(base, "(id "+id+", v text)")
	db.exec(fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL", quoteTable(t)))
	db.exec(fmt.Sprintf("INSERT INTO %s SELECT i, i || repeat('.', 500) FROM generate_series(1, %d) i", quoteTable(t), n))
	return t
}

// TestInvisibleCommit: I3. Commits that are in the WAL, and streamed, while no snapshot sees them yet: when a table is
// activated, between its chunks, and after a restart; in every mode, with watermarks and with LSN fences.
func TestInvisibleCommit(t *testing.T) {
	server := startServer(t)
	rounds := 1
	if *longTests {
		rounds = 5
	}
	for round := range rounds {
		t.Run(fmt.Sprint(round), func(t *testing.T) { testInvisibleCommit(t, server) })
	}
}

func testInvisibleCommit(t *testing.T, server *ownServer) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	pause := func(most int) { time.Sleep(time.Duration(random.IntN(most)) * time.Millisecond) }

	db := newTestDB(t)
	db.exec("SET synchronous_commit = local")
	db.exec("ALTER ROLE " + quoteIdent(*testCaptureUser) + " SET synchronous_commit = local")
	other := db.edgeTable("other", "int PRIMARY KEY", 10)
	precise := db.edgeTable("precise", "int PRIMARY KEY", 200)
	normal := db.edgeTable("normal", "int PRIMARY KEY", 200)
	keyless := db.edgeTable("keyless", "int", 200)
	byPage := db.edgeTable("bypage", "int PRIMARY KEY", 200) // with a key, scanned without it
	tables := []tableName{precise, normal, keyless, byPage}
	modes := map[tableName]backfillMode{
		other: modeAutomatic, precise: modePrecise, normal: modeNormal, keyless: modeKeyless, byPage: modeKeyless,
	}
	everywhere := func(statements string) string {
		var sql []string
		for _, table := range tables {
			sql = append(sql, strings.ReplaceAll(statements, "TABLE", quoteTable(table)))
		}
		return strings.Join(sql, ";")
	}

	writing := edgeStart(db, runtimeOptions{config: db.edgeConfig(map[string]any{"backfill_chunk_size": 50})},
		map[tableName]backfillMode{other: modeAutomatic})
	readOnlySlot := db.slot + "_ro"
	t.Cleanup(func() {
		own := db.slot
		db.slot = readOnlySlot
		db.dropSlot()
		db.slot = own
	})
	reading := edgeStart(db, runtimeOptions{config: db.edgeConfig(map[string]any{
		"backfill_chunk_size": 50, "read_only_capture": true, "slotName": readOnlySlot,
	})}, map[tableName]backfillMode{other: modeAutomatic})
	captures := []*testRuntime{writing, reading}
	for _, r := range captures {
		r.waitStreaming()
		r.stop()
		if err := r.wait(); err != nil {
			t.Fatal(err)
		}
	}

	server.set(db, "synchronous_standby_names", "nobody")
	defer server.set(db, "synchronous_standby_names", "")
	first := db.hang(everywhere("UPDATE TABLE SET v = 'first' WHERE id IN (5, 150); INSERT INTO TABLE VALUES (1000, 'first'); " +
		"DELETE FROM TABLE WHERE id IN (7, 170)"))
	for _, r := range captures {
		r.bind(r.edgeBindings(modes))
		r.start()
		r.waitLog("open transactions that may have written to it")
	}
	for _, r := range captures {
		db.exec(fmt.Sprintf("INSERT INTO %s VALUES ((SELECT max(id) + 1 FROM %[1]s), 'others go on')", quoteTable(other)))
		r.waitFor("a table that need not wait", func() bool {
			last := ""
			for _, d := range r.committed {
				if d.table == other.String() {
					last = d.doc
				}
			}
			return strings.Contains(last, "others go on")
		})
		if n := r.count(precise); n > 0 {
			t.Errorf("%d rows of %s were read while a transaction that wrote to it is invisible", n, precise)
		}
		r.kill()
		_ = r.wait()
		r.start()
	}
	pause(2000)
	db.release(first)

	var second, third *hungCommit
	for i, r := range captures {
		r.waitFor("the first chunk", func() bool { return r.countLocked(precise) >= 50 })
		if i > 0 {
			continue
		}
		second = db.hang(everywhere("UPDATE TABLE SET v = 'second' WHERE id IN (10, 190); INSERT INTO TABLE VALUES (2000, 'second'), " +
			"(0, 'second'); DELETE FROM TABLE WHERE id IN (20, 195); UPDATE TABLE SET id = 3000 WHERE id = 180; " +
			"UPDATE TABLE SET id = -1 WHERE id = 181"))
	}
	pause(3000)
	for _, r := range captures {
		r.kill()
		_ = r.wait()
	}
	third = db.hang(everywhere("UPDATE TABLE SET v = 'third' WHERE id IN (11, 191, 150)"))
	for _, r := range captures {
		r.start()
	}
	pause(2000)
	db.release(third, second)
	server.set(db, "synchronous_standby_names", "")
	for _, r := range captures {
		r.waitStreaming()
		db.exec(fmt.Sprintf("INSERT INTO %s VALUES ((SELECT max(id) + 1 FROM %[1]s), 'the end')", quoteTable(other)))
		r.waitFor("the end", func() bool {
			return slices.ContainsFunc(r.committed, func(d testDocument) bool {
				return d.table == other.String() && strings.Contains(d.doc, "the end")
			})
		})
	}
	for _, r := range captures {
		r.strict(precise)
		for _, table := range []tableName{precise, normal, byPage} {
			r.checkRows(db, table)
		}
		r.checkComplete(db, keyless)
	}
}

// count is how many documents of a table are committed.
func (r *testRuntime) count(table tableName) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.countLocked(table)
}

func (r *testRuntime) countLocked(table tableName) int {
	n := 0
	for _, d := range r.committed {
		if d.table == table.String() {
			n++
		}
	}
	return n
}
