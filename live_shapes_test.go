package main

// live_shapes_test.go is the matrix of table shapes: what a PostgreSQL table can be beside its columns' types.
//
// Goal: every shape is captured right, or refused at validation with the SQL that makes it fit. Method: all shapes are bound
// by one capture of a database of their own, which is discovered, validated, applied and opened as the runtime would. It
// backfills in small chunks while every table is written to, is cut off in the middle of that, streams, is killed, and
// resumes behind a backlog. Then every document must fit the discovered schema and the sourced one, the documents of every
// key must be a strict history, and their replay must equal the table.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"source-postgres/tests/history"

	"github.com/jackc/pgx/v5"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// shape is one table of the matrix. In SQL, {t} is the table, {s} its schema, {q} the table's name for names made of it, all
// quoted ({q} is not).
type shape struct {
	name   string // of the table, exact
	schema string // "": shapes
	since  int    // server_version_num
	sql    string // "": a table of id, v with a primary key
	listed string // column list and row filter behind its name in the publication

	key      []string // that discovery finds
	fallback bool     // it is that of a unique index
	override []string // the collection's key instead
	mode     backfillMode

	id    string   // column whose values are made of numbers, "id"; "-": there is none
	of    string   // the id made of the number {i}
	n     string   // the number in SQL, for tables that the id does not tell of it
	cols  string   // columns of an insertion
	vals  string   // their values, of the number {i}
	set   string   // an update
	moves string   // a key's move, of the number {i}; "-": none
	where string   // the rows that are captured
	not   []string // columns that documents do not have
	long  []string // columns whose values an insertion that the stream made of an update may lack: its row was gone by then

	check      shapeCheck
	insertOnly bool   // the server rejects updates and deletes
	full       bool   // old rows are whole
	warning    string // of the validation
	refused    string // by the validation, with SQL that makes it fit
	via        string // the table that is written to instead
	rowsToo    string // SQL of rows beside the numbered ones, run before the backfill
}

// shapeCheck is what documents of a shape promise.
type shapeCheck uint8

const (
	shapeStrict    shapeCheck = iota
	shapeCalm                 // of a keyless table: strict, nothing is written while it is backfilled
	shapeContained            // of a keyless table written to in its backfill: every row has a document
)

// schema names in which a quoting mistake anywhere shows.
const (
	plainSchema = "shapes"
	oddSchema   = "Sch\"ema 's/~1.%s\\\n\t日本"
)

// oddNames are names of tables and columns.
var oddNames = []string{
	`quo"te`, `apo'strophe`, `do.t`, `sla/sh`, `til~de`, `~1~0`, `per%cent %s %[1]d`, `back\slash`, "new\nline", "tab\t", ` blank `,
	`select`, `user`, `1st`, `$1`, `MiXed`, `mixed`, `MIXED`, `日本語`, `ключ`, `é`, "e\u0301", `_meta_`, `{}`, `a,b`, `--`, `/*`, `;`,
	`E'x'`, `[0]`, `#`, `?`, `null`, `\u0000`, "\u2028", "\x7f", strings.Repeat("n", 63), strings.Repeat("é", 31), "🐘", ".", "..",
	"%00", "a%2Fb", `""`, `__proto__`, `$ref`, `-1`,
}

