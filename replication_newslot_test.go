package main

// replication_newslot_test.go shows that a slot decodes what is captured by the catalog as it is, also where that changes while the slot is
// being made.
//
// Method: the server goes through the phases of a first snapshot as a busy one does. A transaction is open when the slot is asked
// for; then one begins that stays open, and behind it the catalog changes; the first one ends, so that the server goes on to
// the next phase, in which something is written. A slot that was left at that decodes without the catalog's change. The making
// of a slot waits for the transactions of all tests: these run alone.

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// amidCreation has a session make its slot while change is called.
type amidCreation struct {
	*testDB
	other tableName
}

// hold begins a transaction that has written, and returns its number.
func (x *amidCreation) hold() (conn *pgx.Conn, xid string) {
	x.Helper()
	conn = x.begin(fmt.Sprintf("INSERT INTO %s VALUES (1)", quoteTable(x.other)))
	if err := conn.QueryRow(x.ctx, "SELECT txid_current()::text").Scan(&xid); err != nil {
		x.Fatal(err)
	}
	return conn, xid
}

// waitWaiting waits until the server waits for a transaction.
func (x *amidCreation) waitWaiting(xid string) {
	x.Helper()
	x.waitFor("the slot to wait for transaction "+xid, func() bool {
		return len(x.query("SELECT FROM pg_locks WHERE locktype = 'transactionid' AND transactionid::text = $1 AND NOT granted", xid)) > 0
	})
}

// run starts the session, and calls change where the decoding follows nothing, and write where it makes its first snapshot.
func (x *amidCreation) run(start, change, write func()) {
	x.Helper()
	first, xid := x.hold()
	start()
	x.waitWaiting(xid)
	second, xid := x.hold()
	change()
	x.end(first, "COMMIT")
	x.waitWaiting(xid)
	write()
	x.end(second, "COMMIT")
}

// TestNewSlotAmidChange: {t} is a captured table, {r} a captured partitioned one with the partition {p}, {q} one that is to
// become one, too. Each case changes the catalog while the slot is being made, and then rows.
func TestNewSlotAmidChange(t *testing.T) {
	for _, test := range []struct {
		name, change, then string
		same               bool   // what changes is no business of the captured tables
		want, never        string // a part of a document that comes of the rows that are changed then, and one that none has
	}{
		{name: "attached", change: "ALTER TABLE {r} ATTACH PARTITION {q} FOR VALUES FROM (100) TO (200)", then: "INSERT INTO {r} VALUES (150, 'new')", want: `"id":150,`},
		{name: "detached", change: "ALTER TABLE {r} DETACH PARTITION {p}", then: "INSERT INTO {p} VALUES (50, 'new')", never: `"id":50,`},
		{name: "published again", change: "ALTER PUBLICATION {pub} DROP TABLE {t}; ALTER PUBLICATION {pub} ADD TABLE {t}", then: "INSERT INTO {t} VALUES (50, 'new')", want: `"id":50,`},
		{name: "a column", change: "ALTER TABLE {t} ADD COLUMN w text", then: "INSERT INTO {t} VALUES (50, 'new', 'w')", want: `"w":"w"`},
		{name: "rewritten", change: "VACUUM FULL {t}", then: "INSERT INTO {t} VALUES (50, 'new')", want: `"id":50,`},
		{name: "truncated", change: "TRUNCATE {t}", then: "INSERT INTO {t} VALUES (50, 'new')", want: `"id":50,`},
		{name: "another table", change: "CREATE TABLE {other}_2 (id int); DROP TABLE {other}_2", then: "INSERT INTO {t} VALUES (50, 'new')", want: `"id":50,`, same: true},
	} {
		t.Run(strings.ReplaceAll(test.name, " ", "_"), func(t *testing.T) {
			db := newTestDB(t)
			db.requireVersion(130000)
			tree := newLeafTree(db, "PRIMARY KEY")
			part := tree.create("part", tree.root, 0, 100)
			tree.create("stays", tree.root, 200, 300)
			loose := tree.filled("loose", 100, 110)
			plain := db.createTable("plain", "(id int PRIMARY KEY, v text)")
			x := &amidCreation{testDB: db, other: db.createTable("other", "(id int)")}
			words := strings.NewReplacer("{r}", quoteTable(tree.root), "{p}", quoteTable(part), "{q}", quoteTable(loose), "{t}", quoteTable(plain),
				"{pub}", quoteIdent(db.publication), "{other}_2", quoteTable(tableName{x.other.schema, x.other.name + "_2"}))
			run := func(sql string) {
				for statement := range strings.SplitSeq(words.Replace(sql), "; ") {
					db.exec(statement)
				}
			}
			var r *testRuntime
			x.run(func() {
				r = edgeStart(db, runtimeOptions{config: db.config()},
					map[tableName]backfillMode{tree.root: modeAutomatic, plain: modeAutomatic})
			}, func() { run(test.change) }, func() { run("INSERT INTO {r} VALUES (201, 'amid'); INSERT INTO {t} VALUES (1, 'amid')") })
			r.waitStreaming()
			run(test.then)
			run("INSERT INTO {r} VALUES (299, 'last')")
			has := func(part string) func() bool {
				return func() bool {
					return slices.ContainsFunc(r.committed, func(d testDocument) bool { return strings.Contains(d.doc, part) })
				}
			}
			r.waitFor("the last row", has(`"id":299,`))
			if test.want != "" {
				r.waitFor("the row that was inserted then", has(test.want))
			}
			r.mu.Lock()
			never := test.never != "" && has(test.never)()
			r.mu.Unlock()
			if never {
				t.Errorf("a document has %s", test.never)
			}
			if again := strings.Contains(r.stderr(), "the slot is made anew"); again == test.same {
				t.Errorf("made anew: %v", again)
			}
			r.finish()
		})
	}
}

