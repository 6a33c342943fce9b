package main

// capture_fitness_test.go holds what a look tells of a table against the catalog of a real server: which changes of publications and
// tables leave another mark, which leave none, and which are told as a table whose changes are not sent. What a capture does
// about it is in e2e_situations_test.go.

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// looker reads what is sent of tables as a capture of them does.
func (db *testDB) looker(tables ...tableName) *capture {
	d := db.connect(nil)
	c := &capture{ctx: db.ctx, db: d, settings: d.settings}
	for _, t := range tables {
		c.bindings = append(c.bindings, &binding{resource: resource{table: t}})
	}
	return c
}

func (c *capture) sentOf(t testing.TB, table tableName) fitness {
	t.Helper()
	read, err := c.readFitness(c.ctx, c.bindings)
	if err != nil {
		t.Fatal(err)
	}
	return read[table]
}

// TestFitness: {t} is a table, {p} a partitioned one with a partition {l}, which is looked at where the case is about it; {o} is
// another table, {s} another schema. Each case has publications of its own.
func TestFitness(t *testing.T) {
	t.Parallel()
	const all = "WITH (publish_via_partition_root = true)"
	for _, test := range []struct {
		name    string
		from    int // major version
		members string
		sql     string
		look    string // t, p or l; t if empty
		same    bool   // the mark is the one from before
		unsent  string // contained in why
	}{
		{name: "nothing", sql: "", same: true},
		{name: "rights", sql: "GRANT SELECT ON {t} TO public", same: true},
		{name: "a column", sql: "ALTER TABLE {t} ADD COLUMN w int DEFAULT 1", same: true},
		{name: "an index", sql: "CREATE INDEX ON {t} (v); ANALYZE {t}", same: true},
		{name: "a trigger", sql: "CREATE TRIGGER tr BEFORE UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()", same: true},
		{name: "vacuum", sql: "VACUUM FULL {t}", same: true},
		{name: "truncate", sql: "TRUNCATE {t}", same: true},
		{name: "comments", sql: "COMMENT ON TABLE {t} IS 'x'; COMMENT ON PUBLICATION {pub} IS 'y'", same: true},
		{name: "identity", sql: "ALTER TABLE {t} REPLICA IDENTITY FULL", same: true},
		{name: "other tables", sql: "ALTER PUBLICATION {pub} ADD TABLE {o}; ALTER PUBLICATION {pub} DROP TABLE {o}", same: true},
		{name: "a new partition", sql: "CREATE TABLE {l}_2 PARTITION OF {p} FOR VALUES FROM (100) TO (200)", look: "p", same: true},
		{name: "the owner of a table in a schema", from: 15, members: "TABLES IN SCHEMA test", sql: "ALTER TABLE {t} OWNER TO CURRENT_USER; GRANT ALL ON {t} TO public", same: true},

		{name: "the publish list", sql: "ALTER PUBLICATION {pub} SET (publish = 'insert'); ALTER PUBLICATION {pub} SET (publish = 'insert, update, delete, truncate')"},
		{name: "via the root", sql: "ALTER PUBLICATION {pub} SET (publish_via_partition_root = false); ALTER PUBLICATION {pub} SET (publish_via_partition_root = true)", look: "p"},
		{name: "out and in", sql: "ALTER PUBLICATION {pub} DROP TABLE {t}; ALTER PUBLICATION {pub} ADD TABLE {t}"},
		{name: "set anew without it", sql: "ALTER PUBLICATION {pub} SET TABLE {o}; ALTER PUBLICATION {pub} SET TABLE {t}, {p}"},
		{name: "filtered", from: 15, sql: "ALTER PUBLICATION {pub} SET TABLE {t} WHERE (id > 5), {p}; ALTER PUBLICATION {pub} SET TABLE {t}, {p}"},
		{name: "a column list", from: 15, sql: "ALTER PUBLICATION {pub} SET TABLE {t} (id), {p}; ALTER PUBLICATION {pub} SET TABLE {t}, {p}"},
		{name: "made anew", sql: "DROP PUBLICATION {pub}; CREATE PUBLICATION {pub} FOR TABLE {t}, {p} " + all},
		{name: "renamed and back", sql: "ALTER PUBLICATION {pub} RENAME TO {pub}_x; ALTER PUBLICATION {pub}_x RENAME TO {pub}"},
		{name: "for all tables, renamed and back", members: "ALL TABLES", sql: "ALTER PUBLICATION {pub} RENAME TO {pub}_x; ALTER PUBLICATION {pub}_x RENAME TO {pub}"},
		{name: "the schema out and in", from: 15, members: "TABLES IN SCHEMA test", sql: "ALTER PUBLICATION {pub} DROP TABLES IN SCHEMA test; ALTER PUBLICATION {pub} ADD TABLES IN SCHEMA test"},
		{name: "out of the schema and in", from: 15, members: "TABLES IN SCHEMA test", sql: "ALTER TABLE {t} SET SCHEMA {s}; ALTER TABLE {s}.{n} SET SCHEMA test"},
		{name: "the root's entry", sql: "ALTER PUBLICATION {pub} SET (publish_via_partition_root = false)|ALTER PUBLICATION {pub} SET TABLE {t}; ALTER PUBLICATION {pub} SET TABLE {t}, {p}", look: "l"},

		{name: "not updates", sql: "ALTER PUBLICATION {pub} SET (publish = 'insert, delete')", unsent: "does not publish update"},
		{name: "no member", sql: "ALTER PUBLICATION {pub} DROP TABLE {t}", unsent: "does not have it any more; run ALTER PUBLICATION"},
		{name: "no publication", sql: "DROP PUBLICATION {pub}", unsent: "does not exist any more"},
		{name: "a root by its partitions", sql: "ALTER PUBLICATION {pub} SET (publish_via_partition_root = false)", look: "p", unsent: "(publish_via_partition_root = true)"},
		{name: "a partition by its root", sql: "", look: "l", same: true, unsent: "(publish_via_partition_root = false)"},
		{name: "a partition by its root, for all tables", members: "ALL TABLES", sql: "", look: "l", same: true, unsent: "(publish_via_partition_root = false)"},
		{name: "attached to a root that is published", sql: "ALTER TABLE {p} ATTACH PARTITION {t} FOR VALUES FROM (500) TO (600)", unsent: "as those of test.p_"},
		{name: "unlogged", members: "ALL TABLES", sql: "ALTER TABLE {t} SET UNLOGGED", same: true, unsent: "SET LOGGED"},
		{name: "an unlogged partition", sql: "ALTER TABLE {l} SET UNLOGGED", look: "p", same: true, unsent: "SET LOGGED"},
	} {
		t.Run(strings.ReplaceAll(test.name, " ", "-"), func(t *testing.T) {
			db := newTestDB(t)
			if db.version() < max(13, test.from)*10000 {
				t.Skip("not on this version")
			}
			other := db.createSchema("other")
			tables := map[string]tableName{"t": db.table("t"), "p": db.table("p"), "l": db.table("l"), "o": db.table("o")}
			db.table("l_2")
			names := []string{"{pub}", db.publication, "{s}", other, "{n}", tables["t"].name}
			for short, table := range tables {
				names = append(names, "{"+short+"}", table.String())
			}
			run := func(sql string) {
				for statement := range strings.SplitSeq(strings.NewReplacer(names...).Replace(sql), "; ") {
					if statement != "" {
						db.exec(statement)
					}
				}
			}
			run(`CREATE TABLE {t} (id int PRIMARY KEY, v text); CREATE TABLE {o} (id int PRIMARY KEY); CREATE TABLE {p} (id int PRIMARY KEY, v text)
				PARTITION BY RANGE (id); CREATE TABLE {l} PARTITION OF {p} FOR VALUES FROM (0) TO (100)`)
			members := test.members
			if members == "" {
				members = "TABLE {t}, {p}"
			}
			run("DROP PUBLICATION {pub}; CREATE PUBLICATION {pub} FOR " + members + " " + all)
			look := tables["t"]
			if test.look != "" {
				look = tables[test.look]
			}
			sql := test.sql
			if first, second, ok := strings.Cut(sql, "|"); ok {
				run(first)
				sql = second
			}
			c := db.looker(look)
			before := c.sentOf(t, look)
			run(sql)
			now := c.sentOf(t, look)
			if same := before.mark == now.mark; same != test.same {
				t.Errorf("the mark was %q, is %q: the same: %t", before.mark, now.mark, same)
			}
			if before.mark == "" {
				t.Error("there is no mark")
			}
			if (test.unsent == "") != (now.unsent == "") || !strings.Contains(now.unsent, test.unsent) {
				t.Errorf("its changes are not sent because %q, want %q", now.unsent, test.unsent)
			}
			if test.unsent != "" && !test.same && before == now {
				t.Error("a look does not see it")
			}
		})
	}
}