// shapes are the tables of the matrix.
func shapes() []*shape {
	id := []string{"id"}
	var odd []*shape
	for i, name := range oddNames {
		var columns, names, values []string
		for j, column := range oddNames {
			if j != i && j%5 != i%5 { // not all of them everywhere: the key and some
				continue
			}
			columns = append(columns, quoteIdent(column)+" text")
			if j == i {
				columns[len(columns)-1] = quoteIdent(column) + " int PRIMARY KEY"
				continue
			}
			names, values = append(names, quoteIdent(column)), append(values, "'w' || {i}")
		}
		odd = append(odd, &shape{
			schema: oddSchema, name: name, sql: "CREATE TABLE {t} (" + strings.Join(columns, ", ") + ")", key: []string{name},
			id: quoteIdent(name), cols: quoteIdent(name) + ", " + strings.Join(names, ", "), vals: "{i}, " + strings.Join(values, ", "),
			set: names[0] + " = " + names[0] + " || '+'",
		})
	}
	return append([]*shape{
		{name: "plain", key: id},
		{name: "plain_full", sql: "CREATE TABLE {t} (id int PRIMARY KEY, v text); ALTER TABLE {t} REPLICA IDENTITY FULL", key: id, full: true},

		// Keyless.
		{name: "keyless_full", sql: "CREATE TABLE {t} (id int, v text); ALTER TABLE {t} REPLICA IDENTITY FULL", check: shapeCalm},
		{name: "keyless_written", sql: "CREATE TABLE {t} (id int, v text); ALTER TABLE {t} REPLICA IDENTITY FULL", check: shapeContained},
		{
			name: "keyless_default", sql: "CREATE TABLE {t} (id int, v text)", check: shapeCalm, insertOnly: true,
			warning: `table {n} has no replica identity: the server rejects every UPDATE and DELETE of it while it is in the publication; ` +
				`inserts are captured. To allow them, run: ALTER TABLE {t} REPLICA IDENTITY FULL;`,
		},
		{
			name: "keyless_nothing", sql: "CREATE TABLE {t} (id int PRIMARY KEY, v text); ALTER TABLE {t} REPLICA IDENTITY NOTHING", key: id,
			insertOnly: true, warning: `To allow them, run: ALTER TABLE {t} REPLICA IDENTITY DEFAULT;`,
		},
		{
			name: "keyless_override", sql: "CREATE TABLE {t} (id int, v text); ALTER TABLE {t} REPLICA IDENTITY FULL", override: id, full: true,
		},
		{
			name: "keyless_override_default", sql: "CREATE TABLE {t} (id int, v text)", override: id, insertOnly: true,
			warning: `To allow them, run: ALTER TABLE {t} REPLICA IDENTITY FULL;`,
		},
		{
			name: "keyless_mode_of_key", sql: "CREATE TABLE {t} (id int PRIMARY KEY, v text)", key: id, override: fallbackKey, mode: modeKeyless,
			check: shapeContained,
		},
		{
			name: "keyless_by_ctid_with_key", sql: "CREATE TABLE {t} (id int, v text); ALTER TABLE {t} REPLICA IDENTITY FULL", override: id,
			mode: modeKeyless, check: shapeContained,
		},
		{name: "empty_columns", sql: "CREATE TABLE {t} (); ALTER TABLE {t} REPLICA IDENTITY FULL", check: shapeCalm, id: "-"},
		{name: "empty_rows", sql: "CREATE TABLE {t} (id int PRIMARY KEY)", key: id, id: "-"},
		{name: "empty_keyless", sql: "CREATE TABLE {t} (id int)", check: shapeCalm, id: "-", insertOnly: true},

		// Partitions.
		{
			name: "parts", key: []string{"id", "a", "b"}, cols: "id, v, a, b", vals: "{i}, 'row ' || {i}, {i} % 4, {i} % 3",
			sql: `CREATE TABLE {t} (id int, v text, a int, b int, PRIMARY KEY (id, a, b)) PARTITION BY LIST (a);
				CREATE TABLE {s}.{q}_0 PARTITION OF {t} FOR VALUES IN (0);
				CREATE TABLE {s}.{q}_1 PARTITION OF {t} FOR VALUES IN (1) PARTITION BY LIST (b);
				CREATE TABLE {s}.{q}_1_0 PARTITION OF {s}.{q}_1 FOR VALUES IN (0) PARTITION BY RANGE (id);
				CREATE TABLE {s}.{q}_1_0_x PARTITION OF {s}.{q}_1_0 FOR VALUES FROM (MINVALUE) TO (10);
				CREATE TABLE {s}.{q}_1_0_y PARTITION OF {s}.{q}_1_0 DEFAULT;
				CREATE TABLE {s}.{q}_1_1 PARTITION OF {s}.{q}_1 DEFAULT;
				CREATE TABLE {s}.{q}_2 PARTITION OF {t} DEFAULT`,
			set: "v = v || '+', a = (a + 1) % 5, b = (b + 1) % 3", // the row moves to another partition
		},
		{
			name: "parts_moving", override: id, cols: "id, v, a", vals: "{i}, 'row ' || {i}, {i} % 3", set: "v = v || '+', a = (a + 1) % 3", full: true,
			sql: `CREATE TABLE {t} (id int, v text, a int) PARTITION BY LIST (a);
				CREATE TABLE {s}.{q}_0 PARTITION OF {t} FOR VALUES IN (0); CREATE TABLE {s}.{q}_1 PARTITION OF {t} FOR VALUES IN (1);
				CREATE TABLE {s}.{q}_2 PARTITION OF {t} DEFAULT;
				ALTER TABLE {s}.{q}_0 REPLICA IDENTITY FULL; ALTER TABLE {s}.{q}_1 REPLICA IDENTITY FULL;
				ALTER TABLE {s}.{q}_2 REPLICA IDENTITY FULL; ALTER TABLE {t} REPLICA IDENTITY FULL`,
		},
		{ // columns stand in other places in every partition, and some were dropped
			name: "parts_maps", key: id, long: []string{"w"}, cols: "id, v, w", vals: "{i}, 'row ' || {i}, repeat(md5({i}::text), 100)",
			sql: `CREATE TABLE {t} (gone int, id int NOT NULL, v text, w text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
				ALTER TABLE {t} DROP COLUMN gone;
				CREATE TABLE {s}.{q}_0 (w text, x int, id int NOT NULL, y text, v text); ALTER TABLE {s}.{q}_0 DROP COLUMN x, DROP COLUMN y;
				CREATE TABLE {s}.{q}_1 (id int NOT NULL, w text, v text);
				ALTER TABLE {s}.{q}_0 ALTER w SET STORAGE EXTERNAL; ALTER TABLE {s}.{q}_1 ALTER w SET STORAGE EXTERNAL;
				ALTER TABLE {t} ATTACH PARTITION {s}.{q}_0 FOR VALUES FROM (MINVALUE) TO (12);
				ALTER TABLE {t} ATTACH PARTITION {s}.{q}_1 DEFAULT`,
		},
		{ // the stream says FULL of all, while one partition logs keys alone
			name: "parts_root_full", key: id, long: []string{"w"}, cols: "id, v, w", vals: "{i}, 'row ' || {i}, repeat(md5({i}::text), 100)",
			sql: `CREATE TABLE {t} (id int PRIMARY KEY, v text, w text) PARTITION BY RANGE (id);
				CREATE TABLE {s}.{q}_0 PARTITION OF {t} FOR VALUES FROM (MINVALUE) TO (8); CREATE TABLE {s}.{q}_1 PARTITION OF {t} DEFAULT;
				ALTER TABLE {s}.{q}_0 ALTER w SET STORAGE EXTERNAL; ALTER TABLE {s}.{q}_1 ALTER w SET STORAGE EXTERNAL;
				ALTER TABLE {s}.{q}_0 REPLICA IDENTITY FULL; ALTER TABLE {t} REPLICA IDENTITY FULL`,
		},
		{ // the stream says DEFAULT of all, while one partition logs whole rows
			name: "parts_leaf_full", key: id, long: []string{"w"}, cols: "id, v, w", vals: "{i}, 'row ' || {i}, repeat(md5({i}::text), 100)",
			sql: `CREATE TABLE {t} (id int PRIMARY KEY, v text, w text) PARTITION BY RANGE (id);
				CREATE TABLE {s}.{q}_0 PARTITION OF {t} FOR VALUES FROM (MINVALUE) TO (8); CREATE TABLE {s}.{q}_1 PARTITION OF {t} DEFAULT;
				ALTER TABLE {s}.{q}_0 ALTER w SET STORAGE EXTERNAL; ALTER TABLE {s}.{q}_1 ALTER w SET STORAGE EXTERNAL;
				ALTER TABLE {s}.{q}_0 REPLICA IDENTITY FULL`,
		},
		{ // the stream marks no column as the key's, while the partitions log their own primary key
			name: "parts_own_keys", override: id,
			sql: `CREATE TABLE {t} (id int NOT NULL, v text) PARTITION BY RANGE (id);
				CREATE TABLE {s}.{q}_0 PARTITION OF {t} FOR VALUES FROM (MINVALUE) TO (8); CREATE TABLE {s}.{q}_1 PARTITION OF {t} DEFAULT;
				ALTER TABLE {s}.{q}_0 ADD PRIMARY KEY (id); ALTER TABLE {s}.{q}_1 ADD PRIMARY KEY (id)`,
		},
		{
			name: "parts_root_nothing", key: id,
			sql: `CREATE TABLE {t} (id int PRIMARY KEY, v text) PARTITION BY HASH (id);
				CREATE TABLE {s}.{q}_0 PARTITION OF {t} FOR VALUES WITH (MODULUS 2, REMAINDER 0);
				CREATE TABLE {s}.{q}_1 PARTITION OF {t} FOR VALUES WITH (MODULUS 2, REMAINDER 1); ALTER TABLE {t} REPLICA IDENTITY NOTHING`,
		},
		{
			name: "parts_keyless", check: shapeCalm,
			sql: `CREATE TABLE {t} (id int, v text) PARTITION BY RANGE (id);
				CREATE TABLE {s}.{q}_0 PARTITION OF {t} FOR VALUES FROM (MINVALUE) TO (8); CREATE TABLE {s}.{q}_1 PARTITION OF {t} DEFAULT;
				ALTER TABLE {s}.{q}_0 REPLICA IDENTITY FULL; ALTER TABLE {s}.{q}_1 REPLICA IDENTITY FULL; ALTER TABLE {t} REPLICA IDENTITY FULL`,
		},
		{name: "parts_none", sql: "CREATE TABLE {t} (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)", key: id, id: "-"},
		{name: "parts_none_keyless", sql: "CREATE TABLE {t} (id int, v text) PARTITION BY RANGE (id)", check: shapeCalm, id: "-"},

		// Inheritance.
		{
			name: "parent", key: id,
			sql: `CREATE TABLE {t} (id int PRIMARY KEY, v text); CREATE TABLE {s}.other_parent (o int);
				CREATE TABLE {s}.child (PRIMARY KEY (id)) INHERITS ({t}); CREATE TABLE {s}.grandchild (x int, PRIMARY KEY (id)) INHERITS ({s}.child, {s}.other_parent)`,
		},
		{name: "child", sql: "SELECT", key: id},
		{name: "grandchild", sql: "SELECT", key: id, cols: "id, v, o, x", vals: "{i}, 'row ' || {i}, 1, -{i}"},
		{
			name: "parent_keyless", check: shapeCalm,
			sql: `CREATE TABLE {t} (id int, v text); ALTER TABLE {t} REPLICA IDENTITY FULL; CREATE TABLE {s}.child_keyless () INHERITS ({t});
				ALTER TABLE {s}.child_keyless REPLICA IDENTITY FULL`,
		},
		{name: "child_keyless", sql: "SELECT", check: shapeCalm},

		// Columns the server fills in.
		{
			name: "generated", key: id, not: []string{"twice"},
			sql: "CREATE TABLE {t} (id int PRIMARY KEY, v text, twice int GENERATED ALWAYS AS (id * 2) STORED)",
		},
		{
			name: "generated_virtual", since: 180000, key: id, not: []string{"twice", "thrice"},
			sql: "CREATE TABLE {t} (id int PRIMARY KEY, v text, twice int GENERATED ALWAYS AS (id * 2) VIRTUAL, thrice int GENERATED ALWAYS AS (id * 3))",
		},
		{ // a key of which nothing is streamed
			name: "generated_key", check: shapeContained, insertOnly: true, not: []string{"twice"},
			sql: "CREATE TABLE {t} (id int, v text, twice int GENERATED ALWAYS AS (id * 2) STORED PRIMARY KEY)",
		},
		{
			name: "generated_listed", since: 180000, key: id, listed: "(id, twice)",
			sql: "CREATE TABLE {t} (id int PRIMARY KEY, v text, twice int GENERATED ALWAYS AS (id * 2) STORED)", not: []string{"v"},
		},
		{
			name: "identity_always", key: id, cols: "v", vals: "'row ' || {i}", moves: "-",
			sql: "CREATE TABLE {t} (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text)",
		},
		{name: "identity_by_default", key: id, sql: "CREATE TABLE {t} (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, v text)"},
		{name: "serial", key: id, cols: "v", vals: "'row ' || {i}", sql: "CREATE TABLE {t} (id bigserial PRIMARY KEY, v text)"},
		{
			name: "defaults", key: id, cols: "id", vals: "{i}",
			sql: `CREATE TABLE {t} (id int PRIMARY KEY, v text DEFAULT 'one'); ALTER TABLE {t} ALTER v SET DEFAULT 'two';
				ALTER TABLE {t} ADD w text DEFAULT 'three'; ALTER TABLE {t} ALTER w DROP DEFAULT`,
			rowsToo: "INSERT INTO {t} (id) VALUES (-1); ALTER TABLE {t} ADD x int NOT NULL DEFAULT 7; ALTER TABLE {t} ALTER x SET DEFAULT 8",
		},
		{
			name: "dropped", key: id, cols: "id, v, z", vals: "{i}, 'row ' || {i}, -{i}",
			sql: `CREATE TABLE {t} (a text, id int, b int, v text, c date, PRIMARY KEY (id)); ALTER TABLE {t} DROP a, DROP b, DROP c, ADD z int;
				ALTER TABLE {t} ADD a int; ALTER TABLE {t} DROP a`,
		},

		// Names; those of oddNames follow below.
		{
			name: "_meta", key: id, cols: "id, v, _meta", vals: "{i}, 'row ' || {i}, 'm'", not: []string{"_meta"},
			sql: "CREATE TABLE {t} (id int PRIMARY KEY, v text, _meta text)",
		},
		{name: "meta_key", sql: "CREATE TABLE {t} (id int, v text, _meta int DEFAULT 1, PRIMARY KEY (id, _meta))", check: shapeContained, not: []string{"_meta"}},
		{name: "CASE", key: id},
		{name: "case", key: id, cols: `id, v, "V", "ID"`, vals: "{i}, 'row ' || {i}, 'V', -{i}", sql: `CREATE TABLE {t} (id int PRIMARY KEY, "V" text, v text, "ID" int)`},
		{name: "Case", key: id},
		{
			name: "types", key: []string{"Key"}, id: `"Key"`, cols: `"Key", v, e, d`, vals: `{i}, ROW({i}, 'x')::{s}."Ty""pe '.%s", 'lä"b''el', 'w' || {i}`, set: `d = 'u'`,
			sql: `CREATE TYPE {s}."Ty""pe '.%s" AS ("Fi.eld" int, "ö" text); CREATE TYPE {s}."select" AS ENUM ('lä"b''el', 'b');
				CREATE DOMAIN {s}."Do main/~" AS int; CREATE DOMAIN {s}."\" AS varchar(7);
				CREATE TABLE {t} ("Key" {s}."Do main/~" PRIMARY KEY, v {s}."Ty""pe '.%s", e {s}."select", d {s}."\")`,
		},

		// Sizes.
		{name: "wide", key: []string{"c800"}, id: "c800", cols: "c800, c1, c1600", vals: "{i}, 'row ' || {i}, 'last'", set: "c1 = c1 || '+', c799 = 'x'", sql: columnsTable(1, 1600)},
		{
			name: "wide_sparse", key: []string{"c1500"}, id: "c1500", cols: "c1500, c1401, c1600", vals: "{i}, 'row ' || {i}, 'last'", set: "c1401 = c1401 || '+'",
			sql: columnsTable(1, 1500) + "; " + sparseTable(),
		},
		{
			name: "long_rows", key: id, long: []string{"a", "b", "c", "d"}, cols: "id, v, a, b, c, d",
			vals: "{i}, 'row ' || {i}, repeat(md5({i}::text), 6000), repeat(md5({i}::text), 600), repeat('long', 50000), (SELECT string_agg(md5(({i} * j)::text), '') FROM generate_series(1, 3000) j)",
			sql: `CREATE TABLE {t} (id int PRIMARY KEY, v text, a text, b text, c text, d text);
				ALTER TABLE {t} ALTER a SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL, ALTER c SET STORAGE MAIN`,
		},
		{
			name: "long_rows_full", key: id, cols: "id, v, a", vals: "{i}, 'row ' || {i}, repeat(md5({i}::text), 600)", full: true,
			sql: `CREATE TABLE {t} (id int PRIMARY KEY, v text, a text); ALTER TABLE {t} ALTER a SET STORAGE EXTERNAL; ALTER TABLE {t} REPLICA IDENTITY FULL`,
		},
		{
			name: "compressed", key: id, long: []string{"a", "b"}, cols: "id, v, a, b", vals: "{i}, 'row ' || {i}, repeat('pglz {i}', 3000), repeat('lz4 {i}', 3000)",
			sql: `CREATE TABLE {t} (id int PRIMARY KEY, v text, a text, b text);
				DO $$ BEGIN ALTER TABLE {t} ALTER b SET COMPRESSION lz4; EXCEPTION WHEN OTHERS THEN NULL; END $$`, // not every build has it
		},

		// Row filters and column lists of the publication.
		{name: "filtered", since: 150000, key: id, listed: "WHERE (id < 1015)", where: "id < 1015"}, // keys move out
		{name: "filtered_in", since: 150000, key: id, listed: "WHERE (id > 5)", where: "id > 5", moves: "CASE WHEN id < 6 THEN id + 10000 * {i} ELSE -id - 100 * {i} END"},
		{
			name: "filtered_full", since: 150000, key: id, listed: "WHERE (v NOT LIKE '%++' AND id <> 3)", where: "v NOT LIKE '%++' AND id <> 3",
			cols: "id, v, w", vals: "{i}, 'row ' || {i}, repeat(md5({i}::text), 100)", // updates take rows in and out, with unchanged TOAST
			set:  "v = CASE WHEN v LIKE '%++' THEN 'back' ELSE v || '+' END",
			sql:  "CREATE TABLE {t} (id int PRIMARY KEY, v text, w text); ALTER TABLE {t} ALTER w SET STORAGE EXTERNAL; ALTER TABLE {t} REPLICA IDENTITY FULL",
			full: true,
		},
		{
			name: "filtered_index", long: []string{"w"}, since: 150000, override: []string{"id", "v"}, listed: "WHERE (v NOT LIKE '%++')", where: "v NOT LIKE '%++'", fallback: true,
			key: []string{"id", "v"}, cols: "id, v, w", vals: "{i}, 'row ' || {i}, repeat(md5({i}::text), 100)",
			set: "v = CASE WHEN v LIKE '%++' THEN 'back' ELSE v || '+' END", // an insertion that lacks the TOAST value
			sql: `CREATE TABLE {t} (id int NOT NULL, v text NOT NULL, w text); CREATE UNIQUE INDEX "{q} Index" ON {t} (id, v); ALTER TABLE {t} ALTER w SET STORAGE EXTERNAL;
				ALTER TABLE {t} REPLICA IDENTITY USING INDEX "{q} Index"`,
		},
		{name: "filtered_keyless", since: 150000, check: shapeCalm, listed: "WHERE (id % 2 = 0)", where: "id % 2 = 0", sql: "CREATE TABLE {t} (id int, v text); ALTER TABLE {t} REPLICA IDENTITY FULL", moves: "id + 1000 * {i} + 1"},
		{name: "listed_columns", since: 150000, key: id, listed: "(v, id)", not: []string{"secret"}, sql: "CREATE TABLE {t} (secret text, id int PRIMARY KEY, v text)"},
		{
			name: "listed_both", since: 150000, key: id, listed: "(id, v) WHERE (id < 1015)", where: "id < 1015", not: []string{"secret"},
			sql: "CREATE TABLE {t} (id int PRIMARY KEY, v text, secret text)",
		},
		{ // the key is not streamed, and so the server rejects updates
			name: "listed_without_key", since: 150000, check: shapeCalm, listed: "(v)", not: []string{"id"}, insertOnly: true,
			warning: `table {n}: the server rejects every UPDATE and DELETE of it, because publication`,
		},
		{
			name: "listed_parts", since: 150000, key: id, listed: "(id, v) WHERE (id < 1015)", where: "id < 1015", not: []string{"secret"},
			sql: `CREATE TABLE {t} (secret text, id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE {s}.{q}_0 (v text, id int NOT NULL, secret text);
				ALTER TABLE {t} ATTACH PARTITION {s}.{q}_0 FOR VALUES FROM (MINVALUE) TO (12); CREATE TABLE {s}.{q}_1 PARTITION OF {t} DEFAULT`,
		},
		{ // what another publication does is nothing to us
			name: "published_twice", key: id,
			sql: `CREATE TABLE {t} (id int PRIMARY KEY, v text); CREATE PUBLICATION "{q} too" FOR TABLE {t} WITH (publish = 'insert')`,
		},

		// Replica identities and keys.
		{
			name: "identity_index", key: []string{"a"}, id: "a", cols: "id, v, a", vals: "-{i}, 'row ' || {i}, {i}", fallback: true,
			sql: `CREATE TABLE {t} (id int, v text, a int NOT NULL); CREATE UNIQUE INDEX {q}_a ON {t} (a); ALTER TABLE {t} REPLICA IDENTITY USING INDEX {q}_a`,
		},
		{ // wider than the primary key
			name: "identity_wider", key: id, sql: `CREATE TABLE {t} (id int PRIMARY KEY, v text NOT NULL);
				CREATE UNIQUE INDEX {q}_v ON {t} (v, id); ALTER TABLE {t} REPLICA IDENTITY USING INDEX {q}_v`,
		},
		{
			name: "identity_override", key: id, override: []string{"a"}, n: "a", id: "a", cols: "id, v, a", vals: "-{i}, 'row ' || {i}, {i}",
			sql: `CREATE TABLE {t} (id int PRIMARY KEY, v text, a int NOT NULL); CREATE UNIQUE INDEX {q}_a ON {t} (a); ALTER TABLE {t} REPLICA IDENTITY USING INDEX {q}_a`,
		},
		{
			name: "identity_index_gone", key: id, insertOnly: true, warning: "ALTER TABLE {t} REPLICA IDENTITY DEFAULT;",
			sql: `CREATE TABLE {t} (id int PRIMARY KEY, v text NOT NULL);
				CREATE UNIQUE INDEX {q}_v ON {t} (v); ALTER TABLE {t} REPLICA IDENTITY USING INDEX {q}_v; DROP INDEX {s}.{q}_v`,
		},
		{name: "identity_full_unique", key: id, fallback: true, full: true, sql: "CREATE TABLE {t} (id int NOT NULL UNIQUE, v text); ALTER TABLE {t} REPLICA IDENTITY FULL"},
		{ // refused, with what makes them fit
			name: "identity_other", key: id, refused: `ALTER TABLE {t} REPLICA IDENTITY DEFAULT;`,
			sql: `CREATE TABLE {t} (id int PRIMARY KEY, v text NOT NULL);
				CREATE UNIQUE INDEX {q}_v ON {t} (v); ALTER TABLE {t} REPLICA IDENTITY USING INDEX {q}_v`,
		},
		{
			name: "override_of_unique", key: id, override: []string{"a"}, id: "a", cols: "id, v, a", vals: "-{i}, 'row ' || {i}, {i}",
			sql:     `CREATE TABLE {t} (id int PRIMARY KEY, v text, a int NOT NULL); CREATE UNIQUE INDEX "{q} A" ON {t} (a)`,
			refused: `ALTER TABLE {t} REPLICA IDENTITY USING INDEX "{q} A";`,
		},
		{
			name: "override_of_none", key: id, override: []string{"a"}, id: "a", cols: "id, v, a", vals: "-{i}, 'row ' || {i}, {i}", full: true,
			sql: `CREATE TABLE {t} (id int PRIMARY KEY, v text, a int)`, refused: `ALTER TABLE {t} REPLICA IDENTITY FULL;`,
		},
		{
			name: "parts_leaf_other", key: id, refused: `ALTER TABLE {s}."{q}_1" REPLICA IDENTITY DEFAULT;`,
			sql: `CREATE TABLE {t} (id int PRIMARY KEY, v text NOT NULL) PARTITION BY RANGE (id);
				CREATE TABLE {s}.{q}_0 PARTITION OF {t} FOR VALUES FROM (MINVALUE) TO (8); CREATE TABLE {s}.{q}_1 PARTITION OF {t} DEFAULT;
				CREATE UNIQUE INDEX {q}_v ON {s}.{q}_1 (v); ALTER TABLE {s}.{q}_1 REPLICA IDENTITY USING INDEX {q}_v`,
		},
		{
			name: "composite", key: []string{"c", "id", "a"}, cols: "id, v, a, c", vals: "{i}, 'row ' || {i}, {i} % 2, 'c' || {i} % 3",
			sql: "CREATE TABLE {t} (a int, v text, id int, c text COLLATE \"C\", PRIMARY KEY (c, id, a))",
		},
		{name: "include", key: id, sql: "CREATE TABLE {t} (id int, v text, PRIMARY KEY (id) INCLUDE (v))"},
		{name: "deferrable", check: shapeCalm, insertOnly: true, sql: "CREATE TABLE {t} (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text)", warning: "REPLICA IDENTITY FULL;"},
		{
			name: "deferrable_full", override: id, full: true,
			sql: "CREATE TABLE {t} (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text); ALTER TABLE {t} REPLICA IDENTITY FULL",
		},
		{ // indexes that are no keys
			name: "no_keys", check: shapeCalm,
			sql: `CREATE TABLE {t} (id int NOT NULL, v text, o int); CREATE UNIQUE INDEX ON {t} (id) WHERE id > 0; CREATE UNIQUE INDEX ON {t} ((id + 1));
				CREATE UNIQUE INDEX {q}_invalid ON {t} (id); UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{s}.{q}_invalid'::regclass;
				CREATE UNIQUE INDEX ON {t} (id, o); ALTER TABLE {t} REPLICA IDENTITY FULL`,
		},
		{
			name: "nulls_not_distinct", since: 150000, override: id, full: true, rowsToo: "INSERT INTO {t} (v) VALUES ('of null')",
			sql: "CREATE TABLE {t} (id int UNIQUE NULLS NOT DISTINCT, v text); ALTER TABLE {t} REPLICA IDENTITY FULL",
		},
		{
			name: "key_domain", key: []string{"k"}, id: "k", of: "'k' || {i}", n: "n", cols: "k, n, v", vals: "'k' || {i}, {i}, 'row ' || {i}",
			sql: "CREATE DOMAIN {s}.inner_word AS text CHECK (value <> ''); CREATE DOMAIN {s}.word AS {s}.inner_word; CREATE TABLE {t} (k {s}.word PRIMARY KEY, n int, v text)",
		},
		{
			name: "key_enum", key: []string{"k"}, id: "k", of: "('k' || {i} % 5000)::{s}.label", n: "n", cols: "k, n, v", vals: "('k' || {i})::{s}.label, {i}, 'row ' || {i}",
			sql: enumType(), moves: "-", // below
		},
		{
			name: "key_citext", key: []string{"k"}, id: "k", of: "CASE WHEN {i} % 2 = 0 THEN 'K' ELSE 'k' END || {i}", n: "n", cols: "k, n, v",
			vals: "CASE WHEN {i} % 2 = 0 THEN 'K' ELSE 'k' END || {i}, {i}, 'row ' || {i}", sql: "CREATE TABLE {t} (k extensions.citext PRIMARY KEY, n int, v text)",
		},
		{
			name: "key_nondeterministic", key: []string{"k"}, id: "k", of: "CASE WHEN {i} % 2 = 0 THEN 'K' ELSE 'k' END || {i}", n: "n", cols: "k, n, v",
			vals: "CASE WHEN {i} % 2 = 0 THEN 'K' ELSE 'k' END || {i}, {i}, 'row ' || {i}", set: "v = v || '+', k = upper(k)", // another key, which the server calls equal
			sql: `CREATE COLLATION {s}."any case" (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
				CREATE TABLE {t} (k text COLLATE {s}."any case" PRIMARY KEY, n int, v text)`,
		},
		{
			name: "key_generated", since: 180000, key: []string{"twice"}, id: "id", listed: "(id, v, twice)",
			sql: "CREATE TABLE {t} (id int, v text, twice int GENERATED ALWAYS AS (id * 2) STORED PRIMARY KEY)",
		},

		// What else a table may be.
		{name: "typed", key: id, sql: `CREATE TYPE {s}.of_type AS (id int, v text); CREATE TABLE {t} OF {s}.of_type (PRIMARY KEY (id))`},
		{
			name: "of_rows", key: id, cols: "id, v, p", vals: "{i}, 'row ' || {i}, ROW({i}, 'of, rows')::{s}.rows_of",
			sql: "CREATE TABLE {s}.rows_of (a int, b text); CREATE TABLE {t} (id int PRIMARY KEY, v text, p {s}.rows_of)",
		},
		{
			name: "triggers", key: id,
			sql: `CREATE TABLE {t} (id int PRIMARY KEY, v text, n int DEFAULT 0);
				CREATE FUNCTION {s}.count_updates() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.n := coalesce(new.n, 0) + 1; RETURN new; END $$;
				CREATE TRIGGER counts BEFORE INSERT OR UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION {s}.count_updates();
				CREATE FUNCTION {s}.twice() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
					UPDATE {t} SET v = v || '!' WHERE id = new.id; RETURN NULL; END $$;
				CREATE TRIGGER again AFTER INSERT ON {t} FOR EACH ROW EXECUTE FUNCTION {s}.twice()`,
		},
		{
			name: "rules", key: id, // deletes become updates
			sql: `CREATE TABLE {t} (id int PRIMARY KEY, v text, deleted bool DEFAULT false);
				CREATE RULE soft AS ON DELETE TO {t} DO INSTEAD UPDATE {t} SET deleted = true WHERE id = old.id`,
		},
		{ // of another role, with row-level security that lets everyone see all
			name: "secured", key: id, warning: "table {n}: row-level security hides rows from the role",
			sql: `CREATE TABLE {t} (id int PRIMARY KEY, v text); ALTER TABLE {t} ENABLE ROW LEVEL SECURITY; CREATE POLICY everyone ON {t} USING (true)`,
		},
		{name: "storage", key: id, sql: "CREATE TABLE {t} (id int PRIMARY KEY, v text) WITH (fillfactor = 20, autovacuum_enabled = off) TABLESPACE pg_default"},
	}, odd...)
}

