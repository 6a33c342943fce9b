package main

// live_schedules_test.go puts schema changes at chosen places of the stream, where catalog, stream and collection disagree.
//
// Goal: documents are those of the shape in force, and what they leave equals the table wherever the table's own change did
// not rewrite it; nothing waits for the next look into the catalog. Method: a table is captured, the connector is stopped
// (or goes on), a script is run, and the stream is waited for by a row of another table.

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// schedule is a table, what happens to it, and what is looked at. In SQL, {t} is the table, {other} a name beside it.
type schedule struct {
	name    string
	table   string // definition
	setup   string
	backlog string // run while the connector is stopped
	live    string // run while it streams
	// same tells that the documents' rows must equal the table's; present, that documents of vanished rows may stay.
	same, present bool
	logs          []string // of which each must come
	not           []string // that must not come
}

var schedules = []schedule{
	{
		name: "key moves under an identity without the key, before a column is added", present: true,
		table: "(id int PRIMARY KEY, v text, k int NOT NULL UNIQUE)",
		setup: "INSERT INTO {t} SELECT i, 'v' || i, i FROM generate_series(1, 9) i",
		backlog: `ALTER TABLE {t} REPLICA IDENTITY USING INDEX {t_k_key}; UPDATE {t} SET id = 50 WHERE id = 5;
			ALTER TABLE {t} REPLICA IDENTITY FULL; ALTER TABLE {t} ADD COLUMN added int`,
		logs: []string{"replica identity lacks"},
	},
	{
		name: "key moves under an identity without the key, which is put right", present: true,
		table: "(id int PRIMARY KEY, v text, k int NOT NULL UNIQUE)",
		setup: "INSERT INTO {t} SELECT i, 'v' || i, i FROM generate_series(1, 9) i",
		backlog: `ALTER TABLE {t} REPLICA IDENTITY USING INDEX {t_k_key}; UPDATE {t} SET id = 50 WHERE id = 5;
			ALTER TABLE {t} REPLICA IDENTITY FULL`,
		logs: []string{"replica identity lacks"},
	},
	{
		name: "swapped by rename and back", same: true, table: "(id int PRIMARY KEY, v text)",
		setup: `INSERT INTO {t} SELECT i, 'v' || i FROM generate_series(1, 9) i; CREATE TABLE {other} (LIKE {t} INCLUDING ALL);
			INSERT INTO {other} SELECT i, 'other ' || i FROM generate_series(1, 9) i; ALTER PUBLICATION {pub} ADD TABLE {other}`,
		backlog: `BEGIN; ALTER TABLE {t} RENAME TO {tmp}; ALTER TABLE {other} RENAME TO {t_name}; COMMIT;
			UPDATE {t} SET v = 'of the other' WHERE id IN (3, 4); INSERT INTO {t} VALUES (70, 'of the other'); DELETE FROM {t} WHERE id = 6;
			BEGIN; ALTER TABLE {t} RENAME TO {other_name}; ALTER TABLE {tmp_full} RENAME TO {t_name}; COMMIT`,
	},
	{
		name: "renamed away and back, written to only meanwhile", same: true, table: "(id int PRIMARY KEY, v text)",
		setup:   "INSERT INTO {t} SELECT i, 'v' || i FROM generate_series(1, 9) i",
		backlog: `ALTER TABLE {t} RENAME TO {tmp}; UPDATE {tmp_full} SET v = 'away' WHERE id = 3; ALTER TABLE {tmp_full} RENAME TO {t_name}`,
	},
	{
		name: "swapped by rename, the old one written to", table: "(id int PRIMARY KEY, v text)", same: true,
		setup: `INSERT INTO {t} SELECT i, 'v' || i FROM generate_series(1, 9) i; CREATE TABLE {other} (LIKE {t} INCLUDING ALL);
			INSERT INTO {other} SELECT i, 'other ' || i FROM generate_series(1, 9) i; ALTER PUBLICATION {pub} ADD TABLE {other};
			GRANT SELECT ON {other} TO PUBLIC`,
		live: `BEGIN; ALTER TABLE {t} RENAME TO {tmp}; ALTER TABLE {other} RENAME TO {t_name}; COMMIT;
			UPDATE {tmp_full} SET v = 'of the old' WHERE id = 3`,
	},
	{
		name: "a key moves, its TOAST value unchanged, and another column is dropped", same: true,
		table:   "(id int PRIMARY KEY, v text, n int)",
		setup:   "ALTER TABLE {t} ALTER v SET STORAGE EXTERNAL; INSERT INTO {t} SELECT i, repeat(md5(i::text), 200), i FROM generate_series(1, 9) i",
		backlog: "UPDATE {t} SET id = 50 WHERE id = 5; ALTER TABLE {t} DROP COLUMN n; UPDATE {t} SET id = 60 WHERE id = 6",
	},
	{
		name: "a key moves, its TOAST value unchanged, and another column is retyped", same: true,
		table:   "(id int PRIMARY KEY, v text, n int)",
		setup:   "ALTER TABLE {t} ALTER v SET STORAGE EXTERNAL; INSERT INTO {t} SELECT i, repeat(md5(i::text), 200), i FROM generate_series(1, 9) i",
		backlog: "UPDATE {t} SET id = 50 WHERE id = 5; ALTER TABLE {t} ALTER n TYPE text, ADD added int; UPDATE {t} SET id = 60 WHERE id = 6",
	},
	{
		name: "a key moves, its TOAST value unchanged, and one of two such columns is dropped", same: true,
		table: "(id int PRIMARY KEY, v text, w text)",
		setup: `ALTER TABLE {t} ALTER v SET STORAGE EXTERNAL, ALTER w SET STORAGE EXTERNAL;
			INSERT INTO {t} SELECT i, repeat(md5(i::text), 200), repeat(md5(i::text), 300) FROM generate_series(1, 9) i`,
		backlog: "UPDATE {t} SET id = 50 WHERE id = 5; ALTER TABLE {t} DROP COLUMN w",
	},
	{
		name: "a wider varchar", same: true, table: "(id int PRIMARY KEY, v varchar(5))",
		setup: "INSERT INTO {t} SELECT i, 'v' || i FROM generate_series(1, 9) i",
		live:  "ALTER TABLE {t} ALTER v TYPE varchar(50); UPDATE {t} SET v = repeat('long', 5) WHERE id = 3",
	},
	{
		name: "a column is added with a default", table: "(id int PRIMARY KEY, v text)",
		setup: "INSERT INTO {t} SELECT i, 'v' || i FROM generate_series(1, 9) i",
		live:  "ALTER TABLE {t} ADD COLUMN added int DEFAULT 7; UPDATE {t} SET v = 'new' WHERE id = 3",
		logs:  []string{"changed its columns", "trigger a backfill"},
	},
	{
		name: "types dropped before their last values are streamed", same: true,
		table: "(id int PRIMARY KEY, v text)",
		setup: `INSERT INTO {t} SELECT i, 'v' || i FROM generate_series(1, 9) i; CREATE DOMAIN {other} AS int;
			CREATE TYPE {tmp_full} AS ENUM ('a'); ALTER TABLE {t} ADD COLUMN d {other}, ADD COLUMN e {tmp_full}, ADD COLUMN es {tmp_full}[]`,
		backlog: `UPDATE {t} SET d = 5, e = 'a', es = '{a}', v = 'typed' WHERE id = 3; INSERT INTO {t} VALUES (80, 'new', 1, 'a', '{}');
			ALTER TABLE {t} DROP COLUMN d, DROP COLUMN e, DROP COLUMN es; DROP DOMAIN {other}; DROP TYPE {tmp_full};
			UPDATE {t} SET v = 'untyped' WHERE id = 4`,
	},
	{
		name: "a column is dropped and added under its name", table: "(id int PRIMARY KEY, v text)",
		setup:   "INSERT INTO {t} SELECT i, 'v' || i FROM generate_series(1, 9) i",
		backlog: "ALTER TABLE {t} DROP COLUMN v; ALTER TABLE {t} ADD COLUMN v text; UPDATE {t} SET v = 'new' WHERE id = 3",
		logs:    []string{"has other columns", "trigger a backfill"},
	},
	{
		name: "a type is changed to itself with other values", table: "(id int PRIMARY KEY, v text)",
		setup:   "INSERT INTO {t} SELECT i, 'v' || i FROM generate_series(1, 9) i",
		backlog: "ALTER TABLE {t} ALTER v TYPE text USING upper(v); UPDATE {t} SET v = 'new' WHERE id = 3",
		logs:    []string{"were rewritten", "trigger a backfill"},
	},
	{
		name: "a column is added with a default while no session runs", table: "(id int PRIMARY KEY, v text)",
		setup:   "INSERT INTO {t} SELECT i, 'v' || i FROM generate_series(1, 9) i",
		backlog: "ALTER TABLE {t} ADD COLUMN added int DEFAULT 7; UPDATE {t} SET v = 'new' WHERE id = 3",
		logs:    []string{"has other columns", "trigger a backfill"},
	},
	{
		name: "nothing changes that has to be announced", same: true, table: "(id int PRIMARY KEY, v text)",
		setup:   "INSERT INTO {t} SELECT i, 'v' || i FROM generate_series(1, 9) i",
		backlog: "CREATE INDEX ON {t} (v); ANALYZE {t}; ALTER TABLE {t} ALTER v SET STORAGE EXTERNAL; UPDATE {t} SET v = 'new'",
		not:     []string{"trigger a backfill"},
	},
	{
		name: "a table is truncated and filled again", table: "(id int PRIMARY KEY, v text)", present: true,
		setup: "INSERT INTO {t} SELECT i, 'v' || i FROM generate_series(1, 9) i",
		live:  "TRUNCATE {t}; INSERT INTO {t} SELECT i, 'again ' || i FROM generate_series(5, 15) i",
		logs:  []string{"was truncated"}, not: []string{"were rewritten"},
	},
}