// TestAccords: what was remembered by an image that knew no versions counts as far as it goes.
func TestAccords(t *testing.T) {
	for _, test := range []struct {
		remembered, now string
		want            bool
	}{
		{"", "1r:2 700 2.701", true},
		{"1r:2 700 2.701", "1r:2 700 2.701", true},
		{"1r:2 700 2.701", "1r:2 702 2.701", false},
		{"1r:2 700 2.701", "1r:3 700 3.702", false},
		{"1r:2 700 2.701", "", false},
		{"1r:2", "1r:2 700 2.701", true},
		{"1r:2", "1r:20 700 20.701", false},
		{"1r:2", "1:2 700 2.701", false},
		{"1r:2", "", false},
		{"1r:all", "1r:all 700", true},
	} {
		if have := accords(test.remembered, test.now); have != test.want {
			t.Errorf("%q accords with %q: %t", test.remembered, test.now, have)
		}
	}
}

// TestFitnessJudged: what follows from a look, by what was remembered, the phase, and how the server had the table before and behind what
// we added.
func TestFitnessJudged(t *testing.T) {
	sent, otherwise := fitness{mark: "1r:2 700 2.701"}, fitness{mark: "1r:3 702 3.703"}
	out := fitness{unsent: "it is not in it"}
	for _, test := range []struct {
		name        string
		phase       phase
		remembered  string
		before, now fitness
		lenient     bool
		verdict     string // "", "unsent" or "hidden"
		remembers   string
	}{
		{"the same", phaseActive, sent.mark, sent, sent, false, "", sent.mark},
		{"not known yet", phaseActive, "", sent, sent, false, "", sent.mark},
		{"otherwise", phaseActive, sent.mark, otherwise, otherwise, false, "hidden", otherwise.mark},
		{"otherwise amid a backfill", phaseBackfill, sent.mark, otherwise, otherwise, false, "hidden", otherwise.mark},
		{"otherwise, and still to be read", phasePending, sent.mark, otherwise, otherwise, false, "", otherwise.mark},
		{"parked", phaseMissing, sent.mark, otherwise, otherwise, false, "", sent.mark},
		{"out", phaseActive, sent.mark, out, out, false, "unsent", sent.mark},
		{"out, and still to be read", phasePending, sent.mark, out, out, false, "unsent", sent.mark},
		{"out, and we added it", phaseActive, sent.mark, out, otherwise, false, "hidden", otherwise.mark},
		{"out, which is put up with while it lasts", phaseActive, "", out, out, true, "", ""},
		{"taken out, which is put up with", phaseActive, sent.mark, out, out, true, "unsent", sent.mark},
	} {
		b := &binding{phase: test.phase, ledger: &ledger{}}
		b.meta.Sent = test.remembered
		s := &settings{publication: "p"}
		s.flags.skipPrerequisites = test.lenient
		look := func(f fitness) map[tableName]fitness { return map[tableName]fitness{b.name(): f} }
		unsent, hidden := judgeFitness([]*binding{b}, look(test.before), look(test.now), s)
		verdict := strings.Repeat("unsent", len(unsent.list)) + strings.Repeat("hidden", len(hidden.list))
		if verdict != test.verdict || b.meta.Sent != test.remembers {
			t.Errorf("%s: %q, and %q is remembered; want %q and %q", test.name, verdict, b.meta.Sent, test.verdict, test.remembers)
		}
	}
}