// TestNewSlotUndecodable: a table that is not captured was rewritten while the slot was being made, so that no session gets past a
// change of it. What the error says to do is done, and so is what is said of a slot that is gone.
func TestNewSlotUndecodable(t *testing.T) {
	for _, way := range []string{"counters", "dropped"} {
		t.Run(way, func(t *testing.T) {
			db := newTestDB(t)
			db.requireVersion(130000)
			table := db.edgeTable("t", "int PRIMARY KEY", 10)
			x := &amidCreation{testDB: db, other: db.createTable("other", "(id int)")}
			rewritten := quoteTable(db.createTable("rewritten", "(id int)"))
			modes := map[tableName]backfillMode{table: modeAutomatic}
			var r *testRuntime
			x.run(func() { r = edgeStart(db, runtimeOptions{config: db.config()}, modes) },
				func() { db.exec("VACUUM FULL " + rewritten) },
				func() { db.exec(fmt.Sprintf("INSERT INTO %s VALUES (100, 'amid')", quoteTable(table))) })
			r.waitStreaming() // with a cursor to come back to: before that the next session makes the slot by itself
			db.exec("INSERT INTO " + rewritten + " VALUES (1)")
			err := r.wait()
			if err == nil {
				t.Fatal("the session ended without a fault")
			}
			if message := err.Error(); !strings.Contains(message, adviceDecoding) ||
				!slices.ContainsFunc(unmappedMessages, func(text string) bool { return strings.Contains(message, text) }) {
				t.Fatalf("the session ended with %s", message)
			}
			db.exec(fmt.Sprintf("INSERT INTO %s VALUES (101, 'in the gap')", quoteTable(table)))
			if way == "dropped" {
				db.dropSlot()
				r.refused(append([]string{"does not exist, though the capture has read up to"}, bothWaysOut...)...)
				db.recovers(r, table, nil)
				return
			}
			bindings := r.edgeBindings(modes)
			for i := range bindings {
				bindings[i].backfill++
			}
			r.bind(bindings)
			r.start()
			r.waitEnd(db, table)
			r.checkPresent(db, table)
			r.finish()
		})
	}
}