// TestSchedules runs each of the schedules.
func TestSchedules(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a connector for each of many cases")
	}
	for _, s := range schedules {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			db := newTestDB(t)
			table, end := db.createTable("t", s.table), db.createTable("end", "(id int PRIMARY KEY, v text)")
			other, tmp := db.table("other"), db.table("tmp")
			names := regexp.MustCompile(`\{[a-z_]+\}`)
			run := func(sql string) {
				if sql == "" {
					return
				}
				db.script(names.ReplaceAllStringFunc(sql, func(name string) string {
					switch name {
					case "{t}":
						return quoteTable(table)
					case "{t_name}":
						return quoteIdent(table.name)
					case "{other}":
						return quoteTable(other)
					case "{other_name}":
						return quoteIdent(other.name)
					case "{tmp}":
						return quoteIdent(tmp.name)
					case "{tmp_full}":
						return quoteTable(tmp)
					case "{t_k_key}":
						return quoteIdent(table.name + "_k_key")
					case "{pub}":
						return quoteIdent(db.publication)
					}
					return name
				}))
			}
			run(s.setup)
			r := edgeStart(db, runtimeOptions{config: db.config(), logLevel: "info"},
				map[tableName]backfillMode{table: modeAutomatic, end: modeAutomatic})
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("documents: %s", r.summary(table))
				}
			})
			r.waitStreaming()
			if s.backlog != "" {
				r.stop()
				if err := r.wait(); err != nil {
					t.Fatal(err)
				}
				run(s.backlog)
				r.start()
			}
			run(s.live)
			id := testCount.Add(1)
			db.exec(fmt.Sprintf("INSERT INTO %s VALUES (%d, 'the end')", quoteTable(end), id))
			r.waitID(end, id)
			for _, text := range s.logs {
				r.waitLog(text)
			}
			for _, text := range s.not {
				if strings.Contains(r.stderr(), text) {
					t.Errorf("a log of %q", text)
				}
			}
			if s.same || s.present {
				db.eventually("the documents to leave what the table has", func() bool { return r.leaves(db, table, s.same) })
			}
			r.judgeSourced()
		})
	}
}

