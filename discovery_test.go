package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// inSchema is a test's own schema, a connection as the capture's, and settings that see nothing else.
func inSchema(db *testDB) (schema string, conn *pgx.Conn, s *settings) {
	db.Helper()
	schema = db.createSchema("disc")
	s = db.settings()
	s.includeSchemas = []string{schema}
	pooled, err := db.connect(s).acquire(db.ctx)
	if err != nil {
		db.Fatal(err)
	}
	db.Cleanup(pooled.Release)
	db.script(`SET search_path = ` + quoteIdent(schema) + `, public`)
	return schema, pooled.Conn(), s
}

func list(db *testDB, conn *pgx.Conn, s *settings) (map[string]*table, map[string][]tableName) {
	db.Helper()
	tables, leftOut, err := listTables(db.ctx, conn, s)
	if err != nil {
		db.Fatal(err)
	}
	byName := map[string]*table{}
	for _, t := range tables {
		byName[t.name] = t
	}
	return byName, leftOut
}

// Keys are what the server guarantees at every moment for every row, and nothing else (spec/decisions.md #18).
func TestDiscoverKeys(t *testing.T) {
	db := newTestDB(t)
	schema, conn, s := inSchema(db)
	cases := []struct {
		version               int
		name                  string
		sql                   string // T is the table
		key, unique, identity string
	}{
		{0, "composite", "CREATE TABLE T (a int, b int, c int, PRIMARY KEY (c, a))", "c a", "", "c a"},
		{110000, "including", "CREATE TABLE T (a int, b int, PRIMARY KEY (a) INCLUDE (b))", "a", "", "a"},
		{0, "deferred_pk", "CREATE TABLE T (a int PRIMARY KEY DEFERRABLE)", "", "", ""},
		{0, "deferrable_other", "CREATE TABLE T (a int PRIMARY KEY DEFERRABLE, b int NOT NULL UNIQUE)", "", "b", ""},
		{
			0, "unique_first_name", "CREATE TABLE T (a int NOT NULL, b int NOT NULL, c int NOT NULL);" +
				"CREATE UNIQUE INDEX T_z ON T (a); CREATE UNIQUE INDEX T_m ON T (c, b); CREATE UNIQUE INDEX \"T_Z\" ON T (c)",
			"", "c", "",
		},
		{110000, "unique_include", "CREATE TABLE T (a int NOT NULL, b int); CREATE UNIQUE INDEX ON T (a) INCLUDE (b)", "", "a", ""},
		{0, "partial", "CREATE TABLE T (a int NOT NULL); CREATE UNIQUE INDEX ON T (a) WHERE a > 0", "", "", ""},
		{0, "expression", "CREATE TABLE T (a int NOT NULL); CREATE UNIQUE INDEX ON T ((a + 1))", "", "", ""},
		{0, "nullable", "CREATE TABLE T (a int, b int NOT NULL, UNIQUE (a, b))", "", "", ""},
		{150000, "nulls_not_distinct", "CREATE TABLE T (a int UNIQUE NULLS NOT DISTINCT)", "", "", ""},
		{0, "not_unique", "CREATE TABLE T (a int NOT NULL); CREATE INDEX ON T (a)", "", "", ""},
		{0, "invalid", "CREATE TABLE T (a int NOT NULL); CREATE UNIQUE INDEX T_i ON T (a);" +
			"UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'T_i'::regclass", "", "", ""},
		{0, "constraint_deferrable", "CREATE TABLE T (a int NOT NULL UNIQUE DEFERRABLE INITIALLY DEFERRED)", "", "", ""},
		{
			120000, "generated", "CREATE TABLE T (a int, g int GENERATED ALWAYS AS (a + 1) STORED, PRIMARY KEY (g), u int NOT NULL UNIQUE)",
			"", "", "g",
		},
		{0, "meta_key", "CREATE TABLE T (_meta int PRIMARY KEY)", "", "", "_meta"},
		{0, "identity_index", "CREATE TABLE T (a int PRIMARY KEY, b int NOT NULL, c int NOT NULL); CREATE UNIQUE INDEX T_i ON T (c, b);" +
			"ALTER TABLE T REPLICA IDENTITY USING INDEX T_i", "a", "", "c b"},
		{0, "identity_full", "CREATE TABLE T (a int PRIMARY KEY); ALTER TABLE T REPLICA IDENTITY FULL", "a", "", ""},
		{0, "identity_nothing", "CREATE TABLE T (a int PRIMARY KEY); ALTER TABLE T REPLICA IDENTITY NOTHING", "a", "", ""},
		{
			0, "domain_not_null", "CREATE DOMAIN dnn AS int NOT NULL; CREATE DOMAIN dnn2 AS dnn; CREATE TABLE T (a dnn2 UNIQUE)",
			"", "a", "",
		},
		{0, "dropped_before", "CREATE TABLE T (x int, a int PRIMARY KEY); ALTER TABLE T DROP COLUMN x", "a", "", "a"},
		{0, "none", "CREATE TABLE T ()", "", "", ""},
		{110000, "root", "CREATE TABLE T (a int PRIMARY KEY, b int NOT NULL) PARTITION BY RANGE (a)", "a", "", "a"},
		{110000, "root_unique", "CREATE TABLE T (a int NOT NULL UNIQUE) PARTITION BY RANGE (a)", "", "a", ""},
		{
			110000, "root_unique_include", "CREATE TABLE T (b int, a int NOT NULL) PARTITION BY RANGE (a);" +
				"CREATE TABLE T_1 PARTITION OF T FOR VALUES FROM (0) TO (9); CREATE UNIQUE INDEX ON T (a) INCLUDE (b)", "", "a", "",
		},
		{
			110000, "root_identity", "CREATE TABLE T (a int, b int NOT NULL, c int NOT NULL, PRIMARY KEY (a, b)) PARTITION BY LIST (b);" +
				"CREATE UNIQUE INDEX T_i ON T (c, b); ALTER TABLE T REPLICA IDENTITY USING INDEX T_i", "a b", "", "c b",
		},
		{
			110000, "root_unique_identity", "CREATE TABLE T (a int, b int NOT NULL) PARTITION BY LIST (b);" +
				"CREATE UNIQUE INDEX T_i ON T (b); ALTER TABLE T REPLICA IDENTITY USING INDEX T_i", "", "b", "b",
		},
		{110000, "root_nullable", "CREATE TABLE T (a int UNIQUE) PARTITION BY RANGE (a)", "", "", ""},
		{150000, "root_nulls_not_distinct", "CREATE TABLE T (a int UNIQUE NULLS NOT DISTINCT) PARTITION BY RANGE (a)", "", "", ""},
		{110000, "root_deferrable", "CREATE TABLE T (a int NOT NULL UNIQUE DEFERRABLE) PARTITION BY RANGE (a)", "", "", ""},
		{
			110000, "root_invalid", "CREATE TABLE T (a int NOT NULL) PARTITION BY RANGE (a);" +
				"CREATE TABLE T_1 PARTITION OF T FOR VALUES FROM (0) TO (9);" +
				"CREATE TABLE T_2 PARTITION OF T FOR VALUES FROM (9) TO (19);" +
				"CREATE UNIQUE INDEX T_i ON ONLY T (a); CREATE UNIQUE INDEX T_i1 ON T_1 (a); ALTER INDEX T_i ATTACH PARTITION T_i1",
			"", "", "",
		},
		{
			110000, "root_valid_at_last", "CREATE TABLE T (a int NOT NULL) PARTITION BY RANGE (a);" +
				"CREATE TABLE T_1 PARTITION OF T FOR VALUES FROM (0) TO (9);" +
				"CREATE UNIQUE INDEX T_i ON ONLY T (a); CREATE UNIQUE INDEX T_i1 ON T_1 (a); ALTER INDEX T_i ATTACH PARTITION T_i1",
			"", "a", "",
		},
		{
			110000, "leaf_deferrable", "CREATE TABLE T (a int PRIMARY KEY) PARTITION BY RANGE (a);" +
				"CREATE TABLE T_1 (a int PRIMARY KEY DEFERRABLE); ALTER TABLE T ATTACH PARTITION T_1 FOR VALUES FROM (0) TO (9)", "a", "", "a",
		},
		{
			110000, "root_of_roots", "CREATE TABLE T (a int NOT NULL, b int NOT NULL) PARTITION BY RANGE (a);" +
				"CREATE TABLE T_1 PARTITION OF T FOR VALUES FROM (0) TO (9) PARTITION BY LIST (b);" +
				"CREATE TABLE T_2 PARTITION OF T_1 DEFAULT; CREATE UNIQUE INDEX ON T (b, a)", "", "b a", "",
		},
	}
	deferred := map[string]string{
		"deferred_pk": "[[a]]", "deferrable_other": "[[a]]", "constraint_deferrable": "[[a]]", "root_deferrable": "[[a]]",
		"leaf_deferrable": "[[a]]",
	}
	s.discoverUnpublished = true
	for _, c := range cases {
		if db.version() >= c.version {
			db.script(regexp.MustCompile(`\bT\b|\bT(_\w)`).ReplaceAllString(c.sql, c.name+"$1"))
		}
	}
	tables, _ := list(db, conn, s)
	for _, c := range cases {
		if db.version() < c.version {
			continue
		}
		got := tables[c.name]
		if got == nil {
			t.Errorf("%s: not listed", c.name)
			continue
		}
		if key := strings.Join(got.primaryKey, " "); key != c.key {
			t.Errorf("%s: primary key %q, want %q", c.name, key, c.key)
		}
		if key := strings.Join(got.uniqueKey, " "); key != c.unique {
			t.Errorf("%s: unique key %q, want %q", c.name, key, c.unique)
		}
		if key := strings.Join(got.identityColumns, " "); key != c.identity {
			t.Errorf("%s: identity columns %q, want %q", c.name, key, c.identity)
		}
		if deferrable := fmt.Sprint(got.deferrableKeys); deferrable != cmp.Or(deferred[c.name], "[]") {
			t.Errorf("%s: deferrable keys %s", c.name, deferrable)
		}
		if got.schema != schema || got.published || got.rowFilter != "" {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

// What is left out is left out for a reason that is told.
func TestDiscoverLeavesOut(t *testing.T) {
	db := newTestDB(t)
	schema, conn, s := inSchema(db)
	other := db.createSchema("Other")
	s.includeSchemas = append(s.includeSchemas, other)
	s.excludeSchemas = []string{other}
	s.watermarks = tableName{schema, "marks"}
	db.script(`
CREATE TABLE captured (a int PRIMARY KEY);
CREATE TABLE "Captured ""Too""" (a int PRIMARY KEY);
CREATE TABLE unpublished (a int PRIMARY KEY);
CREATE VIEW view AS SELECT 1 AS a;
CREATE MATERIALIZED VIEW matview AS SELECT 1 AS a;
CREATE UNLOGGED TABLE unlogged (a int PRIMARY KEY);
CREATE TEMPORARY TABLE temporary (a int PRIMARY KEY);
CREATE TABLE marks (a int PRIMARY KEY);
CREATE TABLE flow_checkpoints_v1 (a int PRIMARY KEY);
CREATE TABLE flow_materializations_v2 (a int PRIMARY KEY);
CREATE TABLE materialized (a int PRIMARY KEY, flow_published_at timestamptz);
CREATE TABLE ` + quoteIdent(other) + `.t (a int PRIMARY KEY);
CREATE FOREIGN DATA WRAPPER ` + db.name("fdw") + `;
CREATE SERVER ` + db.name("server") + ` FOREIGN DATA WRAPPER ` + db.name("fdw") + `;
CREATE FOREIGN TABLE "foreign" (a int) SERVER ` + db.name("server") + `;
CREATE SEQUENCE sequence;
CREATE TABLE root (a int) PARTITION BY RANGE (a);
CREATE TABLE part PARTITION OF root FOR VALUES FROM (0) TO (10);`)
	t.Cleanup(func() { db.script(`DROP FOREIGN DATA WRAPPER ` + db.name("fdw") + ` CASCADE`) })
	published := []string{`Captured "Too"`, "captured", "root"}
	unpublished := []string{"unpublished"}
	if db.version() < 130000 { // publishes no partitioned tables
		published, unpublished = published[:2], []string{"root", "unpublished"}
	}
	for _, name := range append(slices.Clone(published), "materialized") {
		db.publish(tableName{schema, name})
	}
	tables, leftOut := list(db, conn, s)
	if got, want := slices.Sorted(maps.Keys(tables)), published; !reflect.DeepEqual(got, want) {
		t.Errorf("listed %q, want %q", got, want)
	}
	in := func(names ...string) (result []tableName) {
		for _, name := range names {
			result = append(result, tableName{schema, name})
		}
		return result
	}
	if want := map[string][]tableName{
		leftOutView:         in("view"),
		leftOutMaterialized: in("matview"),
		leftOutForeign:      in("foreign"),
		leftOutUnlogged:     in("unlogged"),
		leftOutWatermarks:   in("marks"),
		leftOutReserved:     in("flow_checkpoints_v1", "flow_materializations_v2"),
		leftOutPublishedAt:  in("materialized"),
		leftOutUnpublished:  in(unpublished...),
		leftOutSchema:       {{other, "t"}},
	}; !reflect.DeepEqual(leftOut, want) {
		t.Errorf("left out %v\nwant %v", leftOut, want)
	}

	s.discoverUnpublished = true
	if tables, _ = list(db, conn, s); tables["unpublished"] == nil {
		t.Error("discoverUnpublished does not list an unpublished table")
	}
	s.discoverUnpublished, s.publication = false, "no such publication"
	if tables, _ = list(db, conn, s); tables["unpublished"] == nil {
		t.Error("without a publication, what could be added is not listed")
	}
	s.captureAsPartitions = true
	if tables, _ = list(db, conn, s); tables["root"] != nil || tables["part"] == nil || !tables["part"].isPartition {
		t.Error("captureAsPartitions must list partitions and no roots")
	}
	pattern, err := compileTablePattern("capt*")
	if err != nil {
		t.Fatal(err)
	}
	s.tablePatterns = []tablePattern{pattern}
	if tables, leftOut = list(db, conn, s); len(tables) != 1 || len(leftOut[leftOutPattern]) == 0 {
		t.Errorf("pattern: listed %v, left out %v", tables, leftOut)
	}
}

// Membership, column lists and row filters come from every form of publication.
func TestDiscoverPublication(t *testing.T) {
	db := newTestDB(t)
	db.requireVersion(130000)
	schema, conn, s := inSchema(db)
	db.script(`
CREATE TABLE plain (a int PRIMARY KEY, b text, g int GENERATED ALWAYS AS (a + 1) STORED);
CREATE TABLE root (a int PRIMARY KEY) PARTITION BY RANGE (a);
CREATE TABLE part PARTITION OF root FOR VALUES FROM (0) TO (10);`)
	publish := func(definition string) {
		db.script(`DROP PUBLICATION ` + db.publication + `; CREATE PUBLICATION ` + db.publication + ` FOR ` + definition)
	}
	check := func(name, table string, published bool, columns, filter string) {
		t.Helper()
		tables, err := loadTables(db.ctx, conn, s, []tableName{{schema, table}})
		if err != nil {
			t.Fatal(err)
		}
		got := tables[tableName{schema, table}]
		if got.published != published || strings.Join(got.publishedCols, " ") != columns || got.rowFilter != filter {
			t.Errorf("%s: %s: published %v, columns %q, filter %q", name, table, got.published, got.publishedCols, got.rowFilter)
		}
		if c := got.column("g"); c != nil && got.captures(c) {
			t.Errorf("%s: the generated column is captured", name)
		}
		if c := got.column("b"); c != nil && got.captures(c) != (columns == "" || strings.Contains(columns, "b")) {
			t.Errorf("%s: column b captured: %v", name, got.captures(c))
		}
	}
	publish(`TABLE plain`)
	check("one table", "plain", true, "", "")
	check("one table", "root", false, "", "")
	publish(`ALL TABLES WITH (publish_via_partition_root = true)`)
	check("all tables, root", "plain", true, "", "")
	check("all tables, root", "root", true, "", "")
	check("all tables, root", "part", false, "", "")
	publish(`ALL TABLES WITH (publish_via_partition_root = false)`)
	check("all tables, leaves", "root", false, "", "")
	check("all tables, leaves", "part", true, "", "")
	db.requireVersion(150000)
	publish(`TABLES IN SCHEMA ` + quoteIdent(schema))
	check("schema", "plain", true, "", "")
	publish(`TABLE plain (a) WHERE (a > 5)`)
	check("list and filter", "plain", true, "a", "(a > 5)")
	publish(`TABLE root WHERE (a > 5) WITH (publish_via_partition_root = true)`)
	check("filter of a root", "root", true, "", "(a > 5)")
}

// Version 18: generated columns are captured where the publication sends them, NOT NULL may be unproven.
func TestDiscoverVersion18(t *testing.T) {
	db := newTestDB(t)
	db.requireVersion(180000)
	schema, conn, s := inSchema(db)
	db.script(`CREATE TABLE t (a int PRIMARY KEY, st int GENERATED ALWAYS AS (a + 1) STORED, vi int GENERATED ALWAYS AS (a) VIRTUAL);
ALTER PUBLICATION ` + db.publication + ` ADD TABLE t; ALTER PUBLICATION ` + db.publication + ` SET (publish_generated_columns = stored)`)
	tables, err := loadTables(db.ctx, conn, s, []tableName{{schema, "t"}})
	if err != nil {
		t.Fatal(err)
	}
	got := tables[tableName{schema, "t"}]
	if !got.captures(got.column("st")) || got.captures(got.column("vi")) {
		t.Errorf("%+v", got)
	}

	// A NOT NULL that was not validated does not hold for the rows before it.
	db.script(`CREATE TABLE n (a int, b int NOT NULL); INSERT INTO n VALUES (NULL, 1); ALTER TABLE n ADD NOT NULL a NOT VALID`)
	if tables, err = loadTables(db.ctx, conn, s, []tableName{{schema, "n"}}); err != nil {
		t.Fatal(err)
	}
	if got := tables[tableName{schema, "n"}]; got.column("a").notNull || !got.column("b").notNull {
		t.Errorf("%+v", got.columns)
	}
}

// What is read of a publication is what the server's own view tells of it, and no lock on a member is waited for.
func TestPublishedTables(t *testing.T) {
	db := newTestDB(t)
	db.requireVersion(130000)
	schema, conn, s := inSchema(db)
	other := db.createSchema("elsewhere")
	db.script(strings.NewReplacer("OTHER", quoteIdent(other)).Replace(`
CREATE TABLE plain (a int PRIMARY KEY, b text, g int GENERATED ALWAYS AS (a + 1) STORED, d int);
ALTER TABLE plain DROP COLUMN d;
CREATE TABLE nothing ();
CREATE UNLOGGED TABLE unlogged (a int);
CREATE TABLE parent (a int); CREATE TABLE child (b int) INHERITS (parent);
CREATE TABLE root (a int, b int, PRIMARY KEY (a, b)) PARTITION BY RANGE (a);
CREATE TABLE leaf PARTITION OF root FOR VALUES FROM (0) TO (10);
CREATE TABLE mid PARTITION OF root FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (b);
CREATE TABLE deep PARTITION OF mid FOR VALUES FROM (0) TO (10);
CREATE TABLE OTHER.far PARTITION OF mid FOR VALUES FROM (10) TO (20);
CREATE TABLE OTHER.alone (a int PRIMARY KEY);`))
	forms := []string{"TABLE plain, nothing", "TABLE parent", "TABLE ONLY parent", "ALL TABLES", "TABLE root", "TABLE leaf", "TABLE mid, deep", "TABLE root, leaf, deep"}
	if db.version() >= 150000 {
		in := quoteIdent(schema)
		forms = append(forms, "TABLE plain (b, a) WHERE (a > 5), leaf (a, b)", "TABLES IN SCHEMA "+in, "TABLES IN SCHEMA "+in+", "+quoteIdent(other),
			"TABLES IN SCHEMA "+quoteIdent(other)+", TABLE root", "TABLES IN SCHEMA "+in+", TABLE plain WHERE (a > 5)",
			"TABLE root (a, b) WHERE (a > 5), mid (b, a) WHERE (b > 7)", "TABLES IN SCHEMA "+quoteIdent(other)+", TABLE mid")
	}
	options := []string{"publish_via_partition_root = true", "publish_via_partition_root = false"}
	if db.version() >= 180000 {
		forms = append(forms, "TABLE plain (g, a)")
		options = append(options, "publish_via_partition_root = true, publish_generated_columns = stored")
	}
	compared := 0
	for _, form := range forms {
		for _, option := range options {
			if strings.HasPrefix(form, "TABLE root (") && strings.Contains(option, "= false") {
				continue // the server refuses columns and filters of a root that is not published as such
			}
			db.script(`DROP PUBLICATION ` + db.publication + `; CREATE PUBLICATION ` + db.publication + ` FOR ` + form + ` WITH (` + option + `)`)
			columns := `coalesce(m.attnames, (SELECT array_agg(attname ORDER BY attnum) FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped
				AND attgenerated = '' AND attrelid = (quote_ident(v.schemaname) || '.' || quote_ident(v.tablename))::regclass))::text,
				v.attnames::text, m.rowfilter, v.rowfilter`
			if db.version() < 160000 {
				columns = "'', '', '', ''" // it is the view that is read
			}
			for _, row := range db.query(`SELECT m.schemaname, v.schemaname, m.tablename, v.tablename, ` + columns + ` FROM (` +
				publishedTables(db.version()/10000, quoteLiteral(db.publication)) + `) m FULL JOIN (SELECT * FROM pg_publication_tables
				WHERE pubname = ` + quoteLiteral(db.publication) + `) v ON v.schemaname = m.schemaname AND v.tablename = m.tablename`) {
				compared++
				for i := 0; i < len(row); i += 2 {
					if row[i] != row[i+1] {
						t.Errorf("FOR %s WITH (%s): %q, the view says %q: %q", form, option, row[i], row[i+1], row)
					}
				}
			}
		}
	}
	if compared < len(forms) {
		t.Errorf("only %d members were compared", compared)
	}

	db.script(`DROP PUBLICATION ` + db.publication + `; CREATE PUBLICATION ` + db.publication + ` FOR ALL TABLES`)
	holder := testConnect(t, *testControlUser, *testControlPassword)
	if _, err := holder.Exec(db.ctx, "BEGIN"); err != nil {
		t.Fatal(err)
	}
	if _, err := holder.Exec(db.ctx, "LOCK TABLE "+quoteTable(tableName{schema, "plain"})); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(db.ctx, "SET statement_timeout = '5s'"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := listTables(db.ctx, conn, s); err != nil {
		t.Errorf("discovery beside a locked table: %v", err)
	}
	if _, err := loadTables(db.ctx, conn, s, []tableName{{schema, "plain"}}); err != nil {
		t.Errorf("what the catalog says of a locked table: %v", err)
	}
}

// Bound names are found by exact spelling, whatever they are.
func TestLoadTables(t *testing.T) {
	db := newTestDB(t)
	schema, conn, s := inSchema(db)
	long := strings.Repeat("n", 63)
	db.script(`
CREATE TABLE "T" (a int PRIMARY KEY); COMMENT ON TABLE "T" IS 'what it is';
CREATE TABLE t (b text COLLATE "C" NOT NULL, "C" varchar(7) DEFAULT 'x'); COMMENT ON COLUMN t.b IS 'it''s b';
ALTER TABLE t ENABLE ROW LEVEL SECURITY;
CREATE VIEW v AS SELECT 1 AS a;
CREATE TABLE ` + long + ` (a int);
CREATE TABLE parent (a int); CREATE TABLE child () INHERITS (parent);
CREATE TABLE root (a int, b int) PARTITION BY RANGE (a);
CREATE TABLE leaf_b PARTITION OF root FOR VALUES FROM (0) TO (10);
CREATE TABLE middle PARTITION OF root FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (b);
CREATE TABLE leaf_a PARTITION OF middle FOR VALUES FROM (0) TO (10);
ALTER TABLE leaf_a REPLICA IDENTITY FULL;
INSERT INTO root SELECT i % 20, 5 FROM generate_series(0, 99) i;
INSERT INTO "T" SELECT generate_series(1, 7);
ANALYZE root; ANALYZE leaf_a; ANALYZE leaf_b; ANALYZE "T";`)
	name := func(n string) tableName { return tableName{schema, n} }
	tables, err := loadTables(db.ctx, conn, s, []tableName{
		name("T"), name("t"), name("v"), name("T"), name("missing"), name(long + "n"), name("parent"), name("root"),
		{strings.ToUpper(schema), "t"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for n := range tables {
		found = append(found, n.name)
	}
	slices.Sort(found)
	if want := []string{"T", "parent", "root", "t", "v"}; !reflect.DeepEqual(found, want) {
		t.Fatalf("found %q, want %q", found, want)
	}
	upper, lower, root := tables[name("T")], tables[name("t")], tables[name("root")]
	if upper.comment != "what it is" || upper.reltuples != 7 || len(upper.columns) != 1 || upper.kind != 'r' || upper.rowSecurity {
		t.Errorf("T: %+v", upper)
	}
	if want := []column{
		{attnum: 1, name: "b", typeOID: 25, typmod: -1, notNull: true, byteOrder: true, collation: `pg_catalog."C"`, comment: "it's b"},
		{attnum: 2, name: "C", typeOID: 1043, typmod: 11, byteOrder: lower.columns[1].byteOrder},
	}; !reflect.DeepEqual(lower.columns, want) || !lower.rowSecurity || lower.reltuples != -1 {
		t.Errorf("t: %+v\nwant columns %+v", lower, want)
	}
	if tables[name("v")].kind != 'v' {
		t.Errorf("v: %+v", tables[name("v")])
	}
	if parent := tables[name("parent")]; len(parent.leaves) != 1 || parent.leaves[0].oid != parent.oid {
		t.Errorf("an inheritance parent holds its own rows only: %+v", parent.leaves)
	}
	if root.kind != 'p' || root.reltuples != 100 || len(root.leaves) != 2 ||
		root.leaves[0].name != "leaf_a" || root.leaves[0].identity != 'f' ||
		root.leaves[1].name != "leaf_b" || root.leaves[1].identity != 'd' || root.leaves[1].schema != schema {
		t.Errorf("root: %+v", root)
	}
	for _, l := range root.leaves {
		if got := db.queryValue(`SELECT relfilenode FROM pg_class WHERE oid = ` + fmt.Sprint(l.oid)); got != fmt.Sprint(l.relfilenode) {
			t.Errorf("%s: relfilenode %d, want %s", l.name, l.relfilenode, got)
		}
	}
	if empty, err := loadTables(db.ctx, conn, s, nil); err != nil || len(empty) != 0 {
		t.Errorf("no names: %v, %v", empty, err)
	}
}

// byteOrder is said only of collations that sort as bytes do: the server's own order of texts that bytes and languages
// sort differently must agree.
func TestDiscoverCollations(t *testing.T) {
	db := newTestDB(t)
	schema, conn, s := inSchema(db)
	collations := db.query(`
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.collname) FROM pg_collation c JOIN pg_namespace n ON n.oid = collnamespace
 WHERE collname ~ '^(C|POSIX|ucs_basic|pg_c_utf8|default|en.US.utf8|en-x-icu|und-x-icu|unicode|C.utf8|de_DE.utf8)$'
   AND (collencoding = -1 OR collencoding = pg_char_to_encoding(getdatabaseencoding())) ORDER BY 1`)
	definition := []string{"id int", `nm name`, `ch "char"`, `ts timestamptz`, `ar text[]`}
	for i, c := range collations {
		definition = append(definition, fmt.Sprintf("c%d text COLLATE %s", i, c[0]))
	}
	db.script(`CREATE TABLE t (` + strings.Join(definition, ", ") + `)`)
	tables, err := loadTables(db.ctx, conn, s, []tableName{{schema, "t"}})
	if err != nil {
		t.Fatal(err)
	}
	got := tables[tableName{schema, "t"}]
	var sawByteOrder bool
	for i, c := range collations {
		order := db.queryValue(`SELECT string_agg(v, ' ' ORDER BY v COLLATE ` + c[0] + `) FROM unnest('{a,B,é,z,Z,_,a-b,ab}'::text[]) v`)
		col := got.column(fmt.Sprintf("c%d", i))
		if col.byteOrder && order != "B Z _ a a-b ab z é" {
			t.Errorf("%s is said to be in byte order, but sorts %s", c[0], order)
		}
		sawByteOrder = sawByteOrder || col.byteOrder
		if want := c[0]; want != `pg_catalog."default"` && col.collation != want || want == `pg_catalog."default"` && col.collation != "" {
			t.Errorf("%s: collation %q", want, col.collation)
		}
		if strings.HasSuffix(c[0], `."C"`) && !col.byteOrder {
			t.Errorf("%s is not said to be in byte order", c[0])
		}
	}
	for _, name := range []string{"id", "nm", "ch", "ts"} {
		if !got.column(name).byteOrder {
			t.Errorf("%s has no collation but C and must be in byte order", name)
		}
	}
}

// countQueries counts what a connection sends.
type countQueries struct{ n int }

func (c *countQueries) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.n++
	return ctx
}

func (c *countQueries) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// Ten thousand tables (three hundred in the short form) take as many queries as three, and seconds.
func TestDiscoverManyTables(t *testing.T) {
	db := newTestDB(t)
	schema, conn, s := inSchema(db)
	s.discoverUnpublished = true
	n := 300
	if *longTests {
		n = 10000
	}
	var tracer countQueries
	config := conn.Config().Copy()
	config.Tracer = &tracer
	traced, err := pgx.ConnectConfig(db.ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { traced.Close(db.ctx) })

	count := func() (tables []*table, queries int, took time.Duration) {
		t.Helper()
		tracer.n = 0
		start := time.Now()
		var err error
		if tables, _, err = listTables(db.ctx, traced, s); err != nil {
			t.Fatal(err)
		}
		var names []tableName
		for _, t := range tables {
			names = append(names, t.tableName)
		}
		if loaded, err := loadTables(db.ctx, traced, s, names); err != nil || len(loaded) != len(names) {
			t.Fatalf("loaded %d of %d tables: %v", len(loaded), len(names), err)
		}
		took = time.Since(start)
		return tables, tracer.n, took
	}
	db.script(`CREATE TABLE r (a int) PARTITION BY RANGE (a); CREATE TABLE r1 PARTITION OF r FOR VALUES FROM (0) TO (1);
CREATE TABLE aa (a int PRIMARY KEY); CREATE TABLE ab ()`)
	_, few, _ := count()
	for from := 0; from < n; from += 500 {
		// Locks are held to the end of a transaction, so not all in one.
		db.script(fmt.Sprintf(`DO $$ BEGIN FOR i IN %d..%d LOOP EXECUTE format(
'CREATE TABLE t%%s (id int PRIMARY KEY, a text NOT NULL, b numeric(10,2), c timestamptz, d jsonb, UNIQUE (a))', i); END LOOP; END $$`,
			from, min(from+500, n)-1))
	}
	t.Cleanup(func() {
		for from := 0; from < n; from += 500 {
			db.script(fmt.Sprintf(`DO $$ BEGIN FOR i IN %d..%d LOOP EXECUTE format('DROP TABLE %s.t%%s', i); END LOOP; END $$`,
				from, min(from+500, n)-1, quoteIdent(schema)))
		}
	})
	tables, many, took := count()
	if few != many || len(tables) != n+3 {
		t.Errorf("%d queries for 3 tables, %d for %d", few, many, len(tables))
	}
	t.Logf("%d tables listed and loaded in %s by %d queries", len(tables), took, many)
	if limit := allow(10 * time.Second); took > limit {
		t.Errorf("took %s, want less than %s", took, limit)
	}
	if !slices.IsSortedFunc(tables, func(a, b *table) int { return a.compare(b.tableName) }) {
		t.Error("tables are not in order")
	}
	start := time.Now()
	if _, err := proposeCollections(tables, newTypeCatalog(), s); err != nil {
		t.Error(err)
	}
	t.Logf("collections made in %s", time.Since(start))
}

// Types are loaded with all that they are made of, in one query; unknown OIDs are no error.
func TestLoadTypes(t *testing.T) {
	db := newTestDB(t)
	schema, conn, s := inSchema(db)
	db.script(`
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE DOMAIN moods AS mood[];
CREATE DOMAIN short AS varchar(5) NOT NULL;
CREATE DOMAIN shorter AS short;
CREATE TYPE pair AS (a int, b mood);
CREATE TYPE moodrange AS RANGE (subtype = mood);
CREATE TABLE t (a moods, b shorter, c pair[], d moodrange, e int4, f int2vector, g box[])`)
	tables, err := loadTables(db.ctx, conn, s, []tableName{{schema, "t"}})
	if err != nil {
		t.Fatal(err)
	}
	oids := []uint32{4294967295}
	for _, c := range tables[tableName{schema, "t"}].columns {
		oids = append(oids, c.typeOID)
	}
	types := newTypeCatalog()
	if err := loadTypes(db.ctx, conn, types, oids); err != nil {
		t.Fatal(err)
	}
	named := func(sql string) *dataType {
		t.Helper()
		var oid uint32
		if err := db.control.QueryRow(db.ctx, `SELECT `+sql).Scan(&oid); err != nil {
			t.Fatal(err)
		}
		found := types.lookup(oid)
		if found == nil {
			t.Fatalf("%s was not loaded", sql)
		}
		return found
	}
	mood := named(`'mood'::regtype::oid`)
	if mood.kind != 'e' || mood.name != "mood" || mood.schema != schema || mood.delimiter != ',' {
		t.Errorf("mood: %+v", mood)
	}
	if got := named(`'moods'::regtype::oid`); got.kind != 'd' || types.lookup(got.base) == nil || types.lookup(got.base).element != mood.oid {
		t.Errorf("moods: %+v", got)
	}
	if got := named(`'shorter'::regtype::oid`); got.notNull || got.base != named(`'short'::regtype::oid`).oid {
		t.Errorf("shorter: %+v", got)
	}
	if got := named(`'short'::regtype::oid`); !got.notNull || got.base != 1043 || got.baseMod != 9 {
		t.Errorf("short: %+v", got)
	}
	if got := named(`'pair[]'::regtype::oid`); types.lookup(got.element) == nil || types.lookup(got.element).kind != 'c' {
		t.Errorf("pair[]: %+v", got)
	}
	if got := named(`'moodrange'::regtype::oid`); got.kind != 'r' || got.subtype != mood.oid {
		t.Errorf("moodrange: %+v", got)
	}
	if got := named(`'int2vector'::regtype::oid`); got.element != 0 {
		t.Errorf("int2vector: %+v", got)
	}
	if left := types.unknown(nil, named(`'moods'::regtype::oid`).oid); len(left) != 0 {
		t.Errorf("still unknown: %v", left)
	}
	db.requireVersion(140000)
	if err := loadTypes(db.ctx, conn, types, []uint32{oidOf(db, `SELECT rngmultitypid FROM pg_range WHERE rngtypid = 'moodrange'::regtype`)}); err != nil {
		t.Fatal(err)
	}
	if got := named(`rngmultitypid FROM pg_range WHERE rngtypid = 'moodrange'::regtype`); got.kind != 'm' ||
		got.subtype != named(`'moodrange'::regtype::oid`).oid {
		t.Errorf("multirange: %+v", got)
	}
}

func oidOf(db *testDB, sql string) uint32 {
	db.Helper()
	var oid uint32
	if err := db.control.QueryRow(db.ctx, sql).Scan(&oid); err != nil {
		db.Fatal(err)
	}
	return oid
}

// What the server writes as an array of names is read as those, byte by byte.
func TestArrayOfNames(t *testing.T) {
	for text, want := range map[string][]string{
		`{}`: {}, `{a}`: {"a"}, `{a,b}`: {"a", "b"}, `{"a b",c}`: {"a b", "c"},
		`{"a\"b","\\","{}","a,b"}`:  {`a"b`, `\`, "{}", "a,b"},
		"{x\xe9,\"y \xe9\",\u00e9}": {"x\xe9", "y \xe9", "\u00e9"}, `{"NULL",""}`: {"NULL", ""},
	} {
		if got := arrayOfNames(&text); !slices.Equal(got, want) {
			t.Errorf("%q is read as %q, want %q", text, got, want)
		}
	}
	if got := arrayOfNames(nil); got != nil {
		t.Errorf("NULL is read as %q", got)
	}
}

// TestIdleFilters: a filter that nothing fits is named, with what may have been meant.
func TestIdleFilters(t *testing.T) {
	s, err := parseConfig(edit(t, json.RawMessage(`{"address":"h","user":"u","advanced":{},"credentials":{"auth_type":"UserPassword","password":"p"}}`),
		map[string]any{
			"discoveryFilters": map[string]any{
				"include_schemas": []string{"Sales", " other "}, "exclude_schemas": []string{"none"}, "table_patterns": []string{"ORD*", " other.x", "z?"},
			},
			"advanced.publicationName": " pub ", "advanced.slotName": "slot\t", "advanced.watermarksTable": " a . B ",
		}))
	if err != nil {
		t.Fatal(err)
	}
	if s.publication != "pub" || s.slot != "slot" || s.watermarks != (tableName{"a", "b"}) {
		t.Errorf("%q, %q, %q", s.publication, s.slot, s.watermarks)
	}
	got := idleFilters(s, []string{"other", "public", "sales"}, []*table{{tableName: tableName{"other", "x"}}},
		map[string][]tableName{leftOutPattern: {{"other", "Orders"}}})
	wantLines(t, "warning", got, []string{
		`discoveryFilters.include_schemas has "Sales", and there is no schema of that name: did you mean "sales"? Names are taken in exact case`,
		`discoveryFilters.exclude_schemas has "none", and there is no schema of that name`,
		`discoveryFilters.table_patterns has "ORD*", which fits no table: did you mean other.Orders? Names are taken in exact case`,
		`discoveryFilters.table_patterns has "z?", which fits no table`,
	})
}