// TestFitnessCost: a look is one query, and cheap.
func TestFitnessCost(t *testing.T) {
	db := newTestDB(t)
	tables, limit := 1000, 5*time.Second
	if *longTests {
		tables = 10000
	}
	schema := db.createSchema("many")
	createManyTables(db, schema, tables, tables)
	var names []tableName
	for _, row := range db.query("SELECT relname FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind = 'r'", quoteIdent(schema)) {
		names = append(names, tableName{schema, row[0]})
	}
	c := db.looker(names...)
	for _, what := range []string{"the first look", "the next"} {
		began := time.Now()
		c.sentOf(t, names[0])
		took := time.Since(began)
		t.Logf("%s at %d tables: %v", what, len(names), took)
		if took > allow(limit) {
			t.Errorf("%s took %v", what, took)
		}
	}
	if f := c.sentOf(t, names[0]); f.mark == "" || len(names) < tables {
		t.Errorf("%d tables, the first is sent as %s", len(names), fmt.Sprint(f))
	}
}

// partitionsByThemselves starts a capture of the two partitions of a root that is not captured, with looks far apart.
func partitionsByThemselves(t *testing.T, db *testDB, members string, viaRoot bool) (r *testRuntime, root, one, two tableName) {
	t.Helper()
	root, one, two = db.table("root"), db.table("one"), db.table("two")
	db.script(fmt.Sprintf(`CREATE TYPE %[4]s AS ENUM ('x'); -- columns of types of users are described by messages of their own
		CREATE TABLE %[1]s (id int PRIMARY KEY, v text, e %[4]s) PARTITION BY RANGE (id);
		CREATE TABLE %[2]s PARTITION OF %[1]s FOR VALUES FROM (0) TO (100); CREATE TABLE %[3]s PARTITION OF %[1]s FOR VALUES FROM (100) TO (200);
		INSERT INTO %[1]s SELECT i, 'a' FROM generate_series(1, 199) i`, quoteTable(root), quoteTable(one), quoteTable(two),
		quoteTable(tableName{db.createSchema("kinds"), "kind"})))
	db.grant(root, one, two)
	members = strings.NewReplacer("{root}", quoteTable(root), "{one}", quoteTable(one), "{two}", quoteTable(two)).Replace(members)
	db.exec(fmt.Sprintf("ALTER PUBLICATION %s SET (publish_via_partition_root = %t)", quoteIdent(db.publication), viaRoot))
	db.exec(fmt.Sprintf("ALTER PUBLICATION %s ADD TABLE %s", quoteIdent(db.publication), members))
	r = edgeStart(db, runtimeOptions{config: db.edgeConfig(map[string]any{"capture_as_partitions": true})},
		map[tableName]backfillMode{one: modeAutomatic, two: modeAutomatic})
	r.waitStreaming()
	return r, root, one, two
}

