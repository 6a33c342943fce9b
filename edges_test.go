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
	var wrong []string
	for _, row := range db.query("SELECT to_json(id)::text, v FROM " + quoteTable(table)) {
		if got, ok := rows[row[0]]; !ok {
			wrong = append(wrong, row[0]+" was lost")
		} else if got != row[1] {
			wrong = append(wrong, fmt.Sprintf("%s is stale: %.40q, want %.40q", row[0], got, row[1]))
		}
		delete(rows, row[0])
	}
	for id := range rows {
		wrong = append(wrong, id+" is not in the table")
	}
	r.report(table, wrong)
}

// report fails the test for the rows that are wrong.
func (r *testRuntime) report(table tableName, wrong []string) {
	r.t.Helper()
	if n := len(wrong); n > 0 {
		r.t.Errorf("%s: %d rows are wrong, such as: %s", table, n, strings.Join(wrong[:min(n, 5)], "; "))
	}
}

// checkPresent checks that the documents leave every row of the table; they may leave rows that vanished unseen.
func (r *testRuntime) checkPresent(db *testDB, table tableName) {
	r.t.Helper()
	rows := r.edgeRows(table)
	var wrong []string
	for _, row := range db.query("SELECT to_json(id)::text, v FROM " + quoteTable(table)) {
		if got, ok := rows[row[0]]; !ok || got != row[1] {
			wrong = append(wrong, fmt.Sprintf("%s is %.40q, want %.40q", row[0], got, row[1]))
		}
	}
	r.report(table, wrong)
}

// waitEnd waits until all that was done so far is committed. The table has an int id.
func (r *testRuntime) waitEnd(db *testDB, table tableName) {
	r.t.Helper()
	r.waitStreaming()
	id := 1_000_000_000 + testCount.Add(1)
	db.exec(fmt.Sprintf("INSERT INTO %s VALUES (%d, 'the end')", quoteTable(table), id))
	r.waitID(table, id)
}