// columnsTable creates a table of columns c<from> to c<to>, all text but for the key in the middle or, if sparse, the last.
func columnsTable(from, to int) string {
	columns := make([]string, 0, to)
	for i := from; i <= to; i++ {
		switch {
		case to == 1600 && i == 800, to == 1500 && i == 1500:
			columns = append(columns, fmt.Sprintf("c%d int PRIMARY KEY", i))
		default:
			columns = append(columns, fmt.Sprintf("c%d text", i))
		}
	}
	return "CREATE TABLE {t} (" + strings.Join(columns, ", ") + ")"
}

// sparseTable drops columns of the table of 1,500 and adds others, so that numbers of columns are far from their places.
func sparseTable() string {
	var changes []string
	for i := 1; i <= 1400; i++ {
		changes = append(changes, fmt.Sprintf("DROP c%d", i))
	}
	for i := 1501; i <= 1600; i++ {
		changes = append(changes, fmt.Sprintf("ADD c%d text", i))
	}
	return "ALTER TABLE {t} " + strings.Join(changes, ", ")
}

// enumType creates the table of an enum key, whose labels do not sort as text.
func enumType() string {
	var labels []string
	for i := range 60 {
		labels = append(labels, fmt.Sprintf("'k%d'", (i*37+11)%60))
	}
	return "CREATE TYPE {s}.label AS ENUM (" + strings.Join(labels, ", ") + "); CREATE TABLE {t} (k {s}.label PRIMARY KEY, n int, v text)"
}