// TestFitnessSentAsRoot: partitions are captured by themselves, and for a moment that leaves no trace in the catalog the changes of
// one are sent as those of its root. The stream proves it.
func TestFitnessSentAsRoot(t *testing.T) {
	t.Parallel()
	db := newTestDB(t)
	db.requireVersion(130000)
	r, root, one, two := partitionsByThemselves(t, db, "{one}, {two}", true)
	db.exec(fmt.Sprintf("ALTER PUBLICATION %s ADD TABLE %s", quoteIdent(db.publication), quoteTable(root)))
	db.exec(fmt.Sprintf("UPDATE %s SET v = 'b' WHERE id = 7", quoteTable(root)))
	db.exec(fmt.Sprintf("ALTER PUBLICATION %s DROP TABLE %s", quoteIdent(db.publication), quoteTable(root)))
	r.waitLog(fmt.Sprintf("Changes of %s were sent as those of %s", one, root))
	db.exec(fmt.Sprintf("UPDATE %s SET v = 'c' WHERE id IN (8, 108)", quoteTable(root)))
	r.awaitRows(db, one, two)
	r.waitStreaming()
	r.finish()
	r.checkRows(db, one)
	r.checkRows(db, two)
}

// TestFitnessSentByItself: a root is captured whose changes are sent as those of its partitions for a moment. The stream shows
// it, and what is sent is looked at at once.
func TestFitnessSentByItself(t *testing.T) {
	t.Parallel()
	db := newTestDB(t)
	db.requireVersion(130000)
	root, one := db.table("root"), db.table("one")
	db.script(fmt.Sprintf(`CREATE TABLE %[1]s (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
		CREATE TABLE %[2]s PARTITION OF %[1]s FOR VALUES FROM (0) TO (100); INSERT INTO %[1]s SELECT i, 'a' FROM generate_series(1, 50) i`,
		quoteTable(root), quoteTable(one)))
	db.grant(root, one)
	db.publish(root)
	r := edgeStart(db, runtimeOptions{config: db.config()}, map[tableName]backfillMode{root: modeAutomatic})
	r.waitStreaming()
	began := time.Now()
	db.exec(fmt.Sprintf("ALTER PUBLICATION %s SET (publish_via_partition_root = false)", quoteIdent(db.publication)))
	db.exec(fmt.Sprintf("UPDATE %s SET v = 'b' WHERE id = 7", quoteTable(root)))
	db.exec(fmt.Sprintf("ALTER PUBLICATION %s SET (publish_via_partition_root = true)", quoteIdent(db.publication)))
	r.waitLog(fmt.Sprintf("%s was perhaps left out for some time by publication", root))
	if took := time.Since(began); took > sendingInterval/2 {
		t.Errorf("noticed after %v", took)
	}
	r.awaitRows(db, root)
	r.finish()
	r.checkRows(db, root)
}