// waitID waits for a document with the id.
func (r *testRuntime) waitID(table tableName, id int64) {
	r.t.Helper()
	r.waitFor(fmt.Sprintf("a document of %s with the id %d", table, id), func() bool {
		return slices.ContainsFunc(r.committed, func(d testDocument) bool {
			return d.table == table.String() && strings.Contains(d.doc, fmt.Sprintf(`"id":%d,`, id))
		})
	})
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
	var wrong []string
	for _, row := range db.query("SELECT id::text, v FROM " + quoteTable(table)) {
		if !seen[row[0]+" "+row[1]] {
			wrong = append(wrong, row[0]+" was lost")
		}
	}
	r.report(table, wrong)
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
		r.waitEnd(db, other)
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

// inWindow starts a capture of one table in chunks of ten rows and runs f while the connector has read the second chunk
// and cannot write the watermark behind it: what f commits lies between the chunk's snapshot and its closing fence. Of a
// table with the keys 1, 2, … those up to 10 are settled then, those up to 20 are in the chunk.
func inWindow(db *testDB, table tableName, mode backfillMode, f func()) *testRuntime {
	db.Helper()
	r := newTestRuntime(db.TB, runtimeOptions{config: db.edgeConfig(map[string]any{"backfill_chunk_size": 10})})
	bindings := r.edgeBindings(map[tableName]backfillMode{table: mode})
	bindings[0].resource = fmt.Appendf(nil, `{"namespace":%q,"stream":%q,"mode":%q}`, table.schema, table.name, mode)
	bindings[0].key = []string{"/id"} // discovery proposes none for a deferrable key
	r.bind(bindings)
	begin := func(sql string) (end func()) {
		db.Helper()
		conn := testConnect(db.TB, *testControlUser, *testControlPassword)
		if _, err := conn.PgConn().Exec(db.ctx, "BEGIN; "+sql).ReadAll(); err != nil {
			db.Fatalf("%s: %v", sql, err)
		}
		return func() { _ = conn.Close(db.ctx) }
	}
	const sqlLockWatermark = "SELECT FROM %s FOR UPDATE"
	lockWatermark := fmt.Sprintf(sqlLockWatermark, quoteTable(db.watermarks))
	blocked := func(on string) func() bool {
		return func() bool {
			return db.queryValue("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%' || $1 || '%'"+
				" AND application_name = 'estuary_flow'", on) != "0"
		}
	}
	endWriter := begin("LOCK TABLE " + quoteTable(table) + " IN ROW EXCLUSIVE MODE")
	r.start()
	r.waitLog("backfill triggered") // the catch-up fence has passed; no other is made while the writer is waited for
	endFirst := begin(lockWatermark)
	endWriter()
	db.eventually("the first chunk to wait for its watermark", blocked(db.watermarks.name))
	endTable := begin("LOCK TABLE " + quoteTable(table))
	endFirst()
	db.eventually("the second chunk to wait for its table", blocked(table.name))
	endSecond := begin(lockWatermark)
	endTable()
	db.eventually("the second chunk to wait for its watermark", blocked(db.watermarks.name))
	f()
	endSecond()
	return r
}

// TestOpenWriter: I3, edge 2. A transaction that is open when a table is activated is waited for, with its name in the
// status; other tables go on. With one that was open when the table joined the publication, and is streamed only in part.
func TestOpenWriter(t *testing.T) {
	db := newTestDB(t)
	other := db.edgeTable("other", "int PRIMARY KEY", 30)
	r := edgeStart(db, runtimeOptions{config: db.config()}, map[tableName]backfillMode{other: modeAutomatic})
	r.waitStreaming()
	r.stop()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}

	third := db.edgeTable("third", "int PRIMARY KEY", 30)
	keyed, keyless := db.table("keyed"), db.table("keyless")
	for _, table := range []tableName{keyed, keyless} {
		db.exec("CREATE TABLE " + quoteTable(table) + " (id int, v text)")
		db.exec("ALTER TABLE " + quoteTable(table) + " REPLICA IDENTITY FULL")
		db.grant(table)
	}
	db.exec("ALTER TABLE " + quoteTable(keyed) + " ADD PRIMARY KEY (id)")
	writer := testConnect(t, *testControlUser, *testControlPassword)
	write := func(from, to int) {
		t.Helper()
		for _, table := range []tableName{keyed, keyless} {
			_, err := writer.Exec(db.ctx, fmt.Sprintf("INSERT INTO %s SELECT i, repeat('.', 900) || i FROM generate_series(%d, %d) i",
				quoteTable(table), from, to))
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := writer.PgConn().Exec(db.ctx, "SET application_name = 'the-writer'; BEGIN").ReadAll(); err != nil {
		t.Fatal(err)
	}
	write(1, 5)
	db.publish(keyed, keyless)
	write(6, 10)
	r.bind(r.edgeBindings(map[tableName]backfillMode{
		other: modeAutomatic, third: modeAutomatic, keyed: modeAutomatic, keyless: modeKeyless,
	}))
	r.start()
	r.waitFor("the backfill of a table nobody writes to", func() bool { return r.countLocked(third) == 30 })
	db.exec("INSERT INTO " + quoteTable(other) + " VALUES (1000, 'streamed')")
	r.waitFor("a change of another table", func() bool { return r.countLocked(other) == 31 })
	r.waitLog("waits for 1 open transactions that may have written to it, the first: pid")
	r.waitLog(`"the-writer"`)
	write(11, 400) // more pages than the tables had when they were activated
	if n := r.count(keyed) + r.count(keyless); n > 0 {
		t.Errorf("%d rows were read while a transaction that writes to them is open", n)
	}
	if _, err := writer.Exec(db.ctx, "COMMIT"); err != nil {
		t.Fatal(err)
	}
	r.waitEnd(db, other)
	r.checkRows(db, keyed)
	r.checkComplete(db, keyless)
	r.strict(other, third, keyed)
}

// TestRewritingDDL: edge 1. A chunk that comes behind an open TRUNCATE or rewriting ALTER reads what that leaves, and other
// tables' changes do not wait for it, be it between chunks or when the table is activated.
func TestRewritingDDL(t *testing.T) {
	for _, mode := range []backfillMode{modeAutomatic, modeKeyless} {
		for _, statement := range []string{
			"ALTER TABLE %s ALTER COLUMN v TYPE varchar(%d)",
			"TRUNCATE %s; INSERT INTO %[1]s SELECT i, 'new' FROM generate_series(1, %d) i",
		} {
			word, _, _ := strings.Cut(statement, " ")
			t.Run(fmt.Sprintf("%s%s", strings.ReplaceAll(string(mode), " ", ""), word), func(t *testing.T) {
				testRewritingDDL(t, mode, statement)
			})
		}
	}
}

func testRewritingDDL(t *testing.T, mode backfillMode, statement string) {
	db := newTestDB(t)
	other := db.edgeTable("other", "int PRIMARY KEY", 1)
	table := db.edgeTable("rewritten", "int PRIMARY KEY", 3000)
	r := edgeStart(db, runtimeOptions{config: db.edgeConfig(map[string]any{"backfill_chunk_size": 10})},
		map[tableName]backfillMode{other: modeAutomatic})
	r.waitStreaming()
	r.stop()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	streams := func(id int) {
		t.Helper()
		began := time.Now()
		db.exec(fmt.Sprintf("INSERT INTO %s VALUES (%d, 'x')", quoteTable(other), id))
		r.waitID(other, int64(id))
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("a change of another table took %s", took)
		}
	}
	held := 0
	hold := func() func() {
		t.Helper()
		conn := testConnect(t, *testControlUser, *testControlPassword)
		if _, err := conn.PgConn().Exec(db.ctx, "BEGIN; LOCK TABLE "+quoteTable(table)).ReadAll(); err != nil {
			t.Fatal(err)
		}
		return func() {
			t.Helper()
			held++
			sql := fmt.Sprintf(statement, quoteTable(table), 3000/held) + "; COMMIT"
			if _, err := conn.PgConn().Exec(db.ctx, sql).ReadAll(); err != nil {
				t.Fatal(err)
			}
		}
	}
	release := hold()
	r.bind(r.edgeBindings(map[tableName]backfillMode{other: modeAutomatic, table: mode}))
	r.start()
	for id := range 3 {
		streams(1000 + id)
		time.Sleep(time.Second)
	}
	if n := r.count(table); n > 0 {
		t.Errorf("%d rows of a locked table", n)
	}
	release()
	r.waitFor("the first chunks", func() bool { return r.countLocked(table) > 20 })
	release = hold()
	for id := range 3 {
		streams(2000 + id)
		time.Sleep(time.Second)
	}
	release()
	r.waitEnd(db, other)
	r.checkPresent(db, table)
	if strings.HasPrefix(statement, "ALTER") {
		r.checkRows(db, table)
	}
}

// TestChangesInWindow: I2, I4 to I6, edges 5 and 6. What happens between a chunk's snapshot and its closing fence, to rows
// before the chunk, in it, behind it and at its ends.
func TestChangesInWindow(t *testing.T) {
	const plain, deferred = "int PRIMARY KEY", "int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED"
	for _, test := range []struct {
		name, id, sql string
		loose         bool // rows vanish unseen, or come anew
	}{
		{"changes", plain, `UPDATE @ SET v = 'changed' WHERE id IN (10, 11, 15, 20, 21, 60);
			DELETE FROM @ WHERE id IN (9, 12, 19, 22, 59); INSERT INTO @ VALUES (0, 'new'), (-1, 'new'), (1000, 'new')`, false},
		{"moves", plain, `UPDATE @ SET id = -10 WHERE id = 13; UPDATE @ SET id = 2000 WHERE id = 14;
			UPDATE @ SET id = 13 WHERE id = 25; DELETE FROM @ WHERE id = 15; INSERT INTO @ VALUES (15, 'again');
			UPDATE @ SET id = 25 WHERE id = 1; UPDATE @ SET id = 1 WHERE id = 27; DELETE FROM @ WHERE id = 1`, false},
		{"swaps", deferred, `BEGIN; UPDATE @ SET id = 27 - id WHERE id IN (13, 14); UPDATE @ SET id = 21 - id
			WHERE id BETWEEN 6 AND 15; UPDATE @ SET id = 41 - id WHERE id BETWEEN 16 AND 25;
			UPDATE @ SET v = v || '!' WHERE id BETWEEN 9 AND 22; COMMIT`, true},
		{"chains", deferred, `BEGIN; UPDATE @ SET id = id + 1; INSERT INTO @ VALUES (13, 'twice'); UPDATE @ SET v = 'again'
			WHERE id = 13 AND v = 'twice'; DELETE FROM @ WHERE id = 13 AND v <> 'again'; COMMIT; UPDATE @ SET id = id + 100`, true},
		{"truncate", plain, `BEGIN; UPDATE @ SET v = 'gone' WHERE id = 13; TRUNCATE @;
			INSERT INTO @ VALUES (12, 'after'), (30, 'after'), (1, 'after'); COMMIT`, true},
		{"recreated", plain, `DROP TABLE @; CREATE TABLE @ (id int PRIMARY KEY, v text); GRANT SELECT ON @ TO PUBLIC;
			ALTER PUBLICATION & ADD TABLE @; ALTER TABLE @ REPLICA IDENTITY FULL;
			INSERT INTO @ SELECT i, 'anew' FROM generate_series(1, 60) i`, true},
		{"new column", plain, `ALTER TABLE @ ADD COLUMN w int DEFAULT 7; UPDATE @ SET v = 'wide' WHERE id IN (12, 30, 1)`, true},
		{"other type", plain, `UPDATE @ SET v = 'before' WHERE id IN (13, 14); ALTER TABLE @ ALTER COLUMN v TYPE varchar(900);
			UPDATE @ SET v = 'after' WHERE id IN (14, 30, 1)`, false},
	} {
		for _, mode := range []backfillMode{modeAutomatic, modeNormal, modeKeyless} {
			if mode != modeAutomatic && test.id == deferred {
				continue
			}
			t.Run(test.name+" "+strings.ReplaceAll(string(mode), " ", ""), func(t *testing.T) {
				db := newTestDB(t)
				table := db.edgeTable("t", test.id, 60)
				r := inWindow(db, table, mode, func() {
					db.script(strings.NewReplacer("@", quoteTable(table), "&", quoteIdent(db.publication)).Replace(test.sql))
				})
				r.waitEnd(db, table)
				r.checkPresent(db, table)
				if test.name != "truncate" && test.name != "recreated" {
					r.checkRows(db, table)
				}
				if mode == modeAutomatic && !test.loose {
					r.strict(table)
				}
				if t.Failed() {
					t.Logf("documents: %s", strings.ReplaceAll(r.summary(table), strings.Repeat(".", 500), ""))
				}
			})
		}
	}
}