// leaves reports whether the documents leave the rows of the table, exactly or with others.
func (r *testRuntime) leaves(db *testDB, table tableName, exactly bool) bool {
	rows := r.edgeRows(table)
	want := db.query("SELECT to_json(id)::text, v FROM " + quoteTable(table))
	for _, row := range want {
		if rows[row[0]] != row[1] {
			return false
		}
	}
	return !exactly || len(want) == len(rows)
}

// TestKeySwappedInBackfill gives a backfill under way another column of its key's name: what lies behind its position by the
// one may lie before it by the other.
func TestKeySwappedInBackfill(t *testing.T) {
	db := newTestDB(t)
	table := db.createTable("t", "(id int NOT NULL, v text, k int NOT NULL, PRIMARY KEY (id))")
	end, name := db.createTable("end", "(id int PRIMARY KEY, v text)"), quoteTable(table)
	db.exec("INSERT INTO " + name + " SELECT i, 'v' || i, i - 25 FROM generate_series(1, 40) i")
	documents := 0
	r := edgeStart(db, runtimeOptions{
		config: db.edgeConfig(map[string]any{"backfill_chunk_size": 1}),
		onDocument: func(r *testRuntime, _ string, _ []byte) {
			if documents++; documents == 20 {
				r.sever(true)
			}
		},
	}, map[tableName]backfillMode{table: modeAutomatic, end: modeAutomatic})
	if err := r.wait(); !errors.Is(err, errSevered) {
		t.Fatalf("want a session that is severed within the backfill, have %v", err)
	}
	db.script(strings.ReplaceAll(`BEGIN; ALTER TABLE {} RENAME id TO x; ALTER TABLE {} RENAME k TO id; ALTER TABLE {} RENAME x TO k;
		ALTER TABLE {} DROP CONSTRAINT `+quoteIdent(table.name+"_pkey")+"; ALTER TABLE {} ADD PRIMARY KEY (id); COMMIT", "{}", name))
	r.start()
	r.waitEnd(db, end)
	r.checkPresent(db, table)
}