func (s *shape) table() tableName {
	if s.schema == "" {
		return tableName{plainSchema, s.name}
	}
	return tableName{s.schema, s.name}
}

// expand fills the names into SQL or a text of the connector's.
func (s *shape) expand(sql string) string {
	t := s.table()
	via := s.via
	if via == "" {
		via = "{t}"
	}
	sql = strings.ReplaceAll(sql, "{w}", via)
	return strings.NewReplacer("{t}", quoteTable(t), "{s}", quoteIdent(t.schema), "{q}", t.name, "{n}", t.String()).Replace(sql)
}

// number fills a number, or an expression of one, into SQL.
func number(sql, i string) string { return strings.ReplaceAll(sql, "{i}", i) }

// collectionKey is the key of the shape's collection, nil for the fallback key.
func (s *shape) collectionKey() []string {
	switch {
	case slices.Equal(s.override, fallbackKey):
		return nil
	case s.override != nil:
		return s.override
	}
	return s.key
}

// insertRows inserts the rows from a to b.
func (s *shape) insertRows(a, b int) string {
	cols, vals := s.cols, s.vals
	switch {
	case s.name == "empty_columns":
		return fmt.Sprintf("INSERT INTO {w} SELECT FROM generate_series(%d, %d)", a, b)
	case s.id == "-":
		return ""
	case cols == "":
		cols, vals = "id, v", "{i}, 'row ' || {i}"
	}
	return fmt.Sprintf("INSERT INTO {w} (%s) SELECT %s FROM generate_series(%d, %d) i", cols, number(vals, "i"), a, b)
}

// writes are the transactions of round k: insertions, updates, deletions and key moves, each of other rows than the round before.
func (s *shape) writes(k int) []string {
	insert := s.insertRows(k*10+1, k*10+9)
	if len(s.sql) > 1<<13 { // of very many columns
		insert = s.insertRows(k*10+1, k*10+3)
	}
	switch {
	case s.name == "empty_columns":
		return []string{insert, "DELETE FROM {t} WHERE ctid = (SELECT min(ctid) FROM {t})"}
	case insert == "":
		return nil
	case s.insertOnly:
		return []string{insert}
	}
	id, n, of, set := s.id, s.n, s.of, s.set
	if id == "" {
		id = "id"
	}
	if n == "" {
		n = id
	}
	if of == "" {
		of = "{i}"
	}
	if set == "" {
		set = "v = v || '+'"
	}
	target := "{w}"
	if strings.HasPrefix(s.name, "parent") {
		target = "ONLY {t}"
	}
	sql := []string{
		insert,
		fmt.Sprintf("UPDATE %s SET %s WHERE (%s) %% 3 = %d", target, set, n, k%3),
		fmt.Sprintf("DELETE FROM %s WHERE (%s) %% 7 = %d", target, n, k),
	}
	to := fmt.Sprintf("(%s + %d)", n, 1000*k)
	switch {
	case s.moves == "-":
	case s.moves != "":
		sql = append(sql, fmt.Sprintf("UPDATE %s SET %s = %s WHERE (%s) %% 5 = %d", target, id, number(s.moves, strconv.Itoa(k)), n, k))
	case n != id:
		sql = append(sql, fmt.Sprintf("UPDATE %s SET %s = %s, %s = %s WHERE (%s) %% 5 = %d", target, id, number(of, to), n, to, n, k))
	default:
		sql = append(sql, fmt.Sprintf("UPDATE %s SET %s = %s WHERE (%s) %% 5 = %d", target, id, to, n, k))
	}
	return append(sql, fmt.Sprintf("UPDATE %s SET %s WHERE (%s) %% 2 = %d", target, set, n, k%2))
}