// TestFitnessPartitionsViaRoot: partitions captured by themselves are published as their root for a while: they are parked, the
// statement shown is run, and they are captured anew; and for a moment while the capture is stopped.
func TestFitnessPartitionsViaRoot(t *testing.T) {
	t.Parallel()
	db := newTestDB(t)
	db.requireVersion(130000)
	r, root, one, two := partitionsByThemselves(t, db, "{root}", false)
	set := func(to string) {
		db.exec(fmt.Sprintf("ALTER PUBLICATION %s SET (publish_via_partition_root = %s)", quoteIdent(db.publication), to))
	}
	r.finish()
	set("true")
	db.exec(fmt.Sprintf("UPDATE %s SET v = 'b' WHERE id IN (7, 107)", quoteTable(root)))
	set("false")
	r.start()
	r.waitLog("were perhaps left out for some time by publication")
	r.awaitRows(db, one, two)
	r.finish()

	r.armed = []string{testHurryVariable + "=500ms"}
	r.start()
	r.waitStreaming()
	set("true")
	r.waitLog(fmt.Sprintf("are no longer captured: publication %q publishes its changes as those of %s; capture that table instead, or run ALTER "+
		"PUBLICATION %s SET (publish_via_partition_root = false)", db.publication, root, quoteIdent(db.publication)))
	db.exec(fmt.Sprintf("UPDATE %s SET v = 'c' WHERE id IN (8, 108)", quoteTable(root)))
	set("false")
	r.awaitRows(db, one, two)
	r.finish()
	r.checkRows(db, one)
	r.checkRows(db, two)
}