// target is the table in the FROM clause of its own rows.
func (s *shape) target() string {
	if strings.HasPrefix(s.name, "parent") || strings.HasPrefix(s.name, "child") {
		return "ONLY {t}"
	}
	return "{t}"
}

// createShapes creates the shapes that the server's version has in a random order, and returns them. published tells whether
// they are in the publication as it is.
func createShapes(db *testDB, random *rand.Rand, all []*shape, published bool) []*shape {
	db.Helper()
	for _, schema := range []string{plainSchema, oddSchema} {
		db.exec("CREATE SCHEMA IF NOT EXISTS " + quoteIdent(schema))
		db.exec(fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s", quoteIdent(schema), quoteIdent(*testCaptureUser)))
	}
	db.exec("CREATE EXTENSION citext SCHEMA extensions")
	db.exec(fmt.Sprintf("GRANT USAGE ON SCHEMA extensions TO %s", quoteIdent(*testCaptureUser)))
	version := db.version()
	all = slices.DeleteFunc(all, func(s *shape) bool { return s.since > version })
	order := slices.Clone(all)
	random.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	var tables, rows strings.Builder // each in one transaction
	publish := "ALTER PUBLICATION " + quoteIdent(db.publication) + " ADD TABLE "
	for i, s := range order {
		sql := s.sql
		if sql == "" {
			sql = "CREATE TABLE {t} (id int PRIMARY KEY, v text)"
		}
		tables.WriteString(s.expand(sql) + ";\n")
		fmt.Fprintf(&rows, "GRANT SELECT ON %s TO %s;\n", quoteTable(s.table()), quoteIdent(*testCaptureUser))
		rows.WriteString(s.expand(s.insertRows(1, 9)) + ";\n" + s.expand(s.rowsToo) + ";\n")
		if i > 0 {
			publish += ", "
		}
		publish += "ONLY " + quoteTable(s.table()) + " " + s.listed
	}
	db.script(tables.String())
	if !published {
		db.script(publish)
	}
	db.script(rows.String())
	return all
}

// shapeRun is one run of the matrix.
type shapeRun struct {
	*oracle
	shapes  []*shape
	schemas map[string]*jsonschema.Schema // discovered, by table
	known   map[*shape][]string           // columns of documents
}

// TestShapes runs the matrix.
func TestShapes(t *testing.T) {
	if testing.Short() {
		t.Skip("the oracle runs the same code")
	}
	seeds(t, 1, func(t *testing.T, seed uint64) {
		first := discoverShapes(t, seed)
		run := newShapeRun(t, seed+1, shapeOptions{shapes: shapes()})
		bindings, second := run.discover()
		if !bytes.Equal(first, second) {
			t.Errorf("another order of creation makes another discovery:\n%s\n%s", first, second)
		}
		run.capture(bindings)
		run.judge()
	})
}

// discoverShapes returns what is discovered of the shapes, created in the seed's order.
func discoverShapes(t *testing.T, seed uint64) []byte {
	t.Helper()
	r := newShapeRun(t, seed, shapeOptions{shapes: shapes()})
	_, discovered := r.discover()
	return discovered
}

// shapeOptions say what a run is of.
type shapeOptions struct {
	shapes      []*shape
	publication string // what follows CREATE PUBLICATION and its name, where that publishes the tables; "": each is added
	set         string // options of a publication that they are added to
	advanced    map[string]any
}

func newShapeRun(t *testing.T, seed uint64, o shapeOptions) *shapeRun {
	t.Helper()
	goldenDatabase(t, "UTF8")
	r := &shapeRun{oracle: newOracle(t, seed), schemas: map[string]*jsonschema.Schema{}, known: map[*shape][]string{}}
	r.chunk = []int{1, 2, 3, 5, 20}[r.rand.IntN(5)]
	r.readOnly = r.rand.IntN(3) == 0
	odd := "Pub \"x\" 'y'.%s\n/~\\" // what a quoting mistake trips over
	r.db.exec(fmt.Sprintf("ALTER PUBLICATION %s RENAME TO %s", quoteIdent(r.db.publication), quoteIdent(odd)))
	r.db.publication, r.db.slot = odd, "0_"+r.db.slot
	if o.publication != "" {
		r.db.exec("DROP PUBLICATION " + quoteIdent(odd))
		r.db.exec("CREATE SCHEMA " + quoteIdent(plainSchema)) // it may publish the schema
		r.db.exec("CREATE PUBLICATION " + quoteIdent(odd) + " " + o.publication)
		if !strings.Contains(o.publication, "ALL TABLES") {
			r.db.publish(r.db.watermarks)
		}
	}
	if o.set != "" {
		r.db.exec("ALTER PUBLICATION " + quoteIdent(odd) + " SET " + o.set)
	}
	r.shapes = createShapes(r.db, r.rand, o.shapes, o.publication != "")
	r.sentinel = tableName{plainSchema, "sentinel"}
	r.db.exec("CREATE TABLE " + quoteTable(r.sentinel) + " (id int PRIMARY KEY)")
	r.db.grant(r.sentinel)
	if o.publication == "" {
		r.db.publish(r.sentinel)
	}
	advanced := map[string]any{
		"backfill_chunk_size": r.chunk, "read_only_capture": r.readOnly, "discover_schemas": []string{plainSchema, oddSchema},
	}
	maps.Copy(advanced, o.advanced)
	r.runtime = newTestRuntime(t, runtimeOptions{
		config: r.db.edgeConfig(advanced), codec: codec(r.rand.IntN(2)),
		onDocument:   func(*testRuntime, string, []byte) { r.output() },
		onCheckpoint: func(*testRuntime, json.RawMessage) { r.output() },
	})
	return r
}

// discover checks what discovery says of every shape, and returns the bindings as a user would have them, and the answer.
func (r *shapeRun) discover() ([]runtimeBinding, []byte) {
	r.t.Helper()
	var answers [][]byte
	discovered, err := r.runtime.driver.discover(r.t.Context())
	for range 2 {
		if err != nil {
			r.fatalf("discover: %v", err)
		}
		raw, err := discovered.Marshal()
		if err != nil {
			r.fatalf("%v", err)
		}
		answers = append(answers, raw)
		discovered, err = r.runtime.driver.discover(r.t.Context())
		if err != nil {
			r.fatalf("discover: %v", err)
		}
	}
	if !bytes.Equal(answers[0], answers[1]) {
		r.t.Errorf("two discoveries differ:\n%s\n%s", answers[0], answers[1])
	}
	bindings, err := previewBindings(discovered.Bindings, &previewOptions{})
	if err != nil {
		r.fatalf("%v", err)
	}
	byTable := map[string]*shape{}
	for _, s := range r.shapes {
		byTable[s.table().String()] = s
	}
	names := map[string]bool{}
	for i, b := range discovered.Bindings {
		table, mode, err := tableOfResource(b.ResourceConfigJson)
		if err != nil {
			r.fatalf("%v", err)
		}
		if names[b.RecommendedName] {
			r.t.Errorf("%s: the name %s comes twice", table, b.RecommendedName)
		}
		names[b.RecommendedName] = true
		s := byTable[table.String()]
		if s == nil {
			if table != r.sentinel {
				r.t.Errorf("discovered %s, which is no shape", table)
			}
			continue
		}
		delete(byTable, table.String())
		wantKey, wantMode := fallbackKey, modeKeyless
		if s.key != nil {
			wantKey, wantMode = nil, modeAutomatic
			for _, column := range s.key {
				wantKey = append(wantKey, columnPointer(column))
			}
		}
		if !slices.Equal(b.Key, wantKey) || mode != wantMode || b.IsFallbackKey != (s.key == nil || s.fallback) {
			r.t.Errorf("%s: discovered key %q, mode %q, fallback %v; want %q, %q", table, b.Key, mode, b.IsFallbackKey, wantKey, wantMode)
		}
		schema := b.DocumentSchemaJson
		if s.override != nil && s.collectionKey() != nil { // who chooses another key has it required
			schema = bytes.Replace(schema, fmt.Appendf(nil, `"required":%s,"type":"object"}}`, namesOfKey(s.key)),
				fmt.Appendf(nil, `"required":%s,"type":"object"}}`, namesOfKey(s.collectionKey())), 1)
		}
		if r.schemas[table.String()], err = compileSchema(schema); err != nil {
			r.t.Errorf("%s: schema: %v\n%s", table, err, schema)
		}
		if fields := propertiesOf(r.t, string(b.DocumentSchemaJson)); fields != r.fields(s) {
			r.t.Errorf("%s: discovered columns %s, want %s", table, fields, r.fields(s))
		}
		if s.override != nil {
			mode = s.mode
			bindings[i].key = s.override
			if s.collectionKey() != nil {
				bindings[i].key = nil
				for _, column := range s.override {
					bindings[i].key = append(bindings[i].key, columnPointer(column))
				}
			}
		}
		resource := map[string]any{"namespace": table.schema, "stream": table.name, "priority": r.rand.IntN(3)}
		if mode != modeAutomatic {
			resource["mode"] = mode
		}
		if bindings[i].resource, err = json.Marshal(resource); err != nil {
			r.fatalf("%v", err)
		}
	}
	for name := range byTable {
		r.t.Errorf("%s was not discovered", name)
	}
	return bindings, answers[0]
}

func namesOfKey(key []string) []byte {
	raw, _ := json.Marshal(key) // strings always marshal
	return raw
}

// columns are those of a shape's documents.
func (r *shapeRun) columns(s *shape) []string {
	r.t.Helper()
	if columns, known := r.known[s]; known {
		return columns
	}
	var columns []string
	for _, row := range r.db.query("SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped "+
		"ORDER BY attnum", quoteTable(s.table())) {
		if !slices.Contains(s.not, row[0]) {
			columns = append(columns, row[0])
		}
	}
	r.known[s] = columns
	return columns
}

// fields are the columns as fieldsOf writes them.
func (r *shapeRun) fields(s *shape) string {
	r.t.Helper()
	fields := map[string]json.RawMessage{}
	for _, column := range r.columns(s) {
		fields[column] = nil
	}
	return namesOf(r.t, fields)
}

// write runs the writes of round k on the shapes.
func (r *shapeRun) write(conn *pgx.Conn, k int, wanted func(*shape) bool) error {
	for _, s := range r.shapes {
		if !wanted(s) {
			continue
		}
		for _, sql := range s.writes(k) {
			if _, err := conn.Exec(r.db.ctx, s.expand(sql)); err != nil {
				return fmt.Errorf("%s: %w", s.expand(sql), err)
			}
		}
	}
	return nil
}

// refuse has the shapes that must be refused refused, by the reason that each has, and makes them fit by the SQL they are told.
func (r *shapeRun) refuse(bindings []runtimeBinding) {
	r.t.Helper()
	byTable := map[string]runtimeBinding{}
	for _, b := range bindings {
		table, _, err := tableOfResource(b.resource)
		if err != nil {
			r.fatalf("%v", err)
		}
		byTable[table.String()] = b
	}
	refused := slices.DeleteFunc(slices.Clone(r.shapes), func(s *shape) bool { return s.refused == "" })
	for batch := range slices.Chunk(refused, maxFaults) {
		var bad []runtimeBinding
		for _, s := range batch {
			bad = append(bad, byTable[s.table().String()])
		}
		_, err := r.runtime.driver.validate(r.t.Context(), bad, nil)
		if err == nil {
			r.fatalf("none of %d tables was refused, such as %s", len(batch), batch[0].table())
		}
		for _, s := range batch {
			if want := s.expand(s.refused); !strings.Contains(err.Error(), want) {
				r.t.Errorf("%s: not refused by %q:\n%v", s.table(), want, err)
			}
		}
		r.db.runRemedies(err)
		if _, err := r.runtime.driver.validate(r.t.Context(), bad, nil); err != nil {
			r.t.Errorf("still refused once the SQL was run: %v", err)
		}
	}
}

// capture takes the shapes through a capture's life.
func (r *shapeRun) capture(bindings []runtimeBinding) {
	r.t.Helper()
	r.refuse(bindings)
	r.runtime.bind(bindings)
	for _, s := range r.shapes {
		want := s.expand(s.warning)
		if want != "" && !strings.Contains(r.runtime.stderr(), want) {
			r.t.Errorf("%s: no warning of the validation says %q", s.table(), want)
		}
		if !s.insertOnly || want == "" {
			continue
		}
		// 55000: no replica identity; 42P10: the publication leaves something of it out
		_, err := r.db.control.Exec(r.db.ctx, s.expand("DELETE FROM {w}"))
		if code := sqlState(err); code != "55000" && code != "42P10" {
			r.t.Errorf("%s: it should reject deletes: %v", s.table(), err)
		}
	}
	conn := testConnect(r.t, *testControlUser, *testControlPassword)
	r.left, r.commit = 5+r.rand.IntN(4*len(r.shapes)), r.rand.IntN(2) == 0 // cut off in the middle of the backfill
	r.runtime.start()
	r.runtime.waitFor("the first document", func() bool { return len(r.runtime.uncommitted)+len(r.runtime.committed) > 0 })
	written := make(chan error, 1)
	go func() {
		written <- r.write(conn, 1, func(s *shape) bool { return s.check != shapeCalm })
	}()
	if err := r.runtime.wait(); !errors.Is(err, errSevered) {
		r.fatalf("the first session ended by itself: %v", err)
	}
	if err := <-written; err != nil {
		r.fatalf("%v", err)
	}
	r.left = 0
	r.runtime.start()
	if err := r.write(conn, 2, func(s *shape) bool { return s.check != shapeCalm }); err != nil {
		r.fatalf("%v", err)
	}
	r.quiesce()
	for k := 1; k <= 2; k++ {
		if err := r.write(conn, k, func(s *shape) bool { return s.check == shapeCalm }); err != nil {
			r.fatalf("%v", err)
		}
	}
	r.runtime.kill() // in the middle of the stream
	r.ended(false)
	if err := r.write(conn, 3, func(*shape) bool { return true }); err != nil {
		r.fatalf("%v", err)
	}
	r.runtime.start()
	r.quiesce()
	r.runtime.stop()
	r.ended(true)
}

// judge checks every document, the history and the replay.
func (r *shapeRun) judge() {
	r.t.Helper()
	h := history.New(history.Table{Name: r.sentinel.String(), Key: []string{"id"}})
	byTable := map[string]*shape{}
	fields := map[string]string{}
	contained := map[string]map[string]bool{}
	for _, s := range r.shapes {
		name := s.table().String()
		byTable[name], fields[name] = s, r.fields(s)
		if s.check == shapeContained {
			contained[name] = map[string]bool{}
			continue
		}
		h.Add(history.Table{Name: name, Key: s.collectionKey(), Full: s.full})
	}
	sourced := map[string]string{}
	for _, schema := range r.runtime.schemas {
		if err := checkClosed([]byte(schema.doc)); err != nil {
			r.t.Errorf("%s: sourced schema: %v\n%s", schema.table, err, schema.doc)
		}
		sourced[schema.table] = propertiesOf(r.t, schema.doc)
	}
	failed := map[string]bool{}
	fault := func(table, format string, args ...any) {
		r.t.Helper()
		if !failed[table] {
			r.t.Errorf("%s: %s", table, fmt.Sprintf(format, args...))
		}
		failed[table] = true
	}
	checkpoint := 0
	for i, d := range r.runtime.documents() {
		if d.checkpoint != checkpoint {
			r.runtime.endCheckpoint(h, i, checkpoint)
			checkpoint = d.checkpoint
		}
		s := byTable[d.table]
		if s != nil {
			if err := validateDocument(r.schemas[d.table], []byte(d.doc)); err != nil {
				fault(d.table, "%v: %.1000s", err, d.doc)
			}
			got := fieldsOf(r.t, d.doc)
			for _, column := range s.long {
				if !strings.Contains(d.doc, `"snapshot":true`) && !strings.Contains(got, `"`+column+`"`) {
					got = ""
				}
			}
			switch {
			case sourced[d.table] != fields[d.table]:
				fault(d.table, "sourced columns %.500s, want %.500s", sourced[d.table], fields[d.table])
			case sourceOf(r.t, d.doc).op == "c" && got != "" && got != fields[d.table]:
				fault(d.table, "an insertion has columns %.500s, want %.500s: %.500s", got, fields[d.table], d.doc)
			}
		}
		if rows := contained[d.table]; rows != nil {
			rows[r.rowOf(s, []byte(d.doc))] = true
			continue
		}
		if failed[d.table] {
			continue
		}
		if err := h.Document(i+1, d.table, []byte(d.doc)); err != nil {
			fault(d.table, "%v\n%.2000s", err, d.doc)
		}
	}
	for _, s := range r.shapes {
		if name := s.table().String(); !failed[name] {
			r.compare(s, h, contained[name])
		}
	}
	r.t.Logf("seed %d: %d shapes, %d documents, chunks of %d, read-only %v", r.seed, len(r.shapes), len(r.runtime.documents()), r.chunk,
		r.readOnly)
}

// rowOf is a document's row as compare has the server write it.
func (r *shapeRun) rowOf(s *shape, doc []byte) string {
	r.t.Helper()
	var values map[string]json.RawMessage
	if err := json.Unmarshal(doc, &values); err != nil {
		r.fatalf("%s: %v", s.table(), err)
	}
	var row strings.Builder
	for _, column := range r.columns(s) {
		raw := values[column]
		text := string(raw)
		switch {
		case len(raw) == 0:
			text = "absent"
		case raw[0] == '"':
			if err := json.Unmarshal(raw, &text); err != nil {
				r.fatalf("%s: %v", s.table(), err)
			}
			text = "=" + text
		case text == "null":
			text = "NULL"
		default:
			text = "=" + text
		}
		row.WriteString(text + "\x00")
	}
	return row.String()
}

// compare compares what the documents leave of a shape with its rows: exactly, or each row for one of the documents' rows.
func (r *shapeRun) compare(s *shape, h *history.History, contained map[string]bool) {
	r.t.Helper()
	name := s.table().String()
	replayed := map[string]int{}
	if contained == nil {
		if err := h.Rows(name, func(row *history.Row, count int) error {
			replayed[r.rowOf(s, row.Columns)] += count
			return nil
		}); err != nil {
			r.fatalf("%s: %v", name, err)
		}
	}
	var texts []string
	for _, column := range r.columns(s) {
		texts = append(texts, quoteIdent(column)+"::text")
	}
	sql := "SELECT " + strings.Join(texts, ", ") + " FROM " + s.target()
	if s.where != "" {
		sql += " WHERE " + s.where
	}
	var wrong []string
	for _, values := range r.db.query(s.expand(sql)) {
		var row strings.Builder
		for _, v := range values {
			if v != "NULL" {
				v = "=" + v
			}
			row.WriteString(v + "\x00")
		}
		if contained != nil && !contained[row.String()] {
			wrong = append(wrong, fmt.Sprintf("%.300q is lost", row.String()))
		}
		if replayed[row.String()]--; contained == nil && replayed[row.String()] < 0 {
			wrong = append(wrong, fmt.Sprintf("%.300q is not in the replay", row.String()))
		}
	}
	for row, n := range replayed {
		if n > 0 && contained == nil {
			wrong = append(wrong, fmt.Sprintf("%.300q is %d times too often in the replay", row, n))
		}
	}
	if len(wrong) > 0 {
		r.t.Errorf("%s: %d rows are wrong:\n%s", name, len(wrong), strings.Join(wrong[:min(len(wrong), 6)], "\n"))
	}
}

// TestShapesPublished runs a few shapes through publications of other forms.
func TestShapesPublished(t *testing.T) {
	if testing.Short() {
		t.Skip("the oracle runs the same code")
	}
	id := []string{"id"}
	few := []*shape{
		{name: "plain", key: id},
		{name: "Plain", key: id, sql: "CREATE TABLE {t} (id int PRIMARY KEY, v text); ALTER TABLE {t} REPLICA IDENTITY FULL", full: true},
		{name: "keyless", sql: "CREATE TABLE {t} (id int, v text)", check: shapeCalm, insertOnly: true, warning: "ALTER TABLE {t} REPLICA IDENTITY FULL;"},
		{name: "generated", key: id, not: []string{"twice"}, sql: "CREATE TABLE {t} (id int PRIMARY KEY, v text, twice int GENERATED ALWAYS AS (id * 2) STORED)"},
	}
	tree := `CREATE TABLE {s}.tree (id int, v text, a int, b int, PRIMARY KEY (id, a, b)) PARTITION BY LIST (a);
		CREATE TABLE {s}.tree_0 (b int NOT NULL, x int, a int NOT NULL, id int NOT NULL, v text); ALTER TABLE {s}.tree_0 DROP x;
		ALTER TABLE {s}.tree ATTACH PARTITION {s}.tree_0 FOR VALUES IN (0);
		CREATE TABLE {s}.tree_1 PARTITION OF {s}.tree FOR VALUES IN (1) PARTITION BY LIST (b);
		CREATE TABLE {s}.tree_1_0 PARTITION OF {s}.tree_1 FOR VALUES IN (0) PARTITION BY RANGE (id);
		CREATE TABLE {s}.tree_1_0_x PARTITION OF {s}.tree_1_0 FOR VALUES FROM (MINVALUE) TO (10);
		CREATE TABLE {s}.tree_1_0_y PARTITION OF {s}.tree_1_0 DEFAULT;
		CREATE TABLE {s}.tree_1_1 PARTITION OF {s}.tree_1 DEFAULT; CREATE TABLE {s}.tree_2 PARTITION OF {s}.tree DEFAULT`
	leaves := slices.Clone(few)
	for i, name := range []string{"tree_0", "tree_1_0_x", "tree_1_0_y", "tree_1_1", "tree_2"} {
		leaf := &shape{name: name, sql: "SELECT", key: []string{"id", "a", "b"}, id: "-"}
		if i == 0 { // rows move from leaf to leaf
			leaf.id, leaf.sql, leaf.via = "", tree, "{s}.tree"
			leaf.cols, leaf.vals, leaf.set = "id, v, a, b", "{i}, 'row ' || {i}, {i} % 4, {i} % 3", "v = v || '+', a = (a + 1) % 5, b = (b + 1) % 3"
		}
		leaves = append(leaves, leaf)
	}
	for _, c := range []struct {
		name    string
		options shapeOptions
	}{
		{"all tables", shapeOptions{shapes: few, publication: "FOR ALL TABLES"}},
		{"schema", shapeOptions{shapes: few, publication: "FOR TABLES IN SCHEMA " + quoteIdent(plainSchema)}},
		{"partitions", shapeOptions{
			shapes: leaves, set: "(publish_via_partition_root = false)", advanced: map[string]any{"capture_as_partitions": true},
		}},
		{"partitions of all tables", shapeOptions{
			shapes: leaves, publication: "FOR ALL TABLES", advanced: map[string]any{"capture_as_partitions": true},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if strings.Contains(c.options.publication, "SCHEMA") {
				newTestDB(t).requireVersion(150000)
			}
			run := newShapeRun(t, firstSeed(t), c.options)
			bindings, _ := run.discover()
			run.capture(bindings)
			run.judge()
		})
	}
}

// What is left out of discovery is told in one line, with the reason of each.
func TestShapesLeftOut(t *testing.T) {
	goldenDatabase(t, "UTF8")
	db := newTestDB(t)
	schema := db.createSchema("left")
	db.script(`SET search_path = ` + quoteIdent(schema) + `;
		CREATE TABLE captured (id int PRIMARY KEY); CREATE TABLE unpublished (id int); CREATE UNLOGGED TABLE unlogged (id int);
		CREATE TEMPORARY TABLE temporary (id int); CREATE VIEW "a view" AS SELECT 1 AS id; CREATE MATERIALIZED VIEW stored AS SELECT 1 AS id;
		CREATE FOREIGN DATA WRAPPER fdw; CREATE SERVER server FOREIGN DATA WRAPPER fdw; CREATE FOREIGN TABLE elsewhere (id int) SERVER server;
		CREATE TABLE root (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE part PARTITION OF root DEFAULT`)
	for i := range 12 {
		db.exec(fmt.Sprintf("CREATE VIEW %s.view%02d AS SELECT 1 AS id", quoteIdent(schema), i))
	}
	db.publish(tableName{schema, "captured"}, tableName{schema, "root"})
	temporary := db.queryValue("SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema()")
	discover := func(advanced map[string]any) (tables []string, summary string) {
		t.Helper()
		r := newTestRuntime(t, runtimeOptions{config: db.edgeConfig(advanced)})
		discovered, err := r.driver.discover(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range discovered.Bindings {
			table, _, err := tableOfResource(b.ResourceConfigJson)
			if err != nil {
				t.Fatal(err)
			}
			if table.schema == schema {
				tables = append(tables, table.name)
			}
		}
		for line := range strings.Lines(r.stderr()) {
			if strings.HasPrefix(line, "left out of discovery: ") {
				if summary != "" {
					t.Errorf("a second line: %s", line)
				}
				summary = strings.ReplaceAll(strings.TrimSuffix(line, "\n"), schema+".", "")
			}
		}
		return tables, summary
	}
	check := func(what string, advanced map[string]any, tables, reasons []string) {
		t.Helper()
		found, summary := discover(advanced)
		if !slices.Equal(found, tables) {
			t.Errorf("%s: discovered %q, want %q", what, found, tables)
		}
		for _, reason := range reasons {
			if !strings.Contains(summary, reason) {
				t.Errorf("%s: %s\nwant %s", what, summary, reason)
			}
		}
	}
	always := []string{
		"13 view (a view, view00, view01, view02, view03, view04, view05, view06, view07, view08, and 3 more)", "1 materialized view (stored)",
		"1 foreign table (elsewhere)", "1 unlogged table (unlogged)", "1 temporary table (" + temporary + ".temporary)",
	}
	unpublished := "not in the publication (unpublished, "
	check("roots", nil, []string{"captured", "root"}, append(always, unpublished))
	check("partitions of roots", map[string]any{"capture_as_partitions": true}, []string{"captured"}, append(always, "1 partition published as "+
		"its root (publish_via_partition_root is on) (part)"))
	db.exec("ALTER PUBLICATION " + quoteIdent(db.publication) + " SET (publish_via_partition_root = false)")
	check("roots of partitions", nil, []string{"captured"}, append(always, "1 partitioned table published as its partitions "+
		"(publish_via_partition_root is off) (root)"))
	check("partitions", map[string]any{"capture_as_partitions": true}, []string{"captured", "part"}, append(always, unpublished))
	check("one schema", map[string]any{"discover_schemas": []string{"no such schema"}}, nil, nil)
	if _, summary := discover(map[string]any{"discover_schemas": []string{schema}}); strings.Contains(summary, temporary) {
		t.Errorf("another schema's tables are told: %s", summary)
	}
}

// A role that may read some columns only is refused, unless the publication leaves the others out.
func TestShapesOfRole(t *testing.T) {
	db := newTestDB(t)
	role := db.name("columns")
	db.exec(fmt.Sprintf("CREATE ROLE %s LOGIN REPLICATION PASSWORD 'secret1234'", role))
	t.Cleanup(func() {
		db.dropSlot()
		db.script("DROP OWNED BY " + role + "; DROP ROLE " + role)
	})
	db.script(fmt.Sprintf("GRANT USAGE ON SCHEMA test TO %s; GRANT ALL ON %s TO %[1]s", role, quoteTable(db.watermarks)))
	part := db.createTable("some", `(id int PRIMARY KEY, v text, "Se""cret" text, other int, twice int GENERATED ALWAYS AS (id * 2) STORED)`)
	db.exec(fmt.Sprintf("GRANT SELECT (id, v) ON %s TO %s", quoteTable(part), role))
	config := bytes.ReplaceAll(db.config(), fmt.Appendf(nil, `"user":%q`, *testCaptureUser), fmt.Appendf(nil, `"user":%q`, role))
	config = bytes.ReplaceAll(config, fmt.Appendf(nil, `"password":%q`, *testCapturePassword), []byte(`"password":"secret1234"`))
	r := newTestRuntime(t, runtimeOptions{config: json.RawMessage(config)})
	bindings := r.edgeBindings(map[tableName]backfillMode{part: modeAutomatic})
	_, err := r.driver.validate(t.Context(), bindings, nil)
	if err == nil {
		t.Fatal("a role that may not read all columns was not refused")
	}
	want := fmt.Sprintf(`the role %q may not read the columns "Se""cret", "other" of table %s. Run: GRANT SELECT ("Se""cret", "other") ON %s TO %[1]q;`,
		role, part, quoteTable(part))
	if !strings.Contains(err.Error(), want) {
		t.Fatalf("%v\nwant %s", err, want)
	}
	if db.version() >= 150000 {
		name, publication := quoteTable(part), quoteIdent(db.publication)
		db.script(fmt.Sprintf("ALTER PUBLICATION %s DROP TABLE %s; ALTER PUBLICATION %[1]s ADD TABLE %[2]s (id, v)", publication, name))
		if _, err := r.driver.validate(t.Context(), bindings, nil); err != nil {
			t.Errorf("with a column list: %v", err)
		}
		db.script(fmt.Sprintf("ALTER PUBLICATION %s DROP TABLE %s; ALTER PUBLICATION %[1]s ADD TABLE %[2]s", publication, name))
	}
	db.runRemedies(err)
	db.exec(fmt.Sprintf(`INSERT INTO %s VALUES (1, 'one', 'secret', 7)`, quoteTable(part)))
	r.bind(bindings)
	r.start()
	r.waitStreaming()
	db.exec(fmt.Sprintf(`INSERT INTO %s VALUES (2, 'two', 'secret', 7)`, quoteTable(part)))
	r.waitDocuments(2)
	r.stop()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	for _, d := range r.documents() {
		if !strings.Contains(d.doc, `"Se\"cret":"secret"`) {
			t.Errorf("the column is not in the document: %s", d.doc)
		}
	}
}

// productShapes are the product of what decides which changes of a table are published, and with what: partitioning, key,
// replica identity, column list and row filter, for a publication with the options given. Each shape's promise comes from the
// model below, which is written from the server's documentation.
func productShapes(viaRoot, generated bool) []*shape {
	var product []*shape
	for _, partitioned := range []bool{false, true} {
		for _, key := range []string{"primary", "unique", "none"} {
			for _, identity := range []string{"default", "full", "index", "other", "nothing"} {
				for _, list := range []string{"", "id, v", "v, x"} {
					for _, filter := range []string{"", "id < 1015", "v NOT LIKE '%++'"} {
						if partitioned && !viaRoot && list+filter != "" {
							continue // the server refuses it
						}
						product = append(product, publishedAs{partitioned, generated, key, identity, list, filter}.shape())
					}
				}
			}
		}
	}
	return product
}

// publishedAs is what decides which changes of a table are published, and with what.
type publishedAs struct {
	partitioned, generated      bool
	key, identity, list, filter string
}

func (a publishedAs) shape() *shape {
	partitioned, generated := a.partitioned, a.generated
	key, identity, list, filter := a.key, a.identity, a.list, a.filter
	s := &shape{
		name: strings.NewReplacer("'", "", "%++", "pp").Replace(fmt.Sprintf("p%v %s %s (%s) %s", partitioned, key, identity, list, filter)),
		cols: "id, v, x", vals: "{i}, 'row ' || {i}, {i}", set: "v = CASE WHEN v LIKE '%++' THEN 'back' ELSE v || '+' END", where: filter, since: 150000,
	}
	if filter != "" {
		s.listed = "WHERE (" + filter + ")"
	}
	sent := []string{"id", "v", "x", "g"}
	if list != "" {
		s.listed = "(" + list + ") " + s.listed
		sent = strings.Split(list, ", ")
	} else if !generated {
		sent = sent[:3]
	}
	sends := func(columns ...string) bool {
		return !slices.ContainsFunc(columns, func(c string) bool { return !slices.Contains(sent, c) })
	}

	// The table. Names of indexes sort the key's first.
	columns, relations := "id int NOT NULL, v text NOT NULL, x int NOT NULL", []string{"{t}"}
	if generated {
		columns += ", g int GENERATED ALWAYS AS (x + 1) STORED"
	}
	quoted := func(suffix string) string { return quoteIdent(s.name + suffix) }
	s.sql = "CREATE TABLE {t} (" + columns + ")"
	if partitioned {
		s.sql += " PARTITION BY RANGE (id)"
		for _, part := range []string{"_0 FOR VALUES FROM (MINVALUE) TO (12)", "_1 DEFAULT"} {
			suffix, bound, _ := strings.Cut(part, " ")
			relations = append(relations, "{s}."+quoted(suffix))
			s.sql += "; CREATE TABLE {s}." + quoted(suffix) + " PARTITION OF {t} " + bound
		}
	}
	index := "id, x"
	if identity == "other" {
		index = "x"
	}
	for i, relation := range relations {
		switch {
		case i > 0: // the root's keys are its partitions', too
		case key == "primary":
			s.sql += "; ALTER TABLE {t} ADD PRIMARY KEY (id)"
		case key == "unique":
			s.sql += "; CREATE UNIQUE INDEX " + quoted(" a") + " ON {t} (id)"
		}
		switch identity {
		case "full", "nothing":
			s.sql += "; ALTER TABLE " + relation + " REPLICA IDENTITY " + identity
		case "index", "other":
			name := quoted(" b" + strconv.Itoa(i))
			if partitioned && i == 0 && identity == "other" {
				continue // a unique index of a partitioned table has the columns it is partitioned by
			}
			s.sql += "; CREATE UNIQUE INDEX " + name + " ON ONLY " + relation + " (" + index + ")"
			if i > 0 || !partitioned {
				s.sql += "; ALTER TABLE " + relation + " REPLICA IDENTITY USING INDEX " + name
			}
		}
	}
	s.not = slices.DeleteFunc([]string{"id", "v", "x", "g"}, func(c string) bool { return sends(c) })

	// What is logged of an old row, and whether the server lets updates happen.
	var logged []string
	switch {
	case identity == "full":
		logged = sent
	case identity == "index" || identity == "other":
		logged = strings.Split(index, ", ")
	case identity == "default" && key == "primary":
		logged = []string{"id"}
	}
	s.insertOnly = logged == nil || list != "" && (identity == "full" || !sends(logged...)) ||
		filter != "" && identity != "full" && !slices.Contains(logged, strings.Fields(filter)[0])

	// The key: a primary key that is sent; else the first unique index that is, of a partitioned table one that its partitions have.
	switch {
	case key == "primary":
		if sends("id") {
			s.key = []string{"id"}
		}
	case key == "unique" && sends("id"):
		s.key, s.fallback = []string{"id"}, true
	case partitioned: // ON ONLY the root: not valid
	case (identity == "index" || identity == "other") && sends(strings.Split(index, ", ")...):
		s.key, s.fallback = strings.Split(index, ", "), true
	}
	if s.key == nil {
		s.check = shapeCalm
		if identity != "full" && !s.insertOnly {
			s.check = shapeContained
		}
	} else if len(s.key) == 1 {
		s.id = s.key[0]
	}
	s.full = s.key != nil && identity == "full" && !s.insertOnly
	if s.insertOnly {
		switch {
		case partitioned:
			s.warning = "table {n} (partition "
		case logged == nil:
			s.warning = "table {n} has no replica identity: the server rejects"
		default:
			s.warning = "table {n}: the server rejects"
		}
	}
	if logged != nil && slices.ContainsFunc(s.key, func(c string) bool { return !slices.Contains(logged, c) }) {
		s.refused = "table {n}"
		if partitioned {
			s.refused += " (partition"
		} else {
			s.refused += ": updates and deletes would carry only the replica identity"
		}
		s.insertOnly = true // whatever the SQL makes of it
		s.warning = ""
	}
	return s
}

// TestShapesProduct runs the product of what a publication can do to a table through captures, a sample of it in the short form.
func TestShapesProduct(t *testing.T) {
	if testing.Short() {
		t.Skip("the oracle runs the same code")
	}
	newTestDB(t).requireVersion(150000) // row filters and column lists
	for _, c := range []struct {
		name, set          string
		viaRoot, generated bool
		since              int
	}{
		{"root", "(publish_via_partition_root = true)", true, false, 0},
		{"partitions", "(publish_via_partition_root = false)", false, false, 0},
		{"generated", "(publish_via_partition_root = true, publish_generated_columns = stored)", true, true, 180000},
		{"no truncate", "(publish = 'insert, update, delete')", true, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			newTestDB(t).requireVersion(max(150000, c.since))
			seeds(t, 1, func(t *testing.T, seed uint64) {
				product := productShapes(c.viaRoot, c.generated)
				if !c.viaRoot { // told by TestShapesLeftOut and TestPrerequisitesTables
					product = slices.DeleteFunc(product, func(s *shape) bool { return strings.HasPrefix(s.name, "ptrue") })
				}
				random := rand.New(rand.NewPCG(seed, 7))
				random.Shuffle(len(product), func(i, j int) { product[i], product[j] = product[j], product[i] })
				if !*longTests {
					product = product[:20]
				}
				run := newShapeRun(t, seed, shapeOptions{shapes: product, set: c.set})
				bindings, _ := run.discover()
				run.capture(bindings)
				run.judge()
			})
		})
	}
}

// A publication that lacks an operation is refused by name, and fits once the SQL shown was run.
func TestShapesUnpublishedOperations(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a connector for each of many cases")
	}
	db := newTestDB(t)
	table := db.createTable("t", "(id int PRIMARY KEY)")
	for _, c := range []struct{ publish, lacks string }{
		{"insert", "update and delete"},
		{"update, delete", "insert"},
		{"insert, update, truncate", "delete"},
		{"insert, delete", "update"},
		{"truncate", "insert and update and delete"},
		{"", "insert and update and delete"},
	} {
		db.exec(fmt.Sprintf("ALTER PUBLICATION %s SET (publish = '%s')", quoteIdent(db.publication), c.publish))
		r := newTestRuntime(t, runtimeOptions{config: db.config()})
		bindings := r.edgeBindings(map[tableName]backfillMode{table: modeAutomatic})
		_, err := r.driver.validate(t.Context(), bindings, nil)
		want := fmt.Sprintf("the publication %q does not publish %s. Run: ALTER PUBLICATION %s SET (publish = 'insert, update, delete, truncate');",
			db.publication, c.lacks, quoteIdent(db.publication))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("publish = %q: %v\nwant %s", c.publish, err, want)
			continue
		}
		db.runRemedies(err)
		if _, err := r.driver.validate(t.Context(), bindings, nil); err != nil {
			t.Errorf("publish = %q: still refused: %v", c.publish, err)
		}
	}
}
